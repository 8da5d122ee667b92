/* worker/pipeline/backlog.h: what waits is counted by when it is due. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "worker/pipeline/backlog.h"

enum { LONGEST = 120000, EVENTS = 2000 };
static const int64_t start = 1700000000000;

static void test_nothing_waits(void **state) {
    (void)state;
    struct backlog b = {0};
    assert_int_equal(backlog_count(&b, start), 0);
    backlog_take(&b, start);
    assert_int_equal(backlog_count(&b, start), 0);
}

/* Never fewer than are not due yet, never one for longer than two of its spans. */
static void test_against_a_list(void **state) {
    (void)state;
    struct backlog b = {0};
    int64_t due[EVENTS], now = start;
    const int64_t span = LONGEST / 9 + 1;
    srand(1);
    for (int i = 0; i < EVENTS; i++) {
        now += rand() % 500;
        due[i] = now + rand() % (LONGEST + 1);
        backlog_add(&b, LONGEST, due[i], now);
        uint64_t least = 0, most = 0;
        for (int j = 0; j <= i; j++) {
            least += due[j] >= now;
            most += due[j] > now - 2 * span;
        }
        assert_in_range(backlog_count(&b, now), least, most);
    }
    assert_int_equal(backlog_count(&b, now + LONGEST + 2 * span), 0);
}

static void test_what_comes_back_is_taken_off(void **state) {
    (void)state;
    struct backlog b = {0};
    for (int i = 0; i < 100; i++) backlog_add(&b, LONGEST, start + i * 1000, start);
    for (int i = 0; i < 100; i++) {
        assert_int_equal(backlog_count(&b, start), 100 - i);
        backlog_take(&b, start + i * 1000);
        backlog_take(&b, start + 3 * LONGEST); /* parked by another process: nothing to take off */
    }
    assert_int_equal(backlog_count(&b, start), 0);
    backlog_take(&b, start);
    assert_int_equal(backlog_count(&b, start), 0);
}

/* Other delays after SIGHUP, and a clock that is set. */
static void test_begins_anew(void **state) {
    (void)state;
    struct backlog b = {0};
    backlog_add(&b, LONGEST, start + 1000, start);
    backlog_add(&b, LONGEST / 2, start + 1000, start);
    assert_int_equal(backlog_count(&b, start), 1);
    backlog_add(&b, LONGEST / 2, start - 3600000 + 1000, start - 3600000);
    assert_int_equal(backlog_count(&b, start - 3600000), 1);
    backlog_add(&b, LONGEST / 2, start + 3600000, start + 3600000);
    assert_int_equal(backlog_count(&b, start + 3600000), 1);
    backlog_add(&b, LONGEST / 2, start + 7200000, start + 3600000); /* later than can be */
    assert_int_equal(backlog_count(&b, start + 3600000), 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_waits),
        cmocka_unit_test(test_against_a_list),
        cmocka_unit_test(test_what_comes_back_is_taken_off),
        cmocka_unit_test(test_begins_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
