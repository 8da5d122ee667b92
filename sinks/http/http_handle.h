/* A handle of libcurl's, made for one transfer and thrown away with it: libcurl keeps more of an
 * answer in its handle than it clears for the next (in 7.88 a pointer into freed headers, which a
 * server could have read by a folded line), and the next transfer is another tenant's. Connections
 * are kept nevertheless: they belong to the multi handle. A new handle costs 2 us of CPU.
 * For http.c alone. Lane's thread. */
#ifndef RUNSINK_HTTP_HANDLE_H
#define RUNSINK_HTTP_HANDLE_H

#include <curl/curl.h>

#include "sinks/http/http.h"
#include "sinks/http/resolver.h"

/* A setting that libcurl refuses is a bug or lack of memory: aborts then. */
void http_must(int code, const char *what);

/* What libcurl calls. All but close_socket, which may come once no transfer is left, get the handle
 * as their user pointer. */
struct http_calls {
    curl_opensocket_callback open_socket;
    curl_closesocket_callback close_socket;
    void *closer; /* close_socket's */
    curl_prereq_callback before_request;
    curl_resolver_start_callback look_up; /* when libcurl knows no address by itself */
    curl_write_callback header, body;
};

struct transfer;
struct http_handle {
    CURL *easy;                 /* its CURLINFO_PRIVATE is the handle */
    struct transfer *transfer;  /* http.c's, while it flies */
    char text[CURL_ERROR_SIZE]; /* what libcurl says of an error */
    /* What the headers begin with: a name without value keeps libcurl from sending its own. */
    struct curl_slist quiet[2];
    struct curl_slist addresses; /* one "host:port:addresses" */
    char addresses_text[RESOLVER_NAME_MAX + RESOLVER_LIST_SIZE + 16];
};

/* Where a request's connection goes: its URL's host, or the egress proxy. */
struct http_place {
    struct str host; /* without brackets */
    unsigned port;
    bool fixed; /* an address, or localhost: nobody needs to look it up */
};
struct http_place http_place(const struct config *, const struct http_request *);

/* For this request, whose URL is copied, and whose headers and body are borrowed. changed_ms is
 * when the configuration came, monotonic, 0 for the first: connections that are older are not used.
 */
struct http_handle *http_handle_new(const struct http_calls *, const struct config *,
                                    int64_t changed_ms, const struct http_request *);
/* The place's addresses, as resolver_ask() gives them. */
void http_handle_addresses(struct http_handle *, const struct http_place *, const char *list);
void http_handle_free(struct http_handle *);

#endif
