/* The scrubber's set of strings, against a list that is searched from one end to the other. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "worker/base/buf.h"
#include "worker/base/needles.h"

#define KNOWN 200
#define LONG (2 * NEEDLE_MAX)

static struct needles set;

struct known {
    char text[NEEDLE_MAX];
    size_t n, full;
    unsigned count;
};
static struct known known[KNOWN];

static uint64_t state = 42;

static size_t below(size_t n) {
    state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (size_t)(state >> 33) % n;
}

/* A few bytes that differ in their first, last or several bits, behind beginnings that many share:
 * so texts often equal, begin or nearly match one another. */
static size_t any_text(char *to, size_t max) {
    static const char *const begins[] = {"", "Bearer ", "AKIA", "bbbbbbbbbbbbbbbb", "\xff\xff"};
    static const char bytes[] = {'a', 'b', 'c', '\0', (char)0x80, (char)0xff};
    size_t n = NEEDLE_MIN + below(below(8) ? 8 : max - NEEDLE_MIN + 1);
    size_t kinds = 1 + below(sizeof bytes);
    const char *begin = begins[below(sizeof begins / sizeof *begins)];
    size_t i = 0;
    for (; i < n && begin[i]; i++) to[i] = begin[i];
    for (; i < n; i++) to[i] = bytes[below(kinds)];
    return n;
}

static struct known *find(const char *p, size_t n) {
    for (size_t i = 0; i < KNOWN; i++)
        if (known[i].count && known[i].n == n && memcmp(known[i].text, p, n) == 0) return &known[i];
    return NULL;
}

static bool begins(const char *p, size_t n, const char *with, size_t k) {
    return k <= n && memcmp(p, with, k) == 0;
}

static size_t expected(const char *p, size_t n) {
    const struct known *longest = NULL;
    for (const struct known *k = known; k < known + KNOWN; k++) {
        if (!k->count) continue;
        if (n >= NEEDLE_CUT_MIN && k->n > n && begins(k->text, k->n, p, n)) return n;
        if (begins(p, n, k->text, k->n) && (!longest || k->n > longest->n)) longest = k;
    }
    return !longest ? 0 : longest->full < n ? longest->full : n;
}

static void add_one(void) {
    char text[NEEDLE_MAX];
    size_t n = any_text(text, NEEDLE_MAX);
    size_t full = n == NEEDLE_MAX || !below(10) ? n + below(400) : n;
    struct known *k = find(text, n);
    for (size_t i = 0; !k && i < KNOWN; i++)
        if (!known[i].count) k = &known[i];
    if (!k) return;
    if (!k->count) *k = (struct known){.n = n};
    memcpy(k->text, text, n);
    k->count++;
    if (k->full < full) k->full = full;
    needles_add(&set, (struct str){text, n}, full);
}

static void drop_one(void) {
    struct known *k = &known[below(KNOWN)];
    char text[NEEDLE_MAX];
    if (k->count) {
        needles_drop(&set, (struct str){k->text, k->n});
        k->count--;
        return;
    }
    size_t n = any_text(text, NEEDLE_MAX);
    if (!find(text, n)) needles_drop(&set, (struct str){text, n});
}

/* A text of its own, or one made of a needle: whole, cut, longer, or with one byte changed. */
static size_t a_text(char *to) {
    const struct known *k = &known[below(KNOWN)];
    if (!k->count || !below(3)) return any_text(to, LONG);
    memcpy(to, k->text, k->n);
    size_t n = below(3) ? k->n : 1 + below(k->n);
    if (!below(3)) n += any_text(to + n, NEEDLE_MAX);
    if (!below(3)) to[below(n)] ^= (char)(1 << below(8));
    return n;
}

static void check_one(void) {
    static char text[LONG];
    size_t n = a_text(text);
    char *exact = xmalloc(n); /* so that reading behind it is found */
    memcpy(exact, text, n);
    size_t want = n < NEEDLE_MIN ? 0 : expected(exact, n);
    size_t work = 0;
    assert_int_equal(needles_at(&set, exact, n, &work), want);
    assert_in_range(work, 1, 2 * 9 * NEEDLE_MAX + NEEDLE_MAX / 8 + 1);
    free(exact);
}

static void test_random_operations(void **st) {
    (void)st;
    size_t found = 0;
    for (int round = 0; round < 40000; round++) {
        /* The set grows, shrinks, and is empty now and then. */
        if (below(100) < (round / 2000 % 2 ? 20u : 80u))
            add_one();
        else
            drop_one();
        check_one();
        size_t n = 0, all = 0;
        for (size_t i = 0; i < KNOWN; i++) n += known[i].count > 0, all += known[i].count;
        assert_int_equal(set.n, n);
        assert_true((n == 0) == (set.bytes == 0));
        found += all > n; /* some were counted */
    }
    assert_true(found > 0);
    for (size_t i = 0; i < KNOWN; i++)
        for (; known[i].count; known[i].count--)
            needles_drop(&set, (struct str){known[i].text, known[i].n});
    assert_int_equal(set.n, 0);
    assert_int_equal(set.bytes, 0);
    for (size_t i = 0; i < sizeof set.buckets / sizeof *set.buckets; i++) {
        assert_null(set.buckets[i].branch);
        assert_null(set.buckets[i].needle);
    }
}

static size_t looked_for(struct str s) {
    size_t work = 0;
    return needles_at(&set, s.p, s.n, &work);
}

static void test_counted(void **st) {
    (void)st;
    struct str a = STR("aaaaaa"), b = STR("bbbbbb");
    needles_add(&set, a, a.n);
    assert_int_equal(set.bytes, needles_cost(a.n));
    assert_int_equal(looked_for(b), 0);
    needles_add(&set, a, a.n); /* it is there: only counted */
    assert_int_equal(set.bytes, needles_cost(a.n));
    needles_add(&set, b, b.n);
    assert_int_equal(set.bytes, needles_cost(a.n) + needles_cost(b.n));
    needles_drop(&set, a);
    assert_int_equal(looked_for(a), a.n);
    needles_drop(&set, a);
    assert_int_equal(looked_for(a), 0);
    needles_drop(&set, b);
    assert_int_equal(set.bytes, 0);
}

/* What a place of a text costs with a million needles is what it costs with a few. */
static void test_a_place_costs_the_same_in_a_large_set(void **st) {
    (void)st;
    char name[32];
    size_t work = 0, most = 0;
    const int all = 1000000, text = 100000;
    for (int i = 0; i < all; i++) {
        int n = snprintf(name, sizeof name, "AKIA%016llx", (unsigned long long)below(SIZE_MAX));
        memcpy(name, name + 4, 4); /* few begin alike */
        needles_add(&set, (struct str){name, (size_t)n}, (size_t)n);
    }
    for (int i = 0; i < text; i++) {
        size_t one = 0;
        snprintf(name, sizeof name, "%016llx", (unsigned long long)below(SIZE_MAX));
        needles_at(&set, name, strlen(name), &one);
        work += one;
        if (one > most) most = one;
    }
    print_message("%d looks among %zu needles: %zu steps, at most %zu\n", text, set.n, work, most);
    assert_true(work < 40u * (size_t)text);
    assert_true(most < 200);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_operations),
        cmocka_unit_test(test_counted),
        cmocka_unit_test(test_a_place_costs_the_same_in_a_large_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
