/* `runsink check`: what would run make of this configuration and this broker? */
#include "worker/tools/check.h"

#include <stdlib.h>
#include <sysexits.h>
#include <time.h>

#include "worker/admin/metrics.h"
#include "worker/base/clock.h"
#include "worker/base/shown.h"
#include "worker/kafka/client.h"
#include "worker/kafka/probe.h"
#include "worker/kafka/reader.h"
#include "worker/kafka/rights.h"
#include "worker/kafka/topic_settings.h"
#include "worker/tools/check_rights.h"
#include "worker/tools/command.h"

#define TIMEOUT_MS 10000
#define PAUSE_MS 100
/* How long a transaction may be open before it is told: those of workers are, for moments. */
#define HELD_MS 3000
#define ALONE_MS 500
#define ADVICE_MAX ((size_t)4 << 20)

static rd_kafka_resp_err_t describe_group(rd_kafka_t *rk, struct check_result *ret) {
    rd_kafka_resp_err_t rc;
    rd_kafka_event_t *event;
    const rd_kafka_ConsumerGroupDescription_t *g =
        client_group(rk, ret->cfg->group, TIMEOUT_MS, NULL, &event, &rc);
    if (g) {
        rd_kafka_consumer_group_state_t state = rd_kafka_ConsumerGroupDescription_state(g);
        ret->group_known = true;
        /* What a broker says of a group that it has never heard of. */
        ret->group_there = state != RD_KAFKA_CONSUMER_GROUP_STATE_DEAD;
        ret->members = rd_kafka_ConsumerGroupDescription_member_count(g);
        snprintf(ret->group_state, sizeof ret->group_state, "%s",
                 rd_kafka_consumer_group_state_name(state));
    }
    rd_kafka_event_destroy(event);
    return rc;
}

/* While a new broker makes the topic that groups are kept in, it says that it is no coordinator. */
static bool coordinator_moves(rd_kafka_resp_err_t rc) {
    return rc == RD_KAFKA_RESP_ERR_NOT_COORDINATOR ||
           rc == RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE ||
           rc == RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
}

static int ask_group(rd_kafka_t *rk, struct check_result *ret, struct buf *err) {
    const struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000L};
    rd_kafka_resp_err_t rc;
    for (int tries = TIMEOUT_MS / PAUSE_MS;
         coordinator_moves(rc = describe_group(rk, ret)) && tries > 0; tries--)
        nanosleep(&pause, NULL); /* it changes without an event of ours */
    if (!rc) return EX_OK;
    buf_printf(err, "runsink check: can't describe group %s: %s", ret->cfg->group,
               rd_kafka_err2str(rc));
    if (rights_lack(rc)) buf_printf(err, ": allow Describe on group %s", ret->cfg->group);
    buf_putc(err, '\n');
    return rights_lack(rc) ? EX_CONFIG : EX_UNAVAILABLE;
}

/* The end is that of what was written, open transactions included. */
static rd_kafka_resp_err_t ask_partition(rd_kafka_t *raw, const rd_kafka_topic_partition_t *p,
                                         struct check_partition *ret) {
    rd_kafka_resp_err_t rc =
        client_ends(raw, p->topic, p->partition, &ret->low, &ret->high, TIMEOUT_MS);
    ret->partition = p->partition;
    ret->committed = p->offset < 0 ? -1 : p->offset;
    ret->begins = -1;
    /* It may be known and not be readable: that is found by trying. */
    ret->denied = rc == RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    if (ret->denied) ret->error = rd_kafka_err2str(rc);
    return ret->error ? RD_KAFKA_RESP_ERR_NO_ERROR : rc;
}

static int64_t reads_from(const struct check_partition *p) {
    return p->committed < p->low ? p->low : p->committed;
}

/* As the worker counts it: nothing when no record can come of the offsets between. */
static void take_probe(struct check_partition *p, const struct probe *found) {
    p->error = found->err ? rd_kafka_err2str(found->err) : NULL;
    p->denied = rights_lack(found->err);
    if (p->error) return;
    p->held = !found->waits && found->end < p->high ? p->high - found->end : 0;
    p->lag = found->waits || p->held ? p->high - reads_from(p) : 0;
}

static int try_reading(rd_kafka_t *rk, struct check_result *ret, struct buf *err) {
    struct probe *probes = xcalloc(ret->n + 1, sizeof *probes);
    size_t n = 0, bad = 0, denied = 0;
    for (size_t i = 0; i < ret->n; i++) {
        const struct check_partition *p = &ret->partitions[i];
        if (p->error || reads_from(p) > p->high) continue;
        probes[n++] =
            (struct probe){.topic = p->topic, .partition = p->partition, .from = reads_from(p)};
    }
    probe_partitions(rk, probes, n, TIMEOUT_MS);
    n = 0;
    for (size_t i = 0; i < ret->n; i++) {
        struct check_partition *p = &ret->partitions[i];
        bool beyond = reads_from(p) > p->high;
        if (!p->error && !beyond) take_probe(p, &probes[n++]);
        if (beyond)
            buf_printf(err,
                       "runsink check: the offset committed for %s/%d, %lld, lies beyond its end, "
                       "%lld: the topic was truncated or made anew\n",
                       p->topic, (int)p->partition, (long long)p->committed, (long long)p->high);
        if (p->error)
            buf_printf(err, "runsink check: can't read %s/%d: %s%s%s\n", p->topic,
                       (int)p->partition, p->error, p->denied ? ": allow Read on " : "",
                       p->denied ? p->topic : "");
        bad += beyond || (p->error && !p->denied);
        denied += p->denied;
    }
    free(probes);
    return bad ? EX_UNAVAILABLE : denied ? EX_CONFIG : EX_OK;
}

static bool is_stable(rd_kafka_t *rk, const rd_kafka_topic_partition_list_t *all, int from, int n,
                      int timeout_ms) {
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new(n);
    for (int i = from; i < from + n; i++)
        rd_kafka_topic_partition_list_add(l, all->elems[i].topic, all->elems[i].partition);
    rd_kafka_resp_err_t rc = rd_kafka_committed(rk, l, timeout_ms);
    rd_kafka_topic_partition_list_destroy(l);
    return !rc;
}

/* An open transaction that has to do with one partition's offset is asked about until the time is
 * over, and nothing is told of the others: so each is asked for alone, once all together have had
 * the time that workers' transactions take. */
static void find_unstable(rd_kafka_t *rk, const rd_kafka_topic_partition_list_t *l,
                          struct check_result *ret, struct buf *err) {
    int64_t end_ms = clock_ms(CLOCK_MONOTONIC) + TIMEOUT_MS;
    if (!l->cnt || is_stable(rk, l, 0, l->cnt, HELD_MS)) return;
    for (size_t i = 0; i < ret->n && clock_ms(CLOCK_MONOTONIC) < end_ms; i++) {
        struct check_partition *p = &ret->partitions[i];
        p->unstable = !is_stable(rk, l, (int)i, 1, ALONE_MS);
        if (!p->unstable) continue;
        buf_printf(err,
                   "runsink check: held-by-transaction: %s/%d: an open transaction is about to "
                   "change what the group has committed: run would wait for the end of it before "
                   "it reads the partition. If it does not end, its producer left it behind: "
                   "kafka-transactions.sh find-hanging, then abort\n",
                   p->topic, (int)p->partition);
    }
}

/* Pending transactions aside: what was committed before is known all the same. */
static bool ask_offsets(rd_kafka_t *rk, rd_kafka_t *raw, struct check_result *ret,
                        struct buf *err) {
    rd_kafka_topic_partition_list_t *l = topics_consumed(&ret->all, &ret->sources);
    rd_kafka_resp_err_t rc = l->cnt ? rd_kafka_committed(raw, l, TIMEOUT_MS) : 0;
    ret->partitions = xcalloc((size_t)l->cnt, sizeof *ret->partitions);
    if (rc) buf_printf(err, "runsink check: can't read offsets: %s\n", rd_kafka_err2str(rc));
    for (int i = 0; !rc && i < l->cnt; i++) {
        struct check_partition *p = &ret->partitions[ret->n];
        const rd_kafka_topic_partition_t *at = &l->elems[i];
        rc = ask_partition(raw, at, p);
        p->retry = !topic_find(&ret->sources, at->topic);
        p->topic = topic_find(&ret->all, at->topic)->name;
        ret->n += !rc;
        if (rc)
            buf_printf(err, "runsink check: can't read the ends of %s/%d: %s\n", at->topic,
                       (int)at->partition, rd_kafka_err2str(rc));
    }
    if (!rc) find_unstable(rk, l, ret, err);
    rd_kafka_topic_partition_list_destroy(l);
    return !rc;
}

static bool is_new(const struct check_result *r) {
    for (size_t i = 0; i < r->n; i++)
        if (r->partitions[i].committed >= 0) return false;
    return true;
}

/* As begin.c has it. */
static bool ask_beginnings(rd_kafka_t *rk, struct check_result *r, struct buf *err) {
    rd_kafka_resp_err_t rc = RD_KAFKA_RESP_ERR_NO_ERROR;
    int n = 0;
    if (r->cfg->start_at == CONFIG_START_EARLIEST || !is_new(r)) return true;
    rd_kafka_topic_partition_list_t *l = rd_kafka_topic_partition_list_new((int)r->n + 1);
    for (size_t i = 0; i < r->n; i++) {
        const struct check_partition *p = &r->partitions[i];
        if (!p->retry && !p->error)
            rd_kafka_topic_partition_list_add(l, p->topic, p->partition)->offset = p->high;
    }
    if (r->cfg->start_at == CONFIG_START_TIME && l->cnt)
        rc = client_offsets_at(rk, l, r->cfg->start_ms, TIMEOUT_MS);
    for (size_t i = 0; !rc && i < r->n; i++)
        if (!r->partitions[i].retry && !r->partitions[i].error)
            r->partitions[i].begins = l->elems[n++].offset;
    rd_kafka_topic_partition_list_destroy(l);
    if (rc)
        buf_printf(err, "runsink check: can't ask for the offsets of a time: %s\n",
                   rd_kafka_err2str(rc));
    return !rc;
}

static void add_topic(struct topic_list *l, const struct topic *t) {
    if (!t || !t->partitions) return;
    l->v = xgrow(l->v, l->n, sizeof *l->v);
    l->v[l->n++] = (struct topic){xstrdup(t->name), t->partitions};
}

/* The source and its own topics that are there, in the order of all, which is by name. */
static struct topic_list family(const struct check_result *r, const struct topic *source) {
    struct topic_list l = {0};
    for (size_t i = 0; i < r->all.n; i++) {
        const struct topic *t = &r->all.v[i];
        enum topic_kind kind;
        bool used = topic_is_of(t->name, source->name, &kind) &&
                    (kind != TOPIC_LEDGER || r->cfg->ledger) &&
                    (kind != TOPIC_OUTCOMES || r->cfg->outcomes != CONFIG_OUTCOMES_OFF);
        if (used) add_topic(&l, t);
    }
    return l;
}

static int64_t longest_window(const struct config *c) {
    int64_t ms = c->retry_window_webhook;
    if (c->retry_window_s3 > ms) ms = c->retry_window_s3;
    return c->retry_window_file > ms ? c->retry_window_file : ms;
}

static void add_lines(const char *topic, const char *lines, struct buf *to) {
    for (const char *at = lines; *at; at += strcspn(at, "\n") + 1)
        buf_printf(to, "%s: %.*s\n", topic, (int)strcspn(at, "\n"), at);
}

static void judge_family(struct check_result *r, const struct topic *source,
                         const struct topic_list *l, const struct topic_settings *settings) {
    const struct topic *there = topic_find(l, source->name);
    if (!there) return;
    const struct topic_settings *of_source = &settings[there - l->v];
    int wanted = r->cfg->topics_partitions ? (int)r->cfg->topics_partitions : there->partitions;
    for (size_t i = 0; i < l->n; i++) {
        struct buf lines;
        buf_init(&lines, 4096);
        r->settings_unknown |= !settings[i].known;
        topic_settings_judge(topic_kind(l->v[i].name, NULL), &settings[i], of_source,
                             longest_window(r->cfg), &lines);
        add_lines(l->v[i].name, buf_cstr(&lines), r->advice);
        lines.n = 0;
        topic_partitions_judge(topic_kind(l->v[i].name, NULL), l->v[i].partitions, wanted, &lines);
        topic_clock_judge(topic_kind(l->v[i].name, NULL), &settings[i], &lines);
        add_lines(l->v[i].name, buf_cstr(&lines), r->notes);
        buf_free(&lines);
    }
}

/* Own topics that would lose what lies in them, or refuse what comes. */
static bool ask_settings(rd_kafka_t *rk, struct check_result *r, struct buf *err) {
    bool ok = true;
    for (size_t i = 0; ok && i < r->sources.n; i++) {
        struct topic_list l = family(r, &r->sources.v[i]);
        struct topic_settings *settings = xcalloc(l.n + 1, sizeof *settings);
        ok = topic_settings_ask(rk, &l, TIMEOUT_MS, NULL, settings, err);
        if (ok) judge_family(r, &r->sources.v[i], &l, settings);
        free(settings);
        topic_list_free(&l);
    }
    return ok;
}

/* ---- own topics ---- */

/* A partition whose end was written and can't be seen. */
struct hidden {
    const struct topic *topic;
    int32_t partition;
    int64_t from, to;
};

/* The end of what a reader sees (rk), and that of what was written (raw). False: all can be seen,
 * or the broker did not say. */
static bool ask_hidden(rd_kafka_t *rk, rd_kafka_t *raw, struct hidden *h) {
    int64_t low;
    return !client_ends(raw, h->topic->name, h->partition, &low, &h->to, TIMEOUT_MS) &&
           !client_ends(rk, h->topic->name, h->partition, &low, &h->from, TIMEOUT_MS) &&
           h->from < h->to;
}

static size_t find_hidden(rd_kafka_t *rk, rd_kafka_t *raw, const struct check_result *r,
                          struct hidden **ret) {
    size_t n = 0;
    *ret = NULL;
    for (size_t i = 0; i < r->all.n; i++) {
        const struct topic *t = &r->all.v[i];
        char source[TOPIC_MAX + 1];
        enum topic_kind kind = topic_source(t->name, source);
        bool own = kind == TOPIC_DEAD || (kind == TOPIC_LEDGER && r->cfg->ledger);
        for (int32_t p = 0; own && topic_find(&r->sources, source) && p < t->partitions; p++) {
            struct hidden h = {.topic = t, .partition = p};
            if (!ask_hidden(rk, raw, &h)) continue;
            *ret = xgrow(*ret, n, sizeof **ret);
            (*ret)[n++] = h;
        }
    }
    return n;
}

/* Keeps those in which nothing moves for as long as a transaction may be open. */
static size_t keep_held(rd_kafka_t *rk, rd_kafka_t *raw, struct hidden *v, size_t n) {
    const struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000L};
    int64_t end_ms = clock_ms(CLOCK_MONOTONIC) + HELD_MS;
    while (n && clock_ms(CLOCK_MONOTONIC) < end_ms) {
        size_t kept = 0;
        nanosleep(&pause, NULL); /* they end without an event of ours */
        for (size_t i = 0; i < n; i++) {
            struct hidden now = v[i];
            if (ask_hidden(rk, raw, &now) && now.from == v[i].from) v[kept++] = now;
        }
        n = kept;
    }
    return n;
}

static void note_held(const struct hidden *h, struct buf *notes) {
    buf_printf(notes,
               "%s/%d: held-by-transaction: an open transaction hides %lld offsets from %lld on: "
               "verify and redrive see nothing of what comes after it. If it does not end: "
               "kafka-transactions.sh find-hanging, then abort\n",
               h->topic->name, (int)h->partition, (long long)(h->to - h->from), (long long)h->from);
}

static void tell_held(const struct hidden *h, struct buf *err) {
    buf_printf(err,
               "runsink check: held-by-transaction: %s/%d: an open transaction hides %lld offsets "
               "from %lld on. The group has no committed offsets, and where it goes on may be said "
               "there: run would wait for the end of it, and end with 75. If it does not end, its "
               "producer left it behind: kafka-transactions.sh find-hanging, then abort\n",
               h->topic->name, (int)h->partition, (long long)(h->to - h->from), (long long)h->from);
}

/* Workers only write there, but that a group without offsets begins by what its ledgers say
 * (begin.h). */
static int look_at_own(rd_kafka_t *rk, rd_kafka_t *raw, struct check_result *r, struct buf *err) {
    struct hidden *v;
    size_t n = find_hidden(rk, raw, r, &v);
    n = keep_held(rk, raw, v, n);
    for (size_t i = 0; i < n; i++) {
        bool needed = is_new(r) && topic_kind(v[i].topic->name, NULL) == TOPIC_LEDGER;
        r->held_ledgers += needed;
        if (needed)
            tell_held(&v[i], err);
        else
            note_held(&v[i], r->notes);
    }
    free(v);
    return r->held_ledgers ? EX_TEMPFAIL : EX_OK;
}

/* A person's work is named before what passes by itself. */
static int worse(int a, int b) {
    return a == EX_CONFIG || b == EX_OK ? a : b == EX_CONFIG || a == EX_OK ? b : a;
}

static int ask_lag(rd_kafka_t *rk, struct check_result *ret, struct buf *err) {
    rd_kafka_t *raw = reader_consumer_raw(ret->cfg, ret->cfg->group, err);
    ret->lag_known = raw && ask_offsets(rk, raw, ret, err) && ask_beginnings(rk, ret, err);
    int rc = ret->lag_known ? try_reading(rk, ret, err) : EX_UNAVAILABLE;
    if (rc == EX_OK) rc = look_at_own(rk, raw, ret, err);
    for (size_t i = 0; i < ret->n; i++)
        if (ret->partitions[i].unstable) rc = worse(rc, EX_TEMPFAIL);
    if (raw) rd_kafka_destroy(raw);
    return rc;
}

static bool all_there(const struct topic_list *sources) {
    bool ok = sources->n > 0;
    for (size_t i = 0; i < sources->n; i++) ok &= sources->v[i].partitions > 0;
    return ok;
}

static int try_create(rd_kafka_t *rk, struct check_result *ret, struct buf *err) {
    if (!ret->missing.n || !ret->cfg->topics_create) return EX_OK;
    return topic_settings_try_create(rk, ret->cfg, &ret->missing, &ret->sources, TIMEOUT_MS, err);
}

static int list_topics(rd_kafka_t *rk, struct check_result *ret, struct buf *err) {
    const struct config *c = ret->cfg;
    if (!topics_list(rk, TIMEOUT_MS, NULL, &ret->all, err)) return EX_UNAVAILABLE;
    if (!topics_resolve(c, &ret->all, &ret->sources, err)) return EX_CONFIG;
    if (!topics_missing(c, &ret->all, &ret->sources, &ret->missing, err)) return EX_CONFIG;
    return EX_OK;
}

/* What it may do, and what it finds; a right that is missing keeps no other from being asked for.
 */
static int ask_rights(rd_kafka_t *rk, struct check_result *ret, struct buf *err) {
    int rc = ask_group(rk, ret, err);
    if (rc == EX_OK) {
        int group = check_group_right(rk, ret, err), lag = ask_lag(rk, ret, err);
        rc = lag == EX_UNAVAILABLE ? lag : worse(group, lag);
    }
    if (rc == EX_UNAVAILABLE) return rc;
    int reads = check_reading(rk, ret, err);
    if (worse(rc, reads) == EX_OK) {
        reads = overview_read(ret->cfg, rk, &ret->all, &ret->sources, &ret->overview, err);
        ret->overview_known = reads == EX_OK;
    }
    int settles = check_settling(ret, err);
    return reads == EX_DATAERR ? reads : worse(rc, worse(reads, settles));
}

static int ask_broker(rd_kafka_t *rk, struct check_result *ret, struct buf *err) {
    const struct config *c = ret->cfg;
    int rc = list_topics(rk, ret, err);
    if (rc != EX_OK) return rc;
    int hidden = check_hidden(rk, ret, err), created = try_create(rk, ret, err);
    topics_part(&ret->sources, &ret->unserved);
    for (size_t i = 0; i < ret->unserved.n; i++)
        buf_printf(err, "runsink check: topic %s matches and can't be served: %s\n",
                   ret->unserved.v[i].name, ret->unserved.v[i].unserved);
    ret->listed = true;
    rc = all_there(&ret->sources) ? EX_OK : EX_UNAVAILABLE;
    if ((ret->missing.n && !c->topics_create) || ret->unserved.n) rc = EX_CONFIG;
    rc = worse(rc, worse(hidden, created));
    if (!ask_settings(rk, ret, err)) return EX_UNAVAILABLE;
    if (rc == EX_OK && ret->advice->n) rc = EX_CONFIG;
    int may = ask_rights(rk, ret, err);
    return may == EX_UNAVAILABLE ? may : worse(rc, may);
}

static int check(struct check_result *ret, bool connect, check_try_fn *try, struct buf *err) {
    if (!try(ret->cfg, connect, err)) return EX_CONFIG;
    if (!connect) return EX_OK;
    certs_read(ret->cfg, &ret->certs);
    /* A member of no group: it only asks. */
    rd_kafka_t *rk = reader_consumer(ret->cfg, ret->cfg->group, err);
    int rc = rk ? ask_broker(rk, ret, err) : EX_CONFIG;
    if (rk) rd_kafka_destroy(rk);
    return rc;
}

static int run(struct config *c, bool connect, check_try_fn *try, bool json, bool all,
               enum overview_by by) {
    struct buf err, advice, notes, verdict;
    struct check_result result = {.cfg = c,
                                  .advice = &advice,
                                  .notes = &notes,
                                  .overview = {.by = by, .config = command_config_path()}};
    buf_init(&err, 65536);
    buf_init(&advice, ADVICE_MAX);
    buf_init(&notes, ADVICE_MAX);
    buf_init(&verdict, 4096);
    if (!json) config_print(c, all, stdout);
    int rc = check(&result, connect, try, &err);
    check_verdict(&result, rc, connect, &verdict);
    if (json)
        check_print_json(&result, rc, buf_cstr(&err), buf_cstr(&verdict), stdout);
    else
        check_print(&result, (int64_t)time(NULL) * 1000, stdout);
    fflush(stdout);
    shown_lines(stderr, buf_cstr(&err));
    if (!json) printf("\nverdict: %s\n", buf_cstr(&verdict));
    buf_free(&err);
    buf_free(&verdict);
    buf_free(&advice);
    buf_free(&notes);
    overview_free(&result.overview);
    topic_list_free(&result.all);
    topic_list_free(&result.sources);
    topic_list_free(&result.unserved);
    topic_list_free(&result.missing);
    free(result.partitions);
    return rc;
}

int check_command(int argc, char **argv, check_try_fn *try) {
    bool alone = false, json = false, all = false;
    enum overview_by by = BY_DEFAULT;
    if (argc == 2 && strcmp(argv[1], "--reference") == 0)
        return config_print_reference(stdout), EX_OK;
    if (argc == 2 && strcmp(argv[1], "--reference-metrics") == 0)
        return metrics_print_reference(stdout), EX_OK;
    if (argc == 2 && strcmp(argv[1], "--reference-ini") == 0)
        return config_print_ini(stdout), EX_OK;
    if (argc == 2 && strcmp(argv[1], "--reference-schema") == 0)
        return config_print_schema(stdout), EX_OK;
    const struct command_option options[] = {
        {"--config-only", .flag = &alone},
        {"--json", .flag = &json},
        {"--all", .flag = &all},
        {"--by", .read = overview_by_read, .to = &by, .takes = "workspace, destination or reason"},
    };
    int rc = command_options("check", options, sizeof options / sizeof *options, argc, argv, NULL);
    if (rc != EX_OK) return rc;
    struct config *c = command_config();
    if (!c && !json)
        puts("verdict: the configuration has to change before run can start (exit code 78)");
    if (!c) return EX_CONFIG;
    rc = run(c, !alone, try, json, all, by);
    config_free(c);
    return rc;
}
