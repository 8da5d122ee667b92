#include "worker/pipeline/backlog.h"

#include <string.h>

/* Those are read late: what is due counts until the span after is over. */
#define LATE_SPANS 1

static int64_t oldest(const struct backlog *b, int64_t now_ms) {
    return now_ms / b->span_ms - LATE_SPANS;
}

static uint32_t *span_of(struct backlog *b, int64_t number) {
    return &b->n[(uint64_t)number % BACKLOG_SPANS];
}

void backlog_add(struct backlog *b, int64_t longest_ms, int64_t due_ms, int64_t now_ms) {
    int64_t span_ms = longest_ms / (BACKLOG_SPANS - LATE_SPANS - 2) + 1;
    if (b->span_ms != span_ms)
        *b = (struct backlog){.span_ms = span_ms, .first = now_ms / span_ms - LATE_SPANS};
    int64_t first = oldest(b, now_ms), number = due_ms / span_ms;
    if (first - b->first >= BACKLOG_SPANS || first < b->first) {
        memset(b->n, 0, sizeof b->n);
        b->first = first;
    }
    while (b->first < first) *span_of(b, b->first++) = 0;
    if (number < first) number = first;
    if (number >= first + BACKLOG_SPANS) number = first + BACKLOG_SPANS - 1;
    ++*span_of(b, number);
}

void backlog_take(struct backlog *b, int64_t due_ms) {
    if (!b->span_ms) return;
    int64_t number = due_ms / b->span_ms;
    if (number < b->first || number >= b->first + BACKLOG_SPANS) return;
    uint32_t *n = span_of(b, number);
    *n -= *n > 0;
}

uint64_t backlog_count(const struct backlog *b, int64_t now_ms) {
    uint64_t sum = 0;
    if (!b->span_ms) return 0;
    int64_t first = oldest(b, now_ms);
    for (int64_t i = first > b->first ? first : b->first; i < b->first + BACKLOG_SPANS; i++)
        sum += b->n[(uint64_t)i % BACKLOG_SPANS];
    return sum;
}
