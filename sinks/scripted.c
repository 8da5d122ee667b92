#include "sinks/scripted.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define STEPS_MAX 64
#define BUCKETS 4096

enum act { ACT_OK, ACT_RETRY, ACT_PERMANENT, ACT_CREDENTIAL, ACT_SLOW, ACT_RETRY_AFTER, ACT_HANG };

struct step {
    enum act act;
    int ms;
};

struct scripted_config {
    struct step steps[STEPS_MAX];
    size_t n;
    struct attempts *attempts[BUCKETS]; /* shared by nobody: one destination, one lane */
};

/* Attempts so far, by key; as many as the test has keys. */
struct attempts {
    char *key;
    uint32_t n;
    struct attempts *next;
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

static int64_t monotonic_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

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

static void free_config(void *config) {
    struct scripted_config *c = config;
    for (size_t i = 0; c && i < BUCKETS; i++)
        while (c->attempts[i]) {
            struct attempts *a = c->attempts[i];
            c->attempts[i] = a->next;
            free(a->key);
            free(a);
        }
    free(c);
}

static uint32_t count_attempt(struct scripted_config *c, const char *key) {
    struct attempts **bucket = &c->attempts[keyed_hash(key, strlen(key)) % BUCKETS];
    for (struct attempts *a = *bucket; a; a = a->next)
        if (strcmp(a->key, key) == 0) return ++a->n;
    struct attempts *a = xcalloc(1, sizeof *a);
    a->key = xstrdup(key);
    a->n = 1;
    a->next = *bucket;
    *bucket = a;
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
        p->due_ms = monotonic_ms() + p->step.ms;
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
    int64_t now = monotonic_ms();
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

const struct sink_type scripted_sink = {
    .name = "scripted",
    .shape = SHAPE_OBJECT,
    .internal = true,
    .parse = parse,
    .free_config = free_config,
    .submit = submit,
    .cancel = cancel,
    .tick = tick,
    .close = close_lane,
};
