/* What is sent and written: compression, lines, and the bytes that each event has to have (P7). */
#include "tests/sim/judging.h"

#include <libdeflate.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "tests/sim/store.h"
#include "tests/sim/world.h"
#include "worker/base/buf.h"

bool ends_in(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* A stream of gzip ends with the length of what is in it; the most that deflate makes of a byte is
 * 1,032. */
static struct str inflate(struct str body) {
    static struct libdeflate_decompressor *d;
    size_t size = 0, n = 0;
    if (!d) d = libdeflate_alloc_decompressor();
    for (size_t i = 1; i <= 4 && i <= body.n; i++)
        size = size << 8 | (unsigned char)body.p[body.n - i];
    if (size > 1032 * body.n) world_fail("a body is no gzip: it says %zu bytes", size);
    char *plain = xmalloc(size);
    if (libdeflate_gzip_decompress(d, body.p, body.n, plain, size, &n) != LIBDEFLATE_SUCCESS)
        world_fail("a body is no gzip");
    return (struct str){plain, n};
}

static struct str unpack_zstd(struct str body) {
    static ZSTD_DCtx *d;
    if (!d) d = ZSTD_createDCtx();
    unsigned long long size = ZSTD_getFrameContentSize(body.p, body.n);
    if (size >= ZSTD_CONTENTSIZE_ERROR) world_fail("a body is no zstd, or does not say its length");
    char *plain = xmalloc(size);
    size_t n = ZSTD_decompressDCtx(d, plain, size, body.p, body.n);
    if (ZSTD_isError(n)) world_fail("a body is no zstd");
    return (struct str){plain, n};
}

/* What the body of this key is without compression; malloc's. */
struct str body_unpack(const char *key, struct str body) {
    if (ends_in(key, ".gz")) return inflate(body);
    if (ends_in(key, ".zst")) return unpack_zstd(body);
    return (struct str){xstrndup(body.p, body.n), body.n};
}

bool body_is_batch(const char *key) {
    return strstr(key, ".ndjson") != NULL;
}

/* Each event of a body. */
void body_each_line(const char *key, struct str text, body_line_fn *fn, void *context) {
    bool batch = body_is_batch(key);
    for (size_t at = 0; at < text.n;) {
        const char *end = batch ? memchr(text.p + at, '\n', text.n - at) : text.p + text.n;
        if (!end) world_fail("P7: %s does not end in a line's end", key);
        struct str line = {text.p + at, (size_t)(end - text.p) - at};
        struct event *e = events_in(line);
        if (!e) world_fail("P7: %s holds what is no event: %.*s", key, (int)line.n, line.p);
        fn(e, line, context);
        at += line.n + batch;
    }
}

/* What is at a place has to be one of its events as it is without secrets. */
void body_judge_line(const struct event *e, struct str line, int place, const char *key) {
    const struct destination_plan *d = events_destination(e->destination);
    if (!str_eq(line, e->expected))
        world_fail("P7: event %d is delivered as %.*s, not as %.*s", e->number, (int)line.n, line.p,
                   (int)e->expected.n, e->expected.p);
    if (e->fate == FATE_SKIPPED || e->fate == FATE_DEAD)
        world_fail("event %d is delivered, which is not to be", e->number);
    if (d->place != place || strncmp(key, d->prefix, strlen(d->prefix)) != 0)
        world_fail("event %d is delivered to %s%s, where it does not belong", e->number,
                   store_place(place)->url, key);
    if (e->visible_us > world_us())
        world_fail("event %d is delivered, which nobody may have read", e->number);
}

void hex_of(struct str data, char ret[HASH_HEX + 1]) {
    static EVP_MD *sha256; /* SHA256() looks for it each time */
    unsigned char digest[SHA256_DIGEST_LENGTH];
    if (!sha256) sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    if (!EVP_Digest(data.p, data.n, digest, NULL, sha256, NULL)) world_fail("no SHA-256");
    for (int i = 0; i < SHA256_DIGEST_LENGTH; i++) {
        ret[2 * i] = "0123456789abcdef"[digest[i] >> 4];
        ret[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
    }
    ret[HASH_HEX] = '\0';
}

bool parse_batch_key(const char *key, struct batch_key *ret) {
    char topic[32];
    int partition;
    const char *from = strstr(key, "dt=");
    if (!from || sscanf(from, "dt=%*10[0-9-]/%31[a-z.]-%d-%" SCNd64 "-%" SCNd64 "-", topic,
                        &partition, &ret->first, &ret->next) != 4)
        return false;
    ret->topic = source_index(topic, strlen(topic));
    ret->partition = partition;
    return ret->topic >= 0;
}
