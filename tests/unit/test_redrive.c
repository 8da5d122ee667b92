#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "worker/base/text.h"
#include "worker/tools/redrive_plan.h"

#define START 1750000000000
#define SOURCE "jobs"
static const int partitions[FAULTS] = {0, 2, 2, 2};

/* ---- options ---- */

static void test_glob(void **state) {
    (void)state;
    static const struct {
        const char *pattern, *text;
        bool matches;
    } cases[] = {
        {"", "", true},
        {"", "a", false},
        {"*", "", true},
        {"*", "anything", true},
        {"a", "a", true},
        {"a", "A", false},
        {"a", "ab", false},
        {"ab", "a", false},
        {"s3://b/*", "s3://b/x/y", true},
        {"s3://b/*", "s3://bb/x", false},
        {"*@ store*", "s3://b/p @ store.example", true},
        {"*/b/*/d", "a/b/c/x/d", true},
        {"*/b/*/d", "a/b/d", false},
        {"a*b*c", "a-b-b-c-c", true},
        {"a*b*c", "a-b-b-c-d", false},
        {"**", "x", true},
        {"[ab]?", "[ab]?", true},
        {"[ab]?", "ax", false},
        {"a\\*", "a*", true},
        {"a\\*", "ab", false},
        {"a\\\\*", "a\\b", true},
        {"a\\b", "a\\b", true},
        {"*\\*c", "a*b*c", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (glob_matches(cases[i].pattern, str_c(cases[i].text)) != cases[i].matches)
            fail_msg("\"%s\" and \"%s\"", cases[i].pattern, cases[i].text);
    /* A tenant's name may hold any byte. */
    assert_false(glob_matches("a", (struct str){"a\0b", 3}));
    assert_true(glob_matches("a*b", (struct str){"a\0b", 3}));
}

static void test_offsets(void **state) {
    (void)state;
    struct redrive_filter f = {.partition = -1};
    static const char *const wrong[] = {
        "",     "3",    "3:",    ":3",      "a:1",
        "3:a",  "3:5-", "3:5-4", "3:5-6-7", "3:5 ",
        "-1:5", "3:-5", "3:5x",  "3:5-6x",  "3:99999999999999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (filter_offsets(wrong[i], &f)) fail_msg("accepted: %s", wrong[i]);
    assert_int_equal(f.partition, -1);
    assert_true(filter_offsets("3:5-17", &f));
    assert_int_equal(f.partition, 3);
    assert_int_equal(f.first, 5);
    assert_int_equal(f.last, 17);
    assert_true(filter_offsets("0:8", &f));
    assert_int_equal(f.first, 8);
    assert_int_equal(f.last, 8);
}

/* ---- letters ---- */

static struct letter a_letter(int64_t offset) {
    struct letter l = {.fault = FAULT_TENANT, .partition = 1, .offset = offset};
    l.past = (struct retry){.origin = {SOURCE, 1, 1000 + offset},
                            .progress.first_failure_ms = START,
                            .progress.attempts = 8,
                            .why = "NoSuchBucket",
                            .destination = "s3://b/p",
                            .died_ms = START + offset};
    return l;
}

static void test_letter(void **state) {
    (void)state;
    struct arena arena = {0};
    struct letter l = a_letter(7), back = {.fault = FAULT_TENANT, .partition = 1, .offset = 7};
    struct outcome o = outcome_fail(VERDICT_PERMANENT, FAULT_TENANT, "NoSuchBucket", NULL);
    struct message rec = {0};
    const char *err = NULL;
    rec.headers = dead_headers(&l.past, &o, START + 7, NULL, 0, &arena, &rec.n_headers);
    assert_true(letter_read(&rec, SOURCE, &back, &err));
    assert_string_equal(back.past.why, "NoSuchBucket");
    assert_int_equal(back.past.died_ms, START + 7);
    assert_false(letter_read(&rec, "other", &back, &err));
    assert_string_equal(err, "runsink-origin names another topic");
    /* What lies in a retry topic is no dead letter. */
    rec.headers = retry_headers(&l.past, NULL, 0, &arena, &rec.n_headers);
    assert_false(letter_read(&rec, SOURCE, &back, &err));
    assert_string_equal(err, "runsink-reason is missing");
    rec.n_headers = 0;
    assert_false(letter_read(&rec, SOURCE, &back, &err));
    arena_free(&arena);

    assert_true(letter_is_of(&l, "runsink"));
    strcpy(l.past.group, "runsink");
    assert_true(letter_is_of(&l, "runsink"));
    assert_false(letter_is_of(&l, "another"));
}

static const char run[] =
    "{\"id\":\"run-1\",\"startTime\":\"2024-01-01T00:00:00Z\",\"workspaceId\":\"w1\","
    "\"projectId\":\"p\",\"jobId\":\"j\",\"createdAt\":\"2024-01-01T00:00:00Z\","
    "\"updatedAt\":\"2024-01-01T00:30:00Z\",\"type\":\"MANUAL\",\"status\":\"SUCCESS\","
    "\"payloads\":1,\"successfulRuns\":1,\"failedRuns\":0,\"jobConfigurationSnapshot\":{}}";

static void test_filter(void **state) {
    (void)state;
    static const struct {
        struct redrive_filter filter;
        bool matches;
    } cases[] = {
        {{.partition = -1}, true},
        {{.partition = -1, .fault = FAULT_TENANT}, true},
        {{.partition = -1, .fault = FAULT_DATA}, false},
        {{.partition = -1, .reason = "NoSuchBucket"}, true},
        {{.partition = -1, .reason = "NoSuch"}, false},
        {{.partition = -1, .destination = "s3://*"}, true},
        {{.partition = -1, .destination = "s3://b"}, false},
        {{.partition = -1, .from_ms = START + 7}, true},
        {{.partition = -1, .from_ms = START + 8}, false},
        {{.partition = -1, .to_ms = START + 7}, true},
        {{.partition = -1, .to_ms = START + 6}, false},
        {{.partition = 1, .first = 7, .last = 7}, true},
        {{.partition = 1, .first = 8, .last = 9}, false},
        {{.partition = 1, .first = 5, .last = 6}, false},
        {{.partition = 0, .first = 7, .last = 7}, false},
        {{.partition = -1, .id = "run-1", .workspace = "w1"}, true},
        {{.partition = -1, .id = "run-1", .workspace = "w2"}, false},
        {{.partition = -1, .id = "run"}, false},
        {{.partition = -1, .workspace = "w1", .reason = "timeout"}, false},
    };
    struct letter l = a_letter(7);
    struct message rec = {.value = {run, sizeof run - 1}}, broken = {.value = STR("{")};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (filter_matches(&cases[i].filter, &l, &rec) != cases[i].matches) fail_msg("case %zu", i);
    assert_false(filter_matches(&cases[15].filter, &l, &broken));
    assert_true(filter_matches(&cases[1].filter, &l, &broken));
}

/* ---- the plan ---- */

static struct letter a_member(int64_t offset, const char *dest, uint32_t count, uint32_t index) {
    struct letter l = a_letter(offset);
    snprintf(l.past.destination, sizeof l.past.destination, "%s", dest);
    strcpy(l.past.batch_key, "dt=2025-06-15/jobs-1-0-9.ndjson.gz");
    l.past.batch_count = count;
    l.past.batch_index = index;
    return l;
}

static bool selected(const struct plan *p, int64_t offset) {
    return spans_has(&p->selected[FAULT_TENANT][1], offset);
}

static void test_plan(void **state) {
    (void)state;
    struct plan p;
    plan_init(&p, partitions, PLAN_ATTEMPTS);
    for (int64_t i = 0; i < 6; i++) {
        struct letter l = a_letter(i);
        if (i >= 3) strcpy(l.past.why, "timeout");
        plan_take(&p, &l, i != 1);
    }
    struct letter other = a_letter(4);
    other.fault = FAULT_SYSTEM;
    plan_take(&p, &other, true);
    plan_finish(&p);
    assert_int_equal(p.n, 6);
    for (int64_t i = 0; i < 6; i++) assert_int_equal(selected(&p, i), i != 1);
    assert_true(spans_has(&p.selected[FAULT_SYSTEM][1], 4));
    assert_int_equal(p.n_rows, 3);
    assert_string_equal(p.rows[0]->reason, "timeout");
    assert_int_equal(p.rows[0]->n, 3);
    assert_int_equal(p.rows[1]->n, 2);
    assert_int_equal(p.rows[2]->fault, FAULT_SYSTEM);
    assert_int_equal(p.passed_by, 1);
    plan_free(&p);
}

/* What a filter that selects nothing passes by is counted by reason; many reasons have a bound. */
static void test_plan_passed(void **state) {
    (void)state;
    struct plan p;
    plan_init(&p, partitions, PLAN_ATTEMPTS);
    for (int64_t i = 0; i < 100; i++) {
        struct letter l = a_letter(i);
        snprintf(l.past.why, sizeof l.past.why, "http-%d", 400 + (int)(i < 40 ? i % 2 : i));
        plan_take(&p, &l, false);
    }
    plan_finish(&p);
    assert_int_equal(p.n, 0);
    assert_int_equal(p.passed_by, 100);
    assert_int_equal(p.n_passed, PLAN_REASONS_MAX);
    assert_string_equal(p.passed[1].name, "http-401");
    assert_int_equal(p.passed[1].n, 20);
    plan_free(&p);
}

/* Two destinations' batches under one key, their members taking turns; one of them matches once. */
static void test_plan_batches(void **state) {
    (void)state;
    struct plan p;
    plan_init(&p, partitions, PLAN_ATTEMPTS);
    for (uint32_t i = 0; i < 5; i++) {
        struct letter a = a_member(2 * i, "s3://a", 5, i), b = a_member(2 * i + 1, "s3://b", 5, i);
        plan_take(&p, &a, i == 3);
        plan_take(&p, &b, false);
        assert_int_equal(p.n, i < 4 ? 0 : 5);
    }
    plan_finish(&p);
    for (int64_t i = 0; i < 10; i++) assert_int_equal(selected(&p, i), i % 2 == 0);
    assert_int_equal(p.along, 4);
    assert_int_equal(p.incomplete, 0);
    assert_int_equal(p.n_rows, 1);
    assert_string_equal(p.rows[0]->destination, "s3://a");
    plan_free(&p);
}

static void test_plan_incomplete(void **state) {
    (void)state;
    for (int alone = 0; alone < 2; alone++) {
        struct plan p;
        plan_init(&p, partitions, alone ? PLAN_ORIGIN : PLAN_ATTEMPTS);
        for (uint32_t i = 0; i < 4; i++) {
            struct letter a = a_member(2 * i, "s3://a", 5, i),
                          b = a_member(2 * i + 1, "s3://b", 5, i);
            plan_take(&p, &a, i == 3);
            plan_take(&p, &b, false);
        }
        plan_finish(&p);
        assert_int_equal(p.n, alone ? 4 : 0);
        assert_int_equal(p.incomplete, alone ? 0 : 4);
        for (int64_t i = 0; i < 8; i++) assert_int_equal(selected(&p, i), alone && i % 2 == 0);
        plan_free(&p);
    }
    /* A batch of one is no batch. */
    struct plan p;
    struct letter single = a_member(3, "s3://a", 1, 0);
    plan_init(&p, partitions, PLAN_ATTEMPTS);
    plan_take(&p, &single, true);
    assert_int_equal(p.n, 1);
    plan_free(&p);
}

static void test_plan_is_bounded(void **state) {
    (void)state;
    struct plan p;
    plan_init(&p, partitions, PLAN_ATTEMPTS);
    for (int64_t i = 0; i < PLAN_ROWS_MAX + 100; i++) {
        struct letter l = a_letter(i);
        snprintf(l.past.destination, sizeof l.past.destination, "s3://b-%d", (int)i);
        plan_take(&p, &l, true);
        plan_take(&p, &(struct letter){.fault = FAULT_DATA, .offset = i, .past = l.past}, false);
    }
    plan_finish(&p);
    assert_int_equal(p.n, PLAN_ROWS_MAX + 100);
    assert_int_equal(p.n_rows, PLAN_ROWS_MAX);
    assert_int_equal(p.other, 100);
    plan_free(&p);
}

/* What is told apart before anything is selected. */
static void test_plan_records(void **state) {
    (void)state;
    static const struct {
        const char *group;
        int64_t marker, largest;
        enum plan_way way;
        uint64_t selected, foreign, markers, too_large;
    } cases[] = {
        {"", 0, 0, PLAN_ATTEMPTS, .selected = 1},
        {"runsink", 0, 0, PLAN_ATTEMPTS, .selected = 1},
        {"another", 0, 0, PLAN_ATTEMPTS, .foreign = 1},
        {"another", 0, 0, PLAN_DISCARD, .foreign = 1},
        {"runsink", 9, 0, PLAN_ORIGIN, .markers = 1},
        {"runsink", 9, 0, PLAN_DISCARD, .selected = 1},
        {"runsink", 0, 100, PLAN_ATTEMPTS, .too_large = 1},
        {"runsink", 0, 100, PLAN_DISCARD, .selected = 1},
        {"runsink", 0, 100000, PLAN_ATTEMPTS, .selected = 1},
    };
    const struct redrive_filter filter = {.partition = -1};
    struct chains *chains = chains_new(SOURCE, "runsink", partitions);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        struct plan p;
        struct letter l = a_letter(7);
        struct outcome o = outcome_fail(VERDICT_PERMANENT, FAULT_TENANT, "NoSuchBucket", NULL);
        struct message rec = {.value = {run, sizeof run - 1}};
        const struct plan_rules rules = {SOURCE, "runsink", chains, &filter, cases[i].largest};
        strcpy(l.past.group, cases[i].group);
        l.past.marker = cases[i].marker;
        rec.headers = dead_headers(&l.past, &o, START + 7, NULL, 0, &arena, &rec.n_headers);
        plan_init(&p, partitions, cases[i].way);
        plan_record(&p, &rules, (struct letter){.fault = FAULT_TENANT, .partition = 1}, &rec, 4);
        if (p.n != cases[i].selected || p.foreign != cases[i].foreign ||
            p.markers != cases[i].markers || p.too_large != cases[i].too_large || p.unreadable)
            fail_msg("case %zu", i);
        plan_record(&p, &rules, (struct letter){.fault = FAULT_TENANT, .partition = 1},
                    &(struct message){0}, 4);
        assert_int_equal(p.unreadable, 1);
        plan_free(&p);
        arena_free(&arena);
    }
    chains_free(chains);
}

/* ---- chains ---- */

#define LETTERS 300

struct written {
    struct chains *chains;
    struct buf values[LETTERS];
    size_t n;
};

/* An entry for each few letters, offsets and origins in jumps of their own. */
static int64_t offset_of(int i) {
    return 3 * i + i % 2;
}
static struct retry past_of(int i) {
    return (struct retry){.origin = {SOURCE, i / 10 % 3, 7000 + i}, .died_ms = START + i};
}

static void write_entries(struct written *w) {
    *w = (struct written){.chains = chains_new(SOURCE, "runsink", partitions)};
    for (int at = 0, n; at < LETTERS; at += n) {
        struct ledger_item items[7];
        int64_t offsets[7];
        struct origin origins[7];
        uint8_t hash[SHA256_LEN];
        n = 1 + (at * 7919) % 7;
        if (at + n > LETTERS) n = LETTERS - at;
        for (int i = 0; i < n; i++) {
            offsets[i] = offset_of(at + i);
            origins[i] = past_of(at + i).origin;
            items[i] = (struct ledger_item){.kind = LEDGER_REDRIVEN,
                                            .dest = (at + i) / 4 % 2 ? "s3://a" : "s3://b",
                                            .tier = "10s",
                                            .offsets = &offsets[i],
                                            .origins = &origins[i],
                                            .n = 1};
        }
        struct chain_times times = {.died_ms = past_of(at + n - 1).died_ms, .now_ms = START + 5000};
        struct buf *b = &w->values[w->n++];
        buf_init(b, 65536);
        assert_true(
            chains_encode(w->chains, FAULT_DATA, 1, items, (size_t)n, times, NULL, b, hash));
        chains_advance(w->chains, FAULT_DATA, 1, 0, hash);
    }
}

static void write_end(struct written *w) {
    for (size_t i = 0; i < w->n; i++) buf_free(&w->values[i]);
    chains_free(w->chains);
}

static bool take(struct chains *c, const struct buf *value, struct buf *err) {
    return chains_take(c, STR("jobs.dead.data/1"), (struct str){value->p, value->n}, err);
}

/* Whoever comes next goes on where the chain ends. */
static void assert_same_end(const struct chains *x, const struct chains *y) {
    static const int64_t offset = 9999;
    static const struct origin origin = {SOURCE, 0, 1};
    struct ledger_item item = {
        .kind = LEDGER_REDRIVEN, .offsets = &offset, .origins = &origin, .n = 1};
    struct chain_times times = {START, START};
    struct buf a, b;
    uint8_t hash[2][SHA256_LEN];
    buf_init(&a, 4096);
    buf_init(&b, 4096);
    assert_true(chains_encode(x, FAULT_DATA, 1, &item, 1, times, NULL, &a, hash[0]));
    assert_true(chains_encode(y, FAULT_DATA, 1, &item, 1, times, NULL, &b, hash[1]));
    assert_string_equal(buf_cstr(&a), buf_cstr(&b));
    assert_memory_equal(hash[0], hash[1], SHA256_LEN);
    buf_free(&a);
    buf_free(&b);
}

static enum letter_state state_of(const struct chains *c, enum fault fault, int32_t partition,
                                  int64_t offset, const struct retry *past) {
    struct letter l = {.fault = fault, .partition = partition, .offset = offset, .past = *past};
    return chains_state(c, &l);
}

static void test_chain_round_trip(void **state) {
    (void)state;
    struct written w;
    struct buf err;
    buf_init(&err, 4096);
    write_entries(&w);
    struct chains *c = chains_new(SOURCE, "runsink", partitions);
    uint8_t last[SHA256_LEN] = {0};
    for (size_t i = 0; i < w.n; i++) {
        struct arena arena = {0};
        struct ledger_entry e;
        struct ledger_read_error why;
        assert_true(ledger_read((struct str){w.values[i].p, w.values[i].n}, &arena, &e, &why));
        assert_int_equal(e.seq, i);
        assert_memory_equal(e.prev, last, SHA256_LEN);
        memcpy(last, e.hash, SHA256_LEN);
        arena_free(&arena);
        assert_true(take(c, &w.values[i], &err));
    }
    assert_true(chains_whole(c, &err));
    for (int i = 0; i < LETTERS; i++) {
        struct retry past = past_of(i);
        assert_true(state_of(c, FAULT_DATA, 1, offset_of(i), &past));
        assert_false(state_of(c, FAULT_DATA, 0, offset_of(i), &past));
        assert_false(state_of(c, FAULT_TENANT, 1, offset_of(i), &past));
        assert_false(state_of(c, FAULT_DATA, 1, offset_of(i) + 1, &past));
        past.origin.offset += 100000;
        assert_false(state_of(c, FAULT_DATA, 1, offset_of(i), &past));
        /* The same record died again, later, in a topic made anew. */
        past = past_of(i);
        past.died_ms += 7;
        assert_false(state_of(c, FAULT_DATA, 1, offset_of(i), &past));
    }
    assert_same_end(c, w.chains);
    chains_free(c);
    write_end(&w);
    buf_free(&err);
}

/* Repeated, or out of order between partitions of the ledger: fine. Missing or altered: refused. */
static void test_chain_faults(void **state) {
    (void)state;
    struct written w;
    struct buf err;
    buf_init(&err, 65536);
    write_entries(&w);
    for (size_t missing = 0; missing <= w.n; missing++) {
        struct chains *c = chains_new(SOURCE, "runsink", partitions);
        for (size_t i = w.n; i-- > 0;)
            for (int twice = 0; twice < 2; twice++)
                if (i != missing) assert_true(take(c, &w.values[i], &err));
        /* That the last one is not there can't be seen. */
        assert_int_equal(chains_whole(c, &err), missing + 1 >= w.n);
        if (missing == w.n) assert_same_end(c, w.chains);
        chains_free(c);
    }
    struct chains *c = chains_new(SOURCE, "runsink", partitions);
    for (size_t at = 0; at < w.values[3].n; at += 11) {
        w.values[3].p[at] ^= 1;
        assert_false(take(c, &w.values[3], &err));
        w.values[3].p[at] ^= 1;
    }
    assert_false(
        chains_take(c, STR("jobs.dead.data/0"), (struct str){w.values[3].p, w.values[3].n}, &err));
    chains_free(c);
    /* Other chains are none of ours, and neither is what else the topic may hold. */
    c = chains_new(SOURCE, "another", partitions);
    for (size_t i = 0; i < w.n; i++) assert_true(take(c, &w.values[i], &err));
    struct retry first = past_of(0);
    assert_false(state_of(c, FAULT_DATA, 1, offset_of(0), &first));
    assert_true(chains_take(c, STR("jobs/1"), STR("junk"), &err));
    assert_true(chains_take(c, STR("jobs.dead.data/9"), STR("junk"), &err));
    assert_true(chains_take(c, STR(""), STR(""), &err));
    assert_true(chains_whole(c, &err));
    assert_false(chains_take(c, STR("jobs.dead.data/1"), STR("junk"), &err));
    chains_free(c);
    write_end(&w);
    buf_free(&err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_glob),
        cmocka_unit_test(test_offsets),
        cmocka_unit_test(test_letter),
        cmocka_unit_test(test_filter),
        cmocka_unit_test(test_plan),
        cmocka_unit_test(test_plan_passed),
        cmocka_unit_test(test_plan_batches),
        cmocka_unit_test(test_plan_incomplete),
        cmocka_unit_test(test_plan_is_bounded),
        cmocka_unit_test(test_plan_records),
        cmocka_unit_test(test_chain_round_trip),
        cmocka_unit_test(test_chain_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
