#include "worker/pipeline/delivery.h"

#include <stdlib.h>

#include "worker/base/crash.h"
#include "worker/base/failures.h"
#include "worker/base/log.h"
#include "worker/pipeline/body.h"
#include "worker/pipeline/caution.h"
#include "worker/pipeline/hold.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/object_key.h"
#include "worker/pipeline/record.h"

/* ---- the end ---- */

/* Gives back its body and its destination. */
static void release(struct delivery *d) {
    if (d->body.p) window_hold(d->window, -(ptrdiff_t)d->body.n);
    buf_free(&d->body);
    if (d->holds) destination_drop(d->batch.dest);
    d->holds = false;
}

int64_t delivery_retry_window(const struct config *cfg, const struct sink_type *type) {
    return type->retry_window_ms(cfg);
}

/* Whether its outcome ends the delivery. Permanent failures that the tenant caused are tried again
 * where retry.permanent says so, but for 410: Gone. */
static bool is_final(const struct config *cfg, const struct delivery *d) {
    const struct outcome *o = &d->outcome;
    if (o->verdict != VERDICT_PERMANENT) return false;
    return d->held || o->fault != FAULT_TENANT || o->status == 410 ||
           cfg->retry_permanent == CONFIG_PERMANENT_DEAD;
}

static enum record_state decide(const struct lane *lane, struct delivery *d) {
    const struct outcome *o = &d->outcome;
    if (o->verdict == VERDICT_OK) return RECORD_DELIVERED;
    struct progress *g = &d->progress;
    if (is_final(lane->cfg, d)) {
        g->attempts += !o->uncounted;
        return RECORD_DEAD;
    }
    int64_t window = delivery_retry_window(lane->cfg, d->batch.dest->type);
    enum next next = retry_next(g, o, &lane->schedule, window, lane->wall_ms);
    return next == NEXT_RETRY ? RECORD_PARKED : RECORD_DEAD;
}

/* Gives its outcome to its members. */
static void end_delivery(struct delivery *d) {
    struct window *w = d->window;
    struct lane *lane = w->lane;
    const struct outcome *o = &d->outcome;
    unsigned sink = d->members[0]->sink;
    enum record_state state = decide(lane, d);
    d->state = DELIVERY_DONE;
    if (state == RECORD_DELIVERED) {
        count_by(&lane->counters, COUNTER_DELIVERIES, sink, 1);
        count_by(&lane->counters, COUNTER_DELIVERED_BYTES, sink, d->batch.body_len);
    } else {
        count_by(&lane->counters, COUNTER_ATTEMPTS_FAILED, sink, !o->uncounted);
        count(&lane->counters, failure_counter(o->why), !o->uncounted);
    }
    record_log(w, d->members[0], state, d->n, o);
    for (uint32_t i = 0; state == RECORD_PARKED && i < d->n; i++)
        observer_parked(w, d->members[i], d->batch.dest, o, d->progress.due_ms);
    release(d);
    for (uint32_t i = 0; i < d->n; i++) {
        record_end(w, d->members[i], state, o);
        if (state == RECORD_DEAD) observer_dead(w, d->members[i]);
    }
}

/* Where the record was read, not where it came from at first. */
static void enter(const struct delivery *d, enum lane_step step) {
    const struct partition *p = d->window->partition;
    struct place *place = &d->window->lane->place;
    if (p) place_topic(place, p->topic, p->id);
    place_at(place, step, p ? d->members[0]->offset : -1);
}

static void harm(const struct delivery *d, enum crash_work work) {
    for (uint32_t i = 0; i < d->n; i++)
        crash_record(work, d->members[i]->payload.json.p, d->members[i]->payload.json.n);
}

/* What the platform is told of the destination goes with the record that showed it. */
static void tell_news(struct delivery *d) {
    struct window *w = d->window;
    if (w->lane->cfg->outcomes == CONFIG_OUTCOMES_OFF || !w->partition) return;
    enum breaker_news news = dispatch_news(w->lane->dispatch, d->batch.dest);
    if (news != BREAKER_AS_BEFORE)
        d->news = record_news(w, d->members[0], d->batch.dest, news == BREAKER_OPENED);
}

static void delivery_done(struct delivery *d) {
    struct window *w = d->window;
    struct lane *lane = w->lane;
    enter(d, STEP_END);
    if (d->outcome.verdict == VERDICT_OK) crash_point(CRASH_PUT_AFTER);
    harm(d, CRASH_SENT);
    if (d->sent_ms && !d->outcome.uncounted)
        observe_us(&lane->counters, HISTOGRAM_DELIVERY, d->members[0]->sink,
                   (lane->now_ms - d->sent_ms) * 1000);
    w->out--;
    if (w->partition && w->partition->caution != CAUTION_NONE)
        lane->again = true; /* the next may go */
    tell_news(d);
    end_delivery(d);
}

/* ---- the beginning ---- */

static bool delivery_build(struct delivery *d, struct outcome *reterr) {
    enter(d, STEP_BUILD);
    harm(d, CRASH_BUILD);
    if (!body_make(d->window->lane, d, reterr)) return false;
    window_hold(d->window, (ptrdiff_t)d->body.n);
    crash_point(CRASH_PUT_BEFORE);
    enter(d, STEP_SEND);
    return true;
}

static struct delivery *delivery_new(struct window *w, const struct record *first,
                                     struct destination *dest) {
    struct delivery *d = arena_alloc(&w->arena, sizeof *d);
    const struct delivery *before = w->last_delivery;
    bool same = before && before->holds && before->batch.dest == dest;
    d->window = w;
    d->members = d->only;
    d->cap = 1;
    d->label = same ? before->label : arena_strdup(&w->arena, str_c(dest->label));
    d->build = delivery_build;
    d->done = delivery_done;
    d->batch.dest = dest;
    d->batch.topic = w->topic;
    d->batch.workspace = first->workspace;
    d->progress = *first->progress;
    destination_hold(dest);
    d->holds = true;
    *(w->last_delivery ? &w->last_delivery->next_in_window : &w->deliveries) = d;
    w->last_delivery = d;
    return d;
}

static void delivery_add(struct delivery *d, struct record *record) {
    if (d->n == d->cap) {
        bool fresh = d->members == d->only;
        d->cap *= 2;
        d->members = xrealloc(fresh ? NULL : d->members, d->cap * sizeof(struct record *));
        if (fresh) d->members[0] = d->only[0];
    }
    d->members[d->n++] = record;
    d->size += record->payload.json.n;
    d->held = d->held || record->held;
    record->delivery = d;
    record->progress = &d->progress;
}

void delivery_refuse(struct delivery *d, const struct outcome *o) {
    d->outcome = *o;
    end_delivery(d);
}

void delivery_send_now(struct delivery *d) {
    struct batch *b = &d->batch;
    struct lane *lane = d->window->lane;
    const struct record *first = d->members[0], *last = d->members[d->n - 1];
    b->key = d->key;
    b->partition = first->from_partition;
    b->first = first->from_offset;
    b->last = last->from_offset;
    b->count = d->n;
    for (uint32_t i = 0; i < d->n; i++) d->members[i]->batch_index = i;
    if (d->held) {
        struct outcome o = hold_outcome();
        delivery_refuse(d, &o);
        return;
    }
    d->last = retry_is_last(&d->progress, &lane->schedule,
                            delivery_retry_window(lane->cfg, b->dest->type), lane->wall_ms);
    d->window->out++;
    dispatch_add(lane->dispatch, d);
}

/* Ready to go. */
static void delivery_send(struct delivery *d) {
    if (d->held || d->window->partition->caution == CAUTION_NONE || caution_may_send(d))
        delivery_send_now(d);
    else
        d->state = DELIVERY_DEFERRED;
}

void delivery_try(struct lane *lane, const struct delivery *d, uint32_t member) {
    struct delivery one = {.window = d->window,
                           .n = 1,
                           .batched = d->batched,
                           .key = d->key,
                           .only = {d->members[member]}};
    struct outcome unused;
    one.members = one.only;
    enter(&one, STEP_BUILD);
    harm(&one, CRASH_BUILD);
    if (body_make(lane, &one, &unused)) buf_free(&one.body);
}

/* What an entry of the ledger may grow by for a delivery: its labels and key, and its members'
 * offsets. */
static void count_ledger(struct window *w, const struct delivery *d, size_t key_len) {
    struct ledger_item item = {.kind = LEDGER_DELIVERED, .dest = d->label};
    w->ledger_bytes += ledger_item_size(&item) + key_len;
}

static void origin_of(const struct window *w, const struct record *record, struct origin *ret) {
    ret->partition = record->from_partition;
    ret->offset = record->from_offset;
    memcpy(ret->topic, w->partition->base, sizeof ret->topic);
}

void delivery_send_object(struct window *w, struct record *record, const struct jobrun *run,
                          struct destination *dest) {
    struct origin origin;
    struct delivery *d = delivery_new(w, record, dest);
    struct buf key;
    delivery_add(d, record);
    origin_of(w, record, &origin);
    buf_init(&key, KEY_MAX * 2);
    bool ok =
        object_key_event(w->lane->cfg, run, dest, &origin, record->timestamp_ms, &key, &d->outcome);
    if (ok) d->key = arena_strdup(&w->arena, (struct str){key.p, key.n});
    count_ledger(w, d, key.n);
    buf_free(&key);
    if (ok)
        delivery_send(d);
    else
        end_delivery(d);
}

static struct str header_value(const struct message *m, const char *name) {
    for (size_t i = 0; i < m->n_headers; i++)
        if (str_is(m->headers[i].name, name)) return m->headers[i].value;
    return (struct str){0};
}

/* "id:updatedAt:status"; what is hidden there may be the secret of another place than this. */
static struct str own_id(struct window *w, const struct record *record, const struct jobrun *run) {
    struct str id = run->id, updated_at = run->updated_at, status = run->status;
    struct hidden_text room[3];
    if (run->hidden) {
        struct origin origin;
        origin_of(w, record, &origin);
        id = object_key_text(run, RUN_ID, &origin, &room[0]);
        updated_at = object_key_text(run, RUN_UPDATED_AT, &origin, &room[1]);
        status = object_key_text(run, RUN_STATUS, &origin, &room[2]);
    }
    size_t n = id.n + updated_at.n + status.n + 2;
    char *text = arena_alloc(&w->arena, n + 1), *at = text;
    at = (char *)memcpy(at, id.p, id.n) + id.n;
    *at++ = ':';
    at = (char *)memcpy(at, updated_at.p, updated_at.n) + updated_at.n;
    *at++ = ':';
    memcpy(at, status.p, status.n);
    return (struct str){text, n};
}

void delivery_send_post(struct window *w, struct record *record, const struct jobrun *run,
                        struct destination *dest, const struct message *m) {
    struct delivery *d = delivery_new(w, record, dest);
    struct batch *b = &d->batch;
    delivery_add(d, record);
    b->event_id = run->event_id;
    if (!b->event_id.n) b->event_id = own_id(w, record, run);
    b->traceparent = header_value(m, "traceparent");
    b->tracestate = header_value(m, "tracestate");
    count_ledger(w, d, 0);
    delivery_send(d);
}

/* ---- batches ---- */

/* A destination's own, or that of a batch which comes back. */
static uint64_t group_hash(const struct destination *dest, const char *key) {
    return key ? keyed_hash(key, strlen(key)) : keyed_hash(&dest, sizeof dest);
}

/* Whether it is the batch of this key, which is not whole yet. */
static bool lacks_members(const struct delivery *d, const char *key) {
    return d->expected && d->state == DELIVERY_NEW && strcmp(d->key, key) == 0;
}

/* The delivery that a destination collects in this window (key NULL), or the batch that comes back
 * to it under this key: destinations of one window may use the same key, each in a bucket of its
 * own. dest NULL: not known any more, its label is. */
static struct delivery *groups_find(const struct window *w, const struct destination *dest,
                                    const char *label, const char *key) {
    struct table_node *n = table_first(&w->groups, group_hash(dest, key));
    for (; n; n = table_next(n)) {
        struct delivery *d = TABLE_ENTRY(n, struct delivery, group);
        bool same = dest ? d->batch.dest == dest : strcmp(d->label, label) == 0;
        if (same && (!key || lacks_members(d, key))) return d;
    }
    return NULL;
}

void delivery_collect(struct window *w, struct record *record, struct destination *dest) {
    struct delivery *d = groups_find(w, dest, NULL, NULL);
    if (!d) {
        d = delivery_new(w, record, dest);
        d->batched = true;
        table_add(&w->groups, &d->group, group_hash(dest, NULL));
        count_ledger(w, d, KEY_MAX / 4);
    }
    delivery_add(d, record);
    w->ledger_bytes += 24; /* a range, at worst */
}

static void send_if_whole(struct window *w, struct delivery *d) {
    if (d->n < d->expected) return;
    w->incomplete--;
    delivery_send(d);
}

void delivery_collect_again(struct window *w, struct record *record, struct destination *dest,
                            const struct retry *r) {
    struct delivery *d = groups_find(w, dest, NULL, r->batch_key);
    if (!d) {
        d = delivery_new(w, record, dest);
        d->batched = true;
        d->expected = r->batch_count;
        d->key = arena_strdup(&w->arena, str_c(r->batch_key));
        table_add(&w->groups, &d->group, group_hash(dest, d->key));
        count_ledger(w, d, strlen(d->key));
        w->incomplete++;
    }
    w->ledger_bytes += 64;
    delivery_add(d, record);
    /* Members come in the order they were produced in, so this walks one step at most, unless a
     * broker reordered. */
    for (uint32_t i = d->n - 1; i > 0 && d->members[i - 1]->batch_index > record->batch_index;
         i--) {
        d->members[i] = d->members[i - 1];
        d->members[i - 1] = record;
    }
    send_if_whole(w, d);
}

void delivery_leave_batch(struct window *w, const struct retry *r) {
    struct delivery *d = groups_find(w, NULL, r->destination, r->batch_key);
    if (!d || d->state != DELIVERY_NEW) return;
    d->expected--;
    send_if_whole(w, d);
}

/* ---- flush ---- */

static bool name_batch(struct window *w, struct delivery *d, struct key_places *places) {
    const struct destination *dest = d->batch.dest;
    const struct config *cfg = w->lane->cfg;
    unsigned nth = key_places_nth(places, cfg, dest);
    struct buf key;
    buf_init(&key, KEY_MAX * 2);
    bool ok = object_key_batch(cfg, dest, w->topic, w->partition->id, w->partition->meta.era,
                               w->first, w->next, w->timestamp_ms, nth, &key, &d->outcome);
    if (ok) d->key = arena_strdup(&w->arena, (struct str){key.p, key.n});
    buf_free(&key);
    return ok;
}

static void name_batches(struct window *w, void (*send)(struct delivery *)) {
    struct key_places *places = key_places_new(w->groups.n);
    for (struct delivery *d = w->deliveries; d; d = d->next_in_window) {
        if (d->state != DELIVERY_NEW || !d->batched || d->expected) continue;
        if (name_batch(w, d, places))
            send(d);
        else
            end_delivery(d);
    }
    key_places_free(places);
    w->sealed_ms = w->lane->now_ms; /* patience counts from here */
}

void delivery_flush(struct window *w) {
    name_batches(w, delivery_send);
}

static void park(struct delivery *d) {
    struct outcome o = outcome_fail(VERDICT_RETRY, FAULT_NONE, "cancelled", "its topic is gone");
    o.uncounted = true;
    delivery_refuse(d, &o);
}

void delivery_park(struct window *w) {
    name_batches(w, park);
}

void delivery_send_incomplete(struct window *w) {
    for (struct delivery *d = w->deliveries; d && w->incomplete; d = d->next_in_window) {
        if (d->state != DELIVERY_NEW || !d->expected) continue;
        log_error("a parked batch came back without all its members", LOG_S("topic", w->topic),
                  LOG_S("key", d->key), LOG_I("members", d->n), LOG_I("expected", d->expected));
        d->expected = d->n;
        send_if_whole(w, d);
    }
}

/* ---- another configuration ---- */

static void judge_hold(struct lane *lane, struct window *w, struct delivery *d) {
    d->held = false;
    for (uint32_t i = 0; i < d->n; i++) {
        record_judge_hold(w, d->members[i], d->label);
        d->held = d->held || d->members[i]->held;
    }
    if (!d->held || d->state != DELIVERY_WAITING) return; /* what is not added yet asks by itself */
    struct outcome o = hold_outcome();
    dispatch_withdraw(lane->dispatch, d, &o);
}

static bool is_sent(const struct delivery *d) {
    return d->state != DELIVERY_NEW && d->state != DELIVERY_DEFERRED &&
           d->state != DELIVERY_WAITING;
}

void delivery_reconfigure(struct lane *lane) {
    for (struct partition *p = lane->partitions; p; p = p->next)
        for (struct window *w = p->windows.oldest; w; w = w->newer)
            for (struct delivery *d = w->deliveries; d; d = d->next_in_window)
                if (!is_sent(d)) judge_hold(lane, w, d);
}
