/* worker/pipeline/snapshot.h: what a lane notes stays bounded, and is handed over whole to another
 * thread. Also built with the thread sanitizer (preset tsan). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "worker/admin/metrics.h"
#include "worker/pipeline/lane.h"

enum { DESTINATIONS = 1000, ASKED = 20, MANY = 3000 };

static const struct progress unfailed;

struct world {
    struct config *cfg;
    struct lane lane;
    pthread_t thread;
    atomic_bool stop;
};

static int64_t now_ms(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static int setup(void **state) {
    struct world *w = xcalloc(1, sizeof *w);
    struct buf err;
    buf_init(&err, 4096);
    w->cfg = config_new();
    assert_true(config_finish(w->cfg, &err));
    w->lane.cfg = w->cfg;
    w->lane.wake_fd = eventfd(0, EFD_CLOEXEC);
    w->lane.observer = observer_new(w->lane.wake_fd);
    w->lane.router = router_new(w->cfg);
    w->lane.now_ms = now_ms();
    w->lane.wall_ms = 1000000;
    buf_free(&err);
    *state = w;
    return 0;
}

static int teardown(void **state) {
    struct world *w = *state;
    router_free(w->lane.router);
    observer_free(w->lane.observer);
    close(w->lane.wake_fd);
    config_free(w->cfg);
    free(w);
    return 0;
}

/* Asked and served on one thread. */
static struct lane_snapshot *look(struct world *w) {
    observer_ask(w->lane.observer);
    observer_serve(&w->lane);
    struct lane_snapshot *s = observer_take(w->lane.observer, now_ms());
    assert_non_null(s);
    return s;
}

static void die(struct world *w, const char *why, int64_t offset) {
    char topic[] = "runs";
    struct window window = {.topic = topic, .lane = &w->lane};
    struct outcome o = outcome_fail(VERDICT_PERMANENT, FAULT_TENANT, why, "detail of %s", why);
    struct record record = {
        .from_partition = 3, .from_offset = offset, .progress = &unfailed, .outcome = &o};
    w->lane.wall_ms++;
    observer_dead(&window, &record);
}

static void test_nobody_asked(void **state) {
    struct world *w = *state;
    observer_serve(&w->lane);
    assert_null(observer_take(w->lane.observer, now_ms()));
    /* Asked once is answered once. */
    lane_snapshot_free(look(w));
    observer_serve(&w->lane);
    assert_null(observer_take(w->lane.observer, now_ms() + 20));
}

static void test_last_dead_letters(void **state) {
    struct world *w = *state;
    for (int64_t i = 0; i < SNAPSHOT_DEAD + 7; i++) die(w, "gone", i);
    struct lane_snapshot *s = look(w);
    assert_int_equal(s->n_dead, SNAPSHOT_DEAD);
    for (size_t i = 0; i < s->n_dead; i++) /* newest first */
        assert_int_equal(s->dead[i].offset, SNAPSHOT_DEAD + 6 - (int64_t)i);
    assert_string_equal(s->dead[0].topic, "runs");
    assert_int_equal(s->dead[0].partition, 3);
    assert_string_equal(s->dead[0].outcome.detail, "detail of gone");
    assert_int_equal(s->n_reasons, 1);
    assert_int_equal(s->reasons[0].count, SNAPSHOT_DEAD + 7);
    lane_snapshot_free(s);
}

/* A store that answers with a code of its own each time must not push out what others die of. */
static void test_reasons_without_end(void **state) {
    struct world *w = *state;
    uint64_t sum = 0;
    for (int i = 0; i < 1000; i++) {
        char why[16];
        snprintf(why, sizeof why, "code-%d", i);
        die(w, "honest", i);
        die(w, why, i);
    }
    struct lane_snapshot *s = look(w);
    assert_int_equal(s->n_reasons, SNAPSHOT_REASONS);
    bool found = false;
    for (size_t i = 0; i < s->n_reasons; i++) {
        sum += s->reasons[i].count;
        if (strcmp(s->reasons[i].why, "honest") != 0) continue;
        found = true;
        assert_int_equal(s->reasons[i].count, 1000);
    }
    assert_true(found);
    assert_int_equal(sum + s->other_reasons, 2000);
    lane_snapshot_free(s);
}

static void test_same_reason_of_two_faults(void **state) {
    struct world *w = *state;
    char topic[] = "runs";
    struct window window = {.topic = topic, .lane = &w->lane};
    for (int i = 0; i < 4; i++) {
        struct outcome o =
            outcome_fail(VERDICT_PERMANENT, i % 2 ? FAULT_DATA : FAULT_SYSTEM, "same", NULL);
        struct record record = {.progress = &unfailed, .outcome = &o};
        observer_dead(&window, &record);
    }
    struct lane_snapshot *s = look(w);
    assert_int_equal(s->n_reasons, 2);
    assert_int_equal(s->reasons[0].count, 2);
    assert_int_equal(s->reasons[1].count, 2);
    lane_snapshot_free(s);
}

static void know_destinations(struct world *w) {
    for (int i = 0; i < DESTINATIONS; i++) {
        char sink[128];
        int n =
            snprintf(sink, sizeof sink, "{\"type\":\"webhook\",\"url\":\"https://e.test/%d\"}", i);
        struct jobrun run = {.sink = {sink, (size_t)n}, .status = STR("SUCCESS")};
        struct destination *dest;
        struct outcome o = {0};
        assert_int_equal(route(w->lane.router, &run, w->lane.now_ms, &dest, &o), ROUTE_DELIVER);
    }
}

static void test_many_destinations(void **state) {
    struct world *w = *state;
    know_destinations(w);
    struct lane_snapshot *s = look(w);
    assert_int_equal(s->known, DESTINATIONS);
    assert_int_equal(s->n_destinations, SNAPSHOT_DESTINATIONS);
    assert_int_equal(s->open, 0);
    for (size_t i = 0; i < s->n_destinations; i++) {
        assert_string_equal(s->destinations[i].type, "webhook");
        assert_int_equal(s->destinations[i].failing_ms, -1);
        for (size_t j = 0; j < i; j++) /* each once */
            assert_string_not_equal(s->destinations[i].label, s->destinations[j].label);
    }
    lane_snapshot_free(s);
}

/* Readiness must not be a second late: gauges follow an assignment at the next turn. */
static void test_gauges_follow_an_assignment(void **state) {
    struct world *w = *state;
    struct counters *c = &w->lane.counters;
    observer_serve(&w->lane);
    assert_int_equal(count_get(c, COUNTER_ASSIGNED), 0);
    struct partition *p = xcalloc(1, sizeof *p);
    w->lane.assigned = true;
    w->lane.partitions = p;
    observer_serve(&w->lane);
    assert_int_equal(count_get(c, COUNTER_ASSIGNED), 1);
    assert_int_equal(count_get(c, COUNTER_UNLOADED), 1);
    w->lane.now_ms += 3000;
    observer_serve(&w->lane);
    assert_int_equal(count_get(c, COUNTER_UNSTABLE_MS), 3000);
    w->lane.partitions = NULL;
    free(p);
}

static void note_destination(struct destination *dest, void *ret) {
    *(struct destination **)ret = dest;
}

static struct snapshot_workspace row_of(struct world *w, uint64_t workspace) {
    struct lane_snapshot *s = look(w);
    struct snapshot_workspace ret = {0};
    for (size_t i = 0; i < s->n_workspaces; i++)
        if (s->workspaces[i].hash == workspace) ret = s->workspaces[i];
    lane_snapshot_free(s);
    return ret;
}

/* What waits is what waits now, for workspace and destination; what died stays. */
static void test_workspaces(void **state) {
    struct world *w = *state;
    char topic[] = "runs";
    const int64_t delays[] = {10000, 120000};
    struct window window = {.topic = topic, .lane = &w->lane};
    struct outcome o = outcome_fail(VERDICT_RETRY, FAULT_TENANT, "http-503", "busy");
    struct record record = {.workspace = 7, .progress = &unfailed, .outcome = &o};
    struct destination *dest = NULL;
    w->lane.schedule = (struct schedule){delays, 2};
    know_destinations(w);
    router_each(w->lane.router, note_destination, &dest);
    for (int i = 0; i < 3; i++)
        observer_parked(&window, &record, dest, &o, w->lane.wall_ms + 10000);
    observer_dead(&window, &record);
    struct snapshot_workspace row = row_of(w, 7);
    assert_int_equal(row.waiting, 3);
    assert_int_equal(row.dead[0], 1);
    assert_int_equal(row.redrivable, 0);
    assert_string_equal(row.last.why, "http-503");
    assert_int_equal(backlog_count(destination_backlog(dest), w->lane.wall_ms), 3);
    observer_back(&w->lane, &record, dest, w->lane.wall_ms + 10000);
    assert_int_equal(row_of(w, 7).waiting, 2);
    assert_int_equal(backlog_count(destination_backlog(dest), w->lane.wall_ms), 2);
    w->lane.wall_ms += 120000; /* another process had them */
    assert_int_equal(row_of(w, 7).waiting, 0);
    /* Any number of others take no more room, and the last ones are there. */
    for (uint64_t i = 1000; i < 1000 + MANY; i++) {
        record.workspace = i;
        w->lane.wall_ms++;
        observer_dead(&window, &record);
    }
    struct lane_snapshot *s = look(w);
    assert_int_equal(s->n_workspaces, SNAPSHOT_WORKSPACES);
    for (size_t i = 0; i < s->n_workspaces; i++)
        assert_true(s->workspaces[i].hash >= 1000 + MANY - SNAPSHOT_WORKSPACES);
    lane_snapshot_free(s);
}

static void *serve(void *arg) {
    struct world *w = arg;
    for (int64_t i = 0; !atomic_load(&w->stop); i++) {
        eventfd_t value;
        if (eventfd_read(w->lane.wake_fd, &value) != 0) break;
        die(w, "gone", i);
        count(&w->lane.counters, COUNTER_RECORDS, 1);
        observe_us(&w->lane.counters, HISTOGRAM_DELIVERY, 1, 1000);
        observer_serve(&w->lane);
    }
    return NULL;
}

/* The lane is woken by the question; each snapshot is of a moment. */
static void test_handover(void **state) {
    struct world *w = *state;
    know_destinations(w);
    assert_int_equal(pthread_create(&w->thread, NULL, serve, w), 0);
    for (int i = 0; i < ASKED; i++) {
        struct metrics_sums *sums = xcalloc(1, sizeof *sums);
        observer_ask(w->lane.observer);
        struct lane_snapshot *s = observer_take(w->lane.observer, now_ms() + 10000);
        assert_non_null(s);
        assert_int_equal(s->known, DESTINATIONS);
        assert_int_equal(s->reasons[0].count, s->dead[0].offset + 1);
        metrics_add(sums, &w->lane.counters);
        assert_true(metrics_total(sums, COUNTER_RECORDS) >= s->reasons[0].count);
        lane_snapshot_free(s);
        free(sums);
    }
    atomic_store(&w->stop, true);
    observer_ask(w->lane.observer);
    pthread_join(w->thread, NULL);
}

/* ---- how many workspaces and hosts ---- */

static struct lane_snapshot *tried(size_t n) {
    struct lane_snapshot *s = xcalloc(1, sizeof *s);
    s->tried = xcalloc(n + 1, sizeof *s->tried);
    return s;
}

static void try(struct lane_snapshot *s, uint64_t workspace, uint64_t host, bool sick) {
    s->tried[s->n_tried++] =
        (struct snapshot_tried){.workspace = workspace, .host = host, .sick = sick};
}

/* One tenant has any number of destinations, at any number of hosts or at one that others use. */
static void test_one_tenant_is_one(void **state) {
    (void)state;
    struct lane_snapshot *lanes[] = {tried(2 * MANY), NULL, tried(2 * MANY)};
    for (uint64_t i = 0; i < MANY; i++) {
        try(lanes[i % 2 * 2], 666, 1000000 + i, true);
        try(lanes[i % 2 * 2], 666, 77, true);
        try(lanes[0], 1 + i % 40, 100 + i % 40, false); /* both lanes see these */
        try(lanes[2], 1 + i % 40, i % 2 ? 77 : 100 + i % 40, false);
    }
    struct snapshot_distinct d = snapshot_distinct(lanes, 3);
    assert_int_equal(d.workspaces, 41);
    assert_int_equal(d.sick_workspaces, 1);
    assert_int_equal(d.hosts, 41 + MANY);
    assert_int_equal(d.sick_hosts, MANY + 1);
    for (size_t i = 0; i < 3; i++) lane_snapshot_free(lanes[i]);
}

/* Most of what it has has to fail, over all lanes; a sink without a host is of no host. */
static void test_most_make_sick(void **state) {
    (void)state;
    static const struct {
        bool sick[2][3];
        bool is;
    } cases[] = {
        {{{true, true, true}, {false, false, false}}, false},
        {{{true, true, true}, {true, false, false}}, true},
        {{{false, false, false}, {true, true, false}}, false},
        {{{false, false, false}, {false, false, false}}, false},
        {{{true, true, true}, {true, true, true}}, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct lane_snapshot *lanes[] = {tried(3), tried(3)};
        for (size_t j = 0; j < 6; j++)
            try(lanes[j / 3], UINT64_MAX - i, i % 2 ? 9 : 0, cases[i].sick[j / 3][j % 3]);
        struct snapshot_distinct d = snapshot_distinct(lanes, 2);
        assert_int_equal(d.workspaces, 1);
        assert_int_equal(d.sick_workspaces, cases[i].is);
        assert_int_equal(d.hosts, i % 2);
        assert_int_equal(d.sick_hosts, i % 2 && cases[i].is);
        lane_snapshot_free(lanes[0]);
        lane_snapshot_free(lanes[1]);
    }
    struct snapshot_distinct none = snapshot_distinct(NULL, 0);
    assert_int_equal(none.workspaces, 0);
}

static size_t unfit(struct world *w) {
    struct lane_snapshot *s = look(w);
    size_t n = snapshot_distinct(&s, 1).unfit_workspaces;
    lane_snapshot_free(s);
    return n;
}

/* One that sends bad events without end is one; it is over some time after the last. */
static void test_unfit_events(void **state) {
    struct world *w = *state;
    assert_int_equal(unfit(w), 0);
    for (int i = 0; i < MANY; i++) observer_unfit(&w->lane, 0xfeed00000001);
    assert_int_equal(unfit(w), 1);
    w->lane.now_ms += UNFIT_MS / 2;
    observer_unfit(&w->lane, 0xfeed00000002);
    assert_int_equal(unfit(w), 2);
    w->lane.now_ms += UNFIT_MS / 2;
    assert_int_equal(unfit(w), 1);
    w->lane.now_ms += UNFIT_MS / 2;
    assert_int_equal(unfit(w), 0);
    observer_unfit(&w->lane, 0); /* nobody's */
    assert_int_equal(unfit(w), 0);
    assert_int_equal(count_get(&w->lane.counters, COUNTER_UNATTRIBUTED), 1);
    for (uint64_t i = 1; i < MANY * 100; i++) observer_unfit(&w->lane, i);
    assert_int_equal(unfit(w), UNFIT_SLOTS);
}

/* A key that can't be made is known by its delivery; faults of other kinds are others' trouble. */
static void test_unfit_deliveries(void **state) {
    struct world *w = *state;
    char topic[] = "runs";
    struct window window = {.topic = topic, .lane = &w->lane};
    for (enum fault f = FAULT_TENANT; f <= FAULT_SYSTEM; f++) {
        struct outcome o = outcome_fail(VERDICT_PERMANENT, f, "why", NULL);
        struct delivery p = {.label = "", .batch.workspace = 10 + f};
        struct record record = {.progress = &unfailed, .outcome = &o, .delivery = &p};
        observer_dead(&window, &record);
    }
    assert_int_equal(unfit(w), 1);
}

static double largest(struct world *w, enum skip skip) {
    struct lane_snapshot *s = look(w);
    struct lane_snapshot *twice[] = {s, NULL, s};
    double part = snapshot_distinct(&s, 1).largest[skip];
    assert_true(snapshot_distinct(twice, 3).largest[skip] == part);
    lane_snapshot_free(s);
    return part;
}

/* What one workspace has of what is skipped, for each reason, while it counts and no longer. */
static void test_largest_skipper(void **state) {
    struct world *w = *state;
    assert_true(largest(w, SKIP_STATUS) == 0);
    for (uint64_t i = 0; i < 10; i++) observer_skipped(&w->lane, "status", 0xfeed00000001 + i);
    assert_true(largest(w, SKIP_STATUS) == 0.1);
    for (uint64_t i = 0; i < 30; i++) observer_skipped(&w->lane, "status", 0xfeed00000001);
    assert_true(largest(w, SKIP_STATUS) == 31.0 / 40);
    assert_true(largest(w, SKIP_NO_SINK) == 0);
    observer_skipped(&w->lane, "no-sink", 0xfeed00000002);
    assert_true(largest(w, SKIP_NO_SINK) == 1);
    observer_skipped(&w->lane, "tombstone", 0);
    assert_true(largest(w, SKIP_TOMBSTONE) == 0);
    /* Half an hour later it still counts, after an hour no more. */
    w->lane.now_ms += SKIPS_MS;
    for (uint64_t i = 0; i < 10; i++) observer_skipped(&w->lane, "status", 0xfeed00000001 + i);
    assert_true(largest(w, SKIP_STATUS) == 32.0 / 50);
    w->lane.now_ms += SKIPS_MS;
    assert_true(largest(w, SKIP_STATUS) == 0.1);
    w->lane.now_ms += 2 * SKIPS_MS;
    assert_true(largest(w, SKIP_STATUS) == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_nobody_asked, setup, teardown),
        cmocka_unit_test_setup_teardown(test_last_dead_letters, setup, teardown),
        cmocka_unit_test_setup_teardown(test_workspaces, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reasons_without_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_same_reason_of_two_faults, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_destinations, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gauges_follow_an_assignment, setup, teardown),
        cmocka_unit_test_setup_teardown(test_handover, setup, teardown),
        cmocka_unit_test(test_one_tenant_is_one),
        cmocka_unit_test(test_most_make_sick),
        cmocka_unit_test_setup_teardown(test_unfit_events, setup, teardown),
        cmocka_unit_test_setup_teardown(test_unfit_deliveries, setup, teardown),
        cmocka_unit_test_setup_teardown(test_largest_skipper, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
