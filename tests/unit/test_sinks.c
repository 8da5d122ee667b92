/* The table of kinds of sink, with those for tests in it, and what these play. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <unistd.h>

#include "config/config.h"
#include "seen.h"
#include "tests/sinks/scripted.h"

static bool parse(const char *json, struct destination *ret, struct outcome *reterr) {
    cJSON *sink = cJSON_Parse(json);
    assert_non_null(sink);
    *ret = (struct destination){.type = &scripted_sink};
    bool ok = scripted_sink.parse(NULL, sink, ret, reterr);
    cJSON_Delete(sink);
    return ok;
}

static void drop(struct destination *d) {
    d->type->free_config(d->config);
    free(d->prefix);
}

static void types_have_names_and_places(void **state) {
    (void)state;
    static const char *const names[] = {"s3", "webhook", "file", "null", "scripted"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        assert_ptr_equal(sink_type_named(names[i]), sink_types[i]);
        assert_int_equal(sink_type_index(sink_types[i]), i);
        assert_true(i < SINK_TYPES_MAX);
    }
    assert_null(sink_types[sizeof names / sizeof *names]);
    assert_null(sink_type_named("S3"));
}

static void each_type_has_its_retry_window(void **state) {
    (void)state;
    const struct config cfg = {
        .retry_window_s3 = 3, .retry_window_webhook = 2, .retry_window_file = 5};
    static const int64_t want[] = {3, 2, 5, 3, 3};
    for (size_t i = 0; sink_types[i]; i++)
        assert_int_equal(sink_types[i]->retry_window_ms(&cfg), want[i]);
}

static void null_takes_everything(void **state) {
    (void)state;
    struct sink_env env = {0};
    const struct sink_type *null = sink_type_named("null");
    struct seen s = {0};
    struct batch a = {.key = "a", .done = done, .owner = &s}, b = a;
    null->submit(&env, &a);
    null->submit(&env, &b);
    assert_int_equal(s.calls, 0);
    assert_int_equal(null->tick(&env, 0), -1);
    assert_int_equal(s.calls, 2);
    assert_int_equal(s.outcome.verdict, VERDICT_OK);
    null->submit(&env, &a);
    null->close(&env);
    assert_int_equal(s.calls, 3);
}

static uint32_t last_attempt;
static void observe(const struct batch *b, uint32_t attempt, const struct outcome *o) {
    (void)b, (void)o;
    last_attempt = attempt;
}

static void script_is_played_by_key(void **state) {
    (void)state;
    struct sink_env env = {0};
    struct destination d;
    struct outcome err;
    assert_false(parse("{\"outcomes\":[\"explode\"]}", &d, &err));
    assert_false(parse("{\"outcomes\":[]}", &d, &err));
    assert_true(
        parse("{\"outcomes\":[\"retry\",\"credential\",\"retry-after:9\",\"ok\"]}", &d, &err));
    scripted_observer = observe;
    static const enum verdict want[] = {VERDICT_RETRY, VERDICT_PERMANENT, VERDICT_RETRY, VERDICT_OK,
                                        VERDICT_OK};
    for (uint32_t i = 0; i < 5; i++)
        for (int key = 0; key < 2; key++) {
            struct seen s = {0};
            struct batch b = {.dest = &d, .key = key ? "k" : "j", .done = done, .owner = &s};
            scripted_sink.submit(&env, &b);
            assert_int_equal(s.calls, 0);
            scripted_sink.tick(&env, 0);
            assert_int_equal(s.calls, 1);
            assert_int_equal(s.outcome.verdict, want[i]);
            assert_int_equal(s.outcome.credential, i == 1);
            assert_int_equal(s.outcome.retry_after_ms, i == 2 ? 9 : 0);
            assert_int_equal(last_attempt, i + 1);
        }
    scripted_observer = NULL;
    drop(&d);
}

static void hang_and_slow(void **state) {
    (void)state;
    struct sink_env env = {0};
    struct destination d;
    struct outcome err;
    assert_true(parse("{\"outcomes\":[\"slow:30\",\"hang\"]}", &d, &err));
    struct seen s = {0};
    struct batch b = {.dest = &d, .key = "k", .done = done, .owner = &s};
    scripted_sink.submit(&env, &b);
    int wait = scripted_sink.tick(&env, 0);
    assert_in_range(wait, 1, 30);
    usleep(35000);
    assert_int_equal(s.calls, 0);
    assert_int_equal(scripted_sink.tick(&env, 0), -1);
    assert_int_equal(s.calls, 1);
    scripted_sink.submit(&env, &b);
    assert_int_equal(scripted_sink.tick(&env, 0), -1);
    assert_int_equal(s.calls, 1);
    scripted_sink.cancel(&env, &b);
    assert_int_equal(s.calls, 1);
    scripted_sink.tick(&env, 0);
    assert_int_equal(s.calls, 2);
    assert_string_equal(s.outcome.why, "cancelled");
    scripted_sink.submit(&env, &b);
    scripted_sink.close(&env);
    assert_int_equal(s.calls, 3);
    drop(&d);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(types_have_names_and_places),
        cmocka_unit_test(each_type_has_its_retry_window),
        cmocka_unit_test(null_takes_everything),
        cmocka_unit_test(script_is_played_by_key),
        cmocka_unit_test(hang_and_slow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
