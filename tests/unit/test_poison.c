#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "worker/pipeline/poison.h"

#define ME 7
#define HER 8
#define NOBODY                                                                                     \
    { 0 }

static void test_takeovers(void **state) {
    (void)state;
    static const struct {
        const char *what;
        struct claim before;
        uint32_t attempts;
        bool calm;
        struct takeover want;
    } cases[] = {
        {"new, or given back", NOBODY, 3, false, {{1, ME, 0, 0, 0, 0}, CAUTION_NONE, false, false}},
        {"one death",
         {1, HER, 0, 0, 0, 0},
         3,
         false,
         {{2, ME, 0, 0, 0, 0}, CAUTION_WARY, false, false}},
        {"two deaths",
         {2, HER, 0, 0, 0, 0},
         3,
         false,
         {{3, ME, 0, 0, 0, 0}, CAUTION_CAREFUL, true, false}},
        {"two deaths, nothing alone in work that time",
         {3, HER, 0, 0, 0, 0},
         3,
         false,
         {{4, ME, 0, 0, 0, 0}, CAUTION_CAREFUL, true, false}},
        {"the third death, of one record",
         {3, HER, ALONE_RECORD, 41, 42, 1},
         3,
         false,
         {{4, ME, ALONE_RECORD, 41, 42, 1}, CAUTION_CAREFUL, true, true}},
        {"of one delivery whose lines are innocent",
         {3, HER, ALONE_WHOLE, 41, 42, 1},
         3,
         false,
         {{4, ME, ALONE_WHOLE, 41, 42, 1}, CAUTION_CAREFUL, true, true}},
        {"of one delivery whose lines may not be",
         {3, HER, ALONE_DELIVERIES, 41, 42, 1},
         3,
         false,
         {{4, ME, ALONE_DELIVERIES, 41, 42, 1}, CAUTION_CAREFUL, true, false}},
        {"of one of several records: they are tried in parts",
         {3, HER, ALONE_RECORD, 41, 45, 1},
         3,
         false,
         {{4, ME, ALONE_RECORD, 41, 45, 1}, CAUTION_CAREFUL, true, false}},
        {"alone, but more deaths are asked for",
         {3, HER, ALONE_RECORD, 41, 42, 1},
         5,
         false,
         {{4, ME, ALONE_RECORD, 41, 42, 1}, CAUTION_CAREFUL, true, false}},
        {"the fifth, but the third and fourth were of others",
         {5, HER, ALONE_RECORD, 41, 42, 1},
         5,
         false,
         {{6, ME, ALONE_RECORD, 41, 42, 1}, CAUTION_CAREFUL, true, false}},
        {"the third, fourth and fifth",
         {5, HER, ALONE_RECORD, 41, 42, 3},
         5,
         false,
         {{6, ME, ALONE_RECORD, 41, 42, 3}, CAUTION_CAREFUL, true, true}},
        {"two are enough: the first reader was not wary",
         {1, HER, 0, 0, 0, 0},
         2,
         false,
         {{2, ME, 0, 0, 0, 0}, CAUTION_CAREFUL, false, false}},
        {"two are enough",
         {2, HER, ALONE_RECORD, 41, 42, 1},
         2,
         false,
         {{3, ME, ALONE_RECORD, 41, 42, 1}, CAUTION_CAREFUL, true, true}},
        {"one is enough: still none is blamed that was not alone",
         {1, HER, 0, 0, 0, 0},
         1,
         false,
         {{2, ME, 0, 0, 0, 0}, CAUTION_CAREFUL, false, false}},
        {"a process that comes back to it did not die",
         {1, ME, 0, 0, 0, 0},
         3,
         false,
         {{1, ME, 0, 0, 0, 0}, CAUTION_NONE, false, false}},
        {"nor while it was careful",
         {3, ME, ALONE_RECORD, 41, 42, 1},
         3,
         false,
         {{3, ME, 0, 0, 0, 0}, CAUTION_CAREFUL, true, false}},
        {"nothing left of what she read",
         {3, HER, 0, 0, 0, 0},
         3,
         true,
         {{1, ME, 0, 0, 0, 0}, CAUTION_NONE, false, false}},
        {"given back by one who came after two deaths",
         {2, 0, 0, 0, 0, 0},
         3,
         false,
         {{3, ME, 0, 0, 0, 0}, CAUTION_CAREFUL, true, false}},
        {"given back by one who did not come to the culprit of three",
         {3, 0, ALONE_RECORD, 41, 42, 1},
         3,
         false,
         {{4, ME, ALONE_RECORD, 41, 42, 1}, CAUTION_CAREFUL, true, true}},
        {"deaths without end",
         {UINT32_MAX, HER, 0, 0, 0, 0},
         3,
         false,
         {{UINT32_MAX, ME, 0, 0, 0, 0}, CAUTION_CAREFUL, true, false}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct takeover got = takeover(&cases[i].before, ME, cases[i].attempts, cases[i].calm);
        if (!claim_same(&got.want, &cases[i].want.want) || got.caution != cases[i].want.caution ||
            got.near != cases[i].want.near || got.guilty != cases[i].want.guilty)
            fail_msg("%s: taken %u, alone %d %ld..%ld, caution %d, near %d, guilty %d",
                     cases[i].what, got.want.taken, got.want.alone, (long)got.want.first,
                     (long)got.want.next, got.caution, got.near, got.guilty);
    }
}

/* An orderly end is no death, and brings none of the dead back to life. */
static void test_releases(void **state) {
    (void)state;
    static const struct claim none = NOBODY, culprit = {4, ME, ALONE_RECORD, 41, 42, 1};
    static const struct {
        const char *what;
        struct claim held;
        const struct claim *suspect;
        bool settled;
        struct claim want;
    } cases[] = {
        {"all was well", {1, ME, 0, 0, 0, 0}, &none, true, NOBODY},
        {"well again", {3, ME, ALONE_RECORD, 50, 51, 1}, &none, true, NOBODY},
        {"nobody had died", {1, ME, 0, 0, 0, 0}, &none, false, NOBODY},
        {"amid small windows", {2, ME, 0, 0, 0, 0}, &none, false, {1, 0, 0, 0, 0, 0}},
        {"what it was at itself is not blamed",
         {3, ME, ALONE_RECORD, 50, 51, 1},
         &none,
         false,
         {2, 0, 0, 0, 0, 0}},
        {"before it came to the culprit",
         {4, ME, ALONE_RECORD, 40, 41, 1},
         &culprit,
         false,
         {3, 0, ALONE_RECORD, 41, 42, 1}},
        {"nobody holds it", NOBODY, &none, false, NOBODY},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct claim got = poison_release(&cases[i].held, cases[i].suspect, cases[i].settled);
        if (!claim_same(&got, &cases[i].want))
            fail_msg("%s: taken %u, reader %lu, alone %d %ld..%ld", cases[i].what, got.taken,
                     (unsigned long)got.reader, got.alone, (long)got.first, (long)got.next);
    }
}

/* However many there are, they are down to one after two rounds. */
static void test_steps(void **state) {
    (void)state;
    assert_int_equal(poison_step(1), 1);
    assert_int_equal(poison_step(512), 1);
    assert_int_equal(poison_step(513), 2);
    assert_int_equal(poison_step(100000), 196);
    assert_int_equal(poison_step(196), 1);
    assert_int_equal(poison_step(0), 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_takeovers),
        cmocka_unit_test(test_releases),
        cmocka_unit_test(test_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
