/* The overview as text and as JSON. */
#include <inttypes.h>
#include <time.h>

#include "worker/parked.h"
#include "worker/shown.h"

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

static void print_parked(const struct overview *o, int64_t now_ms, FILE *f) {
    char since[32], due[32];
    fprintf(f, "\nparked, waiting for another attempt: %s%" PRIu64 "\n",
            o->more_waiting ? "at least " : "", o->waiting);
    if (!o->n_parked) return;
    fprintf(f, "  %9s  %-20s  %-9s  %-24s %s\n", "records", "failing since", "next", "why",
            "destination");
    for (size_t i = 0; i < o->n_parked && i < ROWS_SHOWN; i++) {
        const struct parked_row *r = &o->parked[i];
        fprintf(f, "  %9" PRIu64 "  %-20s  %-9s  %-24s %s\n", r->n, time_text(r->since_ms, since),
                wait_text(r->due_ms - now_ms, due), SHOWN(r->why),
                r->destination[0] ? SHOWN(r->destination) : "-");
    }
    if (o->n_parked > ROWS_SHOWN)
        fprintf(f, "  and %zu more destinations (--json lists them)\n", o->n_parked - ROWS_SHOWN);
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
            "last", "topic");
    for (size_t i = 0; i < o->n_dead && i < ROWS_SHOWN; i++) {
        const struct dead_row *r = &o->dead[i];
        fprintf(f, "  %9" PRIu64 "  %-7s  %-24s  %-20s  %-20s  %s\n", r->n, fault_name(r->fault),
                r->reason[0] ? SHOWN(r->reason) : "-", time_text(r->since_ms, since),
                time_text(r->last_ms, last), SHOWN(r->source));
    }
    if (o->n_dead > ROWS_SHOWN)
        fprintf(f, "  and %zu more reasons (--json lists them)\n", o->n_dead - ROWS_SHOWN);
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

void overview_json(const struct overview *o, struct buf *b) {
    buf_printf(b, "\"parked\":{\"records\":%" PRIu64 ",\"more\":%s,\"destinations\":[", o->waiting,
               yes_no(o->more_waiting));
    for (size_t i = 0; i < o->n_parked; i++) {
        const struct parked_row *r = &o->parked[i];
        buf_puts(b, i ? ",{" : "{");
        put_text(b, "topic", r->source);
        put_text(b, "destination", r->destination);
        put_text(b, "why", r->why);
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
               ",\"more\":%s,\"some_may_have_gone_back\":%s,\"reasons\":[",
               o->died, yes_no(o->more_died), yes_no(o->uncertain));
    for (size_t i = 0; i < o->n_dead; i++) {
        const struct dead_row *r = &o->dead[i];
        buf_puts(b, i ? ",{" : "{");
        put_text(b, "topic", r->source);
        put_text(b, "fault", fault_name(r->fault));
        put_text(b, "reason", r->reason);
        buf_printf(b, "\"records\":%" PRIu64 ",\"first\":%" PRId64 ",\"last\":%" PRId64 "}", r->n,
                   r->since_ms, r->last_ms);
    }
    buf_printf(b, "]},\"unreadable\":%" PRIu64, o->unreadable);
}
