/* Switches for the crash tests, off unless the environment sets them. RUNSINK_TEST_CRASH="point:n"
 * kills the process with SIGKILL at the n-th passage of a point (boundary-before, boundary-after,
 * put-before, put-after, txn-inside before and txn-sent after the
 * offsets were sent). RUNSINK_TEST_BREAK names a rule of the protocol to break on
 * purpose (no-boundary, commit-first), to prove that the checker notices. Any thread. */
#ifndef RUNSINK_CRASH_H
#define RUNSINK_CRASH_H

#include <stdbool.h>

void crash_setup(void); /* once, before threads */
void crash_point(const char *name);
bool crash_breaks(const char *rule);

#endif
