#include "worker/tools/verify_derive.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/kafka/retry.h"
#include "worker/pipeline/body.h"
#include "worker/pipeline/delivery.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/object_key.h"
#include "worker/pipeline/record.h"
#include "worker/pipeline/route.h"

#define TEXT_MAX 900
/* Findings that wait until it is known whether this libzstd makes the worker's bytes. */
#define LATE_MAX 256
/* Of differences that are no findings, so many are notes: a new version may change all bodies. */
#define NOTES_MAX 20

/* What one destination gets of a window in batch mode. */
struct batch_of {
    struct table_node node;
    const struct destination *dest;
    const char *key; /* NULL: it can't be made */
    uint64_t n;
};

/* A record, and what its bytes ask for. */
struct derived {
    struct record record; /* as far as body_make() needs it */
    enum route_kind kind;
    bool aside;               /* it was set aside: its bytes are not looked at */
    struct destination *dest; /* held; NULL: none */
    struct outcome *outcome;  /* unless it is to be delivered */
    const char *key;          /* SHAPE_OBJECT, alone */
    const char *batch_key;    /* of the batch that comes back, NULL: it comes alone */
    const char *past_why;     /* retry topics: of the last failure */
    struct origin *origin;    /* retry topics; NULL: not told */
    struct batch_of *batch;
};

struct late {
    char *text, *topic;
    int32_t partition;
    int64_t offset;
    struct ledger_place place;
    uint64_t records;
};

struct derive {
    const struct config *cfg;
    struct audit *audit;
    struct lane
        *lane; /* one that reads nothing: what decodes, routes and makes bodies is a lane's */
    struct derive_sums sums;
    struct late late[LATE_MAX];
    size_t n_late, noted;
    bool zstd_same; /* it has made the worker's very bytes */

    /* The window at hand. */
    struct derive_window w;
    struct arena arena;
    const struct ledger_group **aside; /* that speak of what was set aside */
    size_t n_aside;
    struct derived **records;
    size_t n;
    struct table batches;
    bool large, batched, whole; /* whole: no record that the entry names is missing */
};

struct derive *derive_new(const struct config *cfg, struct audit *a) {
    struct derive *d = xcalloc(1, sizeof *d);
    d->cfg = cfg;
    d->audit = a;
    d->lane = xcalloc(1, sizeof *d->lane);
    d->lane->cfg = cfg;
    d->lane->router = router_new(cfg);
    return d;
}

static void late_free(struct late *l) {
    free(l->text);
    free(l->topic);
}

/* Lets the window's records go. */
static void release(struct derive *d) {
    for (size_t i = 0; i < d->n; i++)
        if (d->records[i]->dest) destination_drop(d->records[i]->dest);
    free(d->records);
    d->records = NULL;
    d->n = 0;
    table_free(&d->batches);
    arena_wipe(&d->arena);
}

void derive_free(struct derive *d) {
    if (!d) return;
    release(d);
    for (size_t i = 0; i < d->n_late; i++) late_free(&d->late[i]);
    body_close(d->lane);
    router_free(d->lane->router);
    free(d->lane);
    free(d);
}

const struct derive_sums *derive_sums(const struct derive *d) {
    return &d->sums;
}

/* Whether the entry was made under the configuration that is given here. Those of form 1 don't say:
 * they are judged by this one. */
static bool same_rules(const struct config *cfg, const struct ledger_entry *e) {
    return e->form == 1 || memcmp(e->rules, cfg->rules, LEDGER_RULES_LEN) == 0;
}

/* ---- findings ---- */

static void report(struct derive *d, bool note, const char *topic, int32_t partition,
                   int64_t offset, const struct ledger_place *place, const char *text) {
    const struct finding f = {.note = note,
                              .code = "other-outcome",
                              .topic = topic,
                              .partition = partition,
                              .offset = offset,
                              .place = *place,
                              .text = text};
    d->sums.differ += !note;
    audit_report(d->audit, &f);
}

/* Why a difference is no finding: another worker, or other rules, may have said so rightly. */
static enum unjudged excuse(const struct derive *d) {
    const struct ledger_entry *e = d->w.entry;
    if (!same_rules(d->cfg, e)) return UNJUDGED_RULES;
    return str_is(e->version, RUNSINK_VERSION) ? UNJUDGED_N : UNJUDGED_VERSION;
}

/* The entry says something else than what was derived: so many of its records are concerned. */
__attribute__((format(printf, 4, 5))) static void differ(struct derive *d, int64_t offset,
                                                         uint64_t records, const char *fmt, ...) {
    const struct ledger_entry *e = d->w.entry;
    char text[TEXT_MAX], topic[TOPIC_MAX + 1];
    int n = snprintf(text, sizeof text, "entry %" PRIu64 " ", e->seq);
    enum unjudged why = excuse(d);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text + n, sizeof text - (size_t)n, fmt, ap);
    va_end(ap);
    snprintf(topic, sizeof topic, "%.*s", (int)e->topic.n, e->topic.p);
    if (why == UNJUDGED_N)
        d->sums.derived += records;
    else
        d->sums.unjudged[why] += records;
    if (why == UNJUDGED_N || d->noted++ < NOTES_MAX)
        report(d, why != UNJUDGED_N, topic, e->partition, offset, &d->w.place, text);
}

/* The same of bytes that depend on libzstd: a finding only where this one is known to make the
 * worker's. */
static void differ_zstd(struct derive *d, int64_t offset, uint64_t records, const char *text) {
    const struct ledger_entry *e = d->w.entry;
    if (d->zstd_same || excuse(d) != UNJUDGED_N) {
        differ(d, offset, records, "%s", text);
    } else if (d->n_late < LATE_MAX) {
        char whole[TEXT_MAX];
        snprintf(whole, sizeof whole, "entry %" PRIu64 " %s", e->seq, text);
        d->late[d->n_late++] = (struct late){.text = xstrdup(whole),
                                             .topic = xstrndup(e->topic.p, e->topic.n),
                                             .partition = e->partition,
                                             .offset = offset,
                                             .place = d->w.place,
                                             .records = records};
    } else {
        d->sums.unjudged[UNJUDGED_COMPRESSOR] += records;
    }
}

void derive_finish(struct derive *d) {
    for (size_t i = 0; i < d->n_late; i++) {
        struct late *l = &d->late[i];
        if (d->zstd_same) {
            d->sums.derived += l->records;
            report(d, false, l->topic, l->partition, l->offset, &l->place, l->text);
        } else {
            d->sums.unjudged[UNJUDGED_COMPRESSOR] += l->records;
        }
        late_free(l);
    }
    d->n_late = 0;
}

void derive_pass(struct derive *d, const struct ledger_entry *e, enum unjudged why) {
    for (size_t i = 0; i < e->n_groups; i++) d->sums.unjudged[why] += e->groups[i].count;
}

/* ---- what a record asks for ---- */

static bool is_aside(const struct ledger_group *g) {
    return (g->kind == LEDGER_SKIPPED && str_is(g->why, "operator")) ||
           (g->kind == LEDGER_DEAD && str_is(g->why, "poison") && !g->to.n);
}

static bool in_group(const struct ledger_group *g, int64_t offset) {
    for (size_t i = 0; i < g->n_offsets; i++)
        if (offset <= g->offsets[i].z) return offset >= g->offsets[i].a;
    return false;
}

/* To decode what kills a worker would kill us. */
static bool was_set_aside(const struct derive *d, int64_t offset) {
    for (size_t i = 0; i < d->n_aside; i++)
        if (in_group(d->aside[i], offset)) return true;
    return false;
}

static struct str keep(struct derive *d, struct str s) {
    return s.p ? (struct str){arena_strdup(&d->arena, s), s.n} : s;
}

static struct message keep_message(struct derive *d, const struct message *m) {
    struct header *headers = arena_alloc(&d->arena, (m->n_headers + 1) * sizeof *headers);
    for (size_t i = 0; i < m->n_headers; i++)
        headers[i] = (struct header){keep(d, m->headers[i].name), keep(d, m->headers[i].value)};
    return (struct message){keep(d, m->value), headers, m->n_headers};
}

static void end_as(struct derive *d, struct derived *r, enum route_kind kind,
                   const struct outcome *o) {
    r->kind = kind;
    r->outcome = arena_alloc(&d->arena, sizeof *r->outcome);
    *r->outcome = *o;
}

/* What a record of a retry topic says of its past, as intake.c reads it. */
static bool read_past(struct derive *d, struct derived *r, const struct message *m) {
    struct retry past;
    const char *problem = NULL;
    if (!retry_parse(m->headers, m->n_headers, &past, &problem) ||
        strcmp(past.origin.topic, d->w.source) != 0) {
        struct outcome o = outcome_fail(VERDICT_PERMANENT, FAULT_SYSTEM, "bad-retry-headers", NULL);
        end_as(d, r, ROUTE_DEAD, &o);
        return false;
    }
    r->origin = arena_alloc(&d->arena, sizeof *r->origin);
    *r->origin = past.origin;
    r->past_why = arena_strdup(&d->arena, str_c(past.why));
    r->record.from_partition = past.origin.partition;
    r->record.from_offset = past.origin.offset;
    if (past.timestamp_ms) r->record.timestamp_ms = past.timestamp_ms;
    r->record.batch_index = past.batch_index;
    if (past.batch_key[0]) r->batch_key = arena_strdup(&d->arena, str_c(past.batch_key));
    return true;
}

/* Of the object that is the event's own. */
static void make_key(struct derive *d, struct derived *r, const struct jobrun *run) {
    struct origin origin = {.partition = r->record.from_partition, .offset = r->record.from_offset};
    struct outcome o;
    struct buf key;
    snprintf(origin.topic, sizeof origin.topic, "%s", d->w.source);
    buf_init(&key, KEY_MAX * 2);
    if (object_key_event(d->cfg, run, r->dest, &origin, r->record.timestamp_ms, &key, &o))
        r->key = arena_strdup(&d->arena, (struct str){key.p, key.n});
    else
        end_as(d, r, ROUTE_DEAD, &o);
    buf_free(&key);
}

static void decide(struct derive *d, struct derived *r, const struct message *m) {
    struct jobrun run;
    struct outcome o;
    struct router *router = d->lane->router;
    struct known_sinks known = router_known(router);
    if (d->w.retries && !read_past(d, r, m)) return;
    if (!jobrun_decode_known(m, &known, &d->arena, &run, &o)) {
        end_as(d, r, o.verdict == VERDICT_OK ? ROUTE_SKIP : ROUTE_DEAD, &o);
        return;
    }
    if (!d->cfg->redact_payload) run.payload.verbatim = true;
    r->record.payload = run.payload;
    r->kind = (d->w.retries ? route_again : route)(router, &run, 0, &r->dest, &o);
    if (r->kind != ROUTE_DELIVER) {
        r->dest = NULL;
        end_as(d, r, r->kind, &o);
        return;
    }
    destination_hold(r->dest);
    bool alone = d->w.retries ? !r->batch_key : d->cfg->archive != CONFIG_ARCHIVE_BATCH;
    if (alone && r->dest->type->shape == SHAPE_OBJECT) make_key(d, r, &run);
}

void derive_begin(struct derive *d, const struct derive_window *w) {
    const struct ledger_entry *e = w->entry;
    d->w = *w;
    d->large = false;
    d->aside = arena_alloc(&d->arena, (e->n_groups + 1) * sizeof *d->aside);
    d->n_aside = 0;
    for (size_t i = 0; i < e->n_groups; i++)
        if (is_aside(&e->groups[i])) d->aside[d->n_aside++] = &e->groups[i];
}

void derive_record(struct derive *d, int64_t offset, int64_t timestamp_ms,
                   const struct message *m) {
    if (d->large) return;
    if (d->arena.bytes > (size_t)d->cfg->memory_budget) {
        d->large = true;
        release(d);
        return;
    }
    struct derived *r = arena_alloc(&d->arena, sizeof *r);
    r->record.offset = r->record.from_offset = offset;
    r->record.from_partition = d->w.entry->partition;
    r->record.timestamp_ms = timestamp_ms;
    d->records = xgrow(d->records, d->n, sizeof(struct derived *));
    d->records[d->n++] = r;
    r->aside = was_set_aside(d, offset);
    if (r->aside) return;
    struct message kept = keep_message(d, m);
    decide(d, r, &kept);
}

/* ---- batches ---- */

/* The first record at this offset or after it. */
static size_t find(const struct derive *d, int64_t offset) {
    size_t low = 0, high = d->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (d->records[middle]->record.offset < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static uint64_t present(const struct derive *d, const struct ledger_group *g) {
    uint64_t n = 0;
    for (size_t i = 0; i < g->n_offsets; i++)
        n += find(d, g->offsets[i].z + 1) - find(d, g->offsets[i].a);
    return n;
}

static bool is_whole(const struct derive *d) {
    for (size_t i = 0; i < d->w.entry->n_groups; i++)
        if (present(d, &d->w.entry->groups[i]) != d->w.entry->groups[i].count) return false;
    return true;
}

static bool is_collected(const struct derived *r) {
    return !r->aside && r->kind == ROUTE_DELIVER && r->dest->type->shape == SHAPE_OBJECT;
}

static struct batch_of *batch_of(struct derive *d, const struct destination *dest) {
    uint64_t hash = keyed_hash(&dest, sizeof dest);
    for (struct table_node *n = table_first(&d->batches, hash); n; n = table_next(n)) {
        struct batch_of *b = TABLE_ENTRY(n, struct batch_of, node);
        if (b->dest == dest) return b;
    }
    struct batch_of *b = arena_alloc(&d->arena, sizeof *b);
    b->dest = dest;
    table_add(&d->batches, &b->node, hash);
    return b;
}

static void name_batch(struct derive *d, struct batch_of *b, struct key_places *places) {
    const struct ledger_entry *e = d->w.entry;
    struct buf key;
    struct outcome unused;
    buf_init(&key, KEY_MAX * 2);
    if (object_key_batch(d->cfg, b->dest, d->w.source, e->partition, d->w.era, e->first, e->next,
                         d->records[0]->record.timestamp_ms,
                         key_places_nth(places, d->cfg, b->dest), &key, &unused))
        b->key = arena_strdup(&d->arena, (struct str){key.p, key.n});
    buf_free(&key);
}

/* The objects that the window makes in batch mode, in the order of their first records. */
static void collect(struct derive *d) {
    struct key_places *places = key_places_new(d->n);
    for (size_t i = 0; i < d->n; i++) {
        struct derived *r = d->records[i];
        if (!is_collected(r)) continue;
        r->batch = batch_of(d, r->dest);
        if (r->batch->n++ == 0) name_batch(d, r->batch, places);
    }
    key_places_free(places);
}

/* The record that the entry's first object begins with; NULL: it has none, or that is gone. */
static const struct derived *first_object(const struct derive *d, struct str *ret_key) {
    for (size_t i = 0; i < d->w.entry->n_groups; i++) {
        const struct ledger_group *g = &d->w.entry->groups[i];
        if (!g->object) continue;
        size_t at = find(d, g->offsets[0].a);
        *ret_key = g->key;
        return at < d->n ? d->records[at] : NULL;
    }
    return NULL;
}

static void begin_batches(struct derive *d) {
    struct str key = {0};
    d->batched = !d->w.retries && d->cfg->archive == CONFIG_ARCHIVE_BATCH;
    d->whole = is_whole(d);
    if (d->w.retries || !d->n || !d->whole) return;
    const struct derived *first = first_object(d, &key);
    if (!d->batched && (!first || !first->key || str_is(key, first->key))) return;
    collect(d);
    /* A window whose end was durable stays a batch, though the mode was changed before it was
     * settled. */
    d->batched =
        d->batched || (first->batch && first->batch->key && str_is(key, first->batch->key));
}

/* ---- what the entry says of it ---- */

/* What was derived, for people. */
static void describe(const struct derived *r, char *ret, size_t size) {
    if (r->kind == ROUTE_DELIVER)
        snprintf(ret, size, "is to be delivered to %s", r->dest->label);
    else
        snprintf(ret, size, "%s: %s", r->kind == ROUTE_SKIP ? "is skipped" : "is dead",
                 r->outcome->why);
}

static const char *text_of(struct str s, char *ret, size_t size) {
    outcome_text(ret, size, s);
    return ret;
}

static void differ_kind(struct derive *d, const struct ledger_group *g, const struct derived *r) {
    char is[LABEL_MAX + 64], to[LABEL_MAX], why[64];
    describe(r, is, sizeof is);
    differ(d, r->record.offset, 1, "says \"%s\"%s%s%s%s of it, by its bytes it %s",
           ledger_kind_name(g->kind), g->to.n ? " to " : "", text_of(g->to, to, sizeof to),
           g->why.n ? ": " : "", text_of(g->why, why, sizeof why), is);
}

/* Failures that come after a record was judged fit: of a delivery, which has a destination; or of
 * a record that went round unattempted, told by what failed before. */
static bool may_fail(const struct derived *r, const struct ledger_group *g) {
    if (g->to.n) return str_is(g->to, r->dest->label);
    return r->past_why && (str_is(g->why, r->past_why) || str_is(g->why, "refused-by-topic"));
}

static bool same_fault(const struct derived *r, const struct ledger_group *g) {
    return str_is(g->why, r->outcome->why) && str_is(g->fault, fault_name(r->outcome->fault)) &&
           (g->to.n ? r->dest && str_is(g->to, r->dest->label) : !r->dest);
}

enum answer { SAME, OTHER, RECEIVER, HELD };

/* A batch whose key can't be made. */
static bool is_keyless(const struct derive *d, const struct derived *r,
                       const struct ledger_group *g) {
    return d->batched && r->batch && !r->batch->key && g->kind == LEDGER_DEAD &&
           str_is(g->why, "key-too-long");
}

static enum answer judge_kind(const struct derive *d, const struct ledger_group *g,
                              const struct derived *r) {
    switch (g->kind) {
    case LEDGER_DELIVERED:
        return r->kind == ROUTE_DELIVER && str_is(g->to, r->dest->label) &&
                       g->object == (r->dest->type->shape == SHAPE_OBJECT)
                   ? SAME
                   : OTHER;
    case LEDGER_SKIPPED:
        return r->kind == ROUTE_SKIP && str_is(g->why, r->outcome->why) ? SAME : OTHER;
    case LEDGER_PARKED:
        return r->kind == ROUTE_DELIVER && may_fail(r, g) ? RECEIVER : OTHER;
    case LEDGER_DEAD:
        if (r->kind == ROUTE_DEAD) return same_fault(r, g) ? SAME : OTHER;
        if (r->kind != ROUTE_DELIVER) return OTHER;
        if (is_keyless(d, r, g)) return SAME;
        if (!may_fail(r, g)) return OTHER;
        return str_is(g->why, "held") ? HELD : RECEIVER;
    case LEDGER_REDRIVEN:
    case LEDGER_DISCARDED:
    case LEDGER_REPLAYED:
        break;
    }
    return OTHER; /* of a source or retry topic nobody says so */
}

/* The origins that an entry names, in the order of its offsets. */
struct origin_walk {
    const struct ledger_group *g;
    size_t at;
    uint64_t before; /* numbers in the ranges that were passed */
};

static bool same_origin(struct origin_walk *walk, uint64_t index, const struct derived *r) {
    const struct ledger_group *g = walk->g;
    if (!g->n_origins || !r->origin) return true;
    for (; walk->at < g->n_origins; walk->at++) {
        const struct ledger_origin *o = &g->origins[walk->at];
        uint64_t n = (uint64_t)(o->range.z - o->range.a) + 1;
        if (index < walk->before + n)
            return o->partition == r->origin->partition && str_is(o->topic, r->origin->topic) &&
                   o->range.a + (int64_t)(index - walk->before) == r->origin->offset;
        walk->before += n;
    }
    return false;
}

/* One record of a group. False where it differs. */
static bool judge_record(struct derive *d, const struct ledger_group *g, const struct derived *r,
                         bool origin) {
    if (r->aside) {
        d->sums.unjudged[UNJUDGED_ASIDE]++;
        return true;
    }
    enum answer answer = judge_kind(d, g, r);
    if (answer == OTHER) {
        differ_kind(d, g, r);
    } else if (!origin) {
        differ(d, r->record.offset, 1, "names another record of the source topic as its origin");
        answer = OTHER;
    } else if (answer == RECEIVER) {
        d->sums.unjudged[UNJUDGED_RECEIVER]++;
    } else if (answer == HELD) {
        d->sums.unjudged[UNJUDGED_HELD]++;
    } else if (g->kind != LEDGER_DELIVERED) {
        d->sums.derived++;
    }
    return answer != OTHER;
}

/* ---- bytes ---- */

static int by_index(const void *a, const void *b) {
    const struct record *x = *(struct record *const *)a, *y = *(struct record *const *)b;
    return (x->batch_index > y->batch_index) - (x->batch_index < y->batch_index);
}

static struct record **members_of(struct derive *d, const struct ledger_group *g) {
    struct record **members = xcalloc((size_t)g->count, sizeof *members);
    size_t n = 0;
    for (size_t i = 0; i < g->n_offsets; i++)
        for (size_t at = find(d, g->offsets[i].a);
             at < d->n && d->records[at]->record.offset <= g->offsets[i].z; at++)
            members[n++] = &d->records[at]->record;
    if (d->w.retries) qsort(members, n, sizeof *members, by_index);
    return members;
}

/* The object's key; NULL: a request. ret_batched: of many events. False when the group holds what
 * no single object does. */
static bool key_of(const struct derive *d, const struct ledger_group *g, const char **ret_key,
                   bool *ret_batched) {
    const struct derived *first = d->records[find(d, g->offsets[0].a)];
    *ret_batched = g->object && (d->batched || first->batch_key);
    *ret_key = !g->object         ? NULL
               : first->batch_key ? first->batch_key
               : d->batched       ? first->batch->key
                                  : first->key;
    if (!*ret_batched) return g->count == 1;
    for (size_t i = 0; i < g->n_offsets; i++)
        for (size_t at = find(d, g->offsets[i].a);
             at < d->n && d->records[at]->record.offset <= g->offsets[i].z; at++) {
            const struct derived *r = d->records[at];
            if (r->dest != first->dest ||
                (d->batched ? false : !r->batch_key || strcmp(r->batch_key, *ret_key) != 0))
                return false;
        }
    return !d->batched || g->count == first->batch->n;
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static void compare_bytes(struct derive *d, const struct ledger_group *g, const char *key,
                          const struct batch *b) {
    bool same =
        g->hashed && g->size == b->body_len && memcmp(g->sha256, b->body_sha256, SHA256_LEN) == 0;
    bool zstd = key && ends_with(key, ".zst");
    d->zstd_same = d->zstd_same || (same && zstd && g->size > 0);
    if (same) {
        d->sums.derived += g->count;
        return;
    }
    char is[HEX_LEN(SHA256_LEN) + 1], said[HEX_LEN(SHA256_LEN) + 1] = "none", text[320];
    hex(b->body_sha256, SHA256_LEN, is);
    if (g->hashed) hex(g->sha256, SHA256_LEN, said);
    snprintf(text, sizeof text,
             "says that %" PRIu64 " bytes were delivered, SHA-256 %s; derived from %s: %zu bytes, "
             "%s",
             g->size, said, g->count == 1 ? "its record" : "its records", b->body_len, is);
    if (zstd)
        differ_zstd(d, g->offsets[0].a, g->count, text);
    else
        differ(d, g->offsets[0].a, g->count, "%s", text);
}

/* What was delivered: all of its records are here, and are to be delivered there. */
static void judge_delivery(struct derive *d, const struct ledger_group *g) {
    const char *key;
    bool batched;
    struct outcome o;
    if (!key_of(d, g, &key, &batched)) {
        differ(d, g->offsets[0].a, g->count,
               "delivers %" PRIu64 " records as one, which are not what one holds", g->count);
        return;
    }
    if (g->object && (!key || !str_is(g->key, key))) {
        char said[200], is[200];
        differ(d, g->offsets[0].a, g->count, "says that its object's key is %s, derived is %s",
               text_of(g->key, said, sizeof said),
               key ? text_of(str_c(key), is, sizeof is) : "none: it is too long");
        return;
    }
    struct derived *first = d->records[find(d, g->offsets[0].a)];
    struct delivery one = {.members = members_of(d, g),
                           .n = (uint32_t)g->count,
                           .batched = batched,
                           .key = (char *)(uintptr_t)key,
                           .batch.dest = first->dest};
    if (body_make(d->lane, &one, &o))
        compare_bytes(d, g, key, &one.batch);
    else
        differ(d, g->offsets[0].a, g->count, "speaks of an object that can't be made: %s", o.why);
    buf_free(&one.body);
    free(one.members);
}

static void judge_group(struct derive *d, const struct ledger_group *g) {
    struct origin_walk walk = {.g = g};
    uint64_t index = 0, n = 0;
    bool same = true;
    for (size_t i = 0; i < g->n_offsets; i++) {
        struct ledger_range range = g->offsets[i];
        for (size_t at = find(d, range.a); at < d->n && d->records[at]->record.offset <= range.z;
             at++, n++) {
            const struct derived *r = d->records[at];
            uint64_t nth = index + (uint64_t)(r->record.offset - range.a);
            same = judge_record(d, g, r, same_origin(&walk, nth, r)) && same;
        }
        index += (uint64_t)(range.z - range.a) + 1;
    }
    d->sums.unjudged[UNJUDGED_GONE] += g->count - n;
    if (g->kind != LEDGER_DELIVERED || !same) return;
    if (n < g->count || (d->batched && g->object && !d->whole))
        d->sums.unjudged[UNJUDGED_GONE] += n;
    else
        judge_delivery(d, g);
}

void derive_end(struct derive *d) {
    const struct ledger_entry *e = d->w.entry;
    if (d->large) {
        derive_pass(d, e, UNJUDGED_LARGE);
        return;
    }
    begin_batches(d);
    for (size_t i = 0; i < e->n_groups; i++) judge_group(d, &e->groups[i]);
    release(d);
}
