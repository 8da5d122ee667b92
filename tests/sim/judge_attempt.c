/* Requests, and what was answered: no object before its window's end is durable (P2), and each
 * attempt at its time (P5). */
#include "tests/sim/judging.h"

#include <inttypes.h>
#include <stdlib.h>

#include "tests/sim/broker.h"
#include "tests/sim/fleet.h"
#include "tests/sim/judge.h"
#include "tests/sim/plan.h"
#include "tests/sim/store.h"
#include "tests/sim/world.h"

/* In a peaceful run all clocks are right, nobody dies, and each attempt is counted. The time of the
 * attempt after the last failure is counted from the first one. */
int64_t scheduled(const struct event *e) {
    int64_t at_us = e->first_failure_us;
    for (unsigned i = 0; i < e->failures; i++) at_us += fleet_delay_ms(i) * WORLD_MS;
    return at_us;
}

/* After one that came late, there is half of a delay at least. */
static int64_t due_after(const struct event *e) {
    int64_t soonest_us = e->last_failure_us + fleet_delay_ms(e->failures - 1) * WORLD_MS / 2;
    return scheduled(e) > soonest_us ? scheduled(e) : soonest_us;
}

/* Whether nothing but its schedule decides when it is tried again: no refused credentials, for
 * which a breaker opens at once, and no Retry-After, for which others of its destination wait. */
bool is_exact(const struct event *e) {
    enum sickness s = store_place(events_destination(e->destination)->place)->sickness;
    return plan.exact && (s == WELL || s == REFUSES || s == BROKEN);
}

int64_t window_end(const struct event *e) {
    return e->first_failure_us + plan.retry_s * WORLD_S;
}

/* P5. An attempt comes when it is due: no sooner and, where nothing holds it up, not much later. It
 * may stand behind others that wait for the whole delay; and in batch mode what was parked first
 * waits with what is collected in its window. */
#define ROUNDING_US (2 * WORLD_MS)
#define PARKING_US (700 * WORLD_MS)
#define LATE_US (400 * WORLD_MS)

/* What was not settled before a rebalance, the next owner does not know. */
static bool is_known(const struct event *e) {
    bool succeeded = e->success_us > e->last_failure_us;
    return (succeeded ? e->success_generation : e->failure_generation) == broker_generation();
}

static void judge_time(const struct event *e) {
    int64_t now_us = world_us(), least_us = fleet_delay_ms(0) * WORLD_MS / 2 - 50 * WORLD_MS;
    bool known = is_known(e);
    if (known && now_us - e->last_attempt_us < least_us)
        world_fail("P5: event %d is tried again after %" PRId64 " ms", e->number,
                   (now_us - e->last_attempt_us) / WORLD_MS);
    if (e->success_us && e->success_generation == broker_generation())
        world_fail("P5: event %d is sent again, which was delivered", e->number);
    if (known && now_us < e->asked_us - ROUNDING_US)
        world_fail("P5: event %d is tried again %" PRId64 " ms before what Retry-After said",
                   e->number, (e->asked_us - now_us) / WORLD_MS);
    if (!is_exact(e) || !e->failures) return;
    int64_t delay_us = fleet_delay_ms(e->failures - 1) * WORLD_MS;
    int64_t late_us = e->last_failure_us + (delay_us > PARKING_US ? delay_us : PARKING_US);
    if (late_us < e->due_us) late_us = e->due_us;
    if (now_us < e->due_us - ROUNDING_US)
        world_fail("P5: event %d is tried again %" PRId64 " ms too soon after %u failures",
                   e->number, (e->due_us - now_us) / WORLD_MS, e->failures);
    if (plan.batch) late_us += plan.window_ms * WORLD_MS; /* it is settled with others */
    bool waits = plan.batch && e->failures == 1;
    if (known && !waits && now_us < plan.seconds * WORLD_S && now_us > late_us + LATE_US)
        world_fail("P5: event %d is tried again %" PRId64 " ms too late after %u failures",
                   e->number, (now_us - late_us) / WORLD_MS, e->failures);
    if (scheduled(e) > window_end(e) + ROUNDING_US)
        world_fail("P5: event %d is tried again after its retry window", e->number);
}

static void note_attempt(struct event *e, struct str line, void *context) {
    struct asked *a = context;
    (void)line;
    if (plan.peace && e->attempts) judge_time(e);
    e->attempts++;
    e->last_attempt_us = world_us();
    GROW(a->events, a->n);
    a->events[a->n++] = e;
    a->destination = e->destination;
}

/* P2. In batch mode nothing is written before the window's end is durable. What was read of a topic
 * that is gone nobody reads again. */
static void judge_boundary(const char *key, struct str text) {
    const struct event *e = events_in(text);
    struct batch_key w;
    if (!body_is_batch(key) || !parse_batch_key(key, &w)) return;
    if (e && e->era < events_era(w.topic)) return;
    if (!chain_has_end(chain_of(events_topic(w.topic), w.partition), w.next))
        world_fail("P2: %s is sent before its window's end is durable", key);
}

void judge_request(struct asked *a, const char *key, struct str body) {
    struct str text = body_unpack(key, body);
    if (!store_place(a->place)->hook) judge_boundary(key, text);
    body_each_line(key, text, note_attempt, a);
    free((void *)(uintptr_t)text.p);
}

static int64_t longest_delay_ms(void) {
    int64_t most = 0;
    for (unsigned i = 0; i < 8; i++)
        if (fleet_delay_ms(i) > most) most = fleet_delay_ms(i);
    return most;
}

static void note_failure(struct event *e, const struct place *p, int status,
                         uint32_t retry_after_ms) {
    e->last_failure_us = world_us();
    e->failure_generation = broker_generation();
    if (e->failures++ == 0) e->first_failure_us = world_us();
    e->due_us = due_after(e);
    e->asked_us = retry_after_ms ? world_us() + retry_after_ms * WORLD_MS : 0;
    /* The window may have begun before: what was not tried has failed, too. */
    int64_t end_us = e->visible_us + plan.retry_s * WORLD_S;
    if (e->asked_us > end_us) e->asked_us = end_us;
    /* A batch that has come back is attempted. */
    int64_t back_us = world_us() + longest_delay_ms() * WORLD_MS;
    if (plan.batch && !p->hook && e->asked_us > back_us) e->asked_us = back_us;
    e->for_good = store_is_final(p, status);
}

void judge_answer(const struct asked *a, int status, uint32_t retry_after_ms) {
    for (size_t i = 0; i < a->n; i++) {
        struct event *e = a->events[i];
        if (status != 200) {
            note_failure(e, store_place(a->place), status, retry_after_ms);
            continue;
        }
        e->success_us = world_us();
        e->success_process = a->process;
        e->success_generation = broker_generation();
    }
}
