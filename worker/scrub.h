/* The log's own view of the scrubber; everybody else uses secret_add() and its like in log.h. Any
 * thread. */
#ifndef RUNSINK_SCRUB_H
#define RUNSINK_SCRUB_H

#include "worker/buf.h"

/* Appends the text with every registered secret in it, and a secret's beginning (8 bytes or more)
 * at the end of a text that was cut, replaced by [REDACTED]. False past out's ceiling. */
bool scrub_add(struct buf *out, struct str text);

#endif
