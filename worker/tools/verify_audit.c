#include "worker/tools/verify_audit.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "worker/base/hash.h"
#include "worker/base/table.h"
#include "worker/ledger/parse.h"
#include "worker/tools/verify_chain.h"

/* What one entry may expand to: the records that configuration allows in a window (batch.records).
 */
#define RECORDS_MAX 10000000
/* And one that no key vouches for, where keys are given: it is a finding already, and anybody may
 * have written it. */
#define UNVOUCHED_MAX 100000
/* Records that are open at one time: 1.6 GB. */
#define ORIGINS_MAX 20000000
#define TIERS_MAX 255
#define TIER_UNKNOWN TIERS_MAX

/* ---- what became of the records that were parked or died ----
 * A tally for each, kept until the record has its one final outcome. Entries may come in any order
 * (a retry partition's before the source's), so nothing is judged before the end. Bounded by the
 * records that are open at one time. */

/* One origin's tally. A record waits in a retry topic pending() times and lies among the dead
 * letters dead - redriven times; both are 0 or 1 when all is well. A topic that was made anew has
 * had several records at an offset, of as many lives; which one of them a retry topic's entry
 * speaks of can't be told, so they share a tally. */
struct origin_tally {
    struct table_node node;
    struct chain *chain; /* of the origin's topic and partition */
    int64_t offset;
    uint16_t parked, taken, final, dead, redriven; /* taken: read from a retry topic; redriven:
                                                      no dead letter any more */
    uint16_t replayed;                             /* to be delivered once more */
    uint16_t waiting;                              /* found in a retry topic: audit_waits() */
    uint16_t letters;                              /* in a dead one: audit_letter() */
    bool late : 1; /* parked by an entry younger than the committed state that is compared with */
    uint8_t opened : 7; /* by how many entries of the source topic */
    bool kept : 1;      /* it died so late that its letter has to be there */
    /* Where it lies: the sum of the topics that it was moved to, less those that it was taken from,
     * in whatever order that was read. place_in() of the one topic that is left, or 0. */
    uint64_t place;
};

/* A retry topic's delay, or a dead topic's fault. */
static uint64_t place_in(enum chain_kind kind, struct str name) {
    return keyed_hash_numbered(name, (int32_t)kind);
}

/* How many records the tally stands for, where the topic has had this many lives. */
static int origin_lives(const struct origin_tally *t, uint64_t lives) {
    return t->opened > 1 && lives > 1 ? (t->opened < lives ? t->opened : (int)lives) : 1;
}
/* How many outcomes it is to have: each replay asks for one more. What was replayed and is not
 * opened here was delivered at once, which leaves no tally. */
static int origin_wants(const struct origin_tally *t, uint64_t lives) {
    return (t->opened || !t->replayed ? origin_lives(t, lives) : 0) + t->replayed;
}
static int origin_pending(const struct origin_tally *t) {
    return t->parked + t->redriven + t->replayed - t->taken;
}

static uint64_t origin_hash(const struct chain *c, int64_t offset) {
    const int64_t key[] = {offset, c->number};
    return keyed_hash(key, sizeof key);
}

/* Of the topic, and of chains that began again: each has had records of its own. */
static uint64_t lives(const struct chain *c) {
    return c->row.anew + c->restarts + 1;
}

/* The tally of this record; NULL when there is none. */
static struct origin_tally *origin_find(const struct table *origins, const struct chain *c,
                                        int64_t offset) {
    for (struct table_node *n = table_first(origins, origin_hash(c, offset)); n;
         n = table_next(n)) {
        struct origin_tally *t = TABLE_ENTRY(n, struct origin_tally, node);
        if (t->offset == offset && t->chain == c) return t;
    }
    return NULL;
}

/* A fresh one when there is none. */
static struct origin_tally *origin_at(struct table *origins, struct chain *c, int64_t offset) {
    struct origin_tally *t = origin_find(origins, c, offset);
    if (t) return t;
    t = xmalloc(sizeof *t);
    *t = (struct origin_tally){.chain = c, .offset = offset};
    table_add(origins, &t->node, origin_hash(c, offset));
    return t;
}

/* To be called after each change: forgets the tally when the record's story is complete. partial:
 * it may have begun before what is read. */
static void origin_settle(struct table *origins, struct origin_tally *t, uint64_t lives,
                          bool partial) {
    if (t->final != origin_wants(t, lives) || t->dead != t->redriven || origin_pending(t) != 0)
        return;
    /* Without an opening it is a replay's: only the end tells whether it had anything to repeat. */
    if (!partial && (!t->opened || t->place)) return;
    table_remove(origins, &t->node);
    free(t);
}

static void origin_free(void *unused, struct table_node *n) {
    (void)unused;
    free(TABLE_ENTRY(n, struct origin_tally, node));
}

static void origin_list(void *next, struct table_node *n) {
    struct origin_tally ***to = next;
    *(*to)++ = TABLE_ENTRY(n, struct origin_tally, node);
}

static int compare_tallies(const void *a, const void *b) {
    const struct origin_tally *x = *(struct origin_tally *const *)a;
    const struct origin_tally *y = *(struct origin_tally *const *)b;
    if (x->chain != y->chain) return x->chain->number < y->chain->number ? -1 : 1;
    return (x->offset > y->offset) - (x->offset < y->offset);
}

/* ---- the audit ---- */

struct tier {
    char *name;
    bool drained;
};

struct audit {
    struct verdicts verdicts;
    struct chain **chains;
    size_t n_chains;
    struct table index;   /* of chains */
    struct table origins; /* tallies of records whose story is not complete */
    struct tier tiers[TIERS_MAX];
    size_t n_tiers;
    bool waiting_known;            /* audit_waiting() */
    bool letters_known;            /* audit_letters() */
    int64_t letters_since[FAULTS]; /* 0: not known */
    uint64_t letters_expired;
    bool full;          /* ORIGINS_MAX was reached */
    struct arena arena; /* of the entry at hand */
    struct audit_row *rows;
};

struct audit *audit_new(const struct audit_options *opts) {
    struct audit *a = xcalloc(1, sizeof *a);
    verdicts_begin(&a->verdicts, opts);
    return a;
}

void audit_free(struct audit *a) {
    if (!a) return;
    for (size_t i = 0; i < a->n_chains; i++) chain_free(a->chains[i]);
    for (size_t i = 0; i < a->n_tiers; i++) free(a->tiers[i].name);
    table_each(&a->origins, origin_free, NULL);
    table_free(&a->origins);
    table_free(&a->index);
    arena_free(&a->arena);
    free(a->chains);
    free(a->rows);
    free(a);
}

void audit_report(struct audit *a, const struct finding *f) {
    verdicts_report(&a->verdicts, f);
}

static uint8_t tier_of(struct audit *a, struct str name) {
    for (size_t i = 0; i < a->n_tiers; i++)
        if (str_is(name, a->tiers[i].name)) return (uint8_t)i;
    if (a->n_tiers == TIERS_MAX) return TIER_UNKNOWN;
    a->tiers[a->n_tiers].name = xstrndup(name.p, name.n);
    return (uint8_t)a->n_tiers++;
}

/* "<source>.retry.<tier>" -> the tier's name, with ".retry."; else empty. */
static struct str name_after(const struct audit *a, struct str topic, const char *part) {
    size_t n = strlen(a->verdicts.opts.source);
    if (!str_starts(topic, a->verdicts.opts.source)) return (struct str){0};
    struct str rest = {topic.p + n, topic.n - n};
    if (!str_starts(rest, part)) return (struct str){0};
    return (struct str){rest.p + strlen(part), rest.n - strlen(part)};
}

static struct str retry_tier(const struct audit *a, struct str topic) {
    return name_after(a, topic, ".retry.");
}

static struct str dead_fault(const struct audit *a, struct str topic) {
    return name_after(a, topic, ".dead.");
}

static enum chain_kind kind_of(const struct audit *a, struct str topic) {
    if (str_is(topic, a->verdicts.opts.source)) return CHAIN_SOURCE;
    if (retry_tier(a, topic).n) return CHAIN_RETRY;
    struct str beyond = name_after(a, topic, LEDGER_REPLAYS);
    if (beyond.p && !beyond.n) return CHAIN_REPLAY;
    return dead_fault(a, topic).n ? CHAIN_DEAD : CHAIN_FOREIGN;
}

static struct chain *chain_find(const struct audit *a, struct str topic, int32_t partition) {
    uint64_t hash = keyed_hash_numbered(topic, partition);
    for (struct table_node *n = table_first(&a->index, hash); n; n = table_next(n)) {
        struct chain *c = TABLE_ENTRY(n, struct chain, node);
        if (c->row.partition == partition && str_is(topic, c->topic)) return c;
    }
    return NULL;
}

/* The partition's chain, a fresh one when there is none. */
static struct chain *chain_of(struct audit *a, struct str topic, int32_t partition) {
    struct chain *c = chain_find(a, topic, partition);
    if (c) return c;
    a->chains = xgrow(a->chains, a->n_chains, sizeof c);
    c = xcalloc(1, sizeof *c);
    c->number = (uint32_t)a->n_chains;
    c->topic = xstrndup(topic.p, topic.n);
    c->row = (struct audit_row){.topic = c->topic, .partition = partition, .committed = -1};
    c->kind = kind_of(a, topic);
    if (c->kind == CHAIN_RETRY) c->place = place_in(CHAIN_RETRY, retry_tier(a, topic));
    if (c->kind == CHAIN_DEAD) c->place = place_in(CHAIN_DEAD, dead_fault(a, topic));
    a->chains[a->n_chains++] = c;
    table_add(&a->index, &c->node, keyed_hash_numbered(topic, partition));
    return c;
}

void audit_expect(struct audit *a, const char *topic, int32_t partition, int64_t offset,
                  const struct meta *meta) {
    struct chain *c = chain_of(a, str_c(topic), partition);
    c->expected = true;
    c->row.committed = offset;
    c->row.has_meta = meta != NULL;
    if (!meta) return;
    c->row.meta_seq = meta->seq;
    memcpy(c->row.meta_head, meta->head, SHA256_LEN);
}

void audit_now(struct audit *a, const char *topic, int32_t partition, int64_t offset,
               const struct meta *meta) {
    struct chain *c = chain_find(a, str_c(topic), partition);
    if (!c) return;
    c->known_now = true;
    c->has_now = offset >= 0 && meta;
    c->seq_now = c->has_now ? meta->seq : 0;
    if (offset >= 0 && c->row.committed < 0) c->row.committed = offset;
}

size_t audit_ahead(const struct audit *a) {
    size_t n = 0;
    for (size_t i = 0; i < a->n_chains; i++) n += chain_is_ahead(a->chains[i]);
    return n;
}

void audit_learn(struct audit *a, struct str value) {
    static const char statement[] = "\"rotate\":";
    struct ledger_entry e;
    struct ledger_read_error unused;
    uint8_t hash[SHA256_LEN];
    if (!value.n || !memmem(value.p, value.n, statement, sizeof statement - 1)) return;
    arena_free(&a->arena);
    if (!ledger_read(value, &a->arena, &e, &unused)) return;
    sha256(e.canonical.p, e.canonical.n, hash);
    if (memcmp(hash, e.hash, SHA256_LEN) == 0 && str_is(e.group, a->verdicts.opts.group))
        verdicts_learn(&a->verdicts, &e);
}

void audit_anchored(struct audit *a, const char *topic, int32_t partition,
                    const struct audit_anchor *by) {
    struct chain *c = chain_find(a, str_c(topic), partition);
    if (!c) return;
    if (by->trusted && by->seq + 1 > c->vouched) c->vouched = by->seq + 1;
    if (by->seq + 1 <= c->row.anchored) return;
    c->row.anchored = by->seq + 1;
    c->row.anchored_next = by->next;
    c->row.anchored_ms = by->at_ms;
}

bool audit_trusts(const struct audit *a, const char *key_id) {
    return verdicts_trusts(&a->verdicts, key_id);
}

bool audit_has_keys(const struct audit *a) {
    return a->verdicts.n_keys > 0;
}

const struct ledger_pubkey *audit_key(const struct audit *a, const char *key_id) {
    for (size_t i = 0; i < a->verdicts.n_keys; i++)
        if (strcmp(a->verdicts.keys[i].pub.id, key_id) == 0) return &a->verdicts.keys[i].pub;
    return NULL;
}

bool audit_reached(const struct audit *a) {
    for (size_t i = 0; i < a->n_chains; i++) {
        const struct chain *c = a->chains[i];
        if (!c->expected || !c->row.has_meta || c->row.meta_seq == 0) continue;
        if (!c->begun || c->row.last_seq + 1 < c->row.meta_seq) return false;
    }
    return true;
}

void audit_drained(struct audit *a, const char *retry_topic) {
    uint8_t tier = tier_of(a, retry_tier(a, str_c(retry_topic)));
    if (tier != TIER_UNKNOWN) a->tiers[tier].drained = true;
}

void audit_waiting(struct audit *a) {
    a->waiting_known = true;
}

void audit_waits(struct audit *a, const struct origin *o) {
    const struct chain *c = chain_find(a, str_c(o->topic), o->partition);
    struct origin_tally *t = c ? origin_find(&a->origins, c, o->offset) : NULL;
    if (t && t->waiting < UINT16_MAX) t->waiting++; /* else settled since, or parked since */
}

void audit_letters_since(struct audit *a, enum fault fault, int64_t ms) {
    a->letters_since[fault] = ms;
}

/* In a part of the ledger others may have died, and gone back, before it and after it. */
static bool are_letters_told(const struct audit *a) {
    return !a->full && !a->verdicts.opts.partial && !a->verdicts.opts.unfinished;
}

enum audit_letter audit_letter(struct audit *a, enum fault fault, const struct origin *o) {
    const struct chain *c = chain_find(a, str_c(o->topic), o->partition);
    struct origin_tally *t = c ? origin_find(&a->origins, c, o->offset) : NULL;
    if (!are_letters_told(a)) return LETTER_UNKNOWN;
    if (t && t->dead > t->redriven &&
        (t->place == place_in(CHAIN_DEAD, str_c(fault_name(fault))) || lives(c) > 1)) {
        if (t->letters >= t->dead - t->redriven) return LETTER_REPEATED;
        t->letters++;
        return LETTER_SAID;
    }
    return audit_covers(a, o->topic, o->partition, o->offset) == AUDIT_BEFORE ? LETTER_UNKNOWN
                                                                              : LETTER_STRANGE;
}

void audit_letters(struct audit *a) {
    a->letters_known = are_letters_told(a);
}

uint64_t audit_letters_expired(const struct audit *a) {
    return a->letters_expired;
}

enum audit_cover audit_covers(const struct audit *a, const char *topic, int32_t partition,
                              int64_t offset) {
    const struct chain *c = chain_find(a, str_c(topic), partition);
    if (!c || !c->begun) /* the group stands somewhere, and nothing was settled */
        return c && offset < c->row.committed ? AUDIT_BEFORE : AUDIT_BEYOND;
    return offset < c->row.first  ? AUDIT_BEFORE
           : offset < c->row.next ? AUDIT_COVERED
                                  : AUDIT_BEYOND;
}

bool audit_seen(const struct audit *a, const char *topic, int32_t partition, int64_t offset) {
    const struct chain *c = chain_find(a, str_c(topic), partition);
    if (!c || !c->begun || offset < c->row.first || offset >= c->row.next) return true;
    return spans_has(&c->seen, offset);
}

const struct ledger_last *audit_last(const struct audit *a, const char *topic, int32_t partition,
                                     int64_t offset) {
    const struct chain *c = chain_find(a, str_c(topic), partition);
    return c && offset >= c->row.first && offset < c->row.next ? chain_last(c, offset) : NULL;
}

size_t audit_rules(const struct audit *a, const struct audit_rules **ret) {
    *ret = a->verdicts.rules;
    return a->verdicts.n_rules;
}

/* ---- what entries say ---- */

/* An entry's ranges, to see that no record has two outcomes in it. */
struct span_of {
    struct ledger_range range;
    enum ledger_kind kind;
};

static int compare_spans(const void *a, const void *b) {
    const struct span_of *x = a, *y = b;
    return (x->range.a > y->range.a) - (x->range.a < y->range.a);
}

static void check_spans(struct audit *a, struct chain *c, const struct ledger_entry *e) {
    size_t n = 0;
    for (size_t i = 0; i < e->n_groups; i++) n += e->groups[i].n_offsets;
    if (n == 0) return;
    struct span_of *spans = arena_alloc(&a->arena, n * sizeof *spans);
    n = 0;
    for (size_t i = 0; i < e->n_groups; i++)
        for (size_t k = 0; k < e->groups[i].n_offsets; k++)
            spans[n++] = (struct span_of){e->groups[i].offsets[k], e->groups[i].kind};
    qsort(spans, n, sizeof *spans, compare_spans);
    int64_t reach = -1;
    enum ledger_kind kind = LEDGER_DELIVERED;
    for (size_t i = 0; i < n; i++) {
        struct ledger_range r = spans[i].range;
        if (r.a < e->first || r.z >= e->next)
            chain_say(&a->verdicts, c, "outside-window", r.a < e->first ? r.a : r.z,
                      "entry %" PRIu64 " speaks of a record outside of its window", e->seq);
        if (r.a <= reach || e->lost)
            chain_say(&a->verdicts, c, "two-outcomes", r.a,
                      "entry %" PRIu64 " gives it two outcomes: %s and %s", e->seq,
                      e->lost ? "lost" : ledger_kind_name(kind), ledger_kind_name(spans[i].kind));
        if (r.z > reach) {
            reach = r.z;
            kind = spans[i].kind;
        }
        if (a->verdicts.opts.keep_seen) spans_add(&c->seen, r);
    }
}

/* Who says it: the source topic's own entry, or a retry topic's, which took it from there; a dead
 * topic's or a replay's, which `redrive` or `replay` wrote. */
enum teller { BY_SOURCE, BY_RETRY, BY_DEAD, BY_REPLAY };

/* Memory is bounded: what is beyond that is not judged. */
static bool is_full(struct audit *a, struct chain *c) {
    if (!a->full && a->origins.n >= ORIGINS_MAX) {
        a->full = true;
        chain_say(
            &a->verdicts, c, "too-many", -1,
            "more than %d records are open at one time: their stories are not followed from here "
            "on",
            ORIGINS_MAX);
    }
    return a->full;
}

/* What an entry says of a record that is not final in the source topic. */
struct telling {
    enum ledger_kind kind;
    enum teller teller;
    uint64_t from, to; /* place_in(); 0: none */
    bool late;
    bool kept; /* dead: its letter has to be there */
};

static void tally(struct audit *a, struct chain *chain, int64_t offset, const struct telling *by) {
    if (is_full(a, chain)) return;
    struct origin_tally *t = origin_at(&a->origins, chain, offset);
    if (by->teller == BY_RETRY) t->taken++;
    if (by->teller == BY_SOURCE && t->opened < 100) t->opened++;
    t->place += by->to - by->from;
    switch (by->kind) {
    case LEDGER_DELIVERED:
    case LEDGER_SKIPPED:
        t->final++;
        break;
    case LEDGER_PARKED:
        t->parked++;
        break;
    case LEDGER_DEAD:
        t->dead++;
        t->kept = t->kept || by->kept;
        break;
    case LEDGER_REDRIVEN:
        t->redriven++;
        break;
    case LEDGER_REPLAYED:
        t->replayed++;
        break;
    case LEDGER_DISCARDED: /* its story ends among the dead letters */
        t->redriven++;
        t->taken++;
        t->final++;
        break;
    }
    if (by->kind == LEDGER_PARKED || by->kind == LEDGER_REDRIVEN || by->kind == LEDGER_REPLAYED)
        t->late = t->late || by->late;
    origin_settle(&a->origins, t, lives(chain), a->verdicts.opts.partial);
}

/* Younger than the state that the group had committed when reading began. */
static bool is_late(const struct chain *c, const struct ledger_entry *e) {
    return !c->expected || !c->row.has_meta || e->seq >= c->row.meta_seq;
}

/* Whose entries say so, and no others. */
static bool may_say(enum chain_kind chain, enum ledger_kind kind) {
    switch (kind) {
    case LEDGER_REDRIVEN:
    case LEDGER_DISCARDED:
        return chain == CHAIN_DEAD;
    case LEDGER_REPLAYED:
        return chain == CHAIN_REPLAY;
    case LEDGER_DELIVERED:
    case LEDGER_SKIPPED:
    case LEDGER_PARKED:
    case LEDGER_DEAD:
        break;
    }
    return chain == CHAIN_SOURCE || chain == CHAIN_RETRY;
}

/* To a retry topic. */
static bool parks(const struct ledger_group *g) {
    return g->kind == LEDGER_PARKED || g->kind == LEDGER_REPLAYED ||
           (g->kind == LEDGER_REDRIVEN && g->tier.n);
}

static bool is_fault(struct str fault) {
    return str_is(fault, fault_name(FAULT_TENANT)) || str_is(fault, fault_name(FAULT_DATA)) ||
           str_is(fault, fault_name(FAULT_SYSTEM));
}

/* What is not possible is told by itself. */
static uint64_t goes_to(const struct ledger_group *g) {
    if (parks(g)) return place_in(CHAIN_RETRY, g->tier);
    if (g->kind != LEDGER_DEAD) return 0;
    return place_in(CHAIN_DEAD, is_fault(g->fault) ? g->fault : str_c(fault_name(FAULT_DATA)));
}

static bool is_kept(const struct audit *a, const struct ledger_entry *e,
                    const struct ledger_group *g) {
    for (int f = FAULT_TENANT; g->kind == LEDGER_DEAD && f < FAULTS; f++)
        if (str_is(g->fault, fault_name((enum fault)f)))
            return a->letters_since[f] && e->settled_ms >= a->letters_since[f];
    return false;
}

static void follow_origins(struct audit *a, struct chain *c, const struct ledger_entry *e,
                           const struct ledger_group *g) {
    const struct telling told = {.kind = g->kind,
                                 .teller = c->kind == CHAIN_RETRY  ? BY_RETRY
                                           : c->kind == CHAIN_DEAD ? BY_DEAD
                                                                   : BY_REPLAY,
                                 .from = c->place,
                                 .to = goes_to(g),
                                 .late = is_late(c, e),
                                 .kept = is_kept(a, e, g)};
    /* Back to the source topic as a new event, which is another record: its own story ends. */
    const struct telling ended = {.kind = LEDGER_SKIPPED, .teller = BY_RETRY};
    if (parks(g)) tier_of(a, g->tier);
    if (g->n_origins == 0) {
        chain_say(&a->verdicts, c, "no-origin", g->offsets[0].a,
                  "entry %" PRIu64 " does not say which record of the source topic it is", e->seq);
        return;
    }
    for (size_t i = 0; i < g->n_origins; i++) {
        const struct ledger_origin *o = &g->origins[i];
        if (!str_is(o->topic, a->verdicts.opts.source)) {
            chain_say(&a->verdicts, c, "foreign-origin", g->offsets[0].a,
                      "entry %" PRIu64 " names an origin in another topic than %s", e->seq,
                      a->verdicts.opts.source);
            return;
        }
        struct chain *chain = chain_of(a, o->topic, o->partition);
        for (int64_t v = o->range.a; v <= o->range.z; v++) {
            tally(a, chain, v, &told);
            if (g->kind == LEDGER_REDRIVEN && !g->tier.n) tally(a, chain, v, &ended);
        }
    }
}

/* A source record's outcome is final at once, or opens a tally. */
static void follow_source(struct audit *a, struct chain *c, const struct ledger_entry *e,
                          const struct ledger_group *g) {
    const struct telling told = {.kind = g->kind,
                                 .teller = BY_SOURCE,
                                 .to = goes_to(g),
                                 .late = is_late(c, e),
                                 .kept = is_kept(a, e, g)};
    if (parks(g)) tier_of(a, g->tier);
    if (g->n_origins || !may_say(CHAIN_SOURCE, g->kind))
        chain_say(&a->verdicts, c, "wrong-kind", g->offsets[0].a,
                  "entry %" PRIu64 " says of a source record what only others can be", e->seq);
    if (g->kind != LEDGER_PARKED && g->kind != LEDGER_DEAD) return;
    for (size_t i = 0; i < g->n_offsets; i++)
        for (int64_t v = g->offsets[i].a; v <= g->offsets[i].z; v++) tally(a, c, v, &told);
}

/* "10s": the end of a retry topic's name. */
static bool is_delay(struct str tier) {
    char text[32];
    int64_t unused;
    if (!tier.n || tier.n >= sizeof text) return false;
    memcpy(text, tier.p, tier.n);
    text[tier.n] = '\0';
    return config_parse_ms(text, &unused);
}

/* NULL, or what no worker says of any record. */
static const char *impossible(const struct ledger_group *g) {
    if (g->kind == LEDGER_DELIVERED && g->status && (g->status < 200 || g->status > 299))
        return "it was delivered, and its status is no success";
    if (g->kind == LEDGER_DEAD && !is_fault(g->fault)) return "it is dead by nobody's fault";
    if (g->fault.n && !is_fault(g->fault)) return "there is no such fault";
    if (parks(g) && !is_delay(g->tier)) return "there is no such retry topic";
    return NULL;
}

static void check_words(struct audit *a, struct chain *c, const struct ledger_entry *e) {
    if (e->settled_ms < e->opened_ms)
        chain_say(&a->verdicts, c, "impossible", e->first,
                  "entry %" PRIu64 " was settled before it was opened", e->seq);
    for (size_t i = 0; i < e->n_groups; i++) {
        const char *what = impossible(&e->groups[i]);
        if (what)
            chain_say(&a->verdicts, c, "impossible", e->groups[i].offsets[0].a,
                      "entry %" PRIu64 ": %s", e->seq, what);
    }
}

/* From here on offsets are those of another topic. What was parked of the old one still has its
 * outcome to come. */
static void begin_anew(struct audit *a, struct chain *c, const struct ledger_entry *e) {
    spans_free(&c->seen);
    chain_forget_lasts(c);
    c->row.first = e->first; /* what Kafka holds below is none of ours */
    c->row.anew++;
    chain_say(&a->verdicts, c, "made-anew", e->first,
              "the topic was deleted and made anew: its records up to %" PRId64
              " are those of the old one, entry %" PRIu64 " begins again at %" PRId64,
              e->before, e->seq, e->first);
}

/* most: the records that it may speak of. False: it speaks of more. */
static bool follow(struct audit *a, struct chain *c, const struct ledger_entry *e, uint64_t most) {
    uint64_t count = 0;
    for (size_t i = 0; i < e->n_groups; i++) {
        if (e->groups[i].count > most - count) {
            chain_say(&a->verdicts, c, "implausible", e->first,
                      "entry %" PRIu64 " speaks of more than %" PRIu64
                      " records: they are not followed",
                      e->seq, most);
            return false;
        }
        count += e->groups[i].count;
        c->row.records[e->groups[i].kind] += e->groups[i].count;
    }
    if (e->anew) begin_anew(a, c, e);
    check_spans(a, c, e);
    if (e->lost) {
        uint64_t n = (uint64_t)(e->next - e->first);
        c->row.lost += n;
        if (a->verdicts.opts.keep_seen)
            spans_add(&c->seen, (struct ledger_range){e->first, e->next - 1});
        chain_say(&a->verdicts, c, "lost", e->first,
                  "%" PRIu64 " records were removed by retention before they were read", n);
    }
    for (size_t i = 0; i < e->n_groups; i++) {
        const struct ledger_group *g = &e->groups[i];
        switch (c->kind) {
        case CHAIN_SOURCE:
            follow_source(a, c, e, g);
            break;
        case CHAIN_RETRY:
        case CHAIN_DEAD:
        case CHAIN_REPLAY:
            if (!may_say(c->kind, g->kind))
                chain_say(&a->verdicts, c, "wrong-kind", g->offsets[0].a,
                          "entry %" PRIu64 " says \"%s\" of a record of this topic", e->seq,
                          ledger_kind_name(g->kind));
            follow_origins(a, c, e, g);
            break;
        case CHAIN_FOREIGN:
            break;
        }
        if (g->kind == LEDGER_DELIVERED && a->verdicts.opts.delivered)
            a->verdicts.opts.delivered(a->verdicts.opts.context, e, g);
    }
    return true;
}

bool audit_until_read(struct str text, struct audit_until *ret) {
    const char *at = text.n ? memchr(text.p, '@', text.n) : NULL;
    struct str topic;
    uint64_t seq;
    if (!at ||
        !ledger_read_key((struct str){text.p, (size_t)(at - text.p)}, &topic, &ret->partition))
        return false;
    struct parser number = {.start = at + 1, .p = at + 1, .end = text.p + text.n};
    if (!parse_uint(&number, INT64_MAX, &seq) || number.p != number.end || !seq) return false;
    memcpy(ret->topic, topic.p, topic.n);
    ret->topic[topic.n] = '\0';
    ret->seq = seq;
    return true;
}

uint64_t audit_until_of(const struct audit *a, const char *topic, int32_t partition) {
    return chain_until(&a->verdicts, topic, partition);
}

static void malformed(struct audit *a, struct str key, const struct ledger_read_error *why) {
    struct str topic;
    char text[512], name[TOPIC_MAX + 1];
    struct finding f = {
        .code = "malformed", .offset = -1, .place = *a->verdicts.place, .text = text};
    char what[64];
    outcome_text(what, sizeof what, str_c(why->what));
    snprintf(text, sizeof text, "not a ledger entry: expected %s at byte %zu", what, why->at);
    if (key.p && ledger_read_key(key, &topic, &f.partition)) {
        memcpy(name, topic.p, topic.n);
        name[topic.n] = '\0';
        f.topic = name;
    }
    audit_report(a, &f);
}

static void check_key(struct audit *a, struct chain *c, struct str key,
                      const struct ledger_entry *e) {
    struct str topic;
    int32_t partition;
    if (!key.p || (ledger_read_key(key, &topic, &partition) && str_eq(topic, e->topic) &&
                   partition == e->partition))
        return;
    chain_say(&a->verdicts, c, "wrong-key", e->first,
              "entry %" PRIu64 "'s record has the key of another partition", e->seq);
}

void audit_entry(struct audit *a, struct str key, struct str value,
                 const struct ledger_place *place) {
    struct ledger_entry e;
    struct ledger_read_error why;
    uint8_t hash[SHA256_LEN];
    a->verdicts.place = place;
    arena_free(&a->arena);
    if (!ledger_read(value, &a->arena, &e, &why)) {
        malformed(a, key, &why);
        return;
    }
    sha256(e.canonical.p, e.canonical.n, hash);
    bool intact = memcmp(hash, e.hash, SHA256_LEN) == 0;
    /* Naming another group must not hide that an entry was altered. */
    if (intact && !str_is(e.group, a->verdicts.opts.group)) return;
    if (intact && a->verdicts.opts.entry) a->verdicts.opts.entry(a->verdicts.opts.context, &e);
    struct chain *c = chain_of(a, e.topic, e.partition);
    if (!c->links) chain_open(&a->verdicts, c);
    check_key(a, c, key, &e);
    if (!intact)
        chain_say(&a->verdicts, c, "bad-hash", e.first,
                  "entry %" PRIu64 " was altered: its hash is not that of its bytes", e.seq);
    bool vouched = chain_check_signature(&a->verdicts, c, &e);
    enum chain_answer answer = chain_add(&a->verdicts, c, &e, intact);
    if (c->expected && c->row.has_meta && e.seq + 1 == c->row.meta_seq && intact &&
        memcmp(e.hash, c->row.meta_head, SHA256_LEN) == 0) {
        c->head_found = true;
        if (e.next != c->row.committed)
            chain_say(&a->verdicts, c, "offset-differs", e.next,
                      "the ledger's head ends at %" PRId64
                      ", the group's committed offset is %" PRId64,
                      e.next, c->row.committed);
    }
    if (answer != CHAIN_NEW) return;
    c->row.entries++;
    chain_take_origin(&a->verdicts, c, &e);
    check_words(a, c, &e);
    if (follow(a, c, &e, vouched && intact ? RECORDS_MAX : UNVOUCHED_MAX) && intact &&
        a->verdicts.opts.followed)
        a->verdicts.opts.followed(a->verdicts.opts.context, &e, value, place);
}

/* The retry topic where it lies; NULL: none that is known. */
static const struct tier *tier_at(const struct audit *a, uint64_t place) {
    for (size_t i = 0; i < a->n_tiers; i++)
        if (place_in(CHAIN_RETRY, str_c(a->tiers[i].name)) == place) return &a->tiers[i];
    return NULL;
}

static bool is_dead_place(uint64_t place) {
    for (int f = FAULT_TENANT; f <= FAULT_SYSTEM; f++)
        if (place_in(CHAIN_DEAD, str_c(fault_name((enum fault)f))) == place) return true;
    return false;
}

/* Whether a record that is to wait in a retry topic is known not to be there. */
static bool has_vanished(const struct audit *a, const struct origin_tally *t,
                         const struct tier *tier) {
    if (t->late || a->verdicts.opts.unfinished) return false;
    if (a->waiting_known) return t->waiting < origin_pending(t);
    return tier && tier->drained;
}

/* Whether an entry of the source topic names it. Without keep_seen: or could. */
static bool is_told(const struct audit *a, const struct chain *c, int64_t offset) {
    if (!c->begun || offset < c->row.first || offset >= c->row.next) return false;
    return !a->verdicts.opts.keep_seen || spans_has(&c->seen, offset);
}

/* It is dead, and its letter was not found. */
static void judge_letter(struct audit *a, const struct origin_tally *t) {
    a->letters_expired += !t->kept;
    if (t->kept)
        chain_say(&a->verdicts, t->chain, "letter-gone", t->offset,
                  "it is dead, and its dead letter is not there any more, though neither was it "
                  "sent back or closed nor is it older than its topic's retention");
}

/* What a record's tally amounts to at the end. */
static void judge_tally(struct audit *a, const struct origin_tally *t) {
    struct verdicts *v = &a->verdicts;
    struct chain *c = t->chain;
    bool whole = !v->opts.partial; /* else what opened a story may lie before what was read */
    bool one = whole && lives(c) == 1;
    /* Nothing opens it, and it has its outcome: in the source topic, or where its story ended. */
    bool told = whole && !t->opened && is_told(a, c, t->offset), over = told && !t->replayed;
    int pending = origin_pending(t), dead = t->dead - t->redriven;
    int most = whole ? origin_wants(t, lives(c)) : (int)lives(c) + t->replayed;
    int ended = t->final + (dead > 0 ? dead : 0) + over;
    const struct tier *tier = one ? tier_at(a, t->place) : NULL;
    if (ended > most)
        chain_say(v, c, "second-outcome", t->offset,
                  over ? "it had its final outcome, and entries give it others: %d delivered, "
                         "skipped or discarded, %d dead"
                       : "its final outcomes are too many: %d delivered, skipped or discarded, %d "
                         "dead",
                  t->final, t->dead);
    else if ((pending > 0 && pending + ended > most) || over)
        chain_say(v, c, "parked-twice", t->offset,
                  "it waits in a retry topic (%s) beside another outcome", tier ? tier->name : "?");
    else if (whole && t->replayed && !t->opened && !told)
        chain_say(v, c, "never-delivered", t->offset,
                  "it was replayed, but no entry says that it was delivered");
    else if (whole && (pending < 0 || (!t->opened && !t->redriven && !t->replayed)))
        chain_say(v, c, "never-parked", t->offset,
                  "a retry topic's entry gives it an outcome, but no entry parked it");
    else if (whole && (dead < 0 || (!t->opened && !t->replayed)))
        chain_say(v, c, "never-dead", t->offset,
                  "it was redriven or discarded, but no entry calls it dead");
    else if (one && t->place && !(pending > 0 && tier) && !(dead > 0 && is_dead_place(t->place)))
        chain_say(v, c, "wrong-place", t->offset,
                  "an entry takes it from a topic that it did not lie in");
    else if (pending > 0 && has_vanished(a, t, tier))
        chain_say(
            v, c, "vanished", t->offset,
            "it was parked in %s, does not wait there any more, and no entry says what became "
            "of it",
            tier ? tier->name : "a retry topic");
    else if (one && !pending && dead > t->letters && a->letters_known)
        judge_letter(a, t);
    if (pending > 0) c->row.pending += (uint64_t)pending;
    if (dead > 0) c->row.dead_now += (uint64_t)dead;
}

void audit_finish(struct audit *a) {
    size_t n = a->origins.n;
    struct origin_tally **left = xcalloc(n + 1, sizeof *left), **end = left;
    a->verdicts.place = NULL;
    table_each(&a->origins, origin_list, &end);
    qsort(left, n, sizeof *left, compare_tallies);
    for (size_t i = 0; i < n; i++) judge_tally(a, left[i]);
    free(left);
    uint64_t entries = 0;
    for (size_t i = 0; i < a->n_chains; i++) {
        chain_finish(&a->verdicts, a->chains[i]);
        entries += a->chains[i]->row.entries;
    }
    if (entries || a->verdicts.findings) return;
    char text[512];
    snprintf(text, sizeof text, "the ledger of %s has no entry of group %s%s: nothing was verified",
             a->verdicts.opts.source, a->verdicts.opts.group,
             a->verdicts.opts.partial || a->verdicts.opts.unfinished ? " in this time" : "");
    struct finding f = {.code = "nothing-verified", .offset = -1, .text = text};
    audit_report(a, &f);
}

static int compare_rows(const void *a, const void *b) {
    const struct audit_row *x = a, *y = b;
    int d = strcmp(x->topic, y->topic);
    return d ? d : (x->partition > y->partition) - (x->partition < y->partition);
}

/* One whose beginning is committed and that has had no record yet says nothing. */
static bool is_shown(const struct chain *c) {
    bool any = c->expected && (!c->row.has_meta || c->row.meta_seq || c->row.findings);
    return c->begun || any || c->row.pending;
}

size_t audit_rows(struct audit *a, const struct audit_row **ret) {
    size_t n = 0;
    free(a->rows);
    a->rows = xcalloc(a->n_chains, sizeof *a->rows);
    for (size_t i = 0; i < a->n_chains; i++)
        if (is_shown(a->chains[i])) a->rows[n++] = a->chains[i]->row;
    qsort(a->rows, n, sizeof *a->rows, compare_rows);
    *ret = a->rows;
    return n;
}

uint64_t audit_findings(const struct audit *a) {
    return a->verdicts.findings;
}
