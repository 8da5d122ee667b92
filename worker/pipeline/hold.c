#include "worker/pipeline/hold.h"

#include "worker/base/text.h"

static bool any_matches(const struct list *patterns, struct str text) {
    for (size_t i = 0; i < patterns->n; i++)
        if (glob_matches(patterns->v[i], text)) return true;
    return false;
}

bool hold_names(const struct config *cfg, struct str workspace, const char *label) {
    return any_matches(&cfg->hold_workspaces, workspace) ||
           any_matches(&cfg->hold_destinations, str_c(label));
}

struct outcome hold_outcome(void) {
    struct outcome o = outcome_fail(VERDICT_PERMANENT, FAULT_TENANT, "held",
                                    "the operator holds its workspace or destination");
    o.uncounted = true;
    return o;
}
