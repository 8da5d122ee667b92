/* Runs to decode, built from the model member by member, for the tests of decoding. Include
 * cmocka.h first. */
#ifndef RUNSINK_TESTS_EVENTS_H
#define RUNSINK_TESTS_EVENTS_H

#include <stdio.h>
#include <stdlib.h>

#include "worker/base/buf.h"
#include "worker/event/jobrun.h"

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
static inline char *event(const char *drop, const char *insert) {
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

static inline struct decoded decode_with(struct str value, const struct header *headers, size_t n) {
    struct decoded d = {0};
    struct jobrun untouched;
    memset(&untouched, 0x5a, sizeof untouched);
    d.run = untouched;
    d.value = xmalloc(value.n);
    if (value.n) memcpy(d.value, value.p, value.n);
    struct message rec = {{value.p ? d.value : NULL, value.n}, headers, n};
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

static inline struct decoded decode(const char *text) {
    return decode_with(str_c(text), NULL, 0);
}

static inline void drop(struct decoded *d) {
    arena_free(&d->arena);
    free(d->value);
}

static inline void assert_str(struct str s, const char *text) {
    if (!str_is(s, text)) fail_msg("\"%.*s\" is not \"%s\"", (int)s.n, s.p, text);
}

static inline void assert_refused(const char *text, const char *why, const char *detail) {
    struct decoded d = decode(text);
    if (d.ok || strcmp(d.err.why, why) != 0 || !strstr(d.err.detail, detail))
        fail_msg("%.2000s\n  gave \"%s\" \"%s\", not \"%s\" \"%s\"", text, d.ok ? "ok" : d.err.why,
                 d.ok ? "" : d.err.detail, why, detail);
    drop(&d);
}

static inline void assert_model(const struct jobrun *run) {
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
    assert_false(run->unknown_value);
    assert_int_equal(run->payload.n_edits, 1);
    assert_memory_equal(run->payload.json.p + run->payload.edits[0].at, "CANARY1",
                        run->payload.edits[0].n);
}

/* A header, in an initialiser. */
#define H(name_, value_)                                                                           \
    { STR(name_), STR(value_) }

#endif
