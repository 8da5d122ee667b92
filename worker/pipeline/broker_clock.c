#include "worker/pipeline/broker_clock.h"

/* What the clocks of a partition's leaders may differ by, when they are well. */
#define BACK_MS 5000

void broker_clock_begin(struct broker_clock *c) {
    *c = (struct broker_clock){.ahead_ms = INT64_MIN / 2};
}

int64_t broker_clock_hear(struct broker_clock *c, int64_t timestamp_ms, int64_t now_ms) {
    int64_t ahead = timestamp_ms - now_ms;
    if (ahead > c->ahead_ms || timestamp_ms < c->last_ms - BACK_MS) c->ahead_ms = ahead;
    c->last_ms = timestamp_ms;
    return now_ms + c->ahead_ms;
}
