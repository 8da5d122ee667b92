/* The stage on a real broker: the environment's KAFKA names it. */
#include <librdkafka/rdkafka.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "config/config.h"
#include "tests/sim/compare/stage.h"
#include "worker/base/clock.h"

#define TIMEOUT_MS 30000
#define NAMES 8

static char group[64], *names[NAMES];
static size_t n_names;
static rd_kafka_t *outside, *transactional;
static struct {
    const char *topic;
    int32_t partition;
    int64_t stable; /* where it begins: the last stable offset stays there until it has ended */
} transaction;

static void must(rd_kafka_resp_err_t err, const char *what) {
    if (!err) return;
    printf("%s: %s\n", what, rd_kafka_err2str(err));
    exit(1);
}

static void must_not(rd_kafka_error_t *error, const char *what) {
    if (!error) return;
    printf("%s: %s\n", what, rd_kafka_error_string(error));
    exit(1);
}

static const char *bootstrap(void) {
    const char *servers = getenv("KAFKA");
    if (servers && *servers) return servers;
    fputs("KAFKA is to name a broker\n", stderr);
    exit(1);
}

/* set: name, value, ..., NULL. */
static rd_kafka_t *client(rd_kafka_type_t type, const char *const *set) {
    char error[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    if (rd_kafka_conf_set(conf, "bootstrap.servers", bootstrap(), error, sizeof error))
        must(RD_KAFKA_RESP_ERR__INVALID_ARG, error);
    for (; *set; set += 2)
        if (rd_kafka_conf_set(conf, set[0], set[1], error, sizeof error))
            must(RD_KAFKA_RESP_ERR__INVALID_ARG, error);
    rd_kafka_t *rk = rd_kafka_new(type, conf, error, sizeof error);
    if (!rk) must(RD_KAFKA_RESP_ERR__FAIL, error);
    return rk;
}

void stage_open(void) {
    uint64_t number;
    if (getrandom(&number, sizeof number, 0) != sizeof number) abort();
    snprintf(group, sizeof group, "compare-%016llx", (unsigned long long)number);
    const char *const plain[] = {"linger.ms", "0", NULL};
    outside = client(RD_KAFKA_PRODUCER, plain);
    const char *const own[] = {"linger.ms", "0", "transactional.id", group, NULL};
    transactional = client(RD_KAFKA_PRODUCER, own);
    must_not(rd_kafka_init_transactions(transactional, TIMEOUT_MS), "init transactions");
}

void stage_close(void) {
    rd_kafka_destroy(outside);
    rd_kafka_destroy(transactional);
    while (n_names) free(names[--n_names]);
}

void stage_enter(int worker) {
    (void)worker;
}

void stage_wait(int64_t ms) {
    poll(NULL, 0, (int)ms);
}

int64_t stage_ms(void) {
    return clock_ms(CLOCK_MONOTONIC);
}

struct config *stage_config(const char *slot) {
    struct buf err;
    buf_init(&err, 4096);
    struct config *cfg = config_new();
    if (!config_set(cfg, "group", group, "story", &err) ||
        !config_set(cfg, "kafka.bootstrap.servers", bootstrap(), "story", &err) ||
        !config_set(cfg, "kafka.session.timeout.ms", "6000", "story", &err) ||
        !config_set(cfg, "kafka.heartbeat.interval.ms", "500", "story", &err) ||
        (slot[0] && !config_set(cfg, "slot", slot, "story", &err))) {
        fputs(buf_cstr(&err), stderr);
        exit(1);
    }
    buf_free(&err);
    return cfg;
}

/* ---- what an administrator does ---- */

static rd_kafka_event_t *answer(rd_kafka_queue_t *queue, const char *what) {
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, TIMEOUT_MS);
    if (!event) must(RD_KAFKA_RESP_ERR__TIMED_OUT, what);
    must(rd_kafka_event_error(event), what);
    return event;
}

/* Whether the broker tells of all the partitions, each with its leader. */
static bool is_known(const char *name, int partitions) {
    const struct rd_kafka_metadata *metadata;
    rd_kafka_topic_t *topic = rd_kafka_topic_new(outside, name, NULL);
    rd_kafka_resp_err_t err = rd_kafka_metadata(outside, 0, topic, &metadata, TIMEOUT_MS);
    rd_kafka_topic_destroy(topic);
    must(err, "metadata");
    const struct rd_kafka_metadata_topic *t = &metadata->topics[0];
    bool known = t->partition_cnt == partitions;
    for (int i = 0; known && i < partitions; i++) known = !t->partitions[i].err;
    rd_kafka_metadata_destroy(metadata);
    return known;
}

const char *stage_topic(const char *name, int32_t partitions) {
    char full[128], error[256];
    snprintf(full, sizeof full, "%s-%s", group, name);
    if (n_names == NAMES) abort();
    names[n_names] = strdup(full);
    rd_kafka_NewTopic_t *topic = rd_kafka_NewTopic_new(full, partitions, 1, error, sizeof error);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(outside);
    rd_kafka_CreateTopics(outside, &topic, 1, NULL, queue);
    rd_kafka_event_t *event = answer(queue, "making a topic");
    size_t n;
    const rd_kafka_topic_result_t **results =
        rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &n);
    must(rd_kafka_topic_result_error(results[0]), "making a topic");
    rd_kafka_event_destroy(event);
    rd_kafka_queue_destroy(queue);
    rd_kafka_NewTopic_destroy(topic);
    while (!is_known(full, partitions)) stage_wait(10);
    return names[n_names++];
}

void stage_remove(const char *topic, int32_t partition, int64_t before) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, topic, partition)->offset = before;
    rd_kafka_DeleteRecords_t *deletion = rd_kafka_DeleteRecords_new(list);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(outside);
    rd_kafka_DeleteRecords(outside, &deletion, 1, NULL, queue);
    rd_kafka_event_destroy(answer(queue, "deleting records"));
    rd_kafka_queue_destroy(queue);
    rd_kafka_DeleteRecords_destroy(deletion);
    rd_kafka_topic_partition_list_destroy(list);
}

void stage_commit(const char *topic, int32_t partition, int64_t offset, const char *metadata) {
    const char *const set[] = {"group.id", group, "enable.auto.commit", "false", NULL};
    rd_kafka_t *rk = client(RD_KAFKA_CONSUMER, set);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_t *tp = rd_kafka_topic_partition_list_add(list, topic, partition);
    tp->offset = offset;
    tp->metadata = strdup(metadata);
    tp->metadata_size = strlen(metadata);
    must(rd_kafka_commit(rk, list, 0), "committing");
    rd_kafka_topic_partition_list_destroy(list);
    rd_kafka_destroy(rk);
}

/* ---- producers ---- */

static void produce(rd_kafka_t *rk, const char *topic, int32_t partition, const char *value) {
    must(rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(partition),
                           RD_KAFKA_V_VALUE((void *)(uintptr_t)value, strlen(value)),
                           RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END),
         "producing");
    must(rd_kafka_flush(rk, TIMEOUT_MS), "producing");
}

void stage_produce(const char *topic, int32_t partition, const char *value) {
    produce(outside, topic, partition, value);
}

/* Of readers of committed records. */
static int64_t stable(const char *topic, int32_t partition) {
    int64_t low, high;
    must(rd_kafka_query_watermark_offsets(outside, topic, partition, &low, &high, TIMEOUT_MS),
         "asking for an end");
    return high;
}

void stage_begin(const char *topic, int32_t partition) {
    transaction.topic = topic;
    transaction.partition = partition;
    transaction.stable = stable(topic, partition);
    must_not(rd_kafka_begin_transaction(transactional), "beginning");
}

void stage_produce_in(const char *topic, int32_t partition, const char *value) {
    produce(transactional, topic, partition, value);
}

/* Without a member's name, which no broker looks for then. */
void stage_offset_in(const char *topic, int32_t partition, int64_t offset, const char *metadata) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_t *tp = rd_kafka_topic_partition_list_add(list, topic, partition);
    tp->offset = offset;
    tp->metadata = strdup(metadata);
    tp->metadata_size = strlen(metadata);
    rd_kafka_consumer_group_metadata_t *nobody = rd_kafka_consumer_group_metadata_new(group);
    must_not(rd_kafka_send_offsets_to_transaction(transactional, list, nobody, TIMEOUT_MS),
             "sending offsets");
    rd_kafka_consumer_group_metadata_destroy(nobody);
    rd_kafka_topic_partition_list_destroy(list);
}

void stage_end(bool commit) {
    must_not(commit ? rd_kafka_commit_transaction(transactional, TIMEOUT_MS)
                    : rd_kafka_abort_transaction(transactional, TIMEOUT_MS),
             "ending");
    /* The marker follows the answer. */
    while (stable(transaction.topic, transaction.partition) == transaction.stable) stage_wait(5);
}
