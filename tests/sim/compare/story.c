/* What a worker sees of Kafka, told in lines. Linked with the model and with the program's own
 * worker/kafka, it has to tell the same: tests/sim/compare/compare. What depends on moments is not
 * told: how soon, in how many calls, and which of several partitions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "config/config.h"
#include "tests/sim/compare/stage.h"
#include "worker/base/log.h"
#include "worker/kafka/consumer.h"
#include "worker/kafka/producer.h"

enum { WORKERS = 3, PARTITIONS = 4, TURN_MS = 10, PATIENCE_MS = 60000 };

static const char *in, *out;

/* ---- workers ---- */

struct place {
    struct feed *feed;
    const char *topic;
    int32_t partition;
    bool known; /* its committed offset */
    int64_t committed;
    char metadata[64];
    unsigned answers;
};

static struct worker {
    int number, wake_fd;
    struct config *cfg;
    struct consumer *consumer;
    struct producer *producer;
    struct place places[PARTITIONS + 1];
    size_t n;
    unsigned revocations;
    size_t revoked; /* the last time */
    bool lost, all;
    bool unknown; /* an offset, when it was assigned */
} workers[WORKERS];

static size_t owned(const struct worker *w, const char *topic) {
    size_t n = 0;
    for (size_t i = 0; i < w->n; i++) n += strcmp(w->places[i].topic, topic) == 0;
    return n;
}

static struct place *place_of(struct worker *w, const struct feed *feed) {
    for (size_t i = 0; i < w->n; i++)
        if (w->places[i].feed == feed) return &w->places[i];
    return NULL;
}

static struct place *place(struct worker *w, int32_t partition) {
    for (size_t i = 0; i < w->n; i++)
        if (w->places[i].topic == in && w->places[i].partition == partition) return &w->places[i];
    printf("worker %d does not have partition %d\n", w->number, (int)partition);
    exit(1);
}

static void take_committed(struct place *p, const struct committed *c) {
    p->known = c->known;
    p->committed = c->offset;
    snprintf(p->metadata, sizeof p->metadata, "%.*s", (int)c->metadata.n, c->metadata.p);
}

static void on_assigned(void *worker, const struct assigned *v, size_t n) {
    struct worker *w = worker;
    for (size_t i = 0; i < n; i++) {
        struct place *p = &w->places[w->n++];
        *p = (struct place){.feed = v[i].feed, .partition = v[i].partition};
        p->topic = strcmp(v[i].topic, in) == 0 ? in : out;
        w->unknown = w->unknown || !v[i].committed.known;
        take_committed(p, &v[i].committed);
        if (p->known) feed_start(p->feed, p->committed < 0 ? FEED_BEGINNING : p->committed);
    }
}

static void on_revoked(void *worker, struct feed *const *v, size_t n, bool lost, bool all) {
    struct worker *w = worker;
    if (n) w->revocations++;
    if (n) w->revoked = n, w->lost = lost, w->all = all;
    for (size_t i = 0; i < n; i++) {
        struct place *p = place_of(w, v[i]);
        *p = w->places[--w->n];
    }
}

static void on_committed(void *worker, struct feed *feed, const struct committed *c) {
    struct place *p = place_of(worker, feed);
    if (!p) return;
    p->answers++;
    take_committed(p, c);
}

static void on_looked(void *worker, const char *topic, enum broker_fault fault, const char *error) {
    (void)worker, (void)topic, (void)fault, (void)error;
}

static void on_topic_failed(void *worker, const char *topic, const char *error) {
    (void)topic;
    printf("worker %d: a topic fails: %s\n", ((struct worker *)worker)->number, error);
}

static void on_client_failed(void *worker, enum broker_fault fault, const char *error) {
    (void)fault;
    printf("worker %d: the client fails: %s\n", ((struct worker *)worker)->number, error);
}

static void on_broken(void *worker, const char *why) {
    printf("worker %d: the consumer is broken: %s\n", ((struct worker *)worker)->number, why);
}

static const struct consumer_events events = {.assigned = on_assigned,
                                              .revoked = on_revoked,
                                              .committed = on_committed,
                                              .looked = on_looked,
                                              .topic_failed = on_topic_failed,
                                              .client_failed = on_client_failed,
                                              .broken = on_broken};

/* slot: "": dynamic. topics: how many of in and out it reads. */
static struct worker *start(int number, const char *slot, size_t topics) {
    const char *const names[] = {in, out};
    struct worker *w = &workers[number - 1];
    char id[32];
    struct buf err;
    buf_init(&err, 4096);
    *w = (struct worker){.number = number, .wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    w->cfg = stage_config(slot);
    stage_enter(number);
    snprintf(id, sizeof id, "%s-%d", out, number);
    w->producer = producer_new(w->cfg, id, w->wake_fd, &err);
    w->consumer = consumer_new(w->cfg, 0, PARTITIONS, w->wake_fd, &events, w, &err);
    if (!w->producer || !w->consumer) printf("no client: %s\n", buf_cstr(&err));
    consumer_subscribe(w->consumer, names, topics);
    stage_enter(0);
    buf_free(&err);
    return w;
}

static void stop(struct worker *w) {
    stage_enter(w->number);
    producer_free(w->producer);
    if (w->consumer) consumer_close(w->consumer);
    consumer_free(w->consumer, false);
    w->consumer = NULL;
    stage_enter(0);
    config_free(w->cfg);
    close(w->wake_fd);
}

static void turn(void) {
    for (size_t i = 0; i < WORKERS; i++) {
        if (!workers[i].consumer) continue;
        stage_enter(workers[i].number);
        consumer_poll(workers[i].consumer);
        stage_enter(0);
    }
    stage_wait(TURN_MS);
}

/* ---- what is awaited ---- */

typedef bool condition(const void *);

static void await(condition *is, const void *arg, const char *what) {
    int64_t end = stage_ms() + PATIENCE_MS;
    while (!is(arg)) {
        if (stage_ms() > end) {
            printf("never: %s\n", what);
            exit(1);
        }
        turn();
    }
}

struct share {
    const struct worker *worker;
    const char *topic;
    size_t n;
};

static bool has(const void *share) {
    const struct share *s = share;
    return owned(s->worker, s->topic) == s->n;
}

static void until_owned(const struct worker *w, size_t n) {
    await(has, &(struct share){w, in, n}, "its partitions");
}

static bool is_ready(const void *worker) {
    char error[256];
    return producer_state(((const struct worker *)worker)->producer, error, sizeof error) ==
           PRODUCER_READY;
}

static void until_ready(const struct worker *w) {
    await(is_ready, w, "the producer");
}

/* ---- what is told ---- */

static const char *yes(bool is) {
    return is ? "yes" : "no";
}

static void tell_owned(const struct worker *w) {
    printf("  worker %d has %zu\n", w->number, owned(w, in));
}

static void tell_revoked(const struct worker *w) {
    printf("  worker %d gave back %zu; lost: %s, all: %s\n", w->number, w->revoked, yes(w->lost),
           yes(w->all));
}

/* Whether all go is told to no purpose by a consumer that is closed: its versions differ. */
static void tell_left(const struct worker *w) {
    printf("  worker %d leaves, and gave back %zu; lost: %s\n", w->number, w->revoked,
           yes(w->lost));
}

static void tell_committed(struct worker *w, int32_t partition) {
    const struct place *p = place(w, partition);
    printf("  worker %d is told of %d: known %s", w->number, (int)partition, yes(p->known));
    if (p->known) printf(", offset %d \"%s\"", (int)p->committed, p->metadata);
    putchar('\n');
}

struct question {
    struct place *place;
    unsigned answers;
};

static bool is_answered(const void *question) {
    const struct question *q = question;
    return q->place->answers > q->answers;
}

static void ask_committed(struct worker *w, int32_t partition) {
    struct place *p = place(w, partition);
    struct question q = {p, p->answers};
    stage_enter(w->number);
    feed_ask_committed(p->feed);
    stage_enter(0);
    await(is_answered, &q, "the committed offset");
    tell_committed(w, partition);
}

struct reading {
    struct worker *worker;
    struct place *place;
    char text[512];
    size_t n;
    int64_t until; /* an offset that an end or a message has */
    bool over, astray;
};

static bool read_on(const void *reading) {
    struct reading *r = (struct reading *)(uintptr_t)reading;
    struct feed_head head;
    stage_enter(r->worker->number);
    for (enum feed_next next; !r->over;) {
        if ((next = feed_peek(r->place->feed, &head)) == FEED_NOTHING) break;
        if (next == FEED_FAILED) printf("  %s\n", head.error);
        if (next == FEED_MESSAGE) {
            struct fetched *m = feed_take(r->place->feed);
            struct str value = fetched_value(m);
            r->n += (size_t)snprintf(r->text + r->n, sizeof r->text - r->n, " %.*s@%d",
                                     (int)value.n, value.p, (int)head.offset);
            fetched_free(m);
        } else if (next == FEED_END && head.offset >= r->until) {
            r->n += (size_t)snprintf(r->text + r->n, sizeof r->text - r->n, " end@%d",
                                     (int)head.offset);
        } else if (next == FEED_ASTRAY) {
            r->n += (size_t)snprintf(r->text + r->n, sizeof r->text - r->n, " astray");
        }
        r->astray = next == FEED_ASTRAY;
        r->over = r->astray || next == FEED_FAILED || (next == FEED_END && head.offset >= r->until);
    }
    stage_enter(0);
    return r->over;
}

/* All that comes, until the end at that offset, or until it is astray. An end before that one is
 * not told: whether it is seen depends on the moment. */
static void tell_read(struct worker *w, int32_t partition, int64_t until) {
    struct reading r = {.worker = w, .place = place(w, partition), .until = until};
    await(read_on, &r, "what is to be read");
    printf("  worker %d reads of %d:%s\n", w->number, (int)partition, r.text);
}

/* The same; not told, and false, when it is astray. */
static bool reads(struct worker *w, int32_t partition, int64_t until) {
    struct reading r = {.worker = w, .place = place(w, partition), .until = until};
    await(read_on, &r, "what is to be read");
    if (r.astray) return false;
    printf("  worker %d reads of %d:%s\n", w->number, (int)partition, r.text);
    return true;
}

static bool ends_are_known(const void *feed) {
    int64_t low, high;
    return feed_ends(feed, &low, &high);
}

static void tell_ends(struct worker *w, int32_t partition) {
    int64_t low = 0, high = 0;
    const struct feed *f = place(w, partition)->feed;
    await(ends_are_known, f, "the ends");
    feed_ends(f, &low, &high);
    printf("  worker %d sees %d from %d to %d", w->number, (int)partition, (int)low, (int)high);
    stage_enter(w->number);
    bool told = feed_ask_ends(place(w, partition)->feed, &low, &high);
    stage_enter(0);
    printf("; asked: %s, %d to %d\n", yes(told), (int)low, (int)high);
}

/* ---- transactions ---- */

static struct txn *transaction(struct worker *w, const char *value, int32_t partition,
                               int64_t offset, const char *metadata) {
    stage_enter(w->number);
    struct txn *t = txn_new_member(w->consumer);
    stage_enter(0);
    if (!t) {
        printf("worker %d has no membership\n", w->number);
        exit(1);
    }
    struct txn_record *r = txn_add(t);
    r->topic = out;
    r->value = value;
    r->value_len = strlen(value);
    txn_offset(t, in, partition, offset, metadata);
    return t;
}

struct job {
    struct worker *worker;
    struct txn *txn;
};

static bool has_come_back(const void *job) {
    struct job *j = (struct job *)(uintptr_t)job;
    stage_enter(j->worker->number);
    j->txn = producer_take(j->worker->producer);
    stage_enter(0);
    return j->txn;
}

static void settle(struct worker *w, struct txn *t) {
    static const char *const results[] = {
        [TXN_DONE] = "done",   [TXN_AGAIN] = "again", [TXN_REFUSED] = "refused",
        [TXN_TOPIC] = "topic", [TXN_STALE] = "stale", [TXN_UNKNOWN] = "unknown"};
    struct job job = {.worker = w};
    stage_enter(w->number);
    producer_submit(w->producer, t);
    stage_enter(0);
    await(has_come_back, &job, "the transaction");
    printf("  worker %d's transaction is %s; fenced: %s\n", w->number, results[job.txn->result],
           yes(job.txn->fenced));
    txn_free(job.txn);
}

/* ---- scenes ---- */

static void join_and_leave(const char *one, const char *two) {
    struct worker *a = start(1, one, 1);
    until_owned(a, PARTITIONS);
    tell_owned(a);
    struct worker *b = start(2, two, 1);
    until_owned(b, PARTITIONS / 2);
    until_owned(a, PARTITIONS / 2);
    tell_revoked(a);
    tell_owned(a);
    tell_owned(b);
    bool twice = false;
    for (size_t i = 0; i < a->n; i++)
        for (size_t k = 0; k < b->n; k++)
            twice = twice || a->places[i].partition == b->places[k].partition;
    printf("  one is with both: %s\n", yes(twice));
    unsigned before = a->revocations;
    stop(b);
    tell_left(b);
    if (one[0]) {
        b = start(2, two, 1);
        until_owned(b, PARTITIONS / 2);
        printf("  and comes back; worker 1 gave something back for that: %s\n",
               yes(a->revocations > before));
        stop(b);
    } else {
        until_owned(a, PARTITIONS);
        printf("  worker 1 gave something back for that: %s\n", yes(a->revocations > before));
    }
    tell_owned(a);
    stop(a);
    tell_left(a);
}

static void cooperative(void) {
    join_and_leave("", "");
}

static void eager(void) {
    join_and_leave("one", "two");
}

/* What was begun in an older generation is refused, and what is begun then is taken. */
static void stale_member(void) {
    struct worker *a = start(1, "", 1);
    until_owned(a, PARTITIONS);
    until_ready(a);
    settle(a, transaction(a, "first", 0, 3, "three"));
    struct txn *old = transaction(a, "old", 0, 5, "five");
    struct worker *b = start(2, "", 1);
    until_owned(b, PARTITIONS / 2);
    until_owned(a, PARTITIONS / 2);
    settle(a, old);
    for (int32_t i = 0; i < PARTITIONS; i++) /* also what is another's: nobody looks at that */
        settle(a, transaction(a, "new", i, 4, i % 2 ? "odd" : "even"));
    for (size_t i = 0; i < b->n; i++) {
        struct place *p = &b->places[i];
        struct question q = {p, p->answers};
        stage_enter(b->number);
        feed_ask_committed(p->feed);
        stage_enter(0);
        await(is_answered, &q, "the committed offset");
        printf("  one of worker 2's: known %s, offset %d, %s\n", yes(p->known), (int)p->committed,
               yes(strcmp(p->metadata, p->partition % 2 ? "odd" : "even") == 0));
    }
    stop(b);
    until_owned(a, PARTITIONS);
    settle(a, transaction(a, "last", 0, 6, "six"));
    ask_committed(a, 0);
    stop(a);
}

/* Another producer of the same name. */
static void zombie(void) {
    char id[160];
    struct worker *a = start(1, "", 2);
    await(has, &(struct share){a, in, PARTITIONS}, "its partitions");
    await(has, &(struct share){a, out, 1}, "its partitions");
    until_ready(a);
    settle(a, transaction(a, "first", 0, 1, "one"));
    struct txn *lost = transaction(a, "lost", 0, 2, "two");
    struct buf err;
    buf_init(&err, 4096);
    snprintf(id, sizeof id, "%s-%d", out, 1);
    struct producer *old = a->producer;
    stage_enter(1);
    a->producer = producer_new(a->cfg, id, a->wake_fd, &err);
    stage_enter(0);
    until_ready(a);
    struct producer *young = a->producer;
    a->producer = old;
    settle(a, lost);
    settle(a, transaction(a, "lost", 0, 2, "two"));
    a->producer = young;
    ask_committed(a, 0);
    settle(a, transaction(a, "second", 0, 3, "three"));
    ask_committed(a, 0);
    struct place *p = NULL;
    for (size_t i = 0; i < a->n; i++)
        if (a->places[i].topic == out) p = &a->places[i];
    struct reading r = {.worker = a, .place = p, .until = 4};
    await(read_on, &r, "what is to be read");
    printf("  worker 1 reads of out:%.*s\n", (int)(strstr(r.text, " end") - r.text), r.text);
    producer_free(old);
    buf_free(&err);
    stop(a);
}

/* An open transaction has an offset of the group's. */
static void unstable(bool commit) {
    stage_commit(in, 1, 2, "before");
    stage_begin(out, 0);
    stage_produce_in(out, 0, "x");
    stage_offset_in(in, 1, 7, "after");
    struct worker *a = start(1, "", 1);
    until_owned(a, PARTITIONS);
    printf("  assigned, something unknown: %s\n", yes(a->unknown));
    tell_committed(a, 1);
    ask_committed(a, 1);
    ask_committed(a, 0);
    stage_end(commit);
    struct place *p = place(a, 1);
    do ask_committed(a, 1);
    while (!p->known);
    stop(a);
}

static void unstable_committed(void) {
    unstable(true);
}

static void unstable_aborted(void) {
    unstable(false);
}

static void move(struct worker *w, int32_t partition, int64_t offset) {
    stage_enter(w->number);
    feed_move(place(w, partition)->feed, offset);
    stage_enter(0);
}

static void aborted(void) {
    stage_produce(in, 0, "a");
    stage_begin(in, 0);
    stage_produce_in(in, 0, "b");
    stage_produce_in(in, 0, "c");
    stage_end(false);
    stage_produce(in, 0, "d");
    stage_begin(in, 0);
    stage_produce_in(in, 0, "e");
    stage_end(true);
    struct worker *a = start(1, "", 1);
    until_owned(a, PARTITIONS);
    tell_read(a, 0, 7);
    tell_ends(a, 0);
    stage_begin(in, 0);
    stage_produce_in(in, 0, "f");
    stage_produce(in, 0, "g"); /* behind what is open */
    move(a, 0, 4);
    tell_read(a, 0, 7);
    tell_ends(a, 0);
    stage_end(false);
    tell_read(a, 0, 10);
    tell_ends(a, 0);
    move(a, 0, 2); /* an aborted record's place */
    tell_read(a, 0, 10);
    move(a, 0, 9); /* a marker's */
    tell_read(a, 0, 10);
    move(a, 0, 10);
    tell_read(a, 0, 10);
    move(a, 0, 11);
    tell_read(a, 0, 11);
    stop(a);
}

static void retention(void) {
    for (const char *value = "a\0b\0c\0d\0e\0"; *value; value += 2) stage_produce(in, 2, value);
    stage_commit(in, 2, 1, "kept");
    stage_remove(in, 2, 3);
    struct worker *a = start(1, "", 1);
    until_owned(a, PARTITIONS);
    tell_committed(a, 2);
    tell_read(a, 2, 5);
    move(a, 2, FEED_BEGINNING);
    tell_read(a, 2, 5);
    tell_ends(a, 2);
    /* Of the beginning librdkafka may try a place that it remembers, once. */
    stage_remove(in, 2, 5);
    do move(a, 2, FEED_BEGINNING);
    while (!reads(a, 2, 5));
    tell_ends(a, 2);
    stop(a);
}

/* Offsets that another tool has set. */
static void foreign(void) {
    for (const char *value = "a\0b\0c\0d\0"; *value; value += 2) stage_produce(in, 0, value);
    stage_commit(in, 0, 2, "somebody's own words");
    stage_commit(in, 1, 0, "");
    struct worker *a = start(1, "", 1);
    until_owned(a, PARTITIONS);
    for (int32_t i = 0; i < 3; i++) tell_committed(a, i);
    tell_read(a, 0, 4);
    stop(a);
}

static const struct {
    const char *name;
    void (*play)(void);
} scenes[] = {
    {"members come and go, cooperative", cooperative},
    {"members come and go, static and eager", eager},
    {"a stale member", stale_member},
    {"a zombie's transaction", zombie},
    {"an offset that is not stable, then committed", unstable_committed},
    {"an offset that is not stable, then aborted", unstable_aborted},
    {"aborted records and markers", aborted},
    {"retention", retention},
    {"foreign metadata", foreign},
};

/* With a number only that scene. */
int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    log_setup(LOG_ERROR, false);
    for (size_t i = 0; i < sizeof scenes / sizeof *scenes; i++) {
        if (argc > 1 && strtoul(argv[1], NULL, 10) != i) continue;
        printf("%s\n", scenes[i].name);
        memset(workers, 0, sizeof workers);
        stage_open();
        in = stage_topic("in", PARTITIONS);
        out = stage_topic("out", 1);
        scenes[i].play();
        stage_close();
    }
    return 0;
}
