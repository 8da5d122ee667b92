/* What became of the records that were parked or died: a tally for each, kept until the record has
 * its one final outcome. Entries may come in any order (a retry partition's before the source's),
 * so nothing is judged before the end. Bounded by the records that are open at one time. Pure; one
 * thread. */
#ifndef RUNSINK_VERIFY_ORIGIN_H
#define RUNSINK_VERIFY_ORIGIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One origin's tally. A record waits in a retry topic pending() times and lies among the dead
 * letters dead - redriven times; both are 0 or 1 when all is well. A topic that was made anew has
 * had several records at an offset, of as many lives; which one of them a retry topic's entry
 * speaks of can't be told, so they share a tally. */
struct origin_tally {
    int64_t offset;
    uint32_t chain; /* the caller's number for the origin's topic and partition */
    uint16_t parked, taken, final, dead, redriven; /* taken: read from a retry topic; redriven:
                                                      no dead letter any more */
    uint8_t tier;  /* the caller's number for the retry topic it was parked in last */
    bool late : 1; /* parked by an entry younger than the committed state that is compared with */
    uint8_t opened : 7; /* by how many entries of the source topic */
};

struct origins {
    struct origin_tally *slots;
    uint8_t *used;
    size_t n, cap;
};

void origins_free(struct origins *);
/* The tally of this record, a fresh one when there is none. Valid until the next call. */
struct origin_tally *origins_at(struct origins *, uint32_t chain, int64_t offset);
/* How many records the tally stands for, where the topic has had this many lives. */
static inline int origin_lives(const struct origin_tally *t, uint64_t lives) {
    return t->opened > 1 && lives > 1 ? (t->opened < lives ? t->opened : (int)lives) : 1;
}
/* To be called after each change: forgets the tally when the record's story is complete. */
void origins_settle(struct origins *, struct origin_tally *, uint64_t lives);
/* All that are left, in order of chain and offset; the table is used up by it (call origins_free).
 */
const struct origin_tally *origins_sorted(struct origins *, size_t *ret_n);

static inline int origin_pending(const struct origin_tally *t) {
    return t->parked + t->redriven - t->taken;
}

#endif
