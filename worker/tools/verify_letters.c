#include "worker/tools/verify_letters.h"

#include <stdio.h>
#include <stdlib.h>

#include "worker/base/clock.h"
#include "worker/base/hash.h"
#include "worker/kafka/client.h"
#include "worker/kafka/retry.h"
#include "worker/kafka/topic_settings.h"

#define TIMEOUT_MS 30000
/* Clocks differ, and a segment goes when its newest record is old enough: what is nearly as old as
 * the retention is not missed. */
#define SPARE_MAX_MS (60 * 60 * 1000)

struct dead_partition {
    int64_t low, high; /* what could be read when all began */
};

struct dead_topic {
    const struct topic *topic; /* NULL: there is none */
    struct dead_partition *partitions;
};

struct letters {
    rd_kafka_t *rk;
    const char *source, *group;
    struct audit *audit;
    struct dead_topic topics[FAULTS];
    uint64_t *back;        /* fingerprints of those that entries name as sent back or closed */
    size_t n_back, n_held; /* letters that Kafka held when all began */
    bool sorted;
    struct letters_sums sums;
};

/* ---- before the ledger ---- */

static bool is_source(const struct letters *l, const struct topic *t) {
    enum topic_kind kind;
    return t->partitions > 0 && topic_is_of(t->name, l->source, &kind) && kind == TOPIC_DEAD;
}

static bool ask_ends(struct letters *l, struct dead_topic *d, struct buf *err) {
    d->partitions = xcalloc((size_t)d->topic->partitions, sizeof *d->partitions);
    for (int32_t p = 0; p < d->topic->partitions; p++) {
        rd_kafka_resp_err_t code = client_ends(l->rk, d->topic->name, p, &d->partitions[p].low,
                                               &d->partitions[p].high, TIMEOUT_MS);
        if (!code) {
            l->n_held += (size_t)(d->partitions[p].high - d->partitions[p].low);
            continue;
        }
        buf_printf(err, "asking for the ends of %s/%d: %s", d->topic->name, (int)p,
                   rd_kafka_err2str(code));
        return false;
    }
    return true;
}

/* From when on the topic keeps all; 0: that is not known. */
static int64_t kept_since(const struct topic_settings *s, int64_t now_ms) {
    if (!s->known || s->retention_bytes >= 0 || strcmp(s->cleanup_policy, "delete") != 0) return 0;
    if (s->retention_ms < 0) return 1;
    int64_t spare = s->retention_ms / 10;
    if (spare > SPARE_MAX_MS) spare = SPARE_MAX_MS;
    return s->retention_ms < now_ms ? now_ms - s->retention_ms + spare : 1;
}

static bool ask_retention(struct letters *l, struct buf *err) {
    struct topic asked[FAULTS];
    struct topic_settings settings[FAULTS] = {0};
    struct topic_list list = {.v = asked};
    static const enum fault by_name[] = {FAULT_DATA, FAULT_SYSTEM, FAULT_TENANT};
    enum fault faults[FAULTS];
    for (size_t i = 0; i < sizeof by_name / sizeof *by_name; i++) {
        if (!l->topics[by_name[i]].topic) continue;
        faults[list.n] = by_name[i];
        asked[list.n++] = *l->topics[by_name[i]].topic;
    }
    if (list.n && !topic_settings_ask(l->rk, &list, TIMEOUT_MS, NULL, settings, err)) return false;
    int64_t now_ms = clock_ms(CLOCK_REALTIME);
    for (size_t i = 0; i < list.n; i++)
        audit_letters_since(l->audit, faults[i], kept_since(&settings[i], now_ms));
    /* One that is not there was made with what runsink makes: nothing removes a letter. */
    for (int f = FAULT_TENANT; f < FAULTS; f++)
        if (!l->topics[f].topic) audit_letters_since(l->audit, (enum fault)f, 1);
    return true;
}

struct letters *letters_new(rd_kafka_t *rk, const struct topic_list *all, const char *source,
                            const char *group, struct audit *a, struct buf *err) {
    struct letters *l = xcalloc(1, sizeof *l);
    *l = (struct letters){.rk = rk, .source = source, .group = group, .audit = a};
    bool ok = true;
    for (size_t i = 0; ok && i < all->n; i++) {
        const struct topic *t = &all->v[i];
        enum fault fault = topic_dead_fault(t->name);
        if (fault == FAULT_NONE || !is_source(l, t)) continue;
        l->topics[fault].topic = t;
        ok = ask_ends(l, &l->topics[fault], err);
    }
    if (ok && ask_retention(l, err)) return l;
    letters_free(l);
    return NULL;
}

void letters_free(struct letters *l) {
    if (!l) return;
    for (int f = FAULT_TENANT; f < FAULTS; f++) free(l->topics[f].partitions);
    free(l->back);
    free(l);
}

/* ---- letters that went back ---- */

static uint64_t fingerprint(enum fault fault, int32_t partition, int64_t offset,
                            int32_t from_partition, int64_t from_offset) {
    int64_t parts[5] = {(int64_t)fault, partition, offset, from_partition, from_offset};
    return keyed_hash(parts, sizeof parts);
}

static void remember(struct letters *l, uint64_t hash) {
    l->back = xgrow(l->back, l->n_back, sizeof *l->back);
    l->back[l->n_back++] = hash;
}

/* n letters from one offset on, with as many origins. Only those that Kafka held when all began are
 * asked for, so no others are walked through, whatever an entry claims; and each went back once at
 * most, so there are no more of them. */
static void take_run(struct letters *l, enum fault fault, const struct ledger_entry *e, int64_t at,
                     const struct ledger_origin *o, int64_t from, int64_t n) {
    const struct dead_topic *d = &l->topics[fault];
    if (e->partition >= d->topic->partitions) return;
    const struct dead_partition *held = &d->partitions[e->partition];
    int64_t first = at > held->low ? at : held->low, last = at + (n - 1);
    if (last >= held->high) last = held->high - 1;
    for (int64_t v = first; v <= last && l->n_back < l->n_held; v++)
        remember(l, fingerprint(fault, e->partition, v, o->partition, from + (v - at)));
}

/* Offsets and origins are two lists of ranges with as many numbers, walked side by side. */
static void take_group(struct letters *l, enum fault fault, const struct ledger_entry *e,
                       const struct ledger_group *g) {
    int64_t at = g->n_offsets ? g->offsets[0].a : 0,
            from = g->n_origins ? g->origins[0].range.a : 0;
    for (size_t i = 0, k = 0; i < g->n_offsets && k < g->n_origins;) {
        const struct ledger_origin *o = &g->origins[k];
        int64_t left = g->offsets[i].z - at, other = o->range.z - from;
        int64_t n = (left < other ? left : other) + 1;
        take_run(l, fault, e, at, o, from, n);
        at += n;
        from += n;
        if (at > g->offsets[i].z && ++i < g->n_offsets) at = g->offsets[i].a;
        if (from > o->range.z && ++k < g->n_origins) from = g->origins[k].range.a;
    }
}

void letters_entry(struct letters *l, const struct ledger_entry *e) {
    for (int f = FAULT_TENANT; f < FAULTS; f++) {
        if (!l->topics[f].topic || !str_is(e->topic, l->topics[f].topic->name)) continue;
        for (size_t i = 0; i < e->n_groups; i++) take_group(l, (enum fault)f, e, &e->groups[i]);
    }
}

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static bool went_back(struct letters *l, uint64_t hash) {
    if (!l->n_back) return false;
    if (!l->sorted) qsort(l->back, l->n_back, sizeof *l->back, compare);
    l->sorted = true;
    return bsearch(&hash, l->back, l->n_back, sizeof hash, compare) != NULL;
}

/* ---- letters that are there ---- */

static void tell(struct letters *l, bool note, const char *code, const rd_kafka_message_t *m,
                 enum fault fault, const char *text) {
    struct finding f = {.note = note,
                        .code = code,
                        .topic = l->topics[fault].topic->name,
                        .partition = m->partition,
                        .offset = m->offset,
                        .text = text};
    audit_report(l->audit, &f);
}

static void take(struct letters *l, enum fault fault, const rd_kafka_message_t *m,
                 const struct retry *letter) {
    const struct origin *o = &letter->origin;
    char text[TOPIC_MAX + 200];
    if (went_back(l, fingerprint(fault, m->partition, m->offset, o->partition, o->offset))) {
        l->sums.compared++;
        return;
    }
    enum audit_letter is = audit_letter(l->audit, fault, o);
    /* What was not there when all began may be of an entry that was not read any more. */
    bool young = m->partition >= l->topics[fault].topic->partitions ||
                 m->offset >= l->topics[fault].partitions[m->partition].high;
    if (is == LETTER_UNKNOWN || (is != LETTER_SAID && young)) {
        l->sums.uncovered++;
        return;
    }
    l->sums.compared++;
    if (is == LETTER_SAID) return;
    snprintf(text, sizeof text,
             is == LETTER_REPEATED
                 ? "another letter stands for the same death of %s/%d@%lld: a broker that was "
                   "killed can leave one twice, so can whoever writes to this topic"
                 : "no entry says that %s/%d@%lld died so: no worker put this letter here",
             o->topic, (int)o->partition, (long long)o->offset);
    if (is == LETTER_REPEATED)
        tell(l, true, "letter-repeated", m, fault, text);
    else
        tell(l, false, "strange-letter", m, fault, text);
}

static void take_message(struct letters *l, const rd_kafka_message_t *m, struct arena *arena) {
    struct message record;
    struct retry letter;
    const char *why;
    enum fault fault = topic_dead_fault(rd_kafka_topic_name(m->rkt));
    reader_record(m, arena, &record);
    bool good = retry_parse(record.headers, record.n_headers, &letter, &why);
    if (good && letter.group[0] && strcmp(letter.group, l->group) != 0) return;
    if (good && letter.died_ms)
        take(l, fault, m, &letter);
    else
        tell(l, false, "strange-letter", m, fault,
             "its headers are not a dead letter's: no worker put this record here");
}

/* Up to what is written now: entries have been read whose letters may be hidden by other
 * transactions still. */
static bool add_topic(rd_kafka_t *raw, struct reader *r, const struct dead_topic *d,
                      struct buf *err) {
    for (int32_t p = 0; p < d->topic->partitions; p++) {
        int64_t low, written = READER_END;
        rd_kafka_resp_err_t code =
            raw ? client_ends(raw, d->topic->name, p, &low, &written, TIMEOUT_MS) : 0;
        if (code) {
            buf_printf(err, "asking for the ends of %s/%d: %s", d->topic->name, (int)p,
                       rd_kafka_err2str(code));
            return false;
        }
        reader_add(r, d->topic->name, p, RD_KAFKA_OFFSET_BEGINNING, written);
    }
    return true;
}

bool letters_read(struct letters *l, rd_kafka_t *raw, letters_progress_fn *progress, void *context,
                  struct buf *err) {
    struct reader *r = reader_new(l->rk, READER_ANY);
    struct arena arena = {0};
    rd_kafka_message_t *m;
    uint64_t n = 0;
    bool ok = true;
    for (int f = FAULT_TENANT; ok && f < FAULTS; f++)
        if (l->topics[f].topic) ok = add_topic(raw, r, &l->topics[f], err);
    while (ok && (m = reader_next(r, 0, err))) {
        take_message(l, m, &arena);
        arena_free(&arena);
        if (progress) progress(context, "dead topics", ++n, reader_progress(r));
        rd_kafka_message_destroy(m);
    }
    reader_free(r);
    if (ok && !err->n && raw) audit_letters(l->audit);
    return ok && !err->n;
}

void letters_sums(const struct letters *l, struct letters_sums *ret) {
    *ret = l->sums;
    ret->expired = audit_letters_expired(l->audit);
}
