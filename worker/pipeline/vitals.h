/* How well Kafka serves a lane: whether any broker answers, which topics and partitions can't be
 * read and why, and what a producer's open transaction holds back. Asks a broker every few
 * seconds, through offsets.h, so that nothing waits; tells once a second what it found to the
 * process's list of troubles. Lane's thread. */
#ifndef RUNSINK_VITALS_H
#define RUNSINK_VITALS_H

#include <librdkafka/rdkafka.h>
#include <stdbool.h>
#include <stdint.h>

#include "worker/kafka/retry.h"

struct lane;
struct partition;

#define VITALS_TOPICS 8 /* in trouble, asked about one by one; more are found by and by */

struct vitals {
    int64_t told_ms, asked_ms, contact_ms;
    bool asking;
    size_t turn;        /* which source topic is asked about next */
    uint64_t doubted;   /* the partition whose commit was looked for last, by its serial */
    char error[160];    /* the client's last one since a broker answered */
    uint64_t records;   /* read when it was looked last */
    bool refused;       /* and that was about credentials */
    int64_t revoked_ms; /* since when all is revoked and nothing assigned; 0: it is */
    struct {
        char name[TOPIC_MAX + 1];
        rd_kafka_resp_err_t err;
        int64_t since_ms;
    } topics[VITALS_TOPICS];
    size_t n_topics;
};

void vitals_begin(struct lane *); /* a consumer was opened */
void vitals_end(struct lane *);   /* and closed: it sees nothing any more */
/* Once a turn at most; does its work once a second. */
void vitals_tick(struct lane *);
void vitals_contact(struct lane *); /* a broker has answered something */
/* An error from the consumer's main queue. True: it is a topic's, and told here. */
bool vitals_topic_error(struct lane *, const rd_kafka_message_t *);
/* The client's own: a broker that does not answer, or refuses. */
void vitals_client_error(struct lane *, rd_kafka_resp_err_t, const char *text);
/* What offsets.h brought: the topics asked about, each with its err. */
void vitals_answer(struct lane *, const rd_kafka_topic_partition_list_t *);

/* A partition's reader met an error; or a record, or the end. */
void vitals_unreadable(struct lane *, struct partition *, const char *error);
void vitals_readable(struct lane *, struct partition *);
/* For how long an open transaction has held records back, ms; 0: none does. Once a second. */
int64_t vitals_held_ms(struct lane *, struct partition *);
/* The partition's end, open transactions included, as the last fetch saw it; -1: not known. */
int64_t vitals_high(const struct lane *, const struct partition *, int64_t *ret_low);

#endif
