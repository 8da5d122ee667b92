#include "worker/event/names.h"

#include <stdlib.h>

#include "config/config.h"
#include "worker/base/buf.h"

/* Names that tell nothing are most of all, and few: one of up to KEPT_MAX bytes is kept in a table
 * of the last ones judged, whole, as three words that overlap where it is shorter. */
#define KEPT_MIN 4
#define KEPT_MAX 24
#define SLOTS 256

struct kept {
    uint64_t first, middle, last;
    size_t n; /* 0: nothing is kept */
    enum name_class class;
};

struct names {
    struct str *v; /* letters and digits, lower case */
    size_t n;
    char *text; /* what they point into */
    size_t shortest;
    bool model;
    struct kept kept[SLOTS];
};

static size_t plain(struct str name, char *to) {
    size_t n = 0;
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i];
        if (c >= 'A' && c <= 'Z') c = (char)(c - 'A' + 'a');
        if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (unsigned char)c >= 0x80)
            to[n++] = c;
    }
    return n;
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
        if (n) names->v[names->n++] = (struct str){at, n};
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
    if (s.n < 8) return (struct kept){half(s.p), 0, half(s.p + s.n - 4), s.n, NAME_UNKNOWN};
    return (struct kept){word(s.p), word(s.p + (s.n < 16 ? 0 : 8)), word(s.p + s.n - 8), s.n,
                         NAME_UNKNOWN};
}

static size_t slot(const struct kept *k) {
    return ((k->first ^ k->last * 31) * UINT64_C(0x9e3779b97f4a7c15)) >> 56;
}

enum name_class names_recall(const struct names *names, struct str name) {
    if (name.n < KEPT_MIN && name.n < names->shortest) /* "id" is plain, "url" and "uri" are not */
        return name.n == KEPT_MIN - 1 && (name.p[0] | 0x20) == 'u' ? NAME_URL : NAME_PLAIN;
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
    char few[64];
    if (!names->n || name.n < names->shortest) return false;
    char *text = name.n <= sizeof few ? few : xmalloc(name.n);
    size_t n = plain(name, text);
    bool tells = false;
    for (size_t i = 0; i < names->n && !tells; i++)
        tells = memmem(text, n, names->v[i].p, names->v[i].n) != NULL;
    if (text != few) free(text);
    return tells;
}

void names_set_model(struct names *names, bool model) {
    names->model = model;
}

bool names_model(const struct names *names) {
    return names->model;
}
