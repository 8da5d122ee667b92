/* Any sequence of answers, through the real engine and libcurl, on connections that are kept where
 * an answer leaves them: each request ends once, with what a tenant's server may bring about, and
 * an honest answer behind them all is read as it was meant.
 *
 * The first byte says how it is played. Then come the answers, each ended by three bytes f5 and a
 * letter, for what the peer does next: K keeps the connection, F ends it, R resets it, P is a pause
 * within the same answer, T one that is longer than any answer may take.
 *
 * The clock stands still but where somebody waits: then that much time has passed at once. So
 * nothing takes time, and what depends on it happens the same way each time. */
#include <arpa/inet.h>
#include <curl/curl.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "config/config.h"
#include "sinks/http/http.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { PLAY_HTTP2 = 1, PLAY_PAIRS = 2, PLAY_BODY = 4, PLAY_NEEDS = 8 };

#define MARK "\xf5\xf5\xf5"
#define ANSWERS_MAX 12
#define CONNECTIONS_MAX 8
#define TURNS 12 /* without progress, until a request is given up */

static void must(bool ok) {
    if (!ok) abort();
}

/* --- The clock, the engine's and libcurl's --- */

static int64_t fake_us; /* 0: the real one; other programs of the corpus test have it */

int clock_gettime(clockid_t id, struct timespec *ret) {
    bool faked = fake_us && (id == CLOCK_MONOTONIC || id == CLOCK_MONOTONIC_RAW);
    if (!faked) return (int)syscall(SYS_clock_gettime, id, ret);
    fake_us++;
    *ret = (struct timespec){fake_us / 1000000, fake_us % 1000000 * 1000};
    return 0;
}

int epoll_wait(int fd, struct epoll_event *ret, int most, int timeout_ms) {
    int n = epoll_pwait(fd, ret, most, fake_us ? 0 : timeout_ms, NULL);
    if (fake_us && n == 0 && timeout_ms > 0) fake_us += (int64_t)timeout_ms * 1000;
    return n;
}

/* --- HTTP/2 is spoken over TLS, by a peer whose certificate nobody can check --- */

static bool http2;

#undef curl_easy_setopt
CURLcode curl_easy_setopt(CURL *easy, CURLoption option, ...) {
    static CURLcode (*real)(CURL *, CURLoption, ...);
    if (!real) {
        void *symbol = dlsym(RTLD_NEXT, "curl_easy_setopt");
        must(symbol != NULL);
        memcpy(&real, &symbol, sizeof real);
    }
    va_list ap;
    va_start(ap, option);
    void *value = va_arg(ap, void *); /* long, pointer or curl_off_t: one register each */
    va_end(ap);
    if (http2 && option == CURLOPT_SSL_VERIFYPEER) {
        CURLcode code = real(easy, CURLOPT_CAINFO, NULL); /* it would be read all the same */
        return code ? code : real(easy, option, 0L);
    }
    if (http2 && option == CURLOPT_SSL_VERIFYHOST) return real(easy, option, 0L);
    return real(easy, option, value);
}

static int choose_http2(SSL *ssl, const unsigned char **ret, unsigned char *ret_n,
                        const unsigned char *offered, unsigned n, void *user) {
    static const unsigned char h2[] = "h2";
    (void)ssl, (void)offered, (void)n, (void)user;
    *ret = h2;
    *ret_n = 2;
    return SSL_TLSEXT_ERR_OK;
}

static SSL_CTX *tls_context(void) {
    static SSL_CTX *ctx;
    if (ctx) return ctx;
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    must(key && cert && X509_set_version(cert, 2) && X509_set_pubkey(cert, key) &&
         X509_gmtime_adj(X509_getm_notBefore(cert), 0) &&
         X509_gmtime_adj(X509_getm_notAfter(cert), 86400) && X509_sign(cert, key, EVP_sha256()));
    ctx = SSL_CTX_new(TLS_server_method());
    must(ctx && SSL_CTX_use_certificate(ctx, cert) == 1 && SSL_CTX_use_PrivateKey(ctx, key) == 1 &&
         SSL_CTX_set_num_tickets(ctx, 0) == 1);
    SSL_CTX_set_alpn_select_cb(ctx, choose_http2, NULL);
    X509_free(cert);
    EVP_PKEY_free(key);
    return ctx;
}

/* --- The peer --- */

struct connection {
    int fd;
    SSL *ssl; /* NULL: none */
};

struct peer {
    int listener;
    struct connection all[CONNECTIONS_MAX];
    struct sockaddr_in at;
};

static struct peer *peer(void) {
    static struct peer p = {.listener = -1};
    if (p.listener >= 0) return &p;
    socklen_t n = sizeof p.at;
    p.at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    p.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    must(p.listener >= 0 && bind(p.listener, (struct sockaddr *)&p.at, sizeof p.at) == 0 &&
         listen(p.listener, 64) == 0 && getsockname(p.listener, (struct sockaddr *)&p.at, &n) == 0);
    for (size_t i = 0; i < CONNECTIONS_MAX; i++) p.all[i].fd = -1;
    return &p;
}

static void hang_up(struct connection *c) {
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &(struct linger){1, 0}, sizeof(struct linger));
    close(c->fd);
    SSL_free(c->ssl);
    *c = (struct connection){.fd = -1};
}

static bool welcome(struct peer *p, struct connection *c) {
    c->fd = accept4(p->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (c->fd < 0 || !http2) return c->fd >= 0;
    c->ssl = SSL_new(tls_context());
    must(c->ssl && SSL_set_fd(c->ssl, c->fd) == 1);
    SSL_set_accept_state(c->ssl);
    return true;
}

/* Bytes that the client has said, 0 when it is silent, -1 when it is gone. */
static ssize_t listen_to(struct connection *c, char *said, size_t n) {
    if (!c->ssl) {
        ssize_t got = recv(c->fd, said, n, 0);
        return got > 0 ? got : got == 0 ? -1 : errno == EAGAIN ? 0 : -1;
    }
    ERR_clear_error();
    int got = SSL_read(c->ssl, said, (int)n);
    if (got > 0) return got;
    return SSL_get_error(c->ssl, got) == SSL_ERROR_WANT_READ ? 0 : -1;
}

/* A connection on which the client has said something since, or NULL. */
static struct connection *heard(struct peer *p) {
    char said[4096];
    struct connection *found = NULL;
    bool more = true;
    for (struct connection *c = p->all; c < p->all + CONNECTIONS_MAX; c++) {
        if (c->fd < 0 && more) more = welcome(p, c);
        if (c->fd < 0) continue;
        ssize_t n;
        bool spoke = false;
        while ((n = listen_to(c, said, sizeof said)) > 0) spoke = true;
        if (n < 0)
            hang_up(c);
        else if (spoke)
            found = c;
    }
    return found;
}

static void tell(struct connection *c, const void *p, size_t n) {
    if (!c->ssl)
        (void)!send(c->fd, p, n, MSG_NOSIGNAL);
    else if (n)
        (void)SSL_write(c->ssl, p, (int)n);
}

static void close_all(struct peer *p) {
    heard(p);
    for (struct connection *c = p->all; c < p->all + CONNECTIONS_MAX; c++)
        if (c->fd >= 0) hang_up(c);
    for (int fd; (fd = accept(p->listener, NULL, NULL)) >= 0;) close(fd);
}

/* --- The engine --- */

struct call {
    struct http_request req;
    struct outcome outcome;
    int done;
};

static void on_done(struct http_request *req, const struct outcome *o) {
    struct call *c = req->owner;
    c->outcome = *o;
    must(c->done++ == 0);
}

static const struct config *configuration(void) {
    static struct config *cfg;
    if (cfg) return cfg;
    struct buf err;
    buf_init(&err, 4096);
    cfg = config_new();
    must(config_set(cfg, "egress.http", "true", "fuzz", &err));
    must(config_set(cfg, "egress.allow", "127.0.0.1/32", "fuzz", &err));
    must(config_set(cfg, "http.response_max", "2048", "fuzz", &err));
    must(config_set(cfg, "http.max_connections", "4", "fuzz", &err));
    must(config_finish(cfg, &err));
    buf_free(&err);
    http_global_init();
    return cfg;
}

static void submit(struct http *h, struct call *c, const char *url, unsigned play, unsigned turn) {
    static const char body[3000];
    *c = (struct call){0};
    c->req = (struct http_request){.method = turn % 3 == 0   ? "POST"
                                             : turn % 3 == 1 ? "PUT"
                                                             : "GET",
                                   .url = url,
                                   .needs = (enum http_needs)((turn + play / PLAY_NEEDS) % 3),
                                   .want_headers = {"etag", "content-type", NULL},
                                   .done = on_done,
                                   .owner = c};
    if (turn % 3 != 2) {
        c->req.body = body;
        c->req.body_len = play & PLAY_BODY ? sizeof body : 2;
    }
    http_submit(h, &c->req);
}

/* What a server can bring about. */
static void check(struct call *c) {
    must(c->done == 1);
    must(c->req.answer.n <= 2048);
    if (c->outcome.verdict == VERDICT_OK)
        must(c->req.status > 100 && c->req.status <= 999);
    else
        must(c->outcome.fault == FAULT_TENANT || strcmp(c->outcome.why, "cancelled") == 0);
    http_request_clear(&c->req);
}

/* One answer, until a pause or its end. Returns what comes after it. */
static const uint8_t *say(struct connection *c, const uint8_t *p, const uint8_t *end,
                          char *ret_then) {
    const uint8_t *mark = memmem(p, (size_t)(end - p), MARK, 3);
    const uint8_t *stop = mark ? mark : end;
    if (c && c->fd >= 0 && stop > p) tell(c, p, (size_t)(stop - p));
    *ret_then = mark && mark + 3 < end ? (char)mark[3] : 'F';
    return mark && mark + 3 < end ? mark + 4 : end;
}

/* Until all of them are done, or nothing happens any more. */
static void turn(struct http *h, const struct call *calls, size_t n) {
    for (int i = 0; i < TURNS; i++) {
        bool all = true;
        for (size_t k = 0; k < n; k++) all = all && calls[k].done;
        if (all) return;
        http_wait(h, 1);
        http_run(h);
    }
}

/* Until the time of all of them is over. */
static void outlast(struct http *h, const struct call *calls, size_t n) {
    for (int i = 0; i < 4; i++) {
        fake_us += (int64_t)10 * 1000000;
        turn(h, calls, n);
    }
}

static const uint8_t *play_answer(struct http *h, struct call *calls, size_t n, const uint8_t *p,
                                  const uint8_t *end) {
    struct connection *c = NULL;
    char then = 'P';
    /* A handshake takes some turns, and HTTP/2 says more than its request. */
    for (int i = 0, quiet = 0; i < 2 * TURNS && quiet < 2; i++) {
        http_wait(h, 1);
        http_run(h);
        struct connection *now = heard(peer());
        if (now) c = now;
        quiet = c && !now ? quiet + 1 : 0;
    }
    if (c && c->fd < 0) c = NULL;
    while ((then == 'P' || then == 'T') && p < end) {
        p = say(c, p, end, &then);
        turn(h, calls, n);
        if (then == 'T') outlast(h, calls, n);
    }
    if (c && c->fd >= 0 && then == 'R') hang_up(c);
    if (c && c->fd >= 0 && then == 'F') shutdown(c->fd, SHUT_WR);
    turn(h, calls, n);
    for (size_t i = 0; i < n; i++) {
        http_cancel(h, &calls[i].req);
        http_run(h);
    }
    return p;
}

/* Behind all that: a request on a new connection, whose answer is honest. */
static void play_honest(struct http *h, const char *url) {
    static const char answer[] = "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 4\r\n\r\nfine";
    struct call c;
    http2 = false;
    close_all(peer());
    for (int tries = 0;; tries++) { /* the first may meet a connection that has just been ended */
        must(tries < 8);
        submit(h, &c, url, 0, 2);
        for (int i = 0; !c.done && i < 200; i++) {
            struct connection *to = heard(peer());
            if (to) tell(to, answer, sizeof answer - 1);
            if (i > 20) poll(NULL, 0, 1); /* the kernel takes its time */
            http_wait(h, 1);
            http_run(h);
        }
        if (c.done && c.outcome.verdict == VERDICT_OK) break;
        http_cancel(h, &c.req);
        http_run(h);
        check(&c);
        close_all(peer());
    }
    must(c.req.status == 200 && strcmp(c.req.kept[0], "\"e\"") == 0 &&
         str_is((struct str){c.req.answer.p, c.req.answer.n}, "fine"));
    check(&c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n < 2) return 0;
    fake_us = (int64_t)3600 * 1000000;
    unsigned play = data[0];
    const uint8_t *p = data + 1, *end = data + n;
    char url[64], honest[64];
    int port = ntohs(peer()->at.sin_port);
    struct http *h = http_new(configuration());
    http2 = play & PLAY_HTTP2;
    snprintf(url, sizeof url, "%s://127.0.0.1:%d/", http2 ? "https" : "http", port);
    snprintf(honest, sizeof honest, "http://127.0.0.1:%d/", port);
    for (unsigned i = 0; p < end && i < ANSWERS_MAX; i++) {
        struct call calls[2];
        size_t together = play & PLAY_PAIRS ? 2 : 1;
        heard(peer()); /* what belongs to the answer before: HTTP/2 acknowledges */
        for (size_t k = 0; k < together; k++) submit(h, &calls[k], url, play, i + (unsigned)k);
        p = play_answer(h, calls, together, p, end);
        for (size_t k = 0; k < together; k++) check(&calls[k]);
    }
    play_honest(h, honest);
    http_free(h);
    close_all(peer());
    fake_us = 0;
    return 0;
}
