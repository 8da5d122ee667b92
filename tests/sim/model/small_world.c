#include "tests/sim/model/small_world.h"

#include <stdio.h>

#include "worker/base/clock.h"

/* ---- a small world ---- */

struct small_world world;

int64_t world_us(void) {
    return world.now;
}

int64_t clock_us(clockid_t clock) {
    return world.now + (clock == CLOCK_REALTIME ? WORLD_EPOCH_MS * WORLD_MS : 0);
}

int64_t clock_ms(clockid_t clock) {
    return clock_us(clock) / WORLD_MS;
}

void world_after(int64_t us, void (*fn)(void *), void *arg) {
    assert_true(us >= 0 && world.n < EVENTS);
    world.events[world.n++] = (struct event){world.now + us, ++world.number, fn, arg};
}

uint64_t world_draw(uint64_t n) {
    uint64_t z = world.random += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return (z ^ (z >> 31)) % n;
}

int64_t world_between(int64_t least, int64_t most) {
    return least + (int64_t)world_draw((uint64_t)(most - least) + 1);
}

bool world_chance(unsigned permille) {
    return world_draw(1000) < permille;
}

uint64_t world_process(void) {
    return world.process;
}

bool world_is_alive(uint64_t process) {
    return !world.dead[process];
}

bool world_is_frozen(uint64_t process) {
    return world.frozen[process];
}

void world_wake(int wake_fd) {
    (void)wake_fd;
}

bool world_breaks(const char *rule) {
    return world.broken && strcmp(world.broken, rule) == 0;
}

void world_say(const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (int i = 0; i < n; i++) world.digest = (world.digest ^ (uint8_t)text[i]) * 1099511628211U;
    world.digest ^= (uint64_t)world.now;
    if (getenv("TRACE")) printf("%10.6f %s\n", (double)world.now / 1e6, text);
}

void world_fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    world.failures++;
}

static struct event *soonest(void) {
    struct event *first = NULL;
    for (size_t i = 0; i < world.n; i++) {
        struct event *e = &world.events[i];
        if (!first || e->at < first->at || (e->at == first->at && e->number < first->number))
            first = e;
    }
    return first;
}

void run_until(int64_t until) {
    uint64_t process = world.process;
    for (struct event *e; (e = soonest()) && e->at <= until;) {
        struct event event = *e;
        *e = world.events[--world.n];
        world.now = event.at;
        world.process = 0;
        event.fn(event.arg);
    }
    world.now = until;
    world.process = process;
}

void world_block(int64_t us) {
    run_until(world.now + us);
}

/* ---- workers ---- */

struct worker workers[WORKERS];
uint64_t owners[PARTITIONS];
unsigned overlaps, strangers, commits, hasty;

static struct place *place_of(struct worker *w, const struct feed *feed) {
    for (size_t i = 0; i < w->n; i++)
        if (w->places[i].feed == feed) return &w->places[i];
    return NULL;
}

static void load(struct worker *w, struct place *p, const struct committed *c) {
    p->loaded = true;
    snprintf(w->metadata, sizeof w->metadata, "%.*s", (int)c->metadata.n, c->metadata.p);
    feed_start(p->feed, c->offset < 0 ? FEED_BEGINNING : c->offset);
}

static void on_assigned(void *worker, const struct assigned *v, size_t n) {
    struct worker *w = worker;
    w->assigned++;
    for (size_t i = 0; i < n; i++) {
        struct place *p = &w->places[w->n++];
        *p = (struct place){.feed = v[i].feed, .partition = v[i].partition, .from = -1};
        snprintf(p->topic, sizeof p->topic, "%s", v[i].topic);
        if (owners[p->partition] && world_is_alive(owners[p->partition]) &&
            !world_is_frozen(owners[p->partition]))
            overlaps++;
        owners[p->partition] = w->process;
        w->known += v[i].committed.known;
        w->unknown += !v[i].committed.known;
        if (v[i].committed.known) load(w, p, &v[i].committed);
    }
}

static void on_revoked(void *worker, struct feed *const *v, size_t n, bool lost, bool all) {
    struct worker *w = worker;
    (void)all;
    w->revoked++;
    w->lost += lost;
    if (w->revoke_ms) world_block(w->revoke_ms * WORLD_MS);
    for (size_t i = 0; i < n; i++) {
        struct place *p = place_of(w, v[i]);
        hasty += !lost && !w->consumer->put_out && v[i]->journal->owner != w->consumer->member;
        if (owners[p->partition] == w->process) owners[p->partition] = 0;
        *p = w->places[--w->n];
    }
}

static void on_committed(void *worker, struct feed *feed, const struct committed *c) {
    struct worker *w = worker;
    struct place *p = place_of(w, feed);
    w->known += c->known;
    w->unknown += !c->known;
    if (p && !p->loaded && c->known) load(w, p, c);
}

static void on_looked(void *worker, const char *topic, enum broker_fault fault, const char *error) {
    struct worker *w = worker;
    (void)error;
    if (topic) w->known += fault == BROKER_FINE;
    if (topic) w->unknown += fault == BROKER_TOPIC;
}

static void on_topic_failed(void *worker, const char *topic, const char *error) {
    struct worker *w = worker;
    (void)topic;
    (void)error;
    w->unknown++;
}

static const struct consumer_events events = {.assigned = on_assigned,
                                              .revoked = on_revoked,
                                              .committed = on_committed,
                                              .looked = on_looked,
                                              .topic_failed = on_topic_failed};

static void watch(const char *topic, int32_t partition, int64_t offset, struct str metadata,
                  uint64_t process, bool owner, bool gone) {
    (void)topic;
    (void)partition;
    (void)offset;
    (void)metadata;
    (void)process;
    (void)gone;
    commits++;
    strangers += !owner;
}

void join_group(struct worker *w) {
    static const char *const topics[] = {"in"};
    char id[64];
    snprintf(id, sizeof id, "g/%s%llu", w->slot, w->slot[0] ? 0 : (unsigned long long)w->process);
    world.process = w->process;
    w->producer = producer_new(&w->cfg, id, 0, NULL);
    w->consumer = consumer_new(&w->cfg, 0, 8, 0, &events, w, NULL);
    consumer_subscribe(w->consumer, topics, 1);
    world.process = 0;
}

struct worker *start(int number, const char *slot) {
    struct worker *w = &workers[number];
    *w = (struct worker){.process = ++world.processes};
    assert_true(world.processes < PROCESSES);
    snprintf(w->slot, sizeof w->slot, "%s", slot);
    w->cfg = (struct config){.slot = w->slot, .group = (char *)(uintptr_t) "g"};
    join_group(w);
    return w;
}

void kill_worker(struct worker *w) {
    world.dead[w->process] = true;
    broker_crashed(w->process);
    w->consumer = NULL;
    w->job = NULL; /* the producer's */
}

static bool runs(const struct worker *w) {
    return w->consumer && world_is_alive(w->process) && !world_is_frozen(w->process);
}

static void turn(struct worker *w) {
    world.process = w->process;
    consumer_poll(w->consumer);
    for (size_t i = 0; i < w->n; i++)
        if (!w->places[i].loaded && world_chance(100)) feed_ask_committed(w->places[i].feed);
    if (w->also) w->also(w);
    world.process = 0;
}

void run(int64_t ms) {
    for (int64_t end = world.now + ms * WORLD_MS; world.now < end;) {
        run_until(world.now + TURN_MS * WORLD_MS);
        for (size_t i = 0; i < WORKERS; i++)
            if (runs(&workers[i])) turn(&workers[i]);
    }
}

const struct broker_faults calm = {
    .latency_us = 10000, .session_us = 10000000, .txn_timeout_us = 20000000};

void open_with(struct broker_faults faults, uint64_t seed) {
    memset(&world, 0, sizeof world);
    memset(workers, 0, sizeof workers);
    memset(owners, 0, sizeof owners);
    overlaps = strangers = commits = hasty = 0;
    world.random = seed;
    broker_open(&faults);
    broker_watch(watch);
    broker_make_topic("in", PARTITIONS);
    broker_make_topic("out", 1);
}

int open_calm(void **state) {
    (void)state;
    open_with(calm, 1);
    return 0;
}

int close_all(void **state) {
    (void)state;
    broker_close();
    return 0;
}

int64_t produce(int32_t partition, const char *value) {
    return broker_produce("in", partition, str_c(NULL), str_c(value), NULL, 0, 0);
}

const char *seen(const char *topic, int32_t partition) {
    static char text[1024];
    struct broker_record r;
    size_t n = 0;
    text[0] = '\0';
    for (int64_t at = 0; broker_read(topic, partition, at, &r); at = r.offset + 1)
        n += (size_t)snprintf(text + n, sizeof text - n, "%.*s%d ", (int)r.value.n, r.value.p,
                              (int)r.offset);
    return text;
}

struct place *place(struct worker *w, int32_t partition) {
    for (size_t i = 0; i < w->n; i++)
        if (w->places[i].partition == partition) return &w->places[i];
    fail_msg("the partition is not assigned");
    return NULL;
}

struct txn *transaction(struct worker *w, const char *value, int32_t partition, int64_t offset,
                        const char *metadata) {
    world.process = w->process;
    struct txn *job = txn_new_member(w->consumer);
    world.process = 0;
    assert_non_null(job);
    struct txn_record *r = txn_add(job);
    r->topic = "out";
    r->value = value;
    r->value_len = strlen(value);
    txn_offset(job, "in", partition, offset, metadata);
    return job;
}

void submit(struct worker *w, struct txn *job) {
    world.process = w->process;
    producer_submit(w->producer, job);
    world.process = 0;
}

enum txn_result result_of(struct worker *w) {
    struct txn *job = NULL;
    for (int i = 0; i < 5000 && !(job = producer_take(w->producer)); i++) run(TURN_MS);
    assert_non_null(job);
    enum txn_result result = job->result;
    txn_free(job);
    return result;
}

enum txn_result settle(struct worker *w, const char *value, int64_t offset) {
    submit(w, transaction(w, value, 0, offset, "m"));
    return result_of(w);
}

void run_until_pending(void) {
    for (int i = 0; i < 100000 && !journal_find("in", 0)->pending; i++)
        run_until(world.now + WORLD_MS);
    assert_int_equal(journal_find("in", 0)->pending, 1);
}

int64_t stable(const char *topic, int32_t partition) {
    return journal_stable(journal_find(topic, partition));
}

const char *read_feed(struct feed *f) {
    static char text[1024];
    struct feed_head head;
    size_t n = 0;
    text[0] = '\0';
    for (enum feed_next next; (next = feed_peek(f, &head)) != FEED_NOTHING;) {
        n += (size_t)snprintf(text + n, sizeof text - n, "%c%d ", "_MEAF"[next], (int)head.offset);
        if (next == FEED_MESSAGE) fetched_free(feed_take(f));
    }
    return text;
}
