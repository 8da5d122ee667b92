/* Time in milliseconds. Any thread. */
#ifndef RUNSINK_CLOCK_H
#define RUNSINK_CLOCK_H

#include <stdint.h>
#include <time.h>

/* CLOCK_MONOTONIC for intervals, CLOCK_REALTIME for the time of day. */
static inline int64_t clock_ms(clockid_t id) {
    struct timespec ts;
    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

#endif
