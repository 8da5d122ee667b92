/* Between a load's records and dispatch: parcels are made, filled, named, sent and ended here.
 * Lane's thread. For record.c. */
#ifndef RUNSINK_PARCEL_H
#define RUNSINK_PARCEL_H

#include "worker/pipeline/record.h"

/* object mode, and what comes back alone: the record goes out at once as an object of its own. */
void parcel_send_object(struct load *, struct slot *, const struct jobrun *, struct destination *);
/* One request for one event. */
void parcel_send_post(struct load *, struct slot *, const struct jobrun *, struct destination *,
                      const struct message *);
/* batch mode: the event waits in its destination's parcel until the window's end is durable. */
void parcel_collect(struct load *, struct slot *, struct destination *);
/* A parked batch comes back member by member; whole, it goes out under the key it had. */
void parcel_collect_again(struct load *, struct slot *, struct destination *, const struct retry *);
/* A member that can't be read any more leaves its batch: the others must not wait for it. */
void parcel_leave_batch(struct load *, const struct retry *);
/* A delivery that was deferred goes out now; or ends without, with this outcome. */
void parcel_send_now(struct parcel *);
void parcel_refuse(struct parcel *, const struct outcome *);
/* Makes the body of one member alone, for nothing but to see whether that can be done. */
void parcel_try(struct lane *, const struct parcel *, uint32_t member);
/* Gives back its body and its destination; the parcel itself is its load's. */
void parcel_release(struct parcel *);
/* How long deliveries to this type of sink are tried, ms. */
int64_t parcel_retry_window(const struct config *, const struct sink_type *);

/* record.c: gives a record its fate. o is the arena's, kept until the window is settled. */
void slot_end(struct load *, struct slot *, enum fate, const struct outcome *o);
/* The one line that tells of a dead letter, at warn, or of a record that is delivered or parked, at
 * debug, alone or with the others of its delivery: members. */
void load_log(const struct load *, const struct slot *, enum fate, uint32_t members,
              const struct outcome *);

#endif
