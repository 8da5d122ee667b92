/* The walk down a JobRun document: one pass that validates the bytes, keeps the values that matter
 * and notes each secret's place. What the values mean is judged afterwards, by jobrun.c, which is
 * the only caller. Pure; any thread; everything borrows from the document and the arena. */
#ifndef RUNSINK_JOBREAD_H
#define RUNSINK_JOBREAD_H

#include "worker/event/echo.h"
#include "worker/event/names.h"

/* Values that are kept while walking down and looked at afterwards. What encloses comes before what
 * it holds, so that the outermost of several conflicts is named. */
enum field {
    F_DATA,
    F_DATA_BASE64,
    F_JOB_RUN,
    F_SNAPSHOT,
    F_SINK,
    F_ID,
    F_WORKSPACE_ID,
    F_PROJECT_ID,
    F_JOB_ID,
    F_CREATED_AT,
    F_UPDATED_AT,
    F_START_TIME,
    F_END_TIME,
    F_TYPE,
    F_STATUS,
    F_PAYLOADS,
    F_SUCCESSFUL_RUNS,
    F_FAILED_RUNS,
    F_ERROR,
    F_ERROR_CODE,
    F_REASON,
    F_REASON_TYPE,
    F_API_INFO,
    F_API_NAME,
    FIELDS
};

/* What one object that may be the run holds: the CloudEvent, the document or its data, jobRun. */
enum place { PLACE_CLOUDEVENT, PLACE_BODY, PLACE_WRAPPED, PLACES };
struct fields {
    enum place place;
    struct json_value v[FIELDS];
    uint32_t snake;     /* bit sets of 1u << enum field: first seen in snake_case */
    uint32_t duplicate; /* stands twice, values differ */
    uint32_t conflict;  /* stands in both spellings, values differ */
};

/* What the strings are that the reader comes by: nothing special, maybe URLs, or all secret, by
 * what they are called, by their place, or by both: then so are numbers. */
enum strings { STRINGS_OPEN, STRINGS_URLS, STRINGS_NAMED, STRINGS_SECRET, STRINGS_SECRET_NAMED };

/* A value that came before a name which may say that it is secret: all of its text. */
struct early {
    struct str text;
    struct early *next;
};

/* An object that may be a pair: {"name": "PASSWORD", "value": "..."}, in whatever order. */
struct pair {
    bool tells; /* its name says that the value is secret */
    struct early *values;
};

struct reading {
    struct json j;
    struct arena *arena;
    const struct known_sinks *known_sinks;
    enum strings strings;
    /* Of the last sink object: where it starts, what it says, which of the values are its own, and
     * whether it was known. */
    const char *sink_at;
    struct known_sink facts;
    struct edit own;
    const struct known_sink *known;
    struct echoes values; /* taken for secrets */
    struct pair *pair;    /* of the object that is being read; NULL: it looks like none so far */
    struct early *early;  /* the values that turned out to be secret */
    bool hides_text;      /* an edit may lie outside of the places that are known to be secret */
    struct fields fields[PLACES];
    struct fields *here; /* of the object that is being read */
    struct edit few[32];
    struct edit *edits;
    size_t n_edits, cap_edits;
    bool failed; /* a secret, or what holds one, has a form that can't be redacted */
    struct outcome failure;
};

/* Reads the whole document into r (which may be uninitialised). False when it is no JSON (r->j.err
 * says why, r->j.at where) or r->failed. ret_root is the document's value. */
bool job_read(struct reading *r, struct str document, bool structured, const struct known_sinks *,
              struct arena *, struct json_value *ret_root);

#endif
