/* Running the worker in this process, for `run` and `demo`. Main thread. */
#ifndef RUNSINK_RUN_H
#define RUNSINK_RUN_H

#include "config/config.h"
#include "worker/metrics.h"

/* Runs until a signal, or with until_end until the ends seen at the start are settled. totals gets
 * the sums of the lanes' counters. Returns the exit code. */
int run_worker(struct config *, bool until_end, uint64_t totals[COUNTERS]);
const char *counter_name(enum counter);

#endif
