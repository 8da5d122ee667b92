/* `runsink run`: resolves the topics, makes those that are missing, starts the lanes, and waits for
 * signals and for lanes that end. Main thread. */
#include "worker/run.h"

#include <errno.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "sinks/file.h"
#include "sinks/http/http.h"
#include "worker/admin/admin.h"
#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/base/random.h"
#include "worker/kafka/begin.h"
#include "worker/kafka/client.h"
#include "worker/kafka/consumer.h"
#include "worker/kafka/producer.h"
#include "worker/kafka/topic_settings.h"
#include "worker/limits.h"
#include "worker/pipeline/anchor_write.h"
#include "worker/pipeline/lane.h"
#include "worker/progress.h"
#include "worker/tools/check.h"
#include "worker/tools/command.h"
#include "worker/until_end.h"

#define BROKER_TIMEOUT_MS 30000
#define REFRESH_MS 300000 /* where nothing new can match, what there is may still change */
#define LOOK_PAUSE_MS 5000
#define KEEP_CONFIG_MS 60000
#define CERTS_MS 3600000 /* how often certificates' files are looked at */
#define END_CHECK_MS 500 /* how often --until-end looks whether it is at its end */

/* A configuration that was in force. Lanes look at it until their next turn, and transfers until
 * they end. */
struct replaced {
    struct config *cfg;
    int64_t at_ms;
};

struct worker {
    struct config *first, *cfg; /* the caller's, and the one in force */
    struct replaced *replaced;  /* oldest first */
    size_t n_replaced;
    reload_fn *reload;
    struct worker_shared shared;
    struct ledger_signer *signer;
    rd_kafka_t *admin;
    struct admin *server; /* NULL: switched off */
    struct lane **lanes;
    int64_t n_lanes;
    struct watchdog *watchdog; /* NULL: switched off */
    int signal_fd;
    bool draining;
    struct until_end end; /* --until-end */
    struct list unserved; /* topics that match and can't be served */
    int64_t refreshed_ms; /* when the topics were looked at last */
    int64_t certs_ms;     /* and the certificates */
    char refresh_error[256];
};

static int64_t now_ms(void) {
    return clock_ms(CLOCK_MONOTONIC);
}

/* ---- topics ---- */

static bool same_topics(const struct list *a, const struct topic_list *b) {
    if (a->n != b->n) return false;
    for (size_t i = 0; i < a->n; i++)
        if (strcmp(a->v[i], b->v[i].name) != 0) return false;
    return true;
}

/* Whether they are other ones than before. */
static bool take_names(struct list *l, const struct topic_list *topics) {
    if (same_topics(l, topics)) return false;
    list_free(l);
    for (size_t i = 0; i < topics->n; i++) list_add(l, str_c(topics->v[i].name));
    return true;
}

static int64_t count_partitions(const struct topic_list *l) {
    int64_t n = 0;
    for (size_t i = 0; i < l->n; i++) n += l->v[i].partitions;
    return n;
}

static void tell_leftovers(const struct worker *w) {
    const struct list *l = &w->shared.retries;
    for (size_t i = 0; i < l->n; i++)
        if (topic_is_leftover(w->cfg, l->v[i]))
            log_info("retry.delays has no such delay any more; what waits there is read until "
                     "somebody deletes the topic (`runsink check` says when it is empty)",
                     LOG_S("topic", l->v[i]));
}

static void set_topics(struct worker *w, const struct topic_list *sources,
                       const struct topic_list *retries) {
    pthread_mutex_lock(&w->shared.mutex);
    struct list *l = &w->shared.topics;
    w->shared.sources = count_partitions(sources);
    w->shared.partitions = w->shared.sources + count_partitions(retries);
    bool other = take_names(l, sources), others = take_names(&w->shared.retries, retries);
    w->shared.version += other || others;
    for (size_t i = 0; other && i < l->n; i++) log_info("consuming", LOG_S("topic", l->v[i]));
    if (others) tell_leftovers(w);
    pthread_mutex_unlock(&w->shared.mutex);
}

static bool all_there(const struct topic_list *sources, struct buf *err) {
    bool ok = true;
    for (size_t i = 0; i < sources->n; i++) {
        if (sources->v[i].partitions) continue;
        buf_printf(err,
                   "topic %s does not exist, or may not be seen: create it, correct `topics`, or "
                   "allow Describe on it\n",
                   sources->v[i].name);
        ok = false;
    }
    return ok;
}

/* One topic that can't be served keeps no other from being consumed. */
static void tell_unserved(struct worker *w, const struct topic_list *unserved) {
    for (size_t i = 0; i < w->unserved.n; i++)
        if (!topic_find(unserved, w->unserved.v[i]))
            trouble_clear(w->shared.troubles, TROUBLE_OWNER_MAIN, TROUBLE_NOT_SERVED,
                          w->unserved.v[i]);
    for (size_t i = 0; i < unserved->n; i++)
        trouble_set(w->shared.troubles, TROUBLE_OWNER_MAIN, TROUBLE_NOT_SERVED, unserved->v[i].name,
                    unserved->v[i].unserved, 0);
    take_names(&w->unserved, unserved);
}

/* A run that ends has not read them. */
static bool leaves_unserved(const struct worker *w) {
    for (size_t i = 0; i < w->unserved.n; i++)
        log_error("the run ends, and a topic that matches was not read: it can't be served; rename "
                  "it, make its own topics, or leave it out of `topics` (`runsink check` says why)",
                  LOG_S("topic", w->unserved.v[i]));
    return w->unserved.n > 0;
}

/* With --until-end: records of the start that nobody can read any more. Another run changes nothing
 * of that, and would not say it. */
static bool has_lost(const uint64_t totals[COUNTERS]) {
    if (!totals[COUNTER_LOST]) return false;
    log_error(
        "the run is over, and records were lost: retention removed them before they were read "
        "(the ledger and the lines above name them); lengthen the topic's retention, or run "
        "more often",
        LOG_I("lost", totals[COUNTER_LOST]));
    return true;
}

static int refuse_all(const struct topic_list *unserved, struct buf *err) {
    for (size_t i = 0; i < unserved->n; i++)
        buf_printf(err, "topics: %s can't be served: %s\n", unserved->v[i].name,
                   unserved->v[i].unserved);
    return EX_CONFIG;
}

/* Somebody wants the process to end: then no wait for a broker goes on. The signal stays pending
 * until take_signal() reads it. */
static bool told_to_stop(void) {
    sigset_t pending;
    return sigpending(&pending) == 0 &&
           (sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1);
}

/* Finds the sources and makes runsink's own topics for them. The exit code for a start that fails.
 */
static int refresh_topics(struct worker *w, bool start, struct buf *err) {
    struct topic_list all = {0}, sources = {0}, retries = {0}, unserved = {0};
    int rc = EX_OK;
    w->refreshed_ms = now_ms();
    if (!topics_list(w->admin, BROKER_TIMEOUT_MS, told_to_stop, &all, err))
        rc = EX_UNAVAILABLE;
    else if (!topics_resolve(w->cfg, &all, &sources, err))
        rc = EX_CONFIG;
    else if (start && !all_there(&sources, err))
        rc = EX_UNAVAILABLE; /* it may be made yet */
    else
        rc = topic_settings_create(w->admin, w->cfg, &all, &sources, BROKER_TIMEOUT_MS,
                                   told_to_stop, err);
    if (rc == EX_OK) topics_part(&sources, &unserved);
    /* What an expression matches may be mended yet; a run that ends would say that all is done. */
    if (rc == EX_OK && w->shared.until_end && unserved.n && !sources.n)
        rc = refuse_all(&unserved, err);
    if (rc == EX_OK && start)
        rc = begin_group(w->cfg, &all, &sources, BROKER_TIMEOUT_MS, told_to_stop, err);
    if (rc == EX_OK) {
        topics_retries(w->cfg, &all, &sources, &retries);
        set_topics(w, &sources, &retries);
        if (w->shared.until_end && start) until_end_begin(&w->shared, &sources, &retries);
        if (w->shared.until_end) until_end_topics(&w->end, &sources, &retries);
        tell_unserved(w, &unserved);
    }
    topic_list_free(&unserved);
    topic_list_free(&retries);
    topic_list_free(&sources);
    topic_list_free(&all);
    return rc;
}

static bool open_admin(struct worker *w, struct buf *err) {
    if (w->admin) return true;
    rd_kafka_conf_t *conf = client_conf_new(w->cfg, NULL, err);
    if (conf) w->admin = client_new(RD_KAFKA_PRODUCER, conf, err);
    return w->admin != NULL;
}

static void close_admin(struct worker *w) {
    if (w->admin) rd_kafka_destroy(w->admin);
    w->admin = NULL;
}

/* ---- signals ---- */

static bool hold_signals(sigset_t *set) {
    sigemptyset(set);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGHUP);
    /* Blocked before any thread starts, so that all inherit it. */
    return pthread_sigmask(SIG_BLOCK, set, NULL) == 0;
}

void run_hold_signals(void) {
    sigset_t set;
    hold_signals(&set);
}

static bool open_signals(struct worker *w) {
    sigset_t set;
    signal(SIGPIPE, SIG_IGN);
    if (!hold_signals(&set)) return false;
    w->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return w->signal_fd >= 0;
}

static void drain_all(struct worker *w) {
    if (w->draining) return;
    w->draining = true;
    for (int64_t i = 0; i < w->n_lanes; i++) lane_drain(w->lanes[i]);
}

/* Whether a lane may still look at what was replaced when it took this one, or a later one. */
static bool is_in_use(const struct worker *w, size_t at) {
    const struct replaced *r = &w->replaced[at];
    if (now_ms() - r->at_ms < KEEP_CONFIG_MS + r->cfg->http_timeout) return true;
    for (int64_t i = 0; i < w->n_lanes; i++) {
        const struct config *taken = atomic_load(&w->lanes[i]->taken);
        if (atomic_load(&w->lanes[i]->state) != LANE_RUNNING) continue;
        for (size_t j = 0; j <= at; j++)
            if (taken == w->replaced[j].cfg) return true;
    }
    return false;
}

static void free_replaced(struct worker *w, bool all) {
    size_t n = 0;
    while (n < w->n_replaced && (all || !is_in_use(w, n))) {
        if (w->replaced[n].cfg != w->first) config_free(w->replaced[n].cfg);
        n++;
    }
    if (n) memmove(w->replaced, w->replaced + n, (w->n_replaced -= n) * sizeof *w->replaced);
}

static void replace(struct worker *w, struct config *fresh) {
    free_replaced(w, false);
    w->replaced = xgrow(w->replaced, w->n_replaced, sizeof *w->replaced);
    w->replaced[w->n_replaced++] = (struct replaced){w->cfg, now_ms()};
    w->cfg = fresh;
    atomic_store(&w->shared.cfg, fresh);
}

static void look_at_certs(struct worker *w) {
    w->certs_ms = now_ms();
    cert_watch_look(&w->shared.certs, w->cfg, (int64_t)time(NULL));
}

static int certs_wait_ms(const struct worker *w) {
    int64_t left = w->certs_ms + CERTS_MS - now_ms();
    return left > 0 ? (int)left : 0;
}

/* As the ledger's entries say it from here on. */
static void tell_rules(const struct worker *w) {
    char rules[HEX_LEN(CONFIG_RULES_LEN) + 1];
    hex(w->cfg->rules, CONFIG_RULES_LEN, rules);
    log_info("events are decided by these rules", LOG_S("rules", rules),
             LOG_S("cluster", w->shared.cluster));
    if (w->cfg->hold_workspaces.n || w->cfg->hold_destinations.n)
        log_warn("events are held: what hold.workspaces and hold.destinations name is not "
                 "attempted, and becomes dead letters",
                 LOG_I("workspaces", (int64_t)w->cfg->hold_workspaces.n),
                 LOG_I("destinations", (int64_t)w->cfg->hold_destinations.n));
}

/* SIGHUP: the lanes take the new configuration over at their next turn. */
static void reload(struct worker *w) {
    struct buf taken, ignored, err;
    buf_init(&taken, 65536);
    buf_init(&ignored, 65536);
    buf_init(&err, 65536);
    struct config *fresh = w->reload ? w->reload(w->cfg, &taken, &ignored, &err) : NULL;
    atomic_store(&w->shared.reload_failed, !fresh);
    if (!fresh) {
        log_error("the configuration could not be read anew; the one in force stays",
                  LOG_MESSAGE(&err));
    } else {
        log_set_level((enum log_level)fresh->log_level);
        log_info("configuration read anew", LOG_S("changed", buf_cstr(&taken)),
                 LOG_S("needs_restart", buf_cstr(&ignored)));
        replace(w, fresh);
        tell_rules(w);
        look_at_certs(w);
    }
    buf_free(&taken);
    buf_free(&ignored);
    buf_free(&err);
}

static void take_signal(struct worker *w) {
    struct signalfd_siginfo info;
    if (read(w->signal_fd, &info, sizeof info) != sizeof info) return;
    if (info.ssi_signo == SIGHUP) {
        reload(w);
        return;
    }
    /* A second Ctrl-C is somebody who will not wait. A second SIGTERM is a supervisor that tells
     * the process and its group; when it loses patience it kills. */
    if (w->draining && info.ssi_signo != SIGINT) return;
    if (w->draining) {
        log_warn("second signal: leaving without draining; what was not settled is read again");
        log_flush(1000);
        _exit(EX_TEMPFAIL);
    }
    log_info("draining", LOG_I("signal", info.ssi_signo),
             LOG_I("timeout_ms", w->cfg->drain_timeout));
    drain_all(w);
}

/* ---- life ---- */

static int64_t lanes_running(const struct worker *w, bool *ret_failed) {
    int64_t running = 0;
    for (int64_t i = 0; i < w->n_lanes; i++) {
        int state = atomic_load(&w->lanes[i]->state);
        running += state == LANE_RUNNING;
        *ret_failed = *ret_failed || state == LANE_FAILED;
    }
    return running;
}

static bool has_pattern(const struct config *cfg) {
    for (size_t i = 0; i < cfg->topics.n; i++)
        if (cfg->topics.v[i][0] == '^') return true;
    return false;
}

/* A client costs threads, connections and a sixth of what an idle process takes: it is there for as
 * long as it is needed. */
static void rest_admin(struct worker *w) {
    if (!has_pattern(w->cfg) && !w->shared.until_end) close_admin(w);
}

/* The same problem is told once. */
static void refresh_later(struct worker *w) {
    struct buf err;
    buf_init(&err, 65536);
    bool ok = open_admin(w, &err) && refresh_topics(w, false, &err) == EX_OK;
    if (!ok && !told_to_stop() && strncmp(w->refresh_error, buf_cstr(&err), 255) != 0)
        log_warn("the topics can't be looked at now; they are looked at again later",
                 LOG_MESSAGE(&err));
    snprintf(w->refresh_error, sizeof w->refresh_error, "%s", ok ? "" : buf_cstr(&err));
    w->refreshed_ms = now_ms();
    rest_admin(w);
    buf_free(&err);
}

/* How long until the topics are to be looked at again, ms: now and then, and soon when a lane has
 * found one of runsink's own gone. */
static int refresh_wait_ms(const struct worker *w) {
    int64_t every = w->cfg->topics_refresh;
    if (!has_pattern(w->cfg) && every < REFRESH_MS) every = REFRESH_MS;
    if ((atomic_load(&w->shared.look) || until_end_misses(&w->end)) && every > LOOK_PAUSE_MS)
        every = LOOK_PAUSE_MS;
    int64_t left = w->refreshed_ms + every - now_ms();
    return left > 0 ? (int)left : 0;
}

static void sum_lanes(const struct worker *w, uint64_t totals[COUNTERS]) {
    memset(totals, 0, COUNTERS * sizeof *totals);
    for (int64_t l = 0; l < w->n_lanes; l++)
        for (int i = 0; i < COUNTERS; i++)
            totals[i] += count_get(&w->lanes[l]->counters, (enum counter)i);
}

static void show_progress(const struct worker *w, struct progress_meter *meter) {
    uint64_t totals[COUNTERS];
    sum_lanes(w, totals);
    progress_show(meter, totals, now_ms());
}

static void show_heartbeat(const struct worker *w, struct heartbeat *heartbeat) {
    uint64_t totals[COUNTERS];
    sum_lanes(w, totals);
    heartbeat_show(heartbeat, totals, now_ms());
}

/* The sooner of two waits of poll(2), where -1 is for ever. */
static int sooner(int a, int b) {
    return a < 0 || (b >= 0 && b < a) ? b : a;
}

#define TRIM_MS 5000

/* malloc() keeps what is freed for its arenas' next needs, holes and all: after a crowd of large
 * records that is half as much again as is in use. What whole pages of it there are go back. */
static void give_memory_back(int64_t *last_ms) {
    if (now_ms() - *last_ms < TRIM_MS) return;
    malloc_trim(0);
    *last_ms = now_ms();
}

static void end_when_over(struct worker *w) {
    const struct until_end_view view = {.admin = w->admin,
                                        .cfg = w->cfg,
                                        .shared = &w->shared,
                                        .lanes = w->lanes,
                                        .n_lanes = w->n_lanes,
                                        .looked_ms = w->refreshed_ms,
                                        .stop = told_to_stop};
    if (until_end_look(&w->end, &view) == UNTIL_END_OVER) drain_all(w);
}

/* Until all lanes have ended. A lane that fails takes the others along: the process is started anew
 * by whoever watches it. */
static bool watch(struct worker *w) {
    bool failed = false, meter_on = w->shared.until_end;
    struct progress_meter meter;
    struct heartbeat heartbeat = {.last_ms = now_ms()};
    progress_begin(&meter, now_ms());
    int64_t trimmed_ms = now_ms();
    while (lanes_running(w, &failed) > 0) {
        if (failed) drain_all(w);
        give_memory_back(&trimmed_ms);
        struct pollfd fds[] = {{.fd = w->signal_fd, .events = POLLIN},
                               {.fd = w->shared.ended_fd, .events = POLLIN}};
        int wait = w->draining ? -1 : refresh_wait_ms(w);
        if (meter_on) wait = sooner(wait, progress_wait_ms(&meter, now_ms()));
        wait = sooner(wait, certs_wait_ms(w));
        wait = sooner(wait, heartbeat_wait_ms(&heartbeat, w->cfg->log_heartbeat, now_ms()));
        wait = sooner(wait, TRIM_MS);
        if (w->shared.until_end && !w->draining) wait = sooner(wait, END_CHECK_MS);
        poll(fds, 2, wait);
        eventfd_t value;
        if (fds[0].revents) take_signal(w);
        if (fds[1].revents && eventfd_read(w->shared.ended_fd, &value) != 0) continue;
        if (w->shared.until_end && !w->draining) end_when_over(w);
        if (meter_on && progress_wait_ms(&meter, now_ms()) == 0) show_progress(w, &meter);
        if (heartbeat_wait_ms(&heartbeat, w->cfg->log_heartbeat, now_ms()) == 0)
            show_heartbeat(w, &heartbeat);
        if (certs_wait_ms(w) == 0) look_at_certs(w);
        if (w->draining || refresh_wait_ms(w) > 0) continue;
        atomic_store(&w->shared.look, false);
        refresh_later(w);
    }
    if (meter_on) {
        show_progress(w, &meter);
        progress_end(&meter);
    }
    lanes_running(w, &failed);
    return !failed;
}

static bool start_lanes(struct worker *w, struct buf *err) {
    w->lanes = xcalloc((size_t)w->cfg->lanes, sizeof(struct lane *));
    for (; w->n_lanes < w->cfg->lanes; w->n_lanes++) {
        struct lane *lane = lane_start(w->cfg, &w->shared, (int)w->n_lanes, err);
        if (!lane) return false;
        w->lanes[w->n_lanes] = lane;
    }
    return true;
}

static bool start_watchdog(struct worker *w, struct buf *err) {
    if (!w->cfg->watchdog_timeout) return true;
    const struct place **places = xcalloc((size_t)w->n_lanes, sizeof *places);
    for (int64_t i = 0; i < w->n_lanes; i++) places[i] = &w->lanes[i]->place;
    w->watchdog = watchdog_start(w->cfg->watchdog_timeout, places, (size_t)w->n_lanes);
    if (!w->watchdog) buf_printf(err, "starting the watchdog failed: %s\n", strerror(errno));
    free(places);
    return w->watchdog != NULL;
}

static void stop_lanes(struct worker *w, uint64_t totals[COUNTERS]) {
    watchdog_stop(w->watchdog); /* they look at the lanes */
    w->watchdog = NULL;
    admin_close(w->server);
    w->server = NULL;
    drain_all(w);
    for (int64_t i = 0; i < w->n_lanes; i++) {
        /* The lane is freed by the join: its last counts are read when its thread has ended. */
        lane_join(w->lanes[i], totals);
    }
    free(w->lanes);
    w->lanes = NULL;
    w->n_lanes = 0;
}

static void report(const uint64_t totals[COUNTERS]) {
    log_info(
        "done", LOG_I("records", totals[COUNTER_RECORDS]),
        LOG_I("delivered", totals[COUNTER_DELIVERED]), LOG_I("skipped", totals[COUNTER_SKIPPED]),
        LOG_I("parked", totals[COUNTER_PARKED]), LOG_I("dead_tenant", totals[COUNTER_DEAD_TENANT]),
        LOG_I("held", totals[COUNTER_DEAD_HELD]), LOG_I("dead_data", totals[COUNTER_DEAD_DATA]),
        LOG_I("dead_system", totals[COUNTER_DEAD_SYSTEM]), LOG_I("lost", totals[COUNTER_LOST]),
        LOG_I("requests", totals[COUNTER_DELIVERIES]), LOG_I("windows", totals[COUNTER_WINDOWS]),
        LOG_I("transactions", totals[COUNTER_TRANSACTIONS]));
}

/* *ret stays NULL where nothing is to be signed. */
static bool load_signer(const struct config *cfg, struct ledger_signer **ret, struct buf *err) {
    if (!cfg->ledger || !cfg->ledger_key[0]) return true;
    *ret = ledger_signer_load(cfg->ledger_key, err);
    return *ret && (!cfg->ledger_key_previous[0] ||
                    ledger_signer_rotate(*ret, cfg->ledger_key_previous, err));
}

static bool try_kafka(const struct config *cfg, struct buf *err) {
    rd_kafka_conf_t *conf = client_conf_new(cfg, NULL, err);
    if (conf) rd_kafka_conf_destroy(conf);
    return conf != NULL;
}

static void worker_free(struct worker *w) {
    close_admin(w);
    free_replaced(w, true);
    free(w->replaced);
    if (w->cfg != w->first) config_free(w->cfg);
    ledger_signer_free(w->signer);
    list_free(&w->shared.topics);
    list_free(&w->shared.retries);
    list_free(&w->unserved);
    until_end_free(&w->end);
    ends_free(w->shared.ends);
    pthread_mutex_destroy(&w->shared.mutex);
    troubles_free(w->shared.troubles);
    if (w->signal_fd >= 0) close(w->signal_fd);
    if (w->shared.ended_fd >= 0) close(w->shared.ended_fd);
}

/* A folder that can't be had is found now, not event by event. */
static bool try_override(const struct config *cfg, struct buf *err) {
    struct destination d = {0};
    struct outcome problem;
    if (!cfg->override_dir) return true;
    if (!file_destination(cfg->override_dir, &d, &problem)) {
        buf_printf(err, "sink.override: %s: %s", cfg->override_dir, problem.detail);
        return false;
    }
    d.type->free_config(d.config);
    free(d.prefix);
    return true;
}

static bool try_folder(const char *key, const char *dir, bool may_make, struct buf *err) {
    struct buf why;
    buf_init(&why, 8192);
    bool ok = file_root_usable(dir, may_make, &why);
    if (!ok) buf_printf(err, "%s: %s\n", key, buf_cstr(&why));
    buf_free(&why);
    return ok;
}

static bool try_file_root(const struct config *cfg, struct buf *err) {
    return !cfg->file_root[0] || try_folder("file.root", cfg->file_root, false, err);
}

/* Properties that exclude each other: librdkafka says so when it is to make something of them. */
static bool try_handles(const struct config *cfg, struct buf *err) {
    return consumer_check(cfg, err) && producer_check(cfg, err);
}

/* What a start and a reload have to pass alike. */
static bool passes(const struct config *cfg, struct ledger_signer **ret_signer, struct buf *err) {
    return config_check_run(cfg, err) && try_override(cfg, err) && try_file_root(cfg, err) &&
           try_kafka(cfg, err) && load_signer(cfg, ret_signer, err) &&
           anchor_check(cfg, *ret_signer, err);
}

/* Whether run_worker() would take the configuration (finished), as far as this machine can tell. */
static bool run_check(const struct config *cfg, struct buf *err) {
    struct ledger_signer *signer = NULL;
    bool ok = passes(cfg, &signer, err);
    ledger_signer_free(signer);
    return ok;
}

static bool line_ended(bool ok, struct buf *err) {
    if (!ok && err->n && err->p[err->n - 1] != '\n') buf_putc(err, '\n');
    return ok;
}

/* By making all that run_worker() makes of it: check_try_fn. */
static bool run_try(const struct config *cfg, bool complete, struct buf *err) {
    struct ledger_signer *signer = NULL;
    bool ok = !complete || config_check_run(cfg, err);
    if (complete && cfg->override_dir)
        ok &= try_folder("sink.override", cfg->override_dir, true, err);
    ok &= !complete || try_file_root(cfg, err);
    bool signs = line_ended(load_signer(cfg, &signer, err), err);
    ok &= signs && line_ended(anchor_check(cfg, signer, err), err);
    ledger_signer_free(signer);
    ok &= line_ended(try_handles(cfg, err), err);
    return ok;
}

static int begin(struct worker *w, struct buf *err) {
    if (!open_signals(w) || (w->shared.ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) < 0) {
        buf_printf(err, "signals can't be set up: %s\n", strerror(errno));
        return EX_OSERR;
    }
    if (!passes(w->cfg, &w->signer, err) || !try_handles(w->cfg, err) || !open_admin(w, err))
        return EX_CONFIG;
    w->shared.signer = w->signer;
    look_at_certs(w);
    if (!admin_open(w->cfg, command_config_path(), &w->server, err)) return EX_CONFIG;
    int rc = refresh_topics(w, true, err);
    if (rc != EX_OK) return rc;
    client_cluster(w->admin, BROKER_TIMEOUT_MS, w->shared.cluster);
    tell_rules(w);
    rest_admin(w);
    if (!start_lanes(w, err)) return EX_CONFIG;
    if (!start_watchdog(w, err)) return EX_OSERR;
    return admin_serve(w->server, w->lanes, (size_t)w->n_lanes, err) ? EX_OK : EX_OSERR;
}

int run_worker(struct config *cfg, reload_fn *reload_config, bool until_end,
               uint64_t totals[COUNTERS]) {
    struct worker w = {.first = cfg, .cfg = cfg, .reload = reload_config, .signal_fd = -1};
    w.shared = (struct worker_shared){.until_end = until_end, .ended_fd = -1};
    atomic_store(&w.shared.cfg, cfg);
    w.shared.troubles = troubles_new();
    w.shared.me = random_u64();
    pthread_mutex_init(&w.shared.mutex, NULL);
    struct buf err;
    buf_init(&err, 65536);
    memset(totals, 0, COUNTERS * sizeof *totals);
    log_start((size_t)cfg->log_buffer);
    limits_check(cfg);
    http_global_init();
    int rc = begin(&w, &err);
    bool ok = rc == EX_OK && watch(&w);
    bool stopped = rc != EX_OK && told_to_stop();
    if (stopped)
        log_info("stopped before it had started: nothing was read");
    else if (rc != EX_OK)
        log_error("runsink can't start", LOG_MESSAGE(&err));
    stop_lanes(&w, totals);
    if (rc == EX_OK) report(totals);
    bool whole = !until_end_left(&w.end, &w.shared) && (!until_end || w.end.done);
    if (until_end && rc == EX_OK) whole = !leaves_unserved(&w) && whole;
    bool lost = until_end && rc == EX_OK && has_lost(totals);
    worker_free(&w);
    buf_free(&err);
    log_stop();
    if (stopped) return until_end ? EX_TEMPFAIL : EX_OK;
    if (rc != EX_OK) return rc;
    if (!ok) return EX_SOFTWARE;
    if (lost) return EX_DATAERR;
    /* Something waits in a retry topic, or was parked by this run and has not come back; one lane
     * may have parked what another one took. */
    bool left = totals[COUNTER_GIVEN_UP] > 0;
    bool parked = totals[COUNTER_PENDING] ||
                  totals[COUNTER_PARKED] > totals[COUNTER_AGAIN] + totals[COUNTER_UNPARKED];
    return left || !whole || (until_end && parked) ? EX_TEMPFAIL : EX_OK;
}

/* The sources of the configuration read anew, for SIGHUP. It has to pass every check that a start
 * passes; what may not change keeps its value (see config_reload()). */
static struct config *read_anew(const struct config *now, struct buf *taken, struct buf *ignored,
                                struct buf *err) {
    struct config *fresh = config_new(), *ret = NULL;
    bool ok = command_read(fresh, err);
    if (ok && fresh->unended && !now->unended) {
        buf_puts(err, "the configuration file ends in the middle of a line, as one does that is "
                      "still being written: end it with a newline\n");
        ok = false;
    }
    ok = ok && config_finish(fresh, err) && run_check(fresh, err);
    if (ok) ret = config_reload(fresh, now, taken, ignored);
    if (ret && !config_finish(ret, err)) {
        config_free(ret);
        ret = NULL;
    }
    config_free(fresh);
    return ret;
}

int command_run(struct config *cfg, int argc, char **argv) {
    bool until_end = false;
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--until-end") != 0)
            return command_usage("run", "unknown argument \"%.40s\"", argv[i]);
        until_end = true;
    }
    if (!cfg->topics.n) {
        fputs("runsink run: `topics` is not set: say what to consume\n", stderr);
        return EX_CONFIG;
    }
    uint64_t totals[COUNTERS];
    return run_worker(cfg, read_anew, until_end, totals);
}

int command_check(struct config *unused, int argc, char **argv) {
    (void)unused;
    return check_command(argc, argv, run_try);
}
