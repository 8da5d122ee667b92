/* Anchors, and listings of them, from whoever can write to the operator's bucket or answers in its
 * place. Nothing may crash, hang or leak; an anchor that is accepted has heads, in order. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

#include "worker/ledger/anchor.h"
#include "worker/pipeline/anchor_store.h"
#include "worker/tools/verify_anchor.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ignore(void *context, const struct finding *f) {
    (void)context;
    assert(f->code && f->text);
}

static void judge(struct str value) {
    const struct reader_limits limits = {0};
    const struct snapshot snapshot = {.source = "jobs", .group = "runsink"};
    struct audit_options opts = {.source = "jobs", .group = "runsink", .report = ignore};
    struct anchored_sums sums;
    struct audit *a = audit_new(&opts);
    struct anchored *x = anchored_new(&snapshot, NULL, 0, &limits, a);
    anchored_add(x, "fuzz", value, 0);
    anchored_finish(x);
    anchored_sums(x, &sums);
    assert(sums.found == 0 && sums.heads >= sums.early);
    anchored_free(x);
    audit_free(a);
}

static void check_anchor(struct str value) {
    struct arena arena = {0};
    struct anchor anchor;
    struct ledger_read_error why;
    if (anchor_read(value, &arena, &anchor, &why)) {
        assert(anchor.n > 0 && anchor.canonical.n < value.n);
        for (size_t i = 0; i < anchor.n; i++)
            assert(ledger_topic_legal(anchor.heads[i].topic) && anchor.heads[i].partition >= 0);
    } else {
        assert(why.what && why.at <= value.n);
    }
    arena_free(&arena);
}

static void check_listing(struct str body) {
    struct listing *listing = xcalloc(1, sizeof *listing);
    if (listing_read(body, listing)) {
        for (size_t i = 0; i < listing->n; i++) {
            const struct listed_item *item = &listing->items[i];
            assert(item->key.n && item->key.p >= body.p);
            assert(item->key.p + item->key.n <= body.p + body.n);
            (void)anchor_name_legal(item->key);
        }
    }
    free(listing);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct str text = {(const char *)data, size};
    check_anchor(text);
    check_listing(text);
    judge(text);
    return 0;
}
