#include "worker/event/hide.h"

#include "worker/base/text.h"
#include "worker/event/redact.h"

/* Some edits that are to stand at a distance from where they say. */
void hide_edits(struct reading *r, const struct edit *v, size_t n, size_t distance) {
    if (r->cap_edits - r->n_edits < n) {
        r->cap_edits = 2 * (r->n_edits + n);
        struct edit *more = arena_alloc(r->arena, r->cap_edits * sizeof *more);
        memcpy(more, r->edits, r->n_edits * sizeof *more);
        r->edits = more;
    }
    struct edit *to = r->edits + r->n_edits;
    r->n_edits += n;
    for (size_t i = 0; i < n; i++) to[i] = edit_of(v[i].at + distance, v[i].n, v[i].quotes);
}

static void push_edit(struct reading *r, struct edit e) {
    hide_edits(r, &e, 1, 0);
}

void hide_part(struct reading *r, const char *p, size_t n) {
    if (n) push_edit(r, edit_of((size_t)(p - r->j.start), n, 0));
}

static void note(struct reading *r, struct str value) {
    echoes_add(&r->values, r->arena, value, true);
}

static struct str percent_decoded(struct reading *r, struct str s) {
    char *text = arena_alloc(r->arena, s.n + 1);
    return (struct str){text, percent_decode(s, text)};
}

/* As it stands in the URL and as it is meant. */
static void note_encoded(struct reading *r, struct str s) {
    note(r, s);
    if (!memchr(s.p, '%', s.n)) return;
    struct str plain = percent_decoded(r, s);
    if (!str_eq(plain, s)) note(r, plain);
}

static struct str base64(struct reading *r, struct str s) {
    struct buf b;
    buf_init_secret(&b, s.n * 2 + 4);
    base64_add(&b, s.p, s.n);
    struct str ret = {arena_strdup(r->arena, (struct str){b.p, b.n}), b.n};
    buf_wipe(&b);
    return ret;
}

/* User and password: together, each alone, and as the request carries them (RFC 7617). */
static void note_userinfo(struct reading *r, struct str s) {
    const char *colon = memchr(s.p, ':', s.n);
    size_t user = colon ? (size_t)(colon - s.p) : s.n;
    note_encoded(r, s);
    if (colon) {
        note_encoded(r, (struct str){s.p, user});
        note_encoded(r, (struct str){colon + 1, s.n - user - 1});
    }
    note(r, base64(r, percent_decoded(r, s)));
}

struct noted_header {
    struct reading *r;
    struct str value;
};

static void note_piece(void *ctx, struct str s) {
    struct noted_header *h = ctx;
    bool lasts = s.p >= h->value.p && s.p < h->value.p + h->value.n;
    note(h->r, lasts ? s : (struct str){arena_strdup(h->r->arena, s), s.n});
}

void hide_note_header(struct reading *r, struct str s) {
    struct noted_header h = {r, s};
    header_secrets(s, note_piece, &h);
}

/* A string that is secret as a whole. */
void hide_string(struct reading *r, const struct json_value *v, bool credential) {
    struct str text;
    hide_part(r, v->raw.p, v->raw.n);
    if (json_resolve(v, r->arena, &text)) echoes_add(&r->values, r->arena, text, credential);
}

/* A number or a boolean that is secret. What has only a few digits may stand anywhere by chance. */
void hide_number(struct reading *r, const struct json_value *v) {
    push_edit(r, edit_of((size_t)(v->raw.p - r->j.start), v->raw.n, 2));
    if (v->kind == JSON_NUMBER && v->raw.n >= ECHO_MIN)
        echoes_add(&r->values, r->arena, v->raw, true);
}

/* One character, of which half a surrogate pair is one, too: it becomes DEL, which is neither a
 * letter nor the end of a URL. */
static size_t any_char(const char **at, const char *end, char ret[4]) {
    size_t n = json_char(at, end, ret);
    if (n) return n;
    *ret = 0x7f;
    return 1;
}

/* A string's text, whatever it holds. */
struct str hide_text(struct reading *r, const struct json_value *v) {
    struct str text;
    if (json_resolve(v, r->arena, &text)) return text;
    char *to = arena_alloc(r->arena, v->raw.n + 4);
    const char *p = v->raw.p, *end = p + v->raw.n;
    text = (struct str){to, 0};
    while (p < end) text.n += any_char(&p, end, to + text.n);
    return text;
}

/* The secrets of a URL that stands at [from, from + n) of a string's text. Where the string has
 * escapes each one's place is looked up by walking text and string together: *p is at *at there. */
static void add_url_at(struct reading *r, const struct json_value *v, struct str text, size_t from,
                       size_t n, const char **p, size_t *at) {
    struct url_secrets s;
    struct edit e;
    char one[4];
    url_secrets_begin(&s, (struct str){text.p + from, n});
    while (url_secrets_next(&s, &e)) {
        struct str piece = {text.p + from + e.at, e.n};
        if (s.userinfo)
            note_userinfo(r, piece);
        else
            note_encoded(r, piece);
        if (!v->escaped) {
            hide_part(r, v->raw.p + from + e.at, e.n);
            continue;
        }
        const char *end = v->raw.p + v->raw.n;
        while (*at < from + e.at) *at += any_char(p, end, one);
        const char *start = *p;
        while (*at < from + e.at + e.n) *at += any_char(p, end, one);
        hide_part(r, start, (size_t)(*p - start));
    }
}

/* A string that is a URL. */
void hide_url(struct reading *r, const struct json_value *v) {
    struct str text;
    size_t at = 0;
    const char *p = v->raw.p;
    if (json_resolve(v, r->arena, &text))
        add_url_at(r, v, text, 0, text.n, &p, &at);
    else
        hide_part(r, v->raw.p, v->raw.n);
}

/* Where a URL in a text ends: at a blank or at what none holds. They hold apostrophes (RFC 3986);
 * behind another one that is the end of a quotation, when only punctuation follows. */
static size_t url_end(struct str text, size_t at, bool quoted) {
    size_t end = at;
    while (end < text.n && (unsigned char)text.p[end] > ' ' && !strchr("\"<>", text.p[end])) end++;
    size_t close = end;
    while (quoted && close > at && strchr(",;.:!?)]}", text.p[close - 1])) close--;
    return quoted && close > at && text.p[close - 1] == '\'' ? close - 1 : end;
}

/* A string that may hold URLs, between blanks or quotes. */
void hide_urls(struct reading *r, const struct json_value *v) {
    size_t at = 0;
    const char *p = v->raw.p;
    if (!v->escaped && (v->raw.n < 4 || !memchr(v->raw.p, ':', v->raw.n))) return;
    struct str text = hide_text(r, v);
    const char *quote = text.n ? memchr(text.p, '\'', text.n) : NULL;
    for (size_t i = 0, end; i < text.n; i = end) {
        const char *mark = memmem(text.p + i, text.n - i, "://", 3);
        if (!mark) return;
        size_t from = (size_t)(mark - text.p);
        while (from > i && url_scheme_char(text.p[from - 1])) from--;
        end = url_end(text, (size_t)(mark - text.p), quote && quote < text.p + from);
        add_url_at(r, v, text, from, end - from, &p, &at);
    }
}

/* Finds what was taken for a secret in the rest of the document: outside of the sink, whose own
 * values were looked for in it when it was read, and the others' in it. */
void hide_echoes(struct reading *r, struct str document) {
    struct edits edits = {r->edits, r->n_edits};
    size_t n = r->values.n, at = 0, end = 0;
    struct edit own = {0};
    bool escapes = r->j.escapes, found = false;
    if (r->values.n_short == n) return;
    if (r->sink_at) {
        at = (size_t)(r->sink_at - document.p);
        end = at + r->facts.json.n;
        own = r->own;
    }
    const struct {
        struct edit which, range;
        bool escapes;
    } looks[] = {
        {edit_of(0, n, 0), edit_of(0, at, 0), escapes},
        {edit_of(0, own.at, 0), edit_of(at, end - at, 0), true},
        {edit_of(own.at + own.n, n - own.at - own.n, 0), edit_of(at, end - at, 0), true},
        {edit_of(0, n, 0), edit_of(end, document.n - end, 0), escapes},
    };
    for (size_t i = 0; i < sizeof looks / sizeof *looks; i++)
        found |= echoes_find(&r->values, looks[i].which, document, looks[i].range, looks[i].escapes,
                             &edits, r->arena);
    if (!found) return;
    r->edits = edits.v;
    r->n_edits = r->cap_edits = edits.n;
    r->hides_text = true;
}
