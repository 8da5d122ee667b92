/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "worker/base/arena.h"
#include "worker/base/buf.h"
#include "worker/base/outcome.h"
#include "worker/base/text.h"
#include "worker/event/json.h"

#define LEN(array) (sizeof(array) / sizeof(array)[0])

static void the_ceiling_is_an_answer(void **state) {
    (void)state;
    struct buf b;
    buf_init(&b, 5);
    assert_true(buf_puts(&b, "abc"));
    assert_false(buf_puts(&b, "def"));
    assert_false(buf_printf(&b, "%d", 123));
    assert_false(text_json(&b, STR("\n\n")));
    assert_false(text_json(&b, STR("a\n"))); /* what came before the refusal is taken back */
    assert_null(buf_reserve(&b, 3));
    assert_null(buf_reserve(&b, SIZE_MAX));
    assert_string_equal(buf_cstr(&b), "abc");
    assert_true(buf_printf(&b, "%s", "de")); /* still usable, up to the last byte */
    assert_false(buf_putc(&b, 'f'));
    assert_string_equal(buf_cstr(&b), "abcde");
    buf_clear(&b);
    assert_true(buf_puts(&b, "12345"));
    assert_int_equal(b.n, 5);
    buf_free(&b);
    buf_free(&b);
    buf_free(NULL);
    buf_wipe(NULL);
}

static void no_ceiling_to_speak_of(void **state) {
    (void)state;
    /* SIZE_MAX once wrapped to a capacity of zero. */
    struct buf b;
    buf_init(&b, SIZE_MAX);
    for (int i = 0; i < 1000; i++) assert_true(buf_puts(&b, "0123456789"));
    assert_int_equal(b.n, 10000);
    assert_null(buf_reserve(&b, SIZE_MAX - 1));
    assert_null(buf_reserve(&b, SIZE_MAX / 2));
    buf_wipe(&b);
    assert_null(b.p);
}

static void empty_buffers(void **state) {
    (void)state;
    struct buf b = {0};
    assert_string_equal(buf_cstr(&b), "");
    assert_true(buf_add(&b, NULL, 0));
    assert_false(buf_putc(&b, 'a'));
    buf_free(&b);
    buf_init(&b, 100);
    assert_true(buf_str(&b, (struct str){NULL, 0}));
    assert_true(text_json(&b, (struct str){NULL, 0}));
    assert_true(buf_printf(&b, "%s", ""));
    assert_string_equal(buf_cstr(&b), "");
    buf_free(&b);
    buf_init(&b, 100);
    assert_string_equal(buf_cstr(&b), "");
    assert_true(buf_puts(&b, "after buf_cstr"));
    assert_string_equal(buf_cstr(&b), "after buf_cstr");
    buf_wipe(&b);
}

static void growing_keeps_the_content(void **state) {
    void (*const init)(struct buf *, size_t) = *state ? buf_init_secret : buf_init;
    struct buf b;
    init(&b, 100000);
    for (int i = 0; i < 10000; i++) {
        char *p = buf_reserve(&b, 3);
        assert_non_null(p);
        memcpy(p, "xyz", 3);
        b.n += 3;
        assert_true(buf_printf(&b, "%04d", i));
    }
    assert_int_equal(b.n, 70000);
    for (int i = 0; i < 10000; i++) {
        char want[16];
        snprintf(want, sizeof want, "xyz%04d", i);
        assert_memory_equal(b.p + i * 7, want, 7);
    }
    buf_free(&b);
}

static void json_text(void **state) {
    (void)state;
    static const struct {
        struct str text;
        const char *json;
    } cases[] = {
        {STR(""), ""},
        {STR("plain /text"), "plain /text"},
        {STR("\"\\\n\r\t"), "\\\"\\\\\\n\\r\\t"},
        {STR("\0\1\x1f\x7f"), "\\u0000\\u0001\\u001f\x7f"},
        {STR("\xe2\x82\xac\xf0\x9f\x98\x80"), "\xe2\x82\xac\xf0\x9f\x98\x80"},
        {STR("a\xff"
             "b"),
         "a\xef\xbf\xbd"
         "b"},
        {STR("\xe2\x82"), "\xef\xbf\xbd\xef\xbf\xbd"},
        {STR("\xc0\x80"), "\xef\xbf\xbd\xef\xbf\xbd"},
        {STR("\xed\xa0\x80"), "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
        {STR("\xe2\x82\"\xac"), "\xef\xbf\xbd\xef\xbf\xbd\\\"\xef\xbf\xbd"},
    };
    for (size_t i = 0; i < LEN(cases); i++) {
        struct buf b;
        buf_init(&b, 1000);
        assert_true(text_json(&b, cases[i].text));
        assert_string_equal(buf_cstr(&b), cases[i].json);
        buf_free(&b);
    }
}

/* Whatever two bytes go in, a valid JSON string comes out, and the same text when it was one. */
static void json_of_any_bytes(void **state) {
    (void)state;
    for (unsigned v = 0; v < 0x10000; v++) {
        char text[4] = {'a', (char)(v >> 8), (char)v, 'z'};
        char back[32];
        size_t n = 0;
        struct buf b;
        struct json j;
        struct json_value string;
        buf_init(&b, 100);
        buf_putc(&b, '"');
        assert_true(text_json(&b, (struct str){text, 4}));
        buf_putc(&b, '"');
        json_begin(&j, (struct str){b.p, b.n});
        assert_true(json_value(&j, &string) && json_end(&j));
        assert_true(json_unescape(string.raw, back, &n));
        if ((v >> 8) < 0x80 && (v & 0xff) < 0x80)
            assert_true(str_eq((struct str){text, 4}, (struct str){back, n}));
        buf_free(&b);
    }
}

static void copies(void **state) {
    (void)state;
    char *a = xstrdup("text");
    char *b = xstrndup("a\0b", 3);
    char *c = xstrndup(NULL, 0);
    assert_string_equal(a, "text");
    assert_memory_equal(b, "a\0b", 4);
    assert_string_equal(c, "");
    free(a);
    free(b);
    free(c);
    free(xmalloc(0));
    free(xcalloc(0, 0));
    free(xrealloc(NULL, 0));
    char secret[] = "secret";
    wipe(secret, sizeof secret);
    for (size_t i = 0; i < sizeof secret; i++) assert_int_equal(secret[i], 0);
    wipe(NULL, 5);
}

static void arena_pieces(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 1, 15, 16, 17, 100, 4096, 4097, 16384, 16385, 100000, 3};
    struct arena a = {0};
    for (int round = 0; round < 3; round++) {
        unsigned char *pieces[LEN(sizes) * 20];
        for (size_t i = 0; i < LEN(pieces); i++) {
            size_t n = sizes[i % LEN(sizes)];
            pieces[i] = arena_alloc(&a, n);
            assert_int_equal((uintptr_t)pieces[i] % _Alignof(max_align_t), 0);
            for (size_t k = 0; k < n; k++) assert_int_equal(pieces[i][k], 0);
            memset(pieces[i], (int)i, n);
        }
        for (size_t i = 0; i < LEN(pieces); i++) /* none overlaps another */
            for (size_t k = 0; k < sizes[i % LEN(sizes)]; k++)
                assert_int_equal(pieces[i][k], (unsigned char)i);
        assert_true(a.bytes > 100000 * 20);
        if (round == 1)
            arena_wipe(&a);
        else
            arena_free(&a);
        assert_null(a.head);
        assert_int_equal(a.bytes, 0);
    }
    arena_free(&a);
    arena_wipe(&a);
}

static void arena_small_pieces_share_blocks(void **state) {
    (void)state;
    struct arena a = {0};
    arena_alloc(&a, 16);
    size_t block = a.bytes;
    for (int i = 0; i < 100; i++) {
        arena_alloc(&a, 64);
        size_t before = a.bytes;
        char *large = arena_alloc(&a, 20000); /* does not end the block that small pieces use */
        large[19999] = 'x';
        assert_true(a.bytes < before + 20100);
    }
    assert_true(a.bytes < block + 100 * 20100);
    char *s = arena_strdup(&a, (struct str){"abcdef", 3});
    assert_string_equal(s, "abc");
    assert_string_equal(arena_strdup(&a, (struct str){NULL, 0}), "");
    arena_free(&a);
}

/* Out of memory ends the process: nothing goes on with half of its data. */
static void impossible_sizes_abort(void **state) {
    (void)state;
    for (int which = 0; which < 2; which++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            struct arena a = {0};
            signal(SIGABRT, SIG_DFL);
            if (!freopen("/dev/null", "w", stderr)) _exit(1);
            if (which == 0) arena_alloc(&a, SIZE_MAX - 3); /* once wrapped to a size of zero */
            if (which == 1) out_of_memory();
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    }
}

static void strings(void **state) {
    (void)state;
    assert_true(str_eq(STR(""), (struct str){NULL, 0}));
    assert_true(str_eq(str_c(NULL), STR("")));
    assert_true(str_is(STR("abc"), "abc"));
    assert_false(str_is(STR("abc"), "ab"));
    assert_false(str_is(STR("ab"), "abc"));
    assert_false(str_eq(STR("abc"), STR("abd")));
    assert_true(str_starts(STR("abc"), "ab"));
    assert_true(str_starts(STR("abc"), ""));
    assert_false(str_starts(STR("ab"), "abc"));
}

static void outcomes(void **state) {
    (void)state;
    struct outcome o = outcome_ok(204);
    assert_int_equal(o.verdict, VERDICT_OK);
    assert_int_equal(o.fault, FAULT_NONE);
    assert_int_equal(o.status, 204);
    assert_string_equal(o.why, "");
    o = outcome_fail(VERDICT_RETRY, FAULT_TENANT, "No Such/Bucket\n", "%s at %d\x7f", "a\tb", 5);
    assert_int_equal(o.verdict, VERDICT_RETRY);
    assert_int_equal(o.fault, FAULT_TENANT);
    assert_string_equal(o.why, "No-Such-Bucket-");
    assert_string_equal(o.detail, "a?b at 5?");
    o = outcome_fail(VERDICT_PERMANENT, FAULT_DATA, "why", NULL);
    assert_string_equal(o.detail, "");
    /* Longer than its place: cut, and still ended. */
    char text[400];
    memset(text, 'x', sizeof text);
    text[399] = '\0';
    o = outcome_fail(VERDICT_PERMANENT, FAULT_SYSTEM, text, "%s", text);
    assert_int_equal(strlen(o.why), sizeof o.why - 1);
    assert_int_equal(strlen(o.detail), sizeof o.detail - 1);
    char small[4];
    outcome_token(small, sizeof small, STR("a.b_c"));
    assert_string_equal(small, "a.b");
    outcome_text(small, sizeof small, STR("\xc3\xa9 z"));
    assert_string_equal(small, "?? ");
    outcome_text(small, 1, STR("abc"));
    assert_string_equal(small, "");
    assert_string_equal(fault_name(FAULT_NONE), "none");
    assert_string_equal(fault_name(FAULT_TENANT), "tenant");
    assert_string_equal(fault_name(FAULT_DATA), "data");
    assert_string_equal(fault_name(FAULT_SYSTEM), "system");
    assert_string_equal(verdict_name(VERDICT_OK), "ok");
    assert_string_equal(verdict_name(VERDICT_RETRY), "retry");
    assert_string_equal(verdict_name(VERDICT_PERMANENT), "permanent");
}

static void token_characters(void **state) {
    (void)state;
    for (int c = 1; c < 256; c++) {
        char in[2] = {(char)c, '\0'};
        char token[2];
        char text[2];
        bool word = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') ||
                    c == '.' || c == '_' || c == '-';
        outcome_token(token, 2, str_c(in));
        outcome_text(text, 2, str_c(in));
        assert_int_equal((unsigned char)token[0], word ? c : '-');
        assert_int_equal((unsigned char)text[0], c >= 0x20 && c < 0x7f ? c : '?');
    }
}

int main(void) {
    static bool secret = true;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_ceiling_is_an_answer),
        cmocka_unit_test(no_ceiling_to_speak_of),
        cmocka_unit_test(empty_buffers),
        cmocka_unit_test(growing_keeps_the_content),
        {"growing a secret keeps the content", growing_keeps_the_content, .initial_state = &secret},
        cmocka_unit_test(json_text),
        cmocka_unit_test(json_of_any_bytes),
        cmocka_unit_test(copies),
        cmocka_unit_test(arena_pieces),
        cmocka_unit_test(arena_small_pieces_share_blocks),
        cmocka_unit_test(impossible_sizes_abort),
        cmocka_unit_test(strings),
        cmocka_unit_test(outcomes),
        cmocka_unit_test(token_characters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
