/* Who holds how much of what the deliveries of a lane share: a tally for each workspace and each
 * host that has deliveries waiting or flying, found by a keyed hash. Destinations are free for a
 * tenant, another query in the URL makes a new one, so what is bounded per destination alone is not
 * bounded. Lane's thread. For dispatch.c. */
#ifndef RUNSINK_SHARES_H
#define RUNSINK_SHARES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/base/table.h"

struct queue;

struct tally {
    struct table_node node;
    size_t deliveries;     /* waiting or flying; the tally goes with the last */
    size_t waiting, bytes; /* bytes: of all its deliveries */
    size_t flying;
    size_t risky, slow, leaving; /* of those flying; leaving: given up for being slow */
    /* Of workspaces: their queues that have something waiting, and the ring of such workspaces. */
    struct queue *ring;
    struct tally *next, *prev;
};

/* The tally of this key, made when there is none, for one more delivery. */
struct tally *shares_take(struct table *, uint64_t key);
/* One delivery less. */
void shares_give(struct table *, struct tally *);

/* Whether one that holds this many may have one more when used of limit are. percent is what one
 * alone may take: with 50 one takes half, two a third each, n leave 1/(n+1) for the next. */
static inline bool shares_allow(size_t holds, size_t used, size_t limit, int64_t percent) {
    if (used >= limit) return false;
    return percent >= 100 || holds * (size_t)(100 - percent) < (limit - used) * (size_t)percent;
}

#endif
