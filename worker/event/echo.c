#include "worker/event/echo.h"

#include <stdlib.h>

#include "worker/base/rfc3339.h"
#include "worker/base/text.h"

/* Up to so many values, each is looked for by its rarest byte; more, by a hash of their first four.
 */
#define FEW 16
/* Tenants choose values and text: past so much work a byte, all strings are taken for secrets,
 * and so are names that are long enough. */
#define WORK_PER_BYTE 16
#define WORK_LEAST 4096
#define WORK_PER_HIT 32

/* ---- the values ---- */

/* Words of the event model, and ours: whoever names one as a secret must not blank the others'.
 * By their length. */
#define SAME_LENGTH 12
static const char *const words[][SAME_LENGTH] = {
    [6] = {"MANUAL", "status", "reason", "docUrl", "bucket", "region", "prefix", "jobRun"},
    [7] = {"billing", "webhook", "endTime", "message", "details", "doc_url", "maxRuns", "version",
           "headers", "job_run", "apiInfo", "results"},
    [8] = {"end_time", "payloads", "category", "endpoint", "api_info"},
    [9] = {"SCHEDULED", "startTime", "projectId", "createdAt", "updatedAt", "retirable",
           "saveTrace", "signedUrl"},
    [10] = {"terminated", "[REDACTED]", "start_time", "project_id", "created_at", "updated_at",
            "failedRuns", "skipOnFail", "apisToSend", "signed_url"},
    [11] = {"workspaceId", "failed_runs", "authSession", "accessKeyId"},
    [12] = {"user-request", "workspace_id", "auth_session", "skip_on_fail", "apis_to_send",
            "sessionToken"},
    [13] = {"s3-sink-error", "correlationId", "configuration", "checkAttempts", "notifications",
            "access_key_id", "session_token"},
    [14] = {"infrastructure", "successfulRuns", "correlation_id", "requestTimeout",
            "createAttempts", "forcePathStyle"},
    [15] = {"successful_runs", "maximumAttempts", "secretAccessKey"},
    [16] = {"force_path_style"},
    [17] = {"secret_access_key"},
    [19] = {"auth-session-locked"},
    [21] = {"internal-server-error", "maxConcurrentRequests"},
    [22] = {"auth-session-not-found", "another-job-run-active"},
    [24] = {"jobConfigurationSnapshot"},
    [26] = {"job_configuration_snapshot"},
    [28] = {"auth-session-invalid-mid-job"},
    [29] = {"insufficient-resource-credits"},
    [39] = {"auth-session-validate-dependency-failed"},
};
static const char statuses[] =
#define STATUS(name) name " "
#include "worker/base/statuses.def"
    ;

static bool is_word(struct str s) {
    for (size_t i = 0; s.n < sizeof words / sizeof *words && i < SAME_LENGTH && words[s.n][i]; i++)
        if (memcmp(words[s.n][i], s.p, s.n) == 0) return true;
    return text_lists(statuses, s) || rfc3339_ok(s);
}

/* How often a byte stands in events, roughly: the less the better to look for. From ' ' to '~'. */
static int frequency(char c) {
    static const char marks[] = "919111199911996677777777779111111" /* blank to @ */
                                "22222222211222221226222116999169"  /* A to ` */
                                "858885558358888538888553539191";   /* a to ~ */
    unsigned char u = (unsigned char)c;
    return u < ' ' || u > 0x7e ? 0 : marks[u - ' '];
}

void echoes_begin(struct echoes *e) {
    e->v = e->few;
    e->cap = sizeof e->few / sizeof e->few[0];
    e->n = e->n_short = 0;
}

void echoes_copy(struct echoes *e, struct arena *arena, const struct echo *from, size_t n) {
    if (e->cap - e->n < n) {
        e->cap = 2 * (e->n + n);
        struct echo *more = arena_alloc(arena, e->cap * sizeof *more);
        memcpy(more, e->v, e->n * sizeof *more);
        e->v = more;
    }
    for (size_t i = 0; i < n; i++) {
        e->v[e->n++] = from[i];
        e->n_short += from[i].n < ECHO_MIN;
    }
}

void echoes_add(struct echoes *e, struct arena *arena, struct str s, bool credential) {
    struct echo one = {.p = s.p, .n = s.n, .credential = credential};
    if (s.n == 0 || is_word(s)) return;
    for (size_t i = 0, n; i < s.n; i += n) {
        n = utf8_sequence(s.p + i, s.n - i);
        if (n == 0 || s.p[i] == '\0') return;
        one.unfit = one.unfit || s.p[i] == '"' || s.p[i] == '\\' || (unsigned char)s.p[i] < 0x20;
        if (n == 1 && frequency(s.p[i]) < frequency(s.p[one.rare])) one.rare = (uint32_t)i;
    }
    echoes_copy(e, arena, &one, 1);
}

/* ---- the search ---- */

struct search {
    const struct echo *v;
    size_t n;
    size_t left; /* of the work */
    bool spent;
    size_t least_in_name; /* bytes of the shortest value that is looked for in names */
    /* What was found in a text, in no order. */
    struct edit *hits;
    size_t n_hits, cap;
    /* More than a few values: by the hash of their first four bytes. */
    uint32_t *heads, *next; /* 1 + index; 0: none */
    size_t *done;           /* end of each value's last hit */
    unsigned bits;
};

static bool spend(struct search *s, size_t work) {
    s->spent = s->spent || work > s->left;
    s->left -= s->spent ? s->left : work;
    return !s->spent;
}

static bool hit(struct search *s, size_t at, size_t n) {
    if (!spend(s, WORK_PER_HIT)) return false;
    if (s->n_hits == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 16;
        s->hits = xrealloc(s->hits, s->cap * sizeof *s->hits);
    }
    s->hits[s->n_hits++] = edit_of(at, n, 0);
    return true;
}

/* Compares, when the first four bytes agree. */
static bool stands(struct search *s, const struct echo *v, const char *p) {
    uint32_t a, b;
    memcpy(&a, v->p, sizeof a);
    memcpy(&b, p, sizeof b);
    return a == b && spend(s, 1 + v->n / 16) && memcmp(v->p, p, v->n) == 0;
}

static void find_one(struct search *s, const struct echo *v, struct str text) {
    if (text.n < v->n) return;
    const char *first = text.p + v->rare, *end = text.p + text.n - (v->n - 1 - v->rare);
    for (const char *p = first; p < end && (p = memchr(p, v->p[v->rare], (size_t)(end - p)));) {
        const char *at = p - v->rare;
        if (!spend(s, 1)) return;
        if (!stands(s, v, at)) {
            p++;
        } else {
            if (!hit(s, (size_t)(at - text.p), v->n)) return;
            p += v->n;
        }
    }
}

static uint32_t slot(const struct search *s, const char *p) {
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return four * UINT32_C(2654435761) >> (32 - s->bits);
}

static void index_values(struct search *s) {
    for (s->bits = 6; (size_t)1 << s->bits < 2 * s->n && s->bits < 20;) s->bits++;
    s->heads = xcalloc((size_t)1 << s->bits, sizeof *s->heads);
    s->next = xcalloc(s->n, sizeof *s->next);
    s->done = xcalloc(s->n, sizeof *s->done);
    for (size_t i = 0; i < s->n; i++) {
        if (s->v[i].n < ECHO_MIN) continue;
        uint32_t *head = &s->heads[slot(s, s->v[i].p)];
        s->next[i] = *head;
        *head = (uint32_t)i + 1;
    }
}

static void find_many(struct search *s, struct str text) {
    memset(s->done, 0, s->n * sizeof *s->done);
    for (size_t i = 0; i + ECHO_MIN <= text.n; i++)
        for (uint32_t k = s->heads[slot(s, text.p + i)]; k; k = s->next[k - 1]) {
            const struct echo *v = &s->v[k - 1];
            if (!spend(s, 1)) return;
            if (i < s->done[k - 1] || v->n > text.n - i || !stands(s, v, text.p + i)) continue;
            if (!hit(s, i, v->n)) return;
            s->done[k - 1] = i + v->n;
        }
}

static int by_place(const void *a, const void *b) {
    const struct edit *x = a, *y = b;
    return (x->at > y->at) - (x->at < y->at);
}

static void find(struct search *s, struct str text) {
    s->n_hits = 0;
    if (s->heads)
        find_many(s, text);
    else
        for (size_t i = 0; i < s->n; i++)
            if (s->v[i].n >= ECHO_MIN) find_one(s, &s->v[i], text);
    if (s->n_hits > 1) qsort(s->hits, s->n_hits, sizeof *s->hits, by_place);
}

/* ---- where they stand ---- */

struct found {
    struct edit *v;
    size_t n, cap;
};

/* Spans come by where they begin; those that overlap become one. */
static void add(struct found *f, struct edit e) {
    struct edit *last = f->n ? &f->v[f->n - 1] : NULL;
    if (e.n == 0) return;
    if (last && e.at < last->at + last->n) {
        if (e.at + e.n > last->at + last->n)
            *last = edit_of(last->at, e.at + e.n - last->at, last->quotes);
        return;
    }
    if (f->n == f->cap) {
        f->cap = f->cap ? 2 * f->cap : 16;
        f->v = xrealloc(f->v, f->cap * sizeof *f->v);
    }
    f->v[f->n++] = e;
}

/* A string with escapes: its values are found in the resolved text and each one's place is looked
 * up by walking both together. */
static void find_escaped(struct search *s, struct str text, struct edit where, bool name,
                         struct found *f) {
    char *plain = xmalloc(where.n + 1);
    size_t n = 0, at = 0;
    const char *p = text.p + where.at, *end = p + where.n;
    char one[4];
    /* No value holds half a surrogate pair: what has no UTF-8 becomes a byte that none has. */
    for (const char *q = p; q < end;) {
        size_t len = json_char(&q, end, one);
        if (len)
            memcpy(plain + n, one, len);
        else
            plain[n] = '\0';
        n += len ? len : 1;
    }
    find(s, (struct str){plain, n});
    struct found spans = {0};
    for (size_t i = 0; i < s->n_hits; i++)
        if (!name || s->hits[i].n >= ECHO_NAME_MIN) add(&spans, s->hits[i]);
    for (size_t i = 0; i < spans.n; i++) {
        size_t len;
        while (at < spans.v[i].at) at += (len = json_char(&p, end, one)) ? len : 1;
        const char *from = p;
        while (at < spans.v[i].at + spans.v[i].n) at += (len = json_char(&p, end, one)) ? len : 1;
        add(f, edit_of((size_t)(from - text.p), (size_t)(p - from), 0));
    }
    free(spans.v);
    wipe(plain, n);
    free(plain);
}

/* The end of the string that begins here: its closing quote. */
static const char *string_end(const char *p, bool *ret_escaped) {
    *ret_escaped = false;
    for (; *p != '"'; p++)
        if (*p == '\\') {
            *ret_escaped = true;
            p++;
        }
    return p;
}

static bool is_name(const char *at, const char *end) {
    while (at < end && strchr(" \t\r\n", *at) && *at) at++;
    return at < end && *at == ':';
}

/* Whether a string may hold a value that was not looked for. No word of the event model does. */
static bool may_hold(const struct search *s, struct str string, bool name) {
    return !name || (string.n >= s->least_in_name && !is_word(string));
}

static size_t least_in_name(const struct search *s) {
    size_t least = SIZE_MAX;
    for (size_t i = 0; i < s->n; i++)
        if (s->v[i].n >= ECHO_NAME_MIN && s->v[i].n < least) least = s->v[i].n;
    return least;
}

/* Of what was found in the whole text, keeps what lies inside of strings, and looks into those with
 * escapes once more. */
static void place(struct search *s, struct str text, struct found *f) {
    const char *end = text.p + text.n, *p = text.p;
    struct edit *raw = s->hits;
    size_t n_raw = s->n_hits, i = 0;
    s->hits = NULL;
    s->n_hits = s->cap = 0;
    s->least_in_name = least_in_name(s);
    while (p < end && (p = memchr(p, '"', (size_t)(end - p)))) {
        bool escaped;
        size_t from = (size_t)(++p - text.p);
        p = string_end(p, &escaped);
        size_t to = (size_t)(p++ - text.p);
        bool name = is_name(p, end);
        size_t before = f->n;
        if (!s->spent && escaped) find_escaped(s, text, edit_of(from, to - from, 0), name, f);
        if (s->spent) f->n = before;
        if (s->spent && may_hold(s, (struct str){text.p + from, to - from}, name))
            add(f, edit_of(from, to - from, 0));
        while (i < n_raw && raw[i].at < from) i++;
        for (; i < n_raw && raw[i].at < to; i++)
            if (!s->spent && !escaped && (!name || raw[i].n >= ECHO_NAME_MIN)) add(f, raw[i]);
    }
    free(raw);
}

struct edits edits_unite(struct edits a, struct edits b, size_t distance, struct arena *arena) {
    struct found all = {0};
    size_t i = 0, k = 0;
    while (i < a.n || k < b.n) {
        struct edit other = {0};
        if (k < b.n) other = edit_of(b.v[k].at + distance, b.v[k].n, b.v[k].quotes);
        bool first = k == b.n || (i < a.n && a.v[i].at <= other.at);
        add(&all, first ? a.v[i] : other);
        i += first;
        k += !first;
    }
    struct edits ret = {arena_alloc(arena, (all.n + 1) * sizeof *ret.v), all.n};
    if (all.n) memcpy(ret.v, all.v, all.n * sizeof *ret.v);
    free(all.v);
    return ret;
}

bool echoes_find(const struct echoes *e, struct edit which, struct str document, struct edit range,
                 bool escapes, struct edits *edits, struct arena *arena) {
    if (which.n == 0 || range.n < ECHO_MIN) return false;
    struct search s = {.v = e->v + which.at, .n = which.n};
    struct str text = {document.p + range.at, range.n};
    struct found f = {0};
    s.left = text.n * WORK_PER_BYTE + WORK_LEAST;
    if (s.n > FEW) index_values(&s);
    find(&s, text);
    if (s.n_hits || escapes || s.spent) place(&s, text, &f);
    bool found = f.n > 0;
    if (found) *edits = edits_unite(*edits, (struct edits){f.v, f.n}, range.at, arena);
    free(f.v);
    free(s.hits);
    if (s.heads) {
        free(s.heads);
        free(s.next);
        free(s.done);
    }
    return found;
}
