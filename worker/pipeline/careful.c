#include "worker/pipeline/careful.h"

#include "worker/base/log.h"
#include "worker/pipeline/caution.h"
#include "worker/pipeline/delivery.h"
#include "worker/pipeline/intake.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/partition.h"
#include "worker/pipeline/source.h"

#define SILENT_MS 5000 /* a partition that gives no record for this long lets others go on */

/* ---- taking a partition over ---- */

/* As many records as the last reader can have had in work. */
static int64_t zone_of(const struct lane *lane, const struct partition *p, bool near) {
    const struct config *cfg = lane->cfg;
    if (near) return WARY_RECORDS;
    if (p->kind == PARTITION_SOURCE && cfg->archive == CONFIG_ARCHIVE_BATCH)
        return (cfg->batch_inflight + 1) * cfg->batch_records;
    return cfg->window_inflight * cfg->window_records;
}

static void take_over(struct lane *lane, struct partition *p) {
    uint32_t attempts = (uint32_t)lane->cfg->poison_attempts;
    struct takeover t = takeover(&p->meta.claim, lane->shared->me, attempts, p->calm, p->committed);
    p->asked = true;
    p->want = t.want;
    p->suspect = t.want;
    p->zone = zone_of(lane, p, t.near);
    /* Nor can they have read what came after they had gone. */
    int64_t low, high;
    p->zone_end = feed_ends(p->feed, &low, &high) ? high : INT64_MAX;
    if (p->zone_end <= p->committed) p->zone_end = INT64_MAX; /* not told yet */
    caution_set(lane, p, t.caution);
    caution_look_ahead(lane, p, p->committed);
    if (t.caution == CAUTION_NONE) return;
    log_warn("earlier readers of a partition died: it is read with care until what they had in "
             "work is settled",
             LOG_S("topic", p->topic), LOG_I("partition", p->id), LOG_I("offset", p->committed),
             LOG_I("deaths", (int64_t)t.want.taken - 1),
             LOG_S("how", t.caution == CAUTION_WARY ? "small windows"
                                                    : "one record at a time in this process"));
}

bool careful_claim(struct lane *lane, struct partition *p) {
    if (!p->loaded) return false;
    if (!lane->cfg->poison_attempts) {
        p->want = (struct claim){0};
        caution_look_ahead(lane, p, 0); /* maybe where it begins is not known yet */
        p->claimed = true;
        return true;
    }
    if (!p->asked) {
        /* Nothing to read is nothing to claim; and at the end, all that was read is settled. */
        struct feed_head head;
        bool any = source_peek(lane, p, &head);
        if (any && intake_past_end(p, head.offset)) return false;
        if (!any) {
            p->calm = p->calm || partition_at_end(p);
            return false;
        }
        take_over(lane, p);
    }
    p->claimed = claim_same(&p->want, &p->meta.claim);
    return p->claimed;
}

/* ---- one at a time ---- */

static bool is_quiet(const struct lane *lane) {
    if (dispatch_flying(lane->dispatch) || dispatch_waiting(lane->dispatch) || lane->dropped)
        return false;
    for (const struct partition *p = lane->partitions; p; p = p->next)
        if (p->windows.count) return false;
    return true;
}

static void be_busy(struct lane *lane, bool busy) {
    if (lane->busy != busy) atomic_fetch_add(&lane->shared->busy, busy ? 1 : -1);
    lane->busy = busy;
}

/* Busy is said before the look: a lane that begins to be careful then sees either that, or that we
 * have seen it. */
bool careful_stands(struct lane *lane) {
    if (!lane->busy && !atomic_load(&lane->shared->careful)) be_busy(lane, true);
    return atomic_load(&lane->shared->careful) > 0;
}

void careful_leave(struct lane *lane) {
    int mine = lane->id + 1;
    be_busy(lane, false);
    atomic_compare_exchange_strong(&lane->shared->token, &mine, 0);
}

/* Whether it is durable that this is alone in work; sees to it otherwise. What was read of a topic
 * that is gone is read by nobody again, and nothing may be committed of it. */
static bool note(struct partition *p, enum alone alone, int64_t first, int64_t next) {
    const struct claim *c = &p->meta.claim, *s = &p->suspect;
    bool again = s->alone == alone && s->first == first && s->next == next;
    uint32_t tries = again && s->tries < UINT32_MAX ? s->tries + 1 : 1;
    if (claim_same(&p->want, c) && c->alone == alone && c->tries >= tries && first >= c->first &&
        next <= c->next)
        return true;
    p->want.alone = alone;
    p->want.first = first;
    p->want.next = next;
    p->want.tries = tries;
    if (p->vanished) p->meta.claim = p->want;
    return p->vanished;
}

/* How many records, of so many from here on, one note may stand for. */
static int64_t step(const struct partition *p, int64_t n, int64_t offset) {
    const struct claim *s = &p->suspect;
    if (s->alone == ALONE_RECORD && offset >= s->first && offset < s->next) n = s->next - s->first;
    return poison_step(n);
}

/* Each line of a batch is made alone, as the batch is going to be. */
static bool try_lines(struct lane *lane, struct partition *p, struct delivery *d) {
    while (d->tried < d->n) {
        uint32_t i = d->tried, end = i;
        int64_t first = d->members[i]->offset, last = first;
        int64_t most = step(p, d->n, first);
        for (; end < d->n && end - i < most && d->members[end]->offset >= last; end++)
            last = d->members[end]->offset;
        if (!note(p, ALONE_RECORD, first, last + 1)) return false;
        for (; i < end; i++) delivery_try(lane, d, i);
        d->tried = end;
    }
    return true;
}

/* With small windows all lines are tried, else those of what was in work at the last death: also
 * when that was a line that needs more deaths to be blamed. */
static bool is_suspect(const struct partition *p, const struct delivery *d) {
    const struct claim *s = &p->suspect;
    if (p->caution != CAUTION_CAREFUL || d->n == 1) return false;
    if (d->window->taken <= WARY_RECORDS) return true;
    uint32_t members = s->alone == ALONE_RECORD ? d->n : s->alone != ALONE_NONE;
    for (uint32_t i = 0; i < members; i++)
        if (d->members[i]->offset >= s->first && d->members[i]->offset < s->next) return true;
    return false;
}

static bool is_in(const struct delivery *d, const struct claim *c) {
    return d->state == DELIVERY_DEFERRED && d->members[0]->offset >= c->first &&
           d->members[0]->offset < c->next;
}

/* How many deliveries go out under one note, from this one on. */
static int64_t group_of(const struct partition *p, const struct window *w,
                        const struct delivery *first) {
    const struct claim *s = &p->suspect;
    bool narrow = s->alone == ALONE_DELIVERIES && is_in(first, s);
    int64_t n = 0;
    for (const struct delivery *o = w->deliveries; o; o = o->next_in_window)
        n += !narrow || is_in(o, s);
    return poison_step(n);
}

/* Sends the deliveries that the next note covers: mostly one. */
static void send_group(struct partition *p, struct window *w, struct delivery *first) {
    int64_t from = first->members[0]->offset, to = from, n = group_of(p, w, first);
    bool innocent = first->n == 1 || first->tried == first->n;
    struct delivery *end = first;
    for (; end && n > 0; end = end->next_in_window) {
        if (end->state != DELIVERY_DEFERRED) continue;
        if (end->members[0]->offset < to) break; /* parked ones come in any order */
        to = end->members[0]->offset;
        n--;
    }
    enum alone alone = to == from && innocent ? ALONE_WHOLE : ALONE_DELIVERIES;
    if (!note(p, alone, from, to + 1)) return;
    p->tried_ms = w->lane->now_ms;
    for (struct delivery *o = first; o != end; o = o->next_in_window)
        if (o->state == DELIVERY_DEFERRED) delivery_send_now(o);
}

/* The deliveries of the window at hand. */
static void send_next(struct lane *lane, struct partition *p, struct window *w) {
    if (w->out) {
        if (lane->now_ms - p->tried_ms > lane->cfg->window_grace) window_cancel(w, CANCEL_SLOW);
        return;
    }
    for (struct delivery *d = w->deliveries; d; d = d->next_in_window) {
        if (d->state != DELIVERY_DEFERRED) continue;
        int64_t first = d->members[0]->offset;
        if (caution_is_guilty(p, ALONE_WHOLE, first)) {
            struct outcome o = caution_poisoned(lane, p, first, d->n);
            delivery_refuse(d, &o);
            continue;
        }
        if (!is_suspect(p, d) || try_lines(lane, p, d)) send_group(p, w, d);
        return;
    }
}

/* Whether nothing is in work, and none of the records that are there was. */
static bool at_rest(const struct lane *lane, const struct partition *p) {
    if (p->windows.count) return false;
    return p->head_due_ms > lane->wall_ms || partition_at_end(p);
}

void careful_tick(struct lane *lane, struct partition *p) {
    struct window *w = p->windows.oldest;
    if (p->caution == CAUTION_NONE || !p->claimed) return;
    if (at_rest(lane, p))
        caution_end(lane, p);
    else if (p->caution == CAUTION_WARY && w && w->sealed)
        send_next(lane, p, w);
}

/* Takes what one note covers. False: there is nothing. */
static bool take_next(struct lane *lane, struct partition *p) {
    struct feed_head head;
    bool any = source_peek(lane, p, &head) && !intake_past_end(p, head.offset);
    const struct window *open = windows_open(&p->windows); /* which the look may have ended */
    if (!any) return open != NULL;
    int64_t first = head.offset, n = open && open->next > 0 ? open->next - open->first : 1;
    int64_t next = first + step(p, n, first);
    if (open && open->next > 0 && next > open->next) next = open->next;
    if (p->special != first && !note(p, ALONE_RECORD, first, next)) return true;
    if (p->special == first) next = first + 1;
    p->tried_ms = lane->now_ms;
    place_topic(&lane->place, p->topic, p->id);
    while (source_peek(lane, p, &head) && head.offset < next) intake_take(lane, p);
    intake_seal(lane, p, true);
    return true;
}

void careful_announce(struct lane *lane, struct partition *p) {
    const struct window *w = p->windows.oldest;
    if (lane->finishing) return; /* it is about to be given back */
    if (p->caution != CAUTION_CAREFUL || !w || !window_complete(w) || w->newer) return;
    struct feed_head head;
    if (source_peek(lane, p, &head) && p->zone > 1 && head.offset != p->special &&
        p->suspect.alone == ALONE_NONE)
        note(p, ALONE_RECORD, head.offset, head.offset + 1);
}

static bool try_next(struct lane *lane, struct partition *p) {
    struct window *w = p->windows.oldest;
    if (w && w->sealed) {
        if (!window_complete(w)) send_next(lane, p, w);
        return true;
    }
    if (w && w->out) { /* a record's own delivery, in a window of many */
        send_next(lane, p, w);
        return true;
    }
    return take_next(lane, p);
}

static struct partition *partition_at_hand(struct lane *lane) {
    struct partition *p = lane->trying ? partition_find(lane, lane->trying) : NULL;
    return p && p->caution == CAUTION_CAREFUL ? p : NULL;
}

static void try_one(struct lane *lane) {
    struct partition *p = partition_at_hand(lane);
    if (p && try_next(lane, p)) return;
    lane->trying = 0;
    for (p = lane->partitions; p; p = p->next) {
        careful_tick(lane, p);
        if (p->caution != CAUTION_CAREFUL || !p->claimed || partition_unproven(p)) continue;
        if (!try_next(lane, p)) {
            /* Not the end, and no record: it claims again when there is one. */
            if (!p->silent_ms) p->silent_ms = lane->now_ms;
            if (lane->now_ms - p->silent_ms < SILENT_MS) continue;
            caution_set(lane, p, CAUTION_NONE);
            p->claimed = p->asked = false;
        }
        p->silent_ms = 0;
        if (p->caution != CAUTION_CAREFUL) continue;
        lane->trying = p->serial;
        return;
    }
}

void careful_run(struct lane *lane) {
    int nobody = 0, mine = lane->id + 1;
    if (is_quiet(lane)) be_busy(lane, false);
    if (!lane->n_careful) {
        atomic_compare_exchange_strong(&lane->shared->token, &mine, 0);
        return;
    }
    if (!atomic_compare_exchange_strong(&lane->shared->token, &nobody, mine) && nobody != mine)
        return;
    if (!lane->trying && !is_quiet(lane)) return; /* ours that was in work before */
    if (atomic_load(&lane->shared->busy) > (lane->busy ? 1 : 0)) return;
    be_busy(lane, true);
    try_one(lane);
}
