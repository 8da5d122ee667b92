#include "worker/tools/verify_topic.h"

#include <stdio.h>
#include <stdlib.h>

#include "worker/base/clock.h"
#include "worker/kafka/client.h"
#include "worker/kafka/probe.h"

#define TIMEOUT_MS 30000
/* Longer than a transaction may be open by default (transaction.timeout.ms, 60 s) and the interval
 * at which brokers look for those that were (10 s). */
#define OPEN_MAX_MS 75000
#define PAUSE_MS 200
/* A transaction's end reaches the ledger's partition a moment after the group's offsets. */
#define LINGER_MS 10000

static bool belongs(const struct topic *t, const char *source, enum topic_kind *ret_kind) {
    return topic_is_of(t->name, source, ret_kind) && t->partitions > 0;
}

static bool end_of(rd_kafka_t *rk, const char *topic, int32_t partition, int64_t *ret_low,
                   int64_t *ret_high, struct buf *err) {
    rd_kafka_resp_err_t code = client_ends(rk, topic, partition, ret_low, ret_high, TIMEOUT_MS);
    if (code)
        buf_printf(err, "asking for the ends of %s/%d: %s", topic, (int)partition,
                   rd_kafka_err2str(code));
    return !code;
}

/* ---- open transactions, so that nothing is missed that is only hidden ---- */

struct wait {
    rd_kafka_t *rk, *raw;
    int64_t deadline_ms;
    struct audit *audit;
    struct buf *err;
};

static void stays_open(const struct wait *w, const char *topic, int32_t partition, int64_t offset) {
    struct finding f = {.code = "open-transaction",
                        .topic = topic,
                        .partition = partition,
                        .offset = offset,
                        .text = "a transaction that does not end hides what is written from here "
                                "on, verification is incomplete (OPERATIONS.md: a hanging "
                                "transaction)"};
    audit_report(w->audit, &f);
}

static bool wait_for(const struct wait *w, const char *topic, int32_t partition) {
    const struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000L};
    int64_t low, written, visible;
    bool said = false;
    if (!end_of(w->raw, topic, partition, &low, &written, w->err)) return false;
    for (;;) {
        if (!end_of(w->rk, topic, partition, &low, &visible, w->err)) return false;
        if (visible >= written) return true;
        if (clock_ms(CLOCK_MONOTONIC) >= w->deadline_ms) break;
        if (!said)
            fprintf(stderr,
                    "runsink verify: a transaction is open in %s/%d: waiting until what was "
                    "written after it can be read, %d s at most\n",
                    topic, (int)partition, OPEN_MAX_MS / 1000);
        said = true;
        nanosleep(&pause, NULL); /* the broker tells nobody when it ends one */
    }
    stays_open(w, topic, partition, visible);
    return true;
}

bool verify_wait_visible(const struct config *cfg, rd_kafka_t *rk, const struct topic_list *all,
                         const char *source, struct audit *a, struct buf *err) {
    struct wait w = {
        .rk = rk, .audit = a, .err = err, .deadline_ms = clock_ms(CLOCK_MONOTONIC) + OPEN_MAX_MS};
    w.raw = reader_consumer_raw(cfg, cfg->group, err);
    bool ok = w.raw != NULL;
    /* The ledger and what is parked: in the source topic an open transaction is its producer's
     * affair, and the workers see no more of it than we do. */
    for (size_t i = 0; ok && i < all->n; i++) {
        enum topic_kind kind;
        if (!belongs(&all->v[i], source, &kind) || (kind != TOPIC_LEDGER && kind != TOPIC_RETRY))
            continue;
        for (int32_t p = 0; ok && p < all->v[i].partitions; p++)
            ok = wait_for(&w, all->v[i].name, p);
    }
    if (w.raw) rd_kafka_destroy(w.raw);
    return ok;
}

/* ---- the committed state ---- */

static void add_committed(struct snapshot *s, const rd_kafka_topic_partition_t *p) {
    if (p->offset < 0) return;
    struct committed *c = snapshot_add(s);
    snprintf(c->topic, sizeof c->topic, "%s", p->topic);
    c->partition = p->partition;
    c->offset = p->offset;
    c->has_meta = meta_decode((struct str){p->metadata, p->metadata_size}, &c->meta);
}

/* Retry topics of which the group has consumed all that can be seen. Partitions of one topic stand
 * together. */
static bool add_drained(rd_kafka_t *rk, const rd_kafka_topic_partition_list_t *list,
                        struct snapshot *s, struct buf *err) {
    struct probe *probes = xcalloc((size_t)list->cnt + 1, sizeof *probes);
    size_t n = 0;
    bool ok = true;
    for (int i = 0; ok && i < list->cnt; i++) {
        const rd_kafka_topic_partition_t *p = &list->elems[i];
        int64_t low = 0, high = 0, at = p->offset;
        if (topic_kind(p->topic, NULL) != TOPIC_RETRY) continue;
        ok = end_of(rk, p->topic, p->partition, &low, &high, err);
        at = at < low ? low : at < high ? at : high;
        probes[n++] = (struct probe){.topic = p->topic, .partition = p->partition, .from = at};
    }
    /* What follows may be nothing but the markers of transactions: then no record waits. */
    if (ok) probe_partitions(rk, probes, n, TIMEOUT_MS);
    for (size_t i = 0; ok && i < n;) {
        const char *topic = probes[i].topic;
        bool all = true;
        for (; i < n && strcmp(probes[i].topic, topic) == 0; i++) {
            all = all && !probes[i].waits;
            if (!probes[i].err) continue;
            buf_printf(err, "looking at the end of %s/%d: %s", topic, (int)probes[i].partition,
                       rd_kafka_err2str(probes[i].err));
            ok = false;
        }
        if (all) snapshot_add_drained(s, topic);
    }
    free(probes);
    return ok;
}

bool verify_snapshot(rd_kafka_t *rk, const struct topic_list *all, const char *source,
                     struct snapshot *ret, struct buf *err) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(64);
    enum topic_kind kind;
    for (size_t i = 0; i < all->n; i++)
        if (belongs(&all->v[i], source, &kind) && kind != TOPIC_LEDGER)
            rd_kafka_topic_partition_list_add_range(list, all->v[i].name, 0,
                                                    all->v[i].partitions - 1);
    rd_kafka_resp_err_t code = list->cnt ? rd_kafka_committed(rk, list, TIMEOUT_MS) : 0;
    for (int i = 0; !code && i < list->cnt; i++) code = list->elems[i].err;
    if (code) buf_printf(err, "asking for committed offsets: %s", rd_kafka_err2str(code));
    for (int i = 0; !code && i < list->cnt; i++) add_committed(ret, &list->elems[i]);
    bool ok = !code && add_drained(rk, list, ret, err);
    rd_kafka_topic_partition_list_destroy(list);
    return ok;
}

/* ---- reading ---- */

bool verify_ledger(rd_kafka_t *rk, const struct topic_list *all, const char *source,
                   const struct reader_limits *limits, struct audit *a, const char *export_dir,
                   struct report *report, struct buf *err) {
    char name[TOPIC_MAX + 1];
    const struct topic *t = topic_ledger(source, name) ? topic_find(all, name) : NULL;
    if (!t || !t->partitions) {
        buf_printf(err, "there is no topic %s.ledger: is `ledger` switched on?", source);
        return false;
    }
    struct reader *r = reader_new(rk, READER_BY_TIME);
    bool ok = reader_add_topic(r, t, limits, err);
    rd_kafka_message_t *m;
    uint64_t n = 0;
    /* Whatever else may be missing, nothing more comes once the committed state was reached. */
    while (ok && (m = reader_next(r, audit_reached(a) ? 0 : LINGER_MS, err))) {
        struct ledger_place place = {name, m->partition, m->offset};
        struct str key = reader_key(m);
        struct str value = {m->payload, m->payload ? m->len : 0};
        audit_entry(a, key, value, &place);
        if (export_dir) ok = export_entry(export_dir, key, value, err);
        rd_kafka_message_destroy(m);
        report_progress(report, name, ++n, reader_progress(r));
    }
    reader_free(r);
    return ok && err->n == 0;
}

/* Groups that read one source topic share its retry topics. */
static bool is_foreign(const rd_kafka_message_t *m, const char *group) {
    rd_kafka_headers_t *headers = NULL;
    const void *value;
    size_t n;
    return rd_kafka_message_headers(m, &headers) == RD_KAFKA_RESP_ERR_NO_ERROR &&
           rd_kafka_header_get_last(headers, "runsink-group", &value, &n) ==
               RD_KAFKA_RESP_ERR_NO_ERROR &&
           !str_is((struct str){value, n}, group);
}

static bool verify_topic_records(rd_kafka_t *rk, const struct topic *t, bool retry,
                                 const char *group, struct audit *a, struct report *report,
                                 uint64_t *checked, struct buf *err) {
    struct reader *r = reader_new(rk, READER_ANY);
    bool ok = reader_add_topic(r, t, NULL, err);
    rd_kafka_message_t *m;
    uint64_t n = 0;
    while (ok && (m = reader_next(r, 0, err))) {
        if (!audit_seen(a, t->name, m->partition, m->offset) && !(retry && is_foreign(m, group))) {
            struct finding f = {.code = "no-outcome",
                                .topic = t->name,
                                .partition = m->partition,
                                .offset = m->offset,
                                .text = "Kafka holds this record, and no entry names it"};
            audit_report(a, &f);
        }
        rd_kafka_message_destroy(m);
        report_progress(report, t->name, ++n, reader_progress(r));
    }
    reader_free(r);
    *checked += n;
    return err->n == 0;
}

bool verify_records(rd_kafka_t *rk, const struct topic_list *all, const char *source,
                    const char *group, struct audit *a, struct report *report,
                    uint64_t *ret_checked, struct buf *err) {
    enum topic_kind kind;
    *ret_checked = 0;
    for (size_t i = 0; i < all->n; i++)
        if (belongs(&all->v[i], source, &kind) && (kind == TOPIC_SOURCE || kind == TOPIC_RETRY) &&
            !verify_topic_records(rk, &all->v[i], kind == TOPIC_RETRY, group, a, report,
                                  ret_checked, err))
            return false;
    return true;
}
