#include "sinks/http.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "config/config.h"
#include "sinks/http_error.h"
#include "sinks/http_handle.h"
#include "sinks/http_loop.h"
#include "sinks/http_memory.h"
#include "worker/clock.h"
#include "worker/log.h"

#define HEADER_BYTES_MAX 65536 /* of one answer, interim answers and trailers included */
#define HEADER_LINES_MAX 500

enum transfer_state {
    TRANSFER_QUEUED, /* waits for a handle */
    TRANSFER_FLYING, /* with libcurl */
    TRANSFER_ENDED   /* has its outcome, done() is to come */
};

struct transfer {
    TAILQ_ENTRY(transfer) link;
    struct http *http;
    struct http_request *req;
    enum transfer_state state;
    struct outcome outcome;     /* once ended */
    struct http_handle *handle; /* while flying */
    const char *denied;
    int socket_errno;
    bool opened, sent, answered, head_done, headers_too_large;
    size_t header_bytes, header_lines;
};

TAILQ_HEAD(transfers, transfer);

struct http {
    const struct config *cfg;
    CURLM *multi;
    struct http_loop *loop;
    struct transfers queued, flying, ended;
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
    const curl_version_info_data *v = curl_version_info(CURLVERSION_NOW);
    if (!(v->features & CURL_VERSION_ASYNCHDNS))
        log_warn("libcurl resolves names one at a time: a slow name server delays every delivery; "
                 "use a build with the threaded resolver",
                 LOG_S("libcurl", v->version));
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

static struct str trim(struct str s) {
    while (s.n && strchr(" \t\r\n", s.p[s.n - 1])) s.n--;
    while (s.n && strchr(" \t", *s.p)) s.p++, s.n--;
    return s;
}

static void keep_header(struct http_request *req, struct str line) {
    const char *colon = memchr(line.p, ':', line.n);
    if (!colon) return;
    size_t name_len = (size_t)(colon - line.p);
    struct str value = trim((struct str){colon + 1, line.n - name_len - 1});
    if (name_len == 11 && strncasecmp(line.p, "retry-after", 11) == 0)
        req->retry_after_ms = http_retry_after(value, time(NULL));
    for (size_t i = 0; i < 4 && req->want_headers[i]; i++) {
        const char *want = req->want_headers[i];
        if (strlen(want) == name_len && strncasecmp(line.p, want, name_len) == 0)
            outcome_text(req->kept[i], sizeof req->kept[i], value);
    }
}

/* Called once per line: status lines, headers, the empty line behind, trailers. */
static size_t on_header(char *p, size_t size, size_t n, void *user) {
    const struct http_handle *handle = user;
    struct transfer *t = handle->transfer;
    struct str line = {p, size * n};
    t->answered = true;
    t->header_bytes += line.n;
    t->header_lines++;
    if (t->header_bytes > HEADER_BYTES_MAX || t->header_lines > HEADER_LINES_MAX) {
        t->headers_too_large = true;
        return CURL_WRITEFUNC_ERROR;
    }
    if (t->head_done) return line.n; /* a trailer */
    if (str_starts(line, "HTTP/")) {
        /* What an interim answer (1xx) said is void. */
        memset(t->req->kept, 0, sizeof t->req->kept);
        t->req->retry_after_ms = 0;
    } else if (trim(line).n == 0) {
        long status = 0;
        curl_easy_getinfo(handle->easy, CURLINFO_RESPONSE_CODE, &status);
        t->head_done = status >= 200;
    } else {
        keep_header(t->req, line);
    }
    return line.n;
}

static size_t on_body(char *p, size_t size, size_t n, void *user) {
    struct http_request *req = ((struct http_handle *)user)->transfer->req;
    size_t bytes = size * n;
    size_t room = req->answer.max - req->answer.n;
    buf_add(&req->answer, p, bytes < room ? bytes : room);
    if (bytes <= room) return bytes;
    req->answer_cut = true;
    return CURL_WRITEFUNC_ERROR;
}

/* --- A request's way: queued, flying, ended --- */

static void start(struct transfer *t) {
    struct http *h = t->http;
    t->handle = http_handle_new(&h->calls, h->cfg, h->changed_ms, t->req);
    t->handle->transfer = t;
    http_must((int)curl_multi_add_handle(h->multi, t->handle->easy), "another transfer");
    TAILQ_REMOVE(&h->queued, t, link);
    TAILQ_INSERT_TAIL(&h->flying, t, link);
    t->state = TRANSFER_FLYING;
    h->n_flying++;
}

static void start_queued(struct http *h) {
    struct transfer *t;
    while (h->n_flying < h->max_flying && (t = TAILQ_FIRST(&h->queued))) start(t);
}

/* From queued or flying to ended. */
static void end(struct transfer *t, struct outcome outcome) {
    struct http *h = t->http;
    if (t->state == TRANSFER_FLYING) {
        http_must((int)curl_multi_remove_handle(h->multi, t->handle->easy),
                  "the end of a transfer");
        http_handle_free(t->handle);
        t->handle = NULL;
        h->n_flying--;
        TAILQ_REMOVE(&h->flying, t, link);
    } else {
        TAILQ_REMOVE(&h->queued, t, link);
    }
    t->state = TRANSFER_ENDED;
    t->outcome = outcome;
    TAILQ_INSERT_TAIL(&h->ended, t, link);
}

static struct outcome cancelled(bool sent) {
    struct outcome o = outcome_fail(VERDICT_RETRY, FAULT_SYSTEM, "cancelled", "%s",
                                    sent ? "given up by the worker while it was under way"
                                         : "given up by the worker before it was sent");
    o.uncounted = !sent;
    return o;
}

static struct outcome judge(struct transfer *t, CURLcode code) {
    struct http_request *req = t->req;
    CURL *easy = t->handle->easy;
    long status = 0;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    bool cut = code == CURLE_WRITE_ERROR && req->answer_cut;
    /* To libcurl an answer that ends within its head is complete. */
    if ((code == CURLE_OK || cut) && t->head_done) {
        req->status = (int)status;
        return outcome_ok((int)status);
    }
    struct http_failure f = {.code = code == CURLE_OK ? CURLE_PARTIAL_FILE : code,
                             .denied = t->denied,
                             .opened = t->opened,
                             .sent = t->sent,
                             .answered = t->answered,
                             .headers_too_large = t->headers_too_large,
                             .proxied = t->http->cfg->egress_proxy[0] != '\0',
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
    h->calls =
        (struct http_calls){open_socket, close_socket, h, before_request, on_header, on_body};
    h->max_flying = (size_t)cfg->http_max_connections;
    TAILQ_INIT(&h->queued);
    TAILQ_INIT(&h->flying);
    TAILQ_INIT(&h->ended);
    h->multi = curl_multi_init();
    http_must(h->multi == NULL, "a new multi handle");
    h->loop = http_loop_new(h->multi);
    if (!h->loop) {
        fprintf(stderr, "runsink: epoll: %s\n", strerror(errno));
        abort();
    }
    SET_MULTI(h->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_MULTIPLEX);
    SET_MULTI(h->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)h->max_flying);
    SET_MULTI(h->multi, CURLMOPT_MAXCONNECTS, (long)h->max_flying);
    return h;
}

void http_free(struct http *h) {
    if (!h) return;
    h->closing = true;
    struct transfer *t;
    while ((t = TAILQ_FIRST(&h->queued)) || (t = TAILQ_FIRST(&h->flying)))
        end(t, cancelled(t->sent));
    while (!TAILQ_EMPTY(&h->ended)) deliver_ended(h);
    curl_multi_cleanup(h->multi);
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
        end(t, cancelled(false));
    else
        start_queued(h);
}

void http_cancel(struct http *h, struct http_request *req) {
    (void)h;
    struct transfer *t = req->transfer;
    if (!t || t->state == TRANSFER_ENDED) return;
    end(t, cancelled(t->sent));
}

void http_wake_by(struct http *h, int fd) {
    http_loop_wake_by(h->loop, fd);
}

void http_wait(struct http *h, int timeout_ms) {
    http_loop_wait(h->loop, TAILQ_EMPTY(&h->ended) ? timeout_ms : 0);
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
