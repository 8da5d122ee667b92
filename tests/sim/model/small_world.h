/* A world without lanes, for the tests of the model of Kafka: it has time, chance, processes, and
 * workers that do nothing but hold a consumer and a producer. */
#ifndef RUNSINK_SMALL_WORLD_H
#define RUNSINK_SMALL_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "config/config.h"
#include "tests/sim/cluster.h"
#include "tests/sim/world.h"
#include "worker/kafka/producer.h"

enum { PROCESSES = 512, EVENTS = 4096, WORKERS = 4, PARTITIONS = 4, TURN_MS = 20 };

struct small_world {
    int64_t now;
    uint64_t random, process, processes, digest;
    bool dead[PROCESSES], frozen[PROCESSES];
    struct event {
        int64_t at;
        uint64_t number;
        void (*fn)(void *);
        void *arg;
    } events[EVENTS];
    size_t n;
    uint64_t number;
    const char *broken;
    unsigned failures;
};
extern struct small_world world;

/* A partition of a worker's. */
struct place {
    struct feed *feed;
    char topic[32];
    int32_t partition;
    bool loaded;
    int64_t from; /* what the transaction at hand has of it begins there; -1: it has none */
};

struct worker {
    uint64_t process;
    char slot[16];
    struct config cfg;
    struct consumer *consumer;
    struct producer *producer;
    struct place places[PARTITIONS * 2];
    size_t n;
    unsigned assigned, revoked, lost, astray; /* how often */
    int64_t revoke_ms;                        /* how long it takes to give something back */
    char metadata[64];                        /* that was committed, as it was told last */
    unsigned known, unknown;                  /* answers to the question for committed offsets */
    void (*also)(struct worker *);            /* what it does in each turn, too; NULL: nothing */
    struct txn *job;
};
extern struct worker workers[WORKERS];
/* Who may read a partition of the topic "in", as the callbacks say; 0: nobody. */
extern uint64_t owners[PARTITIONS];
extern unsigned overlaps, strangers, commits;
extern unsigned hasty; /* partitions that went to another before they were given back */
extern const struct broker_faults calm;

/* Events alone, until then (µs); run() lets the workers take turns, too. */
void run_until(int64_t until);
/* A new process; what it had is nobody's any more. slot: "": dynamic. */
struct worker *start(int number, const char *slot);
void kill_worker(struct worker *w);
void join_group(struct worker *w);
void run(int64_t ms);
void open_with(struct broker_faults faults, uint64_t seed);
int open_calm(void **state);
int close_all(void **state);
int64_t produce(int32_t partition, const char *value);
/* The values that can be seen, each followed by its offset. */
const char *seen(const char *topic, int32_t partition);
struct place *place(struct worker *w, int32_t partition);
struct txn *transaction(struct worker *w, const char *value, int32_t partition, int64_t offset,
                        const char *metadata);
void submit(struct worker *w, struct txn *job);
/* Runs until it has come back. */
enum txn_result result_of(struct worker *w);
enum txn_result settle(struct worker *w, const char *value, int64_t offset);
/* Until the offsets of a transaction wait for its end. */
void run_until_pending(void);
int64_t stable(const char *topic, int32_t partition);
/* What a feed tells, one letter after another: M a message, E an end, A astray. */
const char *read_feed(struct feed *f);

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_calm, close_all)

#endif
