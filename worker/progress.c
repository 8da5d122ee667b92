#include "worker/progress.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "worker/base/log.h"

#define TERMINAL_MS 500
#define LOG_MS 10000

void progress_begin(struct progress_meter *m, int64_t now_ms) {
    *m = (struct progress_meter){
        .terminal = isatty(STDERR_FILENO) == 1, .start_ms = now_ms, .last_ms = now_ms};
}

int progress_wait_ms(const struct progress_meter *m, int64_t now_ms) {
    int64_t left = m->last_ms + (m->terminal ? TERMINAL_MS : LOG_MS) - now_ms;
    return left > 0 ? (int)left : 0;
}

/* "2:05" or "1:02:05"; empty while nothing is known. */
static void time_left(char *ret, size_t size, uint64_t done, uint64_t remaining, int64_t ms) {
    ret[0] = '\0';
    if (!done || ms < 1000) return;
    long long s = (long long)((double)remaining * (double)ms / (double)done / 1000);
    if (s >= 3600)
        snprintf(ret, size, "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
    else
        snprintf(ret, size, "%lld:%02lld", s / 60, s % 60);
}

void progress_show(struct progress_meter *m, const uint64_t totals[COUNTERS], int64_t now_ms) {
    uint64_t remaining = totals[COUNTER_REMAINING];
    int64_t ms = now_ms - m->start_ms;
    char left[32];
    m->last_ms = now_ms;
    if (remaining > m->first_remaining) m->first_remaining = remaining;
    time_left(left, sizeof left, m->first_remaining - remaining, remaining, ms);
    double rate = ms ? (double)totals[COUNTER_RECORDS] * 1000 / (double)ms : 0;
    if (m->terminal)
        log_raw("\r%llu events, %.1f MB, %llu objects, %.0f/s, %llu left%s%s\033[K",
                (unsigned long long)totals[COUNTER_RECORDS], (double)totals[COUNTER_BYTES] / 1e6,
                (unsigned long long)totals[COUNTER_DELIVERIES], rate, (unsigned long long)remaining,
                left[0] ? ", " : "", left);
    else
        log_info("progress", LOG_I("records", (int64_t)totals[COUNTER_RECORDS]),
                 LOG_I("bytes", (int64_t)totals[COUNTER_BYTES]),
                 LOG_I("objects", (int64_t)totals[COUNTER_DELIVERIES]), LOG_F("per_second", rate),
                 LOG_I("remaining", (int64_t)remaining), LOG_S("time_left", left));
}

void progress_end(const struct progress_meter *m) {
    if (m->terminal) log_raw("\n");
}

int heartbeat_wait_ms(const struct heartbeat *h, int64_t period_ms, int64_t now_ms) {
    if (period_ms == 0) return -1;
    int64_t left = h->last_ms + period_ms - now_ms;
    return left > 0 ? (int)left : 0;
}

void heartbeat_show(struct heartbeat *h, const uint64_t totals[COUNTERS], int64_t now_ms) {
#define SINCE(id) ((int64_t)(totals[COUNTER_##id] - h->totals[COUNTER_##id]))
    log_info("heartbeat", LOG_F("seconds", (double)(now_ms - h->last_ms) / 1000),
             LOG_I("records", SINCE(RECORDS)), LOG_I("delivered", SINCE(DELIVERED)),
             LOG_I("skipped", SINCE(SKIPPED)), LOG_I("parked", SINCE(PARKED)),
             LOG_I("dead", SINCE(DEAD_TENANT) + SINCE(DEAD_DATA) + SINCE(DEAD_SYSTEM)),
             LOG_I("attempts_failed", SINCE(ATTEMPTS_FAILED)),
             LOG_I("transactions_failed", SINCE(TRANSACTIONS_FAILED)),
             LOG_I("partitions", totals[COUNTER_PARTITIONS]), LOG_I("lag", totals[COUNTER_LAG]),
             LOG_I("waiting", totals[COUNTER_WAITING]), LOG_I("in_flight", totals[COUNTER_FLYING]),
             LOG_I("held_bytes", totals[COUNTER_HELD_BYTES]));
#undef SINCE
    h->last_ms = now_ms;
    memcpy(h->totals, totals, sizeof h->totals);
}
