#include "sinks/http/http_memory.h"

#include <curl/curl.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

/* Not wipe(), which goes word by word: these are 40 KiB for each transfer. */
static void give_back(void *p) {
    if (p) explicit_bzero(p, malloc_usable_size(p));
    free(p);
}

static void *resize(void *old, size_t n) {
    size_t have = old ? malloc_usable_size(old) : 0;
    if (old && n && n <= have) return old;
    void *p = malloc(n ? n : 1);
    if (!p) return NULL;
    if (have) memcpy(p, old, have < n ? have : n);
    give_back(old);
    return p;
}

static char *copy(const char *s) {
    size_t n = strlen(s) + 1;
    char *p = malloc(n);
    return p ? memcpy(p, s, n) : NULL;
}

int http_memory_init(void) {
    return (int)curl_global_init_mem(CURL_GLOBAL_DEFAULT, malloc, give_back, resize, copy, calloc);
}
