/* `run --until-end`: whether the run has come to its end, or gets nowhere. Main thread. */
#ifndef RUNSINK_UNTIL_END_H
#define RUNSINK_UNTIL_END_H

#include "worker/kafka/client.h"
#include "worker/kafka/topics.h"
#include "worker/pipeline/lane.h"

/* What is looked at; all of it the caller's. */
struct until_end_view {
    rd_kafka_t *admin;
    const struct config *cfg;
    struct worker_shared *shared;
    struct lane *const *lanes;
    int64_t n_lanes;
    int64_t looked_ms;  /* when the topics were looked at last, monotonic */
    bool (*stop)(void); /* no wait for a broker goes on */
};

struct until_end {
    struct topic_list sources, retries; /* as they were looked at last */
    struct list missing;                /* topics that are not there, and were not read */
    int64_t missing_ms;                 /* since when there are any; 0: there are none */
    int64_t blind_ms; /* since when the group can't be looked at; 0: it can, or need not be */
    rd_kafka_resp_err_t blind; /* why */
    bool done;                 /* all that was there at the start is delivered, or has its error */
    bool gave_up;              /* nothing went on any more */
};

enum until_end_state { UNTIL_END_GOES_ON, UNTIL_END_OVER };

/* The topics as they are at the start. */
void until_end_begin(struct worker_shared *, const struct topic_list *sources,
                     const struct topic_list *retries);
/* The topics were looked at; copied. */
void until_end_topics(struct until_end *, const struct topic_list *sources,
                      const struct topic_list *retries);
/* OVER: the lanes are to drain, since all is done or since nothing goes on any more; the log says
 * why. May block for an answer about the group. */
enum until_end_state until_end_look(struct until_end *, const struct until_end_view *);
/* Whether a topic is missed, so that the topics are to be looked at again soon. */
bool until_end_misses(const struct until_end *);
/* Once the lanes have ended: whether something of the start is left. Each topic that is gone, or
 * was made anew, is an error in the log. */
bool until_end_left(struct until_end *, struct worker_shared *);
void until_end_free(struct until_end *);

#endif
