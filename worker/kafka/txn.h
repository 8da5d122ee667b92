/* What one Kafka transaction says (promise P3): records (ledger entries, parked records, dead
 * letters, notices) and the group's offsets with their metadata, which happen together or not at
 * all. It is filled by one thread, and handed over whole to a producer (producer.h). */
#ifndef RUNSINK_TXN_H
#define RUNSINK_TXN_H

#include "worker/base/arena.h"
#include "worker/event/jobrun.h"

struct consumer;

enum txn_result {
    TXN_DONE,    /* committed */
    TXN_AGAIN,   /* aborted: nothing happened; make a new one */
    TXN_REFUSED, /* aborted: each record with `refused` set is not taken by its topic, ever; make a
                    new one without them, at once. None: the same may succeed at once */
    TXN_TOPIC,   /* aborted: `topic` can't be written now; what needs no record there can be
                       settled without */
    TXN_STALE,   /* aborted: our membership is out of date; wait for the rebalance callback */
    TXN_GONE,    /* aborted: what was committed for the offsets with `gone` set is not there any
                    more, so their topics may have been deleted */
    TXN_UNKNOWN, /* fatal: may or may not have happened; start the lane anew from the committed
                       offsets */
};

/* A record to produce; everything borrowed until the transaction is freed. partition -1: by key, as
 * librdkafka does; TXN_AS_JAVA: by key, as Kafka's own clients do. Otherwise it is taken modulo the
 * topic's number of partitions, so that what belongs together stays together. */
#define TXN_AS_JAVA (-2)
struct txn_record {
    const char *topic;
    int32_t partition;
    const void *key, *value; /* NULL: null */
    size_t key_len, value_len;
    const struct header *headers;
    size_t n_headers;
    void *owner;         /* the maker's */
    const char *refused; /* why, once the transaction has come back as TXN_REFUSED; NULL: it is not.
                            A static string */
    bool too_large;      /* the producer's, as is */
    size_t fanout;
};

/* To commit. A topic that is deleted takes its commits along, so one that is missing tells of a
 * topic that was made anew since it was read: at any later time this transaction's would stand
 * there. */
struct txn_offset {
    const char *topic, *metadata;
    int32_t partition;
    int64_t offset;
    bool follows; /* one that is committed already, which is looked at before */
    bool gone;    /* with TXN_GONE */
};

struct txn {
    struct arena arena; /* for what the records point at */
    struct txn_record *records;
    size_t n_records;
    struct txn_offset *offsets;
    size_t n_offsets;
    const struct consumer *consumer; /* whose membership it is, NULL: no consumer's; borrowed */
    void *membership; /* the group's metadata, serialised; NULL: it commits no offsets */
    size_t membership_len;
    enum txn_result result;
    bool fenced;       /* with TXN_UNKNOWN: another producer of this name has begun */
    const char *topic; /* with TXN_TOPIC; of one of the records */
    char error[256];   /* for the operator, when not TXN_DONE */
    int64_t took_us;
};

struct txn *txn_new(void);
struct txn *txn_new_in(const void *membership, size_t); /* serialised; copied */
/* One that commits offsets, in the name of the membership that the consumer has at this moment:
 * the broker does not check who owns a partition, so the producer's thread must never ask for it.
 * In a rebalance callback: that it had at its beginning. NULL when it has none (no generation, no
 * member id): (-1, "") would be accepted without fencing; or when it is younger than what the lane
 * was told, until that has polled.
 * The consumer's thread. */
struct txn *txn_new_member(const struct consumer *);
/* One that commits the group's offsets from outside of it, which the broker takes at any time and
 * fences nothing of. So only for partitions that no member ever reads, and that nobody commits but
 * a producer of this one name. NULL: librdkafka refuses the group. */
struct txn *txn_new_outside(const char *group);
void txn_free(struct txn *);              /* NULL is fine */
struct txn_record *txn_add(struct txn *); /* zeroed; valid until the next add */
/* Topic and metadata are copied; valid until the next one. */
struct txn_offset *txn_offset(struct txn *, const char *topic, int32_t partition, int64_t offset,
                              const char *metadata);

#endif
