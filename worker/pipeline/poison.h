/* A record that kills its worker (a crash, a hang that the watchdog ends, memory that the kernel
 * takes back) would kill the next one too, for ever. It is found by what the commit metadata says
 * of the readers of a partition, and becomes a dead letter:
 *
 * - Before the first record of a partition is read, it is durable that we read it, and how many
 *   readers before us went without giving it back (struct claim). An orderly end gives it back, but
 *   not what is known of readers that died: whoever takes it next goes on being careful.
 * - After one death windows are small, so that what is settled soon reaches the neighbourhood of
 *   the culprit: of each partition at most WARY_RECORDS are in work.
 * - After two, records are tried one by one: while any partition of the process is read so, one
 *   record is in work in the whole process, since all its partitions die with it. That this record
 *   is alone in work is durable before it is decoded. What must stay together (a window whose end
 *   was durable already, a batch that comes back) is decoded record by record, and delivered one
 *   by one; of a delivery that is suspect each line is made alone first.
 * - A record, or delivery, that was alone in work when its worker died, the poison.attempts-th
 *   death, is blamed, which is durable until it is settled: it is not decoded again. One window may
 *   hold several.
 * - Once all that the dead readers can have had in work is settled, all is well again.
 *
 * A process that takes a partition again which it had itself (a rebalance, a lane that starts anew)
 * knows that nobody died. This header is the part that needs no lane; it is pure. */
#ifndef RUNSINK_POISON_H
#define RUNSINK_POISON_H

#include "worker/kafka/meta.h"

/* In work, of one partition that is read warily. */
#define WARY_RECORDS 16

enum caution { CAUTION_NONE, CAUTION_WARY, CAUTION_CAREFUL };

/* What to do with a partition whose metadata says this of its readers so far. */
struct takeover {
    struct claim want; /* to be made durable first */
    enum caution caution;
    bool near; /* the last reader had WARY_RECORDS in work at most */
};

/* me: this process. attempts: poison.attempts, at least 1. calm: nothing is left of what earlier
 * readers can have read. committed: what comes before it is settled. */
struct takeover takeover(const struct claim *before, uint64_t me, uint32_t attempts, bool calm,
                         int64_t committed);

/* The first offset, not before this one, that is blamed so; INT64_MAX: none. */
int64_t poison_blamed(const struct claim *, enum alone, int64_t from);

/* What an orderly end leaves of the claim that its reader holds: nothing, unless what earlier
 * readers had in work when they died is not settled yet; then how many they were, and what was
 * alone in work at the last death, which suspect still names. */
struct claim poison_release(const struct claim *held, const struct claim *suspect, bool settled);

/* How many records one note covers, where n are to be tried in a row: not more than some notes are
 * written, since each is a transaction. A death inside a note for several is followed by notes for
 * parts of those. */
int64_t poison_step(int64_t n);

#endif
