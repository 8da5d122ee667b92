#include "worker/tools/verify_bucket.h"

#include <errno.h>
#include <fts.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

#include "sinks/sink.h"
#include "worker/ledger/anchor.h"
#include "worker/pipeline/anchor_store.h"

#define AT_ONCE 8
#define ATTEMPTS 3
#define WAIT_MS 1000
#define PAGE_MAX ((int64_t)8 << 20) /* bytes of a listing's page */
#define VERSION_MAX 1024
#define FOLDER_MAX 700 /* more than the bounds of prefix and group together */

/* One anchor on its way. */
struct fetch {
    struct bucket *owner;
    char name[ANCHOR_NAME_LEN + 1], version[VERSION_MAX + 1];
    int64_t written_ms;
    int attempts;
    struct http_request request;
    struct buf url;
};

struct bucket {
    struct config cfg; /* a copy, with room for whole pages; owns nothing of its own */
    struct anchor_store *store;
    struct http *http;
    char folder[FOLDER_MAX + 1]; /* key of the group's */
    const struct anchor_visitor *visitor;
    const struct reader_limits *limits;
    struct buf *err;
    size_t running;
    bool plain; /* the store lists no versions */
    /* Where the listing stands: the last item of our own naming. */
    char name[ANCHOR_NAME_LEN + 1], version[VERSION_MAX + 1], seen[ANCHOR_NAME_LEN + 1];
    bool finished;
    uint64_t hidden, foreign;
    struct listing listing;
};

static void run(struct bucket *b, size_t until) {
    while (b->running > until) {
        http_wait(b->http, WAIT_MS);
        http_run(b->http);
    }
}

static void complain(struct bucket *b, const char *what, const struct outcome *o) {
    if (b->err->n) return; /* one is enough */
    buf_printf(b->err, "%s in %s: %s %s", what, anchor_store_label(b->store), o->why, o->detail);
}

static void clear(struct http_request *request, struct buf *url) {
    http_request_clear(request);
    buf_free(url);
}

/* ---- anchors ---- */

static void fetched(struct http_request *, const struct outcome *);

static void fetch_send(struct fetch *f) {
    struct bucket *b = f->owner;
    char key[FOLDER_MAX + ANCHOR_NAME_LEN + 1];
    struct sigv4_param version = {STR("versionId"), str_c(f->version)};
    snprintf(key, sizeof key, "%s%s", b->folder, f->name);
    f->attempts++;
    f->request = (struct http_request){.done = fetched, .owner = f};
    if (!anchor_store_get(b->store, key, &version, *f->version ? 1 : 0, &f->request, &f->url))
        abort(); /* all parts are bounded */
    http_submit(b->http, &f->request);
}

static void fetched(struct http_request *request, const struct outcome *transport) {
    struct fetch *f = request->owner;
    struct bucket *b = f->owner;
    struct outcome o = anchor_store_judge(b->store, request, transport);
    if (o.verdict == VERDICT_OK) {
        b->visitor->anchor(b->visitor->context, f->name,
                           (struct str){request->answer.p, request->answer.n}, f->written_ms);
    } else if (o.verdict == VERDICT_RETRY && f->attempts < ATTEMPTS) {
        clear(request, &f->url);
        fetch_send(f);
        return;
    } else {
        complain(b, f->name, &o);
    }
    clear(request, &f->url);
    b->running--;
    free(f);
}

/* 0: it is no time. */
static int64_t time_ms(struct str text) {
    char copy[32] = "";
    struct tm tm = {0};
    if (text.n < sizeof copy) memcpy(copy, text.p ? text.p : "", text.n);
    return strptime(copy, "%Y-%m-%dT%H:%M:%S", &tm) ? (int64_t)timegm(&tm) * 1000 : 0;
}

static void fetch_start(struct bucket *b, const struct listed_item *item) {
    run(b, AT_ONCE - 1);
    if (b->err->n) return;
    struct fetch *f = xcalloc(1, sizeof *f);
    f->owner = b;
    f->written_ms = time_ms(item->modified);
    memcpy(f->name, b->name, sizeof f->name);
    memcpy(f->version, b->version, sizeof f->version);
    b->running++;
    fetch_send(f);
}

/* ---- the listing ---- */

/* Where in time a name stands; the limits in the same form compare with it as text. */
static bool time_name(int64_t ms, char ret[ANCHOR_NAME_LEN + 1]) {
    if (!anchor_name(ms, 0, ret)) return false;
    *strchr(ret, 'Z') = '\0';
    return true;
}

/* Takes an anchor that was listed. False: it is younger than what is looked for. */
static bool take(struct bucket *b, const struct listed_item *item) {
    char end[ANCHOR_NAME_LEN + 1];
    if (b->limits->to_ms && time_name(b->limits->to_ms + 1000, end) && strcmp(b->name, end) >= 0)
        return false;
    if (item->kind == LISTED_MARKER) {
        b->hidden++;
        return true;
    }
    if (strcmp(b->name, b->seen) == 0) {
        char text[128];
        snprintf(text, sizeof text, "there is more than one version of anchor %s", b->name);
        b->visitor->remark(b->visitor->context, true, "anchor-overwritten", text);
    }
    memcpy(b->seen, b->name, sizeof b->seen);
    fetch_start(b, item);
    return true;
}

/* Takes a page's items. False when nothing in it says where the next page begins. */
static bool take_page(struct bucket *b) {
    size_t folder = strlen(b->folder);
    bool ours = false;
    for (size_t i = 0; i < b->listing.n && !b->finished; i++) {
        const struct listed_item *item = &b->listing.items[i];
        struct str name = item->key;
        if (name.n >= folder) name = (struct str){name.p + folder, name.n - folder};
        if (!str_starts(item->key, b->folder) || !anchor_name_legal(name) ||
            item->version.n > VERSION_MAX) {
            b->foreign++;
            continue;
        }
        /* Some stores begin a page with the item that the one before it ended with. */
        if (str_is(name, b->name) && str_is(item->version, b->version)) continue;
        ours = true;
        memcpy(b->name, name.p, name.n);
        snprintf(b->version, sizeof b->version, "%.*s", (int)item->version.n,
                 item->version.n ? item->version.p : "");
        b->finished = !take(b, item);
    }
    b->finished = b->finished || !b->listing.truncated;
    return ours || b->finished;
}

static void listed(struct http_request *request, const struct outcome *transport) {
    struct bucket *b = request->owner;
    struct outcome o = anchor_store_judge(b->store, request, transport);
    b->running = 0;
    if (o.verdict == VERDICT_OK) return;
    request->status = o.status ? o.status : -1;
    bool unknown = o.status == 501 || o.status == 405;
    if (unknown && !b->plain && !*b->name)
        b->plain = true;
    else
        complain(b, "the list of anchors", &o);
}

/* The parameters of the next page. */
static size_t page_params(const struct bucket *b, struct buf *marker, struct sigv4_param ret[5]) {
    char from[ANCHOR_NAME_LEN + 1] = "";
    size_t n = 0;
    if (!*b->name && b->limits->from_ms) time_name(b->limits->from_ms, from);
    const char *name = *b->name ? b->name : from;
    buf_printf(marker, "%s%s", b->folder, name);
    ret[n++] = (struct sigv4_param){STR("prefix"), str_c(b->folder)};
    ret[n++] = (struct sigv4_param){STR("max-keys"), STR("1000")};
    if (b->plain)
        ret[n++] = (struct sigv4_param){STR("list-type"), STR("2")};
    else
        ret[n++] = (struct sigv4_param){STR("versions"), STR("")};
    if (*name)
        ret[n++] = (struct sigv4_param){b->plain ? STR("start-after") : STR("key-marker"),
                                        {marker->p, marker->n}};
    if (*b->name && *b->version && !b->plain)
        ret[n++] = (struct sigv4_param){STR("version-id-marker"), str_c(b->version)};
    return n;
}

/* Asks for a page and takes it; again when the store knows no versions. */
static void read_page(struct bucket *b) {
    for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
        struct sigv4_param params[5];
        struct buf url, marker;
        struct http_request request = {.done = listed, .owner = b};
        buf_init(&marker, KEY_MAX);
        size_t n = page_params(b, &marker, params);
        if (!anchor_store_get(b->store, "", params, n, &request, &url)) abort();
        buf_clear(b->err);
        b->running = 1;
        http_submit(b->http, &request);
        run(b, 0);
        bool done = request.status == 200 && !b->err->n;
        if (done && (!listing_read((struct str){request.answer.p, request.answer.n}, &b->listing) ||
                     request.answer_cut))
            buf_printf(b->err, "%s answers with a list that can't be read",
                       anchor_store_label(b->store));
        else if (done && !take_page(b))
            buf_printf(b->err, "%s%s holds a thousand objects that are not anchors",
                       anchor_store_label(b->store), b->folder);
        run(b, 0); /* the fetches of this page's anchors: what fails there is told here */
        clear(&request, &url);
        buf_free(&marker);
        if (done) return;
    }
}

static void remarks(const struct bucket *b) {
    char text[256];
    if (b->hidden) {
        snprintf(text, sizeof text,
                 "%" PRIu64 " delete markers lie over anchors; those were read all the same",
                 b->hidden);
        b->visitor->remark(b->visitor->context, false, "anchors-hidden", text);
    }
    if (b->foreign) {
        snprintf(text, sizeof text, "%" PRIu64 " objects in the anchors' folder are not anchors",
                 b->foreign);
        b->visitor->remark(b->visitor->context, false, "anchors-foreign", text);
    }
    if (b->plain && b->finished)
        b->visitor->remark(b->visitor->context, false, "anchors-unversioned",
                           "the store lists no versions: anchors that were overwritten or deleted "
                           "there don't show");
}

bool bucket_anchors(const struct config *cfg, const char *group, const struct reader_limits *limits,
                    const struct anchor_visitor *visitor, struct buf *err) {
    struct bucket *b = xcalloc(1, sizeof *b);
    *b = (struct bucket){.cfg = *cfg, .visitor = visitor, .limits = limits, .err = err};
    b->cfg.http_response_max = PAGE_MAX;
    struct buf folder;
    buf_init(&folder, FOLDER_MAX);
    b->store = anchor_store_new(cfg, err);
    if (b->store && anchor_folder(cfg->anchor_prefix, group, &folder)) {
        memcpy(b->folder, buf_cstr(&folder), folder.n + 1);
        http_global_init();
        b->http = http_new(&b->cfg);
        while (!b->finished && !err->n) read_page(b);
        http_free(b->http);
        remarks(b);
    }
    anchor_store_free(b->store);
    buf_free(&folder);
    free(b);
    return err->n == 0;
}

/* ---- a folder ---- */

/* The name at the end of a path; "" when there is none. "<name>.2" is another version's. */
static void name_in(const char *path, size_t n, char ret[ANCHOR_NAME_LEN + 1]) {
    *ret = '\0';
    const char *json = NULL;
    for (const char *at = path; (at = strstr(at, ".json")); at++) json = at;
    if (!json) return;
    size_t end = (size_t)(json - path) + 5;
    if (end < ANCHOR_NAME_LEN + 1 || path[end - ANCHOR_NAME_LEN - 1] != '/') return;
    struct str name = {path + end - ANCHOR_NAME_LEN, ANCHOR_NAME_LEN};
    bool whole =
        end == n || (path[end] == '.' && strspn(path + end + 1, "0123456789") == n - end - 1);
    if (!whole || !anchor_name_legal(name)) return;
    memcpy(ret, name.p, name.n);
    ret[name.n] = '\0';
}

static bool visit_file(const FTSENT *e, const struct anchor_visitor *v, struct buf *err) {
    char name[ANCHOR_NAME_LEN + 1];
    name_in(e->fts_path, e->fts_pathlen, name);
    if (!*name) return true;
    struct buf body;
    buf_init(&body, ANCHOR_SIZE_MAX + 1);
    bool ok = buf_file(&body, e->fts_accpath) || errno == EFBIG; /* which no anchor is */
    if (ok)
        v->anchor(v->context, name, (struct str){body.p, body.n}, 0);
    else
        buf_printf(err, "cannot read %s: %s", e->fts_path, strerror(errno));
    buf_free(&body);
    return ok;
}

static int by_name(const FTSENT **a, const FTSENT **b) {
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

bool folder_anchors(const char *dir, const struct anchor_visitor *v, struct buf *err) {
    char *path = xstrdup(dir);
    char *const roots[] = {path, NULL};
    FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, by_name);
    const FTSENT *e;
    bool ok = fts != NULL;
    if (!fts) buf_printf(err, "cannot read %s: %s", dir, strerror(errno));
    while (ok && (e = fts_read(fts))) {
        if (e->fts_info == FTS_F) ok = visit_file(e, v, err);
        if (e->fts_info != FTS_ERR && e->fts_info != FTS_DNR && e->fts_info != FTS_NS) continue;
        buf_printf(err, "cannot read %s: %s", e->fts_path, strerror(e->fts_errno));
        ok = false;
    }
    if (fts) fts_close(fts);
    free(path);
    return ok;
}
