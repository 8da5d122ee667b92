#include "worker/tools/spans.h"

#include <stdlib.h>

void spans_free(struct spans *s) {
    free(s->v);
    *s = (struct spans){0};
}

/* The first range that ends at v or later. */
static size_t lower(const struct spans *s, int64_t v) {
    size_t low = 0, high = s->n;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (s->v[mid].z < v)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

bool spans_has(const struct spans *s, int64_t v) {
    size_t i = lower(s, v);
    return i < s->n && s->v[i].a <= v;
}

void spans_add(struct spans *s, struct ledger_range r) {
    size_t from = lower(s, r.a - 1), to = from; /* [from, to): what touches r */
    while (to < s->n && s->v[to].a <= r.z + 1) {
        if (s->v[to].a < r.a) r.a = s->v[to].a;
        if (s->v[to].z > r.z) r.z = s->v[to].z;
        to++;
    }
    if (from == to) s->v = xgrow(s->v, s->n, sizeof *s->v);
    if (from + 1 != to && from < s->n)
        memmove(s->v + from + 1, s->v + to, (s->n - to) * sizeof *s->v);
    s->n = s->n + 1 - (to - from);
    s->v[from] = r;
}
