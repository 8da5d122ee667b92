/* Where the log's lines go: stderr. Before log_out_start() a line is written by whoever logs it.
 * After that it goes through a bounded buffer to a thread that writes it, so that a stderr nobody
 * reads (a full pipe, a stopped terminal) holds up nobody: what finds no room is left out and
 * counted, and told of where it is missing. Lines keep their order, and each is one write. Any
 * thread; log.c alone calls. */
#ifndef RUNSINK_LOG_OUT_H
#define RUNSINK_LOG_OUT_H

#include <stdbool.h>
#include <stddef.h>

/* Makes the line that says how many were lost, at most size bytes; returns its length. */
typedef size_t log_mark_fn(char *line, size_t size, unsigned long lines);

/* Before the first line. */
void log_out_setup(log_mark_fn *);
void log_out(const char *line, size_t n);
/* Lines lost since the start. */
unsigned long log_out_lost(void);
/* False: there is no thread to be had, and lines are written as before. */
bool log_out_start(size_t bytes);
/* Waits until all is written, at most ms; false when it isn't. From a signal handler too. */
bool log_out_flush(int ms);
/* Flushes, at most ms, and ends the thread; one that is stuck in its write is left behind, with
 * what it could not write. */
void log_out_stop(int ms);

#endif
