/* A hash index over entries that somebody else owns: each has a struct table_node in it. Hashes
 * come from keyed_hash() or are as hard to choose, or who chooses keys makes it slow. Grows with
 * its entries, never shrinks. Zeroed: empty. One thread at a time. */
#ifndef RUNSINK_TABLE_H
#define RUNSINK_TABLE_H

#include <stddef.h>
#include <stdint.h>

struct table_node {
    struct table_node *next; /* in its bucket */
    uint64_t hash;
};

struct table {
    struct table_node **buckets;
    size_t cap; /* a power of two, or 0 */
    size_t n;
};

/* The entry that holds a node; the node is its member of that name. */
#define TABLE_ENTRY(node, type, member) ((type *)(void *)((char *)(node)-offsetof(type, member)))

static inline struct table_node *table_same(struct table_node *n, uint64_t hash) {
    while (n && n->hash != hash) n = n->next;
    return n;
}

/* The entries with this hash, one after another, for the caller to compare; NULL: no more. */
static inline struct table_node *table_first(const struct table *t, uint64_t hash) {
    return t->cap ? table_same(t->buckets[hash & (t->cap - 1)], hash) : NULL;
}
static inline struct table_node *table_next(const struct table_node *n) {
    return table_same(n->next, n->hash);
}

void table_add(struct table *, struct table_node *, uint64_t hash);
void table_remove(struct table *, struct table_node *); /* that stands in it */
/* Calls each() for every entry, in no order; it may free the entry, but not change the table. */
void table_each(const struct table *, void (*each)(void *context, struct table_node *),
                void *context);
void table_free(struct table *); /* the index alone; the table may be used again */

#endif
