#include "worker/tools/command.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <time.h>
#include <unistd.h>

#include "worker/base/log.h"
#include "worker/base/shown.h"

extern char **environ;

#define ERRORS_MAX 65536

static struct {
    const char *config; /* --config */
    const char **sets;  /* --set, in order */
    size_t n_sets;
} globals;

int command_usage(const char *command, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    char text[512];
    vsnprintf(text, sizeof text, fmt, ap);
    fprintf(stderr, "runsink%s%s: %s", *command ? " " : "", command, SHOWN(text));
    fprintf(stderr, "\n`runsink%s%s --help` shows how it is used\n", *command ? " " : "", command);
    va_end(ap);
    return EX_USAGE;
}

void command_error(const char *command, struct buf *message) {
    while (message->n && message->p[message->n - 1] == '\n') message->n--;
    fprintf(stderr, "runsink %s: ", command);
    shown_lines(stderr, buf_cstr(message));
    fputc('\n', stderr);
}

/* The value of an option in the form --name VALUE or --name=VALUE at argv[*i], *i moved to its last
 * word. NULL when argv[*i] is something else, or the value is missing (*ret_bad is set). */
static const char *value_of(const char *name, int argc, char **argv, int *i, bool *ret_bad) {
    size_t n = strlen(name);
    if (strncmp(argv[*i], name, n) != 0) return NULL;
    if (argv[*i][n] == '=') return argv[*i] + n + 1;
    if (argv[*i][n] != '\0') return NULL;
    const char *value = *i + 1 < argc ? argv[*i + 1] : NULL;
    *i += value != NULL;
    *ret_bad = value == NULL;
    return value;
}

static int take_value(const char *command, const struct command_option *o, const char *value) {
    struct buf err;
    int rc = EX_OK;
    if (o->flag) return *o->flag = true, EX_OK;
    if (o->text) return *o->text = value, EX_OK;
    buf_init(&err, ERRORS_MAX);
    if (!o->read(value, o->to, &err))
        rc = err.n
                 ? command_usage(command, "%s", buf_cstr(&err))
                 : command_usage(command, "%s takes %s, not \"%.100s\"", o->name, o->takes, value);
    buf_free(&err);
    return rc;
}

int command_options(const char *command, const struct command_option *options, size_t n, int argc,
                    char **argv, const char **operand) {
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i], *value = NULL;
        const struct command_option *o = NULL;
        bool lacks = false;
        for (size_t k = 0; k < n && !o; k++) {
            if (options[k].flag)
                o = strcmp(word, options[k].name) == 0 ? &options[k] : NULL;
            else if ((value = value_of(options[k].name, argc, argv, &i, &lacks)) || lacks)
                o = &options[k];
        }
        if (lacks) return command_usage(command, "%.100s lacks its value", word);
        if (!o && operand && !*operand && word[0] != '-')
            *operand = word;
        else if (!o)
            return command_usage(command, "unexpected: %.100s", word);
        else if (take_value(command, o, value) != EX_OK)
            return EX_USAGE;
    }
    return EX_OK;
}

bool command_time(const char *value, void *to, struct buf *err) {
    (void)err;
    return config_parse_time(value, (int64_t)time(NULL) * 1000, to);
}

bool command_rate(const char *text, void *to, struct buf *err) {
    char *end;
    (void)err;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (errno || *end || n < 1 || n > 1000000) return false;
    *(int64_t *)to = n;
    return true;
}

/* Whether argv[*i] is a global option; it is noted then. */
static bool take_global(int argc, char **argv, int *i, struct command_globals *ret, bool *ret_bad) {
    const char *word = argv[*i];
    const char *config = value_of("--config", argc, argv, i, ret_bad);
    const char *set = config || *ret_bad ? NULL : value_of("--set", argc, argv, i, ret_bad);
    bool help = strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0;
    bool version = strcmp(word, "--version") == 0;
    if (config) globals.config = config;
    if (set) globals.sets[globals.n_sets++] = set;
    ret->help |= help;
    ret->version |= version;
    return config || set || help || version;
}

const char *command_take_globals(int *argc, char **argv, struct command_globals *ret) {
    int n = 0;
    bool bad = false, ours = true;
    globals.sets = xcalloc((size_t)*argc, sizeof *globals.sets);
    for (int i = 0; i < *argc; i++) {
        char *word = argv[i];
        ours = ours && strcmp(word, "--") != 0;
        if (ours && take_global(*argc, argv, &i, ret, &bad)) continue;
        if (bad) return word;
        argv[n++] = word;
    }
    *argc = n;
    return NULL;
}

void command_free_globals(void) {
    free(globals.sets);
}

const char *command_config_path(void) {
    return globals.config;
}

static bool read_file(struct config *c, struct buf *err) {
    const char *path = globals.config ? globals.config : getenv("RUNSINK_CONFIG");
    if (path && *path) return config_read_file(c, path, err);
    return access(COMMAND_CONFIG, F_OK) != 0 || config_read_file(c, COMMAND_CONFIG, err);
}

static bool read_sets(struct config *c, struct buf *err) {
    bool ok = true;
    for (size_t i = 0; i < globals.n_sets; i++) {
        const char *equals = strchr(globals.sets[i], '=');
        char *name = xstrndup(globals.sets[i], strcspn(globals.sets[i], "="));
        if (!equals) buf_puts(err, "--set: expected --set NAME=VALUE\n");
        ok &= equals && config_set(c, name, equals + 1, "--set", err);
        free(name);
    }
    return ok;
}

bool command_read(struct config *c, struct buf *err) {
    bool ok = read_file(c, err);
    ok &= config_read_env(c, environ, err);
    return ok & read_sets(c, err);
}

struct config *command_config(void) {
    struct config *c = config_new();
    struct buf err;
    buf_init(&err, ERRORS_MAX);
    bool ok = command_read(c, &err) && config_finish(c, &err);
    if (!ok) {
        fputs("runsink: the configuration is wrong:\n", stderr);
        shown_lines(stderr, buf_cstr(&err));
        config_free(c);
        c = NULL;
    }
    buf_free(&err);
    if (c) log_setup((enum log_level)c->log_level, c->log_format == 1);
    return c;
}
