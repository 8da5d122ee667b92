/* `runsink verify` against a broker: what the group has committed, then the ledger, then, when
 * asked for, the records that Kafka still holds. Main thread. */
#ifndef RUNSINK_VERIFY_TOPIC_H
#define RUNSINK_VERIFY_TOPIC_H

#include "worker/kafka/reader.h"
#include "worker/kafka/topics.h"
#include "worker/tools/verify_files.h"
#include "worker/tools/verify_report.h"

/* Waits until what is in the source's ledger and retry topics now can be read: a worker that was
 * killed may have left a transaction open, and what others committed after it stays hidden until
 * the broker ends it. One that stays open is a finding. To be called before verify_snapshot(). */
bool verify_wait_visible(const struct config *, rd_kafka_t *, const struct topic_list *all,
                         const char *source, struct audit *, struct buf *err);
/* The committed state of the source topic, its retry and its dead topics, and which retry topics
 * have nothing left. To be taken before the ledger is read. False with a message in err. */
bool verify_snapshot(rd_kafka_t *, const struct topic_list *all, const char *source,
                     struct snapshot *ret, struct buf *err);
/* Gives the audit every entry of the source's ledger, and the export (NULL: none) every record. */
bool verify_ledger(rd_kafka_t *, const struct topic_list *all, const char *source,
                   const struct reader_limits *, struct audit *, const char *export_dir,
                   struct report *, struct buf *err);
/* Each record of the source and retry topics that the ledger covers must have an outcome in it. */
bool verify_records(rd_kafka_t *, const struct topic_list *all, const char *source,
                    const char *group, struct audit *, struct report *, uint64_t *ret_checked,
                    struct buf *err);

#endif
