#include "worker/kafka/rights.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/base/random.h"
#include "worker/kafka/client.h"
#include "worker/kafka/probe.h"

#define NO_SUCH_ACKS "2" /* 0, 1 and -1 are all that there are */
#define SLICE_MS 100

/* ---- writing ---- */

static void on_answer(rd_kafka_t *rk, const rd_kafka_message_t *m, void *unused) {
    bool *denied = m->_private;
    (void)rk;
    (void)unused;
    *denied = m->err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
}

/* After what the operator has set, whose acks would have the records appended. */
rd_kafka_conf_t *rights_conf(const struct config *cfg, struct buf *err) {
    static const char *const fixed[][2] = {{"enable.idempotence", "false"},
                                           {"delivery.report.only.error", "false"},
                                           {"log_level", "4"}, /* its end, for one, is no news */
                                           {"acks", NO_SUCH_ACKS}};
    char why[256];
    rd_kafka_conf_t *conf = client_conf_new(cfg, NULL, err);
    for (size_t i = 0; conf && i < sizeof fixed / sizeof *fixed; i++) {
        if (rd_kafka_conf_set(conf, fixed[i][0], fixed[i][1], why, sizeof why) == RD_KAFKA_CONF_OK)
            continue;
        buf_printf(err, "%s: %s\n", fixed[i][0], why);
        rd_kafka_conf_destroy(conf);
        return NULL;
    }
    if (conf) rd_kafka_conf_set_dr_msg_cb(conf, on_answer);
    return conf;
}

void rights_denied(const rd_kafka_conf_t *conf, const char *const *topics, size_t n, int timeout_ms,
                   bool (*stop)(const void *context), const void *context, bool *ret) {
    int64_t end_ms = clock_ms(CLOCK_MONOTONIC) + timeout_ms;
    struct buf err;
    buf_init(&err, 1024);
    rd_kafka_t *rk = client_new(RD_KAFKA_PRODUCER, rd_kafka_conf_dup(conf), &err);
    if (!rk) log_warn("the rights to topics can't be asked for", LOG_MESSAGE(&err));
    buf_free(&err);
    if (!rk) return;
    for (size_t i = 0; i < n; i++)
        if (topics[i])
            rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(topics[i]), RD_KAFKA_V_OPAQUE(&ret[i]),
                              RD_KAFKA_V_PARTITION(RD_KAFKA_PARTITION_UA), RD_KAFKA_V_END);
    while (rd_kafka_flush(rk, SLICE_MS) && !(stop && stop(context)) &&
           clock_ms(CLOCK_MONOTONIC) < end_ms)
        continue;
    rd_kafka_purge(rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
    rd_kafka_flush(rk, SLICE_MS); /* what is purged is told, into ret */
    rd_kafka_destroy(rk);
}

/* ---- reading ---- */

bool rights_lack(rd_kafka_resp_err_t err) {
    return err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED ||
           err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED ||
           err == RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED ||
           err == RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED;
}

bool rights_hidden(rd_kafka_t *consumer, const char *topic, int timeout_ms) {
    const struct rd_kafka_metadata *md = NULL;
    rd_kafka_resp_err_t err = client_topic(consumer, topic, timeout_ms, &md);
    if (!err) rd_kafka_metadata_destroy(md);
    return err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
}

bool rights_group_denied(rd_kafka_t *consumer) {
    char name[64]; /* of a topic that nobody has */
    snprintf(name, sizeof name, "runsink-no-such-topic-%016" PRIx64, random_u64());
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_t *tp = rd_kafka_topic_partition_list_add(l, name, 0);
    tp->offset = 0;
    rd_kafka_resp_err_t err = rd_kafka_commit(consumer, l, 0);
    bool denied = err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED ||
                  tp->err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
    rd_kafka_topic_partition_list_destroy(l);
    return denied;
}

void rights_unreadable(rd_kafka_t *consumer, const char *const *topics, size_t n, int timeout_ms,
                       bool *ret) {
    struct probe *probes = xcalloc(n + 1, sizeof *probes);
    size_t at = 0;
    for (size_t i = 0; i < n; i++)
        if (topics[i])
            probes[at++] = (struct probe){.topic = topics[i], .from = RD_KAFKA_OFFSET_END};
    probe_partitions(consumer, probes, at, timeout_ms);
    at = 0;
    for (size_t i = 0; i < n; i++)
        if (topics[i]) ret[i] = rights_lack(probes[at++].err);
    free(probes);
}
