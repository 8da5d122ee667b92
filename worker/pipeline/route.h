/* Where an event goes: the rules (no sink, statuses, skipOnFail, apisToSend), and the lane's table
 * of destinations. The sink object of a tenant stands in each of its events, so what it parses to
 * is cached by its bytes; destinations are shared by identity. The table is bounded by dest.max and
 * memory.budget and forgets what was unused for dest.idle; where it is full, what the workspace
 * that has most of it used longest ago. Lane's thread; lanes share nothing. */
#ifndef RUNSINK_ROUTE_H
#define RUNSINK_ROUTE_H

#include "sinks/sink.h"
#include "worker/event/jobrun.h"
#include "worker/kafka/retry.h"

struct router;

enum route_kind { ROUTE_DELIVER, ROUTE_SKIP, ROUTE_DEAD };

/* Of a finished configuration, which must outlive it. */
struct router *router_new(const struct config *);
/* Takes a reloaded configuration over; it must outlive the router. */
void router_reconfigure(struct router *, const struct config *);
void router_free(struct router *); /* no destination may be held */

/* The sink objects that it has parsed, for jobrun_decode_known(). */
struct known_sinks router_known(struct router *);

/* Decides by configuration and event. DELIVER: *ret_dest is the destination, valid while held.
 * SKIP, DEAD: *reterr has the reason. now_ms is a monotonic clock. */
enum route_kind route(struct router *, const struct jobrun *, int64_t now_ms,
                      struct destination **ret_dest, struct outcome *reterr);
/* The same without the rules that skip: for records that come back from a retry topic. */
enum route_kind route_again(struct router *, const struct jobrun *, int64_t now_ms,
                            struct destination **ret_dest, struct outcome *reterr);

/* A held destination is not forgotten. */
void destination_hold(struct destination *);
void destination_drop(struct destination *);
/* What the worker keeps with a destination: size bytes, zeroed when the destination was made. */
#define DESTINATION_STATE_BYTES 512
void *destination_state(struct destination *);
/* Calls fn for each destination known. */
void router_each(struct router *, void (*fn)(struct destination *, void *), void *);
size_t router_count(const struct router *);
/* Memory that it takes with all destinations, their secrets in the scrubber included. That is a
 * quarter of the lane's memory.budget at most, but for what is held above three quarters of that:
 * of the workspace that has most, the longest unused are forgotten. */
size_t router_bytes(const struct router *);
/* What it leaves of the half of the lane's memory.budget that it shares with the records. */
size_t router_room(const struct router *);
size_t destination_room(const struct destination *);
/* What this one takes of it. */
size_t destination_bytes(const struct destination *);
/* Forgets the idle. Cheap when there is nothing to do. */
void router_tick(struct router *, int64_t now_ms);

#endif
