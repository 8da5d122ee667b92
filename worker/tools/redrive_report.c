#include "worker/tools/redrive_report.h"

#include <inttypes.h>
#include <time.h>
#include <unistd.h>

#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/base/nearby.h"
#include "worker/base/shown.h"

#define ROWS_SHOWN 200
#define TERMINAL_MS 250
#define LOG_MS 10000

/* ---- text ---- */

static void print_rows(FILE *f, const struct redrive_source *src) {
    const struct plan *p = &src->plan;
    uint64_t more = p->other;
    for (size_t i = 0; i < p->n_rows; i++) {
        const struct plan_row *r = &p->rows[i];
        if (i >= ROWS_SHOWN)
            more += r->n;
        else
            fprintf(f, "%9" PRIu64 "  %-20s %-7s %-24s %s\n", r->n, src->name, fault_name(r->fault),
                    SHOWN(r->reason), r->destination[0] ? SHOWN(r->destination) : "-");
    }
    if (more)
        fprintf(f, "%9" PRIu64 "  %-20s and what is not listed (--json lists more)\n", more,
                src->name);
}

static void print_note(FILE *f, uint64_t n, const char *text) {
    if (n) fprintf(f, "%9" PRIu64 "  %s\n", n, text);
}

/* Nothing is selected, and something is there: what it is, for who mistyped a name. */
static void print_passed(const struct redrive_report *r, const struct redrive_source *src,
                         size_t n) {
    struct nearby guess = {.typed = r->reason ? r->reason : ""};
    char near[NEARBY_TEXT];
    uint64_t all = 0;
    for (size_t i = 0; i < n; i++) {
        all += src[i].plan.passed_by;
        for (size_t k = 0; r->reason && k < src[i].plan.n_passed; k++)
            nearby_look(&guess, src[i].plan.passed[k].name);
    }
    if (!all) return;
    fprintf(r->out, "%9" PRIu64 "  other%s not selected%s\n", all,
            all == 1 ? " is open, and" : "s are open, and", nearby_text(&guess, near));
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < src[i].plan.n_passed; k++)
            fprintf(r->out, "%20" PRIu64 "  %-20s %s\n", src[i].plan.passed[k].n, src[i].name,
                    SHOWN(src[i].plan.passed[k].name));
}

static const char *what_for(enum plan_way way) {
    switch (way) {
    case PLAN_ATTEMPTS:
        return "to send back for new attempts";
    case PLAN_ORIGIN:
        return "to send back to their source topic, as new events";
    case PLAN_DISCARD:
        return "to discard";
    }
    return "";
}

void redrive_report_plan(struct redrive_report *r, const struct redrive_source *src, size_t n) {
    struct plan sum = {0};
    if (r->json) return;
    for (size_t i = 0; i < n; i++) sum.n += src[i].plan.n;
    if (sum.n)
        fprintf(r->out, "%9s  %-20s %-7s %-24s %s\n", "records", "topic", "fault", "reason",
                "destination");
    for (size_t i = 0; i < n; i++) {
        const struct plan *p = &src[i].plan;
        print_rows(r->out, &src[i]);
        sum.along += p->along;
        sum.incomplete += p->incomplete;
        sum.unreadable += p->unreadable;
        sum.redriven += p->redriven;
        sum.discarded += p->discarded;
        sum.foreign += p->foreign;
        sum.markers += p->markers;
        sum.too_large += p->too_large;
        if (p->last_problem) sum.last_problem = p->last_problem;
    }
    fprintf(r->out, "%9" PRIu64 "  dead letters %s\n", sum.n, what_for(r->way));
    if (!sum.n) print_passed(r, src, n);
    print_note(r->out, sum.along,
               "of them only because others of their batch match: a batch goes back whole");
    print_note(r->out, sum.incomplete,
               "more match and stay: their batch lacks members here, so that its object can't be "
               "written\n           again as it was (--to-origin sends them as new events)");
    print_note(r->out, sum.redriven, "others went back before");
    print_note(r->out, sum.discarded, "others were discarded before");
    print_note(r->out, sum.foreign, "others are another group's");
    print_note(r->out, sum.too_large,
               "others are larger than the topic takes where they would go: raise its\n"
               "           max.message.bytes (`runsink check` compares)");
    print_note(r->out, sum.markers,
               "others only stand for records that were too large for these topics: the records\n"
               "           themselves are where runsink-origin says");
    if (sum.unreadable)
        fprintf(r->out, "%9" PRIu64 "  others are not runsink's: %s\n", sum.unreadable,
                SHOWN(sum.last_problem));
}

/* ---- progress ---- */

void redrive_progress(struct redrive_report *r, const char *topic, const char *what, uint64_t n,
                      uint64_t of) {
    int64_t now = clock_ms(CLOCK_MONOTONIC);
    bool terminal = isatty(STDERR_FILENO);
    if (!r->shown_ms) r->shown_ms = now;
    if (now - r->shown_ms < (terminal ? TERMINAL_MS : LOG_MS)) return;
    r->shown_ms = now;
    if (terminal && of)
        fprintf(stderr, "\r%s: %" PRIu64 " of %" PRIu64 " %s\033[K", topic, n, of, what);
    else if (terminal)
        fprintf(stderr, "\r%s: %" PRIu64 " %s\033[K", topic, n, what);
    else
        log_info("redrive goes on", LOG_S("topic", topic), LOG_I(what, n), LOG_I("of", of));
}

void redrive_progress_end(struct redrive_report *r) {
    if (r->shown_ms && isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
    r->shown_ms = 0;
}

/* ---- the end ---- */

static void put_text(struct buf *b, const char *name, const char *text) {
    buf_printf(b, "\"%s\":\"", name);
    shown_json(b, str_c(text));
    buf_putc(b, '"');
}

static void put_source(struct buf *b, const struct redrive_source *src) {
    const struct plan *p = &src->plan;
    bool discard = src->sending.way == PLAN_DISCARD;
    buf_putc(b, '{');
    put_text(b, "topic", src->name);
    buf_printf(b,
               ",\"selected\":%" PRIu64 ",\"along\":%" PRIu64 ",\"incomplete\":%" PRIu64
               ",\"redriven_before\":%" PRIu64 ",\"discarded_before\":%" PRIu64
               ",\"other_groups\":%" PRIu64 ",\"unreadable\":%" PRIu64 ",\"sent\":%" PRIu64
               ",\"discarded\":%" PRIu64 ",\"transactions\":%" PRIu64 ",\"sent_elsewhere\":%" PRIu64
               ",\"not_listed\":%" PRIu64 ",\"rows\":[",
               p->n, p->along, p->incomplete, p->redriven, p->discarded, p->foreign, p->unreadable,
               discard ? 0 : src->sending.sent, discard ? src->sending.sent : 0,
               src->sending.transactions, src->sending.elsewhere, p->other);
    for (size_t i = 0; i < p->n_rows; i++) {
        const struct plan_row *r = &p->rows[i];
        buf_printf(b, "%s{\"fault\":\"%s\",", i ? "," : "", fault_name(r->fault));
        put_text(b, "reason", r->reason);
        buf_putc(b, ',');
        put_text(b, "destination", r->destination);
        buf_printf(b, ",\"records\":%" PRIu64 "}", r->n);
    }
    buf_puts(b, "],\"not_selected\":[");
    for (size_t i = 0; i < p->n_passed; i++) {
        buf_puts(b, i ? ",{" : "{");
        put_text(b, "reason", p->passed[i].name);
        buf_printf(b, ",\"records\":%" PRIu64 "}", p->passed[i].n);
    }
    buf_puts(b, "]}");
}

static void put_json(FILE *f, const struct redrive_source *src, size_t n, const char *result) {
    struct buf b;
    buf_init(&b, (size_t)1 << 30);
    buf_puts(&b, "{\"topics\":[");
    for (size_t i = 0; i < n; i++) {
        if (i) buf_putc(&b, ',');
        put_source(&b, &src[i]);
    }
    buf_puts(&b, "],");
    put_text(&b, "result", result);
    buf_puts(&b, "}\n");
    fwrite(b.p, 1, b.n, f);
    buf_free(&b);
}

void redrive_report_end(struct redrive_report *r, const struct redrive_source *src, size_t n) {
    uint64_t sent = 0, transactions = 0, elsewhere = 0, selected = 0;
    if (r->json) {
        put_json(r->out, src, n, r->result);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        sent += src[i].sending.sent;
        transactions += src[i].sending.transactions;
        elsewhere += src[i].sending.elsewhere;
        selected += src[i].plan.n;
    }
    if (transactions)
        fprintf(r->out, "%s %" PRIu64 " of %" PRIu64 " in %" PRIu64 " transaction%s\n",
                r->way == PLAN_DISCARD ? "discarded" : "sent", sent, selected, transactions,
                PLURAL(transactions));
    print_note(r->out, elsewhere, "were taken by another redrive meanwhile");
}
