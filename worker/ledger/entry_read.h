/* Reading ledger entries back: the one strict parser of the form that entry.c writes and the
 * README specifies. Anything else (another member order, white space, an escape that the writer
 * would not have chosen, numbers with leading zeros) is refused, so that two readings of an entry
 * can't differ. Pure; any thread. What it returns borrows from the value or from the arena. */
#ifndef RUNSINK_ENTRY_READ_H
#define RUNSINK_ENTRY_READ_H

#include "worker/base/arena.h"
#include "worker/ledger/key.h"

struct ledger_range {
    int64_t a, z; /* inclusive */
};

struct ledger_origin {
    struct str topic;
    int32_t partition;
    struct ledger_range range;
};

/* The records that share an outcome: an object, a request, or a reason. */
struct ledger_group {
    enum ledger_kind kind;
    bool object;                               /* delivered: listed under "objects" */
    struct str to, key, why, who, tier, fault; /* empty: absent */
    int status;                                /* 0: absent */
    bool hashed;                               /* sha256 and size are present */
    uint8_t sha256[SHA256_LEN];
    uint64_t size;
    struct ledger_range *offsets; /* ascending, apart from one another */
    size_t n_offsets;
    struct ledger_origin *origins; /* in the offsets' order, as many numbers in all */
    size_t n_origins;              /* 0: a source topic's */
    uint64_t count;                /* records */
};

struct ledger_entry {
    struct str group; /* consumer group */
    uint64_t seq;
    struct str topic;
    int32_t partition;
    int64_t first, next;
    int64_t opened_ms, settled_ms;
    struct str version;
    uint8_t prev[SHA256_LEN];
    bool rotates; /* a rotation statement is present */
    char rotate_from[LEDGER_KEY_ID_LEN + 1];
    uint8_t rotate_to[LEDGER_PUB_LEN];
    uint8_t rotate_sig[LEDGER_SIG_LEN];
    bool anew;      /* the topic was made anew, and begins again at first: nothing else is said */
    int64_t before; /* with anew: where the entry before it ended */
    bool lost;      /* [first, next) was lost */
    struct ledger_group *groups;
    size_t n_groups;
    uint8_t hash[SHA256_LEN]; /* as it stands there, not recomputed */
    bool is_signed;
    uint8_t sig[LEDGER_SIG_LEN];
    char key[LEDGER_KEY_ID_LEN + 1];

    struct str canonical; /* what hash is over */
    struct str head;      /* of the canonical bytes, what stands before "opened" */
    struct str body;      /* of the canonical bytes, anew, lost and the outcomes */
};

struct ledger_read_error {
    size_t at;        /* byte of the value */
    const char *what; /* static phrase: what was expected there */
};

bool ledger_read(struct str value, struct arena *, struct ledger_entry *ret,
                 struct ledger_read_error *reterr);

/* "topic/partition", as ledger_record_key() writes it, with a legal topic name. */
bool ledger_read_key(struct str key, struct str *ret_topic, int32_t *ret_partition);
bool ledger_topic_legal(struct str);

#endif
