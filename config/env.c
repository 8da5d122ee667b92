#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "config/table.h"

#define PREFIX "RUNSINK_"
#define KAFKA PREFIX "KAFKA_"

/* Kubernetes puts RUNSINK_SERVICE_HOST, RUNSINK_PORT_9464_TCP_ADDR and the like into a pod whenever
 * a service of its namespace has a name that starts with runsink. */
static bool is_service_link(const char *name, const char *value) {
    size_t n = strlen(name);
    bool host = n > 13 && strcmp(name + n - 13, "_SERVICE_HOST") == 0;
    bool port = n > 5 && strcmp(name + n - 5, "_PORT") == 0 && strstr(value, "://");
    const char *each = strstr(name, "_PORT_");
    bool number = each && isdigit((unsigned char)each[6]) &&
                  (strstr(each, "_TCP") || strstr(each, "_UDP") || strstr(each, "_SCTP"));
    return host || port || number || strstr(name, "_SERVICE_PORT");
}

/* Not a key: the path of the file. */
static bool is_apart(const char *name) {
    return strcmp(name, PREFIX "CONFIG") == 0;
}

/* The key that a variable stands for: its name, or "kafka." and a property; false for none. */
static bool key_of(struct str variable, char ret[KEY_NAME_MAX]) {
    for (size_t i = 0; i < config_n_keys; i++) {
        char env[KEY_NAME_MAX];
        key_env(config_keys[i].name, env);
        if (!str_is(variable, env)) continue;
        snprintf(ret, KEY_NAME_MAX, "%s", config_keys[i].name);
        return true;
    }
    size_t skip = strlen(KAFKA);
    if (!str_starts(variable, KAFKA) || variable.n == skip || variable.n >= KEY_NAME_MAX)
        return false;
    char *to = ret + snprintf(ret, KEY_NAME_MAX, "kafka.");
    for (size_t i = skip; i < variable.n; i++) {
        *to++ = (char)tolower((unsigned char)variable.p[i]);
        if (to[-1] == '_') to[-1] = '.';
    }
    *to = '\0';
    return true;
}

static bool set_from_file(struct config *c, const char *key, const char *path, const char *origin,
                          struct buf *err) {
    if (path[0] != '/') {
        buf_printf(err, "%s: must be an absolute path\n", origin);
        return false;
    }
    struct buf at;
    buf_init(&at, 8192);
    bool ok = buf_printf(&at, "@%s", path);
    if (!ok) buf_printf(err, "%s: the path is too long\n", origin);
    ok = ok && config_set(c, key, buf_cstr(&at), origin, err);
    buf_free(&at);
    return ok;
}

static bool unknown_variable(struct str variable, struct buf *err) {
    char name[QUOTE_MAX], q[QUOTE_MAX];
    size_t n = variable.n < sizeof name - 1 ? variable.n : sizeof name - 1;
    memcpy(name, variable.p, n);
    name[n] = '\0';
    buf_printf(err,
               "environment %s: stands for no key; `runsink check --reference` lists every "
               "key with its variable\n",
               quote(name, q));
    return false;
}

static bool read_variable(struct config *c, struct str variable, const char *value,
                          struct buf *err) {
    char key[KEY_NAME_MAX], origin[KEY_NAME_MAX + 16];
    struct str base = variable;
    bool file = base.n > 5 && memcmp(base.p + base.n - 5, "_FILE", 5) == 0;
    if (file) base.n -= 5;
    if (file && !(key_of(base, key) && key_is_secret(key))) file = false, base = variable;
    if (base.n >= KEY_NAME_MAX || !key_of(base, key)) return unknown_variable(variable, err);
    int n = (int)(variable.n < KEY_NAME_MAX ? variable.n : KEY_NAME_MAX);
    snprintf(origin, sizeof origin, "environment %.*s", n, variable.p);
    return file ? set_from_file(c, key, value, origin, err)
                : config_set(c, key, value, origin, err);
}

/* Whether NAME and NAME_FILE are both there: which one is meant can't be told. */
static bool said_twice(char *const *environ_, struct str variable) {
    for (; *environ_; environ_++)
        if (strncmp(*environ_, variable.p, variable.n) == 0 &&
            strncmp(*environ_ + variable.n, "_FILE=", 6) == 0)
            return true;
    return false;
}

bool config_read_env(struct config *c, char *const *environ_, struct buf *err) {
    bool ok = true;
    for (char *const *e = environ_; *e; e++) {
        const char *equals = strchr(*e, '=');
        if (strncmp(*e, PREFIX, strlen(PREFIX)) != 0 || !equals) continue;
        struct str variable = {*e, (size_t)(equals - *e)};
        char *name = xstrndup(variable.p, variable.n);
        char key[KEY_NAME_MAX];
        if (!is_apart(name) && !is_service_link(name, equals + 1)) {
            bool known = variable.n < KEY_NAME_MAX && key_of(variable, key);
            if (known && key_is_secret(key) && said_twice(environ_, variable)) {
                buf_printf(err, "environment %s: %s_FILE is set too; keep one\n", name, name);
                ok = false;
            }
            ok &= read_variable(c, variable, equals + 1, err);
        }
        free(name);
    }
    return ok;
}
