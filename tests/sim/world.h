/* The simulated world's time, chance and processes: one thread, in which each lane is a coroutine.
 * Everything that happens is drawn from the seed; the same seed makes the same run, to the byte.
 * Nothing here sleeps, forks or opens a socket. */
#ifndef RUNSINK_SIM_WORLD_H
#define RUNSINK_SIM_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- time ---- */

int64_t world_us(void); /* since the world began: the true time, which no worker sees */
#define WORLD_MS ((int64_t)1000)
#define WORLD_S ((int64_t)1000000)
/* When the world began, by the true wall clock, ms since the epoch: shortly before midnight, so
 * that the date changes in the course of most runs. */
#define WORLD_MIDNIGHT_MS INT64_C(1767225600000)
#define WORLD_EPOCH_MS (WORLD_MIDNIGHT_MS - 30000)
/* Calls fn(arg) after so long, from the scheduler, outside of every lane. Not to be called back; an
 * fn whose object is gone must find that out (by a number, not a pointer). */
void world_after(int64_t us, void (*fn)(void *arg), void *arg);

/* ---- chance ---- */

uint64_t world_draw(uint64_t n);                    /* 0 to n - 1; n > 0 */
int64_t world_between(int64_t least, int64_t most); /* both included */
bool world_chance(unsigned permille);

/* ---- processes and lanes ---- */

/* The process that runs now; ids are never used twice, so that a restart is another process. 0: the
 * scheduler. */
uint64_t world_process(void);
/* It may have crashed (gone for ever) or be frozen (runs nothing, hears nothing, wakes later). */
bool world_is_alive(uint64_t process);
bool world_is_frozen(uint64_t process);
/* The lane that has this eventfd is to run at once; what the product's code does by writing it. */
void world_wake(int wake_fd);
/* A lane gives way for so long, at least: a call that blocks its thread. Others run meanwhile; it
 * is a point at which the process may crash or freeze, and then it does not return, or late. */
void world_block(int64_t us);

/* ---- what happened ---- */

/* One line of the story, with the virtual time before it; only printed with --trace. Also part of
 * the digest by which two runs of a seed are compared. */
void world_say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The judges' verdict: this seed fails. Prints the seed, the time and the text; the first one
 * counts, and the run ends. */
void world_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Whether the rule of this name is broken on purpose in this run (--broken NAME). */
bool world_breaks(const char *rule);

#endif
