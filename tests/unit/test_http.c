/* The HTTP engine against a scripted peer on loopback (tests/flow/http_peer.py). Names ending in
 * ".test" are resolved by this program, in libc's place: that plays rebinding and a name server
 * that never answers without touching the system's resolver. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <curl/curl.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "config/config.h"
#include "sinks/http/http.h"
#include "sinks/http/http_error.h"
#include "tests/unit/http_peer.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define PATIENCE_MS 20000

/* --- The resolver --- */

static pthread_mutex_t resolver_lock = PTHREAD_MUTEX_INITIALIZER;
static const char *resolver_answer = "127.0.0.1"; /* what every .test name is, comma-separated */
static int held_pipe[2]; /* names that begin with "held" are resolved once this closes */
/* Calls of getaddrinfo() by the engine's resolver; by libcurl's, whose threads nobody bounds. */
static int lookups, foreign_lookups;

int getaddrinfo(const char *restrict name, const char *restrict service,
                const struct addrinfo *restrict hints, struct addrinfo **restrict ret) {
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    void *symbol = dlsym(RTLD_NEXT, "getaddrinfo");
    memcpy(&real, &symbol, sizeof real);
    size_t n = name ? strlen(name) : 0;
    size_t end = n && name[n - 1] == '.' ? n - 1 : n;
    if (end < 5 || strncmp(name + end - 5, ".test", 5) != 0) return real(name, service, hints, ret);
    char thread[16] = "";
    pthread_getname_np(pthread_self(), thread, sizeof thread);
    pthread_mutex_lock(&resolver_lock);
    *(strcmp(thread, "resolver") == 0 ? &lookups : &foreign_lookups) += 1;
    pthread_mutex_unlock(&resolver_lock);
    if (strncmp(name, "held", 4) == 0) {
        char c;
        while (read(held_pipe[0], &c, 1) > 0) continue;
        return EAI_AGAIN;
    }
    if (strcmp(name, "missing.test") == 0) return EAI_NONAME;
    char list[256];
    pthread_mutex_lock(&resolver_lock);
    snprintf(list, sizeof list, "%s", resolver_answer);
    pthread_mutex_unlock(&resolver_lock);
    struct addrinfo numeric = *hints, **tail = ret;
    numeric.ai_flags |= AI_NUMERICHOST;
    numeric.ai_family = AF_INET;
    char *rest = list, *one;
    while ((one = strsep(&rest, ","))) {
        int rc = real(one, service, &numeric, tail);
        if (rc) return rc;
        while (*tail) tail = &(*tail)->ai_next;
    }
    return 0;
}

static void resolve_to(const char *list) {
    pthread_mutex_lock(&resolver_lock);
    resolver_answer = list;
    pthread_mutex_unlock(&resolver_lock);
}

/* --- The peer --- */

static struct http_peer peer;

static int start(void **state) {
    (void)state;
    http_global_init();
    return pipe(held_pipe) == 0 && http_peer_start(&peer) ? 0 : -1;
}

static int stop(void **state) {
    (void)state;
    close(held_pipe[1]);
    if (foreign_lookups) fprintf(stderr, "libcurl looked up %d names itself\n", foreign_lookups);
    return http_peer_stop(&peer) && !foreign_lookups ? 0 : -1;
}

/* --- A client --- */

static char none[] = "";
static char ca_path[256], client_cert[256], client_key[256], proxy_url[80];
static struct cidr loopback[1];

static struct config test_config(void) {
    assert_true(cidr_parse(STR("127.0.0.1/32"), &loopback[0]));
    snprintf(ca_path, sizeof ca_path, "%s/ca.pem", peer.dir);
    snprintf(client_cert, sizeof client_cert, "%s/client.pem", peer.dir);
    snprintf(client_key, sizeof client_key, "%s/client.key", peer.dir);
    snprintf(proxy_url, sizeof proxy_url, "http://127.0.0.1:%d", peer.proxy);
    return (struct config){.http_connect_timeout = 300,
                           .http_timeout = 700,
                           .http_idle_timeout = 15000,
                           .http_answer_wait = 200,
                           .http_max_connections = 256,
                           .resolver_threads = 4,
                           .resolver_waiting = 100,
                           .resolver_cache = 100,
                           .http_response_max = 65536,
                           .http_ca_bundle = none,
                           .http_client_cert = none,
                           .http_client_key = none,
                           .egress_proxy = none,
                           .egress = {.http = true, .allow = loopback, .n_allow = 1}};
}

/* For tests in which nothing is to time out, however busy the machine is. */
static struct config patient_config(void) {
    struct config cfg = test_config();
    cfg.http_connect_timeout = cfg.http_timeout = PATIENCE_MS;
    return cfg;
}

struct call {
    struct http_request req;
    struct outcome outcome;
    int done;
    char url[300];
};

static void on_done(struct http_request *req, const struct outcome *o) {
    struct call *c = req->owner;
    c->outcome = *o;
    c->done++;
}

static void prepare(struct call *c, const char *base, const char *path) {
    *c = (struct call){0};
    snprintf(c->url, sizeof c->url, "%s%s", base, path);
    c->req.method = "GET";
    c->req.url = c->url;
    c->req.done = on_done;
    c->req.owner = c;
}

static int64_t now_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static void wait_for(struct http *h, struct call *calls, size_t n) {
    int64_t deadline = now_ms() + PATIENCE_MS;
    for (size_t i = 0; i < n;) {
        if (calls[i].done) {
            i++;
            continue;
        }
        assert_true(now_ms() < deadline);
        http_wait(h, 1000);
        http_run(h);
    }
}

static const char *base_url(const char *scheme, const char *host, int port) {
    static char url[4][128];
    static int next;
    next = (next + 1) % 4;
    snprintf(url[next], sizeof url[next], "%s://%s:%d", scheme, host, port);
    return url[next];
}

static const char *plain(void) {
    return base_url("http", "127.0.0.1", peer.plain);
}

static void get(struct http *h, struct call *c, const char *base, const char *path) {
    prepare(c, base, path);
    http_submit(h, &c->req);
    assert_int_equal(c->done, 0); /* never from inside submit */
    wait_for(h, c, 1);
    assert_int_equal(c->done, 1);
    assert_null(c->req.transfer);
}

static void assert_why(const struct call *c, const char *why) {
    if (strcmp(c->outcome.why, why) != 0)
        fail_msg("%s: \"%s\" (%s), expected \"%s\"", c->url, c->outcome.why, c->outcome.detail,
                 why);
}

static struct str answer_of(const struct call *c) {
    return (struct str){c->req.answer.p, c->req.answer.n};
}

static void clear(struct call *c) {
    http_request_clear(&c->req);
    assert_null(c->req.headers);
    assert_null(c->req.answer.p);
}

static int64_t peer_count(const char *what) {
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    struct call c;
    get(h, &c, plain(), "/counts");
    assert_int_equal(c.outcome.verdict, VERDICT_OK);
    char quoted[100];
    snprintf(quoted, sizeof quoted, "\"%s\": ", what);
    const char *at = strstr(buf_cstr(&c.req.answer), quoted);
    int64_t n = at ? strtoll(at + strlen(quoted), NULL, 10) : 0;
    clear(&c);
    http_free(h);
    return n;
}

/* --- Answers --- */

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

/* An answer that ends well leaves its connection to the next request, needed or not. */
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

/* --- What goes wrong --- */

/* Every hostile answer after itself and after some others, on kept connections where it leaves one,
 * with an honest one behind: none leaves anything to the next. (fuzz_answers.c tries all orders.)
 * (libcurl 7.88 kept a pointer into freed headers: see http.c.) */
static void test_hostile_answers_in_turn(void **state) {
    (void)state;
    struct config cfg = patient_config();
    cfg.http_max_connections = 1;
    struct http *h = http_new(&cfg);
    struct call list, calls[3];
    get(h, &list, plain(), "/raw");
    char *names = strdup(buf_cstr(&list.req.answer)), *name[100], *rest = names;
    size_t n = 0;
    while (n < COUNT(name) && (name[n] = strsep(&rest, " "))) n++;
    assert_in_range(n, 50, COUNT(name) - 1);
    clear(&list);
    static const size_t apart[] = {0, 1, 2, 5, 11, 23};
    for (size_t i = 0; i < n * COUNT(apart); i++) {
        const char *const turns[] = {name[i % n], name[(i + apart[i / n]) % n], NULL};
        for (size_t k = 0; k < COUNT(calls); k++) {
            char path[100] = "/ok";
            if (turns[k]) snprintf(path, sizeof path, "/raw/%s", turns[k]);
            prepare(&calls[k], plain(), path);
            calls[k].req.method = i % 2 ? "POST" : "PUT";
            calls[k].req.needs = (enum http_needs)(i % 3);
            http_submit(h, &calls[k].req);
        }
        wait_for(h, calls, COUNT(calls));
        for (size_t k = 0; k < COUNT(calls); k++) {
            if (calls[k].outcome.verdict != VERDICT_OK)
                assert_int_equal(calls[k].outcome.fault, FAULT_TENANT);
            if (str_starts(str_c(calls[k].outcome.why), "curl-"))
                fail_msg("%s: %s: %s", turns[k], calls[k].outcome.why, calls[k].outcome.detail);
        }
        if (calls[2].outcome.status != 200) fail_msg("after %s and %s", turns[0], turns[1]);
        for (size_t k = 0; k < COUNT(calls); k++) clear(&calls[k]);
    }
    free(names);
    http_free(h);
}

static void test_broken_peers(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    static const struct {
        const char *path;
        const char *why; /* "": an answer */
    } cases[] = {
        {"/closed-10", ""},
        {"/drip", "timeout"},
        {"/silent", "timeout"},
        {"/truncated", "truncated"},
        {"/truncated-head", "truncated"},
        {"/interim-only", "no-answer"},
        {"/reset", "reset"},
        {"/reset-middle", "reset"},
        {"/nothing", "no-answer"},
        {"/garbage", "http-malformed"},
        {"/endless-headers", "answer-headers-too-large"},
        {"/many-headers", "answer-headers-too-large"}, /* few bytes, an end, but 600 lines */
        {"/endless-line", "answer-headers-too-large"},
        {"/endless-hints", "answer-headers-too-large"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct call c;
        get(h, &c, plain(), cases[i].path);
        assert_why(&c, cases[i].why);
        assert_int_equal(c.outcome.verdict, cases[i].why[0] ? VERDICT_RETRY : VERDICT_OK);
        assert_int_equal(c.outcome.fault, cases[i].why[0] ? FAULT_TENANT : FAULT_NONE);
        assert_int_equal(c.req.status, cases[i].why[0] ? 0 : 200);
        assert_false(c.outcome.uncounted);
        clear(&c);
    }
    http_free(h);
}

static void test_no_connection(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    const struct {
        int port;
        const char *why;
    } cases[] = {{peer.gone, "refused"}, {peer.full, "timeout-connect"}, {peer.deaf, "timeout"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct call c;
        get(h, &c, base_url("http", "127.0.0.1", cases[i].port), "/");
        assert_why(&c, cases[i].why);
        assert_int_equal(c.outcome.verdict, VERDICT_RETRY);
        assert_int_equal(c.outcome.fault, FAULT_TENANT);
        clear(&c);
    }
    http_free(h);
}

static void test_no_files_left(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    struct rlimit was;
    getrlimit(RLIMIT_NOFILE, &was);
    int next = dup(0);
    close(next);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)next, was.rlim_max});
    struct call c;
    get(h, &c, plain(), "/ok");
    setrlimit(RLIMIT_NOFILE, &was);
    assert_why(&c, "no-socket");
    assert_int_equal(c.outcome.verdict, VERDICT_RETRY);
    assert_int_equal(c.outcome.fault, FAULT_SYSTEM);
    clear(&c);
    http_free(h);
}

/* --- The guard --- */

static void test_guard(void **state) {
    (void)state;
    struct config cfg = patient_config();
    static const struct {
        const char *answer; /* of the resolver */
        const char *why;
    } cases[] = {{"127.0.0.1", ""},
                 {"127.0.0.2", "egress-denied"},
                 {"127.0.0.2,127.0.0.1", ""}, /* goes on to the one that is allowed */
                 {"127.0.0.1,127.0.0.2", ""},
                 {"127.0.0.2,169.254.169.254,10.0.0.1", "egress-denied"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct http *h = http_new(&cfg); /* each with an empty cache of names */
        struct call c;
        resolve_to(cases[i].answer);
        get(h, &c, base_url("http", "rebound.test", peer.plain), "/ok");
        assert_why(&c, cases[i].why);
        if (cases[i].why[0]) {
            assert_int_equal(c.outcome.verdict, VERDICT_PERMANENT);
            assert_int_equal(c.outcome.fault, FAULT_TENANT);
            assert_non_null(strstr(c.outcome.detail, "refused: "));
        }
        clear(&c);
        http_free(h);
    }
    resolve_to("127.0.0.1");
}

static void test_guard_on_the_url(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    static const struct {
        const char *url;
        const char *why;
    } cases[] = {{"http://169.254.169.254/", "egress-denied"},
                 {"http://[::1]/", "egress-denied"},
                 {"http://0x7f000001/", "invalid-url"},
                 {"http://user:pw@127.0.0.1/", "invalid-url"},
                 {"ftp://127.0.0.1/", "invalid-url"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct call c;
        get(h, &c, cases[i].url, "");
        assert_why(&c, cases[i].why);
        assert_int_equal(c.outcome.verdict, VERDICT_PERMANENT);
        clear(&c);
    }
    http_free(h);
}

/* A pooled connection is no way around a list that has changed since. */
static void test_guard_on_a_pooled_connection(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    const char *base = base_url("http", "pooled.test", peer.plain);
    struct call c;
    get(h, &c, base, "/ok");
    assert_why(&c, "");
    clear(&c);
    /* Behind http_reconfigure()'s back, so that the connection stays in the pool. */
    cfg.egress.n_allow = 0;
    int64_t before = peer_count("/ok");
    get(h, &c, base, "/ok");
    assert_why(&c, "egress-denied");
    clear(&c);
    assert_int_equal(peer_count("/ok"), before);
    http_free(h);
}

/* Where the configuration itself points the rules for events don't hold, and the connection that
 * was made so is no way for events. */
static void test_trusted_url(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    const char *base = base_url("http", "pooled.test", peer.plain);
    struct call c;
    cfg.egress.n_allow = 0;
    cfg.egress.http = false;
    prepare(&c, base, "/ok");
    c.req.trusted = true;
    http_submit(h, &c.req);
    wait_for(h, &c, 1);
    assert_why(&c, "");
    assert_int_equal(c.req.status, 200);
    clear(&c);
    cfg.egress.http = true;
    int64_t before = peer_count("/ok");
    get(h, &c, base, "/ok");
    assert_why(&c, "egress-denied");
    clear(&c);
    assert_int_equal(peer_count("/ok"), before);
    http_free(h);
}

static void test_reconfigure_drops_connections(void **state) {
    (void)state;
    struct config cfg = test_config(), other = test_config();
    struct http *h = http_new(&cfg);
    struct call c;
    int64_t start = peer_count("connections"); /* counts its own as well */
    for (int i = 0; i < 3; i++) {
        get(h, &c, plain(), "/ok");
        clear(&c);
    }
    int64_t kept = peer_count("connections");
    assert_int_equal(kept - start, 2);
    http_reconfigure(h, &other);
    get(h, &c, plain(), "/ok");
    assert_why(&c, "");
    clear(&c);
    assert_int_equal(peer_count("connections") - kept, 2);
    http_free(h);
}

/* --- DNS --- */

static void test_unknown_name(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    struct call c;
    get(h, &c, base_url("http", "missing.test", peer.plain), "/ok");
    assert_why(&c, "dns");
    assert_int_equal(c.outcome.verdict, VERDICT_RETRY);
    assert_int_equal(c.outcome.fault, FAULT_TENANT);
    assert_string_equal(c.outcome.detail, "the host missing.test does not exist");
    clear(&c);
    http_free(h);
}

/* A name server that never answers ends its own request and holds up nobody else's. */
static void test_resolver_that_hangs(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    struct call calls[2];
    prepare(&calls[0], base_url("http", "held.test", peer.plain), "/ok");
    prepare(&calls[1], plain(), "/ok");
    int64_t start = now_ms();
    http_submit(h, &calls[0].req);
    http_submit(h, &calls[1].req);
    wait_for(h, calls, 2);
    assert_why(&calls[0], "dns");
    assert_string_equal(calls[0].outcome.detail, "the host held.test was not resolved in time");
    assert_why(&calls[1], "");
    prepare(&calls[0], base_url("http", "held.test", peer.plain), "/ok");
    http_submit(h, &calls[0].req);
    http_run(h);
    http_cancel(h, &calls[0].req);
    wait_for(h, calls, 1);
    assert_why(&calls[0], "cancelled");
    assert_true(calls[0].outcome.uncounted);
    clear(&calls[1]);
    http_free(h);
    assert_true(now_ms() - start < 3000);
}

/* However a host is written, libcurl takes the addresses that it is given, all of them, and looks
 * up nothing itself (foreign_lookups, at the end). */
static void test_names_are_given(void **state) {
    (void)state;
    struct config cfg = patient_config();
    cfg.http_ca_bundle = ca_path;
    static const struct {
        const char *scheme, *host, *answer;
        int new_lookups;
    } cases[] = {{"http", "one.test", "127.0.0.1", 1},
                 {"http", "ONE.Test", "127.0.0.1", 0},
                 {"http", "one.test.", "127.0.0.1", 1},
                 {"https", "good.test", "127.0.0.1", 1},
                 {"https", "GOOD.test", "127.0.0.1", 0},
                 {"http", "two.test", "127.0.0.2,127.0.0.1", 1},
                 {"http", "127.0.0.1", "", 0}};
    struct http *h = http_new(&cfg);
    for (size_t i = 0; i < COUNT(cases); i++) {
        bool https = strcmp(cases[i].scheme, "https") == 0;
        struct call c;
        int before = lookups;
        resolve_to(cases[i].answer);
        get(h, &c, base_url(cases[i].scheme, cases[i].host, https ? peer.tls : peer.plain), "/ok");
        assert_why(&c, "");
        assert_int_equal(lookups - before, cases[i].new_lookups);
        clear(&c);
        /* One that ends its connection, so that the next case needs a new one. */
        prepare(&c, base_url(cases[i].scheme, cases[i].host, https ? peer.tls : peer.plain),
                "/closed-10");
        c.req.needs = HTTP_HEAD;
        http_submit(h, &c.req);
        wait_for(h, &c, 1);
        assert_why(&c, "");
        clear(&c);
    }
    http_free(h);
    resolve_to("127.0.0.1");
    snprintf(proxy_url, sizeof proxy_url, "http://u:p@proxy.test:%d/", peer.proxy);
    cfg.egress_proxy = proxy_url;
    h = http_new(&cfg);
    struct call c;
    int before = lookups;
    get(h, &c, base_url("https", "good.test", peer.tls), "/ok");
    assert_why(&c, "");
    assert_int_equal(lookups - before, 1); /* the proxy's */
    clear(&c);
    http_free(h);
}

/* Many names whose name servers are silent: few threads, and those who are known are served. */
static void test_silent_name_servers(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    static struct call held[300], calls[20];
    struct call first;
    get(h, &first, base_url("http", "www.known.test", peer.plain), "/ok");
    clear(&first);
    for (size_t i = 0; i < COUNT(held); i++) {
        char host[64];
        snprintf(host, sizeof host, "held-%zu.evil-%zu.test", i, i / 2);
        prepare(&held[i], base_url("http", host, peer.plain), "/ok");
        http_submit(h, &held[i].req);
    }
    int before = lookups;
    for (size_t i = 0; i < COUNT(calls); i++) {
        char host[64];
        snprintf(host, sizeof host, "www-%zu.known.test", i);
        prepare(&calls[i], base_url("http", host, peer.plain), "/ok");
        http_submit(h, &calls[i].req);
    }
    wait_for(h, calls, COUNT(calls));
    wait_for(h, held, COUNT(held));
    for (size_t i = 0; i < COUNT(calls); i++) {
        assert_why(&calls[i], "");
        clear(&calls[i]);
    }
    size_t begun = 0;
    for (size_t i = 0; i < COUNT(held); i++) {
        bool dns = strcmp(held[i].outcome.why, "dns") == 0;
        begun += dns;
        if (!dns) assert_why(&held[i], "resolver-busy");
        assert_int_equal(held[i].outcome.fault, dns ? FAULT_TENANT : FAULT_NONE);
        assert_int_equal(held[i].outcome.uncounted, !dns);
        clear(&held[i]);
    }
    assert_in_range(begun, 1, 3);
    assert_in_range(lookups - before, COUNT(calls), COUNT(calls) + 3);
    http_free(h);
}

/* --- TLS --- */

static void test_tls(void **state) {
    (void)state;
    struct config cfg = patient_config();
    struct config trusting = cfg;
    trusting.http_ca_bundle = ca_path;
    struct config ident = trusting;
    ident.http_client_cert = client_cert;
    ident.http_client_key = client_key;
    struct config foreign = cfg;
    foreign.http_ca_bundle = client_cert; /* somebody, but not who signed the server's */
    char nowhere[] = "/nonexistent/ca.pem";
    struct config broken = cfg;
    broken.http_ca_bundle = nowhere;
    resolve_to("127.0.0.1");
    const struct {
        const struct config *cfg;
        const char *host;
        int port;
        bool mtls;
        const char *why;
        enum verdict verdict;
        enum fault fault;
        const char *detail;
    } cases[] = {
        {&trusting, "good.test", peer.tls, false, "", VERDICT_OK, FAULT_NONE},
        {&foreign, "good.test", peer.tls, false, "tls-certificate", VERDICT_PERMANENT, FAULT_TENANT,
         "the server's certificate is not trusted: unable to get local issuer certificate"},
        {&trusting, "other.test", peer.tls, false, "tls-certificate", VERDICT_PERMANENT,
         FAULT_TENANT, "the server's certificate is not for other.test (or could not be checked)"},
        {&ident, "good.test", peer.mtls, true, "", VERDICT_OK, FAULT_NONE},
        {&broken, "good.test", peer.tls, false, "ca-bundle", VERDICT_RETRY, FAULT_SYSTEM},
        {&trusting, "good.test", peer.plain, false, "tls-handshake", VERDICT_RETRY, FAULT_TENANT},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct http *h = http_new(cases[i].cfg);
        struct call c;
        prepare(&c, base_url("https", cases[i].host, cases[i].port), "/ok");
        c.req.mtls = cases[i].mtls;
        http_submit(h, &c.req);
        wait_for(h, &c, 1);
        assert_why(&c, cases[i].why);
        assert_int_equal(c.outcome.verdict, cases[i].verdict);
        assert_int_equal(c.outcome.fault, cases[i].fault);
        if (cases[i].detail) assert_string_equal(c.outcome.detail, cases[i].detail);
        clear(&c);
        http_free(h);
    }
}

/* The certificate is offered only where the request asks for it. */
static void test_no_client_certificate_unasked(void **state) {
    (void)state;
    struct config cfg = patient_config();
    cfg.http_ca_bundle = ca_path;
    cfg.http_client_cert = client_cert;
    cfg.http_client_key = client_key;
    struct http *h = http_new(&cfg);
    struct call c;
    get(h, &c, base_url("https", "good.test", peer.mtls), "/ok");
    assert_int_equal(c.outcome.verdict, VERDICT_RETRY);
    assert_int_equal(c.outcome.fault, FAULT_TENANT);
    clear(&c);
    http_free(h);
}

/* --- The egress proxy --- */

static void test_proxy(void **state) {
    (void)state;
    struct config cfg = patient_config();
    cfg.egress_proxy = proxy_url;
    cfg.egress.n_allow = 0; /* the proxy itself is exempt */
    cfg.http_ca_bundle = ca_path;
    struct http *h = http_new(&cfg);
    const struct {
        const char *scheme, *host;
        int port;
        const char *why;
        enum fault fault;
    } cases[] = {
        {"http", "good.test", peer.plain, "", FAULT_NONE},
        {"https", "good.test", peer.tls, "", FAULT_NONE},
        {"http", "127.0.0.1", peer.plain, "egress-denied", FAULT_TENANT},
        {"http", "localhost", peer.plain, "egress-denied", FAULT_TENANT},
        {"http", "answer-403.test", peer.plain, "egress-denied", FAULT_TENANT},
        {"https", "answer-403.test", peer.tls, "egress-denied", FAULT_TENANT},
        {"http", "answer-407.test", peer.plain, "proxy-407", FAULT_SYSTEM},
        {"http", "answer-502.test", peer.plain, "proxy-502", FAULT_TENANT},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct call c;
        get(h, &c, base_url(cases[i].scheme, cases[i].host, cases[i].port), "/ok");
        assert_why(&c, cases[i].why);
        assert_int_equal(c.outcome.fault, cases[i].fault);
        clear(&c);
    }
    http_free(h);
    char tunnelled[64];
    snprintf(tunnelled, sizeof tunnelled, "CONNECT good.test:%d", peer.plain);
    assert_int_equal(peer_count(tunnelled), 1);

    snprintf(proxy_url, sizeof proxy_url, "http://127.0.0.1:%d", peer.gone);
    h = http_new(&cfg);
    struct call c;
    get(h, &c, base_url("http", "good.test", peer.plain), "/ok");
    assert_why(&c, "proxy-connect");
    assert_int_equal(c.outcome.fault, FAULT_SYSTEM);
    clear(&c);
    http_free(h);
}

static void test_environment_proxy_is_ignored(void **state) {
    (void)state;
    struct config cfg = test_config();
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d", peer.canary);
    setenv("http_proxy", url, 1);
    setenv("ALL_PROXY", url, 1);
    struct http *h = http_new(&cfg);
    struct call c;
    get(h, &c, plain(), "/ok");
    assert_why(&c, "");
    clear(&c);
    http_free(h);
    unsetenv("http_proxy");
    unsetenv("ALL_PROXY");
    assert_int_equal(peer_count("canary"), 0);
}

/* --- Many at once, and giving up --- */

static void test_many(void **state) {
    (void)state;
    struct config cfg = test_config();
    cfg.http_max_connections = 20;
    cfg.http_timeout = 10000;
    cfg.http_connect_timeout = 5000;
    struct http *h = http_new(&cfg);
    static struct call calls[200];
    int64_t start = peer_count("connections");
    for (size_t i = 0; i < COUNT(calls); i++) {
        prepare(&calls[i], plain(), "/slow");
        http_submit(h, &calls[i].req);
    }
    assert_int_equal(http_in_flight(h), COUNT(calls));
    wait_for(h, calls, COUNT(calls));
    for (size_t i = 0; i < COUNT(calls); i++) {
        assert_why(&calls[i], "");
        assert_int_equal(calls[i].done, 1);
        clear(&calls[i]);
    }
    /* Connections are used again: no more than the limit were opened (and one to count them). */
    assert_in_range(peer_count("connections") - start, 2, 21);
    http_free(h);
}

/* A request that waits its turn has its full time once it flies. */
static void test_queue_time_is_not_counted(void **state) {
    (void)state;
    struct config cfg = test_config();
    cfg.http_max_connections = 1;
    struct http *h = http_new(&cfg);
    struct call calls[3];
    const char *const paths[] = {"/silent", "/silent", "/ok"};
    for (size_t i = 0; i < COUNT(calls); i++) {
        prepare(&calls[i], plain(), paths[i]);
        http_submit(h, &calls[i].req);
    }
    wait_for(h, calls, COUNT(calls));
    assert_why(&calls[1], "timeout");
    assert_why(&calls[2], "");
    for (size_t i = 0; i < COUNT(calls); i++) clear(&calls[i]);
    http_free(h);
}

static void test_cancel(void **state) {
    (void)state;
    struct config cfg = test_config();
    cfg.http_max_connections = 1;
    cfg.http_timeout = 60000;
    struct http *h = http_new(&cfg);
    struct call calls[3];
    int64_t before = peer_count("/silent");
    for (size_t i = 0; i < COUNT(calls); i++) {
        prepare(&calls[i], plain(), i == 0 ? "/silent" : "/ok");
        http_submit(h, &calls[i].req);
    }
    int64_t deadline = now_ms() + PATIENCE_MS;
    while (peer_count("/silent") == before) { /* until the first has reached the peer */
        assert_true(now_ms() < deadline);
        http_wait(h, 10);
        http_run(h);
    }
    http_cancel(h, &calls[1].req);
    http_cancel(h, &calls[0].req);
    http_cancel(h, &calls[0].req); /* twice does nothing */
    assert_int_equal(calls[0].done, 0);
    int64_t start = now_ms();
    http_wait(h, 60000); /* there is something to do already */
    assert_true(now_ms() - start < 10000);
    wait_for(h, calls, 3);
    assert_why(&calls[0], "cancelled");
    assert_false(calls[0].outcome.uncounted);
    assert_why(&calls[1], "cancelled");
    assert_true(calls[1].outcome.uncounted);
    assert_int_equal(calls[1].outcome.verdict, VERDICT_RETRY);
    assert_why(&calls[2], ""); /* moved up into the place that became free */
    http_cancel(h, &calls[2].req);
    http_run(h);
    assert_int_equal(calls[2].done, 1);
    for (size_t i = 0; i < COUNT(calls); i++) clear(&calls[i]);
    http_free(h);
}

static void test_free_cancels_all(void **state) {
    (void)state;
    struct config cfg = test_config();
    cfg.http_max_connections = 2;
    struct http *h = http_new(&cfg);
    struct call calls[5];
    for (size_t i = 0; i < COUNT(calls); i++) {
        prepare(&calls[i], plain(), "/silent");
        http_submit(h, &calls[i].req);
    }
    http_run(h);
    http_free(h);
    for (size_t i = 0; i < COUNT(calls); i++) {
        assert_int_equal(calls[i].done, 1);
        assert_why(&calls[i], "cancelled");
        clear(&calls[i]);
    }
    http_free(NULL);
}

static void submit_second(struct http_request *req, const struct outcome *o) {
    struct call *c = req->owner;
    struct http *h;
    memcpy(&h, &c[1].url[200], sizeof h); /* where the test put it */
    on_done(req, o);
    http_submit(h, &c[1].req);
}

/* done() may submit: what S3 does when a store names another region. */
static void test_submit_from_done(void **state) {
    (void)state;
    struct config cfg = test_config();
    cfg.http_max_connections = 1;
    struct http *h = http_new(&cfg);
    struct call calls[2];
    prepare(&calls[0], plain(), "/ok");
    prepare(&calls[1], plain(), "/ok");
    calls[0].req.done = submit_second;
    memcpy(&calls[1].url[200], &h, sizeof h);
    http_submit(h, &calls[0].req);
    wait_for(h, calls, 2);
    assert_why(&calls[1], "");
    clear(&calls[0]);
    clear(&calls[1]);
    http_free(h);
}

static void test_wait_for_another_fd(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], "x", 1), 1);
    int64_t start = now_ms();
    http_wake_by(h, fds[0]);
    http_wait(h, 60000);
    assert_true(now_ms() - start < 10000);
    http_free(h);
    close(fds[0]);
    close(fds[1]);
}

/* --- Codes that no peer plays here --- */

static void test_error_table(void **state) {
    (void)state;
    static const struct {
        struct http_failure f;
        const char *why;
        enum verdict verdict;
        enum fault fault;
    } cases[] = {
        /* A tenant chose an address that there is no way to: no IPv6 here, for instance. */
        {{CURLE_COULDNT_CONNECT, .opened = true, .os_errno = EADDRNOTAVAIL},
         "unreachable",
         VERDICT_RETRY,
         FAULT_TENANT},
        {{CURLE_COULDNT_CONNECT, .opened = true, .os_errno = EAFNOSUPPORT},
         "unreachable",
         VERDICT_RETRY,
         FAULT_TENANT},
        {{CURLE_COULDNT_CONNECT, .socket_errno = EAFNOSUPPORT},
         "unreachable",
         VERDICT_RETRY,
         FAULT_TENANT},
        {{CURLE_COULDNT_CONNECT, .socket_errno = EMFILE}, "no-socket", VERDICT_RETRY, FAULT_SYSTEM},
        /* The egress proxy waits for a tenant's host. */
        {{CURLE_OPERATION_TIMEDOUT, .proxied = true, .opened = true},
         "proxy-timeout",
         VERDICT_RETRY,
         FAULT_TENANT},
        {{CURLE_OUT_OF_MEMORY, .opened = true}, "curl-27", VERDICT_RETRY, FAULT_TENANT},
        {{CURLE_COULDNT_CONNECT, .opened = true, .os_errno = 113},
         "unreachable",
         VERDICT_RETRY,
         FAULT_TENANT},
        {{CURLE_COULDNT_CONNECT, .opened = true, .os_errno = 110},
         "timeout-connect",
         VERDICT_RETRY,
         FAULT_TENANT},
        {{CURLE_COULDNT_CONNECT, .denied = "private"},
         "egress-denied",
         VERDICT_PERMANENT,
         FAULT_TENANT},
        {{CURLE_COULDNT_CONNECT, .denied = "private", .opened = true, .os_errno = 111},
         "refused",
         VERDICT_RETRY,
         FAULT_TENANT},
        {{CURLE_OUT_OF_MEMORY}, "out-of-memory", VERDICT_RETRY, FAULT_SYSTEM},
        {{CURLE_SSL_CERTPROBLEM, .opened = true},
         "client-certificate",
         VERDICT_RETRY,
         FAULT_SYSTEM},
        {{CURLE_COULDNT_RESOLVE_HOST}, "dns", VERDICT_RETRY, FAULT_TENANT},
        {{CURLE_BAD_FUNCTION_ARGUMENT, .opened = true, .answered = true},
         "http-malformed",
         VERDICT_RETRY,
         FAULT_TENANT},
        {{CURLE_BAD_FUNCTION_ARGUMENT, .opened = true}, "curl-43", VERDICT_RETRY, FAULT_TENANT},
        {{CURLE_COULDNT_RESOLVE_PROXY, .proxied = true}, "proxy-dns", VERDICT_RETRY, FAULT_SYSTEM},
        {{CURLE_HTTP2_STREAM, .opened = true}, "http2", VERDICT_RETRY, FAULT_TENANT},
        {{CURLE_ABORTED_BY_CALLBACK, .opened = true}, "reset", VERDICT_RETRY, FAULT_TENANT},
        {{CURLE_SSL_ENGINE_NOTFOUND}, "curl-53", VERDICT_RETRY, FAULT_TENANT},
        {{CURLE_SSL_PINNEDPUBKEYNOTMATCH, .opened = true}, "curl-90", VERDICT_RETRY, FAULT_TENANT},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct http_failure f = cases[i].f;
        f.text = "";
        struct outcome o = http_error(&f);
        assert_string_equal(o.why, cases[i].why);
        assert_int_equal(o.verdict, cases[i].verdict);
        assert_int_equal(o.fault, cases[i].fault);
        assert_true(o.detail[0]);
    }
}

/* Of libcurl's text nothing is told that may be a tenant's, or its server's. */
static void test_error_words(void **state) {
    (void)state;
    static const struct {
        CURLcode code;
        const char *text, *detail;
    } cases[] = {
        {CURLE_SSL_CONNECT_ERROR,
         "OpenSSL SSL_connect: SSL_ERROR_SYSCALL in connection to t0ken.x:443",
         "the TLS handshake failed"},
        {CURLE_SSL_CONNECT_ERROR, "OpenSSL/3.0.1: error:0A00010B:SSL routines::t0ken",
         "the TLS handshake failed: wrong version number"},
        {CURLE_SSL_CONNECT_ERROR, "TLS connect error: error:t0ken", "the TLS handshake failed"},
        {CURLE_RECV_ERROR, "Recv failure: Connection reset by peer",
         "the connection broke: Connection reset by peer"},
        {CURLE_RECV_ERROR, "t0ken", "the connection broke"},
        {CURLE_SEND_ERROR, "Send failure: Broken pipe t0ken", "the connection broke: Broken pipe"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct http_failure f = {.code = cases[i].code, .opened = true, .text = cases[i].text};
        assert_string_equal(http_error(&f).detail, cases[i].detail);
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
        cmocka_unit_test(test_hostile_answers_in_turn),
        cmocka_unit_test(test_broken_peers),
        cmocka_unit_test(test_no_connection),
        cmocka_unit_test(test_no_files_left),
        cmocka_unit_test(test_guard),
        cmocka_unit_test(test_guard_on_the_url),
        cmocka_unit_test(test_guard_on_a_pooled_connection),
        cmocka_unit_test(test_trusted_url),
        cmocka_unit_test(test_reconfigure_drops_connections),
        cmocka_unit_test(test_unknown_name),
        cmocka_unit_test(test_resolver_that_hangs),
        cmocka_unit_test(test_names_are_given),
        cmocka_unit_test(test_silent_name_servers),
        cmocka_unit_test(test_tls),
        cmocka_unit_test(test_no_client_certificate_unasked),
        cmocka_unit_test(test_proxy),
        cmocka_unit_test(test_environment_proxy_is_ignored),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_queue_time_is_not_counted),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_free_cancels_all),
        cmocka_unit_test(test_submit_from_done),
        cmocka_unit_test(test_wait_for_another_fd),
        cmocka_unit_test(test_error_table),
        cmocka_unit_test(test_error_words),
    };
    return cmocka_run_group_tests_name("http", tests, start, stop);
}
