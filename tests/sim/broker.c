#include "tests/sim/broker.h"

#include <stdlib.h>

#include "tests/sim/cluster.h"
#include "tests/sim/world.h"

#define FROZEN_US (100 * WORLD_MS) /* how soon a process that wakes is at work again */
#define SLOW_LEAST_US (1 * WORLD_S)
#define SLOW_MOST_US (6 * WORLD_S)
/* A task's handle: its place, and above that its number. */
#define PLACE_BITS 20

struct task {
    uint64_t number; /* 0: the place is free */
    task_fn *fn;
    struct about about;
};

#define FOUND 509
static struct cluster {
    struct broker_faults faults;
    bool calm;
    struct task *tasks;
    size_t n_tasks, cap_tasks;
    size_t *places; /* free ones, a stack as long as there are tasks */
    size_t n_places;
    struct journal **journals; /* a topic's partitions stand together, in order */
    size_t n_journals;
    struct journal *found[FOUND]; /* by a hash of the name: what was looked for last */
    struct journal **graves; /* of topics that were made anew: what was fetched is still read */
    size_t n_graves;
    uint64_t numbers;
} cluster;
/* Of tasks; goes on from one cluster to the next, so that a task of the last one finds nothing. */
static uint64_t handles;

/* ---- tasks and chance ---- */

uint64_t cluster_number(void) {
    return ++cluster.numbers;
}

static void run_task(void *handle) {
    uint64_t value = (uintptr_t)handle, place = value & ((1U << PLACE_BITS) - 1);
    if (place >= cluster.n_tasks) return;
    struct task task = cluster.tasks[place];
    if (!task.number || task.number != value >> PLACE_BITS) return;
    cluster.tasks[place].number = 0;
    cluster.places[cluster.n_places++] = place;
    task.fn(task.about);
}

static size_t free_place(void) {
    if (cluster.n_places) return cluster.places[--cluster.n_places];
    if (cluster.n_tasks == cluster.cap_tasks) {
        cluster.cap_tasks = cluster.cap_tasks ? cluster.cap_tasks * 2 : 64;
        cluster.tasks = xrealloc(cluster.tasks, cluster.cap_tasks * sizeof *cluster.tasks);
        cluster.places = xrealloc(cluster.places, cluster.cap_tasks * sizeof *cluster.places);
    }
    if (cluster.n_tasks >> PLACE_BITS) abort();
    return cluster.n_tasks++;
}

void cluster_later(int64_t us, task_fn *fn, struct about about) {
    size_t place = free_place();
    cluster.tasks[place] = (struct task){++handles, fn, about};
    world_after(us, run_task, (void *)(uintptr_t)(handles << PLACE_BITS | place));
}

bool cluster_runs(uint64_t process) {
    return world_is_alive(process) && !world_is_frozen(process);
}

bool cluster_acts(uint64_t process, task_fn *fn, struct about about) {
    if (!world_is_alive(process)) return false;
    if (!world_is_frozen(process)) return true;
    cluster_later(FROZEN_US, fn, about);
    return false;
}

const struct broker_faults *cluster_faults(void) {
    return &cluster.faults;
}

bool cluster_chance(unsigned permille) {
    return !cluster.calm && permille && world_chance(permille);
}

int64_t cluster_latency(void) {
    int64_t most = cluster.faults.latency_us / 2;
    return cluster.calm || most < 2 ? most / 2 : world_between(most / 8, most);
}

int64_t cluster_coordinator(void) {
    if (cluster_chance(cluster.faults.slow_coordinator))
        return world_between(SLOW_LEAST_US, SLOW_MOST_US);
    return cluster_latency();
}

int64_t cluster_ms(void) {
    return WORLD_EPOCH_MS + world_us() / WORLD_MS;
}

/* ---- records ---- */

static size_t bytes_of(struct str s) {
    return s.p ? s.n + 1 : 0;
}

/* An empty text is not null, so that it has a place in the block, too. */
static struct str put(char **at, struct str s) {
    if (!s.p) return s;
    struct str ret = {*at, s.n};
    if (s.n) memcpy(*at, s.p, s.n);
    *at += s.n + 1;
    return ret;
}

struct stored *stored_new(struct str key, struct str value, const struct header *headers,
                          size_t n) {
    size_t bytes = sizeof(struct stored) + n * sizeof *headers + bytes_of(key) + bytes_of(value);
    for (size_t i = 0; i < n; i++) bytes += bytes_of(headers[i].name) + bytes_of(headers[i].value);
    struct stored *s = xcalloc(1, bytes);
    s->headers = (struct header *)(void *)(s + 1);
    s->n_headers = n;
    char *at = (char *)(s->headers + n);
    s->key = put(&at, key);
    s->value = put(&at, value);
    for (size_t i = 0; i < n; i++)
        s->headers[i] = (struct header){put(&at, headers[i].name), put(&at, headers[i].value)};
    return s;
}

/* ---- logs ---- */

struct journal *journal_at(size_t index) {
    return index < cluster.n_journals ? cluster.journals[index] : NULL;
}

static bool is_named(const struct journal *j, const char *topic, int32_t partition) {
    return j && j->id == partition && strcmp(j->topic, topic) == 0;
}

struct journal *journal_find(const char *topic, int32_t partition) {
    uint32_t hash = (uint32_t)partition;
    for (const char *c = topic; *c; c++) hash = hash * 31 + (unsigned char)*c;
    struct journal **found = &cluster.found[hash % FOUND];
    if (is_named(*found, topic, partition)) return *found;
    for (size_t i = 0; i < cluster.n_journals; i++)
        if (is_named(cluster.journals[i], topic, partition)) return *found = cluster.journals[i];
    return NULL;
}

int64_t journal_stable(const struct journal *j) {
    int64_t stable = j->high;
    for (const struct part *p = j->open; p; p = p->next_open)
        if (p->first < stable) stable = p->first;
    return stable;
}

int64_t journal_next(const struct journal *j, int64_t from) {
    int64_t stable = journal_stable(j);
    for (int64_t at = from < j->low ? j->low : from; at < stable; at++) {
        const struct slot *s = &j->slots[at];
        if (s->record && !s->compacted && (!s->writer || writer_commits(s->writer))) return at;
    }
    return -1;
}

int64_t journal_time(const struct journal *j, int64_t time_ms) {
    for (int64_t at = j->low; at < j->high; at++)
        if (j->slots[at].time_ms >= time_ms) return at;
    return -1;
}

static void changed(const struct journal *j) {
    for (struct feed *f = j->feeds, *next; f; f = next) {
        next = f->next_reader;
        feed_notify(f);
    }
}

int64_t journal_append(struct journal *j, struct stored *record, struct writer *writer,
                       int64_t time_ms) {
    if (j->high == j->cap) {
        j->cap = j->cap ? j->cap * 2 : 64;
        j->slots = xrealloc(j->slots, (size_t)j->cap * sizeof *j->slots);
    }
    if (j->by_broker || !time_ms) time_ms = cluster_ms();
    j->slots[j->high++] = (struct slot){.record = record, .writer = writer, .time_ms = time_ms};
    changed(j);
    return j->high - 1;
}

static void journal_free(struct journal *j) {
    for (int64_t at = 0; at < j->high; at++) free(j->slots[at].record);
    free(j->slots);
    free(j->topic);
    buf_free(&j->metadata);
    free(j);
}

/* ---- the cluster ---- */

void broker_open(const struct broker_faults *faults) {
    cluster = (struct cluster){.faults = *faults};
    group_open();
}

void broker_close(void) {
    consumers_close();
    producers_close();
    searches_close();
    head_searches_close();
    fetched_close();
    group_close();
    transactions_close();
    for (size_t i = 0; i < cluster.n_journals; i++) journal_free(cluster.journals[i]);
    for (size_t i = 0; i < cluster.n_graves; i++) journal_free(cluster.graves[i]);
    free(cluster.journals);
    free(cluster.graves);
    free(cluster.tasks);
    free(cluster.places);
    cluster = (struct cluster){0};
}

void broker_calm(void) {
    cluster.calm = true;
}

static void make_partition(const char *topic, int32_t id, bool by_broker) {
    struct journal *j = xcalloc(1, sizeof *j);
    j->topic = xstrdup(topic);
    j->id = id;
    j->by_broker = by_broker;
    j->committed = -1;
    buf_init(&j->metadata, 4096);
    cluster.journals =
        xrealloc(cluster.journals, (cluster.n_journals + 1) * sizeof(struct journal *));
    cluster.journals[cluster.n_journals++] = j;
}

/* Half of the topics have message.timestamp.type=LogAppendTime. */
void broker_make_topic(const char *name, int32_t partitions) {
    bool by_broker = cluster_chance(500);
    for (int32_t i = broker_partitions(name); i < partitions; i++)
        make_partition(name, i, by_broker);
}

/* The log that is gone gets what it had, the one that has its name now begins with nothing. */
static void bury(struct journal *j) {
    struct journal *grave = xmalloc(sizeof *grave);
    *grave = *j;
    grave->topic = xstrdup(j->topic);
    grave->feeds = NULL;
    grave->gone = true;
    *j = (struct journal){.topic = j->topic,
                          .id = j->id,
                          .by_broker = j->by_broker,
                          .feeds = j->feeds,
                          .committed = -1,
                          .owner = j->owner};
    buf_init(&j->metadata, 4096);
    transactions_move(j, grave);
    cluster.graves = xrealloc(cluster.graves, (cluster.n_graves + 1) * sizeof(struct journal *));
    cluster.graves[cluster.n_graves++] = grave;
    changed(j);
}

void broker_make_anew(const char *topic) {
    for (int32_t i = 0, n = broker_partitions(topic); i < n; i++) bury(journal_find(topic, i));
}

void broker_crashed(uint64_t process) {
    consumers_crashed(process);
}

/* ---- the outside ---- */

static struct journal *must_find(const char *topic, int32_t partition) {
    struct journal *j = journal_find(topic, partition);
    if (!j) abort(); /* the world's mistake */
    return j;
}

int64_t broker_produce(const char *topic, int32_t partition, struct str key, struct str value,
                       const struct header *headers, size_t n, int64_t time_ms) {
    struct journal *j = must_find(topic, partition);
    return journal_append(j, stored_new(key, value, headers, n), NULL, time_ms);
}

/* The partition has a part in it at once, empty: the last stable offset stays before it. */
uint64_t broker_begin(const char *topic, int32_t partition) {
    struct writer *w = writer_new(NULL, 0);
    writer_add(w, must_find(topic, partition), NULL, 0);
    return writer_number(w);
}

int64_t broker_produce_in(uint64_t transaction, struct str key, struct str value,
                          const struct header *headers, size_t n) {
    struct writer *w = writer_find(transaction);
    if (!w) abort();
    return writer_add(w, NULL, stored_new(key, value, headers, n), 0);
}

void broker_end(uint64_t transaction, bool commit) {
    struct writer *w = writer_find(transaction);
    if (!w) abort();
    writer_end(w, commit);
}

void broker_remove(const char *topic, int32_t partition, int64_t before) {
    struct journal *j = must_find(topic, partition);
    int64_t low = before < j->high ? before : j->high;
    if (low <= j->low) return;
    j->low = low;
    changed(j);
}

void broker_compact(const char *topic, int32_t partition, int64_t offset) {
    must_find(topic, partition)->slots[offset].compacted = true;
}

void broker_commit(const char *topic, int32_t partition, int64_t offset, const char *metadata) {
    struct journal *j = must_find(topic, partition);
    j->committed = offset;
    j->committed_as = cluster_number();
    buf_clear(&j->metadata);
    buf_puts(&j->metadata, metadata);
}

/* ---- what judges ask ---- */

int32_t broker_partitions(const char *topic) {
    int32_t n = 0;
    while (journal_find(topic, n)) n++;
    return n;
}

bool broker_read(const char *topic, int32_t partition, int64_t from, struct broker_record *ret) {
    const struct journal *j = journal_find(topic, partition);
    int64_t at = j ? journal_next(j, from) : -1;
    if (at < 0) return false;
    const struct slot *s = &j->slots[at];
    *ret = (struct broker_record){
        at, s->time_ms, s->record->key, s->record->value, s->record->headers, s->record->n_headers};
    return true;
}

bool broker_ends(const char *topic, int32_t partition, int64_t *ret_low, int64_t *ret_high) {
    const struct journal *j = journal_find(topic, partition);
    if (!j) return false;
    *ret_low = j->low;
    *ret_high = j->high;
    return true;
}

int64_t broker_stable(const char *topic, int32_t partition) {
    const struct journal *j = journal_find(topic, partition);
    return j ? journal_stable(j) : 0;
}

int64_t broker_committed(const char *topic, int32_t partition, struct str *ret_metadata) {
    const struct journal *j = journal_find(topic, partition);
    if (ret_metadata) *ret_metadata = (struct str){"", 0};
    if (!j || j->committed < 0) return -1;
    if (ret_metadata) *ret_metadata = (struct str){j->metadata.p, j->metadata.n};
    return j->committed;
}

void broker_watch(broker_watch_fn *watch) {
    transactions_watch(watch);
}
