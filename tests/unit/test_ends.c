/* --until-end: what is left of topics that go away or are made anew under the run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "worker/pipeline/ends.h"

static int32_t all_there(const char *topic, const void *unused) {
    (void)topic;
    (void)unused;
    return 8;
}

static int32_t none_there(const char *topic, const void *unused) {
    (void)topic;
    (void)unused;
    return 0;
}

static int setup(void **state) {
    struct ends *ends = ends_new();
    ends_add(ends, "runs", 1, false);
    ends_add(ends, "runs.retry.10s", 1, true);
    *state = ends;
    return 0;
}

static int teardown(void **state) {
    ends_free(*state);
    return 0;
}

static size_t left(struct ends *ends, bool there, struct ends_left *ret) {
    struct ends_left *v;
    size_t n = ends_left(ends, there ? all_there : none_there, NULL, &v);
    *ret = n ? v[0] : (struct ends_left){0};
    free(v);
    return n;
}

static const struct ends_at fresh = {.at = 0, .end = 20},
                            begun = {.at = 5, .end = 20, .committed = true},
                            read = {.at = 20, .end = 20, .committed = true, .all = true};

/* A source that goes is left, also when no lane has had it; a retry topic only with what is in it.
 */
static void test_gone(void **state) {
    struct ends_left l;
    assert_int_equal(0, left(*state, true, &l));
    assert_int_equal(1, left(*state, false, &l));
    assert_string_equal("runs", l.topic);
    assert_int_equal(-1, l.unread);
    ends_settled(*state, "runs", 0, &read);
    assert_int_equal(0, left(*state, false, &l));
    ends_settled(*state, "runs.retry.10s", 0, &read);
    assert_int_equal(0, left(*state, false, &l));
    ends_settled(*state, "runs.retry.10s", 0, &begun); /* more was parked */
    assert_int_equal(1, left(*state, false, &l));
    assert_string_equal("runs.retry.10s", l.topic);
    assert_int_equal(15, l.unread);
    assert_false(l.anew);
}

/* What the group had committed goes with the topic alone. */
static void test_commit_is_gone(void **state) {
    static const char *const topics[] = {"runs", "runs.retry.10s"};
    static const struct ends_at now = {.at = 0, .end = -1};
    for (size_t i = 0; i < 2; i++) {
        struct ends_left l;
        struct ends_at was;
        ends_settled(*state, topics[i], 0, &begun);
        assert_false(ends_come(*state, topics[i], 0, &begun, &was));
        assert_int_equal(i, left(*state, true, &l));
        assert_true(ends_come(*state, topics[i], 0, &now, &was));
        assert_int_equal(5, was.at);
        assert_false(ends_come(*state, topics[i], 0, &now, &was)); /* said once */
        assert_int_equal(i + 1, left(*state, true, &l));
        assert_true(l.anew);
        assert_int_equal(15, l.unread);
    }
}

/* Nothing is committed: its end, or its first record, tells. */
static void test_before_a_commit(void **state) {
    static const struct ends_at bigger = {.at = 0, .end = 30};
    static const struct ledger_last first = {0, 1000, 7}, other = {0, 2000, 7};
    struct ends_left l;
    struct ends_at was;
    assert_false(ends_come(*state, "runs", 0, &fresh, &was));
    assert_false(ends_first(*state, "runs", 0, &first, &was));
    assert_false(ends_come(*state, "runs", 0, &bigger, &was));
    assert_false(ends_first(*state, "runs", 0, &first, &was));
    assert_int_equal(0, left(*state, true, &l));
    assert_true(ends_first(*state, "runs", 0, &other, &was));
    assert_int_equal(20, was.end);
    assert_int_equal(1, left(*state, true, &l));
    assert_int_equal(20, l.unread);
}

/* The first record is a later one once retention took some, and never an earlier one. */
static void test_first_record_moves(void **state) {
    static const struct ledger_last first = {3, 1000, 7}, later = {5, 1001, 7}, earlier = {0, 1, 7};
    struct ends_at was;
    assert_false(ends_come(*state, "runs", 0, &fresh, &was));
    assert_false(ends_first(*state, "runs", 0, &first, &was));
    assert_false(ends_first(*state, "runs", 0, &later, &was));
    assert_true(ends_first(*state, "runs", 0, &earlier, &was));
}

static void test_end_goes_back(void **state) {
    static const struct ends_at smaller = {.at = 0, .end = 3};
    struct ends_at was;
    assert_false(ends_come(*state, "runs", 0, &fresh, &was));
    assert_true(ends_come(*state, "runs", 0, &smaller, &was));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_commit_is_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(test_before_a_commit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_first_record_moves, setup, teardown),
        cmocka_unit_test_setup_teardown(test_end_goes_back, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
