/* How many events wait for their next attempt, counted without reading the retry topics, and in
 * the same few bytes however many there are: by spans of time in which they are due. What comes
 * back to this process is taken off; what another one took is over when its time has passed. Pure;
 * times are wall clock, ms. */
#ifndef RUNSINK_BACKLOG_H
#define RUNSINK_BACKLOG_H

#include <stdint.h>

#define BACKLOG_SPANS 12

struct backlog {
    int64_t span_ms; /* 0: none was added yet */
    int64_t first;   /* number of the oldest span that counts */
    uint32_t n[BACKLOG_SPANS];
};

/* One more, due then. longest_ms: no event is due later than that from now. */
void backlog_add(struct backlog *, int64_t longest_ms, int64_t due_ms, int64_t now_ms);
/* One that was due then has come back, here or in another lane. */
void backlog_take(struct backlog *, int64_t due_ms);
uint64_t backlog_count(const struct backlog *, int64_t now_ms);

#endif
