#include "worker/tools/verify_report.h"
#include "worker/base/shown.h"

#include <inttypes.h>
#include <time.h>
#include <unistd.h>

#define FINDINGS_MAX 10000
#define PROGRESS_MS 250

static void put_json(FILE *f, const char *text) {
    struct buf b;
    buf_init(&b, 65536);
    shown_json(&b, str_c(text));
    fprintf(f, "\"%s\"", buf_cstr(&b));
    buf_free(&b);
}

void report_begin(struct report *r, const char *source) {
    r->shown = r->hidden = 0;
    if (!r->json) return;
    fputs("{\"source\":", r->out);
    put_json(r->out, source);
    fputs(",\"findings\":[", r->out);
}

static void finding_json(struct report *r, const struct finding *f) {
    fprintf(r->out, "%s{\"note\":%s,\"code\":\"%s\"", r->shown ? "," : "",
            f->note ? "true" : "false", f->code);
    if (f->topic) {
        fputs(",\"topic\":", r->out);
        put_json(r->out, f->topic);
        fprintf(r->out, ",\"partition\":%d", (int)f->partition);
    }
    if (f->offset >= 0) fprintf(r->out, ",\"offset\":%" PRId64, f->offset);
    if (f->place.name) {
        fputs(",\"found_in\":{\"name\":", r->out);
        put_json(r->out, f->place.name);
        fprintf(r->out, ",\"partition\":%d,\"offset\":%" PRId64 "}", (int)f->place.partition,
                f->place.offset);
    }
    fputs(",\"text\":", r->out);
    put_json(r->out, f->text);
    fputs("}", r->out);
}

static void finding_text(struct report *r, const struct finding *f) {
    fprintf(r->out, "%s %s ", f->note ? "note   " : "FINDING", f->code);
    if (f->topic) fprintf(r->out, "%s/%d", SHOWN(f->topic), (int)f->partition);
    if (f->topic && f->offset >= 0) fprintf(r->out, " offset %" PRId64, f->offset);
    fprintf(r->out, ": %s", SHOWN(f->text));
    if (f->place.name)
        fprintf(r->out, " [%s/%d@%" PRId64 "]", SHOWN(f->place.name), (int)f->place.partition,
                f->place.offset);
    fputs("\n", r->out);
}

void report_finding(void *context, const struct finding *f) {
    struct report *r = context;
    if (r->shown == FINDINGS_MAX) {
        r->hidden++;
        return;
    }
    report_progress_end(r);
    if (r->json)
        finding_json(r, f);
    else
        finding_text(r, f);
    r->shown++;
}

static uint64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void report_progress(struct report *r, const char *what, uint64_t entries, double part) {
    uint64_t now = now_ms();
    if (now - r->progress_ms < PROGRESS_MS || !isatty(STDERR_FILENO)) return;
    r->progress_ms = now;
    fprintf(stderr, "\r%s: %" PRIu64 " read, %3.0f %%\033[K", SHOWN(what), entries, part * 100);
}

void report_progress_end(struct report *r) {
    if (r->progress_ms && isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
    r->progress_ms = 0;
}

static void row_json(FILE *f, const struct audit_row *row) {
    fputs("{\"topic\":", f);
    put_json(f, row->topic);
    fprintf(f,
            ",\"partition\":%d,\"entries\":%" PRIu64 ",\"signed\":%" PRIu64 ",\"first\":%" PRId64
            ",\"next\":%" PRId64,
            (int)row->partition, row->entries, row->signed_entries, row->first, row->next);
    if (row->committed >= 0) fprintf(f, ",\"committed\":%" PRId64, row->committed);
    for (int k = 0; k < LEDGER_KINDS; k++)
        fprintf(f, ",\"%s\":%" PRIu64, ledger_kind_name((enum ledger_kind)k), row->records[k]);
    fprintf(f,
            ",\"lost\":%" PRIu64 ",\"anew\":%" PRIu64 ",\"pending\":%" PRIu64
            ",\"dead_now\":%" PRIu64 ",\"repeats\":%" PRIu64 ",\"findings\":%" PRIu64 "}",
            row->lost, row->anew, row->pending, row->dead_now, row->repeats, row->findings);
}

static void table(FILE *f, const struct audit_row *rows, size_t n) {
    fprintf(f, "\n%-32s %8s %23s %10s %9s %9s %8s %8s %6s %8s\n", "partition", "entries", "records",
            "delivered", "skipped", "parked", "dead", "pending", "lost", "findings");
    for (size_t i = 0; i < n; i++) {
        const struct audit_row *r = &rows[i];
        char name[TOPIC_MAX + 16], covers[48];
        snprintf(name, sizeof name, "%s/%d", r->topic, (int)r->partition);
        snprintf(covers, sizeof covers, "%" PRId64 "..%" PRId64, r->first, r->next);
        fprintf(f,
                "%-32s %8" PRIu64 " %23s %10" PRIu64 " %9" PRIu64 " %9" PRIu64 " %8" PRIu64
                " %8" PRIu64 " %6" PRIu64 " %8" PRIu64 "\n",
                SHOWN(name), r->entries, r->entries ? covers : "none", r->records[LEDGER_DELIVERED],
                r->records[LEDGER_SKIPPED], r->records[LEDGER_PARKED], r->records[LEDGER_DEAD],
                r->pending, r->lost, r->findings);
    }
}

/* What was settled after the last anchor is as yet unprotected: its time is part of the verdict. */
static void print_anchors(FILE *f, const struct anchored_sums *s) {
    time_t newest = (time_t)(s->newest_ms / 1000);
    struct tm tm;
    char text[64] = "";
    if (s->newest_ms && gmtime_r(&newest, &tm))
        strftime(text, sizeof text, ", the last at %Y-%m-%dT%H:%M:%SZ,", &tm);
    fprintf(f,
            "%" PRIu64 " anchors%s name %" PRIu64 " heads: %" PRIu64 " are in the ledger, %" PRIu64
            " lie before its beginning\n",
            s->anchors, text, s->heads, s->found, s->early);
}

static void verdict(FILE *f, const struct audit_row *rows, size_t n, uint64_t findings,
                    const struct report_sums *sums) {
    uint64_t entries = 0, signed_entries = 0, pending = 0, dead = 0;
    for (size_t i = 0; i < n; i++) {
        entries += rows[i].entries;
        signed_entries += rows[i].signed_entries;
        pending += rows[i].pending;
        dead += rows[i].dead_now;
    }
    fprintf(f,
            "\n%" PRIu64 " entries, %" PRIu64 " signed%s; %" PRIu64
            " records wait in retry topics, %" PRIu64 " are dead letters\n",
            entries, signed_entries,
            sums->keys_given ? " and checked" : " (NOT CHECKED: give --key)", pending, dead);
    if (sums->objects)
        fprintf(f, "%" PRIu64 " objects compared, %" PRIu64 " bytes\n", sums->objects_checked,
                sums->objects_bytes);
    if (sums->records)
        fprintf(f, "%" PRIu64 " records still held by Kafka compared\n", sums->records_checked);
    if (sums->anchors) print_anchors(f, &sums->anchored);
    if (findings)
        fprintf(f, "NOT SOUND: %" PRIu64 " finding%s\n", findings, PLURAL(findings));
    else
        fputs("sound: every record covered has its one outcome, or waits for it\n", f);
}

bool report_end(struct report *r, struct audit *a, const struct report_sums *sums) {
    const struct audit_row *rows;
    size_t n = audit_rows(a, &rows);
    uint64_t findings = audit_findings(a);
    report_progress_end(r);
    if (!r->json) {
        if (r->hidden) fprintf(r->out, "... and %" PRIu64 " more\n", r->hidden);
        table(r->out, rows, n);
        verdict(r->out, rows, n, findings, sums);
        return findings == 0;
    }
    fputs("],\"partitions\":[", r->out);
    for (size_t i = 0; i < n; i++) {
        if (i) fputs(",", r->out);
        row_json(r->out, &rows[i]);
    }
    fprintf(r->out, "],\"not_shown\":%" PRIu64 ",\"signatures_checked\":%s", r->hidden,
            sums->keys_given ? "true" : "false");
    if (sums->objects)
        fprintf(r->out, ",\"objects\":%" PRIu64 ",\"object_bytes\":%" PRIu64, sums->objects_checked,
                sums->objects_bytes);
    if (sums->records) fprintf(r->out, ",\"records\":%" PRIu64, sums->records_checked);
    if (sums->anchors)
        fprintf(r->out,
                ",\"anchors\":%" PRIu64 ",\"anchored_heads\":%" PRIu64
                ",\"anchored_found\":%" PRIu64 ",\"anchored_early\":%" PRIu64
                ",\"anchored_last_ms\":%" PRId64,
                sums->anchored.anchors, sums->anchored.heads, sums->anchored.found,
                sums->anchored.early, sums->anchored.newest_ms);
    fprintf(r->out, ",\"sound\":%s}\n", findings ? "false" : "true");
    return findings == 0;
}
