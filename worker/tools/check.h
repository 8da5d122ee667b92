/* What `runsink check` found, and how it is printed. Main thread. */
#ifndef RUNSINK_CHECK_H
#define RUNSINK_CHECK_H

#include "config/certs.h"
#include "worker/tools/parked.h"

struct check_partition {
    const char *topic;
    int32_t partition;
    int64_t committed; /* -1: none */
    int64_t low, high, lag;
    int64_t
        begins; /* where `start` has a new group begin; -1: it is none, or with the first record */
    int64_t held;  /* offsets that an open transaction hides */
    bool unstable; /* one is about to change what is committed */
    bool retry;
    const char *error; /* why it can't be read, static; NULL: it can */
    bool denied;       /* for want of a right */
};

/* What is not known because the broker did not tell is zero. */
struct check_result {
    const struct config *cfg;
    struct topic_list all, sources, unserved, missing;
    bool listed; /* topics are known */
    char group_state[32];
    bool group_known, group_there;
    size_t members;
    struct check_partition *partitions;
    size_t n;
    bool lag_known;
    size_t held_ledgers;   /* partitions of ledgers that an open transaction holds */
    struct buf *advice;    /* on the settings of runsink's own topics, a line each */
    struct buf *notes;     /* the same, where nothing has to change */
    bool settings_unknown; /* of some: no right to ask */
    struct certs certs;    /* that the configuration names */
    struct overview overview;
    bool overview_known;
};

/* One line: what it comes to. asked: a broker was. */
void check_verdict(const struct check_result *, int exit_code, bool asked, struct buf *);
void check_print(const struct check_result *, int64_t now_ms, FILE *);
/* problems: the messages that go to standard error, a line each. */
void check_print_json(const struct check_result *, int exit_code, const char *problems,
                      const char *verdict, FILE *);

/* Makes all that `run` makes of a finished configuration, short of asking a broker and of changing
 * anything here. complete: with what may be elsewhere, the names of topics and brokers and the
 * folders that are written to. Appends all that is wrong to err, not the first alone. */
typedef bool check_try_fn(const struct config *, bool complete, struct buf *err);
/* `runsink check`; returns the exit code. */
int check_command(int argc, char **argv, check_try_fn *);

#endif
