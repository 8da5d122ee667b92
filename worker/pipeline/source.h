/* The lane's reading: it joins the group, subscribes, reads the partitions' messages, and finds
 * positions that the broker does not have. Lane's thread. */
#ifndef RUNSINK_SOURCE_H
#define RUNSINK_SOURCE_H

#include "worker/kafka/consumer.h"

struct lane;
struct partition;

/* The first record beyond an end that was reached waits for so long to be known for one of the same
 * topic. */
#define SOURCE_SURE_MS 500

bool source_open(struct lane *, struct buf *err);
void source_close(struct lane *); /* leaves the group */
void source_free(struct lane *);  /* the consumer, once no message of its is held any more */
void source_poll(struct lane *);  /* callbacks, errors, offsets asked for, new topics */
/* The next message of a partition. False: there is none, or it is not due. It stays the partition's
 * until source_take(). */
bool source_peek(struct lane *, struct partition *, struct feed_head *ret);
struct fetched *source_take(struct partition *); /* the caller's */

#endif
