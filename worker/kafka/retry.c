#include "worker/kafka/retry.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "worker/base/text.h"

/* The end of the year 9999: sums with any delay stay far from overflow. */
#define TIME_MAX_MS 253402300799999

/* The headers that are read back. */
enum field {
    ORIGIN,
    FIRST,
    DUE,
    NOT_BEFORE,
    ATTEMPTS,
    WHY,
    REASON,
    KEY,
    COUNT,
    INDEX,
    DEST,
    TIME,
    GROUP,
    TIMESTAMP,
    MARKER,
    TOLD,
    FIELDS
};

static const struct {
    const char *name, *missing, *malformed, *twice;
} fields[FIELDS] = {
#define FIELD(name)                                                                                \
    { name, name " is missing", name " is malformed", name " stands twice" }
    [ORIGIN] = FIELD("runsink-origin"),     [FIRST] = FIELD("runsink-first-failure"),
    [DUE] = FIELD("runsink-due"),           [NOT_BEFORE] = FIELD("runsink-not-before"),
    [ATTEMPTS] = FIELD("runsink-attempts"), [WHY] = FIELD("runsink-why"),
    [REASON] = FIELD("runsink-reason"),     [KEY] = FIELD("runsink-batch-key"),
    [COUNT] = FIELD("runsink-batch-count"), [INDEX] = FIELD("runsink-batch-index"),
    [DEST] = FIELD("runsink-destination"),  [TIME] = FIELD("runsink-time"),
    [GROUP] = FIELD("runsink-group"),       [TIMESTAMP] = FIELD("runsink-timestamp"),
    [MARKER] = FIELD("runsink-marker"),     [TOLD] = FIELD("runsink-told"),
#undef FIELD
};

struct found {
    bool have[FIELDS];
    struct str v[FIELDS];
};

static bool header_is_ours(struct str name) {
    return str_starts(name, "runsink-");
}

static bool find(const struct header *headers, size_t n, struct found *ret, const char **reterr) {
    *ret = (struct found){0};
    for (size_t i = 0; i < n; i++) {
        if (!header_is_ours(headers[i].name)) continue;
        for (int s = 0; s < FIELDS; s++) {
            if (!str_is(headers[i].name, fields[s].name)) continue;
            if (ret->have[s]) {
                *reterr = fields[s].twice;
                return false;
            }
            ret->have[s] = true;
            ret->v[s] = headers[i].value;
        }
    }
    return true;
}

/* Decimal digits, no sign, no leading zero. */
static bool parse_number(struct str text, int64_t max, int64_t *ret) {
    int64_t value = 0;
    if (text.n == 0 || (text.n > 1 && text.p[0] == '0')) return false;
    for (size_t i = 0; i < text.n; i++) {
        int64_t digit = text.p[i] - '0';
        if (digit < 0 || digit > 9 || digit > max || value > (max - digit) / 10) return false;
        value = value * 10 + digit;
    }
    *ret = value;
    return true;
}

static bool parse_uint32(struct str text, uint32_t *ret) {
    int64_t number = 0;
    bool ok = parse_number(text, UINT32_MAX, &number);
    *ret = (uint32_t)number;
    return ok;
}

static bool is_token(struct str text) {
    for (size_t i = 0; i < text.n; i++)
        if (!char_is_plain(text.p[i])) return false;
    return true;
}

static bool parse_text(struct str text, size_t size, char *ret) {
    if (text.n >= size) return false;
    if (text.n) memcpy(ret, text.p, text.n);
    ret[text.n] = '\0';
    return true;
}

/* Splits what follows the last '/' off. */
static bool split_last(struct str *text, struct str *ret_last) {
    const char *slash = text->n ? memrchr(text->p, '/', text->n) : NULL;
    if (!slash) return false;
    size_t at = (size_t)(slash - text->p);
    *ret_last = (struct str){slash + 1, text->n - at - 1};
    text->n = at;
    return true;
}

static bool parse_origin(struct str text, struct origin *ret) {
    struct str offset, partition;
    int64_t number;
    if (!split_last(&text, &offset) || !split_last(&text, &partition)) return false;
    if (text.n == 0 || !is_token(text) || !parse_text(text, sizeof ret->topic, ret->topic))
        return false;
    if (!parse_number(offset, INT64_MAX, &ret->offset)) return false;
    if (!parse_number(partition, INT32_MAX, &number)) return false;
    ret->partition = (int32_t)number;
    return true;
}

static bool parse_key(struct str text, char *ret, size_t size) {
    if (text.n == 0 || memchr(text.p, '\0', text.n) || !utf8_valid(text)) return false;
    return parse_text(text, size, ret);
}

static bool parse_field(enum field field, struct str text, struct retry *r) {
    switch (field) {
    case ORIGIN:
        return parse_origin(text, &r->origin);
    case FIRST:
        return parse_number(text, TIME_MAX_MS, &r->progress.first_failure_ms);
    case DUE:
        return parse_number(text, TIME_MAX_MS, &r->progress.due_ms);
    case NOT_BEFORE:
        return parse_number(text, TIME_MAX_MS, &r->progress.not_before_ms);
    case ATTEMPTS:
        return parse_uint32(text, &r->progress.attempts);
    case WHY:
    case REASON:
        return is_token(text) && parse_text(text, sizeof r->why, r->why);
    case KEY:
        return parse_key(text, r->batch_key, sizeof r->batch_key);
    case COUNT:
        return parse_uint32(text, &r->batch_count);
    case INDEX: /* COUNT was parsed before */
        return parse_uint32(text, &r->batch_index) && r->batch_index < r->batch_count;
    case DEST:
        outcome_text(r->destination, sizeof r->destination, text);
        return true;
    case TIMESTAMP:
        return parse_number(text, TIME_MAX_MS, &r->timestamp_ms);
    case GROUP:
        return parse_text(text, sizeof r->group, r->group);
    case TIME:
        return parse_number(text, TIME_MAX_MS, &r->died_ms);
    case MARKER:
        return parse_number(text, INT64_MAX, &r->marker);
    case TOLD:
        r->told = str_is(text, "1");
        return r->told;
    case FIELDS:
        break;
    }
    return false;
}

bool retry_parse(const struct header *headers, size_t n, struct retry *ret, const char **reterr) {
    struct found found;
    if (!find(headers, n, &found, reterr)) return false;
    bool dead = found.have[REASON];
    bool member = found.have[KEY] || found.have[COUNT] || found.have[INDEX];
    const bool needed[FIELDS] = {
        [ORIGIN] = true, [FIRST] = true,   [ATTEMPTS] = true, [DUE] = !dead, [WHY] = !dead,
        [KEY] = member,  [COUNT] = member, [INDEX] = member,  [TIME] = dead,
    };
    struct retry r = {0};
    for (int s = 0; s < FIELDS; s++) {
        if (needed[s] && !found.have[s]) {
            *reterr = fields[s].missing;
            return false;
        }
        if (found.have[s] && !parse_field((enum field)s, found.v[s], &r)) {
            *reterr = fields[s].malformed;
            return false;
        }
    }
    if (!dead) r.died_ms = 0;
    *ret = r;
    return true;
}

/* A header list under construction. */
struct headers {
    struct header *v;
    size_t n;
    struct arena *arena;
};

#define OURS_MAX 17

static struct headers begin(const struct header *originals, size_t n, struct arena *arena) {
    struct headers out = {arena_alloc(arena, (n + OURS_MAX) * sizeof *out.v), 0, arena};
    for (size_t i = 0; i < n; i++)
        if (!header_is_ours(originals[i].name)) out.v[out.n++] = originals[i];
    return out;
}

struct header *original_headers(const struct header *originals, size_t n, struct arena *arena,
                                size_t *ret_n) {
    struct headers out = begin(originals, n, arena);
    *ret_n = out.n;
    return out.v;
}

static void add_text(struct headers *out, const char *name, const char *value) {
    struct str text = str_c(value);
    text.p = arena_strdup(out->arena, text);
    out->v[out->n++] = (struct header){str_c(name), text};
}

static void add_number(struct headers *out, const char *name, int64_t value) {
    char text[24];
    snprintf(text, sizeof text, "%" PRId64, value);
    add_text(out, name, text);
}

/* Text that passed outcome_text() already, or should have. */
static void add_line(struct headers *out, const char *name, const char *value) {
    char line[DESTINATION_MAX];
    outcome_text(line, sizeof line, str_c(value));
    add_text(out, name, line);
}

/* What parked records and dead letters have in common. */
static void add_identity(struct headers *out, const struct retry *r) {
    if (r->timestamp_ms > 0) add_number(out, fields[TIMESTAMP].name, r->timestamp_ms);
    if (r->group[0]) add_text(out, fields[GROUP].name, r->group);
    if (r->told) add_text(out, fields[TOLD].name, "1");
    if (r->destination[0]) add_line(out, fields[DEST].name, r->destination);
    if (!r->batch_key[0]) return;
    add_text(out, fields[KEY].name, r->batch_key);
    add_number(out, fields[COUNT].name, r->batch_count);
    add_number(out, fields[INDEX].name, r->batch_index);
}

static void add_origin(struct headers *out, const struct origin *o) {
    char text[TOPIC_MAX + 40];
    snprintf(text, sizeof text, "%s/%" PRId32 "/%" PRId64, o->topic, o->partition, o->offset);
    add_text(out, fields[ORIGIN].name, text);
}

struct header *retry_headers(const struct retry *r, const struct header *originals, size_t n,
                             struct arena *arena, size_t *ret_n) {
    struct headers out = begin(originals, n, arena);
    add_origin(&out, &r->origin);
    add_number(&out, fields[FIRST].name, r->progress.first_failure_ms);
    add_number(&out, fields[DUE].name, r->progress.due_ms);
    if (r->progress.not_before_ms)
        add_number(&out, fields[NOT_BEFORE].name, r->progress.not_before_ms);
    add_number(&out, fields[ATTEMPTS].name, r->progress.attempts);
    add_text(&out, fields[WHY].name, r->why);
    add_identity(&out, r);
    *ret_n = out.n;
    return out.v;
}

struct header *dead_headers(const struct retry *r, const struct outcome *o, int64_t now_ms,
                            const struct header *originals, size_t n, struct arena *arena,
                            size_t *ret_n) {
    struct headers out = begin(originals, n, arena);
    char reason[sizeof o->why];
    outcome_token(reason, sizeof reason, str_c(o->why));
    add_origin(&out, &r->origin);
    add_text(&out, "runsink-fault", fault_name(o->fault));
    add_text(&out, fields[REASON].name, reason);
    add_line(&out, "runsink-detail", o->detail);
    add_number(&out, "runsink-status", o->status);
    if (o->uncounted && o->answered_ms) add_number(&out, "runsink-answered", o->answered_ms);
    add_number(&out, fields[ATTEMPTS].name, r->progress.attempts);
    add_number(&out, fields[FIRST].name, r->progress.first_failure_ms);
    add_number(&out, fields[TIME].name, now_ms);
    if (r->marker) add_number(&out, fields[MARKER].name, r->marker);
    add_identity(&out, r);
    *ret_n = out.n;
    return out.v;
}

/* When the attempt after n counted ones takes place, ms after the first failure; false when that
 * lies beyond the window. */
static bool instant(const struct schedule *s, uint32_t n, int64_t window_ms, int64_t *ret) {
    int64_t at = 0;
    for (size_t i = 0; i < s->n && i < n; i++) at += s->delays[i];
    int64_t repeats = n > s->n ? (int64_t)(n - s->n) : 0;
    int64_t last = s->delays[s->n - 1];
    if (at > window_ms || repeats > (window_ms - at) / last) return false;
    *ret = at + repeats * last;
    return true;
}

/* The delay after n counted attempts. */
static int64_t current_delay(const struct schedule *s, uint32_t n) {
    size_t i = n > 0 ? n - 1 : 0;
    return s->delays[i < s->n ? i : s->n - 1];
}

static int64_t longest(const struct schedule *s) {
    int64_t max = 0;
    for (size_t i = 0; i < s->n; i++)
        if (s->delays[i] > max) max = s->delays[i];
    return max;
}

static size_t tier_for(const struct schedule *s, int64_t wait_ms) {
    size_t best = s->n;
    for (size_t i = 0; i < s->n; i++)
        if (s->delays[i] >= wait_ms && (best == s->n || s->delays[i] < s->delays[best])) best = i;
    return best < s->n ? best : s->n - 1;
}

static enum next next_counted(struct progress *g, const struct schedule *s, int64_t window_ms,
                              int64_t now_ms, int64_t *ret_due) {
    if (g->attempts < UINT32_MAX) g->attempts++;
    int64_t at;
    if (!instant(s, g->attempts, window_ms, &at)) return NEXT_EXPIRED;
    int64_t due = g->first_failure_ms + at;
    int64_t soonest = now_ms + current_delay(s, g->attempts) / 2;
    if (due < soonest) due = soonest;
    *ret_due = g->not_before_ms > due ? g->not_before_ms : due;
    return NEXT_RETRY;
}

/* The delay that stands at this age in the schedule: what goes round unattempted slows down as what
 * is attempted does, or a dead destination's backlog would go through the broker every few seconds.
 */
static int64_t delay_at(const struct schedule *s, int64_t age_ms) {
    size_t i = 0;
    for (int64_t at = s->delays[0]; i + 1 < s->n && at <= age_ms; at += s->delays[i]) i++;
    return s->delays[i];
}

/* When an untried delivery comes back. */
static int64_t untried_due(const struct progress *g, const struct schedule *s, int64_t now_ms) {
    if (g->not_before_ms > now_ms) return g->not_before_ms;
    int64_t delay = current_delay(s, g->attempts);
    int64_t aged = delay_at(s, now_ms - g->first_failure_ms);
    return now_ms + (aged > delay ? aged : delay);
}

bool retry_is_last(const struct progress *g, const struct schedule *s, int64_t window_ms,
                   int64_t now_ms) {
    return g->first_failure_ms && untried_due(g, s, now_ms) - g->first_failure_ms > window_ms;
}

static enum next next_uncounted(const struct progress *g, const struct outcome *o,
                                const struct schedule *s, int64_t window_ms, int64_t now_ms,
                                int64_t *ret_due) {
    int64_t due = untried_due(g, s, now_ms);
    int64_t most = g->attempts || window_ms > TIME_MAX_MS ? window_ms : 2 * window_ms;
    if (o->fault != FAULT_NONE && due - g->first_failure_ms > most) return NEXT_EXPIRED;
    *ret_due = due;
    return NEXT_RETRY;
}

enum next retry_next(struct progress *g, const struct outcome *o, const struct schedule *s,
                     int64_t window_ms, int64_t now_ms) {
    if (g->first_failure_ms == 0) g->first_failure_ms = now_ms;
    int64_t asked = o->retry_after_ms ? now_ms + o->retry_after_ms : 0;
    /* The window's end. Once it is past, nothing is left to wait for. */
    int64_t end = window_ms < TIME_MAX_MS ? g->first_failure_ms + window_ms : TIME_MAX_MS;
    bool expired = false;
    if (asked > end) {
        expired = !o->uncounted && now_ms + s->delays[0] > end;
        asked = end > now_ms ? end : 0;
    }
    if (g->not_before_ms > end) g->not_before_ms = end;
    /* No attempt, no answer: what was asked for before still stands. */
    if (!o->uncounted || g->not_before_ms <= now_ms || asked > g->not_before_ms)
        g->not_before_ms = asked;
    int64_t due = 0;
    enum next next = o->uncounted ? next_uncounted(g, o, s, window_ms, now_ms, &due)
                                  : next_counted(g, s, window_ms, now_ms, &due);
    if (next == NEXT_EXPIRED || expired) return NEXT_EXPIRED;
    int64_t latest = now_ms + longest(s);
    g->due_ms = due < latest ? due : latest;
    g->tier = tier_for(s, g->due_ms - now_ms);
    return next;
}
