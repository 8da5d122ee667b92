/* Whether a part of the ledger (--from, --to) is whole, partition by partition: the entry before
 * the first one of that time has to stand before it, and the one after the last behind it. A
 * partition that has no entry of that time has to go on, over it, from one entry to the next, or to
 * end before it where the group has committed. Otherwise entries of the time that was asked for are
 * missing. Fed with each intact entry of that time, then with those outside of it until nothing is
 * open. Pure: no I/O, no clock; one thread. */
#ifndef RUNSINK_VERIFY_MARGIN_H
#define RUNSINK_VERIFY_MARGIN_H

#include "worker/tools/verify_files.h"

struct margin;
/* The committed state of the snapshot is to be known before anything is fed. keys: none, signatures
 * are not checked; all is borrowed. */
struct margin *margin_new(const struct snapshot *, const struct ledger_pubkey *keys, size_t n_keys,
                          struct audit *);
void margin_free(struct margin *);

void margin_entry(struct margin *, const struct ledger_entry *);
/* Ledger records from behind that time on, in their order; how many partitions wait for one. */
void margin_after(struct margin *, struct str value);
size_t margin_after_open(const struct margin *);
/* Those from before that time, in any order, after all that came from behind. */
void margin_before(struct margin *, struct str key, struct str value);
size_t margin_before_open(struct margin *);
void margin_finish(struct margin *);

#endif
