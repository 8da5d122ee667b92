/* What `runsink verify` prints: findings as they come, then a table and the verdict; or one JSON
 * object a line for each source topic. Main thread. */
#ifndef RUNSINK_VERIFY_REPORT_H
#define RUNSINK_VERIFY_REPORT_H

#include <stdio.h>

#include "worker/tools/verify_anchor.h"
#include "worker/tools/verify_derive.h"
#include "worker/tools/verify_letters.h"

struct report {
    FILE *out;
    bool json;
    uint64_t shown, hidden; /* findings and notes; those beyond a bound are only counted */
    uint64_t progress_ms;   /* when it was shown last; 0: never */
};

void report_begin(struct report *, const char *source);
/* A finding_fn: context is the report. */
void report_finding(void *context, const struct finding *);
/* On standard error, a few times a second, when that is a terminal. */
void report_progress(struct report *, const char *what, uint64_t entries, double part);
void report_progress_end(struct report *);

struct report_sums {
    const char *group;
    const char *cluster; /* NULL: not asked */
    const struct ledger_pubkey *keys;
    size_t n_keys;
    int64_t from_ms, to_ms; /* 0: all */
    bool folder;            /* an export: what the group had committed is the manifest's word */
    bool manifest_signed;   /* by a key that is known */
    uint64_t files;         /* that it names */
    bool keys_given;
    bool objects; /* were fetched: */
    uint64_t objects_checked, objects_bytes;
    bool records; /* were compared with the topics: */
    uint64_t records_checked;
    uint64_t records_uncovered; /* before or beyond what the ledger covers */
    struct derive_sums derived; /* of what the ledger says of them */
    struct letters_sums letters;
    bool anchors; /* were looked for: */
    struct anchored_sums anchored;
};
/* True when all holds. */
bool report_end(struct report *, struct audit *, const struct report_sums *);

#endif
