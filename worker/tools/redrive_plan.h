/* Which dead letters go back, or are discarded: what a letter is, what the ledger says of it, what
 * the options select, and the count that is shown before anything is sent. Pure; one thread. */
#ifndef RUNSINK_REDRIVE_PLAN_H
#define RUNSINK_REDRIVE_PLAN_H

#include <sys/queue.h>

#include "worker/base/table.h"
#include "worker/kafka/retry.h"
#include "worker/ledger/anchor.h"
#include "worker/tools/spans.h"

/* A dead letter that can go back. */
struct letter {
    enum fault fault; /* of the topic it lies in */
    int32_t partition;
    int64_t offset;
    struct retry past; /* why: the reason */
};
/* From the record's headers; fault, partition and offset are left. False with a phrase (static) in
 * *reterr. */
bool letter_read(const struct message *, const char *source, struct letter *, const char **reterr);
/* Groups that read one source topic share its dead topics. */
bool letter_is_of(const struct letter *, const char *group);

/* What a source topic's ledger says of its dead letters: which of them went back, and where each
 * chain of such entries ends. A chain belongs to one partition of one dead topic, and only redrive
 * writes to it. */
struct chains;
/* group is kept, not copied. partitions: of the dead topics, by fault; 0: there is no such topic.
 */
struct chains *chains_new(const char *source, const char *group, const int partitions[FAULTS]);
void chains_free(struct chains *);

/* Takes a record of the ledger topic; entries of other chains than these are passed over. False
 * with a message in err when one of ours was altered or can't be read. */
bool chains_take(struct chains *, struct str key, struct str value, struct buf *err);
/* False with a message in err when entries are missing: what they sent back is not known. */
bool chains_whole(const struct chains *, struct buf *err);
enum letter_state { LETTER_OPEN, LETTER_REDRIVEN, LETTER_DISCARDED };
/* What entries say of this dead letter: whether it went back or was discarded. A dead topic that
 * was deleted and made anew begins with the old offsets, so the origin and the time of death are
 * compared too: an entry's "opened" is when the youngest of its letters died, by the same clock. */
enum letter_state chains_state(const struct chains *, const struct letter *);

/* The next entry of a chain, of the window that the items' offsets span. The chain goes on from it
 * with chains_advance(), once it was committed. False past out's ceiling. */
struct chain_times {
    int64_t died_ms; /* the youngest letter */
    int64_t now_ms;
};
/* What its entries say of the cluster and the rules; borrowed. NULL, as it is at first: form 1. */
void chains_made_by(struct chains *, const struct ledger_maker *);
bool chains_encode(const struct chains *, enum fault, int32_t partition,
                   const struct ledger_item *items, size_t n, struct chain_times,
                   const struct ledger_signer *, struct buf *out, uint8_t ret_hash[SHA256_LEN]);
void chains_advance(struct chains *, enum fault, int32_t partition, int64_t next,
                    const uint8_t hash[SHA256_LEN]);
/* Entries of the chain so far. */
uint64_t chains_entries(const struct chains *, enum fault, int32_t partition);
/* The heads of those that went on, in their order, but for the first so many; borrowed. */
size_t chains_heads(const struct chains *, size_t skip, struct anchor_head *ret, size_t most);

struct redrive_filter {
    enum fault fault;        /* FAULT_NONE: any */
    const char *reason;      /* NULL: any; so are all of these */
    const char *destination; /* a pattern for glob_matches() */
    const char *workspace, *id;
    int64_t from_ms, to_ms; /* of death; 0: any */
    int32_t partition;      /* of the dead topic; -1: any offset */
    int64_t first, last;
};
bool filter_matches(const struct redrive_filter *, const struct letter *, const struct message *);
/* "3:100-200", "3:100" */
bool filter_offsets(const char *text, struct redrive_filter *);

/* Batches whose members come one by one, until each is whole. */
struct gathering {
    struct table_node node;
    LIST_ENTRY(gathering) all;
    char *id;
    uint32_t count, n; /* members expected, come */
    uint64_t matched;  /* of them, by the filter */
    struct letter first;
    struct spans offsets;
    void **members; /* as they came; what they are is the caller's business */
};
struct gatherings {
    struct table index;
    LIST_HEAD(, gathering) all;
};
/* The letter's batch, a fresh one when it is the first. */
struct gathering *gather(struct gatherings *, const struct letter *);
void gather_drop(struct gatherings *, struct gathering *);
void gatherings_free(struct gatherings *);
static inline bool letter_in_batch(const struct letter *l) {
    return l->past.batch_key[0] && l->past.batch_count > 1;
}

struct plan_row {
    struct table_node node;
    enum fault fault;
    char reason[sizeof((struct retry *)0)->why];
    char destination[DESTINATION_MAX];
    uint64_t n;
};

#define PLAN_ROWS_MAX 10000
#define PLAN_REASONS_MAX 32

struct plan_reason {
    char name[sizeof((struct retry *)0)->why];
    uint64_t n;
};

enum plan_way {
    PLAN_ATTEMPTS, /* to the retry topic: batches whole */
    PLAN_ORIGIN,   /* to the source topic: batches that lack members go too, as single events */
    PLAN_DISCARD   /* nowhere: exactly what the filter selects */
};

struct plan {
    int partitions[FAULTS];
    struct spans *selected[FAULTS]; /* by partition */
    uint64_t n;                     /* selected */
    uint64_t along;                 /* of them, because of other members of their batch */
    uint64_t incomplete;            /* match, but their batch lacks members */
    uint64_t unreadable;            /* no letter of ours: see last_problem */
    uint64_t redriven;              /* went back before */
    uint64_t discarded;             /* were discarded before */
    uint64_t foreign;               /* another group's */
    uint64_t too_large;             /* for the topic where they would go */
    uint64_t markers;               /* stand for a value that Kafka refused: nothing to send */
    const char *last_problem;
    enum plan_way way;
    struct gatherings open;
    struct plan_row **rows;
    size_t n_rows;
    struct table index; /* of rows */
    uint64_t other;     /* selected, beyond PLAN_ROWS_MAX rows */
    /* Open ones that the filter does not select, for who mistyped it: the first reasons met. */
    struct plan_reason passed[PLAN_REASONS_MAX];
    size_t n_passed;
    uint64_t passed_by; /* all of them */
};
void plan_init(struct plan *, const int partitions[FAULTS], enum plan_way);
void plan_free(struct plan *);
/* What is told apart before: whose letters, and which can go. */
struct plan_rules {
    const char *source, *group;
    const struct chains *chains;
    const struct redrive_filter *filter;
    int64_t largest; /* bytes that the topic takes where letters go; 0: not known */
};
/* A record of the dead topics; the letter says where it lies. */
void plan_record(struct plan *, const struct plan_rules *, struct letter, const struct message *,
                 size_t key_len);
void plan_take(struct plan *, const struct letter *, bool matches);
/* Sorts the rows, most first. Batches that lack members are not sent. */
void plan_finish(struct plan *);

#endif
