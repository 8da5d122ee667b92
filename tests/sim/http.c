/* sinks/http/http.h for the simulated world: in the place of sinks/http/http.c. Requests take
 * virtual time to get to their place and back; what was sent arrives there whatever becomes of who
 * sent it. */
#include "sinks/http/http.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/queue.h>

#include "config/config.h"
#include "tests/sim/events.h"
#include "tests/sim/fleet.h"
#include "tests/sim/judge.h"
#include "tests/sim/scheduler.h"
#include "tests/sim/store.h"

/* A request as its sender sees it, until done(). */
struct transfer {
    TAILQ_ENTRY(transfer) link;
    struct http *http;
    struct http_request *req;
    size_t number;
    bool sent, ended;
    struct outcome outcome; /* once ended */
    struct asked asked;
};

TAILQ_HEAD(transfers, transfer);

struct http {
    const struct config *cfg;
    int wake_fd;
    uint64_t process;
    struct transfers flying, ended;
    size_t in_flight;
    int64_t flying_to[DESTINATIONS_MAX];
    bool closing;
    int64_t second; /* in which so many turns were begun */
    unsigned turns;
};

/* A request on its way; knows its sender by number alone, which may be gone. */
struct exchange {
    size_t number;
    uint64_t process;
    int place;
    char *key, *body;
    size_t n;
    struct reception reception;
    int references;
};

/* By number: those that are under way, and NULL. */
static struct transfer **transfers;
static size_t n_transfers;

static struct transfer *transfer_of(size_t number, uint64_t process) {
    return world_is_alive(process) ? transfers[number] : NULL;
}

/* ---- the sender's end of it ---- */

static void end(struct transfer *t, struct outcome outcome) {
    struct http *h = t->http;
    if (t->ended) return;
    t->ended = true;
    t->outcome = outcome;
    if (!t->asked.given_up) judge_answer(&t->asked, t->req->status, t->req->retry_after_ms);
    TAILQ_REMOVE(&h->flying, t, link);
    TAILQ_INSERT_TAIL(&h->ended, t, link);
    world_wake(h->wake_fd);
}

static void give_up(struct transfer *t) {
    struct outcome o =
        outcome_fail(VERDICT_RETRY, FAULT_SYSTEM, "cancelled", "given up by the worker");
    o.uncounted = !t->sent;
    t->asked.given_up = true;
    end(t, o);
}

static void keep_header(struct http_request *req, const char *name, const char *value) {
    for (size_t i = 0; i < HTTP_KEPT && req->want_headers[i]; i++)
        if (strcmp(req->want_headers[i], name) == 0)
            snprintf(req->kept[i], HTTP_KEPT_SIZE, "%s", value);
}

static void take_answer(struct transfer *t, const struct reception *r) {
    struct http_request *req = t->req;
    req->status = r->status;
    req->retry_after_ms = r->retry_after_ms;
    keep_header(req, "x-amz-request-id", "simulated");
    if (r->status == 200) keep_header(req, "etag", "\"simulated\"");
    if (r->code)
        buf_printf(&req->answer, "<Error><Code>%s</Code><Message>it is so</Message></Error>",
                   r->code);
    end(t, outcome_ok(r->status));
}

static struct outcome failed(const char *why) {
    return outcome_fail(VERDICT_RETRY, FAULT_TENANT, why, "it is so");
}

/* ---- on the way ---- */

static size_t n_exchanges;

bool store_is_quiet(void) {
    return n_exchanges == 0;
}

static void exchange_drop(struct exchange *e) {
    if (--e->references) return;
    n_exchanges--;
    free(e->key);
    free(e->body);
    free(e);
}

static void write_down(void *arg) {
    struct exchange *e = arg;
    store_write(e->place, e->key, (struct str){e->body, e->n});
    exchange_drop(e);
}

static void answer(void *arg) {
    struct exchange *e = arg;
    struct transfer *t = transfer_of(e->number, e->process);
    const struct reception *r = &e->reception;
    if (t) {
        switch (r->answer) {
        case ANSWER_STATUS:
            take_answer(t, r);
            break;
        case ANSWER_REFUSED:
            end(t, failed("refused"));
            break;
        case ANSWER_RESET:
            end(t, failed("reset"));
            break;
        case ANSWER_NONE:
            break;
        }
    }
    exchange_drop(e);
}

static void later(struct exchange *e, int64_t us, void (*fn)(void *)) {
    if (us < 0) return;
    e->references++;
    world_after(us, fn, e);
}

/* The request leaves its process, which must be there for that. */
static void send_off(void *arg) {
    struct exchange *e = arg;
    struct transfer *t = transfer_of(e->number, e->process);
    if (t && world_is_frozen(e->process)) {
        world_after(100 * WORLD_MS, send_off, e);
        return;
    }
    if (t && !t->ended) {
        t->sent = true;
        e->body = xstrndup(t->req->body ? t->req->body : "", t->req->body_len);
        e->n = t->req->body_len;
        store_receive(e->place, &e->reception);
        later(e, e->reception.written_us, write_down);
        later(e, e->reception.again_us, write_down);
        later(e, e->reception.answered_us, answer);
    }
    exchange_drop(e);
}

struct deadline {
    size_t number;
    uint64_t process;
};

static void time_out(void *arg) {
    struct deadline *d = arg;
    struct transfer *t = transfer_of(d->number, d->process);
    if (t) end(t, failed(t->sent ? "timeout" : "timeout-connect"));
    free(d);
}

/* ---- the interface ---- */

struct http *http_new(const struct config *cfg) {
    struct http *h = xcalloc(1, sizeof *h);
    *h = (struct http){.cfg = cfg, .wake_fd = -1, .process = world_process()};
    TAILQ_INIT(&h->flying);
    TAILQ_INIT(&h->ended);
    return h;
}

void http_global_init(void) {}

void http_reconfigure(struct http *h, const struct config *cfg) {
    h->cfg = cfg;
}

void http_wake_by(struct http *h, int fd) {
    h->wake_fd = fd;
}

static struct transfer *transfer_new(struct http *h, struct http_request *req) {
    if ((n_transfers & (n_transfers - 1)) == 0) /* full at each power of two */
        transfers = xrealloc(transfers, (n_transfers ? 2 * n_transfers : 1) * sizeof *transfers);
    struct transfer *t = xcalloc(1, sizeof *t);
    *t = (struct transfer){.http = h, .req = req, .number = n_transfers};
    transfers[n_transfers++] = t;
    TAILQ_INSERT_TAIL(&h->flying, t, link);
    h->in_flight++;
    return t;
}

static void set_off(struct transfer *t) {
    char *key = NULL;
    int place = store_route(t->req->url, &key);
    if (place < 0) world_fail("a request goes to %s, where nobody is", t->req->url);
    struct exchange *e = xcalloc(1, sizeof *e);
    n_exchanges++;
    *e = (struct exchange){
        .number = t->number, .process = world_process(), .place = place, .key = key};
    t->asked.process = world_process();
    t->asked.place = place;
    if (!store_place(place)->proof)
        judge_request(&t->asked, key, (struct str){t->req->body, t->req->body_len});
    if (t->asked.n && t->http->flying_to[t->asked.destination]++ >= t->http->cfg->dest_concurrency)
        world_fail("P4: destination %d gets more requests at once than dest.concurrency",
                   t->asked.destination);
    later(e, world_between(50, 3000), send_off);
    struct deadline *d = xcalloc(1, sizeof *d);
    *d = (struct deadline){t->number, world_process()};
    world_after(t->http->cfg->http_timeout * WORLD_MS, time_out, d);
}

void http_submit(struct http *h, struct http_request *req) {
    struct transfer *t = transfer_new(h, req);
    req->transfer = t;
    req->status = 0;
    req->answer_cut = false;
    req->retry_after_ms = 0;
    memset(req->kept, 0, sizeof req->kept);
    buf_free(&req->answer);
    buf_init(&req->answer, (size_t)h->cfg->http_response_max);
    if (h->closing)
        give_up(t);
    else
        set_off(t);
}

void http_cancel(struct http *h, struct http_request *req) {
    (void)h;
    if (req->transfer) give_up(req->transfer);
}

void http_run(struct http *h) {
    /* Only those that are here now: done() may end others. */
    struct transfers now = TAILQ_HEAD_INITIALIZER(now);
    TAILQ_CONCAT(&now, &h->ended, link);
    for (struct transfer *t; (t = TAILQ_FIRST(&now));) {
        struct http_request *req = t->req;
        struct outcome o = t->outcome;
        TAILQ_REMOVE(&now, t, link);
        transfers[t->number] = NULL;
        if (t->asked.n) h->flying_to[t->asked.destination]--;
        free(t->asked.events);
        free(t);
        req->transfer = NULL;
        h->in_flight--;
        req->done(req, &o);
    }
}

/* A lane that has nothing to do sleeps: a turn takes tens of microseconds. */
#define TURNS_MAX 8000
static void judge_turns(struct http *h) {
    int64_t second = world_us() / WORLD_S;
    if (second != h->second) h->turns = 0;
    h->second = second;
    if (++h->turns > TURNS_MAX) world_fail("a lane goes round without a rest");
}

void http_wait(struct http *h, int timeout_ms) {
    judge_turns(h);
    process_wait(TAILQ_EMPTY(&h->ended) ? timeout_ms * WORLD_MS : 0);
}

size_t http_in_flight(const struct http *h) {
    return h->in_flight;
}

void http_free(struct http *h) {
    if (!h) return;
    h->closing = true;
    for (struct transfer *t; (t = TAILQ_FIRST(&h->flying));) give_up(t);
    while (!TAILQ_EMPTY(&h->ended)) http_run(h);
    free(h);
}

void http_request_clear(struct http_request *req) {
    curl_slist_free_all(req->headers);
    req->headers = NULL;
    buf_free(&req->answer);
}
