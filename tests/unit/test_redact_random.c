/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "config/config.h"
#include "tests/unit/json_cases.h"
#include "tests/unit/redact_run.h"
#include "worker/base/text.h"
#include "worker/event/redact.h"
#include "worker/pipeline/route.h"

/* The property: whatever the document looks like, what comes out is JSON,
 * differs from what went in inside the spans only, and holds no secret in any
 * spelling. */
struct gen {
    uint64_t random;
    struct buf out;
    struct buf forms[1024]; /* of each secret: as it is, percent-encoded, base64 */
    size_t n_forms;
};

static size_t pick(struct gen *g, size_t n) {
    return (size_t)(test_random(&g->random) >> 33) % n;
}

static void gap(struct gen *g) {
    static const char *const gaps[] = {"", "", "", "", "", " ", "\n", "\t ", "\r\n"};
    buf_puts(&g->out, gaps[pick(g, LEN(gaps))]);
}

static void put_unit(struct gen *g, unsigned unit) {
    buf_printf(&g->out, pick(g, 2) ? "\\u%04x" : "\\u%04X", unit);
}

/* Text as the inside of a JSON string, each character in one of its spellings.
 */
static void put_text(struct gen *g, struct str s) {
    static const char *const from = "\"\\/\b\f\n\r\t";
    static const char *const to = "\"\\/bfnrt";
    bool plain = pick(g, 3) == 0;
    for (size_t i = 0; i < s.n;) {
        size_t n = utf8_sequence(s.p + i, s.n - i);
        const unsigned char *p = (const unsigned char *)s.p + i;
        const char *brief = n == 1 ? strchr(from, p[0]) : NULL;
        bool must = n == 1 && (p[0] < 0x20 || p[0] == '"' || p[0] == '\\');
        if (!must && (plain || pick(g, 2))) {
            buf_add(&g->out, p, n);
        } else if (brief && pick(g, 2)) {
            buf_printf(&g->out, "\\%c", to[brief - from]);
        } else if (n < 4) {
            put_unit(g, n == 1   ? p[0]
                        : n == 2 ? (p[0] & 31u) << 6 | (p[1] & 63u)
                                 : (p[0] & 15u) << 12 | (p[1] & 63u) << 6 | (p[2] & 63u));
        } else {
            unsigned c = (p[0] & 7u) << 18 | (p[1] & 63u) << 12 | (p[2] & 63u) << 6 | (p[3] & 63u);
            put_unit(g, 0xd800 + ((c - 0x10000) >> 10));
            put_unit(g, 0xdc00 + (c & 0x3ff));
        }
        i += n;
    }
}

static void put_name(struct gen *g, const char *camel, const char *snake) {
    gap(g);
    buf_putc(&g->out, '"');
    put_text(g, str_c(snake && pick(g, 2) ? snake : camel));
    buf_putc(&g->out, '"');
    gap(g);
    buf_putc(&g->out, ':');
    gap(g);
}

static struct buf *new_form(struct gen *g) {
    struct buf *b = &g->forms[g->n_forms++];
    buf_init(b, 4096);
    return b;
}

/* Draws a secret and notes its forms. */
static void draw(struct gen *g, struct str ret[3]) {
    static const char *const letters[] = {"a",
                                          "Z",
                                          "7",
                                          "+",
                                          "/",
                                          "=",
                                          "%",
                                          "&",
                                          "?",
                                          "\"",
                                          "\\",
                                          "\n",
                                          "\t",
                                          "\xc3\xa9",
                                          "#",
                                          "@",
                                          ":",
                                          " ",
                                          "-",
                                          "_",
                                          "~",
                                          "\x7f",
                                          "\x01",
                                          "'",
                                          "\xe2\x82\xac",
                                          "\xf0\x9f\x98\x80"};
    struct buf *raw = new_form(g);
    struct buf *percent = new_form(g);
    struct buf *base64 = new_form(g);
    size_t n = 8 + pick(g, 16);
    /* Starts with a number of its own, so that it stands nowhere by chance. */
    buf_printf(raw, "s%06zx", pick(g, 0xffffff));
    for (size_t i = 0; i < n; i++) buf_puts(raw, letters[pick(g, LEN(letters))]);
    for (size_t i = 0; i < raw->n; i++) {
        unsigned char c = (unsigned char)raw->p[i];
        bool plain =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '\'';
        buf_printf(percent, plain ? "%c" : "%%%02X", c);
    }
    base64_add(base64, raw->p, raw->n);
    for (int i = 0; i < 3; i++) ret[i] = (struct str){(raw + i)->p, (raw + i)->n};
}

static void put_secret(struct gen *g, const char *before, int form) {
    struct str forms[3];
    draw(g, forms);
    buf_putc(&g->out, '"');
    put_text(g, str_c(before));
    put_text(g, forms[form]);
    buf_putc(&g->out, '"');
}

static void put_userinfo(struct gen *g, struct buf *url) {
    struct str forms[3];
    draw(g, forms);
    buf_puts(url, pick(g, 2) ? "user:" : "");
    buf_str(url, forms[1]);
    buf_putc(url, '@');
}

/* Each URL of a list holds secrets. */
static void put_urls(struct gen *g, struct buf *url) {
    struct str forms[3];
    if (pick(g, 2)) put_userinfo(g, url);
    buf_puts(url, pick(g, 2) ? "keep.example.com:8080/keep" : "[2001:db8::1]");
    for (size_t i = pick(g, 4) ? 0 : pick(g, 3); i > 0; i--) {
        buf_puts(url, pick(g, 2) ? "/,amqp+x://" : "/x/http://");
        put_userinfo(g, url);
        buf_puts(url, "keep:80");
    }
    for (size_t i = pick(g, 4), first = 1; i > 0; i--, first = 0) {
        draw(g, forms);
        buf_putc(url, first ? '?' : '&');
        buf_puts(url, pick(g, 4) ? "keep=" : "");
        buf_str(url, forms[1 + pick(g, 2)]);
    }
}

static void put_url(struct gen *g) {
    struct buf url;
    buf_init(&url, 4096);
    buf_puts(&url, pick(g, 8) ? "https://" : "");
    put_urls(g, &url);
    buf_putc(&g->out, '"');
    put_text(g, (struct str){url.p, url.n});
    buf_putc(&g->out, '"');
    buf_free(&url);
}

/* Where the name does not say it: between blanks, in quotation marks, beside half a character. */
static void put_url_in_text(struct gen *g) {
    static const char *const around[][2] = {{"", ""},         {"keep ", " keep"},
                                            {"it's ", ""},    {"a='", "', keep"},
                                            {"<", ">"},       {"keep\\ud800\\n", "\\t\\udc00"},
                                            {"[", " \\ud800"}};
    size_t which = pick(g, LEN(around));
    struct buf url;
    buf_init(&url, 4096);
    buf_puts(&url, "https://");
    put_urls(g, &url);
    buf_printf(&g->out, "\"%s", around[which][0]);
    put_text(g, (struct str){url.p, url.n});
    buf_printf(&g->out, "%s\"", around[which][1]);
    buf_free(&url);
}

static void put_unknown(struct gen *g, int depth) {
    static const char *const leaves[] = {"9007199254740993",
                                         "1e400",
                                         "-0.0",
                                         "\"keep \\ud800\"",
                                         "\"\\u00e9\xc3\xa9\"",
                                         "null",
                                         "[ ]",
                                         "{ }",
                                         "true"};
    size_t kind = depth > 60 ? 0 : pick(g, 3);
    if (kind == 0) {
        buf_puts(&g->out, leaves[pick(g, LEN(leaves))]);
        return;
    }
    buf_putc(&g->out, kind == 1 ? '[' : '{');
    for (size_t i = 0, n = 1 + pick(g, 2); i < n; i++) {
        if (i > 0) buf_putc(&g->out, ',');
        gap(g);
        if (kind == 2) put_name(g, i ? "sink" : "accessKeyId", NULL);
        put_unknown(g, depth + 1);
        gap(g);
    }
    buf_putc(&g->out, kind == 1 ? ']' : '}');
}

static void put_proxy(struct gen *g) {
    put_name(g, "proxy", NULL);
    if (pick(g, 2)) {
        put_url(g);
        return;
    }
    buf_putc(&g->out, '{');
    if (pick(g, 2)) {
        put_name(g, "username", "user_name");
        put_secret(g, "", 0);
        buf_putc(&g->out, ',');
    }
    put_name(g, "url", NULL);
    put_url(g);
    buf_putc(&g->out, '}');
}

static void put_value(struct gen *g) {
    size_t kind = pick(g, 4);
    if (kind == 0) {
        put_url(g);
    } else if (kind == 1) {
        buf_puts(&g->out, "[{\"keep\":");
        put_secret(g, "", 0);
        buf_puts(&g->out, "}, 1, ");
        put_url(g);
        buf_puts(&g->out, " ]");
    } else {
        put_secret(g, "http://keep:pw@keep/?a=", 0);
    }
}

/* A secret beside its name, in either order, with anything between and within.
 */
static void put_pair(struct gen *g, int depth) {
    static const char *const names[] = {"PASSWORD", "db_pass", "x-api-key", "cardPin"};
    bool early = pick(g, 2);
    buf_putc(&g->out, '{');
    for (int i = 0; i < 2; i++) {
        if ((i == 0) == early) {
            put_name(g, pick(g, 2) ? "value" : "Value", NULL);
            put_value(g);
        } else {
            put_name(g, "name", "key");
            buf_printf(&g->out, "\"%s\"", names[pick(g, LEN(names))]);
        }
        buf_putc(&g->out, ',');
        put_name(g, i ? "first" : "second", NULL);
        if (depth < 6 && pick(g, 2))
            put_pair(g, depth + 1);
        else
            put_unknown(g, 50);
        buf_puts(&g->out, i ? "" : ",");
    }
    buf_putc(&g->out, '}');
}

static void put_headers(struct gen *g) {
    put_name(g, "headers", NULL);
    buf_putc(&g->out, '{');
    put_name(g, "X-Key", NULL);
    put_secret(g, "", 0);
    buf_putc(&g->out, ',');
    put_name(g, "aCCept", NULL);
    buf_puts(&g->out, "\"keep/keep\",");
    put_name(g, "Authorization", NULL);
    put_secret(g, "Basic ", 2);
    buf_putc(&g->out, ',');
    put_name(g, "Cookie", NULL);
    put_secret(g, "theme=dark; sid=", 1);
    gap(g);
    buf_putc(&g->out, '}');
}

static void put_sink(struct gen *g) {
    static const char *const secrets[][2] = {{"accessKeyId", "access_key_id"},
                                             {"secretAccessKey", "secret_access_key"},
                                             {"sessionToken", "session_token"}};
    buf_puts(&g->out, "{\"type\":\"s3\"");
    if (pick(g, 2)) buf_printf(&g->out, ",\"number\":-7%06zue1", pick(g, 1000000));
    for (size_t i = 0, n = 1 + pick(g, 5); i < n; i++) {
        size_t which = pick(g, 6);
        buf_putc(&g->out, ',');
        if (which < 3) {
            put_name(g, secrets[which][0], secrets[which][1]);
            put_secret(g, "", 0);
        } else if (which == 3) {
            put_headers(g);
        } else {
            put_name(g, which == 4 ? "url" : "endpoint", NULL);
            put_url(g);
        }
    }
    buf_puts(&g->out, "}");
}

static void put_snapshot(struct gen *g) {
    buf_putc(&g->out, '{');
    if (pick(g, 2)) {
        put_proxy(g);
        buf_putc(&g->out, ',');
    }
    if (pick(g, 2)) {
        put_name(g, "env", NULL);
        put_pair(g, 0);
        buf_putc(&g->out, ',');
    }
    if (pick(g, 2)) {
        put_name(g, "text", "database");
        put_url_in_text(g);
        buf_putc(&g->out, ',');
    }
    put_name(g, "sink", NULL);
    size_t from = g->out.n;
    put_sink(g);
    if (pick(g, 4) == 0) { /* the same sink once more */
        char *again = xstrndup(g->out.p + from, g->out.n - from);
        size_t n = g->out.n - from;
        buf_putc(&g->out, ',');
        put_name(g, "sink", NULL);
        buf_add(&g->out, again, n);
        free(again);
    }
    buf_putc(&g->out, '}');
}

static void put_run(struct gen *g) {
    buf_puts(&g->out, RUN_START ",");
    put_name(g, "unknown", NULL);
    put_unknown(g, 0);
    buf_putc(&g->out, ',');
    if (pick(g, 2)) {
        put_name(g, "env", NULL);
        put_pair(g, 0);
        buf_putc(&g->out, ',');
    }
    if (pick(g, 2)) {
        put_proxy(g);
        buf_putc(&g->out, ',');
    }
    put_name(g, "jobConfigurationSnapshot", "job_configuration_snapshot");
    put_snapshot(g);
    gap(g);
    buf_putc(&g->out, '}');
}

static void put_results(struct gen *g) {
    bool list = pick(g, 2);
    put_name(g, "results", NULL);
    buf_puts(&g->out, list ? "[{" : "{");
    put_name(g, "signedUrl", "signed_url");
    put_url(g);
    buf_puts(&g->out, list ? "}]" : "}");
}

static void put_record(struct gen *g) {
    gap(g);
    if (pick(g, 2)) {
        put_run(g);
    } else {
        buf_putc(&g->out, '{');
        put_results(g);
        buf_putc(&g->out, ',');
        put_name(g, "jobRun", "job_run");
        put_run(g);
        buf_putc(&g->out, ',');
        put_results(g);
        buf_putc(&g->out, '}');
    }
    gap(g);
}

/* All of a document's strings, names too, with escapes resolved. */
static void collect(struct json *j, struct buf *to) {
    struct json_value v;
    bool object = json_peek(j) == JSON_OBJECT;
    if (object || json_peek(j) == JSON_ARRAY) {
        assert_true(object ? json_open(j, &v) : json_open_array(j, &v));
        while (object ? json_key(j, &v) : json_item(j)) {
            if (object) buf_str(to, v.raw);
            collect(j, to);
        }
        return;
    }
    assert_true(json_value(j, &v));
    char *text = xmalloc(v.raw.n);
    size_t n = 0;
    if (v.kind == JSON_STRING && json_unescape(v.raw, text, &n)) {
        buf_add(to, text, n);
        buf_putc(to, '\n');
    }
    free(text);
}

static void assert_absent(struct str where, const struct gen *g) {
    for (size_t i = 0; i < g->n_forms; i++)
        if (memmem(where.p, where.n, g->forms[i].p, g->forms[i].n))
            fail_msg("\"%.*s\" is in\n%.*s\nmade from\n%.*s", (int)g->forms[i].n, g->forms[i].p,
                     (int)where.n, where.p, (int)g->out.n, g->out.p);
}

/* Edits lie inside of strings: no quote that ends one is touched. Or they are a
 * number or a word.
 */
static void assert_inside_strings(const struct jobrun *run) {
    bool inside = false;
    size_t k = 0;
    for (size_t i = 0; i < run->payload.json.n; i++) {
        bool edited = k < run->payload.n_edits && i >= run->payload.edits[k].at;
        char c = run->payload.json.p[i];
        const struct edit *e = &run->payload.edits[k];
        if (edited) assert_int_equal(inside, e->quotes == 0);
        if (edited && !inside) assert_true(strchr("+-.0123456789eEtruefalse", c));
        if (inside && c == '\\') {
            i++;
        } else if (c == '"') {
            assert_false(edited);
            inside = !inside;
        }
        while (k < run->payload.n_edits &&
               i + 1 >= run->payload.edits[k].at + run->payload.edits[k].n)
            k++;
    }
    assert_int_equal(k, run->payload.n_edits);
}

/* Once its sink object is known, the event decodes to the same. */
static void check_known(struct router *r, const struct jobrun *run, size_t *known) {
    struct arena arena = {0};
    struct destination *d;
    struct jobrun again;
    struct outcome o;
    const struct known_sinks sinks = router_known(r);
    const struct message rec = {run->payload.json, NULL, 0};
    if (!run->sink.p) return;
    route_again(r, run, 1, &d, &o);
    assert_true(jobrun_decode_known(&rec, &sinks, &arena, &again, &o));
    assert_ptr_equal(again.sink.p, run->sink.p);
    assert_int_equal(again.sink.n, run->sink.n);
    assert_int_equal(again.payload.n_edits, run->payload.n_edits);
    if (run->payload.n_edits)
        assert_memory_equal(again.payload.edits, run->payload.edits,
                            run->payload.n_edits * sizeof *run->payload.edits);
    assert_int_equal(again.payload.one_line, run->payload.one_line);
    *known += again.known != NULL;
    arena_free(&arena);
}

static void check_random(struct gen *g, struct router *r, size_t *known) {
    struct arena arena = {0};
    struct jobrun run;
    struct outcome err;
    struct json j;
    struct buf out;
    struct buf texts;
    buf_init(&out, 1 << 20);
    buf_init(&texts, 1 << 20);
    if (!decode((struct str){g->out.p, g->out.n}, &arena, &run, &err))
        fail_msg("%s %s\n%.*s", err.why, err.detail, (int)g->out.n, g->out.p);
    assert_inside_strings(&run);
    assert_true(redact_add(&out, &run.payload));
    json_begin(&j, (struct str){out.p, out.n});
    collect(&j, &texts);
    assert_true(json_end(&j));
    assert_absent((struct str){out.p, out.n}, g);
    assert_absent((struct str){texts.p, texts.n}, g);
    const char *p = out.p;
    size_t from = 0;
    for (size_t i = 0; i <= run.payload.n_edits; i++) {
        size_t to = i < run.payload.n_edits ? run.payload.edits[i].at : g->out.n;
        assert_true(to >= from);
        assert_memory_equal(p, g->out.p + from, to - from);
        p += to - from;
        if (i == run.payload.n_edits) break;
        const char *mark = run.payload.edits[i].quotes ? "\"" R "\"" : R;
        assert_memory_equal(p, mark, strlen(mark));
        p += strlen(mark);
        from = run.payload.edits[i].at + run.payload.edits[i].n;
    }
    assert_ptr_equal(p, out.p + out.n);
    check_known(r, &run, known);
    arena_free(&arena);
    buf_free(&out);
    buf_free(&texts);
}

static void no_secret_survives(void **state) {
    (void)state;
    size_t secrets = 0, known = 0;
    struct buf err;
    buf_init(&err, 4096);
    struct config *cfg = config_new();
    assert_true(config_finish(cfg, &err));
    struct router *r = router_new(cfg);
    assert_non_null(r);
    for (uint64_t seed = 1; seed <= 5000; seed++) {
        struct gen g = {.random = seed * UINT64_C(0x9e3779b97f4a7c15)};
        buf_init(&g.out, 1 << 20);
        put_record(&g);
        check_random(&g, r, &known);
        secrets += g.n_forms / 3;
        for (size_t i = 0; i < g.n_forms; i++) buf_free(&g.forms[i]);
        buf_free(&g.out);
    }
    assert_in_range(secrets, 10000, SIZE_MAX);
    assert_in_range(known, 1000, 5000);
    router_free(r);
    config_free(cfg);
    buf_free(&err);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_secret_survives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
