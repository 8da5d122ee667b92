/* What one workspace, one host and one destination get of a lane, on a clock and with a sink of the
 * test's own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "config/config.h"
#include "worker/pipeline/dispatch.h"
#include "worker/pipeline/route.h"

#define CONNECTIONS 256
#define MOST 70000

/* ---- a sink that answers when it is told to ---- */

static struct {
    struct batch *flying[CONNECTIONS];
    size_t n, peak;
} sink;

static void submit(struct sink_env *env, struct batch *b) {
    (void)env;
    assert_true(sink.n < CONNECTIONS);
    sink.flying[sink.n++] = b;
    if (sink.n > sink.peak) sink.peak = sink.n;
    b->sink_state = NULL;
}

static void cancel(struct sink_env *env, struct batch *b) {
    (void)env;
    b->sink_state = b; /* its done() is to come */
}

static struct sink_type fake = {
    .name = "fake", .shape = SHAPE_POST, .submit = submit, .cancel = cancel};

static void answer_at(size_t i, const struct outcome *o) {
    struct batch *b = sink.flying[i];
    sink.flying[i] = sink.flying[--sink.n];
    b->done(b, o);
}

/* ---- the world ---- */

static struct {
    struct config *cfg;
    struct router *router;
    struct dispatch *dispatch;
    struct sink_env env;
    int64_t now, heard;
    struct delivery deliveries[MOST];
    size_t size;      /* of what is added */
    unsigned headers; /* of its destination */
    size_t used, ended, delivered, parked, failed;
    struct outcome last;
} world;

static bool build(struct delivery *d, struct outcome *reterr) {
    (void)d;
    (void)reterr;
    return true;
}

static void done(struct delivery *d) {
    const struct outcome *o = &d->outcome;
    assert_false(d->holds); /* once */
    d->holds = true;
    world.ended++;
    world.delivered += o->verdict == VERDICT_OK;
    world.parked += o->verdict == VERDICT_RETRY && o->uncounted;
    world.failed += o->verdict == VERDICT_RETRY && !o->uncounted;
    world.last = *o;
}

static void set(const char *name, const char *value) {
    struct buf err;
    buf_init(&err, 4096);
    if (!config_set(world.cfg, name, value, "test", &err)) fail_msg("%s", buf_cstr(&err));
    buf_free(&err);
}

static int begin_with(const char *budget) {
    memset(&world, 0, sizeof world);
    memset(&sink, 0, sizeof sink);
    struct buf err;
    buf_init(&err, 4096);
    world.cfg = config_new();
    set("egress.http", "true");
    set("memory.budget", budget);
    set("egress.allow", "127.0.0.0/8");
    if (!config_finish(world.cfg, &err)) fail_msg("%s", buf_cstr(&err));
    world.router = router_new(world.cfg);
    buf_free(&err);
    world.now = 1000000;
    world.heard = 5000;
    fake.free_config = sink_type_named("webhook")->free_config; /* it is one that is parsed */
    world.env.cfg = world.cfg;
    world.dispatch = dispatch_new(world.cfg, &world.env, &world.now, &world.heard, false);
    return 0;
}

static int begin(void **state) {
    (void)state;
    return begin_with("256MiB");
}

static int begin_small(void **state) {
    (void)state;
    return begin_with("64MiB");
}

/* Time in which the lane listens. */
static void pass(int64_t ms) {
    world.now += ms;
    world.heard += ms;
}

static void answer_one(const struct delivery *d) {
    const struct outcome ok = outcome_ok(200);
    size_t i = 0;
    while (sink.flying[i] != &d->batch) i++;
    answer_at(i, &ok);
}

static void answer_all(void) {
    const struct outcome ok = outcome_ok(200);
    while (sink.n) answer_at(0, &ok);
}

static int end(void **state) {
    (void)state;
    for (unsigned i = 0; i < 100000 && world.ended < world.used; i++) {
        answer_all();
        dispatch_run(world.dispatch);
        pass(100);
    }
    assert_int_equal(world.ended, world.used);
    dispatch_free(world.dispatch);
    router_free(world.router);
    config_free(world.cfg);
    return 0;
}

static struct delivery *add(const char *url, uint64_t workspace, bool batched) {
    char json[8192];
    struct destination *dest;
    struct outcome o;
    int n = snprintf(json, sizeof json, "{\"type\":\"webhook\",\"url\":\"%s\"", url);
    for (unsigned i = 0; i < world.headers; i++)
        n += snprintf(json + n, sizeof json - (size_t)n, "%s\"X-%u\":\"%0100u\"%s",
                      i ? "," : ",\"headers\":{", i, (unsigned)world.used,
                      i + 1 < world.headers ? "" : "}");
    snprintf(json + n, sizeof json - (size_t)n, "}");
    struct jobrun run = {.sink = str_c(json)};
    if (route_again(world.router, &run, world.now, &dest, &o) != ROUTE_DELIVER)
        fail_msg("%s", o.detail);
    dest->type = &fake;
    assert_true(world.used < MOST);
    struct delivery *d = &world.deliveries[world.used++];
    *d = (struct delivery){.size = world.size ? world.size : 1000,
                           .batch.workspace = workspace,
                           .batched = batched,
                           .build = build,
                           .done = done};
    d->batch.dest = dest;
    dispatch_add(world.dispatch, d);
    return d;
}

static struct delivery *add_to(const char *host, unsigned n, uint64_t workspace) {
    char url[128];
    snprintf(url, sizeof url, "http://%s/hook?q=%u", host, n);
    return add(url, workspace, false);
}

static size_t flying_of(uint64_t workspace) {
    size_t n = 0;
    for (size_t i = 0; i < sink.n; i++)
        n += ((struct delivery *)(void *)sink.flying[i])->batch.workspace == workspace;
    return n;
}

static size_t cancelled(void) {
    size_t n = 0;
    for (size_t i = 0; i < sink.n; i++) n += sink.flying[i]->sink_state != NULL;
    return n;
}

/* What was cancelled ends. */
static void end_cancelled(void) {
    struct outcome o = outcome_fail(VERDICT_RETRY, FAULT_SYSTEM, "cancelled", NULL);
    for (size_t i = 0; i < sink.n;)
        if (sink.flying[i]->sink_state)
            answer_at(i, &o);
        else
            i++;
}

static void run_for(int64_t ms) {
    for (int64_t until = world.now + ms; world.now < until; pass(100)) {
        dispatch_run(world.dispatch);
        end_cancelled();
    }
    dispatch_run(world.dispatch);
}

/* ---- tests ---- */

static void test_silent_destinations_stop_nobody(void **state) {
    (void)state;
    for (unsigned i = 0; i < 6000; i++) {
        add_to("127.0.0.1", i, 7);
        assert_false(dispatch_saturated(world.dispatch));
    }
    dispatch_run(world.dispatch);
    assert_in_range(sink.n, 16, CONNECTIONS * 3 / 8); /* of what there is for unproven ones */
    /* Someone else's first event, even to the same host, goes out at once. */
    add_to("127.0.0.1", 6000, 8);
    add_to("127.0.0.2", 0, 9);
    dispatch_run(world.dispatch);
    assert_int_equal(flying_of(8), 1);
    assert_int_equal(flying_of(9), 1);
    /* What hangs is parked by the clock, uncounted, and intake was never stopped. */
    for (unsigned i = 0; i < 40; i++) {
        run_for(100);
        assert_false(dispatch_saturated(world.dispatch));
    }
    assert_int_equal(dispatch_waiting(world.dispatch), 0);
    assert_int_equal(world.failed, 0);
    assert_int_equal(world.parked + sink.n, world.used);
}

static void test_many_hosts_and_workspaces(void **state) {
    (void)state;
    char host[32];
    for (unsigned i = 0; i < 2000; i++) {
        snprintf(host, sizeof host, "127.1.%u.%u", i / 250, i % 250 + 1);
        add_to(host, 0, 7); /* wildcard DNS: hosts are free as well */
        snprintf(host, sizeof host, "127.2.%u.%u", i / 250, i % 250 + 1);
        add_to(host, 0, 1000 + i % 200);
    }
    run_for(1000);
    assert_in_range(flying_of(7), 1, CONNECTIONS * 3 / 8);
    assert_in_range(sink.n, 1, CONNECTIONS / 2);
    assert_false(dispatch_saturated(world.dispatch));
    /* All places of unproven ones are taken by 128 workspaces; the next gets one when they hang. */
    struct delivery *d = add_to("127.0.0.9", 0, 5);
    run_for(6000);
    assert_in_range(d->sent_ms, d->added_ms, d->added_ms + 6000);
    assert_in_range(sink.n, 1, CONNECTIONS / 2);
}

/* Hundreds of tenants whose receivers are dead are tried again and again: a place is left for who
 * comes for the first time. */
static void test_a_new_tenant_beside_dead_ones(void **state) {
    (void)state;
    struct outcome dead = outcome_fail(VERDICT_RETRY, FAULT_TENANT, "timeout", NULL);
    set("breaker.failures", "1000");
    for (unsigned i = 0; i < 200; i++) add_to("127.0.0.2", i, 1000 + i);
    while (world.failed < 200) {
        dispatch_run(world.dispatch);
        while (sink.n) answer_at(0, &dead);
    }
    for (unsigned i = 0; i < 800; i++) add_to("127.0.0.2", i % 200, 1000 + i % 200);
    for (unsigned i = 0; i < 100; i++) {
        run_for(100);
        struct delivery *first = add_to("127.0.0.3", i, 5000 + i);
        dispatch_run(world.dispatch);
        assert_int_equal(first->state, DELIVERY_FLYING);
        assert_in_range(sink.n, 1, CONNECTIONS / 2);
        answer_one(first);
    }
}

static void prove(unsigned destinations, unsigned workspaces) {
    for (unsigned i = 0; i < destinations; i++) add_to("127.0.0.1", i, 100 + i % workspaces);
    for (unsigned i = 0; i < 1000 && world.ended < world.used; i++) {
        dispatch_run(world.dispatch);
        answer_all();
    }
    dispatch_run(world.dispatch);
    assert_int_equal(world.delivered, world.used);
}

/* A window that holds up the others is not kept open by what waits for a dead destination. */
static void test_what_waits_for_the_dead_is_let_go(void **state) {
    (void)state;
    struct outcome dead = outcome_fail(VERDICT_RETRY, FAULT_TENANT, "timeout", NULL);
    prove(1, 1);
    for (unsigned i = 0; i < 10; i++) add_to("127.0.0.1", 0, 100);
    dispatch_run(world.dispatch);
    answer_at(0, &dead);
    struct delivery *waiting = add_to("127.0.0.1", 0, 100);
    struct delivery *of_another = add_to("127.0.0.3", 0, 101);
    assert_int_equal(waiting->state, DELIVERY_WAITING);
    dispatch_cancel(world.dispatch, waiting, CANCEL_SLOW);
    dispatch_run(world.dispatch);
    assert_int_equal(waiting->outcome.verdict, VERDICT_RETRY);
    assert_true(waiting->outcome.uncounted);
    assert_int_equal(of_another->state, DELIVERY_FLYING);
}

static void test_proven_ones_turn_slow(void **state) {
    (void)state;
    static const unsigned workspaces[] = {1, 2, 40};
    for (size_t w = 0; w < 3; w++) {
        prove(40, workspaces[w]);
        for (unsigned i = 0; i < 40 * 8; i++) add_to("127.0.0.1", i % 40, 100 + i % workspaces[w]);
        dispatch_run(world.dispatch);
        assert_in_range(sink.n, CONNECTIONS / 3, CONNECTIONS - 1);
        add_to("127.0.0.2", 0, 5);
        dispatch_run(world.dispatch);
        assert_int_equal(flying_of(5), 1); /* a reserve stays */
        /* Slow, they count as risky, and hold half at most as soon as connections get scarce. */
        run_for(2000);
        assert_true(sink.n <= CONNECTIONS - CONNECTIONS / 4);
        for (unsigned i = 0; i < 20; i++) add_to("127.0.0.3", i, 2000 + i);
        run_for(300);
        for (unsigned i = 0; i < 20; i++) assert_int_equal(flying_of(2000 + i), 1);
        void *none = NULL;
        assert_int_equal(end(&none), 0);
        if (w < 2) begin(&none);
    }
    void *none = NULL;
    begin(&none);
}

/* A share of very few connections is none, and what was proven may take all of them. */
static void test_a_handful_of_connections(void **state) {
    static const char *const most[] = {"1", "2", "3", "4", "5"};
    for (unsigned m = 1; m <= 5; m++) {
        set("http.max_connections", most[m - 1]);
        prove(m, m);
        for (unsigned i = 0; i < m; i++) add_to("127.0.0.1", i, 100 + i);
        dispatch_run(world.dispatch);
        assert_int_equal(sink.n, m);
        add_to("127.0.0.2", 0, 5);
        for (unsigned i = 0; i < 50 && !flying_of(5); i++) run_for(100);
        assert_int_equal(flying_of(5), 1);
        end(state);
        begin(state);
    }
}

/* For seconds nobody could read the answers: the lane had other things to do. */
static void test_a_slow_lane_is_no_slow_destination(void **state) {
    (void)state;
    prove(40, 2);
    for (unsigned i = 0; i < 40 * 8; i++) add_to("127.0.0.1", i % 40, 100 + i % 2);
    dispatch_run(world.dispatch);
    size_t flying = sink.n;
    for (unsigned turn = 0; turn < 5; turn++) {
        world.now += 3000;
        world.heard += 100;
        for (unsigned i = 0; i < 20; i++) add_to("127.0.0.3", 20 * turn + i, 2000 + i);
        dispatch_run(world.dispatch);
        for (size_t i = 0; i < world.used; i++)
            dispatch_cancel(world.dispatch, &world.deliveries[i], CANCEL_SLOW);
    }
    assert_int_equal(cancelled(), 0);
    assert_true(sink.n >= flying);
    run_for(2000);
    assert_true(sink.n <= CONNECTIONS - CONNECTIONS / 4); /* now they had their time */
}

static void test_few_slow_ones_keep_their_time(void **state) {
    (void)state;
    add_to("127.0.0.1", 0, 1);
    for (unsigned i = 0; i < 6000; i++) add_to("127.0.0.2", i, 2);
    for (unsigned i = 0; i < 280; i++) {
        run_for(100);
        assert_int_equal(flying_of(1), 1); /* an honest receiver that takes its 28 s */
        if (i % 10 == 0) add_to("127.0.0.3", i, 3000 + i);
    }
    assert_int_equal(cancelled(), 0);
}

static void test_a_healthy_workspace_alone(void **state) {
    (void)state;
    prove(40, 1);
    /* Ten times what flies at once: nothing is parked, and it gets half of the connections. */
    size_t before = world.used;
    for (unsigned i = 0; i < 3000; i++) add_to("127.0.0.1", i % 40, 100);
    dispatch_run(world.dispatch);
    assert_in_range(sink.n, CONNECTIONS / 2 - 1, CONNECTIONS / 2);
    for (unsigned i = 0; i < 1000 && world.ended < world.used; i++) {
        answer_all();
        pass(5);
        dispatch_run(world.dispatch);
    }
    assert_int_equal(world.parked, 0);
    assert_int_equal(world.delivered, before + 3000);
}

static void test_a_fleet_that_nobody_knows_yet(void **state) {
    (void)state;
    char url[64];
    /* A batch window's flush to 10,000 destinations at a start. */
    for (unsigned i = 0; i < 10000; i++) {
        snprintf(url, sizeof url, "http://127.0.%u.%u/hook", i / 250, i % 250 + 1);
        add(url, i % 100, true);
    }
    for (unsigned i = 0; i < 1000 && world.ended < world.used; i++) {
        dispatch_run(world.dispatch);
        answer_all();
        pass(50);
    }
    assert_int_equal(world.delivered, 10000);
    assert_int_equal(world.parked, 0);
}

/* What has been under way for so long is answered. */
static void answer_after(int64_t ms) {
    const struct outcome ok = outcome_ok(200);
    for (size_t i = 0; i < sink.n;) {
        const struct delivery *v = (struct delivery *)(void *)sink.flying[i];
        if (world.heard - v->heard_ms >= ms)
            answer_at(i, &ok);
        else
            i++;
    }
}

/* A backlog of one workspace's events to some destinations that answer after ms, read at this many
 * in a turn of 10 ms; the time until all of it is read. */
static int64_t read_backlog(unsigned events, unsigned rate, unsigned destinations, int64_t ms) {
    int64_t began = world.now;
    for (unsigned i = 0; i < events;) {
        for (unsigned burst = 0; burst < rate && i < events; burst++) {
            if (dispatch_saturated(world.dispatch)) break;
            add_to("127.0.0.1", i++ % destinations, 7);
        }
        answer_after(ms);
        dispatch_run(world.dispatch);
        pass(10);
        assert_true(world.now - began < 600000);
    }
    return world.now - began;
}

/* Not slow, not unproven, and enough work for minutes: whoever comes after them in the topic is
 * found within seconds, however many they are. */
static void test_a_backlog_before_everybody_else(void **state) {
    static const struct {
        unsigned destinations;
        int64_t ms;
    } cases[] = {{1, 200}, {1, 900}, {2, 200}, {3, 900}, {40, 200}, {40, 900}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        prove(cases[i].destinations, 7);
        for (unsigned k = 0; k < 40; k++) { /* they have shown how long they take */
            for (unsigned n = 0; n < cases[i].destinations; n++) add_to("127.0.0.1", n, 7);
            dispatch_run(world.dispatch);
            pass(cases[i].ms);
            answer_after(0);
        }
        assert_in_range(read_backlog(4000, 500, cases[i].destinations, cases[i].ms), 0, 4000);
        assert_int_equal(end(state), 0);
        begin(state);
    }
}

/* Nobody else is there: most of it is waited for, not parked. */
static void test_a_backlog_alone(void **state) {
    (void)state;
    prove(1, 7);
    size_t before = world.delivered;
    read_backlog(60000, 20, 1, 10);
    assert_in_range(world.delivered - before, 30000, 60000);
}

/* Unproven, so they never stop the lane: what one workspace holds of its memory is a share. */
static void test_big_events(void **state) {
    (void)state;
    world.size = 1000000;
    for (unsigned i = 0; i < 400; i++) {
        add_to("127.0.0.1", i, 1);
        assert_false(dispatch_saturated(world.dispatch));
    }
    dispatch_run(world.dispatch);
    size_t holds = world.used - world.parked;
    assert_in_range(holds, 8, (size_t)world.cfg->memory_budget / 8 / world.size + 1);
    add_to("127.0.0.2", 0, 2);
    dispatch_run(world.dispatch);
    assert_int_equal(flying_of(2), 1);
}

/* A backfill waits for a destination that is new instead of parking what it has been started for.
 */
/* A destination may take a hundred times what its event does. */
static void test_fat_destinations(void **state) {
    (void)state;
    size_t all = router_room(world.router);
    world.headers = 50;
    for (unsigned workspaces = 1; workspaces <= 40; workspaces += 39)
        for (unsigned i = 0; i < 2000; i++) {
            add_to("127.0.0.2", i, 1000 + i % workspaces);
            if (i % 100 == 0) dispatch_run(world.dispatch);
            assert_false(dispatch_saturated(world.dispatch));
            assert_true(router_room(world.router) > all / 3);
        }
    world.headers = 0;
    add_to("127.0.0.3", 0, 1);
    dispatch_run(world.dispatch);
    assert_int_equal(flying_of(1), 1);
}

static void test_a_backfill_is_patient(void **state) {
    dispatch_free(world.dispatch);
    world.dispatch = dispatch_new(world.cfg, &world.env, &world.now, &world.heard, true);
    world.size = 1000000;
    for (unsigned i = 0; i < 400; i++) {
        for (unsigned turn = 0; dispatch_saturated(world.dispatch); turn++) {
            assert_true(turn < 100);
            dispatch_run(world.dispatch);
            answer_all();
            dispatch_run(world.dispatch);
        }
        add_to("127.0.0.1", i, 1);
    }
    assert_int_equal(end(state), 0);
    assert_int_equal(world.delivered, 400);
    begin(state);
}

static void test_the_last_attempt_is_made(void **state) {
    (void)state;
    struct outcome busy = outcome_fail(VERDICT_RETRY, FAULT_TENANT, "http-503", "busy");
    busy.status = 503;
    busy.retry_after_ms = 3600000;
    add_to("127.0.0.1", 1, 1);
    dispatch_run(world.dispatch);
    answer_at(0, &busy);
    dispatch_run(world.dispatch);
    assert_int_equal(world.failed, 1);
    /* It asked for an hour: what has time goes back, with what it said last ... */
    add_to("127.0.0.1", 1, 1);
    dispatch_run(world.dispatch);
    assert_int_equal(world.parked, 1);
    assert_string_equal(world.last.why, "http-503");
    assert_int_equal(world.last.status, 503);
    assert_in_range(world.last.retry_after_ms, 3599000, 3600000);
    /* ... what has none is tried, one at a time, and a success opens the gate. */
    world.cfg->dest_concurrency = 1;
    for (unsigned i = 0; i < 2; i++) {
        struct jobrun run = {
            .sink = STR("{\"type\":\"webhook\",\"url\":\"http://127.0.0.1/hook?q=1\"}")};
        struct destination *dest;
        struct outcome o;
        assert_int_equal(route_again(world.router, &run, world.now, &dest, &o), ROUTE_DELIVER);
        struct delivery *d = &world.deliveries[world.used++];
        *d = (struct delivery){
            .size = 1, .batch.workspace = 1, .last = true, .build = build, .done = done};
        d->batch.dest = dest;
        dispatch_add(world.dispatch, d);
        dispatch_run(world.dispatch);
    }
    assert_int_equal(sink.n, 1);
    answer_all();
    dispatch_run(world.dispatch);
    answer_all();
    dispatch_run(world.dispatch);
    assert_int_equal(world.delivered, 2);
    add_to("127.0.0.1", 1, 1);
    dispatch_run(world.dispatch);
    assert_int_equal(sink.n, 1);
}

/* Whose last attempt failed, whoever's fault it was; what was not tried says nothing. */
static void test_who_is_sick(void **state) {
    (void)state;
    static const struct {
        struct outcome outcome;
        bool sick;
    } steps[] = {
        {{.verdict = VERDICT_OK, .status = 200}, false},
        {{.verdict = VERDICT_RETRY, .fault = FAULT_TENANT, .why = "http-500"}, true},
        {{.verdict = VERDICT_OK, .status = 200}, false},
        {{.verdict = VERDICT_RETRY, .fault = FAULT_SYSTEM, .why = "proxy-connect"}, true},
        {{.verdict = VERDICT_RETRY, .fault = FAULT_NONE, .uncounted = true}, true},
        {{.verdict = VERDICT_OK, .status = 200}, false},
        {{.verdict = VERDICT_RETRY, .fault = FAULT_NONE, .uncounted = true}, false},
    };
    struct destination_health h;
    for (uint64_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        struct delivery *d = add_to("127.0.0.1", 0, 40 + i);
        struct destination *dest = d->batch.dest;
        dispatch_run(world.dispatch);
        destination_health(dest, &h);
        assert_int_equal(h.workspace, i ? 39 + i : 0); /* until it has ended */
        assert_int_equal(sink.n, 1);
        answer_at(0, &steps[i].outcome);
        destination_health(dest, &h);
        assert_int_equal(h.workspace, 40 + i);
        assert_int_equal(h.sick, steps[i].sick);
        dispatch_run(world.dispatch);
    }
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(test_silent_destinations_stop_nobody),
        TEST(test_many_hosts_and_workspaces),
        TEST(test_a_new_tenant_beside_dead_ones),
        TEST(test_what_waits_for_the_dead_is_let_go),
        TEST(test_proven_ones_turn_slow),
        TEST(test_a_handful_of_connections),
        TEST(test_a_slow_lane_is_no_slow_destination),
        TEST(test_few_slow_ones_keep_their_time),
        TEST(test_a_healthy_workspace_alone),
        TEST(test_a_fleet_that_nobody_knows_yet),
        TEST(test_a_backlog_before_everybody_else),
        TEST(test_a_backlog_alone),
        TEST(test_big_events),
        cmocka_unit_test_setup_teardown(test_fat_destinations, begin_small, end),
        TEST(test_a_backfill_is_patient),
        TEST(test_the_last_attempt_is_made),
        cmocka_unit_test_setup_teardown(test_who_is_sick, begin, end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
