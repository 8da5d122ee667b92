#include "worker/tools/verify_chain.h"

#include <inttypes.h>

static void digest_same(const struct ledger_entry *e, uint8_t ret[SHA256_LEN]) {
    struct sha256_ctx *ctx = sha256_begin();
    sha256_add(ctx, e->head.p, e->head.n);
    sha256_add(ctx, e->prev, SHA256_LEN);
    sha256_add(ctx, e->body.p, e->body.n);
    sha256_end(ctx, ret);
}

static void push(struct chain *c, const struct ledger_entry *e) {
    struct chain_link *link = &c->links[c->n_links++ % CHAIN_LINKS];
    *link = (struct chain_link){.seq = e->seq, .next = e->next};
    memcpy(link->hash, e->hash, SHA256_LEN);
    digest_same(e, link->same);
    if (c->begun && e->seq < c->row.last_seq) return;
    c->row.last_seq = e->seq;
    c->row.next = e->next;
    memcpy(c->row.head, e->hash, SHA256_LEN);
}

/* The youngest link with this number and, unless NULL, this hash. */
static const struct chain_link *find(const struct chain *c, uint64_t seq, const uint8_t *hash) {
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

static enum chain_answer begin(struct audit *a, struct chain *c, const struct ledger_entry *e,
                               bool partial, const struct ledger_place *place) {
    if (e->seq > 0 && !partial)
        chain_say(a, c, place, false, "begins-late", e->first,
                  "the first entry found is number %" PRIu64 ": those before it are missing",
                  e->seq);
    if (e->seq == 0 && !is_zero(e->prev))
        chain_say(a, c, place, false, "chain-broken", e->first,
                  "entry 0 names a previous entry, and there is none before it");
    if (e->seq == 0 && e->anew)
        chain_say(a, c, place, false, "chain-broken", e->first,
                  "entry 0 says that the topic was made anew, and nothing was before it");
    push(c, e);
    c->begun = true;
    c->row.first = e->first;
    return CHAIN_NEW;
}

/* An entry whose number was there before. */
static enum chain_answer again(struct audit *a, struct chain *c, const struct ledger_entry *e,
                               const struct ledger_place *place) {
    uint8_t same[SHA256_LEN];
    const struct chain_link *earlier = find(c, e->seq, NULL);
    if (!earlier) {
        chain_say(a, c, place, false, "out-of-order", e->first,
                  "entry %" PRIu64 " stands behind entry %" PRIu64, e->seq, c->row.last_seq);
        return CHAIN_REFUSED;
    }
    if (find(c, e->seq, e->hash)) {
        chain_say(a, c, place, true, "repeated", e->first,
                  "entry %" PRIu64 " is repeated as it was", e->seq);
        c->row.repeats++;
        return CHAIN_REPEAT;
    }
    digest_same(e, same);
    bool equal = memcmp(same, earlier->same, SHA256_LEN) == 0;
    push(c, e); /* the chain may go on from either */
    if (equal) {
        chain_say(a, c, place, true, "repeated", e->first,
                  "entry %" PRIu64 " is repeated with the same outcomes and other times", e->seq);
        c->row.repeats++;
        return CHAIN_REPEAT;
    }
    chain_say(a, c, place, false, "altered", e->first,
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
    const struct chain_link *parent = find(c, c->row.last_seq, e->prev);
    return e->seq == c->row.last_seq + 1 && parent && follows(c, parent, e);
}

enum chain_answer chain_add(struct audit *a, struct chain *c, const struct ledger_entry *e,
                            bool intact, bool partial, const struct ledger_place *place) {
    if (!intact && !fits(c, e)) return CHAIN_REFUSED;
    if (!c->begun) return begin(a, c, e, partial, place);
    uint64_t last = c->row.last_seq;
    if (e->seq <= last) return again(a, c, e, place);
    const struct chain_link *parent = find(c, last, e->prev);
    if (e->seq > last + 1)
        chain_say(a, c, place, false, "missing", c->row.next,
                  "entries %" PRIu64 " to %" PRIu64 " are missing: records %" PRId64
                  " up to %" PRId64 " have no outcome",
                  last + 1, e->seq - 1, c->row.next, e->first);
    else if (!parent)
        chain_say(a, c, place, false, "chain-broken", e->first,
                  "entry %" PRIu64 " does not name the hash of the entry before it", e->seq);
    else if (!follows(c, parent, e))
        chain_say(a, c, place, false, parent->next < joint(e) ? "gap" : "overlap", parent->next,
                  "entry %" PRIu64 " begins at %" PRId64 ", the one before it ends at %" PRId64,
                  e->seq, joint(e), parent->next);
    push(c, e);
    return CHAIN_NEW;
}

static struct chain_key *key_named(struct chain *c, const char *id) {
    for (size_t i = 0; i < c->n_keys; i++)
        if (strcmp(c->keys[i].pub.id, id) == 0) return &c->keys[i];
    return NULL;
}

/* Takes the statement in, once the entry that carries it is known to be the new key's. */
static void rotate(struct audit *a, struct chain *c, const struct ledger_entry *e,
                   const struct ledger_pubkey *next, const struct ledger_place *place) {
    struct chain_key *old = key_named(c, e->rotate_from);
    const char *wrong = NULL;
    if (!old)
        wrong = "the key that signs the statement is not known";
    else if (!ledger_pubkey_check_rotation(&old->pub, next->raw, e->rotate_sig))
        wrong = "the statement's signature is wrong";
    else if (!key_named(c, next->id) && old->retired)
        wrong = "the key that signs the statement was itself replaced";
    else if (!key_named(c, next->id) && c->n_keys == CHAIN_KEYS_MAX)
        wrong = "there are too many";
    if (wrong) {
        chain_say(a, c, place, false, "rotation-refused", e->first,
                  "key %s names %s as its successor: %s", e->rotate_from, next->id, wrong);
        return;
    }
    old->retired = true;
    if (!key_named(c, next->id)) c->keys[c->n_keys++] = (struct chain_key){.pub = *next};
    chain_say(a, c, place, true, "rotated", e->first, "key %s is replaced by %s", e->rotate_from,
              next->id);
}

static void check_signed(struct audit *a, struct chain *c, const struct ledger_entry *e,
                         const struct ledger_place *place) {
    struct ledger_pubkey next;
    if (e->rotates) {
        ledger_pubkey_from_raw(e->rotate_to, &next);
        const struct chain_key *known = key_named(c, next.id);
        if (strcmp(next.id, e->key) == 0 &&
            ledger_pubkey_check(&next, e->hash, SHA256_LEN, e->sig) &&
            !(known && key_named(c, e->rotate_from) && key_named(c, e->rotate_from)->retired))
            rotate(a, c, e, &next, place);
    }
    struct chain_key *key = key_named(c, e->key);
    if (!key) {
        chain_say(a, c, place, false, "unknown-key", e->first,
                  "entry %" PRIu64 " is signed by key %s, which is not among those given", e->seq,
                  e->key);
    } else if (!ledger_pubkey_check(&key->pub, e->hash, SHA256_LEN, e->sig)) {
        chain_say(a, c, place, false, "bad-signature", e->first,
                  "entry %" PRIu64 "'s signature is not key %s's", e->seq, e->key);
    } else if (key->retired) {
        if (c->retired_tail++ == 0) c->retired_first = e->first;
    } else {
        c->retired_tail = 0; /* the chain below a current key's signature is vouched for by it */
    }
}

void chain_check_signature(struct audit *a, struct chain *c, const struct ledger_entry *e,
                           const struct ledger_place *place) {
    if (e->is_signed) {
        c->row.signed_entries++;
        if (c->n_keys) check_signed(a, c, e, place);
    } else if (c->row.signed_entries && c->n_keys) {
        chain_say(a, c, place, false, "unsigned", e->first,
                  "entry %" PRIu64 " is not signed, and entries before it are", e->seq);
    } else {
        c->unsigned_prefix++;
    }
}

static void finish_signatures(struct audit *a, struct chain *c) {
    if (!c->n_keys || !c->begun) return;
    if (!c->row.signed_entries)
        chain_say(a, c, NULL, false, "unsigned", c->row.first, "no entry is signed");
    else if (c->unsigned_prefix)
        chain_say(a, c, NULL, true, "unsigned-beginning", c->row.first,
                  "the first %" PRIu64
                  " entries are not signed; the signed ones behind them vouch for them",
                  c->unsigned_prefix);
    if (c->retired_tail)
        chain_say(a, c, NULL, false, "retired-key", c->retired_first,
                  "the last %" PRIu64 " entries are signed by a key that was replaced before",
                  c->retired_tail);
}

void chain_finish(struct audit *a, struct chain *c, const struct audit_options *opts) {
    const struct audit_row *row = &c->row;
    finish_signatures(a, c);
    if (!c->expected || opts->unfinished || (opts->partial && !c->begun)) return;
    int64_t end = c->begun ? row->next : 0;
    if (!row->has_meta) {
        if (row->committed > end)
            chain_say(a, c, NULL, false, "truncated", end,
                      "the ledger ends at %" PRId64 ", the group's committed offset is %" PRId64
                      " (with metadata that is not runsink's)",
                      end, row->committed);
    } else if (row->meta_seq == 0 || c->head_found) {
        return;
    } else if (!c->begun) {
        chain_say(a, c, NULL, false, "truncated", 0,
                  "the ledger has no entry, the group has settled %" PRIu64 " up to %" PRId64,
                  row->meta_seq, row->committed);
    } else if (row->last_seq + 1 < row->meta_seq) {
        chain_say(a, c, NULL, false, "truncated", end,
                  "the ledger ends behind %" PRIu64 " entries at %" PRId64
                  ", the group has settled %" PRIu64 " up to %" PRId64,
                  row->last_seq + 1, end, row->meta_seq, row->committed);
    } else if (row->entries) {
        chain_say(a, c, NULL, false, "head-differs", row->committed,
                  "entry %" PRIu64
                  " is not the one whose hash is in the group's committed metadata",
                  row->meta_seq - 1);
    }
}
