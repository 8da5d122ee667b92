#include "worker/pipeline/source.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/base/log.h"
#include "worker/pipeline/assignment.h"
#include "worker/pipeline/caution.h"
#include "worker/pipeline/delivery.h"
#include "worker/pipeline/ending.h"
#include "worker/pipeline/lane.h"

#define SEEK_AGAIN_MS 1000
#define REREAD_MS 10000
#define GONE_AGAIN_MS 30000
/* A look is as good for what is fetched so much later: no topic is deleted, made anew and filled in
 * a moment. */
#define SURE_FOR_MS 1000

/* ---- reading ---- */

/* Retention removed what comes next: the range is named in the ledger, never skipped in silence. */
static void lose(struct lane *lane, struct partition *p, int64_t low) {
    int64_t at = p->windows.next;
    if (windows_open(&p->windows)) { /* begin again with what is left */
        lane_restart(lane, "retention removed records inside a window that must stay whole");
        return;
    }
    struct window *w = windows_lost(&p->windows, low);
    if (!w) return; /* too many boundaries in flight: tried again */
    window_begin(lane, p, w, 0);
    log_error("retention removed records before they were read", LOG_S("topic", p->topic),
              LOG_I("partition", p->id), LOG_I("first", at), LOG_I("next", low));
    assignment_move(p, low);
}

/* A partition that could not be read is silent once it can be, until something new comes. Reading
 * it anew makes librdkafka tell of its end, or of the error again. */
static void read_again(struct lane *lane, struct partition *p) {
    p->reread_ms = lane->now_ms + REREAD_MS;
    if (feed_waiting(p->feed)) return;
    assignment_move(p, p->begins ? FEED_BEGINNING : partition_at(p));
}

/* What we want to read lies beyond the end: was the topic truncated or made anew? A truncated
 * partition still has older records. One that was made anew is empty, or has only records that are
 * younger than those we read. */
static bool is_anew(struct lane *lane, const struct partition *p, int64_t low, int64_t high) {
    int64_t first;
    if (low == high) return true;
    if (!p->opened_ms) return false;
    place_at(&lane->place, STEP_KAFKA, -1);
    return feed_ask_time(p->feed, p->opened_ms, &first) && first == low;
}

/* What was read of a topic that is gone is settled in one transaction with the new one's beginning:
 * an offset of the old one must not stand there for a moment, or the next owner reads on from it.
 * What no end was declared of is parked in it, unsent: a member that was put out meanwhile, and
 * finds that by the transaction alone, would send another window than the next owner did. */
static void end_windows(struct lane *lane, struct partition *p) {
    if (windows_open(&p->windows)) {
        lane_restart(lane, "a topic was deleted inside a batch that must stay whole");
        return;
    }
    for (struct window *w = p->windows.oldest; w; w = w->newer) {
        if (w->declared || !w->batched) continue;
        w->declared = true;
        delivery_park(w);
    }
}

/* The topic that has the name now does not have this partition, for all that can be seen. The group
 * may leave it to us all the same (cooperative-sticky, librdkafka 2.0 to 2.8 at least). It is
 * looked for now and then: the topic may grow. */
static void miss(struct lane *lane, struct partition *p) {
    if (!p->unreadable_ms) p->unreadable_ms = lane->now_ms;
    snprintf(p->error, sizeof p->error,
             "its topic was deleted, and the one that has its name now "
             "is not known to have it");
    if (lane->now_ms - p->unreadable_ms < lane->cfg->ready_patience || lane->settlement) return;
    p->seek_ms = lane->now_ms + GONE_AGAIN_MS;
    if (p->left) return;
    log_error("the topic was deleted, and a partition of it was not made anew: what was read of it "
              "is not settled",
              LOG_S("topic", p->topic), LOG_I("partition", p->id),
              LOG_I("settled_to", p->committed));
    ending_anew(lane, p);
    caution_set(lane, p, CAUTION_NONE);
    windows_clear(&p->windows);
    p->left = true;
}

/* The broker does not have the offset that we want to read. */
static void find_position(struct lane *lane, struct partition *p) {
    int64_t low, high;
    p->seek_ms = lane->now_ms + SEEK_AGAIN_MS;
    /* While the ledger is still to be asked, nothing of it was read: what is lost is said once its
     * chain is known. */
    if (p->begins || p->recall != RECALL_NONE) {
        p->begins = true;
        assignment_move(p, FEED_BEGINNING);
        return;
    }
    /* What is lost is said in an entry, whose signature depends on this. */
    if (partition_unproven(p)) return;
    if (!assignment_watermarks(lane, p, &low, &high)) {
        if (p->vanished) miss(lane, p);
        return;
    }
    const struct window *open = windows_open(&p->windows);
    /* A batch that came back is never split: it goes on, or the lane begins again. */
    if (open && !open->incomplete) windows_seal(&p->windows);
    int64_t at = partition_at(p);
    bool anew =
        p->vanished || (low <= at && (at > high || p->shrunk) && is_anew(lane, p, low, high));
    if (anew) {
        p->vanished = true;
        p->durable = false;
        p->anew_at = low;
        if (p->windows.count)
            end_windows(lane, p);
        else
            assignment_anew(lane, p, low);
        return;
    }
    if (low > at) {
        lose(lane, p, low);
    } else if (at > high) {
        if (!p->beyond_ms) p->beyond_ms = lane->now_ms;
        snprintf(p->error, sizeof p->error,
                 "committed %" PRId64 ", available %" PRId64 " to %" PRId64, at, low, high);
        p->seek_ms = lane->now_ms + 30 * SEEK_AGAIN_MS;
        return;
    } else if (!assignment_is_sure(lane, p, p->astray_ms)) { /* one that was filled again since? */
        return;
    } else { /* a broker that had just become, or ceased to be, the leader */
        assignment_move(p, at);
    }
    p->astray_ms = p->beyond_ms = 0;
    p->shrunk = false;
}

/* What the record says of when it is due, by the clock of whoever parked it; 0 at once (also when
 * the header is missing: its outcome will say so). */
static int64_t due_said(const struct fetched *message) {
    struct str text = fetched_header(message, "runsink-due");
    int64_t ms = 0;
    if (text.n > 15) return 0;
    for (size_t i = 0; i < text.n; i++) {
        if (text.p[i] < '0' || text.p[i] > '9') return 0;
        ms = ms * 10 + (text.p[i] - '0');
    }
    return ms;
}

/* When the head of a retry partition is due, by this machine's clock. Whoever parked it has said so
 * by his own, which may be wrong. So it waits no longer than the topic's delay from the broker's
 * timestamp, by the broker's clock (broker_clock.h). Where the topic carries the producer's, the
 * delay counts from when we read the record. */
static int64_t due_of(const struct lane *lane, struct partition *p, const struct fetched *message) {
    bool by_broker;
    int64_t due = due_said(message), at = fetched_time_ms(message, &by_broker);
    feed_filled(p->feed, &p->filled_ms, &p->filled_wall_ms);
    int64_t most = p->filled_wall_ms + p->delay_ms;
    if (by_broker)
        most = at + p->delay_ms + lane->wall_ms - broker_clock_hear(&p->broker, at, lane->now_ms);
    return due < most ? due : most;
}

/* The wait ends after the delay by the monotonic clock, whatever happens to the others. */
static bool is_early(const struct lane *lane, const struct partition *p) {
    return p->head_due_ms > lane->wall_ms && lane->now_ms - p->filled_ms < p->delay_ms;
}

static void take_end(struct lane *lane, struct partition *p, int64_t offset) {
    p->eof = true;
    p->eof_at = offset;
    p->at_first = p->kind == PARTITION_RETRY;
    if (p->unreadable_ms) vitals_readable(lane, p);
    if (p->begins) assignment_begin(p, offset);
    ending_at(lane, p, offset);
    windows_passed(&p->windows, offset);
}

/* A topic that was deleted and made anew may have been filled past where we read before it was
 * looked at. If such a record is taken, nothing is lost, since its settlement looks too; but it
 * comes once more: into a second batch, or as a second outcome of what was parked. So what was
 * fetched waits for a look: of a retry topic the first record beyond an end that was reached, of a
 * source all that came more than SURE_FOR_MS after the last look, and each settlement is one. A
 * slow coordinator makes nothing late for that. */
static bool is_of_old(const struct lane *lane, struct partition *p) {
    feed_filled(p->feed, &p->filled_ms, &p->filled_wall_ms); /* one look serves all of these */
    int64_t since_ms = p->filled_ms - (p->kind == PARTITION_SOURCE ? SURE_FOR_MS : 0);
    if (assignment_is_sure(lane, p, since_ms)) return true;
    bool told = p->doubts > 1; /* once that it is gone */
    bool slow =
        p->kind == PARTITION_SOURCE && p->doubting && lane->now_ms - p->asked_ms >= SOURCE_SURE_MS;
    return !told && (slow || lane->now_ms - p->filled_ms >= SOURCE_SURE_MS);
}

/* Whether the message that comes next may be taken now. */
static bool take_head(struct lane *lane, struct partition *p, const struct feed_head *head) {
    if (p->unreadable_ms) vitals_readable(lane, p);
    if (p->begins) assignment_begin(p, head->offset);
    windows_passed(&p->windows, head->offset); /* a replayed one may have lost its last records */
    if ((p->at_first || p->kind == PARTITION_SOURCE) && !is_of_old(lane, p)) return false;
    p->at_first = false;
    ending_first(lane, p, head->message);
    if (p->kind == PARTITION_SOURCE) return true;
    p->head_due_ms = due_of(lane, p, head->message);
    return !is_early(lane, p);
}

bool source_peek(struct lane *lane, struct partition *p, struct feed_head *ret) {
    if (!p->loaded || p->left || p->vanished || is_early(lane, p)) return false;
    while (!lane->restart) {
        enum feed_next next = feed_peek(p->feed, ret);
        if (next == FEED_NOTHING) return false;
        if (p->end >= 0 && !p->end_known) ending_know(p); /* as it is at the first fetch */
        if (p->high_seen < 0) vitals_watch_end(lane, p);
        p->eof = false; /* an end that was told before is passed */
        switch (next) {
        case FEED_MESSAGE:
            return take_head(lane, p, ret);
        case FEED_END:
            take_end(lane, p, ret->offset);
            break;
        case FEED_ASTRAY:
            p->astray_ms = lane->now_ms;
            find_position(lane, p);
            break;
        case FEED_FAILED:
            vitals_unreadable(lane, p, ret->error);
            break;
        case FEED_NOTHING:
            break;
        }
    }
    return false;
}

struct fetched *source_take(struct partition *p) {
    p->head_due_ms = 0;
    return feed_take(p->feed);
}

/* ---- topics ---- */

static void subscribe(struct lane *lane) {
    if (!lane->settles) return;
    struct worker_shared *shared = lane->shared;
    pthread_mutex_lock(&shared->mutex);
    if (lane->subscribed != shared->version) {
        size_t n = 0;
        const char **all = xcalloc(shared->topics.n + shared->retries.n + 1, sizeof *all);
        for (size_t i = 0; i < shared->topics.n; i++) all[n++] = shared->topics.v[i];
        for (size_t i = 0; i < shared->retries.n; i++) all[n++] = shared->retries.v[i];
        lane->subscribed = shared->version;
        consumer_subscribe(lane->consumer, all, n);
        if (!n) lane->assigned = false; /* it leaves the group: no assignment follows */
        free(all);
    }
    pthread_mutex_unlock(&shared->mutex);
}

/* ---- the consumer ---- */

/* How many partitions may come to this member: all. Those of retry topics, of which there are five
 * for each of a source topic, count half, since they are empty mostly. */
static int64_t expected(const struct lane *lane) {
    struct worker_shared *shared = lane->shared;
    pthread_mutex_lock(&shared->mutex);
    int64_t n = (shared->partitions + shared->sources + 1) / 2;
    pthread_mutex_unlock(&shared->mutex);
    return n;
}

static void broken(void *lane, const char *why) {
    lane_restart(lane, why);
}

bool source_open(struct lane *lane, struct buf *err) {
    static const struct consumer_events events = {.assigned = assignment_assigned,
                                                  .revoked = assignment_revoked,
                                                  .committed = assignment_committed,
                                                  .looked = vitals_looked,
                                                  .topic_failed = vitals_topic_failed,
                                                  .client_failed = vitals_client_failed,
                                                  .group_denied = vitals_group_denied,
                                                  .broken = broken};
    lane->consumer =
        consumer_new(lane->cfg, lane->id, expected(lane), lane->wake_fd, &events, lane, err);
    if (!lane->consumer) return false;
    lane->joined = true;
    lane->subscribed = 0;
    lane->assigned = lane->stale = false;
    vitals_begin(lane);
    subscribe(lane);
    return true;
}

void source_close(struct lane *lane) {
    if (!lane->joined) return;
    lane->joined = false;
    vitals_end(lane);
    consumer_close(lane->consumer); /* revokes through the callback */
    while (lane->partitions) assignment_drop(lane, lane->partitions);
}

void source_free(struct lane *lane) {
    consumer_free(lane->consumer, lane->dropped != NULL);
    lane->consumer = NULL;
}

void source_poll(struct lane *lane) {
    consumer_poll(lane->consumer);
    for (struct partition *p = lane->partitions; p; p = p->next) {
        if (p->seek_ms && p->seek_ms <= lane->now_ms) find_position(lane, p);
        if (p->reread_ms && p->reread_ms <= lane->now_ms) read_again(lane, p);
    }
    assignment_poll(lane);
    subscribe(lane);
}
