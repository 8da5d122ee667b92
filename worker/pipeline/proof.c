/* Where the entry is not ours, deliveries go on and the chain goes on unsigned: `verify --key`
 * fails then, and a trouble says so until the operator has looked (ledger.begin_signing). Where the
 * ledger can't be read now, the partition waits. */
#include "worker/pipeline/proof.h"

#include <stdio.h>

#include "worker/base/log.h"
#include "worker/kafka/head_search.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/source.h"

#define AGAIN_MS 5000
#define IDLE_MS 1000 /* those that have work come first */
/* A partition that nothing is written to may have its newest entry anywhere in years of a ledger.
 * What a killed worker had not anchored is among the last. */
#define IDLE_RECORDS 50000

void proof_stop(struct lane *lane) {
    head_search_free(lane->proof);
    lane->proof = NULL;
}

static void failed(struct lane *lane, const char *error) {
    lane->proof_after_ms = lane->now_ms + AGAIN_MS;
    log_warn("the ledger can't be read now: partitions wait until it is known whether their newest "
             "entries are signed",
             LOG_I("lane", lane->id), LOG_S("error", error));
}

/* Something is to be settled soon. */
static bool has_work(struct lane *lane, struct partition *p) {
    struct feed_head head;
    return p->seek_ms || partition_begins_unproven(p) || source_peek(lane, p, &head);
}

static void want(struct heads *heads, const struct partition *p) {
    struct head_want w = {.partition = p->id, .seq = p->meta.seq - 1, .next = p->proof_next};
    snprintf(w.topic, sizeof w.topic, "%s", p->topic);
    memcpy(w.hash, p->meta.head, SHA256_LEN);
    heads_add(heads, &w);
}

/* For all of the source topic that have work; the entries of idle ones may be far back. They are
 * looked for alone, for the sake of anchors. */
static void start(struct lane *lane, const char *source, bool idle) {
    struct buf err;
    buf_init(&err, 4096);
    struct ledger_pubkey keys[LEDGER_SIGNER_KEYS];
    size_t n_keys = ledger_signer_keys(lane->shared->signer, keys);
    struct heads *heads = heads_new(lane->cfg->group, keys, n_keys);
    for (struct partition *p = lane->partitions; p; p = p->next) {
        if (p->proof != PROOF_WANTED || strcmp(p->base, source) != 0) continue;
        if (idle ? p->proof_far : !has_work(lane, p)) continue;
        p->proof = PROOF_ASKED;
        want(heads, p);
    }
    lane->proof = head_search_new(lane->cfg, source, heads, idle ? IDLE_RECORDS : INT64_MAX,
                                  lane->wake_fd, &err);
    lane->proof_is_idle = idle;
    for (struct partition *p = lane->partitions; !lane->proof && p; p = p->next)
        if (p->proof == PROOF_ASKED) p->proof = PROOF_WANTED;
    if (!lane->proof) failed(lane, buf_cstr(&err));
    buf_free(&err);
}

static bool may_start(const struct lane *lane, const struct partition *p) {
    return p->proof == PROOF_WANTED && !lane->proof && lane->now_ms >= lane->proof_after_ms;
}

bool proof_waits(struct lane *lane, struct partition *p) {
    if (may_start(lane, p) && has_work(lane, p)) start(lane, p->base, false);
    return partition_unproven(p);
}

/* Heads that a killed worker had not anchored are to be, though nothing new comes. */
static void look_at_idle(struct lane *lane) {
    for (struct partition *p = lane->partitions; lane->anchorer && p; p = p->next)
        if (may_start(lane, p) && !p->proof_far && lane->now_ms - p->proof_ms >= IDLE_MS)
            start(lane, p->base, true);
}

/* It is looked for again when the partition has work. */
static bool is_far(const struct lane *lane, const struct partition *p) {
    return lane->proof_is_idle && !heads_found(head_search_heads(lane->proof), p->topic, p->id);
}

static void take(struct lane *lane, struct partition *p, const char *wrong) {
    char place[PARTITION_NAME_MAX];
    p->proof = wrong ? PROOF_BAD : PROOF_GOOD;
    if (!wrong) return;
    partition_name(p, place);
    trouble_set(lane->shared->troubles, lane->id, TROUBLE_UNSIGNED, place, wrong, 0);
}

void proof_poll(struct lane *lane) {
    const char *error = "";
    look_at_idle(lane);
    if (!lane->proof) return;
    enum ledger_search_state state = head_search_state(lane->proof, &error);
    if (state == LEDGER_SEARCH_ON) return;
    if (state == LEDGER_SEARCH_FAILED) failed(lane, error);
    for (struct partition *p = lane->partitions; p; p = p->next) {
        if (p->proof != PROOF_ASKED) continue;
        p->proof_far = state == LEDGER_SEARCH_DONE && is_far(lane, p);
        if (state == LEDGER_SEARCH_FAILED || p->proof_far)
            p->proof = PROOF_WANTED;
        else
            take(lane, p,
                 state == LEDGER_SEARCH_DENIED
                     ? "no right to read the ledger: allow Read on it"
                     : heads_wrong(head_search_heads(lane->proof), p->topic, p->id));
    }
    lane->again = true;
    proof_stop(lane);
}
