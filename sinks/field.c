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
        } else if (!cJSON_Compare(found, child, true)) {
            *reterr = outcome_fail(VERDICT_PERMANENT, FAULT_DATA, "conflicting-field",
                                   "sink.%s stands twice with different values", camel);
            *retbad = true;
            return NULL;
        }
    }
    return found && !cJSON_IsNull(found) ? found : NULL;
}
