#include "worker/base/conceal.h"

#include <stdlib.h>

#include "worker/base/text.h"

#define ROUNDS 3   /* of percent-encoding */
#define TAIL_MIN 4 /* of a secret that a cut label ends in */

/* Makes n bytes of text plain, in place; returns how many are left. at moves along; it may be NULL.
 */
static size_t plain(char *text, uint16_t *at, size_t n) {
    for (int round = 0; round < ROUNDS; round++) {
        size_t to = 0;
        for (size_t i = 0; i < n; to++) {
            int byte = percent_byte(text + i, n - i);
            text[to] = byte < 0 ? text[i] : (char)byte;
            if (at) at[to] = at[i];
            i += byte < 0 ? 1 : 3;
        }
        if (to == n) break;
        n = to;
    }
    for (size_t i = 0; i < n; i++) {
        text[i] = char_lower(text[i]);
        if (text[i] < ' ' || text[i] > '~') text[i] = '?'; /* as outcome_text() shows it */
    }
    return n;
}

static struct str plain_copy(struct str s) {
    char *text = xstrndup(s.p, s.n);
    return (struct str){text, plain(text, NULL, s.n)};
}

static void forget(struct str copy, size_t n) {
    char *text = (char *)(uintptr_t)copy.p;
    wipe(text, n);
    free(text);
}

bool conceal_shows(struct str text, struct str secret) {
    if (secret.n < CONCEAL_MIN || !text.n) return false;
    struct str in = plain_copy(text), what = plain_copy(secret);
    bool shows = what.n && memmem(in.p, in.n, what.p, what.n);
    forget(in, text.n);
    forget(what, secret.n);
    return shows;
}

void conceal_begin(struct conceal *c, const char *label) {
    memset(c, 0, sizeof *c);
    c->label = label;
    c->n = strnlen(label, CONCEAL_MAX - 1);
    c->cut = c->n == CONCEAL_MAX - 1;
    memcpy(c->text, label, c->n);
    for (size_t i = 0; i < c->n; i++) c->at[i] = (uint16_t)i;
    c->n = plain(c->text, c->at, c->n);
    /* The beginning of an encoded byte is none of a secret's bytes. */
    for (size_t i = 1; c->cut && i <= 2 && i < c->n; i++)
        if (c->text[c->n - i] == '%') c->n -= i;
    const char *host = memmem(c->text, c->n, "://", 3);
    c->host = host ? (size_t)(host - c->text) + 3 : 0;
    const char *path = memchr(c->text + c->host, '/', c->n - c->host);
    c->path = path ? (size_t)(path - c->text) : c->n;
}

static void hide(struct conceal *c, size_t from, size_t to) {
    size_t end = to < c->n ? c->at[to] : strnlen(c->label, CONCEAL_MAX - 1);
    for (size_t i = c->at[from]; i < end; i++) c->hidden[i] = true;
}

static void find_long(struct conceal *c, struct str s) {
    const char *end = c->text + c->n, *p = c->text + c->host;
    while (p < end && (p = memmem(p, (size_t)(end - p), s.p, s.n))) {
        hide(c, (size_t)(p - c->text), (size_t)(p - c->text) + s.n);
        p++;
    }
    size_t most = c->n - c->host < s.n - 1 ? c->n - c->host : s.n - 1;
    for (size_t n = most; c->cut && n >= TAIL_MIN; n--) {
        if (memcmp(c->text + c->n - n, s.p, n) != 0) continue;
        hide(c, c->n - n, c->n);
        return;
    }
}

static void find_segment(struct conceal *c, struct str s) {
    while (s.n && s.p[0] == '/') s = (struct str){s.p + 1, s.n - 1};
    while (s.n && s.p[s.n - 1] == '/') s.n--;
    for (size_t i = c->path; s.n && i + s.n < c->n; i++) {
        size_t end = i + 1 + s.n;
        if (c->text[i] == '/' && (end == c->n || c->text[end] == '/') &&
            memcmp(c->text + i + 1, s.p, s.n) == 0)
            hide(c, i + 1, end);
    }
}

void conceal_find(struct conceal *c, struct str secret) {
    struct str what = plain_copy(secret);
    if (what.n >= CONCEAL_MIN)
        find_long(c, what);
    else
        find_segment(c, what);
    forget(what, secret.n);
}

bool conceal_any(const struct conceal *c, bool *ret_in_host) {
    bool any = false;
    *ret_in_host = false;
    size_t path = c->path < c->n ? c->at[c->path] : CONCEAL_MAX;
    for (size_t i = 0; i < CONCEAL_MAX; i++) {
        any = any || c->hidden[i];
        *ret_in_host = *ret_in_host || (c->hidden[i] && i < path);
    }
    return any;
}

void conceal_end(const struct conceal *c, char ret[CONCEAL_MAX]) {
    static const char mark[] = "[REDACTED]";
    char out[CONCEAL_MAX];
    size_t n = 0;
    for (size_t i = 0; c->label[i] && n < sizeof out - 1; i++) {
        if (!c->hidden[i]) {
            out[n++] = c->label[i];
        } else if (i == 0 || !c->hidden[i - 1]) {
            for (const char *m = mark; *m && n < sizeof out - 1; m++) out[n++] = *m;
        }
    }
    out[n] = '\0';
    memcpy(ret, out, n + 1);
}
