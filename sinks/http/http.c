#include "sinks/http/http.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <malloc.h>
#include <netdb.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "config/config.h"
#include "sinks/egress.h"
#include "sinks/http/http_error.h"
#include "sinks/http/http_head.h"
#include "sinks/http/http_loop.h"
#include "sinks/http/resolver.h"
#include "worker/base/clock.h"
#include "worker/base/log.h"

#define LOW_SPEED 100    /* bytes/s; http.idle_timeout's help names it */
#define DNS_CACHE_S 60   /* ours are fresher: sinks/http/resolver.h */
#define PROXY_PORT 1080U /* libcurl's, where the URL has none */
#define CA_CACHE_S 86400

/* A handle of libcurl's, made for one transfer and thrown away with it: libcurl keeps more of an
 * answer in its handle than it clears for the next (in 7.88 a pointer into freed headers, which a
 * server could have read by a folded line), and the next transfer is another tenant's. Connections
 * are kept nevertheless: they belong to the multi handle. A new handle costs 2 us of CPU. */
struct handle {
    CURL *easy; /* its CURLINFO_PRIVATE is the handle */
    struct transfer *transfer;
    char text[CURL_ERROR_SIZE]; /* what libcurl says of an error */
    /* What the headers begin with: a name without value keeps libcurl from sending its own. */
    struct curl_slist quiet[2];
    struct curl_slist addresses; /* one "host:port:addresses" */
    char addresses_text[RESOLVER_NAME_MAX + RESOLVER_LIST_SIZE + 16];
};

/* Where a request's connection goes: its URL's host, or the egress proxy. */
struct target {
    struct str host; /* without brackets */
    unsigned port;
    bool fixed; /* an address, or localhost: nobody needs to look it up */
};

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
    struct outcome outcome; /* once ended */
    struct handle *handle;  /* while flying */
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

/* --- libcurl's memory --- */

/* It copies URLs, headers and whole requests, and frees them as they are: so that no tenant's
 * secret stays behind, what it gives back is overwritten first. */

/* Not wipe(), which goes word by word: these are 40 KiB for each transfer. */
static void give_back(void *p) {
    if (p) explicit_bzero(p, malloc_usable_size(p));
    free(p);
}

static void *resize(void *old, size_t n) {
    size_t have = old ? malloc_usable_size(old) : 0;
    if (old && n && n <= have) return old;
    void *p = malloc(n ? n : 1);
    if (!p) return NULL;
    if (have) memcpy(p, old, have < n ? have : n);
    give_back(old);
    return p;
}

static char *copy(const char *s) {
    size_t n = strlen(s) + 1;
    char *p = malloc(n);
    return p ? memcpy(p, s, n) : NULL;
}

void http_global_init(void) {
    must((int)curl_global_init_mem(CURL_GLOBAL_DEFAULT, malloc, give_back, resize, copy, calloc),
         "its initialisation");
    /* CURLOPT_NOSIGNAL leaves a write to a closed TLS connection to the application. */
    signal(SIGPIPE, SIG_IGN);
}

/* --- What libcurl calls --- */

static curl_socket_t open_socket(void *user, curlsocktype purpose, struct curl_sockaddr *to) {
    struct transfer *t = ((struct handle *)user)->transfer;
    const struct config *cfg = t->http->cfg;
    (void)purpose;
    /* An egress proxy is the operator's choice, and decides on addresses in our target. */
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
    return ((struct handle *)user)->transfer->looked_up;
}

/* The connection is ready and the request about to go out. A connection from the pool is judged
 * here by the rules of now: they may have changed since it was opened. */
static int before_request(void *user, char *ip, char *local_ip, int port, int local_port) {
    struct transfer *t = ((struct handle *)user)->transfer;
    const struct config *cfg = t->http->cfg;
    (void)local_ip;
    (void)local_port;
    struct cidr address;
    t->opened = true;
    if (!cfg->egress_proxy[0] && !t->req->trusted) {
        if (!cidr_parse(str_c(ip), &address))
            return CURL_PREREQFUNC_ABORT; /* gone again: no address to ask for */
        t->denied = egress_bytes(&cfg->egress, address.addr, (uint16_t)port);
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
 * end ends is not read for the connection's sake, which could not be used again. */
static bool end_head(struct transfer *t) {
    struct http *h = t->http;
    if (!decided(t)) return true;
    if (t->req->needs == HTTP_ERROR && t->head.status / 100 != 2) return true;
    if (!t->head.framed && t->req->needs == HTTP_HEAD) return false;
    t->resting = true;
    t->until_ms = clock_ms(CLOCK_MONOTONIC) + h->cfg->http_answer_wait;
    TAILQ_INSERT_TAIL(&h->resting, t, resting_link);
    return true;
}

static size_t on_header(char *p, size_t size, size_t n, void *user) {
    struct handle *handle = user;
    struct transfer *t = handle->transfer;
    bool was_over = t->head.status != 0;
    bool on = http_head_line(&t->head, handle->easy, (struct str){p, size * n}) &&
              (was_over || !t->head.status || end_head(t));
    return on ? size * n : CURL_WRITEFUNC_ERROR;
}

static size_t on_body(char *p, size_t size, size_t n, void *user) {
    struct transfer *t = ((struct handle *)user)->transfer;
    struct buf *answer = &t->req->answer;
    size_t bytes = size * n, room = answer->max - t->body_bytes;
    size_t taken = bytes < room ? bytes : room;
    if (t->req->needs != HTTP_HEAD) buf_add(answer, p, taken);
    t->body_bytes += taken;
    if (bytes <= room) return bytes;
    t->req->answer_cut = true;
    return CURL_WRITEFUNC_ERROR;
}

/* --- What log.level trace shows --- */

/* Header lines that help who looks for a fault. All others may hold a secret: the scrubber knows
 * the registered ones, but a form that it does not know must not depend on it. */
static bool may_show(struct str line) {
    static const char *const starts[] = {
        "HTTP/",       "host:",        "content-",    "date:",
        "server:",     "connection:",  "user-agent:", "transfer-encoding:",
        "webhook-id:", "retry-after:", "x-amz-id-2:", "x-amz-request-id:"};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        size_t n = strlen(starts[i]);
        if (line.n >= n && strncasecmp(line.p, starts[i], n) == 0) return true;
    }
    return false;
}

static const char *source(curl_infotype type) {
    return type == CURLINFO_TEXT ? "libcurl" : type == CURLINFO_HEADER_IN ? "answer" : "request";
}

static int trace(CURL *easy, curl_infotype type, char *p, size_t n, void *user) {
    (void)easy;
    (void)user;
    if (type != CURLINFO_TEXT && type != CURLINFO_HEADER_IN && type != CURLINFO_HEADER_OUT)
        return 0;
    /* libcurl remarks on each header of an HTTP/2 request, in brackets. */
    if (type == CURLINFO_TEXT && memchr(p, '[', n)) return 0;
    for (const char *end = p + n, *next; p < end; p += next - p) {
        const char *nl = memchr(p, '\n', (size_t)(end - p));
        next = nl ? nl + 1 : end;
        struct str line = {p, (size_t)(next - p)};
        while (line.n && strchr("\r\n", line.p[line.n - 1])) line.n--;
        if (line.n && (type == CURLINFO_TEXT || may_show(line)))
            log_trace("http", LOG_S("from", source(type)), LOG_N("line", line));
    }
    return 0;
}

/* --- A handle for a transfer --- */

static void set_network(CURL *easy, const struct config *cfg) {
    SET(easy, CURLOPT_NOSIGNAL, 1L);
    SET(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    SET(easy, CURLOPT_FOLLOWLOCATION, 0L);
    SET(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    SET(easy, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L);
    SET(easy, CURLOPT_PROXY, cfg->egress_proxy); /* empty: none, whatever the environment says */
    SET(easy, CURLOPT_NOPROXY, "");
    SET(easy, CURLOPT_HTTPPROXYTUNNEL, cfg->egress_proxy[0] ? 1L : 0L);
    SET(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
    SET(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    /* Counted from when an address was given; it is needed as long as no connection is made. */
    SET(easy, CURLOPT_DNS_CACHE_TIMEOUT, (long)(DNS_CACHE_S + cfg->http_connect_timeout / 1000));
    SET(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)cfg->http_connect_timeout);
    SET(easy, CURLOPT_TIMEOUT_MS, (long)cfg->http_timeout);
    /* Not enough against a peer that drips: there the timeout above is the bound. */
    SET(easy, CURLOPT_LOW_SPEED_LIMIT, (long)LOW_SPEED);
    SET(easy, CURLOPT_LOW_SPEED_TIME, (long)(cfg->http_idle_timeout / 1000));
}

static void set_tls(CURL *easy, const struct config *cfg, bool mtls) {
    SET(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
    SET(easy, CURLOPT_SSL_VERIFYPEER, 1L);
    SET(easy, CURLOPT_SSL_VERIFYHOST, 2L);
    SET(easy, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    /* The system's folder of certificates would be trusted beside http.ca_bundle; and libcurl
     * parses the bundle once instead of for each connection only when there is no folder. */
    SET(easy, CURLOPT_CAPATH, (char *)NULL);
    if (cfg->http_ca_bundle[0]) SET(easy, CURLOPT_CAINFO, cfg->http_ca_bundle);
    if (mtls && cfg->http_client_cert[0]) {
        SET(easy, CURLOPT_SSLCERT, cfg->http_client_cert);
        if (cfg->http_client_key[0]) SET(easy, CURLOPT_SSLKEY, cfg->http_client_key);
    }
}

static void set_calls(struct handle *h, struct http *http) {
    CURL *easy = h->easy;
    SET(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    SET(easy, CURLOPT_OPENSOCKETDATA, h);
    SET(easy, CURLOPT_CLOSESOCKETFUNCTION, close_socket);
    SET(easy, CURLOPT_CLOSESOCKETDATA, http);
    SET(easy, CURLOPT_PREREQFUNCTION, before_request);
    SET(easy, CURLOPT_PREREQDATA, h);
    SET(easy, CURLOPT_RESOLVER_START_FUNCTION, look_up);
    SET(easy, CURLOPT_RESOLVER_START_DATA, h);
    SET(easy, CURLOPT_HEADERFUNCTION, on_header);
    SET(easy, CURLOPT_HEADERDATA, h);
    SET(easy, CURLOPT_WRITEFUNCTION, on_body);
    SET(easy, CURLOPT_WRITEDATA, h);
    SET(easy, CURLOPT_ERRORBUFFER, h->text);
    SET(easy, CURLOPT_PRIVATE, h);
}

static bool is_get(const char *method) {
    return strcmp(method, "GET") == 0;
}

static void set_http(CURL *easy, const char *method) {
    SET(easy, CURLOPT_PATH_AS_IS, 1L);
    SET(easy, CURLOPT_USERAGENT, "runsink/" RUNSINK_VERSION);
    SET(easy, CURLOPT_HTTP09_ALLOWED, 0L);
    if (is_get(method)) {
        SET(easy, CURLOPT_HTTPGET, 1L);
    } else {
        /* Not CURLOPT_UPLOAD, which asks for leave (Expect) and waits for it. */
        SET(easy, CURLOPT_POST, 1L);
        SET(easy, CURLOPT_CUSTOMREQUEST, method);
    }
    if (log_on(LOG_TRACE)) {
        SET(easy, CURLOPT_DEBUGFUNCTION, trace);
        SET(easy, CURLOPT_VERBOSE, 1L);
    }
}

/* Connections older than the last change of configuration are passed over: libcurl can't be told to
 * drop them, but it can be told how old one may be. Whole seconds; errs towards fresh ones. */
static void set_age(CURL *easy, int64_t changed_ms) {
    if (changed_ms == 0) return;
    int64_t s = (clock_ms(CLOCK_MONOTONIC) - changed_ms) / 1000;
    SET(easy, CURLOPT_FRESH_CONNECT, s < 2 ? 1L : 0L);
    if (s >= 2) SET(easy, CURLOPT_MAXLIFETIME_CONN, (long)(s - 1));
    /* Parsed CA bundles are kept in the multi handle by path, and may hold another content now. */
    SET(easy, CURLOPT_CA_CACHE_TIMEOUT, (long)(s < CA_CACHE_S ? s : CA_CACHE_S));
}

/* libcurl's bounds; a small body needs no 64 KiB, which is the default. */
static long upload_buffer(size_t body) {
    return body < 16384 ? 16384 : body > 65536 ? 65536 : (long)body;
}

static void set_request(struct handle *h, const struct http_request *req) {
    CURL *easy = h->easy;
    SET(easy, CURLOPT_URL, req->url);
    if (!is_get(req->method)) { /* the body is not copied */
        SET(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)req->body_len);
        SET(easy, CURLOPT_UPLOAD_BUFFERSIZE, upload_buffer(req->body_len));
        SET(easy, CURLOPT_POSTFIELDS, req->body ? req->body : "");
    }
    static char accept[] = "Accept:", expect[] = "Expect:";
    h->quiet[0] = (struct curl_slist){accept, &h->quiet[1]};
    h->quiet[1] = (struct curl_slist){expect, req->headers};
    SET(easy, CURLOPT_HTTPHEADER, h->quiet);
}

/* egress_url() has read an event's URL before, by stricter rules. Should libcurl ever read another
 * host than this, it finds no address for it. */
static struct target target_of(const struct config *cfg, const struct http_request *req) {
    bool proxied = cfg->egress_proxy[0] != '\0';
    struct str url = str_c(proxied ? cfg->egress_proxy : req->url), rest;
    bool https = strncasecmp(url.p, "https:", 6) == 0;
    struct target target = {.port = https ? 443 : proxied ? PROXY_PORT : 80};
    const char *from = strstr(url.p, "://");
    rest = str_c(from ? from + 3 : url.p);
    rest.n = strcspn(rest.p, "/?#");
    for (const char *at; (at = memchr(rest.p, '@', rest.n));)
        rest = (struct str){at + 1, rest.n - (size_t)(at + 1 - rest.p)};
    const char *bracket = rest.n && *rest.p == '[' ? memchr(rest.p, ']', rest.n) : NULL;
    const char *host_end = bracket ? bracket + 1 : rest.p;
    const char *colon = memchr(host_end, ':', rest.n - (size_t)(host_end - rest.p));
    target.host = (struct str){rest.p, colon ? (size_t)(colon - rest.p) : rest.n};
    if (colon) target.port = (unsigned)strtoul(colon + 1, NULL, 10);
    char text[INET_ADDRSTRLEN] = "";
    struct in_addr address;
    if (target.host.n < sizeof text) memcpy(text, target.host.p, target.host.n);
    target.fixed = bracket || target.host.n == 0 || target.host.n > RESOLVER_NAME_MAX ||
                   egress_is_localhost(target.host) ||
                   (target.host.n < sizeof text && inet_pton(AF_INET, text, &address) == 1);
    return target;
}

static void give_addresses(struct handle *h, const struct target *target, const char *list) {
    snprintf(h->addresses_text, sizeof h->addresses_text, "+%.*s:%u:%s", (int)target->host.n,
             target->host.p, target->port, list);
    h->addresses = (struct curl_slist){h->addresses_text, NULL};
    SET(h->easy, CURLOPT_RESOLVE, &h->addresses);
}

static struct handle *handle_new(struct http *http, const struct http_request *req) {
    struct handle *h = xcalloc(1, sizeof *h);
    h->easy = curl_easy_init();
    must(h->easy == NULL, "a new handle");
    set_network(h->easy, http->cfg);
    set_tls(h->easy, http->cfg, req->mtls);
    set_http(h->easy, req->method);
    set_calls(h, http);
    set_age(h->easy, http->changed_ms);
    set_request(h, req);
    return h;
}

static void handle_free(struct handle *h) {
    if (!h) return;
    curl_easy_cleanup(h->easy);
    wipe(h->text, sizeof h->text); /* may quote the host */
    free(h);
}

/* --- A request's way: queued, flying, ended --- */

static void move(struct transfer *t, struct transfers *from, struct transfers *to,
                 enum transfer_state state) {
    TAILQ_REMOVE(from, t, link);
    TAILQ_INSERT_TAIL(to, t, link);
    t->state = state;
}

static void start(struct transfer *t, const struct target *target, const char *addresses) {
    struct http *h = t->http;
    t->handle = handle_new(h, t->req);
    t->handle->transfer = t;
    t->looked_up = addresses != NULL;
    if (addresses) give_addresses(t->handle, target, addresses);
    must((int)curl_multi_add_handle(h->multi, t->handle->easy), "another transfer");
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
        end(t, http_no_address(code, target_of(h->cfg, t->req).host, proxied(h)));
}

/* The first of the queue: flies, or waits for addresses, or ends. */
static void start_or_ask(struct transfer *t) {
    struct http *h = t->http;
    struct target target = target_of(h->cfg, t->req);
    const char *addresses = NULL;
    t->naming.done = on_resolved;
    switch (target.fixed ? RESOLVED
                         : resolver_ask(h->resolver, target.host, t->req->workspace, &t->naming,
                                        &addresses)) {
    case RESOLVED:
        start(t, &target, addresses);
        break;
    case RESOLVED_LATER:
        t->until_ms = clock_ms(CLOCK_MONOTONIC) + h->cfg->http_connect_timeout;
        move(t, &h->queued, &h->naming, TRANSFER_NAMING);
        break;
    case RESOLVED_FULL:
        end(t, http_no_address(EAI_CANCELED, target.host, proxied(h)));
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
        must((int)curl_multi_remove_handle(h->multi, t->handle->easy), "the end of a transfer");
        handle_free(t->handle);
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
                             .host = target_of(t->http->cfg, t->req).host,
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
        // NOLINTNEXTLINE(clang-analyzer-unix.Malloc): it leaves the list before it is freed
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
    h->max_flying = (size_t)cfg->http_max_connections;
    TAILQ_INIT(&h->queued);
    TAILQ_INIT(&h->naming);
    TAILQ_INIT(&h->flying);
    TAILQ_INIT(&h->resting);
    TAILQ_INIT(&h->ended);
    h->multi = curl_multi_init();
    must(h->multi == NULL, "a new multi handle");
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
    must((int)http_loop_run(h->loop), "to move transfers");
    CURLMsg *m;
    while ((m = curl_multi_info_read(h->multi, &left))) {
        struct handle *handle = NULL;
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
