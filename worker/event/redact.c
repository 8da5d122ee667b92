#include "worker/event/redact.h"

static const struct str mark = STR("[REDACTED]");

static size_t edits(const struct payload *p) {
    return p->verbatim ? 0 : p->n_edits;
}

size_t redact_size(const struct payload *p) {
    size_t n = p->json.n;
    for (size_t i = 0; i < edits(p); i++) n = n - p->edits[i].n + mark.n;
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
        memcpy(to, mark.p, mark.n);
        to += mark.n;
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

/* Where the authority starts: after "scheme:" and any number of slashes; 0 when there is no
 * scheme. As lenient as curl is: about how many slashes, and about what a scheme may start with. */
static size_t authority(struct str u) {
    size_t i = 0;
    while (i < u.n && (char_is_alnum(u.p[i]) || one_of("+-.", u.p[i]))) i++;
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

void url_secrets_begin(struct url_secrets *s, struct str url) {
    size_t from = authority(url);
    size_t end = from;
    size_t host = from;
    for (; end < url.n && !one_of("/?#", url.p[end]); end++)
        if (url.p[end] == '@') host = end + 1;
    *s = (struct url_secrets){.url = url, .host = host, .query = url.n};
    if (!host_port((struct str){url.p + host, end - host})) {
        s->malformed = true;
        s->first = (struct edit){from, url.n - from};
        return;
    }
    if (host > from) s->first = (struct edit){from, host - 1 - from};
    struct str rest = {url.p + end, url.n - end};
    size_t query = until(rest, '?'), fragment = until(rest, '#');
    if (fragment < query) { /* no query: the fragment is all of one piece */
        query = fragment;
        s->pieces = URL_QUERY_PIECES - 1;
    }
    if (query < rest.n) s->query = end + query + 1;
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
    if (s->first.n > 0) {
        *ret = s->first;
        s->first.n = 0;
        return true;
    }
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
        *ret = (struct edit){at, end - name};
        return true;
    }
    return false;
}
