/* What has to hold, whatever goes wrong (the promises of the design): judged when it happens where
 * that can be seen, and at the end over all that there is. Shares no code with the pipeline. */
#ifndef RUNSINK_SIM_JUDGE_H
#define RUNSINK_SIM_JUDGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/base/str.h"

struct object;
struct event;

void judge_begin(void);
/* A request, with the events that it carries, as long as its sender waits for an answer. */
struct asked {
    uint64_t process;
    int place, destination;
    struct event **events; /* malloc's */
    size_t n;
    bool given_up; /* by its sender */
};
/* A worker sends a request. Fills all but process and place. */
void judge_request(struct asked *, const char *key, struct str body);
/* The worker is told what became of it. status 0: no answer came. */
void judge_answer(const struct asked *, int status, uint32_t retry_after_ms);
/* An object is there that was not; a request has arrived. */
void judge_object(int place, const struct object *);
/* Whether an object may have another content now: a member that is blamed for its worker's death is
 * in no object any more. */
bool judge_rewritten(int place, const struct object *, struct str body);
void judge_post(int place, struct str body);
/* An anchor has arrived in the operator's bucket. */
void judge_anchor(const char *key, struct str body);
/* Whether nothing would be lost with the committed offset: no end of a window, no death. */
bool judge_may_expire(const char *topic, int32_t partition);
/* A lane has ended in good order and still holds so many bytes of its budget, or holds too many. */
void judge_held(size_t held, size_t most);
/* A lane has read nothing for so long, since too much waits for one destination. */
void judge_standing(int64_t ms, bool until_end);
/* A lane has so many windows of a partition that are not settled, those that an earlier owner
 * declared left out. */
void judge_windows(const char *topic, int32_t partition, size_t open, size_t most);
/* A process with --until-end begins; it has ended by itself, and says that all went well. */
struct judge_run;
struct judge_run *judge_run_begin(void);
void judge_run_end(const struct judge_run *);
/* A source topic is about to be made anew. */
void judge_anew(const char *topic);
/* What the group is known to have settled of a partition. */
int64_t judge_settled_to(const char *topic, int32_t partition);
/* Whether all that can be read has been settled; otherwise where it has not, in text. */
bool judge_settled(char *text, size_t size);
/* The verdict over the ledger, the topics and the places, once nothing is under way any more. */
void judge_all(void);

#endif
