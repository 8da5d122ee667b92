#include "worker/tools/verify_report.h"

#include <inttypes.h>
#include <unistd.h>

#include "worker/base/clock.h"
#include "worker/base/json_out.h"
#include "worker/base/shown.h"
#include "worker/base/text.h"

#define FINDINGS_MAX 10000
#define PROGRESS_MS 250

static void write_out(struct report *r, struct buf *b) {
    fwrite(b->p, 1, b->n, r->out);
    buf_free(b);
}

void report_begin(struct report *r, const char *source) {
    struct buf b;
    r->shown = r->hidden = 0;
    if (!r->json) return;
    buf_init(&b, 65536);
    out_open(&b, NULL, '{');
    out_shown(&b, "source", source);
    out_open(&b, "findings", '[');
    write_out(r, &b);
}

static void finding_json(struct report *r, const struct finding *f) {
    struct buf b;
    buf_init(&b, 65536);
    if (r->shown) buf_putc(&b, ',');
    out_open(&b, NULL, '{');
    out_bool(&b, "note", f->note);
    out_string(&b, "code", f->code);
    if (f->topic) {
        out_shown(&b, "topic", f->topic);
        out_int(&b, "partition", f->partition);
    }
    if (f->offset >= 0) out_int(&b, "offset", f->offset);
    if (f->place.name) {
        out_open(&b, "found_in", '{');
        out_shown(&b, "name", f->place.name);
        out_int(&b, "partition", f->place.partition);
        out_int(&b, "offset", f->place.offset);
        out_close(&b, '}');
    }
    out_shown(&b, "text", f->text);
    out_close(&b, '}');
    write_out(r, &b);
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

void report_progress(struct report *r, const char *what, uint64_t entries, double part) {
    uint64_t now = (uint64_t)clock_ms(CLOCK_MONOTONIC);
    if (now - r->progress_ms < PROGRESS_MS || !isatty(STDERR_FILENO)) return;
    r->progress_ms = now;
    fprintf(stderr, "\r%s: %" PRIu64 " read, %3.0f %%\033[K", SHOWN(what), entries, part * 100);
}

void report_progress_end(struct report *r) {
    if (r->progress_ms && isatty(STDERR_FILENO)) fputs("\r\033[K", stderr);
    r->progress_ms = 0;
}

static void row_json(struct buf *b, const struct audit_row *row) {
    out_open(b, NULL, '{');
    out_shown(b, "topic", row->topic);
    out_int(b, "partition", row->partition);
    out_uint(b, "entries", row->entries);
    out_uint(b, "signed", row->signed_entries);
    out_int(b, "first", row->first);
    out_int(b, "next", row->next);
    if (row->committed >= 0) out_int(b, "committed", row->committed);
    for (int k = 0; k < LEDGER_KINDS; k++)
        out_uint(b, ledger_kind_name((enum ledger_kind)k), row->records[k]);
    out_uint(b, "lost", row->lost);
    out_uint(b, "anew", row->anew);
    out_uint(b, "pending", row->pending);
    out_uint(b, "dead_now", row->dead_now);
    out_uint(b, "repeats", row->repeats);
    out_bool(b, "replaced_key", row->replaced);
    out_uint(b, "form2", row->form2);
    if (row->form2_whole) out_uint(b, "form2_from", row->form2_from);
    if (row->form2) {
        out_hex(b, "rules", row->rules, LEDGER_RULES_LEN);
        out_uint(b, "rules_from", row->rules_from);
    }
    if (row->anchored) {
        out_uint(b, "anchored", row->anchored);
        out_int(b, "anchored_next", row->anchored_next);
        out_int(b, "anchored_ms", row->anchored_ms);
    }
    out_uint(b, "findings", row->findings);
    out_close(b, '}');
}

static const struct {
    const char *name, *text;
} unjudged[UNJUDGED_N] = {
#define X(id, name, text) [id] = {name, text},
    UNJUDGED_REASONS(X)
#undef X
};

static void derived_json(struct buf *b, const struct derive_sums *s) {
    out_open(b, "outcomes", '{');
    out_uint(b, "derived", s->derived);
    out_uint(b, "differ", s->differ);
    out_open(b, "not_judged", '{');
    for (int i = 0; i < UNJUDGED_N; i++) out_uint(b, unjudged[i].name, s->unjudged[i]);
    out_close(b, '}');
    out_close(b, '}');
}

static void derived_text(FILE *f, const struct derive_sums *s) {
    fprintf(f, "%" PRIu64 " outcomes derived again from their records, %" PRIu64 " differ\n",
            s->derived, s->differ);
    for (int i = 0; i < UNJUDGED_N; i++)
        if (s->unjudged[i])
            fprintf(f, "%" PRIu64 " not judged: %s\n", s->unjudged[i], unjudged[i].text);
}

static void rules_json(struct buf *b, const struct audit *a) {
    const struct audit_rules *rules;
    size_t n = audit_rules(a, &rules);
    out_open(b, "rules", '[');
    for (size_t i = 0; i < n; i++) {
        out_open(b, NULL, '{');
        out_hex(b, "rules", rules[i].rules, LEDGER_RULES_LEN);
        out_uint(b, "entries", rules[i].entries);
        out_int(b, "from_ms", rules[i].from_ms);
        out_int(b, "to_ms", rules[i].to_ms);
        out_close(b, '}');
    }
    out_close(b, ']');
}

/* Partitions whose entries don't all say where they come from. */
static uint64_t count_form1(const struct audit_row *rows, size_t n) {
    uint64_t count = 0;
    for (size_t i = 0; i < n; i++) count += rows[i].form2 < rows[i].entries;
    return count;
}

/* What the verdict is about. */
static void scope_json(struct buf *b, const struct audit *a, const struct audit_row *rows, size_t n,
                       const struct report_sums *sums) {
    out_open(b, "scope", '{');
    out_shown(b, "group", sums->group);
    if (sums->cluster) out_shown(b, "cluster", sums->cluster);
    if (sums->from_ms) out_int(b, "from_ms", sums->from_ms);
    if (sums->to_ms) out_int(b, "to_ms", sums->to_ms);
    out_open(b, "keys", '[');
    for (size_t i = 0; i < sums->n_keys; i++) out_string(b, NULL, sums->keys[i].id);
    out_close(b, ']');
    out_bool(b, "export", sums->folder);
    if (sums->folder) out_bool(b, "manifest_signed", sums->manifest_signed);
    if (sums->folder) out_uint(b, "files", sums->files);
    out_bool(b, "signatures", sums->keys_given);
    out_bool(b, "objects", sums->objects);
    out_bool(b, "records", sums->records);
    out_bool(b, "anchors", sums->anchors);
    if (sums->records) derived_json(b, &sums->derived);
    rules_json(b, a);
    out_uint(b, "form1_partitions", count_form1(rows, n));
    out_close(b, '}');
}

/* By what the outcomes were decided, and of how much that is known. */
static void rules_text(FILE *f, const struct audit *a, const struct audit_row *rows, size_t n) {
    const struct audit_rules *rules, *last = NULL;
    size_t n_rules = audit_rules(a, &rules);
    uint64_t form1 = count_form1(rows, n);
    char hexed[HEX_LEN(LEDGER_RULES_LEN) + 1], since[UTC_TEXT];
    for (size_t i = 0; i < n_rules; i++)
        if (!last || rules[i].from_ms > last->from_ms) last = &rules[i];
    if (last) {
        hex(last->rules, LEDGER_RULES_LEN, hexed);
        fprintf(f, "\nsettled by %zu set%s of rules, %s%s", n_rules, n_rules == 1 ? "" : "s",
                n_rules == 1 ? "" : "the newest ", hexed);
        if (utc_text(last->from_ms / 1000, since)) fprintf(f, " since %s", since);
    }
    if (form1)
        fprintf(f,
                "\n%" PRIu64 " partition%s entries of form 1, which name no cluster and no rules",
                form1, form1 == 1 ? " has" : "s have");
}

static void scope_text(FILE *f, const struct audit *a, const struct audit_row *rows, size_t n,
                       const struct report_sums *sums) {
    char from[UTC_TEXT], to[UTC_TEXT];
    fprintf(f, "\nverified: group %s", SHOWN(sums->group));
    if (sums->cluster) fprintf(f, " of cluster %s", SHOWN(sums->cluster));
    if (sums->folder)
        fprintf(f, ", an export, whose manifest, %s, says what the group had committed",
                sums->manifest_signed ? "signed" : "NOT SIGNED by a key that was given");
    if (sums->folder && sums->files)
        fprintf(f, ", and names its %" PRIu64 " file%s", sums->files, PLURAL(sums->files));
    if (sums->from_ms && utc_text(sums->from_ms / 1000, from)) fprintf(f, ", from %s", from);
    if (sums->to_ms && utc_text(sums->to_ms / 1000, to)) fprintf(f, ", to %s", to);
    for (size_t i = 0; i < sums->n_keys; i++)
        fprintf(f, "%s%s", i ? ", " : "; by key ", sums->keys[i].id);
    rules_text(f, a, rows, n);
    fprintf(f, "\nnot verified:%s%s%s%s what destinations have answered\n",
            sums->keys_given ? "" : " signatures (--key),",
            sums->objects ? "" : " objects (--objects),",
            sums->records
                ? ""
                : " records that no entry names, and whether the worker judged right what "
                  "events ask for (--records),",
            sums->anchors ? "" : " anchors (--anchors, anchor.bucket),");
}

static void sums_json(struct buf *b, const struct audit *a, const struct audit_row *rows, size_t n,
                      const struct report_sums *sums) {
    scope_json(b, a, rows, n, sums);
    out_bool(b, "signatures_checked", sums->keys_given);
    if (sums->objects) {
        out_uint(b, "objects", sums->objects_checked);
        out_uint(b, "object_bytes", sums->objects_bytes);
    }
    if (sums->records) {
        out_uint(b, "records", sums->records_checked);
        out_uint(b, "records_uncovered", sums->records_uncovered);
        out_uint(b, "letters", sums->letters.compared);
        out_uint(b, "letters_uncovered", sums->letters.uncovered);
        out_uint(b, "letters_expired", sums->letters.expired);
    }
    if (sums->anchors) {
        out_uint(b, "anchors", sums->anchored.anchors);
        out_uint(b, "anchored_heads", sums->anchored.heads);
        out_uint(b, "anchored_found", sums->anchored.found);
        out_uint(b, "anchored_early", sums->anchored.early);
        out_int(b, "anchored_last_ms", sums->anchored.newest_ms);
        out_uint(b, "anchors_stopped", sums->anchored.stopped);
    }
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
    char text[UTC_TEXT];
    bool known = s->newest_ms && utc_text(s->newest_ms / 1000, text);
    fprintf(f,
            "%" PRIu64 " anchors%s%s%s name %" PRIu64 " heads: %" PRIu64
            " are in the ledger, %" PRIu64 " lie before its beginning\n",
            s->anchors, known ? ", the last at " : "", known ? text : "", known ? "," : "",
            s->heads, s->found, s->early);
}

/* How far each partition's anchors reach is in the JSON; here, the one that is worst off. */
static void print_anchored(FILE *f, const struct audit_row *rows, size_t n,
                           const struct anchored_sums *s) {
    uint64_t never = 0, open = 0;
    for (size_t i = 0; i < n; i++) {
        never += rows[i].entries && !rows[i].anchored;
        if (rows[i].entries && rows[i].anchored <= rows[i].last_seq)
            open += rows[i].last_seq + 1 - rows[i].anchored;
    }
    fprintf(f,
            "%" PRIu64
            " entries are not anchored yet, and nothing shows whether more were cut off; "
            "%" PRIu64 " partitions have no anchor, those of %" PRIu64 " stopped\n",
            open, never, s->stopped);
}

static void verdict(FILE *f, const struct audit_row *rows, size_t n, uint64_t findings,
                    const struct report_sums *sums) {
    uint64_t entries = 0, signed_entries = 0, pending = 0, dead = 0, replaced = 0;
    for (size_t i = 0; i < n; i++) {
        entries += rows[i].entries;
        signed_entries += rows[i].signed_entries;
        pending += rows[i].pending;
        dead += rows[i].dead_now;
        replaced += rows[i].replaced;
    }
    fprintf(f,
            "\n%" PRIu64 " entries, %" PRIu64 " signed%s; %" PRIu64
            " records wait in retry topics, %" PRIu64 " are dead letters\n",
            entries, signed_entries,
            sums->keys_given ? " and checked" : " (NOT CHECKED: give --key)", pending, dead);
    if (replaced)
        fprintf(f,
                "%" PRIu64
                " partition%s with entries that only a key vouches for which was replaced "
                "since: whoever has it may have written them (notes above)\n",
                replaced, replaced == 1 ? " ends" : "s end");
    if (sums->objects)
        fprintf(f, "%" PRIu64 " objects compared, %" PRIu64 " bytes\n", sums->objects_checked,
                sums->objects_bytes);
    if (sums->records)
        fprintf(f,
                "%" PRIu64 " records still held by Kafka compared; %" PRIu64
                " are not covered (before the first entry, or not settled yet)\n",
                sums->records_checked, sums->records_uncovered);
    if (sums->records)
        fprintf(f,
                "%" PRIu64 " dead letters still held by Kafka compared; %" PRIu64
                " are not covered; %" PRIu64 " are gone that retention may have removed\n",
                sums->letters.compared, sums->letters.uncovered, sums->letters.expired);
    if (sums->records) derived_text(f, &sums->derived);
    if (sums->anchors) print_anchors(f, &sums->anchored);
    if (sums->anchors) print_anchored(f, rows, n, &sums->anchored);
    if (!sums->anchors)
        fputs("no anchors: nothing shows whether ledger and committed state were cut short "
              "together, or written anew by whoever has the key\n",
              f);
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
        scope_text(r->out, a, rows, n, sums);
        verdict(r->out, rows, n, findings, sums);
        return findings == 0;
    }
    struct buf b;
    buf_init(&b, (size_t)1 << 30);
    buf_puts(&b, "]");
    out_open(&b, "partitions", '[');
    for (size_t i = 0; i < n; i++) row_json(&b, &rows[i]);
    out_close(&b, ']');
    out_uint(&b, "not_shown", r->hidden);
    sums_json(&b, a, rows, n, sums);
    out_bool(&b, "sound", !findings);
    out_close(&b, '}');
    buf_putc(&b, '\n');
    write_out(r, &b);
    return findings == 0;
}
