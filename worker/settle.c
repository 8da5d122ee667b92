#include "worker/settle.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "config/config.h"
#include "worker/crash.h"
#include "worker/kafka.h"
#include "worker/log.h"

#define CALL_TIMEOUT_MS 5000
#define CONNECT_TIMEOUT_MS 1000

/* Number of partitions of a topic that we produce to. */
struct fanout {
    char *topic;
    int32_t partitions;
};

struct settler {
    rd_kafka_t *producer;
    int wake_fd;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct settle_job *todo, *finished;
    bool busy; /* lane's thread only */
    atomic_bool stop;
    bool ready;             /* settle thread: init_transactions() has succeeded */
    struct settle_job init; /* its error, otherwise */
    struct fanout *fanouts;
    size_t n_fanouts;
    int32_t *leaders; /* brokers that the producer was made to connect to */
    size_t n_leaders;
};

/* ---- jobs: the lane's thread ---- */

/* The serialised form is "CGMDv2:", the generation as an int32, the group id, the member id, ...
 * (librdkafka's rdkafka_cgrp.c). */
static bool is_member(const char *metadata, size_t n) {
    static const char magic[] = "CGMDv2:";
    size_t m = sizeof magic - 1;
    int32_t generation;
    if (n < m + sizeof generation || memcmp(metadata, magic, m) != 0) return false;
    memcpy(&generation, metadata + m, sizeof generation);
    return generation >= 0;
}

struct settle_job *settle_job_new(rd_kafka_t *consumer) {
    rd_kafka_consumer_group_metadata_t *m = rd_kafka_consumer_group_metadata(consumer);
    char *member = rd_kafka_memberid(consumer);
    void *bytes = NULL;
    size_t n = 0;
    rd_kafka_error_t *e = m ? rd_kafka_consumer_group_metadata_write(m, &bytes, &n) : NULL;
    bool valid = m && !e && member && member[0] && is_member(bytes, n);
    if (e) rd_kafka_error_destroy(e);
    if (m) rd_kafka_consumer_group_metadata_destroy(m);
    if (member) rd_kafka_mem_free(consumer, member);
    if (!valid) {
        if (bytes) rd_kafka_mem_free(consumer, bytes);
        return NULL;
    }
    struct settle_job *job = xcalloc(1, sizeof *job);
    job->group_metadata = xmalloc(n);
    memcpy(job->group_metadata, bytes, n);
    job->group_metadata_len = n;
    rd_kafka_mem_free(consumer, bytes);
    job->offsets = rd_kafka_topic_partition_list_new(8);
    return job;
}

void settle_job_free(struct settle_job *job) {
    if (!job) return;
    rd_kafka_topic_partition_list_destroy(job->offsets);
    free(job->group_metadata);
    free(job->records);
    arena_free(&job->arena);
    free(job);
}

struct settle_record *settle_job_add(struct settle_job *job) {
    if (job->n_records == job->cap_records) {
        job->cap_records = job->cap_records ? job->cap_records * 2 : 16;
        job->records = xrealloc(job->records, job->cap_records * sizeof *job->records);
    }
    struct settle_record *r = &job->records[job->n_records++];
    *r = (struct settle_record){.partition = RD_KAFKA_PARTITION_UA};
    return r;
}

bool settle_job_offset(struct settle_job *job, const char *topic, int32_t partition, int64_t offset,
                       const char *metadata) {
    rd_kafka_topic_partition_t *p =
        rd_kafka_topic_partition_list_add(job->offsets, topic, partition);
    p->offset = offset;
    p->metadata_size = strlen(metadata);
    p->metadata = malloc(p->metadata_size + 1); /* librdkafka frees it with free() */
    if (!p->metadata) return false;
    memcpy(p->metadata, metadata, p->metadata_size + 1);
    return true;
}

/* ---- the transaction: the settle thread ---- */

enum step { STEP_OK, STEP_RETRY, STEP_ABORT, STEP_STALE, STEP_FATAL };

static enum step classify(rd_kafka_error_t *e, struct settle_job *job, const char *call) {
    if (!e) return STEP_OK;
    rd_kafka_resp_err_t code = rd_kafka_error_code(e);
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

/* Calls again while librdkafka says that the same call may be repeated. */
#define REPEAT(s, job, call_name, call)                                                            \
    __extension__({                                                                                \
        enum step step_;                                                                           \
        do step_ = classify((call), (job), (call_name));                                           \
        while (step_ == STEP_RETRY && !atomic_load(&(s)->stop));                                   \
        step_ == STEP_RETRY ? STEP_FATAL : step_;                                                  \
    })

static bool is_new_leader(struct settler *s, int32_t broker) {
    for (size_t i = 0; i < s->n_leaders; i++)
        if (s->leaders[i] == broker) return false;
    s->leaders = xrealloc(s->leaders, (s->n_leaders + 1) * sizeof *s->leaders);
    s->leaders[s->n_leaders++] = broker;
    return true;
}

/* librdkafka connects to a broker when there is something for it, and a produced message makes the
 * broker's thread look up to a second later: the first settlement would take that long. A request
 * is sent at once; what it answers is of no interest. */
static void connect_leaders(struct settler *s, const rd_kafka_metadata_topic_t *topic) {
    for (int i = 0; i < topic->partition_cnt; i++) {
        const rd_kafka_metadata_partition_t *p = &topic->partitions[i];
        int64_t low, high;
        if (p->leader < 0 || !is_new_leader(s, p->leader)) continue;
        rd_kafka_query_watermark_offsets(s->producer, topic->topic, p->id, &low, &high,
                                         CONNECT_TIMEOUT_MS);
    }
}

/* -1 when the broker doesn't tell now. */
static int32_t partitions_of(struct settler *s, const char *topic) {
    for (size_t i = 0; i < s->n_fanouts; i++)
        if (strcmp(s->fanouts[i].topic, topic) == 0) return s->fanouts[i].partitions;
    rd_kafka_topic_t *t = rd_kafka_topic_new(s->producer, topic, NULL);
    const struct rd_kafka_metadata *md = NULL;
    int32_t n = -1;
    if (t && rd_kafka_metadata(s->producer, 0, t, &md, CALL_TIMEOUT_MS) == 0 &&
        md->topic_cnt == 1 && md->topics[0].err == 0)
        n = md->topics[0].partition_cnt;
    if (n > 0) connect_leaders(s, &md->topics[0]);
    if (md) rd_kafka_metadata_destroy(md);
    if (t) rd_kafka_topic_destroy(t);
    if (n <= 0) return -1;
    s->fanouts = xrealloc(s->fanouts, (s->n_fanouts + 1) * sizeof *s->fanouts);
    s->fanouts[s->n_fanouts++] = (struct fanout){.topic = xstrdup(topic), .partitions = n};
    return n;
}

static rd_kafka_resp_err_t produce(struct settler *s, const struct settle_record *r) {
    int32_t partition = r->partition, n = partitions_of(s, r->topic);
    if (n < 0) return RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC; /* at once: each record would ask again */
    if (partition >= 0) partition %= n;
    rd_kafka_headers_t *headers = rd_kafka_headers_new(r->n_headers);
    for (size_t i = 0; i < r->n_headers; i++)
        rd_kafka_header_add(headers, r->headers[i].name.p, (ssize_t)r->headers[i].name.n,
                            r->headers[i].value.p, (ssize_t)r->headers[i].value.n);
    rd_kafka_resp_err_t err;
    do {
        err = rd_kafka_producev(s->producer, RD_KAFKA_V_TOPIC(r->topic),
                                RD_KAFKA_V_PARTITION(partition), RD_KAFKA_V_KEY(r->key, r->key_len),
                                RD_KAFKA_V_VALUE((void *)(uintptr_t)r->value, r->value_len),
                                RD_KAFKA_V_HEADERS(headers),
                                RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
        if (err == RD_KAFKA_RESP_ERR__QUEUE_FULL) rd_kafka_poll(s->producer, 100);
    } while (err == RD_KAFKA_RESP_ERR__QUEUE_FULL && !atomic_load(&s->stop));
    if (err) rd_kafka_headers_destroy(headers);
    return err;
}

static enum step fill(struct settler *s, struct settle_job *job) {
    for (size_t i = 0; i < job->n_records; i++) {
        rd_kafka_resp_err_t err = produce(s, &job->records[i]);
        if (!err) continue;
        snprintf(job->error, sizeof job->error, "produce to %s: %s", job->records[i].topic,
                 rd_kafka_err2str(err));
        return STEP_ABORT;
    }
    crash_point(CRASH_TXN_INSIDE);
    rd_kafka_consumer_group_metadata_t *group = NULL;
    enum step step = classify(
        rd_kafka_consumer_group_metadata_read(&group, job->group_metadata, job->group_metadata_len),
        job, "group metadata");
    if (step != STEP_OK) return step;
    step = REPEAT(
        s, job, "send offsets",
        rd_kafka_send_offsets_to_transaction(s->producer, job->offsets, group, CALL_TIMEOUT_MS));
    rd_kafka_consumer_group_metadata_destroy(group);
    crash_point(CRASH_TXN_SENT);
    return step;
}

static enum settle_result give_up(struct settler *s, struct settle_job *job, enum step why) {
    char reason[sizeof job->error];
    memcpy(reason, job->error, sizeof reason);
    if (why == STEP_FATAL) return SETTLE_UNKNOWN;
    enum step step =
        REPEAT(s, job, "abort", rd_kafka_abort_transaction(s->producer, CALL_TIMEOUT_MS));
    if (step == STEP_FATAL || step == STEP_ABORT) return SETTLE_UNKNOWN;
    memcpy(job->error, reason, sizeof reason);
    return why == STEP_STALE || step == STEP_STALE ? SETTLE_STALE : SETTLE_AGAIN;
}

static enum settle_result transact(struct settler *s, struct settle_job *job) {
    if (!s->ready) {
        memcpy(job->error, s->init.error, sizeof job->error);
        return SETTLE_UNKNOWN;
    }
    enum step step = classify(rd_kafka_begin_transaction(s->producer), job, "begin transaction");
    if (step != STEP_OK) return SETTLE_UNKNOWN;
    step = fill(s, job);
    if (step == STEP_OK)
        step = REPEAT(s, job, "commit", rd_kafka_commit_transaction(s->producer, CALL_TIMEOUT_MS));
    return step == STEP_OK ? SETTLE_DONE : give_up(s, job, step);
}

static int64_t now_us(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static void *settle_main(void *arg) {
    struct settler *s = arg;
    /* At once, not with the first job: it ends the transaction that a killed process of the same
     * name left open, which would otherwise keep the offsets unstable that the first job waits for.
     */
    s->ready = REPEAT(s, &s->init, "init transactions",
                      rd_kafka_init_transactions(s->producer, CALL_TIMEOUT_MS)) == STEP_OK;
    for (;;) {
        pthread_mutex_lock(&s->mutex);
        while (!s->todo && !atomic_load(&s->stop)) pthread_cond_wait(&s->changed, &s->mutex);
        struct settle_job *job = s->todo;
        s->todo = NULL;
        pthread_mutex_unlock(&s->mutex);
        if (!job) return NULL;
        int64_t start = now_us();
        job->result = transact(s, job);
        job->took_us = now_us() - start;
        pthread_mutex_lock(&s->mutex);
        s->finished = job;
        pthread_mutex_unlock(&s->mutex);
        if (eventfd_write(s->wake_fd, 1) != 0) log_warn("waking the lane failed");
    }
}

/* ---- the lane's side ---- */

static rd_kafka_t *producer_new(const struct config *cfg, const char *transactional_id,
                                struct buf *err) {
    char errstr[256];
    const char *extra[] = {
        "transactional.id", transactional_id, "compression.type", "lz4", KAFKA_ONE_IN_FLIGHT, NULL};
    rd_kafka_conf_t *conf = kafka_conf_new(cfg, extra, err);
    if (!conf) return NULL;
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, errstr, sizeof errstr);
    if (rk) return rk;
    buf_printf(err, "producer: %s", errstr);
    rd_kafka_conf_destroy(conf);
    return NULL;
}

struct settler *settler_new(const struct config *cfg, const char *transactional_id, int wake_fd,
                            struct buf *err) {
    rd_kafka_t *producer = producer_new(cfg, transactional_id, err);
    if (!producer) return NULL;
    struct settler *s = xcalloc(1, sizeof *s);
    *s = (struct settler){.producer = producer, .wake_fd = wake_fd};
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->changed, NULL);
    int rc = pthread_create(&s->thread, NULL, settle_main, s);
    if (rc == 0) return s;
    buf_printf(err, "starting the settle thread failed: %s", strerror(rc));
    rd_kafka_destroy(producer);
    free(s);
    return NULL;
}

void settler_free(struct settler *s) {
    if (!s) return;
    atomic_store(&s->stop, true);
    pthread_mutex_lock(&s->mutex);
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->mutex);
    pthread_join(s->thread, NULL);
    settle_job_free(s->todo);
    settle_job_free(s->finished);
    rd_kafka_destroy(s->producer);
    for (size_t i = 0; i < s->n_fanouts; i++) free(s->fanouts[i].topic);
    free(s->fanouts);
    free(s->leaders);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->mutex);
    free(s);
}

void settler_submit(struct settler *s, struct settle_job *job) {
    pthread_mutex_lock(&s->mutex);
    s->busy = true;
    s->todo = job;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->mutex);
}

bool settler_busy(const struct settler *s) {
    return s->busy;
}

struct settle_job *settler_take(struct settler *s) {
    if (!s->busy) return NULL;
    pthread_mutex_lock(&s->mutex);
    struct settle_job *job = s->finished;
    s->finished = NULL;
    pthread_mutex_unlock(&s->mutex);
    if (job) s->busy = false;
    return job;
}
