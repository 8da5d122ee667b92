#include "worker/kafka/topic_names.h"

#include <stdio.h>

#include "config/config.h"

static bool ends(const char *name, const char *end, size_t *ret_base) {
    size_t n = strlen(name), k = strlen(end);
    if (n <= k || strcmp(name + n - k, end) != 0) return false;
    *ret_base = n - k;
    return true;
}

enum topic_kind topic_kind(const char *name, size_t *ret_base) {
    enum topic_kind kind = TOPIC_SOURCE;
    size_t base = strlen(name);
    const char *dot = strrchr(name, '.');
    int64_t ms;
    if (ends(name, ".ledger", &base)) {
        kind = TOPIC_LEDGER;
    } else if (ends(name, ".outcomes", &base)) {
        kind = TOPIC_OUTCOMES;
    } else if (ends(name, ".dead.tenant", &base) || ends(name, ".dead.data", &base) ||
               ends(name, ".dead.system", &base)) {
        kind = TOPIC_DEAD;
    } else if (dot && dot - name > 6 && memcmp(dot - 6, ".retry", 6) == 0 &&
               config_parse_ms(dot + 1, &ms)) {
        kind = TOPIC_RETRY;
        base = (size_t)(dot - name) - 6;
    }
    if (ret_base) *ret_base = base;
    return kind;
}

enum topic_kind topic_source(const char *name, char ret[TOPIC_MAX + 1]) {
    size_t base;
    enum topic_kind kind = topic_kind(name, &base);
    snprintf(ret, TOPIC_MAX + 1, "%.*s", (int)base, name);
    return kind;
}

bool topic_is_of(const char *name, const char *source, enum topic_kind *ret_kind) {
    size_t base;
    *ret_kind = topic_kind(name, &base);
    return base == strlen(source) && strncmp(name, source, base) == 0;
}

static bool join(char ret[TOPIC_MAX + 1], const char *source, const char *middle, const char *end) {
    int n = snprintf(ret, TOPIC_MAX + 1, "%s%s%s", source, middle, end);
    return n >= 0 && n <= TOPIC_MAX;
}

bool topic_retry(const char *source, const char *delay, char ret[TOPIC_MAX + 1]) {
    return join(ret, source, ".retry.", delay);
}

bool topic_dead(const char *source, enum fault fault, char ret[TOPIC_MAX + 1]) {
    return join(ret, source, ".dead.", fault_name(fault));
}

bool topic_ledger(const char *source, char ret[TOPIC_MAX + 1]) {
    return join(ret, source, ".ledger", "");
}

bool topic_outcomes(const char *source, char ret[TOPIC_MAX + 1]) {
    return join(ret, source, ".outcomes", "");
}

enum fault topic_dead_fault(const char *name) {
    size_t base;
    if (topic_kind(name, &base) != TOPIC_DEAD) return FAULT_NONE;
    const char *fault = name + base + strlen(".dead.");
    return strcmp(fault, "tenant") == 0 ? FAULT_TENANT
           : strcmp(fault, "data") == 0 ? FAULT_DATA
                                        : FAULT_SYSTEM;
}

bool topic_is_leftover(const struct config *c, const char *name) {
    const char *delay = strrchr(name, '.');
    for (size_t i = 0; delay && i < c->retry_delays.n; i++)
        if (strcmp(delay + 1, c->retry_delays.v[i]) == 0) return false;
    return true;
}
