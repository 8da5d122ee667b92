/* What waits in the retry topics and what lies in the dead topics, for `runsink check`: found by
 * reading them, up to a bound. Main thread; blocks. */
#ifndef RUNSINK_PARKED_H
#define RUNSINK_PARKED_H

#include <stdio.h>

#include "worker/kafka/reader.h"
#include "worker/kafka/retry.h"

/* What rows are of. By default: what waits by destination, dead letters by reason. */
enum overview_by { BY_DEFAULT, BY_WORKSPACE, BY_DESTINATION, BY_REASON };
/* For a command's options: into an enum overview_by. */
bool overview_by_read(const char *text, void *to, struct buf *err);

/* Records that wait for one destination, or what else rows are of. */
struct parked_row {
    const char *source;         /* topic */
    char name[DESTINATION_MAX]; /* empty: not known */
    uint64_t n;
    int64_t since_ms; /* the oldest first failure; 0: none was tried yet */
    int64_t due_ms;   /* the next attempt */
    int64_t last_ms;  /* when the youngest was parked: */
    char why[sizeof((struct retry *)0)->why];
};

/* Dead letters that did not go back and were not discarded. */
struct dead_row {
    const char *source;
    enum fault fault;
    char name[DESTINATION_MAX];               /* the reason, or what else rows are of */
    bool selects;                             /* name is whole: redrive can be told of it */
    char why[sizeof((struct retry *)0)->why]; /* of the youngest */
    uint64_t n;
    int64_t since_ms, last_ms; /* times of death */
};

/* A retry topic whose delay is not configured any more. */
struct leftover_row {
    char topic[TOPIC_MAX + 1];
    uint64_t n; /* records that wait in it; of this group */
};

struct overview {
    enum overview_by by;
    bool several;       /* source topics */
    const char *config; /* --config, for commands that are shown; or NULL. Borrowed */
    struct leftover_row *leftovers;
    size_t n_leftovers;
    struct parked_row *parked; /* most first */
    struct dead_row *dead;
    size_t n_parked, n_dead;
    uint64_t waiting, died; /* in all, of those read: */
    bool more_waiting;      /* there are more than were read */
    bool more_died;
    bool uncertain; /* the ledger was not read to its end: some dead letters may have gone back */
    uint64_t unreadable; /* records without proper headers */
};

/* ret->by and ret->config are the caller's, the rest is empty. The rows borrow the sources' names.
 * rk is of reader_consumer(). EX_OK, EX_UNAVAILABLE or EX_DATAERR (the ledger was altered), with a
 * message in err. */
int overview_read(const struct config *, rd_kafka_t *rk, const struct topic_list *all,
                  const struct topic_list *sources, struct overview *ret, struct buf *err);
void overview_free(struct overview *);
void overview_print(const struct overview *, int64_t now_ms, FILE *);
/* The members "parked" and "dead" of the object that is open. */
void overview_json(const struct overview *, struct buf *);

#endif
