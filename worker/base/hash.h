/* Digests, on OpenSSL's libcrypto. Any thread. */
#ifndef RUNSINK_HASH_H
#define RUNSINK_HASH_H

#include <stdint.h>

#include "worker/base/text.h"

#define SHA256_LEN 32

void sha256(const void *, size_t, uint8_t ret[SHA256_LEN]);

/* For Content-MD5 alone. False where the library refuses it (FIPS mode). */
#define MD5_LEN 16
bool md5(const void *, size_t, uint8_t ret[MD5_LEN]);

/* Incremental: begin, add, end (which frees). */
struct sha256_ctx;
struct sha256_ctx *sha256_begin(void);
void sha256_add(struct sha256_ctx *, const void *, size_t);
void sha256_end(struct sha256_ctx *, uint8_t ret[SHA256_LEN]);

void hmac_sha256(const void *key, size_t key_len, const void *, size_t, uint8_t ret[SHA256_LEN]);

/* SipHash-1-3 (Aumasson and Bernstein, 2012); little-endian machines. */
uint64_t siphash13(const uint64_t key[2], const void *, size_t);
/* The same under a key drawn at process start: for tables that an attacker fills. */
uint64_t keyed_hash(const void *, size_t);
/* Of a name and a number: topic and partition. */
uint64_t keyed_hash_numbered(struct str name, int32_t number);

#endif
