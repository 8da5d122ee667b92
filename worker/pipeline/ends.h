/* --until-end: how far the partitions that were there at the start have been settled: the sources',
 * up to the ends that they had then, and the retry topics', up to what is parked there by now. A
 * topic that goes away takes its partitions from the lanes, and nobody would miss what was not read
 * of it: so it is kept here, beside them. The main thread makes it before the lanes start and looks
 * at it; lanes write to it. Any thread: one mutex, held for moments. Only grows at the start.
 *
 * Functions of lanes take NULL, and do nothing: a run without an end. */
#ifndef RUNSINK_ENDS_H
#define RUNSINK_ENDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/ledger/entry.h"

struct ends;
struct ends *ends_new(void);
void ends_free(struct ends *); /* NULL is fine */
/* Main thread, before the lanes: a topic as it is now. retry: its end moves on under the run, and
 * of a partition that no lane had nothing is known to be missed. The name is copied. */
void ends_add(struct ends *, const char *topic, int32_t partitions, bool retry);

/* ---- lanes ---- */

/* Where a partition stands. */
struct ends_at {
    int64_t at, end; /* settled to; the end, as far as is known; -1: it is not */
    bool committed;  /* so that at is what the group has committed */
    bool all;        /* all up to the end is settled */
};
/* A partition came to a lane. True when it has become another one since a lane had it last: then
 * *ret is where the old one stood. */
bool ends_come(struct ends *, const char *topic, int32_t partition, const struct ends_at *,
               struct ends_at *ret);
void ends_settled(struct ends *, const char *topic, int32_t partition, const struct ends_at *);
/* The topic is another one now: what of the old one was not settled is gone. True when there was
 * some of that. */
bool ends_anew(struct ends *, const char *topic, int32_t partition);
/* The first record of a partition of which nothing is committed. True when it shows that the topic
 * is another one than that which some lane had: then *ret is where the old one stood. */
bool ends_first(struct ends *, const char *topic, int32_t partition, const struct ledger_last *,
                struct ends_at *ret);

/* ---- the main thread ---- */

/* Of a topic, what was there at the start and will not be read by this run. */
struct ends_left {
    const char *topic; /* valid as long as the ends are */
    bool anew;         /* it was made anew; else it is not there, or can't be seen */
    int32_t partitions;
    int64_t unread; /* offsets; -1: not known of all of them */
};
/* there(): how many partitions of the topic can be read now. What lanes have settled, and what is
 * there for some member of the group, is not left. *ret is malloc's, the caller's to free. */
size_t ends_left(struct ends *, int32_t (*there)(const char *topic, const void *context),
                 const void *context, struct ends_left **ret);

#endif
