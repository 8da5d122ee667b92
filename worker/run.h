/* Running the worker in this process, for `run` and `demo`. Main thread. */
#ifndef RUNSINK_RUN_H
#define RUNSINK_RUN_H

#include "config/config.h"
#include "worker/admin/metrics.h"

/* Reads the configuration anew: command_reload(), or NULL where there is nothing to read. */
typedef struct config *reload_fn(const struct config *now, struct buf *taken, struct buf *ignored,
                                 struct buf *err);

/* Whether run_worker() would take the configuration (finished), as far as this machine can tell;
 * why not is appended to err. */
bool run_check(const struct config *, struct buf *err);
/* The same by making all that run_worker() makes of it, short of asking a broker and of changing
 * anything here: for `check`. complete: with what may be elsewhere, the names of topics and brokers
 * and the folders that are written to. Says all that is wrong, not the first alone. */
bool run_try(const struct config *, bool complete, struct buf *err);
/* First of all: from then on a signal waits until run_worker() takes it. */
void run_hold_signals(void);

/* Runs until a signal, or with until_end until the ends seen at the start are settled. totals gets
 * the sums of the lanes' counters. Returns the exit code. */
int run_worker(struct config *, reload_fn *, bool until_end, uint64_t totals[COUNTERS]);

#endif
