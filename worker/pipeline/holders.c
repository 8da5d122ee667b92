#include "worker/pipeline/holders.h"

#include <assert.h>
#include <stdlib.h>

#include "worker/base/buf.h"
#include "worker/base/table.h"

#define SIZES 65 /* powers of two, and nothing */

TAILQ_HEAD(holdings, holding);

struct holder {
    struct table_node node;
    size_t bytes;
    unsigned size;       /* the list it stands in */
    struct holdings all; /* longest unused first */
    TAILQ_ENTRY(holder) link;
};

_Static_assert(sizeof(struct holder) + 16 <= HOLDER_BYTES, "raise HOLDER_BYTES");

TAILQ_HEAD(holder_list, holder);

struct holders {
    struct table workspaces;
    struct holder_list sizes[SIZES]; /* of each size, longest unused first */
    unsigned largest;                /* no list above this one has any */
};

struct holders *holders_new(void) {
    struct holders *s = xcalloc(1, sizeof *s);
    for (unsigned i = 0; i < SIZES; i++) TAILQ_INIT(&s->sizes[i]);
    return s;
}

void holders_free(struct holders *s) {
    if (!s) return;
    assert(!s->workspaces.n);
    table_free(&s->workspaces);
    free(s);
}

static unsigned size_of(size_t bytes) {
    return bytes ? 64 - (unsigned)__builtin_clzll(bytes) : 0;
}

/* To the end of the list of its size. */
static void stand(struct holders *s, struct holder *h, unsigned size) {
    TAILQ_REMOVE(&s->sizes[h->size], h, link);
    TAILQ_INSERT_TAIL(&s->sizes[size], h, link);
    h->size = size;
    if (size > s->largest) s->largest = size;
    while (s->largest && TAILQ_EMPTY(&s->sizes[s->largest])) s->largest--;
}

static struct holder *holder_of(struct holders *s, uint64_t workspace) {
    struct table_node *node = table_first(&s->workspaces, workspace);
    if (node) return TABLE_ENTRY(node, struct holder, node);
    struct holder *h = xcalloc(1, sizeof *h);
    table_add(&s->workspaces, &h->node, workspace);
    TAILQ_INIT(&h->all);
    TAILQ_INSERT_TAIL(&s->sizes[0], h, link);
    return h;
}

static void holder_free(struct holders *s, struct holder *h) {
    table_remove(&s->workspaces, &h->node);
    TAILQ_REMOVE(&s->sizes[h->size], h, link);
    free(h);
}

void holders_add(struct holders *s, struct holding *one, uint64_t workspace) {
    struct holder *h = holder_of(s, workspace);
    one->of = h;
    one->bytes = 0;
    TAILQ_INSERT_TAIL(&h->all, one, link);
    stand(s, h, h->size);
}

void holders_weigh(struct holders *s, struct holding *one, size_t bytes) {
    struct holder *h = one->of;
    h->bytes += bytes - one->bytes;
    one->bytes = bytes;
    unsigned size = size_of(h->bytes);
    if (size != h->size) stand(s, h, size);
}

void holders_use(struct holders *s, struct holding *one) {
    struct holder *h = one->of;
    if (TAILQ_NEXT(one, link)) {
        TAILQ_REMOVE(&h->all, one, link);
        TAILQ_INSERT_TAIL(&h->all, one, link);
    }
    if (TAILQ_NEXT(h, link)) stand(s, h, h->size);
}

void holders_remove(struct holders *s, struct holding *one) {
    struct holder *h = one->of;
    holders_weigh(s, one, 0);
    TAILQ_REMOVE(&h->all, one, link);
    one->of = NULL;
    if (TAILQ_EMPTY(&h->all)) holder_free(s, h);
}

struct holding *holders_first(const struct holders *s) {
    const struct holder *h = TAILQ_FIRST(&s->sizes[s->largest]);
    return h ? TAILQ_FIRST(&h->all) : NULL;
}
