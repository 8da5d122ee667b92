#include "worker/event/names.h"

#include <stdlib.h>

#include "config/config.h"
#include "worker/base/buf.h"

/* Names that tell nothing are most of all, and few: one of up to KEPT_MAX bytes is kept in a table
 * of the last ones judged, whole, as three words that overlap where it is shorter. */
#define KEPT_MIN 3
#define KEPT_MAX 24
#define SLOTS 256

struct kept {
    uint64_t first, middle, last;
    size_t n; /* 0: nothing is kept */
    enum name_class class;
};

struct names {
    struct name {
        struct str text; /* letters and digits, lower case */
        bool last;       /* has to be the last word */
        struct name *next;
    } * v, *heads[256]; /* by their first byte */
    size_t n;
    char *text; /* what they point into */
    size_t shortest;
    bool model;
    struct kept kept[SLOTS];
};

static bool in_word(char c) {
    return char_is_alnum(c) || (unsigned char)c >= 0x80;
}

static size_t plain(struct str name, char *to) {
    size_t n = 0;
    for (size_t i = 0; i < name.n; i++)
        if (in_word(name.p[i])) to[n++] = char_lower(name.p[i]);
    return n;
}

static bool capital(char c) {
    return c >= 'A' && c <= 'Z';
}

/* Words are set apart by signs, or by a capital: PASS is the last one of DB_PASS, dbPASS, DBPass.
 */
static struct str last_word(struct str name) {
    while (name.n && !in_word(name.p[name.n - 1])) name.n--;
    for (size_t i = name.n; i > 0; i--) {
        bool first = i == 1 || !in_word(name.p[i - 2]) ||
                     (capital(name.p[i - 1]) &&
                      (!capital(name.p[i - 2]) || (i < name.n && !capital(name.p[i]))));
        if (first) return (struct str){name.p + i - 1, name.n - i + 1};
    }
    return name;
}

struct names *names_new(const struct list *l) {
    struct names *names = xcalloc(1, sizeof *names);
    size_t bytes = 1;
    for (size_t i = 0; i < l->n; i++) bytes += strlen(l->v[i]);
    names->text = xmalloc(bytes);
    names->v = xcalloc(l->n + 1, sizeof *names->v);
    char *at = names->text;
    for (size_t i = 0; i < l->n; i++) {
        size_t n = plain(str_c(l->v[i]), at);
        if (n) {
            struct name **head = &names->heads[(unsigned char)*at];
            names->v[names->n] = (struct name){{at, n}, *l->v[i] == '_', *head};
            *head = &names->v[names->n++];
        }
        if (n && (!names->shortest || n < names->shortest)) names->shortest = n;
        at += n;
    }
    return names;
}

void names_free(struct names *names) {
    if (!names) return;
    free(names->v);
    free(names->text);
    free(names);
}

static uint64_t word(const char *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static uint32_t half(const char *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static struct kept pack(struct str s) {
    if (s.n >= 8)
        return (struct kept){word(s.p), word(s.p + (s.n < 16 ? 0 : 8)), word(s.p + s.n - 8), s.n,
                             NAME_UNKNOWN};
    if (s.n > KEPT_MIN) return (struct kept){half(s.p), 0, half(s.p + s.n - 4), s.n, NAME_UNKNOWN};
    uint64_t three = 0;
    for (size_t i = 0; i < s.n; i++) three = three << 8 | (unsigned char)s.p[i];
    return (struct kept){three, 0, 0, s.n, NAME_UNKNOWN};
}

static size_t slot(const struct kept *k) {
    return ((k->first ^ k->last * 31) * UINT64_C(0x9e3779b97f4a7c15)) >> 56;
}

enum name_class names_recall(const struct names *names, struct str name) {
    if (name.n < KEPT_MIN && name.n < names->shortest) return NAME_PLAIN; /* "id" */
    if (name.n < KEPT_MIN || name.n > KEPT_MAX) return NAME_UNKNOWN;
    struct kept k = pack(name);
    const struct kept *is = &names->kept[slot(&k)];
    bool same =
        is->n == k.n && is->last == k.last && is->first == k.first && is->middle == k.middle;
    return same ? is->class : NAME_UNKNOWN;
}

void names_remember(struct names *names, struct str name, enum name_class class) {
    if (name.n < KEPT_MIN || name.n > KEPT_MAX) return;
    struct kept k = pack(name);
    k.class = class;
    names->kept[slot(&k)] = k;
}

bool names_tell(const struct names *names, struct str name) {
    char few[128];
    if (!names->n || name.n < names->shortest) return false;
    char *text = 2 * name.n <= sizeof few ? few : xmalloc(2 * name.n);
    size_t n = plain(name, text), word = plain(last_word(name), text + n);
    bool tells = false;
    for (size_t i = 0; i < n && !tells; i++)
        for (const struct name *one = names->heads[(unsigned char)text[i]]; one && !tells;
             one = one->next)
            tells = !one->last && one->text.n <= n - i &&
                    memcmp(one->text.p, text + i, one->text.n) == 0;
    const struct name *one = word ? names->heads[(unsigned char)text[n]] : NULL;
    for (; one && !tells; one = one->next)
        tells = one->last && str_eq(one->text, (struct str){text + n, word});
    if (text != few) free(text);
    return tells;
}

void names_set_model(struct names *names, bool model) {
    names->model = model;
}

bool names_model(const struct names *names) {
    return names->model;
}
