/* worker/admin/metrics.h and what of worker/admin/admin.h is pure: sums over lanes, the text
 * format, addresses, health and readiness. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "sinks/sink.h"
#include "worker/admin/admin.h"
#include "worker/admin/metrics.h"
#include "worker/base/failures.h"
#include "worker/pipeline/lane.h"

enum { NO_SINK, S3 };

static struct counters *lane_counters(void) {
    return xcalloc(1, sizeof(struct counters));
}

static const char *text_of(struct counters *const *lanes, size_t n, struct buf *out) {
    struct metrics_sums *sums = xcalloc(1, sizeof *sums);
    for (size_t i = 0; i < n; i++) metrics_add(sums, lanes[i]);
    buf_init(out, 1 << 20);
    metrics_print(sums, out);
    free(sums);
    return buf_cstr(out);
}

/* line stands in text as a whole line */
static bool has_line(const char *text, const char *line) {
    size_t n = strlen(line);
    for (const char *at = text; (at = strstr(at, line)); at++)
        if ((at == text || at[-1] == '\n') && at[n] == '\n') return true;
    return false;
}

static void test_sums(void **state) {
    (void)state;
    struct counters *lanes[2] = {lane_counters(), lane_counters()};
    count(lanes[0], COUNTER_RECORDS, 40);
    count(lanes[1], COUNTER_RECORDS, 2);
    count_by(lanes[0], COUNTER_DELIVERED, S3, 5);
    count_by(lanes[1], COUNTER_DELIVERED, S3, 6);
    count_by(lanes[1], COUNTER_DEAD_DATA, NO_SINK, 3);
    count_set(lanes[0], COUNTER_HELD_BYTES, 100);
    count_set(lanes[1], COUNTER_HELD_BYTES, 20);
    count_set(lanes[0], COUNTER_OLDEST_MS, 1500);
    count_set(lanes[1], COUNTER_OLDEST_MS, 70);
    assert_int_equal(count_get(lanes[1], COUNTER_DELIVERED), 6);
    struct buf out;
    const char *text = text_of(lanes, 2, &out);
    const char *const lines[] = {
        "# TYPE runsink_records_total counter",
        "runsink_records_total 42",
        "runsink_outcomes_total{outcome=\"delivered\",fault=\"none\",sink=\"s3\"} 11",
        "runsink_outcomes_total{outcome=\"dead\",fault=\"data\",sink=\"none\"} 3",
        "runsink_outcomes_total{outcome=\"dead\",fault=\"data\",sink=\"webhook\"} 0",
        "# TYPE runsink_memory_held_bytes gauge",
        "runsink_memory_held_bytes 120",
        "runsink_oldest_unsettled_seconds 1.500", /* the greatest, not the sum */
        "runsink_transactions_total{result=\"failed\"} 0",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!has_line(text, lines[i])) fail_msg("not there: %s\nin:\n%s", lines[i], text);
    buf_free(&out);
    free(lanes[0]);
    free(lanes[1]);
}

static void test_histogram(void **state) {
    (void)state;
    struct counters *c = lane_counters();
    /* On a bound counts below it; the last is beyond all bounds. */
    const int64_t us[] = {0, 5000, 5001, 60000000, 60000001, -7};
    for (size_t i = 0; i < sizeof us / sizeof *us; i++)
        observe_us(c, HISTOGRAM_DELIVERY, S3, us[i]);
    observe_us(c, HISTOGRAM_SETTLEMENT, NO_SINK, 1250000);
    /* Ages have bounds of their own. */
    observe_us(c, HISTOGRAM_FRESHNESS, S3, INT64_C(600000000));
    observe_us(c, HISTOGRAM_FRESHNESS, S3, INT64_C(86400000001));
    struct buf out;
    const char *text = text_of(&c, 1, &out);
    const char *const lines[] = {
        "# TYPE runsink_delivery_seconds histogram",
        "runsink_delivery_seconds_bucket{sink=\"s3\",le=\"0.005\"} 3",
        "runsink_delivery_seconds_bucket{sink=\"s3\",le=\"0.01\"} 4",
        "runsink_delivery_seconds_bucket{sink=\"s3\",le=\"30\"} 4",
        "runsink_delivery_seconds_bucket{sink=\"s3\",le=\"60\"} 5",
        "runsink_delivery_seconds_bucket{sink=\"s3\",le=\"+Inf\"} 6",
        "runsink_delivery_seconds_sum{sink=\"s3\"} 120.010002",
        "runsink_delivery_seconds_count{sink=\"s3\"} 6",
        "runsink_delivery_seconds_count{sink=\"webhook\"} 0",
        "runsink_settlement_seconds_bucket{le=\"1\"} 0",
        "runsink_settlement_seconds_bucket{le=\"2.5\"} 1",
        "runsink_settlement_seconds_sum 1.250000",
        "runsink_freshness_seconds_bucket{sink=\"s3\",le=\"300\"} 0",
        "runsink_freshness_seconds_bucket{sink=\"s3\",le=\"900\"} 1",
        "runsink_freshness_seconds_bucket{sink=\"s3\",le=\"86400\"} 1",
        "runsink_freshness_seconds_bucket{sink=\"s3\",le=\"+Inf\"} 2",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
        if (!has_line(text, lines[i])) fail_msg("not there: %s\nin:\n%s", lines[i], text);
    buf_free(&out);
    free(c);
}

/* Each family stands once, with its head before its first sample; nothing hidden shows. */
static void test_families(void **state) {
    (void)state;
    struct counters *c = lane_counters();
    struct buf out;
    const char *text = text_of(&c, 1, &out);
    size_t heads = 0;
    for (const char *at = text; (at = strstr(at, "# HELP ")); at++) {
        char head[128];
        size_t n = strcspn(at + 7, " ");
        snprintf(head, sizeof head, "# HELP %.*s ", (int)n, at + 7);
        assert_true(at[7 + n + 1] != '\n');
        assert_null(strstr(at + 1, head));
        heads++;
    }
    assert_true(heads > 20);
    for (const char *line = text; *line; line = strchr(line, '\n') + 1)
        assert_true(line[0] == '#' || strncmp(line, "runsink_", 8) == 0);
    buf_free(&out);
    free(c);
}

static void test_labels(void **state) {
    (void)state;
    struct buf out;
    buf_init(&out, 4096);
    metrics_sample(GIVEN_LAG, 1e9, &out, "topic", "a\"b\\c\nd", "partition", "7", NULL);
    assert_string_equal(
        buf_cstr(&out),
        "runsink_partition_lag_records{topic=\"a\\\"b\\\\c\\nd\",partition=\"7\"} 1000000000\n");
    buf_free(&out);
}

/* A closed list: what a store or an endpoint says of itself has no reason of its own. */
static void test_failures(void **state) {
    (void)state;
    const struct {
        const char *why, *reason;
    } cases[] = {
        {"dns", "dns"},
        {"http-503", "http-5xx"},
        {"http-418", "http-4xx"},
        {"http-302", "http-3xx"},
        {"http-999", "other"},
        {"http-", "other"},
        {"http-429", "throttled"},
        {"SlowDown", "throttled"},
        {"AccessDenied", "credentials"},
        {"NoSuchBucket", "no-such-place"},
        {"proxy-502", "proxy"},
        {"proxy-dns", "proxy"},
        {"invalid-json", "not-json"},
        {"NoSuch", "other"}, /* a part of a token is none */
        {"dn", "other"},
        {"timeout slow", "other"},
        {"", "other"},
        {"AKIAIOSFODNN7EXAMPLE", "other"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(failure_reason(cases[i].why), cases[i].reason);
    assert_int_equal(failure_counter("dns"), COUNTER_FAILED_DNS);
}

static void test_every_sink_has_a_slot(void **state) {
    (void)state;
    size_t n = 0;
    while (sink_types[n]) n++;
    assert_true(n < SINK_SLOTS);
    assert_string_equal(sink_types[S3 - 1]->name, "s3");
}

/* null and scripted are the tests' own, and no variable brings them into the program. */
static void test_types_for_tests_can_not_be_named(void **state) {
    (void)state;
    setenv("RUNSINK_TEST_SINKS", "1", 1); /* once a switch */
    assert_non_null(sink_type_named("s3"));
    assert_non_null(sink_type_named("file"));
    assert_null(sink_type_named("null"));
    assert_null(sink_type_named("scripted"));
    unsetenv("RUNSINK_TEST_SINKS");
}

static void test_addresses(void **state) {
    (void)state;
    const struct {
        const char *text, *host, *port; /* host NULL: refused */
    } cases[] = {
        {"127.0.0.1:9464", "127.0.0.1", "9464"},
        {":9464", "", "9464"},
        {"[::1]:80", "::1", "80"},
        {"localhost:65535", "localhost", "65535"},
        {"[::]:1", "::", "1"},
        {"9464", NULL, NULL},
        {"::1:80", NULL, NULL},
        {"127.0.0.1:", NULL, NULL},
        {"127.0.0.1:123456", NULL, NULL},
        {"127.0.0.1:65536", NULL, NULL},
        {"127.0.0.1:8o", NULL, NULL},
        {"", NULL, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char host[CONFIG_HOST_MAX], port[6];
        bool ok = config_address(cases[i].text, host, port);
        if (ok != (cases[i].host != NULL)) fail_msg("%s: %d", cases[i].text, ok);
        if (!ok) continue;
        assert_string_equal(host, cases[i].host);
        assert_string_equal(port, cases[i].port);
    }
    char longest[CONFIG_HOST_MAX + 8], host[CONFIG_HOST_MAX], port[6];
    memset(longest, 'a', sizeof longest);
    memcpy(longest + CONFIG_HOST_MAX, ":80", 4);
    assert_false(config_address(longest, host, port));
}

struct two_lanes {
    struct lane *v[2];
};

static struct two_lanes lanes_new(void) {
    struct two_lanes l = {.v = {xcalloc(1, sizeof(struct lane)), xcalloc(1, sizeof(struct lane))}};
    for (size_t i = 0; i < 2; i++) count_set(&l.v[i]->counters, COUNTER_ASSIGNED, 1);
    return l;
}

static void lanes_free(struct two_lanes *l) {
    free(l->v[0]);
    free(l->v[1]);
}

static void test_health(void **state) {
    (void)state;
    struct two_lanes l = lanes_new();
    count_set(&l.v[0]->counters, COUNTER_TURN_MS, 99000);
    count_set(&l.v[1]->counters, COUNTER_TURN_MS, 38000);
    assert_int_equal(admin_silence_ms(l.v, 2, 1000, 100000), 62000); /* the most silent counts */
    count_set(&l.v[1]->counters, COUNTER_TURN_MS, 0); /* has not turned since the start */
    assert_int_equal(admin_silence_ms(l.v, 2, 97000, 100000), 3000);
    atomic_store(&l.v[1]->state, LANE_FINISHED); /* and one that has ended does not */
    assert_int_equal(admin_silence_ms(l.v, 2, 1000, 100000), 1000);
    lanes_free(&l);
}

static void test_readiness(void **state) {
    (void)state;
    struct two_lanes l = lanes_new();
    struct worker_shared shared = {.mutex = PTHREAD_MUTEX_INITIALIZER};
    l.v[0]->shared = l.v[1]->shared = &shared;
    assert_null(admin_not_ready(l.v, 2));
    count_set(&l.v[1]->counters, COUNTER_UNLOADED, 1);
    assert_non_null(strstr(admin_not_ready(l.v, 2), "committed offset"));
    count_set(&l.v[1]->counters, COUNTER_ASSIGNED, 0);
    assert_non_null(strstr(admin_not_ready(l.v, 2), "nothing to read"));
    shared.topics.n = 1;
    assert_non_null(strstr(admin_not_ready(l.v, 2), "no assignment"));
    atomic_store(&l.v[0]->command, LANE_DRAIN);
    assert_non_null(strstr(admin_not_ready(l.v, 2), "draining"));
    atomic_store(&l.v[0]->command, LANE_GO);
    atomic_store(&l.v[0]->state, LANE_FAILED);
    assert_non_null(strstr(admin_not_ready(l.v, 2), "draining"));
    lanes_free(&l);
}

/* Worst first: an open breaker before any number of failures before trouble that is over. */
static void test_order_of_destinations(void **state) {
    (void)state;
    struct snapshot_destination d[] = {
        {.label = "well", .health = {.delivered = 1000}},
        {.label = "parked", .health = {.parked = 900}},
        {.label = "failing", .health = {.failures = 3, .failed = 3}},
        {.label = "open", .health = {.open = true, .failures = 1, .failed = 1}},
        {.label = "failing more", .health = {.failures = 4, .failed = 4}},
    };
    const char *const order[] = {"open", "failing more", "failing", "parked", "well"};
    qsort(d, 5, sizeof *d, snapshot_worse);
    for (size_t i = 0; i < 5; i++) assert_string_equal(d[i].label, order[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sums),
        cmocka_unit_test(test_histogram),
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_labels),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_every_sink_has_a_slot),
        cmocka_unit_test(test_types_for_tests_can_not_be_named),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_health),
        cmocka_unit_test(test_readiness),
        cmocka_unit_test(test_order_of_destinations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
