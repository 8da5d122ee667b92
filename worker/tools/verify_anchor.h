/* The judgement of `runsink verify` on anchors: every entry that an anchor names must stand in the
 * ledger as it was. Fed with the anchors first, then with each intact entry. An anchor can only ask
 * for more; one that was forged or written twice hides nothing. Pure: no I/O, no clock; one thread.
 * Memory: about 100 bytes for each head that differs from the ones known, bounded. */
#ifndef RUNSINK_VERIFY_ANCHOR_H
#define RUNSINK_VERIFY_ANCHOR_H

#include "worker/kafka/reader.h"
#include "worker/ledger/anchor.h"
#include "worker/tools/verify_files.h"

struct anchored;
/* The group and source are those of the snapshot; keys: none, signatures are not checked. The
 * limits are those that the ledger is read with, findings go to the audit. All is borrowed for as
 * long as it lives. */
struct anchored *anchored_new(const struct snapshot *, const struct ledger_pubkey *keys,
                              size_t n_keys, const struct reader_limits *, struct audit *);
void anchored_free(struct anchored *);

/* An anchor's bytes; name: how findings call it. When its store got it; 0: not known. */
void anchored_add(struct anchored *, const char *name, struct str value, int64_t written_ms);
/* How many there were, but for those that are another group's. */
uint64_t anchored_count(const struct anchored *);
void anchored_entry(struct anchored *, const struct ledger_entry *);
/* After the last entry, before the audit judges: tells it what is anchored. */
void anchored_vouch(const struct anchored *);
/* The committed state of the snapshot is known by now. Judges what only the end can tell. */
void anchored_finish(struct anchored *);

struct anchored_sums {
    uint64_t of_group;     /* well-formed, and of this group */
    uint64_t anchors;      /* of the limits' time too */
    uint64_t heads, found; /* different ones, and those that the ledger has */
    uint64_t early;        /* those older than the first entry that was read */
    int64_t newest_ms;     /* the last anchor's time; 0: there is none */
    uint64_t stopped;      /* partitions whose anchors stopped before others' */
};
void anchored_sums(const struct anchored *, struct anchored_sums *ret);

#endif
