#include "worker/base/gzip.h"

#include <assert.h>
#include <isa-l/crc.h>
#include <isa-l/igzip_lib.h>
#include <stdalign.h>
#include <stdlib.h>

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

struct gzip *gzip_new(int level) {
    struct gzip *g = aligned_alloc(alignof(struct gzip), sizeof *g);
    if (!g) abort();
    assert(level >= 1 && level <= GZIP_LEVEL_MAX);
    /* How far back it looks is set by none of the calls below: 0 is all. */
    memset(&g->stream, 0, sizeof g->stream);
    g->level = (uint32_t)level;
    g->tables_size = level == 1 ? ISAL_DEF_LVL1_DEFAULT : ISAL_DEF_LVL2_DEFAULT;
    return g;
}

/* Its tables hold pieces of what was compressed, which may not have been redacted. */
void gzip_free(struct gzip *g) {
    if (g) wipe(g, sizeof *g);
    free(g);
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
