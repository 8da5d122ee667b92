/* Timestamps as RFC 3339 has them. Pure; any thread. */
#ifndef RUNSINK_RFC3339_H
#define RUNSINK_RFC3339_H

#include "worker/base/str.h"

/* Whether text is a date-time of RFC 3339, section 5.6: a "T" or "t" between date and time, an
 * offset always, any fraction, and second 60 only where UTC has leap seconds (23:59:60 on a month's
 * last day). */
bool rfc3339_ok(struct str);

#endif
