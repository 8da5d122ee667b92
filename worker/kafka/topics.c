#include "worker/kafka/topics.h"

#include <regex.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/base/clock.h"

/* A request for the list of topics can't be given up meanwhile, so the first ones are short. */
#define LIST_MIN_MS 500
#define LIST_MAX_MS 4000

void topic_list_free(struct topic_list *l) {
    for (size_t i = 0; i < l->n; i++) {
        free(l->v[i].name);
        free(l->v[i].unserved);
    }
    free(l->v);
    *l = (struct topic_list){0};
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const struct topic *)a)->name, ((const struct topic *)b)->name);
}

static void sort(struct topic_list *l) {
    if (l->n) qsort(l->v, l->n, sizeof *l->v, by_name);
}

const struct topic *topic_find(const struct topic_list *l, const char *name) {
    size_t lo = 0, hi = l->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        int d = strcmp(l->v[mid].name, name);
        if (d == 0) return &l->v[mid];
        if (d < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return NULL;
}

static void add(struct topic_list *l, const char *name, int partitions) {
    l->v = xgrow(l->v, l->n, sizeof *l->v);
    l->v[l->n++] = (struct topic){.name = xstrdup(name), .partitions = partitions};
}

static rd_kafka_resp_err_t ask_topics(rd_kafka_t *rk, int timeout_ms, topics_stop_fn *stop,
                                      const struct rd_kafka_metadata **ret) {
    int64_t now = clock_ms(CLOCK_MONOTONIC), end = now + timeout_ms;
    rd_kafka_resp_err_t rc = RD_KAFKA_RESP_ERR__TIMED_OUT;
    for (int wait = stop ? LIST_MIN_MS : timeout_ms; now < end; now = clock_ms(CLOCK_MONOTONIC)) {
        rc = rd_kafka_metadata(rk, 1, NULL, ret, wait < end - now ? wait : (int)(end - now));
        if ((rc != RD_KAFKA_RESP_ERR__TIMED_OUT && rc != RD_KAFKA_RESP_ERR__TRANSPORT) ||
            (stop && stop()))
            break;
        if (wait < LIST_MAX_MS) wait *= 2;
    }
    return rc;
}

bool topics_list(rd_kafka_t *rk, int timeout_ms, topics_stop_fn *stop, struct topic_list *ret,
                 struct buf *err) {
    const struct rd_kafka_metadata *m;
    rd_kafka_resp_err_t rc = ask_topics(rk, timeout_ms, stop, &m);
    if (rc) {
        buf_printf(err, "can't list the broker's topics: %s\n", rd_kafka_err2str(rc));
        return false;
    }
    struct topic_list l = {0};
    for (int i = 0; i < m->topic_cnt; i++) add(&l, m->topics[i].topic, m->topics[i].partition_cnt);
    rd_kafka_metadata_destroy(m);
    sort(&l);
    *ret = l;
    return true;
}

static bool matches(const regex_t *res, size_t n, const char *name) {
    for (size_t i = 0; i < n; i++)
        if (regexec(&res[i], name, 0, NULL, 0) == 0) return true;
    return false;
}

/* Adds the topics that an expression matches; config_finish() has compiled each once before. */
static void add_matching(const struct config *c, const struct topic_list *all,
                         struct topic_list *l) {
    regex_t *res = xcalloc(c->topics.n, sizeof *res);
    size_t n = 0;
    for (size_t i = 0; i < c->topics.n; i++)
        if (c->topics.v[i][0] == '^' &&
            regcomp(&res[n], c->topics.v[i], REG_EXTENDED | REG_NOSUB) == 0)
            n++;
    size_t named = l->n;
    for (size_t i = 0; n && i < all->n; i++) {
        const struct topic *t = &all->v[i];
        struct topic_list names = {l->v, named};
        /* Kafka's own topics start with two underscores. */
        bool ours = topic_kind(t->name, NULL) != TOPIC_SOURCE || strncmp(t->name, "__", 2) == 0;
        if (ours || !t->partitions || !matches(res, n, t->name) || topic_find(&names, t->name))
            continue;
        add(l, t->name, t->partitions);
        l->v[l->n - 1].matched = true;
    }
    while (n) regfree(&res[--n]);
    free(res);
}

bool topics_resolve(const struct config *c, const struct topic_list *all, struct topic_list *ret,
                    struct buf *err) {
    struct topic_list l = {0};
    bool ok = true;
    for (size_t i = 0; i < c->topics.n; i++) {
        const char *name = c->topics.v[i];
        if (name[0] == '^' || topic_find(&l, name)) continue;
        if (topic_kind(name, NULL) != TOPIC_SOURCE) {
            buf_printf(err, "topics: %s is a topic that runsink keeps for itself\n", name);
            ok = false;
        }
        const struct topic *t = topic_find(all, name);
        add(&l, name, t ? t->partitions : 0);
        sort(&l);
    }
    add_matching(c, all, &l);
    sort(&l);
    if (!ok)
        topic_list_free(&l);
    else
        *ret = l;
    return ok;
}

bool topics_choose(const struct config *c, const char *name, const struct topic_list *all,
                   struct topic_list *ret, struct buf *err) {
    if (!name) return topics_resolve(c, all, ret, err);
    const struct topic *t = topic_find(all, name);
    add(ret, name, t ? t->partitions : 0);
    return true;
}

static void add_partitions(rd_kafka_topic_partition_list_t *l, const struct topic *t) {
    if (t->partitions) rd_kafka_topic_partition_list_add_range(l, t->name, 0, t->partitions - 1);
}

rd_kafka_topic_partition_list_t *topics_consumed(const struct topic_list *all,
                                                 const struct topic_list *sources) {
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new(16);
    char source[TOPIC_MAX + 1];
    for (size_t i = 0; i < sources->n; i++) add_partitions(l, &sources->v[i]);
    for (size_t i = 0; i < all->n; i++)
        if (topic_source(all->v[i].name, source) == TOPIC_RETRY && topic_find(sources, source))
            add_partitions(l, &all->v[i]);
    return l;
}

/* How many partitions runsink's own topics for it are made with. */
static int made_with(const struct config *c, const struct topic *source) {
    return c->topics_partitions ? (int)c->topics_partitions : source->partitions;
}

void topics_retries(const struct config *c, const struct topic_list *all,
                    const struct topic_list *sources, struct topic_list *ret) {
    struct topic_list l = {0};
    char name[TOPIC_MAX + 1];
    for (size_t s = 0; s < sources->n; s++)
        for (size_t i = 0; i < c->retry_delays.n; i++) {
            if (!topic_retry(sources->v[s].name, c->retry_delays.v[i], name)) continue;
            const struct topic *t = topic_find(all, name);
            add(&l, name, t && t->partitions ? t->partitions : made_with(c, &sources->v[s]));
        }
    for (size_t i = 0; i < all->n; i++) {
        const struct topic *t = &all->v[i];
        if (topic_source(t->name, name) == TOPIC_RETRY && t->partitions &&
            topic_is_leftover(c, t->name) && topic_find(sources, name))
            add(&l, t->name, t->partitions);
    }
    sort(&l);
    *ret = l;
}

/* ---- what they lack ---- */

/* Its metrics take a dot for an underscore, so Kafka makes no topic whose name would be the same.
 */
static bool is_same_to_kafka(const char *a, const char *b) {
    for (; *a && *b; a++, b++)
        if (*a != *b && !((*a == '.' || *a == '_') && (*b == '.' || *b == '_'))) return false;
    return *a == *b;
}

struct lack {
    const struct topic_list *all;
    struct topic_list found;
    char why[600]; /* it can't be made; empty: it can */
};

/* Adds the name unless it is there already. */
static void need(struct lack *l, bool fits, const char *name, int partitions) {
    const struct topic *t = fits ? topic_find(l->all, name) : NULL;
    if (!fits)
        snprintf(l->why, sizeof l->why,
                 "its name is too long: those of its retry topics would pass %d characters",
                 TOPIC_MAX);
    if (!fits || (t && t->partitions)) return;
    for (size_t i = 0; i < l->all->n && !t; i++)
        if (is_same_to_kafka(l->all->v[i].name, name))
            snprintf(l->why, sizeof l->why,
                     "Kafka makes no topic %s beside %s: to it dots and underscores are the same",
                     name, l->all->v[i].name);
    add(&l->found, name, partitions);
}

static void missing_of(const struct config *c, const struct topic *source, struct lack *l) {
    static const enum fault faults[] = {FAULT_TENANT, FAULT_DATA, FAULT_SYSTEM};
    int n = made_with(c, source);
    char name[TOPIC_MAX + 1];
    for (size_t i = 0; i < c->retry_delays.n; i++)
        need(l, topic_retry(source->name, c->retry_delays.v[i], name), name, n);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        need(l, topic_dead(source->name, faults[i], name), name, n);
    if (c->ledger) need(l, topic_ledger(source->name, name), name, n);
    if (c->outcomes != CONFIG_OUTCOMES_OFF) need(l, topic_outcomes(source->name, name), name, n);
}

void topic_refuse(struct topic *source, const char *why) {
    free(source->unserved);
    source->unserved = xstrdup(why);
}

bool topics_missing(const struct config *c, const struct topic_list *all,
                    struct topic_list *sources, struct topic_list *ret, struct buf *err) {
    struct topic_list l = {0};
    bool ok = true;
    for (size_t i = 0; i < sources->n; i++) {
        struct topic *source = &sources->v[i];
        struct lack lack = {.all = all};
        if (source->partitions) missing_of(c, source, &lack);
        for (size_t k = 0; !lack.why[0] && k < lack.found.n; k++)
            add(&l, lack.found.v[k].name, lack.found.v[k].partitions);
        topic_list_free(&lack.found);
        if (!lack.why[0]) continue;
        if (source->matched)
            topic_refuse(source, lack.why);
        else
            buf_printf(err, "topics: %s can't be served: %s\n", source->name, lack.why);
        ok &= source->matched;
    }
    sort(&l);
    if (!ok)
        topic_list_free(&l);
    else
        *ret = l;
    return ok;
}

void topics_part(struct topic_list *sources, struct topic_list *ret) {
    struct topic_list kept = {0}, out = {0};
    for (size_t i = 0; i < sources->n; i++) {
        struct topic *t = &sources->v[i];
        struct topic_list *to = t->unserved ? &out : &kept;
        add(to, t->name, t->partitions);
        to->v[to->n - 1].matched = t->matched;
        to->v[to->n - 1].unserved = t->unserved;
        t->unserved = NULL;
    }
    topic_list_free(sources);
    *sources = kept;
    *ret = out;
}
