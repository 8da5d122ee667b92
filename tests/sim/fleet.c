#include "tests/sim/fleet.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "config/config.h"
#include "tests/sim/admin.h"
#include "tests/sim/broker.h"
#include "tests/sim/events.h"
#include "tests/sim/judge.h"
#include "tests/sim/plan.h"
#include "tests/sim/scheduler.h"
#include "worker/base/random.h"
#include "worker/pipeline/dispatch.h"
#include "worker/pipeline/lane.h"

#define WORKERS_MAX 8
#define LANES_MAX 4
#define OWN_TOPICS_MAX 64
#define TICK_MS 200
#define REFRESH_TICKS 50
#define END_S 300   /* what a process may take from its drain to its end, and --until-end for all */
#define AHEAD_S 600 /* or behind: wrong clocks, of some minutes */
#define JUMP_S 120

struct process {
    uint64_t id; /* 0: it is gone */
    int worker;
    bool until_end, other_delays, draining, started;
    bool has_all;          /* partitions: no other process has any */
    bool told;             /* to end, before it was done */
    int64_t since_us;      /* it was started; told to end */
    uint64_t number;       /* its id, also when it is gone */
    int64_t ended_us;      /* in good order; 0: not */
    struct judge_run *run; /* what was there at its start */
    struct config *cfg;    /* in force; earlier ones stay, for lanes that still look at them */
    struct worker_shared shared;
    struct lane *lanes[LANES_MAX];
    bool whole[LANES_MAX]; /* more than its budget may be held: it was read whatever it takes */
    int stands[LANES_MAX]; /* for so many ticks it has read nothing, for a destination */
    int n_lanes;
    struct process *next; /* of all there ever were */
};

/* What its supervisor sees: the process, and nobody while it is started anew. */
static struct process *workers[WORKERS_MAX];
static struct process *processes; /* those included that another one has taken the place of */
static bool calm, closing;
static bool deploying; /* all are to end, and nobody is started until all have */
static int64_t calm_us;
static int deaths;
static int armed_kills, armed_freezes;
static char topics[OWN_TOPICS_MAX][64];
static int n_topics;

#define DELAYS_MAX 4
static const struct {
    const char *text;
    int64_t ms[DELAYS_MAX]; /* 0: there are no more */
} delays[] = {{"2s,4s,8s", {2000, 4000, 8000}},
              {"1s,2s,4s,8s", {1000, 2000, 4000, 8000}},
              {"3s", {3000}},
              {"500ms,2s,6s", {500, 2000, 6000}}};
#define OTHER_DELAYS "5s,7s"

int64_t fleet_delay_ms(unsigned i) {
    const int64_t *ms = delays[plan.delays].ms;
    unsigned n = 1;
    while (n < DELAYS_MAX && ms[n]) n++;
    return ms[i < n ? i : n - 1];
}

/* ---- topics ---- */

int fleet_topics(void) {
    return n_topics;
}

const char *fleet_topic(int i) {
    return topics[i];
}

const char *fleet_retry_topic(int source) {
    size_t n = strlen(events_topic(source));
    for (int i = 0; i < n_topics; i++)
        if (strncmp(topics[i], events_topic(source), n) == 0 &&
            strncmp(topics[i] + n, ".retry.", 7) == 0)
            return topics[i];
    return NULL;
}

static void note_topic(const char *name) {
    for (int i = 0; i < n_topics; i++)
        if (strcmp(topics[i], name) == 0) return;
    if (n_topics == OWN_TOPICS_MAX) abort();
    snprintf(topics[n_topics++], sizeof topics[0], "%s", name);
}

static void make_topic(const char *source, const char *kind, const char *name) {
    char topic[64];
    snprintf(topic, sizeof topic, "%s.%s%s", source, kind, name);
    if (!broker_partitions(topic)) broker_make_topic(topic, (int32_t)plan.partitions);
    note_topic(topic);
}

static void make_topics(const struct config *cfg) {
    for (int i = 0; i < events_topics(); i++) {
        const char *source = events_topic(i);
        note_topic(source);
        for (size_t d = 0; d < cfg->retry_delays.n; d++)
            make_topic(source, "retry.", cfg->retry_delays.v[d]);
        make_topic(source, "dead.", "tenant");
        make_topic(source, "dead.", "data");
        make_topic(source, "dead.", "system");
        make_topic(source, "", "ledger");
        if (plan.outcomes) make_topic(source, "", "outcomes");
    }
}

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static void add_name(struct list *l, const char *name) {
    l->v = xrealloc(l->v, (l->n + 1) * sizeof *l->v);
    l->v[l->n++] = xstrdup(name);
}

/* The lanes copy what they need of the lists before they give way. */
static void set_topics(struct process *p) {
    struct worker_shared *s = &p->shared;
    struct list sources = {0}, retries = {0};
    for (int i = 0; i < events_topics(); i++) add_name(&sources, events_topic(i));
    for (int i = 0; i < n_topics; i++)
        if (strstr(topics[i], ".retry.")) add_name(&retries, topics[i]);
    if (retries.n == s->retries.n) return;
    qsort(sources.v, sources.n, sizeof *sources.v, by_name);
    qsort(retries.v, retries.n, sizeof *retries.v, by_name);
    s->topics = sources;
    s->retries = retries;
    s->sources = (int64_t)sources.n * plan.partitions;
    s->partitions = (int64_t)(sources.n + retries.n) * plan.partitions;
    s->version++;
}

/* ---- configuration ---- */

static void set(struct config *cfg, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void set(struct config *cfg, const char *name, const char *format, ...) {
    char value[256];
    struct buf err;
    va_list ap;
    va_start(ap, format);
    vsnprintf(value, sizeof value, format, ap);
    va_end(ap);
    buf_init(&err, 4096);
    if (!config_set(cfg, name, value, "sim", &err))
        world_fail("%s = %s: %s", name, value, buf_cstr(&err));
    buf_free(&err);
}

static void set_ms(struct config *cfg, const char *name, int64_t ms) {
    set(cfg, name, "%" PRId64 "ms", ms);
}

static void set_number(struct config *cfg, const char *name, int64_t n) {
    set(cfg, name, "%" PRId64, n);
}

/* Now and then one process is configured otherwise than the others. */
static int64_t vary(int64_t planned, int64_t least, int64_t most) {
    return !plan.peace && world_chance(200) ? world_between(least, most) : planned;
}

static void set_windows(struct config *cfg) {
    static const char *const compressions[] = {"gzip", "zstd", "none"};
    static const char *const outcomes[] = {"off", "changes", "all"};
    set(cfg, "outcomes", "%s", outcomes[plan.outcomes]);
    set(cfg, "archive", plan.batch ? "batch" : "object");
    set(cfg, "batch.compression", "%s", compressions[plan.compression]);
    set_ms(cfg, "window.age", vary(plan.window_ms, 50, 2000));
    set_number(cfg, "window.records", vary(plan.window_records, 2, 200));
    set_number(cfg, "window.inflight", vary(plan.window_inflight, 2, 8));
    set_ms(cfg, "window.grace", vary(plan.grace_ms, 200, 2000));
    set_ms(cfg, "batch.age", vary(plan.batch_ms, 200, 6000));
    set_number(cfg, "batch.records", vary(plan.batch_records, 2, 200));
    set_number(cfg, "batch.inflight", vary(plan.batch_inflight, 1, 4));
}

/* Other ones each time that they are read. */
static void set_credentials(struct config *cfg) {
    set(cfg, "anchor.access_key_id", "AKIA%d", (int)world_between(1000, 9999));
    set(cfg, "anchor.secret_access_key", "secret-of-anchors");
}

/* What a SIGHUP may change. */
static void set_limits(struct config *cfg) {
    set_ms(cfg, "http.timeout", vary(plan.timeout_ms, 1000, 8000));
    set_ms(cfg, "http.connect_timeout", 1000);
    set_number(cfg, "dest.concurrency", vary(plan.concurrency, 1, 8));
    set_number(cfg, "dest.waiting", vary(plan.waiting, 1, 20));
    set_ms(cfg, "dest.patience", 1000);
    set_number(cfg, "breaker.failures", vary(plan.breaker, 1, 6));
    set_ms(cfg, "breaker.probe", 2000);
    set_ms(cfg, "drain.timeout", vary(plan.drain_ms, 500, 8000));
    if (plan.anchors) set_credentials(cfg);
    set_number(cfg, "dest.rate", plan.rate);
    set(cfg, "retry.permanent", plan.permanent_dead ? "dead" : "retry");
}

static void set_anchors(struct config *cfg) {
    static const char *const locks[] = {"none", "GOVERNANCE", "COMPLIANCE"};
    set(cfg, "anchor.bucket", "proof");
    set(cfg, "anchor.endpoint", "https://anchors.example.net");
    set(cfg, "anchor.path_style", "true");
    set(cfg, "anchor.prefix", "proof/");
    set(cfg, "anchor.lock_mode", "%s", locks[plan.anchors % 3]);
    set_ms(cfg, "anchor.interval", plan.anchors);
}

/* Less than an operator may set: the events are few, and small. */
static void make_small(struct config *cfg) {
    cfg->memory_budget = plan.budget_kib * plan.lanes << 10;
    cfg->dest_max = plan.dest_max;
}

static struct config *make_config(const struct process *p) {
    struct config *cfg = config_new();
    struct buf err;
    buf_init(&err, 4096);
    set(cfg, "topics", plan.topics > 1 ? "%s,%s" : "%s", events_topic(0), events_topic(1));
    set(cfg, "kafka.bootstrap.servers", "simulated:9092");
    set_number(cfg, "lanes", plan.lanes);
    if (plan.slots) set(cfg, "slot", "w%d", p->worker);
    set_windows(cfg);
    set_limits(cfg);
    set(cfg, "retry.delays", "%s", p->other_delays ? OTHER_DELAYS : delays[plan.delays].text);
    set(cfg, "retry.window.s3", "%" PRId64 "s", plan.retry_s);
    set(cfg, "retry.window.webhook", "%" PRId64 "s", plan.retry_s);
    set_number(cfg, "poison.attempts", plan.attempts);
    set_number(cfg, "http.max_connections", plan.connections);
    set_ms(cfg, "dest.idle", plan.idle_ms);
    if (plan.anchors) set_anchors(cfg);
    /* An older version is there until the deploy is over. */
    if (plan.forms && p->worker % 2) set_number(cfg, "ledger.form", 1);
    if (!config_finish(cfg, &err)) world_fail("the configuration: %s", buf_cstr(&err));
    buf_free(&err);
    make_small(cfg);
    return cfg;
}

/* SIGHUP: the same process with other limits. */
static void reload(struct process *p) {
    struct config *fresh = config_new();
    struct buf err, taken, ignored;
    buf_init(&err, 4096);
    buf_init(&taken, 4096);
    buf_init(&ignored, 4096);
    set_limits(fresh);
    struct config *cfg = config_reload(fresh, p->cfg, &taken, &ignored);
    cfg->memory_budget = fresh->memory_budget;
    if (!config_finish(cfg, &err)) world_fail("the configuration: %s", buf_cstr(&err));
    make_small(cfg);
    world_say("p%" PRIu64 " reads its configuration anew: %s", p->id, buf_cstr(&taken));
    p->cfg = cfg;
    atomic_store(&p->shared.cfg, cfg);
    config_free(fresh);
    buf_free(&ignored);
    buf_free(&taken);
    buf_free(&err);
}

/* ---- anchors ---- */

static struct ledger_signer *signer;

/* From a file in memory, as it is read from files alone. The key is RFC 8032's first test. */
void fleet_make_key(void) {
    static const char pem[] = "-----BEGIN PRIVATE KEY-----\n"
                              "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n"
                              "-----END PRIVATE KEY-----\n";
    char path[40];
    struct buf err;
    int fd = memfd_create("key", MFD_CLOEXEC);
    buf_init(&err, 4096);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (fd < 0 || write(fd, pem, sizeof pem - 1) < 0) abort();
    signer = ledger_signer_load(path, &err);
    if (!signer) world_fail("the key: %s", buf_cstr(&err));
    close(fd);
    buf_free(&err);
}

/* ---- a process ---- */

static void set_clock(const struct process *p) {
    struct clocks *c = process_clocks(p->id);
    if (plan.clocks >= 1 && world_chance(500))
        c->wall_ahead_us = world_between(-AHEAD_S * WORLD_S, AHEAD_S * WORLD_S);
    if (plan.clocks >= 2 && world_chance(500)) c->drift_ppm = world_between(-20000, 20000);
}

static void lane_thread(void *lane) {
    lane_live(lane);
}

static void start_lanes(struct process *p) {
    struct buf err;
    buf_init(&err, 4096);
    for (int i = 0; i < (int)p->cfg->lanes; i++) {
        struct lane *lane = lane_new(p->cfg, &p->shared, i, &err);
        if (!lane) world_fail("a lane does not start: %s", buf_cstr(&err));
        p->lanes[p->n_lanes++] = lane;
        process_spawn(lane_thread, lane, lane->wake_fd);
    }
    buf_free(&err);
}

static void tell_lanes(const struct process *p) {
    for (int i = 0; i < p->n_lanes; i++) {
        lane_drain(p->lanes[i]);
        world_wake(p->lanes[i]->wake_fd);
    }
}

static void drain(struct process *p) {
    if (!p->id || p->draining) return;
    p->draining = p->told = true;
    p->since_us = world_us();
    world_say("p%" PRIu64 " is told to end", p->id);
    if (p->started) tell_lanes(p);
}

static int running(const struct process *p, bool *ret_failed) {
    int n = 0;
    for (int i = 0; i < p->n_lanes; i++) {
        int state = atomic_load(&p->lanes[i]->state);
        n += state == LANE_RUNNING;
        *ret_failed = *ret_failed || state == LANE_FAILED;
    }
    return n;
}

/* --until-end: all lanes have nothing left to do, and no partition is nobody's: another process may
 * have it. */
static bool is_done(struct process *p) {
    int64_t covered = 0;
    for (int i = 0; i < p->n_lanes; i++) {
        if (!atomic_load(&p->lanes[i]->done)) return false;
        covered += atomic_load(&p->lanes[i]->owned);
    }
    p->has_all = covered >= p->shared.partitions;
    for (const struct process *q = processes; q; q = q->next)
        for (int i = 0; q != p && q->id && i < q->n_lanes; i++)
            covered += atomic_load(&q->lanes[i]->owned);
    return covered >= p->shared.partitions;
}

static void look_at_windows(const struct process *p, const struct lane *lane) {
    for (const struct partition *q = lane->partitions; q; q = q->next) {
        bool batch = plan.batch && q->kind == PARTITION_SOURCE;
        size_t most = (size_t)(batch ? p->cfg->batch_inflight + 1 : p->cfg->window_inflight), n = 0;
        for (const struct window *w = q->windows.oldest; w; w = w->newer)
            n += !w->replayed && !w->lost;
        judge_windows(q->topic, q->id, n, most);
    }
}

/* What must be read whole is read whatever it takes. */
static bool reads_whole(const struct lane *lane) {
    for (const struct partition *q = lane->partitions; q; q = q->next)
        for (const struct window *w = q->windows.oldest; w; w = w->newer)
            if (w->replayed || w->incomplete) return true;
    return false;
}

/* It is looked at before a record is taken, and what is sealed may be in memory a second time, as
 * bodies: half of the budget. */
#define RECORD_BYTES ((size_t)8 << 10)
static size_t most_held(const struct process *p) {
    size_t budget = (size_t)(p->cfg->memory_budget / p->cfg->lanes);
    return budget + RECORD_BYTES + (plan.batch ? budget / 2 : 0);
}

static void look_at_budget(const struct process *p, const struct lane *lane, bool *whole) {
    size_t most = most_held(p);
    /* Until that is settled, too. */
    *whole = reads_whole(lane) || (*whole && lane->held > most);
    if (!*whole) judge_held(lane->held, most);
}

static void look_at_standing(const struct process *p, const struct lane *lane, int *ticks) {
    *ticks = dispatch_saturated(lane->dispatch) ? *ticks + 1 : 0;
    judge_standing(*ticks * TICK_MS, p->until_end);
}

/* Somebody has the status page open. */
static void ask_lanes(const struct process *p) {
    bool asks = plan.asks && world_chance((unsigned)plan.asks);
    for (int i = 0; plan.asks && i < p->n_lanes; i++) {
        admin_take(p->lanes[i]);
        if (asks) admin_ask(p->lanes[i]);
    }
}

static void tick(struct process *p, int ticks) {
    for (int i = 0; i < p->n_lanes; i++) {
        look_at_standing(p, p->lanes[i], &p->stands[i]);
        look_at_budget(p, p->lanes[i], &p->whole[i]);
        look_at_windows(p, p->lanes[i]);
    }
    ask_lanes(p);
    if (p->until_end && !p->draining && is_done(p)) {
        drain(p);
        p->told = false; /* it ends because it is done */
    }
    int64_t since_us = p->until_end && p->since_us < calm_us ? calm_us : p->since_us;
    if ((p->draining || (p->until_end && calm)) && world_us() - since_us > END_S * WORLD_S)
        world_fail("p%" PRIu64 " does not end", p->id);
    if (!atomic_exchange(&p->shared.look, false) && ticks % REFRESH_TICKS) return;
    make_topics(p->cfg);
    set_topics(p);
}

/* Topics are made anew at once: none is ever missing. */
static int32_t there(const char *topic, const void *unused) {
    (void)topic;
    (void)unused;
    return (int32_t)plan.partitions;
}

static bool left_any(const struct process *p) {
    struct ends_left *left = NULL;
    size_t n = p->shared.ends ? ends_left(p->shared.ends, there, NULL, &left) : 0;
    free(left);
    return n > 0;
}

/* As run_worker() decides on the exit code. */
static bool exits_well(const struct process *p, const uint64_t totals[COUNTERS]) {
    return !left_any(p) && !totals[COUNTER_GIVEN_UP] && !totals[COUNTER_PENDING] &&
           totals[COUNTER_PARKED] <= totals[COUNTER_AGAIN] + totals[COUNTER_UNPARKED];
}

/* What an orderly end leaves behind. */
static void end_lanes(struct process *p) {
    uint64_t totals[COUNTERS] = {0};
    bool well = true;
    for (int i = 0; i < p->n_lanes; i++) {
        well = well && atomic_load(&p->lanes[i]->state) == LANE_FINISHED;
        if (atomic_load(&p->lanes[i]->state) == LANE_FINISHED) judge_held(p->lanes[i]->held, 0);
        lane_end(p->lanes[i], totals);
    }
    p->n_lanes = 0;
    if (well) p->ended_us = world_us();
    if (well && p->until_end && exits_well(p, totals) && !p->told && p->has_all)
        judge_run_end(p->run);
    ends_free(p->shared.ends);
    p->shared.ends = NULL;
    world_say("it ends: %" PRIu64 " records, %" PRIu64 " delivered, %" PRIu64 " parked",
              totals[COUNTER_RECORDS], totals[COUNTER_DELIVERED], totals[COUNTER_PARKED]);
}

static void restart_later(int worker, int64_t most_us);

static void process_main(void *arg) {
    struct process *p = arg;
    bool failed = false;
    int ticks = 0;
    p->cfg = make_config(p);
    p->shared = (struct worker_shared){.until_end = p->until_end};
    p->shared.ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    p->shared.me = random_u64();
    snprintf(p->shared.cluster, sizeof p->shared.cluster, "simulated");
    p->shared.signer = plan.anchors ? signer : NULL;
    p->shared.troubles = troubles_new();
    pthread_mutex_init(&p->shared.mutex, NULL);
    atomic_store(&p->shared.cfg, p->cfg);
    make_topics(p->cfg);
    set_topics(p);
    if (p->until_end) p->shared.ends = ends_new();
    for (int i = 0; p->until_end && i < events_topics(); i++)
        ends_add(p->shared.ends, events_topic(i), (int32_t)plan.partitions, false);
    start_lanes(p);
    p->started = true;
    if (p->draining) tell_lanes(p);
    while (running(p, &failed)) {
        if (failed) drain(p);
        process_wait(TICK_MS * WORLD_MS);
        tick(p, ++ticks);
    }
    end_lanes(p);
    p->id = 0;
    if (workers[p->worker] != p) return;
    workers[p->worker] = NULL;
    restart_later(p->worker, 5 * WORLD_S);
}

static void start(int worker, bool until_end) {
    until_end = until_end || plan.cron;
    struct process *p = xcalloc(1, sizeof *p);
    p->worker = worker;
    p->until_end = until_end;
    p->other_delays = plan.other_delays && world_chance(300);
    p->since_us = world_us();
    p->id = p->number = process_start(process_main, p);
    if (until_end) p->run = judge_run_begin();
    set_clock(p);
    workers[worker] = p;
    p->next = processes;
    processes = p;
    world_say("p%" PRIu64 " starts as worker %d%s%s", p->id, worker,
              until_end ? ", --until-end" : "", p->other_delays ? ", with other delays" : "");
}

/* ---- its supervisor ---- */

static void restart(void *arg) {
    int worker = (int)(intptr_t)arg;
    if (!closing && !deploying && !workers[worker]) start(worker, false);
}

static void restart_later(int worker, int64_t most_us) {
    world_after(world_between(20 * WORLD_MS, most_us), restart, (void *)(intptr_t)worker);
}

/* May not return. */
static void kill_process(struct process *p, const char *why) {
    uint64_t id = p->id;
    world_say("p%" PRIu64 " dies%s", id, why);
    p->id = 0;
    events_compact();
    broker_crashed(id);
    if (workers[p->worker] == p) {
        workers[p->worker] = NULL;
        restart_later(p->worker, world_chance(700) ? WORLD_S : 12 * WORLD_S);
    }
    process_kill(id);
}

static struct process *by_id(uint64_t id) {
    struct process *p = processes;
    while (p && p->id != id) p = p->next;
    return p;
}

void fleet_dies(void) {
    struct process *p = by_id(world_process());
    if (!p) return;
    deaths++;
    kill_process(p, " of poison");
}

static void may_die(uint64_t process) {
    struct process *p = by_id(process);
    if (!p || calm || !armed_kills || !world_chance((unsigned)plan.kill_point)) return;
    armed_kills--;
    kill_process(p, " at a crash point");
}

void fleet_may_die(void) {
    may_die(world_process());
}

/* A node that does not answer is replaced: the new one has its slot, and it may wake up yet. */
static void freeze(struct process *p) {
    int64_t us = world_chance(300) ? world_between(10 * WORLD_MS, 2 * WORLD_S)
                                   : world_between(WORLD_S, 3 * plan.session_ms * WORLD_MS);
    world_say("p%" PRIu64 " is frozen for %" PRId64 " ms", p->id, us / WORLD_MS);
    process_freeze(p->id, us);
    if (!world_chance(250)) return;
    workers[p->worker] = NULL;
    restart_later(p->worker, us);
}

static void on_wait(uint64_t process) {
    if (calm || (!armed_kills && !armed_freezes)) return;
    struct process *p = by_id(process);
    if (!p || !world_chance(20)) return;
    if (armed_freezes) {
        armed_freezes--;
        freeze(p);
    } else {
        armed_kills--;
        kill_process(p, "");
    }
}

int fleet_deaths(void) {
    return deaths;
}

int64_t fleet_ended_us(uint64_t process) {
    const struct process *p = processes;
    while (p && p->number != process) p = p->next;
    return p ? p->ended_us : 0;
}

/* ---- what the plan has in store ---- */

static void expire_offsets(void) {
    for (int i = 0; plan.expiry && i < n_topics; i++)
        for (int32_t p = 0; p < plan.partitions; p++)
            if (world_chance(500) && judge_may_expire(topics[i], p))
                broker_commit(topics[i], p, -1, "");
}

/* Once all have ended. */
static void deploy_next(void *unused) {
    (void)unused;
    if (!fleet_is_gone()) {
        world_after(100 * WORLD_MS, deploy_next, NULL);
        return;
    }
    expire_offsets();
    deploying = false;
    for (int i = 0; i < plan.workers && i < WORKERS_MAX; i++) restart_later(i, WORLD_S);
}

static void deploy(void *unused) {
    (void)unused;
    if (calm || deploying) return;
    world_say("all are told to end, for a deploy");
    deploying = true;
    for (struct process *p = processes; p; p = p->next) drain(p);
    deploy_next(NULL);
}

static void arm(void *counter) {
    ++*(int *)counter;
}

static struct process *any_process(void) {
    struct process *p = workers[world_draw(WORKERS_MAX)];
    return p && p->started && !world_is_frozen(p->id) ? p : NULL;
}

static void leave(void *unused) {
    struct process *p = any_process();
    (void)unused;
    if (p && !calm) drain(p);
}

static void read_anew(void *unused) {
    struct process *p = any_process();
    (void)unused;
    if (p && !calm) reload(p);
}

static void jump(void *unused) {
    struct process *p = any_process();
    (void)unused;
    if (!p) return;
    process_clocks(p->id)->wall_ahead_us += world_between(-JUMP_S * WORLD_S, JUMP_S * WORLD_S);
    world_say("the clock of p%" PRIu64 " jumps", p->id);
}

static void some_time(int64_t n, void (*fn)(void *), void *arg) {
    for (int64_t i = 0; i < n; i++) world_after(world_between(0, plan.seconds * WORLD_S), fn, arg);
}

void fleet_begin(void) {
    process_on_wait(on_wait);
    broker_on_transaction(may_die);
    for (int i = 0; i < plan.workers && i < WORKERS_MAX; i++) {
        if (i == 0 || plan.peace || world_chance(700))
            restart_later(i, WORLD_S);
        else
            restart_later(i, plan.seconds * WORLD_S / 2);
    }
    some_time(plan.kills, arm, &armed_kills);
    some_time(plan.freezes, arm, &armed_freezes);
    some_time(4 * plan.leaves, leave, NULL); /* not all find somebody */
    some_time(4 * plan.reloads, read_anew, NULL);
    if (plan.clocks >= 3) some_time(10, jump, NULL);
    some_time(plan.deploys, deploy, NULL);
}

void fleet_calm(void) {
    calm = true;
    calm_us = world_us();
    for (int i = 0; i < plan.workers && i < WORKERS_MAX; i++)
        if (!workers[i]) restart_later(i, WORLD_S);
}

void fleet_drain(void) {
    closing = true;
    for (struct process *p = processes; p; p = p->next) drain(p);
}

bool fleet_is_gone(void) {
    for (const struct process *p = processes; p; p = p->next)
        if (p->id) return false;
    return true;
}

void fleet_run_until_end(void) {
    start(0, true);
}
