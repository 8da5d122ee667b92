#include "worker/kafka/begin.h"

#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>
#include <time.h>

#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/kafka/client.h"
#include "worker/kafka/marks.h"
#include "worker/kafka/reader.h"
#include "worker/kafka/rights.h"

#define PAUSE_MS 100

struct beginning {
    const struct config *cfg;
    const struct topic_list *all, *sources;
    rd_kafka_t *rk;                        /* sees what is committed, pending transactions aside */
    rd_kafka_topic_partition_list_t *list; /* the sources' partitions and their retry topics' */
    int64_t end_ms;
    int timeout_ms;
    topics_stop_fn *stop;
    struct buf *err;
};

static int failed(struct beginning *b, const char *what, rd_kafka_resp_err_t code) {
    buf_printf(b->err, "%s: %s\n", what, rd_kafka_err2str(code));
    return rights_lack(code) ? EX_CONFIG : EX_UNAVAILABLE;
}

static int denied(struct beginning *b) {
    buf_puts(b->err, ": the group has no committed offsets, and what the ledger knows of it can't "
                     "be read: allow Read on it\n");
    return EX_CONFIG;
}

static int left_ms(const struct beginning *b) {
    int64_t left = b->end_ms - clock_ms(CLOCK_MONOTONIC);
    return left > 1 ? (int)left : 1;
}

/* Passes by itself: the coordinator is being looked for, or is loading. */
static bool passes(rd_kafka_resp_err_t code) {
    return code == RD_KAFKA_RESP_ERR__TIMED_OUT || code == RD_KAFKA_RESP_ERR__TRANSPORT ||
           code == RD_KAFKA_RESP_ERR__WAIT_COORD || code == RD_KAFKA_RESP_ERR_NOT_COORDINATOR ||
           code == RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE ||
           code == RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
}

static int ask_committed(struct beginning *b, bool *ret_begun) {
    const struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000L};
    rd_kafka_resp_err_t code;
    int64_t left;
    *ret_begun = false;
    do {
        left = b->end_ms - clock_ms(CLOCK_MONOTONIC);
        code = rd_kafka_committed(b->rk, b->list, left > 2000 ? 2000 : left > 1 ? (int)left : 1);
        if (passes(code)) nanosleep(&pause, NULL); /* it changes without an event of ours */
    } while (passes(code) && left > 0 && !b->stop());
    if (code) return failed(b, "can't ask for the group's committed offsets", code);
    for (int i = 0; i < b->list->cnt; i++) *ret_begun |= b->list->elems[i].offset >= 0;
    return EX_OK;
}

/* ---- what the ledger knows ---- */

struct reading {
    const struct beginning *begin;
    const struct reader *reader;
    bool told;
};

static bool stops(void *context) {
    struct reading *it = context;
    const char *topic;
    int32_t partition;
    if (!it->told && reader_held(it->reader, &topic, &partition)) {
        it->told = true;
        log_warn("a transaction is open in the ledger, and what was written after it tells where "
                 "the group goes on: the start waits for its end",
                 LOG_S("topic", topic), LOG_I("partition", partition),
                 LOG_I("timeout_ms", it->begin->timeout_ms));
    }
    return it->begin->stop();
}

/* Up to the end of what was written: an entry that a transaction hides is one all the same. */
static int add_ledger(struct beginning *b, struct reader *r, const struct topic *ledger) {
    for (int i = 0; i < ledger->partitions; i++) {
        int64_t low, high;
        rd_kafka_resp_err_t code = client_ends(b->rk, ledger->name, i, &low, &high, b->timeout_ms);
        if (code) return failed(b, ledger->name, code);
        reader_add(r, ledger->name, i, RD_KAFKA_OFFSET_BEGINNING, high);
    }
    return EX_OK;
}

/* Why the reading ended before the end. */
static int unread(struct beginning *b, const struct reader *r) {
    const char *topic;
    int32_t partition;
    if (reader_trouble(r) == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED) return denied(b);
    if (!reader_held(r, &topic, &partition)) return EX_UNAVAILABLE;
    b->err->n = 0;
    buf_printf(b->err,
               "%s/%d: an open transaction hides entries that tell where the group goes on, and "
               "has not ended within %d s: try again (OPERATIONS.md: a hanging transaction)\n",
               topic, (int)partition, b->timeout_ms / 1000);
    return EX_TEMPFAIL;
}

static int read_ledger(struct beginning *b, rd_kafka_t *rk, const struct topic *ledger,
                       struct mark *marks) {
    rd_kafka_message_t *m;
    struct reader *r = reader_new(rk, READER_ANY);
    struct reading reading = {.begin = b, .reader = r};
    reader_stop_when(r, stops, &reading);
    reader_patience(r, b->timeout_ms);
    int rc = add_ledger(b, r, ledger);
    while (rc == EX_OK && (m = reader_next(r, 0, b->err))) {
        marks_take(b->list, b->cfg->group, m, marks);
        rd_kafka_message_destroy(m);
    }
    if (rc == EX_OK && reader_end(r) == READER_STOPPED) rc = EX_TEMPFAIL;
    if (rc == EX_OK && reader_end(r) == READER_FAILED) rc = unread(b, r);
    reader_free(r);
    return rc;
}

static bool set_offset(rd_kafka_topic_partition_list_t *to, const rd_kafka_topic_partition_t *tp,
                       int64_t offset, const struct meta *meta) {
    char text[META_MAX + 1];
    rd_kafka_topic_partition_t *p = rd_kafka_topic_partition_list_add(to, tp->topic, tp->partition);
    if (!meta_encode(meta, text)) return false;
    p->offset = offset;
    p->metadata_size = strlen(text);
    p->metadata = strdup(text); /* librdkafka frees it with free() */
    return p->metadata != NULL;
}

/* Nobody knows where the group had come to there: not to its end, where events may have come since.
 */
static void tell_unknown(const struct beginning *b, const struct mark *marks) {
    int64_t n = 0;
    for (int i = 0; i < b->list->cnt; i++)
        n += !marks[i].known && topic_find(b->sources, b->list->elems[i].topic);
    if (n && b->cfg->start_at != CONFIG_START_EARLIEST)
        log_warn("start is for new groups: partitions of which the ledger knows nothing "
                 "are read from their first record",
                 LOG_S("group", b->cfg->group), LOG_I("partitions", n));
}

/* Offsets that the ledger knows of, into to. */
static void recall(struct beginning *b, const struct mark *marks,
                   rd_kafka_topic_partition_list_t *to) {
    for (int i = 0; i < b->list->cnt; i++) {
        const rd_kafka_topic_partition_t *tp = &b->list->elems[i];
        bool anew = true;
        if (!marks[i].known) continue;
        if (marks_older(b->rk, tp, &marks[i], &anew)) continue; /* its lane asks again */
        if (anew) {
            log_warn("the topic was made anew since the ledger's last entry: it is read from its "
                     "first record",
                     LOG_S("topic", tp->topic), LOG_I("partition", tp->partition),
                     LOG_I("settled", marks[i].next));
            continue;
        }
        struct meta meta;
        mark_meta(&marks[i], &meta);
        if (!set_offset(to, tp, marks[i].next, &meta)) abort();
    }
}

/* ---- what a new group gets ---- */

/* What a new group passes over; one whose offsets are lost, and of which no ledger tells, is taken
 * for a new one. */
static void tell_passed(const struct beginning *b, int64_t records) {
    if (records && !b->cfg->ledger)
        log_warn("the group has no committed offsets, and passes over what is there before its "
                 "start. If it had some, and they have expired (offsets.retention.minutes), events "
                 "are lost: with ledger = false nothing tells",
                 LOG_S("group", b->cfg->group), LOG_S("start", b->cfg->start),
                 LOG_I("records", records));
    else
        log_info("the group is new, and begins where start says", LOG_S("group", b->cfg->group),
                 LOG_S("start", b->cfg->start), LOG_I("passed_over", records));
}

/* The ends come first: what is written while they are asked for, and is not older than the time, is
 * found by the question for it. */
static int pin_start(struct beginning *b, rd_kafka_t *rk, rd_kafka_topic_partition_list_t *to) {
    int64_t passed = 0;
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;
    for (int i = 0; i < b->list->cnt; i++) {
        const rd_kafka_topic_partition_t *tp = &b->list->elems[i];
        int64_t low, high;
        if (!topic_find(b->sources, tp->topic)) continue;
        code = client_ends(rk, tp->topic, tp->partition, &low, &high, left_ms(b));
        if (code) return failed(b, "can't ask for the ends of the topics", code);
        if (!set_offset(to, tp, high, &(struct meta){0})) abort();
        passed -= low;
    }
    if (b->cfg->start_at == CONFIG_START_TIME && to->cnt)
        code = client_offsets_at(rk, to, b->cfg->start_ms, left_ms(b));
    if (code) return failed(b, "can't ask for the offsets of a time", code);
    for (int i = 0; i < to->cnt; i++) passed += to->elems[i].offset;
    tell_passed(b, passed);
    return EX_OK;
}

static int commit(struct beginning *b, rd_kafka_topic_partition_list_t *to) {
    rd_kafka_resp_err_t code = to->cnt ? rd_kafka_commit(b->rk, to, 0) : 0;
    /* It has members meanwhile: another process was first, and has done the same. */
    if (code == RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID ||
        code == RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION ||
        code == RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS)
        return EX_OK;
    return code ? failed(b, "can't commit where the group begins", code) : EX_OK;
}

static int begin_anew(struct beginning *b, rd_kafka_t *rk) {
    struct mark *marks = xcalloc((size_t)b->list->cnt + 1, sizeof *marks);
    rd_kafka_topic_partition_list_t *to = rd_kafka_topic_partition_list_new(16);
    char name[TOPIC_MAX + 1];
    int rc = EX_OK, known = 0;
    for (size_t i = 0; i < b->sources->n && rc == EX_OK; i++) {
        const struct topic *ledger =
            topic_ledger(b->sources->v[i].name, name) ? topic_find(b->all, name) : NULL;
        if (ledger && ledger->partitions) rc = read_ledger(b, rk, ledger, marks);
    }
    for (int i = 0; i < b->list->cnt; i++) known += marks[i].known;
    if (rc == EX_OK && known) {
        log_warn("the group has no committed offsets, and the ledger has entries of it: they have "
                 "expired (offsets.retention.minutes) or were deleted, and are taken from the "
                 "ledger",
                 LOG_S("group", b->cfg->group), LOG_I("partitions", known));
        tell_unknown(b, marks);
        recall(b, marks, to);
    } else if (rc == EX_OK && b->cfg->start_at != CONFIG_START_EARLIEST) {
        rc = pin_start(b, rk, to);
    }
    if (rc == EX_OK) rc = commit(b, to);
    rd_kafka_topic_partition_list_destroy(to);
    free(marks);
    return rc;
}

int begin_group(const struct config *cfg, const struct topic_list *all,
                const struct topic_list *sources, int timeout_ms, topics_stop_fn *stop,
                struct buf *err) {
    struct beginning b = {.cfg = cfg,
                          .all = all,
                          .sources = sources,
                          .end_ms = clock_ms(CLOCK_MONOTONIC) + timeout_ms,
                          .timeout_ms = timeout_ms,
                          .stop = stop,
                          .err = err};
    bool begun = false;
    b.rk = reader_consumer_raw(cfg, cfg->group, err);
    if (!b.rk) return EX_CONFIG;
    b.list = topics_consumed(all, sources);
    int rc = b.list->cnt ? ask_committed(&b, &begun) : EX_OK;
    if (rc == EX_OK && !begun) {
        rd_kafka_t *rk = reader_consumer(cfg, cfg->group, err);
        rc = rk ? begin_anew(&b, rk) : EX_CONFIG;
        if (rk) rd_kafka_destroy(rk);
    }
    rd_kafka_topic_partition_list_destroy(b.list);
    rd_kafka_destroy(b.rk);
    return rc;
}
