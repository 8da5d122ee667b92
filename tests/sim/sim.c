/* Whole fleets of workers in a simulated world, one seed after the other: README.md. */
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/sim/broker.h"
#include "tests/sim/events.h"
#include "tests/sim/fleet.h"
#include "tests/sim/judge.h"
#include "tests/sim/plan.h"
#include "tests/sim/scheduler.h"
#include "tests/sim/second.h"
#include "tests/sim/shrink.h"
#include "tests/sim/store.h"
#include "worker/base/gzip.h"
#include "worker/base/log.h"

#define SETTLED_S 1200 /* after the end of all trouble */
#define REST_S 5       /* once nothing is under way any more */
#define ANCHORS_S 70   /* the same, where a ledger is anchored */
#define HANG_S 300     /* of this machine's time, for one seed */
#define JOBS_MAX 64
#define FAILURES_MAX 20

/* ---- one seed ---- */

enum ending { ENDS_RUNNING, ENDS_DRAINED, ENDS_UNTIL_END };

static int64_t calm_us;
static bool verifies = true; /* not with --no-verify */

static void judge_and_end(void *unused) {
    (void)unused;
    judge_all();
    if (verifies) second_opinion();
    world_say("all is well");
    world_end();
}

/* Until nobody is left who has been told to end, and what lands late has landed. What goes on has
 * some time to anchor the newest of its ledger. */
static void rest(void *unused) {
    (void)unused;
    if ((!fleet_is_gone() && plan.end != ENDS_RUNNING) || !store_is_quiet())
        world_after(WORLD_S, rest, NULL);
    else
        world_after((plan.anchors ? ANCHORS_S : REST_S) * WORLD_S, judge_and_end, NULL);
}

/* As a timer would that starts the next run when the last has ended. */
static void run_again(void) {
    if (fleet_is_gone()) fleet_run_until_end();
}

/* For as long as the transaction of a process that was killed may stay open and hide records. */
static bool is_settled(char *where, size_t size) {
    static int64_t since_us;
    bool settled = events_over() && judge_settled(where, size);
    if (!settled || !since_us) since_us = world_us();
    return settled && world_us() - since_us > (plan.txn_timeout_ms + 2000) * WORLD_MS;
}

static void look(void *unused) {
    char where[160] = "events that are still to come";
    (void)unused;
    if (is_settled(where, sizeof where)) {
        world_say("all is settled");
        if (plan.end != ENDS_RUNNING) fleet_drain();
        rest(NULL);
        return;
    }
    if (world_us() - calm_us > SETTLED_S * WORLD_S)
        world_fail("P1: %d s after the end of trouble this is not settled: %s", SETTLED_S, where);
    if (plan.end == ENDS_UNTIL_END) run_again();
    world_after(WORLD_S, look, NULL);
}

static void drain_first(void *unused) {
    (void)unused;
    fleet_drain();
}

static void be_calm(void *unused) {
    (void)unused;
    world_say("trouble ends");
    calm_us = world_us();
    broker_calm();
    store_calm();
    events_calm();
    fleet_calm();
    int64_t some_us = world_between(0, 20 * WORLD_S);
    if (plan.end == ENDS_UNTIL_END) world_after(some_us, drain_first, NULL);
    world_after(some_us + WORLD_MS, look, NULL);
}

static void open_broker(void) {
    const struct broker_faults faults = {.latency_us = plan.latency_us,
                                         .session_us = plan.session_ms * WORLD_MS,
                                         .txn_timeout_us = plan.txn_timeout_ms * WORLD_MS,
                                         .eager = plan.slots,
                                         .slow_coordinator = (unsigned)plan.slow_coordinator,
                                         .stale_answer = (unsigned)plan.stale_answer,
                                         .lost_answer = (unsigned)plan.lost_answer,
                                         .abort = (unsigned)plan.abort,
                                         .unstable = (unsigned)plan.unstable,
                                         .astray = (unsigned)plan.astray,
                                         .no_producer = (unsigned)plan.no_producer,
                                         .no_access = (unsigned)plan.no_access,
                                         .deaf = (unsigned)plan.deaf,
                                         .largest = plan.largest,
                                         .topic_gone = (unsigned)plan.topic_gone};
    broker_open(&faults);
}

static void run_seed(uint64_t seed, bool trace, const char *broken) {
    world_begin(seed, trace, broken);
    plan_draw();
    plan_say();
    log_setup(trace ? LOG_DEBUG : LOG_ERROR, false);
    open_broker();
    judge_begin();
    events_begin();
    fleet_begin();
    world_after(plan.seconds * WORLD_S, be_calm, NULL);
    world_run();
    broker_close();
}

/* ---- many, each in a process of its own ---- */

struct options {
    uint64_t first, seeds;
    bool one, trace, twice, shrink;
    const char *broken;
    int jobs;
};

struct result {
    uint64_t digest, switches;
    int64_t us;
};

struct job {
    pid_t pid; /* 0: free */
    uint64_t seed;
    bool again;
};

static struct result *results; /* shared: a slot for each job, and the first run's beside it */

#ifdef SIM_COVERAGE
void __gcov_dump(void); /* libgcov's: it writes the figures at a usual exit alone */
#define dump_coverage __gcov_dump
#else
static void dump_coverage(void) {}
#endif

static void run_child(const struct options *o, uint64_t seed, struct result *ret) {
    alarm(HANG_S);
    run_seed(seed, o->trace, o->broken);
    *ret = (struct result){world_digest(), world_switches(), world_us()};
    fflush(stdout);
    dump_coverage();
    _exit(0);
}

static void start_job(const struct options *o, struct job *j, int slot) {
    fflush(stdout);
    j->pid = fork();
    if (j->pid == 0) run_child(o, j->seed, &results[2 * slot + j->again]);
    if (j->pid < 0) {
        perror("fork");
        exit(2);
    }
}

/* What there is to say of a run that has ended; whether it went well. */
static bool take_end(const struct job *j, int status, const struct result *first) {
    if (WIFSIGNALED(status))
        printf("seed %" PRIu64 " ends by signal %d (%s)\n", j->seed, WTERMSIG(status),
               strsignal(WTERMSIG(status)));
    if (status) return false;
    if (!j->again || first[0].digest == first[1].digest) return true;
    printf("seed %" PRIu64 " makes two runs: %016" PRIx64 ", %016" PRIx64 "\n", j->seed,
           first[0].digest, first[1].digest);
    return false;
}

static int slot_of(const struct job *jobs, int n, pid_t pid) {
    int i = 0;
    while (i < n && jobs[i].pid != pid) i++;
    return i;
}

static double now_s(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int run_many(const struct options *o) {
    struct job jobs[JOBS_MAX] = {{0}};
    uint64_t next = o->first, end = o->first + o->seeds, switches = 0;
    int running = 0, failures = 0, status;
    double start_s = now_s(), virtual_s = 0;
    for (int i = 0; i < o->jobs && next < end; i++, running++) {
        jobs[i].seed = next++;
        start_job(o, &jobs[i], i);
    }
    while (running) {
        int i = slot_of(jobs, o->jobs, wait(&status));
        bool ok = take_end(&jobs[i], status, &results[2 * i]);
        failures += !ok;
        switches += results[2 * i].switches;
        virtual_s += (double)results[2 * i].us / 1e6;
        if (ok && o->twice && !jobs[i].again) {
            jobs[i].again = true;
        } else if (next < end && failures < FAILURES_MAX) {
            jobs[i] = (struct job){.seed = next++};
        } else {
            jobs[i].pid = 0;
            running--;
            continue;
        }
        start_job(o, &jobs[i], i);
    }
    double took_s = now_s() - start_s;
    printf("%" PRIu64 " seeds from %" PRIu64
           ": %d failed, %.0f a minute, %.0f hours of virtual time, "
           "%.1f million turns\n",
           next - o->first, o->first, failures, (double)(next - o->first) * 60 / took_s,
           virtual_s / 3600, (double)switches / 1e6);
    return failures ? 1 : 0;
}

/* ---- one that fails ---- */

static bool fails(void *options, uint64_t seed) {
    int status = 0;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (!freopen("/dev/null", "w", stdout)) _exit(0);
        run_child(options, seed, &results[0]);
    }
    return waitpid(pid, &status, 0) == pid && status != 0;
}

static int shrink_one(struct options *o) {
    world_begin(o->first, false, o->broken);
    plan_draw();
    if (!fails(o, o->first)) {
        printf("seed %" PRIu64 " does not fail\n", o->first);
        return 2;
    }
    shrink(o->first, fails, o);
    return 1;
}

/* ---- the command line ---- */

static void usage(void) {
    fputs("sim --seeds N [--first K] [--jobs J] [--check-determinism] [--no-verify] [--broken RULE]"
          " [--plan NAME=VALUE]...\n"
          "sim --seed N [--trace | --shrink] [--no-verify] [--broken RULE]"
          " [--plan NAME=VALUE]...\n",
          stderr);
    exit(2);
}

static uint64_t take_number(char **argv, int *i) {
    if (!argv[*i + 1]) usage();
    return strtoull(argv[++*i], NULL, 10);
}

static const char *take_text(char **argv, int *i) {
    if (!argv[*i + 1]) usage();
    return argv[++*i];
}

static struct options parse(char **argv) {
    struct options o = {.seeds = 100, .jobs = 1};
    for (int i = 1; argv[i]; i++) {
        if (strcmp(argv[i], "--seeds") == 0)
            o.seeds = take_number(argv, &i);
        else if (strcmp(argv[i], "--first") == 0)
            o.first = take_number(argv, &i);
        else if (strcmp(argv[i], "--seed") == 0)
            o.first = take_number(argv, &i), o.one = true;
        else if (strcmp(argv[i], "--jobs") == 0)
            o.jobs = (int)take_number(argv, &i);
        else if (strcmp(argv[i], "--broken") == 0)
            o.broken = take_text(argv, &i);
        else if (strcmp(argv[i], "--trace") == 0)
            o.trace = true;
        else if (strcmp(argv[i], "--shrink") == 0)
            o.shrink = true;
        else if (strcmp(argv[i], "--no-verify") == 0)
            verifies = false;
        else if (strcmp(argv[i], "--check-determinism") == 0)
            o.twice = true;
        else if (strcmp(argv[i], "--plan") != 0 || !plan_set(take_text(argv, &i)))
            usage();
    }
    if (o.jobs < 1 || o.jobs > JOBS_MAX) usage();
    return o;
}

/* What libraries make at their first use is made once, for all children. */
static void warm_up(void) {
    EVP_MD_free(EVP_MD_fetch(NULL, "SHA256", NULL));
    EVP_MD_free(EVP_MD_fetch(NULL, "MD5", NULL));
    EVP_MAC_free(EVP_MAC_fetch(NULL, "HMAC", NULL));
    fleet_make_key();
    for (int level = 1; level <= GZIP_LEVEL_MAX; level++) gzip_new(level);
}

/* Begins anew with an allocator that keeps what it has, in huge pages: a third of a seed's time
 * would be page faults. It reads its settings before main(). */
static void keep_memory(char **argv) {
    static const char tunables[] = "glibc.malloc.mmap_threshold=100000000:"
                                   "glibc.malloc.trim_threshold=1000000000:"
                                   "glibc.malloc.top_pad=16000000:glibc.malloc.hugetlb=1";
    if (getenv("GLIBC_TUNABLES") || setenv("GLIBC_TUNABLES", tunables, 0) != 0) return;
    execv("/proc/self/exe", argv); /* or goes on as it is */
}

int main(int argc, char **argv) {
    (void)argc;
    keep_memory(argv);
    struct options o = parse(argv);
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    warm_up();
    results = mmap(NULL, 2 * JOBS_MAX * sizeof *results, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (results == MAP_FAILED) return 2;
    if (o.shrink) return shrink_one(&o);
    if (!o.one) return run_many(&o);
    run_seed(o.first, o.trace, o.broken);
    printf("seed %" PRIu64 ": all is well, %016" PRIx64 ", %" PRId64 " s, %" PRIu64 " turns\n",
           o.first, world_digest(), world_us() / WORLD_S, world_switches());
    return 0;
}
