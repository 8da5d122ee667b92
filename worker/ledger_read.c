#include "worker/ledger_read.h"

struct reader {
    const char *start, *p, *end;
    struct arena *arena;
    const char *what; /* the first thing that was expected and not found */
    size_t at;
};

static bool fail(struct reader *r, const char *what) {
    if (r->what) return false;
    r->what = what;
    r->at = (size_t)(r->p - r->start);
    return false;
}

/* Takes the literal if it stands here. */
static bool maybe(struct reader *r, const char *literal) {
    size_t n = strlen(literal);
    if ((size_t)(r->end - r->p) < n || memcmp(r->p, literal, n) != 0) return false;
    r->p += n;
    return true;
}

static bool want(struct reader *r, const char *literal) {
    return maybe(r, literal) || fail(r, literal);
}

static bool read_uint(struct reader *r, uint64_t max, uint64_t *ret) {
    const char *p = r->p;
    uint64_t v = 0;
    for (; p < r->end && *p >= '0' && *p <= '9'; p++) {
        unsigned d = (unsigned)(*p - '0');
        if (v > (max - d) / 10) return fail(r, "a number in range");
        v = v * 10 + d;
    }
    if (p == r->p || (*r->p == '0' && p > r->p + 1)) return fail(r, "a number");
    r->p = p;
    *ret = v;
    return true;
}

static bool read_offset(struct reader *r, int64_t *ret) {
    uint64_t v;
    if (!read_uint(r, INT64_MAX - 1, &v)) return false; /* so that next = z + 1 exists */
    *ret = (int64_t)v;
    return true;
}

static bool read_int32(struct reader *r, int32_t *ret) {
    uint64_t v;
    if (!read_uint(r, INT32_MAX, &v)) return false;
    *ret = (int32_t)v;
    return true;
}

static int nibble(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One escape behind the backslash, in the only form that buf_json() gives that character. */
static bool read_escape(struct reader *r, char *ret) {
    if (r->p == r->end) return fail(r, "an escape");
    switch (*r->p++) {
    case '"':
        *ret = '"';
        return true;
    case '\\':
        *ret = '\\';
        return true;
    case 'n':
        *ret = '\n';
        return true;
    case 'r':
        *ret = '\r';
        return true;
    case 't':
        *ret = '\t';
        return true;
    case 'u':
        break;
    default:
        return fail(r, "a known escape");
    }
    if (r->end - r->p < 4 || memcmp(r->p, "00", 2) != 0) return fail(r, "a control character");
    int high = nibble(r->p[2]), low = nibble(r->p[3]);
    int c = high * 16 + low;
    if (high < 0 || low < 0 || c >= 0x20 || c == '\n' || c == '\r' || c == '\t')
        return fail(r, "a control character");
    r->p += 4;
    *ret = (char)c;
    return true;
}

static bool read_text(struct reader *r, struct str *ret) {
    if (!want(r, "\"")) return false;
    const char *start = r->p;
    bool escaped = false;
    while (r->p < r->end && *r->p != '"') {
        if ((unsigned char)*r->p < 0x20) return fail(r, "an escaped control character");
        bool backslash = *r->p++ == '\\';
        if (backslash && r->p < r->end) r->p++;
        escaped = escaped || backslash;
    }
    const char *stop = r->p;
    if (!want(r, "\"")) return false;
    if (!escaped) {
        *ret = (struct str){start, (size_t)(stop - start)};
        return true;
    }
    char *to = arena_alloc(r->arena, (size_t)(stop - start));
    size_t n = 0;
    for (r->p = start; r->p < stop;) {
        char c = *r->p++;
        if (c == '\\' && !read_escape(r, &c)) return false;
        to[n++] = c;
    }
    r->p = stop + 1;
    *ret = (struct str){to, n};
    return true;
}

static bool read_hex(struct reader *r, uint8_t *ret, size_t n) {
    if ((size_t)(r->end - r->p) < HEX_LEN(n)) return fail(r, "hex digits");
    for (size_t i = 0; i < HEX_LEN(n); i++)
        if (nibble(r->p[i]) < 0) return fail(r, "lower-case hex digits");
    unhex((struct str){r->p, HEX_LEN(n)}, ret, n);
    r->p += HEX_LEN(n);
    return true;
}

static bool read_hash(struct reader *r, uint8_t ret[SHA256_LEN]) {
    return want(r, "\"") && read_hex(r, ret, SHA256_LEN) && want(r, "\"");
}

/* "<16 hex digits>" */
static bool read_key_id(struct reader *r, char ret[LEDGER_KEY_ID_LEN + 1]) {
    uint8_t bytes[LEDGER_KEY_ID_LEN / 2];
    if (!want(r, "\"") || !read_hex(r, bytes, sizeof bytes) || !want(r, "\"")) return false;
    hex(bytes, sizeof bytes, ret);
    return true;
}

/* "<base64 of exactly n bytes>" */
static bool read_base64(struct reader *r, uint8_t *ret, size_t n) {
    struct str text;
    size_t digits = (n + 2) / 3 * 4;
    if (!want(r, "\"")) return false;
    if ((size_t)(r->end - r->p) < digits) return fail(r, "base64");
    text = (struct str){r->p, digits};
    struct buf b;
    buf_init(&b, n);
    bool ok = unbase64_add(&b, text) && b.n == n;
    if (ok) memcpy(ret, b.p, n);
    buf_free(&b);
    if (!ok) return fail(r, "base64");
    r->p += digits;
    return want(r, "\"");
}

/* Room for one more element in an array of the arena's: doubles when n is a power of two. */
static void *grow(struct arena *a, void *array, size_t n, size_t size) {
    if (n & (n - 1)) return array;
    void *fresh = arena_alloc(a, (n ? 2 * n : 1) * size);
    if (n) memcpy(fresh, array, n * size);
    return fresh;
}

/* A number or [a,z] with a < z. */
static bool read_range(struct reader *r, struct ledger_range *ret) {
    struct ledger_range v;
    if (!maybe(r, "[")) {
        if (!read_offset(r, &v.a)) return false;
        v.z = v.a;
    } else {
        if (!read_offset(r, &v.a) || !want(r, ",") || !read_offset(r, &v.z) || !want(r, "]"))
            return false;
        if (v.z <= v.a) return fail(r, "a range that ascends");
    }
    *ret = v;
    return true;
}

static bool read_offsets(struct reader *r, struct ledger_group *g) {
    int64_t last = -2;
    if (!want(r, "\"offsets\":[")) return false;
    do {
        g->offsets = grow(r->arena, g->offsets, g->n_offsets, sizeof *g->offsets);
        struct ledger_range *v = &g->offsets[g->n_offsets];
        if (!read_range(r, v)) return false;
        if (v->a <= last + 1) return fail(r, "ranges that ascend and don't touch");
        last = v->z;
        g->count += (uint64_t)(v->z - v->a) + 1;
        g->n_offsets++;
    } while (maybe(r, ","));
    return want(r, "]");
}

static bool read_origins(struct reader *r, struct ledger_group *g) {
    uint64_t count = 0;
    do {
        struct str topic;
        int32_t partition;
        if (!want(r, "[") || !read_text(r, &topic) || !want(r, ",") || !read_int32(r, &partition) ||
            !want(r, ",["))
            return false;
        if (!ledger_topic_legal(topic)) return fail(r, "a topic's name");
        do {
            g->origins = grow(r->arena, g->origins, g->n_origins, sizeof *g->origins);
            struct ledger_origin *o = &g->origins[g->n_origins];
            *o = (struct ledger_origin){.topic = topic, .partition = partition};
            if (!read_range(r, &o->range)) return false;
            count += (uint64_t)(o->range.z - o->range.a) + 1;
            if (count > g->count) return fail(r, "as many origins as offsets");
            g->n_origins++;
        } while (maybe(r, ","));
        if (!want(r, "]]")) return false;
    } while (maybe(r, ","));
    if (count != g->count) return fail(r, "as many origins as offsets");
    return want(r, "]");
}

static bool read_records(struct reader *r, struct ledger_group *g) {
    return read_offsets(r, g) && (!maybe(r, ",\"origin\":[") || read_origins(r, g)) && want(r, "}");
}

/* "name":"text", if it stands here. */
static bool read_member(struct reader *r, const char *name, struct str *ret) {
    return !maybe(r, name) || (read_text(r, ret) && want(r, ","));
}

static struct ledger_group *add_group(struct reader *r, struct ledger_entry *e,
                                      enum ledger_kind kind) {
    e->groups = grow(r->arena, e->groups, e->n_groups, sizeof *e->groups);
    struct ledger_group *g = &e->groups[e->n_groups++];
    *g = (struct ledger_group){.kind = kind};
    return g;
}

static bool read_delivered_item(struct reader *r, struct ledger_entry *e, struct str to,
                                bool object) {
    struct ledger_group *g = add_group(r, e, LEDGER_DELIVERED);
    g->to = to;
    g->object = object;
    if (!want(r, "{")) return false;
    if (object && (!want(r, "\"key\":") || !read_text(r, &g->key) || !want(r, ","))) return false;
    if (maybe(r, "\"status\":")) {
        int32_t status;
        if (!read_int32(r, &status) || !want(r, ",")) return false;
        g->status = status;
    }
    if (maybe(r, "\"sha256\":")) {
        g->hashed = true;
        if (!read_hash(r, g->sha256) || !want(r, ",\"size\":") ||
            !read_uint(r, UINT64_MAX, &g->size) || !want(r, ","))
            return false;
    }
    return read_records(r, g);
}

static bool read_delivered_list(struct reader *r, struct ledger_entry *e, struct str to,
                                bool object) {
    do {
        if (!read_delivered_item(r, e, to, object)) return false;
    } while (maybe(r, ","));
    return want(r, "]");
}

static bool read_destination(struct reader *r, struct ledger_entry *e) {
    struct str to = {0};
    if (!want(r, "{") || !read_member(r, "\"to\":", &to)) return false;
    bool objects = maybe(r, "\"objects\":[");
    if (objects && !read_delivered_list(r, e, to, true)) return false;
    if (!objects || maybe(r, ",")) {
        if (!want(r, "\"requests\":[") || !read_delivered_list(r, e, to, false)) return false;
    }
    return want(r, "}");
}

static bool read_reason(struct reader *r, struct ledger_entry *e, enum ledger_kind kind) {
    struct ledger_group *g = add_group(r, e, kind);
    return want(r, "{") && read_member(r, "\"to\":", &g->to) &&
           read_member(r, "\"tier\":", &g->tier) && read_member(r, "\"fault\":", &g->fault) &&
           read_member(r, "\"why\":", &g->why) && read_records(r, g);
}

static bool read_outcomes(struct reader *r, struct ledger_entry *e) {
    static const char *const openings[LEDGER_KINDS] = {
        [LEDGER_DELIVERED] = ",\"delivered\":[", [LEDGER_SKIPPED] = ",\"skipped\":[",
        [LEDGER_PARKED] = ",\"parked\":[",       [LEDGER_DEAD] = ",\"dead\":[",
        [LEDGER_REDRIVEN] = ",\"redriven\":[",
    };
    for (int kind = 0; kind < LEDGER_KINDS; kind++) {
        if (!maybe(r, openings[kind])) continue;
        do {
            bool ok = kind == LEDGER_DELIVERED ? read_destination(r, e)
                                               : read_reason(r, e, (enum ledger_kind)kind);
            if (!ok) return false;
        } while (maybe(r, ","));
        if (!want(r, "]")) return false;
    }
    return true;
}

static bool read_lost(struct reader *r, struct ledger_entry *e) {
    struct ledger_range range;
    if (!maybe(r, ",\"lost\":[")) return true;
    e->lost = true;
    if (!read_range(r, &range)) return false;
    if (range.a != e->first || range.z != e->next - 1) return fail(r, "the window as lost range");
    return want(r, "]");
}

static bool read_rotation(struct reader *r, struct ledger_entry *e) {
    if (!maybe(r, ",\"rotate\":{\"from\":")) return true;
    e->rotates = true;
    return read_key_id(r, e->rotate_from) && want(r, ",\"to\":") &&
           read_base64(r, e->rotate_to, LEDGER_PUB_LEN) && want(r, ",\"sig\":") &&
           read_base64(r, e->rotate_sig, LEDGER_SIG_LEN) && want(r, "}");
}

static bool read_head(struct reader *r, struct ledger_entry *e) {
    uint64_t opened, settled;
    if (!want(r, "{\"v\":1,\"group\":") || !read_text(r, &e->group) || !want(r, ",\"seq\":") ||
        !read_uint(r, INT64_MAX, &e->seq) || !want(r, ",\"topic\":") || !read_text(r, &e->topic))
        return false;
    if (!ledger_topic_legal(e->topic)) return fail(r, "a topic's name");
    if (!want(r, ",\"partition\":") || !read_int32(r, &e->partition) || !want(r, ",\"first\":") ||
        !read_offset(r, &e->first) || !want(r, ",\"next\":") || !read_offset(r, &e->next))
        return false;
    if (e->next < e->first) return fail(r, "next not below first");
    e->head = (struct str){r->start, (size_t)(r->p - r->start)};
    if (!want(r, ",\"opened\":") || !read_uint(r, INT64_MAX, &opened) ||
        !want(r, ",\"settled\":") || !read_uint(r, INT64_MAX, &settled) ||
        !want(r, ",\"version\":") || !read_text(r, &e->version))
        return false;
    e->opened_ms = (int64_t)opened;
    e->settled_ms = (int64_t)settled;
    return want(r, ",\"prev\":") && read_hash(r, e->prev);
}

static bool read_body(struct reader *r, struct ledger_entry *e) {
    e->body.p = r->p;
    if (!read_lost(r, e) || !read_outcomes(r, e)) return false;
    e->body.n = (size_t)(r->p - e->body.p);
    return true;
}

static bool read_tail(struct reader *r, struct ledger_entry *e) {
    e->canonical = (struct str){r->start, (size_t)(r->p - r->start)};
    if (!want(r, ",\"hash\":") || !read_hash(r, e->hash)) return false;
    e->is_signed = maybe(r, ",\"sig\":");
    if (e->is_signed && (!read_base64(r, e->sig, LEDGER_SIG_LEN) || !want(r, ",\"key\":") ||
                         !read_key_id(r, e->key)))
        return false;
    if (!want(r, "}")) return false;
    return r->p == r->end || fail(r, "nothing behind the entry");
}

bool ledger_read(struct str value, struct arena *arena, struct ledger_entry *ret,
                 struct ledger_read_error *reterr) {
    struct reader r = {.start = value.p, .p = value.p, .end = value.p + value.n, .arena = arena};
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
    struct reader r = {.start = slash + 1, .p = slash + 1, .end = key.p + key.n};
    int32_t partition;
    if (!ledger_topic_legal(topic) || !read_int32(&r, &partition) || r.p != r.end) return false;
    *ret_topic = topic;
    *ret_partition = partition;
    return true;
}
