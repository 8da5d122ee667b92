#include "tests/sim/plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/scheduler.h"

struct plan plan;

static const struct {
    const char *name, *text;
    int64_t simplest;
} numbers[] = {
#define PLAN(name_, how, simplest_, text_) {#name_, text_, simplest_},
#include "tests/sim/plan.def"
#undef PLAN
};
#define NUMBERS (sizeof numbers / sizeof *numbers)
_Static_assert(sizeof plan == NUMBERS * sizeof(int64_t), "a plan is an array of numbers");

static struct {
    bool fixed;
    int64_t value;
} fixed[NUMBERS];

size_t plan_count(void) {
    return NUMBERS;
}

const char *plan_name(size_t i) {
    return numbers[i].name;
}

int64_t plan_simplest(size_t i) {
    return numbers[i].simplest;
}

int64_t *plan_value(size_t i) {
    return &((int64_t *)(void *)&plan)[i];
}

void plan_fix(size_t i, int64_t value) {
    fixed[i].fixed = true;
    fixed[i].value = value;
}

bool plan_set(const char *text) {
    const char *equals = strchr(text, '=');
    for (size_t i = 0; equals && i < NUMBERS; i++) {
        if (strlen(numbers[i].name) != (size_t)(equals - text) ||
            strncmp(numbers[i].name, text, (size_t)(equals - text)) != 0)
            continue;
        plan_fix(i, strtoll(equals + 1, NULL, 10));
        return true;
    }
    return false;
}

/* What a peaceful run has none of. */
static void make_peace(void) {
    plan.cron = plan.astray = plan.compaction = plan.foreign = 0;
    plan.poison = plan.kills = plan.freezes = plan.clocks = plan.leaves = 0;
    plan.slow_coordinator = plan.stale_answer = plan.lost_answer = plan.abort = 0;
    plan.no_producer = plan.no_access = plan.rate = plan.deaf = 0;
    plan.unstable = plan.topic_gone = plan.outside = plan.retention = plan.other_delays = 0;
}

/* Room for all, and no breaker: what waits, waits for its time alone. */
static void make_room(void) {
    plan.window_inflight = 64;
    plan.connections = 256;
    plan.concurrency = 8;
    plan.waiting = 2000;
    plan.breaker = 1000000;
    plan.idle_ms = 600000;
    plan.budget_kib = 16384;
    plan.dest_max = 256;
    plan.reloads = plan.store_faults = plan.deploys = plan.foreign = plan.hot = 0;
    plan.largest = 0;
}

/* What makes a run that ends by itself end too soon: others that die, and leave their transactions
 * open. */
static void make_cron(void) {
    plan.kills = plan.kills < 4 ? 4 : plan.kills;
    plan.txn_timeout_ms = 30000;
}

void plan_draw(void) {
#define PLAN(name, how, simplest, text) plan.name = (int64_t)(how);
#include "tests/sim/plan.def"
#undef PLAN
    if (plan.cron && world_chance(500)) make_cron();
    for (size_t i = 0; i < NUMBERS; i++)
        if (fixed[i].fixed) *plan_value(i) = fixed[i].value;
    plan.exact = plan.exact && plan.peace;
    if (plan.peace) make_peace();
    if (plan.exact) make_room();
    if (!plan.attempts) plan.poison = 0; /* it would kill for ever */
    if (plan.buckets + plan.hooks == 0) plan.buckets = 1;
    if (plan.cron && plan.workers > 2) plan.workers = 2;
    /* A ledger whose times are too early makes a topic of a minute look younger than its chain. */
    if (plan.clocks) plan.expiry = 0;
}

void plan_say(void) {
    char line[1000];
    size_t n = 0;
    line[0] = '\0';
    for (size_t i = 0; i < NUMBERS && n < sizeof line - 40; i++)
        if (*plan_value(i) != numbers[i].simplest)
            n += (size_t)snprintf(line + n, sizeof line - n, " %s=%" PRId64, numbers[i].name,
                                  *plan_value(i));
    world_say("plan:%s", line);
}
