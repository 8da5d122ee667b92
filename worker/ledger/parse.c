#include "worker/ledger/parse.h"

bool parse_fail(struct parser *r, const char *what) {
    if (r->what) return false;
    r->what = what;
    r->at = (size_t)(r->p - r->start);
    return false;
}

/* Takes the literal if it stands here. */
bool parse_maybe(struct parser *r, const char *literal) {
    size_t n = strlen(literal);
    if ((size_t)(r->end - r->p) < n || memcmp(r->p, literal, n) != 0) return false;
    r->p += n;
    return true;
}

bool parse_want(struct parser *r, const char *literal) {
    return parse_maybe(r, literal) || parse_fail(r, literal);
}

bool parse_uint(struct parser *r, uint64_t max, uint64_t *ret) {
    const char *p = r->p;
    uint64_t v = 0;
    for (; p < r->end && *p >= '0' && *p <= '9'; p++) {
        unsigned d = (unsigned)(*p - '0');
        if (v > (max - d) / 10) return parse_fail(r, "a number in range");
        v = v * 10 + d;
    }
    if (p == r->p || (*r->p == '0' && p > r->p + 1)) return parse_fail(r, "a number");
    r->p = p;
    *ret = v;
    return true;
}

bool parse_offset(struct parser *r, int64_t *ret) {
    uint64_t v;
    if (!parse_uint(r, INT64_MAX - 1, &v)) return false; /* so that next = z + 1 exists */
    *ret = (int64_t)v;
    return true;
}

bool parse_int32(struct parser *r, int32_t *ret) {
    uint64_t v;
    if (!parse_uint(r, INT32_MAX, &v)) return false;
    *ret = (int32_t)v;
    return true;
}

static int nibble(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* One escape, its backslash taken already, in the only form that text_json() gives that character.
 */
static bool read_escape(struct parser *r, char *ret) {
    if (r->p == r->end) return parse_fail(r, "an escape");
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
        return parse_fail(r, "a known escape");
    }
    if (r->end - r->p < 4 || memcmp(r->p, "00", 2) != 0)
        return parse_fail(r, "a control character");
    int high = nibble(r->p[2]), low = nibble(r->p[3]);
    int c = high * 16 + low;
    if (high < 0 || low < 0 || c >= 0x20 || c == '\n' || c == '\r' || c == '\t')
        return parse_fail(r, "a control character");
    r->p += 4;
    *ret = (char)c;
    return true;
}

bool parse_text(struct parser *r, struct str *ret) {
    if (!parse_want(r, "\"")) return false;
    const char *start = r->p;
    bool escaped = false;
    while (r->p < r->end && *r->p != '"') {
        if ((unsigned char)*r->p < 0x20) return parse_fail(r, "an escaped control character");
        bool backslash = *r->p++ == '\\';
        if (backslash && r->p < r->end) r->p++;
        escaped = escaped || backslash;
    }
    const char *stop = r->p;
    if (!parse_want(r, "\"")) return false;
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

static bool read_hex(struct parser *r, uint8_t *ret, size_t n) {
    if ((size_t)(r->end - r->p) < HEX_LEN(n)) return parse_fail(r, "hex digits");
    for (size_t i = 0; i < HEX_LEN(n); i++)
        if (nibble(r->p[i]) < 0) return parse_fail(r, "lower-case hex digits");
    unhex((struct str){r->p, HEX_LEN(n)}, ret, n);
    r->p += HEX_LEN(n);
    return true;
}

bool parse_hex(struct parser *r, uint8_t *ret, size_t n) {
    return parse_want(r, "\"") && read_hex(r, ret, n) && parse_want(r, "\"");
}

bool parse_hash(struct parser *r, uint8_t ret[SHA256_LEN]) {
    return parse_hex(r, ret, SHA256_LEN);
}

/* "<16 hex digits>" */
bool parse_key_id(struct parser *r, char ret[LEDGER_KEY_ID_LEN + 1]) {
    uint8_t bytes[LEDGER_KEY_ID_LEN / 2];
    if (!parse_hex(r, bytes, sizeof bytes)) return false;
    hex(bytes, sizeof bytes, ret);
    return true;
}

/* "<base64 of exactly n bytes>" */
bool parse_base64(struct parser *r, uint8_t *ret, size_t n) {
    struct str text;
    size_t digits = (n + 2) / 3 * 4;
    if (!parse_want(r, "\"")) return false;
    if ((size_t)(r->end - r->p) < digits) return parse_fail(r, "base64");
    text = (struct str){r->p, digits};
    struct buf b;
    buf_init(&b, n);
    bool ok = unbase64_add(&b, text) && b.n == n;
    if (ok) memcpy(ret, b.p, n);
    buf_free(&b);
    if (!ok) return parse_fail(r, "base64");
    r->p += digits;
    return parse_want(r, "\"");
}

/* Room for one more element in an array of the arena's: doubles when n is a power of two. */
void *parse_grow(struct arena *a, void *array, size_t n, size_t size) {
    if (n & (n - 1)) return array;
    void *fresh = arena_alloc(a, (n ? 2 * n : 1) * size);
    if (n) memcpy(fresh, array, n * size);
    return fresh;
}
