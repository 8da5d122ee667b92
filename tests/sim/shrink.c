#include "tests/sim/shrink.h"

#include <inttypes.h>
#include <stdio.h>

#include "tests/sim/plan.h"

#define ROUNDS 3

/* The number with another value, if that fails too. */
static bool take(size_t i, int64_t value, uint64_t seed, shrink_try_fn *fails, void *context) {
    int64_t before = *plan_value(i);
    if (value == before) return false;
    plan_fix(i, value);
    if (fails(context, seed)) {
        *plan_value(i) = value;
        printf("  %s=%" PRId64 "\n", plan_name(i), value);
        fflush(stdout);
        return true;
    }
    plan_fix(i, before);
    return false;
}

static bool simplify(size_t i, uint64_t seed, shrink_try_fn *fails, void *context) {
    bool any = take(i, plan_simplest(i), seed, fails, context);
    while (!any && take(i, plan_simplest(i) + (*plan_value(i) - plan_simplest(i)) / 2, seed, fails,
                        context))
        any = *plan_value(i) == plan_simplest(i);
    return any;
}

void shrink(uint64_t seed, shrink_try_fn *fails, void *context) {
    bool any = true;
    for (size_t i = 0; i < plan_count(); i++) plan_fix(i, *plan_value(i));
    for (int round = 0; round < ROUNDS && any; round++) {
        any = false;
        for (size_t i = 0; i < plan_count(); i++) any |= simplify(i, seed, fails, context);
    }
    printf("sim --seed %" PRIu64, seed);
    for (size_t i = 0; i < plan_count(); i++)
        printf(" --plan %s=%" PRId64, plan_name(i), *plan_value(i));
    puts("");
}
