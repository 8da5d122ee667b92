#include "worker/forms.h"

#include <stdlib.h>

#include "worker/buf.h"

/* A crit-bit tree (Morrison's PATRICIA, 1968): a branch stands where the forms below it first
 * differ and knows only that bit's number, so a path is as long as the forms on it have such
 * places, and inserting or removing one touches one branch. Unlike in a search tree, all forms that
 * a text begins with stand along one path, also when a tenant registers hundreds that each share a
 * little more with the text.
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
    size_t i = 0;
    while (i < a.n && i < b.n && a.p[i] == b.p[i]) i++;
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

static size_t slot(const char *p) {
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return four * UINT32_C(2654435761) >> (32 - FORM_FILTER_BITS);
}

/* With what malloc() adds to the two blocks. */
static size_t cost(size_t n) {
    return sizeof(struct form) + n + sizeof(struct branch) + 32;
}

/* The form at the end of the text's path. No other one has more in common with the text: whatever
 * left the path before its end differs from the text there. */
static struct form *nearest(const struct forms *s, struct str text) {
    const struct form_link *at = &s->root;
    while (at->branch) at = &at->branch->side[bit_of(text, at->branch->bit)];
    return at->form;
}

/* Puts a form where it parts, at a bit, from those that are there. */
static void insert(struct forms *s, struct form *f, unsigned bit) {
    struct form_link *at = &s->root;
    while (at->branch && at->branch->bit < bit)
        at = &at->branch->side[bit_of(text_of(f), at->branch->bit)];
    struct branch *b = xmalloc(sizeof *b);
    bool side = bit_of(text_of(f), bit);
    b->bit = bit;
    b->side[side] = (struct form_link){.form = f};
    b->side[!side] = *at;
    *at = (struct form_link){.branch = b};
}

bool forms_add(struct forms *s, struct str text, size_t full, size_t max) {
    struct form *near = nearest(s, text);
    size_t same = near ? common(text_of(near), text) : 0;
    if (near && same == near->n && same == text.n) {
        near->count++;
        if (near->full < full) near->full = full;
        return true;
    }
    if (s->bytes > max || cost(text.n) > max - s->bytes) return false;
    struct form *f = xmalloc(sizeof *f + text.n);
    *f = (struct form){.full = full, .count = 1, .n = (unsigned)text.n};
    memcpy(f->p, text.p, text.n);
    if (near)
        insert(s, f, difference(text_of(near), text, same));
    else
        s->root.form = f;
    s->n++;
    s->bytes += cost(text.n);
    s->filter[slot(f->p)]++;
    return true;
}

void forms_drop(struct forms *s, struct str text) {
    struct form_link *at = &s->root, *above = NULL;
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
        s->root.form = NULL;
    }
    s->n--;
    s->bytes -= cost(text.n);
    s->filter[slot(f->p)]--;
    wipe(f->p, f->n);
    free(f);
}

/* The longest form of at most same bytes on the text's path, which has that many in common with
 * what stands at its end: each of these begins the text. */
static const struct form *beginning(const struct forms *s, struct str text, size_t same) {
    const struct form *found = NULL;
    for (const struct branch *b = s->root.branch; b && b->bit <= same * SYMBOL_BITS;
         b = b->side[bit_of(text, b->bit)].branch)
        if (b->bit % SYMBOL_BITS == 0) found = b->side[0].form; /* what ends here is one form */
    return found;
}

size_t forms_at(const struct forms *s, const char *p, size_t n) {
    if (n < FORM_MIN || s->filter[slot(p)] == 0) return 0;
    struct str text = {p, n < FORM_MAX ? n : FORM_MAX};
    const struct form *f = nearest(s, text);
    size_t same = f ? common(text_of(f), text) : 0;
    if (f && same < f->n) {
        if (same == n && n >= FORM_CUT_MIN) return n;
        f = beginning(s, text, same);
    }
    return !f ? 0 : f->full < n ? f->full : n;
}
