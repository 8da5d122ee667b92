#include "worker/tools/redrive_plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/base/text.h"
#include "worker/kafka/topics.h"

/* ---- letters ---- */

bool letter_read(const struct message *rec, const char *source, struct letter *l,
                 const char **reterr) {
    struct retry past;
    if (!retry_parse(rec->headers, rec->n_headers, &past, reterr)) return false;
    if (past.died_ms == 0)
        *reterr = "runsink-reason is missing";
    else if (strcmp(past.origin.topic, source) != 0)
        *reterr = "runsink-origin names another topic";
    else
        return l->past = past, true;
    return false;
}

bool letter_is_of(const struct letter *l, const char *group) {
    return !l->past.group[0] || strcmp(l->past.group, group) == 0;
}

bool filter_offsets(const char *text, struct redrive_filter *f) {
    int partition, n = 0;
    long long first, last;
    if (sscanf(text, "%9d:%18lld%n", &partition, &first, &n) != 2 || n == 0) return false;
    last = first;
    if (text[n] == '-') {
        int more = 0;
        if (sscanf(text + n, "-%18lld%n", &last, &more) != 1) return false;
        n += more;
    }
    if (text[n] != '\0' || partition < 0 || first < 0 || last < first) return false;
    f->partition = partition;
    f->first = first;
    f->last = last;
    return true;
}

static bool event_matches(const struct redrive_filter *f, const struct message *rec) {
    struct arena arena = {0};
    struct jobrun run;
    struct outcome why;
    bool ok = jobrun_decode(rec, &arena, &run, &why);
    ok = ok && (!f->workspace || str_is(run.workspace_id, f->workspace));
    ok = ok && (!f->id || str_is(run.id, f->id));
    arena_wipe(&arena);
    return ok;
}

bool filter_matches(const struct redrive_filter *f, const struct letter *l,
                    const struct message *rec) {
    if (f->fault != FAULT_NONE && f->fault != l->fault) return false;
    if (f->reason && strcmp(f->reason, l->past.why) != 0) return false;
    if (f->destination && !glob_matches(f->destination, str_c(l->past.destination))) return false;
    if (f->from_ms && l->past.died_ms < f->from_ms) return false;
    if (f->to_ms && l->past.died_ms > f->to_ms) return false;
    if (f->partition >= 0 &&
        (l->partition != f->partition || l->offset < f->first || l->offset > f->last))
        return false;
    return (!f->workspace && !f->id) || event_matches(f, rec);
}

/* ---- what the ledger says ---- */

struct chain {
    uint64_t next_seq;
    uint8_t head[SHA256_LEN];
    struct spans seqs; /* of the entries seen */
    bool introduced;   /* this process has written one: */
    int64_t next;      /* of the last one */
};

struct gone {
    struct table_node node;
    int64_t died_ms; /* no later */
    enum letter_state state;
};

struct chains {
    char source[TOPIC_MAX + 1];
    char topics[FAULTS][TOPIC_MAX + 1];
    struct chain *v[FAULTS];
    int n[FAULTS];
    const char *group;
    const struct ledger_maker *maker;
    /* What is open no more, by its hash alone: that any two letters of ten million have the same
     * is less likely than one in a hundred thousand. */
    struct table gone;
    struct arena arena; /* of these */
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

void chains_made_by(struct chains *c, const struct ledger_maker *maker) {
    c->maker = maker;
}

void chains_free(struct chains *c) {
    if (!c) return;
    for (int f = FAULT_TENANT; f < FAULTS; f++) {
        for (int i = 0; i < c->n[f]; i++) spans_free(&c->v[f][i].seqs);
        free(c->v[f]);
    }
    table_free(&c->gone);
    arena_free(&c->arena);
    free(c);
}

static uint64_t fingerprint(int fault, int32_t partition, int64_t offset, int32_t from_partition,
                            int64_t from_offset) {
    int64_t parts[5] = {fault, partition, offset, from_partition, from_offset};
    return keyed_hash(parts, sizeof parts);
}

static struct gone *gone_at(const struct chains *c, uint64_t hash) {
    struct table_node *n = table_first(&c->gone, hash);
    return n ? TABLE_ENTRY(n, struct gone, node) : NULL;
}

static void remember(struct chains *c, uint64_t hash, int64_t died_ms, enum letter_state state) {
    struct gone *g = gone_at(c, hash);
    if (!g) {
        g = arena_alloc(&c->arena, sizeof *g);
        *g = (struct gone){.died_ms = 0};
        table_add(&c->gone, &g->node, hash);
    }
    g->state = state;
    if (died_ms > g->died_ms) g->died_ms = died_ms;
}

enum letter_state chains_state(const struct chains *c, const struct letter *l) {
    uint64_t hash = fingerprint((int)l->fault, l->partition, l->offset, l->past.origin.partition,
                                l->past.origin.offset);
    const struct gone *g = gone_at(c, hash);
    return g && l->past.died_ms <= g->died_ms ? g->state : LETTER_OPEN;
}

/* Offsets and origins are two lists of ranges with as many numbers; they are walked side by side.
 */
static void take_group(struct chains *c, int fault, const struct ledger_entry *e,
                       const struct ledger_group *g) {
    enum letter_state state = g->kind == LEDGER_REDRIVEN ? LETTER_REDRIVEN : LETTER_DISCARDED;
    size_t k = 0;
    int64_t within = 0;
    for (size_t i = 0; i < g->n_offsets; i++)
        for (int64_t v = g->offsets[i].a; v <= g->offsets[i].z && k < g->n_origins; v++) {
            const struct ledger_origin *o = &g->origins[k];
            remember(c, fingerprint(fault, e->partition, v, o->partition, o->range.a + within),
                     e->opened_ms, state);
            within++;
            if (o->range.a + within > o->range.z) {
                within = 0;
                k++;
            }
        }
}

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

static bool chain_add(struct chains *c, int fault, const struct ledger_entry *e, struct str key,
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
    ok = ok && chain_add(c, fault, &e, key, err);
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

bool chains_encode(const struct chains *c, enum fault fault, int32_t partition,
                   const struct ledger_item *items, size_t n, struct chain_times times,
                   const struct ledger_signer *signer, struct buf *out,
                   uint8_t ret_hash[SHA256_LEN]) {
    const struct chain *chain = &c->v[fault][partition];
    struct ledger_window w = {.maker = c->maker,
                              .group = c->group,
                              .topic = c->topics[fault],
                              .partition = partition,
                              .first = INT64_MAX,
                              .seq = chain->next_seq,
                              .opened_ms = times.died_ms,
                              .settled_ms =
                                  times.now_ms < times.died_ms ? times.died_ms : times.now_ms,
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

uint64_t chains_entries(const struct chains *c, enum fault fault, int32_t partition) {
    return c->v[fault][partition].next_seq;
}

size_t chains_heads(const struct chains *c, size_t skip, struct anchor_head *ret, size_t most) {
    size_t n = 0;
    for (int f = FAULT_TENANT; f < FAULTS; f++)
        for (int i = 0; i < c->n[f] && n < most; i++) {
            const struct chain *chain = &c->v[f][i];
            if (!chain->introduced) continue;
            if (skip > 0) {
                skip--;
                continue;
            }
            struct anchor_head *h = &ret[n++];
            *h = (struct anchor_head){.topic = str_c(c->topics[f]),
                                      .partition = i,
                                      .seq = chain->next_seq - 1,
                                      .next = chain->next};
            memcpy(h->hash, chain->head, SHA256_LEN);
        }
    return n;
}

void chains_advance(struct chains *c, enum fault fault, int32_t partition, int64_t next,
                    const uint8_t hash[SHA256_LEN]) {
    struct chain *chain = &c->v[fault][partition];
    chain->next = next;
    chain->next_seq++;
    chain->introduced = true;
    memcpy(chain->head, hash, SHA256_LEN);
}

/* ---- batches ---- */

/* Destinations of one window may use the same key, each in a bucket of its own. */
static char *batch_id(const struct letter *l) {
    size_t n = strlen(l->past.batch_key) + strlen(l->past.destination) + 64;
    char *id = xmalloc(n);
    snprintf(id, n, "%d/%d/%d %s %s", (int)l->fault, (int)l->partition,
             (int)l->past.origin.partition, l->past.destination, l->past.batch_key);
    return id;
}

struct gathering *gather(struct gatherings *g, const struct letter *l) {
    char *id = batch_id(l);
    uint64_t hash = keyed_hash(id, strlen(id));
    for (struct table_node *n = table_first(&g->index, hash); n; n = table_next(n)) {
        struct gathering *b = TABLE_ENTRY(n, struct gathering, node);
        if (strcmp(b->id, id) != 0) continue;
        free(id);
        return b;
    }
    struct gathering *b = xcalloc(1, sizeof *b);
    *b = (struct gathering){.id = id, .count = l->past.batch_count, .first = *l};
    table_add(&g->index, &b->node, hash);
    LIST_INSERT_HEAD(&g->all, b, all);
    return b;
}

void gather_drop(struct gatherings *g, struct gathering *b) {
    table_remove(&g->index, &b->node);
    LIST_REMOVE(b, all);
    spans_free(&b->offsets);
    free(b->members);
    free(b->id);
    free(b);
}

void gatherings_free(struct gatherings *g) {
    while (!LIST_EMPTY(&g->all)) gather_drop(g, LIST_FIRST(&g->all));
    table_free(&g->index);
}

/* ---- rows ---- */

static uint64_t row_hash(const struct letter *l) {
    uint64_t parts[3] = {(uint64_t)l->fault, keyed_hash(l->past.why, strlen(l->past.why)),
                         keyed_hash(l->past.destination, strlen(l->past.destination))};
    return keyed_hash(parts, sizeof parts);
}

/* NULL: there are too many. */
static struct plan_row *row_of(struct plan *p, const struct letter *l) {
    uint64_t hash = row_hash(l);
    for (struct table_node *n = table_first(&p->index, hash); n; n = table_next(n)) {
        struct plan_row *r = TABLE_ENTRY(n, struct plan_row, node);
        if (r->fault == l->fault && strcmp(r->reason, l->past.why) == 0 &&
            strcmp(r->destination, l->past.destination) == 0)
            return r;
    }
    if (p->n_rows == PLAN_ROWS_MAX) return NULL;
    struct plan_row *r = xcalloc(1, sizeof *r);
    r->fault = l->fault;
    memcpy(r->reason, l->past.why, sizeof r->reason);
    memcpy(r->destination, l->past.destination, sizeof r->destination);
    p->rows = xgrow(p->rows, p->n_rows, sizeof r);
    p->rows[p->n_rows++] = r;
    table_add(&p->index, &r->node, hash);
    return r;
}

static void count_row(struct plan *p, const struct letter *l, uint64_t n) {
    struct plan_row *r = row_of(p, l);
    *(r ? &r->n : &p->other) += n;
}

/* ---- the plan ---- */

void plan_init(struct plan *p, const int partitions[FAULTS], enum plan_way way) {
    *p = (struct plan){.way = way};
    for (int f = FAULT_TENANT; f < FAULTS; f++) {
        p->partitions[f] = partitions[f];
        p->selected[f] = xcalloc((size_t)partitions[f], sizeof(struct spans));
    }
}

void plan_free(struct plan *p) {
    for (int f = FAULT_TENANT; f < FAULTS; f++) {
        for (int i = 0; i < p->partitions[f]; i++) spans_free(&p->selected[f][i]);
        free(p->selected[f]);
    }
    gatherings_free(&p->open);
    for (size_t i = 0; i < p->n_rows; i++) free(p->rows[i]);
    free(p->rows);
    table_free(&p->index);
    *p = (struct plan){0};
}

static void take_batch(struct plan *p, const struct gathering *b, const struct letter *l) {
    for (size_t i = 0; i < b->offsets.n; i++)
        spans_add(&p->selected[l->fault][l->partition], b->offsets.v[i]);
    count_row(p, l, b->n);
    p->n += b->n;
    p->along += b->n - b->matched;
}

static void pass_by(struct plan *p, const struct letter *l) {
    size_t i = 0;
    while (i < p->n_passed && strcmp(p->passed[i].name, l->past.why) != 0) i++;
    p->passed_by++;
    if (i == PLAN_REASONS_MAX) return;
    if (i == p->n_passed) memcpy(p->passed[p->n_passed++].name, l->past.why, sizeof l->past.why);
    p->passed[i].n++;
}

void plan_take(struct plan *p, const struct letter *l, bool matches) {
    if (!matches) pass_by(p, l);
    struct ledger_range self = {l->offset, l->offset};
    if (!letter_in_batch(l) || p->way == PLAN_DISCARD) {
        if (!matches) return;
        spans_add(&p->selected[l->fault][l->partition], self);
        count_row(p, l, 1);
        p->n++;
        return;
    }
    struct gathering *b = gather(&p->open, l);
    b->n++;
    b->matched += matches;
    spans_add(&b->offsets, self);
    if (b->n < b->count) return;
    if (b->matched) take_batch(p, b, l);
    gather_drop(&p->open, b);
}

/* Headers of ours are left out and others come, of about that size. */
static int64_t size_of(const struct message *rec, size_t key_len) {
    size_t n = rec->value.n + key_len;
    for (size_t i = 0; i < rec->n_headers; i++)
        n += rec->headers[i].name.n + rec->headers[i].value.n;
    return (int64_t)n;
}

void plan_record(struct plan *p, const struct plan_rules *rules, struct letter l,
                 const struct message *rec, size_t key_len) {
    bool goes = p->way != PLAN_DISCARD;
    if (!letter_read(rec, rules->source, &l, &p->last_problem)) {
        p->unreadable++;
        return;
    }
    enum letter_state state = chains_state(rules->chains, &l);
    if (!letter_is_of(&l, rules->group))
        p->foreign++; /* its own redrive sends it back */
    else if (state == LETTER_REDRIVEN)
        p->redriven++;
    else if (state == LETTER_DISCARDED)
        p->discarded++;
    else if (l.past.marker && goes)
        p->markers++;
    else if (goes && rules->largest && size_of(rec, key_len) > rules->largest)
        p->too_large++;
    else
        plan_take(p, &l, filter_matches(rules->filter, &l, rec));
}

static int compare_rows(const void *a, const void *b) {
    const struct plan_row *x = *(struct plan_row *const *)a, *y = *(struct plan_row *const *)b;
    if (x->fault != y->fault) return x->fault < y->fault ? -1 : 1;
    if (x->n != y->n) return x->n > y->n ? -1 : 1;
    int d = strcmp(x->reason, y->reason);
    return d ? d : strcmp(x->destination, y->destination);
}

void plan_finish(struct plan *p) {
    const struct gathering *b;
    LIST_FOREACH(b, &p->open.all, all) {
        if (b->matched && p->way == PLAN_ORIGIN)
            take_batch(p, b, &b->first);
        else if (b->matched)
            p->incomplete += b->n;
    }
    gatherings_free(&p->open);
    if (p->n_rows) qsort(p->rows, p->n_rows, sizeof *p->rows, compare_rows);
}
