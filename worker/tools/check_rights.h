/* What the worker's account may do in Kafka, as `runsink check` asks for it: nothing is written,
 * committed or made. Each returns an exit code, EX_CONFIG with what to allow in err where a right
 * is missing. Main thread; blocks. */
#ifndef RUNSINK_CHECK_RIGHTS_H
#define RUNSINK_CHECK_RIGHTS_H

#include "worker/kafka/rights.h"
#include "worker/tools/check.h"

/* Topics that the broker does not list for want of Describe. Those of our own are taken from what
 * is missing. */
int check_hidden(rd_kafka_t *, struct check_result *, struct buf *err);
/* Read on the group, without which it can't be joined. */
int check_group_right(rd_kafka_t *, const struct check_result *, struct buf *err);
/* Read on the ledgers and the dead topics. */
int check_reading(rd_kafka_t *, const struct check_result *, struct buf *err);
/* The producer that settles, and Write on all that it settles with. */
int check_settling(const struct check_result *, struct buf *err);

#endif
