/* The log's own view of the scrubber; everybody else uses secret_add() and its like in log.h. Any
 * thread. */
#ifndef RUNSINK_SCRUB_H
#define RUNSINK_SCRUB_H

#include "worker/buf.h"

/* Appends the text with every registered secret in it, and a secret's beginning (8 bytes or more)
 * at the end of a text that was cut, replaced by [REDACTED]. False past out's ceiling. */
bool scrub_add(struct buf *out, struct str text);

/* What the table of secrets may take, in bytes. Each lane remembers dest.max sink objects and, by
 * bytes, a quarter of its memory.budget; this is room for the secrets of 400,000 S3 sinks with an
 * access key of AWS's length, more than the 64 MiB of a default budget's quarter hold. What it
 * guards against is objects full of tiny secrets, which cost thirty times their length. */
#define SCRUB_MAX ((size_t)256 << 20)
void scrub_limit(size_t bytes); /* for tests: another limit */

#endif
