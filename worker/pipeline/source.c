#include "worker/pipeline/source.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/kafka/client.h"
#include "worker/kafka/topics.h"
#include "worker/pipeline/assignment.h"
#include "worker/pipeline/lane.h"

#define SEEK_AGAIN_MS 1000
#define REREAD_MS 10000
#define TIMES_TIMEOUT_MS 2000
#define DESTROY_MAX_S 5
#define CLOSE_MAX_MS 15000
#define CLOSE_POLL_MS 100
/* About 1.4 s of a partition's peak is enough to read ahead: older versions of librdkafka refill a
 * full queue once a second. */
#define QUEUE_MAX ((int64_t)4 << 20)
#define QUEUE_MIN ((int64_t)16 << 10)
#define FETCH_MAX ((int64_t)1 << 20)
#define FETCH_MIN ((int64_t)64 << 10)
/* Of an answer, what one partition may have: it comes on top of a full queue, and what waits in
 * retry topics is decompressed to many times its length. */
#define FETCH_PARTS 16
/* What a partition's stash holds at most, but for one record. Nothing bounds it otherwise: a retry
 * partition whose head is not due would keep a hundred records of a megabyte beside its queue. */
#define STASH_MAX ((size_t)32 << 10)

/* ---- reading ---- */

/* Retention removed what comes next: the range is named in the ledger, never skipped in silence. */
static void lose(struct lane *lane, struct partition *p, int64_t low) {
    int64_t at = p->windows.next;
    if (windows_open(&p->windows)) { /* begin again with what is left */
        lane_restart(lane, "retention removed records inside a replayed window");
        return;
    }
    struct window *w = windows_lost(&p->windows, low);
    if (!w) return; /* too many boundaries in flight: tried again */
    window_begin(lane, p, w, 0);
    log_error("retention removed records before they were read", LOG_S("topic", p->topic),
              LOG_I("partition", p->id), LOG_I("first", at), LOG_I("next", low));
    assignment_move(lane, p, low);
}

/* A partition that could not be read is silent once it can be, until something new comes. Reading
 * it anew makes librdkafka tell of its end, or of the error again. */
static void read_again(struct lane *lane, struct partition *p) {
    p->reread_ms = lane->now_ms + REREAD_MS;
    if (p->stash_at != p->stash_n) return;
    assignment_move(lane, p, p->begins ? RD_KAFKA_OFFSET_BEGINNING : partition_at(p));
}

/* What we want to read lies beyond the end: was the topic truncated or made anew? A truncated
 * partition still has older records. One that was made anew is empty, or has only records that are
 * younger than those we read. */
static bool is_anew(struct lane *lane, const struct partition *p, int64_t low, int64_t high) {
    if (low == high) return true;
    if (!p->opened_ms) return false;
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_t *first = rd_kafka_topic_partition_list_add(l, p->topic, p->id);
    first->offset = p->opened_ms;
    rd_kafka_resp_err_t err = rd_kafka_offsets_for_times(lane->consumer, l, TIMES_TIMEOUT_MS);
    bool anew = !err && first->offset == low;
    rd_kafka_topic_partition_list_destroy(l);
    return anew;
}

/* The broker does not have the offset that we want to read. */
static void find_position(struct lane *lane, struct partition *p) {
    int64_t low, high;
    p->seek_ms = lane->now_ms + SEEK_AGAIN_MS;
    if (p->begins) {
        assignment_move(lane, p, RD_KAFKA_OFFSET_BEGINNING);
        return;
    }
    if (!assignment_watermarks(lane, p, &low, &high)) return;
    windows_seal(&p->windows);
    int64_t at = partition_at(p);
    bool anew =
        p->vanished || (low <= at && (at > high || p->shrunk) && is_anew(lane, p, low, high));
    if (anew) {
        if (p->windows.count) return; /* what was read of the old one is settled first */
        log_error("the topic was deleted and made anew: it is read from its first record",
                  LOG_S("topic", p->topic), LOG_I("partition", p->id), LOG_I("read_to", at),
                  LOG_I("first", low), LOG_I("next", high));
        assignment_anew(lane, p, low);
        assignment_doubt(lane, p->topic);
    } else if (low > at) {
        lose(lane, p, low);
    } else if (at > high) {
        if (!p->beyond_ms) p->beyond_ms = lane->now_ms;
        snprintf(p->error, sizeof p->error,
                 "committed %" PRId64 ", available %" PRId64 " to %" PRId64, at, low, high);
        p->seek_ms = lane->now_ms + 30 * SEEK_AGAIN_MS;
        return;
    } else { /* a broker that had just become, or ceased to be, the leader */
        assignment_move(lane, p, at);
    }
    p->beyond_ms = 0;
    p->shrunk = p->vanished = false;
}

/* What stands in the queue between the records. */
static void on_error(struct lane *lane, struct partition *p, const rd_kafka_message_t *msg) {
    if (msg->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
        p->eof = true;
        p->eof_at = msg->offset;
        if (p->unreadable_ms) vitals_readable(lane, p);
        if (p->begins) assignment_begin(p, msg->offset);
        windows_passed(&p->windows, msg->offset);
    } else if (msg->err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET) {
        find_position(lane, p);
    } else {
        vitals_unreadable(lane, p, rd_kafka_message_errstr(msg));
    }
}

/* What the record says of when it is due, by the clock of whoever parked it; 0 at once (also when
 * the header is missing: its outcome will say so). */
static int64_t due_said(const rd_kafka_message_t *msg) {
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

/* When the head of a retry partition is due, by this machine's clock. A wrong clock must not make
 * it hold up what comes after it for longer than the topic's delay. The delay counts from the
 * broker's timestamp. Where the topic carries the producer's, it counts from when we read the
 * record. A broker's timestamp in the future shows by how much this machine's clock is slow. */
static int64_t due_of(const struct lane *lane, struct partition *p, const rd_kafka_message_t *msg) {
    rd_kafka_timestamp_type_t type;
    int64_t due = due_said(msg), at = rd_kafka_message_timestamp(msg, &type);
    if (type == RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME) {
        if (at - lane->wall_ms > p->behind_ms) p->behind_ms = at - lane->wall_ms;
    } else {
        at = p->filled_wall_ms;
    }
    if (due > at + p->delay_ms) due = at + p->delay_ms;
    return due - p->behind_ms;
}

/* The wait ends after the delay by the monotonic clock, whatever happens to the others. */
static bool is_early(const struct lane *lane, const struct partition *p) {
    return p->head_due_ms > lane->wall_ms && lane->now_ms - p->filled_ms < p->delay_ms;
}

/* Messages are read one by one, since rd_kafka_consume_batch_queue() loses some in a rebalance.
 * That pauses a partition and resumes it where the application stands, and the call counts wrongly
 * where that is: it skips a record for each end of partition that it returns (librdkafka 2.2
 * to 2.13.1, pull request 5213), or drops what it had counted before the pause (before 2.1). */
static bool refill(const struct lane *lane, struct partition *p) {
    rd_kafka_message_t *msg;
    size_t bytes = 0;
    p->stash_at = p->stash_n = 0;
    while (p->stash_n < READ_BATCH && bytes < STASH_MAX &&
           (msg = rd_kafka_consume_queue(p->queue, 0))) {
        p->stash[p->stash_n++] = msg;
        bytes += msg->len + msg->key_len;
    }
    if (p->stash_n) p->eof = false;
    p->filled_ms = lane->now_ms;
    p->filled_wall_ms = lane->wall_ms;
    return p->stash_n > 0;
}

rd_kafka_message_t *source_peek(struct lane *lane, struct partition *p) {
    if (!p->loaded || p->left || is_early(lane, p)) return NULL;
    for (;;) {
        if (p->stash_at == p->stash_n && !refill(lane, p)) return NULL;
        rd_kafka_message_t *msg = p->stash[p->stash_at];
        if (msg->err) {
            p->stash_at++;
            on_error(lane, p, msg);
            rd_kafka_message_destroy(msg);
            if (lane->restart) return NULL;
            continue;
        }
        p->eof = false; /* an end that was reported before this record is passed */
        if (p->unreadable_ms) vitals_readable(lane, p);
        if (p->begins) assignment_begin(p, msg->offset);
        if (p->kind == PARTITION_SOURCE) return msg;
        p->head_due_ms = due_of(lane, p, msg);
        return is_early(lane, p) ? NULL : msg;
    }
}

void source_taken(struct partition *p) {
    p->stash_at++;
    p->head_due_ms = 0;
}

/* ---- topics ---- */

static void subscribe(struct lane *lane) {
    if (!lane->settles) return;
    struct worker_shared *shared = lane->shared;
    pthread_mutex_lock(&shared->mutex);
    rd_kafka_topic_partition_list_t *list = NULL;
    if (lane->subscribed != shared->version) {
        list = rd_kafka_topic_partition_list_new((int)(shared->topics.n + shared->retries.n));
        for (size_t i = 0; i < shared->topics.n; i++)
            rd_kafka_topic_partition_list_add(list, shared->topics.v[i], RD_KAFKA_PARTITION_UA);
        for (size_t i = 0; i < shared->retries.n; i++)
            rd_kafka_topic_partition_list_add(list, shared->retries.v[i], RD_KAFKA_PARTITION_UA);
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

static int64_t between(int64_t least, int64_t n, int64_t most) {
    return n < least ? least : n > most ? most : n;
}

/* Reading ahead has a quarter of the memory budget, and of that the queues of the partitions three
 * quarters. All partitions may come to this member; those of retry topics, of which there are five
 * for each of a source topic, count half, since they are empty mostly. Bytes. */
static int64_t queue_bytes(const struct lane *lane) {
    struct worker_shared *shared = lane->shared;
    pthread_mutex_lock(&shared->mutex);
    int64_t n = (shared->partitions + shared->sources + 1) / 2;
    pthread_mutex_unlock(&shared->mutex);
    if (n < 1) n = 1;
    return between(QUEUE_MIN, lane->cfg->memory_budget / 16 * 3 / n, QUEUE_MAX);
}

/* The rest is for what comes on top of full queues: an answer to one fetch from each broker, of
 * which two are thought of. It is bounded as it is sent, compressed; to an eighth, let us say:
 * parked records of one tenant resemble each other. */
static int64_t fetch_bytes(const struct config *cfg) {
    return between(FETCH_MIN, cfg->memory_budget / cfg->lanes / 16 / 2 / 8, FETCH_MAX);
}

static void error_cb(rd_kafka_t *rk, int err, const char *reason, void *lane) {
    (void)rk;
    vitals_client_error(lane, (rd_kafka_resp_err_t)err, reason);
}

/* alone: only to see whether it can be made. */
static rd_kafka_t *consumer_new(struct lane *lane, bool alone, struct buf *err) {
    const struct config *cfg = lane->cfg;
    char instance[160], errstr[256], queue_kb[24], fetch[24], part[24];
    snprintf(instance, sizeof instance, "%s-%d", cfg->slot, lane->id);
    snprintf(queue_kb, sizeof queue_kb, "%" PRId64, queue_bytes(lane) / 1024);
    snprintf(fetch, sizeof fetch, "%" PRId64, fetch_bytes(cfg));
    snprintf(part, sizeof part, "%" PRId64, fetch_bytes(cfg) / FETCH_PARTS);
    const char *extra[24] = {"group.id",
                             cfg->group,
                             "enable.partition.eof",
                             "true",
                             "queued.max.messages.kbytes",
                             queue_kb,
                             "fetch.message.max.bytes",
                             part};
    size_t n = 8;
    if (cfg->slot[0]) {
        extra[n++] = "group.instance.id";
        extra[n++] = instance;
        /* A static member that dies between the two rounds of a cooperative rebalance comes back to
         * what it had in the first, and nobody asks for the second: partitions stay without an
         * owner. Eager has one round. */
        extra[n++] = "partition.assignment.strategy";
        extra[n++] = "roundrobin";
    }
    /* librdkafka takes no fetch.max.bytes below message.max.bytes, which bounds nothing that is
     * read: a larger record comes as an answer of its own. */
    if (!client_configured(cfg, "message.max.bytes")) {
        extra[n++] = "message.max.bytes";
        extra[n++] = fetch;
        extra[n++] = "fetch.max.bytes";
        extra[n++] = fetch;
    }
    rd_kafka_conf_t *conf = client_conf_new(cfg, extra, err);
    if (!conf) return NULL;
    if (alone) client_conf_alone(conf);
    assignment_take_rebalances(conf);
    rd_kafka_conf_set_error_cb(conf, error_cb);
    rd_kafka_conf_set_opaque(conf, lane);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, errstr, sizeof errstr);
    if (rk) return rk;
    buf_printf(err, "consumer: %s", errstr);
    rd_kafka_conf_destroy(conf);
    return NULL;
}

bool source_check(const struct config *cfg, struct buf *err) {
    struct worker_shared none = {0};
    struct lane *lane = xcalloc(1, sizeof *lane);
    pthread_mutex_init(&none.mutex, NULL);
    lane->cfg = cfg;
    lane->shared = &none;
    rd_kafka_t *rk = consumer_new(lane, true, err);
    if (rk) rd_kafka_destroy(rk);
    pthread_mutex_destroy(&none.mutex);
    free(lane);
    return rk != NULL;
}

bool source_open(struct lane *lane, struct buf *err) {
    static const uint64_t one = 1;
    lane->consumer = consumer_new(lane, false, err);
    if (!lane->consumer) return false;
    rd_kafka_poll_set_consumer(lane->consumer);
    lane->main_queue = rd_kafka_queue_get_consumer(lane->consumer);
    rd_kafka_queue_io_event_enable(lane->main_queue, lane->wake_fd, &one, sizeof one);
    lane->offsets = offsets_new(lane->consumer, lane->wake_fd);
    if (!lane->offsets) {
        buf_printf(err, "starting a lane's thread failed: %s", strerror(errno));
        return false;
    }
    lane->subscribed = 0;
    lane->assigned = lane->stale = false;
    vitals_begin(lane);
    subscribe(lane);
    return true;
}

/* librdkafka's own rd_kafka_consumer_close() has no time limit, and was seen to wait for ever where
 * the end came amid the first join. Then the group finds out by itself, by the session's end. */
static void leave_group(struct lane *lane) {
    rd_kafka_queue_t *queue = rd_kafka_queue_new(lane->consumer);
    rd_kafka_error_t *refused = rd_kafka_consumer_close_queue(lane->consumer, queue);
    int64_t end_ms = clock_ms(CLOCK_MONOTONIC) + CLOSE_MAX_MS;
    bool closed = refused != NULL;
    while (!closed && clock_ms(CLOCK_MONOTONIC) < end_ms) {
        rd_kafka_queue_poll_callback(queue, CLOSE_POLL_MS);
        closed = rd_kafka_consumer_closed(lane->consumer);
    }
    if (refused)
        log_warn("the consumer group can't be left", LOG_I("lane", lane->id),
                 LOG_S("error", rd_kafka_error_string(refused)));
    else if (!closed)
        log_warn("leaving the consumer group takes too long: it finds out by itself",
                 LOG_I("lane", lane->id));
    lane->unclosed = !closed;
    rd_kafka_error_destroy(refused);
    rd_kafka_queue_destroy(queue);
}

void source_close(struct lane *lane) {
    if (!lane->consumer) return;
    offsets_free(lane->offsets);
    lane->offsets = NULL;
    vitals_end(lane);
    leave_group(lane); /* revokes through the callback */
    while (lane->partitions) assignment_drop(lane, lane->partitions);
}

static void *destroy(void *consumer) {
    rd_kafka_destroy(consumer);
    return NULL;
}

/* It may wait for ever, too, for a partition whose topic was deleted meanwhile (its issue 4486). */
static bool destroy_in_time(rd_kafka_t *consumer) {
    struct timespec end;
    pthread_t thread;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += DESTROY_MAX_S;
    if (pthread_create(&thread, NULL, destroy, consumer) != 0) return false;
    if (pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &end) == 0) return true;
    pthread_detach(thread);
    return false;
}

/* librdkafka waits without end for messages that are still held. Up to 2.2 it also aborts when a
 * cooperative consumer is destroyed before its first assignment (its issue 4312). In both cases the
 * handle is left as it is: usually the process ends next. */
void source_free(struct lane *lane) {
    if (!lane->consumer) return;
    rd_kafka_queue_destroy(lane->main_queue);
    bool must_stay =
        lane->dropped || lane->unclosed || (!lane->assigned && rd_kafka_version() < 0x02030000);
    if (must_stay || !destroy_in_time(lane->consumer))
        log_warn("the consumer is left undestroyed", LOG_I("lane", lane->id));
    lane->consumer = NULL;
}

/* Records come by their partitions' own queues. One that came another way would be lost: the lane
 * begins again from what is committed. */
static void stray(struct lane *lane, const rd_kafka_message_t *msg) {
    log_error("a record came outside its partition's queue: please report this",
              LOG_I("lane", lane->id), LOG_S("topic", rd_kafka_topic_name(msg->rkt)),
              LOG_I("partition", msg->partition), LOG_I("offset", msg->offset));
    lane_restart(lane, "a record came outside its queue");
}

void source_poll(struct lane *lane) {
    rd_kafka_message_t *msg;
    while ((msg = rd_kafka_consumer_poll(lane->consumer, 0))) {
        if (!msg->err)
            stray(lane, msg);
        else if (!vitals_topic_error(lane, msg))
            log_warn("consumer", LOG_I("lane", lane->id),
                     LOG_S("error", rd_kafka_message_errstr(msg)));
        rd_kafka_message_destroy(msg);
    }
    for (struct partition *p = lane->partitions; p; p = p->next) {
        if (p->seek_ms && p->seek_ms <= lane->now_ms) find_position(lane, p);
        if (p->reread_ms && p->reread_ms <= lane->now_ms) read_again(lane, p);
    }
    assignment_poll(lane);
    subscribe(lane);
}
