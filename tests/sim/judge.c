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

struct end {
    char topic[64];
    int32_t partition;
    int era;
    int64_t at;
};

struct judge_run {
    struct end *ends;
    size_t n;
};

static int era_of(const char *topic) {
    int i = source_index(topic, strlen(topic));
    return i < 0 ? 0 : events_era(i);
}

static void note_ends(struct judge_run *run, const char *topic) {
    for (int32_t p = 0; p < broker_partitions(topic); p++) {
        struct end end = {.partition = p, .era = era_of(topic)};
        int64_t low;
        snprintf(end.topic, sizeof end.topic, "%s", topic);
        broker_ends(topic, p, &low, &end.at);
        GROW(run->ends, run->n);
        run->ends[run->n++] = end;
    }
}

struct judge_run *judge_run_begin(void) {
    struct judge_run *run = xcalloc(1, sizeof *run);
    for (int i = 0; i < events_topics(); i++) note_ends(run, events_topic(i));
    for (int i = 0; i < fleet_topics(); i++)
        if (strstr(fleet_topic(i), ".retry.")) note_ends(run, fleet_topic(i));
    return run;
}

/* P1. It has left nothing that was there at its start. */
void judge_run_end(const struct judge_run *run) {
    for (const struct end *e = run->ends; e < run->ends + run->n; e++) {
        struct broker_record r;
        int64_t settled = judge_settled_to(e->topic, e->partition);
        if (e->era != era_of(e->topic)) continue; /* nothing of that is left */
        if (settled < e->at && broker_stable(e->topic, e->partition) < e->at)
            world_fail("P1: --until-end has ended well, and an open transaction hides a part "
                       "of %s/%d that was there before",
                       e->topic, (int)e->partition);
        if (broker_read(e->topic, e->partition, settled, &r) && r.offset < e->at)
            world_fail("P1: --until-end has ended well, and left %s/%d/%" PRId64, e->topic,
                       (int)e->partition, r.offset);
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
    for (int i = 0; i < fleet_topics(); i++)
        if (ends_in(fleet_topic(i), ".ledger")) each_record(fleet_topic(i), note_entry);
    for (int i = 0; i < fleet_topics(); i++)
        if (ends_in(fleet_topic(i), ".ledger")) each_record(fleet_topic(i), judge_entry);
    chains_judge();
    judge_deaths();
    for (int i = 0; i < fleet_topics(); i++) {
        if (strstr(fleet_topic(i), ".retry.")) each_record(fleet_topic(i), judge_parked);
        if (strstr(fleet_topic(i), ".dead.")) each_record(fleet_topic(i), judge_letter);
        if (ends_in(fleet_topic(i), ".outcomes")) each_record(fleet_topic(i), judge_notice);
    }
    for (int i = 0; i < fleet_topics(); i++)
        if (ends_in(fleet_topic(i), ".outcomes")) each_record(fleet_topic(i), judge_nameless);
    judge_ids();
    for (int i = 0; i < events_count(); i++) {
        judge_event(events_get(i));
        judge_delay(events_get(i));
        judge_told(events_get(i));
    }
}
