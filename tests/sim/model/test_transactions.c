/* Transactions, fencing, lost answers, and who may commit what. */
#include <stdio.h>

#include "tests/sim/model/small_world.h"

/* ---- transactions ---- */

static void test_records_and_offsets_go_together(void **state) {
    (void)state;
    struct worker *w = start(0, "");
    struct str metadata;
    run(3000);
    assert_int_equal(producer_state(w->producer, NULL, 0), PRODUCER_READY);
    assert_int_equal(settle(w, "x", 7), TXN_DONE);
    run(1000);
    assert_string_equal(seen("out", 0), "x0 ");
    assert_int_equal(broker_committed("in", 0, &metadata), 7);
    assert_true(str_is(metadata, "m"));
    assert_int_equal(broker_committed("in", 1, NULL), -1);
    assert_int_equal(commits, 1);
    assert_int_equal(strangers, 0);
}

static void test_a_transactional_id_fences(void **state) {
    (void)state;
    struct worker *w = start(0, "");
    run(3000);
    char id[64];
    snprintf(id, sizeof id, "g/%llu", (unsigned long long)w->process);
    struct producer *other = producer_new(&w->cfg, id, 0, NULL);
    run(1000);
    submit(w, transaction(w, "x", 0, 1, ""));
    struct txn *job = NULL;
    while (!(job = producer_take(w->producer))) run(TURN_MS);
    assert_int_equal(job->result, TXN_UNKNOWN);
    assert_true(job->fenced);
    txn_free(job);
    assert_string_equal(seen("out", 0), "");
    producer_free(other);
}

/* What a killed process left open holds up readers until it times out, or its name comes back. */
static void test_a_name_that_comes_back_ends_what_it_left(void **state) {
    (void)state;
    struct worker *w = start(0, "s");
    run(3000);
    submit(w, transaction(w, "x", 0, 5, ""));
    run_until_pending();
    kill_worker(w);
    broker_produce("out", 0, str_c(NULL), str_c("y"), NULL, 0, 0);
    run(5000);
    assert_string_equal(seen("out", 0), "");
    start(0, "s");
    run(1000);
    assert_int_equal(journal_find("in", 0)->pending, 0);
    assert_int_equal(broker_committed("in", 0, NULL), -1);
    assert_non_null(strstr(seen("out", 0), "y"));
}

static void test_a_zombie_times_out(void **state) {
    (void)state;
    struct worker *w = start(0, "");
    run(3000);
    submit(w, transaction(w, "x", 0, 5, ""));
    run_until_pending();
    world.frozen[w->process] = true;
    run(10000);
    assert_int_equal(journal_find("in", 0)->pending, 1);
    run(20000);
    assert_int_equal(journal_find("in", 0)->pending, 0);
    world.frozen[w->process] = false;
    assert_int_equal(result_of(w), TXN_UNKNOWN);
    assert_string_equal(seen("out", 0), "");
    assert_int_equal(broker_committed("in", 0, NULL), -1);
}

static void test_a_prepared_commit_goes_through(void **state) {
    (void)state;
    struct worker *w = start(0, "");
    run(3000);
    submit(w, transaction(w, "x", 0, 5, ""));
    while (!commits) run_until(world.now + WORLD_MS);
    kill_worker(w);
    assert_int_equal(journal_find("in", 0)->pending, 1); /* unstable until the marker is there */
    assert_int_equal(broker_committed("in", 0, NULL), -1);
    run(1000);
    assert_int_equal(broker_committed("in", 0, NULL), 5);
    assert_string_equal(seen("out", 0), "x0 ");
}

static void test_a_lost_answer(void **state) {
    (void)state;
    unsigned unknown = 0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        broker_close();
        struct broker_faults faults = calm;
        faults.lost_answer = 1000;
        open_with(faults, seed);
        struct worker *w = start(0, "");
        run(3000);
        enum txn_result result = settle(w, "x", 5);
        assert_true(result == TXN_DONE || result == TXN_UNKNOWN);
        unknown += result == TXN_UNKNOWN;
        assert_int_equal(broker_committed("in", 0, NULL), 5);
    }
    assert_in_range(unknown, 1, 19);
}

static void fails_with(struct broker_faults faults, unsigned *ret_unknown,
                       enum txn_result expected) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        broker_close();
        open_with(faults, seed);
        struct worker *w = start(0, "");
        run(3000);
        enum txn_result result = settle(w, "x", 5);
        if (result == TXN_UNKNOWN)
            ++*ret_unknown;
        else
            assert_int_equal(result, expected);
        run(1000);
        assert_string_equal(seen("out", 0), "");
        assert_int_equal(broker_committed("in", 0, NULL), -1);
        assert_int_equal(journal_find("in", 0)->pending, 0);
    }
}

static void test_what_is_aborted_has_not_happened(void **state) {
    (void)state;
    struct broker_faults faults = calm;
    unsigned unknown = 0;
    faults.abort = 1000;
    fails_with(faults, &unknown, TXN_AGAIN);
    assert_in_range(unknown, 1, 19);
    unknown = 0;
    faults = calm;
    faults.stale_answer = 1000;
    fails_with(faults, &unknown, TXN_STALE);
    faults = calm;
    faults.topic_gone = 1000;
    fails_with(faults, &unknown, TXN_TOPIC);
    assert_int_equal(unknown, 0);
}

/* The same producer's next transaction waits until the last one has ended everywhere. */
static void test_transactions_of_a_producer_follow_one_another(void **state) {
    (void)state;
    struct broker_faults faults = calm;
    char expected[256] = "";
    size_t n = 0;
    broker_close();
    faults.slow_coordinator = 300;
    open_with(faults, 3);
    struct worker *w = start(0, "");
    run(30000);
    for (int i = 0; i < 8; i++) {
        char value[2] = {(char)('a' + i), '\0'};
        assert_int_equal(settle(w, value, i + 1), TXN_DONE);
        n += (size_t)snprintf(expected + n, sizeof expected - n, "%s%d ", value, i * 2);
    }
    run(10000);
    assert_string_equal(seen("out", 0), expected);
    assert_int_equal(broker_committed("in", 0, NULL), 8);
}

static void test_a_topic_that_is_not_there(void **state) {
    (void)state;
    struct worker *w = start(0, "");
    run(3000);
    struct txn *job = transaction(w, "x", 0, 1, "");
    txn_add(job)->topic = "none";
    submit(w, job);
    while (!(job = producer_take(w->producer))) run(TURN_MS);
    assert_int_equal(job->result, TXN_TOPIC);
    assert_string_equal(job->topic, "none");
    txn_free(job);
}

/* ---- who may commit ---- */

/* Rule 1 of the settlement protocol: only the membership counts. */
static void test_a_member_commits_what_it_does_not_own(void **state) {
    (void)state;
    struct worker *a = start(0, ""), *b = start(1, "");
    run(10000);
    assert_int_equal(a->n, PARTITIONS / 2);
    int32_t others = b->places[0].partition;
    submit(a, transaction(a, "x", others, 9, ""));
    assert_int_equal(result_of(a), TXN_DONE);
    run(1000);
    assert_int_equal(broker_committed("in", others, NULL), 9);
    assert_int_equal(strangers, 1);
}

static void test_an_old_generation_is_refused(void **state) {
    (void)state;
    struct worker *a = start(0, "");
    run(3000);
    struct txn *old = transaction(a, "x", 0, 9, "");
    start(1, "");
    run(10000);
    submit(a, old);
    assert_int_equal(result_of(a), TXN_STALE);
    run(1000);
    assert_int_equal(broker_committed("in", 0, NULL), -1);
    assert_int_equal(settle(a, "x", 3), TXN_DONE); /* a new membership, the same producer */
}

/* The client refuses what the broker would take: a commit in nobody's name. */
static void test_who_is_no_member_has_no_membership(void **state) {
    (void)state;
    struct worker *a = start(0, "");
    assert_null(txn_new_member(a->consumer));
    run(3000);
    struct txn *job = transaction(a, "x", 0, 1, "");
    *(struct membership *)job->membership = (struct membership){.generation = -1};
    submit(a, job);
    assert_int_equal(result_of(a), TXN_DONE);
    assert_int_equal(strangers, 1);
}

/* The offset that a killed owner's open transaction carries is unstable until that has ended. */
static void test_unstable_offsets(void **state) {
    (void)state;
    struct worker *a = start(0, "");
    run(3000);
    submit(a, transaction(a, "x", 0, 5, ""));
    run_until_pending();
    kill_worker(a);
    struct worker *b = start(1, "");
    run(14000); /* the session ends */
    assert_int_equal(b->n, PARTITIONS);
    assert_false(place(b, 0)->loaded);
    assert_true(b->unknown > 0);
    run(20000); /* the transaction ends */
    assert_true(place(b, 0)->loaded);
}

static void test_offsets_are_unknown_by_chance(void **state) {
    (void)state;
    struct broker_faults faults = calm;
    broker_close();
    faults.unstable = 1000;
    open_with(faults, 1);
    struct worker *a = start(0, "");
    run(10000);
    assert_int_equal(a->known, 0);
    broker_calm();
    run(5000);
    assert_true(place(a, 0)->loaded);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_records_and_offsets_go_together),
        TEST(test_a_transactional_id_fences),
        TEST(test_a_name_that_comes_back_ends_what_it_left),
        TEST(test_a_zombie_times_out),
        TEST(test_a_prepared_commit_goes_through),
        TEST(test_a_lost_answer),
        TEST(test_what_is_aborted_has_not_happened),
        TEST(test_transactions_of_a_producer_follow_one_another),
        TEST(test_a_topic_that_is_not_there),
        TEST(test_a_member_commits_what_it_does_not_own),
        TEST(test_an_old_generation_is_refused),
        TEST(test_who_is_no_member_has_no_membership),
        TEST(test_unstable_offsets),
        TEST(test_offsets_are_unknown_by_chance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
