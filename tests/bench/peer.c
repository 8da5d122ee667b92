/* The tenants' endpoints for the load test: webhooks and a bare S3 store on loopback, one thread.
 *
 * usage: peer LOG
 * Prints its ports as "web=N refused=N synhole=N", then obeys words on its standard input: "sick",
 * "well"; the end of the input ends it. How a request is met is said by the first part of its path,
 * up to '-': /ok-t17/..., /hole-t18/... While the tenants are well all but "slow" get 200 at once.
 * LOG gets one line for each request that was answered with 2xx: when it had arrived whole
 * (microseconds since the epoch), its method, its path, its webhook-id ("-" when there is none). */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define REQUEST_MAX 65536
#define SLOW_MS 500
#define DRIP_MS 1000
#define LOG_FLUSH_MS 200

enum port { PORT_WEB, PORT_REFUSED, PORT_SYNHOLE, PORTS };

enum kind {
    KIND_OK,
    KIND_SLOW,
    KIND_HOLE,
    KIND_503,
    KIND_429,
    KIND_DRIP,
    KIND_ENDLESS,
    KIND_FLOOD
};

static const struct {
    const char *name;
    enum kind kind;
} kinds[] = {
    {"slow", KIND_SLOW},       /* 200 after half a second, sick or well until "quick" */
    {"hole", KIND_HOLE},       /* no answer */
    {"e503", KIND_503},        /* 503 */
    {"e429", KIND_429},        /* 429 with Retry-After */
    {"drip", KIND_DRIP},       /* a header that never ends, one byte a second */
    {"endless", KIND_ENDLESS}, /* 200 and a body that never ends */
    {"flood", KIND_FLOOD},     /* 503 and a body that never ends */
};

struct conn {
    TAILQ_ENTRY(conn) link;
    TAILQ_ENTRY(conn) timed;
    int fd;
    enum port port;
    enum kind playing; /* KIND_OK: reads the next request */
    int64_t due_ms;    /* slow, drip: in the list of timed ones */
    int64_t arrived_us;
    size_t n;
    char in[REQUEST_MAX + 1];
};

TAILQ_HEAD(conns, conn);

static struct {
    int epoll;
    int listeners[PORTS];
    uint16_t ports[PORTS];
    int fillers[8]; /* our own connections, that fill the backlog of the port that drops SYNs */
    struct conns all, timed;
    bool sick, quick;
    FILE *log;
} peer;

static int64_t clock_us(clockid_t id) {
    struct timespec ts;
    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

static int64_t now_ms(void) {
    return clock_us(CLOCK_MONOTONIC) / 1000;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void watch(int fd, uint32_t events, void *ptr, int op) {
    struct epoll_event e = {.events = events, .data = {.ptr = ptr}};
    if (epoll_ctl(peer.epoll, op, fd, &e) != 0) die("epoll_ctl");
}

/* ---- connections ---- */

static void conn_close(struct conn *c) {
    if (c->due_ms) TAILQ_REMOVE(&peer.timed, c, timed);
    TAILQ_REMOVE(&peer.all, c, link);
    close(c->fd);
    free(c);
}

static void conn_accept(enum port port) {
    int fd;
    while ((fd = accept4(peer.listeners[port], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct conn *c = calloc(1, sizeof *c);
        if (!c) abort();
        c->fd = fd;
        c->port = port;
        TAILQ_INSERT_TAIL(&peer.all, c, link);
        watch(fd, EPOLLIN, c, EPOLL_CTL_ADD);
    }
}

static void wake_at(struct conn *c, int64_t ms) {
    if (!c->due_ms) TAILQ_INSERT_TAIL(&peer.timed, c, timed);
    c->due_ms = ms;
}

/* False when the connection is gone: what we send fits into any socket buffer. */
static bool put(struct conn *c, const char *text) {
    size_t n = strlen(text);
    if (send(c->fd, text, n, MSG_NOSIGNAL) == (ssize_t)n) return true;
    conn_close(c);
    return false;
}

/* ---- requests ---- */

/* A header's value; the request's head ends with a NUL. */
static const char *header(const char *head, const char *name, size_t *ret_n) {
    const char *at = strcasestr(head, name);
    if (!at) return NULL;
    at += strlen(name);
    while (*at == ' ') at++;
    *ret_n = strcspn(at, "\r");
    return at;
}

static void note(const struct conn *c) {
    const char *space = strchr(c->in, ' ');
    size_t method_n = space ? (size_t)(space - c->in) : 0, id_n = 1;
    const char *path = space ? space + 1 : "-";
    const char *id = header(c->in, "\r\nwebhook-id:", &id_n);
    fprintf(peer.log, "%lld %.*s %.*s %.*s\n", (long long)c->arrived_us, (int)method_n, c->in,
            (int)strcspn(path, " "), path, (int)id_n, id ? id : "-");
}

static bool answer(struct conn *c) {
    note(c);
    c->playing = KIND_OK;
    c->n = 0;
    return put(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: \"0\"\r\n\r\n");
}

static enum kind kind_of(const struct conn *c) {
    const char *path = strchr(c->in, '/');
    size_t n = path ? strcspn(path + 1, "-/ ") : 0;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        if (strlen(kinds[i].name) != n || memcmp(path + 1, kinds[i].name, n) != 0) continue;
        if (kinds[i].kind == KIND_SLOW) return peer.quick ? KIND_OK : KIND_SLOW;
        return peer.sick ? kinds[i].kind : KIND_OK;
    }
    return KIND_OK;
}

static bool play(struct conn *c) {
    c->playing = kind_of(c);
    switch (c->playing) {
    case KIND_OK:
        return answer(c);
    case KIND_SLOW:
        wake_at(c, now_ms() + SLOW_MS);
        return true;
    case KIND_HOLE:
        return true;
    case KIND_503:
        c->playing = KIND_OK;
        c->n = 0;
        return put(c, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    case KIND_429:
        c->playing = KIND_OK;
        c->n = 0;
        return put(c, "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\n"
                      "Content-Length: 0\r\n\r\n");
    case KIND_DRIP:
        wake_at(c, now_ms() + DRIP_MS);
        return put(c, "HTTP/1.1 200 OK\r\nX-Drip: ");
    case KIND_ENDLESS:
    case KIND_FLOOD:
        if (c->playing == KIND_ENDLESS) note(c);
        watch(c->fd, EPOLLIN | EPOLLOUT, c, EPOLL_CTL_MOD);
        return put(c, c->playing == KIND_ENDLESS
                          ? "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"
                          : "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n");
    }
    return true;
}

/* Whether a whole request is there; the head is then a string of its own. */
static bool is_whole(struct conn *c) {
    c->in[c->n] = '\0';
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end) return false;
    size_t n;
    const char *length = header(c->in, "\r\ncontent-length:", &n);
    size_t body = length && length < end ? strtoul(length, NULL, 10) : 0;
    if (c->n < (size_t)(end - c->in) + 4 + body) return false;
    end[2] = '\0';
    return true;
}

static void conn_read(struct conn *c) {
    ssize_t n = recv(c->fd, c->in + c->n, REQUEST_MAX - c->n, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    /* While a request is played nothing more comes, but its end. */
    if (n <= 0 || c->playing != KIND_OK || c->n + (size_t)n == REQUEST_MAX) {
        conn_close(c);
        return;
    }
    c->n += (size_t)n;
    if (!is_whole(c)) return;
    c->arrived_us = clock_us(CLOCK_REALTIME);
    play(c);
}

static void conn_write(struct conn *c) {
    static const char junk[16384];
    if (send(c->fd, junk, sizeof junk, MSG_NOSIGNAL) < 0 && errno != EAGAIN) conn_close(c);
}

/* The time that is left until something is due, ms. */
static int run_timed(void) {
    int64_t now = now_ms(), next = now + LOG_FLUSH_MS;
    struct conn *c, *after;
    for (c = TAILQ_FIRST(&peer.timed); c; c = after) {
        after = TAILQ_NEXT(c, timed);
        if (c->due_ms <= now && c->playing == KIND_DRIP) {
            c->due_ms = now + DRIP_MS;
            if (!put(c, "x")) continue;
        } else if (c->due_ms <= now) {
            TAILQ_REMOVE(&peer.timed, c, timed);
            c->due_ms = 0;
            answer(c);
            continue;
        }
        if (c->due_ms < next) next = c->due_ms;
    }
    return (int)(next - now);
}

/* ---- sick and well ---- */

static int open_port(enum port port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons(peer.ports[port]),
                             .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t n = sizeof at;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) != 0 ||
        bind(fd, (struct sockaddr *)&at, n) != 0 ||
        getsockname(fd, (struct sockaddr *)&at, &n) != 0)
        die("bind");
    peer.ports[port] = ntohs(at.sin_port);
    return fd;
}

static void serve(enum port port, int backlog) {
    if (listen(peer.listeners[port], backlog) != 0) die("listen");
    watch(peer.listeners[port], EPOLLIN, &peer.listeners[port], EPOLL_CTL_ADD);
}

/* The port goes away with all that came through it. */
static void shut(enum port port) {
    struct conn *c, *after;
    for (c = TAILQ_FIRST(&peer.all); c; c = after) {
        after = TAILQ_NEXT(c, link);
        if (c->port == port) conn_close(c);
    }
    close(peer.listeners[port]);
    peer.listeners[port] = open_port(port);
}

/* A listener without backlog, full of connections that nobody takes: the kernel drops further SYNs.
 */
static void fill_backlog(void) {
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons(peer.ports[PORT_SYNHOLE]),
                             .sin_addr = {htonl(INADDR_LOOPBACK)}};
    if (listen(peer.listeners[PORT_SYNHOLE], 0) != 0) die("listen");
    for (size_t i = 0; i < sizeof peer.fillers / sizeof *peer.fillers; i++) {
        peer.fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (connect(peer.fillers[i], (struct sockaddr *)&at, sizeof at) != 0 &&
            errno != EINPROGRESS)
            die("connect");
    }
}

static void get_sick(void) {
    peer.sick = true;
    shut(PORT_REFUSED);
    shut(PORT_SYNHOLE);
    fill_backlog();
}

static void get_well(void) {
    peer.sick = false;
    struct conn *c, *after;
    for (c = TAILQ_FIRST(&peer.all); c; c = after) {
        after = TAILQ_NEXT(c, link);
        if (c->playing != KIND_OK && c->playing != KIND_SLOW) conn_close(c);
    }
    for (size_t i = 0; i < sizeof peer.fillers / sizeof *peer.fillers; i++) close(peer.fillers[i]);
    serve(PORT_REFUSED, 1024);
    serve(PORT_SYNHOLE, 1024);
}

/* False at the end of the input. */
static bool obey(void) {
    char line[256];
    ssize_t n = read(STDIN_FILENO, line, sizeof line - 1);
    if (n <= 0) return false;
    line[n] = '\0';
    for (char *word = strtok(line, "\n"); word; word = strtok(NULL, "\n")) {
        if (strcmp(word, "sick") == 0 && !peer.sick) get_sick();
        if (strcmp(word, "well") == 0 && peer.sick) get_well();
        if (strcmp(word, "slow") == 0) peer.quick = false;
        if (strcmp(word, "quick") == 0) peer.quick = true;
        printf("%s\n", word);
        fflush(stdout);
    }
    return true;
}

static bool is_listener(const void *ptr) {
    return ptr >= (void *)peer.listeners && ptr < (void *)(peer.listeners + PORTS);
}

static bool turn(void) {
    struct epoll_event events[64];
    static int64_t flushed_ms;
    int n = epoll_wait(peer.epoll, events, 64, run_timed());
    for (int i = 0; i < n; i++) {
        void *ptr = events[i].data.ptr;
        if (!ptr) {
            /* Closes connections: what else was reported may be gone, and is reported again. */
            return obey();
        }
        if (is_listener(ptr))
            conn_accept((enum port)((int *)ptr - peer.listeners));
        else if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            conn_read(ptr);
        else if (events[i].events & EPOLLOUT)
            conn_write(ptr);
    }
    if (now_ms() - flushed_ms >= LOG_FLUSH_MS) {
        fflush(peer.log);
        flushed_ms = now_ms();
    }
    return true;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: peer LOG\n");
        return 64;
    }
    peer.log = fopen(argv[1], "we");
    peer.epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!peer.log || peer.epoll < 0) die(argv[1]);
    TAILQ_INIT(&peer.all);
    TAILQ_INIT(&peer.timed);
    for (int p = 0; p < PORTS; p++) {
        peer.listeners[p] = open_port((enum port)p);
        serve((enum port)p, 1024);
    }
    watch(STDIN_FILENO, EPOLLIN, NULL, EPOLL_CTL_ADD);
    printf("web=%u refused=%u synhole=%u\n", peer.ports[PORT_WEB], peer.ports[PORT_REFUSED],
           peer.ports[PORT_SYNHOLE]);
    fflush(stdout);
    while (turn()) continue;
    return fclose(peer.log) == 0 ? 0 : 1;
}
