#include "worker/kafka/meta.h"

#include <inttypes.h>
#include <stdio.h>

/* A claim: taken, the reader, and what is alone in work. */
#define CLAIM_MAX (1 + 10 + 1 + 16 + 2 + 19 + 1 + 19 + 1 + 10)

/* Even the longest text fits: an end costs a separator and up to 17 digits, and since the
 * differences add up to less than 9.3e18, at most 92 of them have an 18th digit and 9 a 19th. */
_Static_assert(4 + 20 + 1 + 20 + 1 + HEX_LEN(SHA256_LEN) + CLAIM_MAX + META_ENDS_MAX * 18 + 92 +
                       9 <=
                   META_MAX,
               "the boundaries must fit the metadata");

static const char alone_letters[] = {
    [ALONE_NONE] = ' ', [ALONE_RECORD] = 'r', [ALONE_DELIVERIES] = 'p', [ALONE_WHOLE] = 'w'};

static bool claim_is_sound(const struct claim *c) {
    if (!c->taken) return !c->reader && c->alone == ALONE_NONE && !c->n_blamed;
    if (c->n_blamed > BLAMED_MAX) return false;
    return c->alone == ALONE_NONE || (c->first >= 0 && c->next > c->first && c->tries);
}

static bool add_claim(struct buf *text, const struct claim *c) {
    if (!c->taken) return true;
    return buf_printf(text, " %" PRIu32 ":%016" PRIx64, c->taken, c->reader) &&
           (c->alone == ALONE_NONE ||
            buf_printf(text, ":%c%" PRId64 "+%" PRId64 "*%" PRIu32, alone_letters[c->alone],
                       c->first, c->next - c->first, c->tries));
}

/* What has no room is found again, by one more death. */
static void add_blamed(struct buf *text, const struct claim *c) {
    for (uint32_t i = 0; i < c->n_blamed; i++) {
        const struct blame *b = &c->blamed[i];
        size_t before = text->n;
        if (buf_printf(text, "%c%c%" PRId64 "+%" PRId64, i == 0 ? ';' : ',',
                       alone_letters[b->alone], b->first, b->next - b->first))
            continue;
        text->n = before;
        return;
    }
}

bool meta_encode(const struct meta *m, char ret[META_MAX + 1]) {
    char head[HEX_LEN(SHA256_LEN) + 1];
    hex(m->head, SHA256_LEN, head);
    if (m->n_ends > META_ENDS_MAX || !claim_is_sound(&m->claim)) return false;
    struct buf text;
    buf_init(&text, META_MAX);
    bool ok = buf_printf(&text, "rs%d %" PRIu64, m->claim.taken ? 2 : 1, m->seq) &&
              (!m->era || buf_printf(&text, "@%" PRIu64, m->era)) &&
              buf_printf(&text, " %s", head) && add_claim(&text, &m->claim);
    int64_t before = 0;
    for (size_t i = 0; ok && i < m->n_ends; i++) {
        ok = m->ends[i] > before &&
             buf_printf(&text, "%c%" PRId64, i == 0 ? ' ' : ',', m->ends[i] - before);
        before = m->ends[i];
    }
    if (ok) add_blamed(&text, &m->claim);
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

/* <letter><first>+<n> */
static bool take_range(struct str *rest, enum alone *alone, int64_t *first, int64_t *next) {
    uint64_t from, n;
    const char *letter = rest->n ? memchr(alone_letters + 1, rest->p[0], 3) : NULL;
    if (!letter) return false;
    *alone = (enum alone)(letter - alone_letters);
    rest->p++;
    rest->n--;
    if (!skip_number(rest, INT64_MAX, &from) || !skip_text(rest, "+") ||
        !skip_number(rest, INT64_MAX - from, &n) || n == 0)
        return false;
    *first = (int64_t)from;
    *next = (int64_t)(from + n);
    return true;
}

static bool take_blamed(struct str *rest, struct claim *c) {
    for (const char *before = ";"; rest->n > 0; before = ",") {
        struct blame *b = &c->blamed[c->n_blamed];
        if (c->n_blamed == BLAMED_MAX || !skip_text(rest, before) ||
            !take_range(rest, &b->alone, &b->first, &b->next) || b->alone == ALONE_DELIVERIES)
            return false;
        c->n_blamed++;
    }
    return true;
}

static bool take_claim(struct str *rest, struct claim *c) {
    uint64_t taken, tries;
    uint8_t reader[8];
    if (!skip_text(rest, " ") || !skip_number(rest, UINT32_MAX, &taken) || taken == 0 ||
        !skip_text(rest, ":") || rest->n < 16 || !unhex((struct str){rest->p, 16}, reader, 8))
        return false;
    rest->p += 16;
    rest->n -= 16;
    c->taken = (uint32_t)taken;
    for (int i = 0; i < 8; i++) c->reader = c->reader << 8 | reader[i];
    if (!skip_text(rest, ":")) return true;
    if (!take_range(rest, &c->alone, &c->first, &c->next) || !skip_text(rest, "*") ||
        !skip_number(rest, UINT32_MAX, &tries) || tries == 0)
        return false;
    c->tries = (uint32_t)tries;
    return true;
}

bool meta_decode(struct str text, struct meta *ret) {
    struct meta m = {0};
    struct str rest = text;
    if (text.n > META_MAX) return false;
    bool free = skip_text(&rest, "rs1 ");
    if (!free && !skip_text(&rest, "rs2 ")) return false;
    if (!skip_number(&rest, UINT64_MAX, &m.seq)) return false;
    if (skip_text(&rest, "@") && (!skip_number(&rest, UINT64_MAX, &m.era) || !m.era)) return false;
    if (!skip_text(&rest, " ")) return false;
    if (rest.n < HEX_LEN(SHA256_LEN)) return false;
    if (!unhex((struct str){rest.p, HEX_LEN(SHA256_LEN)}, m.head, SHA256_LEN)) return false;
    rest.p += HEX_LEN(SHA256_LEN);
    rest.n -= HEX_LEN(SHA256_LEN);
    if (!free && !take_claim(&rest, &m.claim)) return false;
    int64_t before = 0;
    while (rest.n > 0 && !(m.claim.taken && rest.p[0] == ';')) {
        uint64_t step;
        if (m.n_ends == META_ENDS_MAX || !skip_text(&rest, m.n_ends == 0 ? " " : ",") ||
            !skip_number(&rest, (uint64_t)(INT64_MAX - before), &step) || step == 0)
            return false;
        before += (int64_t)step;
        m.ends[m.n_ends++] = before;
    }
    if (!take_blamed(&rest, &m.claim)) return false;
    *ret = m;
    return true;
}
