/* What the tests of the HTTP engine share: the scripted peer on loopback (tests/flow/http_peer.py),
 * a resolver, and requests. Names ending in ".test" are resolved here, in libc's place: that plays
 * rebinding and a name server that never answers without touching the system's resolver. One for
 * each test program; to be included after cmocka.h. */
#ifndef RUNSINK_TESTS_HTTP_CLIENT_H
#define RUNSINK_TESTS_HTTP_CLIENT_H

#include <curl/curl.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "config/config.h"
#include "sinks/http/http.h"
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

static inline void resolve_to(const char *list) {
    pthread_mutex_lock(&resolver_lock);
    resolver_answer = list;
    pthread_mutex_unlock(&resolver_lock);
}

/* --- The peer --- */

static struct http_peer peer;

static inline int start(void **state) {
    (void)state;
    http_global_init();
    return pipe(held_pipe) == 0 && http_peer_start(&peer) ? 0 : -1;
}

static inline int stop(void **state) {
    (void)state;
    close(held_pipe[1]);
    if (foreign_lookups) fprintf(stderr, "libcurl looked up %d names itself\n", foreign_lookups);
    return http_peer_stop(&peer) && !foreign_lookups ? 0 : -1;
}

/* --- A client --- */

static char none[] = "";
static char ca_path[256], client_cert[256], client_key[256], proxy_url[80];
static struct cidr loopback[1];

static inline struct config test_config(void) {
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
static inline struct config patient_config(void) {
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

static inline void on_done(struct http_request *req, const struct outcome *o) {
    struct call *c = req->owner;
    c->outcome = *o;
    c->done++;
}

static inline void prepare(struct call *c, const char *base, const char *path) {
    *c = (struct call){0};
    snprintf(c->url, sizeof c->url, "%s%s", base, path);
    c->req.method = "GET";
    c->req.url = c->url;
    c->req.done = on_done;
    c->req.owner = c;
}

static inline int64_t now_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static inline void wait_for(struct http *h, struct call *calls, size_t n) {
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

static inline const char *base_url(const char *scheme, const char *host, int port) {
    static char url[4][128];
    static int next;
    next = (next + 1) % 4;
    snprintf(url[next], sizeof url[next], "%s://%s:%d", scheme, host, port);
    return url[next];
}

static inline const char *plain(void) {
    return base_url("http", "127.0.0.1", peer.plain);
}

static inline void get(struct http *h, struct call *c, const char *base, const char *path) {
    prepare(c, base, path);
    http_submit(h, &c->req);
    assert_int_equal(c->done, 0); /* never from inside submit */
    wait_for(h, c, 1);
    assert_int_equal(c->done, 1);
    assert_null(c->req.transfer);
}

static inline void assert_why(const struct call *c, const char *why) {
    if (strcmp(c->outcome.why, why) != 0)
        fail_msg("%s: \"%s\" (%s), expected \"%s\"", c->url, c->outcome.why, c->outcome.detail,
                 why);
}

static inline struct str answer_of(const struct call *c) {
    return (struct str){c->req.answer.p, c->req.answer.n};
}

static inline void clear(struct call *c) {
    http_request_clear(&c->req);
    assert_null(c->req.headers);
    assert_null(c->req.answer.p);
}

static inline int64_t peer_count(const char *what) {
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

#endif
