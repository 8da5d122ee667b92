/* Ends the process when a lane stands still: a lane that works turns, or goes from one record to
 * the next, every second. Whoever looks after the process starts it anew, and a record that was
 * to blame is set aside after some rounds of that (poison.c).
 *
 * The lane's thread notes in its place what it does; a thread of the watchdog's own looks at all
 * places. */
#ifndef RUNSINK_WATCHDOG_H
#define RUNSINK_WATCHDOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "worker/ledger/entry.h"

enum lane_step {
    STEP_WAIT,     /* for the network or Kafka */
    STEP_KAFKA,    /* callbacks, rebalances */
    STEP_DECODE,   /* a record is taken */
    STEP_BUILD,    /* the body of a delivery is made */
    STEP_SEND,     /* and given to its sink */
    STEP_TRANSFER, /* requests and answers */
    STEP_END,      /* a delivery has its outcome */
    STEP_SETTLE,   /* a settlement is put together, or taken back */
    STEP_CLOSE,    /* the clients are closed, which takes as long as brokers make it take */
    STEP_ENDED     /* the lane's thread is about to return */
};

/* Where a lane is. Written by its thread alone. */
struct place {
    _Atomic uint64_t beats; /* any change of it is a sign of life */
    _Atomic int step;
    _Atomic int64_t offset; /* -1: not about one record */
    _Atomic int32_t partition;
    char topic[TOPIC_MAX + 1]; /* read by the other thread only once the lane stands still */
};

void place_topic(struct place *, const char *topic, int32_t partition);

static inline void place_at(struct place *p, enum lane_step step, int64_t offset) {
    atomic_store_explicit(&p->offset, offset, memory_order_relaxed);
    atomic_store_explicit(&p->step, step, memory_order_relaxed);
    atomic_store_explicit(&p->beats, atomic_load_explicit(&p->beats, memory_order_relaxed) + 1,
                          memory_order_release);
}

struct watchdog;
/* Watches these places, which must outlive it, from now on. NULL: no thread could be had (errno).
 */
struct watchdog *watchdog_start(int64_t timeout_ms, const struct place *const *places, size_t n);
void watchdog_stop(struct watchdog *); /* joins; NULL is fine */

/* How long a place has stood still, from what was seen at each look. Of the time between two looks
 * no more counts than two looks should be apart: the rest is time in which the watchdog did not run
 * either, in a stopped process or a frozen machine, so the lane gets its time when they go on. */
struct stillness {
    uint64_t beats;
    int64_t ms, looked_ms; /* 0: not looked yet */
};
void stillness_note(struct stillness *, uint64_t beats, int64_t now_ms, int64_t look_ms);

#endif
