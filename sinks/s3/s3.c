#include "sinks/s3/s3.h"

#include <curl/curl.h>
#include <stdlib.h>
#include <time.h>

#include "config/config.h"
#include "sinks/http/http.h"
#include "sinks/s3/s3_error.h"
#include "worker/base/log.h"

#define URL_MAX ((size_t)8192)

/* One PUT under way; batch->sink_state. */
struct put {
    struct sink_env *env;
    struct batch *batch;
    struct http_request request;
    struct buf url;
    char region[SIGV4_REGION_MAX + 1]; /* that it was signed for */
    bool resent;                       /* for the region that the store named */
    bool cancelled;
};

static void finish(struct put *p, const struct outcome *o) {
    struct batch *b = p->batch;
    http_request_clear(&p->request);
    buf_free(&p->url);
    free(p);
    b->sink_state = NULL;
    b->done(b, o);
}

static void answered(struct http_request *, const struct outcome *transport);

static void send_put(struct put *p) {
    struct s3_config *c = p->batch->dest->config;
    memcpy(p->region, c->region, sizeof p->region);
    buf_init(&p->url, URL_MAX);
    p->request = (struct http_request){.method = "PUT",
                                       .body = p->batch->body,
                                       .body_len = p->batch->body_len,
                                       .needs = HTTP_ERROR,
                                       .workspace = p->batch->workspace,
                                       .passed = &c->passed,
                                       .done = answered,
                                       .owner = p};
    s3_want_headers(&p->request);
    s3_put_request(c, p->env->cfg, p->batch, (int64_t)time(NULL), &p->url, &p->request.headers);
    p->request.url = buf_cstr(&p->url);
    http_submit(p->env->http, &p->request);
}

static void resend(struct put *p) {
    const char *region = ((struct s3_config *)p->batch->dest->config)->region;
    log_info("bucket is in another region than its sink says", LOG_S("dest", p->batch->dest->label),
             LOG_S("region", s3_region_is_known(str_c(region)) ? region : "(not one of AWS)"));
    http_request_clear(&p->request);
    buf_free(&p->url);
    p->resent = true;
    send_put(p);
}

static void answered(struct http_request *r, const struct outcome *transport) {
    struct put *p = r->owner;
    if (transport->verdict != VERDICT_OK) {
        struct outcome o = *transport; /* finish() may free what it points to */
        finish(p, &o);
        return;
    }
    struct s3_error error;
    if (s3_accepted(r, &error)) {
        struct outcome o = outcome_ok(r->status);
        finish(p, &o);
        return;
    }
    if (!p->resent && !p->cancelled &&
        s3_learn_region(p->batch->dest->config, r->status, &error, r->kept[S3_REGION], p->region)) {
        resend(p);
        return;
    }
    struct outcome o = s3_outcome(r->status, &error, r->retry_after_ms);
    finish(p, &o);
}

static void submit(struct sink_env *env, struct batch *b) {
#ifdef RUNSINK_LIBS3
    const struct s3_config *c = b->dest->config;
    if (c->sigv2) {
        s3_sigv2_submit(env->cfg, sink_state(env, &s3_sink), b);
        return;
    }
#endif
    struct put *p = xcalloc(1, sizeof *p);
    p->env = env;
    p->batch = b;
    b->sink_state = p;
    send_put(p);
}

static void cancel(struct sink_env *env, struct batch *b) {
#ifdef RUNSINK_LIBS3
    const struct s3_config *c = b->dest->config;
    if (c->sigv2) {
        s3_sigv2_cancel(b);
        return;
    }
#endif
    struct put *p = b->sink_state;
    p->cancelled = true;
    http_cancel(env->http, &p->request);
}

#ifdef RUNSINK_LIBS3
static int tick(struct sink_env *env, int64_t now_ms) {
    (void)now_ms;
    return s3_sigv2_tick(sink_state(env, &s3_sink));
}

static void close_lane(struct sink_env *env) {
    s3_sigv2_close(sink_state(env, &s3_sink));
}
#endif

static int64_t retry_window_ms(const struct config *cfg) {
    return cfg->retry_window_s3;
}

const struct sink_type s3_sink = {
    .name = "s3",
    .shape = SHAPE_OBJECT,
    .parse = s3_parse,
    .free_config = s3_free_config,
    .size = s3_size,
    .retry_window_ms = retry_window_ms,
    .submit = submit,
    .cancel = cancel,
#ifdef RUNSINK_LIBS3
    .tick = tick,
    .close = close_lane,
#endif
};
