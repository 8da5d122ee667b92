#include "worker/pipeline/object_key.h"

#include <inttypes.h>
#include <stdio.h>

#include "config/config.h"
#include "worker/base/key.h"

static bool too_long(struct outcome *reterr) {
    *reterr = outcome_fail(VERDICT_PERMANENT, FAULT_DATA, "key-too-long",
                           "the object's key would pass %d bytes", KEY_MAX);
    return false;
}

/* Numbers as text that lives in the caller's frame. */
struct digits {
    char text[24];
};

static struct str number(struct digits *d, int64_t n) {
    char *p = d->text + sizeof d->text;
    uint64_t u = n < 0 ? 0 : (uint64_t)n;
    do *--p = (char)('0' + u % 10);
    while (u /= 10);
    return (struct str){p, (size_t)(d->text + sizeof d->text - p)};
}

struct str object_key_text(const struct jobrun *run, enum run_text which,
                           const struct origin *origin, struct hidden_text *room) {
    static const char *const names[] = {
        [RUN_ID] = "id",        [RUN_WORKSPACE_ID] = "workspaceId", [RUN_PROJECT_ID] = "projectId",
        [RUN_JOB_ID] = "jobId", [RUN_UPDATED_AT] = "updatedAt",     [RUN_STATUS] = "status",
    };
    const struct str texts[] = {
        [RUN_ID] = run->id,
        [RUN_WORKSPACE_ID] = run->workspace_id,
        [RUN_PROJECT_ID] = run->project_id,
        [RUN_JOB_ID] = run->job_id,
        [RUN_UPDATED_AT] = run->updated_at,
        [RUN_STATUS] = run->status,
    };
    if (!(run->hidden & 1u << which)) return texts[which];
    char text[TOPIC_MAX + 64];
    uint8_t digest[SHA256_LEN];
    int n = snprintf(text, sizeof text, "%s/%d/%" PRId64 "/%s", origin->topic,
                     (int)origin->partition, origin->offset, names[which]);
    struct sha256_ctx *h = sha256_begin();
    sha256_add(h, text, (size_t)n);
    sha256_end(h, digest);
    memcpy(room->text, "redacted-", 9);
    hex(digest, 6, room->text + 9);
    return str_c(room->text);
}

/* In the place of the run's texts that hold a secret. */
static void hide(const struct jobrun *run, const struct origin *origin, struct key_values *values,
                 struct hidden_text room[RUN_STATUS + 1]) {
    static const enum key_field fields[] = {
        [RUN_ID] = KEY_ID,
        [RUN_WORKSPACE_ID] = KEY_WORKSPACE_ID,
        [RUN_PROJECT_ID] = KEY_PROJECT_ID,
        [RUN_JOB_ID] = KEY_JOB_ID,
        [RUN_UPDATED_AT] = KEY_UPDATED_AT,
        [RUN_STATUS] = KEY_STATUS,
    };
    for (int i = RUN_ID; i <= RUN_STATUS; i++)
        values->v[fields[i]] = object_key_text(run, (enum run_text)i, origin, &room[i]);
}

bool object_key_event(const struct config *cfg, const struct jobrun *run,
                      const struct destination *dest, const struct origin *origin,
                      int64_t timestamp_ms, struct buf *out, struct outcome *reterr) {
    struct digits partition, offset;
    char date[11] = "";
    if (key_template_uses(cfg->object_key, KEY_DATE)) key_date(timestamp_ms, date);
    struct key_values values = {.v = {[KEY_PREFIX] = str_c(dest->prefix ? dest->prefix : ""),
                                      [KEY_TOPIC] = str_c(origin->topic),
                                      [KEY_PARTITION] = number(&partition, origin->partition),
                                      [KEY_OFFSET] = number(&offset, origin->offset),
                                      [KEY_ID] = run->id,
                                      [KEY_WORKSPACE_ID] = run->workspace_id,
                                      [KEY_PROJECT_ID] = run->project_id,
                                      [KEY_JOB_ID] = run->job_id,
                                      [KEY_UPDATED_AT] = run->updated_at,
                                      [KEY_STATUS] = run->status,
                                      [KEY_DATE] = str_c(date)}};
    struct hidden_text room[RUN_STATUS + 1];
    if (run->hidden) hide(run, origin, &values, room);
    return key_make(cfg->object_key, &values, KEY_MAX, out) || too_long(reterr);
}

/* A topic that was made anew has the same offsets once more, perhaps on the same day. */
static struct str place_in(const struct destination *dest, uint64_t era, char room[PLACE_LEN + 1]) {
    char text[PLACE_LEN + 32];
    uint8_t digest[SHA256_LEN];
    if (!era) return str_c(dest->place);
    int n = snprintf(text, sizeof text, "%s/%" PRIu64, dest->place, era);
    sha256(text, (size_t)n, digest);
    hex(digest, PLACE_LEN / 2, room);
    return str_c(room);
}

struct place_seen {
    uint64_t hash;
    unsigned n;
};

/* A bounded table, sized for the window. */
struct key_places {
    size_t cap;
    struct place_seen seen[];
};

struct key_places *key_places_new(size_t destinations) {
    size_t cap = 16;
    while (cap < destinations * 2) cap *= 2;
    struct key_places *p = xcalloc(1, sizeof *p + cap * sizeof *p->seen);
    p->cap = cap;
    return p;
}

void key_places_free(struct key_places *p) {
    free(p);
}

unsigned key_places_nth(struct key_places *p, const struct config *cfg,
                        const struct destination *dest) {
    const char *place = key_template_uses(cfg->batch_key, KEY_DESTINATION) ? dest->place : "";
    uint64_t h = keyed_hash(place, strlen(place)) | 1;
    size_t i = h & (p->cap - 1);
    while (p->seen[i].hash && p->seen[i].hash != h) i = (i + 1) & (p->cap - 1);
    p->seen[i].hash = h;
    return ++p->seen[i].n;
}

bool object_key_batch(const struct config *cfg, const struct destination *dest, const char *topic,
                      int32_t partition, uint64_t era, int64_t first, int64_t next,
                      int64_t timestamp_ms, unsigned nth, struct buf *out, struct outcome *reterr) {
    static const char *const suffixes[] = {[CONFIG_COMPRESSION_GZIP] = ".gz",
                                           [CONFIG_COMPRESSION_ZSTD] = ".zst",
                                           [CONFIG_COMPRESSION_NONE] = ""};
    struct digits part, from, to;
    char date[11], place[PLACE_LEN + 1];
    key_date(timestamp_ms, date);
    struct key_values values = {.v = {[KEY_PREFIX] = str_c(dest->prefix ? dest->prefix : ""),
                                      [KEY_DATE] = str_c(date),
                                      [KEY_TOPIC] = str_c(topic),
                                      [KEY_PARTITION] = number(&part, partition),
                                      [KEY_FIRST] = number(&from, first),
                                      [KEY_NEXT] = number(&to, next),
                                      [KEY_DESTINATION] = place_in(dest, era, place)}};
    if (!key_make(cfg->batch_key, &values, KEY_MAX, out)) return too_long(reterr);
    if (nth > 1) {
        const char *ending = ".ndjson";
        size_t n = strlen(ending);
        bool has = out->n > n && memcmp(out->p + out->n - n, ending, n) == 0;
        if (has) out->n -= n;
        buf_printf(out, ".%u%s", nth, has ? ending : "");
    }
    buf_puts(out, suffixes[cfg->batch_compression]);
    return out->n <= KEY_MAX || too_long(reterr);
}
