/* Webhooks: a POST per event, signed after Standard Webhooks 1.0
 * (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md). */
#include "sinks/webhook/webhook.h"

#include <curl/curl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "config/config.h"
#include "sinks/http/http.h"

#define TRACEPARENT_LEN 55
#define TRACESTATE_MAX 512
#define TRACESTATE_MEMBERS 32
#define SIGNING_KEY_MAX 64

/* A request under way. */
struct call {
    struct http_request req;
    struct batch *batch;
    struct curl_slist *last; /* of the request's own headers: the destination's are hung on it */
};

/* --- Header values --- */

void webhook_id(struct str id, char ret[WEBHOOK_ID_MAX + 1]) {
    size_t n = 0;
    for (size_t i = 0; i < id.n; i++) {
        unsigned char c = (unsigned char)id.p[i];
        bool plain = c > ' ' && c < 0x7f && c != '%';
        if (n + (plain ? 1 : 3) > WEBHOOK_ID_MAX) {
            uint8_t digest[SHA256_LEN];
            sha256(id.p, id.n, digest);
            memcpy(ret, "sha256:", 7);
            hex(digest, sizeof digest, ret + 7);
            return;
        }
        if (plain)
            ret[n++] = (char)c;
        else
            n += (size_t)snprintf(ret + n, 4, "%%%02X", c);
    }
    ret[n] = '\0';
}

/* Lower-case hex, not all of it zeros. */
static bool is_trace_hex(const char *p, size_t n, bool zeros_allowed) {
    bool zeros = true;
    for (size_t i = 0; i < n; i++) {
        if (!((p[i] >= '0' && p[i] <= '9') || (p[i] >= 'a' && p[i] <= 'f'))) return false;
        zeros = zeros && p[i] == '0';
    }
    return zeros_allowed || !zeros;
}

bool traceparent_valid(struct str s) {
    /* Versions to come may be longer; what they add is not ours to pass on unread. */
    return s.n == TRACEPARENT_LEN && s.p[2] == '-' && s.p[35] == '-' && s.p[52] == '-' &&
           is_trace_hex(s.p, 2, true) && memcmp(s.p, "ff", 2) != 0 &&
           is_trace_hex(s.p + 3, 32, false) && is_trace_hex(s.p + 36, 16, false) &&
           is_trace_hex(s.p + 53, 2, true);
}

static bool tracestate_member(struct str m) {
    m = str_trim(m);
    if (m.n == 0) return true; /* empty members are allowed */
    const char *equals = memchr(m.p, '=', m.n);
    if (!equals) return false;
    size_t key = (size_t)(equals - m.p), value = m.n - key - 1;
    if (key == 0 || key > 256 || value == 0 || value > 256) return false;
    for (size_t i = 0; i < key; i++) {
        char c = m.p[i];
        bool start = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
        if (!start && (i == 0 || !c || !strchr("_-*/@", c))) return false;
    }
    for (size_t i = 0; i < value; i++) {
        char c = equals[1 + i];
        if (c < ' ' || c >= 0x7f || c == '=') return false;
    }
    return true;
}

bool tracestate_valid(struct str s) {
    if (s.n == 0 || s.n > TRACESTATE_MAX) return false;
    size_t members = 0;
    for (size_t start = 0, i = 0; i <= s.n; i++) {
        if (i < s.n && s.p[i] != ',') continue;
        if (!tracestate_member((struct str){s.p + start, i - start})) return false;
        members++;
        start = i + 1;
    }
    return members <= TRACESTATE_MEMBERS;
}

/* --- Requests --- */

static void add_header(struct call *c, const char *name, struct str value) {
    struct buf line;
    buf_init(&line, strlen(name) + value.n + 2);
    buf_puts(&line, name);
    buf_puts(&line, ": ");
    buf_str(&line, value);
    struct curl_slist *list = curl_slist_append(c->req.headers, buf_cstr(&line));
    if (!list) abort();
    c->req.headers = list;
    c->last = c->last ? c->last->next : list;
    buf_free(&line);
}

void webhook_sign(struct buf *out, const char *secret, const char *id, const char *timestamp,
                  struct str body) {
    struct buf key, content;
    buf_init(&key, SIGNING_KEY_MAX);
    /* Configuration has checked it: anything else is a bug. */
    if (strncmp(secret, "whsec_", 6) != 0 || !unbase64_add(&key, str_c(secret + 6))) abort();
    buf_init(&content, WEBHOOK_ID_MAX + 32 + body.n);
    buf_printf(&content, "%s.%s.", id, timestamp);
    buf_str(&content, body);
    uint8_t mac[SHA256_LEN];
    hmac_sha256(key.p, key.n, content.p, content.n, mac);
    buf_puts(out, "v1,");
    base64_add(out, mac, sizeof mac);
    buf_wipe(&key);
    buf_free(&content);
}

/* A signature for each secret: during a rotation the receiver may know either. */
static void sign(struct call *c, const struct list *secrets, const char *id, const char *now) {
    const struct batch *b = c->batch;
    struct buf all;
    buf_init(&all, secrets->n * 64);
    for (size_t i = 0; i < secrets->n; i++) {
        if (i) buf_putc(&all, ' ');
        webhook_sign(&all, secrets->v[i], id, now, (struct str){b->body, b->body_len});
    }
    add_header(c, "webhook-signature", (struct str){all.p, all.n});
    buf_free(&all);
}

static void set_headers(struct call *c, const struct config *cfg) {
    const struct batch *b = c->batch;
    const struct webhook *w = b->dest->config;
    char id[WEBHOOK_ID_MAX + 1], now[24], origin[300];
    struct str event = b->event_id;
    if (event.n == 0) {
        snprintf(origin, sizeof origin, "%s:%" PRId32 ":%" PRId64, b->topic, b->partition,
                 b->first);
        event = str_c(origin);
    }
    webhook_id(event, id);
    snprintf(now, sizeof now, "%" PRId64, (int64_t)time(NULL));
    add_header(c, "webhook-id", str_c(id));
    add_header(c, "webhook-timestamp", str_c(now));
    if (cfg->webhook_secrets.n) sign(c, &cfg->webhook_secrets, id, now);
    if (traceparent_valid(b->traceparent)) {
        add_header(c, "traceparent", b->traceparent);
        if (tracestate_valid(b->tracestate)) add_header(c, "tracestate", b->tracestate);
    }
    c->last->next = w->headers;
}

static struct outcome judge(const struct http_request *req) {
    int status = req->status;
    if (status >= 200 && status < 300) return outcome_ok(status);
    char why[16];
    snprintf(why, sizeof why, "http-%d", status);
    const char *what = status == 410                    ? "the endpoint is gone"
                       : status >= 300 && status < 400  ? "redirects are not followed"
                       : status == 401 || status == 403 ? "the endpoint refuses the credentials"
                                                        : "the endpoint did not take the event";
    struct outcome o = outcome_fail(status == 410 ? VERDICT_PERMANENT : VERDICT_RETRY, FAULT_TENANT,
                                    why, "%s (HTTP %d)", what, status);
    o.status = status;
    o.retry_after_ms = req->retry_after_ms;
    o.credential = status == 401 || status == 403;
    return o;
}

static void on_done(struct http_request *req, const struct outcome *transport) {
    struct call *c = req->owner;
    struct batch *b = c->batch;
    struct outcome o = transport->verdict == VERDICT_OK ? judge(req) : *transport;
    if (b->dest->secret_host && o.detail[0]) /* may quote it */
        snprintf(o.detail, sizeof o.detail, "(not told: the host holds one of the sink's secrets)");
    c->last->next = NULL; /* the rest is the destination's */
    http_request_clear(req);
    free(c);
    b->sink_state = NULL;
    b->done(b, &o);
}

static void submit(struct sink_env *env, struct batch *b) {
    struct webhook *w = b->dest->config;
    struct call *c = xcalloc(1, sizeof *c);
    c->batch = b;
    set_headers(c, env->cfg);
    c->req.method = "POST";
    c->req.url = w->url;
    c->req.body = b->body;
    c->req.body_len = b->body_len;
    c->req.needs = HTTP_HEAD;
    c->req.workspace = b->workspace;
    c->req.mtls = true;
    c->req.passed = &w->passed;
    c->req.done = on_done;
    c->req.owner = c;
    b->sink_state = c;
    http_submit(env->http, &c->req);
}

static void cancel(struct sink_env *env, struct batch *b) {
    struct call *c = b->sink_state;
    if (c) http_cancel(env->http, &c->req);
}

static int64_t retry_window_ms(const struct config *cfg) {
    return cfg->retry_window_webhook;
}

const struct sink_type webhook_sink = {
    .name = "webhook",
    .shape = SHAPE_POST,
    .parse = webhook_parse,
    .free_config = webhook_free,
    .size = webhook_size,
    .retry_window_ms = retry_window_ms,
    .submit = submit,
    .cancel = cancel,
};
