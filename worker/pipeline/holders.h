/* Whose sink objects a full table forgets first: those of the workspace that holds most. So one
 * that comes with something new each time forgets its own, and keeps others' where they are; where
 * all hold alike, it is the longest unused. For route.c. Pure; one thread. */
#ifndef RUNSINK_HOLDERS_H
#define RUNSINK_HOLDERS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

struct holder;

/* Part of what is held. */
struct holding {
    struct holder *of;
    size_t bytes;
    TAILQ_ENTRY(holding) link;
};

/* What a workspace takes by itself, at most. */
#define HOLDER_BYTES ((size_t)128)

struct holders;
struct holders *holders_new(void);
void holders_free(struct holders *); /* nothing may be held */
/* Something new of this workspace, of no bytes yet; it counts as just used. */
void holders_add(struct holders *, struct holding *, uint64_t workspace);
void holders_weigh(struct holders *, struct holding *, size_t bytes);
void holders_use(struct holders *, struct holding *);
void holders_remove(struct holders *, struct holding *);
/* The longest unused of who holds most, up to a factor of two; of several such, of the one that was
 * not heard of for longest. NULL: nothing is held. */
struct holding *holders_first(const struct holders *);

#endif
