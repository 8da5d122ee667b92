/* Looks in the ledger, on a thread of its own, for the chains of partitions that have no committed
 * offset: it may be long. The calls are one thread's. */
#ifndef RUNSINK_LEDGER_SEARCH_H
#define RUNSINK_LEDGER_SEARCH_H

#include "worker/base/buf.h"
#include "worker/kafka/mark.h"

struct config;
struct ledger_search;

/* A partition of the source topic, or of one of its retry topics. */
struct ledger_place {
    const char *topic;
    int32_t partition;
};
/* In the ledger of one source topic, in the name of the configured group. wake_fd (an eventfd) is
 * written when it is done. NULL with a message in err. */
struct ledger_search *ledger_search_new(const struct config *, const char *source,
                                        const struct ledger_place *, size_t n, int wake_fd,
                                        struct buf *err);
void ledger_search_free(struct ledger_search *); /* ends it; NULL is fine */

enum ledger_search_state {
    LEDGER_SEARCH_ON,
    LEDGER_SEARCH_DONE,
    LEDGER_SEARCH_DENIED,
    LEDGER_SEARCH_FAILED
};
/* DENIED: no right to read the ledger, so it can't be known. error: with that and FAILED. */
enum ledger_search_state ledger_search_state(const struct ledger_search *, const char **ret_error);
/* While it is ON: whether something of the ledger's partition is hidden by a transaction that is
 * open, so that the search waits for its end. */
bool ledger_search_held(const struct ledger_search *, int32_t *ret_partition);
const char *ledger_search_source(const struct ledger_search *);
/* Once it is DONE: the mark of a partition, NULL where the ledger has none. older: than all that
 * the partition has now, so the topic was made anew since. */
const struct mark *ledger_search_mark(const struct ledger_search *, const char *topic,
                                      int32_t partition, bool *ret_older);

#endif
