/* The admin server's door, before a server that this program plays. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <dlfcn.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "worker/admin/gate.h"

#define MAX 8
#define LONG_MS 600000 /* nothing ends for its time alone */
#define PATIENCE_MS 20000

/* Each arrival is a second after the one before, however fast the machine is. */
static atomic_long arrivals;

int clock_gettime(clockid_t id, struct timespec *ret) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) {
        void *symbol = dlsym(RTLD_NEXT, "clock_gettime");
        memcpy(&real, &symbol, sizeof real);
    }
    int rc = real(id, ret);
    if (id == CLOCK_MONOTONIC) ret->tv_sec += arrivals;
    return rc;
}

struct world {
    struct gate *gate;
    struct sockaddr_in at;
    int handed[2]; /* a pipe: what the gate handed on */
    int clients[64], served[64];
    size_t n, n_served;
};

static void on_hand(void *ctx, int fd, const struct sockaddr *from, socklen_t n) {
    struct world *w = ctx;
    (void)from;
    (void)n;
    assert_int_equal(write(w->handed[1], &fd, sizeof fd), sizeof fd);
}

static void on_turn(void *ctx) {
    (void)ctx;
}

static int setup(void **state) {
    struct world *w = *state = calloc(1, sizeof *w);
    socklen_t n = sizeof w->at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    w->at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    w->gate = gate_new(MAX, LONG_MS, on_hand, on_turn, w);
    return bind(fd, (struct sockaddr *)&w->at, sizeof w->at) == 0 && listen(fd, 64) == 0 &&
                   getsockname(fd, (struct sockaddr *)&w->at, &n) == 0 && pipe(w->handed) == 0 &&
                   gate_run(w->gate, fd)
               ? 0
               : -1;
}

static int teardown(void **state) {
    struct world *w = *state;
    gate_stop(w->gate);
    for (size_t i = 0; i < w->n; i++) close(w->clients[i]);
    for (size_t i = 0; i < w->n_served; i++)
        if (w->served[i] >= 0) close(w->served[i]);
    gate_free(w->gate);
    close(w->handed[0]);
    close(w->handed[1]);
    free(w);
    return 0;
}

/* Connects from 127.0.0.LAST. */
static void come(struct world *w, uint32_t last) {
    const struct sockaddr_in from = {.sin_family = AF_INET,
                                     .sin_addr.s_addr = htonl(0x7f000000 | last)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&from, sizeof from), 0);
    assert_int_equal(connect(fd, (const struct sockaddr *)&w->at, sizeof w->at), 0);
    w->clients[w->n++] = fd;
}

static bool happens(int fd, short what, int patience_ms) {
    struct pollfd p = {.fd = fd, .events = what};
    return poll(&p, 1, patience_ms) == 1 && p.revents & what;
}

/* The next one that the gate hands on. */
static int take(struct world *w) {
    int fd = -1;
    assert_true(happens(w->handed[0], POLLIN, PATIENCE_MS));
    assert_int_equal(read(w->handed[0], &fd, sizeof fd), sizeof fd);
    return w->served[w->n_served++] = fd;
}

static void arrive(struct world *w, uint32_t last) {
    arrivals++;
    come(w, last);
    gate_started(w->gate, take(w));
}

/* The server sees that one was shut, or waits until one is. */
static size_t let_go(struct world *w) {
    struct pollfd p[64];
    size_t i = 0;
    for (size_t k = 0; k < w->n_served; k++)
        p[k] = (struct pollfd){.fd = w->served[k], .events = POLLRDHUP};
    assert_true(poll(p, w->n_served, PATIENCE_MS) > 0);
    while (!p[i].revents) i++;
    gate_gone(w->gate, w->served[i]);
    close(w->served[i]);
    w->served[i] = -1;
    return i;
}

static bool is_open(struct world *w, size_t i) {
    return !happens(w->served[i], POLLRDHUP, 0);
}

/* All that may be open at all comes before the server has begun with any, and none of it says a
 * word: the next one is let in all the same, long before these have had their time. The one that it
 * has begun with, from elsewhere, does not go in their place. */
static void test_full_before_any_is_started(void **state) {
    struct world *w = *state;
    arrive(w, 9);
    for (size_t i = 1; i < GATE_OPEN_MAX(MAX); i++) come(w, 1);
    for (size_t i = 1; i < GATE_OPEN_MAX(MAX); i++) take(w);
    assert_true(is_open(w, 0));
    come(w, 2);
    for (size_t i = 1; i < GATE_OPEN_MAX(MAX); i++) gate_started(w->gate, w->served[i]);
    for (size_t i = 0; i <= MAX; i++) assert_true(let_go(w) > 0);
    gate_started(w->gate, take(w));
    assert_true(is_open(w, 0));
    assert_true(is_open(w, GATE_OPEN_MAX(MAX)));
}

/* Of the address that has most, the one that has waited longest; of its address, whoever is
 * being answered is the last to go. */
static void test_who_has_to_go(void **state) {
    struct world *w = *state;
    arrive(w, 3);
    for (size_t i = 1; i < 5; i++) arrive(w, 2);
    for (size_t i = 5; i < MAX; i++) arrive(w, 4);
    gate_answering(w->gate, w->served[1]);
    static const struct {
        uint32_t from;
        size_t goes;
    } rounds[] = {{5, 2}, {6, 3}, {7, 5}, {3, 4}, {5, 0}, {8, 6}, {5, 8}, {9, 12}, {10, 7}};
    for (size_t i = 0; i < sizeof rounds / sizeof *rounds; i++) {
        arrive(w, rounds[i].from);
        assert_int_equal(let_go(w), rounds[i].goes);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_full_before_any_is_started, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_has_to_go, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
