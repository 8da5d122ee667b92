#include "worker/pipeline/notice.h"

#include <inttypes.h>
#include <stdio.h>

#include "worker/base/json_out.h"
#include "worker/base/text.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/object_key.h"
#include "worker/pipeline/record.h"

/* More than one can be: decoding bounds the event's own texts, as the others are bounded. */
#define NOTICE_MAX ((size_t)32 << 10)
#define SCHEMA "urn:runsink:outcomes:1#/properties/data"

/* A place that is full or away for a moment is nobody's failure: nothing is said of the record that
 * waits for it, unless its delivery fails after that. */
const char *notice_what(const struct config *cfg, const struct record *record) {
    bool all = cfg->outcomes == CONFIG_OUTCOMES_ALL;
    switch (record->state) {
    case RECORD_OPEN:
        break;
    case RECORD_DELIVERED:
        return record->told ? "recovered" : all ? "delivered" : NULL;
    case RECORD_SKIPPED:
        return record->told || all ? "skipped" : NULL;
    case RECORD_PARKED:
        return record->told || record->outcome->fault == FAULT_NONE ? NULL : "failing";
    case RECORD_DEAD:
        return "dead";
    }
    return NULL;
}

/* ---- the CloudEvent ---- */

static void put_time(struct buf *b, const char *name, int64_t ms) {
    char text[UTC_TEXT + 4];
    bool known = ms > 0 && utc_text(ms / 1000, text);
    if (known) snprintf(text + strlen(text) - 1, 6, ".%03dZ", (int)(ms % 1000));
    out_string(b, name, known ? text : NULL);
}

/* The event's own texts, without its secrets. Those of others are not looked for: naming somebody's
 * id as a secret would hide it from the platform. */
static void put_run(struct buf *b, const struct str own[RUN_STATUS + 1]) {
    static const char *const names[] = {
        [RUN_ID] = "runId",     [RUN_WORKSPACE_ID] = "workspaceId", [RUN_PROJECT_ID] = "projectId",
        [RUN_JOB_ID] = "jobId", [RUN_UPDATED_AT] = "updatedAt",     [RUN_STATUS] = "status"};
    for (int i = RUN_ID; i <= RUN_STATUS; i++) out_str(b, names[i], own[i]);
}

/* A URI reference: "/runsink/GROUP/TOPIC". */
static void put_source(struct buf *b, const char *group, const char *topic) {
    struct buf text;
    buf_init(&text, sizeof "/runsink//" + 3 * GROUP_MAX + TOPIC_MAX);
    buf_puts(&text, "/runsink/");
    for (const char *c = group; *c; c++)
        buf_printf(&text, char_is_plain(*c) ? "%c" : "%%%02X", (unsigned char)*c);
    buf_printf(&text, "/%s", topic);
    out_str(b, "source", (struct str){text.p, text.n});
    buf_free(&text);
}

/* Where the record was read that has this outcome, which no other one has: the letter that is sent
 * back, or the record that is read again from a topic made anew, is another record. */
static void put_id(struct buf *b, const struct record *record, const char *what) {
    const struct partition *p = record->window->partition;
    char text[TOPIC_MAX + 96], era[24] = "";
    if (p->meta.era) snprintf(era, sizeof era, "@%" PRIu64, p->meta.era);
    snprintf(text, sizeof text, "%s%s/%" PRId32 "/%" PRId64 "/%s", p->topic, era, p->id,
             record->offset, what);
    out_string(b, "id", text);
}

/* Of a record that goes round, or dies, without a delivery: its headers have it. */
static void put_label(struct buf *b, const struct record *record) {
    struct window *w = record->window;
    struct message m;
    struct retry past = {0};
    const char *unused;
    const char *label = record->delivery ? record->delivery->label : NULL;
    if (!label && w->of_retries && record->message) {
        fetched_message(record->message, &w->arena, &m);
        if (retry_parse(m.headers, m.n_headers, &past, &unused) && past.destination[0])
            label = past.destination;
    }
    out_string(b, "destination", label);
}

static void put_place(struct buf *b, const struct record *record) {
    const struct delivery *d = record->delivery;
    out_open(b, "sink", '{');
    out_string(b, "type", record->sink ? sink_types[record->sink - 1]->name : NULL);
    put_label(b, record);
    out_string(b, "key", d ? d->key : NULL);
    out_close(b, '}');
}

static void put_why(struct buf *b, const struct outcome *o) {
    out_string(b, "reason", o->why[0] ? o->why : NULL);
    out_string(b, "detail", o->detail[0] ? o->detail : NULL);
    out_string(b, "fault", o->fault == FAULT_NONE ? NULL : fault_name(o->fault));
    if (o->status)
        out_int(b, "httpStatus", o->status);
    else
        out_raw(b, "httpStatus", STR("null"));
}

static void put_outcome(struct buf *b, const struct record *record) {
    const struct progress *g = record->progress;
    bool delivered = record->state == RECORD_DELIVERED;
    put_why(b, record->outcome);
    out_uint(b, "attempts", (uint64_t)g->attempts + delivered);
    put_time(b, "firstFailure", g->first_failure_ms);
    put_time(b, "nextAttempt", record->state == RECORD_PARKED ? g->due_ms : 0);
}

static void put_origin(struct buf *b, const struct origin *origin) {
    out_open(b, "event", '{');
    out_string(b, "topic", origin->topic);
    out_int(b, "partition", origin->partition);
    out_int(b, "offset", origin->offset);
    out_close(b, '}');
}

/* Those of the event's own texts that others may read. */
struct own {
    struct str v[RUN_STATUS + 1];
    struct hidden_text room[RUN_STATUS + 1];
};

static void read_own(struct own *own, const struct jobrun *run, const struct origin *origin) {
    *own = (struct own){0};
    for (int i = RUN_ID; run && i <= RUN_STATUS; i++)
        own->v[i] = object_key_text(run, (enum run_text)i, origin, &own->room[i]);
}

static struct origin origin_of(const struct window *w, const struct record *record) {
    struct origin origin = {.partition = record->from_partition, .offset = record->from_offset};
    snprintf(origin.topic, sizeof origin.topic, "%s", w->topic);
    return origin;
}

/* Up to the first member of `data`. */
static void begin(struct buf *b, const struct window *w, const struct record *record,
                  const char *type, struct str subject) {
    char whole[64];
    snprintf(whole, sizeof whole, "runsink.%s", type);
    buf_init(b, NOTICE_MAX);
    out_open(b, NULL, '{');
    out_string(b, "specversion", "1.0");
    put_id(b, record, type);
    put_source(b, w->lane->cfg->group, w->topic);
    out_string(b, "type", whole);
    if (subject.p) out_str(b, "subject", subject);
    put_time(b, "time", w->lane->wall_ms);
    out_string(b, "datacontenttype", "application/json");
    out_string(b, "dataschema", SCHEMA);
    out_open(b, "data", '{');
}

static const struct notice *finish(struct buf *b, struct window *w, struct str key) {
    struct notice *notice = arena_alloc(&w->arena, sizeof *notice);
    out_close(b, '}');
    out_close(b, '}');
    if (key.p) notice->key = (struct str){arena_strdup(&w->arena, key), key.n};
    notice->value = (struct str){arena_strdup(&w->arena, (struct str){b->p, b->n}), b->n};
    buf_free(b);
    return notice;
}

const struct notice *notice_make(struct window *w, const struct record *record, const char *what,
                                 const struct jobrun *run) {
    struct origin origin = origin_of(w, record);
    char type[48];
    struct own own;
    struct buf b;
    read_own(&own, run, &origin);
    snprintf(type, sizeof type, "delivery.%s", what);
    begin(&b, w, record, type, own.v[RUN_ID]);
    put_run(&b, own.v);
    put_origin(&b, &origin);
    put_place(&b, record);
    put_outcome(&b, record);
    return finish(&b, w, own.v[RUN_WORKSPACE_ID]);
}

const struct notice *notice_of_destination(struct window *w, const struct record *record,
                                           struct destination *dest, bool failing,
                                           const struct jobrun *run) {
    const struct lane *lane = w->lane;
    struct origin origin = origin_of(w, record);
    struct destination_health health;
    struct outcome none = {.why = ""};
    struct own own;
    struct buf b;
    read_own(&own, run, &origin);
    destination_health(dest, &health);
    begin(&b, w, record, failing ? "destination.failing" : "destination.recovered",
          str_c(dest->label));
    out_str(&b, "workspaceId", own.v[RUN_WORKSPACE_ID]);
    out_open(&b, "sink", '{');
    out_string(&b, "type", dest->type->name);
    out_string(&b, "destination", dest->label);
    out_close(&b, '}');
    put_why(&b, failing ? &health.last : &none);
    put_time(&b, "since",
             failing ? lane->wall_ms - (lane->now_ms - health.failing_since_ms) : lane->wall_ms);
    out_uint(&b, "waiting", backlog_count(destination_backlog(dest), lane->wall_ms));
    return finish(&b, w, own.v[RUN_WORKSPACE_ID]);
}
