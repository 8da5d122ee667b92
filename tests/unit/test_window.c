/* worker/pipeline/window.h against a naive model: every offset in exactly one window, windows
 * contiguous and settled in order, and a crash at any instant brings the declared ends back
 * exactly. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "worker/kafka/meta.h"
#include "worker/pipeline/lane.h"
#include "worker/pipeline/record.h"
#include "worker/pipeline/window.h"

/* xorshift64*: the seed repeats a run. */
static uint64_t rng;
static uint64_t random_below(uint64_t n) {
    rng ^= rng >> 12;
    rng ^= rng << 25;
    rng ^= rng >> 27;
    return (rng * 0x2545f4914f6cdd1dULL) % n;
}
static bool chance(unsigned percent) {
    return random_below(100) < percent;
}

/* The model: the partition's whole log, and what each offset and each end has been through. */
enum { LOG = 400 };
struct model {
    bool exists[LOG];       /* a record, not a transaction marker or one compacted away */
    int64_t low;            /* retention removed what is below */
    int64_t position;       /* next offset the reader will look at */
    bool settled[LOG];      /* by the window that held it */
    bool declared[LOG + 1]; /* a window's end at this offset is durable and unsettled */
    int64_t declared_first[LOG + 1];
    int64_t committed;       /* durable offset */
    char text[META_MAX + 1]; /* durable metadata */
    uint64_t seq;
};

static void commit(struct model *m, const struct windows *ws) {
    struct meta meta = {.seq = m->seq};
    meta.n_ends = windows_ends(ws, 0, meta.ends);
    assert_true(meta_encode(&meta, m->text));
}

static void check_shape(const struct model *m, const struct windows *ws) {
    int64_t at = m->committed;
    size_t count = 0;
    for (const struct window *w = ws->oldest; w; w = w->newer, count++) {
        assert_int_equal(w->first, at);
        assert_true(w->done <= w->taken);
        if (!w->sealed) {
            assert_null(w->newer);
            assert_int_equal(ws->next, w->first);
            return;
        }
        assert_true(w->next > w->first);
        assert_true(w->last_taken < w->next);
        at = w->next;
    }
    assert_int_equal(ws->next, at);
    assert_int_equal(ws->count, count);
    assert_true(count + ws->n_ends <= WINDOW_ENDS_MAX);
}

/* A transaction: the offset and the ends of all sealed windows become durable. */
static void declare(struct model *m, struct windows *ws) {
    commit(m, ws);
    for (struct window *w = ws->oldest; w; w = w->newer) {
        if (!w->sealed) continue;
        w->declared = true;
        m->declared[w->next] = true;
        m->declared_first[w->next] = w->first;
    }
}

/* Every record of the window and nothing else was taken, and if its end was declared by whichever
 * owner, the window is the very same. */
static void check_settled(struct model *m, const struct window *w) {
    uint32_t records = 0;
    for (int64_t o = w->first; o < w->next; o++) {
        assert_false(m->settled[o]);
        m->settled[o] = true;
        records += m->exists[o] && o >= m->low;
        if (o + 1 < w->next) assert_false(m->declared[o + 1] && o + 1 > m->low);
    }
    if (w->lost)
        assert_int_equal(w->taken, 0);
    else if (w->first >= m->low)
        assert_int_equal(w->taken, records);
    if (m->declared[w->next] && m->low <= m->declared_first[w->next])
        assert_int_equal(w->first, m->declared_first[w->next]);
}

static void settle(struct model *m, struct windows *ws) {
    size_t ready = windows_settleable(ws);
    size_t n = ready ? random_below(ready) + 1 : 0;
    int64_t offset = m->committed;
    for (size_t i = 0; i < n; i++) {
        struct window *w = windows_pop(ws);
        assert_true(window_complete(w));
        assert_int_equal(w->first, offset);
        check_settled(m, w);
        offset = w->next;
        m->seq++;
        window_free(w);
    }
    m->committed = offset;
    declare(m, ws);
}

/* A new owner: what is durable is all it has. Compaction may have removed records meanwhile. */
static void crash(struct model *m, struct windows *ws) {
    windows_clear(ws);
    for (int64_t o = m->committed; o + 1 < LOG; o++)
        if (chance(2)) m->exists[o] = false;
    struct meta meta;
    assert_true(meta_decode(str_c(m->text), &meta));
    assert_int_equal(meta.seq, m->seq);
    assert_true(windows_init(ws, m->committed, meta.ends, meta.n_ends));
    m->position = m->committed;
}

static void lose(struct model *m, struct windows *ws) {
    if (windows_open(ws)) return;
    if (chance(20)) m->low += (int64_t)random_below(8);
    if (m->low >= LOG) m->low = LOG - 1;
    struct window *w = windows_lost(ws, m->low);
    if (!w) return;
    assert_true(w->lost && w->sealed && window_complete(w));
    assert_int_equal(w->next, m->low);
    for (int64_t o = w->first + 1; o <= m->low; o++) m->declared[o] = false;
    if (m->position < m->low) m->position = m->low;
}

static void take(struct model *m, struct windows *ws) {
    while (m->position < LOG && (!m->exists[m->position] || m->position < m->low)) m->position++;
    if (m->position == LOG) {
        windows_passed(ws, LOG);
        return;
    }
    bool would = windows_would_open(ws, m->position);
    bool fresh = false;
    struct window *w = windows_take(ws, m->position, &fresh);
    assert_non_null(w);
    assert_int_equal(fresh, would);
    assert_ptr_equal(w, windows_open(ws));
    assert_true(w->first <= m->position);
    if (w->replayed) assert_true(m->position < w->next);
    assert_false(windows_would_open(ws, m->position));
    assert_null(windows_take(ws, m->position, &fresh));
    m->position++;
}

static void finish(struct windows *ws) {
    for (struct window *w = ws->oldest; w; w = w->newer)
        if (w->done < w->taken && chance(60)) window_done(w);
}

static void step(struct model *m, struct windows *ws) {
    switch (random_below(14)) {
    case 0:
        windows_seal(ws);
        break;
    case 1:
        windows_passed(ws, m->position);
        break;
    case 2:
        declare(m, ws);
        break;
    case 3:
    case 4:
        settle(m, ws);
        break;
    case 5:
        if (chance(30)) crash(m, ws);
        break;
    case 6:
        lose(m, ws);
        break;
    case 7:
    case 8:
    case 9:
        finish(ws);
        break;
    default:
        take(m, ws);
        break;
    }
    check_shape(m, ws);
}

static void run_seed(uint64_t seed) {
    rng = seed * 0x9e3779b97f4a7c15ULL + 1;
    struct model m = {0};
    unsigned density = 30 + (unsigned)random_below(71);
    for (size_t o = 0; o < LOG; o++) m.exists[o] = chance(density);
    m.exists[LOG - 1] = true;
    struct windows ws;
    assert_true(windows_init(&ws, 0, NULL, 0));
    commit(&m, &ws);
    for (int i = 0; i < 1500 && m.committed < LOG; i++) step(&m, &ws);
    /* Then undisturbed to the end. */
    while (m.committed < LOG) {
        if (!windows_open(&ws) && m.position < m.low) lose(&m, &ws);
        take(&m, &ws);
        for (struct window *w = ws.oldest; w; w = w->newer)
            while (w->done < w->taken) window_done(w);
        if (m.position == LOG) windows_seal(&ws);
        settle(&m, &ws);
        check_shape(&m, &ws);
    }
    for (size_t o = 0; o < LOG; o++) assert_true(m.settled[o]);
    windows_clear(&ws);
}

static void test_against_the_model(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 2000; seed++) run_seed(seed);
}

static void take_all(struct windows *ws, int64_t from, int64_t to) {
    bool fresh;
    for (int64_t o = from; o < to; o++) window_done(windows_take(ws, o, &fresh));
}

static void test_init_refuses_bad_ends(void **state) {
    (void)state;
    struct windows ws = {.next = 77};
    int64_t many[WINDOW_ENDS_MAX + 1];
    for (int i = 0; i <= WINDOW_ENDS_MAX; i++) many[i] = 10 + i;
    assert_false(windows_init(&ws, 10, (int64_t[]){10}, 1));
    assert_false(windows_init(&ws, 10, (int64_t[]){12, 12}, 2));
    assert_false(windows_init(&ws, 10, (int64_t[]){13, 12}, 2));
    assert_false(windows_init(&ws, 5, many, WINDOW_ENDS_MAX + 1));
    assert_int_equal(ws.next, 77);
    assert_true(windows_init(&ws, 5, many, WINDOW_ENDS_MAX));
    windows_clear(&ws);
}

static void test_a_replayed_window_waits_for_its_last_record(void **state) {
    (void)state;
    struct windows ws;
    assert_true(windows_init(&ws, 100, (int64_t[]){110, 120}, 2));
    take_all(&ws, 100, 105);
    assert_false(windows_seal(&ws));
    windows_passed(&ws, 109);
    assert_non_null(windows_open(&ws));
    int64_t ends[WINDOW_ENDS_MAX];
    assert_int_equal(windows_ends(&ws, 0, ends), 2); /* the one still filling counts */
    assert_int_equal(ends[0], 110);
    assert_int_equal(ends[1], 120);
    take_all(&ws, 105, 110);
    assert_true(windows_seal(&ws));
    assert_int_equal(windows_settleable(&ws), 1);
    assert_int_equal(windows_ends(&ws, 1, ends), 1);
    assert_int_equal(ends[0], 120);
    /* 110..119 are gone: the next record seals that window empty and opens one of its own. */
    bool fresh;
    assert_true(windows_would_open(&ws, 125));
    struct window *w = windows_take(&ws, 125, &fresh);
    assert_true(fresh);
    assert_int_equal(w->first, 120);
    assert_false(w->replayed);
    assert_int_equal(windows_settleable(&ws), 2);
    assert_int_equal(ws.count, 3);
    windows_clear(&ws);
}

static void test_gaps_belong_to_the_window_around_them(void **state) {
    (void)state;
    struct windows ws;
    bool fresh;
    assert_true(windows_init(&ws, 0, NULL, 0));
    assert_false(windows_seal(&ws)); /* nothing to seal */
    struct window *w = windows_take(&ws, 3, &fresh);
    assert_int_equal(w->first, 0);
    assert_int_equal(w->next, -1);
    windows_take(&ws, 7, &fresh);
    assert_false(fresh);
    assert_null(windows_take(&ws, 5, &fresh));
    assert_true(windows_seal(&ws));
    assert_int_equal(w->next, 8);
    assert_int_equal(ws.next, 8);
    assert_null(windows_take(&ws, 7, &fresh));
    assert_false(windows_would_open(&ws, 7));
    windows_clear(&ws);
}

static void test_settlement_is_in_order(void **state) {
    (void)state;
    struct windows ws;
    bool fresh;
    assert_true(windows_init(&ws, 0, NULL, 0));
    struct window *a = windows_take(&ws, 0, &fresh);
    windows_seal(&ws);
    struct window *b = windows_take(&ws, 1, &fresh);
    windows_seal(&ws);
    window_done(b);
    assert_true(window_complete(b));
    assert_int_equal(windows_settleable(&ws), 0);
    window_done(a);
    assert_int_equal(windows_settleable(&ws), 2);
    assert_ptr_equal(windows_pop(&ws), a);
    assert_ptr_equal(windows_pop(&ws), b);
    assert_null(windows_pop(&ws));
    window_free(a);
    window_free(b);
    window_free(NULL);
}

static void test_lost_records(void **state) {
    (void)state;
    struct windows ws;
    assert_true(windows_init(&ws, 100, (int64_t[]){110, 120, 130}, 3));
    assert_null(windows_lost(&ws, 100));
    struct window *w = windows_lost(&ws, 115);
    assert_true(w->lost && w->sealed && window_complete(w));
    assert_int_equal(w->first, 100);
    assert_int_equal(w->next, 115);
    int64_t ends[WINDOW_ENDS_MAX];
    assert_int_equal(windows_ends(&ws, 0, ends), 3);
    assert_int_equal(ends[1], 120);
    bool fresh;
    w = windows_take(&ws, 115, &fresh);
    assert_int_equal(w->first, 115);
    assert_int_equal(w->next, 120);
    windows_clear(&ws);
    /* An end that retention reached exactly is dropped too. */
    assert_true(windows_init(&ws, 100, (int64_t[]){110, 120}, 2));
    assert_int_equal(windows_lost(&ws, 120)->next, 120);
    assert_int_equal(ws.n_ends, 0);
    windows_clear(&ws);
}

static void test_boundaries_are_bounded(void **state) {
    (void)state;
    struct windows ws;
    bool fresh;
    assert_true(windows_init(&ws, 0, NULL, 0));
    for (int64_t o = 0; o < WINDOW_ENDS_MAX - 1; o++) {
        window_done(windows_take(&ws, o, &fresh));
        assert_true(windows_seal(&ws));
    }
    take_all(&ws, WINDOW_ENDS_MAX - 1, WINDOW_ENDS_MAX);
    assert_false(windows_seal(&ws));
    window_free(windows_pop(&ws));
    assert_true(windows_seal(&ws));
    int64_t ends[WINDOW_ENDS_MAX];
    assert_int_equal(windows_ends(&ws, 0, ends), WINDOW_ENDS_MAX - 1);
    /* The place kept free, and no more than that. */
    assert_non_null(windows_lost(&ws, 1000));
    assert_null(windows_lost(&ws, 2000));
    assert_int_equal(windows_ends(&ws, 0, ends), WINDOW_ENDS_MAX);
    windows_clear(&ws);
}

/* What windows own goes with them, and out of the lane's budget; what a sink still has stays. */
static void test_clear_frees_what_they_own(void **state) {
    (void)state;
    static struct lane lane;
    static struct config cfg;
    struct partition p = {.base = "runs"};
    bool fresh;
    lane.cfg = &cfg;
    lane.now_ms = 7;
    assert_true(windows_init(&p.windows, 0, NULL, 0));
    for (int64_t o = 0; o < 3; o++) {
        struct window *w = windows_take(&p.windows, o, &fresh);
        assert_true(fresh);
        window_begin(&lane, &p, w, 0);
        window_hold(w, 1000);
        w->records = arena_alloc(&w->arena, sizeof(struct record));
        w->deliveries = arena_alloc(&w->arena, sizeof(struct delivery));
        buf_init(&w->deliveries->body, 16);
        buf_puts(&w->deliveries->body, "body");
        assert_true(windows_seal(&p.windows));
    }
    struct window *last = p.windows.newest;
    last->out = 1;
    assert_int_equal(lane.held, 3000);
    windows_clear(&p.windows);
    assert_null(p.windows.oldest);
    assert_int_equal(lane.held, 1000);
    assert_ptr_equal(lane.dropped, last);
    assert_null(last->partition);
    window_free_discarded(&lane);
    assert_ptr_equal(lane.dropped, last);
    last->out = 0;
    window_free_discarded(&lane);
    assert_null(lane.dropped);
    assert_int_equal(lane.held, 0);
}

static void one_outcome_too_many(struct windows *ws) {
    bool fresh;
    struct window *w = windows_take(ws, 0, &fresh);
    window_done(w);
    window_done(w);
}

static void lost_inside_a_window(struct windows *ws) {
    bool fresh;
    windows_take(ws, 0, &fresh);
    windows_lost(ws, 5);
}

static void test_bugs_abort(void **state) {
    (void)state;
    void (*const bugs[])(struct windows *) = {one_outcome_too_many, lost_inside_a_window};
    for (size_t i = 0; i < sizeof bugs / sizeof bugs[0]; i++) {
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            signal(SIGABRT, SIG_DFL);
            if (!freopen("/dev/null", "w", stderr)) _exit(1);
            struct windows ws;
            if (!windows_init(&ws, 0, NULL, 0)) _exit(1);
            bugs[i](&ws);
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_the_model),
        cmocka_unit_test(test_init_refuses_bad_ends),
        cmocka_unit_test(test_a_replayed_window_waits_for_its_last_record),
        cmocka_unit_test(test_gaps_belong_to_the_window_around_them),
        cmocka_unit_test(test_settlement_is_in_order),
        cmocka_unit_test(test_lost_records),
        cmocka_unit_test(test_boundaries_are_bounded),
        cmocka_unit_test(test_clear_frees_what_they_own),
        cmocka_unit_test(test_bugs_abort),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
