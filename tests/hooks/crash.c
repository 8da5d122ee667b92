/* The functions of worker/base/crash.h for runsink-hooks, told by the environment what to do:
 *   HOOK_CRASH=point:n  SIGKILL at the n-th passage of a point (boundary-before, boundary-after,
 *                       put-before, put-after, txn-inside before and txn-sent after the offsets
 *                       were sent)
 *   HOOK_BREAK=rule     breaks a rule of the protocol: no-boundary, commit-first
 *   HOOK_RECORDS=1      a record whose value says so is harmful: "hook:ACT-WORK", where ACT is
 *                       crash, hang, eat (memory, until there is none) or kill (as the kernel kills
 *                       who eats) and WORK is what is done with it then: decode, build or sent
 *                       (delivered, not settled) */
#include "worker/base/crash.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "worker/base/buf.h"

static const char *const points[CRASH_POINTS] = {
    [CRASH_BOUNDARY_BEFORE] = "boundary-before", [CRASH_BOUNDARY_AFTER] = "boundary-after",
    [CRASH_PUT_BEFORE] = "put-before",           [CRASH_PUT_AFTER] = "put-after",
    [CRASH_TXN_INSIDE] = "txn-inside",           [CRASH_TXN_SENT] = "txn-sent",
};
static const char *const rules[CRASH_RULES] = {
    [CRASH_NO_BOUNDARY] = "no-boundary",
    [CRASH_COMMIT_FIRST] = "commit-first",
};
static const char *const works[CRASH_WORKS] = {
    [CRASH_DECODE] = "decode",
    [CRASH_BUILD] = "build",
    [CRASH_SENT] = "sent",
};

static const char *armed, *broken;
static size_t armed_n;
static atomic_int passages_left;
static bool harmful;

__attribute__((constructor)) static void setup(void) {
    const char *spec = getenv("HOOK_CRASH"), *colon = spec ? strchr(spec, ':') : NULL;
    broken = getenv("HOOK_BREAK");
    harmful = getenv("HOOK_RECORDS") != NULL;
    if (!colon) return;
    armed_n = (size_t)(colon - spec);
    atomic_store(&passages_left, atoi(colon + 1));
    armed = spec;
}

void crash_point(enum crash_point point) {
    const char *name = points[point];
    if (!armed || strlen(name) != armed_n || memcmp(name, armed, armed_n) != 0) return;
    if (atomic_fetch_sub(&passages_left, 1) == 1) raise(SIGKILL);
}

bool crash_breaks(enum crash_rule rule) {
    return broken && strcmp(rules[rule], broken) == 0;
}

/* Takes memory as the program does, until there is none: under a limit of the process (RLIMIT_AS;
 * one of its own where there is none) the allocator says so. A part is touched: that is what a
 * container's limit counts, not what this machine must have. */
static _Noreturn void eat(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) == 0 && limit.rlim_cur == RLIM_INFINITY) {
        limit.rlim_cur = (rlim_t)4 << 30;
        setrlimit(RLIMIT_AS, &limit);
    }
    for (;;) memset(xmalloc((size_t)1 << 20), 1, 4096);
}

/* As the kernel does to a process of a container that has no more memory. */
static _Noreturn void be_killed(void) {
    for (;;) raise(SIGKILL);
}

void crash_record(enum crash_work work, const void *value, size_t n) {
    static const char mark[] = "hook:";
    if (!harmful || !value) return;
    const char *at = memmem(value, n, mark, sizeof mark - 1), *end = (const char *)value + n;
    if (!at) return;
    at += sizeof mark - 1;
    const char *dash = memchr(at, '-', (size_t)(end - at));
    size_t len = strlen(works[work]);
    if (!dash || (size_t)(end - dash) <= len || memcmp(dash + 1, works[work], len) != 0) return;
    if (*at == 'c') __builtin_trap();
    if (*at == 'e') eat();
    if (*at == 'k') be_killed();
    for (;;) pause();
}
