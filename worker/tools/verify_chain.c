#include "worker/tools/verify_chain.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void verdicts_report(struct verdicts *vs, const struct finding *f) {
    if (!f->note) vs->findings++;
    vs->opts.report(vs->opts.context, f);
}

/* Codes that are worth knowing, and no reason to fail. */
static const char notes[] = "repeated rotated unsigned-until made-anew replaced-key";

void chain_say(struct verdicts *vs, struct chain *c, const char *code, int64_t offset,
               const char *fmt, ...) {
    char text[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    struct finding f = {.note = text_lists(notes, str_c(code)),
                        .code = code,
                        .topic = c->topic,
                        .partition = c->row.partition,
                        .offset = offset,
                        .text = text};
    if (vs->place) f.place = *vs->place;
    if (!f.note) c->row.findings++;
    verdicts_report(vs, &f);
}

/* 0: none. */
static uint64_t place_of(const struct audit_until *v, size_t n, const char *topic,
                         int32_t partition) {
    for (size_t i = 0; i < n; i++)
        if (v[i].partition == partition && strcmp(v[i].topic, topic) == 0) return v[i].seq;
    return 0;
}

uint64_t chain_until(const struct verdicts *vs, const char *topic, int32_t partition) {
    return place_of(vs->opts.until, vs->opts.n_until, topic, partition);
}

void chain_open(struct verdicts *vs, struct chain *c) {
    c->links = xcalloc(CHAIN_LINKS, sizeof *c->links);
    c->keys = xcalloc(VERDICTS_KEYS_MAX, sizeof *c->keys);
    c->until = chain_until(vs, c->topic, c->row.partition);
    snprintf(c->cluster, sizeof c->cluster, "%s", vs->opts.cluster ? vs->opts.cluster : "");
    if (c->kind == CHAIN_FOREIGN)
        chain_say(vs, c, "foreign", -1,
                  "this topic is neither %s nor one of its retry and dead topics", vs->opts.source);
}

void chain_free(struct chain *c) {
    spans_free(&c->seen);
    free(c->topic);
    free(c->lasts);
    free(c->links);
    free(c->keys);
    free(c);
}

/* ---- links ---- */

static void digest_same(const struct ledger_entry *e, uint8_t ret[SHA256_LEN]) {
    struct sha256_ctx *ctx = sha256_begin();
    sha256_add(ctx, e->head.p, e->head.n);
    sha256_add(ctx, e->prev, SHA256_LEN);
    sha256_add(ctx, e->body.p, e->body.n);
    sha256_end(ctx, ret);
}

static void push_link(struct chain *c, const struct ledger_entry *e) {
    struct chain_link *link = &c->links[c->n_links++ % CHAIN_LINKS];
    *link = (struct chain_link){.seq = e->seq,
                                .next = e->next,
                                .settled_ms = e->settled_ms,
                                .has_last = e->has_last,
                                .last = e->last};
    memcpy(link->hash, e->hash, SHA256_LEN);
    digest_same(e, link->same);
    if (c->begun && e->seq < c->row.last_seq) return;
    c->row.last_seq = e->seq;
    c->row.next = e->next;
    memcpy(c->row.head, e->hash, SHA256_LEN);
}

/* The youngest link with this number and, unless NULL, this hash. */
static const struct chain_link *link_of(const struct chain *c, uint64_t seq, const uint8_t *hash) {
    size_t n = c->n_links < CHAIN_LINKS ? c->n_links : CHAIN_LINKS;
    for (size_t back = 1; back <= n; back++) {
        const struct chain_link *link = &c->links[(c->n_links - back) % CHAIN_LINKS];
        if (link->seq == seq && (!hash || memcmp(link->hash, hash, SHA256_LEN) == 0)) return link;
    }
    return NULL;
}

static bool is_zero(const uint8_t hash[SHA256_LEN]) {
    static const uint8_t zeros[SHA256_LEN];
    return memcmp(hash, zeros, SHA256_LEN) == 0;
}

static enum chain_answer begin(struct verdicts *vs, struct chain *c, const struct ledger_entry *e) {
    if (e->seq > 0 && !vs->opts.partial)
        chain_say(vs, c, "begins-late", e->first,
                  "the first entry found is number %" PRIu64 ": those before it are missing",
                  e->seq);
    if (e->seq == 0 && !is_zero(e->prev))
        chain_say(vs, c, "chain-broken", e->first,
                  "entry 0 names a previous entry, and there is none before it");
    if (e->seq == 0 && e->anew)
        chain_say(vs, c, "chain-broken", e->first,
                  "entry 0 says that the topic was made anew, and nothing was before it");
    push_link(c, e);
    c->begun = true;
    c->row.first = e->first;
    return CHAIN_NEW;
}

/* A chain of its own where there is one already: what a worker begins that finds no metadata of its
 * own beside the group's offset. Where the only entry so far begins there as well, what tells it
 * from that one's being altered is that its window was opened when that one was settled. */
static bool begins_again(const struct chain *c, const struct ledger_entry *e,
                         const struct chain_link *earlier) {
    return e->seq == 0 && is_zero(e->prev) && !e->anew &&
           (c->row.last_seq > 0 || e->first != c->row.first ||
            (earlier && e->opened_ms >= earlier->settled_ms));
}

static enum chain_answer restart(struct verdicts *vs, struct chain *c,
                                 const struct ledger_entry *e) {
    char what[100] = "";
    int64_t end = c->row.next;
    if (c->kind != CHAIN_DEAD && e->first != end)
        snprintf(what, sizeof what, "; records %" PRId64 " up to %" PRId64 " %s",
                 e->first < end ? e->first : end, e->first < end ? end : e->first,
                 e->first < end ? "are settled again" : "were jumped over and have no outcome");
    chain_say(vs, c, "begun-again", e->first < end ? e->first : end,
              "the chain begins again with an entry 0 at %" PRId64 ", after entry %" PRIu64
              ": somebody has set the group's offset, or it has lost its metadata%s",
              e->first, c->row.last_seq, what);
    c->restarts++;
    c->n_links = 0;
    c->n_lasts = 0;
    c->begun = false;
    memset(c->keys, 0, VERDICTS_KEYS_MAX * sizeof *c->keys);
    push_link(c, e);
    c->begun = true;
    if (e->first < c->row.first) c->row.first = e->first;
    return CHAIN_NEW;
}

/* Of the same records: an entry of form 1 does not say which they were. */
static bool same_records(const struct chain_link *earlier, const struct ledger_entry *e) {
    const struct ledger_last *a = &earlier->last, *b = &e->last;
    if (!earlier->has_last || !e->has_last) return true;
    return ledger_last_is(a, b->offset, b->timestamp_ms, b->bytes);
}

/* An entry whose number was there before. */
static enum chain_answer again(struct verdicts *vs, struct chain *c, const struct ledger_entry *e) {
    uint8_t same[SHA256_LEN];
    const struct chain_link *earlier = link_of(c, e->seq, NULL);
    digest_same(e, same);
    bool equal =
        earlier && memcmp(same, earlier->same, SHA256_LEN) == 0 && same_records(earlier, e);
    if (!equal && begins_again(c, e, earlier)) return restart(vs, c, e);
    if (!earlier) {
        chain_say(vs, c, "out-of-order", e->first, "entry %" PRIu64 " stands after entry %" PRIu64,
                  e->seq, c->row.last_seq);
        return CHAIN_REFUSED;
    }
    if (link_of(c, e->seq, e->hash)) {
        chain_say(vs, c, "repeated", e->first, "entry %" PRIu64 " is repeated as it was", e->seq);
        c->row.repeats++;
        return CHAIN_REPEAT;
    }
    push_link(c, e); /* the chain may go on from either */
    if (equal) {
        chain_say(vs, c, "repeated", e->first,
                  "entry %" PRIu64 " is repeated with the same outcomes and other times", e->seq);
        c->row.repeats++;
        return CHAIN_REPEAT;
    }
    chain_say(vs, c, "altered", e->first,
              "there are two entries %" PRIu64 " with different content", e->seq);
    return CHAIN_REFUSED;
}

/* Where the entry before it has to end: a topic made anew begins elsewhere, and its entry says so.
 */
static int64_t joint(const struct ledger_entry *e) {
    return e->anew ? e->before : e->first;
}

/* Dead topics are settled by hand, here and there: their windows don't follow one another. */
static bool follows(const struct chain *c, const struct chain_link *parent,
                    const struct ledger_entry *e) {
    return c->kind == CHAIN_DEAD || parent->next == joint(e);
}

static bool fits(const struct chain *c, const struct ledger_entry *e) {
    if (!c->begun) return e->seq == 0;
    const struct chain_link *parent = link_of(c, c->row.last_seq, e->prev);
    return e->seq == c->row.last_seq + 1 && parent && follows(c, parent, e);
}

enum chain_answer chain_add(struct verdicts *vs, struct chain *c, const struct ledger_entry *e,
                            bool intact) {
    if (!intact && !fits(c, e)) return CHAIN_REFUSED;
    if (!c->begun) return begin(vs, c, e);
    uint64_t last = c->row.last_seq;
    if (e->seq <= last) return again(vs, c, e);
    const struct chain_link *parent = link_of(c, last, e->prev);
    if (e->seq > last + 1)
        chain_say(vs, c, "missing", c->row.next,
                  "entries %" PRIu64 " to %" PRIu64 " are missing: records %" PRId64
                  " up to %" PRId64 " have no outcome",
                  last + 1, e->seq - 1, c->row.next, e->first);
    else if (!parent)
        chain_say(vs, c, "chain-broken", e->first,
                  "entry %" PRIu64 " does not name the hash of the entry before it", e->seq);
    else if (!follows(c, parent, e))
        chain_say(vs, c, parent->next < joint(e) ? "gap" : "overlap", parent->next,
                  "entry %" PRIu64 " begins at %" PRId64 ", the one before it ends at %" PRId64,
                  e->seq, joint(e), parent->next);
    push_link(c, e);
    return CHAIN_NEW;
}

/* ---- where entries come from (form 2) ---- */

/* Of one chain. Where there are more, every second one is forgotten: those that stay are spread
 * over all of it. */
#define LASTS_MAX 1024

static void keep_last(struct chain *c, const struct ledger_last *last) {
    if (!c->lasts) c->lasts = xcalloc(LASTS_MAX, sizeof *c->lasts);
    if (c->n_lasts && c->lasts[c->n_lasts - 1].offset >= last->offset) return;
    if (c->n_lasts == LASTS_MAX) {
        for (size_t i = 0; i < LASTS_MAX / 2; i++) c->lasts[i] = c->lasts[2 * i];
        c->n_lasts = LASTS_MAX / 2;
    }
    c->lasts[c->n_lasts++] = *last;
}

void chain_forget_lasts(struct chain *c) {
    c->n_lasts = 0;
}

const struct ledger_last *chain_last(const struct chain *c, int64_t offset) {
    size_t a = 0, z = c->n_lasts;
    while (a < z) {
        size_t mid = a + (z - a) / 2;
        if (c->lasts[mid].offset == offset) return &c->lasts[mid];
        if (c->lasts[mid].offset < offset)
            a = mid + 1;
        else
            z = mid;
    }
    return NULL;
}

static void take_rules(struct verdicts *vs, const struct ledger_entry *e) {
    size_t i = 0;
    while (i < vs->n_rules && memcmp(vs->rules[i].rules, e->rules, LEDGER_RULES_LEN) != 0) i++;
    if (i == AUDIT_RULES_MAX) return;
    struct audit_rules *r = &vs->rules[i];
    if (i == vs->n_rules) {
        vs->n_rules++;
        *r = (struct audit_rules){.from_ms = e->settled_ms, .to_ms = e->settled_ms};
        memcpy(r->rules, e->rules, LEDGER_RULES_LEN);
    }
    r->entries++;
    if (e->settled_ms < r->from_ms) r->from_ms = e->settled_ms;
    if (e->settled_ms > r->to_ms) r->to_ms = e->settled_ms;
}

/* At the first entry it is the cluster that is asked now which differs, later the entry before. */
static void check_cluster(struct verdicts *vs, struct chain *c, const struct ledger_entry *e) {
    bool differs = c->cluster[0] && !str_is(e->cluster, c->cluster);
    if (!e->cluster.n) return;
    if (differs)
        chain_say(vs, c, "other-cluster", e->first,
                  "entry %" PRIu64 " was settled on cluster %.*s, %s on %s: this is another topic, "
                  "or its chain was carried over",
                  e->seq, (int)e->cluster.n, e->cluster.p,
                  c->row.form2 ? "the one before it" : "and what is verified is", c->cluster);
    snprintf(c->cluster, sizeof c->cluster, "%.*s", (int)e->cluster.n, e->cluster.p);
}

void chain_take_origin(struct verdicts *vs, struct chain *c, const struct ledger_entry *e) {
    if (e->form == 1) {
        c->row.form2_whole = false;
        return;
    }
    check_cluster(vs, c, e);
    take_rules(vs, e);
    if (!c->row.form2_whole) {
        c->row.form2_from = e->seq;
        c->row.form2_whole = true;
    }
    if (!c->row.form2 || memcmp(c->row.rules, e->rules, LEDGER_RULES_LEN) != 0) {
        memcpy(c->row.rules, e->rules, LEDGER_RULES_LEN);
        c->row.rules_from = e->seq;
    }
    c->row.form2++;
    if (e->has_last && vs->opts.keep_seen) keep_last(c, &e->last);
}

/* ---- signatures ---- */

static struct known_key *key_named(struct verdicts *vs, const char *id) {
    for (size_t i = 0; i < vs->n_keys; i++)
        if (strcmp(vs->keys[i].pub.id, id) == 0) return &vs->keys[i];
    return NULL;
}

void verdicts_begin(struct verdicts *vs, const struct audit_options *opts) {
    vs->opts = *opts;
    for (; vs->n_keys < opts->n_keys && vs->n_keys < VERDICTS_KEYS_MAX; vs->n_keys++)
        vs->keys[vs->n_keys].pub = opts->keys[vs->n_keys];
}

bool verdicts_trusts(const struct verdicts *vs, const char *id) {
    for (size_t i = 0; i < vs->n_keys; i++)
        if (strcmp(vs->keys[i].pub.id, id) == 0) return !vs->keys[i].replaced;
    return false;
}

/* NULL, or why the statement that next takes the place of old does not count. */
static const char *refused(struct verdicts *vs, const struct known_key *old,
                           const struct ledger_pubkey *next, const struct ledger_entry *e) {
    if (!old) return "the key that signs the statement is not known";
    if (!ledger_pubkey_check_rotation(&old->pub, next->raw, e->rotate_sig))
        return "the statement's signature is wrong";
    if (key_named(vs, next->id)) return NULL;
    if (old->replaced) return "the key that signs the statement was itself replaced";
    if (vs->n_keys == VERDICTS_KEYS_MAX) return "there are too many keys";
    return NULL;
}

static void take_statement(struct verdicts *vs, struct known_key *old,
                           const struct ledger_pubkey *next, const struct ledger_entry *e) {
    if (!old->replaced || e->settled_ms < old->replaced_ms) old->replaced_ms = e->settled_ms;
    old->replaced = true;
    memcpy(old->successor, next->id, sizeof old->successor);
    if (!key_named(vs, next->id)) vs->keys[vs->n_keys++] = (struct known_key){.pub = *next};
}

/* The entry has to be the new key's. */
static bool states(const struct ledger_entry *e, struct ledger_pubkey *ret_next) {
    if (!e->rotates || !e->is_signed) return false;
    ledger_pubkey_from_raw(e->rotate_to, ret_next);
    return strcmp(ret_next->id, e->key) == 0 &&
           ledger_pubkey_check(ret_next, e->hash, SHA256_LEN, e->sig);
}

void verdicts_learn(struct verdicts *vs, const struct ledger_entry *e) {
    struct ledger_pubkey next;
    if (!vs->n_keys || !states(e, &next)) return;
    struct known_key *old = key_named(vs, e->rotate_from);
    if (!refused(vs, old, &next, e)) take_statement(vs, old, &next, e);
}

static void rotate(struct verdicts *vs, struct chain *c, const struct ledger_entry *e) {
    struct ledger_pubkey next;
    if (!states(e, &next)) return;
    struct known_key *old = key_named(vs, e->rotate_from);
    const char *wrong = refused(vs, old, &next, e);
    if (wrong) {
        chain_say(vs, c, "rotation-refused", e->first, "key %s names %s as its successor: %s",
                  e->rotate_from, next.id, wrong);
        return;
    }
    take_statement(vs, old, &next, e);
    struct chain_key *mine = &c->keys[old - vs->keys];
    if (mine->stated) return; /* each owner says it again */
    mine->stated = true;
    mine->stated_seq = e->seq;
    chain_say(vs, c, "rotated", e->first, "key %s is replaced by %s", e->rotate_from, next.id);
}

/* Whether a key that is known vouches for the entry, by what it says alone. */
static bool check_signed(struct verdicts *vs, struct chain *c, const struct ledger_entry *e) {
    rotate(vs, c, e);
    struct known_key *key = key_named(vs, e->key);
    if (!key) {
        chain_say(vs, c, "unknown-key", e->first,
                  "entry %" PRIu64 " is signed by key %s, which is not among those given", e->seq,
                  e->key);
        return false;
    }
    if (!ledger_pubkey_check(&key->pub, e->hash, SHA256_LEN, e->sig)) {
        chain_say(vs, c, "bad-signature", e->first, "entry %" PRIu64 "'s signature is not key %s's",
                  e->seq, e->key);
        return false;
    }
    struct chain_key *mine = &c->keys[key - vs->keys];
    if (mine->used && e->seq <= mine->seq) return true; /* it is repeated */
    mine->used = true;
    mine->seq = e->seq;
    mine->first = e->first;
    mine->settled_ms = e->settled_ms;
    return true;
}

bool chain_check_signature(struct verdicts *vs, struct chain *c, const struct ledger_entry *e) {
    if (e->is_signed) {
        if (c->row.signed_entries++ == 0) c->signed_from = e->seq;
        return !vs->n_keys || check_signed(vs, c, e);
    } else if (c->row.signed_entries && vs->n_keys) {
        chain_say(vs, c, "unsigned", e->first,
                  "entry %" PRIu64 " is not signed, and entries before it are", e->seq);
    } else if (c->until && e->seq >= c->until && vs->n_keys) {
        chain_say(vs, c, "unsigned", e->first,
                  "entry %" PRIu64 " is not signed, and signing began with entry %" PRIu64, e->seq,
                  c->until);
    } else {
        c->unsigned_prefix++;
    }
    return !vs->n_keys || (c->until && e->seq < c->until);
}

/* Whoever can write to Kafka can make such a beginning without a key, and the worker goes on from
 * it. So it counts only where the auditor knows of it. */
static void finish_beginning(struct verdicts *vs, struct chain *c) {
    uint64_t n = c->unsigned_prefix, begun = c->row.last_seq + 1;
    if (c->until && (c->row.signed_entries ? n > 0 : c->until == begun))
        chain_say(vs, c, "unsigned-until", c->row.first,
                  "%" PRIu64 " entries are not signed: signing began with entry %" PRIu64
                  ", so --unsigned-until says",
                  n, c->until);
    else if (!c->row.signed_entries)
        chain_say(vs, c, "unsigned", c->row.first, "no entry is signed");
    else if (n)
        chain_say(vs, c, "unsigned-beginning", c->row.first,
                  "the first %" PRIu64
                  " entries are not signed, and anybody could have written them; did signing begin "
                  "after them (--unsigned-until %s/%d@%" PRIu64 ")?",
                  n, c->topic, (int)c->row.partition, c->signed_from);
}

/* Days may pass until the last worker of a deploy has the new key. */
#define DEPLOY_MS (24LL * 3600 * 1000)

/* Whoever has a key that was replaced can write the newest entries of a chain; further back, what
 * follows vouches for them. In a chain that has the statement no such entry may follow it. In
 * another one the key's end is where the auditor says; else when it was replaced, by the entries'
 * own time. */
static void finish_replaced(struct verdicts *vs, struct chain *c) {
    uint64_t vouched = c->vouched;
    const struct chain_key *last = NULL;
    for (size_t i = 0; i < vs->n_keys; i++) {
        const struct chain_key *k = &c->keys[i];
        if (!k->used) continue;
        if (!vs->keys[i].replaced && k->seq + 1 > vouched) vouched = k->seq + 1;
        if (vs->keys[i].replaced && (!last || k->seq > last->seq)) last = k;
    }
    if (!last || last->seq < vouched) return;
    const struct known_key *key = &vs->keys[last - c->keys];
    uint64_t known = place_of(vs->opts.replaced, vs->opts.n_replaced, c->topic, c->row.partition);
    if (last->stated && last->seq > last->stated_seq)
        chain_say(vs, c, "retired-key", last->first,
                  "the newest entries, up to %" PRIu64
                  ", are signed by key %s, which was replaced before them",
                  last->seq, key->pub.id);
    else if (known ? last->seq >= known : last->settled_ms > key->replaced_ms + DEPLOY_MS)
        chain_say(vs, c, "retired-key", last->first,
                  "the newest entries, up to %" PRIu64 ", are signed by key %s, which %s",
                  last->seq, key->pub.id,
                  known ? "had ended before them, so --replaced-until says"
                        : "had been replaced elsewhere in the ledger a day before");
    else if (!known) {
        c->row.replaced = true;
        chain_say(vs, c, "replaced-key", last->first,
                  "only key %s, which was replaced since, vouches for the newest entries: whoever "
                  "has it may have written them; if %" PRIu64
                  " is the last one before that, say --replaced-until %s/%d@%" PRIu64,
                  key->pub.id, last->seq, c->topic, (int)c->row.partition, last->seq + 1);
    }
}

static void finish_signatures(struct verdicts *vs, struct chain *c) {
    if (!vs->n_keys || !c->begun) return;
    finish_beginning(vs, c);
    finish_replaced(vs, c);
}

/* ---- the end ---- */

/* Each entry is settled with the offset and the metadata that count it. Of dead topics, which no
 * member of the group reads, the broker forgets these after a time. */
bool chain_is_ahead(const struct chain *c) {
    return c->begun && c->known_now && c->kind != CHAIN_DEAD && c->row.last_seq >= c->seq_now;
}

/* The end of a chain is where the group says. */
static void finish_committed(struct verdicts *vs, struct chain *c) {
    if (!chain_is_ahead(c)) return;
    if (!c->has_now)
        chain_say(vs, c, "committed-missing", c->row.next,
                  "the group has committed %s of this partition, and the ledger has %" PRIu64
                  " entries of it: where they end can't be known",
                  c->row.committed < 0 ? "nothing" : "no metadata of runsink's",
                  c->row.last_seq + 1);
    else
        chain_say(vs, c, "committed-older", c->row.next,
                  "the group has committed %" PRIu64 " entries, and the ledger has %" PRIu64
                  ": the committed state was put back, or entries were added",
                  c->seq_now, c->row.last_seq + 1);
}

void chain_finish(struct verdicts *vs, struct chain *c) {
    const struct audit_row *row = &c->row;
    finish_signatures(vs, c);
    finish_committed(vs, c);
    if (!c->expected || vs->opts.unfinished || (vs->opts.partial && !c->begun)) return;
    int64_t end = c->begun ? row->next : 0;
    if (!row->has_meta) {
        if (row->committed > end)
            chain_say(vs, c, "truncated", end,
                      "the ledger ends at %" PRId64 ", the group's committed offset is %" PRId64
                      " (with metadata that is not runsink's)",
                      end, row->committed);
    } else if (row->meta_seq == 0 || c->head_found) {
        return;
    } else if (!c->begun) {
        chain_say(vs, c, "truncated", 0,
                  "the ledger has no entry, the group has settled %" PRIu64 " up to %" PRId64,
                  row->meta_seq, row->committed);
    } else if (row->last_seq + 1 < row->meta_seq) {
        chain_say(vs, c, "truncated", end,
                  "the ledger ends after %" PRIu64 " entries at %" PRId64
                  ", the group has settled %" PRIu64 " up to %" PRId64,
                  row->last_seq + 1, end, row->meta_seq, row->committed);
    } else if (row->entries) {
        chain_say(vs, c, "head-differs", row->committed,
                  "entry %" PRIu64
                  " is not the one whose hash is in the group's committed metadata",
                  row->meta_seq - 1);
    }
}
