/* The HTTP client of a lane: one curl multi handle, a bounded pool of
 * connections, the egress guard on each socket. Lane's thread only. Outcomes of transport errors
 * are decided here, so every sink tells them alike. */
#ifndef RUNSINK_HTTP_H
#define RUNSINK_HTTP_H

#include "sinks/http/http_head.h"
#include "worker/base/buf.h"
#include "worker/base/outcome.h"

struct config;
struct http;
struct http_request;
struct curl_slist;

/* What of an answer has to be there for it to count. What is missing is a transport error. */
enum http_needs {
    HTTP_WHOLE, /* all of it */
    HTTP_HEAD,  /* its status and headers; the body is passed over, as long as http.answer_wait lets
                   it, so that the connection can be used again */
    HTTP_ERROR  /* of a 2xx its status and headers, with what comes of the body in that time, be
                   it framed or not; of others too, but their body may take the time that a whole
                   answer has */
};

/* Called once, from http_run() or http_free(), never from inside http_submit() or http_cancel().
 * transport is VERDICT_OK when an answer with a status came (any status); otherwise it is the
 * finished outcome (timeout, refused, dns, tls, egress-denied, cancelled, ...). */
typedef void http_done_fn(struct http_request *, const struct outcome *transport);

/* Owned by the caller, unchanged until done, then read by it and freed by it. Zero-initialise. */
struct http_request {
    const char *method; /* "PUT", "POST", "GET" */
    const char *url;    /* absolute; path and query already percent-encoded: sent as they stand */
    struct curl_slist *headers; /* "Name: value", the caller's; may hold secrets */
    const char *body;           /* borrowed; NULL: none */
    size_t body_len;
    enum http_needs needs;
    uint64_t workspace; /* whose it is, a keyed hash: name lookups are shared by it; 0: nobody's */
    bool mtls;          /* offer the client certificate of http.client_cert */
    bool trusted; /* the configuration names the URL, no event: the egress rules don't hold for it,
                     egress.proxy does */
    /* Names (lower case) of answer headers to keep; NULL after the last, if there is room. */
    const char *want_headers[HTTP_KEPT];
    /* The caller's note for all its URLs with this scheme, host and port: under which
     * configuration they passed the egress rules; 0 at first. NULL: judged each time. */
    unsigned *passed;
    http_done_fn *done;
    void *owner;
    /* The answer. */
    int status;
    struct buf answer; /* at most http.response_max bytes; empty under HTTP_HEAD */
    bool answer_cut;   /* the rest was dropped and the transfer ended */
    char kept[HTTP_KEPT][HTTP_KEPT_SIZE]; /* their values, empty when absent, cut to fit */
    uint32_t retry_after_ms; /* Retry-After, seconds or date form, at most 1 h; 0 absent */
    void *transfer;          /* http.c's */
};

/* Global library set-up; call once on the main thread before any lane. */
void http_global_init(void);
struct http *http_new(const struct config *); /* the configuration outlives it */
/* Another configuration holds from now on: requests under way end under the old one, pooled
 * connections made before are used no more once they have become idle, and each use of one is
 * checked by the new egress rules. (http.max_connections stays.) */
void http_reconfigure(struct http *, const struct config *);
void http_free(
    struct http *); /* every unfinished request gets its done() with why "cancelled" first */
/* Beyond http.max_connections requests wait here for their turn; their timeouts start then. */
void http_submit(struct http *, struct http_request *);
/* done() comes soon, from http_run(): "cancelled", uncounted when nothing can have been sent yet;
 * or the answer, where what is needed of it has come already. */
void http_cancel(struct http *, struct http_request *);
/* Waits for network activity, at most timeout_ms. */
void http_wait(struct http *, int timeout_ms);
/* http_wait() also returns when fd is readable. fd stays open as long as the client. Once. */
void http_wake_by(struct http *, int fd);
/* Moves transfers and calls done() for the finished. */
void http_run(struct http *);
size_t http_in_flight(const struct http *);
/* Frees what a request's answer holds, wipes and frees its headers. */
void http_request_clear(struct http_request *);

#endif
