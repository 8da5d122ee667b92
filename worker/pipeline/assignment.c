/* The rules are those of the settlement protocol (worker/README.md). */
#include "worker/pipeline/assignment.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/kafka/topic_names.h"
#include "worker/pipeline/caution.h"
#include "worker/pipeline/ending.h"
#include "worker/pipeline/lane.h"

#define REVOKE_FINISH_MS 5000
#define ASK_AGAIN_MS 200

/* ---- partitions ---- */

/* Kind and source topic of a topic that we subscribed to: by its name alone, since a retry topic
 * stays one when its delay is not configured any more. */
static void classify(const struct lane *lane, struct partition *p) {
    bool retry = topic_source(p->topic, p->base) == TOPIC_RETRY;
    p->kind = retry ? PARTITION_RETRY : PARTITION_SOURCE;
    p->leftover = p->kind == PARTITION_RETRY && topic_is_leftover(lane->cfg, p->topic);
    const char *delay = strrchr(p->topic, '.');
    if (p->kind == PARTITION_RETRY) config_parse_ms(delay + 1, &p->delay_ms);
}

static struct partition *partition_new(struct lane *lane, const struct assigned *a) {
    struct partition *p = xcalloc(1, sizeof *p);
    snprintf(p->topic, sizeof p->topic, "%s", a->topic);
    p->id = a->partition;
    p->feed = a->feed;
    p->serial = ++lane->serials;
    p->came_ms = lane->now_ms;
    p->end = -1;
    p->special = INT64_MAX;
    p->before = p->high_seen = p->high_stale = p->anew_at = -1;
    broker_clock_begin(&p->broker);
    classify(lane, p);
    p->next = lane->partitions;
    lane->partitions = p;
    return p;
}

void assignment_drop(struct lane *lane, struct partition *p) {
    struct partition **at = &lane->partitions;
    while (*at != p) at = &(*at)->next;
    *at = p->next;
    caution_set(lane, p, CAUTION_NONE);
    windows_clear(&p->windows);
    char place[PARTITION_NAME_MAX];
    partition_name(p, place);
    trouble_drop(lane->shared->troubles, lane->id, place);
    free(p);
}

/* ---- committed offset and metadata ---- */

bool assignment_watermarks(struct lane *lane, const struct partition *p, int64_t *low,
                           int64_t *high) {
    place_at(&lane->place, STEP_KAFKA, -1); /* a rebalance may ask for many */
    return feed_ask_ends(p->feed, low, high);
}

/* Nothing is committed: it begins with its first record, wherever the group began (begin.h). Where
 * that is turns out when it arrives; what was before, then too (recall.c). */
static void no_commit_yet(const struct lane *lane, struct partition *p) {
    p->meta = (struct meta){0};
    p->begins = p->fresh = true;
    if (lane->cfg->ledger) p->recall = RECALL_WANTED;
}

void assignment_begin(struct partition *p, int64_t offset) {
    p->begins = false;
    p->committed = offset;
    p->pin = p->recall == RECALL_NONE; /* else once it is known what the ledger has */
    windows_init(&p->windows, offset, NULL, 0);
}

/* The topic is another one than the one that was read, under the same name. Its first record's
 * offset is made durable, or a restart would look for the old one again. */
void assignment_anew(struct lane *lane, struct partition *p, int64_t low) {
    log_error("the topic was deleted and made anew: it is read from its first record",
              LOG_S("topic", p->topic), LOG_I("partition", p->id),
              LOG_I("read_to", partition_at(p)), LOG_I("first", low));
    ending_anew(lane, p);
    if (p->before < 0) p->before = p->committed;
    p->committed = low;
    p->pin = true;
    p->durable = false;
    p->doubts = 0;
    p->at_first = false;
    p->unsure_ms = p->astray_ms = p->beyond_ms = 0;
    p->shrunk = p->vanished = p->left = false;
    p->anew_at = -1;
    if (p->end >= 0) p->end = low; /* what was there at the start of --until-end is gone */
    caution_set(lane, p, CAUTION_NONE);
    p->suspect = (struct claim){0};
    p->want = caution_anew(lane, p);
    caution_look_ahead(lane, p, low);
    p->opened_ms = 0;
    p->high_seen = -1;
    p->high_stale = vitals_high(p);
    p->replay_end = 0;
    p->eof = false;
    windows_init(&p->windows, low, NULL, 0);
    assignment_move(p, low);
    assignment_doubt(lane, p->topic);
}

static void foreign_metadata(const struct partition *p, int64_t offset) {
    log_warn("the committed offset carries no metadata of ours: it was set by another tool; the "
             "ledger's chain starts anew here",
             LOG_S("topic", p->topic), LOG_I("partition", p->id), LOG_I("offset", offset));
}

static void recall(struct partition *p, int64_t offset, struct str text) {
    p->committed = offset;
    p->durable = true;
    bool ours = meta_decode(text, &p->meta);
    if (!ours) p->meta = (struct meta){0};
    if (!windows_init(&p->windows, offset, p->meta.ends, p->meta.n_ends)) {
        ours = false;
        p->meta.n_ends = 0;
        windows_init(&p->windows, offset, NULL, 0);
    }
    if (!ours) foreign_metadata(p, offset);
    p->replay_end = p->meta.n_ends ? p->meta.ends[p->meta.n_ends - 1] : 0;
}

void assignment_prove(const struct lane *lane, struct partition *p, int64_t next) {
    const struct config *cfg = lane->cfg;
    bool any = lane->shared->signer && cfg->ledger && !cfg->ledger_begin_signing && p->meta.seq;
    p->proof = any ? PROOF_WANTED : PROOF_NONE;
    p->proof_far = false;
    p->proof_next = next;
    p->proof_ms = lane->now_ms;
}

/* Fills in where the partition stands, and begins to read it; when the broker can't tell now, it is
 * asked again. */
static void load_state(struct lane *lane, struct partition *p, const struct committed *c) {
    bool bounded = lane->shared->until_end && p->kind == PARTITION_SOURCE;
    int64_t low = -1, high = -1;
    if (bounded && !assignment_watermarks(lane, p, &low, &high)) return;
    if (c->offset >= 0)
        recall(p, c->offset, c->metadata);
    else
        no_commit_yet(lane, p);
    assignment_prove(lane, p, p->committed);
    p->end = high;
    p->want = p->meta.claim;
    p->loaded = true;
    if (lane->shared->ends) ending_come(lane, p, low, high);
    feed_start(p->feed, p->begins ? FEED_BEGINNING : p->committed);
    log_debug("partition assigned", LOG_I("lane", lane->id), LOG_S("topic", p->topic),
              LOG_I("partition", p->id), LOG_I("offset", p->begins ? -1 : p->committed),
              LOG_I("seq", (int64_t)p->meta.seq), LOG_I("replay", (int64_t)p->meta.n_ends));
}

void assignment_doubt(struct lane *lane, const char *topic) {
    for (struct partition *p = lane->partitions; p; p = p->next)
        if (p->durable && !p->doubts && strcmp(p->topic, topic) == 0) p->doubts = 1;
}

static void ask_in_doubt(const struct lane *lane, struct partition *p) {
    if (!p->doubts || p->doubting || lane->now_ms - p->asked_ms < ASK_AGAIN_MS) return;
    feed_ask_committed(p->feed);
    p->doubting = true;
    p->asked_ms = clock_ms(CLOCK_MONOTONIC); /* what was fetched in this turn is older */
}

bool assignment_is_sure(const struct lane *lane, struct partition *p, int64_t since_ms) {
    if (!p->durable || p->sure_ms >= since_ms) return true;
    if (!p->doubts) p->doubts = 1;
    ask_in_doubt(lane, p);
    return false;
}

void assignment_sure(struct partition *p, int64_t asked_ms) {
    if (p->sure_ms < asked_ms) p->sure_ms = asked_ms;
}

/* A commit that is gone while we are a member went with its topic. Asked twice: it is not to be
 * concluded from one answer that was lost. */
static void take_doubt(struct lane *lane, struct partition *p, const struct committed *c) {
    if (!p->doubting) return;
    p->doubting = false;
    if (!p->doubts || !c->known) return;
    p->doubts = c->offset >= 0 || !p->durable ? 0 : p->doubts + 1;
    if (!p->doubts) {
        p->sure_ms = p->asked_ms;
        p->asked_ms = 0; /* the next question need not wait */
    }
    if (p->doubts < 3) return;
    p->doubts = 0;
    p->durable = false;
    p->vanished = true;
    p->seek_ms = lane->now_ms;
    assignment_doubt(lane, p->topic);
}

static void take_committed(struct lane *lane, struct partition *p, const struct committed *c) {
    if (p->loaded) {
        take_doubt(lane, p, c);
    } else if (c->known) {
        vitals_contact(lane);
        load_state(lane, p, c);
    }
}

static struct partition *partition_of(const struct lane *lane, const struct feed *feed) {
    struct partition *p = lane->partitions;
    while (p && p->feed != feed) p = p->next;
    return p;
}

void assignment_committed(void *context, struct feed *feed, const struct committed *c) {
    struct partition *p = partition_of(context, feed);
    if (!p) return;
    p->asking = false;
    take_committed(context, p, c);
}

/* ---- rebalance ---- */

static void rebalanced(struct lane *lane) {
    count(&lane->counters, COUNTER_REBALANCES, 1);
    atomic_store(&lane->done, false); /* until it has looked at what it has now */
    if (lane->stale) lane->settle_after_ms = 0;
    lane->stale = false;
    lane->memberships++;
}

void assignment_assigned(void *context, const struct assigned *v, size_t n) {
    struct lane *lane = context;
    rebalanced(lane);
    for (size_t i = 0; i < n; i++)
        take_committed(lane, partition_new(lane, &v[i]), &v[i].committed);
    lane->assigned = true;
    pthread_mutex_lock(&lane->shared->mutex);
    consumer_member(lane->consumer, lane->member, sizeof lane->member);
    pthread_mutex_unlock(&lane->shared->mutex);
    vitals_joined(lane);
    log_info("partitions assigned", LOG_I("lane", lane->id), LOG_I("partitions", (int64_t)n),
             LOG_S("group", lane->cfg->group));
}

void assignment_move(struct partition *p, int64_t offset) {
    p->seek_ms = 0;
    p->head_due_ms = 0;
    feed_move(p->feed, offset);
}

struct feeds {
    struct feed *const *v;
    size_t n;
};

static bool is_among(const struct partition *p, void *feeds) {
    const struct feeds *f = feeds;
    for (size_t i = 0; i < f->n; i++)
        if (f->v[i] == p->feed) return true;
    return false;
}

void assignment_revoked(void *context, struct feed *const *v, size_t n, bool lost, bool all) {
    struct lane *lane = context;
    struct feeds going = {v, n};
    int64_t most = lane->cfg->drain_timeout;
    rebalanced(lane);
    if (lost)
        log_warn("partitions lost: another member may have them already; what was not settled "
                 "is left to it",
                 LOG_I("lane", lane->id), LOG_I("partitions", (int64_t)n));
    else if (!lane->restart && !lane->draining)
        lane->finish(lane, is_among, &going, most < REVOKE_FINISH_MS ? most : REVOKE_FINISH_MS);
    for (size_t i = 0; i < n; i++) {
        struct partition *p = partition_of(lane, v[i]);
        if (!p) continue;
        ending_tell(lane, p);
        assignment_drop(lane, p);
    }
    /* The cooperative protocol takes away what is to go elsewhere, and the rest stays. */
    if (all) vitals_revoked(lane);
    /* Of topics that are gone alone what they had is taken away, and the rest stays. */
    if (lost && !lane->partitions) lane->assigned = false;
}

/* ---- what became known late ---- */

static void ask_unloaded(struct lane *lane) {
    for (struct partition *p = lane->partitions; p; p = p->next) {
        if (p->loaded || p->asking || lane->now_ms - p->asked_ms < ASK_AGAIN_MS) continue;
        feed_ask_committed(p->feed);
        p->asking = true;
        p->asked_ms = lane->now_ms;
    }
}

void assignment_poll(struct lane *lane) {
    ask_unloaded(lane);
    for (struct partition *p = lane->partitions; p; p = p->next) ask_in_doubt(lane, p);
}
