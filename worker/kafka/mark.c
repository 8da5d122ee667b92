#include "worker/kafka/mark.h"

/* A topic that was made anew has none of the records that were seen before. */
static void take_last(struct mark *mark, const struct ledger_entry *e) {
    if ((!e->has_last && !e->anew) || e->seq < mark->last_seq) return;
    mark->has_last = e->has_last;
    mark->last_seq = e->seq;
    mark->last = e->last;
}

void mark_take(struct mark *mark, const struct ledger_entry *e) {
    take_last(mark, e);
    if (e->anew && mark->era < e->seq + 2) mark->era = e->seq + 2;
    if (mark->known && e->seq < mark->seq) return;
    mark->known = true;
    mark->seq = e->seq;
    mark->next = e->next;
    mark->settled_ms = e->settled_ms;
    memcpy(mark->hash, e->hash, SHA256_LEN);
}

bool mark_tells(const struct mark *mark, int64_t low, int64_t high) {
    return mark->has_last && mark->last.offset >= low && mark->last.offset < high;
}

bool mark_is_older(const struct mark *mark, const struct mark_place *now) {
    if (mark->next > now->high) return true;
    if (now->record != MARK_UNKNOWN) return now->record == MARK_OTHER;
    return now->since == now->low && now->low < mark->next && now->low < now->high;
}

void mark_meta(const struct mark *mark, struct meta *ret) {
    *ret = (struct meta){.seq = mark->seq + 1, .era = mark->era};
    memcpy(ret->head, mark->hash, SHA256_LEN);
}
