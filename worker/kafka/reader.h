/* Reads partitions outside of any group, from where it is told to their ends: for commands, and for
 * the start of a group. What an aborted transaction wrote is not seen. One thread; calls block. */
#ifndef RUNSINK_READER_H
#define RUNSINK_READER_H

#include <librdkafka/rdkafka.h>

#include "config/config.h"
#include "worker/event/jobrun.h"
#include "worker/kafka/topics.h"

/* A consumer that belongs to no group's assignment; group names whose committed offsets it may ask
 * for. NULL with a message in err. The caller destroys it with rd_kafka_destroy(). */
rd_kafka_t *reader_consumer(const struct config *, const char *group, struct buf *err);

/* The same, but one that sees open and aborted transactions too: the ends that it is told are those
 * of what was written, not of what can be read. */
rd_kafka_t *reader_consumer_raw(const struct config *, const char *group, struct buf *err);

enum reader_order {
    READER_ANY,    /* as records come */
    READER_BY_TIME /* partitions merged by the records' times, so that what belongs together is near
                      each other */
};
/* The consumer is the reader's alone until it is freed. */
struct reader;
struct reader *reader_new(rd_kafka_t *, enum reader_order);
void reader_free(struct reader *);

/* What is read; all before the first reader_next(). */
#define READER_END (-1)
/* From an offset, or RD_KAFKA_OFFSET_BEGINNING. It is read up to the offset `until`, whatever the
 * open transactions that hide records before it, which end at last by their timeout; or, with
 * READER_END, up to the first end that shows. */
void reader_add(struct reader *, const char *topic, int32_t partition, int64_t from, int64_t until);
struct reader_limits {
    int64_t from_ms; /* 0: the beginning */
    int64_t to_ms;   /* 0: the end */
};
/* All of a topic; limits NULL: none. False with a message in err. */
bool reader_add_topic(struct reader *, const struct topic *, const struct reader_limits *,
                      struct buf *err);
/* Asked several times a second, and now and then while records come: true ends the reading. */
void reader_stop_when(struct reader *, bool (*stop)(void *context), void *context);
/* How long it waits for what does not come, instead of longer than a transaction may take. */
void reader_patience(struct reader *, int64_t ms);

/* The next record, the caller's to destroy. NULL at the end, when it was stopped, or when reading
 * failed (a message is in err). At the end READER_BY_TIME waits up to linger_ms for another one
 * first.
 */
rd_kafka_message_t *reader_next(struct reader *, int linger_ms, struct buf *err);
enum reader_end { READER_DONE, READER_STOPPED, READER_FAILED };
/* The last error that a partition's reading met; 0: none. */
rd_kafka_resp_err_t reader_trouble(const struct reader *);
enum reader_end reader_end(const struct reader *); /* once there was no next record */
/* Where the i-th partition that was added would be read on. */
int64_t reader_at(const struct reader *, size_t i);
/* Whether something before an `until` is hidden by a transaction that is open, and where. */
bool reader_held(const struct reader *, const char **ret_topic, int32_t *ret_partition);
/* Once it was read to the ends: how many partitions have more behind a transaction that is open. */
size_t reader_hidden(const struct reader *);
/* How much of the topics that were added has been read, of what was there at the start: 0 to 1. */
double reader_progress(const struct reader *);

/* Single records by their place: keeps reading where it is while that is near. NULL when the record
 * is not there any more (err empty) or can't be read. */
struct lookup;
#define LOOKUP_TIMEOUT_MS 15000 /* of each question, for commands */
struct lookup *lookup_new(rd_kafka_t *, int timeout_ms);
void lookup_free(struct lookup *);
rd_kafka_message_t *lookup_record(struct lookup *, const char *topic, int32_t partition,
                                  int64_t offset, struct buf *err);

/* A record's key and value; empty where it has none. */
struct str reader_key(const rd_kafka_message_t *);
struct str reader_value(const rd_kafka_message_t *);
/* A message as a record to decode; headers are the arena's, the rest borrows from the message. */
void reader_record(const rd_kafka_message_t *, struct arena *, struct message *ret);

#endif
