/* worker/kafka/ledger_search.h on the model: the ledger is read once all that stood there at the
 * first look can be seen, which an open transaction may put off. */
#include "worker/kafka/ledger_search.h"

#include <stdio.h>
#include <stdlib.h>

#include "config/config.h"
#include "tests/sim/cluster.h"
#include "tests/sim/world.h"
#include "worker/ledger/entry.h"

#define AGAIN_US (100 * WORLD_MS)
#define SILENT_US (75 * WORLD_S)

struct ledger_search {
    uint64_t number, process;
    int wake_fd;
    char *group, *source, *ledger;
    char **topics;
    int32_t *partitions;
    struct mark *marks;
    bool *older;
    size_t n;
    int64_t *written; /* of each of the ledger's partitions, at the first look */
    int32_t n_written;
    int64_t since_us;
    enum ledger_search_state state;
    struct ledger_search *next;
};

static struct ledger_search *searches;

static struct ledger_search *find(uint64_t number) {
    struct ledger_search *s = searches;
    while (s && s->number != number) s = s->next;
    return s;
}

/* ---- what is read ---- */

static struct mark *mark_of(struct ledger_search *s, struct str topic, int32_t partition) {
    for (size_t i = 0; i < s->n; i++)
        if (s->partitions[i] == partition && str_is(topic, s->topics[i])) return &s->marks[i];
    return NULL;
}

static void take_entry(struct ledger_search *s, const struct ledger_entry *e) {
    if (!str_is(e->group, s->group)) return;
    struct mark *mark = mark_of(s, e->topic, e->partition);
    if (mark) mark_take(mark, e);
}

static void read_partition(struct ledger_search *s, const struct journal *j) {
    struct ledger_entry entry;
    struct ledger_read_error unused;
    for (int64_t at = 0; (at = journal_next(j, at)) >= 0; at++) {
        struct arena arena = {0};
        if (ledger_read(j->slots[at].record->value, &arena, &entry, &unused)) take_entry(s, &entry);
        arena_free(&arena);
    }
}

static enum mark_record record_of(const struct mark *mark, const struct journal *j) {
    int64_t at = mark->last.offset;
    if (!mark_tells(mark, j->low, j->high)) return MARK_UNKNOWN;
    const struct slot *s = &j->slots[at];
    if (s->compacted) return MARK_UNKNOWN; /* its topic is one of those that are */
    if (journal_next(j, at) != at) return MARK_OTHER;
    return ledger_last_is(&mark->last, at, s->time_ms, s->record->value.n) ? MARK_SAME : MARK_OTHER;
}

static bool is_older(const struct ledger_search *s, size_t i) {
    const struct mark *mark = &s->marks[i];
    const struct journal *j = journal_find(s->topics[i], s->partitions[i]);
    if (!mark->known || !j) return false;
    struct mark_place now = {.low = j->low,
                             .high = j->high,
                             .record = record_of(mark, j),
                             .since = journal_time(j, mark->settled_ms)};
    return mark_is_older(mark, &now);
}

static void read_all(struct ledger_search *s) {
    for (int32_t i = 0; i < s->n_written; i++) read_partition(s, journal_find(s->ledger, i));
    for (size_t i = 0; i < s->n; i++) s->older[i] = is_older(s, i);
}

/* ---- when ---- */

static void look_first(struct ledger_search *s) {
    s->n_written = broker_partitions(s->ledger);
    s->written = xcalloc((size_t)s->n_written + 1, sizeof *s->written);
    for (int32_t i = 0; i < s->n_written; i++) s->written[i] = journal_find(s->ledger, i)->high;
}

static bool is_seen(const struct ledger_search *s) {
    for (int32_t i = 0; i < s->n_written; i++)
        if (journal_stable(journal_find(s->ledger, i)) < s->written[i]) return false;
    return true;
}

static void end(struct ledger_search *s, enum ledger_search_state state) {
    s->state = state;
    world_wake(s->wake_fd);
}

/* a: the search. */
static void look(struct about about) {
    struct ledger_search *s = find(about.a);
    if (!s || !cluster_acts(s->process, look, about)) return;
    if (!s->written) look_first(s);
    if (is_seen(s)) {
        read_all(s);
        end(s, LEDGER_SEARCH_DONE);
    } else if (world_us() - s->since_us > SILENT_US) {
        end(s, LEDGER_SEARCH_FAILED);
    } else {
        cluster_later(AGAIN_US, look, about);
    }
}

/* ---- the lane's ---- */

static char *ledger_name(const char *source) {
    struct buf name;
    buf_init(&name, 1024);
    buf_printf(&name, "%s.ledger", source);
    char *ret = xstrdup(buf_cstr(&name));
    buf_free(&name);
    return ret;
}

struct ledger_search *ledger_search_new(const struct config *cfg, const char *source,
                                        const struct ledger_place *places, size_t n, int wake_fd,
                                        struct buf *err) {
    struct ledger_search *s = xcalloc(1, sizeof *s);
    (void)err;
    *s = (struct ledger_search){.number = cluster_number(),
                                .process = world_process(),
                                .wake_fd = wake_fd,
                                .group = xstrdup(cfg->group),
                                .source = xstrdup(source),
                                .ledger = ledger_name(source),
                                .topics = xcalloc(n + 1, sizeof(char *)),
                                .partitions = xcalloc(n + 1, sizeof(int32_t)),
                                .marks = xcalloc(n + 1, sizeof(struct mark)),
                                .older = xcalloc(n + 1, sizeof(bool)),
                                .n = n,
                                .since_us = world_us(),
                                .state = LEDGER_SEARCH_ON,
                                .next = searches};
    for (size_t i = 0; i < n; i++) {
        s->topics[i] = xstrdup(places[i].topic);
        s->partitions[i] = places[i].partition;
    }
    searches = s;
    cluster_later(3 * cluster_coordinator(), look, (struct about){.a = s->number});
    return s;
}

void ledger_search_free(struct ledger_search *s) {
    if (!s) return;
    struct ledger_search **at = &searches;
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    free(s->group);
    free(s->source);
    free(s->ledger);
    for (size_t i = 0; i < s->n; i++) free(s->topics[i]);
    free(s->topics);
    free(s->partitions);
    free(s->marks);
    free(s->older);
    free(s->written);
    free(s);
}

void searches_close(void) {
    while (searches) ledger_search_free(searches);
}

enum ledger_search_state ledger_search_state(const struct ledger_search *s,
                                             const char **ret_error) {
    *ret_error = s->state == LEDGER_SEARCH_FAILED ? "timed out" : "";
    return s->state;
}

bool ledger_search_held(const struct ledger_search *s, int32_t *ret_partition) {
    for (int32_t i = 0; s->written && s->state == LEDGER_SEARCH_ON && i < s->n_written; i++) {
        *ret_partition = i;
        if (journal_stable(journal_find(s->ledger, i)) < s->written[i]) return true;
    }
    return false;
}

const char *ledger_search_source(const struct ledger_search *s) {
    return s->source;
}

const struct mark *ledger_search_mark(const struct ledger_search *s, const char *topic,
                                      int32_t partition, bool *ret_older) {
    for (size_t i = 0; i < s->n; i++) {
        if (s->partitions[i] != partition || strcmp(s->topics[i], topic) != 0) continue;
        *ret_older = s->older[i];
        return s->marks[i].known ? &s->marks[i] : NULL;
    }
    return NULL;
}
