/* Inside of verify_audit: one partition's chain of entries, its links and its signatures. */
#ifndef RUNSINK_VERIFY_CHAIN_H
#define RUNSINK_VERIFY_CHAIN_H

#include "worker/tools/verify_audit.h"
#include "worker/tools/verify_spans.h"

/* An entry is repeated, if at all, by a transaction that settled again: as far back as windows can
 * be in flight. */
#define CHAIN_LINKS META_ENDS_MAX
#define CHAIN_KEYS_MAX 64

enum chain_kind { CHAIN_SOURCE, CHAIN_RETRY, CHAIN_DEAD, CHAIN_FOREIGN };

struct chain_link {
    uint64_t seq;
    int64_t next;
    uint8_t hash[SHA256_LEN];
    uint8_t same[SHA256_LEN]; /* over all but the times, the version and the rotation statement */
};

struct chain_key {
    struct ledger_pubkey pub;
    bool retired; /* a rotation statement named its successor */
};

struct chain {
    struct audit_row row;
    char *topic; /* what row.topic points to */
    enum chain_kind kind;
    uint8_t tier; /* of a retry topic */
    bool begun;
    struct chain_link *links; /* ring of CHAIN_LINKS: the youngest is [(n_links - 1) % CHAIN_LINKS];
                                 NULL before the first entry */
    size_t n_links;           /* ever added */
    struct chain_key *keys;   /* CHAIN_KEYS_MAX */
    size_t n_keys;
    uint64_t unsigned_prefix; /* entries before the first signed one */
    uint64_t retired_tail;    /* entries by retired keys since the last by a current one */
    int64_t retired_first;    /* offset of the first of them */
    bool expected;            /* audit_expect() was called: row.committed, row.meta_* */
    bool head_found;          /* an entry has the hash that the committed metadata names */
    struct spans seen;
};

/* Reports, with the chain's topic and partition, and counts. place may be NULL. */
void chain_say(struct audit *, struct chain *, const struct ledger_place *, bool note,
               const char *code, int64_t offset, const char *fmt, ...)
    __attribute__((format(printf, 7, 8)));

enum chain_answer {
    CHAIN_NEW,     /* counts */
    CHAIN_REPEAT,  /* says what an earlier one said */
    CHAIN_REFUSED, /* has no place in the chain: reported */
};
/* intact: the hash is right. One that is not is taken only where it fits. */
enum chain_answer chain_add(struct audit *, struct chain *, const struct ledger_entry *,
                            bool intact, bool partial, const struct ledger_place *);
void chain_check_signature(struct audit *, struct chain *, const struct ledger_entry *,
                           const struct ledger_place *);
void chain_finish(struct audit *, struct chain *, const struct audit_options *);

#endif
