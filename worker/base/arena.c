#include "worker/base/arena.h"

#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>

#include "worker/base/buf.h"

#define BLOCK_BYTES 16384

struct arena_block {
    struct arena_block *next;
    size_t used;
    size_t size;
    alignas(max_align_t) char data[];
};

void *arena_alloc(struct arena *a, size_t n) {
    size_t align = alignof(max_align_t);
    if (n > SIZE_MAX / 2) out_of_memory();
    n = (n + align - 1) / align * align;
    struct arena_block *b = a->head;
    if (!b || b->size - b->used < n) {
        size_t size = n > BLOCK_BYTES / 4 ? n : BLOCK_BYTES;
        struct arena_block *fresh = xmalloc(sizeof *fresh + size);
        *fresh = (struct arena_block){.size = size};
        a->bytes += sizeof *fresh + size;
        if (b &&
            size ==
                n) { /* a large piece goes after the head, so that the head's rest is not lost */
            fresh->next = b->next;
            b->next = fresh;
        } else {
            fresh->next = b;
            a->head = fresh;
        }
        b = fresh;
    }
    void *p = b->data + b->used;
    b->used += n;
    return memset(p, 0, n);
}

char *arena_strdup(struct arena *a, struct str s) {
    char *p = arena_alloc(a, s.n + 1);
    if (s.n) memcpy(p, s.p, s.n);
    return p;
}

void arena_free(struct arena *a) {
    for (struct arena_block *b = a->head, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    *a = (struct arena){0};
}

void arena_wipe(struct arena *a) {
    for (struct arena_block *b = a->head; b; b = b->next) wipe(b->data, b->used);
    arena_free(a);
}
