/* clang-format off */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <pthread.h>
#include <stdlib.h>

#include "worker/base/hash.h"

#define LEN(array) (sizeof(array) / sizeof(array)[0])

static void assert_hex(const uint8_t *p, const char *want) {
    char text[HEX_LEN(SHA256_LEN) + 1];
    hex(p, SHA256_LEN, text);
    assert_string_equal(text, want);
}

/* FIPS 180-4's examples. */
static const struct {
    const char *text, *digest;
} digests[] = {
    {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
};

static void sha256_at_once_and_in_pieces(void **state) {
    (void)state;
    uint8_t digest[SHA256_LEN];
    for (size_t i = 0; i < LEN(digests); i++) {
        size_t n = strlen(digests[i].text);
        sha256(digests[i].text, n, digest);
        assert_hex(digest, digests[i].digest);
        for (size_t piece = 1; piece <= n; piece++) {
            struct sha256_ctx *ctx = sha256_begin();
            struct sha256_ctx *other = sha256_begin(); /* does not disturb the first */
            for (size_t at = 0; at < n; at += piece) {
                sha256_add(ctx, digests[i].text + at, at + piece < n ? piece : n - at);
                sha256_add(other, "x", 1);
            }
            sha256_end(other, digest);
            sha256_end(ctx, digest);
            assert_hex(digest, digests[i].digest);
        }
    }
    sha256(NULL, 0, digest);
    assert_hex(digest, digests[0].digest);
    struct sha256_ctx *ctx = sha256_begin();
    for (int i = 0; i < 1000; i++) {
        char thousand[1000];
        memset(thousand, 'a', sizeof thousand);
        sha256_add(ctx, thousand, sizeof thousand);
    }
    sha256_end(ctx, digest);
    assert_hex(digest, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void *digest_in_a_thread(void *arg) {
    uint8_t digest[SHA256_LEN];
    (void)arg;
    for (int i = 0; i < 100; i++) {
        sha256("abc", 3, digest);
        if (digest[0] != 0xba || digest[31] != 0xad) return arg;
    }
    return NULL;
}

/* A thread's digest context goes with the thread (the leak checker tells). */
static void sha256_in_threads(void **state) {
    (void)state;
    int failed;
    for (int round = 0; round < 10; round++) {
        pthread_t threads[2];
        for (int i = 0; i < 2; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, digest_in_a_thread, &failed), 0);
        for (int i = 0; i < 2; i++) {
            void *ret;
            assert_int_equal(pthread_join(threads[i], &ret), 0);
            assert_null(ret);
        }
    }
}

/* RFC 4231, cases 1, 2, 3 and 6. */
static void hmac(void **state) {
    (void)state;
    uint8_t key[131];
    uint8_t data[50];
    uint8_t mac[SHA256_LEN];
    memset(key, 0x0b, 20);
    hmac_sha256(key, 20, "Hi There", 8, mac);
    assert_hex(mac, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28, mac);
    assert_hex(mac, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    memset(key, 0xaa, 20);
    memset(data, 0xdd, 50);
    hmac_sha256(key, 20, data, 50, mac);
    assert_hex(mac, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe");
    memset(key, 0xaa, 131);
    hmac_sha256(key, 131, "Test Using Larger Than Block-Size Key - Hash Key First", 54, mac);
    assert_hex(mac, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    hmac_sha256("", 0, "", 0, mac);
    assert_hex(mac, "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

static void hex_both_ways(void **state) {
    (void)state;
    uint8_t all[256];
    uint8_t back[256];
    char text[HEX_LEN(256) + 1];
    for (int i = 0; i < 256; i++) all[i] = (uint8_t)i;
    hex(all, 256, text);
    assert_int_equal(strlen(text), 512);
    assert_int_equal(strncmp(text, "000102", 6), 0);
    assert_string_equal(text + 506, "fdfeff");
    assert_true(unhex((struct str){text, 512}, back, 256));
    assert_memory_equal(all, back, 256);
    assert_true(unhex(STR("aAfF09"), back, 3));
    assert_memory_equal(back, "\xaa\xff\x09", 3);
    assert_true(unhex(STR(""), back, 0));
    hex(all, 0, text);
    assert_string_equal(text, "");
    static const char *const bad[] = {"",     "0",    "000",  "00000", "0g00", "g000", "000g",
                                      " 000", "0x00", "00:0", "00/0",  "00@0", "00G0", "00`0"};
    memcpy(back, "\x12\x34", 2);
    for (size_t i = 0; i < LEN(bad); i++) assert_false(unhex(str_c(bad[i]), back, 2));
    assert_memory_equal(back, "\x12\x34", 2); /* untouched on failure */
}

static void base64_both_ways(void **state) {
    (void)state;
    /* RFC 4648, section 10, and the last two digits. */
    static const struct {
        struct str bytes;
        const char *text;
    } cases[] = {
        {STR(""), ""},
        {STR("f"), "Zg=="},
        {STR("fo"), "Zm8="},
        {STR("foo"), "Zm9v"},
        {STR("foob"), "Zm9vYg=="},
        {STR("fooba"), "Zm9vYmE="},
        {STR("foobar"), "Zm9vYmFy"},
        {STR("\xfb\xff\xbf"), "+/+/"},
        {STR("\0\0\0"), "AAAA"},
        {STR("\xff"), "/w=="},
    };
    for (size_t i = 0; i < LEN(cases); i++) {
        struct buf b;
        buf_init(&b, 100);
        buf_puts(&b, "x");
        assert_true(base64_add(&b, cases[i].bytes.p, cases[i].bytes.n));
        assert_string_equal(buf_cstr(&b) + 1, cases[i].text);
        buf_clear(&b);
        assert_true(unbase64_add(&b, str_c(cases[i].text)));
        assert_true(str_eq((struct str){b.p, b.n}, cases[i].bytes));
        buf_free(&b);
    }
    static const char *const bad[] = {
        "Z",    "Zg",    "Zg=",   "Zg===", "=",          "==",       "====",     "Z===",
        "=g==", "Z=g=",  "Zh==",  "Zm9=",  "Zm9v=",      "Zg==Zg==", "Zm 9",     "Zm9v\n",
        "Zm-_", "Zm9v ", "Zm9v!", "Zg=A",  "\xc3\xa9==", "AAAA====", "Zm9vZ===", "Zm9vYmF"};
    for (size_t i = 0; i < LEN(bad); i++) {
        struct buf b;
        buf_init(&b, 100);
        buf_puts(&b, "x");
        if (unbase64_add(&b, str_c(bad[i]))) fail_msg("\"%s\" was taken", bad[i]);
        assert_string_equal(buf_cstr(&b), "x"); /* nothing appended */
        buf_free(&b);
    }
}

/* As lenient readers take it: either alphabet, padding or none, other bytes passed over. */
static void base64_of_any_form(void **state) {
    (void)state;
    static const struct {
        const char *text;
        struct str bytes;
    } cases[] = {
        {"", STR("")},
        {"Zg==", STR("f")},
        {"Zg", STR("f")},
        {"Zg=", STR("f")},
        {"Zh==", STR("f")},
        {"Z", STR("")},
        {"Zm9vY", STR("foo")},
        {"Zm9vYg", STR("foob")},
        {"Zm9vYmE", STR("fooba")},
        {"+/+/", STR("\xfb\xff\xbf")},
        {"-_-_", STR("\xfb\xff\xbf")},
        {"Z m\n9.v", STR("foo")},
        {"Zg==Zg==", STR("f")},
        {"====", STR("")},
        {"\xc3\xa9Zm9v", STR("foo")},
    };
    for (size_t i = 0; i < LEN(cases); i++) {
        struct buf b;
        buf_init(&b, strlen(cases[i].text));
        assert_true(unbase64_any_add(&b, str_c(cases[i].text)));
        if (!str_eq((struct str){b.p, b.n}, cases[i].bytes)) fail_msg("\"%s\"", cases[i].text);
        buf_free(&b);
        if (!cases[i].bytes.n) continue;
        buf_init(&b, cases[i].bytes.n - 1); /* past the ceiling */
        assert_false(unbase64_any_add(&b, str_c(cases[i].text)));
        assert_int_equal(b.n, 0);
        buf_free(&b);
    }
}

static void base64_of_any_length(void **state) {
    (void)state;
    uint8_t bytes[64];
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i * 37 + 200);
    for (size_t n = 0; n < sizeof bytes; n++) {
        struct buf text;
        struct buf back;
        buf_init(&text, 100);
        buf_init(&back, n);
        assert_true(base64_add(&text, bytes, n));
        assert_int_equal(text.n, (n + 2) / 3 * 4);
        assert_true(unbase64_add(&back, (struct str){text.p, text.n}));
        assert_int_equal(back.n, n);
        assert_memory_equal(back.p ? back.p : "", bytes, n);
        buf_free(&back);
        if (n > 0) {
            buf_init(&back, n - 1); /* past the ceiling */
            assert_false(unbase64_add(&back, (struct str){text.p, text.n}));
            assert_int_equal(back.n, 0);
            buf_free(&back);
            buf_init(&back, text.n - 1);
            assert_false(base64_add(&back, bytes, n));
            assert_int_equal(back.n, 0);
            buf_free(&back);
        }
        buf_free(&text);
    }
}

/* OpenSSL's SipHash with one and three rounds is the reference. */
static uint64_t reference(const uint64_t key[2], const void *data, size_t n) {
    static EVP_MAC *mac;
    unsigned c = 1;
    unsigned d = 3;
    size_t size = 8;
    size_t len = 0;
    unsigned char out[8];
    OSSL_PARAM params[] = {OSSL_PARAM_construct_uint(OSSL_MAC_PARAM_C_ROUNDS, &c),
                           OSSL_PARAM_construct_uint(OSSL_MAC_PARAM_D_ROUNDS, &d),
                           OSSL_PARAM_construct_size_t(OSSL_MAC_PARAM_SIZE, &size),
                           OSSL_PARAM_construct_end()};
    if (!mac) mac = EVP_MAC_fetch(NULL, "SIPHASH", NULL);
    EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(mac);
    assert_non_null(ctx);
    assert_int_equal(EVP_MAC_init(ctx, (const unsigned char *)key, 16, params), 1);
    assert_int_equal(EVP_MAC_update(ctx, data, n), 1);
    assert_int_equal(EVP_MAC_final(ctx, out, &len, sizeof out), 1);
    EVP_MAC_CTX_free(ctx);
    uint64_t v;
    memcpy(&v, out, 8);
    return v;
}

static void siphash(void **state) {
    (void)state;
    static const uint64_t keys[][2] = {
        {0x0706050403020100, 0x0f0e0d0c0b0a0908}, {0, 0}, {~UINT64_C(0), 1}};
    for (size_t k = 0; k < LEN(keys); k++)
        for (size_t n = 0; n < 64; n++) {
            unsigned char *data = xmalloc(n); /* exactly as long */
            for (size_t i = 0; i < n; i++) data[i] = (unsigned char)(i * 11 + k);
            assert_true(siphash13(keys[k], data, n) == reference(keys[k], data, n));
            free(data);
        }
}

static void keyed(void **state) {
    (void)state;
    char zeros[32] = {0};
    assert_true(keyed_hash("abc", 3) == keyed_hash("abc", 3));
    assert_true(keyed_hash("abc", 3) != keyed_hash("abd", 3));
    for (size_t n = 1; n < sizeof zeros; n++) /* the length counts */
        assert_true(keyed_hash(zeros, n) != keyed_hash(zeros, n - 1));
    assert_true(keyed_hash("abc", 3) != siphash13((const uint64_t[2]){0, 0}, "abc", 3));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sha256_at_once_and_in_pieces),
        cmocka_unit_test(sha256_in_threads),
        cmocka_unit_test(hmac),
        cmocka_unit_test(hex_both_ways),
        cmocka_unit_test(base64_both_ways),
        cmocka_unit_test(base64_of_any_form),
        cmocka_unit_test(base64_of_any_length),
        cmocka_unit_test(siphash),
        cmocka_unit_test(keyed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
