#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "worker/base/buf.h"
#include "worker/base/key.h"

#define ALL ((1u << KEY_FIELDS) - 1)
#define OBJECT                                                                                     \
    "{prefix}{workspaceId}/{projectId}/{jobId}/{id}/"                                              \
    "{updatedAt}-{status}-{partition}-{offset}.json"

static struct key_template *template(const char *text) {
    struct buf err;
    buf_init(&err, 1000);
    struct key_template *t = key_template_new(text, ALL, &err);
    if (!t) fail_msg("%s: %s", text, buf_cstr(&err));
    assert_int_equal(err.n, 0);
    buf_free(&err);
    return t;
}

/* The key of one value in one place, or NULL. */
static const char *made(const char *text, enum key_field f, struct str value, size_t limit) {
    static char key[5000];
    struct key_template *t = template(text);
    struct key_values values = {0};
    values.v[f] = value;
    struct buf out;
    buf_init(&out, sizeof key - 1);
    buf_puts(&out, "before ");
    bool ok = key_make(t, &values, limit, &out);
    snprintf(key, sizeof key, "%s", buf_cstr(&out));
    buf_free(&out);
    key_template_free(t);
    assert_memory_equal(key, "before ", 7);
    if (!ok) assert_string_equal(key, "before ");
    return ok ? key + 7 : NULL;
}

static void test_the_default_templates(void **state) {
    (void)state;
    struct key_values v = {0};
    v.v[KEY_PREFIX] = STR("logs/acme corp/");
    v.v[KEY_WORKSPACE_ID] = STR("ws 1");
    v.v[KEY_PROJECT_ID] = STR("p/../q");
    v.v[KEY_JOB_ID] = STR("job_1-A.b");
    v.v[KEY_ID] = STR("..");
    v.v[KEY_UPDATED_AT] = STR("2026-01-02T03:04:05+01:00");
    v.v[KEY_STATUS] = STR("SUCCESS");
    v.v[KEY_PARTITION] = STR("3");
    v.v[KEY_OFFSET] = STR("9223372036854775807");
    v.v[KEY_DATE] = STR("2026-01-02");
    v.v[KEY_TOPIC] = STR("jobruns");
    v.v[KEY_FIRST] = STR("10");
    v.v[KEY_NEXT] = STR("20");
    v.v[KEY_DESTINATION] = STR("0123456789ab");
    static const char *const cases[][2] = {
        {OBJECT, "logs/acme corp/ws%201/p%2F..%2Fq/job_1-A.b/%2E%2E/"
                 "2026-01-02T03%3A04%3A05%2B01%3A00-SUCCESS-3-9223372036854775807.json"},
        {"{prefix}dt={date}/{topic}-{partition}-{first}-{next}-{destination}.ndjson",
         "logs/acme corp/dt=2026-01-02/jobruns-3-10-20-0123456789ab.ndjson"},
        {"no field", "no field"},
        {"{topic}{topic}", "jobrunsjobruns"},
        {"\303\244/{id}", "\303\244/%2E%2E"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct key_template *t = template(cases[i][0]);
        struct buf out;
        buf_init(&out, 2000);
        assert_true(key_make(t, &v, 1024, &out));
        assert_string_equal(buf_cstr(&out), cases[i][1]);
        buf_free(&out);
        key_template_free(t);
    }
}

static void test_encoding(void **state) {
    (void)state;
    static const struct {
        struct str value;
        const char *key;
    } cases[] = {
        {{"", 0}, "x/y"},
        {{".", 1}, "x/%2Ey"},
        {{"..", 2}, "x/%2E%2Ey"},
        {{"...", 3}, "x/...y"},
        {{".a", 2}, "x/.ay"},
        {{"/", 1}, "x/%2Fy"},
        {{"\\", 1}, "x/%5Cy"},
        {{"%2F", 3}, "x/%252Fy"},
        {{"a b+c~", 6}, "x/a%20b%2Bc%7Ey"},
        {{"\303\244", 2}, "x/%C3%A4y"},
        {{"\xff\x01\x7f", 3}, "x/%FF%01%7Fy"},
        {{"{id}", 4}, "x/%7Bid%7Dy"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_string_equal(made("x/{id}y", KEY_ID, cases[i].value, 1024), cases[i].key);
}

static void test_values_refused(void **state) {
    (void)state;
    assert_null(made("{id}", KEY_ID, STR("a\0b"), 1024));
    assert_null(made("{prefix}{id}", KEY_PREFIX, STR("a\0b"), 1024));
    assert_null(made("{prefix}{id}", KEY_PREFIX, STR("a\xff"), 1024));
    assert_null(made("{prefix}{id}", KEY_PREFIX, STR("\xed\xa0\x80"), 1024)); /* a surrogate */
    assert_string_equal(made("{prefix}{id}", KEY_PREFIX, STR("../%2F \303\244"), 1024),
                        "../%2F \303\244");
}

static void test_limits(void **state) {
    (void)state;
    assert_string_equal(made("ab{id}cd", KEY_ID, STR("x"), 5), "abxcd");
    assert_null(made("ab{id}cd", KEY_ID, STR("xy"), 5));
    assert_null(made("ab{id}cd", KEY_ID, STR("/"), 6)); /* 3 bytes once encoded */
    assert_string_equal(made("ab{id}cd", KEY_ID, STR("/"), 7), "ab%2Fcd");
    static char huge[4000000];
    memset(huge, '/', sizeof huge);
    assert_null(made("{id}", KEY_ID, (struct str){huge, sizeof huge}, 1024));
    /* The buffer's own ceiling, with room for "before " and 4 bytes. */
    struct key_template *t = template("{id}");
    struct buf out;
    buf_init(&out, 4);
    struct key_values v = {0};
    v.v[KEY_ID] = STR("12345");
    assert_false(key_make(t, &v, 1024, &out));
    assert_int_equal(out.n, 0);
    v.v[KEY_ID] = STR("1234");
    assert_true(key_make(t, &v, 1024, &out));
    buf_free(&out);
    key_template_free(t);
}

static void test_templates_refused(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"", "empty"},
        {"a{", "{ without a }"},
        {"a{id", "{ without a }"},
        {"a{{id}}", "{ without a }"},
        {"a}b", "} without a {"},
        {"{id}}", "} without a {"},
        {"{nope}", "no field {nope}; fields are {prefix} {id}"},
        {"{}", "no field {}"},
        {"{ID}", "no field {ID}"},
        {"{id }", "no field {id }"},
        {"{offset}", "no field {offset}"}, /* a field, but not one of this template's */
        {"a\nb", "control"},
        {"a\177", "control"},
        {"a\xff", "UTF-8"},
        {"../{id}", "folder"},
        {"a/./{id}", "folder"},
        {"a/..", "folder"},
        {"{a-very-long-name-that-an-operator-mistyped-in-the-file}",
         "{a-very-long-name-that-an-operator-mistyp}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct buf err;
        buf_init(&err, 1000);
        struct key_template *t =
            key_template_new(cases[i][0], 1u << KEY_PREFIX | 1u << KEY_ID, &err);
        if (t || !strstr(buf_cstr(&err), cases[i][1]))
            fail_msg("%s: %s", cases[i][0], t ? "accepted" : buf_cstr(&err));
        buf_free(&err);
    }
    key_template_free(NULL);
}

static void test_uses(void **state) {
    (void)state;
    struct key_template *t = template("{prefix}{date}/{id}");
    for (int f = 0; f < KEY_FIELDS; f++)
        assert_int_equal(key_template_uses(t, (enum key_field)f),
                         f == KEY_PREFIX || f == KEY_DATE || f == KEY_ID);
    key_template_free(t);
}

static size_t slashes(const char *s) {
    size_t n = 0;
    for (; *s; s++) n += *s == '/';
    return n;
}

/* No value can climb out of its place: whatever stands in the fields, the key has the template's
 * folders, none of them "." or "..". */
static void test_no_value_climbs_out(void **state) {
    (void)state;
    static const char text[] = "a/{workspaceId}/{projectId}/{jobId}-{id}/{status}";
    static const char nasty[] = "./%\\ \n{}\303\244~aZ9_-";
    srand(11);
    struct key_template *t = template(text);
    struct buf out;
    buf_init(&out, 5000);
    for (int i = 0; i < 20000; i++) {
        char bytes[KEY_FIELDS][8];
        struct key_values v = {0};
        for (int f = 0; f < KEY_FIELDS; f++) {
            size_t n = 1 + (size_t)rand() % sizeof bytes[0];
            for (size_t b = 0; b < n; b++) bytes[f][b] = nasty[(size_t)rand() % (sizeof nasty - 1)];
            if (rand() % 4 == 0) bytes[f][0] = (char)(1 + rand() % 127);
            v.v[f] = (struct str){bytes[f], n};
        }
        buf_clear(&out);
        assert_true(key_make(t, &v, 1024, &out));
        const char *key = buf_cstr(&out);
        assert_int_equal(slashes(key), slashes(text));
        for (const char *at = key; at; at = strchr(at, '/')) {
            at += *at == '/';
            size_t n = strcspn(at, "/");
            assert_true(n > 0);
            assert_false((n == 1 && at[0] == '.') || (n == 2 && at[0] == '.' && at[1] == '.'));
        }
    }
    buf_free(&out);
    key_template_free(t);
}

static void test_date(void **state) {
    (void)state;
    static const struct {
        int64_t ms;
        const char *date;
    } cases[] = {
        {0, "1970-01-01"},
        {86399999, "1970-01-01"},
        {86400000, "1970-01-02"},
        {1709164800000, "2024-02-29"},
        {253402300799999, "9999-12-31"},
        {253402300800000, "9999-12-31"},
        {INT64_MAX, "9999-12-31"},
        {-1, "1970-01-01"},
        {INT64_MIN, "1970-01-01"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char date[11];
        key_date(cases[i].ms, date);
        assert_string_equal(date, cases[i].date);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_default_templates), cmocka_unit_test(test_encoding),
        cmocka_unit_test(test_values_refused),        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_templates_refused),     cmocka_unit_test(test_uses),
        cmocka_unit_test(test_no_value_climbs_out),   cmocka_unit_test(test_date),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
