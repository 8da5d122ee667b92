/* What `runsink verify` says of records: each has one outcome, and lies in one place until then. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/ledger_judge.h"

static void test_parked_then_delivered(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_PARKED, 0, 5, 0);
    story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 305, 0);
    story_end(&s, NULL, 0, NULL, 0);
}

/* The ledger's partitions are read at their own pace. */
static void test_retry_read_before_source(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 305, 0);
    story_tell(&s, 0, LEDGER_PARKED, 0, 5, 0);
    story_end(&s, NULL, 0, NULL, 0);
}

static void test_pending_is_no_error(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_PARKED, 0, 5, 0);
    story_end(&s, NULL, 0, NULL, 0);
}

static void test_vanished(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_PARKED, 0, 5, 0);
    story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 304, 0);
    world_snapshot(&s.w, &s.snapshot);
    snapshot_add_drained(&s.snapshot, WORLD_SOURCE ".retry.10s");
    story_end(&s, "vanished", 4, NULL, 0);
}

/* The retry topics were read: what is pending is there, whatever was consumed of them. */
static void test_waiting(void **state) {
    (void)state;
    static const int64_t all[] = {2, 3, 4, 77, -1}, some[] = {4, 2, -1}, none[] = {-1};
    static const struct {
        const int64_t *waits;
        int64_t vanished; /* -1: none */
        bool drained, unfinished;
    } cases[] = {{all, -1, false, false},
                 {all, -1, true, false},
                 {some, 3, false, false},
                 {some, 3, false, true},
                 {none, 4, false, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct story s;
        story_begin(&s, NULL);
        story_tell(&s, 0, LEDGER_PARKED, 0, 5, 0);
        story_tell(&s, RETRY, LEDGER_DELIVERED, 300, cases[i].waits == none ? 304 : 302, 0);
        world_snapshot(&s.w, &s.snapshot);
        if (cases[i].drained) snapshot_add_drained(&s.snapshot, WORLD_SOURCE ".retry.10s");
        s.snapshot.unfinished = cases[i].unfinished;
        s.seen.waits = cases[i].waits;
        bool found = cases[i].vanished >= 0 && !cases[i].unfinished;
        story_end(&s, found ? "vanished" : NULL, cases[i].vanished, NULL, 0);
    }
}

/* What was parked after the state that is compared with may be on its way still. */
static void test_waiting_late(void **state) {
    (void)state;
    static const int64_t none[] = {-1};
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    world_snapshot(&s.w, &s.snapshot);
    story_tell(&s, 0, LEDGER_PARKED, 5, 6, 0);
    s.seen.waits = none;
    story_end(&s, NULL, 0, NULL, 0);
}

static void test_second_outcome(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_PARKED, 0, 1, 0);
    story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 301, 0);
    story_tell(&s, RETRY, LEDGER_DELIVERED, 301, 302, 0);
    story_end(&s, "second-outcome", 0, NULL, 0);

    story_begin(&s, NULL); /* the first one in the source topic */
    story_tell(&s, 0, LEDGER_DELIVERED, 0, 1, 0);
    story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 301, 0);
    story_end(&s, "second-outcome", 0, NULL, 0);

    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_DELIVERED, 0, 1, 0);
    story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 301, 1);
    story_end(&s, "never-parked", 1, NULL, 0);

    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_DEAD, 0, 1, 0);
    story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 301, 0);
    story_end(&s, "second-outcome", 0, NULL, 0);
}

static void test_redriven(void **state) {
    (void)state;
    struct story s;
    for (int again = 0; again < 2; again++) {
        story_begin(&s, NULL);
        snprintf(s.w.chains[RETRY + 1].topic, TOPIC_MAX, WORLD_SOURCE ".dead.data");
        s.w.chains[RETRY + 1].next = 0;
        story_tell(&s, 0, LEDGER_DEAD, 0, 3, 0);
        story_tell(&s, RETRY + 1, LEDGER_REDRIVEN, 0, 3, 0);
        story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 303, 0);
        if (again) story_tell(&s, RETRY + 1, LEDGER_REDRIVEN, 3, 4, 2);
        story_end(&s, again ? "parked-twice" : NULL, 2, NULL, 0);
    }
}

/* Back to the source topic it is a new record: the story of the old one has ended. */
static void test_redriven_to_the_source(void **state) {
    (void)state;
    struct story s;
    for (int again = 0; again < 2; again++) {
        story_begin(&s, NULL);
        s.no_tier = true;
        snprintf(s.w.chains[RETRY + 1].topic, TOPIC_MAX, WORLD_SOURCE ".dead.data");
        s.w.chains[RETRY + 1].next = 0;
        story_tell(&s, 0, LEDGER_DEAD, 0, 3, 0);
        story_tell(&s, RETRY + 1, LEDGER_REDRIVEN, 0, 3, 0);
        story_tell(&s, 0, LEDGER_SKIPPED, 3, 6, 0);
        if (again) story_tell(&s, RETRY + 1, LEDGER_REDRIVEN, 3, 4, 2);
        story_end(&s, again ? "second-outcome" : NULL, 2, NULL, 0);
    }
}

/* What was delivered goes again: one more outcome, however the first one came about. */
static void test_replayed(void **state) {
    (void)state;
    enum { AGAIN = RETRY + 1 };
    static const struct {
        enum ledger_kind first; /* of three records of the source topic */
        int64_t before;         /* so many of them come back before the replay */
        int64_t again;          /* and so many after it */
        enum ledger_kind then;
        int64_t replays;
        int64_t origin;
        const char *code;
        int64_t offset;
    } cases[] = {
        {LEDGER_DELIVERED, 0, 3, LEDGER_DELIVERED, 3, 0, NULL, 0},
        {LEDGER_DELIVERED, 0, 2, LEDGER_DELIVERED, 3, 0, NULL, 0}, /* one waits */
        {LEDGER_DELIVERED, 0, 0, LEDGER_DELIVERED, 3, 0, NULL, 0},
        {LEDGER_PARKED, 3, 3, LEDGER_DELIVERED, 3, 0, NULL, 0},
        {LEDGER_PARKED, 3, 1, LEDGER_DEAD, 3, 0, NULL, 0},
        {LEDGER_DELIVERED, 0, 1, LEDGER_PARKED, 1, 0, NULL, 0},
        {LEDGER_DELIVERED, 0, 3, LEDGER_DELIVERED, 2, 0, "second-outcome", 2},
        {LEDGER_PARKED, 3, 2, LEDGER_DELIVERED, 1, 0, "second-outcome", 1},
        {LEDGER_DELIVERED, 0, 1, LEDGER_DELIVERED, 1, 3, "never-delivered", 3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct story s;
        story_begin(&s, NULL);
        snprintf(s.w.chains[AGAIN].topic, TOPIC_MAX, WORLD_SOURCE LEDGER_REPLAYS);
        s.w.chains[AGAIN].next = 0;
        story_tell(&s, 0, cases[i].first, 0, 3, 0);
        int64_t at = 300 + cases[i].before;
        if (cases[i].before) story_tell(&s, RETRY, LEDGER_DELIVERED, 300, at, 0);
        story_tell(&s, AGAIN, LEDGER_REPLAYED, 0, cases[i].replays, cases[i].origin);
        if (cases[i].again)
            story_tell(&s, RETRY, cases[i].then, at, at + cases[i].again, cases[i].origin);
        story_end(&s, cases[i].code, cases[i].offset, NULL, 0);
    }
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_REPLAYED, 0, 1, 0);
    story_end(&s, "wrong-kind", 0, NULL, 0);
}

/* Closed by an operator: its story has ended, and a second ending is one too many. */
static void test_discarded(void **state) {
    (void)state;
    struct story s;
    for (int wrong = 0; wrong < 4; wrong++) {
        story_begin(&s, NULL);
        snprintf(s.w.chains[RETRY + 1].topic, TOPIC_MAX, WORLD_SOURCE ".dead.data");
        s.w.chains[RETRY + 1].next = 0;
        if (wrong != 3) story_tell(&s, 0, LEDGER_DEAD, 0, 3, 0);
        story_tell(&s, RETRY + 1, LEDGER_DISCARDED, 0, wrong == 3 ? 1 : 3, 0);
        if (wrong == 1) story_tell(&s, RETRY + 1, LEDGER_DISCARDED, 3, 4, 2);
        if (wrong == 2) story_tell(&s, RETRY + 1, LEDGER_REDRIVEN, 3, 4, 2);
        static const char *const codes[] = {NULL, "second-outcome", "parked-twice", "never-dead"};
        story_end(&s, codes[wrong], wrong == 3 ? 0 : 2, NULL, 0);
    }
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_DISCARDED, 0, 1, 0);
    story_end(&s, "wrong-kind", 0, NULL, 0);
}

/* One entry, of one record of partition 0, in retry topics (RETRY is 10s, behind it 20s) or a dead
 * one (the last chain, which takes the place of 20s). */
struct told {
    size_t chain;
    enum ledger_kind kind;
    const char *tier;
    enum fault fault;
};

static void tell_one(struct story *s, const struct told *t) {
    int64_t offset = s->w.chains[t->chain].next;
    struct origin origin = {.topic = WORLD_SOURCE};
    struct ledger_item item = {.kind = t->kind,
                               .key = t->kind == LEDGER_DELIVERED ? "k" : NULL,
                               .why = t->kind == LEDGER_DELIVERED ? NULL : "x",
                               .tier = t->tier,
                               .fault = t->fault,
                               .offsets = &offset,
                               .n = 1,
                               .origins = t->chain ? &origin : NULL};
    world_settle(&s->w, t->chain, offset + 1, &item, 1);
}

/* Whatever is read first, a record is only ever taken from where it lies. */
static void test_places(void **state) {
    (void)state;
    enum { TEN = RETRY, OTHER = RETRY + 1 };
    static const struct {
        const char *other; /* the topic of the last chain */
        struct told told[5];
        const char *code;
        size_t n;
    } cases[] = {
        /* Parked again, and delivered. */
        {"jobs.retry.20s",
         {{0, LEDGER_PARKED, "10s", 0},
          {TEN, LEDGER_PARKED, "20s", 0},
          {OTHER, LEDGER_DELIVERED, 0, 0}},
         NULL,
         3},
        /* Delivered by the topic where it does not wait. */
        {"jobs.retry.20s",
         {{0, LEDGER_PARKED, "10s", 0}, {OTHER, LEDGER_DELIVERED, 0, 0}},
         "wrong-place",
         2},
        /* Parked again once it was delivered, in the same topic or by another. */
        {"jobs.retry.20s",
         {{0, LEDGER_PARKED, "10s", 0},
          {TEN, LEDGER_DELIVERED, 0, 0},
          {TEN, LEDGER_PARKED, "20s", 0}},
         "parked-twice",
         3},
        {"jobs.retry.20s",
         {{0, LEDGER_PARKED, "10s", 0},
          {TEN, LEDGER_DELIVERED, 0, 0},
          {OTHER, LEDGER_PARKED, "10s", 0}},
         "parked-twice",
         3},
        {"jobs.retry.20s",
         {{0, LEDGER_DELIVERED, 0, 0}, {TEN, LEDGER_PARKED, "20s", 0}},
         "parked-twice",
         2},
        {"jobs.retry.20s",
         {{OTHER, LEDGER_PARKED, "10s", 0},
          {0, LEDGER_PARKED, "10s", 0},
          {TEN, LEDGER_DELIVERED, 0, 0}},
         "wrong-place",
         3},
        /* Dead, back, delivered; from another dead topic than it died into; once it was delivered.
         */
        {"jobs.dead.data",
         {{0, LEDGER_DEAD, 0, FAULT_DATA},
          {OTHER, LEDGER_REDRIVEN, "10s", 0},
          {TEN, LEDGER_DELIVERED, 0, 0}},
         NULL,
         3},
        {"jobs.dead.data",
         {{0, LEDGER_DEAD, 0, FAULT_TENANT},
          {OTHER, LEDGER_REDRIVEN, "10s", 0},
          {TEN, LEDGER_DELIVERED, 0, 0}},
         "wrong-place",
         3},
        {"jobs.dead.data",
         {{0, LEDGER_PARKED, "10s", 0},
          {TEN, LEDGER_DELIVERED, 0, 0},
          {TEN, LEDGER_DEAD, 0, FAULT_DATA},
          {OTHER, LEDGER_REDRIVEN, "20s", 0}},
         "parked-twice",
         4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct story s;
        story_begin(&s, NULL);
        snprintf(s.w.chains[OTHER].topic, TOPIC_MAX, "%s", cases[i].other);
        for (size_t k = 0; k < cases[i].n; k++) tell_one(&s, &cases[i].told[k]);
        story_end(&s, cases[i].code, 0, NULL, 0);
    }
}

/* The second delay's entry is read before the first one's: the story is not over between them, be
 * it one of a topic that was made anew. */
static void test_made_anew_in_another_order(void **state) {
    (void)state;
    enum { TEN = RETRY, OTHER = RETRY + 1 };
    struct story s;
    story_begin(&s, NULL);
    snprintf(s.w.chains[OTHER].topic, TOPIC_MAX, WORLD_SOURCE ".retry.20s");
    story_tell(&s, 0, LEDGER_DELIVERED, 0, 3, 0);
    world_anew(&s.w, 0, 0);
    tell_one(&s, &(struct told){OTHER, LEDGER_DELIVERED, 0, 0});
    tell_one(&s, &(struct told){0, LEDGER_PARKED, "10s", 0});
    tell_one(&s, &(struct told){TEN, LEDGER_PARKED, "20s", 0});
    story_end(&s, "made-anew", 0, NULL, 0);
}

/* It waits where it was parked by the last entry of its story, whichever was read last. */
static void test_vanished_whatever_is_read_first(void **state) {
    (void)state;
    for (int first = 0; first < 2; first++) {
        for (int drained = 0; drained < 2; drained++) {
            struct story s;
            const struct told again = {RETRY, LEDGER_PARKED, "20s", 0};
            story_begin(&s, NULL);
            if (first) tell_one(&s, &again);
            story_tell(&s, 0, LEDGER_PARKED, 0, 1, 0);
            if (!first) tell_one(&s, &again);
            world_snapshot(&s.w, &s.snapshot);
            snapshot_add_drained(&s.snapshot, drained ? "jobs.retry.20s" : "jobs.retry.10s");
            story_end(&s, drained ? "vanished" : NULL, 0, NULL, 0);
        }
    }
}

/* Letters that lie in the dead topic, beside what entries call dead: offsets 2 to 5, and 9 by a
 * retry topic; of these 3 was closed. An answer each: 0 said, 1 repeated, 2 strange, 3 unknown. */
static void test_letters(void **state) {
    (void)state;
    static const struct {
        int64_t letters[8];
        const char *answers;
        int64_t gone; /* -1: none */
        bool expired, unfinished;
    } cases[] = {{{2, 4, 5, 9, -1}, "0000", -1, false, false},
                 {{2, 2, 4, 5, 9, -1}, "01000", -1, false, false},
                 {{2, 4, 5, 9, 1, 8, 99, -1}, "0000222", -1, false, false},
                 {{3, 2, 4, 5, 9, -1}, "20000", -1, false, false},
                 {{2, 4, 9, -1}, "000", 5, false, false},
                 {{2, 4, 5, -1}, "000", 9, false, false},
                 {{2, 4, -1}, "00", -1, true, false},
                 {{2, 4, 7, -1}, "333", -1, false, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct story s;
        story_begin(&s, NULL);
        snprintf(s.w.chains[RETRY + 1].topic, TOPIC_MAX, WORLD_SOURCE ".dead.data");
        s.w.chains[RETRY + 1].next = 1;
        story_tell(&s, 0, LEDGER_DELIVERED, 0, 2, 0);
        story_tell(&s, 0, LEDGER_DEAD, 2, 6, 0);
        story_tell(&s, 0, LEDGER_PARKED, 6, 10, 0);
        story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 303, 6);
        story_tell(&s, RETRY, LEDGER_DEAD, 303, 304, 9);
        story_tell(&s, RETRY + 1, LEDGER_DISCARDED, 1, 2, 3);
        world_snapshot(&s.w, &s.snapshot);
        s.snapshot.unfinished = cases[i].unfinished;
        s.seen.letters = cases[i].letters;
        s.seen.letters_since = cases[i].expired ? s.w.clock + 1 : 1;
        struct seen *seen = &s.seen;
        story_end(&s, cases[i].gone >= 0 ? "letter-gone" : NULL, cases[i].gone, NULL, 0);
        assert_string_equal(seen->answers, cases[i].answers);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parked_then_delivered),
        cmocka_unit_test(test_retry_read_before_source),
        cmocka_unit_test(test_pending_is_no_error),
        cmocka_unit_test(test_vanished),
        cmocka_unit_test(test_waiting),
        cmocka_unit_test(test_waiting_late),
        cmocka_unit_test(test_second_outcome),
        cmocka_unit_test(test_redriven),
        cmocka_unit_test(test_redriven_to_the_source),
        cmocka_unit_test(test_discarded),
        cmocka_unit_test(test_replayed),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_made_anew_in_another_order),
        cmocka_unit_test(test_vanished_whatever_is_read_first),
        cmocka_unit_test(test_letters),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
