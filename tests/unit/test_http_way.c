/* The HTTP engine: the way to a host, by the guard, names, TLS and the proxy. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/http_client.h"

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
        held[i].req.workspace = 1 + i;
        http_submit(h, &held[i].req);
    }
    int before = lookups;
    for (size_t i = 0; i < COUNT(calls); i++) {
        char host[64];
        snprintf(host, sizeof host, "www-%zu.known.test", i);
        prepare(&calls[i], base_url("http", host, peer.plain), "/ok");
        calls[i].req.workspace = 1001 + i;
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

int main(void) {
    const struct CMUnitTest tests[] = {
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
    };
    return cmocka_run_group_tests_name("http way", tests, start, stop);
}
