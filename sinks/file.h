/* The file sink: keys become files below a root folder, each written to a temporary name, synced
 * and renamed, so that a reader never sees half an object. A leftover of a killed process is named
 * ".tmp-..." and removed an hour later by the next one. Nothing is followed out of the root: every
 * step is opened below the last, symbolic links refused. Called on the lane's thread; threads of
 * its own write, so that neither a slow disk nor a deep path holds up a lane. */
#ifndef RUNSINK_FILE_H
#define RUNSINK_FILE_H

#include "sinks/sink.h"

extern const struct sink_type file_sink;

/* The destination of sink.override: everything below root_dir (made when it is missing), prefix
 * empty, type set. False with a FAULT_SYSTEM outcome when the folder can't be used. */
bool file_destination(const char *root_dir, struct destination *ret, struct outcome *reterr);

/* Whether files can be written below root_dir; may_make: or the folder be made, which is left to
 * who does. Changes nothing. False with a phrase in err: what is wrong, and what to do. */
bool file_root_usable(const char *root_dir, bool may_make, struct buf *err);

/* Removes temporary files older than an hour below root. Best effort; called on a thread of its
 * own, once a process. */
void file_clean(const char *root_dir);

#endif
