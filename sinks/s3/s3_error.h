/* What an S3 store says when it refuses: a small scanner for its error document, and what each
 * answer means for a delivery. Pure; any thread.
 * Source: Amazon S3 API reference, "Error responses". */
#ifndef RUNSINK_S3_ERROR_H
#define RUNSINK_S3_ERROR_H

#include "sinks/s3/sigv4.h"
#include "worker/base/outcome.h"

struct s3_error {
    char code[48];                     /* a token; empty: none found */
    char message[512];                 /* printable ASCII, the store's own words: not for showing */
    char region[SIGV4_REGION_MAX + 1]; /* valid; empty: none found */
    char endpoint[256];                /* a host name; empty: none found */
};

/* Reads Code, Message, Region and Endpoint from the children of a root element Error, of whatever
 * namespace. Not an XML parser: no DTD, no entities but the five predefined, no attributes of
 * interest; comments and processing instructions are passed over. At anything unusual it stops and
 * keeps what it has. False (ret all empty) when the document is no Error. */
bool s3_error_parse(struct str body, struct s3_error *ret);

/* The outcome of an answer with this status that is not a success: of a 2xx when its body names an
 * error, or when no store gives it ("not-a-store"). retry_after_ms as asked for by the store. Never
 * FAULT_SYSTEM, and not a word of it is the store's: its code is quoted when it is one that we
 * know, and otherwise the status alone. A store is a tenant's, who may have it say anything: his
 * own credentials too, in forms that no scrubber knows. */
struct outcome s3_outcome(int status, const struct s3_error *, uint32_t retry_after_ms);
/* The same of a store of the operator's own: with its message, scrubbed. */
struct outcome s3_outcome_told(int status, const struct s3_error *, uint32_t retry_after_ms);

/* An answer to a PUT. Headers are empty where they are absent. */
struct s3_answer {
    int status;
    const char *etag, *request_id; /* x-amz-request-id */
    const char *type, *length;     /* Content-* */
    struct str body;               /* what has come of it */
};

/* Whether it says that a store has the object. What else may stand behind the endpoint's name (a
 * sign-in page, a parked domain, some other API) says 200 to anything, often with the ETag of what
 * it says. Amazon S3 API reference, PutObject: a success is a 200 that names the object's ETag, or
 * at least its request, and has no body; so nothing depends on how that nothing ends. 201 and 204
 * are what Ceph can be set to say instead (rgw_s3_success_create_obj_status). A page is
 * none, whether it has come or not. Google's stores call a body text/html that their head says is
 * empty, so that one is no page. */
bool s3_is_stored(const struct s3_answer *);

/* 1 to SIGV4_REGION_MAX characters of [a-z0-9-]: may be a label of a host's name. */
bool s3_region_is_label(struct str);
/* Looks like one of AWS's own, of a vocabulary that holds nobody's bytes: may be told. */
bool s3_region_is_known(struct str);
/* 1 to SIGV4_REGION_MAX visible ASCII characters that don't part the fields of an Authorization
 * header: may be signed for, and is a name of the store's own choosing ("RegionOne", "us_east_1").
 */
bool s3_region_valid(struct str);

#endif
