/* The keys of objects: an event's own, and a batch's, by the templates key.object and key.batch.
 * Any thread. */
#ifndef RUNSINK_OBJECT_KEY_H
#define RUNSINK_OBJECT_KEY_H

#include "sinks/sink.h"
#include "worker/event/jobrun.h"
#include "worker/kafka/retry.h"

/* One of the run's texts as it stands where others read it: itself, or, when it holds a secret, a
 * digest of where the record stood at first, which no other event has, and a replay has again. */
struct hidden_text {
    char text[sizeof "redacted-0123456789ab"];
};
struct str object_key_text(const struct jobrun *, enum run_text, const struct origin *,
                           struct hidden_text *room);
/* Appends the key of an event's own object. False with reterr when it can't be made (too long). */
bool object_key_event(const struct config *, const struct jobrun *, const struct destination *,
                      const struct origin *, int64_t timestamp_ms, struct buf *out,
                      struct outcome *reterr);
/* How many destinations of a window had a batch of the same place before, in the order in which
 * they are asked for: that of their first records, so that a replay of the window numbers them the
 * same. Two may share a place (a key was rotated in the middle of the window), and where the
 * template tells no places apart all of them do. */
struct key_places;
struct key_places *key_places_new(size_t destinations); /* of the window, at most */
unsigned key_places_nth(struct key_places *, const struct config *, const struct destination *);
void key_places_free(struct key_places *);
/* Appends the key of a batch: the window's, whose first record has this timestamp, and the
 * destination's, in the topic's era (struct meta), with ".nth" before the suffix
 * when nth > 1: whatever a store makes of buckets, prefixes and spellings, no two batches of a
 * window may have keys that differ in nothing else. */
bool object_key_batch(const struct config *, const struct destination *, const char *topic,
                      int32_t partition, uint64_t era, int64_t first, int64_t next,
                      int64_t timestamp_ms, unsigned nth, struct buf *out, struct outcome *reterr);

#endif
