/* What the files of config/ share: the table of keys as data, and the values it describes. Nobody
 * else includes this. Main thread. */
#ifndef RUNSINK_CONFIG_TABLE_H
#define RUNSINK_CONFIG_TABLE_H

#include "config/config.h"

enum key_type { TYPE_STR, TYPE_BOOL, TYPE_INT, TYPE_MS, TYPE_BYTES, TYPE_ENUM, TYPE_LIST };
enum { SECRET = 1, RELOAD = 2, RULE = 4 };

struct key {
    const char *name;
    enum key_type type;
    const char *def;
    int64_t min, max;
    unsigned flags;
    const char *help; /* of an ENUM: its choices, a|b|c, are the first word */
    size_t offset;    /* of the field in struct config */
};
extern const struct key config_keys[];
extern const size_t config_n_keys;

/* A key's value as it was written (NULL for a secret), and by whom. */
struct setting {
    char *text;
    char *origin;
};

#define KEY_NAME_MAX 128
const struct key *key_find(const char *name); /* NULL when there is none */
size_t key_section(const struct key *);       /* length of what stands before the first dot, or 0 */
const char *key_help(const struct key *);     /* without the choices */
void key_env(const char *name, char ret[KEY_NAME_MAX]); /* window.age -> RUNSINK_WINDOW_AGE */
bool key_is_secret(const char *name);                   /* of a key, or of kafka. and a property */
bool config_section_known(struct str name);

/* Digest of the values that decide what becomes of an event: rules.c. */
void rules_digest(const struct config *, uint8_t ret[CONFIG_RULES_LEN]);

/* Parses text as the key's type and puts it into field, freeing what was there. On false the field
 * is unchanged and err has the reason. */
bool value_set(const struct key *, const char *text, void *field, struct buf *err);
void value_free(const struct key *, void *field); /* secrets are wiped */
/* "10s", "64KiB", ...: the shortest exact form. */
void value_print(const struct key *, int64_t value, char *ret, size_t size);

/* Splits at commas, blanks around entries dropped. False for an empty entry. */
bool list_split(struct str text, struct list *ret);

/* The value of a secret: text itself or, for "@/path", what that file holds; in a list each entry
 * for itself, a file's lines being entries. */
bool secret_resolve(const char *text, bool is_list, struct buf *out, struct buf *err);

/* Calls each() for whatever the log must never show: with secret_add, later with secret_drop.
 */
void config_secrets(const struct config *, void (*each)(struct str));

/* Text from a person's file for a message: one printable line, cut. */
#define QUOTE_MAX 80
const char *quote(const char *text, char ret[QUOTE_MAX]);

#endif
