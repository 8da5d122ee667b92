/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "tests/unit/json_cases.h"
#include "worker/base/text.h"
#include "worker/event/json.h"

static bool accepts(struct str text, struct json_value *ret) {
    struct json j;
    json_begin(&j, text);
    json_value(&j, ret);
    bool ok = json_end(&j);
    assert_int_equal(ok, j.err == NULL);
    assert_in_range((uintptr_t)j.at, (uintptr_t)text.p, (uintptr_t)(text.p + text.n));
    return ok;
}

static void check_alone(char mark, struct str text, int line) {
    struct json_value v;
    if (accepts(text, &v) != (mark == 'y'))
        fail_msg("cases.txt:%d: %s", line, mark == 'y' ? "refused" : "accepted");
}

/* A valid document cut short anywhere is not valid, unless a number or white space was cut. */
static void check_cut(char mark, struct str text, int line) {
    struct json_value v;
    if (mark != 'y' || text.n == 0) return;
    char last = text.p[text.n - 1];
    if (last != ']' && last != '}' && last != '"') return;
    for (size_t n = 0; n < text.n; n++) {
        char *cut = xstrndup(text.p, n);
        cut = xrealloc(cut, n ? n : 1);
        if (accepts((struct str){cut, n}, &v))
            fail_msg("cases.txt:%d: accepted %zu bytes", line, n);
        free(cut);
    }
}

static bool blank(struct str text) {
    for (size_t i = 0; i < text.n; i++)
        if (!memchr(" \t\r\n", text.p[i], 4)) return false;
    return true;
}

static void check_embedded(char mark, struct str text, int line) {
    static const struct {
        const char *before, *after;
    } around[] = {{"[", "]"}, {"[0,", "]"}, {"{\"x\":", "}"}, {"{\"a\":[{\"b\":", "}]}"}};
    if (mark == 'd' || str_starts(text, "\xef\xbb\xbf")) return;
    for (size_t i = 0; i < sizeof around / sizeof around[0]; i++) {
        struct buf b;
        struct json_value v;
        buf_init(&b, 8192);
        buf_puts(&b, around[i].before);
        buf_str(&b, text);
        buf_puts(&b, around[i].after);
        /* "[" and nothing and "]" is an array. */
        bool empty_array = i == 0 && blank(text);
        if (!empty_array && accepts((struct str){b.p, b.n}, &v) != (mark == 'y'))
            fail_msg("cases.txt:%d: embedded (%zu): %s", line, i,
                     mark == 'y' ? "refused" : "accepted");
        buf_free(&b);
    }
}

static void cases_alone(void **state) {
    (void)state;
    assert_in_range(json_cases(check_alone), 800, 10000);
}

static void cases_embedded(void **state) {
    (void)state;
    json_cases(check_embedded);
}

static void cases_cut_short(void **state) {
    (void)state;
    json_cases(check_cut);
}

static void every_byte_in_a_string(void **state) {
    (void)state;
    /* At each place of a word of eight, since strings are scanned by words. */
    for (int c = 0; c < 256; c++)
        for (size_t at = 0; at < 20; at++) {
            char text[22];
            struct json_value v;
            memset(text, 'a', sizeof text);
            text[0] = text[21] = '"';
            text[1 + at] = (char)c;
            bool ok = c >= 0x20 && c < 0x80 && c != '"' && c != '\\';
            if (accepts((struct str){text, sizeof text}, &v) != ok)
                fail_msg("byte %02x at %zu", c, at);
        }
}

static void every_utf8_sequence(void **state) {
    (void)state;
    /* All two- and three-byte combinations against the table of RFC 3629, section 4. */
    for (unsigned a = 0x80; a < 0x100; a++)
        for (unsigned b = 0; b < 0x100; b++) {
            bool tail = b >= 0x80 && b < 0xc0;
            char two[2] = {(char)a, (char)b};
            assert_int_equal(utf8_sequence(two, 2), a >= 0xc2 && a < 0xe0 && tail ? 2 : 0);
            assert_int_equal(utf8_sequence(two, 1), 0);
            bool ok = a >= 0xe0 && a < 0xf0 && tail && !(a == 0xe0 && b < 0xa0) &&
                      !(a == 0xed && b > 0x9f);
            if (a >= 0xe0) {
                for (unsigned c = 0; c < 0x100; c++) {
                    char three[3] = {(char)a, (char)b, (char)c};
                    assert_int_equal(utf8_sequence(three, 3), ok && c >= 0x80 && c < 0xc0 ? 3 : 0);
                }
            }
            char four[4] = {(char)a, (char)b, (char)0x80, (char)0xbf};
            bool four_ok = tail && ((a == 0xf0 && b >= 0x90) || (a > 0xf0 && a < 0xf4) ||
                                    (a == 0xf4 && b < 0x90));
            if (a >= 0xf0) assert_int_equal(utf8_sequence(four, 4), four_ok ? 4 : 0);
        }
    assert_int_equal(utf8_sequence("", 0), 0);
    assert_int_equal(utf8_sequence("a", 1), 1);
    assert_int_equal(utf8_sequence("\0", 1), 1);
}

static void depth_has_a_limit(void **state) {
    (void)state;
    static const struct {
        const char *open, *close;
    } kinds[] = {{"[", "]"}, {"{\"a\":", "}"}, {"[{\"a\":", "}]"}};
    for (size_t k = 0; k < 3; k++)
        for (size_t levels = 1; levels < 200; levels++) {
            struct buf b;
            struct json_value v;
            buf_init(&b, 1 << 16);
            for (size_t i = 0; i < levels; i++) buf_puts(&b, kinds[k].open);
            buf_puts(&b, "1");
            for (size_t i = 0; i < levels; i++) buf_puts(&b, kinds[k].close);
            bool ok = levels * (k == 2 ? 2 : 1) <= JSON_DEPTH_MAX;
            assert_int_equal(accepts((struct str){b.p, b.n}, &v), ok);
            buf_free(&b);
        }
    /* A hundred thousand open brackets cost no stack. */
    struct buf b;
    struct json j;
    struct json_value v;
    buf_init(&b, 100000);
    memset(buf_reserve(&b, 100000), '[', 100000);
    json_begin(&j, (struct str){b.p, 100000});
    assert_false(json_value(&j, &v));
    assert_true(j.too_deep);
    buf_free(&b);
    /* Side by side is not deep. */
    buf_init(&b, 1 << 16);
    for (int i = 0; i < 1000; i++) buf_puts(&b, i ? ",[{}]" : "[[{}]");
    buf_puts(&b, "]");
    assert_true(accepts((struct str){b.p, b.n}, &v));
    buf_free(&b);
}

static void values_keep_their_bytes(void **state) {
    (void)state;
    static const struct {
        const char *text, *raw;
        enum json_kind kind;
        bool escaped;
    } cases[] = {
        {" 9007199254740993 ", "9007199254740993", JSON_NUMBER, false},
        {"1e400", "1e400", JSON_NUMBER, false},
        {"-0.0", "-0.0", JSON_NUMBER, false},
        {"\"a b\"", "a b", JSON_STRING, false},
        {"\"a\\u0041\"", "a\\u0041", JSON_STRING, true},
        {"\"\"", "", JSON_STRING, false},
        {" { \"a\" : [ 1 ] } ", "{ \"a\" : [ 1 ] }", JSON_OBJECT, false},
        {"[ 1, 2 ]\n", "[ 1, 2 ]", JSON_ARRAY, false},
        {"true", "true", JSON_BOOL, false},
        {"false", "false", JSON_BOOL, false},
        {"\tnull", "null", JSON_NULL, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct json_value v;
        assert_true(accepts(str_c(cases[i].text), &v));
        assert_int_equal(v.kind, cases[i].kind);
        assert_int_equal(v.escaped, cases[i].escaped);
        assert_true(str_is(v.raw, cases[i].raw));
    }
}

static void errors_name_place_and_reason(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t at;
        const char *err;
    } cases[] = {
        {"{\"a\":01}", 5, "a number with a leading zero"},
        {"[1,]", 3, "a value is missing"},
        {"[1 2]", 3, "a comma or closing bracket is missing"},
        {"{\"a\" 1}", 5, "a colon is missing"},
        {"{a:1}", 1, "a member's name is missing"},
        {"{\"a\":1,}", 7, "a member's name is missing"},
        {"\"ab", 3, "the text ends inside a string"},
        {"\"a\tb\"", 2, "a control character in a string"},
        {"\"a\\xb\"", 2, "an invalid escape in a string"},
        {"\"a\xff\"", 2, "invalid UTF-8 in a string"},
        {"[", 1, "the text ends inside an object or array"},
        {"[1", 2, "the text ends inside an object or array"},
        {"{} x", 3, "text follows the value"},
        {"-", 1, "a number without digits"},
        {"1.e1", 2, "a number without digits after the point"},
        {"1e+", 3, "a number without digits in its exponent"},
        {"nil", 0, "an unknown word"},
        {"", 0, "a value is missing"},
        {"\xef\xbb\xbf{}", 0, "a byte order mark stands before the text"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct json j;
        struct json_value v;
        json_begin(&j, str_c(cases[i].text));
        json_value(&j, &v);
        assert_false(json_end(&j));
        assert_string_equal(j.err, cases[i].err);
        assert_int_equal(j.at - j.start, cases[i].at);
    }
}

static void walking(void **state) {
    (void)state;
    struct json j;
    struct json_value v = {0};
    struct json_value key;
    char seen[64] = "";
    json_begin(&j, STR(" {\"a\":1, \"b\" : {\"c\":[]} ,\"d\":[ {} , 2 ] } "));
    assert_true(json_open(&j, &v));
    struct json_value object = v;
    while (json_key(&j, &key)) {
        strncat(seen, key.raw.p, key.raw.n);
        if (json_peek(&j) == JSON_ARRAY) {
            assert_true(json_open_array(&j, &v));
            while (json_item(&j)) {
                assert_false(json_peek(&j) == JSON_ABSENT);
                json_value(&j, &v);
                strncat(seen, v.raw.p, v.raw.n);
            }
        } else if (json_open(&j, &v)) {
            struct json_value inner = v;
            while (json_key(&j, &key)) json_value(&j, &v);
            json_close(&j, &inner);
            assert_true(str_is(inner.raw, "{\"c\":[]}"));
        }
    }
    json_close(&j, &object);
    assert_true(json_end(&j));
    assert_string_equal(seen, "abd{}2");
    assert_int_equal(object.raw.n, sizeof "{\"a\":1, \"b\" : {\"c\":[]} ,\"d\":[ {} , 2 ] }" - 1);
    /* A stop sticks. */
    json_begin(&j, STR("[1,2]"));
    json_stop(&j, "enough");
    json_stop(&j, "too late");
    assert_false(json_value(&j, &v));
    assert_false(json_key(&j, &v));
    assert_false(json_item(&j));
    assert_false(json_open(&j, &v));
    assert_int_equal(json_peek(&j), JSON_ABSENT);
    assert_false(json_end(&j));
    assert_string_equal(j.err, "enough");
}

static void unescaping(void **state) {
    (void)state;
    static const struct {
        struct str raw, text;
    } cases[] = {
        {STR(""), STR("")},
        {STR("abc"), STR("abc")},
        {STR("\\\"\\\\\\/\\b\\f\\n\\r\\t"), STR("\"\\/\b\f\n\r\t")},
        {STR("\\u0041\\u00e9\\u20AC"), STR("A\xc3\xa9\xe2\x82\xac")},
        {STR("\\uD83D\\uDE00"), STR("\xf0\x9f\x98\x80")},
        {STR("\\uDBFF\\uDFFF"), STR("\xf4\x8f\xbf\xbf")},
        {STR("\\uD800\\uDC00"), STR("\xf0\x90\x80\x80")},
        {STR("a\\u0000b"), STR("a\0b")},
        {STR("\xe2\x82\xac\\n"), STR("\xe2\x82\xac\n")},
        {STR("\\u007f\\u0080\\u07ff\\u0800\\uffff"),
         STR("\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf")},
        {STR("\\\\u0041"), STR("\\u0041")},
    };
    char ret[64];
    size_t n = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_true(json_unescape(cases[i].raw, ret, &n));
        assert_true(str_eq((struct str){ret, n}, cases[i].text));
    }
    static const char *const odd[] = {"\\ud800",  "\\udc00",        "a\\udfffb", "\\ud800\\ud800",
                                      "\\ud800a", "\\ud800\\u0041", "\\ud800\\n"};
    for (size_t i = 0; i < sizeof odd / sizeof odd[0]; i++)
        assert_false(json_unescape(str_c(odd[i]), ret, &n));
}

static void odd_escapes_are_noted(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool odd;
    } cases[] = {{"\"\\u0001\\uD83D\\uDE00\\u0041\"", false},
                 {"\"\\\\u0000\"", false},
                 {"\"\\u0000\"", true},
                 {"[{\"\\u0000\":1}]", true},
                 {"\"\\ud800\"", true},
                 {"\"\\udc00\"", true},
                 {"\"\\ud83d\\u0041\"", true},
                 {"\"\\ud83d\\ud83d\\ude00\"", true},
                 {"\"\\ude00\\ud83d\"", true}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct json j;
        struct json_value v;
        json_begin(&j, str_c(cases[i].text));
        assert_true(json_value(&j, &v));
        assert_int_equal(j.odd_escape, cases[i].odd);
    }
}

static void surrogates_are_replaced(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"", ""},
        {"{\"a\":\"b\"}", "{\"a\":\"b\"}"},
        {"\"\\ud800\"", "\"\\ufffd\""},
        {"\"\\uDC00x\"", "\"\\ufffdx\""},
        {"\"\\ud83d\\ude00\"", "\"\\ud83d\\ude00\""},
        {"\"\\ud83d\\ud83d\\ude00\\ude00\"", "\"\\ufffd\\ud83d\\ude00\\ufffd\""},
        {"\"\\ud800\\\\udc00\"", "\"\\ufffd\\\\udc00\""},
        {"\"\\\\ud800\\u0000\\\"\"", "\"\\\\ud800\\u0000\\\"\""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[64];
        size_t n = strlen(cases[i][0]);
        memcpy(text, cases[i][0], n + 1);
        json_replace_surrogates(text, n);
        assert_string_equal(text, cases[i][1]);
    }
}

static void sameness(void **state) {
    (void)state;
    static const struct {
        const char *a, *b;
        bool same;
    } cases[] = {
        {"\"a\"", "\"a\"", true},
        {"\"a\"", "\"\\u0061\"", true},
        {"\"\\u0061\"", "\"a\"", true},
        {"\"\\/\"", "\"/\"", true},
        {"\"\\u00e9\"", "\"\xc3\xa9\"", true},
        {"\"\\ud83d\\ude00\"", "\"\xf0\x9f\x98\x80\"", true},
        {"\"a\"", "\"b\"", false},
        {"\"a\"", "\"\\u0061b\"", false},
        {"\"\\u0061b\"", "\"a\"", false},
        {"\"\\ud800\"", "\"\\uD800\"", false},
        {"\"\\ud800\"", "\"\\ud800\"", true},
        {"1", "1", true},
        {"1", "1.0", false},
        {"1", "\"1\"", false},
        {"null", "null", true},
        {"null", "{}", false},
        {"{\"a\":1}", "{\"a\":1}", true},
        {"{\"a\":1}", "{\"a\": 1}", false},
        {"true", "false", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct json_value a;
        struct json_value b;
        assert_true(accepts(str_c(cases[i].a), &a) && accepts(str_c(cases[i].b), &b));
        if (json_same(&a, &b) != cases[i].same) fail_msg("%s %s", cases[i].a, cases[i].b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cases_alone),
        cmocka_unit_test(cases_embedded),
        cmocka_unit_test(cases_cut_short),
        cmocka_unit_test(every_byte_in_a_string),
        cmocka_unit_test(every_utf8_sequence),
        cmocka_unit_test(depth_has_a_limit),
        cmocka_unit_test(values_keep_their_bytes),
        cmocka_unit_test(errors_name_place_and_reason),
        cmocka_unit_test(walking),
        cmocka_unit_test(unescaping),
        cmocka_unit_test(odd_escapes_are_noted),
        cmocka_unit_test(surrogates_are_replaced),
        cmocka_unit_test(sameness),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
