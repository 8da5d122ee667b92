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

#include "config/config.h"
#include "sinks/http_error.h"
#include "sinks/http_memory.h"
#include "sinks/http_trace.h"
#include "worker/log.h"

#define HEADER_BYTES_MAX 65536 /* of one answer, interim answers and trailers included */
#define HEADER_LINES_MAX 500
#define LOW_SPEED 100 /* bytes/s; http.idle_timeout's help names it */
#define DNS_CACHE_S 30
#define CA_CACHE_S 86400

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
    struct outcome outcome; /* once ended */
    CURL *easy;             /* while flying */
    /* Put before the caller's headers: a name without value keeps curl from sending its own. */
    struct curl_slist quiet[2];
    const char *denied;
    int socket_errno;
    bool opened, sent, answered, head_done, headers_too_large;
    size_t header_bytes, header_lines;
    char text[CURL_ERROR_SIZE];
};

TAILQ_HEAD(transfers, transfer);

struct http {
    const struct config *cfg;
    CURLM *multi;
    struct transfers queued, flying, ended;
    size_t in_flight, n_flying, max_flying;
    CURL **idle; /* handles at rest, room for max_flying */
    size_t n_idle;
    int64_t flushed_ms; /* when the configuration last changed; 0: never */
    bool closing;
};

/* A setting that libcurl refuses is a bug or lack of memory. */
static void must(int code, const char *what) {
    if (code == 0) return;
    fprintf(stderr, "runsink: libcurl refused %s (code %d)\n", what, code);
    abort();
}

#define SET(easy, option, value) must((int)curl_easy_setopt(easy, option, value), #option)
#define SET_MULTI(multi, option, value) must((int)curl_multi_setopt(multi, option, value), #option)

static int64_t monotonic_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

void http_global_init(void) {
    must(http_memory_init(), "its initialisation");
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
    struct transfer *t = user;
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
    return fd;
}

/* The connection is ready and the request about to go out. A connection from the pool is judged
 * here by the rules of now: they may have changed since it was opened. */
static int before_request(void *user, char *ip, char *local_ip, int port, int local_port) {
    struct transfer *t = user;
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
    struct transfer *t = user;
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
        curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
        t->head_done = status >= 200;
    } else {
        keep_header(t->req, line);
    }
    return line.n;
}

static size_t on_body(char *p, size_t size, size_t n, void *user) {
    struct http_request *req = ((struct transfer *)user)->req;
    size_t bytes = size * n;
    size_t room = req->answer.max - req->answer.n;
    buf_add(&req->answer, p, bytes < room ? bytes : room);
    if (bytes <= room) return bytes;
    req->answer_cut = true;
    return CURL_WRITEFUNC_ERROR;
}

/* --- Setting a handle up --- */

/* Connections older than the last change of configuration are passed over: libcurl can't be told to
 * drop them, but it can be told how old one may be. Whole seconds; errs towards fresh ones. */
static void set_age(struct http *h, CURL *easy) {
    if (h->flushed_ms == 0) return;
    int64_t s = (monotonic_ms() - h->flushed_ms) / 1000;
    SET(easy, CURLOPT_FRESH_CONNECT, s < 2 ? 1L : 0L);
    if (s >= 2) SET(easy, CURLOPT_MAXLIFETIME_CONN, (long)(s - 1));
    /* Parsed CA bundles are kept in the multi handle by path, and may hold another content now. */
    SET(easy, CURLOPT_CA_CACHE_TIMEOUT, (long)(s < CA_CACHE_S ? s : CA_CACHE_S));
}

static void set_network(struct transfer *t) {
    const struct config *cfg = t->http->cfg;
    CURL *easy = t->easy;
    SET(easy, CURLOPT_NOSIGNAL, 1L);
    SET(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    SET(easy, CURLOPT_FOLLOWLOCATION, 0L);
    SET(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    SET(easy, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
    SET(easy, CURLOPT_PROXY, cfg->egress_proxy); /* empty: none, whatever the environment says */
    SET(easy, CURLOPT_NOPROXY, "");
    SET(easy, CURLOPT_HTTPPROXYTUNNEL, cfg->egress_proxy[0] ? 1L : 0L);
    SET(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    SET(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    SET(easy, CURLOPT_OPENSOCKETDATA, t);
    SET(easy, CURLOPT_PREREQFUNCTION, before_request);
    SET(easy, CURLOPT_PREREQDATA, t);
    SET(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    SET(easy, CURLOPT_DNS_CACHE_TIMEOUT, (long)DNS_CACHE_S);
    /* Giving up on a name must not wait for the resolver's thread: the lane would stand still for
     * as long as a tenant's name server wishes. */
    SET(easy, CURLOPT_QUICK_EXIT, 1L);
    SET(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)cfg->http_connect_timeout);
    SET(easy, CURLOPT_TIMEOUT_MS, (long)cfg->http_timeout);
    /* Not enough against a peer that drips: there the timeout above is the bound. */
    SET(easy, CURLOPT_LOW_SPEED_LIMIT, (long)LOW_SPEED);
    SET(easy, CURLOPT_LOW_SPEED_TIME, (long)(cfg->http_idle_timeout / 1000));
    set_age(t->http, easy);
}

static void set_tls(struct transfer *t) {
    const struct config *cfg = t->http->cfg;
    CURL *easy = t->easy;
    SET(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
    SET(easy, CURLOPT_SSL_VERIFYPEER, 1L);
    SET(easy, CURLOPT_SSL_VERIFYHOST, 2L);
    SET(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    /* The system's folder of certificates would be trusted beside http.ca_bundle; and libcurl
     * parses the bundle once instead of for each connection only when there is no folder. */
    SET(easy, CURLOPT_CAPATH, (char *)NULL);
    if (cfg->http_ca_bundle[0]) SET(easy, CURLOPT_CAINFO, cfg->http_ca_bundle);
    if (t->req->mtls && cfg->http_client_cert[0]) {
        SET(easy, CURLOPT_SSLCERT, cfg->http_client_cert);
        if (cfg->http_client_key[0]) SET(easy, CURLOPT_SSLKEY, cfg->http_client_key);
    }
}

/* libcurl's bounds; a small body needs no 64 KiB, which is the default. */
static long upload_buffer(size_t body) {
    return body < 16384 ? 16384 : body > 65536 ? 65536 : (long)body;
}

static void set_request(struct transfer *t) {
    const struct http_request *req = t->req;
    CURL *easy = t->easy;
    SET(easy, CURLOPT_URL, req->url);
    SET(easy, CURLOPT_PATH_AS_IS, 1L);
    SET(easy, CURLOPT_USERAGENT, "runsink/" RUNSINK_VERSION);
    if (strcmp(req->method, "GET") == 0) {
        SET(easy, CURLOPT_HTTPGET, 1L);
    } else {
        /* Not CURLOPT_UPLOAD, which asks for leave (Expect) and waits for it. Not copied. */
        SET(easy, CURLOPT_POST, 1L);
        SET(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)req->body_len);
        SET(easy, CURLOPT_UPLOAD_BUFFERSIZE, upload_buffer(req->body_len));
        SET(easy, CURLOPT_POSTFIELDS, req->body ? req->body : "");
        SET(easy, CURLOPT_CUSTOMREQUEST, req->method);
    }
    static char accept[] = "Accept:", expect[] = "Expect:";
    t->quiet[0] = (struct curl_slist){accept, &t->quiet[1]};
    t->quiet[1] = (struct curl_slist){expect, req->headers};
    SET(easy, CURLOPT_HTTPHEADER, t->quiet);
    SET(easy, CURLOPT_HTTP09_ALLOWED, 0L);
    SET(easy, CURLOPT_HEADERFUNCTION, on_header);
    SET(easy, CURLOPT_HEADERDATA, t);
    SET(easy, CURLOPT_WRITEFUNCTION, on_body);
    SET(easy, CURLOPT_WRITEDATA, t);
    SET(easy, CURLOPT_ERRORBUFFER, t->text);
    SET(easy, CURLOPT_PRIVATE, t);
    if (log_on(LOG_TRACE)) {
        SET(easy, CURLOPT_DEBUGFUNCTION, http_trace);
        SET(easy, CURLOPT_VERBOSE, 1L);
    }
}

/* --- A request's way: queued, flying, ended --- */

static void start(struct transfer *t) {
    struct http *h = t->http;
    t->easy = h->n_idle ? h->idle[--h->n_idle] : curl_easy_init();
    must(t->easy == NULL, "a new handle");
    set_network(t);
    set_tls(t);
    set_request(t);
    must((int)curl_multi_add_handle(h->multi, t->easy), "another transfer");
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
        must((int)curl_multi_remove_handle(h->multi, t->easy), "the end of a transfer");
        curl_easy_reset(t->easy);
        h->idle[h->n_idle++] = t->easy;
        t->easy = NULL;
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
    long status = 0;
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
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
                             .text = t->text};
    curl_easy_getinfo(t->easy, CURLINFO_OS_ERRNO, &f.os_errno);
    curl_easy_getinfo(t->easy, CURLINFO_HTTP_CONNECTCODE, &f.proxy_status);
    curl_easy_getinfo(t->easy, CURLINFO_SSL_VERIFYRESULT, &f.verify);
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
    h->max_flying = (size_t)cfg->http_max_connections;
    h->idle = xcalloc(h->max_flying, sizeof *h->idle);
    TAILQ_INIT(&h->queued);
    TAILQ_INIT(&h->flying);
    TAILQ_INIT(&h->ended);
    h->multi = curl_multi_init();
    must(h->multi == NULL, "a new multi handle");
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
    for (size_t i = 0; i < h->n_idle; i++) curl_easy_cleanup(h->idle[i]);
    curl_multi_cleanup(h->multi);
    free(h->idle);
    free(h);
}

void http_reconfigure(struct http *h, const struct config *cfg) {
    h->cfg = cfg;
    h->flushed_ms = monotonic_ms();
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
    if (!req->trusted && !egress_url(&h->cfg->egress, req->url, false, &refused))
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

void http_wait(struct http *h, int extra_fd, int timeout_ms) {
    struct curl_waitfd extra = {.fd = extra_fd, .events = CURL_WAIT_POLLIN};
    if (!TAILQ_EMPTY(&h->ended)) timeout_ms = 0;
    must((int)curl_multi_poll(h->multi, &extra, extra_fd < 0 ? 0 : 1, timeout_ms, NULL), "to wait");
}

void http_run(struct http *h) {
    int running, left;
    must((int)curl_multi_perform(h->multi, &running), "to move transfers");
    CURLMsg *m;
    while ((m = curl_multi_info_read(h->multi, &left))) {
        struct transfer *t = NULL;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &t);
        end(t, judge(t, m->data.result));
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
