/* What [kafka] may set and what it may not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "worker/kafka/client.h"

static const char *value_of(rd_kafka_conf_t *conf, const char *name) {
    static char value[512];
    size_t n = sizeof value;
    assert_int_equal(rd_kafka_conf_get(conf, name, value, &n), RD_KAFKA_CONF_OK);
    return value;
}

static void test_layers(void **state) {
    (void)state;
    struct buf err;
    buf_init(&err, 4096);
    struct config *c = config_new();
    assert_true(config_set(c, "kafka.bootstrap.servers", "b:1", "test", &err));
    assert_true(config_set(c, "kafka.client.id", "mine", "test", &err));
    assert_true(config_set(c, "kafka.retry.backoff.ms", "77", "test", &err));
    const char *const extra[] = {"group.id", "g", "retry.backoff.ms", "5", "linger.ms", "3", NULL};
    rd_kafka_conf_t *conf = client_conf_new(c, extra, &err);
    if (!conf) fail_msg("%s", buf_cstr(&err));
    assert_string_equal(value_of(conf, "bootstrap.servers"), "b:1");
    assert_string_equal(value_of(conf, "client.id"), "mine");      /* over the default */
    assert_string_equal(value_of(conf, "retry.backoff.ms"), "77"); /* over extra */
    assert_string_equal(value_of(conf, "linger.ms"), "3");         /* extra */
    assert_string_equal(value_of(conf, "group.id"), "g");
    assert_string_equal(value_of(conf, "enable.auto.commit"), "false");
    assert_string_equal(value_of(conf, "isolation.level"), "read_committed");
    assert_string_equal(value_of(conf, "partition.assignment.strategy"), "cooperative-sticky");
    rd_kafka_conf_destroy(conf);
    config_free(c);
    buf_free(&err);
}

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *name, *value, *want;
    } cases[] = {
        {"kafka.enable.auto.commit", "true",
         "x: kafka.enable.auto.commit: can't be set: offsets are committed in the transaction that "
         "settles them\n"},
        {"kafka.enable.auto.commit", "false", "x: kafka.enable.auto.commit: can't be set: "},
        {"kafka.transactional.id", "t",
         "x: kafka.transactional.id: can't be set: runsink has a key "
         "of its own for it: slot\n"},
        {"kafka.group.id", "g", "x: kafka.group.id: can't be set: "},
        {"kafka.isolation.level", "read_uncommitted", "x: kafka.isolation.level: can't be set: "},
        {"kafka.auto.offset.reset", "earliest", "x: kafka.auto.offset.reset: can't be set: "},
        {"kafka.enable.idempotence", "false", "x: kafka.enable.idempotence: can't be set: "},
        {"kafka.max.in.flight", "5", "x: kafka.max.in.flight: can't be set: "},
        {"kafka.max.in.flight.requests.per.connection", "5",
         "x: kafka.max.in.flight.requests.per.connection: can't be set: "},
        {"kafka.no.such.thing", "1",
         "x: kafka.no.such.thing: this librdkafka has no such property\n"},
        {"kafka.socket.timeout.ms", "hello", "x: kafka.socket.timeout.ms: "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf err;
        buf_init(&err, 4096);
        struct config *c = config_new();
        assert_true(config_set(c, cases[i].name, cases[i].value, "x", &err));
        rd_kafka_conf_t *conf = client_conf_new(c, NULL, &err);
        assert_null(conf);
        assert_true(str_starts((struct str){buf_cstr(&err), err.n}, cases[i].want));
        config_free(c);
        buf_free(&err);
    }
}

/* A batch that was parked into a topic just made came back without its first record, although the
 * transaction had been committed. */
static void test_no_request_overtakes_another(void **state) {
    (void)state;
    struct buf err;
    buf_init(&err, 4096);
    struct config *c = config_new();
    const char *const extra[] = {"transactional.id", "t", CLIENT_ONE_IN_FLIGHT, NULL};
    rd_kafka_conf_t *conf = client_conf_new(c, extra, &err);
    if (!conf) fail_msg("%s", buf_cstr(&err));
    assert_string_equal(value_of(conf, "max.in.flight.requests.per.connection"), "1");
    rd_kafka_conf_destroy(conf);
    config_free(c);
    buf_free(&err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_no_request_overtakes_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
