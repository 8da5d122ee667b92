/* How well Kafka serves a lane: whether any broker answers, which topics and partitions can't be
 * read and why, and what a producer's open transaction holds back. Asks a broker every few
 * seconds, and nothing waits for it; tells once a second what it found to the
 * process's list of troubles. Lane's thread. */
#ifndef RUNSINK_VITALS_H
#define RUNSINK_VITALS_H

#include <stdbool.h>
#include <stdint.h>

#include "worker/kafka/consumer.h"
#include "worker/kafka/retry.h"

struct lane;
struct partition;

#define VITALS_TOPICS 8 /* in trouble, asked about one by one; more are found by and by */

struct vitals {
    int64_t told_ms, asked_ms, contact_ms;
    bool asking;
    size_t turn; /* which source topic is asked about next */
    /* The partitions whose commits were looked for last, by their serials. */
    uint64_t doubted_source, doubted_retry;
    char error[160];  /* the client's last one since a broker answered */
    uint64_t records; /* read when it was looked last */
    bool refused;     /* and that was about credentials */
    /* Since when all is revoked and nothing assigned, and since when that or the beginning is so;
     * 0: something is. */
    int64_t revoked_ms, joining_ms;
    char denied[200]; /* why the group may not be joined, as it was told last at: */
    int64_t denied_ms;
    struct {
        char name[TOPIC_MAX + 1];
        char error[96];
        int64_t since_ms;
    } topics[VITALS_TOPICS];
    size_t n_topics;
};

void vitals_begin(struct lane *); /* a consumer was opened */
void vitals_end(struct lane *);   /* and closed: it sees nothing any more */
/* Once a turn at most; does its work once a second. */
void vitals_tick(struct lane *);
void vitals_contact(struct lane *); /* a broker has answered something */
/* The main thread looks at the topics anew: one was deleted, or can't be written. */
void vitals_look_soon(const struct lane *);
/* The lane has an assignment, which may be empty; all that it had is revoked. */
void vitals_joined(struct lane *);
void vitals_revoked(struct lane *);
/* The consumer's events (consumer.h); the context is the lane. */
void vitals_topic_failed(void *lane, const char *topic, const char *error);
void vitals_client_failed(void *lane, enum broker_fault, const char *error);
void vitals_group_denied(void *lane, const char *error);
void vitals_looked(void *lane, const char *topic, enum broker_fault, const char *error);

/* A partition's reader met an error; or a record, or the end. */
void vitals_unreadable(struct lane *, struct partition *, const char *error);
void vitals_readable(struct lane *, struct partition *);
/* For how long an open transaction has held records back, ms; 0: none does. Once a second. */
int64_t vitals_held_ms(struct lane *, struct partition *);
/* The partition's end, open transactions included, as the last fetch saw it; -1: not known. */
int64_t vitals_high(const struct partition *);
/* Notes it, and one that has gone back. */
void vitals_watch_end(const struct lane *, struct partition *);

#endif
