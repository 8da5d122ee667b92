#include "worker/admin/admin.h"

#include <curl/curl.h>
#include <errno.h>
#include <ifaddrs.h>
#include <microhttpd.h>
#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "worker/admin/gate.h"
#include "worker/admin/status.h"
#include "worker/base/clock.h"
#include "worker/base/hash.h"
#include "worker/base/log.h"
#include "worker/kafka/client.h"
#include "worker/pipeline/lane.h"

#define CONNECTION_MEMORY ((size_t)16384) /* bounds a request's head */
#define FRESH_MS 1000                     /* a younger snapshot is not asked for again */
#define SILENT_MS 2000                    /* a lane that does not turn is not waited for */
#define PATIENCE_MS 300                   /* for all lanes together */
#define READY_MAX ((size_t)4096)
#define READY_LINES 32                 /* of troubles, in /readyz */
#define ANSWER_MAX ((size_t)128 << 20) /* more than the most that bounded lists can make */

/* The gate bounds connections. The server counts one for a moment after it has said that it is
 * gone, and would refuse the next. */
#define UNCOUNTED 16

/* worker/admin/status.html, embedded by worker/admin/embed.cmake */
extern const unsigned char status_page[];
extern const size_t status_page_len;

struct admin {
    const struct config *cfg;
    const char *config_path; /* --config, or NULL; borrowed */
    int fd;                  /* listens; the gate's once it serves */
    struct gate *gate;
    struct MHD_Daemon *daemon;
    char machine[CONFIG_HOST_MAX], listens[CONFIG_HOST_MAX]; /* names that it may be asked by */
    struct lane *const *lanes;
    size_t n;
    int64_t served_ms, started_ms; /* monotonic; wall clock */
    char policy[512];              /* Content-Security-Policy of the page */
    /* The server's thread alone: the last snapshot of each lane. */
    struct lane_snapshot **snapshots;
    int64_t *snapshot_ms;
    /* History, noted by the gate's thread. */
    pthread_mutex_t mutex;
    int64_t sample_ms;                                /* monotonic: when the next one is due */
    struct status_sample samples[STATUS_SAMPLES + 1]; /* and room for the present */
    size_t n_samples;
};

/* ---- how the lanes are ---- */

static bool is_running(const struct lane *lane) {
    return atomic_load(&lane->state) == LANE_RUNNING;
}

int64_t admin_silence_ms(struct lane *const *lanes, size_t n, int64_t since_ms, int64_t now_ms) {
    int64_t most = 0;
    for (size_t i = 0; i < n; i++) {
        if (!is_running(lanes[i])) continue;
        int64_t seen = (int64_t)count_get(&lanes[i]->counters, COUNTER_TURN_MS);
        int64_t silent = now_ms - (seen > since_ms ? seen : since_ms);
        if (silent > most) most = silent;
    }
    return most;
}

static const char draining[] = "draining: what flies is finished, nothing new is taken";

static bool has_topics(struct worker_shared *shared) {
    pthread_mutex_lock(&shared->mutex);
    bool any = shared->topics.n > 0;
    pthread_mutex_unlock(&shared->mutex);
    return any;
}

const char *admin_not_ready(struct lane *const *lanes, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (atomic_load(&lanes[i]->command) == LANE_DRAIN || !is_running(lanes[i])) return draining;
    for (size_t i = 0; i < n; i++)
        if (!count_get(&lanes[i]->counters, COUNTER_ASSIGNED))
            return has_topics(lanes[i]->shared) ? "no assignment yet: joining the consumer group"
                                                : "nothing to read: no topic that `topics` matches "
                                                  "is there and can be served";
    for (size_t i = 0; i < n; i++)
        if (count_get(&lanes[i]->counters, COUNTER_UNLOADED))
            return "the committed offset of a partition is not available yet";
    return NULL;
}

/* What keeps events from flowing now, and why it is not ready: the worst trouble that has lasted,
 * which is the cause of what the lanes say of themselves. */
struct readiness {
    struct trouble_report *troubles;
    size_t n;
    struct buf why; /* empty: it is ready */
};

static void readiness_look(const struct admin *a, struct readiness *r) {
    const struct worker_shared *shared = a->lanes[0]->shared;
    const char *why = admin_not_ready(a->lanes, a->n);
    buf_init(&r->why, READY_MAX);
    r->n = troubles_list(shared->troubles, atomic_load(&shared->cfg)->ready_patience, &r->troubles);
    for (size_t i = 0; i < r->n && why != draining && !r->why.n; i++)
        if (r->troubles[i].unready) trouble_print(&r->troubles[i], &r->why);
    if (why && !r->why.n) buf_puts(&r->why, why);
}

static void readiness_free(struct readiness *r) {
    buf_free(&r->why);
    free(r->troubles);
}

static void add_lanes(const struct admin *a, struct metrics_sums *ret) {
    memset(ret, 0, sizeof *ret);
    for (size_t i = 0; i < a->n; i++) metrics_add(ret, &a->lanes[i]->counters);
}

/* Asks all lanes whose snapshot is old, then waits for them together; one that is silent keeps its
 * old one and is not waited for again until it has turned. */
static void refresh_snapshots(struct admin *a) {
    int64_t now = clock_ms(CLOCK_MONOTONIC);
    for (size_t i = 0; i < a->n; i++)
        if (is_running(a->lanes[i]) && now - a->snapshot_ms[i] >= FRESH_MS)
            observer_ask(a->lanes[i]->observer);
    for (size_t i = 0; i < a->n; i++) {
        struct lane *const *lane = &a->lanes[i];
        if (!is_running(*lane) || now - a->snapshot_ms[i] < FRESH_MS) continue;
        bool silent = admin_silence_ms(lane, 1, a->served_ms, now) > SILENT_MS;
        struct lane_snapshot *s =
            observer_take((*lane)->observer, silent ? now : now + PATIENCE_MS);
        if (!s) continue;
        lane_snapshot_free(a->snapshots[i]);
        a->snapshots[i] = s;
        a->snapshot_ms[i] = clock_ms(CLOCK_MONOTONIC);
    }
}

/* ---- history ---- */

static void note_sample(void *ctx) {
    struct admin *a = ctx;
    if (clock_ms(CLOCK_MONOTONIC) < a->sample_ms) return;
    a->sample_ms = clock_ms(CLOCK_MONOTONIC) + STATUS_SAMPLE_MS;
    struct metrics_sums *sums = xmalloc(sizeof *sums);
    add_lanes(a, sums);
    pthread_mutex_lock(&a->mutex);
    if (a->n_samples == STATUS_SAMPLES)
        memmove(a->samples, a->samples + 1, --a->n_samples * sizeof *a->samples);
    status_sample(sums, clock_ms(CLOCK_REALTIME), &a->samples[a->n_samples++]);
    pthread_mutex_unlock(&a->mutex);
    free(sums);
}

/* ---- answers ---- */

struct answer {
    int status;
    const char *type;
    struct buf body;
};

static void say(struct answer *to, int status, const char *line) {
    to->status = status;
    buf_printf(&to->body, "%s\n", line);
}

static void answer_health(struct admin *a, struct answer *to) {
    int64_t silence = admin_silence_ms(a->lanes, a->n, a->served_ms, clock_ms(CLOCK_MONOTONIC));
    if (silence <= ADMIN_SILENCE_MAX_MS) {
        say(to, MHD_HTTP_OK, "ok");
        return;
    }
    to->status = MHD_HTTP_SERVICE_UNAVAILABLE;
    buf_printf(&to->body, "a lane has not been seen awake for %lld s\n", (long long)silence / 1000);
}

static void answer_ready(struct admin *a, struct answer *to) {
    struct readiness r;
    readiness_look(a, &r);
    say(to, r.why.n ? MHD_HTTP_SERVICE_UNAVAILABLE : MHD_HTTP_OK,
        r.why.n ? buf_cstr(&r.why) : "ready");
    for (size_t i = 0; i < r.n && i < READY_LINES; i++) {
        struct buf line;
        buf_init(&line, READY_MAX);
        trouble_print(&r.troubles[i], &line);
        if (strcmp(buf_cstr(&line), buf_cstr(&r.why)) != 0)
            buf_printf(&to->body, "%s\n", buf_cstr(&line));
        buf_free(&line);
    }
    readiness_free(&r);
}

/* Each cause, so that a rule has something to look at before it happens. */
static void print_troubles(const struct trouble_report *troubles, size_t n, struct buf *out) {
    int64_t count_of[TROUBLE_CAUSES] = {0}, longest[TROUBLE_CAUSES] = {0};
    for (size_t i = 0; i < n; i++) {
        enum trouble cause = troubles[i].cause;
        count_of[cause]++;
        if (troubles[i].for_ms > longest[cause]) longest[cause] = troubles[i].for_ms;
    }
    metrics_head(GIVEN_TROUBLE, out);
    for (enum trouble i = 0; i < TROUBLE_CAUSES; i++)
        metrics_sample(GIVEN_TROUBLE, (double)count_of[i], out, "cause", trouble_name(i), NULL);
    metrics_head(GIVEN_TROUBLE_AGE, out);
    for (enum trouble i = 0; i < TROUBLE_CAUSES; i++)
        metrics_sample(GIVEN_TROUBLE_AGE, (double)longest[i] / 1000, out, "cause", trouble_name(i),
                       NULL);
}

static void print_lag(const struct admin *a, struct buf *out) {
    metrics_head(GIVEN_LAG, out);
    for (size_t i = 0; i < a->n; i++) {
        const struct lane_snapshot *s = is_running(a->lanes[i]) ? a->snapshots[i] : NULL;
        for (size_t j = 0; s && j < s->n_partitions; j++) {
            const struct snapshot_partition *p = &s->partitions[j];
            const char *kind = p->leftover ? "leftover" : p->retry ? "retry" : "source";
            char number[16];
            if (p->lag < 0) continue;
            snprintf(number, sizeof number, "%d", (int)p->id);
            metrics_sample(GIVEN_LAG, (double)p->lag, out, "topic", p->topic, "partition", number,
                           "kind", kind, NULL);
        }
    }
}

static void print_destinations(const struct admin *a, struct buf *out) {
    size_t known = 0, open = 0, failing = 0;
    for (size_t i = 0; i < a->n; i++) {
        if (!a->snapshots[i]) continue;
        known += a->snapshots[i]->known;
        open += a->snapshots[i]->open;
        failing += a->snapshots[i]->failing;
    }
    metrics_head(GIVEN_DESTINATIONS, out);
    metrics_sample(GIVEN_DESTINATIONS, (double)open, out, "state", "open", NULL);
    metrics_sample(GIVEN_DESTINATIONS, (double)(known - open), out, "state", "closed", NULL);
    metrics_alone(GIVEN_FAILING, (double)failing, out);
    struct snapshot_distinct d = snapshot_distinct(a->snapshots, a->n);
    metrics_alone(GIVEN_WORKSPACES, (double)d.workspaces, out);
    metrics_alone(GIVEN_SICK_WORKSPACES, (double)d.sick_workspaces, out);
    metrics_alone(GIVEN_HOSTS, (double)d.hosts, out);
    metrics_alone(GIVEN_SICK_HOSTS, (double)d.sick_hosts, out);
    metrics_alone(GIVEN_UNFIT_WORKSPACES, (double)d.unfit_workspaces, out);
    metrics_head(GIVEN_SKIPPED_LARGEST, out);
    for (enum skip i = 0; i < SKIPS; i++)
        metrics_sample(GIVEN_SKIPPED_LARGEST, d.largest[i], out, "reason", skip_name(i), NULL);
}

static void print_build(struct buf *out) {
    metrics_head(GIVEN_BUILD, out);
    metrics_sample(GIVEN_BUILD, 1, out, "version", RUNSINK_VERSION, "librdkafka", client_version(),
                   "libcurl", curl_version_info(CURLVERSION_NOW)->version, NULL);
}

static void print_certs(const struct cert_watch *w, struct buf *out) {
    int64_t now = (int64_t)time(NULL);
    metrics_head(GIVEN_CERTS, out);
    for (size_t i = 0; i < CERTS; i++) {
        int64_t until = atomic_load(&w->until_s[i]);
        if (until > 0)
            metrics_sample(GIVEN_CERTS, (double)(until - now), out, "key", cert_key(i), NULL);
    }
}

/* The one in force, which a SIGHUP replaces; it outlives the answer. */
static const struct config *current_config(const struct admin *a) {
    return atomic_load(&a->lanes[0]->shared->cfg);
}

static void print_holds(const struct config *cfg, struct buf *out) {
    metrics_head(GIVEN_HOLDS, out);
    metrics_sample(GIVEN_HOLDS, (double)cfg->hold_workspaces.n, out, "by", "workspace", NULL);
    metrics_sample(GIVEN_HOLDS, (double)cfg->hold_destinations.n, out, "by", "destination", NULL);
}

static void answer_metrics(struct admin *a, struct answer *to) {
    struct metrics_sums *sums = xmalloc(sizeof *sums);
    struct buf *out = &to->body;
    int64_t now = clock_ms(CLOCK_MONOTONIC);
    size_t running = 0;
    refresh_snapshots(a);
    add_lanes(a, sums);
    metrics_print(sums, out);
    free(sums);
    for (size_t i = 0; i < a->n; i++) running += is_running(a->lanes[i]);
    print_lag(a, out);
    print_destinations(a, out);
    metrics_alone(GIVEN_BUDGET, (double)a->cfg->memory_budget, out);
    metrics_alone(GIVEN_LANES, (double)running, out);
    metrics_alone(GIVEN_TURN_AGE,
                  (double)admin_silence_ms(a->lanes, a->n, a->served_ms, now) / 1000, out);
    struct readiness r;
    readiness_look(a, &r);
    print_troubles(r.troubles, r.n, out);
    metrics_alone(GIVEN_READY, r.why.n == 0, out);
    readiness_free(&r);
    print_holds(current_config(a), out);
    metrics_alone(GIVEN_RELOADED, !atomic_load(&a->lanes[0]->shared->reload_failed), out);
    print_certs(&a->lanes[0]->shared->certs, out);
    metrics_alone(GIVEN_LOG_LOST, (double)log_lost(), out);
    print_build(out);
    metrics_process((double)a->started_ms / 1000, out);
    to->type = "text/plain; version=0.0.4; charset=utf-8";
}

static void answer_status(struct admin *a, struct answer *to) {
    struct metrics_sums *sums = xmalloc(sizeof *sums);
    int64_t *ages = xcalloc(a->n + 1, sizeof *ages);
    refresh_snapshots(a);
    add_lanes(a, sums);
    int64_t now = clock_ms(CLOCK_MONOTONIC);
    struct readiness r;
    readiness_look(a, &r);
    for (size_t i = 0; i < a->n; i++) ages[i] = now - a->snapshot_ms[i];
    struct status s = {.cfg = current_config(a),
                       .sums = sums,
                       .snapshots = a->snapshots,
                       .ages_ms = ages,
                       .lanes = a->n,
                       .samples = a->samples,
                       .now_ms = clock_ms(CLOCK_REALTIME),
                       .started_ms = a->started_ms,
                       .config_path = a->config_path,
                       .silence_ms = admin_silence_ms(a->lanes, a->n, a->served_ms, now),
                       .not_ready = r.why.n ? buf_cstr(&r.why) : NULL,
                       .troubles = r.troubles,
                       .n_troubles = r.n};
    pthread_mutex_lock(&a->mutex);
    status_sample(sums, s.now_ms, &a->samples[a->n_samples]);
    s.n_samples = a->n_samples + 1;
    status_json(&s, &to->body);
    pthread_mutex_unlock(&a->mutex);
    to->type = "application/json";
    readiness_free(&r);
    free(ages);
    free(sums);
}

static void answer_page(struct admin *a, struct answer *to) {
    (void)a;
    buf_add(&to->body, status_page, status_page_len);
    to->type = "text/html; charset=utf-8";
}

/* ---- by which name ---- */

/* A page from elsewhere can make a browser ask here under a name of its own that it lets point to
 * this address (DNS rebinding), and read the answer. It can't choose the Host header otherwise: a
 * name or address that is this server's own is what an operator typed. */

/* The name or address in a Host header: lower case, without port, brackets and final dot. False
 * when it is none. */
static bool host_of(const char *header, char ret[CONFIG_HOST_MAX]) {
    bool bracketed = header[0] == '[';
    const char *from = header + bracketed;
    size_t n = strcspn(from, bracketed ? "]" : ":");
    const char *rest = from + n;
    if (bracketed && *rest++ != ']') return false;
    if (*rest && (rest[0] != ':' || rest[1 + strspn(rest + 1, "0123456789")])) return false;
    if (n && from[n - 1] == '.') n--;
    if (n == 0 || n >= CONFIG_HOST_MAX) return false;
    for (size_t i = 0; i < n; i++) ret[i] = char_lower(from[i]);
    ret[n] = '\0';
    return true;
}

static bool is_address(const struct sockaddr *a, const uint8_t want[ADDRESS_LEN]) {
    uint8_t have[ADDRESS_LEN];
    return a && address_of(a, have) && memcmp(have, want, sizeof have) == 0;
}

/* Whether the address is one of this machine's: the one that was connected to, or another. */
static bool is_ours(int fd, const uint8_t address[ADDRESS_LEN]) {
    struct sockaddr_storage local;
    socklen_t n = sizeof local;
    struct ifaddrs *list = NULL;
    if (getsockname(fd, (struct sockaddr *)&local, &n) == 0 &&
        is_address((struct sockaddr *)&local, address))
        return true;
    bool ours = false;
    if (getifaddrs(&list) != 0) return false;
    for (const struct ifaddrs *i = list; i && !ours; i = i->ifa_next)
        ours = is_address(i->ifa_addr, address);
    freeifaddrs(list);
    return ours;
}

static bool is_listed(const struct list *hosts, const char *host) {
    for (size_t i = 0; i < hosts->n; i++) {
        const char *entry = hosts->v[i];
        size_t n = strlen(host), below = strlen(entry);
        if (strcasecmp(entry, host) == 0) return true;
        if (entry[0] == '*' && n >= below && strcasecmp(entry + 1, host + n + 1 - below) == 0)
            return true;
    }
    return false;
}

static bool may_be_asked_by(const struct admin *a, int fd, const char *header) {
    char host[CONFIG_HOST_MAX];
    struct cidr address;
    if (!host_of(header, host)) return false;
    if (strcmp(host, "localhost") == 0 || is_listed(&a->cfg->admin_hosts, host)) return true;
    if (cidr_parse(str_c(host), &address)) return address.bits == 128 && is_ours(fd, address.addr);
    /* The machine's name, with and without its domain. */
    size_t bare = strcspn(a->machine, ".");
    return strcasecmp(host, a->machine) == 0 || strcasecmp(host, a->listens) == 0 ||
           (bare && strlen(host) == bare && strncasecmp(host, a->machine, bare) == 0);
}

static void learn_names(struct admin *a) {
    char port[6];
    if (gethostname(a->machine, sizeof a->machine - 1) != 0) a->machine[0] = '\0';
    config_address(a->cfg->admin_listen, a->listens, port);
}

/* ---- HTTP ---- */

static const struct route {
    const char *path;
    void (*fn)(struct admin *, struct answer *);
    bool any_host; /* what a probe learns is no secret, and it may ask by whatever name */
} routes[] = {{"/", answer_page, false},
              {"/metrics", answer_metrics, false},
              {"/status.json", answer_status, false},
              {"/healthz", answer_health, true},
              {"/readyz", answer_ready, true}};

static enum MHD_Result send_answer(const struct admin *a, struct MHD_Connection *c,
                                   struct answer *answer) {
    struct MHD_Response *r =
        MHD_create_response_from_buffer(answer->body.n, answer->body.p, MHD_RESPMEM_MUST_FREE);
    if (!r) {
        buf_free(&answer->body);
        return MHD_NO;
    }
    MHD_add_response_header(r, "Content-Type", answer->type);
    MHD_add_response_header(r, "Content-Security-Policy", a->policy);
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(r, "Cross-Origin-Resource-Policy", "same-origin");
    MHD_add_response_header(r, "Referrer-Policy", "no-referrer");
    MHD_add_response_header(r, "Cache-Control", "no-store");
    if (answer->status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(r, "Allow", "GET, HEAD");
    /* What follows the head of a refused request is not read. */
    if (answer->status >= 400 && answer->status < 500)
        MHD_add_response_header(r, "Connection", "close");
    enum MHD_Result rc = MHD_queue_response(c, (unsigned)answer->status, r);
    MHD_destroy_response(r);
    return rc;
}

static bool has_body(struct MHD_Connection *c) {
    const char *length = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Content-Length");
    return MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Transfer-Encoding") ||
           (length && strcmp(length, "0") != 0);
}

static int descriptor(struct MHD_Connection *c) {
    return MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
}

static enum MHD_Result count_host(void *cls, enum MHD_ValueKind kind, const char *name,
                                  const char *value) {
    (void)kind;
    (void)value;
    *(int *)cls += strcasecmp(name, "Host") == 0;
    return MHD_YES;
}

/* Without a Host header, which HTTP/1.0 alone allows, there is no browser. */
static bool is_for_us(const struct admin *a, struct MHD_Connection *c, const char *version) {
    int hosts = 0;
    MHD_get_connection_values(c, MHD_HEADER_KIND, count_host, &hosts);
    const char *host = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Host");
    if (hosts == 0 && strcmp(version, "HTTP/1.0") == 0) return true;
    if (hosts == 1 && host && may_be_asked_by(a, descriptor(c), host)) return true;
    log_info("admin request refused: this name is not in admin.hosts",
             LOG_S("host", host ? host : ""));
    return false;
}

static void answer(struct admin *a, struct MHD_Connection *c, const char *url, const char *version,
                   struct answer *to) {
    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (strcmp(url, routes[i].path) != 0) continue;
        if (!routes[i].any_host && !is_for_us(a, c, version)) {
            say(to, MHD_HTTP_MISDIRECTED_REQUEST,
                "this server is not asked by that name: add it to admin.hosts");
            return;
        }
        to->status = MHD_HTTP_OK;
        routes[i].fn(a, to);
        return;
    }
    say(to, MHD_HTTP_NOT_FOUND, "nothing here: / /metrics /status.json /healthz /readyz");
}

static enum MHD_Result on_request(void *cls, struct MHD_Connection *c, const char *url,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **state) {
    static char seen;
    struct admin *a = cls;
    struct answer to = {.type = "text/plain; charset=utf-8"};
    (void)upload;
    bool first = !*state;
    bool reads = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    bool refused = !reads || has_body(c);
    *state = &seen;
    if (first) gate_answering(a->gate, descriptor(c));
    if (first && !refused) return MHD_YES; /* answered when the head is through */
    if (!first && *upload_size) return MHD_NO;
    buf_init(&to.body, ANSWER_MAX);
    if (!reads)
        say(&to, MHD_HTTP_METHOD_NOT_ALLOWED, "GET and HEAD alone");
    else if (refused)
        say(&to, MHD_HTTP_BAD_REQUEST, "a request here has no body");
    else
        answer(a, c, url, version, &to);
    return send_answer(a, c, &to);
}

static void on_completed(void *cls, struct MHD_Connection *c, void **state,
                         enum MHD_RequestTerminationCode code) {
    struct admin *a = cls;
    (void)state;
    (void)code;
    gate_answered(a->gate, descriptor(c));
}

static void on_connection(void *cls, struct MHD_Connection *c, void **socket_context,
                          enum MHD_ConnectionNotificationCode code) {
    struct admin *a = cls;
    (void)socket_context;
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        gate_started(a->gate, descriptor(c));
    else
        gate_gone(a->gate, descriptor(c));
}

/* The server closes what it can't take. */
static void on_guest(void *ctx, int fd, const struct sockaddr *from, socklen_t n) {
    struct admin *a = ctx;
    MHD_add_connection(a->daemon, fd, from, n);
}

__attribute__((format(printf, 2, 0))) static void on_log(void *cls, const char *fmt, va_list ap) {
    char line[512];
    (void)cls;
    vsnprintf(line, sizeof line, fmt, ap);
    line[strcspn(line, "\n")] = '\0';
    log_debug("admin server", LOG_S("message", line));
}

/* ---- life ---- */

/* The page's one script and one style sheet are allowed by their digests, and nothing else is. */
static void add_digest(const char *open, const char *close, const char *rule, struct buf *out) {
    struct str page = {(const char *)status_page, status_page_len};
    const char *from = memmem(page.p, page.n, open, strlen(open));
    if (!from) return;
    from += strlen(open);
    const char *to = memmem(from, (size_t)(page.p + page.n - from), close, strlen(close));
    if (!to) return;
    uint8_t digest[SHA256_LEN];
    sha256(from, (size_t)(to - from), digest);
    buf_printf(out, "; %s 'sha256-", rule);
    base64_add(out, digest, sizeof digest);
    buf_putc(out, '\'');
}

static void make_policy(struct admin *a) {
    struct buf out;
    buf_init(&out, sizeof a->policy - 1);
    buf_puts(&out, "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; "
                   "form-action 'none'; frame-ancestors 'none'");
    add_digest("<script>", "</script>", "script-src", &out);
    add_digest("<style>", "</style>", "style-src", &out);
    memcpy(a->policy, buf_cstr(&out), out.n + 1);
    buf_free(&out);
}

static int listen_on(const struct addrinfo *ai) {
    int one = 1;
    int fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return -1;
    if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) == 0 &&
        bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, SOMAXCONN) == 0)
        return fd;
    int error = errno;
    close(fd);
    errno = error;
    return -1;
}

static int bind_address(const char *text, struct buf *err) {
    char host[CONFIG_HOST_MAX] = "", port[6] = "";
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM}, *list = NULL;
    int fd = -1;
    config_address(text, host, port); /* configuration has checked it */
    int rc = getaddrinfo(*host ? host : NULL, port, &hints, &list);
    const char *why = rc ? gai_strerror(rc) : "";
    for (const struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next) {
        fd = listen_on(ai);
        if (fd < 0) why = strerror(errno);
    }
    if (list) freeaddrinfo(list);
    if (fd < 0)
        buf_printf(err,
                   "admin.listen: can't listen at %s: %s; choose another address, or leave it "
                   "empty to have no metrics, health and status page\n",
                   text, why);
    return fd;
}

bool admin_open(const struct config *cfg, const char *config_path, struct admin **ret,
                struct buf *err) {
    if (!cfg->admin_listen[0]) return true;
    int fd = bind_address(cfg->admin_listen, err);
    if (fd < 0) return false;
    struct admin *a = xcalloc(1, sizeof *a);
    a->cfg = cfg;
    a->config_path = config_path;
    a->fd = fd;
    a->started_ms = clock_ms(CLOCK_REALTIME);
    make_policy(a);
    learn_names(a);
    pthread_mutex_init(&a->mutex, NULL);
    *ret = a;
    return true;
}

bool admin_serve(struct admin *a, struct lane *const *lanes, size_t n, struct buf *err) {
    if (!a) return true;
    a->lanes = lanes;
    a->n = n;
    a->served_ms = clock_ms(CLOCK_MONOTONIC);
    a->snapshots = xcalloc(n, sizeof(struct lane_snapshot *));
    a->snapshot_ms = xcalloc(n, sizeof *a->snapshot_ms);
    size_t connections = (size_t)a->cfg->admin_connections;
    a->gate = gate_new(connections, a->cfg->admin_timeout, on_guest, note_sample, a);
    /* By poll(): where exactly 128 connections have news at once, which anybody can bring about,
     * microhttpd 0.9.75's way with epoll sleeps until there is more. */
    a->daemon = MHD_start_daemon(
        MHD_USE_POLL | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_ERROR_LOG | MHD_USE_ITC |
            MHD_USE_NO_LISTEN_SOCKET,
        0, NULL, NULL, on_request, a, MHD_OPTION_EXTERNAL_LOGGER, on_log, NULL,
        MHD_OPTION_NOTIFY_CONNECTION, on_connection, a, MHD_OPTION_NOTIFY_COMPLETED, on_completed,
        a, MHD_OPTION_CONNECTION_LIMIT, (unsigned)GATE_OPEN_MAX(connections) + UNCOUNTED,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_MEMORY, MHD_OPTION_END);
    if (!a->daemon || !gate_run(a->gate, a->fd)) {
        buf_puts(err, "starting the admin server's threads failed\n");
        return false;
    }
    a->fd = -1;
    log_info("admin server listens", LOG_S("address", a->cfg->admin_listen));
    return true;
}

void admin_close(struct admin *a) {
    if (!a) return;
    gate_stop(a->gate);
    if (a->daemon) MHD_stop_daemon(a->daemon);
    gate_free(a->gate);
    for (size_t i = 0; i < a->n && a->snapshots; i++) lane_snapshot_free(a->snapshots[i]);
    free(a->snapshots);
    free(a->snapshot_ms);
    if (a->fd >= 0) close(a->fd);
    pthread_mutex_destroy(&a->mutex);
    free(a);
}
