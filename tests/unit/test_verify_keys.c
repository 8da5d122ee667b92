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
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
