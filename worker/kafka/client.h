/* librdkafka's configuration: what [kafka] says, our defaults below it, and above it the values
 * that the promises rest on, which nobody may change. Main thread, or a lane that makes new
 * handles. */
#ifndef RUNSINK_CLIENT_H
#define RUNSINK_CLIENT_H

#include <librdkafka/rdkafka.h>

#include "config/config.h"
#include "worker/base/origin.h"

/* extra is name, value, name, value, ..., NULL, or NULL: what this handle needs (group.id,
 * transactional.id). An extra value that [kafka] may set is only a default. NULL with a message in
 * err when a property is refused, unknown or invalid; a secret is never quoted. The result's log
 * goes through ours. Owned by the caller until client_new() takes it. */
rd_kafka_conf_t *client_conf_new(const struct config *, const char *const *extra, struct buf *err);
/* Takes the configuration. NULL with a message in err, for one thing when two properties exclude
 * each other. */
rd_kafka_t *client_new(rd_kafka_type_t, rd_kafka_conf_t *, struct buf *err);
/* For a handle that is only made to see whether it can be: without brokers and log lines. */
void client_conf_alone(rd_kafka_conf_t *);

/* librdkafka's. */
const char *client_version(void);

/* Two more of extra, for producers. A broker that knows nothing of a producer yet takes whatever
 * sequence number it sees first. So when the first request for a partition is turned away, because
 * the broker has not heard yet that it leads it, and the second one is taken, the first one's
 * records are lost without an error, and the transaction is committed without them (KAFKA-15591).
 * One request at a time can't be overtaken. */
#define CLIENT_ONE_IN_FLIGHT "max.in.flight", "1"

/* The event that an admin request brings, the caller's to destroy (NULL is fine to do that with).
 * NULL: none came in time, or stop (NULL: never) said to give it up. Blocks. */
rd_kafka_event_t *client_await(rd_kafka_queue_t *, int timeout_ms, bool (*stop)(void));
/* What the coordinator says of a group, borrowed from *ret_event, which the caller destroys in any
 * case. NULL with *reterr. Blocks. */
const rd_kafka_ConsumerGroupDescription_t *client_group(rd_kafka_t *, const char *group,
                                                        int timeout_ms, bool (*stop)(void),
                                                        rd_kafka_event_t **ret_event,
                                                        rd_kafka_resp_err_t *reterr);

/* The id of the cluster, printable and cut; empty where the brokers tell none. Blocks until one of
 * them has answered. */
void client_cluster(rd_kafka_t *, int timeout_ms, char ret[CLUSTER_MAX + 1]);

/* What a broker says of one topic: without an error the metadata is of that topic, and the caller's
 * to destroy. Blocks. */
rd_kafka_resp_err_t client_topic(rd_kafka_t *, const char *name, int timeout_ms,
                                 const struct rd_kafka_metadata **ret);

/* rd_kafka_query_watermark_offsets() that asks again, within the time, while a partition is between
 * two leaders (just made, or its broker went away). Blocks; for commands, not for lanes. */
rd_kafka_resp_err_t client_ends(rd_kafka_t *, const char *topic, int32_t partition,
                                int64_t *ret_low, int64_t *ret_high, int timeout_ms);

/* The same in short questions, between which stop() may end it. */
rd_kafka_resp_err_t client_ends_unless(rd_kafka_t *, const char *topic, int32_t partition,
                                       int64_t *ret_low, int64_t *ret_high, int timeout_ms,
                                       bool (*stop)(void));

/* As client_ends() asks, for the first record of each partition whose timestamp is not before ms:
 * its offset takes the place of the one that is there. A partition that has no such record keeps
 * that. */
rd_kafka_resp_err_t client_offsets_at(rd_kafka_t *, rd_kafka_topic_partition_list_t *, int64_t ms,
                                      int timeout_ms);

#endif
