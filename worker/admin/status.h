/* What the status page shows, as JSON. Admin server's threads. */
#ifndef RUNSINK_STATUS_H
#define RUNSINK_STATUS_H

#include "config/config.h"
#include "worker/admin/metrics.h"
#include "worker/base/trouble.h"
#include "worker/pipeline/snapshot.h"

/* How things stood at a moment: the plots' past, kept so that whoever opens the page sees it. */
struct status_sample {
    int64_t at_ms; /* wall clock */
    uint64_t records, delivered, parked, dead, failed, lag, oldest_ms, held, waiting;
};
#define STATUS_SAMPLES 120
#define STATUS_SAMPLE_MS 5000
void status_sample(const struct metrics_sums *, int64_t at_ms, struct status_sample *ret);

struct status {
    const struct config *cfg;
    const struct metrics_sums *sums;
    struct lane_snapshot *const *snapshots; /* one a lane; NULL: none came yet */
    const int64_t *ages_ms;                 /* how old each is */
    size_t lanes;
    const struct status_sample *samples; /* oldest first, the present last */
    size_t n_samples;
    int64_t now_ms; /* wall clock */
    int64_t started_ms;
    const char *config_path;               /* --config, for commands that are shown; or NULL */
    int64_t silence_ms;                    /* of the most silent lane */
    const char *not_ready;                 /* NULL: ready */
    const struct trouble_report *troubles; /* worst first */
    size_t n_troubles;
};
/* At most about 2 MB. */
void status_json(const struct status *, struct buf *);

#endif
