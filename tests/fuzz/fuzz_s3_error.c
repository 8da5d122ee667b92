/* Whatever a store answers, what is read from it is bounded, printable and of its form. */
#include <stdlib.h>

#include "sinks/s3/s3_error.h"
#include "worker/base/buf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void must(bool ok) {
    if (!ok) abort();
}

static void printable(const char *text, size_t size) {
    must(memchr(text, '\0', size) != NULL);
    for (; *text; text++) must(*text >= 0x20 && *text < 0x7f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    char *body = xmalloc(n ? n : 1); /* of its own, so that a read past its end is seen */
    memcpy(body, data, n);
    struct s3_error e = {{0}};
    bool found = s3_error_parse((struct str){body, n}, &e);
    free(body);
    must(found || (!e.code[0] && !e.message[0] && !e.region[0] && !e.endpoint[0]));
    printable(e.code, sizeof e.code);
    printable(e.message, sizeof e.message);
    printable(e.endpoint, sizeof e.endpoint);
    must(!e.region[0] || s3_region_valid(str_c(e.region)));
    must(!strpbrk(e.endpoint, "/@:?# "));
    struct outcome o = s3_outcome(n ? 100 + data[0] * 2 : 400, &e, 0);
    must(o.why[0] && o.verdict != VERDICT_OK);
    printable(o.why, sizeof o.why);
    printable(o.detail, sizeof o.detail);
    return 0;
}
