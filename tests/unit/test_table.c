/* The hash index against a plain list, with hashes that collide. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdbool.h>
#include <stdlib.h>

#include "worker/base/table.h"

#define ENTRIES 3000

struct entry {
    int key;
    bool in;
    struct table_node node;
};

/* Few buckets, few hashes: many entries share one. */
static uint64_t hash_of(int key) {
    return (uint64_t)(key % 97) << 32 | (uint64_t)(key % 7);
}

static struct entry *find(const struct table *t, int key) {
    for (struct table_node *n = table_first(t, hash_of(key)); n; n = table_next(n)) {
        struct entry *e = TABLE_ENTRY(n, struct entry, node);
        if (e->key == key) return e;
    }
    return NULL;
}

static void count_one(void *context, struct table_node *n) {
    struct entry *e = TABLE_ENTRY(n, struct entry, node);
    assert_true(e->in);
    ++*(size_t *)context;
}

static void as_a_list(void **state) {
    (void)state;
    static struct entry all[ENTRIES];
    struct table t = {0};
    unsigned random = 1;
    size_t n = 0;
    assert_null(find(&t, 5));
    for (int step = 0; step < 20 * ENTRIES; step++) {
        random = random * 1103515245u + 12345u;
        struct entry *e = &all[(random >> 8) % ENTRIES];
        e->key = (int)(e - all);
        assert_ptr_equal(find(&t, e->key), e->in ? e : NULL);
        if (e->in)
            table_remove(&t, &e->node);
        else
            table_add(&t, &e->node, hash_of(e->key));
        e->in = !e->in;
        n = e->in ? n + 1 : n - 1;
        assert_int_equal(t.n, n);
    }
    for (int key = 0; key < ENTRIES; key++)
        assert_ptr_equal(find(&t, key), all[key].in ? &all[key] : NULL);
    size_t seen = 0;
    table_each(&t, count_one, &seen);
    assert_int_equal(seen, n);
    table_free(&t);
    assert_int_equal(t.n, 0);
    assert_null(find(&t, 5));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(as_a_list)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
