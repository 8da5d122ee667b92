#include "worker/admin/status.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/base/json_out.h"
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

/* Text that a tenant, a store or a library had a hand in: the last net for secrets, as in logs. */
static void foreign(struct buf *out, const char *name, const char *value) {
    char copy[512];
    size_t n = strnlen(value, sizeof copy - 1);
    memcpy(copy, value, n);
    copy[n] = '\0';
    secret_scrub(copy, n);
    out_string(out, name, copy);
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
        {"deliveries", COUNTER_DELIVERIES},
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
    out_open(out, "counts", '{');
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++)
        out_int(out, shown[i].name, (int64_t)metrics_total(s->sums, shown[i].id));
    out_close(out, '}');
}

static void history(const struct status *s, struct buf *out) {
    out_open(out, "history", '[');
    for (size_t i = 0; i < s->n_samples; i++) {
        const struct status_sample *h = &s->samples[i];
        const uint64_t v[] = {h->records, h->delivered, h->parked, h->dead,   h->failed,
                              h->lag,     h->oldest_ms, h->held,   h->waiting};
        out_open(out, NULL, '[');
        out_int(out, NULL, h->at_ms);
        for (size_t k = 0; k < sizeof v / sizeof *v; k++) out_uint(out, NULL, v[k]);
        out_close(out, ']');
    }
    out_close(out, ']');
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
    out_open(out, NULL, '{');
    out_string(out, "topic", p->topic);
    out_int(out, "partition", p->id);
    out_bool(out, "retry", p->retry);
    out_bool(out, "leftover", p->leftover);
    out_string(out, "state", p->state);
    out_int(out, "committed", p->committed);
    out_int(out, "end", p->end);
    out_int(out, "lag", p->lag);
    out_int(out, "windows", (int64_t)p->windows);
    out_int(out, "oldestMs", p->oldest_ms);
    out_int(out, "lane", p->lane);
    out_close(out, '}');
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
    out_open(out, "partitions", '[');
    for (size_t i = 0; i < n && i < PARTITIONS_LISTED; i++) partition(all[i], out);
    out_close(out, ']');
    out_int(out, "partitionsUnlisted",
            (int64_t)(unlisted + (n > PARTITIONS_LISTED ? n - PARTITIONS_LISTED : 0)));
    free(all);
}

static void destination(const struct snapshot_destination *d, struct buf *out) {
    const struct destination_health *h = &d->health;
    out_open(out, NULL, '{');
    foreign(out, "label", d->label);
    /* JavaScript has no whole numbers of 64 bits. */
    char id[17];
    snprintf(id, sizeof id, "%016" PRIx64, d->id);
    out_string(out, "id", id);
    out_string(out, "type", d->type);
    out_bool(out, "open", h->open);
    out_int(out, "failingMs", d->failing_ms);
    out_int(out, "failures", h->failures);
    out_int(out, "delivered", (int64_t)h->delivered);
    out_int(out, "failed", (int64_t)h->failed);
    out_int(out, "parked", (int64_t)h->parked);
    out_int(out, "waiting", (int64_t)d->waiting);
    foreign(out, "why", h->last.why);
    foreign(out, "detail", h->last.detail);
    out_int(out, "status", h->last.status);
    out_int(out, "lane", d->lane);
    out_close(out, '}');
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
    out_open(out, "destinations", '[');
    for (size_t i = 0; i < n && i < SNAPSHOT_DESTINATIONS; i++) destination(all[i], out);
    out_close(out, ']');
    free(all);
    out_int(out, "destinationsKnown", (int64_t)known);
    out_int(out, "destinationsOpen", (int64_t)open);
    out_int(out, "destinationsFailing", (int64_t)failing);
    out_int(out, "destinationsTroubled", (int64_t)troubled);
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
    if (ok && shown_word(&b, " --workspace=", name)) out_string(out, "redrive", buf_cstr(&b));
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
    out_open(out, "workspaces", '[');
    for (size_t i = 0; i < n && i < SNAPSHOT_WORKSPACES; i++) {
        const struct snapshot_workspace *w = &all[i];
        if (!w->waiting && !deaths(w)) continue;
        count_tried(tried, w->hash ? n_tried : 0, w->hash, &mine, &sick);
        out_open(out, NULL, '{');
        foreign(out, "workspace", w->name);
        out_int(out, "destinations", (int64_t)mine);
        out_int(out, "sick", (int64_t)sick);
        out_int(out, "waiting", (int64_t)w->waiting);
        out_int(out, "deadTenant", (int64_t)w->dead[0]);
        out_int(out, "deadData", (int64_t)w->dead[1]);
        out_int(out, "deadSystem", (int64_t)w->dead[2]);
        out_int(out, "lastMs", w->last_ms);
        foreign(out, "label", w->label);
        foreign(out, "why", w->last.why);
        foreign(out, "detail", w->last.detail);
        redrive_command(s, w, out);
        out_close(out, '}');
    }
    out_close(out, ']');
    free(tried);
    free(all);
    struct snapshot_distinct d = snapshot_distinct(s->snapshots, s->lanes);
    out_int(out, "workspacesKnown", (int64_t)d.workspaces);
    out_int(out, "workspacesSick", (int64_t)d.sick_workspaces);
}

static int by_time(const void *a, const void *b) {
    const struct snapshot_dead *x = *(const struct snapshot_dead *const *)a;
    const struct snapshot_dead *y = *(const struct snapshot_dead *const *)b;
    return (x->at_ms < y->at_ms) - (x->at_ms > y->at_ms);
}

static void dead_letter(const struct snapshot_dead *d, struct buf *out) {
    out_open(out, NULL, '{');
    out_int(out, "atMs", d->at_ms);
    out_string(out, "topic", d->topic);
    out_int(out, "partition", d->partition);
    out_int(out, "offset", d->offset);
    foreign(out, "label", d->label);
    foreign(out, "workspace", d->workspace);
    out_string(out, "fault", fault_name(d->outcome.fault));
    foreign(out, "why", d->outcome.why);
    foreign(out, "detail", d->outcome.detail);
    out_int(out, "status", d->outcome.status);
    out_int(out, "attempts", d->attempts);
    out_close(out, '}');
}

static void dead_letters(const struct status *s, struct buf *out) {
    const struct snapshot_dead **all = xcalloc(s->lanes * SNAPSHOT_DEAD + 1, sizeof *all);
    size_t n = 0;
    for (size_t i = 0; i < s->lanes; i++)
        for (size_t j = 0; s->snapshots[i] && j < s->snapshots[i]->n_dead; j++)
            all[n++] = &s->snapshots[i]->dead[j];
    qsort(all, n, sizeof *all, by_time);
    out_open(out, "dead", '[');
    for (size_t i = 0; i < n && i < SNAPSHOT_DEAD; i++) dead_letter(all[i], out);
    out_close(out, ']');
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
    out_open(out, "reasons", '[');
    for (size_t i = 0; i < n; i++) {
        if (i >= SNAPSHOT_REASONS) {
            others += all[i].count;
            continue;
        }
        out_open(out, NULL, '{');
        out_string(out, "fault", fault_name(all[i].fault));
        foreign(out, "why", all[i].why);
        out_int(out, "count", (int64_t)all[i].count);
        out_int(out, "lastMs", all[i].last_ms);
        out_close(out, '}');
    }
    out_close(out, ']');
    out_int(out, "reasonsOther", (int64_t)others);
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
    out_int(out, "settleErrorMs", last ? last->settle_error_ms : 0);
    out_int(out, "snapshotAgeMs", age);
}

static void troubles(const struct status *s, struct buf *out) {
    out_open(out, "troubles", '[');
    for (size_t i = 0; i < s->n_troubles; i++) {
        const struct trouble_report *r = &s->troubles[i];
        out_open(out, NULL, '{');
        out_string(out, "cause", trouble_name(r->cause));
        out_string(out, "text", trouble_text(r->cause));
        out_string(out, "place", r->place);
        foreign(out, "detail", r->detail);
        out_string(out, "advice", trouble_advice(r->cause));
        out_int(out, "forMs", r->for_ms);
        out_bool(out, "unready", r->unready);
        out_close(out, '}');
    }
    out_close(out, ']');
}

static void patterns(const char *name, const struct list *l, struct buf *out) {
    out_open(out, name, '[');
    for (size_t i = 0; i < l->n; i++) foreign(out, NULL, l->v[i]);
    out_close(out, ']');
}

static void holds(const struct status *s, struct buf *out) {
    out_open(out, "holds", '{');
    patterns("workspaces", &s->cfg->hold_workspaces, out);
    patterns("destinations", &s->cfg->hold_destinations, out);
    out_uint(out, "events", metrics_total(s->sums, COUNTER_DEAD_HELD));
    out_close(out, '}');
}

void status_json(const struct status *s, struct buf *out) {
    bool batch = s->cfg->archive == CONFIG_ARCHIVE_BATCH;
    out_open(out, NULL, '{');
    out_string(out, "version", RUNSINK_VERSION);
    out_string(out, "group", s->cfg->group);
    out_string(out, "slot", s->cfg->slot);
    out_string(out, "archive", batch ? "batch" : "object");
    out_bool(out, "ledger", s->cfg->ledger);
    out_bool(out, "signed", s->cfg->ledger && s->cfg->ledger_key[0]);
    out_int(out, "lanes", (int64_t)s->lanes);
    out_int(out, "nowMs", s->now_ms);
    out_int(out, "startedMs", s->started_ms);
    out_int(out, "silenceMs", s->silence_ms);
    out_int(out, "budget", s->cfg->memory_budget);
    out_int(out, "windowAgeMs", batch ? s->cfg->batch_age : s->cfg->window_age);
    out_bool(out, "ready", !s->not_ready);
    out_string(out, "notReady", s->not_ready ? s->not_ready : "");
    troubles(s, out);
    holds(s, out);
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
