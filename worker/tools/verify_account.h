/* Credentials for reading objects back, by the destination's label. Main thread. */
#ifndef RUNSINK_VERIFY_ACCOUNT_H
#define RUNSINK_VERIFY_ACCOUNT_H

#include "sinks/s3/s3.h"
#include "worker/kafka/reader.h"
#include "worker/kafka/retry.h"

#define ACCOUNTS_MAX 256

struct account {
    char label[LABEL_MAX];
    struct destination dest; /* of type s3 */
    struct s3_config *s3;    /* dest.config */
    size_t users;            /* requests that use it */
    uint64_t used;           /* when last, for forgetting the longest unused */
    bool own;                /* from the very record that was asked for last */
};

struct accounts;
struct accounts *accounts_new(const struct config *, rd_kafka_t *);
void accounts_free(struct accounts *);
/* The account for this label: a remembered one, unless fresh, or that of the record. NULL with a
 * phrase in err. Counted as used until accounts_release(). */
struct account *accounts_get(struct accounts *, const char *label, const struct origin *record,
                             bool fresh, struct buf *err);
void accounts_release(struct account *);

#endif
