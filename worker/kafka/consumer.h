/* A lane's member of the consumer group: subscription, rebalances, the messages of each partition,
 * positions, and what the broker tells of offsets. All that asks a broker and may wait long is done
 * on threads below this header; what blocks for a bounded time says so. Lane's thread.
 *
 * It knows nothing of windows: where a partition is read from is said by its caller, and what was
 * read is forgotten when the partition is taken away. */
#ifndef RUNSINK_CONSUMER_H
#define RUNSINK_CONSUMER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/base/buf.h"
#include "worker/kafka/fetched.h"

struct config;
struct consumer;
struct txn;

/* ---- one partition that was assigned ---- */

/* It lives from consumer_events.assigned() until after .revoked(), or until consumer_close(). */
struct feed;

/* Where to read from, instead of an offset. */
#define FEED_BEGINNING (-2) /* the first message there is */

/* Reading begins. Before it was called nothing is read of the partition (cooperative), or from
 * where the broker finds the committed offset (eager). */
void feed_start(struct feed *, int64_t offset);
/* Reads on from this offset; what was fetched and not taken is dropped. */
void feed_move(struct feed *, int64_t offset);

enum feed_next {
    FEED_NOTHING, /* is there now */
    FEED_MESSAGE, /* stays the next one until feed_take() */
    FEED_END,     /* of what can be seen: at `offset` */
    FEED_ASTRAY,  /* the broker does not have the offset that is to be read: feed_move() */
    FEED_FAILED   /* the partition can't be read, for the reason that `error` names */
};
struct feed_head {
    struct fetched *message; /* with FEED_MESSAGE */
    int64_t offset;          /* with FEED_MESSAGE and FEED_END */
    const char *error;       /* with FEED_FAILED; valid until the next call */
};
/* What comes next. All but a message is told once. */
enum feed_next feed_peek(struct feed *, struct feed_head *ret);
/* The message that feed_peek() has shown is the caller's now. */
struct fetched *feed_take(struct feed *);
/* Messages that were fetched by the client and not taken: at least those that feed_peek() would
 * show without asking the client's queues. */
size_t feed_waiting(const struct feed *);
/* When those were taken from the client's queue, monotonic and wall clock ms. */
void feed_filled(const struct feed *, int64_t *ret_ms, int64_t *ret_wall_ms);

/* The ends as the last fetch saw them, open transactions included. False: not known yet. */
bool feed_ends(const struct feed *, int64_t *ret_low, int64_t *ret_high);
/* The same asked of the broker. Blocks, for FEED_ASK_MS at most; false with a line in the log, now
 * and then when it goes on. */
#define FEED_ASK_MS 2000
bool feed_ask_ends(struct feed *, int64_t *ret_low, int64_t *ret_high);
/* The offset of the first message whose timestamp is this or later. Blocks likewise; false: not
 * told. */
bool feed_ask_time(struct feed *, int64_t time_ms, int64_t *ret_offset);
/* Asks for the committed offset; consumer_events.committed() tells. Does not block. */
void feed_ask_committed(struct feed *);

/* ---- the consumer ---- */

/* What the group has committed for a partition. */
struct committed {
    bool known;          /* false: the broker can't tell now, or an open transaction is about to
                            change it */
    int64_t offset;      /* -1: nothing */
    struct str metadata; /* borrowed for the call */
};

struct assigned {
    const char *topic;
    int32_t partition;
    struct feed *feed;
    struct committed committed;
};

/* What a broker's error is about. */
enum broker_fault {
    BROKER_FINE,
    BROKER_TOPIC,       /* the topic is not there, or may not be read */
    BROKER_CREDENTIALS, /* they, or the certificate, are refused */
    BROKER_OTHER        /* nobody answered, or not to the question */
};

/* Called from consumer_poll() and consumer_close() alone. Text is borrowed for the call. */
struct consumer_events {
    /* Partitions came, n of them; may be none. Those whose committed offset is known are to be
     * started before it returns, or soon. */
    void (*assigned)(void *context, const struct assigned *, size_t n);
    /* Partitions go. What was read of them can be settled until it returns, unless they are lost:
     * then another member may have them already. all: none is left. */
    void (*revoked)(void *context, struct feed *const *, size_t n, bool lost, bool all);
    void (*committed)(void *context, struct feed *, const struct committed *);
    /* What consumer_look() asked; each topic, then NULL. */
    void (*looked)(void *context, const char *topic, enum broker_fault, const char *error);
    void (*topic_failed)(void *context, const char *topic, const char *error);
    void (*client_failed)(void *context, enum broker_fault, const char *error);
    /* The group may not be joined, for want of the right Read; told again and again. */
    void (*group_denied)(void *context, const char *error);
    /* The consumer can't go on: close it and open another one. */
    void (*broken)(void *context, const char *why);
};

/* Joins when it has subscribed. wake_fd is an eventfd, written when there may be something to poll
 * or to peek. partitions: how many this member may come to have, of which the bounds of what is
 * read ahead are made. NULL with a message in err. */
struct consumer *consumer_new(const struct config *, int lane, int64_t partitions, int wake_fd,
                              const struct consumer_events *, void *context, struct buf *err);
/* Whether the client makes one of this configuration; it joins nothing. */
bool consumer_check(const struct config *, struct buf *err);
/* Instead of what it was subscribed to; none: it leaves the group for now. */
void consumer_subscribe(struct consumer *, const char *const *topics, size_t n);
void consumer_poll(struct consumer *); /* calls back; never waits for a broker, but for the offsets
                                          of what is assigned: CONSUMER_COMMITTED_MS at most */
#define CONSUMER_COMMITTED_MS 200
/* Looks for topics, without blocking; one look at a time. */
void consumer_look(struct consumer *, const char *const *topics, size_t n);
/* Its id in the group, empty while it is in none. */
void consumer_member(const struct consumer *, char *ret, size_t size);
/* What has become of the membership that a transaction was made in (txn_new_member()). Does not
 * wait for a broker. */
enum renewal {
    RENEWAL_NONE,  /* the consumer has it still, or has not heard yet that it has not */
    RENEWAL_LATER, /* the same member is in a later generation, in which it has all that it had */
    RENEWAL_OVER   /* nothing can be settled before the next callback, or the end of this one */
};
enum renewal consumer_renewal(const struct consumer *, const struct txn *);
/* Looks for the commits that the transaction's offsets follow. MISSING: one is not there, by two
 * answers in a row; then `gone` is set. UNTOLD: the coordinator does not answer now. For the
 * producer's thread; blocks, for COMMITS_ASK_MS at most. */
enum commits { COMMITS_THERE, COMMITS_MISSING, COMMITS_UNTOLD };
#define COMMITS_ASK_MS 5000
enum commits consumer_find_commits(const struct consumer *, struct txn *);
/* Whether another process has this member's identity; text says what the broker said. */
bool consumer_is_fatal(const struct consumer *, char *ret_text, size_t size);
/* Revokes all that is assigned, then leaves the group; ends all feeds. Blocks, for
 * CONSUMER_CLOSE_MS at most. */
void consumer_close(struct consumer *);
#define CONSUMER_CLOSE_MS 15000
/* After consumer_close(). held: messages of its are still used, so it stays. NULL is fine. */
void consumer_free(struct consumer *, bool held);

#endif
