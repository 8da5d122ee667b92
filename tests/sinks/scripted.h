/* Plays outcomes from a script in the sink object: for tests of everything above the sinks.
 *     {"type":"scripted","name":"a","prefix":"p/","outcomes":["retry","slow:50","ok"]}
 * The first attempt at a key gets the first outcome, the second the second, ...; the last repeats.
 *     ok  retry  permanent  credential    that outcome ("credential": permanent, no other event
 *                                         of this destination need be tried)
 *     slow:MS                             ok after MS milliseconds
 *     retry-after:MS                      retry, and the other side asks for a pause
 *     hang                                nothing until cancelled */
#ifndef RUNSINK_SCRIPTED_H
#define RUNSINK_SCRIPTED_H

#include "sinks/sink.h"

extern const struct sink_type scripted_sink;

/* Called, when a test has set it, just before each done(); attempt counts from 1. */
typedef void scripted_observer_fn(const struct batch *, uint32_t attempt, const struct outcome *);
extern scripted_observer_fn *scripted_observer;

#endif
