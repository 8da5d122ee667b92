/* Where the ledger's last entry of a partition ends, and which record was read there. Pure; any
 * thread.
 *
 * The era of a topic that was made anew (meta.h) is one more than the number of entries with the
 * one that says so. */
#ifndef RUNSINK_MARK_H
#define RUNSINK_MARK_H

#include "worker/kafka/meta.h"
#include "worker/ledger/entry.h"

struct mark {
    bool known;
    uint64_t seq, era;
    int64_t next, settled_ms;
    uint8_t hash[SHA256_LEN];
    bool has_last; /* an entry of the topic as it was then says what its newest record was: */
    uint64_t last_seq;
    struct ledger_last last;
};

/* Takes an entry of the partition in, in whatever order they come. */
void mark_take(struct mark *, const struct ledger_entry *);

/* What became of that newest record. */
enum mark_record {
    MARK_UNKNOWN, /* no entry says which it was; it has expired; or compaction may have removed it
                   */
    MARK_SAME,
    MARK_OTHER /* another one has its offset, or none has, where records go in order of age alone */
};
/* What a partition has now. */
struct mark_place {
    int64_t low, high;
    enum mark_record record;
    int64_t since; /* the first record since the entry was settled, by its time; negative: none */
};
/* Whether the log reaches over that newest record's offset: then what is there tells. */
bool mark_tells(const struct mark *, int64_t low, int64_t high);
/* Whether the topic was deleted and made anew since, which takes the group's offsets along; else
 * they have expired. Where no record tells, times do: all that is there is younger than the entry.
 */
bool mark_is_older(const struct mark *, const struct mark_place *);

/* What the partition's metadata said when that entry was settled. */
void mark_meta(const struct mark *, struct meta *ret);

#endif
