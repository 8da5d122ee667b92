/* Object keys from templates. "{name}" stands for a field; a value is percent-encoded outside
 * [A-Za-z0-9._-], so that no field can climb out of its place ("." and ".." alone are encoded too);
 * {prefix} alone is used as it is, since it is the tenant's own place in its own bucket. Pure; any
 * thread. */
#ifndef RUNSINK_KEY_H
#define RUNSINK_KEY_H

#include "worker/base/outcome.h"

enum key_field {
    KEY_PREFIX,
    KEY_TOPIC,
    KEY_PARTITION,
    KEY_OFFSET,
    KEY_ID,
    KEY_WORKSPACE_ID,
    KEY_PROJECT_ID,
    KEY_JOB_ID,
    KEY_UPDATED_AT,
    KEY_STATUS,
    KEY_DATE,
    KEY_FIRST,
    KEY_NEXT,
    KEY_DESTINATION,
    KEY_FIELDS
};
struct key_values {
    struct str v[KEY_FIELDS];
};

/* A template parsed once. Opaque, freed by key_template_free (NULL is fine). allowed is a bit set
 * of 1u << enum key_field. NULL with a message for the operator in err when invalid: empty, an
 * unknown field, a stray brace, a control character, or a folder named "." or "..". */
struct buf;
struct key_template;
struct key_template *key_template_new(const char *text, unsigned allowed, struct buf *err);
void key_template_free(struct key_template *);
bool key_template_uses(const struct key_template *, enum key_field);
/* Appends the key. False (out as it was) when the key would be longer than limit bytes or pass
 * out's ceiling, a value holds NUL, or the prefix is no UTF-8. */
bool key_make(const struct key_template *, const struct key_values *, size_t limit,
              struct buf *out);
/* yyyy-mm-dd (UTC) of a Kafka timestamp in ms. A producer chooses it freely: what lies outside 1970
 * to 9999 becomes the nearest day inside. */
void key_date(int64_t ms, char ret[11]);

#endif
