#include "worker/base/failures.h"

#include "worker/base/text.h"

static const struct reason {
    enum counter id;
    const char *name, *whys;
} reasons[] = {
#define FAILURE(id, name, whys, words) {COUNTER_FAILED_##id, name, whys},
#include "worker/base/failures.def"
};
#define N_REASONS (sizeof reasons / sizeof *reasons)

/* "http-503", "proxy-502": by the first digit alone, since the rest is the other side's choice. */
static enum counter by_class(const char *why) {
    if (strncmp(why, "proxy-", 6) == 0) return COUNTER_FAILED_PROXY;
    if (strncmp(why, "http-", 5) != 0) return COUNTER_FAILED_OTHER;
    return why[5] == '3'   ? COUNTER_FAILED_HTTP_3XX
           : why[5] == '4' ? COUNTER_FAILED_HTTP_4XX
           : why[5] == '5' ? COUNTER_FAILED_HTTP_5XX
                           : COUNTER_FAILED_OTHER;
}

enum counter failure_counter(const char *why) {
    for (size_t i = 0; i < N_REASONS; i++)
        if (text_lists(reasons[i].whys, str_c(why))) return reasons[i].id;
    return by_class(why);
}

const char *failure_reason(const char *why) {
    enum counter id = failure_counter(why);
    size_t i = 0;
    while (reasons[i].id != id) i++;
    return reasons[i].name;
}
