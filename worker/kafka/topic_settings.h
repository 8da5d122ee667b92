/* The settings of topics that decide whether what lies in runsink's own is safe there: asking the
 * broker, what is to be said about them, and making the topics that are missing. What asks the
 * broker blocks up to its timeout; main thread. */
#ifndef RUNSINK_TOPIC_SETTINGS_H
#define RUNSINK_TOPIC_SETTINGS_H

#include "worker/kafka/topics.h"

/* What headers, key and framing may add to a record of the source. */
#define TOPIC_HEADROOM ((int64_t)1 << 20)

struct topic_settings {
    bool known; /* the rest is not, otherwise: no right to DescribeConfigs, mostly */
    char cleanup_policy[32];
    int64_t retention_ms, retention_bytes; /* -1: for ever, any size */
    int64_t max_message_bytes;
    bool create_time;                    /* its timestamps are those of the clients' clocks, */
    int64_t before_max_ms, after_max_ms; /* which may be off by this; -1: by any time */
};
/* ret has room for one a topic. False with a message in err when the broker did not answer. Blocks.
 */
bool topic_settings_ask(rd_kafka_t *, const struct topic_list *, int timeout_ms, topics_stop_fn *,
                        struct topic_settings *ret, struct buf *err);

/* What an own topic's settings endanger, a line each with what to change ("set retention.ms=-1"),
 * appended. Pure. False when nothing is to be said; what is not known is not judged. */
bool topic_settings_judge(enum topic_kind, const struct topic_settings *own,
                          const struct topic_settings *source, int64_t retry_window_ms,
                          struct buf *ret);

/* What an own topic that has fewer partitions than it would be made with (wanted) costs, and what
 * to do: a line, appended. Nothing is in danger by it. Pure. False when nothing is to be said. */
bool topic_partitions_judge(enum topic_kind, int own, int wanted, struct buf *ret);
/* The same for a retry topic that does not have the broker's timestamps. */
bool topic_clock_judge(enum topic_kind, const struct topic_settings *own, struct buf *ret);

/* Creates what is missing, so that nothing in it is ever lost to retention. A topic that another
 * process makes at the same time is as good. EX_OK, or with a message: EX_CONFIG when a person has
 * to act (topics.create is off, which lists what to create; no right; a policy), EX_UNAVAILABLE
 * when the next attempt may succeed. What concerns matched sources alone, while others can be
 * served, marks those as unserved. */
int topic_settings_create(rd_kafka_t *, const struct config *, const struct topic_list *all,
                          struct topic_list *sources, int timeout_ms, topics_stop_fn *,
                          struct buf *err);
/* The same of topics that are missing, but only asks whether the broker would. */
int topic_settings_try_create(rd_kafka_t *, const struct config *, const struct topic_list *missing,
                              struct topic_list *sources, int timeout_ms, struct buf *err);

#endif
