/* worker/kafka/consumer.h on the model: a member of the group. What the coordinator tells is noted
 * when it arrives; the lane hears of it when it polls. */
#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "tests/sim/cluster.h"
#include "tests/sim/world.h"
#include "worker/kafka/txn.h"

#define ASK_MS 500 /* for how long a question for a committed offset waits until it is stable */
#define LOOK_MS 2000

/* What the lane is to be told in its next poll, or was asked for. */
enum told_kind { TOLD_COMMITTED, TOLD_LOOKED, TOLD_MISSING };
struct told {
    uint64_t number;
    enum told_kind kind;
    bool ready;
    uint64_t feed;
    bool known;
    int64_t offset;
    char *metadata; /* of the offset */
    char **topics;
    bool *there;
    size_t n_topics;
    struct told *next;
};

static struct consumer *consumers, **last = &consumers;

struct consumer *consumer_find(uint64_t number) {
    struct consumer *c = consumers;
    while (c && c->number != number) c = c->next;
    return c;
}

void consumer_wake(const struct consumer *c) {
    if (!c->closing && cluster_runs(c->process)) world_wake(c->wake_fd);
}

struct feed *consumer_feed(const struct consumer *c, uint64_t number) {
    struct feed *f = c->feeds;
    while (f && f->number != number) f = f->next;
    return f;
}

static struct feed *feed_of(const struct consumer *c, const struct journal *j) {
    struct feed *f = c->feeds;
    while (f && f->journal != j) f = f->next;
    return f;
}

/* ---- answers ---- */

static void told_free(struct told *t) {
    for (size_t i = 0; i < t->n_topics; i++) free(t->topics[i]);
    free(t->topics);
    free(t->there);
    free(t->metadata);
    free(t);
}

static struct told *told_new(struct consumer *c, enum told_kind kind) {
    struct told *t = xcalloc(1, sizeof *t), **at = &c->told;
    t->number = cluster_number();
    t->kind = kind;
    while (*at) at = &(*at)->next;
    return *at = t;
}

static struct told *told_find(const struct consumer *c, uint64_t number) {
    struct told *t = c ? c->told : NULL;
    while (t && t->number != number) t = t->next;
    return t;
}

static void told_topics(struct told *t, const char *const *topics, size_t n) {
    t->topics = xcalloc(n + 1, sizeof *t->topics);
    t->there = xcalloc(n + 1, sizeof *t->there);
    t->n_topics = n;
    for (size_t i = 0; i < n; i++) t->topics[i] = xstrdup(topics[i]);
}

/* Of all three below: a is the consumer, b what it is to be told. */
static void answer(struct about about) {
    struct consumer *c = consumer_find(about.a);
    struct told *t = told_find(c, about.b);
    if (!t || !cluster_acts(c->process, answer, about)) return;
    t->ready = true;
    consumer_wake(c);
}

static void arrive_ask(struct about about) {
    struct consumer *c = consumer_find(about.a);
    struct told *t = told_find(c, about.b);
    const struct feed *f = t ? consumer_feed(c, t->feed) : NULL;
    if (!f) return;
    const struct journal *j = f->journal;
    t->known = !j->pending && !cluster_chance(cluster_faults()->unstable);
    t->offset = j->committed;
    t->metadata = xstrndup(j->metadata.p ? j->metadata.p : "", j->metadata.n);
    cluster_later(t->known ? cluster_latency() : ASK_MS * WORLD_MS, answer, about);
}

#define LOOKS_REFUSED 10 /* they are rare */
static void arrive_look(struct about about) {
    struct told *t = told_find(consumer_find(about.a), about.b);
    if (!t) return;
    for (size_t i = 0; i < t->n_topics; i++)
        t->there[i] = journal_find(t->topics[i], 0) &&
                      !cluster_chance(LOOKS_REFUSED * cluster_faults()->no_access);
    t->known = true;
    cluster_later(cluster_latency(), answer, about);
}

/* A coordinator that is slow has not answered by then. */
void feed_ask_committed(struct feed *f) {
    struct consumer *c = f->consumer;
    struct told *t = told_new(c, TOLD_COMMITTED);
    int64_t us = cluster_coordinator();
    t->feed = f->number;
    bool late = us > ASK_MS * WORLD_MS;
    cluster_later(late ? ASK_MS * WORLD_MS : us, late ? answer : arrive_ask,
                  (struct about){.a = c->number, .b = t->number});
}

void consumer_look(struct consumer *c, const char *const *topics, size_t n) {
    struct told *t = told_new(c, TOLD_LOOKED);
    bool late = cluster_chance(cluster_faults()->slow_coordinator);
    told_topics(t, topics, n);
    cluster_later(late ? LOOK_MS * WORLD_MS : cluster_latency(), late ? answer : arrive_look,
                  (struct about){.a = c->number, .b = t->number});
}

static void tell_looked(const struct consumer *c, const struct told *t) {
    for (size_t i = 0; i < t->n_topics; i++) {
        enum broker_fault fault = !t->known     ? BROKER_OTHER
                                  : t->there[i] ? BROKER_FINE
                                                : BROKER_TOPIC;
        const char *error = fault == BROKER_FINE    ? NULL
                            : fault == BROKER_OTHER ? "timed out"
                                                    : "unknown topic or partition";
        c->events->looked(c->context, t->topics[i], fault, error);
    }
    c->events->looked(c->context, NULL, BROKER_FINE, NULL);
}

static void tell(const struct consumer *c, const struct told *t) {
    struct feed *f = consumer_feed(c, t->feed);
    struct committed committed = {t->known, t->known ? t->offset : -1, str_c(t->metadata)};
    if (!t->known) committed.metadata = (struct str){"", 0};
    if (t->kind == TOLD_LOOKED)
        tell_looked(c, t);
    else if (t->kind == TOLD_COMMITTED && f)
        c->events->committed(c->context, f, &committed);
    else if (t->kind == TOLD_MISSING)
        for (size_t i = 0; i < t->n_topics; i++)
            c->events->topic_failed(c->context, t->topics[i], "unknown topic or partition");
}

static void tell_all(struct consumer *c) {
    for (struct told **at = &c->told; *at;) {
        struct told *t = *at;
        if (!t->ready) {
            at = &t->next;
            continue;
        }
        *at = t->next;
        tell(c, t);
        told_free(t);
    }
}

/* ---- joining ---- */

static void arrive_join(struct about about) {
    struct consumer *c = consumer_find(about.a);
    if (c && !c->closing && c->joins == about.b) group_join(c);
}

/* The coordinator hears no more of it either. */
static bool falls_deaf(struct consumer *c) {
    c->deaf = c->deaf || (!c->feeds && cluster_chance(cluster_faults()->deaf));
    if (!c->deaf) return false;
    c->phase = MEMBER_OUT;
    c->member = 0;
    c->generation = -1;
    c->rejoin = c->synced = false;
    c->joins++;
    world_say("process %llu: a client joins no more", (unsigned long long)c->process);
    return true;
}

static void join(struct consumer *c) {
    if (falls_deaf(c)) return;
    c->phase = MEMBER_JOINING;
    c->rejoin = c->synced = false;
    c->joins++;
    cluster_later(cluster_coordinator(), arrive_join,
                  (struct about){.a = c->number, .b = c->joins});
}

void consumer_joined(struct about about) {
    struct consumer *c = consumer_find(about.a);
    if (!c || c->phase != MEMBER_JOINING || c->joins != about.d) return;
    if (!cluster_acts(c->process, consumer_joined, about)) return;
    c->member = about.b;
    c->generation = (int64_t)about.c;
    c->phase = MEMBER_JOINED;
    cluster_later(cluster_coordinator(), group_sync, (struct about){.a = about.b, .b = about.c});
}

void consumer_assigned(struct about about) {
    struct consumer *c = consumer_find(about.a);
    if (!c || c->phase != MEMBER_JOINED || c->joins != about.d || c->synced) return;
    if (!cluster_acts(c->process, consumer_assigned, about)) return;
    c->synced = true;
    consumer_wake(c);
}

void consumer_put_out(struct about about) {
    struct consumer *c = consumer_find(about.a);
    bool unnamed = c && !c->member && c->phase == MEMBER_JOINING && c->joins == about.d;
    if (!c || c->fatal || (c->member != about.b && !unnamed)) return;
    if (!cluster_acts(c->process, consumer_put_out, about)) return;
    c->fatal = about.c;
    c->put_out = !c->fatal;
    c->phase = MEMBER_OUT;
    c->member = 0;
    c->generation = -1;
    c->synced = c->rejoin = false;
    consumer_wake(c);
}

/* What has nothing to be given back first joins on the client's own thread; while the lane is being
 * told of the last round, none does (RD_KAFKA_CGRP_REBALANCING in librdkafka's rdkafka_cgrp.c). */
void consumer_told(struct consumer *c) {
    bool steady = c->phase == MEMBER_STEADY;
    bool nothing = !c->calling && (!consumer_is_eager(c) || !c->feeds);
    if (c->closing || c->phase == MEMBER_OUT || c->phase == MEMBER_JOINING) return;
    if (steady ? nothing : !c->synced && !c->taking) {
        join(c);
    } else if (!c->rejoin) {
        c->rejoin = true;
        consumer_wake(c);
    }
}

/* ---- rebalances, in the lane ---- */

static void drop(struct consumer *c, struct feed *f) {
    struct feed **at = &c->feeds;
    while (*at != f) at = &(*at)->next;
    *at = f->next;
    feed_free(f);
}

static void revoke(struct consumer *c, struct feed **gone, size_t n, bool lost, bool all) {
    world_say("process %llu: %zu partitions %s", (unsigned long long)c->process, n,
              lost ? "are lost" : "are revoked");
    c->events->revoked(c->context, gone, n, lost, all);
    for (size_t i = 0; i < n; i++) drop(c, gone[i]);
}

static void revoke_all(struct consumer *c, bool lost) {
    size_t n = 0;
    for (struct feed *f = c->feeds; f; f = f->next) n++;
    if (!n) return;
    struct feed **gone = xcalloc(n, sizeof *gone), **at = gone;
    for (struct feed *f = c->feeds; f; f = f->next) *at++ = f;
    revoke(c, gone, n, lost, true);
    free(gone);
}

static bool any_pending(const struct assigned *list, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (list[i].feed->journal->pending) return true;
    return false;
}

static void snapshot(struct assigned *a) {
    const struct journal *j = a->feed->journal;
    char *text = xstrndup(j->metadata.p ? j->metadata.p : "", j->metadata.n);
    a->committed = (struct committed){true, j->committed, {text, j->metadata.n}};
}

/* The broker answers for all or for none. What it says may be old by the time that it arrives. */
static void ask_committed(struct assigned *list, size_t n) {
    int64_t us = cluster_coordinator(), end = world_us() + CONSUMER_COMMITTED_MS * WORLD_MS;
    bool refused =
        cluster_chance(cluster_faults()->unstable) || us > CONSUMER_COMMITTED_MS * WORLD_MS;
    world_block(refused ? CONSUMER_COMMITTED_MS * WORLD_MS : us);
    while (!refused && any_pending(list, n) && world_us() < end) world_block(10 * WORLD_MS);
    if (refused || any_pending(list, n)) return;
    for (size_t i = 0; i < n; i++) snapshot(&list[i]);
    world_block(cluster_latency());
}

static void forget(struct assigned *list, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (list[i].committed.known) free((char *)(uintptr_t)list[i].committed.metadata.p);
    free(list);
}

static void assign(struct consumer *c, struct journal *const *come, size_t n) {
    struct assigned *list = xcalloc(n + 1, sizeof *list);
    for (size_t i = 0; i < n; i++) {
        struct feed **at = &c->feeds;
        while (*at) at = &(*at)->next;
        *at = feed_new(c, come[i]);
        list[i] = (struct assigned){.topic = come[i]->topic, .partition = come[i]->id, .feed = *at};
        list[i].committed = (struct committed){false, -1, {"", 0}};
    }
    if (n) ask_committed(list, n);
    world_say("process %llu: %zu partitions are assigned", (unsigned long long)c->process, n);
    c->events->assigned(c->context, list, n);
    if (consumer_is_eager(c))
        for (struct feed *f = c->feeds; f; f = f->next) feed_stored(f);
    forget(list, n);
}

static bool is_among(struct journal *const *list, size_t n, const struct journal *j) {
    for (size_t i = 0; i < n; i++)
        if (list[i] == j) return true;
    return false;
}

/* Cooperative: what is to go elsewhere is given back, and then there is another round. */
static bool revoke_others(struct consumer *c, struct journal *const *given, size_t n_given) {
    size_t n = 0;
    for (struct feed *f = c->feeds; f; f = f->next) n++;
    struct feed **gone = xcalloc(n + 1, sizeof *gone);
    n = 0;
    for (struct feed *f = c->feeds; f; f = f->next)
        if (!is_among(given, n_given, f->journal)) gone[n++] = f;
    if (n) revoke(c, gone, n, false, consumer_is_eager(c));
    free(gone);
    return n;
}

static void take(struct consumer *c, struct journal **given, size_t n) {
    bool went = revoke_others(c, given, n);
    c->rejoin = c->rejoin || went;
    if (c->put_out || c->fatal) return;
    c->phase = MEMBER_STEADY;
    size_t come = 0;
    for (size_t i = 0; i < n; i++)
        if (!feed_of(c, given[i])) given[come++] = given[i];
    if (come || !went) assign(c, given, come);
}

static void take_over(struct consumer *c) {
    size_t n = 0;
    struct journal *const *given = group_given(c->member, c->generation, &n);
    c->synced = false;
    if (!given) return; /* it is told why next */
    struct journal **list = xcalloc(n + 1, sizeof *list);
    if (n) memcpy(list, given, n * sizeof *list);
    c->taking = true;
    take(c, list, n);
    c->taking = false;
    free(list);
}

static void give_back(struct consumer *c) {
    if (consumer_is_eager(c)) revoke_all(c, false);
    if (!c->put_out && !c->fatal) join(c);
}

static void lose(struct consumer *c) {
    c->put_out = false;
    revoke_all(c, true);
    join(c);
}

static void serve(struct consumer *c) {
    if (c->put_out) lose(c);
    if (c->synced) take_over(c);
    if (c->rejoin && c->phase == MEMBER_STEADY) give_back(c);
}

static void tell_of_brokers(const struct consumer *c) {
    unsigned often = cluster_faults()->no_access;
    if (!often || !cluster_chance(often)) return;
    if (cluster_chance(500))
        c->events->client_failed(c->context, BROKER_CREDENTIALS, "authentication failed");
    else
        c->events->client_failed(c->context, BROKER_OTHER, "all brokers are down");
}

void consumer_poll(struct consumer *c) {
    c->polled_us = world_us();
    if (c->calling || c->fatal || c->closing) return;
    c->calling = true;
    tell_of_brokers(c);
    tell_all(c);
    serve(c);
    c->calling = false;
    c->polled_us = world_us();
}

/* ---- life ---- */

struct consumer *consumer_new(const struct config *cfg, int lane, int64_t partitions, int wake_fd,
                              const struct consumer_events *events, void *context,
                              struct buf *err) {
    struct consumer *c = xcalloc(1, sizeof *c);
    (void)partitions;
    (void)err;
    c->number = cluster_number();
    c->process = world_process();
    c->wake_fd = wake_fd;
    c->events = events;
    c->context = context;
    c->generation = -1;
    c->polled_us = world_us();
    if (cfg->slot[0]) snprintf(c->instance, sizeof c->instance, "%s-%d", cfg->slot, lane);
    *last = c;
    last = &c->next;
    return c;
}

bool consumer_check(const struct config *cfg, struct buf *err) {
    (void)cfg;
    (void)err;
    return true;
}

static void forget_topics(struct consumer *c) {
    for (size_t i = 0; i < c->n_topics; i++) free(c->topics[i]);
    free(c->topics);
}

static void tell_missing(struct consumer *c) {
    const char **missing = xcalloc(c->n_topics + 1, sizeof *missing);
    size_t n = 0;
    for (size_t i = 0; i < c->n_topics; i++)
        if (!journal_find(c->topics[i], 0)) missing[n++] = c->topics[i];
    if (n) {
        struct told *t = told_new(c, TOLD_MISSING);
        told_topics(t, missing, n);
        cluster_later(cluster_latency(), answer, (struct about){.a = c->number, .b = t->number});
    }
    free(missing);
}

void consumer_subscribe(struct consumer *c, const char *const *topics, size_t n) {
    forget_topics(c);
    c->topics = xcalloc(n + 1, sizeof *c->topics);
    c->n_topics = n;
    for (size_t i = 0; i < n; i++) c->topics[i] = xstrdup(topics[i]);
    tell_missing(c);
    if (!c->joins) {
        join(c);
    } else {
        c->rejoin = true;
        consumer_wake(c);
    }
}

/* Who has what is asked of the model itself (fleet.c). */
void consumer_member(const struct consumer *c, char *ret, size_t size) {
    (void)c;
    if (size) *ret = '\0';
}

bool consumer_is_fatal(const struct consumer *c, char *ret_text, size_t size) {
    if (c->fatal) snprintf(ret_text, size, "fenced: another member has its group.instance.id");
    return c->fatal;
}

static void forget_told(struct consumer *c) {
    for (struct told *t; (t = c->told);) {
        c->told = t->next;
        told_free(t);
    }
}

/* A static member leaves nothing: it is expected back. Nor can one leave that was not told yet that
 * it is a member. */
void consumer_close(struct consumer *c) {
    c->closing = c->calling = true;
    revoke_all(c, c->put_out || c->fatal);
    world_block(cluster_latency());
    if (c->member && !consumer_is_eager(c)) group_leave(c->member);
    c->phase = MEMBER_OUT;
    c->member = 0;
    c->generation = -1;
    forget_told(c);
}

static void destroy(struct consumer *c) {
    while (c->feeds) drop(c, c->feeds);
    forget_told(c);
    forget_topics(c);
    free(c);
}

void consumer_free(struct consumer *c, bool held) {
    if (!c || held) return; /* then it stays until the cluster is closed */
    if (c->held) world_fail("a consumer is freed while %zu of its messages are held", c->held);
    struct consumer **at = &consumers;
    while (*at != c) at = &(*at)->next;
    *at = c->next;
    if (!*at) last = at;
    destroy(c);
}

/* It fetches nothing any more. What it had is its member's until that is put out. */
void consumers_crashed(uint64_t process) {
    for (struct consumer *c = consumers; c; c = c->next) {
        if (c->process != process) continue;
        c->crashed = true;
        for (struct feed *f = c->feeds; f; f = f->next) f->reading = false;
    }
}

void consumers_close(void) {
    for (struct consumer *c; (c = consumers);) {
        consumers = c->next;
        destroy(c);
    }
    last = &consumers;
}

/* ---- membership ---- */

bool consumer_membership(const struct consumer *c, struct membership *ret) {
    if (!c->member || c->generation < 0) return false;
    *ret = (struct membership){c->number, c->member, c->generation};
    return true;
}

struct txn *txn_new_member(const struct consumer *c) {
    struct membership m;
    if (!consumer_membership(c, &m)) return NULL;
    struct txn *txn = txn_new();
    txn->membership = xmalloc(sizeof m);
    txn->membership_len = sizeof m;
    memcpy(txn->membership, &m, sizeof m);
    return txn;
}

enum renewal consumer_renewal(const struct consumer *c, const struct txn *txn) {
    struct membership now, then;
    memcpy(&then, txn->membership, sizeof then);
    if (!consumer_membership(c, &now) || now.member != then.member) return RENEWAL_OVER;
    if (now.generation == then.generation) return RENEWAL_NONE;
    return c->calling ? RENEWAL_OVER : RENEWAL_LATER;
}
