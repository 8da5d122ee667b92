#include "worker/base/hash.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/base/random.h"

/* A digest that fails leaves nothing sane to do: the library is broken or memory is out. */
static void must(int ok, const char *what) {
    if (ok == 1) return;
    fprintf(stderr, "runsink: %s failed in libcrypto\n", what);
    abort();
}

/* Fetched once: OpenSSL 3 looks an algorithm up by name at each use otherwise. */
static EVP_MD *sha256_md, *md5_md; /* md5_md NULL: refused */
static EVP_MAC *hmac;
static uint64_t process_key[2];
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* A thread's contexts, freed when the thread ends. */
struct contexts {
    EVP_MD_CTX *sha256, *md5; /* one each: a context that changes its digest is set up anew */
    EVP_MAC_CTX *hmac;
};
static pthread_key_t thread_ctx;

static void free_ctx(void *arg) {
    struct contexts *c = arg;
    EVP_MD_CTX_free(c->sha256);
    EVP_MD_CTX_free(c->md5);
    EVP_MAC_CTX_free(c->hmac);
    free(c);
}

static void setup(void) {
    sha256_md = EVP_MD_fetch(NULL, "SHA256", NULL);
    md5_md = EVP_MD_fetch(NULL, "MD5", NULL);
    hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    must(sha256_md && hmac, "fetching SHA-256 and HMAC");
    random_bytes(process_key, sizeof process_key);
    must(pthread_key_create(&thread_ctx, free_ctx) == 0, "making a thread key");
}

static const struct contexts *contexts(void) {
    static _Thread_local struct contexts *c;
    if (c) return c;
    pthread_once(&once, setup);
    c = xcalloc(1, sizeof *c);
    c->sha256 = EVP_MD_CTX_new();
    c->md5 = EVP_MD_CTX_new();
    c->hmac = EVP_MAC_CTX_new(hmac);
    char digest[] = "SHA256";
    const OSSL_PARAM params[] = {OSSL_PARAM_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 6),
                                 OSSL_PARAM_END};
    must(c->sha256 && c->md5 && c->hmac && EVP_MAC_CTX_set_params(c->hmac, params) == 1 &&
             pthread_setspecific(thread_ctx, c) == 0,
         "a thread's contexts");
    return c;
}

void sha256(const void *data, size_t n, uint8_t ret[SHA256_LEN]) {
    EVP_MD_CTX *ctx = contexts()->sha256;
    must(EVP_DigestInit_ex2(ctx, sha256_md, NULL), "SHA-256");
    must(EVP_DigestUpdate(ctx, data, n), "SHA-256");
    must(EVP_DigestFinal_ex(ctx, ret, NULL), "SHA-256");
}

bool md5(const void *data, size_t n, uint8_t ret[MD5_LEN]) {
    EVP_MD_CTX *ctx = contexts()->md5;
    if (!md5_md) return false;
    must(EVP_DigestInit_ex2(ctx, md5_md, NULL), "MD5");
    must(EVP_DigestUpdate(ctx, data, n), "MD5");
    must(EVP_DigestFinal_ex(ctx, ret, NULL), "MD5");
    return true;
}

struct sha256_ctx *sha256_begin(void) {
    pthread_once(&once, setup);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    must(ctx && EVP_DigestInit_ex2(ctx, sha256_md, NULL), "SHA-256");
    return (struct sha256_ctx *)ctx;
}

void sha256_add(struct sha256_ctx *ctx, const void *data, size_t n) {
    must(EVP_DigestUpdate((EVP_MD_CTX *)ctx, data, n), "SHA-256");
}

void sha256_end(struct sha256_ctx *ctx, uint8_t ret[SHA256_LEN]) {
    must(EVP_DigestFinal_ex((EVP_MD_CTX *)ctx, ret, NULL), "SHA-256");
    EVP_MD_CTX_free((EVP_MD_CTX *)ctx);
}

void hmac_sha256(const void *key, size_t key_len, const void *data, size_t n,
                 uint8_t ret[SHA256_LEN]) {
    EVP_MAC_CTX *ctx = contexts()->hmac;
    size_t got = 0;
    /* Without a key, OpenSSL would go on with the one before. */
    must(EVP_MAC_init(ctx, key_len ? key : "", key_len, NULL), "HMAC-SHA-256");
    must(EVP_MAC_update(ctx, data, n), "HMAC-SHA-256");
    must(EVP_MAC_final(ctx, ret, &got, SHA256_LEN) == 1 && got == SHA256_LEN, "HMAC-SHA-256");
    must(EVP_MAC_init(ctx, (const unsigned char *)"", 1, NULL), "HMAC-SHA-256"); /* wipes the key */
}

/* SipHash-1-3, after Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012). */
#define ROTL(x, b) ((x) << (b) | (x) >> (64 - (b)))

static inline void sip_round(uint64_t v[4]) {
    v[0] += v[1], v[1] = ROTL(v[1], 13), v[1] ^= v[0], v[0] = ROTL(v[0], 32);
    v[2] += v[3], v[3] = ROTL(v[3], 16), v[3] ^= v[2];
    v[0] += v[3], v[3] = ROTL(v[3], 21), v[3] ^= v[0];
    v[2] += v[1], v[1] = ROTL(v[1], 17), v[1] ^= v[2], v[2] = ROTL(v[2], 32);
}

uint64_t siphash13(const uint64_t key[2], const void *data, size_t n) {
    const unsigned char *p = data;
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
                     key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573};
    size_t whole = n / 8 * 8;
    for (size_t i = 0; i < whole; i += 8) {
        uint64_t m;
        memcpy(&m, p + i, 8);
        v[3] ^= m;
        sip_round(v);
        v[0] ^= m;
    }
    uint64_t last = (uint64_t)n << 56;
    for (size_t i = whole; i < n; i++) last |= (uint64_t)p[i] << (8 * (i - whole));
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    sip_round(v);
    sip_round(v);
    sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

uint64_t keyed_hash(const void *data, size_t n) {
    pthread_once(&once, setup);
    return siphash13(process_key, data, n);
}

uint64_t keyed_hash_numbered(struct str name, int32_t number) {
    uint64_t parts[2] = {keyed_hash(name.p, name.n), (uint64_t)(uint32_t)number};
    return keyed_hash(parts, sizeof parts);
}
