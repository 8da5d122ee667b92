#include "worker/event/redact.h"

#include <stdlib.h>

#include "worker/base/rfc3339.h"
#include "worker/base/text.h"

static const struct str mark = STR("[REDACTED]");

static size_t edits(const struct payload *p) {
    return p->verbatim ? 0 : p->n_edits;
}

size_t redact_size(const struct payload *p) {
    size_t n = p->json.n;
    for (size_t i = 0; i < edits(p); i++) n = n - p->edits[i].n + mark.n + p->edits[i].quotes;
    return n;
}

bool redact_add(struct buf *b, const struct payload *p) {
    size_t size = redact_size(p);
    char *to = buf_reserve(b, size);
    if (!to) return false;
    size_t from = 0;
    for (size_t i = 0; i < edits(p); i++) {
        const struct edit *e = &p->edits[i];
        memcpy(to, p->json.p + from, e->at - from);
        to += e->at - from;
        if (e->quotes) *to++ = '"';
        memcpy(to, mark.p, mark.n);
        to += mark.n;
        if (e->quotes) *to++ = '"';
        from = e->at + e->n;
    }
    memcpy(to, p->json.p + from, p->json.n - from);
    b->n += size;
    return true;
}

static void blank(char *p, const char *end, char c) {
    while ((p = memchr(p, c, (size_t)(end - p)))) *p++ = ' ';
}

bool redact_add_line(struct buf *b, const struct payload *p) {
    size_t start = b->n;
    if (!buf_reserve(b, redact_size(p) + 1) || !redact_add(b, p)) return false;
    if (!p->one_line) { /* a line break in valid JSON stands between tokens: strings hold none */
        blank(b->p + start, b->p + b->n, '\n');
        blank(b->p + start, b->p + b->n, '\r');
    }
    return buf_putc(b, '\n');
}

static bool digit(char c) {
    return c >= '0' && c <= '9';
}

static bool one_of(const char *set, char c) {
    return c && strchr(set, c); /* strchr would find the set's own NUL */
}

static size_t until(struct str s, char c) {
    const char *at = s.n ? memchr(s.p, c, s.n) : NULL;
    return at ? (size_t)(at - s.p) : s.n;
}

bool url_scheme_char(char c) {
    return char_is_plain(c) || c == '+';
}

/* Where the authority starts: after "scheme:" and any number of slashes; 0 when there is no
 * scheme. As lenient as curl is: about how many slashes, and about what a scheme may start with. */
static size_t authority(struct str u) {
    size_t i = 0;
    while (i < u.n && url_scheme_char(u.p[i])) i++;
    if (i > 0 && i + 1 < u.n && u.p[i] == ':' && u.p[i + 1] == '/')
        i++;
    else
        i = 0;
    while (i < u.n && u.p[i] == '/') i++;
    return i;
}

/* A host and an optional port, nothing else. */
static bool host_port(struct str s) {
    size_t i = 0;
    if (s.n > 0 && s.p[0] == '[') {
        i = 1;
        while (i < s.n && (char_is_alnum(s.p[i]) || one_of(":.%_-", s.p[i]))) i++;
        if (i == s.n || s.p[i] != ']') return false;
        i++;
    } else {
        while (i < s.n && (char_is_alnum(s.p[i]) || one_of("._-", s.p[i]))) i++;
    }
    if (i == s.n) return true;
    if (s.p[i] != ':' || s.n - i > sizeof ":65535" - 1) return false;
    while (++i < s.n)
        if (!digit(s.p[i])) return false;
    return true;
}

/* The URL in the path that ends at s->rest, behind this place: it is the next one. */
static void find_nested(struct url_secrets *s, size_t from) {
    const char *at = from < s->rest ? memmem(s->url.p + from, s->rest - from, "://", 3) : NULL;
    if (!at) return;
    s->next = (size_t)(at - s->url.p);
    while (s->next > from && url_scheme_char(s->url.p[s->next - 1])) s->next--;
    s->query = s->url.n;
}

/* The URL that begins here. */
static void begin(struct url_secrets *s, size_t at) {
    struct str url = s->url;
    size_t from = at + authority((struct str){url.p + at, url.n - at}), end = from, host = from;
    for (; end < url.n && !one_of("/?#", url.p[end]); end++)
        if (url.p[end] == '@') host = end + 1;
    s->next = s->query = url.n;
    s->userinfo = host_port((struct str){url.p + host, end - host});
    if (!s->userinfo) {
        s->first = edit_of(from, url.n - from, 0);
        return;
    }
    if (host > from) s->first = edit_of(from, host - 1 - from, 0);
    if (s->rest < end) { /* once for all of them: the path of the last one ends there */
        struct str rest = {url.p + end, url.n - end};
        size_t query = until(rest, '?'), fragment = until(rest, '#');
        s->rest = end + (query < fragment ? query : fragment);
    }
    s->query = s->rest + (s->rest < url.n);
    /* No query: the fragment is all of one piece. */
    if (s->rest < url.n && url.p[s->rest] == '#') s->pieces = URL_QUERY_PIECES - 1;
    find_nested(s, end);
}

void url_secrets_begin(struct url_secrets *s, struct str url) {
    *s = (struct url_secrets){.url = url};
    begin(s, 0);
}

/* How much of a query's piece is its name and the "=": nothing when no value follows, since then
 * the whole may be a token, padded base64 for instance. */
static size_t name_length(struct str piece) {
    size_t n = until(piece, '=') + 1;
    for (size_t i = n; i < piece.n; i++)
        if (piece.p[i] != '=') return n;
    return 0;
}

bool url_secrets_next(struct url_secrets *s, struct edit *ret) {
    while (s->first.n == 0 && s->next < s->url.n) begin(s, s->next);
    if (s->first.n > 0) {
        *ret = s->first;
        s->first.n = 0;
        return true;
    }
    s->userinfo = false;
    while (s->query < s->url.n) {
        struct str rest = {s->url.p + s->query, s->url.n - s->query};
        size_t fragment = until(rest, '#');
        size_t end = until(rest, '&');
        size_t name = name_length((struct str){rest.p, fragment < end ? fragment : end});
        if (fragment < end) end = rest.n;
        if (++s->pieces == URL_QUERY_PIECES) {
            name = 0;
            end = rest.n;
        }
        size_t at = s->query + name;
        s->query += end < rest.n ? end + 1 : end;
        if (end == name) continue;
        *ret = edit_of(at, end - name, 0);
        return true;
    }
    return false;
}

/* ---- headers ---- */

struct pieces {
    found_fn *found;
    void *ctx;
    struct str known[4]; /* handed over already */
};

/* Letters and digits, capitals within, or nothing but digits: no word of a language. */
static bool looks_secret(struct str s) {
    size_t digits = 0, lower = 0, upper = 0, inner = 0;
    for (size_t i = 0; i < s.n; i++) {
        bool capital = s.p[i] >= 'A' && s.p[i] <= 'Z';
        digits += digit(s.p[i]);
        lower += s.p[i] >= 'a' && s.p[i] <= 'z';
        upper += capital;
        inner += capital && i > 0;
    }
    return s.n >= HEADER_PIECE_MIN && (digits ? lower + upper || digits == s.n : lower && inner);
}

static void piece(struct pieces *p, struct str s) {
    for (size_t i = 0; i < sizeof p->known / sizeof *p->known; i++)
        if (s.p == p->known[i].p && s.n == p->known[i].n) return;
    p->found(p->ctx, s);
}

/* What stands between two "=" or other marks; named: a name and "=" come before it. */
static void word(struct pieces *p, struct str s, bool named) {
    if (s.n < HEADER_PIECE_MIN || rfc3339_ok(s)) return;
    if (named || looks_secret(s)) piece(p, s);
    size_t user = until(s, ':') + 1; /* "user:xyz", but not "https://" */
    if (user >= s.n || s.p[user] == '/') return;
    struct str rest = {s.p + user, s.n - user};
    if (looks_secret(rest)) piece(p, rest);
}

/* A run of text without the marks that pieces() goes by. */
static void run(struct pieces *p, struct str s, bool named) {
    while (s.n && s.p[s.n - 1] == '=') s.n--;
    size_t name = until(s, '=');
    bool several = name < s.n && memchr(s.p + name + 1, '=', s.n - name - 1);
    if (several && s.n - name > HEADER_PIECE_MIN)
        piece(p, (struct str){s.p + name + 1, s.n - name - 1});
    while (s.n) {
        size_t n = until(s, '=');
        word(p, (struct str){s.p, n}, named);
        n += n < s.n;
        s = (struct str){s.p + n, s.n - n};
        named = true;
    }
}

static void basic(struct pieces *p, struct str encoded) {
    struct buf plain;
    buf_init_secret(&plain, encoded.n);
    if (unbase64_any_add(&plain, encoded) && plain.n) {
        struct str both = {plain.p, plain.n};
        size_t user = until(both, ':') + 1;
        p->found(p->ctx, both);
        if (user <= both.n) p->found(p->ctx, (struct str){both.p + user, both.n - user});
    }
    buf_wipe(&plain);
}

/* The scheme, in any case, by itself or behind "Authorization:". */
static bool is_basic(struct str s) {
    static const char name[] = "basic";
    size_t n = sizeof name - 1;
    for (size_t i = 0; i < n; i++)
        if (s.n < n || char_lower(s.p[s.n - n + i]) != name[i]) return false;
    return s.n == n || !char_is_alnum(s.p[s.n - n - 1]);
}

static void pieces(struct pieces *p, struct str s) {
    bool named = false, encoded = false;
    for (size_t i = 0; i < s.n;) {
        size_t from = i;
        while (i < s.n && !one_of(" \t;,\"'&|()<>[]{}", s.p[i])) i++;
        struct str one = {s.p + from, i - from};
        if (encoded && one.n) basic(p, one);
        if (one.n) run(p, one, named);
        encoded = encoded || is_basic(one);
        /* token="xyz" */
        named = one.n && s.p[i - 1] == '=' && i < s.n && one_of("\"'", s.p[i]);
        i += i < s.n;
    }
}

void header_secrets(struct str value, found_fn *found, void *ctx) {
    struct str inner = str_trim(value);
    struct pieces p = {.found = found, .ctx = ctx, .known = {value, inner, inner, inner}};
    size_t first = 0, last = inner.n;
    found(ctx, value);
    if (inner.n < value.n) found(ctx, inner);
    while (first < inner.n && !one_of(" \t", inner.p[first])) first++;
    while (last > first && !one_of(" \t", inner.p[last - 1])) last--;
    if (first < inner.n) {
        p.known[2] = str_trim((struct str){inner.p + first, inner.n - first});
        p.known[3] = (struct str){inner.p + last, inner.n - last};
        found(ctx, p.known[2]);
        if (p.known[2].n != p.known[3].n) found(ctx, p.known[3]);
    }
    pieces(&p, value);
    if (!value.n || !memchr(value.p, '%', value.n)) return;
    char *text = xmalloc(value.n + 1);
    pieces(&p, (struct str){text, percent_decode(value, text)});
    wipe(text, value.n);
    free(text);
}
