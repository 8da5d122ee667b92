/* `runsink health`: asks the admin server of the worker on this machine, for an image's HEALTHCHECK
 * and for exec probes, where there is no curl. */
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sysexits.h>
#include <unistd.h>

#include "worker/admin/admin.h"
#include "worker/tools/command.h"

#define TIMEOUT_S 3
#define ANSWER_MAX 2048

static int connect_to(const struct addrinfo *list) {
    const struct timeval timeout = {.tv_sec = TIMEOUT_S};
    for (const struct addrinfo *ai = list; ai; ai = ai->ai_next) {
        int fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC, 0);
        if (fd < 0) continue;
        /* A connect is bounded by the send timeout. */
        if (setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) == 0 &&
            setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) == 0 &&
            connect(fd, ai->ai_addr, ai->ai_addrlen) == 0)
            return fd;
        close(fd);
    }
    return -1;
}

/* Reads up to the end; the server closes. */
static size_t ask(int fd, const char *path, char *ret, size_t size) {
    char request[128];
    int n = snprintf(request, sizeof request,
                     "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path);
    size_t got = 0;
    if (send(fd, request, (size_t)n, MSG_NOSIGNAL) != n) return 0;
    for (ssize_t k; got < size - 1 && (k = read(fd, ret + got, size - 1 - got)) > 0;)
        got += (size_t)k;
    ret[got] = '\0';
    return got;
}

static int judge(const char *answer, const char *path) {
    const char *line = "HTTP/1.1 ", *body = strstr(answer, "\r\n\r\n");
    if (strncmp(answer, line, strlen(line)) != 0 || !body) {
        fprintf(stderr, "runsink health: no answer to %s within %d s\n", path, TIMEOUT_S);
        return EX_UNAVAILABLE;
    }
    long status = strtol(answer + strlen(line), NULL, 10);
    body += 4;
    fprintf(status == 200 ? stdout : stderr, "%.*s\n", (int)strcspn(body, "\r\n"), body);
    return status == 200 ? EX_OK : EX_UNAVAILABLE;
}

/* Every address is reached at loopback. */
static const char *reachable(const char *host) {
    if (!*host || strcmp(host, "0.0.0.0") == 0) return "127.0.0.1";
    return strcmp(host, "::") == 0 ? "::1" : host;
}

static int check(const char *address, const char *path) {
    char host[ADMIN_HOST_MAX], port[6], answer[ANSWER_MAX] = "";
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    if (!admin_address(address, host, port)) {
        fputs("runsink health: admin.listen is not address:port\n", stderr);
        return EX_CONFIG;
    }
    int rc = getaddrinfo(reachable(host), port, &hints, &list);
    int fd = rc == 0 ? connect_to(list) : -1;
    if (list) freeaddrinfo(list);
    if (fd < 0) {
        fprintf(stderr, "runsink health: nothing answers at %s\n", address);
        return EX_UNAVAILABLE;
    }
    ask(fd, path, answer, sizeof answer);
    close(fd);
    return judge(answer, path);
}

int command_health(struct config *cfg, int argc, char **argv) {
    bool ready = false;
    const struct command_option options[] = {{"--ready", .flag = &ready}};
    int rc = command_options("health", options, 1, argc, argv, NULL);
    if (rc != EX_OK) return rc;
    if (!cfg->admin_listen[0]) {
        fputs("runsink health: admin.listen is empty: the worker answers nobody\n", stderr);
        return EX_CONFIG;
    }
    return check(cfg->admin_listen, ready ? "/readyz" : "/healthz");
}
