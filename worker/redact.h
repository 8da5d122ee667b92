/* Writing a payload with its secrets replaced. Pure; any thread. */
#ifndef RUNSINK_REDACT_H
#define RUNSINK_REDACT_H

#include "worker/buf.h"
#include "worker/jobrun.h"

/* Bytes that redact_add() will append for this payload. */
size_t redact_size(const struct jobrun *);
/* Appends the payload with each edit's span replaced by [REDACTED]; every other byte is the
 * producer's. */
bool redact_add(struct buf *, const struct jobrun *);
/* The same as one line for NDJSON, newline included: line breaks between tokens become spaces (the
 * same length, the same JSON value), nothing else differs. */
bool redact_add_line(struct buf *, const struct jobrun *);

/* A URL with userinfo dropped and every query value replaced, for labels, logs and errors: cut to
 * size - 1 bytes, printable ASCII. Anything that does not parse as a URL comes out as "(unparsable
 * url)". */
void redact_url(char *ret, size_t size, struct str url);

#endif
