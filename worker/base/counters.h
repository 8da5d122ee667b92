/* Counters of one lane, written by its thread, read by other threads at any time: relaxed atomics,
 * no locks. counters.def names them all; admin/metrics.c turns them into text. */
#ifndef RUNSINK_COUNTERS_H
#define RUNSINK_COUNTERS_H

#include <stdatomic.h>
#include <stdint.h>

enum counter {
#define COUNTER(id, kind, name, labels, help) COUNTER_##id,
#include "worker/base/counters.def"
    COUNTERS
};

enum histogram {
#define HISTOGRAM(id, kind, scale, name, help) HISTOGRAM_##id,
#include "worker/base/counters.def"
    HISTOGRAMS
};

enum given {
#define GIVEN(id, type, name, labels, help) GIVEN_##id,
#include "worker/base/counters.def"
    GIVENS
};

/* Slot 0: no sink; otherwise 1 + the type's place in sink_types[]. What isn't counted by sink has
 * slot 0 alone. */
#define SINK_SLOTS 9
#define HISTOGRAM_BOUNDS 13

struct histogram_cells {
    _Atomic uint64_t buckets[HISTOGRAM_BOUNDS + 1]; /* not cumulative; the last one is +Inf */
    _Atomic uint64_t sum_us;
};

struct counters {
    _Atomic uint64_t v[COUNTERS][SINK_SLOTS];
    struct histogram_cells histograms[HISTOGRAMS][SINK_SLOTS];
};

static inline void count_by(struct counters *c, enum counter id, unsigned slot, uint64_t n) {
    atomic_fetch_add_explicit(&c->v[id][slot], n, memory_order_relaxed);
}

static inline void count(struct counters *c, enum counter id, uint64_t n) {
    count_by(c, id, 0, n);
}

static inline void count_set(struct counters *c, enum counter id, uint64_t n) {
    atomic_store_explicit(&c->v[id][0], n, memory_order_relaxed);
}

static inline uint64_t count_get(const struct counters *c, enum counter id) {
    uint64_t n = 0;
    for (unsigned i = 0; i < SINK_SLOTS; i++)
        n += atomic_load_explicit(&c->v[id][i], memory_order_relaxed);
    return n;
}

/* A time of so many microseconds, below 0 counted as none. */
void observe_us(struct counters *, enum histogram, unsigned slot, int64_t us);

/* A bucket's upper bound, us, and as /metrics writes it. */
struct histogram_bound {
    int64_t us;
    const char *le;
};
/* HISTOGRAM_BOUNDS of them, ascending. */
const struct histogram_bound *histogram_bounds(enum histogram);

#endif
