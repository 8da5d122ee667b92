#include "worker/kafka/producer.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "config/config.h"
#include "worker/base/clock.h"
#include "worker/base/crash.h"
#include "worker/base/log.h"
#include "worker/kafka/client.h"
#include "worker/kafka/consumer.h"
#include "worker/kafka/rights.h"

#define CALL_TIMEOUT_MS 5000
#define SLICE_MS 500        /* of such a call, where it is asked in between whether to stop */
#define INIT_TIMEOUT_MS 500 /* a call; the lane may end in between */
#define CONNECT_TIMEOUT_MS 1000
#define FLUSH_SLICE_MS 100
/* Twice a transaction's timeout: what the broker has not answered by then, it won't. */
#define PATIENCE_MS 120000
#define PRODUCE_MAX "1000000000" /* what a record may have is its topic's to say */
#define TRIALS_MAX 16

/* A topic that we produce to. */
struct fanout {
    char *topic;
    int32_t partitions; /* 0: not known, or not any more */
    /* A batch is refused as a whole, for what may be one record of it, or for its own size. So what
     * is sent at once is made smaller until a record is refused that was alone. */
    size_t chunk;     /* bytes that are sent at once; 0: as many as there are */
    size_t queued;    /* of the chunk that is filling */
    size_t too_large; /* bytes of the smallest record that was refused for its size; 0: none was */
    size_t refused, refused_bytes; /* records of the job at hand, by the broker */
};

struct producer {
    rd_kafka_t *producer;
    rd_kafka_conf_t *conf;   /* to make it anew with */
    rd_kafka_conf_t *asking; /* for rights_denied() */
    int wake_fd;
    pthread_t thread;
    bool threaded;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct txn *todo, *finished;
    bool busy; /* lane's thread only */
    atomic_bool stop;
    int64_t patience_us;       /* of producer_run(): when calls are repeated no more; 0: never */
    bool (*told)(void);        /* to stop; NULL: never */
    enum producer_state state; /* under the mutex, as is */
    char problem[sizeof((struct txn *)0)->error]; /* while starting, or refused */
    struct txn *job; /* at hand: the thread that runs it, and what librdkafka calls on it */
    size_t refused;  /* records of the job at hand */
    bool committing; /* the job at hand: the coordinator may have been told to commit it */
    rd_kafka_resp_err_t code; /* what its last call said */
    bool untimely;            /* job->topic refuses the records' times */
    unsigned trials;          /* jobs in a row that were refused */
    struct fanout *fanouts;
    size_t n_fanouts;
    int32_t *leaders; /* brokers that the producer was made to connect to */
    size_t n_leaders;
};

/* ---- the transaction: the producer's thread, or the command's ---- */

enum step { STEP_OK, STEP_RETRY, STEP_ABORT, STEP_STALE, STEP_GONE, STEP_FATAL };

static bool is_fencing(rd_kafka_resp_err_t code) {
    return code == RD_KAFKA_RESP_ERR__FENCED || code == RD_KAFKA_RESP_ERR_PRODUCER_FENCED ||
           code == RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH;
}

static enum step classify(struct producer *s, rd_kafka_error_t *e, struct txn *job,
                          const char *call) {
    if (!e) return STEP_OK;
    rd_kafka_resp_err_t code = s->code = rd_kafka_error_code(e);
    job->fenced = is_fencing(code) || is_fencing(rd_kafka_fatal_error(s->producer, NULL, 0));
    snprintf(job->error, sizeof job->error, "%s: %s", call, rd_kafka_error_string(e));
    enum step step = STEP_FATAL;
    if (rd_kafka_error_is_fatal(e))
        step = STEP_FATAL;
    else if (code == RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION ||
             code == RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID ||
             code == RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID)
        step = STEP_STALE;
    else if (rd_kafka_error_txn_requires_abort(e))
        step = STEP_ABORT;
    else if (rd_kafka_error_is_retriable(e))
        step = STEP_RETRY;
    rd_kafka_error_destroy(e);
    return step;
}

static bool is_told(const struct producer *s) {
    return atomic_load(&s->stop) || (s->told && s->told());
}

static int call_timeout(const struct producer *s) {
    return s->told ? SLICE_MS : CALL_TIMEOUT_MS;
}

static bool may_repeat(struct producer *s) {
    return !is_told(s) && (!s->patience_us || clock_us(CLOCK_MONOTONIC) < s->patience_us);
}

/* Calls again while librdkafka says that the same call may be repeated. */
#define REPEAT(s, job, call_name, call)                                                            \
    __extension__({                                                                                \
        enum step step_;                                                                           \
        do step_ = classify((s), (call), (job), (call_name));                                      \
        while (step_ == STEP_RETRY && may_repeat(s));                                              \
        step_ == STEP_RETRY ? STEP_FATAL : step_;                                                  \
    })

static bool is_new_leader(struct producer *s, int32_t broker) {
    for (size_t i = 0; i < s->n_leaders; i++)
        if (s->leaders[i] == broker) return false;
    s->leaders = xrealloc(s->leaders, (s->n_leaders + 1) * sizeof *s->leaders);
    s->leaders[s->n_leaders++] = broker;
    return true;
}

/* librdkafka connects to a broker when there is something for it, and a produced message makes the
 * broker's thread look up to a second later: the first settlement would take that long. A request
 * is sent at once; what it answers is of no interest. */
static void connect_leaders(struct producer *s, const rd_kafka_metadata_topic_t *topic) {
    for (int i = 0; i < topic->partition_cnt; i++) {
        const rd_kafka_metadata_partition_t *p = &topic->partitions[i];
        int64_t low, high;
        if (is_told(s) || p->leader < 0 || !is_new_leader(s, p->leader)) continue;
        rd_kafka_query_watermark_offsets(s->producer, topic->topic, p->id, &low, &high,
                                         CONNECT_TIMEOUT_MS);
    }
}

static struct fanout *fanout_of(struct producer *s, const char *topic) {
    for (size_t i = 0; i < s->n_fanouts; i++)
        if (strcmp(s->fanouts[i].topic, topic) == 0) return &s->fanouts[i];
    s->fanouts = xrealloc(s->fanouts, (s->n_fanouts + 1) * sizeof *s->fanouts);
    s->fanouts[s->n_fanouts] = (struct fanout){.topic = xstrdup(topic)};
    return &s->fanouts[s->n_fanouts++];
}

/* A request that was not answered in its time is given up, so each one gets more. */
static rd_kafka_resp_err_t ask_topic(struct producer *s, const char *topic,
                                     const struct rd_kafka_metadata **ret) {
    rd_kafka_resp_err_t err;
    int wait = call_timeout(s);
    do {
        err = client_topic(s->producer, topic, wait, ret);
        wait *= 2;
    } while (err == RD_KAFKA_RESP_ERR__TIMED_OUT && wait <= CALL_TIMEOUT_MS && !is_told(s));
    return err;
}

static bool has_leader(const rd_kafka_metadata_topic_t *topic) {
    for (int i = 0; i < topic->partition_cnt; i++)
        if (topic->partitions[i].leader >= 0) return true;
    return false;
}

/* How many partitions it has, asked once and again after it could not be written. */
static rd_kafka_resp_err_t count_partitions(struct producer *s, struct fanout *f) {
    if (f->partitions) return RD_KAFKA_RESP_ERR_NO_ERROR;
    const struct rd_kafka_metadata *md;
    rd_kafka_resp_err_t err = ask_topic(s, f->topic, &md);
    if (err) return err;
    const rd_kafka_metadata_topic_t *topic = &md->topics[0];
    if (topic->partition_cnt <= 0) {
        err = RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
    } else if (!has_leader(topic)) {
        /* Once such a partition has a part in a transaction, that can't even be aborted. */
        err = RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
    } else {
        f->partitions = topic->partition_cnt;
        connect_leaders(s, topic);
    }
    rd_kafka_metadata_destroy(md);
    return err;
}

static size_t size_of(const struct txn_record *r) {
    size_t n = r->key_len + r->value_len + 64;
    for (size_t i = 0; i < r->n_headers; i++) n += r->headers[i].name.n + r->headers[i].value.n + 8;
    return n;
}

/* What sending the record again does not change. */
static bool is_refusal(rd_kafka_resp_err_t err) {
    return err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE ||
           err == RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE ||
           err == RD_KAFKA_RESP_ERR_INVALID_RECORD;
}

/* The topic is not there (any more), has fewer partitions, no leader, or may not be written. A
 * record carries the time at which it is sent: a topic that takes it for wrong takes none of them.
 */
static bool is_topics(rd_kafka_resp_err_t err) {
    return err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
           err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC || err == RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION ||
           err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED ||
           err == RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION || err == RD_KAFKA_RESP_ERR__MSG_TIMED_OUT ||
           err == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE ||
           err == RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP;
}

static void note(struct producer *s, struct txn_record *r, rd_kafka_resp_err_t err) {
    struct fanout *f = &s->fanouts[r->fanout];
    if (is_refusal(err)) {
        r->refused = rd_kafka_err2str(err);
        r->too_large = err == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
        s->refused++;
    } else if (is_topics(err) && !s->job->topic) {
        s->job->topic = r->topic;
        f->partitions = 0;
        s->untimely = err == RD_KAFKA_RESP_ERR_INVALID_TIMESTAMP;
        snprintf(s->job->error, sizeof s->job->error, "produce to %s: %s", r->topic,
                 rd_kafka_err2str(err));
    }
}

/* Called by librdkafka, in calls of ours, for messages that failed. Those that an abort purges
 * are none. */
static void on_failed(rd_kafka_t *rk, const rd_kafka_message_t *m, void *producer) {
    struct producer *s = producer;
    struct txn_record *r = m->_private;
    (void)rk;
    if (!s->job || !r || !m->err) return;
    note(s, r, m->err);
    if (!r->refused) return;
    s->fanouts[r->fanout].refused++;
    s->fanouts[r->fanout].refused_bytes += size_of(r);
}

/* Until what is queued was sent, or one of it failed: then the transaction is over. */
static void flush(struct producer *s) {
    int64_t end = clock_us(CLOCK_MONOTONIC) + (int64_t)CALL_TIMEOUT_MS * 1000;
    while (!s->refused && !s->job->topic && !is_told(s) && clock_us(CLOCK_MONOTONIC) < end &&
           rd_kafka_flush(s->producer, FLUSH_SLICE_MS) == RD_KAFKA_RESP_ERR__TIMED_OUT)
        continue;
}

static void fill_chunk(struct producer *s, struct fanout *f, size_t bytes) {
    if (!f->chunk) return;
    if (f->queued && f->queued + bytes > f->chunk) {
        flush(s);
        f->queued = 0;
    }
    f->queued += bytes;
}

static rd_kafka_resp_err_t produce(struct producer *s, struct txn_record *r) {
    struct fanout *f = fanout_of(s, r->topic);
    int32_t partition = r->partition;
    size_t bytes = size_of(r);
    r->fanout = (size_t)(f - s->fanouts);
    r->refused = NULL;
    rd_kafka_resp_err_t err = count_partitions(s, f);
    if (err) return err;
    /* Many records that are too large would take a transaction each. */
    if (s->trials > TRIALS_MAX && f->too_large && bytes >= f->too_large)
        return RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    /* Before the rest of a chunk is awaited: what is told of a failure then forgets the partitions.
     */
    if (partition >= 0) partition %= f->partitions;
    if (partition == TXN_AS_JAVA)
        partition =
            rd_kafka_msg_partitioner_murmur2(NULL, r->key, r->key_len, f->partitions, NULL, NULL);
    fill_chunk(s, f, bytes);
    rd_kafka_headers_t *headers = rd_kafka_headers_new(r->n_headers);
    for (size_t i = 0; i < r->n_headers; i++)
        rd_kafka_header_add(headers, r->headers[i].name.p, (ssize_t)r->headers[i].name.n,
                            r->headers[i].value.p, (ssize_t)r->headers[i].value.n);
    do {
        err = rd_kafka_producev(s->producer, RD_KAFKA_V_TOPIC(r->topic), RD_KAFKA_V_OPAQUE(r),
                                RD_KAFKA_V_PARTITION(partition), RD_KAFKA_V_KEY(r->key, r->key_len),
                                RD_KAFKA_V_VALUE((void *)(uintptr_t)r->value, r->value_len),
                                RD_KAFKA_V_HEADERS(headers),
                                RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
        if (err == RD_KAFKA_RESP_ERR__QUEUE_FULL) rd_kafka_poll(s->producer, 100);
    } while (err == RD_KAFKA_RESP_ERR__QUEUE_FULL && may_repeat(s));
    if (err) rd_kafka_headers_destroy(headers);
    return err;
}

/* What librdkafka refuses by itself is known at once, all of it. */
static enum step fill_records(struct producer *s, struct txn *job) {
    for (size_t i = 0; i < job->n_records; i++) {
        struct txn_record *r = &job->records[i];
        rd_kafka_resp_err_t err = produce(s, r);
        if (!err) continue;
        snprintf(job->error, sizeof job->error, "produce to %s: %s", r->topic,
                 rd_kafka_err2str(err));
        note(s, r, err);
        if (!r->refused) {
            s->code = err;
            return STEP_ABORT;
        }
    }
    return s->refused ? STEP_ABORT : STEP_OK;
}

static rd_kafka_topic_partition_list_t *offsets_of(const struct txn *job) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(8);
    for (size_t i = 0; i < job->n_offsets; i++) {
        const struct txn_offset *o = &job->offsets[i];
        rd_kafka_topic_partition_t *p =
            rd_kafka_topic_partition_list_add(list, o->topic, o->partition);
        p->offset = o->offset;
        p->metadata_size = strlen(o->metadata);
        p->metadata = xmalloc(p->metadata_size + 1); /* librdkafka frees it with free() */
        memcpy(p->metadata, o->metadata, p->metadata_size + 1);
    }
    return list;
}

struct txn *txn_new_outside(const char *group) {
    rd_kafka_consumer_group_metadata_t *m = rd_kafka_consumer_group_metadata_new(group);
    void *bytes = NULL;
    size_t n = 0;
    rd_kafka_error_t *e = m ? rd_kafka_consumer_group_metadata_write(m, &bytes, &n) : NULL;
    struct txn *t = m && !e ? txn_new_in(bytes, n) : NULL;
    if (e) rd_kafka_error_destroy(e);
    if (m) rd_kafka_consumer_group_metadata_destroy(m);
    if (bytes) rd_kafka_mem_free(NULL, bytes);
    return t;
}

static enum step send_offsets(struct producer *s, struct txn *job) {
    rd_kafka_consumer_group_metadata_t *group = NULL;
    enum step step = classify(
        s, rd_kafka_consumer_group_metadata_read(&group, job->membership, job->membership_len), job,
        "group metadata");
    if (step != STEP_OK) return step;
    rd_kafka_topic_partition_list_t *offsets = offsets_of(job);
    step =
        REPEAT(s, job, "send offsets",
               rd_kafka_send_offsets_to_transaction(s->producer, offsets, group, CALL_TIMEOUT_MS));
    rd_kafka_topic_partition_list_destroy(offsets);
    rd_kafka_consumer_group_metadata_destroy(group);
    crash_point(CRASH_TXN_SENT);
    return step;
}

/* Sending offsets takes no slices: beside brokers that don't answer it lasts a minute, whoever is
 * told to stop. So a command sends its records first, which shows whether they answer. */
static enum step await_answers(struct producer *s, struct txn *job) {
    if (!s->told || !job->membership) return STEP_OK;
    while (!s->refused && !job->topic && may_repeat(s) &&
           rd_kafka_flush(s->producer, FLUSH_SLICE_MS) == RD_KAFKA_RESP_ERR__TIMED_OUT)
        continue;
    if (may_repeat(s)) return STEP_OK;
    snprintf(job->error, sizeof job->error, "sending records: the brokers did not answer");
    return STEP_FATAL;
}

/* A coordinator that does not tell what is committed takes nothing either. */
static enum step find_commits(struct producer *s, struct txn *job) {
    int64_t end = clock_us(CLOCK_MONOTONIC) + (int64_t)CALL_TIMEOUT_MS * 1000;
    enum commits found = COMMITS_THERE;
    if (!job->consumer) return STEP_OK;
    do found = consumer_find_commits(job->consumer, job);
    while (found == COMMITS_UNTOLD && !is_told(s) && clock_us(CLOCK_MONOTONIC) < end);
    if (found == COMMITS_THERE) return STEP_OK;
    const struct txn_offset *o = job->offsets;
    while (found == COMMITS_MISSING && !o->gone) o++;
    if (found == COMMITS_MISSING)
        snprintf(job->error, sizeof job->error,
                 "what was committed of %s/%" PRId32 " is not there any more", o->topic,
                 o->partition);
    else
        snprintf(job->error, sizeof job->error,
                 "the group's coordinator does not tell what is committed");
    return found == COMMITS_MISSING ? STEP_GONE : STEP_ABORT;
}

static enum step fill(struct producer *s, struct txn *job) {
    enum step filled = fill_records(s, job);
    if (filled == STEP_OK) filled = await_answers(s, job);
    if (filled != STEP_OK) return filled;
    crash_point(CRASH_TXN_INSIDE);
    if (!job->membership) return STEP_OK;
    enum step there = find_commits(s, job);
    return there == STEP_OK ? send_offsets(s, job) : there;
}

/* Sorts out which records are refused for themselves: those that were alone, and those that never
 * left librdkafka. The others' topic gets less at once the next time. */
static enum txn_result judge(struct producer *s, struct txn *job) {
    for (size_t i = 0; i < job->n_records; i++) {
        struct txn_record *r = &job->records[i];
        struct fanout *f = &s->fanouts[r->fanout];
        if (!r->refused) continue;
        if (f->refused > 1) {
            r->refused = NULL;
            continue;
        }
        snprintf(job->error, sizeof job->error, "produce to %s: %s", r->topic, r->refused);
        if (!r->too_large) continue;
        size_t bytes = size_of(r);
        if (!f->too_large || bytes < f->too_large) f->too_large = bytes;
    }
    for (size_t i = 0; i < s->n_fanouts; i++) {
        struct fanout *f = &s->fanouts[i];
        if (f->refused < 2) continue;
        size_t most = f->chunk && f->chunk < f->refused_bytes ? f->chunk : f->refused_bytes;
        f->chunk = most / 4 ? most / 4 : 1;
    }
    s->trials++;
    return TXN_REFUSED;
}

static bool is_told_to_stop(const void *producer) {
    return is_told(producer);
}

/* The coordinator takes no partition into a transaction when one of them may not be written. */
static void name_denied(struct producer *s, struct txn *job) {
    const char **topics = xcalloc(s->n_fanouts + 1, sizeof *topics);
    bool *denied = xcalloc(s->n_fanouts + 1, sizeof *denied);
    for (size_t i = 0; i < job->n_records; i++)
        topics[job->records[i].fanout] = job->records[i].topic;
    rights_denied(s->asking, topics, s->n_fanouts, CALL_TIMEOUT_MS, is_told_to_stop, s, denied);
    for (size_t i = 0; i < job->n_records; i++)
        if (denied[job->records[i].fanout])
            note(s, &job->records[i], RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    free(denied);
    free(topics);
}

/* One call, which may have to be repeated. */
static enum producer_state initialise(struct producer *s, struct txn *ret) {
    ret->error[0] = '\0';
    switch (classify(s, rd_kafka_init_transactions(s->producer, INIT_TIMEOUT_MS), ret,
                     "init transactions")) {
    case STEP_OK:
        return PRODUCER_READY;
    case STEP_RETRY:
        return PRODUCER_STARTING;
    case STEP_ABORT:
    case STEP_STALE:
    case STEP_GONE:
    case STEP_FATAL:
        break;
    }
    return PRODUCER_REFUSED;
}

/* A transaction that the coordinator has begun nothing of can't be aborted either, and librdkafka
 * gives the producer up for that: one that was refused, or that a broker's restart came before. If
 * nobody has asked to commit it, nothing has happened, so another producer may take its place. */
static bool reopen(struct producer *s, struct txn *job) {
    struct buf err;
    enum producer_state state = PRODUCER_STARTING;
    if (rd_kafka_fatal_error(s->producer, NULL, 0) != RD_KAFKA_RESP_ERR_INVALID_TXN_STATE)
        return false;
    buf_init(&err, 1024);
    rd_kafka_t *fresh = client_new(RD_KAFKA_PRODUCER, rd_kafka_conf_dup(s->conf), &err);
    if (!fresh) log_warn("the producer can't be made anew", LOG_MESSAGE(&err));
    buf_free(&err);
    if (!fresh) return false;
    rd_kafka_destroy(s->producer);
    s->producer = fresh;
    s->n_leaders = 0;
    while (state == PRODUCER_STARTING && may_repeat(s)) state = initialise(s, job);
    return state == PRODUCER_READY;
}

static enum txn_result give_up(struct producer *s, struct txn *job, enum step why) {
    char reason[sizeof job->error];
    /* Once the coordinator has refused it, librdkafka takes no more records, and does not say why.
     */
    bool denied = s->code == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED ||
                  s->code == RD_KAFKA_RESP_ERR__STATE;
    memcpy(reason, job->error, sizeof reason);
    if (why == STEP_FATAL) return TXN_UNKNOWN;
    enum step step =
        REPEAT(s, job, "abort", rd_kafka_abort_transaction(s->producer, call_timeout(s)));
    if ((step == STEP_FATAL || step == STEP_ABORT) && (s->committing || !reopen(s, job)))
        return TXN_UNKNOWN;
    if (!job->topic) memcpy(job->error, reason, sizeof reason);
    if (denied && !job->topic) name_denied(s, job);
    if (s->refused) return judge(s, job);
    if (job->topic && s->untimely) /* what the call that failed for it says is less */
        snprintf(
            job->error, sizeof job->error,
            "it refuses the time of sending: set message.timestamp.type=LogAppendTime, or raise "
            "message.timestamp.before.max.ms and after.max.ms; or a clock is wrong");
    if (job->topic) return TXN_TOPIC;
    if (why == STEP_GONE) return TXN_GONE;
    return why == STEP_STALE || step == STEP_STALE ? TXN_STALE : TXN_AGAIN;
}

static enum txn_result transact(struct producer *s, struct txn *job) {
    s->job = job;
    s->refused = 0;
    s->code = RD_KAFKA_RESP_ERR_NO_ERROR;
    job->topic = NULL;
    s->untimely = false;
    for (size_t i = 0; i < s->n_fanouts; i++)
        s->fanouts[i].refused = s->fanouts[i].refused_bytes = s->fanouts[i].queued = 0;
    enum step step = classify(s, rd_kafka_begin_transaction(s->producer), job, "begin transaction");
    if (step != STEP_OK) return TXN_UNKNOWN;
    step = fill(s, job);
    s->committing = step == STEP_OK;
    if (s->committing)
        step = REPEAT(s, job, "commit", rd_kafka_commit_transaction(s->producer, call_timeout(s)));
    if (step == STEP_OK) s->trials = 0;
    return step == STEP_OK ? TXN_DONE : give_up(s, job, step);
}

static void wake(const struct producer *s) {
    if (eventfd_write(s->wake_fd, 1) != 0) log_warn("waking the lane failed");
}

static void set_state(struct producer *s, enum producer_state state, const char *problem) {
    pthread_mutex_lock(&s->mutex);
    bool other = s->state != state;
    s->state = state;
    snprintf(s->problem, sizeof s->problem, "%s", problem);
    pthread_mutex_unlock(&s->mutex);
    if (other) wake(s);
}

/* At once, not with the first job: it ends the transaction that a killed process of the same name
 * left open, which would otherwise keep the offsets unstable that the first job waits for. */
static void start(struct producer *s) {
    struct txn job;
    enum producer_state state = PRODUCER_STARTING;
    while (state == PRODUCER_STARTING && !atomic_load(&s->stop)) {
        state = initialise(s, &job);
        set_state(s, state, job.error);
    }
}

static void run(struct producer *s, struct txn *job) {
    int64_t from = clock_us(CLOCK_MONOTONIC);
    job->result = transact(s, job);
    s->job = NULL;
    job->took_us = clock_us(CLOCK_MONOTONIC) - from;
}

static void *settle_main(void *arg) {
    struct producer *s = arg;
    start(s);
    for (;;) {
        pthread_mutex_lock(&s->mutex);
        while (!s->todo && !atomic_load(&s->stop)) pthread_cond_wait(&s->changed, &s->mutex);
        struct txn *job = s->todo;
        s->todo = NULL;
        pthread_mutex_unlock(&s->mutex);
        if (!job) return NULL;
        run(s, job);
        pthread_mutex_lock(&s->mutex);
        s->finished = job;
        pthread_mutex_unlock(&s->mutex);
        wake(s);
    }
}

/* ---- the lane's side ---- */

static rd_kafka_conf_t *conf_for(const struct config *cfg, const char *transactional_id,
                                 struct producer *s, struct buf *err) {
    const char *extra[] = {"transactional.id",
                           transactional_id,
                           "compression.type",
                           "lz4",
                           "message.max.bytes",
                           PRODUCE_MAX,
                           CLIENT_ONE_IN_FLIGHT,
                           "delivery.report.only.error",
                           "true",
                           NULL};
    rd_kafka_conf_t *conf = client_conf_new(cfg, extra, err);
    if (!conf) return NULL;
    rd_kafka_conf_set_dr_msg_cb(conf, on_failed);
    rd_kafka_conf_set_opaque(conf, s);
    return conf;
}

static void close_handles(struct producer *s) {
    if (s->producer) rd_kafka_destroy(s->producer);
    if (s->asking) rd_kafka_conf_destroy(s->asking);
    if (s->conf) rd_kafka_conf_destroy(s->conf);
}

struct producer *producer_open(const struct config *cfg, const char *transactional_id,
                               struct buf *err) {
    struct producer *s = xcalloc(1, sizeof *s);
    s->conf = conf_for(cfg, transactional_id, s, err);
    s->asking = s->conf ? rights_conf(cfg, err) : NULL;
    if (s->asking) s->producer = client_new(RD_KAFKA_PRODUCER, rd_kafka_conf_dup(s->conf), err);
    if (!s->producer) {
        close_handles(s);
        free(s);
        return NULL;
    }
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->changed, NULL);
    return s;
}

struct producer *producer_new(const struct config *cfg, const char *transactional_id, int wake_fd,
                              struct buf *err) {
    struct producer *s = producer_open(cfg, transactional_id, err);
    if (!s) return NULL;
    s->wake_fd = wake_fd;
    int rc = pthread_create(&s->thread, NULL, settle_main, s);
    s->threaded = rc == 0;
    if (s->threaded) return s;
    buf_printf(err, "starting the thread that settles failed: %s", strerror(rc));
    producer_free(s);
    return NULL;
}

void producer_free(struct producer *s) {
    if (!s) return;
    atomic_store(&s->stop, true);
    pthread_mutex_lock(&s->mutex);
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->mutex);
    if (s->threaded) pthread_join(s->thread, NULL);
    txn_free(s->todo);
    txn_free(s->finished);
    close_handles(s);
    for (size_t i = 0; i < s->n_fanouts; i++) free(s->fanouts[i].topic);
    free(s->fanouts);
    free(s->leaders);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->mutex);
    free(s);
}

enum producer_state producer_begin(struct producer *s, int timeout_ms, struct txn *ret) {
    int64_t end = clock_us(CLOCK_MONOTONIC) + (int64_t)timeout_ms * 1000;
    enum producer_state state;
    do state = initialise(s, ret);
    while (state == PRODUCER_STARTING && !is_told(s) && clock_us(CLOCK_MONOTONIC) < end);
    return state;
}

void producer_stop_when(struct producer *s, bool (*stop)(void)) {
    s->told = stop;
}

void producer_run(struct producer *s, struct txn *txn) {
    s->patience_us = clock_us(CLOCK_MONOTONIC) + (int64_t)PATIENCE_MS * 1000;
    run(s, txn);
}

enum producer_state producer_state(struct producer *s, char *ret_error, size_t size) {
    pthread_mutex_lock(&s->mutex);
    enum producer_state state = s->state;
    snprintf(ret_error, size, "%s", s->problem);
    pthread_mutex_unlock(&s->mutex);
    return state;
}

bool producer_check(const struct config *cfg, struct buf *err) {
    rd_kafka_conf_t *conf = conf_for(cfg, "check", NULL, err);
    if (conf) client_conf_alone(conf);
    rd_kafka_t *producer = conf ? client_new(RD_KAFKA_PRODUCER, conf, err) : NULL;
    if (producer) rd_kafka_destroy(producer);
    return producer != NULL;
}

enum producer_state producer_try(const struct config *cfg, const char *transactional_id,
                                 int timeout_ms, struct buf *err) {
    struct txn job = {.error = ""};
    struct producer *s = producer_open(cfg, transactional_id, err);
    if (!s) return PRODUCER_REFUSED;
    enum producer_state state = producer_begin(s, timeout_ms, &job);
    if (state != PRODUCER_READY) buf_puts(err, job.error);
    producer_free(s);
    return state;
}

void producer_submit(struct producer *s, struct txn *job) {
    pthread_mutex_lock(&s->mutex);
    s->busy = true;
    s->todo = job;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->mutex);
}

struct txn *producer_take(struct producer *s) {
    if (!s->busy) return NULL;
    pthread_mutex_lock(&s->mutex);
    struct txn *job = s->finished;
    s->finished = NULL;
    pthread_mutex_unlock(&s->mutex);
    if (job) s->busy = false;
    return job;
}
