/* Why a thread: rd_kafka_committed() blocks, and ListConsumerGroupOffsets, which does not, can
 * abort the process when the coordinator disconnects (librdkafka's pull request 5397). */
#include "worker/kafka/offsets.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/queue.h>

#include "worker/base/buf.h"
#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/kafka/client.h"

struct question {
    rd_kafka_topic_partition_list_t *list;
    uint64_t serial;
    STAILQ_ENTRY(question) link;
};

STAILQ_HEAD(questions, question);

struct offsets {
    rd_kafka_t *consumer;
    int wake_fd;
    pthread_t thread;
    pthread_mutex_t mutex; /* for all below */
    pthread_cond_t changed;
    struct questions asked, answered;
    bool stop;
};

static struct question *pop(struct questions *q) {
    struct question *it = STAILQ_FIRST(q);
    if (it) STAILQ_REMOVE_HEAD(q, link);
    return it;
}

/* ---- the thread ---- */

static void look(const struct offsets *o, const struct question *it) {
    int64_t end = clock_ms(CLOCK_MONOTONIC) + OFFSETS_LOOK_MS;
    for (int i = 0; i < it->list->cnt; i++) {
        rd_kafka_topic_partition_t *tp = &it->list->elems[i];
        const struct rd_kafka_metadata *md;
        int64_t left = end - clock_ms(CLOCK_MONOTONIC);
        tp->err = left > 0 ? client_topic(o->consumer, tp->topic, (int)left, &md)
                           : RD_KAFKA_RESP_ERR__TIMED_OUT;
        if (!tp->err) rd_kafka_metadata_destroy(md);
    }
}

static void ask_alone(const struct offsets *o, const struct question *it) {
    rd_kafka_resp_err_t err = rd_kafka_committed(o->consumer, it->list, OFFSETS_TIMEOUT_MS);
    if (err) it->list->elems[0].err = err;
}

static void take_answer(rd_kafka_topic_partition_t *to, const rd_kafka_topic_partition_t *from) {
    to->offset = from->offset;
    to->err = from->err;
    if (!from->metadata_size) return;
    to->metadata = xmalloc(from->metadata_size); /* librdkafka frees it with free() */
    memcpy(to->metadata, from->metadata, from->metadata_size);
    to->metadata_size = from->metadata_size;
}

/* Of many partitions at once: a lane may have hundreds that ask in the same moment. One that a
 * pending transaction keeps unstable makes that fail for all. A partition that went and came back
 * may be asked for twice: of two in one list, the second would be told to have no commit. */
static void ask(const struct offsets *o, const struct questions *these) {
    rd_kafka_topic_partition_list_t *all = rd_kafka_topic_partition_list_new(16);
    struct question *it;
    STAILQ_FOREACH(it, these, link) {
        const rd_kafka_topic_partition_t *tp = &it->list->elems[0];
        if (!rd_kafka_topic_partition_list_find(all, tp->topic, tp->partition))
            rd_kafka_topic_partition_list_add(all, tp->topic, tp->partition);
    }
    rd_kafka_resp_err_t err = rd_kafka_committed(o->consumer, all, OFFSETS_TIMEOUT_MS);
    STAILQ_FOREACH(it, these, link) {
        rd_kafka_topic_partition_t *tp = &it->list->elems[0];
        if (err && all->cnt > 1)
            ask_alone(o, it);
        else if (err)
            tp->err = err;
        else
            take_answer(tp, rd_kafka_topic_partition_list_find(all, tp->topic, tp->partition));
    }
    rd_kafka_topic_partition_list_destroy(all);
}

/* The next look, or all questions up to it. */
static void take(struct offsets *o, struct questions *ret) {
    STAILQ_INIT(ret);
    do {
        struct question *it = pop(&o->asked);
        STAILQ_INSERT_TAIL(ret, it, link);
        if (!it->serial) return;
    } while (!STAILQ_EMPTY(&o->asked) && STAILQ_FIRST(&o->asked)->serial);
}

static void *offsets_main(void *arg) {
    struct offsets *o = arg;
    pthread_mutex_lock(&o->mutex);
    while (!o->stop) {
        if (STAILQ_EMPTY(&o->asked)) {
            pthread_cond_wait(&o->changed, &o->mutex);
            continue;
        }
        struct questions these;
        take(o, &these);
        pthread_mutex_unlock(&o->mutex);
        if (STAILQ_FIRST(&these)->serial)
            ask(o, &these);
        else
            look(o, STAILQ_FIRST(&these));
        pthread_mutex_lock(&o->mutex);
        STAILQ_CONCAT(&o->answered, &these);
        if (eventfd_write(o->wake_fd, 1) != 0) log_warn("waking a lane failed");
    }
    pthread_mutex_unlock(&o->mutex);
    return NULL;
}

/* ---- the lane's ---- */

struct offsets *offsets_new(rd_kafka_t *consumer, int wake_fd) {
    struct offsets *o = xcalloc(1, sizeof *o);
    o->consumer = consumer;
    o->wake_fd = wake_fd;
    STAILQ_INIT(&o->asked);
    STAILQ_INIT(&o->answered);
    pthread_mutex_init(&o->mutex, NULL);
    pthread_cond_init(&o->changed, NULL);
    int rc = pthread_create(&o->thread, NULL, offsets_main, o);
    if (rc == 0) return o;
    pthread_cond_destroy(&o->changed);
    pthread_mutex_destroy(&o->mutex);
    free(o);
    errno = rc;
    return NULL;
}

static void clear(struct questions *q) {
    for (struct question *it; (it = pop(q));) {
        rd_kafka_topic_partition_list_destroy(it->list);
        free(it);
    }
}

void offsets_free(struct offsets *o) {
    if (!o) return;
    pthread_mutex_lock(&o->mutex);
    o->stop = true;
    pthread_cond_signal(&o->changed);
    pthread_mutex_unlock(&o->mutex);
    pthread_join(o->thread, NULL);
    clear(&o->asked);
    clear(&o->answered);
    pthread_cond_destroy(&o->changed);
    pthread_mutex_destroy(&o->mutex);
    free(o);
}

static void enqueue(struct offsets *o, rd_kafka_topic_partition_list_t *list, uint64_t serial) {
    struct question *it = xcalloc(1, sizeof *it);
    it->serial = serial;
    it->list = list;
    pthread_mutex_lock(&o->mutex);
    if (serial)
        STAILQ_INSERT_TAIL(&o->asked, it, link);
    else
        STAILQ_INSERT_HEAD(&o->asked, it, link);
    pthread_cond_signal(&o->changed);
    pthread_mutex_unlock(&o->mutex);
}

void offsets_ask(struct offsets *o, const char *topic, int32_t partition, uint64_t serial) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, topic, partition);
    enqueue(o, list, serial);
}

void offsets_look(struct offsets *o, rd_kafka_topic_partition_list_t *topics) {
    enqueue(o, topics, 0);
}

rd_kafka_topic_partition_list_t *offsets_answer(struct offsets *o, uint64_t *ret_serial) {
    pthread_mutex_lock(&o->mutex);
    struct question *it = pop(&o->answered);
    pthread_mutex_unlock(&o->mutex);
    if (!it) return NULL;
    rd_kafka_topic_partition_list_t *list = it->list;
    *ret_serial = it->serial;
    free(it);
    return list;
}
