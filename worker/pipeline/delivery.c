/* Parcels: what travels as one object or one request, from its members to its end. */
#include "worker/pipeline/delivery.h"

#include <stdlib.h>

#include "worker/base/crash.h"
#include "worker/base/failures.h"
#include "worker/base/log.h"
#include "worker/pipeline/body.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/object_key.h"

void parcel_release(struct parcel *parcel) {
    if (parcel->body.p) {
        lane_held(parcel->load->lane, parcel->load, -(ptrdiff_t)parcel->body.n);
        buf_free(&parcel->body);
    }
    if (parcel->holds) destination_drop(parcel->delivery.batch.dest);
    parcel->holds = false;
}

/* ---- the end of a parcel ---- */

int64_t parcel_retry_window(const struct config *cfg, const struct sink_type *type) {
    if (strcmp(type->name, "webhook") == 0) return cfg->retry_window_webhook;
    if (strcmp(type->name, "file") == 0) return cfg->retry_window_file;
    return cfg->retry_window_s3;
}

/* Whether an outcome ends the matter, or the policy for failures of a tenant's making tries on. */
static bool is_final(const struct config *cfg, const struct outcome *o) {
    if (o->verdict != VERDICT_PERMANENT) return false;
    return o->fault != FAULT_TENANT || o->status == 410 ||
           cfg->retry_permanent == CONFIG_PERMANENT_DEAD;
}

static enum fate decide(struct lane *lane, struct parcel *parcel, const struct outcome *o) {
    if (o->verdict == VERDICT_OK) return FATE_DELIVERED;
    struct progress *g = &parcel->progress;
    if (is_final(lane->cfg, o)) {
        g->attempts += !o->uncounted;
        return FATE_DEAD;
    }
    struct retry r = {.first_failure_ms = g->first_failure_ms,
                      .not_before_ms = g->not_before_ms,
                      .attempts = g->attempts};
    int64_t window = parcel_retry_window(lane->cfg, parcel->delivery.batch.dest->type);
    enum next next = retry_next(&r, o, &lane->schedule, window, lane->wall_ms, &g->tier);
    g->first_failure_ms = r.first_failure_ms;
    g->not_before_ms = r.not_before_ms;
    g->attempts = r.attempts;
    g->due_ms = r.due_ms;
    return next == NEXT_RETRY ? FATE_PARKED : FATE_DEAD;
}

static void end_parcel(struct parcel *parcel, const struct outcome *o) {
    struct load *load = parcel->load;
    struct lane *lane = load->lane;
    unsigned sink = parcel->members[0]->sink;
    parcel->delivery.outcome = *o;
    parcel->fate = decide(lane, parcel, o);
    if (parcel->fate == FATE_DELIVERED) {
        count_by(&lane->counters, COUNTER_PARCELS, sink, 1);
        count_by(&lane->counters, COUNTER_PARCEL_BYTES, sink, parcel->delivery.batch.body_len);
    } else {
        count_by(&lane->counters, COUNTER_ATTEMPTS_FAILED, sink, !o->uncounted);
        count(&lane->counters, failure_counter(o->why), !o->uncounted);
    }
    load_log(load, parcel->members[0], parcel->fate, parcel->n, &parcel->delivery.outcome);
    for (uint32_t i = 0; parcel->fate == FATE_PARKED && i < parcel->n; i++)
        observer_parked(load, parcel->members[i], parcel->delivery.batch.dest,
                        &parcel->delivery.outcome, parcel->progress.due_ms);
    parcel_release(parcel);
    for (uint32_t i = 0; i < parcel->n; i++)
        slot_end(load, parcel->members[i], parcel->fate, &parcel->delivery.outcome);
}

/* Where the record was read, not where it came from at first. */
static void enter(const struct parcel *p, enum lane_step step) {
    const struct load *load = p->load;
    struct place *place = &load->lane->place;
    if (load->partition) place_topic(place, load->partition->topic, load->partition->id);
    place_at(place, step, load->partition ? p->members[0]->offset : -1);
}

static void harm(const struct parcel *p, enum crash_work work) {
    for (uint32_t i = 0; i < p->n; i++)
        crash_record(work, p->members[i]->payload.json.p, p->members[i]->payload.json.n);
}

static void parcel_done(struct delivery *d, const struct outcome *o) {
    struct parcel *parcel = (struct parcel *)(void *)d;
    enter(parcel, STEP_END);
    if (o->verdict == VERDICT_OK) crash_point(CRASH_PUT_AFTER);
    harm(parcel, CRASH_SENT);
    if (d->sent_ms && !o->uncounted)
        observe_us(&parcel->load->lane->counters, HISTOGRAM_DELIVERY, parcel->members[0]->sink,
                   (parcel->load->lane->now_ms - d->sent_ms) * 1000);
    parcel->load->out--;
    if (parcel->load->partition && parcel->load->partition->caution != CAUTION_NONE)
        parcel->load->lane->again = true; /* the next may go */
    end_parcel(parcel, o);
}

/* ---- parcels ---- */

static bool parcel_build(struct delivery *d, struct outcome *reterr) {
    struct parcel *parcel = (struct parcel *)(void *)d;
    enter(parcel, STEP_BUILD);
    harm(parcel, CRASH_BUILD);
    if (!batch_body(parcel->load->lane, parcel, reterr)) return false;
    lane_held(parcel->load->lane, parcel->load, (ptrdiff_t)parcel->body.n);
    crash_point(CRASH_PUT_BEFORE);
    enter(parcel, STEP_SEND);
    return true;
}

static struct parcel *parcel_new(struct load *load, const struct slot *first,
                                 struct destination *dest) {
    struct parcel *p = arena_alloc(&load->arena, sizeof *p);
    const struct parcel *before = load->last_parcel;
    bool same = before && before->holds && before->delivery.batch.dest == dest;
    p->load = load;
    p->members = p->only;
    p->cap = 1;
    p->label = same ? before->label : arena_strdup(&load->arena, str_c(dest->label));
    p->delivery = (struct delivery){.build = parcel_build, .done = parcel_done};
    p->delivery.batch.dest = dest;
    p->delivery.workspace = first->workspace;
    p->delivery.batch.topic = load->topic;
    destination_hold(dest);
    p->holds = true;
    *(load->last_parcel ? &load->last_parcel->next : &load->parcels) = p;
    load->last_parcel = p;
    return p;
}

static void parcel_add(struct parcel *p, struct slot *slot) {
    if (p->n == p->cap) {
        bool fresh = p->members == p->only;
        p->cap *= 2;
        p->members = xrealloc(fresh ? NULL : p->members, p->cap * sizeof(struct slot *));
        if (fresh) p->members[0] = p->only[0];
    }
    p->members[p->n++] = slot;
    p->payload += slot->payload.json.n;
    slot->parcel = p;
}

void parcel_send_now(struct parcel *p) {
    p->deferred = false;
    struct batch *b = &p->delivery.batch;
    const struct slot *first = p->members[0], *last = p->members[p->n - 1];
    b->key = p->key;
    b->partition = first->from_partition;
    b->first = first->from_offset;
    b->last = last->from_offset;
    b->count = p->n;
    for (uint32_t i = 0; i < p->n; i++) p->members[i]->batch_index = i;
    p->delivery.size = p->payload;
    p->delivery.batched = p->ndjson;
    struct lane *lane = p->load->lane;
    p->delivery.last = retry_is_last(&p->progress, &lane->schedule,
                                     parcel_retry_window(lane->cfg, b->dest->type), lane->wall_ms);
    p->sent = true;
    p->load->out++;
    dispatch_add(lane->dispatch, &p->delivery);
}

/* Ready to go. */
static void parcel_send(struct parcel *p) {
    if (p->load->partition->caution == CAUTION_NONE || careful_may_send(p))
        parcel_send_now(p);
    else
        p->deferred = true;
}

void parcel_refuse(struct parcel *p, const struct outcome *o) {
    p->deferred = false;
    end_parcel(p, o);
}

void parcel_try(struct lane *lane, const struct parcel *p, uint32_t member) {
    struct slot *slot = p->members[member];
    struct parcel one = {.load = p->load, .n = 1, .ndjson = p->ndjson, .key = p->key};
    struct outcome unused;
    one.members = one.only;
    one.only[0] = slot;
    enter(&one, STEP_BUILD);
    harm(&one, CRASH_BUILD);
    if (batch_body(lane, &one, &unused)) buf_free(&one.body);
}

/* What an entry of the ledger may grow by for a parcel: its labels and key, and its members'
 * offsets. */
static void count_ledger(struct load *load, const struct parcel *p, size_t key_len) {
    struct ledger_item item = {.kind = LEDGER_DELIVERED, .dest = p->label};
    load->ledger_bytes += ledger_item_size(&item) + key_len;
}

void parcel_send_object(struct load *load, struct slot *slot, const struct jobrun *run,
                        struct destination *dest) {
    struct lane *lane = load->lane;
    struct origin origin = {.partition = slot->from_partition, .offset = slot->from_offset};
    memcpy(origin.topic, load->partition->base, sizeof origin.topic);
    struct parcel *p = parcel_new(load, slot, dest);
    p->progress = slot->progress;
    parcel_add(p, slot);
    struct buf key;
    struct outcome o;
    buf_init(&key, KEY_MAX * 2);
    bool ok = object_key_event(router_keys(lane->router), run, dest, &origin, slot->timestamp_ms,
                               &key, &o);
    if (ok) p->key = arena_strdup(&load->arena, (struct str){key.p, key.n});
    count_ledger(load, p, key.n);
    buf_free(&key);
    if (ok)
        parcel_send(p);
    else
        end_parcel(p, &o);
}

static struct str header_value(const struct message *rec, const char *name) {
    for (size_t i = 0; i < rec->n_headers; i++)
        if (str_is(rec->headers[i].name, name)) return rec->headers[i].value;
    return (struct str){0};
}

/* "id:updatedAt:status"; what is hidden there may be the secret of another place than this. */
static struct str own_id(struct load *load, const struct slot *slot, const struct jobrun *run) {
    struct str id = run->id, updated_at = run->updated_at, status = run->status;
    struct hidden_text room[3];
    if (run->hidden) {
        struct origin origin = {.partition = slot->from_partition, .offset = slot->from_offset};
        memcpy(origin.topic, load->partition->base, sizeof origin.topic);
        id = object_key_text(run, RUN_ID, &origin, &room[0]);
        updated_at = object_key_text(run, RUN_UPDATED_AT, &origin, &room[1]);
        status = object_key_text(run, RUN_STATUS, &origin, &room[2]);
    }
    size_t n = id.n + updated_at.n + status.n + 2;
    char *text = arena_alloc(&load->arena, n + 1), *at = text;
    at = (char *)memcpy(at, id.p, id.n) + id.n;
    *at++ = ':';
    at = (char *)memcpy(at, updated_at.p, updated_at.n) + updated_at.n;
    *at++ = ':';
    memcpy(at, status.p, status.n);
    return (struct str){text, n};
}

void parcel_send_post(struct load *load, struct slot *slot, const struct jobrun *run,
                      struct destination *dest, const struct message *rec) {
    struct parcel *p = parcel_new(load, slot, dest);
    struct batch *b = &p->delivery.batch;
    p->progress = slot->progress;
    parcel_add(p, slot);
    b->event_id = run->event_id;
    if (!b->event_id.n) b->event_id = own_id(load, slot, run);
    b->traceparent = header_value(rec, "traceparent");
    b->tracestate = header_value(rec, "tracestate");
    count_ledger(load, p, 0);
    parcel_send(p);
}

/* ---- batches ---- */

static uint64_t group_hash(const struct parcel *p) {
    if (p->expected) return keyed_hash(p->key, strlen(p->key));
    const struct destination *d = p->delivery.batch.dest;
    return keyed_hash(&d, sizeof(struct destination *));
}

static void groups_put(struct load *load, struct parcel *p) {
    size_t mask = load->groups_cap - 1;
    size_t i = group_hash(p) & mask;
    while (load->groups[i]) i = (i + 1) & mask;
    load->groups[i] = p;
}

static void groups_add(struct load *load, struct parcel *p) {
    if (load->n_groups * 2 >= load->groups_cap) {
        struct parcel **old = load->groups;
        size_t cap = load->groups_cap;
        load->groups_cap = cap ? cap * 2 : 16;
        load->groups = xcalloc(load->groups_cap, sizeof(struct parcel *));
        for (size_t i = 0; i < cap; i++)
            if (old[i]) groups_put(load, old[i]);
        free(old);
    }
    groups_put(load, p);
    load->n_groups++;
}

/* The parcel that a destination collects in this window (key NULL), or the batch that comes back to
 * it under this key: destinations of one window may use the same key, each in a bucket of its own.
 * dest NULL: not known any more, its label is. */
static struct parcel *groups_find(const struct load *load, const struct destination *dest,
                                  const char *label, const char *key) {
    if (!load->groups_cap) return NULL;
    size_t mask = load->groups_cap - 1;
    uint64_t h = key ? keyed_hash(key, strlen(key)) : keyed_hash(&dest, sizeof dest);
    for (size_t i = h & mask; load->groups[i]; i = (i + 1) & mask) {
        struct parcel *p = load->groups[i];
        bool same = dest ? p->delivery.batch.dest == dest : label && strcmp(p->label, label) == 0;
        if (same && (!key || (p->expected && strcmp(p->key, key) == 0))) return p;
    }
    return NULL;
}

/* batch mode: the event waits in its destination's parcel until the window's end is durable. */
void parcel_collect(struct load *load, struct slot *slot, struct destination *dest) {
    struct parcel *p = groups_find(load, dest, NULL, NULL);
    if (!p) {
        p = parcel_new(load, slot, dest);
        p->ndjson = true;
        groups_add(load, p);
        count_ledger(load, p, KEY_MAX / 4);
    }
    parcel_add(p, slot);
    load->ledger_bytes += 24; /* a range, at worst */
}

static void send_if_whole(struct load *load, struct parcel *p) {
    if (p->n < p->expected) return;
    load->incomplete--;
    parcel_send(p);
}

/* A parked batch comes back member by member; whole, it goes out under the key it had. */
void parcel_collect_again(struct load *load, struct slot *slot, struct destination *dest,
                          const struct retry *r) {
    struct parcel *p = groups_find(load, dest, NULL, r->batch_key);
    if (!p) {
        p = parcel_new(load, slot, dest);
        p->ndjson = true;
        p->expected = r->batch_count;
        p->key = arena_strdup(&load->arena, str_c(r->batch_key));
        p->progress = slot->progress;
        groups_add(load, p);
        count_ledger(load, p, strlen(p->key));
        load->incomplete++;
    }
    load->ledger_bytes += 64;
    parcel_add(p, slot);
    /* Members come in the order they were produced in, so this walks one step at most, unless a
     * broker reordered. */
    for (uint32_t i = p->n - 1; i > 0 && p->members[i - 1]->batch_index > slot->batch_index; i--) {
        p->members[i] = p->members[i - 1];
        p->members[i - 1] = slot;
    }
    send_if_whole(load, p);
}

/* A member that can't be read any more leaves its batch: the others must not wait for it. */
void parcel_leave_batch(struct load *load, const struct retry *r) {
    struct parcel *p = groups_find(load, NULL, r->destination, r->batch_key);
    if (!p || p->sent || p->deferred) return;
    p->expected--;
    send_if_whole(load, p);
}

/* ---- flush and cancel ---- */

struct place_seen {
    uint64_t hash;
    unsigned n;
};

/* How many parcels of this window had this place so far, this one included. A bounded table, sized
 * for the window. */
static unsigned occurrence(struct place_seen *table, size_t cap, const char *place) {
    uint64_t h = keyed_hash(place, strlen(place)) | 1;
    size_t i = h & (cap - 1);
    while (table[i].hash && table[i].hash != h) i = (i + 1) & (cap - 1);
    table[i].hash = h;
    return ++table[i].n;
}

/* Destinations of one place (a key was rotated in the middle of the window), and all of them where
 * the template tells no places apart, are numbered in the order of their first records: a replay of
 * the window numbers them the same. */
static bool name_batch(struct load *load, struct parcel *p, struct place_seen *table, size_t cap,
                       struct outcome *reterr) {
    const struct window *w = load->window;
    const struct destination *dest = p->delivery.batch.dest;
    const struct object_keys *keys = router_keys(load->lane->router);
    unsigned nth = occurrence(table, cap, object_key_batch_names_place(keys) ? dest->place : "");
    struct buf key;
    buf_init(&key, KEY_MAX * 2);
    bool ok = object_key_batch(keys, dest, load->topic, load->partition->id, w->first, w->next,
                               load->timestamp_ms, nth, &key, reterr);
    if (ok) p->key = arena_strdup(&load->arena, (struct str){key.p, key.n});
    buf_free(&key);
    return ok;
}

void load_flush(struct load *load) {
    load->flushed = true;
    size_t cap = 16;
    while (cap < load->n_groups * 2) cap *= 2;
    struct place_seen *table = xcalloc(cap, sizeof *table);
    for (struct parcel *p = load->parcels; p; p = p->next) {
        struct outcome o;
        if (p->sent || p->deferred || p->fate != FATE_OPEN || !p->ndjson || p->expected) continue;
        if (name_batch(load, p, table, cap, &o))
            parcel_send(p);
        else
            end_parcel(p, &o);
    }
    free(table);
    load->sealed_ms = load->lane->now_ms; /* patience counts from here */
}

void load_send_incomplete(struct load *load) {
    for (struct parcel *p = load->parcels; p && load->incomplete; p = p->next) {
        if (p->sent || p->deferred || !p->expected) continue;
        log_error("a parked batch came back without all its members", LOG_S("topic", load->topic),
                  LOG_S("key", p->key), LOG_I("members", p->n), LOG_I("expected", p->expected));
        p->expected = p->n;
        send_if_whole(load, p);
    }
}

void load_cancel(struct load *load, enum cancel why) {
    if (!load->out) return;
    for (struct parcel *p = load->parcels; p; p = p->next)
        if (p->sent && p->fate == FATE_OPEN)
            dispatch_cancel(load->lane->dispatch, &p->delivery, why);
}
