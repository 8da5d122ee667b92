/* What the platform that produced an event is told of it: a CloudEvent for <topic>.outcomes, which
 * the transaction that settles the record writes. It says what one record's history says, no more,
 * so a replay makes it again. config/outcomes.schema.json is its form. Lane's thread. */
#ifndef RUNSINK_NOTICE_H
#define RUNSINK_NOTICE_H

#include "worker/base/str.h"
#include "worker/event/jobrun.h"

struct config;
struct destination;
struct record;
struct window;

#define NOTICE_CONTENT_TYPE "application/cloudevents+json; charset=UTF-8"

struct notice {
    struct str key; /* the id of the event's workspace; p NULL: not known */
    struct str value;
};

/* What is to be told of a record that has its outcome: "failing", "recovered", "dead", "delivered",
 * "skipped"; NULL: nothing. */
const char *notice_what(const struct config *, const struct record *);
/* The window's arena's. run NULL: the record can't be decoded. */
const struct notice *notice_make(struct window *, const struct record *, const char *what,
                                 const struct jobrun *run);
/* That a destination's breaker has opened, or closed, with this record's delivery. */
const struct notice *notice_of_destination(struct window *, const struct record *,
                                           struct destination *, bool failing,
                                           const struct jobrun *run);

#endif
