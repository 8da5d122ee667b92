/* What became of the records of a window, derived again: from their bytes, by the worker's own
 * decoding, routing and making of keys and bodies, under the configuration that is given, and
 * compared with what the entry says. For `runsink verify --records`. No I/O but the audit's
 * findings; one thread. */
#ifndef RUNSINK_VERIFY_DERIVE_H
#define RUNSINK_VERIFY_DERIVE_H

#include "config/config.h"
#include "worker/event/jobrun.h"
#include "worker/tools/verify_audit.h"

/* Why an outcome is not judged: its name in --json, and what the verdict says. */
#define UNJUDGED_REASONS(X)                                                                        \
    X(UNJUDGED_GONE, "gone", "Kafka no longer holds its record, or one of its batch or window")    \
    X(UNJUDGED_OLD_TOPIC, "old_topic", "of a topic that was made anew since")                      \
    X(UNJUDGED_RULES, "other_configuration",                                                       \
      "made under another configuration, by this one they would differ")                           \
    X(UNJUDGED_VERSION, "other_version",                                                           \
      "made by another version of runsink, by this one they would differ")                         \
    X(UNJUDGED_RECEIVER, "receiver",                                                               \
      "parked or dead by what the receiver answered: only where it was to go is")                  \
    X(UNJUDGED_HELD, "held", "held by the operator: only where it was to go is")                   \
    X(UNJUDGED_ASIDE, "set_aside", "set aside undecoded, as poison or by skip.offsets")            \
    X(UNJUDGED_OPERATOR, "operator", "dead letters that an operator sent back or closed")          \
    X(UNJUDGED_LARGE, "too_large", "in a window larger than memory.budget")                        \
    X(UNJUDGED_COMPRESSOR, "compressor", "compressed by another libzstd")                          \
    X(UNJUDGED_AGAIN, "again", "read again too often, after offsets were put back")

enum unjudged {
#define X(id, name, text) id,
    UNJUDGED_REASONS(X)
#undef X
        UNJUDGED_N
};

struct derive_sums {
    uint64_t derived; /* outcomes that were judged */
    uint64_t differ;  /* findings */
    uint64_t unjudged[UNJUDGED_N];
};

struct derive;
/* Both must outlive it. */
struct derive *derive_new(const struct config *, struct audit *);
void derive_free(struct derive *);

/* One window at a time: begin; then each record that Kafka still holds of it, ascending, copied;
 * then end. The entry is borrowed meanwhile. retries: of a retry topic of this source. era: of the
 * topic, see struct meta. A window takes up to memory.budget, and its largest object twice its
 * size. */
struct derive_window {
    const struct ledger_entry *entry;
    const char *source;
    bool retries;
    uint64_t era;
    struct ledger_place place;
};
void derive_begin(struct derive *, const struct derive_window *);
void derive_record(struct derive *, int64_t offset, int64_t timestamp_ms, const struct message *);
void derive_end(struct derive *);
/* Nothing of the entry is judged. */
void derive_pass(struct derive *, const struct ledger_entry *, enum unjudged);

void derive_finish(struct derive *); /* after the last window: judges what waited for it */
const struct derive_sums *derive_sums(const struct derive *);

#endif
