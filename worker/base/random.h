/* Randomness of the operating system, for what nobody may guess and for what only has to differ.
 * Any thread. */
#ifndef RUNSINK_RANDOM_H
#define RUNSINK_RANDOM_H

#include <stddef.h>
#include <stdint.h>

/* Aborts where the system has none. */
void random_bytes(void *ret, size_t n);
uint64_t random_u64(void);

#endif
