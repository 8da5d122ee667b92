#include "worker/pipeline/ends.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "worker/base/buf.h"

struct end {
    struct ends_at is; /* its end is -1 until a lane has had it */
    bool retry;
    bool anew; /* what was there was not all settled, and can't be any more */
    bool begun;
    struct ledger_last first; /* begun: its first record, before anything was committed */
};

struct ended {
    char *topic;
    int32_t n;
    struct end *v;
};

struct ends {
    pthread_mutex_t mutex;
    struct ended *topics;
    size_t n;
};

struct ends *ends_new(void) {
    struct ends *ends = xcalloc(1, sizeof *ends);
    pthread_mutex_init(&ends->mutex, NULL);
    return ends;
}

void ends_free(struct ends *ends) {
    if (!ends) return;
    for (size_t i = 0; i < ends->n; i++) {
        free(ends->topics[i].topic);
        free(ends->topics[i].v);
    }
    free(ends->topics);
    pthread_mutex_destroy(&ends->mutex);
    free(ends);
}

void ends_add(struct ends *ends, const char *topic, int32_t partitions, bool retry) {
    struct ended t = {.topic = xstrdup(topic), .n = partitions};
    t.v = xcalloc((size_t)partitions + 1, sizeof *t.v);
    for (int32_t i = 0; i < partitions; i++) {
        t.v[i].is.end = -1;
        t.v[i].retry = retry;
    }
    pthread_mutex_lock(&ends->mutex);
    ends->topics = xgrow(ends->topics, ends->n, sizeof *ends->topics);
    ends->topics[ends->n++] = t;
    pthread_mutex_unlock(&ends->mutex);
}

/* ---- lanes ---- */

/* Locked when it is one of the start's. */
static struct end *take(struct ends *ends, const char *topic, int32_t partition) {
    if (!ends) return NULL;
    pthread_mutex_lock(&ends->mutex);
    for (size_t i = 0; i < ends->n; i++)
        if (strcmp(ends->topics[i].topic, topic) == 0 && partition < ends->topics[i].n)
            return &ends->topics[i].v[partition];
    pthread_mutex_unlock(&ends->mutex);
    return NULL;
}

/* Locked. Whether something of the start is gone with a topic that is another one now. */
static bool lose(struct end *e, bool other, struct ends_at *ret) {
    bool anew = other && !e->is.all && !e->anew;
    if (anew) *ret = e->is;
    e->anew = e->anew || anew;
    return anew;
}

/* A topic's end goes back, or what the group had committed goes, only with the topic. */
bool ends_come(struct ends *ends, const char *topic, int32_t partition, const struct ends_at *now,
               struct ends_at *ret) {
    struct end *e = take(ends, topic, partition);
    if (!e) return false;
    bool shrunk = now->end >= 0 && now->end < e->is.end;
    bool anew = lose(e, shrunk || (e->is.committed && !now->committed), ret);
    if (e->is.end < 0) e->is = *now;
    pthread_mutex_unlock(&ends->mutex);
    return anew;
}

void ends_settled(struct ends *ends, const char *topic, int32_t partition,
                  const struct ends_at *now) {
    struct end *e = take(ends, topic, partition);
    if (!e) return;
    if (!e->anew && (e->retry || !e->is.all)) e->is = *now;
    pthread_mutex_unlock(&ends->mutex);
}

bool ends_anew(struct ends *ends, const char *topic, int32_t partition) {
    struct end *e = take(ends, topic, partition);
    if (!e) return false;
    struct ends_at was;
    bool anew = lose(e, true, &was);
    pthread_mutex_unlock(&ends->mutex);
    return anew;
}

bool ends_first(struct ends *ends, const char *topic, int32_t partition,
                const struct ledger_last *now, struct ends_at *ret) {
    struct end *e = take(ends, topic, partition);
    if (!e) return false;
    /* One that retention has taken since says nothing. */
    bool other = e->begun && now->offset <= e->first.offset &&
                 !ledger_last_is(&e->first, now->offset, now->timestamp_ms, now->bytes);
    bool anew = lose(e, other, ret);
    e->begun = true;
    e->first = *now;
    pthread_mutex_unlock(&ends->mutex);
    return anew;
}

/* ---- the main thread ---- */

static bool is_left(const struct end *e, bool is_there) {
    bool known = e->is.end >= 0 || !e->retry;
    return e->anew || (known && !e->is.all && !is_there);
}

static void add_end(struct ends_left *ret, const struct end *e) {
    ret->partitions++;
    ret->anew = ret->anew || e->anew;
    if (e->is.end < 0)
        ret->unread = -1;
    else if (ret->unread >= 0 && e->is.end > e->is.at)
        ret->unread += e->is.end - e->is.at;
}

size_t ends_left(struct ends *ends, int32_t (*there)(const char *topic, const void *context),
                 const void *context, struct ends_left **ret) {
    size_t n = 0;
    pthread_mutex_lock(&ends->mutex);
    struct ends_left *all = xcalloc(ends->n + 1, sizeof *all);
    for (size_t i = 0; i < ends->n; i++) {
        const struct ended *t = &ends->topics[i];
        int32_t found = there(t->topic, context);
        struct ends_left *left = &all[n];
        *left = (struct ends_left){.topic = t->topic};
        for (int32_t p = 0; p < t->n; p++)
            if (is_left(&t->v[p], p < found)) add_end(left, &t->v[p]);
        n += left->partitions > 0;
    }
    pthread_mutex_unlock(&ends->mutex);
    *ret = all;
    return n;
}
