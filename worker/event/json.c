#include "worker/event/json.h"

#include <endian.h>
#include <stdint.h>

#include "worker/base/text.h"

#ifdef __SSE2__
#include <emmintrin.h>
#endif

static bool refuse(struct json *j, const char *at, const char *err) {
    if (!j->err) {
        j->err = err;
        j->at = at;
    }
    return false;
}

void json_stop(struct json *j, const char *err) {
    refuse(j, j->at, err);
}

void json_begin(struct json *j, struct str text) {
    *j = (struct json){.start = text.p, .at = text.p, .end = text.p + text.n};
    if (str_starts(text, "\xef\xbb\xbf"))
        refuse(j, j->at, "a byte order mark stands before the text");
}

static inline void space(struct json *j) {
    const char *p = j->at;
    if (p<j->end && * p> ' ') return; /* most often */
    for (; p < j->end && (*p == ' ' || *p == '\n' || *p == '\r' || *p == '\t'); p++)
        j->breaks = j->breaks || *p == '\n' || *p == '\r';
    j->at = p;
}

bool json_end(struct json *j) {
    if (j->err) return false;
    space(j);
    if (j->at < j->end) return refuse(j, j->at, "text follows the value");
    return true;
}

/* Walks in blocks over bytes that a string may hold as they are; stops at the first that needs a
 * closer look (quote, backslash, control, not ASCII), or where less than a block is left. */
#ifdef __SSE2__
static const char *blocks(const char *p, const char *end) {
    const __m128i quote = _mm_set1_epi8('"'), slash = _mm_set1_epi8('\\');
    const __m128i blank = _mm_set1_epi8(' ');
    for (; end - p >= 16; p += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
        __m128i hit = _mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, slash));
        /* As signed numbers, bytes that are not ASCII are below the blank too. */
        int mask = _mm_movemask_epi8(_mm_or_si128(hit, _mm_cmplt_epi8(v, blank)));
        if (mask) return p + __builtin_ctz((unsigned)mask);
    }
    return p;
}
#else
#define ONES UINT64_C(0x0101010101010101)
#define HIGH UINT64_C(0x8080808080808080)

/* A borrow between bytes can only raise a false alarm above a true one: the lowest is true. */
static const char *blocks(const char *p, const char *end) {
    for (; end - p >= 8; p += 8) {
        uint64_t v;
        memcpy(&v, p, 8);
        v = le64toh(v);
        uint64_t quote = v ^ (ONES * '"');
        uint64_t slash = v ^ (ONES * '\\');
        uint64_t hit = ((v - ONES * ' ') | (quote - ONES) | (slash - ONES) | v) & HIGH;
        if (hit) return p + __builtin_ctzll(hit) / 8;
    }
    return p;
}
#endif

static inline const char *plain(const char *p, const char *end) {
    p = blocks(p, end);
    if (p < end && *p == '"') return p;
    while (p < end && *p >= ' ' && *p < 0x7f && *p != '"' && *p != '\\') p++;
    return p;
}

/* The code unit of the \uXXXX at p, -1 when there is none. */
static int32_t unit(const char *p, const char *end) {
    if (end - p < 6 || p[0] != '\\' || p[1] != 'u') return -1;
    int32_t v = 0;
    for (int i = 2; i < 6; i++) {
        int d = hex_digit(p[i]);
        if (d < 0) return -1;
        v = v << 4 | d;
    }
    return v;
}

static bool high_surrogate(int32_t u) {
    return u >= 0xd800 && u < 0xdc00;
}

static bool low_surrogate(int32_t u) {
    return u >= 0xdc00 && u < 0xe000;
}

/* Past the escape at p; NULL when it is none. */
static const char *escape(struct json *j, const char *p) {
    if (j->end - p < 2) return NULL;
    if (p[1] != 'u') return p[1] && strchr("\"\\/bfnrt", p[1]) ? p + 2 : NULL;
    int32_t u = unit(p, j->end);
    if (u < 0) return NULL;
    if (high_surrogate(u) && low_surrogate(unit(p + 6, j->end))) return p + 12;
    bool lone = high_surrogate(u) || low_surrogate(u);
    j->lone_surrogate |= lone;
    j->odd_escape |= lone || u == 0;
    return p + 6;
}

static inline bool string_ends(struct json *j, struct json_value *ret, const char *from,
                               const char *p, bool escaped) {
    j->at = p + 1;
    *ret = (struct json_value){JSON_STRING, escaped, {from, (size_t)(p - from)}};
    return true;
}

/* A string that is not plain at p. Apart from string(), so that the common way is short. */
__attribute__((noinline)) static bool special_string(struct json *j, struct json_value *ret,
                                                     const char *from, const char *p) {
    bool escaped = false;
    for (; p < j->end && *p != '"'; p = plain(p, j->end)) {
        if (*p == '\\') {
            const char *next = escape(j, p);
            if (!next) return refuse(j, p, "an invalid escape in a string");
            escaped = true;
            p = next;
        } else if ((unsigned char)*p < 0x20) {
            return refuse(j, p, "a control character in a string");
        } else {
            size_t n = utf8_sequence(p, (size_t)(j->end - p));
            if (n == 0) return refuse(j, p, "invalid UTF-8 in a string");
            p += n;
        }
    }
    if (p == j->end) return refuse(j, p, "the text ends inside a string");
    j->escapes = j->escapes || escaped;
    return string_ends(j, ret, from, p, escaped);
}

/* Reads a string; the reader stands on the opening quote. */
static bool string(struct json *j, struct json_value *ret) {
    const char *from = j->at + 1;
    const char *p = plain(from, j->end);
    if (p == j->end || *p != '"') return special_string(j, ret, from, p);
    return string_ends(j, ret, from, p, false);
}

static const char *digits(const char *p, const char *end) {
    while (p < end && *p >= '0' && *p <= '9') p++;
    return p;
}

static bool number(struct json *j, struct json_value *ret) {
    const char *from = j->at;
    const char *end = j->end;
    const char *p = from;
    if (*p == '-') p++;
    const char *whole = p;
    p = digits(p, end);
    if (p == whole) return refuse(j, p, "a number without digits");
    if (*whole == '0' && p > whole + 1) return refuse(j, whole, "a number with a leading zero");
    if (p < end && *p == '.') {
        const char *fraction = ++p;
        p = digits(p, end);
        if (p == fraction) return refuse(j, p, "a number without digits after the point");
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < end && (*p == '+' || *p == '-')) p++;
        const char *exponent = p;
        p = digits(p, end);
        if (p == exponent) return refuse(j, p, "a number without digits in its exponent");
    }
    j->at = p;
    *ret = (struct json_value){JSON_NUMBER, false, {from, (size_t)(p - from)}};
    return true;
}

static bool word(struct json *j, const char *text, enum json_kind kind, struct json_value *ret) {
    size_t n = strlen(text);
    if ((size_t)(j->end - j->at) < n || memcmp(j->at, text, n) != 0)
        return refuse(j, j->at, "an unknown word");
    *ret = (struct json_value){kind, false, {j->at, n}};
    j->at += n;
    return true;
}

enum json_kind json_peek(struct json *j) {
    if (j->err) return JSON_ABSENT;
    space(j);
    if (j->at == j->end) return JSON_ABSENT;
    switch (*j->at) {
    case '{':
        return JSON_OBJECT;
    case '[':
        return JSON_ARRAY;
    case '"':
        return JSON_STRING;
    case 't':
    case 'f':
        return JSON_BOOL;
    case 'n':
        return JSON_NULL;
    case '-':
        return JSON_NUMBER;
    default:
        return *j->at >= '0' && *j->at <= '9' ? JSON_NUMBER : JSON_ABSENT;
    }
}

void json_pass(struct json *j, enum json_kind kind, size_t n, struct json_value *ret) {
    *ret = (struct json_value){kind, false, {j->at, n}};
    j->breaks = j->breaks || memchr(j->at, '\n', n) || memchr(j->at, '\r', n);
    j->at += n;
}

static bool enter(struct json *j, enum json_kind kind, struct json_value *ret) {
    if (j->depth == JSON_DEPTH_MAX) {
        j->too_deep = true;
        return refuse(j, j->at, "nested too deep");
    }
    *ret = (struct json_value){kind, false, {j->at, 0}};
    j->depth++;
    j->at++;
    j->fresh = true;
    return true;
}

/* Between members: true when another one follows, false after the closing bracket. */
static bool another(struct json *j, char bracket) {
    if (j->err) return false;
    space(j);
    bool fresh = j->fresh;
    j->fresh = false;
    if (j->at == j->end) return refuse(j, j->at, "the text ends inside an object or array");
    if (*j->at == bracket) {
        j->at++;
        j->depth--;
        return false;
    }
    if (fresh) return true;
    if (*j->at != ',') return refuse(j, j->at, "a comma or closing bracket is missing");
    j->at++;
    return true;
}

bool json_item(struct json *j) {
    return another(j, ']');
}

bool json_key(struct json *j, struct json_value *ret) {
    if (!another(j, '}')) return false;
    space(j);
    if (j->at == j->end || *j->at != '"') return refuse(j, j->at, "a member's name is missing");
    if (!string(j, ret)) return false;
    space(j);
    if (j->at == j->end || *j->at != ':') return refuse(j, j->at, "a colon is missing");
    j->at++;
    return true;
}

void json_close(struct json *j, struct json_value *v) {
    v->raw.n = (size_t)(j->at - v->raw.p);
}

bool json_enter(struct json *j, struct json_value *ret) {
    switch (json_peek(j)) {
    case JSON_STRING:
        string(j, ret);
        return false;
    case JSON_NUMBER:
        number(j, ret);
        return false;
    case JSON_NULL:
        word(j, "null", JSON_NULL, ret);
        return false;
    case JSON_BOOL:
        word(j, *j->at == 't' ? "true" : "false", JSON_BOOL, ret);
        return false;
    case JSON_OBJECT:
        return enter(j, JSON_OBJECT, ret);
    case JSON_ARRAY:
        return enter(j, JSON_ARRAY, ret);
    case JSON_ABSENT:
        break;
    }
    return refuse(j, j->at, "a value is missing");
}

/* Recursion goes no deeper than JSON_DEPTH_MAX: enter() sees to it. */
bool json_value(struct json *j, struct json_value *ret) {
    struct json_value inner;
    if (!json_enter(j, ret)) return !j->err;
    // NOLINTNEXTLINE(clang-analyzer-core.UndefinedBinaryOperatorResult): json_enter() has set it
    if (ret->kind == JSON_OBJECT)
        while (json_key(j, &inner) && json_value(j, &inner)) continue;
    else
        while (json_item(j) && json_value(j, &inner)) continue;
    json_close(j, ret);
    return !j->err;
}

static bool open_bracket(struct json *j, enum json_kind kind, struct json_value *ret) {
    if (json_peek(j) == kind) return enter(j, kind, ret);
    json_value(j, ret);
    return false;
}

bool json_open(struct json *j, struct json_value *ret) {
    return open_bracket(j, JSON_OBJECT, ret);
}

bool json_open_array(struct json *j, struct json_value *ret) {
    return open_bracket(j, JSON_ARRAY, ret);
}

static char short_escape(char c) {
    switch (c) {
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    default: /* quote, backslash, slash stand for themselves */
        return c;
    }
}

void json_replace_surrogates(char *text, size_t n) {
    static const struct str mark = STR("\\ufffd");
    char *end = text + n;
    for (char *p = memchr(text, '\\', n); p; p = memchr(p, '\\', (size_t)(end - p))) {
        int32_t u = unit(p, end);
        bool high = high_surrogate(u);
        if (high && low_surrogate(unit(p + 6, end)))
            p += 12;
        else if (high || low_surrogate(u))
            p = (char *)memcpy(p, mark.p, mark.n) + mark.n;
        else
            p += 2;
    }
}

size_t json_char(const char **at, const char *end, char ret[4]) {
    const char *p = *at;
    if (*p != '\\') {
        size_t n = utf8_sequence(p, (size_t)(end - p));
        memcpy(ret, p, n);
        *at += n;
        return n;
    }
    if (p[1] != 'u') {
        ret[0] = short_escape(p[1]);
        *at += 2;
        return 1;
    }
    int32_t u = unit(p, end);
    *at += 6;
    if (low_surrogate(u)) return 0;
    if (!high_surrogate(u)) return utf8_put((uint32_t)u, ret);
    int32_t low = unit(p + 6, end);
    if (!low_surrogate(low)) return 0;
    *at += 6;
    return utf8_put(0x10000 + ((uint32_t)(u - 0xd800) << 10) + (uint32_t)(low - 0xdc00), ret);
}

bool json_unescape(struct str raw, char *ret, size_t *ret_n) {
    const char *end = raw.p + raw.n;
    size_t n = 0;
    for (const char *p = raw.p; p < end;) {
        char one[4];
        size_t len = json_char(&p, end, one);
        if (len == 0) return false;
        memcpy(ret + n, one, len);
        n += len;
    }
    *ret_n = n;
    return true;
}

bool json_resolve(const struct json_value *v, struct arena *arena, struct str *ret) {
    *ret = v->raw;
    if (!v->escaped) return true;
    char *text = arena_alloc(arena, v->raw.n + 1);
    ret->p = text;
    return json_unescape(v->raw, text, &ret->n);
}

bool json_same(const struct json_value *a, const struct json_value *b) {
    if (a->kind != b->kind) return false;
    if (str_eq(a->raw, b->raw)) return true;
    if (a->kind != JSON_STRING || (!a->escaped && !b->escaped)) return false;
    const char *p = a->raw.p;
    const char *q = b->raw.p;
    const char *p_end = p + a->raw.n;
    const char *q_end = q + b->raw.n;
    while (p < p_end && q < q_end) {
        char c[4];
        char d[4];
        size_t n = json_char(&p, p_end, c);
        size_t m = json_char(&q, q_end, d);
        if (n == 0 || n != m || memcmp(c, d, n) != 0) return false;
    }
    return p == p_end && q == q_end;
}
