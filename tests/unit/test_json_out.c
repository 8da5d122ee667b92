/* The JSON writer: commas, names, escapes, and what happens at the buffer's ceiling. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "worker/base/json_out.h"

static void document(void **state) {
    (void)state;
    const uint8_t bytes[] = {0x0a, 0xff};
    struct buf b;
    buf_init(&b, 4096);
    assert_true(out_open(&b, NULL, '{'));
    assert_true(out_open(&b, "empty", '['));
    assert_true(out_close(&b, ']'));
    assert_true(out_open(&b, "list", '['));
    assert_true(out_int(&b, NULL, INT64_MIN));
    assert_true(out_uint(&b, NULL, UINT64_MAX));
    assert_true(out_open(&b, NULL, '{'));
    assert_true(out_bool(&b, "a\"b", true));
    assert_true(out_close(&b, '}'));
    assert_true(out_open(&b, NULL, '['));
    assert_true(out_close(&b, ']'));
    assert_true(out_close(&b, ']'));
    assert_true(out_string(&b, "text", "ends in {"));
    assert_true(out_string(&b, "string", "\"\\\n\x01\xff\x7f"));
    assert_true(out_shown(&b, "shown", "\x7f"));
    assert_true(out_string(&b, "none", NULL));
    assert_true(out_shown(&b, "nothing", NULL));
    assert_true(out_hex(&b, "hex", bytes, sizeof bytes));
    assert_true(out_raw(&b, "raw", STR("1.5")));
    assert_true(out_bool(&b, "last", false));
    assert_true(out_close(&b, '}'));
    assert_string_equal(
        buf_cstr(&b),
        "{\"empty\":[],\"list\":[-9223372036854775808,18446744073709551615,{\"a\\\"b\":true},[]],"
        "\"text\":\"ends in {\",\"string\":\"\\\"\\\\\\n\\u0001\xef\xbf\xbd\x7f\","
        "\"shown\":\"\\u007f\",\"none\":null,\"nothing\":null,\"hex\":\"0aff\",\"raw\":1.5,"
        "\"last\":false}");
    buf_free(&b);
}

/* Whatever does not fit leaves the buffer as it was. */
static void at_the_ceiling(void **state) {
    (void)state;
    const uint8_t bytes[] = {1, 2};
    for (size_t max = 2; max < 16; max++) {
        struct buf b;
        buf_init(&b, max);
        buf_puts(&b, "{1");
        assert_true(out_string(&b, "ab", "cd") == (max >= 12) || b.n == 2);
        assert_true(b.n == 2 || b.n == 12);
        b.n = 2;
        assert_int_equal(out_hex(&b, "ab", bytes, 2), max >= 14);
        assert_int_equal(b.n, max >= 14 ? 14 : 2);
        b.n = 2;
        assert_int_equal(out_int(&b, "ab", 123), max >= 11);
        assert_int_equal(b.n, max >= 11 ? 11 : 2);
        b.n = 2;
        assert_int_equal(out_open(&b, "ab", '{'), max >= 9);
        assert_int_equal(b.n, max >= 9 ? 9 : 2);
        buf_free(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(document),
        cmocka_unit_test(at_the_ceiling),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
