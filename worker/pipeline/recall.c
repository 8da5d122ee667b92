/* A partition of a source topic that has no committed offset has not always been without: its topic
 * was deleted, which takes the group's offsets along, and made anew; or they have expired. Then the
 * ledger has its chain, which has to go on. So the ledger is read, once the partition has a record,
 * before that is taken: on a thread of its own, since it may be long. */
#include "worker/pipeline/recall.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/kafka/marks.h"
#include "worker/kafka/reader.h"
#include "worker/kafka/topics.h"
#include "worker/pipeline/assignment.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/source.h"

#define ASK_TIMEOUT_MS 2000
#define POLL_MS 100
#define AGAIN_MS 5000
/* Longer than a killed worker's transaction stays open and hides what was settled after it. */
#define SILENT_MAX_MS 75000

struct recall {
    rd_kafka_t *rk; /* the thread's, as is all but the flags, until done */
    char group[512], ledger[TOPIC_MAX + 1];
    rd_kafka_topic_partition_list_t *list; /* of one source topic */
    struct mark *marks;
    bool *older; /* than all that is there now */
    int wake_fd;
    pthread_t thread;
    atomic_bool stop, done;
    bool denied; /* no Read on the ledger: it can't be known */
    char error[512];
};

/* ---- the thread ---- */

static bool fail(struct recall *r, rd_kafka_resp_err_t err) {
    r->denied = err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    snprintf(r->error, sizeof r->error, "%s: %s", r->ledger, rd_kafka_err2str(err));
    return false;
}

/* 0: there is no such topic. */
static bool count_partitions(struct recall *r, int *ret) {
    const struct rd_kafka_metadata *md = NULL;
    rd_kafka_topic_t *t = rd_kafka_topic_new(r->rk, r->ledger, NULL);
    rd_kafka_resp_err_t err =
        t ? rd_kafka_metadata(r->rk, 0, t, &md, ASK_TIMEOUT_MS) : rd_kafka_last_error();
    if (!err && md->topic_cnt == 1) err = md->topics[0].err;
    *ret = !err && md->topic_cnt == 1 ? md->topics[0].partition_cnt : 0;
    if (md) rd_kafka_metadata_destroy(md);
    if (t) rd_kafka_topic_destroy(t);
    bool none =
        err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
    return !err || none || fail(r, err);
}

/* Its end has come when all that was written by the first look can be seen. */
struct stream {
    int64_t written; /* -1: not known */
    bool ended;
};

static bool take_end(struct recall *r, const rd_kafka_message_t *m, struct stream *s) {
    int64_t low, high;
    if (s->written < 0 &&
        !rd_kafka_get_watermark_offsets(r->rk, r->ledger, m->partition, &low, &high))
        s->written = high;
    bool ends = !s->ended && m->offset >= s->written;
    s->ended = s->ended || ends;
    return ends;
}

static bool read_streams(struct recall *r, struct stream *streams, int left) {
    int64_t heard_ms = clock_ms(CLOCK_MONOTONIC);
    while (left > 0 && !atomic_load(&r->stop)) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(r->rk, POLL_MS);
        rd_kafka_resp_err_t err = m ? m->err : RD_KAFKA_RESP_ERR__TIMED_OUT;
        if (err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
            left -= take_end(r, m, &streams[m->partition]);
        else if (!err)
            marks_take(r->list, r->group, m, r->marks);
        if (m) rd_kafka_message_destroy(m);
        if (err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) return fail(r, err);
        if (!err) heard_ms = clock_ms(CLOCK_MONOTONIC);
        if (clock_ms(CLOCK_MONOTONIC) - heard_ms > SILENT_MAX_MS)
            return fail(r, RD_KAFKA_RESP_ERR__TIMED_OUT);
    }
    return left == 0;
}

static bool read_ledger(struct recall *r) {
    int n;
    if (!count_partitions(r, &n)) return false;
    if (!n) return true;
    struct stream *streams = xcalloc((size_t)n, sizeof *streams);
    rd_kafka_topic_partition_list_t *all = rd_kafka_topic_partition_list_new(n);
    for (int i = 0; i < n; i++) {
        rd_kafka_topic_partition_list_add(all, r->ledger, i)->offset = RD_KAFKA_OFFSET_BEGINNING;
        streams[i].written = -1;
    }
    rd_kafka_resp_err_t err = rd_kafka_assign(r->rk, all);
    bool ok = err ? fail(r, err) : read_streams(r, streams, n);
    rd_kafka_topic_partition_list_destroy(all);
    rd_kafka_assign(r->rk, NULL);
    free(streams);
    return ok;
}

static bool compare(struct recall *r) {
    for (int i = 0; i < r->list->cnt && !atomic_load(&r->stop); i++) {
        if (!r->marks[i].known) continue;
        rd_kafka_resp_err_t err =
            mark_is_older(r->rk, &r->list->elems[i], &r->marks[i], &r->older[i]);
        if (err) return fail(r, err);
    }
    return true;
}

static void *recall_main(void *arg) {
    struct recall *r = arg;
    if (!read_ledger(r) || !compare(r)) log_debug("recalling", LOG_S("error", r->error));
    atomic_store(&r->done, true);
    if (eventfd_write(r->wake_fd, 1) != 0) log_warn("waking a lane failed");
    return NULL;
}

/* ---- the lane's ---- */

static void recall_free(struct recall *r) {
    if (!r) return;
    if (r->rk) rd_kafka_destroy(r->rk);
    rd_kafka_topic_partition_list_destroy(r->list);
    free(r->marks);
    free(r->older);
    free(r);
}

void recall_stop(struct lane *lane) {
    struct recall *r = lane->recall;
    if (!r) return;
    atomic_store(&r->stop, true);
    pthread_join(r->thread, NULL);
    recall_free(r);
    lane->recall = NULL;
}

/* For all of the topic that wait for it, or may have to. */
static struct recall *recall_new(struct lane *lane, const char *source, struct buf *err) {
    struct recall *r = xcalloc(1, sizeof *r);
    r->wake_fd = lane->wake_fd;
    r->list = rd_kafka_topic_partition_list_new(8);
    snprintf(r->group, sizeof r->group, "%s", lane->cfg->group);
    topic_ledger(source, r->ledger);
    for (struct partition *p = lane->partitions; p; p = p->next)
        if (p->recall == RECALL_WANTED && strcmp(p->topic, source) == 0)
            rd_kafka_topic_partition_list_add(r->list, p->topic, p->id);
    r->marks = xcalloc((size_t)r->list->cnt, sizeof *r->marks);
    r->older = xcalloc((size_t)r->list->cnt, sizeof *r->older);
    r->rk = reader_consumer(lane->cfg, lane->cfg->group, err);
    int rc = r->rk ? pthread_create(&r->thread, NULL, recall_main, r) : EINVAL;
    if (rc == 0) return r;
    if (r->rk) buf_printf(err, "starting a thread failed: %s", strerror(rc));
    recall_free(r);
    return NULL;
}

static void failed(struct lane *lane, const char *error) {
    lane->recall_after_ms = lane->now_ms + AGAIN_MS;
    log_warn("the ledger can't be read now: what has no committed offset waits until it is known "
             "whether it has entries there",
             LOG_I("lane", lane->id), LOG_S("error", error));
}

static void start(struct lane *lane, const char *source) {
    struct buf err;
    buf_init(&err, 4096);
    lane->recall = recall_new(lane, source, &err);
    if (!lane->recall) failed(lane, buf_cstr(&err));
    for (struct partition *p = lane->partitions; lane->recall && p; p = p->next)
        if (p->recall == RECALL_WANTED && strcmp(p->topic, source) == 0) p->recall = RECALL_ASKED;
    buf_free(&err);
}

bool recall_waits(struct lane *lane, struct partition *p) {
    if (p->recall == RECALL_NONE) return false;
    /* While there is no record, there is nothing to wait with. */
    if (p->recall == RECALL_WANTED && !lane->recall && lane->now_ms >= lane->recall_after_ms &&
        source_peek(lane, p))
        start(lane, p->topic);
    return true;
}

/* The new topic's chain is the old one's, which goes on. */
static void go_on_anew(struct partition *p, const struct mark *mark) {
    mark_meta(mark, &p->meta);
    p->before = mark->next;
    p->pin = !p->begins; /* else as soon as it is known where */
    log_warn("the topic was deleted and made anew: it is read from its first record, and the "
             "ledger says so",
             LOG_S("topic", p->topic), LOG_I("partition", p->id), LOG_I("read_to", mark->next));
}

static void go_on(struct lane *lane, struct partition *p, const struct mark *mark) {
    mark_meta(mark, &p->meta);
    assignment_begin(p, mark->next);
    p->eof = false;
    assignment_move(lane, p, mark->next);
    log_warn("a partition has no committed offset, and the ledger has entries of it: it has "
             "expired (offsets.retention.minutes) or was deleted, and is taken from the ledger",
             LOG_S("topic", p->topic), LOG_I("partition", p->id), LOG_I("offset", mark->next));
}

static void apply(struct lane *lane, struct partition *p) {
    const struct recall *r = lane->recall;
    int i = 0;
    while (i < r->list->cnt && r->list->elems[i].partition != p->id) i++;
    p->recall = r->error[0] && !r->denied ? RECALL_WANTED : RECALL_NONE;
    if (p->recall || i == r->list->cnt || !r->marks[i].known || r->denied) return;
    if (r->older[i])
        go_on_anew(p, &r->marks[i]);
    else
        go_on(lane, p, &r->marks[i]);
}

void recall_poll(struct lane *lane) {
    struct recall *r = lane->recall;
    if (!r || !atomic_load(&r->done)) return;
    if (r->denied)
        log_warn("no right to read the ledger: a chain that it may have of partitions without a "
                 "committed offset begins again; allow Read on it",
                 LOG_I("lane", lane->id), LOG_S("error", r->error));
    else if (r->error[0])
        failed(lane, r->error);
    for (struct partition *p = lane->partitions; p; p = p->next)
        if (p->recall == RECALL_ASKED && strcmp(p->topic, r->list->elems[0].topic) == 0)
            apply(lane, p);
    lane->again = true;
    recall_stop(lane);
}
