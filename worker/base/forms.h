/* A counted set of byte strings that tells, at a place of a text, which of them stands there: the
 * log's scrubber keeps the forms of its secrets in it. Tenants choose the strings and often the
 * text. So what one place costs does not depend on how large the set is: it is looked for among the
 * forms that share its first bytes, and those are at worst a path of a few branches for each byte
 * of the longest. Each look says what it cost, for the caller to bound the sum. No locks: the
 * caller's.
 */
#ifndef RUNSINK_FORMS_H
#define RUNSINK_FORMS_H

#include <stdint.h>

#include "worker/base/str.h"

#define FORM_MIN 6               /* bytes of the shortest */
#define FORM_MAX ((size_t)512)   /* and of the longest that is kept and compared */
#define FORM_CUT_MIN ((size_t)8) /* a shorter beginning at a text's end may be anything */
#define FORM_BUCKET_BITS 16

struct branch;
struct form;

/* One of the two, or none in an empty bucket. */
struct form_link {
    struct branch *branch;
    struct form *form;
};

struct forms { /* zeroed: empty */
    uint64_t seed;
    size_t n;
    size_t bytes; /* of memory, about */
    struct form_link
        buckets[1 << FORM_BUCKET_BITS]; /* by a keyed hash of the first FORM_MIN bytes */
};

/* Adds a copy of text, FORM_MIN to FORM_MAX bytes, or counts it once more. full is its length in a
 * text: what follows a form that was cut to FORM_MAX is taken for the rest of it. */
void forms_add(struct forms *, struct str text, size_t full);
/* Undoes one forms_add() of that text; the last one wipes the copy. One never added is fine. */
void forms_drop(struct forms *, struct str text);
/* How many of the n bytes at p the longest form takes that stands there, all n when the text was
 * cut inside a form; 0: none does. Adds to *work how many steps that took. */
size_t forms_at(const struct forms *, const char *p, size_t n, size_t *work);
/* What a form of n bytes adds to bytes when it is the first of its kind. */
size_t forms_cost(size_t n);

#endif
