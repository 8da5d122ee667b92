/* Ledger entries from anyone who can write to the ledger topic: each line of the input is an entry,
 * judged in order. Nothing may crash, hang or leak; what is accepted is canonical, so its hash
 * member alone can be wrong. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

#include "worker/tools/verify_audit.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ignore(void *context, const struct finding *f) {
    (void)context;
    assert(f->code && f->text);
}

static void check_ranges(const struct ledger_entry *e) {
    for (size_t i = 0; i < e->n_groups; i++) {
        const struct ledger_group *g = &e->groups[i];
        uint64_t n = 0;
        for (size_t k = 0; k < g->n_offsets; k++) {
            assert(g->offsets[k].a >= 0 && g->offsets[k].a <= g->offsets[k].z);
            n += (uint64_t)(g->offsets[k].z - g->offsets[k].a) + 1;
        }
        assert(n == g->count && n > 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct audit_options opts = {
        .source = "jobs", .group = "runsink", .keep_seen = true, .report = ignore};
    struct audit *a = audit_new(&opts);
    struct ledger_place place = {.name = "fuzz"};
    const char *p = (const char *)data, *end = p + size;
    while (p < end) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        struct str line = {p, (size_t)((stop ? stop : end) - p)};
        struct arena arena = {0};
        struct ledger_entry e;
        struct ledger_read_error why;
        uint64_t records = 0;
        bool ok = ledger_read(line, &arena, &e, &why);
        if (ok) {
            check_ranges(&e);
            for (size_t i = 0; i < e.n_groups; i++) records += e.groups[i].count;
        } else {
            assert(why.what && why.at <= line.n);
        }
        arena_free(&arena);
        /* A parked range is followed record by record: bounded in the audit, but not for a fuzzer's
         * patience. */
        if (records < 10000) audit_entry(a, line, line, &place);
        place.offset++;
        p = line.p + line.n + 1;
    }
    audit_finish(a);
    audit_free(a);
    return 0;
}
