#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>

#include "sinks/s3/sigv4.h"

#define EMPTY_SHA256 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
#define STS_TOKEN                                                                                  \
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpS"  \
    "PfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYw" \
    "T7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKml" \
    "zm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
#define UNRESERVED "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

struct vector {
    const char *name;
    const char *method;
    const char *path;          /* not encoded; NULL: "/" */
    const char *query[4][2];   /* not encoded */
    const char *headers[6][2]; /* in the order of the request; Host and X-Amz-Date are added */
    const char *body;          /* NULL: none */
    const char *signed_headers;
    const char *signature;
};

/* The published test suite: AKIDEXAMPLE, us-east-1, service "service", 2015-08-30T12:36:00Z. */
static const struct vector suite[] = {
    {"get-vanilla",
     "GET",
     NULL,
     {{0}},
     {{0}},
     NULL,
     "host;x-amz-date",
     "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
    {"get-header-key-duplicate",
     "GET",
     NULL,
     {{0}},
     {{"My-Header1", "value2"}, {"My-Header1", "value2"}, {"My-Header1", "value1"}},
     NULL,
     "host;my-header1;x-amz-date",
     "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea"},
    {"get-header-value-order",
     "GET",
     NULL,
     {{0}},
     {{"My-Header1", "value4"},
      {"My-Header1", "value1"},
      {"My-Header1", "value3"},
      {"My-Header1", "value2"}},
     NULL,
     "host;my-header1;x-amz-date",
     "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01"},
    {"get-header-value-trim",
     "GET",
     NULL,
     {{0}},
     {{"My-Header1", " value1"}, {"My-Header2", " \"a   b   c\"  "}},
     NULL,
     "host;my-header1;my-header2;x-amz-date",
     "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736"},
    {"get-unreserved",
     "GET",
     "/" UNRESERVED,
     {{0}},
     {{0}},
     NULL,
     "host;x-amz-date",
     "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f"},
    {"get-utf8",
     "GET",
     "/\xe1\x88\xb4",
     {{0}},
     {{0}},
     NULL,
     "host;x-amz-date",
     "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"},
    {"get-vanilla-query-order-key-case",
     "GET",
     NULL,
     {{"Param2", "value2"}, {"Param1", "value1"}},
     {{0}},
     NULL,
     "host;x-amz-date",
     "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
    {"get-vanilla-empty-query-key",
     "GET",
     NULL,
     {{"Param1", "value1"}},
     {{0}},
     NULL,
     "host;x-amz-date",
     "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"},
    {"get-vanilla-query-unreserved",
     "GET",
     NULL,
     {{UNRESERVED, UNRESERVED}},
     {{0}},
     NULL,
     "host;x-amz-date",
     "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"},
    {"get-vanilla-utf8-query",
     "GET",
     NULL,
     {{"\xe1\x88\xb4", "bar"}},
     {{0}},
     NULL,
     "host;x-amz-date",
     "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"},
    {"post-vanilla",
     "POST",
     NULL,
     {{0}},
     {{0}},
     NULL,
     "host;x-amz-date",
     "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
    {"post-header-key-sort",
     "POST",
     NULL,
     {{0}},
     {{"My-Header1", "value1"}},
     NULL,
     "host;my-header1;x-amz-date",
     "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c"},
    {"post-header-value-case",
     "POST",
     NULL,
     {{0}},
     {{"My-Header1", "VALUE1"}},
     NULL,
     "host;my-header1;x-amz-date",
     "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d"},
    {"post-sts-header-before",
     "POST",
     NULL,
     {{0}},
     {{"X-Amz-Security-Token", STS_TOKEN}},
     NULL,
     "host;x-amz-date;x-amz-security-token",
     "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"},
    {"post-vanilla-query",
     "POST",
     NULL,
     {{"Param1", "value1"}},
     {{0}},
     NULL,
     "host;x-amz-date",
     "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11"},
    {"post-vanilla-query-nonunreserved",
     "POST",
     NULL,
     {{"@#$%^", ""}, {"+", "/,?><`\";:\\|][{}"}},
     {{0}},
     NULL,
     "host;x-amz-date",
     "66c82657c86e26fb25238d0e69f011edc4c6df5ae71119d7cb98ed9b87393c1e"},
    {"post-vanilla-query-space",
     "POST",
     NULL,
     {{"p", ""}},
     {{0}},
     NULL,
     "host;x-amz-date",
     "e71688addb58a26418614085fb730ba3faa623b461c17f48f2fbdb9361b94a9b"},
    {"post-x-www-form-urlencoded",
     "POST",
     NULL,
     {{0}},
     {{"Content-Type", "application/x-www-form-urlencoded"}},
     "Param1=value1",
     "content-type;host;x-amz-date",
     "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"},
    {"post-x-www-form-urlencoded-parameters",
     "POST",
     NULL,
     {{0}},
     {{"Content-Type", "application/x-www-form-urlencoded; charset=utf8"}},
     "Param1=value1",
     "content-type;host;x-amz-date",
     "1a72ec8f64bd914b0e42e42607c7fbce7fb2c7465f63e3092b3b0d39fa77a6fe"},
};

/* The S3 documentation's examples: AKIAIOSFODNN7EXAMPLE, examplebucket, 2013-05-24. */
static const struct vector s3_examples[] = {
    {"GET object",
     "GET",
     "/test.txt",
     {{0}},
     {{"Range", "bytes=0-9"}, {"x-amz-content-sha256", EMPTY_SHA256}},
     NULL,
     "host;range;x-amz-content-sha256;x-amz-date",
     "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"},
    {"PUT object",
     "PUT",
     "/test$file.text",
     {{0}},
     {{"Date", "Fri, 24 May 2013 00:00:00 GMT"},
      {"x-amz-storage-class", "REDUCED_REDUNDANCY"},
      {"x-amz-content-sha256", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"}},
     "Welcome to Amazon S3.",
     "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
     "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"},
    {"GET bucket lifecycle",
     "GET",
     NULL,
     {{"lifecycle", ""}},
     {{"x-amz-content-sha256", EMPTY_SHA256}},
     NULL,
     "host;x-amz-content-sha256;x-amz-date",
     "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"},
    {"GET bucket (list objects)",
     "GET",
     NULL,
     {{"max-keys", "2"}, {"prefix", "J"}},
     {{"x-amz-content-sha256", EMPTY_SHA256}},
     NULL,
     "host;x-amz-content-sha256;x-amz-date",
     "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"},
};

static void check(const struct vector *v, const struct sigv4_signer *signer, const char *host,
                  int64_t now, struct sigv4_key *cache) {
    char date[SIGV4_DATE_LEN + 1];
    sigv4_date(now, date);
    struct sigv4_header headers[8] = {{str_c("Host"), str_c(host)},
                                      {str_c("X-Amz-Date"), str_c(date)}};
    size_t n_headers = 2, n_params = 0;
    for (size_t i = 0; i < 6 && v->headers[i][0]; i++)
        headers[n_headers++] =
            (struct sigv4_header){str_c(v->headers[i][0]), str_c(v->headers[i][1])};
    struct sigv4_param params[4];
    for (; n_params < 4 && v->query[n_params][0]; n_params++)
        params[n_params] =
            (struct sigv4_param){str_c(v->query[n_params][0]), str_c(v->query[n_params][1])};
    struct buf path, query, out, want;
    buf_init(&path, 4096);
    buf_init(&query, 4096);
    buf_init(&out, 4096);
    buf_init(&want, 4096);
    assert_true(sigv4_path(&path, str_c(v->path ? v->path : "/")));
    assert_true(sigv4_query(&query, params, n_params));
    uint8_t digest[SHA256_LEN];
    char digest_hex[HEX_LEN(SHA256_LEN) + 1];
    sha256(v->body ? v->body : "", v->body ? strlen(v->body) : 0, digest);
    hex(digest, sizeof digest, digest_hex);
    const struct sigv4_request request = {.method = v->method,
                                          .path = {path.p, path.n},
                                          .query = {query.p, query.n},
                                          .headers = headers,
                                          .n_headers = n_headers,
                                          .payload_sha256 = digest_hex};
    assert_true(sigv4_sign(&request, signer, cache, date, &out));
    buf_printf(&want,
               "AWS4-HMAC-SHA256 Credential=%s/%.8s/%s/%s/aws4_request, SignedHeaders=%s, "
               "Signature=%s",
               signer->access_key_id, date, signer->region, signer->service, v->signed_headers,
               v->signature);
    if (strcmp(buf_cstr(&out), buf_cstr(&want)) != 0) print_error("vector %s\n", v->name);
    assert_string_equal(buf_cstr(&out), buf_cstr(&want));
    buf_free(&path);
    buf_free(&query);
    buf_free(&out);
    buf_free(&want);
}

static void signs_the_published_suite(void **state) {
    (void)state;
    const struct sigv4_signer signer = {"AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
                                        "us-east-1", "service"};
    struct sigv4_key cache = {0};
    for (size_t i = 0; i < sizeof suite / sizeof *suite; i++)
        check(&suite[i], &signer, "example.amazonaws.com", 1440938160, &cache);
}

static void signs_the_s3_examples(void **state) {
    (void)state;
    const struct sigv4_signer signer = {
        "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "us-east-1", "s3"};
    struct sigv4_key cache = {0};
    for (size_t i = 0; i < sizeof s3_examples / sizeof *s3_examples; i++)
        check(&s3_examples[i], &signer, "examplebucket.s3.amazonaws.com", 1369353600, &cache);
}

static void sign_simple(const struct sigv4_signer *signer, struct sigv4_key *cache, int64_t now,
                        char ret[512]) {
    char date[SIGV4_DATE_LEN + 1];
    sigv4_date(now, date);
    const struct sigv4_header headers[] = {{str_c("host"), str_c("h")},
                                           {str_c("x-amz-date"), str_c(date)}};
    const struct sigv4_request request = {.method = "GET",
                                          .path = STR("/"),
                                          .headers = headers,
                                          .n_headers = 2,
                                          .payload_sha256 = EMPTY_SHA256};
    struct buf out;
    buf_init(&out, 500);
    assert_true(sigv4_sign(&request, signer, cache, date, &out));
    snprintf(ret, 512, "%s", buf_cstr(&out));
    buf_free(&out);
}

/* A key kept past midnight or past a change of region signs with the wrong scope. */
static void cached_key_follows_day_and_region(void **state) {
    (void)state;
    struct sigv4_signer signer = {"AKID", "secret", "us-east-1", "s3"};
    struct sigv4_key kept = {0};
    const int64_t days[] = {1440938160, 1440938161, 1440938160 + 86400};
    const char *const regions[] = {"us-east-1", "eu-west-1", "us-east-1"};
    for (size_t d = 0; d < 3; d++)
        for (size_t r = 0; r < 3; r++) {
            char with_kept[512], with_fresh[512];
            struct sigv4_key fresh = {0};
            signer.region = regions[r];
            sign_simple(&signer, &kept, days[d], with_kept);
            sign_simple(&signer, &fresh, days[d], with_fresh);
            assert_string_equal(with_kept, with_fresh);
        }
}

/* The order is that of the encoded text: "%3A" stands before "-", "a" before "a-". */
static void query_is_sorted_as_it_is_sent(void **state) {
    (void)state;
    struct sigv4_param params[] = {{STR("a-"), STR("1")},       {STR("-"), STR("")},
                                   {STR("a"), STR("~")},        {STR(":x"), STR("/ +")},
                                   {STR("a"), STR("\xc3\xa9")}, {STR("a"), STR("A")}};
    struct buf out;
    buf_init(&out, 256);
    assert_true(sigv4_query(&out, params, sizeof params / sizeof *params));
    assert_string_equal(buf_cstr(&out), "%3Ax=%2F%20%2B&-=&a=%C3%A9&a=A&a=~&a-=1");
    buf_free(&out);
}

static void header_names_that_prefix_one_another(void **state) {
    (void)state;
    const struct sigv4_header headers[] = {
        {STR("x-amz-server-side-encryption-aws-kms-key-id"), STR("k")},
        {STR("X-Amz-Server-Side-Encryption"), STR("aws:kms")},
        {STR("host"), STR("h")},
    };
    const struct sigv4_signer signer = {"AKID", "secret", "us-east-1", "s3"};
    const struct sigv4_request request = {.method = "PUT",
                                          .path = STR("/"),
                                          .headers = headers,
                                          .n_headers = 3,
                                          .payload_sha256 = EMPTY_SHA256};
    struct sigv4_key cache = {0};
    struct buf out;
    buf_init(&out, 1024);
    assert_true(sigv4_sign(&request, &signer, &cache, "20150830T123600Z", &out));
    assert_non_null(strstr(buf_cstr(&out), "SignedHeaders=host;x-amz-server-side-encryption;"
                                           "x-amz-server-side-encryption-aws-kms-key-id, "));
    buf_free(&out);
}

static void bounds(void **state) {
    (void)state;
    struct sigv4_header headers[SIGV4_HEADERS_MAX + 1];
    for (size_t i = 0; i <= SIGV4_HEADERS_MAX; i++)
        headers[i] = (struct sigv4_header){STR("a"), STR("b")};
    struct sigv4_signer signer = {"AKID", "secret", "us-east-1", "s3"};
    struct sigv4_request request = {.method = "PUT",
                                    .path = STR("/"),
                                    .headers = headers,
                                    .n_headers = SIGV4_HEADERS_MAX + 1,
                                    .payload_sha256 = EMPTY_SHA256};
    struct sigv4_key cache = {0};
    struct buf out;
    buf_init(&out, 1024);
    buf_puts(&out, "kept");
    assert_false(sigv4_sign(&request, &signer, &cache, "20150830T123600Z", &out));
    request.n_headers = 1;
    char region[200];
    memset(region, 'r', sizeof region);
    region[sizeof region - 1] = '\0';
    signer.region = region;
    assert_false(sigv4_sign(&request, &signer, &cache, "20150830T123600Z", &out));
    signer.region = "r";
    out.max = 40; /* the value does not fit */
    assert_false(sigv4_sign(&request, &signer, &cache, "20150830T123600Z", &out));
    assert_int_equal(out.n, 4);
    buf_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(signs_the_published_suite),
        cmocka_unit_test(signs_the_s3_examples),
        cmocka_unit_test(cached_key_follows_day_and_region),
        cmocka_unit_test(query_is_sorted_as_it_is_sent),
        cmocka_unit_test(header_names_that_prefix_one_another),
        cmocka_unit_test(bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
