/* The transaction coordinator. A transaction that is ended is so at once, for its coordinator; its
 * markers arrive one by one, each partition's and that of the group's offsets, and until the last
 * one is there the same identity begins no other. */
#include <stdlib.h>

#include "tests/sim/cluster.h"
#include "tests/sim/world.h"

enum verdict_of { WRITER_OPEN, WRITER_COMMITTED, WRITER_ABORTED };

/* An offset that the transaction carries. */
struct pledge {
    struct journal *journal;
    int64_t offset;
    char *metadata;
    uint64_t as; /* the order in which they were sent: of two the later one stays */
    bool owner;
    struct pledge *next;
};

struct writer {
    uint64_t number, process;
    struct identity *identity; /* NULL: of the outside */
    enum verdict_of verdict;
    struct part *parts;
    struct pledge *pledges;
    size_t waits; /* for so many markers */
    struct writer *next;
};

struct identity {
    char *id;
    uint64_t epoch;
    struct writer *current; /* open, or not ended everywhere */
    struct identity *next;
};

/* Writers stay, since records point at them: the youngest first. */
static struct {
    struct writer *writers;
    struct identity *identities;
    broker_watch_fn *watch;
} all;

/* ---- the end ---- */

static void free_parts(struct writer *w) {
    for (struct part *p = w->parts, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    for (struct pledge *p = w->pledges, *next; p; p = next) {
        next = p->next;
        free(p->metadata);
        free(p);
    }
    w->parts = NULL;
    w->pledges = NULL;
}

static void landed(struct writer *w) {
    if (--w->waits) return;
    if (w->identity && w->identity->current == w) w->identity->current = NULL;
    free_parts(w);
}

static void close_part(struct part *p) {
    struct journal *j = p->journal;
    for (struct part **at = &j->open; *at; at = &(*at)->next_open)
        if (*at == p) {
            *at = p->next_open;
            break;
        }
    journal_append(j, NULL, p->writer, 0); /* tells the readers, for whom the end moves on */
}

/* a: the transaction, b: which of its partitions. */
static void land_part(struct about about) {
    struct writer *w = writer_find(about.a);
    struct part *p = w ? w->parts : NULL;
    for (uint64_t i = 0; p && i < about.b; i++) p = p->next;
    if (!p) return;
    close_part(p);
    landed(w);
}

static void take_offset(const struct writer *w, struct pledge *p) {
    struct journal *j = p->journal;
    j->pending--;
    if (w->verdict != WRITER_COMMITTED || p->as < j->committed_as) return;
    j->committed_as = p->as;
    j->committed = p->offset;
    buf_clear(&j->metadata);
    buf_puts(&j->metadata, p->metadata);
}

static void land_offsets(struct about about) {
    struct writer *w = writer_find(about.a);
    if (!w) return;
    for (struct pledge *p = w->pledges; p; p = p->next) take_offset(w, p);
    landed(w);
}

static void tell_watch(const struct writer *w) {
    for (const struct pledge *p = w->pledges; all.watch && p; p = p->next)
        all.watch(p->journal->topic, p->journal->id, p->offset, str_c(p->metadata), w->process,
                  p->owner, p->journal->gone);
}

static void land(const struct writer *w, task_fn *fn, uint64_t index) {
    struct about about = {w->number, index, 0};
    if (w->identity)
        cluster_later(cluster_coordinator(), fn, about);
    else
        fn(about);
}

void writer_end(struct writer *w, bool commit) {
    uint64_t index = 0;
    if (w->verdict != WRITER_OPEN) return;
    w->verdict = commit ? WRITER_COMMITTED : WRITER_ABORTED;
    if (commit) tell_watch(w);
    w->waits = 1; /* itself: what lands at once must not end it before the rest is under way */
    for (struct part *p = w->parts; p; p = p->next) w->waits++;
    if (w->pledges) w->waits++;
    size_t parts = w->waits - 1 - (w->pledges != NULL);
    for (; index < parts; index++) land(w, land_part, index);
    if (w->pledges) land(w, land_offsets, 0);
    landed(w);
}

/* ---- a transaction ---- */

/* The coordinator gives up on one that stays open, and fences who began it. It looks for them now
 * and then. */
static void expire(struct about about) {
    struct writer *w = writer_find(about.a);
    if (!w || w->verdict != WRITER_OPEN) return;
    world_say("transaction of %s: timed out", w->identity->id);
    w->identity->epoch++;
    writer_end(w, false);
}

struct writer *writer_new(struct identity *identity, uint64_t process) {
    struct writer *w = xcalloc(1, sizeof *w);
    int64_t timeout = cluster_faults()->txn_timeout_us;
    *w = (struct writer){
        .number = cluster_number(), .process = process, .identity = identity, .next = all.writers};
    all.writers = w;
    if (!identity) return w;
    identity->current = w;
    cluster_later(timeout + cluster_latency() * 8, expire, (struct about){w->number, 0, 0});
    return w;
}

struct writer *writer_find(uint64_t number) {
    struct writer *w = all.writers;
    while (w && w->number != number) w = w->next;
    return w;
}

uint64_t writer_number(const struct writer *w) {
    return w->number;
}

bool writer_commits(const struct writer *w) {
    return w->verdict == WRITER_COMMITTED;
}

static struct part *part_of(struct writer *w, struct journal *j) {
    struct part **at = &w->parts;
    while (*at && j && (*at)->journal != j) at = &(*at)->next;
    if (*at) return *at;
    struct part *p = xcalloc(1, sizeof *p);
    *p = (struct part){.journal = j, .first = INT64_MAX, .writer = w, .next_open = j->open};
    j->open = p;
    return *at = p;
}

/* journal NULL: the one that it began with. record NULL: it takes part, and there is none yet. */
int64_t writer_add(struct writer *w, struct journal *j, struct stored *record, int64_t time_ms) {
    struct part *p = part_of(w, j);
    if (!record) return -1;
    if (p->first > p->journal->high) p->first = p->journal->high;
    return journal_append(p->journal, record, w, time_ms);
}

void writer_offset(struct writer *w, struct journal *j, int64_t offset, const char *metadata,
                   bool owner) {
    struct pledge *p = xcalloc(1, sizeof *p);
    *p = (struct pledge){.journal = j,
                         .offset = offset,
                         .metadata = xstrdup(metadata),
                         .as = cluster_number(),
                         .owner = owner,
                         .next = w->pledges};
    w->pledges = p;
    j->pending++;
}

/* ---- transactional ids ---- */

struct identity *identity_of(const char *id) {
    struct identity *i = all.identities;
    while (i && strcmp(i->id, id) != 0) i = i->next;
    if (i) return i;
    i = xcalloc(1, sizeof *i);
    i->id = xstrdup(id);
    i->next = all.identities;
    return all.identities = i;
}

uint64_t identity_begin(struct identity *i) {
    i->epoch++;
    if (i->current) writer_end(i->current, false); /* unless it is being ended already */
    return i->current ? 0 : i->epoch;
}

bool identity_is(const struct identity *i, uint64_t epoch) {
    return i->epoch == epoch;
}

bool identity_waits(const struct identity *i) {
    return i->current && i->current->verdict != WRITER_OPEN;
}

struct writer *identity_writer(struct identity *i, uint64_t process) {
    if (i->current || !process) return identity_waits(i) ? NULL : i->current;
    return writer_new(i, process);
}

void transactions_move(const struct journal *from, struct journal *to) {
    for (struct writer *w = all.writers; w; w = w->next) {
        for (struct part *p = w->parts; p; p = p->next)
            if (p->journal == from) p->journal = to;
        for (struct pledge *p = w->pledges; p; p = p->next)
            if (p->journal == from) p->journal = to;
    }
}

void transactions_watch(broker_watch_fn *watch) {
    all.watch = watch;
}

void transactions_close(void) {
    for (struct writer *w = all.writers, *next; w; w = next) {
        next = w->next;
        free_parts(w);
        free(w);
    }
    for (struct identity *i = all.identities, *next; i; i = next) {
        next = i->next;
        free(i->id);
        free(i);
    }
    all.writers = NULL;
    all.identities = NULL;
    all.watch = NULL;
}
