#include "worker/tools/verify_recheck.h"

#include <stdio.h>
#include <stdlib.h>

#include "worker/base/shown.h"
#include "worker/base/table.h"
#include "worker/kafka/client.h"
#include "worker/kafka/rights.h"
#include "worker/kafka/topic_names.h"

/* Entries that wait: some 80,000 records in object mode. */
#define PENDING_BYTES ((size_t)16 << 20)
#define TIMEOUT_MS 30000
#define AT_ONCE_MS 2000
/* How often a partition is read once more, for entries whose windows begin before the end of
 * another: offsets were put back, or somebody has made them up. */
#define AGAIN_MAX 64

struct partition_at {
    struct table_node node;
    char *topic;
    int32_t partition;
    size_t number;
    enum topic_kind kind;
    uint64_t era; /* entries before it are of a topic that is gone */
    unsigned again;
};

struct pending {
    struct partition_at *at;
    uint64_t seq;
    int64_t first, next;
    char *value;
    size_t n;
    int32_t found_partition;
    int64_t found_offset;
};

struct recheck {
    rd_kafka_t *rk;
    const char *source;
    struct report *report;
    struct derive *derive;
    char ledger[TOPIC_MAX + 1];
    struct table index;
    struct partition_at **partitions;
    size_t n_partitions;
    struct topic *topics; /* that were asked for: how many partitions they have now */
    size_t n_topics;
    struct pending *pending;
    size_t n, bytes;
    uint64_t read;
};

static struct partition_at *partition_at(struct recheck *r, struct str topic, int32_t partition) {
    uint64_t hash = keyed_hash_numbered(topic, partition);
    for (struct table_node *n = table_first(&r->index, hash); n; n = table_next(n)) {
        struct partition_at *p = TABLE_ENTRY(n, struct partition_at, node);
        if (p->partition == partition && str_is(topic, p->topic)) return p;
    }
    struct partition_at *p = xcalloc(1, sizeof *p);
    *p = (struct partition_at){
        .topic = xstrndup(topic.p, topic.n), .partition = partition, .number = r->n_partitions};
    if (!topic_is_of(p->topic, r->source, &p->kind)) p->kind = TOPIC_LEDGER; /* nothing is read */
    r->partitions = xgrow(r->partitions, r->n_partitions, sizeof p);
    r->partitions[r->n_partitions++] = p;
    table_add(&r->index, &p->node, hash);
    return p;
}

struct recheck *recheck_new(const struct config *cfg, rd_kafka_t *rk, const struct snapshot *s,
                            struct audit *a, struct report *report) {
    struct recheck *r = xcalloc(1, sizeof *r);
    *r = (struct recheck){.rk = rk, .source = s->source, .report = report};
    r->derive = derive_new(cfg, a);
    topic_ledger(s->source, r->ledger);
    for (size_t i = 0; i < s->n_committed; i++) {
        const struct committed *c = &s->committed[i];
        if (c->has_meta) partition_at(r, str_c(c->topic), c->partition)->era = c->meta.era;
    }
    return r;
}

static void drop_pending(struct recheck *r) {
    for (size_t i = 0; i < r->n; i++) free(r->pending[i].value);
    free(r->pending);
    r->pending = NULL;
    r->n = r->bytes = 0;
}

void recheck_free(struct recheck *r) {
    if (!r) return;
    drop_pending(r);
    for (size_t i = 0; i < r->n_partitions; i++) {
        free(r->partitions[i]->topic);
        free(r->partitions[i]);
    }
    free(r->partitions);
    for (size_t i = 0; i < r->n_topics; i++) free(r->topics[i].name);
    free(r->topics);
    table_free(&r->index);
    derive_free(r->derive);
    free(r);
}

const struct derive_sums *recheck_sums(const struct recheck *r) {
    return derive_sums(r->derive);
}

/* ---- reading ---- */

/* One pass over a partition: windows that follow one another. */
struct pass {
    struct recheck *owner;
    struct partition_at *at;
    struct reader *reader;
    rd_kafka_message_t *next; /* read, and of no window so far */
};

/* The window's records are given to be judged. False when reading failed. */
static bool feed(struct pass *p, const struct ledger_entry *e, struct buf *err) {
    struct recheck *r = p->owner;
    while (p->next || (p->reader && (p->next = reader_next(p->reader, 0, err)))) {
        rd_kafka_message_t *m = p->next;
        if (m->offset >= e->next) return true;
        if (m->offset >= e->first) {
            struct arena arena = {0};
            struct message record;
            reader_record(m, &arena, &record);
            derive_record(r->derive, m->offset, rd_kafka_message_timestamp(m, NULL), &record);
            arena_free(&arena);
        }
        rd_kafka_message_destroy(m);
        p->next = NULL;
        report_progress(r->report, p->at->topic, ++r->read, reader_progress(p->reader));
    }
    return !err->n;
}

static bool judge(struct pass *p, const struct pending *pending, struct buf *err) {
    struct recheck *r = p->owner;
    struct arena arena = {0};
    struct ledger_entry e;
    struct ledger_read_error unused;
    bool ok = true;
    if (ledger_read((struct str){pending->value, pending->n}, &arena, &e, &unused)) {
        const struct derive_window w = {
            .entry = &e,
            .source = r->source,
            .retries = p->at->kind == TOPIC_RETRY,
            .era = p->at->era,
            .place = {r->ledger, pending->found_partition, pending->found_offset}};
        derive_begin(r->derive, &w);
        ok = feed(p, &e, err);
        if (ok) derive_end(r->derive);
    }
    arena_free(&arena);
    return ok;
}

static bool is_gone(rd_kafka_resp_err_t code) {
    return code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
           code == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC || code == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION;
}

/* How many partitions the topic has now, asked once; -1: no broker has said. None when it is not
 * there. */
static int count_partitions(struct recheck *r, const char *topic) {
    for (size_t i = 0; i < r->n_topics; i++)
        if (strcmp(r->topics[i].name, topic) == 0) return r->topics[i].partitions;
    const struct rd_kafka_metadata *md = NULL;
    rd_kafka_resp_err_t code = client_topic(r->rk, topic, TIMEOUT_MS, &md);
    int n = !code ? md->topics[0].partition_cnt : is_gone(code) ? 0 : -1;
    if (!code) rd_kafka_metadata_destroy(md);
    r->topics = xgrow(r->topics, r->n_topics, sizeof *r->topics);
    r->topics[r->n_topics++] = (struct topic){.name = xstrdup(topic), .partitions = n};
    return n;
}

/* One that is there tells its ends at once, unless it has no leader now: who waits is told. */
static rd_kafka_resp_err_t ask_ends(struct recheck *r, const struct partition_at *at,
                                    int64_t *ret_low, int64_t *ret_high) {
    int n = count_partitions(r, at->topic);
    if (n >= 0 && at->partition >= n) return RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION;
    rd_kafka_resp_err_t code =
        client_ends(r->rk, at->topic, at->partition, ret_low, ret_high, AT_ONCE_MS);
    if (!code || rights_lack(code)) return code;
    report_progress_end(r->report);
    fprintf(stderr, "runsink verify: waits for the ends of %s/%d, for %d s at most: %s\n",
            SHOWN(at->topic), (int)at->partition, TIMEOUT_MS / 1000, rd_kafka_err2str(code));
    return client_ends(r->rk, at->topic, at->partition, ret_low, ret_high, TIMEOUT_MS);
}

/* What can be read of the partition now; nothing where it is gone. */
static bool ends(struct recheck *r, const struct partition_at *at, int64_t *ret_low,
                 int64_t *ret_high, struct buf *err) {
    rd_kafka_resp_err_t code = ask_ends(r, at, ret_low, ret_high);
    if (!code) return true;
    *ret_low = *ret_high = 0;
    if (is_gone(code)) return true;
    buf_printf(err, "asking for the ends of %s/%d: %s", at->topic, (int)at->partition,
               rd_kafka_err2str(code));
    return false;
}

static bool read_pass(struct recheck *r, const struct pending *v, size_t n, struct buf *err) {
    struct pass p = {.owner = r, .at = v->at};
    int64_t low, high;
    if (!ends(r, p.at, &low, &high, err)) return false;
    int64_t from = v[0].first > low ? v[0].first : low;
    int64_t until = v[n - 1].next < high ? v[n - 1].next : high;
    if (from < until) {
        p.reader = reader_new(r->rk, READER_ANY);
        reader_add(p.reader, p.at->topic, p.at->partition, from, until);
    }
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) ok = judge(&p, &v[i], err);
    if (p.next) rd_kafka_message_destroy(p.next);
    reader_free(p.reader);
    return ok;
}

static void pass_over(struct recheck *r, const struct pending *p, enum unjudged why) {
    struct arena arena = {0};
    struct ledger_entry e;
    struct ledger_read_error unused;
    if (ledger_read((struct str){p->value, p->n}, &arena, &e, &unused))
        derive_pass(r->derive, &e, why);
    arena_free(&arena);
}

/* All that waits of one partition. */
static bool read_partition(struct recheck *r, const struct pending *v, size_t n, struct buf *err) {
    bool ok = true;
    for (size_t i = 0, k; ok && i < n; i = k) {
        for (k = i + 1; k < n && v[k].first >= v[k - 1].next;) k++;
        if (i && ++v->at->again > AGAIN_MAX)
            for (size_t at = i; at < k; at++) pass_over(r, &v[at], UNJUDGED_AGAIN);
        else
            ok = read_pass(r, v + i, k - i, err);
    }
    return ok;
}

static int compare_pending(const void *a, const void *b) {
    const struct pending *x = a, *y = b;
    if (x->at != y->at) return x->at->number < y->at->number ? -1 : 1;
    return (x->seq > y->seq) - (x->seq < y->seq);
}

static bool read_pending(struct recheck *r, struct buf *err) {
    bool ok = true;
    qsort(r->pending, r->n, sizeof *r->pending, compare_pending);
    for (size_t i = 0, k; ok && i < r->n; i = k) {
        for (k = i + 1; k < r->n && r->pending[k].at == r->pending[i].at;) k++;
        ok = read_partition(r, r->pending + i, k - i, err);
    }
    drop_pending(r);
    return ok;
}

/* ---- entries ---- */

/* Those of the topic that is gone now speak of other records under the same offsets. */
static void begin_anew(struct recheck *r, struct partition_at *at, const struct ledger_entry *e) {
    size_t n = 0;
    if (e->seq + 2 > at->era) at->era = e->seq + 2; /* see settlement.c, add_anew() */
    for (size_t i = 0; i < r->n; i++) {
        struct pending *p = &r->pending[i];
        if (p->at == at && p->seq < e->seq) {
            pass_over(r, p, UNJUDGED_OLD_TOPIC);
            free(p->value);
        } else {
            r->pending[n++] = *p;
        }
    }
    r->n = n;
}

bool recheck_entry(struct recheck *r, const struct ledger_entry *e, struct str value,
                   const struct ledger_place *place, struct buf *err) {
    struct partition_at *at = partition_at(r, e->topic, e->partition);
    if (e->anew) begin_anew(r, at, e);
    if (!e->n_groups) return true;
    if (at->kind == TOPIC_LEDGER || at->kind == TOPIC_OUTCOMES) return true;
    if (at->kind == TOPIC_DEAD || e->seq + 1 < at->era) {
        derive_pass(r->derive, e, at->kind == TOPIC_DEAD ? UNJUDGED_OPERATOR : UNJUDGED_OLD_TOPIC);
        return true;
    }
    r->pending = xgrow(r->pending, r->n, sizeof *r->pending);
    r->pending[r->n++] = (struct pending){.at = at,
                                          .seq = e->seq,
                                          .first = e->first,
                                          .next = e->next,
                                          .value = xstrndup(value.p, value.n),
                                          .n = value.n,
                                          .found_partition = place ? place->partition : 0,
                                          .found_offset = place ? place->offset : -1};
    r->bytes += value.n;
    return r->bytes < PENDING_BYTES || read_pending(r, err);
}

bool recheck_finish(struct recheck *r, struct buf *err) {
    bool ok = read_pending(r, err);
    if (ok) derive_finish(r->derive);
    return ok;
}
