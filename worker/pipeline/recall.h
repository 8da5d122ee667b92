/* Whether the ledger has the chain of a partition that has no committed offset. Lane's thread.
 */
#ifndef RUNSINK_RECALL_H
#define RUNSINK_RECALL_H

#include <stdbool.h>

struct lane;
struct partition;

bool recall_waits(struct lane *, struct partition *); /* true: it may not be read yet */
void recall_poll(struct lane *);                      /* each turn: takes what the ledger says */
void recall_stop(struct lane *);

#endif
