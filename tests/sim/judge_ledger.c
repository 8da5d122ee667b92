/* The ledger: its chains, and one outcome for each record (P1, P3, P9). A reader of its form that
 * shares nothing with the worker's. */
#include "tests/sim/judging.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/broker.h"
#include "tests/sim/fleet.h"
#include "tests/sim/judge.h"
#include "tests/sim/plan.h"
#include "tests/sim/store.h"
#include "tests/sim/world.h"

int source_index(const char *topic, size_t n) {
    for (int i = 0; i < events_topics(); i++)
        if (strlen(events_topic(i)) == n && strncmp(events_topic(i), topic, n) == 0) return i;
    return -1;
}

/* An entry under judgement. */
struct entry {
    struct chain *chain;
    int64_t first, next;
    uint64_t seq;
    int64_t settled_ms;
    bool retry;
    const cJSON *json;
};

static const char *text_of(const cJSON *object, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsString(item) ? item->valuestring : "";
}

static int64_t number_of(const cJSON *object, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    if (!cJSON_IsNumber(item)) world_fail("P9: an entry lacks %s", name);
    return (int64_t)item->valuedouble;
}

/* Of the bytes before the member `hash`. */
static void hash_entry(struct str value, char ret[HASH_HEX + 1]) {
    static const char mark[] = ",\"hash\":\"";
    const char *at = NULL;
    for (const char *p = value.p; (p = memmem(p, (size_t)(value.p + value.n - p), mark, 9)); p++)
        at = p;
    if (!at) world_fail("P9: an entry has no hash");
    hex_of((struct str){value.p, (size_t)(at - value.p)}, ret);
}

/* Spread out: the offsets of a list of ranges. */
struct numbers {
    int64_t *v;
    size_t n;
};

static void spread(const cJSON *ranges, struct numbers *ret) {
    const cJSON *range;
    cJSON_ArrayForEach(range, ranges) {
        bool one = cJSON_IsNumber(range);
        int64_t a = (int64_t)(one ? range : cJSON_GetArrayItem(range, 0))->valuedouble;
        int64_t z = (int64_t)(one ? range : cJSON_GetArrayItem(range, 1))->valuedouble;
        for (; a <= z; a++) {
            GROW(ret->v, ret->n);
            ret->v[ret->n++] = a;
        }
    }
}

/* The entry's chain names an offset, once. */
static void name(const struct entry *en, int64_t offset) {
    struct chain *c = en->chain;
    if (offset < en->first || offset >= en->next)
        world_fail("P9: entry %" PRIu64 " of %s/%d names %" PRId64 ", which is not of its window",
                   en->seq, c->topic, (int)c->partition, offset);
    if (offset >= c->n_settled) {
        int64_t n = 2 * offset + 64;
        c->settled = xrealloc(c->settled, (size_t)n * sizeof *c->settled);
        memset(c->settled + c->n_settled, 0, (size_t)(n - c->n_settled) * sizeof *c->settled);
        c->n_settled = n;
    }
    if (c->settled[offset])
        world_fail("P1: %s/%d/%" PRId64 " has two outcomes", c->topic, (int)c->partition, offset);
    c->settled[offset] = en->settled_ms;
}

enum outcome_kind { DELIVERED, SKIPPED, PARKED, DEAD, LOST };

static void judge_item(const struct event *e, const cJSON *item) {
    const struct destination_plan *d = events_destination(e->destination);
    char hash[HASH_HEX + 1];
    const char *key = text_of(item, "key");
    if (d->hook) {
        hex_of(e->expected, hash);
    } else {
        const struct object *o = store_find(store_place(d->place), key);
        if (!o || o != e->object)
            world_fail("P1: event %d is delivered as %s, says the ledger; it is not there",
                       e->number, key);
        /* What was sent before a member was blamed may land after what was sent without it. */
        do hex_of((struct str){o->body, o->n}, hash);
        while (strcmp(hash, text_of(item, "sha256")) != 0 && (o = o->older));
    }
    if (strcmp(hash, text_of(item, "sha256")) != 0)
        world_fail("P9: event %d is in %s with another hash than the ledger's", e->number, key);
}

static void take_outcome(struct event *e, enum outcome_kind kind, const cJSON *item,
                         int64_t settled_ms) {
    switch (kind) {
    case DELIVERED:
        e->delivered++;
        e->delivered_ms = settled_ms;
        judge_item(e, item);
        break;
    case SKIPPED:
        e->skipped++;
        break;
    case PARKED:
        e->parked++;
        e->rounds++;
        break;
    case DEAD:
        e->dead++;
        snprintf(e->fault, sizeof e->fault, "%s", text_of(item, "fault"));
        snprintf(e->why, sizeof e->why, "%s", text_of(item, "why"));
        break;
    case LOST:
        e->lost++;
        break;
    }
}

struct event *event_of(const char *topic, int32_t partition, int era, int64_t offset) {
    int i = source_index(topic, strlen(topic));
    struct event *e = i >= 0 ? events_at(i, partition, era, offset) : NULL;
    if (!e)
        world_fail("P9: the ledger names %s/%d/%" PRId64 ", where there is no event", topic,
                   (int)partition, offset);
    return e;
}

/* The event that lies in a retry topic, of which the ledger says where it is from. */
static struct event *event_behind(const struct entry *en, int64_t at, const cJSON *origin,
                                  int64_t offset) {
    struct broker_record r;
    const struct chain *c = en->chain;
    if (!broker_read(c->topic, c->partition, at, &r) || r.offset != at)
        world_fail("P9: the ledger names %s/%d/%" PRId64 ", where there is no record", c->topic,
                   (int)c->partition, at);
    struct event *e = event_parked(&r);
    if (strcmp(events_topic(e->topic), cJSON_GetArrayItem(origin, 0)->valuestring) != 0 ||
        e->partition != cJSON_GetArrayItem(origin, 1)->valueint || e->offset != offset)
        world_fail("P9: the ledger does not say where event %d is from", e->number);
    return e;
}

/* Records of a retry topic: which ones they are is said by `origin`. */
static void take_origins(const struct entry *en, const cJSON *item, const struct numbers *of,
                         enum outcome_kind kind) {
    const cJSON *origin;
    size_t at = 0;
    cJSON_ArrayForEach(origin, cJSON_GetObjectItemCaseSensitive(item, "origin")) {
        struct numbers offsets = {0};
        spread(cJSON_GetArrayItem(origin, 2), &offsets);
        for (size_t i = 0; i < offsets.n && at + i < of->n; i++)
            take_outcome(event_behind(en, of->v[at + i], origin, offsets.v[i]), kind, item,
                         en->settled_ms);
        at += offsets.n;
        free(offsets.v);
    }
    if (at != of->n) world_fail("P9: %zu offsets have %zu origins", of->n, at);
}

/* Until this entry was written: how many readers went without giving the partition back, and in how
 * many of their hands one of these records was alone when they did. */
static int count_deaths(const struct entry *en, const struct numbers *of, int *ret_alone) {
    const struct chain *c = en->chain;
    int deaths = 0;
    bool alone = false;
    *ret_alone = 0;
    for (size_t i = 0; i < c->n_commits && c->commits[i].seq <= en->seq; i++) {
        const struct commit *k = &c->commits[i], *before = i ? k - 1 : NULL;
        if (before && before->reader && k->reader && before->reader != k->reader) {
            deaths++;
            *ret_alone += alone;
        }
        alone = false;
        for (size_t o = 0; o < of->n; o++)
            alone = alone || (k->n_alone == 1 && k->alone == of->v[o]);
    }
    return deaths;
}

/* The first two deaths say nothing of one record: of any others it was the cause. */
#define UNKNOWN_DEATHS 2
static void judge_poison(const struct entry *en, const struct numbers *of) {
    int alone, deaths = count_deaths(en, of, &alone);
    if (deaths >= plan.attempts && alone >= 1 && alone + UNKNOWN_DEATHS >= plan.attempts) return;
    world_fail("%s/%d/%" PRId64 " is dead of poison: of its readers %d died, and %d of them with "
               "nothing else in work; %" PRId64 " are asked for",
               en->chain->topic, (int)en->chain->partition, of->v[0], deaths, alone, plan.attempts);
}

static void take_item(const struct entry *en, const cJSON *item, enum outcome_kind kind) {
    struct numbers offsets = {0};
    spread(cJSON_GetObjectItemCaseSensitive(item, "offsets"), &offsets);
    if (kind == DEAD && strcmp(text_of(item, "why"), "poison") == 0) judge_poison(en, &offsets);
    for (size_t i = 0; i < offsets.n; i++) {
        name(en, offsets.v[i]);
        if (!en->retry)
            take_outcome(
                event_of(en->chain->topic, en->chain->partition, en->chain->era, offsets.v[i]),
                kind, item, en->settled_ms);
    }
    if (en->retry) take_origins(en, item, &offsets, kind);
    free(offsets.v);
}

static void take_list(const struct entry *en, const char *list_name, enum outcome_kind kind) {
    const cJSON *item, *list = cJSON_GetObjectItemCaseSensitive(en->json, list_name);
    cJSON_ArrayForEach(item, list) take_item(en, item, kind);
}

static void take_delivered(const struct entry *en) {
    const cJSON *to, *item;
    cJSON_ArrayForEach(to, cJSON_GetObjectItemCaseSensitive(en->json, "delivered")) {
        cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(to, "objects"))
            take_item(en, item, DELIVERED);
        cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(to, "requests"))
            take_item(en, item, DELIVERED);
    }
}

/* The range of a window that retention took: it may hold offsets that had no event. */
static void take_lost(const struct entry *en) {
    struct numbers offsets = {0};
    spread(cJSON_GetObjectItemCaseSensitive(en->json, "lost"), &offsets);
    int topic = source_index(en->chain->topic, strlen(en->chain->topic));
    for (size_t i = 0; i < offsets.n; i++) {
        name(en, offsets.v[i]);
        struct event *e =
            topic >= 0 ? events_at(topic, en->chain->partition, 0, offsets.v[i]) : NULL;
        if (topic < 0 || offsets.v[i] >= events_removed(topic, en->chain->partition))
            world_fail("P1: %s/%d/%" PRId64 " is lost, says the ledger; it was not",
                       en->chain->topic, (int)en->chain->partition, offsets.v[i]);
        if (e) take_outcome(e, LOST, NULL, en->settled_ms);
    }
    free(offsets.v);
}

/* The topic was made anew: where the old one was read to, and where this one begins. */
static void judge_beginning(const struct entry *en, const struct link *last) {
    struct chain *c = en->chain;
    int topic = source_index(c->topic, strlen(c->topic));
    if (topic < 0 || c->era == events_era(topic))
        world_fail("P9: %s/%d was not made anew, as entry %" PRIu64 " says", c->topic,
                   (int)c->partition, en->seq);
    if (!last || number_of(en->json, "anew") != last->next || en->first != en->next)
        world_fail("P9: entry %" PRIu64
                   " of %s/%d, which begins again, does not fit the one before",
                   en->seq, c->topic, (int)c->partition);
    c->era++;
    free(c->settled);
    c->settled = NULL;
    c->n_settled = 0;
}

static void judge_link(const struct entry *en, const char *prev) {
    static const char zeros[] = "0000000000000000000000000000000000000000000000000000000000000000";
    const struct chain *c = en->chain;
    const struct link *last = c->n_links ? &c->links[c->n_links - 1] : NULL;
    if (en->seq != c->n_links)
        world_fail("P3: the chain of %s/%d goes on with entry %" PRIu64 " after %zu", c->topic,
                   (int)c->partition, en->seq, c->n_links);
    if (strcmp(prev, last ? last->hash : zeros) != 0)
        world_fail("P3: entry %" PRIu64 " of %s/%d does not name the one before", en->seq, c->topic,
                   (int)c->partition);
    if (cJSON_HasObjectItem(en->json, "anew")) {
        judge_beginning(en, last);
        return;
    }
    if ((last && en->first != last->next) || en->next < en->first)
        world_fail("P3: entry %" PRIu64 " of %s/%d is [%" PRId64 ", %" PRId64 ") after %" PRId64,
                   en->seq, c->topic, (int)c->partition, en->first, en->next,
                   last ? last->next : -1);
}

/* The highest offset of its window that it names; -1: none. */
static int64_t highest(const struct entry *en) {
    int64_t at = en->next - 1;
    while (at >= en->first && (at >= en->chain->n_settled || !en->chain->settled[at])) at--;
    return at < en->first ? -1 : at;
}

/* Form 2 says where the entry comes from. What its newest record was is what Kafka holds there, or
 * the event that was produced there. */
static void judge_last(const struct entry *en, const cJSON *last) {
    int64_t offset = (int64_t)cJSON_GetArrayItem(last, 0)->valuedouble;
    int64_t time_ms = (int64_t)cJSON_GetArrayItem(last, 1)->valuedouble;
    const cJSON *bytes = cJSON_GetArrayItem(last, 2);
    struct broker_record r;
    if (offset < highest(en) || offset >= en->next)
        world_fail("P9: entry %" PRIu64 " of %s/%d calls %" PRId64 " its newest record", en->seq,
                   en->chain->topic, (int)en->chain->partition, offset);
    int topic = source_index(en->chain->topic, strlen(en->chain->topic));
    if (topic >= 0 && en->chain->era < events_era(topic)) return; /* it is gone */
    if (!broker_read(en->chain->topic, en->chain->partition, offset, &r) || r.offset != offset)
        return;
    if (!cJSON_IsNumber(bytes) || bytes->valuedouble != (double)r.value.n || r.time_ms != time_ms)
        world_fail("P9: entry %" PRIu64 " of %s/%d says of %" PRId64 " what it is not", en->seq,
                   en->chain->topic, (int)en->chain->partition, offset);
}

static void judge_form(const struct entry *en) {
    const cJSON *last = cJSON_GetObjectItemCaseSensitive(en->json, "last");
    bool lost = cJSON_HasObjectItem(en->json, "lost");
    if (number_of(en->json, "v") == 1) {
        if (!plan.forms || last) world_fail("P9: an entry is of form 1");
        return;
    }
    if (strcmp(text_of(en->json, "cluster"), "simulated") != 0 ||
        strlen(text_of(en->json, "rules")) != 16)
        world_fail("P9: entry %" PRIu64 " of %s/%d does not say where it comes from", en->seq,
                   en->chain->topic, (int)en->chain->partition);
    if (last)
        judge_last(en, last);
    else if (!lost && highest(en) >= 0)
        world_fail("P9: entry %" PRIu64 " of %s/%d does not say which its newest record is",
                   en->seq, en->chain->topic, (int)en->chain->partition);
}

static void take_entry(struct str value) {
    struct link link;
    cJSON *json = cJSON_ParseWithLength(value.p, value.n);
    if (!json) world_fail("P9: an entry is no JSON");
    const char *topic = text_of(json, "topic");
    struct entry en = {.chain = chain_of(topic, (int32_t)number_of(json, "partition")),
                       .first = number_of(json, "first"),
                       .next = number_of(json, "next"),
                       .seq = (uint64_t)number_of(json, "seq"),
                       .settled_ms = number_of(json, "settled"),
                       .retry = source_index(topic, strlen(topic)) < 0,
                       .json = json};
    judge_link(&en, text_of(json, "prev"));
    hash_entry(value, link.hash);
    if (strcmp(link.hash, text_of(json, "hash")) != 0) world_fail("P9: an entry's hash is wrong");
    if (plan.anchors && !text_of(json, "sig")[0])
        world_fail("P9: entry %" PRIu64 " of %s/%d is not signed", en.seq, en.chain->topic,
                   (int)en.chain->partition);
    link.next = en.next;
    if (!en.chain->n_links) en.chain->first = en.first;
    GROW(en.chain->links, en.chain->n_links);
    en.chain->links[en.chain->n_links++] = link;
    take_delivered(&en);
    take_list(&en, "skipped", SKIPPED);
    take_list(&en, "parked", PARKED);
    take_list(&en, "dead", DEAD);
    take_lost(&en);
    judge_form(&en);
    cJSON_Delete(json);
}

/* Where no entry says that the topic begins again, all are of one era: of the first, if it was
 * settled before the end of that. */
static void begin_chain(struct chain *c) {
    int topic = source_index(c->topic, strlen(c->topic));
    c->era = topic < 0 || c->begins_again || c->old ? 0 : events_era(topic);
}

void note_entry(const char *topic, int32_t partition, const struct broker_record *r) {
    cJSON *json = cJSON_ParseWithLength(r->value.p, r->value.n);
    (void)topic;
    (void)partition;
    if (!json) world_fail("P9: an entry is no JSON");
    struct chain *c = chain_of(text_of(json, "topic"), (int32_t)number_of(json, "partition"));
    c->begins_again = c->begins_again || cJSON_HasObjectItem(json, "anew");
    begin_chain(c);
    cJSON_Delete(json);
}

void judge_entry(const char *topic, int32_t partition, const struct broker_record *r) {
    (void)topic;
    (void)partition;
    take_entry(r->value);
}
