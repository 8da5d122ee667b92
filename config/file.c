#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/table.h"

#define FILE_MAX (1 << 20)

static const char not_understood[] = "expected name = value, [section], or a comment after #";

/* A text being read, line by line. */
struct source {
    struct config *config;
    const char *name;
    struct str section; /* without a dot; empty before the first */
    int number;
    bool failed;
    struct buf *err;
};

static void complain(struct source *s, const char *what) {
    s->failed = true;
    buf_printf(s->err, "%s:%d: %s\n", s->name, s->number, what);
}

/* A text value with " #" or " ;" in it is nearly always a comment meant for people. */
static bool has_comment(const char *value) {
    for (const char *p = value; *p; p++)
        if ((*p == ' ' || *p == '\t') && (p[1] == '#' || p[1] == ';')) return true;
    return false;
}

/* Where this file has set the key before, or NULL. */
static const char *set_before(const struct source *s, const char *name) {
    const char *origin = NULL;
    const struct key *k = key_find(name);
    if (k) origin = s->config->settings[k - config_keys].origin;
    for (size_t i = 0; !k && i < s->config->kafka_names.n; i++)
        if (strcmp(s->config->kafka_names.v[i], name + strlen("kafka.")) == 0)
            origin = s->config->kafka_origins.v[i];
    size_t n = strlen(s->name);
    return origin && strncmp(origin, s->name, n) == 0 && origin[n] == ':' ? origin : NULL;
}

static bool set_line(struct source *s, const char *name, const char *value) {
    const char *before = set_before(s, name);
    char q[QUOTE_MAX];
    if (before) {
        char q2[QUOTE_MAX];
        buf_printf(s->err, "%s:%d: %s stands twice, first at %s\n", s->name, s->number,
                   quote(name, q), quote(before, q2));
        return false;
    }
    if (!key_is_secret(name) && has_comment(value)) {
        buf_printf(s->err, "%s:%d: %s: put the comment on a line of its own\n", s->name, s->number,
                   quote(name, q));
        return false;
    }
    char origin[4200];
    snprintf(origin, sizeof origin, "%s:%d", s->name, s->number);
    return config_set(s->config, name, value, origin, s->err);
}

static void read_value(struct source *s, struct str name, struct str text) {
    char *value = xstrndup(text.p, text.n);
    struct buf full;
    buf_init(&full, 512);
    bool fits = buf_str(&full, s->section) && (!s->section.n || buf_putc(&full, '.')) &&
                buf_str(&full, name);
    if (!fits)
        complain(s, "the name is too long");
    else if (!set_line(s, buf_cstr(&full), value))
        s->failed = true;
    wipe(value, text.n);
    free(value);
    buf_free(&full);
}

static const char *read_section(struct source *s, struct str line) {
    const char *end = memchr(line.p, ']', line.n);
    if (!end) return not_understood;
    struct str section = {line.p + 1, (size_t)(end - line.p) - 1};
    if (!config_section_known(section))
        return "unknown section; `runsink check --reference-ini` prints all of them";
    s->section = section;
    return NULL;
}

/* What is wrong with the line, a value apart; NULL: nothing. */
static const char *read_line(struct source *s, struct str line) {
    size_t n = 0;
    for (size_t i = 0; i < line.n; i++)
        if ((unsigned char)line.p[i] < 0x20 && line.p[i] != '\t')
            return "holds a control character";
    if (line.n == 0 || *line.p == '#' || *line.p == ';') return NULL;
    if (*line.p == '[') return read_section(s, line);
    while (n < line.n && line.p[n] != '=' && line.p[n] != ':') n++;
    if (n == line.n) return not_understood;
    read_value(s, str_trim((struct str){line.p, n}),
               str_trim((struct str){line.p + n + 1, line.n - n - 1}));
    return NULL;
}

bool config_read_text(struct config *c, const char *name, struct str text, struct buf *err) {
    struct source s = {.config = c, .name = name, .err = err};
    c->unended = text.n && text.p[text.n - 1] != '\n';
    if (str_starts(text, "\xef\xbb\xbf")) text = (struct str){text.p + 3, text.n - 3};
    while (text.n) {
        const char *newline = memchr(text.p, '\n', text.n);
        struct str line = {text.p, newline ? (size_t)(newline - text.p) : text.n};
        size_t n = line.n + (newline != NULL);
        s.number++;
        if (line.n && line.p[line.n - 1] == '\r') line.n--;
        const char *wrong = read_line(&s, str_trim(line));
        if (wrong) complain(&s, wrong);
        text = (struct str){text.p + n, text.n - n};
    }
    return !s.failed;
}

bool config_read_file(struct config *c, const char *path, struct buf *err) {
    char q[QUOTE_MAX];
    struct buf text;
    buf_init_secret(&text, FILE_MAX);
    bool read = buf_file(&text, path);
    if (!read && errno == EFBIG)
        buf_printf(err, "the configuration file %s is larger than 1 MiB\n", quote(path, q));
    else if (!read)
        buf_printf(err, "can't open the configuration file %s: %s\n", quote(path, q),
                   buf_file_error(errno));
    bool ok = read && config_read_text(c, path, (struct str){text.p, text.n}, err);
    buf_wipe(&text);
    return ok;
}
