/* What lanes counted, summed, as Prometheus reads it. */
#ifndef RUNSINK_METRICS_H
#define RUNSINK_METRICS_H

#include <stdio.h>

#include "worker/base/buf.h"
#include "worker/base/counters.h"

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
/* A family of values from elsewhere: first its head, then its samples. After out: names and values
 * of labels, NULL last. */
void metrics_head(enum given, struct buf *);
void metrics_sample(enum given, double value, struct buf *out, ...) __attribute__((sentinel));
/* Head and the one sample. */
void metrics_alone(enum given, double value, struct buf *);
/* CPU, memory, descriptors, start. start_s: Unix time. */
void metrics_process(double start_s, struct buf *);
/* The table of all metrics in config/prometheus/README.md. */
void metrics_print_reference(FILE *);

#endif
