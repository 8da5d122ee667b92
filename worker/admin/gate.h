/* The admin server's gate: accepts connections and hands them on, a bounded number at a time. A
 * connection has so long to send a request's head, and so long to take its answer, however it
 * trickles. When all places are taken, a new connection gets that of the one that has waited
 * longest without a request, of the address that has most: so a probe is answered whoever holds
 * connections open. Beside a flood from its own address, its request has to be there before as many
 * others came.
 *
 * A thread of its own accepts; the server's thread tells what becomes of each connection. */
#ifndef RUNSINK_GATE_H
#define RUNSINK_GATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

struct gate;

/* Takes a connection over, whatever becomes of it. On the gate's thread. */
typedef void gate_hand_fn(void *ctx, int fd, const struct sockaddr *, socklen_t);

/* Called about once a second, on the gate's thread. */
typedef void gate_turn_fn(void *ctx);

/* More than max connections are open for moments only, but never more than this. */
#define GATE_OPEN_MAX(max) (2 * (max))

struct gate *gate_new(size_t max, int64_t timeout_ms, gate_hand_fn *, gate_turn_fn *, void *ctx);
/* Accepts from listen_fd, which does not block, and owns it from now on. False when there is no
 * thread to be had. */
bool gate_run(struct gate *, int listen_fd);
/* About a connection, by its descriptor, from the server: it is known from now on; it has sent a
 * whole head; it has its answer and may ask again; it is about to be closed. */
void gate_started(struct gate *, int fd);
void gate_answering(struct gate *, int fd);
void gate_answered(struct gate *, int fd);
void gate_gone(struct gate *, int fd);
/* Accepts no more; what is open stays. NULL is fine. */
void gate_stop(struct gate *);
void gate_free(struct gate *); /* after the server has closed its connections; NULL is fine */

#endif
