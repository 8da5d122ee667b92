#include "worker/pipeline/settlement.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/base/crash.h"
#include "worker/base/failures.h"
#include "worker/base/log.h"
#include "worker/kafka/topic_names.h"
#include "worker/pipeline/assignment.h"
#include "worker/pipeline/careful.h"
#include "worker/pipeline/caution.h"
#include "worker/pipeline/delivery.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/notice.h"
#include "worker/pipeline/record.h"

#define ENTRY_MAX ((size_t)16 << 20)
#define BACKOFF_MIN_MS 100
#define BACKOFF_MAX_MS 5000
#define STALE_MS 10000 /* the callback that ends it comes sooner, if there is one */
#define BLOCKED_MIN_MS 1000
#define BLOCKED_MAX_MS 30000
#define FAILING_MS 5000 /* a hiccup is no news */
#define SLOW_MS 10000
#define MARKER_MAX ((size_t)1024)

/* One partition's part of a settlement under way. */
struct part {
    uint64_t serial;
    size_t windows; /* to be popped */
    struct meta meta;
    int64_t offset;
    uint64_t notices;
    unsigned anew; /* entries that say that the topic was made anew */
    bool over;     /* after the windows, so that they are the old one's */
};

struct settlement {
    struct txn *job;
    struct part *parts;
    size_t n;
    bool boundaries;
    int64_t since_ms;
    uint64_t memberships;      /* the lane's, when the job took its group metadata */
    char alone[TOPIC_MAX + 1]; /* the blocked source that it tries; empty: the others */
};

/* A source whose records can't be settled, because one of runsink's topics beside it can't be
 * written, or because it can't be read. The other sources are settled without it. It is tried again
 * now and then, alone. */
struct blocked {
    char base[TOPIC_MAX + 1], topic[TOPIC_MAX + 1];
    int64_t again_ms, pause_ms, since_ms;
    int64_t tried_ms; /* the last time, in vain */
    struct blocked *next;
};

/* ---- what is due ---- */

static struct blocked *find_blocked(const struct lane *lane, const char *base) {
    struct blocked *b = lane->blocked;
    while (b && strcmp(b->base, base) != 0) b = b->next;
    return b;
}

/* The blocked source whose turn it is to be tried, or NULL. */
static const struct blocked *trial(const struct lane *lane) {
    const struct blocked *first = NULL;
    for (const struct blocked *b = lane->blocked; b; b = b->next)
        if (b->again_ms <= lane->now_ms && (!first || b->again_ms < first->again_ms)) first = b;
    return first;
}

int64_t settlement_again_ms(const struct lane *lane) {
    int64_t least = INT64_MAX;
    for (const struct blocked *b = lane->blocked; b; b = b->next)
        if (b->again_ms < least) least = b->again_ms;
    return least;
}

int64_t settlement_blocked_since(const struct lane *lane, const struct partition *p) {
    const struct blocked *b = find_blocked(lane, p->base);
    return b ? b->since_ms : 0;
}

/* One failure says little: the topic may just have changed its leader. */
bool settlement_hopeless(const struct lane *lane, const struct partition *p, int64_t since_ms) {
    const struct blocked *b = find_blocked(lane, p->base);
    return b && b->tried_ms >= since_ms && b->pause_ms > BLOCKED_MIN_MS;
}

void settlement_hurry(struct lane *lane) {
    for (struct blocked *b = lane->blocked; b; b = b->next) b->again_ms = lane->now_ms;
}

static bool has_undeclared(const struct partition *p) {
    for (const struct window *w = p->windows.oldest; w; w = w->newer) {
        if (w->sealed && !w->declared && w->batched) return true;
    }
    return false;
}

static size_t settleable(const struct partition *p) {
    if (!crash_breaks(CRASH_COMMIT_FIRST)) return windows_settleable(&p->windows);
    size_t n = 0;
    for (const struct window *w = p->windows.oldest; w && w->sealed; w = w->newer) n++;
    return n;
}

/* All that was read of a topic that is gone can be settled, with where the new one begins. */
static bool goes_over(const struct partition *p) {
    return p->vanished && p->anew_at >= 0 && p->windows.count && settleable(p) == p->windows.count;
}

/* A complete batch window waits while the next one is filling, and is settled in the transaction
 * that makes the next one's end durable. So in steady state each window takes one transaction. */
static bool is_due(const struct lane *lane, const struct partition *p) {
    if (!p->loaded || partition_begins_unproven(p)) return false;
    if (p->vanished) return goes_over(p);
    if (p->claim_alone) return !claim_same(&p->want, &p->meta.claim);
    if (p->pin || has_undeclared(p) || !claim_same(&p->want, &p->meta.claim)) return true;
    if (!settleable(p)) return false;
    const struct window *open = windows_open(&p->windows);
    return !open || !open->batched || !open->records || lane->finishing || lane->ending;
}

/* Of a settlement that tries one source alone, or of all those that are not blocked. */
static bool has_part(const struct lane *lane, const struct partition *p,
                     const struct blocked *alone) {
    if (p->unsure_ms && p->sure_ms < p->unsure_ms && !p->vanished) return false;
    if (p->claim_alone || !lane->blocked) return true;
    return alone ? strcmp(alone->base, p->base) == 0 : !find_blocked(lane, p->base);
}

static bool any_due(const struct lane *lane, const struct blocked *alone) {
    for (const struct partition *p = lane->partitions; p; p = p->next)
        if (has_part(lane, p, alone) && is_due(lane, p)) return true;
    return false;
}

bool settlement_due(const struct lane *lane) {
    return any_due(lane, NULL);
}

/* ---- records ---- */

static const char *copy(struct txn *job, const char *s) {
    return arena_strdup(&job->arena, str_c(s));
}

static struct retry past_of(const struct lane *lane, const struct window *w,
                            const struct record *record) {
    const struct delivery *d = record->delivery;
    struct retry r = {
        .progress = *record->progress,
        .timestamp_ms = record->timestamp_ms,
        .origin = {.partition = record->from_partition, .offset = record->from_offset}};
    snprintf(r.origin.topic, sizeof r.origin.topic, "%s", w->topic);
    snprintf(r.why, sizeof r.why, "%s", record->outcome->why);
    snprintf(r.group, sizeof r.group, "%s", lane->cfg->group);
    snprintf(r.destination, sizeof r.destination, "%s", d ? d->label : "");
    r.told = record->told;
    if (d && d->batched && d->key) {
        snprintf(r.batch_key, sizeof r.batch_key, "%s", d->key);
        r.batch_count = d->n;
        r.batch_index = record->batch_index;
    }
    return r;
}

/* A record that goes round unattempted, or can't be decoded any more, is still bound for where it
 * was. In a retry topic that header is our own. */
static void recall_destination(struct retry *r, const struct header *headers, size_t n) {
    struct retry before;
    const char *unused;
    if (retry_parse(headers, n, &before, &unused))
        memcpy(r->destination, before.destination, sizeof r->destination);
}

/* What stands for a value that the dead topic, or the retry topic before it, refuses. Nothing in it
 * is longer than we say, and it has a key of its own, which a compacted topic asks for and keeps: a
 * topic that refuses this takes nothing. */
static void put_marker(struct txn *job, struct txn_record *rec, const struct record *record,
                       const struct retry *r) {
    uint8_t digest[SHA256_LEN];
    char text[HEX_LEN(SHA256_LEN) + 1];
    struct buf b;
    buf_init(&b, MARKER_MAX);
    struct str value = fetched_value(record->message);
    sha256(value.p, value.n, digest);
    hex(digest, SHA256_LEN, text);
    buf_printf(&b,
               "{\"runsink\":\"marker\",\"topic\":\"%s\",\"partition\":%" PRId32
               ",\"offset\":%" PRId64 ",\"bytes\":%zu,\"sha256\":\"%s\"}",
               r->origin.topic, r->origin.partition, r->origin.offset, value.n, text);
    rec->value = arena_strdup(&job->arena, (struct str){b.p, b.n});
    rec->value_len = b.n;
    buf_clear(&b);
    buf_printf(&b, "%s/%" PRId32 "/%" PRId64, r->origin.topic, r->origin.partition,
               r->origin.offset);
    rec->key = arena_strdup(&job->arena, (struct str){b.p, b.n});
    rec->key_len = b.n;
    buf_free(&b);
}

static void add_record(struct lane *lane, struct txn *job, struct window *w,
                       struct record *record) {
    struct message m;
    fetched_message(record->message, &job->arena, &m);
    struct str key = fetched_key(record->message);
    struct retry r = past_of(lane, w, record);
    if (w->partition->kind == PARTITION_RETRY && !record->delivery)
        recall_destination(&r, m.headers, m.n_headers);
    char topic[TOPIC_MAX + 1] = "";
    struct txn_record *rec = txn_add(job);
    if (record->marked) {
        r.marker = (int64_t)m.value.n + !m.value.n;
        m.n_headers = 0; /* it may be the headers that are too much */
    }
    if (record->state == RECORD_PARKED) {
        topic_retry(w->topic, lane->cfg->retry_delays.v[record->progress->tier], topic);
        rec->headers = retry_headers(&r, m.headers, m.n_headers, &job->arena, &rec->n_headers);
    } else {
        topic_dead(w->topic, record->outcome->fault, topic);
        rec->headers = dead_headers(&r, record->outcome, lane->wall_ms, m.headers, m.n_headers,
                                    &job->arena, &rec->n_headers);
    }
    rec->topic = copy(job, topic);
    rec->partition = record->from_partition;
    rec->key = key.p;
    rec->key_len = key.n;
    rec->value = m.value.p;
    rec->value_len = m.value.n;
    rec->owner = record;
    if (record->marked) put_marker(job, rec, record, &r);
}

static void add_notice(struct txn *job, const struct window *w, const struct notice *notice) {
    static const char name[] = "content-type", type[] = NOTICE_CONTENT_TYPE;
    static const struct header header = {{name, sizeof name - 1}, {type, sizeof type - 1}};
    char topic[TOPIC_MAX + 1] = "";
    struct txn_record *rec = txn_add(job);
    topic_outcomes(w->topic, topic);
    rec->topic = copy(job, topic);
    rec->partition = TXN_AS_JAVA;
    rec->key = notice->key.p;
    rec->key_len = notice->key.n;
    rec->value = notice->value.p;
    rec->value_len = notice->value.n;
    rec->headers = &header;
    rec->n_headers = 1;
}

/* ---- ledger ---- */

static struct ledger_item describe(const struct lane *lane, const struct record *record) {
    static const enum ledger_kind kinds[] = {
        [RECORD_OPEN] = LEDGER_DELIVERED, /* only when a test breaks the rules on purpose */
        [RECORD_DELIVERED] = LEDGER_DELIVERED,
        [RECORD_SKIPPED] = LEDGER_SKIPPED,
        [RECORD_PARKED] = LEDGER_PARKED,
        [RECORD_DEAD] = LEDGER_DEAD};
    const struct delivery *d = record->delivery;
    const struct outcome *o = record->outcome;
    struct ledger_item item = {.kind = kinds[record->state], .dest = d ? d->label : NULL};
    if (item.kind == LEDGER_DELIVERED && d) {
        item.key = d->key;
        item.status = d->outcome.status;
        item.sha256 = d->batch.body_sha256;
        item.size = d->batch.body_len;
    } else if (o) {
        item.why = o->why;
        item.fault = o->fault;
        if (record->state == RECORD_PARKED)
            item.tier = lane->cfg->retry_delays.v[record->progress->tier];
    }
    return item;
}

/* Members of a batch that came back stand in the batch's order, which need not be that of the
 * partition. */
static int by_offset(const void *a, const void *b) {
    const struct record *x = *(struct record *const *)a, *y = *(struct record *const *)b;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static void fill_offsets(struct txn *job, const struct window *w, struct ledger_item *item,
                         struct record **members, size_t n) {
    int64_t *offsets = arena_alloc(&job->arena, n * sizeof *offsets);
    struct origin *origins = NULL;
    if (w->partition->kind == PARTITION_RETRY) {
        qsort(members, n, sizeof(struct record *), by_offset);
        origins = arena_alloc(&job->arena, n * sizeof *origins);
    }
    for (size_t i = 0; i < n; i++) {
        offsets[i] = members[i]->offset;
        if (!origins) continue;
        snprintf(origins[i].topic, sizeof origins[i].topic, "%s", w->topic);
        origins[i].partition = members[i]->from_partition;
        origins[i].offset = members[i]->from_offset;
    }
    item->offsets = offsets;
    item->origins = origins;
    item->n = n;
}

/* The entry's bytes to the ledger; the chain goes on from it. */
static bool put_entry(struct lane *lane, struct txn *job, const struct partition *p,
                      struct ledger_window *entry, struct meta *meta) {
    struct buf value;
    buf_init(&value, ENTRY_MAX);
    const struct ledger_maker maker = {lane->shared->cluster, lane->cfg->rules};
    entry->maker = lane->cfg->ledger_form == 2 ? &maker : NULL;
    entry->group = lane->cfg->group;
    entry->topic = p->topic;
    entry->partition = p->id;
    entry->seq = meta->seq;
    /* A clock that was put back meanwhile makes no window end before it began. */
    entry->settled_ms = lane->wall_ms < entry->opened_ms ? entry->opened_ms : lane->wall_ms;
    memcpy(entry->prev, meta->head, SHA256_LEN);
    const struct ledger_signer *signer = partition_signs(p) ? lane->shared->signer : NULL;
    bool ok = ledger_encode(entry, signer, &value, meta->head);
    entry->maker = NULL;
    if (ok) {
        char key[TOPIC_MAX + 16], topic[TOPIC_MAX + 1] = "";
        ledger_record_key(key, sizeof key, p->topic, p->id);
        topic_ledger(p->base, topic);
        struct txn_record *rec = txn_add(job);
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

/* The chain goes over from the topic that is gone to the one that has its name now. */
static bool add_anew(struct lane *lane, struct txn *job, const struct partition *p, int64_t before,
                     int64_t first, struct meta *meta) {
    struct ledger_window entry = {.first = first,
                                  .next = first,
                                  .opened_ms = lane->wall_ms,
                                  .anew = true,
                                  .before = before,
                                  .introduce = !p->introduced};
    bool said = meta->seq && lane->cfg->ledger && put_entry(lane, job, p, &entry, meta);
    /* Above the last one's, also where that went with the group's offsets: seq is the ledger's. */
    meta->era = 1 + (meta->era > meta->seq ? meta->era : meta->seq);
    return said;
}

static bool add_ledger(struct lane *lane, struct txn *job, const struct partition *p,
                       struct window *w, struct meta *meta) {
    struct ledger_item *items = arena_alloc(&job->arena, (w->taken + 1) * sizeof *items);
    size_t n = 0;
    for (struct record *r = w->records; r; r = r->next) {
        struct delivery *d = r->delivery;
        if (r->foreign || (d && r != d->members[0])) continue; /* said with the delivery's first */
        items[n] = describe(lane, r);
        fill_offsets(job, w, &items[n], d ? d->members : &r, d ? d->n : 1);
        n++;
    }
    struct ledger_window entry = {.first = w->first,
                                  .next = w->next,
                                  .opened_ms = w->opened_wall_ms,
                                  .lost = w->lost,
                                  .last = w->last_record ? &w->last : NULL,
                                  .introduce = !p->introduced,
                                  .items = items,
                                  .n_items = n};
    return put_entry(lane, job, p, &entry, meta);
}

/* ---- what is refused ---- */

static void unblock(struct lane *lane, const char *base) {
    for (struct blocked **at = &lane->blocked; *at; at = &(*at)->next) {
        struct blocked *b = *at;
        if (strcmp(b->base, base) != 0) continue;
        trouble_clear(lane->shared->troubles, lane->id, TROUBLE_OWN_TOPIC, b->topic);
        *at = b->next;
        free(b);
        return;
    }
}

/* The source of the topic, which can't be settled because of it, is tried later, alone. */
static void set_aside(struct lane *lane, const char *topic) {
    char base[TOPIC_MAX + 1];
    topic_source(topic, base);
    struct blocked *b = find_blocked(lane, base);
    if (b && strcmp(b->topic, topic) != 0)
        trouble_clear(lane->shared->troubles, lane->id, TROUBLE_OWN_TOPIC, b->topic);
    if (!b) {
        b = xcalloc(1, sizeof *b);
        b->next = lane->blocked;
        lane->blocked = b;
        memcpy(b->base, base, sizeof b->base);
        b->since_ms = lane->now_ms;
    }
    b->tried_ms = lane->now_ms;
    snprintf(b->topic, sizeof b->topic, "%s", topic);
    b->pause_ms = b->pause_ms ? b->pause_ms * 2 : BLOCKED_MIN_MS;
    if (b->pause_ms > BLOCKED_MAX_MS) b->pause_ms = BLOCKED_MAX_MS;
    b->again_ms = lane->now_ms + b->pause_ms;
}

static void block(struct lane *lane, const char *topic, const char *why) {
    set_aside(lane, topic);
    trouble_set(lane->shared->troubles, lane->id, TROUBLE_OWN_TOPIC, topic, why, 0);
    vitals_look_soon(lane); /* it is made again where it may be */
}

/* A topic without the right to read it takes no offset either, and Kafka refuses the transaction
 * for it. Why it can't be read is told already. False: there is none. */
static bool set_aside_unreadable(struct lane *lane, const struct settlement *j) {
    bool any = false;
    for (size_t i = 0; i < j->n; i++) {
        const struct partition *p = partition_find(lane, j->parts[i].serial);
        if (!p || !p->unreadable_ms) continue;
        const struct blocked *b = find_blocked(lane, p->base);
        if (!b || b->tried_ms != lane->now_ms) set_aside(lane, p->topic);
        any = true;
    }
    return any;
}

/* The record can't be parked, so it becomes a dead letter. Members of a batch stay together: all of
 * them do. */
static void bury(struct record *record, const struct outcome *o) {
    struct window *w = record->window;
    struct counters *c = &w->lane->counters;
    struct delivery *d = record->delivery;
    struct outcome *kept = d ? &d->outcome : arena_alloc(&w->arena, sizeof *kept);
    size_t n = d ? d->n : 1;
    *kept = *o;
    for (size_t i = 0; i < n; i++) {
        struct record *r = d ? d->members[i] : record;
        r->state = RECORD_DEAD;
        r->outcome = kept;
        w->parked--;
        count(c, COUNTER_UNPARKED, 1);
        count_by(c, COUNTER_DEAD_DATA, r->sink, 1);
        count(c, failure_counter(o->why), 1);
        observer_dead(w, r);
        if (w->lane->cfg->outcomes != CONFIG_OUTCOMES_OFF) record_tell(w, r);
    }
    record_log(w, record, RECORD_DEAD, (uint32_t)n, kept);
}

/* A record that its topic will never take. False when the topic takes nothing. */
static bool mark(struct lane *lane, const struct txn_record *rec) {
    struct record *record = rec->owner;
    if (!record || record->marked) return false;
    log_error("a record is larger than a topic of runsink's own takes, or not what it takes: a "
              "marker stands for it among the dead letters, the record stays in its source; raise "
              "max.message.bytes of the topic (`runsink check` compares)",
              LOG_S("topic", record->window->topic), LOG_I("partition", record->from_partition),
              LOG_I("offset", record->from_offset), LOG_I("bytes", rec->value_len),
              LOG_S("refused_by", rec->topic), LOG_S("error", rec->refused));
    struct outcome o = outcome_fail(VERDICT_PERMANENT, FAULT_DATA, "refused-by-topic", "%s: %s",
                                    rec->topic, rec->refused);
    if (record->state == RECORD_PARKED) bury(record, &o);
    record->marked = true;
    count(&lane->counters, COUNTER_MARKED, 1);
    return true;
}

static void take_refused(struct lane *lane, const struct txn *job) {
    for (size_t i = 0; i < job->n_records; i++) {
        const struct txn_record *r = &job->records[i];
        if (!r->refused || mark(lane, r)) continue;
        char why[160];
        const char *what = r->owner                                       ? "even a marker"
                           : topic_kind(r->topic, NULL) == TOPIC_OUTCOMES ? "an outcome"
                                                                          : "a ledger entry";
        snprintf(why, sizeof why, "it refuses %s of %zu bytes: %s", what, r->value_len, r->refused);
        block(lane, r->topic, why);
    }
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

/* A partition whose part can't be written holds up no other. */
static void leave_out(struct lane *lane, struct txn *job, size_t records, const struct partition *p,
                      const char *problem) {
    char topic[TOPIC_MAX + 1] = "";
    job->n_records = records;
    topic_ledger(p->base, topic);
    block(lane, topic, problem);
}

/* Of a source that can't be settled: no topic of its own is needed for that. The ends that are
 * durable stay. */
static void add_claim(struct settlement *j, struct partition *p) {
    struct part c = {.serial = p->serial, .meta = p->meta, .offset = p->committed};
    char text[META_MAX + 1];
    c.meta.claim = p->want;
    if (!meta_encode(&c.meta, text)) return;
    txn_offset(j->job, p->topic, p->id, c.offset, text)->follows = p->durable;
    j->parts[j->n++] = c;
}

static void add_part(struct lane *lane, struct settlement *j, struct partition *p) {
    struct txn *job = j->job;
    size_t k = settleable(p), at = 0, records = job->n_records;
    bool boundary = has_undeclared(p);
    char problem[TOPIC_MAX + 160];
    bool claim = !claim_same(&p->want, &p->meta.claim);
    if (p->vanished ? !goes_over(p) : !k && !boundary && !p->pin && !claim) return;
    if (partition_begins_unproven(p)) return;
    struct part c = {.serial = p->serial, .windows = k, .meta = p->meta, .offset = p->committed};
    if (p->pin && p->before >= 0)
        c.anew += add_anew(lane, job, p, p->before, p->committed, &c.meta);
    for (struct window *w = p->windows.oldest; w && at < k; w = w->newer, at++) {
        if (lane->cfg->ledger && !add_ledger(lane, job, p, w, &c.meta)) {
            snprintf(problem, sizeof problem,
                     "the entry of %s/%" PRId32 ", %" PRId64 " to %" PRId64
                     ", is too large: lower window.records or batch.records",
                     p->topic, p->id, w->first, w->next);
            leave_out(lane, job, records, p, problem);
            return;
        }
        for (struct record *r = w->records; r; r = r->next) {
            if (r->state == RECORD_PARKED || r->state == RECORD_DEAD) add_record(lane, job, w, r);
            const struct delivery *d = r->delivery;
            const struct notice *news = d && r == d->members[0] ? d->news : NULL;
            if (r->notice) add_notice(job, w, r->notice);
            if (news) add_notice(job, w, news);
            c.notices += r->notice != NULL;
            c.notices += news != NULL;
        }
        c.offset = w->next;
    }
    keep_ends(lane, p, &c.meta, k);
    c.over = p->vanished;
    if (c.over) {
        c.anew += add_anew(lane, job, p, c.offset, p->anew_at, &c.meta);
        c.offset = p->anew_at;
        c.meta.n_ends = 0; /* those that are not open yet are the old topic's */
    }
    c.meta.claim = c.over ? caution_anew(lane, p) : p->want;
    char text[META_MAX + 1];
    if (!meta_encode(&c.meta, text)) {
        snprintf(problem, sizeof problem,
                 "the metadata of %s/%" PRId32 " would not fit, %zu windows", p->topic, p->id,
                 p->windows.count);
        leave_out(lane, job, records, p, problem);
        return;
    }
    txn_offset(job, p->topic, p->id, c.offset, text)->follows = p->durable;
    j->boundaries = j->boundaries || boundary;
    j->parts[j->n++] = c;
}

static void back_off(struct lane *lane) {
    lane->settle_backoff_ms =
        lane->settle_backoff_ms ? lane->settle_backoff_ms * 2 : BACKOFF_MIN_MS;
    if (lane->settle_backoff_ms > BACKOFF_MAX_MS) lane->settle_backoff_ms = BACKOFF_MAX_MS;
    lane->settle_after_ms = lane->now_ms + lane->settle_backoff_ms;
}

static void settlement_free(struct settlement *j) {
    if (!j) return;
    txn_free(j->job);
    free(j->parts);
    free(j);
}

static void submit(struct lane *lane, const struct blocked *alone) {
    struct txn *job = txn_new_member(lane->consumer);
    if (!job) { /* not a member at this moment */
        back_off(lane);
        return;
    }
    size_t n = 0;
    for (struct partition *p = lane->partitions; p; p = p->next) n++;
    struct settlement *j = xcalloc(1, sizeof *j);
    *j = (struct settlement){.job = job,
                             .parts = xcalloc(n, sizeof(struct part)),
                             .since_ms = lane->now_ms,
                             .memberships = lane->memberships};
    if (alone) snprintf(j->alone, sizeof j->alone, "%s", alone->base);
    for (struct partition *p = lane->partitions; p; p = p->next) {
        if (!p->loaded || !has_part(lane, p, alone)) continue;
        if (p->claim_alone) {
            if (is_due(lane, p)) add_claim(j, p);
            continue;
        }
        careful_announce(lane, p);
        add_part(lane, j, p);
    }
    if (!j->n) {
        settlement_free(j);
        back_off(lane);
        return;
    }
    if (j->boundaries) crash_point(CRASH_BOUNDARY_BEFORE);
    lane->settlement = j;
    producer_submit(lane->producer, job);
}

/* Everything sealed when the job was made is durable now. */
static void apply(struct lane *lane, struct partition *p, const struct part *c) {
    int64_t records = 0;
    for (size_t i = 0; i < c->windows; i++) {
        struct window *w = windows_pop(&p->windows);
        records += w->taken;
        count(&lane->counters, COUNTER_WINDOWS, 1);
        count(&lane->counters, COUNTER_LEDGER_ENTRIES, lane->cfg->ledger);
        if (w->lost) count(&lane->counters, COUNTER_LOST, (uint64_t)(w->next - w->first));
        window_discard(w);
    }
    count(&lane->counters, COUNTER_LEDGER_ENTRIES, c->anew);
    count(&lane->counters, COUNTER_NOTICES, c->notices);
    p->introduced = p->introduced || c->windows || c->anew;
    if (c->over) assignment_anew(lane, p, c->offset);
    p->committed = c->offset;
    p->pin = false;
    /* What was fetched before the first commit may be of a topic that was made anew since. */
    bool first = !p->durable && !lane->cfg->broker_forgets && !p->windows.count;
    p->durable = !lane->cfg->broker_forgets;
    if (first) assignment_move(p, partition_at(p));
    p->before = -1;
    p->meta = c->meta;
    int64_t last = c->meta.n_ends ? c->meta.ends[c->meta.n_ends - 1] : 0;
    for (struct window *w = p->windows.oldest; w && w->sealed; w = w->newer) {
        if (w->declared || !w->batched) continue;
        if (w->next > last && !crash_breaks(CRASH_NO_BOUNDARY)) break;
        w->declared = true;
        delivery_flush(w);
    }
    caution_settled(lane, p, records);
}

/* ---- a result ---- */

static void report(struct lane *lane, const struct txn *job) {
    count(&lane->counters, COUNTER_TRANSACTIONS_FAILED, 1);
    observer_settle_error(lane, job->error);
    log_warn("settlement failed", LOG_I("lane", lane->id), LOG_S("error", job->error),
             LOG_S("next", job->result == TXN_STALE     ? "waits for the rebalance"
                           : job->result == TXN_UNKNOWN ? "the lane starts anew"
                           : job->result == TXN_TOPIC   ? "its source waits, the others go on"
                           : job->result == TXN_REFUSED ? "goes on without what is refused"
                           : job->result == TXN_GONE    ? "looks whether the topic was deleted"
                                                        : "is tried again"));
    if (job->result == TXN_TOPIC || job->result == TXN_REFUSED || job->result == TXN_GONE) return;
    if (!lane->failing_ms) lane->failing_ms = lane->now_ms;
    /* Of partitions that are gone meanwhile it is no trouble any more. */
    bool lasts = settlement_due(lane) && lane->now_ms - lane->failing_ms >= FAILING_MS;
    trouble_tell(lane->shared->troubles, lasts, lane->id, TROUBLE_SETTLEMENT, NULL, job->error,
                 lane->failing_ms);
}

/* What was read of a topic that is gone is settled once that is sure; the others go on. */
static void take_gone(struct lane *lane, const struct txn *job) {
    for (size_t i = 0; i < job->n_offsets; i++) {
        const struct txn_offset *o = &job->offsets[i];
        struct partition *p = o->gone ? partition_named(lane, o->topic, o->partition) : NULL;
        if (!p) continue;
        p->unsure_ms = lane->now_ms;
        assignment_is_sure(lane, p, p->unsure_ms);
    }
}

/* Records, not claims and pins alone. */
static bool tell_doubt(const struct lane *lane, const struct settlement *j) {
    const struct partition *first = NULL;
    int64_t next = 0, n = 0;
    for (size_t i = 0; i < j->n; i++) {
        const struct partition *p = partition_find(lane, j->parts[i].serial);
        if (!p || !j->parts[i].windows) continue;
        if (!first) next = j->parts[i].offset;
        if (!first) first = p;
        n++;
    }
    if (!first) return false;
    log_warn(
        "it is not known whether these records were settled: whoever reads the partitions next "
        "finds out, and reads them again if not",
        LOG_I("lane", lane->id), LOG_I("partitions", n), LOG_S("first_topic", first->topic),
        LOG_I("partition", first->id), LOG_I("from", first->committed), LOG_I("to", next));
    return true;
}

static bool knows_its_offsets(const struct lane *lane) {
    bool known = lane->assigned && !lane->restart;
    for (const struct partition *p = lane->partitions; p && known; p = p->next) known = p->loaded;
    return known;
}

bool settlement_unknown(const struct lane *lane) {
    bool windows = false;
    if (lane->settlement) return tell_doubt(lane, lane->settlement);
    if (lane->in_doubt && !knows_its_offsets(lane)) return true;
    if (!lane->failing_ms) return false;
    for (const struct partition *p = lane->partitions; p; p = p->next)
        windows |= p->loaded && p->windows.count;
    return windows;
}

static void finish(struct lane *lane, struct settlement *j) {
    struct txn *job = j->job;
    observe_us(&lane->counters, HISTOGRAM_SETTLEMENT, 0, job->took_us);
    if (job->result == TXN_DONE) {
        if (j->boundaries) crash_point(CRASH_BOUNDARY_AFTER);
        count(&lane->counters, COUNTER_TRANSACTIONS, 1);
        count_set(&lane->counters, COUNTER_SETTLED_AT_MS, (uint64_t)lane->wall_ms);
        lane->settle_backoff_ms = lane->restart_pause_ms = lane->failing_ms = 0;
        lane->in_doubt = false;
        trouble_clear(lane->shared->troubles, lane->id, TROUBLE_SETTLEMENT, NULL);
        if (j->alone[0]) unblock(lane, j->alone);
        for (size_t i = 0; i < j->n; i++) {
            struct partition *p = partition_find(lane, j->parts[i].serial);
            if (p) apply(lane, p, &j->parts[i]);
            if (p) assignment_sure(p, j->since_ms); /* what it followed was looked for */
        }
        return;
    }
    report(lane, job);
    if (job->result == TXN_UNKNOWN) lane->in_doubt = tell_doubt(lane, j) || lane->in_doubt;
    if (job->result == TXN_REFUSED) {
        take_refused(lane, job);
        return;
    }
    if (job->result == TXN_TOPIC) {
        block(lane, job->topic, job->error);
        return;
    }
    if (job->result == TXN_GONE) {
        take_gone(lane, job);
        return;
    }
    if (job->result == TXN_AGAIN && set_aside_unreadable(lane, j)) return;
    back_off(lane);
    /* A membership that a callback has renewed meanwhile is not the one that was refused. */
    if (job->result == TXN_STALE && j->memberships == lane->memberships) {
        lane->stale = true;
        lane->settle_after_ms = lane->now_ms + STALE_MS;
        txn_free(lane->refused);
        lane->refused = txn_new_in(job->membership, job->membership_len);
    }
    if (job->result == TXN_UNKNOWN) lane_restart(lane, job->error);
}

void settlement_abandon(struct lane *lane) {
    while (lane->blocked) unblock(lane, lane->blocked->base);
    if (lane->settlement) lane->settlement->job = NULL;
    settlement_free(lane->settlement);
    lane->settlement = NULL;
    txn_free(lane->refused);
    lane->refused = NULL;
    lane->stale = false;
}

/* A transaction that neither commits nor can be aborted holds up all that the lane settles. */
static void tell_slow(struct lane *lane) {
    const struct settlement *j = lane->settlement;
    if (lane->now_ms - j->since_ms < SLOW_MS) return;
    trouble_set(lane->shared->troubles, lane->id, TROUBLE_SETTLEMENT, NULL,
                "a transaction does not come to its end: a partition of runsink's own topics may "
                "have lost its leader",
                j->since_ms);
}

/* What failed is not ours to settle any more. A lane that begins anew has it still to come. */
static void forget_failure(struct lane *lane) {
    if (!lane->failing_ms || lane->restart_pause_ms) return;
    lane->failing_ms = 0;
    trouble_clear(lane->shared->troubles, lane->id, TROUBLE_SETTLEMENT, NULL);
}

/* A member joins again on the client's own thread: a lane that ends hears no callback any more, and
 * one that goes on hears of the next generation later than it is in it. */
static void look_for_renewal(struct lane *lane) {
    if (!lane->stale) return;
    enum renewal found = consumer_renewal(lane->consumer, lane->refused);
    lane->over = found == RENEWAL_OVER;
    if (found != RENEWAL_LATER) return;
    lane->stale = false;
    lane->settle_after_ms = lane->now_ms;
}

bool settlement_over(const struct lane *lane) {
    return lane->stale && lane->over;
}

void settlement_run(struct lane *lane) {
    if (lane->settlement) {
        if (!producer_take(lane->producer)) {
            tell_slow(lane);
            return;
        }
        struct settlement *j = lane->settlement;
        lane->settlement = NULL;
        if (!lane->failing_ms)
            trouble_clear(lane->shared->troubles, lane->id, TROUBLE_SETTLEMENT, NULL);
        finish(lane, j);
        settlement_free(j);
    }
    if (!lane->restart) look_for_renewal(lane);
    if (lane->restart || lane->now_ms < lane->settle_after_ms) return;
    lane->stale = false;
    const struct blocked *alone = lane->gives_back ? NULL : trial(lane);
    if (alone && !any_due(lane, alone)) { /* nothing is to be settled there by now */
        char base[TOPIC_MAX + 1];
        memcpy(base, alone->base, sizeof base);
        unblock(lane, base);
        alone = NULL;
    }
    if (alone || settlement_due(lane))
        submit(lane, alone);
    else
        forget_failure(lane);
}
