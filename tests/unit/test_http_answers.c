/* The HTTP engine: what it sends, what it takes from an answer, and when an answer counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "sinks/http/http_error.h"
#include "tests/unit/http_client.h"

static void test_answer(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    struct call c;
    prepare(&c, plain(), "/ok");
    c.req.want_headers[0] = "x-absent";
    c.req.want_headers[1] = "etag";
    http_submit(h, &c.req);
    assert_int_equal(http_in_flight(h), 1);
    wait_for(h, &c, 1);
    assert_int_equal(http_in_flight(h), 0);
    assert_int_equal(c.outcome.verdict, VERDICT_OK);
    assert_int_equal(c.outcome.status, 200);
    assert_int_equal(c.req.status, 200);
    assert_true(str_is(answer_of(&c), "fine"));
    assert_false(c.req.answer_cut);
    assert_string_equal(c.req.kept[0], "");
    assert_string_equal(c.req.kept[1], "\"e1\"");
    clear(&c);
    http_free(h);
}

static void test_request_as_sent(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    static char body[3000000]; /* more than a megabyte: where curl would ask for leave */
    memset(body, 'b', sizeof body);
    struct call c;
    prepare(&c, plain(), "/echo?a=%2F../b/./c");
    c.req.method = "PUT";
    c.req.body = body;
    c.req.body_len = sizeof body;
    c.req.headers = curl_slist_append(NULL, "X-One: 1");
    c.req.headers = curl_slist_append(c.req.headers, "Content-Type: text/plain");
    http_submit(h, &c.req);
    wait_for(h, &c, 1);
    const char *text = buf_cstr(&c.req.answer);
    assert_non_null(strstr(text, "\"method\": \"PUT\""));
    assert_non_null(strstr(text, "\"path\": \"/echo?a=%2F../b/./c\""));
    assert_non_null(strstr(text, "\"length\": 3000000"));
    char headers[300];
    snprintf(headers, sizeof headers,
             "\"headers\": [[\"Host\", \"127.0.0.1:%d\"], [\"User-Agent\", \"runsink/%s\"], "
             "[\"X-One\", \"1\"], [\"Content-Type\", \"text/plain\"], "
             "[\"Content-Length\", \"3000000\"]]",
             peer.plain, RUNSINK_VERSION);
    assert_non_null(strstr(text, headers)); /* and nothing else */
    clear(&c);
    http_free(h);
}

static void test_path_as_is(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    struct call c;
    get(h, &c, plain(), "/a/../ok"); /* squashed it would be found */
    assert_int_equal(c.req.status, 404);
    clear(&c);
    http_free(h);
}

static void test_statuses(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    static const int statuses[] = {201, 204, 304, 400, 401, 403, 404, 407, 410, 429, 500, 503, 599};
    for (size_t i = 0; i < COUNT(statuses); i++) {
        char path[32];
        struct call c;
        snprintf(path, sizeof path, "/status/%d", statuses[i]);
        get(h, &c, plain(), path);
        assert_int_equal(c.outcome.verdict, VERDICT_OK);
        assert_int_equal(c.req.status, statuses[i]);
        clear(&c);
    }
    http_free(h);
}

static void test_retry_after(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    static const struct {
        const char *path;
        uint32_t least, most;
    } cases[] = {{"/later-seconds", 7000, 7000},
                 {"/later-date", 20000, 31000},
                 {"/later-century", 3600000, 3600000},
                 {"/later-nonsense", 0, 0},
                 {"/ok", 0, 0}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct call c;
        get(h, &c, plain(), cases[i].path);
        assert_in_range(c.req.retry_after_ms, cases[i].least, cases[i].most);
        clear(&c);
    }
    http_free(h);
}

static void test_retry_after_parser(void **state) {
    (void)state;
    static const struct {
        const char *value;
        uint32_t ms;
    } cases[] = {{"0", 0},
                 {"1", 1000},
                 {"3600", 3600000},
                 {"3601", 3600000},
                 {"-5", 0},
                 {"1.5", 0},
                 {"", 0},
                 {"Thu, 01 Jan 1970 00:00:20 GMT", 10000},
                 {"Thu, 01 Jan 1970 00:00:05 GMT", 0},
                 {"Sunday, 06-Nov-94 08:49:37 GMT", 3600000},
                 {"Thu Jan  1 00:00:20 1970", 10000},
                 {"Fri, 31 Dec 9999 23:59:59 GMT", 3600000},
                 {"19700101", 3600000},
                 {"tomorrow", 0}};
    for (size_t i = 0; i < COUNT(cases); i++)
        if (http_retry_after(str_c(cases[i].value), 10) != cases[i].ms)
            fail_msg("%s: %u", cases[i].value, http_retry_after(str_c(cases[i].value), 10));
}

/* What an interim answer or a trailer says does not count. */
static void test_headers_of_the_answer_only(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    static const char *const paths[] = {"/hints", "/trailer"}, *const etags[] = {"", "head"};
    for (size_t i = 0; i < COUNT(paths); i++) {
        struct call c;
        prepare(&c, plain(), paths[i]);
        c.req.want_headers[0] = "etag";
        http_submit(h, &c.req);
        wait_for(h, &c, 1);
        assert_int_equal(c.req.status, 200);
        assert_string_equal(c.req.kept[0], etags[i]);
        assert_int_equal(c.req.retry_after_ms, 0);
        clear(&c);
    }
    http_free(h);
}

static void test_redirect_is_not_followed(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    struct call c;
    get(h, &c, plain(), "/redirect");
    assert_int_equal(c.req.status, 302);
    clear(&c);
    http_free(h);
    assert_int_equal(peer_count("canary"), 0);
}

static void test_answer_is_cut(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    static const char *const paths[] = {"/big", "/endless"};
    for (size_t i = 0; i < COUNT(paths); i++) {
        struct call c;
        get(h, &c, plain(), paths[i]);
        assert_int_equal(c.outcome.verdict, VERDICT_OK);
        assert_int_equal(c.req.status, 200);
        assert_true(c.req.answer_cut);
        assert_int_equal(c.req.answer.n, 65536);
        clear(&c);
    }
    http_free(h);
}

/* What counts of an answer has come with its head, however the rest ends. */
static void test_head_decides(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    static const struct {
        const char *path;
        int status;
        uint32_t retry_after_ms;
    } cases[] = {{"/raw/short", 202, 0},
                 {"/raw/short-reset", 200, 0},
                 {"/raw/none-of-it", 200, 0},
                 {"/raw/close", 200, 0},
                 {"/raw/close-reset", 200, 0},
                 {"/raw/close-hang", 200, 0},
                 {"/raw/unchunked", 200, 0},
                 {"/raw/chunk-cut", 200, 0},
                 {"/raw/chunk-hang", 200, 0},
                 {"/raw/chunk-garbage", 200, 0},
                 {"/raw/trailers-cut", 200, 0},
                 {"/raw/length-hang", 200, 0},
                 {"/raw/endless", 200, 0},
                 {"/raw/http10", 200, 0},
                 {"/raw/http10-reset", 200, 0},
                 {"/raw/no-content", 204, 0},
                 {"/raw/gone", 410, 0},
                 {"/raw/too-large", 413, 0},
                 {"/raw/later", 429, 7000},
                 {"/raw/later-reset", 503, 7000},
                 {"/raw/switching", 101, 0},
                 {"/drip", 200, 0},
                 {"/endless", 200, 0},
                 {"/reset-middle", 200, 0},
                 {"/big", 200, 0}};
    static const enum http_needs needs[] = {HTTP_HEAD, HTTP_ERROR};
    for (size_t i = 0; i < 2 * COUNT(cases); i++) {
        struct call c;
        prepare(&c, plain(), cases[i / 2].path);
        c.req.method = "POST";
        c.req.body = "{}";
        c.req.body_len = 2;
        c.req.needs = needs[i % 2];
        http_submit(h, &c.req);
        wait_for(h, &c, 1);
        assert_why(&c, "");
        assert_int_equal(c.req.status, cases[i / 2].status);
        assert_int_equal(c.req.retry_after_ms, cases[i / 2].retry_after_ms);
        clear(&c);
    }
    http_free(h);
}

/* A receiver that closes its TLS connection without saying so: what Python's http.server does. */
static void test_head_decides_over_tls(void **state) {
    (void)state;
    struct config cfg = patient_config();
    cfg.http_ca_bundle = ca_path;
    resolve_to("127.0.0.1");
    struct http *h = http_new(&cfg);
    static const char *const paths[] = {"/raw/close", "/raw/short", "/raw/unchunked", "/raw/http10",
                                        "/closed-10"};
    for (size_t i = 0; i < COUNT(paths); i++) {
        struct call c;
        prepare(&c, base_url("https", "good.test", peer.tls), paths[i]);
        c.req.needs = HTTP_HEAD;
        http_submit(h, &c.req);
        wait_for(h, &c, 1);
        assert_why(&c, "");
        assert_int_equal(c.req.status / 100, 2);
        clear(&c);
    }
    http_free(h);
}

/* An answer that ends well leaves its connection to the next request, needed or not. Each request
 * has a body, as all of the worker's have but GET: of an error that answers one without, libcurl
 * 8.14 may find that it came before all was sent, and closes. */
static void test_body_that_ends_keeps_the_connection(void **state) {
    (void)state;
    struct config cfg = patient_config();
    struct http *h = http_new(&cfg);
    static const char *const paths[] = {"/ok",       "/trailer", "/status/204", "/raw/no-content",
                                        "/hook/503", "/slow"};
    int64_t before = peer_count("connections");
    for (size_t i = 0; i < 3 * COUNT(paths); i++) {
        struct call c;
        prepare(&c, plain(), paths[i / 3]);
        c.req.method = "POST";
        c.req.needs = (enum http_needs)(i % 3);
        c.req.body = "{}";
        c.req.body_len = 2;
        http_submit(h, &c.req);
        wait_for(h, &c, 1);
        assert_why(&c, "");
        clear(&c);
    }
    assert_int_equal(peer_count("connections") - before, 2); /* and one to count */
    http_free(h);
}

/* As much of an error's body as there is: it says what is wrong. */
static void test_error_body(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    static const struct {
        const char *path;
        const char *body;
    } cases[] = {{"/raw/denied", "<Error><Code>AccessDenied</Code>"},
                 {"/raw/denied-chunked", "<Error>"},
                 {"/later-seconds", "busy"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct call c;
        prepare(&c, plain(), cases[i].path);
        c.req.needs = HTTP_ERROR;
        http_submit(h, &c.req);
        wait_for(h, &c, 1);
        assert_why(&c, "");
        assert_string_equal(buf_cstr(&c.req.answer), cases[i].body);
        clear(&c);
    }
    http_free(h);
}

/* What ends within its head, or brings less than is needed, does not count. */
static void test_head_is_needed(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    static const struct {
        const char *path;
        enum http_needs needs;
    } cases[] = {{"/raw/head-cut", HTTP_HEAD},     {"/raw/status-cut", HTTP_HEAD},
                 {"/raw/status-only", HTTP_HEAD},  {"/raw/status-reset", HTTP_HEAD},
                 {"/interim-only", HTTP_HEAD},     {"/raw/http09", HTTP_HEAD},
                 {"/truncated-head", HTTP_ERROR},  {"/raw/short", HTTP_WHOLE},
                 {"/raw/none-of-it", HTTP_WHOLE},  {"/raw/unchunked", HTTP_WHOLE},
                 {"/raw/length-hang", HTTP_WHOLE}, {"/raw/denied", HTTP_WHOLE}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct call c;
        prepare(&c, plain(), cases[i].path);
        c.req.needs = cases[i].needs;
        http_submit(h, &c.req);
        wait_for(h, &c, 1);
        assert_int_equal(c.outcome.verdict, VERDICT_RETRY);
        assert_int_equal(c.outcome.fault, FAULT_TENANT);
        assert_int_equal(c.req.status, 0);
        clear(&c);
    }
    http_free(h);
}

/* An error that comes before the request has been read counts; a success does not. */
static void test_answer_before_the_request_has_gone(void **state) {
    (void)state;
    struct config cfg = patient_config();
    struct http *h = http_new(&cfg);
    static char body[8000000];
    memset(body, 'b', sizeof body);
    struct call c;
    prepare(&c, plain(), "/early");
    c.req.method = "PUT";
    c.req.body = body;
    c.req.body_len = sizeof body;
    c.req.needs = HTTP_HEAD;
    http_submit(h, &c.req);
    wait_for(h, &c, 1);
    assert_why(&c, "");
    assert_int_equal(c.req.status, 413);
    clear(&c);
    http_free(h);
}

/* A head that came counts when the request is given up meanwhile, too. */
static void test_cancelled_after_the_head(void **state) {
    (void)state;
    struct config cfg = test_config();
    cfg.http_answer_wait = 60000;
    cfg.http_timeout = 60000;
    for (int i = 0; i < 2; i++) {
        struct http *h = http_new(&cfg);
        struct call c;
        prepare(&c, plain(), "/raw/length-hang");
        c.req.needs = HTTP_HEAD;
        c.req.want_headers[0] = "content-length";
        http_submit(h, &c.req);
        for (int64_t deadline = now_ms() + PATIENCE_MS; !c.req.kept[0][0] && now_ms() < deadline;) {
            http_wait(h, 1000);
            http_run(h);
        }
        assert_int_equal(c.done, 0);
        if (i == 0) {
            http_cancel(h, &c.req);
            wait_for(h, &c, 1);
        }
        http_free(h);
        assert_why(&c, "");
        assert_int_equal(c.req.status, 200);
        clear(&c);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answer),
        cmocka_unit_test(test_request_as_sent),
        cmocka_unit_test(test_path_as_is),
        cmocka_unit_test(test_statuses),
        cmocka_unit_test(test_retry_after),
        cmocka_unit_test(test_retry_after_parser),
        cmocka_unit_test(test_headers_of_the_answer_only),
        cmocka_unit_test(test_redirect_is_not_followed),
        cmocka_unit_test(test_answer_is_cut),
        cmocka_unit_test(test_head_decides),
        cmocka_unit_test(test_head_decides_over_tls),
        cmocka_unit_test(test_body_that_ends_keeps_the_connection),
        cmocka_unit_test(test_error_body),
        cmocka_unit_test(test_head_is_needed),
        cmocka_unit_test(test_answer_before_the_request_has_gone),
        cmocka_unit_test(test_cancelled_after_the_head),
    };
    return cmocka_run_group_tests_name("http answers", tests, start, stop);
}
