/* One vocabulary from socket to ledger to metric. An outcome is a plain value: copied freely, owns
 * nothing. What a tenant or a server chose gets into why by outcome_token() alone, and into detail
 * by outcome_text(); no secret gets into either. */
#ifndef RUNSINK_OUTCOME_H
#define RUNSINK_OUTCOME_H

#include <stdint.h>

#include "worker/base/str.h"

enum verdict { VERDICT_OK, VERDICT_RETRY, VERDICT_PERMANENT };

/* Who has to act. tenant: the sink's owner (bucket, credentials, endpoint). data: the producer of
 * the event. system: whoever runs runsink. */
enum fault { FAULT_NONE, FAULT_TENANT, FAULT_DATA, FAULT_SYSTEM };
#define FAULTS 4 /* of enum fault; FAULT_NONE has no topic */

struct outcome {
    enum verdict verdict;
    enum fault fault;
    int status;              /* HTTP status, 0 when there was none */
    uint32_t retry_after_ms; /* asked for by the other side; 0: nothing asked */
    bool credential; /* the destination refuses who we are: no use in trying its other events */
    bool uncounted;  /* no attempt was made (breaker open, queue full, cancelled before sending) */
    int64_t answered_ms; /* with uncounted: when the destination said this, to another event; Unix
                            time, 0: it did not */
    char why[48];        /* a short token, [A-Za-z0-9._-]: "http-503", "NoSuchBucket", "timeout" */
    char detail[160];    /* one line for people, printable, already redacted */
};

struct outcome outcome_ok(int status);
/* why is cut down to its token characters, detail (printf format, may be NULL) to printable ASCII.
 */
struct outcome outcome_fail(enum verdict, enum fault, const char *why, const char *detail_fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* Copies text that came from outside into ret as a why-token: other characters become '-'. */
void outcome_token(char *ret, size_t size, struct str text);
/* Copies text from outside as one printable line: anything but printable ASCII becomes '?'. */
void outcome_text(char *ret, size_t size, struct str text);

const char *fault_name(enum fault);     /* "none", "tenant", "data", "system" */
const char *verdict_name(enum verdict); /* "ok", "retry", "permanent" */

#endif
