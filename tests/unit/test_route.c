/* The table of destinations under a tenant that sends another sink object each time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "config/config.h"
#include "worker/log.h"
#include "worker/route.h"

#define BUDGET "16MiB"
#define SHARE ((size_t)4 << 20) /* of it, for the sink objects */

static struct config *configuration(const char *dest_max) {
    struct config *cfg = config_new();
    struct buf err;
    buf_init(&err, 4096);
    assert_true(config_set(cfg, "memory.budget", BUDGET, "test", &err));
    assert_true(config_set(cfg, "dest.max", dest_max, "test", &err));
    assert_true(config_finish(cfg, &err));
    buf_free(&err);
    return cfg;
}

static struct router *router(const struct config *cfg) {
    struct buf err;
    buf_init(&err, 4096);
    struct router *r = router_new(cfg, &err);
    assert_non_null(r);
    buf_free(&err);
    return r;
}

/* A webhook of its own for each number, in a sink object of about size bytes. */
static enum route_kind feed(struct router *r, int number, size_t size, struct destination **ret,
                            struct outcome *reterr) {
    struct buf sink;
    buf_init(&sink, size + 1000);
    buf_printf(&sink, "{\"type\":\"webhook\",\"url\":\"https://h%d.example.com/\",\"x\":\"",
               number);
    for (size_t i = 0; i < size; i++) buf_putc(&sink, 'x');
    buf_puts(&sink, "\"}");
    const struct jobrun run = {.sink = {sink.p, sink.n}, .status = STR("SUCCESS")};
    enum route_kind kind = route(r, &run, 1000 + number, ret, reterr);
    buf_free(&sink);
    return kind;
}

static void test_bytes_are_bounded(void **state) {
    (void)state;
    struct config *cfg = configuration("50000");
    struct router *r = router(cfg);
    const size_t size = 100000;
    struct destination *first = NULL, *d = NULL;
    struct outcome o;
    assert_int_equal(feed(r, 0, size, &first, &o), ROUTE_DELIVER);
    destination_hold(first);
    for (int i = 1; i < 200; i++) {
        assert_int_equal(feed(r, i, size, &d, &o), ROUTE_DELIVER);
        assert_true(router_count(r) <= SHARE / size + 1); /* and the one that is held */
    }
    assert_string_equal(first->label, "webhook://h0.example.com/");
    destination_drop(first);
    /* One that is larger than the share alone is used, and forgotten next. */
    assert_int_equal(feed(r, 200, SHARE + 1, &d, &o), ROUTE_DELIVER);
    assert_int_equal(router_count(r), 1);
    assert_int_equal(feed(r, 201, 10, &d, &o), ROUTE_DELIVER);
    assert_string_equal(d->label, "webhook://h201.example.com/");
    assert_int_equal(router_count(r), 1);
    router_free(r);
    config_free(cfg);
}

static void test_number_is_bounded(void **state) {
    (void)state;
    struct config *cfg = configuration("16");
    struct router *r = router(cfg);
    struct destination *d;
    struct outcome o;
    for (int i = 0; i < 100; i++) assert_int_equal(feed(r, i, 10, &d, &o), ROUTE_DELIVER);
    assert_int_equal(router_count(r), 16);
    router_tick(r, INT64_MAX);
    assert_int_equal(router_count(r), 0);
    router_free(r);
    config_free(cfg);
}

static void test_apis_are_bounded(void **state) {
    (void)state;
    struct config *cfg = configuration("16");
    struct router *r = router(cfg);
    for (int n = 1000; n <= 1001; n++) {
        struct buf sink;
        struct destination *d;
        struct outcome o = {0};
        buf_init(&sink, 65536);
        buf_puts(&sink, "{\"type\":\"webhook\",\"url\":\"https://h/\",\"apisToSend\":[\"a\"");
        for (int i = 1; i < n; i++) buf_puts(&sink, ",\"a\"");
        buf_puts(&sink, "]}");
        const struct jobrun run = {.sink = {sink.p, sink.n}, .status = STR("SUCCESS")};
        enum route_kind kind = route(r, &run, 1, &d, &o);
        assert_int_equal(kind, n == 1000 ? ROUTE_DELIVER : ROUTE_DEAD);
        if (n > 1000) assert_string_equal(o.why, "invalid-sink");
        buf_free(&sink);
    }
    router_free(r);
    config_free(cfg);
}

#define RUN(snapshot)                                                                              \
    "{\"id\":\"r\",\"workspaceId\":\"w\",\"projectId\":\"p\",\"jobId\":\"j\",\"createdAt\":" TIME  \
    ",\"updatedAt\":" TIME ",\"startTime\":" TIME ",\"type\":\"MANUAL\",\"status\":\"SUCCESS\","   \
    "\"payloads\":1,\"successfulRuns\":1,\"failedRuns\":0,\"jobConfigurationSnapshot\":" snapshot  \
    "}"
#define TIME "\"2024-01-01T00:00:00Z\""
#define HOOK "{\"type\":\"webhook\",\"url\":\"https://u:secret1@h.example.com/?t=secret2\""

/* Decodes with what the router knows; whether it knew the sink. Routes it when told to. */
static bool knew(struct router *r, const char *event, bool routed) {
    const struct record rec = {str_c(event), NULL, 0};
    const struct known_sinks known = router_known(r);
    struct arena arena = {0};
    struct jobrun run, plain;
    struct destination *d;
    struct outcome o;
    assert_true(jobrun_decode_known(&rec, &known, &arena, &run, &o));
    bool did = run.known != NULL;
    assert_true(jobrun_decode(&rec, &arena, &plain, &o));
    assert_null(plain.known);
    assert_int_equal(run.payload.n_edits, plain.payload.n_edits);
    assert_memory_equal(run.payload.edits, plain.payload.edits,
                        run.payload.n_edits * sizeof *run.payload.edits);
    assert_true(str_eq(run.sink, plain.sink));
    if (routed) {
        assert_int_equal(route(r, &run, 1, &d, &o), ROUTE_DELIVER);
        assert_non_null(strstr(d->label, "h.example.com"));
    }
    arena_free(&arena);
    return did;
}

static void test_known_sinks(void **state) {
    (void)state;
    struct config *cfg = configuration("16");
    struct router *r = router(cfg);
    const char *event = RUN("{\"sink\":" HOOK "}}");
    const char *longer = RUN("{\"sink\":" HOOK ",\"headers\":{\"a\":\"secret3\"}}}");
    const char *deeper = "{\"jobRun\":" RUN("{\"sink\":" HOOK "}}") "}";
    assert_false(knew(r, event, true));
    assert_true(knew(r, event, true));
    assert_true(knew(r, RUN("{\"a\":1,\"sink\" : " HOOK "} , \"b\":2 }"), true));
    /* Another that begins alike takes its place. */
    assert_false(knew(r, longer, true));
    assert_true(knew(r, longer, true));
    assert_false(knew(r, event, true));
    assert_true(knew(r, event, true));
    /* Nesting is limited by the document's whole depth. */
    assert_false(knew(r, deeper, false));
    router_tick(r, INT64_MAX);
    assert_false(knew(r, event, false));
    assert_false(knew(r, event, true));
    assert_true(knew(r, event, false));
    router_reconfigure(r, cfg);
    assert_false(knew(r, event, false));
    router_free(r);
    config_free(cfg);
}

/* A sink whose events can't go to sink.override's folder leaves nothing behind: no memory (which a
 * sanitizer tells) and no secret with the log's scrubber. */
static void test_override_without_folder(void **state) {
    (void)state;
    struct buf err;
    struct config *cfg = config_new();
    buf_init(&err, 4096);
    assert_true(config_set(cfg, "sink.override", "file:/dev/null/folder", "test", &err));
    assert_true(config_finish(cfg, &err));
    buf_free(&err);
    struct router *r = router(cfg);
    struct destination *d;
    struct outcome o;
    const struct jobrun run = {.status = STR("SUCCESS"),
                               .sink = STR("{\"type\":\"webhook\",\"url\":\"https://h/\","
                                           "\"headers\":{\"Cookie\":\"a-cookie\"}}")};
    assert_int_equal(route(r, &run, 1, &d, &o), ROUTE_DEAD);
    assert_int_equal(o.fault, FAULT_SYSTEM);
    assert_int_equal(router_count(r), 0);
    char text[] = "a-cookie";
    secret_scrub(text, strlen(text));
    assert_string_equal(text, "a-cookie");
    router_free(r);
    config_free(cfg);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_are_bounded),       cmocka_unit_test(test_number_is_bounded),
        cmocka_unit_test(test_apis_are_bounded),        cmocka_unit_test(test_known_sinks),
        cmocka_unit_test(test_override_without_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
