/* The lane's part in anchoring: the heads of the ledger's chains are written to a bucket of the
 * operator's. Lane's thread. */
#ifndef RUNSINK_ANCHOR_WRITE_H
#define RUNSINK_ANCHOR_WRITE_H

#include <stdbool.h>

struct buf;
struct config;
struct lane;
struct ledger_signer;

/* At the start: false with a message in err when anchors are wanted and can't be had. */
bool anchor_check(const struct config *, const struct ledger_signer *, struct buf *err);
bool anchor_open(struct lane *, struct buf *err);
void anchor_close(struct lane *); /* after http_free() */
void anchor_reconfigure(struct lane *);
void anchor_tick(struct lane *); /* each turn */
/* A head waits for its anchor, which may be under way. */
bool anchor_waits(const struct lane *);
void anchor_hurry(struct lane *); /* the next one is due now, unless the store just failed */

#endif
