#include "worker/pipeline/reading.h"

#include "worker/base/clock.h"
#include "worker/pipeline/careful.h"
#include "worker/pipeline/intake.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/recall.h"
#include "worker/pipeline/source.h"

/* Taken in one turn at most, so that transfers go on: about a millisecond's work, but a tenant
 * chooses what a record costs. */
#define TURN_RECORDS 256
#define TURN_MS 20

#define PARTITION_RECORDS 128 /* of one partition, then it is the next one's turn */
#define SMALL_BYTES 4096

/* Asked after every few records, and after each large one: it reads the clock. */
static bool turn_is_over(const struct lane *lane) {
    return clock_ms(CLOCK_MONOTONIC) - lane->reading_ms >= TURN_MS;
}

static size_t read_partition(struct lane *lane, struct partition *p, size_t most) {
    size_t n = 0;
    bool large = false;
    struct feed_head head;
    if (!p->claimed && (recall_waits(lane, p) || !careful_claim(lane, p))) return 0;
    if (p->caution != CAUTION_NONE) careful_tick(lane, p);
    if (p->caution == CAUTION_CAREFUL) return 0;
    place_topic(&lane->place, p->topic, p->id);
    while (n < most && ((n % 8 && !large) || !turn_is_over(lane)) && source_peek(lane, p, &head)) {
        if (intake_past_end(p, head.offset)) break;
        if (!intake_has_room(lane, p, head.offset)) break;
        large = fetched_value(head.message).n > SMALL_BYTES;
        intake_take(lane, p);
        n++;
    }
    return n;
}

/* Partitions take turns, so that one with a backlog starves none. Another one begins each time: the
 * first may take all that there is room for. */
bool reading_run(struct lane *lane) {
    size_t total = 0, round;
    bool over = false;
    lane->reading_ms = clock_ms(CLOCK_MONOTONIC);
    struct partition *first = lane->partitions;
    size_t n = 0;
    for (const struct partition *p = first; p; p = p->next) n++;
    for (size_t skip = n ? lane->turns++ % n : 0; skip; skip--) first = first->next;
    lane->standing = careful_stands(lane);
    do {
        round = 0;
        for (struct partition *p = first; p; p = p->next)
            round += read_partition(lane, p, PARTITION_RECORDS);
        for (struct partition *p = lane->partitions; p != first; p = p->next)
            round += read_partition(lane, p, PARTITION_RECORDS);
        total += round;
        over = total >= TURN_RECORDS || turn_is_over(lane);
    } while (round && !over);
    if (lane->standing) careful_run(lane);
    return over;
}
