#include "worker/base/needles.h"

#include <stdlib.h>

#include "worker/base/buf.h"
#include "worker/base/hash.h"

/* Each bucket is a crit-bit tree (Morrison's PATRICIA, 1968): a branch stands where the needles
 * below it first differ and knows only that bit's number, so a path is as long as the needles on it
 * have such places, and inserting or removing one touches one branch. Unlike in a search tree, all
 * needles that a text begins with stand along one path, also when a tenant registers hundreds that
 * each share a little more with the text.
 *
 * A needle is read as nine bits a byte, a 1 and the byte's own, and 0 for ever after its end: one
 * needle may begin another. */
#define SYMBOL_BITS 9

struct branch {
    unsigned bit;
    struct needle_link side[2];
};

struct needle {
    size_t full; /* length in a text */
    unsigned count;
    unsigned n;
    char p[];
};

static bool bit_of(struct str s, unsigned bit) {
    size_t i = bit / SYMBOL_BITS;
    unsigned place = bit % SYMBOL_BITS;
    return i < s.n && (place == 0 || ((unsigned char)s.p[i] >> (8 - place) & 1));
}

static struct str text_of(const struct needle *f) {
    return (struct str){f->p, f->n};
}

static size_t common(struct str a, struct str b) {
    size_t i = 0, n = a.n < b.n ? a.n : b.n;
    for (uint64_t x, y; i + sizeof x <= n; i += sizeof x) {
        memcpy(&x, a.p + i, sizeof x);
        memcpy(&y, b.p + i, sizeof y);
        if (x != y) break;
    }
    while (i < n && a.p[i] == b.p[i]) i++;
    return i;
}

/* The first bit in which two different strings differ; same is what common() says of them. */
static unsigned difference(struct str a, struct str b, size_t same) {
    unsigned place = 0;
    if (same < a.n && same < b.n) {
        unsigned differ = (unsigned char)a.p[same] ^ (unsigned char)b.p[same];
        for (place = 1; !(differ & 0x80); place++) differ <<= 1;
    }
    return (unsigned)same * SYMBOL_BITS + place;
}

/* Multiplied by a number that nobody outside knows: whoever chooses needles can't choose buckets.
 */
static size_t bucket_of(const struct needles *s, const char *p) {
    uint64_t first = 0;
    memcpy(&first, p, NEEDLE_MIN);
    return first * s->seed >> (64 - NEEDLE_BUCKET_BITS);
}

/* With what malloc() adds to the two blocks. */
size_t needles_cost(size_t n) {
    return sizeof(struct needle) + n + sizeof(struct branch) + 32;
}

/* The needle at the end of the text's path. No other one has more in common with the text: whatever
 * left the path before its end differs from the text there. */
static struct needle *nearest(const struct needle_link *root, struct str text, size_t *work) {
    const struct needle_link *at = root;
    for (; at->branch; ++*work) at = &at->branch->side[bit_of(text, at->branch->bit)];
    return at->needle;
}

/* Puts a needle where it parts, at a bit, from those that are there. */
static void insert(struct needle_link *root, struct needle *f, unsigned bit) {
    struct needle_link *at = root;
    while (at->branch && at->branch->bit < bit)
        at = &at->branch->side[bit_of(text_of(f), at->branch->bit)];
    struct branch *b = xmalloc(sizeof *b);
    bool side = bit_of(text_of(f), bit);
    b->bit = bit;
    b->side[side] = (struct needle_link){.needle = f};
    b->side[!side] = *at;
    *at = (struct needle_link){.branch = b};
}

void needles_add(struct needles *s, struct str text, size_t full) {
    if (s->seed == 0) s->seed = keyed_hash("needles", 5) | 1;
    struct needle_link *root = &s->buckets[bucket_of(s, text.p)];
    size_t work = 0;
    struct needle *near = nearest(root, text, &work);
    size_t same = near ? common(text_of(near), text) : 0;
    if (near && same == near->n && same == text.n) {
        near->count++;
        if (near->full < full) near->full = full;
        return;
    }
    struct needle *f = xmalloc(sizeof *f + text.n);
    *f = (struct needle){.full = full, .count = 1, .n = (unsigned)text.n};
    memcpy(f->p, text.p, text.n);
    if (near)
        insert(root, f, difference(text_of(near), text, same));
    else
        root->needle = f;
    s->n++;
    s->bytes += needles_cost(text.n);
}

void needles_drop(struct needles *s, struct str text) {
    struct needle_link *root = &s->buckets[bucket_of(s, text.p)], *at = root, *above = NULL;
    bool side = false;
    while (at->branch) {
        above = at;
        side = bit_of(text, at->branch->bit);
        at = &at->branch->side[side];
    }
    struct needle *f = at->needle;
    if (!f || !str_eq(text_of(f), text) || --f->count > 0) return;
    if (above) {
        struct branch *b = above->branch;
        *above = b->side[!side];
        free(b);
    } else {
        root->needle = NULL;
    }
    s->n--;
    s->bytes -= needles_cost(text.n);
    wipe(f->p, f->n);
    free(f);
}

/* The longest needle of at most same bytes on the text's path, which has that many in common with
 * what stands at its end: each of these begins the text. */
static const struct needle *beginning(const struct needle_link *root, struct str text, size_t same,
                                      size_t *work) {
    const struct needle *found = NULL;
    const struct branch *b = root->branch;
    for (; b && b->bit <= same * SYMBOL_BITS; b = b->side[bit_of(text, b->bit)].branch, ++*work)
        if (b->bit % SYMBOL_BITS == 0) found = b->side[0].needle; /* what ends here is one needle */
    return found;
}

size_t needles_at(const struct needles *s, const char *p, size_t n, size_t *work) {
    ++*work;
    if (n < NEEDLE_MIN) return 0;
    const struct needle_link *root = &s->buckets[bucket_of(s, p)];
    struct str text = {p, n < NEEDLE_MAX ? n : NEEDLE_MAX};
    const struct needle *f = nearest(root, text, work);
    if (!f) return 0;
    size_t same = common(text_of(f), text);
    *work += same / sizeof(uint64_t);
    if (same < f->n) {
        if (same == n && n >= NEEDLE_CUT_MIN) return n;
        f = beginning(root, text, same, work);
    }
    return !f ? 0 : f->full < n ? f->full : n;
}
