#include "worker/ledger/anchor.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "worker/ledger/parse.h"

static int compare_topics(struct str a, struct str b) {
    size_t n = a.n < b.n ? a.n : b.n;
    int d = n ? memcmp(a.p, b.p, n) : 0;
    return d ? d : (a.n > b.n) - (a.n < b.n);
}

static int compare_heads(const void *a, const void *b) {
    const struct anchor_head *x = a, *y = b;
    int d = compare_topics(x->topic, y->topic);
    return d ? d : (x->partition > y->partition) - (x->partition < y->partition);
}

static bool put_text(struct buf *out, const char *member, struct str text) {
    return buf_puts(out, member) && text_json(out, text) && buf_putc(out, '"');
}

static bool put_head(struct buf *out, const struct anchor_head *h, bool first) {
    char hash[HEX_LEN(SHA256_LEN) + 1];
    hex(h->hash, SHA256_LEN, hash);
    return (first || buf_putc(out, ',')) && put_text(out, "{\"topic\":\"", h->topic) &&
           buf_printf(out,
                      ",\"partition\":%d,\"seq\":%" PRIu64 ",\"next\":%" PRId64 ",\"hash\":\"%s\"}",
                      (int)h->partition, h->seq, h->next, hash);
}

static bool put_tail(struct buf *out, size_t start, const struct ledger_signer *signer) {
    uint8_t hash[SHA256_LEN], sig[LEDGER_SIG_LEN];
    char text[HEX_LEN(SHA256_LEN) + 1];
    sha256(out->p + start, out->n - start, hash);
    hex(hash, sizeof hash, text);
    ledger_sign(signer, hash, sizeof hash, sig);
    return buf_printf(out, ",\"hash\":\"%s\",\"sig\":\"", text) &&
           base64_add(out, sig, sizeof sig) &&
           buf_printf(out, "\",\"key\":\"%s\"}", ledger_signer_id(signer));
}

bool anchor_encode(struct anchor *a, const struct ledger_signer *signer, struct buf *out) {
    size_t start = out->n;
    if (a->n) qsort(a->heads, a->n, sizeof *a->heads, compare_heads);
    bool ok = put_text(out, "{\"anchor\":1,\"group\":\"", a->group) &&
              buf_printf(out, ",\"at\":%" PRId64 ",\"version\":\"" RUNSINK_VERSION "\",\"heads\":[",
                         a->at_ms);
    for (size_t i = 0; i < a->n; i++) ok = ok && put_head(out, &a->heads[i], i == 0);
    ok = ok && buf_putc(out, ']') && put_tail(out, start, signer);
    if (!ok) out->n = start;
    return ok;
}

/* ---- reading ---- */

static bool read_head(struct parser *c, struct anchor_head *ret) {
    struct anchor_head h;
    if (!parse_want(c, "{\"topic\":") || !parse_text(c, &h.topic)) return false;
    if (!ledger_topic_legal(h.topic)) return parse_fail(c, "a topic's name");
    if (!parse_want(c, ",\"partition\":") || !parse_int32(c, &h.partition) ||
        !parse_want(c, ",\"seq\":") || !parse_uint(c, INT64_MAX, &h.seq) ||
        !parse_want(c, ",\"next\":") || !parse_offset(c, &h.next) || !parse_want(c, ",\"hash\":") ||
        !parse_hash(c, h.hash) || !parse_want(c, "}"))
        return false;
    *ret = h;
    return true;
}

static bool read_heads(struct parser *c, struct anchor *a) {
    do {
        a->heads = parse_grow(c->arena, a->heads, a->n, sizeof *a->heads);
        struct anchor_head *h = &a->heads[a->n];
        if (!read_head(c, h)) return false;
        if (a->n && compare_heads(h - 1, h) >= 0) return parse_fail(c, "heads that ascend");
        a->n++;
    } while (parse_maybe(c, ","));
    return parse_want(c, "]");
}

static bool read_anchor(struct parser *c, struct anchor *a) {
    uint64_t at;
    if (!parse_want(c, "{\"anchor\":1,\"group\":") || !parse_text(c, &a->group) ||
        !parse_want(c, ",\"at\":") || !parse_uint(c, INT64_MAX, &at) ||
        !parse_want(c, ",\"version\":") || !parse_text(c, &a->version) ||
        !parse_want(c, ",\"heads\":[") || !read_heads(c, a))
        return false;
    a->at_ms = (int64_t)at;
    a->canonical = (struct str){c->start, (size_t)(c->p - c->start)};
    if (!parse_want(c, ",\"hash\":") || !parse_hash(c, a->hash) || !parse_want(c, ",\"sig\":") ||
        !parse_base64(c, a->sig, LEDGER_SIG_LEN) || !parse_want(c, ",\"key\":") ||
        !parse_key_id(c, a->key) || !parse_want(c, "}"))
        return false;
    return c->p == c->end || parse_fail(c, "nothing after the anchor");
}

bool anchor_read(struct str value, struct arena *arena, struct anchor *ret,
                 struct ledger_read_error *reterr) {
    const char *p = value.p ? value.p : "";
    struct parser c = {.start = p, .p = p, .end = p + value.n, .arena = arena};
    struct anchor a = {0};
    bool ok =
        (value.n <= ANCHOR_SIZE_MAX || parse_fail(&c, "at most 1 MiB")) && read_anchor(&c, &a);
    if (ok)
        *ret = a;
    else
        *reterr = (struct ledger_read_error){c.at, c.what};
    return ok;
}

/* ---- names ---- */

bool anchor_folder(const char *prefix, const char *group, struct buf *out) {
    bool ok = buf_puts(out, prefix);
    for (const char *c = group; *c; c++)
        ok = ok && buf_putc(out, char_is_plain(*c) && *c != '.' ? *c : '_');
    return ok && buf_putc(out, '/');
}

bool anchor_name(int64_t at_ms, uint64_t random, char ret[ANCHOR_NAME_LEN + 1]) {
    time_t s = (time_t)(at_ms / 1000);
    struct tm tm;
    char when[ANCHOR_NAME_LEN + 1 - 22]; /* what "-", 16 digits and ".json" leave */
    if (at_ms < 0 || !gmtime_r(&s, &tm) || tm.tm_year > 9999 - 1900) return false;
    if (!strftime(when, sizeof when, "%Y/%m/%d/%H%M%SZ", &tm)) return false;
    snprintf(ret, ANCHOR_NAME_LEN + 1, "%s-%016" PRIx64 ".json", when, random);
    return true;
}

bool anchor_name_legal(struct str name) {
    static const char form[] = "dddd/dd/dd/ddddddZ-xxxxxxxxxxxxxxxx.json";
    _Static_assert(sizeof form == ANCHOR_NAME_LEN + 1, "a name's length");
    if (name.n != ANCHOR_NAME_LEN) return false;
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i];
        bool digit = c >= '0' && c <= '9';
        bool ok = form[i] == 'd' && i < 18 ? digit
                  : form[i] == 'x'         ? digit || (c >= 'a' && c <= 'f')
                                           : c == form[i];
        if (!ok) return false;
    }
    return true;
}
