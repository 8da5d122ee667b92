#include "worker/kafka/marks.h"

#include "worker/kafka/client.h"
#include "worker/ledger/entry.h"

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
    if (at >= 0 && (!marks[at].known || e.seq >= marks[at].seq)) {
        marks[at] =
            (struct mark){.known = true, .seq = e.seq, .next = e.next, .settled_ms = e.settled_ms};
        memcpy(marks[at].hash, e.hash, SHA256_LEN);
    }
    arena_free(&arena);
}

void mark_meta(const struct mark *mark, struct meta *ret) {
    *ret = (struct meta){.seq = mark->seq + 1};
    memcpy(ret->head, mark->hash, SHA256_LEN);
}

rd_kafka_resp_err_t mark_is_older(rd_kafka_t *rk, const rd_kafka_topic_partition_t *tp,
                                  const struct mark *mark, bool *ret) {
    int64_t low, high;
    rd_kafka_resp_err_t err = client_ends(rk, tp->topic, tp->partition, &low, &high, TIMEOUT_MS);
    if (err) return err;
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_t *first =
        rd_kafka_topic_partition_list_add(l, tp->topic, tp->partition);
    first->offset = mark->settled_ms;
    bool beyond = mark->next > high;
    if (!beyond) err = rd_kafka_offsets_for_times(rk, l, TIMEOUT_MS);
    if (!err) *ret = beyond || (first->offset == low && low < mark->next && low < high);
    rd_kafka_topic_partition_list_destroy(l);
    return err;
}
