#include "worker/ledger/entry_read.h"

#include "worker/ledger/parse.h"

/* A number or [a,z] with a < z. */
static bool read_range(struct parser *r, struct ledger_range *ret) {
    struct ledger_range v;
    if (!parse_maybe(r, "[")) {
        if (!parse_offset(r, &v.a)) return false;
        v.z = v.a;
    } else {
        if (!parse_offset(r, &v.a) || !parse_want(r, ",") || !parse_offset(r, &v.z) ||
            !parse_want(r, "]"))
            return false;
        if (v.z <= v.a) return parse_fail(r, "a range that ascends");
    }
    *ret = v;
    return true;
}

static bool read_offsets(struct parser *r, struct ledger_group *g) {
    int64_t last = -2;
    if (!parse_want(r, "\"offsets\":[")) return false;
    do {
        g->offsets = parse_grow(r->arena, g->offsets, g->n_offsets, sizeof *g->offsets);
        struct ledger_range *v = &g->offsets[g->n_offsets];
        if (!read_range(r, v)) return false;
        if (v->a <= last + 1) return parse_fail(r, "ranges that ascend and don't touch");
        last = v->z;
        g->count += (uint64_t)(v->z - v->a) + 1;
        g->n_offsets++;
    } while (parse_maybe(r, ","));
    return parse_want(r, "]");
}

static bool read_origins(struct parser *r, struct ledger_group *g) {
    uint64_t count = 0;
    do {
        struct str topic;
        int32_t partition;
        if (!parse_want(r, "[") || !parse_text(r, &topic) || !parse_want(r, ",") ||
            !parse_int32(r, &partition) || !parse_want(r, ",["))
            return false;
        if (!ledger_topic_legal(topic)) return parse_fail(r, "a topic's name");
        do {
            g->origins = parse_grow(r->arena, g->origins, g->n_origins, sizeof *g->origins);
            struct ledger_origin *o = &g->origins[g->n_origins];
            *o = (struct ledger_origin){.topic = topic, .partition = partition};
            if (!read_range(r, &o->range)) return false;
            count += (uint64_t)(o->range.z - o->range.a) + 1;
            if (count > g->count) return parse_fail(r, "as many origins as offsets");
            g->n_origins++;
        } while (parse_maybe(r, ","));
        if (!parse_want(r, "]]")) return false;
    } while (parse_maybe(r, ","));
    if (count != g->count) return parse_fail(r, "as many origins as offsets");
    return parse_want(r, "]");
}

static bool read_records(struct parser *r, struct ledger_group *g) {
    return read_offsets(r, g) && (!parse_maybe(r, ",\"origin\":[") || read_origins(r, g)) &&
           parse_want(r, "}");
}

/* "name":"text", if it stands here. */
static bool read_member(struct parser *r, const char *name, struct str *ret) {
    return !parse_maybe(r, name) || (parse_text(r, ret) && parse_want(r, ","));
}

static struct ledger_group *add_group(struct parser *r, struct ledger_entry *e,
                                      enum ledger_kind kind) {
    e->groups = parse_grow(r->arena, e->groups, e->n_groups, sizeof *e->groups);
    struct ledger_group *g = &e->groups[e->n_groups++];
    *g = (struct ledger_group){.kind = kind};
    return g;
}

static bool read_delivered_item(struct parser *r, struct ledger_entry *e, struct str to,
                                bool object) {
    struct ledger_group *g = add_group(r, e, LEDGER_DELIVERED);
    g->to = to;
    g->object = object;
    if (!parse_want(r, "{")) return false;
    if (object && (!parse_want(r, "\"key\":") || !parse_text(r, &g->key) || !parse_want(r, ",")))
        return false;
    if (parse_maybe(r, "\"status\":")) {
        int32_t status;
        if (!parse_int32(r, &status) || !parse_want(r, ",")) return false;
        g->status = status;
    }
    if (parse_maybe(r, "\"sha256\":")) {
        g->hashed = true;
        if (!parse_hash(r, g->sha256) || !parse_want(r, ",\"size\":") ||
            !parse_uint(r, UINT64_MAX, &g->size) || !parse_want(r, ","))
            return false;
    }
    return read_records(r, g);
}

static bool read_delivered_list(struct parser *r, struct ledger_entry *e, struct str to,
                                bool object) {
    do {
        if (!read_delivered_item(r, e, to, object)) return false;
    } while (parse_maybe(r, ","));
    return parse_want(r, "]");
}

static bool read_destination(struct parser *r, struct ledger_entry *e) {
    struct str to = {0};
    if (!parse_want(r, "{") || !read_member(r, "\"to\":", &to)) return false;
    bool objects = parse_maybe(r, "\"objects\":[");
    if (objects && !read_delivered_list(r, e, to, true)) return false;
    if (!objects || parse_maybe(r, ",")) {
        if (!parse_want(r, "\"requests\":[") || !read_delivered_list(r, e, to, false)) return false;
    }
    return parse_want(r, "}");
}

static bool read_reason(struct parser *r, struct ledger_entry *e, enum ledger_kind kind) {
    struct ledger_group *g = add_group(r, e, kind);
    return parse_want(r, "{") && read_member(r, "\"to\":", &g->to) &&
           read_member(r, "\"tier\":", &g->tier) && read_member(r, "\"fault\":", &g->fault) &&
           read_member(r, "\"why\":", &g->why) &&
           (kind != LEDGER_DISCARDED || read_member(r, "\"who\":", &g->who)) && read_records(r, g);
}

static bool read_outcomes(struct parser *r, struct ledger_entry *e) {
    static const char *const openings[LEDGER_KINDS] = {
        [LEDGER_DELIVERED] = ",\"delivered\":[", [LEDGER_SKIPPED] = ",\"skipped\":[",
        [LEDGER_PARKED] = ",\"parked\":[",       [LEDGER_DEAD] = ",\"dead\":[",
        [LEDGER_REDRIVEN] = ",\"redriven\":[",   [LEDGER_DISCARDED] = ",\"discarded\":[",
    };
    for (int kind = 0; kind < LEDGER_KINDS; kind++) {
        if (!parse_maybe(r, openings[kind])) continue;
        do {
            bool ok = kind == LEDGER_DELIVERED ? read_destination(r, e)
                                               : read_reason(r, e, (enum ledger_kind)kind);
            if (!ok) return false;
        } while (parse_maybe(r, ","));
        if (!parse_want(r, "]")) return false;
    }
    return true;
}

static bool read_lost(struct parser *r, struct ledger_entry *e) {
    struct ledger_range range;
    if (!parse_maybe(r, ",\"lost\":[")) return true;
    e->lost = true;
    if (!read_range(r, &range)) return false;
    if (range.a != e->first || range.z != e->next - 1)
        return parse_fail(r, "the window as lost range");
    return parse_want(r, "]");
}

static bool read_anew(struct parser *r, struct ledger_entry *e) {
    if (!parse_maybe(r, ",\"anew\":")) return true;
    e->anew = true;
    if (e->first != e->next) return parse_fail(r, "an empty window of a topic made anew");
    return parse_offset(r, &e->before);
}

static bool read_rotation(struct parser *r, struct ledger_entry *e) {
    if (!parse_maybe(r, ",\"rotate\":{\"from\":")) return true;
    e->rotates = true;
    return parse_key_id(r, e->rotate_from) && parse_want(r, ",\"to\":") &&
           parse_base64(r, e->rotate_to, LEDGER_PUB_LEN) && parse_want(r, ",\"sig\":") &&
           parse_base64(r, e->rotate_sig, LEDGER_SIG_LEN) && parse_want(r, "}");
}

static bool read_head(struct parser *r, struct ledger_entry *e) {
    uint64_t opened, settled;
    if (!parse_want(r, "{\"v\":1,\"group\":") || !parse_text(r, &e->group) ||
        !parse_want(r, ",\"seq\":") || !parse_uint(r, INT64_MAX, &e->seq) ||
        !parse_want(r, ",\"topic\":") || !parse_text(r, &e->topic))
        return false;
    if (!ledger_topic_legal(e->topic)) return parse_fail(r, "a topic's name");
    if (!parse_want(r, ",\"partition\":") || !parse_int32(r, &e->partition) ||
        !parse_want(r, ",\"first\":") || !parse_offset(r, &e->first) ||
        !parse_want(r, ",\"next\":") || !parse_offset(r, &e->next))
        return false;
    if (e->next < e->first) return parse_fail(r, "next not below first");
    e->head = (struct str){r->start, (size_t)(r->p - r->start)};
    if (!parse_want(r, ",\"opened\":") || !parse_uint(r, INT64_MAX, &opened) ||
        !parse_want(r, ",\"settled\":") || !parse_uint(r, INT64_MAX, &settled) ||
        !parse_want(r, ",\"version\":") || !parse_text(r, &e->version))
        return false;
    e->opened_ms = (int64_t)opened;
    e->settled_ms = (int64_t)settled;
    return parse_want(r, ",\"prev\":") && parse_hash(r, e->prev);
}

static bool read_body(struct parser *r, struct ledger_entry *e) {
    e->body.p = r->p;
    if (!read_anew(r, e) || (!e->anew && (!read_lost(r, e) || !read_outcomes(r, e)))) return false;
    e->body.n = (size_t)(r->p - e->body.p);
    return true;
}

static bool read_tail(struct parser *r, struct ledger_entry *e) {
    e->canonical = (struct str){r->start, (size_t)(r->p - r->start)};
    if (!parse_want(r, ",\"hash\":") || !parse_hash(r, e->hash)) return false;
    e->is_signed = parse_maybe(r, ",\"sig\":");
    if (e->is_signed && (!parse_base64(r, e->sig, LEDGER_SIG_LEN) || !parse_want(r, ",\"key\":") ||
                         !parse_key_id(r, e->key)))
        return false;
    if (!parse_want(r, "}")) return false;
    return r->p == r->end || parse_fail(r, "nothing behind the entry");
}

bool ledger_read(struct str value, struct arena *arena, struct ledger_entry *ret,
                 struct ledger_read_error *reterr) {
    struct parser r = {.start = value.p, .p = value.p, .end = value.p + value.n, .arena = arena};
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
    struct parser r = {.start = slash + 1, .p = slash + 1, .end = key.p + key.n};
    int32_t partition;
    if (!ledger_topic_legal(topic) || !parse_int32(&r, &partition) || r.p != r.end) return false;
    *ret_topic = topic;
    *ret_partition = partition;
    return true;
}
