/* `runsink verify`: options, and the order of things. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sysexits.h>

#include "worker/tools/command.h"
#include "worker/tools/verify_anchor.h"
#include "worker/tools/verify_bucket.h"
#include "worker/tools/verify_objects.h"
#include "worker/tools/verify_topic.h"

#define BROKER_TIMEOUT_MS 30000
#define KEYS_MAX 16

struct verify {
    struct config *cfg;
    const char *target; /* a topic or an exported folder; NULL: the configured topics */
    const char *group, *export_dir, *anchors_dir;
    struct ledger_pubkey keys[KEYS_MAX];
    size_t n_keys;
    bool objects, records;
    struct reader_limits limits;
    struct report report;
    struct buf err;
};

static int fail(struct verify *v, int code) {
    report_progress_end(&v->report);
    command_error("verify", &v->err);
    return code;
}

/* The one context of all callbacks: findings go to the report, deliveries to the objects, entries
 * to the anchors. */
struct watchers {
    struct report *report;
    struct objects *objects;   /* NULL: they are not compared */
    struct anchored *anchored; /* NULL: there are none to compare with */
    const char *export_dir;    /* for anchors; NULL: none */
    struct audit *audit;
    uint64_t anchors; /* seen, before any was judged */
    struct buf *err;  /* of the export */
};

static void on_finding(void *context, const struct finding *f) {
    struct watchers *w = context;
    report_finding(w->report, f);
}

static void on_delivered(void *context, const struct ledger_entry *e,
                         const struct ledger_group *g) {
    struct watchers *w = context;
    if (w->objects) objects_add(w->objects, e, g);
}

static void on_entry(void *context, const struct ledger_entry *e) {
    struct watchers *w = context;
    if (w->anchored) anchored_entry(w->anchored, e);
}

static void on_anchor(void *context, const char *name, struct str value) {
    struct watchers *w = context;
    w->anchors++;
    anchored_add(w->anchored, name, value);
    if (w->export_dir && !w->err->n) export_anchor(w->export_dir, name, value, w->err);
}

static void on_remark(void *context, bool finding, const char *code, const char *text) {
    struct watchers *w = context;
    struct finding f = {.note = !finding, .code = code, .offset = -1, .text = text};
    audit_report(w->audit, &f);
}

static void begin_audit(struct verify *v, const struct snapshot *s, bool anchors,
                        struct watchers *w) {
    struct audit_options opts = {.source = s->source,
                                 .group = s->group,
                                 .keys = v->keys,
                                 .n_keys = v->n_keys,
                                 .partial = s->partial,
                                 .unfinished = s->unfinished,
                                 .keep_seen = v->records,
                                 .report = on_finding,
                                 .entry = on_entry,
                                 .delivered = on_delivered,
                                 .context = w};
    w->report = &v->report;
    w->err = &v->err;
    w->audit = audit_new(&opts);
    if (anchors) w->anchored = anchored_new(s, v->keys, v->n_keys, &v->limits, w->audit);
    report_begin(&v->report, s->source);
}

static void end_audit(struct watchers *w) {
    anchored_free(w->anchored);
    objects_free(w->objects);
    audit_free(w->audit);
}

/* ---- anchors ---- */

/* All anchors there are, from dir or, when that is NULL, from the bucket. Before the committed
 * state is asked for, so that no anchor can be ahead of what is compared with it. That they can't
 * be read is a finding: without them this is no complete verification. */
static void read_anchors(struct verify *v, const char *dir, struct watchers *w) {
    const struct anchor_visitor visitor = {on_anchor, on_remark, w};
    struct buf err;
    char text[600];
    buf_init(&err, 65536);
    bool ok = dir ? folder_anchors(dir, &visitor, &err)
                  : bucket_anchors(v->cfg, v->group, &v->limits, &visitor, &err);
    if (!ok) {
        snprintf(text, sizeof text, "not all anchors could be read, verification is incomplete: %s",
                 buf_cstr(&err));
        on_remark(w, true, "anchors-unread", text);
    } else if (!w->anchors) {
        on_remark(w, false, "anchors-none", "there are no anchors of this group");
    }
    buf_free(&err);
}

/* Judges what only the end can tell. An exit code. */
static int finish(struct verify *v, const struct snapshot *s, struct watchers *w,
                  struct report_sums *sums) {
    snapshot_drained(s, w->audit);
    audit_finish(w->audit);
    if (w->anchored) anchored_finish(w->anchored);
    if (w->anchored) anchored_sums(w->anchored, &sums->anchored);
    sums->anchors = w->anchored != NULL;
    return report_end(&v->report, w->audit, sums) ? EX_OK : EX_DATAERR;
}

/* ---- a topic ---- */

/* Everything that reads. */
static bool read_all(struct verify *v, rd_kafka_t *rk, const struct topic_list *all,
                     const struct snapshot *s, struct watchers *w, struct report_sums *sums) {
    if (!verify_ledger(rk, all, s->source, &v->limits, w->audit, v->export_dir, &v->report,
                       &v->err))
        return false;
    if (w->objects) {
        objects_finish(w->objects);
        objects_sums(w->objects, &sums->objects_checked, &sums->objects_bytes);
    }
    if (v->records && !verify_records(rk, all, s->source, v->group, w->audit, &v->report,
                                      &sums->records_checked, &v->err))
        return false;
    return !v->export_dir || export_finish(v->export_dir, s, &v->err);
}

/* The committed state, and everything that was settled up to it. */
static int audit_source(struct verify *v, rd_kafka_t *rk, const struct topic_list *all,
                        struct snapshot *s, struct watchers *w) {
    struct report_sums sums = {
        .keys_given = v->n_keys > 0, .objects = v->objects, .records = v->records};
    if (w->anchored) read_anchors(v, v->anchors_dir, w);
    s->has_anchors = w->anchored != NULL;
    s->anchors = (int64_t)w->anchors;
    if (v->err.n) return fail(v, EX_IOERR);
    if (!verify_wait_visible(v->cfg, rk, all, s->source, w->audit, &v->err) ||
        !verify_snapshot(rk, all, s->source, s, &v->err))
        return fail(v, EX_UNAVAILABLE);
    snapshot_expect(s, w->audit);
    if (!read_all(v, rk, all, s, w, &sums))
        return fail(v, v->export_dir ? EX_IOERR : EX_UNAVAILABLE);
    return finish(v, s, w, &sums);
}

static int verify_source(struct verify *v, rd_kafka_t *rk, rd_kafka_t *lookup,
                         const struct topic_list *all, const char *source) {
    struct snapshot s = {.partial = v->limits.from_ms != 0, .unfinished = v->limits.to_ms != 0};
    struct watchers w = {.export_dir = v->export_dir};
    snprintf(s.source, sizeof s.source, "%s", source);
    snprintf(s.group, sizeof s.group, "%s", v->group);
    if (v->export_dir && !export_open(v->export_dir, &v->err)) return fail(v, EX_CANTCREAT);
    begin_audit(v, &s, v->anchors_dir || v->cfg->anchor_bucket[0], &w);
    if (lookup) w.objects = objects_new(v->cfg, lookup, w.audit);
    int rc = audit_source(v, rk, all, &s, &w);
    end_audit(&w);
    snapshot_free(&s);
    return rc;
}

static int verify_topics(struct verify *v) {
    struct topic_list all = {0}, list = {0};
    rd_kafka_t *lookup = NULL;
    int rc = EX_OK;
    rd_kafka_t *rk = reader_consumer(v->cfg, v->group, &v->err);
    if (!rk) return fail(v, EX_CONFIG);
    if (v->objects && !(lookup = reader_consumer(v->cfg, v->group, &v->err)))
        rc = fail(v, EX_CONFIG);
    else if (!topics_list(rk, BROKER_TIMEOUT_MS, NULL, &all, &v->err))
        rc = fail(v, EX_UNAVAILABLE);
    else if (!topics_choose(v->cfg, v->target, &all, &list, &v->err))
        rc = fail(v, EX_CONFIG);
    else if (list.n == 0)
        rc = command_usage("verify", "name a topic, or configure `topics`");
    else if (list.n > 1 && v->export_dir)
        rc = command_usage("verify", "--export takes one topic: name it");
    for (size_t i = 0; i < list.n && (rc == EX_OK || rc == EX_DATAERR); i++) {
        int one = verify_source(v, rk, lookup, &all, list.v[i].name);
        if (one != EX_OK) rc = one;
    }
    topic_list_free(&all);
    topic_list_free(&list);
    if (lookup) rd_kafka_destroy(lookup);
    rd_kafka_destroy(rk);
    return rc;
}

/* ---- a folder ---- */

/* Those that were exported, which the manifest counts, or those of --anchors. */
static void read_folder_anchors(struct verify *v, const struct snapshot *s, struct watchers *w) {
    char text[128];
    if (v->anchors_dir) {
        read_anchors(v, v->anchors_dir, w);
        return;
    }
    char *dir = files_anchors(v->target);
    if (s->anchors) read_anchors(v, dir, w);
    free(dir);
    if ((int64_t)w->anchors == s->anchors) return;
    snprintf(text, sizeof text, "the manifest counts %lld anchors, there are %llu",
             (long long)s->anchors, (unsigned long long)w->anchors);
    on_remark(w, true, "anchors-unread", text);
}

static int verify_folder(struct verify *v) {
    struct snapshot s = {0};
    struct watchers w = {0};
    if (!files_snapshot(v->target, &s, &v->err)) return fail(v, EX_NOINPUT);
    struct report_sums sums = {.keys_given = v->n_keys > 0};
    begin_audit(v, &s, v->anchors_dir || s.has_anchors, &w);
    snapshot_expect(&s, w.audit);
    if (w.anchored) read_folder_anchors(v, &s, &w);
    int rc =
        files_audit(v->target, w.audit, &v->err) ? finish(v, &s, &w, &sums) : fail(v, EX_IOERR);
    end_audit(&w);
    snapshot_free(&s);
    return rc;
}

/* ---- options ---- */

static bool add_key(const char *path, void *verify, struct buf *err) {
    struct verify *v = verify;
    if (v->n_keys < KEYS_MAX) return ledger_pubkey_load(path, &v->keys[v->n_keys++], err);
    buf_printf(err, "more than %d keys", KEYS_MAX);
    return false;
}

static int read_options(struct verify *v, int argc, char **argv) {
    const struct command_option options[] = {
        {"--key", .read = add_key, .to = v},
        {"--from", .read = command_time, .to = &v->limits.from_ms, .takes = COMMAND_TIME},
        {"--to", .read = command_time, .to = &v->limits.to_ms, .takes = COMMAND_TIME},
        {"--group", .text = &v->group},
        {"--export", .text = &v->export_dir},
        {"--anchors", .text = &v->anchors_dir},
        {"--objects", .flag = &v->objects},
        {"--records", .flag = &v->records},
        {"--json", .flag = &v->report.json},
    };
    return command_options("verify", options, sizeof options / sizeof *options, argc, argv,
                           &v->target);
}

static bool is_folder(const char *path) {
    struct stat st;
    return path && stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int command_verify(struct config *cfg, int argc, char **argv) {
    struct verify v = {.cfg = cfg, .group = cfg->group, .report = {.out = stdout}};
    buf_init(&v.err, 65536);
    int rc = read_options(&v, argc, argv);
    if (rc == EX_OK && is_folder(v.target)) {
        if (v.objects || v.records || v.export_dir || v.limits.from_ms || v.limits.to_ms)
            rc = command_usage("verify",
                               "a folder takes no other options than --key, --anchors and --json");
        else
            rc = verify_folder(&v);
    } else if (rc == EX_OK) {
        rc = verify_topics(&v);
    }
    buf_free(&v.err);
    return rc;
}
