/* For tests of sinks: what a batch was told at its end. */
#ifndef TESTS_SEEN_H
#define TESTS_SEEN_H

#include "sinks/sink.h"

/* What done() was told, by batch->owner. */
struct seen {
    int calls;
    struct outcome outcome;
};

static void done(struct batch *b, const struct outcome *o) {
    struct seen *s = b->owner;
    s->calls++;
    s->outcome = *o;
}

#endif
