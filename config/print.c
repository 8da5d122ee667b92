#include <stdio.h>

#include "config/table.h"
#include "worker/base/json_out.h"

#define WIDTH 100

typedef void setting_fn(void *context, const char *name, const char *value, const char *origin,
                        bool differs);

/* Every key and every [kafka] property that is set; secrets as ***. */
static void each_setting(const struct config *c, setting_fn *fn, void *context) {
    for (size_t i = 0; i < config_n_keys; i++) {
        const struct key *k = &config_keys[i];
        const struct setting *s = &c->settings[i];
        const char *value = s->text ? s->text : k->def;
        bool differs = strcmp(value, k->def) != 0;
        if (k->flags & SECRET && s->origin) value = "***", differs = true;
        fn(context, k->name, value, s->origin, differs);
    }
    for (size_t i = 0; i < c->kafka_names.n; i++) {
        char name[256];
        snprintf(name, sizeof name, "kafka.%s", c->kafka_names.v[i]);
        bool secret = config_kafka_secret(c->kafka_names.v[i]);
        fn(context, name, secret ? "***" : c->kafka_values.v[i], c->kafka_origins.v[i], true);
    }
}

struct printing {
    FILE *f;
    bool all;
    size_t left_out;
};

static void print_setting(void *context, const char *name, const char *value, const char *origin,
                          bool differs) {
    struct printing *p = context;
    FILE *f = p->f;
    if (!differs && !p->all) {
        p->left_out++;
        return;
    }
    int n = fprintf(f, "%s = %s", name, value);
    fprintf(f, "%*s# %s\n", n < 48 ? 48 - n : 1, "", origin ? origin : "default");
}

void config_print(const struct config *c, bool all, FILE *f) {
    struct printing p = {.f = f, .all = all};
    each_setting(c, print_setting, &p);
    if (p.left_out)
        fprintf(f, "# %zu others are at their defaults: --all shows them\n", p.left_out);
}

static void put_json(void *context, const char *name, const char *value, const char *origin,
                     bool unused) {
    struct buf *b = context;
    (void)unused;
    out_open(b, name, '{');
    out_string(b, "value", value);
    out_string(b, "origin", origin ? origin : "default");
    out_close(b, '}');
}

void config_json(const struct config *c, struct buf *b) {
    out_open(b, NULL, '{');
    each_setting(c, put_json, b);
    out_close(b, '}');
}

/* What a key takes, for people. */
static void print_type(FILE *f, const struct key *k) {
    char min[32], max[32];
    value_print(k, k->min, min, sizeof min);
    value_print(k, k->max, max, sizeof max);
    switch (k->type) {
    case TYPE_STR:
        fputs("text", f);
        break;
    case TYPE_BOOL:
        fputs("true, false", f);
        break;
    case TYPE_INT:
    case TYPE_MS:
    case TYPE_BYTES:
        fprintf(f, "%s to %s", min, max);
        break;
    case TYPE_ENUM:
        for (const char *p = k->help; *p != ' '; p++)
            if (*p == '|')
                fputs(", ", f);
            else
                fputc(*p, f);
        break;
    case TYPE_LIST:
        fputs("list", f);
        break;
    }
}

size_t config_key_count(void) {
    return config_n_keys;
}

struct config_key_text config_key_text(size_t i) {
    const struct key *k = &config_keys[i];
    struct str choices = k->type == TYPE_BOOL   ? STR("true|false")
                         : k->type == TYPE_ENUM ? (struct str){k->help, strcspn(k->help, " ")}
                                                : STR("");
    return (struct config_key_text){.name = k->name,
                                    .def = k->def,
                                    .help = key_help(k),
                                    .choices = choices,
                                    .secret = (k->flags & SECRET) != 0,
                                    .reload = (k->flags & RELOAD) != 0,
                                    .rule = (k->flags & RULE) != 0};
}

void config_key_takes(size_t i, FILE *f) {
    print_type(f, &config_keys[i]);
}

/* '|' would end the cell. */
static void print_cell(FILE *f, const char *text) {
    for (; *text; text++) {
        if (*text == '|') fputc('\\', f);
        fputc(*text, f);
    }
}

void config_print_reference(FILE *f) {
    fputs("| Key | Default | Takes | Meaning |\n|---|---|---|---|\n", f);
    for (size_t i = 0; i < config_n_keys; i++) {
        const struct key *k = &config_keys[i];
        fprintf(f, "| `%s` | ", k->name);
        if (*k->def) fprintf(f, "`%s`", k->def);
        fputs(" | ", f);
        print_type(f, k);
        fputs(" | ", f);
        print_cell(f, key_help(k));
        if (k->flags & SECRET) fputs(" Secret.", f);
        if (k->flags & RELOAD) fputs(" SIGHUP rereads it.", f);
        if (k->flags & RULE) fputs(" A rule.", f);
        fputs(" |\n", f);
    }
}

static void print_quoted(FILE *f, const char *text) {
    fputc('"', f);
    for (; *text; text++) {
        if (*text == '"' || *text == '\\') fputc('\\', f);
        fputc(*text, f);
    }
    fputc('"', f);
}

/* JSON Schema holds numbers against their bounds; for a text's number and unit the chart's
 * templates do it. */
static void print_bounds(FILE *f, const struct key *k, const char *unit) {
    fprintf(f, "\"minimum\": %lld, \"maximum\": %lld, \"x-unit\": \"%s\", \"x-takes\": \"",
            (long long)k->min, (long long)k->max, unit);
    print_type(f, k);
    fputc('"', f);
}

static void print_choices(FILE *f, const struct key *k) {
    fputs("\"enum\": [", f);
    for (const char *p = k->help; *p != ' ';) {
        size_t n = strcspn(p, "| ");
        fprintf(f, "\"%.*s\", ", (int)n, p);
        p += n + (p[n] == '|');
    }
    fputs("null]", f);
}

/* What a values file may say: YAML's numbers, switches and lists as well as their text; null is as
 * good as nothing. */
static void print_schema_type(FILE *f, const struct key *k) {
    switch (k->type) {
    case TYPE_STR:
        fprintf(f,
                "\"type\": [\"string\", \"number\", \"boolean\", \"null\"], "
                "\"minLength\": %lld, \"maxLength\": %lld",
                (long long)k->min, (long long)k->max);
        break;
    case TYPE_BOOL:
        fputs("\"enum\": [true, false, \"true\", \"false\", \"on\", \"off\", null]", f);
        break;
    case TYPE_INT:
        fputs("\"type\": [\"integer\", \"string\", \"null\"], ", f);
        print_bounds(f, k, "number");
        break;
    case TYPE_BYTES:
        fputs("\"type\": [\"integer\", \"string\", \"null\"], ", f);
        print_bounds(f, k, "size");
        break;
    case TYPE_MS:
        fputs("\"type\": [\"string\", \"null\"], ", f);
        print_bounds(f, k, "time");
        break;
    case TYPE_ENUM:
        print_choices(f, k);
        break;
    case TYPE_LIST:
        fprintf(f,
                "\"type\": [\"string\", \"array\", \"number\", \"null\"], \"minLength\": %lld, "
                "\"maxLength\": %lld, \"items\": {\"type\": [\"string\", \"number\"], "
                "\"pattern\": \"^[^,]+$\"}",
                (long long)k->min, (long long)k->max);
        break;
    }
}

void config_print_schema(FILE *f) {
    fputs(
        "{\n"
        "  \"$comment\": \"As `runsink check --reference-schema` prints it: scripts/reference\",\n"
        "  \"type\": \"object\",\n",
        f);
    fprintf(f, "  \"x-memory\": {\"percent\": %d, \"beside_mib\": %d},\n", CONFIG_MEMORY_PERCENT,
            CONFIG_MEMORY_BESIDE_MIB);
    fputs("  \"additionalProperties\": false,\n"
          "  \"patternProperties\": {\n"
          "    \"^kafka\\\\.[a-z0-9._-]+$\": {\"type\": [\"string\", \"number\", \"boolean\", "
          "\"null\"]}\n"
          "  },\n"
          "  \"properties\": {\n",
          f);
    for (size_t i = 0; i < config_n_keys; i++) {
        const struct key *k = &config_keys[i];
        fprintf(f, "    \"%s\": {\"description\": ", k->name);
        print_quoted(f, key_help(k));
        fputs(", \"default\": ", f);
        print_quoted(f, k->def);
        fputs(", ", f);
        if (k->flags & SECRET)
            fputs("\"x-secret\": true", f);
        else
            print_schema_type(f, k);
        fputs(i + 1 < config_n_keys ? "},\n" : "}\n", f);
    }
    fputs("  }\n}\n", f);
}

/* Text as comment lines, broken between words. */
static void print_comment(FILE *f, const char *text) {
    size_t column = 0;
    while (*text) {
        size_t n = strcspn(text, " ");
        if (column && column + 1 + n > WIDTH) {
            fputc('\n', f);
            column = 0;
        }
        column += (size_t)fprintf(f, "%s%.*s", column ? " " : "# ", (int)n, text);
        text += n;
        while (*text == ' ') text++;
    }
    fputc('\n', f);
}

static void print_ini_key(FILE *f, const struct key *k) {
    size_t section = key_section(k);
    fputc('\n', f);
    print_comment(f, key_help(k));
    fputs("# Takes: ", f);
    print_type(f, k);
    fputs(k->flags & SECRET ? "; or @/path of a file that holds it" : "", f);
    fputs(k->flags & RELOAD ? ". SIGHUP rereads it.\n" : ".\n", f);
    fprintf(f, "#%s =%s%s\n", k->name + section + (section > 0), *k->def ? " " : "", k->def);
}

static bool same_section(const struct key *a, const struct key *b) {
    size_t n = key_section(a);
    return n == key_section(b) && strncmp(a->name, b->name, n) == 0;
}

/* A section's keys, wherever they stand in the table, when k is the first of them. */
static void print_ini_section(FILE *f, const struct key *k) {
    for (const struct key *before = config_keys; before < k; before++)
        if (same_section(before, k)) return;
    if (key_section(k)) fprintf(f, "\n[%.*s]\n", (int)key_section(k), k->name);
    for (size_t i = 0; i < config_n_keys; i++)
        if (same_section(&config_keys[i], k)) print_ini_key(f, &config_keys[i]);
}

static const char intro[] =
    "# runsink.ini: every key at its default, as `runsink check --reference-ini` prints it.\n"
    "#\n"
    "# name = value, one a line; comments on lines of their own. Later wins: this file, then\n"
    "# variables (window.age is RUNSINK_WINDOW_AGE, a [kafka] property sasl.password is\n"
    "# RUNSINK_KAFKA_SASL_PASSWORD), then --set window.age=5s. A secret is best kept in a file of\n"
    "# its own: write @/path here, or set RUNSINK_..._FILE=/path.\n";

static const char kafka[] = "\n[kafka]\n"
                            "\n"
                            "# Any librdkafka property under its own name. Those that runsink's "
                            "promises rest on are fixed,\n"
                            "# and refused here.\n"
                            "#bootstrap.servers = localhost:9092\n"
                            "#security.protocol = SASL_SSL\n"
                            "#sasl.mechanism = SCRAM-SHA-512\n"
                            "#sasl.username = runsink\n"
                            "#sasl.password = @/run/secrets/kafka-password\n";

void config_print_ini(FILE *f) {
    fputs(intro, f);
    /* Keys without a section must come before the first one. */
    for (size_t i = 0; i < config_n_keys; i++)
        if (key_section(&config_keys[i]) == 0) print_ini_section(f, &config_keys[i]);
    fputs(kafka, f);
    for (size_t i = 0; i < config_n_keys; i++)
        if (key_section(&config_keys[i]) > 0) print_ini_section(f, &config_keys[i]);
}
