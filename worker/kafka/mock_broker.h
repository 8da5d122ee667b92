/* A broker inside this process, librdkafka's mock cluster: for `demo`, and for whoever has no
 * Kafka. It does not keep offsets that are committed in a transaction. Main thread; calls block. */
#ifndef RUNSINK_MOCK_BROKER_H
#define RUNSINK_MOCK_BROKER_H

#include "worker/base/str.h"

struct mock_broker;
struct mock_broker *mock_broker_start(void); /* NULL: it did not start */
void mock_broker_stop(struct mock_broker *);
const char *mock_broker_bootstrap(const struct mock_broker *);
bool mock_broker_topic(struct mock_broker *, const char *name, int partitions);
/* Copies the value. Sent at the latest by mock_broker_flush(). */
bool mock_broker_produce(struct mock_broker *, const char *topic, int partition, struct str value);
bool mock_broker_flush(struct mock_broker *);

#endif
