#include "worker/tools/verify_topic.h"
#include "worker/kafka/client.h"

#include <stdio.h>
#include <stdlib.h>

#define TIMEOUT_MS 30000
/* A transaction's end reaches the ledger's partition a moment after the group's offsets. */
#define LINGER_MS 10000

/* Whether the topic is the source, or one of its retry or dead topics. */
static bool belongs(const struct topic *t, const char *source, enum topic_kind *ret_kind) {
    size_t base;
    enum topic_kind kind = topic_kind(t->name, &base);
    if (kind == TOPIC_LEDGER || base != strlen(source) || strncmp(t->name, source, base) != 0)
        return false;
    *ret_kind = kind;
    return t->partitions > 0;
}

static void add_committed(struct snapshot *s, const rd_kafka_topic_partition_t *p) {
    if (p->offset < 0) return;
    struct committed *c = snapshot_add(s);
    snprintf(c->topic, sizeof c->topic, "%s", p->topic);
    c->partition = p->partition;
    c->offset = p->offset;
    c->has_meta = meta_decode((struct str){p->metadata, p->metadata_size}, &c->meta);
}

/* Whether the group has consumed all that can be seen of a partition. */
static bool consumed(rd_kafka_t *rk, const rd_kafka_topic_partition_t *p, bool *ret,
                     struct buf *err) {
    int64_t low, high;
    rd_kafka_resp_err_t code = client_ends(rk, p->topic, p->partition, &low, &high, TIMEOUT_MS);
    int64_t from = p->offset < low ? low : p->offset;
    *ret = from >= high;
    if (!code && *ret) return true;
    rd_kafka_topic_partition_list_t *one = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(one, p->topic, p->partition)->offset = from;
    if (!code) code = rd_kafka_assign(rk, one);
    rd_kafka_topic_partition_list_destroy(one);
    /* What lies behind may be transaction markers alone: then comes the end, and no record. */
    rd_kafka_message_t *m = code ? NULL : rd_kafka_consumer_poll(rk, TIMEOUT_MS);
    *ret = m && m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF;
    if (!code && !m) code = RD_KAFKA_RESP_ERR__TIMED_OUT;
    if (m) rd_kafka_message_destroy(m);
    rd_kafka_assign(rk, NULL);
    if (code)
        buf_printf(err, "looking at the end of %s/%d: %s", p->topic, (int)p->partition,
                   rd_kafka_err2str(code));
    return !code;
}

/* Partitions of one topic stand together. */
static bool add_drained(rd_kafka_t *rk, const rd_kafka_topic_partition_list_t *list,
                        struct snapshot *s, struct buf *err) {
    for (int i = 0; i < list->cnt;) {
        const char *topic = list->elems[i].topic;
        bool all = topic_kind(topic, NULL) == TOPIC_RETRY;
        for (; i < list->cnt && strcmp(list->elems[i].topic, topic) == 0; i++)
            if (all && !consumed(rk, &list->elems[i], &all, err)) return false;
        if (all) snapshot_add_drained(s, topic);
    }
    return true;
}

bool verify_snapshot(rd_kafka_t *rk, const struct topic_list *all, const char *source,
                     struct snapshot *ret, struct buf *err) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(64);
    enum topic_kind kind;
    for (size_t i = 0; i < all->n; i++)
        if (belongs(&all->v[i], source, &kind))
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

bool verify_ledger(rd_kafka_t *rk, const struct topic_list *all, const char *source,
                   const struct reader_limits *limits, struct audit *a, struct export *x,
                   struct report *report, struct buf *err) {
    char name[TOPIC_MAX + 1];
    const struct topic *t = topic_ledger(source, name) ? topic_find(all, name) : NULL;
    if (!t || !t->partitions) {
        buf_printf(err, "there is no topic %s.ledger: is `ledger` switched on?", source);
        return false;
    }
    struct reader *r = reader_open(rk, name, t->partitions, limits, err);
    if (!r) return false;
    rd_kafka_message_t *m;
    bool ok = true;
    uint64_t n = 0;
    /* Whatever else may be missing, nothing more comes once the committed state was reached. */
    while (ok && (m = reader_next(r, audit_reached(a) ? 0 : LINGER_MS, err))) {
        struct ledger_place place = {name, m->partition, m->offset};
        struct str key = {m->key ? m->key : "", m->key_len};
        struct str value = {m->payload, m->payload ? m->len : 0};
        audit_entry(a, key, value, &place);
        if (x) ok = export_entry(x, key, value, err);
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
    struct reader_limits limits = {0};
    struct reader *r = reader_open(rk, t->name, t->partitions, &limits, err);
    if (!r) return false;
    rd_kafka_message_t *m;
    uint64_t n = 0;
    while ((m = reader_next(r, 0, err))) {
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
        if (belongs(&all->v[i], source, &kind) && kind != TOPIC_DEAD &&
            !verify_topic_records(rk, &all->v[i], kind == TOPIC_RETRY, group, a, report,
                                  ret_checked, err))
            return false;
    return true;
}
