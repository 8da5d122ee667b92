/* The head of an answer, line by line as libcurl hands it over: which status counts, and what the
 * headers say that we care about. For http.c and s3_sigv2.c. Pure; any thread. */
#ifndef RUNSINK_HTTP_HEAD_H
#define RUNSINK_HTTP_HEAD_H

#include <curl/curl.h>
#include <stdint.h>

#include "worker/base/str.h"

#define HTTP_KEPT 5
#define HTTP_KEPT_SIZE 256

/* Zero-initialised, but for the first two. */
struct http_head {
    const char *const *want;      /* HTTP_KEPT names at most (lower case), NULL after the last */
    char (*kept)[HTTP_KEPT_SIZE]; /* their values, empty when absent, cut to fit */
    uint32_t retry_after_ms;      /* Retry-After, at most 1 h; 0 absent */
    int status;                   /* once the final answer's head has ended; 0 */
    bool framed; /* it says how the body ends, other than by the connection's end */
    bool begun;  /* any line has come */
    bool too_large;
    size_t bytes, lines;
};

/* A line of easy's: status lines, headers, the empty line after them, trailers; interim answers
 * (1xx), whose headers don't count, before. False when it is too much: too_large is set. */
bool http_head_line(struct http_head *, CURL *easy, struct str line);

#endif
