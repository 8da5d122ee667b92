/* Where a record was first read: its place in a source topic, kept wherever it is parked later. */
#ifndef RUNSINK_ORIGIN_H
#define RUNSINK_ORIGIN_H

#include <stdint.h>

#define TOPIC_MAX 249  /* bytes of a topic's name; Kafka's own limit */
#define CLUSTER_MAX 64 /* bytes of a cluster's id; those that Kafka makes have 22 */

struct origin {
    char topic[TOPIC_MAX + 1];
    int32_t partition;
    int64_t offset;
};

#endif
