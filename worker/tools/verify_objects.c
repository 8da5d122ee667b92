#include "worker/tools/verify_objects.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "sinks/http/http.h"
#include "sinks/s3/s3.h"
#include "sinks/s3/s3_error.h"

#define AT_ONCE 8
#define ATTEMPTS 3
#define WAIT_MS 1000
/* More than a batch is cut off at, for events that are large by themselves. */
#define BEYOND_BATCH ((int64_t)16 << 20)

/* ---- credentials for reading objects back, by the destination's label ---- */

#define ACCOUNTS_MAX 256

struct account {
    char label[LABEL_MAX];
    struct destination dest; /* of type s3 */
    struct s3_config *s3;    /* dest.config */
    size_t users;            /* requests that use it */
    bool own;                /* from the very record that was asked for last */
};

struct accounts {
    const struct config *cfg;
    struct lookup *lookup;
    struct account *v[ACCOUNTS_MAX];
    size_t n;
};

static struct accounts *accounts_new(const struct config *cfg, rd_kafka_t *rk) {
    struct accounts *a = xcalloc(1, sizeof *a);
    a->cfg = cfg;
    a->lookup = lookup_new(rk, LOOKUP_TIMEOUT_MS);
    return a;
}

static void forget(struct account *a) {
    s3_free_config(a->dest.config);
    free(a->dest.prefix);
    free(a);
}

static void accounts_free(struct accounts *a) {
    for (size_t i = 0; i < a->n; i++) forget(a->v[i]);
    lookup_free(a->lookup);
    free(a);
}

static struct account *account_new(const struct config *cfg, const cJSON *sink, struct buf *err) {
    struct account *a = xcalloc(1, sizeof *a);
    struct outcome why;
    if (s3_parse(cfg, sink, &a->dest, &why)) {
        a->s3 = a->dest.config;
        return a;
    }
    free(a);
    buf_printf(err, "%s: %s", why.why, why.detail);
    return NULL;
}

/* The sink object in the record that the object came from. */
static struct account *from_record(struct accounts *accounts, const struct origin *at,
                                   struct buf *err) {
    struct account *a = NULL;
    struct arena arena = {0};
    struct message record;
    struct jobrun run;
    struct outcome why;
    rd_kafka_message_t *m =
        lookup_record(accounts->lookup, at->topic, at->partition, at->offset, err);
    if (!m) {
        if (!err->n) buf_puts(err, "Kafka does not hold its record any more");
        return NULL;
    }
    reader_record(m, &arena, &record);
    if (jobrun_decode(&record, &arena, &run, &why) && run.sink.p) {
        cJSON *sink = cJSON_ParseWithLength(run.sink.p, run.sink.n);
        if (sink) a = account_new(accounts->cfg, sink, err);
        cJSON_Delete(sink);
    } else {
        buf_puts(err, "its record names no sink");
    }
    rd_kafka_message_destroy(m);
    arena_wipe(&arena);
    return a;
}

/* The verify.* keys, for a label "s3://bucket/prefix @ endpoint-host". */
static struct account *from_config(struct accounts *accounts, const char *label, struct buf *err) {
    const struct config *cfg = accounts->cfg;
    if (!cfg->verify_access_key_id[0] || strncmp(label, "s3://", 5) != 0) return NULL;
    char bucket[256];
    snprintf(bucket, sizeof bucket, "%.*s", (int)strcspn(label + 5, "/ "), label + 5);
    cJSON *sink = cJSON_CreateObject();
    cJSON_AddStringToObject(sink, "bucket", bucket);
    cJSON_AddStringToObject(sink, "region", cfg->verify_region);
    cJSON_AddStringToObject(sink, "accessKeyId", cfg->verify_access_key_id);
    cJSON_AddStringToObject(sink, "secretAccessKey", cfg->verify_secret_access_key);
    if (cfg->verify_endpoint[0]) {
        cJSON_AddStringToObject(sink, "endpoint", cfg->verify_endpoint);
        cJSON_AddBoolToObject(sink, "forcePathStyle", true);
    }
    buf_clear(err);
    struct account *a = account_new(cfg, sink, err);
    cJSON_Delete(sink);
    return a;
}

static struct account *find(struct accounts *accounts, const char *label) {
    for (size_t i = 0; i < accounts->n; i++)
        if (strcmp(accounts->v[i]->label, label) == 0) return accounts->v[i];
    return NULL;
}

/* Takes the place of the one with that label. When there are too many, those that nobody uses go.
 */
static void keep(struct accounts *accounts, struct account *fresh) {
    bool full = accounts->n == ACCOUNTS_MAX;
    size_t n = 0;
    for (size_t i = 0; i < accounts->n; i++) {
        struct account *a = accounts->v[i];
        if (a->users || (!full && strcmp(a->label, fresh->label) != 0))
            accounts->v[n++] = a;
        else
            forget(a);
    }
    assert(n < ACCOUNTS_MAX); /* far fewer are in use at once */
    accounts->v[n++] = fresh;
    accounts->n = n;
}

/* The account for this label: a remembered one, unless fresh, or that of the record. NULL with a
 * phrase in err. Counted as used until accounts_release(). */
static struct account *accounts_get(struct accounts *accounts, const char *label,
                                    const struct origin *record, bool fresh, struct buf *err) {
    struct account *a = fresh ? NULL : find(accounts, label);
    if (a) {
        a->own = false;
    } else {
        a = from_record(accounts, record, err);
        bool own = a != NULL;
        if (!a) a = from_config(accounts, label, err);
        if (!a) return NULL;
        a->own = own;
        snprintf(a->label, sizeof a->label, "%s", label);
        keep(accounts, a);
    }
    a->users++;
    return a;
}

static void accounts_release(struct account *a) {
    if (a) a->users--;
}

/* ---- objects ---- */

struct objects {
    struct config cfg; /* a copy, with room for whole objects; owns nothing of its own */
    struct http *http;
    struct accounts *accounts;
    struct audit *audit;
    size_t running;
    uint64_t checked, bytes;
};

/* One object to be compared. */
struct check {
    struct objects *owner;
    char topic[TOPIC_MAX + 1]; /* what findings name */
    int32_t partition;
    int64_t offset;
    struct origin record;
    char label[LABEL_MAX], key[KEY_MAX + 1];
    uint8_t sha256[SHA256_LEN];
    uint64_t size;
    struct account *account;
    int attempts;
    bool fresh; /* the account was read from the object's own record */
    struct buf url;
    char region[SIGV4_REGION_MAX + 1]; /* that the request was signed for */
    struct http_request request;
};

struct objects *objects_new(const struct config *cfg, rd_kafka_t *rk, struct audit *a) {
    struct objects *o = xcalloc(1, sizeof *o);
    o->audit = a;
    o->cfg = *cfg;
    o->cfg.http_response_max = cfg->batch_bytes + BEYOND_BATCH;
    http_global_init();
    o->http = http_new(&o->cfg);
    o->accounts = accounts_new(cfg, rk);
    return o;
}

void objects_free(struct objects *o) {
    if (!o) return;
    http_free(o->http);
    accounts_free(o->accounts);
    free(o);
}

void objects_sums(const struct objects *o, uint64_t *ret_checked, uint64_t *ret_bytes) {
    *ret_checked = o->checked;
    *ret_bytes = o->bytes;
}

static void say(const struct check *c, const char *code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void say(const struct check *c, const char *code, const char *fmt, ...) {
    char why[256], key[200], text[700];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    outcome_text(key, sizeof key, str_c(c->key));
    snprintf(text, sizeof text, "object %s in %s: %s", key, c->label, why);
    struct finding f = {.code = code,
                        .topic = c->topic,
                        .partition = c->partition,
                        .offset = c->offset,
                        .text = text};
    audit_report(c->owner->audit, &f);
}

static void compare(struct check *c, const char *p, size_t n, bool cut) {
    uint8_t hash[SHA256_LEN];
    char is[HEX_LEN(SHA256_LEN) + 1], was[HEX_LEN(SHA256_LEN) + 1];
    c->owner->checked++;
    c->owner->bytes += n;
    sha256(p, n, hash);
    hex(hash, sizeof hash, is);
    hex(c->sha256, sizeof hash, was);
    if (cut)
        say(c, "object-differs", "it is larger than %zu bytes, %" PRIu64 " were delivered", n,
            c->size);
    else if (n != c->size)
        say(c, "object-differs", "it has %zu bytes, %" PRIu64 " were delivered", n, c->size);
    else if (memcmp(hash, c->sha256, SHA256_LEN) != 0)
        say(c, "object-differs", "its SHA-256 is %s, %s was delivered", is, was);
}

/* ---- S3 ---- */

static void check_free(struct check *c) {
    if (!c) return;
    accounts_release(c->account);
    http_request_clear(&c->request);
    buf_free(&c->url);
    free(c);
}

/* The signed GET. False when its bounds are passed. */
static bool build(struct check *c) {
    struct s3_config *s3 = c->account->s3;
    struct s3_request r = {.method = "GET", .key = c->key};
    s3_request_begin(&r, s3, (int64_t)time(NULL));
    buf_clear(&c->url);
    memcpy(c->region, s3->region, sizeof c->region);
    return s3_request_end(&r, s3, &c->url, &c->request.headers);
}

static void done(struct http_request *, const struct outcome *);

static bool send_request(struct check *c) {
    http_request_clear(&c->request);
    c->request = (struct http_request){
        .method = "GET", .done = done, .owner = c, .want_headers = {"x-amz-bucket-region"}};
    c->attempts++;
    if (!build(c)) {
        say(c, "unreadable-object", "its address can't be made");
        return false;
    }
    c->request.url = buf_cstr(&c->url);
    http_submit(c->owner->http, &c->request);
    return true;
}

/* False when there are no credentials: reported. */
static bool get_account(struct check *c, bool fresh) {
    struct buf err;
    buf_init(&err, 4096);
    struct account *a = accounts_get(c->owner->accounts, c->label, &c->record, fresh, &err);
    if (a && a->s3->sigv2) {
        buf_puts(&err, "its endpoint knows Signature Version 2 only");
        accounts_release(a);
        a = NULL;
    }
    if (!a) say(c, "unreadable-object", "%s", buf_cstr(&err));
    buf_free(&err);
    if (!a) return false;
    accounts_release(c->account);
    c->account = a;
    c->fresh = fresh || a->own;
    return true;
}

/* Whether the answer asks for another try, and that was made. */
static bool again(struct check *c, const struct outcome *transport) {
    struct s3_error e;
    int status = c->request.status;
    if (c->attempts == ATTEMPTS) return false;
    if (transport->verdict != VERDICT_OK)
        return transport->verdict == VERDICT_RETRY && send_request(c);
    s3_accepted(&c->request, &e); /* it did not: this is what it says */
    if (s3_learn_region(c->account->s3, status, &e, c->request.kept[0], c->region))
        return send_request(c);
    if (status >= 500) return send_request(c);
    /* A remembered account may be another tenant's, or the secret was changed since. */
    if ((status == 403 || status == 401) && !c->fresh)
        return get_account(c, true) && send_request(c);
    return false;
}

static void done(struct http_request *request, const struct outcome *transport) {
    struct check *c = request->owner;
    struct objects *o = c->owner;
    int status = request->status;
    bool answered = transport->verdict == VERDICT_OK;
    /* A body longer than what is kept ends the transfer: that is an answer too. */
    if (answered && status == 200) {
        compare(c, request->answer.p, request->answer.n, request->answer_cut);
    } else if (again(c, transport)) {
        return;
    } else if (answered && status == 404) {
        o->checked++;
        say(c, "missing-object", "it is not there");
    } else if (answered) {
        say(c, "unreadable-object", "the store answers %d", status);
    } else {
        say(c, "unreadable-object", "%s %s", transport->why, transport->detail);
    }
    o->running--;
    check_free(c);
}

/* ---- files ---- */

/* A label shows the folder of sink.override whole, unless that is too long for a label. */
static bool is_label_of(const char *label, const char *dir) {
    size_t n = strlen(label);
    return n == LABEL_MAX - 1 ? strncmp(label + 7, dir, n - 7) == 0 : strcmp(label + 7, dir) == 0;
}

static void check_file(struct check *c) {
    const struct config *cfg = &c->owner->cfg;
    bool override = cfg->override_dir && is_label_of(c->label, cfg->override_dir);
    const char *root = override ? cfg->override_dir : cfg->file_root;
    if (!*root || path_climbs(c->key)) {
        say(c, "unreadable-object", *root ? "its key leads elsewhere" : "file.root is not set");
        return;
    }
    struct buf path, body;
    buf_init(&path, 8192);
    buf_init(&body, (size_t)cfg->http_response_max);
    buf_printf(&path, "%s/%s", root, c->key);
    bool read = buf_file(&body, buf_cstr(&path));
    if (read || errno == EFBIG) {
        compare(c, body.p ? body.p : "", body.n, !read);
    } else if (errno == ENOENT || errno == ENOTDIR) {
        c->owner->checked++;
        say(c, "missing-object", "%s", strerror(errno));
    } else {
        say(c, "unreadable-object", "%s", strerror(errno));
    }
    buf_free(&body);
    buf_free(&path);
}

/* ---- */

static struct origin record_of(const struct ledger_entry *e, const struct ledger_group *g) {
    struct origin at = {.partition = e->partition, .offset = g->offsets[0].a};
    struct str topic = e->topic;
    if (g->n_origins) {
        topic = g->origins[0].topic;
        at.partition = g->origins[0].partition;
        at.offset = g->origins[0].range.a;
    }
    snprintf(at.topic, sizeof at.topic, "%.*s", (int)topic.n, topic.p);
    return at;
}

static void run(struct objects *o, size_t until) {
    while (o->running > until) {
        http_wait(o->http, WAIT_MS);
        http_run(o->http);
    }
}

void objects_add(struct objects *o, const struct ledger_entry *e, const struct ledger_group *g) {
    if (!g->object) return;
    struct check *c = xcalloc(1, sizeof *c);
    c->owner = o;
    c->partition = e->partition;
    c->offset = g->offsets[0].a;
    c->record = record_of(e, g);
    c->size = g->size;
    buf_init(&c->url, 65536);
    memcpy(c->sha256, g->sha256, SHA256_LEN);
    snprintf(c->topic, sizeof c->topic, "%.*s", (int)e->topic.n, e->topic.p);
    snprintf(c->label, sizeof c->label, "%.*s", (int)g->to.n, g->to.p);
    snprintf(c->key, sizeof c->key, "%.*s", (int)g->key.n, g->key.p);
    bool s3 = str_starts(g->to, "s3://"), file = str_starts(g->to, "file://");
    if (!g->hashed || g->key.n > KEY_MAX)
        say(c, "unreadable-object", "its entry has no hash, or a key that no store takes");
    else if (file)
        check_file(c);
    else if (!s3)
        say(c, "unreadable-object", "this kind of destination can't be read");
    if (g->hashed && g->key.n <= KEY_MAX && s3) {
        run(o, AT_ONCE - 1);
        if (get_account(c, false) && send_request(c)) {
            o->running++;
            return;
        }
    }
    check_free(c);
}

void objects_finish(struct objects *o) {
    run(o, 0);
}
