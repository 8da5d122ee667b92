/* Where the ledger's last entry of each of some partitions ends: for those that the group has no
 * committed offset of any more. Whoever has them reads the ledger; any one thread. */
#ifndef RUNSINK_MARKS_H
#define RUNSINK_MARKS_H

#include <librdkafka/rdkafka.h>

#include "worker/kafka/mark.h"

/* A record of the ledger topic: an entry of the group's moves the mark of its partition on. marks:
 * one for each of the list. */
void marks_take(const rd_kafka_topic_partition_list_t *, const char *group,
                const rd_kafka_message_t *, struct mark *marks);
/* mark_is_older(), by what the broker has. The handle is assigned nothing afterwards. Blocks, 5 s
 * for each of five questions at most; ret is untouched on an error. */
rd_kafka_resp_err_t marks_older(rd_kafka_t *, const rd_kafka_topic_partition_t *,
                                const struct mark *, bool *ret);

#endif
