#include "worker/pipeline/route.h"

#include <stddef.h>
#include <stdlib.h>

#include "config/config.h"
#include "sinks/file.h"
#include "worker/base/conceal.h"
#include "worker/event/echo.h"
#include "worker/pipeline/holders.h"
#include "worker/pipeline/object_key.h"

/* A destination as the table keeps it. */
struct known_destination {
    struct destination dest;        /* first */
    struct known_destination *next; /* same bucket of the identity table */
    struct router *router;
    size_t bytes;     /* charged */
    unsigned objects; /* sink objects that lead here */
    unsigned held;
    _Alignas(max_align_t) unsigned char state[DESTINATION_STATE_BYTES];
};

#define KNOWN_MAX 256 /* a sink with more edits or values is read again each time */

/* What one sink object, byte for byte, means. */
struct sink_object {
    struct known_sink known; /* first */
    char *facts;             /* what known points to; holds secrets, as bytes does. NULL: none */
    size_t n_facts;
    uint64_t hash;
    char *bytes; /* holds the tenant's secrets: wiped when forgotten */
    size_t n;
    size_t charged;
    struct known_destination *dest;
    struct outcome *err; /* why it has no destination */
    bool skip_on_fail;
    bool has_apis;
    struct list apis;
    int64_t used_ms;
    struct holding holding;            /* of the workspace that first sent it */
    struct sink_object **quick;        /* where router_known() may find it; NULL: nowhere */
    struct sink_object *next;          /* same bucket */
    struct sink_object *newer, *older; /* by last use */
};

struct router {
    const struct config *cfg;
    struct names *names; /* redact.names */
    struct sink_object **objects;
    struct known_destination **destinations;
    struct sink_object **quick; /* by quick_slot(): the last parsed of those that share a slot */
    size_t buckets;             /* of all tables, a power of two */
    size_t n_objects, n_destinations;
    size_t bytes, max_bytes; /* of memory, all that objects and destinations take */
    size_t pinned;           /* of these, what destinations take that are held */
    struct holders *holders;
    struct sink_object *newest, *oldest;
};

/* Of a lane's memory.budget, what the table may take beside the destinations that deliveries hold:
 * a tenant may send another sink object in each event, one of a megabyte, or a small one full of
 * headers, which take twenty times their length. */
#define BUDGET_SHARE 4
#define APIS_MAX 1000 /* in apisToSend; a message says so */
/* In a sink object, at any depth: cJSON makes up to forty bytes of each byte of small ones. */
#define VALUES_MAX 4096

struct router *router_new(const struct config *cfg) {
    struct router *r = xcalloc(1, sizeof *r);
    r->cfg = cfg;
    for (r->buckets = 64; r->buckets < (size_t)cfg->dest_max && r->buckets < 65536;)
        r->buckets *= 2;
    r->names = job_names(&cfg->redact_names);
    r->max_bytes = (size_t)(cfg->memory_budget / cfg->lanes / BUDGET_SHARE);
    r->objects = xcalloc(r->buckets, sizeof(struct sink_object *));
    r->destinations = xcalloc(r->buckets, sizeof(struct known_destination *));
    r->quick = xcalloc(r->buckets, sizeof(struct sink_object *));
    r->holders = holders_new();
    return r;
}

static uint64_t identity_hash(const struct destination *d) {
    return keyed_hash(d->identity, sizeof d->identity);
}

static void release(const struct destination *d) {
    if (d->config) d->type->free_config(d->config);
    free(d->prefix);
}

static void destination_free(struct router *r, struct known_destination *p) {
    struct known_destination **at = &r->destinations[identity_hash(&p->dest) & (r->buckets - 1)];
    while (*at != p) at = &(*at)->next;
    *at = p->next;
    r->n_destinations--;
    r->bytes -= p->bytes;
    release(&p->dest);
    wipe(p, sizeof *p);
    free(p);
}

static void lru_unlink(struct router *r, struct sink_object *e) {
    *(e->newer ? &e->newer->older : &r->newest) = e->older;
    *(e->older ? &e->older->newer : &r->oldest) = e->newer;
    e->newer = e->older = NULL;
}

static void lru_push(struct router *r, struct sink_object *e) {
    e->older = r->newest;
    *(r->newest ? &r->newest->newer : &r->oldest) = e;
    r->newest = e;
}

static void object_free(struct router *r, struct sink_object *e) {
    struct sink_object **at = &r->objects[e->hash & (r->buckets - 1)];
    while (*at != e) at = &(*at)->next;
    *at = e->next;
    lru_unlink(r, e);
    holders_remove(r->holders, &e->holding);
    if (e->quick && *e->quick == e) *e->quick = NULL;
    r->n_objects--;
    r->bytes -= e->charged;
    if (e->facts) wipe(e->facts, e->n_facts);
    free(e->facts);
    if (e->dest && --e->dest->objects == 0 && e->dest->held == 0) destination_free(r, e->dest);
    list_free(&e->apis);
    wipe(e->bytes, e->n);
    free(e->bytes);
    free(e->err);
    free(e);
}

static void object_charge(struct router *r, struct sink_object *e) {
    size_t n = heap_bytes(e) + heap_bytes(e->bytes) + heap_bytes(e->facts) + heap_bytes(e->err) +
               heap_bytes(e->apis.v) + HOLDER_BYTES;
    for (size_t i = 0; i < e->apis.n; i++) n += heap_bytes(e->apis.v[i]);
    r->bytes += n - e->charged;
    e->charged = n;
    holders_weigh(r->holders, &e->holding, n + (e->dest ? e->dest->bytes : 0));
}

static void destination_charge(struct router *r, struct known_destination *p) {
    p->bytes = heap_bytes(p) + heap_bytes(p->dest.prefix);
    if (p->dest.type->size) p->bytes += p->dest.type->size(p->dest.config);
    r->bytes += p->bytes;
}

/* Whether forgetting sink objects is due, and would help, before n more bytes come. What is held
 * can't be forgotten. It takes the place of what is not, but for the last quarter. */
static bool too_large(const struct router *r, size_t n) {
    size_t most = r->max_bytes / 4 * 3, held = r->pinned < most ? r->pinned : most;
    return r->bytes - r->pinned + n > r->max_bytes - held;
}

/* What is forgotten next when room is needed. A tenant who sends a new sink object each time makes
 * the table forget his own, not those of others. */
static struct sink_object *first_to_go(const struct router *r) {
    struct holding *one = holders_first(r->holders);
    return one ? (struct sink_object *)(void *)((char *)one - offsetof(struct sink_object, holding))
               : NULL;
}

/* ---- known sinks ---- */

/* The sinks of two tenants usually differ in their first bytes: the bucket's name, the key's id or
 * the URL. Whoever makes two alike on purpose only slows these down. */
#define QUICK_BYTES 64

static struct sink_object **quick_slot(const struct router *r, const char *json) {
    uint64_t hash = 0;
    for (size_t i = 0; i < QUICK_BYTES; i += sizeof hash) {
        uint64_t word;
        memcpy(&word, json + i, sizeof word);
        hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 32;
    }
    return &r->quick[hash & (r->buckets - 1)];
}

static const struct known_sink *find_known(void *router, struct str text, int depth) {
    if (text.n < QUICK_BYTES) return NULL;
    const struct sink_object *e = *quick_slot(router, text.p);
    if (!e || e->known.depth != depth || e->n > text.n || memcmp(e->bytes, text.p, e->n) != 0)
        return NULL;
    return &e->known;
}

struct known_sinks router_known(struct router *r) {
    return (struct known_sinks){find_known, r, r->names};
}

/* Keeps what its sink object says, which the event's arena holds. */
static void keep_facts(struct sink_object *e, const struct known_sink *facts) {
    if (e->facts || facts->n_edits > KNOWN_MAX || facts->n_values > KNOWN_MAX) return;
    size_t edits = facts->n_edits * sizeof(struct edit);
    size_t values = facts->n_values * sizeof(struct echo);
    size_t n = edits + values;
    for (size_t i = 0; i < facts->n_values; i++) n += facts->values[i].n;
    e->facts = xmalloc(n + 1);
    e->n_facts = n;
    if (edits) memcpy(e->facts, facts->edits, edits);
    struct echo *to = (struct echo *)(void *)(e->facts + edits);
    char *text = e->facts + edits + values;
    for (size_t i = 0; i < facts->n_values; i++) {
        to[i] = facts->values[i];
        to[i].p = memcpy(text, facts->values[i].p, facts->values[i].n);
        text += facts->values[i].n;
    }
    e->known = (struct known_sink){.json = {e->bytes, e->n},
                                   .edits = (struct edit *)(void *)e->facts,
                                   .n_edits = facts->n_edits,
                                   .values = to,
                                   .n_values = facts->n_values,
                                   .escapes = facts->escapes};
}

/* Notes where an event had its sink object, so that the next one is recognised before it is parsed.
 */
static void make_known(struct router *r, struct sink_object *e, const struct jobrun *run) {
    if (e->n < QUICK_BYTES || !run->facts.json.p) return;
    keep_facts(e, &run->facts);
    if (!e->facts) return;
    e->known.depth = run->facts.depth;
    e->quick = quick_slot(r, e->bytes);
    *e->quick = e;
    object_charge(r, e);
}

void router_reconfigure(struct router *r, const struct config *cfg) {
    r->cfg = cfg;
    /* What was parsed under other rules is parsed again. */
    while (r->oldest) object_free(r, r->oldest);
}

void router_free(struct router *r) {
    if (!r) return;
    while (r->oldest) object_free(r, r->oldest);
    names_free(r->names);
    free(r->objects);
    free(r->destinations);
    free(r->quick);
    holders_free(r->holders);
    free(r);
}

/* sink.override: the same event, key and grouping, but below a folder that is named after the real
 * destination. Where that can't be, nothing of d is left. */
static bool override(struct router *r, struct destination *d, struct outcome *reterr) {
    struct destination file = {0};
    if (!file_destination(r->cfg->override_dir, &file, reterr)) {
        release(d);
        return false;
    }
    struct buf prefix;
    buf_init(&prefix, KEY_MAX);
    buf_printf(&prefix, "%s/", d->type->name);
    for (const char *c = d->label + strlen(d->type->name); *c && *c != ' '; c++)
        if (*c != ':' && (*c != '/' || prefix.p[prefix.n - 1] != '/'))
            buf_putc(&prefix, strchr("?#%\\\"'*", *c) ? '-' : *c);
    if (prefix.p[prefix.n - 1] != '/') buf_putc(&prefix, '/');
    memcpy(file.identity, d->identity, sizeof file.identity);
    memcpy(file.place, d->place, sizeof file.place);
    release(d);
    free(file.prefix);
    file.prefix = xstrdup(buf_cstr(&prefix));
    buf_free(&prefix);
    *d = file;
    return true;
}

/* The destination just parsed as the table keeps it: an equal one that is known, or a new one.
 * Takes what d owns. */
static struct known_destination *destination_for(struct router *r, struct destination *d) {
    struct known_destination **bucket = &r->destinations[identity_hash(d) & (r->buckets - 1)];
    for (struct known_destination *p = *bucket; p; p = p->next) {
        if (memcmp(p->dest.identity, d->identity, sizeof d->identity) != 0) continue;
        release(d);
        return p;
    }
    struct known_destination *p = xcalloc(1, sizeof *p);
    p->dest = *d;
    p->router = r;
    p->next = *bucket;
    *bucket = p;
    r->n_destinations++;
    destination_charge(r, p);
    return p;
}

static bool read_rules(const cJSON *sink, struct sink_object *e, struct outcome *reterr) {
    static const char not_strings[] = "must be an array of strings";
    bool bad = false;
    const cJSON *skip = sink_field(sink, "skipOnFail", &bad, reterr);
    const cJSON *apis = bad ? NULL : sink_field(sink, "apisToSend", &bad, reterr);
    if (bad) return false;
    if (skip && !cJSON_IsBool(skip))
        return sink_refuse(reterr, FAULT_DATA, "skipOnFail", "must be true or false");
    e->skip_on_fail = cJSON_IsTrue(skip);
    if (!apis) return true;
    if (!cJSON_IsArray(apis)) return sink_refuse(reterr, FAULT_DATA, "apisToSend", not_strings);
    if (cJSON_GetArraySize(apis) > APIS_MAX)
        return sink_refuse(reterr, FAULT_DATA, "apisToSend", "names more than 1000 APIs");
    e->has_apis = true;
    e->apis.v = xcalloc((size_t)cJSON_GetArraySize(apis), sizeof(char *));
    for (const cJSON *api = apis->child; api; api = api->next) {
        if (!cJSON_IsString(api)) return sink_refuse(reterr, FAULT_DATA, "apisToSend", not_strings);
        e->apis.v[e->apis.n++] = xstrdup(api->valuestring);
    }
    return true;
}

static const struct sink_type *sink_type_of(const cJSON *sink, struct outcome *reterr) {
    bool bad = false;
    const cJSON *type = sink_field(sink, "type", &bad, reterr);
    if (bad) return NULL;
    if (!cJSON_IsString(type)) {
        sink_refuse(reterr, FAULT_DATA, "type", "is missing or not a string");
        return NULL;
    }
    const struct sink_type *t = sink_type_named(type->valuestring);
    if (!t)
        *reterr = outcome_fail(VERDICT_PERMANENT, FAULT_DATA, "unknown-sink-type",
                               "this runsink has no sink of the type that the event names");
    return t;
}

/* Wipes every string of a parsed sink object before the memory goes back. */
static void wipe_json(cJSON *j) {
    for (; j; j = j->next) {
        if (j->valuestring) wipe(j->valuestring, strlen(j->valuestring));
        wipe_json(j->child);
    }
}

/* Whether no more than *left values are in the one that comes next; it is valid. */
static bool few_values(struct json *j, size_t *left) {
    struct json_value v, key;
    bool ok = (*left)-- > 0;
    if (json_peek(j) == JSON_ARRAY) {
        json_open_array(j, &v);
        while (ok && json_item(j)) ok = few_values(j, left);
    } else if (json_open(j, &v)) {
        while (ok && json_key(j, &key)) ok = few_values(j, left);
    }
    return ok;
}

static cJSON *parse_sink(struct str text, struct outcome *reterr) {
    struct json j;
    size_t left = VALUES_MAX;
    json_begin(&j, text);
    if (!few_values(&j, &left)) {
        *reterr = outcome_fail(VERDICT_PERMANENT, FAULT_DATA, "invalid-sink",
                               "the sink object holds more than %d values", VALUES_MAX);
        return NULL;
    }
    cJSON *sink = cJSON_ParseWithLength(text.p, text.n);
    if (!cJSON_IsObject(sink))
        *reterr = outcome_fail(VERDICT_PERMANENT, FAULT_DATA, "invalid-sink",
                               "the sink object can't be read");
    return sink;
}

/* No name may show one of the sink's own secrets: those that stand in its own bytes, and no other
 * tenant's, or names and keys would depend on who else is here. Where objects get keys, what names
 * their place can't be told in other words: it is refused for a credential. A URL's path and host
 * are only hidden. */
static bool conceal(const struct known_sink *facts, struct destination *d, struct outcome *reterr) {
    _Static_assert(CONCEAL_MAX == LABEL_MAX, "a label must fit");
    bool keys = d->type->shape == SHAPE_OBJECT, in_prefix = false;
    struct str prefix = str_c(d->prefix);
    struct conceal c;
    conceal_begin(&c, d->label);
    for (size_t i = 0; i < facts->n_values && !in_prefix; i++) {
        struct str value = {facts->values[i].p, facts->values[i].n};
        if (keys && (!facts->values[i].credential || value.n < CONCEAL_MIN)) continue;
        conceal_find(&c, value);
        in_prefix = keys && conceal_shows(prefix, value);
    }
    if (!in_prefix && !conceal_any(&c, &d->secret_host)) return true;
    if (keys) {
        *reterr = outcome_fail(VERDICT_PERMANENT, FAULT_TENANT, "invalid-sink",
                               "the sink's bucket, prefix, path or endpoint contains a credential, "
                               "or the key's id: choose another name, or another key");
        return false;
    }
    char label[LABEL_MAX];
    conceal_end(&c, label);
    memcpy(d->label, label, sizeof label);
    /* The same place and credentials beside other members may go by another name. */
    struct sha256_ctx *h = sha256_begin();
    sha256_add(h, d->identity, sizeof d->identity);
    sha256_add(h, d->label, strlen(d->label));
    sha256_end(h, d->identity);
    return true;
}

/* What stands in the bytes of the sink object, even if it does not stand where facts come from. */
static bool conceal_own(struct router *r, const struct sink_object *e,
                        const struct known_sink *facts, struct destination *d,
                        struct outcome *reterr) {
    struct arena arena = {0};
    struct known_sink own = *facts;
    bool ok = own.json.p || jobrun_sink_facts((struct str){e->bytes, e->n}, r->names, &arena, &own);
    if (!ok)
        *reterr = outcome_fail(VERDICT_PERMANENT, FAULT_DATA, "invalid-sink",
                               "the sink object can't be read");
    ok = ok && conceal(&own, d, reterr);
    if (!ok) release(d);
    arena_wipe(&arena);
    return ok;
}

static void parse_object(struct router *r, struct sink_object *e, const struct known_sink *facts) {
    struct outcome err;
    struct destination d = {0};
    cJSON *sink = parse_sink((struct str){e->bytes, e->n}, &err);
    const struct sink_type *type = NULL;
    if (cJSON_IsObject(sink) && (type = sink_type_of(sink, &err)) && read_rules(sink, e, &err) &&
        type->parse(r->cfg, sink, &d, &err)) {
        d.type = type;
        if (conceal_own(r, e, facts, &d, &err) && (!r->cfg->override_dir || override(r, &d, &err)))
            e->dest = destination_for(r, &d);
    }
    if (e->dest) {
        e->dest->objects++;
    } else {
        e->err = xmalloc(sizeof err);
        *e->err = err;
    }
    wipe_json(sink);
    cJSON_Delete(sink);
    object_charge(r, e);
}

static void touch(struct router *r, struct sink_object *e, int64_t now_ms) {
    e->used_ms = now_ms;
    if (r->newest == e) return;
    lru_unlink(r, e);
    lru_push(r, e);
    holders_use(r->holders, &e->holding);
}

static struct sink_object *lookup(struct router *r, const struct jobrun *run, int64_t now_ms) {
    struct sink_object *e = (struct sink_object *)(uintptr_t)run->known;
    if (e) {
        touch(r, e, now_ms);
        return e;
    }
    struct str sink = run->sink;
    uint64_t hash = keyed_hash(sink.p, sink.n);
    struct sink_object **bucket = &r->objects[hash & (r->buckets - 1)];
    for (e = *bucket; e; e = e->next)
        if (e->hash == hash && str_eq(sink, (struct str){e->bytes, e->n})) break;
    if (e) {
        touch(r, e, now_ms);
        make_known(r, e, run);
        return e;
    }
    while (r->oldest && (r->n_objects >= (size_t)r->cfg->dest_max || too_large(r, sink.n)))
        object_free(r, first_to_go(r));
    e = xcalloc(1, sizeof *e);
    *e = (struct sink_object){.hash = hash, .n = sink.n, .used_ms = now_ms};
    e->bytes = xstrndup(sink.p, sink.n);
    e->next = *bucket;
    *bucket = e;
    lru_push(r, e);
    holders_add(r->holders, &e->holding, keyed_hash(run->workspace_id.p, run->workspace_id.n));
    r->n_objects++;
    parse_object(r, e, &run->facts);
    make_known(r, e, run);
    for (struct sink_object *first; (first = first_to_go(r)) != e && too_large(r, 0);)
        object_free(r, first);
    return e;
}

static bool listed(const struct list *l, struct str s) {
    for (size_t i = 0; i < l->n; i++)
        if (str_is(s, l->v[i])) return true;
    return false;
}

static enum route_kind skip(struct outcome *reterr, const char *why) {
    *reterr = (struct outcome){.verdict = VERDICT_OK};
    outcome_token(reterr->why, sizeof reterr->why, str_c(why));
    return ROUTE_SKIP;
}

static enum route_kind lead(const struct sink_object *e, struct destination **ret_dest,
                            struct outcome *reterr) {
    if (e->dest)
        *ret_dest = &e->dest->dest;
    else
        *reterr = *e->err;
    return e->dest ? ROUTE_DELIVER : ROUTE_DEAD;
}

enum route_kind route_again(struct router *r, const struct jobrun *run, int64_t now_ms,
                            struct destination **ret_dest, struct outcome *reterr) {
    if (!run->sink.p) return skip(reterr, "no-sink");
    return lead(lookup(r, run, now_ms), ret_dest, reterr);
}

enum route_kind route(struct router *r, const struct jobrun *run, int64_t now_ms,
                      struct destination **ret_dest, struct outcome *reterr) {
    if (!run->sink.p) return skip(reterr, "no-sink");
    if (r->cfg->statuses.n && !listed(&r->cfg->statuses, run->status))
        return skip(reterr, "status");
    const struct sink_object *e = lookup(r, run, now_ms);
    if (e->dest && e->skip_on_fail && listed(&r->cfg->fail_statuses, run->status))
        return skip(reterr, "skipOnFail");
    if (e->dest && e->has_apis && run->api_name.n && !listed(&e->apis, run->api_name))
        return skip(reterr, "apisToSend");
    return lead(e, ret_dest, reterr);
}

static struct known_destination *known_of(struct destination *d) {
    return (struct known_destination *)(void *)d;
}

void destination_hold(struct destination *d) {
    struct known_destination *p = known_of(d);
    if (p->held++ == 0) p->router->pinned += p->bytes;
}

void *destination_state(struct destination *d) {
    return known_of(d)->state;
}

void destination_drop(struct destination *d) {
    struct known_destination *p = known_of(d);
    if (--p->held > 0) return;
    p->router->pinned -= p->bytes;
    if (p->objects == 0) destination_free(p->router, p);
}

void router_each(struct router *r, void (*fn)(struct destination *, void *), void *ctx) {
    for (size_t i = 0; i < r->buckets; i++)
        for (struct known_destination *p = r->destinations[i]; p; p = p->next) fn(&p->dest, ctx);
}

size_t router_count(const struct router *r) {
    return r->n_destinations;
}

size_t router_bytes(const struct router *r) {
    return r->bytes;
}

size_t router_room(const struct router *r) {
    size_t half = (size_t)(r->cfg->memory_budget / r->cfg->lanes / 2);
    return half > r->bytes ? half - r->bytes : 0;
}

size_t destination_room(const struct destination *d) {
    return router_room(((const struct known_destination *)(const void *)d)->router);
}

size_t destination_bytes(const struct destination *d) {
    return ((const struct known_destination *)(const void *)d)->bytes;
}

void router_tick(struct router *r, int64_t now_ms) {
    // NOLINTNEXTLINE(clang-analyzer-unix.Malloc): object_free() moves the list on
    while (r->oldest && now_ms - r->oldest->used_ms > r->cfg->dest_idle) object_free(r, r->oldest);
    while (r->oldest && too_large(r, 0)) object_free(r, first_to_go(r));
}
