#include "worker/base/json_out.h"

#include <inttypes.h>

#include "worker/base/shown.h"
#include "worker/base/text.h"

/* The comma, where a value stands before, and the name. */
static bool begin(struct buf *b, const char *name) {
    bool first = b->n == 0 || strchr("{[:,\n", b->p[b->n - 1]);
    bool ok = first || buf_putc(b, ',');
    return ok && (!name || (buf_putc(b, '"') && text_json(b, str_c(name)) && buf_puts(b, "\":")));
}

/* Takes back what began at start unless all of it was added. */
static bool whole(struct buf *b, size_t start, bool ok) {
    if (!ok) b->n = start;
    return ok;
}

static bool quoted(struct buf *b, const char *name, struct str s,
                   bool (*escape)(struct buf *, struct str)) {
    size_t start = b->n;
    return whole(b, start, begin(b, name) && buf_putc(b, '"') && escape(b, s) && buf_putc(b, '"'));
}

bool out_open(struct buf *b, const char *name, char bracket) {
    size_t start = b->n;
    return whole(b, start, begin(b, name) && buf_putc(b, bracket));
}

bool out_close(struct buf *b, char bracket) {
    return buf_putc(b, bracket);
}

bool out_str(struct buf *b, const char *name, struct str s) {
    return s.p ? quoted(b, name, s, text_json) : out_raw(b, name, STR("null"));
}

bool out_string(struct buf *b, const char *name, const char *s) {
    return out_str(b, name, str_c(s));
}

bool out_shown(struct buf *b, const char *name, const char *s) {
    return s ? quoted(b, name, str_c(s), shown_json) : out_raw(b, name, STR("null"));
}

bool out_int(struct buf *b, const char *name, int64_t v) {
    size_t start = b->n;
    return whole(b, start, begin(b, name) && buf_printf(b, "%" PRId64, v));
}

bool out_uint(struct buf *b, const char *name, uint64_t v) {
    size_t start = b->n;
    return whole(b, start, begin(b, name) && buf_printf(b, "%" PRIu64, v));
}

bool out_bool(struct buf *b, const char *name, bool v) {
    return out_raw(b, name, v ? STR("true") : STR("false"));
}

bool out_hex(struct buf *b, const char *name, const uint8_t *p, size_t n) {
    size_t start = b->n;
    bool ok = begin(b, name) && buf_putc(b, '"');
    char *to = ok ? buf_reserve(b, HEX_LEN(n)) : NULL;
    if (to) {
        hex(p, n, to); /* its NUL takes the byte that buf_reserve() keeps for one */
        b->n += HEX_LEN(n);
    }
    return whole(b, start, to && buf_putc(b, '"'));
}

bool out_raw(struct buf *b, const char *name, struct str json) {
    size_t start = b->n;
    return whole(b, start, begin(b, name) && buf_str(b, json));
}
