/* What the two tests of redaction share: a run to put a tail on, and its decoding. */
#ifndef RUNSINK_TESTS_REDACT_RUN_H
#define RUNSINK_TESTS_REDACT_RUN_H

#include "worker/event/jobrun.h"

#define LEN(array) (sizeof(array) / sizeof(array)[0])
#define R "[REDACTED]"
#define RUN_START                                                                                  \
    "{\"id\":\"r\",\"startTime\":\"2024-01-01T00:00:00Z\",\"workspaceId\":\"w\",\"projectId\":"    \
    "\"p\",\"jobId\":\"j\",\"createdAt\":\"2024-01-01T00:00:00Z\",\"updatedAt\":"                  \
    "\"2024-01-01T00:00:00Z\",\"type\":\"MANUAL\",\"status\":\"SUCCESS\",\"payloads\":1,"          \
    "\"successfulRuns\":1,\"failedRuns\":0"

static bool decode(struct str text, struct arena *arena, struct jobrun *ret, struct outcome *err) {
    struct message rec = {text, NULL, 0};
    return jobrun_decode(&rec, arena, ret, err);
}

#endif
