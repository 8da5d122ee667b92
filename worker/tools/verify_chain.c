#include "worker/tools/verify_chain.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void judge_report(struct judge *j, const struct finding *f) {
    if (!f->note) j->findings++;
    j->opts.report(j->opts.context, f);
}

/* Codes that are worth knowing, and no reason to fail. */
static const char notes[] = "repeated rotated unsigned-until made-anew";

void chain_say(struct judge *j, struct chain *c, const char *code, int64_t offset, const char *fmt,
               ...) {
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
    if (j->place) f.place = *j->place;
    if (!f.note) c->row.findings++;
    judge_report(j, &f);
}

uint64_t chain_until(const struct judge *j, const char *topic, int32_t partition) {
    for (size_t i = 0; i < j->opts.n_until; i++) {
        const struct audit_until *u = &j->opts.until[i];
        if (u->partition == partition && strcmp(u->topic, topic) == 0) return u->seq;
    }
    return 0;
}

void chain_open(struct judge *j, struct chain *c) {
    c->links = xcalloc(CHAIN_LINKS, sizeof *c->links);
    c->keys = xcalloc(CHAIN_KEYS_MAX, sizeof *c->keys);
    c->until = chain_until(j, c->topic, c->row.partition);
    for (; c->n_keys < j->opts.n_keys && c->n_keys < CHAIN_KEYS_MAX; c->n_keys++)
        c->keys[c->n_keys].pub = j->opts.keys[c->n_keys];
    if (c->kind == CHAIN_FOREIGN)
        chain_say(j, c, "foreign", -1,
                  "this topic is neither %s nor one of its retry and dead topics", j->opts.source);
}

void chain_free(struct chain *c) {
    spans_free(&c->seen);
    free(c->topic);
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
    *link = (struct chain_link){.seq = e->seq, .next = e->next};
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

static enum chain_answer begin(struct judge *j, struct chain *c, const struct ledger_entry *e) {
    if (e->seq > 0 && !j->opts.partial)
        chain_say(j, c, "begins-late", e->first,
                  "the first entry found is number %" PRIu64 ": those before it are missing",
                  e->seq);
    if (e->seq == 0 && !is_zero(e->prev))
        chain_say(j, c, "chain-broken", e->first,
                  "entry 0 names a previous entry, and there is none before it");
    if (e->seq == 0 && e->anew)
        chain_say(j, c, "chain-broken", e->first,
                  "entry 0 says that the topic was made anew, and nothing was before it");
    push_link(c, e);
    c->begun = true;
    c->row.first = e->first;
    return CHAIN_NEW;
}

/* An entry whose number was there before. */
static enum chain_answer again(struct judge *j, struct chain *c, const struct ledger_entry *e) {
    uint8_t same[SHA256_LEN];
    const struct chain_link *earlier = link_of(c, e->seq, NULL);
    if (!earlier) {
        chain_say(j, c, "out-of-order", e->first, "entry %" PRIu64 " stands after entry %" PRIu64,
                  e->seq, c->row.last_seq);
        return CHAIN_REFUSED;
    }
    if (link_of(c, e->seq, e->hash)) {
        chain_say(j, c, "repeated", e->first, "entry %" PRIu64 " is repeated as it was", e->seq);
        c->row.repeats++;
        return CHAIN_REPEAT;
    }
    digest_same(e, same);
    bool equal = memcmp(same, earlier->same, SHA256_LEN) == 0;
    push_link(c, e); /* the chain may go on from either */
    if (equal) {
        chain_say(j, c, "repeated", e->first,
                  "entry %" PRIu64 " is repeated with the same outcomes and other times", e->seq);
        c->row.repeats++;
        return CHAIN_REPEAT;
    }
    chain_say(j, c, "altered", e->first, "there are two entries %" PRIu64 " with different content",
              e->seq);
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

enum chain_answer chain_add(struct judge *j, struct chain *c, const struct ledger_entry *e,
                            bool intact) {
    if (!intact && !fits(c, e)) return CHAIN_REFUSED;
    if (!c->begun) return begin(j, c, e);
    uint64_t last = c->row.last_seq;
    if (e->seq <= last) return again(j, c, e);
    const struct chain_link *parent = link_of(c, last, e->prev);
    if (e->seq > last + 1)
        chain_say(j, c, "missing", c->row.next,
                  "entries %" PRIu64 " to %" PRIu64 " are missing: records %" PRId64
                  " up to %" PRId64 " have no outcome",
                  last + 1, e->seq - 1, c->row.next, e->first);
    else if (!parent)
        chain_say(j, c, "chain-broken", e->first,
                  "entry %" PRIu64 " does not name the hash of the entry before it", e->seq);
    else if (!follows(c, parent, e))
        chain_say(j, c, parent->next < joint(e) ? "gap" : "overlap", parent->next,
                  "entry %" PRIu64 " begins at %" PRId64 ", the one before it ends at %" PRId64,
                  e->seq, joint(e), parent->next);
    push_link(c, e);
    return CHAIN_NEW;
}

/* ---- signatures ---- */

static struct chain_key *key_named(struct chain *c, const char *id) {
    for (size_t i = 0; i < c->n_keys; i++)
        if (strcmp(c->keys[i].pub.id, id) == 0) return &c->keys[i];
    return NULL;
}

/* Takes the statement in, once the entry that carries it is known to be the new key's. */
static void rotate(struct judge *j, struct chain *c, const struct ledger_entry *e,
                   const struct ledger_pubkey *next) {
    struct chain_key *old = key_named(c, e->rotate_from);
    const char *wrong = NULL;
    if (!old)
        wrong = "the key that signs the statement is not known";
    else if (!ledger_pubkey_check_rotation(&old->pub, next->raw, e->rotate_sig))
        wrong = "the statement's signature is wrong";
    else if (!key_named(c, next->id) && old->retired)
        wrong = "the key that signs the statement was itself replaced";
    else if (!key_named(c, next->id) && c->n_keys == CHAIN_KEYS_MAX)
        wrong = "the chain has too many keys";
    if (wrong) {
        chain_say(j, c, "rotation-refused", e->first, "key %s names %s as its successor: %s",
                  e->rotate_from, next->id, wrong);
        return;
    }
    old->retired = true;
    if (!key_named(c, next->id)) c->keys[c->n_keys++] = (struct chain_key){.pub = *next};
    chain_say(j, c, "rotated", e->first, "key %s is replaced by %s", e->rotate_from, next->id);
}

/* Whether a key that is given vouches for the entry, by what it says alone. */
static bool check_signed(struct judge *j, struct chain *c, const struct ledger_entry *e) {
    struct ledger_pubkey next;
    if (e->rotates) {
        ledger_pubkey_from_raw(e->rotate_to, &next);
        const struct chain_key *known = key_named(c, next.id);
        if (strcmp(next.id, e->key) == 0 &&
            ledger_pubkey_check(&next, e->hash, SHA256_LEN, e->sig) &&
            !(known && key_named(c, e->rotate_from) && key_named(c, e->rotate_from)->retired))
            rotate(j, c, e, &next);
    }
    struct chain_key *key = key_named(c, e->key);
    if (!key) {
        chain_say(j, c, "unknown-key", e->first,
                  "entry %" PRIu64 " is signed by key %s, which is not among those given", e->seq,
                  e->key);
        return false;
    } else if (!ledger_pubkey_check(&key->pub, e->hash, SHA256_LEN, e->sig)) {
        chain_say(j, c, "bad-signature", e->first, "entry %" PRIu64 "'s signature is not key %s's",
                  e->seq, e->key);
        return false;
    } else if (key->retired) {
        if (c->retired_tail++ == 0) c->retired_first = e->first;
    } else {
        c->retired_tail = 0; /* the chain below a current key's signature is vouched for by it */
    }
    return true;
}

bool chain_check_signature(struct judge *j, struct chain *c, const struct ledger_entry *e) {
    if (e->is_signed) {
        if (c->row.signed_entries++ == 0) c->signed_from = e->seq;
        return !c->n_keys || check_signed(j, c, e);
    } else if (c->row.signed_entries && c->n_keys) {
        chain_say(j, c, "unsigned", e->first,
                  "entry %" PRIu64 " is not signed, and entries before it are", e->seq);
    } else if (c->until && e->seq >= c->until && c->n_keys) {
        chain_say(j, c, "unsigned", e->first,
                  "entry %" PRIu64 " is not signed, and signing began with entry %" PRIu64, e->seq,
                  c->until);
    } else {
        c->unsigned_prefix++;
    }
    return !c->n_keys || (c->until && e->seq < c->until);
}

/* Whoever can write to Kafka can make such a beginning without a key, and the worker goes on from
 * it. So it counts only where the auditor knows of it. */
static void finish_beginning(struct judge *j, struct chain *c) {
    uint64_t n = c->unsigned_prefix, begun = c->row.last_seq + 1;
    if (c->until && (c->row.signed_entries ? n > 0 : c->until == begun))
        chain_say(j, c, "unsigned-until", c->row.first,
                  "%" PRIu64 " entries are not signed: signing began with entry %" PRIu64
                  ", so --unsigned-until says",
                  n, c->until);
    else if (!c->row.signed_entries)
        chain_say(j, c, "unsigned", c->row.first, "no entry is signed");
    else if (n)
        chain_say(j, c, "unsigned-beginning", c->row.first,
                  "the first %" PRIu64
                  " entries are not signed, and anybody could have written them; did signing begin "
                  "after them (--unsigned-until %s/%d@%" PRIu64 ")?",
                  n, c->topic, (int)c->row.partition, c->signed_from);
}

static void finish_signatures(struct judge *j, struct chain *c) {
    if (!c->n_keys || !c->begun) return;
    finish_beginning(j, c);
    if (c->retired_tail)
        chain_say(j, c, "retired-key", c->retired_first,
                  "the last %" PRIu64 " entries are signed by a key that was replaced before",
                  c->retired_tail);
}

/* ---- the end ---- */

/* Each entry is settled with the offset and the metadata that count it. Of dead topics, which no
 * member of the group reads, the broker forgets these after a time. */
bool chain_is_ahead(const struct chain *c) {
    return c->begun && c->known_now && c->kind != CHAIN_DEAD && c->row.last_seq >= c->seq_now;
}

/* The end of a chain is where the group says. */
static void finish_committed(struct judge *j, struct chain *c) {
    if (!chain_is_ahead(c)) return;
    if (!c->has_now)
        chain_say(j, c, "committed-missing", c->row.next,
                  "the group has committed %s of this partition, and the ledger has %" PRIu64
                  " entries of it: where they end can't be known",
                  c->row.committed < 0 ? "nothing" : "no metadata of runsink's",
                  c->row.last_seq + 1);
    else
        chain_say(j, c, "committed-older", c->row.next,
                  "the group has committed %" PRIu64 " entries, and the ledger has %" PRIu64
                  ": the committed state was put back, or entries were added",
                  c->seq_now, c->row.last_seq + 1);
}

void chain_finish(struct judge *j, struct chain *c) {
    const struct audit_row *row = &c->row;
    finish_signatures(j, c);
    finish_committed(j, c);
    if (!c->expected || j->opts.unfinished || (j->opts.partial && !c->begun)) return;
    int64_t end = c->begun ? row->next : 0;
    if (!row->has_meta) {
        if (row->committed > end)
            chain_say(j, c, "truncated", end,
                      "the ledger ends at %" PRId64 ", the group's committed offset is %" PRId64
                      " (with metadata that is not runsink's)",
                      end, row->committed);
    } else if (row->meta_seq == 0 || c->head_found) {
        return;
    } else if (!c->begun) {
        chain_say(j, c, "truncated", 0,
                  "the ledger has no entry, the group has settled %" PRIu64 " up to %" PRId64,
                  row->meta_seq, row->committed);
    } else if (row->last_seq + 1 < row->meta_seq) {
        chain_say(j, c, "truncated", end,
                  "the ledger ends after %" PRIu64 " entries at %" PRId64
                  ", the group has settled %" PRIu64 " up to %" PRId64,
                  row->last_seq + 1, end, row->meta_seq, row->committed);
    } else if (row->entries) {
        chain_say(j, c, "head-differs", row->committed,
                  "entry %" PRIu64
                  " is not the one whose hash is in the group's committed metadata",
                  row->meta_seq - 1);
    }
}
