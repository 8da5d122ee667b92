/* Whether chains end with an entry that was signed by one of some keys, or by one that such a key
 * named. The group's committed state says where each chain ends, and whoever can write to Kafka can
 * set that, and write entries. So a worker looks for the entry before it signs on top, and
 * `verify --from` before it takes it that a partition was idle. Fed with the ledger's records, in
 * any order. Pure; one thread. */
#ifndef RUNSINK_HEADS_H
#define RUNSINK_HEADS_H

#include "worker/ledger/entry.h"

/* What a partition's committed state says of its chain's newest entry. */
struct head_want {
    char topic[TOPIC_MAX + 1];
    int32_t partition;
    uint64_t seq;
    int64_t next; /* -1: any */
    uint8_t hash[SHA256_LEN];
};

struct heads;
struct heads *heads_new(const char *group, const struct ledger_pubkey *keys, size_t n);
void heads_free(struct heads *);
void heads_add(struct heads *, const struct head_want *);
void heads_take(struct heads *, struct str key, struct str value);
/* Whether it was among what was taken, and its key is known. */
bool heads_found(const struct heads *, const char *topic, int32_t partition);
/* How many are not known to be signed so or not. */
size_t heads_open(const struct heads *);
/* NULL: it is. Else what is wrong, a static phrase. */
const char *heads_wrong(const struct heads *, const char *topic, int32_t partition);

#endif
