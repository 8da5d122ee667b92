/* A turn's reading: the partitions give their records to intake, one after the other. Lane's
 * thread.
 */
#ifndef RUNSINK_READING_H
#define RUNSINK_READING_H

#include <stdbool.h>

struct lane;

bool reading_run(struct lane *); /* true: there is more */

#endif
