/* What a lane may hold, and for how long it may stand (P4); how many may die. */
#include "tests/sim/judging.h"

#include <inttypes.h>

#include "tests/sim/fleet.h"
#include "tests/sim/judge.h"
#include "tests/sim/plan.h"
#include "tests/sim/world.h"

void judge_held(size_t held, size_t most) {
    if (held > most) world_fail("a lane holds %zu bytes of its budget, %zu at most", held, most);
}

/* P4. For one that is healthy and busy it may stand; here there is none, but with dest.rate. It has
 * a moment to tell one that is new from one that is sick. With --until-end, where nobody waits for
 * what comes now, each of them has its own (dispatch.h: patient). */
#define STANDING_MS 3000
#define MOMENT_MS 1000
void judge_standing(int64_t ms, bool until_end) {
    int64_t most_ms = STANDING_MS + (until_end ? events_destinations() * MOMENT_MS : 0);
    if (ms > most_ms && !plan.rate)
        world_fail("P4: a lane has read nothing for %" PRId64 " ms, for one destination", ms);
}

void judge_windows(const char *topic, int32_t partition, size_t open, size_t most) {
    if (open > most)
        world_fail("%s/%d has %zu windows in flight, %zu at most", topic, (int)partition, open,
                   most);
}

/* One record may kill as many workers as are asked for, two at least, and a few that had not heard
 * of the others. The readers of a partition that died are counted, not the deaths of a record: one
 * that was parked between two deaths, since its place was shut off, is counted anew in its retry
 * topic (worker/README.md, "Poison"). */
#define FEW 3
void judge_deaths(void) {
    int64_t most = (plan.attempts > 2 ? plan.attempts : 2) + FEW, stays = 0;
    for (int i = 0; i < events_count(); i++) {
        const struct event *e = events_get(i);
        if (e->fate == FATE_POISON) stays += 1 + e->rounds;
    }
    if (fleet_deaths() > stays * most)
        world_fail("%d processes died of %" PRId64 " records", fleet_deaths(), plan.poison);
}
