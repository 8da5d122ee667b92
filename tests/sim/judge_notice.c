/* What the platform is told in <topic>.outcomes: of each event its changes, once and in order. */
#include "tests/sim/judging.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/plan.h"
#include "tests/sim/world.h"

static const char *text_at(const cJSON *json, const char *name) {
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, name));
    return text ? text : "";
}

static int64_t number_at(const cJSON *json, const char *name) {
    return (int64_t)cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(json, name));
}

/* The event by its run; one that can't be decoded by its place, where two may have stood, in a
 * topic that was made anew. */
static struct event *event_told(const cJSON *data, bool dead) {
    const cJSON *at = cJSON_GetObjectItemCaseSensitive(data, "event");
    struct event *found = NULL;
    int number = -1;
    if (sscanf(text_at(data, "runId"), "ev-%d", &number) == 1 && number < events_count())
        return events_get(number);
    int topic = source_index(text_at(at, "topic"), strlen(text_at(at, "topic")));
    for (int era = 0; topic >= 0 && era < ERAS; era++) {
        struct event *e =
            events_at(topic, (int32_t)number_at(at, "partition"), era, number_at(at, "offset"));
        if (e && e->told <= TOLD_FAILING && (dead ? e->dead : e->skipped)) found = e;
    }
    return found;
}

/* No two are of one id. */
static char (*ids)[128];
static size_t n_ids;

static int by_text(const void *a, const void *b) {
    return strcmp(a, b);
}

void judge_ids(void) {
    if (n_ids) qsort(ids, n_ids, sizeof *ids, by_text);
    for (size_t i = 1; i < n_ids; i++)
        if (strcmp(ids[i - 1], ids[i]) == 0) world_fail("the platform is told of %s twice", ids[i]);
}

static enum told next_told(const struct event *e, const char *what) {
    bool all = plan.outcomes == 2;
    if (e->told == TOLD_NOTHING && strcmp(what, "failing") == 0) return TOLD_FAILING;
    if (e->told == TOLD_FAILING && strcmp(what, "recovered") == 0) return TOLD_DELIVERED;
    if (e->told == TOLD_NOTHING && all && strcmp(what, "delivered") == 0) return TOLD_DELIVERED;
    if (e->told == TOLD_FAILING || (e->told == TOLD_NOTHING && all))
        if (strcmp(what, "skipped") == 0) return TOLD_SKIPPED;
    if (e->told <= TOLD_FAILING && strcmp(what, "dead") == 0) return TOLD_DEAD;
    world_fail("event %d is told to be %s after %d", e->number, what, (int)e->told);
    return TOLD_NOTHING;
}

static void judge(const char *topic, int32_t partition, const struct broker_record *r) {
    cJSON *json = cJSON_ParseWithLength(r->value.p, r->value.n);
    const cJSON *data = cJSON_GetObjectItemCaseSensitive(json, "data");
    bool of_event = strstr(text_at(json, "type"), ".delivery.");
    struct event *e = event_told(data, ends_in(text_at(json, "type"), ".dead"));
    if (of_event == !e || !plan.outcomes)
        world_fail("%s/%d/%" PRId64 " is told of no event: %.*s", topic, (int)partition, r->offset,
                   (int)r->value.n, r->value.p);
    for (int i = 0; i < events_destinations(); i++)
        if (memmem(r->value.p, r->value.n, events_destination(i)->secret,
                   strlen(events_destination(i)->secret)))
            world_fail("P6: the platform is told a secret: %.*s", (int)r->value.n, r->value.p);
    GROW(ids, n_ids);
    snprintf(ids[n_ids++], sizeof *ids, "%s", text_at(json, "id"));
    if (e) e->told = next_told(e, strrchr(text_at(json, "type"), '.') + 1);
    cJSON_Delete(json);
}

void judge_notice(const char *topic, int32_t partition, const struct broker_record *r) {
    if (r->key.p) judge(topic, partition, r);
}

/* What dies undecoded, since it kills, has lost its workspace, and with it its place in the order.
 */
void judge_nameless(const char *topic, int32_t partition, const struct broker_record *r) {
    if (!r->key.p) judge(topic, partition, r);
}

/* In the end it was told what has become of each: with `changes` of those that failed. */
void judge_told(const struct event *e) {
    enum told want = e->delivered ? TOLD_DELIVERED : e->skipped ? TOLD_SKIPPED : TOLD_DEAD;
    if (!plan.outcomes) return;
    if (!e->delivered && !e->skipped && !e->dead) want = e->told == TOLD_FAILING ? TOLD_FAILING : 0;
    bool silent = want == TOLD_DELIVERED || want == TOLD_SKIPPED;
    if (e->told == want || (e->told == TOLD_NOTHING && silent && plan.outcomes == 1)) return;
    world_fail("event %d is %s, and %d is the last that was told of it", e->number,
               e->delivered ? "delivered"
               : e->skipped ? "skipped"
               : e->dead    ? "dead"
                            : "gone",
               (int)e->told);
}
