/* Any text as a configuration file: it is read or refused with a message, and what was read prints.
 * Values that name files ("@/...") and expressions are left out: they reach the machine's files and
 * glibc's regcomp(), whose appetite is known. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static FILE *nowhere;
    if (!nowhere) nowhere = fopen("/dev/null", "w");
    if (size && (memchr(data, '@', size) || memchr(data, '^', size))) return 0;
    struct buf err;
    buf_init(&err, 4096);
    struct config *c = config_new();
    bool ok = config_read_text(c, "fuzz.ini", (struct str){(const char *)data, size}, &err);
    if (ok) ok = config_finish(c, &err);
    if (ok != (err.n == 0)) abort();
    config_print(c, true, nowhere);
    config_free(c);
    buf_free(&err);
    return 0;
}
