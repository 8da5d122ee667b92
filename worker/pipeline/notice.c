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

static void put_outcome(struct buf *b, const struct record *record) {
    const struct outcome *o = record->outcome;
    const struct progress *g = record->progress;
    bool delivered = record->state == RECORD_DELIVERED;
    out_string(b, "reason", o->why[0] ? o->why : NULL);
    out_string(b, "detail", o->detail[0] ? o->detail : NULL);
    out_string(b, "fault", o->fault == FAULT_NONE ? NULL : fault_name(o->fault));
    if (o->status)
        out_int(b, "httpStatus", o->status);
    else
        out_raw(b, "httpStatus", STR("null"));
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

const struct notice *notice_make(struct window *w, const struct record *record, const char *what,
                                 const struct jobrun *run) {
    struct notice *notice = arena_alloc(&w->arena, sizeof *notice);
    struct origin origin = {.partition = record->from_partition, .offset = record->from_offset};
    char type[48];
    struct str own[RUN_STATUS + 1] = {{NULL, 0}};
    struct hidden_text room[RUN_STATUS + 1];
    struct buf b;
    snprintf(origin.topic, sizeof origin.topic, "%s", w->topic);
    for (int i = RUN_ID; run && i <= RUN_STATUS; i++)
        own[i] = object_key_text(run, (enum run_text)i, &origin, &room[i]);
    snprintf(type, sizeof type, "runsink.delivery.%s", what);
    buf_init(&b, NOTICE_MAX);
    out_open(&b, NULL, '{');
    out_string(&b, "specversion", "1.0");
    put_id(&b, record, what);
    put_source(&b, w->lane->cfg->group, w->topic);
    out_string(&b, "type", type);
    if (own[RUN_ID].p) out_str(&b, "subject", own[RUN_ID]);
    put_time(&b, "time", w->lane->wall_ms);
    out_string(&b, "datacontenttype", "application/json");
    out_string(&b, "dataschema", SCHEMA);
    out_open(&b, "data", '{');
    put_run(&b, own);
    put_origin(&b, &origin);
    put_place(&b, record);
    put_outcome(&b, record);
    out_close(&b, '}');
    out_close(&b, '}');
    struct str key = own[RUN_WORKSPACE_ID];
    if (key.p) notice->key = (struct str){arena_strdup(&w->arena, key), key.n};
    notice->value = (struct str){arena_strdup(&w->arena, (struct str){b.p, b.n}), b.n};
    buf_free(&b);
    return notice;
}
