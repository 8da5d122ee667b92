/* A small world for ledger tests: a source topic of three partitions, two retry tiers and a dead
 * topic, settled for a while by a worker that follows the rules. Entries come as the ledger topic
 * would hold them, with the state that the group has committed. */
#ifndef LEDGER_WORLD_H
#define LEDGER_WORLD_H

#include <stdio.h>
#include <stdlib.h>

#include "worker/tools/verify_export.h"

#define WORLD_SOURCE "jobs"
#define WORLD_GROUP "runsink"
#define WORLD_PARTITIONS 3

struct world_line {
    char key[300];
    struct buf value;
    size_t chain; /* index into world.chains */
    int64_t first, next;
};

struct world_chain {
    char topic[TOPIC_MAX + 1];
    int32_t partition;
    uint64_t seq;
    int64_t next;
    uint8_t head[SHA256_LEN];
    struct origin waiting[512]; /* retry topics: what was parked and not read yet */
    size_t n_waiting;
};

struct world {
    struct world_line *lines;
    size_t n, cap;
    struct world_chain chains[WORLD_PARTITIONS + 2];
    size_t n_chains;
    const struct ledger_signer *signer;
    unsigned random;
    int64_t clock;
    size_t anew; /* world_make_anew(): the line that says so */
    bool form2;  /* most entries are of form 2 */
};

static inline unsigned world_random(struct world *w, unsigned below) {
    w->random = w->random * 1664525u + 1013904223u;
    return (w->random >> 8) % below;
}

/* NULL: this entry of the chain is of form 1. */
static inline const struct ledger_maker *world_maker(const struct world *w, uint64_t seq) {
    static const uint8_t rules[LEDGER_RULES_LEN] = {7, 6, 5};
    static const struct ledger_maker maker = {"MkU3OEVBNTcwNTJENDM2Qg", rules};
    return w->form2 && seq % 5 != 1 ? &maker : NULL;
}

static inline struct world_line *world_add(struct world *w) {
    if (w->n == w->cap) {
        w->cap = w->cap ? 2 * w->cap : 64;
        w->lines = xrealloc(w->lines, w->cap * sizeof *w->lines);
    }
    struct world_line *line = &w->lines[w->n++];
    *line = (struct world_line){0};
    buf_init(&line->value, 1 << 20);
    return line;
}

/* Appends the entry of a window and moves the chain on. */
static inline void world_settle(struct world *w, size_t chain, int64_t next,
                                const struct ledger_item *items, size_t n_items) {
    struct world_chain *c = &w->chains[chain];
    struct ledger_window window = {.group = WORLD_GROUP,
                                   .topic = c->topic,
                                   .partition = c->partition,
                                   .first = c->next,
                                   .next = next,
                                   .seq = c->seq,
                                   .opened_ms = w->clock,
                                   .settled_ms = w->clock + 900,
                                   .introduce = c->seq == 0,
                                   .items = items,
                                   .n_items = n_items};
    struct ledger_last last = {next - 1, w->clock - 100, (uint32_t)(next % 1000)};
    window.maker = world_maker(w, c->seq);
    window.last = next > c->next ? &last : NULL;
    memcpy(window.prev, c->head, SHA256_LEN);
    struct world_line *line = world_add(w);
    line->chain = chain;
    line->first = c->next;
    line->next = next;
    ledger_record_key(line->key, sizeof line->key, c->topic, c->partition);
    if (!ledger_encode(&window, w->signer, &line->value, c->head)) abort();
    c->next = next;
    c->seq++;
    w->clock += 1000;
}

/* Appends the entry that says that the chain's topic was made anew, and begins again there. */
static inline void world_anew(struct world *w, size_t chain, int64_t first) {
    struct world_chain *c = &w->chains[chain];
    struct ledger_window window = {.group = WORLD_GROUP,
                                   .topic = c->topic,
                                   .partition = c->partition,
                                   .first = first,
                                   .next = first,
                                   .seq = c->seq,
                                   .opened_ms = w->clock,
                                   .settled_ms = w->clock,
                                   .anew = true,
                                   .before = c->next,
                                   .maker = world_maker(w, c->seq)};
    memcpy(window.prev, c->head, SHA256_LEN);
    w->anew = w->n;
    struct world_line *line = world_add(w);
    line->chain = chain;
    line->first = line->next = first;
    ledger_record_key(line->key, sizeof line->key, c->topic, c->partition);
    if (!ledger_encode(&window, w->signer, &line->value, c->head)) abort();
    c->next = first;
    c->seq++;
}

static inline size_t world_tier(unsigned i) {
    return WORLD_PARTITIONS + i % 2;
}

/* A window of records with outcomes of all kinds, every seventh offset a transaction marker. */
static inline void world_window(struct world *w, size_t chain) {
    enum { MOST = 24 };
    struct world_chain *c = &w->chains[chain];
    bool retry = chain >= WORLD_PARTITIONS;
    struct ledger_item items[MOST];
    int64_t offsets[MOST];
    struct origin origins[MOST];
    uint8_t hash[SHA256_LEN];
    size_t n = 0, most = 4 + world_random(w, MOST - 4);
    int64_t offset = c->next;
    if (retry && c->n_waiting < most) most = c->n_waiting;
    sha256(&w->random, sizeof w->random, hash);
    for (; n < most; n++, offset++) {
        if (offset % 7 == 6) offset++;
        offsets[n] = offset;
        items[n] = (struct ledger_item){.offsets = &offsets[n], .n = 1, .dest = "s3://acme-runs"};
        struct origin self = {.partition = c->partition, .offset = offset};
        snprintf(self.topic, sizeof self.topic, "%s", c->topic);
        if (retry) {
            self = origins[n] = c->waiting[n];
            items[n].origins = &origins[n];
        }
        unsigned what = world_random(w, 8);
        if (what < 4) {
            items[n].kind = LEDGER_DELIVERED;
            items[n].key = what < 3 ? "ws/pr/job/run/2026-\"x\"-SUCCESS.json" : NULL;
            items[n].status = 200;
            items[n].sha256 = hash;
            items[n].size = 1180;
        } else if (what == 4) {
            items[n].kind = LEDGER_SKIPPED;
            items[n].dest = NULL;
            items[n].why = "no-sink";
        } else if (what == 5) {
            items[n].kind = LEDGER_DEAD;
            items[n].fault = FAULT_TENANT;
            items[n].why = "NoSuchBucket";
        } else {
            struct world_chain *to = &w->chains[world_tier(what)];
            items[n].kind = LEDGER_PARKED;
            items[n].tier = what % 2 ? "20s" : "10s";
            items[n].why = "http-503";
            if (to->n_waiting == 512) abort();
            to->waiting[to->n_waiting++] = self;
        }
        /* world_tier(6) is 10s, world_tier(7) 20s */
    }
    if (retry) {
        memmove(c->waiting, c->waiting + most, (c->n_waiting - most) * sizeof *c->waiting);
        c->n_waiting -= most;
    }
    world_settle(w, chain, offset, items, n);
}

/* anew: halfway the topic of partition 0 is made anew. */
static inline void world_make_some(struct world *w, unsigned seed, size_t windows,
                                   const struct ledger_signer *signer, bool anew) {
    *w =
        (struct world){.random = seed, .signer = signer, .clock = 1760000000000, .form2 = seed % 2};
    for (int i = 0; i < WORLD_PARTITIONS + 2; i++) {
        struct world_chain *c = &w->chains[w->n_chains++];
        c->partition = i < WORLD_PARTITIONS ? i : 0;
        snprintf(c->topic, sizeof c->topic, "%s",
                 i < WORLD_PARTITIONS    ? WORLD_SOURCE
                 : i == WORLD_PARTITIONS ? WORLD_SOURCE ".retry.10s"
                                         : WORLD_SOURCE ".retry.20s");
        c->next = 100 * i;
    }
    for (size_t i = 0; i < windows; i++) {
        if (anew && i == windows / 2) world_anew(w, 0, 3);
        world_window(w, i % w->n_chains);
    }
}

static inline void world_make(struct world *w, unsigned seed, size_t windows,
                              const struct ledger_signer *signer) {
    world_make_some(w, seed, windows, signer, false);
}

static inline void world_free(struct world *w) {
    for (size_t i = 0; i < w->n; i++) buf_free(&w->lines[i].value);
    free(w->lines);
}

/* What the group has committed at the end. */
static inline void world_snapshot(const struct world *w, struct snapshot *ret) {
    *ret = (struct snapshot){.source = WORLD_SOURCE, .group = WORLD_GROUP};
    for (size_t i = 0; i < w->n_chains; i++) {
        const struct world_chain *c = &w->chains[i];
        struct committed *to = snapshot_add(ret);
        snprintf(to->topic, sizeof to->topic, "%s", c->topic);
        to->partition = c->partition;
        to->offset = c->next;
        to->has_meta = true;
        to->meta.seq = c->seq;
        memcpy(to->meta.head, c->head, SHA256_LEN);
    }
}

#endif
