#include <curl/curl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "sinks/http/http.h"
#include "sinks/s3/s3.h"
#include "sinks/s3/s3_error.h"
#include "worker/base/gzip.h"

/* More than all bounds together: tenant fields and configured header values are far shorter. */
#define LINES_MAX_BYTES ((size_t)64 * 1024)

static void lines_init(struct s3_lines *l) {
    buf_init_secret(&l->text, LINES_MAX_BYTES);
    l->n = 0;
}

/* What passes a bound here passed every bound before: a bug. */
static void must(bool ok) {
    if (ok) return;
    fputs("runsink: an S3 request outgrew its bounds\n", stderr);
    abort();
}

static void line_text(struct s3_lines *l, const char *name, const char *value) {
    must(l->n < S3_LINES_MAX);
    l->v[l->n].at = l->text.n;
    l->v[l->n].name_len = strlen(name);
    l->n++;
    must(buf_puts(&l->text, name) && buf_puts(&l->text, ": ") && buf_puts(&l->text, value) &&
         buf_putc(&l->text, '\0'));
}

static void line(struct s3_lines *l, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void line(struct s3_lines *l, const char *name, const char *fmt, ...) {
    char value[512];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(value, sizeof value, fmt, ap);
    va_end(ap);
    must(n >= 0 && (size_t)n < sizeof value);
    line_text(l, name, value);
}

/* ---- any request ---- */

#define EMPTY_SHA256 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

void s3_request_begin(struct s3_request *r, const struct s3_config *c, int64_t now_s) {
    if (!r->body_sha256) r->body_sha256 = EMPTY_SHA256;
    sigv4_date(now_s, r->date);
    lines_init(&r->lines);
    line_text(&r->lines, "Host", c->host);
    line_text(&r->lines, "x-amz-date", r->date);
    line_text(&r->lines, "x-amz-content-sha256", r->body_sha256);
    if (c->session_token) line_text(&r->lines, "x-amz-security-token", c->session_token);
}

void s3_request_line(struct s3_request *r, const char *name, const char *value) {
    line_text(&r->lines, name, value);
}

static size_t collect(const struct s3_lines *l, struct sigv4_header *ret) {
    for (size_t i = 0; l && i < l->n; i++) {
        const char *text = l->text.p + l->v[i].at;
        ret[i].name = (struct str){text, l->v[i].name_len};
        ret[i].value = str_c(text + l->v[i].name_len + 2);
    }
    return l ? l->n : 0;
}

static struct curl_slist *append(struct curl_slist *list, const struct s3_lines *l) {
    for (size_t i = 0; l && i < l->n; i++) {
        struct curl_slist *longer = curl_slist_append(list, l->text.p + l->v[i].at);
        if (!longer) out_of_memory();
        list = longer;
    }
    return list;
}

/* The Authorization header, over all the lines. */
static bool sign(struct s3_request *r, struct s3_config *c, struct str path, struct str query) {
    struct sigv4_header headers[2 * S3_LINES_MAX];
    size_t n = collect(r->more, headers);
    n += collect(&r->lines, headers + n);
    const struct sigv4_request request = {.method = r->method,
                                          .path = path,
                                          .query = query,
                                          .headers = headers,
                                          .n_headers = n,
                                          .payload_sha256 = r->body_sha256};
    const struct sigv4_signer signer = {c->access_key_id, c->secret_access_key, c->region, "s3"};
    struct buf authorization;
    buf_init_secret(&authorization, 4096);
    bool ok = sigv4_sign(&request, &signer, &c->key, r->date, &authorization);
    if (ok) line_text(&r->lines, "Authorization", buf_cstr(&authorization));
    buf_wipe(&authorization);
    return ok;
}

bool s3_request_end(struct s3_request *r, struct s3_config *c, struct buf *url,
                    struct curl_slist **ret_headers) {
    bool ok = buf_printf(url, "%s://%s", c->https ? "https" : "http", c->host);
    size_t path = url->n;
    ok = ok && sigv4_path(url, str_c(c->path_root)) && sigv4_path(url, str_c(r->key));
    size_t path_end = url->n, query = url->n;
    if (r->n_params) {
        ok = ok && buf_putc(url, '?') && sigv4_query(url, r->params, r->n_params);
        query++;
    }
    ok = ok && sign(r, c, (struct str){url->p + path, path_end - path},
                    (struct str){url->p + query, url->n - query});
    if (ok) *ret_headers = append(append(NULL, r->more), &r->lines);
    buf_wipe(&r->lines.text);
    return ok;
}

void s3_want_headers(struct http_request *r) {
    r->want_headers[S3_REGION] = "x-amz-bucket-region";
    r->want_headers[S3_ETAG] = "etag";
    r->want_headers[S3_REQUEST_ID] = "x-amz-request-id";
    r->want_headers[S3_CONTENT_TYPE] = "content-type";
    r->want_headers[S3_CONTENT_LENGTH] = "content-length";
}

bool s3_accepted(const struct http_request *r, struct s3_error *ret) {
    const struct s3_answer a = {.status = r->status,
                                .etag = r->kept[S3_ETAG],
                                .request_id = r->kept[S3_REQUEST_ID],
                                .type = r->kept[S3_CONTENT_TYPE],
                                .length = r->kept[S3_CONTENT_LENGTH],
                                .body = {r->answer.p, r->answer.n}};
    *ret = (struct s3_error){{0}};
    /* What was asked for is no error, whatever it looks like. */
    if (r->status == 200 && strcmp(r->method, "GET") == 0) return true;
    if (s3_error_parse(a.body, ret)) return false;
    return strcmp(r->method, "PUT") == 0 ? s3_is_stored(&a) : r->status / 100 == 2;
}

/* ---- the sink's PUT ---- */

void s3_fixed_headers(struct s3_config *c, const struct config *cfg) {
    struct s3_lines *l = &c->fixed;
    lines_init(l);
    if (cfg->s3_storage_class[0]) line_text(l, "x-amz-storage-class", cfg->s3_storage_class);
    if (cfg->s3_tagging[0]) line_text(l, "x-amz-tagging", cfg->s3_tagging);
    if (cfg->s3_sse == CONFIG_SSE_AES256) line_text(l, "x-amz-server-side-encryption", "AES256");
    if (cfg->s3_sse == CONFIG_SSE_KMS) {
        line_text(l, "x-amz-server-side-encryption", "aws:kms");
        if (cfg->s3_sse_kms_key_id[0])
            line_text(l, "x-amz-server-side-encryption-aws-kms-key-id", cfg->s3_sse_kms_key_id);
    }
    if (cfg->s3_lock_mode == CONFIG_LOCK_GOVERNANCE)
        line_text(l, "x-amz-object-lock-mode", "GOVERNANCE");
    if (cfg->s3_lock_mode == CONFIG_LOCK_COMPLIANCE)
        line_text(l, "x-amz-object-lock-mode", "COMPLIANCE");
}

static void line_base64(struct s3_lines *l, const char *name, const void *p, size_t n) {
    struct buf b;
    buf_init(&b, 128);
    must(base64_add(&b, p, n));
    line(l, name, "%s", buf_cstr(&b));
    buf_free(&b);
}

static void checksum(struct s3_lines *l, const struct config *cfg, const struct batch *b) {
    /* S3 takes no object with a retention period, asked for by us or the bucket's default, without
     * Content-MD5 or a checksum; and every store knows Content-MD5. */
    uint8_t digest[MD5_LEN];
    bool has_md5 = cfg->s3_checksum == CONFIG_CHECKSUM_NONE && md5(b->body, b->body_len, digest);
    bool locked = cfg->s3_lock_mode != CONFIG_LOCK_NONE;
    if (cfg->s3_checksum == CONFIG_CHECKSUM_CRC32) {
        uint32_t crc = crc32_of(b->body, b->body_len);
        uint8_t be[4] = {(uint8_t)(crc >> 24), (uint8_t)(crc >> 16), (uint8_t)(crc >> 8),
                         (uint8_t)crc};
        line_base64(l, "x-amz-checksum-crc32", be, sizeof be);
    } else if (has_md5) {
        line_base64(l, "Content-MD5", digest, sizeof digest);
    } else if (cfg->s3_checksum == CONFIG_CHECKSUM_SHA256 || locked) {
        line_base64(l, "x-amz-checksum-sha256", b->body_sha256, SHA256_LEN);
    }
}

/* Rounded up to midnight, so that a replay on the same day asks for the same: a retention period
 * can be made longer but, in COMPLIANCE mode, by nobody shorter. */
static void retention(struct s3_lines *l, const struct config *cfg, int64_t now_s) {
    if (cfg->s3_lock_mode == CONFIG_LOCK_NONE) return;
    char text[UTC_TEXT];
    must(utc_text((now_s / 86400 + cfg->s3_lock_days + 1) * 86400, text));
    line(l, "x-amz-object-lock-retain-until-date", "%s", text);
}

static void batch_lines(struct s3_lines *l, const struct batch *b) {
    char sha256_hex[HEX_LEN(SHA256_LEN) + 1];
    hex(b->sha256, SHA256_LEN, sha256_hex);
    line(l, "Content-Type", "%s", b->content_type);
    line(l, "x-amz-meta-topic", "%s", b->topic);
    line(l, "x-amz-meta-partition", "%" PRId32, b->partition);
    line(l, "x-amz-meta-offsets", "%" PRId64 "-%" PRId64, b->first, b->last);
    line(l, "x-amz-meta-count", "%" PRIu32, b->count);
    line(l, "x-amz-meta-sha256", "%s", sha256_hex);
    if (b->lone_surrogates) line(l, "x-amz-meta-lone-surrogates", "%" PRIu32, b->lone_surrogates);
}

void s3_put_request(struct s3_config *c, const struct config *cfg, const struct batch *b,
                    int64_t now_s, struct buf *url, struct curl_slist **ret_headers) {
    char body_sha256[HEX_LEN(SHA256_LEN) + 1];
    hex(b->body_sha256, SHA256_LEN, body_sha256);
    struct s3_request request = {
        .method = "PUT", .key = b->key, .body_sha256 = body_sha256, .more = &c->fixed};
    s3_request_begin(&request, c, now_s);
    batch_lines(&request.lines, b);
    checksum(&request.lines, cfg, b);
    retention(&request.lines, cfg, now_s);
    must(s3_request_end(&request, c, url, ret_headers));
}
