#include "sinks/sink.h"

/* accessKeyId -> access_key_id */
static bool snake_case(const char *camel, char *ret, size_t size) {
    size_t n = 0;
    for (; *camel; camel++) {
        bool upper = *camel >= 'A' && *camel <= 'Z';
        if (n + 3 > size) return false;
        if (upper) ret[n++] = '_';
        ret[n++] = upper ? (char)(*camel + ('a' - 'A')) : *camel;
    }
    ret[n] = '\0';
    return true;
}

/* Whether two values are alike, member for member in the same order: one walk down both. */
static bool same(const cJSON *a, const cJSON *b) {
    if ((a->type & 0xff) != (b->type & 0xff)) return false;
    if (cJSON_IsString(a)) return strcmp(a->valuestring, b->valuestring) == 0;
    if (cJSON_IsNumber(a)) return a->valuedouble == b->valuedouble;
    const cJSON *c = a->child, *d = b->child;
    for (; c && d; c = c->next, d = d->next)
        if ((c->string && strcmp(c->string, d->string) != 0) || !same(c, d)) return false;
    return !c && !d;
}

const cJSON *sink_field(const cJSON *sink, const char *camel, bool *retbad,
                        struct outcome *reterr) {
    char snake[64];
    bool has_snake = snake_case(camel, snake, sizeof snake);
    const cJSON *found = NULL;
    const cJSON *child;
    cJSON_ArrayForEach(child, sink) {
        if (!child->string) continue;
        if (strcmp(child->string, camel) != 0 && !(has_snake && strcmp(child->string, snake) == 0))
            continue;
        if (!found) {
            found = child;
        } else if (!same(found, child)) {
            *reterr = outcome_fail(VERDICT_PERMANENT, FAULT_DATA, "conflicting-field",
                                   "sink.%s stands twice with different values", camel);
            *retbad = true;
            return NULL;
        }
    }
    return found && !cJSON_IsNull(found) ? found : NULL;
}

bool sink_refuse(struct outcome *reterr, enum fault fault, const char *field, const char *what) {
    *reterr = outcome_fail(VERDICT_PERMANENT, fault, "invalid-sink", "sink.%s %s", field, what);
    return false;
}
