/* Runs a command and writes down what it cost.
 *
 * usage: measure FILE COMMAND [ARGUMENT...]
 * FILE gets one JSON object: "exit" (128 + the signal when one ended it), "wall" (seconds from fork
 * to the end), "cpu" (user + system seconds), "rss" (peak, KiB). SIGTERM and SIGINT are passed on.
 * Its own exit code is the command's. A program of its own because the kernel counts the memory of
 * whoever forked into the peak of what was forked: this one has next to none. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile sig_atomic_t child;

static void pass_on(int sig) {
    if (child > 0) kill(child, sig);
}

static double seconds(struct timeval tv) {
    return (double)tv.tv_sec + (double)tv.tv_usec / 1e6;
}

static double now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void die(const char *what) {
    perror(what);
    exit(71);
}

/* A signal that comes before the command runs waits until it does. */
static void launch(char **command) {
    sigset_t both, before;
    sigemptyset(&both);
    sigaddset(&both, SIGTERM);
    sigaddset(&both, SIGINT);
    sigprocmask(SIG_BLOCK, &both, &before);
    child = fork();
    if (child < 0) die("fork");
    if (child == 0) {
        sigprocmask(SIG_SETMASK, &before, NULL);
        execvp(command[0], command);
        die(command[0]);
    }
    struct sigaction on = {.sa_handler = pass_on, .sa_flags = SA_RESTART};
    sigaction(SIGTERM, &on, NULL);
    sigaction(SIGINT, &on, NULL);
    sigprocmask(SIG_SETMASK, &before, NULL);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: measure FILE COMMAND [ARGUMENT...]\n");
        return 64;
    }
    FILE *file = fopen(argv[1], "we");
    if (!file) die(argv[1]);
    double begin = now();
    launch(argv + 2);
    int status;
    struct rusage used;
    while (wait4(child, &status, 0, &used) < 0)
        if (errno != EINTR) die("wait4");
    double wall = now() - begin;
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    fprintf(file, "{\"exit\":%d,\"wall\":%.6f,\"cpu\":%.6f,\"rss\":%ld}\n", code, wall,
            seconds(used.ru_utime) + seconds(used.ru_stime), used.ru_maxrss);
    if (fclose(file) != 0) die(argv[1]);
    return code;
}
