#include "worker/pipeline/lane.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "sinks/http/http.h"
#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/base/random.h"
#include "worker/pipeline/anchor_write.h"
#include "worker/pipeline/body.h"
#include "worker/pipeline/careful.h"
#include "worker/pipeline/caution.h"
#include "worker/pipeline/ending.h"
#include "worker/pipeline/intake.h"
#include "worker/pipeline/proof.h"
#include "worker/pipeline/recall.h"
#include "worker/pipeline/settlement.h"
#include "worker/pipeline/source.h"

#define RESTART_MIN_MS 1000
#define RESTART_MAX_MS ((int64_t)5 * 60 * 1000)
#define TXN_TIMEOUT_MS 60000 /* transaction.timeout.ms (client.c) */
#define TXN_LOOK_MS 15000
#define CLAIMS_MS 3000   /* for the claims of what can't be settled to be given back */
#define REFUSED_MS 10000 /* a producer that is not taken for this long is told */
#define STANDING_MS 20   /* what waits for others, or for room, has nothing that wakes it */
/* While the lane does other work it cannot hear an answer: of each such stretch at most this much
 * counts against those who have not answered yet. */
#define UNHEARD_MS 100
/* Taken in one turn at most, so that transfers go on: about a millisecond's work, but a tenant
 * chooses what a record costs. */
#define TURN_RECORDS 256
#define TURN_MS 20

#define PARTITION_RECORDS 128 /* of one partition, then it is the next one's turn */
#define SMALL_BYTES 4096

/* most: how much of the time since the last call counts as time in which the lane listened. */
static void read_clocks(struct lane *lane, int64_t most) {
    int64_t now_ms = clock_ms(CLOCK_MONOTONIC), passed = now_ms - lane->now_ms;
    lane->heard_ms += passed < most ? passed : most;
    lane->now_ms = now_ms;
    lane->wall_ms = clock_ms(CLOCK_REALTIME);
}

static void enter(struct lane *lane, enum lane_step step) {
    place_at(&lane->place, step, -1);
}

/* ---- reading ---- */

/* Asked after every few records, and after each large one: it reads the clock. */
static bool turn_is_over(const struct lane *lane) {
    return clock_ms(CLOCK_MONOTONIC) - lane->reading_ms >= TURN_MS;
}

static size_t read_partition(struct lane *lane, struct partition *p, size_t most) {
    size_t n = 0;
    bool large = false;
    struct feed_head head;
    if (!p->claimed && recall_waits(lane, p)) return 0;
    if (proof_waits(lane, p)) return 0;
    if (!p->claimed && !careful_claim(lane, p)) return 0;
    if (!p->durable && !p->vanished && !lane->cfg->broker_forgets) {
        source_peek(lane, p, &head); /* where it begins is found out, and committed */
        return 0;
    }
    if (p->caution != CAUTION_NONE) careful_tick(lane, p);
    if (p->caution == CAUTION_CAREFUL) return 0;
    /* That the care is over is durable first: who dies of what is read then did not die in it. */
    if (p->caution == CAUTION_NONE && !claim_same(&p->want, &p->meta.claim)) return 0;
    place_topic(&lane->place, p->topic, p->id);
    while (n < most && ((n % 8 && !large) || !turn_is_over(lane)) && source_peek(lane, p, &head)) {
        if (intake_past_end(p, head.offset)) break;
        if (!intake_has_room(lane, p, head.offset)) break;
        large = fetched_value(head.message).n > SMALL_BYTES;
        intake_take(lane, p);
        n++;
    }
    return n;
}

/* Partitions take turns, so that one with a backlog starves none. Another one begins each time: the
 * first may take all that there is room for. True: there is more. */
static bool read_all(struct lane *lane) {
    size_t total = 0, round;
    bool over = false;
    lane->reading_ms = clock_ms(CLOCK_MONOTONIC);
    struct partition *first = lane->partitions;
    size_t n = 0;
    for (const struct partition *p = first; p; p = p->next) n++;
    for (size_t skip = n ? lane->turns++ % n : 0; skip; skip--) first = first->next;
    lane->standing = careful_stands(lane);
    do {
        round = 0;
        for (struct partition *p = first; p; p = p->next)
            round += read_partition(lane, p, PARTITION_RECORDS);
        for (struct partition *p = lane->partitions; p != first; p = p->next)
            round += read_partition(lane, p, PARTITION_RECORDS);
        total += round;
        over = total >= TURN_RECORDS || turn_is_over(lane);
    } while (round && !over);
    if (lane->standing) careful_run(lane);
    return over;
}

/* ---- the turn ---- */

static void note_end(struct lane *lane);

static int sinks_tick(struct lane *lane) {
    int least = -1;
    for (size_t i = 0; sink_types[i]; i++) {
        if (!sink_types[i]->tick) continue;
        int wait = sink_types[i]->tick(&lane->sinks, lane->now_ms);
        if (wait >= 0 && (least < 0 || wait < least)) least = wait;
    }
    return least;
}

static void sooner(int64_t *timeout, int64_t wish) {
    if (wish >= 0 && wish < *timeout) *timeout = wish;
}

static void sooner_at(int64_t *timeout, int64_t at, int64_t now) {
    sooner(timeout, at > now ? at - now : 0);
}

/* How long the lane may sleep when neither the network nor Kafka wakes it. */
static int64_t sleep_ms(const struct lane *lane) {
    int64_t timeout = 1000;
    for (const struct partition *p = lane->partitions; p; p = p->next) {
        const struct window *open = windows_open(&p->windows);
        /* A batch that is not whole yet keeps its window open. */
        bool waits = open && open->incomplete && !partition_at_end(p);
        if (open && open->taken && !open->replayed && !waits)
            sooner_at(&timeout, intake_seal_at(lane, p, open), lane->now_ms);
        if (p->head_due_ms > lane->wall_ms && lane->now_ms - p->filled_ms < p->delay_ms) {
            sooner_at(&timeout, p->head_due_ms, lane->wall_ms);
            sooner_at(&timeout, p->filled_ms + p->delay_ms, lane->now_ms);
        } else if (p->head_due_ms) { /* it has no room, or has just become due */
            sooner(&timeout, STANDING_MS);
        }
        if (!p->loaded || p->doubts) sooner(&timeout, 200);
        if (p->doubts && lane->now_ms < p->filled_ms + SOURCE_SURE_MS)
            sooner_at(&timeout, p->filled_ms + SOURCE_SURE_MS, lane->now_ms);
    }
    if (lane->standing) sooner(&timeout, STANDING_MS);
    if (!lane->settlement && !lane->stale && settlement_due(lane))
        sooner_at(&timeout, lane->settle_after_ms, lane->now_ms);
    if (!lane->settlement) {
        int64_t again = settlement_again_ms(lane), after = lane->settle_after_ms;
        sooner_at(&timeout, again > after ? again : after, lane->now_ms);
    }
    sooner(&timeout, dispatch_next_ms(lane->dispatch));
    return timeout;
}

static void wait_for_work(struct lane *lane, int64_t timeout) {
    eventfd_t value;
    enter(lane, STEP_WAIT);
    read_clocks(lane, UNHEARD_MS);
    http_wait(lane->http, (int)timeout);
    if (eventfd_read(lane->wake_fd, &value) == 0) value = 0;
    read_clocks(lane, INT64_MAX);
    observer_serve(lane);
}

/* What takes off now takes off now: dated from the turn's beginning, a request after a long turn
 * would be slow before its answer could be read. */
static void transfer(struct lane *lane) {
    enter(lane, STEP_TRANSFER);
    read_clocks(lane, UNHEARD_MS);
    dispatch_run(lane->dispatch);
    http_run(lane->http);
    dispatch_run(lane->dispatch);
}

/* Parked records that were read and wait for their time. A head that was seen is one of them, also
 * while it is fetched again. */
static uint64_t pending(const struct lane *lane) {
    uint64_t held = 0;
    for (const struct partition *p = lane->partitions; p; p = p->next) {
        if (p->kind != PARTITION_RETRY) continue;
        size_t n = feed_waiting(p->feed);
        held += n || !p->head_due_ms ? n : 1;
    }
    return held;
}

/* --until-end: offsets between where reading stands and the end. */
static uint64_t remaining(const struct lane *lane) {
    uint64_t n = 0;
    for (const struct partition *p = lane->partitions; p; p = p->next) {
        int64_t at = partition_at(p);
        if (p->kind == PARTITION_SOURCE && p->end > at) n += (uint64_t)(p->end - at);
    }
    return n;
}

static void update_gauges(struct lane *lane) {
    if (lane->consumer) {
        count_set(&lane->counters, COUNTER_PENDING, pending(lane));
        count_set(&lane->counters, COUNTER_REMAINING, remaining(lane));
    }
    count_set(&lane->counters, COUNTER_HELD_BYTES, lane->held);
    count_set(&lane->counters, COUNTER_DEST_BYTES, router_bytes(lane->router));
    count_set(&lane->counters, COUNTER_WAITING, dispatch_waiting(lane->dispatch));
    count_set(&lane->counters, COUNTER_FLYING, dispatch_flying(lane->dispatch));
}

/* SIGHUP brought another configuration. */
static void take_config(struct lane *lane) {
    const struct config *cfg = atomic_load(&lane->shared->cfg);
    if (cfg == lane->cfg) return;
    lane->cfg = lane->sinks.cfg = cfg;
    atomic_store(&lane->taken, cfg);
    router_reconfigure(lane->router, cfg);
    dispatch_reconfigure(lane->dispatch, cfg);
    http_reconfigure(lane->http, cfg);
    anchor_reconfigure(lane);
    caution_reconfigure(lane);
    delivery_reconfigure(lane);
}

static void transactional_id(const struct lane *lane, char *ret, size_t size) {
    if (lane->cfg->slot[0]) {
        snprintf(ret, size, "%s/%s/%d", lane->cfg->group, lane->cfg->slot, lane->id);
        return;
    }
    snprintf(ret, size, "%s/%016" PRIx64 "/%d", lane->cfg->group, random_u64(), lane->id);
}

/* Doubled each time until something was settled, or it went well for twice the longest; with some
 * chance in it, so that lanes that failed together don't come together. */
static int64_t restart_pause(struct lane *lane) {
    if (lane->now_ms - lane->opened_ms >= 2 * RESTART_MAX_MS) lane->restart_pause_ms = 0;
    int64_t pause = lane->restart_pause_ms ? lane->restart_pause_ms * 2 : RESTART_MIN_MS;
    lane->restart_pause_ms = pause < RESTART_MAX_MS ? pause : RESTART_MAX_MS;
    return lane->restart_pause_ms -
           (int64_t)(random_u64() % (uint64_t)(lane->restart_pause_ms / 4));
}

/* Reading begins once the broker has taken the producer. One that it refuses is made anew, alone:
 * nothing was read yet. */
static void await_producer(struct lane *lane) {
    char error[160], id[512];
    struct troubles *troubles = lane->shared->troubles;
    switch (producer_state(lane->producer, error, sizeof error)) {
    case PRODUCER_READY:
        lane->settles = true;
        trouble_clear(troubles, lane->id, TROUBLE_PRODUCER, NULL);
        return;
    case PRODUCER_STARTING:
        if (error[0] && lane->now_ms - lane->opened_ms >= REFUSED_MS)
            trouble_set(troubles, lane->id, TROUBLE_PRODUCER, NULL, error, 0);
        return;
    case PRODUCER_REFUSED:
        break;
    }
    trouble_set(troubles, lane->id, TROUBLE_PRODUCER, NULL, error, 0);
    if (!lane->producer_again_ms) {
        lane->producer_again_ms = lane->now_ms + restart_pause(lane);
        log_warn("the broker refuses the lane's producer; it is tried again",
                 LOG_I("lane", lane->id), LOG_S("error", error),
                 LOG_I("pause_ms", lane->restart_pause_ms));
    }
    if (lane->now_ms < lane->producer_again_ms) return;
    struct buf err;
    buf_init(&err, 4096);
    transactional_id(lane, id, sizeof id);
    enter(lane, STEP_CLOSE);
    producer_free(lane->producer);
    lane->producer = producer_new(lane->cfg, id, lane->wake_fd, &err);
    lane->producer_again_ms = 0;
    lane->opened_ms = lane->now_ms;
    lane->restart = !lane->producer; /* no thread could be had */
    snprintf(lane->restart_why, sizeof lane->restart_why, "%.120s", buf_cstr(&err));
    buf_free(&err);
}

static void turn(struct lane *lane) {
    take_config(lane);
    wait_for_work(lane, lane->sleep_ms);
    if (!lane->settles) await_producer(lane);
    enter(lane, STEP_KAFKA);
    source_poll(lane);
    recall_poll(lane);
    proof_poll(lane);
    bool more = read_all(lane);
    note_end(lane);
    for (struct partition *p = lane->partitions; p; p = p->next) intake_seal(lane, p, false);
    intake_press(lane);
    transfer(lane);
    int wish = sinks_tick(lane);
    transfer(lane);
    enter(lane, STEP_SETTLE);
    settlement_run(lane);
    anchor_tick(lane);
    window_free_discarded(lane);
    router_tick(lane->router, lane->now_ms);
    update_gauges(lane);
    lane->sleep_ms = more || lane->again ? 0 : sleep_ms(lane);
    lane->again = false;
    sooner(&lane->sleep_ms, wish);
}

/* ---- finishing ---- */

static bool is_settled(const struct lane *lane, bool (*of)(const struct partition *, void *),
                       void *ctx) {
    for (const struct partition *p = lane->partitions; p; p = p->next)
        if (p->loaded && (!of || of(p, ctx)) && !partition_begins_unproven(p) &&
            (p->windows.count || p->pin || !claim_same(&p->want, &p->meta.claim)))
            return false;
    return true;
}

struct finishing {
    bool (*of)(const struct partition *, void *);
    void *ctx;
    const struct lane *lane;
    int64_t start_ms;
};

/* Of a topic that is gone nothing is settled but with where the new one begins. */
static bool is_gone(const struct partition *p) {
    return p->vanished && p->anew_at < 0;
}

/* Those that have a chance to be settled. */
static bool has_hope(const struct partition *p, void *finishing) {
    const struct finishing *f = finishing;
    return (!f->of || f->of(p, f->ctx)) && !is_gone(p) &&
           !settlement_hopeless(f->lane, p, f->start_ms);
}

/* An open window may be left as it is when nothing is known of its end: its records are the next
 * owner's. */
static void close_windows(struct lane *lane, bool (*of)(const struct partition *, void *),
                          void *ctx, bool leave) {
    for (struct partition *p = lane->partitions; p; p = p->next) {
        if (of && !of(p, ctx)) continue;
        intake_seal(lane, p, true);
        caution_release(lane, p, false);
        if (!leave) continue;
        for (struct window *w = p->windows.oldest; w; w = w->newer)
            window_cancel(w, CANCEL_LEAVING);
    }
}

/* A replayed window that is still filling, or a batch without all its members, can't be sealed. And
 * deliveries that go one by one since one of them may kill are not parked: in a retry topic nothing
 * would be known of those that died. */
static bool is_stuck(const struct partition *p) {
    const struct window *oldest = p->windows.oldest;
    if (!oldest) return false;
    return oldest == windows_open(&p->windows) || caution_waits(oldest);
}

/* What is stuck is left to the next owner. */
static void drop_stuck(struct lane *lane, bool (*of)(const struct partition *, void *), void *ctx) {
    if (lane->settlement) return; /* which may declare ends that are to be given back */
    for (struct partition *p = lane->partitions; p; p = p->next) {
        if ((of && !of(p, ctx)) || !is_stuck(p)) continue;
        caution_release(lane, p, true);
        if (!claim_same(&p->want, &p->meta.claim)) continue; /* first, with the ends it declared */
        windows_clear(&p->windows);
        p->left = true;
    }
}

static bool waits_for_claim(const struct lane *lane) {
    for (const struct partition *p = lane->partitions; p; p = p->next)
        if (p->claim_alone && !claim_same(&p->want, &p->meta.claim)) return true;
    return false;
}

/* Who ends in good order did not die of what he had in work, although it can't be settled: or a
 * record would be blamed for processes that were only started without a right. */
static void give_back_claims(struct lane *lane, struct finishing *f) {
    for (struct partition *p = lane->partitions; p; p = p->next) {
        bool mine = p->loaded && !p->pin && !p->vanished && (!f->of || f->of(p, f->ctx));
        if (!mine || !settlement_hopeless(lane, p, f->start_ms)) continue;
        caution_release(lane, p, true);
        p->claim_alone = true;
    }
    lane->gives_back = true;
    int64_t end = lane->now_ms + CLAIMS_MS;
    while ((lane->settlement || waits_for_claim(lane)) && !lane->restart &&
           !settlement_over(lane) && lane->now_ms < end) {
        transfer(lane);
        enter(lane, STEP_SETTLE);
        settlement_run(lane);
        window_free_discarded(lane);
        wait_for_work(lane, 100);
    }
    lane->gives_back = false;
}

/* What is left of records. A claim or a beginning alone is none. */
static void tell_unsettled(const struct lane *lane, struct finishing *f) {
    int64_t late = 0, blocked = 0, gone = 0;
    enum trouble why = TROUBLE_OWN_TOPIC;
    for (const struct partition *p = lane->partitions; p; p = p->next) {
        if (!p->loaded || !p->windows.count || (f->of && !f->of(p, f->ctx))) continue;
        late += has_hope(p, f);
        gone += is_gone(p);
        if (has_hope(p, f) || is_gone(p)) continue;
        if (p->unreadable_ms) why = TROUBLE_UNREADABLE;
        blocked++;
    }
    if (late)
        log_warn("not all was settled in time; it is read again by the next owner",
                 LOG_I("lane", lane->id), LOG_I("partitions", late));
    if (blocked)
        log_warn("what can't be settled now is left; it is read again by the next owner",
                 LOG_I("lane", lane->id), LOG_I("partitions", blocked),
                 LOG_S("why", trouble_text(why)));
    if (gone)
        log_warn("what was read of a topic that is gone by now is not settled: nobody reads it "
                 "again",
                 LOG_I("lane", lane->id), LOG_I("partitions", gone));
}

static void finish(struct lane *lane, bool (*of)(const struct partition *, void *), void *ctx,
                   int64_t ms) {
    read_clocks(lane, UNHEARD_MS);
    int64_t start = lane->now_ms;
    struct finishing f = {of, ctx, lane, start};
    lane->finishing++;
    settlement_hurry(lane);
    close_windows(lane, of, ctx, false); /* what is settled already is to be given back, too */
    /* A transaction under way may claim what is given back next. A membership that is over can't
     * settle until the callback that we may be in has returned. */
    while ((lane->settlement || !is_settled(lane, has_hope, &f)) && !lane->restart &&
           !settlement_over(lane) && lane->now_ms - start < ms + 1000) {
        bool leave = lane->now_ms - start >= ms * 3 / 4;
        close_windows(lane, of, ctx, leave);
        drop_stuck(lane, of, ctx);
        transfer(lane);
        int wish = sinks_tick(lane);
        transfer(lane);
        enter(lane, STEP_SETTLE);
        settlement_run(lane);
        if (!lane->settlement) close_windows(lane, of, ctx, leave); /* what it claimed, too */
        window_free_discarded(lane);
        int64_t timeout = 100;
        sooner(&timeout, wish);
        sooner(&timeout, dispatch_next_ms(lane->dispatch));
        wait_for_work(lane, timeout);
    }
    if (!lane->settlement && !lane->restart) give_back_claims(lane, &f);
    lane->finishing--;
    tell_unsettled(lane, &f);
}

/* The process says so by its exit code. early: with --until-end, a signal or a rebalance came
 * before the end. */
static void count_left(struct lane *lane, bool early) {
    uint64_t left = early + settlement_unknown(lane);
    for (const struct partition *p = lane->partitions; p; p = p->next)
        left += p->loaded && p->windows.count && !is_gone(p);
    if (left) count_set(&lane->counters, COUNTER_GIVEN_UP, left);
}

static int64_t stands_since(const struct lane *lane, const struct partition *p) {
    int64_t recall_ms = p->recall != RECALL_NONE ? lane->recall_held_ms : 0;
    return p->unreadable_ms ? p->unreadable_ms
           : p->beyond_ms   ? p->beyond_ms
           : p->short_ms    ? p->short_ms
           : p->held_ms     ? p->held_ms
           : recall_ms      ? recall_ms
                            : settlement_blocked_since(lane, p);
}

/* How long a transaction that a killed member left open on its commit lasts: its timeout, and what
 * the coordinator takes to look for such. */
static int64_t left_open_ms(const struct config *cfg) {
    return config_kafka_ms(cfg, "transaction.timeout.ms", TXN_TIMEOUT_MS) + TXN_LOOK_MS;
}

/* Where it stands, or ends, can't be found out. */
static bool is_never_loaded(struct lane *lane, struct partition *p) {
    int64_t patience = lane->cfg->ready_patience, most = left_open_ms(lane->cfg);
    if (lane->now_ms - p->came_ms < (patience > most ? patience : most)) return false;
    if (!p->given_up)
        log_error("the end is not reached: the committed offset of a partition, or its end, is not "
                  "told; an open transaction on it, or no leader, may be why",
                  LOG_S("topic", p->topic), LOG_I("partition", p->id));
    p->given_up = true;
    return true;
}

/* It can't be read to its end, or settled, now, and has had its time. */
static bool is_given_up(struct lane *lane, struct partition *p) {
    int64_t since = stands_since(lane, p);
    if (!since || lane->now_ms - since < lane->cfg->ready_patience) return false;
    if (!p->given_up)
        log_warn("the end is not reached: what is left is for the next run",
                 LOG_S("topic", p->topic), LOG_I("partition", p->id), LOG_I("from", p->eof_at),
                 LOG_I("end", p->kind == PARTITION_SOURCE ? p->end : vitals_high(p)),
                 LOG_S("why",
                       trouble_text(p->unreadable_ms                         ? TROUBLE_UNREADABLE
                                    : p->beyond_ms || p->short_ms            ? TROUBLE_POSITION
                                    : p->held_ms || p->recall != RECALL_NONE ? TROUBLE_HELD
                                                                             : TROUBLE_OWN_TOPIC)));
    p->given_up = true;
    return true;
}

/* Read to an end that lies before the one that it had: the topic was truncated, for one. */
static void watch_end(const struct lane *lane, struct partition *p) {
    bool is_short = p->kind == PARTITION_SOURCE && p->eof && p->end_known && p->eof_at < p->end &&
                    vitals_high(p) <= p->eof_at;
    if (!is_short || !p->short_ms) p->short_ms = is_short ? lane->now_ms : 0;
}

static bool has_ended(struct lane *lane, struct partition *p) {
    bool source = p->kind == PARTITION_SOURCE;
    if (!p->loaded) return is_never_loaded(lane, p);
    watch_end(lane, p);
    p->given_up = p->given_up && stands_since(lane, p);
    if (is_given_up(lane, p)) return true;
    if (p->vanished) return false; /* what the topic of its name has is to be found out */
    if (p->recall != RECALL_NONE) return false; /* where it begins is to be committed yet */
    if (source && !ending_know(p)) return false;
    if (source && !p->begins && p->committed >= p->end) return true;
    struct feed_head head;
    bool any = source_peek(lane, p, &head);
    if (source && p->eof) return p->eof_at >= p->end;
    if (any) return intake_past_end(p, head.offset);
    /* Behind an open transaction, be it a lane's own, parked records may be. */
    if (p->eof) return p->eof_at >= vitals_high(p);
    return p->head_due_ms; /* not due yet */
}

/* --until-end: every partition has reached the end it had at the start, or can't. */
static bool at_end(struct lane *lane) {
    uint64_t given_up = 0;
    if (!lane->shared->until_end || !lane->assigned) return false;
    for (struct partition *p = lane->partitions; p; p = p->next) {
        if (!has_ended(lane, p)) return false;
        given_up += p->given_up;
    }
    count_set(&lane->counters, COUNTER_GIVEN_UP, given_up);
    return true;
}

static bool has_prospects(const struct partition *p, void *lane) {
    return !p->given_up || !settlement_blocked_since(lane, p);
}

/* With --until-end a lane says when it has nothing left to do; the main thread decides, since a
 * rebalance may still bring it a partition that another lane, or process, has given up. */
static void note_end(struct lane *lane) {
    int64_t owned = 0;
    lane->ending = at_end(lane);
    for (const struct partition *p = lane->partitions; p; p = p->next) owned++;
    bool done = lane->ending && is_settled(lane, has_prospects, lane);
    if (done && !atomic_load(&lane->done))
        for (struct partition *p = lane->partitions; p; p = p->next) ending_tell(lane, p);
    atomic_store(&lane->owned, owned);
    if (atomic_exchange(&lane->done, done) != done && done &&
        eventfd_write(lane->shared->ended_fd, 1) != 0)
        log_warn("waking the main thread failed");
}

/* ---- life ---- */

static bool lane_open(struct lane *lane, struct buf *err) {
    char id[512];
    enter(lane, STEP_CLOSE); /* of like cost */
    transactional_id(lane, id, sizeof id);
    read_clocks(lane, UNHEARD_MS);
    lane->restart = lane->settles = false;
    lane->opened_ms = lane->now_ms;
    lane->producer_again_ms = 0;
    lane->sleep_ms = 0;
    lane->settle_after_ms = lane->settle_backoff_ms = 0;
    lane->producer = producer_new(lane->cfg, id, lane->wake_fd, err);
    return lane->producer && source_open(lane, err);
}

/* The other way round than lane_open(): transfers are given up, the group is left, the settle
 * thread ends. */
static void lane_shut(struct lane *lane) {
    enter(lane, STEP_CLOSE);
    recall_stop(lane);
    proof_stop(lane);
    source_close(lane);
    enter(lane, STEP_CLOSE);
    producer_free(lane->producer); /* abandons the job under way */
    lane->producer = NULL;
    settlement_abandon(lane);
    for (int64_t end = lane->now_ms + 5000; lane->dropped && lane->now_ms < end;) {
        transfer(lane);
        sinks_tick(lane);
        window_free_discarded(lane);
        if (lane->dropped) wait_for_work(lane, 10);
    }
    enter(lane, STEP_CLOSE);
    source_free(lane);
}

static bool check_fatal(struct lane *lane) {
    char why[256];
    if (!consumer_is_fatal(lane->consumer, why, sizeof why)) return false;
    log_error("fatal consumer error: another process may have this one's identity (slot)",
              LOG_I("lane", lane->id), LOG_S("error", why));
    return true;
}

static bool is_told_to_end(const struct lane *lane) {
    return atomic_load(&lane->command) == LANE_DRAIN;
}

/* A fatal producer error leaves only one safe way: begin again from what is committed. */
static bool begin_again(struct lane *lane) {
    int64_t pause = restart_pause(lane);
    log_warn("the lane starts anew", LOG_I("lane", lane->id), LOG_S("why", lane->restart_why),
             LOG_I("pause_ms", pause));
    count(&lane->counters, COUNTER_RESTARTS, 1);
    lane_shut(lane);
    atomic_store(&lane->done, false);
    lane->draining = lane->assigned = false;
    for (int64_t end = lane->now_ms + pause; lane->now_ms < end && !is_told_to_end(lane);) {
        wait_for_work(lane, end - lane->now_ms < 1000 ? end - lane->now_ms : 1000);
        transfer(lane); /* an anchor may fly: its answer would end each wait at once */
    }
    if (is_told_to_end(lane)) return true;
    struct buf err;
    buf_init(&err, 4096);
    bool ok = lane_open(lane, &err);
    if (!ok) log_error("the lane can't start anew", LOG_MESSAGE(&err));
    buf_free(&err);
    return ok;
}

/* What is settled by now is anchored before the lane ends, when that succeeds in time. */
static void anchor_last(struct lane *lane, int64_t end_ms) {
    anchor_hurry(lane);
    uint64_t failures = count_get(&lane->counters, COUNTER_ANCHORS_FAILED);
    while (anchor_waits(lane) && lane->now_ms < end_ms &&
           count_get(&lane->counters, COUNTER_ANCHORS_FAILED) == failures) {
        anchor_tick(lane);
        transfer(lane);
        if (anchor_waits(lane)) wait_for_work(lane, 100);
    }
}

/* One step of a lane's life; false when it is over. */
static bool live(struct lane *lane, enum lane_state *ret_end) {
    if (is_told_to_end(lane)) {
        int64_t end_ms = lane->now_ms + lane->cfg->drain_timeout;
        bool early = lane->shared->until_end && !atomic_load(&lane->done);
        lane->draining = true;
        finish(lane, NULL, NULL, lane->cfg->drain_timeout);
        count_left(lane, early);
        if (!lane->restart) anchor_last(lane, end_ms);
        return false;
    }
    turn(lane);
    if (!check_fatal(lane) && (!lane->restart || begin_again(lane))) return true;
    *ret_end = LANE_FAILED;
    return false;
}

void lane_live(struct lane *lane) {
    enum lane_state end = LANE_FINISHED;
    while (live(lane, &end)) continue;
    update_gauges(lane);
    lane_shut(lane);
    update_gauges(lane);
    careful_leave(lane);
    enter(lane, STEP_ENDED);
    atomic_store(&lane->state, end);
    if (eventfd_write(lane->shared->ended_fd, 1) != 0) log_warn("waking the main thread failed");
}

static void *lane_main(void *lane) {
    lane_live(lane);
    return NULL;
}

static void lane_free(struct lane *lane) {
    recall_stop(lane);
    proof_stop(lane);
    source_close(lane);
    source_free(lane);
    producer_free(lane->producer);
    for (size_t i = 0; sink_types[i]; i++)
        if (lane->http && sink_types[i]->close) sink_types[i]->close(&lane->sinks);
    http_free(lane->http);
    if (lane->dispatch) dispatch_run(lane->dispatch);
    window_free_discarded(lane);
    dispatch_free(lane->dispatch);
    anchor_close(lane);
    router_free(lane->router);
    body_close(lane);
    observer_free(lane->observer);
    if (lane->wake_fd >= 0) close(lane->wake_fd);
    free(lane);
}

struct lane *lane_new(const struct config *cfg, struct worker_shared *shared, int id,
                      struct buf *err) {
    struct lane *lane = xcalloc(1, sizeof *lane);
    lane->cfg = cfg;
    atomic_store(&lane->taken, cfg);
    lane->shared = shared;
    lane->finish = finish;
    lane->id = id;
    lane->schedule = (struct schedule){cfg->retry_delays_ms, cfg->retry_delays.n};
    lane->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    lane->observer = observer_new(lane->wake_fd);
    lane->router = router_new(cfg);
    if (lane->wake_fd < 0) goto failed;
    lane->http = http_new(cfg);
    http_wake_by(lane->http, lane->wake_fd);
    lane->sinks = (struct sink_env){.cfg = cfg, .http = lane->http, .wake_fd = lane->wake_fd};
    lane->dispatch =
        dispatch_new(cfg, &lane->sinks, &lane->now_ms, &lane->heard_ms, shared->until_end);
    read_clocks(lane, UNHEARD_MS);
    if (anchor_open(lane, err) && lane_open(lane, err)) return lane;
failed:
    lane_free(lane);
    return NULL;
}

struct lane *lane_start(const struct config *cfg, struct worker_shared *shared, int id,
                        struct buf *err) {
    struct lane *lane = lane_new(cfg, shared, id, err);
    int rc = lane ? pthread_create(&lane->thread, NULL, lane_main, lane) : 0;
    if (rc == 0) return lane;
    buf_printf(err, "starting a lane's thread failed: %s", strerror(rc));
    lane_free(lane);
    return NULL;
}

void lane_drain(struct lane *lane) {
    atomic_store(&lane->command, LANE_DRAIN);
    if (eventfd_write(lane->wake_fd, 1) != 0) log_warn("waking a lane failed");
}

void lane_join(struct lane *lane, uint64_t totals[COUNTERS]) {
    pthread_join(lane->thread, NULL);
    lane_end(lane, totals);
}

void lane_end(struct lane *lane, uint64_t totals[COUNTERS]) {
    for (int i = 0; i < COUNTERS; i++) totals[i] += count_get(&lane->counters, (enum counter)i);
    lane_free(lane);
}
