#include "worker/redact.h"

static const struct str mark = STR("[REDACTED]");

size_t redact_size(const struct jobrun *run) {
    size_t n = run->payload.n;
    for (size_t i = 0; i < run->n_edits; i++) n = n - run->edits[i].n + mark.n;
    return n;
}

bool redact_add(struct buf *b, const struct jobrun *run) {
    size_t size = redact_size(run);
    char *to = buf_reserve(b, size);
    if (!to) return false;
    size_t from = 0;
    for (size_t i = 0; i < run->n_edits; i++) {
        const struct edit *e = &run->edits[i];
        memcpy(to, run->payload.p + from, e->at - from);
        to += e->at - from;
        memcpy(to, mark.p, mark.n);
        to += mark.n;
        from = e->at + e->n;
    }
    memcpy(to, run->payload.p + from, run->payload.n - from);
    b->n += size;
    return true;
}

bool redact_add_line(struct buf *b, const struct jobrun *run) {
    size_t start = b->n;
    if (!buf_reserve(b, redact_size(run) + 1) || !redact_add(b, run)) return false;
    /* A line break in valid JSON stands between tokens: strings hold none. */
    for (char *p = b->p + start; p < b->p + b->n; p++)
        if (*p == '\n' || *p == '\r') *p = ' ';
    return buf_putc(b, '\n');
}

static bool letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool digit(char c) {
    return c >= '0' && c <= '9';
}

static bool one_of(const char *set, char c) {
    return c && strchr(set, c); /* strchr would find the set's own NUL */
}

/* Where the authority starts: behind "scheme:" and any number of slashes, since curl and others
 * are lenient about how many; 0 when there is no scheme. */
static size_t authority(struct str u) {
    size_t i = 0;
    while (i < u.n && (letter(u.p[i]) || (i > 0 && (digit(u.p[i]) || one_of("+-.", u.p[i]))))) i++;
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
        while (i < s.n && (letter(s.p[i]) || digit(s.p[i]) || one_of(":.%_-", s.p[i]))) i++;
        if (i == s.n || s.p[i] != ']') return false;
        i++;
    } else {
        while (i < s.n && (letter(s.p[i]) || digit(s.p[i]) || one_of("._-", s.p[i]))) i++;
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
    const char *mark_at = end < url.n ? memchr(url.p + end, '?', url.n - end) : NULL;
    if (mark_at) s->query = (size_t)(mark_at + 1 - url.p);
}

bool url_secrets_next(struct url_secrets *s, struct edit *ret) {
    if (s->first.n > 0) {
        *ret = s->first;
        s->first.n = 0;
        return true;
    }
    while (s->query < s->url.n) {
        const char *piece = s->url.p + s->query;
        size_t left = s->url.n - s->query;
        const char *end = ++s->pieces < URL_QUERY_PIECES ? memchr(piece, '&', left) : NULL;
        size_t n = end ? (size_t)(end - piece) : left;
        const char *equals = memchr(piece, '=', n);
        size_t skip = equals ? (size_t)(equals + 1 - piece) : 0;
        bool value = false;
        for (size_t i = skip; equals && i < n && !value; i++) value = piece[i] != '=';
        if (!value) skip = 0;
        struct edit e = {s->query + skip, n - skip};
        s->query += end ? n + 1 : n;
        if (e.n == 0) continue;
        *ret = e;
        return true;
    }
    return false;
}

/* Appends what fits as printable ASCII. */
static size_t put(char *ret, size_t size, size_t n, struct str text) {
    outcome_text(ret + n, size - n, text);
    return n + strlen(ret + n);
}

void redact_url(char *ret, size_t size, struct str url) {
    struct url_secrets s;
    struct edit e;
    url_secrets_begin(&s, url);
    size_t from = authority(url);
    if (s.malformed || from == 0 || url.p[0] == '/' || s.host == url.n ||
        one_of("/?#:", url.p[s.host])) {
        outcome_text(ret, size, STR("(unparsable url)"));
        return;
    }
    size_t n = put(ret, size, 0, (struct str){url.p, from});
    from = s.host;
    s.first.n = 0;
    while (url_secrets_next(&s, &e)) {
        n = put(ret, size, n, (struct str){url.p + from, e.at - from});
        n = put(ret, size, n, mark);
        from = e.at + e.n;
    }
    put(ret, size, n, (struct str){url.p + from, url.n - from});
}
