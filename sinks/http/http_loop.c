#include "sinks/http/http_loop.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "worker/base/buf.h"
#include "worker/base/clock.h"
#include "worker/base/log.h"

#define EVENTS_MAX 64 /* taken at once; what is ready beyond that comes next time */

/* A socket, by its number. One of a connection stays in the set between its requests, which saves
 * two calls for each; it leaves when something happens meanwhile. Others (the resolver's) are
 * closed without a word, so they leave at once. */
struct socket {
    uint32_t watched, wanted; /* EPOLLIN, EPOLLOUT; what the kernel looks for, what libcurl does */
    bool connection;
    bool wakes; /* it is none of libcurl's */
};

struct http_loop {
    CURLM *multi;
    struct socket *sockets;
    size_t n_sockets;
    int epoll_fd;
    int64_t due_ms; /* monotonic; -1: no timer is set */
    struct epoll_event ready[EVENTS_MAX];
    int n_ready;
};

static struct socket *socket_of(struct http_loop *l, int fd) {
    size_t n = l->n_sockets, i = (size_t)fd;
    if (i >= n) {
        l->n_sockets = i + 64;
        l->sockets = xrealloc(l->sockets, l->n_sockets * sizeof *l->sockets);
        memset(l->sockets + n, 0, (l->n_sockets - n) * sizeof *l->sockets);
    }
    return &l->sockets[i];
}

/* libcurl 8.13 takes away sockets that it never announced, and others once they are closed. That
 * does no harm: the kernel forgets a closed socket by itself. */
static void watch(struct http_loop *l, int fd, uint32_t events) {
    struct socket *s = socket_of(l, fd);
    struct epoll_event e = {.events = events, .data.fd = fd};
    if (s->watched == events) return;
    s->watched = events;
    if (events == 0) {
        epoll_ctl(l->epoll_fd, EPOLL_CTL_DEL, fd, &e);
        return;
    }
    if (epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &e) == 0) return;
    if (errno == EEXIST && epoll_ctl(l->epoll_fd, EPOLL_CTL_MOD, fd, &e) == 0) return;
    s->watched = 0; /* the transfer ends by its timeout */
    log_error("a socket can't be watched", LOG_S("error", strerror(errno)));
}

void http_loop_opened(struct http_loop *l, int fd) {
    *socket_of(l, fd) = (struct socket){.connection = true};
}

void http_loop_closing(struct http_loop *l, int fd) {
    *socket_of(l, fd) = (struct socket){0}; /* the kernel takes it out */
}

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *user, void *socket_user) {
    (void)easy;
    (void)socket_user;
    struct socket *s = socket_of(user, fd);
    s->wanted = 0;
    if (what == CURL_POLL_IN || what == CURL_POLL_INOUT) s->wanted |= EPOLLIN;
    if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT) s->wanted |= EPOLLOUT;
    if (s->wanted || !s->connection) watch(user, fd, s->wanted);
    return 0;
}

static int on_timer(CURLM *multi, long timeout_ms, void *user) {
    struct http_loop *l = user;
    (void)multi;
    l->due_ms = timeout_ms < 0 ? -1 : clock_ms(CLOCK_MONOTONIC) + timeout_ms;
    return 0;
}

struct http_loop *http_loop_new(CURLM *multi) {
    int fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0) return NULL;
    struct http_loop *l = xcalloc(1, sizeof *l);
    *l = (struct http_loop){.multi = multi, .epoll_fd = fd, .due_ms = -1};
    curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, l);
    curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, on_timer);
    curl_multi_setopt(multi, CURLMOPT_TIMERDATA, l);
    return l;
}

void http_loop_free(struct http_loop *l) {
    if (!l) return;
    close(l->epoll_fd);
    free(l->sockets);
    free(l);
}

void http_loop_wake_by(struct http_loop *l, int fd) {
    *socket_of(l, fd) = (struct socket){.wakes = true};
    watch(l, fd, EPOLLIN);
}

void http_loop_wait(struct http_loop *l, int timeout_ms) {
    if (l->due_ms >= 0) {
        int64_t left = l->due_ms - clock_ms(CLOCK_MONOTONIC);
        if (left < timeout_ms) timeout_ms = left > 0 ? (int)left : 0;
    }
    int n = epoll_wait(l->epoll_fd, l->ready, EVENTS_MAX, timeout_ms);
    l->n_ready = n > 0 ? n : 0; /* EINTR: a signal, nothing is ready */
}

/* What went wrong is told by the next read: of CURL_CSELECT_ERR libcurl makes an error of its own.
 */
static int mask_of(uint32_t events) {
    return (events & (EPOLLIN | EPOLLERR | EPOLLHUP) ? CURL_CSELECT_IN : 0) |
           (events & EPOLLOUT ? CURL_CSELECT_OUT : 0);
}

CURLMcode http_loop_run(struct http_loop *l) {
    int running, n = l->n_ready;
    l->n_ready = 0;
    for (int i = 0; i < n; i++) {
        int fd = l->ready[i].data.fd, mask = mask_of(l->ready[i].events);
        if (socket_of(l, fd)->wakes) continue;
        if (!socket_of(l, fd)->wanted) { /* the peer has closed it, most likely */
            watch(l, fd, 0);
            continue;
        }
        CURLMcode code = curl_multi_socket_action(l->multi, fd, mask, &running);
        if (code) return code;
    }
    if (l->due_ms < 0 || l->due_ms > clock_ms(CLOCK_MONOTONIC)) return CURLM_OK;
    l->due_ms = -1; /* libcurl sets it again when there is more to come */
    return curl_multi_socket_action(l->multi, CURL_SOCKET_TIMEOUT, 0, &running);
}
