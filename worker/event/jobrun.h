/* Decoding: from a Kafka record's bytes to the event that runsink acts on. Pure: no I/O, no
 * globals; any thread. Everything in a struct jobrun borrows from the record's bytes or from the
 * arena that was passed in. Source of the rules: the event model, worker/event/README.md. */
#ifndef RUNSINK_JOBRUN_H
#define RUNSINK_JOBRUN_H

#include "worker/base/arena.h"
#include "worker/base/outcome.h"
#include "worker/event/json.h"
#include "worker/event/names.h"

/* One record header. Kafka allows a null value: p is NULL then. */
struct header {
    struct str name;
    struct str value;
};

/* What was read from Kafka: value.p NULL is a tombstone. */
struct message {
    struct str value;
    const struct header *headers;
    size_t n_headers;
};

/* What the record's framing turned out to be. */
enum framing {
    FRAMING_BARE,
    FRAMING_WRAPPED,
    FRAMING_CE_BINARY,
    FRAMING_CE_STRUCTURED,
    FRAMING_CONFLUENT,
    FRAMING_OUTBOX
};

/* A span of a payload (byte offsets into it) that is replaced by `[REDACTED]` when the payload is
 * delivered. Spans are ascending, never overlap and lie inside JSON strings, quotes excluded, or
 * are a whole number or boolean. */
struct edit {
    size_t at;
    size_t n : 56;     /* small, for there may be hundreds of thousands */
    size_t quotes : 8; /* bytes of them that the mark gets in the place of what is no string: 2, or
                          0 */
};

static inline struct edit edit_of(size_t at, size_t n, size_t quotes) {
    return (struct edit){at, n & (((size_t)1 << 56) - 1), quotes & 2};
}

/* The JSON document to deliver: what is left when the framing is off (a wrapper object stays). */
struct payload {
    struct str json;
    const struct edit *edits;
    size_t n_edits;
    bool verbatim;       /* the caller's: deliver it without the edits */
    bool one_line;       /* no line break stands in it */
    bool lone_surrogate; /* an escape in it names half of a pair: some readers refuse that */
};

/* What one sink object says, and one that stood in an event before: its bytes alone decide what is
 * secret in it, so an equal one needs no second reading. */
struct echo;
struct known_sink {
    struct str json;
    int depth;                /* of nesting, where it stood: JSON_DEPTH_MAX counts from the top */
    const struct edit *edits; /* byte offsets into json */
    size_t n_edits;
    const struct echo *values; /* taken for secrets wherever they stand */
    size_t n_values;
    bool escapes; /* holds an escape */
};

/* Who remembers them. */
struct known_sinks {
    /* The one that text starts with, or NULL. Borrowed until whoever remembers is changed. */
    const struct known_sink *(*find)(void *ctx, struct str text, int depth);
    void *ctx;
    struct names *names; /* redact.names; NULL: its default */
};

/* The run's own texts that keys and headers are made of. */
enum run_text { RUN_ID, RUN_WORKSPACE_ID, RUN_PROJECT_ID, RUN_JOB_ID, RUN_UPDATED_AT, RUN_STATUS };

struct jobrun {
    enum framing framing;
    struct payload payload;
    /* ce_id, structured "id", or the outbox header "id"; empty when there is none, or none that
     * can serve as an id: over 1024 bytes, not UTF-8, control characters. */
    struct str event_id;
    /* Field values with JSON escapes resolved. Required by the model; only times may be empty. */
    struct str id, workspace_id, project_id, job_id, created_at, updated_at, start_time, type,
        status;
    struct str api_name; /* apiInfo.name; empty when the event names no API */
    struct str sink;     /* the sink object's raw JSON, braces included; p NULL: absent or null */
    struct known_sink facts;        /* of the sink; json.p NULL: there are none. The arena's */
    const struct known_sink *known; /* the sink, when it was found among the known; for route() */
    unsigned hidden;                /* bits 1u << enum run_text: those that hold a secret */
    /* status, type, error.code or reason.type has a value that the model does not list yet, or a
     * time is no RFC 3339. */
    bool unknown_value;
};

/* redact.names, ready for use; for names_free(). */
struct names *job_names(const struct list *);

/* Takes the framing off, validates strictly (RFC 8259, UTF-8, types, required fields, both
 * spellings, duplicate keys) and finds the fields and the secrets, in one pass over the bytes. On
 * true ret is filled. On false reterr says why (VERDICT_PERMANENT, FAULT_DATA, detail names the
 * field and quotes no value) or, for a tombstone, VERDICT_OK with why "tombstone": the record is
 * skipped. */
bool jobrun_decode(const struct message *, struct arena *, struct jobrun *ret,
                   struct outcome *reterr);
/* The same by what the caller knows: redact.names, and sink objects. */
bool jobrun_decode_known(const struct message *, const struct known_sinks *, struct arena *,
                         struct jobrun *ret, struct outcome *reterr);
/* What a sink object says by itself. False when it is none. */
bool jobrun_sink_facts(struct str sink, struct names *, struct arena *, struct known_sink *ret);
/* Of a record that can't be decoded: its workspace's id as it is written, empty where there is
 * none; the record's, or the arena's. Reads no more than strings and braces, so what spoils the
 * record hides nothing; what a tenant writes lies deeper than the id, and the outermost counts. */
struct str jobrun_whose(const struct message *, struct arena *);
/* The same for people. *ret_hidden: it holds a secret of the record, or one can't tell, as much of
 * the record can't be read. */
struct str jobrun_whose_shown(const struct message *, const struct known_sinks *, struct arena *,
                              bool *ret_hidden);

#endif
