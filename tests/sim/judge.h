/* What has to hold, whatever goes wrong (the promises of the design): judged when it happens where
 * that can be seen, and at the end over all that there is. Shares no code with the pipeline. */
#ifndef RUNSINK_SIM_JUDGE_H
#define RUNSINK_SIM_JUDGE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/base/str.h"

struct object;

void judge_begin(void);
/* A worker sends a request. */
void judge_request(int place, const char *key, struct str body);
/* An object is there that was not; a request has arrived. */
void judge_object(int place, const struct object *);
/* Whether an object may have another content now: a member that is blamed for its worker's death is
 * in no object any more. */
bool judge_rewritten(int place, const struct object *, struct str body);
void judge_post(int place, struct str body);
/* A lane has ended in good order and still holds so many bytes of its budget, or holds too many. */
void judge_held(size_t held, size_t most);
/* Whether all that can be read has been settled; otherwise where it has not, in text. */
bool judge_settled(char *text, size_t size);
/* The verdict over the ledger, the topics and the places, once nothing is under way any more. */
void judge_all(void);

#endif
