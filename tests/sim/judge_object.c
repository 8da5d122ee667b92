/* Objects and posts: each event in one of them, none with two contents, windows that do not overlap
 * (P1, P2). */
#include "tests/sim/judging.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/sim/judge.h"
#include "tests/sim/plan.h"
#include "tests/sim/store.h"
#include "tests/sim/world.h"

/* Windows of which objects are there. */
struct span {
    int topic;
    int32_t partition;
    int era;
    int64_t first, next;
};

static struct span *spans;
static size_t n_spans;

/* Whether a record may have been taken for what killed its worker: it was alone in work when that
 * died of something else, or could not give the partition back. */
bool may_be_blamed(void) {
    return plan.attempts && !plan.peace;
}

/* An object whose lines are judged. */
struct holding {
    int place;
    const struct object *object;
    const char *key;
    struct batch_key window;
    int64_t last;
    int n, destination, era;
};

static void judge_window(const struct event *e, struct holding *h) {
    const struct batch_key *w = &h->window;
    if (h->n++ == 0) h->destination = e->destination;
    if (e->topic != w->topic || e->partition != w->partition || e->era != h->era ||
        e->offset < w->first || e->offset >= w->next)
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
    return body_is_batch(o->key) && parse_batch_key(o->key, &w) &&
           is_clipped(w.topic, w.partition, w.first, w.next);
}

/* Destinations of one place are numbered in their keys. One whose only member is blamed, and is no
 * member any more, has no number, and the others get lower ones. */
static bool is_renumbered(const struct object *o, const struct batch_key *now) {
    struct batch_key w;
    return may_be_blamed() && body_is_batch(o->key) && parse_batch_key(o->key, &w) &&
           w.topic == now->topic && w.partition == now->partition && w.first == now->first &&
           w.next == now->next;
}

static void hold(struct event *e, struct str line, void *context) {
    struct holding *h = context;
    body_judge_line(e, line, h->place, h->key);
    if (body_is_batch(h->key)) {
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
    e->blamed = false; /* who was taken out may come back: the partition was taken anew */
    if (e->arrived_us < 0) e->arrived_us = world_us();
}

/* Two windows of one partition are the same, or have nothing in common. */
static void judge_span(const struct batch_key *w, int era, const char *key) {
    for (size_t i = 0; i < n_spans; i++) {
        const struct span *s = &spans[i];
        if (s->topic != w->topic || s->partition != w->partition || s->era != era ||
            w->next <= s->first || s->next <= w->first)
            continue;
        if (s->first == w->first && s->next == w->next) return;
        if (is_clipped(s->topic, s->partition, s->first, s->next) ||
            is_clipped(w->topic, w->partition, w->first, w->next))
            continue;
        world_fail("P2: the window of %s overlaps that of [%" PRId64 ", %" PRId64 ")", key,
                   s->first, s->next);
    }
    GROW(spans, n_spans);
    spans[n_spans++] = (struct span){w->topic, w->partition, era, w->first, w->next};
}

/* P2. The date in a batch's key is that of its window's first record, whoever makes it and when. */
static void judge_date(const struct batch_key *w, int era, const char *key) {
    const struct event *e = NULL;
    char date[16], said[16] = "";
    for (int64_t at = w->first; at < w->next && (!e || e->visible_us == INT64_MAX); at++)
        e = events_at(w->topic, w->partition, era, at);
    if (!e || is_clipped(w->topic, w->partition, w->first, w->next)) return;
    time_t s = (time_t)(WORLD_EPOCH_MS / 1000 + e->produced_us / WORLD_S);
    strftime(date, sizeof date, "%Y-%m-%d", gmtime(&s));
    sscanf(strstr(key, "dt="), "dt=%10[0-9-]/", said);
    if (strcmp(date, said) != 0) world_fail("P2: the first record of %s is of %s", key, date);
}

static void judge_body(int place, const struct object *o, struct str body) {
    struct holding h = {.place = place, .object = o, .key = o->key, .last = -1};
    struct str text = body_unpack(o->key, body);
    if (!text.n) world_fail("%s is empty", o->key);
    const struct event *first = events_in(text);
    h.era = first ? first->era : 0;
    if (body_is_batch(o->key)) {
        if (!parse_batch_key(o->key, &h.window)) world_fail("%s is no batch's key", o->key);
        judge_span(&h.window, h.era, o->key);
        judge_date(&h.window, h.era, o->key);
    }
    body_each_line(o->key, text, hold, &h);
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
    struct str text = body_unpack(key, body);
    memset(ret, 0, sizeof *ret);
    body_each_line(key, text, note_member, ret);
    free((void *)(uintptr_t)text.p);
}

bool judge_rewritten(int place, const struct object *o, struct str body) {
    static struct members before, now;
    if (!may_be_blamed() || !body_is_batch(o->key)) return false;
    read_members(o->key, (struct str){o->body, o->n}, &before);
    read_members(o->key, body, &now);
    judge_body(place, o, body);
    for (int i = 0; i < events_count(); i++) {
        struct event *e = events_get(i);
        if (now.in[i] || !before.in[i] || e->object != o) continue;
        e->blamed = true;
        e->object = NULL;
    }
    return true;
}

void judge_post(int place, struct str body) {
    struct event *e = events_in(body);
    if (!e) world_fail("P7: a webhook gets what is no event: %.*s", (int)body.n, body.p);
    body_judge_line(e, body, place, "");
    e->posts++;
    if (e->arrived_us < 0) e->arrived_us = world_us();
}
