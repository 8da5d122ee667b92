#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <sys/resource.h>

#include "config/config.h"
#include "worker/limits.h"

static void set(uint64_t soft, uint64_t hard) {
    const struct rlimit limit = {.rlim_cur = soft, .rlim_max = hard};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static uint64_t soft(void) {
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    return limit.rlim_cur;
}

static void test_needed(void **state) {
    (void)state;
    const struct config one = {.lanes = 1, .http_max_connections = 256};
    const struct config many = {.lanes = 64, .http_max_connections = 10000};
    assert_true(limits_files_needed(&one) > 256 && limits_files_needed(&one) < 1024);
    assert_true(limits_files_needed(&many) > 640000);
}

static void test_memory(void **state) {
    (void)state;
    const struct config cfg = {.memory_budget = 256 << 20};
    assert_int_equal(limits_memory_needed(&cfg), 416 << 20);
    assert_true(limits_memory_allowed() > 16 << 20); /* this test runs, so it has that much */
}

static void test_raise(void **state) {
    (void)state;
    uint64_t have = 7;
    set(100, 300);
    assert_true(limits_raise_files(50, &have));
    assert_int_equal(soft(), 100); /* enough: left alone */
    assert_true(limits_raise_files(200, &have));
    assert_int_equal(soft(), 200);
    assert_int_equal(have, 7);
    assert_false(limits_raise_files(301, &have)); /* as far as it goes */
    assert_int_equal(soft(), 300);
    assert_int_equal(have, 300);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_needed),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_raise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
