#include "sinks/http/http_trace.h"

#include <strings.h>

#include "worker/base/log.h"

/* Header lines that help who looks for a fault. All others may hold a secret: the scrubber knows
 * the registered ones, but a form that it does not know must not depend on it. */
static bool shown(struct str line) {
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

int http_trace(CURL *easy, curl_infotype type, char *p, size_t n, void *user) {
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
        if (line.n && (type == CURLINFO_TEXT || shown(line)))
            log_trace("http", LOG_S("from", source(type)), LOG_N("line", line));
    }
    return 0;
}
