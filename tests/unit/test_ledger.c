/* Ledger entries: the bytes that the README specifies, and that what is written can be read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/ledger/entry.h"

#define ZEROS "0000000000000000000000000000000000000000000000000000000000000000"
#define A84 "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
#define ONES "0101010101010101010101010101010101010101010101010101010101010101"
#define HEAD_TO(next)                                                                              \
    "{\"v\":1,\"group\":\"g\",\"seq\":7,\"topic\":\"jobs\",\"partition\":3,\"first\":100,"         \
    "\"next\":" next ","                                                                           \
    "\"opened\":1760000000000,\"settled\":1760000001000,\"version\":\"" RUNSINK_VERSION            \
    "\",\"prev\":\"" ZEROS "\""
#define HEAD HEAD_TO("120")
#define RULES "0123456789abcdef"
#define HEAD2_OF(cluster, next)                                                                    \
    "{\"v\":2,\"group\":\"g\",\"cluster\":" cluster ",\"seq\":7,\"topic\":\"jobs\","               \
    "\"partition\":3,\"first\":100,\"next\":" next ",\"opened\":1760000000000,"                    \
    "\"settled\":1760000001000,\"version\":\"" RUNSINK_VERSION "\",\"rules\":\"" RULES             \
    "\",\"prev\":\"" ZEROS "\""
#define HEAD2 HEAD2_OF("\"c\"", "120")
#define EMPTY HEAD_TO("100")

static const uint8_t ones[SHA256_LEN] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
                                         1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

static struct ledger_window window(const struct ledger_item *items, size_t n) {
    return (struct ledger_window){.group = "g",
                                  .topic = "jobs",
                                  .partition = 3,
                                  .first = 100,
                                  .next = 120,
                                  .seq = 7,
                                  .opened_ms = 1760000000000,
                                  .settled_ms = 1760000001000,
                                  .items = items,
                                  .n_items = n};
}

/* The entry is HEAD, or HEAD2, this, and the hash of both. */
static void expect(const struct ledger_window *w, const char *outcomes) {
    struct buf b, want;
    uint8_t hash[SHA256_LEN], again[SHA256_LEN];
    char text[HEX_LEN(SHA256_LEN) + 1];
    buf_init(&b, 1 << 20);
    buf_init(&want, 1 << 20);
    buf_puts(&want, w->maker ? HEAD2 : HEAD);
    buf_puts(&want, outcomes);
    sha256(want.p, want.n, again);
    hex(again, sizeof again, text);
    buf_printf(&want, ",\"hash\":\"%s\"}", text);
    assert_true(ledger_encode(w, NULL, &b, hash));
    assert_string_equal(buf_cstr(&b), buf_cstr(&want));
    assert_memory_equal(hash, again, SHA256_LEN);
    buf_free(&b);
    buf_free(&want);
}

static void test_empty_window(void **state) {
    (void)state;
    struct ledger_window w = window(NULL, 0);
    expect(&w, "");
}

static void test_lost_window(void **state) {
    (void)state;
    struct ledger_window w = window(NULL, 0);
    w.lost = true;
    expect(&w, ",\"lost\":[[100,119]]");
}

static const struct ledger_maker maker = {
    "c", (const uint8_t[LEDGER_RULES_LEN]){0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef}};

static void test_form_2(void **state) {
    (void)state;
    const int64_t offsets[] = {100, 101};
    const struct ledger_item item = {
        .kind = LEDGER_SKIPPED, .why = "no-sink", .offsets = offsets, .n = 2};
    struct ledger_last last = {101, 1760000000500, 2147483647};
    struct ledger_window w = window(&item, 1);
    w.maker = &maker;
    expect(&w, ",\"skipped\":[{\"why\":\"no-sink\",\"offsets\":[[100,101]]}]");
    w.last = &last;
    expect(&w, ",\"last\":[101,1760000000500,2147483647],\"skipped\":[{\"why\":\"no-sink\","
               "\"offsets\":[[100,101]]}]");
    last.timestamp_ms = -1;
    last.bytes = 0;
    expect(&w, ",\"last\":[101,-1,0],\"skipped\":[{\"why\":\"no-sink\",\"offsets\":[[100,101]]}]");
    w = window(NULL, 0);
    w.maker = &maker;
    w.lost = true;
    expect(&w, ",\"lost\":[[100,119]]");
}

static void test_what_form_2_says(void **state) {
    (void)state;
    static const char entry[] = HEAD2 ",\"last\":[119,-1,4711],\"skipped\":[{\"offsets\":"
                                      "[119]}],\"root\":\"" ONES "\",\"hash\":\"" ZEROS "\"}";
    struct arena arena = {0};
    struct ledger_entry e;
    struct ledger_read_error why;
    assert_true(ledger_read(str_c(entry), &arena, &e, &why));
    assert_int_equal(e.form, 2);
    assert_true(str_is(e.cluster, "c"));
    assert_memory_equal(e.rules, maker.rules, LEDGER_RULES_LEN);
    assert_true(e.has_last && e.last.offset == 119 && e.last.timestamp_ms == -1);
    assert_int_equal(e.last.bytes, 4711);
    assert_true(e.has_root);
    /* What it says of its window is what form 1 says, to the byte. */
    assert_true(str_is(e.head, ",\"seq\":7,\"topic\":\"jobs\",\"partition\":3,\"first\":100,"
                               "\"next\":120"));
    assert_true(str_is(e.body, ",\"skipped\":[{\"offsets\":[119]}]"));
    arena_free(&arena);
}

/* Offset, time and size: one that differs is another record. */
static void test_the_same_record(void **state) {
    (void)state;
    struct ledger_last last = {.offset = 5, .timestamp_ms = 7, .bytes = 3};
    assert_true(ledger_last_is(&last, 5, 7, 3));
    assert_false(ledger_last_is(&last, 6, 7, 3));
    assert_false(ledger_last_is(&last, 5, 8, 3));
    assert_false(ledger_last_is(&last, 5, 7, 4));
    assert_false(ledger_last_is(&last, 5, 7, 0));
    last.bytes = 0;
    assert_true(ledger_last_is(&last, 5, 7, 0)); /* a tombstone */
}

/* The chain goes on over the end of one topic and the beginning of the next of its name. */
static void test_made_anew(void **state) {
    (void)state;
    struct ledger_window w = window(NULL, 0);
    struct buf b;
    struct arena arena = {0};
    struct ledger_entry e;
    struct ledger_read_error why;
    uint8_t hash[SHA256_LEN];
    w.next = 100;
    w.anew = true;
    w.before = 4711;
    buf_init(&b, 4096);
    assert_true(ledger_encode(&w, NULL, &b, hash));
    assert_non_null(strstr(buf_cstr(&b), ",\"first\":100,\"next\":100,"));
    assert_non_null(strstr(buf_cstr(&b), ZEROS "\",\"anew\":4711,\"hash\":\""));
    assert_true(ledger_read((struct str){b.p, b.n}, &arena, &e, &why));
    assert_true(e.anew);
    assert_int_equal(e.before, 4711);
    assert_true(e.first == 100 && e.next == 100 && !e.n_groups && !e.lost);
    arena_free(&arena);
    buf_free(&b);
}

static void test_all_kinds(void **state) {
    (void)state;
    const int64_t a[] = {100, 101, 102}, b[] = {103}, c[] = {105}, d[] = {104, 106}, e[] = {107},
                  f[] = {108, 109}, g[] = {110}, h[] = {111, 112};
    const struct ledger_item items[] = {
        {.kind = LEDGER_DEAD,
         .dest = "s3://b",
         .why = "NoSuchBucket",
         .fault = FAULT_TENANT,
         .offsets = e,
         .n = 1},
        {.kind = LEDGER_DELIVERED,
         .dest = "webhook://h/p",
         .status = 204,
         .sha256 = ones,
         .size = 7,
         .offsets = c,
         .n = 1},
        {.kind = LEDGER_SKIPPED, .why = "no-sink", .offsets = d, .n = 2},
        {.kind = LEDGER_DELIVERED,
         .dest = "s3://b",
         .key = "q/\"\\\n\x01\xff",
         .status = 200,
         .sha256 = ones,
         .size = 18446744073709551615u,
         .offsets = a,
         .n = 3},
        {.kind = LEDGER_DELIVERED,
         .dest = "s3://b",
         .key = "r",
         .status = 200,
         .sha256 = ones,
         .size = 0,
         .offsets = b,
         .n = 1},
        {.kind = LEDGER_PARKED,
         .dest = "webhook://h/p",
         .why = "http-503",
         .tier = "10s",
         .offsets = f,
         .n = 2},
        {.kind = LEDGER_DISCARDED,
         .dest = "s3://b",
         .why = "made by \"x\"",
         .who = "ada",
         .offsets = g,
         .n = 1},
        {.kind = LEDGER_REPLAYED, .dest = "s3://b", .tier = "10s", .offsets = h, .n = 2},
    };
    struct ledger_window w = window(items, sizeof items / sizeof *items);
    expect(&w,
           ",\"delivered\":["
           "{\"to\":\"s3://b\",\"objects\":["
           "{\"key\":\"q/\\\"\\\\\\n\\u0001\xef\xbf\xbd\",\"status\":200,\"sha256\":\"" ONES
           "\",\"size\":18446744073709551615,\"offsets\":[[100,102]]},"
           "{\"key\":\"r\",\"status\":200,\"sha256\":\"" ONES "\",\"size\":0,\"offsets\":[103]}]},"
           "{\"to\":\"webhook://h/p\",\"requests\":["
           "{\"status\":204,\"sha256\":\"" ONES "\",\"size\":7,\"offsets\":[105]}]}]"
           ",\"skipped\":[{\"why\":\"no-sink\",\"offsets\":[104,106]}]"
           ",\"parked\":[{\"to\":\"webhook://h/p\",\"tier\":\"10s\",\"why\":\"http-503\","
           "\"offsets\":[[108,109]]}]"
           ",\"dead\":[{\"to\":\"s3://b\",\"fault\":\"tenant\",\"why\":\"NoSuchBucket\","
           "\"offsets\":[107]}]"
           ",\"discarded\":[{\"to\":\"s3://b\",\"why\":\"made by \\\"x\\\"\",\"who\":\"ada\","
           "\"offsets\":[110]}]"
           ",\"replayed\":[{\"to\":\"s3://b\",\"tier\":\"10s\",\"offsets\":[[111,112]]}]");
}

/* One item a record, in the order in which they finished, comes out as one group. */
static void test_items_are_merged(void **state) {
    (void)state;
    const int64_t o[] = {100, 101, 102, 103, 110};
    struct ledger_item items[5];
    for (size_t i = 0; i < 5; i++)
        items[i] = (struct ledger_item){
            .kind = LEDGER_SKIPPED, .why = "no-sink", .offsets = &o[4 - i], .n = 1};
    items[2].why = "tombstone";
    struct ledger_window w = window(items, 5);
    expect(&w, ",\"skipped\":[{\"why\":\"no-sink\",\"offsets\":[[100,101],103,110]},"
               "{\"why\":\"tombstone\",\"offsets\":[102]}]");
}

/* Two batches of one destination whose members interleave stay two groups. */
static void test_interleaved_items_stay_apart(void **state) {
    (void)state;
    const int64_t a[] = {100, 102}, b[] = {101, 103};
    const struct ledger_item items[] = {
        {.kind = LEDGER_PARKED, .tier = "10s", .why = "timeout", .offsets = a, .n = 2},
        {.kind = LEDGER_PARKED, .tier = "10s", .why = "timeout", .offsets = b, .n = 2}};
    struct ledger_window w = window(items, 2);
    expect(&w, ",\"parked\":[{\"tier\":\"10s\",\"why\":\"timeout\",\"offsets\":[100,102]},"
               "{\"tier\":\"10s\",\"why\":\"timeout\",\"offsets\":[101,103]}]");
}

static void test_origins_keep_the_order_of_offsets(void **state) {
    (void)state;
    const int64_t o[] = {100, 101, 102, 103, 105};
    const struct origin origins[] = {
        {"jobs", 1, 9}, {"jobs", 1, 10}, {"jobs", 1, 4}, {"jobs", 2, 5}, {"jobs", 2, 6}};
    const struct ledger_item items[] = {
        {.kind = LEDGER_SKIPPED, .why = "x", .offsets = o, .n = 3, .origins = origins},
        {.kind = LEDGER_SKIPPED, .why = "x", .offsets = o + 3, .n = 2, .origins = origins + 3}};
    struct ledger_window w = window(items, 2);
    expect(&w, ",\"skipped\":[{\"why\":\"x\",\"offsets\":[[100,103],105],\"origin\":"
               "[[\"jobs\",1,[[9,10],4]],[\"jobs\",2,[[5,6]]]]}]");
}

static void test_ceiling(void **state) {
    (void)state;
    const int64_t o[] = {100};
    const struct ledger_item item = {.kind = LEDGER_SKIPPED, .why = "x", .offsets = o, .n = 1};
    struct ledger_window w = window(&item, 1);
    struct buf all, b;
    uint8_t hash[SHA256_LEN], untouched[SHA256_LEN] = {9};
    buf_init(&all, 4096);
    assert_true(ledger_encode(&w, NULL, &all, hash));
    for (size_t max = 2; max < all.n + 2; max++) {
        buf_init(&b, max);
        buf_puts(&b, "ab");
        assert_false(ledger_encode(&w, NULL, &b, untouched));
        assert_int_equal(b.n, 2);
        assert_int_equal(untouched[0], 9);
        buf_free(&b);
    }
    buf_init(&b, all.n + 2);
    buf_puts(&b, "ab");
    assert_true(ledger_encode(&w, NULL, &b, hash));
    buf_free(&b);
    buf_free(&all);
}

/* ---- what is written can be read, and no item outgrows its bound ---- */

static unsigned seed = 1;
static unsigned any(unsigned below) {
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % below;
}

static const char *any_text(char *to, size_t size) {
    static const char nasty[] = "\"\\\n\r\t\x01\x1f\x7f\xc3\xa9\xff/ab";
    size_t n = any((unsigned)size);
    for (size_t i = 0; i < n; i++) to[i] = nasty[any(sizeof nasty - 1)];
    to[n] = '\0';
    return to;
}

enum { ITEMS = 12, OFFSETS = 40 };
struct sample {
    struct ledger_item items[ITEMS];
    int64_t offsets[ITEMS][OFFSETS];
    struct origin origins[ITEMS][OFFSETS];
    char dest[ITEMS][60], key[ITEMS][200], why[ITEMS][48], who[ITEMS][200], tier[ITEMS][8];
    struct ledger_window window;
    struct ledger_last last;
    uint64_t records;
};

static void any_sample(struct sample *s) {
    static const int64_t bases[] = {0, 7, 95, 9990, 1000000, 999999999999999990};
    int64_t next = bases[any(6)];
    bool retry = any(2);
    *s = (struct sample){.window = {.group = "g",
                                    .topic = "jobs",
                                    .partition = (int32_t)any(1000),
                                    .seq = any(9),
                                    .first = next}};
    s->window.n_items = any(ITEMS + 1);
    s->window.items = s->items;
    for (size_t i = 0; i < s->window.n_items; i++) {
        struct ledger_item *it = &s->items[i];
        it->kind = (enum ledger_kind)any(LEDGER_KINDS);
        it->dest = any(3) ? any_text(s->dest[any(2)], 2 + any(58)) : NULL;
        it->why = any(3) ? "timeout" : any_text(s->why[i], 47);
        it->tier = any(3) ? NULL : any_text(s->tier[i], 7);
        if (it->kind == LEDGER_DISCARDED) it->who = any_text(s->who[i], 199);
        it->fault = (enum fault)any(4);
        if (it->kind == LEDGER_DELIVERED) {
            it->key = any(2) ? any_text(s->key[i], 199) : NULL;
            it->status = any(2) ? 200 : 0;
            it->sha256 = any(4) ? ones : NULL;
            it->size = any(1000000);
            it->why = it->tier = NULL;
            it->fault = FAULT_NONE;
        }
        it->n = 1 + any(OFFSETS - 1);
        s->records += it->n;
        it->offsets = s->offsets[i];
        if (retry) it->origins = s->origins[i];
        for (size_t k = 0; k < it->n; k++, next += 1 + (any(4) == 0)) {
            s->offsets[i][k] = next;
            s->origins[i][k] = (struct origin){"jobs", (int32_t)any(2), next / (1 + any(2))};
        }
    }
    s->window.next = next;
    s->last = (struct ledger_last){
        .offset = next - 1, .timestamp_ms = (int64_t)any(3) - 1, .bytes = (uint32_t)any(1000000)};
    s->window.maker = any(2) ? &maker : NULL;
    s->window.last = any(2) && next > s->window.first ? &s->last : NULL;
}

static void test_written_is_read(void **state) {
    (void)state;
    for (int round = 0; round < 3000; round++) {
        static struct sample s;
        struct buf b;
        struct arena arena = {0};
        struct ledger_entry e;
        struct ledger_read_error why;
        uint8_t hash[SHA256_LEN];
        any_sample(&s);
        size_t bound = LEDGER_ENTRY_MAX_EMPTY;
        for (size_t i = 0; i < s.window.n_items; i++) bound += ledger_item_size(&s.items[i]);
        buf_init(&b, 1 << 20);
        assert_true(ledger_encode(&s.window, NULL, &b, hash));
        assert_true(b.n <= bound);
        bool ok = ledger_read((struct str){b.p, b.n}, &arena, &e, &why);
        if (!ok) print_error("expected %s at %zu of %s\n", why.what, why.at, buf_cstr(&b));
        assert_true(ok);
        assert_memory_equal(e.hash, hash, SHA256_LEN);
        assert_int_equal(e.first, s.window.first);
        assert_int_equal(e.next, s.window.next);
        assert_int_equal(e.seq, s.window.seq);
        assert_int_equal(e.form, s.window.maker ? 2 : 1);
        assert_int_equal(e.has_last, s.window.maker && s.window.last);
        if (e.has_last) assert_memory_equal(&e.last, &s.last, sizeof s.last);
        uint64_t records = 0;
        for (size_t i = 0; i < e.n_groups; i++) records += e.groups[i].count;
        assert_int_equal(records, s.records);
        arena_free(&arena);
        buf_free(&b);
    }
}

/* The bound counts for merged items too: single records, each an item of its own. */
static void test_bound_of_merged_items(void **state) {
    (void)state;
    for (int64_t first = 0; first < 1200; first += 7) {
        enum { N = 1000 };
        static struct ledger_item items[N];
        static int64_t offsets[N];
        struct buf b;
        uint8_t hash[SHA256_LEN];
        size_t bound = 0;
        for (size_t i = 0; i < N; i++) {
            offsets[i] = first + (int64_t)(i + i / 2); /* pairs: the dearest ranges */
            items[i] = (struct ledger_item){
                .kind = LEDGER_SKIPPED, .why = "x", .offsets = &offsets[i], .n = 1};
            bound += ledger_item_size(&items[i]);
        }
        struct ledger_window w = {
            .group = "g", .topic = "j", .next = 9999, .items = items, .n_items = N};
        buf_init(&b, 1 << 20);
        assert_true(ledger_encode(&w, NULL, &b, hash));
        assert_true(b.n <= bound);
        buf_free(&b);
    }
}

/* One item of many records, its offsets and origins in pairs or alone. */
static void test_bound_of_long_items(void **state) {
    (void)state;
    enum { N = 4000 };
    static int64_t offsets[N];
    static struct origin origins[N];
    for (int pairs = 0; pairs < 2; pairs++) {
        for (int64_t i = 0; i < N; i++) {
            offsets[i] = 1000000 + (pairs ? i + i / 2 : 2 * i);
            origins[i] = (struct origin){"jobs", (int32_t)(i / 2 % 2), offsets[i] - 500000};
        }
        for (int retry = 0; retry < 2; retry++) {
            const struct ledger_item item = {.kind = LEDGER_SKIPPED,
                                             .why = "x",
                                             .offsets = offsets,
                                             .n = N,
                                             .origins = retry ? origins : NULL};
            struct ledger_window w = window(&item, 1);
            struct buf b;
            uint8_t hash[SHA256_LEN];
            buf_init(&b, 1 << 20);
            assert_true(ledger_encode(&w, NULL, &b, hash));
            assert_true(b.n <= ledger_item_size(&item) + LEDGER_ENTRY_MAX_EMPTY);
            buf_free(&b);
        }
    }
}

/* Each text of the fixed part at its longest. */
static void test_bound_of_the_empty_entry(void **state) {
    (void)state;
    char topic[TOPIC_MAX + 1], dir[] = "/tmp/runsink-test-XXXXXX", a[64], b[64], c[64], d[64];
    struct buf out, err;
    uint8_t hash[SHA256_LEN];
    memset(topic, 'x', TOPIC_MAX);
    topic[TOPIC_MAX] = '\0';
    assert_non_null(mkdtemp(dir));
    snprintf(a, sizeof a, "%s/a", dir);
    snprintf(b, sizeof b, "%s/b", dir);
    snprintf(c, sizeof c, "%s/c", dir);
    snprintf(d, sizeof d, "%s/d", dir);
    buf_init(&out, 1 << 20);
    buf_init(&err, 1000);
    assert_true(ledger_keygen(a, b, &err));
    assert_true(ledger_keygen(c, d, &err));
    struct ledger_signer *s = ledger_signer_load(a, &err);
    assert_non_null(s);
    assert_true(ledger_signer_rotate(s, c, &err));
    char cluster[CLUSTER_MAX + 1] = "";
    memset(cluster, '"', CLUSTER_MAX);
    const struct ledger_maker made = {cluster, maker.rules};
    struct ledger_window w = {.maker = &made,
                              .group = "g",
                              .topic = topic,
                              .partition = INT32_MAX,
                              .first = INT64_MAX - 2,
                              .next = INT64_MAX - 1,
                              .seq = UINT64_MAX,
                              .opened_ms = INT64_MAX,
                              .settled_ms = INT64_MAX,
                              .lost = true,
                              .introduce = true};
    assert_true(ledger_encode(&w, s, &out, hash));
    assert_true(out.n <= LEDGER_ENTRY_MAX_EMPTY);
    ledger_signer_free(s);
    unlink(a), unlink(b), unlink(c), unlink(d), rmdir(dir);
    buf_free(&out);
    buf_free(&err);
}

/* ---- keys ---- */

static void test_keys(void **state) {
    (void)state;
    char dir[] = "/tmp/runsink-test-XXXXXX", priv[64], pub[64];
    struct buf err;
    struct stat st;
    buf_init(&err, 4096);
    assert_non_null(mkdtemp(dir));
    snprintf(priv, sizeof priv, "%s/key.pem", dir);
    snprintf(pub, sizeof pub, "%s/key.pub", dir);
    assert_true(ledger_keygen(priv, pub, &err));
    assert_int_equal(stat(priv, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_false(ledger_keygen(priv, pub, &err)); /* never overwrites */

    struct ledger_signer *s = ledger_signer_load(priv, &err);
    struct ledger_pubkey from_pub, from_priv;
    assert_non_null(s);
    assert_true(ledger_pubkey_load(pub, &from_pub, &err));
    assert_true(ledger_pubkey_load(priv, &from_priv, &err));
    assert_string_equal(from_pub.id, from_priv.id);
    assert_string_equal(from_pub.id, ledger_signer_id(s));
    uint8_t sig[LEDGER_SIG_LEN];
    ledger_sign(s, "hello", 5, sig);
    assert_true(ledger_pubkey_check(&from_pub, "hello", 5, sig));
    assert_false(ledger_pubkey_check(&from_pub, "hullo", 5, sig));

    buf_clear(&err);
    assert_null(ledger_signer_load(pub, &err)); /* a public key can't sign */
    assert_non_null(strstr(buf_cstr(&err), "not hold an unencrypted Ed25519 private key"));
    buf_clear(&err);
    assert_false(ledger_signer_rotate(s, priv, &err));
    assert_non_null(strstr(buf_cstr(&err), "the key that is in use"));
    buf_clear(&err);
    assert_null(ledger_signer_load("/nonexistent", &err));
    assert_non_null(strstr(buf_cstr(&err), "/nonexistent: No such file"));
    ledger_signer_free(s);
    unlink(priv), unlink(pub), rmdir(dir);
    buf_free(&err);
}

static void test_record_key(void **state) {
    (void)state;
    char key[300];
    struct str topic;
    int32_t partition;
    ledger_record_key(key, sizeof key, "a.b_c-D", 12);
    assert_string_equal(key, "a.b_c-D/12");
    assert_true(ledger_read_key(str_c(key), &topic, &partition));
    assert_true(str_is(topic, "a.b_c-D"));
    assert_int_equal(partition, 12);
    static const char *const bad[] = {"",     "a",     "/1",   "a/",  "a/-1",          "a/01",
                                      "a/1x", "a/b/1", "../1", "./1", "a/99999999999", "a b/1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(ledger_read_key(str_c(bad[i]), &topic, &partition));
}

/* With RUNSINK_FORMS=FILE the other verifier (tests/e2e/ledger_verifier.py) is given them, too. */
static FILE *forms_file(void) {
    const char *path = getenv("RUNSINK_FORMS");
    FILE *f = path ? fopen(path, "we") : NULL;
    assert_true(f || !path);
    return f;
}

static void test_reader_refuses(void **state) {
    (void)state;
#define OFF(x) HEAD ",\"skipped\":[{\"why\":\"x\",\"offsets\":[" x "]}],\"hash\":\"" ZEROS "\"}"
#define WHY(x) HEAD ",\"skipped\":[{\"why\":\"" x "\",\"offsets\":[1]}],\"hash\":\"" ZEROS "\"}"
#define OUT(x) HEAD "," x ",\"hash\":\"" ZEROS "\"}"
#define ONE ",\"offsets\":[1]}]"
#define ITEM "\"status\":200,\"sha256\":\"" ONES "\",\"size\":5,\"offsets\":[1]}"
#define TAIL(x) HEAD ",\"hash\":\"" ZEROS "\"" x "}"
#define IN1(x) HEAD x ",\"hash\":\"" ZEROS "\"}"
#define IN2(x) HEAD2 x ",\"hash\":\"" ZEROS "\"}"
#define LAST(offset, at) ",\"last\":[" offset "," at ",5]"
#define TO_VERSION                                                                                 \
    ",\"group\":\"g\",\"seq\":0,\"topic\":\"jobs\",\"partition\":0,\"first\":5,\"next\":5,"        \
    "\"opened\":1,\"settled\":1,\"version\":\"1\","
#define BEGIN(group, seq, topic, partition, first, next, prev)                                     \
    "{\"v\":1,\"group\":" group ",\"seq\":" seq ",\"topic\":\"" topic                              \
    "\",\"partition\":" partition ",\"first\":" first ",\"next\":" next                            \
    ",\"opened\":1,\"settled\":1,\"version\":\"1\",\"prev\":\"" prev "\",\"hash\":\"" ZEROS "\"}"
    static const struct {
        const char *entry;
        bool good;
    } cases[] = {
        {HEAD ",\"hash\":\"" ZEROS "\"}", true},
        {OFF("1"), true},
        {OFF("1,[3,4]"), true},
        {WHY("a\\u0001\\n\\\"\\\\"), true},
        {"", false},
        {"{}", false},
        {HEAD ",\"hash\":\"" ZEROS "\"} ", false},
        {HEAD ",\"hash\":\"" ONES "\"", false},
        {" " HEAD ",\"hash\":\"" ZEROS "\"}", false},
        {OFF(""), false},
        {OFF("01"), false},
        {OFF("-1"), false},
        {OFF("1,2"), false}, /* would be [1,2] */
        {OFF("2,1"), false},
        {OFF("[1,1]"), false},
        {OFF("[2,1]"), false},
        {OFF("9223372036854775807"), false},
        {OFF("99999999999999999999"), false},
        {WHY("a\\/"), false},    /* the writer doesn't escape it */
        {WHY("\\u0041"), false}, /* nor this */
        {WHY("\\u000a"), false}, /* and this is \n */
        {WHY("\\u001F"), false}, /* lower case */
        {WHY("\x01"), false},
        {WHY("\\"), false},
        {HEAD ",\"skipped\":[],\"hash\":\"" ZEROS "\"}", false},
        {HEAD ",\"lost\":[[1,2]],\"hash\":\"" ZEROS "\"}", false}, /* not the window */
        {HEAD ",\"lost\":[[100,119]],\"hash\":\"" ZEROS "\"}", true},
        {HEAD ",\"anew\":4711,\"hash\":\"" ZEROS "\"}", false}, /* not an empty window */
        {EMPTY ",\"anew\":4711,\"hash\":\"" ZEROS "\"}", true},
        {EMPTY ",\"anew\":04711,\"hash\":\"" ZEROS "\"}", false},
        {EMPTY ",\"anew\":4711,\"skipped\":[{\"offsets\":[100]}],\"hash\":\"" ZEROS "\"}",
         false}, /* says nothing else */
        {HEAD ",\"dead\":[{\"offsets\":[1]}],\"skipped\":[{\"offsets\":[1]}],\"hash\":\"" ZEROS
              "\"}",
         false}, /* order */
        {HEAD ",\"skipped\":[{\"offsets\":[[1,2]],\"origin\":[[\"j\",0,[5,7]]]}],\"hash\":\"" ZEROS
              "\"}",
         true},
        {HEAD ",\"skipped\":[{\"offsets\":[[1,2]],\"origin\":[[\"j\",0,[5]]]}],\"hash\":\"" ZEROS
              "\"}",
         false}, /* too few */
        {HEAD ",\"skipped\":[{\"offsets\":[1],\"origin\":[[\"j\",0,[5,7]]]}],\"hash\":\"" ZEROS
              "\"}",
         false}, /* too many */
        {HEAD ",\"skipped\":[{\"offsets\":[1],\"origin\":[[\"j/\",0,[5]]]}],\"hash\":\"" ZEROS
              "\"}",
         false}, /* no topic's name */
        /* UTF-8 */
        {WHY("\xc3\xa9\x7f"), true},
        {WHY("\xff"), false},
        {WHY("\xc3"), false},
        {WHY("\xc0\xaf"), false},         /* overlong */
        {WHY("\xed\xa0\x80"), false},     /* a surrogate */
        {WHY("\xf4\x90\x80\x80"), false}, /* above U+10FFFF */
        {"\xef\xbb\xbf" HEAD ",\"hash\":\"" ZEROS "\"}", false},
        /* escapes */
        {WHY("\\u0008\\u000c\\u0000"), true},
        {WHY("\\b"), false},
        {WHY("\\f"), false},
        {WHY("\\u0009"), false},
        {WHY("\\u000d"), false},
        {WHY("\\u0022"), false},
        {WHY("\\u007f"), false},
        {WHY("\\u00e9"), false},
        {WHY("\\ud83d\\ude00"), false},
        {WHY("\\ud800"), false},
        {WHY("\\u00"), false},
        {WHY("\\x41"), false},
        /* white space, and what stands after it */
        {HEAD ",\"hash\":\"" ZEROS "\"}}", false},
        {HEAD ",\"hash\":\"" ZEROS "\",}", false},
        {HEAD ", \"hash\":\"" ZEROS "\"}", false},
        {HEAD ",\"hash\": \"" ZEROS "\"}", false},
        {OFF("1, 3"), false},
        {OFF("[1 ,3]"), false},
        {"[" HEAD ",\"hash\":\"" ZEROS "\"}]", false},
        {"null", false},
        /* numbers */
        {OFF("0"), true},
        {OFF("9223372036854775806"), true},
        {OFF("1.0"), false},
        {OFF("1e1"), false},
        {OFF("+1"), false},
        {OFF("0x1"), false},
        {OFF("-0"), false},
        {OFF("\"1\""), false},
        {OFF("true"), false},
        {OFF("null"), false},
        {OFF("[1]"), false},
        {OFF("[]"), false},
        {OFF("[1,2,3]"), false},
        {OFF("[1,[2,3]]"), false},
        {OFF("1,1"), false},
        {OFF("[1,3],4"), false},
        {OFF("[1,3],[3,5]"), false},
        {OFF("1,"), false},
        /* what it is about */
        {BEGIN("\"g\"", "0", "jobs", "0", "5", "5", ZEROS), true},
        {BEGIN("\"\"", "0", "a.B_c-1", "2147483647", "0", "0", ZEROS), true},
        {BEGIN("1", "0", "jobs", "0", "5", "5", ZEROS), false},
        {BEGIN("null", "0", "jobs", "0", "5", "5", ZEROS), false},
        {BEGIN("\"g\"", "-1", "jobs", "0", "5", "5", ZEROS), false},
        {BEGIN("\"g\"", "9223372036854775808", "jobs", "0", "5", "5", ZEROS), false},
        {BEGIN("\"g\"", "0", "", "0", "5", "5", ZEROS), false},
        {BEGIN("\"g\"", "0", "..", "0", "5", "5", ZEROS), false},
        {BEGIN("\"g\"", "0", "a b", "0", "5", "5", ZEROS), false},
        {BEGIN("\"g\"", "0", "a/b", "0", "5", "5", ZEROS), false},
        {BEGIN("\"g\"", "0", "jobs", "2147483648", "5", "5", ZEROS), false},
        {BEGIN("\"g\"", "0", "jobs", "-1", "5", "5", ZEROS), false},
        {BEGIN("\"g\"", "0", "jobs", "0", "5", "4", ZEROS), false},
        {BEGIN("\"g\"", "0", "jobs", "0", "9223372036854775807", "9223372036854775807", ZEROS),
         false},
        {BEGIN("\"g\"", "0", "jobs", "0", "5", "5", "00"), false},
        {BEGIN("\"g\"", "0", "jobs", "0", "5", "5", "x" ZEROS), false},
        {"{\"v\":2,\"group\":\"g\"}", false},
        /* form 2 */
        {IN2(""), true},
        {HEAD2_OF("\"\"", "100") ",\"hash\":\"" ZEROS "\"}", true},
        {HEAD2_OF("\"" ZEROS "\"", "100") ",\"hash\":\"" ZEROS "\"}", true},
        {HEAD2_OF("\"" ZEROS "0\"", "100") ",\"hash\":\"" ZEROS "\"}", false}, /* too long */
        {HEAD2_OF("1", "100") ",\"hash\":\"" ZEROS "\"}", false},
        {HEAD2_OF("null", "100") ",\"hash\":\"" ZEROS "\"}", false},
        {IN2(LAST("119", "5")), true},
        {IN2(LAST("100", "0") ",\"skipped\":[{\"offsets\":[100]}]"), true},
        {IN2(LAST("119", "-1")), true},
        {IN2(LAST("119", "-2")), false},
        {IN2(LAST("119", "05")), false},
        {IN2(LAST("119", "\"5\"")), false},
        {IN2(LAST("119", "9223372036854775807")), true},
        {IN2(LAST("119", "9223372036854775808")), false},
        {IN2(LAST("120", "5")), false}, /* not of the window */
        {IN2(LAST("99", "5")), false},
        {IN2(LAST("[119]", "5")), false},
        {IN2(",\"last\":[119,5]"), false},
        {IN2(",\"last\":[119,5,5,1]"), false},
        {IN2(",\"last\":[119,5,0]"), true},
        {IN2(",\"last\":[119,5,2147483647]"), true},
        {IN2(",\"last\":[119,5,2147483648]"), false}, /* no record has as many */
        {IN2(",\"last\":[119,5,-1]"), false},
        {IN2(",\"last\":[119,5,05]"), false},
        {IN2(",\"last\":[119,5,\"5\"]"), false},
        {IN2(",\"last\":[119,5,\"" ONES "\"]"), false}, /* nothing is hashed */
        {IN2(",\"last\":[]"), false},
        {IN2(",\"last\":null"), false},
        {IN2(LAST("119", "5") LAST("119", "5")), false},
        {IN2(LAST("119", "5") ",\"lost\":[[100,119]]"), false}, /* nothing was seen */
        {IN2(",\"lost\":[[100,119]]"), true},
        {HEAD2_OF("\"c\"", "100") ",\"anew\":4711,\"hash\":\"" ZEROS "\"}", true},
        {HEAD2_OF("\"c\"", "100") LAST("100", "5") ",\"anew\":4711,\"hash\":\"" ZEROS "\"}", false},
        {IN2(",\"skipped\":[{\"offsets\":[100]}]" LAST("119", "5")), false}, /* order */
        {IN2(",\"root\":\"" ONES "\""), true},
        {IN2(",\"skipped\":[{\"offsets\":[100]}],\"root\":\"" ONES "\""), true},
        {IN2(",\"root\":\"" ONES "\",\"skipped\":[{\"offsets\":[100]}]"), false},
        {IN2(",\"root\":\"01\""), false},
        {IN2(",\"root\":7"), false},
        {IN1(LAST("119", "5")), false}, /* form 1 has none of these */
        {IN1(",\"root\":\"" ONES "\""), false},
        {"{\"v\":2" TO_VERSION "\"prev\":\"" ZEROS "\",\"hash\":\"" ZEROS "\"}", false},
        {"{\"v\":1" TO_VERSION "\"prev\":\"" ZEROS "\",\"hash\":\"" ZEROS "\"}", true},
        {"{\"v\":3" TO_VERSION "\"prev\":\"" ZEROS "\",\"hash\":\"" ZEROS "\"}", false},
        {"{\"v\":1" TO_VERSION "\"rules\":\"" RULES "\",\"prev\":\"" ZEROS "\",\"hash\":\"" ZEROS
         "\"}",
         false},
        {"{\"v\":1,\"v\":1}", false},
        {"{\"group\":\"g\",\"v\":1}", false},
        /* members that are unknown, doubled, missing or elsewhere */
        {OUT("\"more\":1"), false},
        {OUT("\"skipped\":[{\"why\":\"a\"" ONE ",\"skipped\":[{\"why\":\"b\",\"offsets\":[3]}]"),
         false},
        {OUT("\"skipped\":[{\"why\":\"a\",\"why\":\"a\"" ONE), false},
        {OUT("\"skipped\":[{\"why\":\"a\",\"to\":\"b\"" ONE), false},
        {OUT("\"skipped\":[{\"why\":\"a\"}]"), false},
        {OUT("\"skipped\":[{\"why\":\"a\",\"who\":\"b\"" ONE), false},
        {OUT("\"skipped\":[{\"why\":1" ONE), false},
        {OUT("\"skipped\":[{}]"), false},
        {OUT("\"skipped\":{}"), false},
        {OUT("\"skipped\":null"), false},
        {OUT("\"discarded\":[{\"why\":\"a\",\"who\":\"b\"" ONE), true},
        {OUT("\"replayed\":[{\"to\":\"a\",\"tier\":\"10s\"" ONE), true},
        {OUT("\"replayed\":[{\"why\":\"a\",\"who\":\"b\"" ONE), false},
        {OUT("\"skipped\":[{\"offsets\":[1],\"origin\":[]}]"), false},
        {OUT("\"skipped\":[{\"offsets\":[1],\"origin\":[[\"j\",0,[]]]}]"), false},
        {OUT("\"skipped\":[{\"offsets\":[1],\"origin\":[[\"j\",0]]}]"), false},
        {OUT("\"skipped\":[{\"offsets\":[1,3],\"origin\":[[\"j\",0,[7]],[\"j\",0,[5]]]}]"), true},
        {OUT("\"skipped\":[{\"origin\":[[\"j\",0,[7]]],\"offsets\":[1]}]"), false},
        /* what was delivered */
        {OUT("\"delivered\":[{\"to\":\"t\",\"objects\":[{\"key\":\"k\"," ITEM "]}]"), true},
        {OUT("\"delivered\":[{\"to\":\"t\",\"requests\":[{" ITEM "]}]"), true},
        {OUT("\"delivered\":[{\"to\":\"t\",\"requests\":[{\"key\":\"k\"," ITEM "]}]"), false},
        {OUT("\"delivered\":[{\"to\":\"t\",\"objects\":[{" ITEM "]}]"), false},
        {OUT("\"delivered\":[{\"to\":\"t\",\"requests\":[{" ITEM
             "],\"objects\":[{\"key\":\"k\"," ITEM "]}]"),
         false},
        {OUT("\"delivered\":[{\"to\":\"t\",\"objects\":[]}]"), false},
        {OUT("\"delivered\":[{\"to\":\"t\"}]"), false},
        {OUT("\"delivered\":[{\"to\":\"t\",\"requests\":[{\"status\":200,\"sha256\":\"" ONES
             "\",\"offsets\":[1]}]}]"),
         false},
        {OUT("\"delivered\":[{\"to\":\"t\",\"requests\":[{\"status\":200,\"size\":5,\"offsets\":[1]"
             "}]}]"),
         false},
        {OUT("\"delivered\":[{\"to\":\"t\",\"requests\":[{\"status\":200,\"sha256\":\"0A\","
             "\"size\":5,\"offsets\":[1]}]}]"),
         false},
        {OUT("\"delivered\":[{\"to\":\"t\",\"requests\":[{\"status\":-200,\"offsets\":[1]}]}]"),
         false},
        {OUT("\"delivered\":[{\"to\":\"t\",\"requests\":[{\"status\":\"200\",\"offsets\":[1]}]}]"),
         false},
        {OUT("\"lost\":[]"), false},
        {OUT("\"lost\":[[100,118]]"), false},
        {OUT("\"lost\":[100]"), false},
        /* its end */
        {TAIL(",\"sig\":\"" A84 "AA==\",\"key\":\"0123456789abcdef\""), true},
        {TAIL(",\"sig\":\"" A84 "AB==\",\"key\":\"0123456789abcdef\""), false}, /* stray bits */
        {TAIL(",\"sig\":\"" A84 "AAA=\",\"key\":\"0123456789abcdef\""), false},
        {TAIL(",\"sig\":\"" A84 "AA\",\"key\":\"0123456789abcdef\""), false},
        {TAIL(",\"sig\":\"" A84 "A-==\",\"key\":\"0123456789abcdef\""), false},
        {TAIL(",\"sig\":\"" A84 "AA==\",\"key\":\"0123456789ABCDEF\""), false},
        {TAIL(",\"sig\":\"" A84 "AA==\",\"key\":\"0123\""), false},
        {TAIL(",\"sig\":\"" A84 "AA==\""), false},
        {TAIL(",\"key\":\"0123456789abcdef\""), false},
        {TAIL(",\"key\":\"0123456789abcdef\",\"sig\":\"" A84 "AA==\""), false},
        {TAIL(",\"hash\":\"" ZEROS "\""), false},
        {HEAD "}", false},
        {HEAD ",\"hash\":null}", false},
        {HEAD ",\"hash\":\"0" ZEROS "\"}", false},
        {OUT("\"rotate\":{\"from\":\"0123456789abcdef\"}"), false},
        {OUT("\"rotate\":{}"), false},
    };
    FILE *forms = forms_file();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        struct ledger_entry e;
        struct ledger_read_error why = {0};
        bool ok = ledger_read(str_c(cases[i].entry), &arena, &e, &why);
        if (ok != cases[i].good)
            print_error("case %zu (%s at %zu): %s\n", i, why.what, why.at, cases[i].entry);
        assert_int_equal(ok, cases[i].good);
        if (!ok) assert_non_null(why.what);
        if (forms) fprintf(forms, "%c%s\n", ok ? '+' : '-', cases[i].entry);
        arena_free(&arena);
    }
    if (forms) assert_int_equal(fclose(forms), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty_window),
        cmocka_unit_test(test_lost_window),
        cmocka_unit_test(test_made_anew),
        cmocka_unit_test(test_form_2),
        cmocka_unit_test(test_what_form_2_says),
        cmocka_unit_test(test_the_same_record),
        cmocka_unit_test(test_all_kinds),
        cmocka_unit_test(test_items_are_merged),
        cmocka_unit_test(test_interleaved_items_stay_apart),
        cmocka_unit_test(test_origins_keep_the_order_of_offsets),
        cmocka_unit_test(test_ceiling),
        cmocka_unit_test(test_written_is_read),
        cmocka_unit_test(test_bound_of_merged_items),
        cmocka_unit_test(test_bound_of_long_items),
        cmocka_unit_test(test_bound_of_the_empty_entry),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_record_key),
        cmocka_unit_test(test_reader_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
