/* The ledger (promise P9): one entry per settled window, hash-chained per partition and signed. The
 * README specifies the form to the byte. Building is pure; lane's thread. Keys are read once at
 * start. */
#ifndef RUNSINK_ENTRY_H
#define RUNSINK_ENTRY_H

#include "worker/base/hash.h"
#include "worker/base/origin.h"
#include "worker/base/outcome.h"

enum ledger_kind {
    LEDGER_DELIVERED,
    LEDGER_SKIPPED,
    LEDGER_PARKED,
    LEDGER_DEAD,
    LEDGER_REDRIVEN, /* a dead letter that went back */
    LEDGER_DISCARDED /* a dead letter that an operator closed */
};
#define LEDGER_KINDS 6
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
    const char *tier;       /* parked, redriven: the retry topic's delay, "10s" */
    const int64_t *offsets; /* in the window's partition, ascending */
    size_t n;
    const struct origin *origins; /* one per offset when the partition is a retry or dead topic's;
                                     NULL for a source topic */
};

struct ledger_window {
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

/* The private key. Constant once loaded: all lanes may share it. NULL stands for unsigned. */
struct ledger_signer;
/* NULL with a message for the operator in err. */
struct ledger_signer *ledger_signer_load(const char *pem_path, struct buf *err);
/* Key rotation: makes the old private key sign a statement that names the new public key, which
 * entries with introduce set will carry. A verifier that trusts the old key then trusts the new
 * one, and the old one no more. */
bool ledger_signer_rotate(struct ledger_signer *, const char *previous_pem_path, struct buf *err);
void ledger_signer_free(struct ledger_signer *);

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

#endif
