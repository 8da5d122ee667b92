#include "worker/pipeline/caution.h"

#include <inttypes.h>

#include "worker/base/log.h"
#include "worker/pipeline/delivery.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/partition.h"

/* ---- what is passed over ---- */

bool caution_is_guilty(const struct partition *p, enum alone alone, int64_t offset) {
    return poison_blamed(&p->want, alone, offset) == offset;
}

/* The next offset, not before this one, that skip.offsets names. */
static int64_t next_named(const struct lane *lane, const struct partition *p, int64_t from) {
    int64_t next = INT64_MAX;
    for (size_t i = 0; i < lane->cfg->skip_offsets.n; i++) {
        const struct config_offset *o = &lane->cfg->skips[i];
        if (o->offset >= from && o->offset < next && o->partition == p->id &&
            strcmp(o->topic, p->topic) == 0)
            next = o->offset;
    }
    return next;
}

void caution_look_ahead(const struct lane *lane, struct partition *p, int64_t from) {
    p->special = poison_blamed(&p->want, ALONE_RECORD, from);
    int64_t named = next_named(lane, p, from);
    if (named < p->special) p->special = named;
}

void caution_reconfigure(struct lane *lane) {
    for (struct partition *p = lane->partitions; p; p = p->next)
        caution_look_ahead(lane, p, partition_at(p));
}

struct outcome caution_poisoned(struct lane *lane, const struct partition *p, int64_t offset,
                                uint32_t records) {
    count(&lane->counters, COUNTER_POISONED, records);
    log_error("poison: the worker died each time this was in work; it is set aside as a dead "
              "letter: please report what it holds",
              LOG_S("topic", p->topic), LOG_I("partition", p->id), LOG_I("offset", offset),
              LOG_I("records", records), LOG_I("deaths", (int64_t)p->want.taken - 1));
    return outcome_fail(VERDICT_PERMANENT, FAULT_SYSTEM, "poison",
                        "the worker died %" PRIu32 " times while this was in work, the last time "
                        "with nothing else",
                        p->want.taken - 1);
}

enum record_state caution_special(struct lane *lane, struct partition *p, int64_t offset,
                                  struct outcome *ret) {
    bool guilty = caution_is_guilty(p, ALONE_RECORD, offset);
    bool named = next_named(lane, p, offset) == offset;
    caution_look_ahead(lane, p, offset + 1);
    if (!guilty && !named) return RECORD_OPEN;
    if (!named) {
        *ret = caution_poisoned(lane, p, offset, 1);
        return RECORD_DEAD;
    }
    log_warn("a record is passed over: skip.offsets names it", LOG_S("topic", p->topic),
             LOG_I("partition", p->id), LOG_I("offset", offset));
    *ret = (struct outcome){.verdict = VERDICT_OK, .why = "operator"};
    return RECORD_SKIPPED;
}

/* ---- how a partition is read ---- */

void caution_set(struct lane *lane, struct partition *p, enum caution caution) {
    int more = (caution == CAUTION_CAREFUL) - (p->caution == CAUTION_CAREFUL);
    p->caution = caution;
    if (!more) return;
    lane->n_careful += more;
    atomic_fetch_add(&lane->shared->careful, more);
    count_set(&lane->counters, COUNTER_CAREFUL, (uint64_t)lane->n_careful);
}

void caution_end(struct lane *lane, struct partition *p) {
    log_info("a partition is read as usual again", LOG_S("topic", p->topic),
             LOG_I("partition", p->id), LOG_I("offset", p->committed));
    caution_set(lane, p, CAUTION_NONE);
    p->suspect = (struct claim){0};
    p->want = (struct claim){.taken = 1, .reader = p->want.reader};
}

struct claim caution_anew(const struct lane *lane, const struct partition *p) {
    bool mine = p->want.taken && p->want.reader == lane->shared->me;
    return mine ? (struct claim){.taken = 1, .reader = p->want.reader} : (struct claim){0};
}

void caution_settled(struct lane *lane, struct partition *p, int64_t records) {
    if (p->caution == CAUTION_NONE) return;
    lane->again = true;
    p->zone -= records;
    if (p->suspect.next <= p->committed) p->suspect = (struct claim){0};
    bool replays = p->windows.n_ends || p->replay_end > p->committed;
    bool passed = p->zone <= 0 || p->committed >= p->zone_end;
    if (passed && !replays && !p->windows.count) caution_end(lane, p);
}

/* ---- giving it back ---- */

void caution_release(const struct lane *lane, struct partition *p, bool leave) {
    const struct claim *held = &p->meta.claim;
    if (!p->loaded || p->begins) return;
    if (lane->settlement) return; /* what is held is known once it is through */
    if (!lane->cfg->poison_attempts)
        p->want = p->claimed ? (struct claim){0} : *held;
    else if (held->reader != lane->shared->me)
        p->want = *held;
    else if (leave || p->windows.count == windows_settleable(&p->windows))
        p->want = poison_release(held, &p->suspect, p->claimed && p->caution == CAUTION_NONE);
}

/* ---- deliveries ---- */

bool caution_may_send(const struct delivery *d) {
    const struct window *w = d->window;
    const struct partition *p = w->partition;
    const struct claim *c = &p->meta.claim;
    /* What is too large to be tried line by line at once, and comes back whole, goes alone from the
     * second death on, so that the third tells its line. */
    if (p->caution == CAUTION_WARY)
        return p->kind == PARTITION_RETRY ? d->n == 1 : !w->batched || !w->replayed;
    return d->n == 1 && c->alone == ALONE_RECORD && c->next == c->first + 1 &&
           c->first == d->members[0]->offset && w->out == 0;
}

bool caution_waits(const struct window *w) {
    if (w->out) return false;
    for (const struct delivery *d = w->deliveries; d; d = d->next_in_window)
        if (d->state == DELIVERY_DEFERRED) return true;
    return false;
}
