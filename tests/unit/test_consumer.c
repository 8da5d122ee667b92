/* How a consumer ends, against a broker in this process. */
#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>
#include <librdkafka/rdkafka.h>

#include "config/config.h"
#include "worker/base/clock.h"
#include "worker/kafka/consumer.h"
#include "worker/kafka/mock_broker.h"

#define PARTITIONS 3
#define JOIN_MAX_MS 30000

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t opened = PTHREAD_COND_INITIALIZER;
static bool stuck, was_asked;

/* Stands before librdkafka's own, which was seen not to return amid the end. */
rd_kafka_resp_err_t rd_kafka_assign(rd_kafka_t *rk, const rd_kafka_topic_partition_list_t *list) {
    rd_kafka_resp_err_t (*real)(rd_kafka_t *, const rd_kafka_topic_partition_list_t *);
    *(void **)&real = dlsym(RTLD_NEXT, "rd_kafka_assign");
    pthread_mutex_lock(&lock);
    was_asked = true;
    while (stuck) pthread_cond_wait(&opened, &lock);
    pthread_mutex_unlock(&lock);
    return real(rk, list);
}

static void be_stuck(bool now) {
    pthread_mutex_lock(&lock);
    stuck = now;
    was_asked = false;
    pthread_cond_broadcast(&opened);
    pthread_mutex_unlock(&lock);
}

struct seen {
    size_t assigned, revoked;
    pthread_t revoker;
};

static void on_assigned(void *context, const struct assigned *v, size_t n) {
    struct seen *seen = context;
    for (size_t i = 0; i < n; i++) feed_start(v[i].feed, FEED_BEGINNING);
    seen->assigned += n;
}

static void on_revoked(void *context, struct feed *const *v, size_t n, bool lost, bool all) {
    struct seen *seen = context;
    (void)v;
    assert_false(lost);
    assert_true(all);
    seen->revoked += n;
    seen->revoker = pthread_self();
}

static void on_client_failed(void *context, enum broker_fault fault, const char *error) {
    (void)context;
    (void)fault;
    (void)error;
}

static const struct consumer_events events = {
    .assigned = on_assigned, .revoked = on_revoked, .client_failed = on_client_failed};

static struct consumer *joined(const struct mock_broker *broker, int wake_fd, struct seen *seen) {
    static const char *const topics[] = {"runs"};
    struct buf err;
    buf_init(&err, 4096);
    struct config *cfg = config_new();
    assert_true(
        config_set(cfg, "kafka.bootstrap.servers", mock_broker_bootstrap(broker), "test", &err));
    assert_true(config_set(cfg, "group", "g", "test", &err));
    struct consumer *c = consumer_new(cfg, 0, PARTITIONS, wake_fd, &events, seen, &err);
    if (!c) fail_msg("%s", buf_cstr(&err));
    consumer_subscribe(c, topics, 1);
    int64_t end_ms = clock_ms(CLOCK_MONOTONIC) + JOIN_MAX_MS;
    while (seen->assigned < PARTITIONS && clock_ms(CLOCK_MONOTONIC) < end_ms) {
        uint64_t n;
        struct pollfd p = {.fd = wake_fd, .events = POLLIN};
        if (poll(&p, 1, 1000) == 1) assert_int_equal(read(wake_fd, &n, sizeof n), sizeof n);
        consumer_poll(c);
    }
    assert_int_equal(seen->assigned, PARTITIONS);
    config_free(cfg);
    buf_free(&err);
    return c;
}

static void end(bool is_stuck) {
    static struct mock_broker *broker; /* stays where librdkafka still uses it */
    struct seen seen = {0};
    broker = mock_broker_start();
    assert_non_null(broker);
    assert_true(mock_broker_topic(broker, "runs", PARTITIONS));
    int wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct consumer *c = joined(broker, wake_fd, &seen);
    be_stuck(is_stuck);
    int64_t start_ms = clock_ms(CLOCK_MONOTONIC);
    consumer_close(c);
    int64_t took_ms = clock_ms(CLOCK_MONOTONIC) - start_ms;
    assert_int_equal(seen.revoked, PARTITIONS);
    assert_true(pthread_equal(seen.revoker, pthread_self()));
    assert_true(was_asked);
    if (is_stuck)
        assert_in_range(took_ms, CONSUMER_CLOSE_MS - 1000, CONSUMER_CLOSE_MS + 5000);
    else
        assert_in_range(took_ms, 0, CONSUMER_CLOSE_MS - 1000);
    consumer_free(c, false);
    be_stuck(false);
    if (is_stuck) return; /* librdkafka still uses the rest */
    close(wake_fd);
    mock_broker_stop(broker);
}

static void test_leaves(void **state) {
    (void)state;
    end(false);
}

static void test_a_callback_that_never_returns(void **state) {
    (void)state;
    end(true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_leaves),
        cmocka_unit_test(test_a_callback_that_never_returns),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
