/* A partition that has no committed offset has not always been without: its topic, be it a source
 * or a retry topic, was deleted, which takes the group's offsets along, and made anew; or they have
 * expired. Then the ledger has its chain, which has to go on. So the ledger is read before a record
 * of the partition is taken.
 *
 * It may be long, so it is read ahead of the first record, and where it has no chain either, the
 * partition's beginning is committed: it is not read for that partition again. Else a tenant whose
 * sink fails for the first time would have others' records wait for it. */
#include "worker/pipeline/recall.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/base/log.h"
#include "worker/kafka/ledger_search.h"
#include "worker/kafka/topic_names.h"
#include "worker/pipeline/assignment.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/source.h"
#include "worker/pipeline/vitals.h"

#define AGAIN_MS 5000

static void told_no_more(struct lane *lane) {
    if (lane->recall_place[0])
        trouble_clear(lane->shared->troubles, lane->id, TROUBLE_HELD, lane->recall_place);
    lane->recall_place[0] = '\0';
}

/* An open transaction in the ledger, most likely of a worker that was killed, holds up the records
 * that wait for what it hides. */
static void tell_held(struct lane *lane) {
    char ledger[TOPIC_MAX + 1], place[sizeof lane->recall_place];
    int32_t partition;
    bool held = lane->recall_needed && ledger_search_held(lane->recall, &partition);
    if (!held || !lane->recall_held_ms) lane->recall_held_ms = held ? lane->now_ms : 0;
    if (!held || !topic_ledger(ledger_search_source(lane->recall), ledger)) {
        told_no_more(lane);
        return;
    }
    snprintf(place, sizeof place, "%s/%" PRId32, ledger, partition);
    if (strcmp(place, lane->recall_place) != 0) told_no_more(lane);
    if (lane->now_ms - lane->recall_held_ms < lane->cfg->ready_patience) return;
    memcpy(lane->recall_place, place, sizeof place);
    trouble_set(lane->shared->troubles, lane->id, TROUBLE_HELD, place,
                "partitions without a committed offset wait for what it hides in the ledger",
                lane->recall_held_ms);
}

void recall_stop(struct lane *lane) {
    told_no_more(lane);
    lane->recall_held_ms = 0;
    ledger_search_free(lane->recall);
    lane->recall = NULL;
    for (struct partition *p = lane->partitions; p; p = p->next)
        if (p->recall == RECALL_ASKED) p->recall = RECALL_WANTED;
}

static void failed(struct lane *lane, const char *error) {
    lane->recall_after_ms = lane->now_ms + AGAIN_MS;
    log_warn("the ledger can't be read now: what has no committed offset waits until it is known "
             "whether it has entries there",
             LOG_I("lane", lane->id), LOG_S("error", error));
}

/* For all of the ledger that wait for it, or may have to: it may be long, and is read once. */
static void start(struct lane *lane, const char *source) {
    size_t n = 0, most = 0;
    struct buf err;
    buf_init(&err, 4096);
    for (const struct partition *p = lane->partitions; p; p = p->next) most++;
    struct ledger_place *places = xcalloc(most, sizeof *places);
    for (const struct partition *p = lane->partitions; p; p = p->next)
        if (p->recall == RECALL_WANTED && strcmp(p->base, source) == 0)
            places[n++] = (struct ledger_place){p->topic, p->id};
    lane->recall = ledger_search_new(lane->cfg, source, places, n, lane->wake_fd, &err);
    if (!lane->recall) failed(lane, buf_cstr(&err));
    for (struct partition *p = lane->partitions; lane->recall && p; p = p->next)
        if (p->recall == RECALL_WANTED && strcmp(p->base, source) == 0) p->recall = RECALL_ASKED;
    free(places);
    buf_free(&err);
}

bool recall_waits(struct lane *lane, struct partition *p) {
    struct feed_head head;
    if (p->recall == RECALL_NONE) return false;
    /* One that is not due is one. */
    bool any = source_peek(lane, p, &head) || p->head_due_ms;
    if (p->recall == RECALL_ASKED) lane->recall_needed = lane->recall_needed || any;
    if (p->recall != RECALL_WANTED || lane->now_ms < lane->recall_after_ms) return true;
    /* Nobody waits for what is read ahead. */
    if (any && lane->recall && !lane->recall_needed) recall_stop(lane);
    if (!lane->recall) {
        start(lane, p->base);
        lane->recall_needed = any;
    }
    return true;
}

/* The new topic's chain is the old one's, which goes on. */
static void go_on_anew(struct partition *p, const struct mark *mark) {
    mark_meta(mark, &p->meta);
    p->before = mark->next;
    p->shrunk = false; /* an end that was told before may be the old one's */
    p->high_seen = -1;
    p->high_stale = vitals_high(p);
    p->pin = !p->begins; /* else as soon as it is known where */
    log_warn("the topic was deleted and made anew: it is read from its first record, and the "
             "ledger says so",
             LOG_S("topic", p->topic), LOG_I("partition", p->id), LOG_I("read_to", mark->next));
}

static void go_on(struct partition *p, const struct mark *mark) {
    mark_meta(mark, &p->meta);
    assignment_begin(p, mark->next);
    p->pin = true; /* or whatever is asked for its commit finds none until the next record */
    p->eof = false;
    assignment_move(p, mark->next);
    log_warn("a partition has no committed offset, and the ledger has entries of it: it has "
             "expired (offsets.retention.minutes) or was deleted, and is taken from the ledger",
             LOG_S("topic", p->topic), LOG_I("partition", p->id), LOG_I("offset", mark->next));
}

static void apply(struct lane *lane, struct partition *p, enum ledger_search_state state) {
    bool older = false;
    const struct mark *mark = state == LEDGER_SEARCH_DONE
                                  ? ledger_search_mark(lane->recall, p->topic, p->id, &older)
                                  : NULL;
    p->recall = state == LEDGER_SEARCH_FAILED ? RECALL_WANTED : RECALL_NONE;
    if (p->recall == RECALL_NONE && !mark) p->pin = !p->begins;
    if (!mark) return;
    if (older)
        go_on_anew(p, mark);
    else
        go_on(p, mark);
    assignment_prove(lane, p, mark->next);
}

void recall_poll(struct lane *lane) {
    const char *error = "";
    if (!lane->recall) return;
    enum ledger_search_state state = ledger_search_state(lane->recall, &error);
    if (state == LEDGER_SEARCH_ON) tell_held(lane);
    if (state == LEDGER_SEARCH_ON) return;
    if (state == LEDGER_SEARCH_DENIED)
        log_warn("no right to read the ledger: a chain that it may have of partitions without a "
                 "committed offset begins again; allow Read on it",
                 LOG_I("lane", lane->id), LOG_S("error", error));
    else if (state == LEDGER_SEARCH_FAILED)
        failed(lane, error);
    const char *source = ledger_search_source(lane->recall);
    for (struct partition *p = lane->partitions; p; p = p->next)
        if (p->recall == RECALL_ASKED && strcmp(p->base, source) == 0) apply(lane, p, state);
    lane->again = true;
    recall_stop(lane);
}
