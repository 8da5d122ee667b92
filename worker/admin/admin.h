/* The admin server: /metrics for Prometheus, /healthz and /readyz for a supervisor, a status page
 * at / and what it shows at /status.json. libmicrohttpd with one thread of its own, and a second
 * one that accepts for it (gate.h) and notes history every few seconds. They read lanes' counters
 * (atomics) and ask lanes for snapshots, and never wait for a lane longer than a moment.
 * GET and HEAD alone, no secrets, and but for the probes only under names of this machine
 * (admin.hosts).
 *
 * Opened and closed by the main thread. */
#ifndef RUNSINK_ADMIN_H
#define RUNSINK_ADMIN_H

#include "config/config.h"

struct admin;
struct lane;

/* Listens at admin.listen, so that a taken port is known before anything is consumed; *ret is NULL
 * when the server is switched off. False with a message for the operator. config is borrowed. */
bool admin_open(const struct config *, const char *config_path, struct admin **ret,
                struct buf *err);
/* Starts to answer. The lanes are borrowed until admin_close(). NULL: does nothing. */
bool admin_serve(struct admin *, struct lane *const *lanes, size_t n, struct buf *err);
void admin_close(struct admin *);

/* How long the most silent of the lanes that run has been, ms; those that never turned count from
 * since_ms. Monotonic ms. */
int64_t admin_silence_ms(struct lane *const *lanes, size_t n, int64_t since_ms, int64_t now_ms);
#define ADMIN_SILENCE_MAX_MS 60000
/* NULL when ready, otherwise why not, for /readyz. */
const char *admin_not_ready(struct lane *const *lanes, size_t n);

#endif
