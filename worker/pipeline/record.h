/* A record: a message that was taken into a window, with its outcome. It keeps the Kafka message
 * until its outcome no longer needs the bytes: delivered and skipped let go at once, parked and
 * dead keep them until they are settled. Its window owns it. Lane's thread. */
#ifndef RUNSINK_RECORD_H
#define RUNSINK_RECORD_H

#include "worker/event/jobrun.h"
#include "worker/kafka/fetched.h"
#include "worker/kafka/retry.h"

struct delivery;
struct destination;
struct notice;
struct window;

enum record_state { RECORD_OPEN, RECORD_DELIVERED, RECORD_SKIPPED, RECORD_PARKED, RECORD_DEAD };

struct record {
    struct window *window;
    int64_t offset;         /* in the partition it was read from */
    int32_t from_partition; /* origin: the same as offset for a source topic */
    int64_t from_offset;
    int64_t timestamp_ms;            /* of the original record */
    uint32_t bytes;                  /* that count against the budget */
    struct fetched *message;         /* NULL once let go */
    struct delivery *delivery;       /* NULL: none, the outcome is the record's own */
    struct payload payload;          /* borrows from message */
    const struct progress *progress; /* of its delivery, or what its retry topic told; not NULL */
    const struct outcome *outcome;   /* of its delivery, or its own; NULL while it is open */
    uint64_t workspace;              /* keyed hash of its id; 0: not known */
    uint32_t batch_index;
    const struct notice *notice; /* what the platform is told of it; NULL: nothing */
    bool told;                   /* and was told before of its failure or death */
    bool marked;  /* its topic refuses it: a marker stands for it in the dead letter */
    bool foreign; /* another group parked it: none of our business, and not in our ledger */
    bool held;    /* hold.* names its workspace or destination */
    uint8_t sink; /* its slot in the counters; 0: not known */
    enum record_state state;
    struct record *next;
};

/* Gives a record its outcome, which is kept until the window is settled. */
void record_end(struct window *, struct record *, enum record_state, const struct outcome *);
/* What its delivery has shown of a destination, for the platform: it fails, or works again. */
const struct notice *record_news(struct window *, const struct record *, struct destination *,
                                 bool failing);
/* Makes its notice anew: its outcome has become another one. */
void record_tell(struct window *, struct record *);
/* The id of a record's workspace, for people: one line of printable ASCII, cut; empty where it
 * can't be told. *ret_exact: it is just this, of an event that can be decoded. */
#define WORKSPACE_SHOWN 256
void record_workspace(const struct window *, const struct record *, char ret[WORKSPACE_SHOWN],
                      bool *ret_exact);
/* Judges anew whether hold.* names it, for a destination of this label: reads it once more. */
void record_judge_hold(const struct window *, struct record *, const char *label);
/* Whether it is for that alone that it has this outcome: nothing is wrong. */
bool record_is_held(const struct record *, const struct outcome *);
/* The one line that tells of a dead letter, at warn (of one that is held, at debug), or of a record
 * that is delivered or parked, at debug, alone or with the others of its delivery: members. */
void record_log(const struct window *, const struct record *, enum record_state, uint32_t members,
                const struct outcome *);

#endif
