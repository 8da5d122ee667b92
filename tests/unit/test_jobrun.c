/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "tests/unit/json_cases.h"
#include "worker/jobrun.h"
#include "worker/redact.h"
#include "worker/rfc3339.h"

#define LEN(array) (sizeof(array) / sizeof(array)[0])
#define SINK "{\"type\":\"s3\",\"bucket\":\"b\",\"accessKeyId\":\"CANARY1\",\"region\":\"r\"}"
#define SNAPSHOT "{\"configuration\":{\"retry\":{}},\"sink\":" SINK "}"

/* The members of a complete run, in both spellings. */
static const struct {
    const char *camel, *snake, *value;
} model[] = {
    {"id", "id", "\"run-1\""},
    {"startTime", "start_time", "\"2024-01-01T00:00:00Z\""},
    {"endTime", "end_time", "null"},
    {"workspaceId", "workspace_id", "\"ws-1\""},
    {"projectId", "project_id", "\"pr-1\""},
    {"jobId", "job_id", "\"job-1\""},
    {"createdAt", "created_at", "\"2024-01-01T00:00:01Z\""},
    {"updatedAt", "updated_at", "\"2024-01-01T00:00:02Z\""},
    {"type", "type", "\"SCHEDULED\""},
    {"status", "status", "\"SUCCESS\""},
    {"payloads", "payloads", "100"},
    {"successfulRuns", "successful_runs", "95"},
    {"failedRuns", "failed_runs", "5"},
    {"jobConfigurationSnapshot", "job_configuration_snapshot", SNAPSHOT},
};

/* A run without the member called drop (NULL: all there) and with insert at its end (NULL: nothing
 * more). */
static char *event(const char *drop, const char *insert) {
    struct buf b;
    buf_init(&b, 4 << 20);
    buf_putc(&b, '{');
    for (size_t i = 0; i < LEN(model); i++)
        if (!drop || strcmp(drop, model[i].camel) != 0)
            buf_printf(&b, "%s\"%s\":%s", b.n > 1 ? "," : "", model[i].camel, model[i].value);
    if (insert) buf_printf(&b, ",%s", insert);
    buf_putc(&b, '}');
    char *text = xstrndup(b.p, b.n);
    buf_free(&b);
    return text;
}

struct decoded {
    struct arena arena;
    struct jobrun run;
    struct outcome err;
    bool ok;
    char *value; /* the record's bytes, exactly as many: reading past them shows */
};

static struct decoded decode_with(struct str value, const struct header *headers, size_t n) {
    struct decoded d = {0};
    struct jobrun untouched;
    memset(&untouched, 0x5a, sizeof untouched);
    d.run = untouched;
    d.value = xmalloc(value.n);
    if (value.n) memcpy(d.value, value.p, value.n);
    struct record rec = {{value.p ? d.value : NULL, value.n}, headers, n};
    d.ok = jobrun_decode(&rec, &d.arena, &d.run, &d.err);
    if (!d.ok) {
        assert_memory_equal(&d.run, &untouched, sizeof untouched);
        assert_true(d.err.why[0] != '\0');
        assert_null(strstr(d.err.detail, "CANARY"));
        if (d.err.verdict != VERDICT_OK) {
            assert_int_equal(d.err.verdict, VERDICT_PERMANENT);
            assert_int_equal(d.err.fault, FAULT_DATA);
            assert_true(d.err.detail[0] != '\0');
        }
    }
    return d;
}

static struct decoded decode(const char *text) {
    return decode_with(str_c(text), NULL, 0);
}

static void drop(struct decoded *d) {
    arena_free(&d->arena);
    free(d->value);
}

static void assert_str(struct str s, const char *text) {
    if (!str_is(s, text)) fail_msg("\"%.*s\" is not \"%s\"", (int)s.n, s.p, text);
}

static void assert_refused(const char *text, const char *why, const char *detail) {
    struct decoded d = decode(text);
    if (d.ok || strcmp(d.err.why, why) != 0 || !strstr(d.err.detail, detail))
        fail_msg("%.2000s\n  gave \"%s\" \"%s\", not \"%s\" \"%s\"", text, d.ok ? "ok" : d.err.why,
                 d.ok ? "" : d.err.detail, why, detail);
    drop(&d);
}

static void assert_model(const struct jobrun *run) {
    assert_str(run->id, "run-1");
    assert_str(run->workspace_id, "ws-1");
    assert_str(run->project_id, "pr-1");
    assert_str(run->job_id, "job-1");
    assert_str(run->created_at, "2024-01-01T00:00:01Z");
    assert_str(run->updated_at, "2024-01-01T00:00:02Z");
    assert_str(run->start_time, "2024-01-01T00:00:00Z");
    assert_str(run->type, "SCHEDULED");
    assert_str(run->status, "SUCCESS");
    assert_str(run->sink, SINK);
    assert_int_equal(run->api_name.n, 0);
    assert_false(run->unknown_enum);
    assert_int_equal(run->n_edits, 1);
    assert_memory_equal(run->payload.p + run->edits[0].at, "CANARY1", run->edits[0].n);
}

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
        assert_str(d.run.payload, text);
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
        {"createdAt", "\"createdAt\":\"CANARY\"", "bad-value", "createdAt is no RFC 3339"},
        {"createdAt", "\"createdAt\":1704067200", "wrong-type", "createdAt must be a string"},
        {"updatedAt", "\"updated_at\":\"2024-13-01T00:00:00Z\"", "bad-value", "updatedAt is no"},
        {"startTime", "\"startTime\":null", "wrong-type", "startTime must be a string"},
        {"endTime", "\"endTime\":\"\"", "bad-value", "endTime must not be empty"},
        {"endTime", "\"endTime\":\"2024-01-01\"", "bad-value", "endTime is no RFC 3339"},
        {"endTime", "\"endTime\":0", "wrong-type", "endTime must be a string"},
        {"payloads", "\"payloads\":-1", "bad-value", "payloads must be a number"},
        {"payloads", "\"payloads\":\"100\"", "wrong-type", "payloads must be a number"},
        {"payloads", "\"payloads\":null", "wrong-type", "payloads must be a number"},
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
        assert_int_equal(d.run.unknown_enum, cases[i].unknown);
        assert_str(d.run.payload, text);
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
    assert_str(d.run.payload, text);
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
    assert_true(redact_add(&out, &d.run));
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

#define H(name_, value_)                                                                           \
    { STR(name_), STR(value_) }

static void framings(void **state) {
    (void)state;
    char *run = event(NULL, NULL);
    struct buf quoted;
    buf_init(&quoted, 8192);
    buf_json(&quoted, str_c(run));
    const char *q = buf_cstr(&quoted);
    const struct {
        const char *before, *middle, *after;
        struct header headers[3];
        enum framing framing;
        const char *event_id;
        size_t prefix; /* bytes that are no part of the payload */
    } cases[] = {
        {"", run, "", {{{0}}}, FRAMING_BARE, "", 0},
        {" \n", run, "\r\n", {{{0}}}, FRAMING_BARE, "", 0},
        {"", run, "", {H("id", "outbox-1")}, FRAMING_BARE, "outbox-1", 0},
        {"", run, "", {H("content-type", "application/json")}, FRAMING_BARE, "", 0},
        {"", run, "", {H("ce_Id", "no"), H("CE_ID", "no")}, FRAMING_BARE, "", 0},
        {"{\"jobRun\":", run, "}", {{{0}}}, FRAMING_WRAPPED, "", 0},
        {"{\"job_run\":", run, ",\"id\":7,\"x\":[]}", {{{0}}}, FRAMING_WRAPPED, "", 0},
        {"{\"id\":7,\"id\":8,\"j\\u006fbRun\":", run, "}", {{{0}}}, FRAMING_WRAPPED, "", 0},
        {"", run, "", {H("ce_id", "e-1"), H("ce_type", "x")}, FRAMING_CE_BINARY, "e-1", 0},
        {"", run, "", {H("ce_id", "e-1"), H("ce_id", "e-2")}, FRAMING_CE_BINARY, "e-2", 0},
        {"", run, "", {H("ce_specversion", "1.0")}, FRAMING_CE_BINARY, "", 0},
        {"", run, "", {H("ce_id", "a\nb"), H("id", "o-1")}, FRAMING_CE_BINARY, "o-1", 0},
        {"{\"jobRun\":", run, "}", {H("ce_id", "e-1")}, FRAMING_CE_BINARY, "e-1", 0},
        {"~", run, "", {{{0}}}, FRAMING_CONFLUENT, "", 5},
        {"~{\"jobRun\":", run, "}", {{{0}}}, FRAMING_CONFLUENT, "", 5},
        {"~", run, "", {H("ce_id", "e-1")}, FRAMING_CE_BINARY, "e-1", 5},
        {"{\"specversion\":\"1.0\",\"id\":\"s-1\",\"type\":\"t\",\"data\":",
         run,
         "}",
         {H("content-type", "application/cloudevents+json; charset=UTF-8")},
         FRAMING_CE_STRUCTURED,
         "s-1",
         0},
        {"{\"data\":",
         run,
         ",\"id\":\"s\\u002d1\"}",
         {H("Content-Type", "Application/CloudEvents")},
         FRAMING_CE_STRUCTURED,
         "s-1",
         0},
        {"{\"id\":\"s-1\",\"data\":",
         run,
         "}",
         {H("content-type", " application/cloudevents+json"), H("ce_id", "e-1")},
         FRAMING_CE_STRUCTURED,
         "e-1",
         0},
        {"{\"id\":7,\"data\":{\"results\":{},\"job_run\":",
         run,
         "}}",
         {H("content-type", "application/cloudevents+json"), H("id", "o-1")},
         FRAMING_CE_STRUCTURED,
         "o-1",
         0},
        {"\"", q, "\"", {H("id", "outbox-1")}, FRAMING_OUTBOX, "outbox-1", SIZE_MAX},
        {" \"", q, "\" ", {{{0}}}, FRAMING_OUTBOX, "", SIZE_MAX},
        {"\"", q, "\"", {H("ce_id", "e-1"), H("id", "o")}, FRAMING_CE_BINARY, "e-1", SIZE_MAX},
        {"~\"", q, "\"", {{{0}}}, FRAMING_OUTBOX, "", SIZE_MAX},
    };
    for (size_t i = 0; i < LEN(cases); i++) {
        struct buf b;
        size_t n = 0;
        buf_init(&b, 65536);
        const char *before = cases[i].before;
        if (*before == '~') {
            buf_add(&b, "\0\0\1\2\3", 5);
            before++;
        }
        buf_printf(&b, "%s%s%s", before, cases[i].middle, cases[i].after);
        while (n < 3 && cases[i].headers[n].name.p) n++;
        struct decoded d = decode_with((struct str){b.p, b.n}, cases[i].headers, n);
        if (!d.ok) fail_msg("case %zu: %s %s", i, d.err.why, d.err.detail);
        assert_model(&d.run);
        assert_int_equal(d.run.framing, cases[i].framing);
        assert_str(d.run.event_id, cases[i].event_id);
        if (cases[i].prefix == SIZE_MAX)
            assert_str(d.run.payload, run);
        else
            assert_true(
                str_eq(d.run.payload, (struct str){b.p + cases[i].prefix, b.n - cases[i].prefix}));
        drop(&d);
        buf_free(&b);
    }
    buf_free(&quoted);
    free(run);
}

static void wrapped_inside_an_outbox(void **state) {
    (void)state;
    char *run = event(NULL, NULL);
    struct buf inner;
    struct buf outer;
    buf_init(&inner, 8192);
    buf_init(&outer, 16384);
    buf_printf(&inner, "{\"jobRun\":%s}", run);
    buf_putc(&outer, '"');
    buf_json(&outer, (struct str){inner.p, inner.n});
    buf_putc(&outer, '"');
    struct decoded d = decode(buf_cstr(&outer));
    assert_true(d.ok);
    assert_model(&d.run);
    assert_int_equal(d.run.framing, FRAMING_OUTBOX);
    assert_str(d.run.payload, buf_cstr(&inner));
    drop(&d);
    /* Once only. */
    struct buf twice;
    buf_init(&twice, 32768);
    buf_putc(&twice, '"');
    buf_json(&twice, (struct str){outer.p, outer.n});
    buf_putc(&twice, '"');
    assert_refused(buf_cstr(&twice), "not-an-object", "no JSON object");
    buf_free(&twice);
    buf_free(&inner);
    buf_free(&outer);
    free(run);
}

static void values_that_are_no_event(void **state) {
    (void)state;
    const struct {
        struct str value;
        struct header headers[1];
        const char *why, *detail;
    } cases[] = {
        {STR(""), {{{0}}}, "empty-value", "no bytes"},
        {STR(" "), {{{0}}}, "invalid-json", "a value is missing"},
        {STR("null"), {{{0}}}, "not-an-object", "no JSON object"},
        {STR("[]"), {{{0}}}, "not-an-object", "no JSON object"},
        {STR("7"), {{{0}}}, "not-an-object", "no JSON object"},
        {STR("\"\""), {{{0}}}, "invalid-json", "a value is missing"},
        {STR("\"CANARY\""), {{{0}}}, "invalid-json", "a value is missing"},
        {STR("\"{\\ud800\""), {{{0}}}, "invalid-json", "outbox string holds an unpaired"},
        {STR("\"a\" b"), {{{0}}}, "invalid-json", "text follows the value"},
        {STR("{}"), {{{0}}}, "missing-field", "jobConfigurationSnapshot is missing"},
        {STR("{}{}"), {{{0}}}, "invalid-json", "text follows the value, at byte 2"},
        {STR("\xef\xbb\xbf{}"), {{{0}}}, "invalid-json", "byte order mark"},
        {STR("\xff\xfe{\0}\0"), {{{0}}}, "invalid-json", "a value is missing"},
        {STR("\0"), {{{0}}}, "confluent-not-json", "nothing behind it (Avro and Protobuf"},
        {STR("\0\0\0\0\1"), {{{0}}}, "confluent-not-json", "nothing behind it"},
        {STR("\0\0\0\0\1\x48run"), {{{0}}}, "confluent-not-json", "(Avro and Protobuf are not"},
        {STR("\0\0\0\0\1\0\x0a\x05"), {{{0}}}, "confluent-not-json", "Protobuf are not supported"},
        {STR("\0\0\0\0\1{\"a\""), {{{0}}}, "confluent-not-json", "a colon is missing, at byte 4"},
        {STR("\0\0\0\0\1 7"), {{{0}}}, "confluent-not-json", "no JSON object"},
        {STR("\0\0\0\0\1{}"), {{{0}}}, "missing-field", "is missing"},
        {STR("Obj\x01\x04"), {{{0}}}, "avro", "Avro container"},
        {STR("{}"), {H("content-type", "application/avro")}, "avro", "content-type says Avro"},
        {STR("{}"), {H("content-type", "application/cloudevents+avro")}, "avro", "Avro"},
        {STR("{}"), {H("CONTENT-TYPE", "application/vnd.apache.avro+json")}, "avro", "Avro"},
        {STR("{}"), {H("content-type", "avro/binary")}, "avro", "Avro"},
        {STR("{}"), {H("content-type", "application/x-protobuf")}, "protobuf", "Protobuf"},
        {STR("{}"), {H("content-type", "application/cloudevents+protobuf")}, "protobuf", "Proto"},
        {STR("{}"), {H("content-type", "Application/Protobuf; x=y")}, "protobuf", "Protobuf"},
        {STR("[]"),
         {H("content-type", "application/cloudevents-batch+json")},
         "cloudevents-format",
         "one event a record"},
        {STR("{}"), {H("content-type", "application/cloudevents+xml")}, "cloudevents-format", ""},
        {STR("{}"), {H("content-type", "application/cloudevents+json")}, "missing-field", "data"},
        {STR("{\"data\":\"CANARY\"}"),
         {H("content-type", "application/cloudevents+json")},
         "wrong-type",
         "data must be an object"},
        {STR("{\"data\":null}"),
         {H("content-type", "application/cloudevents+json")},
         "wrong-type",
         "data must be an object"},
        {STR("{\"data_base64\":\"CANARY\"}"),
         {H("content-type", "application/cloudevents+json")},
         "data-base64",
         "data_base64"},
        {STR("{\"data\":{},\"data_base64\":\"CANARY\"}"),
         {H("content-type", "application/cloudevents+json")},
         "data-base64",
         "data_base64"},
        {STR("{\"data\":{},\"data\":{\"a\":1}}"),
         {H("content-type", "application/cloudevents+json")},
         "duplicate-field",
         "data"},
        {STR("{\"id\":\"CANARY\",\"id\":\"b\",\"data\":{}}"),
         {H("content-type", "application/cloudevents+json")},
         "duplicate-field",
         "id"},
        {STR("{\"data\":{},\"jobConfigurationSnapshot\":{}}"),
         {H("content-type", "application/cloudevents+json")},
         "ambiguous-run",
         "which sink"},
    };
    for (size_t i = 0; i < LEN(cases); i++) {
        struct decoded d =
            decode_with(cases[i].value, cases[i].headers, cases[i].headers[0].name.p ? 1 : 0);
        if (d.ok || strcmp(d.err.why, cases[i].why) != 0 || !strstr(d.err.detail, cases[i].detail))
            fail_msg("case %zu: %s %s", i, d.err.why, d.err.detail);
        drop(&d);
    }
}

static void tombstone(void **state) {
    (void)state;
    const struct header headers[] = {H("ce_id", "e-1"), {STR("content-type"), {NULL, 0}}};
    struct decoded d = decode_with((struct str){NULL, 0}, headers, 2);
    assert_false(d.ok);
    assert_int_equal(d.err.verdict, VERDICT_OK);
    assert_int_equal(d.err.fault, FAULT_NONE);
    assert_string_equal(d.err.why, "tombstone");
    drop(&d);
}

static void null_headers_are_absent(void **state) {
    (void)state;
    const struct header headers[] = {
        {STR("ce_id"), {NULL, 0}}, {STR("content-type"), {NULL, 0}}, {{NULL, 0}, {NULL, 0}}};
    char *text = event(NULL, NULL);
    struct decoded d = decode_with(str_c(text), headers, 3);
    assert_true(d.ok);
    assert_int_equal(d.run.framing, FRAMING_BARE);
    assert_int_equal(d.run.event_id.n, 0);
    drop(&d);
    free(text);
}

static void the_examples(void **state) {
    (void)state;
    static const struct {
        const char *file, *status;
        enum framing framing;
        bool sink;
        size_t edits;
    } cases[] = {
        {"seed", "SUCCESS", FRAMING_BARE, true, 2},
        {"s3-compatible", "SUCCESS", FRAMING_BARE, true, 2},
        {"mixed-case", "PENDING", FRAMING_BARE, true, 2},
        {"no-sink", "SUCCESS", FRAMING_BARE, false, 0},
        {"webhook-failed-skip", "FAILURE", FRAMING_BARE, true, 4},
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
        assert_int_equal(d.run.n_edits, cases[i].edits);
        assert_false(d.run.unknown_enum);
        struct buf out;
        buf_init(&out, 65536);
        assert_true(redact_add(&out, &d.run));
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

static void timestamps(void **state) {
    (void)state;
    static const char *const good[] = {
        "2024-01-01T00:00:00Z",        "2024-01-01t00:00:00z",
        "2024-02-29T23:59:59.9Z",      "2000-02-29T00:00:00Z",
        "0000-01-01T00:00:00Z",        "9999-12-31T23:59:59.999999999999Z",
        "1985-04-12T23:20:50.52Z",     "1996-12-19T16:39:57-08:00",
        "1990-12-31T23:59:60Z",        "1990-12-31T15:59:60-08:00",
        "2017-01-01T08:59:60.5+09:00", "1937-01-01T12:00:27.87+00:20",
        "2024-06-30T23:59:60Z",        "2024-01-01T00:00:00-00:00",
        "2024-01-01T00:00:00+23:59",   "2017-01-01T05:29:60+05:30",
    };
    static const char *const bad[] = {
        "",
        "2024",
        "2024-01-01",
        "2024-01-01T00:00:00",
        "2024-01-01 00:00:00Z",
        "2024-01-01T00:00Z",
        "2024-1-01T00:00:00Z",
        "24-01-01T00:00:00Z",
        "2024-00-01T00:00:00Z",
        "2024-13-01T00:00:00Z",
        "2024-01-00T00:00:00Z",
        "2024-01-32T00:00:00Z",
        "2023-02-29T00:00:00Z",
        "1900-02-29T00:00:00Z",
        "2024-04-31T00:00:00Z",
        "2024-01-01T24:00:00Z",
        "2024-01-01T00:60:00Z",
        "2024-01-01T00:00:61Z",
        "2024-01-01T00:00:60Z",
        "2024-06-30T23:58:60Z",
        "2024-06-29T23:59:60Z",
        "2024-06-30T23:59:60+01:00",
        "2024-01-01T00:00:00.Z",
        "2024-01-01T00:00:00,5Z",
        "2024-01-01T00:00:00+0100",
        "2024-01-01T00:00:00+01",
        "2024-01-01T00:00:00+24:00",
        "2024-01-01T00:00:00+01:60",
        "2024-01-01T00:00:00Z ",
        " 2024-01-01T00:00:00Z",
        "2024-01-01T00:00:00ZZ",
        "2024-01-01T00:00:00z0",
        "+2024-01-01T00:00:00Z",
        "12024-01-01T00:00:00Z",
        "2024-01-01T00:00:00UTC",
        "2024-W01-1T00:00:00Z",
        "20240101T000000Z",
        "2024-01-01T00:00:-1Z",
        "2024-01-01T00:00:00.5",
    };
    for (size_t i = 0; i < LEN(good); i++)
        if (!rfc3339_ok(str_c(good[i]))) fail_msg("%s", good[i]);
    for (size_t i = 0; i < LEN(bad); i++)
        if (rfc3339_ok(str_c(bad[i]))) fail_msg("%s", bad[i]);
    for (size_t n = 0; n < strlen(good[9]); n++) assert_false(rfc3339_ok((struct str){good[9], n}));
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
        cmocka_unit_test(framings),
        cmocka_unit_test(wrapped_inside_an_outbox),
        cmocka_unit_test(values_that_are_no_event),
        cmocka_unit_test(tombstone),
        cmocka_unit_test(null_headers_are_absent),
        cmocka_unit_test(the_examples),
        cmocka_unit_test(corpus),
        cmocka_unit_test(records_cut_short),
        cmocka_unit_test(timestamps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
