#include "worker/pipeline/anchor_store.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "sinks/s3/s3.h"
#include "sinks/s3/s3_error.h"
#include "worker/base/log.h"

#define URL_MAX ((size_t)16384)
#define LINES_MAX 12

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

static void add_line(struct curl_slist **list, struct str name, struct str value) {
    struct buf line;
    buf_init_secret(&line, 65536);
    buf_str(&line, name);
    buf_puts(&line, ": ");
    buf_str(&line, value);
    struct curl_slist *longer = curl_slist_append(*list, buf_cstr(&line));
    if (!longer) out_of_memory();
    *list = longer;
    buf_wipe(&line);
}

static bool start_url(const struct anchor_store *s, const char *key, struct buf *url,
                      size_t *ret_path_at) {
    buf_init(url, URL_MAX);
    bool ok = buf_printf(url, "%s://%s", s->s3->https ? "https" : "http", s->s3->host);
    *ret_path_at = url->n;
    return ok && sigv4_path(url, str_c(s->s3->path_root)) && sigv4_path(url, str_c(key));
}

struct parts {
    const char *method, *key, *sha256;
    struct sigv4_param *params;
    size_t n_params;
    struct sigv4_header lines[LINES_MAX]; /* beyond those that all have */
    size_t n_lines;
};

static bool sign(struct anchor_store *s, const struct parts *parts, struct http_request *request,
                 struct buf *url) {
    char date[SIGV4_DATE_LEN + 1];
    struct sigv4_header lines[LINES_MAX + 4];
    size_t path_at, n = 0;
    bool ok = start_url(s, parts->key, url, &path_at);
    size_t path_end = url->n;
    if (parts->n_params)
        ok = ok && buf_putc(url, '?') && sigv4_query(url, parts->params, parts->n_params);
    size_t query_at = path_end + (parts->n_params > 0);
    sigv4_date((int64_t)time(NULL), date);
    lines[n++] = (struct sigv4_header){STR("Host"), str_c(s->s3->host)};
    lines[n++] = (struct sigv4_header){STR("x-amz-date"), str_c(date)};
    lines[n++] = (struct sigv4_header){STR("x-amz-content-sha256"), str_c(parts->sha256)};
    if (s->s3->session_token)
        lines[n++] =
            (struct sigv4_header){STR("x-amz-security-token"), str_c(s->s3->session_token)};
    for (size_t i = 0; i < parts->n_lines; i++) lines[n++] = parts->lines[i];
    const struct sigv4_request to_sign = {.method = parts->method,
                                          .path = {url->p + path_at, path_end - path_at},
                                          .query = {url->p + query_at, url->n - query_at},
                                          .headers = lines,
                                          .n_headers = n,
                                          .payload_sha256 = parts->sha256};
    const struct sigv4_signer signer = {s->s3->access_key_id, s->s3->secret_access_key,
                                        s->s3->region, "s3"};
    struct buf authorization;
    buf_init_secret(&authorization, 4096);
    ok = ok && sigv4_sign(&to_sign, &signer, &s->s3->key, date, &authorization);
    memcpy(s->region, s->s3->region, sizeof s->region);
    for (size_t i = 0; ok && i < n; i++) add_line(&request->headers, lines[i].name, lines[i].value);
    if (ok) add_line(&request->headers, STR("Authorization"), str_c(buf_cstr(&authorization)));
    buf_wipe(&authorization);
    request->method = parts->method;
    request->url = buf_cstr(url);
    request->trusted = true;
    request->want_headers[0] = "x-amz-bucket-region";
    return ok;
}

static void add(struct parts *parts, struct str name, const char *value) {
    parts->lines[parts->n_lines++] = (struct sigv4_header){name, str_c(value)};
}

bool anchor_store_put(struct anchor_store *s, const char *key, struct str body,
                      struct http_request *request, struct buf *url) {
    uint8_t sha[SHA256_LEN];
    char sha_hex[HEX_LEN(SHA256_LEN) + 1], until_text[32] = "";
    sha256(body.p, body.n, sha);
    hex(sha, sizeof sha, sha_hex);
    struct buf sha_base64;
    buf_init(&sha_base64, 64);
    base64_add(&sha_base64, sha, sizeof sha);
    struct parts parts = {.method = "PUT", .key = key, .sha256 = sha_hex};
    add(&parts, STR("Content-Type"), "application/json");
    if (!s->unconditional) add(&parts, STR("If-None-Match"), "*");
    bool ok = true;
    if (s->lock_mode != CONFIG_LOCK_NONE) {
        time_t until = time(NULL) + (time_t)(s->lock_days * 86400);
        struct tm tm;
        ok = gmtime_r(&until, &tm) &&
             strftime(until_text, sizeof until_text, "%Y-%m-%dT%H:%M:%SZ", &tm) > 0;
        add(&parts, STR("x-amz-object-lock-mode"),
            s->lock_mode == CONFIG_LOCK_GOVERNANCE ? "GOVERNANCE" : "COMPLIANCE");
        add(&parts, STR("x-amz-object-lock-retain-until-date"), until_text);
        /* S3 takes no object with a retention period without a checksum. */
        add(&parts, STR("x-amz-checksum-sha256"), buf_cstr(&sha_base64));
    }
    ok = sign(s, &parts, request, url) && ok;
    buf_free(&sha_base64);
    request->body = body.p;
    request->body_len = body.n;
    request->needs = HTTP_ERROR;
    return ok;
}

bool anchor_store_get(struct anchor_store *s, const char *key, struct sigv4_param *params, size_t n,
                      struct http_request *request, struct buf *url) {
    static const char empty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    struct parts parts = {
        .method = "GET", .key = key, .sha256 = empty, .params = params, .n_params = n};
    return sign(s, &parts, request, url);
}

struct outcome anchor_store_judge(struct anchor_store *s, struct http_request *r,
                                  const struct outcome *transport) {
    struct s3_error error = {{0}};
    if (transport->verdict != VERDICT_OK) return *transport;
    bool got = strcmp(r->method, "GET") == 0 && r->status == 200;
    bool refused = !got && s3_error_parse((struct str){r->answer.p, r->answer.n}, &error);
    if (r->status / 100 == 2 && !refused) return outcome_ok(r->status);
    s3_learn_region(s->s3, r->status, &error, r->kept[0], s->region);
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

/* The name of the tag whose '<' has been passed; *ret_close: it is an end tag. Moves behind '>'. */
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
