/* Which known name a mistyped one was meant to be, for "did you mean". Pure, any thread. */
#ifndef RUNSINK_NEARBY_H
#define RUNSINK_NEARBY_H

#include <stdbool.h>
#include <stddef.h>

/* Names further away than this are not worth a guess. */
#define NEARBY_MAX 3

struct nearby {
    const char *typed, *name; /* name: the nearest so far; NULL: none is near. Borrowed */
    size_t distance, same;    /* of name: edits, and how many letters begin alike */
};
/* Compares one name more; case makes no difference. */
void nearby_look(struct nearby *, const char *name);
/* "; did you mean NAME?", or "" where none is near; valid as long as ret is. */
#define NEARBY_TEXT 128
const char *nearby_text(const struct nearby *, char ret[NEARBY_TEXT]);

#endif
