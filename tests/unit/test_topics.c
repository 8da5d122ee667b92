/* Which topics are sources, which are runsink's own, and which of those are missing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "worker/kafka/topics.h"

static struct buf err;

static int setup(void **state) {
    buf_init(&err, 65536);
    *state = config_new();
    return 0;
}

static int teardown(void **state) {
    config_free(*state);
    buf_free(&err);
    return 0;
}

static void test_kinds(void **state) {
    (void)state;
    static const struct {
        const char *name;
        enum topic_kind kind;
        size_t base;
    } cases[] = {
        {"jobrun", TOPIC_SOURCE, 6},
        {"jobrun.retry.10s", TOPIC_RETRY, 6},
        {"a.b.retry.7d", TOPIC_RETRY, 3},
        {"jobrun.retry.500ms", TOPIC_RETRY, 6},
        {"jobrun.retry.soon", TOPIC_SOURCE, 17},
        {"jobrun.retry.", TOPIC_SOURCE, 13},
        {"jobrun.retry", TOPIC_SOURCE, 12},
        {".retry.10s", TOPIC_SOURCE, 10},
        {"jobrunretry.10s", TOPIC_SOURCE, 15},
        {"jobrun.dead.tenant", TOPIC_DEAD, 6},
        {"jobrun.dead.data", TOPIC_DEAD, 6},
        {"jobrun.dead.system", TOPIC_DEAD, 6},
        {"jobrun.dead.none", TOPIC_SOURCE, 16},
        {"jobrun.dead.tenant.x", TOPIC_SOURCE, 20},
        {"jobrun.ledger", TOPIC_LEDGER, 6},
        {".ledger", TOPIC_SOURCE, 7},
        {"ledger", TOPIC_SOURCE, 6},
        {"jobrun.outcomes", TOPIC_OUTCOMES, 6},
        {".outcomes", TOPIC_SOURCE, 9},
        {"", TOPIC_SOURCE, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t base = 99;
        assert_int_equal(topic_kind(cases[i].name, &base), cases[i].kind);
        assert_int_equal(base, cases[i].base);
    }
}

static void test_names(void **state) {
    (void)state;
    char name[TOPIC_MAX + 1], source[TOPIC_MAX + 1];
    assert_true(topic_retry("a", "10s", name));
    assert_string_equal(name, "a.retry.10s");
    assert_true(topic_dead("a", FAULT_SYSTEM, name));
    assert_string_equal(name, "a.dead.system");
    assert_true(topic_ledger("a", name));
    assert_string_equal(name, "a.ledger");
    assert_true(topic_outcomes("a", name));
    assert_string_equal(name, "a.outcomes");
    memset(source, 'x', sizeof source);
    source[TOPIC_MAX - 7] = '\0';
    assert_true(topic_ledger(source, name));
    assert_int_equal(strlen(name), TOPIC_MAX);
    assert_false(topic_retry(source, "10s", name));
}

/* "a:3 b:1" -> a sorted list. */
static struct topic_list list_of(const char *text) {
    struct topic_list l = {0};
    char name[TOPIC_MAX + 1];
    int partitions, used;
    for (; sscanf(text, " %249[^:]:%d%n", name, &partitions, &used) == 2; text += used) {
        l.v = realloc(l.v, (l.n + 1) * sizeof *l.v);
        l.v[l.n++] = (struct topic){.name = strdup(name), .partitions = partitions};
    }
    return l;
}

static const char *text_of(const struct topic_list *l) {
    static char text[4096];
    size_t n = 0;
    text[0] = '\0';
    for (size_t i = 0; i < l->n; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s:%d", i ? " " : "", l->v[i].name,
                              l->v[i].partitions);
    return text;
}

static void test_resolve(void **state) {
    (void)state;
    static const char all[] =
        "__consumer_offsets:50 a:2 a.dead.data:2 a.ledger:2 a.outcomes:2 a.retry.10s:2 "
        "b-1:1 b-2:4 broken:0 c:3";
    static const struct {
        const char *topics, *want; /* want NULL: refused */
    } cases[] = {
        {"a", "a:2"},
        {"c,a,c", "a:2 c:3"},
        {"nope", "nope:0"},
        {"^b-", "b-1:1 b-2:4"},
        {"^b-[0-9]+$, c", "b-1:1 b-2:4 c:3"},
        {"^(a|c), a", "a:2 c:3"},
        {"^.*", "a:2 b-1:1 b-2:4 c:3"}, /* neither runsink's nor Kafka's own */
        {"^nothing", ""},
        {"", ""},
        {"a.ledger", NULL},
        {"a.outcomes", NULL},
        {"c, a.retry.10s", NULL},
    };
    struct topic_list have = list_of(all);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct config *c = config_new();
        struct topic_list l = {0};
        assert_true(config_set(c, "topics", cases[i].topics, "test", &err));
        bool ok = topics_resolve(c, &have, &l, &err);
        assert_int_equal(ok, cases[i].want != NULL);
        if (ok) assert_string_equal(text_of(&l), cases[i].want);
        topic_list_free(&l);
        config_free(c);
    }
    topic_list_free(&have);
}

static const char *missing(struct config *c, const char *all, const char *sources) {
    struct topic_list have = list_of(all), from = list_of(sources), l = {0};
    bool ok = topics_missing(c, &have, &from, &l, &err);
    const char *text = ok ? text_of(&l) : NULL;
    topic_list_free(&have);
    topic_list_free(&from);
    topic_list_free(&l);
    return text;
}

static void test_missing(void **state) {
    struct config *c = *state;
    assert_true(config_set(c, "retry.delays", "10s,20s", "test", &err));
    assert_string_equal(missing(c, "a:3", "a:3"),
                        "a.dead.data:3 a.dead.system:3 a.dead.tenant:3 a.ledger:3 a.outcomes:3 "
                        "a.retry.10s:3 a.retry.20s:3");
    assert_string_equal(
        missing(c,
                "a:3 a.dead.data:1 a.ledger:1 a.outcomes:1 a.retry.10s:1 a.retry.20s:0 b:2 "
                "b.ledger:2",
                "a:3 gone:0"),
        "a.dead.system:3 a.dead.tenant:3 a.retry.20s:3");
    assert_true(config_set(c, "ledger", "off", "test", &err));
    assert_true(config_set(c, "topics.partitions", "7", "test", &err));
    assert_string_equal(missing(c, "a:3 a.retry.10s:3 a.retry.20s:3", "a:3"),
                        "a.dead.data:7 a.dead.system:7 a.dead.tenant:7 a.outcomes:7");
    assert_true(config_set(c, "outcomes", "off", "test", &err));
    assert_string_equal(missing(c, "a:3 a.retry.10s:3 a.retry.20s:3", "a:3"),
                        "a.dead.data:7 a.dead.system:7 a.dead.tenant:7");

    char name[300], source[310];
    memset(name, 'x', sizeof name);
    name[240] = '\0';
    snprintf(source, sizeof source, "%s:1", name);
    assert_null(missing(c, source, source));
    assert_non_null(strstr(buf_cstr(&err), "is too long"));
}

/* One that an expression matched is marked, and keeps no other from being served. */
static void test_unserved(void **state) {
    struct config *c = *state;
    char all[600], sources[600], name[250];
    memset(name, 'z', sizeof name);
    name[246] = '\0';
    snprintf(all, sizeof all, "T-c:1 T-c_ledger:1 T-d:1 T-d.ledger:1 T-d_retry_10s:0 %s:1", name);
    snprintf(sources, sizeof sources, "T-c:1 T-c_ledger:1 T-d:1 %s:1", name);
    assert_true(config_set(c, "retry.delays", "10s", "test", &err));
    struct topic_list have = list_of(all), from = list_of(sources), l = {0}, out = {0};
    for (size_t i = 0; i < from.n; i++) from.v[i].matched = true;
    assert_true(topics_missing(c, &have, &from, &l, &err));
    topics_part(&from, &out);
    assert_string_equal(text_of(&from), "T-c_ledger:1");
    assert_int_equal(3, out.n);
    assert_non_null(strstr(out.v[0].unserved, "T-c.ledger beside T-c_ledger"));
    assert_non_null(strstr(out.v[1].unserved, "T-d.retry.10s beside T-d_retry_10s"));
    assert_non_null(strstr(out.v[2].unserved, "too long"));
    for (size_t i = 0; i < l.n; i++)
        assert_ptr_equal(strstr(l.v[i].name, "T-c_ledger."), l.v[i].name);
    assert_int_equal(6, l.n);
    topic_list_free(&l);
    topic_list_free(&from);
    /* A named one is the operator's to correct. */
    from = list_of("T-c:1 T-c_ledger:1");
    assert_false(topics_missing(c, &have, &from, &l, &err));
    assert_non_null(strstr(buf_cstr(&err), "T-c can't be served"));
    topic_list_free(&from);
    topic_list_free(&out);
    topic_list_free(&have);
}

static void test_retries(void **state) {
    struct config *c = *state;
    assert_true(config_set(c, "retry.delays", "10s,20s", "test", &err));
    static const struct {
        const char *all, *sources, *want;
    } cases[] = {
        {"a:3 a.retry.10s:3 a.retry.20s:3", "a:3", "a.retry.10s:3 a.retry.20s:3"},
        {"a:3", "a:3", "a.retry.10s:3 a.retry.20s:3"}, /* about to be made */
        {"a:3 a.retry.10s:0", "a:3", "a.retry.10s:3 a.retry.20s:3"},
        {"a:1 a.retry.10s:1 a.retry.20s:1 a.retry.2s:4", "a:1",
         "a.retry.10s:1 a.retry.20s:1 a.retry.2s:4"},
        /* Of no source of ours, or no retry topic, or gone. */
        {"a.retry.10s:1 a.retry.20s:1 b.retry.2s:4 a.retry.soon:1 a.retry:1 a.retry.4s:0", "a:1",
         "a.retry.10s:1 a.retry.20s:1"},
        /* A source whose name looks like half of one has retry topics of its own. */
        {"a.retry:1 a.retry.retry.7s:2", "a:1 a.retry:1",
         "a.retry.10s:1 a.retry.20s:1 a.retry.retry.10s:1 a.retry.retry.20s:1 a.retry.retry.7s:2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct topic_list have = list_of(cases[i].all), from = list_of(cases[i].sources), l;
        topics_retries(c, &have, &from, &l);
        assert_string_equal(text_of(&l), cases[i].want);
        topic_list_free(&have);
        topic_list_free(&from);
        topic_list_free(&l);
    }
    assert_false(topic_is_leftover(c, "a.retry.20s"));
    assert_true(topic_is_leftover(c, "a.retry.20000ms"));
}

#define TOPICS_TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_kinds), cmocka_unit_test(test_names), TOPICS_TEST(test_resolve),
        TOPICS_TEST(test_unserved),   TOPICS_TEST(test_missing),    TOPICS_TEST(test_retries),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
