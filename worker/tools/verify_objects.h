/* `verify --objects`: fetches what the ledger says was delivered and compares SHA-256 and size. S3
 * objects are read with the credentials of the record that they came from, while Kafka still holds
 * it, else with those of the verify.* keys; files below file.root or sink.override's folder.
 * Webhook requests can't be asked for again. Main thread; bounded by requests and bytes at once. */
#ifndef RUNSINK_VERIFY_OBJECTS_H
#define RUNSINK_VERIFY_OBJECTS_H

#include "worker/kafka/reader.h"
#include "worker/tools/verify_audit.h"

struct objects;
/* The consumer is used for looking records up, and is the objects' alone; findings go to the audit.
 */
struct objects *objects_new(const struct config *, rd_kafka_t *, struct audit *);
void objects_free(struct objects *);
/* Takes what it needs from a delivered group; may wait for earlier ones. */
void objects_add(struct objects *, const struct ledger_entry *, const struct ledger_group *);
void objects_finish(struct objects *); /* waits for all */
void objects_sums(const struct objects *, uint64_t *ret_checked, uint64_t *ret_bytes);

#endif
