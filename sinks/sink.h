/* The contract between the worker and a kind of sink. A new sink is one file that defines a struct
 * sink_type, and one line in registry.c. Everything here runs on the lane's thread; lanes share
 * nothing. */
#ifndef RUNSINK_SINK_H
#define RUNSINK_SINK_H

#include <cjson/cJSON.h>
#include <stdlib.h>

#include "worker/base/buf.h"
#include "worker/base/hash.h"
#include "worker/base/outcome.h"

struct config;
struct http;
struct sink_type;

#define LABEL_MAX 192
#define PLACE_LEN 12
#define KEY_MAX 1024 /* S3's own limit on an object key, bytes */

/* What a sink object in an event comes down to: type, place and credentials. Made by parse(), kept
 * in the lane's table of destinations, freed through free_config when it was idle for long. */
struct destination {
    const struct sink_type *type;
    /* Redacted, printable ASCII, for operators: "s3://bucket/prefix @ endpoint-host",
     * "webhook://host/path". */
    char label[LABEL_MAX];
    bool secret_host; /* one of its own secrets stood in the host: nothing may quote that */
    /* Two destinations with equal identity are one: SHA-256 over type, place and credentials in a
     * form of the type's choosing (length-prefixed fields, so that none can imitate another). Never
     * leaves the process. */
    uint8_t identity[SHA256_LEN];
    /* s3, file: prepended to every key; empty otherwise. Owned. */
    char *prefix;
    /* A short digest of type and place without credentials, hex: the same on every machine. Stands
     * in the keys of batches, since stores take places for equal that differ in spelling. Empty
     * where there are no keys. */
    char place[PLACE_LEN + 1];
    uint64_t host; /* keyed hash of the host and port that are reached; 0: none */
    void *config;  /* the type's own, freed by type->free_config; holds the credentials */
};

/* How the members of a delivery become bytes. */
enum sink_shape {
    SHAPE_OBJECT, /* a key per event, or one NDJSON object per window in batch mode */
    SHAPE_POST,   /* one request per event always, no key */
};

struct batch;
typedef void batch_done_fn(struct batch *, const struct outcome *);

/* A delivery as a sink sees it: what travels as one object or one request, of one record or many.
 * The worker owns it and keeps it unchanged until done(). */
struct batch {
    struct destination *dest;
    const char
        *key; /* SHAPE_OBJECT: whole key, prefix included, NUL-terminated UTF-8; NULL otherwise */
    const char *body;
    size_t body_len;
    const char *content_type;   /* "application/json", "application/x-ndjson", "application/gzip",
                                   "application/zstd" */
    const char *topic;          /* origin */
    int32_t partition;          /* origin */
    int64_t first, last;        /* offsets of the first and last member, origin */
    uint32_t count;             /* members */
    uint32_t lone_surrogates;   /* members with an escape that names half of a surrogate pair */
    uint8_t sha256[SHA256_LEN]; /* of the uncompressed bytes */
    uint8_t body_sha256[SHA256_LEN]; /* of body */
    /* SHAPE_POST: what the request carries beside the sink's own headers. Empty where unknown. */
    struct str event_id; /* webhook-id */
    struct str traceparent, tracestate;
    uint64_t workspace;  /* of its events, a keyed hash of the id; 0: not known */
    batch_done_fn *done; /* called exactly once for each submit, never from inside submit or cancel,
                            on the same thread */
    void *owner;         /* the worker's */
    void *sink_state;    /* the sink's, while it has the batch; NULL before submit and after done */
};

#define SINK_TYPES_MAX 8

/* What a sink may use; one per lane. */
struct sink_env {
    const struct config *cfg;
    struct http *http;
    int wake_fd; /* an eventfd that wakes the lane from another thread; 0: there is none */
    struct {
        const struct sink_type *type; /* NULL: free */
        void *state;
    } slots[SINK_TYPES_MAX];
};

/* The type's own state in this lane; NULL until the type has put something there. */
static inline void **sink_state(struct sink_env *env, const struct sink_type *type) {
    size_t i = 0;
    while (env->slots[i].type && env->slots[i].type != type) i++;
    env->slots[i].type = type;
    return &env->slots[i].state;
}

struct sink_type {
    const char *name; /* the value of sink.type */
    enum sink_shape shape;
    /* The sink object -> a destination. On true fills ret (config, label, identity, prefix,
     * place; type is set by the caller). On false fills reterr (VERDICT_PERMANENT; FAULT_DATA
     * for a missing or mistyped field, FAULT_TENANT for a value that policy refuses), naming the
     * field and quoting no value. Registers each secret with secret_add(). Spellings: see
     * sink_field(). */
    bool (*parse)(const struct config *, const cJSON *sink, struct destination *ret,
                  struct outcome *reterr);
    /* Drops the secrets registered, wipes and frees config. */
    void (*free_config)(void *config);
    /* Memory that config takes, by heap_bytes() of all that it owns, and secret_bytes() of what it
     * registered: memory.budget is charged with it. NULL where config owns nothing. */
    size_t (*size)(const void *config);
    int64_t (*retry_window_ms)(const struct config *); /* how long a delivery is tried */
    /* Takes the batch; done() comes later. Never blocks. */
    void (*submit)(struct sink_env *, struct batch *);
    /* Optional: gives a submitted batch up soon; done() still comes (RETRY "cancelled", or the real
     * outcome if that was faster). */
    void (*cancel)(struct sink_env *, struct batch *);
    /* Optional: periodic work and the completion of what doesn't run through http; called each turn
     * of the lane. Returns the longest the lane may wait before the next call, ms (-1: no wish). */
    int (*tick)(struct sink_env *, int64_t now_ms);
    void (*close)(struct sink_env *); /* optional; what is still submitted gets its done() first */
};

extern const struct sink_type *const sink_types[]; /* registry.c; NULL-terminated */

/* NULL when there is none. */
static inline const struct sink_type *sink_type_named(const char *name) {
    size_t i = 0;
    while (sink_types[i] && strcmp(sink_types[i]->name, name) != 0) i++;
    return sink_types[i];
}

static inline size_t sink_type_index(const struct sink_type *type) {
    size_t i = 0;
    while (sink_types[i] != type)
        if (!sink_types[i++]) abort(); /* a type that nobody registered */
    return i;
}

/* Reads a field of the sink object in either spelling (camelCase given; snake_case derived),
 * case-sensitively. NULL when absent or JSON null. *reterr is filled and *retbad set when both
 * spellings are present and differ, or one spelling stands twice with different values. Takes as
 * long as the object is. */
const cJSON *sink_field(const cJSON *sink, const char *camel, bool *retbad, struct outcome *reterr);

/* Refuses a sink object for good: "sink.FIELD WHAT". Returns false. */
bool sink_refuse(struct outcome *reterr, enum fault, const char *field, const char *what);

#endif
