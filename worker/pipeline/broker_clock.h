/* A broker's clock, as the timestamps that it gives to the records of a partition tell it: it shows
 * at least the newest one, and the time since that was read. A broker whose clock was ahead may be
 * put right, or another one may lead the partition: what follows an older timestamp counts from
 * there. Pure; lane's thread. */
#ifndef RUNSINK_BROKER_CLOCK_H
#define RUNSINK_BROKER_CLOCK_H

#include <stdint.h>

struct broker_clock {
    int64_t ahead_ms; /* of our monotonic clock, at the least */
    int64_t last_ms;  /* the last timestamp */
};

void broker_clock_begin(struct broker_clock *);
/* Of the records in their order. now_ms: CLOCK_MONOTONIC. Returns what the clock shows now. */
int64_t broker_clock_hear(struct broker_clock *, int64_t timestamp_ms, int64_t now_ms);

#endif
