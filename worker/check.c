/* `runsink check`: what would run make of this configuration and this broker? */
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

#include "worker/command.h"
#include "worker/kafka.h"
#include "worker/metrics.h"
#include "worker/topics.h"

#define TIMEOUT_MS 10000

static bool print_topics(const struct topic_list *sources) {
    bool ok = sources->n > 0;
    printf("\ntopics to consume: %zu\n", sources->n);
    for (size_t i = 0; i < sources->n; i++) {
        const struct topic *t = &sources->v[i];
        if (t->partitions)
            printf("  %s, %d partitions\n", t->name, t->partitions);
        else
            printf("  %s IS NOT THERE\n", t->name);
        ok &= t->partitions > 0;
    }
    return ok;
}

/* Missing topics are fine when run would create them. */
static bool print_missing(const struct config *c, const struct topic_list *missing) {
    if (missing->n == 0) {
        puts("runsink's own topics: all there");
        return true;
    }
    printf("runsink's own topics that are missing (%s): %zu\n",
           c->topics_create ? "run creates them" : "CREATE THEM, topics.create is false",
           missing->n);
    for (size_t i = 0; i < missing->n; i++)
        printf("  %s, %d partitions\n", missing->v[i].name, missing->v[i].partitions);
    return c->topics_create;
}

static void print_state(const struct config *c, const rd_kafka_ConsumerGroupDescription_t *g) {
    rd_kafka_consumer_group_state_t state = rd_kafka_ConsumerGroupDescription_state(g);
    /* What a broker says of a group that it has never heard of. */
    if (state == RD_KAFKA_CONSUMER_GROUP_STATE_DEAD)
        printf("\ngroup %s: not there yet\n", c->group);
    else
        printf("\ngroup %s: %s, %zu members\n", c->group, rd_kafka_consumer_group_state_name(state),
               rd_kafka_ConsumerGroupDescription_member_count(g));
}

static bool print_group(rd_kafka_t *rk, const struct config *c) {
    char why[256];
    const char *groups[] = {c->group};
    rd_kafka_AdminOptions_t *options =
        rd_kafka_AdminOptions_new(rk, RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS);
    rd_kafka_AdminOptions_set_request_timeout(options, TIMEOUT_MS, why, sizeof why);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_DescribeConsumerGroups(rk, groups, 1, options, queue);
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, TIMEOUT_MS + 1000);
    rd_kafka_resp_err_t rc = event ? rd_kafka_event_error(event) : RD_KAFKA_RESP_ERR__TIMED_OUT;
    size_t n = 0;
    const rd_kafka_ConsumerGroupDescription_t **all =
        rc ? NULL
           : rd_kafka_DescribeConsumerGroups_result_groups(
                 rd_kafka_event_DescribeConsumerGroups_result(event), &n);
    if (!rc && n == 1) rc = rd_kafka_error_code(rd_kafka_ConsumerGroupDescription_error(all[0]));
    if (!rc && n == 1)
        print_state(c, all[0]);
    else
        fprintf(stderr, "runsink check: can't describe group %s: %s\n", c->group,
                rd_kafka_err2str(rc));
    rd_kafka_event_destroy(event);
    rd_kafka_queue_destroy(queue);
    rd_kafka_AdminOptions_destroy(options);
    return !rc && n == 1;
}

/* A line for a partition; its lag is added to *total. */
static rd_kafka_resp_err_t print_partition(rd_kafka_t *rk, const rd_kafka_topic_partition_t *p,
                                           int64_t *total) {
    int64_t low, high;
    rd_kafka_resp_err_t rc =
        rd_kafka_query_watermark_offsets(rk, p->topic, p->partition, &low, &high, TIMEOUT_MS);
    if (rc) return rc;
    bool none = p->offset < 0;
    int64_t lag = high - (none || p->offset < low ? low : p->offset);
    char committed[32] = "none";
    if (!none) snprintf(committed, sizeof committed, "%lld", (long long)p->offset);
    printf("  %s/%d: committed %s, available %lld to %lld, lag %lld%s\n", p->topic,
           (int)p->partition, committed, (long long)low, (long long)high, (long long)lag,
           !none && p->offset < low ? ", RECORDS LOST TO RETENTION" : "");
    *total += lag;
    return RD_KAFKA_RESP_ERR_NO_ERROR;
}

static bool print_lag(rd_kafka_t *rk, const struct topic_list *sources) {
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new(16);
    for (size_t i = 0; i < sources->n; i++)
        if (sources->v[i].partitions)
            rd_kafka_topic_partition_list_add_range(l, sources->v[i].name, 0,
                                                    sources->v[i].partitions - 1);
    int64_t total = 0;
    rd_kafka_resp_err_t rc = l->cnt ? rd_kafka_committed(rk, l, TIMEOUT_MS) : 0;
    for (int i = 0; !rc && i < l->cnt; i++) rc = print_partition(rk, &l->elems[i], &total);
    if (rc)
        fprintf(stderr, "runsink check: can't read offsets: %s\n", rd_kafka_err2str(rc));
    else
        printf("  lag in all: %lld\n", (long long)total);
    rd_kafka_topic_partition_list_destroy(l);
    return !rc;
}

static int check_broker(const struct config *c, rd_kafka_t *rk, struct buf *err) {
    struct topic_list all = {0}, sources = {0}, missing = {0};
    int rc = EX_UNAVAILABLE;
    if (!topics_list(rk, TIMEOUT_MS, &all, err)) goto out;
    rc = EX_CONFIG;
    if (!topics_resolve(c, &all, &sources, err)) goto out;
    if (!topics_missing(c, &all, &sources, &missing, err)) goto out;
    rc = print_topics(&sources) ? EX_OK : EX_UNAVAILABLE;
    if (!print_missing(c, &missing)) rc = EX_CONFIG;
    if (!print_group(rk, c) || !print_lag(rk, &sources)) rc = EX_UNAVAILABLE;
out:
    topic_list_free(&all);
    topic_list_free(&sources);
    topic_list_free(&missing);
    return rc;
}

/* A member of no group: it only asks. */
static rd_kafka_t *connect_broker(const struct config *c, struct buf *err) {
    char why[256];
    rd_kafka_conf_t *conf =
        kafka_conf_new(c, (const char *const[]){"group.id", c->group, NULL}, err);
    if (!conf) return NULL;
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof why);
    if (!rk) {
        buf_printf(err, "[kafka]: %s\n", why);
        rd_kafka_conf_destroy(conf);
    }
    return rk;
}

static int check(const struct config *c, bool connect, struct buf *err) {
    int rc = EX_CONFIG;
    config_print(c, stdout);
    rd_kafka_t *rk = connect_broker(c, err);
    if (rk && !connect)
        rc = EX_OK;
    else if (rk && config_check_run(c, err))
        rc = check_broker(c, rk, err);
    if (rk) rd_kafka_destroy(rk);
    return rc;
}

int command_check(struct config *unused, int argc, char **argv) {
    (void)unused;
    const char *option = argc > 1 ? argv[1] : "";
    bool config_only = strcmp(option, "--config-only") == 0;
    if (argc == 2 && strcmp(option, "--reference") == 0)
        return config_print_reference(stdout), EX_OK;
    if (argc == 2 && strcmp(option, "--reference-metrics") == 0)
        return metrics_print_reference(stdout), EX_OK;
    if (argc == 2 && strcmp(option, "--reference-ini") == 0) return config_print_ini(stdout), EX_OK;
    if (argc > 1 + config_only) return command_usage("check", "unknown argument");
    struct config *c = command_config();
    if (!c) return EX_CONFIG;
    struct buf err;
    buf_init(&err, 65536);
    int rc = check(c, !config_only, &err);
    fflush(stdout);
    fputs(buf_cstr(&err), stderr);
    buf_free(&err);
    config_free(c);
    return rc;
}
