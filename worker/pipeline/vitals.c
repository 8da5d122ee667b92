#include "worker/pipeline/vitals.h"

#include <inttypes.h>
#include <stdio.h>

#include "worker/base/log.h"
#include "worker/base/trouble.h"
#include "worker/pipeline/lane.h"

#define TELL_MS 1000
/* How often a broker is asked, and how long one may be silent before all count as unreachable: less
 * where ready.patience is shorter. */
#define ASK_MS 5000
#define SILENT_MS 10000
#define REREAD_MS 10000

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
    lane->vitals = (struct vitals){.contact_ms = lane->now_ms};
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

/* A topic that was just made is unknown to some brokers for a moment: told when it stays so. */
static void note_topic(struct lane *lane, const char *name, rd_kafka_resp_err_t err) {
    struct vitals *v = &lane->vitals;
    size_t i = topic_at(v, name);
    if (i < v->n_topics) {
        v->topics[i].err = err;
    } else if (i < VITALS_TOPICS) {
        snprintf(v->topics[i].name, sizeof v->topics[i].name, "%s", name);
        v->topics[i].err = err;
        v->topics[i].since_ms = lane->now_ms;
        v->n_topics++;
    }
}

static bool about_topic(rd_kafka_resp_err_t err) {
    return err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
           err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC ||
           err == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED ||
           err == RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION;
}

static void tell_topics(struct lane *lane) {
    struct vitals *v = &lane->vitals;
    for (size_t i = 0; i < v->n_topics; i++)
        if (lane->now_ms - v->topics[i].since_ms >= silence_max(lane))
            trouble_set(troubles(lane), lane->id, TROUBLE_TOPIC, v->topics[i].name,
                        rd_kafka_err2str(v->topics[i].err), v->topics[i].since_ms);
}

/* ---- brokers ---- */

static bool about_credentials(rd_kafka_resp_err_t err) {
    return err == RD_KAFKA_RESP_ERR__AUTHENTICATION || err == RD_KAFKA_RESP_ERR__SSL ||
           err == RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED;
}

bool vitals_topic_error(struct lane *lane, const rd_kafka_message_t *msg) {
    if (!msg->rkt || !about_topic(msg->err)) return false;
    note_topic(lane, rd_kafka_topic_name(msg->rkt), msg->err);
    return true;
}

void vitals_client_error(struct lane *lane, rd_kafka_resp_err_t err, const char *text) {
    struct vitals *v = &lane->vitals;
    bool refused = about_credentials(err);
    /* That all are down says nothing more, and a refusal explains what follows it. */
    if (err == RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN || (v->refused && !refused)) return;
    v->refused = refused;
    outcome_text(v->error, sizeof v->error, str_c(text));
    log_debug("client", LOG_I("lane", lane->id), LOG_S("error", v->error));
}

/* What it asks about: a source topic, in turn, and the topics in trouble. Topics by name: a request
 * for all that the client knows may create those that are gone. */
static rd_kafka_topic_partition_list_t *questions(struct lane *lane) {
    struct vitals *v = &lane->vitals;
    struct worker_shared *shared = lane->shared;
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(VITALS_TOPICS + 1);
    pthread_mutex_lock(&shared->mutex);
    if (shared->topics.n)
        rd_kafka_topic_partition_list_add(list, shared->topics.v[v->turn++ % shared->topics.n],
                                          RD_KAFKA_PARTITION_UA);
    pthread_mutex_unlock(&shared->mutex);
    for (size_t i = 0; i < v->n_topics; i++)
        if (!rd_kafka_topic_partition_list_find(list, v->topics[i].name, RD_KAFKA_PARTITION_UA))
            rd_kafka_topic_partition_list_add(list, v->topics[i].name, RD_KAFKA_PARTITION_UA);
    return list;
}

void vitals_contact(struct lane *lane) {
    struct vitals *v = &lane->vitals;
    v->contact_ms = lane->now_ms;
    v->error[0] = '\0';
    v->refused = false;
}

/* Whether what is committed is still there, of one partition after the other. */
static void doubt_next(struct lane *lane) {
    struct vitals *v = &lane->vitals;
    struct partition *next = NULL;
    for (struct partition *p = lane->partitions; p; p = p->next) {
        if (p->kind != PARTITION_SOURCE || !p->durable) continue;
        bool later = p->serial > v->doubted, best = next && next->serial > v->doubted;
        if (!next || (later && !best) || (later == best && p->serial < next->serial)) next = p;
    }
    if (!next) return;
    v->doubted = next->serial;
    if (!next->doubts) next->doubts = 1;
}

static void ask(struct lane *lane) {
    struct vitals *v = &lane->vitals;
    int64_t pause = least(ASK_MS, lane->cfg->ready_patience / 3);
    if (v->asking || lane->now_ms - v->asked_ms < pause) return;
    doubt_next(lane);
    rd_kafka_topic_partition_list_t *list = questions(lane);
    if (!list->cnt) {
        rd_kafka_topic_partition_list_destroy(list);
        return;
    }
    offsets_look(lane->offsets, list);
    v->asking = true;
    v->asked_ms = lane->now_ms;
}

void vitals_answer(struct lane *lane, const rd_kafka_topic_partition_list_t *list) {
    struct vitals *v = &lane->vitals;
    v->asking = false;
    for (int i = 0; i < list->cnt; i++) {
        const rd_kafka_topic_partition_t *tp = &list->elems[i];
        if (tp->err && !about_topic(tp->err)) continue; /* nobody answered */
        vitals_contact(lane);
        size_t at = topic_at(v, tp->topic);
        if (tp->err)
            note_topic(lane, tp->topic, tp->err);
        else if (at < v->n_topics)
            forget_topic(lane, at);
    }
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

int64_t vitals_high(const struct lane *lane, const struct partition *p, int64_t *ret_low) {
    int64_t low = -1, high = -1;
    if (rd_kafka_get_watermark_offsets(lane->consumer, p->topic, p->id, &low, &high)) high = -1;
    if (ret_low) *ret_low = low;
    return high < 0 ? -1 : high;
}

void vitals_unreadable(struct lane *lane, struct partition *p, const char *error) {
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
    int64_t high =
        p->loaded && partition_at_end(p) && !p->head_due_ms ? vitals_high(lane, p, NULL) : -1;
    if (high <= p->eof_at || high < 0)
        p->held_ms = 0;
    else if (!p->held_ms || p->held_at != p->eof_at)
        p->held_ms = lane->now_ms;
    p->held_at = p->eof_at;
    return p->held_ms ? lane->now_ms - p->held_ms : 0;
}

/* An end that goes back: the topic was made anew or truncated without us. */
static void watch_end(struct lane *lane, struct partition *p) {
    int64_t high = vitals_high(lane, p, NULL);
    if (high < 0 || p->kind != PARTITION_SOURCE || high == p->high_stale) return;
    p->high_stale = -1;
    if (high < p->high_seen && !p->seek_ms) {
        p->shrunk = true;
        p->seek_ms = lane->now_ms;
    }
    p->high_seen = high;
}

static void tell_partition(struct lane *lane, struct partition *p) {
    char place[PARTITION_NAME_MAX], detail[96] = "";
    int64_t held = vitals_held_ms(lane, p);
    watch_end(lane, p);
    partition_name(p, place);
    if (p->unreadable_ms)
        trouble_set(troubles(lane), lane->id, TROUBLE_UNREADABLE, place, p->error,
                    p->unreadable_ms);
    trouble_tell(troubles(lane), p->beyond_ms != 0, lane->id, TROUBLE_POSITION, place, p->error,
                 p->beyond_ms);
    if (held)
        snprintf(detail, sizeof detail, "%" PRId64 " offsets from %" PRId64 " on",
                 vitals_high(lane, p, NULL) - p->eof_at, p->eof_at);
    trouble_tell(troubles(lane), held && held >= lane->cfg->ready_patience, lane->id, TROUBLE_HELD,
                 place, detail, p->held_ms);
}

/* ---- all ---- */

void vitals_tick(struct lane *lane) {
    struct vitals *v = &lane->vitals;
    if (!lane->consumer || !lane->offsets || lane->now_ms - v->told_ms < TELL_MS) return;
    v->told_ms = lane->now_ms;
    uint64_t records = count_get(&lane->counters, COUNTER_RECORDS);
    if (records != v->records) vitals_contact(lane);
    v->records = records;
    ask(lane);
    tell_brokers(lane);
    tell_topics(lane);
    trouble_tell(troubles(lane), v->revoked_ms != 0, lane->id, TROUBLE_ASSIGNMENT, NULL, NULL,
                 v->revoked_ms);
    for (struct partition *p = lane->partitions; p; p = p->next) tell_partition(lane, p);
}
