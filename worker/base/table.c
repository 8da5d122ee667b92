#include "worker/base/table.h"

#include <stdlib.h>

#include "worker/base/buf.h"

#define CAP_MIN 64

static void put(struct table *t, struct table_node *n) {
    struct table_node **bucket = &t->buckets[n->hash & (t->cap - 1)];
    n->next = *bucket;
    *bucket = n;
}

static void grow(struct table *t) {
    struct table old = *t;
    t->cap = old.cap ? 2 * old.cap : CAP_MIN;
    t->buckets = xcalloc(t->cap, sizeof(struct table_node *));
    for (size_t i = 0; i < old.cap; i++)
        for (struct table_node *n = old.buckets[i], *next; n; n = next) {
            next = n->next;
            put(t, n);
        }
    free(old.buckets);
}

void table_add(struct table *t, struct table_node *n, uint64_t hash) {
    if (t->n == t->cap) grow(t);
    n->hash = hash;
    put(t, n);
    t->n++;
}

void table_remove(struct table *t, struct table_node *n) {
    struct table_node **at = &t->buckets[n->hash & (t->cap - 1)];
    while (*at != n) at = &(*at)->next;
    *at = n->next;
    t->n--;
}

void table_each(const struct table *t, void (*each)(void *, struct table_node *), void *context) {
    for (size_t i = 0; i < t->cap; i++)
        for (struct table_node *n = t->buckets[i], *next; n; n = next) {
            next = n->next;
            each(context, n);
        }
}

void table_free(struct table *t) {
    free(t->buckets);
    *t = (struct table){0};
}
