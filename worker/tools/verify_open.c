/* Waiting for open transactions, so that nothing is missed that is only hidden. */
#include <stdio.h>
#include <time.h>

#include "worker/base/clock.h"
#include "worker/kafka/client.h"
#include "worker/tools/verify_topic.h"

#define TIMEOUT_MS 30000
/* Longer than a transaction may be open by default (transaction.timeout.ms, 60 s) and the interval
 * at which brokers look for those that were (10 s). */
#define OPEN_MAX_MS 75000
#define PAUSE_MS 200

struct wait {
    rd_kafka_t *rk, *raw;
    int64_t deadline_ms;
    struct audit *audit;
    struct buf *err;
};

static bool end_of(rd_kafka_t *rk, const char *topic, int32_t partition, int64_t *ret,
                   struct buf *err) {
    int64_t low;
    rd_kafka_resp_err_t code = client_ends(rk, topic, partition, &low, ret, TIMEOUT_MS);
    if (code)
        buf_printf(err, "asking for the ends of %s/%d: %s", topic, (int)partition,
                   rd_kafka_err2str(code));
    return !code;
}

static void stays_open(const struct wait *w, const char *topic, int32_t partition, int64_t offset) {
    struct finding f = {.code = "open-transaction",
                        .topic = topic,
                        .partition = partition,
                        .offset = offset,
                        .text = "a transaction that does not end hides what is written from here "
                                "on, verification is incomplete (OPERATIONS.md: a hanging "
                                "transaction)"};
    audit_report(w->audit, &f);
}

static bool wait_for(const struct wait *w, const char *topic, int32_t partition) {
    const struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000L};
    int64_t written, visible;
    bool said = false;
    if (!end_of(w->raw, topic, partition, &written, w->err)) return false;
    for (;;) {
        if (!end_of(w->rk, topic, partition, &visible, w->err)) return false;
        if (visible >= written) return true;
        if (clock_ms(CLOCK_MONOTONIC) >= w->deadline_ms) break;
        if (!said)
            fprintf(stderr,
                    "runsink verify: a transaction is open in %s/%d: waiting until what lies "
                    "behind it can be read, %d s at most\n",
                    topic, (int)partition, OPEN_MAX_MS / 1000);
        said = true;
        nanosleep(&pause, NULL); /* the broker tells nobody when it ends one */
    }
    stays_open(w, topic, partition, visible);
    return true;
}

/* The ledger and what is parked: in the source topic an open transaction is its producer's affair,
 * and the workers see no more of it than we do. */
static bool concerns(const char *name, const char *source) {
    size_t base;
    enum topic_kind kind = topic_kind(name, &base);
    return (kind == TOPIC_LEDGER || kind == TOPIC_RETRY) && base == strlen(source) &&
           strncmp(name, source, base) == 0;
}

bool verify_wait_visible(const struct config *cfg, rd_kafka_t *rk, const struct topic_list *all,
                         const char *source, struct audit *a, struct buf *err) {
    struct wait w = {
        .rk = rk, .audit = a, .err = err, .deadline_ms = clock_ms(CLOCK_MONOTONIC) + OPEN_MAX_MS};
    w.raw = reader_consumer_raw(cfg, cfg->group, err);
    bool ok = w.raw != NULL;
    for (size_t i = 0; ok && i < all->n; i++)
        for (int32_t p = 0; ok && p < all->v[i].partitions; p++)
            ok = !concerns(all->v[i].name, source) || wait_for(&w, all->v[i].name, p);
    if (w.raw) rd_kafka_destroy(w.raw);
    return ok;
}
