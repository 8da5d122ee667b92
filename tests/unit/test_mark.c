/* Where the ledger ends for a partition, and whether the topic is still the one that it speaks of.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "worker/kafka/mark.h"

static struct ledger_entry entry(uint64_t seq, int64_t next, int64_t last) {
    return (struct ledger_entry){.seq = seq,
                                 .next = next,
                                 .settled_ms = 1000 * (int64_t)seq,
                                 .has_last = last >= 0,
                                 .last = {.offset = last}};
}

static void test_the_newest_entry_counts(void **state) {
    (void)state;
    static const int orders[][3] = {{0, 1, 2}, {2, 1, 0}, {1, 2, 0}, {2, 0, 1}};
    const struct ledger_entry entries[] = {entry(4, 40, 39), entry(5, 50, 48), entry(6, 60, -1)};
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
        struct mark m = {0};
        for (int k = 0; k < 3; k++) mark_take(&m, &entries[orders[i][k]]);
        assert_true(m.known && m.seq == 6 && m.next == 60 && m.settled_ms == 6000);
        /* Entry 6 does not say what it saw: it is of form 1, or saw nothing. */
        assert_true(m.has_last && m.last.offset == 48);
    }
}

static void test_a_topic_made_anew_is_another(void **state) {
    (void)state;
    static const int orders[][3] = {{0, 1, 2}, {2, 1, 0}, {1, 0, 2}};
    struct ledger_entry entries[] = {entry(4, 40, 39), entry(5, 0, -1), entry(6, 7, -1)};
    entries[1].anew = true;
    for (size_t i = 0; i < sizeof orders / sizeof *orders; i++) {
        struct mark m = {0};
        for (int k = 0; k < 3; k++) mark_take(&m, &entries[orders[i][k]]);
        assert_true(m.known && m.next == 7);
        assert_false(m.has_last);
    }
    struct mark m = {0};
    entries[2] = entry(6, 7, 6);
    for (int k = 0; k < 3; k++) mark_take(&m, &entries[k]);
    assert_true(m.has_last && m.last.offset == 6);
}

static void test_what_tells(void **state) {
    (void)state;
    struct mark m = {0};
    const struct ledger_entry e = entry(4, 40, 38), none = entry(4, 40, -1);
    mark_take(&m, &none);
    assert_false(mark_tells(&m, 0, 100));
    m = (struct mark){0};
    mark_take(&m, &e);
    assert_true(mark_tells(&m, 0, 100));
    assert_true(mark_tells(&m, 38, 39));
    assert_false(mark_tells(&m, 39, 100)); /* expired */
    assert_false(mark_tells(&m, 0, 38));
}

static void test_is_older(void **state) {
    (void)state;
    static const struct {
        const char *what;
        struct mark_place now;
        bool older;
    } cases[] = {
        {"ends before it", {0, 39, MARK_UNKNOWN, -1}, true},
        {"ends before it, whatever is there", {0, 39, MARK_SAME, -1}, true},
        {"the record is there", {0, 100, MARK_SAME, 40}, false},
        {"the record is there, and times say otherwise", {0, 100, MARK_SAME, 0}, false},
        {"another is there", {0, 100, MARK_OTHER, 0}, true},
        {"another is there, with the times of the past", {0, 100, MARK_OTHER, -1}, true},
        {"all is younger", {0, 100, MARK_UNKNOWN, 0}, true},
        {"some is younger", {0, 100, MARK_UNKNOWN, 40}, false},
        {"nothing is younger", {0, 100, MARK_UNKNOWN, -1}, false},
        {"all that was settled has expired", {40, 100, MARK_UNKNOWN, 40}, false},
        {"it is empty", {40, 40, MARK_UNKNOWN, -1}, false},
    };
    struct mark m = {0};
    const struct ledger_entry e = entry(4, 40, 38);
    mark_take(&m, &e);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        if (mark_is_older(&m, &cases[i].now) != cases[i].older) print_error("%s\n", cases[i].what);
        assert_int_equal(mark_is_older(&m, &cases[i].now), cases[i].older);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_newest_entry_counts),
        cmocka_unit_test(test_a_topic_made_anew_is_another),
        cmocka_unit_test(test_what_tells),
        cmocka_unit_test(test_is_older),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
