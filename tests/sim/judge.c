#include "tests/sim/judge.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <libdeflate.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zstd.h>

#include "tests/sim/broker.h"
#include "tests/sim/events.h"
#include "tests/sim/fleet.h"
#include "tests/sim/plan.h"
#include "tests/sim/store.h"
#include "tests/sim/world.h"
#include "worker/base/buf.h"

#define HASH_HEX (2 * SHA256_DIGEST_LENGTH)
#define CHAINS_MAX 512

/* An offset that was committed, and the chain's head that its metadata named. */
struct commit {
    int64_t offset;
    uint64_t seq;
    char head[HASH_HEX + 1];
    bool busy;              /* somebody has it, or had; or ends of windows are named */
    uint64_t reader;        /* who has it; 0: nobody */
    int64_t alone, n_alone; /* the records from there on are alone in work, so many; 0: none are */
};

/* The end of an entry. */
struct link {
    int64_t next;
    char hash[HASH_HEX + 1];
};

/* Of one partition: what was committed, the ledger's entries, and which offsets they name. */
struct chain {
    char topic[64];
    int32_t partition;
    struct commit *commits;
    size_t n_commits;
    int64_t *ends; /* that the metadata has named */
    size_t n_ends;
    struct link *links;
    size_t n_links;
    int64_t first;    /* of the first entry */
    int64_t *settled; /* by offset: when the entry was, that names it; 0: none does */
    int64_t n_settled;
};

/* Windows of which objects are there. */
struct span {
    int topic;
    int32_t partition;
    int64_t first, next;
};

static struct chain chains[CHAINS_MAX];
static size_t n_chains;
static struct span *spans;
static size_t n_spans;

#define GROW(list, n)                                                                              \
    do {                                                                                           \
        if (((n) & ((n)-1)) == 0) /* full at each power of two */                                  \
            (list) = xrealloc((list), ((n) ? 2 * (n) : 1) * sizeof *(list));                       \
    } while (0)

static struct chain *chain_of(const char *topic, int32_t partition) {
    for (size_t i = 0; i < n_chains; i++)
        if (chains[i].partition == partition && strcmp(chains[i].topic, topic) == 0)
            return &chains[i];
    if (n_chains == CHAINS_MAX) world_fail("the judge knows no more partitions");
    struct chain *c = &chains[n_chains++];
    snprintf(c->topic, sizeof c->topic, "%s", topic);
    c->partition = partition;
    return c;
}

static int source_index(const char *topic, size_t n) {
    for (int i = 0; i < events_topics(); i++)
        if (strlen(events_topic(i)) == n && strncmp(events_topic(i), topic, n) == 0) return i;
    return -1;
}

/* ---- what is committed ---- */

static bool has_end(const struct chain *c, int64_t end) {
    for (size_t i = 0; i < c->n_ends; i++)
        if (c->ends[i] == end) return true;
    return false;
}

/* The last word of the metadata, where it names ends: 17,5,8. */
static void take_ends(struct chain *c, const char *text) {
    int64_t end = 0;
    while (*text >= '0' && *text <= '9') {
        char *after;
        end += strtoll(text, &after, 10);
        if (*after == ':') return; /* a claim, which ends the metadata */
        if (!has_end(c, end)) {
            GROW(c->ends, c->n_ends);
            c->ends[c->n_ends++] = end;
        }
        text = after + (*after == ',');
    }
}

/* taken:reader, and what is alone in work: 2:0123456789abcdef:r17+1*2 */
static void take_claim(struct commit *k, const char *text) {
    unsigned taken;
    char kind;
    int n = sscanf(text, " %u:%16" SCNx64 ":%c%" SCNd64 "+%" SCNd64, &taken, &k->reader, &kind,
                   &k->alone, &k->n_alone);
    if (n != 2 && n != 5) world_fail("P3: a claim of no known form: %s", text);
}

static void take_commit(const char *topic, int32_t partition, int64_t offset, struct str metadata,
                        uint64_t process, bool owner) {
    struct chain *c = chain_of(topic, partition);
    struct commit now = {.offset = offset};
    char text[4200], form[8];
    int rest = 0;
    snprintf(text, sizeof text, "%.*s", (int)metadata.n, metadata.p);
    if (sscanf(text, "%7s %" SCNu64 " %64s%n", form, &now.seq, now.head, &rest) != 3)
        world_fail("%s/%d is committed with metadata of no known form: %s", topic, (int)partition,
                   text);
    world_say("commit of %s/%d by p%" PRIu64 ": %" PRId64 ", %" PRIu64 " %.8s%s", topic,
              (int)partition, process, offset, now.seq, now.head, text + rest);
    if (!owner)
        world_fail("P3: %s/%d is settled by p%" PRIu64 ", which does not own it", topic,
                   (int)partition, process);
    const struct commit *before = c->n_commits ? &c->commits[c->n_commits - 1] : NULL;
    if (before && offset < before->offset)
        world_fail("P3: the offset of %s/%d goes back from %" PRId64 " to %" PRId64, topic,
                   (int)partition, before->offset, offset);
    if (before && now.seq < before->seq)
        world_fail("P3: the chain of %s/%d goes back from %" PRIu64 " to %" PRIu64, topic,
                   (int)partition, before->seq, now.seq);
    GROW(c->commits, c->n_commits);
    c->commits[c->n_commits++] = now;
    const char *word = text + rest;
    if (strcmp(form, "rs2") == 0 && *word) {
        take_claim(&c->commits[c->n_commits - 1], word);
        word = strchr(word + 1, ' ');
    }
    c->commits[c->n_commits - 1].busy = text[rest];
    if (word && *word) take_ends(c, word + 1);
}

bool judge_may_expire(const char *topic, int32_t partition) {
    const struct chain *c = chain_of(topic, partition);
    return c->n_commits && !c->commits[c->n_commits - 1].busy;
}

/* ---- bodies ---- */

static bool ends_in(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

static struct str inflate(struct str body) {
    struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
    size_t size = 64 + 200 * body.n, n = 0;
    char *plain = xmalloc(size);
    if (libdeflate_gzip_decompress(d, body.p, body.n, plain, size, &n) != LIBDEFLATE_SUCCESS)
        world_fail("a body is no gzip");
    libdeflate_free_decompressor(d);
    return (struct str){plain, n};
}

/* What the body of this key is without compression; malloc's. */
static struct str unpack(const char *key, struct str body) {
    if (ends_in(key, ".gz")) return inflate(body);
    if (!ends_in(key, ".zst")) return (struct str){xstrndup(body.p, body.n), body.n};
    size_t size = 64 + 2000 * body.n;
    char *plain = xmalloc(size);
    size_t n = ZSTD_decompress(plain, size, body.p, body.n);
    if (ZSTD_isError(n)) world_fail("a body is no zstd");
    return (struct str){plain, n};
}

static bool is_batch(const char *key) {
    return strstr(key, ".ndjson") != NULL;
}

typedef void line_fn(struct event *, struct str line, void *context);

/* Each event of a body. */
static void each_line(const char *key, struct str text, line_fn *fn, void *context) {
    bool batch = is_batch(key);
    for (size_t at = 0; at < text.n;) {
        const char *end = batch ? memchr(text.p + at, '\n', text.n - at) : text.p + text.n;
        if (!end) world_fail("P7: %s does not end in a line's end", key);
        struct str line = {text.p + at, (size_t)(end - text.p) - at};
        struct event *e = events_in(line);
        if (!e) world_fail("P7: %s holds what is no event: %.*s", key, (int)line.n, line.p);
        fn(e, line, context);
        at += line.n + batch;
    }
}

/* What is at a place has to be one of its events as it is without secrets. */
static void judge_line(const struct event *e, struct str line, int place, const char *key) {
    const struct destination_plan *d = events_destination(e->destination);
    if (!str_eq(line, e->expected))
        world_fail("P7: event %d is delivered as %.*s, not as %.*s", e->number, (int)line.n, line.p,
                   (int)e->expected.n, e->expected.p);
    if (e->fate == FATE_SKIPPED || e->fate == FATE_DEAD)
        world_fail("event %d is delivered, which is not to be", e->number);
    if (d->place != place || strncmp(key, d->prefix, strlen(d->prefix)) != 0)
        world_fail("event %d is delivered to %s%s, where it does not belong", e->number,
                   store_place(place)->url, key);
    if (e->visible_us > world_us())
        world_fail("event %d is delivered, which nobody may have read", e->number);
}

/* ---- objects ---- */

/* Whether a record may have been taken for what killed its worker: it was alone in work when that
 * died of something else, or could not give the partition back. */
static bool may_be_blamed(void) {
    return plan.attempts && !plan.peace;
}

struct batch_key {
    int topic;
    int32_t partition;
    int64_t first, next;
};

static bool parse_batch_key(const char *key, struct batch_key *ret) {
    char topic[32];
    int partition;
    const char *from = strstr(key, "dt=");
    if (!from || sscanf(from, "dt=%*10[0-9-]/%31[a-z.]-%d-%" SCNd64 "-%" SCNd64 "-", topic,
                        &partition, &ret->first, &ret->next) != 4)
        return false;
    ret->topic = source_index(topic, strlen(topic));
    ret->partition = partition;
    return ret->topic >= 0;
}

/* An object whose lines are judged. */
struct holding {
    int place;
    const struct object *object;
    const char *key;
    struct batch_key window;
    int64_t last;
    int n, destination;
};

static void judge_window(const struct event *e, struct holding *h) {
    const struct batch_key *w = &h->window;
    if (h->n++ == 0) h->destination = e->destination;
    if (e->topic != w->topic || e->partition != w->partition || e->offset < w->first ||
        e->offset >= w->next)
        world_fail("P2: %s holds event %d, which is not of its window", h->key, e->number);
    if (e->offset <= h->last) world_fail("P2: %s does not hold its events in their order", h->key);
    if (e->destination != h->destination) world_fail("%s holds events of two destinations", h->key);
    h->last = e->offset;
}

/* Retention took the first records of a window whose objects were there, before it was settled: the
 * rest is another window, and is written again. */
static bool is_clipped(int topic, int32_t partition, int64_t first, int64_t next) {
    return events_cut(topic, partition, first, next);
}

static bool was_clipped(const struct object *o) {
    struct batch_key w;
    return is_batch(o->key) && parse_batch_key(o->key, &w) &&
           is_clipped(w.topic, w.partition, w.first, w.next);
}

/* Destinations of one place are numbered in their keys. One whose only member is blamed, and is no
 * member any more, has no number, and the others get lower ones. */
static bool is_renumbered(const struct object *o, const struct batch_key *now) {
    struct batch_key w;
    return may_be_blamed() && is_batch(o->key) && parse_batch_key(o->key, &w) &&
           w.topic == now->topic && w.partition == now->partition && w.first == now->first &&
           w.next == now->next;
}

static void hold(struct event *e, struct str line, void *context) {
    struct holding *h = context;
    judge_line(e, line, h->place, h->key);
    if (is_batch(h->key)) {
        judge_window(e, h);
    } else {
        const char *key = h->key + strlen(events_destination(e->destination)->prefix);
        if (strcmp(key, e->key) != 0)
            world_fail("P2: the key of event %d is %s, not %s", e->number, key, e->key);
    }
    bool second = e->object && e->object != h->object;
    bool renumbered = second && is_renumbered(e->object, &h->window);
    if (second && !was_clipped(e->object) && !was_clipped(h->object) && !renumbered)
        world_fail("P2: event %d is in two objects: %s and %s", e->number, e->object->key, h->key);
    if (!second || was_clipped(e->object) || renumbered) e->object = h->object;
    if (e->arrived_us < 0) e->arrived_us = world_us();
}

/* Two windows of one partition are the same, or have nothing in common. */
static void judge_span(const struct batch_key *w, const char *key) {
    for (size_t i = 0; i < n_spans; i++) {
        const struct span *s = &spans[i];
        if (s->topic != w->topic || s->partition != w->partition || w->next <= s->first ||
            s->next <= w->first)
            continue;
        if (s->first == w->first && s->next == w->next) return;
        if (is_clipped(s->topic, s->partition, s->first, s->next) ||
            is_clipped(w->topic, w->partition, w->first, w->next))
            continue;
        world_fail("P2: the window of %s overlaps that of [%" PRId64 ", %" PRId64 ")", key,
                   s->first, s->next);
    }
    GROW(spans, n_spans);
    spans[n_spans++] = (struct span){w->topic, w->partition, w->first, w->next};
}

/* P2. The date in a batch's key is that of its window's first record, whoever makes it and when. */
static void judge_date(const struct batch_key *w, const char *key) {
    const struct event *e = NULL;
    char date[16], said[16] = "";
    for (int64_t at = w->first; at < w->next && (!e || e->visible_us == INT64_MAX); at++)
        e = events_at(w->topic, w->partition, at);
    if (!e || is_clipped(w->topic, w->partition, w->first, w->next)) return;
    time_t s = (time_t)(WORLD_EPOCH_MS / 1000 + e->produced_us / WORLD_S);
    strftime(date, sizeof date, "%Y-%m-%d", gmtime(&s));
    sscanf(strstr(key, "dt="), "dt=%10[0-9-]/", said);
    if (strcmp(date, said) != 0) world_fail("P2: the first record of %s is of %s", key, date);
}

static void judge_body(int place, const struct object *o, struct str body) {
    struct holding h = {.place = place, .object = o, .key = o->key, .last = -1};
    if (is_batch(o->key)) {
        if (!parse_batch_key(o->key, &h.window)) world_fail("%s is no batch's key", o->key);
        judge_span(&h.window, o->key);
        judge_date(&h.window, o->key);
    }
    struct str text = unpack(o->key, body);
    if (!text.n) world_fail("%s is empty", o->key);
    each_line(o->key, text, hold, &h);
    free((void *)(uintptr_t)text.p);
}

void judge_object(int place, const struct object *o) {
    judge_body(place, o, (struct str){o->body, o->n});
}

/* Members of a body, by their numbers. */
struct members {
    bool in[EVENTS_MAX];
};

static void note_member(struct event *e, struct str line, void *members) {
    (void)line;
    ((struct members *)members)->in[e->number] = true;
}

static void read_members(const char *key, struct str body, struct members *ret) {
    struct str text = unpack(key, body);
    memset(ret, 0, sizeof *ret);
    each_line(key, text, note_member, ret);
    free((void *)(uintptr_t)text.p);
}

bool judge_rewritten(int place, const struct object *o, struct str body) {
    static struct members before, now;
    if (!may_be_blamed() || !is_batch(o->key)) return false;
    read_members(o->key, (struct str){o->body, o->n}, &before);
    read_members(o->key, body, &now);
    judge_body(place, o, body);
    /* Who was taken out may come back: before all was settled, the partition was taken anew. */
    for (int i = 0; i < events_count(); i++) {
        struct event *e = events_get(i);
        if (now.in[i]) e->blamed = false;
        if (now.in[i] || !before.in[i] || e->object != o) continue;
        e->blamed = true;
        e->object = NULL;
    }
    return true;
}

void judge_post(int place, struct str body) {
    struct event *e = events_in(body);
    if (!e) world_fail("P7: a webhook gets what is no event: %.*s", (int)body.n, body.p);
    judge_line(e, body, place, "");
    e->posts++;
    if (e->arrived_us < 0) e->arrived_us = world_us();
}

/* ---- requests ---- */

/* In a peaceful run all clocks are right, nobody dies, and each attempt is counted. The time of the
 * attempt after the last failure is counted from the first one. */
static int64_t scheduled(const struct event *e) {
    int64_t at_us = e->first_failure_us;
    for (unsigned i = 0; i < e->failures; i++) at_us += fleet_delay_ms(i) * WORLD_MS;
    return at_us;
}

/* After one that came late, there is half of a delay at least. */
static int64_t due_after(const struct event *e) {
    int64_t soonest_us = e->last_failure_us + fleet_delay_ms(e->failures - 1) * WORLD_MS / 2;
    return scheduled(e) > soonest_us ? scheduled(e) : soonest_us;
}

/* Whether nothing but its schedule decides when it is tried again: no refused credentials, for
 * which a breaker opens at once, and no Retry-After, for which others of its destination wait. */
static bool is_exact(const struct event *e) {
    enum sickness s = store_place(events_destination(e->destination)->place)->sickness;
    return plan.exact && (s == WELL || s == REFUSES || s == BROKEN);
}

static int64_t window_end(const struct event *e) {
    return e->first_failure_us + plan.retry_s * WORLD_S;
}

/* P5. An attempt comes when it is due: no sooner and, where nothing holds it up, not much later. It
 * may stand behind others that wait for the whole delay; and in batch mode what was parked first
 * waits with what is collected in its window. */
#define ROUNDING_US (2 * WORLD_MS)
#define PARKING_US (700 * WORLD_MS)
#define LATE_US (400 * WORLD_MS)

/* What was not settled before a rebalance, the next owner does not know. */
static bool is_known(const struct event *e) {
    bool succeeded = e->success_us > e->last_failure_us;
    return (succeeded ? e->success_generation : e->failure_generation) == broker_generation();
}

static void judge_time(const struct event *e) {
    int64_t now_us = world_us(), least_us = fleet_delay_ms(0) * WORLD_MS / 2 - 50 * WORLD_MS;
    bool known = is_known(e);
    if (known && now_us - e->last_attempt_us < least_us)
        world_fail("P5: event %d is tried again after %" PRId64 " ms", e->number,
                   (now_us - e->last_attempt_us) / WORLD_MS);
    if (e->success_us && e->success_generation == broker_generation())
        world_fail("P5: event %d is sent again, which was delivered", e->number);
    if (known && now_us < e->asked_us - ROUNDING_US)
        world_fail("P5: event %d is tried again %" PRId64 " ms before what Retry-After said",
                   e->number, (e->asked_us - now_us) / WORLD_MS);
    if (!is_exact(e) || !e->failures) return;
    int64_t delay_us = fleet_delay_ms(e->failures - 1) * WORLD_MS;
    int64_t late_us = e->last_failure_us + (delay_us > PARKING_US ? delay_us : PARKING_US);
    if (late_us < e->due_us) late_us = e->due_us;
    if (now_us < e->due_us - ROUNDING_US)
        world_fail("P5: event %d is tried again %" PRId64 " ms too soon after %u failures",
                   e->number, (e->due_us - now_us) / WORLD_MS, e->failures);
    if (plan.batch) late_us += plan.window_ms * WORLD_MS; /* it is settled with others */
    bool waits = plan.batch && e->failures == 1;
    if (!waits && now_us < plan.seconds * WORLD_S && now_us > late_us + LATE_US)
        world_fail("P5: event %d is tried again %" PRId64 " ms too late after %u failures",
                   e->number, (now_us - late_us) / WORLD_MS, e->failures);
    if (scheduled(e) > window_end(e) + ROUNDING_US)
        world_fail("P5: event %d is tried again after its retry window", e->number);
}

static void note_attempt(struct event *e, struct str line, void *context) {
    struct asked *a = context;
    (void)line;
    if (plan.peace && e->attempts) judge_time(e);
    e->attempts++;
    e->last_attempt_us = world_us();
    GROW(a->events, a->n);
    a->events[a->n++] = e;
    a->destination = e->destination;
}

/* P2. In batch mode nothing is written before the window's end is durable. */
static void judge_boundary(const char *key) {
    struct batch_key w;
    if (!is_batch(key) || !parse_batch_key(key, &w)) return;
    if (!has_end(chain_of(events_topic(w.topic), w.partition), w.next))
        world_fail("P2: %s is sent before its window's end is durable", key);
}

void judge_request(struct asked *a, const char *key, struct str body) {
    if (!store_place(a->place)->hook) judge_boundary(key);
    struct str text = unpack(key, body);
    each_line(key, text, note_attempt, a);
    free((void *)(uintptr_t)text.p);
}

static int64_t longest_delay_ms(void) {
    int64_t most = 0;
    for (unsigned i = 0; i < 8; i++)
        if (fleet_delay_ms(i) > most) most = fleet_delay_ms(i);
    return most;
}

static void note_failure(struct event *e, const struct place *p, int status,
                         uint32_t retry_after_ms) {
    e->last_failure_us = world_us();
    e->failure_generation = broker_generation();
    if (e->failures++ == 0) e->first_failure_us = world_us();
    e->due_us = due_after(e);
    e->asked_us = retry_after_ms ? world_us() + retry_after_ms * WORLD_MS : 0;
    /* The window may have begun before: what was not tried has failed, too. */
    int64_t end_us = e->visible_us + plan.retry_s * WORLD_S;
    if (e->asked_us > end_us) e->asked_us = end_us;
    /* A batch that has come back is attempted. */
    int64_t back_us = world_us() + longest_delay_ms() * WORLD_MS;
    if (plan.batch && !p->hook && e->asked_us > back_us) e->asked_us = back_us;
    e->for_good = store_is_final(p, status);
}

void judge_answer(const struct asked *a, int status, uint32_t retry_after_ms) {
    for (size_t i = 0; i < a->n; i++) {
        struct event *e = a->events[i];
        if (status != 200) {
            note_failure(e, store_place(a->place), status, retry_after_ms);
            continue;
        }
        e->success_us = world_us();
        e->success_process = a->process;
        e->success_generation = broker_generation();
    }
}

void judge_held(size_t held, size_t most) {
    if (held > most) world_fail("a lane holds %zu bytes of its budget, %zu at most", held, most);
}

/* P4. For one that is healthy and busy it may stand; here there is none. It has a moment to tell
 * one that is new from one that is sick. */
#define STANDING_MS 3000
void judge_standing(int64_t ms) {
    if (ms > STANDING_MS)
        world_fail("P4: a lane has read nothing for %" PRId64 " ms, for one destination", ms);
}

void judge_windows(const char *topic, int32_t partition, size_t open, size_t most) {
    if (open > most)
        world_fail("%s/%d has %zu windows in flight, %zu at most", topic, (int)partition, open,
                   most);
}

/* ---- the ledger ---- */

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

static void hex_of(struct str data, char ret[HASH_HEX + 1]) {
    unsigned char digest[SHA256_DIGEST_LENGTH];
    SHA256((const unsigned char *)data.p, data.n, digest);
    for (int i = 0; i < SHA256_DIGEST_LENGTH; i++) sprintf(ret + 2 * i, "%02x", digest[i]);
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

static struct event *event_of(const char *topic, int32_t partition, int64_t offset) {
    int i = source_index(topic, strlen(topic));
    struct event *e = i >= 0 ? events_at(i, partition, offset) : NULL;
    if (!e)
        world_fail("P9: the ledger names %s/%d/%" PRId64 ", where there is no event", topic,
                   (int)partition, offset);
    return e;
}

/* Records of a retry topic: which ones they are is said by `origin`. */
static void take_origins(const struct entry *en, const cJSON *item, size_t n,
                         enum outcome_kind kind) {
    const cJSON *origin;
    size_t spread_n = 0;
    cJSON_ArrayForEach(origin, cJSON_GetObjectItemCaseSensitive(item, "origin")) {
        struct numbers offsets = {0};
        spread(cJSON_GetArrayItem(origin, 2), &offsets);
        for (size_t i = 0; i < offsets.n; i++)
            take_outcome(event_of(cJSON_GetArrayItem(origin, 0)->valuestring,
                                  cJSON_GetArrayItem(origin, 1)->valueint, offsets.v[i]),
                         kind, item, en->settled_ms);
        spread_n += offsets.n;
        free(offsets.v);
    }
    if (spread_n != n) world_fail("P9: %zu offsets have %zu origins", n, spread_n);
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
            take_outcome(event_of(en->chain->topic, en->chain->partition, offsets.v[i]), kind, item,
                         en->settled_ms);
    }
    if (en->retry) take_origins(en, item, offsets.n, kind);
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
        struct event *e = topic >= 0 ? events_at(topic, en->chain->partition, offsets.v[i]) : NULL;
        if (topic < 0 || offsets.v[i] >= events_removed(topic, en->chain->partition))
            world_fail("P1: %s/%d/%" PRId64 " is lost, says the ledger; it was not",
                       en->chain->topic, (int)en->chain->partition, offsets.v[i]);
        if (e) take_outcome(e, LOST, NULL, en->settled_ms);
    }
    free(offsets.v);
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
    if ((last && en->first != last->next) || en->next < en->first)
        world_fail("P3: entry %" PRIu64 " of %s/%d is [%" PRId64 ", %" PRId64 ") after %" PRId64,
                   en->seq, c->topic, (int)c->partition, en->first, en->next,
                   last ? last->next : -1);
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
    link.next = en.next;
    if (!en.chain->n_links) en.chain->first = en.first;
    GROW(en.chain->links, en.chain->n_links);
    en.chain->links[en.chain->n_links++] = link;
    take_delivered(&en);
    take_list(&en, "skipped", SKIPPED);
    take_list(&en, "parked", PARKED);
    take_list(&en, "dead", DEAD);
    take_lost(&en);
    cJSON_Delete(json);
}

/* Each record of a topic that a consumer sees. */
typedef void record_fn(const char *topic, int32_t partition, const struct broker_record *);

static void each_record(const char *topic, record_fn *fn) {
    for (int32_t p = 0; p < broker_partitions(topic); p++) {
        struct broker_record r;
        for (int64_t at = 0; broker_read(topic, p, at, &r); at = r.offset + 1) fn(topic, p, &r);
    }
}

static void take_ledger_record(const char *topic, int32_t partition,
                               const struct broker_record *r) {
    (void)topic;
    (void)partition;
    take_entry(r->value);
}

/* A committed offset is where an entry ends, of the number and hash that the metadata names. */
static void judge_commits(const struct chain *c) {
    for (size_t i = 0; i < c->n_commits; i++) {
        const struct commit *k = &c->commits[i];
        if (k->seq > c->n_links)
            world_fail("P3: %s/%d is committed with %" PRIu64 " entries, and has %zu", c->topic,
                       (int)c->partition, k->seq, c->n_links);
        if (!k->seq) continue;
        const struct link *l = &c->links[k->seq - 1];
        if (strcmp(l->hash, k->head) != 0 || l->next != k->offset)
            world_fail("P3: %s/%d is committed at %" PRId64 " by entry %" PRIu64
                       ", which ends at %" PRId64 "%s",
                       c->topic, (int)c->partition, k->offset, k->seq - 1, l->next,
                       strcmp(l->hash, k->head) != 0 ? " and has another hash" : "");
    }
}

/* ---- the end ---- */

static bool parse_origin(const struct broker_record *r, struct event **ret) {
    for (size_t i = 0; i < r->n_headers; i++) {
        char text[128], topic[64];
        int partition;
        int64_t offset;
        if (!str_is(r->headers[i].name, "runsink-origin")) continue;
        snprintf(text, sizeof text, "%.*s", (int)r->headers[i].value.n, r->headers[i].value.p);
        if (sscanf(text, "%63[^/]/%d/%" SCNd64, topic, &partition, &offset) != 3) return false;
        *ret = event_of(topic, partition, offset);
        return true;
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
    if (settled_ms < due_ms)
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
static void judge_parked(const char *topic, int32_t partition, const struct broker_record *r) {
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
    if (r->offset >= c->n_settled || !c->settled[r->offset])
        world_fail("P1: %s/%d/%" PRId64 ", of event %d, has no outcome", topic, (int)partition,
                   r->offset, e->number);
    judge_due(topic, r, c->settled[r->offset], e);
    e->parked--; /* as many as the ledger says */
}

/* A topic that does not take so much: of a batch it may have refused another member. */
static bool may_be_refused(const struct event *e) {
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

static void judge_letter(const char *topic, int32_t partition, const struct broker_record *r) {
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

/* Whether the event may have died although it is fit: its place had troubles. */
static bool may_be_dead(const struct event *e) {
    const struct place *p = store_place(events_destination(e->destination)->place);
    return p->sickness != WELL || (!p->steady && plan.store_faults);
}

/* P5. What has died was tried for as long as there was a next attempt within its window. */
static void judge_death(const struct event *e) {
    static const char *const faults[] = {
        [FATE_DELIVERED] = "tenant", [FATE_SKIPPED] = "", [FATE_DEAD] = "data", [FATE_POISON] = ""};
    bool poison = strcmp(e->why, "poison") == 0;
    if (strcmp(e->why, "refused-by-topic") == 0 && may_be_refused(e)) return;
    if (!poison && strcmp(e->fault, faults[e->fate]) != 0)
        world_fail("P4: event %d is dead of fault %s (%s)", e->number, e->fault, e->why);
    if (e->fate != FATE_DELIVERED || !is_exact(e) || e->for_good) return;
    if (!e->failures || scheduled(e) < window_end(e) - ROUNDING_US)
        world_fail("P5: event %d is given up after %u failures, %" PRId64 " s after the first",
                   e->number, e->failures, (e->last_failure_us - e->first_failure_us) / WORLD_S);
}

/* P1. What retention took before it was read is named by the ledger, from where the chain begins.
 */
static void judge_gone(const struct event *e) {
    const struct chain *c = chain_of(events_topic(e->topic), e->partition);
    if (c->n_links && e->offset >= c->first && e->offset < c->links[c->n_links - 1].next)
        world_fail("P1: event %d at %s/%d/%" PRId64 " was lost in silence", e->number, c->topic,
                   (int)e->partition, e->offset);
}

/* Whoever ends in good order has settled what it has delivered. */
static void judge_drain(const struct event *e) {
    int64_t ended_us = fleet_ended_us(e->success_process);
    if (!plan.peace || !e->success_us || !ended_us) return;
    if (e->delivered_ms > WORLD_EPOCH_MS + ended_us / WORLD_MS)
        world_fail("event %d was delivered by p%" PRIu64 ", which had not settled it when it ended",
                   e->number, e->success_process);
}

static void judge_event(const struct event *e) {
    bool removed = e->offset < events_removed(e->topic, e->partition);
    unsigned outcomes = e->delivered + e->skipped + e->dead + e->lost;
    if (e->visible_us == INT64_MAX) {
        if (outcomes > e->lost) world_fail("event %d was aborted, and has an outcome", e->number);
        return;
    }
    if (!outcomes && removed && !e->compacted) judge_gone(e);
    if (outcomes > 1 || (!outcomes && !removed && !e->compacted))
        world_fail("P1: event %d at %s/%d/%" PRId64 " has %u outcomes", e->number,
                   events_topic(e->topic), (int)e->partition, e->offset, outcomes);
    if (e->parked)
        world_fail("P1: of event %d another number of records is parked than the ledger says",
                   e->number);
    if (e->dead != e->letters)
        world_fail("P1: event %d has %u dead letters", e->number, e->letters);
    if (!outcomes || e->lost) return;
    if (e->dead) judge_death(e);
    if (e->delivered) judge_drain(e);
    if (e->blamed && !e->dead)
        world_fail("P2: event %d is in no object any more, and not dead", e->number);
    bool right = e->dead && strcmp(e->why, "poison") == 0 && may_be_blamed();
    switch (e->fate) {
    case FATE_DELIVERED:
        right = right || (e->delivered ? e->arrived_us >= 0 : e->dead && may_be_dead(e));
        right = right || (e->dead && may_be_refused(e));
        break;
    case FATE_SKIPPED:
        right = right || e->skipped;
        break;
    case FATE_DEAD:
    case FATE_POISON:
        right = right || e->dead;
        break;
    }
    if (!right)
        world_fail("P1: event %d is %s", e->number,
                   e->delivered ? "delivered"
                   : e->dead    ? "dead"
                                : "skipped");
}

/* P4. Where nothing died and Kafka had no troubles, what is bound for a place without troubles is
 * there soon, however sick the others are. */
#define SOON_S 10
#define BURST_S 10
#define PLENTY 100
#define PARKED_S 20
#define DEPLOY_S 15

/* What its own queue has no room for goes round: it is parked with its window, which may hold a
 * request that nobody answers. */
static int64_t round_us(const struct event *e) {
    if (plan.waiting >= PLENTY || !e->rounds) return 0;
    return PARKED_S * WORLD_S + e->rounds * plan.timeout_ms * WORLD_MS;
}

static void judge_delay(const struct event *e) {
    const struct place *p = store_place(events_destination(e->destination)->place);
    int64_t most_us = SOON_S * WORLD_S + plan.batch_ms * WORLD_MS;
    most_us += (plan.deploys * DEPLOY_S + (plan.hot ? BURST_S : 0)) * WORLD_S;
    most_us += round_us(e);
    if (!plan.peace || !p->steady || e->arrived_us < 0) return;
    if (e->arrived_us - e->visible_us > most_us)
        world_fail("P4: event %d is at its healthy place after %" PRId64 " s", e->number,
                   (e->arrived_us - e->visible_us) / WORLD_S);
}

void judge_begin(void) {
    broker_watch(take_commit);
}

/* ---- --until-end ---- */

struct judge_run {
    int64_t ends[TOPICS_MAX][PARTITIONS_MAX];
};

struct judge_run *judge_run_begin(void) {
    struct judge_run *run = xcalloc(1, sizeof *run);
    for (int i = 0; i < events_topics(); i++)
        for (int32_t p = 0; p < broker_partitions(events_topic(i)); p++) {
            int64_t low;
            broker_ends(events_topic(i), p, &low, &run->ends[i][p]);
        }
    return run;
}

/* What the group is known to have settled: an offset that has expired is still in the ledger, and
 * one whose transaction is committed may still be on its way. */
int64_t judge_settled_to(const char *topic, int32_t partition) {
    int64_t at = broker_committed(topic, partition, NULL);
    const struct chain *c = chain_of(topic, partition);
    int64_t last = c->n_commits ? c->commits[c->n_commits - 1].offset : 0;
    return at < last ? last : at;
}

/* P1. It has left nothing that was there at its start. */
void judge_run_end(const struct judge_run *run) {
    for (int i = 0; i < events_topics(); i++)
        for (int32_t p = 0; p < broker_partitions(events_topic(i)); p++) {
            struct broker_record r;
            const char *topic = events_topic(i);
            int64_t settled = judge_settled_to(topic, p), end = run->ends[i][p];
            if (settled < end && broker_stable(topic, p) < end)
                world_fail("P1: --until-end has ended well, and an open transaction hides a part "
                           "of %s/%d that was there before",
                           topic, (int)p);
            if (broker_read(topic, p, settled, &r) && r.offset < end)
                world_fail("P1: --until-end has ended well, and left %s/%d/%" PRId64, topic, (int)p,
                           r.offset);
        }
}

static bool is_read(const char *topic) {
    return source_index(topic, strlen(topic)) >= 0 || strstr(topic, ".retry.");
}

bool judge_settled(char *text, size_t size) {
    for (int i = 0; i < fleet_topics(); i++) {
        const char *topic = fleet_topic(i);
        for (int32_t p = 0; is_read(topic) && p < broker_partitions(topic); p++) {
            struct broker_record r;
            int64_t at = judge_settled_to(topic, p);
            if (!broker_read(topic, p, at, &r)) continue;
            snprintf(text, size, "%s/%d/%" PRId64 " (committed: %" PRId64 ")", topic, (int)p,
                     r.offset, at);
            return false;
        }
    }
    return true;
}

/* One record may kill as many workers as are asked for, two at least, and a few that had not heard
 * of the others. */
#define FEW 3
static void judge_deaths(void) {
    int64_t most = plan.attempts > 2 ? plan.attempts : 2;
    if (fleet_deaths() > plan.poison * (most + FEW))
        world_fail("%d processes died of %" PRId64 " records", fleet_deaths(), plan.poison);
}

void judge_all(void) {
    judge_deaths();

    for (int i = 0; i < fleet_topics(); i++)
        if (ends_in(fleet_topic(i), ".ledger")) each_record(fleet_topic(i), take_ledger_record);
    for (size_t i = 0; i < n_chains; i++) judge_commits(&chains[i]);
    for (int i = 0; i < fleet_topics(); i++) {
        if (strstr(fleet_topic(i), ".retry.")) each_record(fleet_topic(i), judge_parked);
        if (strstr(fleet_topic(i), ".dead.")) each_record(fleet_topic(i), judge_letter);
    }
    for (int i = 0; i < events_count(); i++) {
        judge_event(events_get(i));
        judge_delay(events_get(i));
    }
}
