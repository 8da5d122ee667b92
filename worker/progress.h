/* Progress of `run --until-end`: a line that renews itself on a terminal, a log line now and then
 * otherwise. And the line by which a worker that runs on says now and then that it does. Main
 * thread. */
#ifndef RUNSINK_PROGRESS_H
#define RUNSINK_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "worker/admin/metrics.h"

struct progress_meter {
    bool terminal;
    int64_t start_ms, last_ms; /* monotonic */
    uint64_t first_remaining;  /* the most that was seen */
};

void progress_begin(struct progress_meter *, int64_t now_ms);
/* How long until the next line is due, ms. */
int progress_wait_ms(const struct progress_meter *, int64_t now_ms);
void progress_show(struct progress_meter *, const uint64_t totals[COUNTERS], int64_t now_ms);
/* Ends the terminal's line. */
void progress_end(const struct progress_meter *);

struct heartbeat {
    int64_t last_ms;
    uint64_t totals[COUNTERS]; /* at last_ms */
};

/* How long until the next one is due with that period, ms; -1: the period is 0, there is none. */
int heartbeat_wait_ms(const struct heartbeat *, int64_t period_ms, int64_t now_ms);
/* Logs what was done since the last one, and how things stand. */
void heartbeat_show(struct heartbeat *, const uint64_t totals[COUNTERS], int64_t now_ms);

#endif
