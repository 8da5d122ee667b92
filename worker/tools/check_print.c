#include "worker/base/json_out.h"
#include "worker/base/shown.h"
#include "worker/tools/check.h"

#include <inttypes.h>
#include <sysexits.h>
#include <time.h>

/* ---- text ---- */

static void print_topics(const struct check_result *r, FILE *f) {
    fprintf(f, "\ntopics to consume: %zu\n", r->sources.n);
    for (size_t i = 0; i < r->sources.n; i++) {
        const struct topic *t = &r->sources.v[i];
        if (t->partitions)
            fprintf(f, "  %s, %d partition%s\n", SHOWN(t->name), t->partitions,
                    PLURAL(t->partitions));
        else
            fprintf(f, "  %s IS NOT THERE\n", SHOWN(t->name));
    }
    if (r->missing.n == 0) {
        fputs("runsink's own topics: all there\n", f);
        return;
    }
    fprintf(f, "runsink's own topics that are missing (%s): %zu\n",
            r->cfg->topics_create ? "run creates them" : "CREATE THEM, topics.create is false",
            r->missing.n);
    for (size_t i = 0; i < r->missing.n; i++)
        fprintf(f, "  %s, %d partition%s\n", SHOWN(r->missing.v[i].name),
                r->missing.v[i].partitions, PLURAL(r->missing.v[i].partitions));
}

static void print_group(const struct check_result *r, FILE *f) {
    if (r->group_there)
        fprintf(f, "\ngroup %s: %s, %zu member%s\n", SHOWN(r->cfg->group), SHOWN(r->group_state),
                r->members, PLURAL(r->members));
    else
        fprintf(f, "\ngroup %s: not there yet\n", SHOWN(r->cfg->group));
}

static bool is_lost(const struct check_partition *p) {
    return p->committed >= 0 && p->committed < p->low;
}

/* Of retry topics what is wrong alone. */
static bool is_shown(const struct check_partition *p) {
    return !p->retry || p->error || p->held || p->unstable;
}

static int64_t total_lag(const struct check_result *r) {
    int64_t total = 0;
    for (size_t i = 0; i < r->n; i++) total += r->partitions[i].retry ? 0 : r->partitions[i].lag;
    return total;
}

static void print_lag(const struct check_result *r, FILE *f) {
    for (size_t i = 0; i < r->n; i++) {
        const struct check_partition *p = &r->partitions[i];
        char committed[32] = "none";
        if (!is_shown(p)) continue;
        if (p->committed >= 0) snprintf(committed, sizeof committed, "%" PRId64, p->committed);
        fprintf(f,
                "  %s/%d: committed %s, available %" PRId64 " to %" PRId64 ", lag %" PRId64 "%s%s",
                SHOWN(p->topic), (int)p->partition, committed, p->low, p->high, p->lag,
                is_lost(p) ? ", RECORDS LOST TO RETENTION" : "", p->error ? ", NOT READABLE" : "");
        if (p->begins >= 0) fprintf(f, ", a new group begins at %" PRId64, p->begins);
        if (p->held) fprintf(f, ", %" PRId64 " OFFSETS HELD BY AN OPEN TRANSACTION", p->held);
        if (p->unstable) fputs(", COMMITTED OFFSET HELD BY AN OPEN TRANSACTION", f);
        fputc('\n', f);
    }
    if (r->held_ledgers)
        fprintf(f, "  %zu partitions of ledgers are HELD BY AN OPEN TRANSACTION\n",
                r->held_ledgers);
    if (r->lag_known) fprintf(f, "  lag in all: %" PRId64 "\n", total_lag(r));
}

static void print_advice(const struct check_result *r, FILE *f) {
    if (r->advice->n) fputs("their settings, which HAVE TO CHANGE:\n", f);
    for (const char *at = buf_cstr(r->advice); *at; at += strcspn(at, "\n") + 1)
        fprintf(f, "  %.*s\n", (int)strcspn(at, "\n"), at);
    if (r->notes->n) fputs("to be noted of them:\n", f);
    for (const char *at = buf_cstr(r->notes); *at; at += strcspn(at, "\n") + 1)
        fprintf(f, "  %.*s\n", (int)strcspn(at, "\n"), at);
    if (r->settings_unknown)
        fputs("the settings of some are not known: they are seen with the right DescribeConfigs\n",
              f);
}

static bool ends_soon(int64_t until_s, int64_t now_s) {
    return until_s && until_s - now_s < CERT_SOON_DAYS * (int64_t)86400;
}

static void print_certs(const struct check_result *r, int64_t now_s, FILE *f) {
    bool any = false;
    for (size_t i = 0; i < CERTS; i++) {
        char text[CERT_TEXT];
        if (!r->certs.until_s[i]) continue;
        if (!any) fputs("\ncertificates:\n", f);
        any = true;
        fprintf(f, "  %-30s  %s\n", cert_key(i), cert_text(r->certs.until_s[i], now_s, text));
    }
}

static void print_patterns(const char *name, const struct list *l, FILE *f) {
    for (size_t i = 0; i < l->n; i++) fprintf(f, "  %-11s  %s\n", name, SHOWN(l->v[i]));
}

static void print_holds(const struct config *c, FILE *f) {
    if (!c->hold_workspaces.n && !c->hold_destinations.n) return;
    fputs("\nheld, not attempted: their events become dead letters (tenant: held)\n", f);
    print_patterns("workspace", &c->hold_workspaces, f);
    print_patterns("destination", &c->hold_destinations, f);
}

void check_print(const struct check_result *r, int64_t now_ms, FILE *f) {
    print_certs(r, now_ms / 1000, f);
    print_holds(r->cfg, f);
    if (r->listed) {
        print_topics(r, f);
        print_advice(r, f);
    }
    if (r->group_known) print_group(r, f);
    print_lag(r, f);
    if (r->overview_known) overview_print(&r->overview, now_ms, f);
}

/* ---- the verdict ---- */

static void add_remark(struct buf *b, size_t *n, int64_t count, const char *one, const char *many) {
    if (!count) return;
    buf_printf(b, "%s%" PRId64 " %s", (*n)++ ? ", " : "; to look at: ", count,
               count == 1 ? one : many);
}

static void put_remarks(const struct check_result *r, struct buf *b) {
    int64_t lost = 0, held = 0, notes = 0, certs = 0;
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++) {
        lost += is_lost(&r->partitions[i]);
        held += r->partitions[i].held > 0;
    }
    for (size_t i = 0; i < CERTS; i++) certs += ends_soon(r->certs.until_s[i], (int64_t)time(NULL));
    add_remark(b, &n, lost, "partition whose records retention took before they were read",
               "partitions whose records retention took before they were read");
    add_remark(b, &n, held, "partition that an open transaction holds",
               "partitions that an open transaction holds");
    for (const char *at = buf_cstr(r->notes); *at; at++) notes += *at == '\n';
    add_remark(b, &n, notes, "note on its topics", "notes on its topics");
    add_remark(b, &n, certs, "certificate that ends within 30 days or can't be read",
               "certificates that end within 30 days or can't be read");
    add_remark(b, &n, (int64_t)(r->cfg->hold_workspaces.n + r->cfg->hold_destinations.n),
               "hold is in force", "holds are in force");
    add_remark(b, &n, (int64_t)r->overview.died, "dead letter lies open", "dead letters lie open");
    add_remark(b, &n, (int64_t)r->overview.waiting, "record waits for another attempt",
               "records wait for another attempt");
}

void check_verdict(const struct check_result *r, int exit_code, bool asked, struct buf *b) {
    switch (exit_code) {
    case EX_OK:
        buf_puts(b, asked ? "all is as run needs it"
                          : "the configuration is as run needs it; no broker was asked");
        put_remarks(r, b);
        break;
    case EX_DATAERR:
        buf_puts(b, "the ledger is not as it was written: `runsink verify` says where");
        break;
    case EX_UNAVAILABLE:
        buf_puts(b,
                 "not all is there, or could be looked at: see what is named above, and try again");
        break;
    case EX_TEMPFAIL:
        buf_puts(
            b,
            "run would not begin, or not read all, now: an open transaction, named above, has to "
            "end first");
        break;
    default:
        buf_puts(b, "what is named above has to change before run can do all of its work");
        break;
    }
    if (exit_code) buf_printf(b, " (exit code %d)", exit_code);
}

/* ---- JSON ---- */

#define JSON_MAX ((size_t)64 << 20)

static void put_topics(struct buf *b, const char *name, const struct topic_list *l) {
    out_open(b, name, '[');
    for (size_t i = 0; i < l->n; i++) {
        out_open(b, NULL, '{');
        out_shown(b, "topic", l->v[i].name);
        out_int(b, "partitions", l->v[i].partitions);
        out_close(b, '}');
    }
    out_close(b, ']');
}

static void put_group(struct buf *b, const struct check_result *r) {
    out_open(b, "group", '{');
    out_shown(b, "name", r->cfg->group);
    out_shown(b, "state", r->group_there ? r->group_state : "not there yet");
    out_uint(b, "members", r->members);
    out_close(b, '}');
}

static void put_partition(struct buf *b, const struct check_partition *p) {
    out_open(b, NULL, '{');
    out_shown(b, "topic", p->topic);
    out_int(b, "partition", p->partition);
    if (p->committed >= 0) out_int(b, "committed", p->committed);
    if (p->begins >= 0) out_int(b, "begins", p->begins);
    out_int(b, "low", p->low);
    out_int(b, "high", p->high);
    out_int(b, "lag", p->lag);
    out_bool(b, "lost", is_lost(p));
    out_int(b, "held", p->held);
    out_bool(b, "unstable", p->unstable);
    if (p->error) out_shown(b, "error", p->error);
    out_close(b, '}');
}

static void put_certs(struct buf *b, const struct check_result *r) {
    out_open(b, "certificates", '[');
    for (size_t i = 0; i < CERTS; i++) {
        int64_t until = r->certs.until_s[i];
        if (!until) continue;
        out_open(b, NULL, '{');
        out_shown(b, "key", cert_key(i));
        if (until != CERT_UNREADABLE) out_int(b, "until", until);
        out_close(b, '}');
    }
    out_close(b, ']');
}

void check_print_json(const struct check_result *r, int exit_code, const char *problems,
                      const char *verdict, FILE *f) {
    struct buf b;
    buf_init(&b, JSON_MAX);
    out_open(&b, NULL, '{');
    out_int(&b, "exit", exit_code);
    out_shown(&b, "verdict", verdict);
    out_shown(&b, "problems", problems);
    buf_puts(&b, ",\"config\":");
    config_json(r->cfg, &b);
    put_certs(&b, r);
    if (r->listed) {
        put_topics(&b, "topics", &r->sources);
        put_topics(&b, "missing", &r->missing);
        out_shown(&b, "settings", buf_cstr(r->advice));
        out_shown(&b, "notes", buf_cstr(r->notes));
        out_bool(&b, "settings_known", !r->settings_unknown);
    }
    if (r->group_known) put_group(&b, r);
    if (r->lag_known) {
        out_int(&b, "lag", total_lag(r));
        out_open(&b, "partitions", '[');
        for (size_t i = 0; i < r->n; i++) {
            const struct check_partition *p = &r->partitions[i];
            if (is_shown(p)) put_partition(&b, p);
        }
        out_close(&b, ']');
    }
    if (r->overview_known) overview_json(&r->overview, &b);
    out_close(&b, '}');
    buf_putc(&b, '\n');
    fwrite(b.p, 1, b.n, f);
    buf_free(&b);
}
