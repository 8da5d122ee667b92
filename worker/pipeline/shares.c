#include "worker/pipeline/shares.h"

#include <assert.h>
#include <stdlib.h>

#include "worker/base/buf.h"

struct tally *shares_take(struct table *tallies, uint64_t key) {
    struct table_node *node = table_first(tallies, key);
    struct tally *t = node ? TABLE_ENTRY(node, struct tally, node) : xcalloc(1, sizeof *t);
    if (!node) table_add(tallies, &t->node, key);
    t->deliveries++;
    return t;
}

void shares_give(struct table *tallies, struct tally *t) {
    if (--t->deliveries) return;
    assert(!t->waiting && !t->flying && !t->bytes && !t->ring);
    table_remove(tallies, &t->node);
    free(t);
}
