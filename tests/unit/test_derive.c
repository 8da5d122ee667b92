/* Outcomes that are derived again: what is not judged is counted by its reason, and no difference
 * passes for another reason than its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <zstd.h>

#include "tests/unit/events.h"
#include "worker/base/hash.h"
#include "worker/kafka/retry.h"
#include "worker/tools/verify_derive.h"

#define SOURCE "jobs"
#define HOOK "\"sink\":{\"type\":\"webhook\",\"url\":\"https://h.example.com/x\"}"
#define FOLDER(path) "\"sink\":{\"type\":\"file\",\"path\":\"" path "\"}"

struct world {
    struct config *cfg;
    struct audit *audit;
    struct derive *derive;
    size_t findings, notes;
    int64_t offset; /* of the last finding */
    struct ledger_group groups[4];
    struct ledger_range ranges[4];
    struct ledger_entry entry;
};

static void watch(void *context, const struct finding *f) {
    struct world *w = context;
    assert_string_equal(f->code, "other-outcome");
    w->findings += !f->note;
    w->notes += f->note;
    w->offset = f->offset;
}

static void begin(struct world *w, const char *const *settings) {
    struct buf err;
    buf_init(&err, 4096);
    *w = (struct world){.cfg = config_new()};
    for (size_t i = 0; settings && settings[i]; i += 2)
        assert_true(config_set(w->cfg, settings[i], settings[i + 1], "test", &err));
    assert_true(config_set(w->cfg, "file.root", "/tmp", "test", &err));
    assert_true(config_finish(w->cfg, &err));
    buf_free(&err);
    const struct audit_options opts = {
        .source = SOURCE, .group = "g", .report = watch, .context = w};
    w->audit = audit_new(&opts);
    w->derive = derive_new(w->cfg, w->audit);
    w->entry = (struct ledger_entry){
        .form = 1, .topic = STR(SOURCE), .version = STR(RUNSINK_VERSION), .groups = w->groups};
}

static void end(struct world *w) {
    derive_finish(w->derive);
    derive_free(w->derive);
    audit_free(w->audit);
    config_free(w->cfg);
}

/* The entry says so of the records from a to z. */
static struct ledger_group *say(struct world *w, enum ledger_kind kind, const char *why, int64_t a,
                                int64_t z) {
    size_t n = w->entry.n_groups++;
    w->ranges[n] = (struct ledger_range){a, z};
    w->groups[n] = (struct ledger_group){.kind = kind,
                                         .why = str_c(why),
                                         .offsets = &w->ranges[n],
                                         .n_offsets = 1,
                                         .count = (uint64_t)(z - a) + 1};
    if (z >= w->entry.next) w->entry.next = z + 1;
    return &w->groups[n];
}

static void open_window(struct world *w, bool retries) {
    const struct derive_window window = {
        .entry = &w->entry, .source = SOURCE, .retries = retries, .place = {.name = "ledger"}};
    derive_begin(w->derive, &window);
}

static void give(struct world *w, int64_t offset, const char *text, const struct header *headers,
                 size_t n) {
    const struct message m = {text ? str_c(text) : (struct str){0}, headers, n};
    derive_record(w->derive, offset, 1760000000000, &m);
}

static void close_window(struct world *w) {
    derive_end(w->derive);
    w->entry.n_groups = 0;
}

static char *run_to(const char *sink) {
    char snapshot[400];
    snprintf(snapshot, sizeof snapshot, "\"jobConfigurationSnapshot\":{%s}", sink);
    return event("jobConfigurationSnapshot", snapshot);
}

static uint64_t unjudged(const struct world *w, enum unjudged why) {
    return derive_sums(w->derive)->unjudged[why];
}

/* What killed a worker is not decoded here either. */
static void test_set_aside(void **state) {
    (void)state;
    struct world w;
    begin(&w, NULL);
    say(&w, LEDGER_SKIPPED, "operator", 0, 1);
    say(&w, LEDGER_DEAD, "poison", 2, 2)->fault = STR("system");
    open_window(&w, false);
    for (int64_t i = 0; i < 3; i++) give(&w, i, i ? "{poison" : NULL, NULL, 0);
    close_window(&w);
    assert_int_equal(unjudged(&w, UNJUDGED_ASIDE), 3);
    assert_int_equal(derive_sums(w.derive)->derived, 0);
    assert_int_equal(w.findings + w.notes, 0);
    end(&w);
}

/* A lie is one whoever says it, but by another version or under other rules it need not be. */
static void test_excuses(void **state) {
    (void)state;
    static const struct {
        const char *version;
        int form;
        bool same;
        enum unjudged why; /* UNJUDGED_N: a finding */
    } cases[] = {{RUNSINK_VERSION, 1, false, UNJUDGED_N},
                 {RUNSINK_VERSION, 2, true, UNJUDGED_N},
                 {RUNSINK_VERSION, 2, false, UNJUDGED_RULES},
                 {"0.0.1", 2, true, UNJUDGED_VERSION},
                 {"0.0.1", 1, false, UNJUDGED_VERSION}};
    char *text = run_to(HOOK);
    for (size_t i = 0; i < LEN(cases); i++) {
        struct world w;
        begin(&w, NULL);
        w.entry.form = cases[i].form;
        w.entry.version = str_c(cases[i].version);
        if (cases[i].same) memcpy(w.entry.rules, w.cfg->rules, LEDGER_RULES_LEN);
        for (int round = 0; round < 30; round++) {
            say(&w, LEDGER_SKIPPED, "status", 5, 5);
            say(&w, LEDGER_SKIPPED, "no-sink", 6, 6); /* and this is true, whoever says it */
            open_window(&w, false);
            give(&w, 5, text, NULL, 0);
            char *none = run_to("\"sink\":null");
            give(&w, 6, none, NULL, 0);
            close_window(&w);
            free(none);
        }
        bool finding = cases[i].why == UNJUDGED_N;
        assert_int_equal(w.findings, finding ? 30 : 0);
        assert_int_equal(w.notes, finding ? 0 : 20);
        assert_int_equal(w.offset, 5);
        assert_int_equal(derive_sums(w.derive)->differ, w.findings);
        assert_int_equal(derive_sums(w.derive)->derived, finding ? 60 : 30);
        if (!finding) assert_int_equal(unjudged(&w, cases[i].why), 30);
        end(&w);
    }
    free(text);
}

/* Memory is bounded: what a worker with this budget could not have held is not judged. */
static void test_large_window(void **state) {
    (void)state;
    static const char *const settings[] = {"memory.budget", "16MiB", NULL};
    struct world w;
    begin(&w, settings);
    char *big = xcalloc(1, (3 << 20) + 1);
    memset(big, 'x', 3 << 20);
    say(&w, LEDGER_DEAD, "invalid-json", 0, 9)->fault = STR("data");
    open_window(&w, false);
    for (int64_t i = 0; i < 10; i++) give(&w, i, big, NULL, 0);
    close_window(&w);
    assert_int_equal(unjudged(&w, UNJUDGED_LARGE), 10);
    say(&w, LEDGER_DEAD, "invalid-json", 10, 12)->fault = STR("data"); /* the next one is */
    open_window(&w, false);
    for (int64_t i = 10; i < 12; i++) give(&w, i, big, NULL, 0);
    close_window(&w);
    assert_int_equal(derive_sums(w.derive)->derived, 2);
    assert_int_equal(unjudged(&w, UNJUDGED_GONE), 1);
    assert_int_equal(w.findings, 0);
    free(big);
    end(&w);
}

/* A window's object of these lines, as a worker with this libzstd makes it. */
static void object_of(struct world *w, const char *text, int n, bool right, char *key) {
    size_t len = strlen(text) + 1;
    char *plain = xmalloc(len * (size_t)n + 1), *to = plain;
    for (int i = 0; i < n; i++) to += sprintf(to, "%s\n", text);
    size_t room = ZSTD_compressBound(len * (size_t)n);
    char *packed = xmalloc(room);
    size_t size = ZSTD_compress(packed, room, plain, len * (size_t)n, 1);
    struct ledger_group *g = say(w, LEDGER_DELIVERED, NULL, w->entry.first, w->entry.first + n - 1);
    g->object = g->hashed = true;
    g->to = STR("file://acme");
    g->size = size;
    sha256(packed, size, g->sha256);
    if (!right) g->sha256[0] ^= 1;
    sprintf(key, "acme/jobs-0-%d-%d.ndjson.zst", (int)w->entry.first, (int)w->entry.next);
    g->key = str_c(key);
    free(plain);
    free(packed);
}

/* Other bytes of zstd are a lie only where this libzstd is known to make the worker's; then those
 * from before are found, too. */
static void test_other_libzstd(void **state) {
    (void)state;
    static const char *const settings[] = {
        "archive", "batch",     "batch.compression",
        "zstd",    "key.batch", "{prefix}{topic}-{partition}-{first}-{next}.ndjson",
        NULL};
    char *text = run_to(FOLDER("acme")), *redacted = run_to(FOLDER("[REDACTED]"));
    for (int known = 0; known < 2; known++) {
        struct world w;
        char key[3][64];
        begin(&w, settings);
        for (int i = 0; i < 3; i++) {
            w.entry.first = w.entry.next = 10 * i;
            object_of(&w, redacted, 4, known && i == 1, key[i]);
            open_window(&w, false);
            for (int64_t k = 0; k < 4; k++) give(&w, w.entry.first + k, text, NULL, 0);
            close_window(&w);
            assert_int_equal(w.findings, known && i == 2);
        }
        derive_finish(w.derive);
        assert_int_equal(w.findings, known ? 2 : 0);
        assert_int_equal(unjudged(&w, UNJUDGED_COMPRESSOR), known ? 0 : 12);
        assert_int_equal(derive_sums(w.derive)->derived, known ? 12 : 0);
        end(&w);
    }
    free(text);
    free(redacted);
}

/* A retry topic's records: which one of the source each is, and what it failed for. */
static void test_retries(void **state) {
    (void)state;
    static const struct {
        enum ledger_kind kind;
        const char *to, *why;
        int64_t origin;
        bool finding;
    } cases[] = {
        {LEDGER_PARKED, "webhook://h.example.com/x", "http-503", 7, false},
        {LEDGER_PARKED, "webhook://other.example.com/x", "http-503", 7, true},
        {LEDGER_PARKED, "webhook://h.example.com/x", "http-503", 8, true},
        {LEDGER_PARKED, "", "http-500", 7, false}, /* it went round unattempted */
        {LEDGER_PARKED, "", "http-404", 7, true},
        {LEDGER_DEAD, "", "http-500", 7, false},
        {LEDGER_DEAD, "", "invalid-json", 7, true},
        {LEDGER_SKIPPED, "", "status", 7, true}, /* that is not asked any more */
    };
    char *text = run_to(HOOK);
    for (size_t i = 0; i < LEN(cases); i++) {
        struct world w;
        struct arena arena = {0};
        struct retry past = {.origin = {.topic = SOURCE, .offset = 7}, .why = "http-500"};
        size_t n;
        struct header *headers = retry_headers(&past, NULL, 0, &arena, &n);
        struct ledger_origin origin = {.topic = STR(SOURCE),
                                       .range = {cases[i].origin, cases[i].origin}};
        begin(&w, NULL);
        struct ledger_group *g = say(&w, cases[i].kind, cases[i].why, 3, 3);
        g->to = str_c(cases[i].to);
        g->fault = STR("tenant");
        g->origins = &origin;
        g->n_origins = 1;
        open_window(&w, true);
        give(&w, 3, text, headers, n);
        close_window(&w);
        if (w.findings != cases[i].finding) fail_msg("case %zu: %zu findings", i, w.findings);
        assert_int_equal(unjudged(&w, UNJUDGED_RECEIVER), !cases[i].finding);
        end(&w);
        arena_free(&arena);
    }
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_set_aside),    cmocka_unit_test(test_excuses),
        cmocka_unit_test(test_large_window), cmocka_unit_test(test_other_libzstd),
        cmocka_unit_test(test_retries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
