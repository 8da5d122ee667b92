/* Running the worker in this process, for `run` and `demo`. Main thread. */
#ifndef RUNSINK_RUN_H
#define RUNSINK_RUN_H

#include "config/config.h"
#include "worker/admin/metrics.h"

/* Reads the configuration anew. NULL with a message in err; then nothing changes. Instead of a
 * function, NULL where there is nothing to read. */
typedef struct config *reload_fn(const struct config *now, struct buf *taken, struct buf *ignored,
                                 struct buf *err);

/* First of all: from then on a signal waits until run_worker() takes it. */
void run_hold_signals(void);

/* Runs until a signal, or with until_end until the ends seen at the start are settled. totals gets
 * the sums of the lanes' counters. Returns the exit code. */
int run_worker(struct config *, reload_fn *, bool until_end, uint64_t totals[COUNTERS]);

#endif
