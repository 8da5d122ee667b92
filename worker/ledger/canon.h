/* The scanner of runsink's canonical JSON (ledger entries, anchors): it takes the one form that the
 * writers choose and refuses every other (white space, another order, an escape that buf_json()
 * would not have chosen, numbers with leading zeros), so that two readings of a signed text can't
 * differ. Each canon_ call takes what it names off the front; false: it does not stand there, and
 * the first such place is remembered. Pure; any thread. */
#ifndef RUNSINK_CANON_H
#define RUNSINK_CANON_H

#include <stdint.h>

#include "worker/base/arena.h"
#include "worker/ledger/ledger_key.h"

struct canon {
    const char *start, *p, *end;
    struct arena *arena; /* for texts with escapes, and arrays */
    const char *what;    /* the first thing that was expected and not found, a static phrase */
    size_t at;           /* and at which byte */
};

/* Notes what was expected here; always false. */
bool canon_fail(struct canon *, const char *what);
bool canon_maybe(struct canon *, const char *literal); /* its absence is no error */
bool canon_want(struct canon *, const char *literal);
bool canon_uint(struct canon *, uint64_t max, uint64_t *ret);
bool canon_offset(struct canon *, int64_t *ret); /* below INT64_MAX, so that the next one exists */
bool canon_int32(struct canon *, int32_t *ret);  /* not negative */
/* In quotes. The text borrows from the input or from the arena. */
bool canon_text(struct canon *, struct str *ret);
bool canon_hash(struct canon *, uint8_t ret[SHA256_LEN]);
bool canon_key_id(struct canon *, char ret[LEDGER_KEY_ID_LEN + 1]);
bool canon_base64(struct canon *, uint8_t *ret, size_t n); /* of exactly n bytes */
/* Room for one more element in an array of the arena's. */
void *canon_grow(struct arena *, void *array, size_t n, size_t size);

#endif
