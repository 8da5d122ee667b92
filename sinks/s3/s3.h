/* The parts of the S3 sink: s3_dest.c makes destinations and corrects their region, s3_request.c
 * builds signed requests, s3.c sends them and judges the answers, s3_sigv2.c serves the endpoints
 * that know Signature Version 2 only. Nobody but these and their tests includes this. Lane's
 * thread. */
#ifndef RUNSINK_S3_H
#define RUNSINK_S3_H

#include "sinks/s3/sigv4.h"
#include "sinks/sink.h"

struct curl_slist;

/* Header lines on their way into a request: each "name: value" with a NUL behind it. */
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
    struct s3_lines fixed; /* headers that are the same in every request */
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

/* Headers that configuration and credentials fix. */
void s3_fixed_headers(struct s3_config *, const struct config *);
/* The PUT of a batch at a moment: url and signed headers, the caller's to free. */
void s3_put_request(struct s3_config *, const struct config *, const struct batch *, int64_t now_s,
                    struct buf *url, struct curl_slist **ret_headers);

/* Takes over the region that a store's refusal names, once per destination. True when the request,
 * signed for signed_region, is worth sending again. */
struct s3_error;
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
