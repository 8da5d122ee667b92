#include "sinks/s3/sigv4.h"

#include <stdio.h>
#include <stdlib.h>

#define ALGORITHM "AWS4-HMAC-SHA256"
#define PARAMS_MAX 32
#define CANONICAL_MAX ((size_t)256 * 1024)

void sigv4_date(int64_t now_s, char ret[SIGV4_DATE_LEN + 1]) {
    char text[UTC_TEXT];
    size_t n = 0;
    if (!utc_text(now_s, text)) abort();
    for (const char *p = text; *p; p++) {
        if (*p == '-' || *p == ':') continue;
        if (n == SIGV4_DATE_LEN) abort(); /* a clock beyond the year 9999 */
        ret[n++] = *p;
    }
    ret[n] = '\0';
}

static bool is_plain(char c) {
    return char_is_plain(c) || c == '~';
}

static bool encode(struct buf *b, struct str text, bool slash) {
    static const char digits[] = "0123456789ABCDEF";
    size_t start = b->n;
    for (size_t i = 0, from = 0; i <= text.n; i++) {
        unsigned char c = i < text.n ? (unsigned char)text.p[i] : '\0';
        if (i < text.n && (is_plain((char)c) || (slash && c == '/'))) continue;
        char out[3] = {'%', digits[c >> 4], digits[c & 15]};
        if (!buf_add(b, text.p + from, i - from) || (i < text.n && !buf_add(b, out, 3))) {
            b->n = start;
            return false;
        }
        from = i + 1;
    }
    return true;
}

bool sigv4_path(struct buf *b, struct str text) {
    return encode(b, text, true);
}

/* Where a byte sorts once it is encoded: an encoded one begins with '%', below every plain one. */
static int rank(char c) {
    return is_plain(c) ? 256 + (unsigned char)c : (unsigned char)c;
}

static int encoded_order(struct str a, struct str b) {
    for (size_t i = 0; i < a.n && i < b.n; i++)
        if (a.p[i] != b.p[i]) return rank(a.p[i]) - rank(b.p[i]);
    return (a.n > b.n) - (a.n < b.n);
}

static int param_order(const void *a_, const void *b_) {
    const struct sigv4_param *a = a_, *b = b_;
    int order = encoded_order(a->name, b->name);
    return order ? order : encoded_order(a->value, b->value);
}

bool sigv4_query(struct buf *b, struct sigv4_param *params, size_t n) {
    if (n > PARAMS_MAX) return false;
    size_t start = b->n;
    qsort(params, n, sizeof *params, param_order);
    for (size_t i = 0; i < n; i++) {
        bool ok = (i == 0 || buf_putc(b, '&')) && encode(b, params[i].name, false) &&
                  buf_putc(b, '=') && encode(b, params[i].value, false);
        if (!ok) {
            b->n = start;
            return false;
        }
    }
    return true;
}

/* A header on its way into the canonical form; place keeps duplicates in the order they came. */
struct entry {
    const struct sigv4_header *header;
    size_t place;
};

static int name_cmp(struct str a, struct str b) {
    size_t n = a.n < b.n ? a.n : b.n;
    for (size_t i = 0; i < n; i++) {
        unsigned char x = (unsigned char)char_lower(a.p[i]), y = (unsigned char)char_lower(b.p[i]);
        if (x != y) return x < y ? -1 : 1;
    }
    return (a.n > b.n) - (a.n < b.n);
}

static int entry_order(const void *a_, const void *b_) {
    const struct entry *a = a_, *b = b_;
    int order = name_cmp(a->header->name, b->header->name);
    return order ? order : (a->place > b->place) - (a->place < b->place);
}

static bool add_name(struct buf *b, struct str name) {
    char *to = buf_reserve(b, name.n);
    if (!to) return false;
    for (size_t i = 0; i < name.n; i++) to[i] = char_lower(name.p[i]);
    b->n += name.n;
    return true;
}

/* Leading and trailing blanks go, a run of them becomes one space. */
static bool add_value(struct buf *b, struct str value) {
    char *to = buf_reserve(b, value.n);
    if (!to) return false;
    bool blank = false;
    size_t n = 0;
    for (size_t i = 0; i < value.n; i++) {
        char c = value.p[i];
        if (c == ' ' || c == '\t') {
            blank = true;
            continue;
        }
        if (blank && n) to[n++] = ' ';
        to[n++] = c;
        blank = false;
    }
    b->n += n;
    return true;
}

static bool add_headers(struct buf *canonical, struct buf *names, const struct entry *entries,
                        size_t n) {
    for (size_t i = 0; i < n; i++) {
        const struct sigv4_header *h = entries[i].header;
        bool first = i == 0 || name_cmp(entries[i - 1].header->name, h->name) != 0;
        bool last = i + 1 == n || name_cmp(h->name, entries[i + 1].header->name) != 0;
        bool ok = true;
        if (first) {
            ok = (i == 0 || buf_putc(names, ';')) && add_name(names, h->name) &&
                 add_name(canonical, h->name) && buf_putc(canonical, ':');
        } else {
            ok = buf_putc(canonical, ',');
        }
        ok = ok && add_value(canonical, h->value) && (!last || buf_putc(canonical, '\n'));
        if (!ok) return false;
    }
    return true;
}

static bool canonical_request(const struct sigv4_request *r, struct buf *canonical,
                              struct buf *names) {
    struct entry entries[SIGV4_HEADERS_MAX];
    if (r->n_headers > SIGV4_HEADERS_MAX) return false;
    for (size_t i = 0; i < r->n_headers; i++) entries[i] = (struct entry){&r->headers[i], i};
    qsort(entries, r->n_headers, sizeof *entries, entry_order);
    return buf_puts(canonical, r->method) && buf_putc(canonical, '\n') &&
           buf_str(canonical, r->path) && buf_putc(canonical, '\n') &&
           buf_str(canonical, r->query) && buf_putc(canonical, '\n') &&
           add_headers(canonical, names, entries, r->n_headers) && buf_putc(canonical, '\n') &&
           buf_add(canonical, names->p, names->n) && buf_putc(canonical, '\n') &&
           buf_puts(canonical, r->payload_sha256);
}

/* Fills the cache for the scope unless it holds it already. */
static bool derive_key(const struct sigv4_signer *s, struct sigv4_key *cache, const char *date) {
    char scope[sizeof cache->scope];
    int n = snprintf(scope, sizeof scope, "%.8s/%s/%s", date, s->region, s->service);
    if (n < 0 || (size_t)n >= sizeof scope) return false;
    if (strcmp(scope, cache->scope) == 0) return true;
    struct buf secret;
    buf_init_secret(&secret, 4096);
    if (!buf_puts(&secret, "AWS4") || !buf_puts(&secret, s->secret_access_key)) {
        buf_wipe(&secret);
        return false;
    }
    uint8_t key[SHA256_LEN];
    hmac_sha256(secret.p, secret.n, date, 8, key);
    hmac_sha256(key, sizeof key, s->region, strlen(s->region), key);
    hmac_sha256(key, sizeof key, s->service, strlen(s->service), key);
    hmac_sha256(key, sizeof key, "aws4_request", 12, cache->key);
    memcpy(cache->scope, scope, sizeof scope);
    wipe(key, sizeof key);
    buf_wipe(&secret);
    return true;
}

static bool sign_canonical(struct str canonical, struct str names, const struct sigv4_signer *s,
                           const struct sigv4_key *key, const char *date, struct buf *out) {
    uint8_t digest[SHA256_LEN];
    char digest_hex[HEX_LEN(SHA256_LEN) + 1];
    sha256(canonical.p, canonical.n, digest);
    hex(digest, sizeof digest, digest_hex);
    char to_sign[256];
    int n = snprintf(to_sign, sizeof to_sign, ALGORITHM "\n%s\n%s/aws4_request\n%s", date,
                     key->scope, digest_hex);
    if (n < 0 || (size_t)n >= sizeof to_sign) return false;
    hmac_sha256(key->key, sizeof key->key, to_sign, (size_t)n, digest);
    hex(digest, sizeof digest, digest_hex);
    size_t start = out->n;
    bool ok = buf_puts(out, ALGORITHM " Credential=") && buf_puts(out, s->access_key_id) &&
              buf_printf(out, "/%s/aws4_request, SignedHeaders=", key->scope) &&
              buf_str(out, names) && buf_printf(out, ", Signature=%s", digest_hex);
    if (!ok) out->n = start;
    return ok;
}

bool sigv4_sign(const struct sigv4_request *r, const struct sigv4_signer *s,
                struct sigv4_key *cache, const char date[SIGV4_DATE_LEN + 1], struct buf *out) {
    struct buf canonical, names;
    buf_init_secret(&canonical, CANONICAL_MAX); /* may hold a session token */
    buf_init(&names, 8192);
    bool ok = derive_key(s, cache, date) && canonical_request(r, &canonical, &names) &&
              sign_canonical((struct str){canonical.p, canonical.n}, (struct str){names.p, names.n},
                             s, cache, date, out);
    buf_wipe(&canonical);
    buf_free(&names);
    return ok;
}
