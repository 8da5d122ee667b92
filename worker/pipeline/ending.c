#include "worker/pipeline/ending.h"

#include "worker/base/log.h"
#include "worker/kafka/fetched.h"
#include "worker/pipeline/lane.h"

/* What was asked for at the start is the end of what can be read; the first fetch tells what an
 * open transaction holds back. */
bool ending_know(struct partition *p) {
    int64_t high = p->end_known ? p->end : vitals_high(p);
    if (high > p->end) p->end = high;
    p->end_known = high >= 0;
    return p->end_known;
}

/* What a fetch told of last may be the end of a topic that is gone. */
static int64_t highest(const struct partition *p) {
    int64_t now = vitals_high(p), seen = p->shrunk ? p->high_before : p->high_seen;
    return now != p->high_stale && now > seen ? now : seen;
}

static int64_t end_of(struct partition *p) {
    if (p->kind == PARTITION_RETRY) return highest(p);
    return ending_know(p) ? p->end : -1;
}

/* Of what lies between the last record and the end nothing can come once the reader has told of an
 * end there. */
static bool is_all_settled(const struct partition *p, int64_t end) {
    if (end < 0 || p->begins || p->windows.count) return false;
    return p->committed >= end || p->eof_at >= end;
}

void ending_tell(struct lane *lane, struct partition *p) {
    if (!lane->shared->ends || !p->loaded || p->begins) return;
    int64_t end = end_of(p);
    const struct ends_at at = {.at = p->committed,
                               .all = is_all_settled(p, end),
                               .end = p->kind == PARTITION_RETRY ? end : p->end,
                               .committed = p->durable || p->committed > 0};
    ends_settled(lane->shared->ends, p->topic, p->id, &at);
}

static void say(const struct partition *p, int64_t from, int64_t to) {
    log_warn("records of the topic that was there before were left unread: they are gone with it",
             LOG_S("topic", p->topic), LOG_I("partition", p->id), LOG_I("from", from),
             LOG_I("to", to));
}

void ending_come(struct lane *lane, const struct partition *p, int64_t low, int64_t high) {
    struct ends_at was;
    const struct ends_at at = {
        .at = p->begins ? low : p->committed, .end = high, .committed = !p->begins};
    if (ends_come(lane->shared->ends, p->topic, p->id, &at, &was)) say(p, was.at, was.end);
}

void ending_anew(struct lane *lane, struct partition *p) {
    struct ends *ends = lane->shared->ends;
    int64_t high = p->shrunk ? p->high_before : p->high_seen, at = partition_at(p);
    ending_tell(lane, p);
    bool unread = ends ? ends_anew(ends, p->topic, p->id) : high > at;
    if (unread) say(p, at, p->end > high ? p->end : high);
}

void ending_first(struct lane *lane, struct partition *p, const struct fetched *f) {
    struct ends_at was;
    if (!p->fresh || !lane->shared->ends || p->kind != PARTITION_SOURCE) return;
    const struct ledger_last first = {fetched_offset(f), fetched_time_ms(f, NULL),
                                      (uint32_t)fetched_value(f).n};
    p->fresh = !p->durable;
    if (!ends_first(lane->shared->ends, p->topic, p->id, &first, &was)) return;
    say(p, was.at, was.end);
    p->end = vitals_high(p);
}

void ending_at(struct lane *lane, struct partition *p, int64_t offset) {
    if (!p->fresh || !lane->shared->ends || offset >= p->end || offset < vitals_high(p)) return;
    if (ends_anew(lane->shared->ends, p->topic, p->id)) say(p, p->committed, p->end);
    p->end = offset;
}
