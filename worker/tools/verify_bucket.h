/* Anchors as `runsink verify` gets at them: from the operator's bucket, every version of every one
 * that Object Lock kept, whatever was put over it since; or from a folder. Main thread. */
#ifndef RUNSINK_VERIFY_BUCKET_H
#define RUNSINK_VERIFY_BUCKET_H

#include "config/config.h"
#include "worker/kafka/reader.h"

struct anchor_visitor {
    /* value is an anchor's bytes, name the name that it has in the group's folder; when the store
     * got it, by its own clock, 0: not known. */
    void (*anchor)(void *context, const char *name, struct str value, int64_t written_ms);
    /* Something worth knowing about the bucket; finding: more than that. */
    void (*remark)(void *context, bool finding, const char *code, const char *text);
    void *context;
};

/* Visits those whose names say that they are of the group and within the limits' time, to the
 * second. False with a message in err: not all could be read. */
bool bucket_anchors(const struct config *, const char *group, const struct reader_limits *,
                    const struct anchor_visitor *, struct buf *err);
/* The same from files below a folder, however deep: those that are named like anchors. */
bool folder_anchors(const char *dir, const struct anchor_visitor *, struct buf *err);

#endif
