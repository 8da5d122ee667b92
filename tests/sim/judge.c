#include "tests/sim/judging.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tests/sim/broker.h"
#include "tests/sim/fleet.h"
#include "tests/sim/judge.h"
#include "tests/sim/world.h"
#include "worker/base/buf.h"

/* ---- --until-end ---- */

struct judge_run {
    int64_t ends[TOPICS_MAX][PARTITIONS_MAX];
};

struct judge_run *judge_run_begin(void) {
    struct judge_run *run = xcalloc(1, sizeof *run);
    for (int i = 0; i < events_topics(); i++)
        for (int32_t p = 0; p < broker_partitions(events_topic(i)); p++) {
            int64_t low;
            broker_ends(events_topic(i), p, &low, &run->ends[i][p]);
        }
    return run;
}

/* P1. It has left nothing that was there at its start. */
void judge_run_end(const struct judge_run *run) {
    for (int i = 0; i < events_topics(); i++)
        for (int32_t p = 0; p < broker_partitions(events_topic(i)); p++) {
            struct broker_record r;
            const char *topic = events_topic(i);
            int64_t settled = judge_settled_to(topic, p), end = run->ends[i][p];
            if (settled < end && broker_stable(topic, p) < end)
                world_fail("P1: --until-end has ended well, and an open transaction hides a part "
                           "of %s/%d that was there before",
                           topic, (int)p);
            if (broker_read(topic, p, settled, &r) && r.offset < end)
                world_fail("P1: --until-end has ended well, and left %s/%d/%" PRId64, topic, (int)p,
                           r.offset);
        }
}

static bool is_read(const char *topic) {
    return source_index(topic, strlen(topic)) >= 0 || strstr(topic, ".retry.");
}

bool judge_settled(char *text, size_t size) {
    for (int i = 0; i < fleet_topics(); i++) {
        const char *topic = fleet_topic(i);
        for (int32_t p = 0; is_read(topic) && p < broker_partitions(topic); p++) {
            struct broker_record r;
            int64_t at = judge_settled_to(topic, p);
            if (!broker_read(topic, p, at, &r)) continue;
            snprintf(text, size, "%s/%d/%" PRId64 " (committed: %" PRId64 ")", topic, (int)p,
                     r.offset, at);
            return false;
        }
    }
    return true;
}

/* ---- the end ---- */

static void each_record(const char *topic, record_fn *fn) {
    for (int32_t p = 0; p < broker_partitions(topic); p++) {
        struct broker_record r;
        for (int64_t at = 0; broker_read(topic, p, at, &r); at = r.offset + 1) fn(topic, p, &r);
    }
}

void judge_all(void) {
    judge_deaths();

    for (int i = 0; i < fleet_topics(); i++)
        if (ends_in(fleet_topic(i), ".ledger")) each_record(fleet_topic(i), judge_entry);
    chains_judge();
    for (int i = 0; i < fleet_topics(); i++) {
        if (strstr(fleet_topic(i), ".retry.")) each_record(fleet_topic(i), judge_parked);
        if (strstr(fleet_topic(i), ".dead.")) each_record(fleet_topic(i), judge_letter);
    }
    for (int i = 0; i < events_count(); i++) {
        judge_event(events_get(i));
        judge_delay(events_get(i));
    }
}
