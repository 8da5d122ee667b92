/* What an operator sees beside counters: partitions, sick destinations, the last dead letters. The
 * lane notes what happens. When it is asked, it copies all into a snapshot and hands that over;
 * while nobody asks, nothing is copied. One observer a lane, made and freed by it; a mutex of its
 * own, between the lane and the admin server's thread alone.
 *
 * Everything is bounded whatever tenants do. Text from outside in it has passed outcome_token() or
 * outcome_text(); labels are redacted. */
#ifndef RUNSINK_SNAPSHOT_H
#define RUNSINK_SNAPSHOT_H

#include "worker/kafka/retry.h"
#include "worker/pipeline/dispatch.h"
#include "worker/pipeline/record.h"

#define SNAPSHOT_PARTITIONS 2000
#define SNAPSHOT_DESTINATIONS 200
#define SNAPSHOT_WORKSPACES 200
#define SNAPSHOT_DEAD 50
#define SNAPSHOT_REASONS 64

/* A workspace whose event died of fault data marks one of these for UNFIT_MS, however many it
 * sends. Its keyed hash says which one, so among very many workspaces some share one. */
#define UNFIT_SLOTS 1024
#define UNFIT_MS ((int64_t)15 * 60 * 1000)
/* Records skipped are noted by workspace and reason for this long, and up to twice as long. */
#define SKIPS_MS ((int64_t)30 * 60 * 1000)
#define SKIPS_SLOTS 512
enum skip {
    SKIP_NO_SINK,
    SKIP_STATUS,
    SKIP_FAIL,
    SKIP_APIS,
    SKIP_TOMBSTONE, /* these are no workspace's */
    SKIP_OPERATOR,
    SKIP_OTHER,
    SKIPS
};

struct snapshot_partition {
    char topic[TOPIC_MAX + 1];
    int32_t id;
    int lane;
    bool retry, leftover;   /* leftover: of a delay that is not configured any more */
    bool loaded;            /* its committed offset is known */
    const char *state;      /* a few words, a literal */
    int64_t committed, end; /* -1: not known */
    int64_t lag;            /* -1: not known */
    size_t windows;         /* unsettled, the open one included */
    int64_t oldest_ms;      /* since the first record of the oldest was taken; 0: none */
};

struct snapshot_destination {
    char label[LABEL_MAX];
    const char *type;
    int lane;
    uint64_t id;        /* a keyed hash of its identity, the same in all lanes */
    int64_t failing_ms; /* for how long; -1: not failing */
    uint64_t waiting;   /* events, for their next attempt */
    struct destination_health health;
};

/* A destination that was tried, in numbers alone: how many workspaces and hosts are in trouble? One
 * tenant has as many destinations and hosts as it likes, but not workspaces. */
struct snapshot_tried {
    uint64_t workspace, host; /* keyed hashes, the same in all lanes; host 0: none */
    uint64_t destination;
    bool sick; /* the last attempt failed */
};

/* One with events that were parked or died since the start. */
struct snapshot_workspace {
    uint64_t hash; /* keyed, the same in all lanes; 0: of records that don't tell */
    char name[WORKSPACE_SHOWN];
    bool exact;            /* name is what `redrive --workspace` takes */
    uint64_t waiting;      /* events, for their next attempt */
    uint64_t dead[3];      /* tenant, data, system */
    uint64_t redrivable;   /* of those, which can be decoded */
    int64_t last_ms;       /* wall clock: when the last one was parked or died, */
    struct outcome last;   /* why, */
    char label[LABEL_MAX]; /* and for which destination; empty: none */
};

struct snapshot_dead {
    int64_t at_ms; /* wall clock */
    char topic[TOPIC_MAX + 1];
    int32_t partition;
    int64_t offset;
    char label[LABEL_MAX]; /* empty: it had no destination */
    char workspace[WORKSPACE_SHOWN];
    struct outcome outcome;
    uint32_t attempts;
};

struct snapshot_reason {
    enum fault fault;
    char why[sizeof((struct outcome *)0)->why];
    uint64_t count;
    int64_t last_ms; /* wall clock */
};

struct lane_snapshot {
    struct snapshot_partition *partitions;
    size_t n_partitions, unlisted_partitions;
    struct snapshot_destination destinations[SNAPSHOT_DESTINATIONS]; /* worst first */
    size_t n_destinations, known, open, failing, troubled; /* troubled: ever failed or parked */
    struct snapshot_tried *tried;
    size_t n_tried;
    struct snapshot_workspace workspaces[SNAPSHOT_WORKSPACES]; /* seen lately, in no order */
    size_t n_workspaces;
    uint64_t unfit[UNFIT_SLOTS / 64];         /* a bit for each that is in use */
    uint32_t skips[SKIPS][SKIPS_SLOTS];       /* how many, by workspace */
    struct snapshot_dead dead[SNAPSHOT_DEAD]; /* newest first */
    size_t n_dead;
    struct snapshot_reason reasons[SNAPSHOT_REASONS]; /* seen lately; the others' sum: */
    size_t n_reasons;
    uint64_t other_reasons;
    char settle_error[256]; /* the last one; empty: none */
    int64_t settle_error_ms;
};
void lane_snapshot_free(struct lane_snapshot *);
/* Worst first: open breakers, then who fails, then who made most trouble. For qsort(). */
int snapshot_worse(const void *, const void *);

/* Distinct ones, of all lanes. Sick: the last attempt failed for more than half of the destinations
 * that its events, or requests to it, were tried for. */
struct snapshot_distinct {
    size_t workspaces, sick_workspaces, hosts, sick_hosts;
    size_t unfit_workspaces; /* had an event die of fault data within UNFIT_MS */
    double largest[SKIPS];   /* a workspace's part of what was skipped for it, at most */
};
/* One for each lane; NULL: not there. */
struct snapshot_distinct snapshot_distinct(struct lane_snapshot *const *, size_t n);

struct observer;
struct observer *observer_new(int wake_fd); /* written to when the lane is asked; borrowed */
void observer_free(struct observer *);

/* Lane's thread. */
void observer_serve(struct lane *); /* after each wait: gauges once a second, what was asked for */
void observer_dead(const struct window *, const struct record *);
/* It is parked for this destination, until then; an attempt to deliver it comes now (NULL: not to
 * one that is known). Wall clock. */
void observer_parked(const struct window *, const struct record *, struct destination *,
                     const struct outcome *, int64_t due_ms);
void observer_back(struct lane *, const struct record *, struct destination *, int64_t due_ms);
/* An event died of fault data: whose it was, a keyed hash; 0: that can't be read. */
void observer_unfit(struct lane *, uint64_t workspace);
/* An event was skipped: why (outcome.why), and whose it was. */
void observer_skipped(struct lane *, const char *why, uint64_t workspace);
const char *skip_name(enum skip);
void observer_settle_error(struct lane *, const char *error);

/* Admin server's thread. */
void observer_ask(struct observer *);
/* The snapshot asked for, once it is there; NULL when it does not come by then (CLOCK_MONOTONIC,
 * ms). The caller's to free. */
struct lane_snapshot *observer_take(struct observer *, int64_t until_ms);

#endif
