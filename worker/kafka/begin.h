/* Where a group begins, decided before any member of this process joins it: so a partition without
 * a committed offset is one that appeared later, and is read from its first record.
 *   - A group that has committed something has begun.
 *   - One that has not, while the ledger has entries of it, has lost its offsets
 *     (offsets.retention.minutes): they are taken from the ledger again, all of it: what an open
 *     transaction hides there is waited for.
 *   - Any other is new; with start = latest all partitions' ends are committed for it, with a time
 *     their first records from then on.
 * The broker takes such a commit only while the group has no member, so that of two processes that
 * start at once the later one changes nothing that was read. Main thread; blocks. */
#ifndef RUNSINK_BEGIN_H
#define RUNSINK_BEGIN_H

#include "worker/kafka/topics.h"

/* An exit code; not EX_OK with a message in err, or stop() was true, which is asked now and then.
 * EX_TEMPFAIL: what the ledger knows is hidden by a transaction that did not end in time. */
int begin_group(const struct config *, const struct topic_list *all,
                const struct topic_list *sources, int timeout_ms, topics_stop_fn *stop,
                struct buf *err);

#endif
