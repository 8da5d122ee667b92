/* The metadata that travels with a committed offset (at most 4096 bytes, printable ASCII):
 *     rs1 <seq>[@<era>] <chain head, 64 hex digits> <end>,<end>,...
 *     rs2 <seq>[@<era>] <chain head> <taken>:<reader, 16 hex digits>[:<r|p|w><first>+<n>*<tries>]
 * <end>,<end>,...[;<r|w><first>+<n>,...] The first while nobody reads, the second while somebody
 * does, or died doing it. An era that is 0 is not written. seq is the number of ledger entries
 * written for the partition so far, head the hash of the last one (zeros for none), the ends are
 * the boundaries of windows sealed but not settled, the first absolute, each later one as the
 * difference to the one before; what is blamed comes last. Pure; any thread. */
#ifndef RUNSINK_META_H
#define RUNSINK_META_H

#include "worker/base/hash.h"

#define META_MAX 4096
/* Boundaries in flight of one partition, what always fits the 4096 bytes of metadata: 200 that a
 * reader seals, and one kept free for a lost window. */
#define META_ENDS_MAX 201

/* What is alone in work, in a worker that reads with care (poison.c). */
enum alone {
    ALONE_NONE,
    ALONE_RECORD,     /* r: records of [first, next), one at a time: decoding, or a batch's lines */
    ALONE_DELIVERIES, /* p: the deliveries whose first members are of [first, next), at once */
    ALONE_WHOLE       /* w: one of these, whose lines are innocent */
};

/* What is set aside, once it is read, as killing its worker: records r, or deliveries w whose first
 * member is one of these. */
#define BLAMED_MAX 16
struct blame {
    enum alone alone; /* ALONE_RECORD or ALONE_WHOLE */
    int64_t first, next;
};

/* Who reads the partition, so that the next reader knows whether the last one died. */
struct claim {
    uint32_t taken;  /* 0: nobody, it was given back. Otherwise 1, and 1 more for each reader that
                        went without giving it back since all was well. */
    uint64_t reader; /* the process, by a random number */
    enum alone alone;
    int64_t first, next;
    uint32_t tries; /* how many readers in a row died with this alone, and this one tries it again:
                       1 for the first. 0: ALONE_NONE */
    /* What earlier deaths have told, and is not known to be settled: a window that holds several
     * culprits is settled only when all of them are known. */
    uint32_t n_blamed;
    struct blame blamed[BLAMED_MAX];
};

/* Whether they say the same of who reads. Only another reader blames something else. */
static inline bool claim_same(const struct claim *a, const struct claim *b) {
    return a->taken == b->taken && a->reader == b->reader && a->alone == b->alone &&
           a->first == b->first && a->next == b->next && a->tries == b->tries;
}

struct meta {
    uint64_t seq;
    uint64_t era; /* 0 for the first topic of this name, then a greater number for each new one */
    uint8_t head[SHA256_LEN];
    struct claim claim;
    int64_t ends[META_ENDS_MAX];
    size_t n_ends;
};

/* Writes a NUL-terminated text; false (ret untouched) when the ends are not ascending and above 0
 * or more than META_ENDS_MAX, or the claim names no range. Any META_ENDS_MAX of them fit. What is
 * blamed is written as far as there is room, which differences of fewer than 13 digits leave. */
bool meta_encode(const struct meta *, char ret[META_MAX + 1]);
/* Parses; false (ret untouched) when it is not ours, damaged or not ascending. The text may be
 * empty or foreign: an operator may have reset the offset by other tools. */
bool meta_decode(struct str, struct meta *ret);

#endif
