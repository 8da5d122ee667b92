/* Why a thread: rd_kafka_committed() blocks, and ListConsumerGroupOffsets, which does not, can
 * abort the process when the coordinator disconnects (librdkafka's pull request 5397). */
#include "worker/kafka/asker.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "worker/base/buf.h"
#include "worker/base/clock.h"
#include "worker/base/log.h"

struct question {
    rd_kafka_topic_partition_list_t *list;
    uint64_t serial;
    struct question *next;
};

struct queue {
    struct question *first, **last;
};

struct asker {
    rd_kafka_t *consumer;
    int wake_fd;
    pthread_t thread;
    pthread_mutex_t mutex; /* for all below */
    pthread_cond_t changed;
    struct queue asked, answered;
    bool stop;
};

static void queue_init(struct queue *q) {
    q->first = NULL;
    q->last = &q->first;
}

static void push(struct queue *q, struct question *it) {
    it->next = NULL;
    *q->last = it;
    q->last = &it->next;
}

static void push_first(struct queue *q, struct question *it) {
    it->next = q->first;
    if (!q->first) q->last = &it->next;
    q->first = it;
}

static struct question *pop(struct queue *q) {
    struct question *it = q->first;
    if (!it) return NULL;
    q->first = it->next;
    if (!q->first) q->last = &q->first;
    return it;
}

/* ---- the thread ---- */

static rd_kafka_resp_err_t look_for(rd_kafka_t *rk, const char *topic, int timeout_ms) {
    rd_kafka_topic_t *t = rd_kafka_topic_new(rk, topic, NULL);
    const struct rd_kafka_metadata *md = NULL;
    rd_kafka_resp_err_t err =
        t ? rd_kafka_metadata(rk, 0, t, &md, timeout_ms) : rd_kafka_last_error();
    if (!err) err = md->topic_cnt ? md->topics[0].err : RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC;
    if (md) rd_kafka_metadata_destroy(md);
    if (t) rd_kafka_topic_destroy(t);
    return err;
}

static void look(const struct asker *a, const struct question *it) {
    int64_t end = clock_ms(CLOCK_MONOTONIC) + ASKER_LOOK_MS;
    for (int i = 0; i < it->list->cnt; i++) {
        rd_kafka_topic_partition_t *tp = &it->list->elems[i];
        int64_t left = end - clock_ms(CLOCK_MONOTONIC);
        tp->err =
            left > 0 ? look_for(a->consumer, tp->topic, (int)left) : RD_KAFKA_RESP_ERR__TIMED_OUT;
    }
}

static void ask(const struct asker *a, const struct question *it) {
    if (!it->serial) {
        look(a, it);
        return;
    }
    rd_kafka_resp_err_t err = rd_kafka_committed(a->consumer, it->list, ASKER_TIMEOUT_MS);
    if (err) it->list->elems[0].err = err;
}

static void *asker_main(void *arg) {
    struct asker *a = arg;
    pthread_mutex_lock(&a->mutex);
    while (!a->stop) {
        struct question *it = pop(&a->asked);
        if (!it) {
            pthread_cond_wait(&a->changed, &a->mutex);
            continue;
        }
        pthread_mutex_unlock(&a->mutex);
        ask(a, it);
        pthread_mutex_lock(&a->mutex);
        push(&a->answered, it);
        if (eventfd_write(a->wake_fd, 1) != 0) log_warn("waking a lane failed");
    }
    pthread_mutex_unlock(&a->mutex);
    return NULL;
}

/* ---- the lane's ---- */

struct asker *asker_new(rd_kafka_t *consumer, int wake_fd) {
    struct asker *a = xcalloc(1, sizeof *a);
    a->consumer = consumer;
    a->wake_fd = wake_fd;
    queue_init(&a->asked);
    queue_init(&a->answered);
    pthread_mutex_init(&a->mutex, NULL);
    pthread_cond_init(&a->changed, NULL);
    int rc = pthread_create(&a->thread, NULL, asker_main, a);
    if (rc == 0) return a;
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->mutex);
    free(a);
    errno = rc;
    return NULL;
}

static void clear(struct queue *q) {
    for (struct question *it; (it = pop(q));) {
        rd_kafka_topic_partition_list_destroy(it->list);
        free(it);
    }
}

void asker_free(struct asker *a) {
    if (!a) return;
    pthread_mutex_lock(&a->mutex);
    a->stop = true;
    pthread_cond_signal(&a->changed);
    pthread_mutex_unlock(&a->mutex);
    pthread_join(a->thread, NULL);
    clear(&a->asked);
    clear(&a->answered);
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->mutex);
    free(a);
}

static void enqueue(struct asker *a, rd_kafka_topic_partition_list_t *list, uint64_t serial) {
    struct question *it = xcalloc(1, sizeof *it);
    it->serial = serial;
    it->list = list;
    pthread_mutex_lock(&a->mutex);
    (serial ? push : push_first)(&a->asked, it);
    pthread_cond_signal(&a->changed);
    pthread_mutex_unlock(&a->mutex);
}

void asker_ask(struct asker *a, const char *topic, int32_t partition, uint64_t serial) {
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, topic, partition);
    enqueue(a, list, serial);
}

void asker_look(struct asker *a, rd_kafka_topic_partition_list_t *topics) {
    enqueue(a, topics, 0);
}

rd_kafka_topic_partition_list_t *asker_answer(struct asker *a, uint64_t *ret_serial) {
    pthread_mutex_lock(&a->mutex);
    struct question *it = pop(&a->answered);
    pthread_mutex_unlock(&a->mutex);
    if (!it) return NULL;
    rd_kafka_topic_partition_list_t *list = it->list;
    *ret_serial = it->serial;
    free(it);
    return list;
}
