/* Sets of offsets, against a plain array of bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/ledger_judge.h"
#include "worker/tools/spans.h"

/* Against a plain array of bits. */
static void test_spans(void **state) {
    (void)state;
    struct world w = {.random = 3};
    for (int round = 0; round < 200; round++) {
        enum { N = 300 };
        struct spans spans = {0};
        bool bits[N] = {false};
        for (int i = 0; i < 60; i++) {
            struct ledger_range r = {.a = world_random(&w, N)};
            r.z = r.a + world_random(&w, i % 2 ? 3 : 30);
            if (r.z >= N) r.z = N - 1;
            spans_add(&spans, r);
            for (int64_t v = r.a; v <= r.z; v++) bits[v] = true;
        }
        size_t runs = 0;
        for (int64_t v = 0; v < N; v++) {
            assert_int_equal(spans_has(&spans, v), bits[v]);
            runs += bits[v] && (v == 0 || !bits[v - 1]);
        }
        assert_int_equal(spans.n, runs);
        spans_free(&spans);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spans),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
