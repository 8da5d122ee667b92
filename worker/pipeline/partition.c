#include "worker/pipeline/partition.h"

#include <inttypes.h>
#include <stdio.h>

#include "worker/pipeline/lane.h"

struct partition *partition_find(const struct lane *lane, uint64_t serial) {
    for (struct partition *p = lane->partitions; p; p = p->next)
        if (p->serial == serial) return p;
    return NULL;
}

struct partition *partition_named(const struct lane *lane, const char *topic, int32_t id) {
    for (struct partition *p = lane->partitions; p; p = p->next)
        if (p->id == id && strcmp(p->topic, topic) == 0) return p;
    return NULL;
}

void partition_name(const struct partition *p, char ret[PARTITION_NAME_MAX]) {
    snprintf(ret, PARTITION_NAME_MAX, "%s/%" PRId32, p->topic, p->id);
}

int64_t partition_at(const struct partition *p) {
    const struct window *open = windows_open(&p->windows);
    return open ? open->last_taken + 1 : p->windows.next;
}

bool partition_at_end(const struct partition *p) {
    return p->eof && !feed_waiting(p->feed);
}
