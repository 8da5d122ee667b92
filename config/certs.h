/* Until when the certificates are valid that the configuration names. Each key has one date: for
 * the process' own certificate the earliest of its chain, for a bundle of authorities the latest,
 * since one that ends may have its successor beside it. Read by the main thread, dates by any. */
#ifndef RUNSINK_CERTS_H
#define RUNSINK_CERTS_H

#include <stdatomic.h>

#include "config/config.h"

#define CERTS 7
#define CERT_SOON_DAYS 30
#define CERT_CLOSE_DAYS 3

/* Unix time; 0: the key is not set, or names a folder; CERT_UNREADABLE: nothing to be read there.
 */
#define CERT_UNREADABLE (-1)
struct certs {
    int64_t until_s[CERTS];
};
const char *cert_key(size_t i); /* i < CERTS */
void certs_read(const struct config *, struct certs *ret);

/* What a process knows of its own. */
struct cert_watch {
    _Atomic int64_t until_s[CERTS]; /* as above */
    int told[CERTS];
};
/* Looks at the files, now and then, and tells in the log what is about to end. Kafka's clients have
 * read theirs when they were made: of these the earliest that was seen counts until a restart. */
void cert_watch_look(struct cert_watch *, const struct config *, int64_t now_s);
/* "until 2026-01-31T12:00:00Z, 12 days", ", EXPIRED" or the like. */
#define CERT_TEXT 96
const char *cert_text(int64_t until_s, int64_t now_s, char ret[CERT_TEXT]);

#endif
