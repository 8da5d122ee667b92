#include "worker/kafka/reader.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "worker/base/rfc3339.h"
#include "worker/kafka/client.h"

#define TIMEOUT_MS 30000
#define POLL_MS 100
/* A record that far ahead is reached faster by reading on than by a new fetch. */
#define LOOKUP_NEAR 2000
#define LOOKUP_TIMEOUT_MS 15000

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
    char why[512];
    rd_kafka_conf_t *conf = client_conf_new(cfg, extra, err);
    if (!conf) return NULL;
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof why);
    if (!rk) {
        rd_kafka_conf_destroy(conf);
        buf_printf(err, "cannot make a consumer: %s", why);
        return NULL;
    }
    rd_kafka_poll_set_consumer(rk);
    return rk;
}

rd_kafka_t *reader_consumer(const struct config *cfg, const char *group, struct buf *err) {
    return consumer(cfg, group, "read_committed", err);
}

rd_kafka_t *reader_consumer_raw(const struct config *cfg, const char *group, struct buf *err) {
    return consumer(cfg, group, "read_uncommitted", err);
}

struct stream {
    rd_kafka_queue_t *queue;
    rd_kafka_message_t *head;
    bool ended;
    int64_t low, high, at; /* watermarks at the start; next offset */
};

struct reader {
    rd_kafka_t *rk;
    struct reader_limits limits;
    struct stream *streams;
    size_t n;
};

static bool failed(struct buf *err, const char *what, const char *topic, rd_kafka_resp_err_t code) {
    buf_printf(err, "%s of %s: %s", what, topic, rd_kafka_err2str(code));
    return false;
}

/* Where to begin in each partition. */
static bool starts(struct reader *r, const char *topic, rd_kafka_topic_partition_list_t *list,
                   struct buf *err) {
    for (size_t i = 0; i < r->n; i++) {
        struct stream *s = &r->streams[i];
        rd_kafka_resp_err_t code =
            client_ends(r->rk, topic, (int32_t)i, &s->low, &s->high, TIMEOUT_MS);
        if (code) return failed(err, "asking for the ends", topic, code);
        s->at = s->low;
        rd_kafka_topic_partition_list_add(list, topic, (int32_t)i)->offset =
            r->limits.from_ms ? r->limits.from_ms : RD_KAFKA_OFFSET_BEGINNING;
    }
    if (!r->limits.from_ms) return true;
    rd_kafka_resp_err_t code = rd_kafka_offsets_for_times(r->rk, list, TIMEOUT_MS);
    if (code) return failed(err, "asking for offsets by time", topic, code);
    for (int i = 0; i < list->cnt; i++) /* one behind the last record comes back as "end" */
        if (list->elems[i].offset >= 0)
            r->streams[i].low = r->streams[i].at = list->elems[i].offset;
    return true;
}

struct reader *reader_open(rd_kafka_t *rk, const char *topic, int partitions,
                           const struct reader_limits *limits, struct buf *err) {
    struct reader *r = xcalloc(1, sizeof *r);
    *r = (struct reader){.rk = rk, .limits = *limits, .n = (size_t)partitions};
    r->streams = xcalloc(r->n, sizeof *r->streams);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(partitions);
    bool ok = starts(r, topic, list, err);
    for (size_t i = 0; ok && i < r->n; i++) {
        r->streams[i].queue = rd_kafka_queue_get_partition(rk, topic, (int32_t)i);
        rd_kafka_queue_forward(r->streams[i].queue, NULL);
    }
    if (ok) {
        rd_kafka_resp_err_t code = rd_kafka_assign(rk, list);
        ok = !code || failed(err, "taking the partitions", topic, code);
    }
    rd_kafka_topic_partition_list_destroy(list);
    if (ok) return r;
    reader_free(r);
    return NULL;
}

void reader_free(struct reader *r) {
    if (!r) return;
    rd_kafka_assign(r->rk, NULL);
    for (size_t i = 0; i < r->n; i++) {
        if (r->streams[i].head) rd_kafka_message_destroy(r->streams[i].head);
        if (r->streams[i].queue) rd_kafka_queue_destroy(r->streams[i].queue);
    }
    free(r->streams);
    free(r);
}

/* Waits for the stream's next record or its end. False when reading failed. */
static bool fill(struct reader *r, struct stream *s, int timeout_ms, struct buf *err) {
    rd_kafka_message_t *m = rd_kafka_consume_queue(s->queue, timeout_ms);
    if (!m) return true;
    if (!m->err) {
        s->ended = r->limits.to_ms && rd_kafka_message_timestamp(m, NULL) > r->limits.to_ms;
        if (!s->ended) s->head = m;
    } else if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
        s->ended = true;
    } else {
        buf_printf(err, "reading %s: %s", rd_kafka_topic_name(m->rkt), rd_kafka_message_errstr(m));
    }
    if (s->head != m) rd_kafka_message_destroy(m);
    return err->n == 0;
}

/* Errors that concern no partition come through the consumer's own queue. */
static bool poll_main(struct reader *r, struct buf *err) {
    rd_kafka_message_t *m = rd_kafka_consumer_poll(r->rk, 0);
    if (!m) return true;
    bool fatal = m->err && rd_kafka_fatal_error(r->rk, NULL, 0);
    bool denied = m->err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED ||
                  m->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
    if (fatal || denied) buf_printf(err, "reading: %s", rd_kafka_message_errstr(m));
    rd_kafka_message_destroy(m);
    return err->n == 0;
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
    if (!best) return NULL;
    rd_kafka_message_t *m = best->head;
    best->head = NULL;
    best->at = m->offset + 1;
    return m;
}

/* Every stream has a head, or has ended. */
static bool fill_all(struct reader *r, struct buf *err) {
    for (size_t i = 0; i < r->n; i++) {
        struct stream *s = &r->streams[i];
        while (!s->head && !s->ended)
            if (!poll_main(r, err) || !fill(r, s, POLL_MS, err)) return false;
    }
    return true;
}

rd_kafka_message_t *reader_next(struct reader *r, int linger_ms, struct buf *err) {
    if (!fill_all(r, err)) return NULL;
    rd_kafka_message_t *m = oldest(r);
    for (int waited = 0; !m && waited < linger_ms && !r->limits.to_ms; waited += POLL_MS) {
        for (size_t i = 0; i < r->n; i++)
            if (!fill(r, &r->streams[i], (POLL_MS + (int)r->n - 1) / (int)r->n, err)) return NULL;
        m = oldest(r);
    }
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

struct lookup {
    rd_kafka_t *rk;
    char topic[256];
    int32_t partition;
    int64_t at; /* offset of the next record at the earliest; -1: nowhere */
};

struct lookup *lookup_new(rd_kafka_t *rk) {
    struct lookup *l = xcalloc(1, sizeof *l);
    l->rk = rk;
    l->at = -1;
    return l;
}

void lookup_free(struct lookup *l) {
    if (!l) return;
    rd_kafka_assign(l->rk, NULL);
    free(l);
}

/* Asked for first: reading where nothing is any more takes librdkafka seconds to find out. */
static bool held(struct lookup *l, const char *topic, int32_t partition, int64_t offset,
                 struct buf *err) {
    int64_t low, high;
    rd_kafka_resp_err_t code = client_ends(l->rk, topic, partition, &low, &high, LOOKUP_TIMEOUT_MS);
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
        rd_kafka_message_t *m = rd_kafka_consumer_poll(l->rk, LOOKUP_TIMEOUT_MS);
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

void reader_record(const rd_kafka_message_t *m, struct arena *arena, struct message *ret) {
    *ret = (struct message){.value = {m->payload, m->payload ? m->len : 0}};
    rd_kafka_headers_t *list;
    if (rd_kafka_message_headers(m, &list) != RD_KAFKA_RESP_ERR_NO_ERROR) return;
    size_t n = rd_kafka_header_cnt(list);
    struct header *headers = arena_alloc(arena, (n + 1) * sizeof *headers);
    for (size_t i = 0; i < n; i++) {
        const char *name;
        const void *value;
        size_t size;
        if (rd_kafka_header_get_all(list, i, &name, &value, &size)) continue;
        headers[ret->n_headers++] =
            (struct header){.name = str_c(name), .value = {value, value ? size : 0}};
    }
    ret->headers = headers;
}

bool reader_time(const char *text, int64_t now_ms, int64_t *ret) {
    int64_t ago;
    if (config_parse_ms(text, &ago)) {
        *ret = now_ms > ago ? now_ms - ago : 1;
        return true;
    }
    if (!rfc3339_ok(str_c(text))) return false;
    struct tm tm = {0};
    char sign = '+';
    int hours = 0, minutes = 0;
    const char *zone = text + strlen("2026-01-31T12:00:00");
    zone += strspn(zone, ".0123456789");
    if (sscanf(text, "%4d-%2d-%2d%*1[Tt]%2d:%2d:%2d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday,
               &tm.tm_hour, &tm.tm_min, &tm.tm_sec) != 6)
        return false;
    if (*zone != 'Z' && *zone != 'z' && sscanf(zone, "%c%2d:%2d", &sign, &hours, &minutes) != 3)
        return false;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    int64_t east = (hours * 60 + minutes) * 60 * (sign == '-' ? -1 : 1);
    *ret = ((int64_t)timegm(&tm) - east) * 1000;
    return *ret > 0;
}
