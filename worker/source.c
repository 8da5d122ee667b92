/* The consumer: membership, assignment, the partitions' queues, committed offsets. The rules are
 * those of the settlement protocol (README, "How settlement works"). */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "worker/kafka.h"
#include "worker/lane.h"
#include "worker/log.h"
#include "worker/topics.h"

#define COMMITTED_TIMEOUT_MS 200
#define WATERMARK_TIMEOUT_MS 2000
#define REVOKE_FINISH_MS 5000
#define SEEK_AGAIN_MS 1000

/* ---- partitions ---- */

struct partition *source_find(struct lane *lane, uint64_t serial) {
    for (struct partition *p = lane->partitions; p; p = p->next)
        if (p->serial == serial) return p;
    return NULL;
}

static struct partition *find_named(struct lane *lane, const char *topic, int32_t id) {
    for (struct partition *p = lane->partitions; p; p = p->next)
        if (p->id == id && strcmp(p->topic, topic) == 0) return p;
    return NULL;
}

/* Kind and source topic of a topic that we subscribed to. */
static void classify(const struct lane *lane, struct partition *p) {
    p->kind = PARTITION_SOURCE;
    snprintf(p->base, sizeof p->base, "%s", p->topic);
    for (size_t i = 0; i < lane->cfg->retry_delays.n; i++) {
        char suffix[64];
        int n = snprintf(suffix, sizeof suffix, ".retry.%s", lane->cfg->retry_delays.v[i]);
        size_t len = strlen(p->topic);
        if (n < 0 || len <= (size_t)n || strcmp(p->topic + len - (size_t)n, suffix) != 0) continue;
        p->base[len - (size_t)n] = '\0';
        p->kind = PARTITION_RETRY;
    }
}

static struct partition *partition_new(struct lane *lane, const char *topic, int32_t id) {
    static const uint64_t one = 1;
    struct partition *p = xcalloc(1, sizeof *p);
    snprintf(p->topic, sizeof p->topic, "%s", topic);
    p->id = id;
    p->serial = ++lane->serials;
    p->end = -1;
    classify(lane, p);
    p->queue = rd_kafka_queue_get_partition(lane->consumer, topic, id);
    rd_kafka_queue_forward(p->queue, NULL);
    rd_kafka_queue_io_event_enable(p->queue, lane->wake_fd, &one, sizeof one);
    p->next = lane->partitions;
    lane->partitions = p;
    return p;
}

static void clear_stash(struct partition *p) {
    while (p->stash_at < p->stash_n) rd_kafka_message_destroy(p->stash[p->stash_at++]);
    p->stash_at = p->stash_n = 0;
    p->head_due_ms = 0;
}

static void partition_free(struct lane *lane, struct partition *p) {
    struct partition **at = &lane->partitions;
    while (*at != p) at = &(*at)->next;
    *at = p->next;
    lane_drop_partition(lane, p);
    clear_stash(p);
    rd_kafka_queue_io_event_enable(p->queue, -1, NULL, 0);
    rd_kafka_message_t *left[READ_BATCH];
    for (ssize_t n; (n = rd_kafka_consume_batch_queue(p->queue, 0, left, READ_BATCH)) > 0;)
        for (ssize_t i = 0; i < n; i++) rd_kafka_message_destroy(left[i]);
    rd_kafka_queue_destroy(p->queue);
    free(p);
}

/* ---- committed offset and metadata ---- */

static bool watermarks(struct lane *lane, const struct partition *p, int64_t *low, int64_t *high) {
    rd_kafka_resp_err_t err = rd_kafka_query_watermark_offsets(lane->consumer, p->topic, p->id, low,
                                                               high, WATERMARK_TIMEOUT_MS);
    if (err)
        log_warn("the broker does not tell the ends of a partition now; asked again",
                 LOG_S("topic", p->topic), LOG_I("partition", p->id),
                 LOG_S("error", rd_kafka_err2str(err)));
    return err == RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* Nothing is committed yet. From the earliest record on, where that is turns out when it arrives;
 * from the latest, the start is made durable, or a restart before the first settlement would begin
 * later still. */
static bool no_commit_yet(struct lane *lane, struct partition *p) {
    int64_t low, high;
    p->meta = (struct meta){0};
    p->begins = p->kind == PARTITION_RETRY || lane->cfg->start == CONFIG_START_EARLIEST;
    if (p->begins) return true;
    if (!watermarks(lane, p, &low, &high)) return false;
    p->committed = high;
    p->pin = true;
    return windows_init(&p->windows, high, NULL, 0);
}

static void begin_at(struct partition *p, int64_t offset) {
    p->begins = false;
    p->committed = offset;
    windows_init(&p->windows, offset, NULL, 0);
}

static void foreign_metadata(const struct partition *p, int64_t offset) {
    log_warn("the committed offset carries no metadata of ours: it was set by another tool; the "
             "ledger's chain starts anew here",
             LOG_S("topic", p->topic), LOG_I("partition", p->id), LOG_I("offset", offset));
}

static void recall(struct partition *p, int64_t offset, struct str text) {
    p->committed = offset;
    bool ours = meta_decode(text, &p->meta);
    if (!ours) p->meta = (struct meta){0};
    if (!windows_init(&p->windows, offset, p->meta.ends, p->meta.n_ends)) {
        ours = false;
        p->meta.n_ends = 0;
        windows_init(&p->windows, offset, NULL, 0);
    }
    if (!ours) foreign_metadata(p, offset);
    p->replay_end = p->meta.n_ends ? p->meta.ends[p->meta.n_ends - 1] : 0;
}

/* Fills in where the partition stands; when the broker can't tell now, it is asked again. */
static void load_state(struct lane *lane, struct partition *p, int64_t offset, struct str text) {
    bool bounded = lane->shared->until_end && p->kind == PARTITION_SOURCE;
    int64_t low, high = -1;
    if (bounded && !watermarks(lane, p, &low, &high)) return;
    if (offset >= 0)
        recall(p, offset, text);
    else if (!no_commit_yet(lane, p))
        return;
    p->end = high;
    p->loaded = true;
    log_debug("partition assigned", LOG_I("lane", lane->id), LOG_S("topic", p->topic),
              LOG_I("partition", p->id), LOG_I("offset", p->begins ? -1 : p->committed),
              LOG_I("seq", (int64_t)p->meta.seq), LOG_I("replay", (int64_t)p->meta.n_ends));
}

static void take_committed(struct lane *lane, const rd_kafka_topic_partition_list_t *list) {
    for (int i = 0; i < list->cnt; i++) {
        const rd_kafka_topic_partition_t *tp = &list->elems[i];
        struct partition *p = find_named(lane, tp->topic, tp->partition);
        if (!p || p->loaded || tp->err) continue;
        load_state(lane, p, tp->offset, (struct str){tp->metadata, tp->metadata_size});
    }
}

/* Offsets that the open transaction of a killed owner makes unstable: asked for without blocking
 * until the broker answers. */
static void ask_committed(struct lane *lane) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(4);
    for (const struct partition *p = lane->partitions; p; p = p->next)
        if (!p->loaded) rd_kafka_topic_partition_list_add(list, p->topic, p->id);
    if (list->cnt && !lane->offsets_asking && lane->now_ms - lane->offsets_asked_ms >= 200) {
        rd_kafka_AdminOptions_t *options =
            rd_kafka_AdminOptions_new(lane->consumer, RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS);
        rd_kafka_ListConsumerGroupOffsets_t *request =
            rd_kafka_ListConsumerGroupOffsets_new(lane->cfg->group, list);
        rd_kafka_error_destroy(rd_kafka_AdminOptions_set_require_stable_offsets(options, 1));
        char errstr[128];
        rd_kafka_AdminOptions_set_request_timeout(options, 5000, errstr, sizeof errstr);
        rd_kafka_ListConsumerGroupOffsets(lane->consumer, &request, 1, options, lane->admin_queue);
        rd_kafka_ListConsumerGroupOffsets_destroy(request);
        rd_kafka_AdminOptions_destroy(options);
        lane->offsets_asking = true;
        lane->offsets_asked_ms = lane->now_ms;
    }
    rd_kafka_topic_partition_list_destroy(list);
}

static void take_answers(struct lane *lane) {
    rd_kafka_event_t *event;
    while ((event = rd_kafka_queue_poll(lane->admin_queue, 0))) {
        const rd_kafka_ListConsumerGroupOffsets_result_t *result =
            rd_kafka_event_ListConsumerGroupOffsets_result(event);
        if (result) {
            lane->offsets_asking = false;
            size_t n = 0;
            const rd_kafka_group_result_t **groups =
                rd_kafka_ListConsumerGroupOffsets_result_groups(result, &n);
            for (size_t i = 0; groups && i < n; i++)
                if (!rd_kafka_group_result_error(groups[i]))
                    take_committed(lane, rd_kafka_group_result_partitions(groups[i]));
        }
        rd_kafka_event_destroy(event);
    }
}

/* ---- rebalance ---- */

static void check(struct lane *lane, const char *call, rd_kafka_error_t *e) {
    if (!e) return;
    log_error("the assignment could not be taken over", LOG_I("lane", lane->id),
              LOG_S("call", call), LOG_S("error", rd_kafka_error_string(e)));
    rd_kafka_error_destroy(e);
    lane->restart = true;
    snprintf(lane->restart_why, sizeof lane->restart_why, "%s failed", call);
}

static bool is_cooperative(const struct lane *lane) {
    return strcmp(rd_kafka_rebalance_protocol(lane->consumer), "COOPERATIVE") == 0;
}

/* Where reading starts. Not known yet: where librdkafka finds the commit once it is stable. */
static int64_t position(const struct partition *p) {
    if (!p->loaded) return RD_KAFKA_OFFSET_STORED;
    return p->begins ? RD_KAFKA_OFFSET_BEGINNING : p->committed;
}

static void on_assign(struct lane *lane, rd_kafka_topic_partition_list_t *list) {
    for (int i = 0; i < list->cnt; i++)
        partition_new(lane, list->elems[i].topic, list->elems[i].partition);
    rd_kafka_topic_partition_list_t *committed = rd_kafka_topic_partition_list_copy(list);
    rd_kafka_resp_err_t err =
        list->cnt ? rd_kafka_committed(lane->consumer, committed, COMMITTED_TIMEOUT_MS)
                  : RD_KAFKA_RESP_ERR_NO_ERROR;
    if (err)
        log_warn("committed offsets are not stable yet; asked again", LOG_I("lane", lane->id),
                 LOG_S("error", rd_kafka_err2str(err)));
    else
        take_committed(lane, committed);
    rd_kafka_topic_partition_list_destroy(committed);
    for (int i = 0; i < list->cnt; i++) {
        rd_kafka_topic_partition_t *tp = &list->elems[i];
        const struct partition *p = find_named(lane, tp->topic, tp->partition);
        tp->offset = p ? position(p) : RD_KAFKA_OFFSET_STORED;
    }
    if (is_cooperative(lane))
        check(lane, "incremental assign", rd_kafka_incremental_assign(lane->consumer, list));
    else
        check(lane, "assign",
              rd_kafka_assign(lane->consumer, list)
                  ? rd_kafka_error_new(RD_KAFKA_RESP_ERR__FAIL, "assign failed")
                  : NULL);
    lane->assigned = true;
    log_info("partitions assigned", LOG_I("lane", lane->id), LOG_I("partitions", list->cnt),
             LOG_S("group", lane->cfg->group));
}

static bool in_list(const struct partition *p, void *list) {
    return rd_kafka_topic_partition_list_find(list, p->topic, p->id) != NULL;
}

static void on_revoke(struct lane *lane, rd_kafka_topic_partition_list_t *list) {
    bool lost = rd_kafka_assignment_lost(lane->consumer);
    if (lost)
        log_warn("partitions lost: another member may have them already; what was not settled "
                 "is left to it",
                 LOG_I("lane", lane->id), LOG_I("partitions", list->cnt));
    else if (!lane->restart && !lane->draining)
        lane_finish(lane, in_list, list,
                    lane->cfg->drain_timeout < REVOKE_FINISH_MS ? lane->cfg->drain_timeout
                                                                : REVOKE_FINISH_MS);
    if (is_cooperative(lane))
        check(lane, "incremental unassign", rd_kafka_incremental_unassign(lane->consumer, list));
    else
        check(lane, "unassign",
              rd_kafka_assign(lane->consumer, NULL)
                  ? rd_kafka_error_new(RD_KAFKA_RESP_ERR__FAIL, "unassign failed")
                  : NULL);
    for (int i = 0; i < list->cnt; i++) {
        struct partition *p = find_named(lane, list->elems[i].topic, list->elems[i].partition);
        if (p) partition_free(lane, p);
    }
}

static void rebalance_cb(rd_kafka_t *rk, rd_kafka_resp_err_t err,
                         rd_kafka_topic_partition_list_t *list, void *opaque) {
    struct lane *lane = opaque;
    (void)rk;
    count(&lane->counters, COUNTER_REBALANCES, 1);
    lane->stale = false;
    if (err == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS)
        on_assign(lane, list);
    else
        on_revoke(lane, list);
}

/* ---- reading ---- */

static void seek(struct lane *lane, struct partition *p, int64_t offset) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, p->topic, p->id)->offset = offset;
    rd_kafka_error_t *e = rd_kafka_seek_partitions(lane->consumer, list, WATERMARK_TIMEOUT_MS);
    p->seek_ms = e || list->elems[0].err ? lane->now_ms + SEEK_AGAIN_MS : 0;
    if (e) rd_kafka_error_destroy(e);
    rd_kafka_topic_partition_list_destroy(list);
}

/* Retention removed what comes next: the range is named in the ledger, never skipped in silence. */
static void lose(struct lane *lane, struct partition *p, int64_t low) {
    int64_t at = p->windows.next;
    if (windows_open(&p->windows)) { /* inside a replayed window: begin again with what is left */
        lane->restart = true;
        snprintf(lane->restart_why, sizeof lane->restart_why,
                 "retention removed records inside a replayed window");
        return;
    }
    struct window *w = windows_lost(&p->windows, low);
    if (!w) return; /* too many boundaries in flight: tried again */
    load_new(lane, p, w, 0);
    log_error("retention removed records before they were read", LOG_S("topic", p->topic),
              LOG_I("partition", p->id), LOG_I("first", at), LOG_I("next", low));
    seek(lane, p, low);
}

/* The broker does not have the offset that we want to read. */
static void find_position(struct lane *lane, struct partition *p) {
    int64_t low, high;
    p->seek_ms = lane->now_ms + SEEK_AGAIN_MS;
    if (p->begins) {
        seek(lane, p, RD_KAFKA_OFFSET_BEGINNING);
        return;
    }
    if (!watermarks(lane, p, &low, &high)) return;
    windows_seal(&p->windows);
    const struct window *open = windows_open(&p->windows);
    int64_t at = open ? open->last_taken + 1 : p->windows.next;
    if (low > at) {
        lose(lane, p, low);
    } else if (at > high) {
        log_error("the committed offset lies beyond the end of the partition: the topic was made "
                  "anew or truncated; nothing is read until the group's offset is set or the "
                  "partition has grown to it",
                  LOG_S("topic", p->topic), LOG_I("partition", p->id), LOG_I("offset", at),
                  LOG_I("low", low), LOG_I("high", high));
        p->seek_ms = lane->now_ms + 30 * SEEK_AGAIN_MS;
    } else { /* a broker that had just become, or ceased to be, the leader */
        seek(lane, p, at);
    }
}

/* What stands in the queue between the records. */
static void on_error(struct lane *lane, struct partition *p, const rd_kafka_message_t *msg) {
    if (msg->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
        p->eof = true;
        if (p->begins) begin_at(p, msg->offset);
        windows_passed(&p->windows, msg->offset);
    } else if (msg->err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET) {
        find_position(lane, p);
    } else {
        log_warn("reading a partition failed; it is tried again", LOG_S("topic", p->topic),
                 LOG_I("partition", p->id), LOG_S("error", rd_kafka_message_errstr(msg)));
    }
}

/* When a retry record is due, wall clock; 0 at once (also when the header is missing: its outcome
 * will say so). */
static int64_t due_of(const rd_kafka_message_t *msg) {
    rd_kafka_headers_t *headers = NULL;
    const void *value;
    size_t n;
    if (rd_kafka_message_headers(msg, &headers) ||
        rd_kafka_header_get_last(headers, "runsink-due", &value, &n) || n == 0 || n > 15)
        return 0;
    int64_t ms = 0;
    for (const char *c = value; c < (const char *)value + n; c++) {
        if (*c < '0' || *c > '9') return 0;
        ms = ms * 10 + (*c - '0');
    }
    return ms;
}

static bool refill(struct partition *p) {
    ssize_t n = rd_kafka_consume_batch_queue(p->queue, 0, p->stash, READ_BATCH);
    p->stash_at = 0;
    p->stash_n = n > 0 ? (size_t)n : 0;
    if (p->stash_n) p->eof = false;
    return p->stash_n > 0;
}

rd_kafka_message_t *source_peek(struct lane *lane, struct partition *p) {
    if (!p->loaded || p->left || p->head_due_ms > lane->wall_ms) return NULL;
    for (;;) {
        if (p->stash_at == p->stash_n && !refill(p)) return NULL;
        rd_kafka_message_t *msg = p->stash[p->stash_at];
        if (msg->err) {
            p->stash_at++;
            on_error(lane, p, msg);
            rd_kafka_message_destroy(msg);
            if (lane->restart) return NULL;
            continue;
        }
        if (p->begins) begin_at(p, msg->offset);
        if (p->kind == PARTITION_SOURCE) return msg;
        p->head_due_ms = due_of(msg);
        return p->head_due_ms > lane->wall_ms ? NULL : msg;
    }
}

void source_taken(struct partition *p) {
    p->stash_at++;
    p->head_due_ms = 0;
}

/* ---- topics ---- */

static void subscribe(struct lane *lane) {
    struct worker_shared *shared = (struct worker_shared *)(uintptr_t)lane->shared;
    pthread_mutex_lock(&shared->mutex);
    rd_kafka_topic_partition_list_t *list = NULL;
    if (lane->subscribed != shared->version) {
        list = rd_kafka_topic_partition_list_new((int)shared->topics.n);
        for (size_t i = 0; i < shared->topics.n; i++) {
            const char *base = shared->topics.v[i];
            rd_kafka_topic_partition_list_add(list, base, RD_KAFKA_PARTITION_UA);
            for (size_t t = 0; t < lane->cfg->retry_delays.n; t++) {
                char topic[TOPIC_MAX + 1];
                if (topic_retry(base, lane->cfg->retry_delays.v[t], topic))
                    rd_kafka_topic_partition_list_add(list, topic, RD_KAFKA_PARTITION_UA);
            }
        }
        lane->subscribed = shared->version;
    }
    pthread_mutex_unlock(&shared->mutex);
    if (!list) return;
    rd_kafka_resp_err_t err = rd_kafka_subscribe(lane->consumer, list);
    if (err)
        log_error("subscribing failed", LOG_I("lane", lane->id),
                  LOG_S("error", rd_kafka_err2str(err)));
    rd_kafka_topic_partition_list_destroy(list);
}

/* ---- the consumer ---- */

static rd_kafka_t *consumer_new(struct lane *lane, struct buf *err) {
    char instance[160], errstr[256];
    snprintf(instance, sizeof instance, "%s-%d", lane->cfg->slot, lane->id);
    const char *extra[] = {"group.id",
                           lane->cfg->group,
                           "enable.partition.eof",
                           "true",
                           lane->cfg->slot[0] ? "group.instance.id" : NULL,
                           instance,
                           NULL};
    rd_kafka_conf_t *conf = kafka_conf_new(lane->cfg, extra, err);
    if (!conf) return NULL;
    rd_kafka_conf_set_rebalance_cb(conf, rebalance_cb);
    rd_kafka_conf_set_opaque(conf, lane);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, errstr, sizeof errstr);
    if (rk) return rk;
    buf_printf(err, "consumer: %s", errstr);
    rd_kafka_conf_destroy(conf);
    return NULL;
}

bool source_open(struct lane *lane, struct buf *err) {
    static const uint64_t one = 1;
    lane->consumer = consumer_new(lane, err);
    if (!lane->consumer) return false;
    rd_kafka_poll_set_consumer(lane->consumer);
    lane->main_queue = rd_kafka_queue_get_consumer(lane->consumer);
    rd_kafka_queue_io_event_enable(lane->main_queue, lane->wake_fd, &one, sizeof one);
    lane->admin_queue = rd_kafka_queue_new(lane->consumer);
    rd_kafka_queue_io_event_enable(lane->admin_queue, lane->wake_fd, &one, sizeof one);
    lane->subscribed = 0;
    lane->assigned = lane->stale = lane->offsets_asking = false;
    subscribe(lane);
    return true;
}

void source_close(struct lane *lane) {
    if (!lane->consumer) return;
    rd_kafka_consumer_close(lane->consumer); /* revokes through the callback */
    while (lane->partitions) partition_free(lane, lane->partitions);
    rd_kafka_queue_destroy(lane->main_queue);
    rd_kafka_queue_destroy(lane->admin_queue);
    rd_kafka_destroy(lane->consumer);
    lane->consumer = NULL;
}

void source_poll(struct lane *lane) {
    rd_kafka_message_t *msg;
    while ((msg = rd_kafka_consumer_poll(lane->consumer, 0))) {
        if (msg->err)
            log_warn("consumer", LOG_I("lane", lane->id),
                     LOG_S("error", rd_kafka_message_errstr(msg)));
        rd_kafka_message_destroy(msg);
    }
    for (struct partition *p = lane->partitions; p; p = p->next)
        if (p->seek_ms && p->seek_ms <= lane->now_ms) find_position(lane, p);
    take_answers(lane);
    ask_committed(lane);
    subscribe(lane);
}
