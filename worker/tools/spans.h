/* A set of offsets kept as ranges: small, because offsets are nearly contiguous. One thread. */
#ifndef RUNSINK_SPANS_H
#define RUNSINK_SPANS_H

#include "worker/ledger/entry.h"

struct spans {
    struct ledger_range *v; /* ascending, apart from one another */
    size_t n;
};

void spans_free(struct spans *);
void spans_add(struct spans *, struct ledger_range);
bool spans_has(const struct spans *, int64_t);

#endif
