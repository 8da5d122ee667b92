/* Starts and stops the scripted HTTP peer (tests/flow/http_peer.py) for one test program. */
#ifndef RUNSINK_TESTS_HTTP_PEER_H
#define RUNSINK_TESTS_HTTP_PEER_H

#include <stdbool.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

struct http_peer {
    pid_t pid;
    int in;                                                /* its standard input: closed, it ends */
    int plain, tls, mtls, deaf, canary, proxy, full, gone; /* ports on 127.0.0.1 */
    char dir[200];                                         /* certificates */
};

static inline bool http_peer_start(struct http_peer *p) {
    int to[2], from[2];
    if (pipe(to) || pipe(from)) return false;
    p->pid = fork();
    if (p->pid == 0) {
        dup2(to[0], 0);
        dup2(from[1], 1);
        close(to[1]);
        close(from[0]);
        execlp("python3", "python3", TEST_DATA "/../flow/http_peer.py", (char *)NULL);
        _exit(127);
    }
    close(to[0]);
    close(from[1]);
    p->in = to[1];
    FILE *f = fdopen(from[0], "r");
    int n = fscanf(
        f, "plain=%d tls=%d mtls=%d deaf=%d canary=%d proxy=%d full=%d gone=%d dir=%199s",
        &p->plain, &p->tls, &p->mtls, &p->deaf, &p->canary, &p->proxy, &p->full, &p->gone, p->dir);
    fclose(f);
    return n == 9;
}

static inline bool http_peer_stop(struct http_peer *p) {
    close(p->in);
    return waitpid(p->pid, NULL, 0) == p->pid;
}

#endif
