/* What log.level trace shows of transfers: libcurl's remarks and the header lines that hold nothing
 * secret. Only http.c includes this. Any thread. */
#ifndef RUNSINK_HTTP_TRACE_H
#define RUNSINK_HTTP_TRACE_H

#include <curl/curl.h>

int http_trace(CURL *, curl_infotype, char *, size_t, void *); /* a CURLOPT_DEBUGFUNCTION */

#endif
