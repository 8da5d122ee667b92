/* AWS Signature Version 4 for requests that are sent whole (no chunked signing). Pure: the clock is
 * passed in. One thread at a time per struct sigv4_key.
 * Source: AWS, "Signature Version 4 signing process" and, for S3's rules (the path is encoded once
 * and never normalised), "Authenticating Requests: Using the Authorization Header". */
#ifndef RUNSINK_SIGV4_H
#define RUNSINK_SIGV4_H

#include <stdint.h>

#include "worker/base/buf.h"
#include "worker/base/hash.h"

#define SIGV4_REGION_MAX 64
#define SIGV4_DATE_LEN 16 /* 20130524T000000Z */
#define SIGV4_HEADERS_MAX 64

struct sigv4_header {
    struct str name; /* any case */
    struct str value;
};

/* What is signed, borrowed for the call. path and query are what stands on the request line: made
 * by sigv4_path() and sigv4_query(). Each header given is signed; Host and x-amz-date must be among
 * them, with a session token x-amz-security-token too. */
struct sigv4_request {
    const char *method;
    struct str path;
    struct str query;
    const struct sigv4_header *headers;
    size_t n_headers;           /* at most SIGV4_HEADERS_MAX */
    const char *payload_sha256; /* lower-case hex, or "UNSIGNED-PAYLOAD" */
};

/* Who signs, and for where. */
struct sigv4_signer {
    const char *access_key_id;
    const char *secret_access_key;
    const char *region; /* at most SIGV4_REGION_MAX bytes */
    const char *service;
};

/* The derived key of one secret, kept between calls because it changes once a day only. Belongs to
 * one signer's secret: zero it (or wipe) when the secret changes. */
struct sigv4_key {
    char scope[9 + SIGV4_REGION_MAX + 1 + 32]; /* day/region/service; empty: none yet */
    uint8_t key[SHA256_LEN];
};

/* Seconds since the epoch in the form of x-amz-date. */
void sigv4_date(int64_t now_s, char ret[SIGV4_DATE_LEN + 1]);

/* Appends text percent-encoded: everything but A-Za-z0-9-._~ and '/'. */
bool sigv4_path(struct buf *, struct str text);

struct sigv4_param {
    struct str name;
    struct str value;
};
/* Appends the query in the one form that is sent and signed: encoded, sorted, always k=v. Sorts
 * params in place; at most 32 of them. */
bool sigv4_query(struct buf *, struct sigv4_param *params, size_t n);

/* Appends the value of the Authorization header. False when a bound is passed (too many headers,
 * region or service too long, out's ceiling); out is unchanged then. */
bool sigv4_sign(const struct sigv4_request *, const struct sigv4_signer *, struct sigv4_key *cache,
                const char date[SIGV4_DATE_LEN + 1], struct buf *out);

#endif
