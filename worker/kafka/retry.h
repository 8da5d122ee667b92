/* What parked records and dead letters carry in their headers, and when the next attempt is due.
 * Pure; any thread. Original headers stay as they were, except that names starting with "runsink-"
 * are never taken from a source topic (a producer could forge them). Ours:
 *   retry: runsink-origin (topic/partition/offset), runsink-first-failure, runsink-due,
 *          runsink-not-before (ms since the epoch; left out when 0), runsink-attempts, runsink-why
 *   dead:  runsink-origin, runsink-fault, runsink-reason, runsink-detail, runsink-status,
 *          runsink-attempts, runsink-first-failure, runsink-time
 *          runsink-marker (bytes): the topic refused the record itself, and this stands for it
 *   both:  runsink-told: "1" once <topic>.outcomes has an event that says that it fails, or died;
 *          runsink-timestamp (ms, of the original record: keys may be made of it), runsink-group
 * (consumer group; a record without it is taken by any), runsink-destination (redacted label; left
 * out when there is none), and for a batch's member runsink-batch-key, runsink-batch-count,
 * runsink-batch-index: a batch that died goes back under the key that a PUT of it may have reached
 */
#ifndef RUNSINK_RETRY_H
#define RUNSINK_RETRY_H

#include "worker/base/origin.h"
#include "worker/event/jobrun.h"

#define GROUP_MAX 200
#define DESTINATION_MAX 256 /* longer labels are cut */

/* The retry schedule: delays[0..n) ms (n > 0, each > 0), the last one repeating; instants counted
 * from the first failure: 0 (the first attempt), delays[0], delays[0] + delays[1], ... An attempt
 * whose instant lies beyond window_ms is not made. With the defaults (10 20 40 80 120 s) and one
 * hour that makes 33 attempts, the last at 58:30; with ten minutes 8, the last at 8:30. */
struct schedule {
    const int64_t *delays;
    size_t n;
};

/* Where a delivery stands in it. */
struct progress {
    int64_t first_failure_ms; /* wall clock, as are all; 0: has not failed yet */
    int64_t due_ms;
    int64_t not_before_ms; /* 0: none; asked for by Retry-After */
    uint32_t attempts;     /* made and counted so far */
    size_t tier;           /* once parked: which of the delays' topics it waits in */
};

struct retry {
    struct origin origin;
    int64_t timestamp_ms;     /* Kafka's, of the original record; 0: not known */
    struct progress progress; /* but for tier */
    char why[48];             /* of the last failure */
    char batch_key[1025];     /* empty: not a member of a batch */
    uint32_t batch_count, batch_index;
    char group[GROUP_MAX + 1]; /* consumer group that put it here: retry and dead topics of one
                                  source topic are shared by the groups that read it */
    char destination[DESTINATION_MAX]; /* redacted label; empty: not known */
    bool told;                         /* <topic>.outcomes has said that it fails, or died */
    int64_t died_ms;                   /* 0: not a dead letter */
    int64_t marker; /* of how many bytes the value was that this stands for; 0: it is the value */
};

/* Headers of a record read from a retry or dead topic. False with a phrase (static) in *reterr when
 * one is missing, malformed or stands twice. A record with runsink-reason is a dead letter: its
 * reason is put into why, runsink-time into died_ms, and due_ms is 0. Names of ours that are not
 * known are left alone. */
bool retry_parse(const struct header *, size_t n, struct retry *ret, const char **reterr);

/* The header list of a record to produce: originals (ours left out), then ours. The list and our
 * values are the arena's; the originals are borrowed as they are. */
struct header *retry_headers(const struct retry *, const struct header *originals, size_t n,
                             struct arena *, size_t *ret_n);
/* The originals alone. */
struct header *original_headers(const struct header *originals, size_t n, struct arena *,
                                size_t *ret_n);
struct header *dead_headers(const struct retry *, const struct outcome *, int64_t now_ms,
                            const struct header *originals, size_t n, struct arena *,
                            size_t *ret_n);

enum next { NEXT_RETRY, NEXT_EXPIRED };
/* Updates it after a failed attempt or, when outcome->uncounted, a delivery that was not attempted,
 * at now_ms: sets first_failure_ms when it is 0, counts the attempt, sets not_before_ms (from
 * retry_after_ms), due_ms and tier.
 * Counted: due is the schedule's next instant after first_failure, but no sooner than half the
 * delay from now (a worker that was away catches up without firing twice in a row, and makes every
 * attempt however late it is). When not_before is later, due is not_before instead.
 * Uncounted: due is not_before while that is ahead, else one delay from now, the longer of the
 * current one and the one that stands at the record's age in the schedule; expired once that lies
 * beyond the window, or beyond twice the window while it has not been tried at all, unless the
 * fault is FAULT_NONE (the queue was full, the worker left): nothing is wrong with the destination
 * then.
 * not_before is at most the window's end, so that what was asked to wait for longer is tried once
 * more; asked again for more than is left, it has expired.
 * due is never later than the longest delay from now (a longer not_before is waited for by parking
 * the record again, uncounted; a clock that was set back holds nothing for longer).
 * tier: the shortest delay >= due - now, else the last. Expired: tier and due_ms are left. */
enum next retry_next(struct progress *, const struct outcome *, const struct schedule *,
                     int64_t window_ms, int64_t now_ms);
/* Whether a delivery would be beyond its window if it were parked once more without an attempt: it
 * is to be made now, whatever its destination asked for. */
bool retry_is_last(const struct progress *, const struct schedule *, int64_t window_ms,
                   int64_t now_ms);

#endif
