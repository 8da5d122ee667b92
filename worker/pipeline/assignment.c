/* The rules are those of the settlement protocol (worker/README.md). */
#include "worker/pipeline/assignment.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/base/log.h"
#include "worker/kafka/topics.h"
#include "worker/pipeline/caution.h"
#include "worker/pipeline/lane.h"

#define COMMITTED_TIMEOUT_MS 200
#define WATERMARK_TIMEOUT_MS 2000
#define REVOKE_FINISH_MS 5000
#define ASK_AGAIN_MS 200

/* ---- partitions ---- */

/* Kind and source topic of a topic that we subscribed to: by its name alone, since a retry topic
 * stays one when its delay is not configured any more. */
static void classify(const struct lane *lane, struct partition *p) {
    size_t base;
    p->kind = topic_kind(p->topic, &base) == TOPIC_RETRY ? PARTITION_RETRY : PARTITION_SOURCE;
    p->leftover = p->kind == PARTITION_RETRY && topic_is_leftover(lane->cfg, p->topic);
    snprintf(p->base, sizeof p->base, "%.*s", (int)base, p->topic);
    const char *delay = strrchr(p->topic, '.');
    if (p->kind == PARTITION_RETRY) config_parse_ms(delay + 1, &p->delay_ms);
}

static struct partition *partition_new(struct lane *lane, const char *topic, int32_t id) {
    static const uint64_t one = 1;
    struct partition *p = xcalloc(1, sizeof *p);
    snprintf(p->topic, sizeof p->topic, "%s", topic);
    p->id = id;
    p->serial = ++lane->serials;
    p->end = -1;
    p->special = INT64_MAX;
    p->before = p->high_stale = -1;
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

void assignment_drop(struct lane *lane, struct partition *p) {
    struct partition **at = &lane->partitions;
    while (*at != p) at = &(*at)->next;
    *at = p->next;
    caution_set(lane, p, CAUTION_NONE);
    windows_clear(&p->windows);
    clear_stash(p);
    char place[PARTITION_NAME_MAX];
    partition_name(p, place);
    trouble_drop(lane->shared->troubles, lane->id, place);
    rd_kafka_queue_io_event_enable(p->queue, -1, NULL, 0);
    for (rd_kafka_message_t *left; (left = rd_kafka_consume_queue(p->queue, 0));)
        rd_kafka_message_destroy(left);
    rd_kafka_queue_destroy(p->queue);
    free(p);
}

/* ---- committed offset and metadata ---- */

bool assignment_watermarks(struct lane *lane, const struct partition *p, int64_t *low,
                           int64_t *high) {
    place_at(&lane->place, STEP_KAFKA, -1); /* a rebalance may ask for many */
    rd_kafka_resp_err_t err = rd_kafka_query_watermark_offsets(lane->consumer, p->topic, p->id, low,
                                                               high, WATERMARK_TIMEOUT_MS);
    if (err)
        log_warn("the broker does not tell the ends of a partition now; asked again",
                 LOG_S("topic", p->topic), LOG_I("partition", p->id),
                 LOG_S("error", rd_kafka_err2str(err)));
    return err == RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* Nothing is committed: it begins with its first record, wherever the group began (begin.h). Where
 * that is turns out when it arrives; what was before, then too (recall.c). */
static void no_commit_yet(const struct lane *lane, struct partition *p) {
    p->meta = (struct meta){0};
    p->begins = true;
    if (lane->cfg->ledger && p->kind == PARTITION_SOURCE) p->recall = RECALL_WANTED;
}

void assignment_begin(struct partition *p, int64_t offset) {
    p->begins = false;
    p->committed = offset;
    p->pin = p->before >= 0;
    windows_init(&p->windows, offset, NULL, 0);
}

/* The topic is another one than the one that was read, under the same name. Its first record's
 * offset is made durable, or a restart would look for the old one again. */
void assignment_anew(struct lane *lane, struct partition *p, int64_t low) {
    if (!p->pin) p->before = p->committed;
    p->committed = low;
    p->pin = true;
    p->durable = false;
    p->doubts = 0;
    p->opened_ms = 0;
    p->high_seen = -1;
    p->high_stale = vitals_high(lane, p, NULL);
    p->replay_end = 0;
    p->eof = false;
    windows_init(&p->windows, low, NULL, 0);
    assignment_move(lane, p, low);
}

static void foreign_metadata(const struct partition *p, int64_t offset) {
    log_warn("the committed offset carries no metadata of ours: it was set by another tool; the "
             "ledger's chain starts anew here",
             LOG_S("topic", p->topic), LOG_I("partition", p->id), LOG_I("offset", offset));
}

static void recall(struct partition *p, int64_t offset, struct str text) {
    p->committed = offset;
    p->durable = true;
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
    if (bounded && !assignment_watermarks(lane, p, &low, &high)) return;
    if (offset >= 0)
        recall(p, offset, text);
    else
        no_commit_yet(lane, p);
    p->end = high;
    p->want = p->meta.claim;
    p->loaded = true;
    log_debug("partition assigned", LOG_I("lane", lane->id), LOG_S("topic", p->topic),
              LOG_I("partition", p->id), LOG_I("offset", p->begins ? -1 : p->committed),
              LOG_I("seq", (int64_t)p->meta.seq), LOG_I("replay", (int64_t)p->meta.n_ends));
}

void assignment_doubt(struct lane *lane, const char *topic) {
    for (struct partition *p = lane->partitions; p; p = p->next)
        if (p->durable && !p->doubts && strcmp(p->topic, topic) == 0) p->doubts = 1;
}

/* A commit that is gone while we are a member went with its topic. Asked twice: it is not to be
 * concluded from one answer that was lost. */
static void take_doubt(struct lane *lane, struct partition *p,
                       const rd_kafka_topic_partition_t *tp) {
    if (!p->doubting || !p->doubts) return;
    p->doubting = false;
    if (tp->err) return;
    p->doubts = tp->offset >= 0 || !p->durable ? 0 : p->doubts + 1;
    if (p->doubts < 3) return;
    p->doubts = 0;
    p->vanished = true;
    p->seek_ms = lane->now_ms;
    assignment_doubt(lane, p->topic);
}

static void ask_in_doubt(struct lane *lane) {
    for (struct partition *p = lane->partitions; p; p = p->next) {
        if (!p->doubts || p->doubting || lane->now_ms - p->asked_ms < ASK_AGAIN_MS) continue;
        offsets_ask(lane->offsets, p->topic, p->id, p->serial);
        p->doubting = true;
        p->asked_ms = lane->now_ms;
    }
}

static void take_committed(struct lane *lane, const rd_kafka_topic_partition_list_t *list) {
    for (int i = 0; i < list->cnt; i++) {
        const rd_kafka_topic_partition_t *tp = &list->elems[i];
        struct partition *p = partition_named(lane, tp->topic, tp->partition);
        if (p && p->loaded) take_doubt(lane, p, tp);
        if (!p || p->loaded || tp->err) continue;
        vitals_contact(lane);
        load_state(lane, p, tp->offset, (struct str){tp->metadata, tp->metadata_size});
    }
}

static void take_answers(struct lane *lane) {
    rd_kafka_topic_partition_list_t *answer;
    uint64_t serial;
    while ((answer = offsets_answer(lane->offsets, &serial))) {
        struct partition *p = serial ? partition_find(lane, serial) : NULL;
        if (!serial) {
            vitals_answer(lane, answer);
        } else if (p) {
            p->asking = false;
            take_committed(lane, answer);
        }
        rd_kafka_topic_partition_list_destroy(answer);
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

/* The eager protocol's: the list is all that is read; NULL: nothing. */
static void assign_eagerly(struct lane *lane, const rd_kafka_topic_partition_list_t *list) {
    rd_kafka_resp_err_t err = rd_kafka_assign(lane->consumer, list);
    if (err) check(lane, "assign", rd_kafka_error_new(err, "%s", rd_kafka_err2str(err)));
}

static bool is_cooperative(const struct lane *lane) {
    /* NULL while the consumer is being closed. */
    const char *protocol = rd_kafka_rebalance_protocol(lane->consumer);
    return protocol && strcmp(protocol, "COOPERATIVE") == 0;
}

/* Where reading starts. Not known yet: where librdkafka finds the commit once it is stable. */
static int64_t position(const struct partition *p) {
    if (!p->loaded) return RD_KAFKA_OFFSET_STORED;
    return p->begins ? RD_KAFKA_OFFSET_BEGINNING : p->committed;
}

/* Hands partitions whose position is known to librdkafka. With the cooperative protocol the others
 * follow when theirs is; the eager one takes all at once, and those are sought later. */
static void assign(struct lane *lane, const rd_kafka_topic_partition_list_t *all) {
    bool cooperative = is_cooperative(lane);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(all->cnt);
    for (int i = 0; i < all->cnt; i++) {
        struct partition *p = partition_named(lane, all->elems[i].topic, all->elems[i].partition);
        if (!p || (cooperative && !p->loaded)) continue;
        rd_kafka_topic_partition_list_add(list, p->topic, p->id)->offset = position(p);
        p->reading = true;
    }
    if (cooperative)
        check(lane, "incremental assign", rd_kafka_incremental_assign(lane->consumer, list));
    else
        assign_eagerly(lane, list);
    rd_kafka_topic_partition_list_destroy(list);
}

/* A partition whose position became known only after its assignment. */
static void assign_late(struct lane *lane, struct partition *p) {
    if (p->reading) return; /* eager: it was assigned with OFFSET_STORED */
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, p->topic, p->id);
    assign(lane, list);
    rd_kafka_topic_partition_list_destroy(list);
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
    assign(lane, list);
    lane->assigned = true;
    lane->vitals.revoked_ms = 0;
    log_info("partitions assigned", LOG_I("lane", lane->id), LOG_I("partitions", list->cnt),
             LOG_S("group", lane->cfg->group));
}

/* The eager protocol knows no single partition: all are handed over again, each where its reading
 * stands. */
static void assign_all(struct lane *lane, const struct partition *moved, int64_t offset) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(16);
    for (struct partition *p = lane->partitions; p; p = p->next) {
        int64_t at = p == moved ? offset : !p->loaded || p->begins ? position(p) : partition_at(p);
        rd_kafka_topic_partition_list_add(list, p->topic, p->id)->offset = at;
        clear_stash(p); /* comes again */
    }
    assign_eagerly(lane, list);
    rd_kafka_topic_partition_list_destroy(list);
}

/* Not by a seek: a partition whose offset was out of range is not being fetched any more, and
 * librdkafka refuses to seek in it. It is handed over anew; its queue stays ours. */
void assignment_move(struct lane *lane, struct partition *p, int64_t offset) {
    p->seek_ms = 0;
    if (!is_cooperative(lane)) {
        assign_all(lane, p, offset);
        return;
    }
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, p->topic, p->id)->offset = offset;
    if (p->reading)
        check(lane, "incremental unassign", rd_kafka_incremental_unassign(lane->consumer, list));
    check(lane, "incremental assign", rd_kafka_incremental_assign(lane->consumer, list));
    p->reading = true;
    rd_kafka_topic_partition_list_destroy(list);
}

static bool in_list(const struct partition *p, void *list) {
    return rd_kafka_topic_partition_list_find(list, p->topic, p->id) != NULL;
}

/* Those that were never handed to librdkafka can't be taken back from it. */
static void unassign(struct lane *lane, const rd_kafka_topic_partition_list_t *all) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(all->cnt);
    for (int i = 0; i < all->cnt; i++) {
        const struct partition *p =
            partition_named(lane, all->elems[i].topic, all->elems[i].partition);
        if (p && p->reading) rd_kafka_topic_partition_list_add(list, p->topic, p->id);
    }
    if (is_cooperative(lane))
        check(lane, "incremental unassign", rd_kafka_incremental_unassign(lane->consumer, list));
    else
        assign_eagerly(lane, NULL);
    rd_kafka_topic_partition_list_destroy(list);
}

static void on_revoke(struct lane *lane, rd_kafka_topic_partition_list_t *list) {
    bool lost = rd_kafka_assignment_lost(lane->consumer);
    bool all = lost || !is_cooperative(lane);
    if (lost)
        log_warn("partitions lost: another member may have them already; what was not settled "
                 "is left to it",
                 LOG_I("lane", lane->id), LOG_I("partitions", list->cnt));
    else if (!lane->restart && !lane->draining)
        lane->finish(lane, in_list, list,
                     lane->cfg->drain_timeout < REVOKE_FINISH_MS ? lane->cfg->drain_timeout
                                                                 : REVOKE_FINISH_MS);
    unassign(lane, list);
    for (int i = 0; i < list->cnt; i++) {
        struct partition *p = partition_named(lane, list->elems[i].topic, list->elems[i].partition);
        if (p) assignment_drop(lane, p);
    }
    /* The cooperative protocol takes away what is to go elsewhere, and the rest stays. */
    if (all) lane->vitals.revoked_ms = lane->now_ms;
    if (lost) lane->assigned = false;
}

static void rebalance_cb(rd_kafka_t *rk, rd_kafka_resp_err_t err,
                         rd_kafka_topic_partition_list_t *list, void *opaque) {
    struct lane *lane = opaque;
    (void)rk;
    count(&lane->counters, COUNTER_REBALANCES, 1);
    if (lane->stale) lane->settle_after_ms = 0;
    lane->stale = false;
    lane->memberships++;
    if (err == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS)
        on_assign(lane, list);
    else
        on_revoke(lane, list);
}

void assignment_take_rebalances(rd_kafka_conf_t *conf) {
    rd_kafka_conf_set_rebalance_cb(conf, rebalance_cb);
}

/* ---- what became known late ---- */

static void load_late(struct lane *lane) {
    for (struct partition *p = lane->partitions; p; p = p->next) {
        if (p->loaded && p->late) {
            p->late = false;
            assign_late(lane, p);
        }
        if (p->loaded) continue;
        p->late = true;
        if (p->asking || lane->now_ms - p->asked_ms < ASK_AGAIN_MS) continue;
        offsets_ask(lane->offsets, p->topic, p->id, p->serial);
        p->asking = true;
        p->asked_ms = lane->now_ms;
    }
}

void assignment_poll(struct lane *lane) {
    take_answers(lane);
    load_late(lane);
    ask_in_doubt(lane);
}
