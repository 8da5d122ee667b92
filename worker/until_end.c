#include "worker/until_end.h"

#include <stdlib.h>
#include <string.h>

#include "worker/base/clock.h"
#include "worker/base/log.h"
#include "worker/kafka/client.h"
#include "worker/kafka/topic_names.h"

#define BROKER_TIMEOUT_MS 30000

static int64_t now_ms(void) {
    return clock_ms(CLOCK_MONOTONIC);
}

/* ---- topics ---- */

void until_end_begin(struct worker_shared *shared, const struct topic_list *sources,
                     const struct topic_list *retries) {
    shared->ends = ends_new();
    for (size_t i = 0; i < sources->n; i++)
        ends_add(shared->ends, sources->v[i].name, sources->v[i].partitions, false);
    for (size_t i = 0; i < retries->n; i++)
        ends_add(shared->ends, retries->v[i].name, retries->v[i].partitions, true);
}

static void copy(struct topic_list *to, const struct topic_list *from) {
    topic_list_free(to);
    to->v = xcalloc(from->n + 1, sizeof *to->v);
    for (; to->n < from->n; to->n++)
        to->v[to->n] = (struct topic){.name = xstrdup(from->v[to->n].name),
                                      .partitions = from->v[to->n].partitions};
}

void until_end_topics(struct until_end *u, const struct topic_list *sources,
                      const struct topic_list *retries) {
    copy(&u->sources, sources);
    copy(&u->retries, retries);
}

void until_end_free(struct until_end *u) {
    topic_list_free(&u->sources);
    topic_list_free(&u->retries);
    list_free(&u->missing);
}

static int32_t there(const char *topic, const void *until_end) {
    const struct until_end *u = until_end;
    const struct topic *t = topic_find(&u->sources, topic);
    if (!t) t = topic_find(&u->retries, topic);
    return t ? t->partitions : 0;
}

static bool is_among(const struct list *l, const char *name) {
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->v[i], name) == 0) return true;
    return false;
}

static void take_missing(struct until_end *u, struct worker_shared *shared, struct list *missing) {
    for (size_t i = 0; i < u->missing.n; i++)
        if (!is_among(missing, u->missing.v[i]))
            trouble_clear(shared->troubles, TROUBLE_OWNER_MAIN, TROUBLE_TOPIC, u->missing.v[i]);
    list_free(&u->missing);
    u->missing = *missing;
    for (size_t i = 0; i < missing->n; i++)
        trouble_set(shared->troubles, TROUBLE_OWNER_MAIN, TROUBLE_TOPIC, missing->v[i],
                    "it is not there any more, or may not be seen, and was not read to the end "
                    "that it had at the start",
                    u->missing_ms);
}

/* One that was made anew is not awaited: what it had is gone. */
static void find_missing(struct until_end *u, struct worker_shared *shared) {
    struct ends_left *left;
    struct list missing = {0};
    size_t n = ends_left(shared->ends, there, u, &left);
    for (size_t i = 0; i < n; i++)
        if (!left[i].anew) list_add(&missing, str_c(left[i].topic));
    free(left);
    if (!missing.n)
        u->missing_ms = 0;
    else if (!u->missing_ms)
        u->missing_ms = now_ms();
    take_missing(u, shared, &missing);
}

bool until_end_misses(const struct until_end *u) {
    return u->missing_ms != 0;
}

bool until_end_left(struct until_end *u, struct worker_shared *shared) {
    struct ends_left *left;
    if (!shared->ends) return false;
    size_t n = ends_left(shared->ends, there, u, &left);
    for (size_t i = 0; i < n; i++) {
        struct log_field unread =
            left[i].unread < 0 ? LOG_S("unread", "not known") : LOG_I("unread", left[i].unread);
        log_error("the run ends before the end of a topic: not all was read that it had at the "
                  "start",
                  LOG_S("topic", left[i].topic), LOG_I("partitions", left[i].partitions), unread,
                  LOG_S("why", left[i].anew ? "it was deleted and made anew"
                                            : "it is not there any more, or may not be seen"));
    }
    free(left);
    return n > 0;
}

/* ---- the group ---- */

static int64_t count_partitions(const struct topic_list *l, const struct list *without) {
    int64_t n = 0;
    for (size_t i = 0; i < l->n; i++)
        if (!is_among(without, l->v[i].name)) n += l->v[i].partitions;
    return n;
}

/* Partitions that are awaited: without those of topics that are in trouble by themselves, and of
 * retry topics that would be made if their source were there. */
static int64_t count_awaited(const struct until_end *u, const struct list *without) {
    int64_t n = count_partitions(&u->sources, without);
    char source[TOPIC_MAX + 1];
    for (size_t i = 0; i < u->retries.n; i++) {
        const struct topic *t = &u->retries.v[i];
        topic_source(t->name, source);
        if (there(source, u) > 0 && !is_among(without, t->name)) n += t->partitions;
    }
    return n;
}

static bool is_ours(const struct until_end_view *v, const char *member) {
    for (int64_t i = 0; i < v->n_lanes; i++)
        if (strcmp(v->lanes[i]->member, member) == 0) return true;
    return false;
}

/* Partitions of the topics that are read, which members of other processes have. What a lane of
 * ours has by now, and has not heard of, is nobody's yet. */
static int64_t count_others(const struct until_end *u, const struct until_end_view *v,
                            const rd_kafka_ConsumerGroupDescription_t *group) {
    int64_t assigned = 0;
    pthread_mutex_lock(&v->shared->mutex);
    for (size_t m = 0; m < rd_kafka_ConsumerGroupDescription_member_count(group); m++) {
        const rd_kafka_MemberDescription_t *member =
            rd_kafka_ConsumerGroupDescription_member(group, m);
        if (is_ours(v, rd_kafka_MemberDescription_consumer_id(member))) continue;
        const rd_kafka_topic_partition_list_t *list =
            rd_kafka_MemberAssignment_partitions(rd_kafka_MemberDescription_assignment(member));
        for (int i = 0; list && i < list->cnt; i++)
            assigned += topic_find(&u->sources, list->elems[i].topic) ||
                        topic_find(&u->retries, list->elems[i].topic);
    }
    pthread_mutex_unlock(&v->shared->mutex);
    return assigned;
}

/* Every partition, of retry topics too, is some member's, as far as this process can tell: those of
 * our lanes, which have nothing left to do, and those of other processes. A partition that is
 * nobody's at this moment may be ours in the next. */
static bool group_covers(struct until_end *u, const struct until_end_view *v, int64_t ours,
                         const struct list *without) {
    int64_t all = count_awaited(u, without);
    if (ours >= all) return true;
    rd_kafka_event_t *event;
    const rd_kafka_ConsumerGroupDescription_t *group =
        client_group(v->admin, v->cfg->group, BROKER_TIMEOUT_MS, v->stop, &event, &u->blind);
    if (group)
        u->blind_ms = 0;
    else if (!u->blind_ms)
        u->blind_ms = now_ms();
    bool stable = group && rd_kafka_ConsumerGroupDescription_state(group) ==
                               RD_KAFKA_CONSUMER_GROUP_STATE_STABLE;
    int64_t others = stable ? count_others(u, v, group) : 0;
    rd_kafka_event_destroy(event);
    return stable && ours + others >= all;
}

/* -1: some lane has something to do; else how many partitions they have. */
static int64_t owned_when_done(const struct until_end_view *v) {
    int64_t owned = 0;
    for (int64_t i = 0; i < v->n_lanes; i++) {
        if (!atomic_load(&v->lanes[i]->done)) return -1;
        owned += atomic_load(&v->lanes[i]->owned);
    }
    return owned;
}

/* All lanes have nothing left to do, before and after the group was looked at. */
static bool nothing_is_left(struct until_end *u, const struct until_end_view *v,
                            const struct list *without) {
    int64_t before = owned_when_done(v);
    return before >= 0 && group_covers(u, v, before, without) && owned_when_done(v) == before;
}

/* ---- getting nowhere ---- */

/* Nothing at all goes on with one of these. */
static bool stops_all(enum trouble cause) {
    return cause == TROUBLE_CREDENTIALS || cause == TROUBLE_BROKERS || cause == TROUBLE_PRODUCER ||
           cause == TROUBLE_SETTLEMENT || cause == TROUBLE_ASSIGNMENT;
}

/* With one of these its topic does not go on, and others do. It may be one that is not awaited any
 * more, which the next look at the topics shows. */
static bool stops_topic(const struct until_end_view *v, const struct trouble_report *t) {
    return (t->cause == TROUBLE_TOPIC || t->cause == TROUBLE_OWN_TOPIC) &&
           t->for_ms > now_ms() - v->looked_ms;
}

static void say_why(const struct trouble_report *t) {
    struct log_field topic = {0};
    if (t->place[0]) topic = LOG_S("topic", t->place);
    log_error("the run ends before the end of the topics: what is left is for the next one",
              LOG_S("why", trouble_text(t->cause)), LOG_S("error", t->detail),
              LOG_I("for_ms", t->for_ms), topic);
}

/* Lanes find out first that a topic is not there. */
static void forget(struct topic_list *l, const struct list *names) {
    for (size_t i = 0; i < l->n; i++)
        if (is_among(names, l->v[i].name)) l->v[i].partitions = 0;
}

/* What has lasted for ready.patience, and of that what ends the run. */
static bool is_stuck(struct until_end *u, const struct until_end_view *v) {
    struct trouble_report *all;
    struct list stuck = {0};
    bool ends = false, alone;
    size_t n = troubles_list(v->shared->troubles, v->cfg->ready_patience, &all);
    for (size_t i = 0; i < n; i++) {
        if (all[i].for_ms < v->cfg->ready_patience) continue;
        ends = ends || stops_all(all[i].cause);
        if (stops_topic(v, &all[i])) list_add(&stuck, str_c(all[i].place));
    }
    /* Without a source that can be read lanes may have no assignment, nor an end. */
    alone = stuck.n && (!count_partitions(&u->sources, &stuck) || nothing_is_left(u, v, &stuck));
    for (size_t i = 0; i < n && (ends || alone); i++)
        if (all[i].for_ms >= v->cfg->ready_patience &&
            (stops_all(all[i].cause) || (alone && stops_topic(v, &all[i]))))
            say_why(&all[i]);
    if (alone) forget(&u->sources, &stuck);
    list_free(&stuck);
    free(all);
    return ends || alone;
}

/* Whether other members have what is not ours is not to be found out. */
static bool is_blind(const struct until_end *u, const struct until_end_view *v) {
    if (!u->blind_ms || now_ms() - u->blind_ms < v->cfg->ready_patience) return false;
    log_error("the run ends: its own lanes are done, and whether other members have the partitions "
              "that are not theirs can't be seen; allow Describe on the group",
              LOG_S("group", v->cfg->group), LOG_S("error", rd_kafka_err2str(u->blind)));
    return true;
}

enum until_end_state until_end_look(struct until_end *u, const struct until_end_view *v) {
    static const struct list none;
    find_missing(u, v->shared);
    u->done = !u->missing_ms && nothing_is_left(u, v, &none);
    u->gave_up = !u->done && (is_stuck(u, v) || is_blind(u, v));
    return u->done || u->gave_up ? UNTIL_END_OVER : UNTIL_END_GOES_ON;
}
