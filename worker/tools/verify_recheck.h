/* Reads the records that a ledger's entries speak of, as far as Kafka still holds them, window by
 * window, and has their outcomes derived again (verify_derive.h). Entries wait until there is
 * enough of them to read each partition in one go. For `runsink verify --records`; main thread;
 * calls block. */
#ifndef RUNSINK_VERIFY_RECHECK_H
#define RUNSINK_VERIFY_RECHECK_H

#include "worker/kafka/reader.h"
#include "worker/tools/verify_derive.h"
#include "worker/tools/verify_files.h"
#include "worker/tools/verify_report.h"

struct recheck;
/* The consumer is its own until it is freed; all else is borrowed. */
struct recheck *recheck_new(const struct config *, rd_kafka_t *, const struct snapshot *,
                            struct audit *, struct report *);
void recheck_free(struct recheck *);
/* An entry that counts. False with a message in err when reading failed. */
bool recheck_entry(struct recheck *, const struct ledger_entry *, struct str value,
                   const struct ledger_place *, struct buf *err);
/* After the last one. */
bool recheck_finish(struct recheck *, struct buf *err);
const struct derive_sums *recheck_sums(const struct recheck *);

#endif
