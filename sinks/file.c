#include "sinks/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/queue.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "config/config.h"
#include "worker/base/clock.h"

#define PATH_BYTES_MAX 512
#define TEMP_PREFIX ".tmp-"
#define TEMP_AGE_S 3600
#define DEPTH_MAX 64
#define LOOK_MS 5
#define CANCEL_MS 1000 /* for a write that has begun */

#define OPEN_FOLDER (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

struct file_config {
    char *root;
};

/* What a key may have beside a sink's path: the folders of a key template, and of sink.override. */
#define KEY_FOLDERS 32

enum job_state { JOB_WAITING, JOB_TAKEN, JOB_WRITING, JOB_WRITTEN };

/* A batch on its way. What a writer works on is its own copy, made while the job is TAKEN (for
 * moments): a disk that stands still can't be told to stop, so a job may be given up while it is
 * written. */
struct job {
    struct batch *batch;
    enum job_state state;
    bool given_up; /* its done() was called: the writer frees it */
    int64_t due_ms;
    size_t depth_max;
    char *root, *key, *body;
    size_t body_len;
    struct outcome outcome;
    TAILQ_ENTRY(job) link;
};

TAILQ_HEAD(jobs, job);

/* A lane's writers. Jobs stand in the order in which they came; at most http.max_connections fly,
 * and so stand here. Freed by whoever leaves last: a writer on a disk that hangs outlives its lane.
 */
struct writers {
    pthread_mutex_t mutex;
    pthread_cond_t work;
    struct jobs jobs;
    size_t written, users;
    int64_t next_due_ms; /* of the jobs, or earlier */
    int64_t threads;
    int wake_fd; /* 0: none, the lane looks for itself */
    bool stop;
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
    if (fsync(parent) != 0) {
        int error = errno;
        unlinkat(parent, name, AT_REMOVEDIR); /* or the next attempt would take it for durable */
        errno = error;
        return -1;
    }
    return openat(parent, name, OPEN_FOLDER);
}

/* Segments of a path, empty ones not counted. */
static size_t segments(const char *path) {
    size_t n = 0;
    for (const char *p = path; *p; p++) n += *p != '/' && (p == path || p[-1] == '/');
    return n;
}

/* Opens the folder that key's file belongs into; *ret_name is what follows the last '/'. Empty
 * segments are passed over. key is cut at its slashes on the way. -1 with errno. */
static int open_folder(const char *root, char *key, const char **ret_name) {
    int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return -1;
    for (char *slash; (slash = strchr(key, '/')); key = slash + 1) {
        *slash = '\0';
        if (!*key) continue;
        int next = step_into(fd, key);
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

static struct outcome deliver(struct job *j) {
    const char *name = NULL;
    struct outcome o;
    if (segments(j->key) > j->depth_max + 1) return failure(ENAMETOOLONG, "counting the folders");
    if (path_climbs(j->key)) return failure(ELOOP, "naming the file");
    int folder = open_folder(j->root, j->key, &name);
    if (folder < 0)
        o = failure(errno, "opening the folder");
    else if (!*name)
        o = failure(EISDIR, "naming the file");
    else
        o = write_file(folder, name, j->body, j->body_len);
    if (folder >= 0) close(folder);
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

/* UTF-8, no control characters, no segment that climbs or imitates a temporary name. */
static bool path_valid(const char *p) {
    struct str text = str_c(p);
    return text.n <= PATH_BYTES_MAX && utf8_is_line(text) && !path_climbs(p) &&
           !str_starts(text, TEMP_PREFIX) && !strstr(p, "/" TEMP_PREFIX);
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
    if (!cJSON_IsString(path))
        return sink_refuse(reterr, FAULT_DATA, "path", "is missing or not a string");
    if (!*cfg->file_root)
        return sink_refuse(reterr, FAULT_TENANT, "path", "is refused: file.root is not set");
    const char *p = path->valuestring;
    if (p[0] == '/') { /* then it must lead below the root */
        size_t n = strlen(cfg->file_root);
        while (n > 0 && cfg->file_root[n - 1] == '/') n--;
        if (strncmp(p, cfg->file_root, n) != 0 || (p[n] != '/' && p[n] != '\0'))
            return sink_refuse(reterr, FAULT_TENANT, "path", "is not below file.root");
        p += n;
    }
    if (!path_valid(p))
        return sink_refuse(reterr, FAULT_TENANT, "path",
                           "is too long, not UTF-8, or has control characters or dot segments");
    while (*p == '/') p++;
    if ((int64_t)segments(p) > cfg->file_depth)
        return sink_refuse(reterr, FAULT_TENANT, "path", "has more folders than file.depth allows");
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

bool file_root_usable(const char *root_dir, bool may_make, struct buf *err) {
    struct stat st;
    char *path = xstrdup(root_dir), *slash = NULL;
    bool there = stat(path, &st) == 0;
    /* The nearest one above it that is there. */
    while (may_make && !there && errno == ENOENT && (slash = strrchr(path, '/')) && slash > path) {
        *slash = '\0';
        there = stat(path, &st) == 0;
    }
    bool ok = there && S_ISDIR(st.st_mode) && access(path, R_OK | W_OK | X_OK) == 0;
    if (there && !S_ISDIR(st.st_mode))
        buf_printf(err, "%s is no folder", path);
    else if (!there && errno == ENOENT)
        buf_printf(err, "there is no folder %s: make it, for the user that runs runsink", root_dir);
    else if (!ok)
        buf_printf(err, "can't write to %s: %s", path, strerror(errno));
    free(path);
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

static size_t size(const void *config) {
    const struct file_config *c = config;
    return heap_bytes(c) + heap_bytes(c->root);
}

/* Writers -------------------------------------------------------------- */

static void job_free(struct job *j) {
    free(j->root);
    free(j->key);
    free(j->body);
    free(j);
}

/* Leaves with the mutex held. */
static void leave(struct writers *w) {
    bool last = --w->users == 0;
    pthread_mutex_unlock(&w->mutex);
    if (!last) return;
    pthread_cond_destroy(&w->work);
    pthread_mutex_destroy(&w->mutex);
    free(w);
}

static struct job *next_waiting(struct writers *w) {
    struct job *j = TAILQ_FIRST(&w->jobs);
    while (j && j->state != JOB_WAITING) j = TAILQ_NEXT(j, link);
    return j;
}

/* The batch stays its owner's until the job is no longer TAKEN. */
static void copy(struct job *j) {
    const struct batch *b = j->batch;
    const struct file_config *c = b->dest->config;
    j->root = xstrdup(c->root);
    j->key = xstrdup(b->key);
    j->body = xmalloc(b->body_len + 1);
    if (b->body_len) memcpy(j->body, b->body, b->body_len);
    j->body_len = b->body_len;
}

/* With the mutex, which is let go of meanwhile. */
static void write_job(struct writers *w, struct job *j) {
    j->state = JOB_TAKEN;
    pthread_mutex_unlock(&w->mutex);
    copy(j);
    pthread_mutex_lock(&w->mutex);
    j->state = JOB_WRITING;
    pthread_mutex_unlock(&w->mutex);
    struct outcome o = deliver(j);
    pthread_mutex_lock(&w->mutex);
    if (j->given_up) {
        job_free(j);
        return;
    }
    j->outcome = o;
    j->state = JOB_WRITTEN;
    w->written++;
    if (w->wake_fd > 0 && eventfd_write(w->wake_fd, 1) != 0) w->wake_fd = 0;
}

static void *writer_main(void *arg) {
    struct writers *w = arg;
    pthread_mutex_lock(&w->mutex);
    for (;;) {
        struct job *j = next_waiting(w);
        if (j)
            write_job(w, j);
        else if (w->stop)
            break;
        else
            pthread_cond_wait(&w->work, &w->mutex);
    }
    leave(w);
    return NULL;
}

static bool start_writer(struct writers *w) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, writer_main, w) != 0) return false;
    pthread_detach(thread);
    w->threads++;
    w->users++;
    return true;
}

static struct writers *writers_new(int wake_fd) {
    struct writers *w = xcalloc(1, sizeof *w);
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->work, NULL);
    TAILQ_INIT(&w->jobs);
    w->users = 1;
    w->wake_fd = wake_fd;
    w->next_due_ms = INT64_MAX;
    return w;
}

/* The sink ------------------------------------------------------------- */

static void **slot_of(struct sink_env *env) {
    return sink_state(env, &file_sink);
}

static void submit(struct sink_env *env, struct batch *b) {
    struct writers *w = *slot_of(env);
    const struct file_config *c = b->dest->config;
    if (!w) *slot_of(env) = w = writers_new(env->wake_fd);
    clean_once(c->root);
    struct job *j = xcalloc(1, sizeof *j);
    j->batch = b;
    j->due_ms = clock_ms(CLOCK_MONOTONIC) + env->cfg->file_timeout;
    j->depth_max = (size_t)env->cfg->file_depth + KEY_FOLDERS;
    b->sink_state = j;
    pthread_mutex_lock(&w->mutex);
    /* Writers are made as they are needed. */
    bool needed = !w->threads || (!TAILQ_EMPTY(&w->jobs) && w->threads < env->cfg->file_writers);
    if (needed && !start_writer(w) && !w->threads) {
        j->state = JOB_WRITTEN;
        j->outcome = failure(EAGAIN, "starting a writer");
        w->written++;
    }
    TAILQ_INSERT_TAIL(&w->jobs, j, link);
    if (j->due_ms < w->next_due_ms) w->next_due_ms = j->due_ms;
    pthread_cond_signal(&w->work);
    pthread_mutex_unlock(&w->mutex);
}

/* What is to be told of the job at now_ms, NULL while it goes on. A job that is being written and
 * is given up stays its writer's, so what is told is then another. */
static struct job *told(struct writers *w, struct job *j, int64_t now_ms) {
    if (j->state == JOB_WRITTEN) {
        w->written--;
        return j;
    }
    if (now_ms < j->due_ms || j->state == JOB_TAKEN) return NULL; /* TAKEN is soon WRITING */
    if (!j->outcome.why[0])
        j->outcome = outcome_fail(VERDICT_RETRY, FAULT_SYSTEM, "timeout",
                                  "the disk took longer than file.timeout");
    if (j->state == JOB_WAITING) return j;
    struct job *ret = xcalloc(1, sizeof *ret);
    ret->batch = j->batch;
    ret->outcome = j->outcome;
    j->given_up = true;
    return ret;
}

/* Moves what is over, and notes when the next is due. With the mutex. */
static void take_over(struct writers *w, int64_t now_ms, struct jobs *over) {
    w->next_due_ms = INT64_MAX;
    for (struct job *j = TAILQ_FIRST(&w->jobs), *next; j; j = next) {
        next = TAILQ_NEXT(j, link);
        struct job *ret = told(w, j, now_ms);
        if (ret) {
            TAILQ_REMOVE(&w->jobs, j, link);
            TAILQ_INSERT_TAIL(over, ret, link);
        } else if (j->due_ms < w->next_due_ms) {
            w->next_due_ms = j->due_ms;
        }
    }
}

static int tick(struct sink_env *env, int64_t now_ms) {
    struct writers *w = *slot_of(env);
    if (!w) return -1;
    pthread_mutex_lock(&w->mutex);
    struct jobs over = TAILQ_HEAD_INITIALIZER(over);
    if (w->written || now_ms >= w->next_due_ms) take_over(w, now_ms, &over);
    pthread_mutex_unlock(&w->mutex);
    for (struct job *j; (j = TAILQ_FIRST(&over));) {
        TAILQ_REMOVE(&over, j, link);
        j->batch->sink_state = NULL;
        j->batch->done(j->batch, &j->outcome);
        job_free(j);
    }
    pthread_mutex_lock(&w->mutex);
    int64_t left = w->written ? 0 : w->next_due_ms - now_ms;
    if (!TAILQ_EMPTY(&w->jobs) && w->wake_fd <= 0 && left > LOOK_MS) left = LOOK_MS;
    if (TAILQ_EMPTY(&w->jobs)) left = -1;
    pthread_mutex_unlock(&w->mutex);
    return left > INT_MAX ? INT_MAX : left < -1 ? 0 : (int)left;
}

static void cancel(struct sink_env *env, struct batch *b) {
    struct writers *w = *slot_of(env);
    struct job *j = b->sink_state;
    pthread_mutex_lock(&w->mutex);
    if (j->state != JOB_WRITTEN) {
        int64_t due_ms = j->state == JOB_WAITING ? 0 : clock_ms(CLOCK_MONOTONIC) + CANCEL_MS;
        if (due_ms < j->due_ms) j->due_ms = due_ms;
        if (j->due_ms < w->next_due_ms) w->next_due_ms = j->due_ms;
        /* Until it is written, then that is its outcome. */
        j->outcome =
            outcome_fail(VERDICT_RETRY, FAULT_SYSTEM, "cancelled", "given up by the worker");
    }
    pthread_mutex_unlock(&w->mutex);
}

static void close_writers(struct sink_env *env) {
    struct writers *w = *slot_of(env);
    if (!w) return;
    for (bool more = true; more;) {
        tick(env, INT64_MAX); /* all are due */
        pthread_mutex_lock(&w->mutex);
        more = !TAILQ_EMPTY(&w->jobs);
        pthread_mutex_unlock(&w->mutex);
        if (more) sched_yield(); /* one is being copied */
    }
    *slot_of(env) = NULL;
    pthread_mutex_lock(&w->mutex);
    w->stop = true;
    w->wake_fd = 0; /* the lane closes it */
    pthread_cond_broadcast(&w->work);
    leave(w);
}

static int64_t retry_window_ms(const struct config *cfg) {
    return cfg->retry_window_file;
}

const struct sink_type file_sink = {
    .name = "file",
    .shape = SHAPE_OBJECT,
    .parse = parse,
    .free_config = free_config,
    .retry_window_ms = retry_window_ms,
    .size = size,
    .submit = submit,
    .cancel = cancel,
    .tick = tick,
    .close = close_writers,
};
