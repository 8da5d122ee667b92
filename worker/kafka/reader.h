/* Reads whole topics from beginning to end, outside of any group: for `verify`, `trace` and whoever
 * else looks back. What an aborted transaction wrote is not seen. One thread; calls block. */
#ifndef RUNSINK_READER_H
#define RUNSINK_READER_H

#include <librdkafka/rdkafka.h>

#include "config/config.h"
#include "worker/event/jobrun.h"

/* A consumer that belongs to no group's assignment; group names whose committed offsets it may ask
 * for. NULL with a message in err. The caller destroys it with rd_kafka_destroy(). */
rd_kafka_t *reader_consumer(const struct config *, const char *group, struct buf *err);

/* The same, but one that sees open and aborted transactions too: the ends that it is told are those
 * of what was written, not of what can be read. */
rd_kafka_t *reader_consumer_raw(const struct config *, const char *group, struct buf *err);

struct reader_limits {
    int64_t from_ms; /* 0: the beginning */
    int64_t to_ms;   /* 0: the end */
};

/* The partitions of a topic, merged by the records' times, so that what belongs together is near
 * each other. NULL with a message in err. The consumer is the reader's alone until it is freed. */
struct reader;
struct reader *reader_open(rd_kafka_t *, const char *topic, int partitions,
                           const struct reader_limits *, struct buf *err);
void reader_free(struct reader *);
/* The next record, the caller's to destroy. NULL at the end, or when reading failed (err is not
 * empty). At the end it waits up to linger_ms for another one first. */
rd_kafka_message_t *reader_next(struct reader *, int linger_ms, struct buf *err);
/* How much of what was there at the start has been read, 0 to 1. */
double reader_progress(const struct reader *);

/* Single records by their place: keeps reading where it is while that is near. NULL when the record
 * is not there any more (err empty) or can't be read. */
struct lookup;
struct lookup *lookup_new(rd_kafka_t *);
void lookup_free(struct lookup *);
rd_kafka_message_t *lookup_record(struct lookup *, const char *topic, int32_t partition,
                                  int64_t offset, struct buf *err);

/* A message as a record to decode; headers are the arena's, the rest borrows from the message. */
void reader_record(const rd_kafka_message_t *, struct arena *, struct message *ret);

/* "2026-01-31T12:00:00Z", or how long before now: "90m", "7d". */
bool reader_time(const char *text, int64_t now_ms, int64_t *ret);

#endif
