#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "worker/pipeline/watchdog.h"

static void test_stands_still(void **state) {
    (void)state;
    struct stillness s = {0};
    stillness_note(&s, 7, 1000000, 100); /* the first look tells nothing yet */
    assert_int_equal(s.ms, 0);
    for (int i = 1; i <= 10; i++) {
        stillness_note(&s, 7, 1000000 + i * 100, 100);
        assert_int_equal(s.ms, i * 100);
    }
    stillness_note(&s, 8, 1001100, 100); /* a beat, and all is forgotten */
    assert_int_equal(s.ms, 0);
    stillness_note(&s, 8, 1001200, 100);
    assert_int_equal(s.ms, 100);
}

/* A process that was stopped for an hour, or a machine that was frozen: the clock has gone on. */
static void test_a_frozen_watchdog_blames_nobody(void **state) {
    (void)state;
    struct stillness s = {0};
    stillness_note(&s, 7, 1000000, 1000);
    stillness_note(&s, 7, 1001000, 1000);
    stillness_note(&s, 7, 1001000 + 3600000, 1000);
    assert_int_equal(s.ms, 3000);
    stillness_note(&s, 8, 1002000 + 3600000, 1000);
    assert_int_equal(s.ms, 0);
}

static void test_places(void **state) {
    (void)state;
    static struct place p;
    place_topic(&p, "runs", 3);
    uint64_t before = p.beats;
    place_at(&p, STEP_DECODE, 41);
    assert_true(p.beats != before);
    assert_int_equal(p.offset, 41);
    assert_int_equal(p.partition, 3);
    assert_string_equal(p.topic, "runs");
    before = p.beats;
    place_at(&p, STEP_DECODE, 41); /* the same record, but another time */
    assert_true(p.beats != before);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stands_still),
        cmocka_unit_test(test_a_frozen_watchdog_blames_nobody),
        cmocka_unit_test(test_places),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
