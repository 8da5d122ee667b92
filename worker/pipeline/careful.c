/* How a lane finds a record that kills: what it claims before it reads, and how it reads with care.
 * The idea stands in poison.h. */
#include <inttypes.h>
#include <stdlib.h>

#include "worker/base/log.h"
#include "worker/pipeline/body.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/delivery.h"

#define SILENT_MS 5000 /* a partition that gives no record for this long lets others go on */

static struct worker_shared *shared(const struct lane *lane) {
    return (struct worker_shared *)(uintptr_t)lane->shared;
}

/* ---- what is passed over ---- */

static bool is_guilty(const struct partition *p, enum alone alone, int64_t offset) {
    return p->guilty && p->suspect.alone == alone && p->suspect.first == offset;
}

/* The next offset, not before this one, that is not taken as others are. */
static void look_ahead(const struct lane *lane, struct partition *p, int64_t from) {
    p->special = INT64_MAX;
    if (is_guilty(p, ALONE_RECORD, p->suspect.first) && p->suspect.first >= from)
        p->special = p->suspect.first;
    for (size_t i = 0; i < lane->cfg->skip_offsets.n; i++) {
        const struct config_offset *o = &lane->cfg->skips[i];
        if (o->offset >= from && o->offset < p->special && o->partition == p->id &&
            strcmp(o->topic, p->topic) == 0)
            p->special = o->offset;
    }
}

static bool is_named(const struct lane *lane, const struct partition *p, int64_t offset) {
    for (size_t i = 0; i < lane->cfg->skip_offsets.n; i++) {
        const struct config_offset *o = &lane->cfg->skips[i];
        if (o->offset == offset && o->partition == p->id && strcmp(o->topic, p->topic) == 0)
            return true;
    }
    return false;
}

void careful_reconfigure(struct lane *lane) {
    for (struct partition *p = lane->partitions; p; p = p->next) {
        const struct window *open = windows_open(&p->windows);
        look_ahead(lane, p, open ? open->last_taken + 1 : p->windows.next);
    }
}

static struct outcome poisoned(const struct partition *p) {
    return outcome_fail(VERDICT_PERMANENT, FAULT_SYSTEM, "poison",
                        "the worker died %" PRIu32 " times while this was in work, the last time "
                        "with nothing else",
                        p->want.taken - 1);
}

static void tell_guilty(struct lane *lane, const struct partition *p, int64_t offset, uint32_t n) {
    count(&lane->counters, COUNTER_POISONED, n);
    log_error("poison: the worker died each time this was in work; it is set aside as a dead "
              "letter: please report what it holds",
              LOG_S("topic", p->topic), LOG_I("partition", p->id), LOG_I("offset", offset),
              LOG_I("records", n), LOG_I("deaths", (int64_t)p->want.taken - 1));
}

enum fate careful_special(struct lane *lane, struct partition *p, int64_t offset,
                          struct outcome *ret) {
    bool guilty = is_guilty(p, ALONE_RECORD, offset);
    bool named = is_named(lane, p, offset);
    look_ahead(lane, p, offset + 1);
    if (!guilty && !named) return FATE_OPEN;
    if (!named) {
        tell_guilty(lane, p, offset, 1);
        *ret = poisoned(p);
        return FATE_DEAD;
    }
    log_warn("a record is passed over: skip.offsets names it", LOG_S("topic", p->topic),
             LOG_I("partition", p->id), LOG_I("offset", offset));
    *ret = (struct outcome){.verdict = VERDICT_OK, .why = "operator"};
    return FATE_SKIPPED;
}

/* ---- taking a partition over ---- */

static void be_careful(struct lane *lane, struct partition *p, bool on) {
    bool is = p->caution == CAUTION_CAREFUL;
    if (on == is) return;
    lane->n_careful += on ? 1 : -1;
    atomic_fetch_add(&shared(lane)->careful, on ? 1 : -1);
    count_set(&lane->counters, COUNTER_CAREFUL, (uint64_t)lane->n_careful);
}

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
    struct claim before = p->meta.claim;
    if (before.next <= p->committed) { /* settled */
        before.alone = ALONE_NONE;
        before.first = before.next = before.tries = 0;
    }
    struct takeover t = takeover(&before, shared(lane)->me, attempts, p->calm);
    p->asked = true;
    p->want = t.want;
    p->suspect = t.want;
    p->guilty = t.guilty;
    p->zone = zone_of(lane, p, t.near);
    /* Nor can they have read what came after they had gone. */
    int64_t low, high;
    p->zone_end = rd_kafka_get_watermark_offsets(lane->consumer, p->topic, p->id, &low, &high)
                      ? INT64_MAX
                      : high;
    if (p->zone_end <= p->committed) p->zone_end = INT64_MAX; /* not told yet */
    be_careful(lane, p, t.caution == CAUTION_CAREFUL);
    p->caution = t.caution;
    look_ahead(lane, p, p->committed);
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
        look_ahead(lane, p, 0); /* maybe where it begins is not known yet */
        p->claimed = true;
        return true;
    }
    if (!p->asked) {
        /* Nothing to read is nothing to claim; and at the end, all that was read is settled. */
        const rd_kafka_message_t *msg = source_peek(lane, p);
        if (msg && intake_past_end(p, msg->offset)) return false;
        if (!msg) {
            p->calm = p->calm || (p->eof && p->stash_at == p->stash_n);
            return false;
        }
        take_over(lane, p);
    }
    p->claimed = claim_same(&p->want, &p->meta.claim);
    return p->claimed;
}

/* All that the dead readers had in work is settled. */
static void all_is_well(struct lane *lane, struct partition *p) {
    log_info("a partition is read as usual again", LOG_S("topic", p->topic),
             LOG_I("partition", p->id), LOG_I("offset", p->committed));
    be_careful(lane, p, false);
    p->caution = CAUTION_NONE;
    p->guilty = false;
    p->suspect = (struct claim){0};
    p->want = (struct claim){.taken = 1, .reader = p->want.reader};
}

/* Whether nothing is in work, and none of the records that are there was. */
static bool at_rest(const struct lane *lane, const struct partition *p) {
    if (p->windows.count) return false;
    return p->head_due_ms > lane->wall_ms || (p->eof && p->stash_at == p->stash_n);
}

void careful_settled(struct lane *lane, struct partition *p, int64_t records) {
    if (p->caution == CAUTION_NONE) return;
    lane->again = true;
    p->zone -= records;
    if (p->suspect.next <= p->committed) p->suspect = (struct claim){0};
    bool replays = p->windows.n_ends || p->replay_end > p->committed;
    bool passed = p->zone <= 0 || p->committed >= p->zone_end;
    if (passed && !replays && !p->windows.count) all_is_well(lane, p);
}

void careful_drop(struct lane *lane, struct partition *p) {
    be_careful(lane, p, false);
    p->caution = CAUTION_NONE;
}

/* ---- giving it back ---- */

/* When what is in work will all be settled by the settlement that says so, or can't be settled by
 * us at all (leave). A rebalance amid careful reading is no reason to forget the dead: each would
 * cost one more death. What is not ours (any more) is left as it is: this is asked for again and
 * again until all is settled. */
void careful_release(const struct lane *lane, struct partition *p, bool leave) {
    const struct claim *held = &p->meta.claim;
    if (!p->loaded || p->begins) return;
    if (!lane->cfg->poison_attempts)
        p->want = p->claimed ? (struct claim){0} : *held;
    else if (held->reader != shared(lane)->me)
        p->want = *held;
    else if (leave || p->windows.count == windows_settleable(&p->windows))
        p->want = poison_release(held, &p->suspect, p->claimed && p->caution == CAUTION_NONE);
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
    if (lane->busy != busy) atomic_fetch_add(&shared(lane)->busy, busy ? 1 : -1);
    lane->busy = busy;
}

/* Busy is said before the look: a lane that begins to be careful then sees either that, or that we
 * have seen it. */
bool careful_stands(struct lane *lane) {
    if (!lane->busy && !atomic_load(&shared(lane)->careful)) be_busy(lane, true);
    return atomic_load(&shared(lane)->careful) > 0;
}

void careful_leave(struct lane *lane) {
    int mine = lane->id + 1;
    be_busy(lane, false);
    atomic_compare_exchange_strong(&shared(lane)->token, &mine, 0);
}

/* Whether it is durable that this is alone in work; sees to it otherwise. */
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
    return false;
}

/* How many records, of so many from here on, one note may stand for. */
static int64_t step(const struct partition *p, int64_t n, int64_t offset) {
    const struct claim *s = &p->suspect;
    if (s->alone == ALONE_RECORD && offset >= s->first && offset < s->next) n = s->next - s->first;
    return poison_step(n);
}

bool careful_may_send(const struct parcel *parcel) {
    const struct load *load = parcel->load;
    const struct partition *p = load->partition;
    const struct claim *c = &p->meta.claim;
    /* What is too large to be tried line by line at once, and comes back whole, goes alone from the
     * second death on, so that the third tells its line. */
    if (p->caution == CAUTION_WARY)
        return p->kind == PARTITION_RETRY ? parcel->n == 1
                                          : !load->batched || !load->window->replayed;
    return parcel->n == 1 && c->alone == ALONE_RECORD && c->next == c->first + 1 &&
           c->first == parcel->members[0]->offset && load->out == 0;
}

/* Each line of a batch is made alone, as the batch is going to be. */
static bool try_lines(struct lane *lane, struct partition *p, struct parcel *parcel) {
    while (parcel->tried < parcel->n) {
        uint32_t i = parcel->tried, end = i;
        int64_t first = parcel->members[i]->offset, last = first;
        int64_t most = step(p, parcel->n, first);
        for (; end < parcel->n && end - i < most && parcel->members[end]->offset >= last; end++)
            last = parcel->members[end]->offset;
        if (!note(p, ALONE_RECORD, first, last + 1)) return false;
        for (; i < end; i++) parcel_try(lane, parcel, i);
        parcel->tried = end;
    }
    return true;
}

/* With small windows all lines are tried, else those of what was in work at the last death. */
static bool is_suspect(const struct partition *p, const struct parcel *parcel) {
    int64_t first = parcel->members[0]->offset;
    if (p->caution != CAUTION_CAREFUL || parcel->n == 1) return false;
    if (parcel->load->window->taken <= WARY_RECORDS) return true;
    return p->suspect.alone != ALONE_NONE && p->suspect.alone != ALONE_RECORD &&
           first >= p->suspect.first && first < p->suspect.next;
}

static bool is_in(const struct parcel *parcel, const struct claim *c) {
    return parcel->deferred && parcel->members[0]->offset >= c->first &&
           parcel->members[0]->offset < c->next;
}

/* How many deliveries go out under one note, from this one on. */
static int64_t group_of(const struct partition *p, const struct load *load,
                        const struct parcel *first) {
    const struct claim *s = &p->suspect;
    bool narrow = s->alone == ALONE_PARCELS && is_in(first, s);
    int64_t n = 0;
    for (const struct parcel *o = load->parcels; o; o = o->next) n += !narrow || is_in(o, s);
    return poison_step(n);
}

/* Sends the deliveries that the next note covers: mostly one. */
static void send_group(struct partition *p, struct load *load, struct parcel *first) {
    int64_t from = first->members[0]->offset, to = from, n = group_of(p, load, first);
    bool innocent = first->n == 1 || first->tried == first->n;
    struct parcel *end = first;
    for (; end && n > 0; end = end->next) {
        if (!end->deferred) continue;
        if (end->members[0]->offset < to) break; /* parked ones come in any order */
        to = end->members[0]->offset;
        n--;
    }
    enum alone alone = to == from && innocent ? ALONE_WHOLE : ALONE_PARCELS;
    if (!note(p, alone, from, to + 1)) return;
    p->tried_ms = load->lane->now_ms;
    for (struct parcel *o = first; o != end; o = o->next)
        if (o->deferred) parcel_send_now(o);
}

/* The deliveries of the window at hand. */
static void send_next(struct lane *lane, struct partition *p, struct load *load) {
    if (load->out) {
        if (lane->now_ms - p->tried_ms > lane->cfg->window_grace) load_cancel(load, CANCEL_SLOW);
        return;
    }
    for (struct parcel *parcel = load->parcels; parcel; parcel = parcel->next) {
        if (!parcel->deferred) continue;
        int64_t first = parcel->members[0]->offset;
        if (is_guilty(p, ALONE_WHOLE, first)) {
            struct outcome o = poisoned(p);
            tell_guilty(lane, p, first, parcel->n);
            p->guilty = false;
            parcel_refuse(parcel, &o);
            continue;
        }
        if (!is_suspect(p, parcel) || try_lines(lane, p, parcel)) send_group(p, load, parcel);
        return;
    }
}

void careful_tick(struct lane *lane, struct partition *p) {
    struct window *w = p->windows.oldest;
    if (p->caution == CAUTION_NONE || !p->claimed) return;
    if (at_rest(lane, p))
        all_is_well(lane, p);
    else if (p->caution == CAUTION_WARY && w && w->sealed && w->user)
        send_next(lane, p, w->user);
}

bool careful_waits(const struct load *load) {
    if (load->out) return false;
    for (const struct parcel *p = load->parcels; p; p = p->next)
        if (p->deferred) return true;
    return false;
}

enum progress_made { BUSY, NOTHING };

/* Takes what one note covers. */
static enum progress_made take_next(struct lane *lane, struct partition *p) {
    const struct window *open = windows_open(&p->windows);
    const rd_kafka_message_t *msg = source_peek(lane, p);
    if (!msg || intake_past_end(p, msg->offset)) return open ? BUSY : NOTHING;
    int64_t first = msg->offset, n = open && open->next > 0 ? open->next - open->first : 1;
    int64_t next = first + step(p, n, first);
    if (open && open->next > 0 && next > open->next) next = open->next;
    if (p->special != first && !note(p, ALONE_RECORD, first, next)) return BUSY;
    if (p->special == first) next = first + 1;
    p->tried_ms = lane->now_ms;
    while (msg && msg->offset < next) {
        intake_take(lane, p);
        msg = source_peek(lane, p);
    }
    intake_seal(lane, p, true);
    return BUSY;
}

void careful_announce(struct lane *lane, struct partition *p) {
    const struct window *w = p->windows.oldest;
    if (lane->finishing) return; /* it is about to be given back */
    if (p->caution != CAUTION_CAREFUL || !w || !window_complete(w) || w->newer) return;
    const rd_kafka_message_t *msg = source_peek(lane, p);
    if (msg && p->zone > 1 && msg->offset != p->special && p->suspect.alone == ALONE_NONE)
        note(p, ALONE_RECORD, msg->offset, msg->offset + 1);
}

static enum progress_made try_next(struct lane *lane, struct partition *p) {
    struct window *w = p->windows.oldest;
    struct load *load = w ? w->user : NULL;
    if (w && w->sealed) {
        if (load && !window_complete(w)) send_next(lane, p, load);
        return BUSY;
    }
    if (load && load->out) { /* a record's own delivery, in a window of many */
        send_next(lane, p, load);
        return BUSY;
    }
    return take_next(lane, p);
}

static struct partition *partition_at_hand(struct lane *lane) {
    struct partition *p = lane->trying ? source_find(lane, lane->trying) : NULL;
    return p && p->caution == CAUTION_CAREFUL ? p : NULL;
}

static void try_one(struct lane *lane) {
    struct partition *p = partition_at_hand(lane);
    if (p && try_next(lane, p) == BUSY) return;
    lane->trying = 0;
    for (p = lane->partitions; p; p = p->next) {
        careful_tick(lane, p);
        if (p->caution != CAUTION_CAREFUL || !p->claimed) continue;
        if (try_next(lane, p) == NOTHING) {
            /* Not the end, and no record: it claims again when there is one. */
            if (!p->silent_ms) p->silent_ms = lane->now_ms;
            if (lane->now_ms - p->silent_ms < SILENT_MS) continue;
            careful_drop(lane, p);
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
        atomic_compare_exchange_strong(&shared(lane)->token, &mine, 0);
        return;
    }
    if (!atomic_compare_exchange_strong(&shared(lane)->token, &nobody, mine) && nobody != mine)
        return;
    if (!lane->trying && !is_quiet(lane)) return; /* ours that was in work before */
    if (atomic_load(&shared(lane)->busy) > (lane->busy ? 1 : 0)) return;
    be_busy(lane, true);
    try_one(lane);
}
