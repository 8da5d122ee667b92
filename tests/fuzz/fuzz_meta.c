/* meta_decode on hostile text: what it accepts, windows can be replayed from and it encodes back to
 * a text with the same meaning. */
#include <stdlib.h>

#include "worker/kafka/meta.h"
#include "worker/pipeline/window.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct meta m, again;
    if (!meta_decode((struct str){(const char *)data, size}, &m)) return 0;
    char text[META_MAX + 1];
    if (!meta_encode(&m, text) || !meta_decode(str_c(text), &again)) abort();
    if (again.seq != m.seq || memcmp(again.head, m.head, sizeof m.head) != 0) abort();
    if (again.n_ends != m.n_ends || !claim_same(&again.claim, &m.claim)) abort();
    if (m.n_ends && memcmp(again.ends, m.ends, m.n_ends * sizeof m.ends[0]) != 0) abort();
    struct windows ws;
    if (!windows_init(&ws, 0, m.ends, m.n_ends)) abort();
    windows_passed(&ws, INT64_MAX);
    if (windows_settleable(&ws) != m.n_ends) abort();
    windows_clear(&ws);
    return 0;
}
