#include <curl/curl.h>
#include <inttypes.h>
#include <libdeflate.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "sinks/s3/s3.h"
#include "sinks/s3/s3_error.h"

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

void s3_fixed_headers(struct s3_config *c, const struct config *cfg) {
    struct s3_lines *l = &c->fixed;
    lines_init(l);
    if (c->session_token) line_text(l, "x-amz-security-token", c->session_token);
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
        uint32_t crc = libdeflate_crc32(0, b->body, b->body_len);
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

static size_t collect(const struct s3_lines *l, struct sigv4_header *ret) {
    for (size_t i = 0; i < l->n; i++) {
        const char *text = l->text.p + l->v[i].at;
        ret[i].name = (struct str){text, l->v[i].name_len};
        ret[i].value = str_c(text + l->v[i].name_len + 2);
    }
    return l->n;
}

static struct curl_slist *append(struct curl_slist *list, const struct s3_lines *l) {
    for (size_t i = 0; i < l->n; i++) {
        struct curl_slist *longer = curl_slist_append(list, l->text.p + l->v[i].at);
        if (!longer) out_of_memory();
        list = longer;
    }
    return list;
}

static void batch_lines(struct s3_lines *l, const struct batch *b, const char *body_sha256) {
    char sha256_hex[HEX_LEN(SHA256_LEN) + 1];
    hex(b->sha256, SHA256_LEN, sha256_hex);
    line(l, "Content-Type", "%s", b->content_type);
    line(l, "x-amz-content-sha256", "%s", body_sha256);
    line(l, "x-amz-meta-topic", "%s", b->topic);
    line(l, "x-amz-meta-partition", "%" PRId32, b->partition);
    line(l, "x-amz-meta-offsets", "%" PRId64 "-%" PRId64, b->first, b->last);
    line(l, "x-amz-meta-count", "%" PRIu32, b->count);
    line(l, "x-amz-meta-sha256", "%s", sha256_hex);
    if (b->lone_surrogates) line(l, "x-amz-meta-lone-surrogates", "%" PRIu32, b->lone_surrogates);
}

/* The Authorization header, over all the lines. */
static void sign(struct s3_config *c, struct s3_lines *l, struct str path, const char *body_sha256,
                 const char *date) {
    struct sigv4_header headers[2 * S3_LINES_MAX];
    size_t n = collect(&c->fixed, headers);
    n += collect(l, headers + n);
    const struct sigv4_request request = {.method = "PUT",
                                          .path = path,
                                          .headers = headers,
                                          .n_headers = n,
                                          .payload_sha256 = body_sha256};
    const struct sigv4_signer signer = {c->access_key_id, c->secret_access_key, c->region, "s3"};
    struct buf authorization;
    buf_init_secret(&authorization, 4096);
    must(sigv4_sign(&request, &signer, &c->key, date, &authorization));
    line_text(l, "Authorization", buf_cstr(&authorization));
    buf_wipe(&authorization);
}

void s3_put_request(struct s3_config *c, const struct config *cfg, const struct batch *b,
                    int64_t now_s, struct buf *url, struct curl_slist **ret_headers) {
    char date[SIGV4_DATE_LEN + 1], body_sha256[HEX_LEN(SHA256_LEN) + 1];
    sigv4_date(now_s, date);
    hex(b->body_sha256, SHA256_LEN, body_sha256);

    must(buf_printf(url, "%s://%s", c->https ? "https" : "http", c->host));
    size_t path_at = url->n;
    must(sigv4_path(url, str_c(c->path_root)) && sigv4_path(url, str_c(b->key)));

    struct s3_lines lines;
    lines_init(&lines);
    line_text(&lines, "Host", c->host);
    line(&lines, "x-amz-date", "%s", date);
    batch_lines(&lines, b, body_sha256);
    checksum(&lines, cfg, b);
    retention(&lines, cfg, now_s);
    sign(c, &lines, (struct str){url->p + path_at, url->n - path_at}, body_sha256, date);
    *ret_headers = append(append(NULL, &c->fixed), &lines);
    buf_wipe(&lines.text);
}
