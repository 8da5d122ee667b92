#include "worker/meta.h"

#include <inttypes.h>
#include <stdio.h>

/* Even the longest text fits: an end costs a separator and up to 17 digits, and since the
 * differences add up to less than 9.3e18, at most 92 of them have an 18th digit and 9 a 19th. */
_Static_assert(4 + 20 + 1 + HEX_LEN(SHA256_LEN) + WINDOW_ENDS_MAX * 18 + 92 + 9 <= META_MAX,
               "the boundaries must fit the metadata");

bool meta_encode(const struct meta *m, char ret[META_MAX + 1]) {
    char head[HEX_LEN(SHA256_LEN) + 1];
    hex(m->head, SHA256_LEN, head);
    if (m->n_ends > WINDOW_ENDS_MAX) return false;
    struct buf text;
    buf_init(&text, META_MAX);
    bool ok = buf_printf(&text, "rs1 %" PRIu64 " %s", m->seq, head);
    int64_t before = 0;
    for (size_t i = 0; ok && i < m->n_ends; i++) {
        ok = m->ends[i] > before &&
             buf_printf(&text, "%c%" PRId64, i == 0 ? ' ' : ',', m->ends[i] - before);
        before = m->ends[i];
    }
    if (ok) memcpy(ret, buf_cstr(&text), text.n + 1);
    buf_free(&text);
    return ok;
}

static bool skip_text(struct str *rest, const char *text) {
    if (!str_starts(*rest, text)) return false;
    rest->p += strlen(text);
    rest->n -= strlen(text);
    return true;
}

/* Takes a decimal number off the front; no sign, no leading zero. */
static bool skip_number(struct str *rest, uint64_t max, uint64_t *ret) {
    uint64_t value = 0;
    size_t n = 0;
    for (; n < rest->n && rest->p[n] >= '0' && rest->p[n] <= '9'; n++) {
        uint64_t digit = (uint64_t)(rest->p[n] - '0');
        if (digit > max || value > (max - digit) / 10) return false;
        value = value * 10 + digit;
    }
    if (n == 0 || (n > 1 && rest->p[0] == '0')) return false;
    rest->p += n;
    rest->n -= n;
    *ret = value;
    return true;
}

bool meta_decode(struct str text, struct meta *ret) {
    struct meta m = {0};
    struct str rest = text;
    if (text.n > META_MAX || !skip_text(&rest, "rs1 ") || !skip_number(&rest, UINT64_MAX, &m.seq) ||
        !skip_text(&rest, " "))
        return false;
    if (rest.n < HEX_LEN(SHA256_LEN)) return false;
    if (!unhex((struct str){rest.p, HEX_LEN(SHA256_LEN)}, m.head, SHA256_LEN)) return false;
    rest.p += HEX_LEN(SHA256_LEN);
    rest.n -= HEX_LEN(SHA256_LEN);
    int64_t before = 0;
    while (rest.n > 0) {
        uint64_t step;
        if (m.n_ends == WINDOW_ENDS_MAX || !skip_text(&rest, m.n_ends == 0 ? " " : ",") ||
            !skip_number(&rest, (uint64_t)(INT64_MAX - before), &step) || step == 0)
            return false;
        before += (int64_t)step;
        m.ends[m.n_ends++] = before;
    }
    *ret = m;
    return true;
}
