#include "sinks/http/resolver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <resolv.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "config/config.h"
#include "worker/base/buf.h"
#include "worker/base/clock.h"
#include "worker/base/hash.h"
#include "worker/base/table.h"
#include "worker/base/text.h"

#define FRESH_MS 30000   /* addresses are used for this long */
#define RENEW_MS 15000   /* a name that is in use is looked up again after this long */
#define STALE_MS 3600000 /* where no name server answers, older ones are used up to this age */
#define GRACE_MS 5000    /* and then for this long before the next try */
#define SLOW_MS 1000     /* a name server that takes longer is slow */
#define TRY_S 2          /* a name server has this long for an answer, */
#define TRIES 2          /* this often; resolv.conf may say less */
#define THREAD_IDLE_S 60
#define THREAD_STACK ((size_t)512 * 1024)
#define THREADS_MIN 4 /* shares of a quarter */

/* --- The threads. What they share with the lane is in here, under the lock. --- */

/* Of name servers, by the last lookup. */
enum speed { UNKNOWN, QUICK, SLOW };

/* Handed over whole: from the lane to a thread, and back. */
struct lookup {
    TAILQ_ENTRY(lookup) link;
    struct resolver_name *name; /* the lane's; it is not gone while its lookup is under way */
    int64_t took_ms;
    int family, code;
    enum speed speed; /* when it began */
    char host[RESOLVER_NAME_MAX + 1], list[RESOLVER_LIST_SIZE];
};

TAILQ_HEAD(lookups, lookup);

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct lookups wanted, found;
    size_t threads, idle, most;
    int event_fd; /* -1 once the lane has left */
};

static void free_lookups(struct lookups *all) {
    for (struct lookup *l; (l = TAILQ_FIRST(all));) {
        TAILQ_REMOVE(all, l, link);
        free(l);
    }
}

/* Whoever leaves last frees it. */
static void leave_pool(struct pool *p, bool last) {
    pthread_mutex_unlock(&p->lock);
    if (!last) return;
    free_lookups(&p->wanted);
    free_lookups(&p->found);
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->more);
    free(p);
}

static void put_address(struct lookup *l, const struct sockaddr *sa) {
    char text[INET6_ADDRSTRLEN];
    const void *address;
    if (sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)sa;
        if (in6->sin6_scope_id) return; /* of one link alone */
        address = &in6->sin6_addr;
    } else if (sa->sa_family == AF_INET) {
        address = &((const struct sockaddr_in *)(const void *)sa)->sin_addr;
    } else {
        return;
    }
    if (!inet_ntop(sa->sa_family, address, text, sizeof text)) return;
    size_t n = strlen(l->list);
    snprintf(l->list + n, sizeof l->list - n, sa->sa_family == AF_INET6 ? "%s[%s]" : "%s%s",
             n ? "," : "", text);
}

/* A silent name server holds a thread, so it gets less time than the 5 s that resolv.conf gives by
 * default. glibc keeps what we set for this thread; and no longer looks after changes of the file,
 * so we read it each time. */
static void limit_tries(void) {
    if (res_init() != 0) return;
    if (_res.retrans > TRY_S) _res.retrans = TRY_S;
    if (_res.retry > TRIES) _res.retry = TRIES;
}

static void look_up(struct lookup *l) {
    int64_t start = clock_ms(CLOCK_MONOTONIC);
    const struct addrinfo hints = {.ai_family = l->family, .ai_socktype = SOCK_STREAM};
    struct addrinfo *found = NULL;
    limit_tries();
    l->code = getaddrinfo(l->host, NULL, &hints, &found);
    if (l->code == EAI_SYSTEM && (errno == EMFILE || errno == ENFILE)) l->code = EAI_MEMORY;
    size_t n = 0;
    for (const struct addrinfo *a = found; l->code == 0 && a && n < RESOLVER_ADDRESSES_MAX;
         a = a->ai_next, n++)
        put_address(l, a->ai_addr);
    if (found) freeaddrinfo(found);
    if (l->code == 0 && !l->list[0]) l->code = EAI_NONAME;
    l->took_ms = clock_ms(CLOCK_MONOTONIC) - start;
}

/* Waits for a lookup. NULL: this thread has nothing more to do. Locked. */
static struct lookup *take_wanted(struct pool *p) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += THREAD_IDLE_S;
    p->idle++;
    for (int waited = 0; TAILQ_EMPTY(&p->wanted) && p->event_fd >= 0 && waited == 0;)
        waited = pthread_cond_timedwait(&p->more, &p->lock, &until);
    p->idle--;
    struct lookup *l = p->event_fd >= 0 ? TAILQ_FIRST(&p->wanted) : NULL;
    if (l) TAILQ_REMOVE(&p->wanted, l, link);
    return l;
}

static void *run_thread(void *pool_) {
    struct pool *p = pool_;
    struct lookup *l;
    pthread_setname_np(pthread_self(), "resolver");
    pthread_mutex_lock(&p->lock);
    while ((l = take_wanted(p))) {
        pthread_mutex_unlock(&p->lock);
        look_up(l);
        pthread_mutex_lock(&p->lock);
        TAILQ_INSERT_TAIL(&p->found, l, link);
        if (p->event_fd >= 0) eventfd_write(p->event_fd, 1);
    }
    p->threads--;
    leave_pool(p, p->threads == 0 && p->event_fd < 0);
    return NULL;
}

static bool start_thread(struct pool *p) {
    pthread_attr_t attributes;
    pthread_t thread;
    if (pthread_attr_init(&attributes) != 0) return false;
    bool ok = pthread_attr_setstacksize(&attributes, THREAD_STACK) == 0 &&
              pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED) == 0 &&
              pthread_create(&thread, &attributes, run_thread, p) == 0;
    pthread_attr_destroy(&attributes);
    return ok;
}

/* Where there is no thread that could do it, and none to be had, it comes back as failed. */
static void hand_over(struct pool *p, struct lookup *l) {
    pthread_mutex_lock(&p->lock);
    TAILQ_INSERT_TAIL(&p->wanted, l, link);
    size_t wanted = 0;
    for (const struct lookup *one = TAILQ_FIRST(&p->wanted); one; one = TAILQ_NEXT(one, link))
        wanted++;
    bool ok = true;
    /* One that has begun may find that another has taken what it was for, and is idle next. */
    if (wanted > p->idle && p->threads < p->most) {
        p->threads++; /* before it begins: it may end at once */
        if (!start_thread(p)) ok = --p->threads > 0;
    }
    if (!ok) {
        TAILQ_REMOVE(&p->wanted, l, link);
        l->code = EAI_MEMORY;
        TAILQ_INSERT_TAIL(&p->found, l, link);
        eventfd_write(p->event_fd, 1);
    }
    pthread_cond_signal(&p->more);
    pthread_mutex_unlock(&p->lock);
}

static struct pool *pool_new(size_t most) {
    struct pool *p = xcalloc(1, sizeof *p);
    p->most = most;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->more, &monotonic);
    pthread_condattr_destroy(&monotonic);
    TAILQ_INIT(&p->wanted);
    TAILQ_INIT(&p->found);
    p->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (p->event_fd < 0) {
        fprintf(stderr, "runsink: eventfd: %s\n", strerror(errno));
        abort();
    }
    return p;
}

/* --- Names, their domains, and who wants them. The lane's alone. --- */

TAILQ_HEAD(names, resolver_name);
TAILQ_HEAD(waits, resolver_wait);
TAILQ_HEAD(lines, line);

/* What is registered as one, as far as that can be told from its look: names below it are free for
 * whoever owns it, so it has a share. Lives as long as one of its names. */
struct domain {
    struct table_node node;
    size_t names, queued, running;
    int64_t progress_ms; /* when a lookup last ended, or the first of those running began */
    enum speed speed;
    char text[];
};

/* Domains are cheap as well, workspaces are not: all that one wants is one share more. Lives as
 * long as a name of its is queued or looked up. */
struct share {
    struct table_node node; /* its hash: the workspace */
    struct lines lines;     /* in turn */
    TAILQ_ENTRY(share) turn;
    size_t queued, running;
    enum speed speed;
};

/* The names of a domain that wait, wanted by one workspace. */
struct line {
    struct table_node node;
    struct share *share;
    struct domain *domain;
    struct names queue; /* never empty */
    TAILQ_ENTRY(line) turn;
};

enum name_state { NAME_RESTS, NAME_QUEUED, NAME_RUNNING };

struct resolver_name {
    struct table_node node;
    TAILQ_ENTRY(resolver_name) used; /* longest unused first: with addresses, or without */
    TAILQ_ENTRY(resolver_name) queue;
    struct domain *domain;
    struct line *line;   /* while queued */
    struct share *share; /* while running: whose it was */
    enum name_state state;
    struct waits waits;
    int64_t found_ms;  /* when the list came */
    int64_t good_ms;   /* until when it is given */
    int64_t failed_ms; /* the last lookup that brought nothing; 0 */
    char *list;        /* NULL: none yet */
    char host[];
};

struct resolver {
    struct pool *pool;
    size_t threads, waiting, most;
    struct table by_host, domains, shares, lines;
    struct names known, unknown;
    TAILQ_HEAD(turns, share) turns; /* workspaces for which names wait */
    size_t queued, running, running_of[3];
    int family;
};

/* "bucket.s3.amazonaws.com" -> "amazonaws.com", "a.example.co.uk" -> "example.co.uk". */
static struct str domain_part(struct str host) {
    /* Below a country's own domain. Nobody can tell them by their look: "evl" of evl.io is a name
     * that somebody owns. One that is missing here makes a share smaller, none is made greater than
     * its workspace's. */
    static const char suffixes[] = "ac co com edu gov ne net or org";
    if (host.n && host.p[host.n - 1] == '.') host.n--;
    const char *end = host.p + host.n, *at = end, *dots[3] = {end, end, end};
    size_t n = 0;
    while (at > host.p && n < 3)
        if (*--at == '.') dots[n++] = at;
    if (n < 2) return host;
    struct str second = {dots[1] + 1, (size_t)(dots[0] - dots[1]) - 1};
    bool country = end - dots[0] == 3 && text_lists(suffixes, second);
    if (!country)
        at = dots[1] + 1;
    else if (n == 3)
        at = dots[2] + 1;
    else
        at = host.p;
    return (struct str){at, (size_t)(end - at)};
}

static struct domain *domain_of(struct resolver *r, struct str host) {
    struct str part = domain_part(host);
    uint64_t hash = keyed_hash(part.p, part.n);
    for (struct table_node *at = table_first(&r->domains, hash); at; at = table_next(at)) {
        struct domain *d = TABLE_ENTRY(at, struct domain, node);
        if (str_is(part, d->text)) return d;
    }
    struct domain *d = xcalloc(1, sizeof *d + part.n + 1);
    memcpy(d->text, part.p, part.n);
    table_add(&r->domains, &d->node, hash);
    return d;
}

static void drop_domain(struct resolver *r, struct domain *d) {
    if (--d->names > 0) return;
    table_remove(&r->domains, &d->node);
    free(d);
}

static struct names *list_of(struct resolver *r, const struct resolver_name *n) {
    return n->list ? &r->known : &r->unknown;
}

static struct share *share_of(const struct resolver *r, uint64_t workspace) {
    struct table_node *at = table_first(&r->shares, workspace);
    return at ? TABLE_ENTRY(at, struct share, node) : NULL;
}

static struct share *take_share(struct resolver *r, uint64_t workspace) {
    struct share *s = share_of(r, workspace);
    if (s) return s;
    s = xcalloc(1, sizeof *s);
    TAILQ_INIT(&s->lines);
    table_add(&r->shares, &s->node, workspace);
    return s;
}

static void give_share(struct resolver *r, struct share *s) {
    if (s->queued || s->running) return;
    table_remove(&r->shares, &s->node);
    free(s);
}

static struct line *take_line(struct resolver *r, struct share *s, struct domain *d) {
    const uint64_t key[] = {s->node.hash, d->node.hash};
    uint64_t hash = keyed_hash(key, sizeof key);
    for (struct table_node *at = table_first(&r->lines, hash); at; at = table_next(at)) {
        struct line *l = TABLE_ENTRY(at, struct line, node);
        if (l->share == s && l->domain == d) return l;
    }
    struct line *l = xcalloc(1, sizeof *l);
    l->share = s;
    l->domain = d;
    TAILQ_INIT(&l->queue);
    table_add(&r->lines, &l->node, hash);
    TAILQ_INSERT_TAIL(&s->lines, l, turn);
    return l;
}

static void enqueue(struct resolver *r, struct resolver_name *n, uint64_t workspace) {
    struct share *s = take_share(r, workspace);
    n->line = take_line(r, s, n->domain);
    n->state = NAME_QUEUED;
    TAILQ_INSERT_TAIL(&n->line->queue, n, queue);
    if (s->queued++ == 0) TAILQ_INSERT_TAIL(&r->turns, s, turn);
    n->domain->queued++;
    r->queued++;
}

static void dequeue(struct resolver *r, struct resolver_name *n) {
    struct line *l = n->line;
    struct share *s = l->share;
    TAILQ_REMOVE(&l->queue, n, queue);
    n->line = NULL;
    n->state = NAME_RESTS;
    n->domain->queued--;
    r->queued--;
    if (TAILQ_EMPTY(&l->queue)) {
        TAILQ_REMOVE(&s->lines, l, turn);
        table_remove(&r->lines, &l->node);
        free(l);
    }
    if (--s->queued == 0) TAILQ_REMOVE(&r->turns, s, turn);
    give_share(r, s);
}

static void forget(struct resolver *r, struct resolver_name *n) {
    if (n->line) dequeue(r, n);
    table_remove(&r->by_host, &n->node);
    TAILQ_REMOVE(list_of(r, n), n, used);
    drop_domain(r, n->domain);
    free(n->list);
    free(n);
}

/* The longest unused go first. */
static void make_room(struct resolver *r, struct names *from) {
    struct resolver_name *n = TAILQ_FIRST(from);
    while (n && r->by_host.n >= r->most) {
        struct resolver_name *next = TAILQ_NEXT(n, used);
        if (n->state == NAME_RESTS && TAILQ_EMPTY(&n->waits)) forget(r, n);
        n = next;
    }
}

static struct resolver_name *name_of(struct resolver *r, struct str host) {
    uint64_t hash = keyed_hash(host.p, host.n);
    for (struct table_node *at = table_first(&r->by_host, hash); at; at = table_next(at)) {
        struct resolver_name *n = TABLE_ENTRY(at, struct resolver_name, node);
        if (str_is(host, n->host)) return n;
    }
    make_room(r, &r->unknown);
    make_room(r, &r->known);
    struct resolver_name *n = xcalloc(1, sizeof *n + host.n + 1);
    memcpy(n->host, host.p, host.n);
    table_add(&r->by_host, &n->node, hash);
    TAILQ_INIT(&n->waits);
    TAILQ_INSERT_TAIL(&r->unknown, n, used);
    n->domain = domain_of(r, host);
    n->domain->names++;
    return n;
}

/* --- Who is looked up next --- */

static size_t quarter(size_t n) {
    return n / 4 ? n / 4 : 1;
}

/* What is not known of a domain is expected to be as what its workspace wanted last. */
static enum speed expected(const struct line *l) {
    bool slow = l->domain->speed == UNKNOWN && l->share->speed == SLOW;
    return slow ? SLOW : l->domain->speed;
}

/* How far the threads are a domain's to use, and a workspace's. A name server that does not answer
 * holds a thread for seconds, and names and domains are cheap: so nobody has more than a quarter,
 * half of the threads are for those that don't keep others waiting, and a quarter for those that
 * have shown it. */
static bool may_begin(const struct resolver *r, const struct line *l, int64_t now) {
    const struct domain *d = l->domain;
    size_t each = quarter(r->threads);
    if (r->running >= r->threads || d->running >= each || l->share->running >= each) return false;
    if (d->speed == QUICK && (!d->running || now - d->progress_ms < SLOW_MS)) return true;
    if (r->running_of[UNKNOWN] + r->running_of[SLOW] + each >= r->threads) return false;
    return expected(l) == UNKNOWN || r->running_of[SLOW] < r->threads / 2;
}

static void begin(struct resolver *r, struct resolver_name *n, int64_t now) {
    struct domain *d = n->domain;
    struct lookup *l = xcalloc(1, sizeof *l);
    l->name = n;
    l->family = r->family;
    l->speed = expected(n->line);
    memcpy(l->host, n->host, strlen(n->host) + 1);
    n->share = n->line->share;
    n->share->running++;
    dequeue(r, n);
    n->state = NAME_RUNNING;
    if (d->running++ == 0) d->progress_ms = now;
    r->running++;
    r->running_of[l->speed]++;
    hand_over(r->pool, l);
}

/* One of a workspace's, of the domain whose turn it is. False when none may begin. */
static bool begin_one(struct resolver *r, struct share *s, int64_t now) {
    struct line *l = TAILQ_FIRST(&s->lines);
    if (s->running >= quarter(r->threads)) return false; /* none of what may be hundreds */
    while (l && !may_begin(r, l, now)) l = TAILQ_NEXT(l, turn);
    if (!l) return false;
    TAILQ_REMOVE(&s->lines, l, turn);
    TAILQ_INSERT_TAIL(&s->lines, l, turn);
    TAILQ_REMOVE(&r->turns, s, turn);
    TAILQ_INSERT_TAIL(&r->turns, s, turn);
    begin(r, TAILQ_FIRST(&l->queue), now);
    return true;
}

static void begin_some(struct resolver *r) {
    int64_t now = clock_ms(CLOCK_MONOTONIC);
    for (struct share *s = TAILQ_FIRST(&r->turns); s && r->running < r->threads;)
        s = begin_one(r, s, now) ? TAILQ_FIRST(&r->turns) : TAILQ_NEXT(s, turn);
}

static size_t load(const struct share *s) {
    return s ? s->queued + s->running : 0;
}

/* Whoever wants a name that waits for another's turn should not wait behind all that the other
 * wants. */
static void want_sooner(struct resolver *r, struct resolver_name *n, uint64_t workspace) {
    if (load(share_of(r, workspace)) + 1 >= load(n->line->share)) return;
    dequeue(r, n);
    enqueue(r, n, workspace);
    begin_some(r);
}

/* False when too many are wanted. The queue is shared as the threads are. */
static bool want(struct resolver *r, struct resolver_name *n, uint64_t workspace) {
    const struct domain *d = n->domain;
    const struct share *s = share_of(r, workspace);
    size_t each = r->waiting / 4, room = d->speed == QUICK ? r->waiting : r->waiting - each;
    if (n->state == NAME_QUEUED) want_sooner(r, n, workspace);
    if (n->state != NAME_RESTS) return true;
    if (r->queued >= room || d->queued >= each || (s && s->queued >= each)) return false;
    enqueue(r, n, workspace);
    begin_some(r);
    return true;
}

/* --- What comes back --- */

static void set_list(struct resolver *r, struct resolver_name *n, const char *list, int64_t now) {
    TAILQ_REMOVE(list_of(r, n), n, used);
    free(n->list);
    n->list = list ? xstrdup(list) : NULL;
    n->found_ms = now;
    n->good_ms = now + FRESH_MS;
    TAILQ_INSERT_TAIL(list_of(r, n), n, used);
}

/* Addresses from before are better than none. */
static bool use_stale(struct resolver_name *n, int64_t now) {
    if (!n->list || now - n->found_ms > STALE_MS) return false;
    n->good_ms = now + GRACE_MS;
    return true;
}

static void finish(struct resolver *r, struct lookup *l) {
    struct resolver_name *n = l->name;
    struct domain *d = n->domain;
    struct share *s = n->share;
    int64_t now = clock_ms(CLOCK_MONOTONIC);
    int code = l->code;
    r->running--;
    r->running_of[l->speed]--;
    d->running--;
    d->progress_ms = now;
    d->speed = l->took_ms > SLOW_MS ? SLOW : QUICK;
    s->speed = d->speed;
    s->running--;
    give_share(r, s);
    n->share = NULL;
    n->state = NAME_RESTS;
    n->failed_ms = code ? now : 0;
    if (code == 0)
        set_list(r, n, l->list, now);
    else if (code == EAI_NONAME || code == EAI_NODATA)
        set_list(r, n, NULL, now);
    else if (use_stale(n, now))
        code = 0;
    free(l);
    struct waits waits = TAILQ_HEAD_INITIALIZER(waits);
    TAILQ_CONCAT(&waits, &n->waits, link);
    for (struct resolver_wait *w; (w = TAILQ_FIRST(&waits));) {
        TAILQ_REMOVE(&waits, w, link);
        w->name = NULL;
        w->done(w, code);
    }
}

void resolver_run(struct resolver *r) {
    struct lookups found = TAILQ_HEAD_INITIALIZER(found);
    eventfd_t count;
    if (r->running == 0) return;
    pthread_mutex_lock(&r->pool->lock);
    if (!TAILQ_EMPTY(&r->pool->found)) eventfd_read(r->pool->event_fd, &count);
    TAILQ_CONCAT(&found, &r->pool->found, link);
    pthread_mutex_unlock(&r->pool->lock);
    if (TAILQ_EMPTY(&found)) return;
    for (struct lookup *l; (l = TAILQ_FIRST(&found));) {
        TAILQ_REMOVE(&found, l, link);
        finish(r, l);
    }
    begin_some(r);
}

/* --- Who asks --- */

static bool due_for_renewal(const struct resolver_name *n, int64_t now) {
    return n->state == NAME_RESTS && now - n->found_ms >= RENEW_MS &&
           (!n->failed_ms || now - n->failed_ms >= GRACE_MS);
}

enum resolved resolver_ask(struct resolver *r, struct str host, uint64_t workspace,
                           struct resolver_wait *w, const char **ret_list) {
    char lower[RESOLVER_NAME_MAX] = "";
    for (size_t i = 0; i < host.n; i++) lower[i] = char_lower(host.p[i]);
    struct resolver_name *n = name_of(r, (struct str){lower, host.n});
    int64_t now = clock_ms(CLOCK_MONOTONIC);
    TAILQ_REMOVE(list_of(r, n), n, used);
    TAILQ_INSERT_TAIL(list_of(r, n), n, used);
    if (n->list && now < n->good_ms) {
        if (due_for_renewal(n, now)) want(r, n, workspace);
        *ret_list = n->list;
        return RESOLVED;
    }
    if (!want(r, n, workspace)) return RESOLVED_FULL;
    w->name = n;
    TAILQ_INSERT_TAIL(&n->waits, w, link);
    return RESOLVED_LATER;
}

bool resolver_leave(struct resolver *r, struct resolver_wait *w) {
    struct resolver_name *n = w->name;
    if (!n) return false;
    TAILQ_REMOVE(&n->waits, w, link);
    w->name = NULL;
    if (n->state == NAME_QUEUED && !n->list && TAILQ_EMPTY(&n->waits)) dequeue(r, n);
    return use_stale(n, clock_ms(CLOCK_MONOTONIC));
}

bool resolver_begun(const struct resolver_wait *w) {
    return w->name && w->name->state == NAME_RUNNING;
}

struct resolver *resolver_new(const struct config *cfg) {
    struct resolver *r = xcalloc(1, sizeof *r);
    r->threads = cfg->resolver_threads < THREADS_MIN ? THREADS_MIN : (size_t)cfg->resolver_threads;
    r->waiting = (size_t)cfg->resolver_waiting;
    r->most = (size_t)cfg->resolver_cache;
    TAILQ_INIT(&r->known);
    TAILQ_INIT(&r->unknown);
    TAILQ_INIT(&r->turns);
    r->pool = pool_new(r->threads);
    /* Where there is no IPv6, nobody should be sent there. */
    int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    r->family = fd < 0 ? AF_INET : AF_UNSPEC;
    if (fd >= 0) close(fd);
    return r;
}

static void free_names(struct resolver *r, struct names *all) {
    for (struct resolver_name *n; (n = TAILQ_FIRST(all));) forget(r, n);
}

static void free_share(void *context, struct table_node *node) {
    (void)context;
    free(TABLE_ENTRY(node, struct share, node));
}

void resolver_free(struct resolver *r) {
    if (!r) return;
    struct pool *p = r->pool;
    pthread_mutex_lock(&p->lock);
    close(p->event_fd);
    p->event_fd = -1;
    pthread_cond_broadcast(&p->more);
    leave_pool(p, p->threads == 0);
    free_names(r, &r->known);
    free_names(r, &r->unknown);
    table_free(&r->by_host);
    table_free(&r->domains);
    table_each(&r->shares, free_share, NULL); /* of what is still looked up */
    table_free(&r->shares);
    table_free(&r->lines);
    free(r);
}

int resolver_fd(const struct resolver *r) {
    return r->pool->event_fd;
}
