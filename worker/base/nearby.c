#include "worker/base/nearby.h"

#include <stdio.h>
#include <string.h>

#include "worker/base/str.h"

#define NAME_MAX_LEN 64

/* Edits that make a into b (Levenshtein); longer names than NAME_MAX_LEN are far from all. */
static size_t distance(const char *a, const char *b) {
    size_t n = strlen(b), row[NAME_MAX_LEN];
    if (n >= NAME_MAX_LEN || strlen(a) >= NAME_MAX_LEN) return NAME_MAX_LEN;
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t change = diagonal + (char_lower(a[i - 1]) != char_lower(b[j - 1]));
            size_t least = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
            diagonal = row[j];
            row[j] = change < least ? change : least;
        }
    }
    return row[n];
}

static size_t same_beginning(const char *a, const char *b) {
    size_t n = 0;
    while (a[n] && char_lower(a[n]) == char_lower(b[n])) n++;
    return n;
}

void nearby_look(struct nearby *g, const char *name) {
    size_t d = distance(g->typed, name), same = same_beginning(g->typed, name);
    if (d > NEARBY_MAX || d >= strlen(g->typed)) return;
    if (g->name && (d > g->distance || (d == g->distance && same <= g->same))) return;
    g->name = name;
    g->distance = d;
    g->same = same;
}

const char *nearby_text(const struct nearby *g, char ret[NEARBY_TEXT]) {
    ret[0] = '\0';
    if (g->name) snprintf(ret, NEARBY_TEXT, "; did you mean %s?", g->name);
    return ret;
}
