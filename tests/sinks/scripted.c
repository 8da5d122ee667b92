#include "tests/sinks/scripted.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "worker/base/clock.h"
#include "worker/base/table.h"

#define STEPS_MAX 64

enum act { ACT_OK, ACT_RETRY, ACT_PERMANENT, ACT_CREDENTIAL, ACT_SLOW, ACT_RETRY_AFTER, ACT_HANG };

struct step {
    enum act act;
    int ms;
};

struct scripted_config {
    struct step steps[STEPS_MAX];
    size_t n;
    struct table attempts; /* shared by nobody: one destination, one lane */
};

/* Attempts so far, by key; as many as the test has keys. */
struct attempts {
    struct table_node node;
    char *key;
    uint32_t n;
};

struct play {
    struct batch *batch;
    struct step step;
    uint32_t attempt;
    int64_t due_ms; /* INT64_MAX: not before it is cancelled */
    bool cancelled;
    struct play *next;
};

scripted_observer_fn *scripted_observer;

static bool parse_step(const char *text, struct step *ret) {
    static const struct {
        const char *name;
        enum act act;
        bool ms;
    } names[] = {{"ok", ACT_OK, false},
                 {"retry", ACT_RETRY, false},
                 {"permanent", ACT_PERMANENT, false},
                 {"credential", ACT_CREDENTIAL, false},
                 {"slow:", ACT_SLOW, true},
                 {"retry-after:", ACT_RETRY_AFTER, true},
                 {"hang", ACT_HANG, false}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t n = strlen(names[i].name);
        if (names[i].ms ? strncmp(text, names[i].name, n) != 0 : strcmp(text, names[i].name) != 0)
            continue;
        long ms = names[i].ms ? strtol(text + n, NULL, 10) : 0;
        if (ms < 0 || ms > INT_MAX) return false;
        *ret = (struct step){names[i].act, (int)ms};
        return true;
    }
    return false;
}

static bool refuse(struct outcome *reterr, const char *what) {
    *reterr = outcome_fail(VERDICT_PERMANENT, FAULT_DATA, "invalid-sink", "%s", what);
    return false;
}

static bool parse(const struct config *cfg, const cJSON *sink, struct destination *ret,
                  struct outcome *reterr) {
    (void)cfg;
    bool bad = false;
    const cJSON *name = sink_field(sink, "name", &bad, reterr);
    const cJSON *prefix = bad ? NULL : sink_field(sink, "prefix", &bad, reterr);
    const cJSON *outcomes = bad ? NULL : sink_field(sink, "outcomes", &bad, reterr);
    if (bad) return false;
    int n = cJSON_GetArraySize(outcomes);
    if (!cJSON_IsArray(outcomes) || n < 1 || n > STEPS_MAX)
        return refuse(reterr, "sink.outcomes must hold 1 to 64 steps");
    struct scripted_config *c = xcalloc(1, sizeof *c);
    for (const cJSON *o = outcomes->child; o; o = o->next)
        if (!cJSON_IsString(o) || !parse_step(o->valuestring, &c->steps[c->n++])) {
            free(c);
            return refuse(reterr, "sink.outcomes holds an unknown step");
        }
    const char *text = cJSON_IsString(name) ? name->valuestring : "";
    char label[LABEL_MAX];
    snprintf(label, sizeof label, "scripted://%s", text);
    outcome_text(ret->label, sizeof ret->label, str_c(label));
    struct sha256_ctx *h = sha256_begin();
    sha256_add(h, "scripted", 9);
    sha256_add(h, text, strlen(text) + 1);
    sha256_add(h, c->steps, sizeof c->steps);
    sha256_end(h, ret->identity);
    ret->prefix = xstrdup(cJSON_IsString(prefix) ? prefix->valuestring : "");
    hex(ret->identity, PLACE_LEN / 2, ret->place);
    ret->config = c;
    return true;
}

static void free_attempts(void *context, struct table_node *node) {
    struct attempts *a = TABLE_ENTRY(node, struct attempts, node);
    (void)context;
    free(a->key);
    free(a);
}

static void free_config(void *config) {
    struct scripted_config *c = config;
    if (!c) return;
    table_each(&c->attempts, free_attempts, NULL);
    table_free(&c->attempts);
    free(c);
}

static uint32_t count_attempt(struct scripted_config *c, const char *key) {
    uint64_t hash = keyed_hash(key, strlen(key));
    for (struct table_node *at = table_first(&c->attempts, hash); at; at = table_next(at)) {
        struct attempts *a = TABLE_ENTRY(at, struct attempts, node);
        if (strcmp(a->key, key) == 0) return ++a->n;
    }
    struct attempts *a = xcalloc(1, sizeof *a);
    a->key = xstrdup(key);
    a->n = 1;
    table_add(&c->attempts, &a->node, hash);
    return 1;
}

static struct play **list_of(struct sink_env *env) {
    return (struct play **)sink_state(env, &scripted_sink);
}

static void submit(struct sink_env *env, struct batch *b) {
    struct scripted_config *c = b->dest->config;
    struct play *p = xcalloc(1, sizeof *p);
    p->batch = b;
    p->attempt = count_attempt(c, b->key);
    p->step = c->steps[p->attempt <= c->n ? p->attempt - 1 : c->n - 1];
    if (p->step.act == ACT_HANG)
        p->due_ms = INT64_MAX;
    else if (p->step.act == ACT_SLOW)
        p->due_ms = clock_ms(CLOCK_MONOTONIC) + p->step.ms;
    b->sink_state = p;
    struct play **at = list_of(env);
    while (*at) at = &(*at)->next;
    *at = p;
}

static void cancel(struct sink_env *env, struct batch *b) {
    (void)env;
    struct play *p = b->sink_state;
    p->cancelled = true;
    p->due_ms = 0;
}

static struct outcome outcome_of(const struct play *p) {
    if (p->cancelled)
        return outcome_fail(VERDICT_RETRY, FAULT_SYSTEM, "cancelled", "given up by the worker");
    struct outcome o;
    switch (p->step.act) {
    case ACT_OK:
    case ACT_SLOW:
    case ACT_HANG:
        return outcome_ok(200);
    case ACT_RETRY:
        return outcome_fail(VERDICT_RETRY, FAULT_TENANT, "scripted-retry", NULL);
    case ACT_RETRY_AFTER:
        o = outcome_fail(VERDICT_RETRY, FAULT_TENANT, "scripted-retry", NULL);
        o.retry_after_ms = (uint32_t)p->step.ms;
        return o;
    case ACT_PERMANENT:
        return outcome_fail(VERDICT_PERMANENT, FAULT_TENANT, "scripted-permanent", NULL);
    case ACT_CREDENTIAL:
        o = outcome_fail(VERDICT_PERMANENT, FAULT_TENANT, "scripted-credential", NULL);
        o.credential = true;
        return o;
    }
    abort(); /* not one of the acts */
}

/* Takes the first play that is due off the list. */
static struct play *take_due(struct play **at, int64_t now) {
    for (; *at; at = &(*at)->next)
        if ((*at)->due_ms <= now) {
            struct play *p = *at;
            *at = p->next;
            return p;
        }
    return NULL;
}

static int tick(struct sink_env *env, int64_t now_ms) {
    (void)now_ms; /* due times are this file's own clock's */
    int64_t now = clock_ms(CLOCK_MONOTONIC);
    size_t bound = 0;
    for (struct play *p = *list_of(env); p; p = p->next) bound++; /* not what done() submits */
    for (struct play *p; bound > 0 && (p = take_due(list_of(env), now)); bound--) {
        struct outcome o = outcome_of(p);
        struct batch *b = p->batch;
        b->sink_state = NULL;
        if (scripted_observer) scripted_observer(b, p->attempt, &o);
        free(p);
        b->done(b, &o);
    }
    int64_t next = INT64_MAX;
    for (struct play *p = *list_of(env); p; p = p->next)
        if (p->due_ms < next) next = p->due_ms;
    if (next == INT64_MAX) return -1;
    return next <= now ? 0 : next - now > 60000 ? 60000 : (int)(next - now);
}

static void close_lane(struct sink_env *env) {
    for (struct play *p = *list_of(env); p; p = p->next) cancel(env, p->batch);
    while (*list_of(env)) tick(env, 0);
}

static int64_t retry_window_ms(const struct config *cfg) {
    return cfg->retry_window_s3;
}

const struct sink_type scripted_sink = {
    .name = "scripted",
    .shape = SHAPE_OBJECT,
    .parse = parse,
    .free_config = free_config,
    .retry_window_ms = retry_window_ms,
    .submit = submit,
    .cancel = cancel,
    .tick = tick,
    .close = close_lane,
};
