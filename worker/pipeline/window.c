#include "worker/pipeline/window.h"

#include <stdio.h>
#include <stdlib.h>

#include "worker/base/buf.h"
#include "worker/pipeline/dispatch.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/record.h"
#include "worker/pipeline/route.h"

/* Bookkeeping that went wrong would settle what was not delivered: no build may skip these. */
static void must(bool holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "runsink: bug: %s\n", what);
    abort();
}

bool windows_init(struct windows *ws, int64_t offset, const int64_t *ends, size_t n_ends) {
    if (n_ends > WINDOW_ENDS_MAX) return false;
    int64_t before = offset;
    for (size_t i = 0; i < n_ends; i++) {
        if (ends[i] <= before) return false;
        before = ends[i];
    }
    *ws = (struct windows){.next = offset, .n_ends = n_ends};
    for (size_t i = 0; i < n_ends; i++) ws->ends[i] = ends[i];
    return true;
}

void windows_clear(struct windows *ws) {
    struct window *w;
    while ((w = windows_pop(ws))) {
        if (w->lane) count(&w->lane->counters, COUNTER_UNPARKED, w->parked);
        w->unsettled = true;
        window_discard(w);
    }
}

struct window *windows_open(const struct windows *ws) {
    return ws->newest && !ws->newest->sealed ? ws->newest : NULL;
}

static void drop_ends(struct windows *ws, size_t n) {
    ws->n_ends -= n;
    memmove(ws->ends, ws->ends + n, ws->n_ends * sizeof ws->ends[0]);
}

static struct window *append(struct windows *ws) {
    struct window *w = xcalloc(1, sizeof *w);
    w->first = ws->next;
    w->last_taken = ws->next - 1;
    w->next = -1;
    if (ws->newest)
        ws->newest->newer = w;
    else
        ws->oldest = w;
    ws->newest = w;
    ws->count++;
    return w;
}

static struct window *open_next(struct windows *ws) {
    struct window *w = append(ws);
    if (ws->n_ends > 0) {
        w->replayed = w->declared = true;
        w->next = ws->ends[0];
        drop_ends(ws, 1);
    }
    return w;
}

static void seal_at(struct windows *ws, struct window *w, int64_t next) {
    w->next = next;
    w->sealed = true;
    ws->next = next;
}

void windows_passed(struct windows *ws, int64_t position) {
    for (;;) {
        struct window *w = windows_open(ws);
        if (!w && ws->n_ends > 0 && ws->ends[0] <= position) w = open_next(ws);
        if (!w || !w->replayed || w->next > position) return;
        seal_at(ws, w, w->next);
    }
}

/* A redelivery: the record has its place in a window already. */
static bool is_taken(const struct windows *ws, int64_t offset) {
    const struct window *open = windows_open(ws);
    return offset < ws->next || (open && offset <= open->last_taken);
}

bool windows_would_open(const struct windows *ws, int64_t offset) {
    const struct window *open = windows_open(ws);
    if (is_taken(ws, offset)) return false;
    return !open || (open->replayed && open->next <= offset);
}

struct window *windows_take(struct windows *ws, int64_t offset, bool *ret_fresh) {
    if (is_taken(ws, offset)) return NULL;
    windows_passed(ws, offset);
    struct window *w = windows_open(ws);
    *ret_fresh = !w;
    if (!w) w = open_next(ws);
    w->last_taken = offset;
    w->taken++;
    return w;
}

void window_done(struct window *w) {
    must(w->done < w->taken, "a window has more outcomes than records");
    w->done++;
}

bool window_complete(const struct window *w) {
    return w->sealed && w->done == w->taken;
}

bool windows_seal(struct windows *ws) {
    struct window *w = windows_open(ws);
    if (!w) return false;
    if (w->replayed ? w->last_taken + 1 < w->next : ws->count >= WINDOW_ENDS_MAX) return false;
    seal_at(ws, w, w->replayed ? w->next : w->last_taken + 1);
    return true;
}

struct window *windows_lost(struct windows *ws, int64_t available) {
    must(!windows_open(ws), "records are declared lost inside an open window");
    if (available <= ws->next) return NULL;
    size_t gone = 0;
    while (gone < ws->n_ends && ws->ends[gone] <= available) gone++;
    if (ws->count + ws->n_ends - gone >= WINDOW_ENDS_MAX) return NULL;
    drop_ends(ws, gone);
    struct window *w = append(ws);
    w->lost = true;
    seal_at(ws, w, available);
    return w;
}

size_t windows_settleable(const struct windows *ws) {
    size_t n = 0;
    for (const struct window *w = ws->oldest; w && window_complete(w); w = w->newer) n++;
    return n;
}

struct window *windows_pop(struct windows *ws) {
    struct window *w = ws->oldest;
    if (!w) return NULL;
    ws->oldest = w->newer;
    if (!ws->oldest) ws->newest = NULL;
    ws->count--;
    w->newer = NULL;
    w->partition = NULL;
    return w;
}

size_t windows_ends(const struct windows *ws, size_t skip, int64_t ret[WINDOW_ENDS_MAX]) {
    size_t n = 0;
    size_t at = 0;
    for (const struct window *w = ws->oldest; w; w = w->newer, at++) {
        if (at < skip || w->next < 0) continue;
        must(n < WINDOW_ENDS_MAX, "too many boundaries");
        ret[n++] = w->next;
    }
    must(n + ws->n_ends <= WINDOW_ENDS_MAX, "too many boundaries");
    for (size_t i = 0; i < ws->n_ends; i++) ret[n++] = ws->ends[i];
    return n;
}

/* ---- what a window owns ---- */

void window_begin(struct lane *lane, struct partition *p, struct window *w, int64_t timestamp_ms) {
    w->lane = lane;
    w->partition = p;
    w->opened_ms = lane->now_ms;
    w->opened_wall_ms = lane->wall_ms;
    w->timestamp_ms = timestamp_ms;
    w->batched =
        p->kind == PARTITION_SOURCE && (lane->cfg->archive == CONFIG_ARCHIVE_BATCH || w->replayed);
    w->of_retries = p->kind == PARTITION_RETRY;
    w->topic = arena_strdup(&w->arena, str_c(p->base));
}

void window_hold(struct window *w, ptrdiff_t bytes) {
    w->held += (size_t)bytes;
    w->lane->held += (size_t)bytes;
    if (w->of_retries) w->lane->held_retries += (size_t)bytes;
}

void window_hold_arena(struct window *w) {
    size_t grown = w->arena.bytes - w->arena_counted;
    w->arena_counted = w->arena.bytes;
    window_hold(w, (ptrdiff_t)grown);
}

void window_cancel(struct window *w, enum cancel why) {
    if (!w->out) return;
    for (struct delivery *d = w->deliveries; d; d = d->next_in_window)
        if (d->state == DELIVERY_WAITING || d->state == DELIVERY_FLYING)
            dispatch_cancel(w->lane->dispatch, d, why);
}

void window_free(struct window *w) {
    if (!w) return;
    for (struct delivery *d = w->deliveries; d; d = d->next_in_window) {
        buf_free(&d->body);
        if (d->holds) destination_drop(d->batch.dest);
        if (d->members != d->only) free(d->members);
    }
    for (struct record *r = w->records; r; r = r->next) fetched_free(r->message);
    if (w->lane) w->lane->held -= w->held;
    if (w->lane && w->of_retries) w->lane->held_retries -= w->held;
    table_free(&w->groups);
    arena_wipe(&w->arena);
    free(w);
}

void window_discard(struct window *w) {
    if (!w->out && (!w->lane || !w->lane->settlement)) {
        window_free(w);
        return;
    }
    window_cancel(w, CANCEL_LEAVING);
    w->newer = w->lane->dropped;
    w->lane->dropped = w;
}

void window_free_discarded(struct lane *lane) {
    for (struct window **at = &lane->dropped, *w; (w = *at);) {
        if (w->out || lane->settlement) {
            at = &w->newer;
            continue;
        }
        *at = w->newer;
        window_free(w);
    }
}
