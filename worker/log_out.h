/* Where the log's lines go: stderr. Before log_out_start() a line is written by whoever logs it.
 * After that it goes through a bounded buffer to a thread that writes it, so that a stderr nobody
 * reads (a full pipe, a stopped terminal) holds up nobody: what finds no room is left out and
 * counted. Lines keep their order, and each is one write. Any thread; log.c alone calls. */
#ifndef RUNSINK_LOG_OUT_H
#define RUNSINK_LOG_OUT_H

#include <stdbool.h>
#include <stddef.h>

/* stands_for: how many lines are lost when this one is. */
void log_out(const char *line, size_t n, unsigned long stands_for);
/* Lines lost since the last call. */
unsigned long log_out_lost(void);
/* tell is called on the thread once all is written again and lines had been lost. False: there is
 * no thread to be had, and lines are written as before. */
bool log_out_start(size_t bytes, void (*tell)(void));
/* Waits until all is written, at most ms; false when it isn't. From a signal handler too. */
bool log_out_flush(int ms);
/* Flushes, at most ms, and ends the thread; one that is stuck in its write is left behind, with
 * what it could not write. */
void log_out_stop(int ms);

#endif
