#include "worker/kafka/head_search.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "config/config.h"
#include "worker/base/log.h"
#include "worker/kafka/client.h"
#include "worker/kafka/reader.h"
#include "worker/kafka/topic_names.h"

#define ASK_TIMEOUT_MS 5000
/* Records of each of the ledger's partitions that are read first: most heads are near the end.
 * Then ever more. */
#define FIRST_RECORDS 2000

/* One of the ledger's partitions. */
struct stretch {
    int64_t low, from, until; /* [from, until) is read next, or was */
};

struct head_search {
    rd_kafka_t *rk, *raw; /* the thread's, as is all but the flags, until done */
    char ledger[TOPIC_MAX + 1];
    struct heads *heads;
    struct stretch *stretches;
    int n;
    int64_t most; /* records of each */
    int wake_fd;
    pthread_t thread;
    atomic_bool stop, done;
    bool threaded, denied;
    struct buf error;
};

/* ---- the thread ---- */

static bool fail(struct head_search *s, rd_kafka_resp_err_t err) {
    s->denied = err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    buf_printf(&s->error, "%s: %s", s->ledger, rd_kafka_err2str(err));
    return false;
}

static bool count_partitions(struct head_search *s) {
    const struct rd_kafka_metadata *md;
    rd_kafka_resp_err_t err = client_topic(s->rk, s->ledger, ASK_TIMEOUT_MS, &md);
    if (err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART || err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC)
        return true;
    if (err) return fail(s, err);
    s->n = md->topics[0].partition_cnt;
    rd_kafka_metadata_destroy(md);
    return true;
}

/* Their ends are those of what was written: an open transaction may hide it yet. */
static bool find_ends(struct head_search *s) {
    s->stretches = xcalloc((size_t)s->n + 1, sizeof *s->stretches);
    for (int i = 0; i < s->n && !atomic_load(&s->stop); i++) {
        struct stretch *t = &s->stretches[i];
        rd_kafka_resp_err_t err =
            client_ends(s->raw, s->ledger, i, &t->low, &t->until, ASK_TIMEOUT_MS);
        if (err) return fail(s, err);
        t->from = t->until;
    }
    return true;
}

/* Takes what lies before the last stretches. False when there is nothing. */
static bool step_back(struct head_search *s, int64_t records) {
    bool any = false;
    for (int i = 0; i < s->n; i++) {
        struct stretch *t = &s->stretches[i];
        t->until = t->from;
        t->from = t->until - t->low > records ? t->until - records : t->low;
        any = any || t->from < t->until;
    }
    return any;
}

static bool is_over(void *search) {
    const struct head_search *s = search;
    return atomic_load(&s->stop) || !heads_open(s->heads);
}

static bool read_stretches(struct head_search *s) {
    struct reader *r = reader_new(s->rk, READER_ANY);
    rd_kafka_message_t *m;
    for (int i = 0; i < s->n; i++)
        if (s->stretches[i].from < s->stretches[i].until)
            reader_add(r, s->ledger, i, s->stretches[i].from, s->stretches[i].until);
    reader_stop_when(r, is_over, s);
    while (!is_over(s) && (m = reader_next(r, 0, &s->error))) {
        heads_take(s->heads, reader_key(m), reader_value(m));
        rd_kafka_message_destroy(m);
    }
    s->denied = reader_trouble(r) == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    reader_free(r);
    return !s->error.n;
}

/* From the end backwards, in ever longer stretches. */
static void search(struct head_search *s) {
    int64_t records = FIRST_RECORDS;
    for (int64_t left = s->most; left > 0 && !is_over(s); left -= records, records *= 4)
        if (!step_back(s, records < left ? records : left) || !read_stretches(s)) return;
}

static void *search_main(void *arg) {
    struct head_search *s = arg;
    if (count_partitions(s) && find_ends(s)) search(s);
    atomic_store(&s->done, true);
    if (eventfd_write(s->wake_fd, 1) != 0) log_warn("waking a lane failed");
    return NULL;
}

/* ---- the calls ---- */

struct head_search *head_search_new(const struct config *cfg, const char *source,
                                    struct heads *heads, int64_t most, int wake_fd,
                                    struct buf *err) {
    struct head_search *s = xcalloc(1, sizeof *s);
    s->heads = heads;
    s->most = most;
    s->wake_fd = wake_fd;
    buf_init(&s->error, 4096);
    topic_ledger(source, s->ledger);
    s->rk = reader_consumer(cfg, cfg->group, err);
    s->raw = s->rk ? reader_consumer_raw(cfg, cfg->group, err) : NULL;
    int rc = s->raw ? pthread_create(&s->thread, NULL, search_main, s) : 0;
    s->threaded = s->raw && rc == 0;
    if (s->threaded) return s;
    if (rc) buf_printf(err, "starting a thread failed: %s", strerror(rc));
    head_search_free(s);
    return NULL;
}

void head_search_free(struct head_search *s) {
    if (!s) return;
    atomic_store(&s->stop, true);
    if (s->threaded) pthread_join(s->thread, NULL);
    if (s->rk) rd_kafka_destroy(s->rk);
    if (s->raw) rd_kafka_destroy(s->raw);
    heads_free(s->heads);
    buf_free(&s->error);
    free(s->stretches);
    free(s);
}

enum ledger_search_state head_search_state(struct head_search *s, const char **ret_error) {
    if (!atomic_load(&s->done)) return LEDGER_SEARCH_ON;
    *ret_error = buf_cstr(&s->error);
    return s->denied    ? LEDGER_SEARCH_DENIED
           : s->error.n ? LEDGER_SEARCH_FAILED
                        : LEDGER_SEARCH_DONE;
}

const struct heads *head_search_heads(const struct head_search *s) {
    return s->heads;
}
