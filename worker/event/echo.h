/* Secrets by their value: where what was taken for one stands once more in the same document, an
 * error message that quotes the key for instance. Pure: what is found depends on the document
 * alone, and the time it takes is linear in it. */
#ifndef RUNSINK_ECHO_H
#define RUNSINK_ECHO_H

#include "worker/event/jobrun.h"

#define ECHO_MIN                                                                                   \
    6 /* a shorter value may be any word, and is no secret where it stands by chance               \
       */
#define ECHO_NAME_MIN 12 /* inside of a member's name: shorter ones are parts of honest names */

/* A value, its escapes resolved. */
struct echo {
    const char *p;
    size_t n;
    uint32_t rare;   /* index of a byte that is rare in JSON */
    bool unfit;      /* can stand in JSON with escapes alone */
    bool credential; /* what a request is signed or sent with, not just a member that we don't know
                      */
};

struct echoes {
    struct echo few[12];
    struct echo *v;
    size_t n, cap;
    size_t n_short; /* of fewer than ECHO_MIN bytes */
};
void echoes_begin(struct echoes *);
/* Adds a value that lives as long as the arena: none that is empty, in UTF-8 no more, or a word of
 * the event model, which is no secret. */
void echoes_add(struct echoes *, struct arena *, struct str value, bool credential);
/* Adds values that were added elsewhere. */
void echoes_copy(struct echoes *, struct arena *, const struct echo *, size_t n);

/* A run of edits: ascending, apart. */
struct edits {
    struct edit *v;
    size_t n;
};
/* Both as one, what overlaps united; those of b are to stand at a distance from where they say. */
struct edits edits_unite(struct edits a, struct edits b, size_t distance, struct arena *);
/* Finds some of the values (by their numbers) in the strings of a range of a document, which begins
 * and ends outside of strings, and unites where they stand with the edits that there are. escapes:
 * a string in it may hold one. False when it found none. */
bool echoes_find(const struct echoes *, struct edit which, struct str document, struct edit range,
                 bool escapes, struct edits *, struct arena *);

#endif
