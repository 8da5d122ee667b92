/* What a terminal is given of text from outside. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include <cjson/cJSON.h>

#include "worker/base/shown.h"
#include "worker/base/text.h"
#include "worker/tools/verify_report.h"

static const struct {
    const char *text, *shown;
} cases[] = {
    {"s3://bucket/pr\xc3\xa9"
     "fix \xf0\x9f\x98\x80",
     "s3://bucket/pr\xc3\xa9"
     "fix \xf0\x9f\x98\x80"},
    {"quotes \" and \\ stay", "quotes \" and \\ stay"},
    {"\x1b]0;owned\x07", "\\u001b]0;owned\\u0007"},
    {"one\ntwo\r\tthree", "one\\ntwo\\r\\tthree"},
    {"del\x7f", "del\\u007f"},
    {"csi\xc2\x9b"
     "31m",
     "csi\\u009b31m"},
    {"\xe2\x80\xae"
     "txt.exe\xe2\x81\xa6",
     "\\u202etxt.exe\\u2066"},
    {"\xe2\x80\xa8\xef\xbb\xbf", "\\u2028\\ufeff"},
    {"raw \x9b"
     "31m \xff \xc3",
     "raw \\x9b31m \\xff \\xc3"},
    {"", ""},
    {NULL, ""},
};

static void test_text(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(SHOWN(cases[i].text), cases[i].shown);
}

static void test_long_text_is_cut(void **state) {
    (void)state;
    char *text = xmalloc(3 * SHOWN_MAX), ret[SHOWN_MAX];
    for (int fill = 0; fill < 2; fill++) {
        memset(text, fill ? 0x1b : 'x', 3 * SHOWN_MAX);
        text[3 * SHOWN_MAX - 1] = '\0';
        shown(text, ret);
        assert_in_range(strlen(ret), SHOWN_MAX - 16, SHOWN_MAX - 1);
        assert_string_equal(ret + strlen(ret) - 3, "...");
    }
    free(text);
}

/* As JSON it is printable, and the same text to whoever parses it. */
static void test_json(void **state) {
    (void)state;
    for (size_t i = 0; i + 1 < sizeof cases / sizeof *cases; i++) {
        struct buf b, plain;
        buf_init(&b, 4096);
        buf_init(&plain, 4096);
        buf_putc(&b, '"');
        assert_true(shown_json(&b, str_c(cases[i].text)));
        buf_putc(&b, '"');
        buf_putc(&plain, '"');
        assert_true(text_json(&plain, str_c(cases[i].text)));
        buf_putc(&plain, '"');
        assert_string_equal(SHOWN(buf_cstr(&b)), buf_cstr(&b));
        cJSON *have = cJSON_Parse(buf_cstr(&b)), *want = cJSON_Parse(buf_cstr(&plain));
        assert_non_null(have);
        assert_string_equal(have->valuestring, want->valuestring);
        cJSON_Delete(have);
        cJSON_Delete(want);
        buf_free(&b);
        buf_free(&plain);
    }
    struct buf small;
    buf_init(&small, 4);
    assert_false(shown_json(&small, str_c("ab\x7f")));
    assert_int_equal(small.n, 0);
    buf_free(&small);
}

/* verify: a label of the ledger can neither command the terminal nor begin a line of its own. */
static void test_finding(void **state) {
    (void)state;
    static const char evil[] = "label \x1b[2J\nsound: every record covered has its one outcome";
    for (int json = 0; json < 2; json++) {
        char *text = NULL;
        size_t n = 0;
        FILE *out = open_memstream(&text, &n);
        struct report r = {.out = out, .json = json};
        report_finding(&r, &(const struct finding){.code = "altered",
                                                   .topic = evil,
                                                   .offset = 1,
                                                   .place = {.name = evil},
                                                   .text = evil});
        fclose(out);
        assert_null(strchr(text, 0x1b));
        const char *newline = strchr(text, '\n');
        assert_true(!newline || newline == text + n - 1);
        free(text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_long_text_is_cut),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_finding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
