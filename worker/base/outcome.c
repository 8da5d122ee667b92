#include "worker/base/outcome.h"

#include <stdarg.h>
#include <stdio.h>

struct outcome outcome_ok(int status) {
    return (struct outcome){.verdict = VERDICT_OK, .status = status};
}

void outcome_token(char *ret, size_t size, struct str text) {
    size_t n = text.n < size - 1 ? text.n : size - 1;
    for (size_t i = 0; i < n; i++) ret[i] = char_is_plain(text.p[i]) ? text.p[i] : '-';
    ret[n] = '\0';
}

void outcome_text(char *ret, size_t size, struct str text) {
    size_t n = text.n < size - 1 ? text.n : size - 1;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text.p[i];
        ret[i] = c >= 0x20 && c < 0x7f ? (char)c : '?';
    }
    ret[n] = '\0';
}

struct outcome outcome_fail(enum verdict verdict, enum fault fault, const char *why,
                            const char *detail_fmt, ...) {
    struct outcome o = {.verdict = verdict, .fault = fault};
    outcome_token(o.why, sizeof o.why, str_c(why));
    if (detail_fmt) {
        char line[sizeof o.detail];
        va_list ap;
        va_start(ap, detail_fmt);
        vsnprintf(line, sizeof line, detail_fmt, ap);
        va_end(ap);
        outcome_text(o.detail, sizeof o.detail, str_c(line));
    }
    return o;
}

const char *fault_name(enum fault f) {
    switch (f) {
    case FAULT_NONE:
        return "none";
    case FAULT_TENANT:
        return "tenant";
    case FAULT_DATA:
        return "data";
    case FAULT_SYSTEM:
        return "system";
    }
    return "?";
}

const char *verdict_name(enum verdict v) {
    switch (v) {
    case VERDICT_OK:
        return "ok";
    case VERDICT_RETRY:
        return "retry";
    case VERDICT_PERMANENT:
        return "permanent";
    }
    return "?";
}
