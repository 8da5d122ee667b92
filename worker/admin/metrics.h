/* Counters of one lane, written by its thread, read by other threads at any time: relaxed atomics,
 * no locks. counters.def names them all; metrics.c turns them into text. */
#ifndef RUNSINK_METRICS_H
#define RUNSINK_METRICS_H

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>

#include "worker/base/buf.h"

enum counter {
#define COUNTER(id, kind, name, labels, help) COUNTER_##id,
#define HISTOGRAM(id, kind, scale, name, help)
#define GIVEN(id, type, name, labels, help)
#include "worker/base/counters.def"
#undef COUNTER
#undef HISTOGRAM
#undef GIVEN
    COUNTERS
};

enum histogram {
#define COUNTER(id, kind, name, labels, help)
#define HISTOGRAM(id, kind, scale, name, help) HISTOGRAM_##id,
#define GIVEN(id, type, name, labels, help)
#include "worker/base/counters.def"
#undef COUNTER
#undef HISTOGRAM
#undef GIVEN
    HISTOGRAMS
};

enum given {
#define COUNTER(id, kind, name, labels, help)
#define HISTOGRAM(id, kind, scale, name, help)
#define GIVEN(id, type, name, labels, help) GIVEN_##id,
#include "worker/base/counters.def"
#undef COUNTER
#undef HISTOGRAM
#undef GIVEN
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

void observe_us(struct counters *, enum histogram, unsigned slot, int64_t us);

/* What all lanes counted. */
struct metrics_sums {
    uint64_t v[COUNTERS][SINK_SLOTS];
    uint64_t buckets[HISTOGRAMS][SINK_SLOTS][HISTOGRAM_BOUNDS + 1];
    uint64_t sum_us[HISTOGRAMS][SINK_SLOTS];
};
/* Starts from a zeroed one; called for each lane. Any thread. */
void metrics_add(struct metrics_sums *, const struct counters *);
uint64_t metrics_total(const struct metrics_sums *, enum counter);

/* Prometheus' text format, version 0.0.4. Counters and histograms: */
void metrics_print(const struct metrics_sums *, struct buf *);
/* A family of values from elsewhere: first its head, then its samples. labels: name="value" pairs,
 * made with metrics_label(), or empty. */
void metrics_head(enum given, struct buf *);
void metrics_sample(enum given, const char *labels, double value, struct buf *);
/* Appends name="value", after a comma when it is not the first; the value escaped. */
void metrics_label(struct buf *, const char *name, const char *value);
/* CPU, memory, descriptors, start. start_s: Unix time. */
void metrics_process(double start_s, struct buf *);
/* The README's table of all metrics, Markdown. */
void metrics_print_reference(FILE *);

#endif
