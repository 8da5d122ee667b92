/* Any bytes as a record's value, under a choice of headers. What decodes keeps the promises of
 * jobrun.h and redact.h, checked with a second parser (cJSON) where one can be had. Run by
 * scripts/fuzz. */
#include <assert.h>
#include <cjson/cJSON.h>
#include <stdint.h>
#include <stdlib.h>

#include "worker/event/redact.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#define H(name_, value_)                                                                           \
    { STR(name_), STR(value_) }
static const struct header headers[][2] = {
    {H("x", "y"), H("content-type", "application/json")},
    {H("ce_id", "event-1"), H("ce_specversion", "1.0")},
    {H("content-type", "application/cloudevents+json"), H("id", "outbox-1")},
    {H("Content-Type", "application/cloudevents"), {{"ce_id", 5}, {NULL, 0}}},
};
#define N_HEADERS (sizeof headers / sizeof headers[0])

static void check_refusal(const struct outcome *o) {
    assert(o->verdict == VERDICT_PERMANENT && o->fault == FAULT_DATA);
    assert(o->why[0] && o->detail[0]);
    for (const char *p = o->detail; *p; p++) assert(*p >= 0x20 && *p < 0x7f);
}

static void check_fields(const struct jobrun *run) {
    const struct str fields[] = {run->id,         run->workspace_id, run->project_id,
                                 run->job_id,     run->created_at,   run->updated_at,
                                 run->start_time, run->type,         run->status};
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
        assert(fields[i].n > 0 && fields[i].n <= 1024);
        for (size_t k = 0; k < fields[i].n; k++) assert((unsigned char)fields[i].p[k] >= 0x20);
    }
    assert(!run->sink.p || (run->sink.p[0] == '{' && run->sink.p[run->sink.n - 1] == '}'));
}

static void check_edits(const struct jobrun *run) {
    size_t from = 0;
    for (size_t i = 0; i < run->payload.n_edits; i++) {
        const struct edit *e = &run->payload.edits[i];
        assert(e->n > 0 && e->at > from && e->at + e->n < run->payload.json.n);
        assert(!memchr(run->payload.json.p + e->at, '\n', e->n));
        from = e->at + e->n;
    }
}

static void check_json(struct str text) {
    struct json j;
    struct json_value v;
    json_begin(&j, text);
    json_value(&j, &v);
    assert(json_end(&j));
}

static void check_url(const cJSON *url) {
    if (!cJSON_IsString(url)) return;
    struct url_secrets s;
    struct edit e;
    url_secrets_begin(&s, str_c(url->valuestring));
    while (url_secrets_next(&s, &e))
        assert(str_is((struct str){url->valuestring + e.at, e.n}, "[REDACTED]"));
}

static void check_hidden(const cJSON *v) {
    if (cJSON_IsString(v))
        assert(v->valuestring[0] == '\0' || strcmp(v->valuestring, "[REDACTED]") == 0);
    else
        assert(cJSON_IsNull(v));
}

/* The redacted sink, as the parser of the sinks sees it. */
static void check_sink(struct str text) {
    static const char *const secrets[] = {"accessKeyId",       "access_key_id", "secretAccessKey",
                                          "secret_access_key", "sessionToken",  "session_token"};
    if (!text.p) return;
    cJSON *sink = cJSON_ParseWithLength(text.p, text.n);
    assert(cJSON_IsObject(sink));
    for (const cJSON *v = sink->child; v; v = v->next) {
        for (size_t i = 0; i < sizeof secrets / sizeof secrets[0]; i++)
            if (strcmp(v->string, secrets[i]) == 0) check_hidden(v);
        if (strcmp(v->string, "url") == 0 || strcmp(v->string, "endpoint") == 0) check_url(v);
        if (strcmp(v->string, "headers") != 0 || !cJSON_IsObject(v)) continue;
        for (const cJSON *h = v->child; h; h = h->next)
            if (strcasecmp(h->string, "content-type") != 0 && strcasecmp(h->string, "accept") != 0)
                check_hidden(h);
    }
    cJSON_Delete(sink);
}

/* What was redacted decodes to the same event, and redacting it again changes nothing. */
static void check_redacted(const struct jobrun *run, const struct header *h) {
    struct arena arena = {0};
    struct outcome err;
    struct jobrun again;
    struct buf once;
    struct buf twice;
    buf_init(&once, SIZE_MAX);
    buf_init(&twice, SIZE_MAX);
    assert(redact_add(&once, &run->payload) && once.n == redact_size(&run->payload));
    check_json((struct str){once.p, once.n});
    struct message rec = {{once.p, once.n}, h, 2};
    assert(jobrun_decode(&rec, &arena, &again, &err));
    if (!run->hidden) { /* an id may be a secret of the sink, too */
        assert(str_eq(run->id, again.id) && str_eq(run->status, again.status));
        assert(str_eq(run->event_id, again.event_id));
        assert(run->unknown_value == again.unknown_value);
    }
    assert(!run->sink.p == !again.sink.p);
    check_sink(again.sink);
    assert(redact_add(&twice, &again.payload));
    assert(once.n == twice.n && memcmp(once.p, twice.p, once.n) == 0);
    buf_clear(&twice);
    assert(redact_add_line(&twice, &run->payload) && twice.p[twice.n - 1] == '\n');
    assert(memchr(twice.p, '\n', twice.n) == twice.p + twice.n - 1);
    buf_free(&once);
    buf_free(&twice);
    arena_free(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n == 0) return 0;
    const struct header *h = headers[data[n - 1] % N_HEADERS];
    struct message rec = {{(const char *)data, n - 1}, h, 2};
    struct arena arena = {0};
    struct outcome err;
    struct jobrun run;
    memset(&err, 0, sizeof err);
    if (!jobrun_decode(&rec, &arena, &run, &err)) {
        check_refusal(&err);
    } else {
        check_json(run.payload.json);
        check_fields(&run);
        check_edits(&run);
        if (run.sink.p) {
            cJSON *sink = cJSON_ParseWithLength(run.sink.p, run.sink.n);
            assert(cJSON_IsObject(sink)); /* what is handed to the sinks, they can read */
            cJSON_Delete(sink);
        }
        check_redacted(&run, h);
    }
    arena_free(&arena);
    return 0;
}
