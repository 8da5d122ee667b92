/* The names of the topics that runsink keeps beside each source topic:
 *     <topic>.retry.<delay>            parked records, a topic for each of retry.delays
 *     <topic>.dead.tenant|data|system  dead letters, by who has to act
 *     <topic>.ledger
 *     <topic>.outcomes                 what the platform is told of its events
 * Pure; any thread. */
#ifndef RUNSINK_TOPIC_NAMES_H
#define RUNSINK_TOPIC_NAMES_H

#include <stdbool.h>
#include <stddef.h>

#include "worker/base/origin.h"
#include "worker/base/outcome.h"

struct config;

enum topic_kind { TOPIC_SOURCE, TOPIC_RETRY, TOPIC_DEAD, TOPIC_LEDGER, TOPIC_OUTCOMES };
/* By the name's end alone: any delay counts, configured or not. ret_base (may be NULL): length of
 * the source topic's name within. */
enum topic_kind topic_kind(const char *name, size_t *ret_base);

/* The same, with the source topic's name. */
enum topic_kind topic_source(const char *name, char ret[TOPIC_MAX + 1]);

/* Whether it is this source, or one of its own. */
bool topic_is_of(const char *name, const char *source, enum topic_kind *ret_kind);

/* False when the name would be too long for Kafka. fault is not FAULT_NONE. */
bool topic_retry(const char *source, const char *delay, char ret[TOPIC_MAX + 1]);
bool topic_dead(const char *source, enum fault fault, char ret[TOPIC_MAX + 1]);
bool topic_ledger(const char *source, char ret[TOPIC_MAX + 1]);
bool topic_outcomes(const char *source, char ret[TOPIC_MAX + 1]);
enum fault topic_dead_fault(const char *name); /* FAULT_NONE: it is no dead topic */

/* Whether a retry topic's delay is none of retry.delays. */
bool topic_is_leftover(const struct config *, const char *name);

#endif
