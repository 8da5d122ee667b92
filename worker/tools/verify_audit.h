/* The judgement of `runsink verify`: takes ledger entries one at a time, in any order between
 * partitions, and reports what is wrong. Pure: no I/O, no clock; one thread. The same code judges a
 * topic, an exported folder and the unit tests' mutations.
 *
 * A chain is the entries of one partition, of the source topic, a retry topic or the dead topic. */
#ifndef RUNSINK_VERIFY_AUDIT_H
#define RUNSINK_VERIFY_AUDIT_H

#include "worker/base/origin.h"
#include "worker/kafka/meta.h"
#include "worker/ledger/entry.h"

/* Where an entry was found. */
struct ledger_place {
    const char *name; /* the ledger topic, or a file */
    int32_t partition;
    int64_t offset; /* of the Kafka record, or the line */
};

struct finding {
    bool note;         /* worth knowing, and no reason to fail */
    const char *code;  /* a short fixed token */
    const char *topic; /* the record that it is about; NULL when the entry can't tell */
    int32_t partition;
    int64_t offset;            /* -1: none */
    struct ledger_place place; /* name NULL: about no single entry */
    const char *text;          /* what differs, for people */
};
typedef void finding_fn(void *context, const struct finding *);

/* An entry of a chain that the auditor names: signing began with it, so that those before need no
 * signature; or it is the first one that is not known to be older than the end of its key. */
struct audit_until {
    char topic[TOPIC_MAX + 1];
    int32_t partition;
    uint64_t seq;
};
#define AUDIT_UNTIL "TOPIC/PARTITION@NUMBER, the entry with which signing began"
#define AUDIT_REPLACED "TOPIC/PARTITION@NUMBER, the first entry after the end of the old key"
bool audit_until_read(struct str, struct audit_until *ret);

struct audit_options {
    const char *source;  /* the source topic: its name tells retry and dead topics apart */
    const char *group;   /* whose chains: entries of other groups are passed over */
    const char *cluster; /* where they are now; NULL or empty: not known */
    const struct ledger_pubkey *keys;
    size_t n_keys;                   /* 0: signatures are not checked */
    const struct audit_until *until; /* of chains that began unsigned */
    size_t n_until;
    const struct audit_until *replaced; /* where keys that were replaced ended */
    size_t n_replaced;
    bool partial;    /* --from: chains may begin anywhere, origins may have begun before */
    bool unfinished; /* --to: entries after the last one read are not missed */
    bool keep_seen;  /* remember which records have an outcome, for audit_seen() */
    finding_fn *report;
    void *context;
    /* Called for each intact entry of the group, wherever it stands, or NULL. */
    void (*entry)(void *context, const struct ledger_entry *);
    /* Called for each intact entry that counts, once what it says was followed, or NULL. */
    void (*followed)(void *context, const struct ledger_entry *, struct str value,
                     const struct ledger_place *);
    /* Called for each delivered group of an intact entry, or NULL. */
    void (*delivered)(void *context, const struct ledger_entry *, const struct ledger_group *);
};

struct audit *audit_new(const struct audit_options *); /* copied; what it points to is borrowed */
void audit_free(struct audit *);

/* The group's committed offset of a partition, and its metadata (NULL: not ours). Before the
 * partition's first entry. */
void audit_expect(struct audit *, const char *topic, int32_t partition, int64_t offset,
                  const struct meta *);
/* The same once more, after the last entry, of each partition that there is (offset -1: none): by
 * then the group has committed all that was read. How many partitions have not. */
void audit_now(struct audit *, const char *topic, int32_t partition, int64_t offset,
               const struct meta *);
size_t audit_ahead(const struct audit *);
/* key is the Kafka record's key; p NULL: unknown. */
void audit_entry(struct audit *, struct str key, struct str value, const struct ledger_place *);
/* Before any entry: an entry's bytes, for the sake of the keys that it names. One that was replaced
 * in one chain is replaced in all, in whatever order they are read. */
void audit_learn(struct audit *, struct str value);
/* After the last entry: this one of the chain is anchored. */
struct audit_anchor {
    uint64_t seq;
    int64_t next, at_ms;
    bool trusted; /* by a key that audit_trusts() */
};
void audit_anchored(struct audit *, const char *topic, int32_t partition,
                    const struct audit_anchor *);
bool audit_trusts(const struct audit *, const char *key_id);
bool audit_has_keys(const struct audit *); /* else signatures are not checked */
/* Of those given and those that they have named, replaced or not; NULL: none. */
const struct ledger_pubkey *audit_key(const struct audit *, const char *key_id);
/* Whether every chain has reached what audit_expect() said. */
bool audit_reached(const struct audit *);
/* Every record of this retry topic that was visible when the expectations were taken has been
 * consumed: what is pending there has vanished. For exports; audit_waiting() tells more. */
void audit_drained(struct audit *, const char *retry_topic);
/* After the last entry: the retry topics themselves have been read from what the group has
 * committed on, and audit_waits() tells each record of the group's that is there. What is pending
 * and not among them has vanished. */
void audit_waiting(struct audit *);
void audit_waits(struct audit *, const struct origin *);
/* Before the first entry: what has died since then has its letter in this dead topic for certain,
 * since nothing that the topic is set to removes it sooner. */
void audit_letters_since(struct audit *, enum fault, int64_t ms);
/* After the last entry: each letter of the group's that lies in the source's dead topics, but those
 * that entries of these topics name; then, once all were told, audit_letters(): a letter that has
 * to be there, and was not told, is a finding. */
enum audit_letter {
    LETTER_SAID,     /* an entry says that the record died so */
    LETTER_REPEATED, /* one does, but the letter was told already */
    LETTER_STRANGE,  /* none does */
    LETTER_UNKNOWN   /* its record lies before what is read, or too much is open to tell */
};
enum audit_letter audit_letter(struct audit *, enum fault, const struct origin *);
void audit_letters(struct audit *);
/* After audit_finish(): letters that are not there any more, and need not be. */
uint64_t audit_letters_expired(const struct audit *);
/* Whether an entry gives this record an outcome (keep_seen). Records outside of what the chain
 * covers are none of its business: true. */
bool audit_seen(const struct audit *, const char *topic, int32_t partition, int64_t offset);
/* What the ledger covers of the partition begins behind this record, ends before it, or has it. */
enum audit_cover { AUDIT_BEFORE, AUDIT_COVERED, AUDIT_BEYOND };
enum audit_cover audit_covers(const struct audit *, const char *topic, int32_t partition,
                              int64_t offset);
/* What an entry says of a record of a source or retry topic, the newest of its window (keep_seen).
 * NULL: none does, or it was not kept. */
const struct ledger_last *audit_last(const struct audit *, const char *topic, int32_t partition,
                                     int64_t offset);
/* By which rules entries were settled, in the order in which they came; those beyond a bound are
 * not told. */
#define AUDIT_RULES_MAX 256
struct audit_rules {
    uint8_t rules[LEDGER_RULES_LEN];
    uint64_t entries;
    int64_t from_ms, to_ms; /* settled, the first one and the last one */
};
size_t audit_rules(const struct audit *, const struct audit_rules **ret);
/* Judges what only the end can tell. */
void audit_finish(struct audit *);
/* The entry with which that partition's signing began, as options say; 0: with the first one. */
uint64_t audit_until_of(const struct audit *, const char *topic, int32_t partition);
/* Reports something found by other means (objects, source records), counted like the rest. */
void audit_report(struct audit *, const struct finding *);

/* For the table: one per chain that has entries or an expectation, by topic and partition. */
struct audit_row {
    const char *topic;
    int32_t partition;
    uint64_t entries, repeats;
    uint64_t signed_entries;
    uint64_t last_seq;
    int64_t first, next; /* records covered */
    int64_t committed;   /* -1: not known */
    uint64_t records[LEDGER_KINDS];
    uint64_t lost;
    uint64_t anew;    /* how often the topic was made anew: first is where it began the last time */
    uint64_t pending; /* source partitions: records that wait in a retry topic */
    uint64_t dead_now; /* source partitions: records that are dead letters at the end */
    uint64_t anchored; /* so many of its entries are, up to the newest one that is: */
    int64_t anchored_next, anchored_ms;
    uint64_t form2;      /* entries of form 2: */
    bool form2_whole;    /* the newest ones, without one of form 1 among them: */
    uint64_t form2_from; /* from this number on */
    uint64_t rules_from; /* the newest rules, and the entry since which they hold */
    uint8_t rules[LEDGER_RULES_LEN];
    bool replaced; /* nothing but a key that was replaced vouches for its newest entries */
    uint64_t findings;
    uint8_t head[SHA256_LEN]; /* the last entry's hash */
    bool has_meta;            /* the expectation came with our metadata: */
    uint64_t meta_seq;
    uint8_t meta_head[SHA256_LEN];
};
size_t audit_rows(struct audit *, const struct audit_row **ret); /* after audit_finish() */
uint64_t audit_findings(const struct audit *);                   /* notes not counted */

#endif
