/* Kafka transactions (promise P3): one carries all that has to happen together, records (ledger
 * entries, parked records, dead letters) and the group's offsets with their metadata.
 *
 * A lane settles with a producer that has a thread of its own for the blocking calls, so that
 * settling never stalls transfers. The lane's thread makes a transaction, fills it, hands it over
 * whole with txn_submit(), and gets it back from txn_take() after wake_fd became readable; one at a
 * time. Group metadata is taken on the lane's thread when the transaction is made: the broker does
 * not check who owns a partition, so the producer's thread must never ask for it.
 *
 * A command calls txn_run() on its own thread. */
#ifndef RUNSINK_TXN_H
#define RUNSINK_TXN_H

#include <librdkafka/rdkafka.h>

#include "worker/base/arena.h"
#include "worker/base/buf.h"
#include "worker/event/jobrun.h"

struct config;

enum txn_result {
    TXN_DONE,    /* committed */
    TXN_AGAIN,   /* aborted: nothing happened; make a new one */
    TXN_REFUSED, /* aborted: each record with `refused` set is not taken by its topic, ever; make a
                    new one without them, at once. None: the same may succeed at once */
    TXN_TOPIC,   /* aborted: `topic` can't be written now; what needs no record there can be
                       settled without */
    TXN_STALE,   /* aborted: our membership is out of date; wait for the rebalance callback */
    TXN_UNKNOWN, /* fatal: may or may not have happened; start the lane anew from the committed
                       offsets */
};

/* A record to produce; everything borrowed until the job is freed. partition -1: by key. Otherwise
 * it is taken modulo the topic's number of partitions, so that what belongs together stays
 * together. */
struct txn_record {
    const char *topic;
    int32_t partition;
    const void *key, *value; /* NULL: null */
    size_t key_len, value_len;
    const struct header *headers;
    size_t n_headers;
    void *owner;                 /* the maker's */
    rd_kafka_resp_err_t refused; /* once the job has come back as TXN_REFUSED */
    size_t fanout;               /* the producer's */
};

struct txn {
    struct arena arena; /* for what the records point at */
    struct txn_record *records;
    size_t n_records, cap_records;
    rd_kafka_topic_partition_list_t *offsets; /* with metadata */
    void *group_metadata;
    size_t group_metadata_len;
    enum txn_result result;
    bool fenced;       /* with TXN_UNKNOWN: another producer of this name has begun */
    const char *topic; /* with TXN_TOPIC; of one of the records */
    char error[256];   /* for the operator, when not TXN_DONE */
    int64_t took_us;
};

/* NULL when the consumer has no valid membership (no generation, no member id): (-1, "") would be
 * accepted without fencing. */
struct txn *txn_new(rd_kafka_t *consumer);
struct txn *txn_new_alone(void); /* records alone, no offsets */
void txn_free(struct txn *);
struct txn_record *txn_add(struct txn *); /* zeroed; valid until the next add */
bool txn_offset(struct txn *, const char *topic, int32_t partition, int64_t offset,
                const char *metadata);

struct txn_producer;
/* Whether the broker takes the producer. Until then nothing may be read: what is delivered could
 * not be settled, and would be delivered again and again. */
enum txn_producer_state {
    TXN_PRODUCER_STARTING, /* asked for; it is tried until it is taken or refused */
    TXN_PRODUCER_READY,
    TXN_PRODUCER_REFUSED /* for good, as far as this producer goes */
};
/* Makes a transactional producer without a thread, for txn_run(). NULL with a message in err. */
struct txn_producer *txn_producer_open(const struct config *, const char *transactional_id,
                                       struct buf *err);
/* Waits until the broker takes it, which ends what an earlier producer of that name has begun. Not
 * READY: with error and fenced in ret. */
enum txn_producer_state txn_producer_begin(struct txn_producer *, int timeout_ms, struct txn *ret);
/* Blocks, for two minutes or so at most; the result is in it. It may be run again. */
void txn_run(struct txn_producer *, struct txn *);
/* Makes a transactional producer and starts its thread. wake_fd (an eventfd) is written when a
 * job is finished or the state changes. NULL with a message in err. */
struct txn_producer *txn_producer_new(const struct config *, const char *transactional_id,
                                      int wake_fd, struct buf *err);
/* Abandons what is under way, joins the thread, destroys the producer. */
void txn_producer_free(struct txn_producer *);
/* error: the last one met while starting; empty: none. */
enum txn_producer_state txn_producer_state(struct txn_producer *, char *ret_error, size_t size);
/* Makes a producer, for a moment, only to see whether the broker takes it. Blocks. */
enum txn_producer_state txn_producer_try(const struct config *, const char *transactional_id,
                                         int timeout_ms, struct buf *err);
/* The same without the broker: whether librdkafka makes it of this configuration. */
bool txn_producer_check(const struct config *, struct buf *err);
void txn_submit(struct txn_producer *,
                struct txn *);               /* only when what was submitted before is taken */
struct txn *txn_take(struct txn_producer *); /* NULL: not finished */

#endif
