#include "sinks/http/http_handle.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "config/config.h"
#include "sinks/http/http_trace.h"
#include "worker/base/clock.h"
#include "worker/base/log.h"

#define LOW_SPEED 100    /* bytes/s; http.idle_timeout's help names it */
#define DNS_CACHE_S 60   /* ours are fresher: sinks/http/resolver.h */
#define PROXY_PORT 1080U /* libcurl's, where the URL has none */
#define CA_CACHE_S 86400

void http_must(int code, const char *what) {
    if (code == 0) return;
    fprintf(stderr, "runsink: libcurl refused %s (code %d)\n", what, code);
    abort();
}

#define SET(easy, option, value) http_must((int)curl_easy_setopt(easy, option, value), #option)

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

static void set_calls(struct http_handle *h, const struct http_calls *calls) {
    CURL *easy = h->easy;
    SET(easy, CURLOPT_OPENSOCKETFUNCTION, calls->open_socket);
    SET(easy, CURLOPT_OPENSOCKETDATA, h);
    SET(easy, CURLOPT_CLOSESOCKETFUNCTION, calls->close_socket);
    SET(easy, CURLOPT_CLOSESOCKETDATA, calls->closer);
    SET(easy, CURLOPT_PREREQFUNCTION, calls->before_request);
    SET(easy, CURLOPT_PREREQDATA, h);
    SET(easy, CURLOPT_RESOLVER_START_FUNCTION, calls->look_up);
    SET(easy, CURLOPT_RESOLVER_START_DATA, h);
    SET(easy, CURLOPT_HEADERFUNCTION, calls->header);
    SET(easy, CURLOPT_HEADERDATA, h);
    SET(easy, CURLOPT_WRITEFUNCTION, calls->body);
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
        SET(easy, CURLOPT_DEBUGFUNCTION, http_trace);
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

static void set_request(struct http_handle *h, const struct http_request *req) {
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

static bool is_localhost(struct str host) {
    if (host.n && host.p[host.n - 1] == '.') host.n--;
    return host.n >= 9 && strncasecmp(host.p + host.n - 9, "localhost", 9) == 0 &&
           (host.n == 9 || host.p[host.n - 10] == '.');
}

/* egress_url() has read an event's URL before, by stricter rules. Should libcurl ever read another
 * host than this, it finds no address for it. */
struct http_place http_place(const struct config *cfg, const struct http_request *req) {
    bool proxied = cfg->egress_proxy[0] != '\0';
    struct str url = str_c(proxied ? cfg->egress_proxy : req->url), rest;
    bool https = strncasecmp(url.p, "https:", 6) == 0;
    struct http_place place = {.port = https ? 443 : proxied ? PROXY_PORT : 80};
    const char *from = strstr(url.p, "://");
    rest = str_c(from ? from + 3 : url.p);
    rest.n = strcspn(rest.p, "/?#");
    for (const char *at; (at = memchr(rest.p, '@', rest.n));)
        rest = (struct str){at + 1, rest.n - (size_t)(at + 1 - rest.p)};
    const char *bracket = rest.n && *rest.p == '[' ? memchr(rest.p, ']', rest.n) : NULL;
    const char *host_end = bracket ? bracket + 1 : rest.p;
    const char *colon = memchr(host_end, ':', rest.n - (size_t)(host_end - rest.p));
    place.host = (struct str){rest.p, colon ? (size_t)(colon - rest.p) : rest.n};
    if (colon) place.port = (unsigned)strtoul(colon + 1, NULL, 10);
    char text[INET_ADDRSTRLEN] = "";
    struct in_addr address;
    if (place.host.n < sizeof text) memcpy(text, place.host.p, place.host.n);
    place.fixed = bracket || place.host.n == 0 || place.host.n > RESOLVER_NAME_MAX ||
                  is_localhost(place.host) ||
                  (place.host.n < sizeof text && inet_pton(AF_INET, text, &address) == 1);
    return place;
}

void http_handle_addresses(struct http_handle *h, const struct http_place *place,
                           const char *list) {
    snprintf(h->addresses_text, sizeof h->addresses_text, "+%.*s:%u:%s", (int)place->host.n,
             place->host.p, place->port, list);
    h->addresses = (struct curl_slist){h->addresses_text, NULL};
    SET(h->easy, CURLOPT_RESOLVE, &h->addresses);
}

struct http_handle *http_handle_new(const struct http_calls *calls, const struct config *cfg,
                                    int64_t changed_ms, const struct http_request *req) {
    struct http_handle *h = xcalloc(1, sizeof *h);
    h->easy = curl_easy_init();
    http_must(h->easy == NULL, "a new handle");
    set_network(h->easy, cfg);
    set_tls(h->easy, cfg, req->mtls);
    set_http(h->easy, req->method);
    set_calls(h, calls);
    set_age(h->easy, changed_ms);
    set_request(h, req);
    return h;
}

void http_handle_free(struct http_handle *h) {
    if (!h) return;
    curl_easy_cleanup(h->easy);
    wipe(h->text, sizeof h->text); /* may quote the host */
    free(h);
}
