/* What the account may not do. Blocks; any thread.
 *
 * Which topics it may not write: A transaction that has to do with one of those is refused
 * as a whole, and librdkafka does not say for which. So it is asked by records that no broker
 * appends: they want acknowledgements of a number that Kafka does not know, and it says so once it
 * has found the right to write. */
#ifndef RUNSINK_RIGHTS_H
#define RUNSINK_RIGHTS_H

#include <librdkafka/rdkafka.h>
#include <stdbool.h>

#include "config/config.h"

/* What rights_denied() connects with. NULL with a message in err. The caller destroys it. */
rd_kafka_conf_t *rights_conf(const struct config *, struct buf *err);
/* Sets those of ret (n of them, false before) whose topic may not be written. What a broker does
 * not say in time, or before stop(context) is true, is taken for allowed. stop: NULL: never. A
 * topic NULL is passed over; the others have to be there. */
void rights_denied(const rd_kafka_conf_t *, const char *const *topics, size_t n, int timeout_ms,
                   bool (*stop)(const void *context), const void *context, bool *ret);

/* The consumer is one of reader_consumer(), which is a member of no group. Nothing is changed. */

/* Whether the broker refuses to tell of the topic (Describe): then it tells of none by that name.
 */
bool rights_hidden(rd_kafka_t *consumer, const char *topic, int timeout_ms);
/* Whether the consumer's group may not be joined, and nothing committed for it (Read). It is asked
 * by the commit of an offset of a topic that is not there, which comes to nothing. */
bool rights_group_denied(rd_kafka_t *consumer);
/* Sets those of ret (n of them, false before) whose topic may not be read. As above: a topic NULL
 * is passed over, the others have to be there. */
void rights_unreadable(rd_kafka_t *consumer, const char *const *topics, size_t n, int timeout_ms,
                       bool *ret);
/* An error that says that a right is missing: of a person it needs one. */
bool rights_lack(rd_kafka_resp_err_t);

#endif
