#include "worker/kafka/mock_broker.h"

#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <stdlib.h>

#include "worker/base/buf.h"

#define FLUSH_MS 10000

struct mock_broker {
    rd_kafka_t *host; /* lends the cluster its thread */
    rd_kafka_mock_cluster_t *cluster;
    rd_kafka_t *producer;
};

static rd_kafka_t *handle(const char *name, const char *value) {
    char unused[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set(conf, "client.id", "demo", unused, sizeof unused);
    rd_kafka_conf_set(conf, name, value, unused, sizeof unused);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, unused, sizeof unused);
    if (!rk) rd_kafka_conf_destroy(conf);
    return rk;
}

struct mock_broker *mock_broker_start(void) {
    struct mock_broker *b = xcalloc(1, sizeof *b);
    b->host = handle("log_level", "0");
    if (b->host) b->cluster = rd_kafka_mock_cluster_new(b->host, 1);
    if (b->cluster) b->producer = handle("bootstrap.servers", mock_broker_bootstrap(b));
    if (b->producer) return b;
    mock_broker_stop(b);
    return NULL;
}

void mock_broker_stop(struct mock_broker *b) {
    if (!b) return;
    if (b->producer) rd_kafka_destroy(b->producer);
    if (b->cluster) rd_kafka_mock_cluster_destroy(b->cluster);
    if (b->host) rd_kafka_destroy(b->host);
    free(b);
}

const char *mock_broker_bootstrap(const struct mock_broker *b) {
    return rd_kafka_mock_cluster_bootstraps(b->cluster);
}

bool mock_broker_topic(struct mock_broker *b, const char *name, int partitions) {
    return rd_kafka_mock_topic_create(b->cluster, name, partitions, 1) == 0;
}

bool mock_broker_produce(struct mock_broker *b, const char *topic, int partition,
                         struct str value) {
    return rd_kafka_producev(b->producer, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(partition),
                             RD_KAFKA_V_VALUE((void *)(uintptr_t)value.p, value.n),
                             RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END) == 0;
}

bool mock_broker_flush(struct mock_broker *b) {
    return rd_kafka_flush(b->producer, FLUSH_MS) == RD_KAFKA_RESP_ERR_NO_ERROR;
}
