/* Anchors: the heads of the ledger's chains at one time, signed, written to a bucket of the
 * operator's where they can't be changed. The README specifies form and names to the byte. This is
 * the form alone; anchor_store.c has the bucket, anchor_write.c the lane's part, verify_anchor.c
 * the judgement. Pure; any thread. */
#ifndef RUNSINK_ANCHOR_H
#define RUNSINK_ANCHOR_H

#include "worker/ledger/entry.h"

#define ANCHOR_HEADS_MAX 1000             /* the writer's */
#define ANCHOR_SIZE_MAX ((size_t)1 << 20) /* bytes of an anchor, the reader's too */

/* The newest entry of a partition's chain whose transaction has committed. */
struct anchor_head {
    struct str topic;
    int32_t partition;
    uint64_t seq;
    int64_t next; /* the entry's, and the committed offset */
    uint8_t hash[SHA256_LEN];
};

struct anchor {
    struct str group; /* consumer group */
    int64_t at_ms;    /* wall clock */
    struct str version;
    struct anchor_head *heads; /* ascending by topic (bytes) and partition */
    size_t n;
    uint8_t hash[SHA256_LEN]; /* over canonical; as it stands there, not recomputed */
    uint8_t sig[LEDGER_SIG_LEN];
    char key[LEDGER_KEY_ID_LEN + 1];
    struct str canonical;
};

/* Sorts the heads and appends the anchor's bytes; hash, sig, key, version and canonical are the
 * encoder's business. False past out's ceiling. */
bool anchor_encode(struct anchor *, const struct ledger_signer *, struct buf *out);
/* The one strict parser. What it returns borrows from the value or from the arena; it has at least
 * one head. The hash is not compared and the signature not checked. */
bool anchor_read(struct str value, struct arena *, struct anchor *ret,
                 struct ledger_read_error *reterr);

/* A key is the folder of the group and a name that sorts by time:
 *     <anchor.prefix><group>/2026/01/31/120000Z-0123456789abcdef.json
 * In the folder's name every character of the group but A-Za-z0-9_- is replaced by _. */
#define ANCHOR_NAME_LEN 40
bool anchor_folder(const char *prefix, const char *group, struct buf *out);
/* False for a time beyond the year 9999. */
bool anchor_name(int64_t at_ms, uint64_t random, char ret[ANCHOR_NAME_LEN + 1]);
bool anchor_name_legal(struct str);

#endif
