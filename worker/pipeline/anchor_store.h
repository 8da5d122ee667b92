/* The operator's bucket that holds the anchors: requests to it, signed with Signature Version 4,
 * and its listings. It is named by the configuration, so the egress rules for what events name do
 * not hold for it. One thread at a time. */
#ifndef RUNSINK_ANCHOR_STORE_H
#define RUNSINK_ANCHOR_STORE_H

#include "config/config.h"
#include "sinks/http/http.h"
#include "sinks/s3/sigv4.h"

struct anchor_store;
/* From the anchor.* keys. NULL with a message for the operator in err. */
struct anchor_store *anchor_store_new(const struct config *, struct buf *err);
void anchor_store_free(struct anchor_store *);
const char *anchor_store_label(const struct anchor_store *); /* "s3://bucket/ @ host" */

/* Fills method, url and headers of a zeroed request, and what the answer is to be read for; url
 * must live as long as the request. False past a bound. */
bool anchor_store_put(struct anchor_store *, const char *key, struct str body,
                      struct http_request *, struct buf *url);
/* key "": the bucket itself. The parameters are sorted in place. */
bool anchor_store_get(struct anchor_store *, const char *key, struct sigv4_param *, size_t n,
                      struct http_request *, struct buf *url);
/* Judges a finished request, and learns from it (the bucket's region, a condition that the store
 * does not know): VERDICT_OK, or an outcome whose texts may be shown. */
struct outcome anchor_store_judge(struct anchor_store *, struct http_request *,
                                  const struct outcome *transport);

/* What a page of a listing holds of interest, in its order. */
enum listed { LISTED_OBJECT, LISTED_MARKER /* a delete marker */ };
struct listed_item {
    enum listed kind;
    struct str key, version; /* as they stand in the answer; version empty: not told */
    struct str modified;     /* 2026-01-31T12:00:00.000Z; empty: not told */
};
#define LISTING_MAX 1000
struct listing {
    struct listed_item items[LISTING_MAX];
    size_t n;
    bool truncated; /* there is more after it */
};
/* Reads the answer of ListObjectVersions or ListObjectsV2. No XML parser: elements without
 * attributes of interest, texts as they stand (keys of ours need no escaping). False when it is
 * neither, is cut, or holds more than LISTING_MAX items. Borrows from body. Pure. */
bool listing_read(struct str body, struct listing *ret);

#endif
