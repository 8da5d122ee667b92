/* The log's own view of the scrubber; everybody else uses secret_add() and its like in log.h. Any
 * thread. */
#ifndef RUNSINK_SCRUB_H
#define RUNSINK_SCRUB_H

#include "worker/base/buf.h"

/* Appends the text with every registered secret in it, and a secret's beginning (8 bytes or more)
 * at the end of a text that was cut, replaced by [REDACTED]. False past out's ceiling. */
bool scrub_add(struct buf *out, struct str text);

/* Steps that all texts so far have cost, for tests and fuzzers; at most SCRUB_WORK(n) for a text of
 * n bytes. */
size_t scrub_work(void);
#define SCRUB_WORK_BYTE 16
#define SCRUB_WORK(n) (3 * (8192 + SCRUB_WORK_BYTE * (size_t)(n)))

#endif
