/* What `runsink replay` may send again: the deliveries of one source topic that the ledger tells
 * of, each with the records that travelled in it, and the chain of entries that replays write.
 * Pure; one thread. */
#ifndef RUNSINK_REPLAY_PLAN_H
#define RUNSINK_REPLAY_PLAN_H

#include "worker/base/table.h"
#include "worker/ledger/entry.h"

/* More than these have to be chosen from in parts: some 250 MB. */
#define REPLAY_ITEMS_MAX ((size_t)1000000)
#define REPLAY_RECORDS_MAX ((uint64_t)5000000)

enum replay_state {
    REPLAY_OPEN,      /* not looked at yet */
    REPLAY_OTHER,     /* not asked for, by what its records say */
    REPLAY_WAITS,     /* went again before, and has not been delivered since */
    REPLAY_OLD,       /* of a topic that was made anew */
    REPLAY_GONE,      /* Kafka no longer holds one of its records */
    REPLAY_DIFFERS,   /* its records would make another object or request now */
    REPLAY_THERE,     /* --only-missing: its store has it */
    REPLAY_UNKNOWN,   /* its store does not tell, */
    REPLAY_UNCHECKED, /* or nobody can: a request */
    REPLAY_CHOSEN,
    REPLAY_SENT
};
#define REPLAY_STATES (REPLAY_SENT + 1)

struct replay_row {
    const char *label;
    uint64_t items, records; /* chosen */
};

struct replay_item {
    struct table_node node;       /* by its first record */
    int32_t partition;            /* of the source topic, as are all offsets */
    struct ledger_range *members; /* ascending */
    size_t n_members;
    uint32_t count;
    struct replay_row *row; /* of its destination */
    const char *key;        /* NULL: a request */
    uint8_t sha256[SHA256_LEN];
    uint64_t size;
    int64_t settled_ms; /* its newest delivery */
    uint32_t deliveries, replays;
    enum replay_state state;
    bool batched; /* the key is not the one of an event's own object */
    bool gone;    /* --only-missing: what the store says of it is all that is asked */
    void **got; /* its records, as far as they were read; what they are is the caller's business */
    uint32_t n_got;
};

struct replay_filter {
    const char *destination; /* a pattern; NULL: any */
    int64_t from_ms, to_ms;  /* of the delivery; 0: any */
};

struct replay_plan {
    const char *source, *group;
    const struct replay_filter *filter;
    char chain[TOPIC_MAX + 1]; /* "<source>.replay", which is no topic */
    struct replay_item **items;
    size_t n;
    uint64_t records;
    struct replay_row **rows;
    size_t n_rows;
    struct table index, labels;
    struct arena arena;
    /* Where the chain of replays ends. */
    uint64_t seq;
    uint8_t head[SHA256_LEN];
    int64_t next;
    bool introduced; /* this process has written an entry */
};

/* What it is given is borrowed. */
void replay_plan_init(struct replay_plan *, const char *source, const char *group,
                      const struct replay_filter *);
void replay_plan_free(struct replay_plan *);
/* Takes a record of the ledger, in the order of time. False with a message in err. */
bool replay_plan_take(struct replay_plan *, struct str key, struct str value, struct buf *err);
/* After the last one: what went again before and waits, and what was delivered after the time that
 * is asked for, is not open any more. Sorted by partition and first record. */
void replay_plan_finish(struct replay_plan *);
/* The item that begins with this record; NULL: none. */
struct replay_item *replay_item_at(const struct replay_plan *, int32_t partition, int64_t offset);

/* The next entry of the chain: that these went again, to this retry topic. It goes on from there
 * with replay_plan_advance(), once it was committed. False past out's ceiling. */
bool replay_plan_encode(const struct replay_plan *, struct replay_item *const *, size_t n,
                        const char *tier, const struct ledger_maker *, int64_t now_ms,
                        const struct ledger_signer *, struct buf *out,
                        uint8_t ret_hash[SHA256_LEN]);
void replay_plan_advance(struct replay_plan *, struct replay_item *const *, size_t n,
                         const uint8_t hash[SHA256_LEN]);

#endif
