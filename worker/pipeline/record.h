/* What a window holds: its records (slots), and the parcels that carry them to their destinations.
 * Lane's thread.
 *
 * A slot is a record that was taken. It keeps the Kafka message until the record's fate no longer
 * needs the bytes: delivered and skipped let go at once, parked and dead keep them until they are
 * settled. A parcel is one object or one request. */
#ifndef RUNSINK_LOAD_H
#define RUNSINK_LOAD_H

#include <librdkafka/rdkafka.h>

#include "worker/event/jobrun.h"
#include "worker/kafka/retry.h"
#include "worker/ledger/entry.h"
#include "worker/pipeline/dispatch.h"
#include "worker/pipeline/window.h"

struct lane;
struct partition;
struct load;
struct parcel;

enum fate { FATE_OPEN, FATE_DELIVERED, FATE_SKIPPED, FATE_PARKED, FATE_DEAD };

struct slot {
    int64_t offset;         /* in the partition it was read from */
    int32_t from_partition; /* origin: the same as offset for a source topic */
    int64_t from_offset;
    int64_t timestamp_ms; /* of the original record */
    uint32_t bytes;
    rd_kafka_message_t *msg; /* NULL once let go */
    struct parcel *parcel;   /* NULL: none, the outcome is the record's own */
    struct payload payload;  /* borrows from msg */
    struct progress progress;
    const struct outcome *outcome; /* why, when skipped or dead without a parcel */
    uint64_t workspace;            /* keyed hash of its id; 0: not known */
    uint32_t batch_index;
    bool marked;  /* its topic refuses it: a marker stands for it in the dead letter */
    bool foreign; /* another group parked it: none of our business, and not in our ledger */
    uint8_t sink; /* its slot in the counters; 0: not known */
    enum fate fate;
    struct slot *next;
};

struct parcel {
    struct delivery delivery; /* first; its outcome is the parcel's */
    struct load *load;
    struct slot **members; /* the array of one below, or malloc's */
    struct slot *only[1];
    uint32_t n, cap;
    uint32_t expected; /* members of a batch that comes back; 0: not one */
    bool ndjson;       /* the key and compression of a batch object */
    char *key;
    const char *label; /* of its destination, which may be gone by the time it is settled */
    size_t payload;    /* bytes of its members' payloads */
    struct buf body;
    struct progress progress;
    enum fate fate;
    bool sent;      /* handed to dispatch */
    bool deferred;  /* ready, but to go alone (careful.c) */
    uint32_t tried; /* of its lines, alone */
    bool holds;     /* its destination */
    struct parcel *next;
};

struct load {
    struct lane *lane;
    struct partition *partition; /* NULL once the partition is gone */
    struct window *window;
    const char *topic; /* origin topic of its records */
    struct arena arena;
    size_t arena_counted;
    struct slot *first, *last;
    struct parcel *parcels, *last_parcel;
    struct parcel **groups; /* batch mode: parcel by destination; retry partitions: by batch key */
    size_t groups_cap, n_groups;
    size_t bytes;        /* payload taken */
    size_t held;         /* bytes of messages and bodies that count against the budget */
    size_t ledger_bytes; /* bound of the ledger entry */
    size_t incomplete;   /* batches that came back and lack members */
    size_t parked;       /* records that wait to be moved to a retry topic */
    size_t out;          /* parcels that dispatch has */
    int64_t opened_ms;   /* monotonic */
    int64_t sealed_ms;   /* monotonic; 0: not sealed */
    int64_t opened_wall_ms;
    int64_t timestamp_ms; /* Kafka's, of the first record */
    bool batched;         /* events wait for the window's durable end */
    bool flushed;
    struct load *next_dropped;
};

/* A load for a window just opened. A replayed window is a batch whatever the mode is now: its
 * objects may exist already. */
struct load *load_new(struct lane *, struct partition *, struct window *, int64_t timestamp_ms);
/* Frees it with all that it holds; nothing may be out. */
void load_free(struct load *);
/* Takes a record: decodes it, decides, and either gives it its outcome at once or puts it in a
 * parcel; object mode's parcels go to dispatch right away. Owns msg from here on. */
void load_take(struct load *, rd_kafka_message_t *msg);
/* batch mode, once the window's end is durable: names the objects and hands all to dispatch. */
void load_flush(struct load *);
/* Sends the batches that lack members: for a retry partition whose reader has passed everything
 * (members are visible all at once, so what is not there now never comes). */
void load_send_incomplete(struct load *);
/* The id of a record's workspace, for people: one line of printable ASCII, cut; empty where it
 * can't be told. *ret_exact: it is just this, of an event that can be decoded. */
#define WORKSPACE_SHOWN 256
void load_workspace(const struct load *, const struct slot *, char ret[WORKSPACE_SHOWN],
                    bool *ret_exact);
/* Gives up what is still out. */
void load_cancel(struct load *, enum cancel);

#endif
