#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "config/config.h"
#include "seen.h"
#include "sinks/file.h"
#include "worker/base/clock.h"

struct fixture {
    char dir[64];  /* holds root, and what a sink must not reach */
    char root[80]; /* dir/root */
    struct config *cfg;
    struct sink_env env;
};

static int setup(void **state) {
    struct fixture *f = xcalloc(1, sizeof *f);
    snprintf(f->dir, sizeof f->dir, "/tmp/runsink-test-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->root, sizeof f->root, "%s/root", f->dir);
    assert_int_equal(mkdir(f->root, 0700), 0);
    f->cfg = config_new();
    struct buf err;
    buf_init(&err, 4096);
    assert_true(config_set(f->cfg, "file.root", f->root, "test", &err));
    buf_free(&err);
    f->env.cfg = f->cfg;
    *state = f;
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static int teardown(void **state) {
    struct fixture *f = *state;
    file_sink.close(&f->env);
    nftw(f->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    config_free(f->cfg);
    free(f);
    return 0;
}

static bool parse(const struct fixture *f, const struct sink_type *type, const char *json,
                  struct destination *ret, struct outcome *reterr) {
    cJSON *sink = cJSON_Parse(json);
    assert_non_null(sink);
    *ret = (struct destination){0};
    bool ok = type->parse(f->cfg, sink, ret, reterr);
    ret->type = type;
    cJSON_Delete(sink);
    return ok;
}

static void drop(struct destination *d) {
    d->type->free_config(d->config);
    free(d->prefix);
}

static void await(struct fixture *f, const struct seen *s) {
    for (int i = 0; i < 20000 && !s->calls; i++) {
        int wait = file_sink.tick(&f->env, clock_ms(CLOCK_MONOTONIC));
        if (!s->calls && wait > 0) usleep(1000);
    }
}

static struct outcome put(struct fixture *f, struct destination *d, const char *key,
                          const char *body) {
    struct seen s = {0};
    struct batch b = {
        .dest = d, .key = key, .body = body, .body_len = strlen(body), .done = done, .owner = &s};
    file_sink.submit(&f->env, &b);
    assert_int_equal(s.calls, 0); /* never from inside submit */
    await(f, &s);
    assert_int_equal(s.calls, 1);
    assert_null(b.sink_state);
    return s.outcome;
}

static void assert_content(const char *dir, const char *name, const char *want) {
    char path[512], got[64] = "";
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "r");
    if (!file) fail_msg("no %s", path);
    got[fread(got, 1, sizeof got - 1, file)] = '\0';
    fclose(file);
    assert_string_equal(got, want);
}

static size_t count_entries(const char *dir) {
    size_t n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) n++;
    closedir(d);
    return n;
}

static void writes_and_replaces(void **state) {
    struct fixture *f = *state;
    struct destination d;
    struct outcome err;
    assert_true(parse(f, &file_sink, "{\"path\":\"tenant//a\"}", &d, &err));
    assert_string_equal(d.prefix, "tenant/a/");
    assert_string_equal(d.label, "file://tenant//a");
    assert_int_equal(strlen(d.place), PLACE_LEN);
    assert_int_equal(put(f, &d, "tenant/a/x/y.json", "one").verdict, VERDICT_OK);
    assert_content(f->root, "tenant/a/x/y.json", "one");
    assert_int_equal(put(f, &d, "tenant/a/x/y.json", "two").verdict, VERDICT_OK);
    assert_content(f->root, "tenant/a/x/y.json", "two");
    char folder[128];
    snprintf(folder, sizeof folder, "%s/tenant/a/x", f->root);
    assert_int_equal(count_entries(folder), 1); /* no temporary file is left */
    drop(&d);
}

static void paths(void **state) {
    struct fixture *f = *state;
    char below[128], beside[128], above[128];
    snprintf(below, sizeof below, "{\"path\":\"%s/a\"}", f->root);
    snprintf(beside, sizeof beside, "{\"path\":\"%s-other/a\"}", f->root);
    snprintf(above, sizeof above, "{\"path\":\"%s\"}", f->dir);
    const struct {
        const char *json, *prefix; /* NULL: refused */
        enum fault fault;
    } cases[] = {
        {"{\"path\":\"\"}", "", FAULT_NONE},
        {"{\"path\":\"a\"}", "a/", FAULT_NONE},
        {"{\"path\":\"a/b/\"}", "a/b/", FAULT_NONE},
        {below, "a/", FAULT_NONE},
        {beside, NULL, FAULT_TENANT},
        {above, NULL, FAULT_TENANT},
        {"{\"path\":\"/etc\"}", NULL, FAULT_TENANT},
        {"{\"path\":\"..\"}", NULL, FAULT_TENANT},
        {"{\"path\":\"a/../..\"}", NULL, FAULT_TENANT},
        {"{\"path\":\"./a\"}", NULL, FAULT_TENANT},
        {"{\"path\":\".tmp-1\"}", NULL, FAULT_TENANT},
        {"{\"path\":\"a\\nb\"}", NULL, FAULT_TENANT},
        {"{\"path\":7}", NULL, FAULT_DATA},
        {"{}", NULL, FAULT_DATA},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct destination d;
        struct outcome err = {0};
        bool ok = parse(f, &file_sink, cases[i].json, &d, &err);
        if (ok != (cases[i].prefix != NULL)) fail_msg("%s", cases[i].json);
        assert_int_equal(err.fault, cases[i].fault);
        if (!ok) continue;
        assert_string_equal(d.prefix, cases[i].prefix);
        drop(&d);
    }
}

static void refused_without_a_root(void **state) {
    struct fixture *f = *state;
    struct config *bare = config_new();
    struct fixture other = {.cfg = bare};
    struct destination d;
    struct outcome err;
    (void)f;
    assert_false(parse(&other, &file_sink, "{\"path\":\"a\"}", &d, &err));
    assert_int_equal(err.fault, FAULT_TENANT);
    config_free(bare);
}

/* Whatever stands below the root, nothing is written outside of it. */
static void links_are_not_followed(void **state) {
    struct fixture *f = *state;
    struct destination d;
    struct outcome err;
    char outside[96], link[128];
    snprintf(outside, sizeof outside, "%s/outside", f->dir);
    assert_int_equal(mkdir(outside, 0700), 0);
    snprintf(link, sizeof link, "%s/link", f->root);
    assert_int_equal(symlink(outside, link), 0);
    snprintf(link, sizeof link, "%s/final", f->root);
    snprintf(outside, sizeof outside, "%s/outside/target", f->dir);
    assert_int_equal(symlink(outside, link), 0);
    assert_true(parse(f, &file_sink, "{\"path\":\"\"}", &d, &err));
    static const char *const keys[] = {"link/x", "../outside/x", "a/../../outside/x", "a/..", "."};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        struct outcome o = put(f, &d, keys[i], "x");
        assert_int_equal(o.verdict, VERDICT_PERMANENT);
        assert_string_equal(o.why, "bad-path");
    }
    assert_int_equal(put(f, &d, "final", "x").verdict, VERDICT_OK); /* replaces the link */
    assert_content(f->root, "final", "x");
    snprintf(outside, sizeof outside, "%s/outside", f->dir);
    assert_int_equal(count_entries(outside), 0);
    drop(&d);
}

static void what_is_in_the_way(void **state) {
    struct fixture *f = *state;
    struct destination d;
    struct outcome err;
    assert_true(parse(f, &file_sink, "{\"path\":\"\"}", &d, &err));
    assert_int_equal(put(f, &d, "file", "x").verdict, VERDICT_OK);
    assert_string_equal(put(f, &d, "file/below", "x").why, "bad-path");
    assert_int_equal(put(f, &d, "folder/file", "x").verdict, VERDICT_OK);
    assert_string_equal(put(f, &d, "folder", "x").why, "bad-path");
    char name[300];
    memset(name, 'n', sizeof name);
    name[sizeof name - 1] = '\0';
    assert_string_equal(put(f, &d, name, "x").why, "bad-path");
    assert_int_equal(count_entries(f->root), 2); /* what failed left no temporary file */
    drop(&d);
}

static int fsync_errno; /* what the next fsync() of the process fails with; 0: it works */
static atomic_int fsyncs, stuck;
static atomic_bool hangs;

/* Takes libc's place, so that a disk can fail, or hang. */
int fsync(int fd) {
    atomic_fetch_add(&fsyncs, 1);
    atomic_fetch_add(&stuck, 1);
    while (atomic_load(&hangs)) usleep(1000);
    atomic_fetch_sub(&stuck, 1);
    if (fsync_errno == 0) return (int)syscall(SYS_fsync, fd);
    errno = fsync_errno;
    return -1;
}

static void a_failing_disk_is_retried(void **state) {
    struct fixture *f = *state;
    struct destination d;
    struct outcome err;
    static const struct {
        int error;
        const char *why;
    } cases[] = {
        {ENOSPC, "disk-full"}, {EDQUOT, "disk-full"}, {EIO, "io-error"}, {EROFS, "not-writable"}};
    assert_true(parse(f, &file_sink, "{\"path\":\"\"}", &d, &err));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fsync_errno = cases[i].error;
        struct outcome o = put(f, &d, "x", "bytes");
        fsync_errno = 0;
        assert_int_equal(o.verdict, VERDICT_RETRY);
        assert_int_equal(o.fault, FAULT_SYSTEM);
        assert_string_equal(o.why, cases[i].why);
        assert_int_equal(count_entries(f->root), 0);
    }
    drop(&d);
}

/* The lane goes on while the disk stands still: submit() and tick() return, a write has its time
 * and is given up, what waits can be cancelled, and the lane can end. */
static void a_disk_that_hangs_holds_nobody(void **state) {
    struct fixture *f = *state;
    struct destination d;
    struct outcome err;
    f->cfg->file_timeout = 200;
    assert_true(parse(f, &file_sink, "{\"path\":\"\"}", &d, &err));
    enum { N = 6 };
    struct seen s[N] = {0};
    struct batch b[N];
    char bodies[N][8];
    atomic_store(&hangs, true);
    alarm(60);
    for (int i = 0; i < N; i++) {
        snprintf(bodies[i], sizeof bodies[i], "body%d", i);
        b[i] = (struct batch){
            .dest = &d, .key = "x", .body = bodies[i], .body_len = 5, .done = done, .owner = &s[i]};
        file_sink.submit(&f->env, &b[i]);
    }
    while (atomic_load(&stuck) < f->cfg->file_writers) usleep(1000);
    file_sink.cancel(&f->env, &b[N - 1]);
    file_sink.tick(&f->env, 0);
    assert_int_equal(s[N - 1].calls, 1);
    assert_string_equal(s[N - 1].outcome.why, "cancelled");
    for (int i = 0; i < N - 2; i++) {
        await(f, &s[i]);
        assert_int_equal(s[i].calls, 1);
        assert_int_equal(s[i].outcome.verdict, VERDICT_RETRY);
        assert_string_equal(s[i].outcome.why, "timeout");
        assert_null(b[i].sink_state);
        memset(bodies[i], '!', sizeof bodies[i]); /* the owner's again */
    }
    struct batch late = {.dest = &d, .key = "y", .body = "b", .body_len = 1, .done = done};
    struct seen seen = {0};
    late.owner = &seen;
    file_sink.submit(&f->env, &late);
    file_sink.close(&f->env); /* nor does the end wait for it */
    assert_int_equal(seen.calls, 1);
    assert_int_equal(s[N - 2].calls, 1);
    atomic_store(&hangs, false);
    while (atomic_load(&stuck)) usleep(1000);
    alarm(0);
    assert_int_equal(put(f, &d, "z", "good").verdict, VERDICT_OK); /* and a new lane works */
    drop(&d);
}

/* A tenant's path costs a sync for each new folder, so there is a bound on them. */
static void depth_is_bounded(void **state) {
    struct fixture *f = *state;
    struct destination d;
    struct outcome err = {0};
    char json[600] = "{\"path\":\"a", key[3000] = "a";
    for (int i = 1; i < f->cfg->file_depth; i++) strcat(json, i % 2 ? "/b" : "//b");
    char *end = json + strlen(json);
    strcpy(end, "/\"}");
    assert_true(parse(f, &file_sink, json, &d, &err));
    atomic_store(&fsyncs, 0);
    for (int i = 0; i < f->cfg->file_depth; i++) strcat(key, "/b");
    assert_int_equal(put(f, &d, key, "x").verdict, VERDICT_OK);
    assert_int_equal(atomic_load(&fsyncs),
                     f->cfg->file_depth + 2); /* each new folder, file, last folder */
    atomic_store(&fsyncs, 0);
    assert_int_equal(put(f, &d, key, "x").verdict, VERDICT_OK);
    assert_int_equal(atomic_load(&fsyncs), 2);
    /* Keys are bounded too: a prefix may come from a sink of another kind (sink.override). */
    while (strlen(key) < 2 * 250) strcat(key, "/b");
    atomic_store(&fsyncs, 0);
    struct outcome o = put(f, &d, key, "x");
    assert_int_equal(o.verdict, VERDICT_PERMANENT);
    assert_int_equal(o.fault, FAULT_TENANT);
    assert_int_equal(atomic_load(&fsyncs), 0);
    drop(&d);
    strcpy(end, "/c/\"}");
    assert_false(parse(f, &file_sink, json, &d, &err));
    assert_int_equal(err.fault, FAULT_TENANT);
}

static void a_missing_root_is_retried(void **state) {
    struct fixture *f = *state;
    struct destination d;
    struct outcome err;
    assert_true(parse(f, &file_sink, "{\"path\":\"\"}", &d, &err));
    assert_int_equal(rmdir(f->root), 0);
    struct outcome o = put(f, &d, "x", "x");
    assert_int_equal(o.verdict, VERDICT_RETRY);
    assert_int_equal(o.fault, FAULT_SYSTEM);
    drop(&d);
}

static void make_file(const struct fixture *f, const char *name, time_t age_s) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", f->root, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
    struct timespec times[2] = {{.tv_sec = time(NULL) - age_s}, {.tv_sec = time(NULL) - age_s}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

static void old_temporary_files_are_removed(void **state) {
    struct fixture *f = *state;
    char folder[128];
    snprintf(folder, sizeof folder, "%s/deep", f->root);
    assert_int_equal(mkdir(folder, 0700), 0);
    make_file(f, "deep/.tmp-old", 3700);
    make_file(f, ".tmp-young", 3500);
    make_file(f, "kept", 3700);
    file_clean(f->root);
    assert_int_equal(count_entries(folder), 0);
    assert_int_equal(count_entries(f->root), 3);
}

static void override_destination(void **state) {
    struct fixture *f = *state;
    struct destination d = {0};
    struct outcome err;
    char dir[128];
    snprintf(dir, sizeof dir, "%s/new", f->dir);
    assert_true(file_destination(dir, &d, &err));
    assert_ptr_equal(d.type, &file_sink);
    assert_string_equal(d.prefix, "");
    assert_int_equal(put(f, &d, "s3/bucket/x.json", "x").verdict, VERDICT_OK);
    assert_content(dir, "s3/bucket/x.json", "x");
    drop(&d);
    /* Folders above it that are missing are made; a file in the way is not removed. */
    snprintf(dir, sizeof dir, "%s/not/there/yet", f->dir);
    assert_true(file_destination(dir, &d, &err));
    assert_int_equal(put(f, &d, "x.json", "y").verdict, VERDICT_OK);
    assert_content(dir, "x.json", "y");
    drop(&d);
    snprintf(dir, sizeof dir, "%s/not/there/yet/x.json/below", f->dir);
    assert_false(file_destination(dir, &d, &err));
    assert_int_equal(err.fault, FAULT_SYSTEM);
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(writes_and_replaces),       TEST(paths),
        TEST(refused_without_a_root),    TEST(links_are_not_followed),
        TEST(what_is_in_the_way),        TEST(a_failing_disk_is_retried),
        TEST(depth_is_bounded),          TEST(a_disk_that_hangs_holds_nobody),
        TEST(a_missing_root_is_retried), TEST(old_temporary_files_are_removed),
        TEST(override_destination),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
