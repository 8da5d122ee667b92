/* The overview as text and as JSON. */
#include <inttypes.h>
#include <time.h>

#include "worker/base/failures.h"
#include "worker/base/shown.h"
#include "worker/tools/parked.h"

#define ROWS_SHOWN 50

static const char *time_text(int64_t ms, char text[32]) {
    time_t s = (time_t)(ms / 1000);
    struct tm tm;
    if (!ms || !gmtime_r(&s, &tm) || !strftime(text, 32, "%Y-%m-%dT%H:%M:%SZ", &tm))
        snprintf(text, 32, "-");
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
    char since[32], due[32];
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
    char since[32], last[32];
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

static void put_text(struct buf *b, const char *name, const char *text) {
    buf_printf(b, "\"%s\":\"", name);
    shown_json(b, str_c(text));
    buf_puts(b, "\",");
}

static const char *yes_no(bool yes) {
    return yes ? "true" : "false";
}

static void put_redrive(struct buf *b, const struct overview *o, const struct dead_row *r) {
    struct buf command;
    buf_init(&command, 65536);
    if (o->by != BY_DEFAULT && put_command(&command, o, r))
        put_text(b, "redrive", buf_cstr(&command));
    buf_free(&command);
}

void overview_json(const struct overview *o, struct buf *b) {
    buf_printf(b, "\"parked\":{\"records\":%" PRIu64 ",\"more\":%s,\"%ss\":[", o->waiting,
               yes_no(o->more_waiting), by_name(o->by, BY_DESTINATION));
    for (size_t i = 0; i < o->n_parked; i++) {
        const struct parked_row *r = &o->parked[i];
        buf_puts(b, i ? ",{" : "{");
        put_text(b, "topic", r->source);
        put_text(b, by_name(o->by, BY_DESTINATION), r->name);
        put_text(b, "why", r->why);
        if (o->by == BY_REASON) put_text(b, "counted_as", failure_reason(r->why));
        buf_printf(b, "\"records\":%" PRIu64 ",\"since\":%" PRId64 ",\"due\":%" PRId64 "}", r->n,
                   r->since_ms, r->due_ms);
    }
    buf_puts(b, "],\"leftovers\":[");
    for (size_t i = 0; i < o->n_leftovers; i++) {
        buf_puts(b, i ? ",{" : "{");
        put_text(b, "topic", o->leftovers[i].topic);
        buf_printf(b, "\"records\":%" PRIu64 "}", o->leftovers[i].n);
    }
    buf_printf(b,
               "]},\"dead\":{\"records\":%" PRIu64
               ",\"more\":%s,\"some_may_have_gone_back\":%s,\"%ss\":[",
               o->died, yes_no(o->more_died), yes_no(o->uncertain), by_name(o->by, BY_REASON));
    for (size_t i = 0; i < o->n_dead; i++) {
        const struct dead_row *r = &o->dead[i];
        buf_puts(b, i ? ",{" : "{");
        put_text(b, "topic", r->source);
        put_text(b, "fault", fault_name(r->fault));
        put_text(b, by_name(o->by, BY_REASON), r->name);
        if (o->by != BY_DEFAULT && o->by != BY_REASON) put_text(b, "why", r->why);
        if (o->by == BY_REASON) put_text(b, "counted_as", failure_reason(r->why));
        put_redrive(b, o, r);
        buf_printf(b, "\"records\":%" PRIu64 ",\"first\":%" PRId64 ",\"last\":%" PRId64 "}", r->n,
                   r->since_ms, r->last_ms);
    }
    buf_printf(b, "]},\"unreadable\":%" PRIu64, o->unreadable);
}
