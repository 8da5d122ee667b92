/* `runsink redrive`: dead letters go back, or are discarded. Options, the count, the question, and
 * the order of things. */
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>
#include <unistd.h>

#include "worker/base/clock.h"
#include "worker/base/json_out.h"
#include "worker/base/log.h"
#include "worker/base/nearby.h"
#include "worker/base/shown.h"
#include "worker/base/text.h"
#include "worker/kafka/client.h"
#include "worker/kafka/reader.h"
#include "worker/kafka/topic_settings.h"
#include "worker/tools/command.h"
#include "worker/tools/interrupt.h"
#include "worker/tools/redrive_anchor.h"
#include "worker/tools/redrive_send.h"

#define BROKER_TIMEOUT_MS 30000
#define LOOK_EVERY 256 /* records between two looks at the clock */
#define WORDS_MAX 200  /* bytes of --why and of --who */

#define ROWS_SHOWN 200
#define TERMINAL_MS 250
#define LOG_MS 10000

/* One source topic. */
struct source {
    int64_t largest; /* bytes that the topic where letters go takes; 0: not known */
    char *name;
    int partitions[FAULTS]; /* of its dead topics */
    uint64_t hidden;        /* so many of these can't be read to their ends now */
    struct plan plan;
    struct sending sending;
};

struct report {
    FILE *out;
    bool json;
    enum plan_way way;
    const char *reason; /* that was asked for; NULL: any */
    const char *result; /* a phrase, for scripts */
    size_t at;          /* the source at hand */
    int64_t shown_ms;   /* progress: when last; 0: never */
};

/* ---- text ---- */

static void print_rows(FILE *f, const struct source *src) {
    const struct plan *p = &src->plan;
    uint64_t more = p->other;
    for (size_t i = 0; i < p->n_rows; i++) {
        const struct plan_row *r = p->rows[i];
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
static void print_passed(const struct report *r, const struct source *src, size_t n) {
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

static void report_plan(struct report *r, const struct source *src, size_t n) {
    struct plan sum = {0};
    uint64_t hidden = 0;
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
        hidden += src[i].hidden;
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
    print_note(r->out, hidden,
               "partitions of dead topics have more, perhaps, behind a transaction that is open:\n"
               "           run it again once that has ended");
    if (sum.unreadable)
        fprintf(r->out, "%9" PRIu64 "  others are not runsink's: %s\n", sum.unreadable,
                SHOWN(sum.last_problem));
}

/* ---- progress ---- */

static void progress(struct report *r, const char *topic, const char *what, uint64_t n,
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

static void progress_end(struct report *r) {
    if (r->shown_ms && isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
    r->shown_ms = 0;
}

/* ---- the end ---- */

static void put_rows(struct buf *b, const struct plan *p) {
    out_open(b, "rows", '[');
    for (size_t i = 0; i < p->n_rows; i++) {
        const struct plan_row *r = p->rows[i];
        out_open(b, NULL, '{');
        out_string(b, "fault", fault_name(r->fault));
        out_shown(b, "reason", r->reason);
        out_shown(b, "destination", r->destination);
        out_uint(b, "records", r->n);
        out_close(b, '}');
    }
    out_close(b, ']');
    out_open(b, "not_selected", '[');
    for (size_t i = 0; i < p->n_passed; i++) {
        out_open(b, NULL, '{');
        out_shown(b, "reason", p->passed[i].name);
        out_uint(b, "records", p->passed[i].n);
        out_close(b, '}');
    }
    out_close(b, ']');
}

static void put_source(struct buf *b, const struct source *src) {
    const struct plan *p = &src->plan;
    bool discard = src->sending.way == PLAN_DISCARD;
    out_open(b, NULL, '{');
    out_shown(b, "topic", src->name);
    out_uint(b, "selected", p->n);
    out_uint(b, "along", p->along);
    out_uint(b, "incomplete", p->incomplete);
    out_uint(b, "redriven_before", p->redriven);
    out_uint(b, "discarded_before", p->discarded);
    out_uint(b, "other_groups", p->foreign);
    out_uint(b, "unreadable", p->unreadable);
    out_uint(b, "hidden_partitions", src->hidden);
    out_uint(b, "sent", discard ? 0 : src->sending.sent);
    out_uint(b, "discarded", discard ? src->sending.sent : 0);
    out_uint(b, "undecided", src->sending.undecided);
    out_uint(b, "transactions", src->sending.transactions);
    out_uint(b, "sent_elsewhere", src->sending.elsewhere);
    out_uint(b, "not_listed", p->other);
    put_rows(b, p);
    out_close(b, '}');
}

static void put_json(FILE *f, const struct source *src, size_t n, const char *result) {
    struct buf b;
    buf_init(&b, (size_t)1 << 30);
    out_open(&b, NULL, '{');
    out_open(&b, "topics", '[');
    for (size_t i = 0; i < n; i++) put_source(&b, &src[i]);
    out_close(&b, ']');
    out_shown(&b, "result", result);
    out_close(&b, '}');
    buf_putc(&b, '\n');
    fwrite(b.p, 1, b.n, f);
    buf_free(&b);
}

static void report_end(struct report *r, const struct source *src, size_t n) {
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

/* ---- the command ---- */

struct redrive {
    struct config *cfg;
    struct redrive_filter filter;
    const char *topic; /* NULL: the configured ones */
    enum plan_way way;
    bool to_origin, discard, dry_run, yes;
    const char *why, *who; /* of --discard */
    char self[WORDS_MAX + 1];
    int64_t rate;
    rd_kafka_t *rk;
    struct ledger_signer *signer;
    char cluster[CLUSTER_MAX + 1];
    struct ledger_maker maker;
    struct topic_list all;
    struct source *sources;
    size_t n;
    struct report report;
    struct buf err;
};

static int fail(struct redrive *r, int code) {
    progress_end(&r->report);
    command_error("redrive", &r->err);
    return code;
}

/* ---- what there is ---- */

/* What the topic takes at most. A letter that it refused would abort the transaction of many. */
static int64_t largest_of(struct redrive *r, const char *topic) {
    struct topic one = {.name = (char *)(uintptr_t)topic, .partitions = 1};
    struct topic_list l = {&one, 1};
    struct topic_settings s = {0};
    struct buf unused;
    buf_init(&unused, 4096);
    bool known =
        topic_settings_ask(r->rk, &l, BROKER_TIMEOUT_MS, interrupted, &s, &unused) && s.known;
    buf_free(&unused);
    return known ? s.max_message_bytes : 0;
}

static bool find_topics(struct redrive *r, struct source *src) {
    char name[TOPIC_MAX + 1];
    struct sending *in = &src->sending;
    in->source = src->name;
    for (int f = FAULT_TENANT; f < FAULTS; f++) {
        const struct topic *dead =
            topic_dead(src->name, (enum fault)f, name) ? topic_find(&r->all, name) : NULL;
        src->partitions[f] = dead ? dead->partitions : 0;
    }
    const struct topic *t =
        topic_ledger(src->name, in->ledger) ? topic_find(&r->all, in->ledger) : NULL;
    if (!t || !t->partitions) {
        buf_printf(&r->err, "there is no topic %s.ledger: has `runsink run` ever consumed %s?",
                   src->name, src->name);
        return false;
    }
    in->ledger_partitions = t->partitions;
    in->ledger_at = xcalloc((size_t)t->partitions, sizeof *in->ledger_at);
    if (r->way == PLAN_DISCARD) return true;
    bool origin = r->way == PLAN_ORIGIN;
    bool legal = origin || topic_retry(src->name, r->cfg->retry_delays.v[0], in->retry);
    const char *to = origin ? src->name : in->retry;
    t = legal ? topic_find(&r->all, to) : NULL;
    src->largest = largest_of(r, to);
    if (t && t->partitions) return true;
    buf_printf(&r->err, "there is no topic %s, where dead letters would go back to%s", to,
               origin ? "" : ": is retry.delays as it is for `runsink run`?");
    return false;
}

static bool list_sources(struct redrive *r) {
    struct topic_list l = {0};
    if (!topics_list(r->rk, BROKER_TIMEOUT_MS, interrupted, &r->all, &r->err)) return false;
    if (!topics_choose(r->cfg, r->topic, &r->all, &l, &r->err)) return false;
    client_cluster(r->rk, BROKER_TIMEOUT_MS, r->cluster);
    r->maker = (struct ledger_maker){r->cluster, r->cfg->rules};
    r->sources = xcalloc(l.n, sizeof *r->sources);
    for (; r->n < l.n; r->n++) {
        struct source *src = &r->sources[r->n];
        src->name = l.v[r->n].name;
        l.v[r->n].name = NULL;
    }
    topic_list_free(&l);
    return true;
}

/* ---- the count ---- */

static void count_letter(struct source *src, const struct plan_rules *rules,
                         const rd_kafka_message_t *m) {
    struct letter place = {.fault = topic_dead_fault(rd_kafka_topic_name(m->rkt)),
                           .partition = m->partition,
                           .offset = m->offset};
    struct arena arena = {0};
    struct message rec;
    reader_record(m, &arena, &rec);
    plan_record(&src->plan, rules, place, &rec, m->key_len);
    arena_free(&arena);
}

static enum send_end count_source(struct redrive *r, struct source *src) {
    struct sending *in = &src->sending;
    in->chains = chains_new(src->name, r->cfg->group, src->partitions);
    if (r->cfg->ledger_form == 2) chains_made_by(in->chains, &r->maker);
    plan_init(&src->plan, src->partitions, r->way);
    enum send_end end = redrive_read_ledger(in, NULL, &r->err);
    if (end != SEND_DONE) return end;
    const struct plan_rules rules = {.source = src->name,
                                     .group = r->cfg->group,
                                     .chains = in->chains,
                                     .filter = &r->filter,
                                     .largest = src->largest};
    struct reader *reader = reader_new(r->rk, READER_ANY);
    rd_kafka_message_t *m;
    uint64_t n = 0;
    char name[TOPIC_MAX + 1];
    for (int f = FAULT_TENANT; f < FAULTS; f++)
        for (int i = 0; i < src->partitions[f]; i++)
            if (topic_dead(src->name, (enum fault)f, name))
                reader_add(reader, name, i, RD_KAFKA_OFFSET_BEGINNING, READER_END);
    reader_stop_when(reader, interrupt_stops, NULL);
    while ((m = reader_next(reader, 0, &r->err))) {
        count_letter(src, &rules, m);
        rd_kafka_message_destroy(m);
        if (++n % LOOK_EVERY == 0) progress(&r->report, src->name, "read", n, 0);
    }
    end = redrive_end(reader);
    src->hidden = reader_hidden(reader);
    reader_free(reader);
    plan_finish(&src->plan);
    return end;
}

/* ---- sending ---- */

static void show_sent(void *context, uint64_t sent) {
    struct redrive *r = context;
    const struct source *src = &r->sources[r->report.at];
    progress(&r->report, src->name, r->way == PLAN_DISCARD ? "discarded" : "sent", sent,
             src->plan.n);
}

/* It has happened, anchored or not. */
static void anchor(struct redrive *r, const struct source *src) {
    struct buf err;
    if (!r->cfg->anchor_bucket[0] || !r->signer || !src->sending.transactions) return;
    buf_init(&err, 4096);
    if (!redrive_anchor(r->cfg, src->sending.chains, r->signer, interrupted, &err))
        log_warn(
            "the entries of this redrive could not be anchored: until the next one has anchored "
            "its own, only the committed state shows that none is missing",
            LOG_S("topic", src->name), LOG_MESSAGE(&err));
    buf_free(&err);
}

static enum send_end send_source(struct redrive *r, struct source *src) {
    struct sending *in = &src->sending;
    in->cfg = r->cfg;
    in->signer = r->signer;
    in->plan = &src->plan;
    in->why = r->why;
    in->who = r->who;
    in->rate = r->rate;
    in->progress = show_sent;
    enum send_end end = redrive_send(in, &r->err);
    progress_end(&r->report);
    anchor(r, src);
    if (r->way == PLAN_DISCARD)
        log_info("discarded", LOG_S("topic", src->name), LOG_I("letters", in->sent),
                 LOG_I("selected", src->plan.n), LOG_I("transactions", in->transactions),
                 LOG_S("who", r->who), LOG_S("why", r->why));
    else
        log_info("redriven", LOG_S("topic", src->name), LOG_I("sent", in->sent),
                 LOG_I("selected", src->plan.n), LOG_I("transactions", in->transactions));
    return end;
}

/* The broker did not say how the last transaction ended. The next redrive finds out. */
static void say_undecided(struct redrive *r) {
    uint64_t n = 0;
    for (size_t i = 0; i < r->n; i++) n += r->sources[i].sending.undecided;
    if (n)
        buf_printf(&r->err, "; it is not known whether %" PRIu64 " more %s", n,
                   r->way == PLAN_DISCARD ? "were discarded" : "were sent");
}

/* An exit code, after having said what is wrong; EX_OK: go on. */
static int exit_code(struct redrive *r, enum send_end end, const char *source) {
    switch (end) {
    case SEND_DONE:
        return EX_OK;
    case SEND_STOPPED:
        buf_clear(&r->err);
        buf_puts(&r->err, "interrupted");
        say_undecided(r);
        buf_puts(&r->err, ": run it again to go on, nothing is done twice");
        r->report.result = "interrupted";
        return fail(r, EX_TEMPFAIL);
    case SEND_FENCED:
        buf_clear(&r->err);
        buf_printf(&r->err, "another redrive of %s has begun and goes on with the rest", source);
        r->report.result = "overtaken";
        return fail(r, EX_TEMPFAIL);
    case SEND_FAILED:
        say_undecided(r);
        buf_puts(&r->err, ": run it again to go on, nothing is done twice");
        r->report.result = "failed";
        return fail(r, EX_UNAVAILABLE);
    case SEND_REFUSED:
        r->report.result = "failed";
        return fail(r, EX_DATAERR);
    }
    return EX_SOFTWARE;
}

/* A terminal is asked; elsewhere --yes must have been given. */
static int confirm(struct redrive *r, uint64_t n) {
    const char *done = r->way == PLAN_DISCARD ? "discarded" : "sent";
    r->report.result = "not confirmed";
    if (!isatty(STDIN_FILENO)) {
        buf_printf(&r->err, "nothing was %s: give --yes to do it, or --dry-run to count only",
                   done);
        return fail(r, EX_USAGE);
    }
    char question[128];
    if (r->way == PLAN_DISCARD)
        snprintf(question, sizeof question,
                 "Discard %" PRIu64 " dead letter%s? They will never go back. [y/N] ", n,
                 PLURAL(n));
    else
        snprintf(question, sizeof question, "Send %" PRIu64 " dead letter%s back? [y/N] ", n,
                 PLURAL(n));
    if (interrupt_ask(question)) return EX_OK;
    buf_printf(&r->err, "nothing was %s", done);
    return fail(r, EX_USAGE);
}

static int count_all(struct redrive *r, uint64_t *ret_n) {
    for (size_t i = 0; i < r->n; i++) {
        struct source *src = &r->sources[i];
        src->sending.rk = r->rk;
        src->sending.way = r->way;
        src->sending.told = interrupted;
        src->sending.stop = interrupt_stops;
        src->sending.wait = interrupt_wait;
        src->sending.context = r;
        if (!find_topics(r, src)) return fail(r, EX_CONFIG);
        int rc = exit_code(r, count_source(r, src), src->name);
        if (rc != EX_OK) return rc;
        *ret_n += src->plan.n;
    }
    progress_end(&r->report);
    return EX_OK;
}

static int send_all(struct redrive *r) {
    if (r->cfg->ledger_key[0]) {
        r->signer = ledger_signer_load(r->cfg->ledger_key, &r->err);
        if (!r->signer || (r->cfg->ledger_key_previous[0] &&
                           !ledger_signer_rotate(r->signer, r->cfg->ledger_key_previous, &r->err)))
            return fail(r, EX_CONFIG);
    }
    for (size_t i = 0; i < r->n; i++) {
        if (!r->sources[i].plan.n) continue;
        r->report.at = i;
        int rc = exit_code(r, send_source(r, &r->sources[i]), r->sources[i].name);
        if (rc != EX_OK) return rc;
    }
    r->report.result = "done";
    return EX_OK;
}

static int go(struct redrive *r) {
    uint64_t n = 0;
    r->report.result = "failed";
    r->rk = reader_consumer(r->cfg, r->cfg->group, &r->err);
    if (!r->rk) return fail(r, EX_CONFIG);
    if (!list_sources(r))
        return interrupted() ? exit_code(r, SEND_STOPPED, NULL) : fail(r, EX_UNAVAILABLE);
    if (!r->n) return command_usage("redrive", "give --topic, or configure `topics`");
    if (r->n > 1 && r->filter.partition >= 0)
        return command_usage("redrive", "--offset needs --topic: several topics are configured");
    int rc = count_all(r, &n);
    if (rc != EX_OK) return rc;
    report_plan(&r->report, r->sources, r->n);
    r->report.result = n ? "counted" : "nothing to do";
    if (!n || r->dry_run) return EX_OK;
    if (!r->yes && (rc = confirm(r, n)) != EX_OK) return rc;
    return send_all(r);
}

/* ---- options ---- */

static bool read_fault(const char *text, void *to, struct buf *err) {
    (void)err;
    for (int f = FAULT_TENANT; f < FAULTS; f++)
        if (strcmp(text, fault_name((enum fault)f)) == 0) return *(enum fault *)to = f, true;
    return false;
}

static bool read_offsets(const char *text, void *to, struct buf *err) {
    (void)err;
    return filter_offsets(text, to);
}

/* One line: it stands in the ledger for good. */
static bool is_line(const char *text) {
    struct str line = str_c(text);
    return line.n > 0 && line.n <= WORDS_MAX && utf8_is_line(line);
}

/* sudo's user is the person, whoever the process runs as. */
static const char *own_name(struct redrive *r) {
    struct passwd entry, *found = NULL;
    char room[4096];
    const char *sudo = getenv("SUDO_USER");
    if (sudo && is_line(sudo)) return sudo;
    if (getpwuid_r(geteuid(), &entry, room, sizeof room, &found) != 0 || !found) return NULL;
    if (!is_line(found->pw_name)) return NULL;
    snprintf(r->self, sizeof r->self, "%s", found->pw_name);
    return r->self;
}

static int discard_options(struct redrive *r) {
    if (!r->discard && (r->why || r->who))
        return command_usage("redrive", "--why and --who belong to --discard");
    if (!r->discard) return EX_OK;
    if (r->to_origin)
        return command_usage("redrive", "--discard and --to-origin exclude each other");
    if (!r->why) return command_usage("redrive", "--discard needs --why: the ledger keeps it");
    if (!r->who && !(r->who = own_name(r)))
        return command_usage("redrive", "--discard needs --who: this user has no name here");
    if (!is_line(r->why) || !is_line(r->who))
        return command_usage("redrive", "--why and --who: one line of UTF-8, 1 to %d bytes each",
                             WORDS_MAX);
    return EX_OK;
}

static int read_options(struct redrive *r, int argc, char **argv) {
    struct redrive_filter *f = &r->filter;
    const struct command_option options[] = {
        {"--fault", .read = read_fault, .to = &f->fault, .takes = "tenant, data or system"},
        {"--reason", .text = &f->reason},
        {"--destination", .text = &f->destination},
        {"--workspace", .text = &f->workspace},
        {"--id", .text = &f->id},
        {"--from", .read = command_time, .to = &f->from_ms, .takes = COMMAND_TIME},
        {"--to", .read = command_time, .to = &f->to_ms, .takes = COMMAND_TIME},
        {"--offset", .read = read_offsets, .to = f, .takes = "PARTITION:FIRST-LAST"},
        {"--topic", .text = &r->topic},
        {"--to-origin", .flag = &r->to_origin},
        {"--discard", .flag = &r->discard},
        {"--why", .text = &r->why},
        {"--who", .text = &r->who},
        {"--rate", .read = command_rate, .to = &r->rate, .takes = COMMAND_RATE},
        {"--dry-run", .flag = &r->dry_run},
        {"--yes", .flag = &r->yes},
        {"--json", .flag = &r->report.json},
    };
    int rc =
        command_options("redrive", options, sizeof options / sizeof *options, argc, argv, NULL);
    if (rc != EX_OK) return rc;
    if (r->filter.partition >= 0 && r->filter.fault == FAULT_NONE)
        return command_usage("redrive", "--offset needs --fault, which names the dead topic");
    if (r->topic && topic_kind(r->topic, NULL) != TOPIC_SOURCE)
        return command_usage("redrive", "--topic is the source topic, as in `topics`");
    r->way = r->discard ? PLAN_DISCARD : r->to_origin ? PLAN_ORIGIN : PLAN_ATTEMPTS;
    r->report.way = r->way;
    r->report.reason = r->filter.reason;
    return discard_options(r);
}

static void redrive_free(struct redrive *r) {
    for (size_t i = 0; i < r->n; i++) {
        struct source *src = &r->sources[i];
        free(src->sending.ledger_at);
        chains_free(src->sending.chains);
        plan_free(&src->plan);
        free(src->name);
    }
    free(r->sources);
    topic_list_free(&r->all);
    ledger_signer_free(r->signer);
    if (r->rk) rd_kafka_destroy(r->rk);
    buf_free(&r->err);
}

int command_redrive(struct config *cfg, int argc, char **argv) {
    struct redrive r = {.cfg = cfg, .filter = {.partition = -1}, .report = {.out = stdout}};
    buf_init(&r.err, 65536);
    int rc = read_options(&r, argc, argv);
    if (rc != EX_OK) return buf_free(&r.err), rc;
    if (cfg->ledger) {
        interrupt_hold();
        rc = go(&r);
        report_end(&r.report, r.sources, r.n);
    } else {
        buf_puts(&r.err,
                 "ledger is false: without the ledger nothing tells which dead letters went "
                 "back before, and they would be sent twice");
        rc = fail(&r, EX_CONFIG);
    }
    redrive_free(&r);
    return rc;
}
