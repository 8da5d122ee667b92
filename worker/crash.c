#include "worker/crash.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static char point[32];
static atomic_int passages_left;
static const char *broken_rule;

void crash_setup(void) {
    broken_rule = getenv("RUNSINK_TEST_BREAK");
    const char *spec = getenv("RUNSINK_TEST_CRASH");
    const char *colon = spec ? strchr(spec, ':') : NULL;
    if (!colon || (size_t)(colon - spec) >= sizeof point) return;
    memcpy(point, spec, (size_t)(colon - spec));
    atomic_store(&passages_left, atoi(colon + 1));
}

void crash_point(const char *name) {
    if (!point[0] || strcmp(name, point) != 0) return;
    if (atomic_fetch_sub(&passages_left, 1) == 1) raise(SIGKILL);
}

bool crash_breaks(const char *rule) {
    return broken_rule && strcmp(rule, broken_rule) == 0;
}
