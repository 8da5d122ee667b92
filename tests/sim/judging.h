/* What the judges share: judge.h has what others ask of them. Nothing of it knows the pipeline.
 *
 *     judge.c          the end, and --until-end
 *     judge_chain.c    what is committed
 *     judge_body.c     bytes
 *     judge_object.c   objects and posts
 *     judge_attempt.c  requests and their times
 *     judge_limits.c   what a lane holds
 *     judge_ledger.c   the ledger
 *     judge_anchor.c   its anchors
 *     judge_letter.c   parked and dead records
 *     judge_notice.c   what the platform is told
 *     judge_event.c    what became of each event */
#ifndef RUNSINK_SIM_JUDGING_H
#define RUNSINK_SIM_JUDGING_H

#include <openssl/sha.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tests/sim/broker.h"
#include "tests/sim/events.h"
#include "worker/base/buf.h"

#define HASH_HEX (2 * SHA256_DIGEST_LENGTH)

#define GROW(list, n)                                                                              \
    do {                                                                                           \
        if (((n) & ((n)-1)) == 0) /* full at each power of two */                                  \
            (list) = xrealloc((list), ((n) ? 2 * (n) : 1) * sizeof *(list));                       \
    } while (0)

/* ---- what is committed ---- */

/* An offset that was committed, and the chain's head that its metadata named. */
struct commit {
    int64_t offset;
    uint64_t seq, era;
    char head[HASH_HEX + 1];
    bool busy;              /* somebody has it, or had; or ends of windows are named */
    uint64_t reader;        /* who has it; 0: nobody */
    int64_t alone, n_alone; /* the records from there on are alone in work, so many; 0: none are */
};

/* The end of an entry. */
struct link {
    int64_t next;
    char hash[HASH_HEX + 1];
};

/* Of one partition: what was committed, the ledger's entries, and which offsets they name. */
struct chain {
    char topic[64];
    int32_t partition;
    struct commit *commits;
    size_t n_commits;
    int64_t *ends; /* that the metadata has named */
    size_t n_ends;
    struct link *links;
    size_t n_links;
    uint64_t anchored; /* so many entries */
    int64_t first;     /* of the first entry */
    /* Of a topic that was made anew: what was committed before, whether entries were, and whether
     * one says that it begins again. */
    size_t n_old;
    bool old, begins_again;
    int era;          /* of the entry that is judged */
    int64_t *settled; /* by offset: when the entry was, that names it; 0: none does */
    int64_t n_settled;
};

struct chain *chain_of(const char *topic, int32_t partition);
bool chain_has_end(const struct chain *, int64_t end); /* the metadata has named it */
/* Each committed offset is where an entry ends. */
void chains_judge(void);

/* ---- bytes ---- */

bool ends_in(const char *text, const char *end);
void hex_of(struct str data, char ret[HASH_HEX + 1]);
struct str body_unpack(const char *key, struct str body); /* malloc's */
bool body_is_batch(const char *key);
typedef void body_line_fn(struct event *, struct str line, void *context);
void body_each_line(const char *key, struct str text, body_line_fn *, void *context);
void body_judge_line(const struct event *, struct str line, int place, const char *key);

struct batch_key {
    int topic;
    int32_t partition;
    int64_t first, next;
};
bool parse_batch_key(const char *key, struct batch_key *ret);
bool may_be_blamed(void);

/* ---- attempts ---- */

#define ROUNDING_US (2 * WORLD_MS)
int64_t scheduled(const struct event *);
bool is_exact(const struct event *);
int64_t window_end(const struct event *);

/* ---- the end ---- */

int source_index(const char *topic, size_t n); /* -1: it is none */
struct event *event_of(const char *topic, int32_t partition, int era, int64_t offset);
/* That a parked or dead record holds, or stands for. */
struct event *event_parked(const struct broker_record *);
/* A topic does not take its bytes. */
bool may_be_refused(const struct event *);
/* Each record of a topic that a consumer sees. */
typedef void record_fn(const char *topic, int32_t partition, const struct broker_record *);
record_fn note_entry, judge_entry, judge_parked, judge_letter;
record_fn judge_notice, judge_nameless;
void judge_anchored(const struct chain *);
void judge_event(const struct event *);
void judge_delay(const struct event *);
void judge_told(const struct event *);
void judge_ids(void);
void judge_deaths(void);

#endif
