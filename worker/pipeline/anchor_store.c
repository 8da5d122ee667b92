#include "worker/pipeline/anchor_store.h"

#include <stdio.h>
#include <stdlib.h>

#include "sinks/s3/s3.h"
#include "sinks/s3/s3_error.h"
#include "worker/base/clock.h"
#include "worker/base/log.h"

#define URL_MAX ((size_t)16384)

struct anchor_store {
    struct destination dest;
    struct s3_config *s3; /* dest.config */
    char region[SIGV4_REGION_MAX + 1];
    int lock_mode;
    int64_t lock_days;
    bool unconditional; /* the store does not know If-None-Match */
};

/* As an S3 sink's, but free to go wherever the configuration says. */
static bool parse(const struct config *cfg, struct destination *ret, struct buf *err) {
    static const struct cidr everywhere[] = {{{[10] = 0xff, 0xff}, 96}, {{0}, 0}}; /* IPv4, IPv6 */
    struct config own = *cfg;
    struct outcome why;
    own.egress = (struct egress){.allow = everywhere, .n_allow = 2, .http = true};
    cJSON *sink = cJSON_CreateObject();
    cJSON_AddStringToObject(sink, "bucket", cfg->anchor_bucket);
    cJSON_AddStringToObject(sink, "region", cfg->anchor_region);
    cJSON_AddStringToObject(sink, "accessKeyId", cfg->anchor_access_key_id);
    cJSON_AddStringToObject(sink, "secretAccessKey", cfg->anchor_secret_access_key);
    if (*cfg->anchor_session_token)
        cJSON_AddStringToObject(sink, "sessionToken", cfg->anchor_session_token);
    if (*cfg->anchor_endpoint) cJSON_AddStringToObject(sink, "endpoint", cfg->anchor_endpoint);
    cJSON_AddBoolToObject(sink, "forcePathStyle", cfg->anchor_path_style);
    bool ok = s3_parse(&own, sink, ret, &why);
    cJSON_Delete(sink);
    if (!ok) {
        const char *detail = why.detail;
        if (strncmp(detail, "sink.", 5) == 0) detail += 5;
        buf_printf(err, "the settings under [anchor] name no bucket that can be reached: %s\n",
                   detail);
    }
    return ok;
}

struct anchor_store *anchor_store_new(const struct config *cfg, struct buf *err) {
    struct destination dest = {0};
    if (!parse(cfg, &dest, err)) return NULL;
    struct anchor_store *s = xcalloc(1, sizeof *s);
    s->dest = dest;
    s->s3 = dest.config;
    s->lock_mode = cfg->anchor_lock_mode;
    s->lock_days = cfg->anchor_lock_days;
    if (!s->s3->sigv2) return s;
    buf_puts(err,
             "anchor.endpoint stands in s3.sigv2_endpoints: anchors need Signature Version 4\n");
    anchor_store_free(s);
    return NULL;
}

void anchor_store_free(struct anchor_store *s) {
    if (!s) return;
    s3_free_config(s->dest.config);
    free(s->dest.prefix);
    free(s);
}

const char *anchor_store_label(const struct anchor_store *s) {
    return s->dest.label;
}

/* ---- requests ---- */

static bool finish(struct anchor_store *s, struct s3_request *r, struct http_request *request,
                   struct buf *url) {
    buf_init(url, URL_MAX);
    memcpy(s->region, s->s3->region, sizeof s->region);
    bool ok = s3_request_end(r, s->s3, url, &request->headers);
    request->method = r->method;
    request->url = buf_cstr(url);
    request->trusted = true;
    s3_want_headers(request);
    return ok;
}

/* S3 takes no object with a retention period without a checksum. */
static bool lock(const struct anchor_store *s, int64_t now_s, const uint8_t sha[SHA256_LEN],
                 struct s3_request *r) {
    char until[UTC_TEXT];
    struct buf checksum;
    if (s->lock_mode == CONFIG_LOCK_NONE) return true;
    if (!utc_text(now_s + s->lock_days * 86400, until)) return false;
    buf_init(&checksum, 64);
    base64_add(&checksum, sha, SHA256_LEN);
    s3_request_line(r, "x-amz-object-lock-mode",
                    s->lock_mode == CONFIG_LOCK_GOVERNANCE ? "GOVERNANCE" : "COMPLIANCE");
    s3_request_line(r, "x-amz-object-lock-retain-until-date", until);
    s3_request_line(r, "x-amz-checksum-sha256", buf_cstr(&checksum));
    buf_free(&checksum);
    return true;
}

bool anchor_store_put(struct anchor_store *s, const char *key, struct str body,
                      struct http_request *request, struct buf *url) {
    uint8_t sha[SHA256_LEN];
    char sha_hex[HEX_LEN(SHA256_LEN) + 1];
    int64_t now_s = clock_ms(CLOCK_REALTIME) / 1000;
    sha256(body.p, body.n, sha);
    hex(sha, sizeof sha, sha_hex);
    struct s3_request r = {.method = "PUT", .key = key, .body_sha256 = sha_hex};
    s3_request_begin(&r, s->s3, now_s);
    s3_request_line(&r, "Content-Type", "application/json");
    if (!s->unconditional) s3_request_line(&r, "If-None-Match", "*");
    bool ok = lock(s, now_s, sha, &r);
    ok = finish(s, &r, request, url) && ok;
    request->body = body.p;
    request->body_len = body.n;
    request->needs = HTTP_ERROR;
    return ok;
}

bool anchor_store_get(struct anchor_store *s, const char *key, struct sigv4_param *params, size_t n,
                      struct http_request *request, struct buf *url) {
    struct s3_request r = {.method = "GET", .key = key, .params = params, .n_params = n};
    s3_request_begin(&r, s->s3, clock_ms(CLOCK_REALTIME) / 1000);
    return finish(s, &r, request, url);
}

struct outcome anchor_store_judge(struct anchor_store *s, struct http_request *r,
                                  const struct outcome *transport) {
    struct s3_error error;
    if (transport->verdict != VERDICT_OK) return *transport;
    if (s3_accepted(r, &error)) return outcome_ok(r->status);
    s3_learn_region(s->s3, r->status, &error, r->kept[S3_REGION], s->region);
    if (r->status == 501 && strcmp(r->method, "PUT") == 0) s->unconditional = true;
    return s3_outcome_told(r->status, &error, r->retry_after_ms);
}

/* ---- listings ---- */

struct scan {
    const char *p, *end;
    struct listed_item item; /* being read */
    struct listing *to;
    bool ok;
};

static void take_text(struct scan *s, struct str name, struct str text) {
    if (str_is(name, "Key"))
        s->item.key = text;
    else if (str_is(name, "VersionId"))
        s->item.version = text;
    else if (str_is(name, "LastModified"))
        s->item.modified = text;
    else if (str_is(name, "IsTruncated"))
        s->to->truncated = str_is(text, "true");
}

static void begin_element(struct scan *s, struct str name) {
    if (str_is(name, "Version") || str_is(name, "Contents"))
        s->item = (struct listed_item){.kind = LISTED_OBJECT};
    else if (str_is(name, "DeleteMarker"))
        s->item = (struct listed_item){.kind = LISTED_MARKER};
}

static void end_element(struct scan *s, struct str name) {
    if (!str_is(name, "Version") && !str_is(name, "Contents") && !str_is(name, "DeleteMarker"))
        return;
    if (s->to->n == LISTING_MAX || !s->item.key.n) {
        s->ok = false;
        return;
    }
    s->to->items[s->to->n++] = s->item;
    s->item = (struct listed_item){0};
}

/* The name of the tag whose '<' has been passed; *ret_close: it is an end tag. Moves to after '>'.
 */
static bool read_tag(struct scan *s, struct str *ret_name, bool *ret_close, bool *ret_empty) {
    *ret_close = s->p < s->end && *s->p == '/';
    if (*ret_close) s->p++;
    const char *stop = memchr(s->p, '>', (size_t)(s->end - s->p));
    if (!stop) return false;
    *ret_empty = stop > s->p && stop[-1] == '/';
    size_t n = 0;
    while (s->p + n < stop && !strchr(" \t\r\n/", s->p[n])) n++;
    *ret_name = (struct str){s->p, n};
    s->p = stop + 1;
    return true;
}

bool listing_read(struct str body, struct listing *ret) {
    struct scan s = {.p = body.p, .end = body.p + body.n, .to = ret, .ok = true};
    bool known = false, finished = false;
    ret->n = 0;
    ret->truncated = false;
    while (s.ok && !finished && body.n) {
        const char *open = memchr(s.p, '<', (size_t)(s.end - s.p));
        struct str name;
        bool close, empty;
        if (!open) break;
        s.p = open + 1;
        if (!read_tag(&s, &name, &close, &empty)) break;
        bool root = str_is(name, "ListBucketResult") || str_is(name, "ListVersionsResult");
        known = known || root;
        finished = root && (close || empty);
        if (close) end_element(&s, name);
        if (close || empty) continue;
        begin_element(&s, name);
        const char *stop = memchr(s.p, '<', (size_t)(s.end - s.p));
        if (stop) take_text(&s, name, (struct str){s.p, (size_t)(stop - s.p)});
    }
    return s.ok && known && finished;
}
