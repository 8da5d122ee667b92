#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "sinks/s3/s3.h"
#include "sinks/s3/s3_error.h"
#include "worker/base/log.h"

#define KEYS                                                                                       \
    "\"accessKeyId\":\"AKIAIOSFODNN7EXAMPLE\",\"secretAccessKey\":\"wJalrXUtnFEMI/K7MDENG\""
#define BASE "\"bucket\":\"my-bucket\",\"region\":\"us-west-2\"," KEYS
#define X10 "xxxxxxxxxx"
#define X100 X10 X10 X10 X10 X10 X10 X10 X10 X10 X10

static struct config *with(const char *const settings[][2]) {
    struct config *cfg = config_new();
    struct buf err;
    buf_init(&err, 4096);
    for (size_t i = 0; settings && settings[i][0]; i++)
        if (!config_set(cfg, settings[i][0], settings[i][1], "test", &err))
            fail_msg("%s", buf_cstr(&err));
    if (!config_set(cfg, "topics", "t", "test", &err) ||
        !config_set(cfg, "kafka.bootstrap.servers", "127.0.0.1:1", "test", &err) ||
        !config_finish(cfg, &err))
        fail_msg("%s", buf_cstr(&err));
    buf_free(&err);
    return cfg;
}

static bool parse(const struct config *cfg, const char *fields, struct destination *ret,
                  struct outcome *reterr) {
    struct buf text;
    buf_init(&text, 65536);
    buf_printf(&text, "{\"type\":\"s3\",%s}", fields);
    cJSON *sink = cJSON_Parse(buf_cstr(&text));
    assert_non_null(sink);
    *ret = (struct destination){0};
    bool ok = s3_parse(cfg, sink, ret, reterr);
    cJSON_Delete(sink);
    buf_free(&text);
    return ok;
}

static void drop(struct destination *d) {
    free(d->prefix);
    s3_free_config(d->config);
}

/* Where a sink object leads: host, path before the key, label. */
static void places(void **state) {
    (void)state;
    static const struct {
        const char *fields, *host, *root, *label;
    } cases[] = {
        {BASE, "my-bucket.s3.us-west-2.amazonaws.com", "/", "s3://my-bucket/"},
        {"\"bucket\":\"my-bucket\",\"region\":\"cn-north-1\"," KEYS,
         "my-bucket.s3.cn-north-1.amazonaws.com.cn", "/", "s3://my-bucket/"},
        {"\"bucket\":\"my-bucket\",\"region\":\"eusc-de-east-1\"," KEYS,
         "my-bucket.s3.eusc-de-east-1.amazonaws.eu", "/", "s3://my-bucket/"},
        {"\"bucket\":\"my-bucket\",\"region\":\"us-iso-east-1\"," KEYS,
         "my-bucket.s3.us-iso-east-1.c2s.ic.gov", "/", "s3://my-bucket/"},
        {"\"bucket\":\"my-bucket\",\"region\":\"us-isob-east-1\"," KEYS,
         "my-bucket.s3.us-isob-east-1.sc2s.sgov.gov", "/", "s3://my-bucket/"},
        {"\"bucket\":\"my-bucket\",\"region\":\"us-isof-south-1\"," KEYS,
         "my-bucket.s3.us-isof-south-1.csp.hci.ic.gov", "/", "s3://my-bucket/"},
        {"\"bucket\":\"my-bucket\",\"region\":\"eu-isoe-west-1\"," KEYS,
         "my-bucket.s3.eu-isoe-west-1.cloud.adc-e.uk", "/", "s3://my-bucket/"},
        {"\"bucket\":\"my-bucket\",\"region\":\"us-gov-east-1\"," KEYS,
         "my-bucket.s3.us-gov-east-1.amazonaws.com", "/", "s3://my-bucket/"},
        {"\"bucket\":\"my-bucket\",\"region\":\"RegionOne\","
         "\"endpoint\":\"https://rgw.example.com\"," KEYS,
         "my-bucket.rgw.example.com", "/", "s3://my-bucket/ @ rgw.example.com"},
        {"\"bucket\":\"dotted.bucket\",\"region\":\"eu-west-1\"," KEYS,
         "s3.eu-west-1.amazonaws.com", "/dotted.bucket/", "s3://dotted.bucket/"},
        {"\"bucket\":\"Old_Bucket\",\"region\":\"us-east-1\"," KEYS, "s3.us-east-1.amazonaws.com",
         "/Old_Bucket/", "s3://Old_Bucket/"},
        {BASE ",\"prefix\":\"/a//b\"", "my-bucket.s3.us-west-2.amazonaws.com", "/",
         "s3://my-bucket//a//b"},
        {BASE ",\"prefix\":\"a @ \u00e9.com\"", "my-bucket.s3.us-west-2.amazonaws.com", "/",
         "s3://my-bucket/a%20%40%20%C3%A9.com"},
        {BASE ",\"force_path_style\":true", "s3.us-west-2.amazonaws.com", "/my-bucket/",
         "s3://my-bucket/"},
        {BASE ",\"endpoint\":\"https://S3.Example.com\"", "my-bucket.s3.example.com", "/",
         "s3://my-bucket/ @ s3.example.com"},
        {BASE ",\"endpoint\":\"https://s3.example.com:443/base/\"", "my-bucket.s3.example.com",
         "/base/", "s3://my-bucket/ @ s3.example.com"},
        {BASE ",\"endpoint\":\"https://s3.example.com:8443/\",\"forcePathStyle\":true",
         "s3.example.com:8443", "/my-bucket/", "s3://my-bucket/ @ s3.example.com:8443"},
        {BASE ",\"endpoint\":\"https://203.0.113.9/x\"", "203.0.113.9", "/x/my-bucket/",
         "s3://my-bucket/ @ 203.0.113.9"},
        {BASE ",\"endpoint\":\"https://[2606:4700::1]:9000\"", "[2606:4700::1]:9000", "/my-bucket/",
         "s3://my-bucket/ @ [2606:4700::1]:9000"},
        {BASE ",\"endpoint\":null,\"prefix\":null", "my-bucket.s3.us-west-2.amazonaws.com", "/",
         "s3://my-bucket/"},
    };
    const char *const settings[][2] = {{"egress.allow", "203.0.113.0/24"}, {NULL}};
    struct config *cfg = with(settings);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct destination d;
        struct outcome err = {0};
        if (!parse(cfg, cases[i].fields, &d, &err)) fail_msg("case %zu: %s", i, err.detail);
        const struct s3_config *c = d.config;
        assert_string_equal(c->host, cases[i].host);
        assert_string_equal(c->path_root, cases[i].root);
        assert_string_equal(d.label, cases[i].label);
        assert_int_equal(strlen(d.place), PLACE_LEN);
        drop(&d);
    }
    config_free(cfg);
}

static void refusals(void **state) {
    (void)state;
    static const struct {
        const char *fields;
        enum fault fault;
        const char *names; /* in the detail */
    } cases[] = {
        {"\"region\":\"r\"," KEYS, FAULT_DATA, "sink.bucket"},
        {"\"bucket\":\"bbb\"," KEYS, FAULT_DATA, "sink.region"},
        {"\"bucket\":\"bbb\",\"region\":\"r\",\"secretAccessKey\":\"s\"", FAULT_DATA,
         "sink.accessKeyId"},
        {"\"bucket\":\"bbb\",\"region\":\"r\",\"accessKeyId\":\"s\"", FAULT_DATA,
         "sink.secretAccessKey"},
        {"\"bucket\":7,\"region\":\"r\"," KEYS, FAULT_DATA, "sink.bucket"},
        {BASE ",\"forcePathStyle\":\"yes\"", FAULT_DATA, "sink.forcePathStyle"},
        {BASE ",\"Bucket\":\"x\",\"prefix\":[]", FAULT_DATA, "sink.prefix"},
        {BASE ",\"access_key_id\":\"other\"", FAULT_DATA, "sink.accessKeyId"},
        {"\"bucket\":\"ab\",\"region\":\"r\"," KEYS, FAULT_TENANT, "sink.bucket"},
        {"\"bucket\":\"../x\",\"region\":\"r\"," KEYS, FAULT_TENANT, "sink.bucket"},
        {"\"bucket\":\"a/b\",\"region\":\"r\"," KEYS, FAULT_TENANT, "sink.bucket"},
        {"\"bucket\":\"evil.com?\",\"region\":\"r\"," KEYS, FAULT_TENANT, "sink.bucket"},
        {"\"bucket\":\"evil#x\",\"region\":\"r\"," KEYS, FAULT_TENANT, "sink.bucket"},
        {"\"bucket\":\"u@evil\",\"region\":\"r\"," KEYS, FAULT_TENANT, "sink.bucket"},
        {"\"bucket\":\"b\\u00e9b\",\"region\":\"r\"," KEYS, FAULT_TENANT, "sink.bucket"},
        {"\"bucket\":\"" X100 X100 X10 X10 X10 X10 X10 X10 "\",\"region\":\"r\"," KEYS,
         FAULT_TENANT, "sink.bucket"},
        {"\"bucket\":\"bbb\",\"region\":\"a.evil.com/\"," KEYS, FAULT_TENANT, "sink.region"},
        {"\"bucket\":\"bbb\",\"region\":\"" X100 "\"," KEYS, FAULT_TENANT, "sink.region"},
        {"\"bucket\":\"bbb\",\"region\":\"US\"," KEYS, FAULT_TENANT, "sink.endpoint"},
        {"\"bucket\":\"bbb\",\"region\":\"a/b\",\"endpoint\":\"https://example.com\"," KEYS,
         FAULT_TENANT, "sink.region"},
        {"\"bucket\":\"bbb\",\"region\":\"a b\",\"endpoint\":\"https://example.com\"," KEYS,
         FAULT_TENANT, "sink.region"},
        {"\"bucket\":\"bbb\",\"region\":\"r\",\"accessKeyId\":\"a\\r\\nX: y\","
         "\"secretAccessKey\":\"s\"",
         FAULT_TENANT, "sink.accessKeyId"},
        {"\"bucket\":\"bbb\",\"region\":\"r\",\"accessKeyId\":\"a/b\",\"secretAccessKey\":\"s\"",
         FAULT_TENANT, "sink.accessKeyId"},
        {"\"bucket\":\"bbb\",\"region\":\"r\",\"accessKeyId\":\"a\",\"secretAccessKey\":\"s\\n\"",
         FAULT_TENANT, "sink.secretAccessKey"},
        {BASE ",\"sessionToken\":\"t\\r\\nHost: evil\"", FAULT_TENANT, "sink.sessionToken"},
        {BASE ",\"prefix\":\"a/../b\"", FAULT_TENANT, "sink.prefix"},
        {BASE ",\"prefix\":\"..\"", FAULT_TENANT, "sink.prefix"},
        {BASE ",\"prefix\":\"/../\"", FAULT_TENANT, "sink.prefix"},
        {BASE ",\"prefix\":\"a//./b\"", FAULT_TENANT, "sink.prefix"},
        {BASE ",\"prefix\":\"a\\u0007\"", FAULT_TENANT, "sink.prefix"},
        {BASE ",\"prefix\":\"a\\u007f\"", FAULT_TENANT, "sink.prefix"},
        {BASE ",\"prefix\":\"\xff\"", FAULT_TENANT, "sink.prefix"},
        {BASE ",\"prefix\":\"" X100 X100 X100 X100 X100 X10 "xxx\"", FAULT_TENANT, "sink.prefix"},
        {BASE ",\"prefix\":\"x/wJalrXUtnFEMI/K7MDENG/\"", FAULT_TENANT, "credential"},
        {BASE ",\"prefix\":\"x/wJalrXUtnFEMI%2fK7MDENG/\"", FAULT_TENANT, "credential"},
        {BASE ",\"prefix\":\"AKIAIOSFODNN7EXAMPLE/\"", FAULT_TENANT, "credential"},
        {BASE ",\"prefix\":\"p/sess10/\",\"sessionToken\":\"sess10\"", FAULT_TENANT, "credential"},
        {BASE ",\"endpoint\":\"https://akiaiosfodnn7example.example.com\"", FAULT_TENANT,
         "credential"},
        {"\"bucket\":\"b-akidexample\",\"region\":\"r\",\"accessKeyId\":\"AKIDEXAMPLE\","
         "\"secretAccessKey\":\"s\"",
         FAULT_TENANT, "credential"},
        {"\"bucket\":\"bbb\",\"region\":\"akidexample\",\"accessKeyId\":\"AKIDEXAMPLE\","
         "\"secretAccessKey\":\"s\"",
         FAULT_TENANT, "credential"},
        {BASE ",\"endpoint\":\"ftp://example.com\"", FAULT_TENANT, "sink.endpoint"},
        {BASE ",\"endpoint\":\"https://u:p@example.com\"", FAULT_TENANT, "sink.endpoint"},
        {BASE ",\"endpoint\":\"https://example.com/?x=1\"", FAULT_TENANT, "sink.endpoint"},
        {BASE ",\"endpoint\":\"https://example.com/#x\"", FAULT_TENANT, "sink.endpoint"},
        {BASE ",\"endpoint\":\"https://example.com/a%2fb\"", FAULT_TENANT, "sink.endpoint"},
        {BASE ",\"endpoint\":\"https://example.com/a/../b\"", FAULT_TENANT, "sink.endpoint"},
        {BASE ",\"endpoint\":\"example.com\"", FAULT_TENANT, ""},
        {BASE ",\"endpoint\":\"https://\"", FAULT_TENANT, ""},
        {BASE ",\"endpoint\":\"http://example.com\"", FAULT_TENANT, "egress.http"},
        {BASE ",\"endpoint\":\"https://127.0.0.1\"", FAULT_TENANT, ""},
        {BASE ",\"endpoint\":\"https://169.254.169.254\"", FAULT_TENANT, ""},
        {BASE ",\"endpoint\":\"https://example.com:22\"", FAULT_TENANT, ""},
    };
    struct config *cfg = with(NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct destination d;
        struct outcome err = {0};
        if (parse(cfg, cases[i].fields, &d, &err)) fail_msg("accepted: %s", cases[i].fields);
        assert_int_equal(err.verdict, VERDICT_PERMANENT);
        if (err.fault != cases[i].fault || !strstr(err.detail, cases[i].names))
            fail_msg("%s: fault %s, detail %s", cases[i].fields, fault_name(err.fault), err.detail);
        assert_null(strstr(err.detail, "wJalr"));
        assert_null(d.config);
    }
    config_free(cfg);
}

/* Two sink objects are one destination exactly when place and credentials are the same. */
static void identities(void **state) {
    (void)state;
    static const char *const fields[] = {
        BASE,
        BASE ",\"skipOnFail\":true",
        BASE ",\"prefix\":\"a\"",
        BASE ",\"sessionToken\":\"a\"",
        BASE ",\"endpoint\":\"https://example.com\"",
        BASE ",\"endpoint\":\"https://example.com/b\"",
        BASE ",\"forcePathStyle\":true",
        "\"bucket\":\"my-bucket\",\"region\":\"us-west-2\",\"accessKeyId\":\"a\","
        "\"secretAccessKey\":\"bc\"",
        "\"bucket\":\"my-bucket\",\"region\":\"us-west-2\",\"accessKeyId\":\"ab\","
        "\"secretAccessKey\":\"c\"",
    };
    enum { N = sizeof fields / sizeof *fields };
    struct config *cfg = with(NULL);
    struct destination d[N];
    struct outcome err;
    for (size_t i = 0; i < N; i++) assert_true(parse(cfg, fields[i], &d[i], &err));
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < i; j++) {
            bool same = memcmp(d[i].identity, d[j].identity, SHA256_LEN) == 0;
            assert_int_equal(same, i == 1 && j == 0);
        }
    for (size_t i = 0; i < N; i++) drop(&d[i]);
    config_free(cfg);
}

static void secrets_are_scrubbed_while_a_destination_lives(void **state) {
    (void)state;
    struct config *cfg = with(NULL);
    struct destination d;
    struct outcome err;
    assert_true(parse(cfg, BASE ",\"sessionToken\":\"token-canary-1\"", &d, &err));
    char text[] = "x wJalrXUtnFEMI/K7MDENG AKIAIOSFODNN7EXAMPLE token-canary-1 y";
    secret_scrub(text, strlen(text));
    assert_null(strstr(text, "wJalr"));
    assert_null(strstr(text, "AKIA"));
    assert_null(strstr(text, "canary"));
    drop(&d);
    char after[] = "x token-canary-1 y";
    secret_scrub(after, strlen(after));
    assert_string_equal(after, "x token-canary-1 y");
    config_free(cfg);
}

static struct batch a_batch(struct destination *d) {
    struct batch b = {.dest = d,
                      .key = "pre fix/a+b=c%d(e&f:g@h?i#j/\xc3\xa9.json",
                      .body = "{}",
                      .body_len = 2,
                      .content_type = "application/json",
                      .topic = "runs",
                      .partition = 3,
                      .first = 41,
                      .last = 42,
                      .count = 2};
    sha256(b.body, b.body_len, b.sha256);
    sha256(b.body, b.body_len, b.body_sha256);
    return b;
}

static const char *header(const struct curl_slist *list, const char *name) {
    for (; list; list = list->next) {
        size_t n = strlen(name);
        if (strncmp(list->data, name, n) == 0 && list->data[n] == ':') return list->data + n + 2;
    }
    return NULL;
}

#define EMPTY_OBJECT_SHA256 "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"

static void request_has_the_batch_in_its_headers(void **state) {
    (void)state;
    struct config *cfg = with(NULL);
    struct destination d;
    struct outcome err;
    assert_true(parse(cfg, BASE ",\"sessionToken\":\"tok\"", &d, &err));
    struct batch b = a_batch(&d);
    struct buf url;
    buf_init(&url, 8192);
    struct curl_slist *list = NULL;
    s3_put_request(d.config, cfg, &b, 1440938160, &url, &list);
    assert_string_equal(buf_cstr(&url), "https://my-bucket.s3.us-west-2.amazonaws.com/pre%20fix/"
                                        "a%2Bb%3Dc%25d%28e%26f%3Ag%40h%3Fi%23j/%C3%A9.json");
    static const char *const want[][2] = {
        {"Host", "my-bucket.s3.us-west-2.amazonaws.com"},
        {"Content-Type", "application/json"},
        {"x-amz-date", "20150830T123600Z"},
        {"x-amz-content-sha256", EMPTY_OBJECT_SHA256},
        {"x-amz-security-token", "tok"},
        {"x-amz-meta-topic", "runs"},
        {"x-amz-meta-partition", "3"},
        {"x-amz-meta-offsets", "41-42"},
        {"x-amz-meta-count", "2"},
        {"x-amz-meta-sha256", EMPTY_OBJECT_SHA256},
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const char *value = header(list, want[i][0]);
        assert_non_null(value);
        assert_string_equal(value, want[i][1]);
    }
    assert_string_equal(header(list, "Content-MD5"), "mZFLkyvTelC5g8XnyQrpOw==");
    assert_null(header(list, "x-amz-checksum-sha256"));
    assert_null(header(list, "x-amz-storage-class"));
    assert_null(header(list, "x-amz-object-lock-mode"));
    const char *authorization = header(list, "Authorization");
    assert_non_null(authorization);
    assert_non_null(strstr(authorization, "AKIAIOSFODNN7EXAMPLE/20150830/us-west-2/s3/"));
    assert_non_null(
        strstr(authorization,
               "SignedHeaders=content-md5;content-type;host;x-amz-content-sha256;x-amz-date;"
               "x-amz-meta-count;x-amz-meta-offsets;x-amz-meta-partition;"
               "x-amz-meta-sha256;x-amz-meta-topic;x-amz-security-token,"));
    curl_slist_free_all(list);
    buf_free(&url);
    drop(&d);
    config_free(cfg);
}

/* What anchors and verify ask for: none of a PUT's headers, and the query is signed. */
static void any_request(void **state) {
    (void)state;
    const char *const settings[][2] = {{"s3.storage_class", "STANDARD_IA"}, {NULL}};
    struct config *cfg = with(settings);
    struct destination d;
    struct outcome err;
    assert_true(parse(cfg, BASE ",\"sessionToken\":\"tok\"", &d, &err));
    struct s3_config *c = d.config;
    struct sigv4_param params[] = {{STR("versions"), STR("")}, {STR("prefix"), STR("a/b c")}};
    struct s3_request r = {.method = "GET", .key = "", .params = params, .n_params = 2};
    struct buf url;
    struct curl_slist *list = NULL;
    buf_init(&url, 8192);
    s3_request_begin(&r, c, 1440938160);
    s3_request_line(&r, "If-None-Match", "*");
    assert_true(s3_request_end(&r, c, &url, &list));
    assert_string_equal(buf_cstr(&url), "https://my-bucket.s3.us-west-2.amazonaws.com/"
                                        "?prefix=a%2Fb%20c&versions=");
    const char empty[] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const struct sigv4_header headers[] = {{STR("host"), str_c(c->host)},
                                           {STR("if-none-match"), STR("*")},
                                           {STR("x-amz-content-sha256"), str_c(empty)},
                                           {STR("x-amz-date"), STR("20150830T123600Z")},
                                           {STR("x-amz-security-token"), STR("tok")}};
    const struct sigv4_request same = {.method = "GET",
                                       .path = STR("/"),
                                       .query = STR("prefix=a%2Fb%20c&versions="),
                                       .headers = headers,
                                       .n_headers = 5,
                                       .payload_sha256 = empty};
    const struct sigv4_signer signer = {c->access_key_id, c->secret_access_key, c->region, "s3"};
    struct sigv4_key key = {0};
    struct buf want;
    buf_init(&want, 4096);
    assert_true(sigv4_sign(&same, &signer, &key, "20150830T123600Z", &want));
    assert_string_equal(header(list, "Authorization"), buf_cstr(&want));
    size_t n = 0;
    for (const struct curl_slist *l = list; l; l = l->next) n++;
    assert_int_equal(n, 6);
    curl_slist_free_all(list);
    buf_free(&want);
    /* Past the url's bound: refused, and nothing is left to free. */
    struct s3_request long_one = {.method = "GET", .key = "0123456789"};
    struct buf small;
    list = NULL;
    buf_init(&small, 50);
    s3_request_begin(&long_one, c, 1440938160);
    assert_false(s3_request_end(&long_one, c, &small, &list));
    assert_null(list);
    buf_free(&small);
    buf_free(&url);
    drop(&d);
    config_free(cfg);
}

static void configured_headers(void **state) {
    (void)state;
    const char *const settings[][2] = {{"s3.storage_class", "STANDARD_IA"},
                                       {"s3.sse", "aws:kms"},
                                       {"s3.sse_kms_key_id", "key-1"},
                                       {"s3.tagging", "a=b"},
                                       {"s3.checksum", "crc32"},
                                       {"s3.lock_mode", "COMPLIANCE"},
                                       {"s3.lock_days", "7"},
                                       {NULL}};
    struct config *cfg = with(settings);
    struct destination d;
    struct outcome err;
    assert_true(parse(cfg, BASE, &d, &err));
    struct batch b = a_batch(&d);
    struct buf url;
    buf_init(&url, 8192);
    struct curl_slist *list = NULL;
    s3_put_request(d.config, cfg, &b, 1440938160, &url, &list);
    static const char *const want[][2] = {
        {"x-amz-storage-class", "STANDARD_IA"},
        {"x-amz-server-side-encryption", "aws:kms"},
        {"x-amz-server-side-encryption-aws-kms-key-id", "key-1"},
        {"x-amz-tagging", "a=b"},
        {"x-amz-checksum-crc32", "o6a/Qw=="}, /* CRC-32 of "{}": a3a6bf43 */
        {"x-amz-object-lock-mode", "COMPLIANCE"},
        {"x-amz-object-lock-retain-until-date", "2015-09-07T00:00:00Z"},
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const char *value = header(list, want[i][0]);
        assert_non_null(value);
        assert_string_equal(value, want[i][1]);
    }
    curl_slist_free_all(list);
    buf_free(&url);
    drop(&d);
    config_free(cfg);
}

static void error_documents(void **state) {
    (void)state;
    static const struct {
        const char *body;
        bool found;
        const char *code, *message, *region, *endpoint;
    } cases[] = {
        {"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>NoSuchBucket</Code><Message>The "
         "specified bucket does not exist</Message><BucketName>b</BucketName></Error>",
         true, "NoSuchBucket", "The specified bucket does not exist", "", ""},
        {"<Error xmlns=\"x>y\"> <Code>A</Code>\n<Region>eu-west-1</Region><Endpoint>s3-eu-west-1."
         "amazonaws.com</Endpoint></Error>",
         true, "A", "", "eu-west-1", "s3-eu-west-1.amazonaws.com"},
        {"<Error><Message>a &lt;b&gt; &amp; &quot;c&quot; &apos;d&apos; \xc3\xa9</Message></Error>",
         true, "", "a <b> & \"c\" 'd' ??", "", ""},
        {"<Error><Detail><Code>Inner</Code><A><B/></A></Detail><Code>Outer</Code></Error>", true,
         "Outer", "", "", ""},
        {"<Error><Code>First</Code><Code>Second</Code></Error>", true, "First", "", "", ""},
        {"<Error><Empty/><Code>A</Code>", true, "A", "", "", ""},
        {"<Error><Code>A b<</Code></Error>", true, "", "", "", ""},
        {"<Error><Code>A b/c</Code></Error>", true, "A-b-c", "", "", ""},
        {"<Error><Region>evil.com/</Region><Endpoint>evil/..</Endpoint></Error>", true, "", "", "",
         ""},
        {"<Error><Message>&#65;&x;</Message><Code>A</Code></Error>", true, "A", "", "", ""},
        {"<!DOCTYPE Error [<!ENTITY x \"y\">]><Error><Code>A</Code></Error>", false, "", "", "",
         ""},
        {"<Error><![CDATA[<Code>A</Code>]]></Error>", true, "", "", "", ""},
        {"<!-- a > b --><?x y?>\n<Error><!-- c --><Code>A</Code></Error>", true, "A", "", "", ""},
        {"<?xml version=\"1.0\"?><!----><Error><X><!-- </X> --></X><?y?><Code>A</Code></Error>",
         true, "A", "", "", ""},
        {"<s3:Error xmlns:s3=\"x\"><s3:Code>A</s3:Code><s3:Region>eu-west-1</s3:Region></s3:Error>",
         true, "A", "", "eu-west-1", ""},
        {"<Error><!-- <Code>A</Code></Error>", true, "", "", "", ""},
        {"<!-- <Error><Code>A</Code></Error>", false, "", "", "", ""},
        {"<Error:Other><Code>A</Code></Error:Other>", false, "", "", "", ""},
        {"<ErrorResponse><Error><Code>A</Code></Error></ErrorResponse>", false, "", "", "", ""},
        {"<Error><Code>Trunca", true, "", "", "", ""},
        {"<ListBucketResult><Code>A</Code></ListBucketResult>", false, "", "", "", ""},
        {"<html><Error><Code>A</Code></Error></html>", false, "", "", "", ""},
        {"", false, "", "", "", ""},
        {"<", false, "", "", "", ""},
        {"<?xml", false, "", "", "", ""},
        {"<Error", false, "", "", "", ""},
        {"{\"Code\":\"A\"}", false, "", "", "", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct s3_error e = {{0}};
        bool found = s3_error_parse(str_c(cases[i].body), &e);
        if (found != cases[i].found) fail_msg("found %d: %s", found, cases[i].body);
        assert_string_equal(e.code, cases[i].code);
        assert_string_equal(e.message, cases[i].message);
        assert_string_equal(e.region, cases[i].region);
        assert_string_equal(e.endpoint, cases[i].endpoint);
    }
}

/* What each may stand behind an endpoint's name, and says 2xx to a PUT. */
static void stores_and_others(void **state) {
    (void)state;
    static const struct {
        int status;
        const char *etag, *request_id, *body;
        bool stored;
        const char *type, *length;
    } cases[] = {
        {200, "\"5d41402abc4b2a76b9719d911017c592\"", "", "", true},
        {200, "\"5d41402abc4b2a76b9719d911017c592\"", "0A49CE4060975EAC", "", true},
        {200, "5d41402abc4b2a76b9719d911017c592", "", "", true},
        {200, "", "tx000001-005", "", true},
        {200, "W/\"1\"", "tx000001-005", "", true}, /* a proxy made it weak */
        {200, "\"1\"", "", " \r\n\t", true},
        {201, "\"1\"", "", "", true},
        {204, "\"1\"", "", "", true},
        {200, "", "", "", false},
        {200, "\"\"", "", "", false},
        {200, "W/\"0-2jmj7l5rSw0yVb\"", "", "", false},
        {200, "\"1\"", "", "login", false},
        {200, "\"1\"", "1", "{\"error\":\"unauthorized\"}", false},
        {200, "\"1\"", "1", "<!DOCTYPE html><html></html>", false},
        {200, "\"1\"", "1", "<PutObjectResponse/>", false},
        {201, "\"1\"", "", "<Created/>", false},
        {202, "\"1\"", "1", "", false},
        {203, "\"1\"", "1", "", false},
        {206, "\"1\"", "1", "", false},
        {304, "\"1\"", "1", "", false},
        {200, "w/\"1\"", "", "", false},
        {200, "\" \"", "", "", false},
        {200, "\"1\"", "1", "", true, "application/xml", "300"}, /* what it announced never came */
        {200, "\"1\"", "1", "", true, "text/html; charset=UTF-8", "0"}, /* Google's */
        {204, "\"1\"", "1", "", true, "text/html", ""},
        {200, "\"1\"", "1", "", false, "text/html; charset=utf-8", "300"},
        {200, "\"1\"", "1", "", false, "TEXT/HTML", ""}, /* until the connection ends, or chunked */
        {200, "", "1", "", false, "text/html", "1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct s3_answer a = {.status = cases[i].status,
                                    .etag = cases[i].etag,
                                    .request_id = cases[i].request_id,
                                    .type = cases[i].type ? cases[i].type : "",
                                    .length = cases[i].length ? cases[i].length : "",
                                    .body = str_c(cases[i].body)};
        if (s3_is_stored(&a) != cases[i].stored) fail_msg("case %zu", i);
    }
    assert_false(s3_is_stored(&(struct s3_answer){200, "\"1\"", "", "", "", {"\0", 1}}));
}

static void outcomes(void **state) {
    (void)state;
    static const struct {
        int status;
        const char *code;
        enum verdict verdict;
        enum fault fault;
        bool credential;
        const char *why;
    } cases[] = {
        {503, "SlowDown", VERDICT_RETRY, FAULT_TENANT, false, "SlowDown"},
        {500, "InternalError", VERDICT_RETRY, FAULT_TENANT, false, "InternalError"},
        {200, "InternalError", VERDICT_RETRY, FAULT_TENANT, false, "InternalError"},
        {502, "", VERDICT_RETRY, FAULT_TENANT, false, "http-502"},
        {429, "", VERDICT_RETRY, FAULT_TENANT, false, "http-429"},
        {408, "", VERDICT_RETRY, FAULT_TENANT, false, "http-408"},
        {400, "RequestTimeout", VERDICT_RETRY, FAULT_TENANT, false, "RequestTimeout"},
        {403, "RequestTimeTooSkewed", VERDICT_RETRY, FAULT_TENANT, false, "RequestTimeTooSkewed"},
        {400, "BadDigest", VERDICT_RETRY, FAULT_TENANT, false, "BadDigest"},
        {400, "IncompleteBody", VERDICT_RETRY, FAULT_TENANT, false, "IncompleteBody"},
        {400, "XAmzContentChecksumMismatch", VERDICT_RETRY, FAULT_TENANT, false,
         "XAmzContentChecksumMismatch"},
        {409, "OperationAborted", VERDICT_RETRY, FAULT_TENANT, false, "OperationAborted"},
        {400, "XAmzContentSHA256Mismatch", VERDICT_RETRY, FAULT_TENANT, false,
         "XAmzContentSHA256Mismatch"},
        {403, "AccessDenied", VERDICT_PERMANENT, FAULT_TENANT, true, "AccessDenied"},
        {403, "InvalidAccessKeyId", VERDICT_PERMANENT, FAULT_TENANT, true, "InvalidAccessKeyId"},
        {403, "SignatureDoesNotMatch", VERDICT_PERMANENT, FAULT_TENANT, true,
         "SignatureDoesNotMatch"},
        {400, "ExpiredToken", VERDICT_PERMANENT, FAULT_TENANT, true, "ExpiredToken"},
        {404, "NoSuchBucket", VERDICT_PERMANENT, FAULT_TENANT, true, "NoSuchBucket"},
        {403, "", VERDICT_PERMANENT, FAULT_TENANT, true, "http-403"},
        {404, "", VERDICT_PERMANENT, FAULT_TENANT, false, "http-404"},
        {301, "PermanentRedirect", VERDICT_PERMANENT, FAULT_TENANT, true, "PermanentRedirect"},
        {307, "TemporaryRedirect", VERDICT_RETRY, FAULT_TENANT, false, "TemporaryRedirect"},
        {501, "NotImplemented", VERDICT_PERMANENT, FAULT_TENANT, false, "NotImplemented"},
        {400, "KeyTooLongError", VERDICT_PERMANENT, FAULT_TENANT, false, "KeyTooLongError"},
        {403, "InvalidObjectState", VERDICT_PERMANENT, FAULT_TENANT, true, "InvalidObjectState"},
        {507, "XMinioStorageFull", VERDICT_RETRY, FAULT_TENANT, false, "XMinioStorageFull"},
        /* Codes that are on no list of ours are a tenant's text. */
        {400, "SomethingNew", VERDICT_PERMANENT, FAULT_TENANT, false, "http-400"},
        {503, "accessdenied", VERDICT_RETRY, FAULT_TENANT, false, "http-503"},
        {200, "SomethingNew", VERDICT_PERMANENT, FAULT_TENANT, false, "s3-error"},
        {200, "", VERDICT_RETRY, FAULT_TENANT, false, "not-a-store"},
        {206, "", VERDICT_RETRY, FAULT_TENANT, false, "not-a-store"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct s3_error e = {{0}};
        snprintf(e.code, sizeof e.code, "%s", cases[i].code);
        struct outcome o = s3_outcome(cases[i].status, &e, 7);
        assert_string_equal(o.why, cases[i].why);
        assert_int_equal(o.verdict, cases[i].verdict);
        assert_int_equal(o.fault, cases[i].fault);
        assert_int_equal(o.credential, cases[i].credential);
        assert_int_equal(o.status, cases[i].status);
        assert_int_equal(o.retry_after_ms, 7);
    }
}

/* What a store says goes nowhere, whatever it makes of a secret that it knows: each of these forms
 * came out as the reason, or in the detail. */
static void no_word_of_a_store_is_shown(void **state) {
    (void)state;
    static const char *const forms[] = {
        "AKIACANARYCANARY",       /* as it is */
        "AKIA&amp;CANARY",        /* decoded after the scrub */
        "414b494143414e415259",   /* hex */
        "QUtJQUNBTkFSWUNBTkFSWQ", /* base64 */
        "FLSUFDQU5BUllDQU5BUlk",  /* base64 from the second byte on */
        "AKIA%2543ANARY",         /* double percent */
        "akiacanarycanary",       /* other case */
        "YRANACYRANACAIKA",       /* reversed */
    };
    secret_add(STR("AKIACANARYCANARY"));
    secret_add(STR("AKIA&CANARY"));
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        char body[256];
        struct s3_error e;
        snprintf(body, sizeof body, "<Error><Code>%s</Code><Message>%s</Message></Error>", forms[i],
                 forms[i]);
        assert_true(s3_error_parse(str_c(body), &e));
        struct outcome o = s3_outcome(403, &e, 0);
        assert_string_equal(o.why, "http-403");
        assert_string_equal(o.detail, "the store refuses the credentials (HTTP 403)");
    }
    secret_drop(STR("AKIACANARYCANARY"));
    secret_drop(STR("AKIA&CANARY"));
}

/* The operator's own store may speak; what it says is scrubbed once it is decoded. */
static void an_own_store_is_told(void **state) {
    (void)state;
    struct s3_error e;
    secret_add(STR("AKIA&CANARYCANARY"));
    assert_true(s3_error_parse(STR("<Error><Code>New.Code</Code><Message>no such key: "
                                   "AKIA&amp;CANARYCANARY</Message></Error>"),
                               &e));
    struct outcome o = s3_outcome_told(403, &e, 5);
    assert_string_equal(o.why, "http-403");
    assert_non_null(strstr(o.detail, "no such key"));
    assert_null(strstr(o.detail, "CANARY"));
    assert_int_equal(o.status, 403);
    assert_int_equal(o.retry_after_ms, 5);
    secret_drop(STR("AKIA&CANARYCANARY"));
}

/* Tenants choose what counts as a secret: one that is a word of the protocol must not change what
 * another tenant's answer means. */
static void a_secret_named_like_a_code_changes_nothing(void **state) {
    (void)state;
    static const char *const words[] = {"AccessDenied", "us-west-2", "<Error>"};
    struct s3_error e;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) secret_add(str_c(words[i]));
    assert_true(s3_error_parse(STR("<Error><Code>AccessDenied</Code><Region>us-west-2</Region>"
                                   "</Error>"),
                               &e));
    assert_string_equal(e.region, "us-west-2");
    struct outcome o = s3_outcome(403, &e, 0);
    assert_string_equal(o.why, "AccessDenied");
    assert_true(o.credential);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) secret_drop(str_c(words[i]));
}

static void region_hints(void **state) {
    (void)state;
    struct config *cfg = with(NULL);
    struct destination d;
    struct outcome err;
    assert_true(parse(cfg, BASE, &d, &err));
    struct s3_config *c = d.config;
    struct s3_error none = {{0}}, endpoint = {{0}}, region = {{0}};
    snprintf(endpoint.endpoint, sizeof endpoint.endpoint, "my-bucket.s3-eu-west-1.amazonaws.com");
    snprintf(region.region, sizeof region.region, "eu-west-1");

    assert_false(s3_learn_region(c, 301, &none, "", "us-west-2"));
    assert_false(s3_learn_region(c, 301, &none, "evil.com/", "us-west-2"));
    assert_false(s3_learn_region(c, 301, &none, "us-west-2", "us-west-2"));
    assert_false(s3_learn_region(c, 403, &region, "eu-west-1", "us-west-2"));
    struct s3_error other = endpoint;
    snprintf(other.endpoint, sizeof other.endpoint, "s3.eu-west-1.evil.com");
    assert_false(s3_learn_region(c, 301, &other, "", "us-west-2"));
    assert_string_equal(c->region, "us-west-2");

    assert_false(s3_learn_region(c, 400, &none, "RegionOne", "us-west-2"));
    snprintf(other.endpoint, sizeof other.endpoint, "s3.evil.c2s.ic.gov");
    assert_false(s3_learn_region(c, 301, &other, "", "us-west-2"));

    assert_true(s3_learn_region(c, 301, &endpoint, "", "us-west-2"));
    assert_string_equal(c->region, "eu-west-1");
    assert_string_equal(c->host, "my-bucket.s3.eu-west-1.amazonaws.com");
    /* Others that flew when the first was answered are sent again too. */
    assert_true(s3_learn_region(c, 400, &region, "", "us-west-2"));
    /* But a store that names one region after another gets no second chance. */
    assert_false(s3_learn_region(c, 400, &none, "ap-south-1", "eu-west-1"));
    assert_string_equal(c->region, "eu-west-1");
    drop(&d);

    /* A custom endpoint keeps its host, and can't name another by Endpoint. */
    assert_true(parse(cfg, BASE ",\"endpoint\":\"https://example.com\"", &d, &err));
    c = d.config;
    assert_false(s3_learn_region(c, 301, &endpoint, "", "us-west-2"));
    assert_true(s3_learn_region(c, 400, &none, "eu-west-1", "us-west-2"));
    assert_string_equal(c->host, "my-bucket.example.com");
    drop(&d);
    config_free(cfg);
}

#ifdef RUNSINK_LIBS3
static void sigv2_endpoints_are_the_listed_ones(void **state) {
    (void)state;
    const char *const settings[][2] = {
        {"s3.sigv2_endpoints", "http://old.example.com:7480"}, {"egress.http", "false"}, {NULL}};
    static const struct {
        const char *fields;
        bool ok, sigv2;
    } cases[] = {
        {BASE ",\"endpoint\":\"http://old.example.com:7480\"", true, true},
        {BASE ",\"endpoint\":\"http://OLD.example.com:7480/\"", true, true},
        {BASE ",\"endpoint\":\"http://old.example.com:7480/x\"", false, false},
        {BASE ",\"endpoint\":\"http://old.example.com\"", false, false},
        {BASE ",\"endpoint\":\"https://old.example.com:7480\"", true, false},
        {BASE ",\"endpoint\":\"http://old.example.com:7480\",\"sessionToken\":\"t\"", false, true},
    };
    struct config *cfg = with(settings);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct destination d;
        struct outcome err;
        bool ok = parse(cfg, cases[i].fields, &d, &err);
        if (ok != cases[i].ok) fail_msg("case %zu: %s", i, ok ? "accepted" : err.detail);
        if (!ok) continue;
        assert_int_equal(((struct s3_config *)d.config)->sigv2, cases[i].sigv2);
        drop(&d);
    }
    config_free(cfg);
}
#endif

/* What a server names as its region is told when it is a region's name and nothing else. */
static void known_regions(void **state) {
    (void)state;
    static const char *const known[] = {"eu-west-1",      "us-east-2",      "us-gov-west-1",
                                        "ap-southeast-7", "cn-northwest-1", "us-isob-east-1",
                                        "eusc-de-east-1", "il-central-1",   "eu-isoe-west-1"};
    static const char *const other[] = {"",
                                        "eu",
                                        "eu-",
                                        "RegionOne",
                                        "us_east_1",
                                        "4eb8a1f0c2",
                                        "eu-west-11",
                                        "t0ken-west-1",
                                        "eu-t0ken-1",
                                        "eu-west-t",
                                        "eu-west-1-t0ken",
                                        "-west-1",
                                        "topsecret-east-1"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        assert_true(s3_region_is_known(str_c(known[i])));
    for (size_t i = 0; i < sizeof other / sizeof *other; i++)
        assert_false(s3_region_is_known(str_c(other[i])));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(places),
        cmocka_unit_test(refusals),
        cmocka_unit_test(identities),
        cmocka_unit_test(secrets_are_scrubbed_while_a_destination_lives),
        cmocka_unit_test(request_has_the_batch_in_its_headers),
        cmocka_unit_test(any_request),
        cmocka_unit_test(configured_headers),
        cmocka_unit_test(error_documents),
        cmocka_unit_test(stores_and_others),
        cmocka_unit_test(outcomes),
        cmocka_unit_test(no_word_of_a_store_is_shown),
        cmocka_unit_test(an_own_store_is_told),
        cmocka_unit_test(a_secret_named_like_a_code_changes_nothing),
        cmocka_unit_test(region_hints),
        cmocka_unit_test(known_regions),
#ifdef RUNSINK_LIBS3
        cmocka_unit_test(sigv2_endpoints_are_the_listed_ones),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
