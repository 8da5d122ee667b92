/* What a reader would meet in each partition now, for `check`: whether it may be read, whether a
 * record waits or only the markers of transactions do, and what an open transaction hides. One
 * thread; blocks for up to its timeout. */
#ifndef RUNSINK_PROBE_H
#define RUNSINK_PROBE_H

#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stdint.h>

struct probe {
    const char *topic; /* borrowed */
    int32_t partition;
    int64_t from; /* where reading would begin; below the beginning: there */
    /* found: */
    bool answered;
    bool waits;              /* a record can be read there */
    int64_t end;             /* else: the end of what can be read, and */
    rd_kafka_resp_err_t err; /* why it can't be read; 0: it can */
};

/* A consumer of reader_consumer(), which is the probe's alone meanwhile. */
void probe_partitions(rd_kafka_t *, struct probe *, size_t n, int timeout_ms);

#endif
