#include "worker/pipeline/vitals.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/eventfd.h>

#include "worker/base/log.h"
#include "worker/base/trouble.h"
#include "worker/kafka/topic_names.h"
#include "worker/pipeline/lane.h"

#define TELL_MS 1000
/* How often a broker is asked, and how long one may be silent before all count as unreachable: less
 * where ready.patience is shorter. */
#define ASK_MS 5000
#define SILENT_MS 10000
#define REREAD_MS 10000
#define DENIED_MS 15000 /* the group's refusal is told every few seconds, as long as it stands */
/* A consumer that is no member for so many of its session's timeouts is made anew, but not sooner
 * than JOIN_MIN_MS. A member that died without a word holds up a group for one. */
#define JOIN_SESSIONS 2
#define JOIN_MIN_MS 60000
#define SESSION_MS 45000 /* librdkafka's own */

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t silence_max(const struct lane *lane) {
    return least(SILENT_MS, lane->cfg->ready_patience);
}

static struct troubles *troubles(const struct lane *lane) {
    return lane->shared->troubles;
}

void vitals_begin(struct lane *lane) {
    lane->vitals = (struct vitals){.contact_ms = lane->now_ms, .joining_ms = lane->now_ms};
}

void vitals_end(struct lane *lane) {
    trouble_drop(troubles(lane), lane->id, NULL);
    lane->vitals = (struct vitals){.contact_ms = lane->now_ms};
}

/* ---- topics ---- */

static void forget_topic(struct lane *lane, size_t i) {
    struct vitals *v = &lane->vitals;
    trouble_clear(troubles(lane), lane->id, TROUBLE_TOPIC, v->topics[i].name);
    v->topics[i] = v->topics[--v->n_topics];
}

static size_t topic_at(const struct vitals *v, const char *name) {
    size_t i = 0;
    while (i < v->n_topics && strcmp(v->topics[i].name, name) != 0) i++;
    return i;
}

void vitals_look_soon(const struct lane *lane) {
    struct worker_shared *shared = lane->shared;
    atomic_store(&shared->look, true);
    if (eventfd_write(shared->ended_fd, 1) != 0) log_warn("waking the main thread failed");
}

static bool has(const struct list *l, const char *name) {
    size_t i = 0;
    while (i < l->n && strcmp(l->v[i], name) != 0) i++;
    return i < l->n;
}

static bool is_consumed(const struct lane *lane, const char *name) {
    struct worker_shared *shared = lane->shared;
    pthread_mutex_lock(&shared->mutex);
    bool found = has(&shared->topics, name) || has(&shared->retries, name);
    pthread_mutex_unlock(&shared->mutex);
    return found;
}

static bool consumes_any(const struct lane *lane) {
    struct worker_shared *shared = lane->shared;
    pthread_mutex_lock(&shared->mutex);
    bool any = shared->topics.n > 0;
    pthread_mutex_unlock(&shared->mutex);
    return any;
}

/* A topic that was just made is unknown to some brokers for a moment: told when it stays so. */
static void note_topic(struct lane *lane, const char *name, const char *error) {
    struct vitals *v = &lane->vitals;
    size_t i = topic_at(v, name);
    if (i == VITALS_TOPICS) return;
    /* It may have been deleted for good, a retry topic that was left over for one. */
    if (i == v->n_topics || topic_kind(name, NULL) == TOPIC_RETRY) vitals_look_soon(lane);
    if (i == v->n_topics) {
        snprintf(v->topics[i].name, sizeof v->topics[i].name, "%s", name);
        v->topics[i].since_ms = lane->now_ms;
        v->n_topics++;
    }
    snprintf(v->topics[i].error, sizeof v->topics[i].error, "%s", error);
}

static void tell_topics(struct lane *lane) {
    struct vitals *v = &lane->vitals;
    for (size_t i = v->n_topics; i-- > 0;)
        if (!is_consumed(lane, v->topics[i].name))
            forget_topic(lane, i);
        else if (lane->now_ms - v->topics[i].since_ms >= silence_max(lane))
            trouble_set(troubles(lane), lane->id, TROUBLE_TOPIC, v->topics[i].name,
                        v->topics[i].error, v->topics[i].since_ms);
}

/* ---- brokers ---- */

void vitals_topic_failed(void *lane, const char *topic, const char *error) {
    note_topic(lane, topic, error);
}

/* What the first refusal brings after it says less than that. */
void vitals_client_failed(void *context, enum broker_fault fault, const char *error) {
    struct lane *lane = context;
    struct vitals *v = &lane->vitals;
    bool refused = fault == BROKER_CREDENTIALS;
    if (v->refused && !refused) return;
    v->refused = refused;
    outcome_text(v->error, sizeof v->error, str_c(error));
    log_debug("the Kafka client reports an error", LOG_I("lane", lane->id),
              LOG_S("error", v->error));
}

void vitals_group_denied(void *context, const char *error) {
    struct lane *lane = context;
    char group[120];
    outcome_text(group, sizeof group, str_c(lane->cfg->group));
    snprintf(lane->vitals.denied, sizeof lane->vitals.denied, "%.50s: allow Read on group %s",
             error, group);
    lane->vitals.denied_ms = lane->now_ms;
    vitals_contact(lane);
}

void vitals_contact(struct lane *lane) {
    struct vitals *v = &lane->vitals;
    v->contact_ms = lane->now_ms;
    v->error[0] = '\0';
    v->refused = false;
}

/* Whether what is committed is still there, of one partition of the kind after the other. */
static void doubt_next(struct lane *lane, enum partition_kind kind, uint64_t *last) {
    struct partition *next = NULL;
    for (struct partition *p = lane->partitions; p; p = p->next) {
        if (p->kind != kind || !p->durable) continue;
        bool later = p->serial > *last, best = next && next->serial > *last;
        if (!next || (later && !best) || (later == best && p->serial < next->serial)) next = p;
    }
    if (!next) return;
    *last = next->serial;
    if (!next->doubts) next->doubts = 1;
}

/* A source topic, in turn, and the topics in trouble. Topics by name: a request for all that the
 * client knows may create those that are gone. Without any, one of Kafka's own: a broker answers
 * whatever there is to say of it. */
static void ask(struct lane *lane) {
    struct vitals *v = &lane->vitals;
    struct worker_shared *shared = lane->shared;
    int64_t pause = least(ASK_MS, lane->cfg->ready_patience / 3);
    const char *names[VITALS_TOPICS + 1];
    char source[TOPIC_MAX + 1] = "";
    size_t n = 0;
    if (v->asking || lane->now_ms - v->asked_ms < pause) return;
    doubt_next(lane, PARTITION_SOURCE, &v->doubted_source);
    doubt_next(lane, PARTITION_RETRY, &v->doubted_retry);
    pthread_mutex_lock(&shared->mutex);
    if (shared->topics.n)
        snprintf(source, sizeof source, "%s", shared->topics.v[v->turn++ % shared->topics.n]);
    pthread_mutex_unlock(&shared->mutex);
    if (source[0] && topic_at(v, source) == v->n_topics) names[n++] = source;
    for (size_t i = 0; i < v->n_topics; i++) names[n++] = v->topics[i].name;
    if (!n) names[n++] = "__consumer_offsets";
    consumer_look(lane->consumer, names, n);
    v->asking = true;
    v->asked_ms = lane->now_ms;
}

void vitals_looked(void *context, const char *topic, enum broker_fault fault, const char *error) {
    struct lane *lane = context;
    struct vitals *v = &lane->vitals;
    if (!topic) {
        v->asking = false;
        return;
    }
    if (fault != BROKER_FINE && fault != BROKER_TOPIC) return; /* nobody answered */
    vitals_contact(lane);
    size_t at = topic_at(v, topic);
    if (fault == BROKER_TOPIC && is_consumed(lane, topic))
        note_topic(lane, topic, error);
    else if (at < v->n_topics)
        forget_topic(lane, at);
}

static void tell_brokers(struct lane *lane) {
    const struct vitals *v = &lane->vitals;
    bool silent = lane->now_ms - v->contact_ms >= silence_max(lane);
    trouble_tell(troubles(lane), silent && v->refused, lane->id, TROUBLE_CREDENTIALS, NULL,
                 v->error, v->contact_ms);
    trouble_tell(troubles(lane), silent && !v->refused, lane->id, TROUBLE_BROKERS, NULL, v->error,
                 v->contact_ms);
    count_set(&lane->counters, COUNTER_CONTACT_MS, (uint64_t)(lane->now_ms - v->contact_ms));
}

/* ---- partitions ---- */

int64_t vitals_high(const struct partition *p) {
    int64_t low, high;
    return feed_ends(p->feed, &low, &high) ? high : -1;
}

void vitals_unreadable(struct lane *lane, struct partition *p, const char *error) {
    if (!p->unreadable_ms && p->kind == PARTITION_RETRY) vitals_look_soon(lane);
    if (!p->unreadable_ms) p->unreadable_ms = lane->now_ms;
    p->reread_ms = lane->now_ms + REREAD_MS;
    outcome_text(p->error, sizeof p->error, str_c(error));
}

void vitals_readable(struct lane *lane, struct partition *p) {
    char place[PARTITION_NAME_MAX];
    partition_name(p, place);
    p->unreadable_ms = p->reread_ms = 0;
    p->error[0] = '\0';
    trouble_clear(troubles(lane), lane->id, TROUBLE_UNREADABLE, place);
}

int64_t vitals_held_ms(struct lane *lane, struct partition *p) {
    int64_t high = p->loaded && partition_at_end(p) && !p->head_due_ms ? vitals_high(p) : -1;
    if (high <= p->eof_at || high < 0)
        p->held_ms = 0;
    else if (!p->held_ms || p->held_at != p->eof_at)
        p->held_ms = lane->now_ms;
    p->held_at = p->eof_at;
    return p->held_ms ? lane->now_ms - p->held_ms : 0;
}

/* An end that goes back: the topic was made anew or truncated without us. */
void vitals_watch_end(const struct lane *lane, struct partition *p) {
    int64_t high = vitals_high(p);
    if (high < 0 || high == p->high_stale) return;
    p->high_stale = -1;
    if (high < p->high_seen && !p->seek_ms) {
        p->shrunk = true;
        p->high_before = p->high_seen;
        p->seek_ms = lane->now_ms;
    }
    p->high_seen = high;
}

static void tell_partition(struct lane *lane, struct partition *p) {
    char place[PARTITION_NAME_MAX], detail[96] = "";
    int64_t held = vitals_held_ms(lane, p);
    vitals_watch_end(lane, p);
    partition_name(p, place);
    /* A retry topic may have been deleted for good, and goes in a moment. */
    int64_t patience = p->kind == PARTITION_RETRY ? silence_max(lane) : 0;
    if (p->unreadable_ms && lane->now_ms - p->unreadable_ms >= patience)
        trouble_set(troubles(lane), lane->id, TROUBLE_UNREADABLE, place, p->error,
                    p->unreadable_ms);
    trouble_tell(troubles(lane), p->beyond_ms != 0, lane->id, TROUBLE_POSITION, place, p->error,
                 p->beyond_ms);
    if (held)
        snprintf(detail, sizeof detail, "%" PRId64 " offsets from %" PRId64 " on",
                 vitals_high(p) - p->eof_at, p->eof_at);
    trouble_tell(troubles(lane), held && held >= lane->cfg->ready_patience, lane->id, TROUBLE_HELD,
                 place, detail, p->held_ms);
}

/* ---- the membership ---- */

void vitals_joined(struct lane *lane) {
    lane->vitals.revoked_ms = lane->vitals.joining_ms = 0;
}

void vitals_revoked(struct lane *lane) {
    lane->vitals.revoked_ms = lane->vitals.joining_ms = lane->now_ms;
}

static int64_t session_ms(const struct config *cfg) {
    return config_kafka_ms(cfg, "session.timeout.ms", SESSION_MS);
}

static int64_t join_max(const struct config *cfg) {
    int64_t sessions = JOIN_SESSIONS * session_ms(cfg);
    return sessions > JOIN_MIN_MS ? sessions : JOIN_MIN_MS;
}

/* Whoever joins first waits for the session of one that died, and nothing is wrong. */
static bool joins_late(const struct lane *lane) {
    const struct vitals *v = &lane->vitals;
    int64_t waits = v->joining_ms ? lane->now_ms - v->joining_ms : 0;
    return waits >= lane->cfg->ready_patience && waits > session_ms(lane->cfg) * 3 / 2;
}

/* librdkafka has more than one way to wait without end for what does not come, and then it joins
 * no more: a topic that grows inside of a revoke (2.0 to 2.8 at least) is one. A new consumer does.
 * Where a broker, a topic or the group's rights are what is missing, it does no harm. */
static void watch_membership(struct lane *lane) {
    struct vitals *v = &lane->vitals;
    bool reached = lane->now_ms - v->contact_ms < silence_max(lane);
    if (!v->joining_ms || !reached || !consumes_any(lane)) return;
    if (lane->now_ms - v->joining_ms >= join_max(lane->cfg))
        lane_restart(lane, "the Kafka client does not become a member of the group");
}

/* ---- all ---- */

void vitals_tick(struct lane *lane) {
    struct vitals *v = &lane->vitals;
    if (!lane->joined || lane->now_ms - v->told_ms < TELL_MS) return;
    /* A lane that finishes what it gives back hears no answer meanwhile. */
    if (lane->finishing)
        v->contact_ms = least(lane->now_ms, v->contact_ms + lane->now_ms - v->told_ms);
    v->told_ms = lane->now_ms;
    uint64_t records = count_get(&lane->counters, COUNTER_RECORDS);
    if (records != v->records) vitals_contact(lane);
    v->records = records;
    ask(lane);
    tell_brokers(lane);
    tell_topics(lane);
    /* Partitions that are lost because their topic is gone come with a new assignment at once. */
    bool revoked = v->revoked_ms && lane->now_ms - v->revoked_ms >= TELL_MS;
    bool denied = v->joining_ms && v->denied_ms && lane->now_ms - v->denied_ms < DENIED_MS;
    bool outside = revoked || joins_late(lane) || denied;
    trouble_tell(troubles(lane), outside && consumes_any(lane), lane->id, TROUBLE_ASSIGNMENT, NULL,
                 denied ? v->denied : NULL, v->joining_ms);
    watch_membership(lane);
    for (struct partition *p = lane->partitions; p; p = p->next) tell_partition(lane, p);
}
