#include "worker/kafka/topic_settings.h"

#include <inttypes.h>
#include <stdlib.h>
#include <sysexits.h>

#include "worker/kafka/client.h"
#include "worker/kafka/rights.h"

#define ASK_MAX 500 /* topics in one request */
/* A window is sealed before its entry passes this. */
#define LEDGER_MESSAGE_MIN ((int64_t)1000000)
#define OUTCOME_MESSAGE_MIN ((int64_t)65536) /* a notice and what is beside it */
#define HEADERS_MAX ((int64_t)8192)          /* more than ours can be */
#define TIMES_MIN_MS ((int64_t)600000)
#define RETRY_SPARE_MS ((int64_t)3600 * 1000) /* for the shortest of outages */

/* ---- asking ---- */

static int64_t number(const char *text) {
    return text ? strtoll(text, NULL, 10) : -1;
}

static void lower(int64_t *limit, int64_t to) {
    if (to >= 0 && (*limit < 0 || to < *limit)) *limit = to;
}

static void take(const rd_kafka_ConfigResource_t *r, struct topic_settings *ret) {
    size_t n;
    const rd_kafka_ConfigEntry_t **entries = rd_kafka_ConfigResource_configs(r, &n);
    if (rd_kafka_ConfigResource_error(r)) return;
    struct topic_settings s = {.known = true,
                               .retention_ms = -1,
                               .retention_bytes = -1,
                               .before_max_ms = -1,
                               .after_max_ms = -1};
    for (size_t i = 0; i < n; i++) {
        const char *name = rd_kafka_ConfigEntry_name(entries[i]);
        const char *value = rd_kafka_ConfigEntry_value(entries[i]);
        if (strcmp(name, "cleanup.policy") == 0)
            snprintf(s.cleanup_policy, sizeof s.cleanup_policy, "%s", value ? value : "");
        else if (strcmp(name, "retention.ms") == 0)
            s.retention_ms = number(value);
        else if (strcmp(name, "retention.bytes") == 0)
            s.retention_bytes = number(value);
        else if (strcmp(name, "max.message.bytes") == 0)
            s.max_message_bytes = number(value);
        else if (strcmp(name, "message.timestamp.type") == 0)
            s.create_time = value && strcmp(value, "CreateTime") == 0;
        else if (strcmp(name, "message.timestamp.before.max.ms") == 0)
            lower(&s.before_max_ms, number(value));
        else if (strcmp(name, "message.timestamp.after.max.ms") == 0)
            lower(&s.after_max_ms, number(value));
        else if (strcmp(name, "message.timestamp.difference.max.ms") == 0) { /* before Kafka 4 */
            lower(&s.before_max_ms, number(value));
            lower(&s.after_max_ms, number(value));
        }
    }
    *ret = s;
}

static bool take_all(rd_kafka_event_t *event, const struct topic_list *l,
                     struct topic_settings *ret, struct buf *err) {
    rd_kafka_resp_err_t rc = event ? rd_kafka_event_error(event) : RD_KAFKA_RESP_ERR__TIMED_OUT;
    if (rc) {
        buf_printf(err, "can't ask for the settings of topics: %s\n", rd_kafka_err2str(rc));
        return false;
    }
    size_t n;
    const rd_kafka_ConfigResource_t **resources =
        rd_kafka_DescribeConfigs_result_resources(rd_kafka_event_DescribeConfigs_result(event), &n);
    for (size_t i = 0; i < n; i++) {
        const struct topic *t = topic_find(l, rd_kafka_ConfigResource_name(resources[i]));
        if (t) take(resources[i], &ret[t - l->v]);
    }
    return true;
}

static bool ask_some(rd_kafka_t *rk, const struct topic_list *l, size_t from, size_t n,
                     int timeout_ms, topics_stop_fn *stop, struct topic_settings *ret,
                     struct buf *err) {
    char why[256];
    rd_kafka_ConfigResource_t **resources = xcalloc(n, sizeof(*resources));
    for (size_t i = 0; i < n; i++)
        resources[i] = rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, l->v[from + i].name);
    rd_kafka_AdminOptions_t *options =
        rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
    rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, why, sizeof why);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_DescribeConfigs(rk, resources, n, options, queue);
    rd_kafka_event_t *event = client_await(queue, timeout_ms + 1000, stop);
    bool ok = take_all(event, l, ret, err);
    rd_kafka_event_destroy(event);
    rd_kafka_queue_destroy(queue);
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_ConfigResource_destroy_array(resources, n);
    free(resources);
    return ok;
}

bool topic_settings_ask(rd_kafka_t *rk, const struct topic_list *l, int timeout_ms,
                        topics_stop_fn *stop, struct topic_settings *ret, struct buf *err) {
    memset(ret, 0, l->n * sizeof *ret);
    for (size_t at = 0; at < l->n; at += ASK_MAX) {
        size_t n = l->n - at < ASK_MAX ? l->n - at : ASK_MAX;
        if (!ask_some(rk, l, at, n, timeout_ms, stop, ret, err)) return false;
    }
    return true;
}

/* ---- judging ---- */

static void judge_retention(enum topic_kind kind, const struct topic_settings *own,
                            int64_t retry_window_ms, struct buf *ret) {
    switch (kind) {
    case TOPIC_SOURCE:
    case TOPIC_DEAD:     /* how long letters may go back is the operator's to say, */
    case TOPIC_OUTCOMES: /* and how long the platform needs to read */
        return;
    case TOPIC_RETRY:
        if (own->retention_ms >= 0 && own->retention_ms < retry_window_ms + RETRY_SPARE_MS)
            buf_printf(ret,
                       "retention.ms=%" PRId64 " deletes records that still wait: set "
                       "retention.ms=-1, or above the longest retry.window and the longest "
                       "outage\n",
                       own->retention_ms);
        break;
    case TOPIC_LEDGER:
        if (own->retention_ms >= 0)
            buf_printf(ret,
                       "retention.ms=%" PRId64 " deletes the proof, and what tells `redrive` which "
                       "letters went back: set retention.ms=-1\n",
                       own->retention_ms);
        break;
    }
    if (own->retention_bytes >= 0)
        buf_printf(ret,
                   "retention.bytes=%" PRId64 " deletes whatever is oldest, however young: set "
                   "retention.bytes=-1\n",
                   own->retention_bytes);
}

/* A record may take a transaction's time to come, and clocks differ by something. */
static void judge_times(const struct topic_settings *own, struct buf *ret) {
    if (!own->create_time) return;
    const struct {
        const char *name;
        int64_t ms;
    } limits[] = {{"message.timestamp.before.max.ms", own->before_max_ms},
                  {"message.timestamp.after.max.ms", own->after_max_ms}};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++)
        if (limits[i].ms >= 0 && limits[i].ms < TIMES_MIN_MS)
            buf_printf(ret,
                       "%s=%" PRId64 " may have it refuse what is parked: set "
                       "message.timestamp.type=LogAppendTime, for which no limit holds\n",
                       limits[i].name, limits[i].ms);
}

static void judge_size(enum topic_kind kind, const struct topic_settings *own,
                       const struct topic_settings *source, struct buf *ret) {
    if (kind == TOPIC_OUTCOMES) {
        if (own->max_message_bytes < OUTCOME_MESSAGE_MIN)
            buf_printf(ret,
                       "max.message.bytes=%" PRId64 " is too small for what it may hold: set "
                       "max.message.bytes=%" PRId64 "\n",
                       own->max_message_bytes, OUTCOME_MESSAGE_MIN);
        return;
    }
    if (kind == TOPIC_LEDGER) {
        if (own->max_message_bytes < LEDGER_MESSAGE_MIN)
            buf_printf(ret,
                       "max.message.bytes=%" PRId64 " is too small for ledger entries: set "
                       "max.message.bytes=%s\n",
                       own->max_message_bytes, TOPICS_MESSAGE_MAX);
        return;
    }
    if (!source->known || own->max_message_bytes >= source->max_message_bytes + HEADERS_MAX) return;
    buf_printf(ret,
               "max.message.bytes=%" PRId64 " leaves no room for the headers that are added to its "
               "source's records: set max.message.bytes=%" PRId64 "\n",
               own->max_message_bytes, source->max_message_bytes + TOPIC_HEADROOM);
}

bool topic_settings_judge(enum topic_kind kind, const struct topic_settings *own,
                          const struct topic_settings *source, int64_t retry_window_ms,
                          struct buf *ret) {
    size_t before = ret->n;
    if (!own->known || kind == TOPIC_SOURCE) return false;
    if (strstr(own->cleanup_policy, "compact"))
        buf_printf(ret,
                   "cleanup.policy=%s keeps one record a key and refuses those without: set "
                   "cleanup.policy=delete\n",
                   own->cleanup_policy);
    judge_retention(kind, own, retry_window_ms, ret);
    judge_times(own, ret);
    judge_size(kind, own, source, ret);
    return ret->n > before;
}

bool topic_partitions_judge(enum topic_kind kind, int own, int wanted, struct buf *ret) {
    const char *cost = "";
    if (own <= 0 || own >= wanted) return false;
    switch (kind) {
    case TOPIC_SOURCE:
        return false;
    case TOPIC_RETRY:
        cost = "no more lanes than that take part in retries";
        break;
    case TOPIC_DEAD:
    case TOPIC_LEDGER:
    case TOPIC_OUTCOMES:
        cost = "those of the source share them, and brokers their load less evenly";
        break;
    }
    buf_printf(
        ret,
        "%d partition%s, where %d would be made today: %s; kafka-topics.sh --alter "
        "--partitions %d adds the rest, or set topics.partitions=%d if it is meant to be so\n",
        own, own == 1 ? "" : "s", wanted, cost, wanted, own);
    return true;
}

bool topic_clock_judge(enum topic_kind kind, const struct topic_settings *own, struct buf *ret) {
    if (kind != TOPIC_RETRY || !own->known || !own->create_time) return false;
    buf_puts(ret, "message.timestamp.type=CreateTime: what a worker with a wrong clock parks "
                  "waits for its delay anew after each restart: set "
                  "message.timestamp.type=LogAppendTime\n");
    return true;
}

/* ---- making ---- */

/* Created topics keep what they hold until it was read or an operator decides: a parked event lost
 * to retention would be lost for good. */
static const char *const own_settings[][2] = {
    {"cleanup.policy", "delete"},
    {"retention.ms", "-1"},
    {"retention.bytes", "-1"},
    {"max.message.bytes", TOPICS_MESSAGE_MAX},
    /* The broker's clock is the one that all workers share: it says since when a record waits. */
    {"message.timestamp.type", "LogAppendTime"},
};
#define N_SETTINGS (sizeof own_settings / sizeof *own_settings)

/* What the platform has not read within a week is no news any more. */
#define OUTCOMES_RETENTION_MS "604800000"

static const char *setting_of(const char *topic, size_t i) {
    bool retention = strcmp(own_settings[i][0], "retention.ms") == 0;
    return retention && topic_kind(topic, NULL) == TOPIC_OUTCOMES ? OUTCOMES_RETENTION_MS
                                                                  : own_settings[i][1];
}

/* The source that a topic of runsink's own belongs to. */
static struct topic *source_of(struct topic_list *sources, const char *own) {
    char name[TOPIC_MAX + 1];
    topic_source(own, name);
    const struct topic *t = topic_find(sources, name);
    return t ? &sources->v[t - sources->v] : NULL;
}

/* False when it concerns more than matched sources: then it ends what is being done. */
static bool refuse_for(struct topic_list *sources, const char *own, const char *why) {
    struct topic *source = source_of(sources, own);
    if (!source || !source->matched) return false;
    topic_refuse(source, why);
    return true;
}

static void tell_missing(const struct config *c, const struct topic_list *missing,
                         struct buf *err) {
    buf_puts(err, "topics.create is false and these topics are missing; create each with");
    for (size_t i = 0; i < N_SETTINGS; i++)
        buf_printf(err, " %s=%s", own_settings[i][0], own_settings[i][1]);
    buf_putc(err, '\n');
    for (size_t i = 0; i < missing->n; i++) {
        const struct topic *t = &missing->v[i];
        buf_printf(err, "    %s, %d partitions, ", t->name, t->partitions);
        if (c->topics_replication > 0)
            buf_printf(err, "%d replicas", (int)c->topics_replication);
        else
            buf_puts(err, "the broker's default of replicas");
        if (topic_kind(t->name, NULL) == TOPIC_OUTCOMES)
            buf_puts(err, ", with retention.ms=" OUTCOMES_RETENTION_MS);
        buf_putc(err, '\n');
    }
}

/* A record that its source takes has to fit with our headers, and as a dead letter again. What the
 * source takes is not known without the right to DescribeConfigs. */
static void set_size(rd_kafka_NewTopic_t *topic, const char *name, const struct topic_list *sources,
                     const struct topic_settings *settings) {
    char source[TOPIC_MAX + 1], bytes[24];
    topic_source(name, source);
    const struct topic *s = topic_find(sources, source);
    int64_t most = s ? settings[s - sources->v].max_message_bytes + TOPIC_HEADROOM : 0;
    if (most <= atoll(TOPICS_MESSAGE_MAX)) return;
    snprintf(bytes, sizeof bytes, "%" PRId64, most < INT32_MAX ? most : INT32_MAX);
    rd_kafka_NewTopic_set_config(topic, "max.message.bytes", bytes);
}

static rd_kafka_NewTopic_t **new_topics(const struct config *c, const struct topic_list *l,
                                        const struct topic_list *sources,
                                        const struct topic_settings *settings) {
    rd_kafka_NewTopic_t **ret = xcalloc(l->n, sizeof *ret);
    for (size_t i = 0; i < l->n; i++) {
        char why[256];
        ret[i] = rd_kafka_NewTopic_new(l->v[i].name, l->v[i].partitions, (int)c->topics_replication,
                                       why, sizeof why);
        /* Names and numbers are within bounds by configuration; anything else is a bug. */
        if (!ret[i]) fprintf(stderr, "runsink: %s: %s\n", l->v[i].name, why);
        if (!ret[i]) abort();
        for (size_t s = 0; s < N_SETTINGS; s++)
            rd_kafka_NewTopic_set_config(ret[i], own_settings[s][0], setting_of(l->v[i].name, s));
        set_size(ret[i], l->v[i].name, sources, settings);
    }
    return ret;
}

/* What no further attempt changes, as long as nobody changes the rights, the broker's policy or
 * topics.*. Brokers that are away can make a replication factor impossible for a while. */
static int exit_code(rd_kafka_resp_err_t code) {
    bool person = rights_lack(code) || code == RD_KAFKA_RESP_ERR_POLICY_VIOLATION ||
                  code == RD_KAFKA_RESP_ERR_INVALID_CONFIG ||
                  code == RD_KAFKA_RESP_ERR_INVALID_PARTITIONS ||
                  code == RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION;
    return person ? EX_CONFIG : EX_UNAVAILABLE;
}

static int check_created(rd_kafka_event_t *event, struct topic_list *sources, struct buf *err) {
    rd_kafka_resp_err_t rc = event ? rd_kafka_event_error(event) : RD_KAFKA_RESP_ERR__TIMED_OUT;
    if (rc) {
        buf_printf(err, "can't create the missing topics: %s\n", rd_kafka_err2str(rc));
        return exit_code(rc);
    }
    size_t n;
    const rd_kafka_topic_result_t **results =
        rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &n);
    int worst = EX_OK;
    for (size_t i = 0; i < n; i++) {
        rd_kafka_resp_err_t e = rd_kafka_topic_result_error(results[i]);
        if (!e || e == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS) continue;
        const char *said = rd_kafka_topic_result_error_string(results[i]);
        const char *name = rd_kafka_topic_result_name(results[i]);
        char text[200], why[2 * TOPIC_MAX + 300];
        outcome_text(text, sizeof text, str_c(said ? said : rd_kafka_err2str(e)));
        bool denied = rights_lack(e);
        snprintf(why, sizeof why, "can't create topic %s: %s%s%s", name, text,
                 denied ? ": allow Create on " : "", denied ? name : "");
        if (exit_code(e) == EX_CONFIG && refuse_for(sources, name, why)) continue;
        buf_printf(err, "%s\n", why);
        if (worst != EX_CONFIG) worst = exit_code(e);
    }
    return worst;
}

static int create(rd_kafka_t *rk, const struct config *c, const struct topic_list *l,
                  struct topic_list *sources, int timeout_ms, topics_stop_fn *stop, bool only_try,
                  struct buf *err) {
    char why[256];
    struct topic_settings *settings = xcalloc(sources->n + 1, sizeof *settings);
    if (!topic_settings_ask(rk, sources, timeout_ms, stop, settings, err)) {
        free(settings);
        return EX_UNAVAILABLE;
    }
    rd_kafka_NewTopic_t **topics = new_topics(c, l, sources, settings);
    free(settings);
    rd_kafka_AdminOptions_t *options =
        rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_CREATETOPICS);
    rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, why, sizeof why);
    rd_kafka_AdminOptions_set_validate_only(options, only_try, why, sizeof why);
    /* The answer comes once the brokers know the topics. */
    rd_kafka_AdminOptions_set_operation_timeout(options, timeout_ms, why, sizeof why);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_CreateTopics(rk, topics, l->n, options, queue);
    rd_kafka_event_t *event = client_await(queue, timeout_ms + 1000, stop);
    int rc = check_created(event, sources, err);
    rd_kafka_event_destroy(event);
    rd_kafka_queue_destroy(queue);
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_NewTopic_destroy_array(topics, l->n);
    free(topics);
    return rc;
}

int topic_settings_create(rd_kafka_t *rk, const struct config *c, const struct topic_list *all,
                          struct topic_list *sources, int timeout_ms, topics_stop_fn *stop,
                          struct buf *err) {
    struct topic_list missing = {0};
    int rc = topics_missing(c, all, sources, &missing, err) ? EX_OK : EX_CONFIG;
    if (rc == EX_OK && missing.n && !c->topics_create) {
        bool others = true;
        for (size_t i = 0; i < missing.n; i++)
            others &= refuse_for(sources, missing.v[i].name,
                                 "topics.create is false, and topics of its own are missing "
                                 "(`runsink check` lists them)");
        if (!others) tell_missing(c, &missing, err);
        rc = others ? EX_OK : EX_CONFIG;
    } else if (rc == EX_OK && missing.n) {
        rc = create(rk, c, &missing, sources, timeout_ms, stop, false, err);
    }
    topic_list_free(&missing);
    return rc;
}

int topic_settings_try_create(rd_kafka_t *rk, const struct config *c,
                              const struct topic_list *missing, struct topic_list *sources,
                              int timeout_ms, struct buf *err) {
    return create(rk, c, missing, sources, timeout_ms, NULL, true, err);
}
