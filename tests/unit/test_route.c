/* The table of destinations under a tenant that sends another sink object each time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <malloc.h>
#include <stdio.h>

#include "config/config.h"
#include "worker/base/log.h"
#include "worker/pipeline/object_key.h"
#include "worker/pipeline/route.h"

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
    return router_new(cfg);
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

/* One of a workspace's webhooks, in a sink object of about size bytes. */
static struct destination *visit(struct router *r, const char *workspace, int number, size_t size,
                                 int64_t now_ms) {
    struct buf sink;
    struct destination *d = NULL;
    struct outcome o;
    buf_init(&sink, size + 1000);
    buf_printf(&sink,
               "{\"type\":\"webhook\",\"url\":\"https://%s.example.com/?%d\",\"x\":\"%0*d\"}",
               workspace, number, (int)size, 0);
    const struct jobrun run = {
        .workspace_id = str_c(workspace), .sink = {sink.p, sink.n}, .status = STR("SUCCESS")};
    assert_int_equal(route(r, &run, now_ms, &d, &o), ROUTE_DELIVER);
    buf_free(&sink);
    return d;
}

/* What is kept with a destination tells whether it is the one from before. */
static bool remembers(struct router *r, const char *workspace, int number, size_t size) {
    char *mark = destination_state(visit(r, workspace, number, size, 5000));
    bool before = *mark;
    *mark = 1;
    return before;
}

/* A tenant that sends another sink each time fills the table. What is forgotten for it is its own:
 * others' breakers and what they have proved stay known, whether bytes or the number is short. */
static void test_one_workspace_forgets_its_own(void **state) {
    (void)state;
    enum { OTHERS = 40 };
    static const struct {
        const char *dest_max;
        size_t size;
    } cases[] = {{"100", 10}, {"50000", 20000}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        struct config *cfg = configuration(cases[c].dest_max);
        struct router *r = router(cfg);
        char name[16];
        for (int i = 0; i < OTHERS; i++) {
            snprintf(name, sizeof name, "w%d", i);
            assert_false(remembers(r, name, 0, 10));
            if (i % 4 == 0) assert_false(remembers(r, name, 1, 10));
        }
        for (int n = 0; n < 2000; n++) {
            visit(r, "hostile", n, cases[c].size, 5000);
            router_tick(r, 5000);
            assert_true(router_bytes(r) <= SHARE);
        }
        for (int i = 0; i < OTHERS; i++) {
            snprintf(name, sizeof name, "w%d", i);
            assert_true(remembers(r, name, 0, 10));
            if (i % 4 == 0) assert_true(remembers(r, name, 1, 10));
        }
        /* And of its own the last ones. */
        assert_false(remembers(r, "hostile", 0, cases[c].size));
        assert_true(remembers(r, "hostile", 0, cases[c].size));
        router_tick(r, INT64_MAX);
        assert_int_equal(router_count(r), 0);
        router_free(r);
        config_free(cfg);
    }
}

/* Where all have as much, whoever was not heard of for longest is forgotten. */
static void test_alike_the_longest_unused_goes(void **state) {
    (void)state;
    struct config *cfg = configuration("16");
    struct router *r = router(cfg);
    char name[16];
    for (int i = 0; i < 16; i++) {
        snprintf(name, sizeof name, "w%02d", i);
        assert_false(remembers(r, name, 0, 10));
    }
    assert_true(remembers(r, "w00", 0, 10));
    assert_false(remembers(r, "new", 0, 10));
    assert_true(remembers(r, "w00", 0, 10));
    for (int i = 2; i < 16; i++) {
        snprintf(name, sizeof name, "w%02d", i);
        assert_true(remembers(r, name, 0, 10));
    }
    assert_false(remembers(r, "w01", 0, 10));
    router_free(r);
    config_free(cfg);
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

/* Sinks that are small and take much: what becomes of each is many times its length. */
static size_t many_headers(struct buf *sink, int number) {
    buf_printf(sink,
               "{\"type\":\"webhook\",\"url\":\"https://h.example.com/?n=%08d\",\"headers\":{",
               number);
    for (int i = 0; i < 50; i++)
        buf_printf(sink, "%s\"h%d\":\"%07d\"", i ? "," : "", i, (number * 50 + i) % 10000000);
    buf_puts(sink, "},\"skipOnFail\":true}");
    return sink->n;
}

static size_t many_credentials(struct buf *sink, int number) {
    buf_printf(sink,
               "{\"type\":\"s3\",\"bucket\":\"bucket\",\"region\":\"eu-west-1\",\"accessKeyId\":"
               "\"AKIA%016d\",\"secretAccessKey\":\"%040d\",\"sessionToken\":\"%0300d\"}",
               number, number, number);
    return sink->n;
}

static size_t many_apis(struct buf *sink, int number) {
    buf_printf(sink, "{\"type\":\"file\",\"path\":\"%d\",\"apisToSend\":[\"\"", number);
    for (int i = 0; i < 990; i++) buf_puts(sink, ",\"\"");
    buf_puts(sink, "]}");
    return sink->n;
}

static size_t many_queries(struct buf *sink, int number) {
    buf_printf(sink, "{\"type\":\"webhook\",\"url\":\"https://h.example.com/?%06d", number);
    for (int i = 0; i < 200; i++) buf_printf(sink, "&%%61%05d", number * 7 + i);
    buf_puts(sink, "\"}");
    return sink->n;
}

static size_t refused(struct buf *sink, int number) {
    buf_printf(sink, "{\"type\":\"none\",\"number\":%d}", number);
    return sink->n;
}

/* 20,000 of the first kind took 321 MiB with a budget of 64 MiB: the table counted the sink
 * objects' length. Everything that it keeps is counted, and what it counts is what malloc() gave.
 */
static void test_memory_is_bounded(void **state) {
    (void)state;
    size_t (*const kinds[])(struct buf *, int) = {many_headers, many_credentials, many_apis,
                                                  many_queries, refused};
    struct config *cfg = configuration("50000");
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        struct router *r = router(cfg);
        struct buf sink;
        buf_init(&sink, 65536);
        size_t input = 0, before = mallinfo2().uordblks + mallinfo2().hblkhd;
        int n = 0;
        for (; n < 20000 && input < SHARE / 2; n++) {
            struct destination *d;
            struct outcome o;
            buf_clear(&sink);
            input += kinds[k](&sink, n);
            const struct jobrun run = {.sink = {sink.p, sink.n}, .status = STR("FAILURE")};
            route(r, &run, 1000 + n, &d, &o);
            assert_true(router_bytes(r) <= SHARE);
        }
        size_t took = mallinfo2().uordblks + mallinfo2().hblkhd - before;
        print_message("kind %zu: %d sinks of %zu bytes: %zu destinations, %zu counted, %zu taken\n",
                      k, n, sink.n, router_count(r), router_bytes(r), took);
        assert_true(took <= router_bytes(r) + 100000);
        router_tick(r, INT64_MAX);
        assert_int_equal(router_bytes(r), 0);
        router_free(r);
        buf_free(&sink);
    }
    config_free(cfg);
}

/* What deliveries hold can't be forgotten. It is counted, and leaves the others alone. */
static void test_held_destinations(void **state) {
    (void)state;
    enum { HELD = 1000, OTHERS = 100 };
    struct config *cfg = configuration("50000");
    struct router *r = router(cfg);
    struct destination *held[HELD], *d;
    struct outcome o;
    struct buf sink;
    buf_init(&sink, 65536);
    for (int n = 0; n < HELD; n++) {
        buf_clear(&sink);
        many_headers(&sink, n);
        const struct jobrun run = {.sink = {sink.p, sink.n}, .status = STR("SUCCESS")};
        assert_int_equal(route(r, &run, 1000 + n, &held[n], &o), ROUTE_DELIVER);
        destination_hold(held[n]);
    }
    assert_true(router_bytes(r) > 2 * SHARE);
    for (int n = 0; n < OTHERS; n++) assert_int_equal(feed(r, n, 10, &d, &o), ROUTE_DELIVER);
    router_tick(r, 3000);
    assert_int_equal(router_count(r), HELD + OTHERS);
    for (int n = 0; n < HELD; n++) destination_drop(held[n]);
    router_tick(r, 3000);
    assert_true(router_bytes(r) <= SHARE);
    router_free(r);
    buf_free(&sink);
    config_free(cfg);
}

/* cJSON makes 40 bytes of each byte of "[0,0,0". */
static void test_values_are_bounded(void **state) {
    (void)state;
    struct config *cfg = configuration("16");
    struct router *r = router(cfg);
    static const char *const values[] = {"[0", ",0",  "]",   "{\"a\":0", ",\"\":{}",
                                         "}",  "[[0", ",[]", "]]"};
    for (size_t v = 0; v < sizeof values / sizeof *values; v += 3) {
        for (int n = 4000; n <= 5000; n += 1000) {
            struct buf sink;
            struct destination *d;
            struct outcome o = {0};
            buf_init(&sink, 65536);
            buf_printf(&sink, "{\"type\":\"webhook\",\"url\":\"https://h/\",\"x\":%s", values[v]);
            for (int i = 0; i < n; i++) buf_puts(&sink, values[v + 1]);
            buf_printf(&sink, "%s}", values[v + 2]);
            const struct jobrun run = {.sink = {sink.p, sink.n}, .status = STR("SUCCESS")};
            enum route_kind kind = route(r, &run, 1, &d, &o);
            assert_int_equal(kind, n == 4000 ? ROUTE_DELIVER : ROUTE_DEAD);
            if (n > 4000) assert_string_equal(o.why, "invalid-sink");
            buf_free(&sink);
        }
    }
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
    const struct message rec = {str_c(event), NULL, 0};
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

/* ---- names ---- */

static struct arena decoded;

/* One event through decoding and routing; run borrows from `decoded` until the next. */
static enum route_kind take(struct router *r, const char *event, struct jobrun *run,
                            struct destination **ret, struct outcome *reterr) {
    const struct message rec = {str_c(event), NULL, 0};
    const struct known_sinks known = router_known(r);
    arena_free(&decoded);
    decoded = (struct arena){0};
    assert_true(jobrun_decode_known(&rec, &known, &decoded, run, reterr));
    return route(r, run, 1, ret, reterr);
}

#define WEBHOOK(url, more) "{\"type\":\"webhook\",\"url\":\"https://" url "\"" more "}"
#define STORE(bucket, more)                                                                        \
    "{\"type\":\"s3\",\"bucket\":\"" bucket                                                        \
    "\",\"region\":\"eu-west-1\",\"accessKeyId\":\"AKIAKEYOFMINE\",\"secretAccessKey\":"           \
    "\"topSecretKey/+\"" more "}"
#define HEADER(value) ",\"headers\":{\"Authorization\":\"Bearer " value "\"}"
#define COOKIE(value) ",\"headers\":{\"Cookie\":\"" value "\"}"
#define X30 "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"

/* No label shows a secret of its own sink, in whatever spelling; where objects get keys, and for a
 * credential, there is none. */
static void test_names_show_no_secret(void **state) {
    (void)state;
    static const struct {
        const char *sink, *label; /* NULL: refused */
    } cases[] = {
        {WEBHOOK("h.example.com/T0kenT0ken", HEADER("T0kenT0ken")),
         "webhook://h.example.com/[REDACTED]"},
        {WEBHOOK("h.example.com/hooks/T0kenT0ken?token=T0kenT0ken", ""),
         "webhook://h.example.com/hooks/[REDACTED]"},
        {WEBHOOK("h.example.com/a-T0kenT0ken-b/t0kent0ken", HEADER("T0kenT0ken")),
         "webhook://h.example.com/a-[REDACTED]-b/[REDACTED]"},
        {WEBHOOK("T0kenT0ken.example.com:8443/a", HEADER("T0kenT0ken")),
         "webhook://[REDACTED].example.com:8443/a"},
        {WEBHOOK("user:T0kenT0ken@h.example.com/T0kenT0ken", ""),
         "webhook://h.example.com/[REDACTED]"},
        {WEBHOOK("h.example.com/T0ken%2BT0ken", HEADER("T0ken+T0ken")),
         "webhook://h.example.com/[REDACTED]"},
        {WEBHOOK("h.example.com/T0ken%252bT0ken", HEADER("T0ken+T0ken")),
         "webhook://h.example.com/[REDACTED]"},
        {WEBHOOK("h.example.com/%54%30kenT0ken?t=T0kenT0ke%6e", ""),
         "webhook://h.example.com/[REDACTED]"},
        {WEBHOOK("h.example.com/T0kenT0ken", ",\"x\":{\"signingKey\":[\"T0kenT0ken\"]}"),
         "webhook://h.example.com/[REDACTED]"},
        {WEBHOOK("h.example.com/T0kenT0ken", ",\"password\":\"\\u00540kenT0ken\""),
         "webhook://h.example.com/[REDACTED]"},
        /* Wrapped, in whatever way headers wrap a token. */
        {WEBHOOK("h.example.com/T0kenT0ken", COOKIE("sid=T0kenT0ken; theme=dark")),
         "webhook://h.example.com/[REDACTED]"},
        {WEBHOOK("h.example.com/tokenoftokens", COOKIE("a=b; sid=tokenoftokens")),
         "webhook://h.example.com/[REDACTED]"},
        {WEBHOOK("h.example.com/T0kenT0ken", COOKIE("Token token=\\\"T0kenT0ken\\\", a=b")),
         "webhook://h.example.com/[REDACTED]"},
        {WEBHOOK("h.example.com/T0kenT0ken", COOKIE("ApiKey id=7,key=T0kenT0ken,a=b")),
         "webhook://h.example.com/[REDACTED]"},
        {WEBHOOK("h.example.com/T0kenT0ken", COOKIE("v1=T0kenT0ken")),
         "webhook://h.example.com/[REDACTED]"},
        {WEBHOOK("h.example.com/T0kenT0ken", COOKIE("sid=T0ken%54%30ken; theme=dark")),
         "webhook://h.example.com/[REDACTED]"},
        {WEBHOOK("h.example.com/T0kenT0ken", COOKIE("AWS us:T0kenT0ken x")),
         "webhook://h.example.com/[REDACTED]"},
        {WEBHOOK("h.example.com/T0kenT0ken", COOKIE("{'t': 'T0kenT0ken'}")),
         "webhook://h.example.com/[REDACTED]"},
        {WEBHOOK("h.example.com/darkness/a", COOKIE("the darkness of theme=dark; at=12:00:00")),
         "webhook://h.example.com/darkness/a"},
        /* Short ones are words that stand anywhere, but for a segment of the path. */
        {WEBHOOK("h.example.com/abc/abcd/x-abc?t=abc", ""),
         "webhook://h.example.com/[REDACTED]/abcd/x-abc"},
        /* Cut within it, and within an encoded byte of it. */
        {WEBHOOK("h.example.com/" X30 X30 X30 X30 X30 "/T0kenT0kenT0kenT0ken",
                 HEADER("T0kenT0kenT0kenT0ken")),
         "webhook://h.example.com/" X30 X30 X30 X30 X30 "/[REDACTED]"},
        {WEBHOOK("h.example.com/" X30 X30 X30 X30 X30 "/T0ken%2BT0kenT0kenT0ken",
                 HEADER("T0ken+T0kenT0kenT0ken")),
         "webhook://h.example.com/" X30 X30 X30 X30 X30 "/[REDACTED]"},
        /* Another's secret is not its own, and a word of the path is none. */
        {WEBHOOK("h.example.com/T0kenT0ken", HEADER("anotherToken")),
         "webhook://h.example.com/T0kenT0ken"},
        {STORE("bucket", ",\"prefix\":\"runs/\""), "s3://bucket/runs/"},
        {STORE("bucket", ",\"prefix\":\"x/AKIAKEYOFMINE/\""), NULL},
        {STORE("bucket", ",\"prefix\":\"x/akiakeyofmine/\""), NULL},
        {STORE("bucket", ",\"prefix\":\"x/topSecretKey/+/\""), NULL},
        {STORE("bucket", ",\"prefix\":\"x/topSecretKey%2F%2B/\""), NULL},
        {STORE("akiakeyofmine-runs", ""), NULL},
        {STORE("bucket", ",\"endpoint\":\"https://akiakeyofmine.example.com\""), NULL},
        {STORE("bucket", ",\"endpoint\":\"https://e.example.com/AKIAKEYOFMINE\""), NULL},
        {STORE("bucket", ",\"prefix\":\"p/hunter22/\",\"password\":\"hunter22\""), NULL},
        {STORE("bucket", ",\"prefix\":\"p/acme-runs/\",\"name\":\"acme-runs\""),
         "s3://bucket/p/acme-runs/"},
    };
    struct config *cfg = configuration("1000");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        /* The second time the sink is known; a sink that stands twice is one as well. */
        for (int form = 0; form < 3; form++) {
            struct router *r = router(cfg);
            struct destination *d = NULL;
            struct outcome o = {0};
            struct jobrun run;
            struct buf event;
            buf_init(&event, 65536);
            buf_printf(&event, RUN("{\"sink\":%s%s%s}"), cases[i].sink,
                       form == 2 ? ",\"sink\":" : "", form == 2 ? cases[i].sink : "");
            for (int times = 0; times <= (form == 1); times++)
                assert_int_equal(take(r, buf_cstr(&event), &run, &d, &o),
                                 cases[i].label ? ROUTE_DELIVER : ROUTE_DEAD);
            if (cases[i].label) {
                assert_string_equal(d->label, cases[i].label);
            } else {
                assert_string_equal(o.why, "invalid-sink");
                assert_int_equal(o.fault, FAULT_TENANT);
                assert_non_null(strstr(o.detail, "credential"));
                assert_non_null(strstr(o.detail, "choose another name, or another key"));
            }
            buf_free(&event);
            router_free(r);
        }
    }
    arena_free(&decoded);
    config_free(cfg);
}

/* Sinks that differ in nothing but what they call secret may not share a name. */
static void test_names_are_each_sinks_own(void **state) {
    (void)state;
    struct config *cfg = configuration("16");
    struct router *r = router(cfg);
    struct destination *open, *hidden;
    struct outcome o;
    struct jobrun run;
    const char *plain = RUN("{\"sink\":" WEBHOOK("h.example.com/T0kenT0ken", "") "}");
    const char *secret =
        RUN("{\"sink\":" WEBHOOK("h.example.com/T0kenT0ken", ",\"password\":\"T0kenT0ken\"") "}");
    assert_int_equal(take(r, plain, &run, &open, &o), ROUTE_DELIVER);
    assert_int_equal(take(r, secret, &run, &hidden, &o), ROUTE_DELIVER);
    assert_string_equal(open->label, "webhook://h.example.com/T0kenT0ken");
    assert_string_equal(hidden->label, "webhook://h.example.com/[REDACTED]");
    arena_free(&decoded);
    router_free(r);
    config_free(cfg);
}

/* An id that is a secret stands in a key as a digest: of its own for each event, and the same when
 * the event is read again, by whomever. */
static void test_key_of_a_secret_id(void **state) {
    (void)state;
    struct config *cfg = configuration("16");
    const char *event =
        "{\"id\":\"topSecretKey/+\",\"workspaceId\":\"w\",\"projectId\":"
        "\"p-topSecretKey\\/+\",\"jobId\":\"j\",\"createdAt\":" TIME ",\"updatedAt\":" TIME
        ",\"startTime\":" TIME
        ",\"type\":\"MANUAL\",\"status\":\"SUCCESS\",\"payloads\":1,\"successfulRuns\":"
        "1,\"failedRuns\":0,\"jobConfigurationSnapshot\":{\"sink\":" STORE("bucket", "") "}}";
    char keys[3][KEY_MAX + 1];
    for (int i = 0; i < 3; i++) {
        struct router *r = router(cfg);
        struct destination *d;
        struct outcome o;
        struct jobrun run;
        struct buf key;
        struct origin origin = {.topic = "runs", .partition = 3, .offset = i == 2 ? 8 : 7};
        buf_init(&key, KEY_MAX);
        assert_int_equal(take(r, event, &run, &d, &o), ROUTE_DELIVER);
        assert_true(object_key_event(cfg, &run, d, &origin, 1, &key, &o));
        snprintf(keys[i], sizeof keys[i], "%s", buf_cstr(&key));
        buf_free(&key);
        router_free(r);
    }
    arena_free(&decoded);
    print_message("%s\n", keys[0]);
    assert_null(strstr(keys[0], "topSecretKey"));
    assert_true(str_starts(str_c(keys[0]), "w/redacted-"));
    assert_string_equal(keys[0], keys[1]);
    assert_string_not_equal(keys[0], keys[2]);
    char id[32] = "", project[32] = "";
    assert_int_equal(sscanf(keys[0], "w/%31[^/]/j/%31[^/]/", project, id), 2);
    assert_int_equal(strlen(id), strlen("redacted-0123456789ab"));
    assert_string_not_equal(id, project);
    config_free(cfg);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes_are_bounded),
        cmocka_unit_test(test_number_is_bounded),
        cmocka_unit_test(test_one_workspace_forgets_its_own),
        cmocka_unit_test(test_alike_the_longest_unused_goes),
        cmocka_unit_test(test_memory_is_bounded),
        cmocka_unit_test(test_held_destinations),
        cmocka_unit_test(test_values_are_bounded),
        cmocka_unit_test(test_apis_are_bounded),
        cmocka_unit_test(test_known_sinks),
        cmocka_unit_test(test_override_without_folder),
        cmocka_unit_test(test_names_show_no_secret),
        cmocka_unit_test(test_names_are_each_sinks_own),
        cmocka_unit_test(test_key_of_a_secret_id),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
