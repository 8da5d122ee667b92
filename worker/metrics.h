/* Counters of one lane, written by its thread, read by the main thread at any time: relaxed
 * atomics, no locks. */
#ifndef RUNSINK_METRICS_H
#define RUNSINK_METRICS_H

#include <stdatomic.h>
#include <stdint.h>

enum counter {
#define COUNTER(id, name, help) COUNTER_##id,
#include "worker/counters.def"
#undef COUNTER
    COUNTERS
};

struct counters {
    _Atomic uint64_t v[COUNTERS];
};

static inline void count(struct counters *c, enum counter id, uint64_t n) {
    atomic_fetch_add_explicit(&c->v[id], n, memory_order_relaxed);
}

static inline void count_set(struct counters *c, enum counter id, uint64_t n) {
    atomic_store_explicit(&c->v[id], n, memory_order_relaxed);
}

static inline uint64_t count_get(const struct counters *c, enum counter id) {
    return atomic_load_explicit(&c->v[id], memory_order_relaxed);
}

#endif
