/* A model of a Kafka cluster, as its clients see it: logs with transactions, one consumer group's
 * coordinator, the transaction coordinator. worker/kafka/consumer.h, producer.h and ledger_search.h
 * are implemented on it (consumer.c, producer.c, ledger_search.c of this folder). What a real
 * broker does not check, it does not check (the settlement protocol, rule 1). */
#ifndef RUNSINK_SIM_BROKER_H
#define RUNSINK_SIM_BROKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/event/jobrun.h"

/* What goes wrong, and how often; drawn from the seed by the world before it begins. */
struct broker_faults {
    int64_t latency_us;        /* of an answer, at the most */
    int64_t session_us;        /* a member that is not heard of for so long is put out */
    int64_t txn_timeout_us;    /* an open transaction is aborted after so long */
    bool eager;                /* static members, which are assigned eagerly */
    unsigned slow_coordinator; /* permille of requests to a coordinator that take seconds */
    unsigned stale_answer;     /* permille of commits that are answered with a stale membership */
    unsigned lost_answer;      /* permille of commits that happen, but whose answer is lost */
    unsigned abort;    /* permille of transactions that the broker aborts for its own reasons */
    unsigned unstable; /* permille of questions for committed offsets that it can't answer
                          now, beside those that an open transaction makes unstable */
    unsigned astray;   /* permille of fetches that are told that their position is none: by a broker
                          that has just become, or ceased to be, the leader */
    unsigned no_producer; /* permille of producers that are refused */
    unsigned no_access;   /* permille of fetches, and of looks for a topic, that are refused, and of
                             polls that tell of refused credentials or brokers that are away */
    unsigned deaf;   /* permille of times that a client that has nothing is to join: from then on it
                        never does, as librdkafka's that waits for what does not come */
    int64_t largest; /* bytes of a record that topics for parked and dead records take; 0: any */
    unsigned topic_gone; /* permille of transactions that meet a topic without a leader */
};

void broker_open(const struct broker_faults *);
void broker_close(void);
/* Trouble ends: from now on nothing is drawn any more, all answers come within latency_us. */
void broker_calm(void);

void broker_make_topic(const char *name, int32_t partitions);
/* A producer of the outside. Returns the offset. time_ms: the broker's, 0: now. */
int64_t broker_produce(const char *topic, int32_t partition, struct str key, struct str value,
                       const struct header *headers, size_t n, int64_t time_ms);
/* An outside transaction's records and its end: gaps that hold an aborted record or a marker. While
 * it is open, the last stable offset stays before it. Returns its number. */
uint64_t broker_begin(const char *topic, int32_t partition);
int64_t broker_produce_in(uint64_t transaction, struct str key, struct str value,
                          const struct header *headers, size_t n);
void broker_end(uint64_t transaction, bool commit);
/* Retention: what is before this offset is gone. */
void broker_remove(const char *topic, int32_t partition, int64_t before);
/* Compaction: this record is gone, its offset stays. */
void broker_compact(const char *topic, int32_t partition, int64_t offset);
/* The topic is deleted and made anew under its name: it begins with offset 0, the group's offsets
 * of it are gone, and so is what open transactions had in it. */
void broker_make_anew(const char *topic);
/* Whether some producer has looked for what was committed, and not sent its offsets yet. */
bool broker_is_between(void);
/* The group's offset, as an operator sets it with another tool; -1: it has expired. */
void broker_commit(const char *topic, int32_t partition, int64_t offset, const char *metadata);
/* The process is gone: its connections break, its members and transactions stay until they time
 * out. */
void broker_crashed(uint64_t process);

/* ---- for the judges: what stands in the logs now ---- */

struct broker_record {
    int64_t offset, time_ms;
    struct str key, value;
    const struct header *headers;
    size_t n_headers;
};
int32_t broker_partitions(const char *topic); /* 0: there is no such topic */
/* Records that a read_committed reader sees, from this offset on; false at the end. */
bool broker_read(const char *topic, int32_t partition, int64_t from, struct broker_record *ret);
bool broker_ends(const char *topic, int32_t partition, int64_t *ret_low, int64_t *ret_high);
/* What a read_committed reader can have read up to: an open transaction hides what comes after its
 * first record. */
int64_t broker_stable(const char *topic, int32_t partition);
int64_t broker_generation(void); /* the group's: within one, no partition goes elsewhere */
/* -1: nothing is committed. */
int64_t broker_committed(const char *topic, int32_t partition, struct str *ret_metadata);
/* Called when a transaction commits offsets, before they are visible: which process did it, whether
 * the member in whose name they were sent was, when they arrived, the last one that the group had
 * given the partition to. (When the commit arrives, the next owner may have been given it already:
 * it waits until the offset is stable.) gone: the topic was deleted before the commit, which stands
 * nowhere. */
typedef void broker_watch_fn(const char *topic, int32_t partition, int64_t offset,
                             struct str metadata, uint64_t process, bool owner, bool gone);
void broker_watch(broker_watch_fn *);
/* A process is about to send the offsets of its transaction, or has sent them and is to commit: it
 * may die. NULL: none does. */
void broker_on_transaction(void (*fn)(uint64_t process));

#endif
