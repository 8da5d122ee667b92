/* Framings: what stands around a JobRun's JSON in a Kafka record. Takes off what is not JSON
 * (Confluent's prefix, the outbox's string) and reads the headers; a wrapper object inside the JSON
 * (CloudEvents' data, jobRun) is jobrun.c's, which walks the document anyway. Pure; any thread.
 *
 * Sources: CloudEvents 1.0 with its Kafka protocol binding; Confluent's wire format ("magic byte"
 * 0 and a 4-byte schema id); Debezium's outbox event router; Avro 1.11 (object container files). */
#ifndef RUNSINK_ENVELOPE_H
#define RUNSINK_ENVELOPE_H

#include "worker/base/arena.h"
#include "worker/event/jobrun.h"

struct envelope {
    enum framing framing; /* FRAMING_BARE until the document tells otherwise */
    bool structured;      /* the document is a CloudEvent: the run is in its data */
    bool confluent;       /* a schema id stood before the document */
    struct str document;  /* JSON, still to be validated */
    struct str ce_id;     /* header ce_id; empty when absent or unusable */
    struct str id;        /* header id; the same */
};

/* False with reterr as in jobrun_decode(). ret borrows from the record or the arena. */
bool envelope_open(const struct message *, struct arena *, struct envelope *ret,
                   struct outcome *reterr);
/* Whether text can serve as an event id: 1 to 1024 bytes of UTF-8 without control characters. */
bool event_id_ok(struct str);

#endif
