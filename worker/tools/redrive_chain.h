/* What a source topic's ledger says of its dead letters: which of them went back, and where each
 * chain of such entries ends. A chain belongs to one partition of one dead topic, and only redrive
 * writes to it. Pure; one thread. */
#ifndef RUNSINK_REDRIVE_CHAIN_H
#define RUNSINK_REDRIVE_CHAIN_H

#include "worker/kafka/retry.h"
#include "worker/ledger/entry.h"
#include "worker/tools/spans.h"

#define FAULTS 4 /* of enum fault; FAULT_NONE has no topic */

struct chains;
/* group is kept, not copied. partitions: of the dead topics, by fault; 0: there is no such topic.
 */
struct chains *chains_new(const char *source, const char *group, const int partitions[FAULTS]);
void chains_free(struct chains *);

/* Takes a record of the ledger topic; entries of other chains than these are passed over. False
 * with a message in err when one of ours was altered or can't be read. */
bool chains_take(struct chains *, struct str key, struct str value, struct buf *err);
/* False with a message in err when entries are missing: what they sent back is not known. */
bool chains_whole(const struct chains *, struct buf *err);
enum letter_fate { LETTER_OPEN, LETTER_REDRIVEN, LETTER_DISCARDED };
/* What entries say of this dead letter: whether it went back or was discarded. A dead topic that
 * was deleted and made anew begins with the old offsets, so the origin and the time of death are
 * compared too: an entry's "opened" is when the youngest of its letters died, by the same clock. */
enum letter_fate chains_fate(const struct chains *, enum fault, int32_t partition, int64_t offset,
                             const struct retry *);

/* The next entry of a chain, of the window that the items' offsets span. The chain goes on from it
 * with chains_advance(), once it was committed. False past out's ceiling. */
struct chain_times {
    int64_t died_ms; /* the youngest letter */
    int64_t now_ms;
};
bool chains_encode(const struct chains *, enum fault, int32_t partition,
                   const struct ledger_item *items, size_t n, struct chain_times,
                   const struct ledger_signer *, struct buf *out, uint8_t ret_hash[SHA256_LEN]);
void chains_advance(struct chains *, enum fault, int32_t partition, const uint8_t hash[SHA256_LEN]);

#endif
