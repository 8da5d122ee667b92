/* A lane: one thread with one consumer, one transactional producer and one HTTP engine. Lanes share
 * nothing but what the main thread gives them all; N lanes are N members of the group, as N
 * processes are. The files of this folder work on a lane, each on its part of it; the main thread
 * starts, drains and joins it. */
#ifndef RUNSINK_LANE_H
#define RUNSINK_LANE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>

#include "config/certs.h"
#include "config/config.h"
#include "sinks/sink.h"
#include "worker/base/counters.h"
#include "worker/base/trouble.h"
#include "worker/kafka/producer.h"
#include "worker/ledger/entry.h"
#include "worker/pipeline/dispatch.h"
#include "worker/pipeline/ends.h"
#include "worker/pipeline/partition.h"
#include "worker/pipeline/route.h"
#include "worker/pipeline/snapshot.h"
#include "worker/pipeline/vitals.h"
#include "worker/pipeline/watchdog.h"

struct lane {
    const struct config *cfg;
    _Atomic(const struct config *) taken; /* the same, for the main thread */
    struct worker_shared *shared;
    int id;
    pthread_t thread;
    atomic_int command; /* enum lane_command, by the main thread */
    atomic_int state;   /* enum lane_state, by the lane */
    struct counters counters;
    struct observer *observer;
    struct place place; /* for the watchdog */
    struct vitals vitals;

    struct consumer *consumer;
    bool joined;                  /* it is in the group, or about to be */
    struct ledger_search *recall; /* under way, or NULL */
    bool recall_needed;           /* a record waits for it */
    int64_t recall_held_ms; /* since when it waits itself, for an open transaction's end; 0: no */
    char recall_place[TOPIC_MAX + 16];       /* told as held there; empty: it is not */
    struct head_search *proof;               /* the same */
    bool proof_is_idle;                      /* for partitions that have no work */
    int64_t recall_after_ms, proof_after_ms; /* not again before */
    int wake_fd;
    struct producer *producer;
    bool settles; /* the broker has taken its producer; before that nothing is read */
    int64_t opened_ms, producer_again_ms; /* monotonic; when a refused one is made anew, or 0 */
    struct http *http;
    struct sink_env sinks;
    struct router *router;
    struct dispatch *dispatch;
    struct gzip *gzip;
    void *zstd;
    struct schedule schedule;

    struct partition *partitions;
    uint64_t serials;
    size_t turns;        /* of reading */
    int64_t reading_ms;  /* when this turn began to take records in */
    uint64_t subscribed; /* version of the topic list subscribed to */
    bool assigned;       /* has had an assignment */
    bool draining;
    bool ending;           /* --until-end: nothing is left to read */
    atomic_bool done;      /* and all is settled; read by the main thread, as is */
    _Atomic int64_t owned; /* how many partitions it has */
    char member[256];      /* its id in the group; under shared->mutex */
    unsigned finishing;    /* inside lane_finish(): nothing waits for a ride */
    /* Works on these partitions (NULL: all) until they are settled or the time is over: before they
     * are given back. */
    void (*finish)(struct lane *, bool (*of)(const struct partition *, void *), void *, int64_t ms);
    bool restart;             /* a fatal error: close and open again, after a pause that grows */
    int64_t restart_pause_ms; /* the last one; 0: it has settled since */
    char restart_why[128];
    int64_t now_ms;   /* monotonic, read a few times a turn */
    int64_t heard_ms; /* the same without what kept it from listening to the network */
    int64_t wall_ms;
    int64_t sleep_ms;       /* how long the next turn may wait for something to happen */
    size_t held;            /* bytes that count against the budget */
    size_t held_retries;    /* of these, by what comes again */
    struct window *dropped; /* of partitions that are gone; freed when nothing uses them any more */
    struct settlement *settlement; /* the settlement under way, or NULL */
    struct blocked *blocked;       /* sources that can't be settled now */
    bool in_doubt; /* the last settlement may or may not have happened: committed offsets tell */
    int64_t failing_ms;        /* since when settlements have failed; 0: the last one succeeded */
    struct anchorer *anchorer; /* NULL: switched off */
    int64_t settle_after_ms;   /* back-off after an aborted settlement */
    int64_t settle_backoff_ms;
    uint64_t memberships; /* rebalance callbacks so far */
    bool unclosed;        /* leaving the group did not end: the consumer can't be destroyed */
    bool gives_back;      /* claims of sources that can't be settled */
    bool stale;           /* membership out of date: settle once there is another one */
    bool over;            /* with stale: that does not come before the next rebalance callback */
    struct txn *refused;  /* with stale: one that was made in it, and has nothing else */
    /* careful.c */
    int n_careful;   /* partitions that are read one record at a time */
    bool busy;       /* records may be in work */
    bool standing;   /* some lane is careful: nothing new is taken */
    bool again;      /* what was waited for is durable */
    uint64_t trying; /* the partition at hand, by its serial */
};

/* The lane is to begin again from what is committed, at its turn's end. */
static inline void lane_restart(struct lane *lane, const char *why) {
    lane->restart = true;
    snprintf(lane->restart_why, sizeof lane->restart_why, "%.127s", why);
}

/* What the main thread gives all lanes: the topics to consume, replaced as a whole under a lock. */
struct worker_shared {
    /* In force; replaced on SIGHUP, the old one lives on until no lane uses it any more. */
    _Atomic(const struct config *) cfg;
    pthread_mutex_t mutex;
    struct list topics;  /* source topics, sorted */
    struct list retries; /* their retry topics, those of delays no longer configured included */
    int64_t sources;     /* partitions of the source topics */
    int64_t partitions;  /* theirs and those of their retry topics */
    uint64_t version;
    bool until_end;
    struct ends *ends;                  /* NULL without until_end */
    const struct ledger_signer *signer; /* NULL: unsigned */
    char cluster[CLUSTER_MAX + 1];      /* its id, from before the lanes start */
    struct troubles *troubles;
    int ended_fd; /* an eventfd, written by each lane that ends */
    uint64_t me;  /* this process, by a random number */
    /* careful.c: partitions that are read one record at a time, lanes that may have records in
     * work, and the lane (its id + 1) whose turn it is; 0: none's. */
    atomic_int careful, busy, token;
    atomic_bool reload_failed; /* the last SIGHUP changed nothing */
    struct cert_watch certs;   /* the main thread looks, the admin server tells */
    atomic_bool look; /* a lane misses one of runsink's own topics: ended_fd is written too */
};

enum lane_command { LANE_GO, LANE_DRAIN };
enum lane_state { LANE_RUNNING, LANE_FINISHED, LANE_FAILED };

/* Makes a lane; lane_live() is its life, on the thread that calls it, until it is drained or fails;
 * lane_end() adds its counters to totals and frees it. NULL with a message in err. */
struct lane *lane_new(const struct config *, struct worker_shared *, int id, struct buf *err);
void lane_live(struct lane *);
void lane_end(struct lane *, uint64_t totals[COUNTERS]);
/* The same with a thread of its own. */
struct lane *lane_start(const struct config *, struct worker_shared *, int id, struct buf *err);
void lane_drain(struct lane *); /* main thread: asks; the lane ends by itself */
/* Waits for the thread; lane_end(). */
void lane_join(struct lane *, uint64_t totals[COUNTERS]);

#endif
