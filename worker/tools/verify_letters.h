/* Dead letters, as far as Kafka holds them, compared with what the ledger says: each has an entry
 * that calls its record dead, or one that sent it back or closed it; and whatever is dead has its
 * letter, until the dead topic's retention. For `runsink verify --records`; main thread; calls
 * block. */
#ifndef RUNSINK_VERIFY_LETTERS_H
#define RUNSINK_VERIFY_LETTERS_H

#include "worker/kafka/reader.h"
#include "worker/tools/verify_audit.h"

struct letters_sums {
    uint64_t compared;
    uint64_t uncovered; /* of records before the first entry, or younger than what was read */
    uint64_t expired;   /* of dead records, not there any more: the topic may have removed them */
};

struct letters;
/* Before the ledger is read, and before it is waited for what can't be read yet: letters that can
 * be read now have entries that will be. All is borrowed. NULL with a message in err. */
struct letters *letters_new(rd_kafka_t *, const struct topic_list *all, const char *source,
                            const char *group, struct audit *, struct buf *err);
void letters_free(struct letters *);
/* An entry that counts. */
void letters_entry(struct letters *, const struct ledger_entry *);
/* After the last one. raw sees open transactions too (reader_consumer_raw()); NULL: one does not
 * end, so that what is missing can't be told. progress, may be NULL, is told of each record. False
 * with a message in err when reading failed. */
typedef void letters_progress_fn(void *context, const char *topic, uint64_t read, double part);
bool letters_read(struct letters *, rd_kafka_t *raw, letters_progress_fn *, void *context,
                  struct buf *err);
/* After audit_finish(). */
void letters_sums(const struct letters *, struct letters_sums *ret);

#endif
