/* A counted set of byte strings that tells, at a place of a text, which of them stands there: the
 * log's scrubber keeps in it what it looks for. Tenants choose the strings and often the
 * text. So what one place costs does not depend on how large the set is: it is looked for among the
 * needles that share its first bytes, and those are at worst a path of a few branches for each byte
 * of the longest. Each look says what it cost, for the caller to bound the sum. No locks: the
 * caller's.
 */
#ifndef RUNSINK_NEEDLES_H
#define RUNSINK_NEEDLES_H

#include <stdint.h>

#include "worker/base/str.h"

#define NEEDLE_MIN 6               /* bytes of the shortest */
#define NEEDLE_MAX ((size_t)512)   /* and of the longest that is kept and compared */
#define NEEDLE_CUT_MIN ((size_t)8) /* a shorter beginning at a text's end may be anything */
#define NEEDLE_BUCKET_BITS 16

struct branch;
struct needle;

/* One of the two, or none in an empty bucket. */
struct needle_link {
    struct branch *branch;
    struct needle *needle;
};

struct needles { /* zeroed: empty */
    uint64_t seed;
    size_t n;
    size_t bytes; /* of memory, about */
    struct needle_link
        buckets[1 << NEEDLE_BUCKET_BITS]; /* by a keyed hash of the first NEEDLE_MIN bytes */
};

/* Adds a copy of text, NEEDLE_MIN to NEEDLE_MAX bytes, or counts it once more. full is its length
 * in a text: what follows a needle that was cut to NEEDLE_MAX is taken for the rest of it. */
void needles_add(struct needles *, struct str text, size_t full);
/* Undoes one needles_add() of that text; the last one wipes the copy. One never added is fine. */
void needles_drop(struct needles *, struct str text);
/* How many of the n bytes at p the longest needle takes that stands there, all n when the text was
 * cut inside a needle; 0: none does. Adds to *work how many steps that took. */
size_t needles_at(const struct needles *, const char *p, size_t n, size_t *work);
/* What a needle of n bytes adds to bytes when it is the first of its kind. */
size_t needles_cost(size_t n);

#endif
