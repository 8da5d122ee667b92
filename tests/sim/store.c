#include "tests/sim/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/judge.h"
#include "tests/sim/plan.h"
#include "tests/sim/world.h"
#include "worker/base/buf.h"

#define PLACES_MAX 64

static struct place places[PLACES_MAX];
static int n_places;
static bool calm;

int store_add(const char *url, bool hook, bool steady) {
    struct place *p = &places[n_places];
    *p = (struct place){.hook = hook, .steady = steady};
    if (n_places == PLACES_MAX || strlen(url) >= sizeof p->url) abort();
    memcpy(p->url, url, strlen(url) + 1);
    return n_places++;
}

struct place *store_place(int i) {
    return &places[i];
}

int store_count(void) {
    return n_places;
}

const char *sickness_name(enum sickness s) {
    static const char *const names[SICKNESSES] = {
        [WELL] = "well",       [REFUSES] = "refuses", [SILENT] = "is silent",
        [SLOW] = "is slow",    [BROKEN] = "breaks",   [THROTTLES] = "throttles",
        [FORBIDS] = "forbids", [MISSING] = "is gone", [FLAKY] = "is flaky"};
    return names[s];
}

struct object *store_find(const struct place *p, const char *key) {
    struct object *o = p->objects;
    while (o && strcmp(o->key, key) != 0) o = o->next;
    return o;
}

bool store_is_final(const struct place *p, int status) {
    bool permanent = status >= 400 && status < 500 && status != 408 && status != 429;
    return status == 410 || (permanent && !p->hook && plan.permanent_dead);
}

void store_calm(void) {
    calm = true;
}

static char *decode(const char *text) {
    char *ret = xstrdup(text), *to = ret;
    for (const char *c = text; *c && *c != '?'; c++) {
        unsigned byte = (unsigned char)*c;
        if (*c == '%' && sscanf(c + 1, "%2x", &byte) == 1) c += 2;
        *to++ = (char)byte;
    }
    *to = '\0';
    return ret;
}

int store_route(const char *url, char **ret_key) {
    int best = -1;
    size_t longest = 0;
    for (int i = 0; i < n_places; i++) {
        size_t n = strlen(places[i].url);
        if (n <= longest || strncmp(places[i].url, url, n) != 0) continue;
        best = i;
        longest = n;
    }
    *ret_key = decode(url + longest);
    return best;
}

/* ---- what becomes of a request ---- */

static enum sickness sickness_now(const struct place *p) {
    if (calm || world_us() < p->from_us || world_us() >= p->to_us) return WELL;
    if (p->sickness != FLAKY) return p->sickness;
    return world_chance(500) ? WELL : (enum sickness)world_between(REFUSES, MISSING);
}

static void be_well(struct reception *r) {
    r->written_us = world_between(100, 20000);
    r->answered_us = r->written_us + world_between(100, 20000);
    r->status = 200;
}

/* It goes wrong in spite of a place that is well. */
static void go_wrong(struct reception *r) {
    be_well(r);
    switch (world_draw(6)) {
    case 0: /* the answer is lost on the way, or its connection breaks */
        r->answer = world_chance(500) ? ANSWER_RESET : ANSWER_NONE;
        break;
    case 1: /* it lands when nobody waits for it any more */
        r->written_us = world_between(0, 40 * WORLD_S);
        r->answer = ANSWER_NONE;
        break;
    case 2: /* something on the way says it twice */
        r->again_us = r->written_us + world_between(0, 20 * WORLD_S);
        break;
    case 3: /* it is kept, and an error answered */
        r->status = 500;
        break;
    case 4: /* it never arrives */
        r->written_us = -1;
        r->answer = ANSWER_RESET;
        break;
    case 5:
        r->written_us = world_between(0, 3 * WORLD_S);
        r->answered_us = r->written_us + world_between(0, 3 * WORLD_S);
        break;
    }
}

static void refuse(struct reception *r, int status, const char *code) {
    r->answered_us = world_between(100, 50000);
    r->status = status;
    r->code = code;
}

static void be_sick(const struct place *p, enum sickness s, struct reception *r) {
    switch (s) {
    case WELL:
    case FLAKY:
    case SICKNESSES:
        break;
    case REFUSES:
        r->answered_us = world_between(100, 5000);
        r->answer = ANSWER_REFUSED;
        break;
    case SILENT:
        if (world_chance(300)) r->written_us = world_between(0, 30 * WORLD_S);
        r->answer = ANSWER_NONE;
        break;
    case SLOW:
        r->answered_us = world_between(500 * WORLD_MS, 12 * WORLD_S);
        r->written_us = world_between(0, r->answered_us);
        r->status = 200;
        break;
    case BROKEN:
        refuse(r, world_chance(500) ? 500 : 503, world_chance(500) ? "InternalError" : NULL);
        break;
    case THROTTLES:
        refuse(r, world_chance(500) ? 429 : 503, "SlowDown");
        r->retry_after_ms = (uint32_t)world_between(1, 20) * 1000;
        break;
    case FORBIDS:
        refuse(r, 403, "AccessDenied");
        break;
    case MISSING:
        refuse(r, p->hook ? 410 : 404, p->hook ? NULL : "NoSuchBucket");
        break;
    }
}

void store_receive(int place, struct reception *ret) {
    const struct place *p = &places[place];
    enum sickness s = sickness_now(p);
    *ret = (struct reception){.written_us = -1, .again_us = -1, .answered_us = -1};
    if (s != WELL)
        be_sick(p, s, ret);
    else if (!calm && !p->steady && world_chance((unsigned)plan.store_faults))
        go_wrong(ret);
    else
        be_well(ret);
    if (ret->answer == ANSWER_NONE) ret->answered_us = -1;
}

/* ---- what is there ---- */

static struct object *put(int place, const char *key, struct str body) {
    struct place *p = &places[place];
    struct object *o = store_find(p, key);
    if (o) {
        bool same = o->n == body.n && memcmp(o->body, body.p, body.n) == 0;
        if (!same && !judge_rewritten(place, o, body))
            world_fail("P2: %s%s is written with another content: %zu bytes, then %zu", p->url, key,
                       o->n, body.n);
        if (!same) {
            struct object *older = xcalloc(1, sizeof *older);
            *older = (struct object){.body = o->body, .n = o->n, .older = o->older};
            o->older = older;
            o->body = xstrndup(body.p, body.n);
            o->n = body.n;
        }
        o->writes++;
        return o;
    }
    o = xcalloc(1, sizeof *o);
    *o = (struct object){.key = xstrdup(key),
                         .body = xstrndup(body.p, body.n),
                         .n = body.n,
                         .at_us = world_us(),
                         .writes = 1,
                         .next = p->objects};
    p->objects = o;
    return o;
}

void store_write(int place, const char *key, struct str body) {
    struct place *p = &places[place];
    if (p->proof) {
        world_say("anchored: %s", key);
        judge_anchor(key, body);
        return;
    }
    if (p->hook) {
        world_say("posted to %s: %zu bytes", p->url, body.n);
        judge_post(place, body);
        return;
    }
    if (world_breaks("store") && world_chance(20)) return; /* it says that it has it, and has not */
    struct object *o = put(place, key, body);
    world_say("written %s%s: %zu bytes, %u times", p->url, key, body.n, o->writes);
    if (o->writes == 1) judge_object(place, o);
}
