/* Memory that is given back all at once: a window's, a request's. Aborts when out of memory.
 * One thread at a time. */
#ifndef RUNSINK_ARENA_H
#define RUNSINK_ARENA_H

#include "worker/base/str.h"

struct arena_block;
struct arena {
    struct arena_block *head;
    size_t bytes; /* taken from malloc so far */
};

void *arena_alloc(struct arena *, size_t);      /* zeroed, aligned for any type */
char *arena_strdup(struct arena *, struct str); /* with a NUL after it */
void arena_free(struct arena *);                /* all of it; the arena may be used again */
void arena_wipe(struct arena *);                /* overwrites first */

#endif
