#include <errno.h>
#include <ini.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/table.h"

#define FILE_MAX (1 << 20)

/* The text that inih is fed from. inih cuts lines at a length fixed when it was built (200 bytes)
 * and takes " ;" inside a value as a comment, both silently. So it is given each line as far as it
 * fits and decides what the line is; a value is taken from the whole line kept here. */
struct source {
    struct config *config;
    const char *name;
    struct str rest; /* not read yet */
    struct str line; /* being read, blanks around it dropped */
    int number;
    bool failed;
    struct buf *err;
};

static void complain(struct source *s, const char *what) {
    s->failed = true;
    buf_printf(s->err, "%s:%d: %s\n", s->name, s->number, what);
}

static void check_line(struct source *s) {
    for (size_t i = 0; i < s->line.n; i++) {
        unsigned char c = (unsigned char)s->line.p[i];
        if (c >= 0x20 || c == '\t') continue;
        complain(s, "holds a control character");
        s->line.n = 0;
        return;
    }
    const char *end = s->line.n && s->line.p[0] == '[' ? memchr(s->line.p, ']', s->line.n) : NULL;
    if (!end) return;
    struct str section = {s->line.p + 1, (size_t)(end - s->line.p) - 1};
    if (!config_section_known(section)) {
        complain(s, "unknown section; `runsink check --reference-ini` prints all of them");
        s->line.n = 0;
    }
}

/* inih's reader: fgets() over the text. */
static char *next_line(char *ret, int size, void *user) {
    struct source *s = user;
    if (s->rest.n == 0) return NULL;
    const char *newline = memchr(s->rest.p, '\n', s->rest.n);
    size_t n = newline ? (size_t)(newline - s->rest.p) : s->rest.n;
    struct str line = {s->rest.p, n};
    n += newline != NULL;
    s->rest = (struct str){s->rest.p + n, s->rest.n - n};
    s->number++;
    if (line.n && line.p[line.n - 1] == '\r') line.n--;
    s->line = str_trim(line);
    check_line(s);
    size_t room = (size_t)size - 2;
    size_t keep = s->line.n < room ? s->line.n : room;
    memcpy(ret, s->line.p, keep);
    memcpy(ret + keep, "\n", 2);
    return ret;
}

/* A text value with " #" or " ;" in it is nearly always a comment meant for people. */
static bool has_comment(const char *value) {
    for (const char *p = value; *p; p++)
        if ((*p == ' ' || *p == '\t') && (p[1] == '#' || p[1] == ';')) return true;
    return false;
}

static bool is_secret(const char *name) {
    if (strncmp(name, "kafka.", 6) == 0) return config_kafka_secret(name + 6);
    const struct key *k = key_find(name);
    return k && k->flags & SECRET;
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
    if (!is_secret(name) && has_comment(value)) {
        buf_printf(s->err, "%s:%d: %s: put the comment on a line of its own\n", s->name, s->number,
                   quote(name, q));
        return false;
    }
    char origin[4200];
    snprintf(origin, sizeof origin, "%s:%d", s->name, s->number);
    return config_set(s->config, name, value, origin, s->err);
}

/* inih calls this for each name = value. An error is told here, and inih hears nothing of it: what
 * inih returns in the end is then the first line that inih itself could not read. */
static int on_value(void *user, const char *section, const char *name, const char *cut) {
    struct source *s = user;
    (void)cut;
    size_t skip = 0;
    while (skip < s->line.n && s->line.p[skip] != '=' && s->line.p[skip] != ':') skip++;
    skip += skip < s->line.n;
    struct str rest = str_trim((struct str){s->line.p + skip, s->line.n - skip});
    char *value = xstrndup(rest.p, rest.n);
    struct buf full;
    buf_init(&full, 512);
    bool fits = *section ? buf_printf(&full, "%s.%s", section, name) : buf_puts(&full, name);
    bool ok = fits && set_line(s, buf_cstr(&full), value);
    if (!fits) complain(s, "the name is too long");
    if (!ok) s->failed = true;
    wipe(value, rest.n);
    free(value);
    buf_free(&full);
    return 1;
}

bool config_read_text(struct config *c, const char *name, struct str text, struct buf *err) {
    struct source s = {.config = c, .name = name, .rest = text, .err = err};
    c->unended = text.n && text.p[text.n - 1] != '\n';
    int line = ini_parse_stream(next_line, &s, on_value, &s);
    if (line != 0) {
        s.number = line < 0 ? 0 : line;
        complain(&s, "expected name = value, [section], or a comment after #");
    }
    return !s.failed;
}

bool config_read_file(struct config *c, const char *path, struct buf *err) {
    char q[QUOTE_MAX];
    FILE *f = fopen(path, "re");
    if (!f) {
        buf_printf(err, "can't open the configuration file %s: %s\n", quote(path, q),
                   strerror(errno));
        return false;
    }
    char *text = xmalloc(FILE_MAX);
    size_t n = fread(text, 1, FILE_MAX, f);
    bool ok = false;
    if (ferror(f))
        buf_printf(err, "can't read the configuration file %s: %s\n", quote(path, q),
                   strerror(errno));
    else if (n == FILE_MAX)
        buf_printf(err, "the configuration file %s is larger than 1 MiB\n", quote(path, q));
    else
        ok = config_read_text(c, path, (struct str){text, n}, err);
    fclose(f);
    wipe(text, n);
    free(text);
    return ok;
}
