/* A ledger as files: what `runsink verify --export` writes and `runsink verify DIR` reads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tests/unit/ledger_judge.h"

static void test_files(void **state) {
    struct keys *k = *state;
    char dir[128];
    struct world w;
    struct snapshot snapshot, again = {0};
    struct seen seen = {0};
    struct buf err;
    buf_init(&err, 4096);
    snprintf(dir, sizeof dir, "%s/export", k->dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    world_make(&w, 5, 40, k->ours);
    world_snapshot(&w, &snapshot);
    snapshot_add_drained(&snapshot, WORLD_SOURCE ".retry.40s");
    write_export(&w, &snapshot, dir, 1, true);
    snprintf(dir, sizeof dir, "%s/export/0001", k->dir);
    assert_false(export_open(dir, &err)); /* never on top of another */

    assert_true(files_snapshot(dir, &again, &err));
    assert_int_equal(again.n_committed, snapshot.n_committed);
    assert_memory_equal(again.committed[4].meta.head, snapshot.committed[4].meta.head, SHA256_LEN);
    assert_string_equal(again.drained[0], WORLD_SOURCE ".retry.40s");
    struct audit_options opts = {.group = WORLD_GROUP,
                                 .source = again.source,
                                 .keys = &k->ours_pub,
                                 .n_keys = 1,
                                 .report = watch,
                                 .context = &seen};
    struct audit *a = audit_new(&opts);
    snapshot_expect(&again, a);
    assert_true(files_audit(dir, a, &err));
    audit_finish(a);
    assert_int_equal(seen.findings, 0);
    const struct audit_row *rows;
    size_t n = audit_rows(a, &rows);
    uint64_t entries = 0;
    for (size_t i = 0; i < n; i++) entries += rows[i].entries;
    assert_int_equal(entries, 40);
    audit_free(a);
    char command[256];
    snprintf(command, sizeof command, "rm -r '%s/export'", k->dir);
    assert_int_equal(system(command), 0);
    assert_false(files_snapshot(dir, &again, &err));
    buf_free(&err);
    snapshot_free(&snapshot);
    snapshot_free(&again);
    world_free(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
