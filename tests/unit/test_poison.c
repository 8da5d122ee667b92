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

static bool same(const struct claim *a, const struct claim *b) {
    if (!claim_same(a, b) || a->n_blamed != b->n_blamed) return false;
    for (uint32_t i = 0; i < a->n_blamed; i++)
        if (a->blamed[i].alone != b->blamed[i].alone || a->blamed[i].first != b->blamed[i].first ||
            a->blamed[i].next != b->blamed[i].next)
            return false;
    return true;
}

static void test_takeovers(void **state) {
    (void)state;
    static const struct {
        const char *what;
        struct claim before;
        uint32_t attempts;
        bool calm;
        struct takeover want;
    } cases[] = {
        {"new, or given back", NOBODY, 3, false, {{1, ME, 0, 0, 0, 0, 0, {}}, CAUTION_NONE, false}},
        {"one death",
         {1, HER, 0, 0, 0, 0, 0, {}},
         3,
         false,
         {{2, ME, 0, 0, 0, 0, 0, {}}, CAUTION_WARY, false}},
        {"two deaths",
         {2, HER, 0, 0, 0, 0, 0, {}},
         3,
         false,
         {{3, ME, 0, 0, 0, 0, 0, {}}, CAUTION_CAREFUL, true}},
        {"two deaths, nothing alone in work that time",
         {3, HER, 0, 0, 0, 0, 0, {}},
         3,
         false,
         {{4, ME, 0, 0, 0, 0, 0, {}}, CAUTION_CAREFUL, true}},
        {"the third death, of one record",
         {3, HER, ALONE_RECORD, 41, 42, 1, 0, {}},
         3,
         false,
         {{4, ME, 0, 0, 0, 0, 1, {{ALONE_RECORD, 41, 42}}}, CAUTION_CAREFUL, true}},
        {"of one delivery whose lines are innocent",
         {3, HER, ALONE_WHOLE, 41, 42, 1, 0, {}},
         3,
         false,
         {{4, ME, 0, 0, 0, 0, 1, {{ALONE_WHOLE, 41, 42}}}, CAUTION_CAREFUL, true}},
        {"of one delivery whose lines may not be",
         {3, HER, ALONE_DELIVERIES, 41, 42, 1, 0, {}},
         3,
         false,
         {{4, ME, ALONE_DELIVERIES, 41, 42, 1, 0, {}}, CAUTION_CAREFUL, true}},
        {"of one of several records: they are tried in parts",
         {3, HER, ALONE_RECORD, 41, 45, 1, 0, {}},
         3,
         false,
         {{4, ME, ALONE_RECORD, 41, 45, 1, 0, {}}, CAUTION_CAREFUL, true}},
        {"alone, but more deaths are asked for",
         {3, HER, ALONE_RECORD, 41, 42, 1, 0, {}},
         5,
         false,
         {{4, ME, ALONE_RECORD, 41, 42, 1, 0, {}}, CAUTION_CAREFUL, true}},
        {"the fifth, but the third and fourth were of others",
         {5, HER, ALONE_RECORD, 41, 42, 1, 0, {}},
         5,
         false,
         {{6, ME, ALONE_RECORD, 41, 42, 1, 0, {}}, CAUTION_CAREFUL, true}},
        {"the third, fourth and fifth",
         {5, HER, ALONE_RECORD, 41, 42, 3, 0, {}},
         5,
         false,
         {{6, ME, 0, 0, 0, 0, 1, {{ALONE_RECORD, 41, 42}}}, CAUTION_CAREFUL, true}},
        {"two are enough: the first reader was not wary",
         {1, HER, 0, 0, 0, 0, 0, {}},
         2,
         false,
         {{2, ME, 0, 0, 0, 0, 0, {}}, CAUTION_CAREFUL, false}},
        {"two are enough",
         {2, HER, ALONE_RECORD, 41, 42, 1, 0, {}},
         2,
         false,
         {{3, ME, 0, 0, 0, 0, 1, {{ALONE_RECORD, 41, 42}}}, CAUTION_CAREFUL, true}},
        {"one is enough: still none is blamed that was not alone",
         {1, HER, 0, 0, 0, 0, 0, {}},
         1,
         false,
         {{2, ME, 0, 0, 0, 0, 0, {}}, CAUTION_CAREFUL, false}},
        {"a process that comes back to it did not die",
         {1, ME, 0, 0, 0, 0, 0, {}},
         3,
         false,
         {{1, ME, 0, 0, 0, 0, 0, {}}, CAUTION_NONE, false}},
        {"nor while it was careful",
         {3, ME, ALONE_RECORD, 41, 42, 1, 0, {}},
         3,
         false,
         {{3, ME, 0, 0, 0, 0, 0, {}}, CAUTION_CAREFUL, true}},
        {"nothing left of what she read",
         {3, HER, 0, 0, 0, 0, 0, {}},
         3,
         true,
         {{1, ME, 0, 0, 0, 0, 0, {}}, CAUTION_NONE, false}},
        {"given back by one who came after two deaths",
         {2, 0, 0, 0, 0, 0, 0, {}},
         3,
         false,
         {{3, ME, 0, 0, 0, 0, 0, {}}, CAUTION_CAREFUL, true}},
        {"given back by one who did not come to the culprit of three",
         {3, 0, ALONE_RECORD, 41, 42, 1, 0, {}},
         3,
         false,
         {{4, ME, 0, 0, 0, 0, 1, {{ALONE_RECORD, 41, 42}}}, CAUTION_CAREFUL, true}},
        {"one more of the same window",
         {4, HER, ALONE_RECORD, 45, 46, 1, 1, {{ALONE_RECORD, 41, 42}}},
         3,
         false,
         {{5, ME, 0, 0, 0, 0, 2, {{ALONE_RECORD, 41, 42}, {ALONE_RECORD, 45, 46}}},
          CAUTION_CAREFUL,
          true}},
        {"what is blamed stays so, whatever is alone in work now",
         {4, HER, ALONE_RECORD, 45, 47, 1, 1, {{ALONE_RECORD, 41, 42}}},
         3,
         false,
         {{5, ME, ALONE_RECORD, 45, 47, 1, 1, {{ALONE_RECORD, 41, 42}}}, CAUTION_CAREFUL, true}},
        {"and when its reader comes back",
         {4, ME, ALONE_RECORD, 45, 46, 1, 1, {{ALONE_WHOLE, 41, 42}}},
         3,
         false,
         {{4, ME, 0, 0, 0, 0, 1, {{ALONE_WHOLE, 41, 42}}}, CAUTION_CAREFUL, true}},
        {"but not once it is settled",
         {4, HER, ALONE_RECORD, 38, 40, 1, 2, {{ALONE_RECORD, 39, 40}, {ALONE_WHOLE, 40, 41}}},
         3,
         false,
         {{5, ME, 0, 0, 0, 0, 1, {{ALONE_WHOLE, 40, 41}}}, CAUTION_CAREFUL, true}},
        {"nor when nothing is left",
         {4, HER, ALONE_RECORD, 45, 46, 1, 1, {{ALONE_RECORD, 41, 42}}},
         3,
         true,
         {{1, ME, 0, 0, 0, 0, 0, {}}, CAUTION_NONE, false}},
        {"deaths without end",
         {UINT32_MAX, HER, 0, 0, 0, 0, 0, {}},
         3,
         false,
         {{UINT32_MAX, ME, 0, 0, 0, 0, 0, {}}, CAUTION_CAREFUL, true}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct takeover got = takeover(&cases[i].before, ME, cases[i].attempts, cases[i].calm, 40);
        if (!same(&got.want, &cases[i].want.want) || got.caution != cases[i].want.caution ||
            got.near != cases[i].want.near)
            fail_msg("%s: taken %u, alone %d %ld..%ld, caution %d, near %d, blamed %u",
                     cases[i].what, got.want.taken, got.want.alone, (long)got.want.first,
                     (long)got.want.next, got.caution, got.near, got.want.n_blamed);
    }
}

/* The next one that is blamed, of one kind. */
static void test_blamed(void **state) {
    (void)state;
    static const struct claim c = {
        .n_blamed = 3,
        .blamed = {{ALONE_RECORD, 50, 52}, {ALONE_WHOLE, 3, 4}, {ALONE_RECORD, 7, 8}}};
    static const struct {
        int64_t from;
        enum alone alone;
        int64_t want;
    } cases[] = {{0, ALONE_RECORD, 7},         {7, ALONE_RECORD, 7}, {8, ALONE_RECORD, 50},
                 {51, ALONE_RECORD, 51},       {3, ALONE_WHOLE, 3},  {4, ALONE_WHOLE, INT64_MAX},
                 {52, ALONE_RECORD, INT64_MAX}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(poison_blamed(&c, cases[i].alone, cases[i].from), cases[i].want);
    static const struct claim none = NOBODY;
    assert_int_equal(poison_blamed(&none, ALONE_RECORD, 0), INT64_MAX);
}

/* More than are remembered: all of them stay blamed, and of the others only those between two that
 * are close. */
static void test_more_culprits_than_are_remembered(void **state) {
    (void)state;
    struct claim c = {.taken = 3, .reader = HER};
    for (int i = 0; i < 100; i++) {
        c.alone = i % 10 == 9 ? ALONE_WHOLE : ALONE_RECORD;
        c.first = 1000 + i * 7 % 100 * 10; /* in no order */
        c.next = c.first + 1;
        c.tries = 1;
        c = takeover(&c, ME, 3, false, 0).want;
        c.reader = HER;
        assert_true(c.n_blamed <= BLAMED_MAX);
        for (int k = 0; k <= i; k++) {
            int64_t at = 1000 + k * 7 % 100 * 10;
            assert_int_equal(poison_blamed(&c, k % 10 == 9 ? ALONE_WHOLE : ALONE_RECORD, at), at);
        }
    }
    assert_int_equal(c.n_blamed, BLAMED_MAX);
    assert_int_equal(poison_blamed(&c, ALONE_RECORD, 0), 1000);
    assert_int_equal(poison_blamed(&c, ALONE_RECORD, 1991), INT64_MAX);
}

/* An orderly end is no death, and brings none of the dead back to life. */
static void test_releases(void **state) {
    (void)state;
    static const struct claim none = NOBODY, culprit = {4, ME, ALONE_RECORD, 41, 42, 1, 0, {}};
    static const struct {
        const char *what;
        struct claim held;
        const struct claim *suspect;
        bool settled;
        struct claim want;
    } cases[] = {
        {"all was well", {1, ME, 0, 0, 0, 0, 0, {}}, &none, true, NOBODY},
        {"well again", {3, ME, ALONE_RECORD, 50, 51, 1, 0, {}}, &none, true, NOBODY},
        {"nobody had died", {1, ME, 0, 0, 0, 0, 0, {}}, &none, false, NOBODY},
        {"amid small windows", {2, ME, 0, 0, 0, 0, 0, {}}, &none, false, {1, 0, 0, 0, 0, 0, 0, {}}},
        {"what it was at itself is not blamed",
         {3, ME, ALONE_RECORD, 50, 51, 1, 0, {}},
         &none,
         false,
         {2, 0, 0, 0, 0, 0, 0, {}}},
        {"before it came to the culprit",
         {4, ME, ALONE_RECORD, 40, 41, 1, 0, {}},
         &culprit,
         false,
         {3, 0, ALONE_RECORD, 41, 42, 1, 0, {}}},
        {"of what is blamed nothing is forgotten",
         {4, ME, ALONE_RECORD, 50, 51, 1, 1, {{ALONE_RECORD, 41, 42}}},
         &none,
         false,
         {3, 0, 0, 0, 0, 0, 1, {{ALONE_RECORD, 41, 42}}}},
        {"nobody holds it", NOBODY, &none, false, NOBODY},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct claim got = poison_release(&cases[i].held, cases[i].suspect, cases[i].settled);
        if (!same(&got, &cases[i].want))
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
        cmocka_unit_test(test_blamed),
        cmocka_unit_test(test_more_culprits_than_are_remembered),
        cmocka_unit_test(test_releases),
        cmocka_unit_test(test_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
