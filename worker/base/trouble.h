/* What keeps events from flowing now: a list of conditions for the process, each with its cause
 * (troubles.def), its place (a topic, "topic/partition", or empty: all) and a detail. Whoever knows
 * sets a condition when it begins and clears it when it is over; setting one that stands is cheap.
 * /readyz, the metrics, the page and the log all tell from here, so that they agree.
 *
 * Any thread; one mutex, held for moments. Bounded: conditions beyond TROUBLES_MAX are counted, not
 * listed. Details pass outcome_text() here; they hold no tenant's bytes. */
#ifndef RUNSINK_TROUBLE_H
#define RUNSINK_TROUBLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "worker/base/buf.h"

enum trouble {
#define TROUBLE(id, when, name, begins, ends, advice) TROUBLE_##id,
#include "worker/base/troubles.def"
    TROUBLE_CAUSES
};
#define TROUBLES_MAX 256
#define TROUBLE_PLACE_MAX 264 /* topic/partition */
#define TROUBLE_DETAIL_MAX 200

struct troubles;
struct troubles *troubles_new(void);
void troubles_free(struct troubles *);

/* owner: the lane's id, or TROUBLE_OWNER_MAIN: conditions of the same cause and place that two
 * lanes see are one to the reader, and over when none sees it any more. since_ms: CLOCK_MONOTONIC;
 * 0: now. place and detail NULL: empty. Logged when it begins and when it ends. */
#define TROUBLE_OWNER_MAIN (-1)
void trouble_set(struct troubles *, int owner, enum trouble, const char *place, const char *detail,
                 int64_t since_ms);
void trouble_clear(struct troubles *, int owner, enum trouble, const char *place);
/* Set while it holds, cleared when it does not: for who looks again and again. */
void trouble_tell(struct troubles *, bool holds, int owner, enum trouble, const char *place,
                  const char *detail, int64_t since_ms);
/* Everything of this owner, whatever the cause, at this place (NULL: anywhere): it is not this
 * owner's any more. */
void trouble_drop(struct troubles *, int owner, const char *place);

/* ---- telling ---- */

struct trouble_report {
    enum trouble cause;
    char place[TROUBLE_PLACE_MAX];
    char detail[TROUBLE_DETAIL_MAX];
    int64_t for_ms;
    bool unready; /* /readyz fails for it */
};
const char *trouble_name(enum trouble);
const char *trouble_text(enum trouble); /* the line that the log says when it begins */
const char *trouble_advice(enum trouble);
/* Copies them, worst first, then longest; malloc's, the caller's to free. patience_ms:
 * ready.patience. */
size_t troubles_list(struct troubles *, int64_t patience_ms, struct trouble_report **ret);
/* For a person: "brokers unreachable for 31 s (Local: Broker transport failure): look at ...". */
void trouble_print(const struct trouble_report *, struct buf *);

#endif
