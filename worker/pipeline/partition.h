/* One partition that a lane has: where it stands, what was read of it and is not taken yet, and its
 * windows. Lane's thread. */
#ifndef RUNSINK_PARTITION_H
#define RUNSINK_PARTITION_H

#include "worker/kafka/consumer.h"
#include "worker/kafka/meta.h"
#include "worker/kafka/retry.h"
#include "worker/pipeline/broker_clock.h"
#include "worker/pipeline/poison.h"
#include "worker/pipeline/window.h"

enum partition_kind { PARTITION_SOURCE, PARTITION_RETRY };

/* recall.c: whether the ledger has to be asked for the partition's chain. */
enum recall_state { RECALL_NONE, RECALL_WANTED, RECALL_ASKED };

/* proof.c: whether the chain goes on from an entry of ours. */
enum proof_state { PROOF_NONE, PROOF_WANTED, PROOF_ASKED, PROOF_GOOD, PROOF_BAD };

struct partition {
    char topic[TOPIC_MAX + 1];
    char base[TOPIC_MAX + 1]; /* the source topic it belongs to */
    int32_t id;
    enum partition_kind kind;
    bool leftover;   /* a retry topic whose delay is not configured any more */
    uint64_t serial; /* of this assignment: a result for another one is only counted */
    struct feed *feed;
    bool loaded; /* committed offset and metadata are known */
    bool asking; /* the broker is asked for its offset */
    int64_t asked_ms;
    bool begins;      /* nothing is committed: it starts with the first record there is */
    bool fresh;       /* nothing was when it came, nor was a record taken since something is */
    int64_t came_ms;  /* when it was assigned, monotonic */
    bool claim_alone; /* its source can't be settled; its claim is given back all the same */
    bool left;        /* what was open is given up: it is the next owner's, or gone */
    int64_t seek_ms;  /* when to try the position again; 0: no need */
    bool pin; /* where it begins is to be durable before it is read: it is new, or its topic */
    int64_t before; /* was made anew, and this is where the old one's chain ends; -1: it has none */
    enum recall_state recall;
    enum proof_state proof;
    bool proof_far;               /* it is not near the ledger's end */
    int64_t proof_next, proof_ms; /* where that entry ends; since when it is wanted */
    /* careful.c */
    struct claim want;   /* what the metadata is to say of who reads */
    bool asked, claimed; /* the claim is decided; is durable, so that reading may begin */
    bool calm;           /* the end was reached before anything was read */
    enum caution caution;
    struct claim suspect; /* what was alone in work when the last reader died */
    int64_t zone;         /* records to be settled until all is well, */
    int64_t zone_end;     /* or an offset up to which */
    int64_t special;      /* the next offset that is not taken as others are */
    int64_t tried_ms, silent_ms;
    struct windows windows;
    struct meta meta;
    int64_t committed;
    int64_t opened_ms; /* Kafka's timestamp of the first record of the newest window; 0: none yet */
    /* Since when it is known not to be loaded; 0: it is. */
    int64_t unloaded_ms;
    int64_t replay_end;                /* the last end an earlier owner declared */
    bool introduced;                   /* this owner has written a ledger entry */
    uint64_t anchored;                 /* how many of its entries this owner's anchors cover */
    int64_t head_due_ms;               /* wall clock; 0: not known to wait */
    int64_t delay_ms;                  /* of a retry topic, by its name */
    int64_t filled_ms, filled_wall_ms; /* when the head was fetched, monotonic and wall clock */
    struct broker_clock broker;
    bool eof; /* the reader has reached the end of what is visible: */
    int64_t eof_at;
    int64_t held_ms, held_at; /* since when an open transaction has held that end, monotonic; 0 */
    /* Since when it can't be read, with the error, and when that is tried again; since when the
     * committed offset has been beyond the end. Monotonic; 0: it is not so. */
    int64_t unreadable_ms, reread_ms, beyond_ms;
    int64_t astray_ms; /* when the broker said that it does not have the offset to be read */
    char error[160];
    int64_t high_seen; /* the highest end that a fetch told of, or -1; a lower one since: */
    bool shrunk;
    int64_t high_before; /* what it was before that */
    int64_t high_stale;  /* that of a topic that is gone, as long as no fetch told another one */
    bool durable;        /* something is committed. Gone without us: the topic was deleted. */
    int doubts;    /* answers in a row that nothing is committed, and one to come; 0: no doubt */
    bool doubting; /* it is asked for */
    bool vanished; /* it is so: nothing more is read, and what was read is settled together, with */
    int64_t anew_at; /* where the new topic begins; -1: not known yet */
    /* When the question was asked to which the last answer was that it is there. Nothing is settled
     * until this is later than unsure_ms, nor is a retry topic's first record beyond an end that
     * was reached taken until it is later than its fetch. */
    int64_t sure_ms, unsure_ms;
    bool at_first;
    int64_t end;      /* --until-end: the high watermark at start; -1: none */
    bool end_known;   /* with what an open transaction held back then */
    bool given_up;    /* it can't be reached now */
    int64_t short_ms; /* since when that end lies beyond the one that was reached; 0: it does not */
    struct partition *next;
};

/* The lane's partition of this serial, or NULL: it is not ours any more. */
struct partition *partition_find(const struct lane *, uint64_t serial);
struct partition *partition_named(const struct lane *, const char *topic, int32_t id);
/* "topic/partition" */
#define PARTITION_NAME_MAX (TOPIC_MAX + 16)
void partition_name(const struct partition *, char ret[PARTITION_NAME_MAX]);
/* It is not known yet whether its chain ends with an entry of ours (proof.c). */
static inline bool partition_unproven(const struct partition *p) {
    return p->proof == PROOF_WANTED || p->proof == PROOF_ASKED;
}
/* An entry is to say that its topic was made anew, and waits until that is known: it would not be
 * signed. */
static inline bool partition_begins_unproven(const struct partition *p) {
    return p->pin && p->before >= 0 && partition_unproven(p);
}
/* Whether its entries are signed, and its head for an anchor. */
static inline bool partition_signs(const struct partition *p) {
    return p->proof == PROOF_NONE || p->proof == PROOF_GOOD;
}
/* The offset that is read next. */
int64_t partition_at(const struct partition *);
/* Whether all that was read is taken, and the reader has reached the end of what is visible. */
bool partition_at_end(const struct partition *);

#endif
