/* Which partitions are ours, and where each stands: rebalances, committed offsets and their
 * metadata. Lane's thread. */
#ifndef RUNSINK_ASSIGNMENT_H
#define RUNSINK_ASSIGNMENT_H

#include "worker/kafka/consumer.h"

struct lane;
struct partition;

/* The consumer's events; the context is the lane. */
void assignment_assigned(void *lane, const struct assigned *, size_t n);
void assignment_revoked(void *lane, struct feed *const *, size_t n, bool lost, bool all);
void assignment_committed(void *lane, struct feed *, const struct committed *);

void assignment_poll(struct lane *); /* each turn: what was not known when one was assigned */
void assignment_drop(struct lane *, struct partition *);
/* Reads on from this offset (or FEED_BEGINNING). */
void assignment_move(struct partition *, int64_t offset);
/* Nothing was committed: its first window begins here. */
void assignment_begin(struct partition *, int64_t offset);
/* The chain goes on from an entry that somebody else has written, which ends at next: it has to be
 * proved before anything is signed (proof.c). */
void assignment_prove(const struct lane *, struct partition *, int64_t next);
/* Whether what was committed was there when the broker was asked at this time or later, so that
 * what was fetched before is of the topic that was read so far. If not it is asked. */
bool assignment_is_sure(const struct lane *, struct partition *, int64_t since_ms);
/* It was there when somebody else asked. */
void assignment_sure(struct partition *, int64_t asked_ms);
/* The topic may have been made anew: its partitions' commits are looked for. */
void assignment_doubt(struct lane *, const char *topic);
/* The topic was made anew: reads from there, its first record. Nothing may be unsettled. */
void assignment_anew(struct lane *, struct partition *, int64_t low);
bool assignment_watermarks(struct lane *, const struct partition *, int64_t *low, int64_t *high);

#endif
