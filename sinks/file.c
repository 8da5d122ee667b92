#include "sinks/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "config/config.h"

#define PATH_BYTES_MAX 512
#define TEMP_PREFIX ".tmp-"
#define TEMP_AGE_S 3600
#define DEPTH_MAX 64

#define OPEN_FOLDER (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

struct file_config {
    char *root;
};

/* A batch that is written (or not) and whose done() is due at the next tick. */
struct written {
    struct batch *batch;
    struct outcome outcome;
    struct written *next;
};
struct lane {
    struct written *first, **last;
};

static struct outcome failure(int error, const char *doing) {
    enum verdict verdict = VERDICT_RETRY;
    enum fault fault = FAULT_SYSTEM;
    const char *why = "io-error";
    switch (error) {
    case ENOSPC:
    case EDQUOT:
        why = "disk-full";
        break;
    case EACCES:
    case EPERM:
    case EROFS:
        why = "not-writable";
        break;
    case ENAMETOOLONG: /* what stands there, or the key itself, is in the way */
    case ENOTDIR:
    case EISDIR:
    case ELOOP:
        verdict = VERDICT_PERMANENT;
        fault = FAULT_TENANT;
        why = "bad-path";
        break;
    default:
        break;
    }
    char text[64];
    return outcome_fail(verdict, fault, why, "%s: %s", doing, strerror_r(error, text, sizeof text));
}

/* Opens (and makes, durably) the folder of a name below parent; -1 with errno. */
static int step_into(int parent, const char *name) {
    int fd = openat(parent, name, OPEN_FOLDER);
    if (fd >= 0 || errno != ENOENT) return fd;
    if (mkdirat(parent, name, 0750) != 0 && errno != EEXIST) return -1;
    if (fsync(parent) != 0) return -1;
    return openat(parent, name, OPEN_FOLDER);
}

/* Opens the folder that key's file belongs into; *ret_name is what follows the last '/'. Empty
 * segments are passed over. key is cut at its slashes on the way. -1 with errno. */
static int open_folder(const char *root, char *key, const char **ret_name) {
    int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -1;
    for (char *slash; (slash = strchr(key, '/')); key = slash + 1) {
        *slash = '\0';
        if (!*key) continue;
        int next = -1;
        if (strcmp(key, ".") == 0 || strcmp(key, "..") == 0)
            errno = ELOOP;
        else
            next = step_into(fd, key);
        int error = errno;
        close(fd);
        errno = error;
        if (next < 0) return -1;
        fd = next;
    }
    *ret_name = key;
    return fd;
}

/* Unlike any other process's, on this machine or on another that shares the folder. */
static void temp_name(char *ret, size_t size) {
    static _Atomic uint64_t counter;
    uint64_t random;
    if (getrandom(&random, sizeof random, 0) != (ssize_t)sizeof random) abort();
    snprintf(ret, size, TEMP_PREFIX "%016llx-%llu", (unsigned long long)random,
             (unsigned long long)atomic_fetch_add(&counter, 1));
}

static bool write_all(int fd, const char *p, size_t n) {
    while (n > 0) {
        ssize_t wrote = write(fd, p, n);
        if (wrote < 0 && errno == EINTR) continue;
        if (wrote < 0) return false;
        p += wrote;
        n -= (size_t)wrote;
    }
    return true;
}

static struct outcome write_file(int folder, const char *name, const char *body, size_t n) {
    char temp[64];
    temp_name(temp, sizeof temp);
    int fd = openat(folder, temp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
    if (fd < 0) return failure(errno, "making a file");
    const char *doing = "writing";
    bool ok = write_all(fd, body, n) && (doing = "syncing", fsync(fd) == 0);
    int error = errno;
    if (close(fd) != 0 && ok) {
        ok = false;
        error = errno;
    }
    if (ok && renameat(folder, temp, folder, name) != 0) {
        ok = false;
        error = errno;
        doing = "renaming";
    }
    if (!ok) {
        unlinkat(folder, temp, 0);
        return failure(error, doing);
    }
    return fsync(folder) == 0 ? outcome_ok(0) : failure(errno, "syncing the folder");
}

static struct outcome deliver(const struct file_config *c, const struct batch *b) {
    char *key = xstrdup(b->key);
    const char *name = NULL;
    struct outcome o;
    int folder = open_folder(c->root, key, &name);
    if (folder < 0)
        o = failure(errno, "opening the folder");
    else if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        o = failure(EISDIR, "naming the file");
    else
        o = write_file(folder, name, b->body, b->body_len);
    if (folder >= 0) close(folder);
    free(key);
    return o;
}

/* Cleaning ------------------------------------------------------------- */

static void clean_folder(int fd, time_t before, int depth) {
    DIR *d = fdopendir(fd);
    if (!d) {
        close(fd);
        return;
    }
    for (struct dirent *e; (e = readdir(d));) {
        struct stat st;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
        if (S_ISDIR(st.st_mode) && depth < DEPTH_MAX) {
            int child = openat(dirfd(d), e->d_name, OPEN_FOLDER);
            if (child >= 0) clean_folder(child, before, depth + 1);
        } else if (S_ISREG(st.st_mode) && st.st_mtime < before &&
                   str_starts(str_c(e->d_name), TEMP_PREFIX)) {
            unlinkat(dirfd(d), e->d_name, 0);
        }
    }
    closedir(d);
}

void file_clean(const char *root_dir) {
    int fd = open(root_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) clean_folder(fd, time(NULL) - TEMP_AGE_S, 0);
}

static void *clean_thread(void *root) {
    file_clean(root);
    free(root);
    return NULL;
}

/* A tree may hold millions of files, so no lane waits for the walk. */
static void clean_once(const char *root) {
    static atomic_flag started = ATOMIC_FLAG_INIT;
    if (atomic_flag_test_and_set(&started)) return;
    sigset_t all, before;
    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    char *copy = xstrdup(root);
    if (pthread_create(&thread, NULL, clean_thread, copy) == 0)
        pthread_detach(thread);
    else
        free(copy);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Destinations --------------------------------------------------------- */

static bool refuse(struct outcome *reterr, enum fault fault, const char *what) {
    *reterr = outcome_fail(VERDICT_PERMANENT, fault, "invalid-sink", "sink.path %s", what);
    return false;
}

/* UTF-8, no control characters, no segment that climbs or imitates a temporary name. */
static bool path_valid(const char *p) {
    size_t len = strlen(p);
    if (len > PATH_BYTES_MAX) return false;
    for (size_t i = 0; i < len;) {
        size_t n = utf8_sequence(p + i, len - i);
        if (n == 0 || (unsigned char)p[i] < 0x20 || p[i] == 0x7f) return false;
        i += n;
    }
    while (*p) {
        size_t n = strcspn(p, "/");
        if ((n == 1 && p[0] == '.') || (n == 2 && p[0] == '.' && p[1] == '.') ||
            str_starts((struct str){p, n}, TEMP_PREFIX))
            return false;
        p += n;
        if (*p) p++;
    }
    return true;
}

static void fill(const char *root, const char *path, const char *shown, struct destination *ret) {
    struct file_config *c = xcalloc(1, sizeof *c);
    c->root = xstrdup(root);
    struct buf b;
    buf_init(&b, PATH_BYTES_MAX + 1);
    for (const char *p = path; *p;) { /* one slash between segments, one at the end */
        size_t n = strcspn(p, "/");
        if (n > 0 && buf_add(&b, p, n)) buf_putc(&b, '/');
        p += n + (p[n] == '/');
    }
    ret->prefix = xstrdup(buf_cstr(&b));
    buf_free(&b);
    ret->config = c;
    char label[LABEL_MAX];
    snprintf(label, sizeof label, "file://%s", shown);
    outcome_text(ret->label, sizeof ret->label, str_c(label));
    struct sha256_ctx *h = sha256_begin();
    const char *const fields[] = {"file", root, ret->prefix};
    for (size_t i = 0; i < 3; i++) sha256_add(h, fields[i], strlen(fields[i]) + 1);
    sha256_end(h, ret->identity);
    hex(ret->identity, PLACE_LEN / 2, ret->place); /* no credentials are in it */
}

static bool parse(const struct config *cfg, const cJSON *sink, struct destination *ret,
                  struct outcome *reterr) {
    bool bad = false;
    const cJSON *path = sink_field(sink, "path", &bad, reterr);
    if (bad) return false;
    if (!cJSON_IsString(path)) return refuse(reterr, FAULT_DATA, "is missing or not a string");
    if (!*cfg->file_root) return refuse(reterr, FAULT_TENANT, "is refused: file.root is not set");
    const char *p = path->valuestring;
    if (p[0] == '/') { /* then it must lead below the root */
        size_t n = strlen(cfg->file_root);
        while (n > 0 && cfg->file_root[n - 1] == '/') n--;
        if (strncmp(p, cfg->file_root, n) != 0 || (p[n] != '/' && p[n] != '\0'))
            return refuse(reterr, FAULT_TENANT, "is not below file.root");
        p += n;
    }
    if (!path_valid(p))
        return refuse(reterr, FAULT_TENANT,
                      "is too long, not UTF-8, or has control characters or dot segments");
    while (*p == '/') p++;
    fill(cfg->file_root, p, p, ret);
    return true;
}

/* The folder and those above it that are missing. */
static bool make_root(const char *dir) {
    char *path = xstrdup(dir);
    bool ok = true;
    for (char *slash = strchr(path + 1, '/'); ok && slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        ok = mkdir(path, 0750) == 0 || errno == EEXIST;
        *slash = '/';
    }
    ok = ok && (mkdir(path, 0750) == 0 || errno == EEXIST);
    int saved = errno;
    free(path);
    errno = saved;
    return ok;
}

bool file_destination(const char *root_dir, struct destination *ret, struct outcome *reterr) {
    int fd = -1;
    if (make_root(root_dir)) fd = open(root_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        *reterr = failure(errno, "opening the folder of sink.override");
        reterr->fault = FAULT_SYSTEM;
        return false;
    }
    close(fd);
    fill(root_dir, "", root_dir, ret);
    ret->type = &file_sink;
    return true;
}

static void free_config(void *config) {
    struct file_config *c = config;
    if (!c) return;
    free(c->root);
    free(c);
}

/* The sink ------------------------------------------------------------- */

static struct lane *lane_of(struct sink_env *env) {
    void **slot = &env->state[sink_type_index(&file_sink)];
    if (!*slot) {
        struct lane *l = xcalloc(1, sizeof *l);
        l->last = &l->first;
        *slot = l;
    }
    return *slot;
}

static void submit(struct sink_env *env, struct batch *b) {
    const struct file_config *c = b->dest->config;
    struct lane *l = lane_of(env);
    clean_once(c->root);
    struct written *w = xcalloc(1, sizeof *w);
    w->batch = b;
    w->outcome = deliver(c, b);
    b->sink_state = w;
    *l->last = w;
    l->last = &w->next;
}

static int tick(struct sink_env *env, int64_t now_ms) {
    (void)now_ms;
    struct lane *l = lane_of(env);
    struct written *w = l->first;
    l->first = NULL; /* a done() may submit more: those wait for the next tick */
    l->last = &l->first;
    while (w) {
        struct written *next = w->next;
        w->batch->sink_state = NULL;
        w->batch->done(w->batch, &w->outcome);
        free(w);
        w = next;
    }
    return l->first ? 0 : -1;
}

static void close_lane(struct sink_env *env) {
    void **slot = &env->state[sink_type_index(&file_sink)];
    if (!*slot) return;
    while (tick(env, 0) == 0) {
    }
    free(*slot);
    *slot = NULL;
}

const struct sink_type file_sink = {
    .name = "file",
    .shape = SHAPE_OBJECT,
    .parse = parse,
    .free_config = free_config,
    .submit = submit,
    .tick = tick,
    .close = close_lane,
};
