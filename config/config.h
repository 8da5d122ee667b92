/* Configuration: one table of keys (keys.def), read from defaults, then an INI file, then
 * RUNSINK_* variables, then --set NAME=VALUE; the last one wins. Read once on the main thread
 * before lanes start; then const for everybody.
 *
 * A secret (a key marked so in the table, or a [kafka] property such as sasl.password) may stand in
 * a file of its own: its value is then "@/path", or the variable is RUNSINK_..._FILE=/path. One
 * newline at the end of the file is not part of it. */
#ifndef RUNSINK_CONFIG_H
#define RUNSINK_CONFIG_H

#include <stdint.h>
#include <stdio.h>

#include "worker/base/buf.h"
#include "worker/base/cidr.h"

struct list {
    char **v;
    size_t n;
};
void list_add(struct list *, struct str); /* copied */
void list_free(struct list *);            /* leaves an empty one */
void list_wipe(struct list *);            /* the same, for secrets */

/* What a process takes in all: this share of memory.budget, and this much beside it. The chart's
 * limit, the warning at the start and the sizes in OPERATIONS.md come from here. */
#define CONFIG_MEMORY_PERCENT 125
#define CONFIG_MEMORY_BESIDE_MIB 96

#define CONFIG_RULES_LEN 8

/* In each of hold.*: every event is compared with all of them. */
#define CONFIG_PATTERNS_MAX 256
#define CONFIG_PATTERN_MAX 256

enum { CONFIG_START_EARLIEST, CONFIG_START_LATEST, CONFIG_START_TIME };
enum { CONFIG_ARCHIVE_OBJECT, CONFIG_ARCHIVE_BATCH };
enum { CONFIG_COMPRESSION_GZIP, CONFIG_COMPRESSION_ZSTD, CONFIG_COMPRESSION_NONE };
enum { CONFIG_CHECKSUM_NONE, CONFIG_CHECKSUM_SHA256, CONFIG_CHECKSUM_CRC32 };
enum { CONFIG_SSE_NONE, CONFIG_SSE_AES256, CONFIG_SSE_KMS };
enum { CONFIG_LOCK_NONE, CONFIG_LOCK_GOVERNANCE, CONFIG_LOCK_COMPLIANCE };
enum { CONFIG_STRICT_JSON_KEEP, CONFIG_STRICT_JSON_REPLACE };
enum { CONFIG_OUTCOMES_OFF, CONFIG_OUTCOMES_CHANGES, CONFIG_OUTCOMES_ALL };
enum { CONFIG_PERMANENT_RETRY, CONFIG_PERMANENT_DEAD };

/* C types of the key types: STR char * (never NULL), BOOL bool, INT and MS and BYTES int64_t, ENUM
 * int (place of the choice in its help's first word, as in the enums above), LIST struct list. */
#define CONFIG_TYPE_STR char *
#define CONFIG_TYPE_BOOL bool
#define CONFIG_TYPE_INT int64_t
#define CONFIG_TYPE_MS int64_t
#define CONFIG_TYPE_BYTES int64_t
#define CONFIG_TYPE_ENUM int
#define CONFIG_TYPE_LIST struct list

/* An entry of skip.offsets. */
struct config_offset {
    const char *topic;
    int32_t partition;
    int64_t offset;
};

/* What events may reach; sinks/egress.h judges by it. */
struct egress {
    const struct cidr *allow; /* wins over the built-in denials */
    size_t n_allow;
    const struct cidr *deny; /* wins over everything */
    size_t n_deny;
    bool http;                  /* plain http allowed */
    const uint16_t (*ports)[2]; /* allowed ranges, inclusive; none: all but 0 */
    size_t n_ports;
};

struct key_template;

struct config {
#define KEY(field, name, type, default_, min, max, flags, help) CONFIG_TYPE_##type field;
#include "config/keys.def"
    /* [kafka]: any librdkafka property, names unchanged; RUNSINK_KAFKA_BOOTSTRAP_SERVERS sets
     * bootstrap.servers. */
    struct list kafka_names;
    struct list kafka_values;
    /* Derived, filled by config_finish(). */
    int start_at;                                /* CONFIG_START_*, of start */
    int64_t start_ms;                            /* CONFIG_START_TIME: since the epoch */
    struct egress egress;                        /* from the egress.* keys */
    int64_t *retry_delays_ms;                    /* as many as retry_delays.n */
    struct config_offset *skips;                 /* as many as skip_offsets.n */
    struct key_template *object_key, *batch_key; /* key.object, key.batch */
    char *override_dir;                          /* of sink.override, or NULL */
    uint8_t rules[CONFIG_RULES_LEN];             /* digest of all that decides about events */
    /* No key: what a transaction commits can't be seen later, as with `demo`'s broker. */
    bool broker_forgets;
    /* Of no use outside config/. */
    struct list kafka_origins;
    struct setting *settings; /* one per key of the table */
    bool secrets_added;       /* to the log's scrubber */
    bool unended;             /* the file's last line has no newline */
};

/* Defaults only. */
struct config *config_new(void);
void config_free(struct config *);
/* Each returns false with messages for the operator appended to err, a line each: where (file:line,
 * variable), what, what to do. Secrets are never quoted. */
bool config_read_file(struct config *, const char *path, struct buf *err);
/* The same from memory; name stands for the path in messages and origins. */
bool config_read_text(struct config *, const char *name, struct str text, struct buf *err);
bool config_read_env(struct config *, char *const *environ_, struct buf *err);
/* name is a key of the table or "kafka." and a property. */
bool config_set(struct config *, const char *name, const char *value, const char *origin,
                struct buf *err);
/* Cross-checks and derived values; registers secrets with the log's scrubber. Must be called once,
 * last. err may hold several messages, a line each. */
bool config_finish(struct config *, struct buf *err);
/* Whether a broker is named, without which nothing can be asked; else a line in err. */
bool config_check_brokers(const struct config *, struct buf *err);
/* What `run` needs beyond that: topics, a broker, a key for anchors. After config_finish(). */
bool config_check_run(const struct config *, struct buf *err);
/* The configuration in force once fresh, which was read anew and passed all checks, is taken over:
 * keys that may not change while the process runs, and [kafka], have the value they have now. The
 * names of keys that changed go to taken, of those that differ but must wait for a restart to
 * ignored, each followed by a blank. Not finished. */
struct config *config_reload(const struct config *fresh, const struct config *now,
                             struct buf *taken, struct buf *ignored);
/* name = value, origin in a comment, secrets as ***. Not all: what differs from the defaults, and
 * how many don't. */
void config_print(const struct config *, bool all, FILE *);
/* The same as an object, appended: {"name":{"value":"...","origin":"..."},...}. */
void config_json(const struct config *, struct buf *);
/* One key of the table, for what is made of it elsewhere. */
struct config_key_text {
    const char *name, *def, *help;
    struct str choices; /* "a|b|c" of a key that takes one of a few; empty: any other */
    bool secret, reload;
    bool rule; /* it decides what becomes of an event: it is in `rules` */
};
size_t config_key_count(void);
struct config_key_text config_key_text(size_t i);
void config_key_takes(size_t i, FILE *); /* "1 to 64", "list", ... */
/* The table of all keys in config/README.md, Markdown. */
void config_print_reference(FILE *);
/* What may stand under `config` in the chart's values, as a JSON Schema. */
void config_print_schema(FILE *);
/* The reference runsink.ini: every key with its help, commented out at its default. */
void config_print_ini(FILE *);
/* Takes "host:port", ":port", "[::1]:port" apart. host may come out empty: every address. False
 * when it is none of these. */
#define CONFIG_HOST_MAX 256
bool config_address(const char *listen, char host[CONFIG_HOST_MAX], char port[6]);
/* Parses "10s", "500ms", "5m", "1h", "7d" (a bare number is refused). */
bool config_parse_ms(const char *text, int64_t *ret);
/* "2026-01-31T12:00:00Z" in ms since the epoch, or how long before now: "90m", "7d". */
bool config_parse_time(const char *text, int64_t now_ms, int64_t *ret);
const char *config_kafka(const struct config *, const char *name); /* NULL when not set */
/* One that is a number of milliseconds; otherwise: where it is not set. */
int64_t config_kafka_ms(const struct config *, const char *name, int64_t otherwise);
bool config_kafka_secret(const char *name); /* whether a [kafka] property holds a secret */

#endif
