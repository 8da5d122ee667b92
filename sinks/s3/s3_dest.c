#include <arpa/inet.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "sinks/egress.h"
#include "sinks/s3/s3.h"
#include "sinks/s3/s3_error.h"
#include "worker/base/conceal.h"
#include "worker/base/log.h"

#define ENDPOINT_MAX 1024
#define PREFIX_MAX 512
#define CREDENTIAL_MAX 256
#define TOKEN_MAX 8192

/* The sink object's fields, borrowed from it. */
struct fields {
    const char *bucket, *region, *access_key_id, *secret_access_key, *session_token, *prefix,
        *endpoint; /* the last three may be NULL */
    bool force_path_style;
};

/* An endpoint taken apart; owned. */
struct endpoint {
    bool https;
    char *authority;
    char *base_path;
    bool ip;
};

/* A text field; *ret is NULL when it is absent and may be. */
static bool text(const cJSON *sink, const char *name, bool required, const char **ret,
                 struct outcome *reterr) {
    bool bad = false;
    const cJSON *item = sink_field(sink, name, &bad, reterr);
    if (bad) return false;
    *ret = NULL;
    if (item && !cJSON_IsString(item))
        return sink_refuse(reterr, FAULT_DATA, name, "is not a string");
    if (item && item->valuestring[0]) *ret = item->valuestring;
    if (required && !*ret) return sink_refuse(reterr, FAULT_DATA, name, "is missing or empty");
    return true;
}

static bool flag(const cJSON *sink, const char *name, bool *ret, struct outcome *reterr) {
    bool bad = false;
    const cJSON *item = sink_field(sink, name, &bad, reterr);
    if (bad) return false;
    if (item && !cJSON_IsBool(item))
        return sink_refuse(reterr, FAULT_DATA, name, "is not a boolean");
    *ret = cJSON_IsTrue(item);
    return true;
}

/* May stand in a path, as one segment. */
static bool bucket_valid(const char *b) {
    // NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): a required field
    size_t n = strlen(b);
    if (n < 3 || n > 255 || !char_is_alnum(b[0])) return false;
    for (size_t i = 0; i < n; i++)
        if (!char_is_alnum(b[i]) && !strchr("._-", b[i])) return false;
    return true;
}

/* May stand in front of the endpoint's host, as one label: no dot, so a wildcard certificate fits
 * and the host that is reached stays below the endpoint's. */
static bool bucket_is_label(const char *b) {
    size_t n = strlen(b);
    if (n > 63 || b[n - 1] == '-') return false;
    for (size_t i = 0; i < n; i++)
        if ((!char_is_alnum(b[i]) && b[i] != '-') || char_lower(b[i]) != b[i]) return false;
    return true;
}

/* Goes into header values: visible ASCII, so no line break either. */
static bool visible(const char *s, size_t max) {
    size_t n = strlen(s);
    for (size_t i = 0; i < n; i++)
        if (s[i] <= ' ' || s[i] >= 0x7f) return false;
    return n <= max;
}

/* A secret only feeds an HMAC: blanks and characters beyond ASCII do no harm there. */
static bool has_control(const char *s) {
    while ((unsigned char)*s >= 0x20 && *s != 0x7f) s++;
    return *s;
}

/* The prefix may end inside a segment, so what follows its last '/' must not be a dot either. */
static bool prefix_valid(const char *p) {
    struct str text = str_c(p);
    return text.n <= PREFIX_MAX && utf8_is_line(text) && !path_climbs(p);
}

static bool read_fields(const cJSON *sink, struct fields *f, struct outcome *reterr) {
    return text(sink, "bucket", true, &f->bucket, reterr) &&
           text(sink, "region", true, &f->region, reterr) &&
           text(sink, "accessKeyId", true, &f->access_key_id, reterr) &&
           text(sink, "secretAccessKey", true, &f->secret_access_key, reterr) &&
           text(sink, "sessionToken", false, &f->session_token, reterr) &&
           text(sink, "prefix", false, &f->prefix, reterr) &&
           text(sink, "endpoint", false, &f->endpoint, reterr) &&
           flag(sink, "forcePathStyle", &f->force_path_style, reterr);
}

/* Labels, keys and the ledger show bucket, prefix and host: a credential put there by mistake must
 * not come out. */
static bool shows_secret(const struct fields *f) {
    const char *const shown[] = {f->bucket, f->prefix, f->endpoint, f->region};
    const char *const secrets[] = {f->access_key_id, f->secret_access_key, f->session_token};
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        for (size_t k = 0; k < sizeof secrets / sizeof *secrets; k++)
            if (conceal_shows(str_c(shown[i]), str_c(secrets[k]))) return true;
    return false;
}

static bool check_fields(const struct fields *f, struct outcome *reterr) {
    if (!bucket_valid(f->bucket))
        return sink_refuse(reterr, FAULT_TENANT, "bucket", "is not a bucket name");
    if (!f->endpoint && !s3_region_is_label(str_c(f->region)))
        return sink_refuse(reterr, FAULT_TENANT, "region",
                           "is not a region of AWS, and there is no sink.endpoint");
    if (!s3_region_valid(str_c(f->region)))
        return sink_refuse(
            reterr, FAULT_TENANT, "region",
            "is not a region name: 64 printable characters at most, no blank, comma, slash or =");
    if (!visible(f->access_key_id, CREDENTIAL_MAX) || strchr(f->access_key_id, '/'))
        return sink_refuse(reterr, FAULT_TENANT, "accessKeyId", "is not an access key id");
    if (strlen(f->secret_access_key) > CREDENTIAL_MAX || has_control(f->secret_access_key))
        return sink_refuse(reterr, FAULT_TENANT, "secretAccessKey",
                           "is too long, or has control characters");
    if (f->session_token && !visible(f->session_token, TOKEN_MAX))
        return sink_refuse(reterr, FAULT_TENANT, "sessionToken", "is not a session token");
    if (f->prefix && !prefix_valid(f->prefix))
        return sink_refuse(reterr, FAULT_TENANT, "prefix",
                           "is too long, not UTF-8, or has control characters or dot segments");
    if (shows_secret(f))
        return sink_refuse(
            reterr, FAULT_TENANT, "bucket, region, prefix or endpoint",
            "contains a credential, or the key's id: choose another name, or another key");
    return true;
}

static char *part(CURLU *u, CURLUPart what, unsigned flags) {
    char *from_curl = NULL, *ret = NULL;
    if (curl_url_get(u, what, &from_curl, flags) == CURLUE_OK) ret = xstrdup(from_curl);
    curl_free(from_curl);
    return ret;
}

/* Lower-case letters, digits, dots and hyphens, or an address in brackets. */
static bool host_valid(const char *h) {
    bool bracket = h[0] == '[';
    size_t n = strlen(h);
    if (n == 0 || n > 253) return false;
    for (size_t i = 0; i < n; i++)
        if (!char_is_alnum(h[i]) && !strchr(bracket ? "[]:." : ".-_", h[i])) return false;
    return true;
}

static bool base_path_valid(const char *p) {
    for (const char *s = p; *s; s++)
        if (!char_is_alnum(*s) && !strchr("-._~/", *s)) return false;
    return prefix_valid(p) && !strstr(p, "//");
}

/* host[:port] in the form of the Host header. */
static char *make_authority(const char *host, const char *port, bool https) {
    struct buf b;
    buf_init(&b, ENDPOINT_MAX);
    for (const char *s = host; *s; s++) buf_putc(&b, char_lower(*s));
    if (port && strcmp(port, https ? "443" : "80") != 0) buf_printf(&b, ":%s", port);
    char *ret = xstrdup(buf_cstr(&b));
    buf_free(&b);
    return ret;
}

static void endpoint_free(struct endpoint *e) {
    free(e->authority);
    free(e->base_path);
}

/* False when it has a part an endpoint can't have, or characters that would not survive signing. */
static bool endpoint_split(const char *url, struct endpoint *ret) {
    if (strlen(url) > ENDPOINT_MAX) return false;
    CURLU *u = curl_url();
    if (!u) abort();
    bool parsed = curl_url_set(u, CURLUPART_URL, url, CURLU_PATH_AS_IS) == CURLUE_OK;
    char *scheme = part(u, CURLUPART_SCHEME, 0), *host = part(u, CURLUPART_HOST, 0),
         *port = part(u, CURLUPART_PORT, 0), *path = part(u, CURLUPART_PATH, 0);
    bool https = scheme && strcmp(scheme, "https") == 0;
    bool ok = parsed && (https || (scheme && strcmp(scheme, "http") == 0)) &&
              !strpbrk(url, "?#@ \t\r\n\\") && host && host_valid(host) && path &&
              base_path_valid(path);
    if (ok) {
        struct in_addr v4;
        size_t n = strlen(path);
        ret->https = https;
        ret->ip = host[0] == '[' || inet_pton(AF_INET, host, &v4) == 1;
        ret->authority = make_authority(host, port, https);
        ret->base_path = xstrndup(path, n > 0 && path[n - 1] == '/' ? n - 1 : n);
    }
    free(scheme);
    free(host);
    free(port);
    free(path);
    curl_url_cleanup(u);
    return ok;
}

/* Listed by the operator as knowing Signature Version 2 only. */
static bool is_sigv2(const struct config *cfg, const struct endpoint *e) {
    bool found = false;
    for (size_t i = 0; i < cfg->s3_sigv2_endpoints.n && !found; i++) {
        struct endpoint listed = {0};
        if (!endpoint_split(cfg->s3_sigv2_endpoints.v[i], &listed)) continue;
        found = !e->https && !listed.https && strcmp(e->authority, listed.authority) == 0 &&
                e->base_path[0] == '\0';
        endpoint_free(&listed);
    }
    return found;
}

/* libs3 cuts longer credentials and signs wrongly with what is left. */
static bool check_sigv2(const struct fields *f, struct outcome *reterr) {
#ifndef RUNSINK_LIBS3
    *reterr = outcome_fail(VERDICT_PERMANENT, FAULT_SYSTEM, "sigv2-not-built",
                           "this runsink was built without libs3");
    (void)f;
    return false;
#else
    if (f->session_token)
        return sink_refuse(reterr, FAULT_TENANT, "sessionToken", "needs Signature Version 4");
    if (strlen(f->access_key_id) > 32)
        return sink_refuse(reterr, FAULT_TENANT, "accessKeyId",
                           "is too long for Signature Version 2");
    if (strlen(f->secret_access_key) > 64)
        return sink_refuse(reterr, FAULT_TENANT, "secretAccessKey",
                           "is too long for Signature Version 2");
    return true;
#endif
}

static bool take_endpoint(const struct config *cfg, const struct fields *f, struct s3_config *c,
                          bool *ret_ip, struct outcome *reterr) {
    struct endpoint e = {0};
    if (!endpoint_split(f->endpoint, &e))
        return sink_refuse(reterr, FAULT_TENANT, "endpoint",
                           "is not an http(s) URL of host, port and plain path");
    c->sigv2 = is_sigv2(cfg, &e);
    struct egress egress = cfg->egress;
    egress.http = egress.http || c->sigv2; /* listing an endpoint is the permission */
    bool ok = egress_url(&egress, f->endpoint, false, reterr);
    if (ok && c->sigv2) ok = check_sigv2(f, reterr);
    if (!ok) {
        endpoint_free(&e);
        return false;
    }
    c->https = e.https;
    c->authority = e.authority;
    c->base_path = e.base_path;
    *ret_ip = e.ip;
    return true;
}

const char *s3_dns_suffix(const char *region) {
    static const struct {
        const char *regions, *suffix;
    } partitions[] = {
        {"cn-", "amazonaws.com.cn"}, {"us-iso-", "c2s.ic.gov"},      {"us-isob-", "sc2s.sgov.gov"},
        {"eusc-", "amazonaws.eu"},   {"us-isof-", "csp.hci.ic.gov"}, {"eu-isoe-", "cloud.adc-e.uk"},
    };
    for (size_t i = 0; i < sizeof partitions / sizeof *partitions; i++)
        if (str_starts(str_c(region), partitions[i].regions)) return partitions[i].suffix;
    return "amazonaws.com";
}

void s3_place(struct s3_config *c) {
    if (c->default_endpoint) {
        struct buf b;
        buf_init(&b, 256);
        buf_printf(&b, "s3.%s.%s", c->region, s3_dns_suffix(c->region));
        free(c->authority);
        c->authority = xstrdup(buf_cstr(&b));
        buf_free(&b);
    }
    struct buf host, root;
    buf_init(&host, ENDPOINT_MAX + 256);
    buf_init(&root, ENDPOINT_MAX + 512);
    buf_puts(&root, c->base_path);
    if (c->path_style)
        buf_printf(&root, "/%s", c->bucket); /* only characters that stand for themselves */
    else
        buf_printf(&host, "%s.", c->bucket);
    buf_puts(&host, c->authority);
    buf_putc(&root, '/');
    free(c->host);
    free(c->path_root);
    c->host = xstrdup(buf_cstr(&host));
    c->passed = 0;
    c->path_root = xstrdup(buf_cstr(&root));
    buf_free(&host);
    buf_free(&root);
}

/* Of a digest (NULL: none) and fields, any of which may be NULL. */
static void hash_fields(const uint8_t *before, const char *const *fields, size_t n,
                        uint8_t ret[SHA256_LEN]) {
    struct sha256_ctx *h = sha256_begin();
    if (before) sha256_add(h, before, SHA256_LEN);
    for (size_t i = 0; i < n; i++) {
        uint32_t len = fields[i] ? (uint32_t)strlen(fields[i]) : UINT32_MAX;
        sha256_add(h, &len, sizeof len);
        if (fields[i]) sha256_add(h, fields[i], len);
    }
    sha256_end(h, ret);
}

static void fill_destination(const struct fields *f, const struct s3_config *c,
                             struct destination *ret) {
    const char *const place[] = {
        "s3",         c->bucket,    f->region,           f->prefix ? f->prefix : "",
        c->authority, c->base_path, c->https ? "s" : "", c->path_style ? "p" : ""};
    const char *const credentials[] = {c->access_key_id, c->secret_access_key, c->session_token};
    uint8_t digest[SHA256_LEN];
    hash_fields(NULL, place, sizeof place / sizeof *place, digest);
    hash_fields(digest, credentials, sizeof credentials / sizeof *credentials, ret->identity);
    hex(digest, PLACE_LEN / 2, ret->place);
    ret->prefix = xstrdup(f->prefix ? f->prefix : "");
    ret->host = keyed_hash(c->host, strlen(c->host));
    ret->config = NULL;
    struct buf prefix; /* encoded: a blank and an "@ host" in it must not pass for the real one */
    buf_init(&prefix, 3 * PREFIX_MAX + 1);
    sigv4_path(&prefix, str_c(ret->prefix));
    char label[LABEL_MAX];
    if (c->default_endpoint)
        snprintf(label, sizeof label, "s3://%.100s/%.80s", c->bucket, buf_cstr(&prefix));
    else
        snprintf(label, sizeof label, "s3://%.63s/%.50s @ %s", c->bucket, buf_cstr(&prefix),
                 c->authority);
    buf_free(&prefix);
    outcome_text(ret->label, sizeof ret->label, str_c(label));
}

static char *keep(const char *secret) {
    if (!secret) return NULL;
    secret_add(str_c(secret));
    return xstrdup(secret);
}

static void forget(char *secret) {
    if (!secret) return;
    secret_drop(str_c(secret));
    wipe(secret, strlen(secret));
    free(secret);
}

bool s3_parse(const struct config *cfg, const cJSON *sink, struct destination *ret,
              struct outcome *reterr) {
    struct fields f = {0};
    if (!read_fields(sink, &f, reterr) || !check_fields(&f, reterr)) return false;
    struct s3_config *c = xcalloc(1, sizeof *c);
    bool ip = false;
    c->default_endpoint = !f.endpoint;
    c->https = true;
    if (f.endpoint && !take_endpoint(cfg, &f, c, &ip, reterr)) {
        free(c);
        return false;
    }
    if (!c->base_path) c->base_path = xstrdup("");
    c->bucket = xstrdup(f.bucket);
    c->access_key_id = keep(f.access_key_id);
    c->secret_access_key = keep(f.secret_access_key);
    c->session_token = keep(f.session_token);
    memcpy(c->region, f.region, strlen(f.region) + 1);
    c->path_style = f.force_path_style || ip || !bucket_is_label(f.bucket);
    s3_place(c);
    s3_fixed_headers(c, cfg);
    fill_destination(&f, c, ret);
    ret->config = c;
    if (f.prefix && f.prefix[strlen(f.prefix) - 1] != '/')
        log_debug("sink.prefix does not end in a slash: keys begin with it and go on without one",
                  LOG_S("destination", ret->label));
    return true;
}

static size_t kept_bytes(const char *secret) {
    return secret ? heap_bytes(secret) + secret_bytes(str_c(secret)) : 0;
}

size_t s3_size(const void *config) {
    const struct s3_config *c = config;
    return heap_bytes(c) + heap_bytes(c->bucket) + kept_bytes(c->access_key_id) +
           kept_bytes(c->secret_access_key) + kept_bytes(c->session_token) +
           heap_bytes(c->authority) + heap_bytes(c->base_path) + heap_bytes(c->host) +
           heap_bytes(c->path_root) + heap_bytes(c->fixed.text.p);
}

void s3_free_config(void *config) {
    struct s3_config *c = config;
    if (!c) return;
    forget(c->access_key_id);
    forget(c->secret_access_key);
    forget(c->session_token);
    buf_wipe(&c->fixed.text);
    free(c->bucket);
    free(c->authority);
    free(c->base_path);
    free(c->host);
    free(c->path_root);
    wipe(c, sizeof *c);
    free(c);
}

/* "bucket.s3.eu-west-1.amazonaws.com", "s3-eu-west-1.amazonaws.com" -> "eu-west-1" */
static bool region_of_host(const char *host, char ret[SIGV4_REGION_MAX + 1]) {
    for (const char *label = host; label; label = strchr(label, '.')) {
        label += *label == '.';
        if (strncmp(label, "s3.", 3) != 0 && strncmp(label, "s3-", 3) != 0) continue;
        const char *from = label + 3;
        size_t n = strcspn(from, ".");
        char region[SIGV4_REGION_MAX + 1] = "";
        if (!from[n] || !s3_region_is_label((struct str){from, n})) continue;
        memcpy(region, from, n);
        if (strcmp(from + n + 1, s3_dns_suffix(region)) != 0) continue;
        memcpy(ret, region, sizeof region);
        return true;
    }
    return false;
}

bool s3_learn_region(struct s3_config *c, int status, const struct s3_error *e,
                     const char *region_header, const char *signed_region) {
    if (status != 301 && status != 307 && status != 400) return false;
    char region[SIGV4_REGION_MAX + 1] = "";
    if (s3_region_valid(str_c(region_header)))
        memcpy(region, region_header, strlen(region_header) + 1);
    else if (e->region[0])
        memcpy(region, e->region, sizeof region);
    else if (!c->default_endpoint || !region_of_host(e->endpoint, region))
        return false;
    if (c->default_endpoint && !s3_region_is_label(str_c(region))) return false;
    if (strcmp(region, signed_region) == 0) return false;
    if (c->region_learned) return strcmp(region, c->region) == 0;
    memcpy(c->region, region, sizeof region);
    c->region_learned = true;
    s3_place(c);
    return true;
}
