/* The plan of a run: numbers drawn from its seed before it begins, by which the world, the fleet
 * and Kafka draw what happens in it. */
#ifndef RUNSINK_SIM_PLAN_H
#define RUNSINK_SIM_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct plan {
#define PLAN(name, how, simplest, text) int64_t name;
#include "tests/sim/plan.def"
#undef PLAN
};
extern struct plan plan;

void plan_draw(void);
/* "name=value"; false: there is no such number. Before plan_draw(), which then leaves it alone. */
bool plan_set(const char *text);
void plan_fix(size_t i, int64_t value); /* the same of the i-th */
/* A line for --trace and for who reproduces a failure: what is not at its simplest. */
void plan_say(void);

size_t plan_count(void);
const char *plan_name(size_t i);
int64_t plan_simplest(size_t i);
int64_t *plan_value(size_t i);

#endif
