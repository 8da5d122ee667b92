/* What the records of a delivery make now, by the worker's own decoding, routing and making of keys
 * and bodies, compared with what the ledger says of it: what goes again has to arrive as the same
 * object, or the same request. No I/O; one thread. */
#ifndef RUNSINK_REPLAY_MAKE_H
#define RUNSINK_REPLAY_MAKE_H

#include "config/config.h"
#include "worker/kafka/reader.h"
#include "worker/tools/replay_plan.h"

/* A record, which several deliveries may hold where offsets were put back. */
struct replay_record {
    rd_kafka_message_t *m;
    unsigned users;
};

/* Of its records; NULL: any. */
struct replay_event {
    const char *workspace, *job, *id;
};

struct replay_maker;
struct replay_maker *replay_maker_new(const struct config *, const char *source);
void replay_maker_free(struct replay_maker *);
/* The item's state: OPEN (all is as it was, and a record matches; batched is set), OTHER, or
 * DIFFERS. Its records are all there, in its order. */
enum replay_state replay_make(struct replay_maker *, struct replay_item *,
                              const struct replay_event *);

#endif
