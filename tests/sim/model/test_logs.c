/* What a partition's readers see of it: gaps, open and aborted transactions, ends, retention,
 * topics made anew. */
#include "tests/sim/model/small_world.h"

/* ---- logs ---- */

static void test_open_transaction_hides_what_follows(void **state) {
    (void)state;
    produce(0, "a");
    uint64_t t = broker_begin("in", 0);
    broker_produce_in(t, str_c("k"), str_c("b"), NULL, 0);
    produce(0, "c");
    assert_string_equal(seen("in", 0), "a0 ");
    assert_int_equal(stable("in", 0), 1);
    broker_end(t, true);
    assert_string_equal(seen("in", 0), "a0 b1 c2 ");
    assert_int_equal(produce(0, "d"), 4); /* the marker has an offset, too */
    assert_int_equal(stable("in", 0), 5);
}

static void test_aborted_records_are_not_seen(void **state) {
    (void)state;
    uint64_t t = broker_begin("in", 0), u = broker_begin("in", 0);
    broker_produce_in(t, str_c(NULL), str_c("a"), NULL, 0);
    broker_produce_in(u, str_c(NULL), str_c("b"), NULL, 0);
    broker_produce_in(t, str_c(NULL), str_c("c"), NULL, 0);
    broker_end(t, false);
    assert_string_equal(seen("in", 0), "");
    assert_int_equal(stable("in", 0), 1);
    broker_end(u, true);
    assert_string_equal(seen("in", 0), "b1 ");
}

static void test_bytes_come_through(void **state) {
    (void)state;
    const struct header headers[] = {
        {str_c("n"), str_c("1")}, {str_c("n"), str_c(NULL)}, {str_c("e"), str_c("")}};
    broker_produce("in", 0, str_c(NULL), str_c("v"), headers, 3, WORLD_EPOCH_MS + 5);
    struct worker *w = start(0, "");
    struct feed_head head;
    struct message m;
    struct arena arena = {0};
    run(3000);
    assert_int_equal(feed_peek(place(w, 0)->feed, &head), FEED_MESSAGE);
    assert_int_equal(feed_waiting(place(w, 0)->feed), 1);
    struct fetched *f = feed_take(place(w, 0)->feed);
    assert_null(fetched_key(f).p);
    assert_true(str_is(fetched_value(f), "v"));
    assert_null(fetched_header(f, "n").p);
    assert_non_null(fetched_header(f, "e").p);
    fetched_message(f, &arena, &m);
    assert_int_equal(m.n_headers, 3);
    assert_true(str_is(m.headers[0].value, "1"));
    arena_free(&arena);
    fetched_free(f);
}

/* ---- feeds ---- */

static void test_each_end_is_told_once(void **state) {
    (void)state;
    struct worker *w = start(0, "");
    produce(0, "a");
    run(3000);
    struct feed *f = place(w, 0)->feed;
    assert_string_equal(read_feed(f), "M0 E1 ");
    run(3000);
    assert_string_equal(read_feed(f), "");
    uint64_t t = broker_begin("in", 0);
    broker_produce_in(t, str_c(NULL), str_c("b"), NULL, 0);
    run(1000);
    int64_t low, high;
    assert_true(feed_ends(f, &low, &high));
    assert_int_equal(high, 2); /* with what can't be seen */
    broker_end(t, false);
    produce(0, "c");
    run(1000);
    assert_string_equal(read_feed(f), "M3 E4 ");
    feed_move(f, 4);
    run(1000);
    assert_string_equal(read_feed(f), "E4 ");
    t = broker_begin("in", 0);
    broker_produce_in(t, str_c(NULL), str_c("d"), NULL, 0);
    broker_end(t, false);
    run(1000);
    assert_string_equal(read_feed(f), "E6 "); /* with a marker, and nothing to be seen */
}

/* Eager: who moves one partition has all of them handed over again. */
static void test_eager_moves_move_all(void **state) {
    (void)state;
    struct worker *w = start(0, "a");
    for (int i = 0; i < 3; i++) produce(0, "a");
    for (int i = 0; i < 3; i++) produce(1, "a");
    run(3000);
    struct feed *f = place(w, 0)->feed, *g = place(w, 1)->feed;
    struct feed_head head;
    assert_string_equal(read_feed(g), "M0 M1 M2 E3 ");
    assert_int_equal(feed_peek(f, &head), FEED_MESSAGE);
    fetched_free(feed_take(f));
    feed_move(g, 1);
    assert_int_equal(feed_peek(f, &head), FEED_NOTHING);
    run(1000);
    assert_string_equal(read_feed(f), "M1 M2 E3 ");
    assert_string_equal(read_feed(g), "M1 M2 E3 ");
}

/* What its offsets follow is gone: nothing is committed in its stead. */
static void test_a_commit_that_is_gone(void **state) {
    (void)state;
    struct worker *w = start(0, "");
    for (int i = 0; i < 3; i++) produce(0, "a");
    run(3000);
    assert_int_equal(settle(w, "x", 2), TXN_DONE);
    broker_make_anew("in");
    for (int i = 0; i < 3; i++) produce(0, "b");
    struct txn *job = transaction(w, "x", 0, 3, "");
    job->offsets[0].follows = true;
    submit(w, job);
    assert_int_equal(result_of(w), TXN_GONE);
    assert_int_equal(broker_committed("in", 0, NULL), -1);
}

static void test_a_topic_that_is_made_anew(void **state) {
    (void)state;
    struct worker *w = start(0, "");
    for (int i = 0; i < 3; i++) produce(0, "a");
    run(3000);
    assert_int_equal(settle(w, "x", 2), TXN_DONE);
    struct feed *f = place(w, 0)->feed;
    submit(w, transaction(w, "x", 0, 3, ""));
    run_until_pending();
    broker_make_anew("in");
    assert_int_equal(result_of(w), TXN_DONE);
    run(1000);
    assert_int_equal(broker_committed("in", 0, NULL), -1);
    assert_string_equal(read_feed(f), "M0 M1 M2 E3 A0 "); /* it had been fetched */
    assert_int_equal(produce(0, "b"), 0);
    feed_move(f, FEED_BEGINNING);
    run(1000);
    assert_string_equal(read_feed(f), "M0 E1 ");
    broker_commit("in", 0, 1, "by hand");
    feed_ask_committed(f);
    place(w, 0)->loaded = false;
    run(1000);
    assert_string_equal(w->metadata, "by hand");
}

/* What commands do, which have no wake_fd. */
static void test_a_producer_that_blocks(void **state) {
    (void)state;
    struct config cfg = {.group = (char *)(uintptr_t) "g"};
    struct producer *p = producer_open(&cfg, "t", NULL);
    struct txn *txn = txn_new();
    assert_int_equal(producer_begin(p, 5000, txn), PRODUCER_READY);
    struct txn_record *r = txn_add(txn);
    r->topic = "in";
    r->key = "k";
    r->key_len = 1;
    producer_run(p, txn);
    assert_int_equal(txn->result, TXN_DONE);
    run(1000);
    assert_int_equal(producer_try(&cfg, "t", 5000, NULL), PRODUCER_READY);
    producer_run(p, txn);
    assert_int_equal(txn->result, TXN_UNKNOWN);
    assert_true(txn->fenced);
    producer_run(p, txn); /* there is no way back */
    assert_int_equal(txn->result, TXN_UNKNOWN);
    txn_free(txn);
    producer_free(p);
}

static void test_retention_leads_astray(void **state) {
    (void)state;
    for (int i = 0; i < 9; i++) produce(0, "a");
    broker_remove("in", 0, 5);
    struct worker *w = start(0, "");
    run(3000);
    struct feed *f = place(w, 0)->feed;
    assert_string_equal(read_feed(f), "M5 M6 M7 M8 E9 ");
    feed_move(f, 2);
    run(1000);
    assert_string_equal(read_feed(f), "A0 ");
    feed_move(f, 7);
    assert_string_equal(read_feed(f), ""); /* it takes its time */
    run(1000);
    assert_string_equal(read_feed(f), "M7 M8 E9 ");
    feed_move(f, 12);
    run(1000);
    assert_string_equal(read_feed(f), "A0 ");
}

static void test_ends_and_times_are_asked_for(void **state) {
    (void)state;
    int64_t low, high, at;
    for (int i = 0; i < 4; i++)
        broker_produce("in", 0, str_c(NULL), str_c("v"), NULL, 0, WORLD_EPOCH_MS + i * 1000);
    bool by_broker = journal_find("in", 0)->by_broker;
    broker_remove("in", 0, 1);
    struct worker *w = start(0, "");
    run(3000);
    struct feed *f = place(w, 0)->feed;
    assert_true(feed_ask_ends(f, &low, &high));
    assert_int_equal(low, 1);
    assert_int_equal(high, 4);
    assert_true(feed_ask_time(f, WORLD_EPOCH_MS + 1500, &at));
    assert_int_equal(at, by_broker ? -1 : 2);
    assert_true(feed_ask_time(f, WORLD_EPOCH_MS + 999999, &at));
    assert_int_equal(at, -1);
}

static void test_topics_are_looked_for(void **state) {
    (void)state;
    struct worker *w = start(0, "");
    static const char *const topics[] = {"in", "none"};
    run(3000);
    w->known = w->unknown = 0;
    consumer_look(w->consumer, topics, 2);
    run(1000);
    assert_int_equal(w->known, 1);
    assert_int_equal(w->unknown, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_open_transaction_hides_what_follows),
        TEST(test_aborted_records_are_not_seen),
        TEST(test_bytes_come_through),
        TEST(test_each_end_is_told_once),
        TEST(test_eager_moves_move_all),
        TEST(test_retention_leads_astray),
        TEST(test_a_commit_that_is_gone),
        TEST(test_a_topic_that_is_made_anew),
        TEST(test_a_producer_that_blocks),
        TEST(test_ends_and_times_are_asked_for),
        TEST(test_topics_are_looked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
