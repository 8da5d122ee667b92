/* Where the tests may make the worker die, or break a rule of the protocol on purpose, to prove
 * that the checker notices. In the program all of this is empty; tests/hooks/crash.c has the
 * functions of the tests' own build, runsink-hooks. Any thread. */
#ifndef RUNSINK_CRASH_H
#define RUNSINK_CRASH_H

#include <stdbool.h>
#include <stddef.h>

enum crash_point {
    CRASH_BOUNDARY_BEFORE,
    CRASH_BOUNDARY_AFTER,
    CRASH_PUT_BEFORE,
    CRASH_PUT_AFTER,
    CRASH_TXN_INSIDE, /* before the offsets were sent */
    CRASH_TXN_SENT,   /* after */
    CRASH_POINTS
};

enum crash_rule { CRASH_NO_BOUNDARY, CRASH_COMMIT_FIRST, CRASH_RULES };

/* What is being done with a record's bytes. */
enum crash_work { CRASH_DECODE, CRASH_BUILD, CRASH_SENT, CRASH_WORKS };

void crash_point(enum crash_point);
bool crash_breaks(enum crash_rule);
void crash_record(enum crash_work, const void *value, size_t n);

#endif
