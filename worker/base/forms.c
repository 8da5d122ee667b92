#include "worker/base/forms.h"

#include <stdlib.h>

#include "worker/base/buf.h"
#include "worker/base/hash.h"

/* Each bucket is a crit-bit tree (Morrison's PATRICIA, 1968): a branch stands where the forms below
 * it first differ and knows only that bit's number, so a path is as long as the forms on it have
 * such places, and inserting or removing one touches one branch. Unlike in a search tree, all forms
 * that a text begins with stand along one path, also when a tenant registers hundreds that each
 * share a little more with the text.
 *
 * A form is read as nine bits a byte, a 1 and the byte's own, and 0 for ever behind its end: one
 * form may begin another. */
#define SYMBOL_BITS 9

struct branch {
    unsigned bit;
    struct form_link side[2];
};

struct form {
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

static struct str text_of(const struct form *f) {
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

/* Multiplied by a number that nobody outside knows: whoever chooses forms can't choose buckets. */
static size_t bucket_of(const struct forms *s, const char *p) {
    uint64_t first = 0;
    memcpy(&first, p, FORM_MIN);
    return first * s->seed >> (64 - FORM_BUCKET_BITS);
}

/* With what malloc() adds to the two blocks. */
size_t forms_cost(size_t n) {
    return sizeof(struct form) + n + sizeof(struct branch) + 32;
}

/* The form at the end of the text's path. No other one has more in common with the text: whatever
 * left the path before its end differs from the text there. */
static struct form *nearest(const struct form_link *root, struct str text, size_t *work) {
    const struct form_link *at = root;
    for (; at->branch; ++*work) at = &at->branch->side[bit_of(text, at->branch->bit)];
    return at->form;
}

/* Puts a form where it parts, at a bit, from those that are there. */
static void insert(struct form_link *root, struct form *f, unsigned bit) {
    struct form_link *at = root;
    while (at->branch && at->branch->bit < bit)
        at = &at->branch->side[bit_of(text_of(f), at->branch->bit)];
    struct branch *b = xmalloc(sizeof *b);
    bool side = bit_of(text_of(f), bit);
    b->bit = bit;
    b->side[side] = (struct form_link){.form = f};
    b->side[!side] = *at;
    *at = (struct form_link){.branch = b};
}

void forms_add(struct forms *s, struct str text, size_t full) {
    if (s->seed == 0) s->seed = keyed_hash("forms", 5) | 1;
    struct form_link *root = &s->buckets[bucket_of(s, text.p)];
    size_t work = 0;
    struct form *near = nearest(root, text, &work);
    size_t same = near ? common(text_of(near), text) : 0;
    if (near && same == near->n && same == text.n) {
        near->count++;
        if (near->full < full) near->full = full;
        return;
    }
    struct form *f = xmalloc(sizeof *f + text.n);
    *f = (struct form){.full = full, .count = 1, .n = (unsigned)text.n};
    memcpy(f->p, text.p, text.n);
    if (near)
        insert(root, f, difference(text_of(near), text, same));
    else
        root->form = f;
    s->n++;
    s->bytes += forms_cost(text.n);
}

void forms_drop(struct forms *s, struct str text) {
    struct form_link *root = &s->buckets[bucket_of(s, text.p)], *at = root, *above = NULL;
    bool side = false;
    while (at->branch) {
        above = at;
        side = bit_of(text, at->branch->bit);
        at = &at->branch->side[side];
    }
    struct form *f = at->form;
    if (!f || !str_eq(text_of(f), text) || --f->count > 0) return;
    if (above) {
        struct branch *b = above->branch;
        *above = b->side[!side];
        free(b);
    } else {
        root->form = NULL;
    }
    s->n--;
    s->bytes -= forms_cost(text.n);
    wipe(f->p, f->n);
    free(f);
}

/* The longest form of at most same bytes on the text's path, which has that many in common with
 * what stands at its end: each of these begins the text. */
static const struct form *beginning(const struct form_link *root, struct str text, size_t same,
                                    size_t *work) {
    const struct form *found = NULL;
    const struct branch *b = root->branch;
    for (; b && b->bit <= same * SYMBOL_BITS; b = b->side[bit_of(text, b->bit)].branch, ++*work)
        if (b->bit % SYMBOL_BITS == 0) found = b->side[0].form; /* what ends here is one form */
    return found;
}

size_t forms_at(const struct forms *s, const char *p, size_t n, size_t *work) {
    ++*work;
    if (n < FORM_MIN) return 0;
    const struct form_link *root = &s->buckets[bucket_of(s, p)];
    struct str text = {p, n < FORM_MAX ? n : FORM_MAX};
    const struct form *f = nearest(root, text, work);
    if (!f) return 0;
    size_t same = common(text_of(f), text);
    *work += same / sizeof(uint64_t);
    if (same < f->n) {
        if (same == n && n >= FORM_CUT_MIN) return n;
        f = beginning(root, text, same, work);
    }
    return !f ? 0 : f->full < n ? f->full : n;
}
