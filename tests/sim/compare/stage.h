/* Where the story is played: the model of Kafka (model.c) or a real broker (real.c). What a worker
 * does with Kafka goes through worker/kafka's headers on both. Here is what comes from outside, and
 * time. One thread. */
#ifndef RUNSINK_SIM_STAGE_H
#define RUNSINK_SIM_STAGE_H

#include <stdbool.h>
#include <stdint.h>

struct config;

/* A scene has a group and topics of its own. */
void stage_open(void);
void stage_close(void);
/* What is done from now on is this worker's, 1 or above; 0: the outside's. */
void stage_enter(int worker);
/* At most so long, real or virtual; shorter when wake_fds tell of something. */
void stage_wait(int64_t ms);
int64_t stage_ms(void);

/* slot: "": a dynamic member, else a static one. config_free() it. */
struct config *stage_config(const char *slot);
/* Makes it. Returns what it is called here; borrowed until stage_close(). */
const char *stage_topic(const char *name, int32_t partitions);
void stage_produce(const char *topic, int32_t partition, const char *value);
/* One transaction at a time; its records and an offset of the group's, and its end. */
void stage_begin(const char *topic, int32_t partition);
void stage_produce_in(const char *topic, int32_t partition, const char *value);
void stage_offset_in(const char *topic, int32_t partition, int64_t offset, const char *metadata);
void stage_end(bool commit);
/* Retention: what is before this offset is gone. */
void stage_remove(const char *topic, int32_t partition, int64_t before);
/* The group's offset, as another tool sets it while the group has no member. */
void stage_commit(const char *topic, int32_t partition, int64_t offset, const char *metadata);

#endif
