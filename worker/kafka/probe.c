#include "worker/kafka/probe.h"

#include <string.h>

#include "worker/base/clock.h"

#define AT_ONCE 64 /* partitions: each may bring a fetch of records that nobody wants */
#define POLL_MS 100

static struct probe *find(struct probe *all, size_t n, const rd_kafka_message_t *m) {
    for (size_t i = 0; i < n; i++)
        if (all[i].partition == m->partition &&
            strcmp(all[i].topic, rd_kafka_topic_name(m->rkt)) == 0)
            return &all[i];
    return NULL;
}

static void note(struct probe *p, const rd_kafka_message_t *m) {
    if (p->answered) return;
    p->answered = true;
    if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
        p->end = m->offset;
    else if (m->err)
        p->err = m->err;
    else
        p->waits = true;
}

static bool take(rd_kafka_t *rk, struct probe *all, size_t n) {
    rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, POLL_MS);
    if (!m) return false;
    struct probe *p = m->rkt && m->partition >= 0 ? find(all, n, m) : NULL;
    bool fresh = p && !p->answered;
    if (p) note(p, m);
    for (size_t i = 0; !p && m->rkt && m->err && i < n; i++) { /* of a topic as a whole */
        if (all[i].answered || strcmp(all[i].topic, rd_kafka_topic_name(m->rkt)) != 0) continue;
        all[i].answered = fresh = true;
        all[i].err = m->err;
    }
    rd_kafka_message_destroy(m);
    return fresh;
}

static size_t count_answers(const struct probe *all, size_t n) {
    size_t answers = 0;
    for (size_t i = 0; i < n; i++) answers += all[i].answered;
    return answers;
}

static void probe_some(rd_kafka_t *rk, struct probe *all, size_t n, int64_t end_ms) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)n);
    for (size_t i = 0; i < n; i++)
        rd_kafka_topic_partition_list_add(list, all[i].topic, all[i].partition)->offset =
            all[i].from;
    rd_kafka_resp_err_t err = rd_kafka_assign(rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    while (!err && count_answers(all, n) < n && clock_ms(CLOCK_MONOTONIC) < end_ms)
        while (take(rk, all, n)) continue;
    rd_kafka_assign(rk, NULL);
    for (size_t i = 0; i < n; i++)
        if (!all[i].answered) all[i].err = err ? err : RD_KAFKA_RESP_ERR__TIMED_OUT;
}

void probe_partitions(rd_kafka_t *rk, struct probe *all, size_t n, int timeout_ms) {
    int64_t end_ms = clock_ms(CLOCK_MONOTONIC) + timeout_ms;
    for (size_t i = 0; i < n; i += AT_ONCE)
        probe_some(rk, all + i, n - i < AT_ONCE ? n - i : AT_ONCE, end_ms);
}
