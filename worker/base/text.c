#include "worker/base/text.h"

#include <stdio.h>
#include <time.h>

void hex(const uint8_t *p, size_t n, char *ret) {
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        ret[2 * i] = digits[p[i] >> 4];
        ret[2 * i + 1] = digits[p[i] & 15];
    }
    ret[2 * n] = '\0';
}

bool unhex(struct str s, uint8_t *ret, size_t n) {
    if (s.n != HEX_LEN(n)) return false;
    for (size_t i = 0; i < s.n; i++)
        if (hex_digit(s.p[i]) < 0) return false;
    for (size_t i = 0; i < n; i++)
        ret[i] =
            (uint8_t)((unsigned)hex_digit(s.p[2 * i]) << 4 | (unsigned)hex_digit(s.p[2 * i + 1]));
    return true;
}

size_t percent_decode(struct str s, char *ret) {
    size_t n = 0;
    for (size_t i = 0; i < s.n; n++) {
        int byte = percent_byte(s.p + i, s.n - i);
        ret[n] = byte < 0 ? s.p[i] : (char)byte;
        i += byte < 0 ? 1 : 3;
    }
    return n;
}

bool base64_add(struct buf *b, const void *data, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *p = data;
    size_t out = (n + 2) / 3 * 4;
    char *to = buf_reserve(b, out);
    if (!to) return false;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16;
        if (i + 1 < n) v |= (uint32_t)p[i + 1] << 8;
        if (i + 2 < n) v |= p[i + 2];
        *to++ = digits[v >> 18];
        *to++ = digits[v >> 12 & 63];
        *to++ = i + 1 < n ? digits[v >> 6 & 63] : '=';
        *to++ = i + 2 < n ? digits[v & 63] : '=';
    }
    b->n += out;
    return true;
}

static int digit64(char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

bool unbase64_add(struct buf *b, struct str s) {
    if (s.n % 4 != 0) return false;
    size_t pad = s.n && s.p[s.n - 1] == '=' ? (s.p[s.n - 2] == '=' ? 2 : 1) : 0;
    size_t start = b->n;
    uint32_t v = 0;
    for (size_t i = 0; i < s.n; i++) {
        int d = i >= s.n - pad ? 0 : digit64(s.p[i]);
        if (d < 0) goto invalid;
        v = v << 6 | (uint32_t)d;
        if (i % 4 != 3) continue;
        char three[3] = {(char)(v >> 16), (char)(v >> 8), (char)v};
        size_t drop = i + 1 == s.n ? pad : 0;
        if ((drop == 2 && (v & 0xffff)) || (drop == 1 && (v & 0xff))) goto invalid; /* stray bits */
        if (!buf_add(b, three, 3 - drop)) goto invalid;
        v = 0;
    }
    return true;
invalid:
    b->n = start;
    return false;
}

bool unbase64_any_add(struct buf *b, struct str s) {
    size_t start = b->n;
    unsigned bits = 0;
    uint32_t v = 0;
    for (size_t i = 0; i < s.n && s.p[i] != '='; i++) {
        int d = digit64(s.p[i] == '-' ? '+' : s.p[i] == '_' ? '/' : s.p[i]);
        if (d < 0) continue;
        v = v << 6 | (uint32_t)d;
        bits += 6;
        if (bits < 8) continue;
        bits -= 8;
        if (buf_putc(b, (char)(v >> bits))) continue;
        b->n = start;
        return false;
    }
    return true;
}

size_t utf8_sequence(const char *s, size_t n) {
    const unsigned char *p = (const unsigned char *)s;
    if (n == 0) return 0;
    unsigned char c = p[0];
    size_t len = c < 0x80                ? 1
                 : c >= 0xc2 && c < 0xe0 ? 2
                 : c >= 0xe0 && c < 0xf0 ? 3
                 : c >= 0xf0 && c < 0xf5 ? 4
                                         : 0;
    if (len == 0 || len > n) return 0;
    for (size_t i = 1; i < len; i++)
        if ((p[i] & 0xc0) != 0x80) return 0;
    if ((c == 0xe0 && p[1] < 0xa0) || (c == 0xed && p[1] > 0x9f) || (c == 0xf0 && p[1] < 0x90) ||
        (c == 0xf4 && p[1] > 0x8f))
        return 0;
    return len;
}

bool utf8_valid(struct str s) {
    size_t len = 0;
    for (size_t i = 0; i < s.n; i += len)
        if ((len = utf8_sequence(s.p + i, s.n - i)) == 0) return false;
    return true;
}

bool utf8_is_line(struct str s) {
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f) return false;
    return utf8_valid(s);
}

static bool json_char(struct buf *b, unsigned char c) {
    switch (c) {
    case '"':
        return buf_puts(b, "\\\"");
    case '\\':
        return buf_puts(b, "\\\\");
    case '\n':
        return buf_puts(b, "\\n");
    case '\r':
        return buf_puts(b, "\\r");
    case '\t':
        return buf_puts(b, "\\t");
    default:
        return buf_printf(b, "\\u%04x", c);
    }
}

bool text_json(struct buf *b, struct str s) {
    size_t start = b->n;
    const unsigned char *p = (const unsigned char *)s.p;
    bool ok = true;
    for (size_t i = 0; ok && i < s.n;) {
        size_t run = i;
        size_t len = 0;
        while (run < s.n && p[run] >= 0x20 && p[run] != '"' && p[run] != '\\' &&
               (len = utf8_sequence(s.p + run, s.n - run)) > 0)
            run += len;
        ok = buf_add(b, p + i, run - i);
        i = run;
        if (!ok || i == s.n) break;
        if (p[i] < 0x20 || p[i] == '"' || p[i] == '\\')
            ok = json_char(b, p[i]);
        else
            ok = buf_puts(b, "\xef\xbf\xbd");
        i++;
    }
    if (!ok) b->n = start;
    return ok;
}

bool text_lists(const char *list, struct str word) {
    for (const char *at = list, *end; *at; at = end + (*end == ' ')) {
        end = strchr(at, ' ');
        if (!end) end = at + strlen(at);
        if (word.n && str_eq(word, (struct str){at, (size_t)(end - at)})) return true;
    }
    return false;
}

/* Goes back to the last star whenever the text after it fails: linear in practice, and at worst the
 * text's length times the pattern's. */
bool glob_matches(const char *pattern, struct str text) {
    const char *star = NULL, *resume = NULL, *p = text.p, *end = text.p + text.n;
    while (p < end) {
        bool escape = *pattern == '\\' && (pattern[1] == '*' || pattern[1] == '\\');
        if (*pattern == '*') {
            star = ++pattern;
            resume = p;
        } else if (pattern[escape] && pattern[escape] == *p) {
            pattern += 1 + escape;
            p++;
        } else if (star) {
            pattern = star;
            p = ++resume;
        } else {
            return false;
        }
    }
    while (*pattern == '*') pattern++;
    return *pattern == '\0';
}

bool path_climbs(const char *path) {
    for (const char *s = path; s; s = strchr(s, '/')) {
        if (*s == '/') s++;
        struct str segment = {s, strcspn(s, "/")};
        if (str_is(segment, ".") || str_is(segment, "..")) return true;
    }
    return false;
}

bool utc_text(int64_t s, char ret[UTC_TEXT]) {
    time_t t = (time_t)s;
    struct tm tm;
    return gmtime_r(&t, &tm) && strftime(ret, UTC_TEXT, "%Y-%m-%dT%H:%M:%SZ", &tm) > 0;
}
