#include "worker/base/scrub.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

#include "worker/base/hash.h"
#include "worker/base/log.h"
#include "worker/base/needles.h"

/* Thousands of tenants have secrets in here while each lane logs, and tenants choose them. So
 * registering one takes as long as it is, with a million others as with a few; and so does scanning
 * a text, whatever stands in it: what a text may cost is a share for each of its bytes, and when
 * that is spent the rest is taken for a secret. Nobody gets near it but who registers hundreds of
 * secrets that are alike and has them echoed.
 *
 * The table has no limit of its own. Whoever registers secrets charges them (secret_bytes()) where
 * he keeps them, which is the lanes' tables of destinations, and forgets some when that is too
 * much: so none goes without. */

#define SECRET_MIN 6
#define SPELLINGS 3
#define WORK_LEAST ((size_t)4096)
#define WORK_SLICE ((size_t)4096) /* then others may have the lock */

/* Lanes register while others log: a steady stream of readers must not keep them out. */
static pthread_rwlock_t lock = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP;
static struct needles needles;
static atomic_size_t all_work;

/* What is searched for: the secret and its base64, in both alphabets. Percent-encoding
 * and JSON escapes are undone in the text instead, since there are many ways to write them. */
struct spellings {
    char b64[NEEDLE_MAX + 4], url[NEEDLE_MAX + 4];
    struct spelling {
        struct str text;
        size_t full;
    } v[SPELLINGS];
    size_t n;
};

/* Of the base64 the digits that the secret alone decides are compared; one more has its last
 * bits. */
static void spell(struct str s, struct spellings *ret) {
    size_t head = s.n < NEEDLE_MAX / 4 * 3 ? s.n : NEEDLE_MAX / 4 * 3;
    size_t digits = head * 8 / 6, full = (s.n * 8 + 5) / 6;
    struct buf b64 = {.p = ret->b64, .cap = sizeof ret->b64, .max = sizeof ret->b64 - 1};
    base64_add(&b64, s.p, head); /* what is there is enough */
    ret->n = 2;
    for (size_t i = 0; i < digits; i++) {
        char c = ret->b64[i];
        ret->url[i] = (char)(c == '+' ? '-' : c == '/' ? '_' : c);
        if (c != ret->url[i]) ret->n = 3;
    }
    ret->v[0] = (struct spelling){{s.p, s.n < NEEDLE_MAX ? s.n : NEEDLE_MAX}, s.n};
    ret->v[1] = (struct spelling){{ret->b64, digits}, full};
    ret->v[2] = (struct spelling){{ret->url, digits}, full};
}

static void spellings_free(struct spellings *sp) {
    wipe(sp->b64, sp->v[1].text.n + 4);
    wipe(sp->url, sp->v[2].text.n);
}

static void each_spelling(struct str s, void (*fn)(const struct spelling *)) {
    struct spellings sp;
    if (s.n < SECRET_MIN) return;
    spell(s, &sp);
    pthread_rwlock_wrlock(&lock);
    for (size_t i = 0; i < sp.n; i++) fn(&sp.v[i]);
    pthread_rwlock_unlock(&lock);
    spellings_free(&sp);
}

static void add(const struct spelling *s) {
    needles_add(&needles, s->text, s->full);
}

static void drop(const struct spelling *s) {
    needles_drop(&needles, s->text);
}

void secret_add(struct str s) {
    each_spelling(s, add);
}

void secret_drop(struct str s) {
    each_spelling(s, drop);
}

size_t secret_bytes(struct str s) {
    if (s.n < SECRET_MIN) return 0;
    struct spellings sp;
    size_t bytes = 0;
    spell(s, &sp);
    for (size_t i = 0; i < sp.n; i++) bytes += needles_cost(sp.v[i].text.n);
    spellings_free(&sp);
    return bytes;
}

size_t scrub_work(void) {
    return atomic_load(&all_work);
}

/* A text and which of its bytes belong to a secret; mask is NULL until there is one. */
struct marked {
    struct str text;
    char *mask;
};

/* Marks what is found in p, the text itself or a decoded copy: byte i of it begins at at[i] of the
 * text. */
static void mark(struct marked *m, const char *p, size_t n, const size_t *at) {
    size_t done = 0; /* end of what was marked last: long secrets may stand at each byte */
    size_t work = 0, slice = 0, most = WORK_LEAST + SCRUB_WORK_BYTE * n;
    pthread_rwlock_rdlock(&lock);
    for (size_t i = 0; i + SECRET_MIN <= n && done < n && needles.n > 0; i++) {
        size_t len = work < most ? needles_at(&needles, p + i, n - i, &work) : n - i;
        if (work - slice > WORK_SLICE) {
            slice = work;
            pthread_rwlock_unlock(&lock);
            pthread_rwlock_rdlock(&lock);
        }
        if (len == 0 || i + len <= done) continue;
        size_t start = i < done ? done : i;
        size_t from = at ? at[start] : start;
        done = i + len;
        size_t to = at ? at[done] : done;
        if (!m->mask) m->mask = xcalloc(m->text.n, 1);
        memset(m->mask + from, 1, to - from);
    }
    pthread_rwlock_unlock(&lock);
    atomic_fetch_add(&all_work, work);
}

static bool hex_digits(const char *p, size_t n, unsigned *ret) {
    unsigned v = 0;
    for (size_t i = 0; i < n; i++) {
        int d = hex_digit(p[i]);
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
    int byte = percent_byte(p, n);
    ret[0] = byte < 0 ? *p : (char)byte;
    *ret_n = 1;
    return byte < 0 ? 1 : 3;
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
    *ret_n = utf8_put(v, ret);
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
        char bytes[4] = {0};
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
    mark(&m, text.p, text.n, NULL);
    mark_decoded(&m, '%', decode_percent);
    mark_decoded(&m, '\\', decode_json);
    return m.mask;
}

bool secret_in(struct str text) {
    char *mask = find_secrets(text);
    bool found = mask != NULL;
    free(mask);
    return found;
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
