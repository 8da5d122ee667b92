#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "worker/kafka/retry.h"

#define SECOND 1000
#define START 1750000000000

static const int64_t default_delays[] = {10000, 20000, 40000, 80000, 120000};
static const struct schedule by_default = {default_delays, 5};

static struct outcome failure(void) {
    return outcome_fail(VERDICT_RETRY, FAULT_TENANT, "http-503", NULL);
}
static struct outcome not_attempted(void) {
    struct outcome o = outcome_fail(VERDICT_RETRY, FAULT_TENANT, "breaker-open", NULL);
    o.uncounted = true;
    return o;
}
static struct outcome retry_after(uint32_t ms) {
    struct outcome o = failure();
    o.retry_after_ms = ms;
    return o;
}

/* Every attempt fails at the instant it is due, plus late_ms; returns when the last was made. */
static int64_t run_schedule(const struct schedule *s, int64_t window_ms, int64_t late_ms,
                            uint32_t *ret_attempts) {
    struct retry r = {0};
    struct outcome o = failure();
    int64_t now = START;
    for (;;) {
        if (retry_next(&r.progress, &o, s, window_ms, now) == NEXT_EXPIRED) break;
        assert_true(r.progress.tier < s->n);
        assert_true(r.progress.due_ms > now);
        assert_true(r.progress.due_ms - now <= s->delays[r.progress.tier]);
        if (r.progress.tier > 0)
            assert_true(r.progress.due_ms - now > s->delays[r.progress.tier - 1]);
        now = r.progress.due_ms + late_ms;
    }
    assert_int_equal(r.progress.first_failure_ms, START);
    *ret_attempts = r.progress.attempts;
    return now - START;
}

static void test_the_reference_schedule(void **state) {
    (void)state;
    static const int64_t tenth[] = {100, 200, 400, 800, 1200};
    static const int64_t one[] = {1000};
    static const struct {
        struct schedule schedule;
        int64_t window_ms;
        uint32_t attempts;
        int64_t last_ms;
    } cases[] = {
        {{default_delays, 5}, 3600 * SECOND, 33, 3510 * SECOND},
        {{default_delays, 5}, 600 * SECOND, 8, 510 * SECOND},
        {{tenth, 5}, 36 * SECOND, 33, 35100},
        {{tenth, 5}, 6 * SECOND, 8, 5100},
        {{default_delays, 5}, 3510 * SECOND, 33, 3510 * SECOND}, /* the instant itself is inside */
        {{default_delays, 5}, 3510 * SECOND - 1, 32, 3390 * SECOND},
        {{default_delays, 5}, 1, 1, 0},
        {{default_delays, 5}, 10 * SECOND, 2, 10 * SECOND},
        {{one, 1}, 5 * SECOND, 6, 5 * SECOND},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t attempts;
        int64_t last = run_schedule(&cases[i].schedule, cases[i].window_ms, 0, &attempts);
        assert_int_equal(attempts, cases[i].attempts);
        assert_int_equal(last, cases[i].last_ms);
    }
}

static void test_instants_and_tiers(void **state) {
    (void)state;
    static const int64_t due[] = {10, 30, 70, 150, 270, 390};
    static const size_t tiers[] = {0, 1, 2, 3, 4, 4};
    struct retry r = {0};
    struct outcome o = failure();
    int64_t now = START;
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(retry_next(&r.progress, &o, &by_default, 3600 * SECOND, now), NEXT_RETRY);
        assert_int_equal(r.progress.due_ms, START + due[i] * SECOND);
        assert_int_equal(r.progress.tier, tiers[i]);
        now = r.progress.due_ms;
    }
}

static void test_lateness_keeps_the_count(void **state) {
    (void)state;
    uint32_t attempts;
    /* Each request takes a while, or the tier's topic lags. */
    run_schedule(&by_default, 3600 * SECOND, 3 * SECOND, &attempts);
    assert_int_equal(attempts, 33);
    run_schedule(&by_default, 3600 * SECOND, 500 * SECOND, &attempts);
    assert_int_equal(attempts, 33);
    /* Away for a day after the third attempt: it catches up, half a delay apart. */
    struct retry r = {.progress.first_failure_ms = START, .progress.attempts = 3};
    struct outcome o = failure();
    int64_t now = START + 86400 * SECOND;
    assert_int_equal(retry_next(&r.progress, &o, &by_default, 3600 * SECOND, now), NEXT_RETRY);
    assert_int_equal(r.progress.attempts, 4);
    assert_int_equal(r.progress.due_ms, now + 40 * SECOND);
    assert_int_equal(r.progress.tier, 2);
    /* The last one is counted and expires. */
    r = (struct retry){
        .progress.first_failure_ms = START, .progress.attempts = 32, .progress.due_ms = 5};
    r.progress.tier = 77;
    assert_int_equal(retry_next(&r.progress, &o, &by_default, 3600 * SECOND, now), NEXT_EXPIRED);
    assert_int_equal(r.progress.attempts, 33);
    assert_int_equal(r.progress.due_ms, 5);
    assert_int_equal(r.progress.tier, 77);
}

static void test_uncounted(void **state) {
    (void)state;
    struct retry r = {.progress.first_failure_ms = START, .progress.attempts = 1};
    struct outcome o = not_attempted();
    int64_t now = START;
    unsigned parks = 0;
    /* It slows down as attempts would, so it is parked as often as it would have been tried. */
    int64_t delays[] = {10, 20, 40, 80, 120};
    while (retry_next(&r.progress, &o, &by_default, 3600 * SECOND, now) == NEXT_RETRY) {
        size_t at = parks < 5 ? parks : 4;
        parks++;
        assert_int_equal(r.progress.attempts, 1);
        assert_int_equal(r.progress.tier, at);
        assert_int_equal(r.progress.due_ms, now + delays[at] * SECOND);
        now = r.progress.due_ms;
    }
    assert_int_equal(parks, 32); /* the last one due at 58:30 */
    assert_int_equal(now, START + 3510 * SECOND);
    assert_int_equal(r.progress.first_failure_ms, START);
    /* What has not been tried at all gets as much time again: nothing dies untried without need. */
    r = (struct retry){.progress.first_failure_ms = START};
    now = START + 3510 * SECOND;
    assert_int_equal(retry_next(&r.progress, &o, &by_default, 3600 * SECOND, now), NEXT_RETRY);
    now = START + 7080 * SECOND;
    assert_int_equal(retry_next(&r.progress, &o, &by_default, 3600 * SECOND, now), NEXT_RETRY);
    assert_int_equal(retry_next(&r.progress, &o, &by_default, 3600 * SECOND, now + 1),
                     NEXT_EXPIRED);
    /* A full queue is nobody's failure: it never expires. */
    o.fault = FAULT_NONE;
    now = START + 7200 * SECOND;
    assert_int_equal(retry_next(&r.progress, &o, &by_default, 3600 * SECOND, now), NEXT_RETRY);
    assert_int_equal(r.progress.due_ms, now + 120 * SECOND);
    o = not_attempted();
    /* After four attempts the current delay is the fourth. */
    r = (struct retry){.progress.first_failure_ms = START, .progress.attempts = 4};
    now = START + 20 * SECOND;
    assert_int_equal(retry_next(&r.progress, &o, &by_default, 3600 * SECOND, now), NEXT_RETRY);
    assert_int_equal(r.progress.attempts, 4);
    assert_int_equal(r.progress.due_ms, now + 80 * SECOND);
    assert_int_equal(r.progress.tier, 3);
}

static void test_retry_after(void **state) {
    (void)state;
    struct retry r = {0};
    /* Sooner than the schedule: the schedule stands. */
    struct outcome o = retry_after(5 * SECOND);
    retry_next(&r.progress, &o, &by_default, 3600 * SECOND, START);
    assert_int_equal(r.progress.due_ms, START + 10 * SECOND);
    /* Later: it is honoured, in the tier that fits. */
    r = (struct retry){0};
    o = retry_after(35 * SECOND);
    retry_next(&r.progress, &o, &by_default, 3600 * SECOND, START);
    assert_int_equal(r.progress.not_before_ms, START + 35 * SECOND);
    assert_int_equal(r.progress.due_ms, START + 35 * SECOND);
    assert_int_equal(r.progress.tier, 2);
    /* Longer than the largest tier: waited for in uncounted parks, to the instant. */
    r = (struct retry){0};
    o = retry_after(250 * SECOND);
    retry_next(&r.progress, &o, &by_default, 3600 * SECOND, START);
    assert_int_equal(r.progress.due_ms, START + 120 * SECOND);
    assert_int_equal(r.progress.tier, 4);
    o = not_attempted();
    retry_next(&r.progress, &o, &by_default, 3600 * SECOND, r.progress.due_ms);
    assert_int_equal(r.progress.due_ms, START + 240 * SECOND);
    assert_int_equal(r.progress.tier, 4);
    retry_next(&r.progress, &o, &by_default, 3600 * SECOND, r.progress.due_ms);
    assert_int_equal(r.progress.due_ms, START + 250 * SECOND);
    assert_int_equal(r.progress.tier, 0);
    assert_int_equal(r.progress.not_before_ms, START + 250 * SECOND);
    assert_int_equal(r.progress.attempts, 1);
    /* An attempt that got a new answer forgets the old wish; the count went on as before. */
    o = failure();
    retry_next(&r.progress, &o, &by_default, 3600 * SECOND, r.progress.due_ms);
    assert_int_equal(r.progress.attempts, 2);
    assert_int_equal(r.progress.not_before_ms, 0);
    assert_int_equal(r.progress.due_ms, START + 260 * SECOND); /* half of 20 s: it is late */
    r = (struct retry){.progress.first_failure_ms = START,
                       .progress.not_before_ms = START + 500 * SECOND};
    retry_next(&r.progress, &o, &by_default, 3600 * SECOND, START + SECOND);
    assert_int_equal(r.progress.not_before_ms, 0);
    /* Longer than the window: dead in the end, without an attempt that was not allowed. */
    r = (struct retry){0};
    o = retry_after(UINT32_MAX);
    int64_t now = START;
    unsigned parks = 0;
    while (retry_next(&r.progress, &o, &by_default, 3600 * SECOND, now) == NEXT_RETRY) {
        parks++;
        now = r.progress.due_ms;
        o = not_attempted();
    }
    assert_int_equal(parks, 30);
    assert_int_equal(r.progress.attempts, 1);
}

static bool is_last(const struct retry *r, int64_t window, int64_t now) {
    const struct progress g = {.first_failure_ms = r->progress.first_failure_ms,
                               .not_before_ms = r->progress.not_before_ms,
                               .attempts = r->progress.attempts};
    return retry_is_last(&g, &by_default, window, now);
}

/* A store that is tried for ten minutes asks for an hour. */
static void test_retry_after_beyond_the_window(void **state) {
    (void)state;
    const int64_t window = 600 * SECOND;
    struct outcome busy = retry_after(3600 * SECOND), shut = not_attempted();
    struct retry r = {0};
    int64_t now = START;
    /* Not attempted, since another event was answered so: due at the window's end, and the last. */
    shut.retry_after_ms = 3600 * SECOND;
    for (unsigned i = 0; i < 5; i++) {
        assert_false(is_last(&r, window, now));
        assert_int_equal(retry_next(&r.progress, &shut, &by_default, window, now), NEXT_RETRY);
        assert_int_equal(r.progress.not_before_ms, START + window);
        now = r.progress.due_ms;
    }
    assert_int_equal(now, START + window);
    assert_false(is_last(&r, window, now - 1));
    assert_true(is_last(&r, window, now));
    /* Tried, and answered the same: nothing is left. */
    assert_int_equal(retry_next(&r.progress, &busy, &by_default, window, now), NEXT_EXPIRED);
    assert_int_equal(r.progress.attempts, 1);
    /* Answered so at the first attempt: one more at the end. */
    r = (struct retry){0};
    now = START;
    assert_int_equal(retry_next(&r.progress, &busy, &by_default, window, now), NEXT_RETRY);
    assert_int_equal(r.progress.not_before_ms, START + window);
    /* What was parked by a version that did not clip is not waited for either. */
    r = (struct retry){.progress.first_failure_ms = START,
                       .progress.not_before_ms = START + 3600 * SECOND,
                       .progress.attempts = 1};
    shut.retry_after_ms = 0;
    assert_int_equal(retry_next(&r.progress, &shut, &by_default, window, START + SECOND),
                     NEXT_RETRY);
    assert_int_equal(r.progress.not_before_ms, START + window);
    r = (struct retry){0};
    assert_false(is_last(&r, window, now));
}

static void test_clock_set_back(void **state) {
    (void)state;
    struct retry r = {.progress.first_failure_ms = START + 86400 * SECOND, .progress.attempts = 2};
    struct outcome o = failure();
    assert_int_equal(retry_next(&r.progress, &o, &by_default, 3600 * SECOND, START), NEXT_RETRY);
    assert_int_equal(r.progress.due_ms, START + 120 * SECOND);
    assert_int_equal(r.progress.tier, 4);
}

static void test_extremes_do_not_overflow(void **state) {
    (void)state;
    struct outcome o = failure();
    struct retry r = {.progress.first_failure_ms = 1, .progress.attempts = UINT32_MAX};
    assert_int_equal(retry_next(&r.progress, &o, &by_default, INT64_MAX / 4, START), NEXT_RETRY);
    assert_int_equal(r.progress.attempts, UINT32_MAX);
    r = (struct retry){.progress.first_failure_ms = 253402300799999,
                       .progress.attempts = UINT32_MAX};
    assert_int_equal(retry_next(&r.progress, &o, &by_default, 3600 * SECOND, START), NEXT_EXPIRED);
}

static char random_plain(void) {
    static const char plain[] = "abcXYZ019._-";
    return plain[(size_t)rand() % (sizeof plain - 1)];
}
static void random_text(char *ret, size_t max, size_t min) {
    size_t n = min + (size_t)rand() % (max - min + 1);
    for (size_t i = 0; i < n; i++) ret[i] = random_plain();
    ret[n] = '\0';
}
static int64_t random_ms(void) {
    return rand() % 3 ? START + rand() : rand() % 2 ? 0 : 253402300799999;
}

static struct retry random_retry(void) {
    struct retry r = {.progress.first_failure_ms = random_ms(),
                      .progress.due_ms = random_ms(),
                      .progress.not_before_ms = random_ms(),
                      .progress.attempts = rand() % 9 ? (uint32_t)rand() : UINT32_MAX,
                      .origin = {.partition = rand() % 5 ? rand() : INT32_MAX,
                                 .offset = rand() % 5 ? rand() : INT64_MAX}};
    random_text(r.origin.topic, TOPIC_MAX, 1);
    random_text(r.why, sizeof r.why - 1, 0);
    if (rand() % 2) {
        random_text(r.batch_key, sizeof r.batch_key - 1, 1);
        r.batch_count = 1 + (uint32_t)rand();
        r.batch_index = (uint32_t)rand() % r.batch_count;
    }
    random_text(r.destination, sizeof r.destination - 1, 0);
    r.told = rand() % 2;
    return r;
}

static void assert_same(const struct retry *a, const struct retry *b) {
    assert_string_equal(a->origin.topic, b->origin.topic);
    assert_int_equal(a->origin.partition, b->origin.partition);
    assert_int_equal(a->origin.offset, b->origin.offset);
    assert_int_equal(a->progress.first_failure_ms, b->progress.first_failure_ms);
    assert_int_equal(a->progress.due_ms, b->progress.due_ms);
    assert_int_equal(a->progress.not_before_ms, b->progress.not_before_ms);
    assert_int_equal(a->progress.attempts, b->progress.attempts);
    assert_string_equal(a->why, b->why);
    assert_string_equal(a->batch_key, b->batch_key);
    assert_int_equal(a->batch_count, b->batch_count);
    assert_int_equal(a->batch_index, b->batch_index);
    assert_string_equal(a->destination, b->destination);
    assert_int_equal(a->died_ms, b->died_ms);
    assert_int_equal(a->told, b->told);
}

static void test_round_trips(void **state) {
    (void)state;
    srand(3);
    for (int i = 0; i < 2000; i++) {
        struct arena arena = {0};
        struct retry r = random_retry();
        struct header originals[] = {
            {STR("ce_id"), STR("x\0y")},
            {STR("runsink-attempts"), STR("0")},
            {STR("runsink-anything"), STR("forged")},
            {STR("Runsink-Attempts"), {NULL, 0}},
            {{NULL, 0}, STR("nameless")},
            {STR("ce_id"), STR("again")},
        };
        size_t n;
        struct header *h = retry_headers(&r, originals, 6, &arena, &n);
        assert_int_equal(n, 4u + 5u + (r.progress.not_before_ms != 0) + 3u * (r.batch_key[0] != 0) +
                                (r.destination[0] != 0) + r.told);
        assert_memory_equal(&h[0], &originals[0], sizeof h[0]);
        assert_memory_equal(&h[1], &originals[3], sizeof h[0]);
        assert_memory_equal(&h[2], &originals[4], sizeof h[0]);
        assert_memory_equal(&h[3], &originals[5], sizeof h[0]);
        struct retry back;
        const char *err = NULL;
        if (!retry_parse(h, n, &back, &err)) fail_msg("%s", err);
        assert_same(&r, &back);
        /* Parked a second time: ours are replaced, not added to. */
        size_t again;
        retry_headers(&r, h, n, &arena, &again);
        assert_int_equal(again, n);
        arena_free(&arena);
    }
}

/* A good set of headers; a case replaces, adds or leaves out. */
static const struct header good[] = {
    {STR("runsink-origin"), STR("jobs/3/42")}, {STR("runsink-first-failure"), STR("1000")},
    {STR("runsink-due"), STR("2000")},         {STR("runsink-attempts"), STR("1")},
    {STR("runsink-why"), STR("timeout")},      {STR("runsink-batch-key"), STR("a/b.gz")},
    {STR("runsink-batch-count"), STR("3")},    {STR("runsink-batch-index"), STR("2")},
    {STR("runsink-not-before"), STR("3000")},  {STR("runsink-destination"), STR("s3://b/p")},
};
#define GOOD (sizeof good / sizeof good[0])

static const char *refusal(const struct header *h, size_t n) {
    struct retry r = {.progress.attempts = 4711};
    const char *err = NULL;
    if (retry_parse(h, n, &r, &err)) return NULL;
    assert_int_equal(r.progress.attempts, 4711);
    assert_non_null(err);
    return err;
}

static void test_missing_and_repeated(void **state) {
    (void)state;
    assert_null(refusal(good, GOOD));
    for (size_t i = 0; i < GOOD; i++) {
        struct header h[GOOD + 1];
        size_t n = 0;
        for (size_t k = 0; k < GOOD; k++)
            if (k != i) h[n++] = good[k];
        const char *err = refusal(h, n);
        char want[64];
        snprintf(want, sizeof want, "%.*s is missing", (int)good[i].name.n, good[i].name.p);
        if (i >= GOOD - 2)
            assert_null(err); /* not-before and destination are optional */
        else
            assert_string_equal(err, want);
        h[n++] = good[i];
        h[n++] = good[i];
        snprintf(want, sizeof want, "%.*s stands twice", (int)good[i].name.n, good[i].name.p);
        assert_string_equal(refusal(h, n), want);
    }
    assert_string_equal(refusal(NULL, 0), "runsink-origin is missing");
}

static void test_malformed(void **state) {
    (void)state;
    static const struct {
        size_t which;
        struct str value;
    } cases[] = {
        {0, STR("")},
        {0, STR("jobs")},
        {0, STR("jobs/3")},
        {0, STR("jobs/3/")},
        {0, STR("jobs//42")},
        {0, STR("/3/42")},
        {0, STR("a/b/3/42")},
        {0, STR("jo bs/3/42")},
        {0, STR("jobs/-1/42")},
        {0, STR("jobs/3/-42")},
        {0, STR("jobs/3/042")},
        {0, STR("jobs/2147483648/42")},
        {0, STR("jobs/3/9223372036854775808")},
        {1, STR("")},
        {1, STR("x")},
        {1, STR("1 ")},
        {1, STR("253402300800000")},
        {1, {NULL, 0}},
        {2, STR("-1")},
        {2, STR("99999999999999999999999999")},
        {3, STR("4294967296")},
        {3, STR("1.5")},
        {4, STR("a b")},
        {4, STR("123456789012345678901234567890123456789012345678")},
        {5, STR("")},
        {5, {NULL, 0}},
        {5, STR("a\0b")},
        {5, STR("a\xff")},
        {6, STR("0")},
        {6, STR("x")},
        {7, STR("3")},
        {7, STR("-0")},
        {8, STR("soon")},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct header h[GOOD];
        memcpy(h, good, sizeof good);
        h[cases[i].which].value = cases[i].value;
        const char *err = refusal(h, GOOD);
        if (!err) fail_msg("accepted: %.*s", (int)cases[i].value.n, cases[i].value.p);
        /* A count of 0 shows at the index. */
        assert_non_null(strstr(err, " is malformed"));
    }
    static char topic[TOPIC_MAX + 10], key[1100];
    struct header h[GOOD];
    memcpy(h, good, sizeof good);
    memset(topic, 't', TOPIC_MAX + 1);
    strcpy(topic + TOPIC_MAX + 1, "/3/42");
    h[0].value = str_c(topic);
    assert_string_equal(refusal(h, GOOD), "runsink-origin is malformed");
    h[0].value = str_c(topic + 1);
    assert_null(refusal(h, GOOD));
    memset(key, 'k', 1025);
    h[5].value = str_c(key);
    assert_string_equal(refusal(h, GOOD), "runsink-batch-key is malformed");
    h[5].value = str_c(key + 1);
    assert_null(refusal(h, GOOD));
}

static struct str value_of(const struct header *h, size_t n, const char *name) {
    struct str found = {NULL, 0};
    size_t times = 0;
    for (size_t i = 0; i < n; i++)
        if (str_is(h[i].name, name)) found = h[i].value, times++;
    assert_true(times <= 1);
    return found;
}

static void test_dead_headers(void **state) {
    (void)state;
    struct arena arena = {0};
    struct retry r = {
        .origin = {"jobs", 3, 42}, .progress.first_failure_ms = START, .progress.attempts = 33};
    struct outcome o = outcome_fail(VERDICT_PERMANENT, FAULT_TENANT, "NoSuchBucket", "it's gone");
    o.status = 404;
    struct header originals[] = {{STR("ce_id"), STR("7")}, {STR("runsink-fault"), STR("none")}};
    size_t n;
    strcpy(r.destination, "s3://b");
    struct header *h = dead_headers(&r, &o, START + 5, originals, 2, &arena, &n);
    assert_int_equal(n, 10);
    static const char *const want[][2] = {
        {"ce_id", "7"},
        {"runsink-origin", "jobs/3/42"},
        {"runsink-fault", "tenant"},
        {"runsink-reason", "NoSuchBucket"},
        {"runsink-detail", "it's gone"},
        {"runsink-status", "404"},
        {"runsink-attempts", "33"},
        {"runsink-first-failure", "1750000000000"},
        {"runsink-destination", "s3://b"},
        {"runsink-time", "1750000000005"},
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++)
        assert_true(str_is(value_of(h, n, want[i][0]), want[i][1]));
    struct retry back;
    const char *err;
    assert_true(retry_parse(h, n, &back, &err));
    assert_int_equal(back.progress.attempts, 33);
    assert_int_equal(back.origin.offset, 42);
    assert_string_equal(back.why, "NoSuchBucket");
    assert_string_equal(back.destination, "s3://b");
    assert_string_equal(back.batch_key, "");
    r.destination[0] = '\0';
    h = dead_headers(&r, &o, START, originals, 2, &arena, &n);
    assert_int_equal(n, 9);
    arena_free(&arena);
}

/* A batch that died goes back under its key: its members keep who they are. */
static void test_dead_batches(void **state) {
    (void)state;
    srand(5);
    for (int i = 0; i < 500; i++) {
        struct arena arena = {0};
        struct retry r = random_retry(), back;
        struct outcome o = outcome_fail(VERDICT_PERMANENT, FAULT_TENANT, "expired", NULL);
        const char *err = NULL;
        size_t n, again;
        struct header *h = dead_headers(&r, &o, START, NULL, 0, &arena, &n);
        if (!retry_parse(h, n, &back, &err)) fail_msg("%s", err);
        assert_string_equal(back.batch_key, r.batch_key);
        assert_int_equal(back.batch_count, r.batch_count);
        assert_int_equal(back.batch_index, r.batch_index);
        assert_string_equal(back.destination, r.destination);
        assert_int_equal(back.died_ms, START);
        dead_headers(&r, &o, START, h, n, &arena, &again);
        assert_int_equal(again, n);
        arena_free(&arena);
    }
}

/* Whatever the outcome and the label hold, the headers are short and printable. */
/* What stands for a value too large is told apart from a letter that can go back. */
static void test_marker(void **state) {
    (void)state;
    static const int64_t sizes[] = {0, 1, 17000000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        struct arena arena = {0};
        struct retry r = {.origin = {.topic = "a", .offset = 3}, .marker = sizes[i]}, back;
        struct outcome o = outcome_fail(VERDICT_PERMANENT, FAULT_DATA, "refused-by-topic", NULL);
        const char *problem = NULL;
        size_t n;
        struct header *h = dead_headers(&r, &o, START, NULL, 0, &arena, &n);
        assert_true(retry_parse(h, n, &back, &problem));
        assert_int_equal(back.marker, sizes[i]);
        arena_free(&arena);
    }
}

static void test_dead_headers_are_bounded(void **state) {
    (void)state;
    struct arena arena = {0};
    struct retry r = {.origin = {"jobs", 3, 42}};
    struct outcome o = {.verdict = VERDICT_PERMANENT, .fault = FAULT_DATA, .why = "a b\x01\xff"};
    memset(o.detail, '\n', sizeof o.detail - 1);
    memset(r.destination, 0xc3, sizeof r.destination - 1);
    size_t n;
    struct header *h = dead_headers(&r, &o, START, NULL, 0, &arena, &n);
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        bytes += h[i].name.n + h[i].value.n;
        for (size_t b = 0; b < h[i].value.n; b++)
            assert_true(h[i].value.p[b] >= ' ' && h[i].value.p[b] <= '~');
    }
    assert_true(bytes < 1000);
    assert_true(str_is(value_of(h, n, "runsink-reason"), "a-b--"));
    arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_reference_schedule),
        cmocka_unit_test(test_instants_and_tiers),
        cmocka_unit_test(test_lateness_keeps_the_count),
        cmocka_unit_test(test_uncounted),
        cmocka_unit_test(test_retry_after),
        cmocka_unit_test(test_retry_after_beyond_the_window),
        cmocka_unit_test(test_clock_set_back),
        cmocka_unit_test(test_extremes_do_not_overflow),
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_missing_and_repeated),
        cmocka_unit_test(test_malformed),
        cmocka_unit_test(test_dead_headers),
        cmocka_unit_test(test_dead_batches),
        cmocka_unit_test(test_marker),
        cmocka_unit_test(test_dead_headers_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
