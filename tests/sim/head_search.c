/* worker/kafka/head_search.h on the model: as with ledger_search.c, the ledger is read once all
 * that stood there at the first look can be seen. */
#include "worker/kafka/head_search.h"

#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/cluster.h"
#include "tests/sim/world.h"
#include "worker/kafka/topic_names.h"

#define AGAIN_US (100 * WORLD_MS)
#define SILENT_US (75 * WORLD_S)

struct head_search {
    uint64_t number, process;
    int wake_fd;
    char ledger[TOPIC_MAX + 1];
    struct heads *heads;
    int64_t *written; /* of each of the ledger's partitions, at the first look */
    int32_t n_written;
    int64_t since_us;
    enum ledger_search_state state;
    struct head_search *next;
};

static struct head_search *searches;

static struct head_search *find(uint64_t number) {
    struct head_search *s = searches;
    while (s && s->number != number) s = s->next;
    return s;
}

static void look_first(struct head_search *s) {
    s->n_written = broker_partitions(s->ledger);
    s->written = xcalloc((size_t)s->n_written + 1, sizeof *s->written);
    for (int32_t i = 0; i < s->n_written; i++) s->written[i] = journal_find(s->ledger, i)->high;
}

static bool is_seen(const struct head_search *s) {
    for (int32_t i = 0; i < s->n_written; i++)
        if (journal_stable(journal_find(s->ledger, i)) < s->written[i]) return false;
    return true;
}

static void read_all(struct head_search *s) {
    for (int32_t i = 0; i < s->n_written; i++) {
        const struct journal *j = journal_find(s->ledger, i);
        for (int64_t at = 0; heads_open(s->heads) && (at = journal_next(j, at)) >= 0; at++)
            heads_take(s->heads, j->slots[at].record->key, j->slots[at].record->value);
    }
}

static void end(struct head_search *s, enum ledger_search_state state) {
    s->state = state;
    world_wake(s->wake_fd);
}

/* a: the search. */
static void look(struct about about) {
    struct head_search *s = find(about.a);
    if (!s || !cluster_acts(s->process, look, about)) return;
    if (!s->written) look_first(s);
    if (cluster_chance(cluster_faults()->no_access) || world_us() - s->since_us > SILENT_US) {
        end(s, LEDGER_SEARCH_FAILED);
    } else if (is_seen(s)) {
        read_all(s);
        end(s, LEDGER_SEARCH_DONE);
    } else {
        cluster_later(AGAIN_US, look, about);
    }
}

struct head_search *head_search_new(const struct config *cfg, const char *source,
                                    struct heads *heads, int64_t most, int wake_fd,
                                    struct buf *err) {
    struct head_search *s = xcalloc(1, sizeof *s);
    (void)cfg, (void)err, (void)most;
    *s = (struct head_search){.number = cluster_number(),
                              .process = world_process(),
                              .wake_fd = wake_fd,
                              .heads = heads,
                              .since_us = world_us(),
                              .state = LEDGER_SEARCH_ON,
                              .next = searches};
    topic_ledger(source, s->ledger);
    searches = s;
    cluster_later(3 * cluster_coordinator(), look, (struct about){.a = s->number});
    return s;
}

void head_search_free(struct head_search *s) {
    if (!s) return;
    struct head_search **at = &searches;
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    heads_free(s->heads);
    free(s->written);
    free(s);
}

void head_searches_close(void) {
    while (searches) head_search_free(searches);
}

enum ledger_search_state head_search_state(struct head_search *s, const char **ret_error) {
    *ret_error = s->state == LEDGER_SEARCH_FAILED ? "timed out" : "";
    return s->state;
}

const struct heads *head_search_heads(const struct head_search *s) {
    return s->heads;
}
