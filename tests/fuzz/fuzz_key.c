/* Key templates and values from hostile bytes: the first line is the template, the rest is cut into
 * the fields' values at each 0xff. Whatever the values, the key has the template's slashes. */
#include <stdlib.h>

#include "worker/base/buf.h"
#include "worker/base/key.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t slashes(const char *p, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += p[i] == '/';
    return count;
}

static void check(const struct key_template *t, const char *text, struct str rest) {
    struct key_values v = {0};
    for (int f = 0; f < KEY_FIELDS && rest.n > 0; f++) {
        const char *end = memchr(rest.p, 0xff, rest.n);
        size_t n = end ? (size_t)(end - rest.p) : rest.n;
        v.v[f] = (struct str){rest.p, n};
        rest.p += n + (end != NULL);
        rest.n -= n + (end != NULL);
    }
    v.v[KEY_PREFIX] = STR("");
    struct buf out;
    buf_init(&out, 5000);
    if (key_make(t, &v, 1024, &out)) {
        if (out.n > 1024 || slashes(out.p, out.n) != slashes(text, strlen(text))) abort();
    } else if (out.n != 0) {
        abort();
    }
    buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *p = (const char *)data;
    const char *line_end = size ? memchr(p, '\n', size) : NULL;
    size_t n = line_end ? (size_t)(line_end - p) : size;
    char *text = xstrndup(p, n);
    struct buf err;
    buf_init(&err, 1000);
    struct key_template *t = key_template_new(text, (1u << KEY_FIELDS) - 1, &err);
    if (!t && err.n == 0) abort();
    if (t) check(t, text, line_end ? (struct str){line_end + 1, size - n - 1} : STR(""));
    key_template_free(t);
    buf_free(&err);
    free(text);
    return 0;
}
