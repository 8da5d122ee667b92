/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "config/config.h"
#include "tests/unit/events.h"
#include "tests/unit/json_cases.h"
#include "worker/event/redact.h"

static void both_spellings_of_each_field(void **state) {
    (void)state;
    for (size_t i = 0; i <= LEN(model); i++) { /* the last turn is all camelCase */
        struct buf insert;
        buf_init(&insert, 4096);
        if (i < LEN(model)) buf_printf(&insert, "\"%s\":%s", model[i].snake, model[i].value);
        char *text =
            event(i < LEN(model) ? model[i].camel : NULL, insert.n ? buf_cstr(&insert) : NULL);
        struct decoded d = decode(text);
        assert_true(d.ok);
        assert_model(&d.run);
        assert_int_equal(d.run.framing, FRAMING_BARE);
        assert_str(d.run.payload.json, text);
        assert_int_equal(d.run.event_id.n, 0);
        drop(&d);
        free(text);
        buf_free(&insert);
    }
}

static void each_required_field_is_missed(void **state) {
    (void)state;
    for (size_t i = 0; i < LEN(model); i++) {
        char *text = event(model[i].camel, NULL);
        char detail[64];
        snprintf(detail, sizeof detail, "%s is missing", model[i].camel);
        if (strcmp(model[i].camel, "endTime") != 0) {
            assert_refused(text, "missing-field", detail);
        } else {
            struct decoded d = decode(text);
            assert_true(d.ok);
            drop(&d);
        }
        free(text);
    }
}

/* Each field twice, in one spelling and in both, with the same and with another value. */
static void fields_that_stand_twice(void **state) {
    (void)state;
    for (size_t i = 0; i < LEN(model); i++)
        for (int same = 0; same < 2; same++)
            for (int snake = 0; snake < 2; snake++) {
                bool one_word = strcmp(model[i].camel, model[i].snake) == 0;
                bool null = strcmp(model[i].value, "null") == 0;
                struct buf insert;
                buf_init(&insert, 4096);
                buf_printf(&insert, "\"%s\":%s", snake ? model[i].snake : model[i].camel,
                           same   ? model[i].value
                           : null ? "\"2024-01-01T00:00:09Z\""
                                  : "null");
                char *text = event(NULL, buf_cstr(&insert));
                if (same) {
                    struct decoded d = decode(text);
                    assert_true(d.ok);
                    assert_str(d.run.id, "run-1");
                    drop(&d);
                } else {
                    assert_refused(text,
                                   snake && !one_word ? "spelling-conflict" : "duplicate-field",
                                   model[i].camel);
                }
                free(text);
                buf_free(&insert);
            }
}

static void refusals(void **state) {
    (void)state;
    static const struct {
        const char *drop, *insert, *why, *detail;
    } cases[] = {
        {"id", "\"id\":5", "wrong-type", "id must be a string"},
        {"id", "\"id\":null", "wrong-type", "id must be a string"},
        {"id", "\"id\":\"\"", "bad-value", "id must not be empty"},
        {"id", "\"id\":\"CANARY\\n\"", "bad-value", "id holds a control character"},
        {"id", "\"id\":\"CANARY\\u0000\"", "bad-value", "id holds a control character"},
        {"id", "\"id\":\"CANARY\\u007f\"", "bad-value", "id holds a control character"},
        {"id", "\"id\":\"CANARY\\ud800\"", "bad-value", "id holds an unpaired surrogate"},
        {"id", "\"id\":{\"a\":\"CANARY\"}", "wrong-type", "id must be a string"},
        {"status", "\"status\":\"A\\r\\nB\"", "bad-value", "status holds a control character"},
        {"type", "\"type\":[]", "wrong-type", "type must be a string"},
        {"createdAt", "\"createdAt\":\"CANARY\\n\"", "bad-value", "createdAt holds a control"},
        {"createdAt", "\"createdAt\":1704067200", "wrong-type", "createdAt must be a string"},
        {"startTime", "\"startTime\":null", "wrong-type", "startTime must be a string"},
        {"endTime", "\"endTime\":0", "wrong-type", "endTime must be a string"},
        {"payloads", "\"payloads\":-1", "bad-value", "payloads must be null or a"},
        {"payloads", "\"payloads\":\"100\"", "wrong-type", "payloads must be null or a number"},
        {"payloads", "\"payloads\":false", "wrong-type", "payloads must be null or a number"},
        {"payloads", "\"payload\":null", "missing-field", "payloads is missing"},
        {"successfulRuns", "\"successfulRuns\":-0.5", "bad-value", "successfulRuns must be"},
        {"failedRuns", "\"failed_runs\":-1e-400", "bad-value", "failedRuns must be"},
        {"jobConfigurationSnapshot", "\"jobConfigurationSnapshot\":null", "wrong-type",
         "jobConfigurationSnapshot must be an object"},
        {"jobConfigurationSnapshot", "\"jobConfigurationSnapshot\":\"CANARY\"", "wrong-type",
         "jobConfigurationSnapshot must be an object"},
        {"jobConfigurationSnapshot", "\"jobConfigurationSnapshot\":{\"sink\":\"CANARY\"}",
         "wrong-type", "sink must be an object"},
        {"jobConfigurationSnapshot", "\"jobConfigurationSnapshot\":{\"sink\":[" SINK "]}",
         "wrong-type", "sink must be an object"},
        {"jobConfigurationSnapshot", "\"jobConfigurationSnapshot\":{\"sink\":false}", "wrong-type",
         "sink must be an object"},
        {"jobConfigurationSnapshot",
         "\"jobConfigurationSnapshot\":{\"sink\":" SINK ",\"sink\":null}", "duplicate-field",
         "sink"},
        {"jobConfigurationSnapshot",
         "\"jobConfigurationSnapshot\":{\"sink\":" SINK ",\"\\u0073ink\":{}}", "duplicate-field",
         "sink"},
        {NULL, "\"job_configuration_snapshot\":{\"sink\":{\"type\":\"CANARY\"}}",
         "spelling-conflict", "jobConfigurationSnapshot"},
        {NULL, "\"error\":\"CANARY\"", "wrong-type", "error must be an object or null"},
        {NULL, "\"error\":[]", "wrong-type", "error must be an object or null"},
        {NULL, "\"reason\":1", "wrong-type", "reason must be an object or null"},
        {NULL, "\"reason\":{\"type\":\"a\"},\"reason\":{\"type\":\"b\"}", "duplicate-field",
         "reason"},
        {NULL, "\"apiInfo\":\"CANARY\"", "wrong-type", "apiInfo must be an object or null"},
        {NULL, "\"apiInfo\":{\"name\":1}", "wrong-type", "apiInfo.name must be a string"},
        {NULL, "\"apiInfo\":{\"name\":\"\"}", "bad-value", "apiInfo.name must not be empty"},
        {NULL, "\"apiInfo\":{\"name\":\"a\"},\"api_info\":{\"name\":\"b\"}", "spelling-conflict",
         "apiInfo"},
        {NULL, "\"proxy\":5", "wrong-type", "proxy must be an object or a string"},
        {NULL, "\"proxy\":[\"CANARY\"]", "wrong-type", "proxy must be an object or a string"},
        {NULL, "\"proxy\":{\"url\":[\"CANARY\"]}", "wrong-type", "proxy.url must be a string"},
        {NULL, "\"results\":{\"signed_url\":7}", "wrong-type", "results.signed_url must be"},
        {NULL, "\"results\":[{\"signedUrl\":{}}]", "wrong-type", "results.signedUrl must be"},
        {NULL, "\"x\":01", "invalid-json", "a number with a leading zero, at byte "},
        {NULL, "\"x\":\"CANARY\xff\"", "invalid-json", "invalid UTF-8 in a string, at byte "},
        {NULL, "\"x\":1,", "invalid-json", "a member's name is missing"},
        {NULL, "\"jobRun\":{\"id\":\"CANARY\"}", "ambiguous-run", "jobConfigurationSnapshot"},
        {NULL, "\"jobRun\":{\"a\":1},\"job_run\":{\"a\":2}", "spelling-conflict", "jobRun"},
        {NULL, "\"jobRun\":null,\"jobRun\":{\"a\":2}", "duplicate-field", "jobRun"},
    };
    for (size_t i = 0; i < LEN(cases); i++) {
        char *text = event(cases[i].drop, cases[i].insert);
        assert_refused(text, cases[i].why, cases[i].detail);
        free(text);
    }
}

static void sinks_that_cannot_be_redacted(void **state) {
    (void)state;
    static const struct {
        const char *sink, *why, *detail;
    } cases[] = {
        {"{\"secretAccessKey\":1}", "wrong-type", "sink.secretAccessKey must be a string"},
        {"{\"secret_access_key\":[\"CANARY\"]}", "wrong-type", "sink.secret_access_key must be"},
        {"{\"accessKeyId\":{\"a\":\"CANARY\"}}", "wrong-type", "sink.accessKeyId must be a string"},
        {"{\"access_key_id\":true}", "wrong-type", "sink.access_key_id must be a string"},
        {"{\"sessionToken\":0}", "wrong-type", "sink.sessionToken must be a string"},
        {"{\"session_token\":[]}", "wrong-type", "sink.session_token must be a string"},
        {"{\"\\u0061ccessKeyId\":12}", "wrong-type", "sink.accessKeyId must be a string"},
        {"{\"url\":[\"CANARY\"]}", "wrong-type", "sink.url must be a string"},
        {"{\"endpoint\":{\"CANARY\":\"CANARY\"}}", "wrong-type", "sink.endpoint must be a string"},
        {"{\"headers\":[\"CANARY\"]}", "wrong-type", "sink.headers must be an object"},
        {"{\"headers\":\"CANARY\"}", "wrong-type", "sink.headers must be an object"},
        {"{\"headers\":{\"CANARY\":1}}", "wrong-type", "sink.headers must hold strings"},
        {"{\"headers\":{\"CANARY\":[\"CANARY\"]}}", "wrong-type", "sink.headers must hold strings"},
        {"{\"headers\":{\"accept\":null}}", "wrong-type", "sink.headers must hold strings"},
        {"{\"bucket\":\"a\\u0000CANARY\"}", "bad-value", "sink holds U+0000"},
        {"{\"accessKeyId\\u0000\":\"CANARY\"}", "bad-value", "sink holds U+0000"},
        {"{\"x\":[{\"y\":\"\\ud800\"}]}", "bad-value", "sink holds U+0000 or an unpaired"},
    };
    for (size_t i = 0; i < LEN(cases); i++) {
        struct buf b;
        buf_init(&b, 4096);
        buf_printf(&b, "\"jobConfigurationSnapshot\":{\"sink\":%s}", cases[i].sink);
        char *text = event("jobConfigurationSnapshot", buf_cstr(&b));
        assert_refused(text, cases[i].why, cases[i].detail);
        free(text);
        buf_free(&b);
    }
}

static void accepted(void **state) {
    (void)state;
    static const struct {
        const char *drop, *insert;
        bool unknown;
    } cases[] = {
        {"payloads", "\"payloads\":0", false},
        {"payloads", "\"payloads\":-0", false},
        {"payloads", "\"payloads\":-0.0e5", false},
        {"payloads", "\"payloads\":1e400", false},
        {"payloads", "\"payloads\":9007199254740993", false},
        {"payloads", "\"payloads\":1.5", false},
        {"payloads", "\"payloads\":null", false},
        {"successfulRuns", "\"successful_runs\":null", false},
        {"failedRuns", "\"failedRuns\":null", false},
        {"createdAt", "\"createdAt\":\"2024-01-01 00:00:00+00\"", true},
        {"updatedAt", "\"updated_at\":\"2024-01-01 00:00:00.123456+00\"", true},
        {"updatedAt", "\"updated_at\":\"2024-13-01T00:00:00Z\"", true},
        {"startTime", "\"startTime\":\"\"", true},
        {"endTime", "\"endTime\":\"\"", true},
        {"endTime", "\"endTime\":\"2024-01-01\"", true},
        {"endTime", "\"end_time\":\"2024-06-01T12:00:00.123456789+05:30\"", false},
        {"status", "\"status\":\"TERMINATED\"", false},
        {"status", "\"status\":\"\\u0053UCCESS\"", false},
        {"status", "\"status\":\"HIBERNATING\"", true},
        {"status", "\"status\":\"success\"", true},
        {"type", "\"type\":\"MANUAL\"", false},
        {"type", "\"type\":\"WEBHOOK\"", true},
        {NULL, "\"error\":null,\"reason\":null,\"apiInfo\":null", false},
        {NULL, "\"error\":{}", false},
        {NULL, "\"error\":{\"code\":\"internal-server-error\"}", false},
        {NULL, "\"error\":{\"code\":null}", false},
        {NULL, "\"error\":{\"code\":\"quota\"}", true},
        {NULL, "\"error\":{\"code\":42}", true},
        {NULL, "\"reason\":{\"type\":\"s3-sink-error\"}", false},
        {NULL, "\"reason\":{\"type\":\"moon\"}", true},
        {NULL, "\"unknown\":[1e400,{\"id\":\"other\"}],\"unknown\":2", false},
        {NULL, "\"ID\":\"other\",\"Status\":5,\"WorkspaceId\":{}", false},
        {NULL, "\"data\":1,\"data\":2,\"data_base64\":\"x\",\"data_base64\":\"y\"", false},
        {NULL, "\"data\":{\"id\":\"other\",\"jobConfigurationSnapshot\":{}}", false},
        {NULL, "\"jobRun\":null", false},
        {NULL, "\"job_run\":\"text\"", false},
        {NULL, "\"proxy\":null,\"results\":null", false},
        {NULL, "\"results\":[[],1,\"a\",null]", false},
        {NULL, "\"x\":\"\\ud800\"", false},
        {NULL, "\"\\ud800\":1", false},
        {NULL, "\"x\":\"\xe2\x82\xac\xf0\x9f\x98\x80\"", false},
        {"id", "\"\\u0069\\u0064\":\"\\u0072un-1\"", false},
        {NULL, "\"id\":\"\\u0072un-1\"", false},
    };
    for (size_t i = 0; i < LEN(cases); i++) {
        char *text = event(cases[i].drop, cases[i].insert);
        struct decoded d = decode(text);
        if (!d.ok) fail_msg("%s: %s %s", cases[i].insert, d.err.why, d.err.detail);
        assert_int_equal(d.run.unknown_value, cases[i].unknown);
        assert_str(d.run.payload.json, text);
        assert_str(d.run.id, "run-1");
        drop(&d);
        free(text);
    }
}

static void sink_absent_or_null(void **state) {
    (void)state;
    static const char *const snapshots[] = {"{}", "{\"sink\":null}",
                                            "{\"sink\":null,\"sink\":null}", "{\"Sink\":" SINK "}"};
    for (size_t i = 0; i < LEN(snapshots); i++) {
        struct buf b;
        buf_init(&b, 4096);
        buf_printf(&b, "\"job_configuration_snapshot\":%s", snapshots[i]);
        char *text = event("jobConfigurationSnapshot", buf_cstr(&b));
        struct decoded d = decode(text);
        assert_true(d.ok);
        assert_null(d.run.sink.p);
        drop(&d);
        free(text);
        buf_free(&b);
    }
}

static void values_come_unescaped(void **state) {
    (void)state;
    char *text = event("jobId", "\"job_id\":\"\\u006a\\/\\\"\\u20ac\\ud83d\\ude00\","
                                "\"apiInfo\":{\"name\":\"a\\tb\"}");
    assert_refused(text, "bad-value", "apiInfo.name holds a control character");
    free(text);
    text = event("jobId", "\"job_id\":\"\\u006a\\/\\\"\\u20ac\\ud83d\\ude00\","
                          "\"api_info\":{\"x\":1,\"n\\u0061me\":\"a\\u0062\"}");
    struct decoded d = decode(text);
    assert_true(d.ok);
    assert_str(d.run.job_id, "j/\"\xe2\x82\xac\xf0\x9f\x98\x80");
    assert_str(d.run.api_name, "ab");
    assert_str(d.run.payload.json, text);
    drop(&d);
    free(text);
}

static void long_fields(void **state) {
    (void)state;
    static const char *const names[] = {"id", "workspaceId", "projectId", "jobId", "status"};
    for (size_t i = 0; i < LEN(names); i++)
        for (size_t n = 1024; n <= 1025; n++) {
            struct buf b;
            buf_init(&b, 4096);
            buf_printf(&b, "\"%s\":\"", names[i]);
            memset(buf_reserve(&b, n), 'x', n);
            b.n += n;
            buf_putc(&b, '"');
            char *text = event(names[i], buf_cstr(&b));
            if (n == 1025) {
                assert_refused(text, "bad-value", "is longer than 1024 bytes");
            } else {
                struct decoded d = decode(text);
                assert_true(d.ok);
                drop(&d);
            }
            free(text);
            buf_free(&b);
        }
}

static void a_megabyte(void **state) {
    (void)state;
    struct buf b;
    buf_init(&b, 4 << 20);
    buf_puts(&b, "\"details\":[0");
    while (b.n < 1000000) buf_puts(&b, ",{\"n\":9007199254740993,\"s\":\"\\u00e9\xc3\xa9 text\"}");
    buf_puts(&b, "]");
    char *text = event(NULL, buf_cstr(&b));
    struct decoded d = decode(text);
    assert_true(d.ok);
    assert_model(&d.run);
    struct buf out;
    buf_init(&out, 4 << 20);
    assert_true(redact_add(&out, &d.run.payload));
    assert_non_null(memmem(out.p, out.n, b.p, b.n)); /* byte for byte */
    buf_free(&out);
    drop(&d);
    free(text);
    buf_free(&b);
}

static void nesting(void **state) {
    (void)state;
    for (size_t levels = JSON_DEPTH_MAX - 2; levels <= JSON_DEPTH_MAX; levels++) {
        struct buf b;
        buf_init(&b, 4096);
        buf_puts(&b, "\"x\":");
        for (size_t i = 0; i < levels; i++) buf_putc(&b, '[');
        for (size_t i = 0; i < levels; i++) buf_putc(&b, ']');
        char *text = event(NULL, buf_cstr(&b));
        if (levels < JSON_DEPTH_MAX) {
            struct decoded d = decode(text);
            assert_true(d.ok);
            drop(&d);
        } else {
            assert_refused(text, "too-deep", "nested deeper than 128 levels");
        }
        free(text);
        buf_free(&b);
    }
}

/* The wrappers' names mean nothing where no wrapper can be. */
static void the_examples(void **state) {
    (void)state;
    static const struct {
        const char *file, *status;
        enum framing framing;
        bool sink;
        size_t edits;
    } cases[] = {
        {"seed", "SUCCESS", FRAMING_BARE, true, 2},
        {"s3-compatible", "SUCCESS", FRAMING_BARE, true, 4},
        {"mixed-case", "PENDING", FRAMING_BARE, true, 2},
        {"no-sink", "SUCCESS", FRAMING_BARE, false, 0},
        {"webhook-failed-skip", "FAILURE", FRAMING_BARE, true, 6},
        {"wrapped-jobrun", "PENDING", FRAMING_WRAPPED, true, 3},
    };
    static const char *const secrets[] = {
        "AKIAIOSFODNN7EXSSPLE", "wJalrXUtnFFFI", "hunter2",     "s3cr3t",
        "token-canary",         "ppass",         "deadbeefcafe"};
    for (size_t i = 0; i < LEN(cases); i++) {
        char path[512];
        static char text[65536];
        snprintf(path, sizeof path, TEST_DATA "/%s.json", cases[i].file);
        FILE *file = fopen(path, "r");
        assert_non_null(file);
        size_t n = fread(text, 1, sizeof text, file);
        fclose(file);
        struct decoded d = decode_with((struct str){text, n}, NULL, 0);
        if (!d.ok) fail_msg("%s: %s %s", path, d.err.why, d.err.detail);
        assert_int_equal(d.run.framing, cases[i].framing);
        assert_str(d.run.id, "123e4567-e89b-12d3-a456-426614174000");
        assert_str(d.run.job_id, "job-123e4567-e89b-12d3");
        assert_str(d.run.status, cases[i].status);
        assert_int_equal(d.run.sink.p != NULL, cases[i].sink);
        assert_int_equal(d.run.payload.n_edits, cases[i].edits);
        assert_false(d.run.unknown_value);
        struct buf out;
        buf_init(&out, 65536);
        assert_true(redact_add(&out, &d.run.payload));
        for (size_t k = 0; k < LEN(secrets); k++) assert_null(strstr(buf_cstr(&out), secrets[k]));
        buf_free(&out);
        drop(&d);
    }
}

/* Every case of the JSON corpus as the whole record, and as an unknown field of a run. */
static void check_as_record(char mark, struct str text, int line) {
    struct decoded d = decode_with(text, NULL, 0);
    bool string = false;
    for (size_t i = 0; i < text.n && (string || memchr(" \t\r\n\"", text.p[i], 5)); i++)
        string = string || text.p[i] == '"';
    if (d.ok) fail_msg("cases.txt:%d: decoded", line);
    bool invalid =
        strcmp(d.err.why, "not-an-object") != 0 && strcmp(d.err.why, "missing-field") != 0;
    if (!string && invalid != (mark != 'y')) fail_msg("cases.txt:%d: %s", line, d.err.why);
    drop(&d);
}

static void check_as_unknown_field(char mark, struct str text, int line) {
    if (mark == 'd') return;
    char *run = event(NULL, NULL);
    struct buf b;
    buf_init(&b, 16384);
    buf_add(&b, run, strlen(run) - 1);
    buf_puts(&b, ",\"unknown\":");
    buf_str(&b, text);
    buf_puts(&b, "}");
    struct decoded d = decode_with((struct str){b.p, b.n}, NULL, 0);
    if (d.ok != (mark == 'y')) fail_msg("cases.txt:%d: %s", line, d.ok ? "decoded" : d.err.why);
    if (d.ok)
        assert_model(&d.run);
    else
        assert_string_equal(d.err.why, "invalid-json");
    drop(&d);
    buf_free(&b);
    free(run);
}

static void corpus(void **state) {
    (void)state;
    assert_in_range(json_cases(check_as_record), 800, 10000);
    json_cases(check_as_unknown_field);
}

/* No prefix of a valid record decodes, and reading stays inside it. */
static void records_cut_short(void **state) {
    (void)state;
    char *text = event(NULL, "\"results\":[{\"signed_url\":\"https:\\/\\/u:p@h/?a=b\"}]");
    for (size_t n = 1; n < strlen(text); n++) {
        struct decoded d = decode_with((struct str){text, n}, NULL, 0);
        assert_false(d.ok);
        assert_string_equal(d.err.why, "invalid-json");
        drop(&d);
    }
    free(text);
}

/* ---- whose a record is that can't be decoded ---- */

static uint64_t whose(const char *text, size_t n) {
    struct arena arena = {0};
    struct message rec = {.value = {text, n}};
    struct str id = jobrun_whose(&rec, &arena);
    uint64_t ret = id.n ? keyed_hash(id.p, id.n) : 0;
    arena_wipe(&arena);
    return ret;
}

static void the_workspace_of_what_is_refused(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool known; /* "ws" */
    } cases[] = {
        {"{\"workspaceId\":\"ws\"}", true},
        {"{ \"workspace_id\" :\t\"ws\" , \"id\":3}", true},
        {"{\"data\":{\"jobRun\":{\"workspaceId\":\"ws\",\"error\":{\"workspaceId\":\"other\"}}}}",
         true},
        /* What a tenant writes, before and behind; the value of another member. */
        {"{\"error\":{\"workspaceId\":\"other\"},\"workspaceId\":\"ws\"}", true},
        {"{\"workspaceId\":\"ws\",\"error\":[{\"workspaceId\":\"other\"}]}", true},
        {"{\"a\":\"\\\"workspaceId\\\":\\\"other\\\"\",\"workspaceId\":\"ws\"}", true},
        {"{\"id\":\"workspaceId\",\"b\":\"other\",\"workspaceId\":\"ws\"}", true},
        {"{\"a\":\"}}}\",\"b\":{\"workspaceId\":\"other\"},\"workspaceId\":\"ws\"}", true},
        /* Cut short, and worse. */
        {"{\"workspaceId\":\"ws\",\"error\":{\"message\":\"he", true},
        {"{\"workspaceId\":\"ws\",,,]]]}", true},
        {"{\"workspaceId\":\"ws", false},
        {"{\"workspaceId\":", false},
        {"{\"workspaceId\"", false},
        {"{\"workspaceId\":7}", false},
        {"{\"workspaceId\":\"\"}", false},
        {"{\"id\":\"7\"}", false},
        {"", false},
        {"\"\\", false},
    };
    uint64_t ws = keyed_hash("ws", 2);
    for (size_t i = 0; i < LEN(cases); i++) {
        char *text = strdup(cases[i].text); /* so that a byte too far is found */
        if (whose(text, strlen(text)) != (cases[i].known ? ws : 0)) fail_msg("%s", text);
        free(text);
    }
    /* Deeper than is read, and the id behind it. */
    enum { DEEP = 100000 };
    struct buf b;
    buf_init(&b, 4 * DEEP);
    buf_puts(&b, "{\"error\":");
    for (int i = 0; i < DEEP; i++) buf_putc(&b, '[');
    buf_puts(&b, "{\"workspaceId\":\"other\"}");
    for (int i = 0; i < DEEP; i++) buf_putc(&b, ']');
    buf_puts(&b, ",\"workspaceId\":\"ws\"}");
    assert_int_equal(whose(b.p, b.n), ws);
    buf_free(&b);
}

/* Whether people would see it. */
static bool shown(const char *text, size_t n) {
    struct arena arena = {0};
    struct message rec = {.value = {text, n}};
    char names[] = "password,secret,token", *v[] = {names, names + 9, names + 16};
    names[8] = names[15] = '\0';
    const struct list list = {v, LEN(v)};
    const struct known_sinks none = {.names = job_names(&list)};
    bool hidden = false;
    struct str id = jobrun_whose_shown(&rec, &none, &arena, &hidden);
    assert_true(id.n == jobrun_whose(&rec, &arena).n);
    arena_wipe(&arena);
    names_free(none.names);
    return id.n && !hidden;
}

#define WITH(members) "\"jobConfigurationSnapshot\":{\"sink\":{\"type\":\"webhook\"," members "}}"
#define BY(id) "{\"workspaceId\":\"" id "\","

/* Refused before, or after, its secrets are known: an id that is one of them, or can't be told from
 * them, is not shown. */
static void what_is_refused_names_no_secret(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool is;
    } cases[] = {
        /* Required fields are missing. */
        {BY("ws-0123") WITH("\"headers\":{\"K\":\"Zq7xSENT018Kv\"}") "}", true},
        {BY("Zq7xSENT018Kv") WITH("\"headers\":{\"K\":\"Zq7xSENT018Kv\"}") "}", false},
        {"{" WITH("\"headers\":{\"K\":\"Zq7xSENT018Kv\"}") ",\"workspace_id\":\"Zq7xSENT018Kv\"}",
         false},
        {BY("ws-Zq7xSENT018Kv") WITH("\"headers\":{\"K\":\"Zq7xSENT018Kv\"}") "}", false},
        {BY("\\u005aq7xSENT018Kv") WITH("\"headers\":{\"K\":\"Zq7xSENT018Kv\"}") "}", false},
        {BY("Zq7xSENT018Kv") WITH("\"headers\":{\"K\":\"Bearer Zq7xSENT018Kv\"}") "}", false},
        {BY("Zq7xSENT018Kv") WITH("\"headers\":{\"K\":\"Basic dTpacTd4U0VOVDAxOEt2\"}") "}", false},
        {BY("Zq7xSENT018Kv") WITH("\"url\":\"https://u:Zq7xSENT018Kv@h/\"") "}", false},
        {BY("Zq7xSENT018Kv") "\"my_password\":\"Zq7xSENT018Kv\"}", false},
        {BY("short") WITH("\"headers\":{\"K\":\"short\"}") "}", false},
        {BY("other") WITH("\"headers\":{\"K\":\"short\"}") "}", true},
        /* The only one there is stands in the sink, or has a telling name around it. */
        {"{" WITH("\"headers\":{\"workspaceId\":\"Zq7xSENT018Kv\"}") "}", false},
        {"{\"secret\":{\"workspaceId\":\"Zq7xSENT018Kv\"}}", false},
        /* A sink that can't be redacted. */
        {BY("Zq7xSENT018Kv") WITH("\"headers\":[\"Zq7xSENT018Kv\"]") "}", false},
        {BY("Zq7xSENT018Kv") WITH("\"url\":7,\"headers\":{\"K\":\"Zq7xSENT018Kv\"}") "}", false},
        /* Both spellings, other types, another framing. */
        {BY("Zq7xSENT018Kv") "\"workspace_id\":3," WITH("\"k\":\"Zq7xSENT018Kv\"") "}", false},
        {"{\"jobRun\":" BY("Zq7xSENT018Kv") WITH("\"k\":\"Zq7xSENT018Kv\"") "}}", false},
        {"{\"jobRun\":" BY("ws-0123") WITH("\"k\":\"Zq7xSENT018Kv\"") "}}", true},
        /* No JSON: what comes behind the spot is not read. */
        {BY("Zq7xSENT018Kv") "," WITH("\"k\":\"Zq7xSENT018Kv\"") "}", false},
        {BY("Zq7xSENT018Kv") WITH("\"k\":\"Zq7xSENT018Kv\"") ",}", false},
        {BY("Zq7xSENT018Kv") WITH("\"k\":\"Zq7xSENT018Kv\"") "}}", false},
        {BY("Zq7xSENT018Kv") "\"k\":\"\\x\"," WITH("\"k\":\"Zq7xSENT018Kv\"") "}", false},
        /* Cut short. */
        {"{\"workspaceId\":\"ws-0123\"", true},
        {BY("ws-0123") "\"id\":\"7\",\"error\":{", true},
        {BY("Zq7xSENT018Kv") WITH("\"k\":\"Zq7xSENT018Kv\""), false},
        {BY("Zq7xSENT018Kv") "\"jobConfigurationSnapshot\":{\"sink\":{\"k\":\"Zq7xSENT018Kv\"",
         false},
        {BY("Zq7xSENT018Kv") "\"jobConfigurationSnapshot\":{\"sink\":{\"k\":\"Zq7xSENT018K", false},
    };
    for (size_t i = 0; i < LEN(cases); i++) {
        const char *text = cases[i].text, *first = strstr(text, "q7xSENT018Kv");
        const char *second = first ? strstr(first + 1, "q7xSENT018Kv") : NULL;
        size_t n = strlen(text);
        if (shown(text, n) != cases[i].is) fail_msg("%s", text);
        /* Wherever it is cut, once both have begun. */
        for (; second && !cases[i].is && n > (size_t)(second - text); n--) {
            char *cut = memcpy(malloc(n), text, n); /* so that a byte too far is found */
            if (shown(cut, n)) fail_msg("%.*s", (int)n, text);
            free(cut);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_spellings_of_each_field),
        cmocka_unit_test(each_required_field_is_missed),
        cmocka_unit_test(fields_that_stand_twice),
        cmocka_unit_test(refusals),
        cmocka_unit_test(sinks_that_cannot_be_redacted),
        cmocka_unit_test(accepted),
        cmocka_unit_test(sink_absent_or_null),
        cmocka_unit_test(values_come_unescaped),
        cmocka_unit_test(long_fields),
        cmocka_unit_test(a_megabyte),
        cmocka_unit_test(nesting),
        cmocka_unit_test(the_examples),
        cmocka_unit_test(corpus),
        cmocka_unit_test(records_cut_short),
        cmocka_unit_test(the_workspace_of_what_is_refused),
        cmocka_unit_test(what_is_refused_names_no_secret),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
