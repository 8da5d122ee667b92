/* A growable byte buffer born with a ceiling. The owner frees it. Running out of memory aborts
 * (at-least-once delivery makes that safe); passing the ceiling is an answer, not an error: the
 * call returns false, appends nothing, and the buffer stays usable. One thread at a time. */
#ifndef RUNSINK_BUF_H
#define RUNSINK_BUF_H

#include "worker/base/str.h"

struct buf {
    char *p;
    size_t n;
    size_t cap;
    size_t max;
    bool secret;
};

void buf_init(struct buf *, size_t max);
/* For what holds a secret: neither growing nor freeing leaves a copy in memory. */
void buf_init_secret(struct buf *, size_t max);
void buf_free(struct buf *); /* NULL and a zeroed buf are fine; may be used again after buf_init */
/* Overwrites the content, then frees, whatever it was initialised as. */
void buf_wipe(struct buf *);
void buf_clear(struct buf *); /* keeps the memory */
/* Room for n more bytes after the content, to be claimed by adding to n; NULL past the ceiling. */
char *buf_reserve(struct buf *, size_t n);
bool buf_add(struct buf *, const void *, size_t);
bool buf_str(struct buf *, struct str);
bool buf_puts(struct buf *, const char *);
bool buf_putc(struct buf *, char);
/* A whole regular file, or as much of it as fits: nothing else, since a pipe or a device may have
 * the caller wait for ever. False with errno: EFBIG when there is more of it, EINVAL when it is of
 * another kind. */
bool buf_file(struct buf *, const char *path);
/* A pipe as well, all of which has to come within this time: else ETIMEDOUT. */
bool buf_file_within(struct buf *, const char *path, int timeout_ms);
const char *buf_file_error(int error); /* such an errno in words */
/* A regular file, or /dev/null, which is as good as an empty one. */
struct stat;
bool buf_file_regular(const struct stat *);
bool buf_printf(struct buf *, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The content with a NUL after it (not counted); valid until the next change. */
const char *buf_cstr(struct buf *);

/* Allocation that can't fail: aborts with a message instead. */
_Noreturn void out_of_memory(void);
void *xmalloc(size_t);
void *xcalloc(size_t, size_t);
void *xrealloc(void *, size_t);
/* Room for one more of n items of this size: doubles when n is a power of two. */
void *xgrow(void *items, size_t n, size_t size);
char *xstrdup(const char *);
char *xstrndup(const char *, size_t);
void wipe(void *, size_t); /* overwrites; never optimised away */
/* What a block takes of memory, malloc's own part included; 0 for NULL. */
size_t heap_bytes(const void *);

#endif
