/* Nothing is signed on top of what this worker has not verified: when a partition is taken over,
 * its chain's newest entry is looked for in the ledger and its signature checked, before the first
 * entry is written. Lane's thread. */
#ifndef RUNSINK_PROOF_H
#define RUNSINK_PROOF_H

#include <stdbool.h>

struct lane;
struct partition;

bool proof_waits(struct lane *, struct partition *); /* true: it may not be read yet */
void proof_poll(struct lane *);                      /* each turn: takes what the ledger says */
void proof_stop(struct lane *);

#endif
