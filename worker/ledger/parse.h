/* The scanner of runsink's canonical JSON (ledger entries, anchors): it takes the one form that the
 * writers choose and refuses every other (white space, another order, an escape that text_json()
 * would not have chosen, numbers with leading zeros), so that two readings of a signed text can't
 * differ. Each parse_ call takes what it names off the front; false: it does not stand there, and
 * the first such place is remembered. Pure; any thread. */
#ifndef RUNSINK_PARSE_H
#define RUNSINK_PARSE_H

#include <stdint.h>

#include "worker/base/arena.h"
#include "worker/ledger/key.h"

struct parser {
    const char *start, *p, *end;
    struct arena *arena; /* for texts with escapes, and arrays */
    const char *what;    /* the first thing that was expected and not found, a static phrase */
    size_t at;           /* and at which byte */
};

/* Notes what was expected here; always false. */
bool parse_fail(struct parser *, const char *what);
bool parse_maybe(struct parser *, const char *literal); /* its absence is no error */
bool parse_want(struct parser *, const char *literal);
bool parse_uint(struct parser *, uint64_t max, uint64_t *ret);
bool parse_offset(struct parser *, int64_t *ret); /* below INT64_MAX, so that the next one exists */
bool parse_int32(struct parser *, int32_t *ret);  /* not negative */
/* In quotes. The text borrows from the input or from the arena. */
bool parse_text(struct parser *, struct str *ret);
bool parse_hex(struct parser *, uint8_t *ret, size_t n); /* of exactly n bytes, lower case */
bool parse_hash(struct parser *, uint8_t ret[SHA256_LEN]);
bool parse_key_id(struct parser *, char ret[LEDGER_KEY_ID_LEN + 1]);
bool parse_base64(struct parser *, uint8_t *ret, size_t n); /* of exactly n bytes */
/* Room for one more element in an array of the arena's. */
void *parse_grow(struct arena *, void *array, size_t n, size_t size);

#endif
