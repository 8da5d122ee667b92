#include "tests/sim/admin.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tests/sim/broker.h"
#include "tests/sim/events.h"
#include "tests/sim/judge.h"
#include "tests/sim/scheduler.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/snapshot.h"

void admin_ask(const struct lane *lane) {
    observer_ask(lane->observer);
    world_wake(lane->wake_fd);
}

/* P6. No text that is shown holds a secret. */
static void judge_text(const char *what, const char *text) {
    for (int i = 0; i < events_destinations(); i++)
        if (strstr(text, events_destination(i)->secret))
            world_fail("P6: %s is shown with a secret: %s", what, text);
}

/* Whether a consumer sees nothing between what is settled and this offset. */
static bool is_settled_to(const struct snapshot_partition *p) {
    struct broker_record r;
    int64_t settled = judge_settled_to(p->topic, p->id);
    return !broker_read(p->topic, p->id, settled, &r) || r.offset >= p->committed;
}

static void judge_partition(const struct snapshot_partition *p) {
    int64_t low, high;
    bool known = broker_ends(p->topic, p->id, &low, &high);
    if (!known) world_fail("P10: %s/%d is shown, which there is not", p->topic, (int)p->id);
    if (events_made_anew(p->topic)) return; /* its lane finds that out when it looks */
    if (!is_settled_to(p) || p->committed > high || p->end > high)
        world_fail("P10: %s/%d is shown as committed at %" PRId64 " of %" PRId64 ", it is not",
                   p->topic, (int)p->id, p->committed, p->end);
    if (!p->state || (p->lag >= 0 && p->lag > high))
        world_fail("P10: %s/%d is shown with a lag of %" PRId64, p->topic, (int)p->id, p->lag);
}

static void judge_health(const struct snapshot_destination *d) {
    const struct destination_health *h = &d->health;
    judge_text("a destination", d->label);
    judge_text("a failure", h->last.detail);
    if (h->open && !h->failed)
        world_fail("P10: the breaker of %s is open, which never failed", d->label);
    if ((h->failures != 0) != (d->failing_ms >= 0))
        world_fail("P10: %s has failed %u times, for %" PRId64 " ms", d->label, h->failures,
                   d->failing_ms);
}

static void judge_destinations(const struct lane_snapshot *s) {
    for (size_t i = 0; i < s->n_destinations; i++) {
        judge_health(&s->destinations[i]);
        if (i && snapshot_worse(&s->destinations[i - 1], &s->destinations[i]) > 0)
            world_fail("P10: %s is shown before a worse one", s->destinations[i - 1].label);
    }
    if (s->n_destinations > s->known || s->open > s->known || s->failing > s->troubled)
        world_fail("P10: of %zu destinations %zu are open, %zu fail", s->known, s->open,
                   s->failing);
}

/* A dead letter that is shown is of an event: of which, its place in the source says. */
static void judge_dead(const struct snapshot_dead *d) {
    judge_text("a dead letter", d->label);
    judge_text("a dead letter", d->workspace);
    judge_text("a dead letter", d->outcome.detail);
    for (int i = 0; i < events_topics(); i++)
        for (int era = 0; era < ERAS; era++)
            if (strcmp(events_topic(i), d->topic) == 0 &&
                events_at(i, d->partition, era, d->offset))
                return;
    world_fail("P10: a dead letter of %s/%d/%" PRId64 " is shown, where there is no event",
               d->topic, (int)d->partition, d->offset);
}

static void judge_workspaces(const struct lane_snapshot *s) {
    for (size_t i = 0; i < s->n_workspaces; i++) {
        const struct snapshot_workspace *w = &s->workspaces[i];
        judge_text("a workspace", w->name);
        judge_text("a workspace", w->label);
        judge_text("a workspace", w->last.detail);
        if (w->redrivable > w->dead[0] + w->dead[1] + w->dead[2])
            world_fail("P10: of %s more can be redriven than is dead", w->name);
    }
}

static void judge_distinct(const struct lane_snapshot *s) {
    struct lane_snapshot *const lanes[] = {(struct lane_snapshot *)(uintptr_t)s, NULL};
    struct snapshot_distinct d = snapshot_distinct(lanes, 2);
    if (d.sick_workspaces > d.workspaces || d.sick_hosts > d.hosts)
        world_fail("P10: more are sick than there are");
    for (int i = 0; i < SKIPS; i++)
        if (d.largest[i] < 0 || d.largest[i] > 1)
            world_fail("P10: a workspace has %f of what is skipped", d.largest[i]);
}

void admin_take(const struct lane *lane) {
    struct lane_snapshot *s = observer_take(lane->observer, 0);
    if (!s) return;
    for (size_t i = 0; i < s->n_partitions; i++) judge_partition(&s->partitions[i]);
    judge_destinations(s);
    judge_workspaces(s);
    for (size_t i = 0; i < s->n_dead; i++) judge_dead(&s->dead[i]);
    judge_text("an error", s->settle_error);
    judge_distinct(s);
    world_say("a lane tells of %zu partitions, %zu destinations, %zu dead letters", s->n_partitions,
              s->known, s->n_dead);
    lane_snapshot_free(s);
}
