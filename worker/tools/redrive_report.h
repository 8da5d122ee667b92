/* What `runsink redrive` prints: the count by fault, reason and destination, progress, and what was
 * sent; or one JSON object. Main thread. */
#ifndef RUNSINK_REDRIVE_REPORT_H
#define RUNSINK_REDRIVE_REPORT_H

#include <stdio.h>

#include "worker/tools/redrive_send.h"

/* One source topic. */
struct redrive_source {
    int64_t largest; /* bytes that the topic where letters go takes; 0: not known */
    char *name;
    int partitions[FAULTS]; /* of its dead topics */
    struct plan plan;
    struct sending sending;
};

struct redrive_report {
    FILE *out;
    bool json;
    enum plan_way way;
    const char *reason; /* that was asked for; NULL: any */
    const char *result; /* a phrase, for scripts */
    size_t at;          /* the source at hand */
    int64_t shown_ms;   /* progress: when last; 0: never */
};

void redrive_report_plan(struct redrive_report *, const struct redrive_source *, size_t n);
/* A line that renews itself on a terminal, a log line now and then otherwise. of 0: not known. */
void redrive_progress(struct redrive_report *, const char *topic, const char *what, uint64_t n,
                      uint64_t of);
void redrive_progress_end(struct redrive_report *);
void redrive_report_end(struct redrive_report *, const struct redrive_source *, size_t n);

#endif
