/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "tests/unit/json_cases.h"
#include "tests/unit/redact_run.h"
#include "worker/event/redact.h"

/* What a run with this tail looks like once redacted: the tail of it. */
static void assert_redacted(const char *tail, const char *want) {
    struct buf in;
    struct buf out;
    struct arena arena = {0};
    struct jobrun run;
    struct outcome err;
    buf_init(&in, 1 << 20);
    buf_init(&out, 1 << 20);
    buf_printf(&in, "%s,%s}", RUN_START, tail);
    if (!decode((struct str){in.p, in.n}, &arena, &run, &err))
        fail_msg("%s: %s %s", tail, err.why, err.detail);
    assert_true(redact_add(&out, &run.payload));
    assert_int_equal(out.n, redact_size(&run.payload));
    size_t start = strlen(RUN_START) + 1;
    if (out.n != start + strlen(want) + 1 || memcmp(out.p + start, want, strlen(want)) != 0)
        fail_msg("%s\n  became %s\n  not    %s", tail, buf_cstr(&out) + start, want);
    arena_free(&arena);
    buf_free(&in);
    buf_free(&out);
}

/* The form with the text in the place of its "%s". */
static void put(char to[static 1024], const char *form, const char *text) {
    const char *at = strstr(form, "%s");
    int n = snprintf(to, 1024, "%.*s%s%s", (int)(at - form), form, text, at + 2);
    assert_in_range(n, 0, 1023);
}

/* One URL: what stands in for it. */
static const struct {
    const char *url, *redacted;
} urls[] = {
    {"", ""},
    {"https://example.com/path", "https://example.com/path"},
    {"https://example.com", "https://example.com"},
    {"https://example.com:8443/a@b/c:d", "https://example.com:8443/a@b/c:d"},
    {"https://example.com/#token=secret", "https://example.com/#" R},
    {"https://example.com#", "https://example.com#"},
    {"https://user:pw@example.com/", "https://" R "@example.com/"},
    {"https://token@example.com/", "https://" R "@example.com/"},
    {"https://@example.com/", "https://@example.com/"},
    {"https://:@example.com/", "https://" R "@example.com/"},
    {"https://a@b:c@d@example.com:80/", "https://" R "@example.com:80/"},
    {"https://user:p%40w@[2001:db8::1]:80/", "https://" R "@[2001:db8::1]:80/"},
    {"https://user:pw@example.com", "https://" R "@example.com"},
    {"https://user:pw@", "https://" R "@"},
    {"HTTPS://user:pw@example.com/", "HTTPS://" R "@example.com/"},
    {"s3+http://user:pw@example.com/", "s3+http://" R "@example.com/"},
    {".http:/user@example.com/", ".http:/" R "@example.com/"}, /* fuzz_redact: curl takes it */
    {"//user:pw@example.com/", "//" R "@example.com/"},
    {"https:/user:pw@example.com/", "https:/" R "@example.com/"},
    {"https:///user:pw@example.com/", "https:///" R "@example.com/"},
    {"user:pw@example.com:8080", R "@example.com:8080"},
    {"user@example.com", R "@example.com"},
    {"example.com:8080", "example.com:8080"},
    {"http:user:pw@example.com/", R "@example.com/"},
    {"https://h/?a=secret", "https://h/?a=" R},
    {"https://h/?a=secret&b=other", "https://h/?a=" R "&b=" R},
    {"https://h?a=secret", "https://h?a=" R},
    {"https://h/?a=b=c", "https://h/?a=" R},
    {"https://h/?a=secret#frag", "https://h/?a=" R},
    {"https://h/#frag?a=secret&b", "https://h/#" R},
    {"https://h/?a=secret?b=other", "https://h/?a=" R},
    {"https://h/?a=secret;b=other", "https://h/?a=" R},
    {"https://h/?token", "https://h/?" R},
    {"https://h/?token#a=b", "https://h/?" R}, /* fuzz_redact found it to keep the token */
    {"https://h/?a=b&token#c=d&e=f", "https://h/?a=" R "&" R},
    {"https://h/?a=#b", "https://h/?" R},
    {"https://h/?a=b#c&d=e", "https://h/?a=" R},
    {"https://h/?token&a=b", "https://h/?" R "&a=" R},
    {"https://h/?dG9rZW4=", "https://h/?" R},
    {"https://h/?dG9rZW4==", "https://h/?" R},
    {"https://h/?a==x", "https://h/?a=" R},
    {"https://h/?=x", "https://h/?=" R},
    {"https://h/?&&a=b&", "https://h/?&&a=" R "&"},
    {"https://h/?", "https://h/?"},
    {"https://u:p@h/?a=b", "https://" R "@h/?a=" R},
    {"db_postgres://u:p@h/", "db_postgres://" R "@h/"},
    /* A URL in another's path: a list in one string, or a proxy's. */
    {"amqp://h1/v,amqp://u:p@h2/v", "amqp://h1/v,amqp://" R "@h2/v"},
    {"https://u:p@h/x;https://v:q@k/y|s3+z://w@l?a=b&c=d#e",
     "https://" R "@h/x;https://" R "@k/y|s3+z://" R "@l?a=" R "&c=" R},
    {"https://h/fit/https://k:80/a@b//c", "https://h/fit/https://k:80/a@b//c"},
    {"https://h/http://k/http://u:p@l#f", "https://h/http://k/http://" R "@l#" R},
    {"https://h/,https://u:p/w@k/", "https://h/,https://" R},
    {"https://h/,://u,https://", "https://h/,://u,https://"},
    {"h/x,https://u:p@k", "h/x,https://" R "@k"},
    {"https://h/?a=https://u:p@k/&b=c", "https://h/?a=" R "&b=" R},
    /* No host and port: nothing is kept, since anything may be a password. */
    {"https://user:pa/ss@example.com/", "https://" R},
    {"https://user:pa?ss@example.com/", "https://" R},
    {"https://user:pa#ss@example.com/", "https://" R},
    {"http://example.com:8080:user:pw", "http://" R},
    {"example.com:8080:user:pw", R},
    {"https://user:pw%40example.com/", "https://" R},
    {"https://user%3apw%40example.com/", "https://" R},
    {"https://user:pw@exa mple.com/", "https://" R},
    {" https://user:pw@example.com/", R},
    {"https://user:pw\xef\xbc\xa0"
     "example.com/",
     "https://" R},
    {"https://user:pw@[::1/", "https://" R},
    {"https://user:pw@[::1]x/", "https://" R},
    {"https://h:123456/", "https://" R},
    {"not a url", R},
};

static void each_url(void **state) {
    (void)state;
    for (size_t i = 0; i < LEN(urls); i++) {
        static const char *const places[] = {
            "\"jobConfigurationSnapshot\":{\"sink\":{\"url\":\"%s\"}}",
            "\"job_configuration_snapshot\":{\"sink\":{\"endpoint\":\"%s\"}}",
            "\"jobConfigurationSnapshot\":{\"proxy\":{\"version\":\"v1\",\"url\":\"%s\"}}",
            "\"jobConfigurationSnapshot\":{\"proxy\":\"%s\"}",
            "\"jobConfigurationSnapshot\":{},\"proxy\":\"%s\"",
            "\"proxy\":{\"url\":\"%s\"},\"jobConfigurationSnapshot\":{}",
            "\"results\":{\"signed_url\":\"%s\"},\"jobConfigurationSnapshot\":{}",
            "\"results\":[{\"signedUrl\":\"%s\"}],\"jobConfigurationSnapshot\":{}",
        };
        for (size_t k = 0; k < LEN(places); k++) {
            char tail[1024];
            char want[1024];
            put(tail, places[k], urls[i].url);
            put(want, places[k], urls[i].redacted);
            assert_redacted(tail, want);
        }
    }
}

/* A URL written with escapes is taken apart as exactly as one without. */
static void escaped_urls(void **state) {
    (void)state;
    static const struct {
        const char *url, *redacted;
    } cases[] = {
        {"https:\\/\\/user:pw@h\\/?a=b", "https:\\/\\/" R "@h\\/?a=" R},
        {"https://user:pw\\u0040h/", "https://" R "\\u0040h/"},
        {"https://h/\\u003fa\\u003dsecret\\u0026b=c", "https://h/\\u003fa\\u003d" R "\\u0026b=" R},
        {"\\u0068ttps://us\\u0065r:\\ud83d\\ude00@h/", "\\u0068ttps://" R "@h/"},
        {"https://h/\\u00e9?a=\\u00e9\\n", "https://h/\\u00e9?a=" R},
        {"https://user:pw\\\\@h/", "https://" R "@h/"},
        {"https://h\\\\@evil/", "https://" R "@evil/"},
        {"https:\\\\\\\\user:pw@h/", R "@h/"},
        {"https://h/?a=\\ud800", R},
        {"https://ho\\u0000st/", "https://" R},
    };
    for (size_t i = 0; i < LEN(cases); i++) {
        char tail[512];
        char want[512];
        snprintf(tail, sizeof tail, "\"jobConfigurationSnapshot\":{\"proxy\":\"%s\"}",
                 cases[i].url);
        snprintf(want, sizeof want, "\"jobConfigurationSnapshot\":{\"proxy\":\"%s\"}",
                 cases[i].redacted);
        assert_redacted(tail, want);
    }
}

static void each_secret(void **state) {
    (void)state;
    static const struct {
        const char *sink, *redacted;
    } cases[] = {
        {"\"accessKeyId\":\"S\"", "\"accessKeyId\":\"" R "\""},
        {"\"access_key_id\":\"S\"", "\"access_key_id\":\"" R "\""},
        {"\"secretAccessKey\" : \"S\\\"\\\\\"", "\"secretAccessKey\" : \"" R "\""},
        {"\"secret_access_key\":\"S\\u0041\"", "\"secret_access_key\":\"" R "\""},
        {"\"sessionToken\":\"S\"", "\"sessionToken\":\"" R "\""},
        {"\"session_token\":\"S\"", "\"session_token\":\"" R "\""},
        {"\"s\\u0065ssion\\u005ftoken\":\"S\"", "\"s\\u0065ssion\\u005ftoken\":\"" R "\""},
        {"\"accessKeyId\":\"S\",\"accessKeyId\":\"T\",\"access_key_id\":\"U\"",
         "\"accessKeyId\":\"" R "\",\"accessKeyId\":\"" R "\",\"access_key_id\":\"" R "\""},
        {"\"accessKeyId\":\"\"", "\"accessKeyId\":\"\""},
        {"\"accessKeyId\":null", "\"accessKeyId\":null"},
        {"\"url\":null,\"headers\":null", "\"url\":null,\"headers\":null"},
        {"\"headers\":{}", "\"headers\":{}"},
        {"\"headers\":{\"Authorization\":\"S\",\"X\":\"\\u0053\"}",
         "\"headers\":{\"Authorization\":\"" R "\",\"X\":\"" R "\"}"},
        {"\"headers\":{\"Content-Type\":\"a/b\",\"ACCEPT\":\"c\",\"cont\\u0065nt-type\":\"d\"}",
         "\"headers\":{\"Content-Type\":\"a/b\",\"ACCEPT\":\"c\",\"cont\\u0065nt-type\":\"d\"}"},
        {"\"headers\":{\"Accept \":\"S\",\"Accept-X\":\"S\",\"\":\"S\",\"Content_Type\":\"S\"}",
         "\"headers\":{\"Accept \":\"" R "\",\"Accept-X\":\"" R "\",\"\":\"" R
         "\",\"Content_Type\":\"" R "\"}"},
        /* A pasted line, in the place of a name. */
        {"\"headers\":{\"Authorization: Bearer S\":\"\",\"X-\\u0041:S\":\"T\",\"Bearer "
         "S\":\"T\",\"A:\":\"\"}",
         "\"headers\":{\"" R "\":\"\",\"" R "\":\"" R "\",\"" R "\":\"" R "\",\"A:\":\"\"}"},
        {"\"headers\":{\"A\":\"S\"},\"headers\":{\"A\":\"T\"}",
         "\"headers\":{\"A\":\"" R "\"},\"headers\":{\"A\":\"" R "\"}"},
        /* What is not on the list of what is open is secret, whatever it is called. */
        {"\"AccessKeyId\":\"a\",\"x\":{\"accessKeyId\":\"b\",\"url\":\"c://d:e@f\"}",
         "\"AccessKeyId\":\"" R "\",\"x\":{\"accessKeyId\":\"" R "\",\"url\":\"" R "\"}"},
        {"\"password\":\"S\",\"signingSecret\":\"S\",\"x\":[\"S\",1,true,[\"S\"]]",
         "\"password\":\"" R "\",\"signingSecret\":\"" R "\",\"x\":[\"" R "\",1,true,[\"" R "\"]]"},
        /* Numbers and booleans whose name says it are, and no others; what is no value is none. */
        {"\"password\": "
         "123456789012,\"pin\":-1.5e3,\"token\":{\"y\":false,\"z\":null,\"l\":[],\"o\":{}}",
         "\"password\": \"" R "\",\"pin\":\"" R "\",\"token\":{\"y\":\"" R
         "\",\"z\":null,\"l\":[],\"o\":{}}"},
        {"\"skipOnFail\":0,\"bucket\":1234567,\"region\":[true],\"port\":9092,\"x\":{\"y\":1e400}",
         "\"skipOnFail\":0,\"bucket\":1234567,\"region\":[true],\"port\":9092,\"x\":{\"y\":1e400}"},
        {"\"bucket\":\"b\",\"region\":\"r\",\"prefix\":\"p\",\"skipOnFail\":false",
         "\"bucket\":\"b\",\"region\":\"r\",\"prefix\":\"p\",\"skipOnFail\":false"},
        {"\"apisToSend\":[\"one\"],\"path\":\"folder\"",
         "\"apisToSend\":[\"" R "\"],\"path\":\"" R "\""},
    };
    static const char *const parents[] = {"jobConfigurationSnapshot", "job_configuration_snapshot",
                                          "j\\u006fbConfigurationSnapshot"};
    for (size_t i = 0; i < LEN(cases); i++)
        for (size_t k = 0; k < LEN(parents); k++) {
            char tail[1024];
            char want[1024];
            snprintf(tail, sizeof tail, "\"%s\":{\"sink\":{\"type\":\"x\",%s}}", parents[k],
                     cases[i].sink);
            snprintf(want, sizeof want, "\"%s\":{\"sink\":{\"type\":\"x\",%s}}", parents[k],
                     cases[i].redacted);
            assert_redacted(tail, want);
        }
}

#define SNAPSHOT "\"jobConfigurationSnapshot\":"
#define S3SINK(secret) "\"sink\":{\"type\":\"s3\",\"secretAccessKey\":\"" secret "\"}"

/* Where else secrets stand: by place, by name, by value. */
static void secrets_elsewhere(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        /* By place. */
        {SNAPSHOT "{\"notifications\":[{\"type\":\"webhook\",\"url\":\"https://u:p@n/x?token=S\","
                  "\"headers\":{\"Authorization\":\"S\",\"Accept\":\"a\"},\"key\":\"S\"},\"S\"]}",
         SNAPSHOT "{\"notifications\":[{\"type\":\"webhook\",\"url\":\"https://" R "@n/x?token=" R
                  "\",\"headers\":{\"Authorization\":\"" R "\",\"Accept\":\"a\"},\"key\":\"" R
                  "\"},\"" R "\"]}"},
        {SNAPSHOT
         "{\"configuration\":{\"proxy\":\"http://u:p@h:1\",\"x\":[\"see http://u:p@h/#f or\"],"
         "\"maxRuns\":3,\"endpoint\":\"u:p@h:1\"},\"authSession\":{\"id\":\"a:b\"}}",
         SNAPSHOT "{\"configuration\":{\"proxy\":\"http://" R "@h:1\",\"x\":[\"see http://" R
                  "@h/#" R " or\"],\"maxRuns\":3,\"endpoint\":\"" R
                  "@h:1\"},\"authSession\":{\"id\":\"a:b\"}}"},
        {"\"apiInfo\":{\"name\":\"n\",\"trace_url\":\"http://h/?a=S\",\"log_url\":\"http://h/"
         "?a=S\"}," SNAPSHOT "{}",
         "\"apiInfo\":{\"name\":\"n\",\"trace_url\":\"http://h/?a=" R
         "\",\"log_url\":\"http://h/?a=" R "\"}," SNAPSHOT "{}"},
        {"\"copy\":{" SNAPSHOT "{" S3SINK("one") ",\"proxy\":\"http://u:p@h\"}}," SNAPSHOT "{}",
         "\"copy\":{" SNAPSHOT "{" S3SINK(R) ",\"proxy\":\"http://" R "@h\"}}," SNAPSHOT "{}"},
        /* Nothing is delivered to such a sink, so nothing in it is refused. */
        {"\"copy\":{\"sink\":{\"url\":5,\"headers\":[\"S\"],\"accessKeyId\":{\"a\":\"S\"}}}"
         "," SNAPSHOT "{}",
         "\"copy\":{\"sink\":{\"url\":5,\"headers\":[\"" R "\"],\"accessKeyId\":{\"a\":\"" R
         "\"}}}," SNAPSHOT "{}"},
        /* By name. */
        {"\"a\":{\"password\":\"S\",\"X-Api-Key\":\"S\",\"api_key\":[\"S\",{\"b\":\"S\"}],"
         "\"TOKEN\":1,"
         "\"githubToken\":\"S\",\"p\\u0061ssword\":\"S\",\"tok\":\"t\"}," SNAPSHOT "{}",
         "\"a\":{\"password\":\"" R "\",\"X-Api-Key\":\"" R "\",\"api_key\":[\"" R "\",{\"b\":\"" R
         "\"}],\"TOKEN\":1,\"githubToken\":\"" R "\",\"p\\u0061ssword\":\"" R
         "\",\"tok\":\"t\"}," SNAPSHOT "{}"},
        {"\"a\":{\"DB_PASS\":\"S\",\"dbPass\":\"S\",\"PGPASSWORD\":\"S\",\"pass\":\"S\",\"DBPass\":"
         "\"S\","
         "\"passed\":\"S\",\"compass\":\"S\",\"COMPASS\":\"S\",\"passRate\":\"S\"}," SNAPSHOT "{}",
         "\"a\":{\"DB_PASS\":\"" R "\",\"dbPass\":\"" R "\",\"PGPASSWORD\":\"" R "\",\"pass\":\"" R
         "\",\"DBPass\":\"" R
         "\",\"passed\":\"S\",\"compass\":\"S\",\"COMPASS\":\"S\",\"passRate\":\"S\"}," SNAPSHOT
         "{}"},
        {"\"a\":{\"cookie\":\"S\",\"set-cookie\":\"S\",\"jwt\":\"S\",\"bearer\":\"S\","
         "\"sessionid\":\"S\","
         "\"basicAuth\":\"S\",\"auth\":\"S\",\"author\":\"S\",\"authSession\":\"S\","
         "\"authSessionId\":\"S\"}," SNAPSHOT "{}",
         "\"a\":{\"cookie\":\"" R "\",\"set-cookie\":\"" R "\",\"jwt\":\"" R "\",\"bearer\":\"" R
         "\",\"sessionid\":\"" R "\",\"basicAuth\":\"" R "\",\"auth\":\"" R
         "\",\"author\":\"S\",\"authSession\":\"S\",\"authSessionId\":\"S\"}," SNAPSHOT "{}"},
        {"\"a\":{\"pwd\":\"S\",\"otp\":\"S\",\"pin\":\"S\",\"cardPin\":\"S\",\"signing_key\":\"S\","
         "\"encryptionKey\":\"S\",\"webhookKey\":\"S\",\"connectionString\":\"S\",\"pinned\":\"S\","
         "\"spin\":\"S\",\"key\":\"S\",\"keyboard\":\"S\",\"laptop\":\"S\"}," SNAPSHOT "{}",
         "\"a\":{\"pwd\":\"" R "\",\"otp\":\"" R "\",\"pin\":\"" R "\",\"cardPin\":\"" R
         "\",\"signing_key\":\"" R "\",\"encryptionKey\":\"" R "\",\"webhookKey\":\"" R
         "\",\"connectionString\":\"" R "\",\"pinned\":\"S\",\"spin\":\"S\",\"key\":\"S\","
         "\"keyboard\":\"S\",\"laptop\":\"S\"}," SNAPSHOT "{}"},
        /* A name that stands in a value beside its own. */
        {"\"env\":[{\"name\":\"PASSWORD\",\"value\":\"S\"},{\"name\":\"x\",\"value\":\"S\"},"
         "{\"Key\":\"api_key\",\"Value\":[\"S\",{\"n\":\"S\"}]},{\"key\":\"k\",\"value\":\"S\"}]"
         "," SNAPSHOT "{}",
         "\"env\":[{\"name\":\"PASSWORD\",\"value\":\"" R "\"},{\"name\":\"x\",\"value\":\"S\"},"
         "{\"Key\":\"api_key\",\"Value\":[\"" R "\",{\"n\":\"" R
         "\"}]},{\"key\":\"k\",\"value\":\"S\"}]," SNAPSHOT "{}"},
        {"\"env\":[{\"value\":\"S\",\"x\":{\"name\":\"y\"},\"name\":\"DB_PASS\"},{\"value\":\"S\"},"
         "{\"name\":\"PASSWORD\",\"x\":{\"value\":\"S\"},\"value\":\"S\"}]," SNAPSHOT "{}",
         "\"env\":[{\"value\":\"" R
         "\",\"x\":{\"name\":\"y\"},\"name\":\"DB_PASS\"},{\"value\":\"S\"},"
         "{\"name\":\"PASSWORD\",\"x\":{\"value\":\"S\"},\"value\":\"" R "\"}]," SNAPSHOT "{}"},
        {SNAPSHOT "{\"env\":[{\"value\":\"see http://u:p@h/?a=b&c=d or\",\"u\":\"http://u:p@h\","
                  "\"n\\u0061me\":\"p\\u0061ssword\"},{\"value\":\"\",\"name\":\"pwd\"}]}",
         SNAPSHOT "{\"env\":[{\"value\":\"" R "\",\"u\":\"http://" R
                  "@h\",\"n\\u0061me\":\"p\\u0061ssword\"},{\"value\":\"\",\"name\":\"pwd\"}]}"},
        {"\"m\":\"of the pair: "
         "0f-a-pair\",\"p\":{\"value\":\"0f-a-pair\",\"key\":\"token\"}," SNAPSHOT "{}",
         "\"m\":\"of the pair: " R "\",\"p\":{\"value\":\"" R "\",\"key\":\"token\"}," SNAPSHOT
         "{}"},
        /* A proxy in parts, in lists, without a scheme. */
        {SNAPSHOT
         "{\"configuration\":{\"proxy\":{\"server\":\"http://h:1\",\"user\":\"S\",\"pass\":7,"
         "\"bypass\":\"b\"}},\"proxy\":{\"version\":\"v1\",\"username\":\"S\",\"password\":\"S\"}}",
         SNAPSHOT "{\"configuration\":{\"proxy\":{\"server\":\"http://h:1\",\"user\":\"" R
                  "\",\"pass\":\"" R
                  "\",\"bypass\":\"b\"}},\"proxy\":{\"version\":\"v1\",\"username\":\"" R
                  "\",\"password\":\"" R "\"}}"},
        {SNAPSHOT
         "{\"proxies\":[\"user:pw@host:80\",{\"url\":\"user:pw@h\",\"login\":\"S\"},[\"h:80\"]],"
         "\"auth\":\"user:pw\",\"note\":\"by user:pw@host:80, mailto:me@h, me@h and 12:30\"}",
         SNAPSHOT "{\"proxies\":[\"" R "@host:80\",{\"url\":\"" R "@h\",\"login\":\"" R
                  "\"},[\"h:80\"]],\"auth\":\"" R "\",\"note\":\"by " R
                  "@host:80, mailto:me@h, me@h and 12:30\"}"},
        {"\"reason\":{\"docUrl\":\"https://u:p@d/r?t=S#top\"}," SNAPSHOT
         "{\"image\":\"h:5000/i@sha256:0\"}",
         "\"reason\":{\"docUrl\":\"https://u:p@d/r?t=S#top\"}," SNAPSHOT
         "{\"image\":\"h:5000/i@sha256:0\"}"},
        {"\"m\":\"is 123456789012\"," SNAPSHOT "{\"sink\":{\"password\":123456789012,\"n\":7}}",
         "\"m\":\"is " R "\"," SNAPSHOT "{\"sink\":{\"password\":\"" R "\",\"n\":7}}"},
        /* By value: before and behind the sink, in any spelling, and in it. */
        {"\"error\":{\"message\":\"key wJa/rX is bad, wJa/rX\"}," SNAPSHOT
         "{" S3SINK("wJa/rX") "},\"reason\":{\"message\":\"wJ\\u0061\\/rX\"}",
         "\"error\":{\"message\":\"key " R " is bad, " R "\"}," SNAPSHOT
         "{" S3SINK(R) "},\"reason\":{\"message\":\"" R "\"}"},
        {"\"x\":\"wJa/rX\"," SNAPSHOT "{" S3SINK("\\u0077Ja\\/rX") "}",
         "\"x\":\"" R "\"," SNAPSHOT "{" S3SINK(R) "}"},
        {SNAPSHOT
         "{\"sink\":{\"bucket\":\"x-12345678\",\"accessKeyId\":\"12345678\"}},\"n\":12345678,"
         "\"12345678\":[12345678]",
         SNAPSHOT "{\"sink\":{\"bucket\":\"x-" R "\",\"accessKeyId\":\"" R
                  "\"}},\"n\":12345678,\"12345678\":[12345678]"},
        {"\"AKIAIOSFODNN7EXAMPLE\":1," SNAPSHOT
         "{\"sink\":{\"accessKeyId\":\"AKIAIOSFODNN7EXAMPLE\"}}",
         "\"" R "\":1," SNAPSHOT "{\"sink\":{\"accessKeyId\":\"" R "\"}}"},
        {"\"m\":\"tok3n-of-mine, us/er, dTp0b2szbi1vZi1taW5lLTI=\"," SNAPSHOT
         "{\"sink\":{\"url\":\"https://h/?a=us%2Fer\",\"headers\":{\"Authorization\":\"Bearer "
         "tok3n-of-mine\"}},\"proxy\":\"http://u:tok3n-of-mine-2@p\"}",
         "\"m\":\"" R ", us/er, " R "\"," SNAPSHOT "{\"sink\":{\"url\":\"https://h/?a=" R
         "\",\"headers\":{\"Authorization\":\"" R "\"}},\"proxy\":\"http://" R "@p\"}"},
        /* Wrapped in a header, and out of its wrapping elsewhere. */
        {"\"m\":\"s1dOf/me+2, and words enough; t0kens, 2024-01-01T00:00:00Z\"," SNAPSHOT
         "{\"sink\":{\"headers\":{\"Cookie\":\"a=words; sid=\\u00731dOf/me+2==; theme=dark\","
         "\"X-Since\":\"a=2024-01-01T00:00:00Z, words enough to see\"}}}",
         "\"m\":\"" R ", and words enough; t0kens, 2024-01-01T00:00:00Z\"," SNAPSHOT
         "{\"sink\":{\"headers\":{\"Cookie\":\"" R "\",\"X-Since\":\"" R "\"}}}"},
        /* The open headers' values are open, but for what is a secret elsewhere in the sink. */
        {SNAPSHOT "{\"sink\":{\"headers\":{\"Content-Type\":\"a/b; token=T0kenOfMine\","
                  "\"Accept\":\"T0kenOfMine\",\"X-Sig\":\"v1=T0kenOfMine\"}}}",
         SNAPSHOT "{\"sink\":{\"headers\":{\"Content-Type\":\"a/b; token=" R "\",\"Accept\":\"" R
                  "\",\"X-Sig\":\"" R "\"}}}"},
        /* An escape that a value reaches into, and one that it does not end in. */
        {"\"m\":\"\\u00410041BCDEFG\"," SNAPSHOT "{" S3SINK("0041BCDEFG") "}",
         "\"m\":\"\\u0041" R "\"," SNAPSHOT "{" S3SINK(R) "}"},
        {"\"m\":\"\\u0041BCDEFGH\"," SNAPSHOT "{" S3SINK("0041BCDEFG") "}",
         "\"m\":\"\\u0041BCDEFGH\"," SNAPSHOT "{" S3SINK(R) "}"},
        /* A value that looks like JSON stands in no structure. */
        {"\"m\":\"a\",\"b\":\"\\\",\\\"b\\\":\\\"\"," SNAPSHOT
         "{" S3SINK("\\\",\\\"b\\\":\\\"") "}",
         "\"m\":\"a\",\"b\":\"" R "\"," SNAPSHOT "{" S3SINK(R) "}"},
        /* Short ones, and the model's own words, are no secrets where they stand by chance. */
        {"\"m\":\"short SUCCESS\"," SNAPSHOT
         "{\"sink\":{\"accessKeyId\":\"short\",\"x\":\"SUCCESS\"}}",
         "\"m\":\"short SUCCESS\"," SNAPSHOT "{\"sink\":{\"accessKeyId\":\"" R "\",\"x\":\"" R
         "\"}}"},
        /* Those that overlap are one. */
        {"\"m\":\"-abcdefghi-\"," SNAPSHOT "{\"sink\":{\"a\":\"abcdef\",\"b\":\"defghi\"}}",
         "\"m\":\"-" R "-\"," SNAPSHOT "{\"sink\":{\"a\":\"" R "\",\"b\":\"" R "\"}}"},
    };
    for (size_t i = 0; i < LEN(cases); i++) assert_redacted(cases[i][0], cases[i][1]);
}

/* A string below the snapshot that may hold URLs, and what stands around them. */
static void urls_in_text(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        /* An apostrophe is a character of URLs (RFC 3986). */
        {"postgres://us:pw'S@h/p", "postgres://" R "@h/p"},
        {"http://us'S@h/p'q", "http://" R "@h/p'q"},
        {"see http://h/p'q?a='S' or", "see http://h/p'q?a=" R " or"},
        {"http://h/#tok='S'", "http://h/#" R},
        {"it's http://u:p'S@h/?a='S&b=S it's", "it's http://" R "@h/?a=" R "&b=" R " it's"},
        {"'http://u:p'S@h/p", "'http://" R "@h/p"},
        {"'http://h/?a=S'S", "'http://h/?a=" R},
        /* Behind another one it closes a quotation, when nothing but punctuation follows. */
        {"url='http://u:p@h/?a=b'", "url='http://" R "@h/?a=" R "'"},
        {"{'a': 'http://h:80/?a=b'}, 'c': 'd@e'", "{'a': 'http://h:80/?a=" R "'}, 'c': 'd@e'"},
        {"['http://h1:80', 'http://h2:80']", "['http://h1:80', 'http://h2:80']"},
        {"('see http://h:80');", "('see http://h:80');"},
        {"'http://h/p','http://u:p@k/?a=b','c'", "'http://h/p','http://" R "@k/?a=" R "'"},
        /* These are none. */
        {"<http://u:p@h/?a=b>, \\\"http://u@h/?a=b\\\"!",
         "<http://" R "@h/?a=" R ">, \\\"http://" R "@h/?a=" R "\\\"!"},
        {"http://h/?a=b\\tc\\u0000d", "http://h/?a=" R "\\tc\\u0000d"},
        /* Lists. */
        {"amqp://h1/v,amqp://u:S@h2/v", "amqp://h1/v,amqp://" R "@h2/v"},
        {"h1:1,amqp://u:S@h2/v/amqp://u:S@h3?a=S", "h1:1,amqp://" R "@h2/v/amqp://" R "@h3?a=" R},
        {"amqp://h1,amqp://u:S@h2", "amqp://" R},
        {"https://h/p?x=1,https://u:S@k/", "https://h/p?x=" R},
        {"a_postgres://u:S@h/p", "a_postgres://" R "@h/p"},
        /* Half of a surrogate pair is no reason to look no further. */
        {"\\ud800 http://u:S@h/?a=S\\udc00S&b=S \\ud800",
         "\\ud800 http://" R "@h/?a=" R "&b=" R " \\ud800"},
        {"http://u:\\ud800S@h/", "http://" R "@h/"},
        {"http\\u003a//u\\ud800\\u003aS@h/\\ud800", "http\\u003a//" R "@h/\\ud800"},
    };
    static const char form[] = SNAPSHOT "{\"configuration\":{\"database\":[\"%s\"]}}";
    for (size_t i = 0; i < LEN(cases); i++) {
        char tail[512], want[512];
        snprintf(tail, sizeof tail, form, cases[i][0]);
        snprintf(want, sizeof want, form, cases[i][1]);
        assert_redacted(tail, want);
    }
}

/* What Basic encodes is a secret by itself, as leniently as servers read the header. */
static void basic_in_headers(void **state) {
    (void)state;
    static const char *const lines[] = {
        /* "u:of-basic?>~", in both alphabets */
        "\"A\":\"Basic dTpvZi1iYXNpYz8+fg==\"",
        "\"A\":\"basic dTpvZi1iYXNpYz8+fg==\"",
        "\"A\":\"BASIC dTpvZi1iYXNpYz8+fg==\"",
        "\"A\":\"bASIC dTpvZi1iYXNpYz8+fg==\"",
        "\"A\":\"Basic dTpvZi1iYXNpYz8+fg\"",
        "\"A\":\"Basic dTpvZi1iYXNpYz8-fg=\"",
        "\"A\":\"Basic dTpvZi1iYXNpYz8+fh==\"", /* stray bits */
        "\"A\":\"Basic dTpv.Zi1iYXNpYz8+fg\"",
        "\"A\":\"  Basic  dTpvZi1iYXNpYz8+fg== \"",
        "\"A\":\"Basic\\tdTpvZi1iYXNpYz8+fg==\\t\"",
        "\"A\":\"Basic \\\"dTpvZi1iYXNpYz8+fg==\\\"\"",
        "\"A\":\"Basic dTpvZi1iYXNpYz8+fg==, Bearer x\"",
        "\"A\":\"Basic x dTpvZi1iYXNpYz8+fg==\"",
        "\"A\":\"Basic%20dTpvZi1iYXNpYz8%2Bfg%3D%3D\"",
        "\"A\":\"Authorization:Basic dTpvZi1iYXNpYz8+fg==\"",
        /* In the place of a name. */
        "\"Authorization: BASIC dTpvZi1iYXNpYz8+fg\":\"\"",
        "\"Basic dTpvZi1iYXNpYz8+fg==\":\"\"",
        "\"Authorization bAsic dTpvZi1iYXNpYz8+fg==\":\"\"",
    };
    static const char form[] =
        "\"m\":\"u:%s, %s\"," SNAPSHOT "{\"notifications\":[{\"headers\":{%s}}]}";
    for (size_t i = 0; i < LEN(lines); i++) {
        char tail[512], want[512];
        snprintf(tail, sizeof tail, form, "of-basic?>~", "of-basic?>~", lines[i]);
        bool name = lines[i][1] != 'A' || lines[i][2] != '"';
        snprintf(want, sizeof want,
                 "\"m\":\"" R ", " R "\"," SNAPSHOT
                 "{\"notifications\":[{\"headers\":{\"%s\":\"%s\"}}]}",
                 name ? R : "A", name ? "" : R);
        assert_redacted(tail, want);
    }
}

/* What follows a header's scheme, and its last word, with blanks of any kind around. */
static void blanks_in_headers(void **state) {
    (void)state;
    static const char *const values[] = {"Bearer onlywords", "Bearer onlywords ",
                                         "\\tBearer  onlywords", "Bearer\\tonlywords",
                                         " onlywords"};
    for (size_t i = 0; i < LEN(values); i++) {
        static const char form[] =
            "\"m\":\"%s\"," SNAPSHOT "{\"sink\":{\"headers\":{\"A\":\"%s\"}}}";
        char tail[512], want[512];
        snprintf(tail, sizeof tail, form, "x-onlywords", values[i]);
        snprintf(want, sizeof want, form, "x-" R, R);
        assert_redacted(tail, want);
    }
    /* A pasted line with half of a surrogate pair. */
    assert_redacted(SNAPSHOT "{\"notifications\":[{\"headers\":{\"A: S\\ud800\":\"S\"}}]}",
                    SNAPSHOT "{\"notifications\":[{\"headers\":{\"" R "\":\"" R "\"}}]}");
}

/* A pair is one in either order, whatever its value is and what stands between and around. */
static void pairs_in_any_order(void **state) {
    (void)state;
    static const char *const values[][2] = {
        {"\"S\"", "\"" R "\""},
        {"{\"v\":\"S\"}", "{\"v\":\"" R "\"}"},
        {"[\"S\",1,null,[\"\",{\"v\":[\"\\u0053\\ud800\",true]}] ]",
         "[\"" R "\",1,null,[\"\",{\"v\":[\"" R "\",true]}] ]"},
        {"{\"url\":\"http://u:p@h/?a=b&c=d\",\"t\":\"see http://u@h or\"}",
         "{\"url\":\"" R "\",\"t\":\"" R "\"}"},
        {"{\"sink\":{\"headers\":{\"A\":\"S\",\"Accept\":\"S\"},\"type\":\"S\"},\"pin\":7}",
         "{\"sink\":{\"headers\":{\"A\":\"" R "\",\"Accept\":\"" R "\"},\"type\":\"" R
         "\"},\"pin\":7}"},
        {"{\"value\":[\"S\"],\"name\":\"token\"}", "{\"value\":[\"" R "\"],\"name\":\"" R "\"}"},
        {"{\"name\":\"token\",\"value\":{\"value\":\"S\",\"key\":\"pwd\"}}",
         "{\"name\":\"" R "\",\"value\":{\"value\":\"" R "\",\"key\":\"" R "\"}}"},
        {"7", "7"},
        {"null", "null"},
        {"{}", "{}"},
    };
    static const char *const orders[] = {
        "{\"name\":\"DB_PASS\",\"value\":%s}",
        "{\"value\":%s,\"name\":\"DB_PASS\"}",
        "{\"Value\": %s "
        ",\"x\":{\"name\":\"y\",\"value\":\"open\"},\"k\\u0065y\":\"p\\u0061ssword\"}",
        "{\"value\":[{\"v\":0},{\"w\":\"o\"}],\"u\":\"http://h/"
        "\",\"name\":\"x\",\"y\":{\"value\":%s,\"key\":\"pwd\"}}",
        "[{\"value\":\"open\",\"name\":\"x\"},[{\"value\":%s,\"name\":\"x\",\"name\":\"token\"}],{"
        "\"value\":\"open\"}]",
    };
    static const char *const places[] = {"\"env\":%s," SNAPSHOT "{}", SNAPSHOT "{\"env\":%s}",
                                         SNAPSHOT "{" S3SINK(R) "},\"apiInfo\":{\"env\":[%s]}"};
    for (size_t i = 0; i < LEN(values); i++)
        for (size_t k = 0; k < LEN(orders); k++)
            for (size_t l = 0; l < LEN(places); l++) {
                char text[2][2][1024];
                for (int is = 0; is < 2; is++) {
                    put(text[is][0], orders[k], values[i][is]);
                    put(text[is][1], places[l], text[is][0]);
                }
                assert_redacted(text[0][1], text[1][1]);
            }
}

/* Which of two values counts is in doubt: both are hidden, when a name says so, and none when not.
 */
static void pairs_with_two_values(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"{\"value\":\"S\",\"value\":[\"S\"],\"name\":\"token\"}",
         "{\"value\":\"" R "\",\"value\":[\"" R "\"],\"name\":\"token\"}"},
        {"{\"value\":{\"a\":\"S\"},\"name\":\"token\",\"name\":\"x\",\"value\":\"S\"}",
         "{\"value\":{\"a\":\"" R "\"},\"name\":\"token\",\"name\":\"x\",\"value\":\"" R "\"}"},
        {"{\"value\":\"open\",\"value\":[\"open\"],\"name\":\"x\"}",
         "{\"value\":\"open\",\"value\":[\"open\"],\"name\":\"x\"}"},
    };
    for (size_t i = 0; i < LEN(cases); i++) {
        char text[2][1024];
        for (int is = 0; is < 2; is++) put(text[is], "\"env\":%s," SNAPSHOT "{}", cases[i][is]);
        assert_redacted(text[0], text[1]);
    }
    /* What was hidden late is looked for as well. */
    assert_redacted("\"m\":\"of the pair: 0f-a-pair\",\"p\":{\"value\":{\"v\":\"0f-a-pair\"},"
                    "\"key\":\"token\"}," SNAPSHOT "{},\"e\":\"0f-a-pair\"",
                    "\"m\":\"of the pair: " R "\",\"p\":{\"value\":{\"v\":\"" R "\"},"
                    "\"key\":\"token\"}," SNAPSHOT "{},\"e\":\"" R "\"");
}

/* As many values as a tenant likes, in as much text: what can't be looked for in time is hidden. */
static void values_without_end(void **state) {
    (void)state;
    for (size_t n = 10; n <= 4000; n *= 20) {
        struct buf in, out;
        struct arena arena = {0};
        struct jobrun run;
        struct outcome err;
        buf_init(&in, 1 << 24);
        buf_init(&out, 1 << 24);
        buf_puts(&in, RUN_START ",\"m\":\"");
        for (size_t i = 0; i < 64 * n; i++) buf_putc(&in, 'a');
        buf_puts(&in, "\"," SNAPSHOT "{\"sink\":{\"type\":\"s3\"");
        for (size_t i = 0; i < n; i++)
            buf_printf(&in, ",\"k%zu\":\"aaaaaa%0*zu\"", i, (int)(i % 40) + 1, i);
        buf_puts(&in, "}}}");
        assert_true(decode((struct str){in.p, in.n}, &arena, &run, &err));
        assert_true(redact_add(&out, &run.payload));
        bool kept = memmem(out.p, out.n, "aaaaaa", 6) != NULL; /* none of them stands there */
        assert_int_equal(kept, n == 10);
        assert_int_equal(run.hidden != 0, n != 10);
        arena_free(&arena);
        buf_free(&in);
        buf_free(&out);
    }
}

/* So is a member's name that may hold one of them, but no word of the event model. */
static void assert_spent(const char *secret, const char *name, const char *shown, int more) {
    struct buf in, out;
    struct arena arena = {0};
    struct jobrun run;
    struct outcome err;
    char want[128];
    buf_init(&in, 1 << 20);
    buf_init(&out, 1 << 20);
    buf_puts(&in, RUN_START ",\"m\":\"");
    for (int i = 0; i < 5000; i++) buf_puts(&in, "abcdef");
    buf_printf(&in, "\",\"%s\":{\"v\":\"\\\\\"}," SNAPSHOT "{\"sink\":{\"a\":\"%s\",\"b\":[", name,
               secret);
    for (int i = 0; i < 6; i++) buf_printf(&in, "\"%s\",", &"abcdefabcde"[i]);
    for (int i = 0; i < more; i++) buf_printf(&in, "\"abcdeg%d\",", i);
    buf_puts(&in, "1]}}}");
    assert_true(decode((struct str){in.p, in.n}, &arena, &run, &err));
    assert_true(redact_add(&out, &run.payload));
    snprintf(want, sizeof want, "\"m\":\"" R "\",\"%s\":{\"v\":\"" R "\"}," SNAPSHOT "{", shown);
    if (!memmem(out.p, out.n, want, strlen(want)))
        fail_msg("%s is not in %s", want, buf_cstr(&out));
    assert_null(memmem(out.p, out.n, "abcdef", 6));
    assert_non_null(memmem(out.p, out.n, "\"successfulRuns\"", 16));
    arena_free(&arena);
    buf_free(&in);
    buf_free(&out);
}

static void names_without_end(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"0f-12-bytes!", "0f-12-bytes!", R},
        {"0f-12-bytes!", "x-0f-12-bytes!", R},
        {"0f-12-bytes!", "0f-\\u0031\\u0032-bytes!", R},
        {"0f-12-bytes!", "another-name", R}, /* what it holds is not known */
        {"0f-12-bytes!", "eleven-byte", "eleven-byte"},
        {"0f-12-bytes!", "correlationId", "correlationId"},
        {"0f-13-bytes-!", "another-name", "another-name"}, /* too short for any */
        {"0f-13-bytes-!", "a-name-of-sixteen", R},
        {"11-bytes---", "11-bytes---", "11-bytes---"}, /* as ever */
        {"11-bytes---", "x-11-bytes---", "x-11-bytes---"},
    };
    for (size_t i = 0; i < LEN(cases); i++)
        for (int more = 0; more < 21; more += 20)
            assert_spent(cases[i][0], cases[i][1], cases[i][2], more);
}

/* A name says it in whatever spelling, of whatever length. */
static void names_with_escapes(void **state) {
    (void)state;
    static const char *const ends[] = {
        "p\\u0061ssword", "P\\u0061ss\\u0077ord_of_th\\u0065_database",
        "_\\u0070\\u0061\\u0073\\u0073", "\\ud800pass\\u0077ord", "_p\\u0061ss\\ud800"};
    for (size_t n = 0; n < 600; n = 2 * n + 1)
        for (size_t i = 0; i < LEN(ends); i++) {
            struct buf name, in, want;
            buf_init(&name, 1 << 14);
            buf_init(&in, 1 << 15);
            buf_init(&want, 1 << 15);
            for (size_t k = 0; k < n; k++) buf_puts(&name, "\\u0071");
            buf_puts(&name, ends[i]);
            buf_cstr(&name);
            buf_printf(&in,
                       "\"a\":{\"%s\":\"S\",\"q\\u0071\":\"open\"}," SNAPSHOT
                       "{\"%.*s_u\\u0072l\":\"u:p@h\"}",
                       name.p, (int)(6 * n), name.p);
            buf_printf(&want,
                       "\"a\":{\"%s\":\"" R "\",\"q\\u0071\":\"open\"}," SNAPSHOT
                       "{\"%.*s_u\\u0072l\":\"" R "@h\"}",
                       name.p, (int)(6 * n), name.p);
            assert_redacted(buf_cstr(&in), buf_cstr(&want));
            buf_free(&name);
            buf_free(&in);
            buf_free(&want);
        }
}

static void secrets_that_stand_twice(void **state) {
    (void)state;
    assert_redacted("\"jobConfigurationSnapshot\":{\"sink\":{\"accessKeyId\":\"S\"},"
                    "\"s\\u0069nk\":{\"accessKeyId\":\"S\"}}",
                    "\"jobConfigurationSnapshot\":{\"sink\":{\"accessKeyId\":\"" R "\"},"
                    "\"s\\u0069nk\":{\"accessKeyId\":\"" R "\"}}");
    assert_redacted("\"jobConfigurationSnapshot\":{\"sink\":{\"accessKeyId\":\"S\"}},"
                    "\"job_configuration_snapshot\":{\"sink\":{\"accessKeyId\":\"S\"}}",
                    "\"jobConfigurationSnapshot\":{\"sink\":{\"accessKeyId\":\"" R "\"}},"
                    "\"job_configuration_snapshot\":{\"sink\":{\"accessKeyId\":\"" R "\"}}");
    assert_redacted("\"proxy\":\"a:b@c\",\"proxy\":\"d:e@f\",\"jobConfigurationSnapshot\":{}",
                    "\"proxy\":\"" R "@c\",\"proxy\":\"" R "@f\",\"jobConfigurationSnapshot\":{}");
}

/* A query's pieces are replaced one by one up to a limit, so that a payload can't be blown up. */
static void a_query_without_end(void **state) {
    (void)state;
    struct buf url;
    buf_init(&url, 1 << 20);
    buf_puts(&url, "https://h/?a=1");
    for (int i = 0; i < 10000; i++) buf_puts(&url, "&a=1");
    struct url_secrets s;
    struct edit e;
    struct edit last = {0};
    size_t n = 0;
    url_secrets_begin(&s, (struct str){url.p, url.n});
    while (url_secrets_next(&s, &e)) {
        assert_true(e.n > 0 && e.at >= last.at + last.n);
        last = e;
        n++;
    }
    assert_int_equal(n, URL_QUERY_PIECES);
    assert_int_equal(last.at + last.n, url.n);
    assert_int_equal(url.p[last.at - 1], '&'); /* names too: fuzz_redact found a token as one */
    buf_free(&url);
}

static void as_a_line(void **state) {
    (void)state;
    static const char text[] = RUN_START ",\r\n\"x\":[\n1,\n\"\\n\"\r\n],\n\"proxy\":\"a:b@c\","
                                         "\"jobConfigurationSnapshot\":{}}\n";
    static const char want[] = RUN_START ",  \"x\":[ 1, \"\\n\"  ], \"proxy\":\"" R "@c\","
                                         "\"jobConfigurationSnapshot\":{}} \n";
    struct arena arena = {0};
    struct jobrun run;
    struct outcome err;
    struct buf out;
    assert_true(decode(str_c(text), &arena, &run, &err));
    buf_init(&out, 4096);
    assert_true(buf_puts(&out, "line\nbefore\n")); /* is left alone */
    assert_true(redact_add_line(&out, &run.payload));
    assert_int_equal(strncmp(buf_cstr(&out), "line\nbefore\n", 12), 0);
    assert_string_equal(buf_cstr(&out) + 12, want);
    /* Past the ceiling: an answer, and nothing is appended. */
    size_t need = sizeof want - 1;
    for (size_t max = need - 2; max <= need; max++) {
        struct buf small;
        buf_init(&small, max);
        assert_int_equal(redact_add_line(&small, &run.payload), max >= need);
        assert_int_equal(small.n, max >= need ? need : 0);
        buf_clear(&small);
        assert_int_equal(redact_add(&small, &run.payload), max >= need - 1);
        buf_free(&small);
    }
    buf_free(&out);
    arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_url),
        cmocka_unit_test(escaped_urls),
        cmocka_unit_test(each_secret),
        cmocka_unit_test(secrets_elsewhere),
        cmocka_unit_test(urls_in_text),
        cmocka_unit_test(pairs_in_any_order),
        cmocka_unit_test(pairs_with_two_values),
        cmocka_unit_test(basic_in_headers),
        cmocka_unit_test(blanks_in_headers),
        cmocka_unit_test(values_without_end),
        cmocka_unit_test(names_without_end),
        cmocka_unit_test(names_with_escapes),
        cmocka_unit_test(secrets_that_stand_twice),
        cmocka_unit_test(a_query_without_end),
        cmocka_unit_test(as_a_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
