/* A floor for batch mode: reads a topic from its beginning and does nothing else, or compresses
 * what it has read in pieces, or (none) copies it together.
 *
 * usage: consume BROKERS TOPIC PARTITIONS EVENTS [none|gzip|zstd PIECE_BYTES]
 * Ends when it has read that many events; prints events, bytes and bytes out as a JSON object. */
#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "worker/base/gzip.h"

#define READ_BATCH 128
#define LEVEL 1
#define WAIT_MS 20        /* for a whole batch */
#define SILENCES_MAX 1500 /* waits without a record, one after another: something is wrong */

enum form { FORM_READ, FORM_NONE, FORM_GZIP, FORM_ZSTD };

static struct {
    enum form form;
    size_t piece, n, cap, out_cap;
    char *in, *out;
    struct gzip *gzip;
    ZSTD_CCtx *zstd;
    long long events, bytes, bytes_out;
} run;

static _Noreturn void die(const char *what, const char *why) {
    fprintf(stderr, "consume: %s: %s\n", what, why);
    exit(1);
}

static void *need(void *p) {
    if (!p) abort();
    return p;
}

static void open_form(const char *name, size_t piece) {
    run.piece = piece;
    run.cap = piece + (1 << 20);
    run.in = need(malloc(run.cap));
    if (strcmp(name, "none") == 0) {
        run.form = FORM_NONE;
    } else if (strcmp(name, "gzip") == 0) {
        run.form = FORM_GZIP;
        run.gzip = gzip_new(LEVEL);
    } else if (strcmp(name, "zstd") == 0) {
        run.form = FORM_ZSTD;
        run.zstd = need(ZSTD_createCCtx());
        run.out_cap = ZSTD_compressBound(run.cap);
    } else {
        die(name, "none, gzip or zstd");
    }
    if (run.out_cap) run.out = need(malloc(run.out_cap));
}

static size_t gzip(size_t n) {
    struct buf out;
    if (!gzip_into(run.gzip, run.in, n, &out)) die("compression", "failed");
    n = out.n;
    buf_free(&out);
    return n;
}

static void end_piece(void) {
    size_t n = run.n;
    if (run.form == FORM_GZIP)
        n = gzip(run.n);
    else if (run.form == FORM_ZSTD)
        n = ZSTD_compressCCtx(run.zstd, run.out, run.out_cap, run.in, run.n, LEVEL);
    if (n == 0 || ZSTD_isError(n)) die("compression", "failed");
    run.bytes_out += (long long)n;
    run.n = 0;
}

static void take(const rd_kafka_message_t *m) {
    run.events++;
    run.bytes += (long long)m->len;
    if (run.form == FORM_READ) return;
    if (run.n + m->len + 1 > run.cap) die("an event", "is larger than 1 MiB");
    memcpy(run.in + run.n, m->payload, m->len);
    run.n += m->len;
    run.in[run.n++] = '\n';
    if (run.n >= run.piece) end_piece();
}

static void set(rd_kafka_conf_t *conf, const char *name, const char *value) {
    char why[256];
    if (rd_kafka_conf_set(conf, name, value, why, sizeof why) != RD_KAFKA_CONF_OK) die(name, why);
}

static rd_kafka_t *open_consumer(const char *brokers, const char *topic, int partitions) {
    char why[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    set(conf, "bootstrap.servers", brokers);
    set(conf, "group.id", "floor");
    set(conf, "enable.auto.commit", "false");
    set(conf, "fetch.wait.max.ms", "50");
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, why, sizeof why);
    if (!rk) die("a consumer", why);
    rd_kafka_poll_set_consumer(rk);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(partitions);
    for (int p = 0; p < partitions; p++)
        rd_kafka_topic_partition_list_add(list, topic, p)->offset = RD_KAFKA_OFFSET_BEGINNING;
    rd_kafka_resp_err_t err = rd_kafka_assign(rk, list);
    if (err) die(topic, rd_kafka_err2str(err));
    rd_kafka_topic_partition_list_destroy(list);
    return rk;
}

static void read_all(rd_kafka_t *rk, long long events) {
    rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(rk);
    rd_kafka_message_t *batch[READ_BATCH];
    int silences = 0;
    while (run.events < events) {
        ssize_t n = rd_kafka_consume_batch_queue(queue, WAIT_MS, batch, READ_BATCH);
        silences = n == 0 ? silences + 1 : 0;
        if (n < 0 || silences > SILENCES_MAX) die("the topic", "no more events");
        for (ssize_t i = 0; i < n; i++) {
            if (batch[i]->err) die("the topic", rd_kafka_message_errstr(batch[i]));
            take(batch[i]);
            rd_kafka_message_destroy(batch[i]);
        }
    }
    if (run.n) end_piece();
    rd_kafka_queue_destroy(queue);
}

int main(int argc, char **argv) {
    if (argc != 5 && argc != 7) {
        fprintf(stderr, "usage: consume BROKERS TOPIC PARTITIONS EVENTS [none|gzip|zstd PIECE]\n");
        return 64;
    }
    if (argc == 7) open_form(argv[5], strtoul(argv[6], NULL, 10));
    rd_kafka_t *rk = open_consumer(argv[1], argv[2], atoi(argv[3]));
    read_all(rk, atoll(argv[4]));
    printf("{\"events\":%lld,\"bytes\":%lld,\"out\":%lld}\n", run.events, run.bytes, run.bytes_out);
    rd_kafka_consumer_close(rk);
    rd_kafka_destroy(rk);
    gzip_free(run.gzip);
    ZSTD_freeCCtx(run.zstd);
    free(run.in);
    free(run.out);
    return 0;
}
