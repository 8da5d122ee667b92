/* What a failed transfer means for a delivery. Only http.c, s3_sigv2.c and tests include this.
 * Pure; any thread. */
#ifndef RUNSINK_HTTP_ERROR_H
#define RUNSINK_HTTP_ERROR_H

#include <curl/curl.h>

#include "worker/base/outcome.h"

struct http_failure {
    CURLcode code;
    const char *denied;     /* the guard's phrase for an address it refused; NULL: refused none */
    bool opened;            /* a socket was opened */
    bool sent;              /* a connection was ready: the request may have gone out */
    bool answered;          /* an answer has begun */
    bool headers_too_large; /* we ended it for that */
    bool proxied;           /* by way of egress.proxy */
    int socket_errno;       /* of a socket() that failed; 0 */
    long os_errno;          /* of the last connect; 0 */
    long proxy_status;      /* of the proxy's answer to CONNECT; 0 */
    long verify;            /* X509_V_ERR_*; 0 */
    struct str host;        /* that was to be reached */
    const char *text; /* libcurl's own words, of which only those of OpenSSL and errno are told */
};

/* Never VERDICT_OK. What the tenant's endpoint does is FAULT_TENANT and retried, but for what the
 * tenant alone can change (a refused address, a bad certificate): PERMANENT, where configuration
 * decides. A name that does not exist may exist in a minute, so "dns" is always retried. Our own
 * shortages are FAULT_SYSTEM and retried. */
struct outcome http_error(const struct http_failure *);

/* No address was found for a host: code is getaddrinfo()'s, EAI_INPROGRESS when there was no answer
 * in time, and EAI_CANCELED when nobody came to ask in time, which is nobody's fault. */
struct outcome http_no_address(int code, struct str host, bool proxied);

/* Retry-After (RFC 9110 section 10.2.3), seconds or a date, as ms from now_s; at most an hour; 0
 * when it is neither or has passed. */
uint32_t http_retry_after(struct str value, int64_t now_s);

#endif
