/* How a lane finds a record that kills: what it claims before it reads, and how it tries records
 * one by one. The idea stands in poison.h, what others ask of it in caution.h. Lane's thread. */
#ifndef RUNSINK_CAREFUL_H
#define RUNSINK_CAREFUL_H

#include <stdbool.h>

struct lane;
struct partition;

bool careful_claim(struct lane *, struct partition *); /* true: it may be read */
/* Its oldest window is about to be settled: that says at once what is alone in work next. */
void careful_announce(struct lane *, struct partition *);
/* Once a turn for each partition that is not read as usual. */
void careful_tick(struct lane *, struct partition *);
bool careful_stands(struct lane *); /* each turn, first: take nothing new, some lane is careful */
void careful_run(struct lane *);    /* and then this */
void careful_leave(struct lane *);  /* the lane ends */

#endif
