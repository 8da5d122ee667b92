/* One partition's chain of entries, as `runsink verify` judges it: its links, its signatures, and
 * where the group says that it ends. What the entries say of records is verify_audit.c's business.
 * Pure; one thread. */
#ifndef RUNSINK_VERIFY_CHAIN_H
#define RUNSINK_VERIFY_CHAIN_H

#include "worker/base/table.h"
#include "worker/tools/spans.h"
#include "worker/tools/verify_audit.h"

/* A key that is given, or named as the successor of one. */
struct known_key {
    struct ledger_pubkey pub;
    bool replaced; /* by the one with this id, as an entry says: */
    char successor[LEDGER_KEY_ID_LEN + 1];
    int64_t replaced_ms; /* when the first such entry was settled */
};
#define VERDICTS_KEYS_MAX 64

/* What all chains of an audit share: a key that was replaced in one chain is replaced in all. */
struct verdicts {
    struct audit_options opts;
    const struct ledger_place *place; /* of the entry at hand; NULL: the end */
    uint64_t findings;
    struct audit_rules rules[AUDIT_RULES_MAX];
    size_t n_rules;
    struct known_key keys[VERDICTS_KEYS_MAX];
    size_t n_keys; /* 0: signatures are not checked */
};

enum chain_kind { CHAIN_SOURCE, CHAIN_RETRY, CHAIN_DEAD, CHAIN_REPLAY, CHAIN_FOREIGN };

/* An entry is repeated, if at all, by a transaction that settled again: as far back as windows can
 * be in flight. */
#define CHAIN_LINKS META_ENDS_MAX

struct chain_link {
    uint64_t seq;
    int64_t next;
    int64_t settled_ms;
    uint8_t hash[SHA256_LEN];
    uint8_t same[SHA256_LEN]; /* over all that both forms have, but the times, the version and the
                                 rotation statement */
    bool has_last;
    struct ledger_last last;
};

/* What a key has signed in a chain. */
struct chain_key {
    bool used;
    uint64_t seq;       /* of the newest entry */
    int64_t first;      /* its window */
    int64_t settled_ms; /* and time */
    bool stated;        /* an entry of the chain carries the statement that the key was replaced: */
    uint64_t stated_seq;
};

struct chain {
    struct table_node node;
    uint32_t number; /* as they came */
    struct audit_row row;
    char *topic; /* what row.topic points to */
    enum chain_kind kind;
    uint64_t place; /* of a retry or dead topic: where its records lie */
    bool begun;
    uint64_t restarts;        /* how often it began again */
    struct chain_link *links; /* ring of CHAIN_LINKS: the youngest is [(n_links - 1) % CHAIN_LINKS];
                                 NULL before the first entry */
    size_t n_links;           /* ever added */
    struct chain_key *keys;   /* VERDICTS_KEYS_MAX, in the verdicts' order; NULL: as links */
    uint64_t until;           /* the entry with which signing began, as the auditor says */
    uint64_t unsigned_prefix; /* entries before the first signed one */
    uint64_t signed_from;     /* the first signed one's number */
    uint64_t vouched; /* so many of its entries are anchored by keys that were not replaced */
    bool expected;    /* audit_expect() was called: row.committed, row.meta_* */
    bool known_now, has_now; /* audit_now() was called; there is metadata of ours: */
    uint64_t seq_now;        /* entries that the group has committed by the end */
    bool head_found;         /* an entry has the hash that the committed metadata names */
    struct spans seen;
    char cluster[CLUSTER_MAX + 1]; /* of the newest entry that names one, at first the live one's */
    struct ledger_last *lasts;     /* what entries say of their newest records; offsets ascend */
    size_t n_lasts;
};
/* Reports, with the chain's topic and partition and the place of the entry at hand, and counts. */
__attribute__((format(printf, 5, 6))) void chain_say(struct verdicts *, struct chain *,
                                                     const char *code, int64_t offset,
                                                     const char *fmt, ...);
void verdicts_report(struct verdicts *, const struct finding *);

void verdicts_begin(struct verdicts *, const struct audit_options *);
/* Of those known and not replaced. */
bool verdicts_trusts(const struct verdicts *, const char *key_id);
/* Takes in the statement of an intact entry, whose turn is yet to come, that a key was replaced. */
void verdicts_learn(struct verdicts *, const struct ledger_entry *);

/* The entry with which that partition's signing began, as options say; 0: with the first one. */
uint64_t chain_until(const struct verdicts *, const char *topic, int32_t partition);
/* Before its first entry. */
void chain_open(struct verdicts *, struct chain *);
void chain_free(struct chain *);
/* Whether a key that is given vouches for the entry. Without keys everything counts as vouched for.
 */
bool chain_check_signature(struct verdicts *, struct chain *, const struct ledger_entry *);
enum chain_answer {
    CHAIN_NEW,     /* counts */
    CHAIN_REPEAT,  /* says what an earlier one said */
    CHAIN_REFUSED, /* has no place in the chain: reported */
};
/* intact: the hash is right. One that is not is taken only where it fits. */
enum chain_answer chain_add(struct verdicts *, struct chain *, const struct ledger_entry *,
                            bool intact);
/* What an entry that counts says of cluster, rules and its newest record. */
void chain_take_origin(struct verdicts *, struct chain *, const struct ledger_entry *);
/* What an entry says of this record, its newest then; NULL: none that was kept. */
const struct ledger_last *chain_last(const struct chain *, int64_t offset);
/* What was said of records is not of this topic. */
void chain_forget_lasts(struct chain *);
/* It has entries that the group has not committed: see audit_now(). */
bool chain_is_ahead(const struct chain *);
void chain_finish(struct verdicts *, struct chain *);

#endif
