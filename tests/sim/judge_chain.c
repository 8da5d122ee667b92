/* What was committed of each partition, and what the ledger says of it. */
#include "tests/sim/judging.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/broker.h"
#include "tests/sim/judge.h"
#include "tests/sim/world.h"

#define CHAINS_MAX 512

static struct chain chains[CHAINS_MAX];
static size_t n_chains;

struct chain *chain_of(const char *topic, int32_t partition) {
    for (size_t i = 0; i < n_chains; i++)
        if (chains[i].partition == partition && strcmp(chains[i].topic, topic) == 0)
            return &chains[i];
    if (n_chains == CHAINS_MAX) world_fail("the judge knows no more partitions");
    struct chain *c = &chains[n_chains++];
    snprintf(c->topic, sizeof c->topic, "%s", topic);
    c->partition = partition;
    return c;
}

bool chain_has_end(const struct chain *c, int64_t end) {
    for (size_t i = 0; i < c->n_ends; i++)
        if (c->ends[i] == end) return true;
    return false;
}

/* The last word of the metadata, where it names ends: 17,5,8. */
static void take_ends(struct chain *c, const char *text) {
    int64_t end = 0;
    while (*text >= '0' && *text <= '9') {
        char *after;
        end += strtoll(text, &after, 10);
        if (*after == ':') return; /* a claim, which ends the metadata */
        if (!chain_has_end(c, end)) {
            GROW(c->ends, c->n_ends);
            c->ends[c->n_ends++] = end;
        }
        text = after + (*after == ',');
    }
}

/* taken:reader, and what is alone in work: 2:0123456789abcdef:r17+1*2 */
static void take_claim(struct commit *k, const char *text) {
    unsigned taken;
    char kind;
    int n = sscanf(text, " %u:%16" SCNx64 ":%c%" SCNd64 "+%" SCNd64, &taken, &k->reader, &kind,
                   &k->alone, &k->n_alone);
    if (n != 2 && n != 5) world_fail("P3: a claim of no known form: %s", text);
}

static void take_commit(const char *topic, int32_t partition, int64_t offset, struct str metadata,
                        uint64_t process, bool owner, bool gone) {
    struct chain *c = chain_of(topic, partition);
    struct commit now = {.offset = offset};
    char text[4200], form[8];
    int rest = 0, n = 0;
    snprintf(text, sizeof text, "%.*s", (int)metadata.n, metadata.p);
    if (sscanf(text, "%7s %" SCNu64 "%n@%" SCNu64 "%n", form, &now.seq, &n, &now.era, &n) < 2 ||
        sscanf(text + n, " %64s%n", now.head, &rest) != 1)
        world_fail("%s/%d is committed with metadata of no known form: %s", topic, (int)partition,
                   text);
    rest += n;
    world_say("commit of %s/%d by p%" PRIu64 ": %" PRId64 ", %" PRIu64 " %.8s%s", topic,
              (int)partition, process, offset, now.seq, now.head, text + rest);
    if (!owner)
        world_fail("P3: %s/%d is settled by p%" PRIu64 ", which does not own it", topic,
                   (int)partition, process);
    const struct commit *before = c->n_commits ? &c->commits[c->n_commits - 1] : NULL;
    bool anew = !gone && c->n_old && c->n_commits == c->n_old;
    if (gone && c->n_commits > c->n_old) return; /* it is a nuisance to nobody */
    if (anew && before->seq && now.era <= before->era)
        world_fail("P1: %s/%d is settled as if it had not been made anew", topic, (int)partition);
    if (before && !anew && offset < before->offset)
        world_fail("P3: the offset of %s/%d goes back from %" PRId64 " to %" PRId64, topic,
                   (int)partition, before->offset, offset);
    if (before && now.seq < before->seq)
        world_fail("P3: the chain of %s/%d goes back from %" PRIu64 " to %" PRIu64, topic,
                   (int)partition, before->seq, now.seq);
    GROW(c->commits, c->n_commits);
    c->commits[c->n_commits++] = now;
    const char *word = text + rest;
    if (strcmp(form, "rs2") == 0 && *word) {
        take_claim(&c->commits[c->n_commits - 1], word);
        word = strchr(word + 1, ' ');
    }
    c->commits[c->n_commits - 1].busy = text[rest];
    if (word && *word) take_ends(c, word + 1);
    if (!gone) return;
    world_say("it stands nowhere: its topic is gone");
    c->n_old = c->n_commits;
    c->old = c->old || now.seq;
}

void judge_anew(const char *topic) {
    for (int32_t p = 0; p < broker_partitions(topic); p++) {
        struct chain *c = chain_of(topic, p);
        c->n_old = c->n_commits;
        c->old = c->n_commits && c->commits[c->n_commits - 1].seq;
    }
}

bool judge_may_expire(const char *topic, int32_t partition) {
    const struct chain *c = chain_of(topic, partition);
    return c->n_commits > c->n_old && !c->commits[c->n_commits - 1].busy;
}

/* What the group is known to have settled: an offset that has expired is still in the ledger, and
 * one whose transaction is committed may still be on its way. */
int64_t judge_settled_to(const char *topic, int32_t partition) {
    int64_t at = broker_committed(topic, partition, NULL);
    const struct chain *c = chain_of(topic, partition);
    int64_t last = c->n_commits > c->n_old ? c->commits[c->n_commits - 1].offset : 0;
    return at < last ? last : at;
}

/* A committed offset is where an entry ends, of the number and hash that the metadata names. */
static void judge_commits(const struct chain *c) {
    for (size_t i = 0; i < c->n_commits; i++) {
        const struct commit *k = &c->commits[i];
        if (k->seq > c->n_links)
            world_fail("P3: %s/%d is committed with %" PRIu64 " entries, and has %zu", c->topic,
                       (int)c->partition, k->seq, c->n_links);
        if (!k->seq) continue;
        const struct link *l = &c->links[k->seq - 1];
        if (strcmp(l->hash, k->head) != 0 || l->next != k->offset)
            world_fail("P3: %s/%d is committed at %" PRId64 " by entry %" PRIu64
                       ", which ends at %" PRId64 "%s",
                       c->topic, (int)c->partition, k->offset, k->seq - 1, l->next,
                       strcmp(l->hash, k->head) != 0 ? " and has another hash" : "");
    }
}

void chains_judge(void) {
    for (size_t i = 0; i < n_chains; i++) {
        judge_commits(&chains[i]);
        judge_anchored(&chains[i]);
    }
}

void judge_begin(void) {
    broker_watch(take_commit);
}
