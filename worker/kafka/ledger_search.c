#include "worker/kafka/ledger_search.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "config/config.h"
#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/kafka/client.h"
#include "worker/kafka/marks.h"
#include "worker/kafka/reader.h"
#include "worker/kafka/topic_names.h"

#define ASK_TIMEOUT_MS 2000
#define POLL_MS 100
/* Longer than a killed worker's transaction stays open and hides what was settled after it. */
#define SILENT_MAX_MS 75000

struct ledger_search {
    rd_kafka_t *rk; /* the thread's, as is all but the flags, until done */
    char group[512], source[TOPIC_MAX + 1], ledger[TOPIC_MAX + 1];
    rd_kafka_topic_partition_list_t *list; /* what is looked for */
    struct mark *marks;
    bool *older; /* than all that is there now */
    int wake_fd;
    pthread_t thread;
    atomic_bool stop, done;
    atomic_int held; /* the ledger's partition that an open transaction hides; -1: none */
    bool threaded;
    bool denied; /* no Read on the ledger: it can't be known */
    char error[512];
};

/* ---- the thread ---- */

static bool fail(struct ledger_search *r, rd_kafka_resp_err_t err) {
    r->denied = err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    snprintf(r->error, sizeof r->error, "%s: %s", r->ledger, rd_kafka_err2str(err));
    return false;
}

/* 0: there is no such topic. */
static bool count_partitions(struct ledger_search *r, int *ret) {
    const struct rd_kafka_metadata *md;
    rd_kafka_resp_err_t err = client_topic(r->rk, r->ledger, ASK_TIMEOUT_MS, &md);
    *ret = err ? 0 : md->topics[0].partition_cnt;
    if (!err) rd_kafka_metadata_destroy(md);
    bool none =
        err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
    return !err || none || fail(r, err);
}

/* Its end has come when all that was written by the first look can be seen. */
struct stream {
    int64_t written; /* -1: not known */
    bool ended;
    bool held; /* all that shows was read, and more was written */
};

static bool take_end(struct ledger_search *r, const rd_kafka_message_t *m, struct stream *s) {
    int64_t low, high;
    if (s->written < 0 &&
        !rd_kafka_get_watermark_offsets(r->rk, r->ledger, m->partition, &low, &high))
        s->written = high;
    bool ends = !s->ended && m->offset >= s->written;
    s->ended = s->ended || ends;
    s->held = !s->ended;
    return ends;
}

static void note_held(struct ledger_search *r, const struct stream *streams, int n) {
    int i = 0;
    while (i < n && !streams[i].held) i++;
    atomic_store(&r->held, i < n ? i : -1);
}

static bool read_streams(struct ledger_search *r, struct stream *streams, int n) {
    int64_t heard_ms = clock_ms(CLOCK_MONOTONIC);
    int left = n;
    while (left > 0 && !atomic_load(&r->stop)) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(r->rk, POLL_MS);
        rd_kafka_resp_err_t err = m ? m->err : RD_KAFKA_RESP_ERR__TIMED_OUT;
        if (err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
            left -= take_end(r, m, &streams[m->partition]);
        else if (!err)
            marks_take(r->list, r->group, m, r->marks);
        if (!err) streams[m->partition].held = false;
        if (m) note_held(r, streams, n);
        if (m) rd_kafka_message_destroy(m);
        if (err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) return fail(r, err);
        if (!err) heard_ms = clock_ms(CLOCK_MONOTONIC);
        if (clock_ms(CLOCK_MONOTONIC) - heard_ms > SILENT_MAX_MS)
            return fail(r, RD_KAFKA_RESP_ERR__TIMED_OUT);
    }
    return left == 0;
}

static bool read_ledger(struct ledger_search *r) {
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

static bool compare(struct ledger_search *r) {
    for (int i = 0; i < r->list->cnt && !atomic_load(&r->stop); i++) {
        if (!r->marks[i].known) continue;
        rd_kafka_resp_err_t err =
            marks_older(r->rk, &r->list->elems[i], &r->marks[i], &r->older[i]);
        if (err) return fail(r, err);
    }
    return true;
}

static void *search_main(void *arg) {
    struct ledger_search *r = arg;
    if (!read_ledger(r) || !compare(r))
        log_debug("the ledger was not searched to its end", LOG_S("error", r->error));
    atomic_store(&r->done, true);
    if (eventfd_write(r->wake_fd, 1) != 0) log_warn("waking a lane failed");
    return NULL;
}

/* ---- the calls ---- */

struct ledger_search *ledger_search_new(const struct config *cfg, const char *source,
                                        const struct ledger_place *places, size_t n, int wake_fd,
                                        struct buf *err) {
    struct ledger_search *r = xcalloc(1, sizeof *r);
    r->wake_fd = wake_fd;
    atomic_init(&r->held, -1);
    r->list = rd_kafka_topic_partition_list_new((int)n);
    snprintf(r->group, sizeof r->group, "%s", cfg->group);
    snprintf(r->source, sizeof r->source, "%s", source);
    topic_ledger(source, r->ledger);
    for (size_t i = 0; i < n; i++)
        rd_kafka_topic_partition_list_add(r->list, places[i].topic, places[i].partition);
    r->marks = xcalloc(n, sizeof *r->marks);
    r->older = xcalloc(n, sizeof *r->older);
    r->rk = reader_consumer(cfg, cfg->group, err);
    int rc = r->rk ? pthread_create(&r->thread, NULL, search_main, r) : 0;
    r->threaded = r->rk && rc == 0;
    if (r->threaded) return r;
    if (rc) buf_printf(err, "starting a thread failed: %s", strerror(rc));
    ledger_search_free(r);
    return NULL;
}

void ledger_search_free(struct ledger_search *r) {
    if (!r) return;
    atomic_store(&r->stop, true);
    if (r->threaded) pthread_join(r->thread, NULL);
    if (r->rk) rd_kafka_destroy(r->rk);
    rd_kafka_topic_partition_list_destroy(r->list);
    free(r->marks);
    free(r->older);
    free(r);
}

enum ledger_search_state ledger_search_state(const struct ledger_search *r,
                                             const char **ret_error) {
    if (!atomic_load(&r->done)) return LEDGER_SEARCH_ON;
    *ret_error = r->error;
    return r->denied     ? LEDGER_SEARCH_DENIED
           : r->error[0] ? LEDGER_SEARCH_FAILED
                         : LEDGER_SEARCH_DONE;
}

bool ledger_search_held(const struct ledger_search *r, int32_t *ret_partition) {
    int held = atomic_load(&r->held);
    if (held >= 0) *ret_partition = held;
    return held >= 0;
}

const char *ledger_search_source(const struct ledger_search *r) {
    return r->source;
}

const struct mark *ledger_search_mark(const struct ledger_search *r, const char *topic,
                                      int32_t partition, bool *ret_older) {
    int i = 0;
    while (i < r->list->cnt && (r->list->elems[i].partition != partition ||
                                strcmp(r->list->elems[i].topic, topic) != 0))
        i++;
    if (i == r->list->cnt || !r->marks[i].known) return NULL;
    *ret_older = r->older[i];
    return &r->marks[i];
}
