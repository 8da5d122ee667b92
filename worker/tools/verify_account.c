#include "worker/tools/verify_account.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/event/jobrun.h"

struct accounts {
    const struct config *cfg;
    struct lookup *lookup;
    struct account *v[ACCOUNTS_MAX];
    size_t n;
    uint64_t clock;
};

struct accounts *accounts_new(const struct config *cfg, rd_kafka_t *rk) {
    struct accounts *a = xcalloc(1, sizeof *a);
    a->cfg = cfg;
    a->lookup = lookup_new(rk);
    return a;
}

static void forget(struct account *a) {
    s3_free_config(a->dest.config);
    free(a->dest.prefix);
    free(a);
}

void accounts_free(struct accounts *a) {
    if (!a) return;
    for (size_t i = 0; i < a->n; i++) forget(a->v[i]);
    lookup_free(a->lookup);
    free(a);
}

static struct account *account_new(const struct config *cfg, const cJSON *sink, struct buf *err) {
    struct account *a = xcalloc(1, sizeof *a);
    struct outcome why;
    if (s3_parse(cfg, sink, &a->dest, &why)) {
        a->s3 = a->dest.config;
        return a;
    }
    free(a);
    buf_printf(err, "%s: %s", why.why, why.detail);
    return NULL;
}

/* The sink object in the record that the object came from. */
static struct account *from_record(struct accounts *accounts, const struct origin *at,
                                   struct buf *err) {
    struct account *a = NULL;
    struct arena arena = {0};
    struct message record;
    struct jobrun run;
    struct outcome why;
    rd_kafka_message_t *m =
        lookup_record(accounts->lookup, at->topic, at->partition, at->offset, err);
    if (!m) {
        if (!err->n) buf_puts(err, "Kafka does not hold its record any more");
        return NULL;
    }
    reader_record(m, &arena, &record);
    if (jobrun_decode(&record, &arena, &run, &why) && run.sink.p) {
        cJSON *sink = cJSON_ParseWithLength(run.sink.p, run.sink.n);
        if (sink) a = account_new(accounts->cfg, sink, err);
        cJSON_Delete(sink);
    } else {
        buf_puts(err, "its record names no sink");
    }
    rd_kafka_message_destroy(m);
    arena_wipe(&arena);
    return a;
}

/* The verify.* keys, for a label "s3://bucket/prefix @ endpoint-host". */
static struct account *from_config(struct accounts *accounts, const char *label, struct buf *err) {
    const struct config *cfg = accounts->cfg;
    if (!cfg->verify_access_key_id[0] || strncmp(label, "s3://", 5) != 0) return NULL;
    char bucket[256];
    snprintf(bucket, sizeof bucket, "%.*s", (int)strcspn(label + 5, "/ "), label + 5);
    cJSON *sink = cJSON_CreateObject();
    cJSON_AddStringToObject(sink, "bucket", bucket);
    cJSON_AddStringToObject(sink, "region", cfg->verify_region);
    cJSON_AddStringToObject(sink, "accessKeyId", cfg->verify_access_key_id);
    cJSON_AddStringToObject(sink, "secretAccessKey", cfg->verify_secret_access_key);
    if (cfg->verify_endpoint[0]) {
        cJSON_AddStringToObject(sink, "endpoint", cfg->verify_endpoint);
        cJSON_AddBoolToObject(sink, "forcePathStyle", true);
    }
    buf_clear(err);
    struct account *a = account_new(cfg, sink, err);
    cJSON_Delete(sink);
    return a;
}

static struct account *find(struct accounts *accounts, const char *label) {
    for (size_t i = 0; i < accounts->n; i++)
        if (strcmp(accounts->v[i]->label, label) == 0) return accounts->v[i];
    return NULL;
}

/* Takes the place of the one with that label, of the longest unused, or a place of its own. */
static void keep(struct accounts *accounts, struct account *fresh) {
    size_t at = accounts->n;
    for (size_t i = 0; i < accounts->n; i++)
        if (!accounts->v[i]->users && strcmp(accounts->v[i]->label, fresh->label) == 0) at = i;
    if (at == ACCOUNTS_MAX) {
        for (size_t i = 0; i < accounts->n; i++)
            if (!accounts->v[i]->users &&
                (at == ACCOUNTS_MAX || accounts->v[i]->used < accounts->v[at]->used))
                at = i;
    }
    assert(at < ACCOUNTS_MAX); /* far fewer are in use at once */
    if (at < accounts->n)
        forget(accounts->v[at]);
    else
        accounts->n++;
    accounts->v[at] = fresh;
}

struct account *accounts_get(struct accounts *accounts, const char *label,
                             const struct origin *record, bool fresh, struct buf *err) {
    struct account *a = fresh ? NULL : find(accounts, label);
    if (a) {
        a->own = false;
    } else {
        a = from_record(accounts, record, err);
        bool own = a != NULL;
        if (!a) a = from_config(accounts, label, err);
        if (!a) return NULL;
        a->own = own;
        snprintf(a->label, sizeof a->label, "%s", label);
        keep(accounts, a);
    }
    a->used = ++accounts->clock;
    a->users++;
    return a;
}

void accounts_release(struct account *a) {
    if (a) a->users--;
}
