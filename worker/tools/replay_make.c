#include "worker/tools/replay_make.h"

#include <stdio.h>
#include <stdlib.h>

#include "worker/pipeline/body.h"
#include "worker/pipeline/delivery.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/object_key.h"
#include "worker/pipeline/record.h"

struct replay_maker {
    const struct config *cfg;
    const char *source;
    struct lane
        *lane; /* one that reads nothing: what decodes, routes and makes bodies is a lane's */
};

struct replay_maker *replay_maker_new(const struct config *cfg, const char *source) {
    struct replay_maker *m = xcalloc(1, sizeof *m);
    m->cfg = cfg;
    m->source = source;
    m->lane = xcalloc(1, sizeof *m->lane);
    m->lane->cfg = cfg;
    m->lane->router = router_new(cfg);
    return m;
}

void replay_maker_free(struct replay_maker *m) {
    if (!m) return;
    body_close(m->lane);
    router_free(m->lane->router);
    free(m->lane);
    free(m);
}

/* One item on its way. */
struct making {
    struct replay_maker *maker;
    struct arena arena;
    struct record **members;
    struct destination *dest; /* held; NULL: none yet */
    bool matches;
    bool alone; /* the key is that of an event's own object */
};

static bool event_matches(const struct replay_event *e, const struct jobrun *run) {
    return (!e->workspace || str_is(run->workspace_id, e->workspace)) &&
           (!e->job || str_is(run->job_id, e->job)) && (!e->id || str_is(run->id, e->id));
}

/* Whether it is bound for where the item went. */
static bool leads_there(struct making *k, const struct replay_item *item,
                        const struct jobrun *run) {
    struct destination *dest;
    struct outcome unused;
    if (route_again(k->maker->lane->router, run, 0, &dest, &unused) != ROUTE_DELIVER) return false;
    if (k->dest) return dest == k->dest;
    if (strcmp(dest->label, item->row->label) != 0 ||
        (dest->type->shape == SHAPE_OBJECT) != (item->key != NULL))
        return false;
    k->dest = dest;
    destination_hold(dest);
    return true;
}

static bool is_own_key(const struct making *k, const struct replay_item *item,
                       const struct jobrun *run, int64_t timestamp_ms) {
    struct origin origin = {.partition = item->partition, .offset = item->members[0].a};
    struct outcome unused;
    struct buf key;
    snprintf(origin.topic, sizeof origin.topic, "%s", k->maker->source);
    buf_init(&key, KEY_MAX * 2);
    bool same =
        object_key_event(k->maker->cfg, run, k->dest, &origin, timestamp_ms, &key, &unused) &&
        strcmp(buf_cstr(&key), item->key) == 0;
    buf_free(&key);
    return same;
}

static bool take(struct making *k, const struct replay_item *item, uint32_t nth,
                 const struct replay_event *event) {
    const rd_kafka_message_t *m = ((const struct replay_record *)item->got[nth])->m;
    struct router *router = k->maker->lane->router;
    struct known_sinks known = router_known(router);
    struct message message;
    struct jobrun run;
    struct outcome unused;
    reader_record(m, &k->arena, &message);
    if (!jobrun_decode_known(&message, &known, &k->arena, &run, &unused)) return false;
    k->matches = k->matches || event_matches(event, &run);
    if (!leads_there(k, item, &run)) return false;
    if (!k->maker->cfg->redact_payload) run.payload.verbatim = true;
    struct record *record = arena_alloc(&k->arena, sizeof *record);
    record->payload = run.payload;
    k->members[nth] = record;
    if (item->key && item->count == 1)
        k->alone = is_own_key(k, item, &run, rd_kafka_message_timestamp(m, NULL));
    return true;
}

static bool makes_the_same(struct making *k, const struct replay_item *item) {
    struct outcome unused;
    struct delivery one = {.members = k->members,
                           .n = item->count,
                           .batched = item->key && !k->alone,
                           .key = (char *)(uintptr_t)item->key,
                           .batch.dest = k->dest};
    bool same = body_make(k->maker->lane, &one, &unused) && one.batch.body_len == item->size &&
                memcmp(one.batch.body_sha256, item->sha256, SHA256_LEN) == 0;
    buf_wipe(&one.body);
    return same;
}

enum replay_state replay_make(struct replay_maker *maker, struct replay_item *item,
                              const struct replay_event *event) {
    struct making k = {.maker = maker};
    bool same = true;
    k.members = arena_alloc(&k.arena, item->count * sizeof *k.members);
    for (uint32_t i = 0; same && i < item->count; i++) same = take(&k, item, i, event);
    bool whole = same; /* all were read: it is known whether one matches */
    same = same && makes_the_same(&k, item);
    item->batched = item->key && !k.alone;
    if (k.dest) destination_drop(k.dest);
    arena_wipe(&k.arena);
    if (whole && !k.matches) return REPLAY_OTHER;
    return same ? REPLAY_OPEN : REPLAY_DIFFERS;
}
