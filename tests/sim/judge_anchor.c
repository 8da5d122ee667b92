/* Anchors: each says of the ledger's chains what was committed when it was written, is signed, and
 * in the end the newest entry of each chain is anchored (P9). */
#include "tests/sim/judging.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <string.h>

#include "tests/sim/judge.h"
#include "tests/sim/plan.h"
#include "tests/sim/world.h"

static const char *text_of(const cJSON *object, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsString(item) ? item->valuestring : "";
}

static int64_t number_of(const cJSON *object, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    if (!cJSON_IsNumber(item)) world_fail("P9: an anchor lacks %s", name);
    return (int64_t)item->valuedouble;
}

static void judge_head(const cJSON *head, const char *key) {
    struct chain *c = chain_of(text_of(head, "topic"), (int32_t)number_of(head, "partition"));
    uint64_t entries = (uint64_t)number_of(head, "seq") + 1;
    bool committed = false;
    for (size_t i = 0; i < c->n_commits && !committed; i++)
        committed = c->commits[i].seq == entries &&
                    c->commits[i].offset == number_of(head, "next") &&
                    strcmp(c->commits[i].head, text_of(head, "hash")) == 0;
    if (!committed)
        world_fail("P9: %s anchors entry %" PRIu64 " of %s/%d, which was not committed so", key,
                   entries - 1, c->topic, (int)c->partition);
    if (c->anchored < entries) c->anchored = entries;
}

void judge_anchor(const char *key, struct str body) {
    cJSON *json = cJSON_ParseWithLength(body.p, body.n);
    const cJSON *head, *heads = cJSON_GetObjectItemCaseSensitive(json, "heads");
    if (!cJSON_GetArraySize(heads)) world_fail("P9: %s is no anchor", key);
    if (strlen(text_of(json, "sig")) != 88) world_fail("P9: %s is not signed", key);
    if (strncmp(key, "proof/runsink/", 14) != 0) world_fail("P9: an anchor is named %s", key);
    cJSON_ArrayForEach(head, heads) judge_head(head, key);
    cJSON_Delete(json);
}

/* Where processes go on, and are no runs with --until-end, the newest entry has its anchor within
 * anchor.interval. */
void judge_anchored(const struct chain *c) {
    if (plan.anchors && plan.end == 0 && !plan.cron && c->anchored < c->n_links)
        world_fail("P9: entry %zu of %s/%d is not anchored, only %" PRIu64 " are", c->n_links - 1,
                   c->topic, (int)c->partition, c->anchored);
}
