#include "worker/base/trouble.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/base/outcome.h"

enum when { AT_ONCE, LATER, NEVER };

static const struct {
    enum when when;
    const char *name, *begins, *ends, *advice;
} causes[TROUBLE_CAUSES] = {
#define TROUBLE(id, when, name, begins, ends, advice)                                              \
    [TROUBLE_##id] = {when, name, begins, ends, advice},
#include "worker/base/troubles.def"
};

struct condition {
    int owner;
    enum trouble cause;
    char place[TROUBLE_PLACE_MAX];
    char detail[TROUBLE_DETAIL_MAX];
    int64_t since_ms;
};

struct troubles {
    pthread_mutex_t mutex;
    struct condition v[TROUBLES_MAX];
    size_t n;
    bool full; /* said so */
};

struct troubles *troubles_new(void) {
    struct troubles *t = xcalloc(1, sizeof *t);
    pthread_mutex_init(&t->mutex, NULL);
    return t;
}

void troubles_free(struct troubles *t) {
    if (!t) return;
    pthread_mutex_destroy(&t->mutex);
    free(t);
}

const char *trouble_name(enum trouble cause) {
    return causes[cause].name;
}

const char *trouble_text(enum trouble cause) {
    return causes[cause].begins;
}

const char *trouble_advice(enum trouble cause) {
    return causes[cause].advice;
}

/* ---- setting ---- */

static struct condition *find(struct troubles *t, int owner, enum trouble cause,
                              const char *place) {
    for (size_t i = 0; i < t->n; i++) {
        struct condition *c = &t->v[i];
        if (c->owner == owner && c->cause == cause && strcmp(c->place, place) == 0) return c;
    }
    return NULL;
}

static bool is_known(const struct troubles *t, const struct condition *like) {
    for (size_t i = 0; i < t->n; i++)
        if (t->v[i].cause == like->cause && strcmp(t->v[i].place, like->place) == 0) return true;
    return false;
}

static void say(enum log_level level, const char *event, const struct condition *c) {
    if (!log_on(level)) return;
    struct log_line line = {event, {LOG_S("cause", causes[c->cause].name)}};
    size_t n = 1;
    if (c->place[0]) line.fields[n++] = LOG_S("place", c->place);
    if (level == LOG_INFO)
        line.fields[n++] = LOG_I("after_ms", clock_ms(CLOCK_MONOTONIC) - c->since_ms);
    else if (c->detail[0])
        line.fields[n++] = LOG_S("error", c->detail);
    if (level != LOG_INFO) line.fields[n++] = LOG_S("advice", causes[c->cause].advice);
    log_write(level, &line);
}

static void begin(struct troubles *t, const struct condition *c) {
    if (t->n == TROUBLES_MAX) {
        if (!t->full)
            log_error("more keeps events from flowing than is listed",
                      LOG_I("listed", TROUBLES_MAX));
        t->full = true;
        return;
    }
    bool known = is_known(t, c);
    t->v[t->n++] = *c;
    if (!known)
        say(causes[c->cause].when == NEVER ? LOG_WARN : LOG_ERROR, causes[c->cause].begins, c);
}

static void end(struct troubles *t, struct condition *at) {
    struct condition c = *at;
    *at = t->v[--t->n];
    t->full = false;
    if (!is_known(t, &c)) say(LOG_INFO, causes[c.cause].ends, &c);
}

void trouble_set(struct troubles *t, int owner, enum trouble cause, const char *place,
                 const char *detail, int64_t since_ms) {
    struct condition c = {.owner = owner, .cause = cause, .since_ms = since_ms};
    if (!since_ms) c.since_ms = clock_ms(CLOCK_MONOTONIC);
    snprintf(c.place, sizeof c.place, "%s", place ? place : "");
    outcome_text(c.detail, sizeof c.detail, str_c(detail ? detail : ""));
    pthread_mutex_lock(&t->mutex);
    struct condition *there = find(t, owner, cause, c.place);
    if (there)
        memcpy(there->detail, c.detail, sizeof there->detail);
    else
        begin(t, &c);
    pthread_mutex_unlock(&t->mutex);
}

void trouble_clear(struct troubles *t, int owner, enum trouble cause, const char *place) {
    pthread_mutex_lock(&t->mutex);
    struct condition *c = find(t, owner, cause, place ? place : "");
    if (c) end(t, c);
    pthread_mutex_unlock(&t->mutex);
}

void trouble_tell(struct troubles *t, bool holds, int owner, enum trouble cause, const char *place,
                  const char *detail, int64_t since_ms) {
    if (holds)
        trouble_set(t, owner, cause, place, detail, since_ms);
    else
        trouble_clear(t, owner, cause, place);
}

void trouble_drop(struct troubles *t, int owner, const char *place) {
    pthread_mutex_lock(&t->mutex);
    for (size_t i = t->n; i-- > 0;)
        if (t->v[i].owner == owner && (!place || strcmp(t->v[i].place, place) == 0))
            end(t, &t->v[i]);
    pthread_mutex_unlock(&t->mutex);
}

/* ---- telling ---- */

static int by_weight(const void *a, const void *b) {
    const struct trouble_report *x = a, *y = b;
    if (x->cause != y->cause) return x->cause < y->cause ? -1 : 1;
    return (x->for_ms < y->for_ms) - (x->for_ms > y->for_ms);
}

static bool fails(enum trouble cause, int64_t for_ms, int64_t patience_ms) {
    switch (causes[cause].when) {
    case AT_ONCE:
        return true;
    case LATER:
        return for_ms >= patience_ms;
    case NEVER:
        break;
    }
    return false;
}

/* One for each cause and place, with the longest of its owners. */
static void add(struct trouble_report *all, size_t *n, const struct condition *c, int64_t now_ms) {
    int64_t for_ms = now_ms > c->since_ms ? now_ms - c->since_ms : 0;
    for (size_t i = 0; i < *n; i++) {
        if (all[i].cause != c->cause || strcmp(all[i].place, c->place) != 0) continue;
        if (all[i].for_ms < for_ms) all[i].for_ms = for_ms;
        return;
    }
    struct trouble_report *r = &all[(*n)++];
    r->cause = c->cause;
    memcpy(r->place, c->place, sizeof r->place);
    memcpy(r->detail, c->detail, sizeof r->detail);
    r->for_ms = for_ms;
}

size_t troubles_list(struct troubles *t, int64_t patience_ms, struct trouble_report **ret) {
    int64_t now_ms = clock_ms(CLOCK_MONOTONIC);
    size_t n = 0;
    pthread_mutex_lock(&t->mutex);
    struct trouble_report *all = xcalloc(t->n + 1, sizeof *all);
    for (size_t i = 0; i < t->n; i++) add(all, &n, &t->v[i], now_ms);
    pthread_mutex_unlock(&t->mutex);
    for (size_t i = 0; i < n; i++) all[i].unready = fails(all[i].cause, all[i].for_ms, patience_ms);
    qsort(all, n, sizeof *all, by_weight);
    *ret = all;
    return n;
}

void trouble_print(const struct trouble_report *r, struct buf *out) {
    buf_printf(out, "%s", causes[r->cause].begins);
    if (r->place[0]) buf_printf(out, ": %s", r->place);
    buf_printf(out, " for %" PRId64 " s", r->for_ms / 1000);
    if (r->detail[0]) buf_printf(out, " (%s)", r->detail);
    buf_printf(out, ": %s", causes[r->cause].advice);
}
