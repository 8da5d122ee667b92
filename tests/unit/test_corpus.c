/* Every file of tests/fuzz/corpus through its fuzz target: what a fuzzer once found stays fixed, in
 * builds without a fuzzer too. A target's own checks abort. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/base/buf.h"

#define CASE_MAX ((size_t)1 << 20)

typedef int target_fn(const uint8_t *data, size_t size);

/* Defined on the command line: X(decode) X(key) ..., one for each fuzz_*.c. */
#define X(name) target_fn fuzz_##name;
FUZZ_TARGETS
#undef X

static const struct target {
    const char *name;
    target_fn *run;
} targets[] = {
#define X(name) {#name, fuzz_##name},
    FUZZ_TARGETS
#undef X
};

static bool is_case(const char *name) {
    return name[0] != '.';
}

static void replay(const struct target *t, const char *file) {
    char path[1024];
    snprintf(path, sizeof path, "%s/%s/%s", CORPUS, t->name, file);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    uint8_t *text = xmalloc(CASE_MAX);
    size_t n = fread(text, 1, CASE_MAX, f);
    assert_true(n < CASE_MAX && !ferror(f));
    fclose(f);
    /* Memory of just its size, so that a sanitizer sees a read past the end. */
    uint8_t *exact = xmalloc(n ? n : 1);
    memcpy(exact, text, n);
    free(text);
    print_message("%s/%s\n", t->name, file); /* the last one before an abort is to blame */
    assert_int_equal(t->run(exact, n), 0);
    free(exact);
}

static void test_corpus(void **state) {
    const struct target *t = *state;
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", CORPUS, t->name);
    DIR *dir = opendir(path);
    assert_non_null(dir);
    size_t cases = 0;
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        if (!is_case(e->d_name)) continue;
        replay(t, e->d_name);
        cases++;
    }
    closedir(dir);
    assert_true(cases > 0);
}

/* No corpus without its target. */
static void test_all_replayed(void **state) {
    (void)state;
    DIR *dir = opendir(CORPUS);
    assert_non_null(dir);
    for (const struct dirent *e; (e = readdir(dir)) != NULL;) {
        bool known = !is_case(e->d_name);
        for (size_t i = 0; i < sizeof targets / sizeof *targets; i++)
            known = known || strcmp(e->d_name, targets[i].name) == 0;
        if (!known) fail_msg("no fuzz target for the corpus %s", e->d_name);
    }
    closedir(dir);
}

int main(void) {
    struct CMUnitTest tests[sizeof targets / sizeof *targets + 1] = {
        cmocka_unit_test(test_all_replayed)};
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        /* cmocka hands a test's state on as it is; it is only read. */
        union {
            const struct target *in;
            void *out;
        } state = {&targets[i]};
        tests[i + 1] = (struct CMUnitTest){targets[i].name, test_corpus, NULL, NULL, state.out};
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
