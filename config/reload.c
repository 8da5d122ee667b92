/* What a SIGHUP may change: the keys that the table marks RELOAD. All else keeps the value that the
 * process started with. */
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

void config_reload(struct config *fresh, const struct config *now, struct buf *taken,
                   struct buf *ignored) {
    for (size_t i = 0; i < config_n_keys; i++) {
        const struct key *k = &config_keys[i];
        const void *from = (const char *)now + k->offset;
        void *to = (char *)fresh + k->offset;
        if (same_value(k, from, to)) continue;
        bool may = k->flags & RELOAD;
        buf_printf(may ? taken : ignored, "%s ", k->name);
        if (!may) copy_value(k, from, to);
    }
}
