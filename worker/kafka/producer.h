/* The transactional producer. A lane settles with one that has a thread of its own for the blocking
 * calls, so that settling never stalls transfers: the lane's thread hands a transaction over whole
 * with producer_submit(), and gets it back from producer_take() after wake_fd became readable; one
 * at a time. A command calls producer_run() on its own thread. */
#ifndef RUNSINK_PRODUCER_H
#define RUNSINK_PRODUCER_H

#include <stdbool.h>
#include <stddef.h>

#include "worker/base/buf.h"
#include "worker/kafka/txn.h"

struct config;
struct producer;

/* Whether the broker takes the producer. Until then nothing may be read: what is delivered could
 * not be settled, and would be delivered again and again. */
enum producer_state {
    PRODUCER_STARTING, /* asked for; it is tried until it is taken or refused */
    PRODUCER_READY,
    PRODUCER_REFUSED /* for good, as far as this producer goes */
};

/* ---- with a thread ---- */

/* wake_fd (an eventfd) is written when a transaction is finished or the state changes. NULL with a
 * message in err. */
struct producer *producer_new(const struct config *, const char *transactional_id, int wake_fd,
                              struct buf *err);
/* Abandons what is under way, joins the thread. NULL is fine. */
void producer_free(struct producer *);
/* error: the last one met while starting; empty: none. */
enum producer_state producer_state(struct producer *, char *ret_error, size_t size);
/* Only when what was submitted before is taken. */
void producer_submit(struct producer *, struct txn *);
struct txn *producer_take(struct producer *); /* NULL: not finished */

/* ---- for commands; these block ---- */

/* Without a thread, for producer_run(). NULL with a message in err. */
struct producer *producer_open(const struct config *, const char *transactional_id,
                               struct buf *err);
/* Asked several times a second while the broker is waited for: true ends that, with what is not
 * known to have happened. */
void producer_stop_when(struct producer *, bool (*stop)(void));
/* Waits until the broker takes it, which ends what an earlier producer of that name has begun. Not
 * READY: with error and fenced in ret. */
enum producer_state producer_begin(struct producer *, int timeout_ms, struct txn *ret);
/* For two minutes or so at most; the result is in it. It may be run again. */
void producer_run(struct producer *, struct txn *);
/* Makes one, for a moment, only to see whether the broker takes it. */
enum producer_state producer_try(const struct config *, const char *transactional_id,
                                 int timeout_ms, struct buf *err);
/* The same without the broker: whether the client makes it of this configuration. */
bool producer_check(const struct config *, struct buf *err);

#endif
