/* What has become of each event in the end: one outcome (P1), and in time (P4). */
#include "tests/sim/judging.h"

#include <inttypes.h>
#include <string.h>

#include "tests/sim/broker.h"
#include "tests/sim/fleet.h"
#include "tests/sim/plan.h"
#include "tests/sim/store.h"
#include "tests/sim/world.h"

/* Whether the event may have died although it is fit: its place had troubles. */
static bool may_be_dead(const struct event *e) {
    const struct place *p = store_place(events_destination(e->destination)->place);
    return p->sickness != WELL || (!p->steady && plan.store_faults);
}

/* What kills once it is built or sent never is where its place is shut off for as long as its
 * window lasts: then it dies of that. */
static bool kills_later(const struct event *e) {
    static const char decode[] = "hook:kill-decode";
    return e->fate == FATE_POISON && !memmem(e->value.p, e->value.n, decode, sizeof decode - 1);
}

/* P5. What has died was tried for as long as there was a next attempt within its window. */
static void judge_death(const struct event *e) {
    static const char *const faults[] = {
        [FATE_DELIVERED] = "tenant", [FATE_SKIPPED] = "", [FATE_DEAD] = "data", [FATE_POISON] = ""};
    bool poison = strcmp(e->why, "poison") == 0;
    if (kills_later(e) && may_be_dead(e) && strcmp(e->fault, "tenant") == 0) return;
    if (strcmp(e->why, "refused-by-topic") == 0 && may_be_refused(e)) return;
    if (!poison && strcmp(e->fault, faults[e->fate]) != 0)
        world_fail("P4: event %d is dead of fault %s (%s)", e->number, e->fault, e->why);
    if (e->fate != FATE_DELIVERED || !is_exact(e) || e->for_good) return;
    if (!e->failures || scheduled(e) < window_end(e) - ROUNDING_US)
        world_fail("P5: event %d is given up after %u failures, %" PRId64 " s after the first",
                   e->number, e->failures, (e->last_failure_us - e->first_failure_us) / WORLD_S);
}

/* P1. What retention took before it was read is named by the ledger, from where the chain begins.
 */
static void judge_gone(const struct event *e) {
    const struct chain *c = chain_of(events_topic(e->topic), e->partition);
    if (c->n_links && e->offset >= c->first && e->offset < c->links[c->n_links - 1].next)
        world_fail("P1: event %d at %s/%d/%" PRId64 " was lost in silence", e->number, c->topic,
                   (int)e->partition, e->offset);
}

/* Whoever ends in good order has settled what it has delivered. */
static void judge_drain(const struct event *e) {
    int64_t ended_us = fleet_ended_us(e->success_process);
    if (!plan.peace || !e->success_us || !ended_us) return;
    if (e->delivered_ms > WORLD_EPOCH_MS + ended_us / WORLD_MS)
        world_fail("event %d was delivered by p%" PRIu64 ", which had not settled it when it ended",
                   e->number, e->success_process);
}

void judge_event(const struct event *e) {
    bool gone = e->era < events_era(e->topic);
    bool removed = gone || e->offset < events_removed(e->topic, e->partition);
    unsigned outcomes = e->delivered + e->skipped + e->dead + e->lost;
    if (e->visible_us == INT64_MAX) {
        if (outcomes > e->lost) world_fail("event %d was aborted, and has an outcome", e->number);
        return;
    }
    if (!outcomes && removed && !gone && !e->compacted) judge_gone(e);
    if (outcomes > 1 || (!outcomes && !removed && !e->compacted))
        world_fail("P1: event %d at %s/%d/%" PRId64 " has %u outcomes", e->number,
                   events_topic(e->topic), (int)e->partition, e->offset, outcomes);
    if (e->parked)
        world_fail("P1: of event %d another number of records is parked than the ledger says",
                   e->number);
    if (e->dead != e->letters)
        world_fail("P1: event %d has %u dead letters", e->number, e->letters);
    if (!outcomes || e->lost) return;
    if (e->dead) judge_death(e);
    if (e->delivered) judge_drain(e);
    if (e->blamed && !e->dead)
        world_fail("P2: event %d is in no object any more, and not dead", e->number);
    bool right = e->dead && strcmp(e->why, "poison") == 0 && may_be_blamed();
    switch (e->fate) {
    case FATE_DELIVERED:
        right = right || (e->delivered ? e->arrived_us >= 0 : e->dead && may_be_dead(e));
        right = right || (e->dead && may_be_refused(e));
        break;
    case FATE_SKIPPED:
        right = right || e->skipped;
        break;
    case FATE_DEAD:
    case FATE_POISON:
        right = right || e->dead;
        break;
    }
    if (!right)
        world_fail("P1: event %d is %s", e->number,
                   e->delivered ? "delivered"
                   : e->dead    ? "dead"
                                : "skipped");
}

/* P4. Where nothing died and Kafka had no troubles, what is bound for a place without troubles is
 * there soon, however sick the others are. */
#define SOON_S 10
#define BURST_S 10
#define PLENTY 100
#define PARKED_S 20
#define SMALL_KIB 1000
#define DEPLOY_S 15

/* What its own queue has no room for goes round: it is parked with its window, which may hold a
 * request that nobody answers. What goes round for others may fill a budget of some records for as
 * long as theirs hangs (seed 1986); that is less than an operator may set. */
static int64_t round_us(const struct event *e) {
    bool small = plan.budget_kib < SMALL_KIB;
    if (!small && (plan.waiting >= PLENTY || !e->rounds)) return 0;
    return PARKED_S * WORLD_S + (e->rounds + small) * plan.timeout_ms * WORLD_MS;
}

/* While the windows before it are as many as there may be, and each has a request that hangs, they
 * go by in rounds of window.grace. */
static int64_t windows_us(const struct event *e) {
    int64_t at_once = (int64_t)plan.window_records * plan.window_inflight;
    return e->offset / at_once * plan.grace_ms * WORLD_MS;
}

void judge_delay(const struct event *e) {
    const struct place *p = store_place(events_destination(e->destination)->place);
    int64_t most_us = SOON_S * WORLD_S + plan.batch_ms * WORLD_MS;
    most_us += (plan.deploys * DEPLOY_S + (plan.hot ? BURST_S : 0)) * WORLD_S;
    most_us += round_us(e) + windows_us(e);
    if (!plan.peace || !p->steady || e->arrived_us < 0) return;
    if (e->arrived_us - e->visible_us > most_us)
        world_fail("P4: event %d is at its healthy place after %" PRId64 " s", e->number,
                   (e->arrived_us - e->visible_us) / WORLD_S);
}
