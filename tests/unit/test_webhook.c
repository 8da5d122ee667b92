/* The webhook sink: what becomes of a sink object, what a request carries, what an answer means. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>

#include "config/config.h"
#include "sinks/http/http.h"
#include "sinks/webhook/webhook.h"
#include "tests/unit/http_peer.h"
#include "worker/base/log.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))

static struct http_peer peer;
static char none[] = "";
static struct cidr loopback[1];
static char first_secret[] = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
static char second_secret[] = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYX";
static char *secrets[] = {first_secret, second_secret};

static struct config test_config(void) {
    assert_true(cidr_parse(STR("127.0.0.1/32"), &loopback[0]));
    return (struct config){.http_connect_timeout = 2000,
                           .http_timeout = 5000,
                           .http_idle_timeout = 15000,
                           .http_max_connections = 8,
                           .http_response_max = 65536,
                           .http_ca_bundle = none,
                           .http_client_cert = none,
                           .http_client_key = none,
                           .egress_proxy = none,
                           .webhook_header_max = 5,
                           .egress = {.http = true, .allow = loopback, .n_allow = 1}};
}

/* --- parse --- */

static bool parse(const char *json, struct destination *ret, struct outcome *reterr) {
    struct config cfg = test_config();
    cJSON *sink = cJSON_Parse(json);
    if (!sink) fail_msg("the table holds %s", json);
    *ret = (struct destination){.type = &webhook_sink};
    bool ok = webhook_sink.parse(&cfg, sink, ret, reterr);
    cJSON_Delete(sink);
    return ok;
}

static struct destination parsed(const char *json) {
    struct destination d;
    struct outcome o;
    if (!parse(json, &d, &o)) fail_msg("%s: %s", json, o.detail);
    return d;
}

#define URL "\"url\":\"https://example.com/\""

static void test_refused(void **state) {
    (void)state;
    static const struct {
        const char *json;
        enum fault fault;
        const char *why;
        const char *detail; /* a part of it */
    } cases[] = {
        {"{}", FAULT_DATA, "invalid-sink", "sink.url is missing"},
        {"{\"url\":null}", FAULT_DATA, "invalid-sink", "sink.url is missing"},
        {"{\"url\":7}", FAULT_DATA, "invalid-sink", "sink.url is not a string"},
        {"{\"URL\":\"https://example.com\"}", FAULT_DATA, "invalid-sink", "sink.url is missing"},
        {"{" URL ",\"url\":\"https://example.org/\"}", FAULT_DATA, "conflicting-field", "sink.url"},
        {"{\"url\":\"\"}", FAULT_TENANT, "invalid-url", "https://"},
        {"{\"url\":\"example.com\"}", FAULT_TENANT, "invalid-url", "https://"},
        {"{\"url\":\"https://10.0.0.1/\"}", FAULT_TENANT, "egress-denied", "private"},
        {"{" URL ",\"headers\":[]}", FAULT_DATA, "invalid-sink", "not an object"},
        {"{" URL ",\"headers\":{\"A\":1}}", FAULT_DATA, "invalid-sink", "A has a value that"},
        {"{" URL ",\"headers\":{\"A\":null}}", FAULT_DATA, "invalid-sink", "A has a value that"},
        {"{" URL ",\"headers\":{\"\":\"x\"}}", FAULT_TENANT, "invalid-sink",
         "a header has no name"},
        {"{" URL ",\"headers\":{\"A B\":\"x\"}}", FAULT_TENANT, "invalid-sink",
         "a blank or a colon"},
        {"{" URL ",\"headers\":{\"A:\":\"x\"}}", FAULT_TENANT, "invalid-sink",
         "a blank or a colon"},
        {"{" URL ",\"headers\":{\"\\u00e4\":\"x\"}}", FAULT_TENANT, "invalid-sink",
         "a name holds a character"},
        {"{" URL ",\"headers\":{\"A\\r\\nB\":\"x\"}}", FAULT_TENANT, "invalid-sink",
         "a name holds a character"},
        {"{" URL ",\"headers\":{\"A\":\"x\\r\\nB: y\"}}", FAULT_TENANT, "invalid-sink",
         "control character"},
        {"{" URL ",\"headers\":{\"A\":\"x\\ny\"}}", FAULT_TENANT, "invalid-sink",
         "control character"},
        {"{" URL ",\"headers\":{\"A\":\"\\u0001\"}}", FAULT_TENANT, "invalid-sink",
         "control character"},
        {"{" URL ",\"headers\":{\"A\":\"\\u007f\"}}", FAULT_TENANT, "invalid-sink",
         "control character"},
        {"{" URL ",\"headers\":{\"X-A\":\"x\",\"x-a\":\"x\"}}", FAULT_DATA, "invalid-sink",
         "stands twice"},
        {"{" URL
         ",\"headers\":{\"A\":\"\",\"B\":\"\",\"C\":\"\",\"D\":\"\",\"E\":\"\",\"F\":\"\"}}",
         FAULT_TENANT, "invalid-sink", "too many"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct destination d;
        struct outcome o = {0};
        if (parse(cases[i].json, &d, &o)) fail_msg("accepted: %s", cases[i].json);
        assert_int_equal(o.verdict, VERDICT_PERMANENT);
        assert_int_equal(o.fault, cases[i].fault);
        assert_string_equal(o.why, cases[i].why);
        if (!strstr(o.detail, cases[i].detail)) fail_msg("%s: %s", cases[i].json, o.detail);
        assert_null(d.config);
    }
}

/* A name may be a pasted line, or the secret itself: what is said of it holds none of its bytes. */
static void test_names_are_not_quoted(void **state) {
    (void)state;
    static const char *const headers[] = {"\"Authorization: Bearer sk-4eC39HqLyj\":\"\"",
                                          "\"Bearer sk-4eC39HqLyj\":\"x\"",
                                          "\"X-Key=sk-4eC39HqLyj\":\"x\"",
                                          "\"sk-4eC39HqLyj\":7",
                                          "\"sk-4eC39HqLyj\":\"\\n\"",
                                          "\"webhook-sk-4eC39HqLyj\":\"x\"",
                                          "\"sk-4eC39HqLyj\":\"x\",\"SK-4eC39HqLyj\":\"x\"",
                                          "\"Authorization:\\tsk-4eC39HqLyj\":\"\"",
                                          "\"X-\\u00e4sk-4eC39HqLyj\":\"\""};
    for (size_t i = 0; i < COUNT(headers); i++) {
        char json[200];
        struct destination d;
        struct outcome o;
        snprintf(json, sizeof json, "{" URL ",\"headers\":{%s}}", headers[i]);
        if (parse(json, &d, &o)) fail_msg("accepted: %s", headers[i]);
        if (strcasestr(o.detail, "4ec39") || !strstr(o.detail, "sink.headers"))
            fail_msg("%s: %s", headers[i], o.detail);
    }
}

static void test_reserved_headers(void **state) {
    (void)state;
    static const char *const names[] = {
        "Host", "HOST", "Content-Length", "transfer-encoding", "Connection", "Keep-Alive", "TE",
        "Trailer", "Upgrade", "Expect", "Proxy-Authorization", "proxy-x", "webhook-id",
        "Webhook-Signature", "x-amz-date", "traceparent", "tracestate", "HTTP2-Settings",
        /* What a receiver behind CGI or WSGI takes for one. */
        "webhook_signature", "Webhook_Id", "WEBHOOK.TIMESTAMP", "Transfer_Encoding",
        "content_length", "Content+Length", "x_amz_date", "X_Amz-Date", "proxy_authorization",
        "Keep_Alive", "http2_settings", "Content_Type", "user_agent", "User.Agent"};
    for (size_t i = 0; i < COUNT(names); i++) {
        char json[200];
        struct destination d;
        struct outcome o;
        snprintf(json, sizeof json, "{" URL ",\"headers\":{\"%s\":\"secret value\"}}", names[i]);
        if (parse(json, &d, &o)) fail_msg("accepted: %s", names[i]);
        assert_non_null(strstr(o.detail, "cannot be set"));
        assert_null(strstr(o.detail, "secret value"));
    }
    static const char *const free_names[] = {"Hostname", "Content-Type",  "X-Host", "Tea",
                                             "Proxy",    "Authorization", "Cookie", "User-Agent",
                                             "X_Custom", "content_types", "webhook"};
    for (size_t i = 0; i < COUNT(free_names); i++) {
        char json[200];
        snprintf(json, sizeof json, "{" URL ",\"headers\":{\"%s\":\"v\"}}", free_names[i]);
        struct destination d = parsed(json);
        webhook_sink.free_config(d.config);
    }
}

static void test_sizes(void **state) {
    (void)state;
    static char json[20000];
    struct destination d;
    struct outcome o;
    snprintf(json, sizeof json, "{\"url\":\"https://example.com/%02028d\"}", 0);
    d = parsed(json);
    webhook_sink.free_config(d.config);
    snprintf(json, sizeof json, "{\"url\":\"https://example.com/%02029d\"}", 0);
    assert_false(parse(json, &d, &o));
    assert_non_null(strstr(o.detail, "2048"));
    snprintf(json, sizeof json, "{" URL ",\"headers\":{\"A\":\"%08191d\"}}", 0);
    d = parsed(json);
    webhook_sink.free_config(d.config);
    snprintf(json, sizeof json, "{" URL ",\"headers\":{\"A\":\"%04095d\",\"B\":\"%04096d\"}}", 0,
             0);
    assert_false(parse(json, &d, &o));
    assert_non_null(strstr(o.detail, "8 KiB"));
}

static void test_label(void **state) {
    (void)state;
    static char json[2100];
    static const struct {
        const char *url, *label;
    } cases[] = {
        {"https://example.com", "webhook://example.com"},
        {"https://example.com/", "webhook://example.com/"},
        {"HTTPS://user:pw@example.com:8443/a/b?token=x#y", "webhook://example.com:8443/a/b"},
        {"https://example.com?token=x", "webhook://example.com"},
        {"https://example.com#token=x", "webhook://example.com"},
        {"https://example.com/a@b:c", "webhook://example.com/a@b:c"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        snprintf(json, sizeof json, "{\"url\":\"%s\"}", cases[i].url);
        struct destination d = parsed(json);
        assert_string_equal(d.label, cases[i].label);
        assert_null(d.prefix);
        assert_string_equal(d.place, "");
        webhook_sink.free_config(d.config);
    }
    snprintf(json, sizeof json, "{\"url\":\"https://example.com/%01000d\"}", 0);
    struct destination d = parsed(json);
    assert_int_equal(strlen(d.label), LABEL_MAX - 1);
    webhook_sink.free_config(d.config);
}

static void test_identity(void **state) {
    (void)state;
    static const char *const same[] = {
        "{" URL ",\"headers\":{\"A\":\"1\",\"B\":\"2\"}}",
        "{\"skipOnFail\":true,\"headers\":{\"B\":\"2\",\"A\":\"1\"}," URL "}"};
    static const char *const others[] = {
        "{" URL "}",
        "{" URL ",\"headers\":{\"A\":\"1\"}}",
        "{" URL ",\"headers\":{\"A\":\"2\",\"B\":\"1\"}}",
        "{" URL ",\"headers\":{\"A\":\"1B\",\"\\u0042\":\"\"}}",
        "{" URL ",\"headers\":{\"A1\":\"\",\"B2\":\"\"}}",
        "{\"url\":\"https://u@example.com/\",\"headers\":{\"A\":\"1\",\"B\":\"2\"}}",
        "{\"url\":\"https://example.com/?\",\"headers\":{\"A\":\"1\",\"B\":\"2\"}}"};
    struct destination first = parsed(same[0]), again = parsed(same[1]);
    assert_memory_equal(first.identity, again.identity, SHA256_LEN);
    webhook_sink.free_config(again.config);
    for (size_t i = 0; i < COUNT(others); i++) {
        struct destination d = parsed(others[i]);
        assert_memory_not_equal(d.identity, first.identity, SHA256_LEN);
        webhook_sink.free_config(d.config);
    }
    webhook_sink.free_config(first.config);
}

static bool scrubbed(const char *text) {
    char copy[100];
    snprintf(copy, sizeof copy, "<%s>", text);
    secret_scrub(copy, strlen(copy));
    return strstr(copy, text) == NULL;
}

static void test_secrets(void **state) {
    (void)state;
    static const char *const secret[] = {"us%65r-name:pass%2Fword",
                                         "user-name",
                                         "pass%2Fword",
                                         "pass/word",
                                         "query%20value",
                                         "query value",
                                         "bare-query",
                                         "Bearer tok3n-of-mine",
                                         "tok3n-of-mine",
                                         "cookie-value",
                                         "S1dS1dS1d",
                                         "of-a-quoted-one",
                                         "7okenOf7",
                                         "pass-of-basic",
                                         "pass-without-padding",
                                         "u:of-a-nested-url",
                                         "of-a-nested-url"};
    static const char *const open[] = {"example.com",  "/path-segment", "text/plain",
                                       "accepted/all", "fragment-x",    "theme=dar"};
    struct destination d =
        parsed("{\"url\":\"https://us%65r-name:pass%2Fword@example.com/path-segment"
               "?a=query%20value&bare-query&c=#fragment-x\",\"headers\":{"
               "\"Authorization\":\"Bearer tok3n-of-mine\",\"Cookie\":\"cookie-value\","
               "\"Content-Type\":\"text/plain\",\"ACCEPT\":\"accepted/all\"}}");
    struct destination wrapped = parsed(
        "{\"url\":\"https://example.com/x,https://k/,https://u:of-a-nested-url@h/path-segment\","
        "\"headers\":{\"A\":\"sid=S1dS1dS1d; theme=dark\","
        "\"B\":\"Token t=\\\"of-a-quoted-one\\\", id=7,key=7okenOf7, theme-word\","
        "\"C\":\"Basic dTpwYXNzLW9mLWJhc2lj\",\"D\":\"BASIC dTpwYXNzLXdpdGhvdXQtcGFkZGluZw\"}}");
    for (size_t i = 0; i < COUNT(secret); i++)
        if (!scrubbed(secret[i])) fail_msg("%s is not scrubbed", secret[i]);
    for (size_t i = 0; i < COUNT(open); i++)
        if (scrubbed(open[i])) fail_msg("%s is scrubbed", open[i]);
    webhook_sink.free_config(wrapped.config);
    webhook_sink.free_config(d.config);
    for (size_t i = 0; i < COUNT(secret); i++)
        if (scrubbed(secret[i])) fail_msg("%s is still scrubbed", secret[i]);
    webhook_sink.free_config(NULL);
}

/* --- Values of headers --- */

static void test_signature_vector(void **state) {
    (void)state;
    /* Of the reference implementations of Standard Webhooks. */
    struct buf out;
    buf_init(&out, 100);
    webhook_sign(&out, first_secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330",
                 STR("{\"test\": 2432232314}"));
    assert_string_equal(buf_cstr(&out), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    buf_free(&out);
}

static void test_id(void **state) {
    (void)state;
    static const struct {
        const char *id, *value;
    } cases[] = {{"a-1:2026-01-01T00:00:00.5Z:SUCCESS", "a-1:2026-01-01T00:00:00.5Z:SUCCESS"},
                 {"a b", "a%20b"},
                 {"a%20b", "a%2520b"},
                 {"a\r\nX: y", "a%0D%0AX:%20y"},
                 {"\xc3\xa4\x7f", "%C3%A4%7F"},
                 {"", ""}};
    char got[WEBHOOK_ID_MAX + 1];
    for (size_t i = 0; i < COUNT(cases); i++) {
        webhook_id(str_c(cases[i].id), got);
        assert_string_equal(got, cases[i].value);
    }
    char id[600], other[WEBHOOK_ID_MAX + 1];
    memset(id, 'i', sizeof id);
    webhook_id((struct str){id, WEBHOOK_ID_MAX}, got);
    assert_int_equal(strlen(got), WEBHOOK_ID_MAX);
    assert_memory_equal(got, id, WEBHOOK_ID_MAX);
    webhook_id((struct str){id, WEBHOOK_ID_MAX + 1}, got);
    assert_int_equal(strlen(got), 7 + HEX_LEN(SHA256_LEN));
    id[599] = 'j';
    webhook_id((struct str){id, 600}, other);
    assert_string_not_equal(got, other);
    memset(id, ' ', sizeof id);
    webhook_id((struct str){id, 171}, got); /* 513 once encoded */
    assert_memory_equal(got, "sha256:", 7);
    webhook_id((struct str){"a\0b", 3}, got);
    assert_string_equal(got, "a%00b");
}

static void test_trace_context(void **state) {
    (void)state;
#define TRACE "0af7651916cd43dd8448eb211c80319c"
#define SPAN "b7ad6b7169203331"
    static const struct {
        const char *value;
        bool valid;
    } parents[] = {{"00-" TRACE "-" SPAN "-01", true},
                   {"cc-" TRACE "-" SPAN "-00", true},
                   {"ff-" TRACE "-" SPAN "-01", false},
                   {"00-" TRACE "-" SPAN "-01-x", false},
                   {"00-" TRACE "-" SPAN "-0", false},
                   {"00-" TRACE "-" SPAN "-0G", false},
                   {"00-0AF7651916cd43dd8448eb211c80319c-" SPAN "-01", false},
                   {"00-00000000000000000000000000000000-" SPAN "-01", false},
                   {"00-" TRACE "-0000000000000000-01", false},
                   {"00_" TRACE "-" SPAN "-01", false},
                   {"00-" TRACE "_" SPAN "-01", false},
                   {"00-" TRACE "-" SPAN "_01", false},
                   {"00-" TRACE "-" SPAN "\r\n1", false},
                   {"", false}};
    for (size_t i = 0; i < COUNT(parents); i++)
        if (traceparent_valid(str_c(parents[i].value)) != parents[i].valid)
            fail_msg("traceparent %s", parents[i].value);
    static const struct {
        const char *value;
        bool valid;
    } states[] = {{"rojo=00f067aa0ba902b7", true},
                  {"rojo=1,congo=t61rcWkgMzE", true},
                  {"fw529a3039@dt=FfAAA, a=b c\t", true},
                  {"a=1,,b=2", true},
                  {"1a=x", true},
                  {"a", false},
                  {"a=", false},
                  {"=a", false},
                  {"A=1", false},
                  {"@a=1", false},
                  {"a=b=c", false},
                  {"a=b\r\nX: y", false},
                  {"a=\xc3\xa4", false},
                  {"", false}};
    for (size_t i = 0; i < COUNT(states); i++)
        if (tracestate_valid(str_c(states[i].value)) != states[i].valid)
            fail_msg("tracestate %s", states[i].value);
    char many[200] = "";
    for (int i = 0; i < 32; i++) strcat(many, i ? ",a=1" : "a=1");
    assert_true(tracestate_valid(str_c(many)));
    strcat(many, ",a=1");
    assert_false(tracestate_valid(str_c(many)));
    assert_false(traceparent_valid((struct str){NULL, 0}));
    assert_false(tracestate_valid((struct str){NULL, 0}));
}

/* --- Requests and answers --- */

struct sent {
    struct batch batch;
    struct outcome outcome;
    int done;
};

static void on_done(struct batch *b, const struct outcome *o) {
    struct sent *s = b->owner;
    assert_null(b->sink_state);
    s->outcome = *o;
    s->done++;
}

static void deliver(const struct config *cfg, struct destination *d, struct sent *s, bool cancel) {
    struct sink_env env = {.cfg = cfg, .http = http_new(cfg)};
    s->batch.dest = d;
    s->batch.done = on_done;
    s->batch.owner = s;
    webhook_sink.submit(&env, &s->batch);
    assert_int_equal(s->done, 0);
    assert_non_null(s->batch.sink_state);
    if (cancel) webhook_sink.cancel(&env, &s->batch);
    time_t deadline = time(NULL) + 20;
    while (!s->done) {
        assert_true(time(NULL) < deadline);
        http_wait(env.http, 1000);
        http_run(env.http);
    }
    assert_int_equal(s->done, 1);
    webhook_sink.cancel(&env, &s->batch); /* too late: nothing happens */
    http_free(env.http);
}

static void keep_answer(struct http_request *req, const struct outcome *o) {
    assert_int_equal(o->verdict, VERDICT_OK);
    *(bool *)req->owner = true;
}

/* What the peer was sent last, as JSON. */
static cJSON *last_request(const struct config *cfg) {
    char url[100];
    bool done = false;
    snprintf(url, sizeof url, "http://127.0.0.1:%d/last", peer.plain);
    struct http *h = http_new(cfg);
    struct http_request req = {.method = "GET", .url = url, .done = keep_answer, .owner = &done};
    http_submit(h, &req);
    while (!done) {
        http_wait(h, 1000);
        http_run(h);
    }
    cJSON *json = cJSON_Parse(buf_cstr(&req.answer));
    assert_non_null(json);
    http_request_clear(&req);
    http_free(h);
    return json;
}

/* A header that came exactly once, or NULL. */
static const char *header(const cJSON *request, const char *name) {
    const char *value = NULL;
    const cJSON *pair;
    cJSON_ArrayForEach(pair, cJSON_GetObjectItemCaseSensitive(request, "headers")) {
        if (strcasecmp(cJSON_GetArrayItem(pair, 0)->valuestring, name) != 0) continue;
        assert_null(value);
        value = cJSON_GetArrayItem(pair, 1)->valuestring;
    }
    return value;
}

static void assert_header(const cJSON *request, const char *name, const char *want) {
    const char *got = header(request, name);
    if ((got == NULL) != (want == NULL) || (got && want && strcmp(got, want) != 0))
        fail_msg("%s: %s, expected %s", name, got ? got : "none", want ? want : "none");
}

static struct destination hook(const char *userinfo, const char *path, const char *headers) {
    char json[500];
    snprintf(json, sizeof json, "{\"url\":\"http://%s127.0.0.1:%d%s\",\"headers\":%s}", userinfo,
             peer.plain, path, headers);
    return parsed(json);
}

static struct sent event(void) {
    return (struct sent){.batch = {.body = "{\"id\":1e400}",
                                   .body_len = 12,
                                   .content_type = "application/json",
                                   .topic = "runs",
                                   .partition = 3,
                                   .first = 41,
                                   .last = 41,
                                   .count = 1,
                                   .event_id = STR("event 1"),
                                   .traceparent = STR("00-" TRACE "-" SPAN "-01"),
                                   .tracestate = STR("a=1")}};
}

static void test_request(void **state) {
    (void)state;
    struct config cfg = test_config();
    cfg.webhook_secrets = (struct list){secrets, 2};
    struct destination d =
        hook("", "/hook/200?x=%2F..#gone", "{\"X-Key\":\"k1\",\"X-Empty\":\"\"}");
    struct sent s = event();
    int64_t before = time(NULL);
    deliver(&cfg, &d, &s, false);
    assert_int_equal(s.outcome.verdict, VERDICT_OK);
    assert_int_equal(s.outcome.status, 200);
    cJSON *r = last_request(&cfg);
    assert_string_equal(cJSON_GetObjectItem(r, "method")->valuestring, "POST");
    assert_string_equal(cJSON_GetObjectItem(r, "path")->valuestring, "/hook/200?x=%2F..");
    uint8_t digest[SHA256_LEN];
    char want[HEX_LEN(SHA256_LEN) + 1];
    sha256(s.batch.body, s.batch.body_len, digest);
    hex(digest, sizeof digest, want);
    assert_string_equal(cJSON_GetObjectItem(r, "sha256")->valuestring, want);
    assert_header(r, "X-Key", "k1");
    assert_header(r, "X-Empty", "");
    assert_header(r, "Content-Type", "application/json");
    assert_header(r, "Accept", NULL);
    assert_header(r, "Authorization", NULL);
    assert_header(r, "traceparent", "00-" TRACE "-" SPAN "-01");
    assert_header(r, "tracestate", "a=1");
    assert_header(r, "webhook-id", "event%201");
    const char *at = header(r, "webhook-timestamp");
    assert_in_range(strtoll(at, NULL, 10), before, time(NULL));
    struct buf signatures;
    buf_init(&signatures, 200);
    for (size_t i = 0; i < 2; i++) {
        if (i) buf_putc(&signatures, ' ');
        webhook_sign(&signatures, secrets[i], "event%201", at,
                     (struct str){s.batch.body, s.batch.body_len});
    }
    assert_header(r, "webhook-signature", buf_cstr(&signatures));
    buf_free(&signatures);
    cJSON_Delete(r);
    /* The destination serves again: what a request borrowed is still there. */
    s = event();
    s.batch.event_id = (struct str){NULL, 0};
    s.batch.traceparent = STR("00-x");
    cfg.webhook_secrets.n = 0;
    deliver(&cfg, &d, &s, false);
    r = last_request(&cfg);
    assert_header(r, "X-Key", "k1");
    assert_header(r, "webhook-id", "runs:3:41");
    assert_header(r, "webhook-signature", NULL);
    assert_header(r, "traceparent", NULL);
    assert_header(r, "tracestate", NULL);
    cJSON_Delete(r);
    webhook_sink.free_config(d.config);
}

static void test_credentials(void **state) {
    (void)state;
    struct config cfg = test_config();
    static const struct {
        const char *userinfo, *headers, *authorization, *type;
    } cases[] = {
        {"Aladdin:open%20sesame@", "{}", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "application/json"},
        {"user@", "{}", "Basic dXNlcjo=", "application/json"},
        {"@", "{}", NULL, "application/json"},
        {"user:pw@", "{\"authorization\":\"Bearer x\",\"CONTENT-TYPE\":\"text/plain\"}", "Bearer x",
         "text/plain"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct destination d = hook(cases[i].userinfo, "/hook/200", cases[i].headers);
        struct sent s = event();
        deliver(&cfg, &d, &s, false);
        assert_string_equal(s.outcome.why, "");
        cJSON *r = last_request(&cfg);
        assert_header(r, "Authorization", cases[i].authorization);
        assert_header(r, "Content-Type", cases[i].type);
        cJSON_Delete(r);
        webhook_sink.free_config(d.config);
    }
}

static void test_answers(void **state) {
    (void)state;
    struct config cfg = test_config();
    static const struct {
        int status;
        enum verdict verdict;
        bool credential;
    } cases[] = {
        {200, VERDICT_OK, false},    {201, VERDICT_OK, false},    {204, VERDICT_OK, false},
        {299, VERDICT_OK, false},    {301, VERDICT_RETRY, false}, {304, VERDICT_RETRY, false},
        {307, VERDICT_RETRY, false}, {400, VERDICT_RETRY, false}, {401, VERDICT_RETRY, true},
        {403, VERDICT_RETRY, true},  {404, VERDICT_RETRY, false}, {410, VERDICT_PERMANENT, false},
        {429, VERDICT_RETRY, false}, {500, VERDICT_RETRY, false}, {503, VERDICT_RETRY, false}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        char path[20], why[20];
        int status = cases[i].status;
        snprintf(path, sizeof path, "/hook/%d", status);
        snprintf(why, sizeof why, "http-%d", status);
        struct destination d = hook("", path, "{}");
        struct sent s = event();
        deliver(&cfg, &d, &s, false);
        bool ok = cases[i].verdict == VERDICT_OK;
        assert_int_equal(s.outcome.verdict, cases[i].verdict);
        assert_int_equal(s.outcome.status, status);
        assert_int_equal(s.outcome.credential, cases[i].credential);
        assert_int_equal(s.outcome.fault, ok ? FAULT_NONE : FAULT_TENANT);
        assert_string_equal(s.outcome.why, ok ? "" : why);
        assert_int_equal(s.outcome.retry_after_ms, ok ? 0 : 3000);
        assert_false(s.outcome.uncounted);
        assert_int_equal(strstr(s.outcome.detail, "redirect") != NULL,
                         status >= 300 && status < 400);
        webhook_sink.free_config(d.config);
    }
}

static void test_transport_failure_and_cancel(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct destination d = hook("", "/reset", "{}");
    struct sent s = event();
    deliver(&cfg, &d, &s, false);
    assert_string_equal(s.outcome.why, "reset");
    s = event();
    deliver(&cfg, &d, &s, true);
    assert_string_equal(s.outcome.why, "cancelled");
    webhook_sink.free_config(d.config);
}

/* --- sink_field() --- */

static void test_field(void **state) {
    (void)state;
    static const struct {
        const char *json;
        const char *value; /* NULL: absent */
        bool bad;
    } cases[] = {
        {"{\"accessKeyId\":\"x\"}", "x", false},
        {"{\"access_key_id\":\"x\"}", "x", false},
        {"{\"accesskeyid\":\"x\",\"AccessKeyId\":\"x\",\"access_keyId\":\"x\"}", NULL, false},
        {"{\"accessKeyId\":\"x\",\"access_key_id\":\"x\"}", "x", false},
        {"{\"accessKeyId\":\"x\",\"access_key_id\":\"y\"}", NULL, true},
        {"{\"accessKeyId\":\"x\",\"accessKeyId\":\"y\"}", NULL, true},
        {"{\"accessKeyId\":\"x\",\"accessKeyId\":\"x\"}", "x", false},
        {"{\"accessKeyId\":null}", NULL, false},
        {"{\"accessKeyId\":null,\"access_key_id\":null}", NULL, false},
        {"{\"accessKeyId\":null,\"access_key_id\":\"x\"}", NULL, true},
        {"{\"accessKeyId\":true,\"access_key_id\":true}", "", false},
        {"{\"accessKeyId\":true,\"access_key_id\":false}", NULL, true},
        {"{\"accessKeyId\":1.5,\"access_key_id\":1.5}", "", false},
        {"{\"accessKeyId\":1.5,\"access_key_id\":\"1.5\"}", NULL, true},
        {"{\"accessKeyId\":[1,[2]],\"access_key_id\":[1,[2]]}", "", false},
        {"{\"accessKeyId\":[1,[2]],\"access_key_id\":[1,[2],3]}", NULL, true},
        {"{\"accessKeyId\":[1,2],\"access_key_id\":[1]}", NULL, true},
        {"{\"accessKeyId\":{\"a\":1},\"access_key_id\":{\"a\":1}}", "", false},
        {"{\"accessKeyId\":{\"a\":1},\"access_key_id\":{\"b\":1}}", NULL, true},
        {"{\"accessKeyId\":{\"a\":1},\"access_key_id\":{\"a\":2}}", NULL, true},
        {"{\"accessKeyId\":{\"a\":{}},\"access_key_id\":{\"a\":[]}}", NULL, true},
        {"{}", NULL, false},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        cJSON *sink = cJSON_Parse(cases[i].json);
        bool bad = false;
        struct outcome o = {0};
        const cJSON *f = sink_field(sink, "accessKeyId", &bad, &o);
        if (bad != cases[i].bad || (f == NULL) != (cases[i].value == NULL))
            fail_msg("%s", cases[i].json);
        if (f && cJSON_IsString(f)) assert_string_equal(f->valuestring, cases[i].value);
        assert_int_equal(o.fault, bad ? FAULT_DATA : FAULT_NONE);
        cJSON_Delete(sink);
    }
}

static void repeat(struct buf *b, const char *text, int times) {
    for (int i = 0; i < times; i++) assert_true(buf_puts(b, text));
}

/* Both spellings of a field hold the same deep, or wide, value: cJSON_Compare() walks a tree
 * 2^depth times and looks each member of an object up among all of them, so this ran for ever. */
static void test_field_is_compared_once(void **state) {
    (void)state;
    static const struct {
        const char *open, *inner, *close;
        int depth, width;
    } cases[] = {
        {"{\"k\":", "1", "}", 60, 1},
        {"{\"k\":", "1", "}", 120, 1},
        {"[", "1", "]", 120, 1},
        {"{\"k\":[", "{}", "]}", 60, 1},
        {"{\"\":1", ",\"k\":1", "}", 1, 200000},
        {"[0", ",[]", "]", 1, 200000},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct buf value, text;
        buf_init(&value, (size_t)8 << 20);
        buf_init(&text, (size_t)16 << 20);
        repeat(&value, cases[i].open, cases[i].depth);
        repeat(&value, cases[i].inner, cases[i].width);
        repeat(&value, cases[i].close, cases[i].depth);
        buf_printf(&text, "{\"skipOnFail\":%s,", buf_cstr(&value));
        buf_printf(&text, "\"skip_on_fail\":%s}", buf_cstr(&value));
        cJSON *sink = cJSON_ParseWithLength(text.p, text.n);
        bool bad = false;
        struct outcome o = {0};
        assert_non_null(sink);
        assert_non_null(sink_field(sink, "skipOnFail", &bad, &o));
        assert_false(bad);
        cJSON_Delete(sink);
        buf_free(&value);
        buf_free(&text);
    }
}

static int start(void **state) {
    (void)state;
    http_global_init();
    return http_peer_start(&peer) ? 0 : -1;
}

static int stop(void **state) {
    (void)state;
    return http_peer_stop(&peer) ? 0 : -1;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_names_are_not_quoted),
        cmocka_unit_test(test_reserved_headers),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_label),
        cmocka_unit_test(test_identity),
        cmocka_unit_test(test_secrets),
        cmocka_unit_test(test_signature_vector),
        cmocka_unit_test(test_id),
        cmocka_unit_test(test_trace_context),
        cmocka_unit_test(test_request),
        cmocka_unit_test(test_credentials),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_transport_failure_and_cancel),
        cmocka_unit_test(test_field),
        cmocka_unit_test(test_field_is_compared_once),
    };
    return cmocka_run_group_tests_name("webhook", tests, start, stop);
}
