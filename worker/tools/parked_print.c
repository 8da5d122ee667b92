/* The overview as text and as JSON. */
#include <inttypes.h>

#include "worker/base/failures.h"
#include "worker/base/json_out.h"
#include "worker/base/shown.h"
#include "worker/base/text.h"
#include "worker/tools/parked.h"

#define ROWS_SHOWN 50

static const char *time_text(int64_t ms, char text[UTC_TEXT]) {
    if (!ms || !utc_text(ms / 1000, text)) snprintf(text, UTC_TEXT, "-");
    return text;
}

static const char *wait_text(int64_t ms, char text[32]) {
    if (ms <= 0)
        snprintf(text, 32, "due");
    else
        snprintf(text, 32, "in %" PRId64 " s", (ms + 999) / 1000);
    return text;
}

static const char *by_name(enum overview_by by, enum overview_by usual) {
    switch (by == BY_DEFAULT ? usual : by) {
    case BY_WORKSPACE:
        return "workspace";
    case BY_REASON:
        return "reason";
    case BY_DEFAULT:
    case BY_DESTINATION:
        break;
    }
    return "destination";
}

/* The last column: what rows are of. By reason that stands there already, as it is; then it is the
 * reason that runsink_failures_total counts it under. */
static const char *last_head(enum overview_by by, enum overview_by usual) {
    return by == BY_REASON ? "counted as" : by_name(by, usual);
}

static const char *last_text(enum overview_by by, const char *name, const char *why) {
    return by == BY_REASON ? failure_reason(why) : name[0] ? name : "-";
}

/* The command that sends a row's letters back, or with --discard closes them. A text between stars
 * would stand for any. */
static bool put_command(struct buf *b, const struct overview *o, const struct dead_row *r) {
    const char *by = by_name(o->by, BY_REASON);
    char pattern[2 * DESTINATION_MAX] = "";
    if (!r->selects) return false;
    buf_puts(b, "runsink redrive");
    if (o->config) shown_word(b, " --config=", o->config);
    if (o->several) shown_word(b, " --topic=", r->source);
    buf_printf(b, " --fault=%s --%s", fault_name(r->fault), by);
    for (size_t i = 0, n = 0; r->name[i]; i++) {
        if (strcmp(by, "destination") == 0 && strchr("*\\", r->name[i])) pattern[n++] = '\\';
        pattern[n++] = r->name[i];
    }
    return shown_word(b, "=", pattern);
}

static void print_command(const struct overview *o, const struct dead_row *r, FILE *f) {
    struct buf b;
    buf_init(&b, 65536);
    if (o->by != BY_DEFAULT && put_command(&b, o, r)) fprintf(f, "             %s\n", buf_cstr(&b));
    buf_free(&b);
}

static void print_parked(const struct overview *o, int64_t now_ms, FILE *f) {
    char since[UTC_TEXT], due[32];
    fprintf(f, "\nparked, waiting for another attempt: %s%" PRIu64 "\n",
            o->more_waiting ? "at least " : "", o->waiting);
    if (!o->n_parked) return;
    fprintf(f, "  %9s  %-20s  %-9s  %-24s %s\n", "records", "failing since", "next", "why",
            last_head(o->by, BY_DESTINATION));
    for (size_t i = 0; i < o->n_parked && i < ROWS_SHOWN; i++) {
        const struct parked_row *r = &o->parked[i];
        fprintf(f, "  %9" PRIu64 "  %-20s  %-9s  %-24s %s\n", r->n, time_text(r->since_ms, since),
                wait_text(r->due_ms - now_ms, due), SHOWN(r->why),
                SHOWN(last_text(o->by, r->name, r->why)));
    }
    if (o->n_parked > ROWS_SHOWN)
        fprintf(f, "  and %zu more %ss (--json lists them)\n", o->n_parked - ROWS_SHOWN,
                by_name(o->by, BY_DESTINATION));
}

static void print_leftovers(const struct overview *o, FILE *f) {
    if (o->n_leftovers)
        fprintf(f, "\nretry topics whose delay is not in retry.delays any more: %zu\n",
                o->n_leftovers);
    for (size_t i = 0; i < o->n_leftovers; i++) {
        const struct leftover_row *r = &o->leftovers[i];
        fprintf(f, "  %s: ", r->topic);
        if (r->n || o->more_waiting)
            fprintf(f, "%s%" PRIu64 " records wait in it, and run reads them\n",
                    o->more_waiting ? "at least " : "", r->n);
        else
            fputs("empty for this group: delete it once no worker parks into it any more\n", f);
    }
}

static void print_dead(const struct overview *o, FILE *f) {
    char since[UTC_TEXT], last[UTC_TEXT];
    fprintf(
        f, "\ndead letters that lie open: %s%" PRIu64 "%s\n", o->more_died ? "at least " : "",
        o->died,
        o->uncertain
            ? ", or fewer: the ledger is too long to look for all that went back or were discarded"
            : "");
    if (!o->n_dead) return;
    fprintf(f, "  %9s  %-7s  %-24s  %-20s  %-20s  %s\n", "records", "fault", "reason", "first",
            "last", o->by == BY_DEFAULT ? "topic" : last_head(o->by, BY_REASON));
    for (size_t i = 0; i < o->n_dead && i < ROWS_SHOWN; i++) {
        const struct dead_row *r = &o->dead[i];
        fprintf(f, "  %9" PRIu64 "  %-7s  %-24s  %-20s  %-20s  %s\n", r->n, fault_name(r->fault),
                r->why[0] ? SHOWN(r->why) : "-", time_text(r->since_ms, since),
                time_text(r->last_ms, last),
                SHOWN(o->by == BY_DEFAULT ? r->source : last_text(o->by, r->name, r->why)));
        print_command(o, r, f);
    }
    if (o->n_dead > ROWS_SHOWN)
        fprintf(f, "  and %zu more %ss (--json lists them)\n", o->n_dead - ROWS_SHOWN,
                by_name(o->by, BY_REASON));
}

void overview_print(const struct overview *o, int64_t now_ms, FILE *f) {
    print_parked(o, now_ms, f);
    print_leftovers(o, f);
    print_dead(o, f);
    if (o->unreadable)
        fprintf(f, "%" PRIu64 " records of these topics are not runsink's\n", o->unreadable);
}

/* "destinations" */
static void open_rows(struct buf *b, enum overview_by by, enum overview_by usual) {
    char name[32];
    snprintf(name, sizeof name, "%ss", by_name(by, usual));
    out_open(b, name, '[');
}

static void put_parked(struct buf *b, const struct overview *o, const struct parked_row *r) {
    out_open(b, NULL, '{');
    out_shown(b, "topic", r->source);
    out_shown(b, by_name(o->by, BY_DESTINATION), r->name);
    out_shown(b, "why", r->why);
    if (o->by == BY_REASON) out_shown(b, "counted_as", failure_reason(r->why));
    out_uint(b, "records", r->n);
    out_int(b, "since", r->since_ms);
    out_int(b, "due", r->due_ms);
    out_close(b, '}');
}

static void put_dead(struct buf *b, const struct overview *o, const struct dead_row *r) {
    struct buf command;
    buf_init(&command, 65536);
    out_open(b, NULL, '{');
    out_shown(b, "topic", r->source);
    out_shown(b, "fault", fault_name(r->fault));
    out_shown(b, by_name(o->by, BY_REASON), r->name);
    if (o->by != BY_DEFAULT && o->by != BY_REASON) out_shown(b, "why", r->why);
    if (o->by == BY_REASON) out_shown(b, "counted_as", failure_reason(r->why));
    if (o->by != BY_DEFAULT && put_command(&command, o, r))
        out_shown(b, "redrive", buf_cstr(&command));
    out_uint(b, "records", r->n);
    out_int(b, "first", r->since_ms);
    out_int(b, "last", r->last_ms);
    out_close(b, '}');
    buf_free(&command);
}

void overview_json(const struct overview *o, struct buf *b) {
    out_open(b, "parked", '{');
    out_uint(b, "records", o->waiting);
    out_bool(b, "more", o->more_waiting);
    open_rows(b, o->by, BY_DESTINATION);
    for (size_t i = 0; i < o->n_parked; i++) put_parked(b, o, &o->parked[i]);
    out_close(b, ']');
    out_open(b, "leftovers", '[');
    for (size_t i = 0; i < o->n_leftovers; i++) {
        out_open(b, NULL, '{');
        out_shown(b, "topic", o->leftovers[i].topic);
        out_uint(b, "records", o->leftovers[i].n);
        out_close(b, '}');
    }
    out_close(b, ']');
    out_close(b, '}');
    out_open(b, "dead", '{');
    out_uint(b, "records", o->died);
    out_bool(b, "more", o->more_died);
    out_bool(b, "some_may_have_gone_back", o->uncertain);
    open_rows(b, o->by, BY_REASON);
    for (size_t i = 0; i < o->n_dead; i++) put_dead(b, o, &o->dead[i]);
    out_close(b, ']');
    out_close(b, '}');
    out_uint(b, "unreadable", o->unreadable);
}
