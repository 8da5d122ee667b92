#include "worker/tools/interrupt.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <time.h>

static sigset_t signals;
static bool stopped;

void interrupt_hold(void) {
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
}

bool interrupt_wait(void *unused, int64_t wait_ms) {
    struct timespec left = {wait_ms / 1000, wait_ms % 1000 * 1000000};
    (void)unused;
    stopped = stopped || sigtimedwait(&signals, NULL, &left) > 0;
    return stopped;
}

bool interrupted(void) {
    return interrupt_wait(NULL, 0);
}

bool interrupt_stops(void *unused) {
    return interrupt_wait(unused, 0);
}

bool interrupt_ask(const char *question) {
    char answer[16] = "";
    fflush(stdout);
    fputs(question, stderr);
    pthread_sigmask(SIG_UNBLOCK, &signals, NULL);
    bool yes = fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y');
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    return yes;
}
