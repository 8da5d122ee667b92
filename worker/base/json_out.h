/* JSON, written into a buffer. Each value is a member of the object that is open (name given) or an
 * element of the array (name NULL); the commas between them come by themselves, also
 * after what somebody else wrote into the buffer. Text that is not UTF-8 becomes U+FFFD, so that
 * what comes out is always JSON. False, with nothing of the value added, past the buffer's ceiling.
 * Pure; any thread. */
#ifndef RUNSINK_JSON_OUT_H
#define RUNSINK_JSON_OUT_H

#include <stdint.h>

#include "worker/base/buf.h"

bool out_open(struct buf *, const char *name, char bracket);   /* '{' or '[' */
bool out_close(struct buf *, char bracket);                    /* '}' or ']' */
bool out_string(struct buf *, const char *name, const char *); /* NULL: null */
bool out_str(struct buf *, const char *name, struct str);      /* p NULL: null */
/* Text from outside on its way to a terminal: see shown_json(). */
bool out_shown(struct buf *, const char *name, const char *); /* NULL: null */
bool out_int(struct buf *, const char *name, int64_t);
bool out_uint(struct buf *, const char *name, uint64_t);
bool out_bool(struct buf *, const char *name, bool);
bool out_hex(struct buf *, const char *name, const uint8_t *, size_t n);
/* What is JSON already. */
bool out_raw(struct buf *, const char *name, struct str);

#endif
