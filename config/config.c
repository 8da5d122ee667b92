#include "config/config.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/table.h"
#include "worker/base/key.h"
#include "worker/base/log.h"
#include "worker/base/nearby.h"

const struct key config_keys[] = {
#define KEY(field, name_, type_, default_, min_, max_, flags_, help_)                              \
    {.name = (name_),                                                                              \
     .type = TYPE_##type_,                                                                         \
     .def = (default_),                                                                            \
     .min = (min_),                                                                                \
     .max = (max_),                                                                                \
     .flags = (flags_),                                                                            \
     .help = (help_),                                                                              \
     .offset = offsetof(struct config, field)},
#include "config/keys.def"
};
const size_t config_n_keys = sizeof config_keys / sizeof *config_keys;

#define KAFKA_PROPERTIES_MAX 200
#define SECRET_MAX 65536

const struct key *key_find(const char *name) {
    for (size_t i = 0; i < config_n_keys; i++)
        if (strcmp(config_keys[i].name, name) == 0) return &config_keys[i];
    return NULL;
}

size_t key_section(const struct key *k) {
    const char *dot = strchr(k->name, '.');
    return dot ? (size_t)(dot - k->name) : 0;
}

const char *key_help(const struct key *k) {
    return k->type == TYPE_ENUM ? k->help + strcspn(k->help, " ") + 1 : k->help;
}

void key_env(const char *name, char ret[KEY_NAME_MAX]) {
    int n = snprintf(ret, KEY_NAME_MAX, "RUNSINK_%s", name);
    for (int i = 0; i < n && ret[i]; i++) {
        if (ret[i] == '.') ret[i] = '_';
        ret[i] = (char)toupper((unsigned char)ret[i]);
    }
}

bool config_section_known(struct str name) {
    if (str_is(name, "kafka")) return true;
    for (size_t i = 0; i < config_n_keys; i++) {
        const char *key = config_keys[i].name;
        if (strncmp(key, name.p, name.n) == 0 && key[name.n] == '.') return true;
    }
    return false;
}

static void *field_of(struct config *c, const struct key *k) {
    return (char *)c + k->offset;
}

static struct setting *setting_of(const struct config *c, const struct key *k) {
    return &c->settings[k - config_keys];
}

struct config *config_new(void) {
    struct config *c = xcalloc(1, sizeof *c);
    c->settings = xcalloc(config_n_keys, sizeof *c->settings);
    for (size_t i = 0; i < config_n_keys; i++) {
        struct buf err;
        buf_init(&err, 1024);
        bool ok =
            value_set(&config_keys[i], config_keys[i].def, field_of(c, &config_keys[i]), &err);
        /* A default that breaks its own key's rules is a bug, found by the first start. */
        if (!ok) fprintf(stderr, "keys.def: %s: %s\n", config_keys[i].name, buf_cstr(&err));
        if (!ok) abort();
        buf_free(&err);
    }
    return c;
}

/* A URL's user:password and the password alone are secrets, the rest of it is none; anything else
 * is one as a whole. */
static void each_part(const char *secret, void (*each)(struct str)) {
    const char *p = strstr(secret, "://");
    if (!p) {
        each(str_c(secret));
        return;
    }
    p += strlen("://");
    const char *at = strrchr(p, '@');
    const char *colon = at ? memchr(p, ':', (size_t)(at - p)) : NULL;
    if (at) each((struct str){p, (size_t)(at - p)});
    if (colon) each((struct str){colon + 1, (size_t)(at - colon) - 1});
}

void config_secrets(const struct config *c, void (*each)(struct str)) {
    for (size_t i = 0; i < config_n_keys; i++) {
        const struct key *k = &config_keys[i];
        const void *field = (const char *)c + k->offset;
        const struct list *l = field;
        if (!(k->flags & SECRET)) continue;
        if (k->type == TYPE_STR) each_part(*(char *const *)field, each);
        for (size_t e = 0; k->type == TYPE_LIST && e < l->n; e++) each_part(l->v[e], each);
    }
    for (size_t i = 0; i < c->kafka_names.n; i++)
        if (config_kafka_secret(c->kafka_names.v[i])) each(str_c(c->kafka_values.v[i]));
}

/* The egress tables are const for everybody else. */
static void free_const(const void *p) {
    free((void *)(uintptr_t)p);
}

void config_free(struct config *c) {
    if (!c) return;
    if (c->secrets_added) config_secrets(c, secret_drop);
    for (size_t i = 0; i < config_n_keys; i++) {
        value_free(&config_keys[i], field_of(c, &config_keys[i]));
        free(c->settings[i].text);
        free(c->settings[i].origin);
    }
    free(c->settings);
    list_free(&c->kafka_names);
    list_wipe(&c->kafka_values);
    list_free(&c->kafka_origins);
    free_const(c->egress.allow);
    free_const(c->egress.deny);
    free_const(c->egress.ports);
    free(c->retry_delays_ms);
    free(c->skips);
    key_template_free(c->object_key);
    key_template_free(c->batch_key);
    free(c->override_dir);
    free(c);
}

static bool unknown_key(const char *name, struct buf *err) {
    struct nearby guess = {.typed = name};
    for (size_t i = 0; i < config_n_keys; i++) {
        const char *key = config_keys[i].name;
        const char *last = strrchr(key, '.');
        /* The section is what was forgotten. */
        if (last && strcmp(last + 1, name) == 0 && !(guess.name && guess.distance == 0))
            guess = (struct nearby){.typed = name, .name = key, .same = strlen(key)};
        nearby_look(&guess, key);
    }
    char q[QUOTE_MAX], near[NEARBY_TEXT];
    buf_printf(err, "unknown key %s%s", quote(name, q), nearby_text(&guess, near));
    return false;
}

bool config_kafka_secret(const char *name) {
    return strstr(name, "password") || strstr(name, "passphrase") || strstr(name, "secret") ||
           strcmp(name, "ssl.key.pem") == 0 || strcmp(name, "ssl_key") == 0 ||
           strstr(name, "private.key.pem") || strcmp(name, "sasl.oauthbearer.config") == 0;
}

bool key_is_secret(const char *name) {
    const struct key *k = key_find(name);
    return k ? (k->flags & SECRET) != 0
             : strncmp(name, "kafka.", 6) == 0 && config_kafka_secret(name + 6);
}

static size_t kafka_index(const struct config *c, const char *name) {
    size_t i = 0;
    while (i < c->kafka_names.n && strcmp(c->kafka_names.v[i], name) != 0) i++;
    return i;
}

const char *config_kafka(const struct config *c, const char *name) {
    size_t i = kafka_index(c, name);
    return i < c->kafka_names.n ? c->kafka_values.v[i] : NULL;
}

int64_t config_kafka_ms(const struct config *c, const char *name, int64_t otherwise) {
    const char *set = config_kafka(c, name);
    return set ? strtoll(set, NULL, 10) : otherwise;
}

static bool kafka_set(struct config *c, const char *name, const char *value, const char *origin,
                      struct buf *err) {
    if (*name == '\0' || name[strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789._-")]) {
        char q[QUOTE_MAX];
        buf_printf(err, "\"%s\" is not a librdkafka property", quote(name, q));
        return false;
    }
    size_t i = kafka_index(c, name);
    if (i == KAFKA_PROPERTIES_MAX) {
        buf_printf(err, "more than %d kafka properties", KAFKA_PROPERTIES_MAX);
        return false;
    }
    if (i == c->kafka_names.n) {
        list_add(&c->kafka_names, str_c(name));
        list_add(&c->kafka_values, str_c(value));
        list_add(&c->kafka_origins, str_c(origin));
        return true;
    }
    wipe(c->kafka_values.v[i], strlen(c->kafka_values.v[i]));
    free(c->kafka_values.v[i]);
    free(c->kafka_origins.v[i]);
    c->kafka_values.v[i] = xstrdup(value);
    c->kafka_origins.v[i] = xstrdup(origin);
    return true;
}

/* Sets one value, secrets' files not looked at; err gets the bare reason. */
static bool set_text(struct config *c, const char *name, const struct key *k, const char *text,
                     const char *origin, struct buf *err) {
    if (!k) return kafka_set(c, name, text, origin, err);
    if (!value_set(k, text, field_of(c, k), err)) return false;
    struct setting *s = setting_of(c, k);
    free(s->text);
    free(s->origin);
    s->text = k->flags & SECRET ? NULL : xstrdup(text);
    s->origin = xstrdup(origin);
    return true;
}

bool config_set(struct config *c, const char *name, const char *value, const char *origin,
                struct buf *err) {
    bool kafka = strncmp(name, "kafka.", 6) == 0;
    const char *property = kafka ? name + 6 : name;
    const struct key *k = kafka ? NULL : key_find(name);
    struct buf why, text;
    buf_init(&why, 1024);
    buf_init(&text, SECRET_MAX);
    bool ok;
    if (!kafka && !k) {
        ok = unknown_key(name, &why);
    } else if (key_is_secret(name)) {
        ok = secret_resolve(value, k && k->type == TYPE_LIST, &text, &why) &&
             set_text(c, property, k, buf_cstr(&text), origin, &why);
    } else {
        ok = set_text(c, property, k, value, origin, &why);
    }
    if (!ok) {
        buf_printf(err, "%s: ", origin);
        if (kafka || k) buf_printf(err, "%s: ", name);
        buf_printf(err, "%s\n", buf_cstr(&why));
    }
    buf_free(&why);
    buf_wipe(&text);
    return ok;
}
