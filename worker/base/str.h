/* A borrowed run of bytes. Never NUL-terminated by contract, never owned; it lives as long as the
 * memory it points into (a Kafka message, an arena). Any thread. */
#ifndef RUNSINK_STR_H
#define RUNSINK_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

struct str {
    const char *p;
    size_t n;
};

#define STR(literal) ((struct str){"" literal, sizeof(literal) - 1})

static inline struct str str_c(const char *s) {
    return (struct str){s, s ? strlen(s) : 0};
}

static inline bool str_eq(struct str a, struct str b) {
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static inline bool str_is(struct str a, const char *b) {
    return str_eq(a, str_c(b));
}

/* Of ASCII, whatever the locale. */
static inline char char_lower(char c) {
    return (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
}

static inline bool char_is_alnum(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* [A-Za-z0-9._-]: what stands for itself in tokens, topic names and keys. */
static inline bool char_is_plain(char c) {
    return char_is_alnum(c) || c == '.' || c == '_' || c == '-';
}

/* Without blanks and tabs at either end. */
static inline struct str str_trim(struct str s) {
    while (s.n && (s.p[0] == ' ' || s.p[0] == '\t')) s.p++, s.n--;
    while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t')) s.n--;
    return s;
}

static inline bool str_starts(struct str a, const char *prefix) {
    size_t n = strlen(prefix);
    return a.n >= n && memcmp(a.p, prefix, n) == 0;
}

#endif
