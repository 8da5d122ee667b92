/* The consumer group: hand-over by both protocols, static members, the frozen and the late. */
#include "tests/sim/model/small_world.h"

static void test_all_partitions_have_one_owner(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) start(i, "");
    run(20000);
    size_t n = 0;
    for (int i = 0; i < 3; i++) {
        assert_in_range(workers[i].n, 1, 2);
        n += workers[i].n;
    }
    assert_int_equal(n, PARTITIONS);
    assert_int_equal(overlaps, 0);
}

/* Cooperative: what moves is taken away first, and given to the other one in a second round; what
 * stays is not touched. */
static void test_hand_over_has_two_rounds(void **state) {
    (void)state;
    struct worker *a = start(0, "");
    run(3000);
    a->revoke_ms = 3000;
    struct worker *b = start(1, "");
    int64_t from = world.now;
    while (!b->n) run(TURN_MS);
    assert_true(world.now - from > 3 * WORLD_S); /* it waited for the callback's end */
    run(5000);
    assert_int_equal(a->n, PARTITIONS / 2);
    assert_int_equal(b->n, PARTITIONS / 2);
    assert_int_equal(a->revoked, 1);
    assert_int_equal(a->lost, 0);
    assert_true(b->assigned >= 2); /* with nothing, first */
    assert_int_equal(overlaps + hasty, 0);
}

static void test_eager_members_give_all_back(void **state) {
    (void)state;
    struct worker *a = start(0, "a");
    run(3000);
    assert_int_equal(a->n, PARTITIONS);
    struct worker *b = start(1, "b");
    run(10000);
    assert_int_equal(a->revoked, 1);
    assert_int_equal(a->assigned, 2);
    assert_int_equal(b->assigned, 1);
    assert_int_equal(a->n + b->n, PARTITIONS);
    assert_int_equal(overlaps + hasty, 0);
}

static void test_a_static_member_comes_back(void **state) {
    (void)state;
    struct worker *a = start(0, "a"), *b = start(1, "b");
    run(15000);
    size_t had = a->n;
    unsigned revoked = b->revoked;
    kill_worker(a);
    run(1000);
    a = start(0, "a");
    run(1000); /* long before the session's end */
    assert_int_equal(a->n, had);
    run(20000);
    assert_int_equal(b->revoked, revoked);
}

static void test_an_identity_that_is_taken(void **state) {
    (void)state;
    char text[128];
    struct worker *a = start(0, "a");
    run(3000);
    world.frozen[a->process] = true;
    struct worker *b = start(1, "a");
    run(2000);
    assert_int_equal(b->n, PARTITIONS);
    world.frozen[a->process] = false;
    struct txn *job = transaction(a, "x", 0, 5, "");
    assert_false(consumer_is_fatal(a->consumer, text, sizeof text));
    run(1000);
    assert_true(consumer_is_fatal(a->consumer, text, sizeof text));
    assert_int_equal(a->revoked, 0);
    submit(a, job);
    assert_int_equal(result_of(a), TXN_UNKNOWN); /* its producer's name is taken, too */
    assert_int_equal(broker_committed("in", 0, NULL), -1);
}

static void test_who_is_frozen_too_long_is_put_out(void **state) {
    (void)state;
    struct worker *a = start(0, ""), *b = start(1, "");
    run(10000);
    struct txn *old = transaction(a, "x", 0, 5, "");
    world.frozen[a->process] = true;
    run(20000);
    assert_int_equal(b->n, PARTITIONS);
    world.frozen[a->process] = false;
    submit(a, old);
    run(200);
    assert_int_equal(a->lost, 1);
    assert_int_equal(result_of(a), TXN_STALE);
    run(10000);
    assert_int_equal(a->n, PARTITIONS / 2); /* it has joined again */
    assert_int_equal(strangers, 0);
}

static void test_who_is_frozen_for_a_moment_stays(void **state) {
    (void)state;
    struct worker *a = start(0, "");
    start(1, "");
    run(10000);
    unsigned revoked = a->revoked;
    world.frozen[a->process] = true;
    run(5000);
    world.frozen[a->process] = false;
    run(5000);
    assert_int_equal(a->revoked, revoked);
    assert_int_equal(a->n, PARTITIONS / 2);
}

static void test_who_does_not_poll_is_put_out(void **state) {
    (void)state;
    struct worker *a = start(0, "");
    run(3000);
    run_until(world.now + 280 * WORLD_S);
    run(100);
    assert_int_equal(a->lost, 0);
    run_until(world.now + 310 * WORLD_S);
    run(100);
    assert_int_equal(a->lost, 1);
    run(5000);
    assert_int_equal(a->n, PARTITIONS);
}

static void test_who_leaves_is_not_waited_for(void **state) {
    (void)state;
    struct worker *a = start(0, ""), *b = start(1, "");
    run(10000);
    world.process = a->process;
    consumer_close(a->consumer);
    consumer_free(a->consumer, false);
    world.process = 0;
    a->consumer = NULL;
    assert_int_equal(a->n, 0);
    run(6000); /* shorter than the session */
    assert_int_equal(b->n, PARTITIONS);
}

static void test_a_topic_that_is_made_later(void **state) {
    (void)state;
    static const char *const topics[] = {"in", "later"};
    struct worker *a = start(0, "");
    consumer_subscribe(a->consumer, topics, 2);
    run(5000);
    assert_int_equal(a->n, PARTITIONS);
    assert_int_equal(a->unknown, 1); /* the client complains */
    broker_make_topic("later", 2);
    run(10000);
    assert_int_equal(a->n, PARTITIONS + 2);
}

/* Eager: what could not be told at the assignment is read from where the commit is found. */
static void test_eager_reading_begins_by_itself(void **state) {
    (void)state;
    struct broker_faults faults = calm;
    for (int i = 0; i < 5; i++) produce(0, "a");
    struct worker *a = start(0, "a");
    run(3000);
    assert_int_equal(settle(a, "x", 3), TXN_DONE);
    kill_worker(a);
    run(1000);
    int64_t committed = broker_committed("in", 0, NULL);
    assert_int_equal(committed, 3);
    broker_close();
    faults.unstable = 1000;
    open_with(faults, 1);
    for (int i = 0; i < 5; i++) produce(0, "a");
    journal_find("in", 0)->committed = 3;
    a = start(0, "a");
    run(5000);
    assert_false(place(a, 0)->loaded);
    assert_string_equal(read_feed(place(a, 0)->feed), "M3 M4 E5 ");
    assert_string_equal(read_feed(place(a, 1)->feed), "A0 "); /* nothing is committed */
}

static void test_messages_outlive_their_feed(void **state) {
    (void)state;
    produce(0, "a");
    struct worker *a = start(0, "");
    struct feed_head head;
    run(3000);
    assert_int_equal(feed_peek(place(a, 0)->feed, &head), FEED_MESSAGE);
    struct fetched *f = feed_take(place(a, 0)->feed);
    world.process = a->process;
    consumer_close(a->consumer);
    assert_true(str_is(fetched_value(f), "a"));
    consumer_free(a->consumer, false);
    assert_int_equal(world.failures, 1); /* it is still held */
    fetched_free(f);
    a->consumer = NULL;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_all_partitions_have_one_owner),    TEST(test_hand_over_has_two_rounds),
        TEST(test_eager_members_give_all_back),      TEST(test_a_static_member_comes_back),
        TEST(test_an_identity_that_is_taken),        TEST(test_who_is_frozen_too_long_is_put_out),
        TEST(test_who_is_frozen_for_a_moment_stays), TEST(test_who_does_not_poll_is_put_out),
        TEST(test_who_leaves_is_not_waited_for),     TEST(test_a_topic_that_is_made_later),
        TEST(test_eager_reading_begins_by_itself),   TEST(test_messages_outlive_their_feed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
