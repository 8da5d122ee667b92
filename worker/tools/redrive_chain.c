#include "worker/tools/redrive_chain.h"

#include <inttypes.h>
#include <stdlib.h>

#include "worker/kafka/topics.h"
#include "worker/ledger/entry.h"

struct chain {
    uint64_t next_seq;
    uint8_t head[SHA256_LEN];
    struct spans seqs; /* of the entries seen */
    bool introduced;   /* this process has written one */
};

struct gone {
    uint64_t hash;   /* 0: free */
    int64_t died_ms; /* no later */
    enum letter_fate fate;
};

struct chains {
    char source[TOPIC_MAX + 1];
    char topics[FAULTS][TOPIC_MAX + 1];
    struct chain *v[FAULTS];
    int n[FAULTS];
    const char *group;
    /* What is open no more. Open addressing, at most half full. That any two letters of ten million
     * have the same hash is less likely than one in a hundred thousand. */
    struct gone *set;
    size_t n_set, cap_set;
};

struct chains *chains_new(const char *source, const char *group, const int partitions[FAULTS]) {
    struct chains *c = xcalloc(1, sizeof *c);
    c->group = group;
    memcpy(c->source, source, strnlen(source, TOPIC_MAX));
    for (int f = FAULT_TENANT; f < FAULTS; f++) {
        topic_dead(source, (enum fault)f, c->topics[f]);
        c->n[f] = partitions[f];
        c->v[f] = xcalloc((size_t)partitions[f], sizeof(struct chain));
    }
    return c;
}

void chains_free(struct chains *c) {
    if (!c) return;
    for (int f = FAULT_TENANT; f < FAULTS; f++) {
        for (int i = 0; i < c->n[f]; i++) spans_free(&c->v[f][i].seqs);
        free(c->v[f]);
    }
    free(c->set);
    free(c);
}

/* ---- what is open no more ---- */

static uint64_t fingerprint(int fault, int32_t partition, int64_t offset, int32_t from_partition,
                            int64_t from_offset) {
    int64_t parts[5] = {fault, partition, offset, from_partition, from_offset};
    uint64_t h = keyed_hash(parts, sizeof parts);
    return h ? h : 1;
}

static struct gone *slot_of(struct gone *set, size_t cap, uint64_t hash) {
    size_t i = (size_t)hash & (cap - 1);
    while (set[i].hash && set[i].hash != hash) i = (i + 1) & (cap - 1);
    return &set[i];
}

static void remember(struct chains *c, uint64_t hash, int64_t died_ms, enum letter_fate fate) {
    if (c->n_set * 2 >= c->cap_set) {
        size_t cap = c->cap_set ? c->cap_set * 2 : 1024;
        struct gone *bigger = xcalloc(cap, sizeof *bigger);
        for (size_t i = 0; i < c->cap_set; i++)
            if (c->set[i].hash) *slot_of(bigger, cap, c->set[i].hash) = c->set[i];
        free(c->set);
        c->set = bigger;
        c->cap_set = cap;
    }
    struct gone *g = slot_of(c->set, c->cap_set, hash);
    c->n_set += g->hash == 0;
    g->hash = hash;
    g->fate = fate;
    if (died_ms > g->died_ms) g->died_ms = died_ms;
}

enum letter_fate chains_fate(const struct chains *c, enum fault fault, int32_t partition,
                             int64_t offset, const struct retry *past) {
    if (!c->n_set) return LETTER_OPEN;
    const struct gone *g = slot_of(
        c->set, c->cap_set,
        fingerprint((int)fault, partition, offset, past->origin.partition, past->origin.offset));
    return g->hash && past->died_ms <= g->died_ms ? g->fate : LETTER_OPEN;
}

/* Offsets and origins are two lists of ranges with as many numbers; they are walked side by side.
 */
static void take_group(struct chains *c, int fault, const struct ledger_entry *e,
                       const struct ledger_group *g) {
    enum letter_fate fate = g->kind == LEDGER_REDRIVEN ? LETTER_REDRIVEN : LETTER_DISCARDED;
    size_t k = 0;
    int64_t within = 0;
    for (size_t i = 0; i < g->n_offsets; i++)
        for (int64_t v = g->offsets[i].a; v <= g->offsets[i].z && k < g->n_origins; v++) {
            const struct ledger_origin *o = &g->origins[k];
            remember(c, fingerprint(fault, e->partition, v, o->partition, o->range.a + within),
                     e->opened_ms, fate);
            within++;
            if (o->range.a + within > o->range.z) {
                within = 0;
                k++;
            }
        }
}

/* ---- entries ---- */

/* The fault of the dead topic that the key names, or FAULT_NONE. */
static int fault_of(const struct chains *c, struct str topic) {
    for (int f = FAULT_TENANT; f < FAULTS; f++)
        if (str_is(topic, c->topics[f])) return f;
    return FAULT_NONE;
}

static bool refuse(const struct str *key, struct buf *err, const char *what) {
    buf_printf(err,
               "an entry of the ledger for %.*s %s: what it sent back is not known, and nothing is "
               "sent back on a guess; `runsink verify` names the entry",
               (int)(key->n < 300 ? key->n : 300), key->p, what);
    return false;
}

static bool take_entry(struct chains *c, int fault, const struct ledger_entry *e, struct str key,
                       struct buf *err) {
    uint8_t hash[SHA256_LEN];
    sha256(e->canonical.p, e->canonical.n, hash);
    if (memcmp(hash, e->hash, SHA256_LEN) != 0) return refuse(&key, err, "was altered");
    /* Another group has its own dead letters here, and its own chains. */
    if (!str_is(e->group, c->group)) return true;
    struct chain *chain = &c->v[fault][e->partition];
    spans_add(&chain->seqs, (struct ledger_range){(int64_t)e->seq, (int64_t)e->seq});
    if (e->seq + 1 >= chain->next_seq) {
        chain->next_seq = e->seq + 1;
        memcpy(chain->head, e->hash, SHA256_LEN);
    }
    for (size_t i = 0; i < e->n_groups; i++)
        if (e->groups[i].kind == LEDGER_REDRIVEN || e->groups[i].kind == LEDGER_DISCARDED)
            take_group(c, fault, e, &e->groups[i]);
    return true;
}

bool chains_take(struct chains *c, struct str key, struct str value, struct buf *err) {
    struct str topic;
    int32_t partition;
    if (!str_starts(key, c->source) || !ledger_read_key(key, &topic, &partition)) return true;
    int fault = fault_of(c, topic);
    if (fault == FAULT_NONE || partition >= c->n[fault]) return true;
    struct arena arena = {0};
    struct ledger_entry e;
    struct ledger_read_error why;
    bool ok = ledger_read(value, &arena, &e, &why) || refuse(&key, err, "can't be read");
    if (ok && (!str_eq(e.topic, topic) || e.partition != partition))
        ok = refuse(&key, err, "is about another partition than its key says");
    ok = ok && take_entry(c, fault, &e, key, err);
    arena_free(&arena);
    return ok;
}

bool chains_whole(const struct chains *c, struct buf *err) {
    for (int f = FAULT_TENANT; f < FAULTS; f++)
        for (int i = 0; i < c->n[f]; i++) {
            const struct chain *chain = &c->v[f][i];
            const struct spans *s = &chain->seqs;
            if (chain->next_seq == 0 || (s->n == 1 && s->v[0].a == 0)) continue;
            buf_printf(err,
                       "the ledger lacks entries of %s/%d (it has number %" PRIu64
                       "): which of its dead letters went back is not known, and nothing is sent "
                       "back on a guess. A ledger topic needs retention.ms=-1",
                       c->topics[f], i, chain->next_seq - 1);
            return false;
        }
    return true;
}

/* ---- writing ---- */

bool chains_encode(const struct chains *c, enum fault fault, int32_t partition,
                   const struct ledger_item *items, size_t n, struct chain_times times,
                   const struct ledger_signer *signer, struct buf *out,
                   uint8_t ret_hash[SHA256_LEN]) {
    const struct chain *chain = &c->v[fault][partition];
    struct ledger_window w = {.group = c->group,
                              .topic = c->topics[fault],
                              .partition = partition,
                              .first = INT64_MAX,
                              .seq = chain->next_seq,
                              .opened_ms = times.died_ms,
                              .settled_ms = times.now_ms,
                              .introduce = !chain->introduced,
                              .items = items,
                              .n_items = n};
    memcpy(w.prev, chain->head, SHA256_LEN);
    for (size_t i = 0; i < n; i++) {
        if (items[i].offsets[0] < w.first) w.first = items[i].offsets[0];
        if (items[i].offsets[items[i].n - 1] >= w.next)
            w.next = items[i].offsets[items[i].n - 1] + 1;
    }
    return ledger_encode(&w, signer, out, ret_hash);
}

void chains_advance(struct chains *c, enum fault fault, int32_t partition,
                    const uint8_t hash[SHA256_LEN]) {
    struct chain *chain = &c->v[fault][partition];
    chain->next_seq++;
    chain->introduced = true;
    memcpy(chain->head, hash, SHA256_LEN);
}
