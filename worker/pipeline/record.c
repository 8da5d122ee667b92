#include "worker/pipeline/record.h"

#include "worker/base/failures.h"
#include "worker/base/log.h"
#include "worker/pipeline/delivery.h"
#include "worker/pipeline/hold.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/notice.h"
#include "worker/pipeline/window.h"

#define LOG_TEXT_MAX 128

/* ---- outcomes ---- */

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
static void observe_age(struct lane *lane, const struct record *record) {
    int64_t at = record->timestamp_ms;
    if (at >= 0)
        observe_us(&lane->counters, HISTOGRAM_FRESHNESS, record->sink,
                   at < lane->wall_ms ? (lane->wall_ms - at) * 1000 : 0);
}

/* What could be decoded is decoded once more: events that are delivered pay nothing for it. */
static bool decode_again(const struct window *w, const struct record *record, struct arena *arena,
                         struct message *rec, struct jobrun *ret) {
    struct outcome unused;
    if (!record->payload.json.p || !record->message) return false;
    struct known_sinks known = router_known(w->lane->router);
    fetched_message(record->message, arena, rec);
    return jobrun_decode_known(rec, &known, arena, ret, &unused);
}

/* What is told needs the record's bytes, which go with its outcome. */
void record_tell(struct window *w, struct record *record) {
    const char *what = notice_what(w->lane->cfg, record);
    struct arena arena = {0};
    struct jobrun run;
    struct message rec;
    if (!what || !w->partition) return;
    bool decoded = decode_again(w, record, &arena, &rec, &run);
    record->notice = notice_make(w, record, what, decoded ? &run : NULL);
    record->told = record->told || record->state == RECORD_PARKED || record->state == RECORD_DEAD;
    window_hold_arena(w);
    arena_wipe(&arena);
}

const struct notice *record_news(struct window *w, const struct record *record,
                                 struct destination *dest, bool failing) {
    struct arena arena = {0};
    struct jobrun run;
    struct message rec;
    bool decoded = decode_again(w, record, &arena, &rec, &run);
    const struct notice *news =
        notice_of_destination(w, record, dest, failing, decoded ? &run : NULL);
    window_hold_arena(w);
    arena_wipe(&arena);
    return news;
}

/* Its message goes once the record was delivered or skipped. */
static void let_go(struct window *w, struct record *record) {
    bool over = record->state == RECORD_DELIVERED || record->state == RECORD_SKIPPED;
    if (!record->message || !over) return;
    window_hold(w, -(ptrdiff_t)record->bytes);
    fetched_free(record->message);
    record->message = NULL;
    record->payload = (struct payload){0}; /* borrowed from it */
}

void record_end(struct window *w, struct record *record, enum record_state state,
                const struct outcome *o) {
    static const enum counter dead[] = {[FAULT_NONE] = COUNTER_DEAD_SYSTEM,
                                        [FAULT_TENANT] = COUNTER_DEAD_TENANT,
                                        [FAULT_DATA] = COUNTER_DEAD_DATA,
                                        [FAULT_SYSTEM] = COUNTER_DEAD_SYSTEM};
    struct counters *c = &w->lane->counters;
    record->state = state;
    record->outcome = o;
    switch (state) {
    case RECORD_OPEN:
        break;
    case RECORD_DELIVERED:
        count_by(c, COUNTER_DELIVERED, record->sink, 1);
        observe_age(w->lane, record);
        break;
    case RECORD_SKIPPED:
        count(c, COUNTER_SKIPPED, !record->foreign);
        if (!record->foreign) count_by(c, skip_counter(o), record->sink, 1);
        break;
    case RECORD_PARKED:
        w->parked++;
        count_by(c, COUNTER_PARKED, record->sink, 1);
        if (w->unsettled) count(c, COUNTER_UNPARKED, 1);
        break;
    case RECORD_DEAD:
        count_by(c, record_is_held(record, o) ? COUNTER_DEAD_HELD : dead[o->fault], record->sink,
                 1);
        if (!record->delivery) count(c, failure_counter(o->why), !o->uncounted);
        break;
    }
    if (w->lane->cfg->outcomes != CONFIG_OUTCOMES_OFF && !record->foreign) record_tell(w, record);
    let_go(w, record);
    window_done(w);
}

bool record_is_held(const struct record *record, const struct outcome *o) {
    const struct delivery *d = record->delivery;
    return d && d->held && o->verdict == VERDICT_PERMANENT && o->fault == FAULT_TENANT;
}

/* One of the event's own texts as a log line may show it: cut, and neither a secret nor the
 * beginning of one. */
static const char *log_text(struct str text, bool hidden, char ret[LOG_TEXT_MAX]) {
    outcome_text(ret, LOG_TEXT_MAX, text);
    return hidden || secret_in(str_c(ret)) ? "[REDACTED]" : ret;
}

void record_workspace(const struct window *w, const struct record *record,
                      char ret[WORKSPACE_SHOWN], bool *ret_exact) {
    struct arena arena = {0};
    struct jobrun run;
    struct message rec;
    struct str id = STR("");
    bool hidden = false, decoded = decode_again(w, record, &arena, &rec, &run);
    if (decoded) {
        id = run.workspace_id;
        hidden = run.hidden & 1u << RUN_WORKSPACE_ID;
    } else if (record->message && record->workspace) {
        struct known_sinks known = router_known(w->lane->router);
        fetched_message(record->message, &arena, &rec);
        id = jobrun_whose_shown(&rec, &known, &arena, &hidden);
    }
    outcome_text(ret, WORKSPACE_SHOWN, id);
    hidden = hidden || secret_in(id) || secret_in(str_c(ret));
    *ret_exact = decoded && !hidden && id.n && str_is(id, ret);
    if (hidden) snprintf(ret, WORKSPACE_SHOWN, "[REDACTED]");
    arena_wipe(&arena);
}

void record_judge_hold(const struct window *w, struct record *record, const char *label) {
    const struct config *cfg = w->lane->cfg;
    struct arena arena = {0};
    struct jobrun run = {0};
    struct message rec;
    if (cfg->hold_workspaces.n) decode_again(w, record, &arena, &rec, &run);
    record->held = hold_names(cfg, run.workspace_id, label);
    arena_wipe(&arena);
}

void record_log(const struct window *w, const struct record *record, enum record_state state,
                uint32_t members, const struct outcome *o) {
    bool wrong = state == RECORD_DEAD && !record_is_held(record, o);
    enum log_level level = wrong ? LOG_WARN : LOG_DEBUG;
    if (!log_on(level)) return;
    const struct delivery *d = record->delivery;
    char workspace[LOG_TEXT_MAX] = "", job[LOG_TEXT_MAX] = "", id[LOG_TEXT_MAX] = "";
    const char *shown[3] = {"", "", ""};
    struct arena arena = {0};
    struct jobrun run;
    struct message rec;
    if (decode_again(w, record, &arena, &rec, &run)) {
        shown[0] = log_text(run.workspace_id, run.hidden & 1u << RUN_WORKSPACE_ID, workspace);
        shown[1] = log_text(run.job_id, run.hidden & 1u << RUN_JOB_ID, job);
        shown[2] = log_text(run.id, run.hidden & 1u << RUN_ID, id);
    }
    const struct log_line line = {
        state == RECORD_DEAD     ? "dead letter"
        : state == RECORD_PARKED ? "parked"
                                 : "delivered",
        {LOG_S("topic", w->topic), LOG_I("partition", record->from_partition),
         LOG_I("offset", record->from_offset), LOG_I("members", members),
         LOG_S("workspace", shown[0]), LOG_S("job", shown[1]), LOG_S("run", shown[2]),
         LOG_S("destination", d ? d->label : ""), LOG_S("fault", fault_name(o->fault)),
         LOG_S("why", o->why), LOG_I("status", o->status), LOG_S("detail", o->detail),
         LOG_I("attempts", record->progress->attempts)}};
    log_write(level, &line);
    arena_wipe(&arena);
}
