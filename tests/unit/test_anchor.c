/* Anchors: their form, their names, the requests, and the judgement of `runsink verify` on ledgers
 * that were rewritten after they had been anchored. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <curl/curl.h>

#include "tests/unit/ledger_judge.h"
#include "worker/pipeline/anchor_store.h"
#include "worker/tools/verify_anchor.h"

#define AT INT64_C(1769860800000) /* 2026-01-31T12:00:00Z */
#define MINUTE INT64_C(60000)
#define ANCHORS_MAX 64

/* ---- the form ---- */

static struct anchor_head head(const char *topic, int32_t partition, uint64_t seq) {
    struct anchor_head h = {str_c(topic), partition, seq, (int64_t)seq * 10 + 10, {0}};
    memset(h.hash, 0xab, sizeof h.hash);
    return h;
}

static void encode(const struct ledger_signer *signer, struct buf *out) {
    struct anchor_head heads[] = {head("jobs.retry.10s", 0, 3), head("jobs", 11, 2),
                                  head("jobs", 9, 0)};
    struct anchor a = {.group = STR("run\"sink"), .at_ms = AT, .heads = heads, .n = 3};
    buf_init(out, ANCHOR_SIZE_MAX);
    assert_true(anchor_encode(&a, signer, out));
}

/* To the byte, as the README specifies it. */
static void test_form(void **state) {
    struct keys *k = *state;
    struct buf text, want;
    struct arena arena = {0};
    struct anchor a;
    struct ledger_read_error why;
    uint8_t hash[SHA256_LEN];
    char hex_hash[HEX_LEN(SHA256_LEN) + 1], ab[HEX_LEN(SHA256_LEN) + 1];
    memset(ab, 0, sizeof ab);
    for (size_t i = 0; i < SHA256_LEN; i++) memcpy(ab + 2 * i, "ab", 2);
    encode(k->ours, &text);
    assert_true(anchor_read((struct str){text.p, text.n}, &arena, &a, &why));
    buf_init(&want, 4096);
    buf_printf(&want,
               "{\"anchor\":1,\"group\":\"run\\\"sink\",\"at\":1769860800000,\"version\":\"%s\","
               "\"heads\":[{\"topic\":\"jobs\",\"partition\":9,\"seq\":0,\"next\":10,"
               "\"hash\":\"%s\"},{\"topic\":\"jobs\",\"partition\":11,\"seq\":2,\"next\":30,"
               "\"hash\":\"%s\"},{\"topic\":\"jobs.retry.10s\",\"partition\":0,\"seq\":3,"
               "\"next\":40,\"hash\":\"%s\"}]",
               RUNSINK_VERSION, ab, ab, ab);
    sha256(want.p, want.n, hash);
    hex(hash, sizeof hash, hex_hash);
    buf_printf(&want, ",\"hash\":\"%s\",\"sig\":\"", hex_hash);
    base64_add(&want, a.sig, sizeof a.sig);
    buf_printf(&want, "\",\"key\":\"%s\"}", k->ours_pub.id);
    assert_string_equal(buf_cstr(&text), buf_cstr(&want));
    assert_true(ledger_pubkey_check(&k->ours_pub, hash, sizeof hash, a.sig));
    assert_true(str_is(a.group, "run\"sink"));
    assert_int_equal(a.at_ms, AT);
    assert_int_equal(a.n, 3);
    assert_int_equal(a.heads[1].partition, 11);
    assert_int_equal(a.heads[2].next, 40);
    arena_free(&arena);
    buf_free(&text);
    buf_free(&want);
}

/* One change each; none is the form any more. */
static void test_other_forms(void **state) {
    struct keys *k = *state;
    static const struct {
        const char *from, *to;
    } cases[] = {
        {"{\"anchor\":1", "{ \"anchor\":1"},
        {"\"anchor\":1", "\"anchor\":2"},
        {"\"at\":1", "\"at\":01"},
        {"\"at\":1769860800000", "\"at\":-1"},
        {"\"at\":1769860800000", "\"at\":9223372036854775808"},
        {"run\\\"sink", "run\\u0022sink"},
        {"\"partition\":9,", "\"partition\":2147483648,"},
        {"\"partition\":9,", "\"partition\":12,"},
        {"\"partition\":9,", "\"partition\":11,"},
        {"\"jobs\",\"partition\":9", "\"jo/s\",\"partition\":9"},
        {"\"hash\":\"ab", "\"hash\":\"AB"},
        {"\"heads\":[{", "\"heads\":[],\"x\":[{"},
        {",\"sig\":\"", ",\"sig\":\"\",\"was\":\""},
        {"\"key\":\"", "\"key\":\"\",\"id\":\""},
    };
    for (size_t i = 0; i <= sizeof cases / sizeof *cases; i++) {
        struct buf text, other;
        struct arena arena = {0};
        struct anchor a;
        struct ledger_read_error why = {0};
        encode(k->ours, &text);
        buf_init(&other, ANCHOR_SIZE_MAX);
        if (i < sizeof cases / sizeof *cases) {
            const char *at = strstr(buf_cstr(&text), cases[i].from);
            assert_non_null(at);
            buf_add(&other, text.p, (size_t)(at - text.p));
            buf_puts(&other, cases[i].to);
            buf_puts(&other, at + strlen(cases[i].from));
        } else {
            buf_add(&other, text.p, text.n);
            buf_putc(&other, '\n');
        }
        if (anchor_read((struct str){other.p, other.n}, &arena, &a, &why))
            fail_msg("taken: %s", buf_cstr(&other));
        assert_non_null(why.what);
        arena_free(&arena);
        buf_free(&text);
        buf_free(&other);
    }
}

static void test_too_large(void **state) {
    struct keys *k = *state;
    struct buf text;
    struct arena arena = {0};
    struct anchor a;
    struct ledger_read_error why;
    struct anchor_head h = head("jobs", 0, 1);
    a = (struct anchor){.group = STR("g"), .at_ms = AT, .heads = &h, .n = 1};
    buf_init(&text, 100);
    assert_false(anchor_encode(&a, k->ours, &text));
    assert_int_equal(text.n, 0);
    buf_free(&text);
    buf_init(&text, ANCHOR_SIZE_MAX + 1);
    memset(buf_reserve(&text, ANCHOR_SIZE_MAX + 1), ' ', ANCHOR_SIZE_MAX + 1);
    text.n = ANCHOR_SIZE_MAX + 1;
    assert_false(anchor_read((struct str){text.p, text.n}, &arena, &a, &why));
    assert_string_equal(why.what, "at most 1 MiB");
    buf_free(&text);
    arena_free(&arena);
}

static void test_names(void **state) {
    (void)state;
    char name[ANCHOR_NAME_LEN + 1];
    struct buf folder;
    assert_true(anchor_name(AT + 61999, 0x0123456789abcdef, name));
    assert_string_equal(name, "2026/01/31/120101Z-0123456789abcdef.json");
    assert_true(anchor_name_legal(str_c(name)));
    assert_false(anchor_name(INT64_C(253402300800000), 0, name));
    assert_false(anchor_name(-1, 0, name));
    static const char *const others[] = {
        "",
        "2026/01/31/120101Z-0123456789abcdef.jsom",
        "2026/01/31/120101Z-0123456789ABCDEF.json",
        "2026/01/31/12010dZ-0123456789abcdef.json",
        "2026/01/31/120101Z-0123456789abcde.json",
        "2026/01/31/120101Z-0123456789abcdeff.json",
        "../6/01/31/120101Z-0123456789abcdef.json",
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        assert_false(anchor_name_legal(str_c(others[i])));
    buf_init(&folder, 100);
    assert_true(anchor_folder("proof/", "a/../b.c-d_E", &folder));
    assert_string_equal(buf_cstr(&folder), "proof/a____b_c-d_E/");
    buf_free(&folder);
}

/* ---- the bucket ---- */

static struct config *configured(void) {
    struct config *c = config_new();
    struct buf err;
    buf_init(&err, 4096);
    assert_true(config_read_text(c, "x.ini",
                                 STR("[anchor]\nbucket = proofs\nendpoint = http://10.1.2.3:9000\n"
                                     "access_key_id = AKID\nsecret_access_key = hush-hush\n"
                                     "session_token = token-token\nlock_mode = GOVERNANCE\n"),
                                 &err));
    assert_true(config_finish(c, &err));
    buf_free(&err);
    return c;
}

static const char *header(const struct http_request *r, const char *name) {
    size_t n = strlen(name);
    for (const struct curl_slist *l = r->headers; l; l = l->next)
        if (strncmp(l->data, name, n) == 0 && l->data[n] == ':') return l->data + n + 2;
    return NULL;
}

static void test_put(void **state) {
    (void)state;
    struct config *c = configured();
    struct buf err, url;
    buf_init(&err, 4096);
    struct anchor_store *s = anchor_store_new(c, &err);
    assert_non_null(s);
    struct http_request r = {0};
    assert_true(anchor_store_put(s, "a/b.json", STR("{}"), &r, &url));
    assert_string_equal(r.url, "http://10.1.2.3:9000/proofs/a/b.json");
    assert_true(r.trusted);
    assert_string_equal(header(&r, "If-None-Match"), "*");
    assert_string_equal(header(&r, "x-amz-object-lock-mode"), "GOVERNANCE");
    assert_non_null(header(&r, "x-amz-object-lock-retain-until-date"));
    assert_string_equal(header(&r, "x-amz-checksum-sha256"),
                        "RBNvo1WzZ4oRRq0W9+hknpT7T8If536DEMBg9hyq/4o=");
    assert_string_equal(header(&r, "x-amz-security-token"), "token-token");
    assert_non_null(header(&r, "Authorization"));
    http_request_clear(&r);
    buf_free(&url);

    /* A store that does not know the condition is asked without it from then on. */
    struct http_request answer = {.method = "PUT", .status = 501};
    struct outcome sent = outcome_ok(501);
    assert_int_not_equal(anchor_store_judge(s, &answer, &sent).verdict, VERDICT_OK);
    r = (struct http_request){0};
    assert_true(anchor_store_put(s, "a/b.json", STR("{}"), &r, &url));
    assert_null(header(&r, "If-None-Match"));
    http_request_clear(&r);
    buf_free(&url);

    r = (struct http_request){0};
    struct sigv4_param params[] = {{STR("versions"), STR("")}, {STR("prefix"), STR("a b/")}};
    assert_true(anchor_store_get(s, "", params, 2, &r, &url));
    assert_string_equal(r.url, "http://10.1.2.3:9000/proofs/?prefix=a%20b%2F&versions=");
    http_request_clear(&r);
    buf_free(&url);
    anchor_store_free(s);
    config_free(c);
    buf_free(&err);
}

static void test_listing(void **state) {
    (void)state;
    static struct listing l;
    assert_true(listing_read(
        STR("<?xml version=\"1.0\"?><ListVersionsResult xmlns=\"x\"><IsTruncated>true</IsTruncated>"
            "<Version><Key>a/1.json</Key><VersionId>v2</VersionId><Owner><ID>x</ID></Owner>"
            "</Version>\n<DeleteMarker><Key>a/1.json</Key><VersionId>v1</VersionId></DeleteMarker>"
            "</ListVersionsResult>"),
        &l));
    assert_true(l.truncated);
    assert_int_equal(l.n, 2);
    assert_true(str_is(l.items[0].key, "a/1.json") && str_is(l.items[0].version, "v2"));
    assert_int_equal(l.items[1].kind, LISTED_MARKER);
    assert_true(listing_read(STR("<ListBucketResult><Contents><Key>k</Key></Contents>"
                                 "</ListBucketResult>"),
                             &l));
    assert_int_equal(l.n, 1);
    assert_int_equal(l.items[0].version.n, 0);
    assert_false(l.truncated);
    assert_true(listing_read(STR("<ListBucketResult/>"), &l));
    assert_int_equal(l.n, 0);
    /* Cut, another document, an item without a key. */
    assert_false(listing_read(STR("<ListBucketResult><Contents><Key>k</Key></Contents>"), &l));
    assert_false(listing_read(STR("<Error><Code>x</Code></Error>"), &l));
    assert_false(
        listing_read(STR("<ListBucketResult><Contents></Contents></ListBucketResult>"), &l));
    assert_false(listing_read(STR(""), &l));
}

/* ---- the judgement ---- */

struct anchors {
    struct buf v[ANCHORS_MAX];
    size_t n;
};

static void take(struct anchors *to, const struct world *w, const struct ledger_signer *signer,
                 const char *group, int64_t at_ms) {
    struct anchor_head heads[WORLD_PARTITIONS + 2];
    struct anchor a = {.group = str_c(group), .at_ms = at_ms, .heads = heads};
    for (size_t i = 0; i < w->n_chains; i++) {
        const struct world_chain *c = &w->chains[i];
        if (!c->seq) continue;
        struct anchor_head *h = &heads[a.n++];
        *h = (struct anchor_head){str_c(c->topic), c->partition, c->seq - 1, c->next, {0}};
        memcpy(h->hash, c->head, SHA256_LEN);
    }
    assert_true(to->n < ANCHORS_MAX && a.n > 0);
    buf_init(&to->v[to->n], ANCHOR_SIZE_MAX);
    assert_true(anchor_encode(&a, signer, &to->v[to->n++]));
}

static void anchors_free(struct anchors *a) {
    for (size_t i = 0; i < a->n; i++) buf_free(&a->v[i]);
    a->n = 0;
}

/* A world that is anchored every ten windows, a minute apart. */
static void settle(struct world *w, unsigned seed, const struct ledger_signer *signer,
                   struct anchors *anchors) {
    world_make(w, seed, 0, signer);
    for (size_t i = 1; i <= 60; i++) {
        world_window(w, i % w->n_chains);
        if (anchors && i % 10 == 0)
            take(anchors, w, signer, WORLD_GROUP, AT + (int64_t)i / 10 * MINUTE);
    }
}

struct trial {
    const struct ledger_pubkey *keys;
    size_t n_keys;
    int64_t from_ms;
    size_t skip;      /* entries that are not read, of each chain */
    const char *name; /* of each anchor; NULL: none that tells a time */
    int64_t written_ms;
    struct seen seen;
    struct anchored_sums sums;
};

/* The ledger of one world against the anchors of another. */
static void compare(struct trial *t, const struct world *w, const struct anchors *anchors) {
    struct snapshot snapshot;
    struct reader_limits limits = {.from_ms = t->from_ms};
    world_snapshot(w, &snapshot);
    snapshot.partial = t->from_ms != 0;
    struct audit_options opts = {.source = WORLD_SOURCE,
                                 .group = WORLD_GROUP,
                                 .partial = snapshot.partial,
                                 .report = watch,
                                 .context = &t->seen};
    struct audit *a = audit_new(&opts);
    struct anchored *x = anchored_new(&snapshot, t->keys, t->n_keys, &limits, a);
    for (size_t i = 0; i < anchors->n; i++)
        anchored_add(x, t->name ? t->name : "name", (struct str){anchors->v[i].p, anchors->v[i].n},
                     t->written_ms);
    for (size_t i = 0; i < w->n; i++) {
        struct arena arena = {0};
        struct ledger_entry e;
        struct ledger_read_error why;
        const struct world_line *line = &w->lines[i];
        assert_true(ledger_read((struct str){line->value.p, line->value.n}, &arena, &e, &why));
        if (e.seq >= t->skip) anchored_entry(x, &e);
        arena_free(&arena);
    }
    anchored_finish(x);
    anchored_sums(x, &t->sums);
    anchored_free(x);
    audit_free(a);
    snapshot_free(&snapshot);
}

static void expect(struct trial *t, const char *code, size_t n) {
    if (t->seen.findings != n || (n && t->seen.with_code != n))
        fail_msg("%zu findings, %zu are %s; the first: %s", t->seen.findings, t->seen.with_code,
                 code, t->seen.first);
}

static struct trial trial(const struct keys *k, const char *code) {
    struct trial t = {.keys = &k->ours_pub, .n_keys = 1};
    snprintf(t.seen.code, sizeof t.seen.code, "%s", code);
    return t;
}

static void test_sound(void **state) {
    struct keys *k = *state;
    struct world w;
    struct anchors anchors = {0};
    struct trial t = trial(k, "");
    settle(&w, 5, k->ours, &anchors);
    compare(&t, &w, &anchors);
    expect(&t, "", 0);
    assert_int_equal(t.sums.anchors, 6);
    assert_int_equal(t.sums.newest_ms, AT + 6 * MINUTE);
    assert_int_equal(t.sums.heads, 30); /* two windows of each chain between anchors */
    assert_int_equal(t.sums.found, 30);
    assert_int_equal(t.sums.early + t.seen.notes, 0);
    world_free(&w);
    anchors_free(&anchors);
}

/* The attacker has the broker and the key: the other ledger is sound by itself. */
static void test_rewritten_from_the_start(void **state) {
    struct keys *k = *state;
    struct world w, forged;
    struct anchors anchors = {0};
    struct snapshot snapshot;
    struct seen alone = {0};
    struct trial t = trial(k, "anchor-differs");
    settle(&w, 5, k->ours, &anchors);
    settle(&forged, 6, k->ours, NULL);
    world_snapshot(&forged, &snapshot);
    judge(&forged, &snapshot, &k->ours_pub, 1, &alone);
    assert_int_equal(alone.findings, 0);
    compare(&t, &forged, &anchors);
    expect(&t, "anchor-differs", 30);
    assert_int_equal(t.sums.found, 0);
    assert_non_null(strstr(t.seen.first, "entry "));
    assert_non_null(strstr(t.seen.first, "(anchor name)"));
    snapshot_free(&snapshot);
    world_free(&forged);
    world_free(&w);
    anchors_free(&anchors);
}

/* Only the youngest part is rewritten, behind the third anchor. */
static void test_rewritten_from_the_middle(void **state) {
    struct keys *k = *state;
    struct world w, forged;
    struct anchors anchors = {0};
    struct trial t = trial(k, "anchor-differs");
    settle(&w, 5, k->ours, &anchors);
    world_make(&forged, 5, 0, k->ours);
    for (size_t i = 1; i <= 60; i++) {
        if (i == 31) forged.random = 99;
        world_window(&forged, i % forged.n_chains);
    }
    compare(&t, &forged, &anchors);
    expect(&t, "anchor-differs", 15);
    assert_int_equal(t.sums.found, 15);
    world_free(&forged);
    world_free(&w);
    anchors_free(&anchors);
}

static void test_cut_short(void **state) {
    struct keys *k = *state;
    struct world w, forged;
    struct anchors anchors = {0};
    struct trial t = trial(k, "anchor-missing");
    settle(&w, 5, k->ours, &anchors);
    world_make(&forged, 5, 0, k->ours);
    for (size_t i = 1; i <= 50; i++) world_window(&forged, i % forged.n_chains);
    compare(&t, &forged, &anchors);
    expect(&t, "anchor-missing", 5);
    assert_non_null(strstr(t.seen.first, "is not there: the chain ends with entry 9 "));
    world_free(&forged);

    t = trial(k, "anchor-missing");
    world_make(&forged, 5, 0, k->ours);
    compare(&t, &forged, &anchors);
    expect(&t, "anchor-missing", 30); /* nothing is left at all */
    world_free(&forged);

    t = trial(k, "anchor-missing");
    for (size_t i = 0; i < w.n; i++) /* number 3 of chain 1, which the second anchor names */
        if (w.lines[i].chain == 1 && i / w.n_chains == 3) drop_line(&w, i);
    compare(&t, &w, &anchors);
    expect(&t, "anchor-missing", 1);
    assert_non_null(strstr(t.seen.first, "the ledger has others before and after it"));
    world_free(&w);
    anchors_free(&anchors);
}

/* With --from, or after retention, anchors of what lies before are no fault. */
static void test_before_the_beginning(void **state) {
    struct keys *k = *state;
    struct world w;
    struct anchors anchors = {0};
    settle(&w, 5, k->ours, &anchors);
    for (int part = 0; part < 2; part++) {
        struct trial t = trial(k, "anchored-early");
        t.from_ms = part ? AT : 0;
        t.skip = 5;
        compare(&t, &w, &anchors);
        expect(&t, "", 0);
        assert_int_equal(t.sums.early, 10);
        assert_int_equal(t.sums.found, 20);
        assert_int_equal(t.seen.with_code, 5); /* a note for each chain */
    }
    /* Nothing of it was read: the committed state alone tells that the last anchor holds. */
    struct trial t = trial(k, "anchored-early");
    t.from_ms = AT;
    t.skip = 1000;
    compare(&t, &w, &anchors);
    expect(&t, "", 0);
    assert_int_equal(t.sums.early, 30);
    world_free(&w);
    anchors_free(&anchors);
}

/* A rewritten ledger that begins late enough to hold no anchored entry is not let off. */
static void test_hidden_beginning(void **state) {
    struct keys *k = *state;
    struct world w, forged;
    struct anchors anchors = {0};
    settle(&w, 5, k->ours, &anchors);
    settle(&forged, 6, k->ours, NULL);
    for (int i = 0; i < 10; i++) world_window(&forged, (size_t)i % forged.n_chains);

    /* Its first entry is the one behind the last anchor, and names another before it. */
    struct trial t = trial(k, "anchor-differs");
    t.from_ms = AT;
    t.skip = 12;
    compare(&t, &forged, &anchors);
    expect(&t, "anchor-differs", 5);

    /* Its first entry comes later still: those between were settled after the anchor. */
    t = trial(k, "anchor-missing");
    t.from_ms = AT + 6 * MINUTE - 600000;
    t.skip = 13;
    compare(&t, &forged, &anchors);
    expect(&t, "anchor-missing", 5);
    world_free(&forged);
    world_free(&w);
    anchors_free(&anchors);
}

static void test_signatures(void **state) {
    struct keys *k = *state;
    struct world w;
    struct anchors anchors = {0};
    settle(&w, 5, k->ours, NULL);
    take(&anchors, &w, k->other, WORLD_GROUP, AT);
    struct trial t = trial(k, "anchor-unknown-key");
    compare(&t, &w, &anchors);
    expect(&t, "anchor-unknown-key", 1);

    /* Under our key's name. */
    char *id = strstr(buf_cstr(&anchors.v[0]), "\"key\":\"");
    assert_non_null(id);
    memcpy(id + 7, k->ours_pub.id, LEDGER_KEY_ID_LEN);
    t = trial(k, "anchor-bad-signature");
    compare(&t, &w, &anchors);
    expect(&t, "anchor-bad-signature", 1);
    assert_int_equal(t.sums.heads, 0);

    t = trial(k, "");
    t.n_keys = 0; /* not checked */
    compare(&t, &w, &anchors);
    expect(&t, "", 0);
    world_free(&w);
    anchors_free(&anchors);
}

/* An entry of partition 0 that carries the statement. */
static void tell_introduced(struct world *w) {
    struct world_chain *c = &w->chains[0];
    struct ledger_window window = {.group = WORLD_GROUP,
                                   .topic = c->topic,
                                   .first = c->next,
                                   .next = c->next + 1,
                                   .seq = c->seq++,
                                   .opened_ms = w->clock,
                                   .settled_ms = w->clock,
                                   .introduce = true};
    memcpy(window.prev, c->head, SHA256_LEN);
    struct world_line *line = world_add(w);
    ledger_record_key(line->key, sizeof line->key, c->topic, 0);
    assert_true(ledger_encode(&window, w->signer, &line->value, c->head));
    c->next++;
}

/* Partition 0 goes on with a new key, the others don't: how many of them are told to end with what
 * the old one alone vouches for. */
static size_t replaced(const struct keys *k, const struct ledger_signer *by) {
    struct anchors anchors = {0};
    struct snapshot snapshot;
    struct reader_limits limits = {0};
    struct seen seen = {.code = "replaced-key"};
    struct world w;
    settle(&w, 5, k->ours, NULL);
    if (by) take(&anchors, &w, k->ours, WORLD_GROUP, AT);
    if (by) take(&anchors, &w, by, WORLD_GROUP, AT + MINUTE);
    w.signer = k->third;
    tell_introduced(&w);
    world_snapshot(&w, &snapshot);
    struct audit_options opts = {.source = WORLD_SOURCE,
                                 .group = WORLD_GROUP,
                                 .keys = &k->ours_pub,
                                 .n_keys = 1,
                                 .report = watch,
                                 .context = &seen};
    struct audit *a = audit_new(&opts);
    struct anchored *x = anchored_new(&snapshot, &k->ours_pub, 1, &limits, a);
    for (size_t i = 0; i < anchors.n; i++)
        anchored_add(x, "name", (struct str){anchors.v[i].p, anchors.v[i].n}, 0);
    for (size_t i = 0; i < w.n; i++) {
        struct arena arena = {0};
        struct ledger_entry e;
        struct ledger_read_error why;
        struct str value = {w.lines[i].value.p, w.lines[i].value.n};
        assert_true(ledger_read(value, &arena, &e, &why));
        audit_entry(a, str_c(w.lines[i].key), value, &(struct ledger_place){.name = PLACE});
        anchored_entry(x, &e);
        arena_free(&arena);
    }
    anchored_vouch(x);
    audit_finish(a);
    anchored_finish(x);
    if (seen.findings) print_error("%s\n", seen.first);
    assert_int_equal(seen.findings, 0);
    anchored_free(x);
    audit_free(a);
    snapshot_free(&snapshot);
    world_free(&w);
    anchors_free(&anchors);
    return seen.with_code;
}

/* An anchor by the new key says of what the old one has signed that it is not younger. */
static void test_vouch_for_replaced_keys(void **state) {
    struct keys *k = *state;
    rotate(k, k->third, "ours");
    assert_int_equal(replaced(k, NULL), WORLD_PARTITIONS + 1);
    assert_int_equal(replaced(k, k->ours), WORLD_PARTITIONS + 1);
    assert_int_equal(replaced(k, k->third), 0);
}

/* What a time is looked for by, and what the store knows. */
static void test_times(void **state) {
    struct keys *k = *state;
    static const struct {
        const char *name, *code; /* code NULL: nothing */
        int64_t after;           /* the store got it so long after AT */
        bool finding;
    } cases[] = {{NULL, NULL, 0, false},
                 {"right", NULL, 0, false},
                 {"2001/01/01/000000Z-0123456789abcdef.json", "anchor-misnamed", 0, true},
                 {NULL, NULL, MINUTE, false},
                 {NULL, "anchors-elsewhen", 61 * MINUTE, false},
                 {NULL, "anchors-elsewhen", -61 * MINUTE, false}};
    struct world w;
    struct anchors anchors = {0};
    char right[ANCHOR_NAME_LEN + 1];
    settle(&w, 5, k->ours, NULL);
    take(&anchors, &w, k->ours, WORLD_GROUP, AT);
    assert_true(anchor_name(AT, 7, right));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct trial t = trial(k, cases[i].code ? cases[i].code : "");
        t.name = cases[i].name && strcmp(cases[i].name, "right") == 0 ? right : cases[i].name;
        t.written_ms = cases[i].after ? AT + cases[i].after : 0;
        compare(&t, &w, &anchors);
        assert_int_equal(t.seen.findings, cases[i].finding);
        assert_int_equal(t.seen.with_code, cases[i].code != NULL);
    }
    world_free(&w);
    anchors_free(&anchors);
}

/* One partition has entries that wait for their anchor while others' are written. */
static void test_stopped(void **state) {
    struct keys *k = *state;
    for (int64_t hours = 20; hours < 30; hours += 8) {
        struct world w, then;
        struct anchors anchors = {0};
        settle(&w, 5, k->ours, NULL);
        take(&anchors, &w, k->ours, WORLD_GROUP, w.clock);
        then = w; /* what later anchors know of it */
        world_window(&w, 1);
        take(&anchors, &then, k->ours, WORLD_GROUP, w.clock + hours * 60 * MINUTE);
        struct trial t = trial(k, "anchors-stopped");
        compare(&t, &w, &anchors);
        assert_int_equal(t.seen.findings, 0);
        assert_int_equal(t.seen.with_code, hours > 24);
        assert_int_equal(t.sums.stopped, hours > 24);
        world_free(&w);
        anchors_free(&anchors);
    }
}

/* The old key's statement in the ledger makes the new one known. */
static void test_rotation(void **state) {
    struct keys *k = *state;
    struct world w;
    struct anchors anchors = {0};
    struct trial t = trial(k, "");
    rotate(k, k->third, "ours");
    settle(&w, 5, k->third, &anchors);
    compare(&t, &w, &anchors);
    expect(&t, "", 0);
    assert_int_equal(t.sums.found, 30);
    world_free(&w);
    anchors_free(&anchors);
}

/* The right entry under the right number, and another end. */
static void test_other_end(void **state) {
    struct keys *k = *state;
    struct world w;
    struct anchors anchors = {0};
    struct trial t = trial(k, "anchor-differs");
    settle(&w, 5, k->ours, NULL);
    w.chains[1].next++;
    take(&anchors, &w, k->ours, WORLD_GROUP, AT);
    w.chains[1].next--;
    compare(&t, &w, &anchors);
    expect(&t, "anchor-differs", 1);
    assert_int_equal(t.sums.found, w.n_chains - 1);
    world_free(&w);
    anchors_free(&anchors);
}

static void test_others(void **state) {
    struct keys *k = *state;
    struct world w, forged;
    struct anchors anchors = {0};
    settle(&w, 5, k->ours, NULL);
    settle(&forged, 6, k->ours, NULL);
    take(&anchors, &w, k->ours, "another", AT);
    struct trial t = trial(k, "anchors-none");
    compare(&t, &forged, &anchors); /* another group's alone prove nothing of this one */
    expect(&t, "anchors-none", 1);
    assert_int_equal(t.sums.anchors, 0);
    for (size_t i = 0; i < w.n_chains; i++) memcpy(w.chains[i].topic, "pobs", 4);
    take(&anchors, &w, k->ours, WORLD_GROUP, AT);
    t = trial(k, "");
    compare(&t, &forged, &anchors); /* another source's */
    expect(&t, "", 0);
    assert_int_equal(t.sums.heads, 0);
    world_free(&forged);
    world_free(&w);
    anchors_free(&anchors);
}

/* Each bit of an anchor: a flipped one is named, and nothing that it says is believed. */
static void test_flips(void **state) {
    struct keys *k = *state;
    struct world w;
    struct anchors anchors = {0};
    world_make(&w, 5, 5, k->ours);
    take(&anchors, &w, k->ours, WORLD_GROUP, AT);
    for (size_t i = 0; i < anchors.v[0].n; i++) {
        struct trial t = trial(k, "");
        char *at = anchors.v[0].p + i;
        char was = *at;
        *at = (char)(was ^ (1 << (i % 8)));
        compare(&t, &w, &anchors);
        *at = was;
        if (t.seen.findings != 1) fail_msg("byte %zu: %zu findings", i, t.seen.findings);
    }
    world_free(&w);
    anchors_free(&anchors);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_form),
        cmocka_unit_test(test_other_forms),
        cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_put),
        cmocka_unit_test(test_listing),
        cmocka_unit_test(test_sound),
        cmocka_unit_test(test_rewritten_from_the_start),
        cmocka_unit_test(test_rewritten_from_the_middle),
        cmocka_unit_test(test_cut_short),
        cmocka_unit_test(test_before_the_beginning),
        cmocka_unit_test(test_hidden_beginning),
        cmocka_unit_test(test_signatures),
        cmocka_unit_test(test_vouch_for_replaced_keys),
        cmocka_unit_test(test_times),
        cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_rotation),
        cmocka_unit_test(test_other_end),
        cmocka_unit_test(test_others),
        cmocka_unit_test(test_flips),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
