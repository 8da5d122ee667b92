/* `runsink trace ID`: every event of a run, and what became of it, from the records that Kafka
 * still holds and the ledger. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sysexits.h>

#include "worker/base/json_out.h"
#include "worker/base/shown.h"
#include "worker/base/text.h"
#include "worker/kafka/reader.h"
#include "worker/kafka/topics.h"
#include "worker/ledger/entry.h"
#include "worker/tools/command.h"

#define BROKER_TIMEOUT_MS 30000
#define EVENTS_MAX 100000

/* One sentence of the ledger about an event. Texts are the trace's arena's. */
struct told {
    enum ledger_kind kind;
    const char *to, *key, *tier, *fault, *why, *who;
    int status;
    bool hashed;
    uint8_t sha256[SHA256_LEN];
    uint64_t size;
    const char *topic; /* where it was settled */
    int32_t partition;
    int64_t offset;
    uint64_t seq;
    int64_t settled_ms;
    struct told *next;
};

struct event {
    int32_t partition;
    int64_t offset;
    bool gone; /* Kafka does not hold it any more: known by an object's key */
    int64_t time_ms;
    const char *updated_at, *status;
    bool secret_id; /* what was asked for is a secret: it is not said again */
    struct told *told, **last;
};

struct trace {
    struct config *cfg;
    struct names *names;
    const char *id, *topic;
    struct reader_limits limits;
    bool json;
    const char *source; /* at hand */
    bool look_for_keys; /* the ledger's first pass */
    struct arena arena;
    struct event *events;
    size_t n;
    struct buf err;
};

static int fail(struct trace *t, int code) {
    command_error("trace", &t->err);
    return code;
}

static const char *keep(struct trace *t, struct str s) {
    return s.n ? arena_strdup(&t->arena, s) : NULL;
}

static struct event *add_event(struct trace *t, int32_t partition, int64_t offset) {
    if (t->n == EVENTS_MAX) return NULL;
    t->events = xgrow(t->events, t->n, sizeof *t->events);
    struct event *e = &t->events[t->n++];
    *e = (struct event){.partition = partition, .offset = offset};
    return e;
}

/* ---- the source topic ---- */

/* An id can only be spelled differently with escapes. */
static bool may_name(const struct trace *t, const rd_kafka_message_t *m) {
    return m->payload &&
           (memmem(m->payload, m->len, t->id, strlen(t->id)) || memchr(m->payload, '\\', m->len));
}

static struct str shown_text(const struct jobrun *run, enum run_text which, struct str text) {
    return run->hidden & 1u << which ? STR("[REDACTED]") : text;
}

static void take_record(struct trace *t, const rd_kafka_message_t *m) {
    if (!may_name(t, m)) return;
    struct arena arena = {0};
    struct message record;
    struct jobrun run;
    struct outcome why;
    reader_record(m, &arena, &record);
    const struct known_sinks known = {.names = t->names};
    if (jobrun_decode_known(&record, &known, &arena, &run, &why) && str_is(run.id, t->id)) {
        struct event *e = add_event(t, m->partition, m->offset);
        if (e) {
            e->time_ms = rd_kafka_message_timestamp(m, NULL);
            e->secret_id = run.hidden & 1u << RUN_ID;
            e->updated_at = keep(t, shown_text(&run, RUN_UPDATED_AT, run.updated_at));
            e->status = keep(t, shown_text(&run, RUN_STATUS, run.status));
        }
    }
    arena_wipe(&arena);
}

/* ---- the ledger ---- */

static void tell(struct trace *t, struct event *e, const struct ledger_entry *entry,
                 const struct ledger_group *g, int64_t offset) {
    struct told *told = arena_alloc(&t->arena, sizeof *told);
    *told = (struct told){.kind = g->kind,
                          .to = keep(t, g->to),
                          .key = keep(t, g->key),
                          .tier = keep(t, g->tier),
                          .fault = keep(t, g->fault),
                          .why = keep(t, g->why),
                          .who = keep(t, g->who),
                          .status = g->status,
                          .hashed = g->hashed,
                          .size = g->size,
                          .topic = keep(t, entry->topic),
                          .partition = entry->partition,
                          .offset = offset,
                          .seq = entry->seq,
                          .settled_ms = entry->settled_ms};
    memcpy(told->sha256, g->sha256, SHA256_LEN);
    if (!e->last) e->last = &e->told;
    *e->last = told;
    e->last = &told->next;
}

/* The i-th of the numbers that the ranges hold. */
static int64_t number_at(const struct ledger_range *ranges, size_t n, uint64_t i) {
    for (size_t k = 0; k < n; k++) {
        uint64_t size = (uint64_t)(ranges[k].z - ranges[k].a) + 1;
        if (i < size) return ranges[k].a + (int64_t)i;
        i -= size;
    }
    return -1;
}

/* The offset in the entry's own partition at which the group speaks of this event; -1: it doesn't.
 */
static int64_t speaks_of(const struct ledger_entry *entry, const struct ledger_group *g,
                         const struct event *e) {
    if (!g->n_origins) {
        if (entry->partition != e->partition) return -1;
        for (size_t k = 0; k < g->n_offsets; k++)
            if (g->offsets[k].a <= e->offset && e->offset <= g->offsets[k].z) return e->offset;
        return -1;
    }
    uint64_t before = 0;
    for (size_t k = 0; k < g->n_origins; k++) {
        const struct ledger_origin *o = &g->origins[k];
        if (o->partition == e->partition && o->range.a <= e->offset && e->offset <= o->range.z)
            return number_at(g->offsets, g->n_offsets, before + (uint64_t)(e->offset - o->range.a));
        before += (uint64_t)(o->range.z - o->range.a) + 1;
    }
    return -1;
}

/* An object of one event whose key has the id as a segment: its event was removed by retention. */
static void take_key(struct trace *t, const struct ledger_group *g,
                     const struct ledger_entry *entry) {
    size_t n = strlen(t->id);
    if (!g->object || g->count != 1) return;
    for (const char *p = g->key.p, *end = p + g->key.n; p < end;) {
        const char *slash = memchr(p, '/', (size_t)(end - p));
        size_t size = (size_t)((slash ? slash : end) - p);
        if (size == n && memcmp(p, t->id, n) == 0) {
            bool origin = g->n_origins > 0;
            struct event *e = add_event(t, origin ? g->origins[0].partition : entry->partition,
                                        origin ? g->origins[0].range.a : g->offsets[0].a);
            if (e) e->gone = true;
            return;
        }
        p += size + 1;
    }
}

/* What was told of these offsets was told of the topic that is gone. */
static void forget(struct trace *t, int32_t partition) {
    for (size_t k = 0; k < t->n; k++)
        if (t->events[k].partition == partition && !t->events[k].gone)
            t->events[k].told = NULL, t->events[k].last = NULL;
}

static void take_entry(struct trace *t, const rd_kafka_message_t *m) {
    struct arena arena = {0};
    struct ledger_entry entry;
    struct ledger_read_error why;
    /* One that can't be read is `verify`'s business. */
    bool ok =
        ledger_read(reader_value(m), &arena, &entry, &why) && str_is(entry.group, t->cfg->group);
    if (ok && entry.anew && str_is(entry.topic, t->source)) forget(t, entry.partition);
    for (size_t i = 0; ok && i < entry.n_groups; i++) {
        const struct ledger_group *g = &entry.groups[i];
        bool known = false;
        if (!g->n_origins && !str_is(entry.topic, t->source)) continue;
        for (size_t k = 0; k < t->n; k++) {
            int64_t offset = speaks_of(&entry, g, &t->events[k]);
            known = known || offset >= 0;
            if (offset >= 0 && !t->look_for_keys) tell(t, &t->events[k], &entry, g, offset);
        }
        if (!known && t->look_for_keys) take_key(t, g, &entry);
    }
    arena_free(&arena);
}

/* ---- what is printed ---- */

static void put_time(int64_t ms) {
    char text[UTC_TEXT];
    fputs(utc_text(ms / 1000, text) ? text : "?", stdout);
}

static void put_text(const char *before, const char *s) {
    if (s) printf("%s%s", before, SHOWN(s));
}

static void print_told(const struct told *o) {
    fputs("    ", stdout);
    put_time(o->settled_ms);
    printf(" %s", ledger_kind_name(o->kind));
    put_text(" for ", o->tier);
    put_text(" to ", o->to);
    put_text(" as ", o->key);
    if (o->status) printf(", status %d", o->status);
    put_text(", ", o->fault);
    put_text(" by ", o->who);
    put_text(": ", o->why);
    if (o->hashed) {
        char text[HEX_LEN(SHA256_LEN) + 1];
        hex(o->sha256, SHA256_LEN, text);
        printf(", %" PRIu64 " bytes, sha256 %s", o->size, text);
    }
    printf(" [%s/%d@%" PRId64 ", entry %" PRIu64 "]\n", SHOWN(o->topic), (int)o->partition,
           o->offset, o->seq);
}

static void print_event(const struct event *e, const char *source) {
    printf("%s/%d@%" PRId64 " ", SHOWN(source), (int)e->partition, e->offset);
    if (e->gone) {
        fputs("(no longer held by Kafka)", stdout);
    } else {
        put_time(e->time_ms);
        put_text(" ", e->status);
        put_text(", updated ", e->updated_at);
    }
    fputs("\n", stdout);
    for (const struct told *o = e->told; o; o = o->next) print_told(o);
    if (!e->told) fputs("    no outcome in the ledger yet\n", stdout);
}

static void put_member(struct buf *b, const char *name, const char *value) {
    if (value) out_shown(b, name, value);
}

static void told_json(struct buf *b, const struct told *o) {
    out_open(b, NULL, '{');
    out_string(b, "outcome", ledger_kind_name(o->kind));
    out_int(b, "settled", o->settled_ms);
    out_int(b, "partition", o->partition);
    out_int(b, "offset", o->offset);
    out_uint(b, "entry", o->seq);
    put_member(b, "topic", o->topic);
    put_member(b, "to", o->to);
    put_member(b, "key", o->key);
    put_member(b, "tier", o->tier);
    put_member(b, "fault", o->fault);
    put_member(b, "why", o->why);
    put_member(b, "who", o->who);
    if (o->status) out_int(b, "status", o->status);
    if (o->hashed) {
        out_hex(b, "sha256", o->sha256, SHA256_LEN);
        out_uint(b, "size", o->size);
    }
    out_close(b, '}');
}

/* One event a line. */
static void event_json(const struct event *e, const char *source, const char *id) {
    struct buf b;
    buf_init(&b, (size_t)1 << 24);
    out_open(&b, NULL, '{');
    out_shown(&b, "topic", source);
    out_int(&b, "partition", e->partition);
    out_int(&b, "offset", e->offset);
    out_bool(&b, "held", !e->gone);
    out_shown(&b, "id", e->secret_id ? "[REDACTED]" : id);
    if (!e->gone) out_int(&b, "timestamp", e->time_ms);
    put_member(&b, "status", e->status);
    put_member(&b, "updatedAt", e->updated_at);
    out_open(&b, "outcomes", '[');
    for (const struct told *o = e->told; o; o = o->next) told_json(&b, o);
    out_close(&b, ']');
    out_close(&b, '}');
    puts(buf_cstr(&b));
    buf_free(&b);
}

/* ---- */

static bool read_topic(struct trace *t, rd_kafka_t *rk, const struct topic *topic,
                       void (*take)(struct trace *, const rd_kafka_message_t *)) {
    struct reader *r = reader_new(rk, READER_BY_TIME);
    bool ok = reader_add_topic(r, topic, &t->limits, &t->err);
    rd_kafka_message_t *m;
    while (ok && (m = reader_next(r, 0, &t->err))) {
        take(t, m);
        rd_kafka_message_destroy(m);
    }
    reader_free(r);
    return t->err.n == 0;
}

static bool trace_source(struct trace *t, rd_kafka_t *rk, const struct topic_list *all,
                         const struct topic *source, size_t *found) {
    char name[TOPIC_MAX + 1];
    const struct topic *ledger = topic_ledger(source->name, name) ? topic_find(all, name) : NULL;
    t->n = 0;
    t->source = source->name;
    if (!read_topic(t, rk, source, take_record)) return false;
    /* Twice: what a key gives away may have been parked by an entry before. */
    for (int pass = 0; ledger && ledger->partitions && pass < 2; pass++) {
        t->look_for_keys = pass == 0;
        if (!read_topic(t, rk, ledger, take_entry)) return false;
    }
    for (size_t i = 0; i < t->n; i++) {
        if (t->json)
            event_json(&t->events[i], source->name, t->id);
        else
            print_event(&t->events[i], source->name);
    }
    if (t->n == EVENTS_MAX)
        fprintf(stderr, "runsink trace: only the first %d events are shown\n", EVENTS_MAX);
    *found += t->n;
    return true;
}

static int trace_topics(struct trace *t) {
    struct topic_list all = {0}, list = {0};
    size_t found = 0;
    int rc = EX_OK;
    rd_kafka_t *rk = reader_consumer(t->cfg, t->cfg->group, &t->err);
    if (!rk) return fail(t, EX_CONFIG);
    if (!topics_list(rk, BROKER_TIMEOUT_MS, NULL, &all, &t->err))
        rc = fail(t, EX_UNAVAILABLE);
    else if (!topics_choose(t->cfg, t->topic, &all, &list, &t->err))
        rc = fail(t, EX_CONFIG);
    for (size_t i = 0; rc == EX_OK && i < list.n; i++)
        if (list.v[i].partitions && !trace_source(t, rk, &all, &list.v[i], &found))
            rc = fail(t, EX_UNAVAILABLE);
    if (rc == EX_OK && !found) {
        buf_puts(&t->err, "no record that Kafka holds, and no object's key, names this run");
        rc = fail(t, EX_NOINPUT);
    }
    topic_list_free(&all);
    topic_list_free(&list);
    rd_kafka_destroy(rk);
    return rc;
}

int command_trace(struct config *cfg, int argc, char **argv) {
    struct trace t = {.cfg = cfg};
    const struct command_option options[] = {
        {"--topic", .text = &t.topic},
        {"--from", .read = command_time, .to = &t.limits.from_ms, .takes = COMMAND_TIME},
        {"--json", .flag = &t.json},
    };
    int rc = command_options("trace", options, sizeof options / sizeof *options, argc, argv, &t.id);
    if (rc != EX_OK) return rc;
    if (!t.id || !*t.id) return command_usage("trace", "expected a run's id");
    buf_init(&t.err, 65536);
    t.names = job_names(&cfg->redact_names);
    rc = trace_topics(&t);
    names_free(t.names);
    free(t.events);
    arena_free(&t.arena);
    buf_free(&t.err);
    return rc;
}
