#include "worker/tools/replay_plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/base/text.h"

void replay_plan_init(struct replay_plan *p, const char *source, const char *group,
                      const struct replay_filter *filter) {
    *p = (struct replay_plan){.source = source, .group = group, .filter = filter};
    snprintf(p->chain, sizeof p->chain, "%s" LEDGER_REPLAYS, source);
}

void replay_plan_free(struct replay_plan *p) {
    for (size_t i = 0; i < p->n; i++) free(p->items[i]->got);
    free(p->items);
    free(p->rows);
    table_free(&p->index);
    table_free(&p->labels);
    arena_free(&p->arena);
}

/* ---- items ---- */

static uint64_t item_hash(int32_t partition, int64_t offset) {
    const int64_t parts[2] = {partition, offset};
    return keyed_hash(parts, sizeof parts);
}

struct replay_item *replay_item_at(const struct replay_plan *p, int32_t partition, int64_t offset) {
    struct table_node *n = table_first(&p->index, item_hash(partition, offset));
    for (; n; n = table_next(n)) {
        struct replay_item *item = TABLE_ENTRY(n, struct replay_item, node);
        if (item->partition == partition && item->members[0].a == offset) return item;
    }
    return NULL;
}

struct label {
    struct table_node node;
    struct replay_row row;
};

static struct replay_row *row_of(struct replay_plan *p, struct str label) {
    uint64_t hash = keyed_hash(label.p, label.n);
    for (struct table_node *n = table_first(&p->labels, hash); n; n = table_next(n)) {
        struct label *l = TABLE_ENTRY(n, struct label, node);
        if (str_is(label, l->row.label)) return &l->row;
    }
    struct label *l = arena_alloc(&p->arena, sizeof *l);
    l->row.label = arena_strdup(&p->arena, label);
    table_add(&p->labels, &l->node, hash);
    p->rows = xgrow(p->rows, p->n_rows, sizeof *p->rows);
    p->rows[p->n_rows++] = &l->row;
    return &l->row;
}

static int by_start(const void *a, const void *b) {
    const struct ledger_range *x = a, *y = b;
    return (x->a > y->a) - (x->a < y->a);
}

/* The records of the source topic that a group speaks of, ascending: the order in which a batch was
 * collected. False: they are of several partitions, which no delivery's are. */
static bool members_of(struct replay_plan *p, const struct ledger_entry *e,
                       const struct ledger_group *g, int32_t *ret_partition,
                       struct ledger_range **ret, size_t *ret_n) {
    size_t n = g->n_origins ? g->n_origins : g->n_offsets;
    struct ledger_range *v = arena_alloc(&p->arena, n * sizeof *v);
    *ret_partition = g->n_origins ? g->origins[0].partition : e->partition;
    for (size_t i = 0; i < n; i++) {
        v[i] = g->n_origins ? g->origins[i].range : g->offsets[i];
        if (g->n_origins &&
            (g->origins[i].partition != *ret_partition || !str_is(g->origins[i].topic, p->source)))
            return false;
    }
    qsort(v, n, sizeof *v, by_start);
    *ret = v;
    *ret_n = n;
    return true;
}

static void say_delivered(struct replay_plan *p, struct replay_item *item,
                          const struct ledger_entry *e, const struct ledger_group *g) {
    item->settled_ms = e->settled_ms;
    item->row = row_of(p, g->to);
    item->key = g->object ? arena_strdup(&p->arena, g->key) : NULL;
    item->size = g->size;
    memcpy(item->sha256, g->sha256, SHA256_LEN);
    item->deliveries++;
}

static bool is_asked(const struct replay_filter *f, const struct ledger_entry *e,
                     const struct ledger_group *g) {
    return g->hashed && g->to.n && (!f->from_ms || e->settled_ms >= f->from_ms) &&
           (!f->to_ms || e->settled_ms <= f->to_ms) &&
           (!f->destination || glob_matches(f->destination, g->to));
}

static bool take_delivered(struct replay_plan *p, const struct ledger_entry *e,
                           const struct ledger_group *g, struct buf *err) {
    struct ledger_range *members;
    size_t n;
    int32_t partition;
    if (!members_of(p, e, g, &partition, &members, &n)) return true;
    struct replay_item *item = replay_item_at(p, partition, members[0].a);
    if (item && item->state != REPLAY_OLD) {
        say_delivered(p, item, e, g);
        return true;
    }
    if (!is_asked(p->filter, e, g)) return true;
    p->records += g->count;
    if (p->n == REPLAY_ITEMS_MAX || p->records > REPLAY_RECORDS_MAX) {
        buf_printf(err,
                   "more than %zu deliveries, or %" PRIu64
                   " records, are asked for: take them in parts (--destination, --from, --to)",
                   REPLAY_ITEMS_MAX, REPLAY_RECORDS_MAX);
        return false;
    }
    if (item) table_remove(&p->index, &item->node); /* of a topic that is gone */
    item = arena_alloc(&p->arena, sizeof *item);
    *item = (struct replay_item){
        .partition = partition, .members = members, .n_members = n, .count = (uint32_t)g->count};
    say_delivered(p, item, e, g);
    p->items = xgrow(p->items, p->n, sizeof *p->items);
    p->items[p->n++] = item;
    table_add(&p->index, &item->node, item_hash(partition, members[0].a));
    return true;
}

/* An item goes again whole, so its first record tells. */
static void take_replayed(struct replay_plan *p, const struct ledger_group *g) {
    for (size_t i = 0; i < g->n_origins; i++)
        for (int64_t v = g->origins[i].range.a; v <= g->origins[i].range.z; v++) {
            struct replay_item *item = replay_item_at(p, g->origins[i].partition, v);
            if (item) item->replays++;
        }
}

static void begin_anew(struct replay_plan *p, int32_t partition) {
    for (size_t i = 0; i < p->n; i++)
        if (p->items[i]->partition == partition) p->items[i]->state = REPLAY_OLD;
}

/* ---- the ledger ---- */

static bool refuse(const struct ledger_entry *e, struct buf *err, const char *what) {
    buf_printf(err,
               "entry %" PRIu64 " of %.*s/%d %s: nothing is sent again on a guess; `runsink "
               "verify` names what is wrong",
               e->seq, (int)e->topic.n, e->topic.p, (int)e->partition, what);
    return false;
}

/* A repeated entry says the same again. */
static bool take_chain(struct replay_plan *p, const struct ledger_entry *e, struct buf *err) {
    if (e->seq < p->seq) return true;
    if (e->seq > p->seq || memcmp(e->prev, p->head, SHA256_LEN) != 0)
        return refuse(e, err, "does not follow the one before it");
    p->seq = e->seq + 1;
    p->next = e->next;
    memcpy(p->head, e->hash, SHA256_LEN);
    for (size_t i = 0; i < e->n_groups; i++)
        if (e->groups[i].kind == LEDGER_REPLAYED) take_replayed(p, &e->groups[i]);
    return true;
}

static bool take_entry(struct replay_plan *p, const struct ledger_entry *e, struct buf *err) {
    if (str_is(e->topic, p->chain)) return take_chain(p, e, err);
    bool ok = true;
    if (e->anew && str_is(e->topic, p->source)) begin_anew(p, e->partition);
    for (size_t i = 0; ok && i < e->n_groups; i++)
        if (e->groups[i].kind == LEDGER_DELIVERED) ok = take_delivered(p, e, &e->groups[i], err);
    return ok;
}

bool replay_plan_take(struct replay_plan *p, struct str key, struct str value, struct buf *err) {
    struct arena arena = {0};
    struct ledger_entry e;
    struct ledger_read_error why;
    uint8_t hash[SHA256_LEN];
    bool ok = ledger_read(value, &arena, &e, &why);
    if (!ok) {
        buf_printf(err,
                   "an entry of the ledger, for %.*s, can't be read: `runsink verify` names it",
                   (int)(key.n < 300 ? key.n : 300), key.p ? key.p : "");
    } else if (str_is(e.group, p->group)) {
        sha256(e.canonical.p, e.canonical.n, hash);
        ok = memcmp(hash, e.hash, SHA256_LEN) == 0 ? take_entry(p, &e, err)
                                                   : refuse(&e, err, "was altered");
    }
    arena_free(&arena);
    return ok;
}

static int by_place(const void *a, const void *b) {
    const struct replay_item *x = *(struct replay_item *const *)a;
    const struct replay_item *y = *(struct replay_item *const *)b;
    if (x->partition != y->partition) return x->partition < y->partition ? -1 : 1;
    return (x->members[0].a > y->members[0].a) - (x->members[0].a < y->members[0].a);
}

void replay_plan_finish(struct replay_plan *p) {
    for (size_t i = 0; i < p->n; i++) {
        struct replay_item *item = p->items[i];
        if (item->state == REPLAY_OPEN && item->replays >= item->deliveries)
            item->state = REPLAY_WAITS;
        else if (item->state == REPLAY_OPEN && p->filter->to_ms &&
                 item->settled_ms > p->filter->to_ms)
            item->state = REPLAY_OTHER;
    }
    if (p->n) qsort(p->items, p->n, sizeof *p->items, by_place);
}

/* ---- entries ---- */

bool replay_plan_encode(const struct replay_plan *p, struct replay_item *const *v, size_t n,
                        const char *tier, const struct ledger_maker *maker, int64_t now_ms,
                        const struct ledger_signer *signer, struct buf *out,
                        uint8_t ret_hash[SHA256_LEN]) {
    struct arena arena = {0};
    struct ledger_item *items = arena_alloc(&arena, n * sizeof *items);
    struct ledger_window w = {.maker = maker,
                              .group = p->group,
                              .topic = p->chain,
                              .first = p->next,
                              .next = p->next,
                              .seq = p->seq,
                              .opened_ms = now_ms,
                              .settled_ms = now_ms,
                              .introduce = !p->introduced,
                              .items = items,
                              .n_items = n};
    memcpy(w.prev, p->head, SHA256_LEN);
    for (size_t i = 0; i < n; i++) {
        int64_t *offsets = arena_alloc(&arena, v[i]->count * sizeof *offsets);
        struct origin *origins = arena_alloc(&arena, v[i]->count * sizeof *origins);
        size_t k = 0;
        for (size_t j = 0; j < v[i]->n_members; j++)
            for (int64_t at = v[i]->members[j].a; at <= v[i]->members[j].z; at++, k++) {
                offsets[k] = w.next++;
                origins[k] = (struct origin){.partition = v[i]->partition, .offset = at};
                snprintf(origins[k].topic, sizeof origins[k].topic, "%s", p->source);
            }
        items[i] = (struct ledger_item){.kind = LEDGER_REPLAYED,
                                        .dest = v[i]->row->label,
                                        .tier = tier,
                                        .offsets = offsets,
                                        .origins = origins,
                                        .n = k};
    }
    bool ok = ledger_encode(&w, signer, out, ret_hash);
    arena_free(&arena);
    return ok;
}

void replay_plan_advance(struct replay_plan *p, struct replay_item *const *v, size_t n,
                         const uint8_t hash[SHA256_LEN]) {
    for (size_t i = 0; i < n; i++) {
        p->next += v[i]->count;
        v[i]->state = REPLAY_SENT;
    }
    p->seq++;
    p->introduced = true;
    memcpy(p->head, hash, SHA256_LEN);
}
