/* What a lane takes in: which records may be read now, which window they belong to, and when a
 * window is sealed. */
#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/route.h"

/* Taken in one turn at most, so that transfers go on: about a millisecond's work, but a tenant
 * chooses what a record costs. */
#define TURN_RECORDS 256
#define TURN_MS 20
/* A window seals before its ledger entry outgrows a Kafka message. */
#define LEDGER_SEAL ((size_t)700000)
#define PARKED_AGE_MS 100

/* ---- memory ---- */

void lane_held(struct lane *lane, struct load *load, ptrdiff_t bytes) {
    load->held += (size_t)bytes;
    lane->held += (size_t)bytes;
}

/* What the records, and all that is made of them, may take. A quarter of the lane's part is for
 * what librdkafka reads ahead, another for the copies that a settlement makes of what it parks; the
 * table of destinations is in the rest. */
static size_t budget(const struct lane *lane) {
    return router_room(lane->router);
}

/* Loads of windows that are gone stay until neither a sink nor the settle thread uses them. */
void lane_discard(struct lane *lane, struct load *load) {
    if (!load->out && !lane->journal) {
        load_free(load);
        return;
    }
    load_cancel(load, CANCEL_LEAVING);
    load->next_dropped = lane->dropped;
    lane->dropped = load;
}

void intake_free_dropped(struct lane *lane) {
    for (struct load **at = &lane->dropped; *at;) {
        struct load *load = *at;
        if (load->out || lane->journal) {
            at = &load->next_dropped;
            continue;
        }
        *at = load->next_dropped;
        load_free(load);
    }
}

void lane_drop_partition(struct lane *lane, struct partition *p) {
    struct window *w;
    while ((w = windows_pop(&p->windows))) {
        struct load *load = w->user;
        window_free(w);
        if (!load) continue;
        load->window = NULL;
        load->partition = NULL;
        lane_discard(lane, load);
    }
}

/* ---- windows ---- */

static bool is_batch(const struct lane *lane, const struct partition *p) {
    return p->kind == PARTITION_SOURCE && lane->cfg->archive == CONFIG_ARCHIVE_BATCH;
}

static size_t windows_max(const struct lane *lane, const struct partition *p) {
    if (p->caution != CAUTION_NONE) return 1;
    return (size_t)(is_batch(lane, p) ? lane->cfg->batch_inflight + 1 : lane->cfg->window_inflight);
}

static int64_t age_max(const struct lane *lane, const struct partition *p) {
    return is_batch(lane, p) ? lane->cfg->batch_age : lane->cfg->window_age;
}

/* When an open window is to be sealed for its age, monotonic ms. One that holds only finished
 * records, parked ones among them, doesn't make those wait: their next attempt is counted from now.
 */
int64_t intake_seal_at(const struct lane *lane, const struct partition *p, const struct window *w) {
    const struct load *load = w->user;
    int64_t age = age_max(lane, p);
    if (load->parked && w->done == w->taken && age > PARKED_AGE_MS) age = PARKED_AGE_MS;
    return load->opened_ms + age;
}

static bool is_full(const struct lane *lane, const struct partition *p, const struct window *w) {
    const struct load *load = w->user;
    const struct config *cfg = lane->cfg;
    if (load->ledger_bytes >= LEDGER_SEAL) return true;
    if (p->caution != CAUTION_NONE && w->taken >= WARY_RECORDS) return true;
    if (!is_batch(lane, p)) return w->taken >= cfg->window_records;
    return w->taken >= cfg->batch_records || load->bytes >= (size_t)cfg->batch_bytes;
}

/* Notes what was sealed since; a replayed window's end is durable already, so it goes out at once.
 */
static void note_sealed(struct lane *lane, struct partition *p) {
    for (struct window *w = p->windows.oldest; w && w->sealed; w = w->newer) {
        struct load *load = w->user;
        if (!load) load = load_new(lane, p, w, 0); /* replayed, with all its records gone */
        if (load->sealed_ms) continue;
        load->sealed_ms = lane->now_ms;
        if (w->declared && load->batched) load_flush(load);
    }
}

/* A batch that came back is never split: its window stays open until it is whole. */
static bool may_seal(const struct partition *p, struct load *load) {
    if (!load->incomplete) return true;
    if (!p->eof || p->stash_at != p->stash_n) return false;
    load_send_incomplete(load);
    return true;
}

void intake_seal(struct lane *lane, struct partition *p, bool force) {
    struct window *open = windows_open(&p->windows);
    struct load *load = open ? open->user : NULL;
    if (load && open->taken && !open->replayed) {
        bool due = force || lane->ending || lane->standing || is_full(lane, p, open) ||
                   lane->now_ms >= intake_seal_at(lane, p, open) ||
                   (p->eof && lane->shared->until_end);
        if (due && may_seal(p, load)) windows_seal(&p->windows);
    }
    note_sealed(lane, p);
}

/* The open window that holds most and could be sealed, or NULL; and what all open ones hold. */
static struct partition *fullest(const struct lane *lane, size_t *ret_open) {
    struct partition *most = NULL;
    size_t open = 0, max = 0;
    for (struct partition *p = lane->partitions; p; p = p->next) {
        const struct window *w = windows_open(&p->windows);
        const struct load *load = w ? w->user : NULL;
        if (!load) continue;
        open += load->held;
        if (load->held <= max || !w->taken || w->replayed || load->incomplete) continue;
        max = load->held;
        most = p;
    }
    *ret_open = open;
    return most;
}

/* No new window may open, or soon not: what keeps the oldest from settling has had its time. With
 * --until-end nothing new is waiting, and the requests' own timeouts will do. */
static void press_on(struct lane *lane, struct partition *p) {
    if (lane->shared->until_end) return;
    struct window *w = p->windows.oldest;
    struct load *load = w && w->sealed ? w->user : NULL;
    if (load && load->sealed_ms && lane->now_ms - load->sealed_ms > lane->cfg->window_grace)
        load_cancel(load, CANCEL_SLOW);
}

/* A few requests that hang keep whole windows, with all that was parked meanwhile: pressed on
 * before there is no room left, or everybody would wait for the grace and the settlement. Not
 * batches: big objects take their time. */
static void press_early(struct lane *lane) {
    bool full = lane->held > budget(lane) / 4 * 3;
    for (struct partition *p = lane->partitions; p; p = p->next)
        if (!is_batch(lane, p) && (full || p->windows.count > windows_max(lane, p) / 4 * 3))
            press_on(lane, p);
}

/* What is being filled may take half of the memory, so that what is sealed can settle meanwhile in
 * the other half. The fullest go first: that makes the fewest objects. */
void intake_press(struct lane *lane) {
    struct partition *p;
    size_t open = 0, most = budget(lane) / 2;
    press_early(lane);
    while (lane->held > most && (p = fullest(lane, &open)) && open > most) {
        intake_seal(lane, p, true);
        if (windows_open(&p->windows)) return; /* it could not be: no use in asking again now */
    }
}

/* ---- reading ---- */

enum room { ROOM, ROOM_NONE, ROOM_BLOCKED };

bool intake_past_end(const struct partition *p, int64_t offset) {
    return p->kind == PARTITION_SOURCE && p->end >= 0 && offset >= p->end;
}

static enum room room_for(const struct lane *lane, const struct partition *p, int64_t offset) {
    const struct window *open = windows_open(&p->windows);
    const struct load *filling = open ? open->user : NULL;
    /* What must be read whole is read whatever it takes. */
    if (filling && filling->incomplete) return ROOM;
    if (open && open->replayed && offset < open->next) return ROOM;
    if (lane->standing) return ROOM_NONE;
    if (dispatch_saturated(lane->dispatch)) return ROOM_NONE;
    if (lane->held >= budget(lane)) return ROOM_BLOCKED;
    if (windows_would_open(&p->windows, offset) && p->windows.count >= windows_max(lane, p))
        return ROOM_BLOCKED;
    return ROOM;
}

static void take(struct lane *lane, struct partition *p, rd_kafka_message_t *msg) {
    bool fresh = false;
    int64_t offset = msg->offset;
    struct window *w = windows_take(&p->windows, offset, &fresh);
    if (!w) { /* before the committed offset */
        rd_kafka_message_destroy(msg);
        return;
    }
    if (fresh) {
        note_sealed(lane, p);
        p->opened_ms = rd_kafka_message_timestamp(msg, NULL);
        load_new(lane, p, w, p->opened_ms);
    }
    place_at(&lane->place, STEP_DECODE, offset);
    load_take(w->user, msg);
    /* A replayed window ends with its last record: the next one may have no room until it is
     * settled. */
    windows_passed(&p->windows, offset + 1);
    if (is_full(lane, p, w)) intake_seal(lane, p, false);
}

void intake_take(struct lane *lane, struct partition *p) {
    rd_kafka_message_t *msg = source_peek(lane, p);
    place_topic(&lane->place, p->topic, p->id);
    source_taken(p);
    take(lane, p, msg);
}

/* Asked after every few records: it reads the clock. */
static bool turn_is_over(const struct lane *lane) {
    return clock_ms(CLOCK_MONOTONIC) - lane->reading_ms >= TURN_MS;
}

static size_t read_partition(struct lane *lane, struct partition *p, size_t most) {
    size_t n = 0;
    rd_kafka_message_t *msg;
    if (!p->claimed && (recall_waits(lane, p) || !careful_claim(lane, p))) return 0;
    if (p->caution != CAUTION_NONE) careful_tick(lane, p);
    if (p->caution == CAUTION_CAREFUL) return 0;
    place_topic(&lane->place, p->topic, p->id);
    while (n < most && (n % 8 || !turn_is_over(lane)) && (msg = source_peek(lane, p))) {
        if (intake_past_end(p, msg->offset)) break;
        enum room room = room_for(lane, p, msg->offset);
        if (room == ROOM_BLOCKED) press_on(lane, p);
        if (room != ROOM) break;
        source_taken(p);
        take(lane, p, msg);
        n++;
    }
    return n;
}

/* Partitions take turns, so that one with a backlog starves none. Another one begins each time: the
 * first may take all that there is room for. */
bool intake_read(struct lane *lane) {
    size_t total = 0, round;
    bool over = false;
    lane->reading_ms = clock_ms(CLOCK_MONOTONIC);
    struct partition *first = lane->partitions;
    size_t n = 0;
    for (const struct partition *p = first; p; p = p->next) n++;
    for (size_t skip = n ? lane->turns++ % n : 0; skip; skip--) first = first->next;
    lane->standing = careful_stands(lane);
    do {
        round = 0;
        for (struct partition *p = first; p; p = p->next)
            round += read_partition(lane, p, READ_BATCH);
        for (struct partition *p = lane->partitions; p != first; p = p->next)
            round += read_partition(lane, p, READ_BATCH);
        total += round;
        over = total >= TURN_RECORDS || turn_is_over(lane);
    } while (round && !over);
    if (lane->standing) careful_run(lane);
    return over;
}
