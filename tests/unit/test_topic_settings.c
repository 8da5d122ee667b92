/* What `check` says about the settings of runsink's own topics. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "worker/kafka/topic_settings.h"

#define HOUR ((int64_t)3600000)
#define MIB ((int64_t)1 << 20)

static void test_judge(void **state) {
    (void)state;
    static const struct topic_settings source = {.known = true, .max_message_bytes = MIB};
    static const struct topic_settings unknown = {0};
    static const struct {
        enum topic_kind kind;
        struct topic_settings own;
        const struct topic_settings *source;
        const char *says[3]; /* what it has to name; none: nothing is said */
    } cases[] = {
        /* As they are made. */
        {TOPIC_RETRY, {true, "delete", -1, -1, 16 * MIB}, &source, {0}},
        {TOPIC_DEAD, {true, "delete", -1, -1, 16 * MIB}, &source, {0}},
        {TOPIC_LEDGER, {true, "delete", -1, -1, 16 * MIB}, &source, {0}},
        /* A source is the operator's; what is not known is not judged. */
        {TOPIC_SOURCE, {true, "compact", 1, 1, 1}, &source, {0}},
        {TOPIC_RETRY, {false, "", 0, 0, 0}, &source, {0}},
        {TOPIC_RETRY, {true, "delete", -1, -1, MIB}, &unknown, {0}},
        {TOPIC_RETRY, {true, "compact", -1, -1, 16 * MIB}, &source, {"cleanup.policy=delete"}},
        {TOPIC_DEAD,
         {true, "compact,delete", -1, -1, 16 * MIB},
         &source,
         {"cleanup.policy=delete"}},
        {TOPIC_LEDGER, {true, "compact", -1, -1, 16 * MIB}, &source, {"cleanup.policy=delete"}},
        /* Retention: of parked records above the window, of letters as the operator likes. */
        {TOPIC_RETRY, {true, "delete", HOUR, -1, 16 * MIB}, &source, {"retention.ms=-1"}},
        {TOPIC_RETRY, {true, "delete", 3 * HOUR, -1, 16 * MIB}, &source, {0}},
        {TOPIC_RETRY, {true, "delete", -1, 1000, 16 * MIB}, &source, {"retention.bytes=-1"}},
        {TOPIC_DEAD, {true, "delete", HOUR, 1000, 16 * MIB}, &source, {0}},
        {TOPIC_LEDGER, {true, "delete", 1000 * HOUR, -1, 16 * MIB}, &source, {"retention.ms=-1"}},
        /* What is told may go as soon as the platform has read it. */
        {TOPIC_OUTCOMES, {true, "delete", HOUR, 1000, 16 * MIB}, &source, {0}},
        {TOPIC_OUTCOMES, {true, "compact", HOUR, -1, 16 * MIB}, &source, {"cleanup.policy=delete"}},
        {TOPIC_OUTCOMES, {true, "delete", HOUR, -1, 40000}, &source, {"max.message.bytes=65536"}},
        {TOPIC_OUTCOMES, {true, "delete", HOUR, -1, 65536}, &source, {0}},
        /* Size: a record of the source with our headers. */
        {TOPIC_RETRY, {true, "delete", -1, -1, MIB}, &source, {"max.message.bytes=2097152"}},
        {TOPIC_DEAD, {true, "delete", -1, -1, MIB + 100}, &source, {"max.message.bytes=2097152"}},
        {TOPIC_DEAD, {true, "delete", -1, -1, MIB + 10000}, &source, {0}},
        {TOPIC_LEDGER, {true, "delete", -1, -1, 500000}, &source, {"max.message.bytes=16777216"}},
        /* Times: ours are those of sending, and count for nothing where the broker's are taken. */
        {TOPIC_RETRY, {true, "delete", -1, -1, 16 * MIB, true, -1, HOUR}, &source, {0}},
        {TOPIC_RETRY, {true, "delete", -1, -1, 16 * MIB, false, 0, 0}, &source, {0}},
        {TOPIC_RETRY,
         {true, "delete", -1, -1, 16 * MIB, true, 1000, -1},
         &source,
         {"message.timestamp.before.max.ms=1000", "message.timestamp.type=LogAppendTime"}},
        {TOPIC_LEDGER,
         {true, "delete", -1, -1, 16 * MIB, true, -1, 1000},
         &source,
         {"message.timestamp.after.max.ms=1000"}},
        {TOPIC_RETRY,
         {true, "compact", 1, 1, 1},
         &source,
         {"cleanup.policy=delete", "retention.bytes=-1", "max.message.bytes=2097152"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf said;
        buf_init(&said, 65536);
        bool any = topic_settings_judge(cases[i].kind, &cases[i].own, cases[i].source, HOUR, &said);
        if (any != (cases[i].says[0] != NULL)) fail_msg("case %zu: %s", i, buf_cstr(&said));
        for (int s = 0; s < 3 && cases[i].says[s]; s++)
            if (!strstr(buf_cstr(&said), cases[i].says[s]))
                fail_msg("case %zu: %s", i, buf_cstr(&said));
        buf_free(&said);
    }
}

static void test_partitions(void **state) {
    (void)state;
    static const struct {
        enum topic_kind kind;
        int own, wanted;
        const char *says; /* NULL: nothing */
    } cases[] = {
        {TOPIC_RETRY, 6, 6, NULL},
        {TOPIC_RETRY, 9, 6, NULL},
        {TOPIC_RETRY, 0, 6, NULL}, /* not there: that is said elsewhere */
        {TOPIC_SOURCE, 1, 6, NULL},
        {TOPIC_RETRY, 5, 6, "--partitions 6"},
        {TOPIC_RETRY, 1, 2, "1 partition, where 2"},
        {TOPIC_DEAD, 3, 7, "topics.partitions=3"},
        {TOPIC_LEDGER, 3, 7, "3 partitions, where 7"},
        {TOPIC_OUTCOMES, 3, 7, "3 partitions, where 7"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct buf said;
        buf_init(&said, 4096);
        bool any = topic_partitions_judge(cases[i].kind, cases[i].own, cases[i].wanted, &said);
        if (any != (cases[i].says != NULL) || any != (said.n > 0)) fail_msg("case %zu", i);
        if (any && !strstr(buf_cstr(&said), cases[i].says))
            fail_msg("case %zu: %s", i, buf_cstr(&said));
        buf_free(&said);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_judge),
                                       cmocka_unit_test(test_partitions)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
