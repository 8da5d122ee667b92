/* worker/kafka/producer.h on the model. What the producer's thread does there is a chain of
 * requests here: each leaves the process while that runs, arrives whatever has become of it, and is
 * answered if the process runs then. So a crash may fall between any two. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/cluster.h"
#include "tests/sim/world.h"
#include "worker/base/clock.h"
#include "worker/kafka/producer.h"

#define AGAIN_US (10 * WORLD_MS) /* retry.backoff.ms */
#define LOOK_US (5 * WORLD_S)    /* CALL_TIMEOUT_MS */
#define JOIN_US (100 * WORLD_MS)
#define JOIN_MOST_US (15 * WORLD_S) /* three calls of 5 s */
#define LOST_LEAST_US (2 * WORLD_S) /* until the client asks again what became of its request */
#define LOST_MOST_US (10 * WORLD_S)

enum request_kind {
    REQUEST_INIT,
    REQUEST_PRODUCE,
    REQUEST_LOOK, /* for the commits that its offsets follow */
    REQUEST_OFFSETS,
    REQUEST_COMMIT,
    REQUEST_ABORT
};
enum answer {
    ANSWER_OK,
    ANSWER_AGAIN, /* the last transaction is not ended everywhere */
    ANSWER_ABORT,
    ANSWER_STALE,
    ANSWER_GONE,   /* what was committed is not there */
    ANSWER_UNTOLD, /* nor is it told */
    ANSWER_REFUSED,
    ANSWER_FENCED,
    ANSWER_FATAL
};

/* Under way, with all that it needs: the producer may be gone when it arrives. */
struct request {
    uint64_t number, producer, process, epoch;
    enum request_kind kind;
    struct identity *identity;
    struct sent_record {
        struct journal *journal;
        struct stored *record;
        int64_t time_ms;
    } * records;
    size_t n_records;
    struct sent_offset {
        struct journal *journal;
        int64_t offset;
        char *metadata;
        bool follows, gone;
    } * offsets;
    size_t n_offsets;
    struct membership membership;
    enum answer answer;
    struct request *next;
};

struct producer {
    uint64_t number, process, epoch;
    int wake_fd; /* -1: a command's */
    struct identity *identity;
    enum producer_state state;
    bool broken; /* no transaction can be begun any more */
    struct txn *job, *finished;
    size_t sent; /* of the job's records */
    bool looked, offered, aborting;
    bool between; /* its look was answered, its offsets have not arrived */
    int64_t look_end_us;
    bool denied;            /* job->topic is refused once some records are sent */
    enum txn_result result; /* once it is aborted */
    int64_t since_us, wall_ms;
    struct producer *next;
};

static struct producer *producers;
static struct request *requests;

static void (*on_transaction)(uint64_t process);

static void proceed(struct producer *);

void broker_on_transaction(void (*fn)(uint64_t process)) {
    on_transaction = fn;
}

static struct producer *find(uint64_t number) {
    struct producer *p = producers;
    while (p && p->number != number) p = p->next;
    return p;
}

static void wake(const struct producer *p) {
    if (p->wake_fd >= 0) world_wake(p->wake_fd);
}

/* ---- a request at the broker ---- */

static enum answer arrive_init(struct request *r) {
    if (cluster_chance(cluster_faults()->no_producer)) return ANSWER_REFUSED;
    r->epoch = identity_begin(r->identity);
    return r->epoch ? ANSWER_OK : ANSWER_AGAIN;
}

static enum answer arrive_produce(struct request *r, struct writer *w) {
    for (size_t i = 0; i < r->n_records; i++) {
        struct sent_record *it = &r->records[i];
        writer_add(w, it->journal, it->record, it->time_ms);
        it->record = NULL; /* the journal's */
    }
    return ANSWER_OK;
}

/* An offset that another transaction is about to change is not told. */
static enum answer arrive_look(struct request *r) {
    struct producer *p = find(r->producer);
    enum answer answer = ANSWER_OK;
    if (cluster_chance(cluster_faults()->unstable)) return ANSWER_UNTOLD;
    for (size_t i = 0; i < r->n_offsets; i++) {
        struct sent_offset *it = &r->offsets[i];
        if (it->follows && it->journal->pending) return ANSWER_UNTOLD;
        it->gone = it->follows && it->journal->committed < 0;
        if (it->gone) answer = ANSWER_GONE;
    }
    if (p && answer == ANSWER_OK) p->between = true;
    return answer;
}

/* The generation and the member are looked at, nothing else. */
static enum answer arrive_offsets(struct request *r, struct writer *w) {
    const struct membership *m = &r->membership;
    struct producer *p = find(r->producer);
    if (p) p->between = false;
    if (cluster_chance(cluster_faults()->stale_answer)) return ANSWER_STALE;
    if (!group_takes(m->member, m->generation)) return ANSWER_STALE;
    for (size_t i = 0; i < r->n_offsets; i++) {
        struct sent_offset *it = &r->offsets[i];
        writer_offset(w, it->journal, it->offset, it->metadata, it->journal->owner == m->member);
    }
    return ANSWER_OK;
}

/* One that it aborts for its own reasons it may have aborted behind the producer's back. */
static enum answer arrive_commit(struct writer *w) {
    if (!cluster_chance(cluster_faults()->abort)) {
        writer_end(w, true);
        return ANSWER_OK;
    }
    if (cluster_chance(750)) return ANSWER_ABORT;
    writer_end(w, false);
    return ANSWER_FATAL;
}

static enum answer arrive_in(struct request *r) {
    if (!identity_is(r->identity, r->epoch)) return ANSWER_FENCED;
    if (identity_waits(r->identity)) return ANSWER_AGAIN;
    bool ends = r->kind == REQUEST_COMMIT || r->kind == REQUEST_ABORT;
    struct writer *w = identity_writer(r->identity, ends ? 0 : r->process);
    if (!w) return ANSWER_OK; /* nothing was begun */
    if (r->kind == REQUEST_PRODUCE) return arrive_produce(r, w);
    if (r->kind == REQUEST_OFFSETS) return arrive_offsets(r, w);
    if (r->kind == REQUEST_COMMIT) return arrive_commit(w);
    writer_end(w, false);
    return ANSWER_OK;
}

static void request_free(struct request *r) {
    struct request **at = &requests;
    while (*at != r) at = &(*at)->next;
    *at = r->next;
    for (size_t i = 0; i < r->n_records; i++) free(r->records[i].record);
    for (size_t i = 0; i < r->n_offsets; i++) free(r->offsets[i].metadata);
    free(r->records);
    free(r->offsets);
    free(r);
}

static struct request *find_request(uint64_t number) {
    struct request *r = requests;
    while (r && r->number != number) r = r->next;
    return r;
}

static task_fn answered;

/* What was committed, but the answer got lost: asked again, the coordinator says so; or that was
 * not possible, and nobody knows. */
static int64_t lose(struct request *r) {
    if (r->kind != REQUEST_COMMIT || r->answer != ANSWER_OK) return cluster_latency();
    if (!cluster_chance(cluster_faults()->lost_answer)) return cluster_latency();
    if (cluster_chance(500)) r->answer = ANSWER_FATAL;
    return world_between(LOST_LEAST_US, LOST_MOST_US);
}

static void arrive(struct about about) {
    struct request *r = find_request(about.a);
    if (!r) return;
    r->answer = r->kind == REQUEST_INIT   ? arrive_init(r)
                : r->kind == REQUEST_LOOK ? arrive_look(r)
                                          : arrive_in(r);
    cluster_later(lose(r), answered, about);
}

/* ---- the answer, in the process ---- */

static const char *const call_names[] = {[REQUEST_INIT] = "init transactions",
                                         [REQUEST_PRODUCE] = "produce",
                                         [REQUEST_LOOK] = "look for what was committed",
                                         [REQUEST_OFFSETS] = "send offsets",
                                         [REQUEST_COMMIT] = "commit",
                                         [REQUEST_ABORT] = "abort"};
static const char *const answer_names[] = {[ANSWER_OK] = "done",
                                           [ANSWER_AGAIN] = "concurrent transactions",
                                           [ANSWER_ABORT] = "the transaction has to be aborted",
                                           [ANSWER_STALE] = "illegal generation",
                                           [ANSWER_GONE] = "it is not there any more",
                                           [ANSWER_UNTOLD] = "the coordinator does not tell",
                                           [ANSWER_REFUSED] =
                                               "transactional id authorization failed",
                                           [ANSWER_FENCED] = "producer fenced",
                                           [ANSWER_FATAL] = "invalid transaction state"};
static const char *const result_names[] = {
    [TXN_DONE] = "done",   [TXN_AGAIN] = "again", [TXN_REFUSED] = "refused", [TXN_TOPIC] = "topic",
    [TXN_STALE] = "stale", [TXN_GONE] = "gone",   [TXN_UNKNOWN] = "unknown"};

static void finish(struct producer *p, enum txn_result result) {
    p->job->result = result;
    p->between = false;
    p->job->took_us = world_us() - p->since_us;
    p->broken = p->broken || result == TXN_UNKNOWN;
    p->finished = p->job;
    p->job = NULL;
    world_say("process %llu: a transaction is %s", (unsigned long long)p->process,
              result_names[result]);
    wake(p);
}

static void abort_with(struct producer *p, enum txn_result result) {
    p->aborting = true;
    p->result = result;
}

static void started(struct producer *p, const struct request *r) {
    p->epoch = r->epoch;
    p->state = r->answer == ANSWER_REFUSED ? PRODUCER_REFUSED : PRODUCER_READY;
    wake(p);
    if (p->job) proceed(p);
}

static void go_on(struct producer *p, const struct request *r) {
    if (r->kind == REQUEST_PRODUCE) p->sent += r->n_records;
    p->looked = p->looked || r->kind == REQUEST_LOOK;
    p->offered = p->offered || r->kind == REQUEST_OFFSETS;
    if (r->kind == REQUEST_COMMIT || r->kind == REQUEST_ABORT)
        finish(p, r->kind == REQUEST_COMMIT ? TXN_DONE : p->result);
    else
        proceed(p);
}

static void tell_gone(struct txn *job, const struct request *r) {
    for (size_t i = 0; i < job->n_offsets; i++) job->offsets[i].gone = r->offsets[i].gone;
}

static void go_wrong(struct producer *p, const struct request *r) {
    bool fatal = r->answer == ANSWER_FENCED || r->answer == ANSWER_FATAL;
    if (!p->aborting || fatal)
        snprintf(p->job->error, sizeof p->job->error, "%s: %s", call_names[r->kind],
                 answer_names[r->answer]);
    p->job->fenced = r->answer == ANSWER_FENCED;
    if (fatal) {
        finish(p, TXN_UNKNOWN);
        return;
    }
    if (r->answer == ANSWER_GONE) tell_gone(p->job, r);
    p->between = false;
    abort_with(p, r->answer == ANSWER_STALE  ? TXN_STALE
                  : r->answer == ANSWER_GONE ? TXN_GONE
                                             : TXN_AGAIN);
    proceed(p);
}

static void answered(struct about about) {
    struct request *r = find_request(about.a);
    struct producer *p = r ? find(r->producer) : NULL;
    if (p && !cluster_acts(p->process, answered, about) && world_is_alive(p->process)) return;
    if (!p || !world_is_alive(p->process)) {
        if (r) request_free(r);
        return;
    }
    if (r->answer == ANSWER_UNTOLD && p && world_us() < p->look_end_us) r->answer = ANSWER_AGAIN;
    if (r->answer == ANSWER_AGAIN) {
        cluster_later(AGAIN_US + cluster_latency(), arrive, about);
        return;
    }
    if (r->kind == REQUEST_INIT)
        started(p, r);
    else if (r->answer == ANSWER_OK)
        go_on(p, r);
    else
        go_wrong(p, r);
    request_free(r);
}

/* ---- what is sent ---- */

static struct request *request_new(const struct producer *p, enum request_kind kind) {
    struct request *r = xcalloc(1, sizeof *r);
    *r = (struct request){.number = cluster_number(),
                          .producer = p->number,
                          .process = p->process,
                          .epoch = p->epoch,
                          .kind = kind,
                          .identity = p->identity,
                          .next = requests};
    return requests = r;
}

static void request_send(const struct request *r) {
    bool produces = r->kind == REQUEST_PRODUCE;
    cluster_later(produces ? cluster_latency() : cluster_coordinator(), arrive,
                  (struct about){.a = r->number});
}

static int32_t by_key(const struct txn_record *r, int32_t partitions) {
    uint32_t hash = 2166136261U;
    for (size_t i = 0; i < r->key_len; i++)
        hash = (hash ^ ((const unsigned char *)r->key)[i]) * 16777619U;
    return (int32_t)(hash % (uint32_t)partitions);
}

static struct journal *place_of(const struct txn_record *r) {
    int32_t n = broker_partitions(r->topic);
    if (!n) return NULL;
    return journal_find(r->topic, r->partition < 0 ? by_key(r, n) : r->partition % n);
}

static void send_records(struct producer *p, size_t n) {
    struct request *r = request_new(p, REQUEST_PRODUCE);
    r->records = xcalloc(n, sizeof *r->records);
    r->n_records = n;
    for (size_t i = 0; i < n; i++) {
        const struct txn_record *it = &p->job->records[p->sent + i];
        struct str key = {it->key, it->key_len}, value = {it->value, it->value_len};
        r->records[i].journal = place_of(it);
        r->records[i].record = stored_new(key, value, it->headers, it->n_headers);
        r->records[i].time_ms = p->wall_ms;
    }
    request_send(r);
}

/* With the rule broken, it is the one of this moment: in its generation the partitions may be
 * others'; or it is nobody's. */
static struct membership membership_of(const struct txn *job) {
    struct membership m;
    memcpy(&m, job->membership, sizeof m);
    if (!world_breaks("membership")) return m;
    const struct consumer *c = consumer_find(m.consumer);
    if (!c || !consumer_membership(c, &m)) m = (struct membership){.generation = -1};
    return m;
}

/* They are looked at, or sent. */
static void send_offsets(struct producer *p, enum request_kind kind) {
    const struct txn *job = p->job;
    struct request *r = request_new(p, kind);
    r->membership = membership_of(job);
    r->offsets = xcalloc(job->n_offsets + 1, sizeof *r->offsets);
    for (size_t i = 0; i < job->n_offsets; i++) {
        const struct txn_offset *o = &job->offsets[i];
        struct journal *j = journal_find(o->topic, o->partition);
        if (!j) abort(); /* no topic is ever without a successor */
        r->offsets[r->n_offsets++] =
            (struct sent_offset){j, o->offset, xstrdup(o->metadata), o->follows, false};
    }
    request_send(r);
}

static bool follows_any(const struct txn *job) {
    size_t i = 0;
    while (i < job->n_offsets && !job->offsets[i].follows) i++;
    return i < job->n_offsets;
}

static void look(struct producer *p) {
    p->look_end_us = world_us() + LOOK_US;
    send_offsets(p, REQUEST_LOOK);
}

/* The next request; which records go together is chance, so that those of others come between. */
static void proceed(struct producer *p) {
    const struct txn *job = p->job;
    size_t left = job->n_records - p->sent;
    /* Where the product may be made to die as well: CRASH_TXN_INSIDE, CRASH_TXN_SENT. */
    if (!left && job->membership && !p->aborting && on_transaction) {
        on_transaction(p->process);
        if (!world_is_alive(p->process)) return;
    }
    if (p->denied && p->sent) abort_with(p, TXN_TOPIC);
    if (p->aborting)
        request_send(request_new(p, REQUEST_ABORT));
    else if (left)
        send_records(p, cluster_chance(500) ? (size_t)world_between(1, (int64_t)left) : left);
    else if (job->membership && !p->looked && follows_any(job))
        look(p);
    else if (job->membership && !p->offered)
        send_offsets(p, REQUEST_OFFSETS);
    else
        request_send(request_new(p, REQUEST_COMMIT));
}

/* ---- a transaction ---- */

/* A topic that can't be written, by its absence or by chance. */
static const char *find_trouble(const struct txn *job) {
    for (size_t i = 0; i < job->n_records; i++)
        if (!place_of(&job->records[i])) return job->records[i].topic;
    if (!job->n_records || !cluster_chance(cluster_faults()->topic_gone)) return NULL;
    return job->records[world_draw(job->n_records)].topic;
}

static bool takes_little(const char *topic) {
    return strstr(topic, ".retry.") || strstr(topic, ".dead.");
}

/* What a topic does not take for its size, the client finds, or the broker does. */
static bool find_refused(struct txn *job) {
    int64_t largest = cluster_faults()->largest;
    bool any = false;
    for (size_t i = 0; largest && i < job->n_records; i++) {
        struct txn_record *r = &job->records[i];
        if ((int64_t)r->value_len <= largest || !takes_little(r->topic)) continue;
        r->refused = "message size too large";
        any = true;
    }
    return any;
}

/* a: the producer. Its thread finds what was handed over. */
static void begin(struct about about) {
    struct producer *p = find(about.a);
    if (!p || !p->job || !cluster_acts(p->process, begin, about)) return;
    struct txn *job = p->job;
    p->sent = 0;
    p->looked = p->offered = p->aborting = p->denied = job->fenced = p->between = false;
    job->error[0] = '\0';
    job->topic = find_trouble(job);
    if (job->topic) {
        /* Its absence is seen before anything is sent, what the coordinator says of it later. */
        p->denied = broker_partitions(job->topic) && cluster_chance(500);
        snprintf(job->error, sizeof job->error, "produce to %s: %s", job->topic,
                 p->denied ? "topic authorization failed" : "leader not available");
        if (!p->denied) abort_with(p, TXN_TOPIC);
    } else if (find_refused(job)) {
        snprintf(job->error, sizeof job->error, "produce: message size too large");
        abort_with(p, TXN_REFUSED);
    }
    if (p->broken) {
        snprintf(job->error, sizeof job->error, "begin transaction: the producer is fenced");
        finish(p, TXN_UNKNOWN);
    } else if (p->state == PRODUCER_READY) {
        proceed(p);
    }
}

void producer_submit(struct producer *p, struct txn *job) {
    if (p->job || p->finished) abort(); /* the last one was not taken */
    p->job = job;
    p->since_us = world_us();
    p->wall_ms = clock_ms(CLOCK_REALTIME);
    cluster_later(0, begin, (struct about){.a = p->number});
}

struct txn *producer_take(struct producer *p) {
    struct txn *job = p->finished;
    p->finished = NULL;
    return job;
}

/* ---- life ---- */

struct producer *producer_new(const struct config *cfg, const char *transactional_id, int wake_fd,
                              struct buf *err) {
    struct producer *p = xcalloc(1, sizeof *p);
    (void)cfg;
    (void)err;
    *p = (struct producer){.number = cluster_number(),
                           .process = world_process(),
                           .wake_fd = wake_fd,
                           .identity = identity_of(transactional_id),
                           .state = PRODUCER_STARTING,
                           .next = producers};
    producers = p;
    request_send(request_new(p, REQUEST_INIT));
    return p;
}

static void destroy(struct producer *p) {
    struct producer **at = &producers;
    while (*at != p) at = &(*at)->next;
    *at = p->next;
    txn_free(p->job);
    txn_free(p->finished);
    free(p);
}

/* The thread may still bring to its end what is under way, for a while; or it is left open. */
void producer_free(struct producer *p) {
    if (!p) return;
    bool ends = p->job && cluster_chance(500);
    int64_t end = world_us() + (ends ? JOIN_MOST_US : 0);
    p->wake_fd = -1;
    while (p->job && world_us() < end) world_block(JOIN_US);
    destroy(p);
}

enum producer_state producer_state(struct producer *p, char *ret_error, size_t size) {
    bool refused = p->state == PRODUCER_REFUSED;
    if (size) snprintf(ret_error, size, "%s", refused ? answer_names[ANSWER_REFUSED] : "");
    return p->state;
}

bool broker_is_between(void) {
    const struct producer *p = producers;
    while (p && !p->between) p = p->next;
    return p;
}

void producers_close(void) {
    while (requests) request_free(requests);
    while (producers) destroy(producers);
}

/* ---- for commands ---- */

struct producer *producer_open(const struct config *cfg, const char *transactional_id,
                               struct buf *err) {
    return producer_new(cfg, transactional_id, -1, err);
}

enum producer_state producer_begin(struct producer *p, int timeout_ms, struct txn *ret) {
    int64_t end = world_us() + timeout_ms * WORLD_MS;
    while (p->state == PRODUCER_STARTING && world_us() < end) world_block(JOIN_US);
    snprintf(ret->error, sizeof ret->error, "%s",
             p->state == PRODUCER_READY ? "" : "init transactions: timed out");
    return p->state;
}

void producer_run(struct producer *p, struct txn *txn) {
    producer_submit(p, txn);
    while (!producer_take(p)) world_block(JOIN_US);
}

enum producer_state producer_try(const struct config *cfg, const char *transactional_id,
                                 int timeout_ms, struct buf *err) {
    struct producer *p = producer_open(cfg, transactional_id, err);
    struct txn *txn = txn_new();
    enum producer_state state = producer_begin(p, timeout_ms, txn);
    txn_free(txn);
    producer_free(p);
    return state;
}

bool producer_check(const struct config *cfg, struct buf *err) {
    (void)cfg;
    (void)err;
    return true;
}
