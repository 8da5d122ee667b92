/* `runsink demo`: the whole worker without any service. librdkafka's in-process mock cluster is the
 * broker, a local folder stands for every tenant's sink, and sample events of several tenants flow
 * through. The mock does not keep offsets that are committed in a transaction, so a second run
 * begins again; it writes the same bytes under the same keys. */
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

#include "worker/base/log.h"
#include "worker/run.h"
#include "worker/tools/command.h"

#define TOPIC "jobruns"
#define PARTITIONS 3
#define EVENTS 60

/* The sinks of the sample's tenants. All secrets are made up, and none of them may be found in the
 * archive. */
static const char *const sinks[] = {
    "{\"type\":\"s3\",\"bucket\":\"acme-runs\",\"region\":\"eu-central-1\",\"prefix\":\"runs/\","
    "\"accessKeyId\":\"AKIADEMOACME\",\"secretAccessKey\":\"demo-secret-of-acme\"}",
    "{\"type\":\"s3\",\"bucket\":\"globex-archive\",\"region\":\"us-east-1\",\"skipOnFail\":true,"
    "\"accessKeyId\":\"AKIADEMOGLOBEX\",\"secretAccessKey\":\"demo-secret-of-globex\"}",
    "{\"type\":\"webhook\",\"url\":\"https://hooks.initech.example/runs?token=demo-token\","
    "\"headers\":{\"Authorization\":\"Bearer demo-bearer\"}}",
    "null",
    "{\"type\":\"carrier-pigeon\",\"loft\":\"north\"}",
};
static const char *const tenants[] = {"acme", "globex", "initech", "hooli", "umbrella"};
static const char *const statuses[] = {"PENDING", "SUCCESS", "FAILURE", "SUCCESS"};

static void sample_event(unsigned i, struct buf *out) {
    unsigned tenant = i % 5;
    buf_printf(out,
               "{\"id\":\"run-%04u\",\"startTime\":\"2026-01-05T08:00:%02uZ\",\"endTime\":null,"
               "\"workspaceId\":\"%s\",\"projectId\":\"demo\",\"jobId\":\"nightly\","
               "\"createdAt\":\"2026-01-05T08:00:%02uZ\",\"updatedAt\":\"2026-01-05T08:01:%02uZ\","
               "\"type\":\"SCHEDULED\",\"status\":\"%s\",\"payloads\":10,\"successfulRuns\":%u,"
               "\"failedRuns\":%u,\"jobConfigurationSnapshot\":{\"configuration\":{\"retry\":{}},"
               "\"sink\":%s}}",
               i, i % 60, tenants[tenant], i % 60, i % 60, statuses[i / 5 % 4], i % 11, 10 - i % 11,
               sinks[tenant]);
}

static bool produce_samples(rd_kafka_t *rk) {
    struct buf event;
    buf_init(&event, 65536);
    bool ok = true;
    for (unsigned i = 0; ok && i < EVENTS; i++) {
        buf_clear(&event);
        sample_event(i, &event);
        ok = rd_kafka_producev(rk, RD_KAFKA_V_TOPIC(TOPIC),
                               RD_KAFKA_V_PARTITION((int32_t)(i % PARTITIONS)),
                               RD_KAFKA_V_VALUE(event.p, event.n),
                               RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END) == 0;
    }
    buf_free(&event);
    return ok && rd_kafka_flush(rk, 10000) == RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* The mock cluster makes topics as they are asked for, with this many partitions. */
static rd_kafka_t *start_mock(rd_kafka_mock_cluster_t **ret_cluster) {
    char errstr[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_conf_set(conf, "client.id", "demo", errstr, sizeof errstr);
    rd_kafka_conf_set(conf, "log_level", "0", errstr, sizeof errstr);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, errstr, sizeof errstr);
    if (!rk) return NULL;
    *ret_cluster = rd_kafka_mock_cluster_new(rk, 1);
    if (*ret_cluster) return rk;
    rd_kafka_destroy(rk);
    return NULL;
}

static rd_kafka_t *producer_for(const char *bootstrap) {
    char errstr[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    if (rd_kafka_conf_set(conf, "bootstrap.servers", bootstrap, errstr, sizeof errstr) ==
        RD_KAFKA_CONF_OK) {
        rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, errstr, sizeof errstr);
        if (rk) return rk;
    }
    rd_kafka_conf_destroy(conf);
    return NULL;
}

static bool create_topics(rd_kafka_mock_cluster_t *cluster, const struct config *cfg) {
    struct buf name;
    buf_init(&name, 256);
    bool ok = rd_kafka_mock_topic_create(cluster, TOPIC, PARTITIONS, 1) == 0;
    static const char *const own[] = {"dead.tenant", "dead.data", "dead.system", "ledger"};
    for (size_t i = 0; ok && i < sizeof own / sizeof *own; i++) {
        buf_clear(&name);
        buf_printf(&name, TOPIC ".%s", own[i]);
        ok = rd_kafka_mock_topic_create(cluster, buf_cstr(&name), PARTITIONS, 1) == 0;
    }
    for (size_t i = 0; ok && i < cfg->retry_delays.n; i++) {
        buf_clear(&name);
        buf_printf(&name, TOPIC ".retry.%s", cfg->retry_delays.v[i]);
        ok = rd_kafka_mock_topic_create(cluster, buf_cstr(&name), PARTITIONS, 1) == 0;
    }
    buf_free(&name);
    return ok;
}

static struct config *demo_config(const char *bootstrap, const char *dir, bool batch,
                                  struct buf *err) {
    struct config *cfg = config_new();
    struct buf override;
    buf_init(&override, 4096);
    buf_printf(&override, "file:%s", dir);
    bool ok = config_set(cfg, "topics", TOPIC, "demo", err) &&
              config_set(cfg, "kafka.bootstrap.servers", bootstrap, "demo", err) &&
              config_set(cfg, "sink.override", buf_cstr(&override), "demo", err) &&
              config_set(cfg, "archive", batch ? "batch" : "object", "demo", err) &&
              config_set(cfg, "batch.compression", "none", "demo", err) &&
              config_set(cfg, "admin.listen", "", "demo", err) && config_finish(cfg, err);
    buf_free(&override);
    log_setup(LOG_ERROR, false);
    if (ok) return cfg;
    config_free(cfg);
    return NULL;
}

static void summary(const uint64_t t[COUNTERS], const char *dir) {
    unsigned long long dead =
        t[COUNTER_DEAD_TENANT] + t[COUNTER_DEAD_DATA] + t[COUNTER_DEAD_SYSTEM];
    printf("\n%-12s %6llu\n", "records", (unsigned long long)t[COUNTER_RECORDS]);
    printf("%-12s %6llu   each as an object below %s\n", "delivered",
           (unsigned long long)t[COUNTER_DELIVERED], dir);
    printf("%-12s %6llu   no sink, or skipOnFail and a failed run\n", "skipped",
           (unsigned long long)t[COUNTER_SKIPPED]);
    printf("%-12s %6llu   a sink of a type that does not exist\n", "dead letters", dead);
    printf("%-12s %6llu   Kafka transactions, each with its ledger entries\n", "settled in",
           (unsigned long long)t[COUNTER_TRANSACTIONS]);
    printf("\nLook at it:   find %s -type f | head\n"
           "No secret:    grep -rE 'demo-(secret|token|bearer)' %s || echo none\n",
           dir, dir);
}

static int demo(const char *dir, bool batch) {
    rd_kafka_mock_cluster_t *cluster = NULL;
    rd_kafka_t *mock = start_mock(&cluster);
    if (!mock)
        return fputs("runsink demo: the in-process broker did not start\n", stderr), EX_SOFTWARE;
    const char *bootstrap = rd_kafka_mock_cluster_bootstraps(cluster);
    struct buf err;
    buf_init(&err, 4096);
    struct config *cfg = demo_config(bootstrap, dir, batch, &err);
    rd_kafka_t *producer = cfg && create_topics(cluster, cfg) ? producer_for(bootstrap) : NULL;
    int rc = EX_SOFTWARE;
    uint64_t totals[COUNTERS] = {0};
    if (!producer || !produce_samples(producer)) {
        if (!err.n) buf_puts(&err, "producing failed");
        command_error("demo", &err);
    } else {
        printf("%d sample events of %zu tenants are in the in-process broker; delivering them\n",
               EVENTS, sizeof tenants / sizeof *tenants);
        fflush(stdout);
        rc = run_worker(cfg, NULL, true, totals);
    }
    if (producer) rd_kafka_destroy(producer);
    config_free(cfg);
    buf_free(&err);
    rd_kafka_mock_cluster_destroy(cluster);
    rd_kafka_destroy(mock);
    if (rc != EX_OK) return rc;
    summary(totals, dir);
    bool whole = totals[COUNTER_RECORDS] == EVENTS && totals[COUNTER_DELIVERED] > 0 &&
                 totals[COUNTER_DEAD_SYSTEM] == 0 && totals[COUNTER_PARKED] == 0;
    if (!whole) fputs("\nrunsink demo: not all went as it should\n", stderr);
    return whole ? EX_OK : EX_SOFTWARE;
}

int command_demo(struct config *cfg, int argc, char **argv) {
    (void)cfg; /* the table calls it without */
    const char *dir = "runsink-demo";
    bool batch = false, bad = false;
    for (int i = 1; i < argc; i++) {
        const char *v = command_value("--dir", argc, argv, &i, &bad);
        if (v)
            dir = v;
        else if (strcmp(argv[i], "--batch") == 0)
            batch = true;
        else
            return command_usage("demo", "unknown argument \"%.40s\"", argv[i]);
    }
    char *path = dir[0] == '/' ? xstrdup(dir) : NULL;
    if (!path) {
        char *here = realpath(".", NULL);
        struct buf b;
        buf_init(&b, 8192);
        buf_printf(&b, "%s/%s", here ? here : ".", dir);
        path = xstrdup(buf_cstr(&b));
        buf_free(&b);
        free(here);
    }
    int rc = demo(path, batch);
    free(path);
    return rc;
}
