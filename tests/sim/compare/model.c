/* The stage on the model of Kafka: a world that has time, chance and processes, and nothing else.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/config.h"
#include "tests/sim/cluster.h"
#include "tests/sim/compare/stage.h"
#include "tests/sim/world.h"
#include "worker/base/clock.h"

#define EVENTS 4096

static struct {
    int64_t now_us;
    uint64_t random, number, process;
    struct event {
        int64_t at_us;
        uint64_t number;
        void (*fn)(void *);
        void *arg;
    } events[EVENTS];
    size_t n;
} world;

static uint64_t transaction;

/* ---- world.h ---- */

int64_t world_us(void) {
    return world.now_us;
}

int64_t clock_us(clockid_t clock) {
    return world.now_us + (clock == CLOCK_REALTIME ? WORLD_EPOCH_MS * WORLD_MS : 0);
}

int64_t clock_ms(clockid_t clock) {
    return clock_us(clock) / WORLD_MS;
}

void world_after(int64_t us, void (*fn)(void *), void *arg) {
    if (world.n == EVENTS) abort();
    world.events[world.n++] = (struct event){world.now_us + us, ++world.number, fn, arg};
}

uint64_t world_draw(uint64_t n) {
    world.random = world.random * 6364136223846793005U + 1442695040888963407U;
    return (world.random >> 33) % n;
}

int64_t world_between(int64_t least, int64_t most) {
    return least + (int64_t)world_draw((uint64_t)(most - least) + 1);
}

bool world_chance(unsigned permille) {
    return world_draw(1000) < permille;
}

uint64_t world_process(void) {
    return world.process;
}

bool world_is_alive(uint64_t process) {
    (void)process;
    return true;
}

bool world_is_frozen(uint64_t process) {
    (void)process;
    return false;
}

void world_wake(int wake_fd) {
    (void)wake_fd;
}

bool world_breaks(const char *rule) {
    (void)rule;
    return false;
}

void world_say(const char *format, ...) {
    (void)format;
}

void world_fail(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
}

static struct event *soonest(void) {
    struct event *first = NULL;
    for (size_t i = 0; i < world.n; i++) {
        struct event *e = &world.events[i];
        if (!first || e->at_us < first->at_us ||
            (e->at_us == first->at_us && e->number < first->number))
            first = e;
    }
    return first;
}

void world_block(int64_t us) {
    int64_t until_us = world.now_us + us;
    uint64_t process = world.process;
    for (struct event *e; (e = soonest()) && e->at_us <= until_us;) {
        struct event event = *e;
        *e = world.events[--world.n];
        world.now_us = event.at_us;
        world.process = 0;
        event.fn(event.arg);
    }
    world.now_us = until_us;
    world.process = process;
}

/* ---- the stage ---- */

void stage_open(void) {
    static const struct broker_faults calm = {
        .latency_us = 5 * WORLD_MS, .session_us = 6 * WORLD_S, .txn_timeout_us = 60 * WORLD_S};
    memset(&world, 0, sizeof world);
    broker_open(&calm);
}

void stage_close(void) {
    broker_close();
}

void stage_enter(int worker) {
    world.process = (uint64_t)worker;
}

void stage_wait(int64_t ms) {
    world_block(ms * WORLD_MS);
}

int64_t stage_ms(void) {
    return world.now_us / WORLD_MS;
}

struct config *stage_config(const char *slot) {
    struct config *cfg = config_new();
    if (!config_set(cfg, "group", "g", "story", NULL) ||
        (slot[0] && !config_set(cfg, "slot", slot, "story", NULL)))
        abort();
    return cfg;
}

const char *stage_topic(const char *name, int32_t partitions) {
    broker_make_topic(name, partitions);
    return name;
}

void stage_produce(const char *topic, int32_t partition, const char *value) {
    broker_produce(topic, partition, str_c(NULL), str_c(value), NULL, 0, 0);
}

void stage_begin(const char *topic, int32_t partition) {
    transaction = broker_begin(topic, partition);
}

void stage_produce_in(const char *topic, int32_t partition, const char *value) {
    (void)topic;
    (void)partition;
    broker_produce_in(transaction, str_c(NULL), str_c(value), NULL, 0);
}

void stage_offset_in(const char *topic, int32_t partition, int64_t offset, const char *metadata) {
    writer_offset(writer_find(transaction), journal_find(topic, partition), offset, metadata,
                  false);
}

void stage_end(bool commit) {
    broker_end(transaction, commit);
}

void stage_remove(const char *topic, int32_t partition, int64_t before) {
    broker_remove(topic, partition, before);
}

void stage_commit(const char *topic, int32_t partition, int64_t offset, const char *metadata) {
    broker_commit(topic, partition, offset, metadata);
}
