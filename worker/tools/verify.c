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
    struct objects *objects;
    struct anchored *anchored; /* NULL: there are none to compare with */
    struct export *export;     /* of anchors; NULL: none */
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
    objects_add(w->objects, e, g);
}

static void on_entry(void *context, const struct ledger_entry *e) {
    struct watchers *w = context;
    anchored_entry(w->anchored, e);
}

static void on_anchor(void *context, const char *name, struct str value) {
    struct watchers *w = context;
    w->anchors++;
    anchored_add(w->anchored, name, value);
    if (w->export && !w->err->n) export_anchor(w->export, name, value, w->err);
}

static void on_remark(void *context, bool finding, const char *code, const char *text) {
    struct watchers *w = context;
    struct finding f = {.note = !finding, .code = code, .offset = -1, .text = text};
    audit_report(w->audit, &f);
}

static struct audit *new_audit(struct verify *v, const struct snapshot *s, struct watchers *w) {
    struct audit_options opts = {.source = s->source,
                                 .group = s->group,
                                 .keys = v->keys,
                                 .n_keys = v->n_keys,
                                 .partial = s->partial,
                                 .unfinished = s->unfinished,
                                 .keep_seen = v->records,
                                 .report = on_finding,
                                 .entry = w->anchored ? on_entry : NULL,
                                 .delivered = w->objects ? on_delivered : NULL,
                                 .context = w};
    struct audit *a = w->audit = audit_new(&opts);
    if (w->objects) objects_report(w->objects, a);
    if (w->anchored) anchored_report(w->anchored, a);
    return a;
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

static void finish_anchors(const struct watchers *w, struct report_sums *sums) {
    if (!w->anchored) return;
    anchored_finish(w->anchored);
    sums->anchors = true;
    anchored_sums(w->anchored, &sums->anchored);
}

/* ---- a topic ---- */

/* Everything that reads. */
static bool read_all(struct verify *v, rd_kafka_t *rk, const struct topic_list *all,
                     const struct snapshot *s, struct audit *a, struct watchers *w,
                     struct export *x, struct report_sums *sums) {
    if (!verify_ledger(rk, all, s->source, &v->limits, a, x, &v->report, &v->err)) return false;
    if (w->objects) {
        objects_finish(w->objects);
        objects_sums(w->objects, &sums->objects_checked, &sums->objects_bytes);
    }
    if (v->records && !verify_records(rk, all, s->source, v->group, a, &v->report,
                                      &sums->records_checked, &v->err))
        return false;
    if (x && !export_finish(x, s, &v->err)) return false;
    snapshot_drained(s, a);
    audit_finish(a);
    finish_anchors(w, sums);
    return true;
}

/* The committed state, and everything that was settled up to it. */
static int audit_source(struct verify *v, rd_kafka_t *rk, const struct topic_list *all,
                        struct snapshot *s, struct watchers *w) {
    struct report_sums sums = {
        .keys_given = v->n_keys > 0, .objects = v->objects, .records = v->records};
    report_begin(&v->report, s->source);
    struct audit *a = new_audit(v, s, w);
    int rc = EX_OK;
    if (w->anchored) read_anchors(v, v->anchors_dir, w);
    s->has_anchors = w->anchored != NULL;
    s->anchors = (int64_t)w->anchors;
    if (v->err.n) {
        rc = fail(v, EX_IOERR);
    } else if (!verify_wait_visible(v->cfg, rk, all, s->source, a, &v->err) ||
               !verify_snapshot(rk, all, s->source, s, &v->err)) {
        rc = fail(v, EX_UNAVAILABLE);
    } else {
        snapshot_expect(s, a);
        if (!read_all(v, rk, all, s, a, w, w->export, &sums))
            rc = fail(v, w->export ? EX_IOERR : EX_UNAVAILABLE);
        else if (!report_end(&v->report, a, &sums))
            rc = EX_DATAERR;
    }
    audit_free(a);
    return rc;
}

static int verify_source(struct verify *v, rd_kafka_t *rk, rd_kafka_t *lookup,
                         const struct topic_list *all, const char *source) {
    struct snapshot s = {.partial = v->limits.from_ms != 0, .unfinished = v->limits.to_ms != 0};
    snprintf(s.source, sizeof s.source, "%s", source);
    snprintf(s.group, sizeof s.group, "%s", v->group);
    struct export *x = NULL;
    if (v->export_dir && !(x = export_open(v->export_dir, &v->err))) return fail(v, EX_CANTCREAT);
    struct watchers w = {.report = &v->report, .export = x, .err = &v->err};
    if (lookup) w.objects = objects_new(v->cfg, lookup);
    if (v->anchors_dir || v->cfg->anchor_bucket[0])
        w.anchored = anchored_new(&s, v->keys, v->n_keys, &v->limits);
    int rc = audit_source(v, rk, all, &s, &w);
    anchored_free(w.anchored);
    objects_free(w.objects);
    export_free(x);
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
    if (!files_snapshot(v->target, &s, &v->err)) return fail(v, EX_NOINPUT);
    struct watchers w = {.report = &v->report, .err = &v->err};
    if (v->anchors_dir || s.has_anchors)
        w.anchored = anchored_new(&s, v->keys, v->n_keys, &v->limits);
    struct report_sums sums = {.keys_given = v->n_keys > 0};
    report_begin(&v->report, s.source);
    struct audit *a = new_audit(v, &s, &w);
    snapshot_expect(&s, a);
    if (w.anchored) read_folder_anchors(v, &s, &w);
    int rc = EX_OK;
    if (!files_audit(v->target, a, &v->err)) {
        rc = fail(v, EX_IOERR);
    } else {
        snapshot_drained(&s, a);
        audit_finish(a);
        finish_anchors(&w, &sums);
        if (!report_end(&v->report, a, &sums)) rc = EX_DATAERR;
    }
    anchored_free(w.anchored);
    audit_free(a);
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
