/* The part of the world that runs it: what sim.c and the fleet need beside world.h. */
#ifndef RUNSINK_SIM_SCHEDULER_H
#define RUNSINK_SIM_SCHEDULER_H

#include "tests/sim/world.h"

/* A world from a seed. trace: its story goes to stdout. broken: a rule's name, or NULL. Once for
 * each process of the operating system: what the product keeps in statics is then as it is at the
 * start of every run. */
void world_begin(uint64_t seed, bool trace, const char *broken);
/* Runs what is to happen until world_end() is called, nothing is left, or something fails. */
void world_run(void);
void world_end(void);
uint64_t world_seed(void);
bool world_traces(void);
uint64_t world_digest(void); /* of all that was said so far */
uint64_t world_switches(void);

/* Another stream of chance than the world's: what the product draws, so that a change there leaves
 * the world's own plan alone. */
uint64_t world_product_draw(void);

/* ---- processes ---- */

/* Calls of the clock are answered by the process's own: wall clock and monotonic. */
struct clocks {
    int64_t wall_ahead_us; /* of the true time, at since_us */
    int64_t monotonic_us;  /* at since_us */
    int64_t since_us;      /* true time */
    int64_t drift_ppm;     /* both run faster by so much */
};

uint64_t process_start(void (*main)(void *arg), void *arg); /* its id */
/* A thread of the process that runs now. Ends when fn returns. */
void process_spawn(void (*fn)(void *arg), void *arg, int wake_fd);
/* From anywhere. Of the process that runs now: does not return. */
void process_kill(uint64_t process);
void process_freeze(uint64_t process, int64_t us);
struct clocks *process_clocks(uint64_t process);
/* The clock's time for who runs now. */
int64_t process_wall_us(void);
int64_t process_monotonic_us(void);
/* The thread that runs now waits for at most so long, or until somebody wakes its wake_fd. */
void process_wait(int64_t us);
/* Called before each wait, of a lane or in a blocking call, in the thread that waits: it may kill
 * or freeze. */
void process_on_wait(void (*fn)(uint64_t process));

#endif
