/* The windows of one partition: which records were taken, which have their outcome, what may be
 * settled, and which window ends ("boundaries") are durable. That part is bookkeeping without I/O
 * or clock, property-tested against a naive model. And what a window owns: its records, and the
 * deliveries that carry them to their destinations. Lane's thread.
 *
 * A window is a contiguous run [first, next) of offsets; first is the previous window's next.
 * Offsets inside that no record has (transaction markers, compaction) are legal. A window is open
 * (the last one only), then sealed (its end is fixed), then, in batch mode, declared (its end is
 * durable in the committed offset's metadata), complete (sealed and each taken record has its
 * outcome), and settled (popped). Windows are settled in order. After a restart the ends that were
 * declared but not settled are replayed: windows get exactly those ends again. */
#ifndef RUNSINK_WINDOW_H
#define RUNSINK_WINDOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/base/arena.h"
#include "worker/kafka/meta.h"
#include "worker/ledger/entry.h"
#include "worker/pipeline/delivery.h"

struct lane;
struct partition;
struct record;

/* As many as the metadata of a committed offset holds. */
#define WINDOW_ENDS_MAX META_ENDS_MAX

struct window {
    int64_t first;
    int64_t next; /* the end once sealed, or the end to come of a replayed window; -1 while neither
                     is known */
    int64_t last_taken; /* highest offset taken; first - 1 when none */
    uint32_t taken;
    uint32_t done;
    bool sealed;
    bool declared;
    bool replayed; /* next was fixed by an earlier owner */
    bool lost;     /* stands for records that retention removed before they were read: no member */
    struct window *newer;

    /* What it owns; from window_begin() on. */
    struct lane *lane;
    struct partition *partition; /* NULL once it is popped */
    const char *topic;           /* origin topic of its records */
    struct arena arena;
    size_t arena_counted;
    struct record *records, *last_record;
    struct ledger_last last; /* what last_record is, whose message may be gone */
    struct delivery *deliveries, *last_delivery;
    struct table
        groups;   /* deliveries. Batch mode: by destination; retry partitions: by batch key */
    size_t bytes; /* payload taken */
    size_t held;  /* bytes of messages and bodies that count against the budget */
    size_t ledger_bytes; /* bound of the ledger entry */
    size_t incomplete;   /* batches that came back and lack members */
    size_t parked;       /* records that wait to be moved to a retry topic */
    bool unsettled;      /* it was given up: nothing of it is moved any more */
    size_t out;          /* deliveries that dispatch has */
    int64_t opened_ms;   /* monotonic */
    int64_t sealed_ms;   /* monotonic; 0: not sealed */
    int64_t opened_wall_ms;
    int64_t timestamp_ms; /* Kafka's, of the first record */
    bool batched;         /* events wait for the window's durable end */
    bool of_retries;      /* its records come again */
};

struct windows {
    struct window *oldest, *newest;
    size_t count;
    int64_t next; /* first of the next window to open; while one is open, that one's first */
    int64_t ends[WINDOW_ENDS_MAX]; /* replayed ends whose windows are not open yet, ascending */
    size_t n_ends;
};

/* Starts at the committed offset with the replayed ends (ascending, each > offset; copied). False
 * when they are not so or too many. */
bool windows_init(struct windows *, int64_t offset, const int64_t *ends, size_t n_ends);
/* Drops all windows: window_discard(). */
void windows_clear(struct windows *);

/* The window that the record at this offset belongs to: opens one when none is open. A replayed
 * window whose end is <= offset is sealed first (the records between are gone), as often as needed.
 * Returns NULL and changes nothing for an offset below windows.next or already taken (a
 * redelivery). fresh tells whether the window was opened by this call. It never seals the window it
 * returns: once the record is in it, call windows_passed(offset + 1), or a replayed window stays
 * open until another record comes, which may be waiting for this one to be settled. */
struct window *windows_take(struct windows *, int64_t offset, bool *ret_fresh);
/* Whether windows_take(offset) would need a new window to be opened. */
bool windows_would_open(const struct windows *, int64_t offset);
/* A taken record has its outcome. Asserts on one more than were taken. */
void window_done(struct window *);
bool window_complete(const struct window *); /* sealed, and all taken are done */
/* The open window, or NULL. */
struct window *windows_open(const struct windows *);
/* Seals the open window after its last taken record (next = last_taken + 1), or at the replayed
 * end. False when none is open, when it is replayed and the reader hasn't passed its end (its last
 * record was not taken), or when WINDOW_ENDS_MAX - 1 sealed windows wait for settlement: the open
 * one then stays open until the oldest is popped. */
bool windows_seal(struct windows *);
/* The reader has passed every offset below position (end of partition, a later record): seals the
 * replayed windows that end there or before, opening the ones that had no record. */
void windows_passed(struct windows *, int64_t position);
/* Retention removed [windows.next .. available): seals a lost window for them (clipping or dropping
 * replayed ends up to available). NULL when nothing is lost, or when WINDOW_ENDS_MAX windows are
 * unsettled or to be replayed already. Only while no window is open (asserted). */
struct window *windows_lost(struct windows *, int64_t available);
/* How many of the oldest windows can be settled now. */
size_t windows_settleable(const struct windows *);
/* Pops the oldest, NULL when there is none; it is the caller's to free or discard. */
struct window *windows_pop(struct windows *);
/* Every end that must be durable now: sealed and unsettled from the skip-th oldest window on, then
 * the end of a replayed window that is still filling, then the replayed ends not yet opened; in
 * order. Returns how many. ret has room for WINDOW_ENDS_MAX. */
size_t windows_ends(const struct windows *, size_t skip, int64_t ret[WINDOW_ENDS_MAX]);

/* ---- what a window owns ---- */

/* A window was just opened, or sealed with all its records gone. A replayed window is a batch
 * whatever the mode is now: its objects may exist already. */
void window_begin(struct lane *, struct partition *, struct window *, int64_t timestamp_ms);
/* So many bytes more, or less, count against the lane's budget. */
void window_hold(struct window *, ptrdiff_t bytes);
void window_hold_arena(struct window *); /* what its arena has grown by since the last time */
/* Gives up what is still out. */
void window_cancel(struct window *, enum cancel);
/* Frees a window that was popped, with all that it owns: now, or once neither a sink nor the settle
 * thread uses it any more. */
void window_discard(struct window *);
void window_free_discarded(struct lane *); /* those that can be freed by now */
void window_free(struct window *);         /* at once: nothing is out; NULL is fine */

#endif
