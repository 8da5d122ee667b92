#include "worker/base/key.h"

#include <stdio.h>
#include <stdlib.h>

#include "worker/base/text.h"

static const char *const field_names[KEY_FIELDS] = {
    [KEY_PREFIX] = "prefix",
    [KEY_TOPIC] = "topic",
    [KEY_PARTITION] = "partition",
    [KEY_OFFSET] = "offset",
    [KEY_ID] = "id",
    [KEY_WORKSPACE_ID] = "workspaceId",
    [KEY_PROJECT_ID] = "projectId",
    [KEY_JOB_ID] = "jobId",
    [KEY_UPDATED_AT] = "updatedAt",
    [KEY_STATUS] = "status",
    [KEY_DATE] = "date",
    [KEY_FIRST] = "first",
    [KEY_NEXT] = "next",
    [KEY_DESTINATION] = "destination",
};

/* A run of literal text, then a field, either of which may be missing (n 0, KEY_FIELDS). */
struct part {
    struct str literal;
    enum key_field field;
};

struct key_template {
    char *text; /* what the literals point into */
    unsigned uses;
    size_t n;
    struct part parts[];
};

void key_template_free(struct key_template *t) {
    if (!t) return;
    free(t->text);
    free(t);
}

bool key_template_uses(const struct key_template *t, enum key_field f) {
    return t->uses & 1u << f;
}

/* What no place in a key may be, whatever the values. */
static bool check_text(const char *text, struct buf *err) {
    if (!*text) return buf_puts(err, "the key template is empty"), false;
    if (!utf8_valid(str_c(text))) return buf_puts(err, "the key template is not UTF-8"), false;
    for (const char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return buf_puts(err, "the key template holds a control character"), false;
    if (path_climbs(text))
        return buf_puts(err, "the key template has a folder named \".\" or \"..\""), false;
    return true;
}

static bool find_field(struct str name, unsigned allowed, enum key_field *ret, struct buf *err) {
    for (int f = 0; f < KEY_FIELDS; f++)
        if ((allowed & 1u << f) && str_is(name, field_names[f])) {
            *ret = (enum key_field)f;
            return true;
        }
    buf_printf(err, "the key template has no field {%.*s}; fields are",
               name.n < 40 ? (int)name.n : 40, name.p);
    for (int f = 0; f < KEY_FIELDS; f++)
        if (allowed & 1u << f) buf_printf(err, " {%s}", field_names[f]);
    return false;
}

/* Takes the next part off *rest. */
static bool parse_part(const char **rest, unsigned allowed, struct part *ret, struct buf *err) {
    struct part part = {{*rest, strcspn(*rest, "{}")}, KEY_FIELDS};
    const char *at = *rest + part.literal.n;
    if (*at == '}') return buf_puts(err, "the key template has a } without a {"), false;
    if (*at == '{') {
        struct str name = {at + 1, strcspn(at + 1, "{}")};
        at = name.p + name.n;
        if (*at != '}') return buf_puts(err, "the key template has a { without a }"), false;
        at++;
        if (!find_field(name, allowed, &part.field, err)) return false;
    }
    *rest = at;
    *ret = part;
    return true;
}

struct key_template *key_template_new(const char *text, unsigned allowed, struct buf *err) {
    if (!check_text(text, err)) return NULL;
    size_t most = 1;
    for (const char *c = text; *c; c++) most += *c == '{';
    struct key_template *t = xcalloc(1, sizeof *t + most * sizeof t->parts[0]);
    t->text = xstrdup(text);
    for (const char *rest = t->text; *rest; t->n++) {
        struct part *part = &t->parts[t->n];
        if (!parse_part(&rest, allowed, part, err)) {
            key_template_free(t);
            return NULL;
        }
        if (part->field != KEY_FIELDS) t->uses |= 1u << part->field;
    }
    return t;
}

static bool add_encoded(struct buf *out, struct str value) {
    bool dots = str_is(value, ".") || str_is(value, "..");
    size_t i = 0;
    while (i < value.n) {
        size_t run = i;
        while (run < value.n && char_is_plain(value.p[run]) && !dots) run++;
        if (!buf_add(out, value.p + i, run - i)) return false;
        i = run;
        if (i < value.n && !buf_printf(out, "%%%02X", (unsigned char)value.p[i++])) return false;
    }
    return true;
}

static bool add_value(struct buf *out, enum key_field field, struct str value, size_t limit) {
    /* Encoding only lengthens: what is too long now needs no encoding. */
    if (value.n > limit || (value.n > 0 && memchr(value.p, '\0', value.n))) return false;
    if (field == KEY_PREFIX) return utf8_valid(value) && buf_str(out, value);
    return add_encoded(out, value);
}

bool key_make(const struct key_template *t, const struct key_values *values, size_t limit,
              struct buf *out) {
    size_t start = out->n;
    bool ok = true;
    for (size_t i = 0; ok && i < t->n; i++) {
        const struct part *part = &t->parts[i];
        ok = buf_str(out, part->literal);
        if (ok && part->field != KEY_FIELDS)
            ok = add_value(out, part->field, values->v[part->field], limit);
        ok = ok && out->n - start <= limit;
    }
    if (!ok) out->n = start;
    return ok;
}

void key_date(int64_t ms, char ret[11]) {
    const int64_t end_of_9999 = 253402300799;
    int64_t s = ms < 0 ? 0 : ms / 1000 > end_of_9999 ? end_of_9999 : ms / 1000;
    char text[UTC_TEXT];
    utc_text(s, text);
    memcpy(ret, text, 10);
    ret[10] = '\0';
}
