/* Any text as a URL, taken apart by url_secrets_*() and checked with curl's URL parser; and,
 * written as a JSON string in one of two spellings, as a sink's url and as a proxy. Run by
 * scripts/fuzz. */
#include <assert.h>
#include <curl/curl.h>
#include <stdint.h>
#include <stdlib.h>

#include "worker/base/text.h"
#include "worker/event/redact.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* The URL with its secrets replaced, NUL-terminated. */
static void redact(struct str url, struct buf *out) {
    struct url_secrets s;
    struct edit e;
    size_t from = 0;
    url_secrets_begin(&s, url);
    while (url_secrets_next(&s, &e)) {
        assert(e.n > 0 && e.at >= from && e.at + e.n <= url.n);
        assert(buf_add(out, url.p + from, e.at - from) && buf_puts(out, "[REDACTED]"));
        from = e.at + e.n;
    }
    assert(buf_add(out, url.p + from, url.n - from));
}

static char *part(const char *url, CURLUPart which) {
    CURLU *u = curl_url();
    char *text = NULL;
    unsigned flags = CURLU_NON_SUPPORT_SCHEME | CURLU_GUESS_SCHEME | CURLU_ALLOW_SPACE;
    assert(u);
    if (curl_url_set(u, CURLUPART_URL, url, flags) == CURLUE_OK) curl_url_get(u, which, &text, 0);
    curl_url_cleanup(u);
    return text;
}

/* What curl still finds in the redacted URL. */
static void check_with_curl(const char *redacted) {
    char *user = part(redacted, CURLUPART_USER);
    char *password = part(redacted, CURLUPART_PASSWORD);
    char *query = part(redacted, CURLUPART_QUERY);
    assert(!user || user[0] == '\0' || strcmp(user, "[REDACTED]") == 0);
    assert(!password);
    for (char *rest = query, *piece; (piece = strsep(&rest, "&"));) {
        const char *value = strchr(piece, '=');
        value = value ? value + 1 : piece;
        assert(value[0] == '\0' || strcmp(value, "[REDACTED]") == 0);
    }
    curl_free(user);
    curl_free(password);
    curl_free(query);
}

/* The string in JSON: as it is, or every ASCII character as an escape. */
static void put_string(struct buf *b, struct str s, bool escape) {
    if (!escape) {
        assert(text_json(b, s));
        return;
    }
    for (size_t i = 0; i < s.n; i++) {
        if ((unsigned char)s.p[i] < 0x80)
            buf_printf(b, "\\u%04x", (unsigned)s.p[i]);
        else
            buf_putc(b, s.p[i]);
    }
}

/* Whether the text is what is wanted, or that with more redacted: a secret of its place is one
 * wherever else it stands ("user:pw@host/user:pw"). */
static bool covers(struct str text, struct str want) {
    static const char mark[] = "[REDACTED]";
    if (str_eq(text, want)) return true;
    size_t at = 0;
    for (bool first = true;; first = false) {
        const char *end = memmem(text.p, text.n, mark, sizeof mark - 1);
        struct str piece = {text.p, end ? (size_t)(end - text.p) : text.n};
        const char *found = memmem(want.p + at, want.n - at, piece.p, piece.n);
        if (!end)
            return piece.n <= want.n - at &&
                   memcmp(want.p + want.n - piece.n, piece.p, piece.n) == 0;
        if (!found || (first && found != want.p)) return false;
        at = (size_t)(found - want.p) + piece.n;
        text = (struct str){end + sizeof mark - 1, text.n - piece.n - (sizeof mark - 1)};
    }
}

/* Redacting the document does to the URL what redact() does. */
static void check_in_json(struct str url, const struct buf *want, bool escape) {
    static const char start[] =
        "{\"id\":\"r\",\"startTime\":\"2024-01-01T00:00:00Z\",\"workspaceId\":\"w\","
        "\"projectId\":\"p\",\"jobId\":\"j\",\"createdAt\":\"2024-01-01T00:00:00Z\","
        "\"updatedAt\":\"2024-01-01T00:00:00Z\",\"type\":\"MANUAL\",\"status\":\"SUCCESS\","
        "\"payloads\":1,\"successfulRuns\":1,\"failedRuns\":0,\"jobConfigurationSnapshot\":"
        "{\"proxy\":\"";
    struct arena arena = {0};
    struct outcome err;
    struct jobrun run;
    struct json j;
    struct json_value v;
    struct buf doc;
    struct buf out;
    buf_init(&doc, SIZE_MAX);
    buf_init(&out, SIZE_MAX);
    buf_puts(&doc, start);
    put_string(&doc, url, escape);
    buf_puts(&doc, "\"}}");
    struct message rec = {{doc.p, doc.n}, NULL, 0};
    assert(jobrun_decode(&rec, &arena, &run, &err));
    assert(redact_add(&out, &run.payload));
    /* Not at its old place: what stands before may hold one of the URL's secrets ("?a=UCCESS"). */
    const char *proxy = memmem(out.p, out.n, "{\"proxy\":", 9);
    assert(proxy);
    struct str rest = {proxy + 9, (size_t)(out.p + out.n - proxy) - 9};
    json_begin(&j, rest);
    assert(json_value(&j, &v) && v.kind == JSON_STRING);
    char *text = xmalloc(v.raw.n + 1);
    size_t n = 0;
    assert(json_unescape(v.raw, text, &n));
    assert(covers((struct str){text, n}, (struct str){want->p, want->n}));
    free(text);
    buf_free(&doc);
    buf_free(&out);
    arena_free(&arena);
}

static bool utf8(struct str s) {
    for (size_t i = 0, n; i < s.n; i += n)
        if ((n = utf8_sequence(s.p + i, s.n - i)) == 0) return false;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    struct str url = {(const char *)data, n};
    struct buf out;
    buf_init(&out, SIZE_MAX);
    redact(url, &out);
    if (!memchr(url.p, '\0', url.n)) check_with_curl(buf_cstr(&out));
    buf_cstr(&out);
    if (utf8(url)) {
        check_in_json(url, &out, false);
        check_in_json(url, &out, true);
    }
    buf_free(&out);
    return 0;
}
