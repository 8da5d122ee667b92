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

/* What the folder's files are found to be, beside what the manifest names. */
struct told {
    size_t n;
    char codes[200]; /* "code name;" each */
};

static void on_told(void *context, const struct finding *f) {
    struct told *t = context;
    size_t at = strlen(t->codes);
    t->n++;
    snprintf(t->codes + at, sizeof t->codes - at, "%s %s;", f->code, f->place.name);
}

static void compared(const char *dir, const char *want) {
    struct snapshot s = {0};
    struct told told = {0};
    struct audit_options opts = {
        .group = WORLD_GROUP, .source = WORLD_SOURCE, .report = on_told, .context = &told};
    struct audit *a = audit_new(&opts);
    struct buf err;
    buf_init(&err, 4096);
    assert_true(files_snapshot(dir, &s, &err));
    assert_true(files_compare(dir, &s, a, &err));
    assert_string_equal(told.codes, want);
    audit_free(a);
    snapshot_free(&s);
    buf_free(&err);
}

/* So that the folder is as it was. */
static void change(const char *dir, const char *how, const char *want) {
    char command[400];
    snprintf(command, sizeof command, "cd '%s' && cp -r . ../kept && (%s)", dir, how);
    assert_int_equal(system(command), 0);
    compared(dir, want);
    snprintf(command, sizeof command, "cd '%s/..' && rm -r '%s' && mv kept '%s'", dir, dir, dir);
    assert_int_equal(system(command), 0);
}

static void test_named_files(void **state) {
    struct keys *k = *state;
    const struct str anchor = STR("{\"anchor\":1}");
    const char *name = "2026/01/31/100000Z-0123456789abcdef.json";
    char root[128], dir[160];
    struct snapshot s = {.source = WORLD_SOURCE, .group = WORLD_GROUP};
    struct buf err;
    buf_init(&err, 4096);
    snprintf(root, sizeof root, "%s/named", k->dir);
    snprintf(dir, sizeof dir, "%s/x", root);
    assert_int_equal(mkdir(root, 0700), 0);
    struct exporter *x = export_open(dir, &err);
    assert_non_null(x);
    assert_true(export_anchor(x, name, anchor, &err));
    assert_true(export_anchor(x, name, anchor, &err));
    for (int i = 0; i < 3; i++) assert_true(export_entry(x, STR("jobs/1"), STR("a\nb"), &err));
    assert_true(export_entry(x, STR("?"), STR("c"), &err));
    assert_true(export_finish(x, &s, NULL, &err));
    export_free(x);

    compared(dir, "");
    change(dir, "echo z >>jobs-1.ndjson", "file-altered jobs-1.ndjson;");
    change(dir, "tr a x <jobs-1.ndjson >t && mv t jobs-1.ndjson", "file-altered jobs-1.ndjson;");
    change(dir, "rm unnamed.ndjson", "file-missing unnamed.ndjson;");
    change(dir, "mv jobs-1.ndjson jobs-2.ndjson",
           "file-missing jobs-1.ndjson;file-unnamed jobs-2.ndjson;");
    change(dir, "rm anchors/2026/01/31/*.2",
           "file-missing anchors/2026/01/31/100000Z-0123456789abcdef.json.2;");
    change(dir, "touch anchors/2026/x", "file-unnamed anchors/2026/x;");
    change(dir, "ln -s jobs-1.ndjson jobs-0.ndjson", "file-unnamed jobs-0.ndjson;");
    change(dir, "touch notes.txt; mkdir mine && touch mine/a.ndjson", "");
    change(
        dir,
        "sed 's/\"v\":2/\"v\":1/; s/,\"files\".*/}/' manifest.json >t && mv t manifest.json && rm "
        "unnamed.ndjson",
        "manifest-form-1 manifest.json;");

    /* Names that lead elsewhere, stand twice or in another order are not an export's. */
    static const char *const bad[] = {"s/jobs-1/..\\/jobs-1/",  "s/jobs-1/\\/jobs-1/",
                                      "s/jobs-1/.\\/jobs-1/",   "s/jobs-1/zobs-1/",
                                      "s/jobs-1/unnamed/",      "s/\"files\"/\"file\"/",
                                      "s/\"v\":2/\"v\":1/",     "s/\"v\":2/\"v\":3/",
                                      "s/\"partial\":false,//", "s/sha256\":\"./sha256\":\"/"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char command[300];
        snprintf(command, sizeof command,
                 "cd '%s' && cp manifest.json m && sed -i '%s' manifest.json", dir, bad[i]);
        assert_int_equal(system(command), 0);
        assert_false(files_snapshot(dir, &s, &err));
        snprintf(command, sizeof command, "cd '%s' && mv m manifest.json", dir);
        assert_int_equal(system(command), 0);
    }
    char command[200];
    snprintf(command, sizeof command, "rm -r '%s'", root);
    assert_int_equal(system(command), 0);
    buf_free(&err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_named_files),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
