/* Between windows and sinks: a queue per destination with its bounds (requests at once, waiting
 * deliveries and bytes, requests per second) and a circuit breaker, so that one destination's
 * trouble stays its own (promise P4). What can't be sent now is given back at once as RETRY,
 * uncounted, and the worker parks it. Lane's thread.
 *
 * The breaker opens after breaker.failures consecutive failures, or on the first that says the
 * destination refuses who we are. While open, one delivery every breaker.probe goes out as a probe;
 * a success closes it.
 *
 * Destinations are free for a tenant, so connections, waiting and memory are shared by workspace
 * and host, too. A destination is risky while it has not delivered yet, fails or is slow. Risky
 * ones never keep the lane from reading: what they have no share for is parked. They get half of
 * the connections at most, and a request counts as theirs from the moment it is slow, whatever its
 * destination did before; it is given up when a workspace that has none needs its place. Others
 * may, for a moment: then the lane looks past them for somebody else's events. */
#ifndef RUNSINK_DISPATCH_H
#define RUNSINK_DISPATCH_H

#include "sinks/sink.h"
#include "worker/pipeline/backlog.h"
#include "worker/pipeline/delivery.h"

struct dispatch;

/* heard_ms: a clock like now_ms that leaves out what the lane did beside listening to the network,
 * so that its own slowness is not taken for a destination's. patient: nobody waits for what comes
 * now (a backfill), so a healthy destination's full queue makes the lane wait instead of parking.
 */
struct dispatch *dispatch_new(const struct config *, struct sink_env *, const int64_t *now_ms,
                              const int64_t *heard_ms, bool patient);
/* Takes a reloaded configuration over; it must outlive the dispatch. */
void dispatch_reconfigure(struct dispatch *, const struct config *);
void dispatch_free(struct dispatch *); /* nothing may be waiting or flying */
/* The delivery is the caller's, who keeps it until its done(); its destination is held meanwhile.
 */
void dispatch_add(struct dispatch *, struct delivery *);
/* Gives a delivery back soon: at once when it waits (uncounted), through the sink's cancel when it
 * flies. */
void dispatch_cancel(struct dispatch *, struct delivery *, enum cancel);
/* One that waits ends soon with this outcome instead. */
void dispatch_withdraw(struct dispatch *, struct delivery *, const struct outcome *);
/* Starts what may start and ends what has ended. */
void dispatch_run(struct dispatch *);
/* Longest time until dispatch_run() has something to do by the clock alone, ms; -1: none. */
int64_t dispatch_next_ms(const struct dispatch *);
/* Enough waits for destinations that are healthy, and will soon be gone: read no more for now. */
bool dispatch_saturated(const struct dispatch *);
size_t dispatch_waiting(const struct dispatch *);
size_t dispatch_flying(const struct dispatch *);

/* What an operator sees of a destination. */
struct destination_health {
    bool open;                /* breaker */
    bool sick;                /* its last attempt failed, whoever's fault that was */
    uint64_t workspace;       /* whose attempt that was, a keyed hash; 0: there was none */
    int64_t failing_since_ms; /* same clock as now_ms; 0: not failing */
    uint32_t failures;        /* consecutive */
    uint64_t delivered, failed, parked;
    struct outcome last; /* last failure */
};
void destination_health(struct destination *, struct destination_health *ret);
/* Whether its breaker has opened, or closed, since this said so last. One that opens again within a
 * minute has no news until that is over. */
enum breaker_news { BREAKER_AS_BEFORE, BREAKER_OPENED, BREAKER_CLOSED };
enum breaker_news dispatch_news(const struct dispatch *, struct destination *);
/* Events that were parked for it and wait. */
struct backlog *destination_backlog(struct destination *);

#endif
