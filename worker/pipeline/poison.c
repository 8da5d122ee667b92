#include "worker/pipeline/poison.h"

#define CAREFUL_FROM 3 /* the third reader in a row, or the second where two deaths are enough */
#define STEPS_MAX 512  /* notes for one row of records; each is a transaction of some ms */

static enum caution caution_of(uint32_t taken, uint32_t attempts) {
    uint32_t careful = attempts < CAREFUL_FROM ? 2 : CAREFUL_FROM;
    if (taken >= careful) return CAUTION_CAREFUL;
    return taken > 1 ? CAUTION_WARY : CAUTION_NONE;
}

/* The distance between two of one kind; INT64_MAX: of two kinds. */
static int64_t gap(const struct blame *a, const struct blame *b) {
    if (a->alone != b->alone) return INT64_MAX;
    return a->first < b->first ? b->first - a->next : a->first - b->next;
}

/* Makes one of the two that are closest to each other, and of what lies between them: setting some
 * innocents aside is better than dying for ever. */
static void join_closest(struct blame *all, size_t n) {
    size_t x = 0, y = 0;
    int64_t least = INT64_MAX;
    for (size_t i = 1; i < n; i++)
        for (size_t k = 0; k < i; k++)
            if (gap(&all[k], &all[i]) < least) {
                least = gap(&all[k], &all[i]);
                x = k;
                y = i;
            }
    if (all[y].first < all[x].first) all[x].first = all[y].first;
    if (all[y].next > all[x].next) all[x].next = all[y].next;
    all[y] = all[n - 1];
}

static void blame(struct claim *c, struct blame what) {
    struct blame all[BLAMED_MAX + 1];
    size_t n = c->n_blamed;
    memcpy(all, c->blamed, n * sizeof *all);
    all[n++] = what;
    if (n > BLAMED_MAX) join_closest(all, n--);
    memcpy(c->blamed, all, n * sizeof *all);
    c->n_blamed = (uint32_t)n;
}

int64_t poison_blamed(const struct claim *c, enum alone alone, int64_t from) {
    int64_t found = INT64_MAX;
    for (uint32_t i = 0; i < c->n_blamed; i++) {
        const struct blame *b = &c->blamed[i];
        if (b->alone != alone || b->next <= from) continue;
        int64_t at = b->first > from ? b->first : from;
        if (at < found) found = at;
    }
    return found;
}

struct takeover takeover(const struct claim *before, uint64_t me, uint32_t attempts, bool calm,
                         int64_t committed) {
    bool mine = before->taken && before->reader == me;
    uint32_t deaths = mine ? before->taken - 1 : before->taken;
    if (calm) deaths = 0;
    struct takeover t = {.want = {.taken = deaths < UINT32_MAX ? deaths + 1 : deaths, .reader = me},
                         .near = deaths > 1};
    t.caution = caution_of(t.want.taken, attempts);
    if (calm) return t;
    for (uint32_t i = 0; i < before->n_blamed; i++)
        if (before->blamed[i].next > committed)
            t.want.blamed[t.want.n_blamed++] = before->blamed[i];
    if (mine || before->alone == ALONE_NONE || before->next <= committed) return t;
    /* The first two deaths say nothing of one record; each that is asked for beyond them has to. */
    if (deaths >= attempts && before->tries + (CAREFUL_FROM - 1) >= attempts &&
        before->alone != ALONE_DELIVERIES && before->next == before->first + 1) {
        blame(&t.want, (struct blame){before->alone, before->first, before->next});
        return t;
    }
    /* Kept until what it names is settled: this reader may end before. */
    t.want.alone = before->alone;
    t.want.first = before->first;
    t.want.next = before->next;
    t.want.tries = before->tries;
    return t;
}

struct claim poison_release(const struct claim *held, const struct claim *suspect, bool settled) {
    struct claim left = {0};
    if (settled || held->taken < 2) return left;
    left = *held;
    left.taken = held->taken - 1;
    left.reader = 0; /* nobody: these died, and no more than these */
    left.alone = suspect->alone;
    left.first = suspect->first;
    left.next = suspect->next;
    left.tries = suspect->tries;
    return left;
}

int64_t poison_step(int64_t n) {
    return n <= STEPS_MAX ? 1 : (n + STEPS_MAX - 1) / STEPS_MAX;
}
