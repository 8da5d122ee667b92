/* Which dead letters go back, or are discarded: what a letter is, what the options select, and the
 * count that is shown before anything is sent. Pure; one thread. */
#ifndef RUNSINK_REDRIVE_PLAN_H
#define RUNSINK_REDRIVE_PLAN_H

#include "worker/tools/redrive_chain.h"

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
/* A star stands for any text; one behind a backslash, and a backslash behind one, for itself. */
bool glob_matches(const char *pattern, const char *text);

/* Batches whose members come one by one, until each is whole. */
struct gathering {
    uint64_t hash;
    char *id;
    uint32_t count, n; /* members expected, come */
    uint64_t matched;  /* of them, by the filter */
    struct letter first;
    struct spans offsets;
    void **members; /* as they came; what they are is the caller's business */
    struct gathering *next;
};
struct gatherings {
    struct gathering **buckets;
    size_t n, cap;
};
/* The letter's batch, a fresh one when it is the first. */
struct gathering *gather(struct gatherings *, const struct letter *);
void gather_drop(struct gatherings *, struct gathering *);
void gatherings_free(struct gatherings *);
static inline bool letter_in_batch(const struct letter *l) {
    return l->past.batch_key[0] && l->past.batch_count > 1;
}

struct plan_row {
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
    struct plan_row *rows;
    size_t n_rows, cap_rows;
    uint32_t *index; /* of rows: open addressing, number + 1 */
    size_t cap_index;
    uint64_t other; /* selected, beyond PLAN_ROWS_MAX rows */
    /* Open ones that the filter does not select, for who mistyped it: the first reasons met. */
    struct plan_reason passed[PLAN_REASONS_MAX];
    size_t n_passed;
    uint64_t passed_by; /* all of them */
};
void plan_init(struct plan *, const int partitions[FAULTS], enum plan_way);
void plan_free(struct plan *);
void plan_take(struct plan *, const struct letter *, bool matches);
void plan_finish(struct plan *); /* sorts the rows, most first; batches still open stay behind */

#endif
