/* What `runsink verify` makes of an entry's form: cluster, rules, newest record; and of topics that
 * were made anew. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/ledger_judge.h"

/* ---- form 2 ---- */

/* One entry of partition 0, of ten records, in form 2 unless cluster is NULL. */
static void form2_add(struct world *w, const char *cluster, uint8_t rule) {
    struct world_chain *c = &w->chains[0];
    const uint8_t rules[LEDGER_RULES_LEN] = {rule};
    const struct ledger_maker maker = {cluster, rules};
    struct ledger_last last = {.offset = c->next + 9, .timestamp_ms = 7, .bytes = 5};
    int64_t offsets[10];
    for (int i = 0; i < 10; i++) offsets[i] = c->next + i;
    const struct ledger_item item = {
        .kind = LEDGER_SKIPPED, .why = "no-sink", .offsets = offsets, .n = 10};
    struct ledger_window window = {.maker = cluster ? &maker : NULL,
                                   .last = &last,
                                   .group = WORLD_GROUP,
                                   .topic = WORLD_SOURCE,
                                   .first = c->next,
                                   .next = c->next + 10,
                                   .seq = c->seq++,
                                   .opened_ms = w->clock,
                                   .settled_ms = w->clock,
                                   .items = &item,
                                   .n_items = 1};
    memcpy(window.prev, c->head, SHA256_LEN);
    struct world_line *line = world_add(w);
    ledger_record_key(line->key, sizeof line->key, WORLD_SOURCE, 0);
    assert_true(ledger_encode(&window, NULL, &line->value, c->head));
    c->next += 10;
    w->clock += 1000;
}

static struct audit *form2_audit(const struct world *w, const char *cluster, struct seen *seen) {
    *seen = (struct seen){.world = w, .code = "other-cluster"};
    struct audit_options opts = {.source = WORLD_SOURCE,
                                 .group = WORLD_GROUP,
                                 .cluster = cluster,
                                 .keep_seen = true,
                                 .report = watch,
                                 .context = seen};
    struct audit *a = audit_new(&opts);
    for (size_t i = 0; i < w->n; i++) {
        const struct buf *b = &w->lines[i].value;
        struct ledger_place place = {.name = "test", .offset = (int64_t)i};
        audit_entry(a, str_c(w->lines[i].key), (struct str){b->p, b->n}, &place);
    }
    audit_finish(a);
    return a;
}

/* clusters: a letter each, in the order of the entries; '-': an entry of form 1. */
static void form2_world(struct world *w, const char *clusters) {
    world_make(w, 1, 0, NULL);
    for (; *clusters; clusters++) {
        const char name[] = {*clusters == '0' ? '\0' : *clusters, '\0'};
        form2_add(w, *clusters == '-' ? NULL : name, 1);
    }
}

static void test_clusters(void **state) {
    (void)state;
    static const struct {
        const char *entries, *now;
        size_t findings;
    } cases[] = {
        {"aaa", "a", 0},  {"aaa", NULL, 0}, {"aaa", "", 0},   {"---", "a", 0}, {"-a-a", "a", 0},
        {"000", "a", 0},  {"a0a", "a", 0},  {"bbb", "a", 1},  {"bba", "a", 2}, {"aab", "a", 1},
        {"aab", NULL, 1}, {"a-b", NULL, 1}, {"a0b", NULL, 1}, {"aba", "a", 2}, {"-b-b", "a", 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct world w;
        struct seen seen;
        form2_world(&w, cases[i].entries);
        struct audit *a = form2_audit(&w, cases[i].now, &seen);
        if (seen.findings != cases[i].findings || seen.with_code != cases[i].findings)
            print_error("%s on %s: %s\n", cases[i].entries, cases[i].now, seen.first);
        assert_int_equal(seen.findings, cases[i].findings);
        assert_int_equal(seen.with_code, cases[i].findings);
        audit_free(a);
        world_free(&w);
    }
}

static void test_scope_of_form_2(void **state) {
    (void)state;
    static const struct {
        const char *entries;
        uint64_t form2, from;
        bool whole;
    } cases[] = {{"aaa", 3, 0, true},
                 {"-aa", 2, 1, true},
                 {"a-aa", 3, 2, true},
                 {"aa-", 2, 0, false},
                 {"--", 0, 0, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct world w;
        struct seen seen;
        const struct audit_row *row;
        form2_world(&w, cases[i].entries);
        struct audit *a = form2_audit(&w, NULL, &seen);
        assert_int_equal(audit_rows(a, &row), 1);
        assert_int_equal(row->form2, cases[i].form2);
        assert_int_equal(row->form2_whole, cases[i].whole);
        if (cases[i].whole) assert_int_equal(row->form2_from, cases[i].from);
        assert_int_equal(seen.findings, 0);
        audit_free(a);
        world_free(&w);
    }
}

/* Rules may change: which ones there were is told, and when. */
static void test_rules_that_change(void **state) {
    (void)state;
    struct world w;
    struct seen seen;
    const struct audit_row *row;
    const struct audit_rules *rules;
    world_make(&w, 1, 0, NULL);
    int64_t begun = w.clock;
    form2_add(&w, "a", 1);
    form2_add(&w, "a", 1);
    form2_add(&w, "a", 2);
    form2_add(&w, "a", 1);
    struct audit *a = form2_audit(&w, "a", &seen);
    assert_int_equal(seen.findings, 0);
    assert_int_equal(audit_rules(a, &rules), 2);
    assert_int_equal(rules[0].rules[0], 1);
    assert_int_equal(rules[0].entries, 3);
    assert_int_equal(rules[0].from_ms, begun);
    assert_int_equal(rules[0].to_ms, begun + 3000);
    assert_int_equal(rules[1].entries, 1);
    assert_int_equal(audit_rows(a, &row), 1);
    assert_int_equal(row->rules[0], 1);
    assert_int_equal(row->rules_from, 3);
    audit_free(a);
    world_free(&w);
}

/* What an entry says of its newest record is kept, however many there are, and forgotten with the
 * topic. */
static void test_newest_records(void **state) {
    (void)state;
    struct world w;
    struct seen seen;
    world_make(&w, 1, 0, NULL);
    for (int i = 0; i < 5000; i++) form2_add(&w, "a", 1);
    struct audit *a = form2_audit(&w, "a", &seen);
    size_t kept = 0;
    for (int64_t offset = 0; offset < 50000; offset++) {
        const struct ledger_last *last = audit_last(a, WORLD_SOURCE, 0, offset);
        kept += last != NULL;
        if (last) assert_true(offset % 10 == 9 && last->offset == offset);
    }
    assert_true(kept > 500 && kept <= 1024);
    assert_non_null(audit_last(a, WORLD_SOURCE, 0, 49999));
    assert_null(audit_last(a, WORLD_SOURCE, 1, 9));
    audit_free(a);
    world_anew(&w, 0, 0);
    a = form2_audit(&w, "a", &seen);
    for (int64_t offset = 0; offset < 50000; offset++)
        assert_null(audit_last(a, WORLD_SOURCE, 0, offset));
    audit_free(a);
    world_free(&w);
}

/* A repeated entry is none of the same records when their newest one is another. */
static void test_repeat_of_other_records(void **state) {
    (void)state;
    for (int differs = 0; differs < 2; differs++) {
        struct world w;
        struct seen seen;
        world_make(&w, 1, 0, NULL);
        form2_add(&w, "a", 1);
        w.chains[0].seq = 0;
        w.chains[0].next = 0;
        memset(w.chains[0].head, 0, SHA256_LEN);
        form2_add(&w, differs ? "a" : NULL, 2); /* by another version, or configuration */
        if (differs) {
            char *at = strstr(buf_cstr(&w.lines[1].value), "\"last\":[9,7,");
            at[10] = '8';
            struct buf *b = &w.lines[1].value;
            const char *mark = strstr(buf_cstr(b), ",\"hash\":\"");
            uint8_t digest[SHA256_LEN];
            sha256(b->p, (size_t)(mark - b->p), digest);
            char text[HEX_LEN(SHA256_LEN) + 1];
            hex(digest, SHA256_LEN, text);
            memcpy(b->p + (mark - b->p) + strlen(",\"hash\":\""), text, HEX_LEN(SHA256_LEN));
        }
        struct audit *a = form2_audit(&w, "a", &seen);
        assert_int_equal(seen.findings, differs);
        audit_free(a);
        world_free(&w);
    }
}

/* The topic was deleted and made anew: offsets begin again, and what was parked of the old one
 * still has its outcome to come, among those of the new one's records. */
static void test_made_anew(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_DELIVERED, 0, 3, 0);
    story_tell(&s, 0, LEDGER_PARKED, 3, 5, 0);
    world_anew(&s.w, 0, 2);
    story_tell(&s, 0, LEDGER_DELIVERED, 2, 4, 0);
    story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 302, 3);
    story_end(&s, "made-anew", 2, NULL, 0);

    for (int order = 0; order < 3; order++) { /* both topics' record 3 */
        story_begin(&s, NULL);
        if (order == 1) story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 301, 3);
        story_tell(&s, 0, LEDGER_PARKED, 0, 5, 0);
        if (order == 2) story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 301, 3);
        world_anew(&s.w, 0, 0);
        story_tell(&s, 0, LEDGER_PARKED, 0, 4, 0);
        if (order == 0) story_tell(&s, RETRY, LEDGER_DELIVERED, 300, 301, 3);
        story_tell(&s, RETRY, LEDGER_DELIVERED, 301, 302, 3);
        story_end(&s, "made-anew", 0, NULL, 0);
    }
}

static void test_made_anew_twice_delivered(void **state) {
    (void)state;
    struct story s;
    story_begin(&s, NULL);
    story_tell(&s, 0, LEDGER_PARKED, 0, 1, 0);
    world_anew(&s.w, 0, 0);
    story_tell(&s, 0, LEDGER_PARKED, 0, 1, 0);
    for (int64_t at = 300; at < 303; at++) story_tell(&s, RETRY, LEDGER_DELIVERED, at, at + 1, 0);
    world_snapshot(&s.w, &s.snapshot);
    judge(&s.w, &s.snapshot, NULL, 0, &s.seen);
    assert_int_equal(s.seen.findings, 1);
    snapshot_free(&s.snapshot);
    world_free(&s.w);
}

/* That it was made anew excuses nothing of what was before: the entry names where that ended. */
static void test_made_anew_in_the_wrong_place(void **state) {
    (void)state;
    struct story s;
    for (int64_t ends = 3; ends < 8; ends += 4) {
        story_begin(&s, NULL);
        story_tell(&s, 0, LEDGER_DELIVERED, 0, 5, 0);
        s.w.chains[0].next = ends;
        world_anew(&s.w, 0, 0);
        world_snapshot(&s.w, &s.snapshot);
        snprintf(s.seen.code, sizeof s.seen.code, "%s", ends < 5 ? "overlap" : "gap");
        judge(&s.w, &s.snapshot, NULL, 0, &s.seen);
        assert_int_equal(s.seen.with_code, 1);
        assert_int_equal(s.seen.findings, 1);
        snapshot_free(&s.snapshot);
        world_free(&s.w);
    }
    story_begin(&s, NULL);
    world_anew(&s.w, 0, 0);
    world_snapshot(&s.w, &s.snapshot);
    snprintf(s.seen.code, sizeof s.seen.code, "chain-broken");
    judge(&s.w, &s.snapshot, NULL, 0, &s.seen);
    assert_int_equal(s.seen.with_code, 1);
    snapshot_free(&s.snapshot);
    world_free(&s.w);
}

/* ---- which records were seen ---- */

static void ignore(void *context, const struct finding *f) {
    (void)context, (void)f;
}

static void see(bool anew) {
    struct world w;
    struct audit_options opts = {
        .group = WORLD_GROUP, .source = WORLD_SOURCE, .keep_seen = true, .report = ignore};
    struct audit *a = audit_new(&opts);
    world_make_some(&w, 3, 50, NULL, anew);
    for (size_t i = 0; i < w.n; i++) {
        struct ledger_place place = {.name = PLACE, .offset = (int64_t)i};
        audit_entry(a, str_c(w.lines[i].key), (struct str){w.lines[i].value.p, w.lines[i].value.n},
                    &place);
    }
    for (int64_t v = 0; v < w.chains[0].next; v++)
        assert_int_equal(audit_seen(a, WORLD_SOURCE, 0, v),
                         v % 7 != 6 || v + 1 == w.chains[0].next || (anew && v < 3));
    assert_true(audit_seen(a, WORLD_SOURCE, 0, w.chains[0].next)); /* not settled yet */
    assert_true(audit_seen(a, WORLD_SOURCE, 9, 0));                /* no chain */
    assert_int_equal(audit_covers(a, WORLD_SOURCE, 1, 99), AUDIT_BEFORE);
    assert_int_equal(audit_covers(a, WORLD_SOURCE, 1, 100), AUDIT_COVERED);
    assert_int_equal(audit_covers(a, WORLD_SOURCE, 1, w.chains[1].next - 1), AUDIT_COVERED);
    assert_int_equal(audit_covers(a, WORLD_SOURCE, 1, w.chains[1].next), AUDIT_BEYOND);
    assert_int_equal(audit_covers(a, WORLD_SOURCE, 9, 0), AUDIT_BEYOND);
    audit_expect(a, WORLD_SOURCE, 9, 5, NULL);
    assert_int_equal(audit_covers(a, WORLD_SOURCE, 9, 4), AUDIT_BEFORE);
    assert_int_equal(audit_covers(a, WORLD_SOURCE, 9, 5), AUDIT_BEYOND);
    audit_free(a);
    world_free(&w);
}

/* What was seen of a topic that is gone says nothing of the one that has its name now. */
static void test_seen(void **state) {
    (void)state;
    see(false);
    see(true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clusters),
        cmocka_unit_test(test_scope_of_form_2),
        cmocka_unit_test(test_rules_that_change),
        cmocka_unit_test(test_newest_records),
        cmocka_unit_test(test_repeat_of_other_records),
        cmocka_unit_test(test_made_anew),
        cmocka_unit_test(test_made_anew_twice_delivered),
        cmocka_unit_test(test_made_anew_in_the_wrong_place),
        cmocka_unit_test(test_seen),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
