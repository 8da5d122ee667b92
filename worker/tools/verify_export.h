/* Writes a ledger as files, in the form that verify_files.h describes: what `runsink verify
 * --export DIR` does. One thread. */
#ifndef RUNSINK_VERIFY_EXPORT_H
#define RUNSINK_VERIFY_EXPORT_H

#include "worker/tools/verify_files.h"

struct exporter;
/* The folder is made; it must be empty or absent. NULL with a message in err. */
struct exporter *export_open(const char *dir, struct buf *err);
void export_free(struct exporter *);
/* Each is false with a message in err where the folder can't be written. */
bool export_entry(struct exporter *, struct str key, struct str value, struct buf *err);
/* name: a legal anchor's name. */
bool export_anchor(struct exporter *, const char *name, struct str value, struct buf *err);
/* Writes the manifest, last of all, with the digests of what was written; signed, unless the signer
 * is NULL. */
bool export_finish(struct exporter *, const struct snapshot *, const struct ledger_signer *,
                   struct buf *err);

#endif
