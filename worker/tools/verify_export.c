#include "worker/tools/verify_export.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "worker/base/json_out.h"
#include "worker/base/table.h"

#define VERSIONS_MAX 1000
#define NAME_SIZE (TOPIC_MAX + 32)

/* A file that was written: its digest is that of the bytes as they were written, whatever somebody
 * makes of the file meanwhile. */
struct written {
    struct table_node node;
    struct named_file file;
    struct sha256_ctx *digest;
};

struct exporter {
    char *dir;
    struct table index; /* by name */
    struct written **files;
    size_t n;
};

static bool is_empty(const char *dir) {
    DIR *d = opendir(dir);
    size_t n = 0;
    if (!d) return false;
    while (readdir(d)) n++;
    closedir(d);
    return n == 2; /* . and .. */
}

static bool make(const char *dir, struct buf *err) {
    if (mkdir(dir, 0777) == 0 || (errno == EEXIST && is_empty(dir))) return true;
    if (errno != EEXIST) return files_errno(err, "make", dir, NULL);
    buf_printf(err, "%s is not an empty folder: give --export a new one", dir);
    return false;
}

struct exporter *export_open(const char *dir, struct buf *err) {
    if (!make(dir, err)) return NULL;
    struct exporter *x = xcalloc(1, sizeof *x);
    x->dir = xstrdup(dir);
    return x;
}

void export_free(struct exporter *x) {
    uint8_t unused[SHA256_LEN];
    if (!x) return;
    for (size_t i = 0; i < x->n; i++) {
        if (x->files[i]->digest) sha256_end(x->files[i]->digest, unused);
        free(x->files[i]->file.name);
        free(x->files[i]);
    }
    free(x->files);
    table_free(&x->index);
    free(x->dir);
    free(x);
}

static struct written *written_at(struct exporter *x, const char *name) {
    uint64_t hash = keyed_hash(name, strlen(name));
    for (struct table_node *n = table_first(&x->index, hash); n; n = table_next(n)) {
        struct written *w = TABLE_ENTRY(n, struct written, node);
        if (strcmp(w->file.name, name) == 0) return w;
    }
    struct written *w = xcalloc(1, sizeof *w);
    w->file.name = xstrdup(name);
    w->digest = sha256_begin();
    x->files = xgrow(x->files, x->n, sizeof *x->files);
    x->files[x->n++] = w;
    table_add(&x->index, &w->node, hash);
    return w;
}

static void put(struct written *w, FILE *f, const char *p, size_t n) {
    fwrite(p, 1, n, f);
    sha256_add(w->digest, p, n);
    w->file.size += n;
}

static bool close_written(FILE *f) {
    bool ok = !ferror(f);
    return fclose(f) == 0 && ok;
}

/* A value that is an entry holds no newline; one that is none must not become two lines. */
static void put_line(struct written *w, FILE *f, struct str value) {
    for (size_t i = 0; i < value.n;) {
        const char *stop = memchr(value.p + i, '\n', value.n - i);
        size_t n = stop ? (size_t)(stop - value.p) - i : value.n - i;
        put(w, f, value.p + i, n);
        if (stop) put(w, f, " ", 1);
        i += n + (stop != NULL);
    }
    put(w, f, "\n", 1);
}

/* Opened for each entry: there may be more partitions than file descriptors. */
bool export_entry(struct exporter *x, struct str key, struct str value, struct buf *err) {
    char name[NAME_SIZE] = FILES_UNNAMED;
    struct str topic;
    int32_t partition;
    if (ledger_read_key(key, &topic, &partition))
        snprintf(name, sizeof name, "%.*s-%d" FILES_SUFFIX, (int)topic.n, topic.p, (int)partition);
    FILE *f = files_open(x->dir, name, "ae");
    if (!f) return files_errno(err, "open", x->dir, name);
    put_line(written_at(x, name), f, value);
    return close_written(f) || files_errno(err, "write", x->dir, name);
}

static void make_folders(const char *dir, const char *name) {
    char path[4096];
    for (const char *at = name; (at = strchr(at, '/')); at++) {
        snprintf(path, sizeof path, "%s/%.*s", dir, (int)(at - name), name);
        mkdir(path, 0777); /* what matters is whether the file can be made */
    }
}

bool export_anchor(struct exporter *x, const char *name, struct str value, struct buf *err) {
    char path[128];
    snprintf(path, sizeof path, FILES_ANCHORS "/%s", name);
    make_folders(x->dir, path);
    FILE *f = files_open(x->dir, path, "wxe");
    for (int version = 2; !f && errno == EEXIST && version < VERSIONS_MAX; version++) {
        snprintf(path, sizeof path, FILES_ANCHORS "/%s.%d", name, version);
        f = files_open(x->dir, path, "wxe");
    }
    if (!f) return files_errno(err, "create", x->dir, path);
    put(written_at(x, path), f, value.p, value.n);
    return close_written(f) || files_errno(err, "write", x->dir, path);
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

static int by_name(const void *a, const void *b) {
    const struct written *x = *(struct written *const *)a, *y = *(struct written *const *)b;
    return strcmp(x->file.name, y->file.name);
}

static void put_files(struct buf *b, struct exporter *x) {
    qsort(x->files, x->n, sizeof *x->files, by_name);
    out_open(b, "files", '[');
    for (size_t i = 0; i < x->n; i++) {
        struct written *w = x->files[i];
        sha256_end(w->digest, w->file.sha256);
        w->digest = NULL;
        out_open(b, NULL, '{');
        out_string(b, "name", w->file.name);
        out_uint(b, "size", w->file.size);
        out_hex(b, "sha256", w->file.sha256, SHA256_LEN);
        out_close(b, '}');
    }
    out_close(b, ']');
}

static void put_manifest(struct buf *b, struct exporter *x, const struct snapshot *s,
                         const struct ledger_signer *signer) {
    out_open(b, NULL, '{');
    out_int(b, "v", FILES_MANIFEST_FORM);
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
    put_files(b, x);
    if (signer) put_seal(b, signer);
    out_close(b, '}');
}

bool export_finish(struct exporter *x, const struct snapshot *s, const struct ledger_signer *signer,
                   struct buf *err) {
    struct buf b;
    FILE *f = files_open(x->dir, FILES_MANIFEST, "wxe");
    if (!f) return files_errno(err, "create", x->dir, FILES_MANIFEST);
    buf_init(&b, FILES_MANIFEST_MAX);
    put_manifest(&b, x, s, signer);
    fwrite(b.p, 1, b.n, f);
    fputc('\n', f);
    buf_free(&b);
    return close_written(f) || files_errno(err, "write", x->dir, FILES_MANIFEST);
}
