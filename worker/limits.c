#include "worker/limits.h"

#include <sys/resource.h>

#include "config/config.h"
#include "worker/log.h"

/* A lane's beside its deliveries: two Kafka clients with a connection and a pipe for each of some
 * brokers, and what it wakes itself by. */
#define FILES_PER_LANE 64
#define FILES_PER_PROCESS 64
#define FILES_PER_LOOKUP 4 /* a name server or two, the machine's own list of hosts */

uint64_t limits_files_needed(const struct config *cfg) {
    return (uint64_t)cfg->lanes *
               ((uint64_t)cfg->http_max_connections +
                FILES_PER_LOOKUP * (uint64_t)cfg->resolver_threads + FILES_PER_LANE) +
           FILES_PER_PROCESS;
}

bool limits_raise_files(uint64_t need, uint64_t *ret_have) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return true; /* not known: nothing to warn of */
    if (limit.rlim_cur < need) {
        struct rlimit more = limit;
        more.rlim_cur = need < limit.rlim_max ? need : limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &more) == 0) limit = more;
    }
    if (limit.rlim_cur >= need) return true;
    *ret_have = limit.rlim_cur;
    return false;
}

void limits_check(const struct config *cfg) {
    uint64_t need = limits_files_needed(cfg), have;
    if (limits_raise_files(need, &have)) return;
    log_warn("too few open files are allowed: deliveries will fail when all connections are used; "
             "raise the limit (ulimit -n, LimitNOFILE=, --ulimit nofile=) or lower "
             "http.max_connections or lanes",
             LOG_I("allowed", have), LOG_I("needed", need), LOG_I("lanes", cfg->lanes),
             LOG_I("http.max_connections", cfg->http_max_connections));
}
