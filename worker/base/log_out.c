#include "worker/base/log_out.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "worker/base/buf.h"

#define FLUSH_STEP_MS 2
#define MARK_MAX 512
#define STUCK_MS 100 /* without the thread: how long a stderr that takes nothing is waited for */

/* What stands before each line in the ring. */
struct head {
    uint32_t n, tells_of; /* lost lines that this one tells of; 0: a line like any other */
};

static struct {
    pthread_mutex_t mutex;
    char *ring;
    size_t size;
    /* Bytes ever put in and ever written: the thread alone moves `written`, and reads what lies
     * between without the mutex. */
    _Atomic uint64_t put, written;
    bool full; /* until half of the ring is free again nothing is taken, or each line would cost a
                  note about those before it */
    atomic_bool threaded, stop, broken; /* broken: the last line was not taken by stderr */
    pthread_t thread;
    sem_t more;
    log_mark_fn *mark;
} out = {.mutex = PTHREAD_MUTEX_INITIALIZER};
static atomic_ulong lost, lost_ever; /* not told of yet; since the start */

/* One write() for a line, unless stderr takes it in pieces. A reader that is gone costs the line.
 * patience_ms: for a stderr that is set to non-blocking by somebody; -1: for ever. */
static bool put_pieces(struct iovec *v, int patience_ms) {
    while (v[0].iov_len + v[1].iov_len > 0) {
        ssize_t k = writev(STDERR_FILENO, v, 2);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0 && errno == EAGAIN) {
            struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
            if (poll(&p, 1, patience_ms) <= 0 && patience_ms >= 0) return false;
            continue;
        }
        if (k < 0) return false;
        for (int i = 0; i < 2; i++) {
            size_t of = (size_t)k < v[i].iov_len ? (size_t)k : v[i].iov_len;
            v[i].iov_base = (char *)v[i].iov_base + of;
            v[i].iov_len -= of;
            k -= (ssize_t)of;
        }
    }
    return true;
}

/* A line is lost, or one that tells of others, which are then to be told of again. */
static void lose(unsigned long tells_of) {
    atomic_fetch_add(&lost, tells_of ? tells_of : 1);
    if (!tells_of) atomic_fetch_add(&lost_ever, 1);
}

/* ---- the ring ---- */

static void copy_in(uint64_t at, const void *from, size_t n) {
    size_t i = (size_t)(at % out.size), first = n < out.size - i ? n : out.size - i;
    memcpy(out.ring + i, from, first);
    memcpy(out.ring, (const char *)from + first, n - first);
}

static void copy_out(uint64_t at, void *to, size_t n) {
    size_t i = (size_t)(at % out.size), first = n < out.size - i ? n : out.size - i;
    memcpy(to, out.ring + i, first);
    memcpy((char *)to + first, out.ring, n - first);
}

/* Under the mutex. */
static bool take(const char *line, struct head h) {
    uint64_t at = atomic_load(&out.put);
    size_t used = (size_t)(at - atomic_load(&out.written));
    if (out.full && used > out.size / 2) return false;
    out.full = sizeof h + h.n > out.size - used;
    if (out.full) return false;
    copy_in(at, &h, sizeof h);
    copy_in(at + sizeof h, line, h.n);
    atomic_store(&out.put, at + sizeof h + h.n);
    return true;
}

static void write_next(void) {
    struct head h;
    uint64_t at = atomic_load(&out.written);
    copy_out(at, &h, sizeof h);
    size_t i = (size_t)((at + sizeof h) % out.size);
    size_t first = h.n < out.size - i ? h.n : out.size - i;
    struct iovec v[2] = {{out.ring + i, first}, {out.ring, h.n - first}};
    bool ok = put_pieces(v, -1);
    if (!ok) lose(h.tells_of);
    atomic_store(&out.broken, !ok);
    atomic_store(&out.written, at + sizeof h + h.n);
}

/* Under the mutex. */
static void put(const char *line, size_t n, unsigned long tells_of) {
    struct iovec v[2] = {{(void *)(uintptr_t)line, n}, {NULL, 0}};
    struct head h = {(uint32_t)n, (uint32_t)tells_of};
    if (!(atomic_load(&out.threaded) ? take(line, h) : put_pieces(v, STUCK_MS))) lose(tells_of);
}

/* Lines that were lost are told of before the next one. Under the mutex. */
static void put_mark(void) {
    char line[MARK_MAX];
    unsigned long lines = atomic_load_explicit(&lost, memory_order_relaxed);
    if (!lines || !out.mark) return;
    lines = atomic_exchange(&lost, 0);
    put(line, out.mark(line, sizeof line, lines), lines);
}

static bool all_written(void) {
    return atomic_load(&out.written) == atomic_load(&out.put);
}

static void *writer_main(void *arg) {
    (void)arg;
    for (;;) {
        while (sem_wait(&out.more) != 0) continue;
        while (!all_written()) write_next();
        /* A stderr that is gone is not told that it is gone. */
        if (atomic_load(&lost) && !atomic_load(&out.broken)) {
            pthread_mutex_lock(&out.mutex);
            put_mark();
            pthread_mutex_unlock(&out.mutex);
        }
        while (!all_written()) write_next();
        if (atomic_load(&out.stop) && all_written()) return NULL;
    }
}

/* ---- */

void log_out_setup(log_mark_fn *mark) {
    out.mark = mark;
}

void log_out(const char *line, size_t n) {
    pthread_mutex_lock(&out.mutex);
    put_mark();
    put(line, n, 0);
    bool threaded = atomic_load(&out.threaded);
    pthread_mutex_unlock(&out.mutex);
    if (threaded) sem_post(&out.more);
}

unsigned long log_out_lost(void) {
    return atomic_load(&lost_ever);
}

bool log_out_flush(int ms) {
    struct timespec step = {.tv_nsec = FLUSH_STEP_MS * 1000000L};
    for (; !all_written() && ms > 0; ms -= FLUSH_STEP_MS) nanosleep(&step, NULL);
    return all_written();
}

bool log_out_start(size_t bytes) {
    if (atomic_load(&out.threaded)) return true; /* one was left behind: it goes on */
    sigset_t all, before;
    out.size = bytes;
    out.ring = xmalloc(bytes);
    out.full = false;
    atomic_store(&out.put, 0);
    atomic_store(&out.written, 0);
    atomic_store(&out.stop, false);
    sem_init(&out.more, 0, 0);
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool ok = pthread_create(&out.thread, NULL, writer_main, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_mutex_lock(&out.mutex);
    atomic_store(&out.threaded, ok);
    pthread_mutex_unlock(&out.mutex);
    return ok;
}

void log_out_stop(int ms) {
    struct timespec until;
    if (!atomic_load(&out.threaded) || !log_out_flush(ms)) return;
    atomic_store(&out.stop, true);
    sem_post(&out.more);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 1 + ms / 1000;
    if (pthread_timedjoin_np(out.thread, NULL, &until) != 0) return;
    pthread_mutex_lock(&out.mutex);
    atomic_store(&out.threaded, false);
    while (!all_written()) write_next(); /* what came too late for the thread */
    pthread_mutex_unlock(&out.mutex);
    sem_destroy(&out.more);
    free(out.ring);
    out.ring = NULL;
}
