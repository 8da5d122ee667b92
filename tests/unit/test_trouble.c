/* What keeps events from flowing: set, told, cleared, bounded, whoever sees it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
/* cmocka needs those first */
#include <cmocka.h>

#include "worker/base/clock.h"
#include "worker/base/trouble.h"

#define PATIENCE 30000

static size_t list(struct troubles *t, struct trouble_report **ret) {
    return troubles_list(t, PATIENCE, ret);
}

static void set_and_clear(void **state) {
    struct troubles *t = *state;
    struct trouble_report *r;
    assert_int_equal(0, list(t, &r));
    free(r);
    trouble_set(t, 0, TROUBLE_UNREADABLE, "runs/3", "denied", 0);
    trouble_set(t, 0, TROUBLE_UNREADABLE, "runs/3", "still denied\n", 0); /* the same one */
    trouble_set(t, 0, TROUBLE_UNREADABLE, "runs/4", NULL, 0);
    assert_int_equal(2, list(t, &r));
    assert_string_equal("not-readable", trouble_name(r[0].cause));
    assert_true(strcmp(r[0].detail, "still denied?") == 0 ||
                strcmp(r[1].detail, "still denied?") == 0);
    free(r);
    trouble_clear(t, 0, TROUBLE_UNREADABLE, "runs/5"); /* is none */
    trouble_clear(t, 0, TROUBLE_POSITION, "runs/3");
    trouble_clear(t, 0, TROUBLE_UNREADABLE, "runs/3");
    assert_int_equal(1, list(t, &r));
    assert_string_equal("runs/4", r[0].place);
    free(r);
    trouble_tell(t, false, 0, TROUBLE_UNREADABLE, "runs/4", NULL, 0);
    assert_int_equal(0, list(t, &r));
    free(r);
}

/* Two lanes that see the same are told as one, for as long as one of them sees it. */
static void owners(void **state) {
    struct troubles *t = *state;
    struct trouble_report *r;
    int64_t now = clock_ms(CLOCK_MONOTONIC);
    trouble_set(t, 0, TROUBLE_BROKERS, NULL, "", now - 1000);
    trouble_set(t, 1, TROUBLE_BROKERS, NULL, "", now - 5000);
    assert_int_equal(1, list(t, &r));
    assert_true(r[0].for_ms >= 5000);
    free(r);
    trouble_drop(t, 1, NULL);
    assert_int_equal(1, list(t, &r));
    assert_true(r[0].for_ms < 5000);
    free(r);
    trouble_set(t, 0, TROUBLE_HELD, "runs/0", "", 0);
    trouble_set(t, 0, TROUBLE_UNREADABLE, "runs/0", "", 0);
    trouble_set(t, 0, TROUBLE_HELD, "runs/1", "", 0);
    trouble_drop(t, 0, "runs/0");
    assert_int_equal(2, list(t, &r));
    free(r);
    trouble_drop(t, 0, NULL);
    assert_int_equal(0, list(t, &r));
    free(r);
}

static void readiness(void **state) {
    static const struct {
        enum trouble cause;
        int64_t for_ms;
        bool unready;
    } cases[] = {
        {TROUBLE_BROKERS, 0, false},           {TROUBLE_BROKERS, PATIENCE - 5000, false},
        {TROUBLE_BROKERS, PATIENCE, true},     {TROUBLE_PRODUCER, 0, true},
        {TROUBLE_HELD, 100 * PATIENCE, false}, {TROUBLE_UNREADABLE, PATIENCE + 1, true},
    };
    struct troubles *t = *state;
    struct trouble_report *r;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        trouble_set(t, 0, cases[i].cause, NULL, "", clock_ms(CLOCK_MONOTONIC) - cases[i].for_ms);
        assert_int_equal(1, list(t, &r));
        assert_int_equal(cases[i].unready, r[0].unready);
        free(r);
        trouble_drop(t, 0, NULL);
    }
}

/* Worst first, whatever the order they came in; then the longest. */
static void order(void **state) {
    struct troubles *t = *state;
    struct trouble_report *r;
    int64_t now = clock_ms(CLOCK_MONOTONIC);
    trouble_set(t, 0, TROUBLE_HELD, "a/0", "", now - 90000);
    trouble_set(t, 0, TROUBLE_UNREADABLE, "a/1", "", now - 1000);
    trouble_set(t, 0, TROUBLE_UNREADABLE, "a/2", "", now - 2000);
    trouble_set(t, 0, TROUBLE_BROKERS, NULL, "refused", now - 31000);
    assert_int_equal(4, list(t, &r));
    assert_int_equal(TROUBLE_BROKERS, r[0].cause);
    assert_string_equal("a/2", r[1].place);
    assert_string_equal("a/1", r[2].place);
    assert_int_equal(TROUBLE_HELD, r[3].cause);
    struct buf b;
    buf_init(&b, 4096);
    trouble_print(&r[0], &b);
    assert_non_null(strstr(buf_cstr(&b), "brokers unreachable for 31 s (refused): "));
    buf_free(&b);
    free(r);
    trouble_drop(t, 0, NULL);
}

static void bounded(void **state) {
    struct troubles *t = *state;
    struct trouble_report *r;
    char place[300];
    for (int i = 0; i < 2 * TROUBLES_MAX; i++) {
        snprintf(place, sizeof place, "%0280d", i); /* longer than is kept */
        snprintf(place, 9, "%08d", i);
        place[8] = '-';
        trouble_set(t, 0, TROUBLE_UNREADABLE, place, place, 0);
    }
    assert_int_equal(TROUBLES_MAX, list(t, &r));
    assert_int_equal(TROUBLE_PLACE_MAX - 1, strlen(r[0].place));
    free(r);
    trouble_drop(t, 0, NULL);
    assert_int_equal(0, list(t, &r));
    free(r);
}

static int setup(void **state) {
    *state = troubles_new();
    return 0;
}

static int teardown(void **state) {
    troubles_free(*state);
    troubles_free(NULL);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_and_clear), cmocka_unit_test(owners),  cmocka_unit_test(readiness),
        cmocka_unit_test(order),         cmocka_unit_test(bounded),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
