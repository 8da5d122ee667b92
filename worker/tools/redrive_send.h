/* Sends dead letters back, or discards them, in Kafka transactions that carry the records and, for
 * each partition of a dead topic that they lie in, the ledger entry that names them. So a letter
 * goes back once, whatever ends the process when: who comes next reads the ledger first. Main
 * thread; blocks. */
#ifndef RUNSINK_REDRIVE_SEND_H
#define RUNSINK_REDRIVE_SEND_H

#include "worker/kafka/reader.h"
#include "worker/tools/redrive_plan.h"

struct sending {
    const struct config *cfg;
    rd_kafka_t *rk;     /* of reader_consumer() */
    const char *source; /* topic */
    enum plan_way way;
    const char *why, *who;     /* PLAN_DISCARD */
    char retry[TOPIC_MAX + 1]; /* where they go: PLAN_ATTEMPTS */
    char ledger[TOPIC_MAX + 1];
    int ledger_partitions;
    int64_t *ledger_at; /* read up to here, into chains */
    struct chains *chains;
    struct plan *plan;
    const struct ledger_signer *signer; /* NULL: unsigned */
    int64_t rate;                       /* records a second; 0: no limit */
    void (*progress)(void *context, uint64_t sent);
    /* Whether it is time to stop; wait: that long, or until it is. */
    bool (*told)(void);
    bool (*stop)(void *context);
    bool (*wait)(void *context, int64_t wait_ms);
    void *context;

    uint64_t sent, transactions; /* sent: or discarded */
    uint64_t undecided;          /* of a transaction whose outcome is not known */
    uint64_t elsewhere;          /* another redrive was faster */
};

enum send_end {
    SEND_DONE,
    SEND_STOPPED, /* a message may be in err */
    SEND_FENCED,  /* another redrive of this topic has begun */
    SEND_FAILED,  /* a message is in err */
    SEND_REFUSED  /* the ledger is not as it should be: a message is in err */
};
/* What it means that a reader has no more. */
enum send_end redrive_end(const struct reader *);
enum send_end redrive_send(struct sending *, struct buf *err);

/* Reads the ledger on from ledger_at, to its visible end or (until) to these offsets. */
enum send_end redrive_read_ledger(struct sending *, const int64_t *until, struct buf *err);

#endif
