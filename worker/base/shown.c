#include "worker/base/shown.h"

#include "worker/base/text.h"

#define CUT "..."

/* The code point of a sequence that utf8_sequence() has measured. */
static unsigned code_point(const char *s, size_t n) {
    static const unsigned char first[] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    unsigned c = (unsigned char)s[0] & first[n];
    for (size_t i = 1; i < n; i++) c = c << 6 | ((unsigned char)s[i] & 0x3f);
    return c;
}

/* Beyond what JSON has to escape. */
static bool is_unsafe(unsigned c) {
    return (c >= 0x7f && c < 0xa0) || c == 0x061c || c == 0x200e || c == 0x200f ||
           (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || c == 0xfeff;
}

/* The unit at s as it is shown: itself, or its escape. Returns how many bytes of s it is. */
static size_t show_one(const char *s, size_t n, char ret[16]) {
    size_t size = utf8_sequence(s, n);
    unsigned c = size ? code_point(s, size) : (unsigned char)s[0];
    if (!size)
        snprintf(ret, 16, "\\x%02x", c);
    else if (c == '\n' || c == '\t' || c == '\r')
        snprintf(ret, 16, "\\%c", c == '\n' ? 'n' : c == '\t' ? 't' : 'r');
    else if (c < 0x20 || is_unsafe(c))
        snprintf(ret, 16, "\\u%04x", c);
    else
        snprintf(ret, 16, "%.*s", (int)size, s);
    return size ? size : 1;
}

const char *shown(const char *s, char ret[SHOWN_MAX]) {
    size_t at = 0;
    for (size_t n = s ? strlen(s) : 0; n > 0;) {
        char one[16];
        size_t size = show_one(s, n, one), len = strlen(one);
        if (at + len + sizeof CUT > SHOWN_MAX) {
            memcpy(ret + at, CUT, sizeof CUT);
            return ret;
        }
        memcpy(ret + at, one, len);
        at += len;
        s += size;
        n -= size;
    }
    ret[at] = '\0';
    return ret;
}

void shown_lines(FILE *f, const char *text) {
    for (size_t n = strlen(text); n > 0;) {
        char one[16];
        size_t size = show_one(text, n, one);
        fputs(text[0] == '\n' ? "\n" : one, f);
        text += size;
        n -= size;
    }
}

bool shown_json(struct buf *b, struct str s) {
    size_t start = b->n;
    bool ok = true;
    while (ok && s.n > 0) {
        /* As far as JSON's own escapes will do. */
        size_t run = 0, size = 0;
        while (run < s.n) {
            size = utf8_sequence(s.p + run, s.n - run);
            if (size && is_unsafe(code_point(s.p + run, size))) break;
            run += size ? size : 1;
        }
        ok = text_json(b, (struct str){s.p, run});
        if (ok && run < s.n)
            ok = buf_printf(b, "\\u%04x", code_point(s.p + run, size));
        else
            size = 0;
        s = (struct str){s.p + run + size, s.n - run - size};
    }
    if (!ok) b->n = start;
    return ok;
}

bool shown_word(struct buf *b, const char *before, const char *text) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "._/:@%+,-";
    bool ok = buf_puts(b, before), bytes = false;
    for (const char *p = text; *p; p++) bytes |= *p < 0x20 || *p > 0x7e;
    if (*text && !text[strspn(text, plain)]) return ok && buf_puts(b, text);
    ok = ok && buf_puts(b, bytes ? "$'" : "'");
    for (const char *p = text; ok && *p; p++) {
        if (bytes && (*p < 0x20 || *p > 0x7e))
            ok = buf_printf(b, "\\x%02x", (unsigned)(unsigned char)*p);
        else if (bytes && (*p == '\'' || *p == '\\'))
            ok = buf_printf(b, "\\%c", *p);
        else
            ok = *p == '\'' ? buf_puts(b, "'\\''") : buf_putc(b, *p);
    }
    return ok && buf_putc(b, '\'');
}
