/* What stands in the topics of parked and dead records (P1, P5). */
#include "tests/sim/judging.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/broker.h"
#include "tests/sim/plan.h"
#include "tests/sim/world.h"

static bool parse_place(struct str place, char ret_topic[64], int *ret_partition,
                        int64_t *ret_offset) {
    char text[128];
    snprintf(text, sizeof text, "%.*s", (int)place.n, place.p);
    return sscanf(text, "%63[^/]/%d/%" SCNd64, ret_topic, ret_partition, ret_offset) == 3;
}

/* Markers stand for bytes that no topic takes, where each topic is the first of its name. */
struct event *event_parked(const struct broker_record *r) {
    struct event *e = events_in(r->value);
    char topic[64];
    int partition;
    int64_t offset;
    if (e) return e;
    for (size_t i = 0; i < r->n_headers; i++)
        if (str_is(r->headers[i].name, "runsink-origin") &&
            parse_place(r->headers[i].value, topic, &partition, &offset))
            return event_of(topic, partition, 0, offset);
    world_fail("a parked record is no event: %.*s", (int)r->value.n, r->value.p);
    return NULL;
}

static bool parse_origin(const struct broker_record *r, struct event **ret) {
    for (size_t i = 0; i < r->n_headers; i++) {
        char topic[64];
        int partition;
        int64_t offset;
        if (!str_is(r->headers[i].name, "runsink-origin")) continue;
        if (!parse_place(r->headers[i].value, topic, &partition, &offset)) return false;
        *ret = event_parked(r);
        return (*ret)->partition == partition && (*ret)->offset == offset &&
               strcmp(events_topic((*ret)->topic), topic) == 0;
    }
    return false;
}

static void header_text(const struct broker_record *r, const char *name, char *ret, size_t size) {
    *ret = '\0';
    for (size_t i = 0; i < r->n_headers; i++)
        if (str_is(r->headers[i].name, name))
            snprintf(ret, size, "%.*s", (int)r->headers[i].value.n, r->headers[i].value.p);
}

static int64_t header_number(const struct broker_record *r, const char *name) {
    char text[24];
    header_text(r, name, text, sizeof text);
    return strtoll(text, NULL, 10);
}

/* The delay that a retry topic is named after. */
static int64_t delay_of(const char *topic) {
    char *unit;
    int64_t n = strtoll(strrchr(topic, '.') + 1, &unit, 10);
    return strcmp(unit, "ms") == 0 ? n : n * 1000;
}

/* P5. Where clocks are right and nothing dies, a parked record is tried when it is due: no sooner,
 * and not much later. (It is settled with its window, which may hold others for slow places.) */
#define PROMPT_MS 45000
static void judge_due(const char *topic, const struct broker_record *r, int64_t settled_ms,
                      const struct event *e) {
    int64_t due_ms = header_number(r, "runsink-due");
    int64_t calm_ms = WORLD_EPOCH_MS + plan.seconds * 1000;
    if (!plan.peace) return;
    if (settled_ms < due_ms - ROUNDING_US / WORLD_MS)
        world_fail("P5: event %d was due at %" PRId64 ", and was settled %" PRId64
                   " ms before that",
                   e->number, due_ms, due_ms - settled_ms);
    if (due_ms - r->time_ms > delay_of(topic))
        world_fail("P5: event %d is due in %" PRId64 " ms, and parked in %s", e->number,
                   due_ms - r->time_ms, topic);
    if (due_ms < r->time_ms) due_ms = r->time_ms;
    int64_t late_ms = due_ms + PROMPT_MS + plan.timeout_ms + (plan.hot ? PROMPT_MS : 0);
    if (late_ms < calm_ms && settled_ms > late_ms)
        world_fail("P5: event %d was due at %" PRId64 ", and was settled %" PRId64 " ms after that",
                   e->number, due_ms, settled_ms - due_ms);
}

/* A parked record is the event's own bytes, and has its outcome. */
void judge_parked(const char *topic, int32_t partition, const struct broker_record *r) {
    struct event *e;
    char group[16];
    header_text(r, "runsink-group", group, sizeof group);
    if (strcmp(group, "runsink") != 0) return; /* another group's */
    const struct chain *c = chain_of(topic, partition);
    if (!parse_origin(r, &e))
        world_fail("%s/%d/%" PRId64 " has no origin", topic, (int)partition, r->offset);
    if (!str_eq(r->value, e->value)) world_fail("event %d is parked with other bytes", e->number);
    if (e->fate == FATE_DEAD || e->fate == FATE_SKIPPED)
        world_fail("P5: event %d is parked, which nobody can deliver", e->number);
    bool told = r->offset < c->n_settled && c->settled[r->offset];
    /* What a worker still had of a topic that is gone, nobody can wait for. */
    if (!told && e->era < events_era(e->topic)) {
        e->parked--;
        return;
    }
    if (!told)
        world_fail("P1: %s/%d/%" PRId64 ", of event %d, has no outcome", topic, (int)partition,
                   r->offset, e->number);
    judge_due(topic, r, c->settled[r->offset], e);
    e->parked--; /* as many as the ledger says */
}

/* A topic that does not take so much: of a batch it may have refused another member. */
bool may_be_refused(const struct event *e) {
    return plan.largest && (plan.batch || (int64_t)e->value.n > plan.largest);
}

/* What stands for bytes that no topic takes: where they are, how many, and their hash. */
static void judge_marker(const struct event *e, const struct broker_record *r) {
    char expected[512], hash[HASH_HEX + 1];
    hex_of(e->value, hash);
    snprintf(expected, sizeof expected,
             "{\"runsink\":\"marker\",\"topic\":\"%s\",\"partition\":%d,\"offset\":%" PRId64
             ",\"bytes\":%zu,\"sha256\":\"%s\"}",
             events_topic(e->topic), (int)e->partition, e->offset, e->value.n, hash);
    if (!may_be_refused(e) || !str_eq(r->value, str_c(expected)))
        world_fail("event %d is dead with other bytes: %.*s", e->number, (int)r->value.n,
                   r->value.p);
}

void judge_letter(const char *topic, int32_t partition, const struct broker_record *r) {
    struct event *e;
    if (!parse_origin(r, &e))
        world_fail("%s/%d/%" PRId64 " has no origin", topic, (int)partition, r->offset);
    if (!str_eq(r->value, e->value)) judge_marker(e, r);
    char fault[sizeof e->fault], why[sizeof e->why];
    header_text(r, "runsink-fault", fault, sizeof fault);
    header_text(r, "runsink-reason", why, sizeof why);
    if (strcmp(fault, e->fault) != 0 || strcmp(why, e->why) != 0)
        world_fail("P9: event %d is dead of %s (%s), says its letter; the ledger says of %s (%s)",
                   e->number, why, fault, e->why, e->fault);
    if (strcmp(strrchr(topic, '.') + 1, fault) != 0)
        world_fail("P4: event %d is dead of fault %s, and its letter in %s", e->number, fault,
                   topic);
    if (is_exact(e) && e->fate == FATE_DELIVERED &&
        header_number(r, "runsink-attempts") != e->failures)
        world_fail("P5: event %d is dead after %" PRId64 " attempts, says its letter: it had %u",
                   e->number, header_number(r, "runsink-attempts"), e->failures);
    e->letters++;
}
