/* What the product takes from the operating system and from itself, and gets from the world: time,
 * randomness, the way out of the log, and the hooks by which tests make it die. These stand in the
 * place of worker/base/clock.c, random.c, log_out.c and crash.c. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "tests/sim/fleet.h"
#include "tests/sim/scheduler.h"
#include "worker/base/clock.h"
#include "worker/base/crash.h"
#include "worker/base/gzip.h"
#include "worker/base/log_out.h"
#include "worker/base/random.h"

/* ---- time ---- */

int64_t clock_us(clockid_t id) {
    return id == CLOCK_REALTIME ? process_wall_us() : process_monotonic_us();
}

int64_t clock_ms(clockid_t id) {
    return clock_us(id) / 1000;
}

/* libc's: signatures and timestamps of requests are made with it. */
time_t time(time_t *ret) {
    time_t now = (time_t)(process_wall_us() / WORLD_S);
    if (ret) *ret = now;
    return now;
}

/* libc's: nobody else runs while a thread waits for another, so it would wait in vain. That is
 * known without asking the kernel, which takes its time to let one sleep for nothing. */
int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex,
                           const struct timespec *until) {
    (void)cond, (void)mutex, (void)until;
    return ETIMEDOUT;
}

/* ---- randomness ---- */

uint64_t random_u64(void) {
    return world_product_draw();
}

void random_bytes(void *ret, size_t n) {
    for (unsigned char *p = ret; n > 0;) {
        uint64_t r = random_u64();
        size_t part = n < sizeof r ? n : sizeof r;
        memcpy(p, &r, part);
        p += part;
        n -= part;
    }
}

/* ---- compression ---- */

struct gzip *__real_gzip_new(int level);
struct gzip *__wrap_gzip_new(int level);
void __wrap_gzip_free(struct gzip *);

/* A stream makes the same bytes whatever it made before (tests/unit/test_gzip.c), so all lanes have
 * the same ones: to find a place for each would be a seventh of a seed's time. */
struct gzip *__wrap_gzip_new(int level) {
    static struct gzip *streams[GZIP_LEVEL_MAX + 1];
    if (!streams[level]) streams[level] = __real_gzip_new(level);
    return streams[level];
}

void __wrap_gzip_free(struct gzip *g) {
    (void)g;
}

/* ---- the log ---- */

void log_out_setup(log_mark_fn *mark) {
    (void)mark;
}

void log_out(const char *line, size_t n) {
    if (world_traces())
        printf("%*sp%llu %.*s", 12, "", (unsigned long long)world_process(), (int)n, line);
}

unsigned long log_out_lost(void) {
    return 0;
}

bool log_out_flush(int ms) {
    (void)ms;
    return true;
}

bool log_out_start(size_t bytes) {
    (void)bytes;
    return true;
}

void log_out_stop(int ms) {
    (void)ms;
}

/* ---- where it may die ---- */

void crash_point(enum crash_point point) {
    (void)point;
    fleet_may_die();
}

bool crash_breaks(enum crash_rule rule) {
    static const char *const names[CRASH_RULES] = {
        [CRASH_NO_BOUNDARY] = "no-boundary", [CRASH_COMMIT_FIRST] = "commit-first"};
    return world_breaks(names[rule]);
}

/* "hook:kill-WORK" in a record's value kills whoever does that with it. */
void crash_record(enum crash_work work, const void *value, size_t n) {
    static const char *const marks[CRASH_WORKS] = {[CRASH_DECODE] = "hook:kill-decode",
                                                   [CRASH_BUILD] = "hook:kill-build",
                                                   [CRASH_SENT] = "hook:kill-sent"};
    if (value && memmem(value, n, marks[work], strlen(marks[work]))) fleet_dies();
}
