/* gzip (RFC 1952), in one go. The bytes are a function of the input and the level alone: not of the
 * buffers, the machine, or a version of the library that was tried. Any thread; one at a time. */
#ifndef RUNSINK_GZIP_H
#define RUNSINK_GZIP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/base/buf.h"

#define GZIP_LEVEL_MAX 2

struct gzip;
struct gzip *gzip_new(int level); /* 1 to GZIP_LEVEL_MAX */
void gzip_free(struct gzip *);
/* Initialises out, with room for all of p stored as it is. n: 1 GiB at most. False: the library
 * failed. */
bool gzip_into(struct gzip *, const void *p, size_t n, struct buf *out);

/* As gzip and S3 have it (ISO 3309). */
uint32_t crc32_of(const void *p, size_t n);

#endif
