/* Signature Version 2, through libs3: for the endpoints that an operator lists because they know
 * nothing newer.
 *
 * libs3 2.0 follows redirects, has no total timeout and lets nobody set options on its curl
 * handles. So the build takes its static archive, where curl is not yet bound, with one symbol
 * renamed: where libs3 would call curl_multi_add_handle(), the last step before a transfer starts,
 * it calls s3_sigv2_add_handle() below. Linking the archive also means that there is one libcurl in
 * the process, ours: Debian's shared libs3 brings the GnuTLS flavour along, and options may be set
 * on a handle only by the library that made it.
 *
 * libs3 is driven by polling, not through select(): no descriptor is too high for it. */
#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <libs3.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "config/config.h"
#include "sinks/http_error.h"
#include "sinks/s3.h"
#include "sinks/s3_error.h"

#define POLL_MS 10

struct lane {
    const struct config *cfg;
    S3RequestContext *context;
    size_t in_flight;
    struct put *done, **done_last; /* ended, batch->done() due at the next tick */
};

struct put {
    struct lane *lane;
    struct batch *batch;
    size_t sent;
    CURL *easy; /* libs3's, while the transfer lives; NULL before it started */
    struct http_failure failure;
    bool cancelled;
    struct outcome outcome;
    struct put *next;
};

CURLMcode s3_sigv2_add_handle(CURLM *, CURL *);

/* The put that is inside S3_put_object(): libs3 passes nothing along. */
static _Thread_local struct put *starting;

static curl_socket_t open_socket(void *put_, curlsocktype purpose, struct curl_sockaddr *address) {
    struct put *p = put_;
    (void)purpose;
    const char *denied =
        p->failure.proxied ? NULL : egress_address(&p->lane->cfg->egress, &address->addr);
    if (denied) {
        p->failure.denied = denied;
        return CURL_SOCKET_BAD;
    }
    int fd = socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    if (fd < 0)
        p->failure.socket_errno = errno;
    else
        p->failure.opened = true;
    return fd < 0 ? CURL_SOCKET_BAD : fd;
}

static int progress(void *put_, curl_off_t down_total, curl_off_t down, curl_off_t up_total,
                    curl_off_t up) {
    (void)down_total, (void)down, (void)up_total, (void)up;
    return ((const struct put *)put_)->cancelled;
}

static bool set_options(CURL *easy, struct put *p) {
    const struct config *cfg = p->lane->cfg;
    p->failure.proxied = cfg->egress_proxy[0] != '\0';
    return curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, p) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PROXY, cfg->egress_proxy) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_NOPROXY, "") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HTTPPROXYTUNNEL, p->failure.proxied ? 1L : 0L) ==
               CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, (long)cfg->http_connect_timeout) ==
               CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)cfg->http_timeout) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 100L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME,
                            (long)((cfg->http_idle_timeout + 999) / 1000)) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)cfg->http_response_max) ==
               CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, progress) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_XFERINFODATA, p) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0L) == CURLE_OK;
}

CURLMcode s3_sigv2_add_handle(CURLM *multi, CURL *easy) {
    if (!starting || !set_options(easy, starting)) return CURLM_INTERNAL_ERROR;
    starting->easy = easy;
    return curl_multi_add_handle(multi, easy);
}

/* What libs3's status says about a transfer that brought no answer. libs3 keeps curl's own code to
 * itself. */
static struct outcome transport_outcome(struct put *p, S3Status status) {
    long os_errno = 0;
    curl_off_t total_us = 0;
    curl_easy_getinfo(p->easy, CURLINFO_OS_ERRNO, &os_errno);
    curl_easy_getinfo(p->easy, CURLINFO_TOTAL_TIME_T, &total_us);
    p->failure.os_errno = os_errno;
    if (status == S3StatusNameLookupError)
        p->failure.code = CURLE_COULDNT_RESOLVE_HOST;
    else if (status == S3StatusFailedToConnect)
        p->failure.code = CURLE_COULDNT_CONNECT;
    else if (total_us / 1000 >= p->lane->cfg->http_timeout - POLL_MS)
        p->failure.code = CURLE_OPERATION_TIMEDOUT;
    else
        p->failure.code = CURLE_RECV_ERROR;
    return http_error(&p->failure);
}

/* libs3 refused the request before it became a transfer. */
static struct outcome refused_outcome(S3Status status) {
    const char *name = S3_get_status_name(status);
    bool ours = status == S3StatusInternalError || status == S3StatusOutOfMemory ||
                status == S3StatusFailedToInitializeRequest;
    return outcome_fail(ours ? VERDICT_RETRY : VERDICT_PERMANENT,
                        ours ? FAULT_SYSTEM : FAULT_TENANT, name,
                        "libs3 could not make a request of it");
}

static struct outcome judge(struct put *p, S3Status status, const S3ErrorDetails *details) {
    if (!p->easy) return refused_outcome(status);
    long http = 0;
    curl_easy_getinfo(p->easy, CURLINFO_RESPONSE_CODE, &http);
    if ((p->cancelled || status == S3StatusInterrupted) && http == 0)
        return outcome_fail(VERDICT_RETRY, FAULT_SYSTEM, "cancelled", "given up by the worker");
    if (http == 0) return transport_outcome(p, status);
    if (status == S3StatusOK && http / 100 == 2) return outcome_ok((int)http);
    struct s3_error error = {{0}};
    const char *name = S3_get_status_name(status);
    if (strncmp(name, "Error", 5) == 0 && status != S3StatusErrorUnknown)
        outcome_token(error.code, sizeof error.code, str_c(name + 5));
    if (details && details->message)
        outcome_text(error.message, sizeof error.message, str_c(details->message));
    if (http / 100 == 2) /* the answer broke off, so whether it was a success is not known */
        return outcome_fail(VERDICT_RETRY, FAULT_TENANT, "truncated", "the answer ended early");
    return s3_outcome((int)http, &error, 0);
}

static S3Status take_properties(const S3ResponseProperties *properties, void *put_) {
    (void)properties, (void)put_;
    return S3StatusOK;
}

static int give_data(int size, char *to, void *put_) {
    struct put *p = put_;
    if (p->cancelled) return -1;
    size_t n = p->batch->body_len - p->sent;
    if (n > (size_t)size) n = (size_t)size;
    memcpy(to, p->batch->body + p->sent, n);
    p->sent += n;
    return (int)n;
}

static void end(struct put *p, struct outcome o) {
    p->outcome = o;
    p->easy = NULL;
    p->lane->in_flight--;
    *p->lane->done_last = p;
    p->lane->done_last = &p->next;
}

/* From S3_put_object() or from a tick; done() waits for the tick's next step in either case. */
static void complete(S3Status status, const S3ErrorDetails *details, void *put_) {
    struct put *p = put_;
    end(p, judge(p, status, details));
}

static void initialize(void) {
    if (S3_initialize("runsink/" RUNSINK_VERSION, S3_INIT_ALL, NULL) != S3StatusOK) abort();
}

static struct lane *lane_of(const struct config *cfg, void **state) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct lane *l = *state;
    if (l) {
        l->cfg = cfg; /* a SIGHUP may have brought another one */
        return l;
    }
    pthread_once(&once, initialize);
    l = xcalloc(1, sizeof *l);
    l->cfg = cfg;
    l->done_last = &l->done;
    if (S3_create_request_context(&l->context) != S3StatusOK) out_of_memory();
    *state = l;
    return l;
}

static void put_object(struct put *p) {
    const struct batch *b = p->batch;
    const struct s3_config *c = b->dest->config;
    char partition[16], offsets[48], count[16], sha256_hex[HEX_LEN(SHA256_LEN) + 1];
    snprintf(partition, sizeof partition, "%" PRId32, b->partition);
    snprintf(offsets, sizeof offsets, "%" PRId64 "-%" PRId64, b->first, b->last);
    snprintf(count, sizeof count, "%" PRIu32, b->count);
    hex(b->sha256, SHA256_LEN, sha256_hex);
    const S3NameValue meta[] = {{"topic", b->topic},
                                {"partition", partition},
                                {"offsets", offsets},
                                {"count", count},
                                {"sha256", sha256_hex}};
    const S3PutProperties properties = {.contentType = b->content_type,
                                        .expires = -1,
                                        .cannedAcl = S3CannedAclPrivate,
                                        .metaDataCount = sizeof meta / sizeof *meta,
                                        .metaData = meta};
    const S3BucketContext bucket = {.hostName = c->authority,
                                    .bucketName = c->bucket,
                                    .protocol = S3ProtocolHTTP,
                                    .uriStyle =
                                        c->path_style ? S3UriStylePath : S3UriStyleVirtualHost,
                                    .accessKeyId = c->access_key_id,
                                    .secretAccessKey = c->secret_access_key};
    static const S3PutObjectHandler handler = {{take_properties, complete}, give_data};
    /* libs3 makes the Date header with gmtime(), whose result all threads share. */
    static pthread_mutex_t gmtime_lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&gmtime_lock);
    starting = p;
    S3_put_object(&bucket, b->key, b->body_len, &properties, p->lane->context, &handler, p);
    starting = NULL;
    pthread_mutex_unlock(&gmtime_lock);
}

void s3_sigv2_submit(const struct config *cfg, void **state, struct batch *b) {
    struct lane *l = lane_of(cfg, state);
    struct put *p = xcalloc(1, sizeof *p);
    p->lane = l;
    p->batch = b;
    p->failure.text = "";
    b->sink_state = p;
    l->in_flight++;
    if (strchr(b->key, ' ')) { /* libs3 sends '+' for it, which few stores take for a space */
        end(p, outcome_fail(VERDICT_PERMANENT, FAULT_TENANT, "key-has-space",
                            "a Signature V2 endpoint can't be sent a key with a space"));
        return;
    }
    put_object(p);
}

void s3_sigv2_cancel(struct batch *b) {
    struct put *p = b->sink_state;
    p->cancelled = true; /* its progress callback or its next read ends it */
}

static void finish_done(struct lane *l) {
    struct put *p = l->done;
    l->done = NULL; /* a done() may submit more: those wait for the next tick */
    l->done_last = &l->done;
    while (p) {
        struct put *next = p->next;
        struct batch *b = p->batch;
        struct outcome o = p->outcome;
        free(p);
        b->sink_state = NULL;
        b->done(b, &o);
        p = next;
    }
}

int s3_sigv2_tick(void **state) {
    struct lane *l = *state;
    if (!l) return -1;
    int remaining;
    if (l->in_flight > 0 && S3_runonce_request_context(l->context, &remaining) != S3StatusOK) {
        fputs("runsink: libs3 can't go on with its transfers\n", stderr); /* a bug, or no memory */
        abort();
    }
    finish_done(l);
    return l->done ? 0 : l->in_flight > 0 ? POLL_MS : -1;
}

void s3_sigv2_close(void **state) {
    struct lane *l = *state;
    if (!l) return;
    S3_destroy_request_context(l->context); /* completes what flies */
    while (l->done) finish_done(l);
    free(l);
    *state = NULL;
}
