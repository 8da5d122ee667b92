#include "worker/event/jobrun.h"

#include <stdarg.h>
#include <stdio.h>

#include "config/config.h"
#include "worker/base/hash.h"
#include "worker/base/rfc3339.h"
#include "worker/event/envelope.h"
#include "worker/event/jobread.h"

#define FIELD_MAX 1024 /* bytes of one of the run's own text fields */
#define RUN_FIELDS                                                                                 \
    (UINT32_MAX << F_SNAPSHOT) /* the wrappers' names mean nothing inside the run                  \
                                */

enum want { ANY, TEXT, TIME, TIME_OR_NULL, COUNT_OR_NULL, OBJECT, OBJECT_OR_NULL, TEXT_OR_NULL };

/* The model: each field's name for people, what its value has to be, whether it must be there. */
static const struct rule {
    const char *name;
    enum want want;
    bool required;
} rules[FIELDS] = {
    [F_DATA] = {"data", ANY, false},
    [F_DATA_BASE64] = {"data_base64", ANY, false},
    [F_JOB_RUN] = {"jobRun", ANY, false},
    [F_SNAPSHOT] = {"jobConfigurationSnapshot", OBJECT, true},
    [F_SINK] = {"sink", OBJECT_OR_NULL, false},
    [F_ID] = {"id", TEXT, true},
    [F_WORKSPACE_ID] = {"workspaceId", TEXT, true},
    [F_PROJECT_ID] = {"projectId", TEXT, true},
    [F_JOB_ID] = {"jobId", TEXT, true},
    [F_CREATED_AT] = {"createdAt", TIME, true},
    [F_UPDATED_AT] = {"updatedAt", TIME, true},
    [F_START_TIME] = {"startTime", TIME, true},
    [F_END_TIME] = {"endTime", TIME_OR_NULL, false},
    [F_TYPE] = {"type", TEXT, true},
    [F_STATUS] = {"status", TEXT, true},
    [F_PAYLOADS] = {"payloads", COUNT_OR_NULL, true},
    [F_SUCCESSFUL_RUNS] = {"successfulRuns", COUNT_OR_NULL, true},
    [F_FAILED_RUNS] = {"failedRuns", COUNT_OR_NULL, true},
    [F_ERROR] = {"error", OBJECT_OR_NULL, false},
    [F_ERROR_CODE] = {"error.code", ANY, false},
    [F_REASON] = {"reason", OBJECT_OR_NULL, false},
    [F_REASON_TYPE] = {"reason.type", ANY, false},
    [F_API_INFO] = {"apiInfo", OBJECT_OR_NULL, false},
    [F_API_NAME] = {"apiInfo.name", TEXT_OR_NULL, false},
};

/* What a decoding needs along the way. */
struct decoding {
    struct arena *arena;
    const struct fields *run;
    struct outcome *reterr;
};

__attribute__((format(printf, 3, 4))) static bool refuse(struct outcome *reterr, const char *why,
                                                         const char *fmt, ...) {
    char line[sizeof reterr->detail];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    *reterr = outcome_fail(VERDICT_PERMANENT, FAULT_DATA, why, "%s", line);
    return false;
}

/* JSON lets no control character but DEL stand in a string as it is. */
static bool printable(struct str s, bool escaped) {
    if (!escaped && s.n >= 8) { /* eight at a time, the last ones once more */
        uint64_t del = 0, v;
        for (size_t i = 0; i < s.n; i += 8) {
            memcpy(&v, s.p + (i + 8 <= s.n ? i : s.n - 8), sizeof v);
            v ^= UINT64_C(0x7f7f7f7f7f7f7f7f);
            del |= (v - UINT64_C(0x0101010101010101)) & ~v & UINT64_C(0x8080808080808080);
        }
        return !del;
    }
    if (!escaped) return !memchr(s.p, 0x7f, s.n);
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] < 0x20 || s.p[i] == 0x7f) return false;
    return true;
}

/* The schema says string. Most producers write RFC 3339, one wrote what Postgres prints. */
static bool is_time(enum field field) {
    return rules[field].want == TIME || rules[field].want == TIME_OR_NULL;
}

/* Reads a text field of the run, checked by its rule. Field values end up in object keys and HTTP
 * headers, so control characters have no place in them. */
static bool text(const struct decoding *d, enum field field, struct str *ret) {
    const struct json_value *v = &d->run->v[field];
    const char *name = rules[field].name;
    struct str s;
    if (v->kind != JSON_STRING) return refuse(d->reterr, "wrong-type", "%s must be a string", name);
    if (!json_resolve(v, d->arena, &s))
        return refuse(d->reterr, "bad-value", "%s holds an unpaired surrogate", name);
    if (s.n == 0 && !is_time(field))
        return refuse(d->reterr, "bad-value", "%s must not be empty", name);
    if (s.n > FIELD_MAX)
        return refuse(d->reterr, "bad-value", "%s is longer than %d bytes", name, FIELD_MAX);
    if (!printable(s, v->escaped))
        return refuse(d->reterr, "bad-value", "%s holds a control character", name);
    *ret = s;
    return true;
}

/* Any number from zero up, however large: -0 is zero. */
static bool count(const struct json_value *v) {
    if (v->kind != JSON_NUMBER) return false;
    if (v->raw.p[0] != '-') return true;
    for (size_t i = 1; i < v->raw.n && v->raw.p[i] != 'e' && v->raw.p[i] != 'E'; i++)
        if (v->raw.p[i] >= '1' && v->raw.p[i] <= '9') return false;
    return true;
}

static bool follows(const struct decoding *d, enum field field, struct str *ret) {
    const struct json_value *v = &d->run->v[field];
    const struct rule *rule = &rules[field];
    bool empty = v->kind == JSON_ABSENT || v->kind == JSON_NULL;
    if (rule->required && v->kind == JSON_ABSENT)
        return refuse(d->reterr, "missing-field", "%s is missing", rule->name);
    switch (rule->want) {
    case ANY:
        return true;
    case TEXT:
        return text(d, field, ret);
    case TEXT_OR_NULL:
        return empty || text(d, field, ret);
    case TIME:
        return text(d, field, ret);
    case TIME_OR_NULL:
        return empty || text(d, field, ret);
    case COUNT_OR_NULL:
        return v->kind == JSON_NULL || count(v) ||
               refuse(d->reterr, v->kind == JSON_NUMBER ? "bad-value" : "wrong-type",
                      "%s must be null or a number, zero or more", rule->name);
    case OBJECT:
        return v->kind == JSON_OBJECT ||
               refuse(d->reterr, "wrong-type", "%s must be an object", rule->name);
    case OBJECT_OR_NULL:
        return empty || v->kind == JSON_OBJECT ||
               refuse(d->reterr, "wrong-type", "%s must be an object or null", rule->name);
    }
    return true;
}

/* Values that the model lists today; the API will grow. */
#define WORD(literal)                                                                              \
    { literal, sizeof(literal) - 1 }
static const struct str types[] = {WORD("MANUAL"), WORD("SCHEDULED"), {NULL, 0}};
static const struct str statuses[] = {
#define STATUS(name) WORD(name),
#include "worker/base/statuses.def"
    {NULL, 0}};
static const struct str error_codes[] = {
    WORD("internal-server-error"), WORD("insufficient-resource-credits"), {NULL, 0}};
static const struct str reason_types[] = {WORD("terminated"),
                                          WORD("user-request"),
                                          WORD("auth-session-not-found"),
                                          WORD("auth-session-invalid-mid-job"),
                                          WORD("auth-session-validate-dependency-failed"),
                                          WORD("auth-session-locked"),
                                          WORD("another-job-run-active"),
                                          WORD("insufficient-resource-credits"),
                                          WORD("s3-sink-error"),
                                          {NULL, 0}};

static bool unknown(const struct json_value *v, const struct str *known) {
    if (v->kind == JSON_ABSENT || v->kind == JSON_NULL) return false;
    for (; known->p; known++) {
        const struct json_value k = {JSON_STRING, false, *known};
        if (v->escaped ? json_same(v, &k) : v->kind == JSON_STRING && str_eq(v->raw, *known))
            return false;
    }
    return true;
}

static bool agree(const struct fields *f, uint32_t which, struct outcome *reterr) {
    for (int i = 0; i < FIELDS; i++) {
        uint32_t bit = which & 1u << i;
        if (f->conflict & bit)
            return refuse(reterr, "spelling-conflict",
                          "%s stands in both spellings, with different values", rules[i].name);
        if (f->duplicate & bit)
            return refuse(reterr, "duplicate-field", "%s stands twice, with different values",
                          rules[i].name);
    }
    return true;
}

/* The document was read to its end or refused on the way: says why. */
static bool readable(const struct envelope *e, const struct reading *r,
                     const struct json_value *root, struct outcome *reterr) {
    if (r->failed) {
        *reterr = r->failure;
        return false;
    }
    const char *err = r->j.err;
    if (!err && root->kind != JSON_OBJECT) err = "the value is not a JSON object";
    if (!err) return true;
    size_t at = (size_t)(r->j.at - r->j.start);
    if (r->j.too_deep)
        return refuse(reterr, "too-deep", "nested deeper than %d levels, at byte %zu",
                      JSON_DEPTH_MAX, at);
    if (e->confluent)
        return refuse(
            reterr, "confluent-not-json",
            "what follows the schema registry prefix is not a JSON event: %s, at byte %zu "
            "(Avro and Protobuf are not supported)",
            err, at);
    if (!r->j.err) return refuse(reterr, "not-an-object", "%s", err);
    return refuse(reterr, "invalid-json", "%s, at byte %zu", err, at);
}

/* Which object of the document is the run. NULL with reterr when that is in doubt. */
static const struct fields *find_run(const struct envelope *e, const struct reading *r,
                                     enum framing *framing, struct outcome *reterr) {
    const struct fields *event = &r->fields[PLACE_CLOUDEVENT];
    const struct fields *body = &r->fields[PLACE_BODY];
    if (e->structured) {
        if (!agree(event, 1u << F_DATA | 1u << F_ID, reterr)) return NULL;
        if (event->v[F_DATA_BASE64].kind != JSON_ABSENT) {
            refuse(reterr, "data-base64", "the CloudEvent has data_base64; only data is supported");
            return NULL;
        }
        if (event->v[F_DATA].kind == JSON_ABSENT) {
            refuse(reterr, "missing-field", "the CloudEvent's data is missing");
            return NULL;
        }
        if (event->v[F_DATA].kind != JSON_OBJECT) {
            refuse(reterr, "wrong-type", "the CloudEvent's data must be an object");
            return NULL;
        }
    }
    if (!agree(body, 1u << F_JOB_RUN, reterr)) return NULL;
    bool wrapped = body->v[F_JOB_RUN].kind == JSON_OBJECT;
    const struct fields *run = wrapped ? &r->fields[PLACE_WRAPPED] : body;
    for (const struct fields *f = event; f <= body; f++) {
        if (f == run || f->v[F_SNAPSHOT].kind == JSON_ABSENT) continue;
        refuse(reterr, "ambiguous-run",
               "jobConfigurationSnapshot stands outside of the run too: which sink is meant?");
        return NULL;
    }
    if (wrapped && *framing == FRAMING_BARE) *framing = FRAMING_WRAPPED;
    return run;
}

static struct str event_id(const struct envelope *e, const struct reading *r) {
    const struct json_value *v = &r->fields[PLACE_CLOUDEVENT].v[F_ID];
    struct str id = {0};
    if (e->ce_id.n > 0) return e->ce_id;
    if (e->structured && v->kind == JSON_STRING && json_resolve(v, r->arena, &id) &&
        event_id_ok(id))
        return id;
    return e->id;
}

/* Checks every field by its rule and fills in those that struct jobrun has. */
static bool fill(const struct decoding *d, struct jobrun *run) {
    struct str rest, end_time = STR("");
    struct str *const to[FIELDS] = {
        [F_ID] = &run->id,
        [F_WORKSPACE_ID] = &run->workspace_id,
        [F_PROJECT_ID] = &run->project_id,
        [F_JOB_ID] = &run->job_id,
        [F_CREATED_AT] = &run->created_at,
        [F_UPDATED_AT] = &run->updated_at,
        [F_START_TIME] = &run->start_time,
        [F_END_TIME] = &end_time,
        [F_TYPE] = &run->type,
        [F_STATUS] = &run->status,
        [F_API_NAME] = &run->api_name,
    };
    for (int i = 0; i < FIELDS; i++)
        if (!follows(d, (enum field)i, to[i] ? to[i] : &rest)) return false;
    const struct json_value *v = d->run->v;
    if (v[F_SINK].kind == JSON_OBJECT) run->sink = v[F_SINK].raw;
    run->unknown_value = unknown(&v[F_TYPE], types) || unknown(&v[F_STATUS], statuses) ||
                         unknown(&v[F_ERROR_CODE], error_codes) ||
                         unknown(&v[F_REASON_TYPE], reason_types) || !rfc3339_ok(run->created_at) ||
                         !rfc3339_ok(run->updated_at) || !rfc3339_ok(run->start_time) ||
                         (v[F_END_TIME].kind == JSON_STRING && !rfc3339_ok(end_time));
    return true;
}

/* The edits where they outlive the reading. */
static const struct edit *lasting(const struct reading *r) {
    if (r->n_edits == 0) return NULL;
    if (r->edits != r->few) return r->edits;
    struct edit *edits = arena_alloc(r->arena, r->n_edits * sizeof *edits);
    return memcpy(edits, r->few, r->n_edits * sizeof *edits);
}

bool jobrun_decode(const struct message *rec, struct arena *arena, struct jobrun *ret,
                   struct outcome *reterr) {
    char text[] = NAMES_DEFAULT, *v[32], *rest = text;
    struct list list = {v, 0};
    while (list.n < sizeof v / sizeof *v && (v[list.n] = strsep(&rest, ","))) list.n++;
    const struct known_sinks none = {.names = job_names(&list)};
    bool ok = jobrun_decode_known(rec, &none, arena, ret, reterr);
    names_free(none.names);
    return ok;
}

/* Whether a text of the document holds a secret: an edit lies in it, or it is one that is too short
 * to be looked for everywhere. */
static bool holds_secret(const struct reading *r, const struct json_value *v) {
    size_t at = (size_t)(v->raw.p - r->j.start);
    for (size_t k = 0; k < r->n_edits; k++)
        if (r->edits[k].at < at + v->raw.n && at < r->edits[k].at + r->edits[k].n) return true;
    for (size_t k = 0; k < r->values.n && r->values.n_short; k++) {
        const struct echo *e = &r->values.v[k];
        struct json_value value = {JSON_STRING, false, {e->p, e->n}};
        if (e->n < ECHO_MIN && !e->unfit && json_same(v, &value)) return true;
    }
    return false;
}

/* Which of the run's texts do. */
static unsigned hidden(const struct reading *r, const struct fields *run) {
    static const enum field fields[] = {
        [RUN_ID] = F_ID,
        [RUN_WORKSPACE_ID] = F_WORKSPACE_ID,
        [RUN_PROJECT_ID] = F_PROJECT_ID,
        [RUN_JOB_ID] = F_JOB_ID,
        [RUN_UPDATED_AT] = F_UPDATED_AT,
        [RUN_STATUS] = F_STATUS,
    };
    unsigned ret = 0;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        ret |= (unsigned)holds_secret(r, &run->v[fields[i]]) << i;
    return ret;
}

bool jobrun_decode_known(const struct message *rec, const struct known_sinks *known,
                         struct arena *arena, struct jobrun *ret, struct outcome *reterr) {
    struct envelope e;
    struct reading r;
    struct json_value root = {0};
    if (!envelope_open(rec, arena, &e, reterr)) return false;
    job_read(&r, e.document, e.structured, known, arena, &root);
    if (!readable(&e, &r, &root, reterr)) return false;
    struct jobrun run = {.framing = e.framing, .payload.json = e.document};
    struct decoding d = {arena, find_run(&e, &r, &run.framing, reterr), reterr};
    if (!d.run || !agree(d.run, RUN_FIELDS, reterr) || !fill(&d, &run)) return false;
    run.event_id = event_id(&e, &r);
    run.payload.edits = lasting(&r);
    run.payload.n_edits = r.n_edits;
    run.payload.one_line = !r.j.breaks;
    run.payload.lone_surrogate = r.j.lone_surrogate;
    if (run.sink.p && run.sink.p == r.sink_at) { /* a document may hold others, without a meaning */
        run.facts = r.facts;
        run.known = r.known;
    }
    if (r.hides_text || r.values.n_short) run.hidden = hidden(&r, d.run);
    *ret = run;
    return true;
}

bool jobrun_sink_facts(struct str sink, struct names *names, struct arena *arena,
                       struct known_sink *ret) {
    static const char before[] = "{\"jobConfigurationSnapshot\":{\"sink\":", after[] = "}}";
    const struct known_sinks none = {.names = names};
    struct json_value root;
    struct reading r;
    size_t n = sizeof before - 1;
    char *text = arena_alloc(arena, n + sink.n + sizeof after);
    memcpy(text, before, n);
    memcpy(text + n, sink.p, sink.n);
    memcpy(text + n + sink.n, after, sizeof after);
    struct str document = {text, n + sink.n + sizeof after - 1};
    if (!job_read(&r, document, false, &none, arena, &root) || r.sink_at != text + n) return false;
    *ret = r.facts;
    return !r.failed;
}

/* ---- whose it is ---- */

/* The end of the string whose opening quote stands before at, its closing quote; NULL: it has none.
 */
static const char *string_end(const char *at, const char *end) {
    for (; at < end; at++) {
        if (*at == '"') return at;
        if (*at == '\\' && ++at == end) break;
    }
    return NULL;
}

static const char *past_space(const char *at, const char *end) {
    while (at < end && (*at == ' ' || *at == '\t' || *at == '\n' || *at == '\r')) at++;
    return at;
}

/* The string that is the value of the member whose name ends at close; empty: it is no member, or
 * no string. */
static struct str member_text(const char *close, const char *end) {
    const char *at = past_space(close + 1, end);
    if (at == end || *at != ':') return (struct str){0};
    at = past_space(at + 1, end);
    if (at == end || *at != '"') return (struct str){0};
    const char *last = string_end(++at, end);
    return last ? (struct str){at, (size_t)(last - at)} : (struct str){0};
}

/* *ret_cut: the text ends inside a string. */
static struct str find_whose(struct str document, bool *ret_cut) {
    const char *end = document.p + document.n;
    struct str found = {0};
    int64_t depth = 0, found_at = INT64_MAX;
    *ret_cut = false;
    for (const char *at = document.p; at < end; at++) {
        depth += (*at == '{' || *at == '[') - (*at == '}' || *at == ']');
        if (*at != '"') continue;
        const char *close = string_end(++at, end);
        *ret_cut = !close;
        if (!close) break;
        struct str name = {at, (size_t)(close - at)};
        at = close;
        if (depth >= found_at || (!str_is(name, "workspaceId") && !str_is(name, "workspace_id")))
            continue;
        struct str text = member_text(close, end);
        if (!text.n) continue;
        found = text;
        found_at = depth;
    }
    return found;
}

struct str jobrun_whose(const struct message *rec, struct arena *arena) {
    struct envelope e;
    struct outcome unused;
    bool cut;
    return envelope_open(rec, arena, &e, &unused) ? find_whose(e.document, &cut) : STR("");
}

struct str jobrun_whose_shown(const struct message *rec, const struct known_sinks *known,
                              struct arena *arena, bool *ret_hidden) {
    struct envelope e;
    struct outcome unused;
    struct reading r;
    struct json_value root;
    bool cut;
    *ret_hidden = false;
    if (!envelope_open(rec, arena, &e, &unused)) return STR("");
    struct str id = find_whose(e.document, &cut);
    struct json_value v = {JSON_STRING, id.n && memchr(id.p, '\\', id.n), id};
    if (!id.n) return id;
    if (job_read(&r, e.document, e.structured, known, arena, &root) && !r.failed)
        *ret_hidden = holds_secret(&r, &v);
    else /* nothing was looked for in the texts, and what was not read may hold more */
        *ret_hidden = r.failed || cut || r.j.at < r.j.end || r.n_edits || r.values.n;
    return id;
}
