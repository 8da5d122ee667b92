/* Which partitions are ours, and where each stands: rebalances, committed offsets and their
 * metadata. Lane's thread. */
#ifndef RUNSINK_ASSIGNMENT_H
#define RUNSINK_ASSIGNMENT_H

#include <stdbool.h>
#include <stdint.h>

struct lane;
struct partition;
struct rd_kafka_conf_s;

/* Rebalances of the consumer that is made of this are taken by its lane, the opaque of the conf. */
void assignment_take_rebalances(struct rd_kafka_conf_s *);
void assignment_poll(struct lane *); /* each turn: what was not known when one was assigned */
void assignment_drop(struct lane *, struct partition *);
/* Reads on from this offset (or RD_KAFKA_OFFSET_BEGINNING). */
void assignment_move(struct lane *, struct partition *, int64_t offset);
/* Nothing was committed: its first window begins here. */
void assignment_begin(struct partition *, int64_t offset);
/* The topic may have been made anew: its partitions' commits are looked for. */
void assignment_doubt(struct lane *, const char *topic);
/* The topic was made anew: reads from there, its first record. Nothing may be unsettled. */
void assignment_anew(struct lane *, struct partition *, int64_t low);
bool assignment_watermarks(struct lane *, const struct partition *, int64_t *low, int64_t *high);

#endif
