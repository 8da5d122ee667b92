/* A message as a consumer fetched it. It keeps its bytes until it is freed, which must be before
 * its consumer is. One thread. */
#ifndef RUNSINK_FETCHED_H
#define RUNSINK_FETCHED_H

#include <stdbool.h>
#include <stdint.h>

#include "worker/event/jobrun.h"

struct fetched;

int64_t fetched_offset(const struct fetched *);
/* Kafka's timestamp, ms since the epoch; -1: it has none. ret_by_broker (may be NULL): it is the
 * broker's clock that told it, not the producer's. */
int64_t fetched_time_ms(const struct fetched *, bool *ret_by_broker);
/* p is NULL where the message has none. */
struct str fetched_key(const struct fetched *);
struct str fetched_value(const struct fetched *);
/* The last header of this name; p is NULL where there is none or its value is null. */
struct str fetched_header(const struct fetched *, const char *name);
/* The message to decode; the list of headers is the arena's, the rest borrows from the message. */
void fetched_message(const struct fetched *, struct arena *, struct message *ret);
void fetched_free(struct fetched *); /* NULL is fine */

#endif
