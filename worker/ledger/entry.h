/* The ledger (promise P9): one entry per settled window, hash-chained per partition and signed. The
 * README specifies the form to the byte. Lanes write entries; `verify`, `trace`, `redrive` and the
 * start of a group read them. Pure; any thread. */
#ifndef RUNSINK_ENTRY_H
#define RUNSINK_ENTRY_H

#include "worker/base/arena.h"
#include "worker/base/origin.h"
#include "worker/base/outcome.h"
#include "worker/ledger/key.h"

enum ledger_kind {
    LEDGER_DELIVERED,
    LEDGER_SKIPPED,
    LEDGER_PARKED,
    LEDGER_DEAD,
    LEDGER_REDRIVEN,  /* a dead letter that went back */
    LEDGER_DISCARDED, /* a dead letter that an operator closed */
    LEDGER_REPLAYED   /* one that was delivered, and goes again */
};
#define LEDGER_KINDS 7
/* Replays of a source topic have a chain of their own, of this topic and partition 0. There is no
 * such topic: its offsets number the records that were replayed. */
#define LEDGER_REPLAYS ".replay"
const char *ledger_kind_name(enum ledger_kind); /* "delivered", ...: the entry's member names */

/* One object, one request, or one reason: the records that share an outcome. Borrowed for the call.
 * No text in it may hold a secret; texts are escaped here. */
struct ledger_item {
    enum ledger_kind kind;
    const char *dest;       /* redacted label; NULL: none (skipped, undecodable) */
    const char *key;        /* delivered objects; NULL: none */
    int status;             /* delivered: HTTP status; 0 none */
    const uint8_t *sha256;  /* delivered: of the bytes as sent */
    uint64_t size;          /* delivered: how many */
    const char *why;        /* skipped, parked, dead; discarded: the operator's text */
    const char *who;        /* discarded: the operator; NULL otherwise */
    enum fault fault;       /* dead */
    const char *tier;       /* parked, redriven, replayed: the retry topic's delay, "10s" */
    const int64_t *offsets; /* in the window's partition, ascending */
    size_t n;
    const struct origin *origins; /* one per offset, but NULL for a source topic's */
};

/* What tells where an entry comes from, and by which rules its outcomes were decided. */
#define LEDGER_RULES_LEN 8
struct ledger_maker {
    const char *cluster; /* Kafka's id of it; empty where the broker tells none */
    const uint8_t *rules;
};

/* The newest record that a window saw. A topic that was deleted and made anew, or that of another
 * cluster, has another record there, or none. Nothing here is made of what the value holds: guesses
 * of a secret in it could be tried against a digest. */
struct ledger_last {
    int64_t offset;
    int64_t timestamp_ms; /* Kafka's; -1: it has none */
    uint32_t bytes;       /* of its value; null is as empty */
};
/* Whether a record is that one. */
bool ledger_last_is(const struct ledger_last *, int64_t offset, int64_t timestamp_ms, size_t bytes);

struct ledger_window {
    const struct ledger_maker *maker; /* NULL: form 1, which has neither that nor last */
    const struct ledger_last *last;   /* NULL: no record was seen */
    const char *group; /* consumer group: several may read one topic, each with chains of its own */
    const char *topic;
    int32_t partition;
    int64_t first, next;
    uint64_t seq;                  /* 0 for the chain's first entry */
    uint8_t prev[SHA256_LEN];      /* zeros for the chain's first entry */
    int64_t opened_ms, settled_ms; /* wall clock */
    bool lost; /* the whole window is records that retention took before they were read: no items */
    bool anew; /* the topic was made anew: an empty window, first is where it begins again */
    int64_t before; /* with anew: next of the entry before, an offset of the topic that is gone */
    bool introduce; /* the first entry that this owner writes for the partition: it carries the key
                       rotation statement, when there is one (repeating it does no harm) */
    const struct ledger_item *items; /* any order: grouped by kind and destination; those that are
                                        not delivered, share every text and don't interleave are
                                        merged */
    size_t n_items;
};

/* Appends the entry's bytes (the Kafka record's value) to out and returns its hash, the next
 * entry's prev. False past out's ceiling. */
bool ledger_encode(const struct ledger_window *, const struct ledger_signer *, struct buf *out,
                   uint8_t ret_hash[SHA256_LEN]);
/* Upper bounds, bytes, of an entry without items and of what an item adds to it: windows are sealed
 * before an entry outgrows a Kafka message. */
#define LEDGER_ENTRY_MAX_EMPTY 3072
size_t ledger_item_size(const struct ledger_item *);
/* Key of the Kafka record: "topic/partition". */
void ledger_record_key(char *ret, size_t size, const char *topic, int32_t partition);

/* ---- reading ---- */

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
    int form;       /* 1 or 2; of form 2 alone: */
    struct str cluster; /* empty: the broker told none */
    uint8_t rules[LEDGER_RULES_LEN];
    bool has_last;
    struct ledger_last last;
    bool has_root; /* reserved: its form alone is checked */
    uint8_t root[SHA256_LEN];
    struct ledger_group *groups;
    size_t n_groups;
    uint8_t hash[SHA256_LEN]; /* as it stands there, not recomputed */
    bool is_signed;
    uint8_t sig[LEDGER_SIG_LEN];
    char key[LEDGER_KEY_ID_LEN + 1];

    struct str canonical; /* what hash is over */
    /* Of the canonical bytes, what both forms have and a repeated entry says again: */
    struct str head; /* from "seq" up to "opened" */
    struct str body; /* anew, lost and the outcomes */
};

struct ledger_read_error {
    size_t at;        /* byte of the value */
    const char *what; /* static phrase: what was expected there */
};

/* The one strict parser of the form that ledger_encode() writes and the README specifies. Anything
 * else (another member order, white space, an escape that the writer would not have chosen, numbers
 * with leading zeros) is refused, so that two readings of an entry can't differ. What it returns
 * borrows from the value or from the arena. */
bool ledger_read(struct str value, struct arena *, struct ledger_entry *ret,
                 struct ledger_read_error *reterr);

/* "topic/partition", as ledger_record_key() writes it, with a legal topic name. */
bool ledger_read_key(struct str key, struct str *ret_topic, int32_t *ret_partition);
bool ledger_topic_legal(struct str);

#endif
