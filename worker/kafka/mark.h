/* Where the ledger's last entry of a partition ends. Pure; any thread. */
#ifndef RUNSINK_MARK_H
#define RUNSINK_MARK_H

#include "worker/kafka/meta.h"

struct mark {
    bool known;
    uint64_t seq;
    int64_t next, settled_ms;
    uint8_t hash[SHA256_LEN];
};

/* What the partition's metadata said when that entry was settled. */
void mark_meta(const struct mark *, struct meta *ret);

#endif
