/* The parts of the S3 sink: s3_dest.c makes destinations and corrects their region, s3_request.c
 * builds signed requests and reads answers, s3.c sends batches and judges what comes of them,
 * s3_sigv2.c serves the endpoints that know Signature Version 2 only. Whoever else talks to a store
 * (anchors, verify) makes its place with s3_parse() and its requests here. One thread at a time. */
#ifndef RUNSINK_S3_H
#define RUNSINK_S3_H

#include "sinks/s3/sigv4.h"
#include "sinks/sink.h"

struct curl_slist;

/* Header lines on their way into a request: each "name: value" with a NUL after it. */
#define S3_LINES_MAX 24
struct s3_lines {
    struct buf text;
    struct {
        size_t at; /* in text */
        size_t name_len;
    } v[S3_LINES_MAX];
    size_t n;
};

/* destination.config of type s3. Everything is owned. */
struct s3_config {
    char *bucket;
    char *access_key_id, *secret_access_key; /* registered with the log's scrubber */
    char *session_token;                     /* NULL: none; registered too */
    char region[SIGV4_REGION_MAX + 1];       /* requests are signed for it */
    bool region_learned; /* a store's hint replaced the sink's region; no second hint is followed */
    bool https;
    bool path_style;
    bool sigv2;
    bool default_endpoint; /* authority and root follow the region */
    char *authority;       /* endpoint's host[:port], port only if not the scheme's default */
    char *base_path;       /* endpoint's path without the last '/': "" or "/a/b" */
    /* What s3_place() derives from the above. */
    char *host;            /* value of the Host header */
    unsigned passed;       /* struct http_request's, for this host */
    char *path_root;       /* path before the key, ends with '/' */
    struct s3_lines fixed; /* headers that are the same in every PUT */
    struct sigv4_key key;
};

bool s3_parse(const struct config *, const cJSON *sink, struct destination *ret,
              struct outcome *reterr);
void s3_free_config(void *);
size_t s3_size(const void *);

/* The domain below which AWS serves S3 in the partition that a region belongs to.
 * Source: botocore's endpoints.json, 1.44.5, November 2026. */
const char *s3_dns_suffix(const char *region);

/* Derives host and path_root; again after the region changed. */
void s3_place(struct s3_config *);

/* A request on its way: zeroed but for the first part, begun, given header lines, ended. */
struct s3_request {
    const char *method, *key;   /* key "": the bucket itself */
    struct sigv4_param *params; /* sorted in place */
    size_t n_params;
    const char *body_sha256;     /* hex; NULL: there is no body */
    const struct s3_lines *more; /* header lines beside its own; NULL: none */
    struct s3_lines lines;
    char date[SIGV4_DATE_LEN + 1];
};
void s3_request_begin(struct s3_request *, const struct s3_config *, int64_t now_s);
void s3_request_line(struct s3_request *, const char *name, const char *value);
/* Appends the url and makes the signed headers, the caller's to free. False past a bound. */
bool s3_request_end(struct s3_request *, struct s3_config *, struct buf *url,
                    struct curl_slist **ret_headers);

/* Headers of an answer that are kept: HTTP_KEPT at most. */
enum { S3_REGION, S3_ETAG, S3_REQUEST_ID, S3_CONTENT_TYPE, S3_CONTENT_LENGTH };
struct http_request;
void s3_want_headers(struct http_request *);
/* Whether a store that has answered did what it was asked for. *ret: what it says where it did not,
 * for s3_learn_region() and s3_outcome(). A PUT asks for s3_want_headers() and HTTP_ERROR. */
struct s3_error;
bool s3_accepted(const struct http_request *, struct s3_error *ret);

/* Headers of a PUT that the configuration fixes. */
void s3_fixed_headers(struct s3_config *, const struct config *);
/* The PUT of a batch at a moment: url and signed headers, the caller's to free. */
void s3_put_request(struct s3_config *, const struct config *, const struct batch *, int64_t now_s,
                    struct buf *url, struct curl_slist **ret_headers);

/* Takes over the region that a store's refusal names, once per destination. True when the request,
 * signed for signed_region, is worth sending again. */
bool s3_learn_region(struct s3_config *, int status, const struct s3_error *,
                     const char *region_header, const char *signed_region);

#ifdef RUNSINK_LIBS3
/* As in struct sink_type; *state is the lane's slot. */
void s3_sigv2_submit(const struct config *, void **state, struct batch *);
void s3_sigv2_cancel(struct batch *);
int s3_sigv2_tick(void **state);
void s3_sigv2_close(void **state);
#endif

extern const struct sink_type s3_sink;

#endif
