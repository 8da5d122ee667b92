/* Host names to addresses, for one lane: getaddrinfo() on a few threads, because it can't be told
 * to stop and a tenant chooses whose name server it waits for. A name is looked up once at a time,
 * however many wait for it, and what one domain or one workspace wants never takes all threads: see
 * resolver.c. What is found is kept for half a minute.
 * Lane's thread; the threads are its own. http.c and tests include this. */
#ifndef RUNSINK_RESOLVER_H
#define RUNSINK_RESOLVER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "worker/base/str.h"

#define RESOLVER_NAME_MAX 254    /* a name and its root dot */
#define RESOLVER_ADDRESSES_MAX 8 /* of a name; more are passed over */
/* "192.0.2.1,[2001:db8::1]": as CURLOPT_RESOLVE takes them */
#define RESOLVER_LIST_SIZE (RESOLVER_ADDRESSES_MAX * 49)

struct config;
struct resolver;
struct resolver_name;

enum resolved {
    RESOLVED,
    RESOLVED_LATER, /* done() will be called */
    RESOLVED_FULL   /* too many names are waiting */
};

/* The asker's, zero-initialised, alive while it waits. done() is called from resolver_run(): code
 * is 0, and asking again at once finds the addresses, or getaddrinfo()'s. */
struct resolver_wait {
    TAILQ_ENTRY(resolver_wait) link;
    struct resolver_name *name; /* NULL: waits for nothing */
    void (*done)(struct resolver_wait *, int code);
};

struct resolver *resolver_new(const struct config *); /* not kept */
/* Nobody may wait any more. Threads that are within getaddrinfo() end by themselves. */
void resolver_free(struct resolver *);
int resolver_fd(const struct resolver *); /* readable when resolver_run() has something to do */
void resolver_run(struct resolver *);

/* host: a name, no address, of RESOLVER_NAME_MAX bytes at most. workspace: for whom, a keyed hash;
 * 0: for nobody's. *ret_list: until the next call of any function here. */
enum resolved resolver_ask(struct resolver *, struct str host, uint64_t workspace,
                           struct resolver_wait *, const char **ret_list);
/* Waits no more. True when the name has addresses from before, not older than an hour, which are
 * then given for the next seconds: better than none. */
bool resolver_leave(struct resolver *, struct resolver_wait *);
/* Whether somebody is looking for it yet, for somebody who waits. */
bool resolver_begun(const struct resolver_wait *);

#endif
