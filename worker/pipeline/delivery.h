/* A delivery: what travels as one object or one request, with the records that are its members.
 * Here it is made, filled, named, sent and ended; in between dispatch has it. Its window owns it.
 * Lane's thread. */
#ifndef RUNSINK_DELIVERY_H
#define RUNSINK_DELIVERY_H

#include <sys/queue.h>

#include "sinks/sink.h"
#include "worker/base/table.h"
#include "worker/event/jobrun.h"
#include "worker/kafka/retry.h"

struct delivery;
struct lane;
struct notice;
struct record;
struct window;

/* Makes batch.body, body_len, sha256 and body_sha256: called when the delivery's turn has come, so
 * that only what flies has a body. False with reterr when that is not possible (too large): the
 * delivery then ends with that outcome. */
typedef bool delivery_build_fn(struct delivery *, struct outcome *reterr);
/* The delivery's end, with its outcome; called exactly once from dispatch_run(). The body is to be
 * freed here. */
typedef void delivery_done_fn(struct delivery *);

/* Why a delivery is given up. */
enum cancel { CANCEL_NONE, CANCEL_SLOW, CANCEL_LEAVING };

enum delivery_state {
    DELIVERY_NEW,
    DELIVERY_DEFERRED, /* ready, but to go alone (careful.c) */
    DELIVERY_WAITING,  /* in its destination's queue */
    DELIVERY_FLYING,   /* its sink has it */
    DELIVERY_ENDED,    /* it has its outcome, which its records are yet to get */
    DELIVERY_DONE
};

TAILQ_HEAD(delivery_list, delivery);

struct delivery {
    struct batch batch; /* what the sink sees of it */
    struct window *window;
    struct record **members; /* the array of one below, or malloc's */
    struct record *only[1];
    uint32_t n, cap;
    uint32_t expected; /* members of a batch that comes back; 0: not one */
    uint32_t tried;    /* of its lines, alone */
    bool batched;      /* an object of many: it has a batch's key and compression, and waits for a
                          window as a whole: windows bound it, no queue does */
    bool holds;        /* its destination */
    bool held;         /* hold.* names a member: it is not sent. A batch is one thing */
    char *key;
    const char *label; /* of its destination, which may be gone by the time it is settled */
    size_t size;       /* of its members' payloads: about how many bytes the body will have */
    size_t charged;    /* by dispatch, to its workspace and host */
    struct buf body;
    struct progress progress;
    struct outcome outcome;    /* once ended */
    const struct notice *news; /* of its destination; NULL: none */
    struct delivery *next_in_window;
    struct table_node group; /* in its window's groups */

    /* Dispatch's. */
    enum delivery_state state;
    bool last; /* given back it would be dead: it goes out even where nothing else may */
    bool probe;
    bool risky; /* flying: its destination had not proved itself when it took off, or it is slow */
    bool slow;  /* flying: for longer than a healthy one does */
    enum cancel cancelled;
    int64_t added_ms, sent_ms;
    int64_t heard_ms; /* when it took off, by the clock of what the lane listened to */
    delivery_build_fn *build;
    delivery_done_fn *done;
    struct dispatch *dispatch;
    struct tally *of_workspace, *of_host; /* of_host NULL: it has none */
    TAILQ_ENTRY(delivery) link;           /* its destination's queue, the flying or the finished */
};

/* object mode, and what comes back alone: the record goes out at once as an object of its own. */
void delivery_send_object(struct window *, struct record *, const struct jobrun *,
                          struct destination *);
/* One request for one event. */
void delivery_send_post(struct window *, struct record *, const struct jobrun *,
                        struct destination *, const struct message *);
/* batch mode: the event waits in its destination's delivery until the window's end is durable. */
void delivery_collect(struct window *, struct record *, struct destination *);
/* A parked batch comes back member by member; whole, it goes out under the key it had. */
void delivery_collect_again(struct window *, struct record *, struct destination *,
                            const struct retry *);
/* A member that can't be read any more leaves its batch: the others must not wait for it. */
void delivery_leave_batch(struct window *, const struct retry *);
/* batch mode, once the window's end is durable: names the objects and sends all. */
void delivery_flush(struct window *);
/* Instead: parks them all. */
void delivery_park(struct window *);
/* Sends the batches that lack members: for a retry partition whose reader has passed everything
 * (members are visible all at once, so what is not there now never comes). */
void delivery_send_incomplete(struct window *);
/* A delivery that was deferred goes out now; or ends without, with this outcome. */
void delivery_send_now(struct delivery *);
void delivery_refuse(struct delivery *, const struct outcome *);
/* Makes the body of one member alone, for nothing but to see whether that can be done. */
void delivery_try(struct lane *, const struct delivery *, uint32_t member);
/* Judges anew what is not sent yet: SIGHUP brought another configuration. */
void delivery_reconfigure(struct lane *);
/* How long deliveries to this type of sink are tried, ms. */
int64_t delivery_retry_window(const struct config *, const struct sink_type *);

#endif
