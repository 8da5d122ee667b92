/* The log: forms of a line, and that no registered secret passes in any spelling. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#include <cjson/cJSON.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

#include "worker/base/buf.h"
#include "worker/base/hash.h"
#include "worker/base/log.h"
#include "worker/base/scrub.h"

static int saved_stderr, out_fd;

static int capture(void **state) {
    (void)state;
    char path[] = "/tmp/test_log.XXXXXX";
    fflush(stderr);
    saved_stderr = dup(STDERR_FILENO);
    out_fd = mkstemp(path);
    unlink(path);
    dup2(out_fd, STDERR_FILENO);
    log_setup(LOG_INFO, false);
    return 0;
}

static int release(void **state) {
    (void)state;
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    close(out_fd);
    return 0;
}

static const char *logged(void) {
    static char text[200000];
    ssize_t n = pread(out_fd, text, sizeof text - 1, 0);
    assert_true(n >= 0);
    text[n] = '\0';
    return text;
}

static void test_text_line(void **state) {
    (void)state;
    log_warn("delivery parked", LOG_S("topic", "t"), LOG_I("partition", -3), LOG_F("seconds", 0.5),
             LOG_S("why", "a \"b\" = c\n"), LOG_S("none", ""), LOG_S("eq", "k=v"),
             LOG_N("n", ((struct str){"xyz", 2})));
    const char *line = logged();
    int year, ms;
    assert_int_equal(sscanf(line, "time=%4d-%*2d-%*2dT%*2d:%*2d:%*2d.%3dZ ", &year, &ms), 2);
    assert_string_equal(strchr(line, ' '),
                        " level=warn event=\"delivery parked\" topic=t partition=-3 seconds=0.5 "
                        "why=\"a \\\"b\\\" = c\\n\" none=\"\" eq=\"k=v\" n=xy\n");
}

static void test_json_line(void **state) {
    (void)state;
    log_setup(LOG_TRACE, true);
    log_trace("delivery parked", LOG_S("why", "a\"\xff\n"), LOG_I("n", INT64_MAX),
              LOG_F("bad", 0.0 / 0.0), LOG_S("null", NULL));
    cJSON *j = cJSON_Parse(logged());
    assert_non_null(j);
    assert_non_null(cJSON_GetObjectItemCaseSensitive(j, "ts"));
    assert_string_equal(cJSON_GetObjectItemCaseSensitive(j, "level")->valuestring, "trace");
    assert_string_equal(cJSON_GetObjectItemCaseSensitive(j, "event")->valuestring,
                        "delivery parked");
    assert_string_equal(cJSON_GetObjectItemCaseSensitive(j, "why")->valuestring,
                        "a\"\xef\xbf\xbd\n");
    assert_true(cJSON_IsNull(cJSON_GetObjectItemCaseSensitive(j, "bad")));
    assert_non_null(strstr(logged(), "\"n\":9223372036854775807"));
    cJSON_Delete(j);
}

static void test_level(void **state) {
    (void)state;
    log_debug("hidden");
    log_info("shown");
    log_set_level(LOG_ERROR);
    log_warn("hidden");
    assert_null(strstr(logged(), "hidden"));
    assert_non_null(strstr(logged(), "shown"));
}

/* A value of any size and content leaves one line of at most 16 KiB that is still whole JSON. */
static void test_long_values_are_cut(void **state) {
    (void)state;
    const char *const units[] = {"a", "\"", "\x01", "\xc3\xa9", "\xf0\x9f\x98\x80", "\xff"};
    log_setup(LOG_INFO, true);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        struct buf big;
        buf_init(&big, 100000);
        while (big.n < 40000) buf_puts(&big, units[u]);
        assert_int_equal(ftruncate(out_fd, 0), 0);
        lseek(out_fd, 0, SEEK_SET);
        log_info("big", LOG_N("one", ((struct str){big.p, big.n})), LOG_S("two", "x"));
        const char *line = logged();
        assert_true(strlen(line) <= 16384);
        assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
        cJSON *j = cJSON_Parse(line);
        assert_non_null(j);
        assert_non_null(strstr(line, "[cut]"));
        assert_true(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(j, "cut")));
        cJSON_Delete(j);
        buf_free(&big);
    }
}

static void test_lost_lines_are_told(void **state) {
    (void)state;
    int p[2];
    assert_int_equal(pipe(p), 0);
    close(p[0]);
    dup2(p[1], STDERR_FILENO);
    close(p[1]);
    log_info("into nowhere");
    log_info("into nowhere");
    dup2(out_fd, STDERR_FILENO);
    log_info("back");
    assert_non_null(strstr(logged(), "event=\"log lines lost\" lines=2\n"));
    assert_non_null(strstr(logged(), "event=back\n"));
    assert_int_equal(log_lost(), 2);
}

/* A child whose stderr is a pipe; its exit status. */
static pid_t with_pipe(void (*child)(void), int *ret_read_end) {
    int p[2];
    assert_int_equal(pipe(p), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(p[1], STDERR_FILENO);
        close(p[0]);
        close(p[1]);
        alarm(30); /* whoever is held up dies of it */
        child();
        _exit(0);
    }
    close(p[1]);
    *ret_read_end = p[0];
    return pid;
}

static int status_of(pid_t pid) {
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static char *read_all(int fd) {
    struct buf all;
    buf_init(&all, (size_t)16 << 20);
    char piece[65536];
    for (ssize_t n; (n = read(fd, piece, sizeof piece)) > 0;)
        assert_true(buf_add(&all, piece, (size_t)n));
    close(fd);
    char *ret = xstrdup(buf_cstr(&all));
    buf_free(&all);
    return ret;
}

#define STORM 20000

static void storm(void) {
    log_setup(LOG_DEBUG, false);
    log_start(65536);
    for (int i = 0; i < STORM; i++) log_debug("storm", LOG_I("i", i));
    raise(SIGSTOP); /* until the reader reads */
    log_stop();
}

/* stderr is a pipe that nobody reads: nobody waits, and once it flows the lines come in order, with
 * counts of those that found no room where these are missing. */
static void test_stuck_reader(void **state) {
    (void)state;
    int fd, status, next = 0, told = 0;
    pid_t pid = with_pipe(storm, &fd);
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    assert_true(WIFSTOPPED(status)); /* all was logged, nothing was read */
    kill(pid, SIGCONT);
    char *text = read_all(fd);
    assert_int_equal(status_of(pid), 0);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        const char *i = strstr(line, "event=storm i="), *lost = strstr(line, "lines lost\" lines=");
        assert_true(i || lost);
        if (i) assert_int_equal(atoi(i + strlen("event=storm i=")), next++);
        if (lost) next += atoi(lost + strlen("lines lost\" lines="));
        told += lost != NULL;
    }
    assert_int_equal(next, STORM);
    assert_in_range(told, 1, 9);
    free(text);
}

static void stuck_to_the_end(void) {
    log_setup(LOG_DEBUG, false);
    log_start(65536);
    for (int i = 0; i < STORM; i++) log_debug("storm", LOG_I("i", i));
    log_stop();
    exit(7);
}

static void test_stuck_reader_at_exit(void **state) {
    (void)state;
    int fd;
    pid_t pid = with_pipe(stuck_to_the_end, &fd);
    int status = status_of(pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 7);
    close(fd);
}

static void die(void) {
    log_setup(LOG_DEBUG, false);
    log_start((size_t)1 << 20);
    for (int i = 0; i < 1000; i++) log_debug("storm", LOG_I("i", i));
    log_error("last words");
    abort();
}

static void test_crash_tells(void **state) {
    (void)state;
    int fd;
    pid_t pid = with_pipe(die, &fd);
    char *text = read_all(fd);
    int status = status_of(pid);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_non_null(strstr(text, "event=storm i=999\n"));
    assert_non_null(strstr(text, "event=\"last words\"\n"));
    free(text);
}

/* What the scrubber makes of a text while the secrets (up to a NULL) are registered. */
static const char *scrubbed(const char *const *secrets, const char *text) {
    static char ret[4096];
    struct buf out;
    buf_init(&out, sizeof ret - 1);
    for (size_t i = 0; secrets[i]; i++) secret_add(str_c(secrets[i]));
    assert_true(scrub_add(&out, str_c(text)));
    for (size_t i = 0; secrets[i]; i++) secret_drop(str_c(secrets[i]));
    strcpy(ret, buf_cstr(&out));
    buf_free(&out);
    return ret;
}

static void test_scrubber(void **state) {
    (void)state;
    static const struct {
        const char *secrets[4];
        const char *text, *want;
    } cases[] = {
        {{"hunter22"}, "password is hunter22.", "password is [REDACTED]."},
        {{"hunter22"}, "hunter2", "hunter2"},
        {{"hunter22"}, "hunter22hunter22", "[REDACTED]"},
        {{"abcde"}, "abcde", "abcde"}, /* too short to scrub */
        {{"abcdef"}, "xabcdefx", "x[REDACTED]x"},
        /* Percent-encoded: either hex case, and whatever set of characters the encoder chose. */
        {{"p/w+ =1"}, "q=p%2Fw%2B%20%3D1&r", "q=[REDACTED]&r"},
        {{"p/w+ =1"}, "q=p%2fw%2b%20%3d1&r", "q=[REDACTED]&r"},
        {{"p/w+ =1"}, "q=p/w%2B%20=1&r", "q=[REDACTED]&r"},
        {{"99100%"}, "is 99100%25 or 99100%", "is [REDACTED] or [REDACTED]"},
        {{"%41%42"}, "raw %41%42", "raw [REDACTED]"},
        /* JSON. */
        {{"a\"b\\c/d"}, "{\"k\":\"a\\\"b\\\\c\\/d\"}", "{\"k\":\"[REDACTED]\"}"},
        {{"a\"b\\c/d"}, "{\"k\":\"\\u0061\\u0022b\\u005Cc/d\"}", "{\"k\":\"[REDACTED]\"}"},
        {{"caf\xc3\xa9-1"}, "caf\\u00e9-1", "[REDACTED]"},
        {{"\xf0\x9f\x98\x80pw"}, "x\\ud83d\\ude00pwx", "x[REDACTED]x"},
        /* base64, padded or not, url-safe, percent-encoded, longer. */
        {{"hunter22"}, "aHVudGVyMjI= x", "[REDACTED]= x"},
        {{"hunter2!!"}, "aHVudGVyMiEh", "[REDACTED]"},
        {{"\xfb\xff\xfe\xfb\xff\xfe"}, "-__--__- +//++//+", "[REDACTED] [REDACTED]"},
        {{"\xfb\xff\xfe\xfb\xff\xfe"}, "%2B%2f%2F%2b%2B//%2b", "[REDACTED]"},
        /* Secrets that share a beginning, or hold one another. */
        {{"AKIAAAAA", "AKIABBBB", "AKIACCCC"}, "AKIABBBB AKIADDDD", "[REDACTED] AKIADDDD"},
        {{"abcdef", "abcdefghij"}, "abcdefghix abcdefghijk", "[REDACTED]ghix [REDACTED]k"},
        {{"abcdef", "abcdefzz", "abcdefa"}, "abcdefyy", "[REDACTED]yy"},
        {{"abcdefgh", "efghijkl"}, "abcdefghijkl", "[REDACTED]"},
        {{"abcdefghijkl", "cdefgh"}, "abcdefghijkl-cdefgh", "[REDACTED]-[REDACTED]"},
        /* A text that was cut inside a secret. */
        {{"wJalrXUtnFEMI"}, "key wJalrXUtnF", "key [REDACTED]"},
        {{"wJalrXUtnFEMI"}, "key wJalrXU", "key wJalrXU"},
        {{"wJalrXUtnFEMI"}, "wJalrXUtnF key", "wJalrXUtnF key"},
        {{NULL}, "nothing", "nothing"},
        {{"hunter22"}, "", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_string_equal(scrubbed(cases[i].secrets, cases[i].text), cases[i].want);
}

static void test_secrets_are_counted(void **state) {
    (void)state;
    char text[] = "hunter22 and AKIAX";
    secret_add(STR("hunter22"));
    secret_add(STR("hunter22"));
    secret_drop(STR("hunter22"));
    secret_scrub(text, strlen(text));
    assert_string_equal(text, "******** and AKIAX");
    secret_drop(STR("hunter22"));
    secret_drop(STR("never added"));
    assert_string_equal(scrubbed((const char *const[]){NULL}, "hunter22"), "hunter22");
}

static void test_very_long_secret(void **state) {
    (void)state;
    struct buf secret, text, out;
    buf_init(&secret, 8192);
    buf_init(&text, 65536);
    buf_init(&out, 65536);
    for (int i = 0; secret.n < 3000; i++) buf_printf(&secret, "%d-", i);
    struct str s = {secret.p, secret.n};
    buf_printf(&text, "<%s> ", buf_cstr(&secret));
    base64_add(&text, s.p, s.n);
    secret_add(s);
    assert_true(scrub_add(&out, (struct str){text.p, text.n}));
    secret_drop(s);
    assert_string_equal(buf_cstr(&out), "<[REDACTED]> [REDACTED]=");
    buf_free(&secret);
    buf_free(&text);
    buf_free(&out);
}

/* A log line's values are scrubbed; its event and structure can't be blanked by a tenant who picks
 * "level=" or "delivery" as a secret. */
static void test_line_is_scrubbed(void **state) {
    (void)state;
    const char *const secrets[] = {"level=", "delivery", "s3cr3t-value", "parked"};
    for (size_t i = 0; i < 4; i++) secret_add(str_c(secrets[i]));
    log_info("delivery parked", LOG_S("topic", "x"), LOG_S("why", "got s3cr3t-value"));
    for (size_t i = 0; i < 4; i++) secret_drop(str_c(secrets[i]));
    assert_string_equal(strchr(logged(), ' '),
                        " level=info event=\"delivery parked\" topic=x why=\"got [REDACTED]\"\n");
}

/* Fifty thousand secrets that begin alike must neither take long to register and to drop nor make
 * lines slow: 2,000 scans of 1 KB take well under a second (0.1 s here); one comparison per secret
 * and byte would take minutes. */
static void test_many_secrets_are_cheap(void **state) {
    (void)state;
    char text[1024], name[64];
    for (size_t i = 0; i < sizeof text; i++) text[i] = "AKIA0123/sometext"[i % 17];
    for (int i = 0; i < 50000; i++) {
        snprintf(name, sizeof name, "AKIA%08d", i * 7);
        secret_add(str_c(name));
    }
    struct buf out;
    buf_init(&out, 65536);
    clock_t start = clock();
    for (int i = 0; i < 2000; i++) {
        buf_clear(&out);
        scrub_add(&out, (struct str){text, sizeof text});
    }
    double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    scrub_add(&out, STR(" AKIA00349993 AKIA00349994"));
    assert_non_null(strstr(buf_cstr(&out), " [REDACTED] AKIA00349994"));
    for (int i = 0; i < 50000; i++) {
        snprintf(name, sizeof name, "AKIA%08d", i * 7);
        secret_drop(str_c(name));
    }
    buf_free(&out);
    assert_true(seconds < 10);
    assert_string_equal(scrubbed((const char *const[]){NULL}, "AKIA00349993"), "AKIA00349993");
}

static size_t work_of(char *text, size_t n) {
    size_t before = scrub_work();
    secret_scrub(text, n);
    return scrub_work() - before;
}

/* Secrets chosen to each share one byte more with the text, at each of its 64 Ki places: trying one
 * after another took seconds for one answer of a server, walking down to where they part a second.
 * What is not looked at is taken for a secret. */
static void test_secrets_that_nearly_match_are_cheap(void **state) {
    (void)state;
    static char text[65536], before[65536], name[513];
    memset(text, 'b', sizeof text);
    memcpy(before, text, sizeof text);
    memset(name, 'b', sizeof name);
    for (size_t n = 6; n <= 512; n++) {
        name[n - 1] = 'a';
        secret_add((struct str){name, n});
        name[n - 1] = 'b';
    }
    assert_true(work_of(text, sizeof text) <= SCRUB_WORK(sizeof text));
    /* No secret stands in the text, but its end may be one's beginning; and nobody looks that far.
     */
    const char *rest = memchr(text, '*', sizeof text);
    assert_non_null(rest);
    assert_in_range(rest - text, 500, sizeof text - 511);
    assert_memory_equal(text, before, (size_t)(rest - text));
    for (const char *c = rest; c < text + sizeof text; c++) assert_int_equal(*c, '*');
    /* What a line holds is looked at whole, and so is what others' secrets don't resemble. */
    char other[] = "the answer took too long, secret-of-mine, and that was that: no answer in time";
    secret_add(STR("secret-of-mine"));
    secret_scrub(other, strlen(other));
    assert_string_equal(other, "the answer took too long, **************, and that was that: no "
                               "answer in time");
    secret_drop(STR("secret-of-mine"));
    for (size_t n = 6; n <= 512; n++) {
        name[n - 1] = 'a';
        secret_drop((struct str){name, n});
        name[n - 1] = 'b';
    }
}

/* 141 sinks registered 3,952 secrets, each the beginning of the next by a byte; then an answer of
 * 64 KiB took 14 s. In each of the encodings, a text costs no more than a share for each of its
 * bytes. */
static void test_text_costs_what_it_is_long(void **state) {
    (void)state;
    static const struct {
        const char *unit, *text;
    } cases[] = {
        {"a", "a"},   {"a", "%61"},   {"a", "\\u0061"}, {"ab", "ab"},     {"\xff", "%ff"},
        {"%", "%25"}, {"\\", "\\\\"}, {"AA", "QUFB"},   {"aaab", "aaab"},
    };
    static char text[65536], name[1024];
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        size_t unit = strlen(cases[c].unit), piece = strlen(cases[c].text);
        for (size_t i = 0; i < sizeof name; i++) name[i] = cases[c].unit[i % unit];
        for (size_t n = 6; n < sizeof name; n++) secret_add((struct str){name, n});
        for (size_t size = 64; size <= sizeof text; size *= 4) {
            for (size_t i = 0; i < size; i++) text[i] = cases[c].text[i % piece];
            assert_true(work_of(text, size) <= SCRUB_WORK(size));
            assert_true(secret_in((struct str){text, size}) || memchr(text, '*', size));
        }
        for (size_t n = 6; n < sizeof name; n++) secret_drop((struct str){name, n});
        memset(text, 'a', sizeof text);
        assert_false(secret_in((struct str){text, sizeof text}));
    }
}

/* Whatever there is already, no secret goes without; what they take is what secret_bytes() says,
 * and all of it comes back. */
static void test_no_secret_goes_without(void **state) {
    (void)state;
    enum { ALL = 100000 };
    char name[64];
    size_t said = 0, before = mallinfo2().uordblks;
    for (int i = 0; i < ALL; i++) {
        snprintf(name, sizeof name, "tenant-secret-%07d", i);
        secret_add(str_c(name));
        said += secret_bytes(str_c(name));
    }
    size_t took = mallinfo2().uordblks - before;
    print_message("%d secrets take %zu bytes, %zu at most\n", ALL, took, said);
    assert_true(took <= said);
    for (int i = 0; i < ALL; i += 99) {
        snprintf(name, sizeof name, "tenant-secret-%07d", i);
        assert_true(secret_in(str_c(name)));
        assert_string_equal(scrubbed((const char *const[]){NULL}, name), "[REDACTED]");
    }
    assert_false(secret_in(STR("tenant-secret-0100000")));
    for (int i = 0; i < ALL; i++) {
        snprintf(name, sizeof name, "tenant-secret-%07d", i);
        secret_drop(str_c(name));
    }
    assert_false(secret_in(STR("tenant-secret-0000000")));
    assert_true(mallinfo2().uordblks <= before + 1000);
    assert_int_equal(secret_bytes(STR("short")), 0);
}

static void *churn(void *arg) {
    char name[64];
    int thread = *(const int *)arg;
    for (int i = 0; i < 3000; i++) {
        snprintf(name, sizeof name, "thread-%d-%d", thread, i);
        secret_add(str_c(name));
        log_info("churn", LOG_S("name", name));
        secret_drop(str_c(name));
    }
    return NULL;
}

static void test_threads(void **state) {
    (void)state;
    pthread_t t[3];
    int names[] = {1, 2, 3};
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&t[i], NULL, churn, &names[i]), 0);
    for (size_t i = 0; i < 3; i++) pthread_join(t[i], NULL);
    assert_null(strstr(logged(), "thread-"));
}

#define LOG_TEST(f) cmocka_unit_test_setup_teardown(f, capture, release)

static size_t occurrences(const char *text, const char *of) {
    size_t n = 0;
    for (; (text = strstr(text, of)); text++) n++;
    return n;
}

/* A tenant that fails a thousand times a second doesn't own the log. */
static void test_kinds_are_limited(void **state) {
    (void)state;
    for (int i = 0; i < 1000; i++) log_warn("flood", LOG_I("i", i));
    log_warn("another kind");
    assert_int_equal(occurrences(logged(), "event=flood"), 200);
    assert_int_equal(occurrences(logged(), "another kind"), 1);
    log_setup(LOG_DEBUG, false);
    log_warn("flood", LOG_I("i", 1000));
    assert_int_equal(occurrences(logged(), "event=flood"), 201);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        LOG_TEST(test_text_line),
        LOG_TEST(test_json_line),
        LOG_TEST(test_level),
        LOG_TEST(test_long_values_are_cut),
        LOG_TEST(test_lost_lines_are_told),
        cmocka_unit_test(test_stuck_reader),
        cmocka_unit_test(test_stuck_reader_at_exit),
        cmocka_unit_test(test_crash_tells),
        LOG_TEST(test_line_is_scrubbed),
        LOG_TEST(test_threads),
        LOG_TEST(test_kinds_are_limited),
        cmocka_unit_test(test_scrubber),
        cmocka_unit_test(test_secrets_are_counted),
        cmocka_unit_test(test_very_long_secret),
        cmocka_unit_test(test_many_secrets_are_cheap),
        cmocka_unit_test(test_secrets_that_nearly_match_are_cheap),
        cmocka_unit_test(test_text_costs_what_it_is_long),
        cmocka_unit_test(test_no_secret_goes_without),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
