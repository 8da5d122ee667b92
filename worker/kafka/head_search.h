/* Looks for the newest entries of some chains in the ledger, from its end backwards, on a thread of
 * its own: it may be long. The calls are one thread's. */
#ifndef RUNSINK_HEAD_SEARCH_H
#define RUNSINK_HEAD_SEARCH_H

#include "worker/base/buf.h"
#include "worker/kafka/ledger_search.h"
#include "worker/ledger/heads.h"

struct head_search;

/* In the ledger of this source topic, among the last `most` records of each of its partitions or
 * not many more. The heads are taken over, also when it fails: NULL with a message in err. wake_fd
 * (an eventfd) is written when it is done. */
struct head_search *head_search_new(const struct config *, const char *source, struct heads *,
                                    int64_t most, int wake_fd, struct buf *err);
void head_search_free(struct head_search *); /* ends it; NULL is fine */
/* error: with FAILED and DENIED. */
enum ledger_search_state head_search_state(struct head_search *, const char **ret_error);
const struct heads *head_search_heads(const struct head_search *); /* once it is done */

#endif
