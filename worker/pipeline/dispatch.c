#include "worker/pipeline/dispatch.h"

#include <assert.h>
#include <stdlib.h>

#include "config/config.h"
#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/pipeline/route.h"

/* Who holds how much of what the deliveries of a lane share: a tally for each workspace and each
 * host that has deliveries waiting or flying, found by a keyed hash. Destinations are free for a
 * tenant, another query in the URL makes a new one, so what is bounded per destination alone is not
 * bounded. */
struct tally {
    struct table_node node;
    size_t deliveries;     /* waiting or flying; the tally goes with the last */
    size_t waiting, bytes; /* bytes: of all its deliveries */
    size_t flying;
    size_t risky, slow, leaving; /* of those flying; leaving: given up for being slow */
    /* Of workspaces: their queues that have something waiting, and the ring of such workspaces. */
    struct queue *ring;
    struct tally *next, *prev;
};

/* What dispatch keeps with a destination (destination_state()). */
struct queue {
    struct delivery_list list; /* waiting */
    size_t waiting, waiting_bytes, flying;
    struct tally *at;          /* the workspace in whose ring it stands; NULL: none */
    struct queue *next, *prev; /* in that ring */
    LIST_ENTRY(queue) link;    /* of all that have something waiting */
    struct destination *dest;
    uint64_t workspace; /* of the last attempt that ended; 0: there was none */
    uint32_t failures;
    bool open, probing;
    bool ours; /* the last attempt failed for fault system, which the breaker does not count */
    int64_t probe_ms;   /* when the next probe may go, while open */
    int64_t not_before; /* Retry-After of a 429 or 503: nothing goes before */
    int64_t failing_since_ms;
    int64_t rate_ms; /* start of the second in which rate_sent counts */
    int64_t rate_sent;
    int64_t progress_ms; /* when a delivery last ended, or the first took off; by heard_ms */
    int64_t latency_ms;  /* moving average of the time in flight; by heard_ms */
    bool slow;
    bool risky;      /* what waits is counted in risky_waiting and risky_bytes */
    bool saturating; /* counted in saturating, until no more than resume wait */
    bool told;       /* that it is open (dispatch_news()); and when last, s; 0: never */
    uint32_t told_s;
    size_t resume;
    uint64_t delivered, failed, parked;
    struct backlog backlog;
    struct outcome failure; /* the last one */
};
_Static_assert(sizeof(struct queue) <= DESTINATION_STATE_BYTES, "raise DESTINATION_STATE_BYTES");

#define NEWS_S 60      /* from one opening that is told to the next */
#define SEEN_BITS 4096 /* a power of two */

/* A lane that has stood for so long looks past what it stands for. Each time that it finds nobody
 * else it waits twice as long, up to LOOK_AFTER_MAX_MS: parking what could be delivered soon has
 * its price, too. */
#define LOOK_AFTER_MS 1000
#define LOOK_AFTER_MAX_MS 8000
#define LOOK_RECORDS 4000
#define LOOK_MS 1000 /* for as long as there are so many */

struct dispatch {
    const struct config *cfg;
    struct sink_env *env;
    const int64_t *now_ms, *heard_ms;
    bool patient;
    struct table workspaces, hosts; /* tallies */
    /* Next to be served: workspaces take turns, and the destinations of each, one delivery each. */
    struct tally *ring;
    LIST_HEAD(, queue) all;
    struct delivery_list flights; /* by their start */
    struct delivery *quick;       /* the oldest of those that are not slow yet; NULL: none */
    struct delivery_list finished;
    size_t waiting, flying, bytes;
    size_t risky_flying, slow_flying;
    size_t leaving;                    /* of those flying, given up for being slow */
    size_t flying_workspaces;          /* how many have something flying */
    size_t starved;                    /* had no connection, and there was none for them */
    size_t risky_waiting, risky_bytes; /* of those waiting, for risky destinations */
    size_t saturating;                 /* destinations over their quota that are waited for */
    /* Looking past those, for somebody else's events: how long the lane has stood, how long it
     * stands until it looks, how many it may still park for that, and until when. */
    int64_t stood_ms, look_after_ms, look_until_ms, ran_ms;
    size_t look;
    const struct queue *current; /* destination of the last delivery added */
    int64_t switched_ms;         /* when that last changed: are there others to protect? */
    /* About how many workspaces had deliveries in the last seconds. */
    uint64_t seen[SEEN_BITS / 64];
    size_t seen_now, seen_before;
    int64_t seen_ms;
    /* The last two destinations (never followed: they may be gone) that had nothing waiting when
     * something was added. */
    struct {
        const struct queue *who;
        int64_t ms;
    } prompt[2];
    int64_t wake_ms; /* when a queue held back by its rate may go on; 0 none */
    int64_t swept_ms;
};

struct dispatch *dispatch_new(const struct config *cfg, struct sink_env *env, const int64_t *now_ms,
                              const int64_t *heard_ms, bool patient) {
    struct dispatch *d = xcalloc(1, sizeof *d);
    *d = (struct dispatch){
        .cfg = cfg, .env = env, .now_ms = now_ms, .heard_ms = heard_ms, .patient = patient};
    d->look_after_ms = LOOK_AFTER_MS;
    TAILQ_INIT(&d->flights);
    TAILQ_INIT(&d->finished);
    return d;
}

void dispatch_reconfigure(struct dispatch *d, const struct config *cfg) {
    d->cfg = cfg;
}

void dispatch_free(struct dispatch *d) {
    if (!d) return;
    assert(!d->waiting && !d->flying && TAILQ_EMPTY(&d->finished));
    assert(!d->workspaces.n && !d->hosts.n);
    table_free(&d->workspaces);
    table_free(&d->hosts);
    free(d);
}

static struct queue *queue_of(struct destination *dest) {
    return destination_state(dest);
}

/* ---- shares ---- */

/* The tally of this key, made when there is none, for one more delivery. */
static struct tally *shares_take(struct table *tallies, uint64_t key) {
    struct table_node *node = table_first(tallies, key);
    struct tally *t = node ? TABLE_ENTRY(node, struct tally, node) : xcalloc(1, sizeof *t);
    if (!node) table_add(tallies, &t->node, key);
    t->deliveries++;
    return t;
}

/* One delivery less. */
static void shares_give(struct table *tallies, struct tally *t) {
    if (--t->deliveries) return;
    assert(!t->waiting && !t->flying && !t->bytes && !t->ring);
    table_remove(tallies, &t->node);
    free(t);
}

/* Whether one that holds this many may have one more when used of limit are. percent is what one
 * alone may take: with 50 one takes half, two a third each, n leave 1/(n+1) for the next. */
static bool shares_allow(size_t holds, size_t used, size_t limit, int64_t percent) {
    if (used >= limit) return false;
    return percent >= 100 || holds * (size_t)(100 - percent) < (limit - used) * (size_t)percent;
}

/* ---- limits ---- */

/* A destination that takes longer than this for one delivery is slow: what waits for it must not
 * count as work that the lane is busy with. */
#define SLOW_MS 1000
/* Deliveries that wait keep windows open, and a partition may have only a few. So no more may wait
 * than the destination delivers in this time. */
#define PATIENCE_MS 10000
/* What a delivery takes beside its payload, about. */
#define DELIVERY_BYTES 1024

static size_t most_flying(const struct dispatch *d) {
    return (size_t)d->cfg->http_max_connections;
}

/* How many of them risky destinations may have, which may hold their connections long: a tenant who
 * names a thousand black holes gets half at most. */
static size_t most_risky(const struct dispatch *d) {
    return (most_flying(d) + 1) / 2;
}

static size_t most_waiting(const struct dispatch *d) {
    return 16 * most_flying(d);
}

/* Half of what a lane's records may take: the rest is for those that are settled. */
static size_t most_bytes(const struct delivery *v) {
    return destination_room(v->batch.dest) / 2;
}

/* ---- the books ---- */

#define RING_ADD(ring, one)                                                                        \
    do {                                                                                           \
        if (!(ring)) {                                                                             \
            (ring) = (one)->next = (one)->prev = (one);                                            \
        } else {                                                                                   \
            (one)->next = (ring);                                                                  \
            (one)->prev = (ring)->prev;                                                            \
            (one)->prev->next = (one)->next->prev = (one);                                         \
        }                                                                                          \
    } while (0)
#define RING_REMOVE(ring, one)                                                                     \
    do {                                                                                           \
        if ((ring) == (one)) (ring) = (one)->next == (one) ? NULL : (one)->next;                   \
        (one)->prev->next = (one)->next;                                                           \
        (one)->next->prev = (one)->prev;                                                           \
        (one)->next = (one)->prev = NULL;                                                          \
    } while (0)

/* A destination stands in the ring of the workspace whose delivery is its next. */
static void place(struct dispatch *d, struct queue *q) {
    struct tally *at = q->waiting ? TAILQ_FIRST(&q->list)->of_workspace : NULL;
    if (q->at == at) return;
    if (q->at) {
        RING_REMOVE(q->at->ring, q);
        if (!q->at->ring) RING_REMOVE(d->ring, q->at);
    }
    q->at = at;
    if (!at) return;
    if (!at->ring) RING_ADD(d->ring, at);
    RING_ADD(at->ring, q);
}

static void saturate(struct dispatch *d, struct queue *q, bool on) {
    if (on && !q->saturating) d->saturating++;
    if (!on && q->saturating) d->saturating--;
    q->saturating = on;
}

/* Judges anew whether a destination is slow or risky: an outcome, or time, may have changed that.
 */
static void rejudge(struct dispatch *d, struct queue *q) {
    q->slow = q->latency_ms > SLOW_MS || (q->flying && *d->heard_ms - q->progress_ms > SLOW_MS);
    if (q->slow || q->failures) saturate(d, q, false);
    bool risky = !q->delivered || q->failures || q->slow;
    if (risky == q->risky) return;
    if (risky) {
        d->risky_waiting += q->waiting;
        d->risky_bytes += q->waiting_bytes;
    } else {
        d->risky_waiting -= q->waiting;
        d->risky_bytes -= q->waiting_bytes;
    }
    q->risky = risky;
}

/* What it keeps in memory. The deliveries that a destination has keep that together. */
static size_t charge(const struct queue *q, const struct delivery *v) {
    return v->size + DELIVERY_BYTES +
           destination_bytes(v->batch.dest) / (1 + q->waiting + q->flying);
}

/* From here to leave() it counts for its workspace and host. */
static void enter(struct dispatch *d, const struct queue *q, struct delivery *v) {
    uint64_t host = v->batch.dest->host;
    v->charged = charge(q, v);
    v->of_workspace = shares_take(&d->workspaces, v->batch.workspace);
    v->of_host = host ? shares_take(&d->hosts, host) : NULL;
    v->of_workspace->bytes += v->charged;
    if (v->of_host) v->of_host->bytes += v->charged;
    d->bytes += v->charged;
}

static void leave(struct dispatch *d, struct delivery *v) {
    v->of_workspace->bytes -= v->charged;
    if (v->of_host) v->of_host->bytes -= v->charged;
    d->bytes -= v->charged;
    shares_give(&d->workspaces, v->of_workspace);
    if (v->of_host) shares_give(&d->hosts, v->of_host);
    v->of_workspace = v->of_host = NULL;
}

static void enqueue(struct dispatch *d, struct queue *q, struct delivery *v) {
    v->state = DELIVERY_WAITING;
    if (q->waiting++ == 0) {
        TAILQ_INIT(&q->list);
        LIST_INSERT_HEAD(&d->all, q, link);
    }
    TAILQ_INSERT_TAIL(&q->list, v, link);
    q->waiting_bytes += v->size;
    if (q->risky) d->risky_waiting++, d->risky_bytes += v->size;
    v->of_workspace->waiting++;
    if (v->of_host) v->of_host->waiting++;
    d->waiting++;
    place(d, q);
}

static void unqueue(struct dispatch *d, struct queue *q, struct delivery *v) {
    TAILQ_REMOVE(&q->list, v, link);
    if (--q->waiting == 0) LIST_REMOVE(q, link);
    q->waiting_bytes -= v->size;
    if (q->risky) d->risky_waiting--, d->risky_bytes -= v->size;
    v->of_workspace->waiting--;
    if (v->of_host) v->of_host->waiting--;
    d->waiting--;
    if (q->waiting <= q->resume) saturate(d, q, false);
    place(d, q);
}

static void count_risky(struct dispatch *d, struct delivery *v, bool on) {
    size_t one = on ? 1 : (size_t)-1;
    d->risky_flying += one;
    v->of_workspace->risky += one;
    if (v->of_host) v->of_host->risky += one;
    v->risky = on;
}

static void count_slow(struct dispatch *d, struct delivery *v, bool on) {
    size_t one = on ? 1 : (size_t)-1;
    d->slow_flying += one;
    v->of_workspace->slow += one;
    if (v->of_host) v->of_host->slow += one;
    v->slow = on;
}

static void take_off(struct dispatch *d, struct queue *q, struct delivery *v) {
    if (q->flying++ == 0) q->progress_ms = *d->heard_ms;
    d->flying++;
    if (v->of_workspace->flying++ == 0) d->flying_workspaces++;
    if (v->of_host) v->of_host->flying++;
    if (q->risky) count_risky(d, v, true);
    v->state = DELIVERY_FLYING;
    v->sent_ms = *d->now_ms;
    v->heard_ms = *d->heard_ms;
    TAILQ_INSERT_TAIL(&d->flights, v, link);
    if (!d->quick) d->quick = v;
}

static void land(struct dispatch *d, struct queue *q, struct delivery *v) {
    if (d->quick == v) d->quick = TAILQ_NEXT(v, link);
    TAILQ_REMOVE(&d->flights, v, link);
    q->flying--;
    d->flying--;
    if (--v->of_workspace->flying == 0) d->flying_workspaces--;
    if (v->of_host) v->of_host->flying--;
    if (v->risky) count_risky(d, v, false);
    if (v->slow) count_slow(d, v, false);
    if (v->cancelled == CANCEL_SLOW) d->leaving--, v->of_workspace->leaving--;
}

/* ---- giving back ---- */

static void finish(struct dispatch *d, struct delivery *v, const struct outcome *o) {
    v->outcome = *o;
    v->state = DELIVERY_ENDED;
    TAILQ_INSERT_TAIL(&d->finished, v, link);
}

/* Back to the worker without an attempt. */
static void hand_back(struct dispatch *d, struct delivery *v, enum fault fault, const char *why,
                      const char *detail) {
    struct outcome o = outcome_fail(VERDICT_RETRY, fault, why, "%s", detail);
    o.uncounted = true;
    queue_of(v->batch.dest)->parked++;
    finish(d, v, &o);
}

/* The same while nothing may go out: with what the destination said last. */
static void hand_back_shut(struct dispatch *d, struct queue *q, struct delivery *v) {
    int64_t left = q->not_before - *d->now_ms;
    struct outcome o = q->failure;
    if (!o.why[0]) outcome_token(o.why, sizeof o.why, STR("breaker-open"));
    o.verdict = VERDICT_RETRY;
    o.fault = FAULT_TENANT;
    o.uncounted = true;
    o.retry_after_ms = left > 0 ? (uint32_t)left : 0;
    q->parked++;
    finish(d, v, &o);
}

static bool is_shut(const struct dispatch *d, const struct queue *q) {
    if (q->not_before > *d->now_ms) return true;
    return q->open && (q->probing || q->probe_ms > *d->now_ms);
}

/* What was taken in after all. */
static void give_back(struct dispatch *d, struct queue *q, struct delivery *v, const char *why,
                      const char *detail) {
    leave(d, v);
    if (is_shut(d, q))
        hand_back_shut(d, q, v);
    else
        hand_back(d, v, FAULT_NONE, why, detail);
}

static void flush_waiting(struct dispatch *d, struct queue *q) {
    struct delivery *next;
    for (struct delivery *v = TAILQ_FIRST(&q->list); v; v = next) {
        next = TAILQ_NEXT(v, link);
        if (v->last) continue;
        unqueue(d, q, v);
        leave(d, v);
        hand_back_shut(d, q, v);
    }
}

/* ---- who may wait ---- */

/* Whether this destination has far more waiting than the others that have something waiting. */
static bool is_hog(const struct dispatch *d, const struct queue *q) {
    size_t others = 0;
    for (const struct queue *o = LIST_FIRST(&d->all); o && others < 64; o = LIST_NEXT(o, link))
        others += o != q;
    return q->waiting * (others ? others : 1) > 4 * (d->waiting - q->waiting);
}

static size_t quota_of(const struct dispatch *d, const struct queue *q, bool alone) {
    size_t most = (size_t)d->cfg->dest_waiting, least = 2 * (size_t)d->cfg->dest_concurrency;
    if (is_shut(d, q)) return (size_t)d->cfg->dest_concurrency;
    if (q->slow) return least < most ? least : most;
    if (alone || q->latency_ms <= 0) return most;
    size_t quota = (size_t)(d->cfg->dest_concurrency * PATIENCE_MS / q->latency_ms);
    if (quota < least) quota = least;
    return quota < most ? quota : most;
}

static void note_prompt(struct dispatch *d, const struct queue *q) {
    if (d->look) d->look_after_ms = LOOK_AFTER_MS; /* it was worth it */
    if (d->prompt[0].who != q) d->prompt[1] = d->prompt[0];
    d->prompt[0].who = q;
    d->prompt[0].ms = *d->now_ms;
}

/* Whether some other destination takes what comes for it at once. */
static bool others_keep_up(const struct dispatch *d, const struct queue *q) {
    int other = d->prompt[0].who == q ? 1 : 0;
    return d->prompt[other].who && *d->now_ms - d->prompt[other].ms < 1000;
}

static bool is_standing(const struct dispatch *d) {
    return d->saturating || d->waiting - d->risky_waiting > most_waiting(d);
}

/* Whether the lane looks for somebody else's events, and parks what it would stand for. */
static bool is_looking(const struct dispatch *d) {
    return d->look && *d->now_ms < d->look_until_ms;
}

/* Once a turn. What the lane stands for may be all there is, or what a tenant has put before
 * everybody else's: it can't know without a look. */
static void look_around(struct dispatch *d) {
    int64_t passed = *d->now_ms - d->ran_ms;
    d->ran_ms = *d->now_ms;
    if (is_looking(d)) return;
    d->look = 0;
    if (d->patient || !is_standing(d)) return;
    d->stood_ms += passed;
    if (d->stood_ms < d->look_after_ms) return;
    d->stood_ms = 0;
    d->look_after_ms *= 2;
    if (d->look_after_ms > LOOK_AFTER_MAX_MS) d->look_after_ms = LOOK_AFTER_MAX_MS;
    d->look = LOOK_RECORDS;
    d->look_until_ms = *d->now_ms + LOOK_MS;
}

static void note_seen(struct dispatch *d, uint64_t workspace) {
    if (*d->now_ms - d->seen_ms >= 2000) {
        d->seen_before = d->seen_now;
        d->seen_now = 0;
        memset(d->seen, 0, sizeof d->seen);
        d->seen_ms = *d->now_ms;
    }
    uint64_t *word = &d->seen[workspace / 64 % (SEEN_BITS / 64)], bit = UINT64_C(1)
                                                                        << (workspace % 64);
    d->seen_now += !(*word & bit);
    *word |= bit;
}

/* Whether this one holds far more than its part of what is more than half used up. */
static bool is_greedy(const struct dispatch *d, size_t holds, size_t used, size_t limit) {
    size_t seen = d->seen_now > d->seen_before ? d->seen_now : d->seen_before;
    return used > limit / 2 && holds * seen > 4 * used;
}

/* Many requests of its workspace or its host hang: another one of theirs would, too. */
static bool is_troubled(const struct dispatch *d, const struct delivery *v) {
    size_t many = (most_flying(d) + 15) / 16;
    // NOLINTNEXTLINE(clang-analyzer-core.NullDereference): enter() has set it
    return v->of_workspace->slow >= many || (v->of_host && v->of_host->slow >= many);
}

static bool has_share(const struct dispatch *d, const struct delivery *v, bool count) {
    const struct tally *w = v->of_workspace, *h = v->of_host;
    int64_t ws = d->cfg->dest_workspace_share, hs = d->cfg->dest_host_share;
    size_t used = d->bytes - v->charged; /* it is counted already */
    if (!shares_allow(w->bytes - v->charged, used, most_bytes(v), ws)) return false;
    if (h && !shares_allow(h->bytes - v->charged, used, most_bytes(v), hs)) return false;
    return !count || (shares_allow(w->waiting, d->waiting, most_waiting(d), ws) &&
                      (!h || shares_allow(h->waiting, d->waiting, most_waiting(d), hs)));
}

/* The lane reads nothing until a little less waits for this destination. */
static void wait_for(struct dispatch *d, struct queue *q, size_t quota) {
    q->resume = quota - quota / 32;
    saturate(d, q, true);
}

/* The lane does not stop reading for a risky destination: what has no room is parked. The exception
 * is a destination that stands alone: it gets a moment to show what it can do. */
static bool has_risky_room(struct dispatch *d, struct queue *q, const struct delivery *v, bool full,
                           bool alone) {
    bool bad = q->slow || q->failures;
    if (v->batched) return !full || !bad;
    bool share = has_share(d, v, bad || is_troubled(d, v));
    if (share && !full) return true;
    if (d->patient && !bad) { /* until it has shown what it can */
        q->resume = q->waiting;
        saturate(d, q, true);
        return true;
    }
    if (!share || bad || !alone || q->waiting >= 4 * (size_t)d->cfg->dest_waiting) return false;
    if (q->waiting && *d->now_ms - TAILQ_FIRST(&q->list)->added_ms > SLOW_MS) return false;
    wait_for(d, q, (size_t)d->cfg->dest_waiting);
    return true;
}

/* What a full queue has no room for is parked while other destinations keep up: they must not wait
 * for this one. When all are equally busy, or there is no other, parking would only postpone the
 * work: then the lane stops reading for a moment, and looks now and then whether there is nobody
 * else (look_around()). The same holds for all that a workspace has. */
static bool has_room(struct dispatch *d, struct queue *q, const struct delivery *v) {
    const struct tally *w = v->of_workspace;
    bool alone = *d->now_ms - d->switched_ms > 5000;
    size_t quota = quota_of(d, q, alone), bytes = (size_t)d->cfg->dest_waiting_bytes;
    bool full = q->waiting >= quota || (q->waiting && q->waiting_bytes + v->size > bytes);
    if (q->risky) return has_risky_room(d, q, v, full, alone);
    if (!v->batched && !d->patient &&
        (is_greedy(d, w->waiting, d->waiting - d->risky_waiting, most_waiting(d)) ||
         is_greedy(d, w->bytes, d->bytes, most_bytes(v))))
        return false;
    if (is_looking(d) && q->waiting && (full || is_standing(d))) {
        d->look--;
        return false;
    }
    if (!full) return true;
    if (!alone && !d->patient && (is_hog(d, q) || others_keep_up(d, q))) return false;
    if (q->waiting >= 4 * quota) return false;
    wait_for(d, q, quota);
    return true;
}

void dispatch_add(struct dispatch *d, struct delivery *v) {
    struct queue *q = queue_of(v->batch.dest);
    q->dest = v->batch.dest;
    destination_hold(q->dest);
    v->added_ms = *d->now_ms;
    if (d->current != q) d->switched_ms = *d->now_ms;
    d->current = q;
    if (is_shut(d, q) && !v->last) {
        hand_back_shut(d, q, v);
        return;
    }
    rejudge(d, q);
    note_seen(d, v->batch.workspace);
    if (!q->waiting && !q->risky) note_prompt(d, q);
    enter(d, q, v);
    if (has_room(d, q, v)) {
        enqueue(d, q, v);
        return;
    }
    give_back(d, q, v, "queue-full",
              "too much waits for this destination, or its workspace or host, already");
}

bool dispatch_saturated(const struct dispatch *d) {
    return is_standing(d) && !is_looking(d);
}

void dispatch_cancel(struct dispatch *d, struct delivery *v, enum cancel why) {
    if (v->cancelled) return;
    struct queue *q = queue_of(v->batch.dest);
    if (v->state == DELIVERY_WAITING) {
        /* Waiting for one that has not failed is no reason for some time: its turn comes. */
        rejudge(d, q);
        bool bad = q->slow || q->failures || is_troubled(d, v);
        if (why == CANCEL_SLOW && !bad && *d->now_ms - v->added_ms < PATIENCE_MS) return;
        v->cancelled = why;
        unqueue(d, q, v);
        give_back(d, q, v, "slow", "its turn did not come in time");
    } else if (v->state == DELIVERY_FLYING && v->batch.dest->type->cancel) {
        if (why == CANCEL_SLOW && *d->heard_ms - v->heard_ms < SLOW_MS) return;
        if (why == CANCEL_SLOW) d->leaving++, v->of_workspace->leaving++;
        v->cancelled = why;
        v->batch.dest->type->cancel(d->env, &v->batch);
    }
}

void dispatch_withdraw(struct dispatch *d, struct delivery *v, const struct outcome *o) {
    unqueue(d, queue_of(v->batch.dest), v);
    leave(d, v);
    finish(d, v, o);
}

/* ---- outcomes ---- */

static void count_failure(struct dispatch *d, struct queue *q, const struct outcome *o) {
    q->failed++;
    q->failure = *o;
    q->failure.answered_ms = clock_ms(CLOCK_REALTIME);
    if (q->failures++ == 0) q->failing_since_ms = *d->now_ms;
    if (o->retry_after_ms && (o->status == 429 || o->status == 503))
        q->not_before = *d->now_ms + o->retry_after_ms;
    if (!q->open && !o->credential && q->failures < (uint32_t)d->cfg->breaker_failures) return;
    if (!q->open)
        log_warn("breaker opened", LOG_S("destination", q->dest->label), LOG_S("why", o->why),
                 LOG_S("detail", o->detail), LOG_I("failures", q->failures));
    q->open = true;
    q->probe_ms = *d->now_ms + d->cfg->breaker_probe;
}

static void count_success(struct queue *q) {
    q->delivered++;
    if (q->open) log_info("breaker closed", LOG_S("destination", q->dest->label));
    q->failures = 0;
    q->open = false;
    q->ours = false;
    q->not_before = 0;
    q->failing_since_ms = 0;
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

static void start(struct dispatch *d, struct queue *q) {
    struct delivery *v = TAILQ_FIRST(&q->list);
    unqueue(d, q, v);
    struct outcome o;
    if (!v->build(v, &o)) {
        leave(d, v);
        finish(d, v, &o);
        return;
    }
    v->probe = q->open;
    q->probing = q->probing || v->probe;
    take_off(d, q, v);
    v->batch.owner = v;
    v->dispatch = d;
    v->batch.done = sink_done;
    v->batch.dest->type->submit(d->env, &v->batch);
}

static void sink_done(struct batch *batch, const struct outcome *o) {
    struct delivery *v = batch->owner;
    struct dispatch *d = v->dispatch;
    struct queue *q = queue_of(batch->dest);
    land(d, q, v);
    q->progress_ms = *d->heard_ms;
    q->latency_ms += (*d->heard_ms - v->heard_ms - q->latency_ms) / 4;
    if (v->probe) q->probing = false;
    struct outcome judged = judge(v, o);
    q->workspace = v->batch.workspace;
    if (judged.verdict == VERDICT_OK)
        count_success(q);
    else if (!judged.uncounted && judged.fault == FAULT_TENANT)
        count_failure(d, q, &judged);
    else if (!judged.uncounted && judged.fault == FAULT_SYSTEM)
        q->ours = true;
    rejudge(d, q);
    leave(d, v);
    finish(d, v, &judged);
    if (q->waiting && is_shut(d, q)) flush_waiting(d, q);
}

/* ---- taking off ---- */

/* Whether the rate allows one more now; notes when it will otherwise. */
static bool rate_allows(struct dispatch *d, struct queue *q) {
    if (!d->cfg->dest_rate) return true;
    if (*d->now_ms - q->rate_ms >= 1000) {
        q->rate_ms = *d->now_ms;
        q->rate_sent = 0;
    }
    if (q->rate_sent < d->cfg->dest_rate) {
        q->rate_sent++;
        return true;
    }
    int64_t again = q->rate_ms + 1000;
    if (!d->wake_ms || again < d->wake_ms) d->wake_ms = again;
    return false;
}

/* What one may take of the places for risky ones. While none of its requests hang, it leaves half
 * as much to others: it may be a fleet of honest ones that nobody knows yet. */
static int64_t risky_share(const struct dispatch *d, const struct delivery *v, int64_t percent) {
    return is_troubled(d, v) ? percent : (100 + percent) / 2;
}

/* A share of the connections; one that has none gets one if there is any. */
static bool has_connection(struct dispatch *d, const struct queue *q) {
    const struct delivery *v = TAILQ_FIRST(&q->list);
    const struct tally *w = v->of_workspace, *h = v->of_host;
    size_t most = most_risky(d);
    if (!q->risky) return true;
    /* The last eighth is for the first request of who has not failed: it may be a new tenant's. */
    if (d->risky_flying >= (w->flying || q->failures ? most - most / 8 : most)) {
        d->starved += !w->flying;
        return false;
    }
    int64_t ws = risky_share(d, v, d->cfg->dest_workspace_share);
    int64_t hs = risky_share(d, v, d->cfg->dest_host_share);
    return !w->flying || (shares_allow(w->risky, d->risky_flying, most, ws) &&
                          (!h || shares_allow(h->risky, d->risky_flying, most, hs)));
}

static bool may_start(struct dispatch *d, struct queue *q) {
    if (q->flying >= (size_t)d->cfg->dest_concurrency) return false;
    if (is_shut(d, q) && (!TAILQ_FIRST(&q->list)->last || q->flying)) return false;
    if (q->open && q->flying) return false;
    return has_connection(d, q) && rate_allows(d, q);
}

#define LOOKS 64 /* at a workspace's destinations in one go: it may have thousands */

static bool start_one(struct dispatch *d, struct tally *w) {
    if (w->flying &&
        !shares_allow(w->flying, d->flying, most_flying(d), d->cfg->dest_workspace_share))
        return false;
    const struct queue *first = w->ring;
    for (unsigned i = 0; i < LOOKS && w->ring; i++) {
        struct queue *q = w->ring;
        w->ring = q->next;
        if (may_start(d, q)) {
            start(d, q);
            return true;
        }
        if (w->ring == first) break;
    }
    return false;
}

/* One delivery for each workspace in turn, until a whole round starts nothing. */
static void start_waiting(struct dispatch *d) {
    const struct tally *stop = NULL;
    d->wake_ms = 0;
    d->starved = 0;
    while (d->ring && d->ring != stop && d->flying < most_flying(d)) {
        struct tally *w = d->ring;
        d->ring = w->next;
        if (start_one(d, w))
            stop = NULL;
        else if (!stop)
            stop = w;
    }
}

/* ---- what turns slow ---- */

/* From the moment it is slow a request counts as risky, whatever its destination did before. */
static void mark_slow(struct dispatch *d) {
    for (; d->quick && *d->heard_ms - d->quick->heard_ms > SLOW_MS;
         d->quick = TAILQ_NEXT(d->quick, link)) {
        struct delivery *v = d->quick;
        if (!v->risky) count_risky(d, v, true);
        count_slow(d, v, true);
        rejudge(d, queue_of(v->batch.dest));
    }
}

/* How many connections the slow ones have to give back: what they took before they were known to be
 * slow, as soon as few are left, and one for each workspace that has none. */
static size_t owed(const struct dispatch *d) {
    size_t most = most_flying(d), risky = most_risky(d), n = 0;
    if (d->slow_flying > risky && most - d->flying < most / 4) n = d->slow_flying - risky;
    /* Of a handful a share is none: nothing would come free. */
    if (!n && d->slow_flying >= most && d->waiting) n = 1;
    if (d->starved) {
        size_t more = d->starved < 16 ? d->starved : 16;
        if (d->risky_flying > risky) more += d->risky_flying - risky;
        if (more > n) n = more;
    }
    return n > d->leaving ? n - d->leaving : 0;
}

/* The longest under way first, of workspaces that have more than their part; of others only what
 * has had its time. */
static void take_back(struct dispatch *d) {
    size_t n = owed(d), part = most_risky(d) / (d->flying_workspaces + 1);
    struct delivery *next;
    for (struct delivery *v = TAILQ_FIRST(&d->flights); n && v != d->quick; v = next) {
        const struct tally *w = v->of_workspace;
        next = TAILQ_NEXT(v, link);
        if (v->cancelled || !v->batch.dest->type->cancel) continue;
        if (w->flying - w->leaving <= (part ? part : 1) &&
            *d->heard_ms - v->heard_ms < d->cfg->dest_patience)
            continue;
        dispatch_cancel(d, v, CANCEL_SLOW);
        n--;
    }
}

#define SWEEP_MS 500

/* Parks what has waited for too long: what hangs with its workspace or host, and, while the lane
 * reads nothing for it, what is healthy. */
static void sweep(struct dispatch *d) {
    if (!d->waiting || d->patient || *d->now_ms - d->swept_ms < SWEEP_MS) return;
    d->swept_ms = *d->now_ms;
    bool saturated = is_standing(d);
    struct queue *next;
    for (struct queue *q = LIST_FIRST(&d->all); q; q = next) {
        next = LIST_NEXT(q, link);
        rejudge(d, q);
        while (q->waiting) {
            struct delivery *v = TAILQ_FIRST(&q->list);
            int64_t waited = *d->now_ms - v->added_ms;
            bool due = q->risky
                           ? waited > d->cfg->dest_patience && (is_shut(d, q) || is_troubled(d, v))
                           : saturated && waited > 2 * PATIENCE_MS;
            if (!due) break;
            unqueue(d, q, v);
            give_back(d, q, v, "slow", "its turn did not come in time");
        }
    }
}

void dispatch_run(struct dispatch *d) {
    mark_slow(d);
    look_around(d);
    sweep(d);
    start_waiting(d);
    take_back(d);
    for (struct delivery *v; (v = TAILQ_FIRST(&d->finished));) {
        TAILQ_REMOVE(&d->finished, v, link);
        struct destination *dest = v->batch.dest;
        v->done(v);
        destination_drop(dest);
    }
}

static void sooner(const struct dispatch *d, int64_t *wait, int64_t at_ms) {
    int64_t left = at_ms > *d->now_ms ? at_ms - *d->now_ms : 0;
    if (*wait < 0 || left < *wait) *wait = left;
}

int64_t dispatch_next_ms(const struct dispatch *d) {
    int64_t wait = -1;
    if (!TAILQ_EMPTY(&d->finished)) return 0;
    if (d->wake_ms) sooner(d, &wait, d->wake_ms);
    if (d->quick) sooner(d, &wait, *d->now_ms + d->quick->heard_ms + SLOW_MS + 1 - *d->heard_ms);
    if (d->waiting && !d->patient) sooner(d, &wait, d->swept_ms + SWEEP_MS);
    return wait;
}

size_t dispatch_waiting(const struct dispatch *d) {
    return d->waiting;
}

size_t dispatch_flying(const struct dispatch *d) {
    return d->flying;
}

struct backlog *destination_backlog(struct destination *dest) {
    return &queue_of(dest)->backlog;
}

enum breaker_news dispatch_news(const struct dispatch *d, struct destination *dest) {
    struct queue *q = queue_of(dest);
    uint32_t now_s = 1 + (uint32_t)(*d->now_ms / 1000);
    bool soon = q->open && q->told_s && now_s - q->told_s < NEWS_S;
    if (q->open == q->told || soon) return BREAKER_AS_BEFORE;
    q->told = q->open;
    if (q->open) q->told_s = now_s;
    return q->open ? BREAKER_OPENED : BREAKER_CLOSED;
}

void destination_health(struct destination *dest, struct destination_health *ret) {
    const struct queue *q = queue_of(dest);
    *ret = (struct destination_health){.open = q->open,
                                       .sick = q->failures || q->ours,
                                       .workspace = q->workspace,
                                       .failing_since_ms = q->failing_since_ms,
                                       .failures = q->failures,
                                       .delivered = q->delivered,
                                       .failed = q->failed,
                                       .parked = q->parked,
                                       .last = q->failure};
}
