/* What a SIGHUP may change: the keys that the table marks RELOAD. All else, and [kafka], keeps the
 * value that the process started with. */
#include <stdlib.h>

#include "config/table.h"

static bool same_list(const struct list *a, const struct list *b) {
    bool same = a->n == b->n;
    for (size_t i = 0; same && i < a->n; i++) same = strcmp(a->v[i], b->v[i]) == 0;
    return same;
}

static bool same_value(const struct key *k, const void *a, const void *b) {
    switch (k->type) {
    case TYPE_STR:
        return strcmp(*(char *const *)a, *(char *const *)b) == 0;
    case TYPE_BOOL:
        return *(const bool *)a == *(const bool *)b;
    case TYPE_ENUM:
        return *(const int *)a == *(const int *)b;
    case TYPE_INT:
    case TYPE_MS:
    case TYPE_BYTES:
        return *(const int64_t *)a == *(const int64_t *)b;
    case TYPE_LIST:
        return same_list(a, b);
    }
    return false;
}

static void copy_value(const struct key *k, const void *from, void *to) {
    value_free(k, to);
    switch (k->type) {
    case TYPE_STR:
        *(char **)to = xstrdup(*(char *const *)from);
        break;
    case TYPE_BOOL:
        *(bool *)to = *(const bool *)from;
        break;
    case TYPE_ENUM:
        *(int *)to = *(const int *)from;
        break;
    case TYPE_INT:
    case TYPE_MS:
    case TYPE_BYTES:
        *(int64_t *)to = *(const int64_t *)from;
        break;
    case TYPE_LIST: {
        const struct list *l = from;
        *(struct list *)to = (struct list){0};
        for (size_t i = 0; i < l->n; i++) list_add(to, str_c(l->v[i]));
        break;
    }
    }
}

/* Nothing of [kafka] may change while clients are open; which properties would is told. */
static void reload_kafka(const struct config *fresh, const struct config *now, struct config *ret,
                         struct buf *ignored) {
    for (size_t i = 0; i < now->kafka_names.n; i++) {
        const char *name = now->kafka_names.v[i], *value = now->kafka_values.v[i];
        const char *wanted = config_kafka(fresh, name);
        list_add(&ret->kafka_names, str_c(name));
        list_add(&ret->kafka_values, str_c(value));
        list_add(&ret->kafka_origins, str_c(now->kafka_origins.v[i]));
        if (!wanted || strcmp(wanted, value) != 0) buf_printf(ignored, "kafka.%s ", name);
    }
    for (size_t i = 0; i < fresh->kafka_names.n; i++)
        if (!config_kafka(now, fresh->kafka_names.v[i]))
            buf_printf(ignored, "kafka.%s ", fresh->kafka_names.v[i]);
}

struct config *config_reload(const struct config *fresh, const struct config *now,
                             struct buf *taken, struct buf *ignored) {
    struct config *ret = config_new();
    for (size_t i = 0; i < config_n_keys; i++) {
        const struct key *k = &config_keys[i];
        const void *new = (const char *)fresh + k->offset, *old = (const char *)now + k->offset;
        bool may = k->flags & RELOAD;
        const struct setting *from = may ? &fresh->settings[i] : &now->settings[i];
        if (!same_value(k, old, new)) buf_printf(may ? taken : ignored, "%s ", k->name);
        copy_value(k, may ? new : old, (char *)ret + k->offset);
        if (from->text) ret->settings[i].text = xstrdup(from->text);
        if (from->origin) ret->settings[i].origin = xstrdup(from->origin);
    }
    reload_kafka(fresh, now, ret, ignored);
    ret->unended = fresh->unended;
    return ret;
}
