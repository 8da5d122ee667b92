#include "worker/tools/verify_anchor.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "worker/base/table.h"
#include "worker/base/text.h"
#include "worker/kafka/topics.h"

#define SOURCES_MAX 1000000
#define MARKS_MAX 2000000
#define KEYS_MAX 64
/* An owner that was away, or a transaction under way, may anchor a head that is not the newest any
 * more: by so much, at most, are an anchor's time and the newer entries' apart. */
#define STALE_MS 600000
#define NO_ENTRY UINT64_MAX
/* A name's part that is a time. */
#define TIME_LEN (sizeof "2026/01/31/120000Z" - 1)
/* What the clocks of a worker and of a store may be apart, and an attempt may take. */
#define APART_MS 3600000
/* The longest that an entry waits for its anchor while others are written. */
#define STOPPED_MS (24LL * 3600 * 1000)

/* An anchor whose signature waits for the statement that names its key. */
struct late {
    uint8_t hash[SHA256_LEN], sig[LEDGER_SIG_LEN];
    char key[LEDGER_KEY_ID_LEN + 1];
};

/* An anchor. */
struct source {
    char *name;
    int64_t at_ms;
    struct late *late; /* NULL: its signature is right, or not to be checked */
};

/* One head, whichever anchors name it. */
struct mark {
    uint64_t seq;
    int64_t next;
    uint32_t source; /* the first anchor that does */
    uint64_t keys;   /* bits: whose anchors do, of the ids below */
    bool found, differs;
    bool ends_elsewhere; /* the entry's next, below, is not what the anchor says */
    int64_t entry_next;
    uint8_t hash[SHA256_LEN], other[SHA256_LEN];
};

/* A partition that anchors name. */
struct spot {
    struct table_node node;
    char *topic;
    int32_t partition;
    struct mark *marks; /* ascending by seq and hash, once sorted */
    size_t n;
    bool begun; /* the ledger has an entry of it: */
    uint64_t first_seq, last_seq;
    uint8_t first_prev[SHA256_LEN];
    uint64_t early;
    uint64_t open_seq; /* the first entry after the newest anchored one; settled then, 0: none: */
    int64_t open_ms;
};

struct anchored {
    const struct snapshot *snapshot;
    const struct reader_limits *limits;
    struct audit *audit;
    struct ledger_pubkey keys[KEYS_MAX];
    size_t n_keys;
    char ids[KEYS_MAX][LEDGER_KEY_ID_LEN + 1]; /* of those that sign anchors, known or not */
    size_t n_ids;
    struct source *sources;
    size_t n_sources;
    struct spot **spots;
    size_t n_spots;
    struct table index; /* of spots */
    size_t n_marks;
    bool sorted, full;
    struct arena arena; /* of the anchor at hand */
    struct anchored_sums sums;
    uint64_t added;
    uint64_t others;   /* anchors of other groups */
    uint64_t elsewhen; /* whose time is not when their store got them */
    char first_elsewhen[ANCHOR_NAME_LEN + 1];
};

struct anchored *anchored_new(const struct snapshot *s, const struct ledger_pubkey *keys,
                              size_t n_keys, const struct reader_limits *limits, struct audit *a) {
    struct anchored *x = xcalloc(1, sizeof *x);
    x->audit = a;
    x->snapshot = s;
    x->limits = limits;
    x->n_keys = n_keys < KEYS_MAX ? n_keys : KEYS_MAX;
    if (x->n_keys) memcpy(x->keys, keys, x->n_keys * sizeof *keys);
    return x;
}

void anchored_free(struct anchored *x) {
    if (!x) return;
    for (size_t i = 0; i < x->n_sources; i++) {
        free(x->sources[i].name);
        free(x->sources[i].late);
    }
    for (size_t i = 0; i < x->n_spots; i++) {
        free(x->spots[i]->topic);
        free(x->spots[i]->marks);
        free(x->spots[i]);
    }
    free(x->sources);
    free(x->spots);
    table_free(&x->index);
    arena_free(&x->arena);
    free(x);
}

void anchored_sums(const struct anchored *x, struct anchored_sums *ret) {
    *ret = x->sums;
}

/* ---- reports ---- */

static void report(struct anchored *x, struct finding f, const char *fmt, va_list ap) {
    char text[700];
    vsnprintf(text, sizeof text, fmt, ap);
    f.text = text;
    audit_report(x->audit, &f);
}

/* About an anchor as such. */
static void say(struct anchored *x, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void say(struct anchored *x, const char *code, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    report(x, (struct finding){.code = code, .offset = -1}, fmt, ap);
    va_end(ap);
}

/* About a partition; m NULL: about no single head. */
static void say_of(struct anchored *x, const struct spot *s, const struct mark *m, const char *code,
                   const char *fmt, ...) __attribute__((format(printf, 5, 6)));

static void say_of(struct anchored *x, const struct spot *s, const struct mark *m, const char *code,
                   const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    report(x,
           (struct finding){.note = !m,
                            .code = code,
                            .topic = s->topic,
                            .partition = s->partition,
                            .offset = m ? m->next : -1},
           fmt, ap);
    va_end(ap);
}

/* ---- anchors ---- */

static struct spot *spot_of(struct anchored *x, struct str topic, int32_t partition, bool make) {
    uint64_t hash = keyed_hash_numbered(topic, partition);
    for (struct table_node *n = table_first(&x->index, hash); n; n = table_next(n)) {
        struct spot *s = TABLE_ENTRY(n, struct spot, node);
        if (s->partition == partition && str_is(topic, s->topic)) return s;
    }
    if (!make) return NULL;
    struct spot *s = xcalloc(1, sizeof *s);
    s->topic = xstrndup(topic.p, topic.n);
    s->partition = partition;
    x->spots = xgrow(x->spots, x->n_spots, sizeof s);
    x->spots[x->n_spots++] = s;
    table_add(&x->index, &s->node, hash);
    return s;
}

/* Whether the topic is the source, or one of its retry or dead topics. */
static bool is_ours(const struct anchored *x, struct str topic) {
    char name[TOPIC_MAX + 1];
    enum topic_kind kind;
    snprintf(name, sizeof name, "%.*s", (int)topic.n, topic.p);
    return topic_is_of(name, x->snapshot->source, &kind) && kind != TOPIC_LEDGER &&
           kind != TOPIC_OUTCOMES;
}

static const struct ledger_pubkey *key_named(const struct anchored *x, const char *id) {
    for (size_t i = 0; i < x->n_keys; i++)
        if (strcmp(x->keys[i].id, id) == 0) return &x->keys[i];
    return NULL;
}

/* Checked before the group is looked at: naming another group must not hide that an anchor was
 * altered. */
static bool check_hash(struct anchored *x, const char *name, const struct anchor *a) {
    uint8_t hash[SHA256_LEN];
    sha256(a->canonical.p, a->canonical.n, hash);
    if (memcmp(hash, a->hash, SHA256_LEN) == 0) return true;
    say(x, "anchor-bad-hash", "anchor %s was altered: its hash is not that of its bytes", name);
    return false;
}

/* False when it is wrong. Of a key that is not known yet: put off. */
static bool check_signature(struct anchored *x, const char *name, const struct anchor *a,
                            struct late **ret_late) {
    const struct ledger_pubkey *key = key_named(x, a->key);
    if (!x->n_keys || (key && ledger_pubkey_check(key, a->hash, SHA256_LEN, a->sig))) return true;
    if (key) {
        say(x, "anchor-bad-signature", "anchor %s: the signature is not key %s's", name, a->key);
        return false;
    }
    struct late *late = xcalloc(1, sizeof *late);
    memcpy(late->hash, a->hash, SHA256_LEN);
    memcpy(late->sig, a->sig, sizeof a->sig);
    memcpy(late->key, a->key, sizeof a->key);
    *ret_late = late;
    return true;
}

static bool same(const struct mark *m, const struct anchor_head *h) {
    return m->seq == h->seq && m->next == h->next && memcmp(m->hash, h->hash, SHA256_LEN) == 0;
}

/* The bit of a key; 0: there are too many. */
static uint64_t bit_of(struct anchored *x, const char *id) {
    size_t i = 0;
    while (i < x->n_ids && strcmp(x->ids[i], id) != 0) i++;
    if (i == KEYS_MAX) return 0;
    if (i == x->n_ids) memcpy(x->ids[x->n_ids++], id, sizeof x->ids[0]);
    return (uint64_t)1 << i;
}

static void add_head(struct anchored *x, const struct anchor_head *h, uint64_t key) {
    if (!is_ours(x, h->topic) || x->n_marks == MARKS_MAX) {
        x->full = x->full || x->n_marks == MARKS_MAX;
        return;
    }
    struct spot *s = spot_of(x, h->topic, h->partition, true);
    if (s->n && same(&s->marks[s->n - 1], h)) { /* anchored again after a restart */
        s->marks[s->n - 1].keys |= key;
        return;
    }
    s->marks = xgrow(s->marks, s->n, sizeof *s->marks);
    struct mark *m = &s->marks[s->n++];
    *m = (struct mark){
        .seq = h->seq, .next = h->next, .source = (uint32_t)(x->n_sources - 1), .keys = key};
    memcpy(m->hash, h->hash, SHA256_LEN);
    x->n_marks++;
}

static bool in_limits(const struct anchored *x, const struct anchor *a) {
    return a->at_ms >= x->limits->from_ms && (!x->limits->to_ms || a->at_ms < x->limits->to_ms);
}

/* The name is what a time is looked for by; the store knows when it got the anchor. */
static void check_time(struct anchored *x, const char *name, const struct anchor *a,
                       int64_t written_ms) {
    char named[ANCHOR_NAME_LEN + 1];
    if (anchor_name_legal(str_c(name)) &&
        (!anchor_name(a->at_ms, 0, named) || strncmp(name, named, TIME_LEN) != 0))
        say(x, "anchor-misnamed",
            "anchor %s says that it was made at another time than its name does", name);
    int64_t apart = written_ms ? written_ms - a->at_ms : 0;
    if (apart >= -APART_MS && apart <= APART_MS) return;
    if (x->elsewhen++ == 0) snprintf(x->first_elsewhen, sizeof x->first_elsewhen, "%s", name);
}

void anchored_add(struct anchored *x, const char *name, struct str value, int64_t written_ms) {
    struct anchor a;
    struct ledger_read_error why;
    struct late *late = NULL;
    arena_free(&x->arena);
    x->added++;
    if (!anchor_read(value, &x->arena, &a, &why)) {
        char what[64];
        outcome_text(what, sizeof what, str_c(why.what));
        say(x, "anchor-malformed", "anchor %s: expected %s at byte %zu", name, what, why.at);
        return;
    }
    if (!check_hash(x, name, &a)) return;
    if (!str_is(a.group, x->snapshot->group)) {
        x->others++;
        return;
    }
    x->sums.of_group++;
    if (!in_limits(x, &a)) return;
    if (x->n_sources == SOURCES_MAX) {
        x->full = true;
        return;
    }
    if (!check_signature(x, name, &a, &late)) return;
    check_time(x, name, &a, written_ms);
    x->sources = xgrow(x->sources, x->n_sources, sizeof *x->sources);
    x->sources[x->n_sources++] =
        (struct source){.name = xstrdup(name), .at_ms = a.at_ms, .late = late};
    x->sums.anchors++;
    if (a.at_ms > x->sums.newest_ms) x->sums.newest_ms = a.at_ms;
    x->sorted = false;
    uint64_t key = bit_of(x, a.key);
    for (size_t i = 0; i < a.n; i++) add_head(x, &a.heads[i], key);
}

/* ---- entries ---- */

static int compare_marks(const void *a, const void *b) {
    const struct mark *x = a, *y = b;
    if (x->seq != y->seq) return x->seq < y->seq ? -1 : 1;
    int d = memcmp(x->hash, y->hash, SHA256_LEN);
    if (!d) d = (x->next > y->next) - (x->next < y->next);
    return d ? d : (x->source > y->source) - (x->source < y->source);
}

static void sort_marks(struct anchored *x) {
    if (x->sorted) return;
    x->sorted = true;
    x->n_marks = 0;
    for (size_t i = 0; i < x->n_spots; i++) {
        struct spot *s = x->spots[i];
        size_t n = 0;
        qsort(s->marks, s->n, sizeof *s->marks, compare_marks);
        for (size_t k = 0; k < s->n; k++)
            if (!n || s->marks[n - 1].seq != s->marks[k].seq ||
                s->marks[n - 1].next != s->marks[k].next ||
                memcmp(s->marks[n - 1].hash, s->marks[k].hash, SHA256_LEN) != 0)
                s->marks[n++] = s->marks[k];
            else
                s->marks[n - 1].keys |= s->marks[k].keys;
        s->n = n;
        x->n_marks += n;
    }
}

/* The first mark with this number or a higher one. */
static size_t first_mark(const struct spot *s, uint64_t seq) {
    size_t low = 0, high = s->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (s->marks[middle].seq < seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The keys that a known key names; that the chain is right about them is the audit's business. */
static void learn_key(struct anchored *x, const struct ledger_entry *e) {
    struct ledger_pubkey next;
    const struct ledger_pubkey *from = key_named(x, e->rotate_from);
    if (!from || x->n_keys == KEYS_MAX) return;
    ledger_pubkey_from_raw(e->rotate_to, &next);
    if (!key_named(x, next.id) && ledger_pubkey_check_rotation(from, next.raw, e->rotate_sig))
        x->keys[x->n_keys++] = next;
}

uint64_t anchored_count(const struct anchored *x) {
    return x->added - x->others;
}

void anchored_entry(struct anchored *x, const struct ledger_entry *e) {
    sort_marks(x);
    if (e->rotates) learn_key(x, e);
    struct spot *s = is_ours(x, e->topic) ? spot_of(x, e->topic, e->partition, true) : NULL;
    if (!s) return;
    if (!s->open_ms) {
        s->open_seq = e->seq;
        s->open_ms = e->settled_ms;
    }
    if (!s->begun) {
        s->first_seq = s->last_seq = e->seq;
        memcpy(s->first_prev, e->prev, SHA256_LEN);
    }
    s->begun = true;
    if (e->seq > s->last_seq) s->last_seq = e->seq;
    for (size_t i = first_mark(s, e->seq); i < s->n && s->marks[i].seq == e->seq; i++) {
        struct mark *m = &s->marks[i];
        if (memcmp(m->hash, e->hash, SHA256_LEN) == 0) {
            m->found = true;
            m->ends_elsewhere = m->next != e->next;
            m->entry_next = e->next;
            s->open_ms = 0;
        } else {
            m->differs = true;
            memcpy(m->other, e->hash, SHA256_LEN);
        }
    }
}

/* ---- the end ---- */

/* Read in part, the ledger may have no entry of the partition: the next one would follow what the
 * group has committed. */
static void begin_at_committed(struct anchored *x, struct spot *s) {
    for (size_t i = 0; i < x->snapshot->n_committed && !s->begun; i++) {
        const struct committed *c = &x->snapshot->committed[i];
        if (c->partition != s->partition || strcmp(c->topic, s->topic) != 0 || !c->has_meta)
            continue;
        s->begun = c->meta.seq > 0;
        s->first_seq = c->meta.seq;
        s->last_seq = c->meta.seq - 1;
        memcpy(s->first_prev, c->meta.head, SHA256_LEN);
    }
}

static void say_differs(struct anchored *x, const struct spot *s, const struct mark *m,
                        const uint8_t other[SHA256_LEN], const char *whose) {
    char was[HEX_LEN(SHA256_LEN) + 1], is[HEX_LEN(SHA256_LEN) + 1];
    hex(m->hash, SHA256_LEN, was);
    hex(other, SHA256_LEN, is);
    say_of(x, s, m, "anchor-differs",
           "entry %" PRIu64 " was anchored with hash %s, %s is %s: the ledger was rewritten "
           "(anchor %s)",
           m->seq, was, whose, is, x->sources[m->source].name);
}

/* number: an entry's, that why ends with; NO_ENTRY: none. */
static void say_missing(struct anchored *x, const struct spot *s, const struct mark *m,
                        const char *why, uint64_t number) {
    char was[HEX_LEN(SHA256_LEN) + 1], entry[24] = "";
    hex(m->hash, SHA256_LEN, was);
    if (number != NO_ENTRY) snprintf(entry, sizeof entry, " %" PRIu64, number);
    say_of(x, s, m, "anchor-missing",
           "entry %" PRIu64 " was anchored with hash %s and is not there: %s%s (anchor %s)", m->seq,
           was, why, entry, x->sources[m->source].name);
}

static void judge(struct anchored *x, struct spot *s, const struct mark *m) {
    int64_t at = x->sources[m->source].at_ms;
    if (m->found && m->ends_elsewhere)
        say_of(x, s, m, "anchor-differs",
               "entry %" PRIu64 " ends at %" PRId64 ", and was anchored as ending at %" PRId64
               " (anchor %s)",
               m->seq, m->entry_next, m->next, x->sources[m->source].name);
    else if (m->found)
        x->sums.found++;
    else if (m->differs)
        say_differs(x, s, m, m->other, "the ledger's");
    else if (!s->begun)
        say_missing(x, s, m, "the ledger has no entry of this partition", NO_ENTRY);
    else if (m->seq > s->last_seq)
        say_missing(x, s, m, "the chain ends with entry", s->last_seq);
    else if (m->seq >= s->first_seq)
        say_missing(x, s, m, "the ledger has others before and after it", NO_ENTRY);
    else if (m->seq + 1 == s->first_seq && memcmp(m->hash, s->first_prev, SHA256_LEN) != 0)
        say_differs(x, s, m, s->first_prev, "what the first entry read names as the one before it");
    else if (x->limits->from_ms && m->seq + 1 < s->first_seq && at >= x->limits->from_ms + STALE_MS)
        say_missing(x, s, m, "it was the newest then, and what was settled later begins with entry",
                    s->first_seq);
    else
        s->early++;
}

static void check_late(struct anchored *x, const struct source *source) {
    const struct late *late = source->late;
    if (!late) return;
    const struct ledger_pubkey *key = key_named(x, late->key);
    if (!key)
        say(x, "anchor-unknown-key",
            "anchor %s is signed by key %s, which is not among those given", source->name,
            late->key);
    else if (!ledger_pubkey_check(key, late->hash, SHA256_LEN, late->sig))
        say(x, "anchor-bad-signature", "anchor %s: the signature is not key %s's", source->name,
            late->key);
}

/* An anchor's signature that turns out to be wrong is a finding by itself. */
void anchored_vouch(const struct anchored *x) {
    uint64_t trusted = 0;
    for (size_t i = 0; i < x->n_ids; i++)
        if (audit_trusts(x->audit, x->ids[i])) trusted |= (uint64_t)1 << i;
    for (size_t i = 0; i < x->n_spots; i++) {
        const struct spot *s = x->spots[i];
        for (size_t k = 0; k < s->n; k++)
            if (s->marks[k].found)
                audit_anchored(x->audit, s->topic, s->partition,
                               &(struct audit_anchor){.seq = s->marks[k].seq,
                                                      .next = s->marks[k].next,
                                                      .at_ms = x->sources[s->marks[k].source].at_ms,
                                                      .trusted = s->marks[k].keys & trusted});
    }
}

/* Whoever has taken over a worker can let it write none of a partition. */
static void check_stopped(struct anchored *x, const struct spot *s) {
    char text[UTC_TEXT];
    if (!s->open_ms || x->sums.newest_ms - s->open_ms <= STOPPED_MS) return;
    if (!utc_text(s->open_ms / 1000, text)) return;
    x->sums.stopped++;
    say_of(
        x, s, NULL, "anchors-stopped",
        "nothing is anchored from entry %" PRIu64
        " on, which was settled at %s, though anchors were written for a day and more after that",
        s->open_seq, text);
}

void anchored_finish(struct anchored *x) {
    sort_marks(x);
    for (size_t i = 0; i < x->n_sources; i++) check_late(x, &x->sources[i]);
    for (size_t i = 0; i < x->n_spots; i++) {
        struct spot *s = x->spots[i];
        if (x->snapshot->partial && !s->begun) begin_at_committed(x, s);
        for (size_t k = 0; k < s->n; k++) judge(x, s, &s->marks[k]);
        x->sums.heads += s->n;
        x->sums.early += s->early;
        check_stopped(x, s);
        if (s->early)
            say_of(x, s, NULL, "anchored-early",
                   "%" PRIu64 " heads were anchored before the ledger's beginning, entry %" PRIu64,
                   s->early, s->first_seq);
    }
    if (x->elsewhen) {
        char text[256];
        snprintf(
            text, sizeof text,
            "%" PRIu64 " anchors reached their store more than an hour from the time that they "
            "say, the first is %s: is a worker's clock wrong, is this a copy of the bucket, or "
            "were they made later?",
            x->elsewhen, x->first_elsewhen);
        audit_report(x->audit,
                     &(struct finding){
                         .note = true, .code = "anchors-elsewhen", .offset = -1, .text = text});
    }
    if (x->sums.of_group == 0 && x->others)
        say(x, "anchors-none",
            "there are %" PRIu64
            " anchors of other groups, and none of %s: is the folder the right one?",
            x->others, x->snapshot->group);
    if (x->full)
        say(x, "anchors-too-many",
            "there are more than %d anchors or %d heads: not all were compared; verify a part at a "
            "time (--from, --to)",
            SOURCES_MAX, MARKS_MAX);
}
