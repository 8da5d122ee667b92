/* Bytes as text and text as bytes: hex, percent-encoding, base64, UTF-8, JSON's escapes, times.
 * Pure; any thread. */
#ifndef RUNSINK_TEXT_H
#define RUNSINK_TEXT_H

#include <stdint.h>

#include "worker/base/buf.h"

/* What a hex digit of either case stands for; -1: it is none. */
static inline int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}
/* Lower-case hex; ret has room for 2n + 1 bytes and is NUL-terminated. */
#define HEX_LEN(n) ((n)*2)
void hex(const uint8_t *, size_t n, char *ret);
bool unhex(struct str, uint8_t *ret, size_t n); /* exactly 2n digits, either case */

/* The byte that the "%XX" at p, of n bytes, stands for; -1: none begins there. */
static inline int percent_byte(const char *p, size_t n) {
    if (n < 3 || *p != '%') return -1;
    int high = hex_digit(p[1]), low = hex_digit(p[2]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}
/* Without percent-encoding; what is no "%XX" stays. ret, which may be s.p, has room for s.n bytes.
 * Returns how many it has now. */
size_t percent_decode(struct str s, char *ret);

bool base64_add(struct buf *, const void *, size_t); /* RFC 4648 with padding, appended */
bool unbase64_add(struct buf *, struct str); /* strict; false (nothing appended) when invalid */
/* As the most lenient readers take it: the URL-safe alphabet too, with padding or without, up to
 * the first "="; other bytes are passed over and bits of no whole byte dropped. False past the
 * ceiling, nothing is appended then. */
bool unbase64_any_add(struct buf *, struct str);

/* Length of the UTF-8 sequence that n bytes begin with, 0 when it is none: overlong forms,
 * surrogates and what lies beyond U+10FFFF are none (RFC 3629). */
size_t utf8_sequence(const char *, size_t n);
bool utf8_valid(struct str);
/* UTF-8 without control characters (below U+0020, and DEL). */
bool utf8_is_line(struct str);
/* A code point up to U+10FFFF as UTF-8; returns its length. */
static inline size_t utf8_put(uint32_t c, char ret[4]) {
    if (c < 0x80) {
        ret[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n - 1; i > 0; i--) {
        ret[i] = (char)(0x80 | (c & 0x3f));
        c >>= 6;
    }
    ret[0] = (char)(lead[n] | c);
    return n;
}

/* Appends the text as the inside of a JSON string, quotes not included. Bytes that are not UTF-8
 * become U+FFFD, so that what comes out is always valid JSON. */
bool text_json(struct buf *, struct str);

/* Whether the word is one of a list, in which blanks stand between words. */
bool text_lists(const char *list, struct str word);

/* A star stands for any text. After a backslash, a star or a backslash stands for itself. */
bool glob_matches(const char *pattern, struct str text);

/* Whether a segment of the path is "." or "..": stores fold these, or climb. */
bool path_climbs(const char *path);

/* Seconds since the epoch as 2026-01-31T12:00:00Z. False: no such time. */
#define UTC_TEXT 32
bool utc_text(int64_t s, char ret[UTC_TEXT]);

#endif
