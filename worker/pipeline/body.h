/* A delivery's bytes: the redacted payload of one event, or NDJSON of many, compressed as its key
 * says. The same members give the same bytes, always (promise P2). Lane's thread. */
#ifndef RUNSINK_BODY_H
#define RUNSINK_BODY_H

#include <stdbool.h>

struct delivery;
struct lane;
struct outcome;

/* Fills the delivery's body and the batch's body, sizes, digests and content type. False with
 * reterr when a compressor fails. */
bool body_make(struct lane *, struct delivery *, struct outcome *reterr);
/* Frees the lane's compressors. */
void body_close(struct lane *);

#endif
