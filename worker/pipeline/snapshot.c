#include "worker/pipeline/snapshot.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>

#include "worker/base/log.h"
#include "worker/pipeline/lane.h"

#define GAUGES_MS 1000

struct observer {
    /* The lane's alone. */
    int64_t gauges_ms;
    bool unready;                             /* when the gauges were set last */
    struct snapshot_dead dead[SNAPSHOT_DEAD]; /* a ring */
    uint64_t n_dead;
    struct snapshot_reason reasons[SNAPSHOT_REASONS];
    size_t n_reasons;
    uint64_t other_reasons;
    uint64_t whose[SNAPSHOT_WORKSPACES]; /* the rows' hashes, together: a search reads few bytes */
    struct snapshot_workspace workspaces[SNAPSHOT_WORKSPACES];
    struct backlog backlogs[SNAPSHOT_WORKSPACES];
    size_t n_workspaces;
    int64_t unfit_ms[UNFIT_SLOTS];         /* when it was used last; 0: never */
    uint32_t skips[2][SKIPS][SKIPS_SLOTS]; /* of this period, and of the one before */
    int64_t skips_ms;                      /* when this period began */
    char settle_error[256];
    int64_t settle_error_ms;
    /* Shared. */
    int wake_fd;
    atomic_bool asked;
    pthread_mutex_t mutex;
    pthread_cond_t there;
    struct lane_snapshot *ready; /* nobody's but the mutex's */
};

struct observer *observer_new(int wake_fd) {
    struct observer *o = xcalloc(1, sizeof *o);
    pthread_condattr_t attr;
    o->wake_fd = wake_fd;
    pthread_mutex_init(&o->mutex, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&o->there, &attr);
    pthread_condattr_destroy(&attr);
    return o;
}

void observer_free(struct observer *o) {
    if (!o) return;
    lane_snapshot_free(o->ready);
    pthread_cond_destroy(&o->there);
    pthread_mutex_destroy(&o->mutex);
    free(o);
}

void lane_snapshot_free(struct lane_snapshot *s) {
    if (!s) return;
    free(s->partitions);
    free(s->tried);
    free(s);
}

/* ---- what happens ---- */

/* In the order of snapshot_workspace.dead. */
static const size_t by_fault[] = {
    [FAULT_TENANT] = 0, [FAULT_DATA] = 1, [FAULT_NONE] = 2, [FAULT_SYSTEM] = 2};

static struct snapshot_reason *reason_for(struct observer *o, const struct outcome *outcome) {
    struct snapshot_reason *stale = o->reasons;
    for (size_t i = 0; i < o->n_reasons; i++) {
        struct snapshot_reason *r = &o->reasons[i];
        if (r->fault == outcome->fault && strcmp(r->why, outcome->why) == 0) return r;
        if (r->last_ms < stale->last_ms) stale = r;
    }
    if (o->n_reasons < SNAPSHOT_REASONS)
        stale = &o->reasons[o->n_reasons++];
    else /* some come from stores' answers, so there is no end to them */
        o->other_reasons += stale->count;
    *stale = (struct snapshot_reason){.fault = outcome->fault};
    memcpy(stale->why, outcome->why, sizeof stale->why);
    return stale;
}

/* The row of this workspace; NULL: it has none. */
static struct snapshot_workspace *find_workspace(struct observer *o, uint64_t hash) {
    for (size_t i = 0; i < o->n_workspaces; i++)
        if (o->whose[i] == hash) return &o->workspaces[i];
    return NULL;
}

/* The row of the record's workspace. A new one replaces the one whose last trouble is oldest. */
static struct snapshot_workspace *workspace_for(struct observer *o, const struct window *w,
                                                const struct record *record) {
    struct snapshot_workspace *row = find_workspace(o, record->workspace);
    if (row) return row;
    size_t at = 0;
    if (o->n_workspaces < SNAPSHOT_WORKSPACES)
        at = o->n_workspaces++;
    else
        for (size_t i = 1; i < SNAPSHOT_WORKSPACES; i++)
            if (o->workspaces[i].last_ms < o->workspaces[at].last_ms) at = i;
    o->whose[at] = record->workspace;
    o->backlogs[at] = (struct backlog){0};
    row = &o->workspaces[at];
    *row = (struct snapshot_workspace){.hash = record->workspace};
    record_workspace(w, record, row->name, &row->exact);
    return row;
}

static void note_trouble(struct snapshot_workspace *row, const struct lane *lane,
                         const struct outcome *o, const char *label) {
    row->last_ms = lane->wall_ms;
    row->last = *o;
    snprintf(row->label, sizeof row->label, "%s", label);
}

static int64_t longest_delay(const struct lane *lane) {
    int64_t most = 0;
    for (size_t i = 0; i < lane->schedule.n; i++)
        if (lane->schedule.delays[i] > most) most = lane->schedule.delays[i];
    return most;
}

void observer_parked(const struct window *w, const struct record *record, struct destination *dest,
                     const struct outcome *outcome, int64_t due_ms) {
    struct lane *lane = w->lane;
    struct observer *o = lane->observer;
    struct snapshot_workspace *row = workspace_for(o, w, record);
    int64_t longest = longest_delay(lane);
    note_trouble(row, lane, outcome, dest->label);
    backlog_add(&o->backlogs[row - o->workspaces], longest, due_ms, lane->wall_ms);
    backlog_add(destination_backlog(dest), longest, due_ms, lane->wall_ms);
}

void observer_back(struct lane *lane, const struct record *record, struct destination *dest,
                   int64_t due_ms) {
    struct observer *o = lane->observer;
    struct snapshot_workspace *row = find_workspace(o, record->workspace);
    if (row) backlog_take(&o->backlogs[row - o->workspaces], due_ms);
    if (dest) backlog_take(destination_backlog(dest), due_ms);
}

static void list_dead(const struct window *w, const struct record *record, const char *label,
                      const char *workspace) {
    struct observer *o = w->lane->observer;
    struct snapshot_dead *d = &o->dead[o->n_dead++ % SNAPSHOT_DEAD];
    *d = (struct snapshot_dead){.at_ms = w->lane->wall_ms,
                                .partition = record->from_partition,
                                .offset = record->from_offset,
                                .outcome = *record->outcome,
                                .attempts = record->progress->attempts};
    snprintf(d->topic, sizeof d->topic, "%s", w->topic);
    snprintf(d->label, sizeof d->label, "%s", label);
    snprintf(d->workspace, sizeof d->workspace, "%s", workspace);
}

void observer_dead(const struct window *w, const struct record *record) {
    struct lane *lane = w->lane;
    struct observer *o = lane->observer;
    const struct delivery *delivery = record->delivery;
    const struct outcome *outcome = record->outcome;
    const char *label = delivery ? delivery->label : "";
    struct snapshot_reason *r = reason_for(o, outcome);
    r->count++;
    r->last_ms = lane->wall_ms;
    struct snapshot_workspace *row = workspace_for(o, w, record);
    note_trouble(row, lane, outcome, label);
    row->dead[by_fault[outcome->fault]]++;
    row->redrivable += record->payload.json.p != NULL;
    /* What the operator holds would hide what is wrong. */
    if (!record_is_held(record, outcome)) list_dead(w, record, label, row->name);
    if (delivery && outcome->fault == FAULT_DATA) observer_unfit(lane, delivery->batch.workspace);
}

void observer_unfit(struct lane *lane, uint64_t workspace) {
    if (workspace)
        lane->observer->unfit_ms[workspace % UNFIT_SLOTS] = lane->now_ms;
    else
        count(&lane->counters, COUNTER_UNATTRIBUTED, 1);
}

void observer_settle_error(struct lane *lane, const char *error) {
    struct observer *o = lane->observer;
    snprintf(o->settle_error, sizeof o->settle_error, "%s", error);
    o->settle_error_ms = lane->wall_ms;
}

/* ---- gauges ---- */

static int64_t since(int64_t then, int64_t now) {
    return then && now > then ? now - then : 0;
}

static int64_t oldest_ms(const struct lane *lane, const struct partition *p) {
    return p->windows.oldest ? since(p->windows.oldest->opened_ms, lane->now_ms) : 0;
}

/* Nothing is left to read or to settle: offsets up to the end are only markers of transactions. */
static bool is_idle(const struct partition *p) {
    return p->loaded && partition_at_end(p) && !p->windows.count && !p->held_ms;
}

static void measure(const struct partition *p, int64_t *ret_end, int64_t *ret_lag) {
    int64_t low, high;
    *ret_end = *ret_lag = -1;
    if (!p->loaded || !feed_ends(p->feed, &low, &high)) return; /* nothing was fetched yet */
    int64_t from = p->begins ? low : p->committed;
    if (from < 0) return;
    *ret_end = high;
    *ret_lag = is_idle(p) || high < from ? 0 : high - from;
}

struct gauges {
    uint64_t partitions, unloaded, open, unsettled, lag;
    int64_t oldest, record_age, unstable, held;
};

static void greatest(int64_t *most, int64_t n) {
    if (n > *most) *most = n;
}

static void gauge(struct lane *lane, struct partition *p, struct gauges *g) {
    int64_t end, lag;
    const struct window *open = windows_open(&p->windows);
    const struct window *first = p->windows.oldest;
    greatest(&g->held, vitals_held_ms(lane, p));
    measure(p, &end, &lag);
    g->partitions++;
    g->unloaded += !p->loaded;
    g->open += open != NULL;
    g->unsettled += p->windows.count - (open != NULL);
    if (p->kind == PARTITION_SOURCE && lag > 0) g->lag += (uint64_t)lag;
    greatest(&g->oldest, oldest_ms(lane, p));
    if (p->kind == PARTITION_SOURCE && first)
        greatest(&g->record_age, since(first->timestamp_ms, lane->wall_ms));
    if (p->loaded)
        p->unloaded_ms = 0;
    else if (!p->unloaded_ms)
        p->unloaded_ms = lane->now_ms;
    greatest(&g->unstable, since(p->unloaded_ms, lane->now_ms));
}

/* Whether the lane is ready. */
static bool set_gauges(struct lane *lane) {
    struct counters *c = &lane->counters;
    struct gauges g = {.held = since(lane->recall_held_ms, lane->now_ms)};
    for (struct partition *p = lane->partitions; p; p = p->next) gauge(lane, p, &g);
    count_set(c, COUNTER_ASSIGNED, lane->assigned);
    count_set(c, COUNTER_PARTITIONS, g.partitions);
    count_set(c, COUNTER_UNLOADED, g.unloaded);
    count_set(c, COUNTER_WINDOWS_OPEN, g.open);
    count_set(c, COUNTER_WINDOWS_UNSETTLED, g.unsettled);
    count_set(c, COUNTER_LAG, g.lag);
    count_set(c, COUNTER_OLDEST_MS, (uint64_t)g.oldest);
    count_set(c, COUNTER_RECORD_AGE_MS, (uint64_t)g.record_age);
    count_set(c, COUNTER_UNSTABLE_MS, (uint64_t)g.unstable);
    count_set(c, COUNTER_HELD_MS, (uint64_t)g.held);
    return lane->assigned && !g.unloaded;
}

/* ---- copying ---- */

static const char *state_of(const struct lane *lane, const struct partition *p) {
    const struct window *open = windows_open(&p->windows);
    if (!p->loaded) return "waits for its committed offset";
    if (p->unreadable_ms) return "not readable";
    if (p->beyond_ms) return "its committed offset lies beyond its end";
    if (p->seek_ms) return "looks for its position";
    if (p->left) return "left to the next owner";
    if (open && open->replayed) return "replays";
    if (p->head_due_ms > lane->wall_ms) return "waits until due";
    if (p->held_ms) return "held by an open transaction";
    if (p->recall != RECALL_NONE && !is_idle(p)) return "waits until the ledger is read";
    return is_idle(p) ? "at the end" : "reads";
}

static void copy_partitions(struct lane *lane, struct lane_snapshot *s) {
    size_t n = 0;
    for (const struct partition *p = lane->partitions; p; p = p->next) n++;
    size_t most = n < SNAPSHOT_PARTITIONS ? n : SNAPSHOT_PARTITIONS;
    s->partitions = xcalloc(most + 1, sizeof *s->partitions);
    s->unlisted_partitions = n - most;
    for (struct partition *p = lane->partitions; p && s->n_partitions < most; p = p->next) {
        struct snapshot_partition *to = &s->partitions[s->n_partitions++];
        memcpy(to->topic, p->topic, sizeof to->topic);
        to->id = p->id;
        to->lane = lane->id;
        to->retry = p->kind == PARTITION_RETRY;
        to->leftover = p->leftover;
        to->loaded = p->loaded;
        to->state = state_of(lane, p);
        to->committed = p->loaded && !p->begins ? p->committed : -1;
        to->windows = p->windows.count;
        to->oldest_ms = oldest_ms(lane, p);
        measure(p, &to->end, &to->lag);
    }
}

int snapshot_worse(const void *a, const void *b) {
    const struct destination_health *x = &((const struct snapshot_destination *)a)->health;
    const struct destination_health *y = &((const struct snapshot_destination *)b)->health;
    if (x->open != y->open) return x->open ? -1 : 1;
    if (x->failures != y->failures) return x->failures > y->failures ? -1 : 1;
    uint64_t p = x->failed + x->parked, q = y->failed + y->parked;
    if (p != q) return p > q ? -1 : 1;
    return (x->delivered < y->delivered) - (x->delivered > y->delivered);
}

/* Collects the worst destinations. It has room for twice as many as are kept, and is sorted and cut
 * when full, so a table of any size costs little more than one look at each destination. */
struct collection {
    struct lane_snapshot *to;
    const struct lane *lane;
    size_t n;
    struct snapshot_destination all[2 * SNAPSHOT_DESTINATIONS];
};

static void cut(struct collection *c) {
    qsort(c->all, c->n, sizeof *c->all, snapshot_worse);
    if (c->n > SNAPSHOT_DESTINATIONS) c->n = SNAPSHOT_DESTINATIONS;
}

static void collect(struct destination *dest, void *ctx) {
    struct collection *c = ctx;
    struct snapshot_destination *d = &c->all[c->n];
    destination_health(dest, &d->health);
    d->id = keyed_hash(dest->identity, sizeof dest->identity);
    d->waiting = backlog_count(destination_backlog(dest), c->lane->wall_ms);
    c->to->known++;
    c->to->open += d->health.open;
    c->to->failing += d->health.failures > 0;
    c->to->troubled += d->health.failed || d->health.parked;
    if (d->health.workspace)
        c->to->tried[c->to->n_tried++] = (struct snapshot_tried){.workspace = d->health.workspace,
                                                                 .host = dest->host,
                                                                 .destination = d->id,
                                                                 .sick = d->health.sick};
    memcpy(d->label, dest->label, sizeof d->label);
    d->type = dest->type->name;
    d->lane = c->lane->id;
    d->failing_ms =
        d->health.failing_since_ms ? since(d->health.failing_since_ms, c->lane->now_ms) : -1;
    if (++c->n == 2 * SNAPSHOT_DESTINATIONS) cut(c);
}

static void copy_destinations(struct lane *lane, struct lane_snapshot *s) {
    struct collection *c = xmalloc(sizeof *c);
    c->to = s;
    c->lane = lane;
    c->n = 0;
    s->tried = xcalloc(router_count(lane->router) + 1, sizeof *s->tried);
    router_each(lane->router, collect, c);
    cut(c);
    memcpy(s->destinations, c->all, c->n * sizeof *c->all);
    s->n_destinations = c->n;
    free(c);
}

const char *skip_name(enum skip skip) {
    static const char *const names[] = {
        [SKIP_NO_SINK] = "no-sink", [SKIP_STATUS] = "status",       [SKIP_FAIL] = "skipOnFail",
        [SKIP_APIS] = "apisToSend", [SKIP_TOMBSTONE] = "tombstone", [SKIP_OPERATOR] = "operator",
        [SKIP_OTHER] = "other"};
    _Static_assert(sizeof names / sizeof *names == SKIPS, "each has a name");
    return names[skip];
}

/* The older half of the notes goes. */
static void age_skips(struct observer *o, int64_t now_ms) {
    if (now_ms - o->skips_ms < SKIPS_MS) return;
    if (now_ms - o->skips_ms >= 2 * SKIPS_MS) memset(o->skips[0], 0, sizeof o->skips[0]);
    memcpy(o->skips[1], o->skips[0], sizeof o->skips[1]);
    memset(o->skips[0], 0, sizeof o->skips[0]);
    o->skips_ms = now_ms;
}

void observer_skipped(struct lane *lane, const char *why, uint64_t workspace) {
    struct observer *o = lane->observer;
    age_skips(o, lane->now_ms);
    for (int i = 0; i <= SKIP_APIS; i++) {
        uint32_t *n = &o->skips[0][i][workspace % SKIPS_SLOTS];
        if (strcmp(why, skip_name((enum skip)i)) == 0 && *n < UINT32_MAX / 2) ++*n;
    }
}

static void copy_notes(struct observer *o, int64_t now_ms, int64_t wall_ms,
                       struct lane_snapshot *s) {
    age_skips(o, now_ms);
    for (int i = 0; i < SKIPS; i++)
        for (size_t j = 0; j < SKIPS_SLOTS; j++)
            s->skips[i][j] = o->skips[0][i][j] + o->skips[1][i][j];
    for (size_t i = 0; i < UNFIT_SLOTS; i++) {
        bool used = o->unfit_ms[i] && now_ms - o->unfit_ms[i] < UNFIT_MS;
        s->unfit[i / 64] |= (uint64_t)used << (i % 64);
    }
    s->n_dead = o->n_dead < SNAPSHOT_DEAD ? (size_t)o->n_dead : SNAPSHOT_DEAD;
    for (size_t i = 0; i < s->n_dead; i++)
        s->dead[i] = o->dead[(o->n_dead - 1 - i) % SNAPSHOT_DEAD];
    for (size_t i = 0; i < o->n_workspaces; i++) {
        s->workspaces[i] = o->workspaces[i];
        s->workspaces[i].waiting = backlog_count(&o->backlogs[i], wall_ms);
    }
    s->n_workspaces = o->n_workspaces;
    memcpy(s->reasons, o->reasons, o->n_reasons * sizeof *o->reasons);
    s->n_reasons = o->n_reasons;
    s->other_reasons = o->other_reasons;
    memcpy(s->settle_error, o->settle_error, sizeof s->settle_error);
    s->settle_error_ms = o->settle_error_ms;
}

void observer_serve(struct lane *lane) {
    struct observer *o = lane->observer;
    count_set(&lane->counters, COUNTER_TURN_MS, (uint64_t)lane->now_ms);
    /* Readiness must not be a second late. */
    if (lane->now_ms - o->gauges_ms >= GAUGES_MS || o->unready || !lane->assigned) {
        o->gauges_ms = lane->now_ms;
        o->unready = !set_gauges(lane);
        vitals_tick(lane);
    }
    if (!atomic_exchange(&o->asked, false)) return;
    struct lane_snapshot *s = xcalloc(1, sizeof *s);
    copy_partitions(lane, s);
    copy_destinations(lane, s);
    copy_notes(o, lane->now_ms, lane->wall_ms, s);
    pthread_mutex_lock(&o->mutex);
    struct lane_snapshot *unread = o->ready;
    o->ready = s;
    pthread_cond_signal(&o->there);
    pthread_mutex_unlock(&o->mutex);
    lane_snapshot_free(unread);
}

/* ---- counting ---- */

struct one {
    uint64_t key;
    bool sick;
};

static int by_key(const void *a, const void *b) {
    const struct one *x = a, *y = b;
    return (x->key > y->key) - (x->key < y->key);
}

static void distinct(struct one *all, size_t n, size_t *ret, size_t *ret_sick) {
    qsort(all, n, sizeof *all, by_key);
    *ret = *ret_sick = 0;
    for (size_t i = 0, next; i < n; i = next) {
        size_t sick = 0;
        for (next = i; next < n && all[next].key == all[i].key; next++) sick += all[next].sick;
        ++*ret;
        *ret_sick += 2 * sick > next - i;
    }
}

static double largest_skip(struct lane_snapshot *const *lanes, size_t n, enum skip skip) {
    uint64_t most = 0, all = 0;
    for (size_t j = 0; j < SKIPS_SLOTS; j++) {
        uint64_t one = 0;
        for (size_t i = 0; i < n; i++) one += lanes[i] ? lanes[i]->skips[skip][j] : 0;
        if (one > most) most = one;
        all += one;
    }
    return all ? (double)most / (double)all : 0;
}

struct snapshot_distinct snapshot_distinct(struct lane_snapshot *const *lanes, size_t n) {
    struct snapshot_distinct ret = {0};
    uint64_t unfit[UNFIT_SLOTS / 64] = {0};
    size_t most = 0, workspaces = 0, hosts = 0;
    for (size_t i = 0; i < n; i++) most += lanes[i] ? lanes[i]->n_tried : 0;
    struct one *workspace = xcalloc(2 * most + 1, sizeof *workspace), *host = workspace + most;
    for (size_t i = 0; i < n; i++) {
        const struct lane_snapshot *s = lanes[i];
        if (!s) continue;
        for (size_t j = 0; j < s->n_tried; j++) {
            const struct snapshot_tried *t = &s->tried[j];
            workspace[workspaces++] = (struct one){t->workspace, t->sick};
            if (t->host) host[hosts++] = (struct one){t->host, t->sick};
        }
        for (size_t j = 0; j < UNFIT_SLOTS / 64; j++) unfit[j] |= s->unfit[j];
    }
    distinct(workspace, workspaces, &ret.workspaces, &ret.sick_workspaces);
    distinct(host, hosts, &ret.hosts, &ret.sick_hosts);
    for (size_t j = 0; j < UNFIT_SLOTS / 64; j++)
        ret.unfit_workspaces += (size_t)__builtin_popcountll(unfit[j]);
    for (int i = 0; i < SKIPS; i++) ret.largest[i] = largest_skip(lanes, n, (enum skip)i);
    free(workspace);
    return ret;
}

/* ---- asking ---- */

void observer_ask(struct observer *o) {
    atomic_store(&o->asked, true);
    if (eventfd_write(o->wake_fd, 1) != 0) log_warn("waking a lane failed");
}

struct lane_snapshot *observer_take(struct observer *o, int64_t until_ms) {
    struct timespec until = {.tv_sec = until_ms / 1000, .tv_nsec = until_ms % 1000 * 1000000};
    pthread_mutex_lock(&o->mutex);
    int rc = 0;
    while (!o->ready && rc == 0) rc = pthread_cond_timedwait(&o->there, &o->mutex, &until);
    struct lane_snapshot *s = o->ready;
    o->ready = NULL;
    pthread_mutex_unlock(&o->mutex);
    return s;
}
