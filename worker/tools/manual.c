#include "worker/tools/manual.h"

#include <ctype.h>
#include <string.h>

#include "config/config.h"

/* ---- the texts ---- */

enum line_kind { LINE_EMPTY, LINE_USAGE, LINE_OPTION, LINE_MORE, LINE_TEXT };

struct line {
    enum line_kind kind;
    struct str head, text; /* of an option: how it is written, and what is said of it beside that */
};

/* What the next line of a help is; *text moves past it. usage: whether the lines of usage last. */
static struct line next_line(const char **text, bool *usage) {
    size_t n = strcspn(*text, "\n"), head = 2;
    struct str all = {*text, n};
    *text += n + ((*text)[n] == '\n');
    *usage = (*usage || str_starts(all, "usage: ")) && n > 0;
    if (n == 0) return (struct line){.kind = LINE_EMPTY};
    if (*usage)
        return (struct line){LINE_USAGE,
                             .text = str_trim((struct str){all.p + 6, n > 6 ? n - 6 : 0})};
    if (!str_starts(all, "  ")) return (struct line){LINE_TEXT, .text = all};
    if (!str_starts(all, "  -")) return (struct line){LINE_MORE, .text = str_trim(all)};
    while (head < n && !(all.p[head] == ' ' && head + 1 < n && all.p[head + 1] == ' ')) head++;
    return (struct line){LINE_OPTION, str_trim((struct str){all.p, head}),
                         str_trim((struct str){all.p + head, n - head})};
}

/* ---- man ---- */

/* A dash that is typed, and what would begin a request. */
static void put_roff(FILE *f, struct str s) {
    if (s.n && strchr(".'", *s.p)) fputs("\\&", f);
    for (size_t i = 0; i < s.n; i++)
        if (s.p[i] == '\\')
            fputs("\\e", f);
        else if (s.p[i] == '-')
            fputs("\\-", f);
        else if (s.p[i] == '`')
            fputs("\\(ga", f);
        else if (s.p[i] == '\'')
            fputs("\\(aq", f);
        else if (s.p[i] == '^')
            fputs("\\(ha", f);
        else if (s.p[i] == '~')
            fputs("\\(ti", f);
        else
            fputc(s.p[i], f);
}

static void put_roff_line(FILE *f, struct str s) {
    put_roff(f, s);
    fputc('\n', f);
}

static void man_text(const char *text, FILE *f) {
    bool usage = false, begun = false, in_option = false;
    enum line_kind before = LINE_EMPTY;
    while (*text) {
        struct line l = next_line(&text, &usage);
        switch (l.kind) {
        case LINE_EMPTY:
            break;
        case LINE_USAGE:
            if (!begun) fputs(".PP\n", f);
            if (begun && str_starts(l.text, "runsink")) fputs(".br\n", f);
            put_roff_line(f, l.text);
            break;
        case LINE_OPTION:
            fputs(".TP\n.B ", f);
            put_roff_line(f, l.head);
            if (l.text.n) put_roff_line(f, l.text);
            in_option = true;
            break;
        case LINE_MORE:
            put_roff_line(f, l.text);
            break;
        case LINE_TEXT:
            if (in_option || before == LINE_EMPTY || before == LINE_USAGE) fputs(".PP\n", f);
            in_option = false;
            put_roff_line(f, l.text);
            break;
        }
        begun = true;
        before = l.kind;
    }
}

static void man_head(const char *name, const char *section, const char *what, FILE *f) {
    fprintf(f, ".\\\" As `runsink help` prints it: scripts/reference\n");
    fprintf(f, ".TH %s %s \"\" runsink \"runsink\"\n.ad l\n.SH NAME\n", name, section);
    put_roff(f, str_c(what));
    fputc('\n', f);
}

void manual_print(const struct manual *m, FILE *f) {
    man_head("RUNSINK", "1", m->summary, f);
    fputs(".SH SYNOPSIS\n.B runsink\n[COMMAND] [OPTIONS]\n.SH COMMANDS\n", f);
    for (size_t i = 0; i < m->n; i++) {
        fprintf(f, ".SS %s\n", m->commands[i].name);
        man_text(m->commands[i].help, f);
    }
    fputs(".SH OPTIONS OF EVERY COMMAND\n", f);
    man_text(m->options, f);
    fputs(".SH FILES\n.TP\n.I /etc/runsink/runsink.ini\nThe configuration: see\n"
          ".BR runsink.ini (5).\n.SH SEE ALSO\n.BR runsink.ini (5)\n",
          f);
}

/* ---- runsink.ini ---- */

void manual_print_config(FILE *f) {
    man_head("RUNSINK.INI", "5", "runsink.ini - the configuration of runsink", f);
    fputs(
        ".SH DESCRIPTION\n"
        "Lines of the form name = value; comments, which begin with # or ;, have lines of their\n"
        "own. window.age is the key age below [window]; keys without a dot stand before the first\n"
        "section. Later wins: this file, then variables (RUNSINK_WINDOW_AGE), then\n"
        ".BR \\-\\-set .\n"
        "A secret is best kept in a file of its own: its value is @/path, or the variable\n"
        "RUNSINK_..._FILE=/path. Below [kafka] stands any property of librdkafka under its own\n"
        "name.\n"
        ".SH KEYS\n",
        f);
    size_t n = config_key_count();
    for (size_t i = 0; i < n; i++) {
        struct config_key_text k = config_key_text(i);
        fprintf(f, ".TP\n.B %s\n", k.name);
        put_roff_line(f, str_c(k.help));
        fputs("Takes: ", f);
        config_key_takes(i, f);
        if (*k.def) {
            fputs("; default: ", f);
            put_roff(f, str_c(k.def));
        }
        fputs(k.secret ? ". Secret" : "", f);
        fputs(k.reload ? ". SIGHUP rereads it.\n" : ".\n", f);
    }
    fputs(".SH SEE ALSO\n.BR runsink (1)\n", f);
}

/* ---- bash ---- */

/* Each option that a head names: "--from TIME, --to TIME" are two. */
static void each_option(struct str head, void (*one)(struct str name, struct str value, FILE *),
                        FILE *f) {
    while (head.n) {
        size_t n = 0, name = 0;
        while (n < head.n && head.p[n] != ',') n++;
        struct str part = str_trim((struct str){head.p, n});
        while (name < part.n && part.p[name] != ' ') name++;
        one((struct str){part.p, name}, str_trim((struct str){part.p + name, part.n - name}), f);
        n += n < head.n;
        head = (struct str){head.p + n, head.n - n};
    }
}

static void each_line(const char *help, void (*one)(struct str, struct str, FILE *), FILE *f) {
    bool usage = false;
    while (*help) {
        struct line l = next_line(&help, &usage);
        if (l.kind == LINE_OPTION) each_option(l.head, one, f);
    }
}

static void put_name(struct str name, struct str value, FILE *f) {
    (void)value;
    fprintf(f, " %.*s", (int)name.n, name.p);
}

static bool is_choice(struct str value) {
    return value.n && memchr(value.p, '|', value.n) && islower((unsigned char)*value.p);
}

static void put_choices(struct str choices, FILE *f) {
    for (size_t i = 0; i < choices.n; i++) fputc(choices.p[i] == '|' ? ' ' : choices.p[i], f);
}

static void put_value(struct str name, struct str value, FILE *f) {
    if (str_is(value, "FILE"))
        fprintf(f, "        %.*s) words=FILES ;;\n", (int)name.n, name.p);
    else if (str_is(value, "DIR"))
        fprintf(f, "        %.*s) words=FOLDERS ;;\n", (int)name.n, name.p);
    else if (is_choice(value)) {
        fprintf(f, "        %.*s) words='", (int)name.n, name.p);
        put_choices(value, f);
        fputs("' ;;\n", f);
    } else if (value.n && !str_is(name, "--set"))
        fprintf(f, "        %.*s) words=NOTHING ;;\n", (int)name.n, name.p);
}

static void put_key_values(FILE *f) {
    for (size_t i = 0; i < config_key_count(); i++) {
        struct config_key_text k = config_key_text(i);
        if (!k.choices.n) continue;
        fprintf(f, "        %s) words='", k.name);
        put_choices(k.choices, f);
        fputs("' ;;\n", f);
    }
}

static const char bash_head[] = "# Completion of runsink for bash, as `runsink help --completion` "
                                "prints it: scripts/reference\n"
                                "# shellcheck shell=bash\n\n";

/* bash breaks words at =, unless it was told not to. word: what the cursor's word is a value of. */
static const char bash_body[] = "_runsink() {\n"
                                "    local cur=${COMP_WORDS[COMP_CWORD]} at=$((COMP_CWORD - 1)) i\n"
                                "    local word prefix='' command='' words=''\n"
                                "    if [[ $cur == = ]]; then cur=''; elif [[ ${COMP_WORDS[at]} == "
                                "= ]]; then at=$((at - 1)); fi\n"
                                "    word=${COMP_WORDS[at]}\n"
                                "    if [[ $cur == ?*=* ]]; then\n"
                                "        word=${cur%=*} prefix=${cur%=*}= cur=${cur##*=}\n"
                                "        word=${word##*=}\n"
                                "    fi\n"
                                "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
                                "        case ${COMP_WORDS[i]} in\n"
                                "        --config | --set)\n"
                                "            i=$((i + 1))\n"
                                "            [[ ${COMP_WORDS[i]} != = ]] || i=$((i + 1))\n"
                                "            [[ ${COMP_WORDS[i + 1]:-} != = ]] || i=$((i + 2))\n"
                                "            ;;\n"
                                "        -* | =) ;;\n"
                                "        *)\n"
                                "            command=${COMP_WORDS[i]}\n"
                                "            break\n"
                                "            ;;\n"
                                "        esac\n"
                                "    done\n";

static const char bash_tail[] =
    "    case $words in\n"
    "    FILES) mapfile -t COMPREPLY < <(compgen -f -- \"$cur\"); compopt -o filenames ;;\n"
    "    FOLDERS) mapfile -t COMPREPLY < <(compgen -d -- \"$cur\"); compopt -o filenames ;;\n"
    "    NOTHING) ;;\n"
    "    *) mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\") ;;\n"
    "    esac\n"
    "    COMPREPLY=(\"${COMPREPLY[@]/#/$prefix}\")\n"
    "    if [[ $word == --set ]]; then compopt -o nospace; fi\n"
    "}\n"
    "complete -F _runsink runsink\n";

void manual_print_completion(const struct manual *m, FILE *f) {
    fputs(bash_head, f);
    fputs(bash_body, f);
    fputs("    case $word in\n    --set)\n        words='", f);
    for (size_t i = 0; i < config_key_count(); i++) {
        struct config_key_text k = config_key_text(i);
        fprintf(f, "%s%s=", i ? " " : "", k.name);
    }
    fputs(" kafka.' ;;\n    *)\n        case $word in\n", f);
    put_key_values(f);
    each_line(m->options, put_value, f);
    for (size_t i = 0; i < m->n; i++) each_line(m->commands[i].help, put_value, f);
    fputs("        esac ;;\n    esac\n    [[ -z $words ]] || command=' '\n    case $command in\n"
          "    ' ') ;;\n    '')\n        words='help",
          f);
    for (size_t i = 0; i < m->n; i++) fprintf(f, " %s", m->commands[i].name);
    each_line(m->options, put_name, f);
    fputs("' ;;\n    help) words='--man --man-config --completion", f);
    for (size_t i = 0; i < m->n; i++) fprintf(f, " %s", m->commands[i].name);
    fputs("' ;;\n", f);
    for (size_t i = 0; i < m->n; i++) {
        fprintf(f, "    %s) words='", m->commands[i].name);
        each_line(m->commands[i].help, put_name, f);
        each_line(m->options, put_name, f);
        fputs("' ;;\n", f);
    }
    fputs("    esac\n", f);
    fputs(bash_tail, f);
}
