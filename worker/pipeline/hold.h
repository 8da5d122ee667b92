/* What the operator holds: events of workspaces, and for destinations, that hold.* names are not
 * attempted, but become dead letters at once. Pure; any thread. */
#ifndef RUNSINK_HOLD_H
#define RUNSINK_HOLD_H

#include "config/config.h"
#include "worker/base/outcome.h"

/* workspace: as the event says it. label: of the destination. */
bool hold_names(const struct config *, struct str workspace, const char *label);
struct outcome hold_outcome(void);

#endif
