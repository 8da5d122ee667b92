/* worker/kafka/head_search.h on the model. No worker of it has a key, so nothing is looked for. */
#include "worker/kafka/head_search.h"

#include "tests/sim/world.h"

struct head_search *head_search_new(const struct config *cfg, const char *source,
                                    struct heads *heads, int wake_fd, struct buf *err) {
    (void)cfg, (void)source, (void)heads, (void)wake_fd, (void)err;
    world_fail("head_search_new: the model has no keys");
    return NULL;
}

void head_search_free(struct head_search *s) {
    (void)s;
}

enum ledger_search_state head_search_state(struct head_search *s, const char **ret_error) {
    (void)s, (void)ret_error;
    return LEDGER_SEARCH_FAILED;
}

const struct heads *head_search_heads(const struct head_search *s) {
    (void)s;
    return NULL;
}
