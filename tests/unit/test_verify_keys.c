/* Signatures and the rotation of keys, as `runsink verify` judges them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/ledger_judge.h"

static void test_unsigned_beginning(void **state) {
    struct keys *k = *state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    s.w.signer = k->ours;
    story_tell(&s, 0, LEDGER_SKIPPED, 5, 9, 0);
    story_end(&s, "unsigned-beginning", 0, &k->ours_pub, 1);

    story_begin(&s, NULL); /* it fails */
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    s.w.signer = k->ours;
    story_tell(&s, 0, LEDGER_SKIPPED, 5, 9, 0);
    world_snapshot(&s.w, &s.snapshot);
    judge(&s.w, &s.snapshot, &k->ours_pub, 1, &s.seen);
    assert_int_equal(s.seen.findings, 1);
    snapshot_free(&s.snapshot);
    world_free(&s.w);
}

static void test_unsigned_end(void **state) {
    struct keys *k = *state;
    struct story s;
    story_begin(&s, k->ours);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    s.w.signer = NULL;
    story_tell(&s, 0, LEDGER_SKIPPED, 5, 9, 0);
    story_end(&s, "unsigned", 5, &k->ours_pub, 1);

    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    story_end(&s, "unsigned", 0, &k->ours_pub, 1);
}

/* Where the auditor knows that signing began later, and only there. */
static void test_unsigned_until(void **state) {
    struct keys *k = *state;
    static const struct {
        const char *until, *code;
        int64_t offset;
        bool goes_on; /* signed ones follow */
    } cases[] = {
        {"jobs/0@2", "unsigned-until", 0, true},  {"jobs/0@3", "unsigned-until", 0, true},
        {"jobs/0@1", "unsigned", 5, true},        {"jobs/1@2", "unsigned-beginning", 0, true},
        {"jobs/0@2", "unsigned-until", 0, false}, {"jobs/0@3", "unsigned", 0, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct story s;
        struct audit_until until;
        assert_true(audit_until_read(str_c(cases[i].until), &until));
        story_begin(&s, NULL);
        story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
        story_tell(&s, 0, LEDGER_SKIPPED, 5, 9, 0);
        s.w.signer = k->ours;
        if (cases[i].goes_on) story_tell(&s, 0, LEDGER_SKIPPED, 9, 11, 0);
        s.seen.until = &until;
        snprintf(s.seen.code, sizeof s.seen.code, "%s", cases[i].code);
        world_snapshot(&s.w, &s.snapshot);
        judge(&s.w, &s.snapshot, &k->ours_pub, 1, &s.seen);
        assert_int_equal(s.seen.with_code, 1);
        assert_int_equal(s.seen.code_offset, cases[i].offset);
        bool sound = strcmp(cases[i].code, "unsigned-until") == 0;
        assert_int_equal(s.seen.findings == 0, sound);
        snapshot_free(&s.snapshot);
        world_free(&s.w);
    }
}

static void test_unsigned_until_is_read_strictly(void **state) {
    (void)state;
    static const char *const bad[] = {
        "",        "jobs", "jobs/0",    "jobs/0@", "jobs/0@x",   "jobs/0@0",  "jobs/0@1 ",
        "jobs/@1", "/0@1", "jobs/0@01", "jobs@1",  "jobs/0@1@2", "jobs/-1@1", "jo bs/0@1"};
    struct audit_until until;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(audit_until_read(str_c(bad[i]), &until));
    assert_true(audit_until_read(str_c("jobs.retry.10s/7@12"), &until));
    assert_string_equal(until.topic, "jobs.retry.10s");
    assert_int_equal(until.partition, 7);
    assert_int_equal(until.seq, 12);
}

/* Writes an entry that carries the statement, although the chain has begun. */
static void tell_introduced(struct story *s, int64_t to) {
    struct world_chain *c = &s->w.chains[0];
    struct ledger_window w = {.group = WORLD_GROUP,
                              .topic = c->topic,
                              .first = c->next,
                              .next = to,
                              .seq = c->seq,
                              .opened_ms = s->w.clock,
                              .settled_ms = s->w.clock,
                              .introduce = true};
    memcpy(w.prev, c->head, SHA256_LEN);
    struct world_line *line = world_add(&s->w);
    ledger_record_key(line->key, sizeof line->key, c->topic, 0);
    assert_true(ledger_encode(&w, s->w.signer, &line->value, c->head));
    c->seq++;
    c->next = to;
}

static void test_rotation(void **state) {
    struct keys *k = *state;
    struct story s;
    rotate(k, k->other, "ours");

    story_begin(&s, k->ours); /* only the old key is given: the statement is followed */
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    s.w.signer = k->other;
    tell_introduced(&s, 9);
    story_tell(&s, 0, LEDGER_SKIPPED, 9, 11, 0);
    tell_introduced(&s, 13); /* another owner: the statement again */
    story_end(&s, "rotated", 5, &k->ours_pub, 1);

    story_begin(&s, k->ours); /* without a statement the new key is a stranger */
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    s.w.signer = k->other;
    story_tell(&s, 0, LEDGER_SKIPPED, 5, 9, 0);
    story_end(&s, "unknown-key", 5, &k->ours_pub, 1);

    struct ledger_pubkey both[] = {k->ours_pub, k->other_pub};
    story_begin(&s, k->ours); /* unless it is given */
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    s.w.signer = k->other;
    story_tell(&s, 0, LEDGER_SKIPPED, 5, 9, 0);
    story_end(&s, NULL, 0, both, 2);
}

/* A deploy in which the old and the new key settle in turn is sound as long as the new one has the
 * last word; a leaked old key alone is not. */
static void test_retired_key(void **state) {
    struct keys *k = *state;
    struct story s;
    for (int last_word = 0; last_word < 2; last_word++) {
        story_begin(&s, k->ours);
        story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
        s.w.signer = k->other;
        tell_introduced(&s, 9);
        s.w.signer = k->ours;
        story_tell(&s, 0, LEDGER_SKIPPED, 9, 11, 0);
        if (last_word) {
            s.w.signer = k->other;
            story_tell(&s, 0, LEDGER_SKIPPED, 11, 12, 0);
        }
        snprintf(s.seen.code, sizeof s.seen.code, "retired-key");
        world_snapshot(&s.w, &s.snapshot);
        judge(&s.w, &s.snapshot, &k->ours_pub, 1, &s.seen);
        assert_int_equal(s.seen.findings, last_word ? 0 : 1);
        assert_int_equal(s.seen.with_code, last_word ? 0 : 1);
        snapshot_free(&s.snapshot);
        world_free(&s.w);
    }
}

/* An entry from before the rotation that stands there again, as it was, says nothing about its key.
 */
static void test_retired_key_repeated(void **state) {
    struct keys *k = *state;
    struct story s;
    rotate(k, k->other, "ours");
    story_begin(&s, k->ours);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    s.w.signer = k->other;
    tell_introduced(&s, 9);
    struct world_line *again = world_add(&s.w);
    const struct world_line *old = &s.w.lines[0];
    memcpy(again->key, old->key, sizeof old->key);
    buf_add(&again->value, old->value.p, old->value.n);
    world_snapshot(&s.w, &s.snapshot);
    snprintf(s.seen.code, sizeof s.seen.code, "repeated");
    judge(&s.w, &s.snapshot, &k->ours_pub, 1, &s.seen);
    assert_int_equal(s.seen.findings, 0);
    assert_int_equal(s.seen.with_code, 1);
    snapshot_free(&s.snapshot);
    world_free(&s.w);
}

/* A key that was replaced can't name another successor. */
static void test_retired_key_rotates_nothing(void **state) {
    struct keys *k = *state;
    struct story s;
    rotate(k, k->third, "ours");
    story_begin(&s, k->ours);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    s.w.signer = k->other;
    tell_introduced(&s, 9);
    s.w.signer = k->third;
    tell_introduced(&s, 11);
    world_snapshot(&s.w, &s.snapshot);
    judge(&s.w, &s.snapshot, &k->ours_pub, 1, &s.seen);
    assert_true(s.seen.findings >= 1);
    assert_non_null(strstr(s.seen.first, "was itself replaced"));
    snapshot_free(&s.snapshot);
    world_free(&s.w);
}

/* A key that was replaced in one chain is replaced in all. Where a chain has no word of the new
 * one, the time says which entries are older, to be believed or not; --replaced-until and anchors
 * know.
 */
static void test_replaced_elsewhere(void **state) {
    struct keys *k = *state;
    static const int64_t day = 24 * 3600 * 1000;
    static const struct {
        int64_t later; /* than the rotation: partition 1's newest entry */
        const char *until;
        int64_t anchored;
        bool goes_on; /* the new key follows there */
        const char *code;
        bool sound;
    } cases[] = {
        {-day, NULL, 0, false, "replaced-key", true},
        {day / 2, NULL, 0, false, "replaced-key", true},
        {day + 9000, NULL, 0, false, "retired-key", false},
        {day + 9000, NULL, 0, true, "retired-key", true},        /* none */
        {-day, "jobs/1@2", 0, false, "replaced-key", true},      /* none */
        {day + 9000, "jobs/1@2", 0, false, "retired-key", true}, /* none */
        {-day, "jobs/1@1", 0, false, "retired-key", false},
        {-day, "jobs/2@1", 0, false, "replaced-key", true},
        {day + 9000, NULL, 1, false, "retired-key", true}, /* none */
    };
    rotate(k, k->other, "ours");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (int learn = 0; learn < 2; learn++) {
            struct story s;
            struct audit_until replaced;
            story_begin(&s, k->ours);
            int64_t now = s.w.clock;
            story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
            story_tell(&s, 1, LEDGER_SKIPPED, 100, 105, 0);
            s.w.clock = now;
            s.w.signer = k->other;
            tell_introduced(&s, 9);
            s.w.signer = k->ours;
            s.w.clock = now + cases[i].later;
            story_tell(&s, 1, LEDGER_SKIPPED, 105, 107, 0);
            s.w.signer = k->other;
            if (cases[i].goes_on) story_tell(&s, 1, LEDGER_SKIPPED, 107, 109, 0);
            if (cases[i].until) assert_true(audit_until_read(str_c(cases[i].until), &replaced));
            if (cases[i].until) s.seen.replaced = &replaced;
            s.seen.anchored = cases[i].anchored;
            s.seen.learn = learn;
            snprintf(s.seen.code, sizeof s.seen.code, "%s", cases[i].code);
            world_snapshot(&s.w, &s.snapshot);
            judge(&s.w, &s.snapshot, &k->ours_pub, 1, &s.seen);
            bool none = cases[i].goes_on || cases[i].anchored ||
                        (cases[i].until && strcmp(cases[i].until, "jobs/1@2") == 0);
            if (s.seen.findings != !cases[i].sound) print_error("case %zu: %s\n", i, s.seen.first);
            assert_int_equal(s.seen.findings, !cases[i].sound);
            assert_int_equal(s.seen.with_code, !none);
            if (!none) assert_int_equal(s.seen.code_offset, 105);
            snapshot_free(&s.snapshot);
            world_free(&s.w);
        }
    }
}

/* The new key is known in chains that begin without the statement, once it was read anywhere. */
static void test_successor_is_known_elsewhere(void **state) {
    struct keys *k = *state;
    rotate(k, k->other, "ours");
    for (int learn = 0; learn < 2; learn++) {
        struct story s;
        story_begin(&s, k->ours);
        story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
        s.w.signer = k->other;
        if (!learn) tell_introduced(&s, 9);
        struct world_chain *c = &s.w.chains[1];
        c->seq = 1; /* a part of the ledger: no entry 0, which would have the statement */
        story_tell(&s, 1, LEDGER_SKIPPED, 100, 105, 0);
        if (learn) tell_introduced(&s, 9);
        s.seen.learn = learn;
        world_snapshot(&s.w, &s.snapshot);
        s.snapshot.partial = true;
        story_end(&s, "rotated", 5, &k->ours_pub, 1);
    }
}

/* A key that was replaced names no other successor, in no chain. */
static void test_two_successors(void **state) {
    struct keys *k = *state;
    struct story s;
    rotate(k, k->other, "ours");
    rotate(k, k->third, "ours");
    story_begin(&s, k->ours);
    story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
    s.w.signer = k->other;
    tell_introduced(&s, 9);
    s.w.signer = k->third;
    story_tell(&s, 1, LEDGER_SKIPPED, 100, 105, 0); /* entry 0 has the statement, too */
    world_snapshot(&s.w, &s.snapshot);
    snprintf(s.seen.code, sizeof s.seen.code, "rotation-refused");
    judge(&s.w, &s.snapshot, &k->ours_pub, 1, &s.seen);
    assert_int_equal(s.seen.with_code, 1);
    snapshot_free(&s.snapshot);
    world_free(&s.w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_unsigned_beginning),
        cmocka_unit_test(test_unsigned_until),
        cmocka_unit_test(test_unsigned_until_is_read_strictly),
        cmocka_unit_test(test_unsigned_end),
        cmocka_unit_test(test_rotation),
        cmocka_unit_test(test_retired_key),
        cmocka_unit_test(test_retired_key_repeated),
        cmocka_unit_test(test_retired_key_rotates_nothing),
        cmocka_unit_test(test_replaced_elsewhere),
        cmocka_unit_test(test_successor_is_known_elsewhere),
        cmocka_unit_test(test_two_successors),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
