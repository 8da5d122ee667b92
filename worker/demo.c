/* `runsink demo`: the whole worker without any service. The broker is a mock in this process, a
 * local folder stands for every tenant's sink, and sample events of several tenants flow through.
 * The mock does not keep offsets that are committed in a transaction, so a second run
 * begins again; it writes the same bytes under the same keys. */
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

#include "worker/base/log.h"
#include "worker/kafka/mock_broker.h"
#include "worker/kafka/topics.h"
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

static bool produce_samples(struct mock_broker *broker) {
    struct buf event;
    buf_init(&event, 65536);
    bool ok = true;
    for (unsigned i = 0; ok && i < EVENTS; i++) {
        buf_clear(&event);
        sample_event(i, &event);
        ok = mock_broker_produce(broker, TOPIC, (int)(i % PARTITIONS),
                                 (struct str){event.p, event.n});
    }
    buf_free(&event);
    return ok && mock_broker_flush(broker);
}

static bool create_topics(struct mock_broker *broker, const struct config *cfg) {
    static const char *const own[] = {TOPIC ".dead.tenant", TOPIC ".dead.data",
                                      TOPIC ".dead.system", TOPIC ".ledger", TOPIC ".outcomes"};
    char name[TOPIC_MAX + 1];
    bool ok = mock_broker_topic(broker, TOPIC, PARTITIONS);
    for (size_t i = 0; ok && i < sizeof own / sizeof *own; i++)
        ok = mock_broker_topic(broker, own[i], PARTITIONS);
    for (size_t i = 0; ok && i < cfg->retry_delays.n; i++)
        ok = topic_retry(TOPIC, cfg->retry_delays.v[i], name) &&
             mock_broker_topic(broker, name, PARTITIONS);
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
    cfg->broker_forgets = true;
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
    struct mock_broker *broker = mock_broker_start();
    if (!broker)
        return fputs("runsink demo: the in-process broker did not start\n", stderr), EX_SOFTWARE;
    struct buf err;
    buf_init(&err, 4096);
    struct config *cfg = demo_config(mock_broker_bootstrap(broker), dir, batch, &err);
    int rc = EX_SOFTWARE;
    uint64_t totals[COUNTERS] = {0};
    if (!cfg || !create_topics(broker, cfg) || !produce_samples(broker)) {
        if (!err.n) buf_puts(&err, "producing failed");
        command_error("demo", &err);
    } else {
        printf("%d sample events of %zu tenants are in the in-process broker; delivering them\n",
               EVENTS, sizeof tenants / sizeof *tenants);
        fflush(stdout);
        rc = run_worker(cfg, NULL, true, totals);
    }
    config_free(cfg);
    buf_free(&err);
    mock_broker_stop(broker);
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
    bool batch = false;
    const struct command_option options[] = {{"--dir", .text = &dir}, {"--batch", .flag = &batch}};
    int rc = command_options("demo", options, 2, argc, argv, NULL);
    if (rc != EX_OK) return rc;
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
    rc = demo(path, batch);
    free(path);
    return rc;
}
