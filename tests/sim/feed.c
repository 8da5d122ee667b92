/* A partition's messages on their way to the lane: from the log into the client's queue some time
 * after they can be seen, and from there, when the lane looks, into its stash. */
#include <stdlib.h>

#include "tests/sim/cluster.h"
#include "tests/sim/world.h"
#include "worker/base/clock.h"

#define FETCH_MOST 64
#define STASH_BYTES ((size_t)32 << 10)
#define STORED_AGAIN_US (100 * WORLD_MS)

/* A copy, so that whoever uses it after it was freed is found out. */
struct fetched {
    struct stored *record;
    int64_t offset, time_ms;
    bool by_broker;
    uint64_t consumer; /* 0: not taken */
    struct fetched *next, **at;
};

static struct fetched *fetched;

/* ---- messages ---- */

static struct fetched *fetched_new(const struct journal *j, const struct fetch *it) {
    struct fetched *m = xcalloc(1, sizeof *m);
    const struct stored *r = it->record;
    m->record = stored_new(r->key, r->value, r->headers, r->n_headers);
    m->offset = it->offset;
    m->time_ms = it->time_ms;
    m->by_broker = j->by_broker;
    m->next = fetched;
    if (fetched) fetched->at = &m->next;
    m->at = &fetched;
    return fetched = m;
}

void fetched_free(struct fetched *m) {
    if (!m) return;
    struct consumer *c = m->consumer ? consumer_find(m->consumer) : NULL;
    if (c) c->held--;
    if (m->next) m->next->at = m->at;
    *m->at = m->next;
    free(m->record);
    free(m);
}

void fetched_close(void) {
    while (fetched) fetched_free(fetched);
}

int64_t fetched_offset(const struct fetched *m) {
    return m->offset;
}

int64_t fetched_time_ms(const struct fetched *m, bool *ret_by_broker) {
    if (ret_by_broker) *ret_by_broker = m->by_broker;
    return m->time_ms;
}

struct str fetched_key(const struct fetched *m) {
    return m->record->key;
}

struct str fetched_value(const struct fetched *m) {
    return m->record->value;
}

struct str fetched_header(const struct fetched *m, const char *name) {
    for (size_t i = m->record->n_headers; i-- > 0;)
        if (str_is(m->record->headers[i].name, name)) return m->record->headers[i].value;
    return (struct str){NULL, 0};
}

void fetched_message(const struct fetched *m, struct arena *arena, struct message *ret) {
    const struct stored *r = m->record;
    struct header *headers = NULL;
    if (r->n_headers) {
        headers = arena_alloc(arena, r->n_headers * sizeof *headers);
        memcpy(headers, r->headers, r->n_headers * sizeof *headers);
    }
    *ret = (struct message){.value = r->value, .headers = headers, .n_headers = r->n_headers};
}

/* ---- fetching ---- */

static void push(struct feed *f, enum feed_next what, int64_t offset) {
    struct fetch it = {.what = what, .offset = offset};
    if (what == FEED_MESSAGE) {
        it.record = f->journal->slots[offset].record;
        it.time_ms = f->journal->slots[offset].time_ms;
    }
    f->queue[(f->queue_at + f->queue_n++) % QUEUE_MAX] = it;
}

/* Where a position that is none by itself turns out to be. False: not yet, or nowhere. */
static bool find_position(struct feed *f) {
    const struct journal *j = f->journal;
    if (f->at == FEED_BEGINNING) f->at = j->low;
    if (f->at == FEED_STORED && !j->pending && j->committed >= 0) f->at = j->committed;
    bool known = f->at >= j->low && f->at <= j->high;
    if (known && !cluster_chance(cluster_faults()->astray)) return true;
    if (f->at == FEED_STORED && j->pending) return false;
    world_say("process %llu: the position of %s/%d is refused",
              (unsigned long long)f->consumer->process, j->topic, (int)j->id);
    push(f, FEED_ASTRAY, 0);
    f->astray = true;
    return false;
}

/* Until its reader moves. */
static bool may_read(struct feed *f) {
    if (!cluster_chance(cluster_faults()->no_access)) return true;
    world_say("process %llu: %s/%d may not be read", (unsigned long long)f->consumer->process,
              f->journal->topic, (int)f->journal->id);
    push(f, FEED_FAILED, 0);
    f->astray = true;
    return false;
}

static void read_on(struct feed *f) {
    const struct journal *j = f->journal;
    int64_t n = cluster_chance(1000) ? world_between(1, FETCH_MOST) : FETCH_MOST, stable, next = -1;
    while (n-- > 0 && f->queue_n + 1 < QUEUE_MAX && (next = journal_next(j, f->at)) >= 0) {
        push(f, FEED_MESSAGE, next);
        f->at = next + 1;
    }
    stable = journal_stable(j);
    /* Markers, and what was aborted. */
    if (f->at < stable && journal_next(j, f->at) < 0) f->at = stable;
    if (f->at < stable || f->told == f->at) return;
    push(f, FEED_END, f->at);
    f->told = f->at;
}

/* a: the consumer, b: the feed. */
static void fetch(struct about about) {
    struct consumer *c = consumer_find(about.a);
    struct feed *f = c ? consumer_feed(c, about.b) : NULL;
    if (!f || !cluster_acts(c->process, fetch, about)) return;
    size_t before = f->queue_n;
    f->fetching = false;
    if (!f->reading || f->astray) return;
    f->low = f->journal->low;
    f->high = f->journal->high;
    if (find_position(f) && may_read(f)) read_on(f);
    if (f->queue_n > before) consumer_wake(c);
    feed_notify(f);
}

static bool has_news(const struct feed *f) {
    const struct journal *j = f->journal;
    return f->at < j->low || f->at > j->high || f->at < journal_stable(j) || f->told != f->at ||
           f->low != j->low || f->high != j->high;
}

/* One fetch at a time, as long as there is room. */
void feed_notify(struct feed *f) {
    bool waits = f->at == FEED_STORED && f->journal->pending;
    if (!f->reading || f->astray || f->fetching || f->queue_n > QUEUE_MAX / 2 || !has_news(f))
        return;
    f->fetching = true;
    cluster_later(waits ? STORED_AGAIN_US : 2 * cluster_latency(), fetch,
                  (struct about){.a = f->consumer->number, .b = f->number});
}

/* ---- positions ---- */

struct feed *feed_new(struct consumer *c, struct journal *j) {
    struct feed *f = xcalloc(1, sizeof *f), **at = &j->feeds;
    f->consumer = c;
    f->journal = j;
    f->number = cluster_number();
    f->high = f->told = -1;
    while (*at) at = &(*at)->next_reader;
    return *at = f;
}

static void clear(struct feed *f) {
    fetched_free(f->head);
    f->head = NULL;
    f->stash_at = f->stash_n = f->queue_n = 0;
}

void feed_free(struct feed *f) {
    struct feed **at = &f->journal->feeds;
    while (*at != f) at = &(*at)->next_reader;
    *at = f->next_reader;
    clear(f);
    free(f);
}

static void begin(struct feed *f, int64_t offset) {
    clear(f);
    f->at = f->taken = offset;
    f->told = -1;
    f->astray = false;
    f->reading = true;
    feed_notify(f);
}

void feed_stored(struct feed *f) {
    if (!f->reading) begin(f, FEED_STORED);
}

/* One that is read already began with the committed offset (eager), which this is. */
void feed_start(struct feed *f, int64_t offset) {
    if (f->reading)
        f->taken = offset;
    else
        begin(f, offset);
}

/* The eager protocol knows no single partition: all are handed over again. */
void feed_move(struct feed *f, int64_t offset) {
    begin(f, offset);
    if (!consumer_is_eager(f->consumer)) return;
    for (struct feed *other = f->consumer->feeds; other; other = other->next)
        if (other != f && other->reading) begin(other, other->taken);
}

/* ---- the lane's ---- */

static size_t size_of(const struct fetch *it) {
    return it->record ? it->record->key.n + it->record->value.n : 0;
}

static bool refill(struct feed *f) {
    size_t bytes = 0;
    f->stash_at = f->stash_n = 0;
    while (f->queue_n && f->stash_n < STASH_MAX && bytes < STASH_BYTES) {
        struct fetch *it = &f->queue[f->queue_at];
        bytes += size_of(it);
        f->stash[f->stash_n++] = *it;
        f->queue_at = (f->queue_at + 1) % QUEUE_MAX;
        f->queue_n--;
    }
    if (!f->stash_n) return false;
    f->filled_ms = clock_ms(CLOCK_MONOTONIC);
    f->filled_wall_ms = clock_ms(CLOCK_REALTIME);
    feed_notify(f);
    return true;
}

enum feed_next feed_peek(struct feed *f, struct feed_head *ret) {
    if (f->stash_at == f->stash_n && !refill(f)) return FEED_NOTHING;
    const struct fetch *it = &f->stash[f->stash_at];
    *ret = (struct feed_head){.offset = it->offset};
    if (it->what == FEED_MESSAGE) {
        if (!f->head) f->head = fetched_new(f->journal, it);
        ret->message = f->head;
        return FEED_MESSAGE;
    }
    f->stash_at++;
    if (it->what == FEED_END) f->taken = it->offset;
    if (it->what == FEED_FAILED) ret->error = "topic authorization failed";
    return it->what;
}

struct fetched *feed_take(struct feed *f) {
    struct fetched *m = f->head;
    if (!m) abort(); /* nothing was shown */
    f->head = NULL;
    f->stash_at++;
    f->taken = m->offset + 1;
    m->consumer = f->consumer->number;
    f->consumer->held++;
    return m;
}

size_t feed_waiting(const struct feed *f) {
    size_t n = 0;
    for (size_t i = f->stash_at; i < f->stash_n; i++) n += f->stash[i].what == FEED_MESSAGE;
    return n;
}

void feed_filled(const struct feed *f, int64_t *ret_ms, int64_t *ret_wall_ms) {
    *ret_ms = f->filled_ms;
    *ret_wall_ms = f->filled_wall_ms;
}

bool feed_ends(const struct feed *f, int64_t *ret_low, int64_t *ret_high) {
    if (f->high < 0) return false;
    *ret_low = f->low;
    *ret_high = f->high;
    return true;
}

/* Waits until the question has arrived. False: nobody answers. */
static bool ask(void) {
    bool silent = cluster_chance(cluster_faults()->slow_coordinator);
    world_block(silent ? FEED_ASK_MS * WORLD_MS : cluster_latency());
    return !silent;
}

bool feed_ask_ends(struct feed *f, int64_t *ret_low, int64_t *ret_high) {
    if (!ask()) return false;
    int64_t low = f->journal->low, high = f->journal->high;
    world_block(cluster_latency());
    *ret_low = low;
    *ret_high = high;
    return true;
}

bool feed_ask_time(struct feed *f, int64_t time_ms, int64_t *ret_offset) {
    if (!ask()) return false;
    int64_t at = journal_time(f->journal, time_ms);
    *ret_offset = at < journal_stable(f->journal) ? at : -1;
    world_block(cluster_latency());
    return true;
}
