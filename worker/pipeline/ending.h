/* --until-end: what a lane knows of where its partitions end. Lane's thread. */
#ifndef RUNSINK_ENDING_H
#define RUNSINK_ENDING_H

#include <stdbool.h>
#include <stdint.h>

struct fetched;
struct lane;
struct partition;

/* Whether the end that the source partition had at the start is known; it is in p->end then. */
bool ending_know(struct partition *);
/* Says how far the partition is settled (ends.h), before it goes, or once nothing is left to do. */
void ending_tell(struct lane *, struct partition *);
/* The same of one that has come: where it stands, its low and its high watermark. What was not read
 * of the topic that had its name before is named in the log. */
void ending_come(struct lane *, const struct partition *, int64_t low, int64_t high);
/* The partition's topic was made anew: the same for what was not read of the old one. Called before
 * the partition forgets that. Also without --until-end. */
void ending_anew(struct lane *, struct partition *);
/* As long as nothing is committed, only its first record, or that it has none, tells that a source
 * was made anew: the same again. The record that comes next; an end that the reader tells of. */
void ending_first(struct lane *, struct partition *, const struct fetched *);
void ending_at(struct lane *, struct partition *, int64_t offset);

#endif
