#include "worker/tools/verify_export.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "worker/base/json_out.h"

#define VERSIONS_MAX 1000
#define NAME_SIZE (TOPIC_MAX + 32)

static bool is_empty(const char *dir) {
    DIR *d = opendir(dir);
    size_t n = 0;
    if (!d) return false;
    while (readdir(d)) n++;
    closedir(d);
    return n == 2; /* . and .. */
}

bool export_open(const char *dir, struct buf *err) {
    if (mkdir(dir, 0777) == 0 || (errno == EEXIST && is_empty(dir))) return true;
    if (errno != EEXIST) return files_errno(err, "make", dir, NULL);
    buf_printf(err, "%s is not an empty folder: give --export a new one", dir);
    return false;
}

static bool close_written(FILE *f) {
    bool ok = !ferror(f);
    return fclose(f) == 0 && ok;
}

/* A value that is an entry holds no newline; one that is none must not become two lines. */
static void put_line(FILE *f, struct str value) {
    for (size_t i = 0; i < value.n;) {
        const char *stop = memchr(value.p + i, '\n', value.n - i);
        size_t n = stop ? (size_t)(stop - value.p) - i : value.n - i;
        fwrite(value.p + i, 1, n, f);
        if (stop) fputc(' ', f);
        i += n + (stop != NULL);
    }
    fputc('\n', f);
}

/* Opened for each entry: there may be more partitions than file descriptors. */
bool export_entry(const char *dir, struct str key, struct str value, struct buf *err) {
    char name[NAME_SIZE] = FILES_UNNAMED;
    struct str topic;
    int32_t partition;
    if (ledger_read_key(key, &topic, &partition))
        snprintf(name, sizeof name, "%.*s-%d" FILES_SUFFIX, (int)topic.n, topic.p, (int)partition);
    FILE *f = files_open(dir, name, "ae");
    if (!f) return files_errno(err, "open", dir, name);
    put_line(f, value);
    return close_written(f) || files_errno(err, "write", dir, name);
}

static void make_folders(const char *dir, const char *name) {
    char path[4096];
    for (const char *at = name; (at = strchr(at, '/')); at++) {
        snprintf(path, sizeof path, "%s/%.*s", dir, (int)(at - name), name);
        mkdir(path, 0777); /* what matters is whether the file can be made */
    }
}

bool export_anchor(const char *dir, const char *name, struct str value, struct buf *err) {
    char path[128];
    snprintf(path, sizeof path, FILES_ANCHORS "/%s", name);
    make_folders(dir, path);
    FILE *f = files_open(dir, path, "wxe");
    for (int version = 2; !f && errno == EEXIST && version < VERSIONS_MAX; version++) {
        snprintf(path, sizeof path, FILES_ANCHORS "/%s.%d", name, version);
        f = files_open(dir, path, "wxe");
    }
    if (!f) return files_errno(err, "create", dir, path);
    fwrite(value.p, 1, value.n, f);
    return close_written(f) || files_errno(err, "write", dir, path);
}

static void put_committed(struct buf *b, const struct committed *c) {
    out_open(b, NULL, '{');
    out_string(b, "topic", c->topic);
    out_int(b, "partition", c->partition);
    out_int(b, "offset", c->offset);
    if (c->has_meta) {
        out_uint(b, "entries", c->meta.seq);
        out_hex(b, "head", c->meta.head, SHA256_LEN);
    }
    out_close(b, '}');
}

/* Over all that stands before it, as an entry's. */
static void put_seal(struct buf *b, const struct ledger_signer *signer) {
    uint8_t hash[SHA256_LEN], sig[LEDGER_SIG_LEN];
    sha256(b->p, b->n, hash);
    ledger_sign(signer, hash, SHA256_LEN, sig);
    out_hex(b, "hash", hash, SHA256_LEN);
    buf_puts(b, ",\"sig\":\"");
    base64_add(b, sig, sizeof sig);
    buf_puts(b, "\"");
    out_string(b, "key", ledger_signer_id(signer));
}

static void put_manifest(struct buf *b, const struct snapshot *s,
                         const struct ledger_signer *signer) {
    out_open(b, NULL, '{');
    out_int(b, "v", 1);
    out_string(b, "source", s->source);
    out_string(b, "group", s->group);
    if (s->cluster[0]) out_string(b, "cluster", s->cluster);
    out_bool(b, "partial", s->partial);
    out_bool(b, "unfinished", s->unfinished);
    if (s->has_anchors) out_int(b, "anchors", s->anchors);
    out_open(b, "committed", '[');
    for (size_t i = 0; i < s->n_committed; i++) put_committed(b, &s->committed[i]);
    out_close(b, ']');
    out_open(b, "drained", '[');
    for (size_t i = 0; i < s->n_drained; i++) out_string(b, NULL, s->drained[i]);
    out_close(b, ']');
    if (signer) put_seal(b, signer);
    out_close(b, '}');
}

bool export_finish(const char *dir, const struct snapshot *s, const struct ledger_signer *signer,
                   struct buf *err) {
    struct buf b;
    FILE *f = files_open(dir, FILES_MANIFEST, "wxe");
    if (!f) return files_errno(err, "create", dir, FILES_MANIFEST);
    buf_init(&b, FILES_MANIFEST_MAX);
    put_manifest(&b, s, signer);
    put_line(f, (struct str){b.p, b.n});
    buf_free(&b);
    return close_written(f) || files_errno(err, "write", dir, FILES_MANIFEST);
}

