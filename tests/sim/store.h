/* The other side of every delivery: buckets and webhooks, some of them sick, and what is in them.
 * What arrives does so whether its sender is still alive or not. */
#ifndef RUNSINK_SIM_STORE_H
#define RUNSINK_SIM_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/base/str.h"

enum sickness {
    WELL,
    REFUSES,   /* connections */
    SILENT,    /* takes requests and does not answer; may keep what they bring */
    SLOW,      /* answers after seconds */
    BROKEN,    /* 5xx */
    THROTTLES, /* 429 or 503, with Retry-After */
    FORBIDS,   /* 403 */
    MISSING,   /* 404 of a bucket, 410 of a webhook */
    FLAKY,     /* any of these, now and then */
    SICKNESSES
};

struct object {
    char *key, *body;
    size_t n;
    int64_t at_us; /* when it was first there */
    unsigned writes;
    struct object *older; /* what it was before, the newest first */
    struct object *next;
};

struct place {
    char url[128]; /* of all that belongs to it, up to the key */
    bool hook;
    bool proof;  /* the operator's: anchors are written there, and no events */
    bool steady; /* it is never sick, and no request of its goes wrong */
    enum sickness sickness;
    int64_t from_us, to_us; /* of its sickness */
    struct object *objects;
};

/* Places live as long as the run. */
int store_add(const char *url, bool hook, bool steady);
struct place *store_place(int i);
int store_count(void);
const char *sickness_name(enum sickness);
struct object *store_find(const struct place *, const char *key);
/* Whether this answer of its ends a delivery for good. */
bool store_is_final(const struct place *, int status);
/* Nothing goes wrong any more, from now on. */
void store_calm(void);

/* Whether no request and no answer is under way, and nothing is still to be written. */
bool store_is_quiet(void);

/* ---- for http.c ---- */

enum answer { ANSWER_STATUS, ANSWER_REFUSED, ANSWER_RESET, ANSWER_NONE };

/* What becomes of a request that has been sent. Times from now; -1: it does not happen. */
struct reception {
    int64_t written_us, again_us, answered_us;
    enum answer answer;
    int status;
    uint32_t retry_after_ms;
    const char *code; /* of S3's, with an error; NULL: none */
};
/* The place that an URL belongs to, -1: none. *ret_key (decoded, malloc's, the caller's to free).
 */
int store_route(const char *url, char **ret_key);
void store_receive(int place, struct reception *ret);
/* It is there now. Borrows. */
void store_write(int place, const char *key, struct str body);

#endif
