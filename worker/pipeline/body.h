/* A parcel's bytes: the redacted payload of one event, or NDJSON of many, compressed as its key
 * says. The same members give the same bytes, always (promise P2). Lane's thread. */
#ifndef RUNSINK_BATCH_H
#define RUNSINK_BATCH_H

#include "worker/pipeline/record.h"

/* Fills parcel->body and the batch's body, sizes, digests and content type. False with reterr when
 * a compressor fails. */
bool batch_body(struct lane *, struct parcel *, struct outcome *reterr);
/* Frees the lane's compressors. */
void batch_close(struct lane *);

#endif
