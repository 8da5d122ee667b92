/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "tests/unit/events.h"
#include "worker/base/text.h"

static void framings(void **state) {
    (void)state;
    char *run = event(NULL, NULL);
    struct buf quoted;
    buf_init(&quoted, 8192);
    text_json(&quoted, str_c(run));
    const char *q = buf_cstr(&quoted);
    const struct {
        const char *before, *middle, *after;
        struct header headers[3];
        enum framing framing;
        const char *event_id;
        size_t prefix; /* bytes that are no part of the payload */
    } cases[] = {
        {"", run, "", {{{0}}}, FRAMING_BARE, "", 0},
        {" \n", run, "\r\n", {{{0}}}, FRAMING_BARE, "", 0},
        {"", run, "", {H("id", "outbox-1")}, FRAMING_BARE, "outbox-1", 0},
        {"", run, "", {H("content-type", "application/json")}, FRAMING_BARE, "", 0},
        {"", run, "", {H("ce_Id", "no"), H("CE_ID", "no")}, FRAMING_BARE, "", 0},
        {"{\"jobRun\":", run, "}", {{{0}}}, FRAMING_WRAPPED, "", 0},
        {"{\"job_run\":", run, ",\"id\":7,\"x\":[]}", {{{0}}}, FRAMING_WRAPPED, "", 0},
        {"{\"id\":7,\"id\":8,\"j\\u006fbRun\":", run, "}", {{{0}}}, FRAMING_WRAPPED, "", 0},
        {"", run, "", {H("ce_id", "e-1"), H("ce_type", "x")}, FRAMING_CE_BINARY, "e-1", 0},
        {"", run, "", {H("ce_id", "e-1"), H("ce_id", "e-2")}, FRAMING_CE_BINARY, "e-2", 0},
        {"", run, "", {H("ce_specversion", "1.0")}, FRAMING_CE_BINARY, "", 0},
        {"", run, "", {H("ce_id", "a\nb"), H("id", "o-1")}, FRAMING_CE_BINARY, "o-1", 0},
        {"{\"jobRun\":", run, "}", {H("ce_id", "e-1")}, FRAMING_CE_BINARY, "e-1", 0},
        {"~", run, "", {{{0}}}, FRAMING_CONFLUENT, "", 5},
        {"~{\"jobRun\":", run, "}", {{{0}}}, FRAMING_CONFLUENT, "", 5},
        {"~", run, "", {H("ce_id", "e-1")}, FRAMING_CE_BINARY, "e-1", 5},
        {"{\"specversion\":\"1.0\",\"id\":\"s-1\",\"type\":\"t\",\"data\":",
         run,
         "}",
         {H("content-type", "application/cloudevents+json; charset=UTF-8")},
         FRAMING_CE_STRUCTURED,
         "s-1",
         0},
        {"{\"data\":",
         run,
         ",\"id\":\"s\\u002d1\"}",
         {H("Content-Type", "Application/CloudEvents")},
         FRAMING_CE_STRUCTURED,
         "s-1",
         0},
        {"{\"id\":\"s-1\",\"data\":",
         run,
         "}",
         {H("content-type", " application/cloudevents+json"), H("ce_id", "e-1")},
         FRAMING_CE_STRUCTURED,
         "e-1",
         0},
        {"{\"id\":7,\"data\":{\"results\":{},\"job_run\":",
         run,
         "}}",
         {H("content-type", "application/cloudevents+json"), H("id", "o-1")},
         FRAMING_CE_STRUCTURED,
         "o-1",
         0},
        {"\"", q, "\"", {H("id", "outbox-1")}, FRAMING_OUTBOX, "outbox-1", SIZE_MAX},
        {" \"", q, "\" ", {{{0}}}, FRAMING_OUTBOX, "", SIZE_MAX},
        {"\"", q, "\"", {H("ce_id", "e-1"), H("id", "o")}, FRAMING_CE_BINARY, "e-1", SIZE_MAX},
        {"~\"", q, "\"", {{{0}}}, FRAMING_OUTBOX, "", SIZE_MAX},
    };
    for (size_t i = 0; i < LEN(cases); i++) {
        struct buf b;
        size_t n = 0;
        buf_init(&b, 65536);
        const char *before = cases[i].before;
        if (*before == '~') {
            buf_add(&b, "\0\0\1\2\3", 5);
            before++;
        }
        buf_printf(&b, "%s%s%s", before, cases[i].middle, cases[i].after);
        while (n < 3 && cases[i].headers[n].name.p) n++;
        struct decoded d = decode_with((struct str){b.p, b.n}, cases[i].headers, n);
        if (!d.ok) fail_msg("case %zu: %s %s", i, d.err.why, d.err.detail);
        assert_model(&d.run);
        assert_int_equal(d.run.framing, cases[i].framing);
        assert_str(d.run.event_id, cases[i].event_id);
        if (cases[i].prefix == SIZE_MAX)
            assert_str(d.run.payload.json, run);
        else
            assert_true(str_eq(d.run.payload.json,
                               (struct str){b.p + cases[i].prefix, b.n - cases[i].prefix}));
        drop(&d);
        buf_free(&b);
    }
    buf_free(&quoted);
    free(run);
}

static void wrappers_in_other_places(void **state) {
    (void)state;
    static const struct header ce[] = {H("content-type", "application/cloudevents+json")};
    char *run = event(NULL, "\"jobRun\":{\"id\":\"other\"},\"job_run\":{\"id\":\"another\"},"
                            "\"data\":{\"id\":\"other\"}");
    struct buf b;
    buf_init(&b, 16384);
    buf_printf(&b, "{\"jobRun\":%s}", run);
    struct decoded d = decode(buf_cstr(&b));
    assert_true(d.ok);
    assert_model(&d.run);
    drop(&d);
    buf_clear(&b);
    buf_printf(&b, "{\"jobRun\":{\"id\":\"other\"},\"data\":{\"jobRun\":%s}}", run);
    d = decode_with((struct str){b.p, b.n}, ce, 1);
    assert_true(d.ok);
    assert_model(&d.run);
    drop(&d);
    buf_free(&b);
    free(run);
}

static void wrapped_inside_an_outbox(void **state) {
    (void)state;
    char *run = event(NULL, NULL);
    struct buf inner;
    struct buf outer;
    buf_init(&inner, 8192);
    buf_init(&outer, 16384);
    buf_printf(&inner, "{\"jobRun\":%s}", run);
    buf_putc(&outer, '"');
    text_json(&outer, (struct str){inner.p, inner.n});
    buf_putc(&outer, '"');
    struct decoded d = decode(buf_cstr(&outer));
    assert_true(d.ok);
    assert_model(&d.run);
    assert_int_equal(d.run.framing, FRAMING_OUTBOX);
    assert_str(d.run.payload.json, buf_cstr(&inner));
    drop(&d);
    /* Once only. */
    struct buf twice;
    buf_init(&twice, 32768);
    buf_putc(&twice, '"');
    text_json(&twice, (struct str){outer.p, outer.n});
    buf_putc(&twice, '"');
    assert_refused(buf_cstr(&twice), "not-an-object", "not a JSON object");
    buf_free(&twice);
    buf_free(&inner);
    buf_free(&outer);
    free(run);
}

static void values_that_are_no_event(void **state) {
    (void)state;
    const struct {
        struct str value;
        struct header headers[1];
        const char *why, *detail;
    } cases[] = {
        {STR(""), {{{0}}}, "empty-value", "no bytes"},
        {STR(" "), {{{0}}}, "invalid-json", "a value is missing"},
        {STR("null"), {{{0}}}, "not-an-object", "not a JSON object"},
        {STR("[]"), {{{0}}}, "not-an-object", "not a JSON object"},
        {STR("7"), {{{0}}}, "not-an-object", "not a JSON object"},
        {STR("\"\""), {{{0}}}, "invalid-json", "a value is missing"},
        {STR("\"CANARY\""), {{{0}}}, "invalid-json", "a value is missing"},
        {STR("\"{\\ud800\""), {{{0}}}, "invalid-json", "outbox string holds an unpaired"},
        {STR("\"a\" b"), {{{0}}}, "invalid-json", "text follows the value"},
        {STR("{}"), {{{0}}}, "missing-field", "jobConfigurationSnapshot is missing"},
        {STR("{}{}"), {{{0}}}, "invalid-json", "text follows the value, at byte 2"},
        {STR("\xef\xbb\xbf{}"), {{{0}}}, "invalid-json", "byte order mark"},
        {STR("\xff\xfe{\0}\0"), {{{0}}}, "invalid-json", "a value is missing"},
        {STR("\0"), {{{0}}}, "confluent-not-json", "nothing after it (Avro and Protobuf"},
        {STR("\0\0\0\0\1"), {{{0}}}, "confluent-not-json", "nothing after it"},
        {STR("\0\0\0\0\1\x48run"), {{{0}}}, "confluent-not-json", "(Avro and Protobuf are not"},
        {STR("\0\0\0\0\1\0\x0a\x05"), {{{0}}}, "confluent-not-json", "Protobuf are not supported"},
        {STR("\0\0\0\0\1{\"a\""), {{{0}}}, "confluent-not-json", "a colon is missing, at byte 4"},
        {STR("\0\0\0\0\1 7"), {{{0}}}, "confluent-not-json", "not a JSON object"},
        {STR("\0\0\0\0\1{}"), {{{0}}}, "missing-field", "is missing"},
        {STR("Obj\x01\x04"), {{{0}}}, "avro", "Avro container"},
        {STR("{}"), {H("content-type", "application/avro")}, "avro", "content-type says Avro"},
        {STR("{}"), {H("content-type", "application/cloudevents+avro")}, "avro", "Avro"},
        {STR("{}"), {H("CONTENT-TYPE", "application/vnd.apache.avro+json")}, "avro", "Avro"},
        {STR("{}"), {H("content-type", "avro/binary")}, "avro", "Avro"},
        {STR("{}"), {H("content-type", "application/x-protobuf")}, "protobuf", "Protobuf"},
        {STR("{}"), {H("content-type", "application/cloudevents+protobuf")}, "protobuf", "Proto"},
        {STR("{}"), {H("content-type", "Application/Protobuf; x=y")}, "protobuf", "Protobuf"},
        {STR("[]"),
         {H("content-type", "application/cloudevents-batch+json")},
         "cloudevents-format",
         "one event a record"},
        {STR("{}"), {H("content-type", "application/cloudevents+xml")}, "cloudevents-format", ""},
        {STR("{}"), {H("content-type", "application/cloudevents+json")}, "missing-field", "data"},
        {STR("{\"data\":\"CANARY\"}"),
         {H("content-type", "application/cloudevents+json")},
         "wrong-type",
         "data must be an object"},
        {STR("{\"data\":null}"),
         {H("content-type", "application/cloudevents+json")},
         "wrong-type",
         "data must be an object"},
        {STR("{\"data_base64\":\"CANARY\"}"),
         {H("content-type", "application/cloudevents+json")},
         "data-base64",
         "data_base64"},
        {STR("{\"data\":{},\"data_base64\":\"CANARY\"}"),
         {H("content-type", "application/cloudevents+json")},
         "data-base64",
         "data_base64"},
        {STR("{\"data\":{},\"data\":{\"a\":1}}"),
         {H("content-type", "application/cloudevents+json")},
         "duplicate-field",
         "data"},
        {STR("{\"id\":\"CANARY\",\"id\":\"b\",\"data\":{}}"),
         {H("content-type", "application/cloudevents+json")},
         "duplicate-field",
         "id"},
        {STR("{\"data\":{},\"jobConfigurationSnapshot\":{}}"),
         {H("content-type", "application/cloudevents+json")},
         "ambiguous-run",
         "which sink"},
    };
    for (size_t i = 0; i < LEN(cases); i++) {
        struct decoded d =
            decode_with(cases[i].value, cases[i].headers, cases[i].headers[0].name.p ? 1 : 0);
        if (d.ok || strcmp(d.err.why, cases[i].why) != 0 || !strstr(d.err.detail, cases[i].detail))
            fail_msg("case %zu: %s %s", i, d.err.why, d.err.detail);
        drop(&d);
    }
}

static void tombstone(void **state) {
    (void)state;
    const struct header headers[] = {H("ce_id", "e-1"), {STR("content-type"), {NULL, 0}}};
    struct decoded d = decode_with((struct str){NULL, 0}, headers, 2);
    assert_false(d.ok);
    assert_int_equal(d.err.verdict, VERDICT_OK);
    assert_int_equal(d.err.fault, FAULT_NONE);
    assert_string_equal(d.err.why, "tombstone");
    drop(&d);
}

static void null_headers_are_absent(void **state) {
    (void)state;
    const struct header headers[] = {
        {STR("ce_id"), {NULL, 0}}, {STR("content-type"), {NULL, 0}}, {{NULL, 0}, {NULL, 0}}};
    char *text = event(NULL, NULL);
    struct decoded d = decode_with(str_c(text), headers, 3);
    assert_true(d.ok);
    assert_int_equal(d.run.framing, FRAMING_BARE);
    assert_int_equal(d.run.event_id.n, 0);
    drop(&d);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(framings),
        cmocka_unit_test(wrappers_in_other_places),
        cmocka_unit_test(wrapped_inside_an_outbox),
        cmocka_unit_test(values_that_are_no_event),
        cmocka_unit_test(tombstone),
        cmocka_unit_test(null_headers_are_absent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
