#include "tests/sim/second.h"

#include <inttypes.h>
#include <string.h>

#include "tests/sim/broker.h"
#include "tests/sim/events.h"
#include "tests/sim/fleet.h"
#include "tests/sim/plan.h"
#include "tests/sim/world.h"
#include "worker/tools/verify_audit.h"

/* Of a topic whose records nobody saw: they were aborted, or removed before. */
static bool is_nothing(const char *source) {
    for (int i = 0; i < events_count(); i++) {
        const struct event *e = events_get(i);
        bool outcome = e->delivered + e->skipped + e->dead + e->lost;
        if (outcome && strcmp(events_topic(e->topic), source) == 0) return false;
    }
    return true;
}

static void report(void *source, const struct finding *f) {
    if (strcmp(f->code, "nothing-verified") == 0 && is_nothing(source)) return;
    /* What retention took is to be found, and so is a group's state that went with its topic. */
    if (f->note || (plan.retention && strcmp(f->code, "lost") == 0) ||
        (plan.expiry && strcmp(f->code, "committed-missing") == 0))
        return;
    world_fail("verify: %s: %s/%d/%" PRId64 ": %s", f->code, f->topic ? f->topic : "?",
               (int)f->partition, f->offset, f->text);
}

/* The group's offset of a partition, if it has one. */
static void expect(struct audit *a, const char *topic, int32_t partition) {
    struct str text;
    struct meta meta;
    int64_t offset = broker_committed(topic, partition, &text);
    if (offset < 0) return;
    audit_expect(a, topic, partition, offset, meta_decode(text, &meta) ? &meta : NULL);
}

/* All has come to its end: the group has committed what is in the ledger, and nothing else. */
static void compare(struct audit *a, const char *topic) {
    for (int32_t p = 0; p < broker_partitions(topic); p++) {
        struct str text;
        struct meta meta;
        int64_t offset = broker_committed(topic, p, &text);
        audit_now(a, topic, p, offset, offset >= 0 && meta_decode(text, &meta) ? &meta : NULL);
    }
}

static bool is_of(const char *topic, const char *source, const char *kind) {
    size_t n = strlen(source);
    return strncmp(topic, source, n) == 0 && strncmp(topic + n, kind, strlen(kind)) == 0;
}

static void read_ledger(struct audit *a, const char *ledger) {
    for (int32_t p = 0; p < broker_partitions(ledger); p++) {
        struct broker_record r;
        for (int64_t at = 0; broker_read(ledger, p, at, &r); at = r.offset + 1)
            audit_entry(a, r.key, r.value, &(struct ledger_place){ledger, p, r.offset});
    }
}

static void verify(const char *source) {
    struct audit *a = audit_new(&(struct audit_options){.source = source,
                                                        .group = "runsink",
                                                        .report = report,
                                                        .context = (void *)(uintptr_t)source});
    for (int32_t p = 0; p < broker_partitions(source); p++) expect(a, source, p);
    for (int i = 0; i < fleet_topics(); i++) {
        const char *topic = fleet_topic(i);
        if (!is_of(topic, source, ".retry.")) continue;
        for (int32_t p = 0; p < broker_partitions(topic); p++) expect(a, topic, p);
    }
    for (int i = 0; i < fleet_topics(); i++)
        if (is_of(fleet_topic(i), source, ".ledger")) read_ledger(a, fleet_topic(i));
    compare(a, source);
    for (int i = 0; i < fleet_topics(); i++)
        if (is_of(fleet_topic(i), source, ".retry.")) compare(a, fleet_topic(i));
    for (int i = 0; i < fleet_topics(); i++)
        if (is_of(fleet_topic(i), source, ".retry.")) audit_drained(a, fleet_topic(i));
    audit_finish(a);
    audit_free(a);
}

void second_opinion(void) {
    for (int i = 0; i < events_topics(); i++) verify(events_topic(i));
}
