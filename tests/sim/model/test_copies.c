/* Workers that copy a topic under trouble: each record once; and that broken rules show. */
#include <stdio.h>

#include "tests/sim/model/small_world.h"
#include "worker/kafka/ledger_search.h"
#include "worker/ledger/entry.h"

/* ---- the ledger ---- */

static void put_entry(int64_t first, int64_t next, uint64_t seq) {
    struct buf value;
    uint8_t hash[SHA256_LEN];
    struct ledger_window w = {.group = "g",
                              .topic = "in",
                              .partition = 1,
                              .first = first,
                              .next = next,
                              .seq = seq,
                              .opened_ms = WORLD_EPOCH_MS,
                              .settled_ms = WORLD_EPOCH_MS + 1000,
                              .lost = true};
    buf_init(&value, 65536);
    assert_true(ledger_encode(&w, NULL, &value, hash));
    broker_produce("in.ledger", 0, str_c(NULL), (struct str){value.p, value.n}, NULL, 0, 0);
    buf_free(&value);
}

static void test_the_ledger_is_searched(void **state) {
    (void)state;
    static const struct ledger_place places[] = {{"in", 0}, {"in", 1}, {"in.retry.1s", 1}};
    struct config cfg = {.group = (char *)(uintptr_t) "g"};
    const char *error;
    bool older;
    broker_make_topic("in.ledger", 1);
    for (int i = 0; i < 9; i++) produce(1, "a");
    put_entry(0, 4, 0);
    put_entry(4, 7, 1);
    uint64_t t = broker_begin("in.ledger", 0);
    broker_produce_in(t, str_c(NULL), str_c("x"), NULL, 0);
    struct ledger_search *s = ledger_search_new(&cfg, "in", places, 3, 0, NULL);
    run(5000);
    assert_int_equal(ledger_search_state(s, &error), LEDGER_SEARCH_ON);
    broker_end(t, false);
    run(1000);
    assert_int_equal(ledger_search_state(s, &error), LEDGER_SEARCH_DONE);
    assert_null(ledger_search_mark(s, "in", 0, &older));
    assert_null(ledger_search_mark(s, "in.retry.1s", 1, &older));
    const struct mark *mark = ledger_search_mark(s, "in", 1, &older);
    assert_int_equal(mark->next, 7);
    assert_int_equal(mark->seq, 1);
    assert_false(older);
    ledger_search_free(s);
}

/* An entry that says what record 6 was. */
static void put_entry_of(struct str value, int64_t time_ms) {
    static const uint8_t rules[LEDGER_RULES_LEN];
    const struct ledger_maker maker = {"c", rules};
    struct ledger_last last = {6, time_ms, (uint32_t)value.n};
    struct buf bytes;
    uint8_t hash[SHA256_LEN];
    struct ledger_window w = {.maker = &maker,
                              .last = &last,
                              .group = "g",
                              .topic = "in",
                              .partition = 1,
                              .next = 7,
                              .opened_ms = WORLD_EPOCH_MS,
                              .settled_ms = WORLD_EPOCH_MS + 1000};
    buf_init(&bytes, 65536);
    assert_true(ledger_encode(&w, NULL, &bytes, hash));
    broker_produce("in.ledger", 0, str_c(NULL), (struct str){bytes.p, bytes.n}, NULL, 0, 0);
    buf_free(&bytes);
}

static bool search_says_older(void) {
    static const struct ledger_place places[] = {{"in", 1}};
    struct config cfg = {.group = (char *)(uintptr_t) "g"};
    const char *error;
    bool older = false;
    struct ledger_search *s = ledger_search_new(&cfg, "in", places, 1, 0, NULL);
    run(5000);
    assert_int_equal(ledger_search_state(s, &error), LEDGER_SEARCH_DONE);
    assert_non_null(ledger_search_mark(s, "in", 1, &older));
    ledger_search_free(s);
    return older;
}

/* The record tells, whatever its time is: by times of the past it would be one that was read. */
static void test_another_topic_of_the_past(void **state) {
    (void)state;
    struct broker_record r;
    broker_make_topic("in.ledger", 1);
    for (int i = 0; i < 9; i++) produce(1, i == 6 ? "it" : "a");
    assert_true(broker_read("in", 1, 6, &r) && r.offset == 6);
    put_entry_of(str_c("it"), r.time_ms);
    assert_false(search_says_older());
    broker_make_anew("in");
    for (int i = 0; i < 9; i++)
        broker_produce("in", 1, str_c(NULL), str_c("it"), NULL, 0, WORLD_EPOCH_MS - 1000000);
    assert_true(search_says_older());
}

/* ---- fleets ---- */

/* Each record of "in" is copied to "out", which a transaction does together with the offset. */
static void begin_copy(struct worker *w) {
    struct feed_head head;
    char *text;
    struct txn *job = txn_new_member(w->consumer);
    for (size_t i = 0; job && i < w->n; i++) {
        struct place *p = &w->places[i];
        int64_t next = p->from = -1;
        if (p->loaded && feed_peek(p->feed, &head) == FEED_ASTRAY)
            feed_move(p->feed, FEED_BEGINNING); /* eager: nothing is committed */
        for (int n = 0; p->loaded && n < 5 && feed_peek(p->feed, &head) == FEED_MESSAGE; n++) {
            struct fetched *m = feed_take(p->feed);
            text = arena_alloc(&job->arena, 48);
            snprintf(text, 48, "%d/%lld", p->partition, (long long)fetched_offset(m));
            struct txn_record *r = txn_add(job);
            r->topic = "out";
            r->value = text;
            r->value_len = strlen(text);
            if (p->from < 0) p->from = fetched_offset(m);
            next = fetched_offset(m) + 1;
            fetched_free(m);
        }
        if (next >= 0) txn_offset(job, "in", p->partition, next, "");
    }
    if (job && job->n_records) {
        w->job = job;
        producer_submit(w->producer, job);
    } else {
        txn_free(job);
    }
}

/* What did not happen is read again. */
static void read_again(struct worker *w) {
    for (size_t i = 0; i < w->n; i++)
        if (w->places[i].from >= 0) feed_move(w->places[i].feed, w->places[i].from);
}

/* Nobody knows what happened: all is taken up anew from what is committed. */
static void start_anew(struct worker *w) {
    consumer_close(w->consumer);
    producer_free(w->producer);
    consumer_free(w->consumer, false);
    uint64_t process = w->process;
    w->job = NULL;
    w->n = 0;
    join_group(w);
    world.process = process;
}

static void copy_turn(struct worker *w) {
    struct txn *job = producer_take(w->producer);
    enum txn_result result = job ? job->result : TXN_DONE;
    if (job) w->job = NULL;
    txn_free(job);
    if (result == TXN_UNKNOWN)
        start_anew(w);
    else if (result != TXN_DONE)
        read_again(w);
    else if (!w->job && producer_state(w->producer, NULL, 0) == PRODUCER_READY)
        begin_copy(w);
}

/* A few workers with trouble, then none. Returns how many records are not there exactly once. */
static unsigned copy_all(uint64_t seed, bool eager, const char *broken) {
    static const struct broker_faults trouble = {.latency_us = 50000,
                                                 .session_us = 6000000,
                                                 .txn_timeout_us = 10000000,
                                                 .slow_coordinator = 30,
                                                 .stale_answer = 20,
                                                 .lost_answer = 20,
                                                 .abort = 20,
                                                 .unstable = 50,
                                                 .topic_gone = 10};
    char name[2] = "a";
    int64_t made[PARTITIONS] = {0};
    open_with(trouble, seed);
    world.broken = broken;
    for (int round = 0; round < 60; round++) {
        struct worker *w = &workers[round % 3];
        name[0] = (char)('a' + round % 3);
        if (!w->consumer)
            w = start(round % 3, eager ? name : "");
        else if (world_chance(200))
            kill_worker(w);
        else
            world.frozen[w->process] = world_chance(300);
        w->also = copy_turn;
        for (int i = 0; i < 5; i++) {
            int32_t p = (int32_t)world_draw(PARTITIONS);
            produce(p, "v");
            made[p]++;
        }
        run(world_between(100, 4000));
    }
    memset(world.frozen, 0, sizeof world.frozen);
    broker_calm();
    for (int i = 0; i < 3; i++) {
        name[0] = (char)('a' + i);
        if (!workers[i].consumer) start(i, eager ? name : "")->also = copy_turn;
    }
    run(60000);
    unsigned wrong = 0;
    for (int32_t p = 0; p < PARTITIONS; p++) {
        for (int64_t at = 0; at < made[p]; at++) {
            char text[48];
            unsigned n = 0;
            struct broker_record r;
            snprintf(text, sizeof text, "%d/%lld", p, (long long)at);
            for (int64_t o = 0; broker_read("out", 0, o, &r); o = r.offset + 1)
                n += str_is(r.value, text);
            wrong += n != 1;
        }
        wrong += broker_committed("in", p, NULL) != made[p] && made[p];
    }
    return wrong + world.failures;
}

static void test_each_record_once(void **state) {
    (void)state;
    broker_close();
    const char *more = getenv("SEEDS");
    for (uint64_t seed = 1; seed <= (more ? (uint64_t)atoi(more) : 40); seed++) {
        unsigned wrong = copy_all(seed, seed % 2, NULL);
        broker_close();
        if (wrong || strangers)
            fail_msg("seed %llu: %u, %u", (unsigned long long)seed, wrong, strangers);
    }
    open_with(calm, 1);
}

/* Rule 1 broken: the membership of the moment in which offsets are sent. */
static void test_a_broken_rule_shows(void **state) {
    (void)state;
    unsigned wrong = 0;
    broker_close();
    for (uint64_t seed = 1; seed <= 40; seed++) {
        wrong += copy_all(seed, seed % 2, "membership");
        wrong += strangers;
        broker_close();
    }
    assert_true(wrong > 0);
    open_with(calm, 1);
}

static void test_a_seed_makes_one_run(void **state) {
    (void)state;
    broker_close();
    copy_all(7, false, NULL);
    uint64_t digest = world.digest;
    broker_close();
    copy_all(7, false, NULL);
    assert_true(digest == world.digest);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_the_ledger_is_searched), TEST(test_another_topic_of_the_past),
        TEST(test_each_record_once),       TEST(test_a_broken_rule_shows),
        TEST(test_a_seed_makes_one_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
