#include "worker/pipeline/shares.h"

#include <assert.h>
#include <stdlib.h>

#include "worker/base/buf.h"

#define BUCKETS_MIN 256

struct shares {
    struct tally **buckets;
    size_t cap, n;
};

struct shares *shares_new(void) {
    struct shares *s = xcalloc(1, sizeof *s);
    s->cap = BUCKETS_MIN;
    s->buckets = xcalloc(s->cap, sizeof(struct tally *));
    return s;
}

void shares_free(struct shares *s) {
    if (!s) return;
    assert(!s->n);
    free(s->buckets);
    free(s);
}

static void grow(struct shares *s) {
    struct tally **old = s->buckets;
    size_t cap = s->cap;
    s->cap *= 2;
    s->buckets = xcalloc(s->cap, sizeof(struct tally *));
    for (size_t i = 0; i < cap; i++)
        for (struct tally *t = old[i], *next; t; t = next) {
            struct tally **bucket = &s->buckets[t->key & (s->cap - 1)];
            next = t->chain;
            t->chain = *bucket;
            *bucket = t;
        }
    free(old);
}

struct tally *shares_take(struct shares *s, uint64_t key) {
    struct tally **bucket = &s->buckets[key & (s->cap - 1)], *t = *bucket;
    while (t && t->key != key) t = t->chain;
    if (!t) {
        if (s->n++ == s->cap) {
            grow(s);
            bucket = &s->buckets[key & (s->cap - 1)];
        }
        t = xcalloc(1, sizeof *t);
        t->key = key;
        t->chain = *bucket;
        *bucket = t;
    }
    t->deliveries++;
    return t;
}

void shares_give(struct shares *s, struct tally *t) {
    if (--t->deliveries) return;
    assert(!t->waiting && !t->flying && !t->bytes && !t->ring);
    struct tally **at = &s->buckets[t->key & (s->cap - 1)];
    while (*at != t) at = &(*at)->chain;
    *at = t->chain;
    s->n--;
    free(t);
}
