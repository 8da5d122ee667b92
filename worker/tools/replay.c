/* `runsink replay`: what was delivered is delivered once more. Options, what is read, the count,
 * the question, and the transactions. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>
#include <unistd.h>

#include "worker/base/clock.h"
#include "worker/base/json_out.h"
#include "worker/base/log.h"
#include "worker/base/shown.h"
#include "worker/base/text.h"
#include "worker/kafka/client.h"
#include "worker/kafka/producer.h"
#include "worker/kafka/reader.h"
#include "worker/kafka/retry.h"
#include "worker/kafka/topics.h"
#include "worker/tools/command.h"
#include "worker/tools/interrupt.h"
#include "worker/tools/replay_make.h"
#include "worker/tools/verify_objects.h"

#define BROKER_TIMEOUT_MS 30000
#define BEGIN_TIMEOUT_MS 120000
#define RECORDS_MAX 500 /* of a transaction, unless one delivery alone has more */
#define BYTES_MAX ((size_t)4 << 20)
#define ENTRY_MAX ((size_t)16 << 20)
#define TRIES 5
#define RATE 500 /* records a second: the tenants' endpoints get them beside what is new */
#define ROWS_SHOWN 200
#define LOST_SHOWN 100

enum end { END_DONE, END_STOPPED, END_FENCED, END_FAILED, END_REFUSED };

/* One source topic. */
struct source {
    char *name;
    char ledger[TOPIC_MAX + 1], retry[TOPIC_MAX + 1];
    int ledger_partitions;
    int64_t *ledger_at; /* read up to here, into the plan */
    struct replay_plan plan;
    struct replay_maker *maker;
    struct audit *audit; /* --only-missing: what it finds is what the stores say */
    struct objects *objects;
    uint64_t count[REPLAY_STATES]; /* after the count: deliveries by what is known of them */
    uint64_t altered;              /* --only-missing: there, with other bytes */
    uint64_t sent, transactions, undecided; /* records */
};

struct replay {
    const struct config *cfg;
    struct replay_filter filter;
    struct replay_event event;
    const char *topic; /* NULL: the configured ones */
    bool all, only_missing, dry_run, yes, json;
    int64_t rate;
    rd_kafka_t *rk, *lookup;
    struct ledger_signer *signer;
    char cluster[CLUSTER_MAX + 1];
    struct ledger_maker maker;
    struct topic_list topics;
    struct source *sources;
    size_t n;
    const char *result; /* a phrase, for scripts */
    int64_t began_ms;   /* wall clock: nothing of it was delivered again before */
    struct buf err;
};

static int fail(struct replay *r, int code) {
    command_error("replay", &r->err);
    return code;
}

static enum end end_of(const struct reader *reader) {
    switch (reader_end(reader)) {
    case READER_DONE:
        return END_DONE;
    case READER_STOPPED:
        return END_STOPPED;
    case READER_FAILED:
        break;
    }
    return END_FAILED;
}

/* ---- the ledger ---- */

/* On from ledger_at, to what is visible or (until) to these offsets. */
static enum end read_ledger(struct replay *r, struct source *src, const int64_t *until) {
    struct reader *reader = reader_new(r->rk, READER_BY_TIME);
    rd_kafka_message_t *m;
    bool ok = true;
    for (int i = 0; i < src->ledger_partitions; i++)
        reader_add(reader, src->ledger, i, src->ledger_at[i], until ? until[i] : READER_END);
    reader_stop_when(reader, interrupt_stops, NULL);
    while (ok && (m = reader_next(reader, 0, &r->err))) {
        ok = replay_plan_take(&src->plan, reader_key(m), reader_value(m), &r->err);
        rd_kafka_message_destroy(m);
    }
    for (int i = 0; i < src->ledger_partitions; i++)
        src->ledger_at[i] = reader_at(reader, (size_t)i);
    enum end end = ok ? end_of(reader) : END_REFUSED;
    reader_free(reader);
    return end;
}

/* ---- records ---- */

struct member {
    int64_t offset;
    struct replay_item *item;
};

/* The records of some items, partition by partition, as Kafka still has them. */
struct pass {
    struct replay *r;
    struct source *src;
    enum end (*whole)(struct pass *, struct replay_item *); /* has all of them */
    enum end (*lost)(struct pass *, struct replay_item *);  /* lacks one */
    enum end (*over)(struct pass *); /* after the last; NULL: nothing is left to do */
    struct member *v;                /* by partition and offset */
    size_t n;
    size_t *at; /* by partition: the next one */
    int32_t partitions;
    void *context;
};

static int by_place(const void *a, const void *b) {
    const struct member *x = a, *y = b;
    if (x->item->partition != y->item->partition)
        return x->item->partition < y->item->partition ? -1 : 1;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

static void list_members(struct pass *p, enum replay_state want) {
    const struct replay_plan *plan = &p->src->plan;
    uint64_t n = 0;
    for (size_t i = 0; i < plan->n; i++)
        n += plan->items[i]->state == want ? plan->items[i]->count : 0;
    p->v = xcalloc((size_t)n + 1, sizeof *p->v);
    for (size_t i = 0; i < plan->n; i++) {
        struct replay_item *item = plan->items[i];
        if (item->state != want) continue;
        for (size_t k = 0; k < item->n_members; k++)
            for (int64_t at = item->members[k].a; at <= item->members[k].z; at++)
                p->v[p->n++] = (struct member){at, item};
        if (item->partition >= p->partitions) p->partitions = item->partition + 1;
    }
    qsort(p->v, p->n, sizeof *p->v, by_place);
    p->at = xcalloc((size_t)p->partitions + 1, sizeof *p->at);
    size_t at = 0;
    for (int32_t i = 0; i <= p->partitions; i++) {
        while (at < p->n && p->v[at].item->partition < i) at++;
        p->at[i] = at;
    }
}

static void let_go(struct replay_item *item) {
    for (uint32_t i = 0; i < item->n_got; i++) {
        struct replay_record *record = item->got[i];
        if (--record->users) continue;
        rd_kafka_message_destroy(record->m);
        free(record);
    }
    free(item->got);
    item->got = NULL;
    item->n_got = 0;
}

static bool is_next(const struct pass *p, int32_t partition) {
    size_t at = p->at[partition];
    return at < p->n && p->v[at].item->partition == partition;
}

static enum end miss(struct pass *p, struct replay_item *item, enum replay_state before) {
    if (item->state != before) return END_DONE; /* another record of it was missed */
    let_go(item);
    item->state = REPLAY_GONE;
    return p->lost(p, item);
}

/* All members of this partition before the offset: Kafka does not have them. */
static enum end miss_until(struct pass *p, int32_t partition, int64_t offset,
                           enum replay_state before) {
    enum end end = END_DONE;
    while (end == END_DONE && is_next(p, partition) && p->v[p->at[partition]].offset < offset)
        end = miss(p, p->v[p->at[partition]++].item, before);
    return end;
}

static enum end give(struct pass *p, struct replay_item *item, struct replay_record *record,
                     enum replay_state before) {
    if (item->state != before) return END_DONE;
    if (!item->got) item->got = xcalloc(item->count, sizeof *item->got);
    record->users++;
    item->got[item->n_got++] = record;
    return item->n_got < item->count ? END_DONE : p->whole(p, item);
}

static enum end take(struct pass *p, rd_kafka_message_t *m, enum replay_state before) {
    enum end end = miss_until(p, m->partition, m->offset, before);
    struct replay_record *record = xcalloc(1, sizeof *record);
    *record = (struct replay_record){.m = m, .users = 1};
    while (end == END_DONE && is_next(p, m->partition) &&
           p->v[p->at[m->partition]].offset == m->offset)
        end = give(p, p->v[p->at[m->partition]++].item, record, before);
    if (--record->users == 0) {
        rd_kafka_message_destroy(m);
        free(record);
    }
    return end;
}

/* The partition's part that holds members, as far as Kafka has it. */
static enum end add_partition(struct pass *p, struct reader *reader, int32_t partition) {
    int64_t low, high, from = p->v[p->at[partition]].offset;
    int64_t until = p->v[p->at[partition + 1] - 1].offset + 1;
    rd_kafka_resp_err_t code = client_ends_unless(p->r->rk, p->src->name, partition, &low, &high,
                                                  BROKER_TIMEOUT_MS, interrupted);
    if (interrupted()) return END_STOPPED;
    if (code) {
        buf_printf(&p->r->err, "asking for the ends of %s/%d: %s", p->src->name, (int)partition,
                   rd_kafka_err2str(code));
        return END_FAILED;
    }
    if (from < low) from = low;
    if (until > high) until = high;
    if (from < until) reader_add(reader, p->src->name, partition, from, until);
    return END_DONE;
}

/* Reads what items of this state hold, and gives each to whole() or lost(). */
static enum end run_pass(struct pass *p, enum replay_state want) {
    struct reader *reader = reader_new(p->r->rk, READER_ANY);
    rd_kafka_message_t *m;
    enum end end = END_DONE;
    list_members(p, want);
    for (int32_t i = 0; end == END_DONE && i < p->partitions; i++)
        if (is_next(p, i)) end = add_partition(p, reader, i);
    reader_stop_when(reader, interrupt_stops, NULL);
    while (end == END_DONE && (m = reader_next(reader, 0, &p->r->err))) end = take(p, m, want);
    if (end == END_DONE) end = end_of(reader);
    for (int32_t i = 0; end == END_DONE && i < p->partitions; i++)
        end = miss_until(p, i, INT64_MAX, want);
    if (end == END_DONE && p->over) end = p->over(p);
    reader_free(reader);
    for (size_t i = 0; i < p->src->plan.n; i++) let_go(p->src->plan.items[i]);
    free(p->v);
    free(p->at);
    return end;
}

/* ---- the count ---- */

/* What `verify --objects` calls missing is what goes again. */
static enum end look_for(struct source *src, struct replay_item *item) {
    struct ledger_range at = {item->members[0].a, item->members[0].a};
    struct ledger_group g = {.kind = LEDGER_DELIVERED,
                             .object = true,
                             .to = str_c(item->row->label),
                             .key = str_c(item->key),
                             .hashed = true,
                             .size = item->size,
                             .offsets = &at,
                             .n_offsets = 1,
                             .count = 1};
    struct ledger_entry e = {.topic = str_c(src->name), .partition = item->partition};
    memcpy(g.sha256, item->sha256, SHA256_LEN);
    item->state = REPLAY_THERE; /* unless it is found otherwise */
    objects_add(src->objects, &e, &g);
    return interrupted() ? END_STOPPED : END_DONE;
}

static void on_finding(void *context, const struct finding *f) {
    struct source *src = context;
    struct replay_item *item =
        f->topic ? replay_item_at(&src->plan, f->partition, f->offset) : NULL;
    if (!item) return;
    if (strcmp(f->code, "missing-object") == 0)
        item->state = item->gone ? REPLAY_GONE : REPLAY_CHOSEN;
    else if (strcmp(f->code, "unreadable-object") == 0)
        item->state = REPLAY_UNKNOWN;
    else
        src->altered++;
}

static enum end count_whole(struct pass *p, struct replay_item *item) {
    item->state = replay_make(p->src->maker, item, &p->r->event);
    let_go(item);
    if (item->state != REPLAY_OPEN) return END_DONE;
    if (!p->r->only_missing)
        item->state = REPLAY_CHOSEN;
    else if (!item->key)
        item->state = REPLAY_UNCHECKED;
    else
        return look_for(p->src, item);
    return END_DONE;
}

static enum end count_lost(struct pass *p, struct replay_item *item) {
    (void)p;
    (void)item;
    return END_DONE;
}

/* What its store has is in no need of its records; the credentials are those of others. */
static enum end look_for_gone(struct source *src) {
    enum end end = END_DONE;
    for (size_t i = 0; end == END_DONE && i < src->plan.n; i++) {
        struct replay_item *item = src->plan.items[i];
        item->gone = item->state == REPLAY_GONE;
        if (item->gone && item->key) end = look_for(src, item);
    }
    return end;
}

static void sum_up(struct source *src) {
    for (size_t i = 0; i < src->plan.n; i++) {
        struct replay_item *item = src->plan.items[i];
        src->count[item->state]++;
        if (item->state != REPLAY_CHOSEN) continue;
        item->row->items++;
        item->row->records += item->count;
    }
}

static enum end count_source(struct replay *r, struct source *src) {
    struct pass pass = {.r = r, .src = src, .whole = count_whole, .lost = count_lost};
    replay_plan_init(&src->plan, src->name, r->cfg->group, &r->filter);
    src->maker = replay_maker_new(r->cfg, src->name);
    enum end end = read_ledger(r, src, NULL);
    if (end != END_DONE) return end;
    replay_plan_finish(&src->plan);
    if (r->only_missing) {
        const struct audit_options options = {
            .source = src->name, .group = r->cfg->group, .report = on_finding, .context = src};
        src->audit = audit_new(&options);
        src->objects = objects_new(r->cfg, r->lookup, src->audit);
    }
    end = run_pass(&pass, REPLAY_OPEN);
    if (end == END_DONE && src->objects) end = look_for_gone(src);
    if (src->objects) objects_finish(src->objects);
    sum_up(src);
    return end;
}

/* ---- sending ---- */

struct sender {
    struct replay *r;
    struct source *src;
    struct producer *producer;
    struct replay_item **v;
    size_t n, records, bytes;
    int64_t start_ms;
};

static void add_record(const struct sender *s, struct txn *txn, const struct replay_item *item,
                       uint32_t nth) {
    const rd_kafka_message_t *m = ((const struct replay_record *)item->got[nth])->m;
    struct message rec;
    struct txn_record *to = txn_add(txn);
    struct retry past = {.origin = {.partition = m->partition, .offset = m->offset},
                         .timestamp_ms = rd_kafka_message_timestamp(m, NULL),
                         .progress = {.due_ms = clock_ms(CLOCK_REALTIME)},
                         .why = "replay"};
    snprintf(past.origin.topic, sizeof past.origin.topic, "%s", s->src->name);
    snprintf(past.group, sizeof past.group, "%s", s->r->cfg->group);
    snprintf(past.destination, sizeof past.destination, "%s", item->row->label);
    if (item->batched) {
        snprintf(past.batch_key, sizeof past.batch_key, "%s", item->key);
        past.batch_count = item->count;
        past.batch_index = nth;
    }
    reader_record(m, &txn->arena, &rec);
    to->topic = s->src->retry;
    to->partition = m->partition;
    to->key = m->key;
    to->key_len = m->key_len;
    to->value = m->payload;
    to->value_len = m->len;
    to->headers = retry_headers(&past, rec.headers, rec.n_headers, &txn->arena, &to->n_headers);
}

static bool add_entry(const struct sender *s, struct txn *txn, uint8_t ret_hash[SHA256_LEN]) {
    const struct config *cfg = s->r->cfg;
    struct txn_record *to = txn_add(txn);
    char key[TOPIC_MAX + 16];
    struct buf value;
    buf_init(&value, ENTRY_MAX);
    bool ok = replay_plan_encode(&s->src->plan, s->v, s->n, cfg->retry_delays.v[0],
                                 cfg->ledger_form == 2 ? &s->r->maker : NULL,
                                 clock_ms(CLOCK_REALTIME), s->r->signer, &value, ret_hash);
    ledger_record_key(key, sizeof key, s->src->plan.chain, 0);
    to->topic = s->src->ledger;
    to->partition = -1;
    to->key = arena_strdup(&txn->arena, str_c(key));
    to->key_len = strlen(key);
    to->value = arena_strdup(&txn->arena, (struct str){value.p, value.n});
    to->value_len = value.n;
    buf_free(&value);
    if (!ok) buf_printf(&s->r->err, "a ledger entry would pass %zu bytes", ENTRY_MAX);
    return ok;
}

static enum end transact(struct sender *s, uint8_t ret_hash[SHA256_LEN]) {
    struct txn *txn = txn_new();
    for (size_t i = 0; i < s->n; i++)
        for (uint32_t k = 0; k < s->v[i]->count; k++) add_record(s, txn, s->v[i], k);
    bool ok = add_entry(s, txn, ret_hash);
    for (int tries = 0; ok && tries < TRIES; tries++) {
        producer_run(s->producer, txn);
        if (txn->result != TXN_AGAIN && txn->result != TXN_TOPIC) break;
        log_warn("the transaction was aborted; it is tried again", LOG_S("topic", s->src->name),
                 LOG_S("error", txn->error));
    }
    enum end end = !ok                       ? END_FAILED
                   : txn->result == TXN_DONE ? END_DONE
                   : txn->fenced             ? END_FENCED
                   : interrupted()           ? END_STOPPED
                                             : END_FAILED;
    if (ok && end != END_DONE) buf_puts(&s->r->err, txn->error);
    if (ok && txn->result == TXN_UNKNOWN && !txn->fenced) s->src->undecided = s->records;
    txn_free(txn);
    return end;
}

static enum end flush(struct sender *s) {
    uint8_t hash[SHA256_LEN];
    if (!s->n) return END_DONE;
    enum end end = transact(s, hash);
    if (end != END_DONE) return end;
    replay_plan_advance(&s->src->plan, s->v, s->n, hash);
    for (size_t i = 0; i < s->n; i++) let_go(s->v[i]);
    s->src->sent += s->records;
    s->src->transactions++;
    s->n = s->records = s->bytes = 0;
    int64_t due = s->start_ms + (int64_t)(s->src->sent * 1000 / (uint64_t)s->r->rate);
    int64_t now = clock_ms(CLOCK_MONOTONIC);
    return interrupt_wait(NULL, due > now ? due - now : 0) ? END_STOPPED : END_DONE;
}

static size_t bytes_of(const struct replay_item *item) {
    size_t n = 0;
    for (uint32_t i = 0; i < item->count; i++)
        n += ((const struct replay_record *)item->got[i])->m->len;
    return n;
}

/* A delivery goes as a whole, in one transaction. */
static enum end send_whole(struct pass *p, struct replay_item *item) {
    struct sender *s = p->context;
    size_t bytes = bytes_of(item), most = RECORDS_MAX;
    enum end end = END_DONE;
    if ((uint64_t)s->r->rate < most) most = (size_t)s->r->rate;
    if (s->n && (s->records + item->count > most || s->bytes + bytes > BYTES_MAX)) end = flush(s);
    if (end != END_DONE) return end;
    s->v = xgrow(s->v, s->n, sizeof *s->v);
    s->v[s->n++] = item;
    s->records += item->count;
    s->bytes += bytes;
    return END_DONE;
}

static enum end send_rest(struct pass *p) {
    return flush(p->context);
}

/* It went between the count and now. */
static enum end send_lost(struct pass *p, struct replay_item *item) {
    (void)item;
    p->src->count[REPLAY_CHOSEN]--;
    p->src->count[REPLAY_GONE]++;
    return END_DONE;
}

/* Open transactions must not hide where the ledger ends. */
static enum end ask_ends(struct replay *r, const struct source *src, int64_t *ret) {
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;
    int64_t low;
    rd_kafka_t *raw = reader_consumer_raw(r->cfg, r->cfg->group, &r->err);
    if (!raw) return END_FAILED;
    for (int i = 0; !code && i < src->ledger_partitions; i++)
        code =
            client_ends_unless(raw, src->ledger, i, &low, &ret[i], BROKER_TIMEOUT_MS, interrupted);
    rd_kafka_destroy(raw);
    if (!code) return END_DONE;
    buf_printf(&r->err, "asking for the ends of %s: %s", src->ledger, rd_kafka_err2str(code));
    return interrupted() ? END_STOPPED : END_FAILED;
}

/* From here on no other replay of this topic writes, and none that did is left undecided. What it
 * has sent meanwhile waits. */
static enum end take_over(struct sender *s) {
    struct replay *r = s->r;
    struct source *src = s->src;
    struct txn attempt = {0};
    if (producer_begin(s->producer, BEGIN_TIMEOUT_MS, &attempt) != PRODUCER_READY) {
        buf_puts(&r->err, attempt.error);
        return attempt.fenced ? END_FENCED : interrupted() ? END_STOPPED : END_FAILED;
    }
    int64_t *until = xcalloc((size_t)src->ledger_partitions, sizeof *until);
    enum end end = ask_ends(r, src, until);
    if (end == END_DONE) end = read_ledger(r, src, until);
    free(until);
    for (size_t i = 0; i < src->plan.n; i++) {
        struct replay_item *item = src->plan.items[i];
        if (item->state != REPLAY_CHOSEN || item->replays < item->deliveries) continue;
        item->state = REPLAY_WAITS;
        src->count[REPLAY_CHOSEN]--;
        src->count[REPLAY_WAITS]++;
    }
    return end;
}

static enum end send_source(struct replay *r, struct source *src) {
    struct sender s = {.r = r, .src = src, .start_ms = clock_ms(CLOCK_MONOTONIC)};
    struct pass pass = {.r = r,
                        .src = src,
                        .whole = send_whole,
                        .lost = send_lost,
                        .over = send_rest,
                        .context = &s};
    char id[2 * TOPIC_MAX + 32];
    snprintf(id, sizeof id, "%s/replay/%s", r->cfg->group, src->name);
    s.producer = producer_open(r->cfg, id, &r->err);
    if (!s.producer) return END_FAILED;
    producer_stop_when(s.producer, interrupted);
    enum end end = take_over(&s);
    if (end == END_DONE) end = run_pass(&pass, REPLAY_CHOSEN);
    producer_free(s.producer);
    free(s.v);
    log_info("replayed", LOG_S("topic", src->name), LOG_I("records", (int64_t)src->sent),
             LOG_I("transactions", (int64_t)src->transactions));
    return end;
}

/* ---- what is printed ---- */

static int by_count(const void *a, const void *b) {
    const struct replay_row *x = *(struct replay_row *const *)a;
    const struct replay_row *y = *(struct replay_row *const *)b;
    if (x->items != y->items) return x->items > y->items ? -1 : 1;
    return strcmp(x->label, y->label);
}

static uint64_t sum(const struct replay *r, enum replay_state state) {
    uint64_t n = 0;
    for (size_t i = 0; i < r->n; i++) n += r->sources[i].count[state];
    return n;
}

static void print_rows(const struct source *src) {
    const struct replay_plan *p = &src->plan;
    for (size_t i = 0; i < p->n_rows && i < ROWS_SHOWN && p->rows[i]->items; i++)
        printf("%10" PRIu64 " %9" PRIu64 "  %-20s %s\n", p->rows[i]->items, p->rows[i]->records,
               src->name, SHOWN(p->rows[i]->label));
    if (p->n_rows > ROWS_SHOWN && p->rows[ROWS_SHOWN]->items)
        puts("           and more destinations (--json lists all)");
}

static void print_note(uint64_t n, const char *text) {
    if (n) printf("%10" PRIu64 "  %s\n", n, text);
}

/* What can't go again, by name. */
static void print_lost(const struct source *src, size_t *left) {
    for (size_t i = 0; i < src->plan.n; i++) {
        const struct replay_item *item = src->plan.items[i];
        bool gone = item->state == REPLAY_GONE;
        if (!gone && item->state != REPLAY_DIFFERS) continue;
        if (*left == 0) return;
        --*left;
        printf("  %s  %s/%d@%" PRId64 "  %s%s%s\n", gone ? "gone   " : "differs", src->name,
               (int)item->partition, item->members[0].a, SHOWN(item->row->label),
               item->key ? "  " : "", item->key ? SHOWN(item->key) : "");
    }
}

static void report_plan(const struct replay *r) {
    uint64_t items = sum(r, REPLAY_CHOSEN), records = 0, altered = 0;
    size_t left = LOST_SHOWN;
    if (r->json) return;
    if (items) printf("%10s %9s  %-20s %s\n", "deliveries", "records", "topic", "destination");
    for (size_t i = 0; i < r->n; i++) {
        const struct source *src = &r->sources[i];
        print_rows(src);
        for (size_t k = 0; k < src->plan.n_rows; k++) records += src->plan.rows[k]->records;
        altered += src->altered;
    }
    printf("%10" PRIu64 " %9" PRIu64 "  to replay\n", items, records);
    print_note(sum(r, REPLAY_THERE), "others are in their stores");
    print_note(altered, "of these with other bytes than were delivered: they are left alone");
    print_note(sum(r, REPLAY_UNKNOWN), "others could not be looked for in their stores");
    print_note(sum(r, REPLAY_UNCHECKED), "others are requests, which no store keeps");
    print_note(sum(r, REPLAY_WAITS),
               "others went again before: they wait in a retry topic, or are dead letters");
    print_note(sum(r, REPLAY_OLD), "others are of a topic that was made anew since");
    print_note(sum(r, REPLAY_GONE), "others can't go again: Kafka no longer holds their records");
    print_note(sum(r, REPLAY_DIFFERS),
               "others would not be the same again: this configuration makes another key,\n"
               "            destination or other bytes of their records");
    for (size_t i = 0; i < r->n; i++) print_lost(&r->sources[i], &left);
}

static const char *const state_names[REPLAY_STATES] = {
    [REPLAY_OPEN] = "open",       [REPLAY_OTHER] = "not_selected", [REPLAY_WAITS] = "waiting",
    [REPLAY_OLD] = "old_topic",   [REPLAY_GONE] = "gone",          [REPLAY_DIFFERS] = "differ",
    [REPLAY_THERE] = "there",     [REPLAY_UNKNOWN] = "unknown",    [REPLAY_UNCHECKED] = "unchecked",
    [REPLAY_CHOSEN] = "selected", [REPLAY_SENT] = "sent"};

static void put_lost(struct buf *b, const struct source *src, enum replay_state state) {
    out_open(b, state == REPLAY_GONE ? "gone_deliveries" : "differing_deliveries", '[');
    for (size_t i = 0; i < src->plan.n; i++) {
        const struct replay_item *item = src->plan.items[i];
        if (item->state != state) continue;
        out_open(b, NULL, '{');
        out_int(b, "partition", item->partition);
        out_int(b, "offset", item->members[0].a);
        out_uint(b, "records", item->count);
        out_shown(b, "destination", item->row->label);
        if (item->key) out_shown(b, "key", item->key);
        out_close(b, '}');
    }
    out_close(b, ']');
}

static void put_source(struct buf *b, const struct source *src) {
    out_open(b, NULL, '{');
    out_shown(b, "topic", src->name);
    for (int i = REPLAY_OTHER; i < REPLAY_SENT; i++) out_uint(b, state_names[i], src->count[i]);
    out_uint(b, "altered", src->altered);
    out_uint(b, "sent_records", src->sent);
    out_uint(b, "undecided_records", src->undecided);
    out_uint(b, "transactions", src->transactions);
    out_open(b, "rows", '[');
    for (size_t i = 0; i < src->plan.n_rows && src->plan.rows[i]->items; i++) {
        out_open(b, NULL, '{');
        out_shown(b, "destination", src->plan.rows[i]->label);
        out_uint(b, "deliveries", src->plan.rows[i]->items);
        out_uint(b, "records", src->plan.rows[i]->records);
        out_close(b, '}');
    }
    out_close(b, ']');
    put_lost(b, src, REPLAY_GONE);
    put_lost(b, src, REPLAY_DIFFERS);
    out_close(b, '}');
}

static void report_end(const struct replay *r) {
    uint64_t sent = 0, transactions = 0;
    struct buf b;
    for (size_t i = 0; i < r->n; i++) {
        sent += r->sources[i].sent;
        transactions += r->sources[i].transactions;
    }
    if (!r->json && transactions)
        printf("sent %" PRIu64 " records in %" PRIu64 " transaction%s\n", sent, transactions,
               PLURAL(transactions));
    if (!r->json) return;
    buf_init(&b, (size_t)1 << 30);
    out_open(&b, NULL, '{');
    out_open(&b, "topics", '[');
    for (size_t i = 0; i < r->n; i++) put_source(&b, &r->sources[i]);
    out_close(&b, ']');
    out_shown(&b, "result", r->result);
    out_close(&b, '}');
    puts(buf_cstr(&b));
    buf_free(&b);
}

/* ---- the command ---- */

/* An exit code, after having said what is wrong; EX_OK: go on. */
static int exit_code(struct replay *r, enum end end, const struct source *src) {
    char began[UTC_TEXT];
    switch (end) {
    case END_DONE:
        return EX_OK;
    case END_STOPPED:
        buf_clear(&r->err);
        buf_puts(&r->err, "interrupted");
        r->result = "interrupted";
        break;
    case END_FENCED:
        buf_clear(&r->err);
        buf_printf(&r->err, "another replay of %s has begun", src->name);
        r->result = "overtaken";
        return fail(r, EX_TEMPFAIL);
    case END_FAILED:
        r->result = "failed";
        break;
    case END_REFUSED:
        r->result = "failed";
        return fail(r, EX_DATAERR);
    }
    if (src && src->undecided)
        buf_printf(&r->err, "; it is not known whether %" PRIu64 " more records were sent",
                   src->undecided);
    /* What has been delivered again by then is not asked for. */
    if (src && src->transactions && utc_text(r->began_ms / 1000, began))
        buf_printf(&r->err, ": to go on, run it again with --to %s, when this run began", began);
    return fail(r, end == END_STOPPED ? EX_TEMPFAIL : EX_UNAVAILABLE);
}

static bool find_topics(struct replay *r, struct source *src) {
    const struct topic *t =
        topic_ledger(src->name, src->ledger) ? topic_find(&r->topics, src->ledger) : NULL;
    if (!t || !t->partitions) {
        buf_printf(&r->err, "there is no topic %s.ledger: has `runsink run` ever consumed %s?",
                   src->name, src->name);
        return false;
    }
    src->ledger_partitions = t->partitions;
    src->ledger_at = xcalloc((size_t)t->partitions, sizeof *src->ledger_at);
    bool legal = topic_retry(src->name, r->cfg->retry_delays.v[0], src->retry);
    t = legal ? topic_find(&r->topics, src->retry) : NULL;
    if (t && t->partitions) return true;
    buf_printf(&r->err,
               "there is no topic %s, through which deliveries go again: is retry.delays as it is "
               "for `runsink run`?",
               src->retry);
    return false;
}

static bool list_sources(struct replay *r) {
    struct topic_list l = {0};
    if (!topics_list(r->rk, BROKER_TIMEOUT_MS, interrupted, &r->topics, &r->err) ||
        !topics_choose(r->cfg, r->topic, &r->topics, &l, &r->err))
        return false;
    client_cluster(r->rk, BROKER_TIMEOUT_MS, r->cluster);
    r->maker = (struct ledger_maker){r->cluster, r->cfg->rules};
    r->sources = xcalloc(l.n, sizeof *r->sources);
    for (; r->n < l.n; r->n++) {
        r->sources[r->n].name = l.v[r->n].name;
        l.v[r->n].name = NULL;
    }
    topic_list_free(&l);
    return true;
}

static int count_all(struct replay *r) {
    for (size_t i = 0; i < r->n; i++) {
        struct source *src = &r->sources[i];
        if (!find_topics(r, src)) return fail(r, EX_CONFIG);
        int rc = exit_code(r, count_source(r, src), src);
        if (rc != EX_OK) return rc;
        if (src->plan.n_rows)
            qsort(src->plan.rows, src->plan.n_rows, sizeof *src->plan.rows, by_count);
    }
    return EX_OK;
}

/* A terminal is asked; elsewhere --yes must have been given. */
static int confirm(struct replay *r, uint64_t n) {
    char question[128];
    r->result = "not confirmed";
    if (!isatty(STDIN_FILENO)) {
        buf_puts(&r->err, "nothing was sent: give --yes to do it, or --dry-run to count only");
        return fail(r, EX_USAGE);
    }
    snprintf(question, sizeof question, "Deliver %" PRIu64 " object%s and requests again? [y/N] ",
             n, PLURAL(n));
    if (interrupt_ask(question)) return EX_OK;
    buf_puts(&r->err, "nothing was sent");
    return fail(r, EX_USAGE);
}

static int send_all(struct replay *r) {
    if (r->cfg->ledger_key[0]) {
        r->signer = ledger_signer_load(r->cfg->ledger_key, &r->err);
        if (!r->signer || (r->cfg->ledger_key_previous[0] &&
                           !ledger_signer_rotate(r->signer, r->cfg->ledger_key_previous, &r->err)))
            return fail(r, EX_CONFIG);
    }
    for (size_t i = 0; i < r->n; i++) {
        struct source *src = &r->sources[i];
        if (!src->count[REPLAY_CHOSEN]) continue;
        int rc = exit_code(r, send_source(r, src), src);
        if (rc != EX_OK) return rc;
    }
    r->result = "done";
    return EX_OK;
}

/* What was asked for and can't be done. */
static int shortfall(const struct replay *r) {
    if (sum(r, REPLAY_GONE) || sum(r, REPLAY_DIFFERS)) return EX_DATAERR;
    return sum(r, REPLAY_UNKNOWN) ? EX_UNAVAILABLE : EX_OK;
}

static int go(struct replay *r) {
    r->result = "failed";
    r->rk = reader_consumer(r->cfg, r->cfg->group, &r->err);
    if (r->rk && r->only_missing) r->lookup = reader_consumer(r->cfg, r->cfg->group, &r->err);
    if (!r->rk || (r->only_missing && !r->lookup)) return fail(r, EX_CONFIG);
    if (!list_sources(r))
        return interrupted() ? exit_code(r, END_STOPPED, NULL) : fail(r, EX_UNAVAILABLE);
    if (!r->n) return command_usage("replay", "give --topic, or configure `topics`");
    int rc = count_all(r);
    if (rc != EX_OK) return rc;
    report_plan(r);
    uint64_t n = sum(r, REPLAY_CHOSEN);
    r->result = n ? "counted" : "nothing to do";
    if (n && !r->dry_run) {
        rc = r->yes ? EX_OK : confirm(r, n);
        if (rc == EX_OK) rc = send_all(r);
    }
    return rc == EX_OK ? shortfall(r) : rc;
}

static int read_options(struct replay *r, int argc, char **argv) {
    const struct command_option options[] = {
        {"--workspace", .text = &r->event.workspace},
        {"--job", .text = &r->event.job},
        {"--id", .text = &r->event.id},
        {"--destination", .text = &r->filter.destination},
        {"--from", .read = command_time, .to = &r->filter.from_ms, .takes = COMMAND_TIME},
        {"--to", .read = command_time, .to = &r->filter.to_ms, .takes = COMMAND_TIME},
        {"--all", .flag = &r->all},
        {"--only-missing", .flag = &r->only_missing},
        {"--topic", .text = &r->topic},
        {"--rate", .read = command_rate, .to = &r->rate, .takes = COMMAND_RATE},
        {"--dry-run", .flag = &r->dry_run},
        {"--yes", .flag = &r->yes},
        {"--json", .flag = &r->json},
    };
    int rc = command_options("replay", options, sizeof options / sizeof *options, argc, argv, NULL);
    if (rc != EX_OK) return rc;
    bool narrow = r->event.workspace || r->event.job || r->event.id || r->filter.destination ||
                  r->filter.from_ms || r->filter.to_ms;
    if (narrow == r->all)
        return command_usage("replay", narrow ? "--all excludes what selects"
                                              : "say what to replay, or --all");
    if (r->topic && topic_kind(r->topic, NULL) != TOPIC_SOURCE)
        return command_usage("replay", "--topic is the source topic, as in `topics`");
    return EX_OK;
}

static void replay_free(struct replay *r) {
    for (size_t i = 0; i < r->n; i++) {
        struct source *src = &r->sources[i];
        objects_free(src->objects);
        audit_free(src->audit);
        replay_maker_free(src->maker);
        replay_plan_free(&src->plan);
        free(src->ledger_at);
        free(src->name);
    }
    free(r->sources);
    topic_list_free(&r->topics);
    ledger_signer_free(r->signer);
    if (r->lookup) rd_kafka_destroy(r->lookup);
    if (r->rk) rd_kafka_destroy(r->rk);
    buf_free(&r->err);
}

int command_replay(struct config *cfg, int argc, char **argv) {
    struct replay r = {.cfg = cfg, .rate = RATE, .began_ms = clock_ms(CLOCK_REALTIME)};
    buf_init(&r.err, 65536);
    int rc = read_options(&r, argc, argv);
    if (rc != EX_OK) return buf_free(&r.err), rc;
    if (cfg->ledger) {
        interrupt_hold();
        rc = go(&r);
        report_end(&r);
    } else {
        buf_puts(&r.err, "ledger is false: without the ledger nothing tells what was delivered");
        rc = fail(&r, EX_CONFIG);
    }
    replay_free(&r);
    return rc;
}
