/* What is produced into the source topics: JobRun events of some tenants, each with bytes of its
 * own, and what is to become of them. What they are like once their secrets are taken out is made
 * beside them, by whoever knows which words are secrets. */
#ifndef RUNSINK_SIM_EVENTS_H
#define RUNSINK_SIM_EVENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/base/str.h"

#define EVENTS_MAX 2000
#define TOPICS_MAX 2
#define PARTITIONS_MAX 16
#define DESTINATIONS_MAX 32
#define ERAS 2

enum fate {
    FATE_DELIVERED,
    FATE_SKIPPED,
    FATE_DEAD,  /* of fault data: nobody can deliver it */
    FATE_POISON /* it kills whoever works on it */
};

/* What the platform was told last. */
enum told { TOLD_NOTHING, TOLD_FAILING, TOLD_DELIVERED, TOLD_SKIPPED, TOLD_DEAD };

struct object;

struct event {
    int number, topic;
    int32_t partition;
    int era; /* of its topic: whether it was produced before that was made anew */
    int64_t offset;
    int destination; /* -1: none */
    enum fate fate;
    int api;          /* that made it: api-1, ...; 0: none that is named */
    bool hides;       /* its job is named by a secret */
    struct str value; /* p NULL: a tombstone */
    struct str expected;
    char key[200];       /* of its own object, prefix left out, once its offset is known */
    int64_t produced_us; /* -1: not yet */
    int64_t visible_us;  /* from when on a consumer may read it: INT64_MAX: not yet, or never */
    /* The judge's. */
    const struct object *object;
    bool compacted;     /* it is not there any more */
    bool blamed;        /* it was taken out of its object */
    int64_t arrived_us; /* the first time at its place; -1 */
    unsigned posts, attempts;
    int64_t last_attempt_us;
    unsigned failures; /* attempts whose answer, or its lack, was a failure for who made them */
    int64_t first_failure_us, last_failure_us, failure_generation;
    int64_t due_us;     /* of the next attempt; 0: none has failed */
    int64_t asked_us;   /* by Retry-After: no attempt before; 0: nothing was asked */
    bool for_good;      /* the last failure was one that more attempts do not mend */
    int64_t success_us; /* its sender was told so; 0: not yet */
    int64_t success_generation;
    uint64_t success_process;
    int64_t delivered_ms;                            /* the entry's that says so */
    unsigned delivered, skipped, parked, dead, lost; /* in the ledger */
    char fault[16], why[48];                         /* of its death, there */
    unsigned rounds;                                 /* how often it was parked, there */
    unsigned letters;                                /* among the dead letters */
    enum told told;
};

struct destination_plan {
    int place;
    bool hook, skip_on_fail;
    bool picky; /* apisToSend names one API */
    char prefix[32];
    char sink[600], redacted[600]; /* the sink object */
    char secret[48];
    char workspace[16];
};

/* Makes topics, places and destinations, and has events produced in the course of the run. */
void events_begin(void);
int events_topics(void);
const char *events_topic(int i);
int events_count(void);
struct event *events_get(int i);
/* The event whose number stands in a text; NULL: none. */
struct event *events_in(struct str text);
/* How often a topic was made anew so far. What was in it and has no outcome by then is gone. */
int events_era(int topic);
bool events_made_anew(const char *topic);
/* The one that was at this offset in an era, or NULL. */
struct event *events_at(int topic, int32_t partition, int era, int64_t offset);
int events_destinations(void);
const struct destination_plan *events_destination(int i);
/* What is before this was removed by retention. */
int64_t events_removed(int topic, int32_t partition);
/* Whether it ever removed a part of these offsets, from the first on. */
bool events_cut(int topic, int32_t partition, int64_t first, int64_t next);
/* Compaction comes along, if the plan has it. */
void events_compact(void);
/* Whether all is produced, and every outside transaction has its end. */
bool events_over(void);
/* Outside transactions end now. */
void events_calm(void);

#endif
