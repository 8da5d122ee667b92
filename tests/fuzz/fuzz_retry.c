/* The headers of parked records and dead letters from hostile bytes: pairs of name and value, each
 * ended by 0xff. What is accepted can be parked again and reads back the same, and whatever the
 * past says, the next attempt is due within the longest delay. */
#include <stdlib.h>

#include "worker/kafka/retry.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HEADERS_MAX 40

static void must(bool ok) {
    if (!ok) abort();
}

static struct str piece(struct str *rest) {
    const char *end = rest->n ? memchr(rest->p, 0xff, rest->n) : NULL;
    struct str one = {rest->p, end ? (size_t)(end - rest->p) : rest->n};
    size_t gone = one.n + (end != NULL);
    rest->p += gone;
    rest->n -= gone;
    return one;
}

static void check_same(const struct retry *a, const struct retry *b) {
    must(strcmp(a->origin.topic, b->origin.topic) == 0);
    must(a->origin.partition == b->origin.partition && a->origin.offset == b->origin.offset);
    must(a->timestamp_ms == b->timestamp_ms &&
         a->progress.first_failure_ms == b->progress.first_failure_ms);
    must(a->progress.due_ms == b->progress.due_ms &&
         a->progress.not_before_ms == b->progress.not_before_ms);
    must(a->progress.attempts ==
         b->progress.attempts); /* a marker stands for a value that can't go back */
    must(strcmp(a->batch_key, b->batch_key) == 0);
    must(a->batch_count == b->batch_count && a->batch_index == b->batch_index);
    must(strcmp(a->group, b->group) == 0 && strcmp(a->destination, b->destination) == 0);
}

static void check_schedule(const struct retry *past, struct arena *arena) {
    static const int64_t delays[] = {10000, 20000, 40000, 80000, 120000};
    const struct schedule s = {delays, 5};
    const int64_t now = 1700000000000, hour = 3600000;
    for (int counted = 0; counted < 2; counted++) {
        struct retry r = *past;
        struct outcome o = outcome_fail(VERDICT_RETRY, FAULT_TENANT, "http-503", NULL);
        o.uncounted = !counted;
        o.retry_after_ms = past->progress.attempts;
        if (retry_next(&r.progress, &o, &s, hour, now) != NEXT_RETRY) continue;
        must(r.progress.tier < s.n && r.progress.due_ms <= now + delays[4] &&
             r.progress.first_failure_ms);
        must(r.progress.attempts == past->progress.attempts + (uint32_t)counted ||
             r.progress.attempts == UINT32_MAX);
        size_t n;
        const char *problem;
        const struct header *h = retry_headers(&r, NULL, 0, arena, &n);
        must(retry_parse(h, n, &r, &problem));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct str rest = {(const char *)data, size};
    struct header headers[HEADERS_MAX];
    size_t n = 0;
    while (rest.n && n < HEADERS_MAX) {
        headers[n].name = piece(&rest);
        headers[n++].value = piece(&rest);
    }
    struct retry r, again;
    const char *problem = NULL;
    if (!retry_parse(headers, n, &r, &problem)) {
        must(problem && problem[0]);
        return 0;
    }
    struct arena arena = {0};
    size_t n_ours;
    bool dead = r.died_ms != 0;
    const struct header *ours = retry_headers(&r, headers, n, &arena, &n_ours);
    must(n_ours <= n + 16 && retry_parse(ours, n_ours, &again, &problem));
    again.died_ms = r.died_ms;
    check_same(&r, &again);
    check_schedule(&r, &arena);
    struct outcome o = outcome_fail(VERDICT_PERMANENT, FAULT_TENANT, "http-410", "gone");
    ours = dead_headers(&r, &o, 1700000000000, headers, n, &arena, &n_ours);
    must(retry_parse(ours, n_ours, &again, &problem) && again.died_ms == 1700000000000);
    must(dead || strcmp(again.group, r.group) == 0);
    arena_free(&arena);
    return 0;
}
