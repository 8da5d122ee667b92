#include "worker/tools/verify_margin.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/base/table.h"
#include "worker/kafka/topic_names.h"
#include "worker/ledger/heads.h"

/* One end of what is known of a chain. */
struct link {
    uint64_t seq;
    uint8_t hash[SHA256_LEN];
};

struct edge {
    struct table_node node;
    char *topic;
    int32_t partition;
    bool settled; /* the group has committed entries: */
    struct link head;
    int64_t end;             /* where the entry that has to stand before ends; -1: anywhere */
    bool begun;              /* there are entries of that time: */
    struct link twin;        /* of last, which the chain may go on from as well */
    struct link first, last; /* first: its prev */
    bool after, before;      /* one was found, behind and before */
    struct link next;        /* of a chain without entries of that time: the first one behind */
};

struct margin {
    const struct snapshot *snapshot;
    struct audit *audit;
    struct edge **edges;
    size_t n;
    struct table index;
    struct arena arena;
    const struct ledger_pubkey *keys;
    size_t n_keys;
    struct heads *heads; /* of partitions without an entry of that time, once that is known */
};

static struct edge *edge_of(struct margin *m, struct str topic, int32_t partition, bool make) {
    uint64_t hash = keyed_hash_numbered(topic, partition);
    for (struct table_node *n = table_first(&m->index, hash); n; n = table_next(n)) {
        struct edge *e = TABLE_ENTRY(n, struct edge, node);
        if (e->partition == partition && str_is(topic, e->topic)) return e;
    }
    if (!make) return NULL;
    struct edge *e = xcalloc(1, sizeof *e);
    e->topic = xstrndup(topic.p, topic.n);
    e->partition = partition;
    m->edges = xgrow(m->edges, m->n, sizeof e);
    m->edges[m->n++] = e;
    table_add(&m->index, &e->node, hash);
    return e;
}

struct margin *margin_new(const struct snapshot *s, const struct ledger_pubkey *keys, size_t n_keys,
                          struct audit *a) {
    struct margin *m = xcalloc(1, sizeof *m);
    m->snapshot = s;
    m->audit = a;
    m->keys = keys;
    m->n_keys = n_keys;
    for (size_t i = 0; i < s->n_committed; i++) {
        const struct committed *c = &s->committed[i];
        if (!c->has_meta || !c->meta.seq) continue;
        struct edge *e = edge_of(m, str_c(c->topic), c->partition, true);
        e->settled = true;
        e->head.seq = c->meta.seq - 1;
        memcpy(e->head.hash, c->meta.head, SHA256_LEN);
        e->end = c->offset;
    }
    return m;
}

void margin_free(struct margin *m) {
    if (!m) return;
    for (size_t i = 0; i < m->n; i++) {
        free(m->edges[i]->topic);
        free(m->edges[i]);
    }
    free(m->edges);
    table_free(&m->index);
    arena_free(&m->arena);
    heads_free(m->heads);
    free(m);
}

static struct link link_of(uint64_t seq, const uint8_t hash[SHA256_LEN]) {
    struct link l = {.seq = seq};
    memcpy(l.hash, hash, SHA256_LEN);
    return l;
}

void margin_entry(struct margin *m, const struct ledger_entry *entry) {
    struct edge *e = edge_of(m, entry->topic, entry->partition, true);
    if (!e->begun || entry->seq < e->first.seq) e->first = link_of(entry->seq, entry->prev);
    if (e->begun && entry->seq == e->last.seq) e->twin = e->last; /* it was repeated */
    if (!e->begun || entry->seq >= e->last.seq) e->last = link_of(entry->seq, entry->hash);
    e->begun = true;
}

/* An intact entry of the group's; NULL: the record is none, or of no partition that is looked for.
 */
static struct edge *read_entry(struct margin *m, struct str value, struct ledger_entry *ret) {
    struct ledger_read_error unused;
    uint8_t hash[SHA256_LEN];
    arena_free(&m->arena);
    if (!ledger_read(value, &m->arena, ret, &unused) || !str_is(ret->group, m->snapshot->group))
        return NULL;
    sha256(ret->canonical.p, ret->canonical.n, hash);
    if (memcmp(hash, ret->hash, SHA256_LEN) != 0) return NULL;
    return edge_of(m, ret->topic, ret->partition, false);
}

/* ---- behind ---- */

static bool wants_after(const struct edge *e) {
    if (e->after || !e->settled) return false;
    return !e->begun || e->last.seq < e->head.seq;
}

void margin_after(struct margin *m, struct str value) {
    struct ledger_entry entry;
    struct edge *e = read_entry(m, value, &entry);
    if (!e || !wants_after(e)) return;
    if (!e->begun) {
        e->after = true;
        e->next = link_of(entry.seq, entry.prev);
        /* Windows of dead topics don't follow one another. */
        e->end = topic_dead_fault(e->topic) != FAULT_NONE ? -1
                 : entry.anew                             ? entry.before
                                                          : entry.first;
    } else {
        e->after =
            entry.seq == e->last.seq + 1 &&
            (memcmp(entry.prev, e->last.hash, SHA256_LEN) == 0 ||
             (e->twin.seq == e->last.seq && memcmp(entry.prev, e->twin.hash, SHA256_LEN) == 0));
    }
}

size_t margin_after_open(const struct margin *m) {
    size_t n = 0;
    for (size_t i = 0; m->snapshot->unfinished && i < m->n; i++) n += wants_after(m->edges[i]);
    return n;
}

/* ---- before ---- */

/* The entry that has to stand before that time. False: none. */
static bool predecessor(const struct edge *e, struct link *ret) {
    const struct link *next = e->begun ? &e->first : e->after ? &e->next : NULL;
    if (next) {
        *ret = link_of(next->seq - 1, next->hash);
        return next->seq > 0;
    }
    *ret = e->head;
    return e->settled;
}

static bool wants_before(const struct edge *e, struct link *ret) {
    return !e->before && predecessor(e, ret);
}

/* What a partition without entries of that time stands on is vouched for by no entry of it. */
static void begin_before(struct margin *m) {
    struct link want;
    if (m->heads || !m->n_keys) return;
    m->heads = heads_new(m->snapshot->group, m->keys, m->n_keys);
    for (size_t i = 0; i < m->n; i++) {
        const struct edge *e = m->edges[i];
        if (e->begun || !predecessor(e, &want)) continue;
        if (audit_until_of(m->audit, e->topic, e->partition) > want.seq) continue;
        struct head_want w = {.partition = e->partition, .seq = want.seq, .next = e->end};
        snprintf(w.topic, sizeof w.topic, "%s", e->topic);
        memcpy(w.hash, want.hash, SHA256_LEN);
        heads_add(m->heads, &w);
    }
}

void margin_before(struct margin *m, struct str key, struct str value) {
    struct ledger_entry entry;
    struct link want;
    begin_before(m);
    if (m->heads) heads_take(m->heads, key, value);
    struct edge *e = read_entry(m, value, &entry);
    if (e && wants_before(e, &want) && entry.seq == want.seq)
        e->before = memcmp(entry.hash, want.hash, SHA256_LEN) == 0;
}

size_t margin_before_open(struct margin *m) {
    struct link unused;
    size_t n = 0;
    if (!m->snapshot->partial) return 0;
    begin_before(m);
    for (size_t i = 0; i < m->n; i++) n += wants_before(m->edges[i], &unused);
    return n + (m->heads ? heads_open(m->heads) : 0);
}

/* ---- the end ---- */

__attribute__((format(printf, 3, 4))) static void say(struct margin *m, const struct edge *e,
                                                      const char *fmt, ...) {
    char text[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    struct finding f = {.code = "not-covered",
                        .topic = e->topic,
                        .partition = e->partition,
                        .offset = -1,
                        .text = text};
    audit_report(m->audit, &f);
}

static void judge(struct margin *m, const struct edge *e) {
    struct link want = {0};
    bool before = predecessor(e, &want) && !e->before;
    /* Where all was read from the beginning on, one that begins late is the audit's finding. */
    if (before && e->begun && m->snapshot->partial)
        say(m, e,
            "entry %" PRIu64 " is the first of this time, and the one before it is not in the "
            "ledger: entries of this time may be missing",
            e->first.seq);
    else if (before && !e->begun && (m->snapshot->partial || e->after))
        say(m, e,
            "there is no entry of this time, and number %" PRIu64 ", the newest before it, is not "
            "in the ledger: entries of this time may be missing",
            want.seq);
    const char *wrong = m->heads && e->before && !e->begun &&
                                audit_until_of(m->audit, e->topic, e->partition) <= want.seq
                            ? heads_wrong(m->heads, e->topic, e->partition)
                            : NULL;
    if (wrong)
        say(m, e,
            "there is no entry of this time, and of number %" PRIu64 ", the newest before it: %s",
            want.seq, wrong);
    if (m->snapshot->unfinished && e->begun && wants_after(e))
        say(m, e,
            "entry %" PRIu64
            " is the last of this time, and the one after it is not in the ledger: "
            "entries of this time may be missing",
            e->last.seq);
    else if (m->snapshot->unfinished && !m->snapshot->partial && !e->begun && wants_after(e))
        say(m, e, "the group has settled %" PRIu64 " entries, and the ledger has none",
            e->head.seq + 1);
}

void margin_finish(struct margin *m) {
    for (size_t i = 0; i < m->n; i++) judge(m, m->edges[i]);
}
