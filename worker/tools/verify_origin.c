#include "worker/tools/verify_origin.h"

#include <stdlib.h>

#include "worker/base/hash.h"

/* Open addressing, linear probing, at most two thirds full. */

void origins_free(struct origins *o) {
    if (!o) return;
    free(o->slots);
    free(o->used);
    *o = (struct origins){0};
}

static size_t home(const struct origins *o, uint32_t chain, int64_t offset) {
    struct {
        int64_t offset;
        uint64_t chain;
    } key = {offset, chain};
    return (size_t)keyed_hash(&key, sizeof key) & (o->cap - 1);
}

static size_t find(const struct origins *o, uint32_t chain, int64_t offset) {
    size_t i = home(o, chain, offset);
    while (o->used[i] && (o->slots[i].offset != offset || o->slots[i].chain != chain))
        i = (i + 1) & (o->cap - 1);
    return i;
}

static void enlarge(struct origins *o) {
    struct origins bigger = {.n = o->n, .cap = o->cap ? o->cap * 2 : 1024};
    bigger.slots = xcalloc(bigger.cap, sizeof *bigger.slots);
    bigger.used = xcalloc(bigger.cap, 1);
    for (size_t i = 0; i < o->cap; i++) {
        if (!o->used[i]) continue;
        size_t to = find(&bigger, o->slots[i].chain, o->slots[i].offset);
        bigger.slots[to] = o->slots[i];
        bigger.used[to] = 1;
    }
    origins_free(o);
    *o = bigger;
}

struct origin_tally *origins_at(struct origins *o, uint32_t chain, int64_t offset) {
    if (o->n * 3 >= o->cap * 2) enlarge(o);
    size_t i = find(o, chain, offset);
    if (!o->used[i]) {
        o->used[i] = 1;
        o->slots[i] = (struct origin_tally){.chain = chain, .offset = offset};
        o->n++;
    }
    return &o->slots[i];
}

/* Takes slot i out and moves back what would no longer be found behind the hole. */
static void drop(struct origins *o, size_t i) {
    size_t mask = o->cap - 1;
    o->n--;
    for (size_t k = (i + 1) & mask; o->used[k]; k = (k + 1) & mask) {
        size_t wants = home(o, o->slots[k].chain, o->slots[k].offset);
        if (((k - wants) & mask) < ((k - i) & mask)) continue;
        o->slots[i] = o->slots[k];
        i = k;
    }
    o->used[i] = 0;
}

void origins_settle(struct origins *o, struct origin_tally *t, uint64_t lives) {
    if (t->final == origin_lives(t, lives) && t->dead == t->redriven && origin_pending(t) == 0)
        drop(o, (size_t)(t - o->slots));
}

static int compare(const void *a, const void *b) {
    const struct origin_tally *x = a, *y = b;
    if (x->chain != y->chain) return x->chain < y->chain ? -1 : 1;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

const struct origin_tally *origins_sorted(struct origins *o, size_t *ret_n) {
    size_t n = 0;
    for (size_t i = 0; i < o->cap; i++)
        if (o->used[i]) o->slots[n++] = o->slots[i];
    if (n) qsort(o->slots, n, sizeof *o->slots, compare);
    *ret_n = n;
    return o->slots;
}
