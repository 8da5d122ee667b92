#include "worker/admin/status.h"

#include <inttypes.h>
#include <stdlib.h>

#include "worker/base/log.h"
#include "worker/base/shown.h"

#define PARTITIONS_LISTED 500

void status_sample(const struct metrics_sums *sums, int64_t at_ms, struct status_sample *ret) {
    *ret = (struct status_sample){
        .at_ms = at_ms,
        .records = metrics_total(sums, COUNTER_RECORDS),
        .delivered = metrics_total(sums, COUNTER_DELIVERED),
        .parked = metrics_total(sums, COUNTER_PARKED),
        .dead = metrics_total(sums, COUNTER_DEAD_TENANT) + metrics_total(sums, COUNTER_DEAD_DATA) +
                metrics_total(sums, COUNTER_DEAD_SYSTEM),
        .failed = metrics_total(sums, COUNTER_ATTEMPTS_FAILED),
        .lag = metrics_total(sums, COUNTER_LAG),
        .oldest_ms = metrics_total(sums, COUNTER_OLDEST_MS),
        .held = metrics_total(sums, COUNTER_HELD_BYTES),
        .waiting = metrics_total(sums, COUNTER_WAITING),
    };
}

/* ---- JSON ---- */

static void comma(struct buf *out) {
    if (out->n && out->p[out->n - 1] != '{' && out->p[out->n - 1] != '[') buf_putc(out, ',');
}

static void begin(struct buf *out, const char *name, char bracket) {
    comma(out);
    if (name) buf_printf(out, "\"%s\":", name);
    buf_putc(out, bracket);
}

static void number(struct buf *out, const char *name, int64_t n) {
    comma(out);
    buf_printf(out, "\"%s\":%" PRId64, name, n);
}

static void text(struct buf *out, const char *name, const char *value) {
    comma(out);
    buf_printf(out, "\"%s\":\"", name);
    text_json(out, str_c(value));
    buf_putc(out, '"');
}

static void truth(struct buf *out, const char *name, bool value) {
    comma(out);
    buf_printf(out, "\"%s\":%s", name, value ? "true" : "false");
}

/* Text that a tenant, a store or a library had a hand in: the last net for secrets, as in logs. */
static void foreign(struct buf *out, const char *name, const char *value) {
    char copy[512];
    size_t n = strnlen(value, sizeof copy - 1);
    memcpy(copy, value, n);
    copy[n] = '\0';
    secret_scrub(copy, n);
    text(out, name, copy);
}

/* ---- parts ---- */

static void counters(const struct status *s, struct buf *out) {
    static const struct {
        const char *name;
        enum counter id;
    } shown[] = {
        {"records", COUNTER_RECORDS},
        {"bytes", COUNTER_BYTES},
        {"delivered", COUNTER_DELIVERED},
        {"skipped", COUNTER_SKIPPED},
        {"parked", COUNTER_PARKED},
        {"retried", COUNTER_AGAIN},
        {"deadTenant", COUNTER_DEAD_TENANT},
        {"deadData", COUNTER_DEAD_DATA},
        {"deadSystem", COUNTER_DEAD_SYSTEM},
        {"lost", COUNTER_LOST},
        {"deliveries", COUNTER_PARCELS},
        {"failed", COUNTER_ATTEMPTS_FAILED},
        {"windows", COUNTER_WINDOWS},
        {"ledgerEntries", COUNTER_LEDGER_ENTRIES},
        {"transactions", COUNTER_TRANSACTIONS},
        {"transactionsFailed", COUNTER_TRANSACTIONS_FAILED},
        {"rebalances", COUNTER_REBALANCES},
        {"restarts", COUNTER_RESTARTS},
        {"held", COUNTER_HELD_BYTES},
        {"remembered", COUNTER_DEST_BYTES},
        {"waiting", COUNTER_WAITING},
        {"inFlight", COUNTER_FLYING},
        {"pending", COUNTER_PENDING},
        {"partitions", COUNTER_PARTITIONS},
        {"windowsOpen", COUNTER_WINDOWS_OPEN},
        {"windowsUnsettled", COUNTER_WINDOWS_UNSETTLED},
        {"lag", COUNTER_LAG},
        {"oldestMs", COUNTER_OLDEST_MS},
        {"recordAgeMs", COUNTER_RECORD_AGE_MS},
        {"unavailableMs", COUNTER_UNSTABLE_MS},
        {"settledAtMs", COUNTER_SETTLED_AT_MS},
    };
    begin(out, "counts", '{');
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        number(out, shown[i].name, (int64_t)metrics_total(s->sums, shown[i].id));
    buf_putc(out, '}');
}

static void history(const struct status *s, struct buf *out) {
    begin(out, "history", '[');
    for (size_t i = 0; i < s->n_samples; i++) {
        const struct status_sample *h = &s->samples[i];
        comma(out);
        buf_printf(out,
                   "[%" PRId64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64
                   ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 "]",
                   h->at_ms, h->records, h->delivered, h->parked, h->dead, h->failed, h->lag,
                   h->oldest_ms, h->held, h->waiting);
    }
    buf_putc(out, ']');
}

/* What needs a look first: what can't be read, then source topics, then the longest lag. */
static int by_need(const void *a, const void *b) {
    const struct snapshot_partition *x = *(const struct snapshot_partition *const *)a;
    const struct snapshot_partition *y = *(const struct snapshot_partition *const *)b;
    if (x->loaded != y->loaded) return x->loaded ? 1 : -1;
    if (x->retry != y->retry) return x->retry ? 1 : -1;
    return (x->lag < y->lag) - (x->lag > y->lag);
}

static void partition(const struct snapshot_partition *p, struct buf *out) {
    begin(out, NULL, '{');
    text(out, "topic", p->topic);
    number(out, "partition", p->id);
    truth(out, "retry", p->retry);
    truth(out, "leftover", p->leftover);
    text(out, "state", p->state);
    number(out, "committed", p->committed);
    number(out, "end", p->end);
    number(out, "lag", p->lag);
    number(out, "windows", (int64_t)p->windows);
    number(out, "oldestMs", p->oldest_ms);
    number(out, "lane", p->lane);
    buf_putc(out, '}');
}

static void partitions(const struct status *s, struct buf *out) {
    size_t n = 0, unlisted = 0, at = 0;
    for (size_t i = 0; i < s->lanes; i++) {
        if (!s->snapshots[i]) continue;
        n += s->snapshots[i]->n_partitions;
        unlisted += s->snapshots[i]->unlisted_partitions;
    }
    const struct snapshot_partition **all = xcalloc(n + 1, sizeof *all);
    for (size_t i = 0; i < s->lanes; i++)
        for (size_t j = 0; s->snapshots[i] && j < s->snapshots[i]->n_partitions; j++)
            all[at++] = &s->snapshots[i]->partitions[j];
    qsort(all, n, sizeof *all, by_need);
    begin(out, "partitions", '[');
    for (size_t i = 0; i < n && i < PARTITIONS_LISTED; i++) partition(all[i], out);
    buf_putc(out, ']');
    number(out, "partitionsUnlisted",
           (int64_t)(unlisted + (n > PARTITIONS_LISTED ? n - PARTITIONS_LISTED : 0)));
    free(all);
}

static void destination(const struct snapshot_destination *d, struct buf *out) {
    const struct destination_health *h = &d->health;
    begin(out, NULL, '{');
    foreign(out, "label", d->label);
    comma(out);
    /* JavaScript has no whole numbers of 64 bits. */
    buf_printf(out, "\"id\":\"%016" PRIx64 "\"", d->id);
    text(out, "type", d->type);
    truth(out, "open", h->open);
    number(out, "failingMs", d->failing_ms);
    number(out, "failures", h->failures);
    number(out, "delivered", (int64_t)h->delivered);
    number(out, "failed", (int64_t)h->failed);
    number(out, "parked", (int64_t)h->parked);
    number(out, "waiting", (int64_t)d->waiting);
    foreign(out, "why", h->last.why);
    foreign(out, "detail", h->last.detail);
    number(out, "status", h->last.status);
    number(out, "lane", d->lane);
    buf_putc(out, '}');
}

static int by_health(const void *a, const void *b) {
    return snapshot_worse(*(const void *const *)a, *(const void *const *)b);
}

static void destinations(const struct status *s, struct buf *out) {
    size_t n = 0, known = 0, open = 0, failing = 0, troubled = 0;
    const struct snapshot_destination **all =
        xcalloc(s->lanes * SNAPSHOT_DESTINATIONS + 1, sizeof *all);
    for (size_t i = 0; i < s->lanes; i++) {
        const struct lane_snapshot *one = s->snapshots[i];
        if (!one) continue;
        for (size_t j = 0; j < one->n_destinations; j++) all[n++] = &one->destinations[j];
        known += one->known;
        open += one->open;
        failing += one->failing;
        troubled += one->troubled;
    }
    qsort(all, n, sizeof *all, by_health);
    begin(out, "destinations", '[');
    for (size_t i = 0; i < n && i < SNAPSHOT_DESTINATIONS; i++) destination(all[i], out);
    buf_putc(out, ']');
    free(all);
    number(out, "destinationsKnown", (int64_t)known);
    number(out, "destinationsOpen", (int64_t)open);
    number(out, "destinationsFailing", (int64_t)failing);
    number(out, "destinationsTroubled", (int64_t)troubled);
}

/* ---- workspaces ---- */

static int by_workspace(const void *a, const void *b) {
    const struct snapshot_tried *x = a, *y = b;
    if (x->workspace != y->workspace) return x->workspace > y->workspace ? 1 : -1;
    return (x->destination > y->destination) - (x->destination < y->destination);
}

/* All destinations that were tried, by workspace; each as often as lanes have it. */
static struct snapshot_tried *all_tried(const struct status *s, size_t *ret_n) {
    size_t n = 0;
    for (size_t i = 0; i < s->lanes; i++) n += s->snapshots[i] ? s->snapshots[i]->n_tried : 0;
    struct snapshot_tried *all = xcalloc(n + 1, sizeof *all);
    *ret_n = n;
    for (size_t i = 0; i < s->lanes; i++) {
        const struct lane_snapshot *one = s->snapshots[i];
        if (!one) continue;
        n -= one->n_tried;
        memcpy(all + n, one->tried, one->n_tried * sizeof *all);
    }
    qsort(all, *ret_n, sizeof *all, by_workspace);
    return all;
}

/* How many of them are this workspace's, and for how many the last attempt failed in some lane. */
static void count_tried(const struct snapshot_tried *all, size_t n, uint64_t workspace, size_t *ret,
                        size_t *ret_sick) {
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (all[middle].workspace < workspace)
            low = middle + 1;
        else
            high = middle;
    }
    *ret = *ret_sick = 0;
    while (low < n && all[low].workspace == workspace) {
        uint64_t destination = all[low].destination;
        bool sick = false;
        for (; low < n && all[low].workspace == workspace && all[low].destination == destination;
             low++)
            sick |= all[low].sick;
        ++*ret;
        *ret_sick += sick;
    }
}

/* Where several lanes have a row of it they become one. */
static void add_workspace(struct snapshot_workspace *all, size_t *n,
                          const struct snapshot_workspace *w) {
    size_t i = 0;
    while (i < *n && all[i].hash != w->hash) i++;
    if (i == *n) {
        all[(*n)++] = *w;
        return;
    }
    all[i].waiting += w->waiting;
    all[i].redrivable += w->redrivable;
    for (size_t j = 0; j < 3; j++) all[i].dead[j] += w->dead[j];
    if (w->last_ms <= all[i].last_ms) return;
    all[i].last_ms = w->last_ms;
    all[i].last = w->last;
    memcpy(all[i].label, w->label, sizeof w->label);
}

static uint64_t deaths(const struct snapshot_workspace *w) {
    return w->dead[0] + w->dead[1] + w->dead[2];
}

static int by_trouble(const void *a, const void *b) {
    const struct snapshot_workspace *x = a, *y = b;
    if (x->waiting != y->waiting) return x->waiting > y->waiting ? -1 : 1;
    if (deaths(x) != deaths(y)) return deaths(x) > deaths(y) ? -1 : 1;
    return (x->last_ms < y->last_ms) - (x->last_ms > y->last_ms);
}

/* The command that sends its dead letters back; left out where it would not find them. */
static void redrive_command(const struct status *s, const struct snapshot_workspace *w,
                            struct buf *out) {
    char name[WORKSPACE_SHOWN];
    memcpy(name, w->name, sizeof name);
    secret_scrub(name, strlen(name));
    if (!w->exact || !w->redrivable || strcmp(name, w->name) != 0) return;
    struct buf b;
    buf_init(&b, 65536);
    bool ok = buf_puts(&b, "runsink redrive");
    if (s->config_path) ok = ok && shown_word(&b, " --config=", s->config_path);
    if (ok && shown_word(&b, " --workspace=", name)) text(out, "redrive", buf_cstr(&b));
    buf_free(&b);
}

static void workspaces(const struct status *s, struct buf *out) {
    struct snapshot_workspace *all = xcalloc(s->lanes * SNAPSHOT_WORKSPACES + 1, sizeof *all);
    size_t n = 0, n_tried, mine, sick;
    struct snapshot_tried *tried = all_tried(s, &n_tried);
    for (size_t i = 0; i < s->lanes; i++)
        for (size_t j = 0; s->snapshots[i] && j < s->snapshots[i]->n_workspaces; j++)
            add_workspace(all, &n, &s->snapshots[i]->workspaces[j]);
    qsort(all, n, sizeof *all, by_trouble);
    begin(out, "workspaces", '[');
    for (size_t i = 0; i < n && i < SNAPSHOT_WORKSPACES; i++) {
        const struct snapshot_workspace *w = &all[i];
        if (!w->waiting && !deaths(w)) continue;
        count_tried(tried, w->hash ? n_tried : 0, w->hash, &mine, &sick);
        begin(out, NULL, '{');
        foreign(out, "workspace", w->name);
        number(out, "destinations", (int64_t)mine);
        number(out, "sick", (int64_t)sick);
        number(out, "waiting", (int64_t)w->waiting);
        number(out, "deadTenant", (int64_t)w->dead[0]);
        number(out, "deadData", (int64_t)w->dead[1]);
        number(out, "deadSystem", (int64_t)w->dead[2]);
        number(out, "lastMs", w->last_ms);
        foreign(out, "label", w->label);
        foreign(out, "why", w->last.why);
        foreign(out, "detail", w->last.detail);
        redrive_command(s, w, out);
        buf_putc(out, '}');
    }
    buf_putc(out, ']');
    free(tried);
    free(all);
    struct snapshot_distinct d = snapshot_distinct(s->snapshots, s->lanes);
    number(out, "workspacesKnown", (int64_t)d.workspaces);
    number(out, "workspacesSick", (int64_t)d.sick_workspaces);
}

static int by_time(const void *a, const void *b) {
    const struct snapshot_dead *x = *(const struct snapshot_dead *const *)a;
    const struct snapshot_dead *y = *(const struct snapshot_dead *const *)b;
    return (x->at_ms < y->at_ms) - (x->at_ms > y->at_ms);
}

static void dead_letter(const struct snapshot_dead *d, struct buf *out) {
    begin(out, NULL, '{');
    number(out, "atMs", d->at_ms);
    text(out, "topic", d->topic);
    number(out, "partition", d->partition);
    number(out, "offset", d->offset);
    foreign(out, "label", d->label);
    foreign(out, "workspace", d->workspace);
    text(out, "fault", fault_name(d->outcome.fault));
    foreign(out, "why", d->outcome.why);
    foreign(out, "detail", d->outcome.detail);
    number(out, "status", d->outcome.status);
    number(out, "attempts", d->attempts);
    buf_putc(out, '}');
}

static void dead_letters(const struct status *s, struct buf *out) {
    const struct snapshot_dead **all = xcalloc(s->lanes * SNAPSHOT_DEAD + 1, sizeof *all);
    size_t n = 0;
    for (size_t i = 0; i < s->lanes; i++)
        for (size_t j = 0; s->snapshots[i] && j < s->snapshots[i]->n_dead; j++)
            all[n++] = &s->snapshots[i]->dead[j];
    qsort(all, n, sizeof *all, by_time);
    begin(out, "dead", '[');
    for (size_t i = 0; i < n && i < SNAPSHOT_DEAD; i++) dead_letter(all[i], out);
    buf_putc(out, ']');
    free(all);
}

static int by_count(const void *a, const void *b) {
    const struct snapshot_reason *x = a, *y = b;
    return (x->count < y->count) - (x->count > y->count);
}

static void add_reason(struct snapshot_reason *all, size_t *n, const struct snapshot_reason *r) {
    for (size_t i = 0; i < *n; i++) {
        if (all[i].fault != r->fault || strcmp(all[i].why, r->why) != 0) continue;
        all[i].count += r->count;
        if (r->last_ms > all[i].last_ms) all[i].last_ms = r->last_ms;
        return;
    }
    all[(*n)++] = *r;
}

static void reasons(const struct status *s, struct buf *out) {
    struct snapshot_reason *all = xcalloc(s->lanes * SNAPSHOT_REASONS + 1, sizeof *all);
    size_t n = 0;
    uint64_t others = 0;
    for (size_t i = 0; i < s->lanes; i++) {
        const struct lane_snapshot *one = s->snapshots[i];
        if (!one) continue;
        for (size_t j = 0; j < one->n_reasons; j++) add_reason(all, &n, &one->reasons[j]);
        others += one->other_reasons;
    }
    qsort(all, n, sizeof *all, by_count);
    begin(out, "reasons", '[');
    for (size_t i = 0; i < n; i++) {
        if (i >= SNAPSHOT_REASONS) {
            others += all[i].count;
            continue;
        }
        begin(out, NULL, '{');
        text(out, "fault", fault_name(all[i].fault));
        foreign(out, "why", all[i].why);
        number(out, "count", (int64_t)all[i].count);
        number(out, "lastMs", all[i].last_ms);
        buf_putc(out, '}');
    }
    buf_putc(out, ']');
    number(out, "reasonsOther", (int64_t)others);
    free(all);
}

static void settlement(const struct status *s, struct buf *out) {
    const struct lane_snapshot *last = NULL;
    int64_t age = -1;
    for (size_t i = 0; i < s->lanes; i++) {
        const struct lane_snapshot *one = s->snapshots[i];
        if (!one) continue;
        if (s->ages_ms[i] > age) age = s->ages_ms[i];
        if (one->settle_error[0] && (!last || one->settle_error_ms > last->settle_error_ms))
            last = one;
    }
    foreign(out, "settleError", last ? last->settle_error : "");
    number(out, "settleErrorMs", last ? last->settle_error_ms : 0);
    number(out, "snapshotAgeMs", age);
}

static void troubles(const struct status *s, struct buf *out) {
    begin(out, "troubles", '[');
    for (size_t i = 0; i < s->n_troubles; i++) {
        const struct trouble_report *r = &s->troubles[i];
        begin(out, NULL, '{');
        text(out, "cause", trouble_name(r->cause));
        text(out, "text", trouble_text(r->cause));
        text(out, "place", r->place);
        foreign(out, "detail", r->detail);
        text(out, "advice", trouble_advice(r->cause));
        number(out, "forMs", r->for_ms);
        truth(out, "unready", r->unready);
        buf_putc(out, '}');
    }
    buf_putc(out, ']');
}

void status_json(const struct status *s, struct buf *out) {
    bool batch = s->cfg->archive == CONFIG_ARCHIVE_BATCH;
    buf_putc(out, '{');
    text(out, "version", RUNSINK_VERSION);
    text(out, "group", s->cfg->group);
    text(out, "slot", s->cfg->slot);
    text(out, "archive", batch ? "batch" : "object");
    truth(out, "ledger", s->cfg->ledger);
    truth(out, "signed", s->cfg->ledger && s->cfg->ledger_key[0]);
    number(out, "lanes", (int64_t)s->lanes);
    number(out, "nowMs", s->now_ms);
    number(out, "startedMs", s->started_ms);
    number(out, "silenceMs", s->silence_ms);
    number(out, "budget", s->cfg->memory_budget);
    number(out, "windowAgeMs", batch ? s->cfg->batch_age : s->cfg->window_age);
    truth(out, "ready", !s->not_ready);
    text(out, "notReady", s->not_ready ? s->not_ready : "");
    troubles(s, out);
    counters(s, out);
    history(s, out);
    partitions(s, out);
    destinations(s, out);
    workspaces(s, out);
    dead_letters(s, out);
    reasons(s, out);
    settlement(s, out);
    buf_puts(out, "}\n");
}
