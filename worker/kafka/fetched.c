#include "worker/kafka/fetched.h"

#include <librdkafka/rdkafka.h>

/* It is librdkafka's message, under another name. */
static const rd_kafka_message_t *of(const struct fetched *f) {
    return (const rd_kafka_message_t *)f;
}

int64_t fetched_offset(const struct fetched *f) {
    return of(f)->offset;
}

int64_t fetched_time_ms(const struct fetched *f, bool *ret_by_broker) {
    rd_kafka_timestamp_type_t type;
    int64_t ms = rd_kafka_message_timestamp(of(f), &type);
    if (ret_by_broker) *ret_by_broker = type == RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME;
    return ms;
}

struct str fetched_key(const struct fetched *f) {
    return (struct str){of(f)->key, of(f)->key_len};
}

struct str fetched_value(const struct fetched *f) {
    return (struct str){of(f)->payload, of(f)->payload ? of(f)->len : 0};
}

struct str fetched_header(const struct fetched *f, const char *name) {
    rd_kafka_headers_t *headers = NULL;
    const void *value;
    size_t n;
    if (rd_kafka_message_headers(of(f), &headers) ||
        rd_kafka_header_get_last(headers, name, &value, &n))
        return (struct str){0};
    return (struct str){value, value ? n : 0};
}

void fetched_message(const struct fetched *f, struct arena *arena, struct message *ret) {
    *ret = (struct message){.value = fetched_value(f)};
    rd_kafka_headers_t *list;
    if (rd_kafka_message_headers(of(f), &list) != RD_KAFKA_RESP_ERR_NO_ERROR) return;
    size_t n = rd_kafka_header_cnt(list);
    struct header *headers = arena_alloc(arena, (n + 1) * sizeof *headers);
    for (size_t i = 0; i < n; i++) {
        const char *name;
        const void *value;
        size_t size;
        if (rd_kafka_header_get_all(list, i, &name, &value, &size)) continue;
        headers[ret->n_headers++] =
            (struct header){.name = str_c(name), .value = {value, value ? size : 0}};
    }
    ret->headers = headers;
}

void fetched_free(struct fetched *f) {
    if (f) rd_kafka_message_destroy((rd_kafka_message_t *)f);
}
