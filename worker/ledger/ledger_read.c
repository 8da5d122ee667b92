#include "worker/ledger/ledger_read.h"

#include "worker/ledger/canon.h"

/* A number or [a,z] with a < z. */
static bool read_range(struct canon *r, struct ledger_range *ret) {
    struct ledger_range v;
    if (!canon_maybe(r, "[")) {
        if (!canon_offset(r, &v.a)) return false;
        v.z = v.a;
    } else {
        if (!canon_offset(r, &v.a) || !canon_want(r, ",") || !canon_offset(r, &v.z) ||
            !canon_want(r, "]"))
            return false;
        if (v.z <= v.a) return canon_fail(r, "a range that ascends");
    }
    *ret = v;
    return true;
}

static bool read_offsets(struct canon *r, struct ledger_group *g) {
    int64_t last = -2;
    if (!canon_want(r, "\"offsets\":[")) return false;
    do {
        g->offsets = canon_grow(r->arena, g->offsets, g->n_offsets, sizeof *g->offsets);
        struct ledger_range *v = &g->offsets[g->n_offsets];
        if (!read_range(r, v)) return false;
        if (v->a <= last + 1) return canon_fail(r, "ranges that ascend and don't touch");
        last = v->z;
        g->count += (uint64_t)(v->z - v->a) + 1;
        g->n_offsets++;
    } while (canon_maybe(r, ","));
    return canon_want(r, "]");
}

static bool read_origins(struct canon *r, struct ledger_group *g) {
    uint64_t count = 0;
    do {
        struct str topic;
        int32_t partition;
        if (!canon_want(r, "[") || !canon_text(r, &topic) || !canon_want(r, ",") ||
            !canon_int32(r, &partition) || !canon_want(r, ",["))
            return false;
        if (!ledger_topic_legal(topic)) return canon_fail(r, "a topic's name");
        do {
            g->origins = canon_grow(r->arena, g->origins, g->n_origins, sizeof *g->origins);
            struct ledger_origin *o = &g->origins[g->n_origins];
            *o = (struct ledger_origin){.topic = topic, .partition = partition};
            if (!read_range(r, &o->range)) return false;
            count += (uint64_t)(o->range.z - o->range.a) + 1;
            if (count > g->count) return canon_fail(r, "as many origins as offsets");
            g->n_origins++;
        } while (canon_maybe(r, ","));
        if (!canon_want(r, "]]")) return false;
    } while (canon_maybe(r, ","));
    if (count != g->count) return canon_fail(r, "as many origins as offsets");
    return canon_want(r, "]");
}

static bool read_records(struct canon *r, struct ledger_group *g) {
    return read_offsets(r, g) && (!canon_maybe(r, ",\"origin\":[") || read_origins(r, g)) &&
           canon_want(r, "}");
}

/* "name":"text", if it stands here. */
static bool read_member(struct canon *r, const char *name, struct str *ret) {
    return !canon_maybe(r, name) || (canon_text(r, ret) && canon_want(r, ","));
}

static struct ledger_group *add_group(struct canon *r, struct ledger_entry *e,
                                      enum ledger_kind kind) {
    e->groups = canon_grow(r->arena, e->groups, e->n_groups, sizeof *e->groups);
    struct ledger_group *g = &e->groups[e->n_groups++];
    *g = (struct ledger_group){.kind = kind};
    return g;
}

static bool read_delivered_item(struct canon *r, struct ledger_entry *e, struct str to,
                                bool object) {
    struct ledger_group *g = add_group(r, e, LEDGER_DELIVERED);
    g->to = to;
    g->object = object;
    if (!canon_want(r, "{")) return false;
    if (object && (!canon_want(r, "\"key\":") || !canon_text(r, &g->key) || !canon_want(r, ",")))
        return false;
    if (canon_maybe(r, "\"status\":")) {
        int32_t status;
        if (!canon_int32(r, &status) || !canon_want(r, ",")) return false;
        g->status = status;
    }
    if (canon_maybe(r, "\"sha256\":")) {
        g->hashed = true;
        if (!canon_hash(r, g->sha256) || !canon_want(r, ",\"size\":") ||
            !canon_uint(r, UINT64_MAX, &g->size) || !canon_want(r, ","))
            return false;
    }
    return read_records(r, g);
}

static bool read_delivered_list(struct canon *r, struct ledger_entry *e, struct str to,
                                bool object) {
    do {
        if (!read_delivered_item(r, e, to, object)) return false;
    } while (canon_maybe(r, ","));
    return canon_want(r, "]");
}

static bool read_destination(struct canon *r, struct ledger_entry *e) {
    struct str to = {0};
    if (!canon_want(r, "{") || !read_member(r, "\"to\":", &to)) return false;
    bool objects = canon_maybe(r, "\"objects\":[");
    if (objects && !read_delivered_list(r, e, to, true)) return false;
    if (!objects || canon_maybe(r, ",")) {
        if (!canon_want(r, "\"requests\":[") || !read_delivered_list(r, e, to, false)) return false;
    }
    return canon_want(r, "}");
}

static bool read_reason(struct canon *r, struct ledger_entry *e, enum ledger_kind kind) {
    struct ledger_group *g = add_group(r, e, kind);
    return canon_want(r, "{") && read_member(r, "\"to\":", &g->to) &&
           read_member(r, "\"tier\":", &g->tier) && read_member(r, "\"fault\":", &g->fault) &&
           read_member(r, "\"why\":", &g->why) &&
           (kind != LEDGER_DISCARDED || read_member(r, "\"who\":", &g->who)) && read_records(r, g);
}

static bool read_outcomes(struct canon *r, struct ledger_entry *e) {
    static const char *const openings[LEDGER_KINDS] = {
        [LEDGER_DELIVERED] = ",\"delivered\":[", [LEDGER_SKIPPED] = ",\"skipped\":[",
        [LEDGER_PARKED] = ",\"parked\":[",       [LEDGER_DEAD] = ",\"dead\":[",
        [LEDGER_REDRIVEN] = ",\"redriven\":[",   [LEDGER_DISCARDED] = ",\"discarded\":[",
    };
    for (int kind = 0; kind < LEDGER_KINDS; kind++) {
        if (!canon_maybe(r, openings[kind])) continue;
        do {
            bool ok = kind == LEDGER_DELIVERED ? read_destination(r, e)
                                               : read_reason(r, e, (enum ledger_kind)kind);
            if (!ok) return false;
        } while (canon_maybe(r, ","));
        if (!canon_want(r, "]")) return false;
    }
    return true;
}

static bool read_lost(struct canon *r, struct ledger_entry *e) {
    struct ledger_range range;
    if (!canon_maybe(r, ",\"lost\":[")) return true;
    e->lost = true;
    if (!read_range(r, &range)) return false;
    if (range.a != e->first || range.z != e->next - 1)
        return canon_fail(r, "the window as lost range");
    return canon_want(r, "]");
}

static bool read_anew(struct canon *r, struct ledger_entry *e) {
    if (!canon_maybe(r, ",\"anew\":")) return true;
    e->anew = true;
    if (e->first != e->next) return canon_fail(r, "an empty window of a topic made anew");
    return canon_offset(r, &e->before);
}

static bool read_rotation(struct canon *r, struct ledger_entry *e) {
    if (!canon_maybe(r, ",\"rotate\":{\"from\":")) return true;
    e->rotates = true;
    return canon_key_id(r, e->rotate_from) && canon_want(r, ",\"to\":") &&
           canon_base64(r, e->rotate_to, LEDGER_PUB_LEN) && canon_want(r, ",\"sig\":") &&
           canon_base64(r, e->rotate_sig, LEDGER_SIG_LEN) && canon_want(r, "}");
}

static bool read_head(struct canon *r, struct ledger_entry *e) {
    uint64_t opened, settled;
    if (!canon_want(r, "{\"v\":1,\"group\":") || !canon_text(r, &e->group) ||
        !canon_want(r, ",\"seq\":") || !canon_uint(r, INT64_MAX, &e->seq) ||
        !canon_want(r, ",\"topic\":") || !canon_text(r, &e->topic))
        return false;
    if (!ledger_topic_legal(e->topic)) return canon_fail(r, "a topic's name");
    if (!canon_want(r, ",\"partition\":") || !canon_int32(r, &e->partition) ||
        !canon_want(r, ",\"first\":") || !canon_offset(r, &e->first) ||
        !canon_want(r, ",\"next\":") || !canon_offset(r, &e->next))
        return false;
    if (e->next < e->first) return canon_fail(r, "next not below first");
    e->head = (struct str){r->start, (size_t)(r->p - r->start)};
    if (!canon_want(r, ",\"opened\":") || !canon_uint(r, INT64_MAX, &opened) ||
        !canon_want(r, ",\"settled\":") || !canon_uint(r, INT64_MAX, &settled) ||
        !canon_want(r, ",\"version\":") || !canon_text(r, &e->version))
        return false;
    e->opened_ms = (int64_t)opened;
    e->settled_ms = (int64_t)settled;
    return canon_want(r, ",\"prev\":") && canon_hash(r, e->prev);
}

static bool read_body(struct canon *r, struct ledger_entry *e) {
    e->body.p = r->p;
    if (!read_anew(r, e) || (!e->anew && (!read_lost(r, e) || !read_outcomes(r, e)))) return false;
    e->body.n = (size_t)(r->p - e->body.p);
    return true;
}

static bool read_tail(struct canon *r, struct ledger_entry *e) {
    e->canonical = (struct str){r->start, (size_t)(r->p - r->start)};
    if (!canon_want(r, ",\"hash\":") || !canon_hash(r, e->hash)) return false;
    e->is_signed = canon_maybe(r, ",\"sig\":");
    if (e->is_signed && (!canon_base64(r, e->sig, LEDGER_SIG_LEN) || !canon_want(r, ",\"key\":") ||
                         !canon_key_id(r, e->key)))
        return false;
    if (!canon_want(r, "}")) return false;
    return r->p == r->end || canon_fail(r, "nothing behind the entry");
}

bool ledger_read(struct str value, struct arena *arena, struct ledger_entry *ret,
                 struct ledger_read_error *reterr) {
    struct canon r = {.start = value.p, .p = value.p, .end = value.p + value.n, .arena = arena};
    struct ledger_entry e = {0};
    if (!value.p) r.start = r.p = r.end = "";
    bool ok = read_head(&r, &e) && read_rotation(&r, &e) && read_body(&r, &e) && read_tail(&r, &e);
    if (ok)
        *ret = e;
    else
        *reterr = (struct ledger_read_error){r.at, r.what};
    return ok;
}

/* Kafka's own rule for topic names. */
bool ledger_topic_legal(struct str s) {
    if (s.n == 0 || s.n > TOPIC_MAX || str_is(s, ".") || str_is(s, "..")) return false;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '.' || c == '_' || c == '-';
        if (!ok) return false;
    }
    return true;
}

bool ledger_read_key(struct str key, struct str *ret_topic, int32_t *ret_partition) {
    const char *slash = key.n ? memchr(key.p, '/', key.n) : NULL;
    if (!slash) return false;
    struct str topic = {key.p, (size_t)(slash - key.p)};
    struct canon r = {.start = slash + 1, .p = slash + 1, .end = key.p + key.n};
    int32_t partition;
    if (!ledger_topic_legal(topic) || !canon_int32(&r, &partition) || r.p != r.end) return false;
    *ret_topic = topic;
    *ret_partition = partition;
    return true;
}
