#include "worker/limits.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "config/config.h"
#include "worker/base/log.h"

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

uint64_t limits_memory_needed(const struct config *cfg) {
    return (uint64_t)cfg->memory_budget * CONFIG_MEMORY_PERCENT / 100 +
           ((uint64_t)CONFIG_MEMORY_BESIDE_MIB << 20);
}

/* Source: the kernel's Documentation/admin-guide/cgroup-v2.rst: "0::PATH" in /proc/self/cgroup, and
 * memory.max of that group and of all above it. A container sees its own as the root. */
uint64_t limits_memory_allowed(void) {
    char line[512] = "", path[600];
    uint64_t least = UINT64_MAX;
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof line, f) && strncmp(line, "0::", 3) != 0) line[0] = '\0';
    if (f) fclose(f);
    if (strncmp(line, "0::", 3) != 0) return least;
    char *group = line + 3;
    for (size_t n = strcspn(group, "\n");; n--) {
        group[n] = '\0';
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/memory.max", group);
        unsigned long long max;
        f = fopen(path, "re");
        if (f && fscanf(f, "%llu", &max) == 1 && max < least) least = max; /* else "max" */
        if (f) fclose(f);
        while (n > 0 && group[n - 1] != '/') n--;
        if (n == 0) return least;
    }
}

static void check_memory(const struct config *cfg) {
    uint64_t need = limits_memory_needed(cfg), have = limits_memory_allowed();
    if (have >= need) return;
    log_warn("the memory that this process is allowed is less than it may come to take: the kernel "
             "would end it under load; raise the limit (MemoryMax=, limits.memory) or lower "
             "memory.budget",
             LOG_I("allowed", (int64_t)have), LOG_I("needed", (int64_t)need),
             LOG_I("memory.budget", cfg->memory_budget));
}

void limits_check(const struct config *cfg) {
    check_memory(cfg);
    uint64_t need = limits_files_needed(cfg), have;
    if (limits_raise_files(need, &have)) return;
    log_warn("too few open files are allowed: deliveries will fail when all connections are used; "
             "raise the limit (ulimit -n, LimitNOFILE=, --ulimit nofile=) or lower "
             "http.max_connections or lanes",
             LOG_I("allowed", have), LOG_I("needed", need), LOG_I("lanes", cfg->lanes),
             LOG_I("http.max_connections", cfg->http_max_connections));
}
