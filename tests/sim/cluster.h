/* The inside of the model of Kafka: what its parts know of one another. There is one cluster at a
 * time. What is to happen later is a task that names by numbers what it is about: by then that may
 * be gone.
 *
 *     broker.c         tasks, the partitions' logs, producers of the outside, what judges ask
 *     transactions.c   the transaction coordinator
 *     group.c          the group's coordinator
 *     consumer.c       worker/kafka/consumer.h; feed.c: one partition of it, and fetched.h
 *     producer.c       worker/kafka/producer.h
 *     ledger_search.c  worker/kafka/ledger_search.h
 *     head_search.c    worker/kafka/head_search.h */
#ifndef RUNSINK_SIM_CLUSTER_H
#define RUNSINK_SIM_CLUSTER_H

#include "tests/sim/broker.h"
#include "worker/kafka/consumer.h"

/* ---- tasks and chance ---- */

/* What a task is about: numbers of cluster_number()'s, and what its function takes them for. */
struct about {
    uint64_t a, b, c, d;
};
typedef void task_fn(struct about);
void cluster_later(int64_t us, task_fn *, struct about);
uint64_t cluster_number(void); /* never the same again; not 0 */
/* Whether a process does something now. What a frozen one was to do it does once it wakes: the task
 * is put off. What a dead one was to do is forgotten. */
bool cluster_acts(uint64_t process, task_fn *, struct about);
bool cluster_runs(uint64_t process);

const struct broker_faults *cluster_faults(void);
/* Of these three nothing is drawn once all is calm. */
bool cluster_chance(unsigned permille);
int64_t cluster_latency(void);     /* one way */
int64_t cluster_coordinator(void); /* one way to a coordinator, which may be slow */
int64_t cluster_ms(void);          /* the brokers' wall clock */

/* ---- the log of a partition ---- */

/* A record's bytes, in one block. */
struct stored {
    struct str key, value;
    struct header *headers;
    size_t n_headers;
};
struct stored *stored_new(struct str key, struct str value, const struct header *, size_t n);

struct writer; /* a transaction */
struct slot {
    struct stored *record; /* NULL: a marker */
    struct writer *writer; /* NULL: of no transaction */
    int64_t time_ms;
    bool compacted; /* nobody sees it any more, but for who has fetched it */
};

struct journal {
    char *topic;
    int32_t id;
    bool gone;      /* its topic was deleted */
    bool by_broker; /* its records have the broker's time, whatever the producer says */
    struct slot *slots;
    int64_t low, high, cap;
    struct part *open;  /* transactions whose marker is not there yet */
    struct feed *feeds; /* that read it */
    int64_t committed;  /* the group's; -1: nothing */
    struct buf metadata;
    uint64_t committed_as; /* in the order in which offsets were sent, not ended */
    unsigned pending;      /* open transactions that carry an offset of it */
    uint64_t owner;        /* the member that was given it last */
};

struct journal *journal_find(const char *topic, int32_t partition); /* NULL: there is none */
struct journal *journal_at(size_t index);                           /* NULL: there are no more */
int64_t journal_stable(const struct journal *);                     /* the last stable offset */
/* The first offset from there on that a read_committed reader sees now; -1: none. */
int64_t journal_next(const struct journal *, int64_t from);
/* The first offset with this time or a later one, be it seen or not; -1: none. */
int64_t journal_time(const struct journal *, int64_t time_ms);
/* record: the journal's from now on; NULL: a marker. Returns the offset. */
int64_t journal_append(struct journal *, struct stored *, struct writer *, int64_t time_ms);

/* ---- transactions ---- */

/* Where a transaction's records begin in one partition. */
struct part {
    struct journal *journal;
    int64_t first;
    struct writer *writer;
    struct part *next_open; /* of the journal */
    struct part *next;      /* of the transaction */
};

/* A transactional id, as its coordinator knows it. */
struct identity;
struct identity *identity_of(const char *transactional_id);
/* Fences who had it, ends what is under way. Returns the new epoch; 0: the last transaction is not
 * ended everywhere yet, ask again. */
uint64_t identity_begin(struct identity *);
bool identity_is(const struct identity *, uint64_t epoch);
/* The transaction that is open, or with process not 0 a new one. NULL: none. */
struct writer *identity_writer(struct identity *, uint64_t process);
/* The last transaction was ended, but not everywhere. */
bool identity_waits(const struct identity *);

struct writer *writer_new(struct identity *, uint64_t process); /* NULL: of the outside */
struct writer *writer_find(uint64_t number);
uint64_t writer_number(const struct writer *);
bool writer_commits(const struct writer *); /* it is ended, and that so */
int64_t writer_add(struct writer *, struct journal *, struct stored *, int64_t time_ms);
/* owner: as broker_watch() tells it. */
void writer_offset(struct writer *, struct journal *, int64_t offset, const char *metadata,
                   bool owner);
void writer_end(struct writer *, bool commit);
/* What transactions have in the one is in the other now. */
void transactions_move(const struct journal *from, struct journal *to);
void transactions_watch(broker_watch_fn *);
void transactions_close(void);

/* ---- the group's coordinator ---- */

void group_open(void);
void group_close(void);
/* The consumer's request arrives, the one that it made last. */
void group_join(struct consumer *);
task_fn group_sync; /* a: the member, b: the generation; it asks for what it is given */
void group_leave(uint64_t member);
/* Whether a commit in this name is taken. Who owns what is not looked at. */
bool group_takes(uint64_t member, int64_t generation);
/* What the member has been given by this generation; NULL: it is another one's time. */
struct journal *const *group_given(uint64_t member, int64_t generation, size_t *ret_n);

/* ---- consumers ---- */

#define STASH_MAX 128
#define QUEUE_MAX 256
#define FEED_STORED (-1000) /* a position: the committed offset's, when it can be told */

/* What was fetched: a message, or what feed_peek() tells once. */
struct fetch {
    enum feed_next what;
    int64_t offset, time_ms;
    const struct stored *record;
};

struct feed {
    struct consumer *consumer;
    struct journal *journal;
    uint64_t number;
    bool reading, astray, fetching;
    int64_t at;                    /* is fetched next; or FEED_BEGINNING, FEED_STORED */
    int64_t taken;                 /* what is taken next */
    int64_t told;                  /* the end that was told last; -1 */
    struct fetch queue[QUEUE_MAX]; /* a ring: the client's */
    size_t queue_at, queue_n;
    struct fetch stash[STASH_MAX];
    size_t stash_at, stash_n;
    struct fetched *head; /* of the stash, once it was shown */
    int64_t filled_ms, filled_wall_ms;
    int64_t low, high; /* high -1: not known */
    struct feed *next, *next_reader;
};
struct feed *feed_new(struct consumer *, struct journal *);
void feed_free(struct feed *);
void feed_notify(struct feed *); /* its log has changed */
void feed_stored(struct feed *); /* reads from the committed offset, if it does not read yet */
void fetched_close(void);        /* what nobody has freed */

enum member_phase { MEMBER_OUT, MEMBER_JOINING, MEMBER_JOINED, MEMBER_STEADY };

struct consumer {
    uint64_t number, process;
    int wake_fd;
    const struct consumer_events *events;
    void *context;
    char instance[160]; /* empty: dynamic */
    char **topics;
    size_t n_topics;
    enum member_phase phase;
    uint64_t joins;  /* how often it asked to join */
    uint64_t member; /* 0: none */
    int64_t generation;
    bool synced;  /* an assignment waits to be taken over */
    bool rejoin;  /* the group rebalances, or the subscription is another one */
    bool put_out; /* by the coordinator */
    bool fatal;   /* its identity is another process's */
    bool calling, closing, crashed;
    bool deaf;   /* joins no more */
    bool taking; /* its lane is told what it was given */
    int64_t polled_us;
    struct feed *feeds;
    size_t held; /* messages that were taken and not freed */
    struct told *told;
    struct consumer *next;
};
struct consumer *consumer_find(uint64_t number); /* NULL: it is gone */
static inline bool consumer_is_eager(const struct consumer *c) {
    return c->instance[0];
}
void consumer_wake(const struct consumer *);
struct feed *consumer_feed(const struct consumer *, uint64_t feed); /* NULL: it is gone */

/* The coordinator's answers, and what it tells by refusing a heartbeat. `a` is the consumer, `b`
 * the member, `d` the number of its request to join. */
task_fn consumer_joined;   /* c: the generation */
task_fn consumer_assigned; /* c: the generation */
task_fn consumer_put_out;  /* c: whether another process has its identity */
/* By the answer to a heartbeat. */
void consumer_told(struct consumer *);
#define MAX_POLL_US ((int64_t)300000000)

void consumers_crashed(uint64_t process);
void consumers_close(void);
void producers_close(void);
void searches_close(void);
void head_searches_close(void);

/* As transactions carry it. */
struct membership {
    uint64_t consumer, member;
    int64_t generation;
};
bool consumer_membership(const struct consumer *, struct membership *ret);

#endif
