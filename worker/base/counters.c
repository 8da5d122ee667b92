#include "worker/base/counters.h"

#include <stddef.h>

enum scale { WORK, AGE };

static const struct histogram_bound bounds[][HISTOGRAM_BOUNDS] = {
    [WORK] = {{5000, "0.005"},
              {10000, "0.01"},
              {25000, "0.025"},
              {50000, "0.05"},
              {100000, "0.1"},
              {250000, "0.25"},
              {500000, "0.5"},
              {1000000, "1"},
              {2500000, "2.5"},
              {5000000, "5"},
              {10000000, "10"},
              {30000000, "30"},
              {60000000, "60"}},
    [AGE] = {{100000, "0.1"},
             {500000, "0.5"},
             {1000000, "1"},
             {2500000, "2.5"},
             {5000000, "5"},
             {10000000, "10"},
             {30000000, "30"},
             {60000000, "60"},
             {300000000, "300"},
             {900000000, "900"},
             {3600000000, "3600"},
             {21600000000, "21600"},
             {86400000000, "86400"}},
};

static const enum scale scales[HISTOGRAMS] = {
#define HISTOGRAM(id, kind, scale, name, help) [HISTOGRAM_##id] = (scale),
#include "worker/base/counters.def"
};

const struct histogram_bound *histogram_bounds(enum histogram id) {
    return bounds[scales[id]];
}

void observe_us(struct counters *c, enum histogram id, unsigned slot, int64_t us) {
    struct histogram_cells *h = &c->histograms[id][slot];
    size_t i = 0;
    while (i < HISTOGRAM_BOUNDS && us > bounds[scales[id]][i].us) i++;
    atomic_fetch_add_explicit(&h->buckets[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_us, us > 0 ? (uint64_t)us : 0, memory_order_relaxed);
}
