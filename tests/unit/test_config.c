/* The configuration: what is read, from where, and what an operator is told when it is wrong. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "config/config.h"
#include "config/table.h"
#include "worker/base/log.h"
#include "worker/base/scrub.h"

#define WHSEC "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

static struct buf err;

static int setup(void **state) {
    buf_init(&err, 16384);
    *state = config_new();
    return 0;
}

static int teardown(void **state) {
    config_free(*state);
    buf_free(&err);
    return 0;
}

static bool read_text(struct config *c, const char *text) {
    buf_clear(&err);
    return config_read_text(c, "x.ini", str_c(text), &err);
}

static void test_defaults(void **state) {
    struct config *c = *state;
    assert_true(config_finish(c, &err));
    assert_int_equal(err.n, 0);
    assert_int_equal(c->topics.n, 0);
    assert_string_equal(c->group, "runsink");
    assert_int_equal(c->window_age, 1000);
    assert_int_equal(c->batch_bytes, 8 << 20);
    assert_int_equal(c->topics_replication, -1);
    assert_int_equal(c->archive, CONFIG_ARCHIVE_OBJECT);
    assert_int_equal(c->log_level, LOG_INFO);
    assert_int_equal(c->retry_delays.n, 5);
    assert_int_equal(c->retry_delays_ms[0], 10000);
    assert_int_equal(c->retry_delays_ms[4], 120000);
    assert_int_equal(c->egress.n_ports, 3);
    assert_int_equal(c->egress.ports[2][0], 1024);
    assert_int_equal(c->egress.ports[2][1], 65535);
    assert_false(c->egress.http);
    assert_null(c->override_dir);
    assert_false(config_check_run(c, &err));
}

static void test_file(void **state) {
    struct config *c = *state;
    assert_true(read_text(c, "\xef\xbb\xbftopics = jobrun, ^tenant-.*\r\n"
                             "# runsink\r\n"
                             "archive = batch\n"
                             "window.records = 7\n"
                             "\n"
                             "  [window]\n"
                             "\tage = 250ms ; not a comment\n"
                             "[retry]\n"
                             "window.webhook=2h\n"
                             "[kafka]\n"
                             "bootstrap.servers = a:1,b:2\n"
                             "sasl.password: p;w #1 ; x = y\n"
                             "[egress]\n"
                             "allow =\n"
                             "http = true") == false);
    assert_string_equal(buf_cstr(&err),
                        "x.ini:7: window.age: put the comment on a line of its own\n");
    assert_int_equal(c->topics.n, 2);
    assert_string_equal(c->topics.v[1], "^tenant-.*");
    assert_int_equal(c->archive, CONFIG_ARCHIVE_BATCH);
    assert_int_equal(c->window_records, 7);
    assert_int_equal(c->window_age, 1000);
    assert_int_equal(c->retry_window_webhook, 7200000);
    assert_string_equal(config_kafka(c, "bootstrap.servers"), "a:1,b:2");
    assert_string_equal(config_kafka(c, "sasl.password"), "p;w #1 ; x = y");
    assert_null(config_kafka(c, "debug"));
    assert_true(c->egress_http);
    buf_clear(&err);
    assert_true(config_check_run(c, &err));
}

static void test_long_line(void **state) {
    struct config *c = *state;
    struct buf text;
    buf_init(&text, 65536);
    buf_puts(&text, "topics = t0");
    for (int i = 1; i < 3000; i++) buf_printf(&text, ",topic-%d", i);
    buf_puts(&text, "\n# ");
    for (int i = 1; i < 3000; i++) buf_putc(&text, 'x');
    buf_puts(&text, "\ngroup = g\n");
    assert_true(read_text(c, buf_cstr(&text)));
    assert_int_equal(c->topics.n, 3000);
    assert_string_equal(c->topics.v[2999], "topic-2999");
    assert_string_equal(c->group, "g");
    buf_free(&text);
}

static void test_bad_files(void **state) {
    (void)state;
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"[window]\nagee = 1s\n", "x.ini:2: unknown key window.agee; did you mean window.age?\n"},
        {"age = 1s\n", "x.ini:1: unknown key age; did you mean window.age?\n"},
        {"qwertyuiop = 1\n", "x.ini:1: unknown key qwertyuiop\n"},
        {"\n[windows]\nage = 1s\n",
         "x.ini:2: unknown section; `runsink check --reference-ini` prints all of them\n"
         "x.ini:3: unknown key age; did you mean window.age?\n"},
        {"group = a\n# x\ngroup = b\n", "x.ini:3: group stands twice, first at x.ini:1\n"},
        {"window.age = 1s\n[window]\nage = 2s\n",
         "x.ini:3: window.age stands twice, first at x.ini:1\n"},
        {"[kafka]\nlinger.ms = 1\nlinger.ms = 2\n",
         "x.ini:3: kafka.linger.ms stands twice, first at x.ini:2\n"},
        {"topics\n", "x.ini:1: expected name = value, [section], or a comment after #\n"},
        {"[window\n", "x.ini:1: expected name = value, [section], or a comment after #\n"},
        {"group = a\x01\n", "x.ini:1: holds a control character\n"},
        {"[kafka]\nSasl = a\n", "x.ini:2: kafka.Sasl: \"Sasl\" is not a librdkafka property\n"},
        {"[window]\nage = 10\n",
         "x.ini:2: window.age: \"10\" is not a time such as 500ms, 10s, 5m, "
         "1h or 7d\n"},
        {"[window]\nage = 2h\n", "x.ini:2: window.age: \"2h\" is out of bounds; use 10ms to 1h\n"},
        {"lanes = 0\n", "x.ini:1: lanes: \"0\" is out of bounds; use 1 to 64\n"},
        {"lanes = 1x\n", "x.ini:1: lanes: \"1x\" is not a whole number\n"},
        {"lanes = 99999999999999999999\n",
         "x.ini:1: lanes: \"99999999999999999999\" is not a whole number\n"},
        {"[batch]\nbytes = 8MB\n", "x.ini:2: batch.bytes: \"8MB\" is not a size such as 4096, "
                                   "64KiB, 8MiB or 1GiB\n"},
        {"[batch]\nbytes = 9223372036854775807TiB\n",
         "x.ini:2: batch.bytes: \"9223372036854775807TiB\" is not a size such as 4096, 64KiB, 8MiB "
         "or 1GiB\n"},
        {"ledger = yes\n", "x.ini:1: ledger: \"yes\" is neither true (on) nor false (off)\n"},
        {"archive = bat\n", "x.ini:1: archive: \"bat\" is not one of object|batch\n"},
        {"archive =\n", "x.ini:1: archive: \"\" is not one of object|batch\n"},
        {"group =\n", "x.ini:1: group: must not be empty\n"},
        {"topics = a,,b\n", "x.ini:1: topics: has an empty entry; write a, b, c\n"},
        {"topics = a,\n", "x.ini:1: topics: has an empty entry; write a, b, c\n"},
        {"[webhook]\nsigning_secrets = @/nowhere/at/all\n",
         "x.ini:2: webhook.signing_secrets: can't read the secret's file /nowhere/at/all: No such "
         "file or directory\n"},
        {"[kafka]\nsasl.password = @/\n",
         "x.ini:2: kafka.sasl.password: can't read the secret's file /: Is a directory\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct config *c = config_new();
        assert_false(read_text(c, cases[i].text));
        assert_string_equal(buf_cstr(&err), cases[i].want);
        config_free(c);
    }
}

static void test_missing_file(void **state) {
    assert_false(config_read_file(*state, "/nowhere/x.ini", &err));
    assert_string_equal(
        buf_cstr(&err),
        "can't open the configuration file /nowhere/x.ini: No such file or directory\n");
}

/* Opening a pipe waits for its writer, and a device never ends. */
static void test_no_regular_file(void **state) {
    char dir[] = "/tmp/runsink-config-XXXXXX", fifo[64], text[256], want[256];
    assert_non_null(mkdtemp(dir));
    snprintf(fifo, sizeof fifo, "%s/fifo", dir);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    const char *const paths[] = {fifo, "/dev/zero"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        buf_clear(&err);
        assert_false(config_read_file(*state, paths[i], &err));
        snprintf(want, sizeof want, "can't open the configuration file %s: Is no regular file\n",
                 paths[i]);
        assert_string_equal(buf_cstr(&err), want);
    }
    assert_true(config_read_file(*state, "/dev/null", &err));
    buf_clear(&err);
    assert_false(config_read_file(*state, dir, &err));
    assert_non_null(strstr(buf_cstr(&err), "Is a directory"));
    for (size_t i = 0; i < 2; i++) {
        const char *const keys[] = {"http.ca_bundle", "ledger.key"};
        buf_clear(&err);
        snprintf(text, sizeof text, "%s = %s\n", keys[i], fifo);
        struct config *c = config_new();
        assert_true(read_text(c, text));
        assert_false(config_finish(c, &err));
        snprintf(want, sizeof want, "x.ini:1: %s: %s is no regular file\n", keys[i], fifo);
        assert_string_equal(buf_cstr(&err), want);
        config_free(c);
    }
    unlink(fifo);
    rmdir(dir);
}

static void *write_late(void *path) {
    int fd = open(path, O_WRONLY); /* waits for the reader */
    assert_int_equal(write(fd, WHSEC "\n", strlen(WHSEC) + 1), strlen(WHSEC) + 1);
    close(fd);
    return NULL;
}

/* As a shell's <(command) is one; without a writer it has an end, too. */
static void test_secret_from_a_pipe(void **state) {
    struct config *c = *state;
    char dir[] = "/tmp/runsink-config-XXXXXX", fifo[64], text[256];
    pthread_t writer;
    assert_non_null(mkdtemp(dir));
    snprintf(fifo, sizeof fifo, "%s/fifo", dir);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    snprintf(text, sizeof text, "[webhook]\nsigning_secrets = @%s\n", fifo);
    assert_int_equal(pthread_create(&writer, NULL, write_late, fifo), 0);
    assert_true(read_text(c, text));
    pthread_join(writer, NULL);
    assert_int_equal(c->webhook_secrets.n, 1);
    assert_string_equal(c->webhook_secrets.v[0], WHSEC);

    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(write(ends[1], WHSEC, strlen(WHSEC)), strlen(WHSEC));
    close(ends[1]);
    struct buf out;
    buf_init(&out, 256);
    snprintf(text, sizeof text, "@/dev/fd/%d", ends[0]);
    assert_true(secret_resolve(text, false, &out, &err));
    assert_string_equal(buf_cstr(&out), WHSEC);
    close(ends[0]);
    buf_free(&out);

    snprintf(text, sizeof text, "[webhook]\nsigning_secrets = @%s\n", fifo);
    struct config *none = config_new();
    assert_false(read_text(none, text));
    assert_non_null(strstr(buf_cstr(&err), "Nobody writes into this pipe"));
    config_free(none);
    unlink(fifo);
    rmdir(dir);
}

static void read_vars(void **state, bool ok, const char *want, const char *const *vars) {
    char *environ_[16];
    size_t n = 0;
    for (; vars[n]; n++) environ_[n] = xstrdup(vars[n]);
    environ_[n] = NULL;
    buf_clear(&err);
    assert_int_equal(config_read_env(*state, environ_, &err), ok);
    assert_string_equal(buf_cstr(&err), want);
    for (size_t i = 0; i < n; i++) free(environ_[i]);
}
/* A mistyped status has everything skipped: it is refused, in either list, and by whoever wrote it.
 */
static void test_statuses(void **state) {
    struct config *c = *state;
    assert_true(read_text(c, "statuses = SUCCESS, SUCESS, success, TIMED_OUT\n"
                             "fail_statuses = FAILURE,FAILED\n"));
    assert_false(config_finish(c, &err));
    assert_string_equal(
        buf_cstr(&err),
        "x.ini:1: statuses: \"SUCESS\" is not a status that the event model lists; did you mean "
        "SUCCESS? (allow_unknown = true takes it)\n"
        "x.ini:1: statuses: \"success\" is not a status that the event model lists; did you mean "
        "SUCCESS? (allow_unknown = true takes it)\n"
        "x.ini:1: statuses: \"TIMED_OUT\" is not a status that the event model lists "
        "(allow_unknown = "
        "true takes it)\n"
        "x.ini:2: fail_statuses: \"FAILED\" is not a status that the event model lists; did you "
        "mean "
        "FAILURE? (allow_unknown = true takes it)\n");
}

static void test_statuses_unknown(void **state) {
    struct config *c = *state;
    assert_true(read_text(c, "statuses = SUCCESS, TIMED_OUT\nallow_unknown = true\n"));
    assert_true(config_finish(c, &err));
    assert_int_equal(c->statuses.n, 2);
}

#define VARS(...) ((const char *const[]){__VA_ARGS__, NULL})

static void test_environment(void **state) {
    struct config *c = *state;
    read_vars(state, true, "",
              VARS("PATH=/bin", "RUNSINK_CONFIG=/etc/x", "RUNSINK_WINDOW_AGE=3s",
                   "RUNSINK_FAIL_STATUSES=FAILURE,TERMINATED", "RUNSINK_S3_SSE_KMS_KEY_ID=k",
                   "RUNSINK_KAFKA_BOOTSTRAP_SERVERS=a:1", "RUNSINK_KAFKA_SASL_PASSWORD=p"));
    assert_int_equal(c->window_age, 3000);
    assert_int_equal(c->fail_statuses.n, 2);
    assert_string_equal(c->s3_sse_kms_key_id, "k");
    assert_string_equal(config_kafka(c, "bootstrap.servers"), "a:1");
    assert_string_equal(config_kafka(c, "sasl.password"), "p");

    read_vars(state, false,
              "environment RUNSINK_WINDOW_AGEE: stands for no key; `runsink check --reference` "
              "lists every key with its variable\n",
              VARS("RUNSINK_WINDOW_AGEE=3s"));
    read_vars(state, false, "environment RUNSINK_LANES: lanes: \"x\" is not a whole number\n",
              VARS("RUNSINK_LANES=x"));
    /* Only secrets may come from files. */
    read_vars(state, false,
              "environment RUNSINK_GROUP_FILE: stands for no key; `runsink check --reference` "
              "lists every key with its variable\n",
              VARS("RUNSINK_GROUP_FILE=/x"));
    read_vars(state, false, "environment RUNSINK_EGRESS_PROXY_FILE: must be an absolute path\n",
              VARS("RUNSINK_EGRESS_PROXY_FILE=x"));
}

/* A service called runsink in the namespace made the worker refuse its start. */
static void test_kubernetes_service_links(void **state) {
    read_vars(state, true, "",
              VARS("RUNSINK_SERVICE_HOST=10.0.0.1", "RUNSINK_SERVICE_PORT=9464",
                   "RUNSINK_SERVICE_PORT_METRICS=9464", "RUNSINK_PORT=tcp://10.0.0.1:9464",
                   "RUNSINK_PORT_9464_TCP=tcp://10.0.0.1:9464", "RUNSINK_PORT_9464_TCP_PORT=9464",
                   "RUNSINK_ADMIN_PORT_9464_TCP_ADDR=10.0.0.1", "RUNSINK_X_SERVICE_HOST=::1"));
}

static void write_file(char path[64], const char *text) {
    strcpy(path, "/tmp/test_config.XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static void test_secret_files(void **state) {
    struct config *c = *state;
    char a[64], b[64], text[512];
    write_file(a, WHSEC "\n");
    write_file(b, WHSEC "\n" WHSEC "\n");
    snprintf(text, sizeof text, "[webhook]\nsigning_secrets = @%s, " WHSEC ", @%s\n", a, b);
    assert_true(read_text(c, text));
    assert_int_equal(c->webhook_secrets.n, 4);
    for (size_t i = 0; i < 4; i++) assert_string_equal(c->webhook_secrets.v[i], WHSEC);

    snprintf(text, sizeof text, "RUNSINK_WEBHOOK_SIGNING_SECRETS_FILE=%s", a);
    char kafka[512], twice[512];
    snprintf(kafka, sizeof kafka, "RUNSINK_KAFKA_SASL_PASSWORD_FILE=%s", a);
    read_vars(state, true, "", VARS(text, kafka));
    assert_int_equal(c->webhook_secrets.n, 1);
    assert_string_equal(config_kafka(c, "sasl.password"), WHSEC);
    snprintf(twice, sizeof twice, "RUNSINK_WEBHOOK_SIGNING_SECRETS=%s", WHSEC);
    read_vars(state, false,
              "environment RUNSINK_WEBHOOK_SIGNING_SECRETS: "
              "RUNSINK_WEBHOOK_SIGNING_SECRETS_FILE is set too; keep one\n",
              VARS(twice, text));
    unlink(a);
    unlink(b);
}

static void test_set(void **state) {
    struct config *c = *state;
    assert_true(config_set(c, "kafka.client.id", "x", "--set", &err));
    assert_true(config_set(c, "kafka.client.id", "y", "--set", &err));
    assert_true(config_set(c, "lanes", "3", "--set", &err));
    assert_string_equal(config_kafka(c, "client.id"), "y");
    assert_int_equal(c->kafka_names.n, 1);
    assert_int_equal(c->lanes, 3);
    assert_false(config_set(c, "lane", "3", "--set", &err));
    assert_string_equal(buf_cstr(&err), "--set: unknown key lane; did you mean lanes?\n");
}

/* Each is refused by config_finish(), with a message that starts so. */
static void test_cross_checks(void **state) {
    (void)state;
    static const struct {
        const char *text, *want;
    } cases[] = {
        {"topics = a b", "x.ini:1: topics: \"a b\" is not a topic name"},
        {"topics = ^(", "x.ini:1: topics: \"^(\": "},
        {"start = lastest", "x.ini:1: start: \"lastest\" is none of earliest, latest, a time"},
        {"start = 2024-01-01", "x.ini:1: start: \"2024-01-01\" is none of"},
        {"start = -6h", "x.ini:1: start: \"-6h\" is none of"},
        {"start = 6", "x.ini:1: start: \"6\" is none of"},
        {"start = 9999-01-01T00:00:00Z",
         "x.ini:1: start: \"9999-01-01T00:00:00Z\" lies in the future"},
        {"slot = a/b", "x.ini:1: slot: "},
        {"egress.allow = 10.0.0.0/8,x", "x.ini:1: egress.allow: \"x\" is neither"},
        {"egress.deny = 10.0.0.0/99", "x.ini:1: egress.deny: "},
        {"skip.offsets = runs/0/5,runs/0", "x.ini:1: skip.offsets: \"runs/0\""},
        {"skip.offsets = runs/0/x", "x.ini:1: skip.offsets: \"runs/0/x\""},
        {"skip.offsets = runs/-1/5", "x.ini:1: skip.offsets: \"runs/-1/5\""},
        {"skip.offsets = runs/9999999999/5", "x.ini:1: skip.offsets: \"runs/9999999999/5\""},
        {"skip.offsets = /0/5", "x.ini:1: skip.offsets: \"/0/5\""},
        {"skip.offsets = a b/0/5", "x.ini:1: skip.offsets: \"a b/0/5\""},
        {"hold.workspaces = a, b\\c", "x.ini:1: hold.workspaces: \"b\\c\" has a backslash before"},
        {"hold.workspaces = a\\", "x.ini:1: hold.workspaces: \"a\\\" has a backslash before"},
        {"egress.ports = 80,70000", "x.ini:1: egress.ports: \"70000\""},
        {"egress.ports = 90-80", "x.ini:1: egress.ports: \"90-80\""},
        {"egress.ports = 0", "x.ini:1: egress.ports: \"0\""},
        {"egress.proxy = https://u:hush@p:1", "x.ini:1: egress.proxy: must start with http://\n"},
        {"retry.delays = 10s, 5s", "x.ini:1: retry.delays: \"5s\" is not longer"},
        {"retry.delays = 10", "x.ini:1: retry.delays: \"10\" is not a time"},
        {"batch.level = 15", "x.ini:1: batch.level: gzip"},
        {"batch.bytes = 1GiB", "x.ini:1: batch.bytes: is more than half"},
        {"key.object = {nope}", "x.ini:1: key.object: "},
        {"key.object = {id}-{offset}", "x.ini:1: key.object: must use {partition} and {offset}"},
        {"key.batch = {first}", "x.ini:1: key.batch: must use {topic}"},
        {"key.batch = {topic}{partition}{first}{next}{id}", "x.ini:1: key.batch: "},
        {"s3.sse_kms_key_id = k", "x.ini:1: s3.sse_kms_key_id: needs s3.sse = aws:kms\n"},
        {"s3.lock_days = 1", "x.ini:1: s3.lock_days: needs"},
        {"s3.lock_mode = GOVERNANCE", "x.ini:1: s3.lock_mode: needs"},
        {"s3.sigv2_endpoints = https://old", "x.ini:1: s3.sigv2_endpoints: https is refused"},
        {"s3.sigv2_endpoints = http://u:p@old", "x.ini:1: s3.sigv2_endpoints: \"http"},
        {"webhook.signing_secrets = hunter2", "x.ini:1: webhook.signing_secrets: entry 1 is not"},
        {"webhook.signing_secrets = whsec_hunter2!", "x.ini:1: webhook.signing_secrets: entry 1"},
        {"webhook.signing_secrets = whsec_AAAA", "x.ini:1: webhook.signing_secrets: entry 1"},
        {"http.ca_bundle = /nowhere", "x.ini:1: http.ca_bundle: can't read /nowhere: No such"},
        {"http.client_cert = /dev/null", "x.ini:1: http.client_cert: http.client_cert and"},
        {"http.client_key = /dev/null", "x.ini:1: http.client_key: http.client_cert and"},
        {"ledger.key = /dev/null\nledger = false", "x.ini:1: ledger.key: needs ledger = true"},
        {"anchor.prefix = a/../b", "x.ini:1: anchor.prefix: use letters"},
        {"anchor.prefix = /a", "x.ini:1: anchor.prefix: use letters"},
        {"anchor.prefix = a&b", "x.ini:1: anchor.prefix: use letters"},
        {"anchor.bucket = b", "x.ini:1: anchor.bucket: needs anchor.access_key_id and"},
        {"anchor.bucket = b\nledger = false", "x.ini:1: anchor.bucket: needs ledger = true"},
        {"file.root = here", "x.ini:1: file.root: must be an absolute path"},
        {"sink.override = file:here", "x.ini:1: sink.override: must be"},
        {"admin.listen = 9464", "x.ini:1: admin.listen: is not"},
        {"admin.listen = 127.0.0.1:x", "x.ini:1: admin.listen: is not"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct config *c = config_new();
        assert_true(read_text(c, cases[i].text));
        assert_false(config_finish(c, &err));
        if (!str_starts((struct str){buf_cstr(&err), err.n}, cases[i].want))
            fail_msg("%s\nwanted %s", buf_cstr(&err), cases[i].want);
        assert_null(strstr(buf_cstr(&err), "hush"));
        assert_null(strstr(buf_cstr(&err), "hunter2"));
        config_free(c);
    }
}

static void test_times(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int64_t ms;
    } cases[] = {
        {"1970-01-01T00:00:01Z", 1000},
        {"2001-09-09T01:46:40Z", 1000000000000},
        {"2001-09-09T03:46:40+02:00", 1000000000000},
        {"2001-09-08t20:16:40.0069-05:30", 1000000000006},
        {"2001-09-09T01:46:40.5z", 1000000000500},
        {"2001-09-09T01:46:40.123456789Z", 1000000000123},
        {"90m", 1000000000000 - 5400000},
        {"0s", 1000000000000},
        {"400d", 1000000000000 - 400 * INT64_C(86400000)},
        {"100000d", 1},
    };
    static const char *const wrong[] = {
        "", "now", "1", "-1s", "2001-09-09", "2001-09-09T01:46:40", "1969-12-31T23:59:59Z"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t ms = 0;
        bool ok = config_parse_time(cases[i].text, 1000000000000, &ms);
        if (!ok || ms != cases[i].ms) fail_msg("%s: %d, %lld", cases[i].text, ok, (long long)ms);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        int64_t ms;
        if (config_parse_time(wrong[i], 1000000000000, &ms)) fail_msg("%s", wrong[i]);
    }
}

/* Every event is compared with all patterns, so they are bounded. */
static void test_patterns_are_bounded(void **state) {
    (void)state;
    for (int over = 0; over < 2; over++) {
        struct config *c = config_new();
        struct buf text;
        buf_init(&text, 65536);
        buf_puts(&text, "hold.workspaces = w");
        for (int i = 1; i < CONFIG_PATTERNS_MAX + over; i++) buf_puts(&text, ",*w");
        buf_puts(&text, "\nhold.destinations = ");
        for (int i = 0; i < CONFIG_PATTERN_MAX + over; i++) buf_putc(&text, 'd');
        buf_clear(&err);
        assert_true(read_text(c, buf_cstr(&text)));
        assert_int_equal(config_finish(c, &err), !over);
        assert_int_equal(
            strstr(buf_cstr(&err), "hold.workspaces: has more than 256 entries") != NULL, over);
        assert_int_equal(strstr(buf_cstr(&err), "has more than 256 characters") != NULL, over);
        buf_free(&text);
        config_free(c);
    }
}

static void test_cross_checks_pass(void **state) {
    struct config *c = *state;
    assert_true(read_text(c, "topics = a.b_c-d, ^x(y|z)$\n"
                             "sink.override = file:/tmp/x\n"
                             "admin.listen = [::1]:9464\n"
                             "[egress]\n"
                             "allow = 10.0.0.0/8, fd00::/8\n"
                             "proxy = http://user:hush-hush@proxy:3128\n"
                             "[s3]\n"
                             "sse = aws:kms\n"
                             "sse_kms_key_id = k\n"
                             "lock_mode = COMPLIANCE\n"
                             "lock_days = 30\n"
                             "[webhook]\n"
                             "signing_secrets = " WHSEC "\n"
                             "[kafka]\n"
                             "sasl.password = open-sesame\n"));
    bool ok = config_finish(c, &err);
    if (!ok) fail_msg("%s", buf_cstr(&err));
    assert_string_equal(c->override_dir, "/tmp/x");
    assert_int_equal(c->egress.n_allow, 2);
    assert_int_equal(c->s3_sse, CONFIG_SSE_KMS);

    /* Secrets are known to the log's scrubber from here on. */
    struct buf out;
    buf_init(&out, 4096);
    scrub_add(&out, STR("open-sesame user hush-hush proxy " WHSEC));
    assert_string_equal(buf_cstr(&out), "[REDACTED] user [REDACTED] proxy [REDACTED]");
    buf_free(&out);
}

static char *printed(void (*print)(FILE *)) {
    char *text = NULL;
    size_t n;
    FILE *f = open_memstream(&text, &n);
    print(f);
    fclose(f);
    return text;
}

static const struct config *to_print;
static bool print_all;
static void print_it(FILE *f) {
    config_print(to_print, print_all, f);
}

static void test_print(void **state) {
    struct config *c = *state;
    assert_true(read_text(c, "[webhook]\nsigning_secrets = " WHSEC "\n[window]\nage = 1000ms\n"
                             "[kafka]\nsasl.password = open-sesame\nclient.id = me\n"));
    assert_true(config_set(c, "lanes", "2", "--set", &err));
    to_print = c;
    print_all = true;
    char *text = printed(print_it);
    static const char *const wants[] = {
        "\nwindow.age = 1000ms                             # x.ini:4\n",
        "\nlanes = 2                                       # --set\n",
        "\nwebhook.signing_secrets = ***                   # x.ini:2\n",
        "\nkafka.sasl.password = ***                       # x.ini:6\n",
        "\nkafka.client.id = me                            # x.ini:7\n",
        "\nwindow.records = 1000                           # default\n",
    };
    for (size_t i = 0; i < sizeof wants / sizeof *wants; i++)
        if (!strstr(text, wants[i])) fail_msg("%s\nlacks %s", text, wants[i]);
    assert_null(strstr(text, "whsec"));
    assert_null(c->settings[key_find("webhook.signing_secrets") - config_keys].text);
    assert_null(strstr(text, "sesame"));
    free(text);
}

/* One that is set to its default is no difference. */
static void test_print_differences(void **state) {
    struct config *c = *state;
    assert_true(read_text(c,
                          "lanes = 2\n[window]\nrecords = 1000\n[webhook]\nsigning_secrets = " WHSEC
                          "\n[kafka]\nclient.id = me\n"));
    to_print = c;
    print_all = false;
    char *text = printed(print_it), want[512];
    snprintf(want, sizeof want,
             "lanes = 2                                       # x.ini:1\n"
             "webhook.signing_secrets = ***                   # x.ini:5\n"
             "kafka.client.id = me                            # x.ini:7\n"
             "# %zu others are at their defaults: --all shows them\n",
             config_n_keys - 2);
    assert_string_equal(text, want);
    free(text);
}

static void test_value_forms(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int64_t ms; /* -1: refused */
    } cases[] = {
        {"500ms", 500},    {"10s", 10000}, {"5m", 300000}, {"1h", 3600000},
        {"7d", 604800000}, {"0s", 0},      {"10", -1},     {"", -1},
        {"s", -1},         {"-1s", -1},    {"1.5s", -1},   {"1 s", -1},
        {" 1s", -1},       {"1S", -1},     {"1sx", -1},    {"200000000000d", -1},
        {"+1s", -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int64_t v = -1;
        assert_int_equal(config_parse_ms(cases[i].text, &v), cases[i].ms >= 0);
        assert_int_equal(v, cases[i].ms);
    }
}

/* The whole table: every default is within its bounds, its printed form reads back as the same, and
 * the reference file, comments taken off, is a valid configuration that changes nothing. */
static void test_reference_reads_back(void **state) {
    struct config *c = *state;
    char *ini = printed(config_print_ini);
    struct buf text;
    buf_init(&text, 1 << 20);
    bool kafka = false;
    for (const char *p = ini; *p;) {
        size_t n = strcspn(p, "\n") + 1;
        bool value = p[0] == '#' && p[1] != ' ' && p[1] != '\n';
        if (p[0] == '[') kafka = strncmp(p, "[kafka]", 7) == 0;
        if (!kafka) buf_add(&text, p + value, n - value);
        p += n;
    }
    if (!read_text(c, buf_cstr(&text))) fail_msg("%s", buf_cstr(&err));
    for (size_t i = 0; i < config_n_keys; i++) assert_non_null(c->settings[i].origin);
    buf_free(&text);
    free(ini);
}

static void test_reference_file_is_current(void **state) {
    (void)state;
    char *want = printed(config_print_ini);
    struct buf have;
    buf_init(&have, 1 << 20);
    FILE *f = fopen(TEST_DATA "/../../config/runsink.ini", "r");
    assert_non_null(f);
    char chunk[4096];
    for (size_t n; (n = fread(chunk, 1, sizeof chunk, f)) > 0;) buf_add(&have, chunk, n);
    fclose(f);
    if (strcmp(buf_cstr(&have), want) != 0)
        fail_msg("keys.def has changed: runsink check --reference-ini >config/runsink.ini");
    buf_free(&have);
    free(want);
}

#define CONFIG_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

/* SIGHUP: what may change does, the rest keeps its value and is named. */
static void test_reload(void **state) {
    (void)state;
    struct config *now = config_new(), *fresh = config_new();
    struct buf taken, ignored;
    buf_init(&taken, 4096);
    buf_init(&ignored, 4096);
    assert_true(config_set(now, "topics", "a,b", "test", &err));
    assert_true(config_set(now, "egress.allow", "10.0.0.0/8", "test", &err));
    assert_true(config_set(fresh, "topics", "a", "test", &err));
    assert_true(config_set(fresh, "lanes", "3", "test", &err));
    assert_true(config_set(fresh, "http.timeout", "5s", "test", &err));
    assert_true(config_set(fresh, "egress.allow", "10.1.0.0/16,::1", "test", &err));
    assert_true(config_set(now, "kafka.bootstrap.servers", "a:1", "test", &err));
    assert_true(config_set(now, "kafka.sasl.password", "hunter22", "test", &err));
    assert_true(config_set(now, "kafka.client.id", "same", "test", &err));
    assert_true(config_set(fresh, "kafka.client.id", "same", "test", &err));
    assert_true(config_set(fresh, "kafka.bootstrap.servers", "b:1", "test", &err));
    assert_true(config_set(fresh, "kafka.linger.ms", "7", "test", &err));
    struct config *then = config_reload(fresh, now, &taken, &ignored);
    config_free(fresh);
    config_free(now);
    assert_string_equal(buf_cstr(&taken), "http.timeout egress.allow ");
    assert_string_equal(buf_cstr(&ignored), "topics lanes kafka.bootstrap.servers "
                                            "kafka.sasl.password kafka.linger.ms ");
    assert_true(config_finish(then, &err));
    assert_int_equal(then->lanes, 1);
    assert_int_equal(then->topics.n, 2);
    assert_int_equal(then->http_timeout, 5000);
    assert_int_equal(then->egress.n_allow, 2);
    assert_string_equal(config_kafka(then, "bootstrap.servers"), "a:1");
    assert_string_equal(config_kafka(then, "sasl.password"), "hunter22");
    assert_null(config_kafka(then, "linger.ms"));
    config_free(then);
    buf_free(&taken);
    buf_free(&ignored);
}

/* Each key that decides is in the digest, no other one is, and no secret. */
static void test_rules(void **state) {
    (void)state;
    static const char *const others[] = {
        "1",      "2",       "7",          "3s",        "2MiB",       "true",
        "false",  "batch",   "none",       "dead",      "a",          "replace",
        "sha256", "AES256",  "GOVERNANCE", "5s",        "10.0.0.0/8", "443",
        "x/1/2",  "FAILURE", "{id}",       "file:/tmp", "http://h:1", "FAILURE,SUCCESS"};
    struct config *plain = config_new();
    size_t rules = 0;
    assert_true(config_finish(plain, &err));
    for (size_t i = 0; i < config_key_count(); i++) {
        struct config_key_text key = config_key_text(i);
        bool changed = false;
        if (key.rule) assert_false(key.secret);
        rules += key.rule;
        for (size_t k = 0; k < sizeof others / sizeof *others; k++) {
            struct config *c = config_new();
            buf_clear(&err);
            if (strcmp(others[k], key.def) != 0 && config_set(c, key.name, others[k], "t", &err)) {
                config_finish(c,
                              &err); /* some exclude each other: the digest is there all the same */
                changed = changed || memcmp(c->rules, plain->rules, sizeof c->rules) != 0;
            }
            config_free(c);
        }
        if (changed != (key.rule || strcmp(key.name, "egress.proxy") == 0))
            print_error("%s %s\n", key.name,
                        changed ? "changes the rules" : "does not change them");
        assert_int_equal(changed, key.rule || strcmp(key.name, "egress.proxy") == 0);
    }
    assert_true(rules > 30);
    config_free(plain);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        CONFIG_TEST(test_defaults),
        CONFIG_TEST(test_file),
        CONFIG_TEST(test_long_line),
        CONFIG_TEST(test_bad_files),
        CONFIG_TEST(test_missing_file),
        CONFIG_TEST(test_no_regular_file),
        CONFIG_TEST(test_secret_from_a_pipe),
        CONFIG_TEST(test_environment),
        CONFIG_TEST(test_kubernetes_service_links),
        CONFIG_TEST(test_secret_files),
        CONFIG_TEST(test_set),
        CONFIG_TEST(test_cross_checks),
        CONFIG_TEST(test_times),
        CONFIG_TEST(test_patterns_are_bounded),
        CONFIG_TEST(test_cross_checks_pass),
        CONFIG_TEST(test_print),
        CONFIG_TEST(test_print_differences),
        CONFIG_TEST(test_reference_reads_back),
        CONFIG_TEST(test_statuses),
        CONFIG_TEST(test_statuses_unknown),
        cmocka_unit_test(test_value_forms),
        cmocka_unit_test(test_reference_file_is_current),
        cmocka_unit_test(test_reload),
        CONFIG_TEST(test_rules),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
