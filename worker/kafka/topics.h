/* Which topics there are, which are sources, and what each source lacks. What asks the broker
 * blocks up to its timeout: main thread, at start and on each refresh. */
#ifndef RUNSINK_TOPICS_H
#define RUNSINK_TOPICS_H

#include <librdkafka/rdkafka.h>

#include "config/config.h"
#include "worker/kafka/topic_names.h"

/* max.message.bytes of the topics that runsink makes. */
#define TOPICS_MESSAGE_MAX "16777216"

struct topic {
    char *name;
    int partitions; /* 0: not there */
    bool matched;   /* a source, by an expression alone */
    char *unserved; /* a matched source that can't be served: why; NULL: it can */
};
struct topic_list { /* sorted by name */
    struct topic *v;
    size_t n;
};
void topic_list_free(struct topic_list *);
const struct topic *topic_find(const struct topic_list *, const char *name);

/* What asks the broker gives the waiting up within a few seconds once this says so; NULL: never. */
typedef bool topics_stop_fn(void);

/* All topics of the cluster. */
bool topics_list(rd_kafka_t *, int timeout_ms, topics_stop_fn *, struct topic_list *ret,
                 struct buf *err);
/* The sources: what `topics` names or matches among all. A named one that is not there is in the
 * list with 0 partitions. False when a named one is runsink's own. */
bool topics_resolve(const struct config *, const struct topic_list *all, struct topic_list *ret,
                    struct buf *err);
/* For commands: the one source that is named, be it there or not, or with name NULL those that
 * topics_resolve() finds. */
bool topics_choose(const struct config *, const char *name, const struct topic_list *all,
                   struct topic_list *ret, struct buf *err);
/* What a group reads of what is there: the sources' partitions and their retry topics'. The caller
 * destroys the list. */
rd_kafka_topic_partition_list_t *topics_consumed(const struct topic_list *all,
                                                 const struct topic_list *sources);
/* The retry topics to read: one for each delay of each source, be it there yet or not (then with
 * the partitions that it is made with), and those of delays that are not configured any more
 * (leftovers): what was parked in them waits for somebody to read it. Topics of the sources alone,
 * whatever else is among all. */
void topics_retries(const struct config *, const struct topic_list *all,
                    const struct topic_list *sources, struct topic_list *ret);
/* Notes why a source can't be served. */
void topic_refuse(struct topic *source, const char *why);
/* What the sources lack: partitions as they would be created. Sources without partitions are passed
 * over. One whose own topics can't have their names (too long, or for Kafka the same as another
 * topic's) is marked as unserved when an expression matched it; false when it was named. */
bool topics_missing(const struct config *, const struct topic_list *all, struct topic_list *sources,
                    struct topic_list *ret, struct buf *err);
/* Moves the unserved ones from sources to *ret. */
void topics_part(struct topic_list *sources, struct topic_list *ret);

#endif
