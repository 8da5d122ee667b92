/* What a settlement says: one transaction (worker/kafka/txn.h) with the ledger entries, the
 * parked records, the dead letters, the notices, and the offsets with their metadata. Lane's
 * thread. */
#ifndef RUNSINK_SETTLEMENT_H
#define RUNSINK_SETTLEMENT_H

#include <stdbool.h>
#include <stdint.h>

struct lane;
struct partition;

/* Starts a settlement when one is due and none is under way; takes the result of one that has
 * ended. */
void settlement_run(struct lane *);
bool settlement_due(const struct lane *);
/* After producer_free(), which freed the job. */
void settlement_abandon(struct lane *);
/* Since when the partition's source can't be settled, since a topic of runsink's own can't be
 * written; 0: it can. */
int64_t settlement_blocked_since(const struct lane *, const struct partition *);
/* Whether it was tried in vain since then, and before. */
bool settlement_hopeless(const struct lane *, const struct partition *, int64_t since_ms);
/* When the lane ends: whether something is left that was to be settled, or that may or may not have
 * been; what that is goes to the log. */
bool settlement_unknown(const struct lane *);
/* The lane's membership was refused, and no other one comes before a rebalance callback. */
bool settlement_over(const struct lane *);
void settlement_hurry(struct lane *); /* what can't be settled is tried at once */
/* When a source that can't be settled is tried again, monotonic ms; INT64_MAX: there is none. */
int64_t settlement_again_ms(const struct lane *);

#endif
