/* `runsink redrive`: dead letters go back, or are discarded. Options, the count, the question, and
 * the order of things. */
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "worker/base/log.h"
#include "worker/base/shown.h"
#include "worker/base/text.h"
#include "worker/kafka/reader.h"
#include "worker/kafka/scan.h"
#include "worker/kafka/topic_settings.h"
#include "worker/tools/command.h"
#include "worker/tools/redrive_report.h"
#include "worker/tools/redrive_send.h"

#define BROKER_TIMEOUT_MS 30000
#define LOOK_EVERY 256 /* records between two looks at signals */
#define WORDS_MAX 200  /* bytes of --why and of --who */

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
    struct topic_list all;
    struct redrive_source *sources;
    size_t n;
    struct redrive_report report;
    sigset_t signals;
    bool stopped;
    struct buf err;
};

static int fail(struct redrive *r, int code) {
    redrive_progress_end(&r->report);
    command_error("redrive", &r->err);
    return code;
}

/* ---- signals ---- */

/* SIGINT and SIGTERM are blocked all the while, and taken where there is nothing to lose. */
static bool stop(void *context, int64_t wait_ms) {
    struct redrive *r = context;
    struct timespec left = {wait_ms / 1000, wait_ms % 1000 * 1000000};
    r->stopped = r->stopped || sigtimedwait(&r->signals, NULL, &left) > 0;
    return r->stopped;
}

static void block_signals(struct redrive *r) {
    sigemptyset(&r->signals);
    sigaddset(&r->signals, SIGINT);
    sigaddset(&r->signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &r->signals, NULL);
}

/* ---- what there is ---- */

/* One letter that is refused would end the transaction of many. */
static int64_t largest_of(struct redrive *r, const char *topic) {
    struct topic one = {.name = (char *)(uintptr_t)topic, .partitions = 1};
    struct topic_list l = {&one, 1};
    struct topic_settings s = {0};
    struct buf unused;
    buf_init(&unused, 4096);
    bool known = topic_settings_ask(r->rk, &l, BROKER_TIMEOUT_MS, NULL, &s, &unused) && s.known;
    buf_free(&unused);
    return known ? s.max_message_bytes : 0;
}

static bool find_topics(struct redrive *r, struct redrive_source *src) {
    char name[TOPIC_MAX + 1];
    const struct topic *t = topic_find(&r->all, src->name);
    struct sending *in = &src->sending;
    in->source = src->name;
    in->source_partitions = t ? t->partitions : 0;
    for (int f = FAULT_TENANT; f < FAULTS; f++) {
        t = topic_dead(src->name, (enum fault)f, name) ? topic_find(&r->all, name) : NULL;
        src->partitions[f] = t ? t->partitions : 0;
    }
    t = topic_ledger(src->name, in->ledger) ? topic_find(&r->all, in->ledger) : NULL;
    if (!t || !t->partitions) {
        buf_printf(&r->err, "there is no topic %s.ledger: has `runsink run` ever consumed %s?",
                   src->name, src->name);
        return false;
    }
    in->ledger_at = rd_kafka_topic_partition_list_new(t->partitions);
    for (int i = 0; i < t->partitions; i++)
        rd_kafka_topic_partition_list_add(in->ledger_at, in->ledger, i)->offset =
            RD_KAFKA_OFFSET_BEGINNING;
    if (r->way == PLAN_DISCARD) return true;
    if (r->way == PLAN_ATTEMPTS) {
        t = topic_retry(src->name, r->cfg->retry_delays.v[0], in->retry)
                ? topic_find(&r->all, in->retry)
                : NULL;
        in->retry_partitions = t ? t->partitions : 0;
    }
    bool origin = r->way == PLAN_ORIGIN;
    src->largest = largest_of(r, origin ? src->name : in->retry);
    if (origin ? in->source_partitions : in->retry_partitions) return true;
    buf_printf(&r->err, "there is no topic %s, where dead letters would go back to%s",
               origin ? src->name : in->retry,
               origin ? "" : ": is retry.delays as it is for `runsink run`?");
    return false;
}

static bool list_sources(struct redrive *r) {
    struct topic_list l = {0};
    if (!topics_list(r->rk, BROKER_TIMEOUT_MS, NULL, &r->all, &r->err)) return false;
    if (r->topic) {
        l.v = xcalloc(1, sizeof *l.v);
        l.v[l.n++] = (struct topic){.name = xstrdup(r->topic)};
    } else if (!topics_resolve(r->cfg, &r->all, &l, &r->err)) {
        return false;
    }
    r->sources = xcalloc(l.n, sizeof *r->sources);
    for (; r->n < l.n; r->n++) {
        struct redrive_source *src = &r->sources[r->n];
        src->name = l.v[r->n].name;
        l.v[r->n].name = NULL;
    }
    topic_list_free(&l);
    return true;
}

/* ---- the count ---- */

struct counting {
    struct redrive *r;
    struct redrive_source *src;
    uint64_t n;
};

/* Headers of ours are left out and others come, of about that size. */
static int64_t size_of(const struct message *rec) {
    size_t n = rec->value.n;
    for (size_t i = 0; i < rec->n_headers; i++)
        n += rec->headers[i].name.n + rec->headers[i].value.n;
    return (int64_t)n;
}

static void count_letter(struct counting *c, const rd_kafka_message_t *m) {
    struct redrive_source *src = c->src;
    struct plan *plan = &src->plan;
    bool goes = c->r->way != PLAN_DISCARD;
    enum letter_fate fate;
    char name[TOPIC_MAX + 1];
    struct letter l = {.partition = m->partition, .offset = m->offset};
    for (int f = FAULT_TENANT; f < FAULTS; f++)
        if (topic_dead(src->name, (enum fault)f, name) &&
            strcmp(name, rd_kafka_topic_name(m->rkt)) == 0)
            l.fault = (enum fault)f;
    struct arena arena = {0};
    struct message rec;
    reader_record(m, &arena, &rec);
    if (!letter_read(&rec, src->name, &l, &plan->last_problem))
        plan->unreadable++;
    else if (l.past.group[0] && strcmp(l.past.group, c->r->cfg->group) != 0)
        ; /* another group's: its own redrive sends it back */
    else if ((fate = chains_fate(src->sending.chains, l.fault, l.partition, l.offset, &l.past)) !=
             LETTER_OPEN)
        *(fate == LETTER_REDRIVEN ? &plan->redriven : &plan->discarded) += 1;
    else if (l.past.marker && goes)
        plan->markers++;
    else if (goes && src->largest && size_of(&rec) + (int64_t)m->key_len > src->largest)
        plan->too_large++;
    else
        plan_take(plan, &l, filter_matches(&c->r->filter, &l, &rec));
    arena_free(&arena);
}

static bool on_dead(void *context, rd_kafka_message_t *m) {
    struct counting *c = context;
    if (m) {
        count_letter(c, m);
        rd_kafka_message_destroy(m);
    }
    if (m && ++c->n % LOOK_EVERY) return true;
    redrive_progress(&c->r->report, c->src->name, "read", c->n, 0);
    return !stop(c->r, 0);
}

static enum send_end count_source(struct redrive *r, struct redrive_source *src) {
    struct sending *in = &src->sending;
    in->chains = chains_new(src->name, r->cfg->group, src->partitions);
    plan_init(&src->plan, src->partitions, r->way);
    enum send_end end = redrive_read_ledger(in, NULL, &r->err);
    if (end != SEND_DONE) return end;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(16);
    char name[TOPIC_MAX + 1];
    for (int f = FAULT_TENANT; f < FAULTS; f++)
        for (int i = 0; i < src->partitions[f]; i++)
            if (topic_dead(src->name, (enum fault)f, name))
                rd_kafka_topic_partition_list_add(list, name, i)->offset =
                    RD_KAFKA_OFFSET_BEGINNING;
    struct counting counting = {.r = r, .src = src};
    switch (list->cnt ? scan(r->rk, list, NULL, on_dead, &counting, &r->err) : SCAN_DONE) {
    case SCAN_DONE:
        break;
    case SCAN_STOPPED:
        end = SEND_STOPPED;
        break;
    case SCAN_FAILED:
        end = SEND_FAILED;
        break;
    }
    rd_kafka_topic_partition_list_destroy(list);
    plan_finish(&src->plan);
    return end;
}

/* ---- sending ---- */

static void show_sent(void *context, uint64_t sent) {
    struct redrive *r = context;
    const struct redrive_source *src = &r->sources[r->report.at];
    redrive_progress(&r->report, src->name, r->way == PLAN_DISCARD ? "discarded" : "sent", sent,
                     src->plan.n);
}

static enum send_end send_source(struct redrive *r, struct redrive_source *src) {
    struct sending *in = &src->sending;
    in->cfg = r->cfg;
    in->signer = r->signer;
    in->plan = &src->plan;
    in->why = r->why;
    in->who = r->who;
    in->rate = r->rate;
    in->progress = show_sent;
    enum send_end end = redrive_send(in, &r->err);
    redrive_progress_end(&r->report);
    if (r->way == PLAN_DISCARD)
        log_info("discarded", LOG_S("topic", src->name), LOG_I("letters", in->sent),
                 LOG_I("selected", src->plan.n), LOG_I("transactions", in->transactions),
                 LOG_S("who", r->who), LOG_S("why", r->why));
    else
        log_info("redriven", LOG_S("topic", src->name), LOG_I("sent", in->sent),
                 LOG_I("selected", src->plan.n), LOG_I("transactions", in->transactions));
    return end;
}

/* An exit code, after having said what is wrong; EX_OK: go on. */
static int exit_code(struct redrive *r, enum send_end end, const char *source) {
    switch (end) {
    case SEND_DONE:
        return EX_OK;
    case SEND_STOPPED:
        buf_clear(&r->err);
        buf_puts(&r->err, "interrupted: run it again to go on, nothing is done twice");
        r->report.result = "interrupted";
        return fail(r, EX_TEMPFAIL);
    case SEND_FENCED:
        buf_clear(&r->err);
        buf_printf(&r->err, "another redrive of %s has begun and goes on with the rest", source);
        r->report.result = "overtaken";
        return fail(r, EX_TEMPFAIL);
    case SEND_FAILED:
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
    char answer[16] = "";
    const char *done = r->way == PLAN_DISCARD ? "discarded" : "sent";
    r->report.result = "not confirmed";
    if (!isatty(STDIN_FILENO)) {
        buf_printf(&r->err, "nothing was %s: --yes does it, --dry-run says that counting is all",
                   done);
        return fail(r, EX_USAGE);
    }
    fflush(stdout);
    if (r->way == PLAN_DISCARD)
        fprintf(stderr, "Discard %" PRIu64 " dead letter%s? They will never go back. [y/N] ", n,
                PLURAL(n));
    else
        fprintf(stderr, "Send %" PRIu64 " dead letter%s back? [y/N] ", n, PLURAL(n));
    pthread_sigmask(SIG_UNBLOCK, &r->signals, NULL);
    bool yes = fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y');
    pthread_sigmask(SIG_BLOCK, &r->signals, NULL);
    if (yes) return EX_OK;
    buf_printf(&r->err, "nothing was %s", done);
    return fail(r, EX_USAGE);
}

static int count_all(struct redrive *r, uint64_t *ret_n) {
    for (size_t i = 0; i < r->n; i++) {
        struct redrive_source *src = &r->sources[i];
        src->sending.rk = r->rk;
        src->sending.way = r->way;
        src->sending.stop = stop;
        src->sending.context = r;
        if (!find_topics(r, src)) return fail(r, EX_CONFIG);
        int rc = exit_code(r, count_source(r, src), src->name);
        if (rc != EX_OK) return rc;
        *ret_n += src->plan.n;
    }
    redrive_progress_end(&r->report);
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
    if (!list_sources(r)) return fail(r, EX_UNAVAILABLE);
    if (!r->n) return command_usage("redrive", "give --topic, or configure `topics`");
    if (r->n > 1 && r->filter.partition >= 0)
        return command_usage("redrive", "--offset needs --topic: several topics are configured");
    int rc = count_all(r, &n);
    if (rc != EX_OK) return rc;
    redrive_report_plan(&r->report, r->sources, r->n);
    r->report.result = n ? "counted" : "nothing to do";
    if (!n || r->dry_run) return EX_OK;
    if (!r->yes && (rc = confirm(r, n)) != EX_OK) return rc;
    return send_all(r);
}

/* ---- options ---- */

static bool read_fault(const char *text, enum fault *ret) {
    for (int f = FAULT_TENANT; f < FAULTS; f++)
        if (strcmp(text, fault_name((enum fault)f)) == 0) return *ret = (enum fault)f, true;
    return false;
}

static bool read_rate(const char *text, int64_t *ret) {
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (errno || *end || n < 1 || n > 1000000) return false;
    *ret = n;
    return true;
}

/* 0: argv[*i] is none of them; 1: taken; -1: its value is wrong or missing. */
static int take_option(struct redrive *r, int argc, char **argv, int *i) {
    struct redrive_filter *f = &r->filter;
    int64_t now = (int64_t)time(NULL) * 1000;
    bool bad = false;
    const char *x;
    const struct {
        const char *name;
        const char **to;
    } texts[] = {{"--reason", &f->reason},
                 {"--destination", &f->destination},
                 {"--workspace", &f->workspace},
                 {"--id", &f->id},
                 {"--topic", &r->topic},
                 {"--why", &r->why},
                 {"--who", &r->who}};
    const struct {
        const char *name;
        bool *to;
    } flags[] = {{"--to-origin", &r->to_origin},
                 {"--discard", &r->discard},
                 {"--dry-run", &r->dry_run},
                 {"--yes", &r->yes},
                 {"--json", &r->report.json}};
    for (size_t k = 0; k < sizeof flags / sizeof *flags; k++)
        if (strcmp(argv[*i], flags[k].name) == 0) return *flags[k].to = true, 1;
    for (size_t k = 0; k < sizeof texts / sizeof *texts && !bad; k++)
        if ((x = command_value(texts[k].name, argc, argv, i, &bad))) return *texts[k].to = x, 1;
    if (!bad && (x = command_value("--fault", argc, argv, i, &bad)))
        return read_fault(x, &f->fault) ? 1 : -1;
    if (!bad && (x = command_value("--from", argc, argv, i, &bad)))
        return reader_time(x, now, &f->from_ms) ? 1 : -1;
    if (!bad && (x = command_value("--to", argc, argv, i, &bad)))
        return reader_time(x, now, &f->to_ms) ? 1 : -1;
    if (!bad && (x = command_value("--offset", argc, argv, i, &bad)))
        return filter_offsets(x, f) ? 1 : -1;
    if (!bad && (x = command_value("--rate", argc, argv, i, &bad)))
        return read_rate(x, &r->rate) ? 1 : -1;
    return bad ? -1 : 0;
}

/* It stands in the ledger for as long as that is kept. */
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
    if (r->to_origin) return command_usage("redrive", "--discard sends nothing --to-origin");
    if (!r->why) return command_usage("redrive", "--discard needs --why: the ledger keeps it");
    if (!r->who && !(r->who = own_name(r)))
        return command_usage("redrive", "--discard needs --who: this user has no name here");
    if (!is_line(r->why) || !is_line(r->who))
        return command_usage("redrive", "--why and --who: one line of UTF-8, 1 to %d bytes each",
                             WORDS_MAX);
    return EX_OK;
}

static int options(struct redrive *r, int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i];
        switch (take_option(r, argc, argv, &i)) {
        case 1:
            continue;
        case 0:
            return command_usage("redrive", "unexpected: %.100s", name);
        default:
            return command_usage("redrive", "%.20s: its value is missing or is none: %.100s", name,
                                 argv[i]);
        }
    }
    if (r->filter.partition >= 0 && r->filter.fault == FAULT_NONE)
        return command_usage("redrive", "--offset needs --fault: it is of one dead topic");
    if (r->topic && topic_kind(r->topic, NULL) != TOPIC_SOURCE)
        return command_usage("redrive", "--topic is the source topic, as in `topics`");
    r->way = r->discard ? PLAN_DISCARD : r->to_origin ? PLAN_ORIGIN : PLAN_ATTEMPTS;
    r->report.way = r->way;
    r->report.reason = r->filter.reason;
    return discard_options(r);
}

static void redrive_free(struct redrive *r) {
    for (size_t i = 0; i < r->n; i++) {
        struct redrive_source *src = &r->sources[i];
        if (src->sending.ledger_at) rd_kafka_topic_partition_list_destroy(src->sending.ledger_at);
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
    int rc = options(&r, argc, argv);
    if (rc != EX_OK) return buf_free(&r.err), rc;
    if (cfg->ledger) {
        block_signals(&r);
        rc = go(&r);
        redrive_report_end(&r.report, r.sources, r.n);
    } else {
        buf_puts(&r.err,
                 "ledger is false: without the ledger nothing tells which dead letters went "
                 "back before, and they would be sent twice");
        rc = fail(&r, EX_CONFIG);
    }
    redrive_free(&r);
    return rc;
}
