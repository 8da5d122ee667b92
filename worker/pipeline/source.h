/* The consumer: it joins the group, subscribes, reads the partitions' queues, and finds positions
 * that the broker does not have. Lane's thread. */
#ifndef RUNSINK_SOURCE_H
#define RUNSINK_SOURCE_H

#include <stdbool.h>

struct buf;
struct config;
struct lane;
struct partition;
struct rd_kafka_message_s;

bool source_open(struct lane *, struct buf *err);
/* Whether librdkafka makes a lane's consumer of this configuration; it joins nothing. */
bool source_check(const struct config *, struct buf *err);
void source_close(struct lane *); /* leaves the group */
void source_free(struct lane *);  /* the consumer, once no message of its is held any more */
void source_poll(struct lane *);  /* callbacks, errors, offsets asked for, new topics */
/* The next record of a partition, or NULL: none, or not due. It stays the partition's until
 * source_taken(). */
struct rd_kafka_message_s *source_peek(struct lane *, struct partition *);
void source_taken(struct partition *);

#endif
