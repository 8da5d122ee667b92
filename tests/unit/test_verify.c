/* The judgement of `runsink verify` of chains, rule by rule, on ledgers made in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/ledger_judge.h"

static void test_sound(void **state) {
    struct keys *k = *state;
    for (unsigned seed = 1; seed <= 20; seed++) {
        struct world w;
        struct snapshot snapshot;
        struct seen seen = {0};
        world_make(&w, seed, 60, k->ours);
        world_snapshot(&w, &snapshot);
        judge(&w, &snapshot, &k->ours_pub, 1, &seen);
        if (seen.findings) print_error("%s\n", seen.first);
        assert_int_equal(seen.findings, 0);
        assert_int_equal(seen.notes, 0);
        snapshot_free(&snapshot);
        world_free(&w);
    }
}

static void test_nothing_is_not_sound(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_end(&s, "nothing-verified", -1, NULL, 0);
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    snprintf(s.snapshot.source, sizeof s.snapshot.source, WORLD_SOURCE);
    snprintf(s.snapshot.group, sizeof s.snapshot.group, "a-group-of-nobody");
    story_end(&s, "nothing-verified", -1, NULL, 0);
}

static void test_lost(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    struct ledger_window w = {
        .group = WORLD_GROUP, .topic = WORLD_SOURCE, .first = 0, .next = 9, .lost = true};
    struct world_line *line = world_add(&s.w);
    assert_true(ledger_encode(&w, NULL, &line->value, s.w.chains[0].head));
    ledger_record_key(line->key, sizeof line->key, WORLD_SOURCE, 0);
    s.w.chains[0].seq = 1;
    s.w.chains[0].next = 9;
    story_end(&s, "lost", 0, NULL, 0);
}

static void test_gap_in_a_sound_chain(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    s.w.chains[0].next = 7;
    story_tell(&s, 0, LEDGER_SKIPPED, 7, 9, 0);
    story_end(&s, "gap", 5, NULL, 0);
}

static void test_missing_entries(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    for (int64_t at = 0; at < 20; at += 5) story_tell(&s, 0, LEDGER_SKIPPED, at, at + 5, 0);
    drop_line(&s.w, 1);
    drop_line(&s.w, 1);
    story_end(&s, "missing", 5, NULL, 0);
}

static void test_outside_window(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    s.w.chains[0].next = 2;
    story_tell(&s, 0, LEDGER_SKIPPED, 1, 5, 0);
    story_end(&s, "outside-window", 1, NULL, 0);
}

static void test_two_outcomes_in_one_entry(void **state) {
    (void)state;
    struct story s;
    int64_t offsets[] = {0, 1, 2};
    story_begin(&s, NULL);
    struct ledger_item items[] = {
        {.kind = LEDGER_SKIPPED, .why = "no-sink", .offsets = offsets, .n = 3},
        {.kind = LEDGER_SKIPPED, .why = "tombstone", .offsets = offsets + 2, .n = 1}};
    world_settle(&s.w, 0, 3, items, 2);
    story_end(&s, "two-outcomes", 2, NULL, 0);
}

static void test_committed_beyond_ledger(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    world_snapshot(&s.w, &s.snapshot);
    s.snapshot.committed[0].offset = 6;
    story_end(&s, "offset-differs", 5, NULL, 0);

    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    world_snapshot(&s.w, &s.snapshot);
    s.snapshot.committed[0].meta.head[0] ^= 1;
    story_end(&s, "head-differs", 5, NULL, 0);
}

/* The worker went on settling while the ledger was read. */
static void test_entries_younger_than_the_snapshot(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    world_snapshot(&s.w, &s.snapshot);
    snapshot_add_drained(&s.snapshot, WORLD_SOURCE ".retry.10s");
    story_tell(&s, 0, LEDGER_PARKED, 5, 8, 0);
    story_end(&s, NULL, 0, NULL, 0);
}

/* What the group has committed once the ledger was read: absent, empty, or older than the ledger.
 */
static void test_committed_now(void **state) {
    (void)state;
    static const struct {
        const char *code;
        int64_t offset;
        bool has_meta;
        uint64_t seq;
    } cases[] = {{NULL, 9, true, 2},
                 {NULL, 12, true, 3}, /* it went on */
                 {"committed-missing", -1, false, 0},
                 {"committed-missing", 9, false, 0},
                 {"committed-older", 9, true, 0},
                 {"committed-older", 5, true, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct story s;
        struct snapshot now = {0};
        story_begin(&s, NULL);
        story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
        world_snapshot(&s.w, &s.snapshot);
        story_tell(&s, 0, LEDGER_SKIPPED, 5, 9, 0);
        struct committed *c = snapshot_add(&now);
        snprintf(c->topic, sizeof c->topic, WORLD_SOURCE);
        c->offset = cases[i].offset;
        c->has_meta = cases[i].has_meta;
        c->meta.seq = cases[i].seq;
        s.seen.now = &now;
        story_end(&s, cases[i].code, 9, NULL, 0);
        snapshot_free(&now);
    }
}

/* Entries that no worker writes, though each is well-formed. */
static void test_impossible(void **state) {
    (void)state;
    static const int64_t offsets[] = {3};
    static const struct ledger_item good[] = {
        {.kind = LEDGER_DELIVERED, .key = "k", .status = 204, .offsets = offsets, .n = 1},
        {.kind = LEDGER_DELIVERED, .key = "k", .offsets = offsets, .n = 1},
        {.kind = LEDGER_DEAD, .fault = FAULT_SYSTEM, .why = "x", .offsets = offsets, .n = 1},
        {.kind = LEDGER_PARKED, .tier = "1500ms", .why = "x", .offsets = offsets, .n = 1}};
    static const struct ledger_item bad[] = {
        {.kind = LEDGER_DELIVERED, .key = "k", .status = 500, .offsets = offsets, .n = 1},
        {.kind = LEDGER_DELIVERED, .key = "k", .status = 99, .offsets = offsets, .n = 1},
        {.kind = LEDGER_DEAD, .why = "x", .offsets = offsets, .n = 1},
        {.kind = LEDGER_PARKED, .why = "x", .offsets = offsets, .n = 1},
        {.kind = LEDGER_PARKED, .tier = "nowhere", .why = "x", .offsets = offsets, .n = 1},
        {.kind = LEDGER_PARKED, .tier = "10s/../x", .why = "x", .offsets = offsets, .n = 1}};
    struct story s;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        story_begin(&s, NULL);
        world_settle(&s.w, 0, 5, &good[i], 1);
        story_end(&s, NULL, 0, NULL, 0);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        story_begin(&s, NULL);
        world_settle(&s.w, 0, 5, &bad[i], 1);
        story_end(&s, "impossible", 3, NULL, 0);
    }
}

/* Entries of one record each, with another text in the place of one. */
static void test_impossible_texts(void **state) {
    (void)state;
    static const struct {
        const char *was, *is;
    } cases[] = {{"\"fault\":\"data\"", "\"fault\":\"gods\""},
                 {"\"settled\":1760000000900", "\"settled\":1759999999900"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct story s;
        story_begin(&s, NULL);
        story_tell(&s, 0, LEDGER_DEAD, 0, 1, 0);
        struct buf *b = &s.w.lines[0].value;
        char *at = memmem(b->p, b->n, cases[i].was, strlen(cases[i].was));
        assert_non_null(at);
        memcpy(at, cases[i].is, strlen(cases[i].is));
        uint8_t hash[SHA256_LEN];
        char text[HEX_LEN(SHA256_LEN) + 1];
        at = memmem(b->p, b->n, ",\"hash\":\"", 9);
        sha256(b->p, (size_t)(at - b->p), hash);
        hex(hash, SHA256_LEN, text);
        memcpy(at + 9, text, HEX_LEN(SHA256_LEN));
        memcpy(s.w.chains[0].head, hash, SHA256_LEN);
        story_end(&s, "impossible", 0, NULL, 0);
    }
}

/* A few hundred bytes that speak of millions of records: what that costs is bounded, and less where
 * nobody with a key says it. */
static void test_claims_are_bounded(void **state) {
    struct keys *k = *state;
    static const struct {
        int64_t records;
        bool with_key, is_signed, followed;
    } cases[] = {{10000000, false, false, true},
                 {10000001, false, false, false},
                 {200000, true, true, true},
                 {200000, true, false, false},
                 {100000, true, false, true}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct story s;
        int64_t n = cases[i].records;
        story_begin(&s, cases[i].is_signed ? k->ours : NULL);
        int64_t *offsets = xcalloc((size_t)n, sizeof *offsets);
        for (int64_t v = 0; v < n; v++) offsets[v] = v;
        struct ledger_item item = {
            .kind = LEDGER_SKIPPED, .why = "x", .offsets = offsets, .n = (size_t)n};
        world_settle(&s.w, 0, n, &item, 1);
        free(offsets);
        snprintf(s.seen.code, sizeof s.seen.code, "implausible");
        world_snapshot(&s.w, &s.snapshot);
        judge(&s.w, &s.snapshot, &k->ours_pub, cases[i].with_key, &s.seen);
        assert_int_equal(s.seen.with_code, !cases[i].followed);
        snapshot_free(&s.snapshot);
        world_free(&s.w);
    }
}

static void test_begins_late(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    s.w.chains[0].seq = 4;
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    story_end(&s, "begins-late", 0, NULL, 0);
}

/* --from: chains begin anywhere, or not at all, and so do the records' stories. */
static void test_from(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_PARKED, 0, 5, 0);
    story_tell(&s, 1, LEDGER_SKIPPED, 100, 105, 0);
    story_tell(&s, 0, LEDGER_SKIPPED, 5, 7, 0);
    story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 305, 0);
    drop_line(&s.w, 0);
    drop_line(&s.w, 0);
    world_snapshot(&s.w, &s.snapshot);
    s.snapshot.partial = true;
    story_end(&s, NULL, 0, NULL, 0);
}

/* --to: what comes later is not missed. */
static void test_to(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_PARKED, 0, 5, 0);
    story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 305, 0);
    drop_line(&s.w, 1);
    world_snapshot(&s.w, &s.snapshot);
    snapshot_add_drained(&s.snapshot, WORLD_SOURCE ".retry.10s");
    s.snapshot.unfinished = true;
    story_end(&s, NULL, 0, NULL, 0);
}

/* Settled again after a crash: the same outcomes at another time. */
static void test_repeat_with_other_times(void **state) {
    (void)state;
    struct story s;
    for (int altered = 0; altered < 2; altered++) {
        story_begin(&s, NULL);
        story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
        struct world_chain before = s.w.chains[0];
        story_tell(&s, 0, LEDGER_SKIPPED, 5, 9, 0);
        s.w.chains[0] = before;
        story_tell(&s, 0, altered ? LEDGER_DEAD : LEDGER_SKIPPED, 5, 9, 0);
        story_tell(&s, 0, LEDGER_SKIPPED, 9, 12, 0);
        story_end(&s, altered ? "altered" : "repeated", 5, NULL, 0);
    }
}

/* Somebody has set the group's offset: a chain of its own begins in the middle, once. */
static void test_begun_again(void **state) {
    (void)state;
    static const struct {
        int64_t at, where;
        size_t entries;
        const char *code;
        int64_t earlier_ms; /* so much before the first one's end it was opened */
    } cases[] = {{12, 9, 2, "begun-again", 0}, {9, 9, 2, "begun-again", 0},
                 {3, 3, 2, "begun-again", 0},  {0, 0, 2, "begun-again", 0},
                 {7, 5, 1, "begun-again", 0},  {0, 0, 1, "begun-again", 0},
                 {0, 0, 1, "altered", 901}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct story s;
        story_begin(&s, NULL);
        story_tell(&s, 0, LEDGER_PARKED, 0, 5, 0);
        if (cases[i].entries > 1) story_tell(&s, 0, LEDGER_SKIPPED, 5, 9, 0);
        s.w.chains[0].seq = 0;
        s.w.chains[0].next = cases[i].at;
        memset(s.w.chains[0].head, 0, SHA256_LEN);
        bool again = strcmp(cases[i].code, "begun-again") == 0;
        s.w.clock -= cases[i].earlier_ms;
        story_tell(&s, 0, again ? LEDGER_PARKED : LEDGER_SKIPPED, cases[i].at, cases[i].at + 4, 0);
        story_tell(&s, 0, LEDGER_SKIPPED, cases[i].at + 4, cases[i].at + 6, 0);
        story_end(&s, cases[i].code, cases[i].where, NULL, 0);
    }
}

static void test_wrong_record_key(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    snprintf(s.w.lines[0].key, sizeof s.w.lines[0].key, WORLD_SOURCE "/1");
    story_end(&s, "wrong-key", 0, NULL, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound),
        cmocka_unit_test(test_nothing_is_not_sound),
        cmocka_unit_test(test_lost),
        cmocka_unit_test(test_gap_in_a_sound_chain),
        cmocka_unit_test(test_missing_entries),
        cmocka_unit_test(test_outside_window),
        cmocka_unit_test(test_two_outcomes_in_one_entry),
        cmocka_unit_test(test_committed_beyond_ledger),
        cmocka_unit_test(test_entries_younger_than_the_snapshot),
        cmocka_unit_test(test_committed_now),
        cmocka_unit_test(test_impossible),
        cmocka_unit_test(test_impossible_texts),
        cmocka_unit_test(test_claims_are_bounded),
        cmocka_unit_test(test_begins_late),
        cmocka_unit_test(test_from),
        cmocka_unit_test(test_to),
        cmocka_unit_test(test_repeat_with_other_times),
        cmocka_unit_test(test_begun_again),
        cmocka_unit_test(test_wrong_record_key),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
