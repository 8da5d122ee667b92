#include "worker/kafka/consumer.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/kafka/client.h"
#include "worker/kafka/offsets.h"
#include "worker/kafka/txn.h"

#define DESTROY_MAX_MS 5000
#define CLOSE_POLL_MS 100
#define UNTOLD_MS 60000 /* how often it is said that ends are not told */
/* About 1.4 s of a partition's peak is enough to read ahead: older versions of librdkafka refill a
 * full queue once a second. */
#define QUEUE_MAX ((int64_t)4 << 20)
#define QUEUE_MIN ((int64_t)16 << 10)
#define FETCH_MAX ((int64_t)1 << 20)
#define FETCH_MIN ((int64_t)64 << 10)
/* Of an answer, what one partition may have: it comes on top of a full queue, and what waits in
 * retry topics is decompressed to many times its length. */
#define FETCH_PARTS 16
/* What a feed's stash holds at most, but for one message. Nothing bounds it otherwise: a retry
 * partition whose head is not due would keep a hundred records of a megabyte beside its queue. */
#define STASH_MAX ((size_t)32 << 10)
#define STASH_MESSAGES 128

static_assert(FEED_BEGINNING == RD_KAFKA_OFFSET_BEGINNING, "as librdkafka has it");

struct feed {
    struct consumer *consumer;
    char *topic;
    int32_t partition;
    uint64_t serial; /* an answer for another one is dropped */
    rd_kafka_queue_t *queue;
    bool started; /* its caller has said where */
    bool reading; /* handed to librdkafka */
    bool asking;  /* for its committed offset */
    int64_t at;   /* where reading stands, or one of librdkafka's names for an offset */
    int64_t
        untold_ms; /* when it was said last that its ends are not told, monotonic; 0: they are */
    rd_kafka_message_t *stash[STASH_MESSAGES]; /* fetched and not taken */
    size_t stash_at, stash_n;
    int64_t filled_ms, filled_wall_ms;
    struct feed *next;
};

struct consumer {
    rd_kafka_t *rk;
    rd_kafka_queue_t *main_queue;
    struct offsets *offsets; /* NULL once it is being closed */
    int lane, wake_fd;
    const struct consumer_events *events;
    void *context;
    struct feed *feeds;
    uint64_t serials;
    bool assigning; /* inside of events->assigned() */
    bool assigned;  /* has had an assignment */
    bool closing;   /* all is revoked: callbacks only let go */
    bool unclosed;  /* leaving the group did not end: it can't be destroyed */
    bool calling;   /* inside of a rebalance callback */
    void *entered;  /* calling: the membership at its beginning, librdkafka's to free; NULL: none */
    size_t entered_len;
    int32_t served; /* the generation of the last callback; -1: none */
    char error[256];
};

/* ---- feeds ---- */

static struct feed *feed_named(const struct consumer *c, const char *topic, int32_t partition) {
    struct feed *f = c->feeds;
    while (f && (f->partition != partition || strcmp(f->topic, topic) != 0)) f = f->next;
    return f;
}

static struct feed *feed_numbered(const struct consumer *c, uint64_t serial) {
    struct feed *f = c->feeds;
    while (f && f->serial != serial) f = f->next;
    return f;
}

static struct feed *feed_new(struct consumer *c, const char *topic, int32_t partition) {
    static const uint64_t one = 1;
    struct feed *f = xcalloc(1, sizeof *f);
    f->consumer = c;
    f->topic = xstrdup(topic);
    f->partition = partition;
    f->serial = ++c->serials;
    f->at = RD_KAFKA_OFFSET_STORED;
    f->queue = rd_kafka_queue_get_partition(c->rk, topic, partition);
    rd_kafka_queue_forward(f->queue, NULL);
    rd_kafka_queue_io_event_enable(f->queue, c->wake_fd, &one, sizeof one);
    f->next = c->feeds;
    c->feeds = f;
    return f;
}

static void clear_stash(struct feed *f) {
    while (f->stash_at < f->stash_n) rd_kafka_message_destroy(f->stash[f->stash_at++]);
    f->stash_at = f->stash_n = 0;
}

static void feed_free(struct feed *f) {
    struct feed **at = &f->consumer->feeds;
    while (*at != f) at = &(*at)->next;
    *at = f->next;
    clear_stash(f);
    rd_kafka_queue_io_event_enable(f->queue, -1, NULL, 0);
    for (rd_kafka_message_t *left; (left = rd_kafka_consume_queue(f->queue, 0));)
        rd_kafka_message_destroy(left);
    rd_kafka_queue_destroy(f->queue);
    free(f->topic);
    free(f);
}

/* Messages are read one by one, since rd_kafka_consume_batch_queue() loses some in a rebalance.
 * That pauses a partition and resumes it where the application stands, and the call counts wrongly
 * where that is: it skips a record for each end of partition that it returns (librdkafka 2.2
 * to 2.13.1, pull request 5213), or drops what it had counted before the pause (before 2.1). */
static bool refill(struct feed *f) {
    rd_kafka_message_t *m;
    size_t bytes = 0;
    f->stash_at = f->stash_n = 0;
    while (f->stash_n < STASH_MESSAGES && bytes < STASH_MAX &&
           (m = rd_kafka_consume_queue(f->queue, 0))) {
        f->stash[f->stash_n++] = m;
        bytes += m->len + m->key_len;
    }
    if (!f->stash_n) return false;
    f->filled_ms = clock_ms(CLOCK_MONOTONIC);
    f->filled_wall_ms = clock_ms(CLOCK_REALTIME);
    return true;
}

/* What stands in the queue between the messages. */
static enum feed_next take_event(struct feed *f, struct feed_head *ret) {
    rd_kafka_message_t *m = f->stash[f->stash_at++];
    enum feed_next next = FEED_FAILED;
    if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
        next = FEED_END;
        ret->offset = m->offset;
        if (f->at < 0) f->at = m->offset;
    } else if (m->err == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET) {
        next = FEED_ASTRAY;
    } else {
        snprintf(f->consumer->error, sizeof f->consumer->error, "%s", rd_kafka_message_errstr(m));
        ret->error = f->consumer->error;
    }
    rd_kafka_message_destroy(m);
    return next;
}

enum feed_next feed_peek(struct feed *f, struct feed_head *ret) {
    if (f->stash_at == f->stash_n && !refill(f)) return FEED_NOTHING;
    rd_kafka_message_t *m = f->stash[f->stash_at];
    if (m->err) return take_event(f, ret);
    if (f->at < 0) f->at = m->offset;
    ret->message = (struct fetched *)m;
    ret->offset = m->offset;
    return FEED_MESSAGE;
}

struct fetched *feed_take(struct feed *f) {
    rd_kafka_message_t *m = f->stash[f->stash_at++];
    f->at = m->offset + 1;
    return (struct fetched *)m;
}

size_t feed_waiting(const struct feed *f) {
    return f->stash_n - f->stash_at;
}

void feed_filled(const struct feed *f, int64_t *ret_ms, int64_t *ret_wall_ms) {
    *ret_ms = f->filled_ms;
    *ret_wall_ms = f->filled_wall_ms;
}

/* ---- what the broker tells of a partition ---- */

bool feed_ends(const struct feed *f, int64_t *ret_low, int64_t *ret_high) {
    int64_t low, high;
    if (rd_kafka_get_watermark_offsets(f->consumer->rk, f->topic, f->partition, &low, &high) ||
        high < 0)
        return false;
    *ret_low = low;
    *ret_high = high;
    return true;
}

bool feed_ask_ends(struct feed *f, int64_t *ret_low, int64_t *ret_high) {
    rd_kafka_resp_err_t err = rd_kafka_query_watermark_offsets(
        f->consumer->rk, f->topic, f->partition, ret_low, ret_high, FEED_ASK_MS);
    int64_t now_ms = clock_ms(CLOCK_MONOTONIC);
    if (!err) {
        f->untold_ms = 0;
    } else if (!f->untold_ms || now_ms - f->untold_ms >= UNTOLD_MS) {
        f->untold_ms = now_ms;
        log_warn("the broker does not tell the ends of a partition now; asked again",
                 LOG_S("topic", f->topic), LOG_I("partition", f->partition),
                 LOG_S("error", rd_kafka_err2str(err)));
    }
    return err == RD_KAFKA_RESP_ERR_NO_ERROR;
}

bool feed_ask_time(struct feed *f, int64_t time_ms, int64_t *ret_offset) {
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_t *first =
        rd_kafka_topic_partition_list_add(l, f->topic, f->partition);
    first->offset = time_ms;
    rd_kafka_resp_err_t err = rd_kafka_offsets_for_times(f->consumer->rk, l, FEED_ASK_MS);
    if (!err) *ret_offset = first->offset;
    rd_kafka_topic_partition_list_destroy(l);
    return err == RD_KAFKA_RESP_ERR_NO_ERROR;
}

void feed_ask_committed(struct feed *f) {
    if (f->asking || !f->consumer->offsets) return;
    offsets_ask(f->consumer->offsets, f->topic, f->partition, f->serial);
    f->asking = true;
}

static struct committed committed_of(const rd_kafka_topic_partition_t *tp) {
    return (struct committed){.known = !tp->err,
                              .offset = tp->offset < 0 ? -1 : tp->offset,
                              .metadata = {tp->metadata, tp->metadata_size}};
}

/* ---- what librdkafka reads ---- */

static void check(struct consumer *c, const char *call, rd_kafka_error_t *e) {
    char why[96];
    if (!e) return;
    log_error("the assignment could not be taken over", LOG_I("lane", c->lane), LOG_S("call", call),
              LOG_S("error", rd_kafka_error_string(e)));
    rd_kafka_error_destroy(e);
    snprintf(why, sizeof why, "%s failed", call);
    c->events->broken(c->context, why);
}

/* The eager protocol's: the list is all that is read; NULL: nothing. */
static void assign_eagerly(struct consumer *c, const rd_kafka_topic_partition_list_t *list) {
    rd_kafka_resp_err_t err = rd_kafka_assign(c->rk, list);
    if (err) check(c, "assign", rd_kafka_error_new(err, "%s", rd_kafka_err2str(err)));
}

static bool is_cooperative(const struct consumer *c) {
    const char *protocol = rd_kafka_rebalance_protocol(c->rk); /* NULL: it is at its end */
    return protocol && strcmp(protocol, "COOPERATIVE") == 0;
}

/* Hands partitions whose position is known to librdkafka. With the cooperative protocol the others
 * follow when theirs is; the eager one takes all at once, and those start where it finds the commit
 * once that is stable. */
static void assign(struct consumer *c, const rd_kafka_topic_partition_list_t *all) {
    bool cooperative = is_cooperative(c);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(all->cnt);
    for (int i = 0; i < all->cnt; i++) {
        struct feed *f = feed_named(c, all->elems[i].topic, all->elems[i].partition);
        if (!f || (cooperative && !f->started)) continue;
        rd_kafka_topic_partition_list_add(list, f->topic, f->partition)->offset = f->at;
        f->reading = true;
    }
    if (cooperative)
        check(c, "incremental assign", rd_kafka_incremental_assign(c->rk, list));
    else
        assign_eagerly(c, list);
    rd_kafka_topic_partition_list_destroy(list);
}

void feed_start(struct feed *f, int64_t offset) {
    f->started = true;
    f->at = offset;
    if (f->consumer->assigning || f->reading) return;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, f->topic, f->partition);
    assign(f->consumer, list);
    rd_kafka_topic_partition_list_destroy(list);
}

/* The eager protocol knows no single partition: all are handed over again, each where its reading
 * stands. */
static void assign_all(struct consumer *c) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(16);
    for (struct feed *f = c->feeds; f; f = f->next) {
        rd_kafka_topic_partition_list_add(list, f->topic, f->partition)->offset = f->at;
        clear_stash(f); /* comes again */
    }
    assign_eagerly(c, list);
    rd_kafka_topic_partition_list_destroy(list);
}

/* Not by a seek: a partition whose offset was out of range is not being fetched any more, and
 * librdkafka refuses to seek in it. It is handed over anew; its queue stays ours. */
void feed_move(struct feed *f, int64_t offset) {
    struct consumer *c = f->consumer;
    f->started = true;
    f->at = offset;
    clear_stash(f);
    if (!is_cooperative(c)) {
        assign_all(c);
        return;
    }
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, f->topic, f->partition)->offset = offset;
    if (f->reading) check(c, "incremental unassign", rd_kafka_incremental_unassign(c->rk, list));
    check(c, "incremental assign", rd_kafka_incremental_assign(c->rk, list));
    f->reading = true;
    rd_kafka_topic_partition_list_destroy(list);
}

/* Those that were never handed to librdkafka can't be taken back from it. */
static void unassign(struct consumer *c, const rd_kafka_topic_partition_list_t *all) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(all->cnt);
    for (int i = 0; i < all->cnt; i++) {
        const struct feed *f = feed_named(c, all->elems[i].topic, all->elems[i].partition);
        if (f && f->reading) rd_kafka_topic_partition_list_add(list, f->topic, f->partition);
    }
    if (is_cooperative(c))
        check(c, "incremental unassign", rd_kafka_incremental_unassign(c->rk, list));
    else
        assign_eagerly(c, NULL);
    rd_kafka_topic_partition_list_destroy(list);
}

/* ---- its membership ---- */

/* The serialised form is "CGMDv2:", the generation as an int32, the group id, the member id, ...
 * (librdkafka's rdkafka_cgrp.c). */
#define MAGIC "CGMDv2:"
#define MAGIC_LEN (sizeof MAGIC - 1)
#define NAMES_AT (MAGIC_LEN + sizeof(int32_t))

/* -1: it is no membership. */
static int32_t generation_of(const void *metadata, size_t n) {
    int32_t generation;
    if (n < NAMES_AT || memcmp(metadata, MAGIC, MAGIC_LEN) != 0) return -1;
    memcpy(&generation, (const char *)metadata + MAGIC_LEN, sizeof generation);
    return generation;
}

/* The consumer's membership at this moment, librdkafka's to free; NULL: it has none. */
static void *membership(const struct consumer *c, size_t *ret_n) {
    rd_kafka_consumer_group_metadata_t *m = rd_kafka_consumer_group_metadata(c->rk);
    char *member = rd_kafka_memberid(c->rk);
    void *bytes = NULL;
    rd_kafka_error_t *e = m ? rd_kafka_consumer_group_metadata_write(m, &bytes, ret_n) : NULL;
    if (bytes && (!member || !member[0] || generation_of(bytes, *ret_n) < 0)) {
        rd_kafka_mem_free(c->rk, bytes);
        bytes = NULL;
    }
    if (e) rd_kafka_error_destroy(e);
    if (m) rd_kafka_consumer_group_metadata_destroy(m);
    if (member) rd_kafka_mem_free(c->rk, member);
    return bytes;
}

/* ---- rebalances ---- */

static void on_assign(struct consumer *c, rd_kafka_topic_partition_list_t *list) {
    struct assigned *v = xcalloc((size_t)list->cnt + 1, sizeof *v);
    rd_kafka_topic_partition_list_t *told = rd_kafka_topic_partition_list_copy(list);
    rd_kafka_resp_err_t err = list->cnt ? rd_kafka_committed(c->rk, told, CONSUMER_COMMITTED_MS)
                                        : RD_KAFKA_RESP_ERR_NO_ERROR;
    if (err)
        log_warn("committed offsets are not stable yet; asked again", LOG_I("lane", c->lane),
                 LOG_S("error", rd_kafka_err2str(err)));
    for (int i = 0; i < list->cnt; i++) {
        const rd_kafka_topic_partition_t *tp = &told->elems[i];
        v[i] = (struct assigned){.topic = tp->topic, .partition = tp->partition};
        v[i].feed = feed_new(c, tp->topic, tp->partition);
        if (!err) v[i].committed = committed_of(tp);
    }
    c->assigning = true;
    c->events->assigned(c->context, v, (size_t)list->cnt);
    c->assigning = false;
    assign(c, list);
    c->assigned = true;
    rd_kafka_topic_partition_list_destroy(told);
    free(v);
}

static void on_revoke(struct consumer *c, rd_kafka_topic_partition_list_t *list) {
    bool lost = rd_kafka_assignment_lost(c->rk);
    bool all = lost || !is_cooperative(c);
    struct feed **v = xcalloc((size_t)list->cnt + 1, sizeof *v);
    size_t n = 0;
    for (int i = 0; i < list->cnt; i++) {
        struct feed *f = feed_named(c, list->elems[i].topic, list->elems[i].partition);
        if (f) v[n++] = f;
    }
    c->events->revoked(c->context, v, n, lost, all);
    unassign(c, list);
    for (size_t i = 0; i < n; i++) feed_free(v[i]);
    if (lost) c->assigned = false;
    free(v);
}

/* What is to be given back librdkafka strikes from what it says it has as soon as it queues the
 * callback. Should a topic grow before that has returned, a cooperative member joins again at once,
 * and others may get it in that generation. Then librdkafka (2.0 to 2.8 at least) waits without end
 * for a revoke that it has forgotten, and joins no more: only a new consumer helps. */
static bool was_overtaken(const struct consumer *c) {
    size_t n = 0;
    void *now = c->entered ? membership(c, &n) : NULL;
    bool later = now && generation_of(now, n) > c->served;
    if (now) rd_kafka_mem_free(c->rk, now);
    return later && is_cooperative(c);
}

static void leave_callback(struct consumer *c, bool revoked) {
    if (revoked && was_overtaken(c))
        c->events->broken(c->context, "the group went on before partitions were given back");
    if (c->entered) rd_kafka_mem_free(c->rk, c->entered);
    c->entered = NULL;
    c->calling = false;
}

static void enter_callback(struct consumer *c) {
    c->calling = true;
    c->entered = membership(c, &c->entered_len);
    c->served = c->entered ? generation_of(c->entered, c->entered_len) : -1;
}

static void rebalance_cb(rd_kafka_t *rk, rd_kafka_resp_err_t err,
                         rd_kafka_topic_partition_list_t *list, void *consumer) {
    struct consumer *c = consumer;
    if (c->closing) {
        rd_kafka_assign(rk, NULL); /* with either protocol, once it is being closed */
        return;
    }
    enter_callback(c);
    if (err == RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS)
        on_assign(c, list);
    else
        on_revoke(c, list);
    leave_callback(c, err == RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS);
}

/* ---- troubles ---- */

static bool is_about_topic(rd_kafka_resp_err_t err) {
    return err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
           err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC ||
           err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED ||
           err == RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION;
}

static enum broker_fault fault_of(rd_kafka_resp_err_t err) {
    if (!err) return BROKER_FINE;
    if (is_about_topic(err)) return BROKER_TOPIC;
    bool credentials = err == RD_KAFKA_RESP_ERR__AUTHENTICATION || err == RD_KAFKA_RESP_ERR__SSL ||
                       err == RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED;
    return credentials ? BROKER_CREDENTIALS : BROKER_OTHER;
}

static void error_cb(rd_kafka_t *rk, int err, const char *reason, void *consumer) {
    struct consumer *c = consumer;
    (void)rk;
    /* That all are down says nothing more than what came before it. */
    if (!c->closing && err != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN)
        c->events->client_failed(c->context, fault_of((rd_kafka_resp_err_t)err), reason);
}

/* Messages come by their partitions' own queues. One that came another way would be lost: the lane
 * begins again from what is committed. */
static void stray(const struct consumer *c, const rd_kafka_message_t *m) {
    log_error("a record came outside its partition's queue: please report this",
              LOG_I("lane", c->lane), LOG_S("topic", rd_kafka_topic_name(m->rkt)),
              LOG_I("partition", m->partition), LOG_I("offset", m->offset));
    c->events->broken(c->context, "a record came outside its queue");
}

static void on_message(const struct consumer *c, const rd_kafka_message_t *m) {
    if (!m->err)
        stray(c, m);
    else if (m->rkt && is_about_topic(m->err))
        c->events->topic_failed(c->context, rd_kafka_topic_name(m->rkt), rd_kafka_err2str(m->err));
    else if (m->err == RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED)
        c->events->group_denied(c->context, rd_kafka_err2str(m->err));
    else
        log_warn("the consumer reports an error", LOG_I("lane", c->lane),
                 LOG_S("error", rd_kafka_message_errstr(m)));
}

/* ---- answers ---- */

static void tell_looked(const struct consumer *c, const rd_kafka_topic_partition_list_t *list) {
    for (int i = 0; i < list->cnt; i++)
        c->events->looked(c->context, list->elems[i].topic, fault_of(list->elems[i].err),
                          rd_kafka_err2str(list->elems[i].err));
    c->events->looked(c->context, NULL, BROKER_FINE, NULL);
}

static void take_answers(struct consumer *c) {
    rd_kafka_topic_partition_list_t *answer;
    uint64_t serial;
    while (c->offsets && (answer = offsets_answer(c->offsets, &serial))) {
        struct feed *f = serial ? feed_numbered(c, serial) : NULL;
        if (!serial) {
            tell_looked(c, answer);
        } else if (f) {
            struct committed committed = committed_of(&answer->elems[0]);
            f->asking = false;
            c->events->committed(c->context, f, &committed);
        }
        rd_kafka_topic_partition_list_destroy(answer);
    }
}

void consumer_look(struct consumer *c, const char *const *topics, size_t n) {
    if (!c->offsets) return;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)n);
    for (size_t i = 0; i < n; i++)
        rd_kafka_topic_partition_list_add(list, topics[i], RD_KAFKA_PARTITION_UA);
    offsets_look(c->offsets, list);
}

/* ---- its life ---- */

static int64_t between(int64_t least, int64_t n, int64_t most) {
    return n < least ? least : n > most ? most : n;
}

/* Reading ahead has a quarter of the memory budget, and of that the queues of the partitions three
 * quarters. Bytes. */
static int64_t queue_bytes(const struct config *cfg, int64_t partitions) {
    if (partitions < 1) partitions = 1;
    return between(QUEUE_MIN, cfg->memory_budget / 16 * 3 / partitions, QUEUE_MAX);
}

/* The rest is for what comes on top of full queues: an answer to one fetch from each broker, of
 * which two are thought of. It is bounded as it is sent, compressed; to an eighth, let us say:
 * parked records of one tenant resemble each other. */
static int64_t fetch_bytes(const struct config *cfg) {
    return between(FETCH_MIN, cfg->memory_budget / cfg->lanes / 16 / 2 / 8, FETCH_MAX);
}

/* alone: only to see whether it can be made. */
static rd_kafka_t *handle(const struct config *cfg, int lane, int64_t partitions,
                          struct consumer *c, bool alone, struct buf *err) {
    char instance[160], queue_kb[24], fetch[24], part[24];
    snprintf(instance, sizeof instance, "%s-%d", cfg->slot, lane);
    snprintf(queue_kb, sizeof queue_kb, "%" PRId64, queue_bytes(cfg, partitions) / 1024);
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
    if (!config_kafka(cfg, "message.max.bytes")) {
        extra[n++] = "message.max.bytes";
        extra[n++] = fetch;
        extra[n++] = "fetch.max.bytes";
        extra[n++] = fetch;
    }
    rd_kafka_conf_t *conf = client_conf_new(cfg, extra, err);
    if (!conf) return NULL;
    if (alone) client_conf_alone(conf);
    rd_kafka_conf_set_rebalance_cb(conf, rebalance_cb);
    rd_kafka_conf_set_error_cb(conf, error_cb);
    rd_kafka_conf_set_opaque(conf, c);
    return client_new(RD_KAFKA_CONSUMER, conf, err);
}

bool consumer_check(const struct config *cfg, struct buf *err) {
    rd_kafka_t *rk = handle(cfg, 0, 1, NULL, true, err);
    if (rk) rd_kafka_destroy(rk);
    return rk != NULL;
}

struct consumer *consumer_new(const struct config *cfg, int lane, int64_t partitions, int wake_fd,
                              const struct consumer_events *events, void *context,
                              struct buf *err) {
    static const uint64_t one = 1;
    struct consumer *c = xcalloc(1, sizeof *c);
    *c = (struct consumer){
        .lane = lane, .wake_fd = wake_fd, .events = events, .context = context, .served = -1};
    c->rk = handle(cfg, lane, partitions, c, false, err);
    if (!c->rk) {
        free(c);
        return NULL;
    }
    rd_kafka_poll_set_consumer(c->rk);
    c->main_queue = rd_kafka_queue_get_consumer(c->rk);
    rd_kafka_queue_io_event_enable(c->main_queue, wake_fd, &one, sizeof one);
    c->offsets = offsets_new(c->rk, wake_fd);
    if (c->offsets) return c;
    buf_printf(err, "starting a lane's thread failed: %s", strerror(errno));
    c->assigned = true; /* it never joined: nothing keeps it from being destroyed */
    consumer_free(c, false);
    return NULL;
}

void consumer_subscribe(struct consumer *c, const char *const *topics, size_t n) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)n);
    for (size_t i = 0; i < n; i++)
        rd_kafka_topic_partition_list_add(list, topics[i], RD_KAFKA_PARTITION_UA);
    rd_kafka_resp_err_t err = n ? rd_kafka_subscribe(c->rk, list) : rd_kafka_unsubscribe(c->rk);
    if (err)
        log_error("the lane can't subscribe to its topics", LOG_I("lane", c->lane),
                  LOG_S("error", rd_kafka_err2str(err)));
    rd_kafka_topic_partition_list_destroy(list);
}

void consumer_poll(struct consumer *c) {
    rd_kafka_message_t *m;
    while ((m = rd_kafka_consumer_poll(c->rk, 0))) {
        on_message(c, m);
        rd_kafka_message_destroy(m);
    }
    take_answers(c);
}

void consumer_member(const struct consumer *c, char *ret, size_t size) {
    char *id = rd_kafka_memberid(c->rk);
    snprintf(ret, size, "%s", id ? id : "");
    if (id) rd_kafka_mem_free(c->rk, id);
}

bool consumer_is_fatal(const struct consumer *c, char *ret_text, size_t size) {
    char text[256];
    rd_kafka_resp_err_t err = rd_kafka_fatal_error(c->rk, text, sizeof text);
    if (err) snprintf(ret_text, size, "%s: %s", rd_kafka_err2name(err), text);
    return err != RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* What was read is given up before the group is left, so that a callback has nothing to tell. */
static void revoke_all(struct consumer *c) {
    size_t n = 0;
    for (struct feed *f = c->feeds; f; f = f->next) n++;
    if (!n) return;
    struct feed **v = xcalloc(n, sizeof *v), **at = v;
    for (struct feed *f = c->feeds; f; f = f->next) *at++ = f;
    bool lost = rd_kafka_assignment_lost(c->rk) || rd_kafka_fatal_error(c->rk, NULL, 0);
    c->events->revoked(c->context, v, n, lost, true);
    free(v);
}

/* On a thread of its own. NULL: the group is left. */
static void *leave_group(void *consumer) {
    struct consumer *c = consumer;
    rd_kafka_queue_t *queue = rd_kafka_queue_new(c->rk);
    rd_kafka_error_t *refused = rd_kafka_consumer_close_queue(c->rk, queue);
    int64_t end_ms = clock_ms(CLOCK_MONOTONIC) + CONSUMER_CLOSE_MS - CLOSE_POLL_MS;
    bool closed = refused != NULL;
    while (!closed && clock_ms(CLOCK_MONOTONIC) < end_ms) {
        rd_kafka_queue_poll_callback(queue, CLOSE_POLL_MS);
        closed = rd_kafka_consumer_closed(c->rk);
    }
    if (refused)
        log_warn("the consumer group can't be left", LOG_I("lane", c->lane),
                 LOG_S("error", rd_kafka_error_string(refused)));
    rd_kafka_error_destroy(refused);
    rd_kafka_queue_destroy(queue);
    return closed ? NULL : c;
}

/* Runs it on a thread, for max_ms at most. False: it has not ended, or it returned something. */
static bool ends_in_time(void *(*run)(void *), void *argument, int64_t max_ms) {
    struct timespec end;
    pthread_t thread;
    void *failed = NULL;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += max_ms / 1000;
    if (pthread_create(&thread, NULL, run, argument) != 0) return false;
    if (pthread_clockjoin_np(thread, &failed, CLOCK_MONOTONIC, &end) == 0) return !failed;
    pthread_detach(thread);
    return false;
}

/* librdkafka has no time limit here. It was seen to wait for ever where the end came amid the first
 * join, and in what a callback must call where the group's coordinator had just died. Then the
 * group finds out by itself, by the session's end. */
void consumer_close(struct consumer *c) {
    offsets_free(c->offsets);
    c->offsets = NULL;
    revoke_all(c);
    c->closing = true;
    c->unclosed = !ends_in_time(leave_group, c, CONSUMER_CLOSE_MS);
    if (c->unclosed)
        log_warn("leaving the consumer group takes too long: it finds out by itself",
                 LOG_I("lane", c->lane));
    // NOLINTNEXTLINE(clang-analyzer-unix.Malloc): feed_free() moves the list on
    while (c->feeds) feed_free(c->feeds);
}

static void *destroy(void *consumer) {
    rd_kafka_destroy(consumer);
    return NULL;
}

/* librdkafka waits without end for messages that are still held, and for a partition whose topic
 * was deleted meanwhile (its issue 4486). Up to 2.2 it also aborts when a cooperative consumer is
 * destroyed before its first assignment (its issue 4312). Then the handle is left as it is, and so
 * is what its callbacks use: usually the process ends next. */
void consumer_free(struct consumer *c, bool held) {
    if (!c) return;
    rd_kafka_queue_destroy(c->main_queue);
    bool must_stay = held || c->unclosed || (!c->assigned && rd_kafka_version() < 0x02030000);
    if (must_stay || !ends_in_time(destroy, c->rk, DESTROY_MAX_MS))
        log_warn("the consumer could not be freed in time; it is left as it is",
                 LOG_I("lane", c->lane));
    else
        free(c);
}

/* ---- what it settles ---- */

static enum commits find_commits(const struct consumer *c, const struct txn *t) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)t->n_offsets);
    enum commits found = COMMITS_THERE;
    for (size_t i = 0; i < t->n_offsets; i++)
        if (t->offsets[i].follows)
            rd_kafka_topic_partition_list_add(list, t->offsets[i].topic, t->offsets[i].partition);
    if (list->cnt && rd_kafka_committed(c->rk, list, COMMITS_ASK_MS / 2)) found = COMMITS_UNTOLD;
    for (size_t i = 0, at = 0; found != COMMITS_UNTOLD && i < t->n_offsets; i++) {
        struct txn_offset *o = &t->offsets[i];
        if (!o->follows) continue;
        struct committed now = committed_of(&list->elems[at++]);
        o->gone = now.known && now.offset < 0;
        if (o->gone) found = COMMITS_MISSING;
    }
    rd_kafka_topic_partition_list_destroy(list);
    return found;
}

enum commits consumer_find_commits(const struct consumer *c, struct txn *t) {
    enum commits found = find_commits(c, t);
    return found == COMMITS_MISSING ? find_commits(c, t) : found;
}

/* The present membership, if all that the lane has may be settled in it; NULL: not now. It may not
 * where it was joined while an earlier callback still waits, which takes away what was not claimed
 * then. That can't be in the generation after the last callback's, nor in a later one while nothing
 * waits. */
static void *settling(const struct consumer *c, size_t *ret_n) {
    void *now = membership(c, ret_n);
    if (!now || generation_of(now, *ret_n) <= c->served + 1 ||
        !rd_kafka_queue_length(c->main_queue))
        return now;
    rd_kafka_mem_free(c->rk, now);
    return NULL;
}

static struct txn *txn_of(const struct consumer *c, const void *membership, size_t n) {
    struct txn *t = txn_new_in(membership, n);
    t->consumer = c;
    return t;
}

/* What a callback gives back is settled as the member that it was at its beginning, or not at all.
 */
struct txn *txn_new_member(const struct consumer *c) {
    size_t n = 0;
    if (c->calling) return c->entered ? txn_of(c, c->entered, c->entered_len) : NULL;
    void *now = settling(c, &n);
    struct txn *t = now ? txn_of(c, now, n) : NULL;
    if (now) rd_kafka_mem_free(c->rk, now);
    return t;
}

/* A member that was put out comes back under another id. */
static bool is_same_member(const struct txn *t, const void *now, size_t n) {
    return n == t->membership_len &&
           memcmp((const char *)now + NAMES_AT, (const char *)t->membership + NAMES_AT,
                  n - NAMES_AT) == 0;
}

enum renewal consumer_renewal(const struct consumer *c, const struct txn *t) {
    size_t n = 0;
    void *now = c->calling ? membership(c, &n) : settling(c, &n);
    if (!now) return RENEWAL_OVER;
    int32_t then = generation_of(t->membership, t->membership_len);
    int32_t later = is_same_member(t, now, n) ? generation_of(now, n) : -1;
    rd_kafka_mem_free(c->rk, now);
    if (later == then) return RENEWAL_NONE;
    return later > then && !c->calling ? RENEWAL_LATER : RENEWAL_OVER;
}
