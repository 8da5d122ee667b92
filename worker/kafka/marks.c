#include "worker/kafka/marks.h"

#include <stdlib.h>

#include "worker/kafka/client.h"
#include "worker/kafka/reader.h"
#include "worker/kafka/topic_settings.h"

#define TIMEOUT_MS 5000

static int index_of(const rd_kafka_topic_partition_list_t *list, struct str topic,
                    int32_t partition) {
    for (int i = 0; i < list->cnt; i++)
        if (list->elems[i].partition == partition && str_is(topic, list->elems[i].topic)) return i;
    return -1;
}

void marks_take(const rd_kafka_topic_partition_list_t *list, const char *group,
                const rd_kafka_message_t *m, struct mark *marks) {
    struct arena arena = {0};
    struct ledger_entry e;
    struct ledger_read_error unused;
    struct str value = {m->payload, m->payload ? m->len : 0};
    int at = -1;
    if (ledger_read(value, &arena, &e, &unused) && str_is(e.group, group))
        at = index_of(list, e.topic, e.partition);
    if (at >= 0) mark_take(&marks[at], &e);
    arena_free(&arena);
}

/* Of a compacted topic a record may be gone, and the topic is the same. Where that can't be known
 * (no right to DescribeConfigs) nothing is to be lost: what is delivered twice is the lesser harm.
 */
static bool is_compacted(rd_kafka_t *rk, const char *name) {
    struct topic topic = {.name = (char *)(uintptr_t)name};
    const struct topic_list one = {.v = &topic, .n = 1};
    struct topic_settings settings;
    struct buf unused;
    buf_init(&unused, 1024);
    bool asked = topic_settings_ask(rk, &one, TIMEOUT_MS, NULL, &settings, &unused);
    buf_free(&unused);
    return asked && settings.known && strstr(settings.cleanup_policy, "compact");
}

static rd_kafka_resp_err_t ask_record(rd_kafka_t *rk, const rd_kafka_topic_partition_t *tp,
                                      const struct mark *mark, enum mark_record *ret) {
    struct buf err;
    buf_init(&err, 1024);
    struct lookup *l = lookup_new(rk, TIMEOUT_MS);
    rd_kafka_message_t *m = lookup_record(l, tp->topic, tp->partition, mark->last.offset, &err);
    bool asked = err.n == 0;
    bool same = m && ledger_last_is(&mark->last, m->offset, rd_kafka_message_timestamp(m, NULL),
                                    reader_value(m).n);
    if (asked)
        *ret = same ? MARK_SAME : m || !is_compacted(rk, tp->topic) ? MARK_OTHER : MARK_UNKNOWN;
    if (m) rd_kafka_message_destroy(m);
    lookup_free(l);
    buf_free(&err);
    return asked ? RD_KAFKA_RESP_ERR_NO_ERROR : RD_KAFKA_RESP_ERR__TIMED_OUT;
}

/* The first record since the entry was settled. */
static rd_kafka_resp_err_t ask_since(rd_kafka_t *rk, const rd_kafka_topic_partition_t *tp,
                                     const struct mark *mark, int64_t *ret) {
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_t *first =
        rd_kafka_topic_partition_list_add(l, tp->topic, tp->partition);
    first->offset = mark->settled_ms;
    rd_kafka_resp_err_t err = rd_kafka_offsets_for_times(rk, l, TIMEOUT_MS);
    if (!err) err = first->err;
    if (!err) *ret = first->offset;
    rd_kafka_topic_partition_list_destroy(l);
    return err;
}

rd_kafka_resp_err_t marks_older(rd_kafka_t *rk, const rd_kafka_topic_partition_t *tp,
                                const struct mark *mark, bool *ret) {
    struct mark_place now = {.since = -1};
    rd_kafka_resp_err_t err =
        client_ends(rk, tp->topic, tp->partition, &now.low, &now.high, TIMEOUT_MS);
    bool beyond = !err && mark->next > now.high;
    if (!err && !beyond && mark_tells(mark, now.low, now.high))
        err = ask_record(rk, tp, mark, &now.record);
    if (!err && !beyond && now.record == MARK_UNKNOWN) err = ask_since(rk, tp, mark, &now.since);
    if (!err) *ret = mark_is_older(mark, &now);
    return err;
}
