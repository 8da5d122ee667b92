#include "worker/tools/redrive_send.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/kafka/client.h"
#include "worker/kafka/reader.h"
#include "worker/kafka/scan.h"

#define RECORDS_MAX 500
#define BYTES_MAX ((size_t)4 << 20)
#define ENTRY_MAX ((size_t)16 << 20)
#define CALL_TIMEOUT_MS 5000
/* Twice a transaction's timeout: what the broker has not answered by then, it won't. */
#define PATIENCE_MS 120000
#define TRIES 5
#define LOOK_EVERY 256 /* records between two looks at signals */

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
    struct str key, value;
    uint8_t hash[SHA256_LEN];
};

struct sender {
    struct sending *in;
    rd_kafka_t *producer;
    char topics[FAULTS][TOPIC_MAX + 1];
    struct gatherings open;
    struct arena arena; /* of the transaction at hand */
    struct outgoing *v;
    size_t n, cap, bytes;
    struct page *pages;
    size_t n_pages;
    uint64_t looked;
    int64_t start_ms;
    enum send_end end;
    struct buf *err;
};

/* ---- calls ---- */

enum step { STEP_OK, STEP_ABORT, STEP_FENCED, STEP_FATAL };

static bool is_fencing(rd_kafka_resp_err_t code) {
    return code == RD_KAFKA_RESP_ERR__FENCED || code == RD_KAFKA_RESP_ERR_PRODUCER_FENCED ||
           code == RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH;
}

static rd_kafka_error_t *begin_transaction(rd_kafka_t *rk, int unused) {
    (void)unused;
    return rd_kafka_begin_transaction(rk);
}

/* Calls again while librdkafka says that the same call may be repeated, within reason. */
static enum step call(struct sender *s, const char *name,
                      rd_kafka_error_t *(*fn)(rd_kafka_t *, int)) {
    int64_t end = clock_ms(CLOCK_MONOTONIC) + PATIENCE_MS;
    for (;;) {
        rd_kafka_error_t *e = fn(s->producer, CALL_TIMEOUT_MS);
        if (!e) return STEP_OK;
        enum step step = STEP_FATAL;
        bool again = rd_kafka_error_is_retriable(e) && clock_ms(CLOCK_MONOTONIC) < end;
        if (is_fencing(rd_kafka_error_code(e)) ||
            is_fencing(rd_kafka_fatal_error(s->producer, NULL, 0)))
            step = STEP_FENCED;
        else if (!rd_kafka_error_is_fatal(e) && rd_kafka_error_txn_requires_abort(e))
            step = STEP_ABORT;
        else if (!rd_kafka_error_is_fatal(e) && again)
            step = STEP_OK;
        buf_clear(s->err);
        buf_printf(s->err, "%s: %s", name, rd_kafka_error_string(e));
        rd_kafka_error_destroy(e);
        if (step != STEP_OK) return step;
    }
}

/* ---- records ---- */

static bool produce(struct sender *s, const char *topic, int32_t partition, struct str key,
                    struct str value, const struct header *headers, size_t n) {
    rd_kafka_headers_t *list = rd_kafka_headers_new(n);
    for (size_t i = 0; i < n; i++)
        rd_kafka_header_add(list, headers[i].name.p, (ssize_t)headers[i].name.n, headers[i].value.p,
                            (ssize_t)headers[i].value.n);
    int64_t end = clock_ms(CLOCK_MONOTONIC) + PATIENCE_MS;
    rd_kafka_resp_err_t code;
    do {
        code = rd_kafka_producev(
            s->producer, RD_KAFKA_V_TOPIC(topic), RD_KAFKA_V_PARTITION(partition),
            RD_KAFKA_V_KEY((void *)(uintptr_t)key.p, key.n),
            RD_KAFKA_V_VALUE((void *)(uintptr_t)value.p, value.n), RD_KAFKA_V_HEADERS(list),
            RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END);
        if (code == RD_KAFKA_RESP_ERR__QUEUE_FULL) rd_kafka_poll(s->producer, 100);
    } while (code == RD_KAFKA_RESP_ERR__QUEUE_FULL && clock_ms(CLOCK_MONOTONIC) < end);
    if (!code) return true;
    rd_kafka_headers_destroy(list);
    buf_clear(s->err);
    buf_printf(s->err, "producing to %s: %s", topic, rd_kafka_err2str(code));
    return false;
}

static bool produce_letter(struct sender *s, const struct outgoing *o) {
    const struct sending *in = s->in;
    struct arena arena = {0};
    struct message rec;
    struct retry r;
    const char *unused;
    bool attempts = in->way == PLAN_ATTEMPTS;
    const char *topic = attempts ? in->retry : in->source;
    int partitions = attempts ? in->retry_partitions : in->source_partitions;
    size_t n = 0;
    reader_record(o->m, &arena, &rec);
    struct header *headers;
    if (attempts && retry_parse(rec.headers, rec.n_headers, &r, &unused)) {
        r.first_failure_ms = r.not_before_ms = 0;
        r.attempts = 0;
        r.due_ms = clock_ms(CLOCK_REALTIME);
        snprintf(r.group, sizeof r.group, "%s", in->cfg->group);
        headers = retry_headers(&r, rec.headers, rec.n_headers, &arena, &n);
    } else {
        headers = arena_alloc(&arena, (rec.n_headers + 1) * sizeof *headers);
        for (size_t i = 0; i < rec.n_headers; i++)
            if (!header_is_ours(rec.headers[i].name)) headers[n++] = rec.headers[i];
    }
    bool ok =
        produce(s, topic, o->origin.partition % partitions, (struct str){o->m->key, o->m->key_len},
                (struct str){o->m->payload, o->m->len}, headers, n);
    arena_free(&arena);
    return ok;
}

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
    *p = (struct page){.fault = v[0]->fault, .partition = v[0]->partition};
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

static bool fill(struct sender *s) {
    for (size_t i = 0; s->in->way != PLAN_DISCARD && i < s->n; i++)
        if (!produce_letter(s, &s->v[i])) return false;
    for (size_t i = 0; i < s->n_pages; i++)
        if (!produce(s, s->in->ledger, RD_KAFKA_PARTITION_UA, s->pages[i].key, s->pages[i].value,
                     NULL, 0))
            return false;
    return true;
}

static enum step transact(struct sender *s) {
    enum step step = STEP_ABORT;
    for (int i = 0; step == STEP_ABORT && i < TRIES; i++) {
        step = call(s, "begin transaction", begin_transaction);
        if (step != STEP_OK) return step;
        step = fill(s) ? call(s, "commit", rd_kafka_commit_transaction) : STEP_ABORT;
        if (step != STEP_ABORT) return step;
        log_warn("transaction aborted", LOG_S("topic", s->in->source), LOG_MESSAGE(s->err));
        step = call(s, "abort", rd_kafka_abort_transaction);
        if (step == STEP_OK) step = STEP_ABORT;
    }
    return step;
}

static void forget(struct sender *s) {
    for (size_t i = 0; i < s->n; i++) rd_kafka_message_destroy(s->v[i].m);
    s->n = s->bytes = 0;
    arena_free(&s->arena);
}

static void settled(struct sender *s) {
    struct sending *in = s->in;
    for (size_t i = 0; i < s->n_pages; i++)
        chains_advance(in->chains, s->pages[i].fault, s->pages[i].partition, s->pages[i].hash);
    in->sent += s->n;
    in->transactions++;
    forget(s);
    in->progress(in->context, in->sent);
    int64_t due = 0, now = clock_ms(CLOCK_MONOTONIC);
    if (in->rate && in->sent < in->plan->n)
        due = s->start_ms + (int64_t)(in->sent * 1000 / (uint64_t)in->rate);
    if (in->stop(in->context, due > now ? due - now : 0)) s->end = SEND_STOPPED;
}

static void flush(struct sender *s) {
    if (!s->n || s->end != SEND_DONE) return;
    enum step step = write_pages(s) ? transact(s) : STEP_FATAL;
    switch (step) {
    case STEP_OK:
        buf_clear(s->err);
        settled(s);
        break;
    case STEP_FENCED:
        s->end = SEND_FENCED;
        break;
    case STEP_ABORT:
    case STEP_FATAL:
        s->end = SEND_FAILED;
        break;
    }
}

/* ---- letters ---- */

static size_t most_records(const struct sending *in) {
    return in->rate && in->rate < RECORDS_MAX ? (size_t)in->rate : RECORDS_MAX;
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
    if (s->n + n > s->cap) {
        s->cap = s->n + n > 2 * s->cap ? s->n + n : 2 * s->cap;
        s->v = xrealloc(s->v, s->cap * sizeof *s->v);
    }
    for (size_t i = 0; i < n; i++) {
        if (unit[i].destination)
            unit[i].destination = arena_strdup(&s->arena, str_c(unit[i].destination));
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

static void put_batch(struct sender *s, const struct gathering *b) {
    struct outgoing *unit = xcalloc(b->n, sizeof *unit);
    for (uint32_t i = 0; i < b->n; i++) {
        rd_kafka_message_t *m = b->members[i];
        struct arena arena = {0};
        struct message rec;
        struct letter l = b->first;
        const char *unused;
        reader_record(m, &arena, &rec);
        if (!letter_read(&rec, s->in->source, &l, &unused)) abort(); /* it was read before */
        l.partition = m->partition;
        l.offset = m->offset;
        unit[i] = outgoing(m, &l);
        if (unit[i].destination) unit[i].destination = b->first.past.destination; /* all the same */
        arena_free(&arena);
    }
    put(s, unit, b->n);
    free(unit);
}

static void collect(struct sender *s, rd_kafka_message_t *m, const struct letter *l) {
    struct gathering *b = gather(&s->open, l);
    if ((b->n & (b->n - 1)) == 0) /* full at each power of two */
        b->members = xrealloc(b->members, (b->n ? 2 * (size_t)b->n : 1) * sizeof(void *));
    b->members[b->n++] = m;
    if (b->n < b->count) return;
    put_batch(s, b);
    gather_drop(&s->open, b);
}

static enum fault fault_of(const struct sender *s, const rd_kafka_message_t *m) {
    const char *topic = rd_kafka_topic_name(m->rkt);
    for (int f = FAULT_TENANT; f < FAULTS; f++)
        if (strcmp(topic, s->topics[f]) == 0) return (enum fault)f;
    return FAULT_NONE;
}

/* Whether it is one that was selected and still lies there. */
static bool wanted(struct sender *s, const rd_kafka_message_t *m, struct letter *l) {
    const struct plan *plan = s->in->plan;
    l->fault = fault_of(s, m);
    l->partition = m->partition;
    l->offset = m->offset;
    if (l->fault == FAULT_NONE || !spans_has(&plan->selected[l->fault][l->partition], l->offset))
        return false;
    struct arena arena = {0};
    struct message rec;
    const char *unused;
    reader_record(m, &arena, &rec);
    bool ok = letter_read(&rec, s->in->source, l, &unused);
    arena_free(&arena);
    bool gone = ok && chains_fate(s->in->chains, l->fault, l->partition, l->offset, &l->past) !=
                          LETTER_OPEN;
    s->in->elsewhere += gone;
    return ok && !gone;
}

static bool on_letter(void *context, rd_kafka_message_t *m) {
    struct sender *s = context;
    struct letter l;
    if (!m || ++s->looked % LOOK_EVERY == 0) {
        if (s->in->stop(s->in->context, 0)) s->end = SEND_STOPPED;
        if (!m) return s->end == SEND_DONE;
    }
    if (s->end != SEND_DONE || !wanted(s, m, &l)) {
        rd_kafka_message_destroy(m);
    } else if (s->in->way == PLAN_ATTEMPTS && letter_in_batch(&l)) {
        collect(s, m, &l);
    } else {
        struct outgoing one = outgoing(m, &l);
        put(s, &one, 1);
    }
    return s->end == SEND_DONE;
}

/* From the first selected letter of each partition to the last. */
static void send_all(struct sender *s) {
    const struct plan *plan = s->in->plan;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(16);
    size_t n = 0;
    for (int f = FAULT_TENANT; f < FAULTS; f++) n += (size_t)plan->partitions[f];
    int64_t *until = xcalloc(n, sizeof *until);
    for (int f = FAULT_TENANT; f < FAULTS; f++)
        for (int i = 0; i < plan->partitions[f]; i++) {
            const struct spans *sel = &plan->selected[f][i];
            if (!sel->n) continue;
            until[list->cnt] = sel->v[sel->n - 1].z + 1;
            rd_kafka_topic_partition_list_add(list, s->topics[f], i)->offset = sel->v[0].a;
        }
    s->start_ms = clock_ms(CLOCK_MONOTONIC);
    enum scan_end end = list->cnt ? scan(s->in->rk, list, until, on_letter, s, s->err) : SCAN_DONE;
    if (end == SCAN_FAILED && s->end == SEND_DONE) s->end = SEND_FAILED;
    free(until);
    rd_kafka_topic_partition_list_destroy(list);
    flush(s);
}

/* ---- before the first one ---- */

/* Open transactions must not hide where the ledger ends, so this handle, which asks for its ends,
 * is told to see everything. */
static rd_kafka_t *producer_new(const struct sending *in, struct buf *err) {
    char id[2 * TOPIC_MAX + 32], why[256];
    snprintf(id, sizeof id, "%s/redrive/%s", in->cfg->group, in->source);
    const char *extra[] = {
        "transactional.id",   id,  "compression.type", "lz4", "isolation.level", "read_uncommitted",
        CLIENT_ONE_IN_FLIGHT, NULL};
    rd_kafka_conf_t *conf = client_conf_new(in->cfg, extra, err);
    if (!conf) return NULL;
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, why, sizeof why);
    if (rk) return rk;
    buf_printf(err, "producer: %s", why);
    rd_kafka_conf_destroy(conf);
    return NULL;
}

struct ledger_reading {
    struct sending *in;
    struct buf *err;
    bool stopped;
};

static bool on_entry(void *context, rd_kafka_message_t *m) {
    struct ledger_reading *r = context;
    if (!m) return !(r->stopped = r->in->stop(r->in->context, 0));
    bool ok = chains_take(r->in->chains, (struct str){m->key ? m->key : "", m->key_len},
                          (struct str){m->payload, m->payload ? m->len : 0}, r->err);
    rd_kafka_message_destroy(m);
    return ok;
}

enum send_end redrive_read_ledger(struct sending *in, const int64_t *until, struct buf *err) {
    struct ledger_reading r = {.in = in, .err = err};
    switch (scan(in->rk, in->ledger_at, until, on_entry, &r, err)) {
    case SCAN_DONE:
        break;
    case SCAN_STOPPED:
        return r.stopped ? SEND_STOPPED : SEND_REFUSED;
    case SCAN_FAILED:
        return SEND_FAILED;
    }
    return chains_whole(in->chains, err) ? SEND_DONE : SEND_REFUSED;
}

/* From here on no other redrive of this topic writes, and none that did is left undecided; so where
 * the ledger ends now, it has all that was sent. */
static enum send_end take_over(struct sender *s) {
    struct sending *in = s->in;
    enum step step = call(s, "init transactions", rd_kafka_init_transactions);
    if (step != STEP_OK) return step == STEP_FENCED ? SEND_FENCED : SEND_FAILED;
    buf_clear(s->err);
    int64_t *until = xcalloc((size_t)in->ledger_at->cnt, sizeof *until);
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;
    for (int i = 0; !code && i < in->ledger_at->cnt; i++) {
        int64_t low;
        code = client_ends(s->producer, in->ledger, in->ledger_at->elems[i].partition, &low,
                           &until[i], CALL_TIMEOUT_MS * 4);
    }
    if (code)
        buf_printf(s->err, "asking for the ends of %s: %s", in->ledger, rd_kafka_err2str(code));
    enum send_end end = code ? SEND_FAILED : redrive_read_ledger(in, until, s->err);
    free(until);
    return end;
}

enum send_end redrive_send(struct sending *in, struct buf *err) {
    struct sender s = {.in = in, .err = err, .end = SEND_DONE};
    for (int f = FAULT_TENANT; f < FAULTS; f++) topic_dead(in->source, (enum fault)f, s.topics[f]);
    s.producer = producer_new(in, err);
    if (!s.producer) return SEND_FAILED;
    s.end = take_over(&s);
    if (s.end == SEND_DONE) send_all(&s);
    forget(&s);
    for (size_t i = 0; i < s.open.cap; i++)
        for (struct gathering *b = s.open.buckets[i]; b; b = b->next)
            for (uint32_t k = 0; k < b->n; k++) rd_kafka_message_destroy(b->members[k]);
    gatherings_free(&s.open);
    free(s.v);
    rd_kafka_destroy(s.producer);
    return s.end;
}
