/* The resolver against name servers that this program plays, in libc's place, and by a clock that
 * it turns. A name says what becomes of it: "held..." is answered once that is allowed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "config/config.h"
#include "sinks/http/resolver.h"

#define COUNT(a) (sizeof(a) / sizeof *(a))
#define PATIENCE_MS 20000

/* --- The clock --- */

static atomic_llong ahead_s;

int clock_gettime(clockid_t id, struct timespec *ret) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) {
        void *symbol = dlsym(RTLD_NEXT, "clock_gettime");
        memcpy(&real, &symbol, sizeof real);
    }
    int rc = real(id, ret);
    if (id == CLOCK_MONOTONIC) ret->tv_sec += ahead_s;
    return rc;
}

/* --- The name servers --- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t released = PTHREAD_COND_INITIALIZER;
static bool hold;
static int let_go, let_go_of; /* how many of those held, that came no later than this one */
static int code;              /* what getaddrinfo() returns */
static const char *answer;
static int lookups, at_once, most_at_once;

static struct addrinfo *address(const char *text) {
    struct {
        struct addrinfo info;
        struct sockaddr_in6 in6;
    } *a = calloc(1, sizeof *a);
    struct sockaddr_in *in = (struct sockaddr_in *)(void *)&a->in6;
    a->info.ai_addr = (struct sockaddr *)(void *)&a->in6;
    if (inet_pton(AF_INET, text, &in->sin_addr) == 1)
        in->sin_family = AF_INET;
    else if (inet_pton(AF_INET6, text, &a->in6.sin6_addr) == 1)
        a->in6.sin6_family = AF_INET6;
    return &a->info;
}

int getaddrinfo(const char *restrict name, const char *restrict service,
                const struct addrinfo *restrict hints, struct addrinfo **restrict ret) {
    (void)service;
    (void)hints;
    pthread_mutex_lock(&lock);
    int number = ++lookups;
    if (++at_once > most_at_once) most_at_once = at_once;
    bool held = strncmp(name, "held", 4) == 0;
    while (held && hold && (let_go == 0 || number > let_go_of)) pthread_cond_wait(&released, &lock);
    if (held && hold) let_go--;
    at_once--;
    int rc = code;
    char list[512];
    snprintf(list, sizeof list, "%s", answer);
    pthread_mutex_unlock(&lock);
    *ret = NULL;
    for (char *rest = list, *one; rc == 0 && (one = strsep(&rest, " "));) {
        *ret = address(one);
        ret = &(*ret)->ai_next;
    }
    return rc;
}

void freeaddrinfo(struct addrinfo *a) {
    for (struct addrinfo *next; a; a = next) {
        next = a->ai_next;
        free(a);
    }
}

static void play(bool held, int rc, const char *list) {
    pthread_mutex_lock(&lock);
    hold = held;
    let_go = 0;
    code = rc;
    answer = list;
    pthread_cond_broadcast(&released);
    pthread_mutex_unlock(&lock);
}

/* Answers n of those that are held now. */
static void release(int n) {
    pthread_mutex_lock(&lock);
    let_go = n;
    let_go_of = lookups;
    pthread_cond_broadcast(&released);
    pthread_mutex_unlock(&lock);
}

static int looked_up(void) {
    pthread_mutex_lock(&lock);
    int n = lookups;
    pthread_mutex_unlock(&lock);
    return n;
}

/* --- Who asks --- */

static struct config cfg;

struct ask {
    struct resolver_wait wait; /* first */
    int done, code;
};

static void on_done(struct resolver_wait *w, int rc) {
    struct ask *a = (struct ask *)(void *)w;
    a->done++;
    a->code = rc;
}

static int setup(void **state) {
    cfg = (struct config){.resolver_threads = 8, .resolver_waiting = 40, .resolver_cache = 64};
    play(false, 0, "192.0.2.1");
    lookups = at_once = most_at_once = 0;
    *state = resolver_new(&cfg);
    return 0;
}

static int threads(void) {
    DIR *dir = opendir("/proc/self/task");
    int n = 0;
    for (const struct dirent *d; (d = readdir(dir));) n += d->d_name[0] != '.';
    closedir(dir);
    return n;
}

/* False when threads are left. */
static int teardown(void **state) {
    play(false, 0, "192.0.2.1");
    resolver_free(*state);
    for (int i = 0; i < PATIENCE_MS && threads() > 1; i++) poll(NULL, 0, 1);
    return threads() == 1 ? 0 : -1;
}

static enum resolved ask_for(struct resolver *r, uint64_t workspace, struct ask *a,
                             const char *host, const char **list) {
    const char *unused;
    *a = (struct ask){.wait.done = on_done};
    return resolver_ask(r, str_c(host), workspace, &a->wait, list ? list : &unused);
}

/* For a workspace that asks for nothing else. */
static enum resolved ask(struct resolver *r, struct ask *a, const char *host, const char **list) {
    static uint64_t others = 1000;
    return ask_for(r, ++others, a, host, list);
}

static void await(struct resolver *r, const int *done) {
    struct pollfd fd = {.fd = resolver_fd(r), .events = POLLIN};
    while (!*done) {
        assert_int_equal(poll(&fd, 1, PATIENCE_MS), 1);
        resolver_run(r);
    }
}

/* The addresses, asked for until they are there; NULL when there are none. */
static const char *get(struct resolver *r, const char *host) {
    struct ask a;
    const char *list = NULL;
    if (ask(r, &a, host, &list) == RESOLVED) return list;
    await(r, &a.done);
    if (a.code) return NULL;
    assert_int_equal(ask(r, &a, host, &list), RESOLVED);
    return list;
}

static void held_lookups(int n) {
    for (int64_t i = 0; i < PATIENCE_MS; i++) {
        pthread_mutex_lock(&lock);
        bool there = at_once == n;
        pthread_mutex_unlock(&lock);
        if (there) return;
        poll(NULL, 0, 1);
    }
    fail_msg("%d lookups at once, expected %d", at_once, n);
}

/* --- What is found --- */

static void test_lists(void **state) {
    static const struct {
        const char *answer, *list;
    } cases[] = {{"192.0.2.1", "192.0.2.1"},
                 {"192.0.2.1 2001:db8::1 192.0.2.2", "192.0.2.1,[2001:db8::1],192.0.2.2"},
                 {"192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4 192.0.2.5 192.0.2.6 192.0.2.7 192.0.2.8 "
                  "192.0.2.9",
                  "192.0.2.1,192.0.2.2,192.0.2.3,192.0.2.4,192.0.2.5,192.0.2.6,192.0.2.7,"
                  "192.0.2.8"}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        char host[32];
        snprintf(host, sizeof host, "name-%zu.example.com", i);
        play(false, 0, cases[i].answer);
        assert_string_equal(get(*state, host), cases[i].list);
    }
    play(false, EAI_NONAME, "");
    assert_null(get(*state, "none.example.com"));
}

static void test_one_lookup_for_all_who_wait(void **state) {
    struct ask asks[50];
    play(true, 0, "192.0.2.1");
    for (size_t i = 0; i < COUNT(asks); i++)
        assert_int_equal(
            ask(*state, &asks[i], i % 2 ? "held.example.com" : "HELD.Example.COM", NULL),
            RESOLVED_LATER);
    held_lookups(1);
    resolver_leave(*state, &asks[7].wait);
    play(false, 0, "192.0.2.1");
    await(*state, &asks[49].done);
    for (size_t i = 0; i < COUNT(asks); i++) assert_int_equal(asks[i].done, i != 7);
    assert_int_equal(looked_up(), 1);
}

/* --- For how long --- */

static void test_kept_for_half_a_minute(void **state) {
    assert_string_equal(get(*state, "a.example.com"), "192.0.2.1");
    play(false, 0, "192.0.2.2");
    ahead_s += 14;
    assert_string_equal(get(*state, "a.example.com"), "192.0.2.1");
    assert_int_equal(looked_up(), 1);
    ahead_s += 17; /* a name that is moved is followed */
    assert_string_equal(get(*state, "a.example.com"), "192.0.2.2");
    assert_int_equal(looked_up(), 2);
}

/* What is in use is looked up before its time is over: nobody waits for it. */
static void test_renewed_in_use(void **state) {
    struct ask a;
    const char *list;
    get(*state, "a.example.com");
    play(false, 0, "192.0.2.2");
    ahead_s += 16;
    assert_string_equal(get(*state, "a.example.com"), "192.0.2.1");
    struct pollfd fd = {.fd = resolver_fd(*state), .events = POLLIN};
    assert_int_equal(poll(&fd, 1, PATIENCE_MS), 1);
    resolver_run(*state);
    assert_int_equal(ask(*state, &a, "a.example.com", &list), RESOLVED);
    assert_string_equal(list, "192.0.2.2");
}

/* No name server answers: addresses of up to an hour serve; not when one says that there is none.
 */
static void test_old_ones_are_better_than_none(void **state) {
    static const struct {
        int after_s, code;
        const char *list;
    } cases[] = {{40, EAI_AGAIN, "192.0.2.1"},  {3000, EAI_AGAIN, "192.0.2.1"},
                 {3000, EAI_FAIL, "192.0.2.1"}, {3700, EAI_AGAIN, NULL},
                 {40, EAI_NONAME, NULL},        {40, EAI_NODATA, NULL}};
    for (size_t i = 0; i < COUNT(cases); i++) {
        char host[32];
        snprintf(host, sizeof host, "name-%zu.example.com", i);
        play(false, 0, "192.0.2.1");
        get(*state, host);
        ahead_s += cases[i].after_s;
        play(false, cases[i].code, "");
        const char *list = get(*state, host);
        if (cases[i].list)
            assert_string_equal(list, cases[i].list);
        else
            assert_null(list);
    }
}

/* The same where the name servers are silent, once the asker has waited for long enough. */
static void test_old_ones_when_nobody_answers(void **state) {
    struct ask a;
    const char *list;
    get(*state, "held.example.com");
    ahead_s += 40;
    play(true, 0, "192.0.2.2");
    assert_int_equal(ask(*state, &a, "held.example.com", NULL), RESOLVED_LATER);
    assert_true(resolver_leave(*state, &a.wait));
    assert_int_equal(ask(*state, &a, "held.example.com", &list), RESOLVED);
    assert_string_equal(list, "192.0.2.1");
    assert_int_equal(ask(*state, &a, "held.example.net", NULL), RESOLVED_LATER);
    assert_false(resolver_leave(*state, &a.wait));
}

/* --- Shares --- */

static void test_a_domain_has_a_quarter(void **state) {
    struct ask asks[12];
    char host[64];
    play(true, 0, "192.0.2.1");
    for (int i = 0; i < 10; i++) {
        snprintf(host, sizeof host, "held-%d.a.evil.co.uk", i);
        assert_int_equal(ask(*state, &asks[i], host, NULL), RESOLVED_LATER);
    }
    held_lookups(2);
    assert_true(resolver_begun(&asks[1].wait));
    assert_false(resolver_begun(&asks[2].wait));
    /* That is a share of .evil.co.uk, not of .co.uk. */
    assert_non_null(get(*state, "www.good.co.uk"));
    /* The queue is shared as well. */
    assert_int_equal(ask(*state, &asks[10], "held-10.evil.co.uk", NULL), RESOLVED_LATER);
    assert_int_equal(ask(*state, &asks[11], "held-11.evil.co.uk", NULL), RESOLVED_LATER);
    assert_int_equal(ask(*state, &asks[0], "held-12.evil.co.uk", NULL), RESOLVED_FULL);
    assert_non_null(get(*state, "www.good.example.com"));
}

/* Whatever stands before a country's own domain is registered by somebody, but for a few words. */
static void test_a_short_domain_is_one(void **state) {
    static const char *const short_ones[] = {"evl.io", "e.io", "x.evl.co.uk"};
    struct ask asks[4];
    char host[64];
    play(true, 0, "192.0.2.1");
    for (size_t i = 0; i < COUNT(short_ones); i++) {
        for (int k = 0; k < 4; k++) {
            snprintf(host, sizeof host, "held-%d.%s", k, short_ones[i]);
            assert_int_equal(ask(*state, &asks[k], host, NULL), RESOLVED_LATER);
        }
        held_lookups(2);
        assert_non_null(get(*state, "www.god.io"));
        assert_non_null(get(*state, "www.god.co.uk"));
        for (int k = 0; k < 4; k++) resolver_leave(*state, &asks[k].wait);
        release(2);
        held_lookups(0);
        resolver_run(*state);
    }
}

/* Domains are cheap: hundreds of one workspace, all silent, count as one. */
static void test_a_workspace_has_a_quarter(void **state) {
    static struct ask asks[13];
    char host[64];
    for (int i = 0; i < 5; i++) { /* their servers were quick once */
        snprintf(host, sizeof host, "www.evil-%d.com", i);
        assert_non_null(get(*state, host));
    }
    play(true, 0, "192.0.2.1");
    for (int i = 0; i < 12; i++) {
        snprintf(host, sizeof host, "held-%d.evil-%d.com", i, i);
        assert_int_equal(ask_for(*state, 1, &asks[i], host, NULL), RESOLVED_LATER);
    }
    held_lookups(2);
    assert_int_equal(ask_for(*state, 1, &asks[12], "held.evil.org", NULL), RESOLVED_FULL);
    for (int i = 0; i < 30; i++) { /* new tenants wait for nobody */
        struct ask a;
        snprintf(host, sizeof host, "www.new-%d.com", i);
        assert_int_equal(ask_for(*state, (uint64_t)(2 + i), &a, host, NULL), RESOLVED_LATER);
        assert_true(resolver_begun(&a.wait));
        await(*state, &a.done);
        assert_int_equal(a.code, 0);
    }
    held_lookups(2);
}

/* Six of eight threads are held, and a workspace has many names of many domains in the queue: who
 * comes after it is next but one. */
static void test_workspaces_take_turns(void **state) {
    static struct ask held[6], more[8];
    struct ask late;
    char host[64];
    play(true, 0, "192.0.2.1");
    for (int i = 0; i < 6; i++) {
        snprintf(host, sizeof host, "held-%d.evil-%d.com", i, i);
        ask_for(*state, (uint64_t)(1 + i / 2), &held[i], host, NULL);
    }
    held_lookups(6);
    for (int i = 0; i < 8; i++) {
        snprintf(host, sizeof host, "held-%d.more-%d.com", i, i);
        assert_int_equal(ask_for(*state, 1, &more[i], host, NULL), RESOLVED_LATER);
    }
    assert_int_equal(ask_for(*state, 9, &late, "held.new.org", NULL), RESOLVED_LATER);
    assert_false(resolver_begun(&late.wait));
    release(2);
    for (int done = 0; done < 2;) {
        struct pollfd fd = {.fd = resolver_fd(*state), .events = POLLIN};
        assert_int_equal(poll(&fd, 1, PATIENCE_MS), 1);
        resolver_run(*state);
        done = 0;
        for (int i = 0; i < 6; i++) done += held[i].done;
    }
    assert_true(resolver_begun(&late.wait));
}

/* Another domain that nobody knows is no excuse for who had threads wait before. */
static void test_a_workspace_known_to_be_slow(void **state) {
    static struct ask first[6], more[6];
    struct ask late;
    char host[64];
    play(true, 0, "192.0.2.1");
    for (int i = 0; i < 6; i++) {
        snprintf(host, sizeof host, "held-%d.evil-%d.com", i, i);
        ask_for(*state, (uint64_t)(1 + i / 2), &first[i], host, NULL);
    }
    held_lookups(6);
    for (int i = 0; i < 6; i++) {
        snprintf(host, sizeof host, "held-%d.more-%d.com", i, i);
        ask_for(*state, (uint64_t)(1 + i / 2), &more[i], host, NULL);
    }
    ahead_s += 10;
    release(6);
    for (int i = 0; i < 6; i++) await(*state, &first[i].done);
    held_lookups(4);
    assert_int_equal(ask_for(*state, 9, &late, "held.new.org", NULL), RESOLVED_LATER);
    assert_true(resolver_begun(&late.wait));
}

/* A name that waits behind all that one workspace wants is looked up for another that wants it. */
static void test_a_name_that_two_want(void **state) {
    static struct ask asks[9];
    struct ask other;
    char host[64];
    play(true, 0, "192.0.2.1");
    for (int i = 0; i < 9; i++) {
        snprintf(host, sizeof host, "held-%d.evil-%d.com", i, i);
        assert_int_equal(ask_for(*state, 1, &asks[i], host, NULL), RESOLVED_LATER);
    }
    held_lookups(2);
    assert_false(resolver_begun(&asks[8].wait));
    assert_int_equal(ask_for(*state, 2, &other, "held-8.evil-8.com", NULL), RESOLVED_LATER);
    assert_true(resolver_begun(&other.wait));
    held_lookups(3);
    resolver_leave(*state, &other.wait);
    play(false, 0, "192.0.2.1");
    for (int i = 0; i < 9; i++) await(*state, &asks[i].done);
    assert_int_equal(looked_up(), 9);
}

/* Silent name servers of any number of domains leave threads to those that have answered before. */
static void test_those_that_answer_have_a_reserve(void **state) {
    static struct ask asks[35];
    char host[64];
    get(*state, "www.good.example.com");
    play(true, 0, "192.0.2.1");
    for (int i = 0; i < 35; i++) {
        snprintf(host, sizeof host, "held-%d.evil-%d.com", i, i);
        assert_int_equal(ask(*state, &asks[i], host, NULL), RESOLVED_LATER);
    }
    held_lookups(6);
    struct ask a, b;
    assert_int_equal(ask(*state, &a, "held.new.org", NULL), RESOLVED_LATER);
    assert_false(resolver_begun(&a.wait));
    assert_int_equal(ask(*state, &b, "held.newer.org", NULL), RESOLVED_FULL);
    assert_non_null(get(*state, "api.example.com"));
    ahead_s += 40;
    assert_non_null(get(*state, "www.good.example.com"));
    assert_in_range(most_at_once, 6, 8);
}

/* Those known to be slow have half of the threads: the rest is left to those not known. */
static void test_the_slow_have_half(void **state) {
    static struct ask slow[20], more[20];
    char host[64];
    play(true, 0, "192.0.2.1");
    for (int i = 0; i < 6; i++) {
        snprintf(host, sizeof host, "held-%d.evil-%d.com", i, i);
        ask(*state, &slow[i], host, NULL);
    }
    held_lookups(6);
    ahead_s += 10;
    play(false, EAI_AGAIN, "");
    for (int i = 0; i < 6; i++) await(*state, &slow[i].done);
    play(true, 0, "192.0.2.1");
    for (int i = 0; i < 6; i++) {
        snprintf(host, sizeof host, "held-%d.evil-%d.com", i, i);
        assert_int_equal(ask(*state, &more[i], host, NULL), RESOLVED_LATER);
    }
    held_lookups(4);
    assert_non_null(get(*state, "www.new.org"));
    /* One that leaves the queue is not looked up for nobody. */
    resolver_leave(*state, &more[5].wait);
    play(false, 0, "192.0.2.1");
    for (int i = 0; i < 5; i++) await(*state, &more[i].done);
    assert_int_equal(looked_up(), 6 + 1 + 5);
}

static void test_bounded_memory_of_names(void **state) {
    char host[64];
    get(*state, "kept.example.com");
    for (int i = 0; i < 500; i++) {
        snprintf(host, sizeof host, "name-%d.example.com", i);
        play(false, i % 10 ? EAI_NONAME : 0, "192.0.2.1");
        get(*state, host);
    }
    int before = looked_up();
    play(false, 0, "192.0.2.1");
    get(*state, "kept.example.com"); /* those without addresses went first */
    assert_int_equal(looked_up(), before);
}

/* What nobody waits for any more ends by itself. */
static void test_freed_while_held(void **state) {
    (void)state;
    struct resolver *r = resolver_new(&cfg);
    struct ask a;
    play(true, 0, "192.0.2.1");
    ask(r, &a, "held.example.com", NULL);
    held_lookups(1);
    resolver_leave(r, &a.wait);
    resolver_free(r);
    play(false, 0, "192.0.2.1");
    held_lookups(0);
    resolver_free(NULL);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_lists),
        TEST(test_one_lookup_for_all_who_wait),
        TEST(test_kept_for_half_a_minute),
        TEST(test_renewed_in_use),
        TEST(test_old_ones_are_better_than_none),
        TEST(test_old_ones_when_nobody_answers),
        TEST(test_a_domain_has_a_quarter),
        TEST(test_a_short_domain_is_one),
        TEST(test_a_workspace_has_a_quarter),
        TEST(test_workspaces_take_turns),
        TEST(test_a_workspace_known_to_be_slow),
        TEST(test_a_name_that_two_want),
        TEST(test_those_that_answer_have_a_reserve),
        TEST(test_the_slow_have_half),
        TEST(test_bounded_memory_of_names),
        TEST(test_freed_while_held),
    };
    return cmocka_run_group_tests_name("resolver", tests, NULL, NULL);
}
