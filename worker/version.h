/* What `runsink --version` says: for a report about a fault, which program this is. */
#ifndef RUNSINK_VERSION_H
#define RUNSINK_VERSION_H

#include <stdio.h>

/* Version and commit, then each library as it is loaded now, a line each. */
void version_print(FILE *);

#endif
