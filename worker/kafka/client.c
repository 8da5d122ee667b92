#include "worker/kafka/client.h"

#include <stdio.h>
#include <time.h>

#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/base/outcome.h"
#include "worker/kafka/topics.h"

#define SLICE_MS 200 /* a wait for the broker, before it is asked whether to stop */

/* Why a value is not the operator's to choose: */
#define SETTLED "offsets are committed in the transaction that settles them"
#define IN_FLIGHT "a broker may lose the first of two requests that overtake each other"
#define OWN_KEY "runsink has a key of its own for it: "

/* fixed NULL: a default. A value NULL is set by whoever makes the handle. */
static const struct property {
    const char *name, *value, *fixed;
    bool newer; /* unknown to older librdkafka, then left out */
} properties[] = {
    {"enable.auto.commit", "false", SETTLED},
    {"auto.commit.enable", NULL, SETTLED},
    {"enable.auto.offset.store", "false", SETTLED},
    {"isolation.level", "read_committed", "aborted retry and ledger records must stay unseen"},
    {"auto.offset.reset", "error", OWN_KEY "start"},
    {"enable.idempotence", "true", "a retried produce must not write twice"},
    {"max.in.flight", NULL, IN_FLIGHT},
    {"max.in.flight.requests.per.connection", NULL, IN_FLIGHT},
    {"transactional.id", NULL, OWN_KEY "slot"},
    {"group.id", NULL, OWN_KEY "group"},
    {"group.instance.id", NULL, OWN_KEY "slot"},
    {"group.protocol", NULL, "settlement is proved for the classic protocol only"},
    {"enable.partition.eof", NULL, "whether ends are reported is decided by the command"},
    {"log.queue", NULL, "log lines would be lost"},

    {"client.id", "runsink", NULL},
    {"partition.assignment.strategy", "cooperative-sticky", NULL},
    /* The default of 100 ms is slept through in each transaction. */
    {"retry.backoff.ms", "10", NULL},
    /* With less, a broker killed in a transaction can leave it hanging for good. */
    {"transaction.timeout.ms", "60000", NULL},
    /* While the broker holds a fetch open for partitions that have nothing, none is sent for those
     * whose queue has drained meanwhile: what the queues hold is read once in this time. The
     * default is 500 ms; with less an idle process takes more than half a percent of a core. */
    {"fetch.wait.max.ms", "50", NULL},
    {"queued.max.messages.kbytes", "1024", NULL},
    {"fetch.message.max.bytes", "524288", NULL},
    {"fetch.queue.backoff.ms", "10", NULL, true},
    /* A broker may not know a retry topic yet that was just made: it is asked again this soon, not
     * after five minutes. */
    {"topic.metadata.refresh.interval.ms", "10000", NULL},
    /* A parked record is larger than its original by our headers. */
    {"message.max.bytes", TOPICS_MESSAGE_MAX, NULL},
    /* Brokers close idle connections; that is no news. */
    {"log.connection.close", "false", NULL},
    {"socket.keepalive.enable", "true", NULL},
};

static const struct property *property_named(const char *name) {
    for (size_t i = 0; i < sizeof properties / sizeof *properties; i++)
        if (strcmp(properties[i].name, name) == 0) return &properties[i];
    return NULL;
}

/* librdkafka numbers its levels as syslog does. */
static enum log_level level_of(int syslog_level) {
    if (syslog_level <= 3) return LOG_ERROR;
    if (syslog_level == 4) return LOG_WARN;
    return syslog_level <= 6 ? LOG_INFO : LOG_DEBUG;
}

static void on_log(const rd_kafka_t *rk, int syslog_level, const char *facility, const char *text) {
    enum log_level level = level_of(syslog_level);
    /* [kafka] serves consumers and producers alike: that one ignores the other's is intended. */
    if (strcmp(facility, "CONFWARN") == 0 && strstr(text, "will be ignored by this"))
        level = LOG_TRACE;
    log_at(level, "kafka", LOG_S("client", rk ? rd_kafka_name(rk) : ""),
           LOG_S("facility", facility), LOG_S("text", text));
}

static bool set(rd_kafka_conf_t *conf, const char *name, const char *value, const char *origin,
                struct buf *err) {
    char why[512], text[200];
    rd_kafka_conf_res_t res = rd_kafka_conf_set(conf, name, value, why, sizeof why);
    if (res == RD_KAFKA_CONF_OK) return true;
    outcome_text(text, sizeof text, str_c(why));
    /* What librdkafka says quotes the value. */
    if (res != RD_KAFKA_CONF_UNKNOWN && config_kafka_secret(name))
        snprintf(text, sizeof text, "invalid value");
    if (res == RD_KAFKA_CONF_UNKNOWN)
        snprintf(text, sizeof text, "this librdkafka has no such property");
    buf_printf(err, "%s: kafka.%s: %s\n", origin, name, text);
    return false;
}

static bool set_ours(rd_kafka_conf_t *conf, const char *const *extra, struct buf *err) {
    bool ok = true;
    for (size_t i = 0; i < sizeof properties / sizeof *properties; i++) {
        const struct property *p = &properties[i];
        char unused[512];
        if (p->newer)
            rd_kafka_conf_set(conf, p->name, p->value, unused, sizeof unused);
        else if (p->value)
            ok &= set(conf, p->name, p->value, "default", err);
    }
    for (; extra && *extra; extra += 2) ok &= set(conf, extra[0], extra[1], "runsink", err);
    return ok;
}

static bool set_theirs(rd_kafka_conf_t *conf, const struct config *c, struct buf *err) {
    bool ok = true;
    for (size_t i = 0; i < c->kafka_names.n; i++) {
        const char *name = c->kafka_names.v[i], *origin = c->kafka_origins.v[i];
        const struct property *p = property_named(name);
        if (p && p->fixed) {
            buf_printf(err, "%s: kafka.%s: can't be set: %s\n", origin, name, p->fixed);
            ok = false;
        } else {
            ok &= set(conf, name, c->kafka_values.v[i], origin, err);
        }
    }
    return ok;
}

const char *client_version(void) {
    return rd_kafka_version_str();
}

rd_kafka_conf_t *client_conf_new(const struct config *c, const char *const *extra,
                                 struct buf *err) {
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set_log_cb(conf, on_log);
    bool ok = set_ours(conf, extra, err);
    if (set_theirs(conf, c, err) && ok) return conf;
    rd_kafka_conf_destroy(conf);
    return NULL;
}

rd_kafka_t *client_new(rd_kafka_type_t type, rd_kafka_conf_t *conf, struct buf *err) {
    char why[512];
    rd_kafka_t *rk = rd_kafka_new(type, conf, why, sizeof why);
    if (rk) return rk;
    buf_printf(err, "%s: %s", type == RD_KAFKA_CONSUMER ? "consumer" : "producer", why);
    rd_kafka_conf_destroy(conf);
    return NULL;
}

void client_conf_alone(rd_kafka_conf_t *conf) {
    char unused[256];
    rd_kafka_conf_set(conf, "bootstrap.servers", "", unused, sizeof unused);
    rd_kafka_conf_set(conf, "debug", "", unused, sizeof unused);
    rd_kafka_conf_set(conf, "log_level", "0", unused, sizeof unused);
}

rd_kafka_event_t *client_await(rd_kafka_queue_t *queue, int timeout_ms, bool (*stop)(void)) {
    rd_kafka_event_t *event = NULL;
    int64_t end = clock_ms(CLOCK_MONOTONIC) + timeout_ms;
    while (!event && !(stop && stop()) && clock_ms(CLOCK_MONOTONIC) < end)
        event = rd_kafka_queue_poll(queue, SLICE_MS);
    return event;
}

const rd_kafka_ConsumerGroupDescription_t *client_group(rd_kafka_t *rk, const char *group,
                                                        int timeout_ms, bool (*stop)(void),
                                                        rd_kafka_event_t **ret_event,
                                                        rd_kafka_resp_err_t *reterr) {
    char why[256];
    rd_kafka_AdminOptions_t *options =
        rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS);
    rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, why, sizeof why);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_DescribeConsumerGroups(rk, &group, 1, options, queue);
    rd_kafka_event_t *event = client_await(queue, timeout_ms + 1000, stop);
    rd_kafka_resp_err_t rc = event ? rd_kafka_event_error(event) : RD_KAFKA_RESP_ERR__TIMED_OUT;
    size_t n = 0;
    const rd_kafka_ConsumerGroupDescription_t **all =
        rc ? NULL
           : rd_kafka_DescribeConsumerGroups_result_groups(
                 rd_kafka_event_DescribeConsumerGroups_result(event), &n);
    if (!rc)
        rc = n == 1 ? rd_kafka_error_code(rd_kafka_ConsumerGroupDescription_error(all[0]))
                    : RD_KAFKA_RESP_ERR__BAD_MSG;
    rd_kafka_queue_destroy(queue);
    rd_kafka_AdminOptions_destroy(options);
    *ret_event = event;
    *reterr = rc;
    return rc ? NULL : all[0];
}

void client_cluster(rd_kafka_t *rk, int timeout_ms, char ret[CLUSTER_MAX + 1]) {
    char *id = rd_kafka_clusterid(rk, timeout_ms);
    snprintf(ret, CLUSTER_MAX + 1, "%s", id ? id : "");
    if (id) rd_kafka_mem_free(rk, id);
    for (; *ret; ret++)
        if (*ret < ' ' || *ret > '~') *ret = '?';
}

rd_kafka_resp_err_t client_topic(rd_kafka_t *rk, const char *name, int timeout_ms,
                                 const struct rd_kafka_metadata **ret) {
    const struct rd_kafka_metadata *md = NULL;
    rd_kafka_topic_t *t = rd_kafka_topic_new(rk, name, NULL);
    rd_kafka_resp_err_t err =
        t ? rd_kafka_metadata(rk, 0, t, &md, timeout_ms) : rd_kafka_last_error();
    if (!err) err = md && md->topic_cnt == 1 ? md->topics[0].err : RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
    if (t) rd_kafka_topic_destroy(t);
    if (!err)
        *ret = md;
    else if (md)
        rd_kafka_metadata_destroy(md);
    return err;
}

/* What a new request for the metadata, which librdkafka makes by itself, will change. */
static bool passes(rd_kafka_resp_err_t code) {
    return code == RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION ||
           code == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE ||
           code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
           code == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION || code == RD_KAFKA_RESP_ERR__TRANSPORT;
}

rd_kafka_resp_err_t client_ends(rd_kafka_t *rk, const char *topic, int32_t partition,
                                int64_t *ret_low, int64_t *ret_high, int timeout_ms) {
    const struct timespec pause = {.tv_nsec = 100000000};
    int64_t end = clock_ms(CLOCK_MONOTONIC) + timeout_ms;
    for (;;) {
        rd_kafka_resp_err_t code =
            rd_kafka_query_watermark_offsets(rk, topic, partition, ret_low, ret_high, timeout_ms);
        if (!passes(code) || clock_ms(CLOCK_MONOTONIC) >= end) return code;
        nanosleep(&pause, NULL); /* the broker's metadata changes without an event of ours */
    }
}

#define ENDS_SLICE_MS 500

/* A request that was not answered in its time is given up, so each one gets more. */
rd_kafka_resp_err_t client_ends_unless(rd_kafka_t *rk, const char *topic, int32_t partition,
                                       int64_t *ret_low, int64_t *ret_high, int timeout_ms,
                                       bool (*stop)(void)) {
    int64_t end = clock_ms(CLOCK_MONOTONIC) + timeout_ms;
    rd_kafka_resp_err_t code;
    int wait = ENDS_SLICE_MS;
    do {
        code = client_ends(rk, topic, partition, ret_low, ret_high, wait);
        if (wait < 4 * ENDS_SLICE_MS) wait *= 2;
    } while (code == RD_KAFKA_RESP_ERR__TIMED_OUT && !stop() && clock_ms(CLOCK_MONOTONIC) < end);
    return code;
}

static rd_kafka_resp_err_t ask_times(rd_kafka_t *rk, rd_kafka_topic_partition_list_t *l, int64_t ms,
                                     int timeout_ms) {
    for (int i = 0; i < l->cnt; i++) l->elems[i].offset = ms;
    rd_kafka_resp_err_t code = rd_kafka_offsets_for_times(rk, l, timeout_ms);
    for (int i = 0; !code && i < l->cnt; i++) code = l->elems[i].err;
    return code;
}

rd_kafka_resp_err_t client_offsets_at(rd_kafka_t *rk, rd_kafka_topic_partition_list_t *l,
                                      int64_t ms, int timeout_ms) {
    const struct timespec pause = {.tv_nsec = 100000000};
    int64_t end = clock_ms(CLOCK_MONOTONIC) + timeout_ms;
    rd_kafka_topic_partition_list_t *found = rd_kafka_topic_partition_list_copy(l);
    rd_kafka_resp_err_t code;
    while (passes(code = ask_times(rk, found, ms, timeout_ms)) && clock_ms(CLOCK_MONOTONIC) < end)
        nanosleep(&pause, NULL);
    for (int i = 0; !code && i < l->cnt; i++)
        if (found->elems[i].offset >= 0) l->elems[i].offset = found->elems[i].offset;
    rd_kafka_topic_partition_list_destroy(found);
    return code;
}
