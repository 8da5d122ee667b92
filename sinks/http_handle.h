/* A handle of libcurl's with what it was set up for: the next request of its kind needs no more
 * than its own URL, headers and body, while setting all anew costs as much as signing a request.
 * For http.c alone. Lane's thread. */
#ifndef RUNSINK_HTTP_HANDLE_H
#define RUNSINK_HTTP_HANDLE_H

#include <curl/curl.h>

#include "sinks/http.h"

/* A setting that libcurl refuses is a bug or lack of memory: aborts then. */
void http_must(int code, const char *what);

/* What libcurl calls. All but close_socket, which may come once no transfer is left, get the handle
 * as their user pointer. */
struct http_calls {
    curl_opensocket_callback open_socket;
    curl_closesocket_callback close_socket;
    void *closer; /* close_socket's */
    curl_prereq_callback before_request;
    curl_write_callback header, body;
};

struct transfer;
struct http_handle {
    CURL *easy;                 /* its CURLINFO_PRIVATE is the handle */
    struct transfer *transfer;  /* http.c's, while it flies */
    char text[CURL_ERROR_SIZE]; /* what libcurl says of an error */
    /* What the headers begin with: a name without value keeps libcurl from sending its own. */
    struct curl_slist quiet[2];
    /* What it is set up for; method NULL: nothing yet. */
    const char *method;
    bool mtls, traced;
    unsigned rules;
};

struct http_handle *http_handle_new(void);
void http_handle_free(struct http_handle *);
/* For this request. rules numbers the configurations; changed_ms is when this one came, monotonic,
 * 0 for the first: connections that are older are not used any more. */
void http_handle_aim(struct http_handle *, const struct http_calls *, const struct config *,
                     unsigned rules, int64_t changed_ms, const struct http_request *);
/* Nothing of the request stays with it. */
void http_handle_clear(struct http_handle *);

#endif
