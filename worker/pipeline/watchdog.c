#include "worker/pipeline/watchdog.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/base/buf.h"
#include "worker/base/clock.h"
#include "worker/base/log.h"

#define LOOK_MIN_MS 10
#define LOOK_MAX_MS 1000
#define LOOKS 20        /* in the timeout, at least */
#define CLOSING_TIMES 5 /* a close waits for brokers, several times over */
#define LAST_WORDS_S 5  /* the log may be what the lane hangs in */

struct watchdog {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool stop;
    int64_t timeout_ms, look_ms;
    const struct place **places;
    struct stillness *seen;
    size_t n;
};

static const char *step_name(int step) {
    switch ((enum lane_step)step) {
    case STEP_WAIT:
        return "waiting for the network or Kafka";
    case STEP_KAFKA:
        return "callbacks of the Kafka client";
    case STEP_DECODE:
        return "decoding a record";
    case STEP_BUILD:
        return "building a body";
    case STEP_SEND:
        return "handing a delivery to its sink";
    case STEP_TRANSFER:
        return "requests and answers";
    case STEP_END:
        return "ending a delivery";
    case STEP_SETTLE:
        return "putting a settlement together";
    case STEP_CLOSE:
        return "closing the Kafka clients";
    case STEP_ENDED:
        return "ended";
    }
    return "?";
}

void place_topic(struct place *p, const char *topic, int32_t partition) {
    atomic_store_explicit(&p->partition, partition, memory_order_relaxed);
    snprintf(p->topic, sizeof p->topic, "%s", topic);
}

void stillness_note(struct stillness *s, uint64_t beats, int64_t now_ms, int64_t look_ms) {
    int64_t passed = s->looked_ms ? now_ms - s->looked_ms : 0;
    if (passed > 2 * look_ms) passed = 2 * look_ms;
    s->ms = beats == s->beats ? s->ms + passed : 0;
    s->beats = beats;
    s->looked_ms = now_ms;
}

/* The lane that stands still is not asked for anything. */
static _Noreturn void bark(size_t lane, const struct place *p, int64_t still_ms) {
    int64_t offset = atomic_load(&p->offset);
    alarm(LAST_WORDS_S); /* ends the process if the log does not return */
    if (offset >= 0)
        log_error("a lane stands still: the process ends, to be started anew", LOG_I("lane", lane),
                  LOG_S("at", step_name(atomic_load(&p->step))), LOG_S("topic", p->topic),
                  LOG_I("partition", atomic_load(&p->partition)), LOG_I("offset", offset),
                  LOG_I("still_ms", still_ms));
    else
        log_error("a lane stands still: the process ends, to be started anew", LOG_I("lane", lane),
                  LOG_S("at", step_name(atomic_load(&p->step))), LOG_I("still_ms", still_ms));
    abort();
}

static void look(struct watchdog *w) {
    int64_t now = clock_ms(CLOCK_MONOTONIC);
    for (size_t i = 0; i < w->n; i++) {
        const struct place *p = w->places[i];
        int step = atomic_load(&p->step);
        if (step == STEP_ENDED) continue;
        stillness_note(&w->seen[i], atomic_load(&p->beats), now, w->look_ms);
        int64_t limit = w->timeout_ms * (step == STEP_CLOSE ? CLOSING_TIMES : 1);
        if (w->seen[i].ms >= limit) bark(i, p, w->seen[i].ms);
    }
}

static void *watchdog_main(void *arg) {
    struct watchdog *w = arg;
    pthread_mutex_lock(&w->mutex);
    while (!w->stop) {
        struct timespec at;
        clock_gettime(CLOCK_MONOTONIC, &at);
        int64_t ns = at.tv_nsec + w->look_ms * 1000000;
        at.tv_sec += ns / 1000000000;
        at.tv_nsec = ns % 1000000000;
        if (pthread_cond_timedwait(&w->changed, &w->mutex, &at) != 0) look(w);
    }
    pthread_mutex_unlock(&w->mutex);
    return NULL;
}

static void watchdog_free(struct watchdog *w) {
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->mutex);
    free(w->places);
    free(w->seen);
    free(w);
}

struct watchdog *watchdog_start(int64_t timeout_ms, const struct place *const *places, size_t n) {
    struct watchdog *w = xcalloc(1, sizeof *w);
    int64_t look_ms = timeout_ms / LOOKS;
    if (look_ms < LOOK_MIN_MS) look_ms = LOOK_MIN_MS;
    *w = (struct watchdog){.timeout_ms = timeout_ms,
                           .look_ms = look_ms < LOOK_MAX_MS ? look_ms : LOOK_MAX_MS,
                           .places = xcalloc(n, sizeof *places),
                           .seen = xcalloc(n, sizeof *w->seen),
                           .n = n};
    memcpy(w->places, places, n * sizeof *places);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->changed, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&w->mutex, NULL);
    int rc = pthread_create(&w->thread, NULL, watchdog_main, w);
    if (rc == 0) return w;
    watchdog_free(w);
    errno = rc;
    return NULL;
}

void watchdog_stop(struct watchdog *w) {
    if (!w) return;
    pthread_mutex_lock(&w->mutex);
    w->stop = true;
    pthread_cond_signal(&w->changed);
    pthread_mutex_unlock(&w->mutex);
    pthread_join(w->thread, NULL);
    watchdog_free(w);
}
