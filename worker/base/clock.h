/* Time. Any thread. The simulator has a clock of its own in their place. */
#ifndef RUNSINK_CLOCK_H
#define RUNSINK_CLOCK_H

#include <stdint.h>
#include <time.h>

/* CLOCK_MONOTONIC for intervals, CLOCK_REALTIME for the time of day. */
int64_t clock_ms(clockid_t);
int64_t clock_us(clockid_t);

#endif
