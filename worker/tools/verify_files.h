/* A ledger as files: what `runsink verify --export DIR` writes and `runsink verify DIR` reads.
 *     manifest.json                  the source topic, the group's committed state, and each of the
 *                                    other files, with its size and SHA-256
 *     <topic>-<partition>.ndjson     that partition's entries as they were, one a line
 *     unnamed.ndjson                 ledger records whose key names no partition
 *     anchors/2026/01/31/...json     the anchors as they were, under the names that they have in
 *                                    the group's folder (with ".2" added: another version)
 * The manifest is signed where ledger.key is at hand. One that is not is to be kept where the
 * ledger's writers can't change it, or a ledger that was cut short can hide that. One thread. */
#ifndef RUNSINK_VERIFY_FILES_H
#define RUNSINK_VERIFY_FILES_H

#include <stdio.h>

#include "worker/tools/verify_audit.h"

#define FILES_MANIFEST "manifest.json"
#define FILES_MANIFEST_FORM 2 /* form 1 names no files */
#define FILES_MANIFEST_MAX (256u << 20)
#define FILES_UNNAMED "unnamed.ndjson"
#define FILES_SUFFIX ".ndjson"
#define FILES_ANCHORS "anchors"

struct committed {
    char topic[TOPIC_MAX + 1];
    int32_t partition;
    int64_t offset;
    bool has_meta;
    struct meta meta;
};

/* How a manifest ends: SHA-256 of what stands before, a signature over that, and whose. */
struct manifest_seal {
    bool any;    /* it has one, */
    bool intact; /* of the right form, and with the right hash */
    uint8_t hash[SHA256_LEN], sig[LEDGER_SIG_LEN];
    char key[LEDGER_KEY_ID_LEN + 1];
};

/* A file of the export, as its manifest names it. */
struct named_file {
    char *name; /* below the folder */
    uint64_t size;
    uint8_t sha256[SHA256_LEN];
};

/* What was known when the ledger was read. */
struct snapshot {
    struct manifest_seal seal; /* as read */
    char source[TOPIC_MAX + 1];
    char group[201];
    char cluster[CLUSTER_MAX + 1]; /* empty: not known */
    bool partial, unfinished;      /* as in struct audit_options */
    struct committed *committed;
    size_t n_committed;
    char (*drained)[TOPIC_MAX + 1]; /* retry topics, see audit_drained() */
    size_t n_drained;
    bool has_anchors;         /* they were looked for: */
    int64_t anchors;          /* exported */
    bool names_files;         /* as read: */
    struct named_file *files; /* ascending by name */
    size_t n_files;
};
void snapshot_free(struct snapshot *);
struct committed *snapshot_add(struct snapshot *); /* zeroed */
void snapshot_add_drained(struct snapshot *, const char *topic);
/* Tells the audit: first the committed state, then, at the end, what was drained. */
void snapshot_expect(const struct snapshot *, struct audit *);
void snapshot_drained(const struct snapshot *, struct audit *);

/* Reading: the manifest, then all files, each entry given to the audit. */
bool files_snapshot(const char *dir, struct snapshot *ret, struct buf *err);
bool files_audit(const char *dir, struct audit *, struct buf *err);
/* What the manifest's seal is worth, once the audit knows the keys. Whether it is signed by one of
 * them. */
bool files_sealed(const struct snapshot *, struct audit *);
/* Whether the folder holds the files that the manifest names, as they were, and no others that
 * count: entries and what lies below anchors/. What does not fit is a finding. False with a message
 * in err when reading failed. */
bool files_compare(const char *dir, const struct snapshot *, struct audit *, struct buf *err);
/* Where an export's anchors are; the caller's to free. */
char *files_anchors(const char *dir);

/* Paths in the folder: one is the caller's to free, the other opened as by fopen(). */
char *files_path(const char *dir, const char *name);
FILE *files_open(const char *dir, const char *name, const char *mode);
/* Says "cannot WHAT DIR/NAME" and errno in words; name may be NULL. False. */
bool files_errno(struct buf *err, const char *what, const char *dir, const char *name);

#endif
