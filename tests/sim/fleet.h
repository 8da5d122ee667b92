/* The worker processes: each with a main thread that does for its lanes what worker/run.c does, and
 * whoever looks after them, starting anew what died. Here processes die, freeze, leave, read
 * another configuration and have wrong clocks, as the plan says. */
#ifndef RUNSINK_SIM_FLEET_H
#define RUNSINK_SIM_FLEET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Once, for all runs: the key that signs the ledger in those that have anchors. */
void fleet_make_key(void);
/* After events_begin(), which makes the source topics. */
void fleet_begin(void);
/* Trouble ends: nobody dies, but by poison; who is not there is started. */
void fleet_calm(void);
/* All processes end in good order, and none is started any more. */
void fleet_drain(void);
bool fleet_is_gone(void); /* no process is left */
/* One process with --until-end; fleet_is_gone() again once it has ended. */
void fleet_run_until_end(void);

/* All topics: the sources and runsink's own. */
int fleet_topics(void);
const char *fleet_topic(int i);
const char *fleet_retry_topic(int source); /* one of its retry topics; NULL: there are none yet */
/* How many processes died of a record. */
int fleet_deaths(void);
/* When the process had ended in good order; 0: it has not, or not so. */
int64_t fleet_ended_us(uint64_t process);
/* The i-th of retry.delays; the last one stands for all that follow. */
int64_t fleet_delay_ms(unsigned i);

/* ---- for product.c ---- */

/* A point at which a death is of interest. May not return. */
void fleet_may_die(void);
/* The process that runs now dies. */
void fleet_dies(void);

#endif
