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

/* Reads Code, Message, Region and Endpoint from the children of a root element Error. Not an XML
 * parser: no DTD, no entities but the five predefined, no attributes of interest. At anything
 * unusual it stops and keeps what it has. False (ret all empty) when the document is no Error. */
bool s3_error_parse(struct str body, struct s3_error *ret);

/* The outcome of an answer with this status (not a success). retry_after_ms as asked for by the
 * store. Never FAULT_SYSTEM, and not a word of it is the store's: its code is quoted when it is one
 * that we know, and otherwise the status alone. A store is a tenant's, who may have it say
 * anything: his own credentials too, in forms that no scrubber knows. */
struct outcome s3_outcome(int status, const struct s3_error *, uint32_t retry_after_ms);
/* The same of a store of the operator's own: with its message, scrubbed. */
struct outcome s3_outcome_told(int status, const struct s3_error *, uint32_t retry_after_ms);

/* Whether a store gave this 2xx to a PUT, by its headers. A web server behind the endpoint's name
 * (a sign-in page, a parked domain) says 200 to anything. Amazon S3 API reference, PutObject: a
 * success names the object's ETag, and every answer its request. */
bool s3_is_store(const char *etag, const char *request_id, const char *content_type);
/* The outcome of a 2xx to a PUT that no store gives: the object is not there. */
struct outcome s3_not_a_store(int status);

/* 1 to SIGV4_REGION_MAX characters of [a-z0-9-]: may be a label of a host's name. */
bool s3_region_is_label(struct str);
/* Looks like one of AWS's own, of a vocabulary that holds nobody's bytes: may be told. */
bool s3_region_is_known(struct str);
/* 1 to SIGV4_REGION_MAX visible ASCII characters that don't part the fields of an Authorization
 * header: may be signed for, and is a name of the store's own choosing ("RegionOne", "us_east_1").
 */
bool s3_region_valid(struct str);

#endif
