/* A lane: one thread with one consumer, one transactional producer and one HTTP engine. Lanes share
 * nothing; N lanes are N members of the group, as N processes are. This header is for the files
 * that make up the lane (lane, source, load, journal); run.c uses the last part alone. */
#ifndef RUNSINK_LANE_H
#define RUNSINK_LANE_H

#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <stdatomic.h>

#include "config/certs.h"
#include "config/config.h"
#include "sinks/sink.h"
#include "worker/base/counters.h"
#include "worker/base/trouble.h"
#include "worker/kafka/meta.h"
#include "worker/kafka/offsets.h"
#include "worker/kafka/retry.h"
#include "worker/kafka/txn.h"
#include "worker/ledger/entry.h"
#include "worker/pipeline/dispatch.h"
#include "worker/pipeline/record.h"
#include "worker/pipeline/poison.h"
#include "worker/pipeline/route.h"
#include "worker/pipeline/snapshot.h"
#include "worker/pipeline/vitals.h"
#include "worker/pipeline/watchdog.h"
#include "worker/pipeline/window.h"

#define READ_BATCH 128

enum partition_kind { PARTITION_SOURCE, PARTITION_RETRY };

/* recall.c: whether the ledger has to be asked for the partition's chain. */
enum recall_state { RECALL_NONE, RECALL_WANTED, RECALL_ASKED };

struct partition {
    char topic[TOPIC_MAX + 1];
    char base[TOPIC_MAX + 1]; /* the source topic it belongs to */
    int32_t id;
    enum partition_kind kind;
    bool leftover;   /* a retry topic whose delay is not configured any more */
    uint64_t serial; /* of this assignment: a result for another one is only counted */
    rd_kafka_queue_t *queue;
    bool loaded; /* committed offset and metadata are known */
    bool asking,
        late;     /* the broker is asked for its offset; it was not known when it was assigned */
    bool reading; /* handed to librdkafka */
    int64_t asked_ms;
    bool begins;     /* nothing is committed: it starts with the first record there is */
    bool left;       /* by lane_finish(): what is open belongs to the next owner */
    int64_t seek_ms; /* when to try the position again; 0: no need */
    bool pin;        /* the topic was made anew: its beginning is to be durable, with */
    int64_t before;  /* where the chain of the old one ends; -1: it has none */
    enum recall_state recall;
    /* careful.c */
    struct claim want;   /* what the metadata is to say of who reads */
    bool asked, claimed; /* the claim is decided; is durable, so that reading may begin */
    bool calm;           /* the end was reached before anything was read */
    bool guilty;         /* what suspect names is not tried again */
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
    int64_t replay_end;                    /* the last end an earlier owner declared */
    bool introduced;                       /* this owner has written a ledger entry */
    uint64_t anchored;                     /* how many of its entries this owner's anchors cover */
    rd_kafka_message_t *stash[READ_BATCH]; /* read but not taken: no room, or not due */
    size_t stash_at, stash_n;
    int64_t head_due_ms;               /* wall clock; 0: not known to wait */
    int64_t delay_ms;                  /* of a retry topic, by its name */
    int64_t filled_ms, filled_wall_ms; /* when what is stashed was read, monotonic and wall clock */
    int64_t behind_ms; /* how far this machine's clock is behind the broker's, at the least */
    bool eof;          /* the reader has reached the end of what is visible: */
    int64_t eof_at;
    int64_t held_ms, held_at; /* since when an open transaction has held that end, monotonic; 0 */
    /* Since when it can't be read, with the error, and when that is tried again; since when the
     * committed offset has been beyond the end. Monotonic; 0: it is not so. */
    int64_t unreadable_ms, reread_ms, beyond_ms;
    char error[160];
    int64_t high_seen; /* the highest end that a fetch told of; a lower one since: */
    bool shrunk;
    int64_t high_stale; /* that of a topic that is gone, as long as no fetch told another one */
    bool durable;       /* something is committed. Gone without us: the topic was deleted. */
    int doubts;     /* answers in a row that nothing is committed, and one to come; 0: no doubt */
    bool doubting;  /* it is asked for */
    bool vanished;  /* it is so */
    int64_t end;    /* --until-end: the high watermark at start; -1: none */
    bool end_known; /* with what waited behind an open transaction then */
    bool given_up;  /* it can't be reached now */
    struct partition *next;
};

struct lane {
    const struct config *cfg;
    _Atomic(const struct config *) taken; /* the same, for the main thread */
    const struct worker_shared *shared;
    int id;
    pthread_t thread;
    atomic_int command; /* enum lane_command, by the main thread */
    atomic_int state;   /* enum lane_state, by the lane */
    struct counters counters;
    struct observer *observer;
    struct place place; /* for the watchdog */
    struct vitals vitals;

    rd_kafka_t *consumer;
    rd_kafka_queue_t *main_queue;
    struct offsets *offsets;
    struct recall *recall;   /* under way, or NULL */
    int64_t recall_after_ms; /* not again before */
    int wake_fd;
    struct txn_producer *settler;
    bool settles; /* the broker has taken its producer; before that nothing is read */
    int64_t opened_ms, settler_again_ms; /* monotonic; when a refused one is made anew, or 0 */
    struct http *http;
    struct sink_env sinks;
    struct router *router;
    struct dispatch *dispatch;
    void *compressor, *zstd;
    struct schedule schedule;

    struct partition *partitions;
    uint64_t serials;
    size_t turns;        /* of reading */
    int64_t reading_ms;  /* when this turn began to take records in */
    uint64_t subscribed; /* version of the topic list subscribed to */
    bool assigned;       /* has had an assignment */
    bool draining;
    bool ending;              /* --until-end: nothing is left to read */
    atomic_bool done;         /* and all is settled; read by the main thread, as is */
    _Atomic int64_t sources;  /* how many partitions of source topics it has */
    unsigned finishing;       /* inside lane_finish(): nothing waits for a ride */
    bool restart;             /* a fatal error: close and open again, after a pause that grows */
    int64_t restart_pause_ms; /* the last one; 0: it has settled since */
    char restart_why[128];
    int64_t now_ms; /* monotonic, read once a turn */
    int64_t wall_ms;
    int64_t sleep_ms;     /* how long the next turn may wait for something to happen */
    size_t held;          /* bytes that count against the budget */
    struct load *dropped; /* of partitions that are gone; freed when nothing uses them any more */
    struct journal *journal;   /* the settlement under way, or NULL */
    struct blocked *blocked;   /* sources that can't be settled now */
    int64_t failing_ms;        /* since when settlements have failed; 0: the last one succeeded */
    struct anchorer *anchorer; /* NULL: switched off */
    int64_t settle_after_ms;   /* back-off after an aborted settlement */
    int64_t settle_backoff_ms;
    uint64_t memberships; /* rebalance callbacks so far */
    bool unclosed;        /* leaving the group did not end: the consumer can't be destroyed */
    bool stale;           /* membership out of date: settle after the next rebalance callback */
    /* careful.c */
    int n_careful;   /* partitions that are read one record at a time */
    bool busy;       /* records may be in work */
    bool standing;   /* some lane is careful: nothing new is taken */
    bool again;      /* what was waited for is durable */
    uint64_t trying; /* the partition at hand, by its serial */
};

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
    const struct ledger_signer *signer; /* NULL: unsigned */
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

struct lane *lane_start(const struct config *, const struct worker_shared *, int id,
                        struct buf *err);
void lane_drain(struct lane *); /* main thread: asks; the lane ends by itself */
/* Waits for the thread, adds the lane's counters to totals, frees the lane. */
void lane_join(struct lane *, uint64_t totals[COUNTERS]);

/* assignment.c: which partitions are ours, and where each stands. */
void assignment_cb(rd_kafka_t *, rd_kafka_resp_err_t, rd_kafka_topic_partition_list_t *,
                   void *lane);
void assignment_poll(struct lane *); /* what was not known when a partition was assigned */
void assignment_drop(struct lane *, struct partition *);
/* Reads on from this offset (or RD_KAFKA_OFFSET_BEGINNING). */
void assignment_move(struct lane *, struct partition *, int64_t offset);
/* Nothing was committed: its first window begins here. */
void assignment_begin(struct partition *, int64_t offset);
/* The topic may have been made anew: its partitions' commits are looked for. */
void assignment_doubt(struct lane *, const char *topic);
/* The topic was made anew: reads from there, its first record. Nothing may be unsettled. */
void assignment_anew(struct lane *, struct partition *, int64_t low);
bool assignment_watermarks(struct lane *, const struct partition *, int64_t *low, int64_t *high);

/* source.c: the consumer. */
bool source_open(struct lane *, struct buf *err);
/* Whether librdkafka makes a lane's consumer of this configuration; it joins nothing. */
bool source_check(const struct config *, struct buf *err);
void source_close(struct lane *); /* leaves the group */
void source_free(struct lane *);  /* the consumer, once no message of its is held any more */
void source_poll(struct lane *);  /* callbacks, errors, offsets asked for, new topics */
/* The next record of a partition, or NULL: none, or not due. It stays the partition's until
 * source_taken(). */
rd_kafka_message_t *source_peek(struct lane *, struct partition *);
void source_taken(struct partition *);
struct partition *source_find(struct lane *, uint64_t serial);

/* settlement.c: what a settlement says. */
struct journal;
/* Starts a settlement when one is due and none is under way; takes the result of one that has
 * ended. */
void journal_run(struct lane *);
bool journal_due(const struct lane *);
/* After txn_producer_free(), which freed the job. */
void journal_abandon(struct lane *);
/* Since when the partition's source can't be settled, since a topic of runsink's own can't be
 * written; 0: it can. */
int64_t journal_blocked_since(const struct lane *, const struct partition *);
/* Whether it was tried in vain since then, and before. */
bool journal_hopeless(const struct lane *, const struct partition *, int64_t since_ms);
void journal_hurry(struct lane *); /* what can't be settled is tried at once */
/* When a source that can't be settled is tried again, monotonic ms; INT64_MAX: there is none. */
int64_t journal_again_ms(const struct lane *);

/* anchor_write.c: the heads of the ledger's chains, in a bucket of the operator's. */
struct anchorer;
/* At the start: false with a message in err when anchors are wanted and can't be had. */
bool anchor_check(const struct config *, const struct ledger_signer *, struct buf *err);
bool anchor_open(struct lane *, struct buf *err);
void anchor_close(struct lane *); /* after http_free() */
void anchor_reconfigure(struct lane *);
void anchor_tick(struct lane *); /* each turn */
/* A head waits for its anchor, which may be under way. */
bool anchor_waits(const struct lane *);
void anchor_hurry(struct lane *); /* the next one is due now, unless the store just failed */

/* recall.c: the ledger's chains of partitions that have no committed offset. */
struct recall;
bool recall_waits(struct lane *, struct partition *); /* true: it may not be read yet */
void recall_poll(struct lane *);                      /* takes what the ledger says */
void recall_stop(struct lane *);

/* careful.c: what is claimed before it is read, and reading with care (poison.h). */
bool careful_claim(struct lane *, struct partition *); /* true: it may be read */
void careful_release(const struct lane *, struct partition *, bool leave); /* it is given back */
void careful_drop(struct lane *, struct partition *);
/* Its oldest window is about to be settled: that says at once what is alone in work next. */
void careful_announce(struct lane *, struct partition *);
void careful_settled(struct lane *, struct partition *, int64_t records);
void careful_tick(struct lane *, struct partition *);
/* A record that is passed over or set aside: its fate and outcome; FATE_OPEN: take it. */
enum fate careful_special(struct lane *, struct partition *, int64_t offset, struct outcome *ret);
void careful_reconfigure(struct lane *);
bool careful_may_send(const struct parcel *); /* else it is deferred */
bool careful_waits(const struct load *);      /* only for deliveries that were deferred */
bool careful_stands(struct lane *); /* each turn, first: take nothing new, some lane is careful */
void careful_run(struct lane *);    /* and then this */
void careful_leave(struct lane *);  /* the lane ends */

/* intake.c: what is read, and the windows it is in. */
void intake_take(struct lane *, struct partition *); /* the record that source_peek() gave */
bool intake_read(struct lane *);                     /* true: there is more */
void intake_seal(struct lane *, struct partition *, bool force);
void intake_press(struct lane *); /* seals what memory has no room for */
/* When an open window is to be sealed for its age, monotonic ms. */
int64_t intake_seal_at(const struct lane *, const struct partition *, const struct window *);
bool intake_past_end(const struct partition *, int64_t offset); /* of --until-end */
void intake_free_dropped(struct lane *);

/* intake.c and lane.c, for the others. */
void lane_held(struct lane *, struct load *, ptrdiff_t bytes);
void lane_discard(struct lane *, struct load *); /* frees it when nothing uses it any more */
void lane_drop_partition(struct lane *, struct partition *);
/* Works on these partitions (NULL: all) until they are settled or the time is over. */
void lane_finish(struct lane *, bool (*of)(const struct partition *, void *), void *, int64_t ms);

#endif
