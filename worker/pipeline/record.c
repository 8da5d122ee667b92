#include "worker/pipeline/record.h"

#include <stdlib.h>

#include "worker/base/crash.h"
#include "worker/base/failures.h"
#include "worker/base/log.h"
#include "worker/kafka/reader.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/delivery.h"

#define RECORD_OVERHEAD 256 /* librdkafka's own, about, per message */
#define LOG_TEXT_MAX 128
#define HEADER_OVERHEAD 64 /* and per header */

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
    slot->payload = (struct payload){0}; /* borrowed from it */
}

void load_free(struct load *load) {
    if (!load) return;
    for (struct parcel *p = load->parcels; p; p = p->next) {
        parcel_release(p);
        if (p->members != p->only) free(p->members);
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

static enum counter skip_counter(const struct outcome *o) {
    static const struct {
        const char *why;
        enum counter id;
    } reasons[] = {
        {"no-sink", COUNTER_SKIPPED_NO_SINK}, {"tombstone", COUNTER_SKIPPED_TOMBSTONE},
        {"status", COUNTER_SKIPPED_STATUS},   {"skipOnFail", COUNTER_SKIPPED_FAIL},
        {"apisToSend", COUNTER_SKIPPED_APIS}, {"operator", COUNTER_SKIPPED_OPERATOR},
    };
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (strcmp(o->why, reasons[i].why) == 0) return reasons[i].id;
    return COUNTER_SKIPPED_OTHER;
}

/* Whoever wrote the record chose its time: one of the future must not count backwards. */
static void observe_age(struct lane *lane, const struct slot *slot) {
    int64_t at = slot->timestamp_ms;
    if (at >= 0)
        observe_us(&lane->counters, HISTOGRAM_FRESHNESS, slot->sink,
                   at < lane->wall_ms ? (lane->wall_ms - at) * 1000 : 0);
}

void slot_end(struct load *load, struct slot *slot, enum fate fate, const struct outcome *o) {
    struct counters *c = &load->lane->counters;
    slot->fate = fate;
    slot->outcome = o;
    switch (fate) {
    case FATE_OPEN:
        break;
    case FATE_DELIVERED:
        count_by(c, COUNTER_DELIVERED, slot->sink, 1);
        observe_age(load->lane, slot);
        break;
    case FATE_SKIPPED:
        count(c, COUNTER_SKIPPED, 1);
        count_by(c, skip_counter(o), slot->sink, 1);
        break;
    case FATE_PARKED:
        load->parked++;
        count_by(c, COUNTER_PARKED, slot->sink, 1);
        break;
    case FATE_DEAD:
        count_by(c, dead_counter(o->fault), slot->sink, 1);
        if (!slot->parcel) count(c, failure_counter(o->why), !o->uncounted);
        observer_dead(load->lane, load, slot);
        break;
    }
    if (fate == FATE_DELIVERED || fate == FATE_SKIPPED) let_go(load, slot);
    if (load->window) window_done(load->window);
}

/* One of the event's own texts as a log line may show it: cut, and neither a secret nor the
 * beginning of one. */
static const char *log_text(struct str text, bool hidden, char ret[LOG_TEXT_MAX]) {
    outcome_text(ret, LOG_TEXT_MAX, text);
    return hidden || secret_in(str_c(ret)) ? "[REDACTED]" : ret;
}

/* What could be decoded is decoded once more: events that are delivered pay nothing for it. */
static bool decode_again(const struct load *load, const struct slot *slot, struct arena *arena,
                         struct message *rec, struct jobrun *ret) {
    struct outcome unused;
    if (!slot->payload.json.p || !slot->msg) return false;
    struct known_sinks known = router_known(load->lane->router);
    reader_record(slot->msg, arena, rec);
    return jobrun_decode_known(rec, &known, arena, ret, &unused);
}

void load_workspace(const struct load *load, const struct slot *slot, char ret[WORKSPACE_SHOWN],
                    bool *ret_exact) {
    struct arena arena = {0};
    struct jobrun run;
    struct message rec;
    struct str id = STR("");
    bool hidden = false, decoded = decode_again(load, slot, &arena, &rec, &run);
    if (decoded) {
        id = run.workspace_id;
        hidden = run.hidden & 1u << RUN_WORKSPACE_ID;
    } else if (slot->msg && slot->workspace) {
        reader_record(slot->msg, &arena, &rec);
        id = jobrun_whose(&rec, &arena);
    }
    outcome_text(ret, WORKSPACE_SHOWN, id);
    hidden = hidden || secret_in(id) || secret_in(str_c(ret));
    *ret_exact = decoded && !hidden && id.n && str_is(id, ret);
    if (hidden) snprintf(ret, WORKSPACE_SHOWN, "[REDACTED]");
    arena_wipe(&arena);
}

void load_log(const struct load *load, const struct slot *slot, enum fate fate, uint32_t members,
              const struct outcome *o) {
    enum log_level level = fate == FATE_DEAD ? LOG_WARN : LOG_DEBUG;
    if (!log_on(level)) return;
    const struct parcel *p = slot->parcel;
    char workspace[LOG_TEXT_MAX] = "", job[LOG_TEXT_MAX] = "", id[LOG_TEXT_MAX] = "";
    const char *shown[3] = {"", "", ""};
    struct arena arena = {0};
    struct jobrun run;
    struct message rec;
    if (decode_again(load, slot, &arena, &rec, &run)) {
        shown[0] = log_text(run.workspace_id, run.hidden & 1u << RUN_WORKSPACE_ID, workspace);
        shown[1] = log_text(run.job_id, run.hidden & 1u << RUN_JOB_ID, job);
        shown[2] = log_text(run.id, run.hidden & 1u << RUN_ID, id);
    }
    const struct log_line line = {
        fate == FATE_DEAD     ? "dead letter"
        : fate == FATE_PARKED ? "parked"
                              : "delivered",
        {LOG_S("topic", load->topic), LOG_I("partition", slot->from_partition),
         LOG_I("offset", slot->from_offset), LOG_I("members", members),
         LOG_S("workspace", shown[0]), LOG_S("job", shown[1]), LOG_S("run", shown[2]),
         LOG_S("destination", p ? p->label : ""), LOG_S("fault", fault_name(o->fault)),
         LOG_S("why", o->why), LOG_I("status", o->status), LOG_S("detail", o->detail),
         LOG_I("attempts", p ? p->progress.attempts : slot->progress.attempts)}};
    log_write(level, &line);
    arena_wipe(&arena);
}

/* The record's own outcome, without a parcel. */
static void end_alone(struct load *load, struct slot *slot, enum fate fate,
                      const struct outcome *o) {
    struct outcome *kept = arena_alloc(&load->arena, sizeof *kept);
    *kept = *o;
    if (fate == FATE_DEAD || fate == FATE_PARKED) load_log(load, slot, fate, 1, o);
    slot_end(load, slot, fate, kept);
}

/* ---- taking a record ---- */

/* What a message holds beside its value: a producer may put a megabyte into its key or headers. */
static size_t beside_value(const rd_kafka_message_t *msg, const struct message *rec) {
    size_t n = msg->key_len;
    for (size_t i = 0; i < rec->n_headers; i++)
        n += HEADER_OVERHEAD + rec->headers[i].name.n + rec->headers[i].value.n;
    return n;
}

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
static bool recall(struct load *load, struct slot *slot, const struct message *rec,
                   struct retry *r) {
    const char *problem = NULL;
    struct outcome o;
    if (retry_parse(rec->headers, rec->n_headers, r, &problem) && r->group[0] &&
        strcmp(r->group, load->lane->cfg->group) != 0) {
        slot->foreign = true;
        slot->fate = FATE_SKIPPED;
        let_go(load, slot);
        window_done(load->window);
        return false;
    }
    if (problem) {
        o = outcome_fail(VERDICT_PERMANENT, FAULT_SYSTEM, "bad-retry-headers", "%s", problem);
    } else if (strcmp(r->origin.topic, load->partition->base) != 0) {
        o = outcome_fail(VERDICT_PERMANENT, FAULT_SYSTEM, "bad-retry-headers",
                         "runsink-origin names another topic than this retry topic's");
    } else {
        count(&load->lane->counters, COUNTER_AGAIN, 1);
        slot->from_partition = r->origin.partition;
        slot->from_offset = r->origin.offset;
        if (r->timestamp_ms) slot->timestamp_ms = r->timestamp_ms;
        slot->batch_index = r->batch_index;
        slot->progress = (struct progress){.first_failure_ms = r->first_failure_ms,
                                           .not_before_ms = r->not_before_ms,
                                           .attempts = r->attempts};
        return true;
    }
    end_alone(load, slot, FATE_DEAD, &o);
    return false;
}

/* A record that has its outcome undecoded: it kills, or the operator wants it so. */
static bool set_aside(struct load *load, struct slot *slot) {
    struct outcome o;
    enum fate fate = careful_special(load->lane, load->partition, slot->offset, &o);
    if (fate == FATE_OPEN) return false;
    end_alone(load, slot, fate, &o);
    return true;
}

static bool decode(struct load *load, struct slot *slot, const struct message *rec,
                   struct jobrun *run) {
    struct outcome o;
    crash_record(CRASH_DECODE, rec->value.p, rec->value.n);
    struct known_sinks known = router_known(load->lane->router);
    if (!jobrun_decode_known(rec, &known, &load->arena, run, &o)) {
        bool skipped = o.verdict == VERDICT_OK;
        struct str whose = skipped ? STR("") : jobrun_whose(rec, &load->arena);
        if (whose.n) slot->workspace = keyed_hash(whose.p, whose.n);
        if (!skipped) observer_unfit(load->lane, slot->workspace);
        end_alone(load, slot, skipped ? FATE_SKIPPED : FATE_DEAD, &o);
        return false;
    }
    if (run->unknown_value) count(&load->lane->counters, COUNTER_UNKNOWN_VALUE, 1);
    if (run->payload.lone_surrogate) count(&load->lane->counters, COUNTER_LONE_SURROGATES, 1);
    if (!load->lane->cfg->redact_payload) run->payload.verbatim = true;
    slot->payload = run->payload;
    return true;
}

/* Retry-After asked for more than the longest delay: the record goes round once more, unattempted.
 */
static void park_again(struct load *load, struct slot *slot, struct destination *dest,
                       const struct retry *past) {
    struct lane *lane = load->lane;
    struct retry r = *past;
    struct outcome o = outcome_fail(VERDICT_RETRY, FAULT_TENANT, past->why, NULL);
    o.uncounted = true;
    enum next next = retry_next(&r, &o, &lane->schedule, parcel_retry_window(lane->cfg, dest->type),
                                lane->wall_ms, &slot->progress.tier);
    slot->progress.due_ms = r.due_ms;
    slot->progress.not_before_ms = r.not_before_ms;
    if (next == NEXT_RETRY) observer_parked(load, slot, dest, &o, r.due_ms);
    end_alone(load, slot, next == NEXT_RETRY ? FATE_PARKED : FATE_DEAD, &o);
}

static void deliver(struct load *load, struct slot *slot, const struct jobrun *run,
                    const struct message *rec, const struct retry *past) {
    struct lane *lane = load->lane;
    struct destination *dest;
    struct outcome o;
    enum route_kind kind = (past ? route_again : route)(lane->router, run, lane->now_ms, &dest, &o);
    bool batched = past && past->batch_key[0];
    slot->workspace = keyed_hash(run->workspace_id.p, run->workspace_id.n);
    if (past) observer_back(lane, slot, kind == ROUTE_DELIVER ? dest : NULL, past->due_ms);
    switch (kind) {
    case ROUTE_SKIP:
    case ROUTE_DEAD:
        if (kind == ROUTE_DEAD && o.fault == FAULT_DATA) observer_unfit(lane, slot->workspace);
        if (kind == ROUTE_SKIP) observer_skipped(lane, o.why, slot->workspace);
        end_alone(load, slot, kind == ROUTE_SKIP ? FATE_SKIPPED : FATE_DEAD, &o);
        if (batched) parcel_leave_batch(load, past);
        return;
    case ROUTE_DELIVER:
        slot->sink = (uint8_t)(1 + sink_type_index(dest->type));
        break;
    }
    if (past && !batched && past->not_before_ms > lane->wall_ms &&
        !retry_is_last(&slot->progress, &lane->schedule, parcel_retry_window(lane->cfg, dest->type),
                       lane->wall_ms))
        park_again(load, slot, dest, past);
    else if (dest->type->shape == SHAPE_POST)
        parcel_send_post(load, slot, run, dest, rec);
    else if (batched)
        parcel_collect_again(load, slot, dest, past);
    else if (load->batched)
        parcel_collect(load, slot, dest);
    else
        parcel_send_object(load, slot, run, dest);
}

void load_take(struct load *load, rd_kafka_message_t *msg) {
    struct slot *slot = arena_alloc(&load->arena, sizeof *slot);
    *slot = (struct slot){.offset = msg->offset,
                          .from_partition = msg->partition,
                          .from_offset = msg->offset,
                          .timestamp_ms = rd_kafka_message_timestamp(msg, NULL),
                          .msg = msg};
    *(load->last ? &load->last->next : &load->first) = slot;
    load->last = slot;
    load->bytes += msg->len;
    load->ledger_bytes += 32;
    count(&load->lane->counters, COUNTER_RECORDS, 1);
    count(&load->lane->counters, COUNTER_BYTES, msg->len);
    struct message rec = {.value = {msg->payload, msg->len}};
    rec.headers = read_headers(load, msg, &rec.n_headers);
    slot->bytes = (uint32_t)(msg->len + beside_value(msg, &rec));
    lane_held(load->lane, load, (ptrdiff_t)slot->bytes + RECORD_OVERHEAD);
    struct retry past;
    struct jobrun run;
    bool again = load->partition->kind == PARTITION_RETRY;
    if (!again || recall(load, slot, &rec, &past)) {
        bool special = msg->offset >= load->partition->special && set_aside(load, slot);
        if (!special && decode(load, slot, &rec, &run))
            deliver(load, slot, &run, &rec, again ? &past : NULL);
        else if (again && past.batch_key[0])
            parcel_leave_batch(load, &past);
    }
    size_t grown = load->arena.bytes - load->arena_counted;
    load->arena_counted = load->arena.bytes;
    lane_held(load->lane, load, (ptrdiff_t)grown);
}
