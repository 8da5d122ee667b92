#include "worker/pipeline/intake.h"

#include "worker/base/crash.h"
#include "worker/pipeline/caution.h"
#include "worker/pipeline/delivery.h"
#include "worker/pipeline/hold.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/record.h"
#include "worker/pipeline/route.h"
#include "worker/pipeline/source.h"

/* A window seals before its ledger entry outgrows a Kafka message. */
#define LEDGER_SEAL ((size_t)700000)
#define PARKED_AGE_MS 100

/* ---- taking a record ---- */

#define RECORD_OVERHEAD 256 /* librdkafka's own, about, per message */
#define HEADER_OVERHEAD 64  /* and per header */

/* What a message holds beside its value: a producer may put a megabyte into its key or headers. */
static size_t beside_value(const struct fetched *f, const struct message *m) {
    size_t n = RECORD_OVERHEAD + fetched_key(f).n;
    for (size_t i = 0; i < m->n_headers; i++)
        n += HEADER_OVERHEAD + m->headers[i].name.n + m->headers[i].value.n;
    return n;
}

/* The record's own outcome, without a delivery. */
static void end_alone(struct window *w, struct record *record, enum record_state state,
                      const struct outcome *o) {
    struct outcome *kept = arena_alloc(&w->arena, sizeof *kept);
    *kept = *o;
    if (state == RECORD_DEAD || state == RECORD_PARKED) record_log(w, record, state, 1, o);
    record_end(w, record, state, kept);
    if (state == RECORD_DEAD) observer_dead(w, record);
}

/* Where a record that never failed stands. */
static const struct progress unfailed;

/* What a retry record says of its past. False when the record has its outcome already. */
static bool read_past(struct window *w, struct record *record, const struct message *m,
                      struct retry *r) {
    const char *problem = NULL;
    struct outcome o;
    if (retry_parse(m->headers, m->n_headers, r, &problem) && r->group[0] &&
        strcmp(r->group, w->lane->cfg->group) != 0) {
        record->foreign = true;
        record_end(w, record, RECORD_SKIPPED, NULL);
        return false;
    }
    if (problem) {
        o = outcome_fail(VERDICT_PERMANENT, FAULT_SYSTEM, "bad-retry-headers", "%s", problem);
    } else if (strcmp(r->origin.topic, w->partition->base) != 0) {
        o = outcome_fail(VERDICT_PERMANENT, FAULT_SYSTEM, "bad-retry-headers",
                         "runsink-origin names another topic than this retry topic's");
    } else {
        count(&w->lane->counters, COUNTER_AGAIN, 1);
        record->from_partition = r->origin.partition;
        record->from_offset = r->origin.offset;
        if (r->timestamp_ms) record->timestamp_ms = r->timestamp_ms;
        record->batch_index = r->batch_index;
        record->told = r->told;
        struct progress *told = arena_alloc(&w->arena, sizeof *told);
        *told = r->progress;
        record->progress = told;
        return true;
    }
    end_alone(w, record, RECORD_DEAD, &o);
    return false;
}

/* A record that has its outcome undecoded: it kills, or the operator wants it so. */
static bool set_aside(struct window *w, struct record *record) {
    struct outcome o;
    enum record_state state = caution_special(w->lane, w->partition, record->offset, &o);
    if (state == RECORD_OPEN) return false;
    end_alone(w, record, state, &o);
    return true;
}

static bool decode(struct window *w, struct record *record, const struct message *m,
                   struct jobrun *run) {
    struct outcome o;
    crash_record(CRASH_DECODE, m->value.p, m->value.n);
    struct known_sinks known = router_known(w->lane->router);
    if (!jobrun_decode_known(m, &known, &w->arena, run, &o)) {
        bool skipped = o.verdict == VERDICT_OK;
        struct str whose = skipped ? STR("") : jobrun_whose(m, &w->arena);
        if (whose.n) record->workspace = keyed_hash(whose.p, whose.n);
        if (!skipped) observer_unfit(w->lane, record->workspace);
        end_alone(w, record, skipped ? RECORD_SKIPPED : RECORD_DEAD, &o);
        return false;
    }
    if (run->unknown_value) count(&w->lane->counters, COUNTER_UNKNOWN_VALUE, 1);
    if (run->payload.lone_surrogate) count(&w->lane->counters, COUNTER_LONE_SURROGATES, 1);
    if (!w->lane->cfg->redact_payload) run->payload.verbatim = true;
    record->payload = run->payload;
    return true;
}

/* Retry-After asked for more than the longest delay: the record goes round once more, unattempted.
 */
static void park_again(struct window *w, struct record *record, struct destination *dest,
                       const struct retry *past) {
    struct lane *lane = w->lane;
    struct outcome o = outcome_fail(VERDICT_RETRY, FAULT_TENANT, past->why, NULL);
    o.uncounted = true;
    struct progress *g = arena_alloc(&w->arena, sizeof *g);
    *g = *record->progress;
    enum next next = retry_next(g, &o, &lane->schedule,
                                delivery_retry_window(lane->cfg, dest->type), lane->wall_ms);
    record->progress = g;
    if (next == NEXT_RETRY) observer_parked(w, record, dest, &o, g->due_ms);
    end_alone(w, record, next == NEXT_RETRY ? RECORD_PARKED : RECORD_DEAD, &o);
}

static void deliver(struct window *w, struct record *record, const struct jobrun *run,
                    const struct message *m, const struct retry *past) {
    struct lane *lane = w->lane;
    struct destination *dest;
    struct outcome o;
    enum route_kind kind = (past ? route_again : route)(lane->router, run, lane->now_ms, &dest, &o);
    bool batched = past && past->batch_key[0];
    record->workspace = keyed_hash(run->workspace_id.p, run->workspace_id.n);
    if (past)
        observer_back(lane, record, kind == ROUTE_DELIVER ? dest : NULL, past->progress.due_ms);
    switch (kind) {
    case ROUTE_SKIP:
    case ROUTE_DEAD:
        if (kind == ROUTE_DEAD && o.fault == FAULT_DATA) observer_unfit(lane, record->workspace);
        if (kind == ROUTE_SKIP) observer_skipped(lane, o.why, record->workspace);
        end_alone(w, record, kind == ROUTE_SKIP ? RECORD_SKIPPED : RECORD_DEAD, &o);
        if (batched) delivery_leave_batch(w, past);
        return;
    case ROUTE_DELIVER:
        record->sink = (uint8_t)(1 + sink_type_index(dest->type));
        record->held = hold_names(lane->cfg, run->workspace_id, dest->label);
        break;
    }
    if (past && !batched && !record->held && past->progress.not_before_ms > lane->wall_ms &&
        !retry_is_last(record->progress, &lane->schedule,
                       delivery_retry_window(lane->cfg, dest->type), lane->wall_ms))
        park_again(w, record, dest, past);
    else if (dest->type->shape == SHAPE_POST)
        delivery_send_post(w, record, run, dest, m);
    else if (batched)
        delivery_collect_again(w, record, dest, past);
    else if (w->batched)
        delivery_collect(w, record, dest);
    else
        delivery_send_object(w, record, run, dest);
}

static void take_record(struct window *w, struct fetched *f) {
    struct record *record = arena_alloc(&w->arena, sizeof *record);
    *record = (struct record){.window = w,
                              .offset = fetched_offset(f),
                              .from_partition = w->partition->id,
                              .from_offset = fetched_offset(f),
                              .timestamp_ms = fetched_time_ms(f, NULL),
                              .progress = &unfailed,
                              .message = f};
    struct record *before = w->last_record;
    *(before ? &before->next : &w->records) = record;
    w->last_record = record;
    struct message m;
    fetched_message(f, &w->arena, &m);
    w->last = (struct ledger_last){record->offset, record->timestamp_ms, (uint32_t)m.value.n};
    w->bytes += m.value.n;
    w->ledger_bytes += 32;
    count(&w->lane->counters, COUNTER_RECORDS, 1);
    count(&w->lane->counters, COUNTER_BYTES, m.value.n);
    record->bytes = (uint32_t)(m.value.n + beside_value(f, &m));
    window_hold(w, (ptrdiff_t)record->bytes);
    struct retry past;
    struct jobrun run;
    bool again = w->partition->kind == PARTITION_RETRY;
    if (!again || read_past(w, record, &m, &past)) {
        bool special = record->offset >= w->partition->special && set_aside(w, record);
        if (!special && decode(w, record, &m, &run))
            deliver(w, record, &run, &m, again ? &past : NULL);
        else if (again && past.batch_key[0])
            delivery_leave_batch(w, &past);
    }
    window_hold_arena(w);
}

/* ---- windows ---- */

/* What the records, and all that is made of them, may take. A quarter of the lane's part is for
 * what librdkafka reads ahead, another for the copies that a settlement makes of what it parks; the
 * table of destinations is in the rest. */
static size_t budget(const struct lane *lane) {
    return router_room(lane->router);
}

static bool is_batch(const struct lane *lane, const struct partition *p) {
    return p->kind == PARTITION_SOURCE && lane->cfg->archive == CONFIG_ARCHIVE_BATCH;
}

static size_t windows_max(const struct lane *lane, const struct partition *p) {
    if (p->caution != CAUTION_NONE) return 1;
    return (size_t)(is_batch(lane, p) ? lane->cfg->batch_inflight + 1 : lane->cfg->window_inflight);
}

/* When an open window is to be sealed for its age, monotonic ms. One that holds only finished
 * records, parked ones among them, doesn't make those wait: their next attempt is counted from now.
 */
int64_t intake_seal_at(const struct lane *lane, const struct partition *p, const struct window *w) {
    int64_t age = is_batch(lane, p) ? lane->cfg->batch_age : lane->cfg->window_age;
    if (w->parked && w->done == w->taken && age > PARKED_AGE_MS) age = PARKED_AGE_MS;
    return w->opened_ms + age;
}

static bool is_full(const struct lane *lane, const struct partition *p, const struct window *w) {
    const struct config *cfg = lane->cfg;
    if (w->ledger_bytes >= LEDGER_SEAL) return true;
    if (p->caution != CAUTION_NONE && w->taken >= WARY_RECORDS) return true;
    if (!is_batch(lane, p)) return w->taken >= cfg->window_records;
    return w->taken >= cfg->batch_records || w->bytes >= (size_t)cfg->batch_bytes;
}

/* Notes what was sealed since; a replayed window's end is durable already, so it goes out at once.
 */
static void note_sealed(struct lane *lane, struct partition *p) {
    for (struct window *w = p->windows.oldest; w && w->sealed; w = w->newer) {
        if (!w->lane) window_begin(lane, p, w, 0); /* replayed, with all its records gone */
        if (w->sealed_ms) continue;
        w->sealed_ms = lane->now_ms;
        if (w->declared && w->batched) delivery_flush(w);
    }
}

/* A batch that came back is never split: its window stays open until it is whole. */
static bool may_seal(const struct partition *p, struct window *w) {
    if (!w->incomplete) return true;
    if (!partition_at_end(p)) return false;
    delivery_send_incomplete(w);
    return true;
}

void intake_seal(struct lane *lane, struct partition *p, bool force) {
    struct window *open = windows_open(&p->windows);
    if (open && open->taken && !open->replayed) {
        bool due = force || lane->ending || lane->standing || is_full(lane, p, open) ||
                   lane->now_ms >= intake_seal_at(lane, p, open) ||
                   (p->eof && lane->shared->until_end);
        if (due && may_seal(p, open)) windows_seal(&p->windows);
    }
    note_sealed(lane, p);
}

/* The open window that holds most and could be sealed, or NULL; and what all open ones hold. */
static struct partition *fullest(const struct lane *lane, size_t *ret_open) {
    struct partition *most = NULL;
    size_t open = 0, max = 0;
    for (struct partition *p = lane->partitions; p; p = p->next) {
        const struct window *w = windows_open(&p->windows);
        if (!w) continue;
        open += w->held;
        if (w->held <= max || !w->taken || w->replayed || w->incomplete) continue;
        max = w->held;
        most = p;
    }
    *ret_open = open;
    return most;
}

/* No new window may open, or soon not: what keeps the oldest from settling has had its time. With
 * --until-end nothing new is waiting, and the requests' own timeouts will do. */
static void press_on(struct lane *lane, struct partition *p) {
    if (lane->shared->until_end) return;
    struct window *w = p->windows.oldest;
    if (w && w->sealed_ms && lane->now_ms - w->sealed_ms > lane->cfg->window_grace)
        window_cancel(w, CANCEL_SLOW);
}

/* A few requests that hang keep whole windows, with all that was parked meanwhile: pressed on
 * before there is no room left, or everybody would wait for the grace and the settlement. Not
 * batches: big objects take their time. */
static void press_early(struct lane *lane) {
    bool full = lane->held > budget(lane) / 4 * 3;
    for (struct partition *p = lane->partitions; p; p = p->next)
        if (!is_batch(lane, p) && (full || p->windows.count > windows_max(lane, p) / 4 * 3))
            press_on(lane, p);
}

/* What is being filled may take half of the memory, so that what is sealed can settle meanwhile in
 * the other half. The fullest go first: that makes the fewest objects. */
void intake_press(struct lane *lane) {
    struct partition *p;
    size_t open = 0, most = budget(lane) / 2;
    press_early(lane);
    while (lane->held > most && (p = fullest(lane, &open)) && open > most) {
        intake_seal(lane, p, true);
        if (windows_open(&p->windows)) return; /* it could not be: no use in asking again now */
    }
}

/* ---- taking ---- */

bool intake_past_end(const struct partition *p, int64_t offset) {
    return p->kind == PARTITION_SOURCE && p->end >= 0 && offset >= p->end;
}

/* What comes again leaves a part to what is new: a tenant whose sink is dead has each event read
 * many times, and each time it is in memory until its window is settled. */
static bool has_memory(const struct lane *lane, const struct partition *p) {
    size_t most = budget(lane);
    return lane->held < most && (p->kind != PARTITION_RETRY || lane->held_retries < most / 4 * 3);
}

bool intake_has_room(struct lane *lane, struct partition *p, int64_t offset) {
    const struct window *open = windows_open(&p->windows);
    /* What must be read whole is read whatever it takes. */
    if (open && (open->incomplete || (open->replayed && offset < open->next))) return true;
    if (lane->standing || dispatch_saturated(lane->dispatch)) return false;
    bool room = has_memory(lane, p) && (!windows_would_open(&p->windows, offset) ||
                                        p->windows.count < windows_max(lane, p));
    if (!room) press_on(lane, p);
    return room;
}

void intake_take(struct lane *lane, struct partition *p) {
    bool fresh = false;
    struct fetched *message = source_take(p);
    int64_t offset = fetched_offset(message);
    struct window *w = windows_take(&p->windows, offset, &fresh);
    if (!w) { /* before the committed offset */
        fetched_free(message);
        return;
    }
    if (fresh) {
        note_sealed(lane, p);
        p->opened_ms = fetched_time_ms(message, NULL);
        window_begin(lane, p, w, p->opened_ms);
    }
    place_at(&lane->place, STEP_DECODE, offset);
    take_record(w, message);
    /* A replayed window ends with its last record: the next one may have no room until it is
     * settled. */
    windows_passed(&p->windows, offset + 1);
    if (is_full(lane, p, w)) intake_seal(lane, p, false);
}
