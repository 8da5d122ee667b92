/* Asks the group's coordinator for committed offsets on a thread of its own, so that an offset
 * which an open transaction makes unstable holds up nothing. One partition per question: the
 * broker answers a list only when all of it is stable. */
#ifndef RUNSINK_OFFSETS_H
#define RUNSINK_OFFSETS_H

#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stdint.h>

struct offsets;

/* The consumer must outlive it. wake_fd is an eventfd, written when an answer is there. NULL: no
 * thread could be had (errno). */
struct offsets *offsets_new(rd_kafka_t *consumer, int wake_fd);
/* Before the consumer closes. Waits for the question under way, at most OFFSETS_LOOK_MS. */
void offsets_free(struct offsets *);

#define OFFSETS_TIMEOUT_MS 500

/* How long a look may take, for all of its topics together. */
#define OFFSETS_LOOK_MS 2000

/* All of the lane's thread. The serial, above 0, comes back with the answer. */
void offsets_ask(struct offsets *, const char *topic, int32_t partition, uint64_t serial);
/* Looks for topics, before any question that waits: each comes back with err 0 when a broker says
 * that it is there, else what the broker said or why none did, in an answer of serial 0. Owns the
 * list. */
void offsets_look(struct offsets *, rd_kafka_topic_partition_list_t *topics);
/* The next answer: one partition with its offset and metadata, or its err set. NULL: none. The
 * caller destroys the list. */
rd_kafka_topic_partition_list_t *offsets_answer(struct offsets *, uint64_t *ret_serial);

#endif
