/* The HTTP engine: many requests at once, and giving them up. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/http_client.h"

static void test_many(void **state) {
    (void)state;
    struct config cfg = test_config();
    cfg.http_max_connections = 20;
    cfg.http_timeout = 10000;
    cfg.http_connect_timeout = 5000;
    struct http *h = http_new(&cfg);
    static struct call calls[200];
    int64_t start = peer_count("connections");
    for (size_t i = 0; i < COUNT(calls); i++) {
        prepare(&calls[i], plain(), "/slow");
        http_submit(h, &calls[i].req);
    }
    assert_int_equal(http_in_flight(h), COUNT(calls));
    wait_for(h, calls, COUNT(calls));
    for (size_t i = 0; i < COUNT(calls); i++) {
        assert_why(&calls[i], "");
        assert_int_equal(calls[i].done, 1);
        clear(&calls[i]);
    }
    /* Connections are used again: no more than the limit were opened (and one to count them). */
    assert_in_range(peer_count("connections") - start, 2, 21);
    http_free(h);
}

/* A request that waits its turn has its full time once it flies. */
static void test_queue_time_is_not_counted(void **state) {
    (void)state;
    struct config cfg = test_config();
    cfg.http_max_connections = 1;
    struct http *h = http_new(&cfg);
    struct call calls[3];
    const char *const paths[] = {"/silent", "/silent", "/ok"};
    for (size_t i = 0; i < COUNT(calls); i++) {
        prepare(&calls[i], plain(), paths[i]);
        http_submit(h, &calls[i].req);
    }
    wait_for(h, calls, COUNT(calls));
    assert_why(&calls[1], "timeout");
    assert_why(&calls[2], "");
    for (size_t i = 0; i < COUNT(calls); i++) clear(&calls[i]);
    http_free(h);
}

static void test_cancel(void **state) {
    (void)state;
    struct config cfg = test_config();
    cfg.http_max_connections = 1;
    cfg.http_timeout = 60000;
    struct http *h = http_new(&cfg);
    struct call calls[3];
    int64_t before = peer_count("/silent");
    for (size_t i = 0; i < COUNT(calls); i++) {
        prepare(&calls[i], plain(), i == 0 ? "/silent" : "/ok");
        http_submit(h, &calls[i].req);
    }
    int64_t deadline = now_ms() + PATIENCE_MS;
    while (peer_count("/silent") == before) { /* until the first has reached the peer */
        assert_true(now_ms() < deadline);
        http_wait(h, 10);
        http_run(h);
    }
    http_cancel(h, &calls[1].req);
    http_cancel(h, &calls[0].req);
    http_cancel(h, &calls[0].req); /* twice does nothing */
    assert_int_equal(calls[0].done, 0);
    int64_t start = now_ms();
    http_wait(h, 60000); /* there is something to do already */
    assert_true(now_ms() - start < 10000);
    wait_for(h, calls, 3);
    assert_why(&calls[0], "cancelled");
    assert_false(calls[0].outcome.uncounted);
    assert_why(&calls[1], "cancelled");
    assert_true(calls[1].outcome.uncounted);
    assert_int_equal(calls[1].outcome.verdict, VERDICT_RETRY);
    assert_why(&calls[2], ""); /* moved up into the place that became free */
    http_cancel(h, &calls[2].req);
    http_run(h);
    assert_int_equal(calls[2].done, 1);
    for (size_t i = 0; i < COUNT(calls); i++) clear(&calls[i]);
    http_free(h);
}

static void test_free_cancels_all(void **state) {
    (void)state;
    struct config cfg = test_config();
    cfg.http_max_connections = 2;
    struct http *h = http_new(&cfg);
    struct call calls[5];
    for (size_t i = 0; i < COUNT(calls); i++) {
        prepare(&calls[i], plain(), "/silent");
        http_submit(h, &calls[i].req);
    }
    http_run(h);
    http_free(h);
    for (size_t i = 0; i < COUNT(calls); i++) {
        assert_int_equal(calls[i].done, 1);
        assert_why(&calls[i], "cancelled");
        clear(&calls[i]);
    }
    http_free(NULL);
}

static void submit_second(struct http_request *req, const struct outcome *o) {
    struct call *c = req->owner;
    struct http *h;
    memcpy(&h, &c[1].url[200], sizeof h); /* where the test put it */
    on_done(req, o);
    http_submit(h, &c[1].req);
}

/* done() may submit: what S3 does when a store names another region. */
static void test_submit_from_done(void **state) {
    (void)state;
    struct config cfg = test_config();
    cfg.http_max_connections = 1;
    struct http *h = http_new(&cfg);
    struct call calls[2];
    prepare(&calls[0], plain(), "/ok");
    prepare(&calls[1], plain(), "/ok");
    calls[0].req.done = submit_second;
    memcpy(&calls[1].url[200], &h, sizeof h);
    http_submit(h, &calls[0].req);
    wait_for(h, calls, 2);
    assert_why(&calls[1], "");
    clear(&calls[0]);
    clear(&calls[1]);
    http_free(h);
}

static void test_wait_for_another_fd(void **state) {
    (void)state;
    struct config cfg = test_config();
    struct http *h = http_new(&cfg);
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    assert_int_equal(write(fds[1], "x", 1), 1);
    int64_t start = now_ms();
    http_wake_by(h, fds[0]);
    http_wait(h, 60000);
    assert_true(now_ms() - start < 10000);
    http_free(h);
    close(fds[0]);
    close(fds[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_queue_time_is_not_counted),
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_free_cancels_all),
        cmocka_unit_test(test_submit_from_done),
        cmocka_unit_test(test_wait_for_another_fd),
    };
    return cmocka_run_group_tests_name("http many", tests, start, stop);
}
