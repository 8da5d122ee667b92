/* Anchors the chains of dead topics, which no lane does: only redrive writes to them. Main thread;
 * blocks for a minute at most. */
#ifndef RUNSINK_REDRIVE_ANCHOR_H
#define RUNSINK_REDRIVE_ANCHOR_H

#include "config/config.h"
#include "worker/tools/redrive_plan.h"

/* Writes an anchor of the chains that this process has added to, unless there are none; in several
 * where they are too many for one. False with a message in err. */
bool redrive_anchor(const struct config *, const struct chains *, const struct ledger_signer *,
                    bool (*told)(void), struct buf *err);

#endif
