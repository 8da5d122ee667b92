/* Which topics the account may not write. A transaction that has to do with one of those is refused
 * as a whole, and librdkafka does not say for which. So it is asked by records that no broker
 * appends: they want acknowledgements of a number that Kafka does not know, and it says so once it
 * has found the right to write. Blocks; any thread. */
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

#endif
