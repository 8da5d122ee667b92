#include "worker/tools/check_rights.h"

#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

#include "worker/kafka/producer.h"

#define TIMEOUT_MS 10000

/* ---- topics ---- */

/* One of runsink's own, that run reads and writes. */
static bool is_own(const struct check_result *r, const struct topic *t) {
    char source[TOPIC_MAX + 1];
    switch (topic_source(t->name, source)) {
    case TOPIC_SOURCE:
        return false;
    case TOPIC_RETRY:
        if (topic_is_leftover(r->cfg, t->name)) return false;
        break;
    case TOPIC_LEDGER:
        if (!r->cfg->ledger) return false;
        break;
    case TOPIC_OUTCOMES:
        if (r->cfg->outcomes == CONFIG_OUTCOMES_OFF) return false;
        break;
    case TOPIC_DEAD:
        break;
    }
    return t->partitions && topic_find(&r->sources, source);
}

/* ---- what is hidden ---- */

static bool tell_hidden(rd_kafka_t *rk, const char *topic, struct buf *err) {
    if (!rights_hidden(rk, topic, TIMEOUT_MS)) return false;
    buf_printf(err, "runsink check: it can't be seen whether %s is there: allow Describe on %s\n",
               topic, topic);
    return true;
}

int check_hidden(rd_kafka_t *rk, struct check_result *r, struct buf *err) {
    bool any = false;
    size_t n = 0;
    for (size_t i = 0; i < r->sources.n; i++)
        if (!r->sources.v[i].partitions) any |= tell_hidden(rk, r->sources.v[i].name, err);
    for (size_t i = 0; i < r->missing.n; i++) {
        struct topic *t = &r->missing.v[i];
        if (!tell_hidden(rk, t->name, err)) {
            r->missing.v[n++] = *t;
            continue;
        }
        any = true;
        free(t->name);
        free(t->unserved);
    }
    r->missing.n = n;
    return any ? EX_CONFIG : EX_OK;
}

/* ---- reading ---- */

int check_group_right(rd_kafka_t *rk, const struct check_result *r, struct buf *err) {
    if (!rights_group_denied(rk)) return EX_OK;
    buf_printf(err,
               "runsink check: the group can't be joined, nor anything committed for it: allow "
               "Read on group %s\n",
               r->cfg->group);
    return EX_CONFIG;
}

int check_reading(rd_kafka_t *rk, const struct check_result *r, struct buf *err) {
    const char **topics = xcalloc(r->all.n + 1, sizeof *topics);
    bool *denied = xcalloc(r->all.n + 1, sizeof *denied), any = false;
    for (size_t i = 0; i < r->all.n; i++)
        if (is_own(r, &r->all.v[i]) && topic_kind(r->all.v[i].name, NULL) != TOPIC_RETRY &&
            topic_kind(r->all.v[i].name, NULL) != TOPIC_OUTCOMES)
            topics[i] = r->all.v[i].name;
    rights_unreadable(rk, topics, r->all.n, TIMEOUT_MS, denied);
    for (size_t i = 0; i < r->all.n; i++) {
        any |= denied[i];
        if (denied[i])
            buf_printf(err,
                       "runsink check: what is settled and what died is not known without it: "
                       "allow Read on %s\n",
                       topics[i]);
    }
    free(denied);
    free(topics);
    return any ? EX_CONFIG : EX_OK;
}

/* ---- settling ---- */

/* Whether a broker takes the producer that settles, without which run reads nothing. Its name is
 * below the rights that the worker's own have. */
static int try_producer(const struct check_result *r, struct buf *err) {
    char id[GROUP_MAX + 16];
    struct buf why;
    buf_init(&why, 4096);
    snprintf(id, sizeof id, "%s/check", r->cfg->group);
    enum producer_state state = producer_try(r->cfg, id, TIMEOUT_MS, &why);
    if (state != PRODUCER_READY)
        buf_printf(
            err,
            "runsink check: the broker does not take the transactional producer, so run would "
            "read nothing (%s): look at the broker's transaction.max.timeout.ms, which must "
            "not be below kafka.transaction.timeout.ms, or allow Write and Describe on the "
            "transactional ids %s/\n",
            buf_cstr(&why), r->cfg->group);
    buf_free(&why);
    return state == PRODUCER_READY ? EX_OK : state == PRODUCER_REFUSED ? EX_CONFIG : EX_UNAVAILABLE;
}

/* Whether all that it settles with may be written. */
static int try_writing(const struct check_result *r, struct buf *err) {
    rd_kafka_conf_t *conf = rights_conf(r->cfg, err);
    if (!conf) return EX_CONFIG;
    const char **topics = xcalloc(r->all.n + 1, sizeof *topics);
    bool *denied = xcalloc(r->all.n + 1, sizeof *denied), any = false;
    for (size_t i = 0; i < r->all.n; i++)
        topics[i] = is_own(r, &r->all.v[i]) ? r->all.v[i].name : NULL;
    rights_denied(conf, topics, r->all.n, TIMEOUT_MS, NULL, NULL, denied);
    for (size_t i = 0; i < r->all.n; i++) {
        any |= denied[i];
        if (denied[i])
            buf_printf(err,
                       "runsink check: Write on %s is denied, so its source could not be settled: "
                       "allow Write on %s\n",
                       topics[i], topics[i]);
    }
    free(denied);
    free(topics);
    rd_kafka_conf_destroy(conf);
    return any ? EX_CONFIG : EX_OK;
}

int check_settling(const struct check_result *r, struct buf *err) {
    int rc = try_producer(r, err);
    return rc == EX_OK ? try_writing(r, err) : rc;
}
