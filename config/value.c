#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "config/table.h"
#include "worker/base/outcome.h"
#include "worker/base/rfc3339.h"

struct unit {
    const char *name;
    int64_t factor;
};
static const struct unit time_units[] = {{"d", 86400000}, {"h", 3600000}, {"m", 60000},
                                         {"s", 1000},     {"ms", 1},      {NULL, 0}};
static const struct unit byte_units[] = {
    {"TiB", INT64_C(1) << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20},
    {"KiB", 1 << 10},          {"", 1},          {NULL, 0}};
static const struct unit no_units[] = {{"", 1}, {NULL, 0}};

const char *quote(const char *text, char ret[QUOTE_MAX]) {
    outcome_text(ret, QUOTE_MAX, str_c(text));
    if (strlen(text) >= QUOTE_MAX) memcpy(ret + QUOTE_MAX - 4, "...", 4);
    return ret;
}

void list_add(struct list *l, struct str s) {
    l->v = xrealloc(l->v, (l->n + 1) * sizeof *l->v);
    l->v[l->n++] = xstrndup(s.p, s.n);
}

void list_free(struct list *l) {
    for (size_t i = 0; i < l->n; i++) free(l->v[i]);
    free(l->v);
    *l = (struct list){0};
}

void list_wipe(struct list *l) {
    for (size_t i = 0; i < l->n; i++) wipe(l->v[i], strlen(l->v[i]));
    list_free(l);
}

bool list_split(struct str text, struct list *ret) {
    struct list l = {0};
    text = str_trim(text);
    while (text.n) {
        const char *comma = memchr(text.p, ',', text.n);
        size_t n = comma ? (size_t)(comma - text.p) : text.n;
        struct str entry = str_trim((struct str){text.p, n});
        if (entry.n == 0 || (comma && n + 1 == text.n)) {
            list_wipe(&l);
            return false;
        }
        list_add(&l, entry);
        n += comma != NULL;
        text = (struct str){text.p + n, text.n - n};
    }
    *ret = l;
    return true;
}

/* A whole number and one of the units; false for anything else, overflow included. */
static bool parse_number(const char *text, const struct unit *units, int64_t *ret) {
    const char *digits = *text == '-' ? text + 1 : text;
    if (*digits < '0' || *digits > '9') return false;
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (errno) return false;
    for (; units->name; units++) {
        if (strcmp(end, units->name) != 0) continue;
        if (v > INT64_MAX / units->factor || v < INT64_MIN / units->factor) return false;
        *ret = v * units->factor;
        return true;
    }
    return false;
}

bool config_parse_ms(const char *text, int64_t *ret) {
    return *text != '-' && parse_number(text, time_units, ret);
}

/* The thousandths of a fraction, ".5" for one: 500. */
static int64_t thousandths(const char *fraction) {
    int64_t ms = 0;
    if (*fraction != '.') return 0;
    for (int i = 1, unit = 100; unit && fraction[i] >= '0' && fraction[i] <= '9'; i++, unit /= 10)
        ms += (fraction[i] - '0') * unit;
    return ms;
}

bool config_parse_time(const char *text, int64_t now_ms, int64_t *ret) {
    int64_t ago;
    if (config_parse_ms(text, &ago)) {
        *ret = now_ms > ago ? now_ms - ago : 1;
        return true;
    }
    if (!rfc3339_ok(str_c(text))) return false;
    struct tm tm = {0};
    char sign = '+';
    int hours = 0, minutes = 0;
    const char *fraction = text + strlen("2026-01-31T12:00:00");
    const char *zone = fraction + strspn(fraction, ".0123456789");
    if (sscanf(text, "%4d-%2d-%2d%*1[Tt]%2d:%2d:%2d", &tm.tm_year, &tm.tm_mon, &tm.tm_mday,
               &tm.tm_hour, &tm.tm_min, &tm.tm_sec) != 6)
        return false;
    if (*zone != 'Z' && *zone != 'z' && sscanf(zone, "%c%2d:%2d", &sign, &hours, &minutes) != 3)
        return false;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    int64_t east = (hours * 60 + minutes) * 60 * (sign == '-' ? -1 : 1);
    *ret = ((int64_t)timegm(&tm) - east) * 1000 + thousandths(fraction);
    return *ret > 0;
}

static const struct unit *units_of(enum key_type type) {
    switch (type) {
    case TYPE_MS:
        return time_units;
    case TYPE_BYTES:
        return byte_units;
    case TYPE_STR:
    case TYPE_BOOL:
    case TYPE_INT:
    case TYPE_ENUM:
    case TYPE_LIST:
        break;
    }
    return no_units;
}

void value_print(const struct key *k, int64_t value, char *ret, size_t size) {
    const struct unit *u = units_of(k->type);
    while (u->factor > 1 && (value == 0 || value % u->factor != 0)) u++;
    snprintf(ret, size, "%lld%s", (long long)(value / u->factor), u->name);
}

static bool set_number(const struct key *k, const char *text, int64_t *field, struct buf *err) {
    static const char *const what[] = {
        [TYPE_INT] = "a whole number",
        [TYPE_MS] = "a time such as 500ms, 10s, 5m, 1h or 7d",
        [TYPE_BYTES] = "a size such as 4096, 64KiB, 8MiB or 1GiB",
    };
    char q[QUOTE_MAX];
    int64_t v;
    if (!parse_number(text, units_of(k->type), &v)) {
        buf_printf(err, "\"%s\" is not %s", quote(text, q), what[k->type]);
        return false;
    }
    if (v < k->min || v > k->max) {
        char min[32], max[32];
        value_print(k, k->min, min, sizeof min);
        value_print(k, k->max, max, sizeof max);
        buf_printf(err, "\"%s\" is out of bounds; use %s to %s", quote(text, q), min, max);
        return false;
    }
    *field = v;
    return true;
}

static bool set_bool(const char *text, bool *field, struct buf *err) {
    char q[QUOTE_MAX];
    bool yes = strcmp(text, "true") == 0 || strcmp(text, "on") == 0;
    if (!yes && strcmp(text, "false") != 0 && strcmp(text, "off") != 0) {
        buf_printf(err, "\"%s\" is neither true (on) nor false (off)", quote(text, q));
        return false;
    }
    *field = yes;
    return true;
}

static bool set_enum(const struct key *k, const char *text, int *field, struct buf *err) {
    size_t all = strcspn(k->help, " ");
    size_t len = strlen(text);
    int place = 0;
    for (size_t at = 0; at < all; place++) {
        size_t n = strcspn(k->help + at, "| ");
        if (n == len && memcmp(k->help + at, text, n) == 0) {
            *field = place;
            return true;
        }
        at += n + 1;
    }
    char q[QUOTE_MAX];
    buf_printf(err, "\"%s\" is not one of %.*s", quote(text, q), (int)all, k->help);
    return false;
}

static bool length_fits(const struct key *k, const char *text, struct buf *err) {
    size_t n = strlen(text);
    if (n >= (size_t)k->min && n <= (size_t)k->max) return true;
    if (n == 0)
        buf_puts(err, "must not be empty");
    else
        buf_printf(err, "has %zu characters; use %lld to %lld", n, (long long)k->min,
                   (long long)k->max);
    return false;
}

static bool set_list(const struct key *k, const char *text, struct list *field, struct buf *err) {
    struct list l = {0};
    if (!length_fits(k, text, err)) return false;
    if (!list_split(str_c(text), &l)) {
        buf_puts(err, "has an empty entry; write a, b, c");
        return false;
    }
    value_free(k, field);
    *field = l;
    return true;
}

static bool set_str(const struct key *k, const char *text, char **field, struct buf *err) {
    if (!length_fits(k, text, err)) return false;
    value_free(k, field);
    *field = xstrdup(text);
    return true;
}

bool value_set(const struct key *k, const char *text, void *field, struct buf *err) {
    switch (k->type) {
    case TYPE_STR:
        return set_str(k, text, field, err);
    case TYPE_BOOL:
        return set_bool(text, field, err);
    case TYPE_INT:
    case TYPE_MS:
    case TYPE_BYTES:
        return set_number(k, text, field, err);
    case TYPE_ENUM:
        return set_enum(k, text, field, err);
    case TYPE_LIST:
        return set_list(k, text, field, err);
    }
    return false;
}

void value_free(const struct key *k, void *field) {
    if (k->type == TYPE_LIST) {
        if (k->flags & SECRET)
            list_wipe(field);
        else
            list_free(field);
    } else if (k->type == TYPE_STR) {
        char **s = field;
        if (*s && k->flags & SECRET) wipe(*s, strlen(*s));
        free(*s);
        *s = NULL;
    }
}

#define PIPE_MS 5000

/* A secret's file: at most 64 KiB, one newline at its end dropped. It may be a pipe, as a shell's
 * <(command) is, for as long as its writer does not keep us waiting. */
static bool read_secret(const char *path, struct buf *out, struct buf *err) {
    char q[QUOTE_MAX];
    struct buf text;
    buf_init_secret(&text, 65536);
    const char *wrong = NULL;
    bool read = buf_file_within(&text, path, PIPE_MS) || errno == EFBIG;
    if (!read)
        buf_printf(err, "can't read the secret's file %s: %s", quote(path, q),
                   buf_file_error(errno));
    size_t n = text.n;
    if (n && text.p[n - 1] == '\n') n--;
    if (n && text.p[n - 1] == '\r') n--;
    if (n == 0)
        wrong = "is empty";
    else if (n >= text.max - 1)
        wrong = "is larger than 64 KiB";
    else if (memchr(text.p, '\0', n))
        wrong = "holds a NUL byte";
    else if (!buf_add(out, text.p, n))
        wrong = "is too large";
    if (read && wrong) buf_printf(err, "the secret's file %s %s", quote(path, q), wrong);
    buf_wipe(&text);
    return read && !wrong;
}

bool secret_resolve(const char *text, bool is_list, struct buf *out, struct buf *err) {
    if (!is_list)
        return text[0] == '@' && text[1] == '/' ? read_secret(text + 1, out, err)
                                                : buf_puts(out, text);
    while (*text) {
        size_t n = strcspn(text, ",");
        struct str entry = str_trim((struct str){text, n});
        size_t start = out->n;
        if (str_starts(entry, "@/")) {
            char *path = xstrndup(entry.p + 1, entry.n - 1);
            bool ok = read_secret(path, out, err);
            free(path);
            if (!ok) return false;
        } else {
            buf_str(out, entry);
        }
        for (size_t i = start; i < out->n; i++)
            if (out->p[i] == '\n') out->p[i] = ',';
        text += n;
        if (*text == ',') {
            buf_putc(out, ',');
            text++;
        }
    }
    return true;
}
