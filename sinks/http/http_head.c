#include "sinks/http/http_head.h"

#include <string.h>
#include <strings.h>
#include <time.h>

#include "sinks/http/http_error.h"

#define HEADER_BYTES_MAX 65536 /* of one answer, interim answers and trailers included */
#define HEADER_LINES_MAX 500

static struct str trim(struct str s) {
    while (s.n && strchr(" \t\r\n", s.p[s.n - 1])) s.n--;
    while (s.n && strchr(" \t", *s.p)) s.p++, s.n--;
    return s;
}

static bool is_named(struct str name, const char *what) {
    return strlen(what) == name.n && strncasecmp(name.p, what, name.n) == 0;
}

static void keep(struct http_head *h, struct str line) {
    const char *colon = memchr(line.p, ':', line.n);
    if (!colon) return;
    struct str name = {line.p, (size_t)(colon - line.p)};
    struct str value = trim((struct str){colon + 1, line.n - name.n - 1});
    if (is_named(name, "retry-after"))
        h->retry_after_ms = http_retry_after(value, time(NULL));
    else if (is_named(name, "content-length") || is_named(name, "transfer-encoding"))
        h->framed = true;
    for (size_t i = 0; i < HTTP_KEPT && h->want[i]; i++)
        if (is_named(name, h->want[i])) outcome_text(h->kept[i], HTTP_KEPT_SIZE, value);
}

/* What an interim answer before it said is void. */
static void begin(struct http_head *h, struct str line) {
    memset(h->kept, 0, HTTP_KEPT * sizeof *h->kept);
    h->retry_after_ms = 0;
    h->framed = str_starts(line, "HTTP/2") || str_starts(line, "HTTP/3");
}

static void finish(struct http_head *h, CURL *easy) {
    long status = 0;
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    /* 101: nobody has asked for another protocol, so nothing follows it. */
    if (status < 200 && status != 101) return;
    h->status = (int)status;
    h->framed = h->framed || status == 204 || status == 304;
}

bool http_head_line(struct http_head *h, CURL *easy, struct str line) {
    h->begun = true;
    h->bytes += line.n;
    h->lines++;
    h->too_large = h->bytes > HEADER_BYTES_MAX || h->lines > HEADER_LINES_MAX;
    if (h->too_large) return false;
    if (h->status) return true; /* a trailer */
    if (str_starts(line, "HTTP/"))
        begin(h, line);
    else if (trim(line).n)
        keep(h, line);
    else
        finish(h, easy);
    return true;
}
