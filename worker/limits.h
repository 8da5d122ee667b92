/* What the process needs of the system's limits. Main thread, at the start. */
#ifndef RUNSINK_LIMITS_H
#define RUNSINK_LIMITS_H

#include <stdbool.h>
#include <stdint.h>

struct config;

/* Descriptors that all lanes hold at once when every connection is used, Kafka's included. */
uint64_t limits_files_needed(const struct config *);
/* Raises the soft limit on descriptors as far as it is needed and the hard one lets it. False when
 * that is too little: *ret_have is the limit now. */
bool limits_raise_files(uint64_t need, uint64_t *ret_have);
/* Bytes that the process may come to take, by memory.budget. */
uint64_t limits_memory_needed(const struct config *);
/* Bytes that its control group lets it have (cgroup v2); UINT64_MAX: no limit, or none is known. */
uint64_t limits_memory_allowed(void);
/* All of it, with warnings that say what to do. */
void limits_check(const struct config *);

#endif
