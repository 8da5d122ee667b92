/* The parts of the webhook sink: webhook_dest.c makes destinations, webhook.c builds requests,
 * signs and sends them and judges the answers. Nobody but these and their tests includes this.
 * Lane's thread. */
#ifndef RUNSINK_WEBHOOK_H
#define RUNSINK_WEBHOOK_H

#include "sinks/sink.h"

struct curl_slist;

#define WEBHOOK_URL_MAX 2048
#define WEBHOOK_HEADER_BYTES_MAX 8192 /* names and values of all headers of a sink */
#define WEBHOOK_ID_MAX 512

/* destination.config of type webhook. Everything is owned. */
struct webhook {
    char *url; /* without userinfo and fragment */
    /* What is the same in every request: the sink's headers, Authorization from the userinfo,
     * Content-Type. Requests borrow it. */
    struct curl_slist *headers;
    unsigned passed; /* struct http_request's */
    char **secrets;  /* registered with the log's scrubber */
    size_t n_secrets;
};

bool webhook_parse(const struct config *, const cJSON *sink, struct destination *ret,
                   struct outcome *reterr);
void webhook_free(void *);
size_t webhook_size(const void *);

/* An event's id as a header value: what is not visible ASCII, and the percent sign, is
 * percent-encoded, so different ids stay different; one that comes out longer than WEBHOOK_ID_MAX
 * is replaced by its digest. */
void webhook_id(struct str id, char ret[WEBHOOK_ID_MAX + 1]);

/* Appends "v1,<base64>", Standard Webhooks' signature by one secret ("whsec_" and base64). */
void webhook_sign(struct buf *out, const char *secret, const char *id, const char *timestamp,
                  struct str body);

/* Whether a value may be passed on. Source: W3C Trace Context, sections 3.2 and 3.3. */
bool traceparent_valid(struct str);
bool tracestate_valid(struct str);

extern const struct sink_type webhook_sink;

#endif
