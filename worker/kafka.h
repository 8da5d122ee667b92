/* librdkafka's configuration: what [kafka] says, our defaults below it, and above it the values
 * that the promises rest on, which nobody may change. Main thread, or a lane that makes new
 * handles. */
#ifndef RUNSINK_KAFKA_H
#define RUNSINK_KAFKA_H

#include <librdkafka/rdkafka.h>

#include "config/config.h"

/* extra is name, value, name, value, ..., NULL, or NULL: what this handle needs (group.id,
 * transactional.id). An extra value that [kafka] may set is only a default. NULL with a message in
 * err when a property is refused, unknown or invalid; a secret is never quoted. The result's log
 * goes through ours. Owned by the caller until rd_kafka_new() takes it. */
rd_kafka_conf_t *kafka_conf_new(const struct config *, const char *const *extra, struct buf *err);

/* rd_kafka_query_watermark_offsets() that asks again, within the time, while a partition is between
 * two leaders (just made, or its broker went away). Blocks; for commands, not for lanes. */
rd_kafka_resp_err_t kafka_ends(rd_kafka_t *, const char *topic, int32_t partition, int64_t *ret_low,
                               int64_t *ret_high, int timeout_ms);

#endif
