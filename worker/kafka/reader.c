#include "worker/kafka/reader.h"

#include <stdio.h>
#include <stdlib.h>

#include "worker/base/clock.h"
#include "worker/kafka/client.h"
#include "worker/kafka/fetched.h"

#define TIMEOUT_MS 30000
#define POLL_MS 100
/* More than a transaction's timeout, with the time that a coordinator takes to notice. */
#define PATIENCE_MS 100000
#define LOOK_EVERY 256 /* records between two looks at whether to stop */
/* Offsets. A record this near is reached faster by reading on than by a new fetch. */
#define LOOKUP_NEAR 2000

static rd_kafka_t *consumer(const struct config *cfg, const char *group, const char *isolation,
                            struct buf *err) {
    /* Many partitions may be read at once: little is read ahead for each. */
    const char *const extra[] = {"group.id",
                                 group,
                                 "enable.partition.eof",
                                 "true",
                                 "auto.offset.reset",
                                 "earliest",
                                 "queued.max.messages.kbytes",
                                 "1024",
                                 "isolation.level",
                                 isolation,
                                 NULL};
    if (!config_check_brokers(cfg, err)) return NULL;
    rd_kafka_conf_t *conf = client_conf_new(cfg, extra, err);
    rd_kafka_t *rk = conf ? client_new(RD_KAFKA_CONSUMER, conf, err) : NULL;
    if (rk) rd_kafka_poll_set_consumer(rk);
    return rk;
}

rd_kafka_t *reader_consumer(const struct config *cfg, const char *group, struct buf *err) {
    return consumer(cfg, group, "read_committed", err);
}

rd_kafka_t *reader_consumer_raw(const struct config *cfg, const char *group, struct buf *err) {
    return consumer(cfg, group, "read_uncommitted", err);
}

struct stream {
    rd_kafka_queue_t *queue;  /* READER_BY_TIME */
    rd_kafka_message_t *head; /* came, and was not given out yet */
    bool ended;
    bool held;             /* all that shows was read, and `until` lies after it */
    int64_t until;         /* READER_END: the first end that shows */
    int64_t low, high, at; /* of a whole topic: watermarks at the start. Next offset */
};

struct reader {
    rd_kafka_t *rk;
    enum reader_order order;
    rd_kafka_topic_partition_list_t *list; /* one for each of the streams, with where to begin */
    struct stream *streams;
    size_t n;
    size_t left; /* streams that have not ended */
    size_t last; /* the stream of the last message: they come in runs */
    bool begun;
    enum reader_end end;
    int64_t to_ms, alive_ms, patience_ms;
    rd_kafka_resp_err_t trouble; /* the last thing that librdkafka is trying to mend */
    bool (*stop)(void *context);
    void *context;
    size_t given;
};

struct reader *reader_new(rd_kafka_t *rk, enum reader_order order) {
    struct reader *r = xcalloc(1, sizeof *r);
    *r = (struct reader){.rk = rk,
                         .order = order,
                         .patience_ms = PATIENCE_MS,
                         .list = rd_kafka_topic_partition_list_new(16)};
    return r;
}

void reader_free(struct reader *r) {
    if (!r) return;
    if (r->begun) rd_kafka_assign(r->rk, NULL);
    for (size_t i = 0; i < r->n; i++) {
        if (r->streams[i].head) rd_kafka_message_destroy(r->streams[i].head);
        if (r->streams[i].queue) rd_kafka_queue_destroy(r->streams[i].queue);
    }
    rd_kafka_topic_partition_list_destroy(r->list);
    free(r->streams);
    free(r);
}

void reader_stop_when(struct reader *r, bool (*stop)(void *context), void *context) {
    r->stop = stop;
    r->context = context;
}

void reader_patience(struct reader *r, int64_t ms) {
    r->patience_ms = ms;
}

bool reader_held(const struct reader *r, const char **ret_topic, int32_t *ret_partition) {
    size_t i = 0;
    while (i < r->n && !r->streams[i].held) i++;
    if (i == r->n) return false;
    *ret_topic = r->list->elems[i].topic;
    *ret_partition = r->list->elems[i].partition;
    return true;
}

rd_kafka_resp_err_t reader_trouble(const struct reader *r) {
    return r->trouble;
}

enum reader_end reader_end(const struct reader *r) {
    return r->end;
}

int64_t reader_at(const struct reader *r, size_t i) {
    return r->streams[i].at;
}

size_t reader_hidden(const struct reader *r) {
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++) {
        const rd_kafka_topic_partition_t *p = &r->list->elems[i];
        int64_t low, high; /* of what was written */
        n += !rd_kafka_get_watermark_offsets(r->rk, p->topic, p->partition, &low, &high) &&
             high > r->streams[i].at;
    }
    return n;
}

void reader_add(struct reader *r, const char *topic, int32_t partition, int64_t from,
                int64_t until) {
    r->streams = xgrow(r->streams, r->n, sizeof *r->streams);
    bool ended = until != READER_END && from >= until;
    r->streams[r->n++] = (struct stream){.until = until, .at = from, .ended = ended};
    r->left += !ended;
    rd_kafka_topic_partition_list_add(r->list, topic, partition)->offset = from;
}

static bool failed(struct buf *err, const char *what, const char *topic, rd_kafka_resp_err_t code) {
    buf_printf(err, "%s of %s: %s", what, topic, rd_kafka_err2str(code));
    return false;
}

/* Where to begin by time: -1 where all is older. */
static bool ask_times(struct reader *r, const struct topic *t, int64_t from_ms, int64_t *ret,
                      struct buf *err) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(t->partitions);
    for (int i = 0; i < t->partitions; i++)
        rd_kafka_topic_partition_list_add(list, t->name, i)->offset = from_ms;
    rd_kafka_resp_err_t code = rd_kafka_offsets_for_times(r->rk, list, TIMEOUT_MS);
    for (int i = 0; i < t->partitions; i++) ret[i] = list->elems[i].offset;
    rd_kafka_topic_partition_list_destroy(list);
    return !code || failed(err, "asking for offsets by time", t->name, code);
}

bool reader_add_topic(struct reader *r, const struct topic *t, const struct reader_limits *limits,
                      struct buf *err) {
    int64_t from_ms = limits ? limits->from_ms : 0;
    int64_t *from = xcalloc((size_t)t->partitions, sizeof *from);
    bool ok = !from_ms || ask_times(r, t, from_ms, from, err);
    for (int i = 0; ok && i < t->partitions; i++) {
        int64_t low, high;
        rd_kafka_resp_err_t code = client_ends(r->rk, t->name, i, &low, &high, TIMEOUT_MS);
        if (code) {
            ok = failed(err, "asking for the ends", t->name, code);
            break;
        }
        if (from_ms && from[i] >= 0) low = from[i];
        reader_add(r, t->name, i, from_ms ? from[i] : RD_KAFKA_OFFSET_BEGINNING, READER_END);
        struct stream *s = &r->streams[r->n - 1];
        s->low = s->at = low;
        s->high = high;
    }
    if (limits) r->to_ms = limits->to_ms;
    free(from);
    return ok;
}

static bool begin(struct reader *r, struct buf *err) {
    if (r->begun || !r->left) return true;
    for (size_t i = 0; i < r->n && r->order == READER_BY_TIME; i++) {
        const rd_kafka_topic_partition_t *p = &r->list->elems[i];
        r->streams[i].queue = rd_kafka_queue_get_partition(r->rk, p->topic, p->partition);
        rd_kafka_queue_forward(r->streams[i].queue, NULL);
    }
    r->begun = true;
    rd_kafka_resp_err_t code = rd_kafka_assign(r->rk, r->list);
    return !code || failed(err, "taking the partitions", r->list->elems[0].topic, code);
}

/* The partition has been read up to next. */
static void reach(struct reader *r, struct stream *s, int64_t next, bool end) {
    if (next > s->at) r->alive_ms = clock_ms(CLOCK_MONOTONIC);
    s->at = next;
    s->held = end && s->until != READER_END && next < s->until;
    if (s->ended || !(s->until == READER_END ? end : next >= s->until)) return;
    s->ended = true;
    r->left--;
    r->alive_ms = clock_ms(CLOCK_MONOTONIC);
}

/* Errors pass, as long as there is use in waiting. */
static bool take_error(struct reader *r, const rd_kafka_message_t *m, struct buf *err) {
    r->trouble = m->err;
    bool hopeless = m->err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED ||
                    m->err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED ||
                    m->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
                    m->err == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION ||
                    m->err == RD_KAFKA_RESP_ERR__FATAL;
    if (hopeless)
        buf_printf(err, "reading %s: %s", m->rkt ? rd_kafka_topic_name(m->rkt) : "",
                   rd_kafka_err2str(m->err));
    return !hopeless;
}

/* What came, of a stream or of none. False when reading failed. */
static bool take(struct reader *r, struct stream *s, rd_kafka_message_t *m, struct buf *err) {
    bool late = !m->err && r->to_ms && rd_kafka_message_timestamp(m, NULL) > r->to_ms, ok = true;
    if (!m->err && !late && s) {
        s->head = m;
        reach(r, s, m->offset + 1, false);
        return true;
    }
    if (m->err && m->err != RD_KAFKA_RESP_ERR__PARTITION_EOF)
        ok = take_error(r, m, err);
    else if (s)
        reach(r, s, m->offset, true);
    rd_kafka_message_destroy(m);
    return ok;
}

static bool patient(struct reader *r, struct buf *err) {
    if (r->stop && r->stop(r->context)) r->end = READER_STOPPED;
    if (r->end == READER_STOPPED) return false;
    if (clock_ms(CLOCK_MONOTONIC) - r->alive_ms < r->patience_ms) return true;
    for (size_t i = 0; i < r->n; i++) {
        const rd_kafka_topic_partition_t *p = &r->list->elems[i];
        if (r->streams[i].ended) continue;
        buf_printf(err, "reading %s/%d: nothing comes beyond offset %lld: %s", p->topic,
                   (int)p->partition, (long long)r->streams[i].at,
                   r->trouble ? rd_kafka_err2str(r->trouble)
                              : "an open transaction seems to hide what is there");
        break;
    }
    return false;
}

static rd_kafka_message_t *give(struct stream *s) {
    rd_kafka_message_t *m = s->head;
    s->head = NULL;
    return m;
}

/* ---- any order ---- */

static struct stream *stream_of(struct reader *r, const rd_kafka_message_t *m) {
    for (size_t i = 0; m->rkt && i < r->n; i++) {
        size_t at = (r->last + i) % r->n;
        const rd_kafka_topic_partition_t *p = &r->list->elems[at];
        if (p->partition != m->partition || strcmp(p->topic, rd_kafka_topic_name(m->rkt)) != 0)
            continue;
        r->last = at;
        return &r->streams[at];
    }
    return NULL;
}

static rd_kafka_message_t *next_of_any(struct reader *r, struct buf *err) {
    while (r->left > 0) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(r->rk, POLL_MS);
        struct stream *s = m ? stream_of(r, m) : NULL;
        if (m && !take(r, s, m, err)) return NULL;
        if (s && s->head) return give(s);
        if (!patient(r, err)) return NULL;
    }
    return NULL;
}

/* ---- by time ---- */

/* Waits for the stream's next record or its end. Errors that concern no partition come through the
 * consumer's own queue. False when reading failed. */
static bool fill(struct reader *r, struct stream *s, int timeout_ms, struct buf *err) {
    rd_kafka_message_t *m = rd_kafka_consumer_poll(r->rk, 0);
    if (m && !take(r, NULL, m, err)) return false;
    m = rd_kafka_consume_queue(s->queue, timeout_ms);
    return !m || take(r, s, m, err);
}

static rd_kafka_message_t *oldest(struct reader *r) {
    struct stream *best = NULL;
    int64_t best_time = 0;
    for (size_t i = 0; i < r->n; i++) {
        struct stream *s = &r->streams[i];
        if (!s->head) continue;
        int64_t t = rd_kafka_message_timestamp(s->head, NULL);
        if (best && t >= best_time) continue;
        best = s;
        best_time = t;
    }
    return best ? give(best) : NULL;
}

/* Every stream has a head, or has ended. */
static bool fill_all(struct reader *r, struct buf *err) {
    for (size_t i = 0; i < r->n; i++) {
        struct stream *s = &r->streams[i];
        while (!s->head && !s->ended)
            if (!fill(r, s, POLL_MS, err) || (!s->head && !s->ended && !patient(r, err)))
                return false;
    }
    return true;
}

static rd_kafka_message_t *next_by_time(struct reader *r, int linger_ms, struct buf *err) {
    if (!fill_all(r, err)) return NULL;
    rd_kafka_message_t *m = oldest(r);
    for (int waited = 0; !m && r->begun && waited < linger_ms && !r->to_ms; waited += POLL_MS) {
        for (size_t i = 0; i < r->n; i++)
            if (!fill(r, &r->streams[i], (POLL_MS + (int)r->n - 1) / (int)r->n, err)) return NULL;
        m = oldest(r);
    }
    return m;
}

rd_kafka_message_t *reader_next(struct reader *r, int linger_ms, struct buf *err) {
    size_t said = err->n;
    rd_kafka_message_t *m = NULL;
    r->alive_ms = clock_ms(CLOCK_MONOTONIC); /* the caller took his time */
    bool ok = r->end == READER_DONE && begin(r, err) &&
              (!r->stop || r->given++ % LOOK_EVERY || patient(r, err));
    if (ok) m = r->order == READER_ANY ? next_of_any(r, err) : next_by_time(r, linger_ms, err);
    if (err->n > said) r->end = READER_FAILED;
    return m;
}

double reader_progress(const struct reader *r) {
    double all = 0, done = 0;
    for (size_t i = 0; i < r->n; i++) {
        const struct stream *s = &r->streams[i];
        all += (double)(s->high - s->low);
        done += (double)((s->at < s->high ? s->at : s->high) - s->low);
    }
    return all > 0 ? done / all : 1;
}

/* ---- single records ---- */

struct lookup {
    rd_kafka_t *rk;
    char topic[TOPIC_MAX + 1];
    int32_t partition;
    int64_t at; /* offset of the next record at the earliest; -1: nowhere */
    int timeout_ms;
};

struct lookup *lookup_new(rd_kafka_t *rk, int timeout_ms) {
    struct lookup *l = xcalloc(1, sizeof *l);
    l->rk = rk;
    l->timeout_ms = timeout_ms;
    l->at = -1;
    return l;
}

void lookup_free(struct lookup *l) {
    if (!l) return;
    rd_kafka_assign(l->rk, NULL);
    free(l);
}

/* Asked first: where the record is gone, librdkafka takes seconds to find that out by reading. */
static bool held(struct lookup *l, const char *topic, int32_t partition, int64_t offset,
                 struct buf *err) {
    int64_t low, high;
    rd_kafka_resp_err_t code = client_ends(l->rk, topic, partition, &low, &high, l->timeout_ms);
    if (code) return failed(err, "looking a record up: the ends", topic, code);
    return offset >= low && offset < high;
}

static bool move(struct lookup *l, const char *topic, int32_t partition, int64_t offset,
                 struct buf *err) {
    if (l->at >= 0 && l->partition == partition && strcmp(l->topic, topic) == 0 &&
        offset >= l->at && offset - l->at < LOOKUP_NEAR)
        return true;
    if (!held(l, topic, partition, offset, err)) return false;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, topic, partition)->offset = offset;
    rd_kafka_resp_err_t code = rd_kafka_assign(l->rk, list);
    rd_kafka_topic_partition_list_destroy(list);
    if (code) return failed(err, "looking a record up", topic, code);
    snprintf(l->topic, sizeof l->topic, "%s", topic);
    l->partition = partition;
    l->at = offset;
    return true;
}

rd_kafka_message_t *lookup_record(struct lookup *l, const char *topic, int32_t partition,
                                  int64_t offset, struct buf *err) {
    if (!move(l, topic, partition, offset, err)) return NULL;
    for (;;) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(l->rk, l->timeout_ms);
        if (!m || m->err) {
            if (!m || m->err != RD_KAFKA_RESP_ERR__PARTITION_EOF)
                buf_printf(err, "looking up %s/%d@%lld: %s", topic, (int)partition,
                           (long long)offset, m ? rd_kafka_message_errstr(m) : "no answer");
            if (m) rd_kafka_message_destroy(m);
            l->at = -1;
            return NULL;
        }
        l->at = m->offset + 1;
        if (m->offset == offset) return m;
        bool passed = m->offset > offset; /* removed by retention or compaction */
        rd_kafka_message_destroy(m);
        if (passed) return NULL;
    }
}

struct str reader_key(const rd_kafka_message_t *m) {
    return (struct str){m->key ? m->key : "", m->key_len};
}

struct str reader_value(const rd_kafka_message_t *m) {
    return (struct str){m->payload, m->payload ? m->len : 0};
}

void reader_record(const rd_kafka_message_t *m, struct arena *arena, struct message *ret) {
    fetched_message((const struct fetched *)m, arena, ret);
}
