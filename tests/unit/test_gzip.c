/* The bytes of gzip are part of what a replay repeats: another machine, or another version of the
 * library, must make the same. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>
#include <libdeflate.h>

#include "worker/base/gzip.h"
#include "worker/base/hash.h"
#include "worker/base/text.h"

#define MOST ((size_t)3 << 20)
#define BLOCK 65535

static uint8_t in[MOST + 64], back[MOST];

/* Lines like those of a batch object. */
static void fill_lines(void) {
    uint32_t random = 1;
    for (size_t at = 0; at < MOST;) {
        char line[160];
        random = random * 1664525 + 1013904223;
        int n = snprintf(line, sizeof line,
                         "{\"id\":\"%08x\",\"workspaceId\":\"w-%u\",\"status\":\"SUCCESS\","
                         "\"updatedAt\":\"2026-01-%02uT10:00:%02uZ\"}\n",
                         random, random >> 29, (random >> 20) % 28 + 1, (random >> 10) % 60);
        for (int i = 0; i < n && at < MOST; i++) in[at++] = (uint8_t)line[i];
    }
}

static void fill_noise(void) {
    uint64_t random = 1;
    for (size_t i = 0; i < MOST; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        in[i] = (uint8_t)(random >> 56);
    }
}

static size_t check_back(const uint8_t *p, size_t n, int level) {
    struct buf out;
    size_t got = 0;
    struct gzip *g = gzip_new(level);
    assert_true(gzip_into(g, p, n, &out));
    gzip_free(g);
    struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
    assert_int_equal(libdeflate_gzip_decompress(d, out.p, out.n, back, sizeof back, &got),
                     LIBDEFLATE_SUCCESS);
    libdeflate_free_decompressor(d);
    assert_int_equal(got, n);
    assert_memory_equal(back, p, n);
    size_t took = out.n;
    buf_free(&out);
    return took;
}

static void test_back(void **state) {
    static const size_t sizes[] = {0,         1,         100,           1200,    BLOCK - 1, BLOCK,
                                   BLOCK + 1, 2 * BLOCK, 2 * BLOCK + 1, 1000000, MOST};
    (void)state;
    for (int level = 1; level <= GZIP_LEVEL_MAX; level++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            fill_lines();
            size_t took = check_back(in, sizes[i], level);
            if (sizes[i] > 1000) assert_true(took < sizes[i] / 3);
            fill_noise();
            check_back(in, sizes[i], level);
        }
}

static void digest_of(struct gzip *g, size_t offset, size_t n, char *ret) {
    uint8_t digest[SHA256_LEN];
    struct buf out;
    assert_true(gzip_into(g, in + offset, n, &out));
    sha256(out.p, out.n, digest);
    hex(digest, sizeof digest, ret);
    buf_free(&out);
}

/* Whatever was compressed before, wherever it lies, on each machine. */
static void test_the_same_bytes(void **state) {
    static const char *const want[] = {
        "c34951c9eb0e4c028364dd62116398ed012b26ffe7a2ad689c9e6c76fe23660f",
        "88ae4cb914618db82ef8f16d1b6ddd5e3a255bac2f15b54958add89a887b2f8b"};
    char digest[HEX_LEN(SHA256_LEN) + 1];
    (void)state;
    for (int level = 1; level <= GZIP_LEVEL_MAX; level++) {
        struct gzip *g = gzip_new(level);
        fill_noise();
        digest_of(g, 0, MOST, digest);
        fill_lines();
        for (size_t offset = 0; offset < 64; offset += 9) {
            fill_lines();
            for (size_t i = MOST; i-- > 0;) in[i + offset] = in[i];
            digest_of(g, offset, MOST, digest);
#ifdef __x86_64__ /* older ones, and arm64, have bytes of their own */
            if (!__builtin_cpu_supports("sse4.2")) continue;
            assert_string_equal(digest, want[level - 1]);
#endif
        }
        gzip_free(g);
    }
}

/* Short inputs, where a single place of the table is likely to matter, by streams in many places.
 */
static void test_wherever_it_lies(void **state) {
    enum { STREAMS = 64, INPUTS = 64, LEN = 600 };
    (void)state;
    fill_lines();
    for (int level = 1; level <= GZIP_LEVEL_MAX; level++) {
        char first[INPUTS][HEX_LEN(SHA256_LEN) + 1], digest[HEX_LEN(SHA256_LEN) + 1];
        struct gzip *streams[STREAMS];
        for (size_t i = 0; i < STREAMS; i++) {
            streams[i] = gzip_new(level);
            assert_non_null(streams[i]);
            for (size_t k = 0; k < INPUTS; k++) {
                digest_of(streams[i], k * LEN, LEN, i ? digest : first[k]);
                if (i) assert_string_equal(digest, first[k]);
            }
        }
        for (size_t i = 0; i < STREAMS; i++) gzip_free(streams[i]);
    }
}

static void test_crc(void **state) {
    (void)state;
    assert_int_equal(crc32_of("123456789", 9), 0xcbf43926u); /* the check value of CRC-32 */
    fill_noise();
    assert_int_equal(crc32_of(in, MOST), libdeflate_crc32(0, in, MOST));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_back),
        cmocka_unit_test(test_the_same_bytes),
        cmocka_unit_test(test_wherever_it_lies),
        cmocka_unit_test(test_crc),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
