#include "worker/base/clock.h"

int64_t clock_us(clockid_t id) {
    struct timespec ts;
    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

int64_t clock_ms(clockid_t id) {
    return clock_us(id) / 1000;
}
