/* A destination's own secrets where its name would show them: the token that is a webhook's path
 * too, a key's id in a bucket's name. Looked for as whoever reads the name would understand it:
 * without percent-encoding, also where that was done twice, and in any case. Pure; any thread. */
#ifndef RUNSINK_CONCEAL_H
#define RUNSINK_CONCEAL_H

#include <stdint.h>

#include "worker/base/str.h"

#define CONCEAL_MAX 192 /* of a label, its end included */
/* A shorter secret may stand anywhere by chance: it counts as a whole segment of a path alone. */
#define CONCEAL_MIN 6

/* Whether a secret of CONCEAL_MIN bytes or more stands in the text. */
bool conceal_shows(struct str text, struct str secret);

/* Finds secrets in a label, "type://host/path", one after another. */
struct conceal {
    const char *label;
    size_t host, path; /* where they begin in text */
    bool cut;          /* the label may be shorter than what it names */
    char text[CONCEAL_MAX];
    uint16_t at[CONCEAL_MAX]; /* where each byte of text stands in the label */
    size_t n;
    bool hidden[CONCEAL_MAX]; /* of the label */
};
void conceal_begin(struct conceal *, const char *label); /* borrowed until the end */
void conceal_find(struct conceal *, struct str secret);
bool conceal_any(const struct conceal *, bool *ret_in_host);
/* The label with `[REDACTED]` in the place of each secret that was found. */
void conceal_end(const struct conceal *, char ret[CONCEAL_MAX]);

#endif
