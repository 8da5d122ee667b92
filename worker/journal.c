/* What a settlement says: for each partition that has complete windows, or boundaries to make
 * durable, the ledger entries, the parked records, the dead letters, and the offset with its
 * metadata. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/crash.h"
#include "worker/lane.h"
#include "worker/log.h"
#include "worker/topics.h"

#define ENTRY_MAX ((size_t)16 << 20)
#define BACKOFF_MIN_MS 100
#define BACKOFF_MAX_MS 5000
#define STALE_MS 10000 /* the callback that ends it comes sooner, if there is one */

/* One partition's part of a settlement under way. */
struct chapter {
    uint64_t serial;
    size_t windows; /* to be popped */
    struct meta meta;
    int64_t offset;
};

struct journal {
    struct settle_job *job;
    struct chapter *chapters;
    size_t n;
    bool boundaries;
    uint64_t memberships; /* the lane's, when the job took its group metadata */
};

/* ---- what is due ---- */

static bool has_undeclared(const struct partition *p) {
    for (const struct window *w = p->windows.oldest; w; w = w->newer) {
        const struct load *load = w->user;
        if (w->sealed && !w->declared && load && load->batched) return true;
    }
    return false;
}

static size_t settleable(const struct partition *p) {
    if (!crash_breaks(CRASH_COMMIT_FIRST)) return windows_settleable(&p->windows);
    size_t n = 0;
    for (const struct window *w = p->windows.oldest; w && w->sealed; w = w->newer) n++;
    return n;
}

/* A complete batch window waits for the next boundary to ride with, as long as one is filling: so
 * in steady state there is one transaction for each window. */
static bool is_due(const struct lane *lane, const struct partition *p) {
    if (!p->loaded) return false;
    if (p->pin || has_undeclared(p) || !claim_same(&p->want, &p->meta.claim)) return true;
    if (!settleable(p)) return false;
    const struct window *open = windows_open(&p->windows);
    const struct load *filling = open ? open->user : NULL;
    return !filling || !filling->batched || !filling->first || lane->finishing || lane->ending;
}

bool journal_due(const struct lane *lane) {
    for (const struct partition *p = lane->partitions; p; p = p->next)
        if (is_due(lane, p)) return true;
    return false;
}

/* ---- records ---- */

static const char *copy(struct settle_job *job, const char *s) {
    return arena_strdup(&job->arena, str_c(s));
}

static struct requeue past_of(const struct lane *lane, const struct load *load,
                              const struct slot *slot) {
    const struct parcel *p = slot->parcel;
    const struct progress *g = p ? &p->progress : &slot->progress;
    struct requeue r = {.first_failure_ms = g->first_failure_ms,
                        .due_ms = g->due_ms,
                        .not_before_ms = g->not_before_ms,
                        .attempts = g->attempts,
                        .timestamp_ms = slot->timestamp_ms,
                        .origin = {.partition = slot->from_partition, .offset = slot->from_offset}};
    snprintf(r.origin.topic, sizeof r.origin.topic, "%s", load->topic);
    snprintf(r.why, sizeof r.why, "%s", slot->outcome->why);
    snprintf(r.group, sizeof r.group, "%s", lane->cfg->group);
    snprintf(r.destination, sizeof r.destination, "%s", p && p->label ? p->label : "");
    if (p && p->ndjson && p->key) {
        snprintf(r.batch_key, sizeof r.batch_key, "%s", p->key);
        r.batch_count = p->n;
        r.batch_index = slot->batch_index;
    }
    return r;
}

/* A record that goes round unattempted, or can't be decoded any more, is still bound for where it
 * was. In a retry topic that header is our own. */
static void recall_destination(struct requeue *r, const struct header *headers, size_t n) {
    struct requeue before;
    const char *unused;
    if (requeue_parse(headers, n, &before, &unused))
        memcpy(r->destination, before.destination, sizeof r->destination);
}

static void add_record(struct lane *lane, struct settle_job *job, const struct load *load,
                       const struct slot *slot) {
    rd_kafka_headers_t *list = NULL;
    struct header *originals = NULL;
    size_t n = 0;
    if (rd_kafka_message_headers(slot->msg, &list) == RD_KAFKA_RESP_ERR_NO_ERROR) {
        originals = arena_alloc(&job->arena, rd_kafka_header_cnt(list) * sizeof *originals);
        const char *name;
        const void *value;
        size_t size;
        while (rd_kafka_header_get_all(list, n, &name, &value, &size) == RD_KAFKA_RESP_ERR_NO_ERROR)
            originals[n++] =
                (struct header){.name = str_c(name), .value = {value, value ? size : 0}};
    }
    struct requeue r = past_of(lane, load, slot);
    if (load->partition->kind == PARTITION_RETRY && !slot->parcel)
        recall_destination(&r, originals, n);
    char topic[TOPIC_MAX + 1] = "";
    struct settle_record *rec = settle_job_add(job);
    if (slot->fate == FATE_PARKED) {
        size_t tier = slot->parcel ? slot->parcel->progress.tier : slot->progress.tier;
        topic_retry(load->topic, lane->cfg->retry_delays.v[tier], topic);
        rec->headers = requeue_headers(&r, originals, n, &job->arena, &rec->n_headers);
    } else {
        topic_dead(load->topic, slot->outcome->fault, topic);
        rec->headers = dead_headers(&r, slot->outcome, lane->wall_ms, originals, n, &job->arena,
                                    &rec->n_headers);
    }
    rec->topic = copy(job, topic);
    rec->partition = slot->from_partition;
    rec->key = slot->msg->key;
    rec->key_len = slot->msg->key_len;
    rec->value = slot->msg->payload;
    rec->value_len = slot->msg->len;
}

/* ---- ledger ---- */

static enum ledger_kind kind_of(enum fate fate) {
    switch (fate) {
    case FATE_OPEN: /* only when a test breaks the rules on purpose */
    case FATE_DELIVERED:
        return LEDGER_DELIVERED;
    case FATE_SKIPPED:
        return LEDGER_SKIPPED;
    case FATE_PARKED:
        return LEDGER_PARKED;
    case FATE_DEAD:
        return LEDGER_DEAD;
    }
    return LEDGER_DEAD;
}

static struct ledger_item describe(const struct lane *lane, const struct slot *slot) {
    const struct parcel *p = slot->parcel;
    const struct outcome *o = slot->outcome;
    struct ledger_item item = {.kind = kind_of(slot->fate), .dest = p ? p->label : NULL};
    if (item.kind == LEDGER_DELIVERED && p) {
        item.key = p->key;
        item.status = p->delivery.outcome.status;
        item.sha256 = p->delivery.batch.body_sha256;
        item.size = p->delivery.batch.body_len;
    } else if (o) {
        item.why = o->why;
        item.fault = o->fault;
        if (slot->fate == FATE_PARKED)
            item.tier = lane->cfg->retry_delays.v[p ? p->progress.tier : slot->progress.tier];
    }
    return item;
}

/* Members of a batch that came back stand in the batch's order, which need not be that of the
 * partition. */
static int by_offset(const void *a, const void *b) {
    const struct slot *x = *(struct slot *const *)a, *y = *(struct slot *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static void fill_offsets(struct settle_job *job, const struct load *load, struct ledger_item *item,
                         struct slot **members, size_t n) {
    int64_t *offsets = arena_alloc(&job->arena, n * sizeof *offsets);
    struct origin *origins = NULL;
    if (load->partition->kind == PARTITION_RETRY) {
        qsort(members, n, sizeof(struct slot *), by_offset);
        origins = arena_alloc(&job->arena, n * sizeof *origins);
    }
    for (size_t i = 0; i < n; i++) {
        offsets[i] = members[i]->offset;
        if (!origins) continue;
        snprintf(origins[i].topic, sizeof origins[i].topic, "%s", load->topic);
        origins[i].partition = members[i]->from_partition;
        origins[i].offset = members[i]->from_offset;
    }
    item->offsets = offsets;
    item->origins = origins;
    item->n = n;
}

static bool add_ledger(struct lane *lane, struct settle_job *job, const struct partition *p,
                       const struct window *w, struct meta *meta) {
    const struct load *load = w->user;
    struct ledger_item *items = arena_alloc(&job->arena, (w->taken + 1) * sizeof *items);
    size_t n = 0;
    for (struct slot *s = load->first; s; s = s->next) {
        if (s->foreign) continue;
        if (s->parcel && s != s->parcel->members[0]) continue; /* said with the parcel's first */
        struct slot *alone[1] = {s};
        items[n] = describe(lane, s);
        fill_offsets(job, load, &items[n], s->parcel ? s->parcel->members : alone,
                     s->parcel ? s->parcel->n : 1);
        n++;
    }
    struct ledger_window entry = {.group = lane->cfg->group,
                                  .topic = p->topic,
                                  .partition = p->id,
                                  .first = w->first,
                                  .next = w->next,
                                  .seq = meta->seq,
                                  .opened_ms = load->opened_wall_ms,
                                  .settled_ms = lane->wall_ms,
                                  .lost = w->lost,
                                  .introduce = !p->introduced,
                                  .items = items,
                                  .n_items = n};
    memcpy(entry.prev, meta->head, SHA256_LEN);
    struct buf value;
    buf_init(&value, ENTRY_MAX);
    bool ok = ledger_encode(&entry, lane->shared->signer, &value, meta->head);
    if (ok) {
        char key[TOPIC_MAX + 16], topic[TOPIC_MAX + 1] = "";
        ledger_record_key(key, sizeof key, p->topic, p->id);
        topic_ledger(p->base, topic);
        struct settle_record *rec = settle_job_add(job);
        rec->topic = copy(job, topic);
        rec->key = copy(job, key);
        rec->key_len = strlen(key);
        rec->value = arena_strdup(&job->arena, (struct str){value.p, value.n});
        rec->value_len = value.n;
        meta->seq++;
    }
    buf_free(&value);
    return ok;
}

/* ---- a settlement ---- */

/* Ends of windows in object mode need not be durable; those that an earlier owner declared in batch
 * mode do until they are settled. */
static void keep_ends(const struct lane *lane, const struct partition *p, struct meta *meta,
                      size_t skip) {
    meta->n_ends = windows_ends(&p->windows, skip, meta->ends);
    if (p->kind == PARTITION_SOURCE && lane->cfg->archive == CONFIG_ARCHIVE_BATCH) {
        if (crash_breaks(CRASH_NO_BOUNDARY)) meta->n_ends = 0;
        return;
    }
    while (meta->n_ends && meta->ends[meta->n_ends - 1] > p->replay_end) meta->n_ends--;
}

static bool add_chapter(struct lane *lane, struct journal *j, struct partition *p) {
    struct settle_job *job = j->job;
    size_t k = settleable(p), at = 0;
    bool boundary = has_undeclared(p);
    bool claim = !claim_same(&p->want, &p->meta.claim);
    if (!k && !boundary && !p->pin && !claim) return true;
    struct chapter c = {.serial = p->serial, .windows = k, .meta = p->meta, .offset = p->committed};
    for (struct window *w = p->windows.oldest; w && at < k; w = w->newer, at++) {
        struct load *load = w->user;
        if (lane->cfg->ledger && !add_ledger(lane, job, p, w, &c.meta)) {
            log_error("a ledger entry is too large: lower window.records or batch.records",
                      LOG_S("topic", p->topic), LOG_I("partition", p->id), LOG_I("first", w->first),
                      LOG_I("next", w->next));
            return false;
        }
        for (struct slot *s = load->first; s; s = s->next)
            if (s->fate == FATE_PARKED || s->fate == FATE_DEAD) add_record(lane, job, load, s);
        c.offset = w->next;
    }
    keep_ends(lane, p, &c.meta, k);
    c.meta.claim = p->want;
    char text[META_MAX + 1];
    if (!meta_encode(&c.meta, text)) {
        log_error("the offset's metadata would not fit", LOG_S("topic", p->topic),
                  LOG_I("partition", p->id), LOG_I("windows", (int64_t)p->windows.count));
        return false;
    }
    if (!settle_job_offset(job, p->topic, p->id, c.offset, text)) abort();
    j->boundaries = j->boundaries || boundary;
    j->chapters[j->n++] = c;
    return true;
}

static void back_off(struct lane *lane) {
    lane->settle_backoff_ms =
        lane->settle_backoff_ms ? lane->settle_backoff_ms * 2 : BACKOFF_MIN_MS;
    if (lane->settle_backoff_ms > BACKOFF_MAX_MS) lane->settle_backoff_ms = BACKOFF_MAX_MS;
    lane->settle_after_ms = lane->now_ms + lane->settle_backoff_ms;
}

static void journal_free(struct journal *j) {
    if (!j) return;
    settle_job_free(j->job);
    free(j->chapters);
    free(j);
}

static void submit(struct lane *lane) {
    struct settle_job *job = settle_job_new(lane->consumer);
    if (!job) { /* not a member at this moment */
        back_off(lane);
        return;
    }
    size_t n = 0;
    for (struct partition *p = lane->partitions; p; p = p->next) n++;
    struct journal *j = xcalloc(1, sizeof *j);
    *j = (struct journal){.job = job,
                          .chapters = xcalloc(n, sizeof(struct chapter)),
                          .memberships = lane->memberships};
    bool ok = true;
    for (struct partition *p = lane->partitions; p && ok; p = p->next)
        if (p->loaded) {
            careful_announce(lane, p);
            ok = add_chapter(lane, j, p);
        }
    if (!ok || !j->n) {
        journal_free(j);
        back_off(lane);
        return;
    }
    if (j->boundaries) crash_point(CRASH_BOUNDARY_BEFORE);
    lane->journal = j;
    settler_submit(lane->settler, job);
}

/* Everything sealed when the job was made is durable now. */
static void apply(struct lane *lane, struct partition *p, const struct chapter *c) {
    int64_t records = 0;
    for (size_t i = 0; i < c->windows; i++) {
        struct window *w = windows_pop(&p->windows);
        records += w->taken;
        struct load *load = w->user;
        count(&lane->counters, COUNTER_WINDOWS, 1);
        count(&lane->counters, COUNTER_LEDGER_ENTRIES, lane->cfg->ledger);
        if (w->lost) count(&lane->counters, COUNTER_LOST, (uint64_t)(w->next - w->first));
        load->window = NULL;
        window_free(w);
        lane_discard(lane, load);
    }
    p->introduced = p->introduced || c->windows;
    p->committed = c->offset;
    p->pin = false;
    p->meta = c->meta;
    int64_t last = c->meta.n_ends ? c->meta.ends[c->meta.n_ends - 1] : 0;
    for (struct window *w = p->windows.oldest; w && w->sealed; w = w->newer) {
        struct load *load = w->user;
        if (w->declared || !load->batched) continue;
        if (w->next > last && !crash_breaks(CRASH_NO_BOUNDARY)) break;
        w->declared = true;
        load_flush(load);
    }
    careful_settled(lane, p, records);
}

static void report(struct lane *lane, const struct settle_job *job) {
    count(&lane->counters, COUNTER_TRANSACTIONS_FAILED, 1);
    observer_settle_error(lane, job->error);
    log_warn("settlement failed", LOG_I("lane", lane->id), LOG_S("error", job->error),
             LOG_S("next", job->result == SETTLE_STALE     ? "waits for the rebalance"
                           : job->result == SETTLE_UNKNOWN ? "the lane starts anew"
                                                           : "is tried again"));
}

static void finish(struct lane *lane, struct journal *j) {
    struct settle_job *job = j->job;
    observe_us(&lane->counters, HISTOGRAM_SETTLEMENT, 0, job->took_us);
    if (job->result == SETTLE_DONE) {
        if (j->boundaries) crash_point(CRASH_BOUNDARY_AFTER);
        count(&lane->counters, COUNTER_TRANSACTIONS, 1);
        count_set(&lane->counters, COUNTER_SETTLED_AT_MS, (uint64_t)lane->wall_ms);
        lane->settle_backoff_ms = 0;
        for (size_t i = 0; i < j->n; i++) {
            struct partition *p = source_find(lane, j->chapters[i].serial);
            if (p) apply(lane, p, &j->chapters[i]);
        }
        return;
    }
    report(lane, job);
    back_off(lane);
    /* A membership that a callback has renewed meanwhile is not the one that was refused. */
    if (job->result == SETTLE_STALE && j->memberships == lane->memberships) {
        lane->stale = true;
        lane->settle_after_ms = lane->now_ms + STALE_MS;
    }
    if (job->result == SETTLE_UNKNOWN) {
        lane->restart = true;
        snprintf(lane->restart_why, sizeof lane->restart_why, "%.120s", job->error);
    }
}

void journal_abandon(struct lane *lane) {
    if (lane->journal) lane->journal->job = NULL;
    journal_free(lane->journal);
    lane->journal = NULL;
}

void journal_run(struct lane *lane) {
    if (lane->journal) {
        if (!settler_take(lane->settler)) return;
        struct journal *j = lane->journal;
        lane->journal = NULL;
        finish(lane, j);
        journal_free(j);
    }
    if (lane->restart || lane->now_ms < lane->settle_after_ms) return;
    lane->stale = false;
    if (journal_due(lane)) submit(lane);
}
