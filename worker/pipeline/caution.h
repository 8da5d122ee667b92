/* With how much care a partition is read, because of a record that may kill (poison.h): what is
 * passed over or set aside, what may be sent, when all is well again, and what is given back. How
 * records are tried one by one is in careful.h. Lane's thread. */
#ifndef RUNSINK_CAUTION_H
#define RUNSINK_CAUTION_H

#include "worker/kafka/meta.h"
#include "worker/pipeline/poison.h"
#include "worker/pipeline/record.h"

struct lane;
struct partition;

void caution_set(struct lane *, struct partition *, enum caution);
/* Finds the next offset, not before this one, that is not taken as others are: partition.special.
 */
void caution_look_ahead(const struct lane *, struct partition *, int64_t from);
void caution_reconfigure(struct lane *);
/* A record that is passed over or set aside: its state and outcome; RECORD_OPEN: take it. */
enum record_state caution_special(struct lane *, struct partition *, int64_t offset,
                                  struct outcome *ret);
/* Whether earlier readers died of this. */
bool caution_is_guilty(const struct partition *, enum alone, int64_t offset);
/* Tells of it; its outcome. */
struct outcome caution_poisoned(struct lane *, const struct partition *, int64_t offset,
                                uint32_t records);
bool caution_may_send(const struct delivery *); /* else it is deferred */
bool caution_waits(const struct window *);      /* only for deliveries that were deferred */
/* What the metadata says of who reads, once the topic is another one. */
struct claim caution_anew(const struct lane *, const struct partition *);
void caution_settled(struct lane *, struct partition *, int64_t records);
/* All that the dead readers had in work is settled. */
void caution_end(struct lane *, struct partition *);
/* When what is in work will all be settled by the settlement that says so, or can't be settled by
 * us at all (leave). A rebalance amid careful reading is no reason to forget the dead: each would
 * cost one more death. What is not ours (any more) is left as it is: this is asked for again and
 * again until all is settled. */
void caution_release(const struct lane *, struct partition *, bool leave);

#endif
