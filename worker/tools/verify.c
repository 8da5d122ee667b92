/* `runsink verify`: options, the order of things, and what is read from Kafka: what the group has
 * committed, then the ledger, then, when asked for, the records that Kafka still holds. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sysexits.h>

#include "worker/base/clock.h"
#include "worker/kafka/client.h"
#include "worker/kafka/probe.h"
#include "worker/kafka/retry.h"
#include "worker/kafka/topics.h"
#include "worker/tools/command.h"
#include "worker/tools/verify_bucket.h"
#include "worker/tools/verify_export.h"
#include "worker/tools/verify_margin.h"
#include "worker/tools/verify_objects.h"
#include "worker/tools/verify_recheck.h"
#include "worker/tools/verify_report.h"

#define TIMEOUT_MS 30000
/* Longer than a transaction may be open by default (transaction.timeout.ms, 60 s) and the interval
 * at which brokers look for those that were (10 s). */
#define OPEN_MAX_MS 75000
#define PAUSE_MS 200
/* A transaction's end reaches the ledger's partition a moment after the group's offsets. Longer
 * than a moment is told. */
#define LINGER_MS 10000
#define MOMENT_MS 1000
#define KEYS_MAX 16
/* Records of each of the ledger's partitions that are read first, before --from; then ever more. */
#define AROUND_RECORDS 2000

struct verify {
    struct config *cfg;
    const char *target; /* a topic or an exported folder; NULL: the configured topics */
    const char *group, *export_dir, *anchors_dir;
    struct ledger_pubkey keys[KEYS_MAX];
    size_t n_keys;
    struct audit_until *until, *replaced;
    size_t n_until, n_replaced;
    bool objects, records;
    bool hidden; /* a transaction does not end: what was written after it is not waited for */
    struct reader_limits limits;
    rd_kafka_t *rk;
    rd_kafka_t *lookup, *rereader; /* of --objects, and of --records; NULL without */
    char cluster[CLUSTER_MAX + 1]; /* its id; empty: not known */
    struct topic_list all;
    struct report report;
    struct exporter *exporter; /* of --export; NULL without */
    struct buf err;
};

static int fail(struct verify *v, int code) {
    report_progress_end(&v->report);
    command_error("verify", &v->err);
    return code;
}

/* The one context of all callbacks: findings go to the report, deliveries to the objects, entries
 * to the anchors. */
struct watchers {
    struct verify *v;
    struct objects *objects;   /* NULL: they are not compared */
    struct anchored *anchored; /* NULL: there are none to compare with */
    struct margin *margin;     /* NULL: all is read */
    struct recheck *recheck;   /* NULL: outcomes are not derived again */
    struct letters *letters;   /* NULL: they are not compared */
    struct audit *audit;
    uint64_t anchors; /* seen, before any was judged */
};

static void on_finding(void *context, const struct finding *f) {
    struct watchers *w = context;
    report_finding(&w->v->report, f);
}

static void on_delivered(void *context, const struct ledger_entry *e,
                         const struct ledger_group *g) {
    struct watchers *w = context;
    if (w->objects) objects_add(w->objects, e, g);
}

static void on_entry(void *context, const struct ledger_entry *e) {
    struct watchers *w = context;
    if (w->anchored) anchored_entry(w->anchored, e);
    if (w->margin) margin_entry(w->margin, e);
}

static void on_followed(void *context, const struct ledger_entry *e, struct str value,
                        const struct ledger_place *place) {
    struct watchers *w = context;
    if (w->letters) letters_entry(w->letters, e);
    if (w->recheck && !w->v->err.n) recheck_entry(w->recheck, e, value, place, &w->v->err);
}

static void on_anchor(void *context, const char *name, struct str value, int64_t written_ms) {
    struct watchers *w = context;
    w->anchors++;
    anchored_add(w->anchored, name, value, written_ms);
    if (w->v->exporter && !w->v->err.n) export_anchor(w->v->exporter, name, value, &w->v->err);
}

static void on_remark(void *context, bool finding, const char *code, const char *text) {
    struct watchers *w = context;
    struct finding f = {.note = !finding, .code = code, .offset = -1, .text = text};
    audit_report(w->audit, &f);
}

static void begin_audit(struct verify *v, const struct snapshot *s, bool anchors,
                        struct watchers *w) {
    struct audit_options opts = {.source = s->source,
                                 .group = s->group,
                                 .cluster = s->cluster,
                                 .keys = v->keys,
                                 .n_keys = v->n_keys,
                                 .until = v->until,
                                 .n_until = v->n_until,
                                 .replaced = v->replaced,
                                 .n_replaced = v->n_replaced,
                                 .partial = s->partial,
                                 .unfinished = s->unfinished,
                                 .keep_seen = v->records,
                                 .report = on_finding,
                                 .entry = on_entry,
                                 .followed = on_followed,
                                 .delivered = on_delivered,
                                 .context = w};
    w->v = v;
    w->audit = audit_new(&opts);
    if (anchors) w->anchored = anchored_new(s, v->keys, v->n_keys, &v->limits, w->audit);
    report_begin(&v->report, s->source);
}

static void end_audit(struct watchers *w) {
    anchored_free(w->anchored);
    margin_free(w->margin);
    objects_free(w->objects);
    recheck_free(w->recheck);
    letters_free(w->letters);
    audit_free(w->audit);
}

/* ---- anchors ---- */

/* All anchors there are, from dir or, when that is NULL, from the bucket. Before the committed
 * state is asked for, so that no anchor can be ahead of what is compared with it. That they can't
 * be read is a finding: without them this is no complete verification. */
static void read_anchors(struct verify *v, const char *dir, struct watchers *w) {
    const struct anchor_visitor visitor = {on_anchor, on_remark, w};
    struct buf err;
    char text[600];
    buf_init(&err, 65536);
    bool ok = dir ? folder_anchors(dir, &visitor, &err)
                  : bucket_anchors(v->cfg, v->group, &v->limits, &visitor, &err);
    if (!ok) {
        snprintf(text, sizeof text, "not all anchors could be read, verification is incomplete: %s",
                 buf_cstr(&err));
        on_remark(w, true, "anchors-unread", text);
    } else if (!w->anchors) {
        on_remark(
            w, true, "anchors-none",
            "there are no anchors of this group: are folder, bucket and anchor.prefix right?");
    }
    buf_free(&err);
}

/* What is asked for. */
static struct report_sums sums_of(const struct verify *v, const struct snapshot *s) {
    return (struct report_sums){.group = s->group,
                                .cluster = s->cluster[0] ? s->cluster : NULL,
                                .keys = v->keys,
                                .n_keys = v->n_keys,
                                .from_ms = v->limits.from_ms,
                                .to_ms = v->limits.to_ms,
                                .keys_given = v->n_keys > 0,
                                .objects = v->objects,
                                .records = v->records};
}

/* Judges what only the end can tell. An exit code. */
static int finish(struct verify *v, const struct snapshot *s, struct watchers *w,
                  struct report_sums *sums) {
    snapshot_drained(s, w->audit);
    if (w->anchored) anchored_vouch(w->anchored);
    audit_finish(w->audit);
    if (w->letters) letters_sums(w->letters, &sums->letters);
    if (w->anchored) anchored_finish(w->anchored);
    if (w->anchored) anchored_sums(w->anchored, &sums->anchored);
    sums->anchors = w->anchored != NULL;
    return report_end(&v->report, w->audit, sums) ? EX_OK : EX_DATAERR;
}

/* ---- open transactions, so that nothing is missed that is only hidden ---- */

static bool belongs(const struct topic *t, const char *source, enum topic_kind *ret_kind) {
    return topic_is_of(t->name, source, ret_kind) && t->partitions > 0;
}

static bool end_of(struct verify *v, rd_kafka_t *rk, const char *topic, int32_t partition,
                   int64_t *ret_low, int64_t *ret_high) {
    rd_kafka_resp_err_t code = client_ends(rk, topic, partition, ret_low, ret_high, TIMEOUT_MS);
    if (code)
        buf_printf(&v->err, "asking for the ends of %s/%d: %s", topic, (int)partition,
                   rd_kafka_err2str(code));
    return !code;
}

static bool wait_for(struct verify *v, rd_kafka_t *raw, int64_t deadline_ms, struct audit *a,
                     const char *topic, int32_t partition) {
    const struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000L};
    int64_t low, written, visible;
    bool said = false;
    if (!end_of(v, raw, topic, partition, &low, &written)) return false;
    for (;;) {
        if (!end_of(v, v->rk, topic, partition, &low, &visible)) return false;
        if (visible >= written) return true;
        if (clock_ms(CLOCK_MONOTONIC) >= deadline_ms) break;
        if (!said)
            fprintf(stderr,
                    "runsink verify: a transaction is open in %s/%d: waiting until what was "
                    "written after it can be read, %d s at most\n",
                    topic, (int)partition, OPEN_MAX_MS / 1000);
        said = true;
        nanosleep(&pause, NULL); /* the broker tells nobody when it ends one */
    }
    struct finding f = {.code = "open-transaction",
                        .topic = topic,
                        .partition = partition,
                        .offset = visible,
                        .text = "a transaction that does not end hides what is written from here "
                                "on, verification is incomplete (OPERATIONS.md: a hanging "
                                "transaction)"};
    audit_report(a, &f);
    v->hidden = true;
    return true;
}

/* Waits until what is in the source's ledger and retry topics now can be read: a worker that was
 * killed may have left a transaction open, and what others committed after it stays hidden until
 * the broker ends it. One that stays open is a finding. In the source topic an open transaction is
 * its producer's affair, and the workers see no more of it than we do. */
static bool wait_visible(struct verify *v, const char *source, struct audit *a) {
    int64_t deadline_ms = clock_ms(CLOCK_MONOTONIC) + OPEN_MAX_MS;
    rd_kafka_t *raw = reader_consumer_raw(v->cfg, v->cfg->group, &v->err);
    bool ok = raw != NULL;
    for (size_t i = 0; ok && i < v->all.n; i++) {
        const struct topic *t = &v->all.v[i];
        enum topic_kind kind;
        if (!belongs(t, source, &kind) || kind == TOPIC_SOURCE || kind == TOPIC_OUTCOMES) continue;
        if (kind == TOPIC_DEAD && !v->records) continue;
        for (int32_t p = 0; ok && p < t->partitions; p++)
            ok = wait_for(v, raw, deadline_ms, a, t->name, p);
    }
    if (raw) rd_kafka_destroy(raw);
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
static bool add_drained(struct verify *v, const rd_kafka_topic_partition_list_t *list,
                        struct snapshot *s) {
    struct probe *probes = xcalloc((size_t)list->cnt + 1, sizeof *probes);
    size_t n = 0;
    bool ok = true;
    for (int i = 0; ok && i < list->cnt; i++) {
        const rd_kafka_topic_partition_t *p = &list->elems[i];
        int64_t low = 0, high = 0, at = p->offset;
        if (topic_kind(p->topic, NULL) != TOPIC_RETRY) continue;
        ok = end_of(v, v->rk, p->topic, p->partition, &low, &high);
        at = at < low ? low : at < high ? at : high;
        probes[n++] = (struct probe){.topic = p->topic, .partition = p->partition, .from = at};
    }
    /* What follows may be nothing but the markers of transactions: then no record waits. */
    if (ok) probe_partitions(v->rk, probes, n, TIMEOUT_MS);
    for (size_t i = 0; ok && i < n;) {
        const char *topic = probes[i].topic;
        bool all = true;
        for (; i < n && strcmp(probes[i].topic, topic) == 0; i++) {
            all = all && !probes[i].waits;
            if (!probes[i].err) continue;
            buf_printf(&v->err, "looking at the end of %s/%d: %s", topic, (int)probes[i].partition,
                       rd_kafka_err2str(probes[i].err));
            ok = false;
        }
        if (all) snapshot_add_drained(s, topic);
    }
    free(probes);
    return ok;
}

/* What is committed of the source topic, its retry and its dead topics; NULL: that failed. */
static rd_kafka_topic_partition_list_t *ask_committed(struct verify *v, const char *source) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(64);
    enum topic_kind kind;
    for (size_t i = 0; i < v->all.n; i++) {
        const struct topic *t = &v->all.v[i];
        if (belongs(t, source, &kind) && kind != TOPIC_LEDGER && kind != TOPIC_OUTCOMES)
            rd_kafka_topic_partition_list_add_range(list, t->name, 0, t->partitions - 1);
    }
    rd_kafka_resp_err_t code = list->cnt ? rd_kafka_committed(v->rk, list, TIMEOUT_MS) : 0;
    for (int i = 0; !code && i < list->cnt; i++) code = list->elems[i].err;
    if (!code) return list;
    buf_printf(&v->err, "asking for committed offsets: %s", rd_kafka_err2str(code));
    rd_kafka_topic_partition_list_destroy(list);
    return NULL;
}

/* The committed state, and which retry topics have nothing left. */
static bool read_committed(struct verify *v, struct snapshot *s) {
    rd_kafka_topic_partition_list_t *list = ask_committed(v, s->source);
    for (int i = 0; list && i < list->cnt; i++) add_committed(s, &list->elems[i]);
    bool ok = list && add_drained(v, list, s);
    if (list) rd_kafka_topic_partition_list_destroy(list);
    return ok;
}

static void tell_wait(struct verify *v, const char *what) {
    report_progress_end(&v->report);
    fprintf(stderr, "runsink verify: %s, for %d s at most\n", what, LINGER_MS / 1000);
}

/* Once the ledger was read: what was read of it is committed, though a moment may pass until that
 * is seen. */
static bool read_committed_now(struct verify *v, const char *source, struct audit *a) {
    const struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000L};
    int64_t began_ms = clock_ms(CLOCK_MONOTONIC), waited_ms;
    bool said = false;
    for (;;) {
        rd_kafka_topic_partition_list_t *list = ask_committed(v, source);
        if (!list) return false;
        for (int i = 0; i < list->cnt; i++) {
            const rd_kafka_topic_partition_t *p = &list->elems[i];
            struct meta meta;
            bool ours = meta_decode((struct str){p->metadata, p->metadata_size}, &meta);
            audit_now(a, p->topic, p->partition, p->offset, ours ? &meta : NULL);
        }
        rd_kafka_topic_partition_list_destroy(list);
        waited_ms = clock_ms(CLOCK_MONOTONIC) - began_ms;
        if (!audit_ahead(a) || waited_ms >= LINGER_MS) return true;
        if (!said && waited_ms >= MOMENT_MS)
            tell_wait(v,
                      "waits until the group's offsets are where the ledger is; those of a topic "
                      "that was made anew are gone");
        said = said || waited_ms >= MOMENT_MS;
        nanosleep(&pause, NULL);
    }
}

/* ---- reading ---- */

/* Whatever else may be missing, nothing more comes once the committed state was reached. */
static rd_kafka_message_t *next_entry(struct verify *v, struct reader *r, const struct audit *a) {
    rd_kafka_message_t *m = reader_next(r, audit_reached(a) ? 0 : MOMENT_MS, &v->err);
    if (m || v->err.n || audit_reached(a)) return m;
    tell_wait(v, "waits for entries of the ledger that the group's offsets speak of");
    return reader_next(r, LINGER_MS, &v->err);
}

/* Gives the audit every entry of the source's ledger, and the export every record. */
static bool read_ledger(struct verify *v, const char *source, struct audit *a) {
    char name[TOPIC_MAX + 1];
    const struct topic *t = topic_ledger(source, name) ? topic_find(&v->all, name) : NULL;
    if (!t || !t->partitions) {
        buf_printf(&v->err, "there is no topic %s.ledger: is `ledger` switched on?", source);
        return false;
    }
    struct reader *r = reader_new(v->rk, READER_BY_TIME);
    bool ok = reader_add_topic(r, t, &v->limits, &v->err);
    rd_kafka_message_t *m;
    uint64_t n = 0;
    while (ok && (m = next_entry(v, r, a))) {
        struct ledger_place place = {name, m->partition, m->offset};
        struct str key = reader_key(m), value = reader_value(m);
        audit_entry(a, key, value, &place);
        if (v->exporter) ok = export_entry(v->exporter, key, value, &v->err);
        rd_kafka_message_destroy(m);
        report_progress(&v->report, name, ++n, reader_progress(r));
    }
    reader_free(r);
    return ok && v->err.n == 0;
}

/* ---- around a part of the ledger ---- */

/* For each of the ledger's partitions where what is of this time or younger begins, or its end. */
static bool ask_times(struct verify *v, const struct topic *t, int64_t ms, int64_t *ret_low,
                      int64_t *ret_at, int64_t *ret_high) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(t->partitions);
    for (int i = 0; i < t->partitions; i++)
        rd_kafka_topic_partition_list_add(list, t->name, i)->offset = ms;
    rd_kafka_resp_err_t code = rd_kafka_offsets_for_times(v->rk, list, TIMEOUT_MS);
    if (code)
        buf_printf(&v->err, "asking for offsets by time of %s: %s", t->name,
                   rd_kafka_err2str(code));
    for (int i = 0; !v->err.n && i < t->partitions; i++) {
        if (!end_of(v, v->rk, t->name, i, &ret_low[i], &ret_high[i])) break;
        ret_at[i] = list->elems[i].offset < 0 ? ret_high[i] : list->elems[i].offset;
    }
    rd_kafka_topic_partition_list_destroy(list);
    return !v->err.n;
}

/* Gives the margin [from, until) of each of the ledger's partitions, until it has enough. */
static bool read_around(struct verify *v, const struct topic *t, struct margin *m, bool before,
                        const int64_t *from, const int64_t *until) {
    struct reader *r = reader_new(v->rk, READER_BY_TIME); /* as all readers of the ledger */
    rd_kafka_message_t *msg;
    uint64_t n = 0;
    for (int i = 0; i < t->partitions; i++)
        if (from[i] < until[i]) reader_add(r, t->name, i, from[i], until[i]);
    while ((before ? margin_before_open(m) : margin_after_open(m)) &&
           (msg = reader_next(r, 0, &v->err))) {
        struct str key = reader_key(msg), value = reader_value(msg);
        if (!before)
            margin_after(m, value);
        else
            margin_before(m, key, value);
        rd_kafka_message_destroy(msg);
        report_progress(&v->report, t->name, ++n, reader_progress(r));
    }
    reader_free(r);
    return !v->err.n;
}

/* From the beginning of the time on backwards: most partitions have their entry near it. */
static bool read_backwards(struct verify *v, const struct topic *t, struct margin *m,
                           const int64_t *low, int64_t *from) {
    int64_t *until = xcalloc((size_t)t->partitions, sizeof *until);
    bool any = true;
    for (int64_t step = AROUND_RECORDS; any && !v->err.n && margin_before_open(m); step *= 4) {
        any = false;
        for (int i = 0; i < t->partitions; i++) {
            until[i] = from[i];
            from[i] = until[i] - low[i] > step ? until[i] - step : low[i];
            any = any || from[i] < until[i];
        }
        read_around(v, t, m, true, from, until);
    }
    free(until);
    return !v->err.n;
}

static bool read_margin(struct verify *v, const char *source, struct margin *m) {
    char name[TOPIC_MAX + 1];
    const struct topic *t = topic_ledger(source, name) ? topic_find(&v->all, name) : NULL;
    if (!m || !t) return true;
    size_t n = (size_t)t->partitions;
    int64_t *low = xcalloc(3 * n + 1, sizeof *low), *at = low + n, *high = at + n;
    bool ok = true;
    if (margin_after_open(m))
        ok = ask_times(v, t, v->limits.to_ms + 1, low, at, high) &&
             read_around(v, t, m, false, at, high);
    if (ok && margin_before_open(m))
        ok = ask_times(v, t, v->limits.from_ms, low, at, high) && read_backwards(v, t, m, low, at);
    if (ok) margin_finish(m);
    free(low);
    return ok;
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

/* From what the group had committed, where there was anything. */
static int64_t committed_of(const struct snapshot *s, const char *topic, int32_t partition) {
    for (size_t i = 0; i < s->n_committed; i++)
        if (s->committed[i].partition == partition && strcmp(s->committed[i].topic, topic) == 0)
            return s->committed[i].offset;
    return 0;
}

static bool add_waiting(struct verify *v, rd_kafka_t *raw, struct reader *r, const struct topic *t,
                        const struct snapshot *s) {
    for (int32_t p = 0; p < t->partitions; p++) {
        int64_t low, written, from = committed_of(s, t->name, p);
        if (!end_of(v, raw, t->name, p, &low, &written)) return false;
        reader_add(r, t->name, p, from > low ? from : low, v->hidden ? READER_END : written);
    }
    return true;
}

/* Tells the audit what waits in the source's retry topics. After the ledger was read: what its
 * entries have parked until then is there. */
static bool read_waiting(struct verify *v, const struct snapshot *s, struct audit *a) {
    rd_kafka_t *raw = reader_consumer_raw(v->cfg, v->cfg->group, &v->err);
    struct reader *r = reader_new(v->rk, READER_ANY);
    struct arena arena = {0};
    bool ok = raw != NULL;
    for (size_t i = 0; ok && i < v->all.n; i++) {
        enum topic_kind kind;
        if (belongs(&v->all.v[i], s->source, &kind) && kind == TOPIC_RETRY)
            ok = add_waiting(v, raw, r, &v->all.v[i], s);
    }
    rd_kafka_message_t *m;
    uint64_t n = 0;
    while (ok && (m = reader_next(r, 0, &v->err))) {
        struct message record;
        struct retry retry;
        const char *why;
        reader_record(m, &arena, &record);
        if (!is_foreign(m, v->group) && retry_parse(record.headers, record.n_headers, &retry, &why))
            audit_waits(a, &retry.origin);
        rd_kafka_message_destroy(m);
        arena_free(&arena);
        report_progress(&v->report, "retry topics", ++n, reader_progress(r));
    }
    reader_free(r);
    if (raw) rd_kafka_destroy(raw);
    if (ok && !v->err.n) audit_waiting(a);
    return ok && v->err.n == 0;
}

/* A group that began at the end of its topic has records before its first entry, and so has one
 * that somebody has set there: nothing tells the two apart. */
static void tell_before(struct audit *a, const struct topic *t, const uint64_t *before) {
    for (int32_t p = 0; p < t->partitions; p++) {
        char text[160];
        if (!before[p]) continue;
        snprintf(text, sizeof text,
                 "Kafka holds %llu records before the first one that the ledger covers: nothing is "
                 "said of them",
                 (unsigned long long)before[p]);
        audit_report(a, &(struct finding){.note = true,
                                          .code = "before-beginning",
                                          .topic = t->name,
                                          .partition = p,
                                          .offset = -1,
                                          .text = text});
    }
}

/* Offsets alone are the same in every topic: the ledger says what their records were. */
static void compare_last(struct audit *a, const rd_kafka_message_t *m, const char *topic) {
    const struct ledger_last *last = audit_last(a, topic, m->partition, m->offset);
    size_t bytes = m->payload ? m->len : 0;
    if (!last || ledger_last_is(last, m->offset, rd_kafka_message_timestamp(m, NULL), bytes))
        return;
    struct finding f = {.code = "other-record",
                        .topic = topic,
                        .partition = m->partition,
                        .offset = m->offset,
                        .text = "an entry says of this record that it had another time or another "
                                "size: the ledger speaks of another topic of this name"};
    audit_report(a, &f);
}

static void on_letter(void *verify, const char *topic, uint64_t n, double part) {
    struct verify *v = verify;
    report_progress(&v->report, topic, n, part);
}

static bool read_letters(struct verify *v, struct letters *l) {
    rd_kafka_t *raw = v->hidden ? NULL : reader_consumer_raw(v->cfg, v->cfg->group, &v->err);
    bool ok = !v->err.n && letters_read(l, raw, on_letter, v, &v->err);
    if (raw) rd_kafka_destroy(raw);
    return ok;
}

static bool read_topic_records(struct verify *v, const struct topic *t, bool retry, struct audit *a,
                               struct report_sums *sums) {
    struct reader *r = reader_new(v->rk, READER_ANY);
    bool ok = reader_add_topic(r, t, NULL, &v->err);
    uint64_t *before = xcalloc((size_t)t->partitions + 1, sizeof *before);
    rd_kafka_message_t *m;
    uint64_t n = 0;
    while (ok && (m = reader_next(r, 0, &v->err))) {
        enum audit_cover cover = audit_covers(a, t->name, m->partition, m->offset);
        sums->records_checked += cover == AUDIT_COVERED;
        sums->records_uncovered += cover != AUDIT_COVERED;
        if (cover == AUDIT_BEFORE && !retry && !v->limits.from_ms && m->partition < t->partitions)
            before[m->partition]++;
        compare_last(a, m, t->name);
        if (!audit_seen(a, t->name, m->partition, m->offset) &&
            !(retry && is_foreign(m, v->group))) {
            struct finding f = {.code = "no-outcome",
                                .topic = t->name,
                                .partition = m->partition,
                                .offset = m->offset,
                                .text = "Kafka holds this record, and no entry names it"};
            audit_report(a, &f);
        }
        rd_kafka_message_destroy(m);
        report_progress(&v->report, t->name, ++n, reader_progress(r));
    }
    reader_free(r);
    if (!v->err.n) tell_before(a, t, before);
    free(before);
    return v->err.n == 0;
}

/* Each record of the source and retry topics that the ledger covers must have an outcome in it. */
static bool read_records(struct verify *v, const char *source, struct audit *a,
                         struct report_sums *sums) {
    bool ok = true;
    for (size_t i = 0; ok && i < v->all.n; i++) {
        const struct topic *t = &v->all.v[i];
        enum topic_kind kind;
        if (belongs(t, source, &kind) && (kind == TOPIC_SOURCE || kind == TOPIC_RETRY))
            ok = read_topic_records(v, t, kind == TOPIC_RETRY, a, sums);
    }
    return ok;
}

/* ---- a topic ---- */

/* Signed by the worker's key where that can be read: an auditor who has the worker's configuration
 * need not have its key. */
static bool finish_export(struct verify *v, const struct snapshot *s) {
    struct buf why;
    struct ledger_signer *signer = NULL;
    buf_init(&why, 4096);
    if (v->cfg->ledger_key[0] && !(signer = ledger_signer_load(v->cfg->ledger_key, &why)))
        fprintf(stderr, "runsink verify: the manifest is not signed: %s\n", buf_cstr(&why));
    bool ok = export_finish(v->exporter, s, signer, &v->err);
    ledger_signer_free(signer);
    buf_free(&why);
    return ok;
}

/* Everything that reads. */
static bool read_all(struct verify *v, const struct snapshot *s, struct watchers *w,
                     struct report_sums *sums) {
    if (!read_ledger(v, s->source, w->audit) || !read_committed_now(v, s->source, w->audit) ||
        !read_margin(v, s->source, w->margin))
        return false;
    if (w->objects) {
        objects_finish(w->objects);
        objects_sums(w->objects, &sums->objects_checked, &sums->objects_bytes);
    }
    if (w->recheck && !recheck_finish(w->recheck, &v->err)) return false;
    if (w->recheck) sums->derived = *recheck_sums(w->recheck);
    if (!s->unfinished && !read_waiting(v, s, w->audit)) return false;
    if (v->records && !read_records(v, s->source, w->audit, sums)) return false;
    if (w->letters && !read_letters(v, w->letters)) return false;
    return !v->exporter || finish_export(v, s);
}

/* The committed state, and everything that was settled up to it. */
static int audit_source(struct verify *v, struct snapshot *s, struct watchers *w) {
    struct report_sums sums = sums_of(v, s);
    if (w->anchored) read_anchors(v, v->anchors_dir, w);
    s->has_anchors = w->anchored != NULL;
    if (w->anchored) s->anchors = (int64_t)anchored_count(w->anchored);
    if (v->err.n) return fail(v, EX_IOERR);
    v->hidden = false;
    if (v->records &&
        !(w->letters = letters_new(v->rk, &v->all, s->source, s->group, w->audit, &v->err)))
        return fail(v, EX_UNAVAILABLE);
    if (!wait_visible(v, s->source, w->audit) || !read_committed(v, s))
        return fail(v, EX_UNAVAILABLE);
    snapshot_expect(s, w->audit);
    if (v->rereader) w->recheck = recheck_new(v->cfg, v->rereader, s, w->audit, &v->report);
    int64_t now_ms = clock_ms(CLOCK_REALTIME);
    if (v->limits.from_ms > now_ms || v->limits.to_ms > now_ms)
        on_remark(w, true, "not-covered", "the time that was asked for is not over yet");
    if (s->partial || s->unfinished) w->margin = margin_new(s, v->keys, v->n_keys, w->audit);
    if (!read_all(v, s, w, &sums)) return fail(v, v->exporter ? EX_IOERR : EX_UNAVAILABLE);
    return finish(v, s, w, &sums);
}

static int verify_source(struct verify *v, const char *source) {
    struct snapshot s = {.partial = v->limits.from_ms != 0, .unfinished = v->limits.to_ms != 0};
    struct watchers w = {0};
    snprintf(s.source, sizeof s.source, "%s", source);
    snprintf(s.group, sizeof s.group, "%s", v->group);
    memcpy(s.cluster, v->cluster, sizeof s.cluster);
    if (v->export_dir && !(v->exporter = export_open(v->export_dir, &v->err)))
        return fail(v, EX_CANTCREAT);
    begin_audit(v, &s, v->anchors_dir || v->cfg->anchor_bucket[0], &w);
    if (v->lookup) w.objects = objects_new(v->cfg, v->lookup, w.audit);
    int rc = audit_source(v, &s, &w);
    end_audit(&w);
    export_free(v->exporter);
    v->exporter = NULL;
    snapshot_free(&s);
    return rc;
}

/* Each reads somewhere else at the same time. */
static bool open_consumers(struct verify *v) {
    v->rk = reader_consumer(v->cfg, v->group, &v->err);
    if (v->rk && v->objects) v->lookup = reader_consumer(v->cfg, v->group, &v->err);
    if (v->rk && v->records) v->rereader = reader_consumer(v->cfg, v->group, &v->err);
    return v->rk && !v->err.n;
}

static void close_consumers(struct verify *v) {
    if (v->lookup) rd_kafka_destroy(v->lookup);
    if (v->rereader) rd_kafka_destroy(v->rereader);
    if (v->rk) rd_kafka_destroy(v->rk);
}

static int verify_topics(struct verify *v) {
    struct topic_list list = {0};
    int rc = EX_OK;
    if (!open_consumers(v))
        rc = fail(v, EX_CONFIG);
    else if (!topics_list(v->rk, TIMEOUT_MS, NULL, &v->all, &v->err))
        rc = fail(v, EX_UNAVAILABLE);
    else if (!topics_choose(v->cfg, v->target, &v->all, &list, &v->err))
        rc = fail(v, EX_CONFIG);
    else if (list.n == 0)
        rc = command_usage("verify", "name a topic, or configure `topics`");
    else if (list.n > 1 && v->export_dir)
        rc = command_usage("verify", "--export takes one topic: name it");
    if (rc == EX_OK) client_cluster(v->rk, TIMEOUT_MS, v->cluster);
    for (size_t i = 0; i < list.n && (rc == EX_OK || rc == EX_DATAERR); i++) {
        int one = verify_source(v, list.v[i].name);
        if (one != EX_OK) rc = one;
    }
    topic_list_free(&v->all);
    topic_list_free(&list);
    close_consumers(v);
    return rc;
}

/* ---- a folder ---- */

static bool is_folder(const char *path) {
    struct stat st;
    return path && stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Those that were exported, which the manifest counts, or those of --anchors. */
static void read_folder_anchors(struct verify *v, const struct snapshot *s, struct watchers *w) {
    char text[128];
    if (v->anchors_dir) {
        read_anchors(v, v->anchors_dir, w);
        return;
    }
    char *dir = files_anchors(v->target);
    if (s->anchors || is_folder(dir)) read_anchors(v, dir, w);
    free(dir);
    int64_t count = (int64_t)anchored_count(w->anchored);
    if (count == s->anchors) return;
    snprintf(text, sizeof text, "the manifest counts %" PRId64 " anchors, there are %" PRId64,
             s->anchors, count);
    on_remark(w, true, "anchors-unread", text);
}

static int verify_folder(struct verify *v) {
    struct snapshot s = {0};
    struct watchers w = {0};
    if (!files_snapshot(v->target, &s, &v->err)) return fail(v, EX_NOINPUT);
    struct report_sums sums = sums_of(v, &s);
    sums.folder = true;
    sums.files = s.n_files;
    begin_audit(v, &s, v->anchors_dir || s.has_anchors, &w);
    snapshot_expect(&s, w.audit);
    if (w.anchored) read_folder_anchors(v, &s, &w);
    bool read =
        files_audit(v->target, w.audit, &v->err) && files_compare(v->target, &s, w.audit, &v->err);
    if (read) sums.manifest_signed = files_sealed(&s, w.audit);
    int rc = read ? finish(v, &s, &w, &sums) : fail(v, EX_IOERR);
    end_audit(&w);
    snapshot_free(&s);
    return rc;
}

/* ---- options ---- */

static bool add_key(const char *path, void *verify, struct buf *err) {
    struct verify *v = verify;
    if (v->n_keys < KEYS_MAX) return ledger_pubkey_load(path, &v->keys[v->n_keys++], err);
    buf_printf(err, "more than %d keys", KEYS_MAX);
    return false;
}

static bool add_until(const char *text, void *verify, struct buf *err) {
    struct verify *v = verify;
    (void)err;
    v->until = xgrow(v->until, v->n_until, sizeof *v->until);
    return audit_until_read(str_c(text), &v->until[v->n_until++]);
}

static bool add_replaced(const char *text, void *verify, struct buf *err) {
    struct verify *v = verify;
    (void)err;
    v->replaced = xgrow(v->replaced, v->n_replaced, sizeof *v->replaced);
    return audit_until_read(str_c(text), &v->replaced[v->n_replaced++]);
}

static int read_options(struct verify *v, int argc, char **argv) {
    const struct command_option options[] = {
        {"--key", .read = add_key, .to = v},
        {"--unsigned-until", .read = add_until, .to = v, .takes = AUDIT_UNTIL},
        {"--replaced-until", .read = add_replaced, .to = v, .takes = AUDIT_REPLACED},
        {"--from", .read = command_time, .to = &v->limits.from_ms, .takes = COMMAND_TIME},
        {"--to", .read = command_time, .to = &v->limits.to_ms, .takes = COMMAND_TIME},
        {"--group", .text = &v->group},
        {"--export", .text = &v->export_dir},
        {"--anchors", .text = &v->anchors_dir},
        {"--objects", .flag = &v->objects},
        {"--records", .flag = &v->records},
        {"--json", .flag = &v->report.json},
    };
    return command_options("verify", options, sizeof options / sizeof *options, argc, argv,
                           &v->target);
}

int command_verify(struct config *cfg, int argc, char **argv) {
    struct verify v = {.cfg = cfg, .group = cfg->group, .report = {.out = stdout}};
    buf_init(&v.err, 65536);
    int rc = read_options(&v, argc, argv);
    if (rc == EX_OK && is_folder(v.target)) {
        if (v.objects || v.records || v.export_dir || v.limits.from_ms || v.limits.to_ms)
            rc = command_usage("verify",
                               "a folder takes no other options than --key, --unsigned-until, "
                               "--replaced-until, --anchors and --json");
        else
            rc = verify_folder(&v);
    } else if (rc == EX_OK) {
        rc = verify_topics(&v);
    }
    buf_free(&v.err);
    free(v.until);
    free(v.replaced);
    return rc;
}
