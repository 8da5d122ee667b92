#include "worker/kafka/scan.h"

#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#define POLL_MS 200
/* More than a transaction's timeout, with the time that a coordinator takes to notice. */
#define PATIENCE_MS 100000

struct scanner {
    rd_kafka_t *rk;
    rd_kafka_topic_partition_list_t *list;
    const int64_t *until;
    bool *ended;
    int left; /* partitions that have not ended */
    int last; /* the one that the last message was of: they come in runs */
    int64_t alive_ms;
    rd_kafka_resp_err_t trouble; /* last thing that librdkafka is trying to mend */
};

static int64_t now_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static bool is_of(const rd_kafka_topic_partition_t *p, const rd_kafka_message_t *m) {
    return p->partition == m->partition && strcmp(p->topic, rd_kafka_topic_name(m->rkt)) == 0;
}

static int find(struct scanner *s, const rd_kafka_message_t *m) {
    for (int i = 0; i < s->list->cnt; i++) {
        int at = (s->last + i) % s->list->cnt;
        if (is_of(&s->list->elems[at], m)) return s->last = at;
    }
    return -1;
}

/* The partition has been read up to next. */
static void reach(struct scanner *s, int at, int64_t next, bool end) {
    rd_kafka_topic_partition_t *p = &s->list->elems[at];
    if (next > p->offset) s->alive_ms = now_ms();
    p->offset = next;
    if (s->ended[at] || (s->until ? next < s->until[at] : !end)) return;
    s->ended[at] = true;
    s->left--;
    s->alive_ms = now_ms();
}

/* False when there is no use in waiting. */
static bool take_error(struct scanner *s, const rd_kafka_message_t *m, struct buf *err) {
    int at = m->rkt ? find(s, m) : -1;
    if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
        if (at >= 0) reach(s, at, m->offset, true);
        return true;
    }
    s->trouble = m->err;
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

static bool patient(const struct scanner *s, struct buf *err) {
    if (now_ms() - s->alive_ms < PATIENCE_MS) return true;
    for (int i = 0; i < s->list->cnt; i++) {
        const rd_kafka_topic_partition_t *p = &s->list->elems[i];
        if (s->ended[i]) continue;
        buf_printf(err, "reading %s/%d: nothing comes beyond offset %" PRId64 ": %s", p->topic,
                   (int)p->partition, p->offset,
                   s->trouble ? rd_kafka_err2str(s->trouble)
                              : "an open transaction seems to hide what is there");
        break;
    }
    return false;
}

static enum scan_end run(struct scanner *s, scan_fn *fn, void *context, struct buf *err) {
    while (s->left > 0) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(s->rk, POLL_MS);
        if (m && !m->err) {
            int at = find(s, m);
            int64_t offset = m->offset;
            if (at >= 0 && !fn(context, m)) return SCAN_STOPPED;
            if (at >= 0)
                reach(s, at, offset + 1, false);
            else
                rd_kafka_message_destroy(m);
            continue;
        }
        bool ok = !m || take_error(s, m, err);
        if (m) rd_kafka_message_destroy(m);
        if (!ok || !patient(s, err)) return SCAN_FAILED;
        if (!fn(context, NULL)) return SCAN_STOPPED;
    }
    return SCAN_DONE;
}

enum scan_end scan(rd_kafka_t *rk, rd_kafka_topic_partition_list_t *list, const int64_t *until,
                   scan_fn *fn, void *context, struct buf *err) {
    struct scanner s = {
        .rk = rk, .list = list, .until = until, .left = list->cnt, .alive_ms = now_ms()};
    s.ended = xcalloc((size_t)list->cnt, sizeof *s.ended);
    for (int i = 0; i < list->cnt; i++)
        if (until && list->elems[i].offset >= until[i]) reach(&s, i, list->elems[i].offset, false);
    enum scan_end end = SCAN_DONE;
    rd_kafka_resp_err_t code = s.left ? rd_kafka_assign(rk, list) : RD_KAFKA_RESP_ERR_NO_ERROR;
    if (code) {
        buf_printf(err, "taking the partitions: %s", rd_kafka_err2str(code));
        end = SCAN_FAILED;
    } else {
        end = run(&s, fn, context, err);
    }
    rd_kafka_assign(rk, NULL);
    free(s.ended);
    return end;
}
