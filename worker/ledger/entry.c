#include "worker/ledger/entry.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/ledger/parse.h"

/* Appending with one sticky answer: after the first append past the ceiling nothing counts. */
struct enc {
    struct buf *b;
    bool ok;
};

#define LIT(e, literal) enc_add((e), "" literal, sizeof(literal) - 1)
/* A member, with the comma before or after it; enc is one of the functions below. */
#define NEXT(e, name, enc, value) (LIT(e, ",\"" name "\":"), enc((e), (value)))
#define LEAD(e, name, enc, value) (LIT(e, "\"" name "\":"), enc((e), (value)), LIT(e, ","))

static inline void enc_add(struct enc *e, const char *p, size_t n) {
    e->ok = e->ok && buf_add(e->b, p, n);
}

static void enc_uint(struct enc *e, uint64_t v) {
    char digits[20];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + v % 10);
        v /= 10;
    } while (v);
    enc_add(e, digits + at, sizeof digits - at);
}

static void enc_int(struct enc *e, int64_t v) {
    if (v < 0) LIT(e, "-");
    enc_uint(e, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
}

static void enc_text(struct enc *e, const char *s) {
    LIT(e, "\"");
    e->ok = e->ok && text_json(e->b, str_c(s));
    LIT(e, "\"");
}

static void enc_hex(struct enc *e, const uint8_t sha[SHA256_LEN]) {
    char text[HEX_LEN(SHA256_LEN) + 1];
    hex(sha, SHA256_LEN, text);
    LIT(e, "\"");
    enc_add(e, text, HEX_LEN(SHA256_LEN));
    LIT(e, "\"");
}

/* Numbers written as ranges: 7,[9,12],20. */
struct ranges {
    int64_t a, z;
    bool pending; /* a..z is not written yet */
    bool comma;   /* something was written before */
};

static void ranges_flush(struct enc *e, struct ranges *r) {
    if (!r->pending) return;
    if (r->comma) LIT(e, ",");
    if (r->a == r->z) {
        enc_int(e, r->a);
    } else {
        LIT(e, "[");
        enc_int(e, r->a);
        LIT(e, ",");
        enc_int(e, r->z);
        LIT(e, "]");
    }
    r->comma = true;
    r->pending = false;
}

static void ranges_add(struct enc *e, struct ranges *r, int64_t v) {
    if (r->pending && v == r->z + 1) {
        r->z = v;
        return;
    }
    ranges_flush(e, r);
    r->a = r->z = v;
    r->pending = true;
}

const char *ledger_kind_name(enum ledger_kind kind) {
    switch (kind) {
    case LEDGER_DELIVERED:
        return "delivered";
    case LEDGER_SKIPPED:
        return "skipped";
    case LEDGER_PARKED:
        return "parked";
    case LEDGER_DEAD:
        return "dead";
    case LEDGER_REDRIVEN:
        return "redriven";
    case LEDGER_DISCARDED:
        return "discarded";
    case LEDGER_REPLAYED:
        return "replayed";
    }
    return "?";
}

static int compare_text(const char *a, const char *b) {
    if (a == b) return 0;
    if (!a || !b) return a ? 1 : -1;
    return strcmp(a, b);
}

/* Kind, destination, objects before requests, then what makes two items one group. */
static int compare_group(const struct ledger_item *a, const struct ledger_item *b) {
    int d = (int)a->kind - (int)b->kind;
    if (!d) d = compare_text(a->dest, b->dest);
    if (!d) d = (b->key != NULL) - (a->key != NULL);
    if (!d && a->kind == LEDGER_DELIVERED) return 0;
    if (!d) d = compare_text(a->tier, b->tier);
    if (!d) d = (int)a->fault - (int)b->fault;
    if (!d) d = compare_text(a->why, b->why);
    if (!d) d = compare_text(a->who, b->who);
    return d;
}

static int compare_items(const void *a, const void *b) {
    const struct ledger_item *x = *(const struct ledger_item *const *)a;
    const struct ledger_item *y = *(const struct ledger_item *const *)b;
    int d = compare_group(x, y);
    if (d) return d;
    return (x->offsets[0] > y->offsets[0]) - (x->offsets[0] < y->offsets[0]);
}

/* Whether b can be written as the continuation of a. A delivered item has a hash of its own, and
 * offsets stay ascending, which keeps ledger_item_size() honest: ranges only ever get fewer. */
static bool mergeable(const struct ledger_item *a, const struct ledger_item *b) {
    return a->kind != LEDGER_DELIVERED && compare_group(a, b) == 0 &&
           a->offsets[a->n - 1] < b->offsets[0] && !a->origins == !b->origins;
}

/* "origin":[["topic",partition,[ranges]],...]: one origin for each offset, in the same order. */
static void enc_origins(struct enc *e, const struct ledger_item *const *items, size_t n) {
    const struct origin *last = NULL;
    struct ranges r = {0};
    LIT(e, ",\"origin\":[");
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < items[i]->n; k++) {
            const struct origin *o = &items[i]->origins[k];
            if (!last || last->partition != o->partition || strcmp(last->topic, o->topic) != 0) {
                ranges_flush(e, &r);
                if (last) LIT(e, "]],");
                LIT(e, "[");
                enc_text(e, o->topic);
                LIT(e, ",");
                enc_int(e, o->partition);
                LIT(e, ",[");
                r = (struct ranges){0};
                last = o;
            }
            ranges_add(e, &r, o->offset);
        }
    ranges_flush(e, &r);
    LIT(e, "]]]");
}

/* "offsets":[ranges] and what ends the group. */
static void enc_offsets(struct enc *e, const struct ledger_item *const *items, size_t n) {
    struct ranges r = {0};
    LIT(e, "\"offsets\":[");
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < items[i]->n; k++) ranges_add(e, &r, items[i]->offsets[k]);
    ranges_flush(e, &r);
    LIT(e, "]");
    if (items[0]->origins) enc_origins(e, items, n);
    LIT(e, "}");
}

static void enc_delivered_item(struct enc *e, const struct ledger_item *const *item) {
    const struct ledger_item *it = *item;
    LIT(e, "{");
    if (it->key) LEAD(e, "key", enc_text, it->key);
    if (it->status) LEAD(e, "status", enc_int, it->status);
    if (it->sha256) {
        LEAD(e, "sha256", enc_hex, it->sha256);
        LEAD(e, "size", enc_uint, it->size);
    }
    enc_offsets(e, item, 1);
}

/* {"to":"...","objects":[...],"requests":[...]} for each destination. */
static void enc_delivered(struct enc *e, const struct ledger_item *const *items, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const struct ledger_item *it = items[i];
        const struct ledger_item *before = i ? items[i - 1] : NULL;
        bool same_dest = before && compare_text(before->dest, it->dest) == 0;
        bool same_list = same_dest && !before->key == !it->key;
        if (before && !same_dest) LIT(e, "]},");
        if (!same_dest) {
            LIT(e, "{");
            if (it->dest) LEAD(e, "to", enc_text, it->dest);
        } else if (same_list) {
            LIT(e, ",");
        } else {
            LIT(e, "],");
        }
        if (!same_list && it->key)
            LIT(e, "\"objects\":[");
        else if (!same_list)
            LIT(e, "\"requests\":[");
        enc_delivered_item(e, &items[i]);
    }
    LIT(e, "]}");
}

static void enc_reason(struct enc *e, const struct ledger_item *it) {
    LIT(e, "{");
    if (it->dest) LEAD(e, "to", enc_text, it->dest);
    if (it->tier) LEAD(e, "tier", enc_text, it->tier);
    if (it->fault != FAULT_NONE) LEAD(e, "fault", enc_text, fault_name(it->fault));
    if (it->why) LEAD(e, "why", enc_text, it->why);
    if (it->who) LEAD(e, "who", enc_text, it->who);
}

static void enc_reasons(struct enc *e, const struct ledger_item *const *items, size_t n) {
    for (size_t i = 0, run; i < n; i += run) {
        for (run = 1; i + run < n && mergeable(items[i + run - 1], items[i + run]);) run++;
        if (i) LIT(e, ",");
        enc_reason(e, items[i]);
        enc_offsets(e, items + i, run);
    }
}

static void enc_outcomes(struct enc *e, const struct ledger_item *const *items, size_t n) {
    for (size_t i = 0, run; i < n; i += run) {
        enum ledger_kind kind = items[i]->kind;
        for (run = 1; i + run < n && items[i + run]->kind == kind;) run++;
        const char *name = ledger_kind_name(kind);
        LIT(e, ",\"");
        enc_add(e, name, strlen(name));
        LIT(e, "\":[");
        if (kind == LEDGER_DELIVERED)
            enc_delivered(e, items + i, run);
        else
            enc_reasons(e, items + i, run);
        LIT(e, "]");
    }
}

static void enc_rules(struct enc *e, const uint8_t rules[LEDGER_RULES_LEN]) {
    char text[HEX_LEN(LEDGER_RULES_LEN) + 1];
    hex(rules, LEDGER_RULES_LEN, text);
    LIT(e, "\"");
    enc_add(e, text, HEX_LEN(LEDGER_RULES_LEN));
    LIT(e, "\"");
}

static void enc_head(struct enc *e, const struct ledger_window *w) {
    LIT(e, "{");
    LEAD(e, "v", enc_int, w->maker ? 2 : 1);
    LIT(e, "\"group\":");
    enc_text(e, w->group);
    if (w->maker) NEXT(e, "cluster", enc_text, w->maker->cluster);
    NEXT(e, "seq", enc_uint, w->seq);
    NEXT(e, "topic", enc_text, w->topic);
    NEXT(e, "partition", enc_int, w->partition);
    NEXT(e, "first", enc_int, w->first);
    NEXT(e, "next", enc_int, w->next);
    NEXT(e, "opened", enc_int, w->opened_ms);
    NEXT(e, "settled", enc_int, w->settled_ms);
    LIT(e, ",\"version\":\"" RUNSINK_VERSION "\"");
    if (w->maker) NEXT(e, "rules", enc_rules, w->maker->rules);
    NEXT(e, "prev", enc_hex, w->prev);
}

static void enc_last(struct enc *e, const struct ledger_last *last) {
    LIT(e, ",\"last\":[");
    enc_int(e, last->offset);
    LIT(e, ",");
    enc_int(e, last->timestamp_ms);
    LIT(e, ",");
    enc_uint(e, last->bytes);
    LIT(e, "]");
}

static void enc_lost(struct enc *e, const struct ledger_window *w) {
    struct ranges r = {.a = w->first, .z = w->next - 1, .pending = true};
    LIT(e, ",\"lost\":[");
    ranges_flush(e, &r);
    LIT(e, "]");
}

static void enc_items(struct enc *e, const struct ledger_window *w) {
    const struct ledger_item **sorted = xmalloc(w->n_items * sizeof *sorted);
    size_t n = 0;
    for (size_t i = 0; i < w->n_items; i++)
        if (w->items[i].n) sorted[n++] = &w->items[i];
    qsort(sorted, n, sizeof *sorted, compare_items);
    enc_outcomes(e, sorted, n);
    free(sorted);
}

/* Hash and signature, over what was appended since start. */
static void enc_tail(struct enc *e, size_t start, const struct ledger_signer *signer,
                     uint8_t hash[SHA256_LEN]) {
    if (!e->ok) return;
    sha256(e->b->p + start, e->b->n - start, hash);
    NEXT(e, "hash", enc_hex, hash);
    if (signer) {
        uint8_t sig[LEDGER_SIG_LEN];
        ledger_sign(signer, hash, SHA256_LEN, sig);
        LIT(e, ",\"sig\":\"");
        e->ok = e->ok && base64_add(e->b, sig, sizeof sig);
        LIT(e, "\",\"key\":\"");
        enc_add(e, ledger_signer_id(signer), LEDGER_KEY_ID_LEN);
        LIT(e, "\"");
    }
    LIT(e, "}");
}

bool ledger_encode(const struct ledger_window *w, const struct ledger_signer *signer,
                   struct buf *out, uint8_t ret_hash[SHA256_LEN]) {
    assert(!w->lost || (w->n_items == 0 && !w->last));
    assert(!w->last || (w->last->offset >= w->first && w->last->offset < w->next));
    assert(!w->anew || (w->n_items == 0 && !w->lost && w->first == w->next));
    struct enc e = {.b = out, .ok = true};
    size_t start = out->n;
    uint8_t hash[SHA256_LEN];
    enc_head(&e, w);
    const char *rotation = signer && w->introduce ? ledger_signer_rotation(signer) : NULL;
    if (rotation) {
        LIT(&e, ",\"rotate\":");
        enc_add(&e, rotation, strlen(rotation));
    }
    if (w->maker && w->last) enc_last(&e, w->last);
    if (w->anew) NEXT(&e, "anew", enc_int, w->before);
    if (w->lost) enc_lost(&e, w);
    enc_items(&e, w);
    enc_tail(&e, start, signer, hash);
    if (e.ok)
        memcpy(ret_hash, hash, SHA256_LEN);
    else
        out->n = start;
    return e.ok;
}

/* What text_json makes of it, at most, with the quotes. */
static size_t text_size(const char *s) {
    size_t n = 2;
    for (; s && *s; s++) {
        unsigned char c = (unsigned char)*s;
        n += c < 0x20 ? 6 : c == '"' || c == '\\' ? 2 : c >= 0x80 ? 3 : 1;
    }
    return n;
}

static size_t digits(int64_t v) {
    size_t n = v < 0 ? 2 : 1;
    for (; v > 9 || v < -9; v /= 10) n++;
    return n;
}

/* A range is "[a,z],", and so is the room for a single number: it may become a range's end when two
 * items are merged. */
static size_t range_size(int64_t z) {
    return 2 * digits(z) + 4;
}

static size_t offsets_size(const struct ledger_item *it) {
    size_t n = 0;
    for (size_t k = 0; k < it->n; k++)
        if (k + 1 == it->n || it->offsets[k + 1] != it->offsets[k] + 1)
            n += range_size(it->offsets[k]);
    return n;
}

static size_t origins_size(const struct ledger_item *it) {
    size_t n = 0;
    for (size_t k = 0; it->origins && k < it->n; k++) {
        const struct origin *o = &it->origins[k];
        const struct origin *next = k + 1 < it->n ? o + 1 : NULL;
        bool same = next && next->partition == o->partition && strcmp(next->topic, o->topic) == 0;
        if (!same) n += sizeof "[,,[]]," - 1 + text_size(o->topic) + digits(o->partition);
        if (!same || next->offset != o->offset + 1) n += range_size(o->offset);
    }
    return n;
}

size_t ledger_item_size(const struct ledger_item *it) {
    /* Every member's name with its punctuation, as if the item had a destination and a list of its
     * own. */
    static const char frame[] = ",\"delivered\":[{\"to\":,\"requests\":[{\"key\":,\"status\":,"
                                "\"sha256\":\"\",\"size\":,\"offsets\":[],\"origin\":[]}]}],"
                                "\"tier\":,\"fault\":\"system\",\"why\":,";
    size_t n = sizeof frame - 1 + text_size(it->dest) + text_size(it->key) + text_size(it->tier) +
               text_size(it->why) + offsets_size(it) + origins_size(it);
    if (it->sha256) n += HEX_LEN(SHA256_LEN);
    if (it->who) n += sizeof "\"who\":," - 1 + text_size(it->who);
    return n + 20 /* size */ + 11 /* status */;
}

void ledger_record_key(char *ret, size_t size, const char *topic, int32_t partition) {
    snprintf(ret, size, "%s/%d", topic, (int)partition);
}

bool ledger_last_is(const struct ledger_last *last, int64_t offset, int64_t timestamp_ms,
                    size_t bytes) {
    return offset == last->offset && timestamp_ms == last->timestamp_ms && bytes == last->bytes;
}

/* ---- reading ---- */

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
        [LEDGER_REPLAYED] = ",\"replayed\":[",
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
    struct ledger_range range = {0};
    if (!parse_maybe(r, ",\"lost\":[")) return true;
    e->lost = true;
    if (e->has_last) return parse_fail(r, "no record of a window that was lost");
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

static bool read_cluster(struct parser *r, struct ledger_entry *e) {
    if (!parse_text(r, &e->cluster)) return false;
    return e->cluster.n <= CLUSTER_MAX || parse_fail(r, "a cluster's id");
}

/* [offset,timestamp,bytes]; a timestamp is -1 where there is none. */
static bool read_last(struct parser *r, struct ledger_entry *e) {
    uint64_t at = 0, bytes;
    if (e->form != 2 || !parse_maybe(r, ",\"last\":[")) return true;
    e->has_last = true;
    if (!parse_offset(r, &e->last.offset) || !parse_want(r, ",")) return false;
    if (e->last.offset < e->first || e->last.offset >= e->next)
        return parse_fail(r, "a record of the window");
    bool none = parse_maybe(r, "-1");
    if (!none && !parse_uint(r, INT64_MAX, &at)) return false;
    e->last.timestamp_ms = none ? -1 : (int64_t)at;
    if (!parse_want(r, ",") || !parse_uint(r, INT32_MAX, &bytes)) return false;
    e->last.bytes = (uint32_t)bytes;
    return parse_want(r, "]");
}

static bool read_root(struct parser *r, struct ledger_entry *e) {
    if (e->form != 2 || !parse_maybe(r, ",\"root\":")) return true;
    e->has_root = true;
    return parse_hash(r, e->root);
}

static bool read_head(struct parser *r, struct ledger_entry *e) {
    uint64_t opened, settled;
    e->form = parse_maybe(r, "{\"v\":2,") ? 2 : 1;
    if (e->form == 1 && !parse_want(r, "{\"v\":1,")) return false;
    if (!parse_want(r, "\"group\":") || !parse_text(r, &e->group)) return false;
    if (e->form == 2 && (!parse_want(r, ",\"cluster\":") || !read_cluster(r, e))) return false;
    e->head.p = r->p;
    if (!parse_want(r, ",\"seq\":") || !parse_uint(r, INT64_MAX, &e->seq) ||
        !parse_want(r, ",\"topic\":") || !parse_text(r, &e->topic))
        return false;
    if (!ledger_topic_legal(e->topic)) return parse_fail(r, "a topic's name");
    if (!parse_want(r, ",\"partition\":") || !parse_int32(r, &e->partition) ||
        !parse_want(r, ",\"first\":") || !parse_offset(r, &e->first) ||
        !parse_want(r, ",\"next\":") || !parse_offset(r, &e->next))
        return false;
    if (e->next < e->first) return parse_fail(r, "next not below first");
    e->head.n = (size_t)(r->p - e->head.p);
    if (!parse_want(r, ",\"opened\":") || !parse_uint(r, INT64_MAX, &opened) ||
        !parse_want(r, ",\"settled\":") || !parse_uint(r, INT64_MAX, &settled) ||
        !parse_want(r, ",\"version\":") || !parse_text(r, &e->version))
        return false;
    e->opened_ms = (int64_t)opened;
    e->settled_ms = (int64_t)settled;
    if (e->form == 2 &&
        (!parse_want(r, ",\"rules\":") || !parse_hex(r, e->rules, LEDGER_RULES_LEN)))
        return false;
    return parse_want(r, ",\"prev\":") && parse_hash(r, e->prev);
}

static bool read_body(struct parser *r, struct ledger_entry *e) {
    e->body.p = r->p;
    if (!read_anew(r, e) || (!e->anew && (!read_lost(r, e) || !read_outcomes(r, e)))) return false;
    e->body.n = (size_t)(r->p - e->body.p);
    return read_root(r, e);
}

static bool read_tail(struct parser *r, struct ledger_entry *e) {
    e->canonical = (struct str){r->start, (size_t)(r->p - r->start)};
    if (!parse_want(r, ",\"hash\":") || !parse_hash(r, e->hash)) return false;
    e->is_signed = parse_maybe(r, ",\"sig\":");
    if (e->is_signed && (!parse_base64(r, e->sig, LEDGER_SIG_LEN) || !parse_want(r, ",\"key\":") ||
                         !parse_key_id(r, e->key)))
        return false;
    if (!parse_want(r, "}")) return false;
    return r->p == r->end || parse_fail(r, "nothing after the entry");
}

bool ledger_read(struct str value, struct arena *arena, struct ledger_entry *ret,
                 struct ledger_read_error *reterr) {
    struct parser r = {.start = value.p, .p = value.p, .end = value.p + value.n, .arena = arena};
    struct ledger_entry e = {0};
    if (!value.p) r.start = r.p = r.end = "";
    if (!utf8_valid(value)) parse_fail(&r, "UTF-8");
    bool ok = !r.what && read_head(&r, &e) && read_rotation(&r, &e) && read_last(&r, &e) &&
              read_body(&r, &e) && read_tail(&r, &e);
    if (ok)
        *ret = e;
    else
        *reterr = (struct ledger_read_error){r.at, r.what};
    return ok;
}

/* Kafka's own rule for topic names. */
bool ledger_topic_legal(struct str s) {
    if (s.n == 0 || s.n > TOPIC_MAX || str_is(s, ".") || str_is(s, "..")) return false;
    for (size_t i = 0; i < s.n; i++)
        if (!char_is_plain(s.p[i])) return false;
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
