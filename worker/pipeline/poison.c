#include "worker/pipeline/poison.h"

#define CAREFUL_FROM 3 /* the third reader in a row, or the second where two deaths are enough */
#define STEPS_MAX 512  /* notes for one row of records; each is a transaction of some ms */

static enum caution caution_of(uint32_t taken, uint32_t attempts) {
    uint32_t careful = attempts < CAREFUL_FROM ? 2 : CAREFUL_FROM;
    if (taken >= careful) return CAUTION_CAREFUL;
    return taken > 1 ? CAUTION_WARY : CAUTION_NONE;
}

struct takeover takeover(const struct claim *before, uint64_t me, uint32_t attempts, bool calm) {
    bool mine = before->taken && before->reader == me;
    uint32_t deaths = mine ? before->taken - 1 : before->taken;
    if (calm) deaths = 0;
    struct takeover t = {.want = {.taken = deaths < UINT32_MAX ? deaths + 1 : deaths, .reader = me},
                         .near = deaths > 1};
    t.caution = caution_of(t.want.taken, attempts);
    if (mine || calm || before->alone == ALONE_NONE) return t;
    /* Kept until what it names is settled: this reader may end before. */
    t.want.alone = before->alone;
    t.want.first = before->first;
    t.want.next = before->next;
    t.want.tries = before->tries;
    /* The first two deaths say nothing of one record; each that is asked for beyond them has to. */
    t.guilty = deaths >= attempts && before->tries + (CAREFUL_FROM - 1) >= attempts &&
               before->alone != ALONE_DELIVERIES && before->next == before->first + 1;
    return t;
}

struct claim poison_release(const struct claim *held, const struct claim *suspect, bool settled) {
    struct claim left = {0};
    if (settled || held->taken < 2) return left;
    left = *suspect;
    left.taken = held->taken - 1;
    left.reader = 0; /* nobody: these died, and no more than these */
    return left;
}

int64_t poison_step(int64_t n) {
    return n <= STEPS_MAX ? 1 : (n + STEPS_MAX - 1) / STEPS_MAX;
}
