/* Why deliveries fail and records die, by a closed list (failures.def): outcomes' own tokens are
 * many, and some come from stores and endpoints. Pure, any thread. */
#ifndef RUNSINK_FAILURES_H
#define RUNSINK_FAILURES_H

#include "worker/base/counters.h"

/* The counter of the reason that this token belongs to. */
enum counter failure_counter(const char *why);
/* The same as /metrics calls it, label `reason`. */
const char *failure_reason(const char *why);

#endif
