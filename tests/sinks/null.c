/* Takes everything and keeps nothing: the pipeline without a network. For tests. */
#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "sinks/sink.h"

extern const struct sink_type null_sink;

/* Batches whose done() is due, as a list through sink_state. */
struct lane {
    struct batch *first, *last;
};

/* {"type":"null","name":"..."}: name, optional, tells destinations apart. */
static bool parse(const struct config *cfg, const cJSON *sink, struct destination *ret,
                  struct outcome *reterr) {
    (void)cfg;
    bool bad = false;
    const cJSON *name = sink_field(sink, "name", &bad, reterr);
    if (bad) return false;
    const char *text = cJSON_IsString(name) ? name->valuestring : "";
    char label[LABEL_MAX];
    snprintf(label, sizeof label, "null://%s", text);
    outcome_text(ret->label, sizeof ret->label, str_c(label));
    struct sha256_ctx *h = sha256_begin();
    sha256_add(h, "null", 5);
    sha256_add(h, text, strlen(text));
    sha256_end(h, ret->identity);
    ret->prefix = xstrdup("");
    hex(ret->identity, PLACE_LEN / 2, ret->place);
    ret->config = NULL;
    return true;
}

static void free_config(void *config) {
    (void)config;
}

static struct lane *lane_of(struct sink_env *env) {
    void **slot = sink_state(env, &null_sink);
    if (!*slot) *slot = xcalloc(1, sizeof(struct lane));
    return *slot;
}

static void submit(struct sink_env *env, struct batch *b) {
    struct lane *l = lane_of(env);
    b->sink_state = NULL;
    if (l->last)
        l->last->sink_state = b;
    else
        l->first = b;
    l->last = b;
}

static int tick(struct sink_env *env, int64_t now_ms) {
    (void)now_ms;
    struct lane *l = lane_of(env);
    struct batch *b = l->first;
    l->first = l->last = NULL; /* a done() may submit more: those wait for the next tick */
    const struct outcome ok = outcome_ok(0);
    while (b) {
        struct batch *next = b->sink_state;
        b->sink_state = NULL;
        b->done(b, &ok);
        b = next;
    }
    return l->first ? 0 : -1;
}

static void close_lane(struct sink_env *env) {
    void **slot = sink_state(env, &null_sink);
    if (!*slot) return;
    while (tick(env, 0) == 0) {
    }
    free(*slot);
    *slot = NULL;
}

static int64_t retry_window_ms(const struct config *cfg) {
    return cfg->retry_window_s3;
}

const struct sink_type null_sink = {
    .name = "null",
    .shape = SHAPE_OBJECT,
    .parse = parse,
    .free_config = free_config,
    .retry_window_ms = retry_window_ms,
    .submit = submit,
    .tick = tick,
    .close = close_lane,
};
