/* Makes the plan of a seed that fails simpler, number by number, as long as it still fails. */
#ifndef RUNSINK_SIM_SHRINK_H
#define RUNSINK_SIM_SHRINK_H

#include <stdbool.h>
#include <stdint.h>

/* Whether the seed fails with what plan_set() has been told so far; in another process, silently.
 */
typedef bool shrink_try_fn(void *context, uint64_t seed);

/* Prints the command line that fails as well; in the end the simplest. */
void shrink(uint64_t seed, shrink_try_fn *, void *context);

#endif
