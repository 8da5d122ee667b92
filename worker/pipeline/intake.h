/* What a lane takes in: a message becomes a record of its partition's open window, is decoded and
 * routed, and either has its outcome at once or goes into a delivery. And when windows are sealed.
 * Lane's thread. */
#ifndef RUNSINK_INTAKE_H
#define RUNSINK_INTAKE_H

#include <stdbool.h>
#include <stdint.h>

struct lane;
struct partition;
struct window;

/* Whether the record at this offset may be taken now. Where that waits for the oldest window, what
 * keeps it from settling is given up once it has had its time. */
bool intake_has_room(struct lane *, struct partition *, int64_t offset);
/* Takes the message that source_peek() has shown. */
void intake_take(struct lane *, struct partition *);
bool intake_past_end(const struct partition *, int64_t offset); /* of --until-end */
/* Seals the open window when it is due, or for all that can be known of its end (force). */
void intake_seal(struct lane *, struct partition *, bool force);
/* When an open window is to be sealed for its age, monotonic ms. */
int64_t intake_seal_at(const struct lane *, const struct partition *, const struct window *);
void intake_press(struct lane *); /* seals what memory has no room for */

#endif
