#include "tests/sim/events.h"

#include <inttypes.h>
#include <openssl/sha.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/broker.h"
#include "tests/sim/fleet.h"
#include "tests/sim/judge.h"
#include "tests/sim/plan.h"
#include "tests/sim/store.h"
#include "tests/sim/world.h"
#include "worker/base/buf.h"

#define TEXT_MAX ((size_t)1 << 20)
#define CUTS 4 /* by retention */
#define MARK "\"id\":\"ev-"

/* An outside transaction that is open. */
struct outside {
    uint64_t number;
    int topic;
    int32_t partition;
    struct event *events[16];
    size_t n;
    bool open;
};

static struct event events[EVENTS_MAX];
static int n_events, produced;
static const char *const topics[TOPICS_MAX] = {"runs", "more.runs"};
static struct destination_plan destinations[DESTINATIONS_MAX];
static int n_destinations;
static int64_t removed[TOPICS_MAX][PARTITIONS_MAX];
static struct cut {
    int topic;
    int32_t partition;
    int64_t before;
} cuts[CUTS];
static int n_cuts;
/* Events by offset, and how many offsets there are. */
static struct event **by_offset[TOPICS_MAX][PARTITIONS_MAX][ERAS];
static int64_t n_offsets[TOPICS_MAX][PARTITIONS_MAX][ERAS];
static int eras[TOPICS_MAX];
static int64_t away_us; /* the first topic is, until then */
static struct outside *outsides[EVENTS_MAX];
static int n_outsides, n_open;

int events_topics(void) {
    return (int)plan.topics;
}

const char *events_topic(int i) {
    return topics[i];
}

int events_count(void) {
    return n_events;
}

struct event *events_get(int i) {
    return &events[i];
}

int events_destinations(void) {
    return n_destinations;
}

const struct destination_plan *events_destination(int i) {
    return &destinations[i];
}

int64_t events_removed(int topic, int32_t partition) {
    return removed[topic][partition];
}

bool events_cut(int topic, int32_t partition, int64_t first, int64_t next) {
    for (int i = 0; i < n_cuts; i++)
        if (cuts[i].topic == topic && cuts[i].partition == partition && cuts[i].before > first &&
            cuts[i].before < next)
            return true;
    return false;
}

struct event *events_in(struct str text) {
    const char *at = text.n ? memmem(text.p, text.n, MARK, strlen(MARK)) : NULL;
    int number = 0;
    if (!at || at + strlen(MARK) + 6 > text.p + text.n) return NULL;
    for (const char *c = at + strlen(MARK); *c >= '0' && *c <= '9'; c++)
        number = number * 10 + (*c - '0');
    return number < n_events ? &events[number] : NULL;
}

int events_era(int topic) {
    return eras[topic];
}

bool events_made_anew(const char *topic) {
    return eras[0] && strcmp(topic, topics[0]) == 0;
}

struct event *events_at(int topic, int32_t partition, int era, int64_t offset) {
    bool known = offset >= 0 && offset < n_offsets[topic][partition][era];
    return known ? by_offset[topic][partition][era][offset] : NULL;
}

/* ---- destinations ---- */

static void random_word(char *ret, size_t n) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    for (size_t i = 0; i < n; i++) ret[i] = letters[world_draw(sizeof letters - 1)];
    ret[n] = '\0';
}

static void add(char *to, size_t size, const char *text) {
    size_t n = strlen(to), more = strlen(text) + 1;
    if (n + more > size) abort();
    memcpy(to + n, text, more);
}

/* Into the sink object as it is, and as it is without its secrets. */
static void both(struct destination_plan *d, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void both(struct destination_plan *d, const char *format, ...) {
    char part[300];
    va_list ap;
    va_start(ap, format);
    vsnprintf(part, sizeof part, format, ap);
    va_end(ap);
    add(d->sink, sizeof d->sink, part);
    add(d->redacted, sizeof d->redacted, part);
}

static void put_secret(struct destination_plan *d, const char *secret) {
    add(d->sink, sizeof d->sink, secret);
    add(d->redacted, sizeof d->redacted, "[REDACTED]");
}

static void name_rules(struct destination_plan *d) {
    d->skip_on_fail = world_chance(300);
    if (d->skip_on_fail) both(d, ",\"skipOnFail\":true");
    d->picky = world_chance(150);
    if (d->picky) {
        both(d, ",\"apisToSend\":[\"");
        put_secret(d, "api-1"); /* as any string of a sink */
        both(d, "\"]");
    }
    both(d, "}");
}

static void sicken(struct place *p) {
    static const enum sickness quick[] = {REFUSES, BROKEN, BROKEN, THROTTLES, FORBIDS, MISSING};
    p->sickness = plan.exact ? quick[world_draw(sizeof quick / sizeof *quick)]
                             : (enum sickness)world_between(REFUSES, FLAKY);
    p->from_us = world_between(0, plan.seconds * WORLD_S / 2);
    p->to_us = p->from_us + world_between(WORLD_S, plan.seconds * WORLD_S);
    world_say("%s %s from %" PRId64 " s to %" PRId64 " s", p->url, sickness_name(p->sickness),
              p->from_us / WORLD_S, p->to_us / WORLD_S);
}

/* Some share a bucket with the one before: under another prefix, or with other credentials only. */
static void add_bucket(int i) {
    struct destination_plan *d = &destinations[n_destinations], *before = d - 1;
    char id[21], url[128], bucket[32];
    bool shares = i > 0 && world_chance(250), endpoint = world_chance(300);
    *d = (struct destination_plan){.hook = false};
    snprintf(bucket, sizeof bucket, "tenant-%d", i);
    if (endpoint)
        snprintf(url, sizeof url, "https://store-%d.example.net/%s/", i, bucket);
    else
        snprintf(url, sizeof url, "https://%s.s3.eu-west-1.amazonaws.com/", bucket);
    if (world_chance(600)) snprintf(d->prefix, sizeof d->prefix, "p%d/", i);
    snprintf(d->workspace, sizeof d->workspace, "ws-%d", i);
    random_word(id, 20);
    random_word(d->secret, 40);
    if (shares) {
        const char *given = strstr(before->sink, "\"bucket\":\"");
        d->place = before->place;
        endpoint = strstr(before->sink, "endpoint") != NULL;
        sscanf(given, "\"bucket\":\"%31[^\"]", bucket);
        if (world_chance(400)) memcpy(d->prefix, before->prefix, sizeof d->prefix);
        if (endpoint) sscanf(store_place(d->place)->url, "https://store-%d", &i);
    } else {
        d->place = store_add(url, false, world_chance(400));
    }
    both(d, "{\"type\":\"s3\",\"bucket\":\"%s\",\"region\":\"eu-west-1\",\"accessKeyId\":\"",
         bucket);
    put_secret(d, id);
    both(d, "\",\"secretAccessKey\":\"");
    put_secret(d, d->secret);
    both(d, "\"");
    if (d->prefix[0]) both(d, ",\"prefix\":\"%s\"", d->prefix);
    if (endpoint)
        both(d, ",\"endpoint\":\"https://store-%d.example.net\",\"forcePathStyle\":true", i);
    name_rules(d);
    n_destinations++;
}

static void add_hook(int i) {
    struct destination_plan *d = &destinations[n_destinations++];
    char url[128], token[25];
    *d = (struct destination_plan){.hook = true};
    snprintf(url, sizeof url, "https://hooks-%d.example.org/in/%d", i / 2, i);
    snprintf(d->workspace, sizeof d->workspace, "wh-%d", i);
    d->place = store_add(url, true, world_chance(400));
    random_word(token, 24);
    random_word(d->secret, 40);
    both(d, "{\"type\":\"webhook\",\"url\":\"%s", url);
    if (world_chance(500)) {
        both(d, "?token=");
        put_secret(d, token);
    }
    both(d, "\",\"headers\":{\"Authorization\":\"");
    if (i % 3 == 1) { /* errors quote the bare secret */
        char wrapped[64];
        snprintf(wrapped, sizeof wrapped, "Token token=%s, v=1", d->secret);
        put_secret(d, wrapped);
    } else {
        put_secret(d, d->secret);
    }
    both(d, "\"}");
    if (i % 3 == 2) { /* no member of ours, and no string */
        add(d->sink, sizeof d->sink, ",\"pin\":20241231");
        add(d->redacted, sizeof d->redacted, ",\"pin\":\"[REDACTED]\"");
    }
    name_rules(d);
}

/* The operator's, for anchors. */
static void add_proof(void) {
    struct place *p =
        store_place(store_add("https://anchors.example.net/proof/", false, world_chance(500)));
    p->proof = true;
    if (!p->steady && world_chance(300)) sicken(p);
}

static void add_destinations(void) {
    for (int i = 0; i < plan.buckets && n_destinations < DESTINATIONS_MAX; i++) add_bucket(i);
    for (int i = 0; i < plan.hooks && n_destinations < DESTINATIONS_MAX; i++) add_hook(i);
    for (int64_t i = 0; i < plan.sick; i++) {
        struct place *p = store_place((int)world_draw((uint64_t)store_count()));
        if (!p->steady) sicken(p);
    }
    if (plan.anchors) add_proof();
    if (!plan.hot) return;
    struct place *p = store_place(destinations[0].place);
    p->steady = false;
    sicken(p);
    if (world_chance(750)) p->sickness = world_chance(500) ? SILENT : SLOW;
    p->from_us = 0;
    p->to_us = plan.seconds * WORLD_S;
}

/* ---- an event's bytes ---- */

struct text {
    struct buf value, expected;
};

static void put(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(struct text *t, const char *format, ...) {
    char part[1400];
    va_list ap;
    va_start(ap, format);
    vsnprintf(part, sizeof part, format, ap);
    va_end(ap);
    buf_puts(&t->value, part);
    buf_puts(&t->expected, part);
}

static void put_other(struct text *t, const char *value, const char *expected) {
    buf_puts(&t->value, value);
    buf_puts(&t->expected, expected);
}

static const char *draw_status(void) {
    static const char *const statuses[] = {"PENDING", "SUCCESS", "SUCCESS", "FAILURE", "CANCELED"};
    return statuses[world_draw(sizeof statuses / sizeof *statuses)];
}

/* What makes it unfit, or what kills. LONG_ID: its key would be longer than a store takes. */
enum flaw { FLAWLESS, CUT, NO_TYPE, NO_BUCKET, NO_ID, LONG_ID, TOMBSTONE, SINKLESS, KILLS, FLAWS };

/* Three times as long in a key, where each is encoded. */
static const char *long_word(void) {
    static char word[401];
    memset(word, '+', sizeof word - 1);
    return word;
}

static void put_error(struct text *t, const struct destination_plan *d, enum flaw flaw) {
    static const char *const kills[] = {"decode", "build", "sent"};
    if (d && d->hook)
        put_other(t, ",\"env\":[{\"value\":\"hunter2\",\"name\":\"DB_PASS\"},{\"name\":\"n\"}]",
                  ",\"env\":[{\"value\":\"[REDACTED]\",\"name\":\"DB_PASS\"},{\"name\":\"n\"}]");
    if (flaw == KILLS) {
        put(t, ",\"error\":{\"message\":\"hook:kill-%s\"}", kills[world_draw(3)]);
    } else if (d && world_chance(300)) {
        put(t, ",\"error\":{\"message\":\"no access with ");
        put_other(t, d->secret, "[REDACTED]");
        put(t, " from here\",\"code\":\"internal-server-error\"}");
    }
}

static void put_sink(struct text *t, const struct destination_plan *d, enum flaw flaw) {
    if (flaw == NO_TYPE)
        put(t, ",\"sink\":{\"type\":\"pigeon\",\"loft\":\"north\"}");
    else if (flaw == NO_BUCKET)
        put(t, ",\"sink\":{\"type\":\"s3\",\"region\":\"eu-west-1\"}");
    else if (flaw == SINKLESS || !d)
        put(t, "%s", world_chance(500) ? ",\"sink\":null" : "");
    else {
        put(t, ",\"sink\":");
        put_other(t, d->sink, d->redacted);
    }
}

#define HIDDEN "@" /* in a key, until its offset is known */

static void put_run(struct text *t, struct event *e, const struct destination_plan *d,
                    enum flaw flaw, const char *status) {
    bool snake = world_chance(300);
    char updated[40];
    snprintf(updated, sizeof updated, "2026-01-01T%02d:%02d:%02dZ", e->number / 3600 % 24,
             e->number / 60 % 60, e->number % 60);
    const char *workspace = d ? d->workspace : "ws-none";
    put(t, "{" MARK "%06d\"", e->number);
    put(t,
        snake ? ",\"start_time\":\"%s\",\"end_time\":null"
              : ",\"startTime\":\"%s\",\"endTime\":null",
        updated);
    if (flaw != NO_ID)
        put(t, snake ? ",\"workspace_id\":\"%s\"" : ",\"workspaceId\":\"%s\"", workspace);
    put(t, snake ? ",\"project_id\":\"p-1\",\"job_id\":\"" : ",\"projectId\":\"p-1\",\"jobId\":\"");
    if (e->hides)
        put_other(t, d->secret, "[REDACTED]");
    else
        put(t, "job_%d%s", e->number % 7, flaw == LONG_ID ? long_word() : "");
    put(t, "\"");
    put(t,
        snake ? ",\"created_at\":\"%s\",\"updated_at\":\"%s\""
              : ",\"createdAt\":\"%s\",\"updatedAt\":\"%s\"",
        updated, updated);
    put(t, ",\"type\":\"MANUAL\",\"status\":\"%s\",\"payloads\":9007199254740993", status);
    put(t, snake ? ",\"successful_runs\":1,\"failed_runs\":0"
                 : ",\"successfulRuns\":1,\"failedRuns\":0");
    put_error(t, d, flaw);
    if (e->api) put(t, ",\"apiInfo\":{\"name\":\"api-%d\"}", e->api);
    put(t, snake ? ",\"job_configuration_snapshot\":{\"configuration\":{}"
                 : ",\"jobConfigurationSnapshot\":{\"configuration\":{}");
    put_sink(t, d, flaw);
    put(t, "},\"x\": [1e400, \"%0*d\"]}", (int)world_between(1, 400), e->number);
    char job[16];
    snprintf(job, sizeof job, e->hides ? HIDDEN : "job_%d", e->number % 7);
    snprintf(e->key, sizeof e->key, "%s/p-1/%s/ev-%06d/2026-01-01T%02d%%3A%02d%%3A%02dZ-%s",
             workspace, job, e->number, e->number / 3600 % 24, e->number / 60 % 60, e->number % 60,
             status);
}

/* With compaction the last event of each partition is one that goes: what a window ends with. */
static bool is_last(int number) {
    return plan.compaction && number >= n_events - plan.topics * plan.partitions;
}

static enum flaw draw_flaw(int number) {
    /* Compaction takes what is skipped. */
    if (is_last(number) || (plan.compaction && world_chance(250)))
        return world_chance(500) ? TOMBSTONE : SINKLESS;
    return world_chance((unsigned)plan.unfit) ? (enum flaw)world_between(CUT, SINKLESS) : FLAWLESS;
}

static enum fate fate_of(const struct event *e, enum flaw flaw, const struct destination_plan *d,
                         const char *status) {
    if (flaw == KILLS) return FATE_POISON;
    if (flaw == TOMBSTONE || flaw == SINKLESS) return FATE_SKIPPED;
    if (flaw != FLAWLESS && flaw != LONG_ID) return FATE_DEAD;
    if (d->skip_on_fail && strcmp(status, "FAILURE") == 0) return FATE_SKIPPED;
    if (d->picky && e->api > 1) return FATE_SKIPPED;
    return flaw == LONG_ID && !plan.batch && !d->hook ? FATE_DEAD : FATE_DELIVERED;
}

static void make_last(struct event *e) {
    int64_t i = n_events - 1 - e->number;
    e->topic = (int)(i % plan.topics);
    e->partition = (int32_t)(i / plan.topics);
}

static void make_event(int number, enum flaw flaw) {
    struct event *e = &events[number];
    const char *status = flaw == KILLS ? "SUCCESS" : draw_status();
    struct text t;
    *e = (struct event){.number = number,
                        .topic = (int)world_draw((uint64_t)plan.topics),
                        .partition = (int32_t)world_draw((uint64_t)plan.partitions),
                        .destination = (int)world_draw((uint64_t)n_destinations),
                        .produced_us = -1,
                        .visible_us = INT64_MAX,
                        .arrived_us = -1};
    if (world_chance((unsigned)plan.hot)) e->destination = 0;
    if (is_last(number)) make_last(e);
    const struct destination_plan *d = &destinations[e->destination];
    if (flaw != KILLS && world_chance(200)) e->api = (int)world_between(1, 3);
    e->hides = flaw == FLAWLESS && world_chance(15);
    buf_init(&t.value, TEXT_MAX);
    buf_init(&t.expected, TEXT_MAX);
    bool wrapped = world_chance(100);
    if (wrapped) put(&t, "{\"jobRun\":");
    put_run(&t, e, d, flaw, status);
    if (wrapped) put(&t, ",\"results\":{\"size\":123}}");
    e->fate = fate_of(e, flaw, d, status);
    if (flaw == CUT) t.value.n -= 3;
    if (flaw != TOMBSTONE) e->value = (struct str){t.value.p, t.value.n};
    e->expected = (struct str){t.expected.p, t.expected.n};
}

/* ---- producing ---- */

/* A hash of where it is stands in the key for what is a secret. */
static void hide_job(struct event *e) {
    unsigned char digest[SHA256_DIGEST_LENGTH];
    char text[96], key[sizeof e->key];
    const char *at = strstr(e->key, HIDDEN);
    int n = snprintf(text, sizeof text, "%s/%d/%" PRId64 "/jobId", topics[e->topic],
                     (int)e->partition, e->offset);
    SHA256((const unsigned char *)text, (size_t)n, digest);
    snprintf(key, sizeof key, "%.*sredacted-%02x%02x%02x%02x%02x%02x%s", (int)(at - e->key), e->key,
             digest[0], digest[1], digest[2], digest[3], digest[4], digest[5], at + strlen(HIDDEN));
    memcpy(e->key, key, sizeof key);
}

static void note_offset(struct event *e) {
    e->era = eras[e->topic];
    struct event ***list = &by_offset[e->topic][e->partition][e->era];
    int64_t *n = &n_offsets[e->topic][e->partition][e->era];
    *list = xrealloc(*list, (size_t)(e->offset + 1) * sizeof **list);
    while (*n < e->offset) (*list)[(*n)++] = NULL;
    (*list)[(*n)++] = e;
    e->produced_us = world_us();
    if (e->hides) hide_job(e);
    snprintf(e->key + strlen(e->key), sizeof e->key - strlen(e->key), "-%d-%" PRId64 ".json",
             (int)e->partition, e->offset);
    produced++;
    world_say("event %d is at %s/%d/%" PRId64 ", for %d", e->number, topics[e->topic],
              (int)e->partition, e->offset, e->destination);
}

static size_t draw_headers(const struct event *e, struct header ret[2], char id[24]) {
    size_t n = 0;
    snprintf(id, 24, "ce-%d", e->number);
    if (world_chance(100)) ret[n++] = (struct header){STR("ce_id"), str_c(id)};
    if (world_chance(50))
        ret[n++] = (struct header){STR("runsink-attempts"), STR("7")}; /* forged */
    return n;
}

/* Another group read it, too, and parked it. */
static void park_foreign(void *arg) {
    struct event *e = arg;
    char origin[96], now[24];
    const char *topic = fleet_retry_topic(e->topic);
    if (!topic) return;
    snprintf(origin, sizeof origin, "%s/%d/%" PRId64, topics[e->topic], (int)e->partition,
             e->offset);
    snprintf(now, sizeof now, "%" PRId64, WORLD_EPOCH_MS + world_us() / WORLD_MS);
    const struct header headers[] = {
        {STR("runsink-origin"), str_c(origin)}, {STR("runsink-first-failure"), str_c(now)},
        {STR("runsink-due"), str_c(now)},       {STR("runsink-attempts"), STR("1")},
        {STR("runsink-why"), STR("http-500")},  {STR("runsink-group"), STR("others")}};
    broker_produce(topic, e->partition, (struct str){NULL, 0}, e->value, headers,
                   sizeof headers / sizeof *headers, 0);
}

static bool is_away(int topic) {
    return topic == 0 && world_us() < away_us;
}

static void produce(void *arg) {
    struct event *e = arg;
    if (is_away(e->topic)) {
        world_after(away_us - world_us(), produce, e);
        return;
    }
    struct header headers[2];
    char id[24];
    size_t n = draw_headers(e, headers, id);
    struct str key = world_chance(500) ? str_c(id) : (struct str){NULL, 0};
    e->offset = broker_produce(topics[e->topic], e->partition, key, e->value, headers, n, 0);
    e->visible_us = world_us();
    note_offset(e);
    if (world_chance((unsigned)plan.foreign))
        world_after(world_between(0, 20 * WORLD_S), park_foreign, e);
}

static void end_outside(struct outside *o, bool commit) {
    if (!o->open) return;
    o->open = false;
    n_open--;
    world_say("an outside transaction of %zu events ends: %s", o->n, commit ? "commit" : "abort");
    broker_end(o->number, commit);
    for (size_t i = 0; i < o->n; i++)
        if (commit) o->events[i]->visible_us = world_us();
}

static void end_later(void *arg) {
    end_outside(arg, world_chance(600));
}

static void produce_outside(void *arg) {
    struct outside *o = arg;
    if (is_away(o->topic)) {
        world_after(away_us - world_us(), produce_outside, o);
        return;
    }
    o->number = broker_begin(topics[o->topic], o->partition);
    for (size_t i = 0; i < o->n; i++) {
        struct event *e = o->events[i];
        e->offset = broker_produce_in(o->number, (struct str){NULL, 0}, e->value, NULL, 0);
        note_offset(e);
    }
    outsides[n_outsides++] = o;
    o->open = true;
    n_open++;
    bool long_open = world_chance(200);
    world_after(long_open ? world_between(WORLD_S, 40 * WORLD_S) : world_between(0, WORLD_S),
                end_later, o);
}

/* The event, and some that follow, come in one transaction. */
static int plan_outside(int first, int64_t at_us) {
    struct outside *o = xcalloc(1, sizeof *o);
    int n = (int)world_between(1, 8), i = first;
    o->topic = events[first].topic;
    o->partition = events[first].partition;
    for (; i < first + n && i < n_events && !is_last(i); i++) {
        events[i].topic = o->topic;
        events[i].partition = o->partition;
        o->events[o->n++] = &events[i];
    }
    world_after(at_us, produce_outside, o);
    return i;
}

static void plan_production(void) {
    int64_t last_us = plan.seconds * WORLD_S * 2 / 3;
    int64_t at_us = 0;
    unsigned soon = plan.hot ? 990 : 850;
    for (int i = 0; i < n_events;) {
        /* In bursts: most come soon after the one before. */
        at_us = world_chance(soon) ? at_us + world_between(0, (plan.hot ? 5 : 30) * WORLD_MS)
                                   : world_between(0, last_us);
        if (is_last(i))
            world_after(last_us + world_between(0, WORLD_S), produce, &events[i++]);
        else if (world_chance((unsigned)plan.outside))
            i = plan_outside(i, at_us);
        else
            world_after(at_us, produce, &events[i++]);
    }
}

/* ---- retention ---- */

static void remove_some(void *arg) {
    (void)arg;
    int topic = (int)world_draw((uint64_t)plan.topics);
    int32_t partition = (int32_t)world_draw((uint64_t)plan.partitions);
    int64_t low, high, *done = &removed[topic][partition];
    if (!broker_ends(topics[topic], partition, &low, &high) || high <= low) return;
    int64_t before = world_between(low, high);
    if (before <= *done) return;
    *done = before;
    cuts[n_cuts++] = (struct cut){topic, partition, before};
    world_say("retention removes %s/%d up to %" PRId64, topics[topic], (int)partition, before);
    broker_remove(topics[topic], partition, before);
}

/* ---- a topic that is made anew ---- */

#define MOMENT_US WORLD_MS
#define AWAY_US (1200 * WORLD_MS) /* until it takes records again */

/* Between the look for what was committed and the sending of offsets there is a moment in which
 * nobody can see it: that is known (worker/README.md), and left out here. */
static void make_anew(void *unused) {
    (void)unused;
    if (broker_is_between()) {
        world_after(MOMENT_US, make_anew, NULL);
        return;
    }
    world_say("%s is deleted and made anew", topics[0]);
    eras[0]++;
    away_us = world_us() + AWAY_US;
    judge_anew(topics[0]);
    broker_make_anew(topics[0]);
}

/* ---- compaction ---- */

static bool is_of_second_day(const struct event *e) {
    return e->produced_us >= (WORLD_MIDNIGHT_MS - WORLD_EPOCH_MS) * WORLD_MS;
}

/* Only of what is in no object: a batch that is made again has to have the same bytes. And a
 * window's first record tells its date: the one that is the first then is to have the same. */
static bool may_go(const struct event *e, const struct event *after) {
    if (!e || e->fate != FATE_SKIPPED || e->compacted || e->visible_us == INT64_MAX) return false;
    return is_of_second_day(e) || (after && !is_of_second_day(after));
}

/* The next that a consumer sees. */
static const struct event *seen_after(int topic, int32_t partition, int64_t at) {
    while (++at < n_offsets[topic][partition][0]) {
        const struct event *e = events_at(topic, partition, 0, at);
        if (e && !e->compacted && e->visible_us != INT64_MAX) return e;
    }
    return NULL;
}

static void compact(void *unused) {
    (void)unused;
    events_compact();
}

void events_compact(void) {
    for (int t = 0; plan.compaction && t < plan.topics; t++)
        for (int32_t p = 0; p < plan.partitions; p++)
            for (int64_t at = 0; at < n_offsets[t][p][0]; at++) {
                struct event *e = by_offset[t][p][0][at];
                if (!may_go(e, seen_after(t, p, at)) || !world_chance(500)) continue;
                e->compacted = true;
                broker_compact(topics[t], p, at);
                world_say("compaction removes event %d", e->number);
            }
}

/* ---- */

void events_begin(void) {
    add_destinations();
    for (int i = 0; i < plan.topics; i++) broker_make_topic(topics[i], (int32_t)plan.partitions);
    n_events = (int)plan.events;
    if (n_events > EVENTS_MAX) n_events = EVENTS_MAX;
    for (int i = 0; i < n_events; i++) make_event(i, draw_flaw(i));
    for (int64_t i = 0, at = 0; i < plan.poison; i++) { /* some of them in one window */
        bool close = i && world_chance(500);
        at = close ? at + world_between(1, 2 * plan.partitions) : world_between(0, n_events - 1);
        make_event((int)(at % n_events), KILLS);
    }
    plan_production();
    for (int i = 0; plan.retention && i < CUTS; i++)
        world_after(world_between(0, plan.seconds * WORLD_S), remove_some, NULL);
    if (plan.anew) world_after(world_between(0, plan.seconds * WORLD_S), make_anew, NULL);
    for (int i = 0; plan.compaction && i < 4; i++)
        world_after(world_between(0, plan.seconds * WORLD_S), compact, NULL);
}

bool events_over(void) {
    return produced == n_events && n_open == 0;
}

void events_calm(void) {
    for (int i = 0; i < n_outsides; i++) end_outside(outsides[i], world_chance(600));
}
