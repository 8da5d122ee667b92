/* Signature Version 2, through libs3: for the endpoints that an operator lists because they know
 * nothing newer.
 *
 * libs3 2.0 follows redirects, has no total timeout, lets nobody set options on its curl handles,
 * and uses them again (see http.c for why that is not safe); to it an answer that breaks off
 * is as good as a whole one. So the build takes its static archive, where curl is not yet bound,
 * with three symbols renamed. Where libs3 would call curl_multi_add_handle(), the last step before
 * a transfer starts, it calls s3_sigv2_add_handle() below, which sends a copy of the handle, used
 * once, with options of ours; the other two find the copy again. Linking the archive also means
 * that there is one libcurl in the process, ours: Debian's shared libs3 brings the GnuTLS flavour
 * along, and options may be set on a handle only by the library that made it.
 *
 * libs3 is driven by polling, not through select(): no descriptor is too high for it. */
#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <libs3.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "config/config.h"
#include "sinks/egress.h"
#include "sinks/http/http_error.h"
#include "sinks/http/http_head.h"
#include "sinks/s3/s3.h"
#include "sinks/s3/s3_error.h"
#include "worker/base/clock.h"

#define POLL_MS 10

struct lane {
    const struct config *cfg;
    S3RequestContext *context;
    size_t in_flight;
    LIST_HEAD(puts, put) puts;    /* with a copy of a handle */
    TAILQ_HEAD(ended, put) ended; /* batch->done() is due at the next tick */
};

struct put {
    struct lane *lane;
    struct batch *batch;
    size_t sent;
    CURL *theirs, *easy; /* libs3's handle and its copy, while the transfer lives; NULL before */
    CURLM *multi;        /* that the copy is in; NULL when it is in none */
    struct http_failure failure;
    struct http_head head;
    char kept[HTTP_KEPT][HTTP_KEPT_SIZE];
    struct buf answer; /* its body, http.response_max at most */
    int64_t until_ms;  /* when what is left of a success's body is waited for no more; 0 */
    bool cancelled;
    struct outcome outcome;
    TAILQ_ENTRY(put) ended;
    LIST_ENTRY(put) link;
};

CURLMcode s3_sigv2_add_handle(CURLM *, CURL *);
CURLMcode s3_sigv2_remove_handle(CURLM *, CURL *);
CURLcode s3_sigv2_getinfo(CURL *, CURLINFO, ...);

/* The put that is inside S3_put_object(), and the lane whose puts libs3 asks about: it passes
 * nothing along. */
static _Thread_local struct put *starting;
static _Thread_local struct lane *running;

enum { ETAG, REQUEST_ID, CONTENT_TYPE, CONTENT_LENGTH };
static const char *const want_headers[HTTP_KEPT] = {"etag", "x-amz-request-id", "content-type",
                                                    "content-length"};

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

/* As in http.c: a 2xx to a request that has gone out whole decides. */
static bool decided(const struct put *p) {
    return p->head.status / 100 == 2 && p->sent == p->batch->body_len;
}

static size_t on_header(char *text, size_t size, size_t n, void *put_) {
    struct put *p = put_;
    bool was_over = p->head.status != 0;
    if (!http_head_line(&p->head, p->easy, (struct str){text, size * n})) return 0;
    if (!was_over && decided(p))
        p->until_ms = clock_ms(CLOCK_MONOTONIC) + p->lane->cfg->http_answer_wait;
    return size * n;
}

/* libs3 reads no body of a success, and of an error what it knows: s3_error.c is to decide for both
 * signatures. */
static size_t on_body(char *text, size_t size, size_t n, void *put_) {
    struct put *p = put_;
    size_t bytes = size * n, room = p->answer.max - p->answer.n;
    buf_add(&p->answer, text, bytes < room ? bytes : room);
    return bytes <= room ? bytes : 0;
}

static int progress(void *put_, curl_off_t down_total, curl_off_t down, curl_off_t up_total,
                    curl_off_t up) {
    const struct put *p = put_;
    (void)down_total, (void)down, (void)up_total, (void)up;
    return p->cancelled || (p->until_ms && clock_ms(CLOCK_MONOTONIC) >= p->until_ms);
}

#define SET(option, value) (curl_easy_setopt(easy, option, value) == CURLE_OK)

static bool set_options(CURL *easy, struct put *p) {
    const struct config *cfg = p->lane->cfg;
    p->failure.proxied = cfg->egress_proxy[0] != '\0';
    return SET(CURLOPT_FOLLOWLOCATION, 0L) && SET(CURLOPT_PROTOCOLS_STR, "http") &&
           SET(CURLOPT_HTTP09_ALLOWED, 0L) && SET(CURLOPT_OPENSOCKETFUNCTION, open_socket) &&
           SET(CURLOPT_OPENSOCKETDATA, p) && SET(CURLOPT_PROXY, cfg->egress_proxy) &&
           SET(CURLOPT_NOPROXY, "") && SET(CURLOPT_HTTPPROXYTUNNEL, p->failure.proxied ? 1L : 0L) &&
           SET(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L) &&
           SET(CURLOPT_CONNECTTIMEOUT_MS, (long)cfg->http_connect_timeout) &&
           SET(CURLOPT_TIMEOUT_MS, (long)cfg->http_timeout) && SET(CURLOPT_LOW_SPEED_LIMIT, 100L) &&
           SET(CURLOPT_LOW_SPEED_TIME, (long)((cfg->http_idle_timeout + 999) / 1000)) &&
           SET(CURLOPT_MAXFILESIZE_LARGE, (curl_off_t)cfg->http_response_max) &&
           SET(CURLOPT_HEADERFUNCTION, on_header) && SET(CURLOPT_HEADERDATA, p) &&
           SET(CURLOPT_WRITEFUNCTION, on_body) && SET(CURLOPT_WRITEDATA, p) &&
           SET(CURLOPT_XFERINFOFUNCTION, progress) && SET(CURLOPT_XFERINFODATA, p) &&
           SET(CURLOPT_NOPROGRESS, 0L);
}

CURLMcode s3_sigv2_add_handle(CURLM *multi, CURL *theirs) {
    struct put *p = starting;
    if (!p) return CURLM_INTERNAL_ERROR;
    CURL *easy = curl_easy_duphandle(theirs);
    CURLMcode code = CURLM_OUT_OF_MEMORY;
    if (easy && set_options(easy, p)) {
        p->easy = easy; /* libcurl may call back at once */
        code = curl_multi_add_handle(multi, easy);
    }
    if (code != CURLM_OK) {
        p->easy = NULL;
        curl_easy_cleanup(easy);
        return code;
    }
    p->theirs = theirs;
    p->multi = multi;
    LIST_INSERT_HEAD(&p->lane->puts, p, link);
    return CURLM_OK;
}

/* libs3 has the copy from libcurl, as that of a transfer that has ended. */
CURLMcode s3_sigv2_remove_handle(CURLM *multi, CURL *easy) {
    for (struct put *p = running ? LIST_FIRST(&running->puts) : NULL; p; p = LIST_NEXT(p, link))
        if (p->easy == easy) p->multi = NULL;
    return curl_multi_remove_handle(multi, easy);
}

/* What libs3 asks of its own handle, which has seen no answer, the copy knows. */
CURLcode s3_sigv2_getinfo(CURL *easy, CURLINFO info, ...) {
    va_list ap;
    va_start(ap, info);
    void *ret = va_arg(ap, void *);
    va_end(ap);
    for (const struct put *p = running ? LIST_FIRST(&running->puts) : NULL; p;
         p = LIST_NEXT(p, link))
        if (p->theirs == easy) easy = p->easy;
    return curl_easy_getinfo(easy, info, ret);
}

static void free_copy(struct put *p) {
    if (!p->easy) return;
    if (p->multi) curl_multi_remove_handle(p->multi, p->easy);
    curl_easy_cleanup(p->easy);
    LIST_REMOVE(p, link);
    p->easy = NULL;
}

/* What libs3's status says about a transfer that brought no answer. libs3 keeps curl's own code to
 * itself. */
static struct outcome transport_outcome(struct put *p, S3Status status) {
    long os_errno = 0;
    curl_off_t total_us = 0;
    curl_easy_getinfo(p->easy, CURLINFO_OS_ERRNO, &os_errno);
    curl_easy_getinfo(p->easy, CURLINFO_TOTAL_TIME_T, &total_us);
    p->failure.os_errno = os_errno;
    p->failure.sent = p->sent > 0;
    p->failure.answered = p->head.begun;
    p->failure.headers_too_large = p->head.too_large;
    if (status == S3StatusNameLookupError)
        p->failure.code = CURLE_COULDNT_RESOLVE_HOST;
    else if (status == S3StatusFailedToConnect)
        p->failure.code = CURLE_COULDNT_CONNECT;
    else if (total_us / 1000 >= p->lane->cfg->http_timeout - POLL_MS)
        p->failure.code = CURLE_OPERATION_TIMEDOUT;
    else
        p->failure.code =
            p->head.begun || status == S3StatusOK ? CURLE_PARTIAL_FILE : CURLE_RECV_ERROR;
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

static struct outcome judge(struct put *p, S3Status status) {
    if (!p->easy) return refused_outcome(status);
    const struct s3_answer answer = {.status = p->head.status,
                                     .etag = p->kept[ETAG],
                                     .request_id = p->kept[REQUEST_ID],
                                     .type = p->kept[CONTENT_TYPE],
                                     .length = p->kept[CONTENT_LENGTH],
                                     .body = {p->answer.p, p->answer.n}};
    int http = answer.status;
    struct s3_error error = {{0}};
    bool refused = s3_error_parse(answer.body, &error);
    if (decided(p) && !refused && s3_is_stored(&answer)) return outcome_ok(http);
    if (p->cancelled && http == 0)
        return outcome_fail(VERDICT_RETRY, FAULT_SYSTEM, "cancelled", "given up by the worker");
    if (http == 0 || (http / 100 == 2 && !refused && !decided(p)))
        return transport_outcome(p, status);
    return s3_outcome(http, &error, p->head.retry_after_ms);
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
    p->lane->in_flight--;
    TAILQ_INSERT_TAIL(&p->lane->ended, p, ended);
}

/* From S3_put_object() or from a tick; done() waits for the tick's next step in either case. */
static void complete(S3Status status, const S3ErrorDetails *details, void *put_) {
    struct put *p = put_;
    (void)details;
    struct outcome o = judge(p, status);
    free_copy(p);
    buf_wipe(&p->answer);
    end(p, o);
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
    TAILQ_INIT(&l->ended);
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
    running = p->lane;
    S3_put_object(&bucket, b->key, b->body_len, &properties, p->lane->context, &handler, p);
    starting = NULL;
    running = NULL;
    pthread_mutex_unlock(&gmtime_lock);
}

void s3_sigv2_submit(const struct config *cfg, void **state, struct batch *b) {
    struct lane *l = lane_of(cfg, state);
    struct put *p = xcalloc(1, sizeof *p);
    p->lane = l;
    p->batch = b;
    p->failure.text = "";
    p->failure.host = str_c(((const struct s3_config *)b->dest->config)->host);
    p->head.want = want_headers;
    p->head.kept = p->kept;
    buf_init_secret(&p->answer, (size_t)cfg->http_response_max);
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

static void finish_ended(struct lane *l) {
    /* Only those that are here now: done() may submit more, which wait for the next tick. */
    struct ended now = TAILQ_HEAD_INITIALIZER(now);
    TAILQ_CONCAT(&now, &l->ended, ended);
    for (struct put *p; (p = TAILQ_FIRST(&now));) {
        // NOLINTNEXTLINE(clang-analyzer-unix.Malloc): it leaves the list before it is freed
        struct batch *b = p->batch;
        struct outcome o = p->outcome;
        TAILQ_REMOVE(&now, p, ended);
        free(p);
        b->sink_state = NULL;
        b->done(b, &o);
    }
}

int s3_sigv2_tick(void **state) {
    struct lane *l = *state;
    if (!l) return -1;
    int remaining;
    running = l;
    if (l->in_flight > 0 && S3_runonce_request_context(l->context, &remaining) != S3StatusOK) {
        fputs("runsink: libs3 can't go on with its transfers\n", stderr); /* a bug, or no memory */
        abort();
    }
    running = NULL;
    finish_ended(l);
    return !TAILQ_EMPTY(&l->ended) ? 0 : l->in_flight > 0 ? POLL_MS : -1;
}

void s3_sigv2_close(void **state) {
    struct lane *l = *state;
    if (!l) return;
    running = l;
    S3_destroy_request_context(l->context); /* completes what flies */
    running = NULL;
    while (!TAILQ_EMPTY(&l->ended)) finish_ended(l);
    free(l);
    *state = NULL;
}
