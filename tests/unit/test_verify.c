/* The judgement of `runsink verify`, rule by rule, on ledgers made in memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/ledger_judge.h"
#include "worker/tools/spans.h"

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

/* ---- records and files ---- */

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

/* Against a plain array of bits. */
static void test_spans(void **state) {
    (void)state;
    struct world w = {.random = 3};
    for (int round = 0; round < 200; round++) {
        enum { N = 300 };
        struct spans spans = {0};
        bool bits[N] = {false};
        for (int i = 0; i < 60; i++) {
            struct ledger_range r = {.a = world_random(&w, N)};
            r.z = r.a + world_random(&w, i % 2 ? 3 : 30);
            if (r.z >= N) r.z = N - 1;
            spans_add(&spans, r);
            for (int64_t v = r.a; v <= r.z; v++) bits[v] = true;
        }
        size_t runs = 0;
        for (int64_t v = 0; v < N; v++) {
            assert_int_equal(spans_has(&spans, v), bits[v]);
            runs += bits[v] && (v == 0 || !bits[v - 1]);
        }
        assert_int_equal(spans.n, runs);
        spans_free(&spans);
    }
}

static void test_files(void **state) {
    struct keys *k = *state;
    char dir[128];
    struct world w;
    struct snapshot snapshot, again = {0};
    struct seen seen = {0};
    struct buf err;
    buf_init(&err, 4096);
    snprintf(dir, sizeof dir, "%s/export", k->dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    world_make(&w, 5, 40, k->ours);
    world_snapshot(&w, &snapshot);
    snapshot_add_drained(&snapshot, WORLD_SOURCE ".retry.40s");
    write_export(&w, &snapshot, dir, 1, true);
    snprintf(dir, sizeof dir, "%s/export/0001", k->dir);
    assert_false(export_open(dir, &err)); /* never on top of another */

    assert_true(files_snapshot(dir, &again, &err));
    assert_int_equal(again.n_committed, snapshot.n_committed);
    assert_memory_equal(again.committed[4].meta.head, snapshot.committed[4].meta.head, SHA256_LEN);
    assert_string_equal(again.drained[0], WORLD_SOURCE ".retry.40s");
    struct audit_options opts = {.group = WORLD_GROUP,
                                 .source = again.source,
                                 .keys = &k->ours_pub,
                                 .n_keys = 1,
                                 .report = watch,
                                 .context = &seen};
    struct audit *a = audit_new(&opts);
    snapshot_expect(&again, a);
    assert_true(files_audit(dir, a, &err));
    audit_finish(a);
    assert_int_equal(seen.findings, 0);
    const struct audit_row *rows;
    size_t n = audit_rows(a, &rows);
    uint64_t entries = 0;
    for (size_t i = 0; i < n; i++) entries += rows[i].entries;
    assert_int_equal(entries, 40);
    audit_free(a);
    char command[256];
    snprintf(command, sizeof command, "rm -r '%s/export'", k->dir);
    assert_int_equal(system(command), 0);
    assert_false(files_snapshot(dir, &again, &err));
    buf_free(&err);
    snapshot_free(&snapshot);
    snapshot_free(&again);
    world_free(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sound),
        cmocka_unit_test(test_parked_then_delivered),
        cmocka_unit_test(test_retry_read_before_source),
        cmocka_unit_test(test_pending_is_no_error),
        cmocka_unit_test(test_vanished),
        cmocka_unit_test(test_waiting),
        cmocka_unit_test(test_waiting_late),
        cmocka_unit_test(test_nothing_is_not_sound),
        cmocka_unit_test(test_second_outcome),
        cmocka_unit_test(test_redriven),
        cmocka_unit_test(test_redriven_to_the_source),
        cmocka_unit_test(test_discarded),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_made_anew_in_another_order),
        cmocka_unit_test(test_vanished_whatever_is_read_first),
        cmocka_unit_test(test_lost),
        cmocka_unit_test(test_clusters),
        cmocka_unit_test(test_scope_of_form_2),
        cmocka_unit_test(test_rules_that_change),
        cmocka_unit_test(test_newest_records),
        cmocka_unit_test(test_repeat_of_other_records),
        cmocka_unit_test(test_made_anew),
        cmocka_unit_test(test_made_anew_twice_delivered),
        cmocka_unit_test(test_made_anew_in_the_wrong_place),
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
        cmocka_unit_test(test_seen),
        cmocka_unit_test(test_spans),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
