/* Writes a ledger as files, in the form that verify_files.h describes: what `runsink verify --export
 * DIR` does. One thread. */
#ifndef RUNSINK_VERIFY_EXPORT_H
#define RUNSINK_VERIFY_EXPORT_H

#include "worker/tools/verify_files.h"

/* The folder is made; it must be empty or absent. */
bool export_open(const char *dir, struct buf *err);
bool export_entry(const char *dir, struct str key, struct str value, struct buf *err);
/* name: a legal anchor's name. */
bool export_anchor(const char *dir, const char *name, struct str value, struct buf *err);
/* Writes the manifest, last of all; signed, unless the signer is NULL. */
bool export_finish(const char *dir, const struct snapshot *, const struct ledger_signer *,
                   struct buf *err);

#endif
