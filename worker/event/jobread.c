#include "worker/event/jobread.h"

#include <stdlib.h>

#include "worker/event/hide.h"
#include "worker/event/redact.h"

struct member;
struct members;
typedef void read_fn(struct reading *, const struct member *);

/* A member that matters of one kind of object, by its spelling. */
struct member {
    const char *name;
    read_fn *read;
    enum field field;
    bool snake;
    const char
        *path; /* for messages about secrets, which have to be strings; NULL: it may be any */
    const struct members *inner; /* of the object that it is, or of each in a list */
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

static void visit(struct reading *, struct json_value *ret);
static void visit_rest(struct reading *, struct json_value *);
static void visit_member(struct reading *, const struct json_value *key);
static bool tells(struct reading *, const struct json_value *key);

static enum strings also_named(enum strings s) {
    return s < STRINGS_SECRET ? STRINGS_NAMED : STRINGS_SECRET_NAMED;
}

/* Reads a value as secret as its name says that it is. */
static void read_named(struct reading *r, const struct member *m) {
    enum strings before = r->strings;
    r->strings = also_named(before);
    r->hides_text = true;
    m->read(r, m);
    r->strings = before;
}

/* Reads a value; when it is an object, each member that the table lists is handed to its reader,
 * and of all others the secrets are found. */
static struct json_value read_members(struct reading *r, const struct members *table) {
    struct json_value object = {0};
    struct json_value key;
    struct pair *outer = r->pair;
    bool named = names_model(r->known_sinks->names);
    if (!json_enter(&r->j, &object) || object.kind != JSON_OBJECT) {
        visit_rest(r, &object);
        return object;
    }
    r->pair = NULL;
    while (json_key(&r->j, &key)) {
        const struct member *m = find(table, &key);
        if (!m)
            visit_member(r, &key);
        else if (named && tells(r, &key))
            read_named(r, m);
        else
            m->read(r, m);
    }
    r->pair = outer;
    json_close(&r->j, &object);
    return object;
}

static void keep(struct reading *r, const struct member *m, const struct json_value *v) {
    struct fields *f = r->here;
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

static void read_field(struct reading *r, const struct member *m) {
    struct json_value v = {0};
    visit(r, &v);
    keep(r, m, &v);
}

static void read_object(struct reading *r, const struct member *m) {
    struct json_value v = read_members(r, m->inner);
    keep(r, m, &v);
}

/* One object, or a list of them. */
static void read_each(struct reading *r, const struct member *m) {
    struct json_value v;
    if (json_peek(&r->j) != JSON_ARRAY)
        read_members(r, m->inner);
    else if (json_open_array(&r->j, &v))
        while (json_item(&r->j)) read_each(r, m);
}

/* ---- values ---- */

/* A secret has to be a string: nothing else can be replaced by one inside its quotes. */
static bool read_string(struct reading *r, const struct member *m, struct json_value *ret) {
    if (!json_value(&r->j, ret)) return false;
    if (ret->kind == JSON_STRING) return true;
    if (ret->kind != JSON_NULL) fail(r, "wrong-type", m->path, "must be a string");
    return false;
}

static void read_secret(struct reading *r, const struct member *m) {
    struct json_value v = {0};
    if (read_string(r, m, &v)) hide_string(r, &v, true);
}

/* Secret where it stands, and no more: names of APIs, a folder. */
static void read_quiet(struct reading *r, const struct member *m) {
    size_t n = r->values.n, n_short = r->values.n_short;
    struct json_value v = {0};
    (void)m;
    visit(r, &v);
    r->values.n = n;
    r->values.n_short = n_short;
}

/* On the list of what is not secret, if it is a string. */
static void read_open(struct reading *r, const struct member *m) {
    struct json_value v = {0};
    (void)m;
    if (json_peek(&r->j) == JSON_STRING)
        json_value(&r->j, &v);
    else
        visit(r, &v);
}

/* Secret, whatever it is. */
static void read_hidden(struct reading *r, const struct member *m) {
    struct json_value v = {0};
    enum strings before = r->strings;
    (void)m;
    r->strings = STRINGS_SECRET_NAMED;
    visit(r, &v);
    r->strings = before;
}

static void read_url(struct reading *r, const struct member *m) {
    struct json_value v = {0};
    if (!m->path && json_peek(&r->j) != JSON_STRING)
        visit(r, &v);
    else if (read_string(r, m, &v))
        hide_url(r, &v);
}

/* content-type and accept, in any case: the two headers whose values are no secrets. */
static bool open_header(const struct json_value *key) {
    char text[6 * sizeof "content-type"];
    size_t n = 0;
    if (!key->escaped && key->raw.n != STR("content-type").n && key->raw.n != STR("accept").n)
        return false;
    if (key->raw.n > sizeof text || !json_unescape(key->raw, text, &n)) return false;
    for (size_t i = 0; i < n; i++) text[i] = char_lower(text[i]);
    struct str name = {text, n};
    return str_is(name, "content-type") || str_is(name, "accept");
}

/* A header's name is open, but no name has a blank or a colon inside: such is a pasted line. */
static void hide_line(struct reading *r, const struct json_value *key) {
    struct str text;
    if (!key->escaped && !memchr(key->raw.p, ':', key->raw.n) &&
        !memchr(key->raw.p, ' ', key->raw.n))
        return;
    text = hide_text(r, key);
    const char *mark = memchr(text.p, ':', text.n);
    bool scheme = !mark; /* "Bearer xyz" */
    if (scheme) mark = memchr(text.p, ' ', text.n);
    if (!mark) return;
    size_t n = (size_t)(mark - text.p) + 1;
    while (n < text.n && text.p[n] == ' ') n++;
    if (n == text.n) return;
    hide_part(r, key->raw.p, key->raw.n);
    hide_note_header(r, scheme ? text : (struct str){text.p + n, text.n - n});
}

static void hide_header(struct reading *r, const struct json_value *key,
                        const struct json_value *v) {
    struct str text;
    if (key->raw.n) hide_line(r, key);
    hide_part(r, v->raw.p, v->raw.n);
    if (json_resolve(v, r->arena, &text)) hide_note_header(r, text);
}

static void read_headers(struct reading *r, const struct member *m) {
    struct json_value headers = {0}, key, v = {0};
    if (!m->path && json_peek(&r->j) != JSON_OBJECT) {
        visit(r, &headers);
        return;
    }
    if (!json_open(&r->j, &headers)) {
        if (headers.kind != JSON_NULL && headers.kind != JSON_ABSENT)
            fail(r, "wrong-type", m->path, "must be an object");
        return;
    }
    while (json_key(&r->j, &key)) {
        if (!m->path && json_peek(&r->j) != JSON_STRING)
            visit(r, &v);
        else if (json_value(&r->j, &v) && v.kind != JSON_STRING)
            fail(r, "wrong-type", m->path, "must hold strings and nothing else");
        else if (!r->j.err && !open_header(&key))
            hide_header(r, &key, &v);
    }
}

static const struct member sink_members[][SAME_LENGTH] = {
    [3] = {{"url", read_url, .path = "sink.url"}},
    [4] = {{"type", read_open}, {"path", read_quiet}},
    [6] = {{"bucket", read_open}, {"region", read_open}, {"prefix", read_open}},
    [7] = {{"headers", read_headers, .path = "sink.headers"}},
    [8] = {{"endpoint", read_url, .path = "sink.endpoint"}},
    [10] = {{"apisToSend", read_quiet}},
    [11] = {{"accessKeyId", read_secret, .path = "sink.accessKeyId"}},
    [12] = {{"sessionToken", read_secret, .path = "sink.sessionToken"},
            {"apis_to_send", read_quiet}},
    [13] = {{"access_key_id", read_secret, .path = "sink.access_key_id"},
            {"session_token", read_secret, .path = "sink.session_token"}},
    [15] = {{"secretAccessKey", read_secret, .path = "sink.secretAccessKey"}},
    [17] = {{"secret_access_key", read_secret, .path = "sink.secret_access_key"}},
};
static const struct members sink_table = MEMBERS(sink_members);

/* What the sink object that begins at sink_at says: its edits and values are the last ones, from
 * these numbers on. Whatever else the document holds has no part in it. */
static void learn_sink(struct reading *r, struct str json, int depth, size_t edit, size_t value) {
    size_t start = (size_t)(json.p - r->j.start);
    struct edits edits = {r->edits + edit, r->n_edits - edit};
    struct edit range = edit_of(start, json.n, 0);
    struct str document = {r->j.start, start + json.n};
    r->own = edit_of(value, r->values.n - value, 0);
    if (r->values.n_short < r->values.n &&
        echoes_find(&r->values, r->own, document, range, r->j.escapes, &edits, r->arena)) {
        r->n_edits = edit;
        hide_edits(r, edits.v, edits.n, 0);
    }
    struct edit *own = arena_alloc(r->arena, (edits.n + 1) * sizeof *own);
    for (size_t i = 0; i < edits.n; i++) {
        own[i] = r->edits[edit + i];
        own[i].at -= start;
    }
    struct echo *values = arena_alloc(r->arena, (r->own.n + 1) * sizeof *values);
    if (r->own.n) memcpy(values, r->values.v + value, r->own.n * sizeof *values);
    r->facts = (struct known_sink){json, depth, own, edits.n, values, r->own.n, r->j.escapes};
}

/* The sink object that comes next, when it is known, without reading it. */
static bool pass_sink(struct reading *r, struct json_value *ret) {
    struct str rest = {r->j.at, (size_t)(r->j.end - r->j.at)};
    const struct known_sink *k =
        r->known_sinks->find ? r->known_sinks->find(r->known_sinks->ctx, rest, r->j.depth) : NULL;
    if (!k) return false;
    hide_edits(r, k->edits, k->n_edits, (size_t)(rest.p - r->j.start));
    json_pass(&r->j, JSON_OBJECT, k->json.n, ret);
    r->own = edit_of(r->values.n, k->n_values, 0);
    echoes_copy(&r->values, r->arena, k->values, k->n_values);
    r->facts = *k;
    r->known = k;
    return true;
}

/* A sink object. Everything in it is secret but what its table says. */
static void read_sink(struct reading *r, const struct member *m) {
    struct json_value v = {0};
    r->known = NULL;
    if (json_peek(&r->j) != JSON_OBJECT) {
        visit(r, &v);
        keep(r, m, &v);
        return;
    }
    bool escapes = r->j.escapes || (r->sink_at && r->facts.escapes);
    r->sink_at = r->j.at;
    if (!pass_sink(r, &v)) {
        enum strings before = r->strings;
        size_t edit = r->n_edits, value = r->values.n;
        int depth = r->j.depth;
        r->j.odd_escape = r->j.escapes = false;
        r->strings = STRINGS_SECRET;
        v = read_members(r, &sink_table);
        r->strings = before;
        /* cJSON, which the sinks read this with, ends a string at U+0000: two readings of one key.
         */
        if (r->j.odd_escape) fail(r, "bad-value", "sink", "holds U+0000 or an unpaired surrogate");
        if (!r->j.err) learn_sink(r, v.raw, depth, edit, value);
    }
    r->j.escapes = escapes;
    keep(r, m, &v);
}

/* ---- whatever else an event holds ---- */

static const struct member notification_members[][SAME_LENGTH] = {
    [3] = {{"url", read_url}},
    [4] = {{"type", read_open}},
    [6] = {{"bucket", read_open}, {"region", read_open}, {"prefix", read_open}},
    [7] = {{"headers", read_headers}},
    [8] = {{"endpoint", read_url}},
};
static const struct members notification_table = MEMBERS(notification_members);

static void read_notifications(struct reading *r, const struct member *m) {
    enum strings before = r->strings;
    r->strings = STRINGS_SECRET;
    read_each(r, m);
    r->strings = before;
}

static void read_below(struct reading *r, const struct member *m) {
    struct json_value v = {0};
    enum strings before = r->strings;
    (void)m;
    r->strings = STRINGS_URLS;
    visit(r, &v);
    r->strings = before;
}

/* Some object that is called a sink: nothing is delivered to it, so nothing in it is refused. */
static void read_copy_of_sink(struct reading *r, const struct member *m) {
    struct json_value v = {0};
    if (json_peek(&r->j) == JSON_OBJECT)
        read_notifications(r, m);
    else
        visit(r, &v);
}

/* Parts of a URL that stand by themselves: {"server": "host:80", "username": "...", ...}. */
static const struct member part_members[][SAME_LENGTH] = {
    [3] = {{"url", read_url}},
    [4] = {{"user", read_hidden}, {"pass", read_hidden}, {"auth", read_hidden}},
    [5] = {{"login", read_hidden}},
    [6] = {{"server", read_url}},
    [8] = {{"username", read_hidden}, {"userName", read_hidden}, {"password", read_hidden}},
    [9] = {{"user_name", read_hidden}},
};
static const struct members part_table = MEMBERS(part_members);

/* A URL without its secrets, a list of URLs, or the parts of one. */
static void read_place(struct reading *r, const struct member *m) {
    struct json_value v = {0};
    enum strings before = r->strings;
    if (before == STRINGS_OPEN) r->strings = STRINGS_URLS;
    enum json_kind kind = json_peek(&r->j);
    if (r->strings != STRINGS_URLS) {
        visit(r, &v);
    } else if (kind == JSON_STRING) {
        if (json_value(&r->j, &v)) hide_url(r, &v);
    } else if (kind == JSON_ARRAY) {
        if (json_open_array(&r->j, &v))
            while (json_item(&r->j)) read_place(r, m);
    } else {
        read_members(r, &part_table);
    }
    r->strings = before;
}

/* What a name means wherever it stands: in a copy of the run, for instance. */
static const struct member any_members[][SAME_LENGTH] = {
    [4] = {{"sink", read_copy_of_sink, .inner = &notification_table}},
    [5] = {{"proxy", read_place}},
    [6] = {{"logUrl", read_url}},
    [7] = {{"log_url", read_url}},
    [8] = {{"traceUrl", read_url}},
    [9] = {{"signedUrl", read_url}, {"trace_url", read_url}},
    [10] = {{"signed_url", read_url}},
    [13] = {{"notifications", read_notifications, .inner = &notification_table}},
    [24] = {{"jobConfigurationSnapshot", read_below}},
    [26] = {{"job_configuration_snapshot", read_below}},
};
static const struct members any_table = MEMBERS(any_members);

static bool tells(struct reading *r, const struct json_value *key) {
    return names_tell(r->known_sinks->names, hide_text(r, key));
}

/* Whether a member's value is a URL by its name: url, docUrl, proxy, callback_uri, endpoint. */
static bool names_url(struct str name) {
    static const char *const ends[] = {"url",  "uri",  "proxy",   "endpoint",
                                       "urls", "uris", "proxies", "endpoints"};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        size_t n = strlen(ends[i]), k = 0;
        if (name.n < n) continue;
        while (k < n && (name.p[name.n - n + k] | 0x20) == ends[i][k]) k++;
        if (k == n) return true;
    }
    return false;
}

/* Whether an object with this member may be a pair, by its name. */
static bool names_pair(struct str name) {
    static const char *const names[] = {"name", "key", "value"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t n = strlen(names[i]), k = 0;
        while (name.n == n && k < n && char_lower(name.p[k]) == names[i][k]) k++;
        if (k == n) return true;
    }
    return false;
}

/* A value whose name may follow. Nothing in a number is secret. */
static void keep_early(struct reading *r, struct pair *pair, const struct json_value *v) {
    size_t quote = v->kind == JSON_STRING;
    if (!quote && v->kind != JSON_OBJECT && v->kind != JSON_ARRAY) return;
    struct early *e = arena_alloc(r->arena, sizeof *e);
    *e = (struct early){{v->raw.p - quote, v->raw.n + 2 * quote}, pair->values};
    pair->values = e;
}

/* The name has come: it says that the values before it are secret. */
static void tell_early(struct reading *r, struct pair *pair) {
    pair->tells = true;
    for (struct early *e; (e = pair->values);) {
        pair->values = e->next;
        e->next = r->early;
        r->early = e;
    }
}

/* "name", "key" or "value", of what may be a pair. */
static void visit_pair(struct reading *r, struct str name) {
    struct json_value v = {0};
    enum strings before = r->strings;
    bool is_value = name.n == STR("value").n;
    struct pair *pair = r->pair;
    if (!pair) {
        pair = arena_alloc(r->arena, sizeof *pair);
        *pair = (struct pair){0};
    }
    if (is_value && pair->tells) r->strings = STRINGS_NAMED;
    visit(r, &v);
    r->strings = before;
    r->pair = pair;
    if (r->j.err) return;
    if (is_value && !pair->tells) keep_early(r, pair, &v);
    if (!is_value && v.kind == JSON_STRING && tells(r, &v)) tell_early(r, pair);
}

/* The value of a member whose name says something, or was not seen lately. */
static void visit_special(struct reading *r, const struct json_value *key) {
    struct json_value v = {0};
    enum strings before = r->strings;
    const struct member *m = before < STRINGS_NAMED ? find(&any_table, key) : NULL;
    struct str name = hide_text(r, key);
    bool named = names_tell(r->known_sinks->names, name), url = names_url(name);
    bool pair = !named && before < STRINGS_NAMED && names_pair(name);
    if (named) r->strings = also_named(before);
    if (before < STRINGS_NAMED && !m && !named && !key->escaped)
        names_remember(r->known_sinks->names, key->raw,
                       pair  ? NAME_PAIR
                       : url ? NAME_URL
                             : NAME_PLAIN);
    if (m)
        m->read(r, m);
    else if (pair)
        visit_pair(r, name);
    else if (url && r->strings == STRINGS_URLS)
        read_place(r, NULL);
    else
        visit(r, &v);
    r->strings = before;
}

/* The value of a member that no table of its object lists. */
static void visit_member(struct reading *r, const struct json_value *key) {
    struct json_value v = {0};
    enum name_class class = names_recall(r->known_sinks->names, key->raw);
    bool quick = class == NAME_PLAIN ? r->strings < STRINGS_NAMED
                                     : class == NAME_URL && r->strings == STRINGS_OPEN;
    if (quick)
        visit(r, &v);
    else
        visit_special(r, key);
}

/* What json_enter() has begun to read, whatever it is, and the secrets in it. Recursion ends by
 * JSON_DEPTH_MAX. */
static void visit_rest(struct reading *r, struct json_value *v) {
    struct json_value inner = {0};
    struct pair *outer = r->pair;
    switch (v->kind) {
    case JSON_OBJECT:
        r->pair = NULL;
        while (json_key(&r->j, &inner)) visit_member(r, &inner);
        r->pair = outer;
        json_close(&r->j, v);
        return;
    case JSON_ARRAY:
        while (json_item(&r->j)) visit(r, &inner);
        json_close(&r->j, v);
        return;
    case JSON_STRING:
        if (r->strings == STRINGS_URLS) hide_urls(r, v);
        if (r->strings >= STRINGS_NAMED && !r->j.err)
            hide_string(r, v, r->strings != STRINGS_SECRET);
        return;
    case JSON_BOOL:
    case JSON_NUMBER:
        if (r->strings == STRINGS_SECRET_NAMED && !r->j.err) hide_number(r, v);
        return;
    case JSON_ABSENT:
    case JSON_NULL:
        return;
    }
}

static void visit(struct reading *r, struct json_value *ret) {
    if (json_enter(&r->j, ret) ||
        (r->strings != STRINGS_OPEN &&
         (ret->kind == JSON_STRING || r->strings == STRINGS_SECRET_NAMED)))
        visit_rest(r, ret);
}

static const struct member proxy_members[][SAME_LENGTH] = {
    [3] = {{"url", read_url, .path = "proxy.url"}},
    [4] = {{"user", read_hidden}, {"pass", read_hidden}, {"auth", read_hidden}},
    [5] = {{"login", read_hidden}},
    [6] = {{"server", read_url}},
    [8] = {{"username", read_hidden}, {"userName", read_hidden}, {"password", read_hidden}},
    [9] = {{"user_name", read_hidden}},
};
static const struct members proxy_table = MEMBERS(proxy_members);

static void read_proxy(struct reading *r, const struct member *m) {
    struct json_value v = {0};
    enum strings before = r->strings;
    if (before == STRINGS_OPEN) r->strings = STRINGS_URLS;
    if (json_peek(&r->j) == JSON_STRING) {
        if (json_value(&r->j, &v)) hide_url(r, &v);
    } else {
        v = read_members(r, &proxy_table);
    }
    r->strings = before;
    if (v.kind == JSON_BOOL || v.kind == JSON_NUMBER || v.kind == JSON_ARRAY)
        fail(r, "wrong-type", m->path, "must be an object or a string");
}

static const struct member snapshot_members[][SAME_LENGTH] = {
    [4] = {{"sink", read_sink, F_SINK}},
    [5] = {{"proxy", read_proxy, .path = "proxy"}},
    [13] = {{"notifications", read_notifications, .inner = &notification_table}},
};
static const struct members snapshot_table = MEMBERS(snapshot_members);

static void read_snapshot(struct reading *r, const struct member *m) {
    enum strings before = r->strings;
    if (before == STRINGS_OPEN) r->strings = STRINGS_URLS;
    read_object(r, m);
    r->strings = before;
}

static const struct member results_members[][SAME_LENGTH] = {
    [9] = {{"signedUrl", read_url, .path = "results.signedUrl"}},
    [10] = {{"signed_url", read_url, .path = "results.signed_url"}},
};
static const struct members results_table = MEMBERS(results_members);

static const struct member error_members[][SAME_LENGTH] = {
    [4] = {{"code", read_field, F_ERROR_CODE}}};
static const struct members error_table = MEMBERS(error_members);

static const struct member reason_members[][SAME_LENGTH] = {
    [4] = {{"type", read_field, F_REASON_TYPE}},
};
static const struct members reason_table = MEMBERS(reason_members);

static const struct member api_members[][SAME_LENGTH] = {[4] = {{"name", read_field, F_API_NAME}}};
static const struct members api_table = MEMBERS(api_members);

/* jobRun and data are the run's wrappers; in any other place they are unknown members. */
static const struct members run_table;

/* The run's members, in the object that encloses them at this place alone. */
static void read_wrapped(struct reading *r, const struct member *m, enum place around) {
    struct fields *here = r->here;
    struct json_value v = {0};
    if (here->place == around) {
        r->here = &r->fields[around + 1];
        v = read_members(r, &run_table);
        r->here = here;
    } else {
        visit(r, &v);
    }
    keep(r, m, &v);
}

static void read_job_run(struct reading *r, const struct member *m) {
    read_wrapped(r, m, PLACE_BODY);
}

static void read_data(struct reading *r, const struct member *m) {
    read_wrapped(r, m, PLACE_CLOUDEVENT);
}

static const struct member run_members[][SAME_LENGTH] = {
    [2] = {{"id", read_field, F_ID}},
    [4] = {{"type", read_field, F_TYPE}, {"data", read_data, F_DATA}},
    [5] = {{"jobId", read_field, F_JOB_ID},
           {"error", read_object, F_ERROR, .inner = &error_table},
           {"proxy", read_proxy, .path = "proxy"}},
    [6] = {{"status", read_field, F_STATUS},
           {"reason", read_object, F_REASON, .inner = &reason_table},
           {"job_id", read_field, F_JOB_ID, true},
           {"jobRun", read_job_run, F_JOB_RUN}},
    [7] = {{"endTime", read_field, F_END_TIME},
           {"apiInfo", read_object, F_API_INFO, .inner = &api_table},
           {"job_run", read_job_run, F_JOB_RUN, true},
           {"results", read_each, .inner = &results_table}},
    [8] = {{"payloads", read_field, F_PAYLOADS},
           {"end_time", read_field, F_END_TIME, true},
           {"api_info", read_object, F_API_INFO, true, .inner = &api_table}},
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
    [24] = {{"jobConfigurationSnapshot", read_snapshot, F_SNAPSHOT, .inner = &snapshot_table}},
    [26] = {{"job_configuration_snapshot", read_snapshot, F_SNAPSHOT, true,
             .inner = &snapshot_table}},
};
static const struct members run_table = MEMBERS(run_members);

static int by_place(const void *a, const void *b) {
    const struct str *x = a, *y = b;
    return (x->p > y->p) - (x->p < y->p);
}

/* The values, the first in the document first. */
static struct str *sort_early(struct reading *r, size_t *ret_n) {
    size_t n = 0;
    for (const struct early *e = r->early; e; e = e->next) n++;
    struct str *v = arena_alloc(r->arena, n * sizeof *v);
    *ret_n = n;
    for (const struct early *e = r->early; e; e = e->next) v[--n] = e->text;
    qsort(v, *ret_n, sizeof *v, by_place);
    return v;
}

/* Values that came before the name that says they are secret are read once more, as if it had come
 * first. Only now, since one may hold others: so none is read a third time. */
static void hide_early(struct reading *r, struct str document) {
    size_t n, before = r->n_edits;
    if (!r->early) return;
    const struct str *v = sort_early(r, &n);
    const struct json whole = r->j;
    const char *done = document.p;
    r->strings = STRINGS_NAMED;
    for (size_t i = 0; i < n; i++) {
        struct json_value again = {0};
        if (v[i].p < done) continue;
        done = v[i].p + v[i].n;
        json_begin(&r->j, v[i]);
        r->j.start = document.p;
        visit(r, &again);
    }
    r->strings = STRINGS_OPEN;
    r->j = whole;
    struct edits late = {r->edits + before, r->n_edits - before};
    struct edits all = edits_unite((struct edits){r->edits, before}, late, 0, r->arena);
    r->edits = all.v;
    r->n_edits = r->cap_edits = all.n;
}

bool job_read(struct reading *r, struct str document, bool structured,
              const struct known_sinks *known, struct arena *arena, struct json_value *ret_root) {
    memset(r->fields, 0, sizeof r->fields);
    for (int i = 0; i < PLACES; i++) r->fields[i].place = (enum place)i;
    r->arena = arena;
    r->known_sinks = known;
    r->known = NULL;
    r->sink_at = NULL;
    r->pair = NULL;
    r->early = NULL;
    r->strings = STRINGS_OPEN;
    r->hides_text = false;
    echoes_begin(&r->values);
    r->edits = r->few;
    r->n_edits = 0;
    r->cap_edits = sizeof r->few / sizeof r->few[0];
    r->failed = false;
    json_begin(&r->j, document);
    r->here = &r->fields[structured ? PLACE_CLOUDEVENT : PLACE_BODY];
    struct json_value root = read_members(r, &run_table);
    if (!json_end(&r->j)) return false;
    hide_early(r, document);
    hide_echoes(r, document);
    *ret_root = root;
    return true;
}

struct names *job_names(const struct list *list) {
    static const struct members *const tables[] = {&run_table,   &snapshot_table, &results_table,
                                                   &error_table, &reason_table,   &api_table,
                                                   &proxy_table};
    struct names *names = names_new(list);
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++)
        for (size_t n = 0; n < tables[i]->lengths; n++)
            for (size_t k = 0; k < SAME_LENGTH && tables[i]->by_length[n][k].name; k++)
                if (tables[i]->by_length[n][k].read != read_hidden &&
                    names_tell(names, str_c(tables[i]->by_length[n][k].name)))
                    names_set_model(names, true);
    return names;
}
