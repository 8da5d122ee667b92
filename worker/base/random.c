#include "worker/base/random.h"

#include <openssl/rand.h>
#include <stdlib.h>

void random_bytes(void *ret, size_t n) {
    if (RAND_bytes(ret, (int)n) != 1) abort();
}

uint64_t random_u64(void) {
    uint64_t n;
    random_bytes(&n, sizeof n);
    return n;
}
