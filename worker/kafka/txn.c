#include "worker/kafka/txn.h"

#include <stdlib.h>

#include "worker/base/buf.h"

struct txn *txn_new(void) {
    return xcalloc(1, sizeof(struct txn));
}

struct txn *txn_new_in(const void *membership, size_t n) {
    struct txn *t = txn_new();
    t->membership = xmalloc(n);
    memcpy(t->membership, membership, n);
    t->membership_len = n;
    return t;
}

void txn_free(struct txn *t) {
    if (!t) return;
    free(t->membership);
    free(t->offsets);
    free(t->records);
    arena_free(&t->arena);
    free(t);
}

struct txn_record *txn_add(struct txn *t) {
    t->records = xgrow(t->records, t->n_records, sizeof *t->records);
    struct txn_record *r = &t->records[t->n_records++];
    *r = (struct txn_record){.partition = -1};
    return r;
}

struct txn_offset *txn_offset(struct txn *t, const char *topic, int32_t partition, int64_t offset,
                              const char *metadata) {
    t->offsets = xgrow(t->offsets, t->n_offsets, sizeof *t->offsets);
    struct txn_offset *o = &t->offsets[t->n_offsets++];
    *o = (struct txn_offset){.topic = arena_strdup(&t->arena, str_c(topic)),
                             .metadata = arena_strdup(&t->arena, str_c(metadata)),
                             .partition = partition,
                             .offset = offset};
    return o;
}
