/* A part of the ledger, by time: nothing of it may be missing, whichever partition it is. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/ledger_judge.h"
#include "worker/tools/verify_margin.h"

struct part {
    size_t from, to; /* lines; to: SIZE_MAX, all */
    const struct ledger_pubkey *keys;
    size_t n_keys;
    const struct audit_until *until;
};

struct fed {
    struct seen *seen;
    struct margin *margin;
};

static void on_finding(void *context, const struct finding *f) {
    watch(((struct fed *)context)->seen, f);
}

static void on_entry(void *context, const struct ledger_entry *e) {
    margin_entry(((struct fed *)context)->margin, e);
}

static struct str value_of(const struct world_line *line) {
    return (struct str){line->value.p, line->value.n};
}

/* `gone`: a line that is not there any more. */
static void judge_part(const struct world *w, const struct part *p, size_t gone,
                       struct seen *seen) {
    struct snapshot snapshot;
    struct fed fed = {.seen = seen};
    world_snapshot(w, &snapshot);
    snapshot.partial = p->from > 0;
    snapshot.unfinished = p->to != SIZE_MAX;
    struct audit_options opts = {.source = WORLD_SOURCE,
                                 .group = WORLD_GROUP,
                                 .partial = snapshot.partial,
                                 .unfinished = snapshot.unfinished,
                                 .keys = p->keys,
                                 .n_keys = p->n_keys,
                                 .until = p->until,
                                 .n_until = p->until != NULL,
                                 .report = on_finding,
                                 .entry = on_entry,
                                 .context = &fed};
    struct audit *a = audit_new(&opts);
    fed.margin = margin_new(&snapshot, p->keys, p->n_keys, a);
    snapshot_expect(&snapshot, a);
    size_t to = p->to < w->n ? p->to : w->n;
    for (size_t i = p->from; i < to; i++)
        if (i != gone)
            audit_entry(a, str_c(w->lines[i].key), value_of(&w->lines[i]),
                        &(struct ledger_place){.name = PLACE, .offset = (int64_t)i});
    for (size_t i = to; i < w->n && margin_after_open(fed.margin); i++)
        if (i != gone) margin_after(fed.margin, value_of(&w->lines[i]));
    for (size_t i = p->from; i-- > 0 && margin_before_open(fed.margin);)
        if (i != gone) margin_before(fed.margin, str_c(w->lines[i].key), value_of(&w->lines[i]));
    margin_finish(fed.margin);
    audit_finish(a);
    margin_free(fed.margin);
    audit_free(a);
    snapshot_free(&snapshot);
}

static struct part some_part(struct world *w, const struct keys *k) {
    struct part p = {.to = SIZE_MAX};
    if (world_random(w, 4)) p.from = world_random(w, (unsigned)w->n - 2);
    if (!p.from || world_random(w, 2))
        p.to = p.from + 2 + world_random(w, (unsigned)(w->n - p.from - 1));
    if (world_random(w, 2)) p.keys = &k->ours_pub, p.n_keys = 1;
    return p;
}

static void test_honest(void **state) {
    struct keys *k = *state;
    for (unsigned seed = 0; seed < 500; seed++) {
        struct world w;
        struct seen seen = {0};
        world_make_some(&w, seed, 40, k->ours, seed % 3 == 0);
        struct part p = some_part(&w, k);
        /* What a topic that is gone had parked ends under offsets that its successor has too, and a
         * part that begins in between can't tell. */
        if (seed % 3 == 0 && p.from > w.anew) p.from = w.anew;
        judge_part(&w, &p, SIZE_MAX, &seen);
        if (seen.findings) print_error("%u, %zu to %zu: %s\n", seed, p.from, p.to, seen.first);
        assert_int_equal(seen.findings, 0);
        world_free(&w);
    }
}

/* Any single entry of that time that is missing is noticed, wherever it stood, and said of its
 * partition. */
static void test_one_is_missing(void **state) {
    struct keys *k = *state;
    for (unsigned seed = 0; seed < 1000; seed++) {
        struct world w;
        world_make_some(&w, seed, 40, k->ours, seed % 3 == 0);
        struct part p = some_part(&w, k);
        size_t to = p.to < w.n ? p.to : w.n;
        size_t gone = p.from + world_random(&w, (unsigned)(to - p.from));
        struct seen seen = {.world = &w, .at = gone, .chain = w.lines[gone].chain, .from = -1};
        seen.to = INT64_MAX;
        judge_part(&w, &p, gone, &seen);
        if (!seen.named)
            print_error("%u, %zu to %zu, without %zu: %s\n", seed, p.from, p.to, gone, seen.first);
        assert_true(seen.findings > 0);
        assert_true(seen.named);
        world_free(&w);
    }
}

/* A partition whose whole period is missing: as if it had been idle. */
static void test_all_of_a_partition(void **state) {
    (void)state;
    for (int committed = 0; committed < 2; committed++) {
        struct story s;
        story_begin(&s, NULL);
        story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
        story_tell(&s, 1, LEDGER_SKIPPED, 100, 105, 0);
        struct world_chain before = s.w.chains[0];
        story_tell(&s, 0, LEDGER_SKIPPED, 5, 9, 0);
        story_tell(&s, 0, LEDGER_SKIPPED, 9, 12, 0);
        story_tell(&s, 1, LEDGER_SKIPPED, 105, 109, 0);
        drop_line(&s.w, 2);
        drop_line(&s.w, 2);
        if (!committed) s.w.chains[0] = before; /* it was idle indeed */
        snprintf(s.seen.code, sizeof s.seen.code, "not-covered");
        judge_part(&s.w, &(struct part){.from = 2, .to = SIZE_MAX}, SIZE_MAX, &s.seen);
        assert_int_equal(s.seen.findings, committed);
        assert_int_equal(s.seen.with_code, committed);
        world_free(&s.w);
    }
}

/* What an idle partition stands on is vouched for by no entry of that time: an entry without a key
 * that says that it is older. */
static void test_idle_and_unsigned(void **state) {
    struct keys *k = *state;
    struct audit_until until = {.topic = WORLD_SOURCE, .partition = 0, .seq = 2};
    for (int how = 0; how < 4; how++) {
        struct story s;
        story_begin(&s, k->ours);
        if (how == 3) s.w.signer = NULL; /* signing had not begun, the auditor knows */
        story_tell(&s, 0, LEDGER_SKIPPED, 0, 5, 0);
        if (how) s.w.signer = how == 2 ? k->third : NULL;
        story_tell(&s, 0, LEDGER_SKIPPED, 5, 9, 0);
        s.w.signer = k->ours;
        story_tell(&s, 1, LEDGER_SKIPPED, 100, 105, 0);
        struct part p = {.from = 2, .to = SIZE_MAX, .keys = &k->ours_pub, .n_keys = 1};
        if (how == 3) p.until = &until;
        judge_part(&s.w, &p, SIZE_MAX, &s.seen);
        if (s.seen.findings) print_message("(%s)\n", s.seen.first);
        assert_int_equal(s.seen.findings, how == 1 || how == 2);
        world_free(&s.w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_honest),
        cmocka_unit_test(test_one_is_missing),
        cmocka_unit_test(test_all_of_a_partition),
        cmocka_unit_test(test_idle_and_unsigned),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
