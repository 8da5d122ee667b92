/* SIGINT and SIGTERM in commands that change something: they stay blocked, and are looked for where
 * stopping loses nothing, in each wait for the broker, too, which may have become silent. The
 * process's; main thread. */
#ifndef RUNSINK_INTERRUPT_H
#define RUNSINK_INTERRUPT_H

#include <stdbool.h>
#include <stdint.h>

void interrupt_hold(void); /* from here on */
/* Whether one has come by now. */
bool interrupted(void);
/* The same, with a context that is not looked at: for readers. */
bool interrupt_stops(void *unused);
/* Waits for so long, or until one comes. */
bool interrupt_wait(void *unused, int64_t wait_ms);
/* Asks on the terminal, where one ends the process as ever. */
bool interrupt_ask(const char *question);

#endif
