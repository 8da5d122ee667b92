/* The metadata that travels with a committed offset (at most 4096 bytes, printable ASCII):
 *     rs1 <seq> <chain head, 64 hex digits> <end>,<end>,...
 * seq is the number of ledger entries written for the partition so far, head the hash of the last
 * one (zeros for none), the ends are the boundaries of windows sealed but not settled, the first
 * absolute, each later one as the difference to the one before. Pure; any thread. */
#ifndef RUNSINK_META_H
#define RUNSINK_META_H

#include "worker/hash.h"
#include "worker/window.h"

#define META_MAX 4096

struct meta {
    uint64_t seq;
    uint8_t head[SHA256_LEN];
    int64_t ends[WINDOW_ENDS_MAX];
    size_t n_ends;
};

/* Writes a NUL-terminated text; false (ret untouched) when the ends are not ascending and above 0
 * or more than WINDOW_ENDS_MAX. Any WINDOW_ENDS_MAX of them fit. */
bool meta_encode(const struct meta *, char ret[META_MAX + 1]);
/* Parses; false (ret untouched) when it is not ours, damaged or not ascending. The text may be
 * empty or foreign: an operator may have reset the offset by other tools. */
bool meta_decode(struct str, struct meta *ret);

#endif
