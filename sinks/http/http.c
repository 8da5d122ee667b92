#include "sinks/http/http.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "config/config.h"
#include "sinks/egress.h"
#include "sinks/http/http_error.h"
#include "sinks/http/http_handle.h"
#include "sinks/http/http_head.h"
#include "sinks/http/http_loop.h"
#include "sinks/http/http_memory.h"
#include "worker/base/clock.h"
#include "worker/base/log.h"

enum transfer_state {
    TRANSFER_QUEUED, /* waits for its turn */
    TRANSFER_NAMING, /* waits for its host's addresses */
    TRANSFER_FLYING, /* with libcurl */
    TRANSFER_ENDED   /* has its outcome, done() is to come */
};

struct transfer {
    TAILQ_ENTRY(transfer) link;
    TAILQ_ENTRY(transfer) resting_link;
    struct resolver_wait naming;
    struct http *http;
    struct http_request *req;
    enum transfer_state state;
    struct outcome outcome;     /* once ended */
    struct http_handle *handle; /* while flying */
    const char *denied;
    int socket_errno;
    bool opened, sent;
    struct http_head head;
    size_t body_bytes;
    bool resting;     /* what counts has come, and the rest of the body is waited for */
    int64_t until_ms; /* naming, resting */
    bool looked_up;   /* libcurl was told the addresses, and is to ask for none */
};

TAILQ_HEAD(transfers, transfer);

struct http {
    const struct config *cfg;
    CURLM *multi;
    struct http_loop *loop;
    struct resolver *resolver;
    struct transfers queued, naming, flying, ended;
    struct transfers resting; /* of those flying, first come first */
    size_t in_flight, n_flying, max_flying;
    unsigned rules;     /* counts configurations, from 1 */
    int64_t changed_ms; /* when the configuration last changed; 0: never */
    struct http_calls calls;
    bool closing;
};

#define SET_MULTI(multi, option, value)                                                            \
    http_must((int)curl_multi_setopt(multi, option, value), #option)

void http_global_init(void) {
    http_must(http_memory_init(), "its initialisation");
    /* CURLOPT_NOSIGNAL leaves a write to a closed TLS connection to the application. */
    signal(SIGPIPE, SIG_IGN);
}

/* --- What libcurl calls --- */

static curl_socket_t open_socket(void *user, curlsocktype purpose, struct curl_sockaddr *to) {
    struct transfer *t = ((struct http_handle *)user)->transfer;
    const struct config *cfg = t->http->cfg;
    (void)purpose;
    /* An egress proxy is the operator's choice, and decides on addresses in our place. */
    if (!cfg->egress_proxy[0] && !t->req->trusted) {
        const char *denied = egress_address(&cfg->egress, &to->addr);
        if (denied) {
            t->denied = denied;
            return CURL_SOCKET_BAD;
        }
    }
    int fd = socket(to->family, to->socktype | SOCK_CLOEXEC, to->protocol);
    if (fd < 0) {
        t->socket_errno = errno;
        return CURL_SOCKET_BAD;
    }
    t->opened = true;
    http_loop_opened(t->http->loop, fd);
    return fd;
}

/* user is the multi handle's, not a transfer's: a pooled connection outlives them. */
static int close_socket(void *user, curl_socket_t fd) {
    http_loop_closing(((struct http *)user)->loop, fd);
    return close(fd);
}

/* libcurl has no address for a host. Its own resolver starts a thread for each transfer: it is left
 * to the addresses and names that need no name server. */
static int look_up(void *state, void *reserved, void *user) {
    (void)state;
    (void)reserved;
    return ((struct http_handle *)user)->transfer->looked_up;
}

/* The connection is ready and the request about to go out. A connection from the pool is judged
 * here by the rules of now: they may have changed since it was opened. */
static int before_request(void *user, char *ip, char *local_ip, int port, int local_port) {
    struct transfer *t = ((struct http_handle *)user)->transfer;
    const struct config *cfg = t->http->cfg;
    (void)local_ip;
    (void)local_port;
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port)};
    const struct sockaddr *sa = NULL;
    if (inet_pton(AF_INET, ip, &in.sin_addr) == 1)
        sa = (const struct sockaddr *)&in;
    else if (inet_pton(AF_INET6, ip, &in6.sin6_addr) == 1)
        sa = (const struct sockaddr *)&in6;
    t->opened = true;
    if (!cfg->egress_proxy[0] && !t->req->trusted) {
        if (!sa) return CURL_PREREQFUNC_ABORT; /* gone again: no address to ask for */
        t->denied = egress_address(&cfg->egress, sa);
        if (t->denied) return CURL_PREREQFUNC_ABORT;
    }
    t->sent = true;
    return CURL_PREREQFUNC_OK;
}

/* Whether the answer counts as it stands, however the transfer ends from here. A receiver that says
 * 2xx to half a request and hangs up has not taken it. */
static bool decided(const struct transfer *t) {
    if (t->head.status == 0 || t->req->needs == HTTP_WHOLE) return false;
    if (t->head.status / 100 != 2) return true;
    curl_off_t up = 0;
    curl_easy_getinfo(t->handle->easy, CURLINFO_SIZE_UPLOAD_T, &up);
    return up >= (curl_off_t)t->req->body_len;
}

/* The final head has ended. False: there is nothing to wait for. A body that only the connection's
 * end ends is not read for its own sake: the connection could not be used again. */
static bool end_head(struct transfer *t) {
    struct http *h = t->http;
    if (!decided(t)) return true;
    if (t->req->needs == HTTP_ERROR && t->head.status / 100 != 2) return true;
    if (!t->head.framed) return false;
    t->resting = true;
    t->until_ms = clock_ms(CLOCK_MONOTONIC) + h->cfg->http_answer_wait;
    TAILQ_INSERT_TAIL(&h->resting, t, resting_link);
    return true;
}

static size_t on_header(char *p, size_t size, size_t n, void *user) {
    struct http_handle *handle = user;
    struct transfer *t = handle->transfer;
    bool was_over = t->head.status != 0;
    bool on = http_head_line(&t->head, handle->easy, (struct str){p, size * n}) &&
              (was_over || !t->head.status || end_head(t));
    return on ? size * n : CURL_WRITEFUNC_ERROR;
}

static size_t on_body(char *p, size_t size, size_t n, void *user) {
    struct transfer *t = ((struct http_handle *)user)->transfer;
    struct buf *answer = &t->req->answer;
    size_t bytes = size * n, room = answer->max - t->body_bytes;
    size_t taken = bytes < room ? bytes : room;
    if (t->req->needs != HTTP_HEAD) buf_add(answer, p, taken);
    t->body_bytes += taken;
    if (bytes <= room) return bytes;
    t->req->answer_cut = true;
    return CURL_WRITEFUNC_ERROR;
}

/* --- A request's way: queued, flying, ended --- */

static void move(struct transfer *t, struct transfers *from, struct transfers *to,
                 enum transfer_state state) {
    TAILQ_REMOVE(from, t, link);
    TAILQ_INSERT_TAIL(to, t, link);
    t->state = state;
}

static void start(struct transfer *t, const struct http_place *place, const char *addresses) {
    struct http *h = t->http;
    t->handle = http_handle_new(&h->calls, h->cfg, h->changed_ms, t->req);
    t->handle->transfer = t;
    t->looked_up = addresses != NULL;
    if (addresses) http_handle_addresses(t->handle, place, addresses);
    http_must((int)curl_multi_add_handle(h->multi, t->handle->easy), "another transfer");
    move(t, &h->queued, &h->flying, TRANSFER_FLYING);
    h->n_flying++;
}

static bool proxied(const struct http *h) {
    return h->cfg->egress_proxy[0] != '\0';
}

static void end(struct transfer *, struct outcome);

static void on_resolved(struct resolver_wait *w, int code) {
    struct transfer *t = (struct transfer *)(void *)((char *)w - offsetof(struct transfer, naming));
    struct http *h = t->http;
    if (code == 0)
        move(t, &h->naming, &h->queued, TRANSFER_QUEUED);
    else
        end(t, http_no_address(code, http_place(h->cfg, t->req).host, proxied(h)));
}

/* The first of the queue: flies, or waits for addresses, or ends. */
static void start_or_ask(struct transfer *t) {
    struct http *h = t->http;
    struct http_place place = http_place(h->cfg, t->req);
    const char *addresses = NULL;
    t->naming.done = on_resolved;
    switch (place.fixed ? RESOLVED
                        : resolver_ask(h->resolver, place.host, &t->naming, &addresses)) {
    case RESOLVED:
        start(t, &place, addresses);
        break;
    case RESOLVED_LATER:
        t->until_ms = clock_ms(CLOCK_MONOTONIC) + h->cfg->http_connect_timeout;
        move(t, &h->queued, &h->naming, TRANSFER_NAMING);
        break;
    case RESOLVED_FULL:
        end(t, http_no_address(EAI_CANCELED, place.host, proxied(h)));
        break;
    }
}

static void start_queued(struct http *h) {
    struct transfer *t;
    while (h->n_flying < h->max_flying && (t = TAILQ_FIRST(&h->queued))) start_or_ask(t);
}

/* Those whose names took too long. */
static void end_naming(struct http *h) {
    struct transfer *t = TAILQ_FIRST(&h->naming);
    if (!t) return;
    for (int64_t now = clock_ms(CLOCK_MONOTONIC); t && t->until_ms <= now;
         t = TAILQ_FIRST(&h->naming)) {
        int code = resolver_begun(&t->naming) ? EAI_INPROGRESS : EAI_CANCELED;
        on_resolved(&t->naming, resolver_leave(h->resolver, &t->naming) ? 0 : code);
    }
}

/* From anywhere to ended. */
static void end(struct transfer *t, struct outcome outcome) {
    struct http *h = t->http;
    struct transfers *from = &h->queued;
    if (t->state == TRANSFER_NAMING) {
        resolver_leave(h->resolver, &t->naming);
        from = &h->naming;
    } else if (t->state == TRANSFER_FLYING) {
        if (t->resting) TAILQ_REMOVE(&h->resting, t, resting_link);
        http_must((int)curl_multi_remove_handle(h->multi, t->handle->easy),
                  "the end of a transfer");
        http_handle_free(t->handle);
        t->handle = NULL;
        h->n_flying--;
        from = &h->flying;
    }
    t->outcome = outcome;
    move(t, from, &h->ended, TRANSFER_ENDED);
}

static struct outcome answered(struct transfer *t) {
    t->req->status = t->head.status;
    t->req->retry_after_ms = t->head.retry_after_ms;
    return outcome_ok(t->head.status);
}

/* Ends it before libcurl does. */
static void give_up(struct transfer *t) {
    if (decided(t)) {
        end(t, answered(t));
        return;
    }
    struct outcome o = outcome_fail(VERDICT_RETRY, FAULT_SYSTEM, "cancelled", "%s",
                                    t->sent ? "given up by the worker while it was under way"
                                            : "given up by the worker before it was sent");
    o.uncounted = !t->sent;
    end(t, o);
}

static struct outcome judge(struct transfer *t, CURLcode code) {
    CURL *easy = t->handle->easy;
    bool cut = code == CURLE_WRITE_ERROR && t->req->answer_cut;
    /* To libcurl an answer that ends within its head is complete. */
    if (decided(t) || ((code == CURLE_OK || cut) && t->head.status)) return answered(t);
    struct http_failure f = {.code = code == CURLE_OK ? CURLE_PARTIAL_FILE : code,
                             .denied = t->denied,
                             .opened = t->opened,
                             .sent = t->sent,
                             .answered = t->head.begun,
                             .headers_too_large = t->head.too_large,
                             .proxied = proxied(t->http),
                             .host = http_place(t->http->cfg, t->req).host,
                             .socket_errno = t->socket_errno,
                             .text = t->handle->text};
    curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &f.os_errno);
    curl_easy_getinfo(easy, CURLINFO_HTTP_CONNECTCODE, &f.proxy_status);
    curl_easy_getinfo(easy, CURLINFO_SSL_VERIFYRESULT, &f.verify);
    return http_error(&f);
}

static void deliver_ended(struct http *h) {
    /* Only those that are here now: done() may end others. */
    struct transfers now = TAILQ_HEAD_INITIALIZER(now);
    TAILQ_CONCAT(&now, &h->ended, link);
    struct transfer *t;
    while ((t = TAILQ_FIRST(&now))) {
        struct http_request *req = t->req;
        struct outcome o = t->outcome;
        TAILQ_REMOVE(&now, t, link);
        free(t);
        req->transfer = NULL;
        h->in_flight--;
        req->done(req, &o);
    }
}

struct http *http_new(const struct config *cfg) {
    struct http *h = xcalloc(1, sizeof *h);
    h->cfg = cfg;
    h->rules = 1;
    h->calls = (struct http_calls){open_socket, close_socket, h,      before_request,
                                   look_up,     on_header,    on_body};
    h->max_flying = (size_t)cfg->http_max_connections;
    TAILQ_INIT(&h->queued);
    TAILQ_INIT(&h->naming);
    TAILQ_INIT(&h->flying);
    TAILQ_INIT(&h->resting);
    TAILQ_INIT(&h->ended);
    h->multi = curl_multi_init();
    http_must(h->multi == NULL, "a new multi handle");
    h->loop = http_loop_new(h->multi);
    if (!h->loop) {
        fprintf(stderr, "runsink: epoll: %s\n", strerror(errno));
        abort();
    }
    h->resolver = resolver_new(cfg);
    http_loop_wake_by(h->loop, resolver_fd(h->resolver));
    SET_MULTI(h->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_MULTIPLEX);
    SET_MULTI(h->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)h->max_flying);
    SET_MULTI(h->multi, CURLMOPT_MAXCONNECTS, (long)h->max_flying);
    return h;
}

void http_free(struct http *h) {
    if (!h) return;
    h->closing = true;
    struct transfer *t;
    while ((t = TAILQ_FIRST(&h->queued)) || (t = TAILQ_FIRST(&h->naming)) ||
           (t = TAILQ_FIRST(&h->flying)))
        give_up(t);
    while (!TAILQ_EMPTY(&h->ended)) deliver_ended(h);
    curl_multi_cleanup(h->multi);
    resolver_free(h->resolver);
    http_loop_free(h->loop);
    free(h);
}

void http_reconfigure(struct http *h, const struct config *cfg) {
    h->cfg = cfg;
    h->rules++;
    h->changed_ms = clock_ms(CLOCK_MONOTONIC);
}

static bool may_reach(const struct http *h, const struct http_request *req,
                      struct outcome *reterr) {
    if (req->trusted || (req->passed && *req->passed == h->rules)) return true;
    if (!egress_url(&h->cfg->egress, req->url, false, reterr)) return false;
    if (req->passed) *req->passed = h->rules;
    return true;
}

void http_submit(struct http *h, struct http_request *req) {
    struct transfer *t = xcalloc(1, sizeof *t);
    t->http = h;
    t->req = req;
    t->head.want = req->want_headers;
    t->head.kept = req->kept;
    req->transfer = t;
    req->status = 0;
    req->answer_cut = false;
    req->retry_after_ms = 0;
    memset(req->kept, 0, sizeof req->kept);
    buf_free(&req->answer);
    buf_init_secret(&req->answer, (size_t)h->cfg->http_response_max);
    TAILQ_INSERT_TAIL(&h->queued, t, link);
    h->in_flight++;
    /* Sinks have checked it, but under the rules of then; and behind an egress proxy no address of
     * the host is ever seen here, so one that is written in the URL is judged now. */
    struct outcome refused;
    if (!may_reach(h, req, &refused))
        end(t, refused);
    else if (h->closing)
        give_up(t);
    else
        start_queued(h);
}

void http_cancel(struct http *h, struct http_request *req) {
    (void)h;
    struct transfer *t = req->transfer;
    if (!t || t->state == TRANSFER_ENDED) return;
    give_up(t);
}

void http_wake_by(struct http *h, int fd) {
    http_loop_wake_by(h->loop, fd);
}

/* The time left until the first of a list is due, or timeout_ms. */
static int sooner(const struct transfers *list, int timeout_ms) {
    const struct transfer *t = TAILQ_FIRST(list);
    if (!t) return timeout_ms;
    int64_t left = t->until_ms - clock_ms(CLOCK_MONOTONIC);
    return left >= timeout_ms ? timeout_ms : left > 0 ? (int)left : 0;
}

void http_wait(struct http *h, int timeout_ms) {
    if (!TAILQ_EMPTY(&h->ended)) timeout_ms = 0;
    http_loop_wait(h->loop, sooner(&h->resting, sooner(&h->naming, timeout_ms)));
}

static void end_resting(struct http *h) {
    struct transfer *t = TAILQ_FIRST(&h->resting);
    if (!t) return;
    for (int64_t now = clock_ms(CLOCK_MONOTONIC); t && t->until_ms <= now;
         t = TAILQ_FIRST(&h->resting))
        end(t, answered(t));
}

void http_run(struct http *h) {
    int left;
    http_must((int)http_loop_run(h->loop), "to move transfers");
    CURLMsg *m;
    while ((m = curl_multi_info_read(h->multi, &left))) {
        struct http_handle *handle = NULL;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &handle);
        end(handle->transfer, judge(handle->transfer, m->data.result));
    }
    end_resting(h);
    resolver_run(h->resolver);
    end_naming(h);
    start_queued(h);
    deliver_ended(h);
}

size_t http_in_flight(const struct http *h) {
    return h->in_flight;
}

void http_request_clear(struct http_request *req) {
    for (struct curl_slist *l = req->headers; l; l = l->next) wipe(l->data, strlen(l->data));
    curl_slist_free_all(req->headers);
    req->headers = NULL;
    buf_wipe(&req->answer);
}
