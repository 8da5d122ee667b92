#include "worker/tools/verify_files.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <fts.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "worker/base/hash.h"
#include "worker/ledger/parse.h"

void snapshot_free(struct snapshot *s) {
    if (!s) return;
    free(s->committed);
    free(s->drained);
    for (size_t i = 0; i < s->n_files; i++) free(s->files[i].name);
    free(s->files);
    *s = (struct snapshot){0};
}

struct committed *snapshot_add(struct snapshot *s) {
    s->committed = xgrow(s->committed, s->n_committed, sizeof *s->committed);
    struct committed *c = &s->committed[s->n_committed++];
    *c = (struct committed){0};
    return c;
}

void snapshot_add_drained(struct snapshot *s, const char *topic) {
    s->drained = xgrow(s->drained, s->n_drained, sizeof *s->drained);
    snprintf(s->drained[s->n_drained++], sizeof *s->drained, "%s", topic);
}

void snapshot_expect(const struct snapshot *s, struct audit *a) {
    for (size_t i = 0; i < s->n_committed; i++) {
        const struct committed *c = &s->committed[i];
        audit_expect(a, c->topic, c->partition, c->offset, c->has_meta ? &c->meta : NULL);
    }
}

void snapshot_drained(const struct snapshot *s, struct audit *a) {
    for (size_t i = 0; i < s->n_drained; i++) audit_drained(a, s->drained[i]);
}

bool files_errno(struct buf *err, const char *what, const char *dir, const char *name) {
    buf_printf(err, "cannot %s %s%s%s: %s", what, dir, name ? "/" : "", name ? name : "",
               strerror(errno));
    return false;
}

char *files_path(const char *dir, const char *name) {
    char *path = xmalloc(strlen(dir) + strlen(name) + 2);
    sprintf(path, "%s/%s", dir, name);
    return path;
}

FILE *files_open(const char *dir, const char *name, const char *mode) {
    char *path = files_path(dir, name);
    FILE *f = fopen(path, mode);
    free(path);
    return f;
}

char *files_anchors(const char *dir) {
    return files_path(dir, FILES_ANCHORS);
}

static const char *text_of(const cJSON *object, const char *name) {
    const char *s = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
    return s ? s : "";
}

/* Numbers below 2^53, which JSON readers agree on. */
static bool number_of(const cJSON *object, const char *name, int64_t max, int64_t *ret) {
    const cJSON *n = cJSON_GetObjectItemCaseSensitive(object, name);
    if (!cJSON_IsNumber(n) || n->valuedouble < 0 || n->valuedouble > (double)max) return false;
    *ret = (int64_t)n->valuedouble;
    return true;
}

static bool read_committed(const cJSON *item, struct committed *ret) {
    const int64_t most = (int64_t)1 << 53;
    const char *topic = text_of(item, "topic");
    int64_t partition, entries;
    if (!ledger_topic_legal(str_c(topic))) return false;
    snprintf(ret->topic, sizeof ret->topic, "%s", topic);
    if (!number_of(item, "partition", INT32_MAX, &partition) ||
        !number_of(item, "offset", most, &ret->offset))
        return false;
    ret->partition = (int32_t)partition;
    ret->has_meta = cJSON_HasObjectItem(item, "entries");
    if (!ret->has_meta) return true;
    if (!number_of(item, "entries", most, &entries)) return false;
    ret->meta.seq = (uint64_t)entries;
    return unhex(str_c(text_of(item, "head")), ret->meta.head, SHA256_LEN);
}

/* A path below the folder, that leads nowhere else. */
static bool is_name(const char *name) {
    static const char legal[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/";
    for (const char *part = name;; part++) {
        size_t n = strcspn(part, "/");
        if (!n || (n == 1 && *part == '.') || (n == 2 && memcmp(part, "..", 2) == 0)) return false;
        part += n;
        if (!*part) return name[strspn(name, legal)] == '\0';
    }
}

static bool read_file(const cJSON *item, struct snapshot *s) {
    const char *name = text_of(item, "name");
    struct named_file file;
    int64_t size;
    if (!is_name(name) || (s->n_files && strcmp(s->files[s->n_files - 1].name, name) >= 0) ||
        !number_of(item, "size", (int64_t)1 << 53, &size) ||
        !unhex(str_c(text_of(item, "sha256")), file.sha256, SHA256_LEN))
        return false;
    file.name = xstrdup(name);
    file.size = (uint64_t)size;
    s->files = xgrow(s->files, s->n_files, sizeof *s->files);
    s->files[s->n_files++] = file;
    return true;
}

static bool read_files(const cJSON *root, struct snapshot *s) {
    const cJSON *item, *files = cJSON_GetObjectItemCaseSensitive(root, "files");
    s->names_files = true;
    cJSON_ArrayForEach(item, files) {
        if (!read_file(item, s)) return false;
    }
    return cJSON_IsArray(files);
}

static bool read_manifest(const cJSON *root, struct snapshot *s) {
    const cJSON *item;
    int64_t version;
    const char *source = text_of(root, "source");
    if (!number_of(root, "v", FILES_MANIFEST_FORM, &version) || version < 1) return false;
    if (!ledger_topic_legal(str_c(source))) return false;
    snprintf(s->source, sizeof s->source, "%s", source);
    snprintf(s->group, sizeof s->group, "%s", text_of(root, "group"));
    const cJSON *named = cJSON_GetObjectItemCaseSensitive(root, "cluster");
    const char *cluster = text_of(root, "cluster");
    if ((named && !cJSON_IsString(named)) || strlen(cluster) > CLUSTER_MAX) return false;
    snprintf(s->cluster, sizeof s->cluster, "%s", cluster);
    const cJSON *partial = cJSON_GetObjectItemCaseSensitive(root, "partial");
    const cJSON *unfinished = cJSON_GetObjectItemCaseSensitive(root, "unfinished");
    if (!cJSON_IsBool(partial) || !cJSON_IsBool(unfinished)) return false;
    s->partial = cJSON_IsTrue(partial);
    s->unfinished = cJSON_IsTrue(unfinished);
    s->has_anchors = cJSON_HasObjectItem(root, "anchors");
    if (s->has_anchors && !number_of(root, "anchors", (int64_t)1 << 53, &s->anchors)) return false;
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(root, "committed")) {
        if (!read_committed(item, snapshot_add(s))) return false;
    }
    cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(root, "drained")) {
        if (!cJSON_IsString(item) || !ledger_topic_legal(str_c(item->valuestring))) return false;
        snapshot_add_drained(s, item->valuestring);
    }
    /* Form 1 knew no list of files: one that has it was written as a later form. */
    if (version < FILES_MANIFEST_FORM) return !cJSON_HasObjectItem(root, "files");
    return read_files(root, s);
}

/* The end of the text is the seal, byte for byte. */
static bool read_seal(struct str text, struct manifest_seal *ret) {
    static const char begin[] = ",\"hash\":\"";
    const char *at = text.p;
    for (const char *next = at;
         (next = memmem(next, text.n - (size_t)(next - text.p), begin, sizeof begin - 1)); next++)
        at = next;
    struct parser r = {.start = text.p, .p = at, .end = text.p + text.n};
    uint8_t hash[SHA256_LEN];
    bool ok = parse_want(&r, ",\"hash\":") && parse_hash(&r, ret->hash) &&
              parse_want(&r, ",\"sig\":") && parse_base64(&r, ret->sig, LEDGER_SIG_LEN) &&
              parse_want(&r, ",\"key\":") && parse_key_id(&r, ret->key) && parse_want(&r, "}") &&
              (r.p == r.end || (*r.p == '\n' && r.p + 1 == r.end));
    if (ok) sha256(text.p, (size_t)(at - text.p), hash);
    return ok && memcmp(hash, ret->hash, SHA256_LEN) == 0;
}

static void take_seal(const cJSON *root, struct str text, struct manifest_seal *ret) {
    ret->any = cJSON_HasObjectItem(root, "hash") || cJSON_HasObjectItem(root, "sig") ||
               cJSON_HasObjectItem(root, "key");
    ret->intact = ret->any && read_seal(text, ret);
}

bool files_sealed(const struct snapshot *s, struct audit *a) {
    const struct manifest_seal *seal = &s->seal;
    const struct ledger_pubkey *key = seal->intact ? audit_key(a, seal->key) : NULL;
    char text[200];
    struct finding f = {.offset = -1, .place = {.name = FILES_MANIFEST, .offset = 1}, .text = text};
    bool good = key && audit_trusts(a, seal->key) &&
                ledger_pubkey_check(key, seal->hash, SHA256_LEN, seal->sig);
    if (seal->any && !seal->intact) {
        f.code = "manifest-altered";
        snprintf(text, sizeof text, "its hash is not that of its bytes");
    } else if (good || !audit_has_keys(a)) {
        return good;
    } else if (!seal->any) {
        f.code = "manifest-unsigned";
        f.note = true;
        snprintf(text, sizeof text,
                 "whoever could change the folder may have cut the ledger short, and told another "
                 "time, other anchors and other waiting records");
    } else if (key && audit_trusts(a, seal->key)) {
        f.code = "manifest-bad-signature";
        snprintf(text, sizeof text, "its signature is not key %s's", seal->key);
    } else {
        f.code = "manifest-unknown-key";
        snprintf(text, sizeof text, "it is signed by key %s, which %s", seal->key,
                 key ? "was replaced: export it again, with the new one"
                     : "is not among those given");
    }
    audit_report(a, &f);
    return false;
}

bool files_snapshot(const char *dir, struct snapshot *ret, struct buf *err) {
    struct buf text;
    struct snapshot s = {0};
    char *path = files_path(dir, FILES_MANIFEST);
    buf_init(&text, FILES_MANIFEST_MAX);
    bool read = buf_file(&text, path) || files_errno(err, "read", dir, FILES_MANIFEST);
    cJSON *root = read ? cJSON_ParseWithLength(buf_cstr(&text), text.n) : NULL;
    bool ok = root && read_manifest(root, &s);
    if (ok) take_seal(root, (struct str){text.p, text.n}, &s.seal);
    cJSON_Delete(root);
    buf_free(&text);
    free(path);
    if (ok) {
        *ret = s;
        return true;
    }
    snapshot_free(&s);
    if (read)
        buf_printf(err, "%s/" FILES_MANIFEST " is not what `runsink verify --export` writes", dir);
    return false;
}

/* learn: only what it says of keys. */
static bool audit_file(const char *dir, const char *name, bool learn, struct audit *a,
                       struct buf *err) {
    FILE *f = files_open(dir, name, "re");
    if (!f) return files_errno(err, "open", dir, name);
    struct ledger_place place = {.name = name};
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    while ((n = getline(&line, &cap, f)) >= 0) {
        place.offset++;
        if (n > 0 && line[n - 1] == '\n') n--;
        struct str value = {line, (size_t)n};
        if (learn)
            audit_learn(a, value);
        else
            audit_entry(a, (struct str){0}, value, &place);
    }
    bool ok = !ferror(f);
    free(line);
    fclose(f);
    return ok || files_errno(err, "read", dir, name);
}

static int is_entries(const struct dirent *d) {
    size_t n = strlen(d->d_name), suffix = sizeof FILES_SUFFIX - 1;
    return n > suffix && strcmp(d->d_name + n - suffix, FILES_SUFFIX) == 0;
}

bool files_audit(const char *dir, struct audit *a, struct buf *err) {
    struct dirent **names;
    int n = scandir(dir, &names, is_entries, alphasort);
    if (n < 0) return files_errno(err, "read", dir, NULL);
    bool ok = true;
    /* One partition's file stands before another's, whichever was written first. */
    for (int learn = 1; learn >= 0; learn--)
        for (int i = 0; i < n; i++) ok = ok && audit_file(dir, names[i]->d_name, learn, a, err);
    for (int i = 0; i < n; i++) free(names[i]);
    free(names);
    return ok;
}

/* ---- the files that the manifest names ---- */

static void tell(struct audit *a, const char *code, const char *name, const char *text) {
    struct finding f = {
        .code = code, .offset = -1, .place = {.name = name, .offset = 1}, .text = text};
    audit_report(a, &f);
}

/* Digest and size of what is there. False: it can't be read, see errno. */
static bool digest_of(const char *dir, const char *name, struct named_file *ret) {
    char piece[65536];
    FILE *f = files_open(dir, name, "re");
    if (!f) return false;
    struct sha256_ctx *digest = sha256_begin();
    for (size_t n; (n = fread(piece, 1, sizeof piece, f)) > 0; ret->size += n)
        sha256_add(digest, piece, n);
    bool ok = !ferror(f);
    int error = errno;
    sha256_end(digest, ret->sha256);
    fclose(f);
    errno = error;
    return ok;
}

static bool compare_file(const char *dir, const struct named_file *named, struct audit *a,
                         struct buf *err) {
    struct named_file is = {0};
    if (!digest_of(dir, named->name, &is)) {
        if (errno != ENOENT && errno != ENOTDIR) return files_errno(err, "read", dir, named->name);
        tell(a, "file-missing", named->name, "the manifest names this file, it is not there");
    } else if (is.size != named->size || memcmp(is.sha256, named->sha256, SHA256_LEN) != 0) {
        char text[128];
        snprintf(text, sizeof text,
                 "it has %" PRIu64 " bytes, the manifest says %" PRIu64 " and another SHA-256",
                 is.size, named->size);
        if (is.size == named->size)
            snprintf(text, sizeof text, "its SHA-256 is not the one that the manifest says");
        tell(a, "file-altered", named->name, text);
    }
    return true;
}

static int compare_names(const void *a, const void *b) {
    const struct named_file *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* Entries, and whatever lies with the anchors. */
static bool counts(const char *name) {
    size_t n = strlen(name), suffix = sizeof FILES_SUFFIX - 1;
    return strncmp(name, FILES_ANCHORS "/", sizeof FILES_ANCHORS) == 0 ||
           (!strchr(name, '/') && n > suffix && strcmp(name + n - suffix, FILES_SUFFIX) == 0);
}

static int by_name(const FTSENT **a, const FTSENT **b) {
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static bool compare_others(const char *dir, const struct snapshot *s, struct audit *a,
                           struct buf *err) {
    char *path = files_path(dir, ""); /* fts leaves one slash between it and names */
    char *const roots[] = {path, NULL};
    FTS *fts = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, by_name);
    const FTSENT *e;
    bool ok = fts != NULL;
    while (ok && (e = fts_read(fts))) {
        struct named_file file = {.name = e->fts_path + strlen(path)};
        if (e->fts_info == FTS_DNR || e->fts_info == FTS_ERR || e->fts_info == FTS_NS) {
            errno = e->fts_errno;
            ok = false;
        } else if (e->fts_info != FTS_D && e->fts_info != FTS_DP && counts(file.name) &&
                   !(s->n_files &&
                     bsearch(&file, s->files, s->n_files, sizeof file, compare_names))) {
            tell(a, "file-unnamed", file.name,
                 "the manifest does not name this file: it was put there later");
        }
    }
    if (!ok) files_errno(err, "read", dir, NULL);
    if (fts) fts_close(fts);
    free(path);
    return ok;
}

bool files_compare(const char *dir, const struct snapshot *s, struct audit *a, struct buf *err) {
    bool ok = true;
    if (!s->names_files) {
        audit_report(a, &(struct finding){.note = true,
                                          .code = "manifest-form-1",
                                          .offset = -1,
                                          .place = {.name = FILES_MANIFEST, .offset = 1},
                                          .text = "it names no files: anchors, and entries that "
                                                  "don't count, may have been taken out or put "
                                                  "in"});
        return true;
    }
    for (size_t i = 0; ok && i < s->n_files; i++) ok = compare_file(dir, &s->files[i], a, err);
    return ok && compare_others(dir, s, a, err);
}
