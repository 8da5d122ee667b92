#include "worker/scrub.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#include "worker/hash.h"
#include "worker/log.h"

/* Thousands of tenants have secrets in here while each lane logs, and tenants choose them. So a
 * text is scanned once: a filter on four bytes says where a secret may begin, and only there a
 * sorted array is searched. Neither many secrets that begin alike nor long ones make a line
 * expensive. */

#define SECRET_MIN 4
#define CUT_MIN 8 /* a shorter beginning at a text's end may be anything */
#define COMPARED                                                                                   \
    ((size_t)512) /* bytes of a secret that are compared; the rest is taken to follow */
#define FILTER_BITS 13

struct form {
    char *p;
    size_t n;    /* kept and compared */
    size_t full; /* length in a text */
    unsigned count;
};

static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static struct form *forms; /* sorted by bytes */
static size_t n_forms, cap_forms;
static uint32_t filter[1 << FILTER_BITS]; /* forms that begin so */

static size_t filter_slot(const char *p) {
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return four * UINT32_C(2654435761) >> (32 - FILTER_BITS);
}

static int compare(const struct form *f, const char *p, size_t n) {
    int d = memcmp(f->p, p, f->n < n ? f->n : n);
    return d ? d : (f->n > n) - (f->n < n);
}

/* Place of the first form that is greater than the text; an equal one stands before it. */
static size_t upper_bound(const char *p, size_t n) {
    size_t lo = 0, hi = n_forms;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (compare(&forms[mid], p, n) <= 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static size_t common(const struct form *f, const char *p, size_t n) {
    size_t i = 0;
    while (i < f->n && i < n && f->p[i] == p[i]) i++;
    return i;
}

/* Length of the longest secret at the start of the text, or the text's own when it was cut inside a
 * secret; 0: none. A secret that the text starts with sorts before the text, and all forms in
 * between start with it too: what the nearest one shares with the text bounds the next search. */
static size_t secret_at(const char *p, size_t n) {
    size_t limit = n < COMPARED ? n : COMPARED;
    size_t i = upper_bound(p, limit);
    if (limit == n && n >= CUT_MIN && i < n_forms && common(&forms[i], p, n) == n) return n;
    while (i > 0) {
        const struct form *f = &forms[i - 1];
        size_t same = common(f, p, limit);
        if (same == f->n) return f->full < n ? f->full : n;
        if (same < SECRET_MIN) break;
        limit = same;
        i = upper_bound(p, limit);
    }
    return 0;
}

static void form_add(const char *p, size_t n, size_t full) {
    size_t i = upper_bound(p, n);
    if (i > 0 && compare(&forms[i - 1], p, n) == 0) {
        struct form *f = &forms[i - 1];
        f->count++;
        if (f->full < full) f->full = full;
        return;
    }
    if (n_forms == cap_forms) {
        cap_forms = cap_forms ? cap_forms * 2 : 64;
        forms = xrealloc(forms, cap_forms * sizeof *forms);
    }
    memmove(forms + i + 1, forms + i, (n_forms - i) * sizeof *forms);
    forms[i] = (struct form){.p = xstrndup(p, n), .n = n, .full = full, .count = 1};
    n_forms++;
    filter[filter_slot(p)]++;
}

static void form_drop(const char *p, size_t n, size_t full) {
    (void)full;
    size_t i = upper_bound(p, n);
    if (i-- == 0 || compare(&forms[i], p, n) != 0 || --forms[i].count > 0) return;
    filter[filter_slot(p)]--;
    wipe(forms[i].p, n);
    free(forms[i].p);
    memmove(forms + i, forms + i + 1, (n_forms - i - 1) * sizeof *forms);
    if (--n_forms > 0) return;
    free(forms);
    forms = NULL;
    cap_forms = 0;
}

/* The forms that are searched for: the secret and its base64, in both alphabets. Percent-encoding
 * and JSON escapes are undone in the text instead, since there are many ways to write them. Of the
 * base64 the digits that the secret alone decides are compared; one more has its last bits. */
static void each_form(struct str s, void (*fn)(const char *, size_t, size_t)) {
    struct buf b64;
    size_t head = s.n < COMPARED / 4 * 3 ? s.n : COMPARED / 4 * 3;
    size_t digits = head * 8 / 6, full = (s.n * 8 + 5) / 6;
    buf_init_secret(&b64, COMPARED + 4);
    base64_add(&b64, s.p, head);
    pthread_rwlock_wrlock(&lock);
    fn(s.p, s.n < COMPARED ? s.n : COMPARED, s.n);
    fn(b64.p, digits, full);
    bool url = false;
    for (size_t i = 0; i < digits; i++) {
        if (b64.p[i] != '+' && b64.p[i] != '/') continue;
        b64.p[i] = b64.p[i] == '+' ? '-' : '_';
        url = true;
    }
    if (url) fn(b64.p, digits, full);
    pthread_rwlock_unlock(&lock);
    buf_wipe(&b64);
}

void secret_add(struct str s) {
    if (s.n >= SECRET_MIN) each_form(s, form_add);
}

void secret_drop(struct str s) {
    if (s.n >= SECRET_MIN) each_form(s, form_drop);
}

/* A text and which of its bytes belong to a secret; mask is NULL until there is one. */
struct marked {
    struct str text;
    char *mask;
};

/* Marks what is found in p, the text itself or a decoded copy: byte i of it begins at at[i] of the
 * text. */
static void mark(struct marked *m, const char *p, size_t n, const size_t *at) {
    for (size_t i = 0; i + SECRET_MIN <= n; i++) {
        if (filter[filter_slot(p + i)] == 0) continue;
        size_t len = secret_at(p + i, n - i);
        if (len == 0) continue;
        size_t from = at ? at[i] : i;
        size_t to = at ? at[i + len] : i + len;
        if (!m->mask) m->mask = xcalloc(m->text.n, 1);
        memset(m->mask + from, 1, to - from);
    }
}

static int hex_value(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

static bool hex_digits(const char *p, size_t n, unsigned *ret) {
    unsigned v = 0;
    for (size_t i = 0; i < n; i++) {
        int d = hex_value(p[i]);
        if (d < 0) return false;
        v = v << 4 | (unsigned)d;
    }
    *ret = v;
    return true;
}

/* Each decodes what stands at p (n bytes left) into at most 4 bytes and returns how many bytes of
 * the text that took. */
typedef size_t decode_fn(const char *p, size_t n, char ret[4], size_t *ret_n);

static size_t decode_percent(const char *p, size_t n, char ret[4], size_t *ret_n) {
    unsigned v;
    bool encoded = n >= 3 && *p == '%' && hex_digits(p + 1, 2, &v);
    ret[0] = *p;
    if (encoded) ret[0] = (char)v;
    *ret_n = 1;
    return encoded ? 3 : 1;
}

static size_t utf8(unsigned v, char ret[4]) {
    if (v < 0x80) return ret[0] = (char)v, 1;
    if (v < 0x800) return ret[0] = (char)(0xc0 | v >> 6), ret[1] = (char)(0x80 | (v & 63)), 2;
    size_t i = 0;
    if (v < 0x10000)
        ret[i++] = (char)(0xe0 | v >> 12);
    else
        ret[i++] = (char)(0xf0 | v >> 18), ret[i++] = (char)(0x80 | (v >> 12 & 63));
    ret[i++] = (char)(0x80 | (v >> 6 & 63));
    ret[i++] = (char)(0x80 | (v & 63));
    return i;
}

static size_t decode_json(const char *p, size_t n, char ret[4], size_t *ret_n) {
    static const char names[] = "\"\\/bfnrt", bytes[] = "\"\\/\b\f\n\r\t";
    unsigned v, low;
    *ret_n = 1;
    ret[0] = *p;
    if (n < 2 || *p != '\\') return 1;
    const char *name = p[1] ? strchr(names, p[1]) : NULL;
    if (name) return ret[0] = bytes[name - names], 2;
    if (n < 6 || p[1] != 'u' || !hex_digits(p + 2, 4, &v)) return 1;
    bool pair = v >= 0xd800 && v < 0xdc00 && n >= 12 && p[6] == '\\' && p[7] == 'u' &&
                hex_digits(p + 8, 4, &low) && low >= 0xdc00 && low < 0xe000;
    if (pair) v = 0x10000 + ((v - 0xd800) << 10) + (low - 0xdc00);
    *ret_n = utf8(v, ret);
    return pair ? 12 : 6;
}

static void mark_decoded(struct marked *m, char escape, decode_fn *decode) {
    struct str t = m->text;
    if (!memchr(t.p, escape, t.n)) return;
    /* Nothing decodes to more bytes than it is long. */
    char *p = xmalloc(t.n);
    size_t *at = xmalloc((t.n + 1) * sizeof *at);
    size_t n = 0;
    for (size_t i = 0; i < t.n;) {
        char bytes[4];
        size_t k, used = decode(t.p + i, t.n - i, bytes, &k);
        for (size_t j = 0; j < k; j++) {
            at[n] = i;
            p[n++] = bytes[j];
        }
        i += used;
    }
    at[n] = t.n;
    mark(m, p, n, at);
    wipe(p, n);
    free(p);
    free(at);
}

/* The mask is the caller's to free. */
static char *find_secrets(struct str text) {
    struct marked m = {.text = text};
    if (text.n < SECRET_MIN) return NULL;
    pthread_rwlock_rdlock(&lock);
    if (n_forms > 0) {
        mark(&m, text.p, text.n, NULL);
        mark_decoded(&m, '%', decode_percent);
        mark_decoded(&m, '\\', decode_json);
    }
    pthread_rwlock_unlock(&lock);
    return m.mask;
}

void secret_scrub(char *p, size_t n) {
    char *mask = find_secrets((struct str){p, n});
    for (size_t i = 0; mask && i < n; i++)
        if (mask[i]) p[i] = '*';
    free(mask);
}

bool scrub_add(struct buf *out, struct str text) {
    char *mask = find_secrets(text);
    if (!mask) return buf_str(out, text);
    bool ok = true;
    for (size_t i = 0; ok && i < text.n;) {
        size_t run = i;
        while (run < text.n && mask[run] == mask[i]) run++;
        ok = mask[i] ? buf_puts(out, "[REDACTED]") : buf_add(out, text.p + i, run - i);
        i = run;
    }
    free(mask);
    return ok;
}
