/* Any sink object, as a webhook and as an S3 place: what is accepted makes a request that means
 * what the guard judged. The host that curl will connect to is the one that was checked, and no
 * header line is more than one, or one of those that are ours to set. */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "config/config.h"
#include "sinks/egress.h"
#include "sinks/s3/s3.h"
#include "sinks/webhook/webhook.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(bool ok) {
    if (!ok) abort();
}

static const struct config *configuration(void) {
    static struct config *cfg;
    if (cfg) return cfg;
    struct buf err;
    buf_init(&err, 4096);
    cfg = config_new();
    must(config_set(cfg, "egress.http", "true", "fuzz", &err));
    must(config_set(cfg, "s3.sigv2_endpoints", "http://old.example.com", "fuzz", &err));
    must(config_finish(cfg, &err));
    buf_free(&err);
    return cfg;
}

static char *url_part(const char *url, CURLUPart part) {
    CURLU *u = curl_url();
    char *text = NULL;
    must(u && curl_url_set(u, CURLUPART_URL, url, CURLU_PATH_AS_IS) == CURLUE_OK);
    if (curl_url_get(u, part, &text, 0) != CURLUE_OK) text = NULL;
    curl_url_cleanup(u);
    return text;
}

/* Of a name with its separator: "name: value", or "name;" where there is no value. */
static size_t check_line(const char *line) {
    size_t n = strcspn(line, ":;");
    must(n > 0 && line[n]);
    for (size_t i = 0; i < n; i++) must(line[i] > ' ' && line[i] < 0x7f);
    for (const char *p = line; *p; p++) must((unsigned char)*p >= ' ' || *p == '\t');
    must(!strchr(line, 0x7f));
    must(line[n] == ';' ? line[n + 1] == '\0' : line[n + 1] == ' ');
    return n;
}

static bool named(const char *line, size_t n, const char *name) {
    return strlen(name) == n && strncasecmp(line, name, n) == 0;
}

static void check_headers(const struct curl_slist *headers, const char *const *ours) {
    for (const struct curl_slist *h = headers; h; h = h->next) {
        size_t n = check_line(h->data);
        for (size_t i = 0; ours[i]; i++) must(!named(h->data, n, ours[i]));
        for (const struct curl_slist *o = h->next; o; o = o->next)
            must(strncasecmp(h->data, o->data, n) != 0 || !strchr(":;", o->data[n]));
    }
}

static void check_label(const struct destination *d) {
    const char *end = memchr(d->label, '\0', sizeof d->label);
    must(end && end != d->label);
    for (const char *p = d->label; *p; p++) must(*p >= ' ' && *p < 0x7f);
}

static void check_refusal(const struct outcome *o) {
    must(o->verdict == VERDICT_PERMANENT && o->fault != FAULT_NONE && o->why[0]);
    for (const char *p = o->detail; *p; p++) must(*p >= ' ' && *p < 0x7f);
}

static void check_webhook(const cJSON *sink) {
    static const char *const ours[] = {
        "Host",       "Content-Length",    "Transfer-Encoding", "Connection",  "Expect",     "TE",
        "webhook-id", "webhook-signature", "webhook-timestamp", "traceparent", "tracestate", NULL};
    struct destination d = {0};
    struct outcome o = {0};
    if (!webhook_parse(configuration(), sink, &d, &o)) {
        check_refusal(&o);
        must(!d.config);
        return;
    }
    const struct webhook *w = d.config;
    check_label(&d);
    check_headers(w->headers, ours);
    must(egress_url(&configuration()->egress, w->url, false, &o));
    char *user = url_part(w->url, CURLUPART_USER), *fragment = url_part(w->url, CURLUPART_FRAGMENT);
    must(!user && !fragment);
    webhook_free(d.config);
}

/* The bucket may stand before the host it was checked with, as one label. */
static void check_host(const struct s3_config *c, const char *url) {
    char *host = url_part(url, CURLUPART_HOST);
    must(host != NULL);
    const char *rest = host;
    if (!c->path_style) {
        size_t n = strlen(c->bucket);
        must(strncmp(host, c->bucket, n) == 0 && host[n] == '.' && !memchr(c->bucket, '.', n));
        rest += n + 1;
    }
    size_t n = strlen(rest);
    must(strncmp(c->authority, rest, n) == 0 && (!c->authority[n] || c->authority[n] == ':'));
    curl_free(host);
}

static void check_path(const struct s3_config *c, const struct destination *d, const char *url) {
    char *path = url_part(url, CURLUPART_PATH);
    size_t base = strlen(c->base_path);
    must(path && strncmp(path, c->base_path, base) == 0 && path[base] == '/');
    if (c->path_style) {
        size_t n = strlen(c->bucket);
        must(strncmp(path + base + 1, c->bucket, n) == 0 && path[base + 1 + n] == '/');
    }
    for (const char *p = path; *p; p++) must(*p > ' ' && *p < 0x7f && *p != '\\');
    must(!strstr(path, "/../") && !strstr(path, "/./") && !strpbrk(path, "?#"));
    must(c->bucket && d->prefix && strlen(d->place) == PLACE_LEN);
    curl_free(path);
}

static void check_put(struct destination *d) {
    static const char *const ours[] = {"Content-Length", "Transfer-Encoding", "Connection", NULL};
    struct s3_config *c = d->config;
    struct buf key, url;
    struct curl_slist *headers = NULL;
    buf_init(&key, KEY_MAX);
    buf_init(&url, 8192);
    must(buf_printf(&key, "%sw/p/j/r.json", d->prefix));
    struct batch b = {.dest = d,
                      .key = buf_cstr(&key),
                      .body = "{}",
                      .body_len = 2,
                      .content_type = "application/json",
                      .topic = "runs",
                      .count = 1};
    s3_put_request(c, configuration(), &b, 1700000000, &url, &headers);
    check_headers(headers, ours);
    check_host(c, buf_cstr(&url));
    check_path(c, d, buf_cstr(&url));
    must(!strpbrk(buf_cstr(&url), "?#@"));
    curl_slist_free_all(headers);
    buf_free(&key);
    buf_free(&url);
}

static void check_s3(const cJSON *sink) {
    struct destination d = {0};
    struct outcome o = {0};
    if (!s3_parse(configuration(), sink, &d, &o)) {
        check_refusal(&o);
        must(!d.config && !d.prefix && !d.place[0]);
        return;
    }
    const struct s3_config *c = d.config;
    check_label(&d);
    must(!strstr(d.label, c->secret_access_key) || strlen(c->secret_access_key) < 8);
    check_put(&d);
    free(d.prefix);
    s3_free_config(d.config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    cJSON *sink = cJSON_ParseWithLength((const char *)data, n);
    if (cJSON_IsObject(sink)) {
        check_webhook(sink);
        check_s3(sink);
    }
    cJSON_Delete(sink);
    return 0;
}
