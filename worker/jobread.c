#include "worker/jobread.h"

#include "worker/redact.h"

struct member;
typedef void read_fn(struct reading *, struct fields *, const struct member *);

/* A member that matters of one kind of object, by its spelling. */
struct member {
    const char *name;
    read_fn *read;
    enum field field;
    bool snake;
    const char *path; /* for messages about secrets */
};

/* Members by the length of their names: a key is compared with one or two candidates at most. */
#define SAME_LENGTH 5
struct members {
    const struct member (*by_length)[SAME_LENGTH];
    size_t lengths;
};
#define MEMBERS(table)                                                                             \
    { table, sizeof(table) / sizeof(table)[0] }

static void fail(struct reading *r, const char *why, const char *field, const char *what) {
    if (!r->failed)
        r->failure = outcome_fail(VERDICT_PERMANENT, FAULT_DATA, why, "%s %s", field, what);
    r->failed = true;
    json_stop(&r->j, "refused");
}

static const struct member *find(const struct members *table, const struct json_value *key) {
    char text[32];
    struct str name = key->raw;
    if (key->escaped) { /* "\u0073ink" is "sink" */
        if (name.n > 6 * sizeof text) return NULL;
        char wide[6 * sizeof text];
        if (!json_unescape(name, wide, &name.n) || name.n > sizeof text) return NULL;
        memcpy(text, wide, name.n);
        name.p = text;
    }
    if (name.n >= table->lengths) return NULL;
    const struct member *m = table->by_length[name.n];
    for (size_t i = 0; i < SAME_LENGTH && m[i].name; i++)
        if (*m[i].name == *name.p && memcmp(m[i].name, name.p, name.n) == 0) return &m[i];
    return NULL;
}

/* Reads a value; when it is an object, each member that the table lists is handed to its reader and
 * all others are validated and passed over. */
static struct json_value read_members(struct reading *r, struct fields *f,
                                      const struct members *table) {
    struct json_value object = {0};
    struct json_value key;
    if (!json_open(&r->j, &object)) return object;
    while (json_key(&r->j, &key)) {
        const struct member *m = find(table, &key);
        if (m)
            m->read(r, f, m);
        else
            json_value(&r->j, &key);
    }
    json_close(&r->j, &object);
    return object;
}

static void keep(struct fields *f, const struct member *m, const struct json_value *v) {
    struct json_value *slot = &f->v[m->field];
    uint32_t bit = 1u << m->field;
    if (slot->kind == JSON_ABSENT) {
        *slot = *v;
        if (m->snake) f->snake |= bit;
    } else if (!json_same(slot, v)) {
        if (m->snake == ((f->snake & bit) != 0))
            f->duplicate |= bit;
        else
            f->conflict |= bit;
    }
}

static void read_field(struct reading *r, struct fields *f, const struct member *m) {
    struct json_value v = {0};
    json_value(&r->j, &v);
    keep(f, m, &v);
}

static void add_edit(struct reading *r, const char *p, size_t n) {
    if (n == 0) return;
    if (r->n_edits == r->cap_edits) {
        struct edit *more = arena_alloc(r->arena, 2 * r->cap_edits * sizeof *more);
        memcpy(more, r->edits, r->n_edits * sizeof *more);
        r->edits = more;
        r->cap_edits *= 2;
    }
    r->edits[r->n_edits++] = (struct edit){(size_t)(p - r->j.start), n};
}

/* The edits of a URL that stands with escapes: its secrets are found in the resolved text and each
 * one's place is looked up by walking both together. */
static void add_escaped_url(struct reading *r, struct str raw) {
    char *text = arena_alloc(r->arena, raw.n + 1);
    size_t n = 0;
    if (!json_unescape(raw, text, &n)) {
        add_edit(r, raw.p, raw.n);
        return;
    }
    struct url_secrets s;
    struct edit e;
    const char *p = raw.p;
    size_t at = 0;
    char one[4];
    url_secrets_begin(&s, (struct str){text, n});
    while (url_secrets_next(&s, &e)) {
        while (at < e.at) at += json_char(&p, raw.p + raw.n, one);
        const char *from = p;
        while (at < e.at + e.n) at += json_char(&p, raw.p + raw.n, one);
        add_edit(r, from, (size_t)(p - from));
    }
}

static void add_url(struct reading *r, const struct json_value *v) {
    if (v->escaped) {
        add_escaped_url(r, v->raw);
        return;
    }
    struct url_secrets s;
    struct edit e;
    url_secrets_begin(&s, v->raw);
    while (url_secrets_next(&s, &e)) add_edit(r, v->raw.p + e.at, e.n);
}

/* A secret has to be a string: nothing else can be replaced by one inside its quotes. */
static bool read_string(struct reading *r, const struct member *m, struct json_value *ret) {
    if (!json_value(&r->j, ret)) return false;
    if (ret->kind == JSON_STRING) return true;
    if (ret->kind != JSON_NULL) fail(r, "wrong-type", m->path, "must be a string");
    return false;
}

static void read_secret(struct reading *r, struct fields *f, const struct member *m) {
    struct json_value v = {0};
    (void)f;
    if (read_string(r, m, &v)) add_edit(r, v.raw.p, v.raw.n);
}

static void read_url(struct reading *r, struct fields *f, const struct member *m) {
    struct json_value v = {0};
    (void)f;
    if (read_string(r, m, &v)) add_url(r, &v);
}

/* content-type and accept, in any case: the two headers whose values are no secrets. */
static bool open_header(const struct json_value *key) {
    char text[6 * sizeof "content-type"];
    size_t n = 0;
    if (key->raw.n > sizeof text || !json_unescape(key->raw, text, &n)) return false;
    for (size_t i = 0; i < n; i++)
        if (text[i] >= 'A' && text[i] <= 'Z') text[i] = (char)(text[i] - 'A' + 'a');
    struct str name = {text, n};
    return str_is(name, "content-type") || str_is(name, "accept");
}

static void read_headers(struct reading *r, struct fields *f, const struct member *m) {
    struct json_value headers = {0};
    struct json_value key;
    struct json_value v = {0};
    (void)f;
    if (!json_open(&r->j, &headers)) {
        if (headers.kind != JSON_NULL && headers.kind != JSON_ABSENT)
            fail(r, "wrong-type", m->path, "must be an object");
        return;
    }
    while (json_key(&r->j, &key) && json_value(&r->j, &v)) {
        if (v.kind != JSON_STRING)
            fail(r, "wrong-type", m->path, "must hold strings and nothing else");
        else if (!open_header(&key))
            add_edit(r, v.raw.p, v.raw.n);
    }
}

static const struct member sink_members[][SAME_LENGTH] = {
    [3] = {{"url", read_url, .path = "sink.url"}},
    [7] = {{"headers", read_headers, .path = "sink.headers"}},
    [8] = {{"endpoint", read_url, .path = "sink.endpoint"}},
    [11] = {{"accessKeyId", read_secret, .path = "sink.accessKeyId"}},
    [12] = {{"sessionToken", read_secret, .path = "sink.sessionToken"}},
    [13] = {{"access_key_id", read_secret, .path = "sink.access_key_id"},
            {"session_token", read_secret, .path = "sink.session_token"}},
    [15] = {{"secretAccessKey", read_secret, .path = "sink.secretAccessKey"}},
    [17] = {{"secret_access_key", read_secret, .path = "sink.secret_access_key"}},
};
static const struct members sink_table = MEMBERS(sink_members);

/* The sink object that comes next, when it is known, without reading it. */
static bool pass_sink(struct reading *r, struct json_value *ret) {
    r->known = NULL;
    if (json_peek(&r->j) != JSON_OBJECT) return false;
    r->sink_at = r->j.at;
    r->sink_depth = r->j.depth;
    if (!r->known_sinks) return false;
    struct str rest = {r->j.at, (size_t)(r->j.end - r->j.at)};
    const struct known_sink *k = r->known_sinks->find(r->known_sinks->ctx, rest, r->j.depth);
    if (!k) return false;
    for (size_t i = 0; i < k->n_edits; i++) add_edit(r, rest.p + k->edits[i].at, k->edits[i].n);
    json_pass(&r->j, JSON_OBJECT, k->json.n, ret);
    r->known = k;
    return true;
}

static void read_sink(struct reading *r, struct fields *f, const struct member *m) {
    struct json_value v;
    if (pass_sink(r, &v)) {
        keep(f, m, &v);
        return;
    }
    r->j.odd_escape = false;
    v = read_members(r, f, &sink_table);
    /* cJSON, which the sinks read this with, ends a string at U+0000: two readings of one key. */
    if (r->j.odd_escape) fail(r, "bad-value", "sink", "holds U+0000 or an unpaired surrogate");
    keep(f, m, &v);
}

static const struct member proxy_members[][SAME_LENGTH] = {
    [3] = {{"url", read_url, .path = "proxy.url"}},
};
static const struct members proxy_table = MEMBERS(proxy_members);

static void read_proxy(struct reading *r, struct fields *f, const struct member *m) {
    struct json_value v = read_members(r, f, &proxy_table);
    if (v.kind == JSON_STRING)
        add_url(r, &v);
    else if (v.kind == JSON_BOOL || v.kind == JSON_NUMBER || v.kind == JSON_ARRAY)
        fail(r, "wrong-type", m->path, "must be an object or a string");
}

static const struct member snapshot_members[][SAME_LENGTH] = {
    [4] = {{"sink", read_sink, F_SINK}},
    [5] = {{"proxy", read_proxy, .path = "proxy"}},
};
static const struct members snapshot_table = MEMBERS(snapshot_members);

static void read_snapshot(struct reading *r, struct fields *f, const struct member *m) {
    struct json_value v = read_members(r, f, &snapshot_table);
    keep(f, m, &v);
}

static const struct member results_members[][SAME_LENGTH] = {
    [9] = {{"signedUrl", read_url, .path = "results.signedUrl"}},
    [10] = {{"signed_url", read_url, .path = "results.signed_url"}},
};
static const struct members results_table = MEMBERS(results_members);

/* One result, or a list of them. */
static void read_results(struct reading *r, struct fields *f, const struct member *m) {
    struct json_value v;
    if (json_peek(&r->j) != JSON_ARRAY) {
        read_members(r, f, &results_table);
        return;
    }
    if (!json_open_array(&r->j, &v)) return;
    while (json_item(&r->j)) read_results(r, f, m);
}

static const struct member error_members[][SAME_LENGTH] = {
    [4] = {{"code", read_field, F_ERROR_CODE}}};
static const struct members error_table = MEMBERS(error_members);

static void read_error(struct reading *r, struct fields *f, const struct member *m) {
    struct json_value v = read_members(r, f, &error_table);
    keep(f, m, &v);
}

static const struct member reason_members[][SAME_LENGTH] = {
    [4] = {{"type", read_field, F_REASON_TYPE}},
};
static const struct members reason_table = MEMBERS(reason_members);

static void read_reason(struct reading *r, struct fields *f, const struct member *m) {
    struct json_value v = read_members(r, f, &reason_table);
    keep(f, m, &v);
}

static const struct member api_members[][SAME_LENGTH] = {[4] = {{"name", read_field, F_API_NAME}}};
static const struct members api_table = MEMBERS(api_members);

static void read_api_info(struct reading *r, struct fields *f, const struct member *m) {
    struct json_value v = read_members(r, f, &api_table);
    keep(f, m, &v);
}

/* jobRun and data are the run's wrappers; in any other place they are unknown members. */
static const struct members run_table;

static void read_job_run(struct reading *r, struct fields *f, const struct member *m) {
    struct json_value v = {0};
    if (f->place == PLACE_BODY)
        v = read_members(r, &r->fields[PLACE_WRAPPED], &run_table);
    else
        json_value(&r->j, &v);
    keep(f, m, &v);
}

static void read_data(struct reading *r, struct fields *f, const struct member *m) {
    struct json_value v = {0};
    if (f->place == PLACE_CLOUDEVENT)
        v = read_members(r, &r->fields[PLACE_BODY], &run_table);
    else
        json_value(&r->j, &v);
    keep(f, m, &v);
}

static const struct member run_members[][SAME_LENGTH] = {
    [2] = {{"id", read_field, F_ID}},
    [4] = {{"type", read_field, F_TYPE}, {"data", read_data, F_DATA}},
    [5] = {{"jobId", read_field, F_JOB_ID},
           {"error", read_error, F_ERROR},
           {"proxy", read_proxy, .path = "proxy"}},
    [6] = {{"status", read_field, F_STATUS},
           {"reason", read_reason, F_REASON},
           {"job_id", read_field, F_JOB_ID, true},
           {"jobRun", read_job_run, F_JOB_RUN}},
    [7] = {{"endTime", read_field, F_END_TIME},
           {"apiInfo", read_api_info, F_API_INFO},
           {"job_run", read_job_run, F_JOB_RUN, true},
           {"results", read_results}},
    [8] = {{"payloads", read_field, F_PAYLOADS},
           {"end_time", read_field, F_END_TIME, true},
           {"api_info", read_api_info, F_API_INFO, true}},
    [9] = {{"startTime", read_field, F_START_TIME},
           {"createdAt", read_field, F_CREATED_AT},
           {"updatedAt", read_field, F_UPDATED_AT},
           {"projectId", read_field, F_PROJECT_ID}},
    [10] = {{"start_time", read_field, F_START_TIME, true},
            {"created_at", read_field, F_CREATED_AT, true},
            {"updated_at", read_field, F_UPDATED_AT, true},
            {"failedRuns", read_field, F_FAILED_RUNS},
            {"project_id", read_field, F_PROJECT_ID, true}},
    [11] = {{"workspaceId", read_field, F_WORKSPACE_ID},
            {"failed_runs", read_field, F_FAILED_RUNS, true},
            {"data_base64", read_field, F_DATA_BASE64}},
    [12] = {{"workspace_id", read_field, F_WORKSPACE_ID, true}},
    [14] = {{"successfulRuns", read_field, F_SUCCESSFUL_RUNS}},
    [15] = {{"successful_runs", read_field, F_SUCCESSFUL_RUNS, true}},
    [24] = {{"jobConfigurationSnapshot", read_snapshot, F_SNAPSHOT}},
    [26] = {{"job_configuration_snapshot", read_snapshot, F_SNAPSHOT, true}},
};
static const struct members run_table = MEMBERS(run_members);

bool job_read(struct reading *r, struct str document, bool structured,
              const struct known_sinks *known, struct arena *arena, struct json_value *ret_root) {
    memset(r->fields, 0, sizeof r->fields);
    for (int i = 0; i < PLACES; i++) r->fields[i].place = (enum place)i;
    r->arena = arena;
    r->known_sinks = known;
    r->known = NULL;
    r->sink_at = NULL;
    r->edits = r->few;
    r->n_edits = 0;
    r->cap_edits = sizeof r->few / sizeof r->few[0];
    r->failed = false;
    json_begin(&r->j, document);
    struct json_value root =
        read_members(r, &r->fields[structured ? PLACE_CLOUDEVENT : PLACE_BODY], &run_table);
    if (!json_end(&r->j)) return false;
    *ret_root = root;
    return true;
}
