#include "worker/base/gzip.h"

#include <assert.h>
#include <isa-l/crc.h>
#include <isa-l/igzip_lib.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "worker/base/log.h"

/* What does not get smaller is stored: 5 bytes for each block of 64 KiB, and gzip's own 18. */
#define BOUND(n) ((n) + ((n) / UINT16_MAX + 1) * 5 + 18)

/* Of the library's levels, 0 and 3 find other matches on CPUs with AVX2 or AVX-512. Levels 1 and 2
 * don't, from SSE 4.2 on; what is older, and arm64, has bytes of its own. */
struct gzip {
    struct isal_zstream stream;
    uint32_t level;
    uint32_t tables_size; /* how long a block gets depends on it */
    alignas(64) uint8_t tables[ISAL_DEF_LVL2_DEFAULT];
};
static_assert(ISAL_DEF_LVL1_DEFAULT <= ISAL_DEF_LVL2_DEFAULT, "the tables serve both levels");
#define STEP (1ul << 16)
#define SIZE ((sizeof(struct gzip) + STEP - 1) / STEP * STEP)

/* ISA-L (2.30 to 2.32) takes the stream's own address, from its 16th bit, for input where it enters
 * the third byte's position in its table (igzip_icf_body_h1_gr_bt.asm, write_first_byte: tmp2 is
 * still rcx, the stream). The hash of that, CRC-32C, says which place in the table is lost for
 * others, and so what is found. So a stream lies where the hash is 0: about every 2 GiB, below
 * where Linux puts what a process maps. */
#define HASHES (1u << 15) /* of level 2, which has most */
#define LOWEST ((uintptr_t)0x7e9000000000)
#define HIGHEST ((uintptr_t)0x7ef000000000)

static bool is_right(uintptr_t address) {
    uint32_t n = (uint32_t)(address / STEP);
    uint8_t bytes[4] = {(uint8_t)n, (uint8_t)(n >> 8), (uint8_t)(n >> 16), (uint8_t)(n >> 24)};
    return crc32_iscsi(bytes, sizeof bytes, 0) % HASHES == 0;
}

static void *map(uintptr_t at, int flags) {
    void *got =
        mmap((void *)at, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    return got == MAP_FAILED ? NULL : got;
}

static struct gzip *place(void) {
#ifdef __x86_64__
    for (uintptr_t at = LOWEST; at < HIGHEST; at += STEP) {
        if (!is_right(at)) continue;
        void *got = map(at, MAP_FIXED_NOREPLACE);
        if ((uintptr_t)got == at) return got;
        if (got) munmap(got, SIZE); /* the kernel is older than the flag */
    }
    log_warn("compression has no memory where it always makes the same bytes: an object that is "
             "written again, after a crash, may have others, of the same content");
#endif
    return map(0, 0);
}

/* It is all zeros, as hist_bits has to be, which none of the library's calls sets. */
struct gzip *gzip_new(int level) {
    assert(level >= 1 && level <= GZIP_LEVEL_MAX);
    struct gzip *g = place();
    if (!g) abort();
    g->level = (uint32_t)level;
    g->tables_size = level == 1 ? ISAL_DEF_LVL1_DEFAULT : ISAL_DEF_LVL2_DEFAULT;
    return g;
}

/* Its tables hold pieces of what was compressed, which may not have been redacted; the kernel wipes
 * them. */
void gzip_free(struct gzip *g) {
    if (g) munmap(g, SIZE);
}

bool gzip_into(struct gzip *g, const void *p, size_t n, struct buf *out) {
    size_t bound = BOUND(n);
    buf_init(out, bound);
    isal_deflate_stateless_init(&g->stream);
    g->stream.level = g->level;
    g->stream.level_buf = g->tables;
    g->stream.level_buf_size = g->tables_size;
    g->stream.gzip_flag = IGZIP_GZIP;
    g->stream.end_of_stream = 1;
    memcpy(&g->stream.next_in, &p, sizeof p); /* not const there, but only read */
    g->stream.avail_in = (uint32_t)n;
    g->stream.next_out = (uint8_t *)buf_reserve(out, bound);
    g->stream.avail_out = (uint32_t)bound;
    if (isal_deflate_stateless(&g->stream) != COMP_OK) return false;
    out->n = g->stream.total_out;
    return true;
}

uint32_t crc32_of(const void *p, size_t n) {
    return crc32_gzip_refl(0, p, n);
}
