#include "worker/admin/gate.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "worker/base/buf.h"
#include "worker/base/cidr.h"
#include "worker/base/clock.h"
#include "worker/base/log.h"

#define ACCEPTED_AT_ONCE 64
#define PAUSE_MS 50 /* when accepting fails, or no place is free and none becomes so */

/* A connection, from its being accepted until it is about to be closed. */
struct guest {
    int fd;
    uint8_t address[ADDRESS_LEN];
    bool started; /* the descriptor is the server's, and so still that of this connection */
    bool answering, shut;
    size_t same;      /* guests of its address that are not shut, itself among them */
    int64_t since_ms; /* of what it does now */
};

struct gate {
    int listen_fd, wake_fd;
    size_t max;
    int64_t timeout_ms;
    gate_hand_fn *hand;
    gate_turn_fn *turn;
    void *ctx;
    pthread_t thread;
    bool running;
    pthread_mutex_t mutex;
    bool stop;
    struct guest *guests; /* GATE_OPEN_MAX */
    size_t n, n_shut;
    bool full; /* the thread waits for a place */
};

/* ---- the table; under the mutex ---- */

static struct guest *find(struct gate *g, int fd) {
    for (size_t i = 0; i < g->n; i++)
        if (g->guests[i].fd == fd) return &g->guests[i];
    return NULL;
}

/* One more, or one less, of an address. */
static void recount(struct gate *g, const uint8_t address[ADDRESS_LEN], int by) {
    for (size_t i = 0; i < g->n; i++)
        if (memcmp(g->guests[i].address, address, ADDRESS_LEN) == 0)
            g->guests[i].same += (size_t)by;
}

static void drop(struct gate *g, struct guest *guest) {
    if (!guest->shut) recount(g, guest->address, -1);
    g->n_shut -= guest->shut;
    *guest = g->guests[--g->n];
}

/* The server notices, and closes; once it has begun with it. */
static void shut(struct gate *g, struct guest *guest) {
    recount(g, guest->address, -1);
    guest->shut = true;
    g->n_shut++;
    if (guest->started) shutdown(guest->fd, SHUT_RDWR);
}

/* Ends what has had its time; returns how long the next one has, ms, at most a second. */
static int64_t expire(struct gate *g, int64_t now_ms) {
    int64_t least = 1000;
    for (size_t i = g->n; i-- > 0;) {
        struct guest *guest = &g->guests[i];
        int64_t left = guest->since_ms + g->timeout_ms - now_ms;
        if (guest->shut && guest->started) continue;
        if (left > 0)
            least = left < least ? left : least;
        else if (guest->started)
            shut(g, guest);
        else
            drop(g, guest); /* the server did not take it: who has the number now is unknown */
    }
    return least;
}

/* Which of two has to go first. */
static bool goes_before(const struct guest *a, const struct guest *b) {
    if (a->same != b->same) return a->same > b->same;
    if (a->answering != b->answering) return !a->answering;
    return a->since_ms < b->since_ms;
}

static struct guest *find_worst(struct gate *g) {
    struct guest *worst = NULL;
    for (size_t i = 0; i < g->n; i++) {
        struct guest *guest = &g->guests[i];
        if (!guest->shut && (!worst || goes_before(guest, worst))) worst = guest;
    }
    return worst;
}

/* So that one more may be open. */
static void make_room(struct gate *g) {
    while (g->n - g->n_shut >= g->max) shut(g, find_worst(g));
}

static void add(struct gate *g, int fd, const struct sockaddr_storage *from) {
    struct guest *guest = find(g, fd);
    if (guest) drop(g, guest); /* the server could not take it */
    guest = &g->guests[g->n++];
    *guest = (struct guest){.fd = fd, .since_ms = clock_ms(CLOCK_MONOTONIC)};
    address_of((const struct sockaddr *)from, guest->address);
    for (size_t i = 0; i + 1 < g->n; i++)
        guest->same +=
            !g->guests[i].shut && memcmp(g->guests[i].address, guest->address, ADDRESS_LEN) == 0;
    recount(g, guest->address, 1);
}

static void wake(struct gate *g) {
    if (eventfd_write(g->wake_fd, 1) != 0) log_warn("waking the admin server's gate failed");
}

/* ---- the thread ---- */

/* False: nothing more to be accepted now. */
static bool accept_one(struct gate *g, bool *ret_pause) {
    struct sockaddr_storage from;
    socklen_t n = sizeof from;
    pthread_mutex_lock(&g->mutex);
    bool full = g->full = g->n == GATE_OPEN_MAX(g->max);
    int fd =
        full ? -1
             : accept4(g->listen_fd, (struct sockaddr *)&from, &n, SOCK_CLOEXEC | SOCK_NONBLOCK);
    int error = full ? EAGAIN : errno;
    if (fd >= 0 || full) make_room(g);
    if (fd >= 0) add(g, fd, &from);
    pthread_mutex_unlock(&g->mutex);
    if (fd >= 0) g->hand(g->ctx, fd, (const struct sockaddr *)&from, n);
    *ret_pause = full || (fd < 0 && error != EAGAIN && error != EINTR && error != ECONNABORTED);
    return fd >= 0;
}

static void *gate_main(void *arg) {
    struct gate *g = arg;
    for (bool pause = false;;) {
        pthread_mutex_lock(&g->mutex);
        int64_t wait = expire(g, clock_ms(CLOCK_MONOTONIC));
        bool stop = g->stop;
        pthread_mutex_unlock(&g->mutex);
        if (stop) return NULL;
        g->turn(g->ctx);
        struct pollfd fds[] = {{.fd = g->wake_fd, .events = POLLIN},
                               {.fd = pause ? -1 : g->listen_fd, .events = POLLIN}};
        if (pause && wait > PAUSE_MS) wait = PAUSE_MS;
        pause = false;
        if (poll(fds, 2, (int)wait) <= 0) continue;
        if (fds[0].revents) eventfd_read(g->wake_fd, &(eventfd_t){0});
        if (!fds[1].revents) continue;
        for (int i = 0; i < ACCEPTED_AT_ONCE && accept_one(g, &pause); i++) continue;
    }
}

/* ---- */

struct gate *gate_new(size_t max, int64_t timeout_ms, gate_hand_fn *hand, gate_turn_fn *turn,
                      void *ctx) {
    struct gate *g = xcalloc(1, sizeof *g);
    *g = (struct gate){.listen_fd = -1,
                       .wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                       .max = max,
                       .timeout_ms = timeout_ms,
                       .hand = hand,
                       .turn = turn,
                       .ctx = ctx,
                       .guests = xcalloc(GATE_OPEN_MAX(max), sizeof *g->guests)};
    pthread_mutex_init(&g->mutex, NULL);
    return g;
}

bool gate_run(struct gate *g, int listen_fd) {
    g->listen_fd = listen_fd;
    g->running = g->wake_fd >= 0 && pthread_create(&g->thread, NULL, gate_main, g) == 0;
    if (!g->running) g->listen_fd = -1;
    return g->running;
}

static void set(struct gate *g, int fd, bool answering) {
    pthread_mutex_lock(&g->mutex);
    struct guest *guest = find(g, fd);
    if (guest) {
        if (guest->shut && !guest->started) shutdown(fd, SHUT_RDWR);
        guest->started = true;
        guest->answering = answering;
        guest->since_ms = clock_ms(CLOCK_MONOTONIC);
    }
    pthread_mutex_unlock(&g->mutex);
}

void gate_started(struct gate *g, int fd) {
    set(g, fd, false);
}

void gate_answering(struct gate *g, int fd) {
    set(g, fd, true);
}

void gate_answered(struct gate *g, int fd) {
    set(g, fd, false);
}

void gate_gone(struct gate *g, int fd) {
    pthread_mutex_lock(&g->mutex);
    struct guest *guest = find(g, fd);
    if (guest) drop(g, guest);
    if (g->full) wake(g);
    g->full = false;
    pthread_mutex_unlock(&g->mutex);
}

void gate_stop(struct gate *g) {
    if (!g || !g->running) return;
    pthread_mutex_lock(&g->mutex);
    g->stop = true;
    pthread_mutex_unlock(&g->mutex);
    wake(g);
    pthread_join(g->thread, NULL);
    g->running = false;
}

void gate_free(struct gate *g) {
    if (!g) return;
    gate_stop(g);
    if (g->listen_fd >= 0) close(g->listen_fd);
    if (g->wake_fd >= 0) close(g->wake_fd);
    pthread_mutex_destroy(&g->mutex);
    free(g->guests);
    free(g);
}
