#include "worker/base/buf.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <openssl/crypto.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "worker/base/clock.h"

#define FILE_CHUNK ((size_t)65536)

_Noreturn void out_of_memory(void) {
    fputs("runsink: out of memory\n", stderr);
    abort();
}

void *xmalloc(size_t n) {
    void *p = malloc(n ? n : 1);
    if (!p) out_of_memory();
    return p;
}

void *xcalloc(size_t n, size_t size) {
    void *p = calloc(n ? n : 1, size ? size : 1);
    if (!p) out_of_memory();
    return p;
}

void *xrealloc(void *old, size_t n) {
    void *p = realloc(old, n ? n : 1);
    if (!p) out_of_memory();
    return p;
}

char *xstrndup(const char *s, size_t n) {
    char *p = xmalloc(n + 1);
    if (n) memcpy(p, s, n);
    p[n] = '\0';
    return p;
}

void *xgrow(void *items, size_t n, size_t size) {
    return n & (n - 1) ? items : xrealloc(items, (n ? 2 * n : 1) * size);
}

char *xstrdup(const char *s) {
    return xstrndup(s, strlen(s));
}

void wipe(void *p, size_t n) {
    if (p && n) OPENSSL_cleanse(p, n);
}

size_t heap_bytes(const void *p) {
    return p ? malloc_usable_size((void *)(uintptr_t)p) + sizeof(size_t) : 0;
}

void buf_init(struct buf *b, size_t max) {
    /* Half the address space is no ceiling either, and sums of sizes below it can't wrap. */
    *b = (struct buf){.max = max < SIZE_MAX / 4 ? max : SIZE_MAX / 4};
}

void buf_init_secret(struct buf *b, size_t max) {
    buf_init(b, max);
    b->secret = true;
}

void buf_free(struct buf *b) {
    if (!b) return;
    if (b->secret) wipe(b->p, b->cap);
    free(b->p);
    b->p = NULL;
    b->n = b->cap = 0;
}

void buf_wipe(struct buf *b) {
    if (!b) return;
    b->secret = true;
    buf_free(b);
}

static void grow(struct buf *b, size_t cap) {
    if (!b->secret) {
        b->p = xrealloc(b->p, cap);
    } else { /* realloc() would leave the old copy where it was */
        char *p = xmalloc(cap);
        if (b->n) memcpy(p, b->p, b->n);
        wipe(b->p, b->cap);
        free(b->p);
        b->p = p;
    }
    b->cap = cap;
}

void buf_clear(struct buf *b) {
    b->n = 0;
}

char *buf_reserve(struct buf *b, size_t n) {
    if (n > b->max || b->n > b->max - n) return NULL;
    size_t want = b->n + n + 1; /* a byte for buf_cstr's NUL */
    if (want > b->cap) {
        size_t cap = b->cap ? b->cap : 64;
        while (cap < want) cap = cap > SIZE_MAX / 2 ? want : cap * 2;
        if (cap > b->max + 1) cap = b->max + 1;
        grow(b, cap);
    }
    return b->p + b->n;
}

bool buf_add(struct buf *b, const void *data, size_t n) {
    char *to = buf_reserve(b, n);
    if (!to) return false;
    if (n) memcpy(to, data, n);
    b->n += n;
    return true;
}

bool buf_str(struct buf *b, struct str s) {
    return buf_add(b, s.p, s.n);
}

bool buf_puts(struct buf *b, const char *s) {
    return buf_add(b, s, strlen(s));
}

bool buf_putc(struct buf *b, char c) {
    return buf_add(b, &c, 1);
}

/* ---- files ---- */

bool buf_file_regular(const struct stat *st) {
    return S_ISREG(st->st_mode) || (S_ISCHR(st->st_mode) && st->st_rdev == makedev(1, 3));
}

/* What can be read without waiting for somebody who may never come. */
static int wrong_kind(int fd, bool may_be_pipe) {
    struct stat st;
    if (fstat(fd, &st) != 0) return errno;
    if (S_ISDIR(st.st_mode)) return EISDIR;
    return buf_file_regular(&st) || (may_be_pipe && S_ISFIFO(st.st_mode)) ? 0 : EINVAL;
}

/* One piece. -1 with errno, 0 at the end: of a pipe that is when those who wrote it have gone. A
 * pipe that nobody has opened yet looks just so until the first byte. */
static ssize_t read_some(int fd, char *to, size_t room, bool any, int64_t end_ms) {
    for (bool gone = false;;) {
        ssize_t n = read(fd, to, room);
        if (n > 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) return n;
        if (n == 0 && (any || gone || !end_ms)) return 0;
        if (n < 0 && errno == EINTR) continue;
        int64_t left = end_ms - clock_ms(CLOCK_MONOTONIC);
        struct pollfd pfd = {.fd = fd, .events = POLLIN};
        if (left <= 0) return errno = ETIMEDOUT, -1;
        gone = poll(&pfd, 1, (int)left) > 0 && pfd.revents & POLLHUP;
    }
}

static int read_all(struct buf *b, int fd, int64_t end_ms) {
    char more;
    for (bool any = false;; any = true) {
        size_t room = b->max - b->n < FILE_CHUNK ? b->max - b->n : FILE_CHUNK;
        ssize_t n =
            read_some(fd, room ? buf_reserve(b, room) : &more, room ? room : 1, any, end_ms);
        if (n < 0) return errno;
        if (n == 0) return 0;
        if (!room) return EFBIG;
        b->n += (size_t)n;
    }
}

static bool read_path(struct buf *b, const char *path, int64_t end_ms) {
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    int error = fd < 0 ? errno : wrong_kind(fd, end_ms);
    if (!error) error = read_all(b, fd, end_ms);
    if (fd >= 0) close(fd);
    errno = error;
    return !error;
}

bool buf_file(struct buf *b, const char *path) {
    return read_path(b, path, 0);
}

bool buf_file_within(struct buf *b, const char *path, int timeout_ms) {
    return read_path(b, path, clock_ms(CLOCK_MONOTONIC) + timeout_ms);
}

const char *buf_file_error(int error) {
    return error == EINVAL      ? "Is no regular file"
           : error == ETIMEDOUT ? "Nobody writes into this pipe, or to its end"
                                : strerror(error);
}

bool buf_printf(struct buf *b, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *to = n < 0 ? NULL : buf_reserve(b, (size_t)n);
    if (to) {
        vsnprintf(to, (size_t)n + 1, fmt, again);
        b->n += (size_t)n;
    }
    va_end(again);
    return to != NULL;
}

const char *buf_cstr(struct buf *b) {
    if (!b->p) b->p = xcalloc(1, b->cap = 1);
    b->p[b->n] = '\0';
    return b->p;
}
