/* The HTTP engine: what goes wrong, and what is said of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sys/resource.h>

#include "sinks/http/http_error.h"
#include "tests/unit/http_client.h"

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
    /* OpenSSL has its words once a connection has used it. */
    struct config cfg = patient_config();
    struct http *h = http_new(&cfg);
    struct call c;
    get(h, &c, base_url("https", "127.0.0.1", peer.plain), "/ok");
    assert_why(&c, "tls-handshake");
    clear(&c);
    http_free(h);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct http_failure f = {.code = cases[i].code, .opened = true, .text = cases[i].text};
        assert_string_equal(http_error(&f).detail, cases[i].detail);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostile_answers_in_turn),
        cmocka_unit_test(test_broken_peers),
        cmocka_unit_test(test_no_connection),
        cmocka_unit_test(test_no_files_left),
        cmocka_unit_test(test_error_table),
        cmocka_unit_test(test_error_words),
    };
    return cmocka_run_group_tests_name("http failures", tests, start, stop);
}
