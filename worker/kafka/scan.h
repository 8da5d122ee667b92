/* Reads many partitions at once, in no order between them, each to its end: for commands that look
 * over everything (redrive, check). One thread; blocks. */
#ifndef RUNSINK_SCAN_H
#define RUNSINK_SCAN_H

#include <librdkafka/rdkafka.h>
#include <stdbool.h>

#include "worker/base/buf.h"

/* The message is the callee's to destroy. NULL, several times a second, when there is none at the
 * moment. False stops the scan. */
typedef bool scan_fn(void *context, rd_kafka_message_t *);

enum scan_end { SCAN_DONE, SCAN_STOPPED, SCAN_FAILED };

/* A consumer of reader_consumer(), which is the scan's alone meanwhile. list holds the partitions
 * with the offsets to begin at, and afterwards the offsets to go on from. A partition is read up to
 * its offset in until, by the list's order, whatever the open transactions that hide its records,
 * which end at last by their timeout; until NULL: up to the first end that shows. SCAN_FAILED comes
 * with a message in err. */
enum scan_end scan(rd_kafka_t *, rd_kafka_topic_partition_list_t *list, const int64_t *until,
                   scan_fn *, void *context, struct buf *err);

#endif
