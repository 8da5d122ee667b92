/* A counted set of byte strings that tells, at a place of a text, which of them stands there: the
 * log's scrubber keeps the forms of its secrets in it. Tenants choose the strings and often the
 * text, so no call takes longer because the set is large: each is bounded by FORM_MAX. No locks:
 * the caller's. */
#ifndef RUNSINK_FORMS_H
#define RUNSINK_FORMS_H

#include <stdint.h>

#include "worker/str.h"

#define FORM_MIN 4               /* bytes of the shortest */
#define FORM_MAX ((size_t)512)   /* and of the longest that is kept and compared */
#define FORM_CUT_MIN ((size_t)8) /* a shorter beginning at a text's end may be anything */
#define FORM_FILTER_BITS 13

struct branch;
struct form;

/* One of the two, or none in an empty set. */
struct form_link {
    struct branch *branch;
    struct form *form;
};

struct forms { /* zeroed: empty */
    struct form_link root;
    size_t n;
    size_t bytes;                           /* of memory, about */
    uint32_t filter[1 << FORM_FILTER_BITS]; /* how many begin so, by a hash of four bytes */
};

/* Adds a copy of text, FORM_MIN to FORM_MAX bytes, or counts it once more. full is its length in a
 * text: what follows a form that was cut to FORM_MAX is taken for the rest of it. False, and
 * nothing changed, when the set would take more than max bytes with it. */
bool forms_add(struct forms *, struct str text, size_t full, size_t max);
/* Undoes one forms_add() of that text; the last one wipes the copy. One never added is fine. */
void forms_drop(struct forms *, struct str text);
/* How many of the n bytes at p the longest form takes that stands there, all n when the text was
 * cut inside a form; 0: none does. */
size_t forms_at(const struct forms *, const char *p, size_t n);

#endif
