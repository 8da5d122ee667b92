#include "worker/dispatch.h"

#include <assert.h>
#include <stdlib.h>

#include "config/config.h"
#include "worker/log.h"
#include "worker/route.h"

/* What dispatch keeps with a destination (destination_state()). */
struct lineup {
    struct delivery *first, *last; /* waiting */
    size_t waiting, waiting_bytes, flying;
    struct lineup *next, *prev; /* in the ring of lineups that have something waiting */
    struct destination *dest;
    uint32_t failures;
    bool open, probing;
    int64_t probe_ms;   /* when the next probe may go, while open */
    int64_t not_before; /* Retry-After of a 429 or 503: nothing goes before */
    int64_t failing_since_ms;
    int64_t rate_ms; /* start of the second in which rate_sent counts */
    int64_t rate_sent;
    int64_t progress_ms; /* when a delivery last ended, or the first took off */
    int64_t latency_ms;  /* moving average of the time in flight */
    bool slow;           /* counted in slow_waiting */
    bool saturating;     /* counted in saturating, until no more than resume wait */
    size_t resume;
    uint64_t delivered, failed, parked;
    struct outcome failure; /* the last one */
};
_Static_assert(sizeof(struct lineup) <= DESTINATION_STATE_BYTES, "raise DESTINATION_STATE_BYTES");

struct dispatch {
    const struct config *cfg;
    struct sink_env *env;
    const int64_t *now_ms;
    bool patient;
    struct lineup *ring; /* next to be served: destinations take turns, one delivery each */
    struct delivery *finished, **finished_end;
    size_t waiting, flying;
    size_t risky_flying; /* of those flying, for destinations that may hold their connection long */
    size_t slow_waiting; /* of those waiting, for slow destinations */
    size_t saturating;   /* destinations over their quota that are waited for */
    const struct lineup *current; /* destination of the last delivery added */
    int64_t switched_ms;          /* when that last changed: are there others to protect? */
    /* The last two destinations (never followed: they may be gone) that had nothing waiting when
     * something was added. */
    struct {
        const struct lineup *who;
        int64_t ms;
    } prompt[2];
    int64_t wake_ms; /* when a lineup held back by its rate may go on; 0 none */
};

struct dispatch *dispatch_new(const struct config *cfg, struct sink_env *env, const int64_t *now_ms,
                              bool patient) {
    struct dispatch *d = xcalloc(1, sizeof *d);
    *d = (struct dispatch){.cfg = cfg, .env = env, .now_ms = now_ms, .patient = patient};
    d->finished_end = &d->finished;
    return d;
}

void dispatch_reconfigure(struct dispatch *d, const struct config *cfg) {
    d->cfg = cfg;
}

void dispatch_free(struct dispatch *d) {
    if (!d) return;
    assert(!d->waiting && !d->flying && !d->finished);
    free(d);
}

static struct lineup *lineup_of(struct destination *dest) {
    return destination_state(dest);
}

static void ring_add(struct dispatch *d, struct lineup *l) {
    if (!d->ring) {
        d->ring = l->next = l->prev = l;
        return;
    }
    l->next = d->ring;
    l->prev = d->ring->prev;
    l->prev->next = l->next->prev = l;
}

static void ring_remove(struct dispatch *d, struct lineup *l) {
    if (d->ring == l) d->ring = l->next == l ? NULL : l->next;
    l->prev->next = l->next;
    l->next->prev = l->prev;
    l->next = l->prev = NULL;
}

static void saturate(struct dispatch *d, struct lineup *l, bool on) {
    if (on && !l->saturating) d->saturating++;
    if (!on && l->saturating) d->saturating--;
    l->saturating = on;
}

/* A destination that takes longer than this for one delivery is slow: what waits for it must not
 * count as work that the lane is busy with. */
#define SLOW_MS 1000

static void judge_speed(struct dispatch *d, struct lineup *l) {
    bool slow = l->latency_ms > SLOW_MS || (l->flying && *d->now_ms - l->progress_ms > SLOW_MS);
    if (slow && !l->slow) d->slow_waiting += l->waiting;
    if (!slow && l->slow) d->slow_waiting -= l->waiting;
    l->slow = slow;
    if (slow) saturate(d, l, false);
}

static void unqueue(struct dispatch *d, struct lineup *l, struct delivery *v) {
    *(v->prev ? &v->prev->next : &l->first) = v->next;
    *(v->next ? &v->next->prev : &l->last) = v->prev;
    v->next = v->prev = NULL;
    l->waiting--;
    l->waiting_bytes -= v->size;
    d->waiting--;
    if (l->slow) d->slow_waiting--;
    if (l->waiting <= l->resume) saturate(d, l, false);
    if (!l->first) ring_remove(d, l);
}

static void finish(struct dispatch *d, struct delivery *v, const struct outcome *o) {
    v->outcome = *o;
    v->state = DELIVERY_ENDED;
    v->next = NULL;
    *d->finished_end = v;
    d->finished_end = &v->next;
}

/* Back to the worker without an attempt. */
static void hand_back(struct dispatch *d, struct delivery *v, enum fault fault, const char *why,
                      const char *detail) {
    struct lineup *l = lineup_of(v->batch.dest);
    struct outcome o = outcome_fail(VERDICT_RETRY, fault, why, "%s", detail);
    o.uncounted = true;
    if (l->not_before > *d->now_ms) o.retry_after_ms = (uint32_t)(l->not_before - *d->now_ms);
    l->parked++;
    finish(d, v, &o);
}

static void flush_waiting(struct dispatch *d, struct lineup *l) {
    while (l->first) {
        struct delivery *v = l->first;
        unqueue(d, l, v);
        hand_back(d, v, FAULT_TENANT, l->failure.why[0] ? l->failure.why : "breaker-open",
                  "breaker open");
    }
}

static bool is_shut(const struct dispatch *d, const struct lineup *l) {
    if (l->not_before > *d->now_ms) return true;
    return l->open && (l->probing || l->probe_ms > *d->now_ms);
}

/* Whether this destination has far more waiting than the others that have something waiting. */
static bool is_hog(const struct dispatch *d, const struct lineup *l) {
    size_t others = 0;
    for (const struct lineup *o = d->ring; o && others < 64; o = o->next) {
        if (o != l) others++;
        if (o->next == d->ring) break;
    }
    return l->waiting * (others ? others : 1) > 4 * (d->waiting - l->waiting);
}

/* What waits holds windows, and a partition has only so many: no more may wait than the
 * destination delivers in this time. */
#define PATIENCE_MS 10000

static size_t quota_of(const struct dispatch *d, const struct lineup *l, bool alone) {
    size_t most = (size_t)d->cfg->dest_waiting, least = 2 * (size_t)d->cfg->dest_concurrency;
    if (alone || l->latency_ms <= 0) return most;
    if (l->slow) return least;
    size_t quota = (size_t)(d->cfg->dest_concurrency * PATIENCE_MS / l->latency_ms);
    if (quota < least) quota = least;
    return quota < most ? quota : most;
}

static void note_prompt(struct dispatch *d, const struct lineup *l) {
    if (d->prompt[0].who != l) d->prompt[1] = d->prompt[0];
    d->prompt[0].who = l;
    d->prompt[0].ms = *d->now_ms;
}

/* Whether some other destination takes what comes for it at once. */
static bool others_keep_up(const struct dispatch *d, const struct lineup *l) {
    int other = d->prompt[0].who == l ? 1 : 0;
    return d->prompt[other].who && *d->now_ms - d->prompt[other].ms < 1000;
}

/* A full queue parks what comes on top when the destination is slow, or when others keep up with
 * what comes for them: they must not wait for it. When all are equally busy, or there is no other,
 * parking would only move the work around: then the lane stops reading for a moment. */
static bool has_room(struct dispatch *d, struct lineup *l, const struct delivery *v) {
    bool alone = *d->now_ms - d->switched_ms > 5000;
    size_t quota = quota_of(d, l, alone), bytes = (size_t)d->cfg->dest_waiting_bytes;
    if (l->waiting < quota && (!l->waiting || l->waiting_bytes + v->size <= bytes)) return true;
    bool healthy = d->patient && !l->slow && !l->failures;
    if (!alone && !healthy && (l->slow || is_hog(d, l) || others_keep_up(d, l))) return false;
    if (l->waiting >= 4 * quota) return false;
    l->resume = quota / 2;
    saturate(d, l, true);
    return true;
}

void dispatch_add(struct dispatch *d, struct delivery *v) {
    struct lineup *l = lineup_of(v->batch.dest);
    l->dest = v->batch.dest;
    destination_hold(l->dest);
    v->added_ms = *d->now_ms;
    v->next = v->prev = NULL;
    if (d->current != l) d->switched_ms = *d->now_ms;
    d->current = l;
    if (is_shut(d, l)) {
        hand_back(d, v, FAULT_TENANT, l->failure.why[0] ? l->failure.why : "breaker-open",
                  "breaker open");
        return;
    }
    judge_speed(d, l);
    if (!l->waiting) note_prompt(d, l);
    if (!has_room(d, l, v)) {
        hand_back(d, v, FAULT_NONE, "queue-full", "too much waits for this destination already");
        return;
    }
    v->state = DELIVERY_WAITING;
    v->prev = l->last;
    *(l->last ? &l->last->next : &l->first) = v;
    l->last = v;
    if (l->waiting++ == 0) ring_add(d, l);
    if (l->slow) d->slow_waiting++;
    l->waiting_bytes += v->size;
    d->waiting++;
}

bool dispatch_saturated(const struct dispatch *d) {
    return d->saturating ||
           d->waiting - d->slow_waiting > 16 * (size_t)d->cfg->http_max_connections;
}

void dispatch_cancel(struct dispatch *d, struct delivery *v, enum cancel why) {
    if (v->cancelled) return;
    struct lineup *l = lineup_of(v->batch.dest);
    if (v->state == DELIVERY_WAITING) {
        /* Waiting for a healthy destination is no reason for some time: its turn comes. */
        judge_speed(d, l);
        if (why == CANCEL_SLOW && !l->slow && *d->now_ms - v->added_ms < PATIENCE_MS) return;
        v->cancelled = why;
        unqueue(d, l, v);
        hand_back(d, v, FAULT_NONE, "slow", "its turn did not come in time");
    } else if (v->state == DELIVERY_FLYING && v->batch.dest->type->cancel) {
        v->cancelled = why;
        v->batch.dest->type->cancel(d->env, &v->batch);
    }
}

static void count_failure(struct dispatch *d, struct lineup *l, const struct outcome *o) {
    l->failed++;
    l->failure = *o;
    if (l->failures++ == 0) l->failing_since_ms = *d->now_ms;
    if (o->retry_after_ms && (o->status == 429 || o->status == 503))
        l->not_before = *d->now_ms + o->retry_after_ms;
    if (!l->open && !o->credential && l->failures < (uint32_t)d->cfg->breaker_failures) return;
    if (!l->open)
        log_warn("breaker opened", LOG_S("destination", l->dest->label), LOG_S("why", o->why),
                 LOG_S("detail", o->detail), LOG_I("failures", l->failures));
    l->open = true;
    l->probe_ms = *d->now_ms + d->cfg->breaker_probe;
}

static void count_success(struct lineup *l) {
    l->delivered++;
    if (l->open) log_info("breaker closed", LOG_S("destination", l->dest->label));
    l->failures = 0;
    l->open = false;
    l->not_before = 0;
    l->failing_since_ms = 0;
}

/* A delivery that we gave up says "cancelled". Given up for being slow it is an attempt, and a
 * failure of the destination; given up because we are leaving it is neither, or each deploy would
 * eat attempts. */
static struct outcome judge(const struct delivery *v, const struct outcome *o) {
    struct outcome judged = *o;
    if (!v->cancelled || strcmp(o->why, "cancelled") != 0) return judged;
    if (v->cancelled == CANCEL_LEAVING || o->uncounted) {
        judged.uncounted = true;
        judged.fault = FAULT_NONE;
        return judged;
    }
    return outcome_fail(VERDICT_RETRY, FAULT_TENANT, "slow", "no answer while others had to wait");
}

static void sink_done(struct batch *batch, const struct outcome *o);

/* A destination that has not delivered yet, fails, or is slow. Whoever names a thousand black holes
 * gets half of the connections at most. */
static bool is_risky(const struct lineup *l) {
    return !l->delivered || l->failures || l->slow;
}

static void start(struct dispatch *d, struct lineup *l) {
    struct delivery *v = l->first;
    unqueue(d, l, v);
    struct outcome o;
    if (!v->build(v, &o)) {
        finish(d, v, &o);
        return;
    }
    v->probe = l->open;
    l->probing = l->probing || v->probe;
    if (l->flying++ == 0) l->progress_ms = *d->now_ms;
    d->flying++;
    v->risky = is_risky(l);
    d->risky_flying += v->risky;
    v->state = DELIVERY_FLYING;
    v->sent_ms = *d->now_ms;
    v->batch.owner = d;
    v->batch.done = sink_done;
    v->batch.dest->type->submit(d->env, &v->batch);
}

static void sink_done(struct batch *batch, const struct outcome *o) {
    struct dispatch *d = batch->owner;
    struct delivery *v = (struct delivery *)(void *)batch; /* its first member */
    struct lineup *l = lineup_of(batch->dest);
    l->flying--;
    d->flying--;
    d->risky_flying -= v->risky;
    l->progress_ms = *d->now_ms;
    l->latency_ms += (*d->now_ms - v->sent_ms - l->latency_ms) / 4;
    judge_speed(d, l);
    if (v->probe) l->probing = false;
    struct outcome judged = judge(v, o);
    if (judged.verdict == VERDICT_OK)
        count_success(l);
    else if (!judged.uncounted && judged.fault == FAULT_TENANT)
        count_failure(d, l, &judged);
    finish(d, v, &judged);
    if (l->first && is_shut(d, l)) flush_waiting(d, l);
}

/* Whether the rate allows one more now; notes when it will otherwise. */
static bool rate_allows(struct dispatch *d, struct lineup *l) {
    if (!d->cfg->dest_rate) return true;
    if (*d->now_ms - l->rate_ms >= 1000) {
        l->rate_ms = *d->now_ms;
        l->rate_sent = 0;
    }
    if (l->rate_sent < d->cfg->dest_rate) {
        l->rate_sent++;
        return true;
    }
    int64_t again = l->rate_ms + 1000;
    if (!d->wake_ms || again < d->wake_ms) d->wake_ms = again;
    return false;
}

/* One delivery for each destination in turn, until a whole round starts nothing. */
static void start_waiting(struct dispatch *d) {
    size_t budget = (size_t)d->cfg->http_max_connections;
    d->wake_ms = 0;
    struct lineup *stop = NULL;
    while (d->ring && d->ring != stop && d->flying < budget) {
        struct lineup *l = d->ring;
        bool may = l->flying < (size_t)d->cfg->dest_concurrency && !is_shut(d, l) &&
                   (!l->open || l->flying == 0) &&
                   (!is_risky(l) || d->risky_flying < (budget + 1) / 2) && rate_allows(d, l);
        d->ring = l->next;
        if (may) {
            start(d, l);
            stop = NULL;
        } else if (!stop) {
            stop = l;
        }
    }
}

void dispatch_run(struct dispatch *d) {
    start_waiting(d);
    while (d->finished) {
        struct delivery *v = d->finished;
        d->finished = v->next;
        if (!d->finished) d->finished_end = &d->finished;
        struct destination *dest = v->batch.dest;
        struct outcome o = v->outcome;
        v->done(v, &o);
        destination_drop(dest);
    }
}

int64_t dispatch_next_ms(const struct dispatch *d) {
    if (d->finished) return 0;
    if (!d->wake_ms) return -1;
    return d->wake_ms > *d->now_ms ? d->wake_ms - *d->now_ms : 0;
}

size_t dispatch_waiting(const struct dispatch *d) {
    return d->waiting;
}

size_t dispatch_flying(const struct dispatch *d) {
    return d->flying;
}

void destination_health(struct destination *dest, struct destination_health *ret) {
    const struct lineup *l = lineup_of(dest);
    *ret = (struct destination_health){.open = l->open,
                                       .failing_since_ms = l->failing_since_ms,
                                       .failures = l->failures,
                                       .delivered = l->delivered,
                                       .failed = l->failed,
                                       .parked = l->parked,
                                       .last = l->failure};
}
