#include "worker/tools/redrive_send.h"

#include <stdlib.h>

#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/kafka/client.h"
#include "worker/kafka/meta.h"
#include "worker/kafka/producer.h"

#define RECORDS_MAX 500
#define BYTES_MAX ((size_t)4 << 20)
#define ENTRY_MAX ((size_t)16 << 20)
#define BEGIN_TIMEOUT_MS 120000
#define ENDS_TIMEOUT_MS 20000
#define TRIES 5

/* A letter on its way: what the ledger says of it, and the record. */
struct outgoing {
    rd_kafka_message_t *m;
    enum fault fault;
    int32_t partition;
    int64_t offset;
    struct origin origin;
    int64_t died_ms;
    const char *destination; /* the arena's; NULL: not known */
};

/* The entry of one partition. */
struct page {
    enum fault fault;
    int32_t partition;
    int64_t next; /* of its window */
    struct str key, value;
    uint8_t hash[SHA256_LEN];
};

struct sender {
    struct sending *in;
    struct producer *producer;
    char topics[FAULTS][TOPIC_MAX + 1];
    struct gatherings open;
    struct arena arena; /* of the transaction at hand */
    struct outgoing *v;
    size_t n, bytes;
    struct page *pages;
    size_t n_pages;
    int64_t start_ms;
    enum send_end end;
    struct buf *err;
};

/* ---- entries ---- */

static int by_place(const void *a, const void *b) {
    const struct outgoing *x = *(const struct outgoing *const *)a;
    const struct outgoing *y = *(const struct outgoing *const *)b;
    if (x->fault != y->fault) return x->fault < y->fault ? -1 : 1;
    if (x->partition != y->partition) return x->partition < y->partition ? -1 : 1;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* What becomes of a letter. */
static void tell(const struct sending *in, struct ledger_item *item) {
    item->kind = in->way == PLAN_DISCARD ? LEDGER_DISCARDED : LEDGER_REDRIVEN;
    switch (in->way) {
    case PLAN_ATTEMPTS:
        item->tier = in->cfg->retry_delays.v[0];
        break;
    case PLAN_ORIGIN:
        item->why = "to-origin";
        break;
    case PLAN_DISCARD:
        item->why = in->why;
        item->who = in->who;
        break;
    }
}

static bool write_page(struct sender *s, const struct outgoing *const *v, size_t n) {
    const struct sending *in = s->in;
    struct ledger_item *items = arena_alloc(&s->arena, n * sizeof *items);
    struct chain_times times = {.now_ms = clock_ms(CLOCK_REALTIME)};
    for (size_t i = 0; i < n; i++) {
        if (v[i]->died_ms > times.died_ms) times.died_ms = v[i]->died_ms;
        items[i] = (struct ledger_item){
            .dest = v[i]->destination, .offsets = &v[i]->offset, .origins = &v[i]->origin, .n = 1};
        tell(in, &items[i]);
    }
    struct page *p = &s->pages[s->n_pages++];
    *p = (struct page){
        .fault = v[0]->fault, .partition = v[0]->partition, .next = v[n - 1]->offset + 1};
    char key[TOPIC_MAX + 16];
    ledger_record_key(key, sizeof key, s->topics[p->fault], p->partition);
    p->key = (struct str){arena_strdup(&s->arena, str_c(key)), strlen(key)};
    struct buf value;
    buf_init(&value, ENTRY_MAX);
    bool ok = chains_encode(in->chains, p->fault, p->partition, items, n, times, in->signer, &value,
                            p->hash);
    if (ok)
        p->value = (struct str){arena_strdup(&s->arena, (struct str){value.p, value.n}), value.n};
    buf_free(&value);
    if (!ok) buf_printf(s->err, "a ledger entry would pass %zu bytes", ENTRY_MAX);
    return ok;
}

static bool write_pages(struct sender *s) {
    const struct outgoing **sorted = xmalloc(s->n * sizeof *sorted);
    for (size_t i = 0; i < s->n; i++) sorted[i] = &s->v[i];
    qsort(sorted, s->n, sizeof *sorted, by_place);
    s->pages = arena_alloc(&s->arena, s->n * sizeof *s->pages);
    s->n_pages = 0;
    bool ok = true;
    for (size_t i = 0, run; ok && i < s->n; i += run) {
        for (run = 1; i + run < s->n && sorted[i + run]->fault == sorted[i]->fault &&
                      sorted[i + run]->partition == sorted[i]->partition;)
            run++;
        ok = write_page(s, sorted + i, run);
    }
    free(sorted);
    return ok;
}

/* ---- the transaction ---- */

static void add_letter(const struct sending *in, struct txn *txn, const struct outgoing *o) {
    struct message rec;
    struct retry r;
    const char *unused;
    bool attempts = in->way == PLAN_ATTEMPTS;
    struct txn_record *to = txn_add(txn);
    reader_record(o->m, &txn->arena, &rec);
    to->topic = attempts ? in->retry : in->source;
    to->partition = o->origin.partition;
    to->key = o->m->key;
    to->key_len = o->m->key_len;
    to->value = o->m->payload;
    to->value_len = o->m->len;
    if (attempts && retry_parse(rec.headers, rec.n_headers, &r, &unused)) {
        r.progress.first_failure_ms = r.progress.not_before_ms = 0;
        r.progress.attempts = 0;
        r.progress.due_ms = clock_ms(CLOCK_REALTIME);
        snprintf(r.group, sizeof r.group, "%s", in->cfg->group);
        to->headers = retry_headers(&r, rec.headers, rec.n_headers, &txn->arena, &to->n_headers);
    } else {
        to->headers = original_headers(rec.headers, rec.n_headers, &txn->arena, &to->n_headers);
    }
}

static void add_page(const struct sending *in, struct txn *txn, const struct page *p) {
    struct txn_record *to = txn_add(txn);
    to->topic = in->ledger;
    to->key = p->key.p;
    to->key_len = p->key.n;
    to->value = p->value.p;
    to->value_len = p->value.n;
}

/* Where the chain ends, with the entry: so a ledger that lacks it shows. */
static void add_end(const struct sender *s, struct txn *txn, const struct page *p) {
    char text[META_MAX + 1];
    struct meta meta = {.seq = chains_entries(s->in->chains, p->fault, p->partition) + 1};
    memcpy(meta.head, p->hash, SHA256_LEN);
    if (!meta_encode(&meta, text)) abort(); /* it has no windows that could be too many */
    txn_offset(txn, s->topics[p->fault], p->partition, p->next, text);
}

/* Whether the same transaction may succeed now. */
static bool may_succeed(const struct txn *txn, int *tries) {
    switch (txn->result) {
    case TXN_REFUSED: /* records that came together, each of which has to be looked at alone */
        for (size_t i = 0; i < txn->n_records; i++)
            if (txn->records[i].refused) return false;
        return true;
    case TXN_AGAIN:
    case TXN_TOPIC:
        return ++*tries < TRIES;
    case TXN_DONE:
    case TXN_STALE:
    case TXN_GONE:
    case TXN_UNKNOWN:
        break;
    }
    return false;
}

static enum send_end transact(struct sender *s) {
    struct txn *txn = txn_new_outside(s->in->cfg->group);
    int tries = 0;
    if (!txn) {
        buf_printf(s->err, "librdkafka refuses the group's name");
        return SEND_FAILED;
    }
    for (size_t i = 0; s->in->way != PLAN_DISCARD && i < s->n; i++)
        add_letter(s->in, txn, &s->v[i]);
    for (size_t i = 0; i < s->n_pages; i++) {
        add_page(s->in, txn, &s->pages[i]);
        add_end(s, txn, &s->pages[i]);
    }
    producer_run(s->producer, txn);
    while (may_succeed(txn, &tries)) {
        log_warn("the transaction was aborted; it is tried again", LOG_S("topic", s->in->source),
                 LOG_S("error", txn->error));
        producer_run(s->producer, txn);
    }
    enum send_end end = txn->result == TXN_DONE ? SEND_DONE
                        : txn->fenced           ? SEND_FENCED
                        : s->in->told()         ? SEND_STOPPED
                                                : SEND_FAILED;
    if (end != SEND_DONE) buf_puts(s->err, txn->error);
    if (txn->result == TXN_UNKNOWN && !txn->fenced) s->in->undecided = s->n;
    txn_free(txn);
    return end;
}

static void forget(struct sender *s) {
    for (size_t i = 0; i < s->n; i++) rd_kafka_message_destroy(s->v[i].m);
    s->n = s->bytes = 0;
    arena_free(&s->arena);
}

static void settled(struct sender *s) {
    struct sending *in = s->in;
    for (size_t i = 0; i < s->n_pages; i++)
        chains_advance(in->chains, s->pages[i].fault, s->pages[i].partition, s->pages[i].next,
                       s->pages[i].hash);
    in->sent += s->n;
    in->transactions++;
    forget(s);
    in->progress(in->context, in->sent);
    int64_t due = 0, now = clock_ms(CLOCK_MONOTONIC);
    if (in->rate && in->sent < in->plan->n)
        due = s->start_ms + (int64_t)(in->sent * 1000 / (uint64_t)in->rate);
    if (in->wait(in->context, due > now ? due - now : 0)) s->end = SEND_STOPPED;
}

static void flush(struct sender *s) {
    if (!s->n || s->end != SEND_DONE) return;
    s->end = write_pages(s) ? transact(s) : SEND_FAILED;
    if (s->end == SEND_DONE) settled(s);
}

/* ---- letters ---- */

static size_t most_records(const struct sending *in) {
    return in->rate && in->rate < RECORDS_MAX ? (size_t)in->rate : RECORDS_MAX;
}

enum send_end redrive_end(const struct reader *r) {
    switch (reader_end(r)) {
    case READER_DONE:
        return SEND_DONE;
    case READER_STOPPED:
        return SEND_STOPPED;
    case READER_FAILED:
        break;
    }
    return SEND_FAILED;
}

/* What must not be torn apart: a batch's members, or one record. */
static void put(struct sender *s, struct outgoing *unit, size_t n) {
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) bytes += unit[i].m->len;
    if (s->n && (s->n + n > most_records(s->in) || s->bytes + bytes > BYTES_MAX)) flush(s);
    if (s->end != SEND_DONE) {
        for (size_t i = 0; i < n; i++) rd_kafka_message_destroy(unit[i].m);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (unit[i].destination)
            unit[i].destination = arena_strdup(&s->arena, str_c(unit[i].destination));
        s->v = xgrow(s->v, s->n, sizeof *s->v);
        s->v[s->n++] = unit[i];
    }
    s->bytes += bytes;
}

static struct outgoing outgoing(rd_kafka_message_t *m, const struct letter *l) {
    return (struct outgoing){.m = m,
                             .fault = l->fault,
                             .partition = l->partition,
                             .offset = l->offset,
                             .origin = l->past.origin,
                             .died_ms = l->past.died_ms,
                             .destination = l->past.destination[0] ? l->past.destination : NULL};
}

/* The letter that a message is; false: it is none of ours. */
static bool read_letter(const struct sender *s, const rd_kafka_message_t *m, struct letter *l) {
    struct arena arena = {0};
    struct message rec;
    const char *unused;
    *l = (struct letter){.fault = topic_dead_fault(rd_kafka_topic_name(m->rkt)),
                         .partition = m->partition,
                         .offset = m->offset};
    reader_record(m, &arena, &rec);
    bool ok = letter_read(&rec, s->in->source, l, &unused);
    arena_free(&arena);
    return ok;
}

static void put_batch(struct sender *s, const struct gathering *b) {
    struct outgoing *unit = xcalloc(b->n, sizeof *unit);
    for (uint32_t i = 0; i < b->n; i++) {
        struct letter l;
        if (!read_letter(s, b->members[i], &l)) abort(); /* it was read before */
        unit[i] = outgoing(b->members[i], &l);
        if (unit[i].destination) unit[i].destination = b->first.past.destination; /* all the same */
    }
    put(s, unit, b->n);
    free(unit);
}

static void collect(struct sender *s, rd_kafka_message_t *m, const struct letter *l) {
    struct gathering *b = gather(&s->open, l);
    b->members = xgrow(b->members, b->n, sizeof(void *));
    b->members[b->n++] = m;
    if (b->n < b->count) return;
    put_batch(s, b);
    gather_drop(&s->open, b);
}

/* Whether it is one that was selected and still lies there. */
static bool wanted(struct sender *s, const rd_kafka_message_t *m, struct letter *l) {
    enum fault fault = topic_dead_fault(rd_kafka_topic_name(m->rkt));
    if (!spans_has(&s->in->plan->selected[fault][m->partition], m->offset) || !read_letter(s, m, l))
        return false;
    bool gone = chains_state(s->in->chains, l) != LETTER_OPEN;
    s->in->elsewhere += gone;
    return !gone;
}

static void take(struct sender *s, rd_kafka_message_t *m) {
    struct letter l;
    if (!wanted(s, m, &l)) {
        rd_kafka_message_destroy(m);
    } else if (s->in->way == PLAN_ATTEMPTS && letter_in_batch(&l)) {
        collect(s, m, &l);
    } else {
        struct outgoing one = outgoing(m, &l);
        put(s, &one, 1);
    }
}

/* From the first selected letter of each partition to the last. */
static void send_all(struct sender *s) {
    const struct plan *plan = s->in->plan;
    struct reader *r = reader_new(s->in->rk, READER_ANY);
    rd_kafka_message_t *m;
    for (int f = FAULT_TENANT; f < FAULTS; f++)
        for (int i = 0; i < plan->partitions[f]; i++) {
            const struct spans *sel = &plan->selected[f][i];
            if (sel->n) reader_add(r, s->topics[f], i, sel->v[0].a, sel->v[sel->n - 1].z + 1);
        }
    reader_stop_when(r, s->in->stop, s->in->context);
    s->start_ms = clock_ms(CLOCK_MONOTONIC);
    while (s->end == SEND_DONE && (m = reader_next(r, 0, s->err))) take(s, m);
    if (s->end == SEND_DONE) s->end = redrive_end(r);
    reader_free(r);
    flush(s);
}

/* ---- before the first one ---- */

enum send_end redrive_read_ledger(struct sending *in, const int64_t *until, struct buf *err) {
    struct reader *r = reader_new(in->rk, READER_ANY);
    rd_kafka_message_t *m;
    bool ok = true;
    for (int i = 0; i < in->ledger_partitions; i++)
        reader_add(r, in->ledger, i, in->ledger_at[i], until ? until[i] : READER_END);
    reader_stop_when(r, in->stop, in->context);
    while (ok && (m = reader_next(r, 0, err))) {
        ok = chains_take(in->chains, reader_key(m), reader_value(m), err);
        rd_kafka_message_destroy(m);
    }
    for (int i = 0; i < in->ledger_partitions; i++) in->ledger_at[i] = reader_at(r, (size_t)i);
    enum send_end end = redrive_end(r);
    reader_free(r);
    if (end != SEND_DONE) return end;
    return ok && chains_whole(in->chains, err) ? SEND_DONE : SEND_REFUSED;
}

/* Open transactions must not hide where the ledger ends. */
static bool ask_ends(const struct sending *in, int64_t *ret, struct buf *err) {
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;
    int64_t low;
    rd_kafka_t *raw = reader_consumer_raw(in->cfg, in->cfg->group, err);
    if (!raw) return false;
    for (int i = 0; !code && i < in->ledger_partitions; i++)
        code = client_ends_unless(raw, in->ledger, i, &low, &ret[i], ENDS_TIMEOUT_MS, in->told);
    rd_kafka_destroy(raw);
    if (code) buf_printf(err, "asking for the ends of %s: %s", in->ledger, rd_kafka_err2str(code));
    return !code;
}

/* From here on no other redrive of this topic writes, and none that did is left undecided; so where
 * the ledger ends now, it has all that was sent. */
static enum send_end take_over(struct sender *s) {
    struct txn attempt = {0};
    if (producer_begin(s->producer, BEGIN_TIMEOUT_MS, &attempt) != PRODUCER_READY) {
        buf_puts(s->err, attempt.error);
        return attempt.fenced ? SEND_FENCED : s->in->told() ? SEND_STOPPED : SEND_FAILED;
    }
    int64_t *until = xcalloc((size_t)s->in->ledger_partitions, sizeof *until);
    bool ok = ask_ends(s->in, until, s->err);
    enum send_end end = ok              ? redrive_read_ledger(s->in, until, s->err)
                        : s->in->told() ? SEND_STOPPED
                                        : SEND_FAILED;
    free(until);
    return end;
}

enum send_end redrive_send(struct sending *in, struct buf *err) {
    struct sender s = {.in = in, .err = err, .end = SEND_DONE};
    char id[2 * TOPIC_MAX + 32];
    for (int f = FAULT_TENANT; f < FAULTS; f++) topic_dead(in->source, (enum fault)f, s.topics[f]);
    snprintf(id, sizeof id, "%s/redrive/%s", in->cfg->group, in->source);
    s.producer = producer_open(in->cfg, id, err);
    if (!s.producer) return SEND_FAILED;
    producer_stop_when(s.producer, in->told);
    s.end = take_over(&s);
    if (s.end == SEND_DONE) send_all(&s);
    forget(&s);
    const struct gathering *b;
    LIST_FOREACH(b, &s.open.all, all)
    for (uint32_t k = 0; k < b->n; k++) rd_kafka_message_destroy(b->members[k]);
    gatherings_free(&s.open);
    free(s.v);
    producer_free(s.producer);
    return s.end;
}
