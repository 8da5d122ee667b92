/* On top of which entries a worker signs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/ledger_judge.h"
#include "worker/ledger/heads.h"

static struct head_want want_of(const struct world *w, size_t chain) {
    const struct world_chain *c = &w->chains[chain];
    struct head_want want = {.partition = c->partition, .seq = c->seq - 1, .next = c->next};
    snprintf(want.topic, sizeof want.topic, "%s", c->topic);
    memcpy(want.hash, c->head, SHA256_LEN);
    return want;
}

/* Reads the world's lines, from the last one to the first as a search does, or as they came. */
static bool is_ours(const struct world *w, const struct ledger_signer *signer, const char *group,
                    struct head_want want, bool backwards) {
    struct ledger_pubkey keys[LEDGER_SIGNER_KEYS];
    struct heads *h = heads_new(group, keys, ledger_signer_keys(signer, keys));
    heads_add(h, &want);
    assert_int_equal(heads_open(h), 1);
    for (size_t i = 0; i < w->n; i++) {
        const struct world_line *line = &w->lines[backwards ? w->n - 1 - i : i];
        heads_take(h, str_c(line->key), (struct str){line->value.p, line->value.n});
    }
    const char *wrong = heads_wrong(h, want.topic, want.partition);
    heads_free(h);
    return !wrong;
}

static void test_ours(void **state) {
    struct keys *k = *state;
    struct world w;
    world_make(&w, 3, 40, k->ours);
    for (size_t c = 0; c < w.n_chains; c++) {
        struct head_want want = want_of(&w, c), other;
        assert_true(is_ours(&w, k->ours, WORLD_GROUP, want, false));
        assert_false(is_ours(&w, k->other, WORLD_GROUP, want, false));
        assert_false(is_ours(&w, k->ours, "another", want, false));
        other = want, other.seq++;
        assert_false(is_ours(&w, k->ours, WORLD_GROUP, other, false));
        other = want, other.next++;
        assert_false(is_ours(&w, k->ours, WORLD_GROUP, other, false));
        other = want, other.hash[7] ^= 1;
        assert_false(is_ours(&w, k->ours, WORLD_GROUP, other, false));
        other = want, other.partition += 1;
        assert_false(is_ours(&w, k->ours, WORLD_GROUP, other, false));
    }
    world_free(&w);
}

/* The entry is there, and its bytes are not those that were signed. */
static void test_altered(void **state) {
    struct keys *k = *state;
    struct world w;
    for (int how = 0; how < 2; how++) {
        world_make(&w, 4, 40, k->ours);
        struct head_want want = want_of(&w, 0);
        for (size_t i = w.n; i-- > 0;) {
            if (w.lines[i].chain != 0) continue;
            char *at = memmem(w.lines[i].value.p, w.lines[i].value.n,
                              how ? "\"sig\":\"" : "\"opened\":17", how ? 7 : 11);
            assert_non_null(at);
            at[how ? 7 : 10] = at[how ? 7 : 10] == 'A' ? 'B' : how ? 'A' : '8';
            break;
        }
        assert_false(is_ours(&w, k->ours, WORLD_GROUP, want, false));
        world_free(&w);
    }
}

static void test_unsigned(void **state) {
    struct keys *k = *state;
    struct world w;
    world_make(&w, 5, 40, NULL);
    assert_false(is_ours(&w, k->ours, WORLD_GROUP, want_of(&w, 1), false));
    world_free(&w);
}

/* The old worker of a deploy learns the new key from the statement, wherever it stands; the new one
 * knows the old key; a third key, named by nobody, is a stranger to both. */
static void test_rotation(void **state) {
    struct keys *k = *state;
    rotate(k, k->other, "ours");
    for (int backwards = 0; backwards < 2; backwards++) {
        struct world w;
        world_make(&w, 6, 5, k->other);
        for (int i = 0; i < 10; i++) world_window(&w, 0);
        assert_true(is_ours(&w, k->ours, WORLD_GROUP, want_of(&w, 0), backwards));
        assert_true(is_ours(&w, k->other, WORLD_GROUP, want_of(&w, 0), backwards));
        assert_false(is_ours(&w, k->third, WORLD_GROUP, want_of(&w, 0), backwards));
        world_free(&w);
        world_make(&w, 6, 15, k->ours);
        assert_true(is_ours(&w, k->other, WORLD_GROUP, want_of(&w, 0), backwards));
        world_free(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ours), cmocka_unit_test(test_altered),
                                       cmocka_unit_test(test_unsigned),
                                       cmocka_unit_test(test_rotation)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
