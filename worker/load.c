#include "worker/load.h"

#include <stdlib.h>

#include "worker/batch.h"
#include "worker/crash.h"
#include "worker/lane.h"
#include "worker/log.h"

#define RECORD_OVERHEAD 256 /* librdkafka's own, about, per message */

struct load *load_new(struct lane *lane, struct partition *p, struct window *w,
                      int64_t timestamp_ms) {
    struct load *load = xcalloc(1, sizeof *load);
    *load = (struct load){.lane = lane,
                          .partition = p,
                          .window = w,
                          .opened_ms = lane->now_ms,
                          .opened_wall_ms = lane->wall_ms,
                          .timestamp_ms = timestamp_ms,
                          .batched = p->kind == PARTITION_SOURCE &&
                                     (lane->cfg->archive == CONFIG_ARCHIVE_BATCH || w->replayed)};
    load->topic = arena_strdup(&load->arena, str_c(p->base));
    w->user = load;
    return load;
}

static void let_go(struct load *load, struct slot *slot) {
    if (!slot->msg) return;
    lane_held(load->lane, load, -(ptrdiff_t)(slot->bytes + RECORD_OVERHEAD));
    rd_kafka_message_destroy(slot->msg);
    slot->msg = NULL;
    slot->run = NULL; /* borrowed from it */
}

static void parcel_release(struct parcel *parcel) {
    if (parcel->body.p) {
        lane_held(parcel->load->lane, parcel->load, -(ptrdiff_t)parcel->body.n);
        buf_free(&parcel->body);
    }
    if (parcel->holds) destination_drop(parcel->delivery.batch.dest);
    parcel->holds = false;
}

void load_free(struct load *load) {
    if (!load) return;
    for (struct parcel *p = load->parcels; p; p = p->next) {
        parcel_release(p);
        free(p->members);
    }
    for (struct slot *s = load->first; s; s = s->next) let_go(load, s);
    lane_held(load->lane, load, -(ptrdiff_t)load->held);
    free(load->groups);
    arena_wipe(&load->arena);
    free(load);
}

/* ---- fates ---- */

static enum counter dead_counter(enum fault fault) {
    switch (fault) {
    case FAULT_TENANT:
        return COUNTER_DEAD_TENANT;
    case FAULT_DATA:
        return COUNTER_DEAD_DATA;
    case FAULT_NONE:
    case FAULT_SYSTEM:
        return COUNTER_DEAD_SYSTEM;
    }
    return COUNTER_DEAD_SYSTEM;
}

static void end_slot(struct load *load, struct slot *slot, enum fate fate,
                     const struct outcome *o) {
    struct counters *c = &load->lane->counters;
    slot->fate = fate;
    slot->outcome = o;
    switch (fate) {
    case FATE_OPEN:
        break;
    case FATE_DELIVERED:
        count_by(c, COUNTER_DELIVERED, slot->sink, 1);
        break;
    case FATE_SKIPPED:
        count_by(c, COUNTER_SKIPPED, slot->sink, 1);
        break;
    case FATE_PARKED:
        load->parked++;
        count_by(c, COUNTER_PARKED, slot->sink, 1);
        break;
    case FATE_DEAD:
        count_by(c, dead_counter(o->fault), slot->sink, 1);
        observer_dead(load->lane, load, slot);
        break;
    }
    if (fate == FATE_DELIVERED || fate == FATE_SKIPPED) let_go(load, slot);
    if (load->window) window_done(load->window);
}

/* The record's own outcome, without a parcel. */
static void end_alone(struct load *load, struct slot *slot, enum fate fate,
                      const struct outcome *o) {
    struct outcome *kept = arena_alloc(&load->arena, sizeof *kept);
    *kept = *o;
    if (fate == FATE_DEAD)
        log_warn("dead letter", LOG_S("topic", load->topic),
                 LOG_I("partition", slot->from_partition), LOG_I("offset", slot->from_offset),
                 LOG_S("fault", fault_name(o->fault)), LOG_S("why", o->why),
                 LOG_S("detail", o->detail));
    end_slot(load, slot, fate, kept);
}

static int64_t retry_window(const struct config *cfg, const struct sink_type *type) {
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
    struct requeue r = {.first_failure_ms = g->first_failure_ms,
                        .not_before_ms = g->not_before_ms,
                        .attempts = g->attempts};
    int64_t window = retry_window(lane->cfg, parcel->delivery.batch.dest->type);
    enum next next = requeue_next(&r, o, &lane->schedule, window, lane->wall_ms, &g->tier);
    g->first_failure_ms = r.first_failure_ms;
    g->not_before_ms = r.not_before_ms;
    g->attempts = r.attempts;
    g->due_ms = r.due_ms;
    return next == NEXT_RETRY ? FATE_PARKED : FATE_DEAD;
}

static void log_failure(const struct load *load, const struct parcel *p) {
    const struct slot *slot = p->members[0];
    bool dead = p->fate == FATE_DEAD;
    log_at(dead ? LOG_WARN : LOG_DEBUG, "not delivered", LOG_S("fate", dead ? "dead" : "parked"),
           LOG_S("topic", load->topic), LOG_I("partition", slot->from_partition),
           LOG_I("offset", slot->from_offset), LOG_I("members", p->n),
           LOG_S("destination", p->label), LOG_S("fault", fault_name(p->outcome.fault)),
           LOG_S("why", p->outcome.why), LOG_I("status", p->outcome.status),
           LOG_S("detail", p->outcome.detail), LOG_I("attempts", p->progress.attempts));
}

static void end_parcel(struct parcel *parcel, const struct outcome *o) {
    struct load *load = parcel->load;
    struct lane *lane = load->lane;
    unsigned sink = parcel->members[0]->sink;
    parcel->outcome = *o;
    parcel->fate = decide(lane, parcel, o);
    if (parcel->fate == FATE_DELIVERED) {
        count_by(&lane->counters, COUNTER_PARCELS, sink, 1);
        count_by(&lane->counters, COUNTER_PARCEL_BYTES, sink, parcel->delivery.batch.body_len);
    } else {
        count_by(&lane->counters, COUNTER_ATTEMPTS_FAILED, sink, !o->uncounted);
        log_failure(load, parcel);
    }
    parcel_release(parcel);
    for (uint32_t i = 0; i < parcel->n; i++)
        end_slot(load, parcel->members[i], parcel->fate, &parcel->outcome);
}

static void parcel_done(struct delivery *d, const struct outcome *o) {
    struct parcel *parcel = (struct parcel *)(void *)d;
    if (o->verdict == VERDICT_OK) crash_point("put-after");
    if (d->sent_ms && !o->uncounted)
        observe_us(&parcel->load->lane->counters, HISTOGRAM_DELIVERY, parcel->members[0]->sink,
                   (parcel->load->lane->now_ms - d->sent_ms) * 1000);
    parcel->load->out--;
    end_parcel(parcel, o);
}

/* ---- parcels ---- */

static bool parcel_build(struct delivery *d, struct outcome *reterr) {
    struct parcel *parcel = (struct parcel *)(void *)d;
    if (!batch_body(parcel->load->lane, parcel, reterr)) return false;
    lane_held(parcel->load->lane, parcel->load, (ptrdiff_t)parcel->body.n);
    crash_point("put-before");
    return true;
}

static struct parcel *parcel_new(struct load *load, struct destination *dest) {
    struct parcel *p = arena_alloc(&load->arena, sizeof *p);
    const struct parcel *before = load->last_parcel;
    bool same = before && before->holds && before->delivery.batch.dest == dest;
    p->load = load;
    p->label = same ? before->label : arena_strdup(&load->arena, str_c(dest->label));
    p->delivery = (struct delivery){.build = parcel_build, .done = parcel_done};
    p->delivery.batch.dest = dest;
    p->delivery.batch.topic = load->topic;
    destination_hold(dest);
    p->holds = true;
    *(load->last_parcel ? &load->last_parcel->next : &load->parcels) = p;
    load->last_parcel = p;
    return p;
}

static void parcel_add(struct parcel *p, struct slot *slot) {
    if (p->n == p->cap) {
        p->cap = p->cap ? p->cap * 2 : 1;
        p->members = xrealloc(p->members, p->cap * sizeof(struct slot *));
    }
    p->members[p->n++] = slot;
    p->payload += slot->run->payload.n;
    slot->parcel = p;
}

static void parcel_send(struct parcel *p) {
    struct batch *b = &p->delivery.batch;
    const struct slot *first = p->members[0], *last = p->members[p->n - 1];
    b->key = p->key;
    b->partition = first->from_partition;
    b->first = first->from_offset;
    b->last = last->from_offset;
    b->count = p->n;
    for (uint32_t i = 0; i < p->n; i++) p->members[i]->batch_index = i;
    p->delivery.size = p->payload;
    p->sent = true;
    p->load->out++;
    dispatch_add(p->load->lane->dispatch, &p->delivery);
}

/* What an entry of the ledger may grow by for a parcel: its labels and key, and its members'
 * offsets. */
static void count_ledger(struct load *load, const struct parcel *p, size_t key_len) {
    struct ledger_item item = {.kind = LEDGER_DELIVERED, .dest = p->label};
    load->ledger_bytes += ledger_item_size(&item) + key_len;
}

static void send_object(struct load *load, struct slot *slot, struct destination *dest) {
    struct lane *lane = load->lane;
    struct origin origin = {.partition = slot->from_partition, .offset = slot->from_offset};
    memcpy(origin.topic, load->partition->base, sizeof origin.topic);
    struct parcel *p = parcel_new(load, dest);
    p->progress = slot->progress;
    parcel_add(p, slot);
    struct buf key;
    struct outcome o;
    buf_init(&key, KEY_MAX * 2);
    bool ok = route_object_key(lane->router, slot->run, dest, &origin,
                               rd_kafka_message_timestamp(slot->msg, NULL), &key, &o);
    if (ok) p->key = arena_strdup(&load->arena, (struct str){key.p, key.n});
    count_ledger(load, p, key.n);
    buf_free(&key);
    if (ok)
        parcel_send(p);
    else
        end_parcel(p, &o);
}

static struct str header_value(const struct record *rec, const char *name) {
    for (size_t i = 0; i < rec->n_headers; i++)
        if (str_is(rec->headers[i].name, name)) return rec->headers[i].value;
    return (struct str){0};
}

static void send_post(struct load *load, struct slot *slot, struct destination *dest,
                      const struct record *rec) {
    struct parcel *p = parcel_new(load, dest);
    const struct jobrun *run = slot->run;
    struct batch *b = &p->delivery.batch;
    p->progress = slot->progress;
    parcel_add(p, slot);
    b->event_id = run->event_id;
    if (!b->event_id.n) {
        size_t n = run->id.n + run->updated_at.n + run->status.n + 2;
        char *id = arena_alloc(&load->arena, n + 1), *at = id;
        at = (char *)memcpy(at, run->id.p, run->id.n) + run->id.n;
        *at++ = ':';
        at = (char *)memcpy(at, run->updated_at.p, run->updated_at.n) + run->updated_at.n;
        *at++ = ':';
        memcpy(at, run->status.p, run->status.n);
        b->event_id = (struct str){id, n};
    }
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

/* The parcel of a batch that comes back (key not NULL), or that a destination collects in this
 * window. */
static struct parcel *groups_find(const struct load *load, const struct destination *dest,
                                  const char *key) {
    if (!load->groups_cap) return NULL;
    size_t mask = load->groups_cap - 1;
    uint64_t h = key ? keyed_hash(key, strlen(key)) : keyed_hash(&dest, sizeof dest);
    for (size_t i = h & mask; load->groups[i]; i = (i + 1) & mask) {
        struct parcel *p = load->groups[i];
        if (key ? p->expected && strcmp(p->key, key) == 0 : p->delivery.batch.dest == dest)
            return p;
    }
    return NULL;
}

/* batch mode: the event waits in its destination's parcel until the window's end is durable. */
static void collect(struct load *load, struct slot *slot, struct destination *dest) {
    struct parcel *p = groups_find(load, dest, NULL);
    if (!p) {
        p = parcel_new(load, dest);
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
static void collect_again(struct load *load, struct slot *slot, struct destination *dest,
                          const struct requeue *r) {
    struct parcel *p = groups_find(load, dest, r->batch_key);
    if (!p) {
        p = parcel_new(load, dest);
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
static void leave_batch(struct load *load, const struct requeue *r) {
    struct parcel *p = groups_find(load, NULL, r->batch_key);
    if (!p || p->sent) return;
    p->expected--;
    send_if_whole(load, p);
}

/* ---- taking a record ---- */

static struct header *read_headers(struct load *load, const rd_kafka_message_t *msg,
                                   size_t *ret_n) {
    rd_kafka_headers_t *list = NULL;
    *ret_n = 0;
    if (rd_kafka_message_headers(msg, &list) != RD_KAFKA_RESP_ERR_NO_ERROR) return NULL;
    size_t n = rd_kafka_header_cnt(list);
    struct header *headers = arena_alloc(&load->arena, n * sizeof *headers);
    for (size_t i = 0; i < n; i++) {
        const char *name;
        const void *value;
        size_t size;
        if (rd_kafka_header_get_all(list, i, &name, &value, &size) != RD_KAFKA_RESP_ERR_NO_ERROR)
            break;
        headers[(*ret_n)++] =
            (struct header){.name = str_c(name), .value = {value, value ? size : 0}};
    }
    return headers;
}

/* What a retry record says of its past. False when the record has its outcome already. */
static bool recall(struct load *load, struct slot *slot, const struct record *rec,
                   struct requeue *r) {
    const char *problem = NULL;
    struct outcome o;
    if (!requeue_parse(rec->headers, rec->n_headers, r, &problem)) {
        o = outcome_fail(VERDICT_PERMANENT, FAULT_SYSTEM, "bad-retry-headers", "%s", problem);
    } else if (strcmp(r->origin.topic, load->partition->base) != 0) {
        o = outcome_fail(VERDICT_PERMANENT, FAULT_SYSTEM, "bad-retry-headers",
                         "runsink-origin names another topic than this retry topic's");
    } else {
        slot->from_partition = r->origin.partition;
        slot->from_offset = r->origin.offset;
        slot->batch_index = r->batch_index;
        slot->progress = (struct progress){.first_failure_ms = r->first_failure_ms,
                                           .not_before_ms = r->not_before_ms,
                                           .attempts = r->attempts};
        return true;
    }
    end_alone(load, slot, FATE_DEAD, &o);
    return false;
}

static bool decode(struct load *load, struct slot *slot, const struct record *rec) {
    struct outcome o;
    struct jobrun *run = arena_alloc(&load->arena, sizeof *run);
    if (!jobrun_decode(rec, &load->arena, run, &o)) {
        end_alone(load, slot, o.verdict == VERDICT_OK ? FATE_SKIPPED : FATE_DEAD, &o);
        return false;
    }
    if (run->unknown_enum) count(&load->lane->counters, COUNTER_UNKNOWN_ENUM, 1);
    if (!load->lane->cfg->redact_payload) run->n_edits = 0;
    slot->run = run;
    return true;
}

/* Retry-After asked for more than the longest delay: the record goes round once more, unattempted.
 */
static void park_again(struct load *load, struct slot *slot, const struct sink_type *type,
                       const struct requeue *past) {
    struct lane *lane = load->lane;
    struct requeue r = *past;
    struct outcome o = outcome_fail(VERDICT_RETRY, FAULT_TENANT, past->why, NULL);
    o.uncounted = true;
    enum next next = requeue_next(&r, &o, &lane->schedule, retry_window(lane->cfg, type),
                                  lane->wall_ms, &slot->progress.tier);
    slot->progress.due_ms = r.due_ms;
    slot->progress.not_before_ms = r.not_before_ms;
    end_alone(load, slot, next == NEXT_RETRY ? FATE_PARKED : FATE_DEAD, &o);
}

static void deliver(struct load *load, struct slot *slot, const struct record *rec,
                    const struct requeue *past) {
    struct lane *lane = load->lane;
    struct destination *dest;
    struct outcome o;
    enum route_kind kind =
        (past ? route_again : route)(lane->router, slot->run, lane->now_ms, &dest, &o);
    bool batched = past && past->batch_key[0];
    switch (kind) {
    case ROUTE_SKIP:
    case ROUTE_DEAD:
        end_alone(load, slot, kind == ROUTE_SKIP ? FATE_SKIPPED : FATE_DEAD, &o);
        if (batched) leave_batch(load, past);
        return;
    case ROUTE_DELIVER:
        slot->sink = (uint8_t)(1 + sink_type_index(dest->type));
        break;
    }
    if (past && !batched && past->not_before_ms > lane->wall_ms)
        park_again(load, slot, dest->type, past);
    else if (dest->type->shape == SHAPE_POST)
        send_post(load, slot, dest, rec);
    else if (batched)
        collect_again(load, slot, dest, past);
    else if (load->batched)
        collect(load, slot, dest);
    else
        send_object(load, slot, dest);
}

void load_take(struct load *load, rd_kafka_message_t *msg) {
    struct slot *slot = arena_alloc(&load->arena, sizeof *slot);
    *slot = (struct slot){.offset = msg->offset,
                          .from_partition = msg->partition,
                          .from_offset = msg->offset,
                          .bytes = (uint32_t)msg->len,
                          .msg = msg};
    *(load->last ? &load->last->next : &load->first) = slot;
    load->last = slot;
    load->bytes += msg->len;
    load->ledger_bytes += 32;
    lane_held(load->lane, load, (ptrdiff_t)msg->len + RECORD_OVERHEAD);
    count(&load->lane->counters, COUNTER_RECORDS, 1);
    count(&load->lane->counters, COUNTER_BYTES, msg->len);
    struct record rec = {.value = {msg->payload, msg->len}};
    rec.headers = read_headers(load, msg, &rec.n_headers);
    struct requeue past;
    bool again = load->partition->kind == PARTITION_RETRY;
    if (again) count(&load->lane->counters, COUNTER_AGAIN, 1);
    if (!again || recall(load, slot, &rec, &past)) {
        if (decode(load, slot, &rec))
            deliver(load, slot, &rec, again ? &past : NULL);
        else if (again && past.batch_key[0])
            leave_batch(load, &past);
    }
    size_t grown = load->arena.bytes - load->arena_counted;
    load->arena_counted = load->arena.bytes;
    lane_held(load->lane, load, (ptrdiff_t)grown);
}

/* ---- flush and cancel ---- */

struct key_seen {
    uint64_t hash;
    unsigned n;
};

/* How many parcels of this window had this key in this space so far, this one included. A bounded
 * table, sized for the window. */
static unsigned occurrence(struct key_seen *table, size_t cap, const char *space, const char *key) {
    uint64_t parts[2] = {keyed_hash(space, strlen(space)), keyed_hash(key, strlen(key))};
    uint64_t h = keyed_hash(parts, sizeof parts) | 1;
    size_t i = h & (cap - 1);
    while (table[i].hash && table[i].hash != h) i = (i + 1) & (cap - 1);
    table[i].hash = h;
    return ++table[i].n;
}

static bool name_batch(struct load *load, struct parcel *p, struct key_seen *table, size_t cap,
                       struct outcome *reterr) {
    const struct window *w = load->window;
    const struct destination *dest = p->delivery.batch.dest;
    struct buf key;
    buf_init(&key, KEY_MAX * 2);
    unsigned nth = 1;
    bool ok = true;
    for (unsigned round = 0; ok && round < 2; round++) {
        buf_clear(&key);
        ok = route_batch_key(load->lane->router, dest, load->topic, load->partition->id, w->first,
                             w->next, load->timestamp_ms, nth, &key, reterr);
        if (ok && round == 0)
            nth = occurrence(table, cap, dest->key_space ? dest->key_space : "", buf_cstr(&key));
        if (nth == 1) break;
    }
    if (ok) p->key = arena_strdup(&load->arena, (struct str){key.p, key.n});
    buf_free(&key);
    return ok;
}

void load_flush(struct load *load) {
    load->flushed = true;
    size_t cap = 16;
    while (cap < load->n_groups * 2) cap *= 2;
    struct key_seen *table = xcalloc(cap, sizeof *table);
    for (struct parcel *p = load->parcels; p; p = p->next) {
        struct outcome o;
        if (p->sent || p->fate != FATE_OPEN || !p->ndjson || p->expected) continue;
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
        if (p->sent || !p->expected) continue;
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
